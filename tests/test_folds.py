import warnings

import numpy as np
import pytest

from salt.folds import FoldError, assign_folds, find_leaks, pool_rare_classes, stratification_classes
from salt.metrics import coverage_class
from salt.tgs import is_black


def tiles_of_classes(classes, size=10):
    """Images and masks with the given coverage classes; -1 is a black tile."""
    masks = np.zeros((len(classes), size, size), np.uint8)
    images = np.full(masks.shape, 90, np.uint8)
    for index, number in enumerate(classes):
        masks[index].flat[: max(0, number) * size * size // 10] = 1
        if number < 0:
            images[index] = 0
    return images, masks


def classes_of(images, masks):
    return stratification_classes(masks, is_black(images))


def test_every_class_is_spread_over_the_folds_to_one_tile():
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(-1, 11), np.arange(12) * 3 + 11))
    images, masks = tiles_of_classes(classes)
    fold = assign_folds(classes_of(images, masks), folds=5, seed=0)
    assert fold.dtype == np.int8 and sorted(set(fold.tolist())) == [0, 1, 2, 3, 4]
    for number in range(-1, 11):
        counts = np.bincount(fold[classes == number], minlength=5)
        assert counts.max() - counts.min() <= 1, number


def test_black_tiles_are_a_class_apart_from_empty_tiles():
    classes = np.array([-1] * 10 + [0] * 40)
    images, masks = tiles_of_classes(classes)
    assert not coverage_class(masks).any()  # by coverage alone they could not be told apart
    for seed in range(5):
        assert np.bincount(assign_folds(classes_of(images, masks), 5, seed)[:10], minlength=5).tolist() == [2] * 5


def test_the_same_seed_gives_the_same_folds_and_another_seed_others():
    images, masks = tiles_of_classes(np.tile(np.arange(11), 20))
    first = assign_folds(classes_of(images, masks), 5, seed=3)
    np.random.seed(99)
    assert np.array_equal(first, assign_folds(classes_of(images, masks), 5, seed=3))
    assert not np.array_equal(first, assign_folds(classes_of(images, masks), 5, seed=4))


def test_tiles_are_shuffled_before_they_are_dealt():
    images, masks = tiles_of_classes(np.zeros(100, int))
    fold = assign_folds(classes_of(images, masks), 2, seed=0)
    assert 10 < np.abs(np.diff(fold.astype(int))).sum() < 90  # neither two blocks nor strictly alternating


@pytest.mark.parametrize("classes", [[0] * 20 + [3, 7], [0, 1, 2, 3, 4], [0, 0, 5, 5, 9, 9, -1], [0] * 6 + [2] * 4])
def test_classes_with_fewer_tiles_than_folds_are_dealt_without_warning(classes):
    images, masks = tiles_of_classes(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fold = assign_folds(classes_of(images, masks), folds=5, seed=0)
    counts = np.bincount(fold, minlength=5)
    assert counts.min() >= len(classes) // 5 and counts.sum() == len(classes)


def test_rare_classes_are_pooled_and_join_the_largest_class_if_still_too_few():
    assert pool_rare_classes(np.array([0, 0, 0, 4, 5, 6]), 3).tolist() == [0, 0, 0, 7, 7, 7]
    assert pool_rare_classes(np.array([0, 0, 0, 4, 5]), 3).tolist() == [0, 0, 0, 0, 0]
    assert pool_rare_classes(np.array([0, 0, 1, 1]), 2).tolist() == [0, 0, 1, 1]


def test_impossible_splits_are_refused():
    images, masks = tiles_of_classes([0, 1, 2])
    with pytest.raises(FoldError, match="only 3 tiles"):
        assign_folds(classes_of(images, masks), folds=4, seed=0)
    with pytest.raises(FoldError, match="folds=1: must lie between 2 and 127"):
        assign_folds(classes_of(images, masks), folds=1, seed=0)


def test_a_mosaic_lies_in_one_fold_and_the_folds_have_the_same_mixture():
    generator = np.random.default_rng(0)
    masks = (generator.random((400, 8, 8)) < generator.random((400, 1, 1)) - 0.4).astype(np.uint8)
    images = np.ones_like(masks)
    mosaic = np.where(np.arange(400) < 120, np.arange(400) // 4, -1)
    fold = assign_folds(classes_of(images, masks), 5, seed=0, groups=mosaic)
    assert all(len(set(fold[mosaic == number])) == 1 for number in range(30))
    assert np.bincount(fold).min() > 60
    shares = [masks[fold == number].any(axis=(1, 2)).mean() for number in range(5)]
    assert max(shares) - min(shares) < 0.12
    random = assign_folds(classes_of(images, masks), 5, seed=0)
    assert np.array_equal(random, assign_folds(classes_of(images, masks), 5, seed=0, groups=None))
    nobody = np.full((400, 4), -1)
    assert not find_leaks(fold, mosaic, nobody)[0].any() and find_leaks(random, mosaic, nobody)[0].sum() > 100


def test_mosaics_of_other_tiles_or_fewer_of_them_than_folds_are_refused():
    masks = np.ones((6, 8, 8), np.uint8)
    with pytest.raises(FoldError, match=r"groups has shape \(5,\)"):
        assign_folds(coverage_class(masks), 2, seed=0, groups=np.zeros(5, int))
    with pytest.raises(FoldError, match="only 1 groups"):
        assign_folds(coverage_class(masks), 2, seed=0, groups=np.zeros(6, int))


def test_a_leak_is_a_slice_mate_or_a_neighbour_that_is_trained_on():
    fold = np.array([0, 1, 0, 0, -1, 0])  # the last but one is a test tile
    mosaic = np.array([0, 0, 1, 1, 2, 2])
    neighbours = np.full((6, 4), -1)
    neighbours[0, 1], neighbours[1, 0], neighbours[5, 2], neighbours[4, 3] = 1, 0, 4, 5
    mates, near = find_leaks(fold, mosaic, neighbours)
    assert mates.tolist() == [True, True, False, False, True, False]
    assert near.tolist() == [True, True, False, False, True, False]
