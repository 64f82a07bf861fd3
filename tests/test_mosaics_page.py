"""scripts/mosaics.py: the table and the page of the rebuilt slices."""

import json
import re

import numpy as np
import pytest

from salt.layout import write_competition
from salt.mosaics import Mosaics, draw_mosaic, match_contrast, read_mosaics
from salt.slices import synthetic_slices
from salt.tgs import COMPETITION as TGS
from scripts import mosaics


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """Three slices, three quarters of whose tiles are training tiles."""
    tiles = synthetic_slices(3, 4, 4, seed=5)
    ids = np.array([f"t{number:02}" for number in range(48)])
    folder = tmp_path_factory.mktemp("slices") / "data"
    depths = np.full(48, 100.0)
    train = (ids[:36], tiles.images[:36], tiles.masks[:36], depths[:36])
    return tiles, ids, write_competition(TGS, folder, *train, ids[36:], tiles.images[36:], depths[36:])


def test_the_command_writes_where_each_tile_lies_and_a_page(competition, tmp_path, capsys):
    tiles, ids, folder = competition
    assert mosaics.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "48 of 48 tiles lie in 3 mosaics, 72 seams" in capsys.readouterr().out
    found = read_mosaics(tmp_path / "out" / "mosaics.csv", ids)
    for number in range(3):
        inside = tiles.mosaic == number
        assert len(set(found.mosaic[inside])) == 1
        np.testing.assert_array_equal(found.row[inside], tiles.row[inside])
        np.testing.assert_array_equal(found.column[inside], tiles.column[inside])
    page = (tmp_path / "out" / "mosaics.html").read_text(encoding="utf-8")
    assert "48 of 48 tiles lie in 3 mosaics" in page and 'id="slice-2"' in page and 'id="salt-2"' in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    shown = {tile["id"]: tile for each in data["mosaics"] for tile in each["tiles"]}
    assert sorted(shown) == ids.tolist() and [shown[tile]["test"] for tile in ids] == [False] * 36 + [True] * 12
    assert sum(tile["right"] for tile in shown.values()) == 36 == sum(tile["below"] for tile in shown.values())


def test_tiles_that_make_no_mosaic_are_named(competition, tmp_path, capsys):
    _, ids, _ = competition
    black, depths = np.zeros((4, 101, 101), np.uint8), np.full(4, 100.0)
    folder = write_competition(TGS, tmp_path / "black", ids[:4], black, black, depths, ids[4:6], black[:2], depths[:2])
    assert mosaics.main([str(folder), "--out", str(tmp_path / "out")]) == 1
    assert "0 of 6 tiles are neither black nor constant" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_drawn_slice_has_one_contrast():
    rows = np.linspace(0, 3, 40)[:, None] + np.sin(np.linspace(0, 9, 60))[None]
    scene = np.sin(5 * rows)
    images = np.stack([60 * scene[:, :30] + 90, 30 * scene[:, 30:] + 150]).astype(np.uint8)
    factor, shift = match_contrast(images[0], images[1], 1)
    assert factor == pytest.approx(2, abs=0.2) and shift == pytest.approx(90 - 300, abs=25)
    assert match_contrast(images[1], images[0], 0)[0] == pytest.approx(0.5, abs=0.05)
    place = Mosaics(np.zeros(2, int), np.zeros(2, int), np.arange(2), np.ones(2))
    drawn = draw_mosaic(images, place, 0).astype(float)
    assert drawn.shape == (40, 60) and np.corrcoef(drawn.ravel(), scene.ravel())[0, 1] > 0.99


def test_slices_of_colour_images_are_refused(tmp_path, capsys):
    assert mosaics.main([str(tmp_path), "--competition", "airbus"]) != 0
    assert "channels=3" in capsys.readouterr().err
