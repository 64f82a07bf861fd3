"""Padding by what lies beside a tile: the border of the padded square is filled from the rebuilt slice."""

import numpy as np

from salt.mosaics import SIDES, MosaicError, Mosaics, match_contrast, neighbours_of
from salt.tiles import pad_images, pad_offset


def pad_with_neighbours(
    images: np.ndarray, mosaics: Mosaics, size: int | tuple[int, int], mode: str = "reflect"
) -> np.ndarray:
    """Centres tiles in squares or rectangles whose border shows the neighbours, where they are known.

    A neighbour gets the contrast of the tile: its mean and its deviation along the seam become those of the tile. One
    across a corner gets it by way of a tile that lies beside both. Elsewhere the tile itself is continued, as by
    `pad_images`. The tile's own pixels stay as they are: `crop_images` is the exact inverse.

    Args:
        images: uint8 `[N, H, W]`, training and test tiles alike: pixels are known of both.
        mosaics: of the same tiles.
        size: height and width of the result: one number for a square, or two.
        mode: what the border shows without a neighbour, see `pad_images`.

    Returns:
        uint8 `[N, height, width]`.

    Raises:
        MosaicError: the images are no uint8 `[N, H, W]`, or the mosaics are of another number of tiles.
        TileError: see `pad_images`.

    Example:
        >>> padded = pad_with_neighbours(tiles.images, read_mosaics("mosaics.csv", tiles.ids), 128)
    """
    if images.ndim != 3 or images.dtype != np.uint8:
        raise MosaicError(f"images: must be uint8 [N, H, W], not {images.dtype} {images.shape}")
    if len(mosaics.mosaic) != len(images):
        raise MosaicError(f"mosaics: of {len(mosaics.mosaic)} tiles, but there are {len(images)} images")
    padded, neighbours = pad_images(images, size, mode), neighbours_of(mosaics)
    for tile in np.flatnonzero((neighbours >= 0).any(axis=1)).tolist():
        shown = set()
        for side, other in known_sides(neighbours, tile):
            factor, shift = match_contrast(images[tile], images[other], side)
            show_beside(padded[tile], factor * images[other] + shift, SIDES[side])
            for turn, corner in known_sides(neighbours, other):
                place = (SIDES[side][0] + SIDES[turn][0], SIDES[side][1] + SIDES[turn][1])
                if 0 not in place and place not in shown:
                    shown.add(place)
                    inner_factor, inner_shift = match_contrast(images[other], images[corner], turn)
                    grey = factor * (inner_factor * images[corner] + inner_shift) + shift
                    show_beside(padded[tile], grey, place)
    return padded


def known_sides(neighbours: np.ndarray, tile: int) -> list[tuple[int, int]]:
    """The sides of a tile on which a neighbour is known, and the neighbours."""
    return [(side, other) for side, other in enumerate(neighbours[tile].tolist()) if other >= 0]


def show_beside(canvas: np.ndarray, pixels: np.ndarray, place: tuple[int, int]) -> None:
    """Writes what is seen of a tile that lies so many tiles below, and right of, the one in the middle of a canvas."""
    parts = []
    for steps, room, side in zip(place, canvas.shape, pixels.shape, strict=True):
        start = pad_offset(room, side) + steps * side
        first, last = max(start, 0), min(start + side, room)
        parts.append((slice(first, max(first, last)), slice(first - start, max(first, last) - start)))
    (rows, own_rows), (columns, own_columns) = parts
    canvas[rows, columns] = np.clip(np.rint(pixels[own_rows, own_columns]), 0, 255)
