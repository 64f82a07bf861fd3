"""The warp against plain loops, against np.pad, and under XLA; the draws against their limits."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from salt.augmentations import (
    AugmentationError,
    adjust_brightness_contrast,
    augment,
    crop_at,
    cut_out,
    draw_augmentation,
    draw_boxes,
    mix_tiles,
    plain_parameters,
    warp_tiles,
)
from salt.config import STRONG_AUGMENTATION, preset

needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.function")

# (flip, scale, shear, rotation, row offset, column offset): each alone, then all together.
CASES = {
    "flip": (1, 1.0, 0.0, 0.0, 5, 5),
    "jitter": (0, 1.0, 0.0, 0.0, 0, 11),
    "larger": (0, 1.3, 0.0, 0.0, 5, 5),
    "smaller": (0, 0.7, 0.0, 0.0, 5, 5),
    "shear": (0, 1.0, 0.2, 0.0, 5, 5),
    "rotation": (0, 1.0, 0.0, 20.0, 5, 5),
    "flip, shear, jitter": (1, 1.0, -0.2, 0.0, 11, 0),
    "all": (1, 0.8, 0.15, -12.0, 9, 2),
    "all unflipped": (0, 1.2, -0.1, 33.0, 1, 10),
}


def parameters_of(*cases):
    """The dict that the warp takes, for one tile per case."""
    flip, scale, shear, rotation, row, column = np.array(cases, "float32").T
    zeros = np.zeros(len(cases), "float32")
    return {
        "flip": flip,
        "scale": scale,
        "shear": shear,
        "rotation": rotation,
        "offset": np.stack([row, column], axis=1),
        "brightness": zeros,
        "contrast": zeros + 1,
        "hole": np.zeros((len(cases), 3), "float32"),
    }


def fold_index(index, size, mode):
    """What np.pad shows outside: goes there step by step between the two mirrors, or stays at the border."""
    if mode == "edge":
        return min(max(index, 0), size - 1)
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def slow_warp(tile, case, size, mode):
    """The definition, pixel by pixel: the inverse of scale x rotation x shear x flip about the tile's centre."""
    flip, scale, shear, degrees, row_offset, column_offset = case
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    mirror = np.array([[-1.0 if flip else 1.0, 0.0], [0.0, 1.0]])  # on (x to the right, y down)
    sheared = np.array([[1.0, shear], [0.0, 1.0]])
    rotated = np.array([[cosine, sine], [-sine, cosine]])
    back = np.linalg.inv(scale * rotated @ sheared @ mirror)
    n = len(tile)
    centre = (n - 1) / 2
    result = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            x, y = back @ [column - column_offset - centre, row - row_offset - centre] + centre
            left, top = math.floor(x), math.floor(y)
            for r, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
                for c, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
                    value = tile[fold_index(r, n, mode), fold_index(c, n, mode)]
                    result[row, column] += row_weight * column_weight * value
    return result


def noise(count, size=101, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)


def blobs(count, size=101, seed=0):
    """Masks with a border that is neither straight nor symmetric."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    phase = rng.uniform(0, 6, (count, 4, 1, 1))
    field = np.sin(7 * x + phase[:, 0]) + np.sin(9 * y + phase[:, 1]) + np.sin(5 * (x + y) + phase[:, 2])
    return (field > 0.3).astype(np.uint8)


# --- the warp ---


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_plain_parameters_give_exactly_what_numpy_pads_at_every_size(mode):
    tiles = noise(2)
    for size in [*range(101, 130), 160, 256, 420]:  # 420 goes over the tile more than once in each direction
        before = (size - 101) // 2
        width = (before, size - 101 - before)
        warped = warp_tiles(tiles, plain_parameters(2, size, 101), size, mode)
        assert np.array_equal(warped, np.pad(tiles, ((0, 0), width, width), mode)), size


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_an_offset_and_a_flip_give_exactly_the_flipped_tile_padded_at_that_place(mode):
    tiles = noise(3)
    cases = [(1, 1.0, 0.0, 0.0, 0, 27), (0, 1.0, 0.0, 0.0, 27, 4), (1, 1.0, 0.0, 0.0, 20, 0)]
    warped = warp_tiles(tiles, parameters_of(*cases), 128, mode)
    for tile, (flip, *_, row, column), result in zip(tiles, cases, np.asarray(warped), strict=True):
        tile = tile[:, ::-1] if flip else tile
        assert np.array_equal(result, np.pad(tile, ((row, 27 - row), (column, 27 - column)), mode))


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_every_transform_agrees_with_plain_loops_on_small_tiles(mode):
    tiles = noise(len(CASES), size=21) / np.float32(255)
    warped = np.asarray(warp_tiles(tiles, parameters_of(*CASES.values()), 32, mode))
    for tile, (name, case), result in zip(tiles, CASES.items(), warped, strict=True):
        np.testing.assert_allclose(result, slow_warp(tile, case, 32, mode), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_all_transforms_together_agree_with_plain_loops_on_a_full_tile(mode):
    tile, case = noise(1)[0] / np.float32(255), (1, 1.1, 0.07, 3.0, 22, 3)
    warped = warp_tiles(tile[None], parameters_of(case), 128, mode)[0]
    np.testing.assert_allclose(warped, slow_warp(tile, case, 128, mode), atol=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES.values() if max(case[4:]) <= 11])
def test_a_tile_with_its_surroundings_is_warped_as_one_picture_about_the_tile(case):
    pictures = noise(1, size=2 * 32 - 21)  # a tile of 21 pixels in a square of 32
    warped = np.asarray(warp_tiles(pictures, parameters_of(case), 32, "neighbours"))
    *transform, row, column = case
    whole = np.asarray(warp_tiles(pictures, parameters_of((*transform, 0, 0)), 43, "reflect"))
    expected = whole[:, 11 - row : 43 - row, 11 - column : 43 - column]
    np.testing.assert_allclose(warped, expected, atol=1e-2)


def test_a_quarter_turn_is_counter_clockwise():
    tiles = noise(1)
    turned = warp_tiles(tiles, parameters_of((0, 1.0, 0.0, 90.0, 0, 0)), 101, "edge")
    np.testing.assert_allclose(turned[0], np.rot90(tiles[0]), atol=0.01)


def test_shear_moves_what_is_further_down_to_the_right_and_scale_away_from_the_centre():
    tiles = np.zeros((1, 101, 101), np.uint8)
    tiles[0, 60, 50] = tiles[0, 50, 55] = 255
    sheared = np.asarray(warp_tiles(tiles, parameters_of((0, 1.0, 0.3, 0.0, 0, 0)), 101, "edge"))[0]
    magnified = np.asarray(warp_tiles(tiles, parameters_of((0, 3.0, 0.0, 0.0, 0, 0)), 101, "edge"))[0]
    assert sheared[60, 53] > 250 and sheared[50, 55] > 250
    assert magnified[80, 50] > 250 and magnified[50, 65] > 250


def test_channels_are_warped_as_each_would_be_alone():
    tiles, parameters = noise(2), parameters_of(CASES["all"], CASES["all unflipped"])
    together = warp_tiles(np.stack([tiles, 255 - tiles], axis=-1), parameters, 128, "reflect")
    assert together.shape == (2, 128, 128, 2)
    assert np.array_equal(together[..., 0], warp_tiles(tiles, parameters, 128, "reflect"))
    assert np.array_equal(together[..., 1], warp_tiles(255 - tiles, parameters, 128, "reflect"))


def test_an_unknown_mode_and_a_square_smaller_than_the_tile_are_refused_with_the_remedy():
    with pytest.raises(AugmentationError, match="mode='wrap'.*'reflect', 'edge' or 'neighbours'"):
        warp_tiles(noise(1), plain_parameters(1, 128, 101), 128, "wrap")
    with pytest.raises(AugmentationError, match="size=100.*at least 101"):
        warp_tiles(noise(1), plain_parameters(1, 128, 101), 100, "reflect")


# --- image and mask ---


def test_plain_parameters_give_the_padded_image_and_the_padded_mask():
    images, masks = noise(3), blobs(3)
    padded, truth = augment(images, masks, plain_parameters(3, 128, 101), 128, "reflect")
    assert np.array_equal(padded, np.pad(images, ((0, 0), (13, 14), (13, 14)), "reflect"))
    assert np.array_equal(truth, np.pad(masks, ((0, 0), (13, 14), (13, 14)), "reflect"))
    assert np.asarray(padded).dtype == np.asarray(truth).dtype == np.float32


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_image_and_mask_move_together(mode):
    masks = blobs(32)
    config = preset("unet", **STRONG_AUGMENTATION, brightness=0, contrast=0)
    parameters = draw_augmentation(config, 32, keras.random.SeedGenerator(1), 101)
    padded, truth = augment(255 * masks, masks, parameters, 128, mode)
    seen = np.asarray(padded) / 255
    clear = np.abs(seen - 0.5) > 1e-4  # elsewhere rounding decides
    assert clear.mean() > 0.99
    assert np.array_equal((seen >= 0.5)[clear], np.asarray(truth)[clear] == 1)
    assert (np.asarray(crop_at(truth, parameters["offset"], 101)) != masks).mean() > 0.05  # or nothing was moved at all


def test_warped_masks_are_binary_and_agree_with_plain_loops():
    masks, case = blobs(1), (1, 0.92, -0.06, 2.5, 27, 8)
    _, truth = augment(255 * masks, masks, parameters_of(case), 128, "reflect")
    truth = np.asarray(truth)[0]
    reference = slow_warp(masks[0], case, 128, "reflect")
    assert set(np.unique(truth)) == {0, 1}
    clear = np.abs(reference - 0.5) > 1e-4
    assert np.array_equal(truth[clear], (reference >= 0.5)[clear])


def test_a_mask_pixel_that_is_half_salt_counts_as_salt():
    masks = np.zeros((1, 101, 101), np.uint8)
    masks[0, :, 51:] = 1
    parameters = parameters_of((0, 2.0, 0.0, 0.0, 0, 0))  # column 51 comes from half way between 50 and 51
    _, truth = augment(masks, masks, parameters, 101, "edge")
    assert np.array_equal(np.asarray(truth)[0, 50, 49:53], [0, 0, 1, 1])


def test_a_hole_has_the_mean_of_its_image_and_the_mask_knows_nothing_of_it():
    images, masks = noise(3), blobs(3)
    parameters = {**plain_parameters(3, 101, 101), "hole": np.float32([[10, 20, 6], [0, 101, 10], [50, 50, 0]])}
    holed, truth = augment(images, masks, parameters, 101, "edge")
    expected = images.astype(np.float32)
    expected[0, 7:13, 17:23] = images[0].mean()
    expected[1, :5, 96:] = images[1].mean()
    np.testing.assert_allclose(holed, expected, rtol=1e-5)
    assert np.array_equal(truth, masks)
    assert np.array_equal(np.asarray(cut_out(ops.cast(images, "float32"), np.zeros((3, 3), "float32"))), images)


def test_a_tile_gets_a_rectangle_of_the_tile_before_it_image_and_mask_alike():
    rng = np.random.default_rng(0)
    images, masks = rng.normal(size=(3, 9, 9)).astype("float32"), rng.integers(0, 2, (3, 9, 9)).astype("float32")
    boxes = np.array([[2, 1, 5, 9], [0, 0, 0, 0], [0, 0, 9, 9]], "float32")
    for mixed, tiles in zip(mix_tiles(images, masks, boxes), (images, masks), strict=True):
        expected = tiles.copy()
        expected[0, 2:5, 1:9] = tiles[2, 2:5, 1:9]
        expected[2] = tiles[1]
        np.testing.assert_array_equal(mixed, expected)


def test_boxes_go_to_their_share_of_the_tiles_lie_within_the_square_and_follow_from_the_seed():
    boxes = np.array(draw_boxes(0.3, 4000, 112, keras.random.SeedGenerator(1)))
    np.testing.assert_array_equal(boxes, draw_boxes(0.3, 4000, 112, keras.random.SeedGenerator(1)))
    top, left, bottom, right = boxes.T
    given = bottom > 0
    assert (boxes == np.round(boxes)).all() and boxes.min() >= 0 and boxes.max() == 112
    assert (top <= bottom).all() and (left <= right).all() and not boxes[~given].any()
    assert given.mean() == pytest.approx(0.3, abs=0.03)
    area = ((bottom - top) * (right - left))[given] / 112**2
    assert area.max() > 0.8 and np.mean(area < 0.1) > 0.1  # of all sizes
    assert not np.array(draw_boxes(0.0, 50, 112, keras.random.SeedGenerator(1))).any()


def test_brightness_and_contrast_change_the_image_and_leave_the_mask():
    images, masks = noise(2), blobs(2)
    parameters = plain_parameters(2, 128, 101)
    changed = {**parameters, "brightness": np.float32([20, 0]), "contrast": np.float32([1, 1.5])}
    plain_images, plain_masks = augment(images, masks, parameters, 128, "edge")
    other_images, other_masks = augment(images, masks, changed, 128, "edge")
    assert np.array_equal(plain_masks, other_masks)
    assert (np.abs(np.asarray(plain_images) - other_images).max(axis=(1, 2)) > 10).all()


def test_contrast_stretches_about_the_mean_of_each_image_and_brightness_is_added_before_the_clip():
    images = np.stack([np.tile(np.uint8([100, 140]), (4, 2)), np.tile(np.uint8([0, 200]), (4, 2))])  # means 120, 100
    adjusted = np.asarray(adjust_brightness_contrast(images, np.float32([5, -10]), np.float32([0.5, 1.2])))
    np.testing.assert_allclose(adjusted[0, 0, :2], [115, 135], atol=1e-4)
    np.testing.assert_allclose(adjusted[1, 0, :2], [0, 210], atol=1e-4)  # -30 is clipped
    brighter = adjust_brightness_contrast(images, np.float32([120, 120]), np.float32([1, 1]))
    assert np.array_equal(np.asarray(brighter)[:, 0, :2], [[220, 255], [120, 255]])


def test_augmentation_is_float32_to_the_last_bit_whatever_the_precision_policy():
    images, masks = noise(2), blobs(2)
    config = preset("unet", **STRONG_AUGMENTATION)

    def run():
        parameters = draw_augmentation(config, 2, keras.random.SeedGenerator(3), 101)
        return *augment(images, masks, parameters, 128, "reflect"), *parameters.values()

    expected = run()
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.config.set_floatx("bfloat16")
        given = run()
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
    for one, other in zip(expected, given, strict=True):
        assert keras.backend.standardize_dtype(other.dtype) == "float32"
        assert np.array_equal(one, other)


# --- the window ---


def test_a_window_is_cut_out_of_each_item_at_its_own_place():
    padded = np.random.default_rng(0).normal(size=(3, 128, 128)).astype("float32")
    offset = np.array([[0, 27], [27, 0], [13, 5]], "int32")
    window = np.asarray(crop_at(padded, offset, 101))
    for item, (row, column), result in zip(padded, offset, window, strict=True):
        assert np.array_equal(result, item[row : row + 101, column : column + 101])


def test_a_window_keeps_the_dtype_and_takes_any_size():
    padded = ops.cast(np.arange(2 * 36).reshape(2, 6, 6), "bfloat16")
    window = crop_at(padded, np.float32([[1, 2], [4, 0]]), 2)
    assert keras.backend.standardize_dtype(window.dtype) == "bfloat16"
    assert np.asarray(ops.cast(window, "float32")).tolist() == [[[8, 9], [14, 15]], [[60, 61], [66, 67]]]


@needs_tensorflow
def test_the_gradient_of_a_window_lies_in_the_window_alone_and_is_the_same_twice():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    padded = tf.constant(rng.normal(size=(2, 128, 128)), tf.float32)
    offset, weights = np.array([[3, 27], [0, 9]]), rng.normal(size=(2, 101, 101)).astype("float32")
    expected = np.zeros((2, 128, 128), "float32")
    for item, (row, column), weight in zip(expected, offset, weights, strict=True):
        item[row : row + 101, column : column + 101] = weight
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(padded)
            loss = tf.reduce_sum(crop_at(padded, offset, 101) * weights)
        assert np.array_equal(tf.convert_to_tensor(tape.gradient(loss, padded)), expected)


# --- the draws ---


def test_draws_stay_within_the_limits_of_the_configuration_and_come_near_them():
    config = preset("unet", jitter=True, scale=0.25, shear=0.07, rotation=3, brightness=12, contrast=0.1, cutout=30)
    parameters = draw_augmentation(config, 4000, keras.random.SeedGenerator(0), 101)
    drawn = {name: np.asarray(values) for name, values in parameters.items()}
    limits = {
        "scale": (0.8, 1.25),
        "shear": (-0.07, 0.07),
        "rotation": (-3, 3),
        "brightness": (-12, 12),
        "contrast": (0.9, 1.1),
    }
    for name, (low, high) in limits.items():
        values, near = drawn[name], 0.01 * (high - low)
        assert values.shape == (4000,) and values.dtype == np.float32
        assert low - 1e-6 <= values.min() < low + near and high - near < values.max() <= high + 1e-6, name
    assert 0.47 < (drawn["scale"] < 1).mean() < 0.53  # log-uniform: as many shrink as grow
    assert 0.47 < drawn["flip"].mean() < 0.53 and set(np.unique(drawn["flip"])) == {0, 1}
    for axis in (0, 1):
        places, counts = np.unique(drawn["offset"][:, axis], return_counts=True)
        assert places.tolist() == list(range(28))  # both ends of the 27 pixels of room, whole numbers only
        assert counts.min() > 4000 / 28 / 2
    row, column, side = drawn["hole"].T
    assert 0.47 < (side > 0).mean() < 0.53 and 29.5 < side.max() <= 30 and side.min() == 0
    assert all(0 <= place.min() < 1 and 127 < place.max() <= 128 for place in (row, column))
    columns = np.stack([drawn[name] for name in (*limits, "flip")] + list(drawn["offset"].T) + [row, column, side])
    correlations = np.corrcoef(columns) - np.eye(11)
    assert np.abs(correlations).max() < 0.1  # eleven numbers of their own, none used twice


def test_the_same_seed_gives_the_same_draws_and_the_next_batch_other_ones():
    config, generator = preset("unet", **STRONG_AUGMENTATION, cutout=30), keras.random.SeedGenerator(5)
    first, second = (draw_augmentation(config, 8, generator, 101) for _ in range(2))
    again = draw_augmentation(config, 8, keras.random.SeedGenerator(5), 101)
    assert set(first) == set(plain_parameters(8, 128, 101))
    for name in first:
        assert np.array_equal(first[name], again[name]), name
        assert not np.array_equal(first[name], second[name]), name


def test_switching_some_augmentations_off_leaves_the_others_as_they_were():
    everything = draw_augmentation(preset("unet", **STRONG_AUGMENTATION), 16, keras.random.SeedGenerator(2), 101)
    off = preset("unet", flip=False, jitter=False, shear=STRONG_AUGMENTATION["shear"], contrast=0)
    some = draw_augmentation(off, 16, keras.random.SeedGenerator(2), 101)
    plain = plain_parameters(16, 128, 101)
    for name in everything:
        expected = everything if name in ("shear", "brightness") else plain
        assert np.array_equal(some[name], expected[name]), name


def test_plain_parameters_put_the_tile_in_the_middle_and_a_draw_moves_the_state_of_the_generator_once():
    assert np.asarray(plain_parameters(2, 128, 101)["offset"]).tolist() == [[13, 13], [13, 13]]
    generator, other = keras.random.SeedGenerator(4), keras.random.SeedGenerator(4)
    draw_augmentation(preset("unet", jitter=True), 2, generator, 101)
    other.next()
    assert np.array_equal(generator.state.value, other.state.value)


# --- compilation ---


@needs_tensorflow
@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_the_warp_compiles_under_xla_and_agrees_with_itself(mode):
    import tensorflow as tf

    images, masks = noise(9), blobs(9)
    parameters = parameters_of(*CASES.values())

    @tf.function(jit_compile=True)
    def compiled(images, masks, parameters):
        return augment(images, masks, parameters, 128, mode)

    plain_images, plain_masks = augment(images, masks, parameters, 128, mode)
    xla_images, xla_masks = compiled(images, masks, parameters)
    # Every pixel: XLA rounds coordinates otherwise, and where they are whole numbers a wrong tap would show at once.
    np.testing.assert_allclose(xla_images, plain_images, atol=255 * 1e-4)
    assert (np.asarray(xla_masks) != np.asarray(plain_masks)).mean() < 1e-4  # only where rounding decides


@needs_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_drawing_and_warping_compile_in_one_step_for_any_batch(jit_compile):
    import tensorflow as tf

    config, generator = preset("unet", **STRONG_AUGMENTATION, cutout=30), keras.random.SeedGenerator(0)
    spec = tf.TensorSpec([None, 101, 101], tf.uint8)

    @tf.function(jit_compile=jit_compile, input_signature=[spec, spec])
    def step(images, masks):
        parameters = draw_augmentation(config, ops.shape(images)[0], generator, 101)
        padded, truth = augment(images, masks, parameters, config.padded_size, config.padding)
        return padded, truth, crop_at(padded, parameters["offset"], 101)

    for batch in (4, 3):
        padded, truth, window = step(noise(batch), blobs(batch))
        assert padded.shape == truth.shape == (batch, 128, 128) and window.shape == (batch, 101, 101)
        assert np.min(padded) >= 0 and np.max(padded) <= 255.001
    first, second = step(noise(2), blobs(2))[0], step(noise(2), blobs(2))[0]
    assert not np.array_equal(first, second)  # the generator's state moves within the compiled step
