"""Runs at this desk: their names, their folders, and what is recorded in them.

A run is a folder in runs/. push.json tells what was sent to Kaggle and what became of it, fetch.json what came back,
manifest.json what the run wrote, submit.json how its submission scored. A run whose folds were fanned out has
queue.json instead of push.json, and in parts/ a run for each fold.
"""

import contextlib
import datetime
import fcntl
import functools
import os
import pathlib
import secrets
from typing import Any

from desk import paths
from desk.errors import BusyError, ConfigurationError
from desk.paths import AnyPath
from desk.records import read_record, write_record

PUSH, FETCH, SUBMIT, QUEUE, MANIFEST = "push.json", "fetch.json", "submit.json", "queue.json", "manifest.json"
METADATA = "kernel-metadata.json"
IMPORTED = "imported"  # as the kernel in a manifest: another program made it


class Run:
    """A run's folder, and what is recorded there. Each record is read once."""

    def __init__(self, folder: AnyPath):
        self.folder = pathlib.Path(folder)

    @property
    def name(self) -> str:
        return self.folder.name

    @functools.cached_property
    def push(self) -> dict:
        """What was sent to Kaggle: run_id, kernel, ref, state, version, url, ...; {} if nothing was.

        `state` is one of queued, sending, ambiguous (sent, and nobody knows whether it arrived), lacks_sources (it runs
        without some of its sources) and pushed.
        """
        record = read_record(self.folder, PUSH)
        if record.get("state") == "crippled":  # in older records
            record["state"] = "lacks_sources"
        return record

    @functools.cached_property
    def queue(self) -> dict:
        """How its folds were fanned out; {} for a run in one kernel."""
        return read_record(self.folder, QUEUE)

    @functools.cached_property
    def parts(self) -> list["Run"]:
        """The runs of its folds, in their order; of a run in one kernel, none."""
        return [Run(self.folder / "parts" / f"fold-{fold}") for fold in self.queue.get("folds", [])]

    @functools.cached_property
    def metadata(self) -> dict:
        """The kernel-metadata.json that was pushed."""
        return read_record(self.folder / "pushed", METADATA)

    @property
    def fetched(self) -> dict:
        """What was brought home; {} if nothing was."""
        return read_record(self.folder, FETCH)

    @property
    def manifest(self) -> dict:
        """The manifest of its output, if that is here; else {}. The files are not checked."""
        return read_record(self.folder, MANIFEST)

    def record_push(self, **changes: Any) -> None:
        """Changes push.json."""
        self.push |= changes
        write_record(self.folder, PUSH, self.push)

    def lock(self) -> contextlib.ExitStack:
        """Keeps other processes off the folder within a `with` block.

        It is a lock of the system: it ends with the process, however that ends.

        Raises:
            BusyError: another process has it.
        """
        handle = os.open(self.folder, os.O_RDONLY)
        held = contextlib.ExitStack()
        held.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            raise BusyError(f"{self.name}: another process at this desk works on it; wait until that ends") from None
        return held


def find_run(name: AnyPath, runs: AnyPath | None = None) -> Run:
    """The run that a person means by a folder's path, a run id, or the beginning of one.

    Args:
        name: what the person wrote.
        runs: where runs are kept; None: this repository's runs/.

    Raises:
        ConfigurationError: there is none, or several.
    """
    runs = pathlib.Path(runs or paths.RUNS)
    for folder in (runs / name, pathlib.Path(name)):
        if folder.is_dir():
            return Run(folder.resolve())
    kept = sorted(folder for folder in runs.glob("[!.]*") if folder.is_dir())  # a hidden one is not finished
    found = [folder for folder in kept if name and folder.name.startswith(str(name))]
    if len(found) == 1:
        return Run(found[0].resolve())
    names = [folder.name for folder in found or kept]
    which = "which of these is meant" if found else "there is no such run; there are"
    raise ConfigurationError(f"{name}: {which}: {', '.join(names[-8:]) or 'none'}")


def pushed_runs(runs: pathlib.Path) -> list[Run]:
    """The runs with a push.json, those of fanned-out folds too, in order of time."""
    folders = [path.parent for pattern in ("[!.]*", "[!.]*/parts/*") for path in runs.glob(f"{pattern}/{PUSH}")]
    return sorted(map(Run, folders), key=lambda run: run.push.get("at", ""))


def new_run_id(kernel: str, preset: str | None = None) -> str:
    """Such as "train-unet-20261122-131502-ab12": sorts by time, and two runs in one second still differ."""
    now = datetime.datetime.now(datetime.UTC)
    return "-".join(filter(None, (kernel, preset, f"{now:%Y%m%d-%H%M%S}", secrets.token_hex(2))))
