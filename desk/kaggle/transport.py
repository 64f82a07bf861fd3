"""How a call to Kaggle is made: signed in, within a time limit, and again where that is safe.

A `KaggleLink` calls Kaggle's own SDK in process and relies on none of its manners: each call has a time limit, a
question is asked again, a command (a push, a submission) is never repeated blindly, and what is known of its fate is in
the type of the error.

The package `kaggle` itself is not imported: that alone would sign in over the network, without a time limit, and
print. The SDK below it is the same code that the command line client calls.
"""

import contextlib
import dataclasses
import datetime
import functools
import itertools
import pathlib
import queue
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import requests
import urllib3
from kagglesdk import KaggleClient
from kagglesdk.kaggle_creds import KaggleCredentials
from kagglesdk.security.types.oauth_service import IntrospectTokenRequest

from desk.errors import ConfigurationError, DeskError
from desk.kaggle.answers import prepare_answer
from desk.kaggle.credentials import TOKEN_PAGE, Credentials, find_credentials
from desk.kaggle.errors import (
    AccessError,
    AmbiguousError,
    CredentialsError,
    KaggleError,
    NotFoundError,
    ThrottledError,
    UnreachableError,
)
from desk.output import printable
from desk.records import read_object

CALL_SECONDS = 60.0  # of one call to the API; a push of 1 MB takes a few
ATTEMPTS = 5  # for a question; a command is sent once
LONGEST_PAUSE = 300.0  # that a Retry-After is obeyed for
UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)  # what parsing raises
PAGE = 200  # files a page, the most that Kaggle gives


class TimeLimit(Exception):
    """A call that took longer than it may."""


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
        self, credentials: Credentials | None = None, *, seconds: float = CALL_SECONDS, attempts: int = ATTEMPTS,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Any] = time.sleep,
        jitter: Callable[[], float] = random.random, say: Callable[[str], Any] | None = None,
    ):  # fmt: skip
        self.given = credentials
        self.seconds, self.attempts = seconds, attempts
        self.clock, self.sleep, self.jitter = clock, sleep, jitter
        self.say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self.secrets: list[str] = []  # what no message may hold
        self.let_in = False  # whether Kaggle has taken the credentials

    # --- who asks ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def credentials(self) -> Credentials:
        """Those that were given, or else those that `find_credentials` finds."""
        found = self.given or find_credentials()
        self.secrets = [secret for secret in (found.key, found.token) if secret]
        return found

    @property
    def used_secrets(self) -> list[str]:
        """What it signs in with, and has signed in with; to be looked for in what is sent."""
        self.credentials  # noqa: B018 (they fill the list)
        return self.secrets

    @functools.cached_property
    def client(self) -> KaggleClient:
        """The SDK's client, signed in, each request of it with a time limit."""
        agreed = self.credentials
        try:
            client = KaggleClient(username=agreed.username, password=agreed.key, api_token=agreed.token)
        except Exception as error:  # an unknown KAGGLE_API_ENVIRONMENT, as a plain Exception
            raise ConfigurationError(self.scrub(str(error))) from None
        http = client.http_client()
        http._init_session()
        # The SDK has no time limits. With these a request that was given up ends some day.
        http._session.send = functools.partial(http._session.send, timeout=(self.seconds, self.seconds))
        http._prepare_response = functools.partial(prepare_answer, http._prepare_response)
        if agreed.refresh:
            self.renew(client)
        return client

    def renew(self, client: KaggleClient, ended: bool = False) -> None:
        """Gives the client a fresh token of a sign-in by `kaggle auth login`.

        Args:
            client: of the SDK.
            ended: Kaggle does not take the token any more, whatever the sign-in says of its end.

        Raises:
            CredentialsError: Kaggle gives none.
        """
        try:
            signed_in = KaggleCredentials.load(client)
        except UNREADABLE:
            signed_in = None
        if signed_in is None:
            raise CredentialsError("the sign-in of kaggle auth login is damaged: run `kaggle auth login` again")
        found = read_object(pathlib.Path.home() / ".kaggle" / "credentials.json")
        # The SDK takes a token for good until half an hour after its end.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            end = datetime.datetime.fromisoformat(found["access_token_expiration"])
            soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
            if found.get("access_token") and end > soon and not ended:
                return
        try:
            self.ask("sign in", lambda _: signed_in.refresh_access_token(), attempts=1)
        except DeskError as error:
            raise CredentialsError(f"{error}; or run `kaggle auth login` again") from None
        token = read_object(pathlib.Path.home() / ".kaggle" / "credentials.json").get("access_token")
        self.credentials = dataclasses.replace(self.credentials, username=signed_in.get_username(), token=token)
        self.secrets += [token] if token else []
        client.http_client()._session.auth = type(client.http_client()).BearerAuth(token)

    def sign_in_again(self) -> None:
        """Renews a sign-in by `kaggle auth login`; a key or a token that a person has made has no end."""
        if self.credentials.refresh:
            self.renew(self.client, ended=True)

    @functools.cached_property
    def username(self) -> str:
        """The account's name.

        Raises:
            CredentialsError: a token that Kaggle does not take.
        """
        client = self.client  # first: it may renew the credentials
        if self.credentials.username:
            return self.credentials.username
        method = client.security.oauth_client.introspect_token
        answer = self.ask("sign in", method, IntrospectTokenRequest, token=self.credentials.token)
        if not answer.active or not answer.username:
            raise CredentialsError(
                f"Kaggle does not take the token from {self.credentials.source}: make a new one at {TOKEN_PAGE}"
            )
        return answer.username

    # --- how it is asked --------------------------------------------------------------------------------------------

    def ask(
        self, what: str, method: Callable, request: Any = None, *, command: bool = False, attempts: int | None = None,
        seconds: float | None = None, again: Callable[[], None] | None = None, **fields: Any,
    ) -> Any:  # fmt: skip
        """The answer to a question, asked up to `attempts` times, or to a command.

        A command is sent again only if Kaggle surely did not get it, or said so (429). A question is also asked again
        if Kaggle does not take credentials (401) that it has taken: a sign-in may have ended in hours of waiting.

        Args:
            what: the question for people, such as "read the status of alice/salt-train".
            method: of the SDK's client. One that is given up goes on in a thread, and its answer is lost: time limits
                of sockets stop a silent server, but not one that sends a byte now and then.
            request: its argument, or the class of it.
            command: whether something happens by it.
            attempts: instead of the link's own.
            seconds: that one attempt may take; None: twice the link's own, which is the limit of its socket.
            again: called before each attempt but the first.
            fields: of the argument; None and [] stay what the SDK makes of them.

        Raises:
            AmbiguousError: a command was sent and there is no readable answer.
            KaggleError, ConfigurationError: there is none, or Kaggle refuses.
        """
        attempts = attempts or self.attempts
        request = request() if isinstance(request, type) else request
        for name, value in fields.items():
            if value is not None:
                setattr(request, name, value)
        for attempt in itertools.count(1):
            outcome: queue.SimpleQueue = queue.SimpleQueue()
            threading.Thread(target=put_outcome, args=(outcome, method, request), daemon=True).start()
            try:
                answer, error = outcome.get(timeout=seconds or 2 * self.seconds)
            except queue.Empty:
                error = TimeLimit()
            if error is None:
                self.let_in = True
                return answer
            failure = self.translate(error, what)
            if isinstance(failure, CredentialsError) and self.let_in and not command and attempt < attempts:
                self.pause(failure, attempt)
                self.sign_in_again()
                continue
            if not isinstance(failure, UnreachableError):
                raise failure from None
            if command and failure.sent and not isinstance(failure, ThrottledError):
                raise AmbiguousError(f"{failure}; Kaggle may have done it all the same") from None
            too_long = command and (failure.retry_after or 0) > LONGEST_PAUSE
            if attempt == attempts or too_long:
                raise failure from None
            self.pause(failure, attempt)
            if again:
                again()

    def ask_pages(self, what: str, method: Callable, kind: type, **fields: Any) -> list[Any]:
        """The answers to a question for a list, page by page, until there is no next one."""
        pages: list[Any] = []
        seen, token = set(), ""
        while token not in seen:
            seen.add(token)
            pages.append(self.ask(what, method, kind, page_token=token, **fields))
            token = pages[-1].next_page_token or ""
        return pages

    def pause(self, error: KaggleError, attempt: int) -> None:
        """Waits before the next attempt: as long as Kaggle asks, or longer from one attempt to the next."""
        seconds = error.retry_after
        if seconds is None:
            seconds = min(2.0**attempt, 60.0) * (0.5 + self.jitter())
        seconds = min(seconds, LONGEST_PAUSE)
        self.say(f"{error}; again in {seconds:.0f} s ({attempt} of {self.attempts - 1})")
        self.sleep(seconds)

    def scrub(self, text: str) -> str:
        """A text of Kaggle for people: without control sequences, our secrets, and the signatures in addresses."""
        text = printable(text)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        text = re.sub(r"(?i)\b(basic|bearer) [\w.~+/=-]{4,}", r"\1 ***", text)
        return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")]+", r"\1?***", text)

    def translate(self, error: BaseException, what: str) -> DeskError:
        """A failure of the SDK as an error of ours."""
        if isinstance(error, DeskError):
            return error
        failure: KaggleError
        if isinstance(error, TimeLimit | requests.exceptions.Timeout):
            failure = UnreachableError(f"cannot {what}: no answer within {self.seconds:g} s")
            failure.sent = not isinstance(error, requests.exceptions.ConnectTimeout)
            return failure
        response = getattr(error, "response", None)
        if isinstance(error, requests.exceptions.HTTPError) and response is not None:
            return self.refusal(what, response, str(error))
        if isinstance(error, UNREADABLE):  # no JSON, or not what the SDK knows
            text = self.scrub(f"{type(error).__name__}: {error}")
            return UnreachableError(f"cannot {what}: the answer cannot be read ({text})")
        if isinstance(error, requests.exceptions.RequestException | OSError):
            failure = UnreachableError(f"cannot {what}: {self.scrub(short_reason(error))}")
            failure.sent = not never_sent(error)
            return failure
        return KaggleError(self.scrub(f"cannot {what}: {type(error).__name__}: {error}"))

    def refusal(self, what: str, response: requests.Response, text: str) -> DeskError:
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


# --- parts of it ----------------------------------------------------------------------------------------------------


def put_outcome(outcome: queue.SimpleQueue, method: Callable, request: Any) -> None:
    """Puts (answer, None) or (None, error) into a queue."""
    try:
        outcome.put((method(request), None))
    except BaseException as error:
        outcome.put((None, error))


def inner_error(error: BaseException) -> Exception | None:
    """The failure that an error of requests or urllib3 is wrapped around."""
    inner = getattr(error, "reason", None)
    if not isinstance(inner, Exception):
        inner = next((argument for argument in error.args if isinstance(argument, Exception)), None)
    return None if inner is error else inner


def never_sent(error: BaseException | None) -> bool:
    """Whether a failed request cannot have reached Kaggle: no connection was made."""
    while error is not None:
        if isinstance(error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return True
        error = inner_error(error)
    return False


def short_reason(error: BaseException) -> str:
    """The innermost reason of a failed request, without the layers around it."""
    while inner := inner_error(error):
        error = inner
    text = re.sub(r"^<[^>]*>: |^HTTPS?Connection\([^)]*\): ", "", str(error)).strip()
    return text or type(error).__name__


def retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After header, which holds a number or a date."""
    try:
        return None if value is None else float(urllib3.util.Retry().parse_retry_after(value))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None
