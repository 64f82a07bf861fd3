"""salt.borders: padding that shows a tile's neighbours."""

import numpy as np
import pytest

from salt.borders import pad_with_neighbours
from salt.mosaics import MosaicError, Mosaics, no_mosaics
from salt.slices import synthetic_slice
from salt.tiles import TileError, crop_images, pad_images

SIDE, SIZE = 48, 64
MARGIN = (SIZE - SIDE) // 2


def cut_slice(seed, missing=()):
    """Nine tiles of a slice, each with its own contrast; their places; and the slice in the middle one's levels."""
    rng = np.random.default_rng(seed)
    scene = synthetic_slice(rng, 3 * SIDE, 3 * SIDE)[0]
    scene = 40 * (scene - scene.mean()) / scene.std()
    tiles, gains = [], rng.uniform(0.5, 0.9, 9)
    for row in range(3):
        for column in range(3):
            tile = scene[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            tiles.append(gains[3 * row + column] * tile + rng.uniform(110, 140))
            if row == column == 1:
                shown = gains[4] * scene + (tiles[-1] - gains[4] * tile).mean()
    row, column = np.divmod(np.arange(9), 3)
    mosaic = np.where(np.isin(np.arange(9), missing), -1, 0)
    places = (np.where(mosaic < 0, -1, values) for values in (row, column))
    images = np.clip(np.rint(np.stack(tiles)), 0, 255).astype(np.uint8)
    window = slice(SIDE - MARGIN, 2 * SIDE + MARGIN)
    return images, Mosaics(mosaic, *places, np.ones(9)), np.clip(shown[window, window], 0, 255)


@pytest.mark.parametrize("seed", range(3))
def test_the_border_is_what_the_slice_shows_there_in_the_contrast_of_the_tile(seed):
    images, mosaics, true = cut_slice(seed)
    filled, reflected = pad_with_neighbours(images, mosaics, SIZE)[4], pad_images(images, SIZE, "reflect")[4]
    border = np.ones((SIZE, SIZE), bool)
    border[MARGIN:-MARGIN, MARGIN:-MARGIN] = False
    errors = [np.abs(each - true)[border].mean() for each in (filled, reflected)]
    assert errors[0] < 0.4 * errors[1]
    corner = np.abs(filled - true)[:MARGIN, :MARGIN].mean(), np.abs(reflected - true)[:MARGIN, :MARGIN].mean()
    assert corner[0] < corner[1]


def test_without_a_neighbour_the_tile_is_continued_and_its_own_pixels_stay():
    images, mosaics, _ = cut_slice(0, missing=(0, 1, 2))  # nothing above the middle one
    filled, reflected = pad_with_neighbours(images, mosaics, SIZE), pad_images(images, SIZE, "reflect")
    np.testing.assert_array_equal(crop_images(filled, SIDE), images)
    np.testing.assert_array_equal(filled[4, :MARGIN], reflected[4, :MARGIN])
    for band in ((slice(None), slice(0, MARGIN)), (slice(None), slice(-MARGIN, None)), (slice(-MARGIN, None),)):
        assert (filled[4][band] != reflected[4][band]).mean() > 0.5
    np.testing.assert_array_equal(filled[:3], reflected[:3])  # tiles that are in no mosaic
    np.testing.assert_array_equal(
        pad_with_neighbours(images, no_mosaics(9), SIZE, "edge"), pad_images(images, SIZE, "edge")
    )


def test_an_odd_margin_and_rectangles_have_each_neighbour_at_its_place():
    images = np.zeros((3, 4, 6), np.uint8)
    images[0], images[1], images[2] = 50, 50, 50
    images[1, :, 0], images[2, 0] = 200, 100  # right of the first, and below it: the lines at the seam
    mosaics = Mosaics(np.zeros(3, int), np.array([0, 0, 1]), np.array([0, 1, 0]), np.ones(3))
    filled = pad_with_neighbours(images, mosaics, (7, 9))[0]
    top, left = 1, 1  # the smaller half of the margin
    # Constant lines have no deviation, and are shifted to the level of the tile: their seam lines show 50.
    assert (filled[top : top + 4, left + 6] == 50).all() and (filled[top + 4, left : left + 6] == 50).all()
    assert (filled[top : top + 4, left + 7 :] == 0).all()  # 50 - 150, clipped
    assert (filled[top + 5, left : left + 6] == 0).all()  # 50 - 50


def test_images_that_do_not_fit_the_mosaics_are_refused():
    images, mosaics, _ = cut_slice(0)
    with pytest.raises(MosaicError, match="of 9 tiles, but there are 8 images"):
        pad_with_neighbours(images[:8], mosaics, SIZE)
    with pytest.raises(MosaicError, match="must be uint8"):
        pad_with_neighbours(images / 255, mosaics, SIZE)
    with pytest.raises(TileError):
        pad_with_neighbours(images, mosaics, SIDE - 1)
