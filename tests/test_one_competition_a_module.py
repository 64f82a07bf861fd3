"""What is a competition's own stands in its description: no other module knows sizes, slugs and columns."""

import ast
import pathlib
import re

import pytest

from desk.competitions import described_competitions, load_competition

ROOT = pathlib.Path(__file__).resolve().parents[1]
DESCRIBED = described_competitions()
# Made for TGS's seismic tiles, and used by nothing that another competition needs.
SEISMIC = {"synthetic", "slices", "seams", "mosaics", "rules"}
FILES = [
    path.relative_to(ROOT)
    for folder in ("salt", "desk", "kernels", "scripts", "flattener")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.stem not in {*DESCRIBED, *SEISMIC} and "benchmarks" not in path.parts
]
PAGES = sorted(path.relative_to(ROOT) for kind in ("*.js", "*.html", "*.css") for path in (ROOT / "desk").rglob(kind))
ALLOWED = {("desk/pages/html.py", 101)}  # a quality of pictures


def own_words():
    """Numbers, names and columns that belong to one competition."""
    numbers, names, columns = set(), set(), set()
    for name in DESCRIBED:
        competition = load_competition(name)
        numbers |= {side for side in competition.size if side not in (256,)}  # a byte has 256 values
        names |= {competition.slug, competition.title}
        tables = [competition.train_table, competition.sample_submission, *competition.train_table.others]
        tables += [*competition.sample_submission.others, *filter(None, [competition.depths_table])]
        for table in tables:
            columns |= {column for column in table.columns if column != "id"}
    return numbers, names, columns


def constants(path):
    """The numbers and texts in the code of a file, those of its docstrings left out."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    said = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            said.add(id(body[0].value))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in said}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_module_but_the_descriptions_knows_what_is_a_competition_s_own(path):
    numbers, names, columns = own_words()
    values = constants(path)
    found = {value for value in values if type(value) is int and value in numbers}
    found |= {value for value in values if isinstance(value, str) and any(name in value for name in names)}
    found |= {value for value in values if isinstance(value, str) and columns.intersection(value.split(","))}
    assert not {value for value in found if (path.as_posix(), value) not in ALLOWED}


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_no_page_knows_what_is_a_competition_s_own(path):
    numbers, names, columns = own_words()
    text = (ROOT / path).read_text(encoding="utf-8")
    words = [str(number) for number in numbers] + [name for name in columns if len(name) > 3]  # "img" is HTML's, too
    found = [word for word in words if re.search(rf"(?<![\w#.]){re.escape(word)}(?![\w%])", text)]
    assert not found + [name for name in names if name in text]


def test_the_four_are_described_and_what_is_their_own_is_known():
    numbers, names, columns = own_words()
    assert {"tgs", "airbus", "severstal", "carvana"} <= DESCRIBED.keys()
    assert {101, 768, 1600, 1918, 1280} <= numbers and "carvana-image-masking-challenge" in names
    assert {"rle_mask", "EncodedPixels", "ImageId_ClassId", "img", "z"} <= columns
