"""What is known of each run, by the files in its folder, and a table of it. A damaged file counts as none."""

import pathlib

from desk.output import plural
from desk.records import read_object
from desk.runs import FETCH, MANIFEST, PUSH, SUBMIT, Run

COLUMNS = ("run", "where", "state", "preset", "out-of-fold", "leaderboard", "GPU h")


def read_facts(run: Run) -> dict:
    """What is known of a run, from the files in its folder. A damaged file counts as none."""
    folder = run.folder
    pushed, fetched, submitted, manifest, scored = (
        read_object(folder / name) for name in (PUSH, FETCH, SUBMIT, MANIFEST, "score.json")
    )
    parts = [read_facts(part) for part in run.parts]
    pushed = run.queue or pushed
    config, score = (found if isinstance(found := manifest.get(name), dict) else {} for name in ("config", "score"))
    score = scored or score
    words = folder.name.removesuffix(".failed").split("-")
    at = pushed.get("at") or next(("-".join(words[i : i + 2]) for i in range(len(words) - 1) if is_date(words[i])), "")
    named = "-".join(words[1 : next((i for i, word in enumerate(words) if is_date(word)), 1)])
    hours = [part["gpu_hours"] for part in parts] if parts else [gpu_hours(pushed, fetched, manifest)]
    known = [each for each in hours if each is not None]
    return {
        "run": folder.name,
        "at": "".join(filter(str.isdigit, at)),  # both spellings, 20261122-131502 and 2026-11-22T13:15:02Z, sort alike
        "where": "Kaggle" if pushed else "desk",
        "state": state_of(folder, pushed, fetched, submitted, manifest, parts),
        "preset": pushed.get("preset") or named or config.get("preset"),
        "out_of_fold": score.get("best_score"),
        "public": submitted.get("public"),
        "private": submitted.get("private"),
        "gpu_hours": round(sum(known), 2) if len(known) == len(hours) else None,
        "ref": pushed.get("ref"),
        "version": pushed.get("version"),
        "parts": parts,
    }


def is_date(word: str) -> bool:
    """Whether a part of a run's name is a date such as 20261122."""
    return len(word) == 8 and word.isdigit()


def state_of(
    folder: pathlib.Path, pushed: dict, fetched: dict, submitted: dict, manifest: dict, parts: list[dict]
) -> str:
    """How a run stands, in a word or two."""
    if submitted:
        state = submitted.get("state")
        return {"COMPLETE": "scored", "ERROR": "not scored", "PENDING": "submitted"}.get(str(state), "submit: open")
    if folder.name.endswith(".failed") or fetched.get("state") == "ERROR":
        return "failed"
    if fetched.get("state") == "CANCEL_ACKNOWLEDGED":
        return "stopped"
    if manifest:
        if manifest.get("finished") is False:
            return "unfinished"
        return "fetched" if pushed else "finished"
    if parts:
        return folds_of(parts)
    if pushed:
        known = {"queued": "waits", "pushed": "pushed", "lacks_sources": "lacks sources", "crippled": "lacks sources"}
        return known.get(str(pushed.get("state")), "push: open")
    return "incomplete"


def folds_of(parts: list[dict]) -> str:
    """How the folds of a run stand, such as "3 fetched, 2 waits"."""
    states = [part["state"] for part in parts]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def gpu_hours(pushed: dict, fetched: dict, manifest: dict) -> float | None:
    """Hours of a GPU on Kaggle, by the run's own clock; None where nobody knows."""
    if not str(pushed.get("machine", "")).startswith("Nvidia"):
        return 0.0
    seconds = fetched.get("seconds")
    if seconds is None and isinstance(manifest.get("minutes"), int | float):
        seconds = 60 * manifest["minutes"]
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
