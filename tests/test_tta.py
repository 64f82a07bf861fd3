"""A transform and its undo, sets of them, and what an ensemble over a set does."""

import numpy as np
import pytest

from salt.tta import HORIZONTAL_FLIP, IDENTITY, TTAError, tta_transforms


def arrays():
    return np.random.default_rng(0).integers(0, 256, (3, 7, 7), dtype=np.uint8)


@pytest.mark.parametrize("name", ["none", "flip", "d4"])
def test_undo_takes_every_transform_of_a_set_back(name):
    images = arrays()
    for transform in tta_transforms(name):
        assert np.array_equal(transform.undo(transform.apply(images)), images), transform.name
        assert transform.apply(images).dtype == np.uint8


def test_flip_is_the_identity_and_then_left_and_right_exchanged():
    images = arrays()
    assert [transform.name for transform in tta_transforms("flip")] == ["identity", "horizontal flip"]
    plain, flipped = (transform.apply(images) for transform in tta_transforms("flip"))
    assert np.array_equal(plain, images)
    assert np.array_equal(flipped, np.flip(images, axis=2))
    assert not np.array_equal(flipped, images)


def test_d4_is_the_eight_flips_and_quarter_turns_of_a_square():
    square = np.arange(9).reshape(3, 3)
    turned = [np.rot90(each, quarters) for each in (square, square.T) for quarters in range(4)]
    found = [transform.apply(square) for transform in tta_transforms("d4")]
    assert sorted(each.tolist() for each in found) == sorted(each.tolist() for each in turned)
    assert np.array_equal(found[0], square), "the identity first"


def test_transforms_act_on_the_last_two_axes_of_any_stack():
    stack = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert np.array_equal(HORIZONTAL_FLIP.apply(stack)[1, 2], stack[1, 2, :, ::-1])
    assert np.array_equal(HORIZONTAL_FLIP.undo(stack[0, 0]), np.fliplr(stack[0, 0]))


def test_none_is_the_identity_alone():
    assert tta_transforms("none") == (IDENTITY,)


def test_an_unknown_set_is_refused_and_the_known_ones_are_named():
    with pytest.raises(TTAError, match="tta='vertical'.*'none', 'flip', 'd4'"):
        tta_transforms("vertical")


def test_the_mean_of_undone_predictions_of_an_equivariant_function_is_the_function():
    images = arrays().astype("float64")

    def predict(images):
        return np.sqrt(images) + images.max(axis=-1, keepdims=True)

    mean = np.mean([t.undo(predict(t.apply(images))) for t in tta_transforms("flip")], axis=0)
    np.testing.assert_allclose(mean, predict(images))
    shifted = np.mean([t.undo(np.roll(t.apply(images), 1, axis=-1)) for t in tta_transforms("flip")], axis=0)
    np.testing.assert_allclose(shifted, (np.roll(images, 1, axis=-1) + np.roll(images, -1, axis=-1)) / 2)
