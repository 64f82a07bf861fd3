"""From probabilities to masks: threshold, minimum area, blank tiles, confident pseudo-labels. numpy only.

Probabilities are uint8, round(255 p), everywhere; salt is `value >= level`, level 1 ... 255 (p = 0.5 is level 128).
"""

import numpy as np

from salt.metrics import class_masks
from salt.rle import require_masks


class PostprocessError(ValueError):
    """Probabilities, a level or an area out of their range."""


def binarize(probabilities: np.ndarray, level: int) -> np.ndarray:
    """Masks of the pixels whose probability is at least `level`.

    Args:
        probabilities: uint8 `[N, H, W]`, round(255 p).
        level: 1 to 255.

    Returns:
        uint8 `[N, H, W]` of 0 and 1.

    Raises:
        PostprocessError: probabilities are no uint8 stack (NaN is named), or the level is out of range.

    Example:
        >>> binarize(np.array([[[127, 128]]], np.uint8), level=128).tolist()
        [[[0, 1]]]
    """
    probabilities = require_probabilities(probabilities)
    if isinstance(level, bool) or not isinstance(level, (int, np.integer)) or not 1 <= level <= 255:
        raise PostprocessError(f"level={level!r}: must be a whole number from 1 to 255; p = 0.5 is level 128")
    return (probabilities >= level).astype(np.uint8)


def remove_small(masks: np.ndarray, minimum_area: int) -> np.ndarray:
    """Empties the masks with fewer pixels than `minimum_area`; a whole mask counts, not each of its patches.

    A few stray pixels on an empty tile cost its whole score.

    Args:
        masks: `[N, H, W]`, or `[N, H, W, C]` of several classes, 0 and 1.
        minimum_area: pixels; 0 and 1 change nothing.

    Returns:
        uint8 `[N, H, W]` of 0 and 1, a new array.

    Raises:
        PostprocessError: no stack of masks, or a negative area.
    """
    require_masks(class_masks(masks), "masks", PostprocessError)
    masks = np.asarray(masks)
    if minimum_area < 0:
        raise PostprocessError(f"minimum_area={minimum_area}: must be 0 or more pixels")
    large = masks.sum(axis=(1, 2), dtype=np.int64) >= minimum_area
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


def postprocess(probabilities: np.ndarray, level: int, minimum_area: int = 0) -> np.ndarray:
    """Threshold, then minimum area.

    Args:
        probabilities: uint8 `[N, H, W]`, round(255 p), those of blank tiles set to 0 before.
        level: 1 to 255; salt is `probabilities >= level`.
        minimum_area: tiles with fewer predicted pixels become empty.

    Returns:
        uint8 `[N, H, W]` of 0 and 1.

    Raises:
        PostprocessError: see `binarize` and `remove_small`.
    """
    return remove_small(binarize(probabilities, level), minimum_area)


def choose_pseudo_labels(
    probabilities: np.ndarray, level: int, minimum_area: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of unlabelled tiles, and which of them are confident enough to train on.

    Args:
        probabilities: uint8 `[N, H, W]`.
        level: as in `postprocess`.
        minimum_area: as in `postprocess`.
        confidence: the least mean over a tile's pixels of max(p, 1 - p).

    Returns:
        uint8 `[N, H, W]` of 0 and 1, and bool `[N]`.
    """
    masks = postprocess(probabilities, level, minimum_area)
    confidences = np.maximum(probabilities, 255 - probabilities).mean(axis=tuple(range(1, probabilities.ndim)))
    return masks, confidences >= 255 * confidence


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
