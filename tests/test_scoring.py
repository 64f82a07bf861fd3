import json
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from salt.artifacts import Oof
from salt.ensembles import mean_oof
from salt.levels import (
    FLAT_MARGIN,
    LARGEST_AREA,
    SINGLE_FOLD_PARTS,
    ScoringError,
    choose_level,
    choose_level_and_area,
    flat_levels,
    level_table,
    nested_choice,
    nested_parts,
    score_curve,
    scores_with_area,
)
from salt.metrics import AVERAGE_PRECISION, average_precision, leaderboard_score
from salt.scoring import STUDENT_975, bootstrap_means, calibrate, expect_leaderboard, score_by_depth, score_oof
from salt.tgs import LEADERBOARD_TRIPLES


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


def noisy(table, generator):
    """Shuffles each tile's precision among levels near each other: many levels that are equally good but for chance."""
    near = np.clip(np.arange(255) + generator.integers(-30, 31, (len(table.truth), 255)), 0, 254)
    return table._replace(scores=np.take_along_axis(table.scores, near, axis=1))


class SlowScore:
    """The figures of `score_oof` from the pixels, tile by tile and level by level, in exact fractions."""

    def __init__(self, oof, parts):
        self.oof, self.parts = oof, [int(part) for part in parts]
        self.tiles = range(len(oof.masks))
        self.tenths = {level: [self.tenth(tile, level) for tile in self.tiles] for level in range(1, 256)}
        self.areas = {level: [int((tile >= level).sum()) for tile in oof.probabilities] for level in range(1, 256)}
        self.empty = [not mask.any() for mask in oof.masks]

    def tenth(self, tile, level):
        proposed, salt = self.oof.probabilities[tile] >= level, self.oof.masks[tile] == 1
        if not salt.any():
            return 0 if proposed.any() else 10
        overlap = Fraction(int((proposed & salt).sum()), int((proposed | salt).sum()))
        return sum(overlap > Fraction(50 + 5 * step, 100) for step in range(10))

    def with_area(self, tile, level, area):
        if self.areas[level][tile] < area:
            return 10 * self.empty[tile]
        return self.tenths[level][tile]

    def mean(self, tenths):
        return Fraction(sum(tenths), 10 * len(tenths))

    def choose(self, tiles):
        """Level, then area: the best, of several the level nearest to 128 and the smallest area."""
        level = max(range(1, 256), key=lambda v: (sum(self.tenths[v][t] for t in tiles), -abs(v - 128), -v))
        area = max(range(LARGEST_AREA + 1), key=lambda a: (sum(self.with_area(t, level, a) for t in tiles), -a))
        return level, area

    def nested(self):
        choices = {k: self.choose([t for t in self.tiles if self.parts[t] != k]) for k in sorted(set(self.parts))}
        return choices, [self.with_area(t, *choices[self.parts[t]]) for t in self.tiles]


def changed(oof, **arrays):
    return SimpleNamespace(**{**vars(oof), **arrays})


def test_the_best_level_is_the_best_of_all_255_and_the_scores_are_the_leaderboard_s():
    oof = random_oof()
    score = score_oof(oof, AVERAGE_PRECISION, draws=50)
    by_level = {level: leaderboard_score(oof.probabilities >= level, oof.masks) for level in range(1, 256)}
    assert score["tiles"] == 60
    assert score["best_score"] == pytest.approx(max(by_level.values()), abs=1e-12)
    assert by_level[score["best_level"]] == pytest.approx(score["best_score"], abs=1e-12)
    assert score["half_score"] == pytest.approx(by_level[128], abs=1e-12)
    assert score["best_score"] > score["half_score"]  # else the test could not tell them apart


def test_the_flat_levels_are_those_around_the_best_within_the_margin():
    oof = random_oof()
    score = score_oof(oof, AVERAGE_PRECISION, draws=50)
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
    score = score_oof(perfect, AVERAGE_PRECISION, draws=10)
    assert (score["best_level"], score["best_score"], score["flat_levels"]) == (128, 1.0, [1, 255])


def test_equal_scores_are_equal_whatever_the_order_of_the_tiles():
    tenths = np.random.default_rng(0).integers(0, 11, (999, 1))
    sweep = np.concatenate([np.random.default_rng(seed).permutation(tenths) / 10 for seed in range(255)], axis=1)
    curve = score_curve(sweep, AVERAGE_PRECISION)
    assert len(set(curve.tolist())) == 1 and curve[0] == pytest.approx(sweep.mean())


@pytest.mark.parametrize("folds", [3, 1])
def test_every_figure_is_that_of_a_slow_implementation_in_exact_fractions(folds):
    oof = random_oof(36, folds=folds, size=14, seed=5)
    score = score_oof(oof, AVERAGE_PRECISION, draws=10)
    slow = SlowScore(oof, nested_parts(oof, 0))
    level, area = slow.choose(slow.tiles)
    choices, nested = slow.nested()
    assert (score["best_level"], score["minimum_area"]) == (level, area)
    assert area > 0 and len(set(choices.values())) > 1  # else the test could not see what is chosen where
    exact = {
        "half": slow.mean(slow.tenths[128]),
        "best": slow.mean(slow.tenths[level]),
        "chosen": slow.mean([slow.with_area(t, level, area) for t in slow.tiles]),
        "nested": slow.mean(nested),
    }
    for name, value in exact.items():
        assert score[f"{name}_score"] == pytest.approx(float(value), abs=1e-12)
    assert [(row["part"], row["level"], row["minimum_area"]) for row in score["choices"]] == [
        (part, *choice) for part, choice in choices.items()
    ]
    for row in score["folds"]:
        own = [nested[t] for t in slow.tiles if oof.fold[t] == row["fold"]]
        assert row["tiles"] == len(own) and row["score"] == pytest.approx(float(slow.mean(own)), abs=1e-12)
    coverages = [-(-10 * int(mask.sum()) // mask.size) for mask in oof.masks]
    assert [row["class"] for row in score["classes"]] == list(range(11))
    for row in score["classes"]:
        own = [nested[t] for t in slow.tiles if coverages[t] == row["class"]]
        assert row["tiles"] == len(own) and row["share"] == pytest.approx(len(own) / 36, abs=1e-12)
        assert row["score"] == (pytest.approx(float(slow.mean(own)), abs=1e-12) if own else None)
    found = [slow.areas[choices[slow.parts[t]][0]][t] >= max(1, choices[slow.parts[t]][1]) for t in slow.tiles]
    for truth, is_empty in (("empty", True), ("marked", False)):
        for answer, is_found in (("empty", False), ("marked", True)):
            count = sum(e == is_empty and f == is_found for e, f in zip(slow.empty, found, strict=True))
            assert score["confusion"][f"{truth}_as_{answer}"] == count


def test_the_nested_score_is_unbiased_where_the_chosen_one_flatters():
    """Data sets are drawn from a population, in which the true score of any choice is known."""
    generator = np.random.default_rng(0)
    population = noisy(level_table(random_oof(600, size=10, seed=3), AVERAGE_PRECISION), generator)
    nested_error, chosen_error = [], []
    for _ in range(300):
        rows = generator.integers(0, 600, 60)
        drawn = population.of_tiles(rows)
        precision, _, choices = nested_choice(drawn, np.arange(60) % 5, AVERAGE_PRECISION)
        truths = [scores_with_area(population, row["level"], row["minimum_area"]).mean() for row in choices]
        nested_error.append(precision.mean() - np.mean(truths))
        level, area = choose_level_and_area(drawn, AVERAGE_PRECISION)
        chosen = scores_with_area(drawn, level, area).mean()
        chosen_error.append(chosen - scores_with_area(population, level, area).mean())
    for errors, low, high in ((nested_error, -3, 3), (chosen_error, 8, np.inf)):
        z = np.mean(errors) / (np.std(errors) / np.sqrt(300))
        assert low < z < high


def test_the_parts_of_a_single_fold_are_equal_seeded_and_independent_of_the_order_of_the_tiles():
    oof = random_oof(53, folds=1)
    parts = nested_parts(oof, 0)
    assert sorted(np.unique(parts, return_counts=True)[1]) == [10, 10, 11, 11, 11] and SINGLE_FOLD_PARTS == 5
    assert not np.array_equal(parts, nested_parts(oof, 1))
    order = np.random.default_rng(0).permutation(53)
    turned = changed(oof, **{name: array[order] for name, array in vars(oof).items()})
    assert np.array_equal(nested_parts(turned, 0), parts[order])
    folds = random_oof(53, folds=3)
    assert np.array_equal(nested_parts(folds, 0), folds.fold)


def test_an_ensemble_is_the_mean_of_the_probabilities_of_the_same_tiles():
    first, second = (Oof(**vars(random_oof(seed=0))) for _ in range(2))
    order = np.random.default_rng(1).permutation(60)
    second = second._replace(probabilities=255 - second.probabilities)
    turned = Oof(*(array[order] for array in second))
    mean = mean_oof([first, turned])
    assert mean.ids.tolist() == sorted(first.ids) and set(np.unique(mean.probabilities)) == {128}  # 127.5, to even
    three = mean_oof([first, first, turned])
    exact = (2 * first.probabilities.astype(float) + second.probabilities) / 3
    by_id = np.argsort(first.ids)
    assert np.abs(three.probabilities - exact[by_id]).max() <= 0.5 + 1e-9
    assert np.array_equal(three.masks, first.masks[by_id]) and np.array_equal(three.fold, first.fold[by_id])
    assert mean_oof([first]) is first


def test_runs_that_do_not_belong_together_make_no_ensemble():
    oof = Oof(**vars(random_oof()))
    with pytest.raises(ScoringError, match="60 and 59 tiles, 59 of them in common"):
        mean_oof([oof, Oof(*(array[1:] for array in oof))])
    with pytest.raises(ScoringError, match="fold: runs 1 and 3 differ in 20 of 60 tiles"):
        mean_oof([oof, oof, oof._replace(fold=np.where(oof.fold == 2, 3, oof.fold))])
    with pytest.raises(ScoringError, match="run 2: 1 tiles are in it twice"):
        mean_oof([oof, oof._replace(ids=np.array([oof.ids[1], *oof.ids[1:]]))])


def test_the_score_by_depth_is_that_of_five_equal_groups_and_leaves_unknown_depths_out():
    oof = random_oof(60)
    depths = np.random.default_rng(0).permutation(60) + 100.0
    depths[oof.fold == 1] += 1000
    depths[:5] = np.nan
    rows = score_by_depth(oof, AVERAGE_PRECISION, depths)
    _, nested = SlowScore(oof, oof.fold).nested()
    assert [row["tiles"] for row in rows] == [11] * 5
    for row, next_row in zip(rows, [*rows[1:], None], strict=True):
        own = [t for t in range(60) if row["low"] <= depths[t] <= row["high"]]
        assert row["score"] == pytest.approx(sum(nested[t] for t in own) / 110, abs=1e-12)
        assert row["empty"] == pytest.approx(np.mean([not oof.masks[t].any() for t in own]), abs=1e-12)
        assert next_row is None or row["high"] < next_row["low"]
    (alone,) = score_by_depth(oof, AVERAGE_PRECISION, np.full(60, 7.0))
    assert alone["tiles"] == 60
    with pytest.raises(ScoringError, match="not one of the tiles' depths is known"):
        score_by_depth(oof, AVERAGE_PRECISION, np.full(60, np.nan))
    with pytest.raises(ScoringError, match=r"shape \(59,\), but there are 60 tiles"):
        score_by_depth(oof, AVERAGE_PRECISION, depths[1:])


def test_the_calibration_is_that_of_counting_pixels_one_by_one():
    oof = random_oof(8, size=12)
    oof.probabilities = np.minimum(oof.probabilities, 200)  # the last bins hold nothing
    oof.probabilities[0, 0, :3] = 25, 26, 51  # p = 0.098, 0.102 and exactly 0.2
    bins = [[] for _ in range(10)]
    for value, truth in zip(oof.probabilities.ravel().tolist(), oof.masks.ravel().tolist(), strict=True):
        bins[min(int(Fraction(value, 255) * 10), 9)].append((value / 255, truth))
    result = calibrate(oof)
    for row, pixels in zip(result["bins"], bins, strict=True):
        assert row["pixels"] == len(pixels)
        for column, name in enumerate(("predicted", "salt")):
            mean = np.mean([pixel[column] for pixel in pixels]) if pixels else None
            assert row[name] == (pytest.approx(mean, abs=1e-12) if pixels else None)
    assert not bins[9] and bins[0] and bins[1]
    exact = sum(abs(sum(p - t for p, t in pixels)) for pixels in bins) / oof.masks.size
    assert result["error"] == pytest.approx(exact, abs=1e-12)


def test_the_expected_leaderboard_is_the_textbook_s_line_and_prediction_interval():
    x, y = np.array([triple[::2] for triple in LEADERBOARD_TRIPLES if triple[2] is not None]).T
    fit = scipy.stats.linregress(x, y)
    expected = expect_leaderboard(0.85, 0, LEADERBOARD_TRIPLES)["private"]
    assert expected["score"] == pytest.approx(fit.intercept + 0.85 * fit.slope, abs=1e-9)
    residuals = y - fit.intercept - fit.slope * x
    error = np.sqrt((residuals @ residuals) / (len(x) - 2))
    error *= np.sqrt(1 + 1 / len(x) + (0.85 - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    half = scipy.stats.t.ppf(0.975, len(x) - 2) * error
    assert expected["interval"] == pytest.approx([expected["score"] - half, expected["score"] + half], abs=1e-5)
    for freedom, quantile in enumerate(STUDENT_975, 1):
        assert quantile == pytest.approx(scipy.stats.t.ppf(0.975, freedom), abs=6e-4)


def test_the_expected_leaderboard_covers_what_is_known_widens_with_the_score_s_error_and_ends_where_nothing_is():
    for score, public, private in LEADERBOARD_TRIPLES:
        expected = expect_leaderboard(score, 0.005, LEADERBOARD_TRIPLES)
        for name, value in (("public", public), ("private", private)):
            low, high = expected[name]["interval"]
            assert value is None or low < value < high
        assert expected["public"]["score"] < expected["private"]["score"]
    wide, narrow = (
        expect_leaderboard(0.85, error, LEADERBOARD_TRIPLES)["public"]["interval"] for error in (0.011, 0.005)
    )
    assert wide[1] - wide[0] > narrow[1] - narrow[0] + 0.01
    assert (
        expect_leaderboard(0.5, 0.01, LEADERBOARD_TRIPLES) is None
        and expect_leaderboard(0.95, 0.01, LEADERBOARD_TRIPLES) is None
    )


def test_truth_and_prediction_are_not_swapped_in_the_confusion():
    masks = np.zeros((4, 20, 20), np.uint8)  # too large to be emptied by a minimum area
    masks[0] = 1
    probabilities = np.zeros((4, 20, 20), np.uint8)
    probabilities[1:3] = 255
    fold = np.zeros(4, np.int8)
    oof = SimpleNamespace(ids=np.arange(4).astype(str), fold=fold, probabilities=probabilities, masks=masks)
    expected = {"empty_as_empty": 1, "empty_as_marked": 2, "marked_as_empty": 1, "marked_as_marked": 0}
    assert score_oof(oof, AVERAGE_PRECISION, draws=10)["confusion"] == expected


def test_only_the_folds_that_hold_tiles_are_listed():
    oof = random_oof()
    oof.fold = np.where(oof.fold == 1, 4, oof.fold).astype(np.int8)
    assert [row["fold"] for row in score_oof(oof, AVERAGE_PRECISION, draws=10)["folds"]] == [0, 2, 4]


def test_the_bootstrap_agrees_with_the_textbook_s_standard_error():
    oof = random_oof(400)
    score = score_oof(oof, AVERAGE_PRECISION, draws=2000)
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
    first, again, other = (score_oof(oof, AVERAGE_PRECISION, draws=100, seed=seed) for seed in (1, 1, 2))
    assert first == again and first["best_interval"] != other["best_interval"]


def test_a_score_survives_json():
    score = score_oof(random_oof(), AVERAGE_PRECISION, draws=20)
    assert json.loads(json.dumps(score, allow_nan=False)) == score


def test_predictions_that_cannot_be_scored_are_refused():
    oof = random_oof(12)
    with pytest.raises(ScoringError, match="no tiles"):
        score_oof(SimpleNamespace(**{name: array[:0] for name, array in vars(oof).items()}), AVERAGE_PRECISION)
    with pytest.raises(ScoringError, match="fold 0"):
        score_oof(changed(oof, fold=oof.fold[:0]), AVERAGE_PRECISION)
    with pytest.raises(ScoringError, match="ids 12, fold 12, probabilities 11, masks 12"):
        score_oof(changed(oof, probabilities=oof.probabilities[1:]), AVERAGE_PRECISION)
    with pytest.raises(ScoringError, match="whole numbers from 0, not int8 from -1"):
        score_oof(changed(oof, fold=oof.fold - np.int8(1)), AVERAGE_PRECISION)
    with pytest.raises(ScoringError, match="not float64"):
        score_oof(changed(oof, fold=oof.fold.astype(float)), AVERAGE_PRECISION)
    with pytest.raises(ScoringError, match="draws=1"):
        score_oof(oof, AVERAGE_PRECISION, draws=1)
    with pytest.raises(ValueError, match="probabilities: must be uint8"):
        score_oof(changed(oof, probabilities=oof.probabilities / 255), AVERAGE_PRECISION)


def test_scoring_needs_neither_a_network_library_nor_opencv_nor_scikit_learn():
    code = (
        "import sys, salt.scoring, salt.postprocess\n"
        "print([name for name in ('tensorflow', 'keras', 'cv2', 'sklearn', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
