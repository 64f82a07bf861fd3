"""The conversation with Kaggle: credentials, time limits, retries, and errors that say what to do next.

Every verb that needs Kaggle (push, fetch, submit, ...) goes through a `KaggleLink`. It calls Kaggle's own SDK in
process and trusts no politeness of it: each call has a time limit, a question is asked again, a command (push, submit)
is never repeated blindly, and what is known of its fate is in the type of the error. It decides nothing about runs.

The package `kaggle` itself is not imported: that alone would sign in over the network, without a time limit, and
print. The SDK below it is the same code that the command line client calls.
"""

import contextlib
import datetime
import json
import math
import os
import pathlib
import random
import re
import sys
import threading
import time
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CALL_SECONDS = 60.0  # of one call to the API; a push of 1 MB takes a few
STALL_SECONDS = 60.0  # without a byte, after which a transfer is given up
ATTEMPTS = 5  # for a question; a command is sent once
LONGEST_PAUSE = 300.0  # that a Retry-After is obeyed for
KINDS = ("competition", "dataset", "kernel", "model")  # of sources that a kernel mounts
PAGE = 200  # files a page, the most that Kaggle gives
CHUNK = 1 << 16  # bytes; what a cut takes away of a download is less than one
QUEUE = "queue.json"  # in the folder of a run whose folds were fanned out

TOKEN_PAGE = "https://www.kaggle.com/settings, Create New Token"


# --- errors ---------------------------------------------------------------------------------------------------------


class KaggleError(Exception):
    """Something that Kaggle, or the way to it, refused; the message says what to do next.

    Attributes:
        exit_status: of the command that ends with it. 1: something has to be changed; 75: the same may work later;
            3: nobody knows whether Kaggle did it.
        sent: whether Kaggle may have got the request.
        retry_after: the seconds that Kaggle asked to wait, or None.
    """

    exit_status = 1
    sent = True
    retry_after: float | None = None


class CredentialsError(KaggleError):
    """No credentials, or such that Kaggle does not take."""


class AccessError(KaggleError):
    """Kaggle knows who asks, and says no."""


class NotFoundError(KaggleError):
    """There is no such thing, or none that this account may see."""


class ConfigurationError(KaggleError):
    """The request is wrong, and will be wrong tomorrow."""


class QuotaError(KaggleError):
    """The week's accelerator hours, or the day's submissions, are used up."""

    exit_status = 75


class CapacityError(KaggleError):
    """As many sessions run as the account may have at once."""

    exit_status = 75


class UnreachableError(KaggleError):
    """No answer, or none that can be read."""

    exit_status = 75


class ThrottledError(UnreachableError):
    """Too many requests: no answer for now."""


class BusyError(KaggleError):
    """Another process at this desk works on the same run."""

    exit_status = 75


class AmbiguousError(KaggleError):
    """A command was sent, and whether Kaggle obeyed could not be found out."""

    exit_status = 3


class OutputError(KaggleError):
    """Files that are not what the run wrote: stale, foreign, cut short, or with a name that leads elsewhere."""


# --- credentials ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Credentials:
    """How to sign in: a user name with a key, or a token. The secret part is never shown."""

    source: str  # where it was found, for people
    username: str | None = None
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    refresh: bool = False  # a sign-in of `kaggle auth login`, whose token the SDK renews

    @property
    def secrets(self) -> list[str]:
        return [secret for secret in (self.key, self.token) if secret]


def find_credentials(environ=None, home=None) -> Credentials:
    """The first credentials on the ladder that Kaggle's own client climbs.

    `KAGGLE_API_TOKEN`; `~/.kaggle/access_token`; `KAGGLE_USERNAME` with `KAGGLE_KEY`; `kaggle.json` in
    `KAGGLE_CONFIG_DIR`, `~/.kaggle` or `~/.config/kaggle`; the sign-in of `kaggle auth login`.

    Raises:
        CredentialsError: there are none, or a file that holds something else.
    """
    environ = os.environ if environ is None else environ
    home = pathlib.Path.home() if home is None else pathlib.Path(home)
    if token := environ.get("KAGGLE_API_TOKEN"):
        if os.path.exists(token):
            return Credentials("the file in KAGGLE_API_TOKEN", token=read_text(token).strip())
        return Credentials("KAGGLE_API_TOKEN", token=token)
    for name in ("access_token", "access_token.txt"):
        if token := read_text(home / ".kaggle" / name).strip():
            return Credentials(f"~/.kaggle/{name}", token=token)
    username, key = environ.get("KAGGLE_USERNAME"), environ.get("KAGGLE_KEY")
    if username and key:
        return Credentials("KAGGLE_USERNAME and KAGGLE_KEY", username=username, key=key)
    folders = [environ.get("KAGGLE_CONFIG_DIR"), home / ".kaggle"]
    folders.append(pathlib.Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle")
    for folder in filter(None, folders):
        path = pathlib.Path(folder) / "kaggle.json"
        if path.is_file():
            found = read_object(path)
            if not all(isinstance(found.get(name), str) and found[name] for name in ("username", "key")):
                raise CredentialsError(f"{path} holds no username and key: make a new one at {TOKEN_PAGE}")
            shown = str(path).replace(str(home), "~", 1)
            return Credentials(shown, username=found["username"], key=found["key"])
    signed_in = home / ".kaggle" / "credentials.json"
    if found := read_object(signed_in):
        token = found.get("access_token") or found.get("refresh_token")
        return Credentials("kaggle auth login", username=found.get("username"), token=token, refresh=True)
    raise CredentialsError(
        f"no Kaggle credentials. Make a token at {TOKEN_PAGE}, and put kaggle.json into ~/.kaggle/ (chmod 600), or the "
        "token into KAGGLE_API_TOKEN"
    )


def read_text(path) -> str:
    """The text of a file; "" if there is none."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def read_object(path) -> dict:
    """The JSON object in a file; {} if there is none."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# --- what Kaggle says, as values ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quota:
    """Hours of an accelerator in the current week."""

    used: float
    total: float
    refresh: datetime.datetime | None

    @property
    def left(self) -> float:
        return max(self.total - self.used, 0.0)


@dataclass(frozen=True)
class SavedKernel:
    """The answer to a push that Kaggle took: `invalid` are the sources that the version runs without."""

    version: int
    url: str
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """A version of a kernel, as Kaggle shows it."""

    version: int
    source: str
    attached: frozenset[str]  # what it mounts: "competition tgs-salt-identification-challenge", "dataset alice/weights"


@dataclass(frozen=True)
class Output:
    """What a run has left."""

    files: dict[str, str]  # {name: address}
    log: str
    seconds: float | None  # that its log covers


@dataclass(frozen=True)
class Status:
    state: str  # QUEUED, RUNNING, COMPLETE, ERROR, CANCEL_REQUESTED, CANCEL_ACKNOWLEDGED, NEW_SCRIPT
    message: str = ""

    @property
    def active(self) -> bool:
        return self.state in ("QUEUED", "RUNNING", "CANCEL_REQUESTED", "NEW_SCRIPT")


@dataclass(frozen=True)
class Submission:
    ref: int
    state: str  # PENDING, COMPLETE, ERROR
    description: str
    public: float | None
    private: float | None
    error: str


# --- the link -------------------------------------------------------------------------------------------------------


class KaggleLink:
    """Calls to Kaggle as one account.

    Args:
        credentials: None: those that `find_credentials` finds, when they are first needed.
        seconds: limit of a call; of a transfer, how long it may stand still.
        attempts: for each question.
        clock, sleep, jitter: of time, for tests: seconds that only grow, a pause, a random number in [0, 1).
        say: gets a line for each thing that a person may want to know, such as a pause.
    """

    def __init__(
        self, credentials=None, *, seconds=CALL_SECONDS, attempts=ATTEMPTS, clock=time.monotonic, sleep=time.sleep,
        jitter=random.random, say=None,
    ):  # fmt: skip
        self.credentials = credentials
        self.seconds, self.attempts = seconds, attempts
        self.clock, self.sleep, self.jitter = clock, sleep, jitter
        self.say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._client = None
        self._username = None

    # the SDK's client

    @property
    def client(self):
        """The SDK's client, signed in, each request of it with a time limit."""
        if self._client is None:
            self.credentials = self.credentials or find_credentials()
            from kagglesdk import KaggleClient

            agreed = self.credentials
            try:
                client = KaggleClient(username=agreed.username, password=agreed.key, api_token=agreed.token)
            except Exception as error:  # an unknown KAGGLE_API_ENVIRONMENT, as a plain Exception
                raise ConfigurationError(self.scrub(str(error))) from None
            limit_requests(client, self.seconds)
            if agreed.refresh:
                self.renew(client)
            self._client = client
        return self._client

    def renew(self, client):
        """Gives the client a fresh token of a sign-in by `kaggle auth login`."""
        from kagglesdk.kaggle_creds import KaggleCredentials

        signed_in = KaggleCredentials.load(client)
        if signed_in is None:
            raise CredentialsError("the sign-in of kaggle auth login is damaged: run `kaggle auth login` again")
        found = read_object(pathlib.Path.home() / ".kaggle" / "credentials.json")
        # The SDK takes a token for good until half an hour after its end.
        with contextlib.suppress(ValueError, TypeError):
            end = datetime.datetime.fromisoformat(found["access_token_expiration"])
            if found.get("access_token") and end > datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5):
                return
        try:
            within(self.seconds, signed_in.refresh_access_token)
        except Exception as error:
            failure = self.translate(error, "sign in")
            raise CredentialsError(f"{failure}; or run `kaggle auth login` again") from None
        token = read_object(pathlib.Path.home() / ".kaggle" / "credentials.json").get("access_token")
        self.credentials = Credentials("kaggle auth login", username=signed_in.get_username(), token=token)
        client.http_client()._session.auth = type(client.http_client()).BearerAuth(token)

    def username(self) -> str:
        """The account's name.

        Raises:
            CredentialsError: a token that Kaggle does not take.
        """
        if self._username is None:
            client = self.client
            self._username = self.credentials.username
            if not self._username:
                from kagglesdk.security.types.oauth_service import IntrospectTokenRequest

                request = make(IntrospectTokenRequest, token=self.credentials.token)
                answer = self.ask("sign in", client.security.oauth_client.introspect_token, request)
                if not answer.active or not answer.username:
                    raise CredentialsError(
                        f"Kaggle does not take the token from {self.credentials.source}: make a new one at {TOKEN_PAGE}"
                    )
                self._username = answer.username
        return self._username

    # how a call is made

    def ask(self, what, method, request):
        """The answer to a question, asked up to `attempts` times.

        Args:
            what: the question for people, such as "read the status of alice/salt-train".
            method: of the SDK's client.
            request: its argument.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return self.once(what, method, request)
            except UnreachableError as error:
                if attempt == self.attempts:
                    raise
                self.pause(error, attempt)

    def command(self, what, method, request):
        """The answer to a command. It is sent again only if Kaggle surely did not get it, or said so (429).

        Raises:
            AmbiguousError: it was sent and there is no readable answer.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return self.once(what, method, request)
            except UnreachableError as error:
                unsent = isinstance(error, ThrottledError) or not error.sent
                if not unsent:
                    raise AmbiguousError(f"{error}; Kaggle may have done it all the same") from None
                if attempt == self.attempts or (error.retry_after or 0) > LONGEST_PAUSE:
                    raise
                self.pause(error, attempt)

    def once(self, what, method, request):
        try:
            return within(2 * self.seconds, lambda: method(request))
        except Exception as error:
            raise self.translate(error, what) from None

    def pause(self, error, attempt):
        seconds = error.retry_after
        if seconds is None:
            seconds = min(2.0**attempt, 60.0) * (0.5 + self.jitter())
        seconds = min(seconds, LONGEST_PAUSE)
        self.say(f"{error}; again in {seconds:.0f} s ({attempt} of {self.attempts - 1})")
        self.sleep(seconds)

    def scrub(self, text: str) -> str:
        """The text without secrets: ours, and the signatures in addresses of files."""
        for secret in self.credentials.secrets if self.credentials else []:
            text = text.replace(secret, "***")
        text = re.sub(r"(?i)\b(basic|bearer) [\w.~+/=-]{4,}", r"\1 ***", text)
        return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")]+", r"\1?***", text)

    def translate(self, error, what) -> KaggleError:
        """A failure of the SDK as an error of ours."""
        if isinstance(error, KaggleError):
            return error
        import requests

        if isinstance(error, TimeLimit | requests.exceptions.Timeout):
            failure = UnreachableError(f"cannot {what}: no answer within {self.seconds:g} s")
            failure.sent = not isinstance(error, requests.exceptions.ConnectTimeout)
            return failure
        response = getattr(error, "response", None)
        if isinstance(error, requests.exceptions.HTTPError) and response is not None:
            return self.refusal(what, response, str(error))
        if isinstance(error, ValueError | KeyError | TypeError):  # no JSON, or not what the SDK knows
            shown = self.scrub(f"{type(error).__name__}: {error}")
            return UnreachableError(f"cannot {what}: the answer cannot be read ({shown})")
        if isinstance(error, requests.exceptions.RequestException | OSError):
            failure = UnreachableError(f"cannot {what}: {self.scrub(short_reason(error))}")
            failure.sent = not never_sent(error)
            return failure
        return KaggleError(self.scrub(f"cannot {what}: {type(error).__name__}: {error}"))

    def refusal(self, what, response, text) -> KaggleError:
        """The error for an answer with a status of 400 or more."""
        code = response.status_code
        is_json = "application/json" in response.headers.get("Content-Type", "")
        if is_json:
            with contextlib.suppress(ValueError, AttributeError, TypeError):
                code = int(response.json().get("code", code))
        said = self.scrub(text if is_json else (response.reason or "no reason")).strip().rstrip(".")
        head = f"cannot {what}: {said} (HTTP {code})"
        if code == 401:
            return CredentialsError(f"{head}; make a new token at {TOKEN_PAGE}")
        if code == 403:
            remedy = "check owner and slug, accept the competition's rules, verify your phone number"
            return AccessError(f"{head}; {remedy}")
        if code == 404:
            return NotFoundError(head)
        if code == 429:
            failure = ThrottledError(f"cannot {what}: Kaggle asks to slow down (HTTP 429)")
            failure.retry_after = retry_after(response.headers.get("Retry-After"))
            return failure
        if code >= 500 or code == 408:
            return UnreachableError(head)
        return ConfigurationError(head)

    # kernels

    def quota(self, accelerator) -> Quota | None:
        """The hours of this week, of "gpu" or "tpu"; None if Kaggle does not tell."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetAcceleratorQuotaStatisticsRequest

        method = self.client.kernels.kernels_api_client.get_accelerator_quota_statistics
        answer = self.ask("read the quota", method, ApiGetAcceleratorQuotaStatisticsRequest())
        found = answer.gpu_quota if accelerator == "gpu" else answer.tpu_quota
        if found is None or not found.total_time_allowed:
            return None
        used = found.time_used.total_seconds() if found.time_used else 0.0
        return Quota(used / 3600, found.total_time_allowed.total_seconds() / 3600, answer.quota_refresh_time)

    def save_kernel(self, metadata, source, hours=None) -> SavedKernel:
        """Pushes a kernel and starts it.

        Args:
            metadata: what stands in kernel-metadata.json, checked.
            source: text of the code file.
            hours: after which Kaggle shall stop it.

        Raises:
            QuotaError, CapacityError, ConfigurationError, ...: no version was made.
            AmbiguousError: perhaps one was made.
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest

        request = make(
            ApiSaveKernelRequest, slug=metadata["id"], new_title=metadata["title"], text=source,
            language=metadata["language"], kernel_type=metadata["kernel_type"], is_private=metadata["is_private"],
            enable_gpu=metadata["enable_gpu"], enable_tpu=metadata["enable_tpu"],
            enable_internet=metadata["enable_internet"], dataset_data_sources=metadata["dataset_sources"],
            competition_data_sources=metadata["competition_sources"], kernel_data_sources=metadata["kernel_sources"],
            model_data_sources=metadata["model_sources"], category_ids=metadata["keywords"],
            machine_shape=metadata.get("machine_shape"),
            session_timeout_seconds=round(hours * 3600) if hours else None,
        )  # fmt: skip
        what = f"push {metadata['id']}"
        answer = self.command(what, self.client.kernels.kernels_api_client.save_kernel, request)
        if answer.error:
            raise push_refusal(what, self.scrub(answer.error))
        invalid = [f"{kind} {name}" for kind in KINDS for name in getattr(answer, f"invalid_{kind}_sources") or []]
        if not answer.version_number:
            raise AmbiguousError(f"cannot {what}: the answer names no version")
        return SavedKernel(answer.version_number, answer.url, tuple(invalid))

    def kernel(self, ref, version=None) -> Kernel:
        """A kernel's newest version, or the one given."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = kernel_request(ApiGetKernelRequest, ref, version)
        answer = self.ask(f"look at {ref}", self.client.kernels.kernels_api_client.get_kernel, request)
        shown = answer.metadata
        attached = [(kind, name) for kind in KINDS for name in getattr(shown, f"{kind}_data_sources", None) or []]
        return Kernel(
            version or (shown.current_version_number if shown else 0),
            (answer.blob.source if answer.blob else "") or "",
            frozenset(source_name(kind, name) for kind, name in attached),
        )

    def recent_kernels(self, count=20) -> list[str]:
        """owner/slug of this account's kernels with a GPU that ran last, the newest first."""
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelsRequest
        from kagglesdk.kernels.types.kernels_enums import KernelsListSortType, KernelsListViewType

        request = make(
            ApiListKernelsRequest, group=KernelsListViewType.PROFILE, sort_by=KernelsListSortType.DATE_RUN,
            page_size=count,
        )  # fmt: skip
        answer = self.ask("list your kernels", self.client.kernels.kernels_api_client.list_kernels, request)
        return [kernel.ref for kernel in answer.kernels or [] if kernel.enable_gpu]

    def status(self, ref, version=None) -> Status:
        """The state of a kernel's newest run, or of the version given."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        request = kernel_request(ApiGetKernelSessionStatusRequest, ref, version)
        method = self.client.kernels.kernels_api_client.get_kernel_session_status
        answer = self.ask(f"read the status of {ref}", method, request)
        return Status(answer.status.name, self.scrub(answer.failure_message or ""))

    def outputs(self, ref, version=None) -> Output:
        """What a run has left, over all pages of the list."""
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        files, log, page, seen = {}, "", "", set()
        while True:
            request = kernel_request(ApiListKernelSessionOutputRequest, ref, version)
            request.page_size, request.page_token = PAGE, page
            method = self.client.kernels.kernels_api_client.list_kernel_session_output
            answer = self.ask(f"list the output of {ref}", method, request)
            files.update((file.file_name, file.url) for file in answer.files or [])
            log = log or answer.log or ""
            page = answer.next_page_token or ""
            if not page or page in seen:
                return Output(files, log_text(log), log_seconds(log))
            seen.add(page)

    def live_log(self, ref, version=None) -> str:
        """The log of a running kernel so far, as text.

        Kaggle streams it from its beginning, and then goes on as long as the run: what comes within two seconds is all
        that there is by now.
        """
        http = self.client.http_client()
        http._init_session()
        path = "/v1" if http._endpoint.startswith("https://api.") else "/api/v1"
        url = f"{http._endpoint}{path}/kernels/logs/stream/{ref}"
        parts, patience = [], min(2.0, self.seconds)

        def read():
            parameters = {"versionLabel": f"v{version}"} if version else None
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

        import requests

        with contextlib.suppress(TimeLimit, requests.exceptions.RequestException):
            within(2 * patience, read)
        return "".join(parts)

    # datasets, competitions, models: are they there?

    def competition_files(self, slug) -> dict[str, int]:
        """{name: bytes} of a competition's files.

        Raises:
            AccessError: its rules are not accepted yet.
        """
        from kagglesdk.competitions.types.competition_api_service import ApiListDataFilesRequest

        files, page = {}, ""
        while True:
            request = make(ApiListDataFilesRequest, competition_name=slug, page_size=PAGE, page_token=page)
            method = self.client.competitions.competition_api_client.list_data_files
            try:
                answer = self.ask(f"list the files of {slug}", method, request)
            except AccessError as error:
                rules = f"https://www.kaggle.com/competitions/{slug}/rules"
                raise AccessError(f"Kaggle keeps the files of {slug} back: accept its rules once at {rules}") from error
            files.update((file.name, file.total_bytes) for file in answer.files or [])
            if not answer.next_page_token or answer.next_page_token == page:
                return files
            page = answer.next_page_token

    def competition_file(self, slug, name):
        """The answer to a request for one file, opened: its `url` can be read in parts. Close it."""
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFileRequest

        request = make(ApiDownloadDataFileRequest, competition_name=slug, file_name=name)
        return self.ask(f"get {name}", self.client.competitions.competition_api_client.download_data_file, request)

    def dataset_state(self, ref) -> str:
        """READY, FAILED or a step on the way there.

        Raises:
            NotFoundError, AccessError: no such dataset.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest

        owner, _, slug = ref.partition("/")
        request = make(ApiGetDatasetStatusRequest, owner_slug=owner, dataset_slug=slug.partition("/")[0])
        method = self.client.datasets.dataset_api_client.get_dataset_status
        return self.ask(f"look at the dataset {ref}", method, request).status.name

    def dataset_files(self, ref) -> dict[str, int]:
        """{name: bytes} of the files of a dataset's newest version."""
        from kagglesdk.datasets.types.dataset_api_service import ApiListDatasetFilesRequest

        owner, _, slug = ref.partition("/")
        files, page = {}, ""
        while True:
            request = make(
                ApiListDatasetFilesRequest, owner_slug=owner, dataset_slug=slug, page_size=PAGE, page_token=page
            )
            method = self.client.datasets.dataset_api_client.list_dataset_files
            answer = self.ask(f"list the files of {ref}", method, request)
            files.update((file.name, file.total_bytes) for file in answer.dataset_files or [])
            if not answer.next_page_token or answer.next_page_token == page:
                return files
            page = answer.next_page_token

    def find_model(self, source):
        """Raises `NotFoundError` or `AccessError` unless owner/model/framework/variation/version is there."""
        from kagglesdk.models.types.model_api_service import ApiGetModelInstanceRequest
        from kagglesdk.models.types.model_enums import ModelFramework

        owner, model, framework, variation, version = source.split("/")
        wanted = "MODELFRAMEWORK" + re.sub(r"\W|_", "", framework).upper()
        kind = next((kind for kind in ModelFramework if kind.name.replace("_", "") == wanted), None)
        if kind is None:
            raise ConfigurationError(f"model source {source}: Kaggle knows no framework {framework!r}")
        request = make(
            ApiGetModelInstanceRequest, owner_slug=owner, model_slug=model, framework=kind, instance_slug=variation
        )
        found = self.ask(f"look at the model {source}", self.client.models.model_api_client.get_model_instance, request)
        if found.version_number and int(version) > found.version_number:
            raise NotFoundError(f"model source {source}: its newest version is {found.version_number}")

    # transfers

    def download(self, url, path, headers=None, offset=0):
        """Writes what is at an address into a file; nothing but a whole body with a good status is taken.

        Args:
            url: signed by Kaggle; no credentials are sent.
            path: where to; written in place, so give a temporary name.
            headers: more of the request.
            offset: bytes that are there already, to go on from.

        Raises:
            UnreachableError: an error page, a cut, or no byte for `seconds`.
        """
        import requests

        what = f"download {pathlib.Path(path).name.removesuffix('.part')}"
        try:
            with requests.get(url, headers=headers, stream=True, timeout=(self.seconds, self.seconds)) as answer:
                answer.raise_for_status()
                grows = answer.status_code == 206 and offset
                expected = answer.headers.get("Content-Length")
                length = 0
                with open(path, "ab" if grows else "wb") as file:
                    for block in answer.iter_content(CHUNK):
                        length += len(block)
                        file.write(block)
                if expected is not None and not answer.headers.get("Content-Encoding") and length != int(expected):
                    raise UnreachableError(f"cannot {what}: {length:,} of {int(expected):,} bytes came")
        except requests.exceptions.RequestException as error:
            raise UnreachableError(str(self.translate(error, what))) from None

    def upload(self, path, create_url, progress=None):
        """Sends a file's bytes to the address that Kaggle gave for it.

        Raises:
            UnreachableError: it did not arrive. Nothing has come of it yet, so it can be sent again.
        """
        import requests

        path, what = pathlib.Path(path), f"upload {pathlib.Path(path).name}"
        for attempt in range(1, self.attempts + 1):
            try:
                with open(path, "rb") as file:
                    body = CountedFile(file, progress) if path.stat().st_size else b""
                    answer = requests.put(create_url, data=body, timeout=(self.seconds, max(self.seconds, 1)))
                answer.raise_for_status()
                return
            except requests.exceptions.RequestException as error:
                failure = self.translate(error, what)
                if attempt == self.attempts or not isinstance(failure, UnreachableError):
                    raise UnreachableError(f"{failure}; nothing was submitted or published") from None
                self.pause(failure, attempt)

    def upload_blob(self, path, progress=None) -> str:
        """Uploads a file for a dataset; returns the token that stands for it."""
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest

        path = pathlib.Path(path)
        request = make(
            ApiStartBlobUploadRequest, type=ApiBlobType.DATASET, name=path.name, content_length=path.stat().st_size,
            last_modified_epoch_seconds=int(path.stat().st_mtime),
        )  # fmt: skip
        answer = self.ask(f"upload {path.name}", self.client.blobs.blob_api_client.start_blob_upload, request)
        self.upload(path, answer.create_url, progress)
        return answer.token

    def save_dataset(self, ref, title, tokens, notes, new, private=True) -> str:
        """Makes a dataset, or a new version of one, of uploaded files; returns its address."""
        from kagglesdk.datasets.types import dataset_api_service as types

        owner, _, slug = ref.partition("/")
        files = [make(types.ApiDatasetNewFile, token=token) for token in tokens]
        client, what = self.client.datasets.dataset_api_client, f"save the dataset {ref}"
        if new:
            request = make(
                types.ApiCreateDatasetRequest, owner_slug=owner, slug=slug, title=title, license_name="other",
                is_private=private, files=files,
            )  # fmt: skip
            answer = self.command(what, client.create_dataset, request)
        else:
            body = make(types.ApiCreateDatasetVersionRequestBody, version_notes=notes, files=files)
            request = make(types.ApiCreateDatasetVersionRequest, owner_slug=owner, dataset_slug=slug, body=body)
            answer = self.command(what, client.create_dataset_version, request)
        if answer.error:
            raise ConfigurationError(f"cannot {what}: {self.scrub(answer.error)}")
        return answer.url or f"https://www.kaggle.com/datasets/{ref}"

    # submissions

    def submissions_left(self, slug) -> int | None:
        """How many submissions the competition takes today; None if Kaggle does not tell."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionLimitsRequest

        method = self.client.competitions.competition_api_client.get_submission_limits
        try:
            request = make(ApiGetSubmissionLimitsRequest, competition_name=slug)
            return self.ask("read the submission limits", method, request).num_allowed_now
        except (UnreachableError, NotFoundError, ConfigurationError):
            return None

    def upload_submission(self, slug, path) -> str:
        """Uploads a submission's file; returns the token that stands for it. Nothing is submitted yet."""
        from kagglesdk.competitions.types.competition_api_service import ApiStartSubmissionUploadRequest

        path = pathlib.Path(path)
        request = make(
            ApiStartSubmissionUploadRequest, competition_name=slug, file_name=path.name,
            content_length=path.stat().st_size, last_modified_epoch_seconds=int(path.stat().st_mtime),
        )  # fmt: skip
        method = self.client.competitions.competition_api_client.start_submission_upload
        answer = self.ask("start the upload", method, request)
        self.upload(path, answer.create_url)
        return answer.token

    def submit(self, slug, token, message) -> tuple[int, str]:
        """Submits an uploaded file; returns (number of the submission, what Kaggle says).

        Raises:
            QuotaError, ConfigurationError, ...: it was not submitted.
            AmbiguousError: perhaps it was.
        """
        from kagglesdk.competitions.types.competition_api_service import ApiCreateSubmissionRequest

        request = make(
            ApiCreateSubmissionRequest, competition_name=slug, blob_file_tokens=token, submission_description=message
        )
        method = self.client.competitions.competition_api_client.create_submission
        try:
            answer = self.command(f"submit to {slug}", method, request)
        except (ConfigurationError, AccessError) as error:
            if re.search(r"(?i)limit|maximum|allowed .*today|remaining", str(error)):
                raise QuotaError(f"{error}; the count starts anew at 00:00 UTC") from None
            raise
        said = self.scrub(answer.message or "")
        if not answer.ref and "success" not in said.lower():
            raise ConfigurationError(f"cannot submit to {slug}: Kaggle says {said or 'nothing'!r}")
        return answer.ref, said

    def submission(self, ref) -> Submission:
        from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

        request = make(ApiGetSubmissionRequest, ref=ref)
        method = self.client.competitions.competition_api_client.get_submission
        return as_submission(self.ask(f"look at submission {ref}", method, request))

    def submissions(self, slug) -> list[Submission]:
        """This account's submissions to a competition, over all pages, the newest first."""
        from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

        found, page = [], ""
        while True:
            request = make(ApiListSubmissionsRequest, competition_name=slug, page_size=100, page_token=page)
            method = self.client.competitions.competition_api_client.list_submissions
            answer = self.ask(f"list the submissions to {slug}", method, request)
            found += [as_submission(one) for one in answer.submissions or []]
            if not answer.next_page_token or answer.next_page_token == page:
                return found
            page = answer.next_page_token


# --- parts of it ----------------------------------------------------------------------------------------------------


class TimeLimit(Exception):
    """A call that took longer than it may."""


def within(seconds, function):
    """`function()`, or `TimeLimit` after so many seconds; what it does then goes on in the background, unheard.

    The SDK has no time limits. Those of sockets stop a silent server, not one that sends a byte now and then.
    """
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeLimit
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def limit_requests(client, seconds):
    """Gives every request of the SDK's client a time limit, so that an abandoned one ends some day."""
    from requests.adapters import HTTPAdapter

    class LimitedAdapter(HTTPAdapter):
        def send(self, request, timeout=None, **options):
            return super().send(request, timeout=timeout or (seconds, seconds), **options)

    http = client.http_client()
    http._init_session()
    for scheme in ("https://", "http://"):
        http._session.mount(scheme, LimitedAdapter())


def make(kind, **fields):
    """A request object of the SDK with these fields; None and [] stay what the SDK makes of them."""
    request = kind()
    for name, value in fields.items():
        if value is not None:
            setattr(request, name, value)
    return request


def kernel_request(kind, ref, version):
    owner, _, slug = ref.partition("/")
    return make(kind, user_name=owner, kernel_slug=slug, version_label=f"v{version}" if version else None)


def source_name(kind, name) -> str:
    """Such as "dataset alice/weights", whether Kaggle writes datasets/alice/weights, alice/weights/3 or that."""
    parts = re.sub(r"^(c|competitions|datasets|code|models)/", "", name).split("/")
    length = {"competition": 1, "model": 4}.get(kind, 2)
    return f"{kind} {'/'.join(parts[:length])}"


def never_sent(error) -> bool:
    """Whether a failed request cannot have reached Kaggle: no connection was made."""
    from urllib3 import exceptions as urllib3_errors

    while error is not None:
        if isinstance(error, urllib3_errors.NewConnectionError | urllib3_errors.ConnectTimeoutError):
            return True
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
        error = inner if isinstance(inner, Exception) and inner is not error else None
    return False


def short_reason(error) -> str:
    """The innermost reason of a failed request, without the layers around it."""
    while True:
        inner = getattr(error, "reason", None) or next(
            (arg for arg in getattr(error, "args", ()) if isinstance(arg, Exception)), None
        )
        if not isinstance(inner, Exception) or inner is error:
            break
        error = inner
    text = re.sub(r"^<[^>]*>: |^HTTPS?Connection\([^)]*\): ", "", str(error)).strip()
    return text or type(error).__name__


def retry_after(value) -> float | None:
    """The seconds of a Retry-After header, which holds a number or a date."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    import email.utils

    with contextlib.suppress(ValueError, TypeError):
        moment = email.utils.parsedate_to_datetime(value)
        return max((moment - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)
    return None


def push_refusal(what, said) -> KaggleError:
    """The error for the text with which Kaggle, by a status of 200, refuses a push."""
    head = f"cannot {what}: Kaggle says {said!r}"
    text = said.lower()
    if "quota" in text:
        return QuotaError(f"{head}; no version was made. The quota is renewed on Saturday, 00:00 UTC")
    if "session count" in text or "maximum batch" in text or "concurrent" in text:
        return CapacityError(f"{head}; no version was made. Push again when a run of yours has finished")
    if "too many" in text or "rate limit" in text or "try again" in text:
        return ThrottledError(f"{head}; no version was made")
    return ConfigurationError(f"{head}; no version was made")


def log_text(log: str) -> str:
    """A log's text; Kaggle gives a JSON array of {stream_name, time, data}, whose parts are no lines."""
    try:
        parts = json.loads(log)
    except ValueError:
        return log
    if not isinstance(parts, list):
        return log
    return "".join(part.get("data", "") if isinstance(part, dict) else str(part) for part in parts)


def log_seconds(log: str) -> float | None:
    """The time of a log's last part, in seconds from the start of its session."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return max(float(part["time"]) for part in json.loads(log))
    return None


def as_submission(found) -> Submission:
    def score(text):
        with contextlib.suppress(TypeError, ValueError):
            return float(text)
        return None

    return Submission(
        found.ref, found.status.name, found.description or "", score(found.public_score), score(found.private_score),
        (found.error_description or "").strip(),
    )  # fmt: skip


class CountedFile:
    """A file that tells how many bytes were read of it; a request takes its length from `__len__`."""

    def __init__(self, file, progress=None):
        self.file, self.progress = file, progress
        self.size = os.fstat(file.fileno()).st_size

    def __len__(self):
        return self.size

    def read(self, size=-1):
        block = self.file.read(size)
        if self.progress:
            self.progress(len(block))
        return block


# --- records of runs ------------------------------------------------------------------------------------------------


def write_record(folder, name, record: dict):
    """Writes `folder`/`name`, JSON, whole or not at all."""
    from salt.files import whole_file

    with whole_file(pathlib.Path(folder) / name) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder, name) -> dict:
    """The record, or {} if there is none.

    Raises:
        ConfigurationError: a file that is no record.
    """
    path = pathlib.Path(folder) / name
    if not path.exists():
        return {}
    found = read_object(path)
    if not found:
        raise ConfigurationError(f"{path}: damaged; what it should say can be seen on kaggle.com")
    return found


def run_folder(name, runs) -> pathlib.Path:
    """The folder of the run that a person means by a path, a run id, or the beginning of one.

    Raises:
        ConfigurationError: none, or several.
    """
    runs = pathlib.Path(runs)
    for folder in (runs / name, pathlib.Path(name)):
        if folder.is_dir():
            return folder.resolve()
    found = sorted(folder for folder in runs.glob(f"{name}*") if folder.is_dir() and name)
    if len(found) == 1:
        return found[0].resolve()
    names = [folder.name for folder in found or sorted(runs.glob("*")) if folder.is_dir()]
    which = "which of these is meant" if found else "there is no such run; there are"
    raise ConfigurationError(f"{name}: {which}: {', '.join(names[-8:]) or 'none'}")


def part_folders(folder) -> list[pathlib.Path]:
    """The folders of a run's folds, in their order; of a run in one kernel, none."""
    folds = read_record(folder, QUEUE).get("folds", [])
    return [folder / "parts" / f"fold-{fold}" for fold in folds]


@contextlib.contextmanager
def alone(folder):
    """Keeps other processes off a run's folder meanwhile. A lock of the system: it ends with the process, however.

    Raises:
        BusyError: another process has it.
    """
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name = pathlib.Path(folder).name
            raise BusyError(f"{name}: another process at this desk works on it; wait until that ends") from None
        yield
    finally:
        os.close(handle)


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds) -> str:
    """Such as "1 h 04 min" or "35 s"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def run_command(command, arguments=None, link=None) -> int:
    """Runs a verb: its errors become one message on stderr and an exit status."""
    from build_kernel import BuildError

    try:
        return command(arguments, link) or 0
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except KaggleError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except (ValueError, OSError, BuildError) as error:  # salt's errors are ValueErrors that say which input is bad
        print(f"error: {error}", file=sys.stderr)
        return 1
