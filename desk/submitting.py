"""A run's submission.csv goes to the competition once, and its score comes back.

submit.json says "sending" before Kaggle can have counted anything, and afterwards what became of it. A submission whose
answer is lost is looked up by the run's id, with which its description begins. What is not seen may still be counted:
it is sent anew only when the user says so.
"""

import contextlib
import functools
import os
import pathlib
import tempfile

from desk import paths
from desk.competition_data import download_file
from desk.consent import Consent
from desk.errors import ConfigurationError, Exit
from desk.kaggle.competitions import (
    competition_files,
    create_submission,
    list_submissions,
    read_submission,
    submissions_left,
    upload_submission,
)
from desk.kaggle.errors import AccessError, AmbiguousError, KaggleError, QuotaError, UnreachableError
from desk.kaggle.transport import KaggleLink
from desk.output import ProgressLine, duration
from desk.records import read_record, utc_now, write_record
from desk.runs import IMPORTED, SUBMIT, Run
from desk.secrets import own_secrets, refuse_secrets
from desk.sending import send_once, settle
from salt.archives import DataError, Place
from salt.artifacts import verify_run, write_manifest
from salt.competition import find_competition
from salt.config import Config
from salt.files import sha256_file
from salt.submission import check_submission

SUBMISSION = "submission.csv"
SAMPLE = "sample_submission.csv"
POLL = 10.0  # seconds, twice as long each time
LONGEST_POLL = 60.0
MOST_CHARACTERS = 500  # of a description


class SubmissionFailed(KaggleError):
    """Kaggle could not score the submission."""


class StillPending(KaggleError):
    """The score has not come."""

    exit_status = Exit.LATER


def submit_run(
    link: KaggleLink,
    run: Run,
    message: str,
    data: pathlib.Path | None,
    minutes: float,
    consent: Consent,
    again: bool = False,
) -> dict | None:
    """Checks a run's submission, submits it if that was not done yet, and waits for its score.

    Args:
        link: to Kaggle.
        run: of the predict kernel.
        message: description; the run's id is put before it.
        data: folder of the competition, for its sample; None: data/, or else the sample comes from Kaggle.
        minutes: to wait for the score.
        consent: whether a person has said that it may be submitted.
        again: submit what was scored, or could not be scored, or was sent and is not seen on Kaggle.

    Returns:
        submit.json with the score, or None after a dry run.

    Raises:
        DeskError, ValueError: it cannot be submitted, or the score has not come.
    """
    digest = check_run(run)
    record = read_record(run.folder, SUBMIT)
    if record.get("sha256") not in (None, digest):
        raise ConfigurationError(f"{run.name}: submit.json is of another {SUBMISSION}; move it away to submit this")
    if record.get("state") == "sending":
        record = settle_submission(link, run, record, again)
    if record.get("state") == "COMPLETE" and not again:
        print(f"{run.name} is submitted already, as {record['ref']}; to submit it once more, add --again")
        return record
    if record.get("ref") and not (again and record["state"] in ("COMPLETE", "ERROR")):
        if again:
            raise ConfigurationError(
                f"--again: submission {record['ref']} of {run.name} is not scored yet; wait for it"
            )
        return wait_for_score(link, run, record, minutes)
    earlier = [*record.get("earlier", []), *([record["ref"]] if record.get("ref") else [])]

    facts = check_submission(run.folder / SUBMISSION, find_sample(link, data))
    print(f"  checked      {facts['rows']:,} rows, {facts['empty_share']:.0%} of them empty, ", end="")
    print(f"{facts['mean_coverage']:.1%} salt on average")
    message = f"[{run.name}] {message}".strip()
    if len(message) > MOST_CHARACTERS:
        raise ConfigurationError(
            f"--message: with the run's id the description has {len(message)} characters, and Kaggle takes "
            f"{MOST_CHARACTERS}; shorten it"
        )
    deed = {"submit": run.name, "to": paths.COMPETITION, "message": message, "sha256": digest, "again": earlier}
    if not consent.allows(deed):
        print("\nnothing was submitted (--dry-run)")
        return None
    refuse_secrets({"--message": message}, own_secrets(link.secrets))
    left = submissions_left(link, paths.COMPETITION)
    if left == 0:
        raise QuotaError("no submission is left today; the count starts anew at 00:00 UTC. Nothing was sent")
    print(f"  left today   {'UNKNOWN' if left is None else left}", flush=True)
    record = {"state": "sending", "ref": None, "at": utc_now(), "message": message, "sha256": digest}
    return wait_for_score(link, run, send(link, run, record | {"earlier": earlier}), minutes)


def settle_submission(link: KaggleLink, run: Run, record: dict, again: bool) -> dict:
    """What became of a submission whose answer was lost: its record with a number, or, with `again`, without one.

    Raises:
        AmbiguousError: Kaggle does not show it, and may still count it; or the user has not said to send it anew.
        UnreachableError, AccessError: Kaggle does not tell.
    """
    ref = settle(run.name, record, functools.partial(look_up, link, run, record))
    if ref is not None:
        print(f"the submission did arrive, as {ref}")
        return accept(run, record, ref)
    if again:
        return record | {"state": "lost"}
    page = f"https://www.kaggle.com/competitions/{paths.COMPETITION}/submissions"
    raise AmbiguousError(
        f"{run.name} was sent at {record['at']}, and Kaggle does not list it. Look at {page}; if it is not there, "
        "--again sends it anew"
    )


def run_of_file(link: KaggleLink, path: pathlib.Path, data: pathlib.Path | None, runs: pathlib.Path) -> Run:
    """The run of a submission file of any origin: a copy of it, under a name that follows from its content.

    So a file that was submitted is known again, wherever it lies and whatever it is called.

    Args:
        link: to Kaggle.
        path: of the file.
        data: as for `submit_run`.
        runs: where runs are kept.

    Raises:
        SubmissionError: Kaggle would refuse it; then there is no run.
    """
    check_submission(path, find_sample(link, data))
    digest = sha256_file(path)
    folder = runs / f"submission-{digest[:16]}"
    if not folder.is_dir():
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".imported-", dir=runs) as temporary:
            fresh = pathlib.Path(temporary) / folder.name
            fresh.mkdir()
            (fresh / SUBMISSION).write_bytes(path.read_bytes())
            origin = {"source": path.name, "files": {path.name: digest}}
            write_manifest(fresh, folder.name, IMPORTED, Config(), imported=origin)
            os.rename(fresh, folder)
    return Run(folder)


def check_run(run: Run) -> str:
    """Raises unless the run is whole; returns the SHA-256 of its submission."""
    manifest = verify_run(run.folder)
    if SUBMISSION not in manifest["files"]:
        kernel = manifest["kernel"]
        raise ConfigurationError(f"{run.name}: a run of {kernel} without {SUBMISSION}; submit a predict run")
    if manifest["run_id"] != run.name:
        raise ConfigurationError(f"{run.name}: its manifest.json is of run {manifest['run_id']!r}")
    return manifest["files"][SUBMISSION]["sha256"]


def find_sample(link: KaggleLink, data: pathlib.Path | None) -> pathlib.Path | Place:
    """The competition's sample, from the folder of its data; if there is none, fetched once into build/."""
    if data is not None:
        return find_competition([data]).require("sample_submission")
    with contextlib.suppress(DataError):
        return find_competition([paths.ROOT / "data"]).require("sample_submission")
    path = paths.BUILD / paths.COMPETITION / SAMPLE
    if not path.is_file():
        print(f"  sample       {SAMPLE} comes from Kaggle, for the check", flush=True)
        files = competition_files(link, paths.COMPETITION)
        if SAMPLE not in files:
            raise ConfigurationError(f"{paths.COMPETITION} has no {SAMPLE}; give --data DIR")
        download_file(link, paths.COMPETITION, SAMPLE, files[SAMPLE], path.parent)
    return path


def send(link: KaggleLink, run: Run, record: dict) -> dict:
    """Uploads and submits; returns the record with the submission's number.

    Raises:
        AmbiguousError: nobody knows whether Kaggle has counted it.
        DeskError: it was not submitted, and there is no record of it.
    """
    token = upload_submission(link, paths.COMPETITION, run.folder / SUBMISSION)
    write_record(run.folder, SUBMIT, record)

    def submit() -> int:
        ref, said = create_submission(link, paths.COMPETITION, token, record["message"])
        print(f"  submitted    {said}")
        return ref

    try:
        ref = send_once(
            link,
            submit,
            functools.partial(look_up, link, run, record),
            lambda ref: f"the submission arrived, as {ref}",
            f"Kaggle does not show the submission of {run.name} yet, and may still count it. Run the same command "
            "again in some minutes: it looks again before it sends anything",
        )
    except AmbiguousError:
        raise
    except Exception:
        (run.folder / SUBMIT).unlink()
        raise
    number = ref or look_up(link, run, record)
    if number is None:
        raise AmbiguousError("Kaggle took the submission, but shows no number for it; run the same command again")
    return accept(run, record, number)


def accept(run: Run, record: dict, ref: int) -> dict:
    """Records the number of a submission; returns the record."""
    record = record | {"state": "PENDING", "ref": ref}
    write_record(run.folder, SUBMIT, record)
    return record


def look_up(link: KaggleLink, run: Run, record: dict) -> int | None:
    """The number of the submission with this run's id, other than those that came earlier; None if Kaggle lists none.

    Raises:
        UnreachableError, AccessError: Kaggle does not tell.
    """
    for submission in list_submissions(link, paths.COMPETITION):
        text, label = submission.description, f"[{run.name}]"  # it stood last in earlier versions
        if (text.startswith(label) or text.endswith(label)) and submission.ref not in record.get("earlier", []):
            return submission.ref
    return None


def wait_for_score(link: KaggleLink, run: Run, record: dict, minutes: float) -> dict:
    """Polls until the submission is scored, and records the score; returns the record.

    Raises:
        SubmissionFailed: Kaggle could not score it.
        StillPending: the time is up.
    """
    began, pause, line = link.clock(), POLL, ProgressLine()
    while True:
        try:
            found = read_submission(link, record["ref"])
            state, error = found.state, found.error
        except (UnreachableError, ConfigurationError, AccessError) as failure:
            found, state, error = None, "UNREADABLE", str(failure)
        if found and state in ("COMPLETE", "ERROR"):
            line.end()
            record = record | {"state": state, "public": found.public, "private": found.private, "error": error}
            write_record(run.folder, SUBMIT, record | {"scored_at": utc_now()})
            if state == "ERROR":
                reason = error or "no reason given"
                raise SubmissionFailed(f"Kaggle could not score submission {record['ref']}: {reason}")
            return record
        waited = link.clock() - began
        if waited >= 60 * minutes:
            line.end()
            raise StillPending(
                f"submission {record['ref']} is {state} after {duration(waited)}; run the same command again to wait "
                "for it"
            )
        if line.is_terminal or pause == POLL:
            line.show(f"  score        {state}, waited {duration(waited)}")
        link.sleep(pause * (0.75 + link.jitter() / 2))
        pause = min(2 * pause, LONGEST_POLL)
