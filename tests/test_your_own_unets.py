"""The examples of docs/your-own-unets.md run as they stand, each in a folder of its own."""

import pathlib
import re

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the examples are of TensorFlow")

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "your-own-unets.md"
MOST_LINES = 25
# What each example leaves behind, in its folder or among its names.
RESULTS = {
    "Fit on arrays": lambda names: names["predicted"].shape == (8, 16, 16, 1),
    "Fit on `tf.data`": lambda names: {"loss", "iou"} <= set(names["model"].history.history),
    "Colour and four classes": lambda names: set(names["predicted"].ravel()) <= {0, 1, 2, 3},
    "Save and load": lambda names: pathlib.Path("unet.keras").is_file(),
    "Export": lambda names: 0 < float(names["probabilities"][0, 0, 0, 0]) < 1,
    "Callbacks": lambda names: "val_score" in pathlib.Path("history.csv").read_text(encoding="utf-8"),
    "Augmentations of albumentations": lambda names: names["outcome"].unfinished == [],
    "Encoders of other libraries": lambda names: names["predicted"].shape == (1, 64, 64, 1),
}


def examples() -> dict[str, str]:
    """The examples of the page: {heading: code}."""
    return dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.M))


def test_the_page_has_short_examples():
    assert list(examples()) == list(RESULTS)
    assert all(code.count("\n") < MOST_LINES for code in examples().values())


# Seconds of compiling each, a whole training, a large network.
SLOW = (
    "Fit on `tf.data`",
    "Colour and four classes",
    "Callbacks",
    "Augmentations of albumentations",
    "Encoders of other libraries",
)


@pytest.mark.parametrize(
    "heading", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RESULTS]
)
def test_each_example_runs(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    exec(compile(examples()[heading], heading, "exec"), names)
    assert RESULTS[heading](names)
