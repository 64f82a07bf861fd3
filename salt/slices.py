"""Large synthetic slices, and the tiles that are cut from them: who lies beside whom is known.

As in the real competition, each tile is stretched over the grey levels by itself, so that two neighbours show the same
beds at another contrast, and only some of a slice's tiles are there. Neighbours abut, or share their border pixels.
"""

from typing import NamedTuple

import numpy as np

from salt.synthetic import (
    LOG_END,
    add_salt,
    coloured_noise,
    draw_log,
    ricker_wavelet,
    signed_distance,
    smooth_curve,
    smooth_field,
)
from salt.tgs import TILE_SIZE

CLIPPED = 0.5  # percent of a tile's pixels at either end of the grey scale, on average


class SliceTiles(NamedTuple):
    """Tiles in random order, and where each of them lay.

    Attributes:
        images: uint8 `[N, size, size]`.
        masks: uint8 {0, 1} of the same shape.
        mosaic: int `[N]`, the number of the slice.
        row, column: int `[N]`, the tile's place in its slice, in tiles.
    """

    images: np.ndarray
    masks: np.ndarray
    mosaic: np.ndarray
    row: np.ndarray
    column: np.ndarray


def synthetic_slice(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One slice: seismic, float `[height, width]` of any scale, and salt, bool `[height, width]`."""
    shape = (height, width)
    z, x = np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)[None, :]
    knots = max(3, round(max(shape) / 60))
    period = float(np.clip(np.exp(rng.normal(np.log(14), 0.35)), 6, 30))  # pixels
    wavelet = ricker_wavelet(period, rng.uniform(-30, 30))
    times, trace, impedance = draw_log(rng, period, wavelet, end=LOG_END + height)
    beds = z + rng.normal(0, 0.15) * (x - width / 2) + rng.uniform(4, 20) * smooth_field(rng, knots, shape)
    beds = np.clip(beds + rng.uniform(0, 1) * smooth_field(rng, 4 * knots, shape), times[0], times[-1])
    scene = np.interp(beds, times, trace) * np.exp(0.5 * smooth_field(rng, knots, shape))
    scene = scene + rng.uniform(0.2, 0.8) * coloured_noise(rng, period, shape)
    scene = scene + rng.uniform(0.05, 0.2) * coloured_noise(rng, 3.0, shape)
    cap = (
        rng.uniform(0.2, 0.9) * height * np.exp(-(((x - rng.uniform(0, width)) / (rng.uniform(0.1, 0.3) * width)) ** 2))
    )
    outline = smooth_curve(rng, 8, knots, width) + smooth_curve(rng, 1, 6 * knots, width)
    salt = z + cap + outline > height * rng.uniform(0.9, 1.3)
    if salt.any() and not salt.all():
        distance = signed_distance(salt)
        scene = add_salt(rng, scene, salt, distance, np.interp(beds, times, impedance), wavelet, period)
    return scene, salt


def synthetic_slices(
    slices: int,
    rows: int,
    columns: int,
    seed: int,
    missing: float = 0.0,
    noise: float = 2.0,
    contrast: float = 0.2,
    overlap: int = 0,
    size: int = TILE_SIZE,
) -> SliceTiles:
    """Cuts slices into tiles.

    Args:
        slices: how many.
        rows, columns: tiles of each slice.
        seed: int >= 0.
        missing: share of the tiles that are left out, at random.
        noise: deviation in grey levels of the white noise that each tile gets by itself.
        contrast: deviation of the logarithm of the factor by which a tile's contrast differs from the full stretch;
            brightness varies accordingly, by `60 * contrast` grey levels.
        overlap: pixels that two neighbours share.
        size: height and width of a tile in pixels.

    Returns:
        `SliceTiles`.

    Example:
        >>> tiles = synthetic_slices(slices=4, rows=5, columns=6, seed=0, missing=0.3)
        >>> tiles.images.shape
        (84, 101, 101)
    """
    step = size - overlap
    cut: list[tuple[np.ndarray, np.ndarray, tuple[int, int, int]]] = []
    for number in range(slices):
        rng = np.random.default_rng((seed, number))
        scene, salt = synthetic_slice(rng, rows * step + overlap, columns * step + overlap)
        for row in range(rows):
            for column in range(columns):
                window = (slice(row * step, row * step + size), slice(column * step, column * step + size))
                image = stretch_tile(rng, scene[window], noise, contrast)
                cut.append((image, salt[window].astype(np.uint8), (number, row, column)))
    rng = np.random.default_rng((seed, slices))
    kept = rng.permutation(len(cut))[: round(len(cut) * (1 - missing))]
    images, masks, places = zip(*[cut[index] for index in kept], strict=True)
    mosaic, row_of, column_of = np.array(places).T
    return SliceTiles(np.stack(images), np.stack(masks), mosaic, row_of, column_of)


def stretch_tile(rng: np.random.Generator, scene: np.ndarray, noise: float, contrast: float) -> np.ndarray:
    """A tile in grey levels, uint8: stretched by itself, clipped at both ends, and noisy."""
    ends = np.minimum(rng.exponential(CLIPPED, 2), 5)
    low, high = np.percentile(scene, [ends[0], 100 - ends[1]])
    grey = (scene - low) * (255 / max(high - low, 1e-12))
    gain, shift = np.exp(-abs(rng.normal(0, contrast))), rng.normal(0, 60 * contrast)
    grey = (grey - 127.5) * gain + 127.5 + shift + rng.normal(0, noise, scene.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
