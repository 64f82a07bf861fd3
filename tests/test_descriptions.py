"""Kernels for other competitions: what a build changes, and what a notebook then holds."""

import ast
import functools
import json
import pathlib
import re
import tempfile

import pytest

from desk.competitions import described_competitions, load_competition
from flattener.build import KernelRequest, build_report
from flattener.descriptions import with_competition
from flattener.errors import BuildError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SLUGS = {  # how they begin
    "tgs": "tgs-salt", "airbus": "airbus-ship", "severstal": "severstal-steel", "carvana": "carvana-image",
}  # fmt: skip
# What one competition alone uses of other modules, and words that everybody has.
ELSEWHERE = {
    "tgs": ["kept_mosaics", "def find_mosaics", "salt/seams.py", "salt/mosaics.py", "salt/borders.py", "Neighbourhood"],
    "carvana": ["_mask.gif"],
}
ANYBODYS = {
    *("COLUMNS", "salt", "id", ".png", "_", "1", "2", "3", "4", "train", "test", "{tile}", "{class}", "{number}"),
    *("train_images", "test_images", "train_masks", "train/images"),
}


def own_of(module):
    """The names that a module of salt/ defines, but for COMPETITION, and the texts in its code."""
    tree = ast.parse((ROOT / "salt" / f"{module}.py").read_text(encoding="utf-8"))
    bodies = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Module)]
    said = [node.body[0].value for node in bodies if ast.get_docstring(node) is not None]
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)} - {"COMPETITION"}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return names, {node.value for node in texts if node not in said}


@functools.cache
def build(name, kernel):
    """The text of a notebook, and its metadata."""
    with tempfile.TemporaryDirectory() as out:
        folder = build_report(KernelRequest(kernel, ROOT, pathlib.Path(out), owner="me", competition=name)).path
        cells = json.loads((folder / f"{kernel}.ipynb").read_text(encoding="utf-8"))["cells"]
        metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    return "\n".join("".join(cell["source"]) for cell in cells), metadata


def test_every_described_competition_is_looked_at():
    assert described_competitions().keys() == SLUGS.keys()


@pytest.mark.parametrize("kernel", ["train", "predict", "search"])
@pytest.mark.parametrize("name", SLUGS)
def test_the_notebook_of_a_competition_holds_nothing_of_another_s(name, kernel):
    text, _ = build(name, kernel)
    assert f'COMPETITION = Competition(\n    slug="{SLUGS[name]}' in text
    own_names, own_texts = own_of(name)
    for other in SLUGS.keys() - {name}:
        names, texts = own_of(other)
        found = {each for each in names - own_names - ANYBODYS if re.search(rf"\b{each}\b", text)}
        found |= {each for each in texts - own_texts - ANYBODYS if f'"{each}"' in text}
        found |= {each for each in [f"salt/{other}.py", *ELSEWHERE.get(other, [])] if each in text}
        assert not found, f"{kernel} of {name} holds {found} of {other}"
    # Of metrics and decoders it holds those alone that its description names.
    competition = load_competition(name)
    metric = competition.metric.of_counts.__name__
    assert re.findall(r"^[A-Z0-9_]+ = Metric\(.*?(\w+_of_counts)", text, re.MULTILINE) == [metric]
    assert re.findall(r"^def (\w+_of_counts)\(", text, re.MULTILINE) == [metric]
    files = (competition.train_images, competition.train_masks, competition.test_images)
    decoders = {each.decode.__name__ for each in files if each is not None}
    assert set(re.findall(r"^def (decode_(?:png|jpeg|gif))\(", text, re.MULTILINE)) == decoders


@pytest.mark.parametrize("name, label", [("airbus", "Airbus"), ("severstal", "Severstal"), ("tgs", "Salt")])
def test_the_kernels_of_a_competition_have_its_name_and_mount_it_and_each_other(name, label):
    text, metadata = build(name, "predict")
    assert metadata["id"] == f"me/{label.lower()}-predict" and metadata["title"] == f"{label} predict"
    assert metadata["competition_sources"][0].startswith(SLUGS[name])
    assert metadata["kernel_sources"] == [f"me/{label.lower()}-train"]
    assert f"--competition {name}" in text


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
