"""Training one fold: Keras's own `fit`, led by callbacks along a plan, with a checkpoint after each epoch.

A fold whose training was killed, or ran out of time, resumes after its last epoch and ends with the same weights to the
last bit (float32, on a CPU).
"""

import contextlib
import functools
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from filelock import FileLock
from keras import ops

from salt.config import Config
from salt.files import whole_file
from salt.networks import build_model, encoder_layers, snapshot_ensemble, use_jit
from salt.schedule import (
    Budget,
    Pace,
    Stopwatch,
    TimeLimit,
    TrainingPlan,
    cosine_span,
    follow_segment,
    plan_of_epochs,
    plan_of_steps,
    read_plan,
    snapshot_steps,
    training_optimizer,
    write_plan,
)
from salt.stacks import subset
from salt.task import (
    BATCH_NORM_BATCHES,
    DivergenceGuard,
    SegmentationTask,
    TileBatches,
    begin_epoch,
    reestimate_batch_norm,
    repeat_exactly_on_cpu,
    weights_seed,
)
from salt.tiles import Surroundings, Tiles, shown_images, shown_masks, training_side
from salt.tta import tta_transforms

PROBE_BATCHES = 5  # in an epoch that only measures: enough to outweigh what beginning an epoch takes
PROBE_SHARE = 0.01  # of a fold's time goes into measuring, not counting compilation
UNLIMITED_EPOCHS = 10**6  # for a `fit` whose plan may still be corrected; a callback stops it


class TrainingError(ValueError):
    """Settings, tiles or an earlier run that cannot be trained with."""


class OutOfTime(Exception):
    """A fold that stopped at the run's limit; its state is whole, so that the training can be resumed."""


@dataclass(frozen=True)
class FoldJob:
    """What the training of every fold of a run has in common.

    Attributes:
        config: the run's settings.
        tiles: training tiles with masks.
        fold: int8 `[N]`, the fold in which each tile is held out.
        weights: of a pre-trained encoder, as for `build_model`.
        pseudo: further tiles to train on, from `read_pseudo_labels`.
        clock: function that returns seconds and means the same in every process; None: no time counts.
        began: what the clock said when the run began.
        watch: None, or a function that is called after each epoch, when its checkpoint is written; an exception that
            it raises ends the training.
        callbacks: None, or a function of the held-out fold that gives Keras callbacks for its training, such as
            `keras.callbacks.TensorBoard`. They come last: at an epoch's end its checkpoint is written. It must be
            possible to pickle the function (by cloudpickle) where folds are trained in processes of their own.
        transform: None, or a transform of the training tiles, as for `TileBatches`; it can be pickled, too.
        around: with `padding="neighbours"` what is known around the tiles; else None.
    """

    config: Config
    tiles: Tiles
    fold: np.ndarray
    weights: str | None = None
    pseudo: Tiles | None = None
    clock: Callable[[], float] | None = None
    began: float | None = None
    watch: Callable[[], None] | None = None
    callbacks: Callable[[int], Sequence[keras.callbacks.Callback]] | None = None
    transform: Callable[..., dict] | None = None
    around: Surroundings | None = None


def fit_fold(
    job: FoldJob, held_out: int, folder: str | pathlib.Path, budget: Budget | None = None
) -> tuple[keras.Model, list[dict]]:
    """Trains a network on all tiles but the blank ones and those of one fold.

    How long: `config.steps` if there are any, else what fits into the budget if there are `config.minutes`, else
    `config.epochs`.

    Args:
        job: the settings, the tiles and their folds.
        held_out: the fold that is not trained on.
        folder: keeps the checkpoint of each epoch, and the plan; a later call with the same arguments resumes from it.
        budget: the run's time; None: there is no limit.

    Returns:
        The trained network, with averaged weights, or an ensemble of its snapshots; and one dict of logs an epoch:
        `step` (how many are done), `loss`, `score` (of the training tiles as augmented), `val_loss` and `val_score` (of
        the held-out tiles, with averaged weights, without test-time augmentation).

    Raises:
        DivergedError: a step's loss is not finite; the checkpoint of the epoch before is kept.
        OutOfTime: the limit of the budget is near; the checkpoint is kept.
        TrainingError: no tile is left to train on, or none is held out; minutes without a budget.
    """
    config, folder = job.config, pathlib.Path(folder)
    repeat_exactly_on_cpu()
    keras.utils.set_random_seed(weights_seed(config.seed, held_out))
    batches, validation = fold_batches(job, held_out)
    shape = network_shape(job.tiles)
    with download_lock(folder.parent, job.weights):
        task = SegmentationTask(build_model(config, job.weights, *shape), config, job.tiles.competition.metric)
    # A pre-trained encoder needs a lower rate; one with random weights does not.
    learned = encoder_layers(task.network) if job.weights is not None else []
    slow = [variable for layer in learned for variable in layer.trainable_variables]
    task.compile(training_optimizer(config, slow=slow), jit_compile=use_jit())
    task(batches[0][0])  # builds the variables, which the checkpoint fills
    # Inside of its first step TensorFlow would make the optimizer's too, one by one, and then trace the step again.
    task.optimizer.build(task.trainable_variables)

    plan_path, correct = folder / "plan.json", None
    timers: list[keras.callbacks.Callback] = []
    if budget is not None:
        stopwatch = Stopwatch(budget.clock)
        timers = [stopwatch, TimeLimit(budget)]
    if plan_path.is_file():
        plan = read_plan(plan_path)
    elif config.steps:
        plan = plan_of_steps(config.steps, len(batches))
    elif not config.minutes:
        plan = plan_of_epochs(config.epochs, len(batches))
    elif budget is None:
        raise TrainingError(f"minutes={config.minutes}: needs a Budget, which has a clock; or set minutes to 0")
    else:
        plan = plan_within_budget(task, batches, validation, budget, folder)
        correct = functools.partial(
            correct_plan, stopwatch=stopwatch, budget=budget, batches=len(batches), path=plan_path
        )
    write_plan(plan_path, plan)
    batches.passes = plan.passes
    batches.set_epoch(0)
    checkpoint = Checkpoint(folder)
    follower = PlanFollower(batches, config, held_out, plan, checkpoint, correct)
    callbacks = [DivergenceGuard(held_out, checkpoint.history, config.learning_rate), checkpoint, *timers, follower]
    if config.ema_momentum:
        # Validates with averaged weights and swaps back, so that the checkpoint has both kinds; `fit` itself puts the
        # averaged ones into the model at its end.
        callbacks.insert(0, keras.callbacks.SwapEMAWeights())
    if job.watch is not None:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: job.watch()))
    if job.callbacks is not None:
        callbacks += job.callbacks(held_out)
    epochs = UNLIMITED_EPOCHS if correct else math.ceil(plan.end / len(batches))
    task.fit(batches, validation_data=validation, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0)
    history = checkpoint.history
    if history[-1]["step"] < follower.plan.end:
        raise OutOfTime(f"stopped after step {history[-1]['step']} of {follower.plan.end}")
    if budget is not None:
        budget.end_training()
    return finish_network(task, follower, shape), history


def fold_batches(job: FoldJob, held_out: int) -> tuple[TileBatches, TileBatches]:
    """The batches that a fold trains on, and those that it is validated with.

    Raises:
        TrainingError: no tile is left to train on, or none is held out.
    """
    config, tiles, around, pseudo = job.config, job.tiles, job.around, None
    held = job.fold == held_out
    trained = ~held & ~job.tiles.blank()
    if not trained.any() or not held.any():
        raise TrainingError(
            f"fold {held_out} holds out {held.sum()} of {len(job.fold)} tiles and leaves {trained.sum()} that are not "
            "blank; both must be at least 1"
        )
    side = training_side(tiles.images, config.padded_size) if around is None else None
    if job.pseudo is not None:
        every = job.pseudo, slice(None), around, held_out
        pseudo = shown_images(*every, training=True), shown_masks(*every)
    learned, known = (tiles, trained, around, held_out), (tiles, held, around, held_out)
    batches = TileBatches(
        shown_images(*learned, training=True), shown_masks(*learned), config.batch_size, seed=(config.seed, held_out),
        pseudo=pseudo, pseudo_share=config.pseudo, transform=job.transform, window=side,
    )  # fmt: skip
    return batches, TileBatches(shown_images(*known), shown_masks(*known), 2 * config.batch_size, window=side)


def network_shape(tiles: Tiles) -> tuple[int, int]:
    """Channels and classes of the network for a competition's tiles."""
    return tiles.competition.channels, len(tiles.competition.classes)


def finish_network(task: SegmentationTask, follower: "PlanFollower", shape: tuple[int, int]) -> keras.Model:
    """The network of a fold whose last step is done, its batch norm re-estimated; of several snapshots, all as one.

    Args:
        task: the model around the network, with the weights of the end.
        follower: the callback that led the training.
        shape: channels and classes of the network.
    """

    def settled_weights() -> list[np.ndarray]:
        epoch = len(follower.checkpoint.history)  # all draws as after a restart, which would begin with this epoch
        begin_epoch(task, follower.batches, follower.config, follower.fold, epoch, follower.plan)
        reestimate_batch_norm(task, follower.batches)
        return task.network.get_weights()

    weights = [settled_weights()]
    for index, step in enumerate(follower.snapshot_steps()[:-1]):
        if step == follower.plan.end:  # the plan has too few epochs for a snapshot of its own here
            weights.insert(index, weights[-1])
            continue
        task.load_weights(follower.checkpoint.snapshot_path(index))
        # The averaged weights, as `fit` puts them into the model at its end.
        task.optimizer.finalize_variable_values(task.trainable_variables)
        weights.insert(index, settled_weights())
    if len(weights) == 1:
        return task.network
    networks = [build_model(follower.config, None, *shape) for _ in weights]
    for network, values in zip(networks, weights, strict=True):
        network.set_weights(values)
    return snapshot_ensemble(networks)


@contextlib.contextmanager
def download_lock(folder: pathlib.Path, weights: str | None) -> Iterator[None]:
    """Lets one process at a time build a model whose weights Keras downloads: it writes them in place, into one cache.

    Args:
        folder: that all processes of the run share.
        weights: as for `build_model`; `"imagenet"` is downloaded, and so is a preset that is no folder.
    """
    if weights is None or weights.endswith(".h5"):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".download"):
        yield


# --- callbacks ---


class Checkpoint(keras.callbacks.Callback):
    """Writes a checkpoint after each epoch, and resumes `fit` from the latest one.

    Keras's BackupAndRestore writes weights and epoch number in place, one after the other: a kill in between leaves a
    pair that does not match. Here the name of the weights' file has the epoch in it, the file is whole when it appears,
    and the history up to that epoch is written before it.

    Args:
        folder: where the checkpoints are.

    Attributes:
        history: one dict of logs an epoch, with the number of steps done; those of earlier epochs when resumed.
    """

    def __init__(self, folder: str | pathlib.Path):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.history: list[dict] = []

    def weights_path(self, epoch: int) -> pathlib.Path:
        """The file of the weights and the optimizer's state after this many epochs."""
        return self.folder / f"epoch-{epoch:05d}.weights.h5"

    def history_path(self, epoch: int) -> pathlib.Path:
        """The file of the history after this many epochs."""
        return self.folder / f"epoch-{epoch:05d}.json"

    def snapshot_path(self, index: int) -> pathlib.Path:
        """The file of the weights at the end of a cosine."""
        return self.folder / f"snapshot-{index:02d}.weights.h5"

    def keep_snapshot(self, index: int, epoch: int) -> None:
        """Copies the checkpoint after this many epochs, which must be the latest, to a file that stays."""
        with whole_file(self.snapshot_path(index)) as temporary:
            shutil.copyfile(self.weights_path(epoch), temporary)

    def on_train_begin(self, logs: dict | None = None) -> None:
        saved = sorted(self.folder.glob("epoch-*.weights.h5"))
        if not saved:
            return
        epoch = int(saved[-1].name.removeprefix("epoch-").removesuffix(".weights.h5"))
        self.model.load_weights(saved[-1])
        self.history[:] = json.loads(self.history_path(epoch).read_text(encoding="utf-8"))
        self.model._initial_epoch = epoch  # as Keras's BackupAndRestore does; `fit` has no public way
        print(f"resumes after epoch {epoch} from {saved[-1].name}")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.history.append({"step": int(self.model.step), **values})
        with whole_file(self.history_path(epoch + 1)) as temporary:
            temporary.write_text(json.dumps(self.history), encoding="utf-8")
        with whole_file(self.weights_path(epoch + 1)) as temporary:
            self.model.save_weights(temporary)
        self.weights_path(epoch).unlink(missing_ok=True)
        self.history_path(epoch).unlink(missing_ok=True)


class PlanFollower(keras.callbacks.Callback):
    """Leads `fit` along a plan: prepares each epoch, stops after the last step, prints a line an epoch.

    Args:
        batches: of the training tiles.
        config: the run's settings.
        fold: that is held out.
        plan: of the training.
        checkpoint: which comes before it in the list of callbacks.
        correct: None, or a function of (plan, steps done) that returns the plan from there on.
    """

    def __init__(
        self,
        batches: TileBatches,
        config: Config,
        fold: int,
        plan: TrainingPlan,
        checkpoint: Checkpoint,
        correct: Callable[[TrainingPlan, int], TrainingPlan] | None = None,
    ):
        super().__init__()
        self.batches, self.config, self.fold, self.plan = batches, config, fold, plan
        self.checkpoint, self.correct = checkpoint, correct

    def snapshot_steps(self) -> list[int]:
        """The steps at which the cosines of the plan end."""
        return snapshot_steps(self.plan, len(self.batches), self.config.snapshots, self.config.lovasz)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.first = epoch * len(self.batches)
        begin_epoch(self.model, self.batches, self.config, self.fold, epoch, self.plan)
        ends = self.snapshot_steps()
        for index, end in enumerate(ends[:-1]):
            if end == self.first:  # here and not when the epoch ends, so that a kill in between loses nothing
                self.checkpoint.keep_snapshot(index, epoch)
        span = cosine_span(self.plan, self.first, ends, self.config.warmup)
        follow_segment(self.model.optimizer, self.plan.segment(self.first), span)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        # Before the last step, not after it: Keras may call what comes after a step later, from a thread.
        if self.first + batch + 1 >= self.plan.end:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        row = self.checkpoint.history[-1]
        values = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "step")
        print(f"fold {self.fold}  epoch {epoch + 1}  step {row['step']} of {self.plan.end}  {values}", flush=True)
        if self.correct is not None:
            self.plan = self.correct(self.plan, row["step"])


# --- plans from a time budget ---


def measure_pace(
    task: SegmentationTask, batches: TileBatches, validation: TileBatches, clock: Callable[[], float], limit: float
) -> tuple[float, float, float]:
    """Trains a little to see how long that takes, and restores every variable: the training itself is not changed.

    Args:
        task: the compiled model around the network.
        batches: some training batches.
        validation: some of the held-out tiles.
        clock: function that returns seconds.
        limit: how many seconds to measure for, at least; compilation comes on top.

    Returns:
        Seconds of a step, of a held-out tile and of compilation.
    """
    variables = [*task.variables, *task.optimizer.variables]
    values = [np.array(ops.convert_to_numpy(variable)) for variable in variables]  # copies: training reuses the memory
    stopwatch = Stopwatch(clock, limit)
    callbacks = [keras.callbacks.SwapEMAWeights(), stopwatch] if task.config.ema_momentum else [stopwatch]
    task.fit(
        batches, validation_data=validation, epochs=UNLIMITED_EPOCHS, callbacks=callbacks, shuffle=False, verbose=0
    )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    train, test = np.median(stopwatch.epochs[1:], axis=0)
    compiling = max(0.0, sum(stopwatch.epochs[0]) - train - test)
    return train / len(batches), test / len(validation.order), compiling


def plan_within_budget(
    task: SegmentationTask, batches: TileBatches, validation: TileBatches, budget: Budget, folder: pathlib.Path
) -> TrainingPlan:
    """The plan of a fold that has minutes instead of epochs, from the pace that is measured on this machine.

    Args:
        task: the compiled model around the network.
        batches: of the training tiles, one pass an epoch.
        validation: of the held-out tiles.
        budget: of the run.
        folder: where checkpoints will be written, to see how long one takes.
    """
    config, count = task.config, PROBE_BATCHES * batches.batch_size
    some = TileBatches(
        subset(batches.images, slice(count)),
        subset(batches.masks, slice(count)),
        batches.batch_size,
        (config.seed,),
        transform=batches.transform,
        window=batches.window,
    )
    few = TileBatches(
        subset(validation.images, slice(count)), subset(validation.masks, slice(count)), validation.batch_size,
        window=validation.window,
    )  # fmt: skip
    limit = PROBE_SHARE * (budget.fold_end - budget.fold_began)
    step, tile, compiling = measure_pace(task, some, few, budget.clock, limit)
    began = budget.clock()
    with whole_file(folder / "trial.weights.h5") as temporary:
        task.save_weights(temporary)
    (folder / "trial.weights.h5").unlink()
    held_out = tile * validation.tiles
    # Prediction is a validation for each transform and compiles once more; re-estimating batch norm takes the forward
    # passes, about half of a step each.
    predicting = held_out * len(tta_transforms(config.tta))
    tail = compiling + config.snapshots * (predicting + min(BATCH_NORM_BATCHES, len(batches)) * step / 2)
    pace = Pace(step, held_out + budget.clock() - began, tail)
    plan = budget.first_plan(pace, len(batches))
    print(
        f"a step takes {1000 * pace.step:.0f} ms, an epoch's end {pace.epoch:.1f} s, the fold's end {pace.tail:.0f} s: "
        f"{plan.end} steps, {plan.end / len(batches):.1f} passes, fit into the "
        f"{(budget.fold_end - budget.clock()) / 60:.1f} minutes of this fold"
    )
    return plan


def correct_plan(
    plan: TrainingPlan, done: int, stopwatch: Stopwatch, budget: Budget, batches: int, path: pathlib.Path
) -> TrainingPlan:
    """The plan after an epoch: if the machine has become slower or faster, a corrected one, which is written at once.

    Args:
        plan: so far.
        done: steps done.
        stopwatch: that timed the epochs.
        budget: of the run.
        batches: in one pass through the training tiles.
        path: of the plan's file.
    """
    train, other = np.mean(stopwatch.epochs[-3:], axis=0)
    pace = Pace(train / (plan.passes * batches), other, 0.0)
    corrected = budget.corrected_plan(plan, done, pace, batches)
    if corrected is not plan:
        print(f"{corrected.end} steps instead of {plan.end}, since a step now takes {1000 * pace.step:.0f} ms")
        write_plan(path, corrected)
    budget.plan = corrected
    return corrected


# --- here, too, for scripts from before 28 November 2026; inside, since cross_validation.py imports this module ---


def fit_folds(*arguments: Any, **named: Any) -> Any:
    """See `salt.cross_validation.fit_folds`."""
    from salt import cross_validation

    return cross_validation.fit_folds(*arguments, **named)


def read_pseudo_labels(*arguments: Any, **named: Any) -> Any:
    """See `salt.cross_validation.read_pseudo_labels`."""
    from salt import cross_validation

    return cross_validation.read_pseudo_labels(*arguments, **named)
