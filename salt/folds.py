"""Which tile is held out in which fold: stratified by coverage, reproducible from a seed."""

import numpy as np
from sklearn.model_selection import StratifiedKFold

from salt.metrics import coverage_class
from salt.tiles import is_black


class FoldError(ValueError):
    """Tiles that cannot be split as asked."""


def assign_folds(images: np.ndarray, masks: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Assigns the tiles to folds of equal size (to one tile a class), stratified by coverage class.

    The classes are those of `coverage_class`; black tiles, on which nothing is trained, are a class of their own, so
    that each fold has the same share of them. Classes with fewer tiles than folds are treated as one.

    Args:
        images: uint8 `[N, H, W]`.
        masks: `[N, H, W]`, 0 and 1.
        folds: how many folds, 2 to 127.
        seed: of the split; the same arrays and the same seed give the same split.

    Returns:
        int8 `[N]`, 0 to folds - 1: the fold in which the tile is held out.

    Raises:
        FoldError: `images` and `masks` of different shapes, too few tiles or too few or too many folds.

    Example:
        >>> fold = assign_folds(tiles.images, tiles.masks, folds=5, seed=0)
        >>> held_out = np.flatnonzero(fold == 0)
    """
    if np.shape(images) != np.shape(masks):
        raise FoldError(f"images have shape {np.shape(images)}, masks {np.shape(masks)}: they must be the same tiles")
    if not 2 <= folds <= 127:
        raise FoldError(f"folds={folds}: must lie between 2 and 127 (a fold is stored as int8)")
    if len(masks) < folds:
        raise FoldError(f"folds={folds}: there are only {len(masks)} tiles; use fewer folds or more tiles")
    black = -1
    classes = np.where(is_black(images), black, coverage_class(masks))
    classes = pool_rare_classes(classes, folds)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    fold = np.empty(len(classes), np.int8)
    for number, (_, held_out) in enumerate(splitter.split(classes, classes)):
        fold[held_out] = number
    return fold


def pool_rare_classes(classes: np.ndarray, folds: int) -> np.ndarray:
    """Merges classes with fewer members than folds into one; if that is still too small, into the largest class.

    Args:
        classes: int `[N]`, N >= folds.
        folds: the least number of members.

    Returns:
        int `[N]` in which every class has at least `folds` members.
    """
    labels, counts = np.unique(classes, return_counts=True)
    rare = np.isin(classes, labels[counts < folds])
    pool = labels.max() + 1 if rare.sum() >= folds else labels[counts.argmax()]
    return np.where(rare, pool, classes)
