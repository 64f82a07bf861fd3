"""Builds a kernel and starts it on Kaggle, after a look at everything that would make the run fail or be refused.

    python scripts/push.py train --preset t4 --set epochs=100 --hours 9
    python scripts/push.py predict --run train-t4-20261122-131502-ab12
    python scripts/push.py train --fan-out folds
    python scripts/push.py train --resume train-t4-20261122-131502-ab12
    python scripts/push.py train --dry-run

The run gets a name that stands in the notebook, and `runs/<run id>/` with what was pushed (`pushed/`) and `push.json`:
the kernel's version, the notebook's SHA-256, the settings. A push that Kaggle refuses leaves nothing. One whose answer
is lost is looked up, never repeated; if it cannot be found yet, the next push, or `fetch.py`, looks again.
"""
import argparse
import contextlib
import datetime
import hashlib
import json
import pathlib
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.kaggle_link import (
    KINDS,
    AccessError,
    AmbiguousError,
    CapacityError,
    ConfigurationError,
    CredentialsError,
    KaggleError,
    KaggleLink,
    NotFoundError,
    QuotaError,
    UnreachableError,
    alone,
    read_record,
    run_command,
    run_folder,
    source_name,
    utc_now,
    write_record,
)

BUILD = ROOT / "build"
LOOKS = (5.0, 15.0, 30.0)  # seconds before each look for a push without an answer
SETTLED = 600.0  # seconds after which a push that nobody sees has not happened
GPU_SESSIONS = 2  # at once, for an account
RECENT = 8  # kernels and records that are looked at for running sessions
MAX_HOURS = 12.0
LIMIT = "limit_minutes"  # setting after which a run stops by itself, some time before Kaggle stops it
METADATA = {
    "id": str, "title": str, "code_file": str, "language": str, "kernel_type": str, "is_private": bool,
    "enable_gpu": bool, "enable_tpu": bool, "enable_internet": bool, "keywords": list, "competition_sources": list,
    "dataset_sources": list, "kernel_sources": list, "model_sources": list, "machine_shape": str,
}  # fmt: skip


def main(arguments=None, link=None) -> int:
    return run_command(push, arguments, link)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build a kernel and start it on Kaggle; what was pushed is recorded in runs/<run id>/push.json.",
        epilog="example: python scripts/push.py train --preset t4 --set epochs=100 --hours 9",
    )
    parser.add_argument("name", metavar="NAME", help="the kernel: the name of a file in kernels/, without .py")
    parser.add_argument("--preset", metavar="P", help="settings to begin with (salt/config.py lists the presets)")
    parser.add_argument("--set", metavar="key=value", action="extend", nargs="+", default=[], help="change settings")
    parser.add_argument("--owner", metavar="O", help="push as this Kaggle account (default: that of the credentials)")
    parser.add_argument("--accelerator", metavar="A", help="instead of the kernel's own; none: a CPU")
    parser.add_argument("--hours", metavar="H", type=float, help="after which Kaggle stops the run, at most 12")
    parser.add_argument("--run", metavar="RUN", help="mount the output of just this run, for predict")
    parser.add_argument("--beside", action="store_true", help="push although a version of this kernel still runs")
    parser.add_argument("--dry-run", action="store_true", help="look at everything, and push nothing")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where runs are kept (default: runs)")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--fan-out", choices=["folds"], help="one kernel for each fold of train_folds, two at a time")
    more.add_argument("--continue", dest="go_on", metavar="RUN", help="go on with a fan-out that was interrupted")
    more.add_argument("--resume", metavar="RUN", help="go on from what this run had trained when its time was up")
    options = parser.parse_args(arguments)
    if options.hours is not None and not 0 < options.hours <= MAX_HOURS:
        parser.error(f"--hours {options.hours:g}: Kaggle runs a session for more than 0 and at most 12 hours")
    changes = [options.owner, options.accelerator, options.hours, options.beside, options.dry_run]
    if options.go_on and any(changes):
        parser.error("--continue goes on as the fan-out was begun: leave all but --runs out")
    if (options.go_on or options.resume) and (options.preset or options.set or options.run):
        parser.error("--continue and --resume keep the settings of their run: leave --preset, --set and --run out")
    return options


def push(arguments=None, link=None) -> int:
    from scripts.fan_out import go_on, start

    options = parse_arguments(arguments)
    link = link or KaggleLink()
    options.runs = options.runs.resolve()
    if options.go_on:
        return go_on(link, run_folder(options.go_on, options.runs), options.name)
    plan = plan_run(link, options)
    if options.fan_out:
        return start(link, options, plan)
    built, metadata, content, record = prepare(options, plan)
    show_plan(options, plan, metadata, content)
    twin = settle_earlier(link, options.runs, record, options.beside)
    if twin:
        number, name = twin["version"], twin["run_id"]
        print(f"\nnothing was pushed: this very notebook is on Kaggle as version {number}, run {name}")
        print(f"next: python scripts/fetch.py {twin['run_id']} --wait")
        return 0
    record |= {"previous": preflight(link, options, metadata, content, record), "at": utc_now()}
    if options.dry_run:
        print("\nnothing was pushed (--dry-run)")
        return 0
    folder = options.runs / plan.run_id
    keep_pushed(folder, built, metadata, record)
    with alone(folder):
        try:
            send(link, folder, record, metadata, content)
        except KaggleError:
            if record["state"] == "sending":
                shutil.rmtree(folder)  # refused: there is no such run
            raise
    print(f"\npushed: version {record['version']}, {record['url']}")
    print(f"next: python scripts/fetch.py {record['run_id']} --wait")
    return 0


def show(label, text):
    print(f"  {label:<12} {text}", flush=True)


def show_plan(options, plan, metadata, content):
    show("kernel", f"{metadata['id']}, built from kernels/{options.name}.py, {len(content.encode()) / 1000:,.0f} kB")
    show("run", plan.run_id)
    given = [f"preset {plan.preset}"] if plan.preset else []
    given += [f"{key}={value}" for key, value in plan.settings.items()]
    show("settings", ", ".join(given) or "the kernel's own")
    if plan.resumed:
        show("resumes", f"{plan.resumed['run_id']}, version {plan.resumed['version']} of {plan.resumed['ref']}")
    internet, limit = ("on" if metadata["enable_internet"] else "off"), options.hours or MAX_HOURS
    show("machine", f"{metadata.get('machine_shape', 'CPU')}, internet {internet}, at most {limit:g} h")
    print("before the push", flush=True)


# --- what is to be pushed -------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """A run that is to be: its name, its settings, and what it mounts beside what the kernel's head says."""

    run_id: str
    owner: str
    preset: str | None
    settings: dict
    mounted: list[str] | None = None  # kernel sources, instead of those of the head
    resumed: dict | None = None  # push record of the run from which it goes on


def plan_run(link, options) -> Plan:
    """The run that the command line asks for.

    Raises:
        ConfigurationError, BuildError: settings that do not exist, or a run that cannot be mounted or resumed.
    """
    from scripts.run_local import LocalRunError, new_run_id, parse_settings, read_parameters

    try:
        settings = parse_settings(options.set)
    except LocalRunError as error:
        raise ConfigurationError(str(error)) from None
    plan = Plan("", options.owner or link.username(), options.preset, settings)
    if options.resume:
        resume_run(link, plan, run_folder(options.resume, options.runs), options.name)
    if options.run:
        mount_run(plan, run_folder(options.run, options.runs))
    built = build(options, plan)  # first without a run id: what a bad setting says comes at once
    plan.preset = plan.preset or read_parameters(built / f"{options.name}.ipynb").get("PRESET")
    if plan.preset:
        plan.settings = within_session(plan.settings, options.hours)
    plan.run_id = new_run_id(options.name, plan.preset)
    return plan


def within_session(settings, hours) -> dict:
    """The settings of a run in a session of so many hours; it ends by itself a tenth before, or half an hour."""
    return {LIMIT: 60 * hours - min(6 * hours, 30), **settings} if hours else settings


def mount_run(plan, folder):
    """Mounts the very version of the kernel that a run is; of a run whose folds were fanned out, one kernel a fold."""
    from scripts.fan_out import part_folders

    parts = part_folders(folder)
    records = [read_record(part, "push.json") for part in parts or [folder]]
    for record in records:
        if record.get("state") != "pushed":
            name = record.get("run_id", folder.name)
            raise ConfigurationError(f"--run {name}: was not pushed to Kaggle, so no kernel can mount it")
    plan.mounted = [f"{record['ref']}/{record['version']}" for record in records]
    if parts:
        plan.settings = {"train_folds": [record["fold"] for record in records], **plan.settings}


def resume_run(link, plan, folder, name):
    """Gives a plan the settings and the sources of an unfinished run, and its output beside them.

    Raises:
        ConfigurationError: there is nothing to go on from, or no way to mount it.
        CapacityError: the run still goes on.
    """
    from salt.config import preset
    from salt.resume import differing_settings

    record, pushed = read_record(folder, "push.json"), read_record(folder / "pushed", "kernel-metadata.json")

    def refuse(text, kind=ConfigurationError):
        raise kind(f"--resume {record.get('run_id', folder.name)}: {text}")

    if record.get("state") != "pushed":
        refuse("was not pushed to Kaggle, so no kernel can mount it")
    if record["kernel"] != name:
        refuse(f"is a run of {record['kernel']}, not of {name}")
    ref, version = record["ref"], record["version"]
    try:
        status = link.status(ref, version)
    except (NotFoundError, AccessError):
        refuse(f"{plan.owner} may not see {ref}, which belongs to {ref.partition('/')[0]}, and so cannot mount it")
    if status.active:
        refuse(f"is still {status.state}: wait until it ends", CapacityError)
    manifest = read_record(folder, "manifest.json") or remote_manifest(link, record)
    if manifest.get("finished", True):
        refuse("has reached its end; there is nothing left to train")
    had, has = manifest["config"], preset(record["preset"], **record["settings"])
    if other := differing_settings(has, had):
        changed = "; ".join(f"{name}={getattr(has, name)!r}, not {had.get(name)!r}" for name in other)
        refuse(f"salt/config.py makes other settings of it today: {changed}; a run goes on with those it had")
    others = [source for source in pushed["kernel_sources"] if re.sub(r"/\d+$", "", source) != ref]
    plan.mounted, plan.resumed = [*others, f"{ref}/{version}"], record
    if status.state != "COMPLETE":  # nobody says whether Kaggle mounts this; the notebook finds out at its start
        name = record["run_id"]
        show("note", f"{name} ended as {status.state}: if Kaggle does not mount it, the new run stops at once")
    plan.preset = record["preset"]
    plan.settings = {key: value for key, value in record["settings"].items() if key != LIMIT}  # of that session


def remote_manifest(link, record) -> dict:
    """The manifest of a run whose output is not here."""
    from scripts.fetch import bring_manifest, list_output

    with tempfile.TemporaryDirectory() as folder:
        return bring_manifest(link, list_output(link, record).files, pathlib.Path(folder), record)


def prepare(options, plan, fold=None) -> tuple[pathlib.Path, dict, str, dict]:
    """Builds a run's kernel, or that of one of its folds; returns (folder, metadata, notebook, push record)."""
    built = build(options, plan)
    metadata = prepare_metadata(built, options, plan, fold)
    content = (built / metadata["code_file"]).read_text(encoding="utf-8")
    if plan.run_id not in content:
        raise ConfigurationError(f'kernels/{options.name}.py has no line RUN_ID = "" in its settings cell')
    record = {
        "run_id": plan.run_id, "kernel": options.name, "ref": metadata["id"], "state": "sending", "version": None,
        "url": None, "at": utc_now(), "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "content": content_digest(content, plan.run_id, metadata), "preset": plan.preset, "settings": plan.settings,
        "machine": metadata.get("machine_shape", "CPU"), "hours": options.hours,
    }  # fmt: skip
    if plan.resumed:
        record |= {"resumed_from": plan.resumed["run_id"], "resumed_source": plan.mounted[-1]}
    return built, metadata, content, record


def build(options, plan) -> pathlib.Path:
    """Builds into BUILD/NAME/, where one can look at it, and returns that folder."""
    from build_kernel import build_report

    report = build_report(
        options.name, plan.settings, plan.run_id, plan.preset, plan.owner, "notebook", out=BUILD, root=ROOT,
        resume=plan.resumed["run_id"] if plan.resumed else "",
    )  # fmt: skip
    for warning in report.warnings if plan.run_id else []:
        show("note", warning)
    return pathlib.Path(report.path)


def content_digest(content, run_id, metadata) -> str:
    """The same for two pushes of the same notebook to the same machine, whatever their runs are called."""
    text = content.replace(run_id, "") + json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# --- metadata -------------------------------------------------------------------------------------------------------


def prepare_metadata(folder, options, plan, fold=None) -> dict:
    """The metadata of a build with what the command line changes in it, checked."""
    from build_kernel import slugify

    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    if options.accelerator is not None:
        shape = "" if options.accelerator.lower() in ("none", "cpu", "") else options.accelerator
        metadata.pop("machine_shape", None)
        metadata |= {"enable_gpu": shape.startswith("Nvidia"), "enable_tpu": shape.startswith("Tpu")}
        if shape:
            metadata["machine_shape"] = shape
    if plan.mounted is not None:
        metadata["kernel_sources"] = plan.mounted
    if fold is not None:
        metadata["title"] += f" fold {fold}"
        metadata["id"] = f"{plan.owner}/{slugify(metadata['title'])}"
    check_metadata(metadata, folder)
    return metadata


def check_metadata(metadata, folder):
    """Raises `ConfigurationError` for all that the client lets pass and Kaggle then takes for something else."""
    from build_kernel import ACCELERATORS, MAX_BYTES, NO_OWNER, RETIRED, slugify

    def refuse(text):
        raise ConfigurationError(f"kernel-metadata.json: {text}")

    for key, value in metadata.items():
        if key not in METADATA:
            refuse(f"unknown key {key!r}, which Kaggle would ignore; known are {', '.join(METADATA)}")
        if type(value) is not METADATA[key]:
            refuse(f"{key} = {value!r} is no {METADATA[key].__name__}")
        if isinstance(value, list) and not all(isinstance(part, str) for part in value):
            refuse(f"{key} = {value!r} is no list of strings")
    if absent := [key for key in METADATA if key not in metadata and key != "machine_shape"]:
        refuse(f"lacks {', '.join(absent)}")
    owner, _, slug = metadata["id"].partition("/")
    title, shape = metadata["title"], metadata.get("machine_shape", "")
    if owner == NO_OWNER or not slug or not re.fullmatch(r"[A-Za-z0-9][\w-]*", owner):
        refuse(f"id {metadata['id']!r} has no owner: give --owner")
    if slugify(title) != slug:
        refuse(f"title {title!r} becomes {slugify(title)!r} on Kaggle, not {slug!r}: the kernel would live elsewhere")
    if not (5 <= len(slug) <= 50 and 5 <= len(title) <= 50):
        refuse(f"title {title!r}: it and its slug need 5 to 50 characters")
    if shape in RETIRED:
        refuse(f"machine {shape!r} is retired: Kaggle would run something else in silence; use NvidiaTeslaT4")
    if shape and shape not in ACCELERATORS:
        refuse(f"machine {shape!r} is not known; use {', '.join(ACCELERATORS)}, or none for a CPU")
    if (metadata["enable_gpu"], metadata["enable_tpu"]) != (shape.startswith("Nvidia"), shape.startswith("Tpu")):
        refuse(f"enable_gpu and enable_tpu do not fit the machine {shape or 'CPU'!r}")
    if metadata["language"] != "python" or metadata["kernel_type"] != "notebook":
        refuse("language must be python, and kernel_type notebook")
    shapes = {"competition_sources": r"[^/]+", "dataset_sources": r"[^/]+/[^/]+(/\d+)?"}
    shapes |= {"kernel_sources": r"[^/]+/[^/]{5,}(/\d+)?", "model_sources": r"[^/]+(/[^/]+){3}/\d+"}
    for key, pattern in shapes.items():
        for source in metadata[key]:
            if not re.fullmatch(pattern, source) or re.match(r"(c|datasets|code|models)/|https?:", source):
                refuse(f"{key}: {source!r} is no name that Kaggle takes; see the head of the kernel")
    path = folder / metadata["code_file"]
    if not path.is_file():
        refuse(f"code_file {metadata['code_file']!r} is not there")
    if path.stat().st_size > MAX_BYTES:
        refuse(f"{path.name} has {path.stat().st_size:,} bytes, Kaggle takes {MAX_BYTES:,}")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if not notebook.get("metadata", {}).get("kernelspec", {}).get("name"):
        refuse(f"{path.name} has no kernelspec: its run would fail after 3 seconds")


# --- preflight ------------------------------------------------------------------------------------------------------


def preflight(link, options, metadata, content, record) -> int:
    """Asks Kaggle about all that the push depends on; returns the number of the kernel's newest version, 0 if none.

    Raises:
        QuotaError, CapacityError, ConfigurationError, ...: why it would fail.
    """
    for secret in link.credentials.secrets if link.credentials else []:
        if secret in content or secret in json.dumps(metadata):
            raise ConfigurationError("the notebook holds your Kaggle credentials; take them out of the source")
    show("metadata", f"title and id agree, {'private' if metadata['is_private'] else 'PUBLIC'}")
    account = link.username()
    show("credentials", f"{account}, from {link.credentials.source}")
    ref = metadata["id"]
    if ref.partition("/")[0] != account:
        show("", f"which is not {ref.partition('/')[0]}: Kaggle takes the push only if it may write there")
    previous = newest_version(link, ref)
    show("version", f"{previous + 1}, if nobody else pushes" if previous else "1, the first of this kernel")
    check_quota(link, metadata, options.hours)
    if not options.fan_out:  # which waits for a place
        check_running(link, options, metadata, previous)
    check_sources(link, metadata, record.get("resumed_source"))
    return previous


def newest_version(link, ref) -> int:
    try:
        return link.kernel(ref).version
    except (NotFoundError, AccessError):  # Kaggle says 403 as well where there is nothing
        return 0


def check_quota(link, metadata, hours):
    kind = "gpu" if metadata["enable_gpu"] else "tpu" if metadata["enable_tpu"] else None
    if kind is None:
        return show("quota", "not needed for a CPU")
    try:
        quota = link.quota(kind)
    except (UnreachableError, NotFoundError, ConfigurationError) as error:
        return show("quota", f"UNKNOWN ({error})")
    if quota is None:
        return show("quota", "UNKNOWN (Kaggle does not tell)")
    until = f", renewed {quota.refresh:%a %d %b %H:%M} UTC" if quota.refresh else ""
    if quota.left <= 0:
        raise QuotaError(f"the week's {quota.total:g} {kind.upper()} hours are used up{until}; or push with a CPU")
    show("quota", f"{quota.left:.1f} of {quota.total:.0f} {kind.upper()} hours left{until}")
    if hours and quota.left < hours:
        show("", f"less than the {hours:g} hours of this run: Kaggle may stop it early")
    return None


def check_running(link, options, metadata, previous):
    ref = metadata["id"]
    active = running(link, ref) if previous else None
    if active and not options.beside:
        raise CapacityError(
            f"{ref} version {previous} is {active}; a push would start another run beside it, from the same quota. "
            f"Wait (python scripts/fetch.py RUN --wait), stop it on https://www.kaggle.com/code/{ref}, or add --beside"
        )
    busy = gpu_sessions(link, options.runs, known={ref}) + ([ref] if active else [])
    if metadata["enable_gpu"] and len(busy) >= GPU_SESSIONS:
        raise CapacityError(f"{GPU_SESSIONS} GPU sessions run already ({', '.join(sorted(busy))}); wait until one ends")
    show("running", ", ".join(sorted(busy)) or "no GPU session of this account")


def gpu_sessions(link, runs, known=()) -> list[str]:
    """owner/slug of the kernels whose newest run holds a GPU now, without those that are `known` already.

    They are looked for among those that Kaggle lists as run last, and among the records in `runs`.
    """
    refs = {}
    with contextlib.suppress(UnreachableError, AccessError, NotFoundError, ConfigurationError):  # the records remain
        refs = dict.fromkeys(link.recent_kernels(RECENT))
    for folder, record in records(runs)[-RECENT:]:
        gpu = str(record.get("machine", "")).startswith("Nvidia")
        if gpu and record["state"] == "pushed" and not read_record(folder, "fetch.json"):
            refs[record["ref"]] = None
    return [ref for ref in refs if ref not in known and running(link, ref)]


def running(link, ref, version=None) -> str | None:
    """QUEUED, RUNNING, ... or None."""
    try:
        status = link.status(ref, version)
    except (NotFoundError, AccessError):
        return None
    return status.state if status.active else None


def check_sources(link, metadata, resumed):
    """Raises `ConfigurationError` for a source that cannot be mounted; of the run to be resumed, that is not known."""
    for slug in metadata["competition_sources"]:
        try:
            files = link.competition_files(slug)
        except NotFoundError as error:
            raise ConfigurationError(f"competition source {slug!r} does not exist: {error}") from None
        show("data", f"competition {slug}, {len(files)} file{'s' * (len(files) != 1)}")
    for source in metadata["dataset_sources"]:
        try:
            state = link.dataset_state(source)
        except (NotFoundError, AccessError) as error:
            raise ConfigurationError(f"dataset source {source!r}: {error}; upload_weights.py makes one") from None
        if state != "READY":
            raise ConfigurationError(f"dataset source {source!r} is {state}, not READY: it cannot be mounted yet")
        show("data", f"dataset {source}, ready")
    for source in metadata["kernel_sources"]:
        owner, slug, *version = source.split("/")
        number = int(version[0]) if version else None
        try:
            state = link.status(f"{owner}/{slug}", number).state
        except (NotFoundError, AccessError) as error:
            raise ConfigurationError(f"kernel source {source!r}: {error}; push and finish that kernel first") from None
        if state != "COMPLETE" and source != resumed:
            raise ConfigurationError(f"kernel source {source!r} is {state}: only a COMPLETE run has output to mount")
        show("data", f"output of {source}, {state}")
    for source in metadata["model_sources"]:
        link.find_model(source)
        show("data", f"model {source}")


# --- the push itself ------------------------------------------------------------------------------------------------


def keep_pushed(folder, built, metadata, record):
    """Makes the run's folder, in one step, with what is about to be pushed; from now on a kill loses nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        shutil.copytree(built, temporary / "pushed")
        write_record(temporary / "pushed", "kernel-metadata.json", metadata)
        write_record(temporary, "push.json", record)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def send(link, folder, record, metadata, content):
    """Pushes what `folder` keeps, whose record says "sending" already, and records what came of it.

    Raises:
        AmbiguousError: nobody knows whether Kaggle made a version; the record says so.
        ConfigurationError: the version runs without some of its sources; the record says "crippled".
        QuotaError, CapacityError, ...: no version was made; the record still says "sending".
    """
    try:
        saved = link.save_kernel(metadata, content, record["hours"])
    except AmbiguousError as error:
        print(f"\nno answer: {error}. Looking for it", flush=True)
        for pause in LOOKS:
            link.sleep(pause)
            with contextlib.suppress(UnreachableError, CredentialsError):
                if look_up(link, folder, record):
                    print(f"found: the push arrived, as version {record['version']}")
                    return
        record["state"] = "ambiguous"
        write_record(folder, "push.json", record)
        raise AmbiguousError(
            f"{record['run_id']}: Kaggle shows no such version yet, and may still make it. Do not repeat the push: "
            f"python scripts/fetch.py {record['run_id']} looks again, and so does the next push"
        ) from None
    accept(folder, record, saved.version, saved.url, saved.invalid)


def accept(folder, record, version, url, lacking):
    """Records the version that a push has made.

    Raises:
        ConfigurationError: it runs without some of its sources.
    """
    record |= {"state": "crippled" if lacking else "pushed", "version": version, "url": url}
    write_record(folder, "push.json", record)
    if lacking:
        raise ConfigurationError(
            f"{record['run_id']}: version {version} runs WITHOUT {', '.join(lacking)}, which Kaggle does not take: "
            f"stop it on {url}, correct the head of kernels/{record['kernel']}.py and push again"
        )


def look_up(link, folder, record) -> bool:
    """Whether Kaggle has the version whose notebook holds this run's id; if so, the record says so from now on.

    Raises:
        UnreachableError: Kaggle cannot be asked.
        ConfigurationError: it has, but without some of its sources.
    """
    ref = record["ref"]
    try:
        found = link.kernel(ref)
        for number in range(found.version, record.get("previous") or 0, -1):
            if number < found.version:
                found = link.kernel(ref, number)
            if record["run_id"] in found.source:
                metadata = read_record(folder / "pushed", "kernel-metadata.json")
                wanted = [source_name(kind, name) for kind in KINDS for name in metadata.get(f"{kind}_sources", [])]
                lacking = [name for name in wanted if name not in found.attached]
                accept(folder, record, number, f"https://www.kaggle.com/code/{ref}", lacking)
                return True
    except (NotFoundError, AccessError):
        return False
    return False


def records(runs) -> list[tuple[pathlib.Path, dict]]:
    """The folders under `runs` with a push record, those of fanned-out folds too, in order of time."""
    paths = [path for pattern in ("[!.]*/push.json", "[!.]*/parts/*/push.json") for path in runs.glob(pattern)]
    found = [(path.parent, read_record(path.parent, "push.json")) for path in paths]
    return sorted(found, key=lambda pair: pair[1].get("at", ""))


def settle_earlier(link, runs, record, beside) -> dict | None:
    """Looks up earlier pushes of this kernel whose fate is open.

    Returns:
        One that is the same as this and was found or, unless this may run `beside` it, still runs; else None.

    Raises:
        AmbiguousError: one was sent a moment ago and is not seen yet.
        UnreachableError: Kaggle cannot be asked.
    """
    twin = None
    for folder, earlier in records(runs):
        if earlier["ref"] != record["ref"]:
            continue
        same = earlier.get("content") == record["content"]
        if earlier["state"] not in ("sending", "ambiguous"):
            may_run = same and earlier["state"] == "pushed" and not (beside or read_record(folder, "fetch.json"))
            twin = earlier if may_run and running(link, earlier["ref"], earlier["version"]) else twin
        elif look_up(link, folder, earlier):
            show("earlier", f"{earlier['run_id']} did arrive, as version {earlier['version']}")
            twin = earlier if same else twin
        elif age(earlier) < SETTLED:
            raise AmbiguousError(
                f"{earlier['run_id']} was sent {age(earlier):.0f} s ago and its fate is open: try again in some minutes"
            )
        else:
            show("earlier", f"{earlier['run_id']} never arrived; its record is removed")
            shutil.rmtree(folder)
    return twin


def age(record) -> float:
    moment = datetime.datetime.fromisoformat(record["at"])
    return (datetime.datetime.now(datetime.UTC) - moment).total_seconds()


if __name__ == "__main__":
    sys.exit(main())
