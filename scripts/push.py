"""Builds a kernel and starts it on Kaggle, after a look at everything that would make the run fail or be refused.

    python scripts/push.py train --preset t4 --set epochs=100 --hours 9
    python scripts/push.py predict --run train-t4-20261122-131502-ab12
    python scripts/push.py train --dry-run

The run gets a name that stands in the notebook, and `runs/<run id>/` with what was pushed (`pushed/`) and `push.json`:
the kernel's version, the notebook's SHA-256, the settings. A push that Kaggle refuses leaves nothing. One whose answer
is lost is looked up, never repeated; if it cannot be found yet, the next push, or `fetch.py`, looks again.
"""
import argparse
import datetime
import hashlib
import json
import pathlib
import re
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.kaggle_link import (
    AccessError,
    AmbiguousError,
    CapacityError,
    ConfigurationError,
    KaggleLink,
    NotFoundError,
    QuotaError,
    UnreachableError,
    read_record,
    run_command,
    run_folder,
    utc_now,
    write_record,
)

BUILD = ROOT / "build"
LOOKS = (5.0, 15.0, 30.0)  # seconds before each look for a push without an answer
SETTLED = 600.0  # seconds after which a push that nobody sees has not happened
GPU_SESSIONS = 2  # at once, for an account
MAX_HOURS = 12.0
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
    options = parser.parse_args(arguments)
    if options.hours is not None and not 0 < options.hours <= MAX_HOURS:
        parser.error(f"--hours {options.hours:g}: Kaggle runs a session for more than 0 and at most 12 hours")
    return options


def push(arguments=None, link=None) -> int:
    from scripts.run_local import LocalRunError, new_run_id, parse_settings, read_parameters

    options = parse_arguments(arguments)
    try:
        settings = parse_settings(options.set)
    except LocalRunError as error:
        raise ConfigurationError(str(error)) from None
    link = link or KaggleLink()
    owner = options.owner or link.username()

    built = build(options, settings, owner, "")  # first without a run id: what a bad setting says comes at once
    parameters = read_parameters(built / f"{options.name}.ipynb")
    preset = options.preset or parameters.get("PRESET")
    run_id = new_run_id(options.name, preset)
    built = build(options, settings, owner, run_id)
    metadata = prepare_metadata(built, options)
    content = (built / metadata["code_file"]).read_text(encoding="utf-8")
    record = {
        "run_id": run_id, "kernel": options.name, "ref": metadata["id"], "state": "sending", "version": None,
        "url": None, "at": utc_now(), "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "content": content_digest(content, run_id, metadata), "preset": preset, "settings": settings,
        "machine": metadata.get("machine_shape", "CPU"), "hours": options.hours,
    }  # fmt: skip

    show("kernel", f"{metadata['id']}, built from kernels/{options.name}.py, {len(content.encode()) / 1000:,.0f} kB")
    show("run", run_id)
    given = [f"preset {preset}"] if preset else []
    show("settings", ", ".join(given + [f"{key}={value}" for key, value in settings.items()]) or "the kernel's own")
    internet, limit = ("on" if metadata["enable_internet"] else "off"), options.hours or MAX_HOURS
    show("machine", f"{record['machine']}, internet {internet}, at most {limit:g} h")
    print("before the push")
    twin = settle_earlier(link, options.runs, record)
    if twin:
        number, name = twin["version"], twin["run_id"]
        print(f"\nnothing was pushed: this very notebook is on Kaggle as version {number}, run {name}")
        print(f"next: python scripts/fetch.py {twin['run_id']} --wait")
        return 0
    record["previous"] = preflight(link, options, metadata, content, record)
    if options.dry_run:
        print("\nnothing was pushed (--dry-run)")
        return 0
    return send(link, options.runs / run_id, built, metadata, content, record)


def show(label, text):
    print(f"  {label:<12} {text}", flush=True)


def build(options, settings, owner, run_id) -> pathlib.Path:
    """Builds into BUILD/NAME/, where one can look at it, and returns that folder."""
    from build_kernel import build_report

    report = build_report(
        options.name, settings, run_id, options.preset, owner, "notebook", out=BUILD, root=ROOT
    )
    for warning in report.warnings if run_id else []:
        show("note", warning)
    return pathlib.Path(report.path)


def content_digest(content, run_id, metadata) -> str:
    """The same for two pushes of the same notebook to the same machine, whatever their runs are called."""
    text = content.replace(run_id, "") + json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# --- metadata -------------------------------------------------------------------------------------------------------


def prepare_metadata(folder, options) -> dict:
    """The metadata of a build with what the command line changes in it, checked."""
    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    if options.accelerator is not None:
        shape = "" if options.accelerator.lower() in ("none", "cpu", "") else options.accelerator
        metadata.pop("machine_shape", None)
        metadata |= {"enable_gpu": shape.startswith("Nvidia"), "enable_tpu": shape.startswith("Tpu")}
        if shape:
            metadata["machine_shape"] = shape
    if options.run:
        mount_run(metadata, run_folder(options.run, options.runs))
    check_metadata(metadata, folder)
    return metadata


def mount_run(metadata, folder):
    """Pins the kernel source of a run's kernel to the version that this run is."""
    record = read_record(folder, "push.json")
    if record.get("state") != "pushed":
        raise ConfigurationError(f"--run {folder.name}: was not pushed to Kaggle, so no kernel can mount it")
    ref = record["ref"]
    others = [source for source in metadata["kernel_sources"] if re.sub(r"/\d+$", "", source) != ref]
    metadata["kernel_sources"] = [*others, f"{ref}/{record['version']}"]


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
    if record["run_id"] not in content:
        raise ConfigurationError(f'kernels/{options.name}.py has no line RUN_ID = "" in its settings cell')
    for secret in link.credentials.secrets if link.credentials else []:
        if secret in content or secret in json.dumps(metadata):
            raise ConfigurationError("the notebook holds your Kaggle credentials; take them out of the source")
    show("metadata", f"title and id agree, {'private' if metadata['is_private'] else 'PUBLIC'}")
    account = link.username()
    show("credentials", f"{account}, from {link.credentials.source}")
    ref = metadata["id"]
    previous = newest_version(link, ref)
    show("version", f"{previous + 1}, if nobody else pushes" if previous else "1, the first of this kernel")
    check_quota(link, metadata, options.hours)
    check_running(link, options, metadata, previous)
    check_sources(link, metadata)
    return previous


def newest_version(link, ref) -> int:
    try:
        return link.kernel(ref)[0]
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
    busy = {ref} if active else set()
    for record in records(options.runs)[-8:]:
        gpu = str(record.get("machine", "")).startswith("Nvidia")
        if record.get("state") == "pushed" and gpu and record["ref"] not in busy | {ref}:
            fetched = read_record(options.runs / record["run_id"], "fetch.json").get("state")
            if fetched is None and running(link, record["ref"], record["version"]):
                busy.add(record["ref"])
    if metadata["enable_gpu"] and len(busy) >= GPU_SESSIONS:
        raise CapacityError(f"{GPU_SESSIONS} GPU sessions run already ({', '.join(sorted(busy))}); wait until one ends")
    show("running", f"{', '.join(sorted(busy))}" if busy else "nothing of this account that is recorded in runs/")


def running(link, ref, version=None) -> str | None:
    """QUEUED, RUNNING, ... or None."""
    try:
        status = link.status(ref, version)
    except (NotFoundError, AccessError):
        return None
    return status.state if status.active else None


def check_sources(link, metadata):
    for slug in metadata["competition_sources"]:
        try:
            files = link.competition_files(slug)
        except NotFoundError as error:
            raise ConfigurationError(f"competition source {slug!r} does not exist: {error}") from None
        show("data", f"competition {slug}, {len(files)} files")
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
        if state != "COMPLETE":
            raise ConfigurationError(f"kernel source {source!r} is {state}: only a COMPLETE run has output to mount")
        show("data", f"output of {source}, complete")
    for source in metadata["model_sources"]:
        link.find_model(source)
        show("data", f"model {source}")


# --- the push itself ------------------------------------------------------------------------------------------------


def send(link, folder, built, metadata, content, record) -> int:
    """Pushes, and records what came of it. From the first line on, a kill loses nothing: the record says "sending"."""
    keep_pushed(folder, built, metadata, record)
    try:
        saved = link.save_kernel(metadata, content, record["hours"])
    except AmbiguousError as error:
        print(f"\nno answer: {error}. Looking for it", flush=True)
        for pause in LOOKS:
            link.sleep(pause)
            if look_up(link, folder, record):
                print(f"found: the push arrived, as version {record['version']}")
                return finish(record)
        write_record(folder, "push.json", record | {"state": "ambiguous"})
        raise AmbiguousError(
            f"{record['run_id']}: Kaggle shows no such version yet, and may still make it. Do not repeat the push: "
            f"python scripts/fetch.py {record['run_id']} looks again, and so does the next push"
        ) from None
    except Exception:
        shutil.rmtree(folder)  # refused: there is no such run
        raise
    record |= {"state": "pushed", "version": saved.version, "url": saved.url}
    if saved.invalid:
        record["state"] = "crippled"
        write_record(folder, "push.json", record)
        raise ConfigurationError(
            f"version {saved.version} runs WITHOUT {', '.join(saved.invalid)}, which Kaggle does not take: stop it on "
            f"{saved.url}, correct the head of kernels/{record['kernel']}.py and push again"
        )
    write_record(folder, "push.json", record)
    return finish(record)


def keep_pushed(folder, built, metadata, record):
    """Makes the run's folder, in one step, with what is about to be pushed."""
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


def finish(record) -> int:
    print(f"\npushed: version {record['version']}, {record['url']}")
    print(f"next: python scripts/fetch.py {record['run_id']} --wait")
    return 0


def look_up(link, folder, record) -> bool:
    """Whether Kaggle has the version whose notebook holds this run's id; if so, the record says so from now on."""
    ref = record["ref"]
    try:
        newest, source = link.kernel(ref)
        for number in range(newest, record.get("previous") or 0, -1):
            if number < newest:
                source = link.kernel(ref, number)[1]
            if record["run_id"] in source:
                record |= {"state": "pushed", "version": number, "url": f"https://www.kaggle.com/code/{ref}"}
                write_record(folder, "push.json", record)
                return True
    except (NotFoundError, AccessError, UnreachableError):
        return False
    return False


def records(runs) -> list[dict]:
    """The push records under `runs`, in order of time."""
    found = [read_record(path.parent, "push.json") for path in pathlib.Path(runs).glob("*/push.json")]
    return sorted(found, key=lambda record: record.get("at", ""))


def settle_earlier(link, runs, record) -> dict | None:
    """Looks up earlier pushes of this kernel whose fate is open; returns one that is the same as this.

    Raises:
        AmbiguousError: one was sent a moment ago and is not seen yet.
    """
    twin = None
    for earlier in records(runs):
        if earlier["ref"] != record["ref"] or earlier["state"] not in ("sending", "ambiguous"):
            continue
        folder = pathlib.Path(runs) / earlier["run_id"]
        if look_up(link, folder, earlier):
            show("earlier", f"{earlier['run_id']} did arrive, as version {earlier['version']}")
            twin = earlier if earlier["content"] == record["content"] else twin
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
