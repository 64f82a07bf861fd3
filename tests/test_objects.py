from fractions import Fraction

import numpy as np
import pytest

from salt.artifacts import Oof
from salt.levels import count_oof
from salt.metrics import F2
from salt.objects import object_f2, score_objects
from salt.scoring import score_oof
from salt.submission import split_objects


def squares(*corners, size=40):
    """Masks of squares: (top, left, side)."""
    masks = np.zeros((len(corners), size, size), np.uint8)
    for mask, (top, left, side) in zip(masks, corners, strict=True):
        mask[top : top + side, left : left + side] = 1
    return masks


def slow_f2(predicted, truth):
    """By the words of the competition's page, in exact fractions; each object is a set of pixels."""
    predicted, truth = ([set(map(tuple, np.argwhere(mask).tolist())) for mask in masks] for masks in (predicted, truth))
    total = Fraction(0)
    for step in range(10):
        threshold = Fraction(50 + 5 * step, 100)
        hit = [any(Fraction(len(p & t), len(p | t)) > threshold for t in truth) for p in predicted]
        found = [any(Fraction(len(p & t), len(p | t)) > threshold for p in predicted) for t in truth]
        tp, fp, fn = hit.count(True), hit.count(False), found.count(False)
        total += Fraction(5 * tp, 5 * tp + 4 * fn + fp) if predicted or truth else 1
    return total / 10


def test_the_score_over_objects_is_that_of_a_slow_implementation_in_exact_fractions():
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        truth = squares(*((10 * (k // 4) + 1, 10 * (k % 4) + 1, 6) for k in generator.permutation(16)[:5]))
        predicted = [np.roll(mask, generator.integers(-1, 2, 2), (0, 1)) for mask in truth if generator.random() < 0.7]
        predicted = np.array(
            predicted + [squares((32, 32, generator.integers(2, 6)))[0]] * int(generator.random() < 0.3)
        )
        predicted = split_objects(predicted.max(axis=0)) if len(predicted) else squares()
        exact = slow_f2(predicted, truth)
        assert object_f2(predicted, truth) == pytest.approx(float(exact), abs=1e-12)
        seen.add(exact)
    assert len(seen) > 20


def test_the_ends_of_the_score_over_objects():
    one, none = squares((3, 3, 10)), squares()
    assert object_f2(one, one) == 1 and object_f2(none, none) == 1
    assert object_f2(none, one) == 0 and object_f2(one, none) == 0
    half = one.copy()
    half[:, 3:8] = 0  # an IoU of exactly one half is no hit
    assert object_f2(half, one) == 0
    assert object_f2(np.concatenate([one, squares((20, 20, 4))]), one) == pytest.approx(5 / 6)  # one false alarm
    assert object_f2(one, np.concatenate([one, squares((20, 20, 4))])) == pytest.approx(5 / 9)  # one overlooked


def test_predictions_are_scored_over_objects_with_what_the_other_folds_choose():
    generator = np.random.default_rng(1)
    truths = [
        squares(*((10 * k + 1, int(generator.integers(0, 30)), 7) for k in range(tile % 4))) for tile in range(24)
    ]
    masks = np.array([objects.max(axis=0, initial=0) for objects in truths]).astype(np.uint8)
    noise = generator.normal(70, 22, masks.shape) + 90 * masks
    noise[:, :, 20:] += 20 * (np.arange(24) % 2)[:, None, None]
    ids, fold = np.array([f"t{index:02}" for index in range(24)]), (np.arange(24) % 2).astype(np.int8)
    oof = Oof(ids, fold, np.clip(noise, 0, 255).astype(np.uint8), masks)
    found = score_objects(oof, count_oof(oof), F2, truths.__getitem__, draws=200)
    expected = []
    for choice in score_oof(oof, F2, draws=2)["choices"]:
        for tile in np.flatnonzero(fold == choice["part"]):
            mask = oof.probabilities[tile] >= choice["level"]
            mask = mask if mask.sum() >= choice["minimum_area"] else np.zeros_like(mask)
            expected.append(float(slow_f2(split_objects(mask), truths[tile])))
    assert found["score"] == pytest.approx(np.mean(expected), abs=1e-12) and len(set(expected)) > 5
    low, high = found["interval"]
    assert low < found["score"] < high
