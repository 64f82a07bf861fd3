"""Images larger than what a network sees, in colour, with several classes: cut, trained on, predicted, stored."""

import dataclasses
import pickle
import tracemalloc

import cloudpickle
import keras
import numpy as np
import pytest
from keras import ops

from salt.artifacts import Oof, read_oof, read_probabilities, write_oof, write_probabilities
from salt.augmentations import augment, plain_parameters
from salt.config import preset
from salt.cross_validation import fit_folds
from salt.inference import predict_probabilities, predict_tiles, window_starts
from salt.losses import segmentation_loss
from salt.metrics import DICE
from salt.scenes import synthetic_scenes
from salt.severstal import COMPETITION as SEVERSTAL
from salt.stacks import Stack, join_stacks, subset
from salt.task import SegmentationTask, TileBatches, window_corner
from salt.tiles import Tiles

WIDE = dataclasses.replace(SEVERSTAL, size=(24, 90))


@pytest.fixture(scope="module")
def wide() -> Tiles:
    """A few wide images in colour with masks of four classes."""
    return synthetic_scenes(WIDE, 12, seed=0, progress=False)


def stack_of(array):
    return Stack(lambda index: array[index], array.shape)


def brightness_model(size, classes):
    """A network whose logits are a pixel's red, less 100, in units of 20; for class k less 10 k."""
    images = keras.Input((size, size, 3))
    red = (ops.cast(images[..., :1], "float32") - 100.0) / 20.0
    return keras.Model(images, ops.concatenate([red - 0.5 * number for number in range(classes)], axis=-1))


def test_windows_are_inside_and_half_of_them_hold_what_is_marked():
    mask = np.zeros((40, 200, 4), np.uint8)
    mask[7, 150, 2] = 1
    corners = [window_corner(mask, 32, np.random.default_rng(seed)) for seed in range(400)]
    assert all(0 <= row <= 8 and 0 <= column <= 168 for row, column in corners)
    assert len({row for row, _ in corners}) == 9 and min(column for _, column in corners) < 10
    holding = np.mean([row <= 7 < row + 32 and column <= 150 < column + 32 for row, column in corners])
    assert 0.5 < holding < 0.7  # half, and those that do by chance
    empty = [window_corner(0 * mask, 32, np.random.default_rng(seed)) for seed in range(400)]
    assert np.mean([column <= 150 < column + 32 for _, column in empty]) < 0.3


def test_a_batch_has_the_same_window_of_image_and_mask_which_each_epoch_draws_anew(wide):
    images = np.repeat(np.arange(24 * 90, dtype=np.int64).reshape(1, 24, 90, 1) % 251, 3, axis=3).astype(np.uint8)
    images = np.repeat(images, 8, axis=0)
    masks = (images[..., :1] % 2).repeat(4, axis=3)
    batches = TileBatches(images, masks, 4, seed=(0, 0), window=16)
    (batch,) = batches[0]
    assert batch["image"].shape == (4, 16, 16, 3) and batch["mask"].shape == (4, 16, 16, 4)
    np.testing.assert_array_equal(batch["mask"][..., 0], batch["image"][..., 0] % 2)
    np.testing.assert_array_equal(batches[0][0]["image"], batch["image"])  # a repetition has the same
    batches.set_epoch(1)
    assert (batches[0][0]["image"] != batch["image"]).any()
    fixed = TileBatches(images, masks, 4, window=16)
    np.testing.assert_array_equal(fixed[1][0]["image"], TileBatches(images, masks, 4, window=16)[1][0]["image"])
    lazy = TileBatches(stack_of(images), stack_of(masks), 4, seed=(0, 0), window=16)
    np.testing.assert_array_equal(lazy[0][0]["image"], batch["image"])


def test_a_batch_of_squares_holds_few_whole_images_at_a_time():
    shape = (64, 512, 512, 3)
    images = Stack(lambda index: np.full(shape[1:], index, np.uint8), shape)
    masks = Stack(lambda index: np.zeros(shape[1:3], np.uint8), shape[:3])
    batches = TileBatches(images, masks, 64, window=32)
    tracemalloc.start()
    (batch,) = batches[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch["image"][:, 0, 0, 0].tolist() == list(range(64))
    assert peak < np.prod(shape) / 3


def test_colours_and_classes_are_warped_as_their_channels_one_by_one():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    masks = rng.integers(0, 2, (2, 20, 20, 4), dtype=np.uint8)
    parameters = plain_parameters(2, 24, 20) | {"shear": ops.ones(2) * 0.2, "flip": ops.ones(2)}
    padded, truth = (np.asarray(array) for array in augment(images, masks, parameters, 24, "reflect"))
    assert padded.shape == (2, 24, 24, 3) and truth.shape == (2, 24, 24, 4)
    for channel in range(3):
        for label in range(4):
            one, mask = augment(images[..., channel], masks[..., label], parameters, 24, "reflect")
            np.testing.assert_allclose(padded[..., channel], one, atol=1e-4)
            np.testing.assert_array_equal(truth[..., label], mask)


def test_the_loss_and_the_score_of_several_classes_are_means_over_tiles_and_classes(wide):
    config = preset("smoke", padded_size=32, lovasz=0.0, jitter=False, flip=False, scale=0, shear=0, rotation=0)
    task = SegmentationTask(brightness_model(32, 4), config, DICE)
    batch = TileBatches(wide.images, wide.masks, 6, window=24)[0][0]
    result = {name: np.asarray(value) for name, value in task(batch).items()}
    np.testing.assert_array_equal(result["mask"], batch["mask"])
    expected = [segmentation_loss(result["logits"][..., k], np.float32(batch["mask"][..., k]), 0.0) for k in range(4)]
    assert float(task.compute_loss(y_pred=result)) == pytest.approx(float(np.mean(expected)), rel=1e-5)
    task.compute_metrics(None, None, result)
    predicted, truth = result["logits"] >= 0, batch["mask"] > 0
    counts = [stack.sum(axis=(1, 2)) for stack in (predicted & truth, predicted, truth)]
    assert float(task.score.result()) == pytest.approx(float(DICE.score(*counts).mean()), rel=1e-5)


def test_windows_cover_an_image_evenly_and_overlap():
    for length, side in ((90, 32), (32, 32), (33, 32), (1918, 256), (100, 25)):
        starts = window_starts(length, side)
        assert starts[0] == 0 and starts[-1] == length - side
        assert max(np.diff(starts), default=0) <= 0.75 * side + 1


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_a_network_that_looks_at_single_pixels_predicts_large_images_as_it_would_whole(wide, tta):
    predicted = predict_probabilities([brightness_model(16, 4)], wide.images[:3], tta, 16, progress=False)
    logits = (wide.images[:3, ..., :1].astype(float) - 100) / 20 - 0.5 * np.arange(4)
    assert predicted.shape == (3, 24, 90, 4) and predicted.dtype == np.uint8
    assert np.abs(predicted - 255 / (1 + np.exp(-logits))).max() <= 0.51
    lazy = np.stack(list(predict_tiles([brightness_model(16, 4)], stack_of(wide.images[:3]), tta, 16, progress=False)))
    np.testing.assert_array_equal(lazy, predicted)


def test_where_windows_overlap_each_weighs_less_near_its_border():
    images = keras.Input((16, 16, 3))
    ramp = np.float32(np.tile(np.linspace(-3, 3, 16), (16, 1)))[None, ..., None]
    model = keras.Model(
        images, 0.0 * ops.cast(images[..., :1], "float32") + ramp
    )  # it says another thing at each place
    predicted = predict_probabilities([model], np.zeros((1, 16, 40, 3), np.uint8), "none", 16, progress=False)[0, 0]
    assert np.abs(np.diff(predicted.astype(int))).max() < 60  # no step from one window to the next: that would be 230


def test_predictions_of_large_tiles_are_stored_and_read_one_by_one(tmp_path, wide):
    rng = np.random.default_rng(0)
    probabilities = rng.integers(0, 256, wide.masks.shape, dtype=np.uint8)
    write_probabilities(tmp_path / "p.npz", wide.ids, iter(probabilities))
    ids, stack = read_probabilities(tmp_path / "p.npz")
    assert isinstance(stack, Stack) and ids.tolist() == wide.ids.tolist()
    np.testing.assert_array_equal(stack[:], probabilities)
    again = pickle.loads(cloudpickle.dumps(stack))  # as it goes to a worker
    np.testing.assert_array_equal(again[[7, 3]], probabilities[[7, 3]])
    fold = np.arange(12, dtype=np.int8) % 2
    write_oof(tmp_path / "oof.npz", Oof(wide.ids, fold, stack, stack_of(wide.masks)))
    oof = read_oof(tmp_path / "oof.npz")
    assert isinstance(oof.masks, Stack)
    np.testing.assert_array_equal(oof.masks[:], wide.masks)
    np.testing.assert_array_equal(oof.probabilities[5], probabilities[5])
    np.testing.assert_array_equal(oof.fold, fold)


def test_stacks_are_joined_and_parted_like_arrays():
    first, second = np.arange(24, dtype=np.uint8).reshape(3, 2, 4), np.arange(16, dtype=np.uint8).reshape(2, 2, 4)
    joined = join_stacks(stack_of(first), second)
    expected = np.concatenate([first, second])
    np.testing.assert_array_equal(joined[:], expected)
    np.testing.assert_array_equal(subset(joined, np.array([4, 0]))[:], expected[[4, 0]])
    np.testing.assert_array_equal(join_stacks(first, second), expected)


@pytest.mark.slow  # two trainings
def test_a_training_on_what_is_read_tile_by_tile_gives_what_one_on_arrays_gives(tmp_path, wide):
    config = preset("smoke", padded_size=16, folds=2, batch_size=3, epochs=1)
    whole = fit_folds(config, wide, tmp_path / "a", tmp_path / "a-state").oof
    lazy = dataclasses.replace(wide, images=stack_of(wide.images), masks=stack_of(wide.masks))
    oof = fit_folds(config, lazy, tmp_path / "b", tmp_path / "b-state").oof
    assert isinstance(oof.probabilities, Stack)
    for name in ("ids", "fold", "probabilities", "masks"):
        np.testing.assert_array_equal(getattr(oof, name)[:], getattr(whole, name))
