import dataclasses

import numpy as np
import pytest

from desk.pages.explore import BLACK_EXAMPLES, CLASS_EXAMPLES, correlation, depth_rows, duplicate_groups, spread
from desk.pages.explore import explore as explore_data
from salt.metrics import coverage_class
from scripts import explore


def test_the_counts_are_those_of_the_tiles(synthetic_train, synthetic_test):
    facts = explore_data(synthetic_train, synthetic_test)
    classes = coverage_class(synthetic_train.masks)
    counts = facts["counts"]
    assert (counts["train"], counts["test"]) == (40, 10)
    assert counts["empty"] == np.sum(classes == 0)
    assert counts["black"] == sum(not image.any() for image in synthetic_train.images) >= 1
    assert counts["vertical"] == sum(mask.any() and (mask == mask[0]).all() for mask in synthetic_train.masks)
    assert counts["mean_coverage"] == pytest.approx(synthetic_train.masks.mean())
    for number, group in enumerate(facts["groups"][:11]):
        assert group["count"] == np.sum(classes == number) and set(classes[group["tiles"]]) <= {number}
        assert len(group["tiles"]) == min(group["count"], CLASS_EXAMPLES)
    areas = synthetic_train.masks.sum(axis=(1, 2))
    for row in facts["tiny"]:
        assert row["tiles"] == np.sum((areas > 0) & (areas <= row["area"]))


def test_duplicates_are_found_in_and_across_train_and_test_and_black_tiles_are_none(synthetic_train, synthetic_test):
    images, masks, others = synthetic_train.images.copy(), synthetic_train.masks.copy(), synthetic_test.images.copy()
    images[:6] = 0
    images[11] = images[10]
    images[13] = images[12]
    others[3] = images[20]
    masks[11] = masks[10]
    masks[13, 0, 0] = 1 - masks[12, 0, 0]
    train = dataclasses.replace(synthetic_train, images=images, masks=masks)
    test = dataclasses.replace(synthetic_test, images=others)
    groups = duplicate_groups(train, test)
    assert [(group["train"], group["test"]) for group in groups] == [([10, 11], []), ([12, 13], []), ([20], [3])]
    facts = explore_data(train, test)
    counts = facts["counts"]
    assert (counts["duplicates"], counts["duplicates_across"], counts["duplicates_disagreeing"]) == (3, 1, 1)
    shown = {group["kind"]: group["tiles"] for group in facts["groups"]}
    assert shown["duplicate"] == [10, 11, 12, 13, 20]
    assert len(shown["black"]) == min(BLACK_EXAMPLES, counts["black"]) and not images[shown["black"]].any()


def test_examples_are_spread_from_the_least_to_the_most_salt():
    salt = np.random.default_rng(0).permutation(100)
    rows = spread(np.arange(100), salt, 5)
    assert salt[rows].tolist() == [0, 25, 50, 74, 99]
    assert spread(np.array([3, 1, 2]), np.array([0, 9, 8, 7]), 5) == [3, 2, 1]
    assert spread(np.array([], int), salt, 5) == []


def test_depths_are_grouped_and_correlated_where_they_are_known():
    depths = np.array([np.nan, *range(10)], float)
    share = np.array([0.9, *np.arange(10) / 10])
    rows = depth_rows(depths, share)
    assert [(row["low"], row["high"], row["tiles"]) for row in rows] == [(low, low + 1, 2) for low in (0, 2, 4, 6, 8)]
    assert rows[0]["empty"] == 0.5 and rows[4]["coverage"] == pytest.approx(0.85)
    assert correlation(depths, share) == pytest.approx(1) and correlation(depths, share == 0) < 0
    assert depth_rows(np.full(3, np.nan), np.zeros(3)) == [] and correlation(np.full(3, np.nan), np.zeros(3)) is None
    assert correlation(depths, np.zeros(11)) is None  # no variance, no correlation


def test_the_command_writes_the_page_and_names_what_is_wrong_with_the_data(tmp_path, synthetic_folder, capsys):
    out = tmp_path / "deep" / "explore.html"
    assert explore.main([str(synthetic_folder), "--out", str(out)]) == 0
    assert "40 training tiles, 10 test tiles" in out.read_text(encoding="utf-8") and str(out) in capsys.readouterr().out
    assert explore.main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "b.html")]) == 1
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "b.html").exists()
