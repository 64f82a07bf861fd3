"""First descriptions from files: those of the built-in competitions are found out, but for what no file says."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from desk.errors import ConfigurationError
from salt.airbus import COMPETITION as AIRBUS
from salt.carvana import COMPETITION as CARVANA
from salt.competition import find_competition
from salt.data import read_test, read_train
from salt.description import Table
from salt.scenes import write_scenes
from salt.severstal import COMPETITION as SEVERSTAL
from salt.stacks import all_sides
from salt.tgs import COMPETITION as TGS
from scripts import new_competition

SMALL = {
    "airbus": dataclasses.replace(AIRBUS, size=(60, 60)),
    "severstal": dataclasses.replace(SEVERSTAL, size=(32, 120)),
    "in_two_columns": dataclasses.replace(
        SEVERSTAL,
        size=(32, 120),
        train_table=SEVERSTAL.train_table.others[0],
        sample_submission=SEVERSTAL.sample_submission.others[0],
    ),
    "carvana": dataclasses.replace(CARVANA, size=(40, 60)),
    # Not described in the repository: by the walk-through as a new user would, from files in its published layout.
    "clouds": dataclasses.replace(
        SEVERSTAL,
        slug="understanding_cloud_organization",
        size=(35, 52),
        classes=("Fish", "Flower", "Gravel", "Sugar"),
        train_table=Table("train.csv", {"Image_Label": "{tile}.jpg_{class}", "EncodedPixels": "{mask}"}),
        sample_submission=Table(
            "sample_submission.csv", {"Image_Label": "{tile}.jpg_{class}", "EncodedPixels": "{mask}"}
        ),
    ),
    "of several sizes": dataclasses.replace(CARVANA, size=None),
    "salt": dataclasses.replace(
        TGS, size=(40, 40), depths_table=None, blank=None, remarks=None, find_mosaics=None, find_neighbours=None
    ),
}
# What no file says, or says otherwise: the metric, words for people, functions, and in which form a table came.
UNSEEN = {"slug", "label", "title", "target", "metric", "group", "classes"}


def described(folder, slug, data):
    """The description that the script writes."""
    assert new_competition.main([slug, "--data", str(data), "--name", "draft", "--folder", str(folder)]) == 0
    spec = importlib.util.spec_from_file_location("draft", folder / "draft.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.COMPETITION


@pytest.mark.parametrize("name", SMALL)
def test_what_the_files_of_a_competition_say_is_found_out(tmp_path, name, capsys):
    competition = SMALL[name]
    write_scenes(competition, tmp_path / "data", train=16, test=4, progress=False)
    found = described(tmp_path, competition.slug, tmp_path / "data")
    for field in dataclasses.fields(competition):
        if field.name not in UNSEEN:
            own, other = getattr(found, field.name), getattr(competition, field.name)
            if hasattr(other, "others"):
                other = dataclasses.replace(other, others=())
            assert own == other, field.name
    assert found.slug == competition.slug and (len(found.classes) == 1 or found.classes == competition.classes)
    assert "written: " in capsys.readouterr().out
    data = [find_competition(tmp_path / "data", each) for each in (found, competition)]
    mine, true = (read_train(each, progress=False) for each in data)
    for one, other in ((mine.masks, true.masks), (mine.images, true.images)):
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    assert len(read_test(data[0], progress=False).ids) == 4


def test_a_folder_without_masks_and_a_name_that_is_taken_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("id,label\na,3\n")
    options = ["x-y", "--data", str(tmp_path / "data"), "--folder", str(tmp_path)]
    with pytest.raises(ConfigurationError, match=r"none of its tables has a column of run lengths .*train.csv"):
        new_competition.write_description(new_competition.parse_arguments(options))
    (tmp_path / "x.py").write_text("")
    with pytest.raises(ConfigurationError, match="is there already"):
        new_competition.write_description(new_competition.parse_arguments(options))


def test_images_of_several_sizes_are_told_and_so_described(tmp_path, capsys):
    competition = SMALL["of several sizes"]
    data = write_scenes(competition, tmp_path / "data", train=6, test=2, progress=False)
    assert described(tmp_path, competition.slug, data).size is None
    said = " ".join(capsys.readouterr().out.split())
    sides = all_sides(read_train(find_competition(data, competition), progress=False).images)
    largest = f"{sides[:, 1].max()} x {sides[:, 0].max()}"
    assert "size None" in said and "of 6 images that were looked at have" in said and f"others up to {largest}" in said
