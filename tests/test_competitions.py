import dataclasses
import sys
import types

import pytest

from desk import competitions
from desk.competitions import competition_of, competition_of_file, find_description, load_competition
from desk.errors import ConfigurationError
from salt.tgs import COMPETITION as TGS


def test_a_competition_is_found_by_its_module_its_slug_and_by_the_path_of_a_file(tmp_path):
    assert load_competition("tgs") is load_competition(TGS.slug) is competition_of({}) is TGS
    own = tmp_path / "snails.py"
    own.write_text(
        "import dataclasses\nfrom salt.tgs import COMPETITION as OTHER\n"
        "COMPETITION = dataclasses.replace(OTHER, slug='snails')\n"
    )
    assert load_competition(str(own)).slug == "snails"


def test_what_is_described_nowhere_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(ConfigurationError, match="competition 'snails' is not described: salt/ describes .*tgs"):
        find_description("snails")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(ConfigurationError, match="has no COMPETITION"):
        load_competition(str(empty))


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ("id,rle_mask", "tgs"), ("ImageId,EncodedPixels", "airbus"), ("img,rle_mask", "carvana"),
        ("ImageId_ClassId,EncodedPixels", "severstal"), ("ImageId,EncodedPixels,ClassId", "severstal"),
    ],
)  # fmt: skip
def test_what_a_submission_is_for_follows_from_its_columns(tmp_path, columns, name):
    (tmp_path / "mine.csv").write_text(f"{columns}\na,1 1,1\n")
    assert competition_of_file(tmp_path / "mine.csv") is load_competition(name)


def test_columns_that_nobody_or_several_have_are_an_error_that_names_the_option(tmp_path, monkeypatch):
    path = tmp_path / "mine.csv"
    path.write_text("Image_Label,EncodedPixels\nx,1 1\n")
    with pytest.raises(ConfigurationError, match="Image_Label,EncodedPixels', of no submission .*carvana img,rle_mask"):
        competition_of_file(path)
    for name, text in {"one": "id,rle_mask", "two": "rle_mask,id"}.items():
        other = dataclasses.replace(TGS, slug=name)
        monkeypatch.setitem(sys.modules, f"salt.{name}", types.SimpleNamespace(COMPETITION=other))
        (tmp_path / f"{name}.py").write_text(f'COMPETITION = Competition(\n    slug="{name}",\n)\n')
        path.write_text(f"{text}\nx,1 1\n")
    monkeypatch.setattr(competitions, "DESCRIPTIONS", tmp_path)
    with pytest.raises(ConfigurationError, match="those of one and two; say by --competition C"):
        competition_of_file(path)
