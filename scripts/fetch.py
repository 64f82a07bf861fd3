"""Waits for a run on Kaggle, and brings its output home: whole, of this very run, or not at all.

    python scripts/fetch.py train-t4-20261122-131502-ab12 --wait
    python scripts/fetch.py train-t4                               the beginning of a name is enough

While the run goes on, its log is shown as it grows. When it has finished, every file of its manifest.json is
downloaded into a fresh folder and checked there by size and SHA-256; then the files move to `runs/<run id>/`, the
manifest last. What Kaggle gives of another run, an earlier version or an error page is refused. Of a run that failed
come its log, with the lines of the package's files in the traceback, and what it had written, into `partial/`.

A run whose folds were fanned out is fetched fold by fold and then joined: its folder gets the weights of all folds, one
oof.npz and one history, and a manifest.json that names the parts.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from build_kernel import BuildError, trace_log
from scripts.kaggle_link import (
    QUEUE,
    AccessError,
    AmbiguousError,
    ConfigurationError,
    KaggleError,
    KaggleLink,
    NotFoundError,
    Output,
    OutputError,
    Status,
    UnreachableError,
    alone,
    duration,
    part_folders,
    read_object,
    read_record,
    run_command,
    run_folder,
    utc_now,
    write_record,
)
from scripts.outputs import (
    DEADLINE_HOURS,
    MANIFEST,
    POLL,
    ProgressLine,
    bring_output,
    bring_partial,
    list_output,
    read_status,
)
from scripts.pushing import look_up
from scripts.run_local import shown

UNREADABLE = 20  # looks in a row without an answer, after which it is given up
TAIL = 40  # lines of a failed run's log that are shown


class RunFailed(KaggleError):
    """The run came to a bad end on Kaggle."""


class StillRunning(KaggleError):
    """The run has not finished."""

    exit_status = 75


def main(arguments=None, link=None) -> int:
    return run_command(fetch, arguments, link)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Bring a run's output from Kaggle to runs/<run id>/, checked against its manifest.",
        epilog="example: python scripts/fetch.py train-t4-20261122-131502-ab12 --wait",
    )
    parser.add_argument("run", metavar="RUN", help="a run that push.py recorded: its id, the beginning of it, a folder")
    parser.add_argument("--wait", action="store_true", help="until it has finished, and show its log")
    parser.add_argument("--hours", metavar="H", type=float, default=DEADLINE_HOURS, help="how long (default: 14)")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where runs are kept (default: runs)")
    return parser.parse_args(arguments)


def fetch(arguments=None, link=None) -> int:
    options = parse_arguments(arguments)
    folder = run_folder(options.run, options.runs)
    record = read_record(folder, QUEUE) or read_record(folder, "push.json")
    if not record:
        raise ConfigurationError(f"{folder.name}: has no push.json; only runs that push.py started can be fetched")
    if is_whole(folder, record):
        for left in (".fetching", ".joining"):  # by a kill behind the last file
            shutil.rmtree(folder / left, ignore_errors=True)
        print(f"{record['run_id']} is here already, whole: {shown(folder)}")
        return 0
    link = link or KaggleLink()
    with alone(folder):
        if parts := part_folders(folder):
            bring_parts(link, parts, options)
            manifest = join_parts(folder, record, parts)
        else:
            manifest = bring_run(link, folder, record, options)
    show_finished(folder, record, manifest)
    return 0


def bring_run(link, folder, record, options) -> dict:
    """Waits for a run in one kernel, and brings its output; returns its manifest.

    Raises:
        RunFailed: it came to a bad end; its log and what it had written are here.
        StillRunning, OutputError, ...: nothing of it is here.
    """
    settle(link, folder, record)
    print(f"{record['run_id']}: {record['ref']} version {record['version']}", flush=True)
    status, told = watch(link, folder, record, options)
    if status.state != "COMPLETE":
        bring_failed(link, folder, record, status)
    manifest, output = bring_output(link, folder, record)
    if told and output.log.startswith(told):
        show_log(output.log[len(told) :])
    keep(folder, record, manifest, output)
    return manifest


def is_whole(folder, record) -> bool:
    """Whether the run's output is here; what a kill interrupted is not whole, since the manifest comes last."""
    if not (folder / MANIFEST).is_file():
        return False
    from salt.artifacts import ArtifactError, verify_run

    with contextlib.suppress(ArtifactError):
        return verify_run(folder)["run_id"] == record["run_id"]
    return False


def settle(link, folder, record):
    """Finds the version of a push whose answer was lost."""
    if record["state"] in ("sending", "ambiguous"):
        if not look_up(link, folder, record):
            raise AmbiguousError(f"{record['run_id']}: Kaggle does not show its push; look again in some minutes")
        print(f"the push did arrive, as version {record['version']}")


# --- waiting --------------------------------------------------------------------------------------------------------


def watch(link, folder, record, options) -> tuple[Status, str]:
    """(status in which the run ended, the part of its log that was shown); shows the log as it grows.

    Raises:
        StillRunning: it goes on, and nobody wants to wait, or the time is up.
        UnreachableError: Kaggle gives no status any more.
    """
    began, silent, line, log, told = link.clock(), 0, ProgressLine(), "", None
    while True:
        try:
            status = read_status(link, record)
            silent = 0
        except (UnreachableError, NotFoundError, AccessError) as error:
            silent += 1
            status = Status("UNREADABLE", str(error))
            if silent >= UNREADABLE or not options.wait:
                line.end()
                raise UnreachableError(
                    f"the status of {record['ref']} is UNREADABLE, {silent} looks in a row; the run itself may be well "
                    f"({error}). Look at {record['url']}, and fetch again later"
                ) from None
        if status.state in ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"):
            line.end()
            return status, log
        waited = link.clock() - began
        if not options.wait:
            raise StillRunning(f"{record['run_id']} is {status.state}; add --wait, or come back later")
        about = f"{status.state}, waited {duration(waited)}"
        if status.message:
            about += f": {status.message}"
        if line.is_terminal or status.state != told or status.state == "UNREADABLE":
            line.show(about)  # a log file gets a line for each change only
        told = status.state
        if status.state == "RUNNING":
            grown = link.live_log(record["ref"], record["version"])
            if grown.startswith(log) and len(grown) > len(log):
                line.end()
                show_log(grown[len(log) :])
                log = grown
                if line.is_terminal:
                    line.show(about)
        if waited >= 3600 * options.hours:
            line.end()
            stuck = "it never left the queue" if status.state == "QUEUED" else "it goes on"
            raise StillRunning(
                f"{record['run_id']} is {status.state} after {duration(waited)} of waiting: {stuck}. Fetch again "
                f"later, or stop it on {record['url']}"
            )
        link.sleep(POLL * (2 + 2 * link.jitter()) / 3)


def show_log(text):
    print(text, end="" if text.endswith("\n") or not text else "\n", flush=True)


# --- output of a finished run ---------------------------------------------------------------------------------------


def keep(folder, record, manifest, output):
    """Moves the checked files to the run's folder; the manifest, which says that all is there, comes last."""
    fresh = folder / ".fetching"
    for name in manifest["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).replace(folder / name)
    if f"{record['kernel']}.log" not in manifest["files"]:
        write_log(folder, record, output.log)
    seconds = run_seconds(output, manifest)
    write_record(
        folder, "fetch.json",
        {"state": "COMPLETE", "at": utc_now(), "version": record["version"], "seconds": seconds},
    )  # fmt: skip
    (fresh / ".manifest.part").replace(folder / MANIFEST)
    shutil.rmtree(fresh)


def run_seconds(output, manifest=None) -> int | None:
    """How long the session was, by its log and the run's own clock; None if neither says it."""
    minutes = (manifest or {}).get("minutes")
    known = [60 * minutes] if isinstance(minutes, int | float) else []
    known += [output.seconds] if output.seconds is not None else []
    return round(max(known)) if known else None


def write_log(folder, record, log) -> pathlib.Path:
    from salt.files import whole_file

    path = folder / f"{record['kernel']}.log"
    with whole_file(path) as temporary:
        temporary.write_text(log, encoding="utf-8")
    return path


def show_finished(folder, record, manifest):
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    count = len(manifest["files"])
    print(f"\nfetched: {count} file{'s' * (count != 1)}, {size / 1e6:,.1f} MB, each as the manifest says")
    score = manifest.get("score")
    if isinstance(score, dict) and "best_score" in score:
        low, high = score.get("best_interval", (float("nan"), float("nan")))
        print(f"out-of-fold score {score['best_score']:.4f} (95 % interval {low:.4f} to {high:.4f})")
    print(f"  {shown(folder)}")
    after = {"train": "score_oof.py", "predict": "submit.py"}.get(record["kernel"])
    if not manifest.get("finished", True):
        print("the run stopped before its end, and left what it takes to go on")
        print(f"next: python scripts/push.py {record['kernel']} --resume {record['run_id']}")
    elif after:
        print(f"next: python scripts/{after} {record['run_id']}")


# --- a run whose folds were fanned out ------------------------------------------------------------------------------


def bring_parts(link, parts, options):
    """Brings what the kernels of a run's folds have left, one after the other; what is here already stays.

    Raises:
        RunFailed, StillRunning: some folds are not here; the message names them.
    """
    failed, absent = [], []
    for folder in parts:
        record = read_record(folder, "push.json")
        if record["state"] == "queued":
            absent.append(f"fold {record['fold']} is not pushed yet")
            continue
        try:
            manifest = read_record(folder, MANIFEST) if is_whole(folder, record) else None
            manifest = manifest or bring_run(link, folder, record, options)
            if not manifest.get("finished", True):
                failed.append(f"fold {record['fold']}: {record['run_id']} had not enough time")
        except StillRunning as error:
            absent.append(str(error))
        except (RunFailed, OutputError) as error:
            failed.append(f"fold {record['fold']}: {error}")
    run_id, kernel = parts[0].parent.parent.name, read_record(parts[0], "push.json")["kernel"]
    if failed:
        once_more = f"python scripts/push.py {kernel} --continue {run_id} pushes what did not end well once more"
        raise RunFailed("\n".join([*failed, *absent, f"nothing was joined; {once_more}"]))
    if absent:
        raise StillRunning("\n".join([*absent, f"{len(parts) - len(absent)} of {len(parts)} folds are here"]))


def join_parts(folder, record, parts) -> dict:
    """Makes one run of the folds' outputs, the manifest last; returns it.

    The weights are links to those of the folds, so that a kill leaves the folds whole.

    Raises:
        ArtifactError: folds that do not fit each other.
    """
    from salt.artifacts import write_manifest, write_oof
    from salt.files import sha256_file
    from salt.parts import read_trained_run
    from salt.postprocess import choose_minimum_area
    from salt.scoring import score_oof

    trained = read_trained_run(parts, record["folds"])
    manifests = {part: read_record(part, MANIFEST) for part in parts}
    fresh = folder / ".joining"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for path in trained.weights.values():
        os.link(path, fresh / path.name)
    write_oof(fresh / "oof.npz", trained.oof)
    (fresh / "history.csv").write_text(joined_tables([part / "history.csv" for part in parts]), encoding="utf-8")
    courses = {fold: course for part in parts for fold, course in read_record(part, "courses.json").items()}
    write_record(fresh, "courses.json", courses)
    score, area = score_oof(trained.oof), trained.config.minimum_area
    if area < 0:
        level = trained.config.level or score["best_level"]
        area = choose_minimum_area(trained.oof.probabilities, trained.oof.masks, level)
    minutes = round(sum(found["minutes"] for found in manifests.values()), 1)
    more = {"minutes": minutes, "score": score, "minimum_area": area}
    more["parts"] = {found["run_id"]: sha256_file(part / MANIFEST) for part, found in manifests.items()}
    manifest = write_manifest(fresh, record["run_id"], record["kernel"], trained.config, **more)
    for name in (*manifest["files"], MANIFEST):
        (fresh / name).replace(folder / name)
    fresh.rmdir()
    return manifest


def joined_tables(paths) -> str:
    """Tables of the same columns as one."""
    heads, rows = zip(*(path.read_text(encoding="utf-8").split("\n", 1) for path in paths), strict=True)
    if len(set(heads)) > 1:
        raise OutputError(f"the columns of {paths[0].name} differ between the folds: {' | '.join(sorted(set(heads)))}")
    return heads[0] + "\n" + "".join(rows)


# --- a failed run ---------------------------------------------------------------------------------------------------


def bring_failed(link, folder, record, status):
    """Brings the log and what else there is of a run that failed, and raises `RunFailed`, which says why it did."""
    output, names, lost = Output({}, "", None), [], ""
    try:
        output = list_output(link, record)
        names = bring_partial(link, output.files, folder / "partial")
        lost = f", {len(output.files) - len(names)} did not come" if len(names) < len(output.files) else ""
    except KaggleError as error:
        lost = f" ({error})"
    log = output.log or link.live_log(record["ref"], record["version"])
    path = write_log(folder, record, log)
    facts = {"state": status.state, "at": utc_now(), "version": record["version"], "seconds": run_seconds(output)}
    write_record(folder, "fetch.json", facts | {"message": status.message})
    text = traced(path, folder) if log else ""
    if text:
        lines = text.rstrip().splitlines()
        print("\n".join(["", *(["..."] if len(lines) > TAIL else []), *lines[-TAIL:], ""]))
    ended = "was stopped" if status.state == "CANCEL_ACKNOWLEDGED" else "failed"
    message = f" Kaggle says: {status.message.strip()}" if status.message.strip() else ""
    kept = f"the log is {shown(path)}" if log else "there is no log"
    if names or lost:
        kept += f"; {len(names)} unchecked files of its output are in {shown(folder / 'partial')}{lost}"
    found = read_object(folder / "partial" / MANIFEST)
    if found.get("run_id") == record["run_id"] and not found.get("finished", True):
        kept += "\nit left what it takes to go on: "
        kept += f"python scripts/push.py {record['kernel']} --resume {record['run_id']}"
    raise RunFailed(f"{record['run_id']} {ended} on Kaggle ({status.state}).{message}\n{kept}")


def traced(log, folder) -> str:
    """The log, with the lines of the package's files instead of those of notebook cells."""
    maps = sorted((folder / "pushed").glob("*.map.json"))
    with contextlib.suppress(BuildError):
        if maps:
            return trace_log(log, maps[0])
    return log.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
