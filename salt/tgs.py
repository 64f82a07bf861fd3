"""The TGS Salt Identification Challenge (2018): salt in grey seismic tiles."""

import numpy as np

from salt.borders import find_neighbourhood
from salt.description import Competition, Files, Table
from salt.metrics import AVERAGE_PRECISION
from salt.mosaics import kept_mosaics
from salt.pictures import decode_png

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
    label="Salt",
    title="TGS Salt Identification Challenge",
    target="salt",
    size=(TILE_SIZE, TILE_SIZE),
    channels=1,
    classes=("salt",),
    metric=AVERAGE_PRECISION,
    train_table=Table("train.csv", {"id": "{tile}", "rle_mask": "{mask}"}),
    sample_submission=Table("sample_submission.csv", {"id": "{tile}", "rle_mask": "{mask}"}),
    train_images=Files("train/images", ".png", decode_png),
    train_masks=Files("train/masks", ".png", decode_png),
    test_images=Files("test/images", ".png", decode_png),
    depths_table=Table("depths.csv", {"id": "{tile}", "z": "{number}"}),
    find_mosaics=kept_mosaics,
    find_neighbours=find_neighbourhood,
    blank=is_black,
    remarks=count_flaws,
)

# (out-of-fold score, public score, private score or None) of solutions that published them; random folds on all 4,000
# training tiles. Left out: out-of-fold scores with pseudo-labels, which raise them by more than the leaderboard's.
LEADERBOARD_TRIPLES = (
    # github.com/ak110/kaggle_salt, submissions.csv
    *((0.839, 0.839, 0.860), (0.856, 0.853, 0.874), (0.857, 0.854, 0.875), (0.858, 0.857, 0.878)),
    *((0.863, 0.859, 0.881), (0.865, 0.862, 0.883), (0.866, 0.867, 0.886)),
    # github.com/SeuTao/TGS-Salt-Identification-Challenge-2018-_4th_place_solution, README
    *((0.873, 0.873, 0.891), (0.868, 0.870, 0.889)),
    # alexisrozhkov.github.io/kaggle-salt-writeup
    *((0.859, 0.866, 0.881), (0.865, 0.872, 0.887)),
    # github.com/neptune-ai/open-solution-salt-identification, which names no private scores
    *((0.794, 0.798, None), (0.807, 0.801, None), (0.802, 0.809, None), (0.804, 0.813, None)),
    *((0.819, 0.824, None), (0.829, 0.837, None), (0.830, 0.845, None), (0.853, 0.849, None)),
    # github.com/laserstonewall/kaggle_salt: the best leaderboard score, and the middle of .774 to .776
    (0.775, 0.781, 0.8125),
    # a late submission made with GraphRAG: its own validation, and the leaderboard
    (0.708, 0.694, 0.726),
)
