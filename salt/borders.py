"""Padding by what lies beside a tile: the border shows the neighbours in the rebuilt slice, and their known masks.

A network that is trained to hold a fold out learns nothing here of that fold's masks: not as targets, not as input.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import numpy as np

from salt.config import Config
from salt.mosaics import SIDES, MosaicError, Mosaics, join_tiles, match_contrast, neighbours_of, read_mosaics
from salt.stacks import MOST_IN_MEMORY, Stack
from salt.tiles import Tiles, pad_images, pad_offset

TINT = 64  # grey levels by which a known mask colours a neighbour, red for salt and blue for none
EMPTY, UNKNOWN, FULL = 0, 1, 2  # values of a plane of known masks
SlicePlace = tuple[int, int]  # so many tiles below, and right of, a tile


class Neighbourhood(NamedTuple):
    """Training and test tiles that lie in mosaics: what is known around each of them.

    Attributes:
        rows: the place of each tile in the arrays below, by its id; tiles outside of all mosaics have none.
        images: uint8 `[M, H, W]`.
        masks: uint8 {0, 1} of the same shape, 0 for test tiles.
        fold: int `[M]`, in which a tile is held out; -1 for test tiles, whose masks are not known.
        neighbours: int `[M, 4]`, see `neighbours_of`.
        size: pixels of the padded square.
        painted: whether pictures show known masks.
    """

    rows: dict[str, int]
    images: np.ndarray
    masks: np.ndarray
    fold: np.ndarray
    neighbours: np.ndarray
    size: int
    painted: bool

    def trained(self, held_out: int) -> np.ndarray:
        """Which tiles a network is trained on that holds this fold out; with -1 all training tiles. bool `[M]`."""
        return (self.fold >= 0) & (self.fold != held_out)

    def surround(self, ids: np.ndarray, images: np.ndarray, held_out: int, training: bool = False) -> np.ndarray:
        """Tiles with their surroundings, for a network that holds a fold out.

        A neighbour has the contrast of the tile, see `match_contrast`; where none is known, the tile is mirrored.
        Where masks are painted, a pixel of a neighbour that the network was trained on is red where it is salt and blue
        where it is none: red is `TINT` levels above green and blue as much below, or the reverse. All else is grey.

        Args:
            ids: str `[N]`.
            images: uint8 `[N, H, W]` of these tiles.
            held_out: the fold; -1 for test tiles, for which all training tiles are known.
            training: whether the network is to be trained on them. Then neighbours of other folds and test tiles are
                mirrored, too: warps move pixels of the border into the tile, and their truth must be known.

        Returns:
            uint8 `[N, S, S]`, or `[N, S, S, 3]` if masks are painted, S pixels being twice the padded square's side
            less the tile's. Beyond 512 MB a `Stack`.
        """
        trained = self.trained(held_out)
        neighbours = self.shown(trained if training else np.ones(len(self.fold), bool))
        side = 2 * self.size - images.shape[1]

        def picture(index: int) -> np.ndarray:
            padded = pad_images(images[index : index + 1], side)[0]
            plane = np.full_like(padded, UNKNOWN)
            for place, other, factor, shift in self.around(ids[index], neighbours):
                show_beside(padded, factor * self.images[other] + shift, place)
                if self.painted and trained[other]:
                    show_beside(plane, np.where(self.masks[other], FULL, EMPTY), place)
            return paint_masks(padded, plane) if self.painted else padded

        return made_or_stack(picture, (len(ids), side, side, 3) if self.painted else (len(ids), side, side))

    def surround_masks(self, ids: np.ndarray, masks: np.ndarray, held_out: int) -> np.ndarray:
        """The masks that go with the pictures of `surround`, for training: those of the neighbours that a network is
        trained on, and the tile's own, mirrored, elsewhere. Arguments and result as there."""
        neighbours, side = self.shown(self.trained(held_out)), 2 * self.size - masks.shape[1]

        def truth(index: int) -> np.ndarray:
            padded = pad_images(masks[index : index + 1], side)[0]
            for place, other, _, _ in self.around(ids[index], neighbours):
                show_beside(padded, self.masks[other], place)
            return padded

        return made_or_stack(truth, (len(ids), side, side))

    def shown(self, allowed: np.ndarray) -> np.ndarray:
        """The neighbours, int `[M, 4]`, those that are not allowed (bool `[M]`) left out."""
        return np.where((self.neighbours >= 0) & allowed[self.neighbours], self.neighbours, -1)

    def around(self, tile_id: str, neighbours: np.ndarray) -> Iterator[tuple[SlicePlace, int, float, float]]:
        """See `tiles_around`."""
        row = self.rows.get(str(tile_id))
        return iter(()) if row is None else tiles_around(self.images, neighbours, row)


def find_neighbourhood(
    config: Config, train: Tiles, test: Tiles | None, fold: np.ndarray | None, path: str | pathlib.Path
) -> Neighbourhood:
    """What is known around training and test tiles.

    Args:
        config: of its fields `padded_size` and `neighbour_masks`.
        train: with masks.
        test: None: of the training tiles alone.
        fold: int `[N]`, in which each training tile is held out; None: none is, as for test tiles.
        path: of the table of mosaics, see `read_mosaics`.

    Raises:
        MosaicError: no such table, tiles that are no grey squares with one mask, or that fill the padded square.
    """
    tiles, masks = join_tiles(train, test), train.known_masks()
    shape, size = tiles.images.shape, config.padded_size
    fitting = isinstance(tiles.images, np.ndarray) and isinstance(masks, np.ndarray) and len(shape) == 3 == masks.ndim
    if not fitting or shape[1] != shape[2]:
        raise MosaicError(
            f"padding='neighbours': needs grey square tiles in memory with one mask each, not images of {shape[1:]} "
            f"and masks of {masks.shape[1:]}; set padding to 'reflect'"
        )
    if shape[1] >= size:
        raise MosaicError(f"padded_size={size}: tiles of {shape[1]} pixels have no border; set padding to 'reflect'")
    mosaics = read_mosaics(path, tiles.ids)
    inside = mosaics.mosaic >= 0
    known = np.zeros((int(inside.sum()), *shape[1:]), np.uint8)
    trained = inside[: len(train.ids)]
    known[: int(trained.sum())] = masks[trained]
    fold = np.zeros(len(train.ids), int) if fold is None else fold
    held = np.concatenate([fold, np.full(len(tiles.ids) - len(fold), -1)])
    return Neighbourhood(
        {str(tile): row for row, tile in enumerate(tiles.ids[inside])},
        tiles.images[inside],
        known,
        held[inside],
        neighbours_of(Mosaics(*(values[inside] for values in mosaics))),
        size,
        config.neighbour_masks,
    )


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
        for place, other, factor, shift in tiles_around(images, neighbours, tile):
            show_beside(padded[tile], factor * images[other] + shift, place)
    return padded


def tiles_around(
    images: np.ndarray, neighbours: np.ndarray, tile: int
) -> Iterator[tuple[SlicePlace, int, float, float]]:
    """The up to eight tiles around one: where each lies, which it is, and factor and shift that give it the contrast of
    the one in the middle. Those across a corner are found by way of one that lies beside both."""
    found = set()
    for side, other in known_sides(neighbours, tile):
        factor, shift = match_contrast(images[tile], images[other], side)
        yield SIDES[side], other, factor, shift
        for turn, corner in known_sides(neighbours, other):
            place = (SIDES[side][0] + SIDES[turn][0], SIDES[side][1] + SIDES[turn][1])
            if 0 not in place and place not in found:
                found.add(place)
                inner_factor, inner_shift = match_contrast(images[other], images[corner], turn)
                yield place, corner, factor * inner_factor, factor * inner_shift + shift


def known_sides(neighbours: np.ndarray, tile: int) -> list[tuple[int, int]]:
    """The sides of a tile on which a neighbour is known, and the neighbours."""
    return [(side, other) for side, other in enumerate(neighbours[tile].tolist()) if other >= 0]


def show_beside(canvas: np.ndarray, pixels: np.ndarray, place: SlicePlace) -> None:
    """Writes what is seen of a tile that lies so many tiles below, and right of, the one in the middle of a canvas."""
    parts = []
    for steps, room, side in zip(place, canvas.shape, pixels.shape, strict=True):
        start = pad_offset(room, side) + steps * side
        first, last = max(start, 0), min(start + side, room)
        parts.append((slice(first, max(first, last)), slice(first - start, max(first, last) - start)))
    (rows, own_rows), (columns, own_columns) = parts
    canvas[rows, columns] = np.clip(np.rint(pixels[own_rows, own_columns]), 0, 255)


def paint_masks(grey: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """A grey picture, uint8 `[S, S]`, with a plane of known masks as its colour, uint8 `[S, S, 3]`."""
    tint = TINT * (plane.astype(np.int16) - UNKNOWN)
    return np.clip(np.stack([grey + tint, grey, grey - tint], axis=-1), 0, 255).astype(np.uint8)


def made_or_stack(make: Callable[[int], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays that a function makes, uint8, as one array; of more than 512 MB a `Stack`."""
    stack = Stack(make, shape)
    return cast(np.ndarray, stack) if int(np.prod(shape, dtype=np.int64)) > MOST_IN_MEMORY else stack[:]
