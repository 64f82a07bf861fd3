"""What is known of each run, by the files in its folder, and a table of it. A damaged record is shown as such."""

import contextlib
import math
import pathlib
from typing import Any, TypeVar

from desk.output import plural
from desk.records import DamagedRecord, Record, read_object, read_record
from desk.runs import Run
from desk.states import FetchRecord, Manifest, PushRecord, QueueRecord, SubmitRecord

COLUMNS = ("run", "where", "state", "preset", "out-of-fold", "leaderboard", "GPU h")
Kind = TypeVar("Kind", bound=Record)


def read_facts(run: Run) -> dict:
    """What is known of a run, from the files in its folder; `damaged` says what is wrong with them."""
    folder, damaged = run.folder, []

    def read(kind: type[Kind]) -> Kind | None:
        try:
            return read_record(folder, kind)
        except DamagedRecord as error:
            damaged.append(str(error))
            return None

    queue, pushed, fetched = read(QueueRecord), read(PushRecord), read(FetchRecord)
    submitted, manifest = read(SubmitRecord), read(Manifest)
    parts = [read_facts(Run(folder / "parts" / f"fold-{fold}")) for fold in queue.folds] if queue else []
    damaged += [text for part in parts for text in part["damaged"]]
    sent = queue or pushed
    score = read_object(folder / "score.json") or (manifest and manifest.score) or {}
    config = (manifest and manifest.config) or {}
    words = folder.name.removesuffix(".failed").split("-")
    at = (sent and sent.at) or next(
        ("-".join(words[i : i + 2]) for i in range(len(words) - 1) if is_date(words[i])), ""
    )
    named = "-".join(words[1 : next((i for i, word in enumerate(words) if is_date(word)), 1)])
    hours = [part["gpu_hours"] for part in parts] if parts else [gpu_hours(pushed, fetched, manifest)]
    known = [each for each in hours if each is not None]
    return {
        "run": folder.name,
        "at": "".join(filter(str.isdigit, at)),  # both spellings, 20261122-131502 and 2026-11-22T13:15:02Z, sort alike
        "where": "Kaggle" if run.was_sent or run.is_fanned_out else "desk",
        "state": "damaged" if damaged else state_of(folder, pushed, fetched, submitted, manifest, parts),
        "preset": (sent and sent.preset) or named or text_of(config.get("preset")),
        "out_of_fold": number_of(score.get("best_score")),
        "public": submitted and submitted.public,
        "private": submitted and submitted.private,
        "gpu_hours": round(sum(known), 2) if len(known) == len(hours) else None,
        "ref": pushed and pushed.ref,
        "version": pushed and pushed.version,
        "damaged": damaged,
        "parts": parts,
    }


def number_of(value: Any) -> float | None:
    """A number that was found in a file; None for anything else."""
    with contextlib.suppress(OverflowError):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def text_of(value: Any) -> str | None:
    """A text that was found in a file; None for anything else."""
    return value if isinstance(value, str) else None


def is_date(word: str) -> bool:
    """Whether a part of a run's name is a date such as 20261122."""
    return len(word) == 8 and word.isdigit()


def state_of(
    folder: pathlib.Path,
    pushed: PushRecord | None,
    fetched: FetchRecord | None,
    submitted: SubmitRecord | None,
    manifest: Manifest | None,
    parts: list[dict],
) -> str:
    """How a run stands, in a word or two."""
    if submitted:
        return {"COMPLETE": "scored", "ERROR": "not scored", "PENDING": "submitted"}.get(
            submitted.state, "submit: open"
        )
    if folder.name.endswith(".failed") or (fetched and fetched.state == "ERROR"):
        return "failed"
    if fetched and fetched.state == "CANCEL_ACKNOWLEDGED":
        return "stopped"
    if manifest:
        if not manifest.finished:
            return "unfinished"
        return "fetched" if pushed or parts else "finished"
    if parts:
        return folds_of(parts)
    if pushed:
        known = {"queued": "waits", "saved": "pushed", "pushed": "pushed", "differs": "differs"}
        return known.get(pushed.state, "push: open")
    return "incomplete"


def folds_of(parts: list[dict]) -> str:
    """How the folds of a run stand, such as "3 fetched, 2 waits"."""
    states = [part["state"] for part in parts]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def gpu_hours(pushed: PushRecord | None, fetched: FetchRecord | None, manifest: Manifest | None) -> float | None:
    """Hours of a GPU on Kaggle, by the run's own clock; None where nobody knows."""
    if pushed is None or not pushed.machine.startswith("Nvidia"):
        return 0.0
    seconds = fetched.seconds if fetched else None
    if seconds is None and manifest and manifest.minutes is not None:
        seconds = 60 * manifest.minutes
    return None if seconds is None else round(seconds / 3600, 2)


def table(facts: list[dict]) -> str:
    """Runs as text for a terminal."""
    rows = [COLUMNS, *(row(fact) for fact in facts)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    lines = []
    for line in rows:
        cells = [text.rjust(width) if column > 3 else text.ljust(width) for column, (text, width) in
                 enumerate(zip(line, widths, strict=True))]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    used = sum(fact["gpu_hours"] or 0 for fact in facts)
    unknown = sum(fact["gpu_hours"] is None for fact in facts)
    more = f", and {plural(unknown, 'run')} whose hours are not known yet" if unknown else ""
    wrong = [text for fact in facts for text in fact["damaged"]]
    lines += ["", *wrong] if wrong else []
    return "\n".join([*lines, "", f"{plural(len(facts), 'run')}, {used:.1f} GPU hours on Kaggle{more}"])


def row(fact: dict) -> tuple[str, ...]:
    """What stands in the columns of the table."""

    def score(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    board = "-"
    if fact["public"] is not None or fact["private"] is not None:
        board = f"{score(fact['public'], 5)} / {score(fact['private'], 5)}"
    hours = f"{fact['gpu_hours']:.1f}" if fact["gpu_hours"] else "-"
    if fact["gpu_hours"] is None:
        hours = "?"
    return (
        fact["run"], fact["where"], fact["state"], str(fact["preset"] or "-"), score(fact["out_of_fold"], 4), board,
        hours,
    )  # fmt: skip
