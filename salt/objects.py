"""The F2 score over objects by which Kaggle scored the Airbus Ship Detection Challenge.

Levels and areas are chosen by a `Metric`, which knows pixels alone: at each of 255 levels the objects are others.
This is the score of the masks to which the choice leads.
"""

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from salt.artifacts import Oof
from salt.levels import OofCounts, level_table, nested_choice, nested_parts
from salt.metrics import THRESHOLDS_20, Metric
from salt.postprocess import postprocess
from salt.scoring import bootstrap_means
from salt.submission import split_objects


def object_f2(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The score of an image: the mean over the IoU thresholds t = 0.50, 0.55 ... 0.95 of F2 over its objects.

    By the competition's page a predicted object is a hit at t if its IoU with a true one is greater than t, and
    F2(t) = 5 TP / (5 TP + 4 FN + FP). With thresholds from one half on, objects that do not overlap have one partner at
    most. The page does not name the score where nothing is there and nothing predicted; it is 1 here, by which all
    else is scored, too.

    Args:
        predicted: masks of the predicted objects, `[n, H, W]`, 0 and 1, which do not overlap.
        truth: masks of the true objects, `[m, H, W]`, alike.

    Returns:
        A float from 0 to 1.

    Example:
        >>> object_f2(split_objects(mask), truth)
    """
    if not len(predicted) and not len(truth):
        return 1.0
    flat = [
        objects.reshape(len(objects), int(np.prod(objects.shape[1:]))).astype(np.float32)
        for objects in (predicted, truth)
    ]
    shared = np.rint(flat[0] @ flat[1].T).astype(np.int64)  # whole numbers, exact in float32 up to 2 ** 24
    areas = [np.count_nonzero(each, axis=1) for each in flat]
    union = areas[0][:, None] + areas[1] - shared
    total = 0.0
    for twentieths in THRESHOLDS_20:
        hits = int(np.sum(20 * shared > twentieths * union))
        total += 5 * hits / (5 * hits + 4 * (len(truth) - hits) + len(predicted) - hits)
    return total / len(THRESHOLDS_20)


def score_objects(
    oof: Oof,
    counts: OofCounts,
    metric: Metric,
    objects_of: Callable[[int], np.ndarray],
    draws: int = 2000,
    seed: int = 0,
) -> dict:
    """The score over objects of out-of-fold predictions, each with the level and area that the other folds choose.

    Predicted objects are what hangs together, also by corners, as in a submission.

    Args:
        oof: out-of-fold predictions of one class.
        counts: of its pixels.
        metric: by which levels and areas are chosen.
        objects_of: function of a tile's place that gives the masks of its true objects, `[m, H, W]`.
        draws, seed: as for `score_oof`.

    Returns:
        A dict that JSON can hold: `score`, `standard_error`, `interval` (95 %).
    """
    table, parts = level_table(counts, metric), nested_parts(counts, seed)
    _, found, choices = nested_choice(table, parts, metric)
    chosen = {choice["part"]: (choice["level"], choice["minimum_area"]) for choice in choices}
    scores = np.ones(len(found))  # of tiles in which there is nothing, and nothing predicted
    for tile in tqdm(np.flatnonzero(found | (table.truth > 0)), desc="objects", unit="tile", mininterval=1):
        mask = postprocess(oof.probabilities[tile][None], *chosen[int(parts[tile])])[0]
        scores[tile] = object_f2(split_objects(mask), objects_of(tile))
    samples = bootstrap_means(scores[:, None], draws, seed)[:, 0]
    return {
        "score": float(scores.mean()),
        "standard_error": float(samples.std(ddof=1)),
        "interval": np.percentile(samples, [2.5, 97.5]).tolist(),
    }
