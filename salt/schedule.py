"""The plan of a training: how many steps, at which learning rate, when Lovasz takes over, what fits into a budget.

All of it depends on one number, the progress from 0 to 1, which grows linearly with the steps. Where a run has minutes
instead of epochs, the number of steps follows from what a step takes on this machine, and is corrected at the end of an
epoch if that changes: progress then grows from its present value to 1 at the new last step, so that the rate never
jumps and always ends at 0. Every decision is part of the `TrainingPlan`: the same plan gives the same steps.
"""

import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from salt.config import Config, snapshot_progress
from salt.files import whole_file
from salt.layers import Tensor

PLANNED_SHARE = 0.9  # of the minutes of a run; the rest is for reading, reporting and bad luck
# By how much of its time a fold may end too early or too late before its plan is corrected.
EARLY_TOLERANCE, LATE_TOLERANCE = 0.1, 0.05
MOST_EPOCHS = 24  # of a run with minutes or steps: each costs a validation and a checkpoint


class Segment(NamedTuple):
    """A linear stretch of the progress: `progress` at step `step`, 1 at step `end`."""

    step: int
    progress: float
    end: int


class TrainingPlan(NamedTuple):
    """How long a fold is trained, and how its progress grows.

    Attributes:
        passes: how often an epoch goes through the training tiles.
        segments: the first decision about the number of steps, and one for each correction.
    """

    passes: int
    segments: tuple[Segment, ...]

    @property
    def end(self) -> int:
        """The number of steps in all."""
        return self.segments[-1].end

    def segment(self, step: int) -> Segment:
        """The segment in which a step lies."""
        return [segment for segment in self.segments if segment.step <= step][-1]

    def progress(self, step: int) -> float:
        """The progress at a step, from 0 to 1."""
        return 1.0 if step == self.end else segment_progress(self.segment(step), step)

    def corrected(self, step: int, end: int) -> "TrainingPlan":
        """This plan up to `step`, and from there on one that ends at step `end`."""
        return TrainingPlan(self.passes, (*self.segments, Segment(step, self.progress(step), max(end, step + 1))))


def plan_of_steps(steps: int, batches: int) -> TrainingPlan:
    """A plan of so many steps, in at most `MOST_EPOCHS` epochs, each of one pass or of several.

    Args:
        steps: of the whole training.
        batches: in one pass through the training tiles.
    """
    return TrainingPlan(passes_of(steps, batches), (Segment(0, 0.0, steps),))


def plan_of_epochs(epochs: int, batches: int) -> TrainingPlan:
    """A plan of so many epochs, each of one pass."""
    return TrainingPlan(1, (Segment(0, 0.0, epochs * batches),))


def plan_from_dict(values: dict) -> TrainingPlan:
    """The inverse of `TrainingPlan._asdict`, also for a dict that was read from JSON, which has no tuples."""
    return TrainingPlan(values["passes"], tuple(Segment(*segment) for segment in values["segments"]))


def write_plan(path: pathlib.Path, plan: TrainingPlan) -> None:
    """Writes a plan as JSON, for a resumed training and for the record."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(plan._asdict()), encoding="utf-8")


def read_plan(path: pathlib.Path) -> TrainingPlan:
    """Reads what `write_plan` wrote."""
    return plan_from_dict(json.loads(path.read_text(encoding="utf-8")))


def passes_of(steps: int, batches: int) -> int:
    """How many passes through the training tiles make an epoch."""
    return max(1, math.ceil(steps / (MOST_EPOCHS * batches)))


def segment_progress(segment: Segment, step: int) -> float:
    """The progress at a step of a segment."""
    return segment.progress + (1.0 - segment.progress) * (step - segment.step) / (segment.end - segment.step)


def lovasz_step(segment: Segment, share: float) -> int:
    """The first step, counted from 0, that trains with Lovasz, if it is not before the segment.

    Args:
        segment: of the plan, in which training is at present.
        share: of the whole training, its last part, that trains with Lovasz.

    Returns:
        The step; the segment's first one if Lovasz has taken over before.

    Example:
        >>> lovasz_step(Segment(0, 0.0, 100), 0.4)
        60
    """
    share_of_segment = (1.0 - share - segment.progress) / (1.0 - segment.progress)
    # A share such as 0.7 of 10 steps is 7 less a rounding error, or more: neither may cost a step.
    return segment.step + max(0, math.ceil(share_of_segment * (segment.end - segment.step) - 1e-6))


def snapshot_steps(plan: TrainingPlan, epoch_steps: int, snapshots: int, lovasz: float) -> list[int]:
    """The steps at which the rate reaches 0 and the weights are kept (snapshot ensembles, Huang et al. 2017).

    They are those of `snapshot_progress`, moved to the nearest end of an epoch, since only there is a checkpoint. In a
    plan of few epochs several may fall on the same step; they are one network then.

    Args:
        plan: of the training.
        epoch_steps: steps of an epoch.
        snapshots: how many.
        lovasz: share of the training, its last part, that trains with Lovasz.

    Returns:
        The steps, the last of them the plan's end.

    Example:
        >>> snapshot_steps(TrainingPlan(1, (Segment(0, 0.0, 100),)), 10, 3, 0.6)
        [60, 80, 100]
    """
    steps: list[int] = []
    for progress in snapshot_progress(snapshots, lovasz)[:-1]:
        for segment, following in zip(plan.segments, [*plan.segments[1:], None], strict=True):
            share = (progress - segment.progress) / (1.0 - segment.progress)
            exact = segment.step + share * (segment.end - segment.step)
            # The last segment decides, unless the cosine ended before it began: what has passed does not move.
            step = max(epoch_steps * max(1, round(exact / epoch_steps)), segment.step)
            if following is None or step <= following.step:
                break
        steps.append(min(step, plan.end))
    return [*steps, plan.end]


def cosine_span(plan: TrainingPlan, step: int, ends: list[int], warmup: float) -> tuple[float, float]:
    """The progress at which the cosine of a step begins, and that at which it ends.

    Args:
        plan: of the training.
        step: at which an epoch begins.
        ends: of `snapshot_steps`.
        warmup: share of the progress in which the rate rises to its peak, before the first cosine.
    """
    passed = [end for end in ends if end <= step]
    low = plan.progress(passed[-1]) if passed else warmup
    return low, plan.progress(min(end for end in ends if end > step))


# --- rate and optimizer ---


class PlannedCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up and cosines to 0 (Loshchilov & Hutter 2017), along a plan that may still be corrected.

    Args:
        peak: the highest rate.
        warmup: share of the progress in which the rate rises to it.
    """

    def __init__(self, peak: float, warmup: float):
        super().__init__()
        self.peak, self.warmup = peak, warmup
        # Step, progress and end of the segment, and the span of the cosine. A variable, not constants, so that a
        # corrected plan needs no new compilation.
        self.segment = keras.Variable(np.array([0, 0, 1, warmup, 1], "float32"), trainable=False, name="segment")

    def __call__(self, step: Tensor) -> Tensor:
        first, before, end, low, high = (self.segment[index] for index in range(5))
        progress = before + (1.0 - before) * (ops.cast(step, "float32") - first) / (end - first)
        falling = 0.5 + 0.5 * ops.cos(math.pi * ops.clip((progress - low) / (high - low), 0.0, 1.0))
        rising = progress / max(self.warmup, 1e-9)
        return self.peak * ops.where(progress < self.warmup, rising, falling)


class PlannedOptimizer(keras.optimizers.Optimizer):
    """To be mixed into one of Keras's optimizers: its rate follows a plan, and some variables learn at a lower rate.

    Decay (Loshchilov & Hutter 2019) is done here and not by Keras, so that it follows the lower rate too. Only matrices
    and kernels decay: vectors are biases and the scales of batch norm.

    Args:
        schedule: a `PlannedCosine`.
        weight_decay: share of a weight that a step at rate 1 takes away.
        slow: variables that learn at `slow_rate` times the rate.
        slow_rate: factor on their rate.
        **kwargs: of Keras's optimizer.
    """

    def __init__(
        self,
        schedule: PlannedCosine,
        weight_decay: float,
        slow: Iterable[keras.Variable] = (),
        slow_rate: float = 1.0,
        **kwargs: object,
    ):
        super().__init__(schedule, **kwargs)
        self.segment = schedule.segment  # an attribute, so that Keras tracks it: JAX's compiled step needs that
        self.decay, self.slow_rate = weight_decay, slow_rate
        self.slow_ids = frozenset(id(variable) for variable in slow)

    def build(self, variables: list[keras.Variable]) -> None:
        """Notes each variable's rate and decay by position, since a step may get other objects for the variables."""
        if not self.built:
            self.rates = tuple(self.slow_rate if id(variable) in self.slow_ids else 1.0 for variable in variables)
            self.decays = tuple(self.decay if len(variable.shape) > 1 else 0.0 for variable in variables)
        super().build(variables)

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """One step of one variable."""
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype) * self.rates[index]
        if self.decays[index]:
            self.assign_sub(variable, variable * (rate * self.decays[index]))
        super().update_step(gradient, variable, rate)


class OneKernelAdam(keras.optimizers.Adam):
    """Keras's Adam, whose step of a variable is one kernel where TensorFlow has it: Keras's own takes a dozen passes
    through the memory. The variables are Keras's, and so are their values but for rounding."""

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """One step of one variable, which Keras hands over as TensorFlow's own."""
        if keras.backend.backend() != "tensorflow" or self.amsgrad or variable.dtype != "float32":
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        step = ops.cast(self.iterations + 1, "float32")
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=ops.power(self.beta_1, step),
            beta2_power=ops.power(self.beta_2, step),
            lr=ops.cast(learning_rate, "float32"),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=ops.cast(gradient, "float32"),
        )


class PlannedAdam(PlannedOptimizer, OneKernelAdam):
    """Adam, and with its decay AdamW."""


class PlannedNadam(PlannedOptimizer, keras.optimizers.Nadam):
    """Adam with Nesterov's momentum (Dozat 2016)."""


class PlannedRMSprop(PlannedOptimizer, keras.optimizers.RMSprop):
    """RMSprop (Hinton 2012)."""


class PlannedSGD(PlannedOptimizer, keras.optimizers.SGD):
    """Stochastic gradient descent with momentum; it needs a higher rate than the adaptive optimizers."""


OPTIMIZERS: dict[str, Callable[..., PlannedOptimizer]] = {
    "adamw": PlannedAdam,
    "nadam": PlannedNadam,
    "rmsprop": PlannedRMSprop,
    "sgd": functools.partial(PlannedSGD, momentum=0.9),
}


def training_optimizer(config: Config, steps: int = 1, slow: Iterable[keras.Variable] = ()) -> PlannedOptimizer:
    """The configuration's optimizer with a linear warm-up, a cosine to 0, and a running average of the weights.

    Gradients may be clipped, and accumulated over several batches; warm-up and cosine count batches all the same.

    Args:
        config: the run's settings.
        steps: of the whole training, until `follow_segment` says otherwise.
        slow: the variables that learn at `encoder_rate` times the rate.
    """
    more: dict[str, object] = {}
    if config.ema_momentum:
        more |= dict(use_ema=True, ema_momentum=config.ema_momentum)
    if config.clip_norm:
        more |= dict(global_clipnorm=config.clip_norm)
    if config.accumulate > 1:
        more |= dict(gradient_accumulation_steps=config.accumulate)
    schedule = PlannedCosine(config.learning_rate, config.warmup)
    schedule.segment.assign(np.array([0, 0, steps, config.warmup, 1], "float32"))
    return OPTIMIZERS[config.optimizer](schedule, config.weight_decay, slow, config.encoder_rate, **more)


def follow_segment(optimizer: keras.optimizers.Optimizer, segment: Segment, span: tuple[float, float]) -> None:
    """Makes the rate follow a segment of the plan, in the cosine of the given `cosine_span`."""
    # In mixed_float16 Keras wraps the optimizer in one that scales the loss.
    planned = optimizer if isinstance(optimizer, PlannedOptimizer) else optimizer.inner_optimizer
    planned.segment.assign(np.array([*segment, *span], "float32"))


# --- time ---


class Pace(NamedTuple):
    """How long the parts of a training take on this machine, in seconds.

    Attributes:
        step: one training step.
        epoch: the validation and the checkpoint at an epoch's end.
        tail: what follows the last step of a fold: batch norm, prediction.
    """

    step: float
    epoch: float
    tail: float


def seconds_for(steps: int, pace: Pace, epoch_steps: int) -> float:
    """How long so many steps take, with validation and checkpoint after each epoch and the tail after the last."""
    return steps * pace.step + math.ceil(steps / epoch_steps) * pace.epoch + pace.tail


def steps_within(seconds: float, pace: Pace, epoch_steps: int) -> int:
    """The most steps that fit into some seconds, at least 1."""
    steps = int((seconds - pace.tail) / (pace.step + pace.epoch / epoch_steps))
    # An epoch that is cut short still has a whole validation and checkpoint.
    while steps > 1 and seconds_for(steps, pace, epoch_steps) > seconds:
        steps -= 1
    return max(steps, 1)


def plan_within(seconds: float, pace: Pace, batches: int) -> TrainingPlan:
    """The longest plan that fits into some seconds.

    Args:
        seconds: from now to the end of the fold.
        pace: of this machine.
        batches: in one pass through the training tiles.
    """
    passes = 1
    while passes_of(steps := steps_within(seconds, pace, passes * batches), batches) > passes:
        passes += 1  # longer epochs leave time for more steps, which may need still longer epochs
    return plan_of_steps(steps, batches)


class Budget:
    """The time of a run: its minutes, divided among the folds that are left, and the limit at which it stops.

    Args:
        minutes: from `began` until all is done; `PLANNED_SHARE` of them are planned. 0: the folds have no end in time.
        folds: how many are trained, one after the other.
        clock: function that returns seconds, such as `time.monotonic`.
        began: what the clock said when the run began; None: now.
        limit_minutes: from `began`, see `has_time`.
    """

    def __init__(
        self,
        minutes: float,
        folds: int,
        clock: Callable[[], float],
        began: float | None = None,
        limit_minutes: float = math.inf,
    ):
        self.clock, self.folds_left = clock, folds
        began = clock() if began is None else began
        self.end, self.limit = began + PLANNED_SHARE * 60.0 * minutes, began + 60.0 * limit_minutes
        self.epoch = 0.0  # seconds that the last epoch took
        self.tail = 0.0  # seconds that the last fold's tail took, or the first one's will
        self.plan: TrainingPlan | None = None  # of the last fold
        self.begin_fold()

    def begin_fold(self) -> None:
        """Sets when the next fold has to end: the time left is divided evenly among the folds left."""
        self.fold_began = self.clock()
        self.fold_end = self.fold_began + (self.end - self.fold_began) / self.folds_left

    def end_training(self) -> None:
        """Notes when the last step of a fold is done; its batch norm and its prediction follow."""
        self.trained = self.clock()

    def finish_fold(self) -> None:
        """Notes that a fold is done, and how long its tail took."""
        self.tail = self.clock() - self.trained
        self.leave_fold()

    def leave_fold(self) -> None:
        """Gives the time that is left to the folds that are left, after a fold that is done or has failed."""
        self.folds_left -= 1
        if self.folds_left:
            self.begin_fold()

    def first_plan(self, pace: Pace, batches: int) -> TrainingPlan:
        """The plan of the next fold: as many steps as the fold before, if they take about the time that it has."""
        now = self.clock()
        self.tail = self.tail or pace.tail
        pace = pace._replace(tail=self.tail)
        if self.plan is not None:
            same = plan_of_steps(self.plan.end, batches)
            if self.in_time(now + seconds_for(same.end, pace, same.passes * batches)):
                return same
        return plan_within(self.fold_end - now, pace, batches)

    def corrected_plan(self, plan: TrainingPlan, step: int, pace: Pace, batches: int) -> TrainingPlan:
        """The plan of the present fold after an epoch: the same one, unless the fold would miss its end.

        Args:
            plan: so far.
            step: how many are done.
            pace: as measured lately; its tail is not used, since it cannot have been measured yet.
            batches: in one pass through the training tiles.
        """
        now, epoch_steps = self.clock(), plan.passes * batches
        pace = pace._replace(tail=self.tail)
        if step >= plan.end or self.in_time(now + seconds_for(plan.end - step, pace, epoch_steps)):
            return plan
        return plan.corrected(step, step + steps_within(self.fold_end - now, pace, epoch_steps))

    def has_time(self) -> bool:
        """Whether one more epoch that takes as long as the last one, and a fold's tail, would end before the limit."""
        return self.clock() + self.epoch + self.tail <= self.limit

    def in_time(self, end: float) -> bool:
        """Whether a fold that ends at that moment ends neither much too early nor too late."""
        share = self.fold_end - self.fold_began
        return -EARLY_TOLERANCE * share <= end - self.fold_end <= LATE_TOLERANCE * share


class Stopwatch(keras.callbacks.Callback):
    """Measures epochs of `fit`.

    Args:
        clock: function that returns seconds.
        limit: seconds after which, with at least `LEAST_TIMED` epochs timed, `fit` is stopped; None: never.

    Attributes:
        epochs: one `(training seconds, other seconds)` an epoch.
    """

    LEAST_TIMED = 2

    def __init__(self, clock: Callable[[], float], limit: float | None = None):
        super().__init__()
        self.clock, self.limit = clock, limit
        self.epochs: list[tuple[float, float]] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began = self.clock()

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.trained = self.clock()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.epochs.append((self.trained - self.began, self.clock() - self.trained))
        timed = self.epochs[1:]  # the first one compiles
        if self.limit is not None and len(timed) >= self.LEAST_TIMED and sum(map(sum, timed)) >= self.limit:
            self.model.stop_training = True


class TimeLimit(keras.callbacks.Callback):
    """Stops `fit` after the last epoch that ends before the run's limit.

    Args:
        budget: of the run; the callback notes in it how long an epoch takes.
    """

    def __init__(self, budget: Budget):
        super().__init__()
        self.budget = budget

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began = self.budget.clock()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.budget.epoch = self.budget.clock() - self.began
        if not self.budget.has_time():
            self.model.stop_training = True
