"""Which tile is held out in which fold: stratified, reproducible from a seed."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from salt.metrics import coverage_tenths
from salt.stacks import all_sides, marked_pixels


class FoldError(ValueError):
    """Tiles that cannot be split as asked."""


def assign_folds(classes: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Assigns the tiles to folds of equal size (to one tile a class), stratified by class.

    Classes with fewer tiles than folds are treated as one.

    Args:
        classes: int `[N]`, such as `stratification_classes` gives: each fold has the same share of each.
        folds: how many folds, 2 to 127.
        seed: of the split; the same classes and the same seed give the same split.
        groups: int `[N]`, -1 for none, such as the mosaics of `find_mosaics`: all tiles of a group are held out
            together, and folds are of nearly equal size and mixture only. None: each tile by itself.

    Returns:
        int8 `[N]`, 0 to folds - 1: the fold in which the tile is held out.

    Raises:
        FoldError: too few tiles or groups, groups of other tiles, too few or too many folds.

    Example:
        >>> fold = assign_folds(stratification_classes(tiles.masks, tiles.blank()), folds=5, seed=0)
        >>> held_out = np.flatnonzero(fold == 0)
    """
    if not 2 <= folds <= 127:
        raise FoldError(f"folds={folds}: must lie between 2 and 127 (a fold is stored as int8)")
    if groups is not None and np.shape(groups) != np.shape(classes):
        raise FoldError(f"groups has shape {np.shape(groups)}; it must have an entry for each of {len(classes)} tiles")
    if len(classes) < folds:
        raise FoldError(f"folds={folds}: there are only {len(classes)} tiles; use fewer folds or more tiles")
    classes = pool_rare_classes(classes, folds)
    groups = None if groups is None else tile_groups(groups)
    if groups is not None and len(np.unique(groups)) < folds:
        raise FoldError(f"folds={folds}: there are only {len(np.unique(groups))} groups; use fewer folds")
    splitter: StratifiedKFold | StratifiedGroupKFold
    if groups is None:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    else:  # scikit-learn 1.6, which Kaggle has, loses the stratification when it shuffles groups itself
        splitter = StratifiedGroupKFold(folds)
        groups = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
    fold = np.empty(len(classes), np.int8)
    for number, (_, held_out) in enumerate(splitter.split(classes, classes, groups)):
        fold[held_out] = number
    return fold


def stratification_classes(masks: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """What each fold shall have its share of: of one class of masks those of `coverage_class`, of several the sets of
    classes that tiles hold; and blank tiles.

    Args:
        masks: `[N, H, W]`, or `[N, H, W, C]` of several classes, 0 and 1, or a `Stack` of them.
        blank: bool `[N]`, the tiles on which nothing is trained.

    Returns:
        int `[N]`, -1 for blank tiles.
    """
    marked = marked_pixels(masks)
    if marked.ndim == 1:
        classes = coverage_tenths(marked, all_sides(masks).prod(axis=1))
    else:
        classes = (marked > 0) @ (1 << np.arange(marked.shape[1]))
    return np.where(blank, -1, classes)


def tile_groups(groups: np.ndarray) -> np.ndarray:
    """The number of each tile's group: the one that is given, or, for -1, one of its own. int `[N]`."""
    groups = np.asarray(groups)
    return np.where(groups >= 0, groups, groups.max(initial=0) + 1 + np.arange(len(groups)))


def find_leaks(fold: np.ndarray, mosaic: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which tiles a network has seen in part, if each fold's is trained on all other folds.

    Args:
        fold: int `[N]`, the fold in which a tile is held out; -1 for a tile that is never trained on, such as a test
            tile.
        mosaic: int `[N]`, -1 for none.
        neighbours: int `[N, 4]`, -1 for none; see `neighbours_of`.

    Returns:
        Two bool `[N]`: at least one tile of the mosaic is trained on; at least one of the four neighbours is.
    """
    mates = np.zeros(len(fold), bool)
    order = np.argsort(mosaic, kind="stable")
    for inside in np.split(order, np.flatnonzero(np.diff(mosaic[order])) + 1):
        if mosaic[inside[0]] >= 0:
            trained = fold[inside][fold[inside] >= 0]
            mates[inside] = [(trained != own).any() for own in fold[inside]]
    beside = np.where(neighbours >= 0, fold[neighbours], -1)
    return mates, ((beside >= 0) & (beside != fold[:, None])).any(axis=1)


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
