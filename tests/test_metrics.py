from fractions import Fraction

import numpy as np
import pytest

from salt.metrics import (
    AVERAGE_PRECISION,
    DICE,
    F2,
    IOU,
    METRIC_CHUNK,
    IoU,
    MetricError,
    average_precision,
    coverage,
    coverage_class,
    iou,
    leaderboard_score,
    pixels_from_level,
    threshold_sweep,
)


def slow_precision(proposal, truth):
    """From the competition's description, with sets of pixels and exact fractions."""
    proposed, salt = (set(map(tuple, np.argwhere(mask))) for mask in (proposal, truth))
    if not salt:
        return 0.0 if proposed else 1.0
    overlap = Fraction(len(proposed & salt), len(proposed | salt))
    return sum(overlap > Fraction(50 + 5 * step, 100) for step in range(10)) / 10


def pair_with_iou(intersection, union, shape=(10, 10)):
    """A proposal inside a truth of `union` pixels, `intersection` of them proposed."""
    proposal, truth = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    truth.flat[:union] = 1
    proposal.flat[:intersection] = 1
    return proposal, truth


def random_pairs(count, shape=(9, 11), seed=0):
    generator = np.random.default_rng(seed)
    share = generator.random((count, 1, 1))
    share[::4] = 0
    truth = generator.random((count, *shape)) < share
    flipped = generator.random((count, *shape)) < generator.random((count, 1, 1)) ** 3
    return (truth ^ flipped).astype(np.uint8), truth.astype(np.uint8)


def test_iou_is_intersection_over_union_per_tile():
    proposal = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 1]], [[0, 0, 0, 1]]])
    truth = np.array([[[0, 1, 1, 0]], [[0, 0, 0, 1]], [[1, 1, 1, 0]]])
    assert iou(proposal, truth).tolist() == [1 / 3, 1 / 4, 0.0]


def test_iou_has_the_name_of_the_original_too():
    assert IoU(np.array([[1, 1, 0]]), np.array([[0, 1, 1]])) == pytest.approx(1 / 3)


def test_empty_against_empty_is_one_and_any_other_empty_is_zero():
    empty, salt = np.zeros((1, 5, 5), np.uint8), np.eye(5, dtype=np.uint8)[None]
    for function in (iou, average_precision):
        assert function(empty, empty).tolist() == [1.0]
        assert function(salt, empty).tolist() == [0.0]
        assert function(empty, salt).tolist() == [0.0]
        assert function(salt, salt).tolist() == [1.0]


def test_one_mask_gives_a_float():
    proposal, truth = pair_with_iou(3, 4)
    assert iou(proposal, truth) == 0.75 and type(iou(proposal, truth)) is float
    assert average_precision(proposal, truth) == 0.5 and type(average_precision(proposal, truth)) is float


@pytest.mark.parametrize("twentieths", range(10, 20))
def test_an_iou_exactly_at_a_threshold_does_not_pass_it(twentieths):
    for scale in (1, 3, 5):
        at = pair_with_iou(twentieths * scale, 20 * scale)
        above = pair_with_iou(twentieths * scale + 1, 20 * scale)
        assert average_precision(*at) == (twentieths - 10) / 10
        assert average_precision(*above) == (twentieths - 9) / 10


def test_average_precision_agrees_with_the_description_on_random_masks():
    proposal, truth = random_pairs(3 * METRIC_CHUNK + 5)
    expected = [slow_precision(*pair) for pair in zip(proposal, truth, strict=True)]
    assert len(set(expected)) > 8  # else the masks test little
    assert average_precision(proposal, truth).tolist() == expected
    assert leaderboard_score(proposal, truth) == pytest.approx(sum(expected) / len(expected), abs=1e-12)


def test_iou_is_symmetric_but_the_score_of_a_non_empty_truth_needs_a_proposal():
    proposal, truth = random_pairs(40)
    assert np.array_equal(iou(proposal, truth), iou(truth, proposal))


def test_masks_of_any_whole_type_give_the_same_score():
    proposal, truth = random_pairs(20)
    expected = average_precision(proposal, truth)
    for kind in (bool, np.int8, np.int64):
        assert np.array_equal(average_precision(proposal.astype(kind), truth.astype(kind)), expected)


def test_the_sweep_agrees_with_every_level_taken_alone():
    generator = np.random.default_rng(1)
    _, truth = random_pairs(12)
    probabilities = generator.integers(0, 256, truth.shape, dtype=np.uint8)
    informed = np.clip(probabilities * 0.4 + 140 * truth, 0, 255).astype(np.uint8)
    probabilities[::2] = informed[::2]
    probabilities[3] = 0
    probabilities[4] = 255
    sweep = threshold_sweep(probabilities, truth)
    assert sweep.shape == (12, 255) and sweep.dtype == np.float64
    for level in range(1, 256):
        expected = [slow_precision(p >= level, t) for p, t in zip(probabilities, truth, strict=True)]
        assert sweep[:, level - 1].tolist() == expected, level


def test_the_sweep_does_not_pass_an_iou_exactly_at_a_threshold():
    truth = np.zeros((1, 10, 10), np.uint8)
    truth.flat[:20] = 1
    probabilities = np.zeros((1, 10, 10), np.uint8)
    probabilities.flat[:20] = np.arange(240, 220, -1)  # level 240 proposes 1 pixel, 239 two ... 221 all twenty
    scores = threshold_sweep(probabilities, truth)[0]
    for pixels in range(1, 20):
        assert scores[240 - pixels] == max(0, pixels - 10) / 10
    assert scores[220] == 1.0 and scores[0] == 1.0 and scores[240] == 0.0


def test_the_sweep_s_first_and_last_columns_are_levels_1_and_255():
    truth = np.ones((1, 2, 2), np.uint8)
    assert threshold_sweep(np.full((1, 2, 2), 1, np.uint8), truth)[0].tolist() == [1.0] + [0.0] * 254
    assert threshold_sweep(np.full((1, 2, 2), 254, np.uint8), truth)[0].tolist() == [1.0] * 254 + [0.0]


def test_the_sweep_of_empty_tiles_turns_to_one_above_the_highest_probability():
    truth = np.zeros((1, 3, 3), np.uint8)
    probabilities = np.zeros((1, 3, 3), np.uint8)
    probabilities[0, 1, 1] = 100
    assert threshold_sweep(probabilities, truth)[0].tolist() == [0.0] * 100 + [1.0] * 155


def test_a_mask_with_more_pixels_than_are_counted_at_once_is_counted_whole(monkeypatch):
    generator = np.random.default_rng(3)
    probabilities, masks = generator.integers(0, 256, (3, 9, 7), dtype=np.uint8), generator.integers(0, 2, (3, 9, 7))
    whole = pixels_from_level(probabilities, masks)
    assert [[np.sum((masks[0] == t) & (probabilities[0] >= v)) for v in (0, 1, 128, 255)] for t in (0, 1)] == whole[
        0, :, [0, 1, 128, 255]
    ].T.tolist()
    monkeypatch.setattr("salt.metrics.HISTOGRAM_PIXELS", 2 * 7)
    assert np.array_equal(pixels_from_level(probabilities, masks), whole)


def test_the_sweep_over_many_chunks_keeps_the_tiles_order():
    generator = np.random.default_rng(2)
    _, truth = random_pairs(2 * METRIC_CHUNK + 3)
    probabilities = np.clip(generator.integers(0, 160, truth.shape) + 96 * truth, 0, 255).astype(np.uint8)
    sweep = threshold_sweep(probabilities, truth)
    for level in (60, 128, 200):
        assert np.array_equal(sweep[:, level - 1], average_precision(probabilities >= level, truth))


def test_wrong_input_is_named():
    masks = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(MetricError, match=r"proposal: shape \(1, 4, 4\) differs from the truth's \(2, 4, 4\)"):
        iou(masks[:1], masks)
    with pytest.raises(MetricError, match="truth: holds the value 255"):
        average_precision(masks, masks + np.uint8(255))
    with pytest.raises(MetricError, match="proposal: must be uint8 of 0 and 1, not float64"):
        iou(masks * 0.5, masks)
    with pytest.raises(MetricError, match="no tiles"):
        leaderboard_score(masks[:0], masks[:0])
    with pytest.raises(MetricError, match="probabilities: must be uint8"):
        threshold_sweep(masks.astype(float), masks)
    with pytest.raises(MetricError, match="differs from the masks'"):
        threshold_sweep(masks[:1], masks)
    with pytest.raises(MetricError, match="masks: holds the value 2"):
        threshold_sweep(masks, masks + 2)


def test_coverage_is_the_share_of_salt():
    masks = np.zeros((3, 10, 10), np.uint8)
    masks[1, :3] = 1
    masks[2] = 1
    assert coverage(masks).tolist() == [0.0, 0.3, 1.0]


def test_coverage_classes_are_tenths_rounded_up_and_only_empty_tiles_are_class_zero():
    masks = np.zeros((102, 10, 10), np.uint8)
    for pixels in range(1, 101):
        masks[pixels].flat[:pixels] = 1
    classes = coverage_class(masks)
    assert classes[0] == classes[101] == 0
    assert [int(classes[pixels]) for pixels in (1, 9, 10, 11, 20, 21, 30, 31, 90, 91, 100)] == [
        1, 1, 1, 2, 2, 3, 3, 4, 9, 10, 10
    ]  # fmt: skip
    one_pixel = np.zeros((1, 101, 101), np.uint8)
    one_pixel[0, 50, 50] = 1
    assert coverage_class(one_pixel).tolist() == [1]


def plain_score(name, predicted, truth):
    """The metric of one mask, from sets of pixels."""
    predicted, truth = set(np.flatnonzero(predicted)), set(np.flatnonzero(truth))
    if not predicted and not truth:
        return 1.0
    both, either = len(predicted & truth), len(predicted | truth)
    if name == "precision":
        return sum(Fraction(both, either) > Fraction(k, 20) for k in range(10, 20)) / 10
    if name == "iou":
        return both / either
    precision, recall = both / max(len(predicted), 1), both / max(len(truth), 1)
    beta = {"dice": 1, "f2": 2}[name]
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall) if both else 0.0


@pytest.mark.parametrize("metric", [AVERAGE_PRECISION, IOU, DICE, F2], ids=lambda metric: metric.name)
def test_each_metric_equals_an_independent_slow_one(metric):
    rng = np.random.default_rng(0)
    truth = rng.random((60, 7, 5)) < rng.choice([0, 0.3, 0.9], (60, 1, 1))
    flipped = rng.random(truth.shape) < rng.choice([0, 0.1, 0.6], (60, 1, 1))
    predicted = (truth ^ flipped) & (rng.random((60, 1, 1)) < 0.8)
    counts = [stack.sum(axis=(1, 2)) for stack in (predicted & truth, predicted, truth)]
    expected = [plain_score(metric.name, *pair) for pair in zip(predicted, truth, strict=True)]
    np.testing.assert_allclose(metric.score(*counts), expected, rtol=0, atol=1e-12)
    assert len(set(expected)) > 5 and {0.0, 1.0} <= set(expected)
    assert metric.mean(metric.score(*counts)) == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_mean_of_steps_does_not_depend_on_the_order_of_its_terms():
    scores = np.random.default_rng(0).integers(0, 11, 501) / 10
    means = {float(AVERAGE_PRECISION.mean(np.random.default_rng(seed).permutation(scores))) for seed in range(50)}
    assert means == {round(10 * scores.sum()) / 5010}
