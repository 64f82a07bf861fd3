"""The TGS Salt Identification Challenge (2018): salt in grey seismic tiles."""

import numpy as np

from salt.description import Competition, Table
from salt.metrics import AVERAGE_PRECISION

TILE_SIZE = 101  # pixels: height and width of every tile


def is_black(images: np.ndarray) -> np.ndarray:
    """Which images `[N, H, W]` are zero everywhere: no seismic at all, and never any salt. bool `[N]`."""
    return np.logical_not(images.any(axis=(1, 2)))


def is_vertical(masks: np.ndarray) -> np.ndarray:
    """Which masks `[N, H, W]` hold salt and have all rows equal, an artefact of annotation below a dome. bool `[N]`."""
    return masks.any(axis=(1, 2)) & (masks == masks[:, :1]).all(axis=(1, 2))


def count_flaws(images: np.ndarray, masks: np.ndarray) -> str:
    """How many tiles are black, and how many have a vertical mask."""
    return f"{is_black(images).sum()} black, {is_vertical(masks).sum()} with a vertical mask"


COMPETITION = Competition(
    slug="tgs-salt-identification-challenge",
    title="TGS Salt Identification Challenge",
    target="salt",
    size=(TILE_SIZE, TILE_SIZE),
    channels=1,
    classes=("salt",),
    metric=AVERAGE_PRECISION,
    train_table=Table("train.csv", {"id": "{tile}", "rle_mask": "{mask}"}),
    sample_submission=Table("sample_submission.csv", {"id": "{tile}", "rle_mask": "{mask}"}),
    depths_table=Table("depths.csv", {"id": "{tile}", "z": "{number}"}),
    blank=is_black,
    remarks=count_flaws,
)
