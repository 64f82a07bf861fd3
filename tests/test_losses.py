"""The losses against slow references straight from their definitions, and what training relies on."""

import importlib
import io
import math
import pathlib
import pickle
import weakref

import cloudpickle
import keras
import numpy as np
import pytest
from keras import ops

from salt.cross_validation import fit_share
from salt.losses import (
    LossError,
    bce_loss,
    deep_loss,
    dice_loss,
    empty_loss,
    lovasz_hinge_loss,
    segmentation_loss,
    symmetric_lovasz_loss,
)
from salt.parallel import JobPickler

needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gradients through TensorFlow")


def mixed_loss(logits, masks):
    return segmentation_loss(logits, masks, 0.25)


LOSSES = [bce_loss, dice_loss, lovasz_hinge_loss, symmetric_lovasz_loss, mixed_loss]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


# --- slow references, one tile, float64 ---


def slow_bce(logits, mask):
    total = 0.0
    for logit, salt in zip(logits.ravel(), mask.ravel(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        total -= math.log(probability if salt else 1 - probability)
    return total / mask.size


def slow_dice(logits, mask):
    probabilities = 1 / (1 + np.exp(-logits))
    return 1 - (2 * (probabilities * mask).sum() + 1) / (probabilities.sum() + mask.sum() + 1)


def jaccard_of_wrong(wrong, salt):
    """The paper's set function: 1 - IoU of the prediction that differs from the truth in just the pixels `wrong`."""
    proposal = salt ^ wrong
    return 1 - len(proposal & salt) / len(proposal | salt) if proposal | salt else 0.0


def slow_lovasz(logits, mask):
    """The Lovasz extension of that set function: sort, then weight each pixel by what it adds to the set before it."""
    errors = 1 - logits.ravel() * (2.0 * mask.ravel() - 1)
    penalties = [error + 1 if error > 0 else math.exp(error) for error in errors]
    salt = set(np.flatnonzero(mask))
    wrong, total = set(), 0.0
    for pixel in sorted(range(len(errors)), key=lambda pixel: -errors[pixel]):
        more = wrong | {pixel}
        total += penalties[pixel] * (jaccard_of_wrong(more, salt) - jaccard_of_wrong(wrong, salt))
        wrong = more
    return total


def slow_symmetric(logits, mask):
    return (slow_lovasz(logits, mask) + slow_lovasz(-logits, 1 - mask)) / 2


def slow_mixed(logits, mask):
    return 0.75 * (slow_bce(logits, mask) + slow_dice(logits, mask)) + 0.25 * slow_symmetric(logits, mask)


SLOW = dict(zip(LOSSES, [slow_bce, slow_dice, slow_lovasz, slow_symmetric, slow_mixed], strict=True))


def tiles(size=6, seed=0, shares=(0.3, 0.7, 0.0, 1.0, 0.05), spread=2.0):
    """Random logits and masks, an empty and a full one among them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (len(shares), size, size))
    masks = (rng.random(logits.shape) < np.array(shares)[:, None, None]).astype(np.uint8)
    return logits, masks


def gradient(loss, logits, masks):
    import tensorflow as tf

    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(loss(logits, masks))
    return np.asarray(tf.convert_to_tensor(tape.gradient(total, logits)))


# --- values ---


@each_loss
def test_each_loss_agrees_with_its_definition_on_small_tiles(loss):
    logits, masks = tiles()
    expected = [SLOW[loss](*tile) for tile in zip(logits, masks, strict=True)]
    np.testing.assert_allclose(loss(logits.astype("float32"), masks), expected, rtol=1e-5)


@each_loss
def test_a_loss_is_one_number_per_tile_whatever_else_is_in_the_batch(loss):
    logits, masks = tiles(size=9)
    logits = logits.astype("float32")
    together = np.asarray(loss(logits, masks))
    assert together.shape == (5,) and together.dtype == np.float32
    alone = [float(loss(logits[i : i + 1], masks[i : i + 1])[0]) for i in range(5)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@each_loss
def test_the_order_of_the_pixels_does_not_matter(loss):
    logits, masks = tiles(size=11)
    order = np.random.default_rng(1).permutation(121)
    shuffled = [array.reshape(5, 121)[:, order].reshape(5, 11, 11) for array in (logits, masks)]
    given, expected = (loss(logits.astype("float32"), masks) for logits, masks in (shuffled, (logits, masks)))
    np.testing.assert_allclose(given, expected, rtol=1e-5)


@each_loss
def test_a_sure_and_right_prediction_costs_nothing_and_a_sure_and_wrong_one_much(loss):
    _, masks = tiles(size=101)
    right = 40 * (2 * masks.astype("float32") - 1)
    assert np.max(loss(right, masks)) < 1e-5
    assert np.min(loss(-right, masks)) > 0.9


@each_loss
def test_huge_logits_give_finite_losses(loss):
    _, masks = tiles()
    assert np.isfinite(loss(np.full(masks.shape, 1e4, "float32"), masks)).all()
    assert np.isfinite(loss(np.full(masks.shape, -1e4, "float32"), masks)).all()


@each_loss
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_logits_lose_only_their_own_rounding(loss, dtype):
    logits, masks = tiles(size=101)
    half = ops.cast(logits.astype("float32"), dtype)
    result = loss(half, masks)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, loss(ops.cast(half, "float32"), masks), rtol=1e-6)
    np.testing.assert_allclose(result, loss(logits.astype("float32"), masks), rtol=1e-2)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.0, 1.0])
def test_lovasz_is_one_minus_iou_where_wrong_pixels_weigh_one_and_right_ones_nothing(share):
    # logit x sign = 1 makes elu(0) + 1 = 1; logit x sign = 60 makes exp(-59) = 0: a corner of the cube that it extends.
    rng = np.random.default_rng(3)
    masks = (rng.random((1, 101, 101)) < share).astype(np.uint8)
    wrong = rng.random(masks.shape) < 0.2
    logits = np.where(wrong, 1.0, 60.0) * (2.0 * masks - 1)
    proposal = masks ^ wrong
    expected = 1 - (proposal & masks).sum() / (proposal | masks).sum()
    np.testing.assert_allclose(lovasz_hinge_loss(logits.astype("float32"), masks), [expected], atol=1e-5)


def test_the_lovasz_losses_of_a_full_tile_agree_with_the_definition_at_salt_beyond_256_pixels():
    logits, masks = tiles(size=30, shares=(0.6,))  # 900 pixels: the reference is quadratic
    assert masks.sum() > 256
    half = ops.cast(logits.astype("float32"), "bfloat16")
    rounded = np.asarray(ops.cast(half, "float32"), "float64")
    np.testing.assert_allclose(lovasz_hinge_loss(half, masks), [slow_lovasz(rounded[0], masks[0])], rtol=1e-5)
    np.testing.assert_allclose(symmetric_lovasz_loss(half, masks), [slow_symmetric(rounded[0], masks[0])], rtol=1e-5)


def test_symmetric_lovasz_is_the_mean_of_salt_and_of_what_is_not_salt():
    logits, masks = tiles(size=101)
    logits = logits.astype("float32")
    salt, other = lovasz_hinge_loss(logits, masks), lovasz_hinge_loss(-logits, 1 - masks)
    np.testing.assert_allclose(symmetric_lovasz_loss(logits, masks), (np.asarray(salt) + other) / 2, rtol=1e-5)
    assert np.abs(np.asarray(salt) - other).max() > 0.1


def test_on_a_tile_without_salt_lovasz_is_the_worst_pixel_and_dice_the_predicted_area():
    logits = np.full((1, 5, 5), -3.0, "float32")
    logits[0, 2, 3], logits[0, 1, 1] = 1.5, 0.5
    masks = np.zeros((1, 5, 5), np.uint8)
    area = (1 / (1 + np.exp(-logits.astype("float64")))).sum()
    np.testing.assert_allclose(lovasz_hinge_loss(logits, masks), [1 + 1.5 + 1], rtol=1e-6)
    np.testing.assert_allclose(dice_loss(logits, masks), [area / (area + 1)], rtol=1e-6)


def test_segmentation_loss_is_bce_and_dice_at_weight_0_and_symmetric_lovasz_at_weight_1():
    logits, masks = tiles(size=20)
    logits = logits.astype("float32")
    first = np.asarray(bce_loss(logits, masks)) + np.asarray(dice_loss(logits, masks))
    assert np.array_equal(segmentation_loss(logits, masks, 0.0), first)
    weight = keras.Variable(1.0, trainable=False)
    assert np.array_equal(segmentation_loss(logits, masks, weight), symmetric_lovasz_loss(logits, masks))


@pytest.mark.parametrize(
    ("logits", "masks"),
    [
        ((2, 6, 6, 1), (2, 6, 6)),
        ((2, 6, 6, 1), (2, 6, 6, 1)),
        ((2, 6, 6), (2, 6, 5)),
        ((2, 6, 6), (1, 6, 6)),
        ((6, 6), (6, 6)),
    ],
)
@each_loss
def test_shapes_that_would_broadcast_to_a_wrong_loss_are_refused(loss, logits, masks):
    with pytest.raises(LossError, match=r"must be \[B, H, W\]"):
        loss(np.zeros(logits, "float32"), np.zeros(masks, "uint8"))


# --- gradients ---


@needs_tensorflow
@each_loss
def test_gradients_agree_with_finite_differences(loss):
    logits, masks = tiles(seed=2)
    errors = np.sort((1 - logits * (2.0 * masks - 1)).reshape(5, -1), axis=1)
    step = 1e-6
    assert np.diff(errors, axis=1).min() > 10 * step  # away from ties, where there are two slopes
    assert loss(logits, masks).dtype == "float64"
    given = gradient(loss, logits, masks)
    expected = np.zeros_like(logits)
    for place in np.ndindex(6, 6):
        up, down = logits.copy(), logits.copy()
        up[(slice(None), *place)] += step
        down[(slice(None), *place)] -= step
        slope = (np.asarray(loss(up, masks)) - np.asarray(loss(down, masks))) / (2 * step)
        expected[(slice(None), *place)] = slope
    np.testing.assert_allclose(given, expected, atol=1e-7)
    assert np.abs(expected).max() > 1e-3


@needs_tensorflow
@each_loss
def test_the_gradient_pushes_salt_up_and_everything_else_down(loss):
    logits, masks = tiles(size=12)
    slopes = gradient(loss, logits, masks)
    assert (slopes[masks == 1] <= 0).all() and (slopes[masks == 0] >= 0).all()
    assert (slopes < 0).any() and (slopes > 0).any()


@needs_tensorflow
def test_a_tile_without_salt_teaches_one_pixel_by_lovasz_and_every_pixel_by_the_symmetric_one():
    logits = tiles(size=12, shares=(0.0,))[0]
    masks = np.zeros(logits.shape, np.uint8)
    plain, symmetric = gradient(lovasz_hinge_loss, logits, masks), gradient(symmetric_lovasz_loss, logits, masks)
    assert np.flatnonzero(plain).tolist() == [logits.argmax()]
    assert (symmetric > 0).all()


@needs_tensorflow
def test_lovasz_goes_on_teaching_pixels_beyond_the_margin():
    logits, masks = np.full((1, 4, 4), 3.0), np.ones((1, 4, 4), np.uint8)  # error -2: relu would be done with them
    slopes = gradient(lovasz_hinge_loss, logits, masks)
    np.testing.assert_allclose(slopes.sum(), -math.exp(-2), rtol=1e-6)


@needs_tensorflow
@each_loss
def test_gradients_of_half_precision_logits_are_finite_and_the_same_twice(loss):
    logits, masks = tiles(size=101)
    half = ops.cast(logits.astype("float32"), "bfloat16")
    first, second = gradient(loss, half, masks), gradient(loss, half, masks)
    assert np.isfinite(first.astype("float32")).all() and np.array_equal(first, second)


@needs_tensorflow
@each_loss
def test_losses_and_their_gradients_compile_under_xla_for_any_batch(loss):
    import tensorflow as tf

    @tf.function(
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, 101, 101], tf.float32), tf.TensorSpec([None, 101, 101], tf.uint8)],
    )
    def compiled(logits, masks):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = loss(logits, masks)
        return losses, tape.gradient(losses, logits)

    logits, masks = tiles(size=101, shares=(0.3, 0.0))
    logits = logits.astype("float32")
    losses, slopes = compiled(logits, masks)
    np.testing.assert_allclose(losses, loss(logits, masks), rtol=1e-5)
    np.testing.assert_allclose(slopes, gradient(loss, logits, masks), atol=1e-6)


# --- other heads ---


def test_a_deep_loss_is_the_cross_entropy_against_the_share_of_salt_under_each_coarse_logit():
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(2, 3, 3)), (rng.random((2, 12, 12)) < 0.4).astype(np.uint8)
    expected = np.zeros(2)
    for tile, row, column in np.ndindex(2, 3, 3):
        share = masks[tile, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean()
        probability = 1 / (1 + math.exp(-logits[tile, row, column]))
        expected[tile] -= (share * math.log(probability) + (1 - share) * math.log(1 - probability)) / 9
    np.testing.assert_allclose(deep_loss(logits.astype("float32"), masks), expected, rtol=1e-5)


def test_a_deep_loss_at_full_size_is_the_cross_entropy():
    logits, masks = tiles()
    logits = logits.astype("float32")
    np.testing.assert_allclose(deep_loss(logits, masks), bce_loss(logits, masks), rtol=1e-6)


@pytest.mark.parametrize(("coarse", "fine"), [((2, 5, 5), (2, 12, 12)), ((2, 3, 3, 1), (2, 12, 12))])
def test_coarse_logits_that_do_not_fit_their_mask_are_refused(coarse, fine):
    with pytest.raises(LossError, match="S must be a multiple of s"):
        deep_loss(np.zeros(coarse, "float32"), np.zeros(fine, "uint8"))


@pytest.mark.parametrize("loss", [bce_loss, dice_loss, lovasz_hinge_loss, symmetric_lovasz_loss])
def test_masks_in_the_place_of_logits_are_refused(loss):
    logits, masks = np.linspace(-3, 3, 32).reshape(2, 4, 4).astype("float32"), np.ones((2, 4, 4), np.uint8)
    with pytest.raises(LossError, match="logits of uint8: must be floats, and come first"):
        loss(masks, logits)
    with pytest.raises(LossError, match=r"masks of -3.0 to 3.0: must lie within 0 and 1; the logits come first"):
        loss(masks.astype("float32"), logits)
    with pytest.raises(LossError, match="masks of 255 to 255: must lie within 0 and 1"):
        loss(logits, 255 * masks)


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 4, 4, 1), (2, 2)])
def test_the_empty_loss_asks_whether_a_tile_has_one_logit(shape):
    with pytest.raises(LossError, match="must be \\[B, 1\\] and \\[B, H, W\\]"):
        empty_loss(np.zeros(shape, "float32"), np.zeros((2, 4, 4)))


def test_the_empty_loss_asks_whether_a_tile_holds_any_salt():
    masks = np.zeros((3, 6, 6), np.uint8)
    masks[1, 2, 3] = 1
    masks[2] = 1
    losses = empty_loss(np.float32([[-2], [-2], [3]]), masks)
    expected = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(2)), math.log(1 + math.exp(-3))]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


# --- in Keras's compile ---


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 1)])
@pytest.mark.parametrize("loss", LOSSES[:4], ids=lambda loss: loss.__name__)
def test_keras_calls_a_loss_in_its_own_order_of_arguments(loss, shape):
    logits, masks = tiles()
    logits, masks = logits.astype("float32"), masks.astype("float32")
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile("sgd", loss=loss, jit_compile=False)
    found = model.evaluate(logits.reshape(5, *shape), masks.reshape(5, *shape), verbose=0)
    assert found == pytest.approx(float(ops.mean(loss(logits, masks))), rel=1e-5)
    with pytest.raises(LossError, match="the logits come first, then masks"):
        loss(masks, logits)


def test_a_loss_survives_pickle_and_keras_own_form():
    for loss in LOSSES[:4]:
        logits, masks = tiles()
        sent = cloudpickle.loads(cloudpickle.dumps(loss))
        read = keras.losses.deserialize(keras.losses.serialize(loss))
        for again in (sent, read):
            np.testing.assert_array_equal(again(logits, masks), loss(logits, masks))


def test_a_loss_without_its_weight_is_refused_by_its_name():
    model = keras.Sequential([keras.Input((6, 6)), keras.layers.Identity()])
    model.compile("sgd", loss=segmentation_loss, jit_compile=False)
    with pytest.raises(TypeError, match="lovasz_weight"):
        model.evaluate(*tiles(), verbose=0)


def test_the_definitions_of_salt_travel_by_value_as_from_a_notebook(monkeypatch):
    modules = [
        importlib.import_module(f"salt.{path.stem}")
        for path in (pathlib.Path(__file__).parents[1] / "salt").glob("[a-z]*.py")
    ]
    logits = np.linspace(-2, 2, 32, dtype="float32").reshape(2, 4, 4)
    masks = (np.arange(32).reshape(2, 4, 4) % 3 == 0).astype("float32")
    file = io.BytesIO()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        JobPickler(file).dump((fit_share, segmentation_loss))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
    # A process that has none of the classes: else cloudpickle would find them again, and make none.
    monkeypatch.setattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", weakref.WeakValueDictionary())
    share, loss = pickle.loads(file.getvalue())
    assert share is not fit_share and loss is not segmentation_loss
    for lovasz in (0.0, 1.0):
        np.testing.assert_array_equal(loss(logits, masks, lovasz), segmentation_loss(logits, masks, lovasz))
