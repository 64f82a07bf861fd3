"""Runs at this desk: their names, their folders, and what is recorded in them.

A run is a folder in runs/. push.json tells what was sent to Kaggle and what became of it, fetch.json what came back,
manifest.json what the run wrote, submit.json how its submission scored. A run whose folds were fanned out has
queue.json instead of push.json, and in parts/ a run for each fold.
"""

import contextlib
import datetime
import functools
import pathlib
import secrets
import shutil

from filelock import FileLock, Timeout

from desk import paths
from desk.errors import BusyError, ConfigurationError
from desk.paths import AnyPath
from desk.records import DamagedRecord, Kind, Record, read_object, read_record, write_record
from desk.states import FetchRecord, Manifest, PushRecord, QueueRecord, SubmitRecord

PUSH, FETCH, SUBMIT, QUEUE, MANIFEST = (
    kind.FILE for kind in (PushRecord, FetchRecord, SubmitRecord, QueueRecord, Manifest)
)
METADATA = "kernel-metadata.json"
IMPORTED = "imported"  # as the kernel in a manifest: another program made it
JOINING = ".joining"  # in a run's folder: its joined files, until all of them are there
LOCKS = ".locks"  # in the folder of runs: the files of their locks, empty
HALF = ".half-written-*"  # there: what a kill left of a file that was being written


class Run:
    """A run's folder, and what is recorded there."""

    def __init__(self, folder: AnyPath):
        self.folder = pathlib.Path(folder)

    @property
    def name(self) -> str:
        return self.folder.name

    def read(self, kind: type[Kind]) -> Kind | None:
        """A record of the run; None if there is none.

        Raises:
            DamagedRecord: a file that is no record.
        """
        return read_record(self.folder, kind)

    def need(self, kind: type[Kind]) -> Kind:
        """As `read`; raises `ConfigurationError` if there is none."""
        if (found := self.read(kind)) is None:
            raise ConfigurationError(f"{self.name}: has no {kind.FILE}; only runs that push.py started have one")
        return found

    def keep(self, record: Record) -> None:
        """Writes a record into the folder."""
        write_record(self.folder, record)
        if isinstance(record, PushRecord):
            self.push = record

    @functools.cached_property
    def push(self) -> PushRecord:
        """What was sent to Kaggle."""
        return self.need(PushRecord)

    @property
    def was_sent(self) -> bool:
        """Whether it has a push.json, damaged or not."""
        return (self.folder / PUSH).exists()

    @functools.cached_property
    def queue(self) -> QueueRecord:
        """How its folds were fanned out."""
        return self.need(QueueRecord)

    @property
    def is_fanned_out(self) -> bool:
        """Whether each of its folds has a kernel of its own."""
        return (self.folder / QUEUE).exists()

    @functools.cached_property
    def parts(self) -> list["Run"]:
        """The runs of its folds, in their order; of a run in one kernel, none."""
        folds = self.queue.folds if self.is_fanned_out else []
        return [Run(self.folder / "parts" / f"fold-{fold}") for fold in folds]

    @property
    def run_id(self) -> str:
        """What it is called on Kaggle."""
        return self.queue.run_id if self.is_fanned_out else self.push.run_id

    @property
    def owner(self) -> "Run":
        """The run whose fold it is; else itself."""
        return Run(self.folder.parents[1]) if self.folder.parent.name == "parts" else self

    @functools.cached_property
    def metadata(self) -> dict:
        """The kernel-metadata.json that was pushed.

        Raises:
            ConfigurationError: it is damaged.
        """
        path = self.folder / "pushed" / METADATA
        found = read_object(path)
        lists = [found.get(f"{kind}_sources", []) for kind in ("competition", "dataset", "kernel", "model")]
        names = [found.get(name) for name in ("id", "title", "code_file")] if found else []
        whole = all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in lists)
        if (path.exists() and not found) or not whole or not all(isinstance(name, str) and name for name in names):
            raise ConfigurationError(f"{path}: damaged; push the run anew")
        return found

    def pushed_notebook(self) -> str:
        """The notebook that was pushed, or is to be."""
        path = self.folder / "pushed" / str(self.metadata.get("code_file"))
        try:
            return path.read_bytes().decode()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: cannot be read ({error}); push the run anew") from None

    @property
    def fetched(self) -> FetchRecord | None:
        """What was brought home."""
        return self.read(FetchRecord)

    @property
    def was_fetched(self) -> bool:
        """Whether its end is known here: it has a fetch.json, damaged or not."""
        return (self.folder / FETCH).exists()

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of its output, if that is here. The files are not checked."""
        return self.read(Manifest)

    def lock(self) -> contextlib.ExitStack:
        """Keeps other processes off the folder within a `with` block; of a fold, off its whole run.

        What a killed process left half written there is removed. It is a lock of the system: it ends with the process,
        however that ends. Its file lies beside the folder, which can so be renamed on any system.

        Raises:
            BusyError: another process has it.
        """
        folder, held = self.owner.folder.resolve(), contextlib.ExitStack()
        (folder.parent / LOCKS).mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(FileLock(folder.parent / LOCKS / f"{folder.name}.lock", blocking=False))
        except Timeout:
            raise BusyError(f"{self.name}: another process at this desk works on it; wait until that ends") from None
        with contextlib.ExitStack() as failed:
            failed.push(held)
            self.clear_up()
            failed.pop_all()
        return held

    def clear_up(self) -> None:
        """Removes what a killed process was about to write; nobody else works on the folder now."""
        for path in (*self.folder.glob(HALF), self.folder / JOINING):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def find_run(name: AnyPath, runs: AnyPath | None = None) -> Run:
    """The run that a person means by a folder's path, a run id, or the beginning of one.

    Args:
        name: what the person wrote.
        runs: where runs are kept; None: this repository's runs/.

    Raises:
        ConfigurationError: there is none, or several, or it is something else.
    """
    runs = pathlib.Path(runs or paths.RUNS)
    given = pathlib.Path(name).expanduser()
    for folder in (runs / given, given):
        if folder.is_file():
            raise ConfigurationError(f"{name}: is a file; give the run's folder, {folder.parent}, or its name")
        if str(name) and folder.is_dir():
            folder = folder.resolve()
            if runs.resolve().is_relative_to(folder):
                raise ConfigurationError(f"{name}: is the folder of runs, or above it; give one of the runs in it")
            return Run(folder)
    kept = sorted(folder for folder in runs.glob("[!.]*") if folder.is_dir())  # a hidden one is not finished
    found = [folder for folder in kept if name and folder.name.startswith(str(name))]
    if len(found) == 1:
        return Run(found[0].resolve())
    names = [folder.name for folder in found or kept]
    which = "which of these is meant" if found else "there is no such run; there are"
    raise ConfigurationError(f"{name}: {which}: {', '.join(names[-8:]) or 'none'}")


def pushed_runs(runs: pathlib.Path) -> list[Run]:
    """The runs with a push.json, those of fanned-out folds too, in order of time; one that is damaged is left out."""
    found = [Run(path.parent) for pattern in ("[!.]*", "[!.]*/parts/*") for path in runs.glob(f"{pattern}/{PUSH}")]
    whole = []
    for run in found:
        with contextlib.suppress(DamagedRecord):
            whole.append((run.push.at, run.folder, run))
    return [run for *_, run in sorted(whole, key=lambda one: one[:2])]


def new_run_id(kernel: str, preset: str | None = None) -> str:
    """Such as "train-unet-20261122-131502-ab12": sorts by time, and two runs in one second still differ."""
    now = datetime.datetime.now(datetime.UTC)
    return "-".join(filter(None, (kernel, preset, f"{now:%Y%m%d-%H%M%S}", secrets.token_hex(2))))
