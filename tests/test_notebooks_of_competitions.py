"""The notebook of each competition holds nothing of another's: neither its code nor a word of what it is about."""

import json
import re

import pytest

import build_kernel

# Code and words of one competition alone. A word stands by itself; names of the package, `salt`, are none of them.
OWN = {
    "tgs": (
        *("LeaderboardScore", "leaderboard_score", "average_precision", "precision_of_counts", "THRESHOLDS_20"),
        *(
            "find_neighbourhood",
            "kept_mosaics",
            "seam",
            "slices",
            "is_black",
            "is_vertical",
            "count_flaws",
            "seismic",
            "TGS",
        ),
        *("101", "salt", "LEADERBOARD_TRIPLES", "decode_png", "check_png"),
    ),
    "airbus": ("F2", "f2_of_counts", "object_f2", "ship", "ships", "768"),
    "severstal": ("steel", "ImageId_ClassId", "JOINT", "1600"),
    "carvana": ("car", "cars", "car_of", "decode_gif", "1918", "1280"),
}


@pytest.fixture(scope="module", params=OWN)
def notebook(request, tmp_path_factory):
    """A competition's name, and the code and texts of its notebooks without the names of the package's files."""
    text = ""
    for kernel in ("train", "predict", "search"):
        folder = build_kernel.build_kernel(
            kernel, out=tmp_path_factory.mktemp("built"), competition=request.param, owner="somebody"
        )
        (path,) = folder.glob("*.ipynb")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text += "\n".join("".join(cell["source"]) for cell in cells)
    names = (
        r"\bsalt[/.]\w+",
        r"#salt-\w+",
        r'id="salt-\w+',
        r'f"salt-',
        r'(package|study_name)="salt"',
        r"import salt\b",
    )
    text = re.sub("|".join(names), "", text)
    return request.param, text


def test_a_notebook_holds_nothing_of_another_competition(notebook):
    name, text = notebook
    for other, words in OWN.items():
        found = [word for word in words if re.search(rf"(?<![\w-])(?<!\d\.){re.escape(word)}(?![\w-])", text)]
        assert other == name or not found, f"{other}'s own in the notebooks of {name}: {found}"
