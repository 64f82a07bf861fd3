"""The Airbus Ship Detection Challenge (2018): ships in satellite images, one row of the table for each ship."""

from salt.description import Competition, Files, Table
from salt.metrics import F2
from salt.pictures import decode_jpeg

COLUMNS = {"ImageId": "{tile}.jpg", "EncodedPixels": "{mask}"}

COMPETITION = Competition(
    slug="airbus-ship-detection",
    label="Airbus",
    title="Airbus Ship Detection Challenge",
    target="ships",
    size=(768, 768),
    channels=3,
    classes=("ship",),
    # Kaggle scored F2 over ships at IoU thresholds from 0.5 to 0.95; this is the F2 of an image's pixels.
    metric=F2,
    train_table=Table("train_ship_segmentations_v2.csv", COLUMNS, objects=True),
    sample_submission=Table("sample_submission_v2.csv", COLUMNS, objects=True),
    train_images=Files("train_v2", ".jpg", decode_jpeg),
    test_images=Files("test_v2", ".jpg", decode_jpeg),
)
