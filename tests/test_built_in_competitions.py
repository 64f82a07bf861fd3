"""The competitions that are described beside TGS: their layouts are written, found, read and submitted to."""

import dataclasses

import cv2
import numpy as np
import pytest

from salt.airbus import COMPETITION as AIRBUS
from salt.archives import DataError
from salt.carvana import COMPETITION as CARVANA
from salt.competition import find_competition
from salt.data import read_test, read_train
from salt.rle import encode_rle
from salt.scenes import synthetic_scenes, write_scenes
from salt.severstal import COMPETITION as SEVERSTAL
from salt.stacks import Stack
from salt.submission import SubmissionError, check_submission, write_submission

SMALL = {  # the same competitions with smaller images: what is tested does not depend on the size
    "airbus": dataclasses.replace(AIRBUS, size=(48, 48)),
    "severstal": dataclasses.replace(SEVERSTAL, size=(16, 100)),
    "severstal in two columns": dataclasses.replace(
        SEVERSTAL, size=(16, 100), train_table=SEVERSTAL.train_table.others[0]
    ),
    "carvana": dataclasses.replace(CARVANA, size=(40, 60)),
}


@pytest.fixture(scope="module", params=SMALL)
def written(request, tmp_path_factory):
    """A competition, its folder, and the tiles in it, those of the test with their masks."""
    competition = SMALL[request.param]
    folder = tmp_path_factory.mktemp("competition") / "data"
    write_scenes(competition, folder, train=12, test=5, progress=False)
    return competition, folder, synthetic_scenes(competition, 17, seed=0, progress=False)


def in_order(tiles, ids):
    return [tiles.ids.tolist().index(each) for each in ids]


def test_what_was_written_is_found_and_read_back(written):
    competition, folder, made = written
    files = find_competition(folder, competition)
    train, test = read_train(files, progress=False), read_test(files, progress=False)
    assert sorted(train.ids) == sorted(made.ids[:12]) and test.ids.tolist() == made.ids[12:].tolist()
    rows = in_order(made, train.ids)
    np.testing.assert_array_equal(train.masks, made.masks[rows])
    assert made.masks.any() and not made.masks.reshape(17, -1).any(axis=1).all()
    difference = np.abs(train.images.astype(int) - made.images[rows])  # JPEG loses a little, the noise above all
    assert difference.mean() < 6 and train.images.shape == (12, *competition.size, 3)
    assert np.abs(train.images.mean(axis=(0, 1, 2)) - made.images[rows].mean(axis=(0, 1, 2))).max() < 1  # red is red


def test_what_is_too_large_for_the_memory_is_read_tile_by_tile_and_is_the_same(written):
    competition, folder, _ = written
    files = find_competition(folder, competition)
    whole, train = read_train(files, progress=False), read_train(files, progress=False, most=1000)
    assert isinstance(train.images, Stack) and isinstance(train.masks, Stack)
    for name in ("images", "masks"):
        arrays, stack = getattr(whole, name), getattr(train, name)
        assert stack.shape == arrays.shape and len(stack) == 12 and stack.ndim == arrays.ndim
        np.testing.assert_array_equal(stack[3], arrays[3])
        np.testing.assert_array_equal(stack[[5, 2]], arrays[[5, 2]])
        np.testing.assert_array_equal(stack.subset(np.arange(12) > 8)[1:], arrays[10:])


def test_a_submission_of_the_true_masks_passes_and_says_them(written, tmp_path):
    competition, folder, made = written
    sample = find_competition(folder, competition).sample_submission
    masks = made.masks[12:]
    write_submission(tmp_path / "s.csv", made.ids[12:], masks, competition, sample)
    facts = check_submission(tmp_path / "s.csv", sample, competition)
    stack = masks.reshape(5, -1, len(competition.classes))
    assert facts["empty_share"] == pytest.approx((~stack.any(axis=1)).mean())
    assert facts["mean_coverage"] == pytest.approx(masks.mean())
    one_by_one = iter(masks)
    write_submission(tmp_path / "again.csv", made.ids[12:], one_by_one, competition, sample)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()


def rows_of(path):
    return path.read_text().splitlines()


def test_airbus_has_a_row_for_each_ship_and_one_for_a_sea_without_any(tmp_path):
    competition = SMALL["airbus"]
    masks = np.zeros((2, 48, 48), np.uint8)
    masks[0, 2:5, 3], masks[0, 20:22, 30:33] = 1, 1
    write_submission(tmp_path / "s.csv", ["a", "b"], masks, competition)
    lines = rows_of(tmp_path / "s.csv")
    assert lines[0] == "ImageId,EncodedPixels" and lines[3] == "b.jpg,"
    assert sorted(lines[1:3]) == ["a.jpg,1461 2 1509 2 1557 2", "a.jpg,147 3"]  # 48 a column, numbered from 1
    sample = tmp_path / "sample.csv"
    sample.write_text("ImageId,EncodedPixels\na.jpg,1 2\nb.jpg,1 2\n")
    assert check_submission(tmp_path / "s.csv", sample, competition)["rows"] == 3
    for rows, message in (
        ("a.jpg,1 3\na.jpg,3 2\nb.jpg,", "id 'a': two of its objects overlap"),
        ("a.jpg,1 3\nb.jpg,\nb.jpg,", r"repeated 1: b \(2 times\)"),
        ("a.jpg,1 3", "missing 1: b"),
        ("a,1 3\nb.jpg,", "line 2 is 'a,1 3'"),
    ):
        (tmp_path / "s.csv").write_text(f"ImageId,EncodedPixels\n{rows}\n")
        with pytest.raises(SubmissionError, match=message):
            check_submission(tmp_path / "s.csv", sample, competition)


def test_severstal_has_a_row_for_each_image_and_class_in_the_columns_of_the_sample(tmp_path):
    competition = SMALL["severstal"]
    masks = np.zeros((1, 16, 100, 4), np.uint8)
    masks[0, 1, 2, 2] = 1
    write_submission(tmp_path / "s.csv", ["a"], masks, competition)
    expected = ["a.jpg_1,", "a.jpg_2,", "a.jpg_3,34 1", "a.jpg_4,"]
    assert rows_of(tmp_path / "s.csv") == ["ImageId_ClassId,EncodedPixels", *expected]
    sample = tmp_path / "sample.csv"
    sample.write_text("ImageId,EncodedPixels,ClassId\n" + "".join(f"a.jpg,1 1,{label}\n" for label in "1234"))
    write_submission(tmp_path / "s.csv", ["a"], masks, competition, sample)
    assert rows_of(tmp_path / "s.csv")[3] == "a.jpg,34 1,3"
    assert check_submission(tmp_path / "s.csv", sample, competition)["rows"] == 4
    (tmp_path / "s.csv").write_text("ImageId,EncodedPixels,ClassId\na.jpg,,1\na.jpg,,2\na.jpg,,3\n")
    with pytest.raises(SubmissionError, match="missing 1: a, class 4"):
        check_submission(tmp_path / "s.csv", sample, competition)


def test_carvana_numbers_pixels_along_the_rows(tmp_path):
    competition = SMALL["carvana"]
    mask = np.zeros((1, 40, 60), np.uint8)
    mask[0, 1, 2:6] = 1
    write_submission(tmp_path / "s.csv", ["x_01"], mask, competition)
    assert rows_of(tmp_path / "s.csv") == ["img,rle_mask", "x_01.jpg,63 4"]
    assert encode_rle(mask[0]) == "82 1 122 1 162 1 202 1"


def test_wrong_descriptions_are_refused_with_what_the_files_say(written):
    competition, folder, _ = written
    wrong = {
        r"17 x 11 pixels|\d+ x \d+ pixels; a tile has 11 x 17": {"size": (17, 11)},
        "its colour channels differ; .* must say channels=3": {"channels": 1},
    }
    for message, changes in wrong.items():
        with pytest.raises(DataError, match=message):
            read_train(find_competition(folder, dataclasses.replace(competition, **changes)), progress=False)


def test_a_jpeg_that_is_cut_and_a_gif_that_is_none_are_named(tmp_path):
    folder = tmp_path / "data"
    write_scenes(SMALL["carvana"], folder, train=3, test=1, progress=False)
    import zipfile

    for name, content, message in (
        ("train", cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))[1].tobytes()[:-30], "truncated after"),
        ("train_masks", b"BM123", "not a GIF file"),
    ):
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            members = {each: archive.read(each) for each in archive.namelist()}
        whole = dict(members)
        members[next(iter(members))] = content
        for kept in (members, whole):
            with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
                for each, data in kept.items():
                    archive.writestr(each, data)
            if kept is members:
                with pytest.raises(DataError, match=message):
                    read_train(find_competition(folder, SMALL["carvana"]), progress=False)
