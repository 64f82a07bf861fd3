import numpy as np

from salt.tgs import COMPETITION, is_black, is_vertical


def test_black_means_every_pixel_is_zero():
    images = np.zeros((3, 101, 101), np.uint8)
    images[1, 100, 100] = 1
    images[2] = 255
    assert is_black(images).tolist() == [True, False, False]


def test_vertical_means_salt_with_all_rows_equal():
    masks = np.zeros((5, 101, 101), np.uint8)
    masks[1, :, 40:] = 1
    masks[2, :, 40:] = 1
    masks[2, 100, 40] = 0
    masks[3, 40:, :] = 1
    masks[4, :, [3, 50]] = 1
    assert is_vertical(masks).tolist() == [False, True, False, False, True]


def test_black_tiles_are_blank_and_both_kinds_of_flaw_are_remarked_on():
    images, masks = np.ones((4, 101, 101), np.uint8), np.zeros((4, 101, 101), np.uint8)
    images[2], masks[0, :, :7] = 0, 1
    assert COMPETITION.blank_images(images).tolist() == [False, False, True, False]
    assert COMPETITION.remarks(images, masks) == "1 black, 1 with a vertical mask"
