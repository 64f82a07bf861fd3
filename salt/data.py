"""Reads a competition's tables and tiles into arrays.

Nothing is skipped or repaired in silence: a file that is not what it should be is named in a `DataError`. The module
decides nothing about folds, training or predictions.
"""

import collections
import io
import os
import pathlib
import threading
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

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
    read_shared,
    read_whole,
)
from salt.competition import CompetitionFiles, raise_problems, raise_repeated_ids
from salt.competition import find_competition as find_competition  # here, too, for scripts from before 28 November 2026
from salt.description import Competition, Files
from salt.pictures import check_size, image_of, mask_of, size_of_file
from salt.rle import decode_rles
from salt.stacks import MOST_IN_MEMORY, MaskTexts, Stack, all_sides, listed_stack, marked_pixels
from salt.tables import fitting_form, masks_of_rows, read_fields, read_rows, template_pattern
from salt.tiles import Tiles
from salt.tiles import crop_images as crop_images
from salt.tiles import pad_images as pad_images
from salt.tiles import pad_offset as pad_offset

READ_AT_ONCE = 32  # tiles of a task: handing each over by itself takes a fifth of the time
READ_THREADS = 4  # decoding releases the interpreter lock, and a network mount answers several requests at once
TEXTS_AT_ONCE = 256  # run-length texts that are decoded together


def read_train(files: CompetitionFiles, progress: bool = True, most: int = MOST_IN_MEMORY) -> Tiles:
    """Reads the training tiles, in the order of their table.

    The masks are read from their files, in which any pixel above zero counts, and compared with the run lengths in the
    table; without mask files they come from the table alone. Images and masks that would take more than `most` bytes
    are not read here, but tile by tile when they are needed, the masks from the table; of their files only the sizes
    are looked at. Images that differ in size are a `Stack` in any case.

    Args:
        files: where they are, from `find_competition`.
        progress: whether to show a progress bar.
        most: bytes of all images, or of all masks, that are held in memory.

    Returns:
        `Tiles` with masks.

    Raises:
        DataError: ids and files do not correspond, a file is damaged or of the wrong size or kind, or a mask differs
            from the table. All such files are found before it is raised; the message lists the first of them.
        RLEError: a mask in the table is no valid run-length encoding.
    """
    competition = files.competition
    image_reader = PictureReader(files.train_images, competition.train_images)
    ids, texts = read_train_table(files, image_reader)
    image_reader.match(ids)
    elsewhere = known_ids(files, "sample_submission") if files.sample_submission else known_ids(files, "depths_table")
    problems = unmatched_ids(ids, files.train_table.name, image_reader, elsewhere)
    mask_reader = None
    if files.train_masks is not None and competition.train_masks is not None:
        mask_reader = PictureReader(files.train_masks, competition.train_masks)
        mask_reader.match(ids)
        with_image, with_mask = set(image_reader.names), set(mask_reader.names)
        problems += [f"{mask_reader.label(i)}: mask without image" for i in sorted(with_mask - with_image)]
        lonely = sorted((with_image - with_mask).intersection(ids.tolist()))
        problems += [f"{image_reader.label(i)}: image without mask" for i in lonely]
    raise_problems(problems)
    maker = PictureMaker(image_reader, ids, competition.size, competition.channels)
    images, problems = read_pictures(maker, "train images", progress, most)
    if competition.size is None:
        raise_problems(problems)  # masks must have the sizes of their images
    sides, masks = all_sides(images), None
    if mask_reader is not None and sides.prod(axis=1).sum() <= most:
        mask_maker = PictureMaker(mask_reader, ids, competition.size or sides, 0)
        masks, mask_problems = read_pictures(mask_maker, "train masks", progress, most)
        problems += mask_problems
    raise_problems(problems)
    encoded = decode_texts(texts, ids, competition, most, sides)
    if masks is not None and sides.prod(axis=1).sum() * len(competition.classes) <= most:
        raise_problems(mask_disagreements(ids, masks, encoded, files.train_table.name))
    return Tiles(ids, images, encoded, read_depths(files, ids), competition)


def read_test(files: CompetitionFiles, progress: bool = True, most: int = MOST_IN_MEMORY) -> Tiles:
    """Reads the test tiles, in the order of the sample of a submission.

    Args:
        files: where they are, from `find_competition`.
        progress: whether to show a progress bar.
        most: as for `read_train`.

    Returns:
        `Tiles` with `masks=None`.

    Raises:
        DataError: there are no test tiles, ids and files do not correspond, or a file is damaged or of the wrong size
            or kind.
    """
    competition = files.competition
    sample, folder = files.require_test()
    _, rows = read_rows(sample, competition.sample_submission, competition)
    ids = np.array(list(dict.fromkeys(row.tile for row in rows)))
    if len(competition.classes) == 1 and not competition.sample_submission.objects:
        raise_repeated_ids(sample, [row.tile for row in rows])
    reader = PictureReader(folder, competition.test_images)
    reader.match(ids)
    raise_problems(unmatched_ids(ids, sample.name, reader, known_ids(files, "train_table")))
    maker = PictureMaker(reader, ids, competition.size, competition.channels)
    images, problems = read_pictures(maker, "test images", progress, most)
    raise_problems(problems)
    return Tiles(ids, images, None, read_depths(files, ids), competition)


def read_test_sides(files: CompetitionFiles) -> dict[str, tuple[int, int]]:
    """Height and width of each test tile, by the head of its file."""
    return read_test(files, progress=False, most=0).sides()


def read_train_table(
    files: CompetitionFiles, reader: "PictureReader | None" = None
) -> tuple[np.ndarray, list[list[list[str]]]]:
    """The ids of the training tiles and the run-length texts of their masks.

    Args:
        files: where they are.
        reader: of the images: where a mask without a pixel has no row, tiles without any row are known from it.

    Returns:
        ids, str `[N]`; and for each tile, for each class, a list of texts, one a row.
    """
    competition, path = files.competition, files.train_table
    form, rows = read_rows(path, competition.train_table, competition)
    if len(competition.classes) == 1 and not form.objects:
        raise_repeated_ids(path, [row.tile for row in rows])
    masks = masks_of_rows(path, form, rows, competition)
    if form.empty is None and reader is not None:
        known = {plain_stem(tile) for tile in masks}
        for stem in sorted(reader.names):
            if plain_stem(stem) not in known:
                masks[stem] = [[] for _ in competition.classes]
    return np.array(list(masks)), list(masks.values())


def decode_texts(
    texts: Sequence[Sequence[Sequence[str]]],
    ids: np.ndarray,
    competition: Competition,
    most: int = MOST_IN_MEMORY,
    sides: np.ndarray | None = None,
) -> np.ndarray:
    """Masks of run-length texts, uint8 {0, 1} `[N, H, W]`, or `[N, H, W, C]` of several classes; perhaps a `Stack`.

    Args:
        texts: for each tile, for each class, a list of texts, whose masks are joined.
        ids: str `[N]`, for messages.
        competition: that they are of.
        most: bytes of masks that are decoded at once; more become a `Stack`.
        sides: height and width of each tile, int `[N, 2]`, where the competition's differ.

    Raises:
        RLEError: a text is no run-length encoding of a mask of that size; of a stack when that mask is asked for.
    """
    count = len(competition.classes)
    if competition.size is not None or sides is None:
        sides = np.tile(competition.one_size(), (len(ids), 1))
    maker = MaskTexts(texts, sides, competition.rle_by_rows, competition.rle_first, ids.tolist())
    fits = sides.prod(axis=1).sum() * count <= most
    if competition.size is None and fits:
        return listed_stack([maker(index) for index in range(len(ids))])
    size = competition.size or (0, 0)
    if not fits:
        shape = (len(ids), *size) if count == 1 else (len(ids), *size, count)
        return cast(np.ndarray, Stack(maker, shape, None, sides if competition.size is None else None))
    flat = [(tile, label, text) for tile, each in enumerate(texts) for label, own in enumerate(each) for text in own]
    masks = np.zeros((len(ids), *size, count), np.uint8)
    for start in range(0, len(flat), TEXTS_AT_ONCE):
        part = flat[start : start + TEXTS_AT_ONCE]
        names = [ids[tile] for tile, _, _ in part]
        decoded = decode_rles(
            [text for _, _, text in part], size, names, competition.rle_by_rows, competition.rle_first
        )
        for (tile, label, _), mask in zip(part, decoded, strict=True):
            np.maximum(masks[tile, ..., label], mask, out=masks[tile, ..., label])
    return masks[..., 0] if count == 1 else masks


def describe_tiles(tiles: Tiles) -> str:
    """A line about training tiles for the log: how many hold something, and what the competition has to remark."""
    masks, competition = tiles.known_masks(), tiles.competition
    found = np.mean(marked_pixels(masks).reshape(len(masks), -1).any(axis=1))
    line = f"{len(tiles.ids)} tiles, {found:.1%} of them with {competition.target}"
    return line if competition.remarks is None else f"{line}; {competition.remarks(tiles.images, masks)}"


class PictureReader:
    """Reads the pictures of a folder by id, in several threads if need be.

    A file belongs to an id if its name is that id to the letter, or else, if it is the only such file, but for case,
    blanks at the ends and composed umlauts.

    Args:
        folder: on disk or in a zip.
        files: how they are named.
    """

    def __init__(self, folder: Place, files: Files):
        self.folder, self.files = folder, files
        self.zip: zipfile.ZipFile | None = None
        self.lock = threading.Lock()  # a zip has one file position
        self.on_disk = folder.path.is_dir()
        inside = None if self.on_disk else file_names(self.archive())
        self.names = Folder(folder, inside).pictures(files.suffix)  # id: the file's name in the folder or in the zip

    def match(self, ids: np.ndarray) -> None:
        """Finds the file of each id.

        Raises:
            DataError: two files may belong to one id.
        """
        others = collections.defaultdict(list)
        for stem in set(self.names) - set(ids.tolist()):
            others[plain_stem(stem)].append(stem)
        for tile_id in set(ids.tolist()) - set(self.names):
            found = others.get(plain_stem(tile_id), [])
            if len(found) > 1:
                first, second = (f"{stem}{self.files.suffix}" for stem in sorted(found)[:2])
                raise DataError(f"{self.folder}: {first} and {second} may both be meant by {tile_id}; keep one")
            for stem in found:
                self.names[tile_id] = self.names.pop(stem)

    def archive(self) -> zipfile.ZipFile:
        """The zip, opened once in each process."""
        if self.zip is None:
            self.zip = open_archive(self.folder.path, self.folder.zips)
        return self.zip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "zip": None, "lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock())

    def label(self, tile_id: str) -> str:
        """The name of a tile's file for an error message, whether the file exists or not."""
        return f"{self.folder}/{tile_id}{self.files.suffix}".replace("//", "/")

    def read(self, tile_id: str) -> bytes:
        """The bytes of a tile's file.

        Raises:
            DataError: the file cannot be read, or its checksum in the zip is wrong.
        """
        try:
            if self.on_disk:
                return read_whole(f"{self.folder.path}{os.sep}{self.names[tile_id]}")
            with self.lock:
                archive = self.archive()
            return read_shared(archive, self.names[tile_id], self.lock)
        except ArchiveError:
            raise
        except UNREADABLE as error:
            raise DataError(f"cannot be read ({error})") from error

    def size(self, tile_id: str) -> tuple[int, int]:
        """Height and width of a tile's picture, by the head of its file.

        Raises:
            DataError: the file cannot be read, or is no picture.
        """
        try:
            if self.on_disk:
                with open(self.folder.path / self.names[tile_id], "rb") as file:
                    return size_of_file(file)
            with self.lock, self.archive().open(self.names[tile_id]) as member:
                return size_of_file(cast(BinaryIO, member))
        except DataError:
            raise
        except UNREADABLE as error:
            raise DataError(f"cannot be read ({error})") from error

    def pixels(self, tile_id: str, size: tuple[int, int]) -> np.ndarray:
        """The pixels of a tile's file, see `Files.decode`."""
        return self.files.decode(self.read(tile_id), size)


class PictureMaker:
    """Reads the picture of a tile, as a `Stack` asks for it.

    Args:
        reader: of the pictures' files.
        ids: str `[N]`.
        size: height and width of all; or of each, int `[N, 2]`; None: they differ, and `check` learns them.
        channels: of an image, 1 or 3; 0: the pictures are masks.
    """

    def __init__(
        self, reader: PictureReader, ids: np.ndarray, size: tuple[int, int] | np.ndarray | None, channels: int
    ):
        self.reader, self.ids, self.size, self.channels = reader, ids, size, channels
        self.sides = size.copy() if isinstance(size, np.ndarray) else np.tile(size or (0, 0), (len(ids), 1))

    def bytes(self) -> int:
        """Of all pictures, as far as their sizes are known."""
        return int(self.sides.prod(axis=1).sum()) * max(1, self.channels)

    @property
    def stack(self) -> Stack:
        """All pictures, read when they are asked for."""
        last = (self.channels,) if self.channels > 1 else ()
        one = self.size if isinstance(self.size, tuple) else None
        return Stack(self, (len(self.ids), *(one or (0, 0)), *last), None, None if one else self.sides)

    def __call__(self, index: int) -> np.ndarray:
        height, width = self.sides[index].tolist()
        try:
            pixels = self.reader.pixels(self.ids[index], (height, width))
            return image_of(pixels, self.channels) if self.channels else mask_of(pixels)
        except DataError as error:
            raise DataError(f"{self.reader.label(self.ids[index])}: {error}") from error

    def check(self, index: int) -> None:
        """Looks at the size of a tile's picture without decoding it.

        Raises:
            DataError: it is another, or the file is no picture.
        """
        height, width = self.sides[index].tolist()
        try:
            found = self.reader.size(self.ids[index])
            if self.size is not None:
                check_size(found, (height, width))
            self.sides[index] = found
        except DataError as error:
            raise DataError(f"{self.reader.label(self.ids[index])}: {error}") from error


def read_pictures(maker: PictureMaker, label: str, progress: bool, most: int) -> tuple[np.ndarray, list[str]]:
    """Reads all pictures in a thread pool, unless they would take more than `most` bytes: these become a `Stack`.

    Of those only the head of each file is read now, which tells its size.

    Args:
        maker: of each picture.
        label: what the progress bar says.
        progress: whether to show it.
        most: bytes.

    Returns:
        uint8, as `maker` makes them, perhaps as a `Stack`, and one line for each bad file.
    """
    count, problems = len(maker.ids), []
    if maker.size is None or maker.bytes() > most:
        problems = bad_files(maker.check, count, f"sizes of {label}", progress)
    stack = maker.stack
    if problems or maker.bytes() > most:
        return cast(np.ndarray, stack), problems
    tiles: Any = np.zeros(stack.shape, np.uint8)
    if stack.sides is not None:
        tiles = [np.zeros((*side, *stack.shape[3:]), np.uint8) for side in stack.sides]

    def read(index: int) -> None:
        tiles[index] = maker(index)

    problems = bad_files(read, count, label, progress)
    return tiles if stack.sides is None else listed_stack(tiles), problems


def bad_files(work: Callable[[int], None], count: int, label: str, progress: bool) -> list[str]:
    """Does some work on each of `count` files in a thread pool; returns a line for each that is bad.

    Args:
        work: function of a number from 0 to count - 1; raises a `DataError` for a bad file.
        count: how many files.
        label: what the progress bar says.
        progress: whether to show it.
    """

    def some(first: int) -> list[str]:
        problems, last = [], min(first + READ_AT_ONCE, count)
        for index in range(first, last):
            try:
                work(index)
            except DataError as error:
                problems.append(str(error))
        bar.update(last - first)
        return problems

    bar = tqdm(total=count, desc=label, unit="tile", disable=not progress)
    with bar, ThreadPoolExecutor(READ_THREADS) as pool:
        results = list(pool.map(some, range(0, count, READ_AT_ONCE)))
    return [line for lines in results for line in lines]


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
    header, lines = read_fields(path)
    form = fitting_form(path, description, header)
    column = form.column("tile")
    place, pattern = header.index(column), template_pattern(form.columns[column])
    found = (pattern.fullmatch(fields[place]) for fields in lines if place < len(fields))
    return {plain_stem(match["tile"]) for match in found if match}


def unmatched_ids(ids: np.ndarray, table_name: str, reader: PictureReader, elsewhere: set[str]) -> list[str]:
    """One line for each id without a file and each file without an id, unless it is `elsewhere`, in another table."""
    known = set(ids.tolist())
    lines = [f"{reader.label(i)}: no such file, but {table_name} has the id" for i in sorted(known - set(reader.names))]
    others = {stem for stem in set(reader.names) - known if plain_stem(stem) not in elsewhere}
    return lines + [f"{reader.label(i)}: its id is not in {table_name}" for i in sorted(others)]


def mask_disagreements(ids: np.ndarray, masks: np.ndarray, encoded: np.ndarray, table_name: str) -> list[str]:
    """One line for each tile whose mask file and run-length encoding differ, uint8 `[N, H, W]` both, or stacks."""
    pixels = np.array([np.count_nonzero(mask != other) for mask, other in zip(masks, encoded, strict=True)])
    lines = []
    for index in np.flatnonzero(pixels):
        transposed = np.array_equal(masks[index], encoded[index].T)
        how = "it is its transpose" if transposed else f"{pixels[index]} pixels differ"
        lines.append(f"{ids[index]}: the mask file and the mask in {table_name} disagree ({how})")
    return lines
