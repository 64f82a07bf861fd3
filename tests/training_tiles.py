"""Tiles and settings for the tests of training."""

import numpy as np

from salt.artifacts import write_manifest, write_probabilities
from salt.config import preset
from salt.tgs import COMPETITION as TGS
from salt.tiles import Tiles

TINY = dict(filter_scaling=2, depth=2, padded_size=102, batch_size=8)
PLAIN = dict(flip=False, scale=0.0, shear=0.0, rotation=0.0, brightness=0.0, contrast=0.0)


def tiles_with_ramps(count):
    """Tiles in which each pixel is told from its neighbours, and masks of all kinds."""
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (count, 101, 101), dtype=np.uint8)
    masks = (images > rng.integers(0, 256, (count, 1, 1))).astype(np.uint8)
    masks[::4] = 0
    return images, masks


def tiles_with_two_black_ones():
    images, masks = tiles_with_ramps(40)
    images[[3, 20]] = 0
    masks[[3, 20]] = 0
    return Tiles(np.array([f"tile{index}" for index in range(40)]), images, masks, np.full(40, np.nan), TGS)


def write_predict_run(folder, tiles):
    """The output of a predict run on `tiles`: sure of each third, the black ones among them."""
    folder.mkdir()
    probabilities = np.full(tiles.images.shape, 140, np.uint8)
    probabilities[::3, :50] = 250
    probabilities[::3, 50:] = 5
    write_probabilities(folder / "probabilities.npz", tiles.ids, probabilities)
    write_manifest(folder, "predict-1", "predict", preset("smoke"), level=130, minimum_area=0)
    return folder
