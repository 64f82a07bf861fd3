"""report.html, about a training run or two of them side by side.

Scores on it are exact at all 255 levels, from a table of every tile's score; the pictures of the probabilities have 32
levels (16 in a page that would become larger than 15 MB).
"""

import math
import pathlib

import numpy as np
import pandas as pd

from desk.pages.html import LOSSLESS, pack_sheets, pack_table, sheet_layout, write_page
from desk.paths import AnyPath
from desk.score_tables import verdict
from desk.scoring import one_competition, open_run, score_runs
from salt.artifacts import Oof
from salt.competition import find_competition
from salt.data import read_train
from salt.description import Competition
from salt.levels import LARGEST_AREA, level_table, same_tiles, scores_with_area
from salt.metrics import Metric
from salt.scoring import compare_oof

SIZE_LIMIT = 15_000_000  # bytes of the page
TEXT_SIZE = 500_000  # of them for what is neither table nor picture
QUALITIES = ((70, 32), (50, 32), (30, 16))  # WebP quality of the images, levels of the probabilities


def write_report(run: AnyPath, second: AnyPath | None, data: AnyPath) -> pathlib.Path:
    """Makes the page of one or two runs, report.html in the folder of the first; returns its path.

    Args:
        run, second: see `find_run`; `second` may be None.
        data: folder of the competition that they were trained on.
    """
    runs = [open_run(name) for name in (run, second) if name is not None]
    folders, manifests, oofs = ([getattr(run, name) for run in runs] for name in ("folder", "manifest", "oof"))
    competition = one_competition(runs)
    images, depths = competition_tiles(data, oofs[0].ids, competition)
    scores = [score_runs([run], run.oof, data) for run in runs]
    comparison = compare_oof(oofs[0], oofs[1], competition.metric) if second is not None else None
    order = oofs[0].ids.argsort()
    oofs, images, depths = same_tiles(oofs), images[order], depths[order]
    order, tables = worst_first(oofs, scores, competition.metric)
    oofs = [oof._replace(**{name: array[order] for name, array in oof._asdict().items()}) for oof in oofs]
    images, depths, oof = images[order], depths[order], oofs[0]
    facts = {
        "runs": [
            {"score": score, "history": read_history(folder), "settings": settings(manifest)}
            for score, folder, manifest in zip(scores, folders, manifests, strict=True)
        ],
        "comparison": None if comparison is None else {**comparison, "verdict": verdict(comparison)},
        "tiles": {
            "id": oof.ids.tolist(),
            "fold": oof.fold.tolist(),
            "salt": oof.masks.sum(axis=(1, 2), dtype=int).tolist(),
            "depth": [None if math.isnan(depth) else depth for depth in depths],
        },
        "pixels": oof.masks[0].size,
        "sheets": sheet_layout(images.shape[1]),
    }
    small = {}
    for index, table in enumerate(tables):
        small[f"precision-{index}"] = pack_table(table[0][order])
        small[f"areas-{index}"] = pack_table(table[1][order])
    texts = {
        "title": scores[0]["run_id"] if second is None else "A {}, B {}".format(*(score["run_id"] for score in scores)),
        "summary": f"{scores[0]['tiles']:,} tiles held out, nested score {scores[0]['nested_score']:.4f}",
    }
    path = folders[0] / "report.html"
    for quality, levels in QUALITIES:
        blobs = {**small, **pack_pictures(images, oofs, quality, levels)}
        if sum(map(len, blobs.values())) * 4 / 3 < SIZE_LIMIT - TEXT_SIZE:  # in base64
            break
    write_page(path, "report", texts, {**facts, "levels": levels}, blobs)
    return path


def competition_tiles(data: AnyPath, ids: np.ndarray, competition: Competition) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 `[N, H, W]`, and depths, float `[N]`, of the training tiles `ids`."""
    tiles = read_train(find_competition([data], competition))
    order = tiles.ids.argsort()
    places = np.searchsorted(tiles.ids[order], ids).clip(max=len(order) - 1)
    unknown = tiles.ids[order][places] != ids
    if unknown.any():
        raise ValueError(
            f"--data {data}: has no tile {str(ids[unknown][0])!r}, nor {unknown.sum() - 1} others of the run's "
            f"{len(ids)}; give the competition that the run was trained on"
        )
    return tiles.images[order][places], tiles.depths[order][places]


def worst_first(
    oofs: list[Oof], scores: list[dict], metric: Metric
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """The order in which the first run's worst tiles come first, and of each run its tables in the order of the ids.

    Returns:
        int `[N]`, and for each run `(tenths, areas)`: average precision in tenths, uint8 `[N, 255]`, and predicted
        pixels, uint16 `[N, 255]`, no more than decide about any minimum area.
    """
    tables = [level_table(oof, metric) for oof in oofs]
    score = scores[0]
    found = scores_with_area(tables[0], score["best_level"], score["minimum_area"])
    order = np.argsort(metric.in_steps(found), kind="stable")
    packed = [
        (np.rint(10 * table.scores).astype(np.uint8), np.minimum(table.areas, LARGEST_AREA + 1).astype(np.uint16))
        for table in tables
    ]
    return order, packed


def pack_pictures(images: np.ndarray, oofs: list[Oof], quality: int, levels: int) -> dict[str, bytes]:
    """The sheets of images and of probabilities; the highest bit of a probability's value is the truth."""
    blobs = pack_sheets("images", images, quality)
    for index, oof in enumerate(oofs):
        blobs |= pack_sheets(f"probabilities-{index}", oof.probabilities // (256 // levels) + 128 * oof.masks, LOSSLESS)
    return blobs


def read_history(folder: pathlib.Path) -> list[dict]:
    """The learning curves in history.csv, a list of rows; without the file, an empty one."""
    path = folder / "history.csv"
    if not path.is_file():
        return []
    table = pd.read_csv(path)
    names = ("fold", "epoch", "loss", "score", "val_loss", "val_score")
    if missing := [name for name in names if name not in table.columns]:
        raise ValueError(f"{path}: lacks the columns {', '.join(missing)}; fetch the run again")
    rows = table[list(names)].astype(object)
    return rows.where(table[list(names)].notna(), None).to_dict("records")


def settings(manifest: dict) -> dict:
    """What a reader wants to know about a run at first sight."""
    if "imported" in manifest:  # its settings say nothing but the folds
        return {"model": f"imported from {manifest['imported'].get('source')}"}
    config = manifest["config"]
    kept = ("model", "encoder", "padded_size", "tta", "seed")
    return {**{name: config[name] for name in kept if name in config}, "minutes": manifest.get("minutes")}
