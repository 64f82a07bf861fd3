"""Where the parts of a competition are found, and what is said when some are missing."""

import dataclasses
import shutil
import zipfile

import competition_files
import pytest
from competition_files import assert_same, read_both, rewrite_zip, unzip

from salt.competition import DataError, find_competition
from salt.tgs import COMPETITION as TGS

folder = competition_files.folder
SLUG = "tgs-salt-identification-challenge"


@pytest.mark.parametrize("place", [f"competitions/{SLUG}", SLUG, ".", "a/b/c/d"])
def test_a_competition_is_found_in_kaggles_mounts_in_the_root_and_below_it(synthetic_folder, tmp_path, place):
    target = tmp_path / "input" / place
    shutil.copytree(synthetic_folder, target)
    competition = find_competition([tmp_path / "absent", tmp_path / "input"], TGS)
    assert competition.folder.resolve() == target.resolve()
    assert competition.train_images.path.name == "train.zip"


def test_the_search_ends_at_a_bounded_depth(synthetic_folder, tmp_path):
    shutil.copytree(synthetic_folder, tmp_path / "a/b/c/d/e")
    with pytest.raises(DataError):
        find_competition(tmp_path, TGS)


def test_the_nested_mount_goes_before_the_flat_one_and_both_before_the_search(synthetic_folder, tmp_path):
    for place in ("aaa", SLUG, f"competitions/{SLUG}"):
        shutil.copytree(synthetic_folder, tmp_path / place)
    assert find_competition(tmp_path, TGS).folder == tmp_path / "competitions" / SLUG
    shutil.rmtree(tmp_path / "competitions")
    assert find_competition(tmp_path, TGS).folder == tmp_path / SLUG
    shutil.rmtree(tmp_path / SLUG)
    assert find_competition(tmp_path, TGS).folder == tmp_path / "aaa"


def test_an_earlier_root_goes_before_a_later_one(synthetic_folder, tmp_path):
    for place in ("one", "two"):
        shutil.copytree(synthetic_folder, tmp_path / place / SLUG)
    assert find_competition([tmp_path / "two", tmp_path / "one"], TGS).folder == tmp_path / "two" / SLUG


def test_half_a_competition_goes_before_nobody(synthetic_folder, tmp_path):
    shutil.copytree(synthetic_folder, tmp_path / SLUG)
    (tmp_path / SLUG / "test.zip").unlink()
    shutil.copytree(synthetic_folder, tmp_path / "whole")
    assert find_competition(tmp_path, TGS).folder == tmp_path / "whole"


def test_finding_reads_no_image(folder):
    with zipfile.ZipFile(folder / "train.zip") as archive:
        end_of_members = archive.start_dir
    with open(folder / "train.zip", "r+b") as file:
        file.write(bytes(end_of_members))
    assert find_competition(folder, TGS).train_images.inside == "images/"


def test_folders_of_the_same_names_as_the_zips_are_read(folder, synthetic_train, synthetic_test):
    unzip(folder, "train", "train")
    unzip(folder, "test", "test")
    train, test = read_both(folder)
    assert_same(train, synthetic_train)
    assert_same(test, synthetic_test, masks=False)


def test_a_zip_goes_before_an_extracted_folder(folder):
    (folder / "train" / "images").mkdir(parents=True)
    (folder / "train" / "images" / "half.png").write_bytes(b"")
    assert find_competition(folder, TGS).train_images.path == folder / "train.zip"


def test_images_and_masks_at_the_top_are_read(folder, synthetic_train):
    unzip(folder, "train", ".")
    assert_same(read_both(folder)[0], synthetic_train)


@pytest.mark.parametrize("extract", [False, True])
def test_a_train_folder_inside_the_zip_is_read(folder, synthetic_train, extract):
    with zipfile.ZipFile(folder / "train.zip") as archive:
        members = {f"train/{name}": archive.read(name) for name in archive.namelist()}
    (folder / "train.zip").unlink()
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("train/", b"")
        archive.writestr("__MACOSX/train/images/._a.png", b"resource fork")
        for name, content in members.items():
            archive.writestr(name, content)
    if extract:
        unzip(folder, "train", "train")
    assert_same(read_both(folder)[0], synthetic_train)


def test_a_zip_with_two_folders_of_images_is_an_error(folder):
    rewrite_zip(folder / "train.zip", {"old/images/a.png": b""})
    with pytest.raises(DataError, match="train.zip/images/ and .*train.zip/old/images/ may both be meant"):
        find_competition(folder, TGS)


def test_without_mask_files_the_masks_come_from_the_table(folder, synthetic_train):
    names = [f"masks/{tile_id}.png" for tile_id in synthetic_train.ids]
    rewrite_zip(folder / "train.zip", dict.fromkeys(names))
    assert find_competition(folder, TGS).train_masks is None
    assert_same(read_both(folder)[0], synthetic_train)


def test_a_missing_competition_is_an_error_that_shows_the_tree_and_the_remedy(tmp_path):
    (tmp_path / "input" / "datasets" / "someone").mkdir(parents=True)
    (tmp_path / "input" / "datasets" / "someone" / "weights.h5").write_text("")
    with pytest.raises(DataError) as error:
        find_competition([tmp_path / "input", tmp_path / "nowhere"], dataclasses.replace(TGS, slug="my-slug"))
    message = str(error.value)
    for part in ("my-slug", "datasets/", "someone/", "weights.h5", f"{tmp_path / 'nowhere'}: does not exist", "remedy"):
        assert part in message


def test_an_empty_root_and_no_root_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"\(empty\)"):
        find_competition(tmp_path, TGS)
    with pytest.raises(DataError, match="no root"):
        find_competition([], TGS)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train.csv", "train.csv"),
        ("train.zip", "training images"),
    ],
)
def test_an_incomplete_competition_is_an_error_that_names_what_is_missing(folder, name, part):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"lacks {part}"):
        find_competition(folder, TGS)


def test_the_printed_tree_is_bounded(tmp_path):
    for i in range(60):
        (tmp_path / f"{i}" / "x").mkdir(parents=True)
        for j in range(30):
            (tmp_path / f"{i}" / "x" / f"{j}").write_text("")
    with pytest.raises(DataError) as error:
        find_competition(tmp_path, TGS)
    lines = str(error.value).splitlines()
    assert 10 < len(lines) < 50
    assert any("more" in line for line in lines)


def test_a_truncated_zip_is_an_error_that_names_it(folder):
    content = (folder / "train.zip").read_bytes()
    (folder / "train.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="train.zip .* is not a whole zip"):
        find_competition(folder, TGS)
