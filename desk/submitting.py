"""A run's submission.csv goes to the competition once, and its score comes back.

What Kaggle lists is looked at before anything is sent, and what is not seen may still be counted: it is sent anew only
when the user says so. How a submission is known again is in deeds.py, when it counts as lost in sending.py.
"""

import codecs
import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from desk import paths
from desk.competition_data import download_file
from desk.competitions import competition_of, competition_of_file, load_competition
from desk.consent import Consent
from desk.deeds import Submission, is_of_run
from desk.errors import ConfigurationError, Exit
from desk.kaggle.competitions import competition_files, read_submission, submissions_left, upload_submission
from desk.kaggle.errors import AccessError, AmbiguousError, KaggleError, NotFoundError, QuotaError, UnreachableError
from desk.kaggle.transport import KaggleLink
from desk.output import ProgressLine, duration
from desk.records import DamagedRecord, uptime, utc_now
from desk.runs import IMPORTED, SUBMIT, Run
from desk.secrets import own_secrets, refuse_secrets
from desk.sending import do_once, reconcile
from desk.settling import settle_open
from desk.states import OPEN, SubmitRecord
from salt.archives import DataError, Place
from salt.artifacts import verify_run, write_manifest
from salt.competition import find_competition
from salt.config import Config
from salt.description import Competition
from salt.files import sha256_file
from salt.submission import check_submission

SUBMISSION = "submission.csv"
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
) -> SubmitRecord | None:
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
    digest, dry_run, competition = check_run(run), consent.dry_run, competition_of(verify_run(run.folder))
    try:
        record = run.read(SubmitRecord)
    except DamagedRecord as error:
        if dry_run:
            raise
        print(f"{error}: it is looked for on Kaggle", flush=True)
        record = remade(run, digest)
    if record and record.sha256 not in (None, digest) and not again:
        raise ConfigurationError(f"{run.name}: submit.json is of another {SUBMISSION}; add --again to submit this, too")
    if not dry_run:
        settle_open(link, run.folder.parent, but=run)
        record = settled(link, run, record, digest, again)
        if record and record.state == "COMPLETE" and not again:
            print(f"{run.name} is submitted already, as {record.ref}; to submit it once more, add --again")
            return record
        if record and record.state not in OPEN and not (again and record.state in ("COMPLETE", "ERROR")):
            if again:
                raise ConfigurationError(
                    f"--again: submission {record.ref} of {run.name} is not scored yet; wait for it"
                )
            return wait_for_score(link, run, record, minutes)

    with sample_folder(competition, dry_run) as cache:
        sample = find_sample(link, competition, data, cache)
        facts = check_submission(run.folder / SUBMISSION, sample, competition, known_sides(competition, data))
    more = "their ends not, for which --data DIR is needed"
    if "mean_coverage" in facts:
        more = f"{facts['mean_coverage']:.1%} {competition.target} on average"
    print(f"  checked      {facts['rows']:,} rows, {facts['empty_share']:.0%} of them empty, {more}")
    message = f"[{run.name}] {message}".strip()
    if len(message) > MOST_CHARACTERS:
        raise ConfigurationError(
            f"--message: with the run's id the description has {len(message)} characters, and Kaggle takes "
            f"{MOST_CHARACTERS}; shorten it"
        )
    refuse_secrets({"--message": message}, own_secrets(link.used_secrets))
    earlier = [*record.earlier, *([record.ref] if record.ref else [])] if record else []
    deed = {"submit": run.name, "to": competition.slug, "message": message, "sha256": digest, "again": earlier}
    if not consent.allows(deed):
        print("\nnothing was submitted (--dry-run)")
        return None
    left = submissions_left(link, competition.slug)
    if left == 0:
        raise QuotaError("no submission is left today; the count starts anew at 00:00 UTC. Nothing was sent")
    print(f"  left today   {'UNKNOWN' if left is None else left}", flush=True)
    token = upload_submission(link, competition.slug, run.folder / SUBMISSION)
    before = dataclasses.asdict(record) if record and record.state in ("COMPLETE", "ERROR") else None
    fresh = SubmitRecord(
        state="sending", at=utc_now(), up=uptime(), message=message, sha256=digest, earlier=earlier, before=before
    )
    submission = Submission(link, run, fresh, token)
    do_once(submission)
    return wait_for_score(link, run, submission.record, minutes)


def settled(link: KaggleLink, run: Run, record: SubmitRecord | None, digest: str, again: bool) -> SubmitRecord | None:
    """The record of a run's submission by what Kaggle lists; None if there is none, here or there.

    One that is still open was given up by the user (`again`).

    Raises:
        AmbiguousError: Kaggle does not list it, and may still count it; or the user has not said to send it anew.
        UnreachableError, AccessError: Kaggle does not tell.
    """
    if record is None:  # perhaps it was submitted from elsewhere, or its record is lost
        deed = Submission(link, run, SubmitRecord(state="ambiguous", at=utc_now(), sha256=digest))
        if (found := deed.find()) is None:
            return None
        print(f"Kaggle lists a submission of {run.name} already, as {found['ref']}")
        deed.move(deed.saved, **found)
        return deed.record
    if record.state not in OPEN:
        return record
    deed = Submission(link, run, record, given_up=again)
    reconcile(deed)
    if deed.record.ref:
        print(f"the submission did arrive, as {deed.record.ref}")
    return deed.record


def remade(run: Run, digest: str) -> SubmitRecord:
    """The record of a submission anew, of which nobody knows what became of it; what stood there is kept beside it."""
    path = run.folder / SUBMIT
    shutil.copyfile(path, path.with_name(f"{SUBMIT}.damaged"))
    record = SubmitRecord(state="ambiguous", at=utc_now(), up=uptime(), sha256=digest)
    run.keep(record)
    return record


@contextlib.contextmanager
def sample_folder(competition: Competition, dry_run: bool) -> Iterator[pathlib.Path]:
    """Where the competition's sample is kept once it came from Kaggle; a dry run keeps nothing."""
    folder = paths.BUILD / competition.slug
    if dry_run and not (folder / competition.sample_submission.name).is_file():
        with tempfile.TemporaryDirectory() as scratch:
            yield pathlib.Path(scratch)
    else:
        yield folder


def run_of_file(
    link: KaggleLink,
    path: pathlib.Path,
    data: pathlib.Path | None,
    runs: pathlib.Path,
    dry_run: bool = False,
    named: str | None = None,
) -> Run:
    """The run of a submission file of any origin: a copy of it, under a name that follows from its content.

    So a file that was submitted is known again, wherever it lies and whatever it is called.

    Args:
        link: to Kaggle.
        path: of the file.
        data: as for `submit_run`.
        runs: where runs are kept.
        dry_run: keep no sample.
        named: the competition that it is for, see `load_competition`; None: the one whose columns it has.

    Raises:
        SubmissionError: Kaggle would refuse it; then there is no run.
        ConfigurationError, DataError: it does not tell what it is for.
    """
    competition = competition_of_file(path) if named is None else load_competition(named)
    with sample_folder(competition, dry_run) as cache:
        sample = find_sample(link, competition, data, cache)
        check_submission(path, sample, competition, known_sides(competition, data))
    digest = sha256_file(path)
    folder = runs / f"submission-{digest[:16]}"
    if not folder.is_dir():
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".imported-", dir=runs) as temporary:
            fresh = pathlib.Path(temporary) / folder.name
            fresh.mkdir()
            (fresh / SUBMISSION).write_bytes(path.read_bytes().removeprefix(codecs.BOM_UTF8))  # which Excel puts there
            origin = {"source": path.name, "files": {path.name: digest}}
            more = {"competition": competition.slug, "imported": origin}
            write_manifest(fresh, folder.name, IMPORTED, Config(), **more)
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


def find_sample(
    link: KaggleLink, competition: Competition, data: pathlib.Path | None, cache: pathlib.Path | None = None
) -> pathlib.Path | Place:
    """The competition's sample, from the folder of its data; else it comes from Kaggle once, into `cache`."""
    if data is not None:
        return find_competition([data], competition).require("sample_submission")
    with contextlib.suppress(DataError):
        return find_competition([paths.ROOT / "data"], competition).require("sample_submission")
    slug, name = competition.slug, competition.sample_submission.name
    path = (cache or paths.BUILD / slug) / name
    if not path.is_file():
        print(f"  sample       {name} comes from Kaggle, for the check", flush=True)
        files = competition_files(link, slug)
        if name not in files:
            raise ConfigurationError(f"{slug} has no {name}; give --data DIR")
        download_file(link, slug, name, files[name], path.parent)
    return path


def known_sides(competition: Competition, data: pathlib.Path | None) -> dict[str, tuple[int, int]] | None:
    """Height and width of each test image, where they differ and the competition's folder is given; else None."""
    if competition.size is not None or data is None:
        return None
    from salt.data import read_test_sides  # OpenCV, which other submissions do not need

    return read_test_sides(find_competition([data], competition))


def wait_for_score(link: KaggleLink, run: Run, record: SubmitRecord, minutes: float) -> SubmitRecord:
    """Polls until the submission is scored, and records the score; returns the record.

    Raises:
        SubmissionFailed: Kaggle could not score it.
        StillPending: the time is up.
    """
    began, pause, line = link.clock(), POLL, ProgressLine()
    while True:
        try:
            found = read_submission(link, record.ref or 0)
            if found.description and not is_of_run(found.description, run.name):
                record = corrected(link, run, record)
                continue
            state, error = found.state, found.error
        except (UnreachableError, ConfigurationError, AccessError, NotFoundError) as failure:  # shown late
            found, state, error = None, "UNREADABLE", str(failure)
        if found and state in ("COMPLETE", "ERROR"):
            line.end()
            record = record.but(
                state=state, public=found.public, private=found.private, error=error, scored_at=utc_now()
            )
            run.keep(record)
            if state == "ERROR":
                reason = error or "no reason given"
                raise SubmissionFailed(f"Kaggle could not score submission {record.ref}: {reason}")
            return record
        waited = link.clock() - began
        if waited >= 60 * minutes:
            line.end()
            raise StillPending(
                f"submission {record.ref} is {state} after {duration(waited)}; run the same command again to wait "
                "for it"
            )
        if line.is_terminal or pause == POLL:
            line.show(f"  score        {state}, waited {duration(waited)}")
        link.sleep(pause * (0.75 + link.jitter() / 2))
        pause = min(2 * pause, LONGEST_POLL)


def corrected(link: KaggleLink, run: Run, record: SubmitRecord) -> SubmitRecord:
    """The record with the number under which Kaggle lists the run, since the one that it told is another's.

    Raises:
        AmbiguousError: Kaggle lists none.
    """
    deed = Submission(link, run, record)
    if (found := deed.find()) is None or found["ref"] == record.ref:
        raise AmbiguousError(deed.again)
    deed.move(deed.saved, **found)
    return deed.record
