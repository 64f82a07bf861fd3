"""The course of a training: how many steps, at which learning rate, when Lovasz takes over, what fits into a budget.

All of it hangs on one number, the progress from 0 to 1, which grows evenly with the steps. Where a run has minutes
instead of epochs, the number of steps follows from what a step takes on this machine, and is corrected at the end of an
epoch if that changes: progress goes on from where it is to 1 at the new last step, so that the rate never jumps and
always ends at 0. What was decided is kept, and whoever follows the same `Course` takes the same steps.
"""

import functools
import itertools
import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from salt.config import Config, snapshot_progress

PLANNED_SHARE = 0.9  # of the minutes of a run; the rest is for reading, reporting and bad luck
EARLY, LATE = 0.1, 0.05  # share of a fold's time by which it may miss its end before the course is corrected
MOST_EPOCHS = 24  # of a run with minutes or steps: each costs a validation and a checkpoint


class Segment(NamedTuple):
    """From step `step` on, at `progress` of the whole, training goes evenly to progress 1 at step `end`."""

    step: int
    progress: float
    end: int


class Course(NamedTuple):
    """Which way a fold's training takes.

    Attributes:
        passes: how often an epoch goes through the training tiles.
        segments: tuple of `Segment`, one for each time that the number of steps was decided.
    """

    passes: int
    segments: tuple

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

    def corrected(self, step: int, end: int) -> "Course":
        """The course that leaves this one at `step`, to end at step `end`."""
        return Course(self.passes, (*self.segments, Segment(step, self.progress(step), max(end, step + 1))))


def course_of_steps(steps: int, batches: int) -> Course:
    """A course of so many steps, in epochs of as many passes as keep their number at `MOST_EPOCHS`.

    Args:
        steps: of the whole training.
        batches: in one pass through the training tiles.
    """
    return Course(passes_of(steps, batches), (Segment(0, 0.0, steps),))


def course_of_epochs(epochs: int, batches: int) -> Course:
    """A course of so many epochs, each of one pass."""
    return Course(1, (Segment(0, 0.0, epochs * batches),))


def course_from_list(values: dict) -> Course:
    """The undoing of `Course._asdict` by way of JSON, which knows no tuples."""
    return Course(values["passes"], tuple(Segment(*segment) for segment in values["segments"]))


def passes_of(steps: int, batches: int) -> int:
    """How many passes through the training tiles make an epoch."""
    return max(1, math.ceil(steps / (MOST_EPOCHS * batches)))


def segment_progress(segment: Segment, step: int) -> float:
    """The progress at a step of a segment."""
    return segment.progress + (1.0 - segment.progress) * (step - segment.step) / (segment.end - segment.step)


def lovasz_step(segment: Segment, share: float) -> int:
    """The first step, counted from 0, that trains with Lovasz; steps of earlier segments are not asked for.

    Args:
        segment: of the course.
        share: of the whole training, its last part.

    Example:
        >>> lovasz_step(Segment(0, 0.0, 100), 0.4)
        60
    """
    share_of_segment = (1.0 - share - segment.progress) / (1.0 - segment.progress)
    # A share such as 0.7 of 10 steps is 7 less a rounding error, or more: neither may cost a step.
    return segment.step + max(0, math.ceil(share_of_segment * (segment.end - segment.step) - 1e-6))


def snapshot_steps(course: Course, epoch_steps: int, snapshots: int, lovasz: float) -> list[int]:
    """The steps at which the rate reaches 0 and the weights are kept (snapshot ensembles, Huang et al. 2017).

    They are those of `snapshot_progress`, moved to where an epoch ends, since the weights can be had only there; in a
    course of few epochs several may end at once, and are one network.

    Args:
        course: of the training.
        epoch_steps: steps of an epoch.
        snapshots: how many.
        lovasz: share of the training, its last part, that trains with Lovasz.

    Returns:
        The steps, the last of them the course's end.

    Example:
        >>> snapshot_steps(Course(1, (Segment(0, 0.0, 100),)), 10, 3, 0.6)
        [60, 80, 100]
    """
    steps = []
    for progress in snapshot_progress(snapshots, lovasz)[:-1]:
        for segment, after in zip(course.segments, [*course.segments[1:], None], strict=True):
            share = (progress - segment.progress) / (1.0 - segment.progress)
            exact = segment.step + share * (segment.end - segment.step)
            # A later segment knows where a cosine ends unless it has ended; it cannot end before now.
            step = max(epoch_steps * max(1, round(exact / epoch_steps)), segment.step)
            if after is None or step <= after.step:
                break
        steps.append(min(step, course.end))
    return [*steps, course.end]


def cosine_span(course: Course, step: int, ends: list[int], warmup: float) -> tuple[float, float]:
    """From which progress to which the rate falls in the cosine that a step belongs to.

    Args:
        course: of the training.
        step: at which an epoch begins.
        ends: of `snapshot_steps`.
        warmup: share of the progress that climbs to the peak; it belongs to the first cosine.
    """
    passed = [end for end in ends if end <= step]
    low = course.progress(passed[-1]) if passed else warmup
    return low, course.progress(min(end for end in ends if end > step))


# --- rate and optimizer ---


class PlannedCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up and cosines to 0 (Loshchilov & Hutter 2017), along a course that may still change.

    Args:
        peak: the highest rate.
        warmup: share of the progress that climbs to it.
    """

    def __init__(self, peak: float, warmup: float):
        super().__init__()
        self.peak, self.warmup = peak, warmup
        # A variable, not a constant: a corrected course needs no new compilation.
        self.segment = keras.Variable(np.array([0, 0, 1, warmup, 1], "float32"), trainable=False, name="segment")

    def __call__(self, step):
        first, before, end, low, high = (self.segment[index] for index in range(5))
        progress = before + (1.0 - before) * (ops.cast(step, "float32") - first) / (end - first)
        falling = 0.5 + 0.5 * ops.cos(math.pi * ops.clip((progress - low) / (high - low), 0.0, 1.0))
        rising = progress / max(self.warmup, 1e-9)
        return self.peak * ops.where(progress < self.warmup, rising, falling)


class PlannedOptimizer:
    """What one of Keras's optimizers becomes here: it follows a course, and an encoder learns at a lower rate.

    Decay (Loshchilov & Hutter 2019) is done here and not by Keras, so that it follows the lower rate too. Only matrices
    and kernels decay: vectors are biases and the scales of batch norm.

    Args:
        schedule: a `PlannedCosine`.
        weight_decay: share of a weight that a step at rate 1 takes away.
        slow: variables that learn at `slow_rate` times the rate.
        slow_rate: see there.
        **kwargs: of Keras's optimizer.
    """

    def __init__(self, schedule: PlannedCosine, weight_decay: float, slow=(), slow_rate: float = 1.0, **kwargs):
        super().__init__(schedule, **kwargs)
        self.segment = schedule.segment  # Keras tracks it by this: JAX's compiled step sees only what is tracked
        self.decay, self.slow_rate = weight_decay, slow_rate
        self.slow_ids = frozenset(id(variable) for variable in slow)

    def build(self, variables):
        """Notes by position what each variable's rate and decay are: the step may get other objects than these."""
        if not self.built:
            self.rates = tuple(self.slow_rate if id(variable) in self.slow_ids else 1.0 for variable in variables)
            self.decays = tuple(self.decay if len(variable.shape) > 1 else 0.0 for variable in variables)
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable."""
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype) * self.rates[index]
        if self.decays[index]:
            self.assign_sub(variable, variable * (rate * self.decays[index]))
        super().update_step(gradient, variable, rate)


class PlannedAdam(PlannedOptimizer, keras.optimizers.Adam):
    """Adam, and with its decay AdamW."""


class PlannedNadam(PlannedOptimizer, keras.optimizers.Nadam):
    """Adam with Nesterov's momentum (Dozat 2016)."""


class PlannedRMSprop(PlannedOptimizer, keras.optimizers.RMSprop):
    """RMSprop (Hinton 2012)."""


class PlannedSGD(PlannedOptimizer, keras.optimizers.SGD):
    """Stochastic gradient descent; its steps are the rate times the gradient, so that it wants a higher rate."""


OPTIMIZERS = {
    "adamw": PlannedAdam,
    "nadam": PlannedNadam,
    "rmsprop": PlannedRMSprop,
    "sgd": functools.partial(PlannedSGD, momentum=0.9),
}


def training_optimizer(config: Config, steps: int = 1, slow=()) -> PlannedOptimizer:
    """The configuration's optimizer with a linear warm-up, a cosine to 0, and a running average of the weights.

    Args:
        config: the run's settings.
        steps: of the whole training, until `follow_segment` says otherwise.
        slow: the variables that learn at `encoder_rate` times the rate.
    """
    average = dict(use_ema=True, ema_momentum=config.ema_momentum) if config.ema_momentum else {}
    schedule = PlannedCosine(config.learning_rate, config.warmup)
    schedule.segment.assign(np.array([0, 0, steps, config.warmup, 1], "float32"))
    return OPTIMIZERS[config.optimizer](schedule, config.weight_decay, slow, config.encoder_rate, **average)


def follow_segment(optimizer: keras.optimizers.Optimizer, segment: Segment, span: tuple[float, float]):
    """Sets the segment whose steps come next, and its `cosine_span`; Keras's loss scaling may wrap the optimizer."""
    planned = optimizer if isinstance(optimizer, PlannedOptimizer) else optimizer.inner_optimizer
    planned.segment.assign(np.array([*segment, *span], "float32"))


# --- time ---


class Pace(NamedTuple):
    """What things take on this machine, in seconds: a step, an epoch's validation and checkpoint, and what comes after
    the last step of a fold (batch norm, prediction)."""

    step: float
    epoch: float
    tail: float


def seconds_for(steps: int, pace: Pace, epoch_steps: int) -> float:
    """How long so many steps take, with the epochs' ends among them and the fold's end behind them."""
    return steps * pace.step + math.ceil(steps / epoch_steps) * pace.epoch + pace.tail


def steps_within(seconds: float, pace: Pace, epoch_steps: int) -> int:
    """The most steps that fit into some seconds, at least 1."""
    steps = int((seconds - pace.tail) / (pace.step + pace.epoch / epoch_steps))
    while steps > 1 and seconds_for(steps, pace, epoch_steps) > seconds:  # an epoch cut short costs a whole end
        steps -= 1
    return max(steps, 1)


def course_within(seconds: float, pace: Pace, batches: int) -> Course:
    """The longest course that fits into some seconds.

    Args:
        seconds: from now to the end of the fold.
        pace: of this machine.
        batches: in one pass through the training tiles.
    """
    for passes in itertools.count(1):
        steps = steps_within(seconds, pace, passes * batches)
        if passes_of(steps, batches) <= passes:  # longer epochs leave time for more steps, hence the search
            return course_of_steps(steps, batches)


class Budget:
    """The time of a run: its minutes, dealt to the folds as they come, and the limit at which it stops.

    Args:
        minutes: from `began` until all is done; `PLANNED_SHARE` of them are planned. 0: nothing is planned.
        folds: how many are trained, one after the other.
        clock: function that returns seconds, such as `time.monotonic`.
        began: what the clock said when the run began; None: now.
        limit_minutes: from `began`, see `has_time`.
    """

    def __init__(self, minutes: float, folds: int, clock, began: float | None = None, limit_minutes: float = math.inf):
        self.clock, self.folds_left = clock, folds
        began = clock() if began is None else began
        self.end, self.limit = began + PLANNED_SHARE * 60.0 * minutes, began + 60.0 * limit_minutes
        self.epoch = 0.0  # seconds that the last epoch took
        self.tail = 0.0  # seconds that the last fold's tail took, or the first one's will
        self.course = None  # of the last fold
        self.begin_fold()

    def begin_fold(self):
        """Sets when the next fold has to end: what is left is shared evenly."""
        self.fold_began = self.clock()
        self.fold_end = self.fold_began + (self.end - self.fold_began) / self.folds_left

    def end_training(self):
        """Takes note that the last step of a fold is done; its batch norm and its prediction follow."""
        self.trained = self.clock()

    def finish_fold(self):
        """Takes note that a fold is done."""
        self.tail = self.clock() - self.trained
        self.folds_left -= 1
        if self.folds_left:
            self.begin_fold()

    def first_course(self, pace: Pace, batches: int) -> Course:
        """The course of a fold that is about to begin: that of the fold before, if the time is about right for it."""
        now = self.clock()
        self.tail = self.tail or pace.tail
        pace = pace._replace(tail=self.tail)
        if self.course is not None:
            same = course_of_steps(self.course.end, batches)
            if self.in_time(now + seconds_for(same.end, pace, same.passes * batches)):
                return same
        return course_within(self.fold_end - now, pace, batches)

    def corrected_course(self, course: Course, step: int, pace: Pace, batches: int) -> Course:
        """The course of a fold in work, at the end of an epoch: the same one, unless the fold would miss its end.

        Args:
            course: so far.
            step: how many are done.
            pace: as measured lately; its tail is still to come and not looked at.
            batches: in one pass through the training tiles.
        """
        now, epoch_steps = self.clock(), course.passes * batches
        pace = pace._replace(tail=self.tail)
        if step >= course.end or self.in_time(now + seconds_for(course.end - step, pace, epoch_steps)):
            return course
        return course.corrected(step, step + steps_within(self.fold_end - now, pace, epoch_steps))

    def has_time(self) -> bool:
        """Whether one more epoch, if it is like the last one, and a fold's tail end before the limit."""
        return self.clock() + self.epoch + self.tail <= self.limit

    def in_time(self, end: float) -> bool:
        """Whether a fold that ends then is about in time."""
        share = self.fold_end - self.fold_began
        return -EARLY * share <= end - self.fold_end <= LATE * share


class Stopwatch(keras.callbacks.Callback):
    """Measures epochs of `fit`.

    Args:
        clock: function that returns seconds.
        limit: seconds after which, with at least `LEAST_TIMED` epochs timed, `fit` is stopped; None: never.

    Attributes:
        epochs: one `(training seconds, other seconds)` an epoch.
    """

    LEAST_TIMED = 2

    def __init__(self, clock, limit: float | None = None):
        super().__init__()
        self.clock, self.limit, self.epochs = clock, limit, []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.clock()

    def on_test_begin(self, logs=None):
        self.trained = self.clock()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((self.trained - self.began, self.clock() - self.trained))
        timed = self.epochs[1:]  # the first one compiles
        if self.limit is not None and len(timed) >= self.LEAST_TIMED and sum(map(sum, timed)) >= self.limit:
            self.model.stop_training = True


class TimeLimit(keras.callbacks.Callback):
    """Stops `fit` behind the last epoch that ends before the run's limit.

    Args:
        budget: of the run; the callback notes there what an epoch takes.
    """

    def __init__(self, budget: Budget):
        super().__init__()
        self.budget = budget

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.budget.clock()

    def on_epoch_end(self, epoch, logs=None):
        self.budget.epoch = self.budget.clock() - self.began
        if not self.budget.has_time():
            self.model.stop_training = True
