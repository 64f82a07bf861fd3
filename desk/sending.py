"""Send, look it up, settle: how a push, a submission or a dataset goes to Kaggle once, though an answer may be lost.

What is sent is not repeated. Where no answer comes it is looked for, now and by the next command, until so much time
has passed that it surely did not arrive. What is looked for, and what is recorded of it, is the caller's.
"""

import contextlib
from collections.abc import Callable
from typing import TypeVar

from desk.kaggle.errors import AccessError, AmbiguousError, CredentialsError, NotFoundError, UnreachableError
from desk.kaggle.transport import KaggleLink
from desk.records import age

LOOKS = (5.0, 15.0, 30.0)  # seconds before each look for what was sent without an answer
SETTLED = 600.0  # seconds after which what nobody sees has not arrived

Found = TypeVar("Found")


def send_once(
    link: KaggleLink, send: Callable[[], Found], look_up: Callable[[], Found | None],
    describe: Callable[[Found], str], remedy: str,
) -> Found:  # fmt: skip
    """Sends something, and looks for it if no answer comes; returns what Kaggle has made of it.

    Args:
        link: for its pauses.
        send: the one request.
        look_up: what Kaggle has made of it, or None if Kaggle does not show it.
        describe: such as "the push arrived, as version 3", of what was looked up.
        remedy: what to do if it is not found.

    Raises:
        AmbiguousError: nobody knows whether it arrived.
        DeskError: it did not.
    """
    try:
        return send()
    except AmbiguousError as error:
        print(f"\nno answer: {error}. Looking for it", flush=True)
    for pause in LOOKS:
        link.sleep(pause)
        with contextlib.suppress(UnreachableError, AccessError, NotFoundError, CredentialsError):
            found = look_up()
            if found is not None:
                print(f"found: {describe(found)}")
                return found
    raise AmbiguousError(remedy)


def settle(name: str, record: dict, look_up: Callable[[], Found | None]) -> Found | None:
    """What Kaggle has made of something that was sent earlier without an answer; None: it never arrived.

    Args:
        name: for people.
        record: whose time "at" is when it was sent.
        look_up: as in `send_once`.

    Raises:
        AmbiguousError: it was sent a moment ago and is not seen yet.
        UnreachableError, AccessError: Kaggle does not tell.
    """
    found = look_up()
    if found is None and (seconds := age(record)) < SETTLED:
        raise AmbiguousError(
            f"{name} was sent {seconds:.0f} s ago and Kaggle does not show it yet: its fate is open, try again in some "
            "minutes"
        )
    return found
