"""Group `large`: the memory that a competition of large images takes, each piece of work in a process of its own.

The images are Carvana's in size, 1918 x 1280 in colour; their files are links to a few made ones, since it is their
number that counts. Predictions are made of a few of them, for they are written one by one.
"""

import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import cast

import numpy as np
from tqdm import tqdm

from desk.benchmarks.growth import peak_memory, run_apart
from desk.paths import BUILD
from salt.tiles import Tiles

COUNT = 10_000  # images
MADE = 8  # of them that are drawn
PREDICTED = 8
SCORED = 200


def measure_large(quick: bool) -> list[dict]:
    """Runs each piece of work on 10,000 images, or on a few.

    Returns:
        Dicts of `work`, `items`, `seconds`, and `peak`, the most bytes that its process held.

    Raises:
        LocalRunError: a process failed; with what it printed last.
    """
    count = 24 if quick else COUNT
    works = tqdm(PIECES, desc="large", unit="process", leave=False)
    return [{"work": work, **run_apart(__name__, work, count, "keras")} for work in works]


def run_piece(work: str, count: int) -> None:
    """Does a piece of work in this process and prints how many images it was about, its seconds and its peak memory."""
    folder = linked_competition(count)
    start = time.perf_counter()
    items = PIECES[work](folder)
    print(json.dumps({"items": items, "seconds": time.perf_counter() - start, "peak": peak_memory()}))


def linked_competition(count: int) -> pathlib.Path:
    """A folder of so many training images, whose files are links to a few; kept in build/large/."""
    from salt.carvana import COMPETITION
    from salt.layout import encode_picture
    from salt.scenes import synthetic_scenes
    from salt.submission import mask_texts
    from salt.tables import fill_row

    folder = BUILD / "large" / str(count)
    if (folder / "train_masks.csv").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "train").mkdir(parents=True)
    tiles, table = synthetic_scenes(COMPETITION, MADE, seed=0, progress=False), COMPETITION.train_table
    texts = [text for each in mask_texts(tiles.known_masks(), table, COMPETITION) for text in each]
    for index, image in enumerate(tiles.images):
        (folder / f"{index}.jpg").write_bytes(encode_picture("a.jpg", image))
    lines = [",".join(table.columns)]
    for number in range(count):
        name = f"car{number // 16:05}_{number % 16 + 1:02}"
        os.link(folder / f"{number % MADE}.jpg", folder / "train" / f"{name}.jpg")
        lines.append(",".join(fill_row(table, name, "", texts[number % MADE])))
    (folder / "train_masks.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def read_large(folder: pathlib.Path) -> Tiles:
    """The tiles of the folder, whose pixels stay on the disk."""
    from salt.carvana import COMPETITION
    from salt.competition import find_competition
    from salt.data import read_train

    return read_train(find_competition([folder], COMPETITION), progress=False)


def train_large(folder: pathlib.Path) -> int:
    """Reads, deals the folds, and trains 8 steps of the `smoke` preset's network on squares of 256 pixels."""
    from salt.config import preset
    from salt.cross_validation import split_tiles
    from salt.task import SegmentationTask, TileBatches
    from salt.training import FoldJob, fold_batches
    from salt.unet import build_model

    tiles, config = read_large(folder), preset("smoke", padded_size=256)
    fold = split_tiles(config, tiles, folder)
    batches, _ = fold_batches(FoldJob(config, tiles, fold), 0)
    task = SegmentationTask(build_model(config, None, 3, 1), config, tiles.competition.metric)
    task.compile("adam")
    few = TileBatches(batches.images, batches.masks, config.batch_size, batches.seed, window=batches.window)
    few.order = few.order[: 8 * config.batch_size]
    task.fit(few, epochs=1, verbose=0)
    return len(tiles.ids)


def predict_large(folder: pathlib.Path) -> int:
    """Predicts a few images by windows with the flip, and writes them one by one."""
    from salt.artifacts import write_probabilities
    from salt.config import preset
    from salt.inference import predict_run
    from salt.stacks import subset
    from salt.unet import build_model

    tiles, config = read_large(folder), preset("smoke", padded_size=256)
    rows = slice(min(PREDICTED, len(tiles.ids)))
    predicted = predict_run(
        [build_model(config, None, 3, 1)], subset(tiles.images, rows), np.zeros(PREDICTED, bool), config
    )
    write_probabilities(folder / "predicted.npz", tiles.ids[rows], predicted)
    return len(tiles.ids[rows])


def score_large(folder: pathlib.Path) -> int:
    """Counts and scores out-of-fold predictions, of which each tile's are read one by one."""
    from salt.artifacts import Oof, read_oof, read_probabilities, write_oof
    from salt.scoring import score_oof
    from salt.stacks import Stack, subset

    tiles = read_large(folder)
    rows = slice(min(SCORED, len(tiles.ids)))
    ids, some = read_probabilities(folder / "predicted.npz")
    masks = subset(tiles.known_masks(), rows)
    probabilities = cast(np.ndarray, Stack(lambda index: some[index % len(ids)], masks.shape))
    write_oof(folder / "oof.npz", Oof(tiles.ids[rows], np.arange(len(masks)) % 5, probabilities, masks))
    score_oof(read_oof(folder / "oof.npz"), tiles.competition.metric)
    return len(masks)


PIECES: dict[str, Callable[[pathlib.Path], int]] = {
    "train": train_large,
    "predict": predict_large,
    "score": score_large,
}
