import json
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from salt.artifacts import (
    ArtifactError,
    EntryReader,
    Oof,
    find_run,
    read_oof,
    read_probabilities,
    verify_run,
    write_manifest,
    write_oof,
    write_probabilities,
)
from salt.config import config_from_dict, preset


@pytest.fixture
def oof():
    rng = np.random.default_rng(0)
    return Oof(
        ids=np.array(["a", "b", "c"]),
        fold=np.array([0, 1, 0], np.int8),
        probabilities=rng.integers(0, 256, (3, 101, 101), dtype=np.uint8),
        masks=rng.integers(0, 2, (3, 101, 101), dtype=np.uint8),
    )


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "history.csv").write_text("fold,epoch\n0,1\n")
    (folder / "fold0.weights.h5").write_bytes(b"weights")
    write_manifest(folder, "train-1", "train", preset("smoke"), build_id="abc")
    return folder


def test_out_of_fold_predictions_survive_writing_and_reading(tmp_path, oof):
    write_oof(tmp_path / "oof.npz", oof)
    for written, read in zip(oof, read_oof(tmp_path / "oof.npz"), strict=True):
        np.testing.assert_array_equal(written, read)
        assert written.dtype == read.dtype


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="oof.npz: no such file"):
        read_oof(tmp_path / "oof.npz")


@pytest.mark.parametrize("keep", [0, 10, 2000])
def test_a_file_cut_short_is_damaged(tmp_path, oof, keep):
    path = tmp_path / "oof.npz"
    write_oof(path, oof)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="oof.npz: damaged"):
        read_oof(path)


def test_a_file_with_a_flipped_bit_is_damaged(tmp_path, oof):
    path = tmp_path / "oof.npz"
    write_oof(path, oof)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        read_oof(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ids": np.array(["a", "b", "a"])}, "id 'a' is there 2 times"),
        ({"ids": np.array(["a", "b"])}, "fold has shape"),
        ({"fold": np.array([0, -1, 0], np.int8)}, "fold must be whole numbers from 0"),
        ({"masks": np.full((3, 101, 101), 255, np.uint8)}, "masks has the value 255"),
        ({"probabilities": np.zeros((3, 101, 101))}, "probabilities is float64"),
        ({"probabilities": np.zeros((3, 64, 64), np.uint8)}, "has shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, oof, changes, message):
    with pytest.raises(ArtifactError, match=message):
        write_oof(tmp_path / "oof.npz", oof._replace(**changes))
    assert not (tmp_path / "oof.npz").exists()


def test_a_whole_run_passes_and_gives_its_manifest(run):
    manifest = verify_run(run)
    assert manifest["run_id"] == "train-1" and manifest["build_id"] == "abc"
    assert set(manifest["files"]) == {"history.csv", "fold0.weights.h5"}
    assert config_from_dict(manifest["config"]) == preset("smoke")
    assert manifest["versions"]["numpy"] == np.__version__


def test_files_that_came_later_do_not_matter(run):
    (run / "score.json").write_text("{}")
    verify_run(run)


def test_hidden_files_and_state_are_not_the_runs_own(run):
    (run / "_state").mkdir()
    (run / "_state" / "epoch").write_text("x")
    (run / ".virtual_documents").write_text("x")
    assert set(write_manifest(run, "train-1", "train", preset("smoke"))["files"]) == {"history.csv", "fold0.weights.h5"}


def test_a_missing_a_cut_and_a_changed_file_are_each_named(run):
    (run / "extra.csv").write_text("x")
    write_manifest(run, "train-1", "train", preset("smoke"))
    (run / "extra.csv").unlink()
    (run / "fold0.weights.h5").write_bytes(b"weight")
    (run / "history.csv").write_text("fold,epoch\n0,2\n")
    with pytest.raises(ArtifactError) as error:
        verify_run(run)
    for part in ("extra.csv is missing", "fold0.weights.h5 has 6 bytes, not 7", "history.csv has another SHA-256"):
        assert part in str(error.value)


def test_a_file_outside_of_the_folder_is_refused(run):
    (run.parent / "secret").write_text("x")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": "0"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="../secret lies outside"):
        verify_run(run)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"a": 3}}', '{"files": {}}'])
def test_a_damaged_manifest_is_named(run, text):
    (run / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="manifest.json: damaged"):
        verify_run(run)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("run_id", None, "run_id is None, and must be str"), ("config", "x", "config is 'x', and must be dict"),
     ("files", {"a": {"bytes": True, "sha256": ""}}, "files has a with"), ("finished", 1, "finished is 1"),
     ("config", {"train_folds": [0, None]}, "train_folds in config is"), ("level", 0.5, "level is 0.5, and must be"),
     ("minutes", "3", "minutes is '3', and must be float")],
    ids=range(7),
)  # fmt: skip
def test_an_entry_of_a_manifest_that_is_of_another_type_is_named(run, name, value, words):
    whole = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**whole, "minutes": 3, name: value}))
    with pytest.raises(ArtifactError, match=re.escape(words)):
        verify_run(run)


def test_a_manifest_of_another_program_does_not_hide_a_run_and_is_named_where_there_is_none(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('["bower"]')
    assert find_run([tmp_path], "train") == run.resolve()
    with pytest.raises(ArtifactError, match="0 runs of 'predict'.*other/manifest.json: damaged .it is no JSON object"):
        find_run([tmp_path], "predict")


def test_a_folder_without_manifest_is_no_run(tmp_path):
    with pytest.raises(ArtifactError, match="no manifest.json"):
        verify_run(tmp_path)


def test_the_one_mounted_run_of_a_kernel_is_found(run, tmp_path):
    mount = tmp_path / "input" / "notebooks" / "me" / "salt-train"
    mount.parent.mkdir(parents=True)
    run.rename(mount)
    assert find_run([tmp_path / "input", tmp_path / "input"], "train") == mount.resolve()
    with pytest.raises(ArtifactError, match="0 runs of 'predict'"):
        find_run([tmp_path / "input"], "predict")


def test_two_mounted_runs_are_refused(run, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    write_manifest(second, "train-2", "train", preset("smoke"))
    with pytest.raises(ArtifactError, match="2 runs of 'train'.*attach the output of one"):
        find_run([tmp_path], "train")


def test_probabilities_survive_writing_and_reading(tmp_path, oof):
    write_probabilities(tmp_path / "probabilities.npz", oof.ids, oof.probabilities)
    ids, probabilities = read_probabilities(tmp_path / "probabilities.npz")
    assert list(ids) == ["a", "b", "c"] and probabilities.dtype == np.uint8
    np.testing.assert_array_equal(probabilities, oof.probabilities)


def test_probabilities_that_are_missing_damaged_or_of_other_tiles_are_refused(tmp_path, oof):
    path = tmp_path / "probabilities.npz"
    with pytest.raises(ArtifactError, match="no such file; only a finished run of the predict kernel"):
        read_probabilities(path)
    path.write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="damaged"):
        read_probabilities(path)
    for ids, probabilities in ((oof.ids[:2], oof.probabilities), (oof.ids, oof.probabilities / 255)):
        write_probabilities(path, ids, probabilities)
        with pytest.raises(ArtifactError, match=r"is no uint8 \[\d, H, W\]"):
            read_probabilities(path)


def test_threads_that_read_predictions_from_one_file_each_get_theirs(tmp_path):
    arrays = list(np.random.default_rng(0).integers(0, 3, (24, 90, 120), dtype=np.uint8))
    with zipfile.ZipFile(tmp_path / "oof.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for index, array in enumerate(arrays):
            with archive.open(f"probabilities/{index:06}.npy", "w") as entry:
                np.lib.format.write_array(entry, array)
    reader = EntryReader(tmp_path / "oof.npz", "probabilities")
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            assert all(map(np.array_equal, pool.map(reader, range(24)), arrays))
