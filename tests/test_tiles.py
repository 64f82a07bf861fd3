"""The geometry of a tile in its padded square, and the flags of tiles."""

import numpy as np
import pytest

from salt.tgs import COMPETITION as TGS
from salt.tiles import TileError, Tiles, crop_images, pad_images, pad_offset


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize("size", [101, 102, 112, 128, 256, 320])
def test_cropping_undoes_padding(size, mode):
    images = np.random.default_rng(0).integers(0, 256, (3, 101, 101), np.uint8)
    padded = pad_images(images, size, mode)
    assert padded.shape == (3, size, size) and padded.dtype == np.uint8
    np.testing.assert_array_equal(crop_images(padded, 101), images)


@pytest.mark.parametrize("size", [0, -3, 96.0, None, "96", (96,), (96, 96, 3), (96, 0), (96, None)])
def test_what_is_no_size_is_refused(size):
    images = np.zeros((2, 90, 70), np.uint8)
    with pytest.raises(TileError, match="size=.*: must be one whole number from 1, or height and width"):
        pad_images(images, size)
    with pytest.raises(TileError, match="size=.*: must be one whole number from 1, or height and width"):
        crop_images(images, size)


def test_images_without_a_pixel_are_refused():
    with pytest.raises(TileError, match=r"shape \(2, 0, 5\) has no pixel"):
        pad_images(np.zeros((2, 0, 5)), 8)


@pytest.mark.parametrize(("size", "offset"), [(101, 0), (102, 0), (103, 1), (112, 5), (128, 13)])
def test_a_tile_begins_at_half_of_the_margin_rounded_down(size, offset):
    assert pad_offset(size, 101) == offset
    images = np.zeros((1, 101, 101), np.uint8)
    images[0, 0, 0] = images[0, 50, 100] = 7
    padded = pad_images(images, size, "edge")
    assert padded[0, offset, offset] == 7 and padded[0, offset + 50, offset + 100] == 7


@pytest.mark.parametrize("shape", [(90, 70), (70, 90), (90, 70, 3)])
@pytest.mark.parametrize("size", [96, (96, 80), (101, 97)])
def test_rectangles_and_colour_are_padded_to_any_size_and_cropped_back(shape, size):
    if shape == (70, 90) and size == (96, 80):
        size = (80, 96)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    padded = pad_images(images, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert padded.shape == (2, height, width, *shape[2:])
    np.testing.assert_array_equal(crop_images(padded, shape[:2]), images)
    top, left = (height - shape[0]) // 2, (width - shape[1]) // 2
    np.testing.assert_array_equal(padded[:, top, left], images[:, 0, 0])


def test_what_is_no_stack_of_images_is_refused():
    for function in (pad_images, crop_images):
        with pytest.raises(TileError, match=r"images: shape \(96, 96\)"):
            function(np.zeros((96, 96), np.uint8), 96)


def test_reflect_does_not_repeat_the_edge_and_edge_does():
    images = np.arange(101 * 101, dtype=np.int32).reshape(1, 101, 101)
    reflected, edge = pad_images(images, 105), pad_images(images, 105, "edge")
    np.testing.assert_array_equal(reflected[0, :, 52], images[0, [2, 1, *range(101), 99, 98], 50])
    np.testing.assert_array_equal(edge[0, 52, :], images[0, 50, [0, 0, *range(101), 100, 100]])


def test_a_square_below_the_tile_and_an_unknown_mode_are_errors():
    images = np.zeros((1, 101, 101), np.uint8)
    with pytest.raises(TileError, match="size=100"):
        pad_images(images, 100)
    with pytest.raises(TileError, match="mode='wrap'"):
        pad_images(images, 128, "wrap")
    with pytest.raises(TileError, match="size=96"):
        crop_images(np.zeros((1, 96, 96), np.uint8), 101)


def test_masks_are_given_where_there_are_some_and_test_tiles_are_refused():
    images, ids = np.zeros((2, 101, 101), np.uint8), np.array(["a", "b"])
    masks = np.ones_like(images)
    assert Tiles(ids, images, masks, np.zeros(2), TGS).known_masks() is masks
    with pytest.raises(TileError, match="these 2 tiles have none"):
        Tiles(ids, images, None, np.zeros(2), TGS).known_masks()
