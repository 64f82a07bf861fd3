import numpy as np
import pytest

from salt import ensembles
from salt.artifacts import Oof
from salt.ensembles import (
    blend_probabilities,
    build_ensemble,
    choose_weights,
    mean_oof,
    probability_scales,
    rank_scales,
)
from salt.levels import ScoringError
from salt.metrics import AVERAGE_PRECISION, threshold_sweep
from salt.postprocess import postprocess
from salt.scoring import score_oof

SIDE = 8


def draw_runs(generator, tiles, noises, folds=3):
    """Out-of-fold predictions of runs that see the same truth through a noise of their own, each of another size."""
    masks = (generator.random((tiles, SIDE, SIDE)) < generator.random((tiles, 1, 1))).astype(np.uint8)
    masks[generator.random(tiles) < 0.3] = 0
    ids, fold = np.array([f"t{index:04d}" for index in range(tiles)]), (np.arange(tiles) % folds).astype(np.int8)
    runs = []
    for noise in noises:
        logits = 2.0 * masks - 1.0 + noise * generator.standard_normal(masks.shape)
        logits += 0.5 * noise * generator.standard_normal((tiles, 1, 1))
        runs.append(Oof(ids, fold, np.rint(255 / (1 + np.exp(-2 * logits))).astype(np.uint8), masks))
    return runs


def test_equal_weights_are_the_mean_of_probabilities_and_one_run_alone_is_itself():
    runs = draw_runs(np.random.default_rng(0), 20, [1.0, 1.0, 1.0, 1.0])
    arrays = [run.probabilities for run in runs]
    blended = blend_probabilities(arrays, [1, 1, 1, 1], probability_scales(4))
    difference = np.abs(blended.astype(int) - mean_oof(runs).probabilities)  # 100.5 may go either way
    assert difference.max() <= 1 and np.mean(difference > 0) < 0.2
    for scales in (probability_scales(4), rank_scales(arrays)):
        assert np.array_equal(blend_probabilities(arrays, [0, 0, 3, 0], scales), arrays[2])


def test_weights_are_relative_and_pull_the_mean_towards_their_run():
    low, high = np.full((1, 2, 2), 20, np.uint8), np.full((1, 2, 2), 220, np.uint8)
    scales = probability_scales(2)
    assert (blend_probabilities([low, high], [3, 1], scales) == 70).all()
    assert (blend_probabilities([low, high], [0.3, 0.1], scales) == 70).all()


def same_order(some, others) -> bool:
    """Whether no pixel stands above another in one image and below it in the other."""
    some, others = some.ravel().astype(int), others.ravel().astype(int)
    return bool((np.diff(others[np.lexsort((others, some))]) >= 0).all())


def test_ranks_do_not_see_that_a_run_is_bolder_than_the_other_while_probabilities_do():
    one, other = (run.probabilities for run in draw_runs(np.random.default_rng(1), 60, [1.0, 1.0]))
    bold, shy = one // 4 * 4, 96 + one // 4
    pairs = [[bold, other], [shy, other]]
    assert same_order(*(blend_probabilities(pair, [1, 1], rank_scales(pair)) for pair in pairs))
    assert not same_order(*(blend_probabilities(pair, [1, 1], probability_scales(2)) for pair in pairs))


def test_black_tiles_stay_at_zero_whatever_the_average():
    runs = draw_runs(np.random.default_rng(3), 20, [0.5, 1.0])
    for run in runs:
        run.probabilities[4] = 0
    arrays = [run.probabilities for run in runs]
    for scales in (probability_scales(2), rank_scales(arrays)):
        assert not blend_probabilities(arrays, [0.3, 0.7], scales)[4].any()


def test_the_better_run_weighs_more_and_a_useless_one_nothing():
    runs = draw_runs(np.random.default_rng(4), 150, [0.8, 1.2, 50.0])
    ensemble = build_ensemble(runs, AVERAGE_PRECISION)
    assert ensemble.weights.sum() == pytest.approx(1)
    assert ensemble.weights[0] > ensemble.weights[1] > ensemble.weights[2] == 0
    best = max(score_oof(run, AVERAGE_PRECISION, draws=2)["nested_score"] for run in runs)
    assert score_oof(ensemble.oof, AVERAGE_PRECISION, draws=2)["nested_score"] > best


def test_each_fold_is_blended_with_weights_that_do_not_know_its_tiles():
    runs = draw_runs(np.random.default_rng(5), 60, [1.0, 1.1, 1.2])
    before = build_ensemble(runs, AVERAGE_PRECISION)
    spoilt = runs[0].fold == 1
    changed = [run._replace(masks=np.where(spoilt[:, None, None], 1 - run.masks, run.masks)) for run in runs]
    after = build_ensemble(changed, AVERAGE_PRECISION)
    assert np.array_equal(before.oof.probabilities[spoilt], after.oof.probabilities[spoilt])
    assert [choice["weights"] for choice in before.choices][1] == [choice["weights"] for choice in after.choices][1]
    assert before.choices != after.choices and (before.choices[0]["part"], before.choices[0]["tiles"]) == (0, 20)


def test_weights_are_those_of_the_best_blend_on_the_way_and_of_the_first_one_among_equals():
    def tenths(steps):
        return np.array([[{(0, 1): 5, (1, 1): 7, (1, 2): 7, (2, 1): 6}.get(steps, 4)]])

    assert choose_weights(2, tenths).tolist() == [0.5, 0.5]
    assert choose_weights(3, lambda steps: np.array([[1]])).tolist() == [1, 0, 0]


def test_the_order_of_the_tiles_in_a_run_does_not_matter():
    runs = draw_runs(np.random.default_rng(6), 30, [1.0, 1.2])
    mixed = np.random.default_rng(7).permutation(30)
    other = build_ensemble([runs[0], Oof(*(array[mixed] for array in runs[1]))], AVERAGE_PRECISION)
    assert np.array_equal(other.oof.probabilities, build_ensemble(runs, AVERAGE_PRECISION).oof.probabilities)


def test_runs_over_other_tiles_or_folds_and_a_single_run_are_refused():
    one, other = draw_runs(np.random.default_rng(8), 12, [1.0, 1.0])
    with pytest.raises(ScoringError, match="at least 2 runs, not 1"):
        build_ensemble([one], AVERAGE_PRECISION)
    with pytest.raises(ScoringError, match="the runs have 12 and 11 tiles, 11 of them in common"):
        build_ensemble([one, Oof(*(array[1:] for array in other))], AVERAGE_PRECISION)
    with pytest.raises(ScoringError, match="fold: runs 1 and 2 differ in 12 of 12 tiles, the first of them t0000"):
        build_ensemble([one, other._replace(fold=other.fold + 1)], AVERAGE_PRECISION)


@pytest.mark.slow
def test_the_score_of_an_ensemble_is_not_optimistic_while_that_of_fitted_weights_is(monkeypatch):
    """Many small sets of tiles, and for each the score on fresh tiles of what was chosen on it.

    How easy a set of tiles happens to be is taken out by a fixed blend, scored on the same tiles: what is left is the
    flattery of the choice.
    """
    monkeypatch.setattr(ensembles, "WEIGHT_STEPS", 5)
    generator = np.random.default_rng(9)
    nested, fitted = [], []
    for _ in range(30):
        runs = draw_runs(generator, 24, [0.7] * 8)
        fresh = draw_runs(generator, 600, [0.7] * 8)
        ensemble = build_ensemble(runs, AVERAGE_PRECISION)
        score = score_oof(ensemble.oof, AVERAGE_PRECISION, draws=2)

        def blend(some, weights):
            arrays = [run.probabilities for run in some]
            return some[0]._replace(probabilities=blend_probabilities(arrays, weights, probability_scales(8)))

        def fixed(some):
            return threshold_sweep(blend(some, [1] * 8).probabilities, some[0].masks)[:, 127].mean()

        chosen = blend(fresh, ensemble.weights)
        masks = postprocess(chosen.probabilities, score["best_level"], score["minimum_area"])
        truth = threshold_sweep(255 * masks, chosen.masks)[:, 0].mean() - fixed(fresh)
        nested.append(score["nested_score"] - fixed(runs) - truth)
        fitted.append(
            score_oof(blend(runs, ensemble.weights), AVERAGE_PRECISION, draws=2)["chosen_score"] - fixed(runs) - truth
        )
    error = np.std(nested, ddof=1) / np.sqrt(len(nested))
    assert np.mean(nested) < 2 * error
    assert np.mean(fitted) > 3 * np.std(fitted, ddof=1) / np.sqrt(len(fitted))
    print(f"nested {np.mean(nested):+.4f} +- {error:.4f}, fitted {np.mean(fitted):+.4f}")
