"""Severstal: Steel Defect Detection (2019): four kinds of defects in images of flat steel."""

from salt.description import Competition, Files, Table
from salt.metrics import DICE
from salt.pictures import decode_jpeg

# Published in two forms: first with image and class in one column and a row for each of the four classes, later in two
# columns and with the rows of defects alone.
JOINT = {"ImageId_ClassId": "{tile}.jpg_{class}", "EncodedPixels": "{mask}"}
APART = {"ImageId": "{tile}.jpg", "ClassId": "{class}", "EncodedPixels": "{mask}"}

COMPETITION = Competition(
    slug="severstal-steel-defect-detection",
    label="Severstal",
    title="Severstal: Steel Defect Detection",
    target="defects",
    size=(256, 1600),
    channels=3,
    classes=("1", "2", "3", "4"),
    metric=DICE,
    train_table=Table("train.csv", JOINT, others=(Table("train.csv", APART, empty=None),)),
    sample_submission=Table("sample_submission.csv", JOINT, others=(Table("sample_submission.csv", APART),)),
    train_images=Files("train_images", ".jpg", decode_jpeg),
    test_images=Files("test_images", ".jpg", decode_jpeg),
)
