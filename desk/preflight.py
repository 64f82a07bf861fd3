"""The questions before a push: would Kaggle take it, is there a place for it, and is all there that it mounts?

It starts nothing and writes nothing.
"""

import contextlib
import json
from collections.abc import Collection

from desk.errors import ConfigurationError
from desk.kaggle.competitions import competition_files
from desk.kaggle.datasets import dataset_state, find_model
from desk.kaggle.errors import AccessError, CapacityError, NotFoundError, QuotaError, UnreachableError
from desk.kaggle.kernels import read_kernel, read_quota, read_status, recent_kernels
from desk.kaggle.transport import KaggleLink
from desk.output import plural, show
from desk.planning import BuiltKernel, PushRequest
from desk.records import seconds_since
from desk.remote_output import run_status
from desk.runs import Run
from desk.secrets import own_secrets, refuse_secrets
from desk.sending import SETTLED

GPU_SESSIONS = 2  # at once, for an account
RECENT = 8  # kernels and records that are looked at for running sessions


def preflight(link: KaggleLink, request: PushRequest, built: BuiltKernel, earlier: list[Run]) -> int:
    """Asks Kaggle about all that the push depends on; returns the number of the kernel's newest version, 0 if none.

    Args:
        link: to Kaggle.
        request: for its hours, and whether it waits for a place, or runs beside another.
        built: what is to be pushed.
        earlier: the runs that were pushed from here.

    Raises:
        QuotaError, CapacityError, ConfigurationError, ...: why it would fail.
    """
    metadata, account = built.metadata, link.username
    refuse_secrets(
        {"the notebook": built.content, "its metadata": json.dumps(metadata)}, own_secrets(link.used_secrets)
    )
    rows = [
        ("metadata", f"title and id agree, {'private' if metadata['is_private'] else 'PUBLIC'}"),
        ("credentials", f"{account}, from {link.credentials.source}"),
    ]
    ref = metadata["id"]
    if ref.partition("/")[0] != account:
        rows.append(("", f"which is not {ref.partition('/')[0]}: Kaggle takes the push only if it may write there"))
    show(*rows)
    previous = newest_version(link, ref)
    show(("version", f"{previous + 1}, if nobody else pushes" if previous else "1, the first of this kernel"))
    check_quota(link, metadata, request.hours)
    if not request.fan_out:  # which waits for a place
        check_running(link, metadata, previous, request.beside, earlier)
    check_sources(link, metadata, built.record.resumed_source)
    return previous


def newest_version(link: KaggleLink, ref: str) -> int:
    """The number of a kernel's newest version; 0 if there is none."""
    try:
        return read_kernel(link, ref).version
    except (NotFoundError, AccessError):  # Kaggle says 403 as well where there is nothing
        return 0


def check_quota(link: KaggleLink, metadata: dict, hours: float | None) -> None:
    """Raises `QuotaError` if no hours are left of the machine; where Kaggle does not tell, the push may show it."""
    kind = "gpu" if metadata["enable_gpu"] else "tpu" if metadata["enable_tpu"] else None
    if kind is None:
        return show(("quota", "not needed for a CPU"))
    try:
        quota = read_quota(link, kind)
    except (UnreachableError, NotFoundError, ConfigurationError) as error:
        return show(("quota", f"UNKNOWN ({error})"))
    if quota is None:
        return show(("quota", "UNKNOWN (Kaggle does not tell)"))
    until = f", renewed {quota.refresh:%a %d %b %H:%M} UTC" if quota.refresh else ""
    if quota.left <= 0:
        raise QuotaError(f"the week's {quota.total:g} {kind.upper()} hours are used up{until}; or push with a CPU")
    rows = [("quota", f"{quota.left:.1f} of {quota.total:.0f} {kind.upper()} hours left{until}")]
    if hours and quota.left < hours:
        rows.append(("", f"less than the {hours:g} hours of this run: Kaggle may stop it early"))
    return show(*rows)


def check_running(link: KaggleLink, metadata: dict, previous: int, beside: bool, earlier: list[Run]) -> None:
    """Raises `CapacityError` if an earlier version of the kernel runs, or as many GPU sessions as there may be."""
    ref = metadata["id"]
    active = kernel_running(link, ref, previous, earlier)
    if active and not beside:
        raise CapacityError(
            f"{ref} {active}; a push would start another run beside it, from the same quota. "
            f"Wait (python scripts/fetch.py RUN --wait), stop it on https://www.kaggle.com/code/{ref}, or add --beside"
        )
    busy = gpu_sessions(link, earlier, known={ref}) + ([ref] if active else [])
    if metadata["enable_gpu"] and len(busy) >= GPU_SESSIONS:
        raise CapacityError(f"{GPU_SESSIONS} GPU sessions run already ({', '.join(sorted(busy))}); wait until one ends")
    show(("running", ", ".join(sorted(busy)) or "no GPU session of this account"))


def gpu_sessions(link: KaggleLink, runs: list[Run], known: Collection[str] = ()) -> list[str]:
    """owner/slug of the kernels whose newest run holds a GPU now, without those that are `known` already.

    They are looked for among those that Kaggle lists as run last, and among the last of `runs`.
    """
    refs: list[str] = []
    with contextlib.suppress(UnreachableError, AccessError, NotFoundError, ConfigurationError):  # the records remain
        refs = recent_kernels(link, RECENT)
    found = [ref for ref in refs if ref not in known and running(link, ref)]
    for run in runs[-RECENT:]:
        is_new = run.push.ref not in (*found, *known)
        if is_new and run.push.machine.startswith("Nvidia") and run_running(link, run):
            found.append(run.push.ref)
    return found


def running(link: KaggleLink, ref: str, version: int | None = None) -> str | None:
    """QUEUED, RUNNING, ... or None."""
    try:
        status = read_status(link, ref, version)
    except (NotFoundError, AccessError):
        return None
    return status.state if status.active else None


def run_running(link: KaggleLink, run: Run) -> str | None:
    """As `running`, of the version that a run is; one that is so new that Kaggle does not show it yet runs, too."""
    if not run.push.on_kaggle or run.was_fetched:
        return None
    try:
        status = run_status(link, run)
    except (NotFoundError, AccessError):
        passed = seconds_since(run.push.at, run.push.up)
        return "NOT SHOWN YET" if passed is not None and passed < SETTLED else None
    return status.state if status.active else None


def kernel_running(link: KaggleLink, ref: str, newest: int, earlier: list[Run]) -> str | None:
    """Such as "version 3 is RUNNING", of a kernel; None if none of its versions runs.

    Args:
        link: to Kaggle.
        ref: owner/slug of the kernel.
        newest: its newest version that Kaggle shows; 0: it shows none.
        earlier: the runs that were pushed from here, since Kaggle may not show their versions yet.
    """
    if newest and (state := running(link, ref)):
        return f"version {newest} is {state}"
    own = [run for run in earlier if ref in (run.push.ref, run.push.asked_ref)]
    for run in reversed(own[-RECENT:]):
        if state := run_running(link, run):
            return f"version {run.push.version} is {state}"
    return None


def check_sources(link: KaggleLink, metadata: dict, resumed: str | None) -> None:
    """Raises `ConfigurationError` for a source that cannot be mounted; of the run to be resumed, that is not known."""
    for slug in metadata["competition_sources"]:
        try:
            files = competition_files(link, slug)
        except NotFoundError as error:
            raise ConfigurationError(f"competition source {slug!r} does not exist: {error}") from None
        show(("data", f"competition {slug}, {plural(len(files), 'file')}"))
    for source in metadata["dataset_sources"]:
        try:
            state = dataset_state(link, source)
        except (NotFoundError, AccessError) as error:
            raise ConfigurationError(f"dataset source {source!r}: {error}; upload_weights.py makes one") from None
        if state != "READY":
            raise ConfigurationError(f"dataset source {source!r} is {state}, not READY: it cannot be mounted yet")
        show(("data", f"dataset {source}, ready"))
    for source in metadata["kernel_sources"]:
        owner, slug, *version = source.split("/")
        number = int(version[0]) if version else None
        try:
            state = read_status(link, f"{owner}/{slug}", number).state
        except (NotFoundError, AccessError) as error:
            raise ConfigurationError(f"kernel source {source!r}: {error}; push and finish that kernel first") from None
        if state != "COMPLETE" and source != resumed:
            raise ConfigurationError(f"kernel source {source!r} is {state}: only a COMPLETE run has output to mount")
        show(("data", f"output of {source}, {state}"))
    for source in metadata["model_sources"]:
        find_model(link, source)
        show(("data", f"model {source}"))
