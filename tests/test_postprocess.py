import numpy as np
import pytest

from salt.postprocess import (
    PostprocessError,
    binarize,
    choose_pseudo_labels,
    empty_tiles,
    postprocess,
    remove_small,
)
from salt.tgs import is_black


def test_a_probability_at_the_level_is_salt():
    probabilities = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for level in (1, 128, 255):
        masks = binarize(probabilities, level)
        assert masks.dtype == np.uint8
        assert masks.ravel().tolist() == [int(value >= level) for value in range(256)]


@pytest.mark.parametrize("level", [0, 256, -1, 0.5, True, None])
def test_a_level_outside_1_to_255_is_refused(level):
    with pytest.raises(PostprocessError, match="must be a whole number from 1 to 255"):
        binarize(np.zeros((1, 2, 2), np.uint8), level)


def test_a_numpy_integer_is_a_level():
    assert binarize(np.full((1, 1, 1), 9, np.uint8), np.int64(9)).tolist() == [[[1]]]


def test_nan_probabilities_are_refused_by_name():
    probabilities = np.zeros((4, 2, 2), np.float32)
    probabilities[1:3, 0, 0] = np.nan
    for call in (binarize, postprocess):
        with pytest.raises(PostprocessError, match="NaN in 2 of 4 tiles, the first at index 1"):
            call(probabilities, 128)


def test_float_probabilities_are_refused_since_levels_are_of_255():
    with pytest.raises(PostprocessError, match="must be uint8.*not float32"):
        binarize(np.full((1, 2, 2), 0.7, np.float32), 128)


def test_probabilities_must_be_a_stack():
    with pytest.raises(PostprocessError, match=r"shape \[N, H, W\], or \[N, H, W, C\], not \(2, 2\)"):
        binarize(np.zeros((2, 2), np.uint8), 128)


def test_tiles_below_the_minimum_area_become_empty_and_others_stay_as_they_are():
    masks = np.zeros((4, 10, 10), np.uint8)
    masks[1].flat[:9] = 1
    masks[2].flat[:10] = 1
    masks[3, 0, :5] = masks[3, 9, :5] = 1  # two patches of five: the tile's total counts
    kept = remove_small(masks, 10)
    assert kept.dtype == np.uint8 and kept.sum(axis=(1, 2)).tolist() == [0, 0, 10, 10]
    assert np.array_equal(kept[2:], masks[2:])
    assert masks[1].sum() == 9  # the input is untouched


def test_a_minimum_area_of_zero_changes_nothing():
    masks = (np.random.default_rng(0).random((5, 8, 8)) < 0.1).astype(np.uint8)
    assert np.array_equal(remove_small(masks, 0), masks)


def test_a_tile_larger_than_255_pixels_is_not_counted_modulo_256():
    masks = np.ones((1, 16, 16), np.uint8)
    assert remove_small(masks, 200).all()


def test_a_negative_area_and_masks_of_255_are_refused():
    with pytest.raises(PostprocessError, match="minimum_area=-1"):
        remove_small(np.zeros((1, 2, 2), np.uint8), -1)
    with pytest.raises(PostprocessError, match="holds the value 255"):
        remove_small(np.full((1, 2, 2), 255, np.uint8), 3)


def test_exactly_the_black_tiles_lose_their_probabilities():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (6, 5, 5), dtype=np.uint8)
    images[[1, 4]] = 0
    images[2] = 0
    images[2, 4, 4] = 1  # dark, not black
    images[3] = 77  # constant, not black
    probabilities = generator.integers(1, 255, images.shape, dtype=np.uint8)
    before = probabilities.copy()
    emptied = empty_tiles(probabilities, is_black(images))
    assert emptied.dtype == np.uint8 and np.array_equal(probabilities, before)
    assert np.array_equal(~emptied.any(axis=(1, 2)), is_black(images))
    assert np.array_equal(emptied[[0, 2, 3, 5]], probabilities[[0, 2, 3, 5]])


def test_flags_of_other_tiles_are_refused():
    with pytest.raises(PostprocessError, match=r"blank: shape \(3,\), but probabilities \(2, 4, 4\)"):
        empty_tiles(np.zeros((2, 4, 4), np.uint8), np.zeros(3, bool))


def test_postprocessing_thresholds_first_and_then_counts_the_area():
    probabilities = np.zeros((2, 4, 4), np.uint8)
    probabilities[0].flat[:8] = 100
    probabilities[0].flat[:3] = 200
    probabilities[1].flat[:5] = 200
    assert postprocess(probabilities, 150, minimum_area=4).sum(axis=(1, 2)).tolist() == [0, 5]
    assert postprocess(probabilities, 150).sum(axis=(1, 2)).tolist() == [3, 5]
    assert postprocess(probabilities, 100, minimum_area=4).sum(axis=(1, 2)).tolist() == [8, 5]


def test_pseudo_labels_are_the_masks_of_tiles_whose_pixels_are_sure_on_average():
    probabilities = np.zeros((4, 10, 10), np.uint8)
    probabilities[1] = 255
    probabilities[2] = 140
    probabilities[3, 0, :5] = 255
    masks, sure = choose_pseudo_labels(probabilities, 130, 6, 0.9)
    assert sure.tolist() == [True, True, False, True]
    assert np.array_equal(masks, postprocess(probabilities, 130, 6)) and not masks[3].any()
    assert choose_pseudo_labels(probabilities, 130, 0, 0.5)[1].all()


def test_each_class_of_a_tile_has_an_area_of_its_own_and_blank_tiles_lose_all_classes():
    probabilities = np.zeros((2, 4, 4, 3), np.uint8)
    probabilities[0, :2, :2, 0], probabilities[0, 0, 0, 1], probabilities[1, ..., 2] = 200, 200, 130
    masks = postprocess(probabilities, 128, 3)
    assert masks.sum(axis=(1, 2)).tolist() == [[4, 0, 0], [0, 0, 16]]
    assert empty_tiles(probabilities, np.array([False, True])).max(axis=(1, 2)).tolist() == [[200, 200, 0], [0, 0, 0]]


def test_each_of_several_classes_has_a_level_and_an_area_of_its_own():
    probabilities = np.zeros((2, 3, 3, 2), np.uint8)
    probabilities[0, :2, :, 0], probabilities[0, 0, :, 1], probabilities[1, 0, 0] = 100, 100, 200
    masks = postprocess(probabilities, [101, 100], [1, 3])
    expected = np.zeros_like(probabilities)
    expected[0, 0, :, 1], expected[1, 0, 0, 0] = 1, 1
    np.testing.assert_array_equal(masks, expected)
    for level, area, message in (
        ([100], 0, "level=.100.: one for each of 1 classes, but there are 2"),
        ([100, 0], 0, "level=0: must be a whole number from 1 to 255"),
        (100, [1, 2, 3], "minimum_area=.1, 2, 3.: one for each of 3 classes, but there are 2"),
        (100, [0, -1], "minimum_area=-1: must be 0 or more"),
    ):
        with pytest.raises(PostprocessError, match=message):
            postprocess(probabilities, level, area)
    with pytest.raises(PostprocessError, match="level=.1.: one for each of 1 classes"):
        postprocess(probabilities[..., 0], [1])
