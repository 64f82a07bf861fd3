"""Pictures of large images, scaled down so that a page can hold many of them. Small ones stay as they are.

Where images differ in size, each is scaled by itself and lies in the upper left corner of a square of one size.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from salt.stacks import all_sides, differ_in_size, listed_stack, subset

PICTURE_PIXELS = 2**16  # of a scaled picture, about: four times what it has in a gallery
PICTURE_SIDE = 2**8  # of the square in which images lie that differ in size


def picture_scale(height: int, width: int) -> int:
    """By how much sides are divided; 1 for images of 256 x 256 and smaller."""
    return max(1, math.ceil(math.sqrt(height * width / PICTURE_PIXELS)))


def scaled_size(height: int, width: int, scale: int | None = None) -> tuple[int, int]:
    """Height and width of a scaled picture."""
    scale = scale or picture_scale(height, width)
    return -(-height // scale), -(-width // scale)


def some_of(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some of the images or masks: an array, but of those that differ in size a `Stack` in any case."""
    return subset(images, rows) if differ_in_size(images) else images[rows]


def one_or_all(values: np.ndarray, tiles: np.ndarray) -> int | list[int]:
    """A number that is the same for all tiles, or else a list of those of `tiles`."""
    return int(values[0]) if (values == values[0]).all() else values[tiles].tolist()


def picture_size(images: np.ndarray) -> tuple[int, int]:
    """Height and width of the pictures of images that `scaled_images` makes."""
    return (PICTURE_SIDE, PICTURE_SIDE) if differ_in_size(images) else scaled_size(*images.shape[1:3])


def picture_scales(images: np.ndarray) -> np.ndarray:
    """By how much the sides of each image's picture are divided, int `[N]`."""
    if differ_in_size(images):
        return -(-all_sides(images).max(axis=1) // PICTURE_SIDE)
    return np.full(len(images), picture_scale(*images.shape[1:3]))


def scaled_images(images: np.ndarray) -> np.ndarray:
    """Images uint8 `[N, H, W]` or `[N, H, W, 3]` in the size of pictures: the mean of what a pixel stands for."""
    if differ_in_size(images):
        return in_squares(images, scaled_image)
    if scaled_size(*images.shape[1:3]) == images.shape[1:3]:
        return images
    return np.stack([scaled_image(image, picture_scale(*images.shape[1:3])) for image in images])


def scaled_image(image: np.ndarray, scale: int) -> np.ndarray:
    """An image with sides divided by `scale`."""
    height, width = scaled_size(image.shape[0], image.shape[1], scale)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def highest_values(maps: np.ndarray) -> np.ndarray:
    """Masks or probabilities uint8 `[N, H, W]` in the size of pictures: the highest of the pixels that one stands for,
    so that nothing small is hidden."""
    if differ_in_size(maps):
        return in_squares(maps, highest_pixels)
    scale = picture_scale(*maps.shape[1:3])
    return maps if scale == 1 else np.stack([highest_pixels(each, scale) for each in maps])


def highest_pixels(values: np.ndarray, scale: int) -> np.ndarray:
    """A map `[H, W]` with sides divided by `scale`; the highest values stay."""
    if scale == 1:
        return values
    for _ in range(2):  # whole rows at a time: a tenth of the time of `reduceat`, whose pieces are short
        highest = values[::scale].copy()
        for offset in range(1, scale):
            part = values[offset::scale]
            np.maximum(highest[: len(part)], part, out=highest[: len(part)])
        values = highest.T
    return values


def framed(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images `[N, H, W, ...]` of at most this height and width, each in the upper left corner of a frame of it."""
    frames = np.zeros((len(images), *size, *images.shape[3:]), np.uint8)
    for frame, image in zip(frames, images, strict=True):
        frame[: image.shape[0], : image.shape[1]] = image
    return frames


def in_squares(images: np.ndarray, scaled: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Pictures of images that differ in size, each in the corner of a square."""
    made = [scaled(image, scale) for image, scale in zip(images, picture_scales(images).tolist(), strict=True)]
    return framed(listed_stack(made), (PICTURE_SIDE, PICTURE_SIDE))
