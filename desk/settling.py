"""Before a verb does anything, what earlier commands have left open is settled, whatever interrupted them."""

import contextlib
import pathlib

from desk.deeds import Dataset, Push, Submission
from desk.errors import BusyError, DeskError
from desk.kaggle.transport import KaggleLink
from desk.output import show
from desk.records import DamagedRecord
from desk.runs import PUSH, SUBMIT, Run
from desk.sending import Deed, reconcile
from desk.states import OPEN, PushRecord, SubmitRecord, UploadRecord

UPLOADS = ".uploads"  # in the folder of runs: what is known of datasets that are on their way


def settle_open(
    link: KaggleLink, runs: pathlib.Path, *, dry_run: bool = False, strict: str | None = None, but: Run | None = None
) -> list[Run]:
    """Settles what was sent from here and is open.

    Args:
        link: to Kaggle.
        runs: where runs are kept.
        dry_run: change nothing; what is open is only named.
        strict: owner/slug of a kernel: that a push of it stays open is an error.
        but: the run that the verb itself settles.

    Returns:
        The runs whose pushes were settled.

    Raises:
        AmbiguousError: a push of that kernel was sent a moment ago and is not seen yet.
        BusyError: it is being sent by another process.
        UnreachableError: Kaggle cannot be asked about it.
    """
    settled = []
    for run in open_runs(runs):
        if but is not None and run.owner.folder == but.folder:
            continue
        try:
            needed = strict is not None and run.was_sent and strict in (run.push.ref, run.push.asked_ref)
        except DamagedRecord as error:
            show(("damaged", str(error)))
            continue
        if dry_run:
            show(("earlier", f"{run.name}: its answer was lost; the push looks for it first"))
            continue
        try:
            with run.owner.lock():
                settled += [run] if settle_run(link, Run(run.folder)) else []
        except BusyError:
            if needed:
                raise
        except DeskError as error:
            if needed and run.folder.exists() and run.read(PushRecord) and Run(run.folder).push.state in OPEN:
                raise
            show(("earlier", str(error)))
    return settled


def open_runs(runs: pathlib.Path) -> list[Run]:
    """The runs, folds and datasets with a record that is open, or damaged."""
    found: list[Run] = []
    for pattern in (f"[!.]*/{PUSH}", f"[!.]*/parts/*/{PUSH}", f"[!.]*/{SUBMIT}", f"{UPLOADS}/*/{UploadRecord.FILE}"):
        for path in sorted(runs.glob(pattern)):
            kind = {PUSH: PushRecord, SUBMIT: SubmitRecord}.get(path.name, UploadRecord)
            run = Run(path.parent)
            with contextlib.suppress(DamagedRecord):
                record = run.read(kind)
                if record is None or record.state not in (*OPEN, "saved"):
                    continue
            if run.folder not in [other.folder for other in found]:
                found.append(run)
    return found


def settle_run(link: KaggleLink, run: Run) -> bool:
    """Settles what is open of a run whose lock is held; returns whether its push was.

    Raises:
        AmbiguousError, UnreachableError, ...: as `reconcile`.
    """
    was_open = False
    if run.was_sent and run.push.state in (*OPEN, "saved"):
        was_open = run.push.state in OPEN
        deed: Deed = Push(link, run)
        try:
            reconcile(deed)
        finally:
            if was_open and deed.record.on_kaggle:
                show(("earlier", f"{deed.name} did arrive, as version {deed.record.version}"))
        if was_open and not deed.record.on_kaggle:
            again = "it waits again" if run.folder.exists() else "its record is removed"
            show(("earlier", f"{deed.name} never arrived; {again}"))
    submission = run.read(SubmitRecord)
    if submission and submission.state in OPEN:
        reconcile(Submission(link, run, submission))
    upload = run.read(UploadRecord)
    if upload:
        reconcile(Dataset(link, run, upload, []))
    return was_open
