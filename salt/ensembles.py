"""Ensembles of runs: their probabilities or their ranks, averaged with weights that the out-of-fold score chooses.

Weights chosen on the very tiles that they are scored on give too high a score, like a level or an area does. So each
fold's tiles are blended with weights chosen on the other folds, and these predictions are scored like those of any run.
The test tiles are blended with weights chosen on all folds. numpy only.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from salt.artifacts import Oof
from salt.levels import ROUNDING, ScoringError, nested_parts, same_tiles
from salt.metrics import Metric, threshold_sweep, tile_parts
from salt.stacks import Stack

WEIGHT_STEPS = 10  # how many times a run is added to the blend: weights are at most as fine as tenths
MEAN_STEPS = 65535  # resolution of a mean, for which a table gives the probability


class Ensemble(NamedTuple):
    """An ensemble of K runs.

    Attributes:
        weights: float64 `[K]`, chosen on all tiles; their sum is 1.
        choices: for each fold (or part of a single fold) a dict of `part`, `tiles`, and the `weights` chosen on the
            others.
        scales: float32 `[K, 256]`, for `blend_probabilities`.
        oof: out-of-fold predictions, those of each fold blended with the weights chosen on the others: for the score.
        blended: out-of-fold predictions, all blended with `weights`, as the test tiles are: for the level and the area.
    """

    weights: np.ndarray
    choices: list[dict]
    scales: np.ndarray
    oof: Oof
    blended: Oof


def mean_oof(oofs: list[Oof]) -> Oof:
    """The ensemble of several runs: the mean of their probabilities.

    Args:
        oofs: out-of-fold predictions of the same tiles, in any order, each held out in the same fold by all.

    Returns:
        `Oof`, in the order of the ids; of one run, that run as it is.

    Raises:
        ScoringError: other tiles, folds or masks in the runs, or a tile twice.
    """
    if len(oofs) == 1:
        return oofs[0]
    oofs = same_tiles(oofs)
    arrays = [oof.probabilities for oof in oofs]

    def mean(rows: int | slice) -> np.ndarray:
        total = sum(array[rows].astype(np.uint16) for array in arrays)
        return np.rint(total / len(arrays)).astype(np.uint8)

    return oofs[0]._replace(probabilities=made_of(arrays, mean))


def made_of(arrays: list[np.ndarray], make: Callable[[int | slice], np.ndarray]) -> np.ndarray:
    """Probabilities that are made of those of several runs: of arrays an array, of stacks a stack, made when asked for.

    Args:
        arrays: of the runs, `[N, ...]`.
        make: function of a tile's place, or of a slice of places, that gives its probabilities, or theirs.
    """
    if isinstance(arrays[0], Stack):
        return arrays[0].of_same_sides(make)
    made = np.empty_like(arrays[0])
    for part in tile_parts(made):
        made[part] = make(part)
    return made


def build_ensemble(
    oofs: list[Oof],
    metric: Metric,
    ranks: bool = False,
    seed: int = 0,
    progress: Callable[[tuple[int, ...]], object] = lambda steps: None,
) -> Ensemble:
    """Chooses the weights of an ensemble, on all tiles and, for each fold's tiles, on those of the other folds.

    Args:
        oofs: out-of-fold predictions of the same tiles, in any order, each held out in the same fold by all.
        metric: of the competition.
        ranks: whether to average ranks instead of probabilities.
        seed: of the parts of a single fold, as in `score_oof`.
        progress: function that is called before each blend is scored, with how many times each run is in it.

    Raises:
        ScoringError: a single run; other tiles, folds or masks in the runs, or a tile twice.
    """
    if len(oofs) < 2:
        raise ScoringError("an ensemble takes at least 2 runs, not 1")
    oofs = same_tiles(oofs)
    arrays = [oof.probabilities for oof in oofs]
    scales = rank_scales(arrays) if ranks else probability_scales(len(oofs))
    parts, choices = nested_parts(oofs[0], seed), []
    numbers = np.unique(parts)
    weights_of = np.empty((len(parts), len(oofs)))  # of each tile, chosen on the other parts
    known: dict[tuple[int, ...], np.ndarray] = {}
    classes = arrays[0].shape[3] if arrays[0].ndim == 4 else 1

    def sums(steps: tuple[int, ...], without: int | None = None) -> np.ndarray:
        """The sum of each class's scores at each level, float64 `[C, 255]`, over all tiles but those of a part."""
        key = tuple(int(step) for step in np.array(steps) // np.gcd.reduce(steps))
        if key not in known:
            progress(key)
            known[key] = np.zeros((len(numbers), classes, 255))
            for some in tile_parts(arrays[0]):
                blend = blend_probabilities([array[some] for array in arrays], key, scales)
                scores = metric.in_steps(threshold_sweep(blend, oofs[0].masks[some], metric))
                for place, number in enumerate(numbers):
                    known[key][place] += scores[parts[some] == number].reshape(-1, classes, 255).sum(axis=0)
        return known[key][numbers != without].sum(axis=0)

    for part in numbers:
        inside = parts == part
        weights_of[inside] = weights = choose_weights(len(oofs), functools.partial(sums, without=part))
        choices.append({"part": int(part), "tiles": int(inside.sum()), "weights": weights.tolist()})
    weights = choose_weights(len(oofs), sums)
    nested = oofs[0]._replace(probabilities=blend_tiles(arrays, weights_of, scales))
    everything = oofs[0]._replace(probabilities=blend_tiles(arrays, np.tile(weights, (len(parts), 1)), scales))
    return Ensemble(weights, choices, scales, nested, everything)


def blend_tiles(arrays: list[np.ndarray], weights: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The blend of several runs' probabilities, with weights of each tile, `[N, K]`; see `blend_probabilities`."""

    def make(rows: int | slice) -> np.ndarray:
        if not isinstance(rows, slice):
            return blend_probabilities([array[rows][None] for array in arrays], weights[rows], scales)[0]
        parts, blended = (
            [array[rows] for array in arrays],
            np.empty((rows.stop - rows.start, *arrays[0].shape[1:]), np.uint8),
        )
        for each in np.unique(weights[rows], axis=0):
            inside = (weights[rows] == each).all(axis=1)
            blended[inside] = blend_probabilities([part[inside] for part in parts], each, scales)
        return blended

    return made_of(arrays, make)


def choose_weights(count: int, sums: Callable[[tuple[int, ...]], np.ndarray]) -> np.ndarray:
    """Greedy selection with replacement (Caruana et al. 2004): in each step the run is added that gains most.

    Args:
        count: how many runs there are.
        sums: function of a tuple, how many times each run is in a blend; returns the sum of the scores of the tiles to
            choose on, for each class at each level, `[C, 255]`: each class has a level of its own.

    Returns:
        float64 `[count]`, whose sum is 1: those of the best blend of all steps, of several the first.
    """
    steps: tuple[int, ...] = (0,) * count
    best, found = -1.0, steps
    for _ in range(WEIGHT_STEPS):
        candidates = [steps[:run] + (steps[run] + 1,) + steps[run + 1 :] for run in range(count)]
        scores = [float(sums(candidate).max(axis=-1).sum()) for candidate in candidates]
        steps = candidates[int(np.argmax(scores))]
        if max(scores) > best + ROUNDING * max(1.0, best):
            best, found = max(scores), steps
    return np.array(found) / sum(found)


def blend_probabilities(
    arrays: list[np.ndarray], weights: Sequence[float] | np.ndarray, scales: np.ndarray
) -> np.ndarray:
    """The weighted mean of several runs' probabilities, each on a scale of its own.

    Args:
        arrays: K times uint8 `[N, H, W]`.
        weights: K numbers from 0, not all of them 0.
        scales: float32 `[K, 256]`, rising from 0 to 1 at most: the value of each probability of each run.

    Returns:
        uint8 `[N, H, W]`: the probability whose value is the mean, if all runs have that probability.
    """
    shares = np.asarray(weights, np.float32) / np.sum(weights)
    tables = MEAN_STEPS * shares[:, None] * scales
    back = np.interp(np.arange(MEAN_STEPS + 1), tables.sum(axis=0), np.arange(256))
    back = np.rint(back).astype(np.uint8)
    used, blended = np.flatnonzero(shares), np.empty_like(arrays[0])
    for part in tile_parts(blended):
        mean = sum((tables[run].take(arrays[run][part]) for run in used), np.zeros((), np.float32))
        blended[part] = back[np.rint(mean).astype(np.int32)]
    return blended


def probability_scales(count: int) -> np.ndarray:
    """Scales on which the value of a probability is itself."""
    return np.tile(np.arange(256, dtype=np.float32) / 255, (count, 1))


def rank_scales(arrays: list[np.ndarray]) -> np.ndarray:
    """Scales on which the value of a probability is its rank, so that an overconfident run has no larger influence.

    The rank is the share of the run's pixels with a lower probability, plus half of the share with the same one.

    Args:
        arrays: the runs' out-of-fold probabilities, K times uint8 `[N, H, W]`.
    """
    counts = np.zeros((len(arrays), 256))
    for run, array in enumerate(arrays):
        for part in tile_parts(array):
            counts[run] += np.bincount(array[part].ravel(), minlength=256)
    ranks = (counts.cumsum(axis=1) - counts / 2) / counts.sum(axis=1, keepdims=True)
    return ranks.astype(np.float32)
