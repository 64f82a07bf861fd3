import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from salt.metrics import average_precision, coverage_class, leaderboard_score
from salt.scoring import (
    FLAT_MARGIN,
    ScoringError,
    bootstrap_means,
    choose_level,
    flat_levels,
    score_curve,
    score_oof,
)


def random_oof(count=60, folds=3, seed=0, size=20):
    """Blurred truths: better and worse predictions, some empty tiles with and without false alarms."""
    generator = np.random.default_rng(seed)
    rows = np.arange(size)[:, None] + np.zeros((1, size))
    masks = (rows >= generator.uniform(0, 1.4, (count, 1, 1)) * size).astype(np.uint8)
    masks[::3] = 0
    signal = np.where(np.arange(count) % 4 > 0, 120, 20)[:, None, None]
    probabilities = np.clip(generator.normal(60, 25, masks.shape) + signal * masks, 0, 255).astype(np.uint8)
    probabilities[::6] = 0
    ids = np.array([f"t{index}" for index in range(count)])
    return SimpleNamespace(
        ids=ids, fold=(np.arange(count) % folds).astype(np.int8), probabilities=probabilities, masks=masks
    )


def changed(oof, **arrays):
    return SimpleNamespace(**{**vars(oof), **arrays})


def test_the_best_level_is_the_best_of_all_255_and_the_scores_are_the_leaderboard_s():
    oof = random_oof()
    score = score_oof(oof, draws=50)
    by_level = {level: leaderboard_score(oof.probabilities >= level, oof.masks) for level in range(1, 256)}
    assert score["tiles"] == 60
    assert score["best_score"] == pytest.approx(max(by_level.values()), abs=1e-12)
    assert by_level[score["best_level"]] == pytest.approx(score["best_score"], abs=1e-12)
    assert score["half_score"] == pytest.approx(by_level[128], abs=1e-12)
    assert score["best_score"] > score["half_score"]  # else the test could not tell them apart


def test_the_flat_levels_are_those_around_the_best_within_the_margin():
    oof = random_oof()
    score = score_oof(oof, draws=50)
    curve = np.array([leaderboard_score(oof.probabilities >= level, oof.masks) for level in range(1, 256)])
    first, last = score["flat_levels"]
    assert first <= score["best_level"] <= last
    good = curve >= curve.max() - FLAT_MARGIN - 1e-9
    assert good[first - 1 : last].all() and not good[first - 2] and not good[last]


def test_flat_levels_reach_the_ends_and_stop_at_a_dip():
    curve = np.full(255, 0.5)
    assert flat_levels(curve, 128) == [1, 255]
    curve[99], curve[149] = 0.497, 0.497  # levels 100 and 150
    assert flat_levels(curve, 128) == [101, 149]
    curve[99], curve[149] = 0.4985, 0.498  # within the margin, and exactly at it
    assert flat_levels(curve, 128) == [1, 255]
    curve = np.full(255, 2503 / 5000)
    curve[149] = 2493 / 5000  # exactly at the margin, but below 2503 / 5000 - 0.002 in floating point
    assert flat_levels(curve, 128) == [1, 255]


def test_of_equally_good_levels_the_one_nearest_to_one_half_is_chosen():
    curve = np.zeros(255)
    curve[[9, 119, 139, 249]] = 0.7  # levels 10, 120, 140, 250
    assert choose_level(curve) == 120
    assert choose_level(np.full(255, 0.3)) == 128
    perfect = random_oof()
    perfect.probabilities = perfect.masks * np.uint8(255)
    score = score_oof(perfect, draws=10)
    assert (score["best_level"], score["best_score"], score["flat_levels"]) == (128, 1.0, [1, 255])


def test_equal_scores_are_equal_whatever_the_order_of_the_tiles():
    tenths = np.random.default_rng(0).integers(0, 11, (999, 1))
    sweep = np.concatenate([np.random.default_rng(seed).permutation(tenths) / 10 for seed in range(255)], axis=1)
    curve = score_curve(sweep)
    assert len(set(curve.tolist())) == 1 and curve[0] == pytest.approx(sweep.mean())


def test_folds_classes_and_confusion_are_those_at_the_best_level():
    oof = random_oof()
    score = score_oof(oof, draws=50)
    predicted = oof.probabilities >= score["best_level"]
    precision, classes = average_precision(predicted, oof.masks), coverage_class(oof.masks)
    assert [row["fold"] for row in score["folds"]] == [0, 1, 2]
    for row in score["folds"]:
        chosen = oof.fold == row["fold"]
        assert row["tiles"] == chosen.sum() and row["score"] == pytest.approx(precision[chosen].mean())
    assert [row["class"] for row in score["classes"]] == list(range(11))
    for row in score["classes"]:
        chosen = classes == row["class"]
        assert row["tiles"] == chosen.sum() and row["share"] == pytest.approx(chosen.mean())
        assert row["score"] == (pytest.approx(precision[chosen].mean()) if chosen.any() else None)
    assert sum(row["tiles"] for row in score["classes"]) == sum(row["tiles"] for row in score["folds"]) == 60
    salt, found = oof.masks.any(axis=(1, 2)), predicted.any(axis=(1, 2))
    assert score["confusion"] == {
        "empty_as_empty": (~salt & ~found).sum(),
        "empty_as_salt": (~salt & found).sum(),
        "salt_as_empty": (salt & ~found).sum(),
        "salt_as_salt": (salt & found).sum(),
    }


def test_truth_and_prediction_are_not_swapped_in_the_confusion():
    masks = np.zeros((4, 5, 5), np.uint8)
    masks[0] = 1
    probabilities = np.zeros((4, 5, 5), np.uint8)
    probabilities[1:3] = 255
    fold = np.zeros(4, np.int8)
    oof = SimpleNamespace(ids=np.arange(4).astype(str), fold=fold, probabilities=probabilities, masks=masks)
    expected = {"empty_as_empty": 1, "empty_as_salt": 2, "salt_as_empty": 1, "salt_as_salt": 0}
    assert score_oof(oof, draws=10)["confusion"] == expected


def test_only_the_folds_that_hold_tiles_are_listed():
    oof = random_oof()
    oof.fold = np.where(oof.fold == 1, 4, oof.fold).astype(np.int8)
    assert [row["fold"] for row in score_oof(oof, draws=10)["folds"]] == [0, 2, 4]


def test_the_bootstrap_agrees_with_the_textbook_s_standard_error():
    oof = random_oof(400)
    score = score_oof(oof, draws=2000)
    for key, level in (("best", score["best_level"]), ("half", 128)):
        precision = average_precision(oof.probabilities >= level, oof.masks)
        error = precision.std(ddof=1) / np.sqrt(400)
        assert score[f"{key}_standard_error"] == pytest.approx(error, rel=0.08)
        expected = [precision.mean() - 1.96 * error, precision.mean() + 1.96 * error]
        assert score[f"{key}_interval"] == pytest.approx(expected, abs=error / 4)


def test_bootstrap_samples_are_as_large_as_the_data_and_shared_by_the_columns():
    values = np.random.default_rng(0).random((30, 1)) @ np.array([[1.0, 2.0]])
    means = bootstrap_means(values, 600, seed=0)
    assert means.shape == (600, 2)
    assert np.allclose(means[:, 1], 2 * means[:, 0])
    assert np.allclose(bootstrap_means(np.ones((30, 1)), 300, seed=0), 1)
    assert len(np.unique(means[:, 0])) > 590  # each chunk draws anew


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    oof = random_oof()
    assert score_oof(oof, draws=100, seed=1) == score_oof(oof, draws=100, seed=1)
    assert score_oof(oof, draws=100, seed=1)["best_interval"] != score_oof(oof, draws=100, seed=2)["best_interval"]


def test_a_score_survives_json():
    score = score_oof(random_oof(), draws=20)
    assert json.loads(json.dumps(score, allow_nan=False)) == score


def test_predictions_that_cannot_be_scored_are_refused():
    oof = random_oof(12)
    with pytest.raises(ScoringError, match="no tiles"):
        score_oof(SimpleNamespace(**{name: array[:0] for name, array in vars(oof).items()}))
    with pytest.raises(ScoringError, match="fold 0"):
        score_oof(changed(oof, fold=oof.fold[:0]))
    with pytest.raises(ScoringError, match="ids 12, fold 12, probabilities 11, masks 12"):
        score_oof(changed(oof, probabilities=oof.probabilities[1:]))
    with pytest.raises(ScoringError, match="whole numbers from 0, not int8 from -1"):
        score_oof(changed(oof, fold=oof.fold - np.int8(1)))
    with pytest.raises(ScoringError, match="not float64"):
        score_oof(changed(oof, fold=oof.fold.astype(float)))
    with pytest.raises(ScoringError, match="draws=1"):
        score_oof(oof, draws=1)
    with pytest.raises(ValueError, match="probabilities: must be uint8"):
        score_oof(changed(oof, probabilities=oof.probabilities / 255))


def test_scoring_needs_neither_a_network_library_nor_opencv_nor_scikit_learn():
    code = (
        "import sys, salt.scoring, salt.postprocess\n"
        "print([name for name in ('tensorflow', 'keras', 'cv2', 'sklearn', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
