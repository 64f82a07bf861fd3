"""Training: one fold, all folds, and what each of them holds out.

Keras's own `fit` does the work. A thin model around the network pads, augments and crops inside the compiled step, so
that the network itself stays a plain function from tiles to logits; it alone is saved. A run that was killed, or ran
out of time, goes on from its last epoch and ends with the same weights to the last bit (float32, on a CPU).
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import ops

from salt.artifacts import ArtifactError, Oof, read_probabilities, verify_run, write_oof, write_probabilities
from salt.augmentations import augment, crop_at, draw_augmentation, plain_parameters
from salt.config import Config, config_to_dict
from salt.data import Tiles, is_black
from salt.files import whole_file
from salt.folds import assign_folds
from salt.inference import predict_probabilities
from salt.losses import deep_loss, empty_loss, segmentation_loss
from salt.metrics import THRESHOLDS_20
from salt.parallel import run_workers
from salt.postprocess import choose_pseudo_labels, empty_black
from salt.resume import differing_settings
from salt.schedule import (
    Budget,
    Course,
    Pace,
    Stopwatch,
    TimeLimit,
    cosine_span,
    course_from_list,
    course_of_epochs,
    course_of_steps,
    follow_segment,
    lovasz_step,
    snapshot_steps,
    training_optimizer,
)
from salt.tta import tta_transforms
from salt.unet import build_model, encoder_layers, snapshot_ensemble, use_jit

CARDS_PROGRAM = "import keras; print(*keras.distribution.list_devices())"
PROBE_BATCHES = 5  # in an epoch that only measures; beside them, what an epoch's begin takes does not count
PROBE_SHARE = 0.01  # of a fold's time goes into measuring, not counting compilation
BATCH_NORM_BATCHES = 30  # from which batch norm's statistics are estimated in the end
ENDLESS = 10**6  # epochs of a `fit` whose course may still be corrected; it stops itself


class TrainingError(ValueError):
    """Settings, tiles or an earlier run that cannot be trained with."""


class OutOfTime(Exception):
    """A fold that stopped at the run's limit; its state is whole, and training can go on from it."""


class LeaderboardScore(keras.metrics.Metric):
    """The leaderboard metric of logits at probability 0.5; equal to `metrics.leaderboard_score`.

    Args:
        name: name in Keras's logs.
    """

    def __init__(self, name: str = "score", **kwargs):
        super().__init__(name=name, **kwargs)
        # Whole numbers in float32, exact up to 2 ** 24 (1.6 million tiles) and on every device.
        self.passed = self.add_variable((), initializer="zeros", dtype="float32", name="passed")
        self.tiles = self.add_variable((), initializer="zeros", dtype="float32", name="tiles")

    def update_state(self, masks, logits, sample_weight=None):
        """Takes masks `[B, H, W]` of 0 and 1 and logits `[B, H, W]`; every tile weighs the same."""
        truth = ops.cast(masks, "int32")
        proposal = ops.cast(logits >= 0, "int32")  # probability one half is level 128 of 255: salt
        intersection = ops.sum(truth * proposal, axis=(1, 2))
        union = ops.sum(ops.maximum(truth, proposal), axis=(1, 2))
        passed = [ops.logical_or(20 * intersection > twentieths * union, union == 0) for twentieths in THRESHOLDS_20]
        self.passed.assign_add(ops.sum(ops.cast(ops.stack(passed), "float32")))
        self.tiles.assign_add(ops.cast(ops.shape(truth)[0], "float32"))

    def result(self):
        """The mean over the tiles seen so far; 0 before the first."""
        return self.passed / ops.maximum(len(THRESHOLDS_20) * self.tiles, 1.0)


class SegmentationTask(keras.Model):
    """What happens around a network in training: augmentation before it, crop and losses behind it.

    Args:
        network: model from `[B, S, S, 1]` to logits `[B, S, S, 1]`, or to a dict of them, see `encoder_unet_model`.
        config: the run's settings.
    """

    def __init__(self, network: keras.Model, config: Config):
        super().__init__(name="segmentation_task")
        self.network = network
        self.config = config
        self.seed_generator = keras.random.SeedGenerator(config.seed)
        # Whole numbers in float32, since a GPU under TensorFlow would keep integer variables on the CPU; and in float32
        # inside of `call` too, where mixed precision would count in bfloat16, and no further than 256.
        counter = dict(shape=(), initializer="zeros", trainable=False, autocast=False)
        self.step = self.add_weight(name="step", **counter)
        self.lovasz_step = self.add_weight(name="lovasz_step", **counter)
        self.score = LeaderboardScore()

    def call(self, inputs, training=False):
        """Takes uint8 `image` and `mask` `[B, 101, 101]`; returns `logits` and `mask` `[B, 101, 101]` of what they
        show, and, if the network has more heads, their logits as `heads` and the mask with its padding as `padded`."""
        batch, size = ops.shape(inputs["image"])[0], self.config.padded_size
        if training:
            parameters = draw_augmentation(self.config, batch, self.seed_generator)
            self.step.assign_add(1.0)
        else:
            parameters = plain_parameters(batch, size)
        images, padded = augment(inputs["image"], inputs["mask"], parameters, size, self.config.padding)
        outputs = self.network(images[..., None], training=training)
        heads = dict(outputs) if isinstance(outputs, dict) else {"logits": outputs}
        logits = heads.pop("logits")[..., 0]
        tile = inputs["image"].shape[1]
        result = {
            "logits": crop_at(logits, parameters["offset"], tile),
            "mask": crop_at(padded, parameters["offset"], tile),
        }
        return {**result, "heads": heads, "padded": padded} if heads else result

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean over tiles of the loss on the tile itself, never on its padding, and of the other heads' losses."""
        # `step` counts the steps begun, so that validation has the loss of the last one.
        lovasz = ops.cast(ops.convert_to_tensor(self.step) > self.lovasz_step, "float32")
        losses = segmentation_loss(y_pred["logits"], y_pred["mask"], lovasz)
        heads = y_pred.get("heads", {})
        deep = [deep_loss(heads[name][..., 0], y_pred["padded"]) for name in sorted(heads) if name.startswith("deep")]
        if deep:
            losses = losses + self.config.deep_weight * sum(deep) / len(deep)
        if "empty" in heads:
            losses = losses + self.config.empty_weight * empty_loss(heads["empty"], y_pred["mask"])
        return ops.mean(losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Adds the batch to the leaderboard score."""
        self.score.update_state(y_pred["mask"], y_pred["logits"])
        return self.get_metrics_result()


class TileBatches(keras.utils.PyDataset):
    """Batches of uint8 tiles and masks; training order is drawn anew for each epoch, from the seed alone.

    Args:
        images: uint8 `[N, 101, 101]`.
        masks: uint8 `[N, 101, 101]`.
        batch_size: tiles a batch. When shuffling, an incomplete last batch is left out, another one each pass.
        seed: of the order, or None to keep it.
        passes: how often an epoch goes through the tiles.
        pseudo: None, or images and masks of further tiles that fill `pseudo_share` of each batch.
        pseudo_share: see there.
    """

    def __init__(
        self, images: np.ndarray, masks: np.ndarray, batch_size: int, seed=None, passes=1, pseudo=None, pseudo_share=0.0
    ):
        # Of one worker Keras makes a tf.data pipeline that tunes itself, and at the end of many an epoch waits for the
        # tuner: trainings on a CPU stood still for 3 to 11 % of their time. Of two it makes a queue.
        super().__init__(workers=2)
        self.images, self.masks, self.seed, self.passes = images, masks, seed, passes
        self.tiles, self.batch_size, self.guests = len(images), min(batch_size, len(images)), 0
        if pseudo is not None:
            self.images, self.masks = np.concatenate([images, pseudo[0]]), np.concatenate([masks, pseudo[1]])
            self.guests = min(round(pseudo_share * self.batch_size), self.batch_size - 1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        """Draws the order of an epoch."""
        if self.seed is None:
            self.order = np.arange(self.tiles)
            return
        generator = np.random.default_rng((*self.seed, epoch))
        self.order = np.concatenate([self.draw_pass(generator) for _ in range(self.passes)])

    def draw_pass(self, generator) -> np.ndarray:
        """The order of one pass: whole batches, the pseudo-labelled tiles at the end of each."""
        hosts = self.batch_size - self.guests
        count = self.tiles // hosts
        own = generator.permutation(self.tiles)[: count * hosts]
        if not self.guests:
            return own
        # However few guests there are, each comes as often as any other, to within one.
        guests = np.resize(self.tiles + generator.permutation(len(self.images) - self.tiles), count * self.guests)
        return np.concatenate([own.reshape(count, -1), guests.reshape(count, -1)], axis=1).ravel()

    def __len__(self):
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return ({"image": self.images[rows], "mask": self.masks[rows]},)


def begin_epoch(
    task: SegmentationTask, batches: TileBatches, config: Config, fold: int, epoch: int, course: Course | None = None
):
    """Sets all that an epoch draws or switches, from (seed, fold, epoch) and the course alone.

    Keras saves no random state: without this, dropout and augmentation would go on differently after a restart.

    Args:
        task: the model around the network.
        batches: of the training tiles.
        config: the run's settings.
        fold: that is held out.
        epoch: from 0.
        course: of the training; None: that of `config.epochs`.
    """
    batches.set_epoch(epoch)
    step = epoch * len(batches)
    segment = (course or course_of_epochs(config.epochs, len(batches))).segment(step)
    task.step.assign(step)
    task.lovasz_step.assign(lovasz_step(segment, config.lovasz))
    states = [variable for variable in task.variables if "seed_generator" in variable.path]
    for position, state in enumerate(states):
        drawn = np.random.SeedSequence((config.seed, fold, epoch, position)).generate_state(1)[0]
        state.assign(np.array([drawn >> 1, 0], "uint32"))  # 31 bits fit every backend's seed type


class Checkpoint(keras.callbacks.Callback):
    """Keeps the state after each epoch in a folder, so that `fit` goes on from there after a kill.

    Keras's BackupAndRestore writes weights and epoch number in place, one after the other: a kill in between leaves a
    pair that does not match. Here the weights carry the epoch in their name and appear whole, with their history
    already there.

    Args:
        folder: where the state is kept.
        history: the list that gets one row of logs an epoch, with the number of steps done; earlier epochs' rows are
            put back into it.
    """

    def __init__(self, folder, history: list):
        super().__init__()
        self.folder, self.history = pathlib.Path(folder), history

    def weights_path(self, epoch: int) -> pathlib.Path:
        """Where the state after this many epochs is."""
        return self.folder / f"epoch-{epoch:05d}.weights.h5"

    def snapshot_path(self, index: int) -> pathlib.Path:
        """Where the state at the end of a cosine is."""
        return self.folder / f"snapshot-{index:02d}.weights.h5"

    def keep_snapshot(self, index: int, epoch: int):
        """Keeps the state after this many epochs, the last one, for good."""
        with whole_file(self.snapshot_path(index)) as temporary:
            shutil.copyfile(self.weights_path(epoch), temporary)

    def on_train_begin(self, logs=None):
        saved = sorted(self.folder.glob("epoch-*.weights.h5"))
        if not saved:
            return
        epoch = int(saved[-1].name.removeprefix("epoch-").removesuffix(".weights.h5"))
        self.model.optimizer.build(self.model.trainable_variables)
        self.model.load_weights(saved[-1])
        self.history[:] = json.loads((self.folder / f"epoch-{epoch:05d}.json").read_text(encoding="utf-8"))
        self.model._initial_epoch = epoch  # as Keras's BackupAndRestore does; `fit` has no public way
        print(f"goes on after epoch {epoch} from {saved[-1].name}")

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({"step": int(self.model.step), **{name: float(value) for name, value in logs.items()}})
        with whole_file(self.folder / f"epoch-{epoch + 1:05d}.json") as temporary:
            temporary.write_text(json.dumps(self.history), encoding="utf-8")
        with whole_file(self.weights_path(epoch + 1)) as temporary:
            self.model.save_weights(temporary)
        self.weights_path(epoch).unlink(missing_ok=True)
        (self.folder / f"epoch-{epoch:05d}.json").unlink(missing_ok=True)


class Guide(keras.callbacks.Callback):
    """Leads `fit` along a course: begins each epoch, stops after the last step, says how it goes.

    Args:
        batches: of the training tiles.
        config: the run's settings.
        fold: that is held out.
        course: of the training.
        checkpoint: which comes before in the list of callbacks.
        correct: None, or a function of (course, steps done) that returns the course to go on with.
    """

    def __init__(
        self, batches: TileBatches, config: Config, fold: int, course: Course, checkpoint: Checkpoint, correct=None
    ):
        super().__init__()
        self.batches, self.config, self.fold, self.course = batches, config, fold, course
        self.checkpoint, self.correct = checkpoint, correct

    def snapshot_steps(self) -> list[int]:
        """The steps at which the cosines of the course end."""
        return snapshot_steps(self.course, len(self.batches), self.config.snapshots, self.config.lovasz)

    def on_epoch_begin(self, epoch, logs=None):
        self.first = epoch * len(self.batches)
        begin_epoch(self.model, self.batches, self.config, self.fold, epoch, self.course)
        ends = self.snapshot_steps()
        for index, end in enumerate(ends[:-1]):
            if end == self.first:  # here and not when the epoch ends, so that a kill in between loses nothing
                self.checkpoint.keep_snapshot(index, epoch)
        span = cosine_span(self.course, self.first, ends, self.config.warmup)
        follow_segment(self.model.optimizer, self.course.segment(self.first), span)

    def on_train_batch_begin(self, batch, logs=None):
        # Before the last step, not behind it: Keras may call what comes behind steps later, from a thread.
        if self.first + batch + 1 >= self.course.end:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        row = self.checkpoint.history[-1]
        values = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "step")
        print(f"fold {self.fold}  epoch {epoch + 1}  step {row['step']} of {self.course.end}  {values}", flush=True)
        if self.correct is not None:
            self.course = self.correct(self.course, row["step"])


def measure_pace(task: SegmentationTask, batches: TileBatches, validation: TileBatches, clock, limit: float) -> tuple:
    """Trains a little to see how long that takes, and then undoes it: no bit of what follows depends on it.

    Args:
        task: the compiled model around the network.
        batches: some training batches.
        validation: some of the held-out tiles.
        clock: function that returns seconds.
        limit: how many seconds to measure for, at least; compilation comes on top.

    Returns:
        Seconds of a step, of a held-out tile and of compilation.
    """
    task.optimizer.build(task.trainable_variables)
    variables = [*task.variables, *task.optimizer.variables]
    values = [np.array(ops.convert_to_numpy(variable)) for variable in variables]  # copies: training reuses the memory
    watch = Stopwatch(clock, limit)
    callbacks = [keras.callbacks.SwapEMAWeights(), watch] if task.config.ema_momentum else [watch]
    task.fit(batches, validation_data=validation, epochs=ENDLESS, callbacks=callbacks, shuffle=False, verbose=0)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    train, test = np.median(watch.epochs[1:], axis=0)
    compiling = max(0.0, sum(watch.epochs[0]) - train - test)
    return train / len(batches), test / len(validation.order), compiling


def plan_within_budget(
    task: SegmentationTask, batches: TileBatches, validation: TileBatches, budget: Budget, folder: pathlib.Path
) -> Course:
    """The course of a fold that has minutes instead of epochs, from what this machine is seen to do.

    Args:
        task: the compiled model around the network.
        batches: of the training tiles, one pass an epoch.
        validation: of the held-out tiles.
        budget: of the run.
        folder: where checkpoints will be written, to see how long one takes.
    """
    config, count = task.config, PROBE_BATCHES * batches.batch_size
    some = TileBatches(batches.images[:count], batches.masks[:count], batches.batch_size, seed=(config.seed,))
    few = TileBatches(validation.images[:count], validation.masks[:count], validation.batch_size)
    limit = PROBE_SHARE * (budget.fold_end - budget.fold_began)
    step, tile, compiling = measure_pace(task, some, few, budget.clock, limit)
    began = budget.clock()
    with whole_file(folder / "trial.weights.h5") as temporary:
        task.save_weights(temporary)
    (folder / "trial.weights.h5").unlink()
    held_out = tile * validation.tiles
    # Prediction is a validation for each transform and compiles once more; batch norm is the first half of some steps.
    predicting = held_out * len(tta_transforms(config.tta))
    tail = compiling + config.snapshots * (predicting + min(BATCH_NORM_BATCHES, len(batches)) * step / 2)
    pace = Pace(step, held_out + budget.clock() - began, tail)
    course = budget.first_course(pace, len(batches))
    print(
        f"a step takes {1000 * pace.step:.0f} ms, an epoch's end {pace.epoch:.1f} s, the fold's end {pace.tail:.0f} s: "
        f"{course.end} steps, {course.end / len(batches):.1f} passes, fit into the "
        f"{(budget.fold_end - budget.clock()) / 60:.1f} minutes of this fold"
    )
    return course


def correct_course(course: Course, done: int, watch: Stopwatch, budget: Budget, batches: int, path) -> Course:
    """The course after an epoch: if the machine has become slower or faster, another one, which is kept at once.

    Args:
        course: so far.
        done: steps done.
        watch: that timed the epochs.
        budget: of the run.
        batches: in one pass through the training tiles.
        path: of the course's file.
    """
    train, other = np.mean(watch.epochs[-3:], axis=0)
    pace = Pace(train / (course.passes * batches), other, 0.0)
    corrected = budget.corrected_course(course, done, pace, batches)
    if corrected is not course:
        print(f"{corrected.end} steps instead of {course.end}, since a step now takes {1000 * pace.step:.0f} ms")
        write_course(path, corrected)
    budget.course = corrected
    return corrected


def write_course(path: pathlib.Path, course: Course):
    """Keeps a course, for a restart and for the record."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(course._asdict()), encoding="utf-8")


def read_course(path: pathlib.Path) -> Course:
    """The undoing of `write_course`."""
    return course_from_list(json.loads(path.read_text(encoding="utf-8")))


def repeat_exactly_on_cpu():
    """Makes TensorFlow's operations on a CPU give the same bits on every run; JAX's do so anyway.

    TensorFlow's threads add gradients in the order in which they finish, and Adam makes a visible difference of a last
    bit. On a GPU it stays off: some operations would be refused, others be slow.
    """
    if keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu"):
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def batch_norm_layers(model: keras.Model) -> list:
    """The trainable batch-norm layers of a model and of the models inside it."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += batch_norm_layers(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            found.append(layer)
    return found


def reestimate_batch_norm(task: SegmentationTask, batches: TileBatches, most: int = BATCH_NORM_BATCHES):
    """Replaces running batch-norm statistics by their mean over training batches, with the weights as they are now.

    Averaged weights were never run before, so the statistics of the last step's weights do not belong to them (Izmailov
    et al. 2018, section 3.2); and a momentum of .6 remembers three batches. With momentum k / (k + 1) at batch k the
    running value is the plain mean of batches 0 to k.

    Args:
        task: the model around the network.
        batches: augmented training tiles.
        most: how many batches to use at most.
    """
    layers = batch_norm_layers(task.network)
    momenta = [layer.momentum for layer in layers]
    for index in range(min(most, len(batches))):
        for layer in layers:
            layer.momentum = index / (index + 1)
        task(batches[index][0], training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def fit_fold(
    config: Config,
    images: np.ndarray,
    masks: np.ndarray,
    fold: np.ndarray,
    held_out: int,
    folder,
    weights=None,
    pseudo: Tiles | None = None,
    budget: Budget | None = None,
    watch=None,
) -> tuple[keras.Model, list[dict]]:
    """Trains a network on all tiles but the black ones and those of one fold.

    How long: `config.steps` if there are any, else what fits into the budget if there are `config.minutes`, else
    `config.epochs`.

    Args:
        config: the run's settings.
        images: uint8 `[N, 101, 101]`.
        masks: uint8 `[N, 101, 101]`.
        fold: int8 `[N]`, the fold in which each tile is held out.
        held_out: the fold that is not trained on.
        folder: keeps the state after each epoch, and the course; a later call with the same arguments goes on from it.
        weights: of a pre-trained encoder, as for `build_model`.
        pseudo: further tiles, from `read_pseudo_labels`.
        budget: the run's time; None: there is no limit.
        watch: None, or a function that is called after each epoch, when its checkpoint is there; what it raises ends
            the training.

    Returns:
        The trained network, with averaged weights, or an ensemble of its snapshots; and one dict of logs an epoch:
        `step` (how many are done), `loss`, `score` (of the training tiles as augmented), `val_loss` and `val_score` (of
        the held-out tiles, with averaged weights, without test-time augmentation).

    Raises:
        OutOfTime: the limit of the budget is near; the state is kept.
        TrainingError: no tile is left to train on, or none is held out; minutes without a budget.
    """
    held = fold == held_out
    trained = ~held & ~is_black(images)
    if not trained.any() or not held.any():
        raise TrainingError(
            f"fold {held_out} holds out {held.sum()} of {len(fold)} tiles and leaves {trained.sum()} that are not "
            "black; both must be at least 1"
        )
    folder = pathlib.Path(folder)
    repeat_exactly_on_cpu()
    keras.utils.set_random_seed(config.seed + held_out)  # each fold starts from other weights: ensembles gain from it
    with one_download(folder.parent, weights):
        task = SegmentationTask(build_model(config, weights), config)
    more = {} if pseudo is None else dict(pseudo=(pseudo.images, pseudo.masks), pseudo_share=config.pseudo)
    batches = TileBatches(images[trained], masks[trained], config.batch_size, seed=(config.seed, held_out), **more)
    validation = TileBatches(images[held], masks[held], 2 * config.batch_size)
    # Weights that were learned elsewhere want a gentler rate; random ones in their place do not.
    learned = encoder_layers(task.network) if weights is not None else []
    slow = [variable for layer in learned for variable in layer.trainable_variables]
    task.compile(training_optimizer(config, slow=slow), jit_compile=use_jit())
    task(batches[0][0])  # builds the variables, which the checkpoint fills

    path, correct = folder / "course.json", None
    timers = [] if budget is None else [Stopwatch(budget.clock), TimeLimit(budget)]
    if path.is_file():
        course = read_course(path)
    elif config.steps:
        course = course_of_steps(config.steps, len(batches))
    elif not config.minutes:
        course = course_of_epochs(config.epochs, len(batches))
    elif budget is None:
        raise TrainingError(f"minutes={config.minutes}: needs a Budget, which has a clock; or set minutes to 0")
    else:
        course = plan_within_budget(task, batches, validation, budget, folder)
        correct = functools.partial(correct_course, watch=timers[0], budget=budget, batches=len(batches), path=path)
    write_course(path, course)
    batches.passes = course.passes
    batches.set_epoch(0)
    history = []
    checkpoint = Checkpoint(folder, history)
    guide = Guide(batches, config, held_out, course, checkpoint, correct)
    callbacks = [checkpoint, *timers, guide]
    if config.ema_momentum:
        # Validates with averaged weights and swaps back, so that the checkpoint has both kinds; `fit` itself puts the
        # averaged ones into the model at its end.
        callbacks.insert(0, keras.callbacks.SwapEMAWeights())
    if watch:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: watch()))
    epochs = ENDLESS if correct else math.ceil(course.end / len(batches))
    task.fit(batches, validation_data=validation, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0)
    if history[-1]["step"] < guide.course.end:
        raise OutOfTime(f"stopped after step {history[-1]['step']} of {guide.course.end}")
    if budget is not None:
        budget.end_training()
    return finish_network(task, guide), history


def finish_network(task: SegmentationTask, guide: Guide) -> keras.Model:
    """The network of a fold whose last step is done, with batch norm of its own; of several snapshots, all as one.

    Args:
        task: the model around the network, with the weights of the end.
        guide: that led the training.
    """

    def settle():
        epoch = len(guide.checkpoint.history)
        begin_epoch(task, guide.batches, guide.config, guide.fold, epoch, guide.course)  # as after a kill just before
        reestimate_batch_norm(task, guide.batches)
        return task.network.get_weights()

    weights = [settle()]
    for index, step in enumerate(guide.snapshot_steps()[:-1]):
        if step == guide.course.end:  # so few epochs that this cosine had none
            weights.insert(index, weights[-1])
            continue
        task.load_weights(guide.checkpoint.snapshot_path(index))
        task.optimizer.finalize_variable_values(task.trainable_variables)  # the averaged ones, as `fit` does in the end
        weights.insert(index, settle())
    if len(weights) == 1:
        return task.network
    networks = [build_model(guide.config) for _ in weights]
    for network, values in zip(networks, weights, strict=True):
        network.set_weights(values)
    return snapshot_ensemble(networks)


@contextlib.contextmanager
def one_download(folder: pathlib.Path, weights):
    """Lets one process at a time build a model whose weights Keras downloads: it writes them in place, into one cache.

    Args:
        folder: that all processes of the run share.
        weights: as for `build_model`.
    """
    if weights != "imagenet":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".download", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        yield


class FoldFiles(NamedTuple):
    """Where a fold's results and its state are.

    Attributes:
        weights: of the trained network.
        probabilities: of the held-out tiles.
        log: the history, the last of the three to be written: with it the fold is finished.
        state: folder of the checkpoint and the course.
    """

    weights: pathlib.Path
    probabilities: pathlib.Path
    log: pathlib.Path
    state: pathlib.Path

    def finished(self) -> bool:
        """Whether the fold is trained and its held-out tiles are predicted."""
        return self.weights.is_file() and self.probabilities.is_file() and self.log.is_file()

    def history(self) -> list[dict]:
        """The logs of the epochs so far."""
        logs = [self.log, *sorted(self.state.glob("epoch-*.json"), reverse=True)]
        return next((json.loads(log.read_text(encoding="utf-8")) for log in logs if log.is_file()), [])


def fold_files(folder, state_folder, held_out: int) -> FoldFiles:
    """The files of a fold of the run in `folder`."""
    state = pathlib.Path(state_folder) / f"fold{held_out}"
    return FoldFiles(
        weights=pathlib.Path(folder) / f"fold{held_out}.weights.h5",
        probabilities=state.with_suffix(".npz"),
        log=state.with_suffix(".json"),
        state=state,
    )


def fit_share(
    share: tuple, config: Config, tiles: Tiles, fold: np.ndarray, folder, state_folder, weights, pseudo, clock, began,
    watch,
):  # fmt: skip
    """Trains some folds, one after the other, as far as the time goes, and predicts what each of them holds out.

    What comes of it are files, see `FoldFiles`: this is what a worker process does.

    Args:
        share: the folds.
        fold: int8 `[N]`, the fold in which each tile is held out.
        config, tiles, folder, state_folder, weights, pseudo, clock, began, watch: as for `fit_folds`.

    Raises:
        TrainingError: names the fold that failed; its cause is what went wrong.
    """
    keras.mixed_precision.set_dtype_policy(config.precision)
    budget = clock and Budget(config.minutes, len(share), clock, began, config.limit_minutes)
    for held_out in share:
        if budget and not budget.has_time():
            print(f"fold {held_out}: not begun, for want of time")
            continue
        files = fold_files(folder, state_folder, held_out)
        print(f"fold {held_out}: {int((fold != held_out).sum())} tiles, {int((fold == held_out).sum())} held out")
        try:
            network, history = fit_fold(
                config, tiles.images, tiles.masks, fold, held_out, files.state, weights, pseudo, budget, watch
            )
        except OutOfTime as error:
            print(f"fold {held_out}: {error}, for want of time")
            continue
        except Exception as error:
            raise TrainingError(f"fold {held_out} failed: {error!r}") from error
        images = tiles.images[fold == held_out]
        predicted = predict_probabilities([network], images, config.tta, config.padded_size, config.padding)
        with whole_file(files.weights) as temporary:
            network.save_weights(temporary)
        write_probabilities(files.probabilities, tiles.ids[fold == held_out], empty_black(predicted, images))
        with whole_file(files.log) as temporary:
            temporary.write_text(json.dumps(history), encoding="utf-8")
        for path in [*files.state.glob("epoch-*"), *files.state.glob("snapshot-*")]:
            path.unlink()  # with the optimizer's averages it is several times the size of the weights
        if budget:
            budget.finish_fold()


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        oof: the out-of-fold predictions of the finished folds; None if there are none.
        history: one row an epoch and fold, those of unfinished folds among them.
        unfinished: the folds that ran out of time or failed.
        failure: the error of a fold that failed, to be raised when all that is whole has been saved; or None.
    """

    oof: Oof | None
    history: pd.DataFrame
    unfinished: list[int]
    failure: TrainingError | None


def fit_folds(
    config: Config,
    tiles: Tiles,
    folder,
    state_folder,
    weights=None,
    pseudo: Tiles | None = None,
    clock=None,
    began: float | None = None,
    watch=None,
) -> Outcome:
    """Trains the folds that the configuration names and predicts what each of them holds out.

    With several GPUs, or where `config.workers` says so, several folds are trained at once, each worker's in a process
    of its own; this process then leaves the GPUs alone. A fold that fails does not take the others along.

    A call that was killed, or whose folds ran out of time, is repeated with the same arguments: finished folds are
    taken as they are, those in work go on from their last epoch. Where a run has minutes, the repetition has none of
    its own: it keeps to the courses that it finds, and further folds take as many steps.

    Args:
        config: the run's settings.
        tiles: training tiles with masks.
        folder: gets `fold<k>.weights.h5`, `history.csv`, `courses.json` and `oof.npz`.
        state_folder: keeps what a repetition needs; of no use when all folds are finished.
        weights: of a pre-trained encoder, as for `build_model`.
        pseudo: further tiles to train on, from `read_pseudo_labels`.
        clock: function that returns seconds and means the same in every process, such as `time.monotonic`; needed
            where `config.minutes` count; None: `config.limit_minutes` does not count either.
        began: what the clock said when the run began; None: now.
        watch: as for `fit_fold`; a fold that it ends has failed, and what it raised is the cause of that failure.

    Returns:
        The out-of-fold predictions, the history, and what is not finished.

    Raises:
        ArtifactError: `state_folder` is another run's, with other settings or tiles.
        TrainingError: minutes without a clock; or no fold came to the end of its first epoch.
    """
    folder, state_folder = pathlib.Path(folder), pathlib.Path(state_folder)
    claim_state(state_folder, config, tiles, pseudo)
    fold = assign_folds(tiles.images, tiles.masks, config.folds, config.seed)
    files = {held_out: fold_files(folder, state_folder, held_out) for held_out in config.train_folds}
    courses = [read_course(path) for path in (each.state / "course.json" for each in files.values()) if path.is_file()]
    if config.minutes and not config.steps:
        if clock is None:
            raise TrainingError(f"minutes={config.minutes}: give a clock, such as time.monotonic, to plan by")
        if courses:
            config = dataclasses.replace(config, steps=courses[-1].end)
    for held_out, each in files.items():
        if each.finished():
            print(f"fold {held_out}: finished before")
    to_do = [held_out for held_out, each in files.items() if not each.finished()]
    began = clock() if clock and began is None else began
    fit = functools.partial(
        fit_share, config=config, tiles=tiles, fold=fold, folder=folder, state_folder=state_folder, weights=weights,
        pseudo=pseudo, clock=clock, began=began, watch=watch,
    )  # fmt: skip
    failure = fit_at_once(fit, to_do, config.workers) if to_do else None
    unfinished = [held_out for held_out, each in files.items() if not each.finished()]
    rows = [
        {"fold": held_out, "epoch": epoch, **logs}
        for held_out, each in files.items()
        for epoch, logs in enumerate(each.history(), start=1)
    ]
    if not rows:
        raise failure or TrainingError(f"limit_minutes={config.limit_minutes}: there is no time for an epoch")
    history = pd.DataFrame(rows)
    with whole_file(folder / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    write_courses(folder / "courses.json", files)
    finished = {held_out: each for held_out, each in files.items() if held_out not in unfinished}
    return Outcome(write_finished(folder, tiles, fold, finished), history, unfinished, failure)


def fit_at_once(fit, folds: list, workers: int) -> TrainingError | None:
    """Trains folds in as many processes as there are GPUs or `workers` says, or in this one if that is one.

    Args:
        fit: `fit_share` of the folds that it is given.
        folds: to train.
        workers: `Config.workers`.

    Returns:
        None, or the error that names each fold which failed, and why.
    """
    cards = visible_cards() if len(folds) > 1 and workers != 1 else []
    count = min(workers or len(cards) or 1, len(folds))
    if count == 1:
        try:
            fit(tuple(folds))
        except TrainingError as error:
            return error
        return None
    shares = [tuple(folds[first::count]) for first in range(count)]
    now = [share[0] for share in shares]  # the fold that each worker is at

    def show(index, line):
        if found := re.match(r"fold (\d+)", line):
            now[index] = int(found[1])
        else:
            line = f"fold {now[index]}  {line}"
        print(line, flush=True)

    print(f"{count} folds at once, each in a process of its own{' on a card of its own' if cards else ''}")
    errors = run_workers(fit, shares, cards, show)
    if not errors:
        return None
    return TrainingError("\n".join(f"fold {now[index]}: {error}" for index, error in errors.items()))


@functools.cache
def visible_cards() -> list[str]:
    """The numbers of the GPUs that Keras's backend sees, asked in a process of its own.

    Who asks holds the GPUs' memory until it ends, so this process must not, if others are to train on them.

    Raises:
        TrainingError: there is a GPU's driver, and the backend fails.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run([sys.executable, "-c", CARDS_PROGRAM], capture_output=True, text=True)
    if done.returncode:
        raise TrainingError(f"{keras.backend.backend()} cannot be asked for its GPUs: {done.stderr.strip()[-1000:]}")
    return [name.rpartition(":")[2] for name in done.stdout.split() if name.startswith("gpu")]


def write_courses(path: pathlib.Path, files: dict[int, FoldFiles]):
    """Writes the course of each fold that has one."""
    courses = {held_out: each.state / "course.json" for held_out, each in files.items()}
    found = {held_out: read_course(course)._asdict() for held_out, course in courses.items() if course.is_file()}
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")


def write_finished(folder: pathlib.Path, tiles: Tiles, fold: np.ndarray, files: dict[int, FoldFiles]) -> Oof | None:
    """Writes `oof.npz` from the predictions of the finished folds, if there are any, and returns what it holds."""
    if not files:
        return None
    probabilities = np.zeros_like(tiles.images)
    for held_out, each in files.items():
        probabilities[fold == held_out] = read_probabilities(each.probabilities)[1]
    seen = np.isin(fold, list(files))
    oof = Oof(tiles.ids[seen], fold[seen], probabilities[seen], tiles.masks[seen])
    write_oof(folder / "oof.npz", oof)
    return oof


def read_pseudo_labels(config: Config, test: Tiles, folder) -> Tiles:
    """The test tiles on which an earlier run is sure, with its predictions as their masks.

    The models behind these predictions have seen all training tiles, so the labels know something of each fold: the
    out-of-fold score of a run that learns from them is too high. Judge such a run by tiles that neither has seen.

    Args:
        config: the run's settings.
        test: test tiles.
        folder: output of the predict kernel on these tiles; checked against its manifest.

    Raises:
        ArtifactError: the folder does not match its manifest, or is of other tiles.
        TrainingError: the earlier run is sure of no tile.
    """
    manifest = verify_run(folder)
    ids, probabilities = read_probabilities(pathlib.Path(folder) / "probabilities.npz")
    if not np.array_equal(ids, test.ids):
        raise ArtifactError(f"{folder}: predictions of {len(ids)} tiles that are not these {len(test.ids)} test tiles")
    masks, sure = choose_pseudo_labels(
        probabilities, manifest["level"], manifest["minimum_area"], config.pseudo_confidence
    )
    sure &= ~is_black(test.images)
    if not sure.any():
        raise TrainingError(
            f"pseudo_confidence={config.pseudo_confidence}: {manifest['run_id']} is that sure of none of the "
            f"{len(ids)} test tiles; lower it"
        )
    print(f"{sure.sum()} of {len(ids)} test tiles come with the predictions of {manifest['run_id']}")
    return Tiles(test.ids[sure], test.images[sure], masks[sure], test.depths[sure])


def claim_state(state_folder, config: Config, tiles: Tiles, pseudo: Tiles | None = None):
    """Writes into a state folder whose it is, or raises `ArtifactError` if it is another run's."""
    arrays = [tiles.images] if pseudo is None else [tiles.images, pseudo.images, pseudo.masks]
    pixels = [int(array.sum(dtype=np.int64)) for array in arrays]
    path, shown = pathlib.Path(state_folder) / "run.json", {"tiles": len(tiles.ids), "pixels": pixels}
    if not path.is_file():
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps({"config": config_to_dict(config), **shown}), encoding="utf-8")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    other = differing_settings(config, found["config"])
    if any(found[key] != value for key, value in shown.items()):
        other.append("the tiles")
    if other:
        raise ArtifactError(
            f"{state_folder} belongs to a run that differs in {', '.join(other)}; remove it or choose another folder"
        )
