"""Reads a competition's tables and tiles into arrays.

Nothing is skipped or repaired in silence: a file that is not what it should be is named in a `DataError`. The module
decides nothing about folds, training or predictions.
"""

import collections
import io
import pathlib
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from salt.archives import (
    UNREADABLE,
    ArchiveError,
    DataError,
    Folder,
    Place,
    file_names,
    open_archive,
    plain_stem,
    read_inside,
)
from salt.competition import CompetitionFiles, raise_problems, raise_repeated_ids
from salt.competition import find_competition as find_competition  # here, too, for scripts from before 28 November 2026
from salt.description import Table
from salt.rle import decode_rles
from salt.tiles import Tiles
from salt.tiles import crop_images as crop_images
from salt.tiles import pad_images as pad_images
from salt.tiles import pad_offset as pad_offset

READ_THREADS = 8  # decoding releases the interpreter lock, and a network mount answers several requests at once
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_train(files: CompetitionFiles, progress: bool = True) -> Tiles:
    """Reads the training tiles, in the order of their table.

    The masks are read from their PNG files, in which any pixel above zero counts, and compared with the run-length
    encoding in the table; without mask files they come from the table alone.

    Args:
        files: where they are, from `find_competition`.
        progress: whether to show a progress bar.

    Returns:
        `Tiles` with masks.

    Raises:
        DataError: ids and files do not correspond, a file is damaged or of the wrong size or kind, or a mask differs
            from the table. All such files are found before it is raised; the message lists the first of them.
        RLEError: a mask in the table is no valid run-length encoding.
    """
    competition, size = files.competition, files.competition.one_size()
    ids, rles = read_id_table(files.train_table, competition.train_table)
    with (
        PngReader(files.train_images, ids) as images_reader,
        PngReader(files.train_masks, ids) as masks_reader,
    ):
        elsewhere = (
            known_ids(files, "sample_submission") if files.sample_submission else known_ids(files, "depths_table")
        )
        problems = unmatched_ids(ids, files.train_table.name, images_reader, elsewhere)
        if files.train_masks is not None:
            with_image, with_mask = set(images_reader.names), set(masks_reader.names)
            problems += [f"{masks_reader.label(i)}: mask without image" for i in sorted(with_mask - with_image)]
            lonely = sorted((with_image - with_mask).intersection(ids.tolist()))
            problems += [f"{images_reader.label(i)}: image without mask" for i in lonely]
        raise_problems(problems)
        images, problems = decode_all(images_reader, ids, decode_image, size, "train images", progress)
        masks = None
        if files.train_masks is not None:
            masks, mask_problems = decode_all(masks_reader, ids, decode_mask, size, "train masks", progress)
            problems += mask_problems
        raise_problems(problems)
    encoded = decode_rles(rles, shape=size, ids=ids)
    if masks is None:
        masks = encoded
    raise_problems(mask_disagreements(ids, masks, encoded, files.train_table.name))
    return Tiles(ids, images, masks, read_depths(files, ids), competition)


def read_test(files: CompetitionFiles, progress: bool = True) -> Tiles:
    """Reads the test tiles, in the order of the sample of a submission.

    Args:
        files: where they are, from `find_competition`.
        progress: whether to show a progress bar.

    Returns:
        `Tiles` with `masks=None`.

    Raises:
        DataError: there are no test tiles, ids and files do not correspond, or a file is damaged or of the wrong size
            or kind.
    """
    competition = files.competition
    sample, folder = files.require_test()
    ids, _ = read_id_table(sample, competition.sample_submission)
    with PngReader(folder, ids) as reader:
        raise_problems(unmatched_ids(ids, sample.name, reader, known_ids(files, "train_table")))
        images, problems = decode_all(reader, ids, decode_image, competition.one_size(), "test images", progress)
    raise_problems(problems)
    return Tiles(ids, images, None, read_depths(files, ids), competition)


def describe_tiles(tiles: Tiles) -> str:
    """A line about training tiles for the log: how many hold something, and what the competition has to remark."""
    masks, competition = tiles.known_masks(), tiles.competition
    found = masks.reshape(len(masks), -1).any(axis=1).mean()
    line = f"{len(tiles.ids)} tiles, {found:.1%} of them with {competition.target}"
    return line if competition.remarks is None else f"{line}; {competition.remarks(tiles.images, masks)}"


class PngReader:
    """Reads the PNG files of a folder by id, in several threads if need be.

    A file belongs to an id if its name is that id to the letter, or else, if it is the only such file, but for case,
    blanks at the ends and composed umlauts.

    Args:
        folder: on disk or in a zip; None for a reader without files.
        ids: str `[N]`, of the tiles.

    Raises:
        DataError: two files may belong to one id.
    """

    def __init__(self, folder: Place | None, ids: np.ndarray):
        self.folder = folder
        self.path = pathlib.Path() if folder is None else folder.path
        self.zip: zipfile.ZipFile | None = None
        self.lock = threading.Lock()  # a zip has one file position
        self.names: dict[str, str] = {}  # id: the file's name in the folder or in the zip
        if folder is None:
            return
        if not self.path.is_dir():
            self.zip = open_archive(folder.path, folder.zips)
        self.names = Folder(folder, None if self.zip is None else file_names(self.zip)).pngs()
        others = collections.defaultdict(list)
        for stem in set(self.names) - set(ids.tolist()):
            others[plain_stem(stem)].append(stem)
        for tile_id in set(ids.tolist()) - set(self.names):
            found = others.get(plain_stem(tile_id), [])
            if len(found) > 1:
                first, second = sorted(found)[:2]
                raise DataError(f"{folder}: {first}.png and {second}.png may both be meant by {tile_id}; keep one")
            for stem in found:
                self.names[tile_id] = self.names.pop(stem)

    def __enter__(self) -> "PngReader":
        return self

    def __exit__(self, *_: object) -> None:
        if self.zip is not None:
            self.zip.close()

    def label(self, tile_id: str) -> str:
        """The name of a tile's file for an error message, whether the file exists or not."""
        return f"{self.folder}/{tile_id}.png".replace("//", "/")

    def read(self, tile_id: str) -> bytes:
        """The bytes of a tile's file.

        Raises:
            DataError: the file cannot be read, or its checksum in the zip is wrong.
        """
        try:
            if self.zip is None:
                return (self.path / self.names[tile_id]).read_bytes()
            with self.lock:
                return read_inside(self.zip, self.names[tile_id])
        except ArchiveError:
            raise
        except UNREADABLE as error:
            raise DataError(f"cannot be read ({error})") from error


def read_id_table(path: str | pathlib.Path | Place, description: Table) -> tuple[np.ndarray, list[str]]:
    """The ids and masks of a table.

    Args:
        path: of the file.
        description: what its columns hold.

    Returns:
        ids, str `[N]`, and the `N` run-length encodings as the file has them ("" for an empty one).

    Raises:
        DataError: no such columns, no rows, or an id that is repeated or empty.
    """
    id_column, mask_column = description.column("tile"), description.column("mask")
    table = read_text_table(path, (id_column, mask_column))
    ids = table[id_column].to_numpy(dtype=object)
    if len(ids) == 0:
        raise DataError(f"{path}: holds no rows; expected one per tile")
    if "" in ids:
        raise DataError(f"{path}: row {list(ids).index('') + 2} has no id")
    raise_repeated_ids(path, ids)
    return ids.astype(str), table[mask_column].tolist()


def read_depths(files: CompetitionFiles, ids: np.ndarray) -> np.ndarray:
    """The depths of the tiles `ids` from their table, float64 `[N]`; NaN for tiles that are not in it, or without it.

    Raises:
        DataError: a depth is no number, or an id is repeated.
    """
    path, description = files.depths_table, files.competition.depths_table
    if path is None or description is None:
        return np.full(len(ids), np.nan)
    id_column, depth_column = description.column("tile"), description.column("number")
    table = read_text_table(path, (id_column, depth_column))
    raise_repeated_ids(path, table[id_column].to_numpy(dtype=object))
    known = dict(zip(table[id_column], table[depth_column], strict=True))
    depths = np.full(len(ids), np.nan)
    for index, tile_id in enumerate(ids):
        text = known.get(tile_id, "")
        try:
            depths[index] = float(text) if text else np.nan
        except ValueError:
            message = f"{path}: depth {text!r} of {tile_id} is no number; leave the field empty if unknown"
            raise DataError(message) from None
    return depths


def read_text_table(path: str | pathlib.Path | Place, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV file with every field as text: an id such as 1e10 becomes no number, and "" not NaN.

    Raises:
        DataError: it cannot be parsed, or lacks one of `columns`.
    """
    try:
        source = io.BytesIO(path.read_bytes()) if isinstance(path, Place) else path
        table = pd.read_csv(source, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no readable CSV file ({error}); download it again") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"{path}: columns {list(table.columns)} lack {missing}; the first line must name them")
    return table


def known_ids(files: CompetitionFiles, part: str) -> set[str]:
    """The ids in one of the tables, as they are compared (see `plain_stem`); without that table, none."""
    path, description = getattr(files, part), getattr(files.competition, part)
    if path is None or description is None:
        return set()
    column = description.column("tile")
    return set(map(plain_stem, read_text_table(path, (column,))[column]))


def unmatched_ids(ids: np.ndarray, table_name: str, reader: PngReader, elsewhere: set[str]) -> list[str]:
    """One line for each id without a file and each file without an id, unless it is `elsewhere`, in another table."""
    known = set(ids.tolist())
    lines = [f"{reader.label(i)}: no such file, but {table_name} has the id" for i in sorted(known - set(reader.names))]
    others = {stem for stem in set(reader.names) - known if plain_stem(stem) not in elsewhere}
    return lines + [f"{reader.label(i)}: its id is not in {table_name}" for i in sorted(others)]


def mask_disagreements(ids: np.ndarray, masks: np.ndarray, encoded: np.ndarray, table_name: str) -> list[str]:
    """One line for each tile whose mask file and run-length encoding differ, uint8 `[N, H, W]` both."""
    pixels = np.count_nonzero(masks != encoded, axis=(1, 2))
    lines = []
    for index in np.flatnonzero(pixels):
        transposed = np.array_equal(masks[index], encoded[index].T)
        how = "it is its transpose" if transposed else f"{pixels[index]} pixels differ"
        lines.append(f"{ids[index]}: the mask file and the mask in {table_name} disagree ({how})")
    return lines


def decode_all(
    reader: PngReader,
    ids: np.ndarray,
    decode: Callable[[bytes, tuple[int, int]], np.ndarray],
    size: tuple[int, int],
    label: str,
    progress: bool,
) -> tuple[np.ndarray, list[str]]:
    """Reads and decodes the files of `ids` in a thread pool.

    Args:
        reader: a `PngReader`.
        ids: str `[N]`.
        decode: `decode_image` or `decode_mask`.
        size: height and width of each.
        label: what the progress bar says.
        progress: whether to show it.

    Returns:
        uint8 `[N, H, W]`, and one line for each bad file.
    """
    tiles = np.zeros((len(ids), *size), np.uint8)

    def read_one(index: int) -> str | None:
        try:
            tiles[index] = decode(reader.read(ids[index]), size)
        except DataError as error:
            return f"{reader.label(ids[index])}: {error}"
        return None

    with ThreadPoolExecutor(READ_THREADS) as pool:
        results = list(
            tqdm(pool.map(read_one, range(len(ids))), total=len(ids), desc=label, unit="tile", disable=not progress)
        )
    return tiles, [line for line in results if line]


def decode_image(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """A grey tile, uint8 `[H, W]`, from the bytes of a grey or RGB PNG file.

    Raises:
        DataError: the file is damaged, has the wrong size or depth, or is a coloured picture.
    """
    pixels = decode_png(content, size)
    if pixels.dtype != np.uint8:
        raise DataError(f"a {8 * pixels.dtype.itemsize}-bit image; images have 8 bits")
    if pixels.ndim == 2:
        return pixels
    if (pixels[..., 0] != pixels[..., 1]).any() or (pixels[..., 0] != pixels[..., 2]).any():
        raise DataError("its colour channels differ; images are grey, stored as one channel or as three equal ones")
    return pixels[..., 0]


def decode_mask(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """A mask, uint8 {0, 1} `[H, W]`, from the bytes of a PNG file of 8 or 16 bits: any pixel above zero counts.

    Raises:
        DataError: the file is damaged or has the wrong size.
    """
    pixels = decode_png(content, size)
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=2)  # a fourth channel would be opacity
    return (pixels != 0).astype(np.uint8)


def decode_png(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a PNG file of that height and width, `[H, W]` or `[H, W, 3 or 4]`, uint8 or uint16."""
    check_png(content, size)
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError("OpenCV cannot decode it")
    if pixels.ndim == 3 and pixels.shape[2] == 1:  # some versions keep the axis
        pixels = pixels[..., 0]
    return pixels


def check_png(content: bytes, size: tuple[int, int]) -> None:
    """Checks the structure of a PNG file: every chunk is there with its checksum, and the size is `size`.

    Decoders differ here, even versions of OpenCV: some fail on a truncated file, others return the pixels they have.

    Raises:
        DataError: with what is wrong.
    """
    if not content.startswith(PNG_SIGNATURE):
        raise DataError(f"not a PNG file (its {len(content)} bytes begin with {content[:8]!r})")
    position, kind, view = len(PNG_SIGNATURE), b"", memoryview(content)
    while kind != b"IEND":
        end = position + 12
        if end <= len(content):
            (length,) = struct.unpack_from(">I", content, position)
            kind = content[position + 4 : position + 8]
            end += length
        if end > len(content):
            raise DataError(f"truncated after {len(content)} bytes")
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise DataError(f"damaged: wrong checksum in its {kind.decode('latin-1')} chunk")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", content, position + 8)
            if (height, width) != size:
                raise DataError(f"{width} x {height} pixels; a tile has {size[1]} x {size[0]}")
        position = end
