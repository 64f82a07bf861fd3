import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops
from training_tiles import TINY, tiles_with_ramps, tiles_with_two_black_ones, write_predict_run

from salt import cross_validation, training
from salt.artifacts import ArtifactError, read_oof
from salt.config import preset
from salt.cross_validation import fit_folds, read_pseudo_labels
from salt.metrics import AVERAGE_PRECISION
from salt.networks import build_fold_model
from salt.schedule import plan_of_steps, training_optimizer
from salt.task import DivergedError, SegmentationTask, TileBatches, begin_epoch, reestimate_batch_norm
from salt.tgs import COMPETITION as TGS
from salt.tgs import is_black
from salt.tiles import Tiles, pad_images
from salt.training import FoldJob, TrainingError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def fit_fold(config, images, masks, fold, held_out, folder, weights=None):
    """`training.fit_fold` for tiles that have neither ids nor depths."""
    tiles = Tiles(np.arange(len(images)).astype(str), images, masks, np.full(len(images), np.nan), TGS)
    return training.fit_fold(FoldJob(config, tiles, fold, weights), held_out, folder)


# --- averages, batch norm ---


SEVEN_STEPS = preset("smoke", **TINY, steps=7, folds=3, dropout=0.2, ema_momentum=0.9, learning_rate=0.01)


@pytest.fixture(scope="module")
def seven_steps(tmp_path_factory):
    """A fold trained for seven steps: its tiles, masks and folds, its state, network and history. Not to be changed."""
    images, masks = tiles_with_ramps(24)
    given = images, masks, np.arange(24) % 3
    folder = tmp_path_factory.mktemp("seven_steps")
    return given, folder, *fit_fold(SEVEN_STEPS, *given, 0, folder)


def test_the_network_ends_with_the_running_average_of_its_weights(seven_steps):
    (images, masks, fold), folder, network, history = seven_steps
    task = SegmentationTask(training.build_model(SEVEN_STEPS), SEVEN_STEPS, AVERAGE_PRECISION)
    task.compile(training_optimizer(SEVEN_STEPS, 4))
    task.optimizer.build(task.trainable_variables)
    task({"image": images[:1], "mask": masks[:1]})
    task.load_weights(folder / "epoch-00004.weights.h5")
    averages = task.optimizer._model_variables_moving_average
    assert len(averages) == len(network.trainable_weights) > 0
    for weight, last, average in zip(network.trainable_weights, task.trainable_weights, averages, strict=True):
        np.testing.assert_array_equal(weight, average)
        assert not np.allclose(weight, last, rtol=1e-6, atol=1e-7)
        last.assign(average)
    found = task.evaluate(TileBatches(images[fold == 0], masks[fold == 0], 16), return_dict=True, verbose=0)
    assert found["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-5)  # validated with averaged weights, too


def test_a_run_killed_after_its_last_epoch_ends_with_the_same_bits(tmp_path, seven_steps):
    given, folder, whole, rows = seven_steps
    shutil.copytree(folder, tmp_path / "killed")
    resumed, again = fit_fold(SEVEN_STEPS, *given, 0, tmp_path / "killed")
    assert rows == again and len(whole.weights) == len(resumed.weights) > 0
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_the_last_epoch_of_a_number_of_steps_may_be_shorter(seven_steps):
    *_, history = seven_steps
    assert [row["step"] for row in history] == [2, 4, 6, 7]


# --- snapshots ---


@pytest.mark.slow
def test_a_fold_with_snapshots_ends_with_the_mean_of_the_networks_at_the_bottoms_of_its_rate(tmp_path):
    images, masks = tiles_with_ramps(24)
    fold = np.arange(24) % 3
    config = preset("smoke", **TINY, epochs=6, folds=3, snapshots=3, lovasz=0.6, ema_momentum=0.5, learning_rate=0.01)
    network, history = fit_fold(config, images, masks, fold, 0, tmp_path)
    kept = ["snapshot-00.weights.h5", "snapshot-01.weights.h5"]
    assert sorted(path.name for path in tmp_path.glob("snap*")) == kept and len(history) == 6
    task = SegmentationTask(training.build_model(config), config, AVERAGE_PRECISION)
    task.compile(training_optimizer(config, 4))
    task.optimizer.build(task.trainable_variables)
    task({"image": images[:1], "mask": masks[:1]})
    batches = TileBatches(images[fold != 0], masks[fold != 0], config.batch_size, seed=(0, 0))
    padded = pad_images(images[fold == 0], config.padded_size, config.padding)[..., None].astype("float32")
    probabilities, steps = [], []
    for name in (*kept, "epoch-00006.weights.h5"):
        task.load_weights(tmp_path / name)
        steps.append(int(task.step))
        for weight, average in zip(task.trainable_weights, task.optimizer._model_variables_moving_average, strict=True):
            weight.assign(average)
        begin_epoch(task, batches, config, 0, 6)
        reestimate_batch_norm(task, batches)
        probabilities.append(ops.convert_to_numpy(ops.sigmoid(task.network(padded, training=False))))
    assert steps == [8, 10, 12]  # of 12, two an epoch; .6 of them are with Lovasz
    expected = np.mean(probabilities, axis=0)
    np.testing.assert_allclose(ops.sigmoid(network(padded, training=False)), expected, atol=1e-5)
    assert min(abs(one - expected).max() for one in probabilities) > 1e-3


@pytest.mark.slow
def test_a_fold_with_snapshots_that_is_killed_goes_on_to_the_same_bits_and_is_read_back(tmp_path, tiles, monkeypatch):
    config = preset("smoke", **TINY, epochs=4, folds=2, train_folds=(0,), snapshots=2, lovasz=0.6, dropout=0.2)
    whole = fit_folds(config, tiles, tmp_path / "whole", tmp_path / "whole/state")

    class Killed(training.Checkpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if len(self.history) == 3:  # where the first snapshot is due, and before it is kept
                raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "Checkpoint", Killed)
        fit_folds(config, tiles, tmp_path / "killed", tmp_path / "killed/state")
    assert not list(tmp_path.glob("killed/state/fold0/snapshot-*"))
    resumed = fit_folds(config, tiles, tmp_path / "killed", tmp_path / "killed/state")
    np.testing.assert_array_equal(resumed.oof.probabilities, whole.oof.probabilities)
    assert [path.name for path in tmp_path.glob("*/state/fold0/*")] == ["plan.json"] * 2
    network = build_fold_model(config)
    network.load_weights(tmp_path / "killed/fold0.weights.h5")
    held = np.isin(tiles.ids, whole.oof.ids)
    images = tiles.images[held]
    again = cross_validation.predict_run([network], images, is_black(images), config)
    np.testing.assert_array_equal(again, whole.oof.probabilities)


@pytest.mark.slow
def test_in_a_training_of_one_epoch_all_snapshots_are_its_end(tmp_path):
    images, masks = tiles_with_ramps(24)
    config = preset("smoke", **TINY, epochs=1, folds=3)
    arguments = (images, masks, np.arange(24) % 3, 0)
    plain, _ = fit_fold(config, *arguments, tmp_path / "one")
    three, _ = fit_fold(dataclasses.replace(config, snapshots=3), *arguments, tmp_path / "three")
    padded = pad_images(images, 102)[..., None].astype("float32")
    np.testing.assert_allclose(
        ops.sigmoid(three(padded, training=False)), ops.sigmoid(plain(padded, training=False)), atol=1e-5
    )


# --- folds ---


def spy_on_batches(monkeypatch):
    """A list that gets the images of every `TileBatches` that is made, training and validation in turn."""
    made = []

    class Spied(TileBatches):
        def __init__(self, images, masks, batch_size, seed=None, **more):
            made.append(images)
            super().__init__(images, masks, batch_size, seed, **more)

    monkeypatch.setattr(training, "TileBatches", Spied)
    return made


@pytest.fixture
def tiles():
    return tiles_with_two_black_ones()


TWO_FOLDS = preset("smoke", **TINY, epochs=4, folds=2, train_folds=(0, 1))


@pytest.fixture(scope="module")
def two_folds(tmp_path_factory):
    """The folder and the outcome of a run of two folds, one after the other and without a break, and the images of
    every `TileBatches` that it made, training and validation in turn. Not to be changed."""
    folder = tmp_path_factory.mktemp("two_folds")
    with pytest.MonkeyPatch.context() as patched:
        made = spy_on_batches(patched)
        return folder, fit_folds(TWO_FOLDS, tiles_with_two_black_ones(), folder, folder / "state"), made


def test_a_run_of_all_folds_holds_every_tile_out_once_and_never_trains_on_a_black_or_held_out_one(tiles, two_folds):
    folder, (oof, history, unfinished, failure), made = two_folds
    assert unfinished == [] and failure is None
    assert list(oof.ids) == list(tiles.ids) and np.array_equal(oof.masks, tiles.masks)
    assert len(made) == 4
    for held_out in (0, 1):
        trained, validated = made[2 * held_out], made[2 * held_out + 1]
        assert not is_black(trained).any()
        expected = tiles.images[(oof.fold != held_out) & ~is_black(tiles.images)]
        np.testing.assert_array_equal(trained, expected)
        np.testing.assert_array_equal(validated, tiles.images[oof.fold == held_out])
    assert not oof.probabilities[is_black(tiles.images)].any()
    assert oof.probabilities[~is_black(tiles.images)].any(axis=(1, 2)).all()
    for name in ("fold0.weights.h5", "fold1.weights.h5", "oof.npz", "history.csv"):
        assert (folder / name).is_file()
    columns = ["fold", "epoch", "step", "loss", "score", "val_loss", "val_score"]
    assert sorted(history.columns) == sorted(columns) and list(history["fold"]) == [0] * 4 + [1] * 4
    pd.testing.assert_frame_equal(pd.read_csv(folder / "history.csv"), history)
    for written, returned in zip(read_oof(folder / "oof.npz"), oof, strict=True):
        np.testing.assert_array_equal(written, returned)


def test_each_folds_predictions_come_from_its_own_model(tmp_path, tiles, monkeypatch):
    used = []
    predict = cross_validation.predict_run

    def spied(models, *rest):
        used.append(models)
        return predict(models, *rest)

    def fit_nothing(job, held_out, *_):
        keras.utils.set_random_seed(held_out)
        return training.build_model(job.config), [{"step": 1, "loss": 0.5}]

    monkeypatch.setattr(cross_validation, "predict_run", spied)
    monkeypatch.setattr(cross_validation, "fit_fold", fit_nothing)
    config = preset("smoke", **TINY, epochs=1, folds=3, train_folds=(2, 1))
    oof = fit_folds(config, tiles, tmp_path, tmp_path / "state").oof
    assert set(oof.fold) == {1, 2} and len(oof.ids) < 40
    assert [len(models) for models in used] == [1, 1]
    for held_out, (model,) in zip((2, 1), used, strict=True):
        saved = saved_weights(tmp_path, config, held_out)
        assert_same_weights([np.array(weight) for weight in model.weights], saved)
        held = np.isin(tiles.ids, oof.ids[oof.fold == held_out]) & ~is_black(tiles.images)
        again = predict([model], tiles.images[held], is_black(tiles.images[held]), config)
        np.testing.assert_array_equal(oof.probabilities[np.isin(oof.ids, tiles.ids[held])], again)
    first, second = (saved_weights(tmp_path, config, held_out)[0] for held_out in (1, 2))
    assert not np.array_equal(first, second)


def test_a_finished_fold_is_not_trained_again(tmp_path, tiles, monkeypatch, two_folds):
    shutil.copytree(two_folds[0], tmp_path / "again")
    monkeypatch.setattr(cross_validation, "fit_fold", lambda *arguments: pytest.fail("trained again"))
    outcome = fit_folds(TWO_FOLDS, tiles, tmp_path / "again", tmp_path / "again/state")
    assert_same_outcome(tmp_path / "again", outcome, two_folds)


def test_a_fold_without_tiles_is_refused(tmp_path, tiles):
    config = preset("smoke", **TINY)
    with pytest.raises(ValueError, match="fold 7 holds out 0 of 40 tiles"):
        fit_fold(config, tiles.images, tiles.masks, np.zeros(40, int), 7, tmp_path)
    with pytest.raises(ValueError, match="fold 0 holds out 40 of 40 tiles"):
        fit_fold(config, tiles.images, tiles.masks, np.zeros(40, int), 0, tmp_path)


@pytest.mark.parametrize(("weights", "share"), [("some", 0.25), pytest.param(None, 1.0, marks=pytest.mark.slow)])
def test_a_pretrained_encoder_learns_at_its_own_rate_and_one_from_scratch_does_not(
    tmp_path, tiles, monkeypatch, weights, share
):
    def network(config, weights=None, *shape):
        convolution = keras.layers.Conv2D(2, 3, padding="same")
        encoder = keras.Sequential([keras.Input((102, 102, 1)), convolution], name="encoder")
        inputs = keras.Input((102, 102, 1))
        logits = keras.layers.Conv2D(1, 1)(encoder(ops.cast(inputs, "float32") / 255))
        return keras.Model(inputs, logits)

    monkeypatch.setattr(training, "build_model", network)
    config = preset("smoke", **TINY, steps=1, warmup=0.0, weight_decay=0.0, encoder_rate=0.25, ema_momentum=0.0)
    keras.utils.set_random_seed(config.seed)
    before = network(config).get_weights()
    trained, _ = fit_fold(config, tiles.images, tiles.masks, np.arange(40) % 2, 0, tmp_path / "fold", weights)
    moved = [np.abs(new - old).max() for new, old in zip(trained.get_weights(), before, strict=True)]
    assert moved[2:] == pytest.approx([config.learning_rate] * 2, rel=1e-2)
    assert moved[:2] == pytest.approx([share * config.learning_rate] * 2, rel=1e-2)


# --- steps and minutes ---


class MadeUpTime:
    """A clock that goes on by so much for each batch and each checkpoint; a batch may take longer from some step on."""

    def __init__(self, monkeypatch, batch=1.0, validation=0.25, slow_after=10**9, factor=1.0):
        self.now, self.batches = 0.0, 0
        fit = keras.Model.fit

        def on_train_batch_begin(index, logs=None):
            self.batches += 1
            self.now += batch * (factor if self.batches > slow_after else 1.0)

        def on_test_batch_begin(index, logs=None):
            self.now += validation

        class Ticks(keras.callbacks.Callback):
            pass

        def timed_fit(model, *arguments, callbacks, **options):
            ticks = Ticks()
            ticks.on_train_batch_begin, ticks.on_test_batch_begin = on_train_batch_begin, on_test_batch_begin
            return fit(model, *arguments, callbacks=[ticks, *callbacks], **options)

        monkeypatch.setattr(SegmentationTask, "fit", timed_fit)

    def __call__(self):
        return self.now


def saved_weights(folder, config, fold):
    network = training.build_model(config)
    network.load_weights(folder / f"fold{fold}.weights.h5")
    return [np.array(weight) for weight in network.weights]


def assert_same_weights(some, others):
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def optimizers(monkeypatch):
    """Every optimizer that is made."""
    made = []

    def spied(*arguments, **options):
        made.append(training_optimizer(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(training, "training_optimizer", spied)
    return made


@pytest.mark.slow
def test_a_run_with_minutes_ends_within_them_at_rate_0_and_its_steps_repeat_it_bit_for_bit(
    tmp_path, tiles, monkeypatch, optimizers
):
    config = preset("smoke", **TINY, dropout=0.2, minutes=1.2, folds=2, train_folds=(0, 1))
    clock = MadeUpTime(monkeypatch)
    history = fit_folds(config, tiles, tmp_path / "budget", tmp_path / "budget/state", clock=clock).history
    assert 0.75 * 72 < clock.now < 0.95 * 72
    for optimizer in optimizers:
        assert float(optimizer.learning_rate) == pytest.approx(0, abs=1e-9)
    plans = json.loads((tmp_path / "budget" / "courses.json").read_text())
    assert [len(plans[fold]["segments"]) for fold in ("0", "1")] == [1, 1]  # nothing had to be corrected
    steps = [plans[fold]["segments"][0][2] for fold in ("0", "1")]
    assert steps[0] == steps[1] > 10 and list(history.groupby("fold")["step"].max()) == steps
    again = preset("smoke", **TINY, dropout=0.2, minutes=1.2, steps=steps[0], folds=2, train_folds=(0,))
    repeated = fit_folds(again, tiles, tmp_path / "steps", tmp_path / "steps/state").history
    pd.testing.assert_frame_equal(repeated, history[history["fold"] == 0])
    assert_same_weights(*(saved_weights(tmp_path / name, config, 0) for name in ("budget", "steps")))


@pytest.mark.slow
def test_a_slower_machine_trains_less_and_ends_in_time(tmp_path, tiles, monkeypatch):
    config = preset("smoke", **TINY, minutes=0.8, folds=2, train_folds=(0,))
    ends = {}
    for batch in (1.0, 3.0):
        clock = MadeUpTime(monkeypatch, batch=batch)
        folder = tmp_path / str(batch)
        history = fit_folds(config, tiles, folder, folder / "state", clock=clock).history
        ends[batch] = history["step"].max()
        assert clock.now < 48
        monkeypatch.undo()
    assert ends[1.0] > 1.8 * ends[3.0] > 0


@pytest.mark.slow  # how a plan is corrected: test_schedule
def test_a_machine_that_becomes_slower_on_the_way_still_ends_in_time_at_rate_0(
    tmp_path, tiles, monkeypatch, optimizers, capsys
):
    config = preset("smoke", **TINY, minutes=1.5, folds=2, train_folds=(0,))
    clock = MadeUpTime(monkeypatch, batch=3.0, slow_after=10, factor=2.0)
    history = fit_folds(config, tiles, tmp_path, tmp_path / "state", clock=clock).history
    assert clock.now < 90 and "steps instead of" in capsys.readouterr().out
    segments = json.loads((tmp_path / "courses.json").read_text())["0"]["segments"]
    assert len(segments) > 1 and segments[-1][-1] < segments[0][-1]
    assert float(optimizers[0].learning_rate) == pytest.approx(0, abs=1e-9)
    assert history["step"].iloc[-1] == segments[-1][-1]


@pytest.mark.slow
def test_a_run_with_minutes_that_is_taken_up_again_keeps_to_its_plan_to_the_bit(tmp_path, tiles, monkeypatch):
    config = preset("smoke", **TINY, dropout=0.2, minutes=0.9, folds=2, train_folds=(0, 1))

    class Killed(training.Checkpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if len(self.history) == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "Checkpoint", Killed)
        with pytest.raises(KeyboardInterrupt):
            fit_folds(config, tiles, tmp_path, tmp_path / "state", clock=MadeUpTime(patched))
    plan = json.loads((tmp_path / "state/fold0/plan.json").read_text())
    steps = plan["segments"][0][2]
    resumed = fit_folds(config, tiles, tmp_path, tmp_path / "state", clock=lambda: 1e5).history  # of another machine
    assert json.loads((tmp_path / "courses.json").read_text()) == {"0": plan, "1": plan}
    assert list(resumed.groupby("fold")["step"].max()) == [steps, steps]
    fold = cross_validation.split_tiles(config, tiles, tmp_path / "state")
    again = preset("smoke", **TINY, dropout=0.2, steps=steps, folds=2)
    whole, _ = fit_fold(again, tiles.images, tiles.masks, fold, 0, tmp_path / "whole")
    assert_same_weights([np.array(weight) for weight in whole.weights], saved_weights(tmp_path, config, 0))


@pytest.mark.slow
def test_a_corrected_plan_is_followed_after_a_kill_too(tmp_path, tiles, monkeypatch):
    config = preset("smoke", **TINY, dropout=0.2)
    plan = plan_of_steps(14, 2).corrected(4, 9)

    class Killed(training.Checkpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if len(self.history) == 3:
                raise KeyboardInterrupt

    def fit(name):
        return fit_fold(config, tiles.images, tiles.masks, np.arange(40) % 2, 0, tmp_path / name)

    for name in ("whole", "killed"):
        training.write_plan(tmp_path / name / "plan.json", plan)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "Checkpoint", Killed)
        fit("killed")
    (whole, history), (resumed, again) = fit("whole"), fit("killed")
    assert [row["step"] for row in history] == [2, 4, 6, 8, 9] and history == again
    assert_same_weights(*([np.array(weight) for weight in network.weights] for network in (whole, resumed)))


@pytest.mark.slow
def test_measuring_leaves_no_trace(tiles):
    config = preset("smoke", **TINY, dropout=0.2)
    task = SegmentationTask(training.build_model(config), config, AVERAGE_PRECISION)
    task.compile(training_optimizer(config, 10))
    batches = TileBatches(tiles.images, tiles.masks, 8, seed=(0, 0))
    task(batches[0][0])
    task.optimizer.build(task.trainable_variables)
    before = [np.array(variable) for variable in (*task.variables, *task.optimizer.variables)]
    ticks, held_out = iter(range(1000)), TileBatches(tiles.images, tiles.masks, 8)
    step, tile, compiling = training.measure_pace(task, batches, held_out, lambda: next(ticks), 0)
    assert (step, tile, compiling) == (1 / 5, 1 / 40, 0)
    after = [np.array(variable) for variable in (*task.variables, *task.optimizer.variables)]
    assert_same_weights(before, after)


def test_minutes_need_a_clock(tmp_path, tiles):
    config = preset("smoke", **TINY, minutes=1)
    with pytest.raises(TrainingError, match="minutes=1.0: give a clock"):
        fit_folds(config, tiles, tmp_path, tmp_path / "state")
    with pytest.raises(TrainingError, match="minutes=1.0: needs a Budget"):
        fit_fold(config, tiles.images, tiles.masks, np.arange(40) % 2, 0, tmp_path / "fold")


# --- unfinished, and at once ---


def assert_same_outcome(folder, outcome, two_folds):
    assert outcome.unfinished == [] and outcome.failure is None
    pd.testing.assert_frame_equal(outcome.history, two_folds[1].history)
    for found, expected in zip(outcome.oof, two_folds[1].oof, strict=True):
        np.testing.assert_array_equal(found, expected)
    for held_out in TWO_FOLDS.train_folds:
        assert_same_weights(*(saved_weights(each, TWO_FOLDS, held_out) for each in (folder, two_folds[0])))


def copy_without_fold_1(folder, copy):
    """A copy of a run of two folds, as it was before the second one began."""
    shutil.copytree(folder, copy)
    for path in (copy / "fold1.weights.h5", copy / "state/fold1.json", copy / "state/fold1.npz"):
        path.unlink()
    shutil.rmtree(copy / "state/fold1")
    return copy


class FailingClock:
    """A clock that fails once a path exists: with an error, or so that no error is left to be seen.

    Args:
        path: of a file of the fold in work.
        share: of the worker in which it fails, as for `fit_share`; None: in any process.
        kill: whether by SIGKILL.
    """

    def __init__(self, path, share=None, kill=False):
        self.path, self.share, self.kill = pathlib.Path(path), share, kill

    def is_concerned(self):
        frame = sys._getframe()
        while frame is not None and frame.f_locals.get("share") != self.share:
            frame = frame.f_back
        return frame is not None

    def __call__(self):
        if self.path.exists() and (self.share is None or self.is_concerned()):
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the clock has stopped")
        return 0.0


@pytest.mark.parametrize("resumed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_stops_before_its_limit_and_goes_on_later_to_the_same_bits(
    tmp_path, tiles, monkeypatch, two_folds, resumed
):
    folder = copy_without_fold_1(two_folds[0], tmp_path / "run")
    config = dataclasses.replace(TWO_FOLDS, limit_minutes=6 / 60)  # an epoch takes 2.5 s
    with monkeypatch.context() as patched:
        clock = MadeUpTime(patched)
        outcome = fit_folds(config, tiles, folder, folder / "state", clock=clock)
    assert outcome.unfinished == [1] and outcome.failure is None and clock.now == 5
    assert list(outcome.history.groupby("fold").size()) == [4, 2]
    assert set(outcome.oof.fold) == {0} and set(read_oof(folder / "oof.npz").fold) == {0}
    assert not (folder / "fold1.weights.h5").exists()
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert kept == [
        *("courses.json", "fold0.weights.h5", "history.csv", "oof.npz", "state/fold0.json", "state/fold0.npz"),
        *("state/fold0/plan.json", "state/fold1/epoch-00002.json", "state/fold1/epoch-00002.weights.h5"),
        *("state/fold1/plan.json", "state/run.json"),
    ]
    if resumed:
        outcome = fit_folds(TWO_FOLDS, tiles, folder, folder / "state")
        assert_same_outcome(folder, outcome, two_folds)


def test_a_limit_without_room_for_an_epoch_is_an_error(tmp_path, tiles):
    with pytest.raises(TrainingError, match="limit_minutes=690.0: there is no time for an epoch"):
        fit_folds(TWO_FOLDS, tiles, tmp_path, tmp_path / "state", clock=lambda: 690 * 60 + 1, began=0.0)


@pytest.mark.slow
def test_a_fold_that_fails_is_named_and_leaves_the_finished_one(tmp_path, tiles):
    clock = FailingClock(tmp_path / "state/fold1/epoch-00001.weights.h5")
    outcome = fit_folds(TWO_FOLDS, tiles, tmp_path, tmp_path / "state", clock=clock)
    assert outcome.unfinished == [1] and set(outcome.oof.fold) == {0}
    assert str(outcome.failure) == "fold 1 failed: RuntimeError('the clock has stopped')"
    assert isinstance(outcome.failure.__cause__, RuntimeError)


# In the default run a cluster's tests train folds in processes of their own, by the same module.
@pytest.mark.slow
def test_two_processes_train_what_one_does_and_what_a_killed_one_leaves_can_be_gone_on_with(
    tmp_path, tiles, two_folds, capsys
):
    config = dataclasses.replace(TWO_FOLDS, workers=2)
    clock = FailingClock(tmp_path / "state/fold1/epoch-00002.weights.h5", share=(1,), kill=True)
    outcome = fit_folds(config, tiles, tmp_path, tmp_path / "state", clock=clock)
    assert outcome.unfinished == [1] and set(outcome.oof.fold) == {0}
    assert str(outcome.failure) == "fold 1: its process was killed by SIGKILL, perhaps out of memory"
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "2 folds at once, each in a process of its own"
    assert all(re.match(r"fold [01]\b", line) for line in lines)
    for fold, epochs in ((0, 4), (1, 1)):  # killed behind a checkpoint, before it was told of
        told = rf"fold {fold}  epoch \d  step \d of 8  loss .* val_score 0\.\d{{4}}"
        assert len([line for line in lines if re.fullmatch(told, line)]) == epochs
    assert_same_weights(*(saved_weights(each, config, 0) for each in (tmp_path, two_folds[0])))
    state = tmp_path / "state" / "fold1"
    assert [path.name for path in sorted(state.glob("*.weights.h5"))] == ["epoch-00002.weights.h5"]
    (state / ".half-written-0.weights.h5").write_bytes(b"half")  # what a kill while saving leaves
    (state / "epoch-00003.json").write_text("[]")  # a kill between history and weights
    outcome = fit_folds(config, tiles, tmp_path, tmp_path / "state", clock=FailingClock(tmp_path / "never"))
    assert "fold 0: finished before" in capsys.readouterr().out
    assert_same_outcome(tmp_path, outcome, two_folds)


@pytest.mark.parametrize("resumed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_fold_that_diverges_stops_at_once_keeps_its_last_good_checkpoint_and_takes_nothing_along(
    tmp_path, tiles, monkeypatch, two_folds, resumed
):
    calls, honest = [], SegmentationTask.compute_loss

    class Clumsy(SegmentationTask):
        """Its loss is NaN from step 3 on, as after an overflow, as long as `planted` holds."""

        planted = True

        def compute_loss(self, *arguments, **options):
            loss = honest(self, *arguments, **options)
            spoilt = ops.logical_and(ops.convert_to_tensor(self.step) >= 3, self.planted and self.fold == 0)
            return loss + ops.where(spoilt, np.nan, 0.0)

        def fit(self, batches, **options):
            self.fold = batches.seed[1]
            counter = keras.callbacks.LambdaCallback(on_test_begin=lambda logs: calls.append(self.fold))
            return super().fit(batches, **{**options, "callbacks": [*options["callbacks"], counter]})

    def fit_fold(job, held_out, *arguments):
        if held_out == 0:
            return training.fit_fold(job, held_out, *arguments)
        network = training.build_model(job.config)  # as it was trained before
        network.load_weights(two_folds[0] / "fold1.weights.h5")
        return network, cross_validation.fold_files(two_folds[0], two_folds[0] / "state", 1).history()

    monkeypatch.setattr(training, "SegmentationTask", Clumsy)
    monkeypatch.setattr(cross_validation, "fit_fold", fit_fold)
    outcome = fit_folds(TWO_FOLDS, tiles, tmp_path, tmp_path / "state")
    assert (
        outcome.unfinished == [0] and set(outcome.oof.fold) == {1} and set(read_oof(tmp_path / "oof.npz").fold) == {1}
    )
    assert isinstance(outcome.failure.__cause__, DivergedError)
    message = str(outcome.failure)
    assert "fold 0 diverged in epoch 2: its loss became nan at a learning rate of 0.00" in message
    assert "the checkpoint after epoch 1 is kept" in message and "lower learning_rate than 0.001" in message
    assert list(outcome.history.groupby("fold").size()) == [1, 4] and not outcome.history.isna().any(axis=None)
    assert calls.count(0) <= 2  # one validation, and the second epoch's at most
    kept = sorted(path.name for path in (tmp_path / "state/fold0").iterdir())
    assert kept == ["epoch-00001.json", "epoch-00001.weights.h5", "plan.json"]
    if resumed:
        Clumsy.planted = False
        outcome = fit_folds(TWO_FOLDS, tiles, tmp_path, tmp_path / "state")
        assert_same_outcome(tmp_path, outcome, two_folds)


def test_an_error_behind_a_training_leaves_the_other_folds_and_the_fold_is_repeated_from_its_checkpoint(
    tmp_path, tiles, monkeypatch, two_folds
):
    for name in ("fold1.weights.h5", "history.csv"):
        assert (two_folds[0] / name).is_file()
    shutil.copytree(two_folds[0], tmp_path / "run")
    for path in (tmp_path / "run/state/fold0.json", tmp_path / "run/state/fold0.npz"):
        path.unlink()

    def no_space(job, held_out, folder, budget=None):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cross_validation, "fit_fold", no_space)
        outcome = fit_folds(TWO_FOLDS, tiles, tmp_path / "run", tmp_path / "run/state")
    assert outcome.unfinished == [0] and set(outcome.oof.fold) == {1}
    assert str(outcome.failure) == "fold 0 failed: OSError('no space left on device')"


@pytest.mark.slow
def test_who_watches_sees_each_epoch_when_it_is_kept_and_ends_the_training_by_an_error(tmp_path, tiles):
    seen = []

    def watch():
        seen.append(cross_validation.fold_files(tmp_path, tmp_path, 0).history()[-1]["step"])
        if len(seen) == 2:
            raise KeyError("enough")

    config, ended = preset("smoke", **TINY, epochs=5), []

    def record(fold):
        def note(epoch, logs):
            kept = cross_validation.fold_files(tmp_path, tmp_path, fold).history()
            ended.append((fold, epoch, len(kept), "val_score" in logs))

        return [keras.callbacks.LambdaCallback(on_epoch_end=note)]

    outcome = fit_folds(config, tiles, tmp_path, tmp_path, watch=watch, callbacks=record)
    assert ended[0] == (0, 0, 1, True)  # callbacks of one's own come behind the checkpoint
    assert len(seen) == len(outcome.history) == 2 and seen == outcome.history["step"].tolist()
    assert outcome.unfinished == [0] and outcome.oof is None
    assert isinstance(outcome.failure.__cause__, KeyError)


@pytest.mark.slow
def test_a_worker_that_fails_is_named_with_its_traceback(tmp_path, tiles, two_folds):
    config = dataclasses.replace(TWO_FOLDS, workers=2)
    clock = FailingClock(tmp_path / "state/fold0/epoch-00001.weights.h5", share=(0,))
    outcome = fit_folds(config, tiles, tmp_path, tmp_path / "state", clock=clock)
    assert outcome.unfinished == [0] and set(outcome.oof.fold) == {1}
    message = str(outcome.failure)
    assert message.startswith("fold 0: its process ended with status 1\nTraceback") and "in on_epoch_" in message
    assert message.endswith("TrainingError: fold 0 failed: RuntimeError('the clock has stopped')")
    assert_same_weights(*(saved_weights(each, TWO_FOLDS, 1) for each in (tmp_path, two_folds[0])))


@pytest.mark.slow
def test_folds_at_once_have_the_whole_time_each_share_for_itself(tmp_path, tiles, monkeypatch):
    config = preset("smoke", **TINY, minutes=1.0, workers=2, folds=3, train_folds=(0, 1, 2))
    clock, ends = MadeUpTime(monkeypatch), []

    def one_after_the_other(fit, shares, gpus, show):
        for share in shares:
            clock.now = 0.0
            fit(share)
            ends.append(clock.now)
        return {}

    monkeypatch.setattr(cross_validation, "run_workers", one_after_the_other)
    outcome = fit_folds(config, tiles, tmp_path, tmp_path / "state", clock=clock)
    assert len(ends) == 2 and all(0.7 * 60 < end < 0.95 * 60 for end in ends)
    steps = outcome.history.groupby("fold")["step"].max()
    assert outcome.unfinished == [] and steps[1] > 1.7 * steps[0] and steps[0] == steps[2]


def test_weights_are_downloaded_by_one_process_at_a_time(tmp_path):
    order = []

    def second():
        with training.download_lock(tmp_path, "imagenet"):
            order.append("second")

    with training.download_lock(tmp_path, "imagenet"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
        with training.download_lock(tmp_path, "some.weights.h5"):
            order.append("a file that is there already")
    thread.join(10)
    assert order == ["first", "a file that is there already", "second"]


# --- pseudo-labels ---


@pytest.fixture
def predicted(tmp_path, tiles):
    return write_predict_run(tmp_path / "predict", tiles)


SECOND_ROUND = preset("smoke", **TINY, steps=3, folds=2, pseudo=0.5)


def test_a_state_without_pseudo_labels_is_not_resumed_with_them(tmp_path, tiles, predicted):
    cross_validation.claim_state(tmp_path, SECOND_ROUND, tiles)
    pseudo = read_pseudo_labels(SECOND_ROUND, tiles, predicted)
    with pytest.raises(ArtifactError, match="differs in the tiles"):
        cross_validation.claim_state(tmp_path, SECOND_ROUND, tiles, pseudo)


@pytest.mark.slow
def test_a_second_round_trains_on_pseudo_labels_and_validates_without(tmp_path, tiles, predicted, monkeypatch):
    made = spy_on_batches(monkeypatch)
    config = SECOND_ROUND
    pseudo = read_pseudo_labels(config, tiles, predicted)
    history = fit_folds(config, tiles, tmp_path, tmp_path / "state", pseudo=pseudo).history
    assert history["step"].max() == 3 and len(made) == 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.bfloat16)])
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
from salt.tiles import Tiles
from salt.tgs import COMPETITION as TGS

folder, kill_in_epoch = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
images = rng.integers(1, 256, (36, 101, 101), dtype=np.uint8)
masks = (images > 128).astype(np.uint8)
config = preset(
    "smoke", filter_scaling=4, depth=2, padded_size=104, batch_size=8, steps=14, dropout=0.3, ema_momentum=0.9,
    lovasz=0.4, cutout=30,
)

class Killed(training.Checkpoint):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if self.epoch + 1 == kill_in_epoch and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

training.Checkpoint = Killed
from salt.tgs import COMPETITION
tiles = Tiles(np.arange(36).astype(str), images, masks, np.zeros(36), COMPETITION)
network, history = training.fit_fold(training.FoldJob(config, tiles, np.arange(36) % 3), 0, folder + "/state")
weights = [np.array(weight) for weight in network.weights]
np.savez(folder + "/final.npz", *weights, loss=[row["loss"] for row in history])
"""


def run_script(folder, kill_in_epoch):
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(kill_in_epoch)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.slow  # a killed worker's fold is resumed to the same bits in a faster test above
def test_a_run_killed_in_epoch_3_of_5_ends_with_the_same_bits(tmp_path):
    whole = run_script(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    killed = run_script(tmp_path / "killed", 3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = tmp_path / "killed" / "state"
    kept = ["epoch-00002.json", "epoch-00002.weights.h5", "plan.json"]
    assert sorted(path.name for path in state.iterdir()) == kept
    (state / ".half-written-0.weights.h5").write_bytes(b"half")  # what a kill while saving leaves
    (state / "epoch-00003.json").write_text("[]")  # a kill between history and weights
    resumed = run_script(tmp_path / "killed", 0)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after epoch 2" in resumed.stdout and "epoch 2" not in resumed.stdout.replace("after epoch 2", "")
    with np.load(tmp_path / "whole" / "final.npz") as expected, np.load(tmp_path / "killed" / "final.npz") as found:
        assert expected.files == found.files and len(expected.files) > 10
        for name in expected.files:
            np.testing.assert_array_equal(expected[name], found[name], err_msg=name)
    assert len(json.loads((state / "epoch-00005.json").read_text())) == 5
