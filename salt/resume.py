"""Going on with a run that was not finished: what it left is mounted, checked and copied.

Training itself goes on from any state folder that it finds (`salt/training.py`); this is how one comes to be there.
"""

import fnmatch
import json
import pathlib
import shutil

from salt.artifacts import MANIFEST, ArtifactError, find_runs, verify_run
from salt.config import Config, config_to_dict

STATE = "state"  # the folder of a run's outputs from which it can be gone on with
FREE_SETTINGS = ("gpu", "workers", "limit_minutes", "trials")  # how a run goes on, and how far; not what comes of it


def differing_settings(config: Config, values: dict) -> list[str]:
    """The fields that forbid a run with these settings to go on with one of other settings, `values`."""
    wanted = config_to_dict(config)
    return [name for name in wanted if name not in FREE_SETTINGS and wanted[name] != values.get(name)]


def take_over_run(roots, run_id: str, config: Config, folder) -> dict:
    """Copies the state of a mounted unfinished run, and the weights of its finished folds, to go on from there.

    Args:
        roots: folders to search for the run.
        run_id: of the unfinished run.
        config: settings of the run that goes on.
        folder: of the run that goes on.

    Returns:
        The manifest of the unfinished run.

    Raises:
        ArtifactError: no such run, or one that is damaged, finished, or had other settings.
    """
    source, manifest = find_earlier(roots, run_id, "train", config)
    if manifest.get("finished", True):
        raise ArtifactError(f"{run_id} is finished, so that there is nothing to go on with")
    copy_outputs(source, manifest, (f"{STATE}/*", "*.weights.h5"), folder)
    return manifest


def find_earlier(roots, run_id: str, kernel: str, config: Config) -> tuple[pathlib.Path, dict]:
    """The folder and the manifest of a mounted run of a kernel that a run with these settings may go on from.

    Raises:
        ArtifactError: no such run, or one that is damaged or had other settings.
    """
    mounted = find_runs(roots, kernel)
    found = {json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("run_id"): path for path in mounted}
    if run_id not in found:
        there = ", ".join(map(str, found))
        raise ArtifactError(f"{run_id} is not mounted, but {there}: attach its output as a kernel source")
    manifest = verify_run(found[run_id])
    if other := differing_settings(config, manifest["config"]):
        was = ", ".join(f"{name}={manifest['config'].get(name)!r}" for name in other)
        raise ArtifactError(f"{run_id} was begun with {was}: go on with the same settings, or begin anew")
    return found[run_id], manifest


def copy_outputs(source: pathlib.Path, manifest: dict, patterns: tuple, folder):
    """Copies a run's files whose names match one of the patterns, where `*` stands for anything, into a folder."""
    for name in manifest["files"]:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            target = pathlib.Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
