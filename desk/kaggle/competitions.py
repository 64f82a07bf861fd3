"""Competitions on Kaggle: their files, and submissions to them."""

import contextlib
import math
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
from kagglesdk.competitions.types.competition_api_service import (
    ApiCreateSubmissionRequest,
    ApiDownloadDataFileRequest,
    ApiGetSubmissionLimitsRequest,
    ApiGetSubmissionRequest,
    ApiListDataFilesRequest,
    ApiListSubmissionsRequest,
    ApiStartSubmissionUploadRequest,
)

from desk.errors import ConfigurationError
from desk.kaggle.errors import AccessError, NotFoundError, QuotaError, UnreachableError
from desk.kaggle.files import upload
from desk.kaggle.transport import PAGE, KaggleLink
from desk.output import printable
from desk.paths import AnyPath

# How Kaggle says that a submission was not taken, and that no more of them are today: whole words, not parts of others.
REFUSED = r"(?i)could not submit\b|submission not allowed\b"
USED_UP = (
    r"(?i)\b(?:submissions?|daily|day|today)\b.{0,80}\b(?:limit|maximum|allowance)\b"
    r"|\b(?:limit|maximum|allowance)\b.{0,80}\b(?:submissions?|day|today)\b"
)


@dataclass(frozen=True)
class Submission:
    """A submission, as Kaggle shows it."""

    ref: int
    state: str  # PENDING, COMPLETE, ERROR
    description: str
    public: float | None
    private: float | None
    error: str


def competition_files(link: KaggleLink, slug: str) -> dict[str, int]:
    """{name: bytes} of a competition's files.

    Raises:
        AccessError: its rules are not accepted yet.
    """
    method, kind = link.client.competitions.competition_api_client.list_data_files, ApiListDataFilesRequest
    try:
        pages = link.ask_pages(f"list the files of {slug}", method, kind, competition_name=slug, page_size=PAGE)
    except AccessError as error:
        rules = f"https://www.kaggle.com/competitions/{slug}/rules"
        raise AccessError(f"Kaggle keeps the files of {slug} back: accept its rules once at {rules}") from error
    return {file.name: file.total_bytes for page in pages for file in page.files or []}


def open_competition_file(link: KaggleLink, slug: str, name: str) -> requests.Response:
    """The answer to a request for one file, opened: its `url` can be read in parts. Close it."""
    method = link.client.competitions.competition_api_client.download_data_file
    return link.ask(f"get {name}", method, ApiDownloadDataFileRequest, competition_name=slug, file_name=name)


def submissions_left(link: KaggleLink, slug: str) -> int | None:
    """How many submissions the competition takes today; None if Kaggle does not tell."""
    method, kind = link.client.competitions.competition_api_client.get_submission_limits, ApiGetSubmissionLimitsRequest
    try:
        found = link.ask("read the submission limits", method, kind, competition_name=slug)
    except (UnreachableError, NotFoundError, ConfigurationError, AccessError):
        return None
    if not found.num_allowed_now and not found.num_today:  # as of a user without a team yet: none is used up
        return None
    return found.num_allowed_now


def upload_submission(link: KaggleLink, slug: str, path: AnyPath) -> str:
    """Uploads a submission's file; returns the token that stands for it. Nothing is submitted yet."""
    path = pathlib.Path(path)
    answer = link.ask(
        "start the upload", link.client.competitions.competition_api_client.start_submission_upload,
        ApiStartSubmissionUploadRequest, competition_name=slug, file_name=path.name,
        content_length=path.stat().st_size, last_modified_epoch_seconds=int(path.stat().st_mtime),
    )  # fmt: skip
    upload(link, path, answer.create_url)
    return answer.token


def create_submission(
    link: KaggleLink, slug: str, token: str, message: str, again: Callable[[], None] | None = None
) -> tuple[int | None, str]:
    """Submits an uploaded file; returns (number of the submission, if Kaggle tells it, and what it says).

    Args:
        link: to Kaggle.
        slug: of the competition.
        token: of the file.
        message: its description.
        again: called before it is sent once more, since Kaggle asked to wait.

    Raises:
        QuotaError, ConfigurationError, ...: it was not submitted.
        AmbiguousError: perhaps it was.
    """
    try:
        answer = link.ask(
            f"submit to {slug}", link.client.competitions.competition_api_client.create_submission,
            ApiCreateSubmissionRequest, command=True, again=again, competition_name=slug, blob_file_tokens=token,
            submission_description=message,
        )  # fmt: skip
    except (ConfigurationError, AccessError) as error:
        if re.search(USED_UP, str(error).removeprefix(f"cannot submit to {slug}")):
            raise QuotaError(f"{error}; the count starts anew at 00:00 UTC") from None
        raise
    said = link.scrub(answer.message or "")
    if not answer.ref and re.match(REFUSED, said):  # what else there is without a number, may be a submission
        raise ConfigurationError(f"cannot submit to {slug}: Kaggle says {said!r}")
    return answer.ref if answer.ref > 0 else None, said


def read_submission(link: KaggleLink, ref: int) -> Submission:
    """A submission by its number."""
    method = link.client.competitions.competition_api_client.get_submission
    return as_submission(link.ask(f"look at submission {ref}", method, ApiGetSubmissionRequest, ref=ref))


def list_submissions(link: KaggleLink, slug: str) -> list[Submission]:
    """This account's submissions to a competition, over all pages, the newest first."""
    method, kind = link.client.competitions.competition_api_client.list_submissions, ApiListSubmissionsRequest
    pages = link.ask_pages(f"list the submissions to {slug}", method, kind, competition_name=slug, page_size=100)
    return [as_submission(one) for page in pages for one in page.submissions or []]


def as_submission(found: Any) -> Submission:
    """What the SDK gives as a `Submission`."""

    def score(text: str | None) -> float | None:
        with contextlib.suppress(TypeError, ValueError):
            number = float(text or "")
            return number if math.isfinite(number) else None  # Kaggle has scores of NaN
        return None

    return Submission(
        found.ref, found.status.name, found.description or "", score(found.public_score), score(found.private_score),
        printable(found.error_description or "").strip(),
    )  # fmt: skip
