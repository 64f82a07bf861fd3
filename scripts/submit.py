"""Submits a run's submission.csv, once, and waits for its score.

    python scripts/submit.py predict-20261122-141502-cd34 --message "five folds, flips"

First the file is checked here: that it is what the run wrote, and, against the competition's sample, its ids and every
run-length encoding. Then it is uploaded and submitted, and the score is recorded in `runs/<run id>/submit.json`. A
submission whose answer is lost is looked up by the run's id, with which its description ends; it is never sent blindly
again.
"""

import argparse
import contextlib
import datetime
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.kaggle_link import (
    AccessError,
    AmbiguousError,
    ConfigurationError,
    CredentialsError,
    KaggleError,
    KaggleLink,
    QuotaError,
    UnreachableError,
    alone,
    duration,
    read_record,
    run_command,
    run_folder,
    utc_now,
    write_record,
)
from scripts.outputs import ProgressLine

COMPETITION = "tgs-salt-identification-challenge"
SUBMISSION = "submission.csv"
SAMPLE = "sample_submission.csv"
POLL = 10.0  # seconds, twice as long each time
LONGEST_POLL = 60.0
LOOKS = (5.0, 15.0, 30.0)  # seconds before each look for a submission without an answer
SETTLED = 600.0  # seconds after which a submission that nobody sees has not happened


class SubmissionFailed(KaggleError):
    """Kaggle could not score the submission."""


class StillPending(KaggleError):
    """The score has not come."""

    exit_status = 75


def main(arguments=None, link=None) -> int:
    return run_command(submit, arguments, link)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Check a run's submission.csv, submit it, and record its score in runs/<run id>/submit.json.",
        epilog='example: python scripts/submit.py predict-20261122-141502-cd34 --message "five folds, flips"',
    )
    parser.add_argument("run", metavar="RUN", help="a run of the predict kernel: its id, its beginning, or a folder")
    parser.add_argument("--message", metavar="M", default="", help="description; the run's id is put behind it")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, help="folder of the competition (default: data)")
    parser.add_argument("--minutes", metavar="M", type=float, default=30, help="to wait for the score (default: 30)")
    parser.add_argument("--dry-run", action="store_true", help="check the file, and submit nothing")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where runs are kept (default: runs)")
    return parser.parse_args(arguments)


def submit(arguments=None, link=None) -> int:
    options = parse_arguments(arguments)
    folder = run_folder(options.run, options.runs)
    with alone(folder):
        return submit_run(link or KaggleLink(), folder, options)


def submit_run(link, folder, options) -> int:
    digest = check_run(folder)
    record = read_record(folder, "submit.json")
    if record.get("sha256") not in (None, digest):
        raise ConfigurationError(f"{folder.name}: submit.json is of another {SUBMISSION}; move it away to submit this")
    if record.get("state") == "COMPLETE":
        print(f"{folder.name} is submitted already, as {record['ref']}")
        return show_score(record)
    if record.get("state") == "sending" and settle(link, folder, record):
        print(f"the submission did arrive, as {record['ref']}")
    if record.get("ref"):
        return wait_for_score(link, folder, record, options.minutes)

    facts = check_file(folder, find_sample(link, options.data))
    print(f"  checked      {facts['rows']:,} rows, {facts['empty_share']:.0%} of them empty, ", end="")
    print(f"{facts['mean_coverage']:.1%} salt on average")
    if options.dry_run:
        print("\nnothing was submitted (--dry-run)")
        return 0
    left = link.submissions_left(COMPETITION)
    if left == 0:
        raise QuotaError("no submission is left today; the count starts anew at 00:00 UTC. Nothing was sent")
    print(f"  left today   {'UNKNOWN' if left is None else left}", flush=True)
    message = f"{options.message} [{folder.name}]".strip()
    record = {"state": "sending", "ref": None, "at": utc_now(), "message": message, "sha256": digest}
    send(link, folder, record)
    return wait_for_score(link, folder, record, options.minutes)


def check_run(folder) -> str:
    """Raises unless the run is whole; returns the SHA-256 of its submission."""
    from salt.artifacts import verify_run

    manifest = verify_run(folder)
    if SUBMISSION not in manifest["files"]:
        kernel = manifest["kernel"]
        raise ConfigurationError(f"{folder.name}: a run of {kernel} without {SUBMISSION}; submit a predict run")
    if manifest["run_id"] != folder.name:
        raise ConfigurationError(f"{folder.name}: its manifest.json is of run {manifest['run_id']!r}")
    return manifest["files"][SUBMISSION]["sha256"]


def find_sample(link, data) -> pathlib.Path:
    """The competition's sample, from the folder of its data; if there is none, fetched once into build/."""
    from salt.competition import DataError, find_competition

    if data is not None:
        return find_competition([data]).sample_submission
    with contextlib.suppress(DataError):
        return find_competition([ROOT / "data"]).sample_submission
    path = ROOT / "build" / COMPETITION / SAMPLE
    if not path.is_file():
        from scripts.download_data import download_file

        print(f"  sample       {SAMPLE} comes from Kaggle, for the check", flush=True)
        try:
            size = link.competition_files(COMPETITION)[SAMPLE]
        except KeyError:
            raise ConfigurationError(f"{COMPETITION} has no {SAMPLE}; give --data DIR") from None
        download_file(link, COMPETITION, SAMPLE, size, path.parent)
    return path


def check_file(folder, sample) -> dict:
    from salt.submission import check_submission

    return check_submission(folder / SUBMISSION, sample)


def send(link, folder, record):
    """Uploads and submits; the record says "sending" before Kaggle can have counted anything."""
    token = link.upload_submission(COMPETITION, folder / SUBMISSION)
    write_record(folder, "submit.json", record)
    try:
        ref, said = link.submit(COMPETITION, token, record["message"])
    except AmbiguousError as error:
        print(f"no answer: {error}. Looking for it", flush=True)
        for pause in LOOKS:
            link.sleep(pause)
            with contextlib.suppress(UnreachableError, AccessError, CredentialsError):
                if look_up(link, folder, record):
                    print(f"found: the submission arrived, as {record['ref']}")
                    return
        raise AmbiguousError(
            f"Kaggle does not show the submission of {folder.name} yet, and may still count it. Run the same command "
            "again in some minutes: it looks again before it sends anything"
        ) from None
    except Exception:
        (folder / "submit.json").unlink()
        raise
    record |= {"state": "PENDING", "ref": ref}
    write_record(folder, "submit.json", record)
    print(f"  submitted    {said}")
    if not ref and not look_up(link, folder, record):
        raise AmbiguousError(f"Kaggle took the submission, but shows no number for it: {said}")


def look_up(link, folder, record) -> bool:
    """Whether Kaggle lists a submission with this run's id; if so, the record has its number from now on.

    Raises:
        UnreachableError, AccessError: Kaggle does not tell.
    """
    found = [one for one in link.submissions(COMPETITION) if one.description.endswith(f"[{folder.name}]")]
    if not found:
        return False
    record |= {"state": "PENDING", "ref": found[0].ref}
    write_record(folder, "submit.json", record)
    return True


def settle(link, folder, record) -> bool:
    """Finds out about a submission whose answer was lost; False: it has not happened.

    Raises:
        AmbiguousError: it was sent a moment ago and is not seen yet.
        UnreachableError, AccessError: Kaggle does not tell.
    """
    if look_up(link, folder, record):
        return True
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record["at"])
    seconds = age.total_seconds()
    if seconds < SETTLED:
        raise AmbiguousError(
            f"{folder.name} was sent {seconds:.0f} s ago and Kaggle does not show it yet; try again in some minutes"
        )
    return False


def wait_for_score(link, folder, record, minutes) -> int:
    """Polls until the submission is scored, and records the score.

    Raises:
        SubmissionFailed: Kaggle could not score it.
        StillPending: the time is up.
    """
    began, pause, line = link.clock(), POLL, ProgressLine()
    while True:
        try:
            found = link.submission(record["ref"])
            state, error = found.state, found.error
        except (UnreachableError, ConfigurationError, AccessError) as failure:
            found, state, error = None, "UNREADABLE", str(failure)
        if state in ("COMPLETE", "ERROR"):
            line.end()
            record |= {"state": state, "public": found.public, "private": found.private, "error": error}
            write_record(folder, "submit.json", record | {"scored_at": utc_now()})
            if state == "ERROR":
                reason = error or "no reason given"
                raise SubmissionFailed(f"Kaggle could not score submission {record['ref']}: {reason}")
            return show_score(record)
        waited = link.clock() - began
        if waited >= 60 * minutes:
            line.end()
            raise StillPending(
                f"submission {record['ref']} is {state} after {duration(waited)}; run the same command again to go on "
                "waiting"
            )
        if line.is_terminal or pause == POLL:
            line.show(f"  score        {state}, waited {duration(waited)}")
        link.sleep(pause * (0.75 + link.jitter() / 2))
        pause = min(2 * pause, LONGEST_POLL)


def show_score(record) -> int:
    def text(score):
        return "not shown" if score is None else f"{score:.5f}"

    print(f"\nleaderboard  public {text(record.get('public'))}, private {text(record.get('private'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
