import dataclasses
import json
import sys
import types

import pytest

from desk import competitions, planning
from desk.building import Program
from desk.competitions import (
    competition_as_before,
    competition_of,
    competition_of_file,
    find_description,
    load_competition,
)
from desk.errors import ConfigurationError
from desk.local import kernels
from desk.local.endings import seal
from desk.records import read_object
from desk.runs import METADATA, Run
from salt.config import Config, config_to_dict
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


def test_a_kernel_goes_on_with_the_competition_of_an_earlier_run():
    severstal, own = load_competition("severstal").slug, ["--competition is read by kernels of ours"]
    assert competition_as_before(None, [TGS.slug], severstal, "run a") == "severstal"
    assert competition_as_before(None, [TGS.slug], TGS.slug, "run a") is None
    assert competition_as_before("severstal", [severstal], severstal, "run a") == "severstal"
    for sources, slug in (([TGS.slug], None), ([TGS.slug], "snails"), ([], severstal), (own, severstal)):
        assert competition_as_before(None, sources, slug, "run a") is None
    with pytest.raises(ConfigurationError, match="--competition tgs: run a is of severstal; leave the option out"):
        competition_as_before("tgs", [TGS.slug], severstal, "run a")


def test_resumed_and_mounted_runs_say_what_a_kernel_is_built_for(tmp_path):
    severstal, program = load_competition("severstal").slug, Program("train")
    manifest = {"run_id": "train-1", "competition": severstal}
    assert kernels.of_same_competition(program, manifest).competition == "severstal"
    assert kernels.of_same_competition(program, {"run_id": "train-1"}) == program
    with pytest.raises(ConfigurationError, match="--competition airbus: run train-1 is of severstal"):
        kernels.of_same_competition(Program("train", competition="airbus"), manifest)
    pushed = tmp_path / "train-2" / "pushed"
    pushed.mkdir(parents=True)
    metadata = {"id": "a/b", "title": "b", "code_file": "b.ipynb", "competition_sources": [severstal]}
    (pushed / METADATA).write_text(json.dumps(metadata))
    for name in ("resumed", "mounted"):
        request = planning.PushRequest(program, tmp_path, **{name: Run(tmp_path / "train-2")})
        assert planning.of_same_competition(request).competition == "severstal"
    assert planning.of_same_competition(planning.PushRequest(program, tmp_path)) == program


def test_the_manifest_of_a_run_that_was_killed_says_its_competition(tmp_path):
    (tmp_path / "working" / "state").mkdir(parents=True)
    (tmp_path / "built" / "train").mkdir(parents=True)
    (tmp_path / "working" / "state" / "run.json").write_text(json.dumps({"config": config_to_dict(Config())}))
    sources = {"competition_sources": [load_competition("airbus").slug]}
    (tmp_path / "built" / "train" / METADATA).write_text(json.dumps(sources))
    seal("train", tmp_path, "train-3")
    assert read_object(tmp_path / "working" / "manifest.json")["competition"] == "airbus-ship-detection"
