"""A push to Kaggle: the questions before it, the one request, its record, and the search for it when no answer comes.

Nothing is pushed twice: push.json says "sending" before the request and what became of it afterwards, and one without
an answer is looked up. What is pushed is built and checked before (planning.py). It reads no command line, and waits
for no place on Kaggle; that is for push.py, and for the queue of folds (fan_out.py).
"""

import contextlib
import datetime
import json
import pathlib
import shutil
import tempfile

from scripts.kaggle_link import (
    KINDS,
    AccessError,
    AmbiguousError,
    CapacityError,
    ConfigurationError,
    CredentialsError,
    NotFoundError,
    QuotaError,
    UnreachableError,
    read_record,
    source_name,
    write_record,
)
from scripts.planning import show

LOOKS = (5.0, 15.0, 30.0)  # seconds before each look for a push without an answer
SETTLED = 600.0  # seconds after which a push that nobody sees has not happened
GPU_SESSIONS = 2  # at once, for an account
RECENT = 8  # kernels and records that are looked at for running sessions


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


# --- earlier pushes -------------------------------------------------------------------------------------------------


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
