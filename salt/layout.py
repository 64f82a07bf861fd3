"""Writes a competition in Kaggle's own layout: two zips of PNG files and three tables."""

import io
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import pandas as pd

from salt.archives import DataError
from salt.competition import raise_repeated_ids
from salt.description import Competition, Files, Table
from salt.files import current_umask, whole_file
from salt.submission import joined_classes, mask_texts
from salt.tables import fill_row

ZIP_TIME = (2018, 7, 19, 0, 0, 0)  # of every member written: the same arrays give the same bytes


def write_competition(
    competition: Competition,
    folder: str | pathlib.Path,
    ids: np.ndarray,
    images: np.ndarray,
    masks: np.ndarray,
    depths: np.ndarray,
    test_ids: np.ndarray | None = None,
    test_images: np.ndarray | None = None,
    test_depths: np.ndarray | None = None,
) -> pathlib.Path:
    """Writes a competition in Kaggle's own layout: two zips and three tables, whole or not at all.

    The same arrays give the same bytes, as far as one version of OpenCV is concerned. As on Kaggle, masks with salt are
    PNG files of 16 bits (0 and 65,535) and empty ones of 8 bits.

    Args:
        competition: what it is.
        folder: where to write; it must not exist, or be empty.
        ids: str `[N]`.
        images: uint8 `[N, H, W]`.
        masks: uint8 {0, 1} `[N, H, W]`.
        depths: float `[N]`; tiles with NaN are left out of their table.
        test_ids: str `[M]`; None, like the next two: training data alone, without test.zip and a sample.
        test_images: uint8 `[M, H, W]`.
        test_depths: float `[M]`.

    Returns:
        `folder`.

    Raises:
        DataError: `folder` exists and is not empty, or the arrays do not fit together.
    """
    folder = pathlib.Path(folder)
    check_tiles(competition, "train", ids, images, depths, masks)
    both, all_depths = ids, depths
    if test_ids is not None and test_images is not None and test_depths is not None:
        check_tiles(competition, "test", test_ids, test_images, test_depths)
        both, all_depths = np.concatenate([ids, test_ids]), np.concatenate([depths, test_depths])
    raise_repeated_ids("ids and test_ids", both.tolist())
    check_vacant(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # All is written into a temporary folder, which is renamed at the end: a kill leaves no incomplete competition.
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        pictures: dict[str, list[tuple[str, np.ndarray]]] = {}
        add_pictures(pictures, competition.train_images, ids, images)
        if competition.train_masks is not None:
            add_pictures(pictures, competition.train_masks, ids, map(kaggle_mask, masks))
        if test_ids is not None and test_images is not None:
            add_pictures(pictures, competition.test_images, test_ids, test_images)
        for outer, named in pictures.items():
            write_zip(temporary / f"{outer}.zip", named)
        table = competition.train_table
        stack = masks
        if len(competition.classes) > 1 and isinstance(masks, np.ndarray):
            stack = joined_classes(masks, len(competition.classes))
        names = [(i, label) for i in ids for label in competition.classes]
        texts = zip(names, mask_texts(stack, table, competition), strict=True)
        write_text_table(temporary, table, [fill_row(table, *name, text) for name, each in texts for text in each])
        if test_ids is not None:
            table = competition.sample_submission
            names = [(i, label) for i in test_ids for label in competition.classes]
            write_text_table(temporary, table, [fill_row(table, *name, "1 1") for name in names])
        if competition.depths_table is not None:
            known = zip(both, all_depths, strict=True)
            rows = [(i, f"{z:.10g}") for i, z in known if not np.isnan(z)]
            write_text_table(temporary, competition.depths_table, rows)
        os.chmod(temporary, 0o777 & ~current_umask())  # mkdtemp gives 0700
        if folder.exists():
            folder.rmdir()  # it is empty; not every system lets a rename replace it
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_vacant(folder: str | pathlib.Path) -> None:
    """Raises a `DataError` unless a folder is absent or empty."""
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder; give another name or remove it")


def check_tiles(
    competition: Competition,
    label: str,
    ids: np.ndarray,
    images: np.ndarray,
    depths: np.ndarray,
    masks: np.ndarray | None = None,
) -> None:
    """Raises a `DataError` if arrays are not what `Tiles` promises."""
    channels, classes = competition.channels, len(competition.classes)
    for name, array, last in (("images", images, channels), ("masks", masks, classes)):
        size = competition.size or images.shape[1:3]
        shape = (len(ids), *size) if last == 1 else (len(ids), *size, last)
        if array is not None and (array.shape != shape or array.dtype != np.uint8):
            raise DataError(f"{label} {name}: {array.dtype} {array.shape}; must be uint8 {shape} for {len(ids)} ids")
    if isinstance(masks, np.ndarray) and masks.size and masks.max() > 1:
        raise DataError(f"{label} masks: the largest value is {masks.max()}; must be 0 or 1")
    if len(depths) != len(ids):
        raise DataError(f"{label} depths: {len(depths)} values; must be {len(ids)}, one per id")


def kaggle_mask(mask: np.ndarray) -> np.ndarray:
    """A mask as Kaggle stores it: 16 bits, 65,535 for salt, if there is any; else 8 bits."""
    return mask.astype(np.uint16) * np.uint16(65535) if mask.any() else mask


def add_pictures(
    pictures: dict[str, list[tuple[str, np.ndarray]]], files: Files, ids: np.ndarray, stack: Iterable[np.ndarray]
) -> None:
    """Adds the (name, pixels) of each tile's file to those of its zip, whose name without suffix is the key."""
    inner = f"{files.inner}/" if files.inner else ""
    named = ((f"{inner}{tile_id}{files.suffix}", pixels) for tile_id, pixels in zip(ids, stack, strict=True))
    pictures.setdefault(files.outer, []).extend(named)


def encode_picture(name: str, pixels: np.ndarray) -> bytes:
    """The bytes of a PNG, JPEG or GIF file, by the end of its name.

    Raises:
        DataError: it ends otherwise.
    """
    suffix = pathlib.PurePosixPath(name).suffix
    if suffix == ".gif":
        from PIL import Image  # not every OpenCV knows GIF

        content = io.BytesIO()
        Image.fromarray((pixels > 0).astype(np.uint8) * np.uint8(255)).convert("1").save(content, "GIF")
        return content.getvalue()
    options = {".png": [cv2.IMWRITE_PNG_COMPRESSION, 6], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95]}
    if suffix not in options:
        raise DataError(f"{name}: {', '.join(options)} and .gif are written")
    _, encoded = cv2.imencode(suffix, pixels if pixels.ndim == 2 else pixels[..., ::-1], options[suffix])
    return encoded.tobytes()


def write_zip(path: pathlib.Path, pictures: list[tuple[str, np.ndarray]]) -> None:
    """Writes (name, pixels) pairs as files into a zip, without compression, since pictures are compressed."""
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, pixels in pictures:
            member = zipfile.ZipInfo(name, ZIP_TIME)
            member.create_system = 3  # else the bytes would depend on the operating system
            member.external_attr = 0o644 << 16
            archive.writestr(member, encode_picture(name, pixels))


def write_text_table(folder: pathlib.Path, table: Table, rows: Iterable[Sequence]) -> None:
    """Writes a CSV file with Unix line ends into a folder."""
    text = io.StringIO()
    pd.DataFrame(list(rows), columns=list(table.columns)).to_csv(text, index=False, lineterminator="\n")
    with whole_file(folder / table.name) as temporary:
        temporary.write_bytes(text.getvalue().encode())
