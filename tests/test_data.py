"""salt.data: finding, reading and writing a competition; padding; flags."""

import dataclasses
import os
import shutil
import stat
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest

import salt.data
from salt.competition import DataError, find_competition
from salt.data import check_png, decode_image, decode_mask, read_test, read_train
from salt.layout import write_competition
from salt.tiles import crop_images, is_black, is_vertical, pad_images, pad_offset

SLUG = "tgs-salt-identification-challenge"


def png(pixels, *options) -> bytes:
    return cv2.imencode(".png", pixels, list(options))[1].tobytes()


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
    competition = find_competition(folder)
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


def problems_of(folder, read=read_train) -> str:
    with pytest.raises(DataError) as error:
        read(find_competition(folder), progress=False)
    return str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# Where everything is
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [f"competitions/{SLUG}", SLUG, ".", "a/b/c/d"])
def test_a_competition_is_found_in_kaggles_mounts_in_the_root_and_below_it(synthetic_folder, tmp_path, place):
    target = tmp_path / "input" / place
    shutil.copytree(synthetic_folder, target)
    competition = find_competition([tmp_path / "absent", tmp_path / "input"])
    assert competition.folder.resolve() == target.resolve()
    assert competition.train_images.path.name == "train.zip"


def test_the_search_ends_at_a_bounded_depth(synthetic_folder, tmp_path):
    shutil.copytree(synthetic_folder, tmp_path / "a/b/c/d/e")
    with pytest.raises(DataError):
        find_competition(tmp_path)


def test_the_nested_mount_goes_before_the_flat_one_and_both_before_the_search(synthetic_folder, tmp_path):
    for place in ("aaa", SLUG, f"competitions/{SLUG}"):
        shutil.copytree(synthetic_folder, tmp_path / place)
    assert find_competition(tmp_path).folder == tmp_path / "competitions" / SLUG
    shutil.rmtree(tmp_path / "competitions")
    assert find_competition(tmp_path).folder == tmp_path / SLUG
    shutil.rmtree(tmp_path / SLUG)
    assert find_competition(tmp_path).folder == tmp_path / "aaa"


def test_an_earlier_root_goes_before_a_later_one(synthetic_folder, tmp_path):
    for place in ("one", "two"):
        shutil.copytree(synthetic_folder, tmp_path / place / SLUG)
    assert find_competition([tmp_path / "two", tmp_path / "one"]).folder == tmp_path / "two" / SLUG


def test_half_a_competition_goes_before_nobody(synthetic_folder, tmp_path):
    shutil.copytree(synthetic_folder, tmp_path / SLUG)
    (tmp_path / SLUG / "test.zip").unlink()
    shutil.copytree(synthetic_folder, tmp_path / "whole")
    assert find_competition(tmp_path).folder == tmp_path / "whole"


def test_finding_reads_no_image(folder):
    with zipfile.ZipFile(folder / "train.zip") as archive:
        end_of_members = archive.start_dir
    with open(folder / "train.zip", "r+b") as file:
        file.write(bytes(end_of_members))
    assert find_competition(folder).train_images.inside == "images/"


def test_folders_of_the_same_names_as_the_zips_are_read(folder, synthetic_train, synthetic_test):
    unzip(folder, "train", "train")
    unzip(folder, "test", "test")
    train, test = read_both(folder)
    assert_same(train, synthetic_train)
    assert_same(test, synthetic_test, masks=False)


def test_a_zip_goes_before_an_extracted_folder(folder):
    (folder / "train" / "images").mkdir(parents=True)
    (folder / "train" / "images" / "half.png").write_bytes(b"")
    assert find_competition(folder).train_images.path == folder / "train.zip"


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
    with pytest.raises(DataError, match="2 folders named images: images, old/images"):
        find_competition(folder)


def test_without_mask_files_the_masks_come_from_the_table(folder, synthetic_train):
    names = [f"masks/{tile_id}.png" for tile_id in synthetic_train.ids]
    rewrite_zip(folder / "train.zip", dict.fromkeys(names))
    assert find_competition(folder).train_masks is None
    assert_same(read_both(folder)[0], synthetic_train)


def test_a_missing_competition_is_an_error_that_shows_the_tree_and_the_remedy(tmp_path):
    (tmp_path / "input" / "datasets" / "someone").mkdir(parents=True)
    (tmp_path / "input" / "datasets" / "someone" / "weights.h5").write_text("")
    with pytest.raises(DataError) as error:
        find_competition([tmp_path / "input", tmp_path / "nowhere"], slug="my-slug")
    message = str(error.value)
    for part in ("my-slug", "datasets/", "someone/", "weights.h5", f"{tmp_path / 'nowhere'}: does not exist", "remedy"):
        assert part in message


def test_an_empty_root_and_no_root_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"\(empty\)"):
        find_competition(tmp_path)
    with pytest.raises(DataError, match="no root"):
        find_competition([])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train.csv", "train.csv"),
        ("sample_submission.csv", "sample_submission.csv"),
        ("train.zip", "training images"),
        ("test.zip", "test images"),
    ],
)
def test_an_incomplete_competition_is_an_error_that_names_what_is_missing(folder, name, part):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"lacks {part}"):
        find_competition(folder)


def test_the_printed_tree_is_bounded(tmp_path):
    for i in range(60):
        (tmp_path / f"{i}" / "x").mkdir(parents=True)
        for j in range(30):
            (tmp_path / f"{i}" / "x" / f"{j}").write_text("")
    with pytest.raises(DataError) as error:
        find_competition(tmp_path)
    lines = str(error.value).splitlines()
    assert 10 < len(lines) < 50
    assert any("more" in line for line in lines)


def test_a_truncated_zip_is_an_error_that_names_it(folder):
    content = (folder / "train.zip").read_bytes()
    (folder / "train.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="train.zip .* is not a whole zip"):
        find_competition(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_back_in_the_order_of_the_tables(synthetic_folder, synthetic_train, synthetic_test):
    assert not np.array_equal(synthetic_train.ids, np.sort(synthetic_train.ids)), "the order must show"
    train, test = read_both(synthetic_folder)
    assert_same(train, synthetic_train)
    assert_same(test, synthetic_test, masks=False)
    assert train.ids.dtype.kind == "U" and train.images.dtype == np.uint8 and train.depths.dtype == np.float64
    with pytest.raises(dataclasses.FrozenInstanceError):
        train.ids = None


def test_the_order_is_the_tables_and_not_the_zips(folder, synthetic_train):
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    train = read_both(folder)[0]
    np.testing.assert_array_equal(train.ids, synthetic_train.ids[::-1])
    np.testing.assert_array_equal(train.images, synthetic_train.images[::-1])
    np.testing.assert_array_equal(train.masks, synthetic_train.masks[::-1])


def test_rgb_images_with_equal_channels_are_grey(folder, synthetic_train):
    changes = {
        f"images/{tile_id}.png": png(np.repeat(image[..., None], 3, axis=2))
        for tile_id, image in zip(synthetic_train.ids, synthetic_train.images, strict=True)
    }
    rewrite_zip(folder / "train.zip", changes)
    assert_same(read_both(folder)[0], synthetic_train)


def test_an_opacity_channel_is_ignored():
    image = np.random.default_rng(0).integers(0, 256, (101, 101), np.uint8)
    rgba = np.dstack([image, image, image, np.full_like(image, 255)])
    np.testing.assert_array_equal(decode_image(png(rgba)), image)
    np.testing.assert_array_equal(decode_mask(png(rgba)), image > 0)


@pytest.mark.parametrize(
    ("dtype", "value", "options"),
    [
        (np.uint8, 1, ()),
        (np.uint8, 255, ()),
        (np.uint16, 1, ()),
        (np.uint16, 256, ()),  # its low byte is zero
        (np.uint16, 65535, ()),
        (np.uint8, 255, (cv2.IMWRITE_PNG_BILEVEL, 1)),
    ],
)
def test_any_pixel_above_zero_is_salt_at_any_depth(dtype, value, options):
    mask = np.random.default_rng(0).integers(0, 2, (101, 101)).astype(dtype)
    decoded = decode_mask(png(mask * dtype(value), *options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)


def test_an_image_of_16_bits_is_an_error():
    with pytest.raises(DataError, match="16-bit image"):
        decode_image(png(np.zeros((101, 101), np.uint16)))


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_an_image_whose_channels_differ_is_an_error(folder, synthetic_train, channel):
    coloured = np.repeat(synthetic_train.images[3][..., None], 3, axis=2)
    coloured[100, 100, channel] ^= 1
    tile_id = synthetic_train.ids[3]
    rewrite_zip(folder / "train.zip", {f"images/{tile_id}.png": png(coloured)})
    message = problems_of(folder)
    assert f"images/{tile_id}.png: its colour channels differ" in message and "1 problem " in message


def test_a_png_file_cut_anywhere_is_an_error(synthetic_train):
    content = png(synthetic_train.images[1])
    check_png(content)
    for length in range(len(content)):
        with pytest.raises(DataError, match="truncated|not a PNG"):
            check_png(content[:length])


def test_a_png_file_with_one_wrong_byte_is_an_error(synthetic_train):
    content = png(synthetic_train.images[1])
    for position in range(0, len(content), 97):
        spoiled = bytearray(content)
        spoiled[position] ^= 16
        with pytest.raises(DataError):
            check_png(bytes(spoiled))


def test_a_png_file_without_pixels_is_an_error():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 101, 101, 8, 0, 0, 0, 0))
    for body in (header + chunk(b"IEND", b""), chunk(b"IEND", b"")):
        with pytest.raises(DataError):
            decode_image(salt.data.PNG_SIGNATURE + body)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_every_bad_file_is_named_with_what_is_wrong(folder, synthetic_train, kind, zipped):
    ids = synthetic_train.ids
    jpeg = cv2.imencode(".jpg", synthetic_train.images[0])[1].tobytes()
    whole = png(synthetic_train.images[0])
    bad = {
        ids[5]: (whole[: len(whole) // 2], "truncated"),
        ids[6]: (jpeg, "not a PNG file"),
        ids[7]: (png(np.zeros((101, 102), np.uint8)), "102 x 101 pixels"),
        ids[8]: (png(np.zeros((100, 101), np.uint8)), "101 x 100 pixels"),
        ids[9]: (b"", "not a PNG file"),
    }
    rewrite_zip(folder / "train.zip", {f"{kind}/{i}.png": content for i, (content, _) in bad.items()})
    if not zipped:
        unzip(folder, "train", "train")
    message = problems_of(folder)
    assert f"{len(bad)} problems" in message and "remedy" in message
    for tile_id, (_, why) in bad.items():
        assert any(f"{kind}/{tile_id}.png" in line and why in line for line in message.splitlines())


def test_bad_test_images_are_named(folder, synthetic_test):
    rewrite_zip(folder / "test.zip", {f"images/{synthetic_test.ids[2]}.png": b"GIF89a"})
    assert f"images/{synthetic_test.ids[2]}.png: not a PNG file" in problems_of(folder, read_test)


def test_a_damaged_member_of_a_zip_is_named(folder, synthetic_train):
    tile_id = synthetic_train.ids[4]
    with zipfile.ZipFile(folder / "train.zip") as archive:
        info = archive.getinfo(f"images/{tile_id}.png")
    with open(folder / "train.zip", "r+b") as file:
        file.seek(info.header_offset + 200)
        file.write(b"damage")
    message = problems_of(folder)
    assert f"images/{tile_id}.png: cannot be read" in message and "1 problem " in message


def test_a_mask_without_image_and_an_image_without_mask_are_named(folder, synthetic_train):
    lonely_mask, lonely_image = synthetic_train.ids[2], synthetic_train.ids[9]
    rewrite_zip(folder / "train.zip", {f"images/{lonely_mask}.png": None, f"masks/{lonely_image}.png": None})
    message = problems_of(folder)
    assert f"masks/{lonely_mask}.png: mask without image" in message
    assert f"images/{lonely_image}.png: image without mask" in message


def test_an_id_without_file_and_a_file_without_id_are_named(folder):
    lines = (folder / "train.csv").read_text().splitlines()
    dropped = lines[3].split(",")[0]
    lines[3] = "0123456789,"
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    message = problems_of(folder)
    assert "images/0123456789.png: no such file, but train.csv has the id" in message
    assert f"images/{dropped}.png: its id is not in train.csv" in message


def test_test_ids_without_file_and_files_without_id_are_named(folder):
    lines = (folder / "sample_submission.csv").read_text().splitlines()
    dropped = lines[3].split(",")[0]
    lines[3] = "0123456789,1 1"
    (folder / "sample_submission.csv").write_text("\n".join(lines) + "\n")
    message = problems_of(folder, read_test)
    assert "images/0123456789.png: no such file, but sample_submission.csv has the id" in message
    assert f"images/{dropped}.png: its id is not in sample_submission.csv" in message


def test_many_problems_are_counted_and_the_first_of_them_listed(folder, synthetic_train):
    rewrite_zip(folder / "train.zip", {f"images/{tile_id}.png": b"no" for tile_id in synthetic_train.ids})
    message = problems_of(folder)
    assert "40 problems" in message and "and 20 more" in message and len(message.splitlines()) == 23


def test_a_mask_that_disagrees_with_the_table_is_named(folder, synthetic_train):
    index = int(np.flatnonzero(synthetic_train.masks.any(axis=(1, 2)))[0])
    tile_id, mask = synthetic_train.ids[index], synthetic_train.masks[index].copy()
    mask[50, 50] ^= 1
    rewrite_zip(folder / "train.zip", {f"masks/{tile_id}.png": png(mask * np.uint8(255))})
    message = problems_of(folder)
    assert tile_id in message and "1 pixels differ" in message and "1 problem " in message


def test_transposed_masks_are_recognised(folder, synthetic_train):
    changes = {
        f"masks/{tile_id}.png": png(np.ascontiguousarray(mask.T) * np.uint8(255))
        for tile_id, mask in zip(synthetic_train.ids, synthetic_train.masks, strict=True)
    }
    rewrite_zip(folder / "train.zip", changes)
    assert "it is its transpose" in problems_of(folder)


def test_ids_that_look_like_numbers_or_nothing_stay_text(tmp_path):
    ids = np.array(["0012345678", "12345678e9", "nan", "NA", "null"])
    images = np.zeros((5, 101, 101), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None]
    arrays = (ids, images, np.zeros_like(images), np.arange(5.0))
    write_competition(tmp_path / "odd", *arrays, ids[:0], images[:0], np.zeros(0))
    rewrite_zip(tmp_path / "odd" / "test.zip", {"images/007.png": png(images[0])})
    (tmp_path / "odd" / "sample_submission.csv").write_text("id,rle_mask\n007,1 1\n")
    train, test = read_both(tmp_path / "odd")
    assert train.ids.tolist() == ids.tolist() and test.ids.tolist() == ["007"]
    np.testing.assert_array_equal(train.depths, np.arange(5.0))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("train.csv", "", "no readable CSV"),
        ("train.csv", "id,rle_mask\n", "no rows"),
        ("train.csv", "name,rle_mask\na,\n", r"lack \['id'\]"),
        ("train.csv", "id,mask\na,\n", r"lack \['rle_mask'\]"),
        ("train.csv", "id,rle_mask\na,\n,1 1\n", "row 3 has no id"),
        ("train.csv", "id,rle_mask\na,\nb,\na,1 1\n", "id a occurs 2 times"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(folder, name, content, why):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}.*{why}" if "occurs" not in why else why):
        read_train(find_competition(folder), progress=False)


def test_a_mask_in_the_table_that_is_no_encoding_is_an_error_that_names_the_tile(folder, synthetic_train):
    lines = (folder / "train.csv").read_text().splitlines()
    tile_id = lines[5].split(",")[0]
    lines[5] = f"{tile_id},1 2 3"
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=tile_id):
        read_train(find_competition(folder), progress=False)


def test_unknown_depths_are_nan(folder, synthetic_train):
    lines = (folder / "depths.csv").read_text().splitlines()
    first, second = synthetic_train.ids[:2]
    lines = [line for line in lines if not line.startswith(first)]
    lines = [f"{second}," if line.startswith(second) else line for line in lines]
    (folder / "depths.csv").write_text("\n".join(lines) + "\n")
    train, test = read_both(folder)
    assert np.isnan(train.depths[:2]).all() and not np.isnan(train.depths[2:]).any()
    (folder / "depths.csv").unlink()
    train, test = read_both(folder)
    assert np.isnan(train.depths).all() and np.isnan(test.depths).all()


def test_a_depth_that_is_no_number_is_named(folder, synthetic_train):
    (folder / "depths.csv").write_text(f"id,z\n{synthetic_train.ids[0]},deep\n")
    assert f"depth 'deep' of {synthetic_train.ids[0]}" in problems_of(folder)


def test_a_progress_bar_is_shown_on_request_only(synthetic_folder, capsys):
    competition = find_competition(synthetic_folder)
    read_test(competition, progress=False)
    assert capsys.readouterr().err == ""
    read_test(competition)
    assert "test images: 100%" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Geometry and flags
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize("size", [101, 102, 112, 128, 256, 320])
def test_cropping_undoes_padding(size, mode):
    images = np.random.default_rng(0).integers(0, 256, (3, 101, 101), np.uint8)
    padded = pad_images(images, size, mode)
    assert padded.shape == (3, size, size) and padded.dtype == np.uint8
    np.testing.assert_array_equal(crop_images(padded), images)


@pytest.mark.parametrize(("size", "offset"), [(101, 0), (102, 0), (103, 1), (112, 5), (128, 13)])
def test_a_tile_begins_at_half_of_the_margin_rounded_down(size, offset):
    assert pad_offset(size) == offset
    images = np.zeros((1, 101, 101), np.uint8)
    images[0, 0, 0] = images[0, 50, 100] = 7
    padded = pad_images(images, size, "edge")
    assert padded[0, offset, offset] == 7 and padded[0, offset + 50, offset + 100] == 7


def test_reflect_does_not_repeat_the_edge_and_edge_does():
    images = np.arange(101 * 101, dtype=np.int32).reshape(1, 101, 101)
    reflected, edge = pad_images(images, 105), pad_images(images, 105, "edge")
    np.testing.assert_array_equal(reflected[0, :, 52], images[0, [2, 1, *range(101), 99, 98], 50])
    np.testing.assert_array_equal(edge[0, 52, :], images[0, 50, [0, 0, *range(101), 100, 100]])


def test_a_square_below_the_tile_and_an_unknown_mode_are_errors():
    images = np.zeros((1, 101, 101), np.uint8)
    with pytest.raises(DataError, match="size=100"):
        pad_images(images, 100)
    with pytest.raises(DataError, match="mode='wrap'"):
        pad_images(images, 128, "wrap")
    with pytest.raises(DataError, match="size=96"):
        crop_images(np.zeros((1, 96, 96), np.uint8))


def test_black_means_every_pixel_is_zero():
    images = np.zeros((3, 101, 101), np.uint8)
    images[1, 100, 100] = 1
    images[2] = 255
    assert is_black(images).tolist() == [True, False, False]


def test_vertical_means_salt_with_all_rows_equal():
    masks = np.zeros((5, 101, 101), np.uint8)
    masks[1, :, 40:] = 1
    masks[2, :, 40:] = 1
    masks[2, 100, 40] = 0
    masks[3, 40:, :] = 1
    masks[4, :, [3, 50]] = 1
    assert is_vertical(masks).tolist() == [False, True, False, False, True]


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def written(folder, train, test):
    return write_competition(
        folder, train.ids, train.images, train.masks, train.depths, test.ids, test.images, test.depths
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
    write_competition(tmp_path / "x", ["a"], images, masks, [1.0], ["b"], images, [np.nan])
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

    monkeypatch.setattr(salt.data, "encode_rles", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "x", synthetic_train, synthetic_test)
    assert os.listdir(tmp_path) == []


def test_what_a_kill_leaves_behind_is_not_taken_for_a_competition(tmp_path, synthetic_folder):
    shutil.copytree(synthetic_folder, tmp_path / ".x-abc123")
    with pytest.raises(DataError):
        find_competition(tmp_path)


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


# ---------------------------------------------------------------------------------------------------------------------
# The real competition
# ---------------------------------------------------------------------------------------------------------------------


def test_the_real_competition_is_read_whole(real_competition):
    train = read_train(real_competition, progress=False)  # compares the mask files with train.csv
    test = read_test(real_competition, progress=False)
    assert len(train.ids) >= 3000 and len(test.ids) >= 1000
    share = len(train.ids) / 4000  # of the tiles of which the counts below are known
    assert is_black(train.images).sum() == pytest.approx(80 * share, abs=20)
    assert is_vertical(train.masks).sum() == pytest.approx(113 * share, abs=25)
    assert not train.masks[is_black(train.images)].any()
    assert train.masks.mean() == pytest.approx(0.248, abs=0.015)
    assert not np.isnan(train.depths).any() and train.depths.min() >= 50 and train.depths.max() <= 959
