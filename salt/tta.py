"""Test-time augmentation: a transform is a value with its undo, and a set of transforms is a product of smaller sets.

Apply a transform to the tiles, predict, undo it on the predictions, and take the mean over the set. Numpy only; the
arrays' last two axes are rows and columns.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class TTAError(ValueError):
    """A set of transforms that does not exist."""


class Transform(NamedTuple):
    """A change of an array and the change that takes it back: `undo(apply(array))` equals `array`."""

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

# No vertical flip: down is down in a seismic section, and the networks have never seen one upside down.
TTA_SETS = {"none": (IDENTITY,), "flip": (IDENTITY, HORIZONTAL_FLIP)}


def tta_transforms(name: str) -> tuple[Transform, ...]:
    """The transforms of a set; their predictions count alike.

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


def compose_transforms(*sets: tuple[Transform, ...]) -> tuple[Transform, ...]:
    """All ways to take one transform of each set, one after the other, in the order of `itertools.product`.

    Args:
        *sets: tuples of `Transform`.

    Returns:
        A tuple of `Transform`, as many as the product of the sets' lengths; of no sets, the identity alone.

    Example:
        >>> double = Transform("double", lambda array: 2 * array, lambda array: array / 2)
        >>> [transform.name for transform in compose_transforms(tta_transforms("flip"), (double,))]
        ['identity, double', 'horizontal flip, double']
    """
    return tuple(chain_transforms(steps) for steps in itertools.product(*sets))


def chain_transforms(steps: tuple[Transform, ...]) -> Transform:
    """One transform that applies `steps` in their order, and undoes them in the reverse one."""
    if not steps:
        return IDENTITY

    def apply(array):
        for step in steps:
            array = step.apply(array)
        return array

    def undo(array):
        for step in reversed(steps):
            array = step.undo(array)
        return array

    return Transform(", ".join(step.name for step in steps), apply, undo)
