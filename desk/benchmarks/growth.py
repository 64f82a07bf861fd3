"""Group `growth`: how time and memory grow with the number of tiles, each piece of work in a process of its own."""

import json
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from desk.errors import LocalRunError
from desk.paths import BUILD, ROOT

FACTORS = (1, 4, 16)
BASE = 1125  # tiles, or lines of the program that is flattened; TGS has 16 times as many test tiles
# Keras is imported before the work, where it is needed: its time does not grow.
START = """
import importlib, sys
module, keras, work, items, *more = sys.argv[1:]
if keras:
    from desk.machine import start_keras
    start_keras()
importlib.import_module(module).run_piece(work, int(items), *more)
"""


def measure_growth(quick: bool) -> list[dict]:
    """Runs each piece of work with 1, 4 and 16 times as many items.

    Returns:
        Dicts of `work`, `items`, `seconds`, and `peak`, the most bytes that its process held.

    Raises:
        LocalRunError: a process failed; with what it printed last.
    """
    base = 20 if quick else BASE
    pieces = [(work, factor * base) for work in PIECES for factor in FACTORS[: 2 if quick else None]]
    found = []
    for work, items in tqdm(pieces, desc="growth", unit="process", leave=False):
        keras = "keras" if work in ("train", "predict") else ""
        found.append({"work": work, "items": items, **run_apart(__name__, work, items, keras)})
    return found


def run_apart(module: str, work: str, items: int, keras: str, *more: str) -> dict:
    """Runs a piece of work in a process of its own and returns what it tells of itself.

    Args:
        module: whose function `run_piece` does it.
        work, items, *more: its arguments.
        keras: empty where it needs no Keras.

    Raises:
        LocalRunError: the process failed; with what it printed last.
    """
    command = [sys.executable, "-c", START, module, keras, work, str(items), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise LocalRunError(f"{work} of {items:,}: status {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(found: list[dict]) -> list[str]:
    """What grew, as a Markdown table: seconds and peak memory a column of items; the last column is the growth."""
    lines = [
        "| work | items | seconds | peak memory, GB | seconds an item, by those of the row above |",
        "|---|---|---|---|---|",
    ]
    before: dict | None = None
    for row in found:
        each = ""
        if before is not None and before["work"] == row["work"]:
            each = f"{row['seconds'] / row['items'] / (before['seconds'] / before['items']):.2f}"
        lines.append(f"| {row['work']} | {row['items']:,} | {row['seconds']:.2f} | {row['peak'] / 1e9:.2f} | {each} |")
        before = row
    return lines


def run_piece(work: str, items: int) -> None:
    """Does a piece of work in this process and prints its seconds and its peak memory as JSON."""
    prepared = PIECES[work](items)
    start = time.perf_counter()
    prepared()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": peak_memory()}))


def peak_memory() -> int:
    """The most bytes that this process has held. (`ru_maxrss` counts the parent in.)"""
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_tiles(items: int) -> Callable[[], object]:
    """Test tiles from a zip, with every check."""
    from desk.benchmarks.reading import synthetic_competition
    from desk.competitions import load_competition
    from salt.competition import find_competition
    from salt.data import read_test

    folder = synthetic_competition(40, items)
    return lambda: read_test(find_competition(folder, load_competition()), progress=False)


def score_tiles(items: int) -> Callable[[], object]:
    """Out-of-fold predictions: thresholds, areas, nested scores, intervals."""
    from desk.benchmarks.masks import noisy_probabilities, wavy_masks
    from salt.artifacts import Oof
    from salt.metrics import AVERAGE_PRECISION
    from salt.scoring import score_oof

    masks = wavy_masks(items)
    ids, fold = np.array([f"{number:010x}" for number in range(items)]), np.arange(items, dtype=np.int8) % 5
    oof = Oof(ids, fold, noisy_probabilities(masks), masks)
    return lambda: score_oof(oof, AVERAGE_PRECISION)


def train_tiles(items: int) -> Callable[[], object]:
    """One epoch of the `smoke` preset's network, compilation included."""
    from desk.benchmarks.networks import made_tiles, segmentation_task
    from salt.config import preset
    from salt.task import TileBatches

    config = preset("smoke")
    task, batches = segmentation_task(config), TileBatches(*made_tiles(items), config.batch_size, seed=(0,))
    return lambda: task.fit(batches, epochs=1, verbose=0)


def predict_tiles(items: int) -> Callable[[], object]:
    """Two networks of the `smoke` preset with the flip."""
    from desk.benchmarks.networks import made_tiles
    from salt.config import preset
    from salt.inference import predict_probabilities
    from salt.networks import build_model

    config = preset("smoke")
    networks, (images, _) = [build_model(config) for _ in range(2)], made_tiles(items)
    return lambda: predict_probabilities(networks, images, "flip", config.padded_size, config.padding, progress=False)


def report_tiles(items: int) -> Callable[[], object]:
    """The page of a run with so many tiles held out."""
    from desk.benchmarks.masks import noisy_probabilities
    from desk.benchmarks.reading import synthetic_competition
    from desk.competitions import load_competition
    from desk.pages.report import write_report
    from salt.artifacts import Oof, write_manifest, write_oof
    from salt.competition import find_competition
    from salt.config import preset
    from salt.data import read_train

    data, run = synthetic_competition(items, 10), BUILD / "benchmark" / f"run-{items}"
    if not (run / "manifest.json").is_file():
        tiles = read_train(find_competition(data, load_competition()), progress=False)
        fold, masks = np.arange(items, dtype=np.int8) % 5, tiles.known_masks()
        write_oof(run / "oof.npz", Oof(tiles.ids, fold, noisy_probabilities(masks), masks))
        (run / "history.csv").write_text("fold,epoch,step,loss,score,val_loss,val_score\n", encoding="utf-8")
        write_manifest(run, f"train-{items}", "train", preset("smoke", folds=5, train_folds=(0, 1, 2, 3, 4)))
    return lambda: write_report(run, None, data)


def build_lines(items: int) -> Callable[[], object]:
    """A program of so many lines, flattened into a notebook."""
    from desk.benchmarks.programs import written_program
    from flattener.command import run_command

    folder = written_program(items)
    arguments = ["--entry", str(folder / "main.py"), "--out", str(folder / "grown.ipynb")]
    return lambda: run_command(arguments, ROOT)


PIECES: dict[str, Callable[[int], Callable[[], object]]] = {
    "read": read_tiles,
    "score": score_tiles,
    "train": train_tiles,
    "predict": predict_tiles,
    "report": report_tiles,
    "build": build_lines,
}
