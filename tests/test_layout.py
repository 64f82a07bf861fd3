"""Competitions as they are written: Kaggle's layout, the same bytes each time, whole or not at all."""

import dataclasses
import os
import shutil
import stat
import zipfile

import cv2
import numpy as np
import pytest

import salt.layout
from salt.competition import DataError, find_competition
from salt.layout import write_competition
from salt.tgs import COMPETITION as TGS


def written(folder, train, test):
    return write_competition(
        TGS, folder, train.ids, train.images, train.masks, train.depths, test.ids, test.images, test.depths
    )


def test_the_same_arrays_give_the_same_bytes(tmp_path, synthetic_folder, synthetic_train, synthetic_test):
    again = written(tmp_path / "elsewhere" / "again", synthetic_train, synthetic_test)
    names = sorted(path.name for path in again.iterdir())
    assert names == ["depths.csv", "sample_submission.csv", "test.zip", "train.csv", "train.zip"]
    for name in names:
        assert (again / name).read_bytes() == (synthetic_folder / name).read_bytes(), name
    assert os.listdir(again.parent) == ["again"]
    assert stat.S_IMODE(again.stat().st_mode) & 0o500 == 0o500


def test_the_layout_is_kaggles(synthetic_folder, synthetic_train, synthetic_test):
    with zipfile.ZipFile(synthetic_folder / "train.zip") as archive:
        infos = {info.filename: info for info in archive.infolist()}
        assert {info.compress_type for info in infos.values()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in infos.values()} == {(2018, 7, 19, 0, 0, 0)}
        assert set(infos) == {f"{kind}/{i}.png" for i in synthetic_train.ids for kind in ("images", "masks")}
        for tile_id, mask in zip(synthetic_train.ids, synthetic_train.masks, strict=True):
            content = np.frombuffer(archive.read(f"masks/{tile_id}.png"), np.uint8)
            pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED).squeeze()
            assert pixels.dtype == (np.uint16 if mask.any() else np.uint8)
            assert set(np.unique(pixels)) <= {0, 65535}
    with zipfile.ZipFile(synthetic_folder / "test.zip") as archive:
        assert archive.namelist() == [f"images/{tile_id}.png" for tile_id in synthetic_test.ids]
    lines = (synthetic_folder / "sample_submission.csv").read_text().splitlines()
    assert lines == ["id,rle_mask", *(f"{tile_id},1 1" for tile_id in synthetic_test.ids)]
    empty = synthetic_train.ids[~synthetic_train.masks.any(axis=(1, 2))][0]
    assert f"\n{empty},\n" in (synthetic_folder / "train.csv").read_text()
    assert (synthetic_folder / "depths.csv").read_text().splitlines()[1] == (
        f"{synthetic_train.ids[0]},{synthetic_train.depths[0]:.0f}"
    )


def test_the_rle_in_the_table_runs_down_the_columns(tmp_path):
    masks = np.zeros((1, 101, 101), np.uint8)
    masks[0, 2:5, 1] = 1
    images = np.ones_like(masks)
    write_competition(TGS, tmp_path / "x", ["a"], images, masks, [1.0], ["b"], images, [np.nan])
    assert (tmp_path / "x" / "train.csv").read_text() == "id,rle_mask\na,104 3\n"
    assert (tmp_path / "x" / "depths.csv").read_text() == "id,z\na,1\n"


def test_a_folder_that_holds_something_is_never_overwritten(tmp_path, synthetic_train, synthetic_test):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        written(tmp_path / "full", synthetic_train, synthetic_test)
    assert os.listdir(tmp_path / "full") == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    written(tmp_path / "empty", synthetic_train, synthetic_test)
    assert len(os.listdir(tmp_path / "empty")) == 5


def test_a_full_disk_leaves_nothing_behind(tmp_path, synthetic_train, synthetic_test, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(salt.layout, "mask_texts", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "x", synthetic_train, synthetic_test)
    assert os.listdir(tmp_path) == []


def test_what_a_kill_leaves_behind_is_not_taken_for_a_competition(tmp_path, synthetic_folder):
    shutil.copytree(synthetic_folder, tmp_path / ".x-abc123")
    with pytest.raises(DataError):
        find_competition(tmp_path, TGS)


def test_arrays_that_do_not_fit_together_are_errors(tmp_path, synthetic_train, synthetic_test):
    for change, why in (
        ({"masks": synthetic_train.masks * np.uint8(255)}, "train masks: the largest value is 255"),
        ({"images": synthetic_train.images[:5]}, "train images: uint8"),
        ({"images": synthetic_train.images / 255}, "train images: float64"),
        ({"depths": synthetic_train.depths[:5]}, "train depths: 5 values; must be 40"),
        ({"ids": np.where(np.arange(40) == 7, synthetic_test.ids[0], synthetic_train.ids)}, "occurs 2 times"),
    ):
        with pytest.raises(DataError, match=why):
            written(tmp_path / "x", dataclasses.replace(synthetic_train, **change), synthetic_test)
    assert os.listdir(tmp_path) == []
