"""What a notebook at this desk finds in ../input, laid out as on Kaggle: the competition, earlier runs, weights."""

import pathlib
import shutil
from collections.abc import Iterable

from desk.errors import LocalRunError
from desk.local.competitions import competition_entries
from desk.paths import AnyPath
from desk.runs import find_run
from salt.artifacts import verify_run
from salt.competition import find_competition
from salt.description import Competition

OWNER = "local"  # of every kernel and dataset, as far as the stand-in is concerned


def mount_competition(competition: Competition, data: pathlib.Path, root: pathlib.Path) -> None:
    """Mounts the files of a described competition that a folder holds."""
    for entry in competition_entries(find_competition([data], competition)):
        copy(entry, root / "input" / "competitions" / competition.slug / entry.name)


def mount_other_competition(slug: str, data: AnyPath | None, root: pathlib.Path) -> None:
    """Mounts a folder as it is, as the competition of that name."""
    if data is None or not pathlib.Path(data).is_dir():
        raise LocalRunError(f"--data {data or 'is missing'}: give the folder that holds the files of {slug}")
    copy(pathlib.Path(data), root / "input" / "competitions" / slug)


def verified_runs(names: Iterable[AnyPath], runs: pathlib.Path) -> list[tuple[pathlib.Path, dict]]:
    """(folder, manifest) of earlier runs, every file of theirs checked.

    Raises:
        ConfigurationError: no such run.
        ArtifactError: a folder that is no run, or whose files do not match its manifest.
    """
    folders = [find_run(name, runs).folder for name in names]
    return [(folder, verify_run(folder)) for folder in folders]


def mount_runs(earlier: list[tuple[pathlib.Path, dict]], metadata: dict[str, dict], root: pathlib.Path) -> None:
    """Mounts what Kaggle would: the files of each run's manifest, under the slug of the kernel that made them.

    Args:
        earlier: (folder, manifest) of each run.
        metadata: kernel-metadata.json of the kernels that made them, by name.
        root: the folder of the run that is to be.
    """
    for folder, manifest in earlier:
        slug = metadata[manifest["kernel"]]["id"].rpartition("/")[2]
        mount = free_name(root / "input" / "notebooks" / OWNER / slug)
        for name in (*manifest["files"], "manifest.json"):
            copy(folder / name, mount / name)


def free_name(path: pathlib.Path) -> pathlib.Path:
    """The path, or with -2, -3 ... behind it: several runs of one kernel are several kernels on Kaggle."""
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def check_weights(folder: pathlib.Path) -> None:
    """Raises `LocalRunError` unless a folder holds anything."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise LocalRunError(f"--weights {folder}: must be a folder that holds files of weights")


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file or a folder. A copy, not a link: whatever the notebook does, the originals are out of its reach."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)
