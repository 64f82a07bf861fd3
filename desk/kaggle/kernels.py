"""Kernels on Kaggle: pushing one, its versions, how a run stands, what it has left, and the hours that it may use."""

import contextlib
import datetime
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kagglesdk.kernels.types.kernels_api_service import (
    ApiGetAcceleratorQuotaStatisticsRequest,
    ApiGetKernelRequest,
    ApiGetKernelSessionStatusRequest,
    ApiListKernelSessionOutputRequest,
    ApiListKernelsRequest,
    ApiSaveKernelRequest,
)
from kagglesdk.kernels.types.kernels_enums import KernelsListSortType, KernelsListViewType

from desk.errors import ConfigurationError, DeskError
from desk.kaggle.errors import AmbiguousError, CapacityError, QuotaError, ThrottledError
from desk.kaggle.transport import PAGE, UNREADABLE, KaggleLink

FLAGS = ("is_private", "enable_gpu", "enable_tpu", "enable_internet")  # of a kernel, as its metadata spell them
KINDS = ("competition", "dataset", "kernel", "model")  # of sources that a kernel mounts
LIVE_SECONDS = 2.0  # in which a running kernel's log so far has come


@dataclass(frozen=True)
class Quota:
    """Hours of an accelerator in the current week."""

    total: float
    left: float
    refresh: datetime.datetime | None


@dataclass(frozen=True)
class SavedKernel:
    """A version of a kernel that a push has made: `invalid` are the sources that it runs without.

    And `ref` is owner/slug where Kaggle has put it, which may be another than was asked for.
    """

    version: int
    url: str
    invalid: tuple[str, ...] = ()
    ref: str = ""


@dataclass(frozen=True)
class Kernel:
    """A version of a kernel, as Kaggle shows it; what it does not show is None.

    Attributes:
        version: its number.
        source: its text.
        attached: what it mounts, such as "competition tgs-salt-identification-challenge" or "dataset alice/weights".
        flags: {is_private, enable_gpu, enable_tpu, enable_internet: true or false}.
        machine: its accelerator, such as "NvidiaTeslaT4", when it ran last.
    """

    version: int
    source: str
    attached: frozenset[str] | None
    flags: dict[str, bool] = field(default_factory=dict)
    machine: str | None = None


@dataclass(frozen=True)
class Output:
    """What a run has left."""

    files: dict[str, str]  # {name: address}
    log: str
    seconds: float | None  # that its log covers


@dataclass(frozen=True)
class Status:
    """How a run stands."""

    state: str  # QUEUED, RUNNING, COMPLETE, ERROR, CANCEL_REQUESTED, CANCEL_ACKNOWLEDGED, NEW_SCRIPT
    message: str = ""

    @property
    def active(self) -> bool:
        """Whether it holds a session."""
        return self.state in ("QUEUED", "RUNNING", "CANCEL_REQUESTED", "NEW_SCRIPT")


def read_quota(link: KaggleLink, accelerator: str) -> Quota | None:
    """The hours of this week, of "gpu" or "tpu"; None if Kaggle does not tell."""
    method = link.client.kernels.kernels_api_client.get_accelerator_quota_statistics
    answer = link.ask("read the quota", method, ApiGetAcceleratorQuotaStatisticsRequest)
    found = answer.gpu_quota if accelerator == "gpu" else answer.tpu_quota
    if found is None or not found.total_time_allowed:
        return None
    used = found.time_used.total_seconds() if found.time_used else 0.0
    total = found.total_time_allowed.total_seconds()
    return Quota(total / 3600, max(total - used, 0.0) / 3600, answer.quota_refresh_time)


def save_kernel(
    link: KaggleLink, metadata: dict, source: str, hours: float | None = None, again: Callable[[], None] | None = None
) -> SavedKernel:
    """Pushes a kernel and starts it.

    Args:
        link: to Kaggle.
        metadata: what stands in kernel-metadata.json, checked.
        source: text of the code file.
        hours: after which Kaggle shall stop it.
        again: called before it is sent once more, since Kaggle asked to wait.

    Raises:
        QuotaError, CapacityError, ConfigurationError, ...: no version was made.
        AmbiguousError: perhaps one was made.
    """
    what = f"push {metadata['id']}"
    answer = link.ask(
        what, link.client.kernels.kernels_api_client.save_kernel, ApiSaveKernelRequest, command=True, again=again,
        slug=metadata["id"], new_title=metadata["title"], text=source,
        language=metadata["language"], kernel_type=metadata["kernel_type"], is_private=metadata["is_private"],
        enable_gpu=metadata["enable_gpu"], enable_tpu=metadata["enable_tpu"],
        enable_internet=metadata["enable_internet"], dataset_data_sources=metadata["dataset_sources"],
        competition_data_sources=metadata["competition_sources"], kernel_data_sources=metadata["kernel_sources"],
        model_data_sources=metadata["model_sources"], category_ids=metadata["keywords"],
        machine_shape=metadata.get("machine_shape"),
        session_timeout_seconds=round(hours * 3600) if hours else None,
    )  # fmt: skip
    if answer.error:
        raise push_refusal(what, link.scrub(answer.error))
    version = answer.version_number
    if version is None or version < 1:
        raise AmbiguousError(f"cannot {what}: the answer names the version {version!r}, which is none")
    invalid = [f"{kind} {name}" for kind in KINDS for name in getattr(answer, f"invalid_{kind}_sources") or []]
    ref = kernel_ref(answer.ref) or kernel_ref(answer.url) or metadata["id"]
    url = answer.url if answer.url.startswith("https://") and answer.url.isprintable() else kernel_url(ref)
    return SavedKernel(version, url, tuple(invalid), ref)


def kernel_ref(text: str | None) -> str | None:
    """owner/slug out of what Kaggle calls a kernel: that itself, /code/owner/slug or an address; else None."""
    found = re.fullmatch(r"(?:https?://[^/]+)?/?(?:code/|kernels/)?([\w.-]+/[\w-]+)(?:[?#].*)?", text or "")
    return found[1] if found else None


def kernel_url(ref: str) -> str:
    """The page of a kernel."""
    return f"https://www.kaggle.com/code/{ref}"


def push_refusal(what: str, said: str) -> DeskError:
    """The error for the text with which Kaggle, by a status of 200, refuses a push."""
    head = f"cannot {what}: Kaggle says {said!r}"

    def says(*phrases: str) -> bool:  # as whole words: a "quotation" is no quota
        return any(re.search(rf"\b{phrase}\b", said, re.IGNORECASE) for phrase in phrases)

    if says("quota"):
        return QuotaError(f"{head}; no version was made. The quota is renewed on Saturday, 00:00 UTC")
    if says("session count", "maximum batch", "concurrent"):
        return CapacityError(f"{head}; no version was made. Push again when a run of yours has finished")
    if says("too many", "rate limit", "try again"):
        return ThrottledError(f"{head}; no version was made")
    return ConfigurationError(f"{head}; no version was made")


def read_kernel(link: KaggleLink, ref: str, version: int | None = None) -> Kernel:
    """A kernel's newest version, or the one given."""
    method = link.client.kernels.kernels_api_client.get_kernel
    answer = link.ask(f"look at {ref}", method, ApiGetKernelRequest, **kernel_fields(ref, version))
    shown = answer.metadata
    if shown is None:
        return Kernel(version or 0, (answer.blob.source if answer.blob else "") or "", None)
    attached = [(kind, name) for kind in KINDS for name in getattr(shown, f"{kind}_data_sources") or []]
    flags = {name: getattr(shown, f"_{name}") for name in FLAGS}  # the property itself takes absent for false
    return Kernel(
        version or max(shown.current_version_number or 0, 0),
        (answer.blob.source if answer.blob else "") or "",
        frozenset(source_name(kind, name) for kind, name in attached),
        {name: value for name, value in flags.items() if value is not None},
        shown.machine_shape or None,
    )


def kernels_like(link: KaggleLink, ref: str, count: int = 20) -> list[str]:
    """This account's newest kernels under a slug that Kaggle makes of one that is taken: owner/slug-2 and such."""
    answer = link.ask(
        "list your kernels", link.client.kernels.kernels_api_client.list_kernels, ApiListKernelsRequest,
        group=KernelsListViewType.PROFILE, sort_by=KernelsListSortType.DATE_CREATED, page_size=count,
    )  # fmt: skip
    found = [kernel_ref(kernel.ref) or "" for kernel in answer.kernels or []]
    return [name for name in found if re.fullmatch(rf"{re.escape(ref)}-[0-9a-f]+", name, re.IGNORECASE)]


def recent_kernels(link: KaggleLink, count: int = 20) -> list[str]:
    """owner/slug of this account's kernels with a GPU that ran last, the newest first."""
    answer = link.ask(
        "list your kernels", link.client.kernels.kernels_api_client.list_kernels, ApiListKernelsRequest,
        group=KernelsListViewType.PROFILE, sort_by=KernelsListSortType.DATE_RUN, page_size=count,
    )  # fmt: skip
    return [kernel.ref for kernel in answer.kernels or [] if kernel.enable_gpu]


def read_status(link: KaggleLink, ref: str, version: int | None = None) -> Status:
    """The state of a kernel's newest run, or of the version given."""
    method, fields = link.client.kernels.kernels_api_client.get_kernel_session_status, kernel_fields(ref, version)
    answer = link.ask(f"read the status of {ref}", method, ApiGetKernelSessionStatusRequest, **fields)
    return Status(answer.status.name, link.scrub(answer.failure_message or ""))


def list_output(link: KaggleLink, ref: str, version: int | None = None) -> Output:
    """What a run has left, over all pages of the list."""
    method, fields = link.client.kernels.kernels_api_client.list_kernel_session_output, kernel_fields(ref, version)
    kind = ApiListKernelSessionOutputRequest
    files: dict[str, str] = {}
    log = ""
    for answer in link.ask_pages(f"list the output of {ref}", method, kind, page_size=PAGE, **fields):
        files.update((file.file_name, file.url) for file in answer.files or [])
        log = log or answer.log or ""
    return Output(files, log_text(log), log_seconds(log))


def live_log(link: KaggleLink, ref: str, version: int | None = None) -> str:
    """The log of a running kernel so far, as text.

    Kaggle streams it from its beginning, and then goes on as long as the run: what comes within two seconds is all
    that there is by now.
    """
    http = link.client.http_client()
    path = "/v1" if http._endpoint.startswith("https://api.") else "/api/v1"
    url = f"{http._endpoint}{path}/kernels/logs/stream/{ref}"
    parts: list[str] = []
    patience = min(LIVE_SECONDS, link.seconds)

    def read(parameters: dict | None) -> None:
        headers = {"Accept": "text/event-stream, */*", "Content-Type": None}
        with http._session.get(url, params=parameters, headers=headers, stream=True, timeout=patience) as answer:
            answer.raise_for_status()
            if "event-stream" not in answer.headers.get("Content-Type", ""):
                parts.append(log_text(answer.text))
                return
            for line in answer.iter_lines(decode_unicode=True):
                kind, _, data = (line or "").partition(":")
                if kind == "data":
                    if data.strip() == "END_OF_LOG":
                        return
                    parts.append(log_text(f"[{data}]"))

    label = {"versionLabel": f"v{version}"} if version else None
    with contextlib.suppress(DeskError):
        link.ask(f"read the log of {ref}", read, label, attempts=1, seconds=2 * patience)
    return "".join(parts)


def kernel_fields(ref: str, version: int | None) -> dict:
    """What a question about a kernel, or one version of it, must say."""
    owner, _, slug = ref.partition("/")
    return {"user_name": owner, "kernel_slug": slug, "version_label": f"v{version}" if version else None}


def source_name(kind: str, name: str) -> str:
    """Such as "dataset alice/weights", whether Kaggle writes datasets/Alice/Weights, alice/weights/3 or that."""
    parts = re.sub(r"^/?(c|competitions|datasets|code|models)/", "", name.lower()).split("/")
    length = {"competition": 1, "model": 4}.get(kind, 2)
    return f"{kind} {'/'.join(parts[:length])}"


def log_text(log: str) -> str:
    """A log's text; Kaggle gives a JSON array of {stream_name, time, data}, whose parts are no lines."""
    try:
        parts = json.loads(log)
    except UNREADABLE:
        return log
    if not isinstance(parts, list):
        return log
    return "".join(str(part.get("data", "")) if isinstance(part, dict) else str(part) for part in parts)


def log_seconds(log: str) -> float | None:
    """The time of a log's last part, in seconds from the start of its session."""
    with contextlib.suppress(*UNREADABLE):
        seconds = max(float(part["time"]) for part in json.loads(log))
        return seconds if 0 <= seconds < 1e9 else None
    return None
