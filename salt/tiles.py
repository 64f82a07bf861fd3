"""What a tile is: the arrays of many, and the padded square around it. numpy only."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from salt.description import Competition
from salt.stacks import all_sides, differ_in_size, subset


class TileError(ValueError):
    """A padded square that cannot hold a tile, or a padding mode that does not exist."""


@dataclass(frozen=True)
class Tiles:
    """Tiles as arrays; entry i of each belongs to `ids[i]`."""

    ids: np.ndarray  # str `[N]`
    # uint8 `[N, H, W]`, or `[N, H, W, 3]` of colours; a `Stack` if they are large or differ in size, as the masks
    images: np.ndarray
    masks: np.ndarray | None  # uint8 {0, 1} `[N, H, W]`, or `[N, H, W, C]` of several classes; None for test tiles
    depths: np.ndarray  # float64 `[N]`, NaN where unknown
    competition: Competition  # that they are of

    def known_masks(self) -> np.ndarray:
        """The masks, where there must be some.

        Raises:
            TileError: these are test tiles.
        """
        if self.masks is None:
            raise TileError(f"masks: these {len(self.ids)} tiles have none; training tiles are needed here")
        return self.masks

    def blank(self) -> np.ndarray:
        """Which tiles never hold anything, bool `[N]`, see `Competition.blank`."""
        return self.competition.blank_images(self.images)

    def sides(self) -> dict[str, tuple[int, int]]:
        """Height and width of each tile in pixels."""
        sides = all_sides(self.images).tolist()
        return {tile: (height, width) for tile, (height, width) in zip(self.ids.tolist(), sides, strict=True)}

    def groups(self) -> np.ndarray | None:
        """What each tile shows, int `[N]`, see `Competition.group`; None: each tile something else."""
        group = self.competition.group
        return None if group is None else np.unique([group(tile) for tile in self.ids], return_inverse=True)[1]


class Surroundings(Protocol):
    """What is known around tiles, for `padding="neighbours"`; `Competition.find_neighbours` gives it."""

    def surround(self, ids: np.ndarray, images: np.ndarray, held_out: int, training: bool = False) -> np.ndarray:
        """Images of tiles with their surroundings; `held_out` is the fold that the network is not trained on."""

    def surround_masks(self, ids: np.ndarray, masks: np.ndarray, held_out: int) -> np.ndarray:
        """The masks that go with them in training."""


def shown_images(
    tiles: Tiles, rows: np.ndarray | slice, around: Surroundings | None, held_out: int, training: bool = False
) -> np.ndarray:
    """Images of some tiles: as they are, or with what is known around them.

    Args:
        tiles: of which some are wanted.
        rows: which, bool `[N]` or a slice.
        around: None: nothing is shown around them.
        held_out: the fold that the network is not trained on; -1 for test tiles.
        training: whether the network is to be trained on them.
    """
    images = subset(tiles.images, rows)
    return images if around is None else around.surround(tiles.ids[rows], images, held_out, training)


def shown_masks(tiles: Tiles, rows: np.ndarray | slice, around: Surroundings | None, held_out: int) -> np.ndarray:
    """The masks that go with `shown_images`; arguments as there."""
    masks = subset(tiles.known_masks(), rows)
    return masks if around is None else around.surround_masks(tiles.ids[rows], masks, held_out)


def pad_offset(size: int, tile: int) -> int:
    """Where a tile begins, in rows and in columns, when it is centred in a square of `size` pixels.

    Raises:
        TileError: the square is smaller than the tile.

    Example:
        >>> pad_offset(128, 96)
        16
    """
    if size < tile:
        raise TileError(f"size={size}: must have at least the {tile} pixels of a tile; pad, never resize")
    return (size - tile) // 2


def tile_side(side: int, padded_size: int, padding: str) -> int:
    """The side of the tile in an image of `side` pixels: the same, but with `padding="neighbours"`, where the tile lies
    in the middle of its surroundings: as many on each side as the padded square has room for at most.

    Raises:
        TileError: with `padding="neighbours"`, an image that is smaller than the padded square.

    Example:
        >>> tile_side(160, 128, "neighbours")
        96
    """
    if padding != "neighbours":
        return side
    if not padded_size <= side < 2 * padded_size:
        raise TileError(
            f"images of {side} pixels: with padding='neighbours' they are tiles with their surroundings, of "
            f"2 * {padded_size} pixels less a tile's; see Surroundings.surround"
        )
    return 2 * padded_size - side


def pad_images(images: np.ndarray, size: int | tuple[int, int], mode: str = "reflect") -> np.ndarray:
    """Centres images in squares or rectangles; `crop_images` is the exact inverse.

    Args:
        images: `[N, H, W]` or `[N, H, W, C]` of any type, images or masks.
        size: height and width of the result: one number for a square, or two.
        mode: what the border shows: "reflect" (the image mirrored, its edge pixels not repeated) or "edge" (they are);
            "neighbours": the images come with their surroundings (see `tile_side`), of which a square is cut.

    Returns:
        `[N, height, width]` or `[N, height, width, C]` of the same type.

    Raises:
        TileError: the result would be smaller than the image, `size` or `mode` is another, the images have no pixel, or
            not 3 or 4 axes.
    """
    if mode not in ("reflect", "edge", "neighbours"):
        raise TileError(f"mode={mode!r}: must be 'reflect', 'edge' or 'neighbours'")
    if mode == "neighbours":
        (height, width), starts = both_sides(size), []
        for side, given in zip((height, width), image_sides(images), strict=True):
            starts.append(given - side - pad_offset(side, tile_side(given, side, mode)))
        return images[:, starts[0] : starts[0] + height, starts[1] : starts[1] + width]
    margins = [(0, 0)] * images.ndim
    for axis, (side, tile) in enumerate(zip(both_sides(size), image_sides(images), strict=True), start=1):
        before = pad_offset(side, tile)
        margins[axis] = (before, side - tile - before)
    if mode == "reflect":
        return np.pad(images, margins, mode="reflect")
    return np.pad(images, margins, mode="edge")


def crop_images(padded: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Takes the centred images out of padded ones: `crop_images(pad_images(images, 128), images.shape[1:3])` equals
    `images`.

    Args:
        padded: `[N, H, W]` or `[N, H, W, C]` of any type.
        size: height and width of an image: one number for a square, or two.

    Returns:
        `[N, height, width]` or `[N, height, width, C]`, a view of `padded`.

    Raises:
        TileError: the images are smaller than `size`, that is no size, or there are not 3 or 4 axes.
    """
    (top, height), (left, width) = (
        (pad_offset(side, tile), tile) for side, tile in zip(image_sides(padded), both_sides(size), strict=True)
    )
    return padded[:, top : top + height, left : left + width]


def window_side(sides: tuple[int, ...], padded_size: int) -> int:
    """The side of the square windows that a network of `padded_size` sees of images of these sides.

    Square images that fit into it are seen whole.
    """
    return min(*sides, padded_size)


def training_side(images: np.ndarray, padded_size: int) -> int:
    """The side of the squares that a network is trained on: that of the windows, or, where images differ in size, the
    whole padded square."""
    return padded_size if differ_in_size(images) else window_side(images.shape[1:3], padded_size)


def both_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width: those of a square if `size` is one number.

    Raises:
        TileError: neither one nor two whole numbers from 1.
    """
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int | np.integer) and side >= 1 for side in sides):
        raise TileError(f"size={size!r}: must be one whole number from 1, or height and width")
    height, width = sides
    return height, width


def image_sides(images: np.ndarray) -> tuple[int, int]:
    """Height and width of a stack of images."""
    if images.ndim not in (3, 4):
        raise TileError(f"images: shape {images.shape}; must be [N, H, W], or [N, H, W, C] with channels")
    if 0 in images.shape[1:3]:
        raise TileError(f"images: shape {images.shape} has no pixel; height and width must be at least 1")
    return images.shape[1], images.shape[2]
