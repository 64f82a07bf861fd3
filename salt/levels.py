"""What each level and each minimum area is worth: the choice of the best ones, and nested choice. numpy only.

All follows from counts of pixels, which are made once (`count_oof`): at any level they give every metric's score. Of
several classes, `[N, H, W, C]`, each of a tile's C masks has a score of its own, and each class its own level and
minimum area: the score is the mean over classes, so that each can be chosen by itself. A tile's masks are never parted:
it is in one fold with all of them.
"""

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from salt.artifacts import Oof
from salt.metrics import Metric, pixels_from_level, scores_from_pixels, tile_parts
from salt.stacks import Stack, subset

HALF_LEVEL = 128  # the level of probability 0.5
FLAT_MARGIN = 0.002  # a level with a score this close to the best is as good: much less than a score's standard error
ROUNDING = 1e-12  # scores that differ by less are equal: a sum of floats depends on their order
SINGLE_FOLD_PARTS = 5  # into which the tiles of a single held-out fold are split, for the nested choice
# The largest minimum area that is considered: one of so many of a mask's pixels, and at least so many pixels.
LARGEST_AREA_SHARE = 34
LARGEST_AREA = 300
COUNT_THREADS = 2  # unpacking releases the interpreter lock, counting does not; as many parts are in memory
AREA_LIMIT = 65_534  # and at most: pages keep areas as 16-bit numbers


class ScoringError(ValueError):
    """Predictions that cannot be scored."""


class OofCounts(NamedTuple):
    """Out-of-fold predictions as counts of pixels.

    Attributes:
        ids: str `[N]`.
        fold: int `[N]`.
        at_least: int32 `[N, 2, 256]`, of several classes `[N, C, 2, 256]`: see `pixels_from_level`.
        masks: uint32 `[N]`, checksums of the true masks, by which other predictions are known to be of the same.
    """

    ids: np.ndarray
    fold: np.ndarray
    at_least: np.ndarray
    masks: np.ndarray


Predictions = TypeVar("Predictions", Oof, OofCounts)
OfClasses = int | list[int]  # a level or an area: one number, or a list with one for each of several classes


class LevelTable(NamedTuple):
    """What N tiles score at each level. Of several classes, each array has an axis `[C]` after the tiles.

    Attributes:
        scores: float64 `[N, 255]`, of each tile at each level.
        areas: int32 `[N, 255]`, pixels that are predicted.
        emptied: float64 `[N]`, the score of the tile if it is predicted empty.
        truth: int32 `[N]`, pixels of the true mask.
        pixels: int32 `[N]`, all of them.
    """

    scores: np.ndarray
    areas: np.ndarray
    emptied: np.ndarray
    truth: np.ndarray
    pixels: np.ndarray

    def of_tiles(self, which: np.ndarray) -> "LevelTable":
        """The table of some tiles, by places or as a bool `[N]`."""
        return LevelTable(*(array[which] for array in self))

    def of_class(self, number: int) -> "LevelTable":
        """The table of one of several classes."""
        return LevelTable(*(array[:, number] for array in self))


def count_oof(oof: Oof | OofCounts) -> OofCounts:
    """Counts the pixels of all tiles once, for all levels and metrics; counts are returned as they are.

    Raises:
        ScoringError: no tiles, or arrays of different lengths.
        MetricError: probabilities or masks of a wrong type, shape or value.
    """
    if isinstance(oof, OofCounts):
        return oof
    lengths = {name: len(getattr(oof, name)) for name in ("ids", "fold", "probabilities", "masks")}
    if lengths["masks"] == 0:
        raise ScoringError("masks: no tiles to score; was no fold trained?")
    if len(set(lengths.values())) > 1:
        raise ScoringError(f"arrays of different lengths: {', '.join(f'{name} {n}' for name, n in lengths.items())}")
    if not isinstance(oof.probabilities, Stack) and not isinstance(oof.masks, Stack):
        at_least, sums = pixels_from_level(oof.probabilities, oof.masks), mask_checksums(oof.masks)
        return OofCounts(oof.ids, np.asarray(oof.fold), at_least, sums)

    def count(part: slice) -> tuple[np.ndarray, np.ndarray]:
        masks = np.asarray(oof.masks[part])  # read once for both
        return pixels_from_level(np.asarray(oof.probabilities[part]), masks), mask_checksums(masks)

    parts = list(tile_parts(oof.masks))
    with ThreadPoolExecutor(COUNT_THREADS) as pool:
        found = list(tqdm(pool.map(count, parts), desc="counts", unit="part", total=len(parts), mininterval=2))
    at_least, sums = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return OofCounts(oof.ids, np.asarray(oof.fold), at_least, sums)


def mask_checksums(masks: np.ndarray) -> np.ndarray:
    """A checksum of each tile's masks, uint32 `[N]`."""
    sums = [
        zlib.crc32(np.packbits(mask != 0).tobytes()) for part in tile_parts(masks) for mask in np.asarray(masks[part])
    ]
    return np.array(sums, np.uint32)


def checksums(oof: Oof | OofCounts) -> np.ndarray:
    """A checksum of each tile's true masks, uint32 `[N]`."""
    return oof.masks if isinstance(oof, OofCounts) else mask_checksums(oof.masks)


def level_table(oof: Oof | OofCounts, metric: Metric) -> LevelTable:
    """What out-of-fold predictions score at each level by a metric."""
    at_least = count_oof(oof).at_least
    truth = at_least[..., 1, 0]
    return LevelTable(
        scores=scores_from_pixels(at_least, metric),
        areas=at_least[..., 1:].sum(axis=-2, dtype=np.int32),
        emptied=metric.score(np.zeros_like(truth), np.zeros_like(truth), truth),
        truth=truth,
        pixels=at_least[..., 0].sum(axis=-1, dtype=np.int32),
    )


def choose_level_and_area(
    table: LevelTable, metric: Metric, level: int = 0, area: int = -1
) -> tuple[OfClasses, OfClasses]:
    """The best level, then the best minimum area at that level; choosing both together would overfit more.

    Args:
        table: of N tiles.
        metric: that the table is of.
        level: 1 to 255, if it is given already, for all classes; 0: the best.
        area: in pixels, if it is given already, for all classes; -1: the best.

    Returns:
        Level, 1 to 255, and area in pixels; see `choose_level` and `choose_minimum_area`. Of several classes two lists,
        with a level and an area for each.
    """
    if table.truth.ndim > 1:
        classes = [table.of_class(number) for number in range(table.truth.shape[1])]
        levels, areas = zip(*(choose_level_and_area(each, metric, level, area) for each in classes), strict=True)
        return list(levels), list(areas)
    level = level or choose_level(score_curve(table.scores, metric))
    return level, choose_minimum_area(table, level, metric) if area < 0 else area


def score_curve(scores: np.ndarray, metric: Metric) -> np.ndarray:
    """The score at each level, float64 `[255]`, of scores `[N, 255]` or `[N, C, 255]`; equal ones are exactly equal, if
    the metric has steps."""
    return metric.mean(scores.reshape(-1, 255))


def mean_score(scores: np.ndarray, metric: Metric) -> float:
    """The mean over tiles, and classes if there are several; of a metric with steps, equal scores are exactly equal."""
    return float(metric.mean(scores.ravel()))


def tile_scores(scores: np.ndarray) -> np.ndarray:
    """The score of each tile, float64 `[N]`: the mean over its classes, if there are several."""
    return scores.reshape(len(scores), -1).mean(axis=1)


def choose_level(curve: np.ndarray) -> int:
    """The level of the highest score; of several, the one nearest to probability 0.5."""
    levels = 1 + np.flatnonzero(curve >= curve.max() - ROUNDING)
    return int(levels[np.abs(levels - HALF_LEVEL).argmin()])


def flat_levels(curve: np.ndarray, level: int) -> list[int]:
    """The first and the last of the levels around `level` whose scores are all within `FLAT_MARGIN` of its own."""
    worse = curve < curve[level - 1] - FLAT_MARGIN - ROUNDING  # a score exactly at the margin is within it
    below, above = np.flatnonzero(worse[: level - 1]), np.flatnonzero(worse[level:])
    first = int(below[-1]) + 2 if below.size else 1
    last = int(above[0]) + level if above.size else 255
    return [first, last]


def choose_minimum_area(table: LevelTable, level: int, metric: Metric) -> int:
    """The minimum area that scores best at a level, of several the smallest; the same one for all classes of the table.

    Returns:
        Pixels, 0 to `largest_area` of the masks; 0 changes nothing.
    """
    areas, largest = table.areas[..., level - 1].ravel(), largest_area(table)
    # How much each mask's score gains if it is predicted empty.
    gain = metric.in_steps((table.emptied - table.scores[..., level - 1]).ravel())
    gains = np.bincount(np.minimum(areas, largest), weights=gain, minlength=largest + 1).cumsum()
    gains = np.array([0, *gains[:-1]])  # tiles with fewer pixels than the area become empty
    return int(np.argmax(gains >= gains.max() - len(areas) * ROUNDING))


def largest_area(table: LevelTable) -> int:
    """The largest minimum area that is considered for a table's masks, in pixels."""
    return min(AREA_LIMIT, max(LARGEST_AREA, int(table.pixels.max()) // LARGEST_AREA_SHARE))


def at_level(values: np.ndarray, level: OfClasses) -> np.ndarray:
    """Of values `[N, 255]` or `[N, C, 255]` those at a level, or at the level of each class: `[N]` or `[N, C]`."""
    if isinstance(level, list):
        return values[:, np.arange(len(level)), np.array(level) - 1]
    return values[..., level - 1]


def scores_with_area(table: LevelTable, level: OfClasses, area: OfClasses) -> np.ndarray:
    """Scores `[N]` or `[N, C]` at a level, where masks with less than `area` predicted pixels are predicted empty."""
    return np.where(at_level(table.areas, level) < area, table.emptied, at_level(table.scores, level))


def nested_parts(oof: Oof | OofCounts, seed: int) -> np.ndarray:
    """The part of each tile, int `[N]`: a part is scored with the level and area chosen on all other parts.

    The parts are the folds. The tiles of a single fold are split into `SINGLE_FOLD_PARTS` parts at random, by the order
    of their ids, so that runs with another order of the tiles have the same parts.
    """
    fold = np.asarray(oof.fold)
    if len(np.unique(fold)) > 1:
        return fold
    dealt = np.random.default_rng(seed).permutation(len(fold)) % SINGLE_FOLD_PARTS
    return dealt[np.argsort(np.argsort(oof.ids))]


def nested_choice(table: LevelTable, parts: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Scores each part with the level and area that are chosen on the other parts.

    Args:
        table: of N tiles.
        parts: int `[N]`, at least two different ones.
        metric: that the table is of.

    Returns:
        Scores, float64 `[N]`; in which tiles anything is predicted, bool `[N]` (of several classes both `[N, C]`);
        and for each part a dict of `part`, `tiles`, `level`, `minimum_area`, the last two lists of several classes.
    """
    scores, found, choices = np.empty(table.truth.shape), np.empty(table.truth.shape, bool), []
    for part in np.unique(parts):
        inside = parts == part
        level, area = choose_level_and_area(table.of_tiles(~inside), metric)
        own = table.of_tiles(inside)
        scores[inside] = scores_with_area(own, level, area)
        found[inside] = at_level(own.areas, level) >= np.maximum(area, 1)
        choices.append({"part": int(part), "tiles": int(inside.sum()), "level": level, "minimum_area": area})
    return scores, found, choices


def same_tiles(oofs: Sequence[Predictions], common: bool = False) -> list[Predictions]:
    """Several runs' predictions of the same tiles, all in the order of the ids.

    Args:
        oofs: out-of-fold predictions, or their counts, in any order.
        common: whether to take the tiles that all have; else different tiles are an error.

    Raises:
        ScoringError: other tiles, folds or masks in the runs, or a tile twice.
    """
    for number, oof in enumerate(oofs, 1):
        if len(np.unique(oof.ids)) < len(oof.ids):
            raise ScoringError(f"run {number}: {len(oof.ids) - len(np.unique(oof.ids))} tiles are in it twice")
    shared = oofs[0].ids
    for oof in oofs[1:]:
        shared = np.intersect1d(shared, oof.ids)
    shared = np.sort(shared)
    if not len(shared):
        raise ScoringError("the runs have no tile in common; take runs over the same data and folds")
    if not common and max(len(oof.ids) for oof in oofs) > len(shared):
        raise ScoringError(
            f"the runs have {' and '.join(str(len(oof.ids)) for oof in oofs)} tiles, {len(shared)} of them in common; "
            "train the same folds in all, or compare two on their common tiles"
        )
    rows = [np.argsort(oof.ids)[np.searchsorted(np.sort(oof.ids), shared)] for oof in oofs]
    ordered = [
        oof._replace(**{name: subset(array, order) for name, array in oof._asdict().items()})
        for oof, order in zip(oofs, rows, strict=True)
    ]
    for number, oof in enumerate(ordered[1:], 2):
        for name, of in (("fold", lambda each: each.fold), ("masks", checksums)):
            unequal = np.flatnonzero(of(ordered[0]) != of(oof))
            if unequal.size:
                raise ScoringError(
                    f"{name}: runs 1 and {number} differ in {unequal.size} of {len(shared)} tiles, the first of them "
                    f"{shared[unequal[0]]}; take runs with the same data, folds and seed"
                )
    return ordered
