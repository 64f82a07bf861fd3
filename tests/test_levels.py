import numpy as np

from salt.artifacts import Oof
from salt.levels import LARGEST_AREA, choose_minimum_area, level_table
from salt.metrics import AVERAGE_PRECISION, leaderboard_score
from salt.postprocess import postprocess


def predictions(probabilities, masks):
    ids = np.array([f"t{index}" for index in range(len(masks))])
    return Oof(ids, (np.arange(len(masks)) % 3).astype(np.int8), probabilities, masks)


def best_area(probabilities, masks):
    return choose_minimum_area(
        level_table(predictions(probabilities, masks), AVERAGE_PRECISION), 128, AVERAGE_PRECISION
    )


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
