"""Test-time augmentation: sets of transforms, each a pair of a function and its inverse.

Apply a transform to the tiles, predict, apply its inverse to the predictions, and take the mean over the set. numpy
only; the arrays' last two axes are rows and columns.
"""

import functools
import itertools
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


def turn_array(array: np.ndarray, transposed: bool, row_step: int, column_step: int) -> np.ndarray:
    """The array transposed or not, then with rows and columns in their order (1) or the other one (-1), as a view."""
    return (array.swapaxes(-1, -2) if transposed else array)[..., ::row_step, ::column_step]


def turn_back(array: np.ndarray, transposed: bool, row_step: int, column_step: int) -> np.ndarray:
    """What `turn_array` made its argument of, as a view."""
    array = array[..., ::row_step, ::column_step]
    return array.swapaxes(-1, -2) if transposed else array


IDENTITY = Transform("identity", keep_array, keep_array)
HORIZONTAL_FLIP = Transform("horizontal flip", mirror_columns, mirror_columns)

# The eight flips and quarter turns of a square. For pictures in which up is not special; the networks here
# are not trained on vertical flips.
DIHEDRAL = tuple(
    Transform(
        f"{'transposed, ' * transposed}rows {row_step}, columns {column_step}",
        functools.partial(turn_array, transposed=transposed, row_step=row_step, column_step=column_step),
        functools.partial(turn_back, transposed=transposed, row_step=row_step, column_step=column_step),
    )
    for transposed, row_step, column_step in itertools.product((False, True), (1, -1), (1, -1))
)
TTA_SETS = {"none": (IDENTITY,), "flip": (IDENTITY, HORIZONTAL_FLIP), "d4": DIHEDRAL}


def tta_transforms(name: str) -> tuple[Transform, ...]:
    """The transforms of a set, whose predictions have equal weight.

    Args:
        name: `"none"`, `"flip"` (left and right) or `"d4"` (all flips and quarter turns).

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
