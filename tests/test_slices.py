"""salt.slices: tiles of large synthetic slices, with their places."""

import numpy as np

from salt.slices import synthetic_slices


def test_neighbours_continue_each_other_and_others_do_not():
    tiles = synthetic_slices(2, 3, 3, seed=0, noise=0, contrast=0)
    places = {place: index for index, place in enumerate(zip(tiles.mosaic, tiles.row, tiles.column, strict=True))}
    assert len(places) == 18
    similar, other = [], []
    for (mosaic, row, column), index in places.items():
        right = places.get((mosaic, row, column + 1))
        if right is not None:
            similar.append(np.corrcoef(tiles.images[index, :, -1], tiles.images[right, :, 0])[0, 1])
            other.append(np.corrcoef(tiles.images[index, :, -1], tiles.images[index, :, 0])[0, 1])
    assert np.median(similar) > 0.9 > 0.7 > np.median(other)


def test_overlapping_tiles_share_their_border_but_for_contrast_and_noise():
    tiles = synthetic_slices(1, 2, 2, seed=1, noise=0, contrast=0, overlap=1, size=40)
    places = {place: index for index, place in enumerate(zip(tiles.row, tiles.column, strict=True))}
    left, right = tiles.images[places[0, 0], :, -1], tiles.images[places[0, 1], :, 0]
    assert np.corrcoef(left, right)[0, 1] > 0.99
    np.testing.assert_array_equal(tiles.masks[places[0, 0], :, -1], tiles.masks[places[0, 1], :, 0])


def test_a_seed_gives_the_same_tiles_and_a_share_is_missing():
    first, second = (synthetic_slices(2, 3, 3, seed=4, missing=0.3, size=32) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(first.images) == 13 and set(np.unique(first.masks)) <= {0, 1}
    assert not np.array_equal(first.images, synthetic_slices(2, 3, 3, seed=5, missing=0.3, size=32).images)
