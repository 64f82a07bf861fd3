"""Finds a competition's files, reads them into arrays, and writes a competition in the same layout.

Also the geometry that every other module relies on (a 101-pixel tile inside its padded square, and back) and two flags
per tile. Nothing is skipped or repaired in silence: a file that is not what it should be is named in a `DataError`. The
module decides nothing about folds, training or predictions.
"""

import io
import itertools
import os
import pathlib
import shutil
import struct
import tempfile
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from salt.files import current_umask, whole_file
from salt.rle import decode_rles, encode_rles

TILE_SIZE = 101  # pixels: height and width of every image and mask of the competition

SEARCH_DEPTH = 4  # folders below a root; Kaggle's mounts lie two deep, and a full walk of /kaggle/input takes minutes
SEARCH_ENTRIES = 1000  # of one folder that are looked at: a folder of 18,000 images holds no competition
TREE_LINES = 40  # of a root that an error message shows
PROBLEM_LINES = 20  # that an error message lists; the rest is counted
READ_THREADS = 8  # decoding releases the interpreter lock, and a network mount answers several requests at once
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ZIP_TIME = (2018, 7, 19, 0, 0, 0)  # of every member written: the same arrays give the same bytes


class DataError(ValueError):
    """A competition that is missing, incomplete or inconsistent, or arrays that do not make one."""


# ---------------------------------------------------------------------------------------------------------------------
# Where everything is
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PngFolder:
    """A folder of PNG files, on disk or inside a zip."""

    path: pathlib.Path  # the folder itself, or the zip
    inside: str = ""  # the folder's name inside the zip, such as "images/" or "train/images/"

    def __str__(self):
        return str(self.path / self.inside) if self.inside else str(self.path)


@dataclass(frozen=True)
class Competition:
    """Where each part of a competition is."""

    folder: pathlib.Path
    train_table: pathlib.Path  # train.csv: id, rle_mask
    sample_submission: pathlib.Path  # the ids of the test tiles, in the order of a submission
    depths_table: pathlib.Path | None  # depths.csv: id, z
    train_images: PngFolder
    train_masks: PngFolder | None  # None: the masks are known from train.csv only
    test_images: PngFolder


def find_competition(roots, slug="tgs-salt-identification-challenge") -> Competition:
    """Finds a competition below one of several folders, without opening more of it than a zip's table of contents.

    Under each root it tries Kaggle's nested mount `competitions/<slug>/`, the flat mount `<slug>/` and the root itself;
    then, under each root again, every folder down to a small depth. Images may be in `train.zip` and `test.zip`, in
    folders of these names, both with or without a second `train/` inside, or (training tiles) in `images/` and
    `masks/`. A zip goes before a folder: it is whole or unreadable, whereas a folder may be half extracted.

    Args:
        roots: a folder or several, the likeliest first, such as `["/kaggle/input", "data"]`.
        slug: the competition's name in Kaggle's addresses.

    Returns:
        A `Competition`.

    Raises:
        DataError: none of the folders holds a whole competition. The message says what each candidate lacks and shows
            the tree of each root.

    Example:
        >>> competition = find_competition(["/kaggle/input", "data"])
        >>> train = read_train(competition)
    """
    roots = [roots] if isinstance(roots, (str, os.PathLike)) else list(roots)
    roots = [pathlib.Path(root) for root in roots]
    shortcomings = {}
    for folder in competition_candidates(roots, slug):
        if folder in shortcomings:
            continue
        parts, missing = locate_parts(folder)
        if not missing:
            return Competition(**parts)
        shortcomings[folder] = missing
    lines = [f"no folder holds the whole competition {slug!r}; looked under {', '.join(map(str, roots)) or 'no root'}"]
    lines += [f"  {folder} lacks {', '.join(missing)}" for folder, missing in shortcomings.items() if len(missing) < 4]
    for root in roots:
        lines += folder_tree(root)
    lines.append(
        "remedy: attach the competition's data to the notebook, or name the folder that holds train.csv, train.zip, "
        "test.zip, depths.csv and sample_submission.csv"
    )
    raise DataError("\n".join(lines))


def competition_candidates(roots, slug):
    """Yields the folders that may be the competition, the likeliest first."""
    for root in roots:
        yield from (root / "competitions" / slug, root / slug, root)
    for root in roots:
        level = [root]
        for _ in range(SEARCH_DEPTH):
            level = [folder for parent in level for folder in subfolders(parent)]
            yield from level


def subfolders(folder) -> list[pathlib.Path]:
    """The folders among the first `SEARCH_ENTRIES` entries of a folder, by name; hidden ones are work in progress."""
    return [folder / name for name, is_folder in first_entries(folder) if is_folder and not name.startswith(".")]


def first_entries(folder) -> list[tuple[str, bool]]:
    """(name, is a folder) of the first `SEARCH_ENTRIES` entries of a folder, sorted; empty if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in itertools.islice(entries, SEARCH_ENTRIES))
    except OSError:
        return []


def locate_parts(folder) -> tuple[dict, list[str]]:
    """The fields of `Competition` for a folder, and the names of the required parts that are missing."""
    wanted = {
        "train_table": "train.csv",
        "sample_submission": "sample_submission.csv",
        "train_images": "training images (train.zip, train/images/ or images/)",
        "test_images": "test images (test.zip or test/images/)",
    }
    parts = {
        "folder": folder,
        "train_table": existing_file(folder / "train.csv"),
        "sample_submission": existing_file(folder / "sample_submission.csv"),
        "depths_table": existing_file(folder / "depths.csv"),
    }
    if parts["train_table"] is None and parts["sample_submission"] is None:
        return {}, list(wanted.values())  # some other folder: leave its zips, however large or broken, alone
    parts["train_images"] = locate_pngs(folder, "train", "images") or png_folder(folder / "images")
    parts["train_masks"] = locate_pngs(folder, "train", "masks") or png_folder(folder / "masks")
    parts["test_images"] = locate_pngs(folder, "test", "images")
    return parts, [name for key, name in wanted.items() if parts[key] is None]


def existing_file(path):
    """The path if a file is there, else None."""
    return path if path.is_file() else None


def locate_pngs(folder, split, kind):
    """The `PngFolder` of `split` ("train" or "test") and `kind` ("images" or "masks"), or None."""
    archive = folder / f"{split}.zip"
    if archive.is_file():
        return png_folder_in_zip(archive, kind)
    # Some mounts show a zip as the folder of its contents, and some zips hold one more folder of their own name.
    for outer in (archive, folder / split):
        for inner in (outer, outer / split):
            if found := png_folder(inner / kind):
                return found
    return None


def png_folder(path):
    """A `PngFolder` if `path` is a folder that holds a PNG file, else None."""
    try:
        with os.scandir(path) as entries:
            return PngFolder(path) if any(entry.name.lower().endswith(".png") for entry in entries) else None
    except OSError:
        return None


def png_folder_in_zip(archive, kind):
    """The one folder named `kind` in a zip that holds PNG files, or None.

    Raises:
        DataError: the file is no readable zip, or it holds several such folders.
    """
    parents = set()
    with open_zip(archive) as file:
        for name in file.namelist():
            parent, _, stem = name.rpartition("/")
            if stem.lower().endswith(".png") and not name.startswith("__MACOSX/"):
                parents.add(parent)
    found = sorted(parent for parent in parents if parent.rpartition("/")[2] == kind)
    if len(found) > 1:
        raise DataError(f"{archive} holds {len(found)} folders named {kind}: {', '.join(found)}; keep one of them")
    return PngFolder(archive, found[0] + "/") if found else None


def open_zip(path) -> zipfile.ZipFile:
    """Opens a zip for reading.

    Raises:
        DataError: it is truncated or no zip at all.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, struct.error) as error:
        size = os.path.getsize(path)
        raise DataError(f"{path} ({size:,} bytes) is not a whole zip ({error}); download it again") from error


def folder_tree(root) -> list[str]:
    """The lines of a folder's tree, three levels deep and at most `TREE_LINES` long, for an error message."""
    root = pathlib.Path(root)
    if not root.is_dir():
        return [f"{root}: {'is not a folder' if root.exists() else 'does not exist'}"]
    lines = []

    def add(folder, depth):
        entries = first_entries(folder)
        for name, is_folder in entries[:12]:
            lines.append("  " * depth + name + ("/" if is_folder else ""))
            if is_folder and depth < 3 and len(lines) < TREE_LINES:
                add(folder / name, depth + 1)
        if len(entries) > 12:
            more = f"{len(entries) - 12} more" if len(entries) < SEARCH_ENTRIES else "many more"
            lines.append("  " * depth + f"... and {more}")

    add(root, 1)
    if len(lines) > TREE_LINES:
        lines[TREE_LINES:] = ["  ..."]
    return [f"{root}/", *(lines or ["  (empty)"])]


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """Tiles as arrays; entry i of each belongs to `ids[i]`."""

    ids: np.ndarray  # str `[N]`
    images: np.ndarray  # uint8 `[N, 101, 101]`
    masks: np.ndarray | None  # uint8 {0, 1} `[N, 101, 101]`, 1 = salt; None for test tiles
    depths: np.ndarray  # float64 `[N]`, NaN where unknown


def read_train(competition, progress=True) -> Tiles:
    """Reads the training tiles, in the order of train.csv.

    The masks are read from their PNG files, in which any pixel above zero is salt, and compared with the run-length
    encoding in train.csv; without mask files they come from train.csv alone.

    Args:
        competition: a `Competition`.
        progress: whether to show a progress bar.

    Returns:
        `Tiles` with masks.

    Raises:
        DataError: ids and files do not correspond, a file is damaged or of the wrong size or kind, or a mask differs
            from train.csv. All such files are found before it is raised; the message lists the first of them.
        RLEError: a mask in train.csv is no valid run-length encoding.
    """
    ids, rles = read_id_table(competition.train_table)
    with (
        PngReader(competition.train_images) as images_reader,
        PngReader(competition.train_masks) as masks_reader,
    ):
        problems = unmatched_ids(ids, competition.train_table.name, images_reader)
        if competition.train_masks is not None:
            with_image, with_mask = set(images_reader.names), set(masks_reader.names)
            problems += [f"{masks_reader.label(i)}: mask without image" for i in sorted(with_mask - with_image)]
            problems += [f"{images_reader.label(i)}: image without mask" for i in sorted(with_image - with_mask)]
        raise_problems(problems)
        images, problems = decode_all(images_reader, ids, decode_image, "train images", progress)
        masks = None
        if competition.train_masks is not None:
            masks, mask_problems = decode_all(masks_reader, ids, decode_mask, "train masks", progress)
            problems += mask_problems
        raise_problems(problems)
    encoded = decode_rles(rles, shape=(TILE_SIZE, TILE_SIZE), ids=ids)
    if masks is None:
        masks = encoded
    raise_problems(mask_disagreements(ids, masks, encoded, competition.train_table.name))
    return Tiles(ids, images, masks, read_depths(competition, ids))


def read_test(competition, progress=True) -> Tiles:
    """Reads the test tiles, in the order of sample_submission.csv.

    Args:
        competition: a `Competition`.
        progress: whether to show a progress bar.

    Returns:
        `Tiles` with `masks=None`.

    Raises:
        DataError: ids and files do not correspond, or a file is damaged or of the wrong size or kind.
    """
    ids, _ = read_id_table(competition.sample_submission)
    with PngReader(competition.test_images) as reader:
        raise_problems(unmatched_ids(ids, competition.sample_submission.name, reader))
        images, problems = decode_all(reader, ids, decode_image, "test images", progress)
    raise_problems(problems)
    return Tiles(ids, images, None, read_depths(competition, ids))


class PngReader:
    """Gives the bytes of the PNG files of a `PngFolder` by id, from any thread.

    Args:
        folder: a `PngFolder`, or None for a reader without files.
    """

    def __init__(self, folder):
        self.folder = folder
        self.zip = None
        self.lock = threading.Lock()  # a zip has one file position
        self.names = {}  # id: the file's name in the folder or in the zip
        if folder is None:
            return
        if folder.path.is_dir():
            names = os.listdir(folder.path)
        else:
            self.zip = open_zip(folder.path)
            names = [name for name in self.zip.namelist() if name.startswith(folder.inside)]
        for name in names:
            stem = name[len(folder.inside) :]
            if stem.lower().endswith(".png") and "/" not in stem:
                self.names[stem[:-4]] = name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.zip is not None:
            self.zip.close()

    def label(self, tile_id) -> str:
        """The file of a tile as an error message names it, whether it exists or not."""
        return f"{self.folder}/{tile_id}.png".replace("//", "/")

    def read(self, tile_id) -> bytes:
        """The bytes of a tile's file.

        Raises:
            DataError: the file cannot be read, or its checksum in the zip is wrong.
        """
        try:
            if self.zip is None:
                return (self.folder.path / self.names[tile_id]).read_bytes()
            with self.lock:
                return self.zip.read(self.names[tile_id])
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"cannot be read ({error})") from error


def read_id_table(path) -> tuple[np.ndarray, list[str]]:
    """The ids and masks of train.csv or sample_submission.csv.

    Returns:
        ids, str `[N]`, and the `N` run-length encodings as they stand in the file ("" for an empty one).

    Raises:
        DataError: no such columns, no rows, or an id that is repeated or empty.
    """
    table = read_text_table(path, ("id", "rle_mask"))
    ids = table["id"].to_numpy(dtype=object)
    if len(ids) == 0:
        raise DataError(f"{path}: holds no rows; expected one per tile")
    if "" in ids:
        raise DataError(f"{path}: row {list(ids).index('') + 2} has no id")
    raise_repeated_ids(path, ids)
    return ids.astype(str), table["rle_mask"].tolist()


def read_depths(competition, ids) -> np.ndarray:
    """The depths of the tiles `ids` from depths.csv, float64 `[N]`; NaN where it has none, or is absent itself.

    Raises:
        DataError: a depth is no number, or an id is repeated.
    """
    path = competition.depths_table
    if path is None:
        return np.full(len(ids), np.nan)
    table = read_text_table(path, ("id", "z"))
    raise_repeated_ids(path, table["id"].to_numpy(dtype=object))
    known = dict(zip(table["id"], table["z"], strict=True))
    depths = np.full(len(ids), np.nan)
    for index, tile_id in enumerate(ids):
        text = known.get(tile_id, "")
        try:
            depths[index] = float(text) if text else np.nan
        except ValueError:
            message = f"{path}: depth {text!r} of {tile_id} is no number; leave the field empty if unknown"
            raise DataError(message) from None
    return depths


def read_text_table(path, columns) -> pd.DataFrame:
    """A CSV file with every field as the text it is: an id such as 1e10 is no number, and "" is not NaN.

    Raises:
        DataError: it cannot be parsed, or lacks one of `columns`.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no readable CSV file ({error}); download it again") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"{path}: columns {list(table.columns)} lack {missing}; the first line must name them")
    return table


def raise_repeated_ids(path, ids):
    """Raises a `DataError` that names the ids which occur more than once."""
    names, counts = np.unique(ids, return_counts=True)
    repeated = zip(names[counts > 1], counts[counts > 1], strict=True)
    raise_problems([f"{path}: id {name} occurs {count} times" for name, count in repeated])


def unmatched_ids(ids, table_name, reader) -> list[str]:
    """One line for each id without a file and each file without an id."""
    known = set(ids.tolist())
    lines = [f"{reader.label(i)}: no such file, but {table_name} has the id" for i in sorted(known - set(reader.names))]
    return lines + [f"{reader.label(i)}: its id is not in {table_name}" for i in sorted(set(reader.names) - known)]


def mask_disagreements(ids, masks, encoded, table_name) -> list[str]:
    """One line for each tile whose mask file and run-length encoding differ, uint8 `[N, 101, 101]` both."""
    pixels = np.count_nonzero(masks != encoded, axis=(1, 2))
    lines = []
    for index in np.flatnonzero(pixels):
        transposed = np.array_equal(masks[index], encoded[index].T)
        how = "it is its transpose" if transposed else f"{pixels[index]} pixels differ"
        lines.append(f"{ids[index]}: the mask file and rle_mask in {table_name} disagree ({how})")
    return lines


def raise_problems(problems):
    """Raises a `DataError` that lists `problems`, if there are any."""
    if problems:
        shown = "\n".join(f"  {line}" for line in problems[:PROBLEM_LINES])
        more = f"\n  ... and {len(problems) - PROBLEM_LINES} more" if len(problems) > PROBLEM_LINES else ""
        raise DataError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the competition's files:\n{shown}{more}\n"
            "remedy: get the files again, or make the tables and the folders agree"
        )


def decode_all(reader, ids, decode, label, progress) -> tuple[np.ndarray, list[str]]:
    """Reads and decodes the files of `ids` in a thread pool.

    Args:
        reader: a `PngReader`.
        ids: str `[N]`.
        decode: `decode_image` or `decode_mask`.
        label: what the progress bar says.
        progress: whether to show it.

    Returns:
        uint8 `[N, 101, 101]`, and one line for each bad file.
    """
    tiles = np.zeros((len(ids), TILE_SIZE, TILE_SIZE), np.uint8)

    def read_one(index):
        try:
            tiles[index] = decode(reader.read(ids[index]))
        except DataError as error:
            return f"{reader.label(ids[index])}: {error}"
        return None

    with ThreadPoolExecutor(READ_THREADS) as pool:
        results = list(
            tqdm(pool.map(read_one, range(len(ids))), total=len(ids), desc=label, unit="tile", disable=not progress)
        )
    return tiles, [line for line in results if line]


def decode_image(content) -> np.ndarray:
    """A grey tile, uint8 `[101, 101]`, from the bytes of a grey or RGB PNG file.

    Raises:
        DataError: the file is damaged, has the wrong size or depth, or is a coloured picture.
    """
    pixels = decode_png(content)
    if pixels.dtype != np.uint8:
        raise DataError(f"a {8 * pixels.dtype.itemsize}-bit image; images have 8 bits")
    if pixels.ndim == 2:
        return pixels
    if (pixels[..., 0] != pixels[..., 1]).any() or (pixels[..., 0] != pixels[..., 2]).any():
        raise DataError("its colour channels differ; images are grey, stored as one channel or as three equal ones")
    return pixels[..., 0]


def decode_mask(content) -> np.ndarray:
    """A mask, uint8 {0, 1} `[101, 101]`, from the bytes of a PNG file of 8 or 16 bits: any pixel above zero is salt.

    Raises:
        DataError: the file is damaged or has the wrong size.
    """
    pixels = decode_png(content)
    if pixels.ndim == 3:
        pixels = pixels[..., :3].any(axis=2)  # the fourth channel would be opacity
    return (pixels != 0).astype(np.uint8)


def decode_png(content) -> np.ndarray:
    """The pixels of a PNG file of 101 x 101, `[101, 101]` or `[101, 101, 3 or 4]`, uint8 or uint16."""
    check_png(content)
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError("OpenCV cannot decode it")
    if pixels.ndim == 3 and pixels.shape[2] == 1:  # some versions keep the axis
        pixels = pixels[..., 0]
    return pixels


def check_png(content):
    """Checks the frame of a PNG file: every chunk is there with its checksum, and the size is a tile's.

    Decoders differ here, even versions of OpenCV: some fail on a truncated file, others return what they have so far.

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
            if (height, width) != (TILE_SIZE, TILE_SIZE):
                raise DataError(f"{width} x {height} pixels; a tile has {TILE_SIZE} x {TILE_SIZE}")
        position = end


# ---------------------------------------------------------------------------------------------------------------------
# Geometry and flags
# ---------------------------------------------------------------------------------------------------------------------


def pad_offset(size, tile=TILE_SIZE) -> int:
    """Where a tile begins, in rows and in columns, when it is centred in a square of `size` pixels.

    Raises:
        DataError: the square is smaller than the tile.

    Example:
        >>> pad_offset(128)
        13
    """
    if size < tile:
        raise DataError(f"size={size}: a square must have at least the {tile} pixels of a tile; pad, never resize")
    return (size - tile) // 2


def pad_images(images, size, mode="reflect") -> np.ndarray:
    """Centres tiles in squares of `size` pixels; `crop_images` is the exact inverse.

    Args:
        images: `[N, 101, 101]` of any type, images or masks.
        size: height and width of the result.
        mode: what the border shows: "reflect" (the tile mirrored, its edge pixels not repeated) or "edge" (they are).

    Returns:
        `[N, size, size]` of the same type.

    Raises:
        DataError: the square is smaller than the tile, or `mode` is another.
    """
    if mode not in ("reflect", "edge"):
        raise DataError(f"mode={mode!r}: must be 'reflect' or 'edge'")
    tile = images.shape[1]
    before = pad_offset(size, tile)
    margins = (before, size - tile - before)
    return np.pad(images, ((0, 0), margins, margins), mode=mode)


def crop_images(padded, size=TILE_SIZE) -> np.ndarray:
    """Takes the centred tiles out of padded squares: `crop_images(pad_images(images, 128))` equals `images`.

    Args:
        padded: `[N, S, S]` of any type.
        size: height and width of a tile.

    Returns:
        `[N, size, size]`, a view of `padded`.
    """
    offset = pad_offset(padded.shape[1], size)
    return padded[:, offset : offset + size, offset : offset + size]


def is_black(images) -> np.ndarray:
    """Which images `[N, H, W]` are zero everywhere: no seismic at all, and never any salt. bool `[N]`."""
    return ~images.any(axis=(1, 2))


def is_vertical(masks) -> np.ndarray:
    """Which masks `[N, H, W]` hold salt and have all rows equal, an artefact of annotation below a dome. bool `[N]`."""
    return masks.any(axis=(1, 2)) & (masks == masks[:, :1]).all(axis=(1, 2))


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def write_competition(folder, ids, images, masks, depths, test_ids, test_images, test_depths) -> pathlib.Path:
    """Writes a competition in Kaggle's own layout: two zips and three tables, whole or not at all.

    The same arrays give the same bytes, as far as one version of OpenCV is concerned. As on Kaggle, masks with salt are
    PNG files of 16 bits (0 and 65,535) and empty ones of 8 bits.

    Args:
        folder: where to write; it must not exist, or be empty.
        ids: str `[N]`.
        images: uint8 `[N, 101, 101]`.
        masks: uint8 {0, 1} `[N, 101, 101]`.
        depths: float `[N]`; NaN is left out of depths.csv.
        test_ids: str `[M]`.
        test_images: uint8 `[M, 101, 101]`.
        test_depths: float `[M]`.

    Returns:
        `folder`.

    Raises:
        DataError: `folder` holds something, or the arrays do not fit together.
    """
    folder = pathlib.Path(folder)
    check_tiles("train", ids, images, depths, masks)
    check_tiles("test", test_ids, test_images, test_depths)
    both = np.concatenate([ids, test_ids])
    raise_repeated_ids("ids and test_ids", both)
    check_vacant(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Everything is written beside the folder and gets its name in one step: a killed run leaves no half competition.
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        pictures = [(f"images/{i}.png", image) for i, image in zip(ids, images, strict=True)]
        pictures += [(f"masks/{i}.png", kaggle_mask(mask)) for i, mask in zip(ids, masks, strict=True)]
        write_png_zip(temporary / "train.zip", pictures)
        pictures = [(f"images/{i}.png", image) for i, image in zip(test_ids, test_images, strict=True)]
        write_png_zip(temporary / "test.zip", pictures)
        write_text_table(temporary / "train.csv", ("id", "rle_mask"), zip(ids, encode_rles(masks), strict=True))
        write_text_table(temporary / "sample_submission.csv", ("id", "rle_mask"), [(i, "1 1") for i in test_ids])
        known = zip(both, np.concatenate([depths, test_depths]), strict=True)
        write_text_table(temporary / "depths.csv", ("id", "z"), [(i, f"{z:.10g}") for i, z in known if not np.isnan(z)])
        os.chmod(temporary, 0o777 & ~current_umask())  # mkdtemp gives 0700
        if folder.exists():
            folder.rmdir()  # empty: not every system renames over it
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_vacant(folder):
    """Raises a `DataError` unless a folder is absent or empty."""
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder; give another name or remove it")


def check_tiles(label, ids, images, depths, masks=None):
    """Raises a `DataError` if arrays are not what `Tiles` promises."""
    shape = (len(ids), TILE_SIZE, TILE_SIZE)
    for name, array in (("images", images), ("masks", masks)):
        if array is not None and (array.shape != shape or array.dtype != np.uint8):
            raise DataError(f"{label} {name}: {array.dtype} {array.shape}; must be uint8 {shape} for {len(ids)} ids")
    if masks is not None and masks.size and masks.max() > 1:
        raise DataError(f"{label} masks: the largest value is {masks.max()}; must be 0 or 1")
    if len(depths) != len(ids):
        raise DataError(f"{label} depths: {len(depths)} values; must be {len(ids)}, one per id")


def kaggle_mask(mask) -> np.ndarray:
    """A mask as Kaggle stores it: 16 bits, 65,535 for salt, if there is any; else 8 bits."""
    return mask.astype(np.uint16) * np.uint16(65535) if mask.any() else mask


def write_png_zip(path, pictures):
    """Writes (name, pixels) pairs as PNG files into a zip, which only stores them: they are compressed already."""
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, pixels in pictures:
            member = zipfile.ZipInfo(name, ZIP_TIME)
            member.create_system = 3  # else the bytes would depend on the operating system
            member.external_attr = 0o644 << 16
            _, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 6])
            archive.writestr(member, content.tobytes())


def write_text_table(path, header, rows):
    """Writes a CSV file with Unix line ends."""
    text = io.StringIO()
    pd.DataFrame(list(rows), columns=list(header)).to_csv(text, index=False, lineterminator="\n")
    with whole_file(path) as temporary:
        temporary.write_bytes(text.getvalue().encode())
