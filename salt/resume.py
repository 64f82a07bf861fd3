"""Going on with a run that was not finished: what it left is mounted, checked and copied.

Training itself goes on from any state folder that it finds (`salt/training.py`); this is how one comes to be there.
"""
import json
import pathlib
import shutil

from salt.artifacts import MANIFEST, ArtifactError, find_runs, verify_run
from salt.config import Config, config_to_dict

STATE = "state"  # the folder of a run's outputs from which it can be gone on with
FREE_SETTINGS = ("gpu", "workers", "limit_minutes")  # they decide how a run goes on, and not what comes of it


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
    mounted = find_runs(roots, "train")
    found = {json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("run_id"): path for path in mounted}
    if run_id not in found:
        there = ", ".join(map(str, found))
        raise ArtifactError(f"{run_id} is not mounted, but {there}: attach its output as a kernel source")
    manifest = verify_run(found[run_id])
    if manifest.get("finished", True):
        raise ArtifactError(f"{run_id} is finished, so that there is nothing to go on with")
    if other := differing_settings(config, manifest["config"]):
        was = ", ".join(f"{name}={manifest['config'].get(name)!r}" for name in other)
        raise ArtifactError(f"{run_id} was begun with {was}: go on with the same settings, or train anew")
    for name in manifest["files"]:
        if name.startswith(f"{STATE}/") or name.endswith(".weights.h5"):
            target = pathlib.Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found[run_id] / name, target)
    return manifest
