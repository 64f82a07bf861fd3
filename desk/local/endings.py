"""What becomes of a run at this desk: a run's folder, a failed one to look at, or one that can be resumed."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import sys

from desk.competitions import described_competitions
from desk.errors import BusyError, LocalRunError
from desk.local.processes import end_processes
from desk.output import shown
from desk.runs import METADATA, Run
from salt.artifacts import verify_run, write_manifest
from salt.config import config_from_dict
from salt.resume import STATE_FOLDER

RUN_ID = re.compile(r".+-\d{8}-\d{6}-[0-9a-f]{4}")  # see `new_run_id`


def unfinished_run(kernel: str, name: str, runs: pathlib.Path) -> tuple[pathlib.Path, dict]:
    """(folder, manifest) of a run that can be resumed; one that was killed is cleared up first.

    Args:
        kernel: whose run it is.
        name: its id, or the beginning of it, or the path of its folder.
        runs: where runs are kept.

    Raises:
        LocalRunError: no such run, one that still runs, or one that had not begun to train.
        ArtifactError: its files do not match its manifest.
    """
    if os.sep in name:  # a path, such as a shell completes
        path = pathlib.Path(name).expanduser().resolve()
        if path.parent != runs.resolve():
            raise LocalRunError(f"--resume {name}: lies in {path.parent}, and runs in {runs}; add --runs {path.parent}")
        name = path.name.removeprefix(".").removesuffix(".failed")
    names = {folder.name.removeprefix(".").removesuffix(".failed") for folder in runs.iterdir() if folder.is_dir()}
    begun = sorted(known for known in names if known.startswith(name) and RUN_ID.fullmatch(known))
    if name and name not in names and begun:
        if len(begun) > 1:
            raise LocalRunError(f"--resume {name}: which of these is meant: {', '.join(begun[-8:])}")
        (name,) = begun
    killed, failed = runs / f".{name}", runs / f"{name}.failed"
    if killed.is_dir():
        with hold(killed):
            end_processes(killed / "home")
            keep_failed(kernel, killed, failed)
            remove(killed)
    folder = next((folder for folder in (runs / name, failed / "working") if folder.is_dir()), None)
    if folder is None:
        raise LocalRunError(f"--resume {name}: no such run in {shown(runs)}")
    if not can_resume(folder):
        raise LocalRunError(f"--resume {name}: {shown(folder)} has no state: it is finished, or had not begun to train")
    return folder, verify_run(folder)


def can_resume(working: pathlib.Path) -> bool:
    """Whether a run's working folder holds what it takes to resume its training."""
    return (working / STATE_FOLDER / "run.json").is_file()


def hold(root: pathlib.Path) -> contextlib.ExitStack:
    """Locks a run's folder for this process, until a `with` block ends or the process dies.

    Raises:
        LocalRunError: another process has it.
    """
    try:
        return Run(root).lock()
    except BusyError:
        raise LocalRunError(f"{root.name.lstrip('.')} still runs; wait for it, or end it first") from None


def verify_outputs(name: str, folder: pathlib.Path, run_id: str) -> None:
    """Raises unless the outputs are those of this very run, whole."""
    found = verify_run(folder)["run_id"]
    if found != run_id:
        remedy = "the kernel must write its RUN_ID there"
        raise LocalRunError(f"{name}: manifest.json is of run {found!r}, not {run_id!r}; {remedy}")


def keep_finished(name: str, root: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Makes the working folder the run's folder, in one step."""
    working = root / "working"
    os.replace(root / f"{name}.ipynb", working / f"{name}.ipynb")
    os.replace(root / f"{name}.log", working / f"{name}.log")
    try:
        write_html(working / f"{name}.ipynb", working / f"{name}.html")
    except Exception as error:  # whatever nbconvert makes of it: a picture of the run is not worth the run
        print(f"warning: no {name}.html, since nbconvert failed: {error!r}", file=sys.stderr)
    os.rename(working, folder)
    return folder


def keep_failed(name: str, root: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Keeps what a failed run left: notebook, log and working folder. Its name says that it is no run."""
    if can_resume(root / "working") and not (root / "working" / "manifest.json").is_file():
        seal(name, root, folder.name.removesuffix(".failed"))
    kept = root / "failed"
    kept.mkdir()
    for part in (f"{name}.ipynb", f"{name}.log", "working"):
        if (root / part).exists():
            os.replace(root / part, kept / part)
    os.rename(kept, folder)
    return folder


def seal(name: str, root: pathlib.Path, run_id: str) -> None:
    """Writes the manifest of a run that ended before it could: what is there now is what can be resumed."""
    working, built = root / "working", root / "built" / name / METADATA
    begun = json.loads((working / STATE_FOLDER / "run.json").read_text(encoding="utf-8"))
    sources = json.loads(built.read_text(encoding="utf-8"))["competition_sources"] if built.is_file() else []
    described = [slug for slug in sources if slug in described_competitions().values()]
    more = {"competition": described[0]} if described else {}
    write_manifest(working, run_id, name, config_from_dict(begun["config"]), finished=False, **more)


def write_html(notebook: pathlib.Path, html: pathlib.Path) -> None:
    """Writes an executed notebook as a page."""
    from nbconvert import HTMLExporter  # a second, and only for runs that end well

    html.write_text(HTMLExporter().from_filename(str(notebook))[0], encoding="utf-8")


def remove(folder: pathlib.Path) -> None:
    """Removes a folder of ours, its read-only inputs too."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
