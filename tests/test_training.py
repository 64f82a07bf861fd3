import json
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops

from salt import training
from salt.artifacts import ArtifactError, read_oof
from salt.config import preset
from salt.data import Tiles, is_black, pad_images
from salt.metrics import leaderboard_score
from salt.training import (
    LeaderboardScore,
    SegmentationTask,
    TileBatches,
    begin_epoch,
    fit_fold,
    fit_folds,
    reestimate_batch_norm,
    training_optimizer,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = dict(filter_scaling=2, depth=2, padded_size=102, batch_size=8)
PLAIN = dict(flip=False, scale=0.0, shear=0.0, rotation=0.0, brightness=0.0, contrast=0.0)


def tiles_with_ramps(count):
    """Tiles in which each pixel is told from its neighbours, and masks of all kinds."""
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (count, 101, 101), dtype=np.uint8)
    masks = (images > rng.integers(0, 256, (count, 1, 1))).astype(np.uint8)
    masks[::4] = 0
    return images, masks


def image_as_logits(size):
    """A network that says of each pixel what it sees there."""
    tiles = keras.Input((size, size, 1))
    return keras.Model(tiles, ops.cast(tiles, "float32"))


# --- the metric ---


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


def test_the_keras_metric_starts_anew_after_a_reset():
    metric = LeaderboardScore()
    metric.update_state(np.ones((2, 4, 4)), -np.ones((2, 4, 4)))
    assert float(metric.result()) == 0.0
    metric.reset_state()
    metric.update_state(np.ones((2, 4, 4)), np.ones((2, 4, 4)))
    assert float(metric.result()) == 1.0


# --- what surrounds the network ---


def test_validation_pads_as_inference_does_and_looks_at_the_tile_only():
    images, masks = tiles_with_ramps(3)
    seen = []
    network = image_as_logits(104)
    task = SegmentationTask(network, preset("smoke"))
    task.network = lambda tiles, training: seen.append(np.array(tiles)) or network(tiles)
    result = task({"image": images, "mask": masks})
    np.testing.assert_array_equal(seen[0][..., 0], pad_images(images, 104))
    np.testing.assert_array_equal(result["logits"], images)
    np.testing.assert_array_equal(result["mask"], masks)


def test_in_training_the_tile_moves_inside_its_padding_and_logits_and_mask_move_with_it():
    images, masks = tiles_with_ramps(8)
    seen = []
    network = image_as_logits(128)
    task = SegmentationTask(network, preset("unet", **PLAIN))
    task.network = lambda tiles, training: seen.append(np.array(tiles)) or network(tiles)
    result = task({"image": images, "mask": masks}, training=True)
    np.testing.assert_array_equal(result["logits"], images)
    np.testing.assert_array_equal(result["mask"], masks)
    centred = pad_images(images, 128)
    assert sum(not np.array_equal(padded[..., 0], plain) for padded, plain in zip(seen[0], centred, strict=True)) >= 6


def test_the_loss_does_not_see_the_padding():
    images, masks = tiles_with_ramps(4)
    config = preset("unet", **PLAIN, jitter=False)
    losses = []
    for outside in (-50.0, 50.0):
        inside = np.zeros((1, 128, 128, 1), "float32")
        inside[:, 13:114, 13:114] = 1
        tiles = keras.Input((128, 128, 1))
        network = keras.Model(tiles, ops.cast(tiles, "float32") * inside / 100 + outside * (1 - inside))
        task = SegmentationTask(network, config)
        losses.append(float(task.compute_loss(y_pred=task({"image": images, "mask": masks}, training=True))))
    assert losses[0] == losses[1] > 0


def test_the_loss_changes_from_cross_entropy_and_dice_to_lovasz():
    images, masks = tiles_with_ramps(4)
    task = SegmentationTask(image_as_logits(104), preset("smoke", epochs=4, lovasz=0.5))
    batches = TileBatches(images, masks, 4, seed=(0, 0))
    outputs = {"logits": ops.cast(masks, "float32") - 0.4, "mask": ops.cast(masks, "float32")}
    losses = []
    for epoch in range(4):
        begin_epoch(task, batches, task.config, 0, epoch)
        losses.append(float(task.compute_loss(y_pred=outputs)))
    assert losses[0] == losses[1] != losses[2] == losses[3]


# --- batches ---


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


def test_training_leaves_the_incomplete_batch_out_and_validation_keeps_it():
    images, masks = tiles_with_ramps(10)

    def sizes(batches):
        return [len(batches[index][0]["image"]) for index in range(len(batches))]

    assert sizes(TileBatches(images, masks, 4, seed=(0, 0))) == [4, 4]
    assert sizes(TileBatches(images, masks, 4)) == [4, 4, 2]
    assert len(TileBatches(images, masks, 64, seed=(0, 0))) == 1  # a demo may have fewer tiles than a batch


def test_what_an_epoch_draws_follows_from_seed_fold_and_epoch_alone():
    images, masks = tiles_with_ramps(12)
    config = preset("smoke", **TINY, dropout=0.2)
    task = SegmentationTask(training.build_model(config), config)
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


# --- optimizer, averages, batch norm ---


def test_the_rate_climbs_to_its_peak_and_falls_to_0():
    rates = [float(training_optimizer(preset("unet"), 200)._learning_rate(step)) for step in range(201)]
    assert rates[0] == 0 and rates[200] == pytest.approx(0, abs=1e-9)
    assert np.argmax(rates) == 10 and max(rates) == pytest.approx(1e-3)
    assert all(np.diff(rates[10:]) < 0)
    assert float(training_optimizer(preset("unet", warmup=0.0), 200)._learning_rate(0)) == pytest.approx(1e-3)


def test_weight_decay_shrinks_kernels_and_nothing_else():
    layer = keras.layers.Dense(3)
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), layer, norm])
    layer.bias.assign(np.ones(3))
    before = [np.array(weight) for weight in model.trainable_weights]
    optimizer = training_optimizer(preset("unet", warmup=0.0, weight_decay=0.5, learning_rate=0.1), 10)
    optimizer.apply([ops.zeros_like(weight) for weight in model.trainable_weights], model.trainable_weights)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        expected = old * (1 - 0.1 * 0.5) if weight.path.endswith("kernel") else old
        np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_batch_norm_statistics_become_the_plain_mean_over_batches():
    tiles = keras.Input((102, 102, 1))
    norm = keras.layers.BatchNormalization(momentum=0.6)
    network = keras.Model(tiles, norm(ops.cast(tiles, "float32")))
    images, masks = tiles_with_ramps(12)
    config = preset("smoke", depth=2, padded_size=102, **PLAIN, jitter=False)
    batches = TileBatches(images, masks, 4, seed=(0, 0))
    reestimate_batch_norm(SegmentationTask(network, config), batches)
    padded = [pad_images(batches[index][0]["image"], 102).astype(float) for index in range(3)]
    np.testing.assert_allclose(norm.moving_mean[0], np.mean([batch.mean() for batch in padded]), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance[0], np.mean([batch.var() for batch in padded]), rtol=1e-5)
    assert norm.momentum == 0.6


def test_the_network_ends_with_the_running_average_of_its_weights(tmp_path):
    images, masks = tiles_with_ramps(24)
    fold = np.arange(24) % 3
    config = preset("smoke", **TINY, epochs=2, folds=3, ema_momentum=0.9, learning_rate=0.01)
    network, history = fit_fold(config, images, masks, fold, 0, tmp_path)
    task = SegmentationTask(training.build_model(config), config)
    task.compile(training_optimizer(config, 4))
    task.optimizer.build(task.trainable_variables)
    task({"image": images[:1], "mask": masks[:1]})
    task.load_weights(tmp_path / "epoch-00002.weights.h5")
    averages = task.optimizer._model_variables_moving_average
    assert len(averages) == len(network.trainable_weights) > 0
    for weight, last, average in zip(network.trainable_weights, task.trainable_weights, averages, strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-6, atol=1e-7)
        assert not np.allclose(weight, last, rtol=1e-6, atol=1e-7)
        last.assign(average)
    found = task.evaluate(TileBatches(images[fold == 0], masks[fold == 0], 16), return_dict=True, verbose=0)
    assert found["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-5)  # validated with averaged weights, too


def test_a_run_killed_after_its_last_epoch_ends_with_the_same_bits(tmp_path):
    images, masks = tiles_with_ramps(24)
    config = preset("smoke", **TINY, epochs=1, folds=3, dropout=0.2)
    arguments = (config, images, masks, np.arange(24) % 3, 0, tmp_path)
    (whole, rows), (resumed, again) = fit_fold(*arguments), fit_fold(*arguments)
    assert rows == again and len(whole.weights) == len(resumed.weights) > 0
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


# --- folds ---


@pytest.fixture
def spied_batches(monkeypatch):
    """The images of every `TileBatches` that is made, training and validation in turn."""
    made = []

    class Spied(TileBatches):
        def __init__(self, images, masks, batch_size, seed=None):
            made.append(images)
            super().__init__(images, masks, batch_size, seed)

    monkeypatch.setattr(training, "TileBatches", Spied)
    return made


@pytest.fixture
def tiles():
    images, masks = tiles_with_ramps(40)
    images[[3, 20]] = 0
    masks[[3, 20]] = 0
    return Tiles(np.array([f"tile{index}" for index in range(40)]), images, masks, np.full(40, np.nan))


def test_a_run_of_all_folds_holds_every_tile_out_once_and_never_trains_on_a_black_or_held_out_one(
    tmp_path, tiles, spied_batches
):
    config = preset("smoke", **TINY, epochs=1, folds=2, train_folds=(0, 1))
    oof, history = fit_folds(config, tiles, tmp_path, tmp_path / "_state")
    assert list(oof.ids) == list(tiles.ids) and np.array_equal(oof.masks, tiles.masks)
    for held_out in (0, 1):
        trained, validated = spied_batches[2 * held_out], spied_batches[2 * held_out + 1]
        assert not is_black(trained).any()
        expected = tiles.images[(oof.fold != held_out) & ~is_black(tiles.images)]
        np.testing.assert_array_equal(trained, expected)
        np.testing.assert_array_equal(validated, tiles.images[oof.fold == held_out])
    assert not oof.probabilities[is_black(tiles.images)].any()
    assert oof.probabilities[~is_black(tiles.images)].any(axis=(1, 2)).all()
    for name in ("fold0.weights.h5", "fold1.weights.h5", "oof.npz", "history.csv"):
        assert (tmp_path / name).is_file()
    columns = ["fold", "epoch", "loss", "score", "val_loss", "val_score"]
    assert sorted(history.columns) == sorted(columns) and list(history["fold"]) == [0, 1]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), history)
    for written, returned in zip(read_oof(tmp_path / "oof.npz"), oof, strict=True):
        np.testing.assert_array_equal(written, returned)


def test_each_folds_predictions_come_from_its_own_model(tmp_path, tiles, monkeypatch):
    used = []
    predict = training.predict_probabilities

    def spied(models, *rest):
        used.append(models)
        return predict(models, *rest)

    monkeypatch.setattr(training, "predict_probabilities", spied)
    config = preset("smoke", **TINY, epochs=1, folds=3, train_folds=(2, 1))
    oof, _ = fit_folds(config, tiles, tmp_path, tmp_path / "_state")
    assert set(oof.fold) == {1, 2} and len(oof.ids) < 40
    assert [len(models) for models in used] == [1, 1]
    for held_out, (model,) in zip((2, 1), used, strict=True):
        saved = training.build_model(config)
        saved.load_weights(tmp_path / f"fold{held_out}.weights.h5")
        for used_weight, saved_weight in zip(model.weights, saved.weights, strict=True):
            np.testing.assert_array_equal(used_weight, saved_weight)


def test_a_finished_fold_is_not_trained_again(tmp_path, tiles, monkeypatch):
    config = preset("smoke", **TINY, epochs=1, folds=2, train_folds=(0,))
    first, rows = fit_folds(config, tiles, tmp_path, tmp_path / "_state")
    monkeypatch.setattr(training, "fit_fold", lambda *arguments: pytest.fail("trained again"))
    second, again = fit_folds(config, tiles, tmp_path, tmp_path / "_state")
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    pd.testing.assert_frame_equal(rows, again)


def test_the_state_of_another_run_is_refused(tmp_path, tiles):
    config = preset("smoke", **TINY, epochs=1, folds=2)
    training.claim_state(tmp_path, config, tiles)
    training.claim_state(tmp_path, config, tiles)
    with pytest.raises(ArtifactError, match="belongs to a run that differs in epochs"):
        training.claim_state(tmp_path, preset("smoke", **TINY, epochs=3, folds=2), tiles)
    tiles.images[0, 0, 0] += 1
    with pytest.raises(ArtifactError, match="differs in the tiles"):
        training.claim_state(tmp_path, config, tiles)


def test_a_fold_without_tiles_is_refused(tmp_path, tiles):
    config = preset("smoke", **TINY)
    with pytest.raises(ValueError, match="fold 7 holds out 0 of 40 tiles"):
        fit_fold(config, tiles.images, tiles.masks, np.zeros(40, int), 7, tmp_path)
    with pytest.raises(ValueError, match="fold 0 holds out 40 of 40 tiles"):
        fit_fold(config, tiles.images, tiles.masks, np.zeros(40, int), 0, tmp_path)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_a_fold_trains_in_mixed_precision(tmp_path, tiles, precision):
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        config = preset("smoke", **TINY, epochs=2, precision=precision)
        network, history = fit_fold(config, tiles.images, tiles.masks, np.arange(40) % 2, 0, tmp_path)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in network.trainable_weights} == {"float32"}
    assert network.get_layer("down0_conv1").compute_dtype == precision.removeprefix("mixed_")


# --- killed and taken up again ---

SCRIPT = """
import os, signal, sys
import numpy as np
from salt import training
from salt.config import preset

folder, kill_in_epoch = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
images = rng.integers(1, 256, (36, 101, 101), dtype=np.uint8)
masks = (images > 128).astype(np.uint8)
config = preset(
    "smoke", filter_scaling=4, depth=2, padded_size=104, batch_size=8, epochs=5, dropout=0.3, ema_momentum=0.9,
    lovasz=0.4,
)

class Killed(training.Checkpoint):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if self.epoch + 1 == kill_in_epoch and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

training.Checkpoint = Killed
network, history = training.fit_fold(config, images, masks, np.arange(36) % 3, 0, folder + "/state")
weights = [np.array(weight) for weight in network.weights]
np.savez(folder + "/final.npz", *weights, loss=[row["loss"] for row in history])
"""


def run_script(folder, kill_in_epoch):
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(kill_in_epoch)], cwd=ROOT, capture_output=True, text=True
    )


def test_a_run_killed_in_epoch_3_of_5_ends_with_the_same_bits(tmp_path):
    whole = run_script(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    killed = run_script(tmp_path / "killed", 3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = tmp_path / "killed" / "state"
    assert sorted(path.name for path in state.iterdir()) == ["epoch-00002.json", "epoch-00002.weights.h5"]
    (state / ".half-written-0.weights.h5").write_bytes(b"half")  # what a kill while saving leaves
    (state / "epoch-00003.json").write_text("[]")  # a kill between history and weights
    resumed = run_script(tmp_path / "killed", 0)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on after epoch 2" in resumed.stdout and "Epoch 2/5" not in resumed.stdout
    with np.load(tmp_path / "whole" / "final.npz") as expected, np.load(tmp_path / "killed" / "final.npz") as found:
        assert expected.files == found.files and len(expected.files) > 10
        for name in expected.files:
            np.testing.assert_array_equal(expected[name], found[name], err_msg=name)
    assert len(json.loads((state / "epoch-00005.json").read_text())) == 5
