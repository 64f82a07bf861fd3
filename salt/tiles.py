"""What a tile is: its size, the arrays of many, the padded square around it, and two flags per tile. numpy only."""

from dataclasses import dataclass

import numpy as np

from salt.config import TILE_SIZE


class TileError(ValueError):
    """A padded square that cannot hold a tile, or a padding mode that does not exist."""


@dataclass(frozen=True)
class Tiles:
    """Tiles as arrays; entry i of each belongs to `ids[i]`."""

    ids: np.ndarray  # str `[N]`
    images: np.ndarray  # uint8 `[N, 101, 101]`
    masks: np.ndarray | None  # uint8 {0, 1} `[N, 101, 101]`, 1 = salt; None for test tiles
    depths: np.ndarray  # float64 `[N]`, NaN where unknown

    def known_masks(self) -> np.ndarray:
        """The masks, where there must be some.

        Raises:
            TileError: these are test tiles.
        """
        if self.masks is None:
            raise TileError(f"masks: these {len(self.ids)} tiles have none; training tiles are needed here")
        return self.masks


def pad_offset(size: int, tile: int = TILE_SIZE) -> int:
    """Where a tile begins, in rows and in columns, when it is centred in a square of `size` pixels.

    Raises:
        TileError: the square is smaller than the tile.

    Example:
        >>> pad_offset(128)
        13
    """
    if size < tile:
        raise TileError(f"size={size}: a square must have at least the {tile} pixels of a tile; pad, never resize")
    return (size - tile) // 2


def pad_images(images: np.ndarray, size: int, mode: str = "reflect") -> np.ndarray:
    """Centres tiles in squares of `size` pixels; `crop_images` is the exact inverse.

    Args:
        images: `[N, 101, 101]` of any type, images or masks.
        size: height and width of the result.
        mode: what the border shows: "reflect" (the tile mirrored, its edge pixels not repeated) or "edge" (they are).

    Returns:
        `[N, size, size]` of the same type.

    Raises:
        TileError: the square is smaller than the tile, or `mode` is another.
    """
    tile = images.shape[1]
    before = pad_offset(size, tile)
    margins = (before, size - tile - before)
    if mode == "reflect":
        return np.pad(images, ((0, 0), margins, margins), mode="reflect")
    if mode == "edge":
        return np.pad(images, ((0, 0), margins, margins), mode="edge")
    raise TileError(f"mode={mode!r}: must be 'reflect' or 'edge'")


def crop_images(padded: np.ndarray, size: int = TILE_SIZE) -> np.ndarray:
    """Takes the centred tiles out of padded squares: `crop_images(pad_images(images, 128))` equals `images`.

    Args:
        padded: `[N, S, S]` of any type.
        size: height and width of a tile.

    Returns:
        `[N, size, size]`, a view of `padded`.
    """
    offset = pad_offset(padded.shape[1], size)
    return padded[:, offset : offset + size, offset : offset + size]


def is_black(images: np.ndarray) -> np.ndarray:
    """Which images `[N, H, W]` are zero everywhere: no seismic at all, and never any salt. bool `[N]`."""
    return np.logical_not(images.any(axis=(1, 2)))


def is_vertical(masks: np.ndarray) -> np.ndarray:
    """Which masks `[N, H, W]` hold salt and have all rows equal, an artefact of annotation below a dome. bool `[N]`."""
    return masks.any(axis=(1, 2)) & (masks == masks[:, :1]).all(axis=(1, 2))
