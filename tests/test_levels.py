"""Levels, minimum areas and nested choice, of every metric and of several classes."""

import json
from fractions import Fraction

import numpy as np
import pytest

from salt import metrics
from salt.artifacts import Oof
from salt.ensembles import build_ensemble, mean_oof
from salt.levels import (
    AREA_LIMIT,
    LARGEST_AREA,
    LevelTable,
    choose_level_and_area,
    choose_minimum_area,
    count_oof,
    largest_area,
    level_table,
    mean_score,
    nested_choice,
    nested_parts,
    same_tiles,
    scores_with_area,
)
from salt.metrics import AVERAGE_PRECISION, DICE, F2, IOU, leaderboard_score
from salt.postprocess import postprocess
from salt.scoring import bootstrap_means, calibrate, compare_oof, score_oof
from salt.stacks import Stack


def predictions(probabilities, masks, folds=3):
    ids = np.array([f"t{index}" for index in range(len(masks))])
    return Oof(ids, (np.arange(len(masks)) % folds).astype(np.int8), probabilities, masks)


def best_area(probabilities, masks):
    table = level_table(predictions(probabilities, masks), AVERAGE_PRECISION)
    return choose_minimum_area(table, 128, AVERAGE_PRECISION)


def random_oof(count=24, size=(9, 12), classes=3, seed=0):
    """Predictions of rectangles with noise; each tile has a few of the classes, with a noise of its own."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, *size, classes), np.uint8)
    for tile, number in np.argwhere(generator.random((count, classes)) < 0.6):
        top, left = generator.integers(0, 5, 2)
        masks[tile, top : top + generator.integers(1, 6), left : left + generator.integers(1, 8), number] = 1
    noise = generator.normal(85, 25, masks.shape) + generator.normal(0, 25, (count, 1, 1, classes))
    noise += 40 * (np.arange(count) % 3 == 0)[:, None, None, None]  # one fold differs, so that choices do
    probabilities = np.clip(noise + 95 * masks, 0, 255).astype(np.uint8)
    if classes == 1:
        masks, probabilities = masks[..., 0], probabilities[..., 0]
    return predictions(probabilities, masks)


# Each metric as its competition's page tells it: of two sets of pixels, in exact fractions.


def slow_iou(predicted, truth):
    return Fraction(len(predicted & truth), len(predicted | truth)) if predicted | truth else Fraction(1)


def slow_precision(predicted, truth):
    return Fraction(sum(slow_iou(predicted, truth) > Fraction(50 + 5 * step, 100) for step in range(10)), 10)


def slow_f(predicted, truth, beta):
    if not predicted and not truth:
        return Fraction(1)
    if not predicted & truth:
        return Fraction(0)
    precision = Fraction(len(predicted & truth), len(predicted))
    recall = Fraction(len(predicted & truth), len(truth))
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


SLOW = [
    (AVERAGE_PRECISION, slow_precision),
    (IOU, slow_iou),
    (DICE, lambda predicted, truth: slow_f(predicted, truth, 1)),
    (F2, lambda predicted, truth: slow_f(predicted, truth, 2)),
]


class SlowScores:
    """Scores mask by mask and level by level; a mask is a (tile, class), a tile has all of its masks or none."""

    def __init__(self, oof, slow, levels):
        stacks = [array.reshape(*array.shape[:3], -1) for array in (oof.probabilities, oof.masks)]
        self.tiles = [
            [(p[..., number], m[..., number]) for number in range(p.shape[2])] for p, m in zip(*stacks, strict=True)
        ]
        self.levels, self.largest = levels, min(300, oof.masks[0].size)
        self.scores = {
            level: [[slow(pixels(p >= level), pixels(m)) for p, m in masks] for masks in self.tiles] for level in levels
        }
        self.emptied = [[slow(set(), pixels(m)) for _, m in masks] for masks in self.tiles]
        self.areas = {level: [[int((p >= level).sum()) for p, _ in masks] for masks in self.tiles] for level in levels}

    def of_tile(self, tile, level, area):
        return [
            emptied if size < area else score
            for score, size, emptied in zip(
                self.scores[level][tile], self.areas[level][tile], self.emptied[tile], strict=True
            )
        ]

    def mean(self, tiles, level, area=0):
        scores = [score for tile in tiles for score in self.of_tile(tile, level, area)]
        return sum(scores) / len(scores)

    def best(self, tiles):
        return max(self.mean(tiles, level) for level in self.levels)

    def best_area(self, tiles, level):
        """The best minimum area at a level, of several the smallest, and its score."""
        areas = [self.mean(tiles, level, area) for area in range(self.largest + 1)]
        return areas.index(max(areas)), max(areas)

    def same_as(self, level):
        """Of the levels that differ, that with the same masks."""
        return min(each for each in self.levels if each >= level)

    def check(self, tiles, level, area):
        """Fails unless some tiles would choose that level and area; returns their score."""
        level = self.same_as(level)
        assert self.mean(tiles, level) == self.best(tiles)
        best, score = self.best_area(tiles, level)
        assert area == best
        return score


def pixels(mask):
    return set(map(tuple, np.argwhere(mask).tolist()))


@pytest.mark.parametrize(("metric", "slow"), SLOW, ids=[metric.name for metric, _ in SLOW])
@pytest.mark.parametrize("classes", [1, 3])
def test_every_metric_s_scores_are_those_of_a_slow_implementation_in_exact_fractions(metric, slow, classes):
    oof = random_oof(classes=classes)
    levels = sorted({*range(60, 240, 9), 128})  # these alone differ, so that the slow one is not too slow
    probabilities = np.array([0, *levels], np.uint8)[np.digitize(oof.probabilities, levels)]
    oof = oof._replace(probabilities=probabilities)
    exact = SlowScores(oof, slow, levels)
    score, table = score_oof(oof, metric, draws=10), level_table(oof, metric)
    everything = range(len(exact.tiles))
    for level in levels:
        expected = np.array([exact.of_tile(tile, level, 0) for tile in everything], float)
        assert np.allclose(table.scores[..., level - 1].reshape(expected.shape), expected, rtol=0, atol=1e-12)
    level = exact.same_as(score["best_level"])
    assert exact.mean(everything, level) == exact.best(everything)
    assert score["best_score"] == pytest.approx(float(exact.best(everything)), abs=1e-12)
    assert score["half_score"] == pytest.approx(float(exact.mean(everything, 128)), abs=1e-12)
    assert score["minimum_area"] == exact.best_area(everything, level)[0]
    # Each class has a level and an area of its own.
    alone = [exact]
    if classes > 1:
        stacks = (oof.probabilities, oof.masks)
        alone = [
            SlowScores(oof._replace(probabilities=p, masks=m), slow, levels)
            for p, m in zip(*(np.moveaxis(stack, 3, 0) for stack in stacks), strict=True)
        ]
    gained = [
        each.check(everything, row["level"], row["minimum_area"])
        for each, row in zip(alone, score.get("of_class", [{**score, "level": score["best_level"]}]), strict=True)
    ]
    assert score["chosen_score"] == pytest.approx(float(sum(gained) / classes), abs=1e-12)
    nested = []
    for choice in score["choices"]:
        own = [tile for tile in everything if oof.fold[tile] == choice["part"]]
        others = [tile for tile in everything if oof.fold[tile] != choice["part"]]
        chosen = (
            [choice["level"], choice["minimum_area"]] if classes > 1 else [[choice["level"]], [choice["minimum_area"]]]
        )
        for each, level, area in zip(alone, *chosen, strict=True):
            each.check(others, level, area)
            nested += [each.of_tile(tile, each.same_as(level), area)[0] for tile in own]
    assert len(nested) == classes * len(exact.tiles)
    assert score["nested_score"] == pytest.approx(float(sum(nested) / len(nested)), abs=1e-12)
    assert score["best_score"] != score["half_score"]
    assert len({str(choice["level"]) for choice in score["choices"]}) > 1


def test_the_interval_draws_tiles_with_all_of_their_masks():
    oof = random_oof(classes=3)
    table = level_table(oof, DICE)
    nested = nested_choice(table, nested_parts(oof, 0), DICE)[0]
    samples = bootstrap_means(nested.mean(axis=1)[:, None], 500, 7)[:, 0]
    score = score_oof(oof, DICE, draws=500, seed=7)
    assert score["nested_standard_error"] == pytest.approx(samples.std(ddof=1), rel=1e-9)
    # Masks of a tile that are all alike tell no more than one of them.
    alike = oof._replace(
        probabilities=np.repeat(oof.probabilities[..., :1], 3, axis=3), masks=np.repeat(oof.masks[..., :1], 3, axis=3)
    )
    single = oof._replace(probabilities=oof.probabilities[..., 0], masks=oof.masks[..., 0])
    once, thrice = score_oof(single, DICE, draws=300), score_oof(alike, DICE, draws=300)
    assert thrice["nested_standard_error"] == pytest.approx(once["nested_standard_error"], rel=1e-9)


def test_the_classes_are_told_apart_in_their_order():
    oof = random_oof(classes=3)
    oof.probabilities[..., 1] = 200 * oof.masks[..., 1]  # one class is perfect
    score = score_oof(oof, DICE, draws=10)
    assert [row["score"] == 1 for row in score["of_class"]] == [False, True, False]
    assert score["nested_score"] == pytest.approx(np.mean([row["score"] for row in score["of_class"]]))
    for number, row in enumerate(score["of_class"]):
        there = oof.masks[..., number].any(axis=(1, 2)).sum()
        assert row["marked_as_marked"] + row["marked_as_empty"] == there
        assert row["empty_as_marked"] + row["empty_as_empty"] == len(oof.ids) - there
    assert sum(row["tiles"] for row in score["classes"]) == 3 * len(oof.ids)
    assert "of_class" not in score_oof(random_oof(classes=1), DICE, draws=10)


def test_each_class_gets_the_level_and_the_area_that_suit_it_unless_they_are_given():
    oof = random_oof(count=40, classes=2, seed=3)
    oof.probabilities[..., 1] //= 2  # the second class is predicted with half the confidence
    table = level_table(oof, DICE)
    levels, areas = choose_level_and_area(table, DICE)
    assert levels == [choose_level_and_area(table.of_class(number), DICE)[0] for number in (0, 1)]
    assert levels[1] < 0.7 * levels[0]
    own = mean_score(scores_with_area(table, levels, areas), DICE)
    score = score_oof(oof, DICE, draws=10)
    assert own == score["chosen_score"] > score["best_score"] + 0.05
    assert [row["level"] for row in score["of_class"]] == levels
    masks = postprocess(oof.probabilities, levels, areas)
    slow = [[slow_f(pixels(mask), pixels(truth), 1) for mask, truth in zip(*each, strict=True)]
            for each in ((masks[..., 0], oof.masks[..., 0]), (masks[..., 1], oof.masks[..., 1]))]  # fmt: skip
    assert own == pytest.approx(float(sum(map(sum, slow)) / 80))
    assert choose_level_and_area(table, DICE, level=99)[0] == [99, 99]
    assert choose_level_and_area(table, DICE, area=7)[1] == [7, 7]
    json.dumps(score)


def test_a_comparison_of_several_classes_tells_where_the_difference_comes_from():
    first = random_oof(classes=3)
    better = first.probabilities.copy()
    better[..., 2] = 200 * first.masks[..., 2]
    order = np.random.default_rng(0).permutation(len(first.ids))
    second = Oof(*(array[order] for array in first._replace(probabilities=better)))
    result = compare_oof(first, second, DICE, draws=200)
    scores = [score_oof(oof, DICE, draws=2)["nested_score"] for oof in (first, first._replace(probabilities=better))]
    assert result["difference"] == pytest.approx(scores[1] - scores[0], abs=1e-12)
    assert np.argmax([row["difference"] for row in result["of_class"]]) == 2
    assert result["difference"] == pytest.approx(np.mean([row["difference"] for row in result["of_class"]]))
    assert sum(row["part"] for row in result["classes"]) == pytest.approx(result["difference"])
    assert result["tiles"] == len(first.ids)


@pytest.mark.parametrize("metric", [AVERAGE_PRECISION, DICE])
def test_an_ensemble_leans_to_the_run_that_the_metric_prefers(metric):
    truth = random_oof(60, classes=2, seed=4)
    generator = np.random.default_rng(1)

    def noisy(signal):
        noise = generator.normal(0, 20, truth.masks.shape)
        return truth._replace(probabilities=np.clip(90 + signal * truth.masks + noise, 0, 255).astype(np.uint8))

    bad, good = noisy(10), noisy(80)
    ensemble = build_ensemble([bad, good], metric)
    assert ensemble.weights[1] > ensemble.weights[0]
    assert ensemble.oof.probabilities.shape == truth.masks.shape


def test_counts_serve_like_the_predictions_and_tell_other_masks():
    first, second = random_oof(classes=2), random_oof(classes=2)
    second.probabilities[:] = np.roll(second.probabilities, 1, axis=1)
    counted = [count_oof(oof) for oof in (first, second)]
    assert score_oof(counted[0], F2, draws=20) == score_oof(first, F2, draws=20)
    assert compare_oof(*counted, F2, draws=20) == compare_oof(first, second, F2, draws=20)
    assert calibrate(counted[0]) == calibrate(first)
    other = second._replace(masks=np.roll(second.masks, 1, axis=2))  # as many pixels, in other places
    with pytest.raises(ValueError, match="masks: runs 1 and 2 differ"):
        same_tiles([counted[0], count_oof(other)])


def test_the_largest_minimum_area_grows_with_the_masks_and_is_300_pixels_of_a_seismic_tile():
    def largest(height, width):
        pixels = np.array([height * width], np.int32)
        return largest_area(LevelTable(np.zeros((1, 255)), np.zeros((1, 255)), pixels, pixels, pixels))

    assert largest(101, 101) == LARGEST_AREA == largest(10, 10)
    assert largest(256, 1600) == 256 * 1600 // 34 > 12_000
    assert largest(1280, 1918) == AREA_LIMIT


def test_the_minimum_area_is_the_smallest_of_those_that_score_best():
    rng = np.random.default_rng(0)
    masks = np.zeros((60, 40, 40), np.uint8)
    masks[30:, :20] = 1
    probabilities = np.zeros(masks.shape, np.uint8)
    for tile, probability in enumerate(probabilities):
        probability[:20] = 200 * (tile >= 30)
        if tile < 20:
            probability.flat[: rng.integers(1, 80)] = 200  # stray pixels on empty tiles
    probabilities[30] = 0
    probabilities[30].flat[:60] = 200  # salt, found in part only
    scores = [leaderboard_score(postprocess(probabilities, 128, area), masks) for area in range(LARGEST_AREA + 1)]
    area = best_area(probabilities, masks)
    assert area == int(np.argmax(scores)) > 20
    assert best_area(probabilities[30:], masks[30:]) == 0  # with nothing to gain, nothing is emptied


def test_a_minimum_area_empties_no_tile_that_was_rightly_found():
    masks = np.zeros((2, 20, 20), np.uint8)
    masks[0].flat[:10] = 1
    assert best_area(200 * masks, masks) == 0


class Watched(Stack):
    """A stack that knows how many of its arrays were asked for at once."""

    most = 0

    def __getitem__(self, rows):
        made = super().__getitem__(rows)
        Watched.most = max(Watched.most, 1 if made.ndim < self.ndim else len(made))
        return made

    def subset(self, rows):
        return Watched(self.make, (0, *self.shape[1:]), self.rows[rows])


def test_stacks_score_compare_and_blend_like_arrays_and_are_never_read_as_a_whole(monkeypatch):
    monkeypatch.setattr(metrics, "METRIC_CHUNK", 2)
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (2, 7, 22, 26), np.uint8)
    masks = (small.mean(axis=0) > 128).astype(np.uint8)
    arrays = [predictions(each, masks, folds=2) for each in small]
    order = generator.permutation(7)
    arrays[1] = Oof(*(array[order] for array in arrays[1]))
    stacks = [
        oof._replace(
            probabilities=Watched(oof.probabilities.__getitem__, oof.probabilities.shape),
            masks=Watched(oof.masks.__getitem__, oof.masks.shape),
        )
        for oof in arrays
    ]
    Watched.most = 0
    assert score_oof(stacks[0], DICE, draws=20) == score_oof(arrays[0], DICE, draws=20)
    assert compare_oof(*stacks, DICE, draws=20) == compare_oof(*arrays, DICE, draws=20)
    mean, expected = mean_oof(stacks), mean_oof(arrays)
    assert score_oof(mean, DICE, draws=20) == score_oof(expected, DICE, draws=20)
    assert np.array_equal(mean.probabilities[2], expected.probabilities[2])
    for ranks in (False, True):
        blends = [build_ensemble(oofs, DICE, ranks) for oofs in (stacks, arrays)]
        assert blends[0].choices == blends[1].choices
        for name in ("oof", "blended"):
            lazy, whole = (getattr(blend, name).probabilities for blend in blends)
            assert isinstance(lazy, Stack) and all(np.array_equal(lazy[tile], whole[tile]) for tile in range(7))
    assert Watched.most == 2
