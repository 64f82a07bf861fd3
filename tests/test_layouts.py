"""A competition's data as people have it: however it was downloaded, unpacked and copied, the same tiles are read."""

import os
import pathlib
import shutil
import subprocess
import sys
import unicodedata
import zipfile

import competition_files
import h5py
import numpy as np
import pytest
from competition_files import assert_same, read_both, rewrite_zip, unzip

from desk.local.competitions import write_part
from desk.local.mounts import mount_competition
from desk.pages.explore import write_exploration
from desk.submitting import find_sample
from salt.artifacts import read_oof
from salt.competition import DataError, find_competition
from salt.data import read_test, read_train
from salt.submission import check_submission, write_submission
from salt.tgs import COMPETITION as TGS

folder = competition_files.folder
ROOT = pathlib.Path(__file__).resolve().parents[1]
SLUG = "tgs-salt-identification-challenge"
TABLES = ("train.csv", "depths.csv", "sample_submission.csv")


def zip_away(folder, name, prefix="", compression=zipfile.ZIP_STORED):
    """Makes one zip of all that is in a folder, and removes it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(folder / name, "w", compression) as archive:
        for path in files:
            archive.writestr(prefix + path.relative_to(folder).as_posix(), path.read_bytes())
    for path in files:
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()


def change_names(archive, change):
    with zipfile.ZipFile(archive) as file:
        members = [(change(name), file.read(name)) for name in file.namelist()]
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members:
            file.writestr(name, content)


def unpack_both(folder, train="train", test="test"):
    unzip(folder, "train", train)
    unzip(folder, "test", test)


def bulk(folder):
    zip_away(folder, f"{SLUG}.zip")


def bulk_of_another_name(folder):
    zip_away(folder, "Übung (1).ZIP", compression=zipfile.ZIP_DEFLATED)


def bulk_with_a_folder_inside(folder):
    zip_away(folder, "all.zip", prefix=f"{SLUG}/input/")


def bulk_of_unpacked_files(folder):
    unpack_both(folder)
    zip_away(folder, "all.zip")


def bulk_of_merged_files(folder):
    unpack_both(folder, ".", ".")
    zip_away(folder, "all.zip", prefix="tgs/")


def bulk_and_what_was_unpacked_of_it(folder):
    shutil.copytree(folder, folder / "copy")
    zip_away(folder / "copy", "all.zip")
    (folder / "copy" / "all.zip").rename(folder / "all.zip")
    (folder / "copy").rmdir()


def bulk_twice(folder):
    bulk(folder)
    shutil.copy(folder / f"{SLUG}.zip", folder / f"{SLUG} (1).zip")


def bulk_beside_tables(folder):
    tables = {name: (folder / name).read_bytes() for name in TABLES}
    zip_away(folder, "all.zip")
    for name, content in tables.items():
        (folder / name).write_bytes(content)


def bulk_made_by_finder(folder):
    with zipfile.ZipFile(folder / "train.zip", "a") as archive:
        archive.writestr("__MACOSX/images/._x.png", b"\0\5\26\7")
        archive.writestr(".DS_Store", b"\0")
    (folder / "train.csv").rename(folder / "Train.CSV")
    zip_away(folder, "Archive.zip", prefix="TGS/")
    with zipfile.ZipFile(folder / "Archive.zip", "a") as archive:
        archive.writestr("__MACOSX/TGS/._Train.CSV", b"\0\5\26\7")
        archive.writestr("TGS/.DS_Store", b"\0")


def folders(folder):
    unpack_both(folder)


def folders_in_folders(folder):
    unpack_both(folder, "train/train", "test/test")


def merged(folder):
    unpack_both(folder, ".", ".")


def training_in_place_and_test_zipped(folder):
    unzip(folder, "train", ".")


def only_test_in_place(folder):
    unzip(folder, "test", ".")


def zips_of_images_and_masks(folder):
    unpack_both(folder, ".", ".")
    for kind in ("images", "masks"):
        zip_away(folder / kind, f"{kind}.zip", prefix=f"{kind}/")
        (folder / kind / f"{kind}.zip").rename(folder / f"{kind}.zip")


def top_folders(folder):
    for split in ("train", "test"):
        change_names(folder / f"{split}.zip", lambda name, split=split: f"{split}/{name}")


def deeper(folder):
    target = folder / "meine Übungen" / "in put"
    target.mkdir(parents=True)
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(target / path.name)


def zipped_tables(folder):
    for name in TABLES:
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, (folder / name).read_bytes())
            archive.writestr(f"__MACOSX/._{name}", b"\0")
        (folder / name).unlink()


def tables_unpacked_into_folders(folder):
    for name in TABLES:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).mkdir()
        (folder / name / name).write_bytes(content)


def left_by_finder_and_explorer(folder):
    unpack_both(folder)
    for place in (folder, folder / "train", folder / "train" / "images", folder / "train" / "masks"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._x.png", "._train.csv"):
            (place / name).write_bytes(b"\0\5\26\7")
    shutil.copytree(folder / "train", folder / "__MACOSX" / "train")


def other_case(folder):
    unpack_both(folder, "Train", "TEST")
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.parent.name in ("images", "masks"):
            path.rename(path.with_name(path.name.upper()))
    (folder / "Train" / "images").rename(folder / "Train" / "Images")
    for name in TABLES:
        (folder / name).rename(folder / name.upper())


def other_case_in_zips(folder):
    for split in ("train", "test"):
        change_names(folder / f"{split}.zip", str.upper)
        (folder / f"{split}.zip").rename(folder / f"{split.title()}.Zip")


def second_downloads(folder):
    for name in os.listdir(folder):
        stem, _, suffix = name.rpartition(".")
        (folder / name).rename(folder / f"{stem} (1).{suffix}")


def downloaded_twice(folder):
    for name in os.listdir(folder):
        stem, _, suffix = name.rpartition(".")
        shutil.copy(folder / name, folder / f"{stem} (1).{suffix}")


def backslashes(folder):
    for split in ("train", "test"):
        content = (folder / f"{split}.zip").read_bytes()
        (folder / f"{split}.zip").write_bytes(content.replace(b"images/", b"images\\").replace(b"masks/", b"masks\\"))


def dots_before_names(folder):
    for split in ("train", "test"):
        change_names(folder / f"{split}.zip", lambda name: f"./{name}")


def saved_by_a_table_program(folder):
    for name in TABLES:
        text = (folder / name).read_text().replace("id,", "id, ", 1).replace("\n", "\r\n")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.encode())


LAYOUTS = [
    *(bulk, bulk_of_another_name, bulk_with_a_folder_inside, bulk_of_unpacked_files, bulk_of_merged_files),
    *(bulk_and_what_was_unpacked_of_it, bulk_twice, bulk_beside_tables, bulk_made_by_finder, folders),
    *(folders_in_folders, merged, training_in_place_and_test_zipped, only_test_in_place),
    *(zips_of_images_and_masks, top_folders, deeper, zipped_tables, tables_unpacked_into_folders),
    *(left_by_finder_and_explorer, other_case, other_case_in_zips, second_downloads, downloaded_twice, backslashes),
    *(dots_before_names, saved_by_a_table_program),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_tiles_and_nothing_is_unpacked(folder, layout, synthetic_train, synthetic_test):
    layout(folder)
    before = sorted((path, path.stat().st_size) for path in folder.rglob("*"))
    train, test = read_both(folder)
    assert_same(train, synthetic_train)
    assert_same(test, synthetic_test, masks=False)
    assert sorted((path, path.stat().st_size) for path in folder.rglob("*")) == before


@pytest.mark.parametrize("layout", [bulk, merged, other_case, zipped_tables])
def test_what_is_mounted_for_a_notebook_is_found_there(folder, layout, tmp_path, synthetic_train):
    layout(folder)
    (folder / "notes.txt").write_text("not the competition's")
    mount_competition(TGS, folder, tmp_path / "root")
    assert not list((tmp_path / "root").rglob("notes.txt"))
    assert_same(read_both(tmp_path / "root" / "input")[0], synthetic_train)


def test_a_zip_may_be_named_itself(folder, synthetic_train):
    bulk(folder)
    assert_same(read_both(folder / f"{SLUG}.zip")[0], synthetic_train)
    (folder / "broken.zip").write_bytes(b"PK")
    assert_same(read_both(folder / f"{SLUG}.zip")[0], synthetic_train)
    with pytest.raises(DataError, match=r"broken.zip .* is not a whole zip"):
        find_competition(folder / "broken.zip", TGS)


def train_only(folder):
    (folder / "test.zip").unlink()


def train_only_in_place(folder):
    train_only(folder)
    unzip(folder, "train", ".")


def train_only_without_sample(folder):
    train_only(folder)
    (folder / "sample_submission.csv").unlink()


def train_only_in_a_zip(folder):
    train_only(folder)
    zip_away(folder, "training.zip")


def train_only_beside_a_broken_zip(folder):
    train_only(folder)
    (folder / "flamingo.zip").write_bytes(b"PK")


@pytest.mark.parametrize(
    "layout",
    [
        *(train_only, train_only_in_place, train_only_without_sample, train_only_in_a_zip),
        train_only_beside_a_broken_zip,
    ],
)
def test_training_data_alone_are_read_and_what_needs_more_says_so(folder, layout, tmp_path, synthetic_train):
    layout(folder)
    competition = find_competition(folder, TGS)
    assert not competition.has_test()
    assert_same(read_train(competition, progress=False), synthetic_train)
    lacks = "sample_submission.csv" if layout is train_only_without_sample else "test images"
    with pytest.raises(DataError, match=f"has no {lacks}.*prediction and submission need"):
        read_test(competition, progress=False)
    write_part(competition, 12, tmp_path / "part")
    part = find_competition(tmp_path / "part", TGS)
    assert not part.has_test() and len(read_train(part, progress=False).ids) == 12


def test_merged_images_without_the_sample_are_told_apart_by_the_depths(folder, synthetic_train):
    merged(folder)
    (folder / "sample_submission.csv").unlink()
    assert_same(read_train(find_competition(folder, TGS), progress=False), synthetic_train)


def test_merged_images_that_no_table_knows_are_named(folder):
    merged(folder)
    shutil.copy(next((folder / "images").iterdir()), folder / "images" / "stranger.png")
    with pytest.raises(DataError, match="stranger.png: its id is not in train.csv"):
        read_both(folder)


def test_composed_and_decomposed_umlauts_are_the_same_id(folder, synthetic_train):
    tile_id = synthetic_train.ids[3]
    for name in ("train.csv", "depths.csv"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(tile_id, "Möhre"), encoding="utf-8")
    decomposed = unicodedata.normalize("NFD", "Möhre")
    change_names(folder / "train.zip", lambda name: name.replace(tile_id, decomposed))
    train, _ = read_both(folder)
    assert train.ids[3] == "Möhre"
    np.testing.assert_array_equal(train.images, synthetic_train.images)


def differing_table(folder):
    (folder / "Train.csv").write_text("id,rle_mask\na,\n")
    return "train.csv", "Train.csv"


def differing_zipped_table(folder):
    with zipfile.ZipFile(folder / "depths.csv.zip", "w") as archive:
        archive.writestr("depths.csv", "id,z\n")
    return "depths.csv", "depths.csv.zip/depths.csv"


def differing_archives(folder):
    shutil.copy(folder / "train.zip", folder / "train (1).zip")
    rewrite_zip(folder / "train (1).zip", {"images/more.png": b""})
    return "train.zip", "train (1).zip"


def two_bulk_zips(folder):
    zip_away(folder, "one.zip")
    shutil.copy(folder / "one.zip", folder / "two.zip")
    rewrite_zip(folder / "two.zip", {"train.csv": b"id,rle_mask\n"})
    return "one.zip", "two.zip"


def two_folders(folder):
    unpack_both(folder)
    shutil.copytree(folder / "train", folder / "train 2")
    return "train/images", "train 2/images"


def two_competitions(folder):
    for name in ("one", "two"):
        shutil.copytree(folder, folder.parent / "both" / name)
    shutil.rmtree(folder)
    (folder.parent / "both").rename(folder)
    return "one", "two"


def two_files_for_an_id(folder):
    unpack_both(folder)
    image = next((folder / "train" / "images").iterdir())
    image.rename(image.with_name(image.stem.upper() + "X.png"))
    shutil.copy(image.with_name(image.stem.upper() + "X.png"), image.with_suffix(".PNG"))
    shutil.copy(image.with_suffix(".PNG"), image)
    return image.name, image.with_suffix(".PNG").name


@pytest.mark.parametrize(
    "layout",
    [
        *(differing_table, differing_zipped_table, differing_archives, two_bulk_zips, two_folders, two_competitions),
        two_files_for_an_id,
    ],
)
def test_what_is_ambiguous_is_an_error_that_names_both(folder, layout):
    names = layout(folder)
    with pytest.raises(DataError) as error:
        read_both(folder)
    for name in names:
        assert name in str(error.value)


@pytest.mark.parametrize("layout", [bulk, zipped_tables])
def test_a_submission_is_checked_against_a_sample_in_a_zip(folder, layout, tmp_path, synthetic_test):
    layout(folder)
    write_submission(tmp_path / "submission.csv", synthetic_test.ids, synthetic_test.masks, TGS)
    assert check_submission(tmp_path / "submission.csv", find_sample(None, TGS, folder), TGS)["rows"] == len(
        synthetic_test.ids
    )


def test_the_page_about_the_data_does_not_tell_how_they_lay(folder, tmp_path, synthetic_folder):
    bulk(folder)
    for name, place in (("plain", synthetic_folder), ("bulk", folder)):
        write_exploration(tmp_path / f"{name}.html", *read_both(place))
    assert (tmp_path / "plain.html").read_bytes() == (tmp_path / "bulk.html").read_bytes()


def read_arrays(path):
    """Every array of an HDF5 file, by its name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def call(script, *arguments):
    command = [sys.executable, f"scripts/{script}.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def train(data, runs):
    """The folder of a run of the train notebook."""
    call("run_local", "train", "--preset", "smoke", "--data", data, "--set", "epochs=3", "--runs", runs)
    (run,) = [path for path in runs.iterdir() if path.name.startswith("train")]
    return run


@pytest.fixture(scope="module")
def plain_run(synthetic_folder, tmp_path_factory):
    """A run on the competition's own files."""
    return train(synthetic_folder, tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [bulk, folders, merged, train_only, top_folders, deeper])
def test_a_notebook_trains_to_the_same_bits_on_every_layout(folder, layout, synthetic_folder, plain_run, tmp_path):
    layout(folder)
    runs = [plain_run, train(folder, tmp_path)]
    np.testing.assert_array_equal(*(read_oof(run / "oof.npz").probabilities for run in runs))
    weights = [read_arrays(run / "fold0.weights.h5") for run in runs]
    assert weights[0].keys() == weights[1].keys() and weights[0]
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])
    pages = []
    for data in (synthetic_folder, folder):
        call("report", plain_run, "--data", data)
        pages.append((plain_run / "report.html").read_bytes())
    assert pages[0] == pages[1]
