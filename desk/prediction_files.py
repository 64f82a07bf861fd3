"""Reads predictions of another program: an npz or npy with ids, a folder of PNG or npy files, a CSV of run lengths.

Values are probabilities as float in [0, 1], uint8 0 to 255 or uint16 0 to 65535, masks as bool, or, where that is said,
logits. What looks otherwise is refused with a remedy, and nothing is put right unasked.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from desk.errors import ConfigurationError
from salt.archives import Folder, Place, is_added
from salt.description import Competition
from salt.stacks import MaskTexts
from salt.tables import masks_of_rows, read_fields, read_rows

NOT_PREDICTIONS = ("masks", "images")  # that an npz may hold beside them


class Predictions(NamedTuple):
    """Predictions as a file has them.

    Attributes:
        ids: text `[N]`.
        values: gives the values of a tile by its number and the height and width of its image: `[H, W]`, or
            `[H, W, C]` of several classes, of any of the types above, perhaps of another size.
        fold: int `[N]`, or None.
        files: what they are read from.
    """

    ids: list[str]
    values: Callable[[int, tuple[int, int]], np.ndarray]
    fold: np.ndarray | None
    files: list[pathlib.Path]


def read_predictions(source: pathlib.Path, competition: Competition, ids: pathlib.Path | None = None) -> Predictions:
    """Reads predictions in any of the forms.

    Args:
        source: the file or folder.
        competition: whose tiles they are of.
        ids: for an npy, a file that names the tiles in its order: npy, or a text with one a line.

    Raises:
        ConfigurationError: it has none of the forms; the message says what is missing.
    """
    classes = len(competition.classes)
    if source.is_dir():
        return read_folder(source, classes)
    if not source.is_file():
        raise ConfigurationError(f"{source}: no such file or folder")
    kind = source.suffix.casefold()
    if kind == ".npy":
        return read_npy(source, ids, classes)
    if kind == ".csv":
        return read_rle_table(source, competition)
    if kind == ".npz":
        return read_npz(source, classes)
    raise ConfigurationError(f"{source}: must be an .npz, an .npy, a .csv of run lengths, or a folder of files")


def read_npz(source: pathlib.Path, classes: int) -> Predictions:
    """An npz with the ids as `ids`, the predictions under any name, and perhaps the folds as `fold`."""
    arrays = load_arrays(source)
    assert isinstance(arrays, dict)
    ids = arrays.get("ids", arrays.get("id"))
    if ids is None:
        raise ConfigurationError(f"{source}: has {', '.join(arrays)}, but no array `ids`; save the tiles' ids with it")
    stacks = [name for name, array in arrays.items() if array.ndim >= 3 and len(array) == len(ids)]
    stacks = [name for name in stacks if name not in NOT_PREDICTIONS] or stacks
    if "probabilities" in stacks:
        stacks = ["probabilities"]
    if len(stacks) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ConfigurationError(
            f"{source}: {len(stacks)} arrays may be predictions of the {len(ids)} ids, where one is needed: {shapes}; "
            "call it `probabilities`"
        )
    return of_array(source, texts(ids), arrays[stacks[0]], classes, arrays.get("fold", arrays.get("folds")))


def read_npy(source: pathlib.Path, ids: pathlib.Path | None, classes: int) -> Predictions:
    """An npy of predictions, with the ids in a file of their own or in a field `id` of each row."""
    array = load_arrays(source)
    assert isinstance(array, np.ndarray)
    if array.dtype.names:
        stacks = [name for name in array.dtype.names if array[name].ndim >= 3]
        named = next((name for name in ("ids", "id") if name in array.dtype.names), None)
        if named is None or len(stacks) != 1:
            raise ConfigurationError(f"{source}: its fields {array.dtype.names} must be `id` and one of predictions")
        return of_array(source, texts(array[named]), array[stacks[0]], classes)
    if ids is None:
        raise ConfigurationError(
            f"{source}: an .npy of {array.shape} says nothing of ids; give --ids FILE, which names the tiles in its "
            "order, or save an .npz with `ids`"
        )
    if ids.suffix.casefold() == ".npy":
        loaded = load_arrays(ids)
        assert isinstance(loaded, np.ndarray)
        names = texts(loaded)
    else:
        lines = ids.read_text(encoding="utf-8-sig").splitlines()
        names = [line.split(",")[0].strip() for line in lines if line.strip()]
        names = names[1:] if names[:1] == ["id"] else names
    found = of_array(source, names, array, classes)
    return found._replace(files=[source, ids])


def of_array(
    source: pathlib.Path, ids: list[str], array: np.ndarray, classes: int, fold: np.ndarray | None = None
) -> Predictions:
    """Predictions that an array `[N, ...]` holds."""
    if len(array) != len(ids):
        raise ConfigurationError(f"{source}: predictions of shape {array.shape} for {len(ids)} ids; give one for each")
    return Predictions(ids, lambda row, size: channels_last(array[row], classes, source), fold, [source])


def load_arrays(source: pathlib.Path) -> dict[str, np.ndarray] | np.ndarray:
    """What an npz or npy holds."""
    try:
        if source.suffix.casefold() == ".npy":  # read from the disk as it is used, for it may be larger than the memory
            return np.load(source, mmap_mode="r", allow_pickle=False)
        with open(source, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else loaded
    except Exception as error:  # damage shows as nearly anything: zlib.error, TokenError, NotImplementedError ...
        raise ConfigurationError(f"{source}: cannot be read ({error}); save plain arrays, without pickles") from error


def read_rle_table(source: pathlib.Path, competition: Competition) -> Predictions:
    """A CSV with the columns of a submission, and perhaps `fold`; a row for each tile, class or object, as there.

    Raises:
        DataError: it has other columns, or rows that no submission has.
    """
    form, rows = read_rows(source, competition.sample_submission, competition)
    masks = masks_of_rows(source, form, rows, competition)
    header, lines = read_fields(source)
    fold_of = {}
    if "fold" in header:
        column = header.index("fold")
        fold_of = {row.tile: fields[column] for row, fields in zip(rows, lines, strict=True)}
    ids, encoded = list(masks), list(masks.values())

    def decode(row: int, size: tuple[int, int]) -> np.ndarray:
        by_rows, first = competition.rle_by_rows, competition.rle_first
        return MaskTexts([encoded[row]], np.array([size]), by_rows, first, [ids[row]])(0).astype(bool)

    fold = np.array([fold_of[tile] for tile in ids]) if fold_of else None
    return Predictions(ids, decode, fold, [source])


def read_folder(source: pathlib.Path, classes: int) -> Predictions:
    """A folder of PNG files, or of npy files, each named by the id of its tile."""
    pictures = {stem: source / name for stem, name in Folder(Place(source)).pictures(".png").items()}
    arrays = {
        path.stem: path for path in source.iterdir() if path.suffix.casefold() == ".npy" and not is_added(path.name)
    }
    if bool(pictures) == bool(arrays):
        what = "PNG and npy files, where it must be one kind" if pictures else "neither PNG nor npy files"
        raise ConfigurationError(f"{source}: holds {what}, named by id")
    if pictures and classes > 1:
        raise ConfigurationError(f"{source}: a PNG holds one class of {classes}; save an npy of [H, W, {classes}] each")
    files = dict(sorted((pictures or arrays).items()))
    paths = list(files.values())

    def read(row: int, size: tuple[int, int]) -> np.ndarray:
        array = read_picture(paths[row]) if pictures else load_arrays(paths[row])
        assert isinstance(array, np.ndarray)
        return channels_last(array, classes, paths[row])

    return Predictions(list(files), read, None, paths)


def read_picture(path: pathlib.Path) -> np.ndarray:
    """A grey picture, uint8 or uint16 `[H, W]`."""
    import cv2  # which predictions in other forms do not need

    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ConfigurationError(f"{path}: OpenCV cannot decode it")
    if pixels.ndim == 3 and (pixels[..., :3] != pixels[..., :1]).any():
        raise ConfigurationError(f"{path}: its colour channels differ; save one grey channel")
    return pixels[..., 0] if pixels.ndim == 3 else pixels


def channels_last(values: np.ndarray, classes: int, source: pathlib.Path) -> np.ndarray:
    """A tile's values as `[H, W]`, or `[H, W, C]` of several classes, whether these stood first or last.

    Raises:
        ConfigurationError: another shape.
    """
    if values.ndim == 2 and classes == 1:
        return values
    if values.ndim == 3 and classes in (values.shape[-1], values.shape[0]):
        last = values if values.shape[-1] == classes else np.moveaxis(values, 0, -1)
        return last[..., 0] if classes == 1 else last
    wanted = "[H, W]" if classes == 1 else f"[H, W, {classes}] or [{classes}, H, W]"
    raise ConfigurationError(f"{source}: predictions of shape {values.shape} for a tile; must be {wanted}")


def texts(ids: np.ndarray) -> list[str]:
    """Ids as text, bytes decoded."""
    return [each.decode() if isinstance(each, bytes) else str(each) for each in np.ravel(ids).tolist()]
