"""From probabilities to masks: threshold, minimum area, blank tiles, confident pseudo-labels. numpy only.

Probabilities are uint8, round(255 p), everywhere; a mask is `value >= level`, level 1 ... 255 (p = 0.5 is level 128).
"""

from collections.abc import Sequence

import numpy as np

from salt.metrics import class_masks, tile_parts
from salt.rle import require_masks
from salt.stacks import Stack


class PostprocessError(ValueError):
    """Probabilities, a level or an area out of their range."""


def binarize(probabilities: np.ndarray, level: int | Sequence[int]) -> np.ndarray:
    """Masks of the pixels whose probability is at least `level`.

    Args:
        probabilities: uint8 `[N, H, W]`, round(255 p), or `[N, H, W, C]` of several classes.
        level: 1 to 255; of several classes also one for each.

    Returns:
        uint8 of the same shape, of 0 and 1.

    Raises:
        PostprocessError: probabilities are no uint8 stack (NaN is named), a level is out of range, or there are more or
            fewer of them than classes.

    Example:
        >>> binarize(np.array([[[127, 128]]], np.uint8), level=128).tolist()
        [[[0, 1]]]
    """
    probabilities = require_probabilities(probabilities)
    for each in of_each_class(level, probabilities, "level"):
        if isinstance(each, bool) or not isinstance(each, (int, np.integer)) or not 1 <= each <= 255:
            raise PostprocessError(f"level={each!r}: must be a whole number from 1 to 255; p = 0.5 is level 128")
    return (probabilities >= np.asarray(level, np.uint8)).astype(np.uint8)


def of_each_class(value: int | Sequence[int], masks: np.ndarray, name: str) -> Sequence[int]:
    """A number as the only one of a sequence, or a sequence that has one for each class; else `PostprocessError`."""
    if not isinstance(value, Sequence):
        return [value]
    classes = masks.shape[3] if masks.ndim == 4 else 1
    if len(value) != classes or masks.ndim != 4:
        raise PostprocessError(f"{name}={list(value)!r}: one for each of {len(value)} classes, but there are {classes}")
    return value


def remove_small(masks: np.ndarray, minimum_area: int | Sequence[int]) -> np.ndarray:
    """Empties the masks with fewer pixels than `minimum_area`; a whole mask counts, not each of its patches.

    A few stray pixels on an empty tile cost its whole score.

    Args:
        masks: `[N, H, W]`, or `[N, H, W, C]` of several classes, 0 and 1.
        minimum_area: pixels; 0 and 1 change nothing. Of several classes also one for each.

    Returns:
        uint8 of the same shape, of 0 and 1, a new array.

    Raises:
        PostprocessError: no stack of masks, a negative area, or more or fewer of them than classes.
    """
    require_masks(class_masks(masks), "masks", PostprocessError)
    masks = np.asarray(masks)
    for each in of_each_class(minimum_area, masks, "minimum_area"):
        if each < 0:
            raise PostprocessError(f"minimum_area={each}: must be 0 or more pixels")
    large = masks.sum(axis=(1, 2), dtype=np.int64) >= np.asarray(minimum_area)
    return masks.astype(np.uint8) * large[:, None, None]


def empty_tiles(probabilities: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """Sets the probabilities of tiles that never hold anything to 0, see `Tiles.blank`.

    Args:
        probabilities: uint8 `[N, H, W]`.
        blank: bool `[N]`, of the same tiles.

    Returns:
        uint8 `[N, H, W]`, a new array.

    Raises:
        PostprocessError: probabilities are no uint8 stack, or `blank` is of other tiles.
    """
    probabilities = require_probabilities(probabilities)
    if np.shape(blank) != probabilities.shape[:1]:
        raise PostprocessError(f"blank: shape {np.shape(blank)}, but probabilities {probabilities.shape}")
    return probabilities * ~np.asarray(blank).reshape(-1, *(1 for _ in probabilities.shape[1:]))


def postprocess(
    probabilities: np.ndarray, level: int | Sequence[int], minimum_area: int | Sequence[int] = 0
) -> np.ndarray:
    """Threshold, then minimum area.

    Args:
        probabilities: uint8 `[N, H, W]`, round(255 p), those of blank tiles set to 0 before; or `[N, H, W, C]`; or a
            `Stack` of them.
        level: 1 to 255; what is marked is `probabilities >= level`. Of several classes also one for each.
        minimum_area: masks with fewer predicted pixels become empty. Of several classes also one for each.

    Returns:
        uint8 of the same shape, of 0 and 1; of a `Stack` one that makes them when they are asked for.

    Raises:
        PostprocessError: see `binarize` and `remove_small`.
    """
    if isinstance(probabilities, Stack):
        return probabilities.of_same_sides(
            lambda index: postprocess(probabilities[index][None], level, minimum_area)[0]
        )
    return remove_small(binarize(probabilities, level), minimum_area)


def choose_pseudo_labels(
    probabilities: np.ndarray, level: int | Sequence[int], minimum_area: int | Sequence[int], confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of unlabelled tiles, and which of them are confident enough to train on.

    Args:
        probabilities: uint8 `[N, H, W]`, or `[N, H, W, C]`; or a `Stack` of them, which is read a few tiles at a time.
        level: as in `postprocess`.
        minimum_area: as in `postprocess`.
        confidence: the least mean over a tile's pixels of max(p, 1 - p).

    Returns:
        What `postprocess` gives, and bool `[N]`.
    """
    masks, sure = postprocess(probabilities, level, minimum_area), np.empty(len(probabilities), bool)
    for part in tile_parts(probabilities):
        values = np.asarray(probabilities[part])
        confidences = np.maximum(values, 255 - values).mean(axis=tuple(range(1, values.ndim)))
        sure[part] = confidences >= 255 * confidence
    return masks, sure


def require_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Returns a uint8 stack `[N, H, W]` as an array, or raises `PostprocessError` if it is none."""
    probabilities = np.asarray(probabilities)
    if probabilities.dtype.kind == "f" and np.isnan(probabilities).any():
        tiles = np.unique(np.nonzero(np.isnan(probabilities))[0])
        raise PostprocessError(
            f"probabilities: NaN in {len(tiles)} of {len(probabilities)} tiles, the first at index {tiles[0]}; "
            "the model diverged: lower its learning rate, or train in float32"
        )
    if probabilities.dtype != np.uint8:
        raise PostprocessError(f"probabilities: must be uint8, round(255 p), not {probabilities.dtype}")
    if probabilities.ndim not in (3, 4):
        raise PostprocessError(f"probabilities: must have shape [N, H, W], or [N, H, W, C], not {probabilities.shape}")
    return probabilities
