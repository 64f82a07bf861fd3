"""report.html, about a training run or two of them side by side.

Scores on it are exact at all 255 levels, from a table of every mask's score (of a metric without steps, to 1 / 65,535);
the pictures of the probabilities have 32 levels, or 16. Where a page would still become larger than 15 MB, the worst
tiles have pictures and the others have none. Large images are scaled, but for some with their true pixels.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from desk.errors import ConfigurationError
from desk.pages.html import LOSSLESS, SHEET_TILES, encode_sheet, pack_table, sheet_layout, write_page
from desk.pages.scaled import (
    framed,
    highest_values,
    one_or_all,
    picture_scales,
    picture_size,
    scaled_images,
    some_of,
)
from desk.paths import AnyPath
from desk.score_tables import verdict
from desk.scoring import ScoredRun, one_competition, open_run, own_mosaics, score_runs
from salt.competition import find_competition
from salt.data import read_train
from salt.description import Competition
from salt.levels import LevelTable, count_oof, largest_area, level_table, same_tiles, scores_with_area
from salt.metrics import Metric
from salt.scoring import compare_oof
from salt.stacks import all_sides, differ_in_size, listed_stack, subset

SIZE_LIMIT = 15_000_000  # bytes of the page
TEXT_SIZE = 500_000  # of them for what is neither table nor picture
QUALITIES = ((70, 32), (50, 32), (30, 16))  # WebP quality of the images, levels of the probabilities
LEAST_SHARE = 0.25  # of the pictures: where fewer fit, only the lowest quality is tried; it halves them at most
FINE_STEPS = 65_535  # to which scores are kept whose metric has no steps
TRUE_QUALITY = 80  # of WebP, for images with their true pixels
TRUE_TILES = 4  # the worst ones, that a page of scaled pictures holds with their true pixels


class Shown(NamedTuple):
    """The masks in the order of the page, the worst first, and where their pixels are found.

    Attributes:
        order: int `[M]`, places among all N * C masks, those of a tile one after the other.
        tile: int `[M]`, places in the order of the ids; of several classes each tile is there with each of them.
        label: int `[M]`, number of the class.
        image: int `[M]`, number of the tile's image among `images`.
        images: int `[N]`, places of the tiles in the order in which they are first shown.
    """

    order: np.ndarray
    tile: np.ndarray
    label: np.ndarray
    image: np.ndarray
    images: np.ndarray


class Sources(NamedTuple):
    """Where the pixels come from, stacks that may be read when asked for.

    Attributes:
        images: of all training tiles.
        rows: int `[N]`, the rows there of the tiles in the order of the ids.
        runs: their probabilities and masks.
        orders: of each run the rows of the tiles in the order of the ids.
    """

    images: np.ndarray
    rows: np.ndarray
    runs: list[ScoredRun]
    orders: list[np.ndarray]

    def some_images(self, tiles: np.ndarray) -> np.ndarray:
        """Images uint8 `[n, H, W]` or `[n, H, W, 3]` of tiles; a `Stack` of those that differ in size."""
        return some_of(self.images, self.rows[tiles])

    def some_maps(self, run: int, tiles: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and masks, uint8 `[n, H, W]`, of tiles and their classes; or a `Stack`, as the images are."""
        oof, rows = self.runs[run].oof, self.orders[run][tiles]
        probabilities, masks = (of_labels(some_of(maps, rows), labels) for maps in (oof.probabilities, oof.masks))
        return probabilities, masks


def of_labels(maps: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of maps `[n, H, W, C]` each one of the class `labels[n]`; maps `[n, H, W]` as they are."""
    if maps.ndim == 3:
        return maps
    if differ_in_size(maps):
        return listed_stack([each[..., label] for each, label in zip(maps, labels, strict=True)])
    return maps[np.arange(len(maps)), :, :, labels]


def write_report(
    run: AnyPath,
    second: AnyPath | None,
    data: AnyPath,
    true_pixels: Sequence[str] = (),
    mosaics: AnyPath | None = None,
) -> pathlib.Path:
    """Makes the page of one or two runs, report.html in the folder of the first; returns its path.

    Args:
        run, second: see `find_run`; `second` may be None.
        data: folder of the competition that they were trained on.
        true_pixels: ids of tiles that are shown with their true pixels, if pictures are scaled; else the worst ones.
        mosaics: table of the competition's slices, for the section of neighbours; None: that of the run, if it has one.

    Raises:
        ConfigurationError: runs of several competitions, or an id that is none of theirs.
    """
    runs = [open_run(name) for name in (run, second) if name is not None]
    competition = one_competition(runs)
    metric, ids = competition.metric, np.sort(runs[0].oof.ids)
    images, rows, depths = competition_tiles(data, ids, competition)
    counts = [count_oof(run.oof) for run in runs]
    scores = [
        score_runs([run], run.oof, data, mosaics or own_mosaics(run), counted)
        for run, counted in zip(runs, counts, strict=True)
    ]
    comparison = compare_oof(counts[0], counts[1], metric) if second is not None else None
    counts = same_tiles(counts)
    tables = [level_table(counted, metric) for counted in counts]
    shown = worst_first(tables[0], scores[0], metric)
    sources = Sources(images, rows, runs, [run.oof.ids.argsort() for run in runs])
    masks = subset(runs[0].oof.masks, sources.orders[0])
    scales, pixels = picture_scales(masks), all_sides(masks).prod(axis=1)
    true_tiles = chosen_tiles(true_pixels, ids, shown, scales)
    true_size = all_sides(masks)[true_tiles].max(axis=0, initial=1).tolist()
    largest = largest_area(tables[0])
    facts = {
        "runs": [
            {"score": score, "history": read_history(run.folder), "settings": settings(run.manifest)}
            for score, run in zip(scores, runs, strict=True)
        ],
        "comparison": None if comparison is None else {**comparison, "verdict": verdict(comparison)},
        "metric": {"name": metric.name, "label": metric.label},
        "full": metric.steps or FINE_STEPS,
        "largestArea": largest,
        "target": competition.target,
        "labels": list(competition.classes) if tables[0].truth.ndim > 1 else [],
        "channels": competition.channels,
        "tiles": {
            "id": ids[shown.tile].tolist(),
            "label": shown.label.tolist(),
            "image": shown.image.tolist(),
            "fold": counts[0].fold[shown.tile].tolist(),
            "salt": tables[0].truth.ravel()[shown.order].tolist(),
            "depth": None if depths is None else [None if math.isnan(each) else each for each in depths[shown.tile]],
        },
        "pixels": one_or_all(pixels, shown.tile),
        "scale": one_or_all(scales, shown.tile),
        "sheets": sheet_layout(*picture_size(masks)),
        "trueLevels": QUALITIES[-1][1],
        "trueSize": {"height": true_size[0], "width": true_size[1]},
    }
    small = {}
    for index, table in enumerate(tables):
        small[f"scores-{index}"] = pack_table(whole_scores(table.scores.reshape(-1, 255)[shown.order], metric))
        areas = np.minimum(table.areas.reshape(-1, 255)[shown.order], largest + 1)
        small[f"areas-{index}"] = pack_table(areas.astype(np.uint16))
    texts = {
        "title": scores[0]["run_id"] if second is None else "A {}, B {}".format(*(score["run_id"] for score in scores)),
        "summary": f"{scores[0]['tiles']:,} tiles held out, nested {metric.label} {scores[0]['nested_score']:.4f}",
        "target": competition.target,
        "exactness": "exact" if metric.steps else f"exact to 1 / {FINE_STEPS:,}",
    }
    small |= pack_true_pixels(sources, shown, true_tiles, (true_size[0], true_size[1]))
    room = (SIZE_LIMIT - TEXT_SIZE) * 3 // 4 - sum(map(len, small.values()))  # in base64 3 bytes become 4
    share = 1.0
    for quality, levels in QUALITIES:
        if share < LEAST_SHARE and levels > QUALITIES[-1][1]:
            continue
        pictures, share = pack_pictures(sources, shown, quality, levels, room)
        if share == 1:
            break
    path = runs[0].folder / "report.html"
    write_page(path, "report", texts, {**facts, "levels": levels}, small | pictures)
    return path


def competition_tiles(
    data: AnyPath, ids: np.ndarray, competition: Competition
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Images of all training tiles, the rows there of the tiles `ids`, int `[N]`, and their depths, float `[N]`; None
    where the competition has none."""
    tiles = read_train(find_competition([data], competition))
    order = tiles.ids.argsort()
    places = np.searchsorted(tiles.ids[order], ids).clip(max=len(order) - 1)
    unknown = tiles.ids[order][places] != ids
    if unknown.any():
        raise ValueError(
            f"--data {data}: has no tile {str(ids[unknown][0])!r}, nor {unknown.sum() - 1} others of the run's "
            f"{len(ids)}; give the competition that the run was trained on"
        )
    rows = order[places]
    return tiles.images, rows, None if competition.depths_table is None else tiles.depths[rows]


def worst_first(table: LevelTable, score: dict, metric: Metric) -> Shown:
    """The order in which the worst masks come first, at the best level and area."""
    found = scores_with_area(table, score["best_level"], score["minimum_area"])
    order = np.argsort(metric.in_steps(found).ravel(), kind="stable")
    tile, label = np.divmod(order, found.size // len(found))
    images, first = np.unique(tile, return_index=True)
    images = images[np.argsort(first)]
    number = np.empty(len(images), int)
    number[images] = np.arange(len(images))
    return Shown(order, tile, label, number[tile], images)


def whole_scores(scores: np.ndarray, metric: Metric) -> np.ndarray:
    """Scores as whole numbers, uint8 or uint16: of a metric's steps, or of 1 / `FINE_STEPS`."""
    full = metric.steps or FINE_STEPS
    return np.rint(full * scores).astype(np.uint8 if full < 256 else np.uint16)


def pack_pictures(
    sources: Sources, shown: Shown, quality: int, levels: int, room: int
) -> tuple[dict[str, bytes], float]:
    """The sheets of images and of probabilities, as many as there is room for, but at least the first ones.

    The highest bit of a probability's value is the truth. An image is needed no later than its first mask.

    Returns:
        bytes by id; and the share of the sheets that are among them, 1 if all fit.
    """
    blobs: dict[str, bytes] = {}
    sheets = range(-(-len(shown.tile) // SHEET_TILES))
    for sheet in tqdm(sheets, desc="pictures", unit="sheet", mininterval=1):
        part = slice(sheet * SHEET_TILES, (sheet + 1) * SHEET_TILES)
        made = {}
        if len(tiles := shown.images[part]):
            made[f"images-{sheet}"] = encode_sheet(scaled_images(sources.some_images(tiles)), quality)
        for run in range(len(sources.runs)):
            maps = sources.some_maps(run, shown.tile[part], shown.label[part])
            packed = packed_maps(highest_values(maps[0]), highest_values(maps[1]), levels)
            made[f"probabilities-{run}-{sheet}"] = encode_sheet(packed, LOSSLESS)
        room -= sum(map(len, made.values()))
        if room < 0 and sheet:
            return blobs, sheet / len(sheets)
        blobs |= made
    return blobs, 1.0 if room >= 0 else LEAST_SHARE  # it is the only sheet, and another quality may fit


def packed_maps(probabilities: np.ndarray, masks: np.ndarray, levels: int) -> np.ndarray:
    """Probabilities in `levels` steps and, as the highest bit, the truth: uint8."""
    return probabilities // (256 // levels) + 128 * masks


def chosen_tiles(names: Sequence[str], ids: np.ndarray, shown: Shown, scales: np.ndarray) -> np.ndarray:
    """Places of the tiles that are shown with their true pixels: none where no picture is scaled.

    Raises:
        ConfigurationError: a name that is none of the tiles'.
    """
    if scales.max() == 1:
        return shown.images[:0]
    if unknown := sorted(set(names) - set(ids.tolist())):
        raise ConfigurationError(f"--pixels: {unknown[0]} is none of the run's {len(ids)} tiles")
    return np.flatnonzero(np.isin(ids, list(names))) if names else shown.images[scales[shown.images] > 1][:TRUE_TILES]


def pack_true_pixels(sources: Sources, shown: Shown, tiles: np.ndarray, size: tuple[int, int]) -> dict[str, bytes]:
    """Pictures of some tiles with their true pixels, one a sheet of that size; the probabilities in 16 levels."""
    blobs = {}
    for tile in tiles:
        masks = np.flatnonzero(shown.tile == tile)
        image = framed(sources.some_images(np.array([tile])), size)
        blobs[f"true-images-{shown.image[masks[0]]}"] = encode_sheet(image, TRUE_QUALITY, columns=1)
        for run in range(len(sources.runs)):
            for place in masks:
                maps = sources.some_maps(run, shown.tile[place : place + 1], shown.label[place : place + 1])
                packed = packed_maps(framed(maps[0], size), framed(maps[1], size), QUALITIES[-1][1])
                blobs[f"true-probabilities-{run}-{place}"] = encode_sheet(packed, LOSSLESS, columns=1)
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
