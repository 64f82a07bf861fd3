"""Rules that correct a tile's predicted mask by its neighbours' known masks, and what each of them would change.

They are habits of this competition's annotators, not of nature. No notebook applies them: each is measured on
out-of-fold predictions first, and scripts/apply_rules.py applies those that are asked for and gain. A mask is known to
a tile if its own is held out in another fold: as with a test tile, whose neighbours in training are known.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from salt.metrics import average_precision
from salt.mosaics import SIDES
from salt.scoring import bootstrap_means
from salt.tgs import is_vertical

ABOVE = SIDES.index((-1, 0))
DRAWS = 2000  # of the bootstrap


def known_neighbours(fold: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """The neighbours whose masks are known to a tile, int `[N, 4]`; -1 for the others.

    Args:
        fold: int `[N]`, in which a tile is held out; -1 for one without a known mask.
        neighbours: int `[N, 4]`, see `neighbours_of`.
    """
    beside = np.where(neighbours >= 0, fold[neighbours], -1)
    return np.where((beside >= 0) & (beside != fold[:, None]), neighbours, -1)


def repeat_vertical(predicted: np.ndarray, masks: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Below a vertical mask (all rows equal) lies the same one.

    Args:
        predicted: uint8 `[N, H, W]`, 0 and 1.
        masks: the true masks, of the same shape.
        known: int `[N, 4]`, whose masks may be looked at.

    Returns:
        A new array like `predicted`.
    """
    result, above = predicted.copy(), known[:, ABOVE]
    below = np.flatnonzero((above >= 0) & is_vertical(masks)[above])
    result[below] = masks[above[below]]
    return result


def empty_below_full(predicted: np.ndarray, masks: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Below a bottom row of salt, unless the mask is vertical, nothing is marked: only the cap of a dome is.

    Arguments and result as of `repeat_vertical`.
    """
    result, above = predicted.copy(), known[:, ABOVE]
    full = masks[:, -1].all(axis=1) & ~is_vertical(masks)
    result[(above >= 0) & full[above]] = 0
    return result


def continue_borders(predicted: np.ndarray, masks: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A tile's border row or column is that of its neighbour.

    Arguments and result as of `repeat_vertical`.
    """
    result = predicted.copy()
    for side, (rows, columns) in enumerate(SIDES):
        tiles = np.flatnonzero(known[:, side] >= 0)
        own = (slice(None), slice(None), 0 if columns < 0 else -1) if columns else (slice(None), 0 if rows < 0 else -1)
        other = (
            (slice(None), slice(None), -1 if columns < 0 else 0) if columns else (slice(None), -1 if rows < 0 else 0)
        )
        part = result[tiles]
        part[own] = masks[known[tiles, side]][other]
        result[tiles] = part
    return result


class Rule(NamedTuple):
    """A rule, in words and as a function of predicted masks, true masks and known neighbours."""

    label: str
    correct: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


RULES = {
    "vertical": Rule("vertical masks repeat downwards", repeat_vertical),
    "below-salt": Rule("empty below a bottom row of salt", empty_below_full),
    "borders": Rule("border lines as the neighbour's", continue_borders),
}


def measure_rules(
    predicted: np.ndarray, masks: np.ndarray, fold: np.ndarray, neighbours: np.ndarray, scored: np.ndarray
) -> list[dict]:
    """What each rule would change, each by itself.

    Args:
        predicted: uint8 `[N, H, W]`, out of fold; any where not `scored`.
        masks: `[N, H, W]`, the truth; any where `fold` is -1.
        fold: int `[N]`, -1 for tiles without a known mask.
        neighbours: int `[N, 4]`.
        scored: bool `[N]`, the tiles that have a prediction.

    Returns:
        For each rule a dict that JSON can hold: `name`, a key of `RULES`; `rule`, its label; `tiles` whose mask it
        changes; `better` and `worse` ones by average precision; the score over all scored tiles `before` it and `after`
        it, their difference, the `gain`, with its `standard_error` and 95 % `interval` (paired, bootstrap over tiles).
    """
    known = known_neighbours(fold, neighbours)
    before = np.asarray(average_precision(predicted[scored], masks[scored]))
    effects = []
    for name, rule in RULES.items():
        changed = rule.correct(predicted, masks, known)
        change = np.asarray(average_precision(changed[scored], masks[scored])) - before
        means = bootstrap_means(change[:, None], DRAWS, seed=0)[:, 0]
        effects.append(
            {
                "name": name,
                "rule": rule.label,
                "tiles": int((changed != predicted)[scored].any(axis=(1, 2)).sum()),
                "better": int((change > 1e-9).sum()),
                "worse": int((change < -1e-9).sum()),
                "before": float(before.mean()),
                "after": float((before + change).mean()),
                "gain": float(change.mean()),
                "interval": np.percentile(means, [2.5, 97.5]).tolist(),
                "standard_error": float(change.std() / np.sqrt(len(change))),
            }
        )
    return effects
