"""What the tests of finding and of reading a competition share: a copy that a test may spoil, and how to spoil it."""

import shutil
import zipfile

import numpy as np
import pytest

from salt.competition import find_competition
from salt.data import read_test, read_train
from salt.tgs import COMPETITION as TGS


def rewrite_zip(path, changes):
    """Replaces, adds or (None) removes members of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members.update(changes)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def unzip(folder, split, into):
    with zipfile.ZipFile(folder / f"{split}.zip") as archive:
        archive.extractall(folder / into)
    (folder / f"{split}.zip").unlink()


@pytest.fixture
def folder(tmp_path, synthetic_folder):
    """A copy of the small competition that a test may spoil."""
    return shutil.copytree(synthetic_folder, tmp_path / "copy")


def read_both(folder):
    competition = find_competition(folder, TGS)
    return read_train(competition, progress=False), read_test(competition, progress=False)


def assert_same(tiles, expected, masks=True):
    np.testing.assert_array_equal(tiles.ids, expected.ids)
    np.testing.assert_array_equal(tiles.images, expected.images)
    np.testing.assert_array_equal(tiles.depths, expected.depths)
    if masks:
        np.testing.assert_array_equal(tiles.masks, expected.masks)
        assert tiles.masks.dtype == np.uint8
    else:
        assert tiles.masks is None
