"""Synthetic images for any competition that is described: objects of each class on a ground, and whole competitions.

They serve to try the toolkit without Kaggle's data. They have the size, channels, classes and files of the real ones,
and nothing else of them: a score on them says nothing about the competition. Each class has a shape and a colour of its
own; a fifth of the images is empty.
"""

import hashlib
import pathlib

import cv2
import numpy as np
from tqdm import tqdm

from salt.description import Competition
from salt.layout import check_vacant, write_competition
from salt.stacks import listed_stack
from salt.tiles import Tiles

EMPTY_SHARE = 0.2  # of the images
MOST_OBJECTS = 4  # of a class in an image
VARIED_SIDES = (64, 321)  # pixels, from and below: heights and widths where the competition's images differ in size
GRAIN = 12.0  # grey levels, the deviation of the noise


def synthetic_scene(competition: Competition, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes one image and its mask, which depend on `seed` and `index` alone.

    Args:
        competition: whose size, channels and classes they have.
        seed: int >= 0, of the whole competition.
        index: int >= 0, the image's number in it.

    Returns:
        uint8 `[H, W]` or `[H, W, 3]`, and uint8 {0, 1} `[H, W]` or `[H, W, C]`.
    """
    rng = np.random.default_rng((seed, index))
    height, width = size = competition.size or tuple(rng.integers(*VARIED_SIDES, 2).tolist())
    count = len(competition.classes)
    ground = cv2.resize(
        rng.uniform(70, 150, (6, 6, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    scene = ground + GRAIN * rng.standard_normal((height, width, 1), np.float32)
    masks = np.zeros((*size, count), np.uint8)
    if rng.random() >= EMPTY_SHARE:
        for label in range(count):
            colour = 140 + 90 * np.cos(2 * np.pi * (label / count + np.arange(3) / 3))  # of the class
            if count > 1 and rng.random() < 0.5:
                continue
            for _ in range(rng.integers(1, MOST_OBJECTS + 1)):
                draw_object(rng, masks[..., label], label)
            scene[masks[..., label] > 0] = colour
    image = np.clip(np.rint(scene), 0, 255).astype(np.uint8)
    image = image if competition.channels == 3 else np.ascontiguousarray(image[..., 0])
    return image, masks[..., 0] if count == 1 else masks


def draw_object(rng: np.random.Generator, mask: np.ndarray, label: int) -> None:
    """Draws an ellipse or a turned rectangle into a mask `[H, W]`, at most a third of its height large."""
    height, width = mask.shape
    centre = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    sides = (float(rng.uniform(0.1, 0.34) * height), float(rng.uniform(0.05, 0.2) * height))
    drawn = np.zeros(mask.shape, np.uint8)
    box = (centre, sides, float(rng.uniform(0, 180)))
    if label % 2:
        cv2.ellipse(drawn, box, 1, -1)
    else:
        cv2.fillPoly(drawn, [np.rint(cv2.boxPoints(box)).astype(np.int32)], 1)
    np.maximum(mask, drawn, out=mask)


def synthetic_scenes(competition: Competition, count: int, seed: int, first: int = 0, progress: bool = True) -> Tiles:
    """Makes the images number `first` to `first + count - 1` of the competition `seed`, as `Tiles` with masks."""
    made = tqdm(range(first, first + count), desc="synthetic images", unit="image", disable=not progress)
    images, masks = zip(*[synthetic_scene(competition, seed, index) for index in made], strict=True)
    ids = np.array([scene_id(seed, index) for index in range(first, first + count)])
    stack = listed_stack if competition.size is None else np.stack
    return Tiles(ids, stack(images), stack(masks), np.full(count, np.nan), competition)


def scene_id(seed: int, index: int) -> str:
    """The id of an image: nine hexadecimal digits and a number, as of things seen from four of 16 sides.

    So there are things enough for folds that keep each of them together, even among a dozen images.
    """
    return f"{hashlib.sha256(f'{seed}-{index // 4}'.encode()).hexdigest()[:9]}_{4 * (index % 4) + 1:02}"


def write_scenes(
    competition: Competition, folder: str | pathlib.Path, train: int, test: int, seed: int = 0, progress: bool = True
) -> pathlib.Path:
    """Writes a synthetic competition in the layout of the one that is described; returns `folder`.

    Args:
        competition: whose layout it has.
        folder: where to write; it must not exist, or be empty.
        train: how many training images.
        test: how many test images.
        seed: int >= 0.
        progress: whether to show progress bars.

    Raises:
        DataError: `folder` exists and is not empty.
    """
    check_vacant(folder)  # before the work, not after it
    tiles = synthetic_scenes(competition, train + test, seed, progress=progress)
    return write_competition(
        competition,
        folder,
        *(tiles.ids[:train], tiles.images[:train], tiles.known_masks()[:train], tiles.depths[:train]),
        *(tiles.ids[train:], tiles.images[train:], tiles.depths[train:]),
    )
