"""salt.synthetic: tiles that depend on seed and number alone, with the spread of the real ones."""

import os

import numpy as np
import pytest

from salt.competition import DataError, find_competition
from salt.data import read_test, read_train
from salt.synthetic import (
    COVERAGE_CLASSES,
    ricker_wavelet,
    sample_wavelet,
    signed_distance,
    synthetic_id,
    synthetic_tile,
    synthetic_tiles,
    write_synthetic,
)
from salt.tgs import COMPETITION as TGS
from salt.tgs import is_black, is_vertical


@pytest.fixture(scope="module")
def thousand():
    """Enough tiles for shares to be exact to some percent."""
    return synthetic_tiles(1000, seed=0, progress=False)


def test_a_tile_depends_on_seed_and_number_alone():
    many = synthetic_tiles(6, seed=3, progress=False)
    for first in (4, 2):  # neither on what was made before
        few = synthetic_tiles(2, seed=3, first=first, progress=False)
        for name in ("ids", "images", "masks", "depths"):
            np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[first : first + 2])
    np.random.seed(1)
    image, mask, depth = synthetic_tile(3, 5)
    np.testing.assert_array_equal(image, many.images[5])
    np.testing.assert_array_equal(mask, many.masks[5])
    assert depth == many.depths[5]


def test_other_seeds_and_numbers_give_other_tiles():
    pictures = {synthetic_tile(seed, index)[0].tobytes() for seed in range(3) for index in range(8)}
    assert len(pictures) == 24
    assert len({synthetic_id(seed, index) for seed in range(3) for index in range(1000)}) == 3000


def test_a_tile_has_the_types_of_a_competition():
    image, mask, depth = synthetic_tile(0, 0)
    assert image.shape == mask.shape == (101, 101) and image.dtype == mask.dtype == np.uint8
    assert isinstance(depth, float)
    tiles = synthetic_tiles(40, seed=0, progress=False)
    assert set(np.unique(tiles.masks)) == {0, 1}
    assert (tiles.depths == np.round(tiles.depths)).all()
    assert tiles.depths.min() >= 50 and tiles.depths.max() <= 959
    assert tiles.ids.shape == (40,) and set(map(len, tiles.ids)) == {10}


@pytest.mark.slow
def test_the_coverage_classes_are_spread_as_in_the_real_competition(thousand):
    pixels = thousand.masks.sum(axis=(1, 2), dtype=int)
    classes = np.bincount(-(-10 * pixels // 101**2), minlength=11) / 1000
    real = np.array(COVERAGE_CLASSES) / sum(COVERAGE_CLASSES)
    assert classes[0] == pytest.approx(0.39, abs=0.04)
    np.testing.assert_allclose(classes, real, atol=0.03)
    assert pixels.mean() / 101**2 == pytest.approx(0.248, abs=0.025)
    assert pixels.max() < 101**2, "no tile is all salt"


@pytest.mark.slow
def test_small_masks_are_as_frequent_as_in_the_real_competition(thousand):
    pixels = thousand.masks.sum(axis=(1, 2), dtype=int)
    pixels = pixels[pixels > 0]
    for limit, real in ((10, 45 / 2438), (50, 113 / 2438), (100, 168 / 2438)):
        assert np.mean(pixels <= limit) == pytest.approx(real, abs=0.02)


@pytest.mark.slow
def test_a_few_tiles_are_black_and_a_few_masks_vertical(thousand):
    black, vertical = is_black(thousand.images), is_vertical(thousand.masks)
    assert 0.008 < black.mean() < 0.035
    assert 0.015 < vertical.mean() < 0.045
    assert not thousand.masks[black].any()


@pytest.mark.slow
def test_grey_levels_are_near_those_of_the_real_tiles(thousand):
    images = thousand.images[~is_black(thousand.images)].astype(float)
    means, deviations = images.mean(axis=(1, 2)), images.std(axis=(1, 2))
    assert means.mean() == pytest.approx(122, abs=6) and 15 < means.std() < 32
    assert deviations.mean() == pytest.approx(28.5, abs=4) and 5 < deviations.std() < 12
    assert images.min(axis=(1, 2)).max() == 0 and images.max(axis=(1, 2)).min() == 255


@pytest.mark.slow
def test_salt_is_quieter_than_the_sediments_in_most_tiles(thousand):
    coverage = thousand.masks.mean(axis=(1, 2))
    some = np.flatnonzero((coverage > 0.1) & (coverage < 0.9))
    pairs = [(thousand.images[i], thousand.masks[i] == 1) for i in some]
    ratios = [image[salt].std() / image[~salt].std() for image, salt in pairs]
    assert 0.5 < np.median(ratios) < 0.9


@pytest.mark.slow
def test_shallow_tiles_are_more_often_empty(thousand):
    empty = ~thousand.masks.any(axis=(1, 2))
    assert -0.25 < np.corrcoef(thousand.depths, empty)[0, 1] < -0.03


def test_the_wavelet_is_a_ricker_wavelet_and_its_phase_turns_it():
    wavelet = ricker_wavelet(period=16, phase=0)
    assert sample_wavelet(wavelet, 0.0) == pytest.approx(1, abs=0.01)
    argument = (np.pi * 5 / 16) ** 2
    expected = (1 - 2 * argument) * np.exp(-argument)
    np.testing.assert_allclose(sample_wavelet(wavelet, np.array([-5.0, 5.0])), expected, atol=0.01)
    np.testing.assert_allclose(ricker_wavelet(16, 180), -wavelet, atol=1e-9)
    turned = ricker_wavelet(16, 90)
    np.testing.assert_allclose(turned, -turned[::-1], atol=0.02)  # odd
    assert sample_wavelet(wavelet, 1000.0) == 0


def test_the_distance_is_positive_outside_and_negative_inside():
    salt = np.zeros((160, 160), bool)
    salt[100:] = True
    distance = signed_distance(salt)
    assert distance[[89, 99, 100, 110], 80].tolist() == [10.5, 0.5, -0.5, -10.5]


@pytest.mark.slow
def test_the_picture_changes_more_across_the_outline_of_the_salt_than_elsewhere(thousand):
    ratios = []
    for image, mask in zip(thousand.images.astype(float), thousand.masks.astype(int), strict=True):
        edge = np.diff(mask, axis=0) != 0
        if edge.sum() > 30:
            change = np.abs(np.diff(image, axis=0))
            ratios.append(change[edge].mean() / change[~edge].mean())
    assert np.median(ratios) > 1.3


def test_a_written_competition_reads_back_and_its_test_masks_can_be_made_again(tmp_path):
    folder = write_synthetic(tmp_path / "made", train=12, test=5, seed=4, progress=False)
    assert sorted(os.listdir(folder)) == ["depths.csv", "sample_submission.csv", "test.zip", "train.csv", "train.zip"]
    competition = find_competition(folder, TGS)
    train, test = read_train(competition, progress=False), read_test(competition, progress=False)
    expected = synthetic_tiles(12, seed=4, progress=False)
    for name in ("ids", "images", "masks", "depths"):
        np.testing.assert_array_equal(getattr(train, name), getattr(expected, name))
    expected = synthetic_tiles(5, seed=4, first=12, progress=False)
    for name in ("ids", "images", "depths"):
        np.testing.assert_array_equal(getattr(test, name), getattr(expected, name))
    assert expected.masks.shape == (5, 101, 101)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    one = write_synthetic(tmp_path / "one", train=6, test=3, seed=0, progress=False)
    two = write_synthetic(tmp_path / "two", train=6, test=3, seed=0, progress=False)
    other = write_synthetic(tmp_path / "other", train=6, test=3, seed=1, progress=False)
    for name in os.listdir(one):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert (one / "train.zip").read_bytes() != (other / "train.zip").read_bytes()


def test_a_folder_in_use_is_refused_before_any_tile_is_made(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        write_synthetic(tmp_path, train=2, test=1)
    assert capsys.readouterr().err == ""
