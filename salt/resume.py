"""Resuming a run that was not finished: its outputs are mounted, checked and copied.

Training resumes from any checkpoint that it finds in the state folder (`salt/training.py`); this module puts it there.
"""

import fnmatch
import pathlib
import shutil
from collections.abc import Iterable

from salt.artifacts import MANIFEST, ArtifactError, find_runs, read_manifest, verify_run
from salt.config import Config, config_to_dict

STATE_FOLDER = "state"  # among a run's outputs: what it can be resumed from
# Settings that a resumed run may change: on which device and for how long it computes, but not what.
RESUMABLE_SETTINGS = ("gpu", "workers", "cluster", "limit_minutes", "trials")
# Settings that runs of earlier versions did not have, with the value that does what was done without them.
LATER_SETTINGS = {"clip_norm": 0.0, "accumulate": 1, "cutmix": 0.0, "split": "random", "neighbour_masks": False}


def differing_settings(config: Config, values: dict) -> list[str]:
    """The fields in which a configuration differs from the settings `values` of a run, so that it cannot resume it.

    A run of an earlier version, from which a setting is absent, did what `LATER_SETTINGS` says.
    """
    wanted, values = config_to_dict(config), {**LATER_SETTINGS, **values}
    return [name for name in wanted if name not in RESUMABLE_SETTINGS and wanted[name] != values.get(name)]


def resume_run(roots: Iterable[str | pathlib.Path], run_id: str, config: Config, folder: str | pathlib.Path) -> dict:
    """Copies the state of a mounted unfinished run, and the weights of its finished folds, so that it can be resumed.

    Args:
        roots: folders to search for the run.
        run_id: of the unfinished run.
        config: settings of the run that resumes it.
        folder: where the state is copied to: the working folder of that run.

    Returns:
        The manifest of the unfinished run.

    Raises:
        ArtifactError: no such run, or one that is damaged, finished, or had other settings.
    """
    source, manifest = find_resumable_run(roots, run_id, "train", config)
    if manifest.get("finished", True):
        raise ArtifactError(f"{run_id} is finished: there is nothing to resume")
    copy_outputs(source, manifest, (f"{STATE_FOLDER}/*", "*.weights.h5"), folder)
    return manifest


def find_resumable_run(
    roots: Iterable[str | pathlib.Path], run_id: str, kernel: str, config: Config
) -> tuple[pathlib.Path, dict]:
    """The folder and the manifest of a mounted run of a kernel that a run with these settings may resume.

    Raises:
        ArtifactError: no such run, or one that is damaged or had other settings.
    """
    mounted = find_runs(roots, kernel)
    found = {read_manifest(path / MANIFEST)["run_id"]: path for path in mounted}
    if run_id not in found:
        there = ", ".join(map(str, found))
        raise ArtifactError(f"{run_id} is not mounted, but {there}: attach its output as a kernel source")
    manifest = verify_run(found[run_id])
    if other := differing_settings(config, manifest["config"]):
        had = {**LATER_SETTINGS, **manifest["config"]}
        was = ", ".join(f"{name}={had.get(name)!r}" for name in other)
        raise ArtifactError(f"{run_id} was begun with {was}: resume it with the same settings, or begin a new run")
    return found[run_id], manifest


def copy_outputs(source: pathlib.Path, manifest: dict, patterns: tuple[str, ...], folder: str | pathlib.Path) -> None:
    """Copies a run's files whose names match one of the patterns into a folder; `*` stands for anything, `/` too."""
    for name in manifest["files"]:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            target = pathlib.Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
