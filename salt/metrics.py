"""Metrics of masks: the score of each from counts of its pixels, and that at each of the 255 levels. numpy only.

Where both masks are empty a metric is 1 by definition (0 / 0 otherwise); where one of them is, 0.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from salt.rle import masks_at_a_time, require_masks

# The IoU thresholds in twentieths: IoU > k / 20 is decided as 20 * intersection > k * union.
THRESHOLDS_20 = range(10, 20)

# Tiles counted at a time: bounds the memory of the 8-byte indices that np.bincount needs (10,201 a tile).
METRIC_CHUNK = 64
HISTOGRAM_PIXELS = 2**24  # that OpenCV counts at a time: it gives counts in float32, which is exact up to here


class MetricError(ValueError):
    """Arrays that cannot be scored: wrong shapes, types or values."""


@dataclass(frozen=True)
class Metric:
    """A competition's metric: the score of each mask from three counts of its pixels; the mean over masks is the score.

    Attributes:
        name: one word, such as "dice", for files.
        label: for people, such as "mean Dice".
        of_counts: function of (intersection, predicted, truth, where): the pixels in both masks, in the predicted and
            in the true one, arrays of one shape; and `numpy.where` or `keras.ops.where`. It uses operators and `where`
            alone, so that it serves on numpy's whole numbers and in a compiled step on float32 alike. Returns scores
            from 0 to 1 of the same shape.
        steps: every score is a whole number of this many equal steps, so that sums of scores are exact, and equal ones
            are equal; None: a score may be any number from 0 to 1.
    """

    name: str
    label: str
    of_counts: Callable
    steps: int | None = None

    def score(self, intersection: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Scores, float64, of arrays of counts of one shape."""
        return np.asarray(self.of_counts(intersection, predicted, truth, np.where), np.float64)

    def mean(self, scores: np.ndarray) -> np.ndarray:
        """The mean of scores `[N, ...]` over the first axis; exact where there are `steps`."""
        if self.steps is None:
            return np.mean(scores, axis=0)
        return self.in_steps(scores).astype(np.int64).sum(axis=0) / (self.steps * len(scores))

    def in_steps(self, scores: np.ndarray) -> np.ndarray:
        """Scores, or differences of scores, as whole numbers of `steps`, whose sums are exact; without steps as they
        are."""
        return np.asarray(scores) if self.steps is None else np.rint(self.steps * np.asarray(scores))


def precision_of_counts(intersection: Any, predicted: Any, truth: Any, where: Callable) -> Any:
    """The share of the ten thresholds that the IoU exceeds; 1 where both masks are empty. See `Metric`."""
    return precision_from_counts(intersection, predicted + truth - intersection, where)


def iou_of_counts(intersection: Any, predicted: Any, truth: Any, where: Callable) -> Any:
    """Intersection over union; 1 where both masks are empty. See `Metric`."""
    union = predicted + truth - intersection
    return where(union == 0, 1.0, intersection / where(union == 0, 1, union))


def dice_of_counts(intersection: Any, predicted: Any, truth: Any, where: Callable) -> Any:
    """2 |P and T| / (|P| + |T|), Dice 1945, which is the F1 score; 1 where both masks are empty. See `Metric`."""
    total = predicted + truth
    return where(total == 0, 1.0, 2 * intersection / where(total == 0, 1, total))


def f2_of_counts(intersection: Any, predicted: Any, truth: Any, where: Callable) -> Any:
    """The F2 score of a tile's pixels, in which recall weighs twice as much as precision (van Rijsbergen 1979).

    5 |P and T| / (|P| + 4 |T|); 1 where both masks are empty. See `Metric`.
    """
    total = predicted + 4 * truth
    return where(total == 0, 1.0, 5 * intersection / where(total == 0, 1, total))


AVERAGE_PRECISION = Metric("precision", "average precision", precision_of_counts, steps=len(THRESHOLDS_20))
IOU = Metric("iou", "mean IoU", iou_of_counts)
DICE = Metric("dice", "mean Dice", dice_of_counts)
F2 = Metric("f2", "mean F2", f2_of_counts)


def iou(proposal: np.ndarray, truth: np.ndarray) -> float | np.ndarray:
    """Intersection over union.

    Args:
        proposal: predicted masks, `[N, H, W]` or `[H, W]`, 0 and 1.
        truth: true masks of the same shape.

    Returns:
        float64 `[N]`, or a float for one mask. Empty against empty is 1.

    Raises:
        MetricError: shapes differ, or values other than 0 and 1.

    Example:
        >>> iou(np.array([[1, 1, 0]]), np.array([[0, 1, 1]]))
        0.3333333333333333
    """
    intersection, union = intersection_and_union(proposal, truth)
    values = np.where(union == 0, 1.0, intersection / np.maximum(union, 1))
    return float(values[0]) if np.ndim(truth) == 2 else values


IoU = iou  # the name that the original gives it


def average_precision(proposal: np.ndarray, truth: np.ndarray) -> float | np.ndarray:
    """The share of the ten thresholds t = 0.50, 0.55 ... 0.95 that each tile's IoU exceeds, strictly.

    All comparisons are between integers: an IoU of exactly 0.55 does not pass t = 0.55, whatever floating point makes
    of 11 / 20. An empty truth scores 1 for an empty proposal, else 0; an empty proposal of anything else 0.

    Args:
        proposal: predicted masks, `[N, H, W]` or `[H, W]`, 0 and 1.
        truth: true masks of the same shape.

    Returns:
        float64 `[N]`, or a float for one mask.

    Raises:
        MetricError: shapes differ, or values other than 0 and 1.
    """
    values = precision_from_counts(*intersection_and_union(proposal, truth))
    return float(values[0]) if np.ndim(truth) == 2 else values


def leaderboard_score(proposal: np.ndarray, truth: np.ndarray) -> float:
    """The competition's score: the mean of `average_precision` over tiles.

    Args:
        proposal: predicted masks, `[N, H, W]`, 0 and 1.
        truth: true masks of the same shape.

    Returns:
        A float between 0 and 1.

    Raises:
        MetricError: no tiles, shapes differ, or values other than 0 and 1.
    """
    if len(truth) == 0:
        raise MetricError("truth: no tiles, so no mean over tiles")
    return float(np.mean(average_precision(proposal, truth)))


def threshold_sweep(probabilities: np.ndarray, masks: np.ndarray, metric: Metric = AVERAGE_PRECISION) -> np.ndarray:
    """The score of every tile at each of the 255 levels, in one pass over the pixels.

    Args:
        probabilities: uint8 `[N, H, W]`, round(255 p); at level l, a mask is `probabilities >= l`. Of several classes
            `[N, H, W, C]`.
        masks: true masks of the same shape, 0 and 1.
        metric: of a mask.

    Returns:
        float64 `[N, 255]`; column j is level j + 1. Of several classes `[N, C, 255]`.

    Raises:
        MetricError: wrong shapes, types or values.

    Example:
        >>> scores = threshold_sweep(probabilities, masks).mean(axis=0)
        >>> best_level = 1 + scores.argmax()
    """
    return scores_from_pixels(pixels_from_level(probabilities, masks), metric)


def pixels_from_level(probabilities: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How many pixels of each tile reach each level, counted apart for background and what is marked.

    Each tile's pixels are counted once, by truth and probability (2 x 256 counters). Proposal, intersection and union
    at any level are sums over those counters. Of stacks that are read when asked for, a few tiles are asked for at a
    time.

    Args:
        probabilities: uint8 `[N, H, W]`, round(255 p); of several classes `[N, H, W, C]`.
        masks: true masks of the same shape, 0 and 1.

    Returns:
        int32 `[N, 2, 256]`: `[i, t, v]` pixels of tile i have truth t and a probability of at least v; v = 0 has all.
        Of several classes `[N, C, 2, 256]`.

    Raises:
        MetricError: wrong shapes, types or values.
    """
    if probabilities.dtype != np.uint8:
        raise MetricError(f"probabilities: must be uint8, round(255 p), not {probabilities.dtype}")
    if probabilities.shape != masks.shape:
        raise MetricError(f"probabilities: shape {probabilities.shape} differs from the masks' {masks.shape}")
    classes = masks.shape[3:]
    pixels = np.empty((len(masks), *classes, 2, 256), np.int32)
    for part in tile_parts(masks):
        truth = require_masks(class_masks(masks[part]), "masks", MetricError).astype(np.uint8, copy=False)
        counts = count_levels(truth, class_masks(probabilities[part])).reshape(-1, *classes, 2, 256)
        pixels[part] = counts[..., ::-1].cumsum(axis=-1)[..., ::-1]
    return pixels


def count_levels(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How often each probability occurs in each mask, apart for background and what is marked.

    Args:
        truth: uint8 `[n, H, W]`, 0 and 1.
        probabilities: uint8 `[n, H, W]`.

    Returns:
        int32 `[n, 2, 256]`.
    """
    import cv2  # counts bytes in a third of the time of np.bincount, which makes 8 bytes of each first

    counts = np.zeros((len(truth), 2, 256), np.int32)
    height, width = truth.shape[1:]
    rows = max(1, HISTOGRAM_PIXELS // max(1, width))
    for first in range(0, height if truth.size else 0, rows):
        strips = zip(truth[:, first : first + rows], probabilities[:, first : first + rows], strict=True)
        counts += np.array([cv2.calcHist(strip, (0, 1), None, (2, 256), (0, 2, 0, 256)) for strip in strips], np.int32)
    return counts


def tile_parts(masks: np.ndarray, pixels: int | None = None) -> Iterator[slice]:
    """The tiles of a stack, a few at a time, so that the memory for counting them does not grow with their size.

    Args:
        masks: any stack; where its tiles differ in size, one tile is a part.
        pixels: values of a tile that are in memory at once; None: those of one of the stack.
    """
    size = min(METRIC_CHUNK, masks_at_a_time(math.prod(masks.shape[1:]) if pixels is None else pixels))
    if getattr(masks, "sides", None) is not None:  # see `Stack`
        size = 1
    for first in range(0, len(masks), size):
        yield slice(first, min(first + size, len(masks)))


def class_masks(masks: np.ndarray) -> np.ndarray:
    """The masks `[N * C, H, W]` of `[N, H, W, C]`, those of a tile one after the other; `[N, H, W]` as they are."""
    masks = np.asarray(masks)
    if masks.ndim != 4:
        return masks
    return np.moveaxis(masks, 3, 1).reshape(-1, *masks.shape[1:3])


def scores_from_pixels(at_least: np.ndarray, metric: Metric) -> np.ndarray:
    """The `threshold_sweep` of tiles, from the result of `pixels_from_level`."""
    scores = np.empty((*at_least.shape[:-2], 255))
    for part in tile_parts(at_least):  # a few at a time, which stay in the processor's cache
        marked = at_least[part][..., 1, :]
        scores[part] = metric.score(marked[..., 1:], at_least[part][..., 0, 1:] + marked[..., 1:], marked[..., :1])
    return scores


def intersection_and_union(proposal: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in both masks and in either; int64 `[N]` each, N = 1 for a single mask."""
    intersection, proposed, true = mask_counts(proposal, truth)
    return intersection, proposed + true - intersection


def mask_counts(proposal: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels in both masks, in the proposed one and in the true one, for `Metric.score`.

    Args:
        proposal: predicted masks, `[N, H, W]` or `[H, W]`, 0 and 1.
        truth: true masks of the same shape.

    Returns:
        Three times int64 `[N]`, N = 1 for a single mask.

    Raises:
        MetricError: shapes differ, or values other than 0 and 1.
    """
    proposal, truth = np.asarray(proposal), np.asarray(truth)
    if proposal.shape != truth.shape:
        raise MetricError(f"proposal: shape {proposal.shape} differs from the truth's {truth.shape}")
    if truth.ndim == 2:
        proposal, truth = proposal[None], truth[None]
    proposal = require_masks(proposal, "proposal", MetricError)
    truth = require_masks(truth, "truth", MetricError)
    counts = np.zeros((len(truth), 4), np.int64)
    for part in tile_parts(truth):
        # 2 * truth - proposal + 1 is 0: proposal only, 1: neither, 2: both, 3: truth only (in an order that stays >= 0)
        counts[part] = count_codes(2 * truth[part].astype(np.uint8) + 1 - proposal[part].astype(np.uint8), 4)
    return counts[:, 2], counts[:, 0] + counts[:, 2], counts[:, 2] + counts[:, 3]


def count_codes(codes: np.ndarray, kinds: int) -> np.ndarray:
    """How often each code 0 ... kinds - 1 occurs in each tile: `[n, H, W]` -> int64 `[n, kinds]`."""
    tile = np.arange(len(codes))[:, None, None]
    return np.bincount((tile * kinds + codes).ravel(), minlength=len(codes) * kinds).reshape(len(codes), kinds)


def precision_from_counts(intersection: Any, union: Any, where: Callable = np.where) -> Any:
    """The share of the ten thresholds that intersection / union exceeds; 1 where both are 0.

    The largest k with 20 * intersection > k * union is (20 * intersection - 1) // union; from 10 on it passes k - 9.
    """
    passed = (20 * intersection - 1) // where(union == 0, 1, union) + 1 - THRESHOLDS_20[0]
    return where(union == 0, 1.0, where(passed < 0, 0, passed) / len(THRESHOLDS_20))


def coverage(masks: np.ndarray) -> np.ndarray:
    """The share of marked ones among a tile's pixels.

    Args:
        masks: `[N, H, W]`, 0 and 1.

    Returns:
        float64 `[N]`, 0 to 1.
    """
    masks = require_masks(masks, "masks", MetricError)
    return masks.mean(axis=(1, 2), dtype=np.float64)


def coverage_class(masks: np.ndarray) -> np.ndarray:
    """Tiles by coverage: 0 for empty ones, else 1 (up to 10 % marked) to 10 (more than 90 %).

    Args:
        masks: `[N, H, W]`, 0 and 1.

    Returns:
        int64 `[N]`: coverage in tenths, rounded up, in integers (3 tenths are class 3, not 4).
    """
    masks = require_masks(masks, "masks", MetricError)
    return coverage_tenths(masks.sum(axis=(1, 2), dtype=np.int64), masks.shape[1] * masks.shape[2])


def coverage_tenths(marked: np.ndarray, pixels: int | np.ndarray) -> np.ndarray:
    """The `coverage_class` of masks with so many marked ones among their pixels."""
    return -(-10 * marked // pixels)
