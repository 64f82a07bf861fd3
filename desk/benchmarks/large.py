"""Group `large`: the memory that a competition of large images takes, each piece of work in a process of its own.

The images are Carvana's in size and number of colours, 1918 x 1280. All of them have files, rows and out-of-fold
predictions of their own, but only a few are drawn: the files are links to those of the few, and the predictions repeat
a few. So it is their number that is measured, and no network has to predict all of them: the smallest one predicts some
of the whole competition, and eight times as many, to show whether the memory grows.
"""

import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import cast

import numpy as np

from desk.benchmarks.growth import peak_memory, run_apart
from salt.tiles import Tiles

COUNT = 10_000  # images
MADE = 16  # of them that are drawn
PREDICTED = (8, 64)  # of them that a network predicts: even the smallest one takes seconds for each
QUICK = (24, (2, 4))  # both of a run that only shows that it works
SMALLEST: dict = dict(filter_scaling=1, depth=2, padded_size=256, tta="none")  # the network that predicts
STEPS = 32  # of the training
BLUR = 15.0  # pixels, by which the border of a made prediction is uncertain
RUN_ID = "large"
NEED_KERAS = ("folds", "train", "predict")  # of the pieces; it takes 1 GB or so


def measure_large(quick: bool, count: int = COUNT) -> list[dict]:
    """Runs each piece of work on 10,000 images, or on a few, in a temporary folder; prints each when it is done.

    Args:
        quick: whether a few images are enough.
        count: how many otherwise.

    Returns:
        Dicts of `work`, `items`, `seconds`, and `peak`, the most bytes that its process held. No process has children.

    Raises:
        LocalRunError: a process failed; with what it printed last.
    """
    count, predicted = QUICK if quick else (count, PREDICTED)
    found = []
    with tempfile.TemporaryDirectory(prefix="salt-large-") as folder:
        for work in PIECES:
            for items in predicted if work == "predict" else (count,):
                keras = "keras" if work in NEED_KERAS else ""
                row = {"work": work, "items": items, **run_apart(__name__, work, count, keras, folder, str(items))}
                print(f"{work} {items:,}: {row['seconds']:.1f} s, peak {row['peak'] / 1e9:.2f} GB", flush=True)
                found.append(row)
    return found


def run_piece(work: str, count: int, folder: str, items: str) -> None:
    """Does a piece of work in this process and prints its seconds and its peak memory.

    Args:
        work: its name.
        count: how many images the competition has.
        folder: of all pieces.
        items: how many images are predicted.
    """
    linked_competition(pathlib.Path(folder) / "data", count)
    start = time.perf_counter()
    PIECES[work](pathlib.Path(folder), int(items))
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak_memory()}))


def linked_competition(folder: pathlib.Path, count: int) -> None:
    """Writes a competition of so many training images, and test images of the same files, unless it is there."""
    from salt.carvana import COMPETITION
    from salt.layout import encode_picture
    from salt.scenes import synthetic_scenes
    from salt.submission import mask_texts
    from salt.tables import fill_row

    if (folder / "sample_submission.csv").is_file():
        return
    for name in ("train", "test"):
        (folder / name).mkdir(parents=True)
    tiles, table = synthetic_scenes(COMPETITION, MADE, seed=0, progress=False), COMPETITION.train_table
    texts = [text for each in mask_texts(tiles.known_masks(), table, COMPETITION) for text in each]
    for index, image in enumerate(tiles.images):
        (folder / f"{index}.jpg").write_bytes(encode_picture("a.jpg", image))
    rows, sample = [",".join(table.columns)], [",".join(COMPETITION.sample_submission.columns)]
    for number in range(count):
        for part in ("train", "test"):
            os.link(folder / f"{number % MADE}.jpg", folder / part / f"{image_name(part, number)}.jpg")
        rows.append(",".join(fill_row(table, image_name("train", number), "", texts[number % MADE])))
        sample.append(",".join(fill_row(COMPETITION.sample_submission, image_name("test", number), "", "1 1")))
    (folder / "train_masks.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "sample_submission.csv").write_text("\n".join(sample) + "\n", encoding="utf-8")


def image_name(part: str, number: int) -> str:
    """The name of an image, one of 16 of a car."""
    return f"{part}{number // 16:05}_{number % 16 + 1:02}"


def read_large(folder: pathlib.Path) -> Tiles:
    """The training tiles, whose pixels stay on the disk."""
    from salt.carvana import COMPETITION
    from salt.competition import find_competition
    from salt.data import read_train

    return read_train(find_competition([folder / "data"], COMPETITION), progress=False)


def deal_folds(folder: pathlib.Path, items: int) -> None:
    """Reads the tables, looks at the size of every file, describes the tiles and deals the folds."""
    from salt.config import preset
    from salt.cross_validation import split_tiles
    from salt.data import describe_tiles

    tiles = read_large(folder)
    describe_tiles(tiles)
    split_tiles(preset("smoke"), tiles, folder)


def train_large(folder: pathlib.Path, items: int) -> None:
    """The same, and a few steps of the `smoke` preset's network on squares of 256 pixels."""
    from salt.config import preset
    from salt.cross_validation import split_tiles
    from salt.networks import build_model
    from salt.task import SegmentationTask
    from salt.training import FoldJob, fold_batches

    tiles, config = read_large(folder), preset("smoke", padded_size=256)
    batches, _ = fold_batches(FoldJob(config, tiles, split_tiles(config, tiles, folder)), 0)
    task = SegmentationTask(build_model(config, None, 3, 1), config, tiles.competition.metric)
    task.compile("adam")
    batches.order = batches.order[: STEPS * config.batch_size]
    task.fit(batches, epochs=1, verbose=0)


def predict_large(folder: pathlib.Path, items: int) -> None:
    """Reads the test images, predicts some by overlapping windows of 256 pixels, and writes their probabilities."""
    from salt.artifacts import write_probabilities
    from salt.carvana import COMPETITION
    from salt.competition import find_competition
    from salt.config import preset
    from salt.data import read_test
    from salt.inference import predict_run
    from salt.networks import build_model
    from salt.stacks import subset

    tiles = read_test(find_competition([folder / "data"], COMPETITION), progress=False)
    config = preset("smoke", **SMALLEST)
    model = build_model(config, None, 3, 1)
    images, blank = subset(tiles.images, slice(items)), tiles.blank()[:items]
    write_probabilities(folder / "predicted.npz", tiles.ids[:items], predict_run([model], images, blank, config))


def write_large(folder: pathlib.Path, items: int) -> None:
    """Writes a run's out-of-fold predictions of all images: their masks, moved aside and blurred."""
    import cv2

    from salt.artifacts import Oof, write_manifest, write_oof
    from salt.config import preset
    from salt.stacks import Stack

    tiles = read_large(folder)
    masks = tiles.known_masks()
    moved = [np.roll(masks[row], 5 + 4 * row, axis=1) for row in range(min(MADE, len(masks)))]
    made = [cv2.GaussianBlur(np.uint8(230) * mask + np.uint8(8), (0, 0), BLUR) for mask in moved]
    probabilities = cast(np.ndarray, Stack(lambda row: made[row % MADE], masks.shape))
    fold = (np.arange(len(masks)) % 5).astype(np.int8)
    write_oof(folder / RUN_ID / "oof.npz", Oof(tiles.ids, fold, probabilities, masks))
    config = preset("smoke", folds=5, train_folds=(0, 1, 2, 3, 4))
    write_manifest(folder / RUN_ID, RUN_ID, "train", config, competition=tiles.competition.slug)


def submit_large(folder: pathlib.Path, items: int) -> None:
    """Reads these predictions as those of the test images, writes a submission of them all, and checks it."""
    from salt.artifacts import read_oof
    from salt.carvana import COMPETITION
    from salt.postprocess import postprocess
    from salt.submission import check_submission, write_submission

    oof, path = read_oof(folder / RUN_ID / "oof.npz"), folder / "submission.csv"
    ids = [image_name("test", number) for number in range(items)]
    write_submission(path, ids, postprocess(oof.probabilities, 128, 100), COMPETITION)
    check_submission(path, folder / "data" / "sample_submission.csv", COMPETITION)


def score_large(folder: pathlib.Path, items: int) -> None:
    """Scores these predictions, as scripts/score_oof.py does."""
    from desk.scoring import open_run, score_runs

    run = open_run(folder / RUN_ID)
    score_runs([run], run.oof)


def report_large(folder: pathlib.Path, items: int) -> None:
    """Makes the page of this run, as scripts/report.py does; most of its time it counts the pixels again."""
    from desk.pages.report import write_report

    write_report(folder / RUN_ID, None, folder / "data")


PIECES: dict[str, Callable[[pathlib.Path, int], None]] = {
    "folds": deal_folds,
    "train": train_large,
    "write": write_large,
    "submission": submit_large,
    "score": score_large,
    "report": report_large,
    "predict": predict_large,
}
