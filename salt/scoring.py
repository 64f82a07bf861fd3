"""The score of out-of-fold predictions, as an estimate of Kaggle's before anything is submitted. numpy only.

Every score has an interval; two runs closer than that need a paired comparison. The interval covers the choice of
tiles, not the training: the same settings trained with another seed score otherwise.

A level and a minimum area chosen on the very tiles that are scored give too high a score. The *nested* scores do not:
each tile is scored with the level and area chosen on the other folds.
"""

from collections.abc import Sequence

import numpy as np

from salt.artifacts import Oof
from salt.levels import (
    HALF_LEVEL,
    OfClasses,
    OofCounts,
    ScoringError,
    choose_level,
    choose_level_and_area,
    choose_minimum_area,
    count_oof,
    flat_levels,
    level_table,
    mean_score,
    nested_choice,
    nested_parts,
    same_tiles,
    score_curve,
    scores_with_area,
    tile_scores,
)
from salt.metrics import Metric, coverage_tenths

BOOTSTRAP_CHUNK = 250  # draws at a time: 8 MB of counts for 4,000 tiles
DETECTABLE = 1.96 + 0.84  # standard errors of a difference that is detected at the 5 % level with a power of 80 %
DEPTH_GROUPS = 5  # of equal size
CALIBRATION_BINS = 10  # of equal width in probability

# 97.5 % quantiles of Student's t, for 1 to 20 degrees of freedom.
STUDENT_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


def score_oof(oof: Oof | OofCounts, metric: Metric, draws: int = 2000, seed: int = 0) -> dict:
    """Scores out-of-fold predictions: at probability 0.5, at the best level and area, and nested.

    Of several classes each of a tile's C masks has a score, and each class its own level and area. The score is the
    mean over all N * C of them; a bootstrap sample has all masks of a tile or none.

    Args:
        oof: ids, fold `[N]`, probabilities uint8 `[N, H, W]` or `[N, H, W, C]`, masks alike; or their counts.
        metric: of the competition.
        draws: bootstrap samples of N tiles each.
        seed: of the bootstrap, and of the parts of a single fold.

    Returns:
        A dict that JSON can hold:

        - `tiles`: N;
        - `best_level`, 1 to 255, the same for all classes; of several best ones that nearest to 128. `flat_levels`:
          first and last of the levels around it with a score within 0.002 of the best. `minimum_area`: the best one at
          that level, the same for all classes;
        - four scores, each with `_standard_error` and `_interval` (95 %, `[low, high]`, bootstrap over tiles):
          `half_score` at level 128; `best_score` at the best level; `chosen_score` at the best level and minimum area
          (of several classes: of each class), which is too high, since both are chosen on these tiles; `nested_score`,
          which is not;
        - `choices`: for each fold (or part of a single fold) `part`, `tiles`, and the `level` and `minimum_area` chosen
          on the others, of several classes lists;
        - `folds`: for each fold `fold`, `tiles`, `score`;
        - `classes`: for each coverage class 0 to 10 `class`, `tiles`, `share`, `score` (None without tiles), where each
          mask counts as a tile;
        - `confusion`: tiles (masks) `empty_as_empty`, `empty_as_marked`, `marked_as_empty`, `marked_as_marked`, the
          truth first;
        - `of_class`, only of several classes: for each, in their order, the same counts, `score`, and the best `level`
          and `minimum_area`;
        - `draws`, `seed`.

        Folds, classes and confusion are the nested ones.

    Raises:
        ScoringError: fewer than two tiles, arrays of different lengths, folds that are no whole numbers from 0, or too
            few draws.
        MetricError: probabilities or masks of a wrong type, shape or value.

    Example:
        >>> score = score_oof(read_oof("runs/a/oof.npz"), COMPETITION.metric)
        >>> score["nested_score"], score["nested_interval"]
    """
    oof = count_oof(oof)
    check_scorable(oof, draws)
    table, fold = level_table(oof, metric), oof.fold
    curve = score_curve(table.scores, metric)
    level = choose_level(curve)
    area = choose_minimum_area(table, level, metric)
    chosen = choose_level_and_area(table, metric) if table.truth.ndim > 1 else (level, area)
    nested, found, choices = nested_choice(table, nested_parts(oof, seed), metric)
    columns = {
        "half": table.scores[..., HALF_LEVEL - 1],
        "best": table.scores[..., level - 1],
        "chosen": scores_with_area(table, *chosen),
        "nested": nested,
    }
    means = bootstrap_means(np.stack([tile_scores(scores) for scores in columns.values()], axis=1), draws, seed)
    figures = {}
    for (name, scores), samples in zip(columns.items(), means.T, strict=True):
        figures[f"{name}_score"] = mean_score(scores, metric)
        figures[f"{name}_standard_error"] = float(samples.std(ddof=1))
        figures[f"{name}_interval"] = np.percentile(samples, [2.5, 97.5]).tolist()
    classes, marked = coverage_tenths(table.truth, table.pixels), table.truth > 0
    return {
        "tiles": len(nested),
        "best_level": level,
        "flat_levels": flat_levels(curve, level),
        "minimum_area": area,
        **figures,
        "choices": choices,
        "folds": [
            {"fold": int(k), "tiles": int(np.sum(fold == k)), "score": mean_score(nested[fold == k], metric)}
            for k in np.unique(fold)
        ],
        "classes": [
            {
                "class": number,
                "tiles": int(np.sum(classes == number)),
                "share": float(np.mean(classes == number)),
                "score": mean_score(nested[classes == number], metric) if np.any(classes == number) else None,
            }
            for number in range(11)
        ],
        "confusion": confusion(marked, found),
        **({"of_class": class_rows(nested, marked, found, chosen, metric)} if nested.ndim > 1 else {}),
        "draws": int(draws),
        "seed": int(seed),
    }


def confusion(marked: np.ndarray, found: np.ndarray) -> dict[str, int]:
    """How many masks of bool arrays mark anything or not (first word), and are predicted to do (second word)."""
    return {
        "empty_as_empty": int(np.sum(~marked & ~found)),
        "empty_as_marked": int(np.sum(~marked & found)),
        "marked_as_empty": int(np.sum(marked & ~found)),
        "marked_as_marked": int(np.sum(marked & found)),
    }


def class_rows(
    scores: np.ndarray, marked: np.ndarray, found: np.ndarray, chosen: tuple[OfClasses, OfClasses], metric: Metric
) -> list[dict]:
    """The score, the confusion, the level and the area of each class, of arrays `[N, C]`."""
    levels, areas = np.array(chosen).tolist()
    return [
        {
            "score": mean_score(scores[:, k], metric),
            **confusion(marked[:, k], found[:, k]),
            "level": levels[k],
            "minimum_area": areas[k],
        }
        for k in range(scores.shape[1])
    ]


def compare_oof(
    first: Oof | OofCounts,
    second: Oof | OofCounts,
    metric: Metric,
    common: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> dict:
    """Whether a second run is better than a first one, tile by tile: a paired bootstrap.

    Tiles differ far more than runs do, so that a difference of 0.01 can be significant in a paired comparison although
    each score has an interval of +- 0.03. Each run is scored nested (see `score_oof`), so that neither gains from a
    level or area that fits these very tiles.

    Args:
        first, second: out-of-fold predictions of the same tiles, in any order, each held out in the same fold;
            or their counts.
        metric: of the competition.
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
        - `of_class`, only of several classes: for each, in their order, `first`, `second`, `difference` (scores);
        - `largest`: the ten tiles that changed most, `id`, `coverage`, `first`, `second` (their scores);
        - `draws`, `seed`.

    Raises:
        ScoringError: other tiles, folds or masks in the two runs, a tile twice, or too few draws.
        MetricError: probabilities or masks of a wrong type, shape or value.
    """
    first, second = same_tiles([count_oof(first), count_oof(second)], common)
    tables = []
    for oof in (first, second):
        check_scorable(oof, draws)
        tables.append(level_table(oof, metric))
    nested = [
        nested_choice(table, nested_parts(oof, seed), metric)[0]
        for oof, table in zip((first, second), tables, strict=True)
    ]
    of_tiles = [tile_scores(scores) for scores in nested]
    change, changes = of_tiles[1] - of_tiles[0], nested[1] - nested[0]
    means = bootstrap_means(change[:, None], draws, seed)[:, 0]
    scores = [mean_score(each, metric) for each in nested]
    difference, detectable = scores[1] - scores[0], DETECTABLE * float(change.std())
    truth, pixels = tables[0].truth, tables[0].pixels
    classes = coverage_tenths(truth, pixels)
    coverage = truth.reshape(len(change), -1).sum(axis=1) / pixels.reshape(len(change), -1).sum(axis=1)
    in_steps = metric.in_steps(changes).reshape(len(change), -1).sum(axis=1)
    changed = np.argsort(-np.abs(in_steps), kind="stable")[:10]
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
                "difference": float(changes[classes == number].mean()) if np.any(classes == number) else None,
                "part": float(changes[classes == number].sum() / changes.size),
            }
            for number in range(11)
        ],
        **({"of_class": class_changes(nested[0], nested[1], metric)} if changes.ndim > 1 else {}),
        "largest": [
            {
                "id": str(first.ids[index]),
                "coverage": float(coverage[index]),
                "first": float(of_tiles[0][index]),
                "second": float(of_tiles[1][index]),
            }
            for index in changed
        ],
        "draws": int(draws),
        "seed": int(seed),
    }


def class_changes(first: np.ndarray, second: np.ndarray, metric: Metric) -> list[dict]:
    """The score of each class in two runs, of arrays `[N, C]`."""
    rows = []
    for k in range(first.shape[1]):
        one, other = mean_score(first[:, k], metric), mean_score(second[:, k], metric)
        rows.append({"first": one, "second": other, "difference": other - one})
    return rows


def check_scorable(oof: OofCounts, draws: int) -> None:
    """Raises `ScoringError` unless there are tiles to score and others to choose on; see `score_oof`."""
    fold = oof.fold
    if len(fold) == 1:
        raise ScoringError("masks: a single tile; a level cannot be chosen on other tiles than it is scored on")
    if fold.dtype.kind not in "iu" or fold.min() < 0:
        raise ScoringError(f"fold: must be whole numbers from 0, not {fold.dtype} from {fold.min()}")
    if draws < 2:
        raise ScoringError(f"draws={draws}: must be at least 2; 2000 give an interval to the third digit")


def score_by_depth(oof: Oof | OofCounts, metric: Metric, depths: np.ndarray, seed: int = 0) -> list[dict]:
    """The nested score by depth, in five groups of (nearly) equal size.

    Args:
        oof, metric: as in `score_oof`.
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
    table = level_table(oof, metric)
    scores = nested_choice(table, nested_parts(oof, seed), metric)[0]
    rows = []
    for inside in depth_groups(depths):
        rows.append(
            {
                "low": float(depths[inside].min()),
                "high": float(depths[inside].max()),
                "tiles": int(inside.sum()),
                "empty": float((table.truth[inside] == 0).mean()),
                "score": mean_score(scores[inside], metric),
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


def calibrate(oof: Oof | OofCounts) -> dict:
    """The calibration of the probabilities: of the pixels with probability p, a share of p should be salt.

    Args:
        oof: as in `score_oof`.

    Returns:
        A dict of `bins`, ten of equal width, each `low`, `high`, `pixels`, `predicted` (mean probability) and `salt`
        (share of salt; both None without pixels), and `error`: the mean of |predicted - salt| over all pixels, the
        expected calibration error of Naeini et al. 2015.
    """
    at_least = count_oof(oof).at_least.reshape(-1, 2, 256).sum(axis=0, dtype=np.int64)
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


def expect_leaderboard(
    score: float, standard_error: float, triples: Sequence[tuple[float, float, float | None]]
) -> dict | None:
    """The expected leaderboard scores, by linear regression over what is known of earlier solutions.

    The interval is the usual prediction interval, widened by the standard error of the score itself. It is a rough one:
    solutions of one author are not independent, and published scores are mostly those of ensembles over folds.

    Args:
        score: out of fold, nested.
        standard_error: of that score.
        triples: (out-of-fold score, public score, private score or None) of earlier solutions.

    Returns:
        A dict of `public` and `private`, each `score` and 95 % `interval`; None for a score outside of the known ones.
    """
    known = [triple[0] for triple in triples]
    if not min(known) <= score <= max(known):
        return None
    expected = {}
    for column, name in ((1, "public"), (2, "private")):
        pairs = [(triple[0], triple[column]) for triple in triples if triple[column] is not None]
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
