"""A run's output folder: out-of-fold predictions, and the manifest that says which run made which file.

A folder is checked when it is read: a file that is missing, cut short or of another run is an error, never a result.
"""

import importlib.metadata
import io
import json
import pathlib
import sys
import threading
import zipfile
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import numpy as np

from salt.archives import read_shared
from salt.config import Config, config_to_dict
from salt.files import sha256_file, whole_file
from salt.stacks import Stack, all_sides

MANIFEST = "manifest.json"
# What the entries of a manifest are that others rely on: those that each has, and those that some have.
MANIFEST_TYPES: dict[str, type] = {"run_id": str, "kernel": str, "config": dict, "files": dict}
MORE_MANIFEST_TYPES: dict[str, type] = {
    "finished": bool, "minutes": float, "trained_by": str, "parts": dict, "imported": dict,
}  # fmt: skip


class ArtifactError(ValueError):
    """A run's folder that is incomplete, damaged or of another run."""


class Oof(NamedTuple):
    """Out-of-fold predictions: those of a tile come from a model that was not trained on it.

    Attributes:
        ids: str `[N]`.
        fold: int8 `[N]`, the fold in which the tile is held out.
        probabilities: uint8 `[N, H, W]`, round(255 p), or `[N, H, W, C]` of several classes; of large tiles a `Stack`.
        masks: uint8 {0, 1} of the same shape, the truth.
    """

    ids: np.ndarray
    fold: np.ndarray
    probabilities: np.ndarray
    masks: np.ndarray


def write_oof(path: str | pathlib.Path, oof: Oof) -> None:
    """Writes out-of-fold predictions as a compressed `.npz`; of a `Stack` each tile has an entry of its own.

    Raises:
        ArtifactError: arrays that `read_oof` would refuse.
    """
    check_oof(oof, path)
    write_arrays(path, oof._asdict())


def write_arrays(path: str | pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes arrays as a compressed `.npz`.

    What is no array, but gives arrays one by one, becomes entries NAME/000000 and so on: one at a time is in memory.
    Where their heights and widths differ, NAME/sides tells them.
    """
    whole: dict[str, Any] = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    with whole_file(path) as temporary, open(temporary, "w+b") as file:
        np.savez_compressed(file, **whole)
        if len(whole) == len(arrays):
            return
        # The fastest compression: the best takes ten times as long to make probabilities a tenth smaller.
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, stack in arrays.items():
                sides = []
                for index, array in enumerate(stack if name not in whole else ()):
                    write_entry(archive, f"{name}/{index:06}", array)
                    sides.append(array.shape[:2])
                if len(set(sides)) > 1:
                    write_entry(archive, f"{name}/sides", np.array(sides))


def write_entry(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Writes an array as an entry of an open `.npz`."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)


class EntryReader:
    """Reads an array out of the entries that `write_arrays` made, as a `Stack` asks for it.

    Args:
        path: of the `.npz`.
        name: of the arrays.
    """

    def __init__(self, path: pathlib.Path, name: str):
        self.path, self.name = path, name
        self.archive: zipfile.ZipFile | None = None
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return EntryReader, (self.path, self.name)

    def __call__(self, index: int) -> np.ndarray:
        with self.lock:
            if self.archive is None:  # its table of contents, of two entries a tile, is read once; threads share it
                self.archive = zipfile.ZipFile(self.path)
        # What a run of ours has written may have any size.
        content = read_shared(self.archive, f"{self.name}/{index:06}.npy", self.lock, most=sys.maxsize)
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def read_array(path: pathlib.Path, arrays: Any, name: str) -> np.ndarray:
    """An array of an open `.npz`, or, where each tile has an entry, a `Stack`."""
    entries = {entry for entry in arrays.files if entry.startswith(f"{name}/")}
    if not entries:
        return arrays[name]
    sides = arrays[f"{name}/sides"] if f"{name}/sides" in entries else None
    count, shape = len(entries) - (sides is not None), arrays[f"{name}/{0:06}"].shape
    return cast(np.ndarray, Stack(EntryReader(path.absolute(), name), (count, *shape), None, sides))


def read_oof(path: str | pathlib.Path) -> Oof:
    """Reads and checks what `write_oof` wrote.

    Raises:
        ArtifactError: no such file, a damaged one, or arrays that do not fit each other.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; only a finished training run has out-of-fold predictions")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            oof = Oof(**{name: read_array(path, arrays, name) for name in Oof._fields})
    except Exception as error:  # damage shows as nearly anything: zlib.error, TokenError, NotImplementedError ...
        raise ArtifactError(f"{path}: damaged, or no out-of-fold predictions ({error}); fetch it again") from error
    check_oof(oof, path)
    return oof


def check_oof(oof: Oof, path: str | pathlib.Path) -> None:
    """Raises `ArtifactError` unless the arrays are what `Oof` says."""
    count = len(oof.ids)
    expected = {
        "ids": (count,),
        "fold": (count,),
        "probabilities": (count, *oof.masks.shape[1:]),
        "masks": (count, *oof.probabilities.shape[1:]),
    }
    for name, shape in expected.items():
        array = getattr(oof, name)
        if array.shape != shape:
            raise ArtifactError(f"{path}: {name} has shape {array.shape} where {shape} fits the {count} ids")
    unequal = np.flatnonzero((all_sides(oof.probabilities) != all_sides(oof.masks)).any(axis=1))
    if unequal.size:
        raise ArtifactError(f"{path}: probabilities and masks of {oof.ids[unequal[0]]} differ in size")
    for name in ("probabilities", "masks"):
        array = getattr(oof, name)
        if array.dtype != np.uint8 or array.ndim not in (3, 4):
            raise ArtifactError(f"{path}: {name} is {array.dtype} {array.shape}, not uint8 [N, H, W] or [N, H, W, C]")
    if not count:
        raise ArtifactError(f"{path}: holds no tile")
    if isinstance(oof.masks, np.ndarray) and oof.masks.max() > 1:
        raise ArtifactError(f"{path}: masks has the value {oof.masks.max()}; only 0 and 1 are allowed")
    if oof.fold.dtype.kind != "i" or oof.fold.min() < 0:
        raise ArtifactError(f"{path}: fold must be whole numbers from 0, not {oof.fold.dtype} from {oof.fold.min()}")
    unique, counts = np.unique(oof.ids, return_counts=True)
    if len(unique) < count:
        repeated = str(unique[counts > 1][0])
        raise ArtifactError(f"{path}: id {repeated!r} is there {counts.max()} times; each tile counts once")


def write_probabilities(
    path: str | pathlib.Path, ids: np.ndarray, probabilities: np.ndarray | Iterable[np.ndarray]
) -> None:
    """Writes the probabilities of tiles with their ids `[N]` as a compressed `.npz`.

    Args:
        path: of the file.
        ids: str `[N]`.
        probabilities: uint8 `[N, H, W]`, or `[N, H, W, C]` of several classes; or what gives those of one tile after
            the other.
    """
    write_arrays(path, {"ids": ids, "probabilities": probabilities})


def read_probabilities(path: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads what `write_probabilities` wrote: ids and probabilities.

    Raises:
        ArtifactError: no such file, a damaged one, or arrays that do not fit each other.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; only a finished run of the predict kernel has probabilities")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids, probabilities = arrays["ids"], read_array(path, arrays, "probabilities")
    except Exception as error:  # damage shows as nearly anything: zlib.error, TokenError, NotImplementedError ...
        raise ArtifactError(f"{path}: damaged, or no probabilities ({error}); fetch it again") from error
    if probabilities.dtype != np.uint8 or probabilities.ndim not in (3, 4) or ids.shape != probabilities.shape[:1]:
        raise ArtifactError(f"{path}: {probabilities.dtype} {probabilities.shape} is no uint8 [{ids.size}, H, W]")
    return ids, probabilities


def write_manifest(folder: str | pathlib.Path, run_id: str, kernel: str, config: Config, **more: object) -> dict:
    """Writes `manifest.json`, the last file of a run: run id, settings, versions, size and SHA-256 of all others.

    Args:
        folder: the run's outputs. Files whose name begins with a dot or an underscore are left out: Kaggle adds such.
        run_id: what the run is called.
        kernel: name of the kernel that ran.
        config: the run's settings.
        **more: further entries, ready for JSON.

    Returns:
        The manifest.
    """
    folder = pathlib.Path(folder)
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and not any(part[0] in "._" for part in name.split("/")):
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    manifest = {
        "run_id": run_id,
        "kernel": kernel,
        **more,
        "config": config_to_dict(config),
        "versions": library_versions(),
        "files": files,
    }
    with whole_file(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def verify_run(folder: str | pathlib.Path) -> dict:
    """Reads a run's manifest and checks every file in it.

    Files that the manifest does not name (a score, a report, an executed notebook) are not checked.

    Returns:
        The manifest.

    Raises:
        ArtifactError: no manifest, an unreadable one, or files that do not match it; the message lists up to five of
            them.
    """
    folder = pathlib.Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: no {MANIFEST}; this is no run, or one that did not reach its end")
    manifest = read_manifest(path)
    wrong = []
    for name, entry in manifest["files"].items():
        file, size, digest = folder / name, entry["bytes"], entry["sha256"]
        if not file.resolve().is_relative_to(folder.resolve()):
            wrong.append(f"{name} lies outside of the folder")
        elif not file.is_file():
            wrong.append(f"{name} is missing")
        elif file.stat().st_size != size:
            wrong.append(f"{name} has {file.stat().st_size} bytes, not {size}")
        elif sha256_file(file) != digest:
            wrong.append(f"{name} has another SHA-256")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ArtifactError(f"{folder} does not match its manifest: {'; '.join(wrong[:5])}{more}. Fetch the run again.")
    return manifest


def read_manifest(path: pathlib.Path) -> dict:
    """The manifest in a file. The files that it names are not checked.

    Raises:
        ArtifactError: it cannot be read, or an entry that others rely on is missing or of another type.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if problem := manifest_problem(manifest):
            raise ValueError(problem)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); fetch the run again") from error
    return manifest


def manifest_problem(manifest: object) -> str | None:
    """What is wrong with a manifest; None if nothing is."""
    if not isinstance(manifest, dict):
        return "it is no JSON object"
    for name, kind in {**MANIFEST_TYPES, **MORE_MANIFEST_TYPES}.items():
        value = manifest.get(name)
        if value is None and name not in MANIFEST_TYPES:
            continue
        if type(value) is not kind and not (kind is float and type(value) is int):
            return f"{name} is {ascii(value)[:60] if name in manifest else 'missing'}, and must be {kind.__name__}"
    for name in ("level", "minimum_area"):
        numbers = manifest.get(name) or 0
        if any(type(each) is not int for each in (numbers if isinstance(numbers, list) else [numbers])):
            return f"{name} is {ascii(numbers)[:60]}, and must be a whole number, or a list of one for each class"
    for name, entry in manifest["files"].items():
        sizes = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else ()
        if [type(value) for value in sizes] != [int, str]:
            return f"files has {name} with {ascii(entry)[:60]}, and must have its bytes and sha256"
    folds = manifest["config"].get("train_folds", [])
    if not isinstance(folds, list) or any(type(fold) is not int for fold in folds):
        return f"train_folds in config is {ascii(folds)[:60]}, and must be a list of whole numbers"
    return None


def find_runs(roots: Iterable[str | pathlib.Path], kernel: str) -> list[pathlib.Path]:
    """The folders of the mounted runs that a kernel made, sorted.

    Args:
        roots: folders to search, at most four levels deep: Kaggle mounts another notebook's output within them.
        kernel: name of the kernel, such as `"train"`.

    Raises:
        ArtifactError: no such run.
    """
    found, others = set(), []
    for root in roots:
        for depth in range(5):
            for path in pathlib.Path(root).glob("*/" * depth + MANIFEST):
                try:
                    if read_manifest(path)["kernel"] == kernel:
                        found.add(path.parent.resolve())
                except ArtifactError as error:  # perhaps another program's
                    others.append(str(error))
    if not found:
        raise ArtifactError(
            f"0 runs of {kernel!r} under {', '.join(map(str, roots))}; attach the output of one as a kernel source"
            + "".join(f"; {error}" for error in others[:3])
        )
    return sorted(found)


def find_run(roots: Iterable[str | pathlib.Path], kernel: str) -> pathlib.Path:
    """The folder of the one mounted run that a kernel made; searches like `find_runs`.

    Raises:
        ArtifactError: no such run, or several: results must not depend on which one is found first.
    """
    folders = find_runs(roots, kernel)
    if len(folders) > 1:
        raise ArtifactError(
            f"{len(folders)} runs of {kernel!r} under {', '.join(map(str, roots))}: "
            f"{', '.join(map(str, folders))}; attach the output of one as a kernel source"
        )
    return folders[0]


def library_versions() -> dict:
    """The versions of the libraries that a result depends on, as far as they are installed."""
    versions = {}
    for name in ("numpy", "keras", "tensorflow", "jax", "scikit-learn", "opencv-python", "opencv-python-headless"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
