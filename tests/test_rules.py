"""salt.rules: what neighbours' known masks would change."""

import numpy as np

from salt.rules import continue_borders, empty_below_full, known_neighbours, measure_rules, repeat_vertical


def column_of_two(upper, lower, fold=(0, 1)):
    """Two tiles, the second below the first."""
    neighbours = np.full((2, 4), -1)
    neighbours[0, 3], neighbours[1, 2] = 1, 0
    return np.stack([upper, lower]).astype(np.uint8), np.array(fold), neighbours


def test_only_masks_of_training_tiles_of_other_folds_are_known():
    _, _, neighbours = column_of_two(np.zeros((4, 4)), np.zeros((4, 4)))
    assert known_neighbours(np.array([0, 1]), neighbours).tolist() == neighbours.tolist()
    assert (known_neighbours(np.array([1, 1]), neighbours) == -1).all()  # held out together
    assert known_neighbours(np.array([-1, 1]), neighbours).tolist() == [
        [-1, -1, -1, 1],
        [-1] * 4,
    ]  # the first: a test tile


def test_a_vertical_mask_is_repeated_downwards_and_nothing_else_is():
    vertical = np.zeros((4, 4))
    vertical[:, :2] = 1
    masks, fold, neighbours = column_of_two(vertical, vertical)
    predicted = np.zeros_like(masks)
    found = repeat_vertical(predicted, masks, known_neighbours(fold, neighbours))
    np.testing.assert_array_equal(found, [np.zeros((4, 4)), vertical])
    masks[0, 0] = 0
    assert not repeat_vertical(predicted, masks, known_neighbours(fold, neighbours)).any()


def test_a_tile_below_a_bottom_row_of_salt_is_emptied_unless_the_mask_is_vertical():
    cap = np.zeros((4, 4))
    cap[2:] = 1
    masks, fold, neighbours = column_of_two(cap, np.zeros((4, 4)))
    predicted = np.ones_like(masks)
    known = known_neighbours(fold, neighbours)
    np.testing.assert_array_equal(empty_below_full(predicted, masks, known)[:, 0, 0], [1, 0])
    masks[0] = 1
    assert empty_below_full(predicted, masks, known).all()


def test_borders_are_continued_on_each_side():
    masks = np.arange(5)[:, None, None] * np.ones((5, 3, 3), int)  # no masks, but told apart
    neighbours = np.full((5, 4), -1)
    neighbours[0] = [1, 2, 3, 4]
    found = continue_borders(np.zeros_like(masks), masks, neighbours)
    assert found[0].tolist() == [[3, 3, 3], [1, 0, 2], [4, 4, 4]] and not found[1:].any()


def test_the_effect_of_each_rule_is_measured_on_the_tiles_that_have_a_prediction():
    cap = np.zeros((8, 8))
    cap[4:] = 1
    masks, fold, neighbours = column_of_two(cap, np.zeros((8, 8)))
    predicted = np.ones_like(masks)
    effects = measure_rules(predicted, masks, fold, neighbours, np.array([True, True]))
    emptied = next(effect for effect in effects if "empty" in effect["rule"])
    assert (emptied["tiles"], emptied["better"], emptied["worse"], emptied["gain"]) == (1, 1, 0, 0.5)
    assert emptied["after"] == emptied["before"] + 0.5 and emptied["interval"] == [0, 1]  # of two tiles one changes
    assert [effects[0][name] for name in ("gain", "standard_error", "interval")] == [0, 0, [0, 0]]
    unscored = measure_rules(predicted, masks, fold, neighbours, np.array([True, False]))
    assert all(effect["gain"] <= 0 for effect in unscored) and unscored[1]["tiles"] == 0
