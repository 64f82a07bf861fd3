"""The score of out-of-fold predictions, as an estimate of the leaderboard before anything is submitted. numpy only.

Random folds score like the public leaderboard (both have neighbours of their tiles among the training tiles); the
private one was about 0.02 higher. Every score has an interval; two runs closer than that need a paired comparison. The
interval covers the choice of tiles, not the training: the same settings trained with another seed score otherwise.

A level and a minimum area chosen on the very tiles that are scored give too high a score. The *nested* scores do not:
each tile is scored with the level and area chosen on the other folds.
"""

from typing import NamedTuple

import numpy as np

from salt.artifacts import Oof
from salt.metrics import coverage_class, pixels_from_level, sweep_from_pixels
from salt.postprocess import best_minimum_area

HALF_LEVEL = 128  # the level of probability 0.5
FLAT_MARGIN = 0.002  # a level with a score this close to the best is as good: much less than a score's standard error
BOOTSTRAP_CHUNK = 250  # draws at a time: 8 MB of counts for 4,000 tiles
SINGLE_FOLD_PARTS = 5  # into which the tiles of a single held-out fold are split, for the nested choice
DETECTABLE = 1.96 + 0.84  # standard errors of a difference that is detected at the 5 % level with a power of 80 %
DEPTH_GROUPS = 5  # of equal size
CALIBRATION_BINS = 10  # of equal width in probability

# (out-of-fold score, public score, private score or None) of solutions that published them; random folds on all 4,000
# training tiles. Left out: out-of-fold scores with pseudo-labels, which raise them by more than the leaderboard's.
LEADERBOARD_TRIPLES = (
    # github.com/ak110/kaggle_salt, submissions.csv
    *((0.839, 0.839, 0.860), (0.856, 0.853, 0.874), (0.857, 0.854, 0.875), (0.858, 0.857, 0.878)),
    *((0.863, 0.859, 0.881), (0.865, 0.862, 0.883), (0.866, 0.867, 0.886)),
    # github.com/SeuTao/TGS-Salt-Identification-Challenge-2018-_4th_place_solution, README
    *((0.873, 0.873, 0.891), (0.868, 0.870, 0.889)),
    # alexisrozhkov.github.io/kaggle-salt-writeup
    *((0.859, 0.866, 0.881), (0.865, 0.872, 0.887)),
    # github.com/neptune-ai/open-solution-salt-identification, which names no private scores
    *((0.794, 0.798, None), (0.807, 0.801, None), (0.802, 0.809, None), (0.804, 0.813, None)),
    *((0.819, 0.824, None), (0.829, 0.837, None), (0.830, 0.845, None), (0.853, 0.849, None)),
    # github.com/laserstonewall/kaggle_salt: the best leaderboard score, and the middle of .774 to .776
    (0.775, 0.781, 0.8125),
    # a late submission made with GraphRAG: its own validation, and the leaderboard
    (0.708, 0.694, 0.726),
)
# 97.5 % quantiles of Student's t, for 1 to 20 degrees of freedom.
STUDENT_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


class ScoringError(ValueError):
    """Predictions that cannot be scored."""


class LevelTable(NamedTuple):
    """All that scoring needs of the pixels.

    Attributes:
        precision: float64 `[N, 255]`, average precision of each tile at each level.
        areas: int32 `[N, 255]`, pixels predicted as salt.
        empty: bool `[N]`, tiles without salt.
    """

    precision: np.ndarray
    areas: np.ndarray
    empty: np.ndarray


def score_oof(oof: Oof, draws: int = 2000, seed: int = 0) -> dict:
    """Scores out-of-fold predictions: at probability 0.5, at the best level and area, and nested.

    Args:
        oof: ids, fold `[N]`, probabilities uint8 `[N, H, W]`, masks `[N, H, W]`.
        draws: bootstrap samples of N tiles each.
        seed: of the bootstrap, and of the parts of a single fold.

    Returns:
        A dict that JSON can hold:

        - `tiles`: N;
        - `best_level`, 1 to 255; of several best ones that nearest to 128. `flat_levels`: first and last of the levels
          around it with a score within 0.002 of the best. `minimum_area`: the best one at that level;
        - four scores, each with `_standard_error` and `_interval` (95 %, `[low, high]`, bootstrap over tiles):
          `half_score` at level 128; `best_score` at the best level; `chosen_score` at that level and the minimum area,
          which is too high, since both are chosen on these tiles; `nested_score`, which is not;
        - `choices`: for each fold (or part of a single fold) `part`, `tiles`, and the `level` and `minimum_area` chosen
          on the others;
        - `folds`: for each fold `fold`, `tiles`, `score`;
        - `classes`: for each coverage class 0 to 10 `class`, `tiles`, `share`, `score` (None without tiles);
        - `confusion`: tiles `empty_as_empty`, `empty_as_salt`, `salt_as_empty`, `salt_as_salt` (truth first);
        - `draws`, `seed`.

        Folds, classes and confusion are the nested ones.

    Raises:
        ScoringError: fewer than two tiles, arrays of different lengths, folds that are no whole numbers from 0, or too
            few draws.
        MetricError: probabilities or masks of a wrong type, shape or value.

    Example:
        >>> score = score_oof(read_oof("runs/a/oof.npz"))
        >>> masks = postprocess(probabilities, score["best_level"], score["minimum_area"])
    """
    check_scorable(oof, draws)
    table, fold = level_table(oof), np.asarray(oof.fold)
    curve = score_curve(table.precision)
    level, area = choose_level_and_area(table)
    nested, found, choices = nested_choice(table, nested_parts(oof, seed))
    columns = {
        "half": table.precision[:, HALF_LEVEL - 1],
        "best": table.precision[:, level - 1],
        "chosen": precision_with_area(table, level, area),
        "nested": nested,
    }
    means = bootstrap_means(np.stack(list(columns.values()), axis=1), draws, seed)
    scores = {}
    for (name, precision), samples in zip(columns.items(), means.T, strict=True):
        scores[f"{name}_score"] = mean_precision(precision)
        scores[f"{name}_standard_error"] = float(samples.std(ddof=1))
        scores[f"{name}_interval"] = np.percentile(samples, [2.5, 97.5]).tolist()
    classes, salt = coverage_class(oof.masks), ~table.empty
    return {
        "tiles": len(nested),
        "best_level": level,
        "flat_levels": flat_levels(curve, level),
        "minimum_area": area,
        **scores,
        "choices": choices,
        "folds": [
            {"fold": int(k), "tiles": int(np.sum(fold == k)), "score": mean_precision(nested[fold == k])}
            for k in np.unique(fold)
        ],
        "classes": [
            {
                "class": number,
                "tiles": int(np.sum(classes == number)),
                "share": float(np.mean(classes == number)),
                "score": mean_precision(nested[classes == number]) if np.any(classes == number) else None,
            }
            for number in range(11)
        ],
        "confusion": {
            "empty_as_empty": int(np.sum(~salt & ~found)),
            "empty_as_salt": int(np.sum(~salt & found)),
            "salt_as_empty": int(np.sum(salt & ~found)),
            "salt_as_salt": int(np.sum(salt & found)),
        },
        "draws": int(draws),
        "seed": int(seed),
    }


def compare_oof(first: Oof, second: Oof, common: bool = False, draws: int = 2000, seed: int = 0) -> dict:
    """Whether a second run is better than a first one, tile by tile: a paired bootstrap.

    Tiles differ far more than runs do, so that a difference of 0.01 can be significant in a paired comparison although
    each score has an interval of +- 0.03. Each run is scored nested (see `score_oof`), so that neither gains from a
    level or area that fits these very tiles.

    Args:
        first, second: out-of-fold predictions of the same tiles, in any order, each held out in the same fold.
        common: whether to compare on the tiles that both have; else different tiles are an error.
        draws: bootstrap samples.
        seed: of the bootstrap, and of the parts of a single fold.

    Returns:
        A dict that JSON can hold:

        - `tiles`; `first_score`, `second_score`;
        - `difference`, second minus first, its `standard_error` and 95 % `interval`; `probability`: share of the
          samples in which the second is better, ties counted half;
        - `tiles_to_settle`: the number of tiles with which a true difference of this size is detected at the 5 % level
          with a power of 80 % (None for no difference);
        - `classes`: for each coverage class `class`, `tiles`, `difference` (None without tiles) and `part`, its
          contribution to the whole difference;
        - `largest`: the ten tiles that changed most, `id`, `coverage`, `first`, `second` (average precision);
        - `draws`, `seed`.

    Raises:
        ScoringError: other tiles, folds or masks in the two runs, a tile twice, or too few draws.
        MetricError: probabilities or masks of a wrong type, shape or value.
    """
    first, second = same_tiles([first, second], common)
    precisions = []
    for oof in (first, second):
        check_scorable(oof, draws)
        precisions.append(nested_choice(level_table(oof), nested_parts(oof, seed))[0])
    change = precisions[1] - precisions[0]
    means = bootstrap_means(change[:, None], draws, seed)[:, 0]
    scores = [mean_precision(precision) for precision in precisions]
    difference, detectable = scores[1] - scores[0], DETECTABLE * float(change.std())
    classes = coverage_class(first.masks)
    changed = np.argsort(-np.abs(np.rint(10 * change)), kind="stable")[:10]
    return {
        "tiles": len(change),
        "first_score": scores[0],
        "second_score": scores[1],
        "difference": difference,
        "standard_error": float(means.std(ddof=1)),
        "interval": np.percentile(means, [2.5, 97.5]).tolist(),
        "probability": float(np.mean(means > 1e-12) + 0.5 * np.mean(np.abs(means) <= 1e-12)),
        "tiles_to_settle": int(np.ceil((detectable / difference) ** 2)) if abs(difference) > 1e-12 else None,
        "classes": [
            {
                "class": number,
                "tiles": int(np.sum(classes == number)),
                "difference": float(change[classes == number].mean()) if np.any(classes == number) else None,
                "part": float(change[classes == number].sum() / len(change)),
            }
            for number in range(11)
        ],
        "largest": [
            {
                "id": str(first.ids[index]),
                "coverage": float(np.mean(first.masks[index] != 0)),
                "first": float(precisions[0][index]),
                "second": float(precisions[1][index]),
            }
            for index in changed
        ],
        "draws": int(draws),
        "seed": int(seed),
    }


def same_tiles(oofs: list[Oof], common: bool = False) -> list[Oof]:
    """Several runs' predictions of the same tiles, all in the order of the ids; see `compare_oof`."""
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
    oofs = [
        Oof(oof.ids[order], np.asarray(oof.fold)[order], oof.probabilities[order], oof.masks[order])
        for oof, order in zip(oofs, rows, strict=True)
    ]
    for number, oof in enumerate(oofs[1:], 2):
        for name in ("fold", "masks"):
            unequal = getattr(oofs[0], name) != getattr(oof, name)
            unequal = np.flatnonzero(unequal.reshape(len(shared), -1).any(axis=1))
            if unequal.size:
                raise ScoringError(
                    f"{name}: runs 1 and {number} differ in {unequal.size} of {len(shared)} tiles, the first of them "
                    f"{shared[unequal[0]]}; take runs with the same data, folds and seed"
                )
    return oofs


def check_scorable(oof: Oof, draws: int) -> None:
    """Raises `ScoringError` unless there are tiles to score and others to choose on; see `score_oof`."""
    fold = np.asarray(oof.fold)
    lengths = {name: len(getattr(oof, name)) for name in ("ids", "fold", "probabilities", "masks")}
    if lengths["masks"] == 0:
        raise ScoringError("masks: no tiles to score; was no fold trained?")
    if len(set(lengths.values())) > 1:
        raise ScoringError(f"arrays of different lengths: {', '.join(f'{name} {n}' for name, n in lengths.items())}")
    if lengths["masks"] == 1:
        raise ScoringError("masks: a single tile; a level cannot be chosen on other tiles than it is scored on")
    if fold.dtype.kind not in "iu" or fold.min() < 0:
        raise ScoringError(f"fold: must be whole numbers from 0, not {fold.dtype} from {fold.min()}")
    if draws < 2:
        raise ScoringError(f"draws={draws}: must be at least 2; 2000 give an interval to the third digit")


def level_table(oof: Oof) -> LevelTable:
    """Counts the pixels of all tiles once, for all levels."""
    pixels = pixels_from_level(oof.probabilities, oof.masks)
    return LevelTable(sweep_from_pixels(pixels), pixels[:, :, 1:].sum(axis=1), pixels[:, 1, 0] == 0)


def choose_level_and_area(table: LevelTable) -> tuple[int, int]:
    """The best level, then the best minimum area at that level; choosing both together would overfit more.

    Returns:
        Level, 1 to 255, and area in pixels; see `choose_level` and `best_minimum_area`.
    """
    level = choose_level(score_curve(table.precision))
    column = level - 1
    return level, best_minimum_area(table.areas[:, column], table.precision[:, column], table.empty)


def precision_with_area(table: LevelTable, level: int, area: int) -> np.ndarray:
    """Average precision `[N]` at a level, where tiles with less than `area` predicted pixels are predicted empty."""
    return np.where(table.areas[:, level - 1] < area, table.empty, table.precision[:, level - 1])


def nested_parts(oof: Oof, seed: int) -> np.ndarray:
    """The part of each tile, int `[N]`: a part is scored with the level and area chosen on all other parts.

    The parts are the folds. The tiles of a single fold are split into `SINGLE_FOLD_PARTS` parts at random, by the order
    of their ids, so that runs with another order of the tiles have the same parts.
    """
    fold = np.asarray(oof.fold)
    if len(np.unique(fold)) > 1:
        return fold
    dealt = np.random.default_rng(seed).permutation(len(fold)) % SINGLE_FOLD_PARTS
    return dealt[np.argsort(np.argsort(oof.ids))]


def nested_choice(table: LevelTable, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Scores each part with the level and area that are chosen on the other parts.

    Args:
        table: of N tiles.
        parts: int `[N]`, at least two different ones.

    Returns:
        Average precision, float64 `[N]`; which tiles are predicted to have salt, bool `[N]`; and for each part a dict
        of `part`, `tiles`, `level`, `minimum_area`.
    """
    precision, found, choices = np.empty(len(parts)), np.empty(len(parts), bool), []
    for part in np.unique(parts):
        inside = parts == part
        level, area = choose_level_and_area(LevelTable(*(array[~inside] for array in table)))
        own = LevelTable(*(array[inside] for array in table))
        precision[inside] = precision_with_area(own, level, area)
        found[inside] = own.areas[:, level - 1] >= max(area, 1)
        choices.append({"part": int(part), "tiles": int(inside.sum()), "level": level, "minimum_area": area})
    return precision, found, choices


def score_by_depth(oof: Oof, depths: np.ndarray, seed: int = 0) -> list[dict]:
    """The nested score by depth, in five groups of (nearly) equal size.

    Args:
        oof: as in `score_oof`.
        depths: float `[N]`, of the same tiles; NaN where unknown.
        seed: as in `score_oof`.

    Returns:
        For each group a dict of `low`, `high` (the depths in it), `tiles`, `empty` (share of tiles without salt),
        `score`; tiles of unknown depth are in none. Fewer groups where many tiles share a depth.

    Raises:
        ScoringError: depths of other tiles, or none that is known.
    """
    depths = np.asarray(depths, np.float64)
    known = ~np.isnan(depths)
    if depths.shape != np.shape(oof.ids):
        raise ScoringError(f"depths: shape {depths.shape}, but there are {len(oof.ids)} tiles")
    if not known.any():
        raise ScoringError("depths: not one of the tiles' depths is known; these are the depths of another competition")
    table = level_table(oof)
    precision = nested_choice(table, nested_parts(oof, seed))[0]
    rows = []
    for inside in depth_groups(depths):
        rows.append(
            {
                "low": float(depths[inside].min()),
                "high": float(depths[inside].max()),
                "tiles": int(inside.sum()),
                "empty": float(table.empty[inside].mean()),
                "score": mean_precision(precision[inside]),
            }
        )
    return rows


def depth_groups(depths: np.ndarray) -> list[np.ndarray]:
    """Five groups of (nearly) equal size, from the shallowest to the deepest: a bool `[N]` for each.

    Tiles of one depth are in one group, so there may be fewer groups; tiles of unknown depth (NaN) are in none.
    """
    known = ~np.isnan(depths)
    if not known.any():
        return []
    inner = np.quantile(depths[known], np.arange(1, DEPTH_GROUPS) / DEPTH_GROUPS)
    group = np.where(known, np.searchsorted(inner, depths, side="right"), -1)
    return [group == number for number in np.unique(group[known])]


def calibrate(oof: Oof) -> dict:
    """The calibration of the probabilities: of the pixels with probability p, a share of p should be salt.

    Args:
        oof: as in `score_oof`.

    Returns:
        A dict of `bins`, ten of equal width, each `low`, `high`, `pixels`, `predicted` (mean probability) and `salt`
        (share of salt; both None without pixels), and `error`: the mean of |predicted - salt| over all pixels, the
        expected calibration error of Naeini et al. 2015.
    """
    at_least = pixels_from_level(oof.probabilities, oof.masks).sum(axis=0, dtype=np.int64)
    counts = at_least - np.append(at_least[:, 1:], [[0], [0]], axis=1)  # [truth, v]: pixels with probability v
    values = np.arange(256) / 255
    bin_of = np.minimum(np.arange(256) * CALIBRATION_BINS // 255, CALIBRATION_BINS - 1)
    bins, distance = [], 0.0
    for number in range(CALIBRATION_BINS):
        inside = bin_of == number
        pixels = int(counts[:, inside].sum())
        predicted = float(counts.sum(axis=0)[inside] @ values[inside] / pixels) if pixels else None
        salt = float(counts[1, inside].sum() / pixels) if pixels else None
        if predicted is not None and salt is not None:
            distance += pixels * abs(predicted - salt)
        low, high = number / CALIBRATION_BINS, (number + 1) / CALIBRATION_BINS
        bins.append({"low": low, "high": high, "pixels": pixels, "predicted": predicted, "salt": salt})
    return {"bins": bins, "error": float(distance / counts.sum())}


def expect_leaderboard(score: float, standard_error: float) -> dict | None:
    """The expected leaderboard scores, by linear regression over `LEADERBOARD_TRIPLES`.

    The interval is the usual prediction interval, widened by the standard error of the score itself. It is a rough one:
    solutions of one author are not independent, and published scores are mostly those of ensembles over folds.

    Args:
        score: out of fold, nested.
        standard_error: of that score.

    Returns:
        A dict of `public` and `private`, each `score` and 95 % `interval`; None for a score outside of the known ones,
        0.708 to 0.873.
    """
    known = [triple[0] for triple in LEADERBOARD_TRIPLES]
    if not min(known) <= score <= max(known):
        return None
    expected = {}
    for column, name in ((1, "public"), (2, "private")):
        pairs = [(triple[0], triple[column]) for triple in LEADERBOARD_TRIPLES if triple[column] is not None]
        x, y = np.array(pairs).T
        slope, intercept = np.polyfit(x, y, 1)
        freedom = len(x) - 2
        residual = np.sum((y - intercept - slope * x) ** 2) / freedom
        leverage = 1 + 1 / len(x) + (score - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
        half = student_975(freedom) * np.sqrt(residual * leverage + (slope * standard_error) ** 2)
        middle = intercept + slope * score
        expected[name] = {"score": float(middle), "interval": [float(middle - half), float(middle + half)]}
    return expected


def student_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; beyond 20 degrees of freedom that of 20, which is too large by up to 0.13."""
    return STUDENT_975[min(freedom, len(STUDENT_975)) - 1]


def mean_precision(precision: np.ndarray) -> float:
    """The mean of average precisions `[N]`; they are tenths, whose sum is exact, so that equal scores are equal."""
    return float(score_curve(np.asarray(precision)[:, None])[0])


def score_curve(sweep: np.ndarray) -> np.ndarray:
    """The score at each level: float64 `[255]` from a sweep `[N, 255]`; equal scores are exactly equal."""
    tenths = np.rint(10 * sweep).astype(np.int64)  # sums of 0.1, 0.2 ... in floating point depend on their order
    return tenths.sum(axis=0) / (10 * len(sweep))


def choose_level(curve: np.ndarray) -> int:
    """The level of the highest score; of several, the one nearest to probability 0.5."""
    levels = 1 + np.flatnonzero(curve == curve.max())
    return int(levels[np.abs(levels - HALF_LEVEL).argmin()])


def flat_levels(curve: np.ndarray, level: int) -> list[int]:
    """The first and the last of the levels around `level` whose scores are all within `FLAT_MARGIN` of its own."""
    worse = curve < curve[level - 1] - FLAT_MARGIN - 1e-12  # a score exactly at the margin is within it
    below, above = np.flatnonzero(worse[: level - 1]), np.flatnonzero(worse[level:])
    first = int(below[-1]) + 2 if below.size else 1
    last = int(above[0]) + level if above.size else 255
    return [first, last]


def bootstrap_means(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means of `draws` samples of N tiles, drawn with replacement.

    Args:
        values: float `[N, K]`; the K columns share the samples.
        draws: how many samples.
        seed: of the samples.

    Returns:
        float64 `[draws, K]`.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((draws, values.shape[1]))
    for first in range(0, draws, BOOTSTRAP_CHUNK):
        size = min(BOOTSTRAP_CHUNK, draws - first)
        # A mean needs only how many times each tile is in a sample.
        times = generator.multinomial(count, np.full(count, 1 / count), size=size)
        means[first : first + size] = times @ values / count
    return means
