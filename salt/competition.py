"""Finds a competition's files below the folders where they may be mounted, without opening any of them.

An archive's table of contents is all that is read. What the files hold is the matter of `salt/data.py`.
"""

import itertools
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SEARCH_DEPTH = 4  # folders below a root; Kaggle's mounts lie two deep, and a full walk of /kaggle/input takes minutes
SEARCH_ENTRIES = 1000  # of one folder that are looked at: a folder of 18,000 images holds no competition
TREE_LINES = 40  # of a root that an error message shows


class DataError(ValueError):
    """A competition that is missing, incomplete or inconsistent, or arrays that do not make one."""


@dataclass(frozen=True)
class PngFolder:
    """A folder of PNG files, on disk or inside a zip."""

    path: pathlib.Path  # the folder itself, or the zip
    inside: str = ""  # the folder's name inside the zip, such as "images/" or "train/images/"

    def __str__(self) -> str:
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


def find_competition(
    roots: str | os.PathLike | Iterable[str | os.PathLike], slug: str = "tgs-salt-identification-challenge"
) -> Competition:
    """Finds a competition below one of several folders, without opening more of it than a zip's table of contents.

    Under each root it tries Kaggle's nested mount `competitions/<slug>/`, the flat mount `<slug>/` and the root itself;
    then, under each root again, every folder down to a small depth. Images may be in `train.zip` and `test.zip`, in
    folders of these names, both with or without a second `train/` inside, or (training tiles) in `images/` and
    `masks/`. A zip is preferred to a folder: it is whole or unreadable, whereas a folder may be half extracted.

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
    given = [roots] if isinstance(roots, str | os.PathLike) else roots
    paths = [pathlib.Path(root) for root in given]
    shortcomings: dict[pathlib.Path, list[str]] = {}
    for folder in competition_candidates(paths, slug):
        if folder in shortcomings:
            continue
        parts, missing = locate_parts(folder)
        if not missing:
            return Competition(**parts)
        shortcomings[folder] = missing
    lines = [f"no folder holds the whole competition {slug!r}; looked under {', '.join(map(str, paths)) or 'no root'}"]
    lines += [f"  {folder} lacks {', '.join(missing)}" for folder, missing in shortcomings.items() if len(missing) < 4]
    for path in paths:
        lines += folder_tree(path)
    lines.append(
        "remedy: attach the competition's data to the notebook, or name the folder that holds train.csv, train.zip, "
        "test.zip, depths.csv and sample_submission.csv"
    )
    raise DataError("\n".join(lines))


def competition_candidates(roots: list[pathlib.Path], slug: str) -> Iterator[pathlib.Path]:
    """Yields the folders that may be the competition, the likeliest first."""
    for root in roots:
        yield from (root / "competitions" / slug, root / slug, root)
    for root in roots:
        level = [root]
        for _ in range(SEARCH_DEPTH):
            level = [folder for parent in level for folder in subfolders(parent)]
            yield from level


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders among the first `SEARCH_ENTRIES` entries of a folder, by name, without hidden ones."""
    return [folder / name for name, is_folder in first_entries(folder) if is_folder and not name.startswith(".")]


def first_entries(folder: pathlib.Path) -> list[tuple[str, bool]]:
    """(name, is a folder) of the first `SEARCH_ENTRIES` entries of a folder, sorted; empty if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in itertools.islice(entries, SEARCH_ENTRIES))
    except OSError:
        return []


def locate_parts(folder: pathlib.Path) -> tuple[dict, list[str]]:
    """The fields of `Competition` for a folder, and the names of the required parts that are missing."""
    wanted = {
        "train_table": "train.csv",
        "sample_submission": "sample_submission.csv",
        "train_images": "training images (train.zip, train/images/ or images/)",
        "test_images": "test images (test.zip or test/images/)",
    }
    parts: dict[str, pathlib.Path | PngFolder | None] = {
        "folder": folder,
        "train_table": existing_file(folder / "train.csv"),
        "sample_submission": existing_file(folder / "sample_submission.csv"),
        "depths_table": existing_file(folder / "depths.csv"),
    }
    if parts["train_table"] is None and parts["sample_submission"] is None:
        return {}, list(wanted.values())  # another kind of folder: do not open its zips, which may be large or broken
    parts["train_images"] = locate_pngs(folder, "train", "images") or png_folder(folder / "images")
    parts["train_masks"] = locate_pngs(folder, "train", "masks") or png_folder(folder / "masks")
    parts["test_images"] = locate_pngs(folder, "test", "images")
    return parts, [name for key, name in wanted.items() if parts[key] is None]


def existing_file(path: pathlib.Path) -> pathlib.Path | None:
    """The path if a file is there, else None."""
    return path if path.is_file() else None


def locate_pngs(folder: pathlib.Path, split: str, kind: str) -> PngFolder | None:
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


def png_folder(path: pathlib.Path) -> PngFolder | None:
    """A `PngFolder` if `path` is a folder that holds a PNG file, else None."""
    try:
        with os.scandir(path) as entries:
            return PngFolder(path) if any(entry.name.lower().endswith(".png") for entry in entries) else None
    except OSError:
        return None


def png_folder_in_zip(archive: pathlib.Path, kind: str) -> PngFolder | None:
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


def open_zip(path: pathlib.Path) -> zipfile.ZipFile:
    """Opens a zip for reading.

    Raises:
        DataError: it is truncated or no zip at all.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, struct.error) as error:
        size = os.path.getsize(path)
        raise DataError(f"{path} ({size:,} bytes) is not a whole zip ({error}); download it again") from error


def folder_tree(root: pathlib.Path) -> list[str]:
    """The lines of a folder's tree, three levels deep and at most `TREE_LINES` long, for an error message."""
    if not root.is_dir():
        return [f"{root}: {'is not a folder' if root.exists() else 'does not exist'}"]
    lines: list[str] = []

    def add(folder: pathlib.Path, depth: int) -> None:
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
