"""A run in several kernels, one for each fold: the queue that starts them, and what is known of each.

`push.py train --fan-out folds` makes `runs/<run id>/` with `queue.json` and, in `parts/fold-0/` and so on, the folder
of a run for each fold, which waits as "queued" in its push.json. From then on all that is to be done stands on the
disk: a queue that was killed, or stopped for lack of quota, is resumed by `push.py train --continue RUN`.

A fold is pushed when Kaggle has a place for it. One without an answer is looked up and not pushed again. One that
fails is reported, and the others go on; `--continue` pushes it once more, and resumes one that ran out of time.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile

from desk.building import Program
from desk.deeds import Push
from desk.errors import ConfigurationError, DeskError, Exit
from desk.kaggle.errors import (
    AccessError,
    AmbiguousError,
    CapacityError,
    KaggleError,
    NotFoundError,
    OutputError,
    UnreachableError,
)
from desk.kaggle.transport import KaggleLink
from desk.output import ProgressLine, duration, show, shown
from desk.planning import (
    BuiltKernel,
    Plan,
    PushRequest,
    build_run,
    plan_run,
    push_deed,
    resume_run,
    show_plan,
    within_session,
)
from desk.preflight import GPU_SESSIONS, gpu_sessions, kernel_running, newest_version, preflight
from desk.pushing import keep_bytes, keep_pushed
from desk.records import DamagedRecord, utc_now
from desk.remote_output import DEADLINE_HOURS, PARTIAL, POLL, remote_manifest, run_status
from desk.runs import FETCH, QUEUE, Run, pushed_runs
from desk.sending import do_once, reconcile
from desk.settling import settle_open
from desk.states import OPEN, QueueRecord
from salt.config import preset as salt_preset


class FoldsFailed(KaggleError):
    """Some folds came to a bad end; the others are well."""


class Interrupted(KaggleError):
    """Somebody pressed Ctrl-C."""

    exit_status = Exit.INTERRUPTED


class NoPlace(KaggleError):
    """Kaggle has had no place for a fold for a long time."""

    exit_status = Exit.LATER


# --- a new queue ----------------------------------------------------------------------------------------------------


def push_folds(link: KaggleLink, request: PushRequest) -> Run | None:
    """Builds a kernel for each fold, keeps them all, and works the queue off.

    Returns:
        The run, or None after a dry run.

    Raises:
        DeskError: as `resume_folds`, or nothing was begun.
    """
    plan = plan_run(link, request)
    refuse_unfinished(request.runs, request.kernel)
    shares = share_out(plan)
    folds = list(shares)
    if not request.dry_run:
        request.runs.mkdir(parents=True, exist_ok=True)
    place = None if request.dry_run else request.runs  # a dry run changes nothing there
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{plan.run_id}-", dir=place))
    try:
        temporary.chmod(0o755)
        build = temporary / "build" if request.dry_run else None
        built = [keep_part(temporary, plan, fold, settings, build) for fold, settings in shares.items()]
        queue = QueueRecord(
            run_id=plan.run_id, kernel=plan.kernel, preset=plan.preset, settings=plan.settings,
            accelerator=plan.accelerator, hours=plan.hours, at=utc_now(), folds=folds,
        )  # fmt: skip
        Run(temporary).keep(queue)
        settle_open(link, request.runs, dry_run=request.dry_run)
        show_plan(plan, built[0])
        minutes = shares[folds[0]].get("minutes")
        each = f", each with {minutes:g} of the run's minutes" if minutes else ""
        show(("kernels", f"{len(folds)}, for folds {', '.join(map(str, folds))}{each}"))
        previous = preflight(link, request, built[0], pushed_runs(request.runs))
        if not request.consent.allows(push_deed(built, plan, previous)):
            return None
        temporary.rename(request.runs / plan.run_id)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return resume_folds(link, Run(request.runs / plan.run_id), plan.kernel)


def refuse_unfinished(runs: pathlib.Path, kernel: str) -> None:
    """Raises `ConfigurationError` if folds of an earlier fan-out of this kernel still wait: they would be mixed up."""
    for run in [Run(path.parent) for path in runs.glob(f"[!.]*/{QUEUE}")]:
        try:
            waiting = [part for part in run.parts if part.was_sent and part.push.version is None]
        except DamagedRecord as error:
            show(("damaged", str(error)))
            continue
        if waiting and run.queue.kernel == kernel:
            raise ConfigurationError(
                f"{run.name} still has {len(waiting)} folds to push: resume it by python scripts/push.py {kernel} "
                f"--continue {run.name}, or give it up and remove its folder"
            )


def share_out(plan: Plan) -> dict[int, dict]:
    """For each fold of a run the settings of its kernel: its fold, and its share of the run's minutes."""
    if plan.preset is None:
        raise ConfigurationError("--fan-out folds: the kernel has no PRESET, so nobody knows its folds")
    config = salt_preset(plan.preset, **plan.settings)
    folds = list(config.train_folds)
    if len(folds) < 2:
        raise ConfigurationError(f"--fan-out folds: train_folds={folds} is one fold; push it without --fan-out")
    minutes = {"minutes": round(config.minutes / len(folds), 1)} if config.minutes else {}
    return {fold: {**plan.settings, **minutes, "train_folds": [fold]} for fold in folds}


def keep_part(folder: pathlib.Path, plan: Plan, fold: int, settings: dict, build: pathlib.Path | None) -> BuiltKernel:
    """Builds the kernel of a fold into its folder, and below `build`, if that is given."""
    of_fold = dataclasses.replace(plan, run_id=f"{plan.run_id}-fold-{fold}", settings=settings, fold=fold)
    built = build_run(of_fold, build)
    keep_pushed(folder / "parts" / f"fold-{fold}", built, built.record.but(state="queued", fold=fold, at=utc_now()))
    return built


def folds_to_push(run: Run) -> dict:
    """What resuming a queue may push, for a person to agree to: each fold as its records have it now."""
    parts = [Run(folder) for folder in sorted((run.folder / "parts").glob("fold-*"))]  # a queue may be damaged
    states = {part.name: [part.push.state, part.push.version, part.was_fetched] for part in parts}
    return {"continue": run.name, "content": states}


# --- working it off -------------------------------------------------------------------------------------------------


def resume_folds(link: KaggleLink, run: Run, kernel: str) -> Run:
    """Pushes the folds of a run that wait, as there are places for them; returns the run when all are pushed.

    Raises:
        QuotaError, ...: Kaggle takes none of them now; the queue stays as it is.
        FoldsFailed: all are pushed, and some came to a bad end.
        NoPlace: there has been no place for half a day.
    """
    remake_queue(run, kernel)
    if not run.is_fanned_out or run.queue.kernel != kernel:
        raise ConfigurationError(f"--continue {run.name}: is no run of {kernel} whose folds were fanned out")
    remedy = f"python scripts/push.py {kernel} --continue {run.name}"
    settle_open(link, run.folder.parent, but=run)
    with run.lock():
        print(f"\n{run.name}: {len(run.parts)} folds, as there are places", flush=True)
        parts = [Part(part) for part in run.parts]
        for part in parts:
            part.take_up(link, run.queue)
        try:
            failed = work_off(link, run.folder.parent, parts)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; what runs on Kaggle goes on. The others: {remedy}") from None
        except DeskError as error:
            stopped = type(error)(f"{error}\nwhat runs on Kaggle goes on; the other folds: {remedy}")
            raise stopped from None
    if failed:
        names = ", ".join(map(str, failed))
        raise FoldsFailed(
            f"all folds are pushed, but {names} did not end well: python scripts/fetch.py {run.name} shows why, and "
            f"{remedy} pushes them once more"
        )
    return run


def remake_queue(run: Run, kernel: str) -> None:
    """Makes a damaged queue.json anew from the folds' records; what stood there is kept beside it."""
    try:
        run.read(QueueRecord)
    except DamagedRecord as error:
        parts = [Run(folder) for folder in sorted((run.folder / "parts").glob("fold-*"))]
        pushes = [part.push for part in parts if part.push.fold is not None]
        if not pushes:
            raise
        machine = {"CPU": "none"}.get(pushes[0].machine, pushes[0].machine)
        path = run.folder / QUEUE
        shutil.copyfile(path, path.with_name(f"{QUEUE}.damaged"))
        folds = sorted(push.fold for push in pushes if push.fold is not None)
        first = pushes[0]
        run.keep(
            QueueRecord(
                run_id=run.name, kernel=kernel, preset=first.preset, accelerator=machine, hours=first.hours,
                at=first.at, folds=folds,
            )
        )  # fmt: skip
        print(f"{error}: made anew", flush=True)


class Part:
    """A fold's kernel: its run, and how that stands on Kaggle."""

    def __init__(self, run: Run):
        self.run, self.state = run, "waits"
        self.fold = run.push.fold if run.push.fold is not None else int(run.name.rpartition("-")[2])

    def take_up(self, link: KaggleLink, queue: QueueRecord) -> None:
        """Looks how the fold stands when a queue begins or is resumed; one that did not end well waits again."""
        self.look(link)
        obstacle = self.obstacle(link) if self.ended else ""
        if obstacle is None:
            self.resume(link, queue)
        elif self.failed:
            print(f"  fold {self.fold} was {self.state}, and cannot be resumed: {obstacle}")
            print(f"  fold {self.fold} is pushed once more{self.set_partial_aside()}", flush=True)
            for name in (FETCH, f"{self.run.push.kernel}.log"):
                (self.run.folder / name).unlink(missing_ok=True)
            self.run.keep(self.run.push.but(state="queued", version=None, url=None, differences=[]))
            self.state = "waits"

    def set_partial_aside(self) -> str:
        """Keeps what a run that failed has left, under the number of its version; what follows may fail as well."""
        partial = self.run.folder / PARTIAL
        if not partial.is_dir():
            return ""
        kept = partial.with_name(f"{PARTIAL}-{self.run.push.version}")
        if kept.exists():
            shutil.rmtree(kept)  # of the same version, brought once more
        partial.rename(kept)
        return f"; what it left is in {shown(kept)}"

    def obstacle(self, link: KaggleLink) -> str | None:
        """Why the run cannot be resumed; None if it can. What is wrong with a manifest that is here, fetch.py tells."""
        manifest = None
        for folder in (self.run, Run(self.run.folder / PARTIAL)):
            with contextlib.suppress(DamagedRecord):
                found = folder.manifest
                if manifest is None and found and found.run_id == self.run.push.run_id:
                    manifest = found
        try:
            manifest = manifest or remote_manifest(link, self.run)
        except (OutputError, UnreachableError, NotFoundError, AccessError) as error:
            return str(error)
        return "its manifest says that it is finished" if manifest.finished else None

    def resume(self, link: KaggleLink, queue: QueueRecord) -> None:
        """Resumes an unfinished fold, by a new version of its kernel that mounts what it has left."""
        kernel, owner = queue.kernel, self.run.push.ref.partition("/")[0]
        preset, settings, sources = resume_run(link, self.run, kernel, owner)
        settings = within_session(settings, queue.hours)
        plan = Plan(
            Program(kernel), next_run_id(self.run.push.run_id), owner, preset, settings, queue.accelerator,
            queue.hours, sources, self.run, self.fold,
        )  # fmt: skip
        built = build_run(plan)
        why = "ran out of time" if self.state == "COMPLETE" else f"was {self.state}"
        print(f"  fold {self.fold} {why}; {plan.run_id} resumes it", flush=True)
        keep_bytes(built, self.run.folder / "pushed")
        self.run.metadata = built.metadata
        (self.run.folder / FETCH).unlink(missing_ok=True)
        self.set_partial_aside()
        # Last: a kill before this changes nothing.
        self.run.keep(built.record.but(state="queued", fold=self.fold, at=utc_now()))
        self.state = "waits"

    @property
    def waits(self) -> bool:
        """Whether it is to be pushed."""
        return self.run.push.state == "queued"

    @property
    def settled(self) -> bool:
        """Whether it is known to be on Kaggle, one way or the other."""
        return not self.waits and self.run.push.state not in OPEN

    @property
    def ended(self) -> bool:
        """Whether its run has ended, well or not."""
        return self.state in ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "DIFFERS")

    @property
    def failed(self) -> bool:
        """Whether its run came to a bad end."""
        return self.ended and self.state != "COMPLETE"

    def look(self, link: KaggleLink) -> None:
        """Finds out how the fold stands."""
        if self.waits or self.ended:
            return
        self.state = "UNREADABLE"
        with contextlib.suppress(UnreachableError, NotFoundError, AccessError):
            self.settle(link)
            if self.run.push.state == "differs":
                self.state = "DIFFERS"
            elif self.run.push.on_kaggle:
                fetched = self.run.fetched
                self.state = fetched.state if fetched else run_status(link, self.run).state

    def settle(self, link: KaggleLink) -> None:
        """Settles its push; it waits again only when it surely did not arrive."""
        try:
            reconcile(Push(link, self.run))
        except AmbiguousError:
            self.state = "NOT SEEN YET"
        except ConfigurationError:
            self.state = "DIFFERS"  # and its record says in what
        if self.run.push.state == "queued":
            self.state = "waits"

    def push(self, link: KaggleLink, earlier: list[Run]) -> None:
        """Pushes the fold; `earlier` are the runs that were pushed from here.

        Raises:
            CapacityError: an earlier version of its kernel still runs, or Kaggle has no place.
            QuotaError, ...: no version was made; the fold still waits.
        """
        ref = self.run.push.ref
        previous = newest_version(link, ref)
        if active := kernel_running(link, ref, previous, earlier):
            raise CapacityError(f"{ref} {active}")
        self.run.keep(self.run.push.but(state="queued", previous=previous))
        try:
            do_once(Push(link, self.run))
        except AmbiguousError:
            self.state = "NOT SEEN YET"
            print(f"  fold {self.fold} is sent, and not seen on Kaggle yet; it is looked for", flush=True)
        else:
            self.state = "QUEUED"
            version, url = self.run.push.version, self.run.push.url
            print(f"  fold {self.fold} is pushed: version {version}, {url}", flush=True)


def next_run_id(run_id: str) -> str:
    """The name of a fold's run that resumes another: RUN-fold-1, RUN-fold-1-2, RUN-fold-1-3 ..."""
    stem, _, numbers = run_id.rpartition("-fold-")
    fold, _, number = numbers.partition("-")
    return f"{stem}-fold-{fold}-{int(number or 1) + 1}"


def work_off(link: KaggleLink, runs: pathlib.Path, parts: list[Part]) -> list[int]:
    """Pushes what waits in `parts`, until all are known to be on Kaggle; returns the folds that came to a bad end."""
    line, began, moved, told = ProgressLine(), link.clock(), link.clock(), None
    own = {part.run.push.ref for part in parts}
    while not all(part.settled for part in parts):
        for part in parts:
            if report_end(link, part, line):
                moved = link.clock()
        busy = [part for part in parts if not part.waits and not part.ended]
        reason = ""
        waiting = [part for part in parts if part.waits]
        if waiting and len(busy) < GPU_SESSIONS:
            try:
                earlier = pushed_runs(runs)
                others = gpu_sessions(link, earlier, own)
                if len(busy) + len(others) >= GPU_SESSIONS:
                    raise CapacityError(f"{', '.join(others)} run" + "s" * (len(others) == 1))
                line.end()
                waiting[0].push(link, earlier)
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


def report_end(link: KaggleLink, part: Part, line: ProgressLine) -> bool:
    """Looks at a fold's run; says so, and returns True, if it has ended since the last look."""
    if part.ended:
        return False
    part.look(link)
    if part.ended:
        line.end()
        word = "COMPLETE" if not part.failed else f"{part.state}; the others go on"
        print(f"  fold {part.fold} is {word}", flush=True)
    return part.ended


def summary(parts: list[Part]) -> str:
    """Such as "fold 0 COMPLETE, 1 RUNNING, 2 QUEUED; 3, 4 wait for a place"."""
    known = [f"{part.fold} {part.state}" for part in parts if not part.waits] or ["none runs"]
    waiting = ", ".join(str(part.fold) for part in parts if part.waits)
    return f"fold {', '.join(known)}" + (f"; {waiting} wait for a place" if waiting else "")
