"""The Carvana Image Masking Challenge (2017): cars in photographs from a studio."""

from salt.description import Competition, Files, Table
from salt.metrics import DICE
from salt.pictures import decode_gif, decode_jpeg

COLUMNS = {"img": "{tile}.jpg", "rle_mask": "{mask}"}


def car_of(tile: str) -> str:
    """The car that a photograph shows: each was taken from 16 sides, which stand behind the underscore."""
    return tile.partition("_")[0]


COMPETITION = Competition(
    slug="carvana-image-masking-challenge",
    label="Carvana",
    title="Carvana Image Masking Challenge",
    target="cars",
    size=(1280, 1918),
    channels=3,
    classes=("car",),
    metric=DICE,
    train_table=Table("train_masks.csv", COLUMNS),
    sample_submission=Table("sample_submission.csv", COLUMNS),
    train_images=Files("train", ".jpg", decode_jpeg),
    train_masks=Files("train_masks", "_mask.gif", decode_gif),
    test_images=Files("test", ".jpg", decode_jpeg),
    rle_by_rows=True,
    group=car_of,
)
