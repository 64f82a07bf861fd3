import json

import pytest

from salt.artifacts import MANIFEST, ArtifactError, write_manifest
from salt.config import config_to_dict, preset
from salt.resume import STATE_FOLDER, differing_settings, resume_run


@pytest.fixture
def mount(tmp_path):
    """The output of an unfinished run, as Kaggle mounts it."""
    folder = tmp_path / "input" / "notebooks" / "me" / "salt-train"
    (folder / STATE_FOLDER / "fold1").mkdir(parents=True)
    (folder / STATE_FOLDER / "run.json").write_text("{}")
    (folder / STATE_FOLDER / "fold1" / "epoch-00002.weights.h5").write_bytes(b"state")
    (folder / STATE_FOLDER / "fold1" / ".half-written-0.weights.h5").write_bytes(b"half")
    (folder / "fold0.weights.h5").write_bytes(b"weights")
    (folder / "history.csv").write_text("fold,epoch\n")
    write_manifest(folder, "train-1", "train", preset("smoke"), finished=False)
    return folder


def test_state_and_finished_weights_are_taken_over_and_nothing_else(tmp_path, mount):
    manifest = resume_run([tmp_path / "input"], "train-1", preset("smoke"), tmp_path / "working")
    assert manifest["run_id"] == "train-1"
    files = {path.relative_to(tmp_path / "working").as_posix() for path in (tmp_path / "working").rglob("*.*")}
    assert files == {"fold0.weights.h5", f"{STATE_FOLDER}/run.json", f"{STATE_FOLDER}/fold1/epoch-00002.weights.h5"}
    assert (tmp_path / "working" / "fold0.weights.h5").read_bytes() == b"weights"


def test_other_settings_are_named_and_refused_but_not_those_that_change_nothing(tmp_path, mount):
    roots, folder = [tmp_path / "input"], tmp_path / "working"
    with pytest.raises(ArtifactError, match="train-1 was begun with epochs=2, tta='flip': resume it with"):
        resume_run(roots, "train-1", preset("smoke", epochs=9, tta="none"), folder)
    assert not folder.exists()
    resume_run(roots, "train-1", preset("smoke", limit_minutes=5.0, workers=2, gpu=True), folder)


def test_a_setting_that_the_earlier_run_did_not_know_differs():
    values = config_to_dict(preset("smoke"))
    del values["cutout"]
    assert differing_settings(preset("smoke"), values) == ["cutout"]


def test_a_run_that_was_begun_before_a_setting_existed_goes_on_as_it_began(tmp_path, mount):
    path = mount / MANIFEST
    manifest = json.loads(path.read_text())
    for name in ("split", "clip_norm", "accumulate", "cutmix"):
        del manifest["config"][name]
    path.write_text(json.dumps(manifest))
    roots, folder = [tmp_path / "input"], tmp_path / "working"
    assert resume_run(roots, "train-1", preset("smoke"), folder)["run_id"] == "train-1"
    with pytest.raises(ArtifactError, match="train-1 was begun with split='random': resume it with"):
        resume_run(roots, "train-1", preset("smoke", split="mosaic"), folder)


def test_a_finished_a_damaged_and_an_absent_run_are_refused(tmp_path, mount):
    roots = [tmp_path / "input"]
    with pytest.raises(ArtifactError, match="train-2 is not mounted, but train-1"):
        resume_run(roots, "train-2", preset("smoke"), tmp_path)
    (mount / "fold0.weights.h5").write_bytes(b"weightz")
    with pytest.raises(ArtifactError, match="fold0.weights.h5 has another SHA-256"):
        resume_run(roots, "train-1", preset("smoke"), tmp_path)
    for finished in ({"finished": True}, {}):  # runs of earlier versions were finished, or had no manifest
        write_manifest(mount, "train-1", "train", preset("smoke"), **finished)
        with pytest.raises(ArtifactError, match="train-1 is finished"):
            resume_run(roots, "train-1", preset("smoke"), tmp_path)
