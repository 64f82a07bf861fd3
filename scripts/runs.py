"""A table of all runs: where each ran, how it stands, and what it scored.

    python scripts/runs.py
    python scripts/runs.py --refresh       asks Kaggle how the open ones stand

It reads what the other verbs wrote into runs/ and talks to Kaggle only with --refresh. Out-of-fold scores are those at
the best threshold; leaderboard scores are public / private.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.kaggle_link import QUEUE, KaggleError, KaggleLink, part_folders, read_object, run_command

COLUMNS = ("run", "where", "state", "preset", "out-of-fold", "leaderboard", "GPU h")


def main(arguments=None, link=None) -> int:
    return run_command(runs, arguments, link)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A table of all runs in runs/, the newest last.")
    parser.add_argument("--refresh", action="store_true", help="ask Kaggle how the open ones stand")
    parser.add_argument("--json", action="store_true", help="as JSON, a list of rows")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where runs are kept (default: runs)")
    return parser.parse_args(arguments)


def runs(arguments=None, link=None) -> int:
    options = parse_arguments(arguments)
    folders = [path for path in options.runs.glob("[!.]*") if path.is_dir()]
    facts = sorted((read_run(folder) for folder in folders), key=lambda fact: (fact["at"], fact["run"]))
    if options.refresh:
        link = link or KaggleLink()
        for fact in facts:
            refresh(link, fact)
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    if not facts:
        print(f"no runs yet in {options.runs}; python scripts/run_local.py or push.py makes one")
        return 0
    print(table(facts))
    return 0


def read_run(folder) -> dict:
    """What is known of a run, from the files in its folder. A damaged file counts as none."""
    pushed, fetched, submitted, manifest, scored = (
        read_object(folder / name) for name in ("push.json", "fetch.json", "submit.json", "manifest.json", "score.json")
    )
    parts = [read_run(part) for part in part_folders(folder)]
    pushed = read_object(folder / QUEUE) or pushed
    config = manifest.get("config") if isinstance(manifest.get("config"), dict) else {}
    score = scored or (manifest.get("score") if isinstance(manifest.get("score"), dict) else {})
    words = folder.name.removesuffix(".failed").split("-")
    at = pushed.get("at") or next(("-".join(words[i : i + 2]) for i in range(len(words) - 1) if is_date(words[i])), "")
    named = "-".join(words[1 : next((i for i, word in enumerate(words) if is_date(word)), 1)])
    hours = [part["gpu_hours"] for part in parts] if parts else [gpu_hours(pushed, fetched, manifest)]
    return {
        "run": folder.name,
        "at": "".join(filter(str.isdigit, at)),  # both spellings, 20261122-131502 and 2026-11-22T13:15:02Z, sort alike
        "where": "Kaggle" if pushed else "desk",
        "state": state_of(folder, pushed, fetched, submitted, manifest, parts),
        "preset": pushed.get("preset") or named or config.get("preset"),
        "out_of_fold": score.get("best_score"),
        "public": submitted.get("public"),
        "private": submitted.get("private"),
        "gpu_hours": None if None in hours else round(sum(hours), 2),
        "ref": pushed.get("ref"),
        "version": pushed.get("version"),
        "parts": parts,
    }


def is_date(word) -> bool:
    return len(word) == 8 and word.isdigit()


def state_of(folder, pushed, fetched, submitted, manifest, parts) -> str:
    if submitted:
        state = submitted.get("state")
        return {"COMPLETE": "scored", "ERROR": "not scored", "PENDING": "submitted"}.get(state, "submit: open")
    if folder.name.endswith(".failed") or fetched.get("state") == "ERROR":
        return "failed"
    if fetched.get("state") == "CANCEL_ACKNOWLEDGED":
        return "stopped"
    if manifest:
        return "unfinished" if manifest.get("finished") is False else "fetched" if pushed else "finished"
    if parts:
        return folds_of(parts)
    if pushed:
        known = {"queued": "waits", "pushed": "pushed", "crippled": "lacks sources"}
        return known.get(pushed.get("state"), "push: open")
    return "incomplete"


def folds_of(parts) -> str:
    """How the folds of a run stand, such as "3 fetched, 2 waits"."""
    states = [part["state"] for part in parts]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def gpu_hours(pushed, fetched, manifest) -> float | None:
    """Hours of a GPU on Kaggle, by the run's own clock; None where nobody knows."""
    if not str(pushed.get("machine", "")).startswith("Nvidia"):
        return 0.0
    seconds = fetched.get("seconds")
    if seconds is None and isinstance(manifest.get("minutes"), int | float):
        seconds = 60 * manifest["minutes"]
    return None if seconds is None else round(seconds / 3600, 2)


def refresh(link, fact):
    if fact["parts"] and fact["state"] == folds_of(fact["parts"]):
        for part in fact["parts"]:
            refresh(link, part)
        fact["state"] = folds_of(fact["parts"])
    if fact["state"] not in ("pushed", "push: open") or not fact["ref"] or not fact["version"]:
        return
    try:
        fact["state"] = link.status(fact["ref"], fact["version"]).state
    except KaggleError:
        fact["state"] = "UNREADABLE"


def table(facts) -> str:
    rows = [COLUMNS, *(row(fact) for fact in facts)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    lines = []
    for line in rows:
        cells = [text.rjust(width) if column > 3 else text.ljust(width) for column, (text, width) in
                 enumerate(zip(line, widths, strict=True))]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    used = sum(fact["gpu_hours"] or 0 for fact in facts)
    unknown = sum(fact["gpu_hours"] is None for fact in facts)
    more = f", and {unknown} run{'s' * (unknown != 1)} whose hours are not known yet" if unknown else ""
    return "\n".join([*lines, "", f"{len(facts)} run{'s' * (len(facts) != 1)}, {used:.1f} GPU hours on Kaggle{more}"])


def row(fact) -> tuple[str, ...]:
    def score(value, digits):
        return "-" if value is None else f"{value:.{digits}f}"

    board = "-"
    if fact["public"] is not None or fact["private"] is not None:
        board = f"{score(fact['public'], 5)} / {score(fact['private'], 5)}"
    hours = "?" if fact["gpu_hours"] is None else f"{fact['gpu_hours']:.1f}" if fact["gpu_hours"] else "-"
    return (
        fact["run"], fact["where"], fact["state"], str(fact["preset"] or "-"), score(fact["out_of_fold"], 4), board,
        hours,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
