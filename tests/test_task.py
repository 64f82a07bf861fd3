"""The compiled step: its metric, what surrounds the network in it, its batches, its random states."""

import keras
import numpy as np
import pytest
from keras import ops
from training_tiles import PLAIN, TINY, tiles_with_ramps

from salt.augmentations import augment, draw_augmentation
from salt.config import preset
from salt.keras_metrics import ImageIoU, LeaderboardScore
from salt.losses import deep_loss, empty_loss, segmentation_loss
from salt.metrics import AVERAGE_PRECISION, DICE, F2, IOU, leaderboard_score
from salt.networks import build_model
from salt.running_score import MetricScore
from salt.task import (
    SegmentationTask,
    TileBatches,
    TransformError,
    begin_epoch,
    fused_augment,
    reestimate_batch_norm,
    weights_seed,
)
from salt.tiles import pad_images


def image_as_logits(size):
    """A network that says of each pixel what it sees there."""
    tiles = keras.Input((size, size, 1))
    return keras.Model(tiles, ops.cast(tiles, "float32"))


def test_the_keras_metric_equals_the_leaderboard_score_exactly():
    rng = np.random.default_rng(0)
    truth = np.zeros((60, 20, 20), np.uint8)
    for index in range(1, 60):
        truth[index].flat[: rng.integers(0, 400)] = 1
    proposal = truth.copy()
    for index in range(60):
        proposal[index].flat[rng.integers(0, 400, rng.integers(0, 150))] ^= 1
    proposal[10].flat[:] = np.arange(400) < 20  # IoU 20 / 40: a tie at .5, which does not count
    truth[10].flat[:] = np.arange(400) < 40
    truth[11], proposal[12] = 0, 0
    truth[13], proposal[13] = 0, 0  # empty against empty scores 1
    metric = LeaderboardScore()
    for rows in (slice(0, 7), slice(7, 60)):
        metric.update_state(truth[rows], np.where(proposal[rows] > 0, 0.0, -0.1).astype("float32"))
    assert float(metric.result()) == np.float32(leaderboard_score(proposal, truth))


def test_the_keras_metrics_of_an_image_that_is_nan_are_nan_and_no_share_of_empty_tiles():
    masks, logits = np.zeros((4, 5, 5), np.uint8), np.full((4, 5, 5), -1.0, "float32")
    for metric in (LeaderboardScore(), ImageIoU()):
        metric.update_state(masks, logits)
        assert float(metric.result()) == 1.0
        metric.update_state(masks[..., None], np.where(np.arange(100).reshape(4, 5, 5, 1) == 7, np.nan, -1.0))
        assert np.isnan(float(metric.result()))


def test_the_keras_metric_starts_anew_after_a_reset():
    metric = LeaderboardScore()
    metric.update_state(np.ones((2, 4, 4)), -np.ones((2, 4, 4)))
    assert float(metric.result()) == 0.0
    metric.reset_state()
    metric.update_state(np.ones((2, 4, 4)), np.ones((2, 4, 4)))
    assert float(metric.result()) == 1.0


def test_validation_pads_as_inference_does_and_looks_at_the_tile_only():
    images, masks = tiles_with_ramps(3)
    seen = []
    network = image_as_logits(104)
    task = SegmentationTask(network, preset("smoke"), AVERAGE_PRECISION)
    task.network = lambda tiles, training: seen.append(np.array(tiles)) or network(tiles)
    result = task({"image": images, "mask": masks})
    np.testing.assert_array_equal(seen[0][..., 0], pad_images(images, 104))
    np.testing.assert_array_equal(result["logits"], images)
    np.testing.assert_array_equal(result["mask"], masks)


def test_in_training_the_tile_moves_inside_its_padding_and_logits_and_mask_move_with_it():
    images, masks = tiles_with_ramps(8)
    seen = []
    network = image_as_logits(128)
    task = SegmentationTask(network, preset("unet", **PLAIN, jitter=True), AVERAGE_PRECISION)
    task.network = lambda tiles, training: seen.append(np.array(tiles)) or network(tiles)
    result = task({"image": images, "mask": masks}, training=True)
    np.testing.assert_array_equal(result["logits"], images)
    np.testing.assert_array_equal(result["mask"], masks)
    centred = pad_images(images, 128)
    assert sum(not np.array_equal(padded[..., 0], plain) for padded, plain in zip(seen[0], centred, strict=True)) >= 6


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_the_warp_as_one_program_is_the_warp(mode):
    images, masks = tiles_with_ramps(5)
    config = preset("smoke", padding=mode, padded_size=112)
    parameters = draw_augmentation(config, 5, keras.random.SeedGenerator(1), images.shape[1])
    one, other = (
        function(images, masks, parameters)
        for function in (
            fused_augment(config.padded_size, mode),
            lambda *given: augment(*given, config.padded_size, mode),
        )
    )
    np.testing.assert_allclose(one[0], other[0], atol=0.01)
    assert np.mean(np.asarray(one[1]) != np.asarray(other[1])) < 1e-3  # a pixel that is half salt may go either way


def test_cutmix_pastes_image_and_mask_in_training_alone_and_leaves_the_other_draws_as_they_were():
    images, masks = tiles_with_ramps(8)
    results = {}
    for share in (0.0, 1.0):
        config = preset("unet", **PLAIN, jitter=True, cutmix=share)
        task = SegmentationTask(image_as_logits(128), config, AVERAGE_PRECISION)
        begin_epoch(task, TileBatches(images, masks, 8, seed=(0,)), config, 0, 0)
        results[share] = task({"image": images, "mask": masks}, training=True)
        np.testing.assert_array_equal(task({"image": images, "mask": masks})["logits"], images)
    np.testing.assert_array_equal(results[0.0]["logits"], images)
    mixed = [np.array(results[1.0][name]) for name in ("logits", "mask")]
    same = mixed[0] == images
    assert 0.2 < same.mean() < 0.9
    assert np.mean(mixed[1][same] == masks[same]) > 0.99  # some pixels are the same in two tiles by chance
    assert (mixed[1][~same] != masks[~same]).any()


def test_the_loss_does_not_see_the_padding():
    images, masks = tiles_with_ramps(4)
    config = preset("unet", **PLAIN, jitter=False)
    losses = []
    for outside in (-50.0, 50.0):
        inside = np.zeros((1, 128, 128, 1), "float32")
        inside[:, 13:114, 13:114] = 1
        tiles = keras.Input((128, 128, 1))
        network = keras.Model(tiles, ops.cast(tiles, "float32") * inside / 100 + outside * (1 - inside))
        task = SegmentationTask(network, config, AVERAGE_PRECISION)
        losses.append(float(task.compute_loss(y_pred=task({"image": images, "mask": masks}, training=True))))
    assert losses[0] == losses[1] > 0


def test_the_loss_changes_from_cross_entropy_and_dice_to_lovasz_at_its_step_within_an_epoch_if_need_be():
    images, masks = tiles_with_ramps(8)
    task = SegmentationTask(image_as_logits(104), preset("smoke", epochs=3, lovasz=0.5), AVERAGE_PRECISION)
    batches = TileBatches(images, masks, 4, seed=(0, 0))
    outputs = {"logits": ops.cast(masks, "float32") - 0.4, "mask": ops.cast(masks, "float32")}
    first, second = (float(ops.mean(segmentation_loss(*outputs.values(), weight))) for weight in (0.0, 1.0))
    losses, validated = [], []
    for epoch in range(3):
        begin_epoch(task, batches, task.config, 0, epoch)
        for index in range(2):
            task(batches[index][0], training=True)
            losses.append(float(task.compute_loss(y_pred=outputs)))
        task(batches[0][0])
        validated.append(float(task.compute_loss(y_pred=outputs, training=False)))
    assert losses == [first] * 3 + [second] * 3
    assert validated == [first, second, second]  # with the loss of the last step before


def test_other_heads_are_taught_from_the_padded_mask_and_the_tile_with_their_weights():
    images, masks = tiles_with_ramps(4)
    inputs = keras.Input((104, 104, 1))
    grey = ops.cast(inputs, "float32") / 255
    heads = {
        "logits": grey,
        "deep_1": keras.layers.AveragePooling2D(2)(grey),
        "deep_2": keras.layers.AveragePooling2D(4)(grey),
        "empty": keras.layers.GlobalAveragePooling2D()(grey),
    }
    network = keras.Model(inputs, heads)
    config = preset("smoke", deep_weight=0.25, empty_weight=3.0)
    result = SegmentationTask(network, config, AVERAGE_PRECISION)({"image": images, "mask": masks})
    padded, truth = pad_images(images, 104)[..., None], pad_images(masks, 104)
    np.testing.assert_array_equal(result["padded"], truth)
    expected = segmentation_loss(pad_images(images, 104)[:, 1:102, 1:102] / np.float32(255), masks, 0.0)
    given = {name: np.array(values) for name, values in network(padded.astype("float32")).items()}
    for name in ("deep_1", "deep_2"):
        expected = expected + 0.25 / 2 * deep_loss(given[name][..., 0], truth)
    expected = expected + 3.0 * empty_loss(given["empty"], masks)
    loss = SegmentationTask(network, config, AVERAGE_PRECISION).compute_loss(y_pred=result)
    assert float(loss) == pytest.approx(float(ops.mean(expected)), rel=1e-5)


def test_each_epoch_has_an_order_of_its_own_that_the_seed_alone_decides():
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)

    def order(seed, epoch):
        batches = TileBatches(images, images, 5, seed=seed)
        batches.set_epoch(epoch)
        return [int(tile[0, 0]) for index in range(len(batches)) for tile in batches[index][0]["image"]]

    assert sorted(order((0, 1), 3)) == list(range(10))
    assert order((0, 1), 3) == order((0, 1), 3)
    assert len({tuple(order(seed, epoch)) for seed in ((0, 0), (0, 1), (1, 0)) for epoch in (0, 1)}) == 6


def test_image_and_mask_stay_together():
    images, masks = tiles_with_ramps(10)
    batches = TileBatches(images, masks, 4, seed=(0, 0))
    for index in range(len(batches)):
        for image, mask in zip(*batches[index][0].values(), strict=True):
            found = np.flatnonzero((images == image).all(axis=(1, 2)))
            np.testing.assert_array_equal(mask, masks[found[0]])


class Flip:
    """A transform of albumentations' kind: flips some tiles upside down."""

    def set_random_seed(self, seed):
        self.random = np.random.default_rng(seed)

    def __call__(self, *, image, mask):
        step = int(self.random.choice([-1, 1]))
        return {"image": image[::step].astype("float32"), "mask": mask[::step]}


def test_a_transform_gets_each_tile_and_its_mask_and_is_seeded_by_the_place_in_the_training():
    images, masks = tiles_with_ramps(8)
    plain, batches, again = (
        TileBatches(images, masks, 4, seed=(3, 1), transform=transform) for transform in (None, Flip(), Flip())
    )
    flipped = 0
    for epoch in (0, 1):
        for each in (plain, batches, again):
            each.set_epoch(epoch)
        for index in (1, 0):  # in any order
            (one,), (other,), (repeated,) = plain[index], batches[index], again[index]
            np.testing.assert_array_equal(other["image"], repeated["image"])
            assert other["image"].dtype == np.float32
            for image, mask, was, truth in zip(*(each[name] for each in (other, one) for name in each), strict=True):
                step = 1 if np.array_equal(image, was) else -1
                np.testing.assert_array_equal(image, was[::step])
                np.testing.assert_array_equal(mask, truth[::step])
                flipped += step < 0
    assert 0 < flipped < 16
    assert not np.array_equal(
        batches[0][0]["image"], TileBatches(images, masks, 4, (3, 2), transform=Flip())[0][0]["image"]
    )


@pytest.mark.parametrize(
    "transform, message",
    [
        (lambda image, mask: {"image": image[:50], "mask": mask}, r"images of shape \(50, 101\) from \(101, 101\)"),
        (lambda image, mask: {"image": image, "mask": mask[..., None]}, r"masks of shape \(101, 101, 1\)"),
        (lambda image, mask: {"image": image, "mask": mask * 255}, "masks with other values than 0 and 1"),
    ],
)
def test_a_transform_that_breaks_the_tiles_is_refused(transform, message):
    with pytest.raises(TransformError, match=message):
        TileBatches(*tiles_with_ramps(4), 4, transform=transform)[0]


def test_training_leaves_the_incomplete_batch_out_and_validation_keeps_it():
    images, masks = tiles_with_ramps(10)

    def sizes(batches):
        return [len(batches[index][0]["image"]) for index in range(len(batches))]

    assert sizes(TileBatches(images, masks, 4, seed=(0, 0))) == [4, 4]
    assert sizes(TileBatches(images, masks, 4)) == [4, 4, 2]
    assert len(TileBatches(images, masks, 64, seed=(0, 0))) == 1  # a demo may have fewer tiles than a batch


def test_an_epoch_of_several_passes_has_every_tile_as_often_and_each_pass_an_order_of_its_own():
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    batches = TileBatches(images, images, 5, seed=(0, 0), passes=3)
    orders = batches.order.reshape(3, 10)
    assert len(batches) == 6 and [sorted(order) for order in orders.tolist()] == [list(range(10))] * 3
    assert len({tuple(order) for order in orders.tolist()}) == 3


def test_pseudo_labelled_tiles_fill_their_share_of_each_batch_and_come_equally_often():
    images, masks = tiles_with_ramps(20)
    guests, labels = tiles_with_ramps(24)[0][20:], np.ones((4, 101, 101), np.uint8)
    batches = TileBatches(images, masks, 8, seed=(0, 0), pseudo=(guests, labels), pseudo_share=0.25)
    assert len(batches) == 20 // 6
    for index in range(len(batches)):
        rows = batches.order[8 * index : 8 * index + 8]
        assert (rows[:6] < 20).all() and (rows[6:] >= 20).all()
        np.testing.assert_array_equal(batches[index][0]["mask"][6:], 1)
        np.testing.assert_array_equal(batches[index][0]["image"][6:], guests[rows[6:] - 20])
    counts = np.bincount(batches.order, minlength=24)
    assert sorted(counts[20:]) == [1, 1, 2, 2] and counts[:20].max() == 1


def test_what_an_epoch_draws_follows_from_seed_fold_and_epoch_alone():
    images, masks = tiles_with_ramps(12)
    config = preset("smoke", **TINY, dropout=0.2)
    task = SegmentationTask(build_model(config), config, AVERAGE_PRECISION)
    batches = TileBatches(images, masks, 4, seed=(0, 0))

    def draws(fold, epoch):
        begin_epoch(task, batches, config, fold, epoch)
        states = [tuple(np.array(weight)) for weight in task.variables if "seed_generator" in weight.path]
        return tuple(batches.order), tuple(states)

    drawn = {(fold, epoch): draws(fold, epoch) for fold in (0, 1) for epoch in (0, 1, 2)}
    assert draws(0, 1) == drawn[0, 1]
    assert len({order for order, _ in drawn.values()}) == 3
    states = [state for _, each in drawn.values() for state in each]
    assert len(set(states)) == len(states) == 6 * 2  # augmentation and dropout, each its own


def test_batch_norm_statistics_become_the_plain_mean_over_batches():
    tiles = keras.Input((102, 102, 1))
    norm = keras.layers.BatchNormalization(momentum=0.6)
    network = keras.Model(tiles, norm(ops.cast(tiles, "float32")))
    images, masks = tiles_with_ramps(12)
    config = preset("smoke", depth=2, padded_size=102, **PLAIN, jitter=False)
    batches = TileBatches(images, masks, 4, seed=(0, 0))
    reestimate_batch_norm(SegmentationTask(network, config, AVERAGE_PRECISION), batches)
    padded = [pad_images(batches[index][0]["image"], 102).astype(float) for index in range(3)]
    np.testing.assert_allclose(norm.moving_mean[0], np.mean([batch.mean() for batch in padded]), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance[0], np.mean([batch.var() for batch in padded]), rtol=1e-5)
    assert norm.momentum == 0.6


@pytest.mark.parametrize(
    "precision", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.bfloat16), "mixed_float16"]
)
def test_steps_are_counted_exactly_in_every_precision(precision):
    images, masks = tiles_with_ramps(2)
    policy = keras.config.dtype_policy()
    try:
        keras.mixed_precision.set_dtype_policy(precision)
        config = preset("smoke", **TINY)
        task = SegmentationTask(build_model(config), config, AVERAGE_PRECISION)
        for step in (255, 257, 2049, 100_001):  # bfloat16 knows no whole number beyond 256 but even ones, float16 2048
            task.step.assign(step)
            task({"image": images, "mask": masks}, training=True)
            assert float(task.step) == step + 1
    finally:
        keras.mixed_precision.set_dtype_policy(policy)


def test_every_fold_of_every_seed_has_initial_weights_of_their_own():
    seeds = {weights_seed(seed, fold) for seed in range(60) for fold in range(50)}
    assert len(seeds) == 60 * 50 and weights_seed(0, 3) == 3
    assert 0 <= weights_seed(2**31 - 1, 49) < 2**32


@pytest.mark.parametrize("metric", [AVERAGE_PRECISION, IOU, DICE, F2], ids=lambda metric: metric.name)
def test_the_score_in_fit_is_that_of_the_masks_at_one_half(metric):
    rng = np.random.default_rng(0)
    masks = (rng.random((24, 9, 9)) < rng.choice([0, 0.4], (24, 1, 1))).astype(np.uint8)
    logits = np.float32(rng.normal(0, 1, masks.shape) + 4 * masks - 3)
    logits[:3] = -1
    score = MetricScore(metric)
    assert float(score.result()) == 0
    for part in (slice(0, 10), slice(10, 24)):
        score.update_state(masks[part], logits[part])
    counts = [(stack != 0).sum(axis=(1, 2)) for stack in (masks * (logits >= 0), logits >= 0, masks)]
    assert float(score.result()) == pytest.approx(float(metric.mean(metric.score(*counts))), rel=1e-6)
    logits[0, 0, 0] = np.nan
    score.update_state(masks, logits)
    assert np.isnan(float(score.result()))
