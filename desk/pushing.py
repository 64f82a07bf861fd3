"""A push to Kaggle: the one request, its record, and the search for it when no answer comes.

Nothing is pushed twice: push.json says "sending" before the request and what became of it afterwards, and one without
an answer is looked up. It waits for no place on Kaggle; that is for the queue of folds (fan_out.py).
"""

import functools
import json
import pathlib
import shutil
import tempfile
from typing import Any

from desk.errors import ConfigurationError, DeskError
from desk.kaggle.errors import AccessError, AmbiguousError, NotFoundError
from desk.kaggle.kernels import KINDS, SavedKernel, read_kernel, save_kernel, source_name
from desk.kaggle.transport import KaggleLink
from desk.output import show
from desk.planning import BuiltKernel, PushRequest, build_run, plan_run, push_deed, show_plan
from desk.preflight import preflight, running
from desk.records import utc_now, write_record
from desk.runs import METADATA, PUSH, Run, pushed_runs
from desk.secrets import own_secrets, refuse_secrets
from desk.sending import send_once, settle

OPEN = ("sending", "ambiguous")  # states of a push whose answer is lost


def push_run(link: KaggleLink, request: PushRequest) -> Run | None:
    """Pushes a run in one kernel, after a look at all that could go wrong, and tells about it.

    Returns:
        The run, an earlier one if this very notebook still runs; None after a dry run.

    Raises:
        DeskError: it was not pushed, or nobody knows whether; a push that Kaggle refuses leaves no run.
    """
    plan = plan_run(link, request)
    built = build_run(plan)
    show_plan(plan, built)
    earlier = pushed_runs(request.runs)
    twin = settle_earlier(link, earlier, built.record, request.beside, request.dry_run)
    if twin:
        version, name = twin.push["version"], twin.push["run_id"]
        print(f"\nnothing was pushed: this very notebook is on Kaggle as version {version}, run {name}")
        return twin
    previous = preflight(link, request, built, earlier)
    if not request.consent.allows(push_deed([built], plan, previous)):
        return None
    run = keep_pushed(request.runs / plan.run_id, built, previous=previous, at=utc_now())
    with run.lock():
        try:
            send(link, run, built.metadata, built.content)
        except DeskError:
            if run.push["state"] == "sending":
                shutil.rmtree(run.folder)  # refused: there is no such run
            raise
    return run


def keep_pushed(folder: pathlib.Path, built: BuiltKernel, **more: Any) -> Run:
    """Makes a run's folder, in one step, with what is about to be pushed; from now on a kill loses nothing.

    Args:
        folder: that is to be made.
        built: what is about to be pushed.
        more: of push.json.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        keep_bytes(built, temporary / "pushed")
        write_record(temporary, PUSH, built.record | more)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    run = Run(folder)
    run.push, run.metadata = built.record | more, built.metadata
    return run


def keep_bytes(built: BuiltKernel, folder: pathlib.Path) -> None:
    """Writes what is pushed into a folder: these very bytes, not what another build has put into its place."""
    shutil.copytree(built.folder, folder, dirs_exist_ok=True)
    code = folder / built.metadata["code_file"]
    content = built.content.encode()
    if code.read_bytes() != content:
        code.write_bytes(content)
        for path in folder.glob("*.map.json"):
            path.unlink()  # it says where the lines of the other build come from
    write_record(folder, METADATA, built.metadata)


def send(link: KaggleLink, run: Run, metadata: dict, content: str) -> None:
    """Pushes what a run's folder keeps, whose record says "sending" already, and records what came of it.

    Raises:
        AmbiguousError: nobody knows whether Kaggle made a version; the record says so.
        ConfigurationError: it holds a secret, and was not sent; or the version runs without some of its sources, and
            the record says "lacks_sources".
        QuotaError, CapacityError, ...: no version was made; the record still says "sending".
    """
    name = run.push["run_id"]
    refuse_secrets({"the notebook": content, "its metadata": json.dumps(metadata)}, own_secrets(link.secrets))
    try:
        saved = send_once(
            link,
            functools.partial(save_kernel, link, metadata, content, run.push["hours"]),
            functools.partial(look_up, link, run),
            lambda saved: f"the push arrived, as version {saved.version}",
            f"{name}: Kaggle shows no such version yet, and may still make it. Do not repeat the push: "
            f"python scripts/fetch.py {name} looks again, and so does the next push",
        )
    except AmbiguousError:
        run.record_push(state="ambiguous")
        raise
    accept(run, saved)


def accept(run: Run, saved: SavedKernel) -> None:
    """Records the version that a push has made.

    Raises:
        ConfigurationError: it runs without some of its sources.
    """
    state = "lacks_sources" if saved.invalid else "pushed"
    run.record_push(state=state, version=saved.version, url=saved.url)
    if saved.invalid:
        raise ConfigurationError(
            f"{run.push['run_id']}: version {saved.version} runs WITHOUT {', '.join(saved.invalid)}, which Kaggle does "
            f"not take: stop it on {saved.url}, correct the head of {run.push['kernel']}.py and push again"
        )


def look_up(link: KaggleLink, run: Run) -> SavedKernel | None:
    """The version whose notebook holds this run's id; None if Kaggle shows none.

    Raises:
        UnreachableError: Kaggle cannot be asked.
    """
    ref = run.push["ref"]
    try:
        found = read_kernel(link, ref)
        for number in range(found.version, run.push.get("previous") or 0, -1):
            if number < found.version:
                found = read_kernel(link, ref, number)
            if run.push["run_id"] in found.source:
                wanted = [source_name(kind, name) for kind in KINDS for name in run.metadata.get(f"{kind}_sources", [])]
                lacking = [name for name in wanted if name not in found.attached]
                return SavedKernel(number, f"https://www.kaggle.com/code/{ref}", tuple(lacking))
    except (NotFoundError, AccessError):
        return None
    return None


def settle_earlier(
    link: KaggleLink, earlier: list[Run], record: dict, beside: bool, dry_run: bool = False
) -> Run | None:
    """Looks up earlier pushes of this kernel whose fate is open.

    Args:
        link: to Kaggle.
        earlier: the runs that were pushed from here.
        record: of the push that is to be.
        beside: whether this may run beside one that is the same.
        dry_run: change no record; those whose fate is open are named only.

    Returns:
        One that is the same as this and was found or, unless this may run `beside` it, still runs; else None.

    Raises:
        AmbiguousError: one was sent a moment ago and is not seen yet.
        UnreachableError: Kaggle cannot be asked.
    """
    twin = None
    for run in [run for run in earlier if run.push["ref"] == record["ref"]]:
        state, name = run.push["state"], run.push["run_id"]
        same = run.push.get("content") == record["content"]
        if state in OPEN and dry_run:
            show(("earlier", f"{name}: its answer was lost; the push looks for it first"))
        elif state in OPEN:
            saved = settle(name, run.push, functools.partial(look_up, link, run))
            if saved is None:
                show(("earlier", f"{name} never arrived; its record is removed"))
                shutil.rmtree(run.folder)
                continue
            accept(run, saved)
            show(("earlier", f"{name} did arrive, as version {saved.version}"))
            if same:
                twin = run
        elif same and state == "pushed" and not (beside or run.fetched):
            twin = run if running(link, run.push["ref"], run.push["version"]) else twin
    return twin
