"""Kernels for other competitions: what a build changes, and what a notebook then holds."""

import json
import pathlib
import re

import pytest

from flattener.build import KernelRequest, build_report
from flattener.descriptions import with_competition
from flattener.errors import BuildError

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What stands in the description of one competition, or in code that only it uses.
OWN = {
    "tgs": ["tgs-salt", r"\bz\b.*number", "is_black", "is_vertical", "def find_mosaics", "decode_png\\("],
    "airbus": ["airbus-ship", "train_ship_segmentations"],
    "severstal": ["severstal-steel", "ImageId_ClassId", "train_images/"],
    "carvana": ["carvana-image", "train_masks.csv", "_mask.gif", "decode_gif"],
}


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    """For each competition the text of its train and predict notebooks, and the metadata of the latter."""
    out, texts = tmp_path_factory.mktemp("built"), {}
    for name in OWN:
        built = []
        for kernel in ("train", "predict"):
            folder = build_report(KernelRequest(kernel, ROOT, out / name, owner="me", competition=name)).path
            cells = json.loads((folder / f"{kernel}.ipynb").read_text(encoding="utf-8"))["cells"]
            built.append("\n".join("".join(cell["source"]) for cell in cells))
        texts[name] = built, json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    return texts


@pytest.mark.parametrize("name", OWN)
def test_the_notebook_of_a_competition_holds_nothing_of_another_s(notebooks, name):
    for text in notebooks[name][0]:
        for other, marks in OWN.items():
            found = [mark for mark in marks if re.search(mark, text)]
            assert not found or other == name, f"{name} holds {found} of {other}"
        assert f'COMPETITION = Competition(\n    slug="{OWN[name][0]}' in text


@pytest.mark.parametrize("name, label", [("airbus", "Airbus"), ("severstal", "Severstal"), ("tgs", "Salt")])
def test_the_kernels_of_a_competition_have_its_name_and_mount_it_and_each_other(notebooks, name, label):
    metadata = notebooks[name][1]
    assert metadata["id"] == f"me/{label.lower()}-predict" and metadata["title"] == f"{label} predict"
    assert metadata["competition_sources"][0].startswith(OWN[name][0])
    assert metadata["kernel_sources"] == [f"me/{label.lower()}-train"]
    assert f"--competition {name}" in notebooks[name][0][0]


def test_naming_the_kernel_s_own_competition_changes_nothing():
    text = (ROOT / "kernels" / "predict.py").read_text(encoding="utf-8")
    assert with_competition(text, "predict.py", ROOT, "tgs") == text
    other = with_competition(text, "predict.py", ROOT, "carvana")
    assert len(other.splitlines()) == len(text.splitlines())
    changed = [new for old, new in zip(text.splitlines(), other.splitlines(), strict=True) if old != new]
    assert len(changed) == 4, changed


def test_a_competition_that_is_not_described_and_a_kernel_of_none_are_refused():
    text = (ROOT / "kernels" / "predict.py").read_text(encoding="utf-8")
    with pytest.raises(BuildError, match="has no snails.py; it describes airbus, carvana, severstal, tgs"):
        with_competition(text, "predict.py", ROOT, "snails")
    with pytest.raises(BuildError, match="has no COMPETITION = Competition"):
        with_competition(text, "predict.py", ROOT, "metrics")
    with pytest.raises(BuildError, match="no line `from PACKAGE.MODULE import COMPETITION`"):
        with_competition("print(1)\n", "own.py", ROOT, "tgs")
