"""Reads predictions of another program: an npz or npy with ids, a folder of PNG or npy files, a CSV of run lengths.

Values are probabilities as float in [0, 1], uint8 0 to 255 or uint16 0 to 65535, masks as bool, or, where that is said,
logits. What looks otherwise is refused with a remedy, and nothing is put right unasked.
"""

import csv
import io
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from desk.errors import ConfigurationError
from salt.archives import Folder, Place, is_added
from salt.description import Competition
from salt.rle import decode_rles

LOGIT_LIMIT = 80.0  # beyond it a float32 sigmoid is 0 or 1
TOP = {"uint8": 255, "uint16": 65535}  # of probabilities that are stored as whole numbers
NOT_PREDICTIONS = ("masks", "images")  # that an npz may hold beside them
CROP = "crop"  # to a tile's size, which may be done to predictions first, as may what turns them:
REMEDIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "transpose": lambda stack: stack.transpose(0, 2, 1),
    "mirror": lambda stack: stack[:, :, ::-1],
    "flip": lambda stack: stack[:, ::-1],
    "turn": lambda stack: stack[:, ::-1, ::-1],
    "invert": lambda stack: -stack if stack.dtype.kind == "f" and stack.min() < 0 else top_value(stack) - stack,
}


class Predictions(NamedTuple):
    """Predictions as a file has them.

    Attributes:
        ids: text `[N]`.
        values: `[N, H, W]` of any of the types above.
        fold: int `[N]`, or None.
        files: what they were read from.
    """

    ids: list[str]
    values: np.ndarray
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
    if source.is_dir():
        return read_folder(source)
    if not source.is_file():
        raise ConfigurationError(f"{source}: no such file or folder")
    kind = source.suffix.casefold()
    if kind == ".npy":
        found = read_npy(source, ids)
    elif kind == ".csv":
        found = read_rle_table(source, competition)
    elif kind == ".npz":
        found = read_npz(source)
    else:
        raise ConfigurationError(f"{source}: must be an .npz, an .npy, a .csv of run lengths, or a folder of files")
    return found._replace(values=as_stack(found.values, len(found.ids), source))


def read_npz(source: pathlib.Path) -> Predictions:
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
    return Predictions(texts(ids), arrays[stacks[0]], arrays.get("fold", arrays.get("folds")), [source])


def read_npy(source: pathlib.Path, ids: pathlib.Path | None = None) -> Predictions:
    """An npy of predictions, with the ids in a file of their own or in a field `id` of each row."""
    array = load_arrays(source)
    assert isinstance(array, np.ndarray)
    if array.dtype.names:
        stacks = [name for name in array.dtype.names if array[name].ndim >= 3]
        named = next((name for name in ("ids", "id") if name in array.dtype.names), None)
        if named is None or len(stacks) != 1:
            raise ConfigurationError(f"{source}: its fields {array.dtype.names} must be `id` and one of predictions")
        return Predictions(texts(array[named]), array[stacks[0]], None, [source])
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
    return Predictions(names, array, None, [source, ids])


def load_arrays(source: pathlib.Path) -> dict[str, np.ndarray] | np.ndarray:
    """What an npz or npy holds."""
    try:
        with open(source, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else loaded
    except Exception as error:  # damage shows as nearly anything: zlib.error, TokenError, NotImplementedError ...
        raise ConfigurationError(f"{source}: cannot be read ({error}); save plain arrays, without pickles") from error


def read_rle_table(source: pathlib.Path, competition: Competition) -> Predictions:
    """A CSV of ids and run lengths, such as a submission; of a third column `fold`, the folds."""
    try:
        rows = list(csv.reader(io.StringIO(source.read_bytes().decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{source}: is no readable CSV file ({error})") from error
    header = [name.strip() for name in rows[0]] if rows else []
    columns = list(competition.sample_submission.columns)
    if header[:2] != columns or any(len(row) != len(header) for row in rows):
        raise ConfigurationError(
            f"{source}: the first line is {','.join(header)!r}; it must be {','.join(columns)!r}, and all lines alike"
        )
    ids = [row[0].strip() for row in rows[1:]]
    masks = decode_rles([row[1] for row in rows[1:]], competition.one_size(), ids)
    fold = np.array([row[2] for row in rows[1:]]) if header[2:] == ["fold"] else None
    return Predictions(ids, masks.astype(bool), fold, [source])


def read_folder(source: pathlib.Path) -> Predictions:
    """A folder of PNG files, or of npy files, each named by the id of its tile."""
    pictures = {stem: source / name for stem, name in Folder(Place(source)).pictures(".png").items()}
    arrays = {
        path.stem: path for path in source.iterdir() if path.suffix.casefold() == ".npy" and not is_added(path.name)
    }
    if bool(pictures) == bool(arrays):
        what = "PNG and npy files, where it must be one kind" if pictures else "neither PNG nor npy files"
        raise ConfigurationError(f"{source}: holds {what}, named by id")
    files = dict(sorted((pictures or arrays).items()))
    stack = [read_picture(path) if pictures else np.asarray(load_arrays(path)).squeeze() for path in files.values()]
    kinds = {(array.shape, array.dtype.name): path for array, path in zip(stack, files.values(), strict=True)}
    if len(kinds) > 1:
        shown = "; ".join(f"{path.name} {dtype} {shape}" for (shape, dtype), path in list(kinds.items())[:2])
        raise ConfigurationError(f"{source}: its files have different sizes or types: {shown}; make them alike")
    return Predictions(list(files), as_stack(np.stack(stack), len(files), source), None, list(files.values()))


def read_picture(path: pathlib.Path) -> np.ndarray:
    """A grey picture, uint8 or uint16 `[H, W]`."""
    import cv2  # which predictions in other forms do not need

    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ConfigurationError(f"{path}: OpenCV cannot decode it")
    if pixels.ndim == 3 and (pixels[..., :3] != pixels[..., :1]).any():
        raise ConfigurationError(f"{path}: its colour channels differ; save one grey channel")
    return pixels[..., 0] if pixels.ndim == 3 else pixels


def as_stack(values: np.ndarray, count: int, source: pathlib.Path) -> np.ndarray:
    """`[N, H, W]`, also of arrays with a channel axis of one."""
    if values.ndim == 4 and 1 in (values.shape[1], values.shape[-1]):
        values = values[..., 0] if values.shape[-1] == 1 else values[:, 0]
    if values.ndim != 3 or len(values) != count:
        raise ConfigurationError(f"{source}: predictions of shape {values.shape} for {count} ids; must be [N, H, W]")
    return values


def texts(ids: np.ndarray) -> list[str]:
    """Ids as text, bytes decoded."""
    return [each.decode() if isinstance(each, bytes) else str(each) for each in np.ravel(ids).tolist()]


def top_value(stack: np.ndarray) -> int:
    """What stands for probability 1 in an array of probabilities or masks."""
    return TOP.get(stack.dtype.name, 1)


def to_probabilities(
    values: np.ndarray, ids: list[str], logits: bool, source: pathlib.Path, size: tuple[int, int]
) -> np.ndarray:
    """Probabilities as runs store them, round(255 p), uint8 `[N, H, W]`.

    Args:
        values: bool, uint8, uint16 or float `[N, H, W]`.
        ids: of the tiles, for messages.
        logits: whether they are logits.
        source: for messages.
        size: height and width of a tile.

    Raises:
        ConfigurationError: another size or type, NaN, or values that no probability, or no logit, has.
    """
    if values.shape[1:] != size:
        height, width = values.shape[1:]
        remedy = "scale it back before you save it"
        if height >= size[0] and width >= size[1]:
            remedy = "--apply crop takes its middle, if it was padded on all sides; if it was scaled, scale it back"
        raise ConfigurationError(f"{source}: {height} x {width} pixels, a tile has {size[0]} x {size[1]}; {remedy}")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            bad = ids[int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0])]
            raise ConfigurationError(f"{source}: values of {bad} are NaN or infinite; predict it again")
        low, high = float(values.min()), float(values.max())
        if logits:
            values = 1 / (1 + np.exp(-np.clip(values.astype(np.float32), -LOGIT_LIMIT, LOGIT_LIMIT)))
        elif low < 0 or high > 1:
            remedy = "save those as uint8" if low >= 0 and high <= 255 else "if they are logits, give --logits"
            raise ConfigurationError(f"{source}: values from {low:.4g} to {high:.4g}, not probabilities; {remedy}")
        return np.rint(255 * values.astype(np.float64)).astype(np.uint8)
    if logits:
        raise ConfigurationError(f"--logits: {source} holds {values.dtype}; logits are floating-point numbers")
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype.name not in TOP:
        raise ConfigurationError(f"{source}: {values.dtype}; must be float in [0, 1], uint8, uint16, or bool for masks")
    if values.max() == 1:
        raise ConfigurationError(
            f"{source}: {values.dtype} with 1 as its largest value looks like masks of 0 and 1; save them as bool, or "
            f"times {top_value(values)}"
        )
    return np.rint(values / (top_value(values) / 255)).astype(np.uint8)
