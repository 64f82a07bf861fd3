"""A push to Kaggle of a run in one kernel: its folder with the record, and the request.

What was sent earlier and is open is settled first. It waits for no place on Kaggle; that is for the queue of folds
(fan_out.py). What a push is, and how it is known again, is in deeds.py.
"""

import contextlib
import pathlib
import shutil
import tempfile

from desk import paths
from desk.deeds import Push
from desk.kaggle.transport import KaggleLink
from desk.planning import BuiltKernel, PushRequest, build_run, plan_run, push_deed, show_plan
from desk.preflight import preflight, run_running
from desk.records import uptime, utc_now, write_object
from desk.runs import METADATA, Run, pushed_runs
from desk.sending import do_once
from desk.settling import settle_open
from desk.states import PushRecord


def push_run(link: KaggleLink, request: PushRequest) -> Run | None:
    """Pushes a run in one kernel, after a look at all that could go wrong, and tells about it.

    Returns:
        The run, an earlier one if this very notebook still runs; None after a dry run.

    Raises:
        DeskError: it was not pushed, or nobody knows whether; a push that Kaggle refuses leaves no run.
    """
    with contextlib.ExitStack() as held:
        build = paths.BUILD
        if request.dry_run:  # which changes nothing on the disk
            build = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()))
        plan = plan_run(link, request)
        built = build_run(plan, build)
        show_plan(plan, built)
        found = settle_open(link, request.runs, dry_run=request.dry_run, strict=built.record.ref)
        earlier = pushed_runs(request.runs)
        if twin := find_twin(link, earlier, built.record, request.beside, [run.folder for run in found]):
            name = twin.push.run_id
            print(f"\nnothing was pushed: this very notebook is on Kaggle as version {twin.push.version}, run {name}")
            return twin
        previous = preflight(link, request, built, earlier)
        if not request.consent.allows(push_deed([built], plan, previous)):
            return None
        record = built.record.but(previous=previous, at=utc_now(), up=uptime())
        run = keep_pushed(request.runs / plan.run_id, built, record, held)
        do_once(Push(link, run, patient=True))
        return run


def keep_pushed(
    folder: pathlib.Path, built: BuiltKernel, record: PushRecord, held: contextlib.ExitStack | None = None
) -> Run:
    """Makes a run's folder, in one step, with what is about to be pushed; from now on a kill loses nothing.

    Args:
        folder: that is to be made.
        built: what is about to be pushed.
        record: of the push.
        held: gets the lock of the folder, which nobody else has had.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        keep_bytes(built, temporary / "pushed")
        Run(temporary).keep(record)
        if held:
            held.enter_context(Run(folder).lock())
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Run(folder)


def keep_bytes(built: BuiltKernel, folder: pathlib.Path) -> None:
    """Writes what is pushed into a folder: these very bytes, not what another build has put into its place."""
    shutil.copytree(built.folder, folder, dirs_exist_ok=True)
    code = folder / built.metadata["code_file"]
    content = built.content.encode()
    if code.read_bytes() != content:
        code.write_bytes(content)
        for path in folder.glob("*.map.json"):
            path.unlink()  # it says where the lines of the other build come from
    write_object(folder / METADATA, built.metadata)


def find_twin(
    link: KaggleLink, earlier: list[Run], record: PushRecord, beside: bool, found: list[pathlib.Path]
) -> Run | None:
    """A run that is the same as the one that is to be pushed, and was found just now or still runs on Kaggle.

    Args:
        link: to Kaggle.
        earlier: the runs that were pushed from here.
        record: of the push that is to be.
        beside: whether this may run beside one that is the same.
        found: the folders of those whose push was open until now.
    """
    for run in reversed(earlier):
        push = run.push
        if push.content != record.content or record.ref not in (push.ref, push.asked_ref) or push.version is None:
            continue
        if run.folder in found or (not beside and run_running(link, run)):
            return run
    return None
