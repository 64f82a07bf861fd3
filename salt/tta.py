"""Test-time augmentation: sets of transforms, each a pair of a function and its inverse.

Apply a transform to the tiles, predict, apply its inverse to the predictions, and take the mean over the set. numpy
only; the arrays' last two axes are rows and columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class TTAError(ValueError):
    """A set of transforms that does not exist."""


class Transform(NamedTuple):
    """A function of an array and its inverse: `undo(apply(array))` equals `array`."""

    name: str
    apply: Callable[[np.ndarray], np.ndarray]
    undo: Callable[[np.ndarray], np.ndarray]


def keep_array(array: np.ndarray) -> np.ndarray:
    """The array itself."""
    return array


def mirror_columns(array: np.ndarray) -> np.ndarray:
    """The array with left and right exchanged, as a view."""
    return array[..., ::-1]


IDENTITY = Transform("identity", keep_array, keep_array)
HORIZONTAL_FLIP = Transform("horizontal flip", mirror_columns, mirror_columns)

# No vertical flip: depth has a direction in a seismic section, and the networks are not trained on flipped ones.
TTA_SETS = {"none": (IDENTITY,), "flip": (IDENTITY, HORIZONTAL_FLIP)}


def tta_transforms(name: str) -> tuple[Transform, ...]:
    """The transforms of a set, whose predictions have equal weight.

    Args:
        name: `"none"` or `"flip"`.

    Returns:
        A tuple of `Transform`, the identity first.

    Raises:
        TTAError: there is no such set.

    Example:
        >>> probabilities = np.mean([t.undo(predict(t.apply(images))) for t in tta_transforms("flip")], axis=0)
    """
    if name not in TTA_SETS:
        raise TTAError(f"tta={name!r}: must be one of {', '.join(map(repr, TTA_SETS))}")
    return TTA_SETS[name]
