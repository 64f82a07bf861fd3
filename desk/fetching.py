"""A run comes home from Kaggle: waiting for it, and its output or what is left of a failed one.

Its files move to the run's folder when all of them are here and right, the manifest last.
"""

import contextlib
import pathlib
import shutil
from dataclasses import dataclass
from typing import Any, cast

from desk import building
from desk.errors import DeskError, Exit
from desk.kaggle.errors import AccessError, KaggleError, NotFoundError, UnreachableError
from desk.kaggle.kernels import Output, Status, live_log
from desk.kaggle.transport import KaggleLink
from desk.output import ProgressLine, duration, printable, shown
from desk.records import DamagedRecord, utc_now
from desk.remote_output import (
    FRESH,
    MANIFEST_PART,
    PARTIAL,
    POLL,
    bring_output,
    bring_partial,
    run_output,
    run_status,
)
from desk.runs import MANIFEST, Run
from desk.settling import settle_run
from desk.states import FetchRecord, Manifest
from salt.artifacts import ArtifactError, verify_run
from salt.files import whole_file

UNREADABLE = 20  # looks in a row without an answer, after which it is given up
TAIL = 40  # lines of a failed run's log that are shown


class RunFailed(KaggleError):
    """The run came to a bad end on Kaggle."""


class StillRunning(KaggleError):
    """The run has not finished."""

    exit_status = Exit.LATER


@dataclass(frozen=True)
class Patience:
    """Whether to wait for a run that goes on, and for how many hours."""

    wait: bool
    hours: float


def bring_run(link: KaggleLink, run: Run, patience: Patience) -> Manifest:
    """Waits for a run in one kernel, and brings its output; returns its manifest.

    Raises:
        RunFailed: it came to a bad end; its log and what it had written are here.
        StillRunning, OutputError, ...: nothing of it is here.
    """
    settle_run(link, run)
    if not run.folder.exists():
        raise NotFoundError(f"{run.push.run_id} never arrived on Kaggle; push it again")
    print(f"{run.push.run_id}: {run.push.ref} version {run.push.version}", flush=True)
    status, told = watch(link, run, patience)
    if status.state != "COMPLETE":
        bring_failed(link, run, status)
    manifest, output = bring_output(link, run)
    if told and output.log.startswith(told):
        show_log(output.log[len(told) :])
    keep(run, manifest, output)
    return manifest


def is_whole(run: Run) -> bool:
    """Whether the run's output is here; what a kill interrupted is not whole, since the manifest comes last."""
    if not (run.folder / MANIFEST).is_file():
        return False
    try:
        return verify_run(run.folder)["run_id"] == run.run_id and (run.is_fanned_out or run.fetched is not None)
    except (ArtifactError, DamagedRecord):
        return False


# --- waiting --------------------------------------------------------------------------------------------------------


def watch(link: KaggleLink, run: Run, patience: Patience) -> tuple[Status, str]:
    """(status in which the run ended, the part of its log that was shown); shows the log as it grows.

    Raises:
        StillRunning: it goes on, and nobody wants to wait, or the time is up.
        UnreachableError: Kaggle gives no status any more.
    """
    record = run.push
    began, silent, line, log, told = link.clock(), 0, ProgressLine(), "", None
    while True:
        try:
            status = run_status(link, run)
            silent = 0
        except (UnreachableError, NotFoundError, AccessError) as error:
            silent += 1
            status = Status("UNREADABLE", str(error))
            if silent >= UNREADABLE or not patience.wait:
                line.end()
                raise UnreachableError(
                    f"the status of {record.ref} is UNREADABLE, {silent} looks in a row; the run itself may be well "
                    f"({error}). Look at {record.url}, and fetch again later"
                ) from None
        if status.state in ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"):
            line.end()
            return status, log
        waited = link.clock() - began
        if not patience.wait:
            raise StillRunning(f"{record.run_id} is {status.state}; add --wait, or come back later")
        about = f"{status.state}, waited {duration(waited)}"
        if status.message:
            about += f": {status.message}"
        if line.is_terminal or status.state != told or status.state == "UNREADABLE":
            line.show(about)  # a log file gets a line for each change only
        told = status.state
        if status.state == "RUNNING":
            grown = live_log(link, record.ref, record.version)
            if grown.startswith(log) and len(grown) > len(log):
                line.end()
                show_log(grown[len(log) :])
                log = grown
                if line.is_terminal:
                    line.show(about)
        if waited >= 3600 * patience.hours:
            line.end()
            stuck = "it never left the queue" if status.state == "QUEUED" else "it goes on"
            raise StillRunning(
                f"{record.run_id} is {status.state} after {duration(waited)} of waiting: {stuck}. Fetch again "
                f"later, or stop it on {record.url}"
            )
        link.sleep(POLL * (2 + 2 * link.jitter()) / 3)


def show_log(text: str) -> None:
    """Prints a part of a log, whatever its notebook has written into it."""
    text = printable(text)
    print(text, end="" if text.endswith("\n") or not text else "\n", flush=True)


# --- output of a finished run ---------------------------------------------------------------------------------------


def keep(run: Run, manifest: Manifest, output: Output) -> None:
    """Moves the checked files to the run's folder; the manifest, which says that all is there, comes last."""
    folder, fresh = run.folder, run.folder / FRESH
    for name in manifest.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).replace(folder / name)
    if f"{run.push.kernel}.log" not in manifest.files:
        write_log(run, output.log)
    record_end(run, "COMPLETE", run_seconds(output, manifest))
    (fresh / MANIFEST_PART).replace(folder / MANIFEST)
    shutil.rmtree(fresh)


def record_end(run: Run, state: str, seconds: int | None, message: str = "") -> None:
    """Writes fetch.json: how the run ended, and how many seconds its session was."""
    run.keep(
        FetchRecord(state=cast(Any, state), at=utc_now(), version=run.push.version, seconds=seconds, message=message)
    )


def run_seconds(output: Output, manifest: Manifest | None = None) -> int | None:
    """How long the session was, by its log and the run's own clock; None if neither says it."""
    known = [60 * manifest.minutes] if manifest and manifest.minutes is not None else []
    known += [output.seconds] if output.seconds is not None else []
    return round(max(known)) if known else None


def write_log(run: Run, log: str) -> pathlib.Path:
    """Writes a run's log into its folder; returns its path."""
    path = run.folder / f"{run.push.kernel}.log"
    with whole_file(path) as temporary:
        temporary.write_text(printable(log), encoding="utf-8")
    return path


# --- a failed run ---------------------------------------------------------------------------------------------------


def bring_failed(link: KaggleLink, run: Run, status: Status) -> None:
    """Brings the log and what else there is of a run that failed, and raises `RunFailed`, which says why it did."""
    record, partial = run.push, run.folder / PARTIAL
    output, names, lost = Output({}, "", None), [], ""
    try:
        output = run_output(link, run)
        names = bring_partial(link, output.files, partial)
        if len(names) < len(output.files):
            lost = f", {len(output.files) - len(names)} did not come"
    except DeskError as error:
        lost = f" ({error})"
    log = output.log or live_log(link, record.ref, record.version)
    path = write_log(run, log)
    record_end(run, status.state, run_seconds(output), message=status.message)
    text = building.trace(path, run.folder / "pushed") if log else ""
    if text:
        lines = text.rstrip().splitlines()
        print("\n".join(["", *(["..."] if len(lines) > TAIL else []), *lines[-TAIL:], ""]))
    ended = "was stopped" if status.state == "CANCEL_ACKNOWLEDGED" else "failed"
    message = f" Kaggle says: {status.message.strip()}" if status.message.strip() else ""
    kept = f"the log is {shown(path)}" if log else "there is no log"
    if names or lost:
        kept += f"; {len(names)} unchecked files of its output are in {shown(partial)}{lost}"
    if is_unfinished(Run(partial), record.run_id):
        kept += "\nit can be resumed: "
        kept += f"python scripts/push.py {record.kernel} --resume {record.run_id}"
    raise RunFailed(f"{record.run_id} {ended} on Kaggle ({status.state}).{message}\n{kept}")


def is_unfinished(run: Run, run_id: str) -> bool:
    """Whether a folder holds what it takes to resume this run."""
    with contextlib.suppress(DamagedRecord):
        found = run.manifest
        return found is not None and found.run_id == run_id and bool(found.config) and not found.finished
    return False
