"""What the out-of-fold predictions say about the leaderboard, before anything is submitted. numpy only.

Random folds score like the public leaderboard (both have neighbours of their tiles among the training tiles); the
private one was about 0.02 higher. How sure a score is, its interval says; two runs closer than that need a paired
comparison.
"""
import numpy as np

from salt.artifacts import Oof
from salt.metrics import coverage_class, threshold_sweep

HALF_LEVEL = 128  # the level of probability 0.5
FLAT_MARGIN = 0.002  # levels whose score is that close to the best serve as well: far less than any score's error
BOOTSTRAP_CHUNK = 250  # draws at a time: 8 MB of counts for 4,000 tiles


class ScoringError(ValueError):
    """Predictions that cannot be scored."""


def score_oof(oof: Oof, draws: int = 2000, seed: int = 0) -> dict:
    """Scores out-of-fold predictions at the best level and at probability 0.5.

    The best level is chosen on the very tiles that it is scored on, so `best_score` is slightly optimistic, and its
    interval takes the level as given; `half_score` is free of that. A single level among 255 fits little: with some
    thousand tiles and a wide `flat_levels` the two differ by a few thousandths.

    Args:
        oof: ids, fold `[N]`, probabilities uint8 `[N, H, W]`, masks `[N, H, W]`.
        draws: bootstrap samples of N tiles each.
        seed: of the bootstrap.

    Returns:
        A dict that JSON can hold:

        - `tiles`: N;
        - `best_level`, 1 to 255; of several best ones that nearest to 128. `flat_levels`: first and last of the levels
          around it with a score within 0.002 of the best;
        - `best_score`, `best_standard_error`, `best_interval` (95 %, `[low, high]`, bootstrap over tiles);
          `half_score`, `half_standard_error`, `half_interval` at level 128;
        - `folds`: for each fold `fold`, `tiles`, `score`;
        - `classes`: for each coverage class 0 to 10 `class`, `tiles`, `share`, `score` (None without tiles);
        - `confusion`: tiles `empty_as_empty`, `empty_as_salt`, `salt_as_empty`, `salt_as_salt` (truth first);
        - `draws`, `seed`.

        Folds, classes and confusion are those at the best level.

    Raises:
        ScoringError: no tiles, arrays of different lengths, folds that are no whole numbers from 0, or too few draws.
        MetricError: probabilities or masks of a wrong type, shape or value.

    Example:
        >>> score = score_oof(read_oof("runs/a/oof.npz"))
        >>> masks = postprocess(probabilities, score["best_level"])
    """
    fold, count = np.asarray(oof.fold), len(oof.masks)
    lengths = {name: len(getattr(oof, name)) for name in ("ids", "fold", "probabilities", "masks")}
    if count == 0:
        raise ScoringError("masks: no tiles to score; was no fold trained?")
    if len(set(lengths.values())) > 1:
        raise ScoringError(f"arrays of different lengths: {', '.join(f'{name} {n}' for name, n in lengths.items())}")
    if fold.dtype.kind not in "iu" or fold.min() < 0:
        raise ScoringError(f"fold: must be whole numbers from 0, not {fold.dtype} from {fold.min()}")
    if draws < 2:
        raise ScoringError(f"draws={draws}: must be at least 2; 2000 give an interval to the third digit")

    sweep = threshold_sweep(oof.probabilities, oof.masks)
    curve = score_curve(sweep)
    best_level = choose_level(curve)
    precision = sweep[:, best_level - 1]
    best, half = bootstrap_means(sweep[:, [best_level - 1, HALF_LEVEL - 1]], draws, seed).T
    classes = coverage_class(oof.masks)
    salt = classes > 0
    found = (np.asarray(oof.probabilities) >= best_level).any(axis=(1, 2))
    return {
        "tiles": count,
        "best_level": best_level,
        "flat_levels": flat_levels(curve, best_level),
        "best_score": float(curve[best_level - 1]),
        "best_standard_error": float(best.std(ddof=1)),
        "best_interval": np.percentile(best, [2.5, 97.5]).tolist(),
        "half_score": float(curve[HALF_LEVEL - 1]),
        "half_standard_error": float(half.std(ddof=1)),
        "half_interval": np.percentile(half, [2.5, 97.5]).tolist(),
        "folds": [
            {"fold": int(k), "tiles": int(np.sum(fold == k)), "score": float(precision[fold == k].mean())}
            for k in np.unique(fold)
        ],
        "classes": [
            {
                "class": number,
                "tiles": int(np.sum(classes == number)),
                "share": float(np.mean(classes == number)),
                "score": float(precision[classes == number].mean()) if np.any(classes == number) else None,
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

    Tiles differ far more than runs do, so that two scores with intervals of +- 0.03 each may well differ surely by
    0.01 when the same tiles are drawn for both. Each run is taken at the level that is best for it on these tiles.

    Args:
        first, second: out-of-fold predictions of the same tiles, in any order, each held out in the same fold.
        common: compare on the tiles that both have, instead of refusing runs over different tiles.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        A dict that JSON can hold:

        - `tiles`; `first_level`, `second_level`; `first_score`, `second_score`;
        - `difference`, second minus first, its `standard_error` and 95 % `interval`; `probability`: share of the
          samples in which the second is better, ties counted half;
        - `tiles_to_settle`: how many tiles would put 0 outside of the interval if the difference stayed what it is
          (1.96 standard errors of the mean; None for no difference);
        - `classes`: for each coverage class `class`, `tiles`, `difference` (None without tiles): summed with their
          shares they give the whole difference;
        - `largest`: the ten tiles that changed most, `id`, `coverage`, `first`, `second` (average precision);
        - `draws`, `seed`.

    Raises:
        ScoringError: other tiles, folds or masks in the two runs, a tile twice, or too few draws.
        MetricError: probabilities or masks of a wrong type, shape or value.
    """
    if draws < 2:
        raise ScoringError(f"draws={draws}: must be at least 2; 2000 give an interval to the third digit")
    first, second = same_tiles(first, second, common)
    levels, scores, precisions = [], [], []
    for oof in (first, second):
        sweep = threshold_sweep(oof.probabilities, oof.masks)
        curve = score_curve(sweep)
        level = choose_level(curve)
        levels.append(level)
        scores.append(float(curve[level - 1]))
        precisions.append(sweep[:, level - 1])
    change = precisions[1] - precisions[0]
    means = bootstrap_means(change[:, None], draws, seed)[:, 0]
    difference, spread = scores[1] - scores[0], float(change.std())
    classes = coverage_class(first.masks)
    changed = np.argsort(-np.abs(change), kind="stable")[:10]
    return {
        "tiles": len(change),
        "first_level": levels[0],
        "second_level": levels[1],
        "first_score": scores[0],
        "second_score": scores[1],
        "difference": difference,
        "standard_error": float(means.std(ddof=1)),
        "interval": np.percentile(means, [2.5, 97.5]).tolist(),
        "probability": float(np.mean(means > 1e-12) + 0.5 * np.mean(np.abs(means) <= 1e-12)),
        "tiles_to_settle": int(np.ceil((1.96 * spread / difference) ** 2)) if abs(difference) > 1e-12 else None,
        "classes": [
            {
                "class": number,
                "tiles": int(np.sum(classes == number)),
                "difference": float(change[classes == number].mean()) if np.any(classes == number) else None,
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


def same_tiles(first: Oof, second: Oof, common: bool) -> tuple[Oof, Oof]:
    """Two runs' predictions in the order of their ids, which are the same; see `compare_oof`."""
    for name, oof in (("first", first), ("second", second)):
        if len(np.unique(oof.ids)) < len(oof.ids):
            raise ScoringError(f"{name} run: {len(oof.ids) - len(np.unique(oof.ids))} tiles stand in it twice")
    both, rows, other_rows = np.intersect1d(first.ids, second.ids, return_indices=True)
    if not len(both):
        raise ScoringError("the two runs have no tile in common; compare runs over the same data and folds")
    if not common and max(len(first.ids), len(second.ids)) > len(both):
        raise ScoringError(
            f"the runs have {len(first.ids)} and {len(second.ids)} tiles, {len(both)} of them in common; "
            "train the same folds in both, or compare on the common ones"
        )
    first, second = (
        Oof(oof.ids[order], np.asarray(oof.fold)[order], oof.probabilities[order], oof.masks[order])
        for oof, order in ((first, rows), (second, other_rows))
    )
    for name in ("fold", "masks"):
        unequal = np.flatnonzero((getattr(first, name) != getattr(second, name)).reshape(len(both), -1).any(axis=1))
        if unequal.size:
            raise ScoringError(
                f"{name}: the runs differ in {unequal.size} of {len(both)} tiles, the first of them "
                f"{both[unequal[0]]}; compare runs with the same data, folds and seed"
            )
    return first, second


def score_curve(sweep) -> np.ndarray:
    """The score at each level: float64 `[255]` from a sweep `[N, 255]`; equal scores are exactly equal."""
    tenths = np.rint(10 * sweep).astype(np.int64)  # sums of 0.1, 0.2 ... in floating point depend on their order
    return tenths.sum(axis=0) / (10 * len(sweep))


def choose_level(curve) -> int:
    """The level of the highest score; of several, the one nearest to probability 0.5."""
    levels = 1 + np.flatnonzero(curve == curve.max())
    return int(levels[np.abs(levels - HALF_LEVEL).argmin()])


def flat_levels(curve, level: int) -> list[int]:
    """First and last of the levels around `level` whose scores all lie within `FLAT_MARGIN` of its own."""
    worse = curve < curve[level - 1] - FLAT_MARGIN - 1e-12  # a score exactly at the margin is within it
    below, above = np.flatnonzero(worse[: level - 1]), np.flatnonzero(worse[level:])
    first = int(below[-1]) + 2 if below.size else 1
    last = int(above[0]) + level if above.size else 255
    return [first, last]


def bootstrap_means(values, draws: int, seed: int) -> np.ndarray:
    """Means of `draws` samples of N tiles, drawn with replacement.

    Args:
        values: float `[N, K]`; the K columns share the samples.
        draws: how many samples.
        seed: another seed, other samples.

    Returns:
        float64 `[draws, K]`.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((draws, values.shape[1]))
    for first in range(0, draws, BOOTSTRAP_CHUNK):
        size = min(BOOTSTRAP_CHUNK, draws - first)
        # How often each tile is in a sample is all that a mean needs.
        times = generator.multinomial(count, np.full(count, 1 / count), size=size)
        means[first : first + size] = times @ values / count
    return means
