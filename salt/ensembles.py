"""Ensembles of runs: their probabilities or their ranks, averaged with weights that the out-of-fold score chooses.

Weights that fit the tiles that they are scored on flatter, like a level or an area does. So each fold's tiles are
blended with the weights that the other folds chose; scored like any run's, these predictions tell what the ensemble is
worth. What predicts the test tiles has the weights that all folds chose. numpy only.
"""

from typing import NamedTuple

import numpy as np

from salt.artifacts import Oof
from salt.metrics import threshold_sweep
from salt.scoring import ScoringError, nested_parts, same_tiles

WEIGHT_STEPS = 10  # how often a run is added to the blend: weights are tenths, or coarser
BLEND_CHUNK = 256  # tiles at a time: 10 MB of float32 for each run
MEAN_STEPS = 65535  # of a mean, which is looked up in a table


class Ensemble(NamedTuple):
    """An ensemble of K runs.

    Attributes:
        weights: float64 `[K]`, chosen by all tiles; their sum is 1.
        choices: for each fold (or part of a single fold) a dict of `part`, `tiles`, and the `weights` that the others
            chose for it.
        scales: float32 `[K, 256]`, for `blend_probabilities`.
        oof: out-of-fold predictions, each fold's blended with the weights that the others chose.
    """

    weights: np.ndarray
    choices: list
    scales: np.ndarray
    oof: Oof


def build_ensemble(oofs: list, ranks: bool = False, seed: int = 0, progress=lambda steps: None) -> Ensemble:
    """Chooses the weights of an ensemble, by all tiles and, for each fold's tiles, by those of the other folds.

    Args:
        oofs: out-of-fold predictions of the same tiles, in any order, each held out in the same fold by all.
        ranks: average ranks instead of probabilities.
        seed: of the parts of a single fold, as in `score_oof`.
        progress: function that is told of each blend that is about to be scored how often each run is in it.

    Raises:
        ScoringError: a single run; other tiles, folds or masks in the runs, or a tile twice.
    """
    if len(oofs) < 2:
        raise ScoringError("an ensemble takes at least 2 runs, not 1")
    oofs = same_tiles(oofs)
    arrays = [oof.probabilities for oof in oofs]
    scales = rank_scales(arrays) if ranks else probability_scales(len(oofs))
    known = {}

    def tenths(steps: tuple) -> np.ndarray:
        """Of a blend: tenths of the average precision of each tile at each level, uint8 `[N, 255]`."""
        key = tuple(int(step) for step in np.array(steps) // np.gcd.reduce(steps))
        if key not in known:
            progress(key)
            blended = blend_probabilities(arrays, key, scales)
            known[key] = np.rint(10 * threshold_sweep(blended, oofs[0].masks)).astype(np.uint8)
        return known[key]

    parts, blended, choices = nested_parts(oofs[0], seed), np.empty_like(arrays[0]), []
    for part in np.unique(parts):
        inside = parts == part
        weights = choose_weights(len(oofs), lambda steps, others=~inside: tenths(steps)[others])
        blended[inside] = blend_probabilities([array[inside] for array in arrays], weights, scales)
        choices.append({"part": int(part), "tiles": int(inside.sum()), "weights": weights.tolist()})
    return Ensemble(choose_weights(len(oofs), tenths), choices, scales, oofs[0]._replace(probabilities=blended))


def choose_weights(count: int, tenths) -> np.ndarray:
    """Greedy selection with replacement (Caruana et al. 2004): again and again the run is added that helps most.

    Args:
        count: how many runs there are.
        tenths: function of a tuple, how often each run is in a blend; returns tenths of the average precision of the
            tiles to choose by, at each level, `[N, 255]`.

    Returns:
        float64 `[count]`, whose sum is 1: of the best of the blends on the way, and of several the first.
    """
    steps, best, found = (0,) * count, -1, None
    for _ in range(WEIGHT_STEPS):
        candidates = [steps[:run] + (steps[run] + 1,) + steps[run + 1 :] for run in range(count)]
        scores = [int(tenths(candidate).sum(axis=0, dtype=np.int64).max()) for candidate in candidates]
        steps = candidates[int(np.argmax(scores))]
        if max(scores) > best:
            best, found = max(scores), steps
    return np.array(found) / sum(found)


def blend_probabilities(arrays, weights, scales: np.ndarray) -> np.ndarray:
    """The weighted mean of several runs' probabilities, each taken on a scale of its own.

    Args:
        arrays: K times uint8 `[N, H, W]`.
        weights: K numbers from 0, not all of them 0.
        scales: float32 `[K, 256]`, rising from 0 to 1 at most: what each probability of each run counts for.

    Returns:
        uint8 `[N, H, W]`: the probability that counts for the mean, if all runs have it.
    """
    shares = np.asarray(weights, np.float32) / np.sum(weights)
    tables = MEAN_STEPS * shares[:, None] * scales
    back = np.interp(np.arange(MEAN_STEPS + 1), tables.sum(axis=0), np.arange(256))
    back = np.rint(back).astype(np.uint8)
    used, blended = np.flatnonzero(shares), np.empty_like(arrays[0])
    for first in range(0, len(blended), BLEND_CHUNK):
        part = slice(first, first + BLEND_CHUNK)
        mean = sum(tables[run].take(arrays[run][part]) for run in used)
        blended[part] = back[np.rint(mean).astype(np.int32)]
    return blended


def probability_scales(count: int) -> np.ndarray:
    """Scales on which a probability counts for what it is."""
    return np.tile(np.arange(256, dtype=np.float32) / 255, (count, 1))


def rank_scales(arrays) -> np.ndarray:
    """Scales on which a probability counts for its rank: a run that is bolder than the others has no more of a say.

    The rank is the share of the run's pixels with a lower probability, and half of those with the same.

    Args:
        arrays: the runs' out-of-fold probabilities, K times uint8 `[N, H, W]`.
    """
    counts = np.array([np.bincount(array.ravel(), minlength=256) for array in arrays], np.float64)
    ranks = (counts.cumsum(axis=1) - counts / 2) / counts.sum(axis=1, keepdims=True)
    return ranks.astype(np.float32)
