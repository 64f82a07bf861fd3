"""A run in several kernels, one for each fold: the queue that starts them, and what is known of each.

`push.py train --fan-out folds` makes `runs/<run id>/` with `queue.json` and, in `parts/fold-0/` and so on, the folder
of a run for each fold, which waits as "queued" in its push.json. From then on all that is to be done stands on the
disk: a queue that was killed, or stopped for lack of quota, goes on with `push.py train --continue RUN`.

A fold is pushed when Kaggle has a place for it. One without an answer is looked up and not pushed again. One that
fails is reported, and the others go on; `--continue` pushes it once more, and resumes one that had not enough time.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import re
import shutil
import tempfile

from scripts.kaggle_link import (
    QUEUE,
    AccessError,
    AmbiguousError,
    CapacityError,
    ConfigurationError,
    KaggleError,
    NotFoundError,
    OutputError,
    UnreachableError,
    alone,
    duration,
    part_folders,
    read_record,
    utc_now,
    write_record,
)
from scripts.outputs import DEADLINE_HOURS, MANIFEST, POLL, ProgressLine, read_status, remote_manifest
from scripts.planning import Plan, prepare, resume_run, show, show_plan, within_session
from scripts.pushing import (
    GPU_SESSIONS,
    SETTLED,
    age,
    gpu_sessions,
    keep_pushed,
    look_up,
    newest_version,
    preflight,
    running,
    send,
)

OPEN = ("sending", "ambiguous")  # states of a push whose answer is lost


class FoldsFailed(KaggleError):
    """Some folds came to a bad end; the others are well."""


class Interrupted(KaggleError):
    """Somebody pressed Ctrl-C."""

    exit_status = 130


class NoPlace(KaggleError):
    """Kaggle has had no place for a fold for a long time."""

    exit_status = 75


# --- a new queue ----------------------------------------------------------------------------------------------------


def start(link, options, plan) -> int:
    """Builds a kernel for each fold, keeps them all, and works the queue off."""
    refuse_unfinished(options.runs, options.name)
    folds, shares = share_out(plan)
    options.runs.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{plan.run_id}-", dir=options.runs))
    try:
        temporary.chmod(0o755)
        first = [keep_part(temporary, options, plan, fold, shares[fold]) for fold in folds][0]  # noqa: RUF015 - all are kept
        queue = {"run_id": plan.run_id, "kernel": options.name, "preset": plan.preset, "settings": plan.settings}
        queue |= {"accelerator": options.accelerator, "hours": options.hours, "at": utc_now(), "folds": folds}
        write_record(temporary, QUEUE, queue)
        metadata, content, record = first
        show_plan(options, plan, metadata, content)
        minutes = shares[folds[0]].get("minutes")
        each = f", each with {minutes:g} of the run's minutes" if minutes else ""
        show("kernels", f"{len(folds)}, for folds {', '.join(map(str, folds))}{each}")
        preflight(link, options, metadata, content, record)
        if options.dry_run:
            print("\nnothing was pushed (--dry-run)")
            return 0
        temporary.rename(options.runs / plan.run_id)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return go_on(link, options.runs / plan.run_id, options.name)


def refuse_unfinished(runs, kernel):
    """Raises `ConfigurationError` if folds of an earlier fan-out of this kernel still wait: they would be mixed up."""
    for path in runs.glob(f"[!.]*/{QUEUE}"):
        records = [read_record(folder, "push.json") for folder in part_folders(path.parent)]
        waiting = [record for record in records if record.get("version") is None]
        if waiting and read_record(path.parent, QUEUE)["kernel"] == kernel:
            name = path.parent.name
            raise ConfigurationError(
                f"{name} still has {len(waiting)} folds to push: go on with python scripts/push.py {kernel} --continue "
                f"{name}, or give it up and remove its folder"
            )


def share_out(plan) -> tuple[list[int], dict[int, dict]]:
    """The folds of a run, and for each the settings of its kernel: its fold, and its share of the run's minutes."""
    from salt.config import preset

    if plan.preset is None:
        raise ConfigurationError("--fan-out folds: the kernel has no PRESET, so nobody knows its folds")
    config = preset(plan.preset, **plan.settings)
    folds = list(config.train_folds)
    if len(folds) < 2:
        raise ConfigurationError(f"--fan-out folds: train_folds={folds} is one fold; push it without --fan-out")
    minutes = {"minutes": round(config.minutes / len(folds), 1)} if config.minutes else {}
    return folds, {fold: {**plan.settings, **minutes, "train_folds": [fold]} for fold in folds}


def keep_part(folder, options, plan, fold, settings) -> tuple[dict, str, dict]:
    """Builds the kernel of a fold into its folder; returns (metadata, notebook, push record)."""
    part = dataclasses.replace(plan, run_id=f"{plan.run_id}-fold-{fold}", settings=settings)
    built, metadata, content, record = prepare(options, part, fold)
    keep_pushed(folder / "parts" / f"fold-{fold}", built, metadata, record | {"state": "queued", "fold": fold})
    return metadata, content, record


# --- working it off -------------------------------------------------------------------------------------------------


def go_on(link, folder, kernel) -> int:
    """Pushes the folds that wait, as there are places for them; returns when all are pushed.

    Raises:
        QuotaError, ...: Kaggle takes none of them now; the queue stays as it is.
        FoldsFailed: all are pushed, and some came to a bad end.
        NoPlace: there has been no place for half a day.
    """
    queue = read_record(folder, QUEUE)
    if not queue or queue["kernel"] != kernel:
        raise ConfigurationError(f"--continue {folder.name}: is no run of {kernel} whose folds were fanned out")
    remedy = f"python scripts/push.py {kernel} --continue {folder.name}"
    with alone(folder):
        print(f"\n{folder.name}: {len(queue['folds'])} folds, as there are places", flush=True)
        parts = [Part(part) for part in part_folders(folder)]
        for part in parts:
            part.take_up(link, queue)
        try:
            failed = work_off(link, folder.parent, parts)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; what runs on Kaggle goes on. The others: {remedy}") from None
        except KaggleError as error:
            stopped = type(error)(f"{error}\nwhat runs on Kaggle goes on; the other folds: {remedy}")
            raise stopped from None
    if failed:
        names = ", ".join(map(str, failed))
        raise FoldsFailed(
            f"all folds are pushed, but {names} did not end well: python scripts/fetch.py {folder.name} shows why, and "
            f"{remedy} pushes them once more"
        )
    print(f"\nall folds are pushed\nnext: python scripts/fetch.py {folder.name} --wait")
    return 0


class Part:
    """A fold's kernel: its folder, its push record, and what is known of its run."""

    def __init__(self, folder):
        self.folder, self.record = folder, read_record(folder, "push.json")
        self.fold, self.state = self.record["fold"], "waits"

    def take_up(self, link, queue):
        """Looks how the fold stands when a queue begins, or goes on; one that did not end well waits again."""
        self.look(link)
        if self.state == "COMPLETE" and self.lacks_time(link):
            self.resume(link, queue)
        if self.failed:
            print(f"  fold {self.fold} was {self.state}; it is pushed once more", flush=True)
            for name in ("fetch.json", f"{self.record['kernel']}.log"):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "partial", ignore_errors=True)
            self.write(state="queued", version=None, url=None)
            self.state = "waits"

    def lacks_time(self, link) -> bool:
        """Whether the manifest says that the run has not reached its end; what is wrong with one, fetch.py tells."""
        manifest = read_record(self.folder, MANIFEST)
        if manifest.get("run_id") != self.record["run_id"]:
            with contextlib.suppress(OutputError, UnreachableError, NotFoundError, AccessError):
                manifest = remote_manifest(link, self.record)
        return not manifest.get("finished", True)

    def resume(self, link, queue):
        """Lets a fold that ran out of time go on: by a new version of its kernel that mounts what it has left."""
        stem, number = re.fullmatch(r"(.+-fold-\d+)(?:-(\d+))?", self.record["run_id"]).groups()
        plan = Plan(f"{stem}-{int(number or 1) + 1}", self.record["ref"].partition("/")[0], None, {})
        resume_run(link, plan, self.folder, queue["kernel"])
        plan.settings = within_session(plan.settings, queue["hours"])
        options = argparse.Namespace(name=queue["kernel"], accelerator=queue["accelerator"], hours=queue["hours"])
        built, metadata, _, record = prepare(options, plan, self.fold)
        print(f"  fold {self.fold} had not enough time; {plan.run_id} goes on with it", flush=True)
        shutil.copytree(built, self.folder / "pushed", dirs_exist_ok=True)
        write_record(self.folder / "pushed", "kernel-metadata.json", metadata)
        (self.folder / "fetch.json").unlink(missing_ok=True)
        self.write(**record | {"state": "queued"})  # last: a kill before this changes nothing
        self.state = "waits"

    @property
    def waits(self) -> bool:
        return self.record["state"] == "queued"

    @property
    def settled(self) -> bool:
        """Whether it is known to be on Kaggle, one way or the other."""
        return not self.waits and self.record["state"] not in OPEN

    @property
    def ended(self) -> bool:
        return self.state in ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "WITHOUT SOURCES")

    @property
    def failed(self) -> bool:
        return self.ended and self.state != "COMPLETE"

    def write(self, **changes):
        self.record |= changes
        write_record(self.folder, "push.json", self.record)

    def look(self, link):
        """Finds out how the fold stands."""
        if self.waits or self.ended:
            return
        self.state = "UNREADABLE"
        with contextlib.suppress(UnreachableError, NotFoundError, AccessError):
            if self.record["state"] in OPEN:
                self.settle(link)
            if self.record["state"] == "crippled":
                self.state = "WITHOUT SOURCES"
            elif self.record["state"] == "pushed":
                self.state = read_record(self.folder, "fetch.json").get("state") or read_status(link, self.record).state

    def settle(self, link):
        """Looks up a push whose answer was lost; it waits again only when it surely did not happen."""
        with contextlib.suppress(ConfigurationError):  # it runs without some of its sources, and its record says so
            if not look_up(link, self.folder, self.record):
                self.state = "NOT SEEN YET"
                if age(self.record) >= SETTLED:
                    self.write(state="queued")
                    self.state = "waits"

    def push(self, link):
        """Pushes the fold.

        Raises:
            CapacityError: an earlier version of its kernel still runs, or Kaggle has no place.
            QuotaError, ...: no version was made; the fold still waits.
        """
        ref = self.record["ref"]
        metadata = read_record(self.folder / "pushed", "kernel-metadata.json")
        content = (self.folder / "pushed" / metadata["code_file"]).read_text(encoding="utf-8")
        previous = newest_version(link, ref)
        if previous and running(link, ref):
            raise CapacityError(f"{ref} version {previous} still runs")
        self.write(state="sending", previous=previous, at=utc_now())
        try:
            send(link, self.folder, self.record, metadata, content)
        except AmbiguousError:
            self.state = "NOT SEEN YET"
            print(f"  fold {self.fold} is sent, and not seen on Kaggle yet; it is looked for", flush=True)
        except KaggleError:
            if self.record["state"] == "sending":
                self.write(state="queued")
            raise
        else:
            self.state = "QUEUED"
            print(f"  fold {self.fold} is pushed: version {self.record['version']}, {self.record['url']}", flush=True)


def work_off(link, runs, parts) -> list[int]:
    """Pushes what waits in `parts`, until all are known to be on Kaggle; returns the folds that came to a bad end."""
    line, began, moved, told = ProgressLine(), link.clock(), link.clock(), None
    own = {part.record["ref"] for part in parts}
    while not all(part.settled for part in parts):
        for part in parts:
            if report_end(link, part, line):
                moved = link.clock()
        busy = [part for part in parts if not part.waits and not part.ended]
        reason = ""
        part = next((part for part in parts if part.waits), None)
        if part and len(busy) < GPU_SESSIONS:
            try:
                others = gpu_sessions(link, runs, own)
                if len(busy) + len(others) >= GPU_SESSIONS:
                    raise CapacityError(f"{', '.join(others)} run" + "s" * (len(others) == 1))
                line.end()
                part.push(link)
                moved = link.clock()
                continue
            except (CapacityError, UnreachableError) as error:
                reason = f" ({str(error).partition(';')[0]})"
        if link.clock() - moved >= 3600 * DEADLINE_HOURS:
            line.end()
            raise NoPlace(f"no fold could be pushed for {DEADLINE_HOURS:g} hours")
        about = f"{summary(parts)}{reason}"
        if line.is_terminal or about != told:
            line.show(f"  {about}, {duration(link.clock() - began)}")
        told = about
        link.sleep(POLL * (2 + 2 * link.jitter()) / 3)
    line.end()
    return [part.fold for part in parts if part.failed]


def report_end(link, part, line) -> bool:
    """Looks at a fold's run; says so, and returns True, if it has ended since the last look."""
    if part.ended:
        return False
    part.look(link)
    if part.ended:
        line.end()
        word = "COMPLETE" if not part.failed else f"{part.state}; the others go on"
        print(f"  fold {part.fold} is {word}", flush=True)
    return part.ended


def summary(parts) -> str:
    """Such as "fold 0 COMPLETE, 1 RUNNING, 2 QUEUED; 3, 4 wait for a place"."""
    known = [f"{part.fold} {part.state}" for part in parts if not part.waits] or ["none runs"]
    waiting = ", ".join(str(part.fold) for part in parts if part.waits)
    return f"fold {', '.join(known)}" + (f"; {waiting} wait for a place" if waiting else "")
