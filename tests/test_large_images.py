"""Competitions whose images do not fit into memory: nothing reads all of them, and nothing decodes what it can do
without."""

import dataclasses
import functools
import shutil
import tracemalloc

import cv2
import numpy as np
import pytest

from desk.benchmarks import large
from desk.pages import report as report_page
from desk.scoring import open_run, score_runs
from salt import stacks
from salt.airbus import COMPETITION as AIRBUS
from salt.archives import DataError
from salt.artifacts import Oof, read_oof, write_manifest, write_oof
from salt.carvana import COMPETITION as CARVANA
from salt.competition import find_competition
from salt.config import preset
from salt.data import describe_tiles, read_train
from salt.folds import stratification_classes
from salt.levels import count_oof
from salt.parts import join_oof
from salt.postprocess import postprocess
from salt.scenes import write_scenes
from salt.severstal import COMPETITION as SEVERSTAL
from salt.stacks import Stack, marked_pixels

SMALL = {
    "airbus": dataclasses.replace(AIRBUS, size=(48, 48)),
    "severstal": dataclasses.replace(SEVERSTAL, size=(16, 100)),
    "carvana": dataclasses.replace(CARVANA, size=(40, 60)),
}
COUNT = 64  # images, so large that no few of them weigh as much as all
LARGE = dataclasses.replace(CARVANA, size=(512, 768), train_masks=None)


@pytest.fixture(scope="module", params=SMALL)
def read(request, tmp_path_factory):
    """The same tiles, as arrays and tile by tile."""
    folder = tmp_path_factory.mktemp("competition") / "data"
    files = find_competition(write_scenes(SMALL[request.param], folder, 10, 2, progress=False), SMALL[request.param])
    return read_train(files, progress=False), read_train(files, progress=False, most=1000)


def test_marked_pixels_folds_and_descriptions_are_known_from_the_run_lengths_alone(read, monkeypatch):
    whole, train = read
    monkeypatch.setattr(stacks, "decode_rles", None)
    marked = whole.known_masks().sum(axis=(1, 2), dtype=np.int64)
    np.testing.assert_array_equal(marked_pixels(whole.known_masks()), marked)
    np.testing.assert_array_equal(marked_pixels(train.known_masks()), marked)
    rows = np.array([7, 2, 5])
    np.testing.assert_array_equal(marked_pixels(stacks.subset(train.known_masks(), rows)), marked[rows])
    blank = np.zeros(10, bool)
    classes = stratification_classes(whole.known_masks(), blank)
    np.testing.assert_array_equal(stratification_classes(train.known_masks(), blank), classes)
    assert describe_tiles(train) == describe_tiles(whole)


def test_predictions_that_are_read_one_by_one_are_counted_and_made_masks_as_arrays_are(read):
    masks = read[0].known_masks()
    probabilities = np.random.default_rng(0).integers(0, 256, masks.shape, dtype=np.uint8)
    fold = np.arange(10, dtype=np.int8) % 2
    whole = Oof(read[0].ids, fold, probabilities, masks)
    stack = Stack(lambda index: probabilities[index], masks.shape)
    for counted, expected in zip(
        count_oof(whole._replace(probabilities=stack, masks=read[1].masks)), count_oof(whole), strict=True
    ):
        np.testing.assert_array_equal(counted, expected)
    np.testing.assert_array_equal(postprocess(stack, 100, 700)[:], postprocess(probabilities, 100, 700))


def test_the_parts_of_a_run_are_joined_without_reading_their_predictions(read, tmp_path):
    masks = read[1].masks
    for part in (0, 1):
        rows = np.arange(10) % 2 == part
        some, fold = stacks.subset(masks, rows), np.full(5, part, np.int8)
        write_oof(tmp_path / str(part) / "oof.npz", Oof(read[1].ids[rows], fold, some, some))
    for folders in (["0"], ["0", "1"]):
        joined = join_oof([tmp_path / name for name in folders])
        assert isinstance(joined.masks, Stack) and isinstance(joined.probabilities, Stack)
        assert len(joined.ids) == len(joined.fold) == 5 * len(folders)
        rows = [read[1].ids.tolist().index(name) for name in joined.ids]
        np.testing.assert_array_equal(joined.probabilities[:], read[0].masks[rows])


def test_a_large_image_of_another_size_is_named_before_anything_is_trained(tmp_path):
    written = write_scenes(SMALL["carvana"], tmp_path / "data", 4, 1, progress=False)
    for unpacked in (False, True):
        if unpacked:
            shutil.unpack_archive(written / "train.zip", written / "train")
            (written / "train.zip").unlink()
        files = find_competition(written, dataclasses.replace(SMALL["carvana"], size=(60, 40), train_masks=None))
        with pytest.raises(DataError, match=r"4 problems.*\n.*jpg: 60 x 40 pixels; a tile has 40 x 60"):
            read_train(files, progress=False, most=1000)
    one = next((written / "train").iterdir())
    one.write_bytes(b"GIF87a?")
    files = find_competition(written, dataclasses.replace(SMALL["carvana"], train_masks=None))
    with pytest.raises(DataError, match=f"1 problem .*\n.*{one.name}: not a picture, or damaged"):
        read_train(files, progress=False, most=1000)


def test_scores_and_the_page_of_many_large_images_hold_a_few_of_them_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "MADE", 4)
    monkeypatch.setattr("salt.carvana.COMPETITION", LARGE)
    large.linked_competition(tmp_path / "data", COUNT)
    monkeypatch.setattr(report_page, "read_train", functools.partial(read_train, most=1 << 20))
    tiles = read_train(find_competition(tmp_path / "data", LARGE), progress=False, most=1 << 20)
    masks = tiles.known_masks()
    made = [cv2.blur(np.uint8(200) * masks[row], (9, 9)) for row in range(4)]
    oof = Oof(tiles.ids, np.arange(COUNT, dtype=np.int8) % 2, Stack(lambda row: made[row % 4], masks.shape), masks)
    tracemalloc.start()
    write_oof(tmp_path / "run" / "oof.npz", oof)
    write_manifest(tmp_path / "run", "run", "train", preset("smoke", train_folds=(0, 1)), competition=LARGE.slug)
    monkeypatch.setattr("desk.scoring.competition_of", lambda manifest: LARGE)
    run = open_run(tmp_path / "run")
    assert isinstance(read_oof(tmp_path / "run" / "oof.npz").masks, Stack)
    assert score_runs([run], run.oof)["tiles"] == COUNT
    scored = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    report_page.write_report(tmp_path / "run", None, tmp_path / "data")
    shown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pixels = COUNT * 512 * 768  # bytes of all masks; of the predictions as many, of the images three times as many
    assert scored < pixels
    assert shown < 3 * pixels
