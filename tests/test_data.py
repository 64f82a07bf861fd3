"""Tables and tiles as they are read: every file that is not what it should be is named."""

import dataclasses
import struct
import zipfile
import zlib

import competition_files
import cv2
import numpy as np
import pytest
from competition_files import assert_same, read_both, rewrite_zip, unzip

from salt.competition import DataError, find_competition
from salt.data import read_test, read_train
from salt.layout import write_competition
from salt.pictures import PNG_SIGNATURE, check_png, decode_png, image_of, mask_of
from salt.tgs import COMPETITION as TGS
from salt.tgs import is_black, is_vertical

folder = competition_files.folder


SIZE = (101, 101)


def png(pixels, *options) -> bytes:
    return cv2.imencode(".png", pixels, list(options))[1].tobytes()


def problems_of(folder, read=read_train) -> str:
    with pytest.raises(DataError) as error:
        read(find_competition(folder, TGS), progress=False)
    return str(error.value)


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
    np.testing.assert_array_equal(image_of(decode_png(png(rgba), SIZE), 1), image)
    np.testing.assert_array_equal(mask_of(decode_png(png(rgba), SIZE)), image > 0)


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
    decoded = mask_of(decode_png(png(mask * dtype(value), *options), SIZE))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)


def test_an_image_of_16_bits_is_an_error():
    with pytest.raises(DataError, match="16-bit image"):
        image_of(decode_png(png(np.zeros((101, 101), np.uint16)), SIZE), 1)


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
    check_png(content, SIZE)
    for length in range(len(content)):
        with pytest.raises(DataError, match="truncated|not a PNG"):
            check_png(content[:length], SIZE)


def test_a_png_file_with_one_wrong_byte_is_an_error(synthetic_train):
    content = png(synthetic_train.images[1])
    for position in range(0, len(content), 97):
        spoiled = bytearray(content)
        spoiled[position] ^= 16
        with pytest.raises(DataError):
            check_png(bytes(spoiled), SIZE)


def test_a_png_file_without_pixels_is_an_error():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 101, 101, 8, 0, 0, 0, 0))
    for body in (header + chunk(b"IEND", b""), chunk(b"IEND", b"")):
        with pytest.raises(DataError):
            image_of(decode_png(PNG_SIGNATURE + body, SIZE), 1)


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
    write_competition(TGS, tmp_path / "odd", *arrays, ids[:0], images[:0], np.zeros(0))
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
        ("train.csv", "id,rle_mask\na,\n,1 1\n", "line 3 has no id"),
        ("train.csv", "id,rle_mask\na,\nb,\na,1 1\n", "id a occurs 2 times"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(folder, name, content, why):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}.*{why}" if "occurs" not in why else why):
        read_train(find_competition(folder, TGS), progress=False)


def test_a_mask_in_the_table_that_is_no_encoding_is_an_error_that_names_the_tile(folder, synthetic_train):
    lines = (folder / "train.csv").read_text().splitlines()
    tile_id = lines[5].split(",")[0]
    lines[5] = f"{tile_id},1 2 3"
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=tile_id):
        read_train(find_competition(folder, TGS), progress=False)


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
    competition = find_competition(synthetic_folder, TGS)
    read_test(competition, progress=False)
    assert capsys.readouterr().err == ""
    read_test(competition)
    assert "test images: 100%" in capsys.readouterr().err


# --- the real competition ---


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
