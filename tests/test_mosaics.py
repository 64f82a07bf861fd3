"""salt.mosaics and salt.seams: slices rebuilt from their tiles, and nothing rebuilt from tiles that belong to none."""

import cv2
import numpy as np
import pytest

from salt.mosaics import MosaicError, Mosaics, find_mosaics, neighbours_of, read_mosaics, write_mosaics
from salt.seams import Matches, compete, false_shares, fisher_z
from salt.slices import synthetic_slices


@pytest.fixture(scope="module")
def tiles():
    """Tiles with noise, each with a contrast of its own, 30 % of them missing."""
    return synthetic_slices(10, 6, 6, seed=2, missing=0.3, noise=2.0, contrast=0.2)


@pytest.fixture(scope="module")
def found(tiles):
    return find_mosaics(tiles.images)


def seams(mosaics):
    """All pairs of neighbours: (tile, tile, whether the second lies below)."""
    neighbours = neighbours_of(Mosaics(*mosaics[-3:], np.zeros(len(mosaics[-1]))))
    return {
        (tile, row[side], side) for tile, row in enumerate(neighbours.tolist()) for side in (1, 3) if row[side] >= 0
    }


def test_slices_are_rebuilt(tiles, found):
    true, claimed = seams(tiles), seams(found[:3])
    assert len(true) > 200
    assert len(true & claimed) >= 0.99 * len(claimed)
    assert len(true & claimed) >= 0.95 * len(true)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_slices_of_any_seed_are_rebuilt(seed):
    tiles = synthetic_slices(40, 6, 6, seed=seed, missing=0.3, noise=2.0, contrast=0.2)
    true, claimed = seams(tiles), seams(find_mosaics(tiles.images)[:3])
    assert len(tiles.images) == 1008 and len(true) > 1100
    assert len(true & claimed) >= 0.99 * len(claimed)
    assert len(true & claimed) >= 0.95 * len(true)


def test_tiles_that_share_their_border_pixels_are_found_too():
    tiles = synthetic_slices(5, 5, 5, seed=3, missing=0.2, overlap=1, size=48)
    true, claimed = seams(tiles), seams(find_mosaics(tiles.images)[:3])
    assert len(true & claimed) >= 0.99 * len(claimed) and len(true & claimed) >= 0.95 * len(true)


def test_no_two_tiles_lie_at_one_place_and_each_is_as_sure_as_asked(found):
    places = list(zip(*(values[found.mosaic >= 0] for values in found[:3]), strict=True))
    assert len(set(places)) == len(places)
    assert (found.confidence[found.mosaic >= 0] > 0.9).all() and (found.confidence[found.mosaic < 0] == 0).all()
    sizes = np.bincount(found.mosaic[found.mosaic >= 0])
    assert (np.diff(sizes) <= 0).all() and sizes.min() > 1
    assert found.row[found.mosaic >= 0].min() == 0 == found.column[found.mosaic >= 0].min()


def unrelated_tiles(kind, draw):
    """60 tiles that have nothing to do with each other."""
    if kind == "slices":
        return synthetic_slices(60, 1, 1, seed=100 + draw, size=64).images
    noise = np.random.default_rng(draw).normal(size=(60, 64, 64)).astype(np.float32)
    if smooth := (0, 1, 2, 3, 5, 8, 12)[draw % 7]:
        noise = np.stack([cv2.GaussianBlur(each, (0, 0), smooth) for each in noise])
    return np.clip(128 + 50 * noise / noise.std(axis=(1, 2), keepdims=True), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind, draw", [("noise", 0), ("noise", 6), ("slices", 2), ("slices", 20)])
def test_tiles_that_do_not_belong_together_stay_alone(kind, draw):
    assert (find_mosaics(unrelated_tiles(kind, draw)).mosaic < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slices", "noise"])
def test_no_draw_of_unrelated_tiles_has_a_match(kind):
    draws = range(50)
    assert [draw for draw in draws if (find_mosaics(unrelated_tiles(kind, draw)).mosaic >= 0).any()] == []


def test_black_and_constant_tiles_stay_alone_and_a_copy_lies_where_its_original_does(tiles, found):
    placed, lonely = (int(np.flatnonzero(inside)[0]) for inside in (found.mosaic >= 0, found.mosaic < 0))
    constant = np.zeros((3, 101, 101), np.uint8)
    constant[2] = 90
    other = find_mosaics(np.concatenate([tiles.images, tiles.images[[placed, lonely]], constant]))
    count = len(tiles.images)
    for values, before in zip(other, found, strict=True):
        np.testing.assert_array_equal(np.delete(values[:count], lonely), np.delete(before, lonely))
        assert values[count] == before[placed]
    assert other.mosaic[count + 1] == other.mosaic[lonely] == found.mosaic.max() + 1  # of one place, for both
    assert (other.mosaic[-3:] == -1).all()


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((9, 64, 64), np.uint8), "0 of 9 tiles are neither black nor constant"),
        (np.zeros((3, 64, 64), np.uint8), "3 tiles: at least 4"),
        (np.zeros((9, 64, 8), np.uint8), "64 x 8 pixels; must be at least 16"),
        (np.zeros((9, 64, 64)), "must be uint8"),
        ([np.zeros((64, 64), np.uint8)] * 4 + [np.zeros((32, 64), np.uint8)], r"images\[4\] has shape \(32, 64\)"),
        (np.tile(np.arange(64, dtype=np.uint8), (9, 64, 1)), "only 1 of 9 tiles differ"),
    ],
)
def test_tiles_that_make_no_mosaic_are_refused(images, message):
    with pytest.raises(MosaicError, match=message):
        find_mosaics(images)


def test_a_false_match_rate_is_a_share():
    with pytest.raises(MosaicError, match="false_rate=1.5"):
        find_mosaics(np.zeros((9, 64, 64), np.uint8), false_rate=1.5)


def test_the_share_of_false_matches_is_that_of_decoys():
    scores = np.array([9.0, 8, 7, 3, 2, 1])
    shares = false_shares(scores, np.array([2.5, 2.5, 0.5, *([-9.0] * 97)]))
    assert shares[:3].max() < 0.01 and (np.diff(shares) >= 0).all()
    assert shares[4] == pytest.approx(2 / 6) and false_shares(scores, np.array([])).tolist() == [1.0] * 6


def test_a_few_matches_are_no_evidence_however_far_beyond_the_decoys():
    decoys = np.linspace(-3, 0, 30)
    assert false_shares(np.full(3, 99.0), decoys).tolist() == [1.0] * 3
    assert false_shares(np.full(4, 99.0), decoys).max() < 0.01


def test_a_decoy_wins_only_if_neither_of_its_edges_has_a_better_match():
    candidates = Matches(np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([9.0, 1.0, 3.0]))
    none = Matches(np.array([], int), np.array([], int), np.array([]))
    both = np.array([[1, 2], [2, 1], [0, 3], [3, 0]]).T
    right = Matches(*both, np.array([2.0, 2.0, 8.0, 8.0]))
    matches, decoys = compete(candidates, none, right, count=4)
    assert matches.before.tolist() == [0, 2]  # 1 has a better decoy
    assert decoys.tolist() == []  # right edges 0 and 2 have better matches
    assert compete(candidates, right, none, count=4)[1].tolist() == [8.0]  # left edges 0 and 3 have worse ones or none


def test_a_mutual_match_is_the_best_of_both_edges():
    matches = Matches(np.array([0, 0, 1, 2]), np.array([5, 6, 5, 7]), np.array([3.0, 1.0, 2.0, -1.0]))
    assert [values.tolist() for values in matches.mutual()] == [[0, 2], [5, 7], [3.0, -1.0]]
    assert fisher_z(np.array([1.0, -1.0])).tolist() == pytest.approx([3.8, -3.8])


def test_a_table_is_read_as_it_was_written(tmp_path):
    ids = np.array(["a", "b", "c"])
    mosaics = Mosaics(np.array([0, -1, 0]), np.array([0, -1, 1]), np.array([2, -1, 2]), np.array([0.995, 0, 0.99]))
    path = tmp_path / "mosaics.csv"
    write_mosaics(path, ids, mosaics)
    assert path.read_text().splitlines() == [
        "id,mosaic,row,column,confidence",
        "a,0,0,2,0.9950",
        "b,,,,",
        "c,0,1,2,0.9900",
    ]
    for found, expected in zip(read_mosaics(path, ids[::-1]), mosaics, strict=True):
        np.testing.assert_array_equal(found, expected[::-1])
    assert neighbours_of(mosaics).tolist() == [[-1, -1, -1, 2], [-1] * 4, [-1, -1, 0, -1]]
    path.write_text("id,mosaic,row,column,confidence\na,0,x,2,1\n")
    with pytest.raises(MosaicError, match="row='x' of a is no number"):
        read_mosaics(path, ids)
    path.write_text("id,row\n")
    with pytest.raises(MosaicError, match="columns"):
        read_mosaics(path, ids)
    with pytest.raises(MosaicError, match="no such file"):
        read_mosaics(tmp_path / "none.csv", ids)
