"""What is recorded of a run, and the states that it may go through: the one table of them is STEPS of each record.

docs/records.md shows them in a picture. What a state follows from is decided in sending.py; a record that would take
any other step is not written (records.py).
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from desk.records import GONE, NEW, Must, Record, is_time

Name = Annotated[str, Must("a name without / and \\", lambda text: text and not set(text) & set("/\\\0\n\r"))]
Ref = Annotated[str, Must("owner/slug", lambda text: text.count("/") == 1 and all(text.split()) and " " not in text
                          and all(text.split("/")))]  # fmt: skip
Address = Annotated[
    str, Must("an address", lambda text: text.startswith(("https://", "http://")) and text.isprintable())
]
Time = Annotated[str, Must("a time such as 2026-11-22T13:15:02Z", is_time)]
Positive = Annotated[int, Must("a whole number from 1", lambda number: number >= 1)]
Natural = Annotated[int, Must("a whole number from 0", lambda number: number >= 0)]
Hours = Annotated[float, Must("a number of hours from 0 to 12", lambda number: 0 < number <= 12)]
Digest = Annotated[
    str, Must("64 hexadecimal digits", lambda text: len(text) == 64 and not text.strip("0123456789abcdef"))
]


def is_entry(entry: Any) -> bool:
    """Whether an entry of a manifest tells a file's size and SHA-256."""
    size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    return isinstance(size, int) and not isinstance(size, bool) and size >= 0 and isinstance(digest, str)


OPEN = ("sending", "ambiguous")  # states of what was sent and whose answer is not here


@dataclass(frozen=True, kw_only=True)
class Sent(Record):
    """A record of something that goes to Kaggle once.

    Attributes:
        state: how it stands.
        at, up: when its request was sent last, by the clock and by the machine's uptime.
    """

    state: Any
    at: Time = "1970-01-01T00:00:00Z"
    up: str = ""


@dataclass(frozen=True, kw_only=True)
class PushRecord(Sent):
    """A version of a kernel: what was sent to Kaggle, and what became of it.

    Attributes:
        state: queued (it waits in a fan-out), sending, ambiguous (sent, and nobody knows whether it arrived), saved
            (Kaggle has told its version), pushed (the version was read back, and is what was sent), differs (it runs
            otherwise than asked for).
        run_id, kernel, preset, settings, machine, hours: of the run.
        ref: owner/slug under which Kaggle has it, and `asked_ref` the one that was asked for, if that is another.
        version, url: of the kernel, once they are known.
        differences: in which the version differs from what was asked for, such as "WITHOUT competition tgs".
        sha256, content: of the notebook; of notebook and metadata but for the run's id.
        previous: the kernel's newest version before.
        fold: of a fan-out.
        resumed_from, resumed_source: the run that it resumes, and owner/slug/version of it.
    """

    FILE: ClassVar[str] = "push.json"
    REMEDY: ClassVar[str] = "python scripts/fetch.py {run} makes it anew from pushed/ and what Kaggle shows"
    STEPS: ClassVar[dict[str, set[str]]] = {
        NEW: {"queued", "sending", "ambiguous"},  # ambiguous: a damaged one, made anew
        "queued": {"queued", "sending"},
        "sending": {"sending", "ambiguous", "saved", "queued", GONE},
        "ambiguous": {"ambiguous", "saved", "queued", GONE},
        "saved": {"saved", "pushed", "differs"},
        "pushed": {"queued"},
        "differs": {"queued"},
    }

    state: Literal["queued", "sending", "ambiguous", "saved", "pushed", "differs"]
    run_id: Name
    ref: Ref
    kernel: Name
    version: Positive | None = None
    url: Address | None = None
    asked_ref: Ref | None = None
    differences: list[str] = field(default_factory=list)
    sha256: Digest | None = None
    content: Digest | None = None
    preset: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    machine: str = ""
    hours: Hours | None = None
    previous: Natural | None = None
    fold: Natural | None = None
    resumed_from: Name | None = None
    resumed_source: str | None = None

    @classmethod
    def of_earlier(cls, found: dict) -> dict:
        """In the first schema there was a state for what runs without some of its sources, under two names."""
        if found.get("state") in ("crippled", "lacks_sources"):
            found |= {"state": "differs", "differences": ["WITHOUT some of its sources"]}
        return found

    @property
    def on_kaggle(self) -> bool:
        """Whether Kaggle has told a version of it."""
        return self.version is not None and self.state in ("saved", "pushed", "differs")


@dataclass(frozen=True, kw_only=True)
class FetchRecord(Record):
    """What was brought home: how the run ended, when it was fetched, and the seconds of its session."""

    FILE: ClassVar[str] = "fetch.json"
    REMEDY: ClassVar[str] = "python scripts/fetch.py {run} writes it anew"

    state: Literal["COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"]
    at: Time | None = None
    version: Positive | None = None
    seconds: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class SubmitRecord(Sent):
    """A submission.

    Attributes:
        state: sending, ambiguous (sent, and nobody knows whether it was counted), PENDING, COMPLETE (scored), ERROR
            (Kaggle could not score it).
        ref: its number, once it is known.
        message: its description, which begins with the run's id.
        sha256: of the file.
        public, private, error, scored_at: what came of it; a score that Kaggle does not show is None.
        earlier: numbers of submissions of the same run before.
        before: the record of the last of these, which comes back if Kaggle refuses this one.
    """

    FILE: ClassVar[str] = "submit.json"
    REMEDY: ClassVar[str] = "python scripts/submit.py {run} makes it anew from what Kaggle lists"
    STEPS: ClassVar[dict[str, set[str]]] = {
        NEW: {"sending", "ambiguous", "PENDING"},  # PENDING: found on Kaggle; ambiguous: a damaged one, made anew
        "sending": {"sending", "ambiguous", "PENDING", "COMPLETE", "ERROR", GONE},  # back to the one before: refused
        "ambiguous": {"ambiguous", "PENDING", "sending"},  # sending: by --again
        "PENDING": {"PENDING", "COMPLETE", "ERROR"},
        "COMPLETE": {"sending"},
        "ERROR": {"sending"},
    }

    state: Literal["sending", "ambiguous", "PENDING", "COMPLETE", "ERROR"]
    ref: Positive | None = None
    message: str = ""
    sha256: Digest | None = None
    public: float | None = None
    private: float | None = None
    error: str | None = None
    scored_at: Time | None = None
    earlier: list[int] = field(default_factory=list)
    before: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class UploadRecord(Sent):
    """A version of a dataset that is on its way: its files and their sizes. When it is there, nothing is kept of it."""

    FILE: ClassVar[str] = "upload.json"
    REMEDY: ClassVar[str] = "remove it; python scripts/upload_weights.py looks at what Kaggle has before it uploads"
    STEPS: ClassVar[dict[str, set[str]]] = {
        NEW: {"sending"},
        "sending": {"sending", "ambiguous", "saved", GONE},
        "ambiguous": {"ambiguous", "saved", GONE},
        "saved": {GONE, "sending"},  # sending: it came without some files
    }

    state: Literal["sending", "ambiguous", "saved"]
    ref: Ref
    files: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class QueueRecord(Record):
    """How a run's folds were fanned out."""

    FILE: ClassVar[str] = "queue.json"
    REMEDY: ClassVar[str] = "python scripts/push.py KERNEL --continue {run} makes it anew from parts/"

    run_id: Name
    kernel: Name
    folds: list[Natural]
    preset: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    accelerator: str | None = None
    hours: Hours | None = None
    at: Time | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """What the desk reads of a run's manifest.json; the run itself writes it (salt/artifacts.py)."""

    FILE: ClassVar[str] = "manifest.json"
    REMEDY: ClassVar[str] = "python scripts/fetch.py {run} brings it again"
    VERSIONED: ClassVar[bool] = False

    run_id: Name
    kernel: Name
    files: Annotated[dict[str, Any], Must("{name: {bytes, sha256}}", lambda files: all(map(is_entry, files.values())))]
    config: dict[str, Any] | None = None
    finished: bool = True
    minutes: float | None = None
    score: dict[str, Any] | None = None


KINDS = (PushRecord, FetchRecord, SubmitRecord, UploadRecord, QueueRecord, Manifest)
