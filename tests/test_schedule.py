"""Courses, rates and budgets; the clock is made up."""

import dataclasses
import functools
import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from salt.config import preset
from salt.schedule import (
    MOST_EPOCHS,
    Budget,
    Pace,
    Segment,
    TrainingPlan,
    cosine_span,
    follow_segment,
    lovasz_step,
    plan_from_dict,
    plan_of_epochs,
    plan_of_steps,
    plan_within,
    seconds_for,
    segment_progress,
    snapshot_steps,
    steps_within,
    training_optimizer,
)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


# --- plans ---


def test_epochs_are_single_passes_and_steps_come_in_few_epochs():
    assert plan_of_epochs(50, 10) == TrainingPlan(1, (Segment(0, 0.0, 500),))
    assert plan_of_steps(500, 10).end == 500
    for steps in (1, 100, 239, 240, 241, 10_000):
        plan = plan_of_steps(steps, 10)
        assert math.ceil(steps / (10 * plan.passes)) <= MOST_EPOCHS
        assert plan.passes == 1 or math.ceil(steps / (10 * (plan.passes - 1))) > MOST_EPOCHS


def test_a_corrected_plan_goes_on_from_its_progress_to_the_new_end():
    plan = plan_of_steps(100, 10).corrected(40, 60).corrected(50, 150)
    progress = [segment_progress(plan.segment(step), step) for step in range(151)]
    assert progress[:41] == pytest.approx(np.arange(41) / 100)
    assert progress[40:51] == pytest.approx(0.4 + 0.6 * np.arange(11) / 20)
    assert progress[50:] == pytest.approx(0.7 + 0.3 * np.arange(101) / 100)
    assert plan.end == 150 and plan.passes == plan_of_steps(100, 10).passes


def test_a_plan_survives_json():
    plan = plan_of_steps(100, 10).corrected(40, 60)
    assert plan_from_dict(json.loads(json.dumps(plan._asdict()))) == plan


def test_a_plan_is_never_corrected_to_end_where_it_is():
    assert plan_of_steps(100, 10).corrected(40, 30).end == 41


@pytest.mark.parametrize(
    ("steps", "share", "last"), [(10, 0.5, 5), (10, 0.0, 0), (10, 1.0, 10), (10, 0.7, 7), (10, 0.3, 3), (7, 0.5, 3)]
)
def test_lovasz_takes_over_for_the_last_share_of_the_steps(steps, share, last):
    assert lovasz_step(Segment(0, 0.0, steps), share) == steps - last


def test_lovasz_keeps_its_share_of_the_progress_on_a_corrected_plan():
    plan = plan_of_steps(100, 10).corrected(40, 80)  # 60 % of the progress in 40 steps
    assert lovasz_step(plan.segment(0), 0.3) == 70 and lovasz_step(plan.segment(40), 0.3) == 60
    late = plan.corrected(70, 75)  # progress .85: it has taken over long since
    assert lovasz_step(late.segment(70), 0.3) == 70


# --- snapshots ---


@pytest.mark.parametrize(
    ("snapshots", "lovasz", "steps"),
    [(1, 0.6, [100]), (3, 0.6, [60, 80, 100]), (4, 0.0, [20, 50, 80, 100]), (2, 1.0, [50, 100])],
)
def test_the_cosines_share_the_part_with_lovasz_and_end_where_epochs_do(snapshots, lovasz, steps):
    assert snapshot_steps(plan_of_steps(100, 10), 10, snapshots, lovasz) == steps


def test_in_a_plan_of_few_epochs_several_cosines_end_at_once():
    assert snapshot_steps(plan_of_steps(25, 10), 10, 4, 0.8) == [10, 20, 20, 25]
    assert snapshot_steps(plan_of_steps(5, 10), 10, 3, 0.8) == [5, 5, 5]


def test_a_correction_moves_the_ends_to_come_and_leaves_those_that_were():
    plan = plan_of_steps(100, 10)
    assert snapshot_steps(plan.corrected(30, 75), 10, 3, 0.6) == [50, 60, 75]  # exactly 49.3 and 62.1
    assert snapshot_steps(plan.corrected(60, 80), 10, 3, 0.6) == [60, 70, 80]
    assert snapshot_steps(plan.corrected(70, 75), 10, 3, 0.6) == [60, 70, 75]  # of the second nothing is left
    assert snapshot_steps(plan.corrected(70, 200), 10, 3, 0.6) == [60, 110, 200]  # exactly 113.3


# --- rate and optimizer ---


def rates_of(optimizer, plan, epoch_steps=1, snapshots=1, lovasz=0.5, warmup=0.05):
    """The rate before each step, and behind the last."""
    rates = []
    ends = snapshot_steps(plan, epoch_steps, snapshots, lovasz)
    for step in range(plan.end + 1):
        first = min(step, plan.end - 1) // epoch_steps * epoch_steps
        follow_segment(optimizer, plan.segment(first), cosine_span(plan, first, ends, warmup))
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    return np.array(rates)


def test_the_rate_climbs_to_its_peak_and_falls_to_0():
    rates = rates_of(training_optimizer(preset("unet")), plan_of_epochs(50, 4))
    assert rates[0] == 0 and rates[200] == pytest.approx(0, abs=1e-9)
    assert np.argmax(rates) == 10 and max(rates) == pytest.approx(1e-3)
    assert all(np.diff(rates[10:]) < 0)
    assert rates[105] == pytest.approx(5e-4)
    at_once = rates_of(training_optimizer(preset("unet", warmup=0.0)), plan_of_epochs(1, 9), warmup=0.0)
    assert at_once[0] == pytest.approx(1e-3)


@pytest.mark.parametrize("plan", [plan_of_steps(100, 10), plan_of_steps(150, 10).corrected(30, 100)])
def test_with_snapshots_the_rate_falls_to_0_at_each_and_starts_anew_from_its_peak(plan):
    ends = snapshot_steps(plan, 10, 3, 0.6)
    rates = rates_of(training_optimizer(preset("unet")), plan, 10, 3, 0.6)
    assert len(set(ends)) == 3
    for end in ends[:-1]:
        assert rates[end] == pytest.approx(1e-3, rel=1e-5)
        assert rates[end - 1] < 4e-5 and all(np.diff(rates[end - 8 : end]) < 0)
    assert rates[100] == pytest.approx(0, abs=1e-9) and rates[5:].max() < 1.00001e-3


def test_the_rate_of_a_corrected_plan_does_not_jump_and_still_ends_at_0():
    plain = plan_of_epochs(10, 10)
    shorter = plain.corrected(30, 60)
    rates = rates_of(training_optimizer(preset("unet")), shorter)
    np.testing.assert_allclose(rates[:31], rates_of(training_optimizer(preset("unet")), plain)[:31], rtol=1e-5)
    assert abs(np.diff(rates[10:])).max() < 6e-5 and rates[60] == pytest.approx(0, abs=1e-9)


def dense_model():
    first, norm, last = keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((4,)), first, norm, last])
    first.bias.assign(np.ones(3))
    return model, first


def test_a_first_step_moves_the_encoder_by_the_factor():
    model, encoder = dense_model()
    config = preset("unet", warmup=0.0, weight_decay=0.0, learning_rate=0.01, encoder_rate=0.25)
    optimizer = training_optimizer(config, 10, slow=encoder.trainable_variables)
    before = [np.array(weight) for weight in model.trainable_weights]
    gradients = [ops.ones(weight.shape) for weight in model.trainable_weights]
    optimizer.apply(gradients, model.trainable_weights)
    slow = {id(variable) for variable in encoder.trainable_variables}
    for weight, old in zip(model.trainable_weights, before, strict=True):
        expected = 0.01 * (0.25 if id(weight) in slow else 1.0)  # Adam's first step is the rate, whatever the gradient
        np.testing.assert_allclose(old - np.array(weight), expected, rtol=1e-3)
    assert len(slow) == 2 and len(before) == 6


def test_weight_decay_shrinks_kernels_and_nothing_else_and_the_encoder_by_its_rate():
    model, encoder = dense_model()
    before = [np.array(weight) for weight in model.trainable_weights]
    config = preset("unet", warmup=0.0, weight_decay=0.5, learning_rate=0.1, encoder_rate=0.5)
    optimizer = training_optimizer(config, 10, slow=encoder.trainable_variables)
    optimizer.apply([ops.zeros(weight.shape) for weight in model.trainable_weights], model.trainable_weights)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        rate = 0.05 if weight is encoder.kernel else 0.1
        expected = old * (1 - rate * 0.5) if weight.path.endswith("kernel") else old
        np.testing.assert_allclose(weight, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["nadam", "rmsprop", "sgd"])
def test_every_optimizer_moves_the_encoder_by_the_factor(name):
    model, encoder = dense_model()
    config = preset("unet", optimizer=name, warmup=0.0, weight_decay=0.0, learning_rate=0.01, encoder_rate=0.25)
    optimizer = training_optimizer(config, 10, slow=encoder.trainable_variables)
    before = [np.array(weight) for weight in model.trainable_weights]
    optimizer.apply([ops.ones(weight.shape) for weight in model.trainable_weights], model.trainable_weights)
    moves = [float(np.mean(old - weight)) for weight, old in zip(model.trainable_weights, before, strict=True)]
    assert len(moves) == 6 and min(moves) > 1e-3  # two of the encoder come first
    assert moves[:2] == pytest.approx([moves[2] / 4] * 2, rel=1e-3) and moves[3:] == pytest.approx(moves[2:5], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("adamw", keras.optimizers.AdamW),
        ("nadam", keras.optimizers.Nadam),
        ("rmsprop", keras.optimizers.RMSprop),
        ("sgd", functools.partial(keras.optimizers.SGD, momentum=0.9)),
    ],
)
def test_without_slow_variables_the_optimizer_is_that_of_keras(name, theirs):
    rng = np.random.default_rng(0)
    ends = []
    for ours in (True, False):
        keras.utils.set_random_seed(0)
        model, _ = dense_model()
        config = preset("unet", optimizer=name, warmup=0.0, weight_decay=0.1, learning_rate=0.01, ema_momentum=0.9)
        optimizer = training_optimizer(config, 20)
        if not ours:
            schedule = keras.optimizers.schedules.CosineDecay(0.01, 20)
            optimizer = theirs(schedule, weight_decay=0.1, use_ema=True, ema_momentum=0.9)
            optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        rng = np.random.default_rng(0)
        for _ in range(5):
            gradients = [ops.convert_to_tensor(rng.normal(size=w.shape), "float32") for w in model.trainable_weights]
            optimizer.apply(gradients, model.trainable_weights)
        ends.append([np.array(w) for w in (*model.trainable_weights, *optimizer._model_variables_moving_average)])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


# --- budgets ---


def test_as_many_steps_fit_as_their_seconds_say():
    pace = Pace(step=1.0, epoch=5.0, tail=20.0)
    for seconds in (10, 21, 26, 27, 36, 100, 101, 104, 500):
        steps = steps_within(seconds, pace, 10)
        assert steps == 1 or seconds_for(steps, pace, 10) <= seconds
        assert seconds_for(steps + 1, pace, 10) > seconds


def test_a_plan_within_some_seconds_is_that_of_its_number_of_steps():
    for seconds in (30, 1000, 5000, 40_000):
        plan = plan_within(seconds, Pace(0.5, 7.0, 20.0), 10)
        assert plan == plan_of_steps(plan.end, 10)
        took = seconds_for(plan.end, Pace(0.5, 7.0, 20.0), 10 * plan.passes)
        assert seconds - 10 < took <= seconds


def test_folds_share_what_is_left_of_nine_tenths_of_the_minutes():
    clock = Clock()
    budget = Budget(10, 3, clock, began=900.0)  # 100 s of 540 have passed
    assert budget.fold_end == pytest.approx(1000 + 440 / 3)
    clock.now = 1200
    budget.end_training()
    clock.now = 1240
    budget.finish_fold()
    assert budget.tail == 40 and budget.fold_end == pytest.approx(1240 + 200 / 2)


def test_a_later_fold_has_the_same_plan_if_there_is_about_the_time_for_it():
    clock = Clock()
    budget = Budget(100, 2, clock)
    pace = Pace(1.0, 0.0, 0.0)
    budget.plan = budget.first_plan(pace, 10)
    assert budget.plan.end == 2700
    clock.now += 2700
    budget.end_training()
    budget.finish_fold()
    assert budget.first_plan(Pace(1.04, 0.0, 0.0), 10).end == 2700
    assert budget.first_plan(Pace(1.2, 0.0, 0.0), 10).end == 2250
    assert budget.first_plan(Pace(0.5, 0.0, 0.0), 10).end == 5400


def test_a_plan_is_corrected_when_the_machine_changes_and_not_for_noise():
    clock = Clock()
    budget = Budget(100, 1, clock)  # 5,400 s are planned
    plan = budget.first_plan(Pace(1.0, 0.0, 0.0), 100)
    clock.now += 1000
    assert budget.corrected_plan(plan, 1000, Pace(1.05, 0.0, 0.0), 100) is plan
    slower = budget.corrected_plan(plan, 1000, Pace(2.0, 0.0, 0.0), 100)
    assert slower.end == 1000 + 2200 and slower.segments[:-1] == plan.segments
    faster = budget.corrected_plan(plan, 1000, Pace(0.5, 0.0, 0.0), 100)
    assert faster.end == 1000 + 8800
    clock.now += 100_000  # far too late already: the next step is the last one
    assert budget.corrected_plan(plan, 1000, Pace(1.0, 0.0, 0.0), 100).end == 1001
    assert budget.corrected_plan(plan, 5400, Pace(1.0, 0.0, 0.0), 100) is plan


# --- clipping and accumulation ---


def moved(gradients, **settings):
    """Where a weight of [1, 1] is after each of several batches' gradients, at a constant rate of 0.1."""
    config = preset("smoke", optimizer="sgd", learning_rate=0.1, weight_decay=0.0, ema_momentum=0.0, warmup=0.0)
    config = dataclasses.replace(config, **settings)
    weight = keras.Variable(np.ones(2, "float32"))
    optimizer = training_optimizer(config, 10**9)
    places = []
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(np.array(gradient, "float32"))], [weight])
        places.append(ops.convert_to_numpy(weight))
    return places


def test_gradients_are_clipped_to_their_largest_norm():
    np.testing.assert_allclose(moved([[30.0, 40.0]], clip_norm=5.0)[0], [0.7, 0.6], rtol=1e-5)
    np.testing.assert_allclose(moved([[3.0, 4.0]], clip_norm=50.0)[0], [0.7, 0.6], rtol=1e-5)


def test_accumulated_batches_make_one_step_of_their_mean():
    places = moved([[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]], accumulate=2)
    np.testing.assert_allclose(places, [[1, 1], [0.8, 0.9], [0.8, 0.9]], rtol=1e-5)
    clipped = moved([[30.0, 40.0], [30.0, 40.0]], accumulate=2, clip_norm=5.0)
    np.testing.assert_allclose(clipped[1], [0.7, 0.6], rtol=1e-5)
