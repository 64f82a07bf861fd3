"""How something goes to Kaggle once, though an answer may be lost, and how it is found out later what became of it.

The intention is written down, the request is sent, what Kaggle has made of it is read back, and the record is settled.
Whatever interrupts this, `reconcile` takes it up from the record and what Kaggle shows: it is the one place that
decides what an open record becomes. What is sent is not repeated, until so much time has passed that it surely did not
arrive.

What a push, a submission or a dataset is, and how Kaggle shows it, is in deeds.py.
"""

import abc
import contextlib
from typing import Any, Generic, TypeVar

from desk.errors import DeskError
from desk.kaggle.errors import AccessError, AmbiguousError, CredentialsError, NotFoundError, UnreachableError
from desk.kaggle.transport import KaggleLink
from desk.records import seconds_since, uptime, utc_now
from desk.states import OPEN, Sent

LOOKS = (5.0, 15.0, 30.0)  # seconds before each look for what was sent without an answer
SETTLED = 600.0  # seconds after the last request after which what nobody sees has not arrived
NO_ANSWER = (UnreachableError, AccessError, NotFoundError, CredentialsError)

Kind = TypeVar("Kind", bound=Sent)


class Deed(abc.ABC, Generic[Kind]):
    """Something that goes to Kaggle once.

    Attributes:
        link: to Kaggle.
        record: of it, as it stands on the disk once it is kept.
        name: for people.
        again: what to do if nobody knows whether it arrived.
    """

    name: str
    again: str
    saved = "saved"  # the state of what Kaggle has told a number of

    def __init__(self, link: KaggleLink, record: Kind):
        self.link, self.record = link, record

    @abc.abstractmethod
    def send(self) -> dict:
        """Makes the one request; returns what its answer says, as fields of the record.

        Raises:
            AmbiguousError: there is no answer.
            DeskError: Kaggle has refused it, or surely did not get it.
        """

    @abc.abstractmethod
    def find(self) -> dict | None:
        """What Kaggle shows of it, as fields of the record; None if it shows none.

        Raises:
            UnreachableError, AccessError: Kaggle does not tell.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """What arrived, such as "the push arrived, as version 3"."""

    @abc.abstractmethod
    def keep(self) -> None:
        """Writes the record."""

    @abc.abstractmethod
    def drop(self, refused: bool) -> None:
        """It surely did not arrive, as Kaggle has said or as nobody sees it: the record is as before."""

    @abc.abstractmethod
    def confirm(self) -> None:
        """Reads back what Kaggle has, and settles the record; what cannot be read stays as it is."""

    def is_lost(self) -> bool:
        """Whether what Kaggle does not show so long after it was sent has surely not arrived."""
        return True

    def move(self, state: str, **changes: Any) -> None:
        """The next step of the record, kept."""
        self.record = self.record.but(state=state, **changes)
        self.keep()

    def mark_time(self) -> None:
        """Writes down that the request goes out now; also before each time that Kaggle asked to wait and try again."""
        self.move("sending", at=utc_now(), up=uptime())


def do_once(deed: Deed) -> None:
    """Sends something, looks for it if no answer comes, and reads it back.

    Raises:
        AmbiguousError: nobody knows whether it arrived.
        DeskError: it did not, and the record is as before; or it is not what was sent.
    """
    deed.mark_time()
    try:
        deed.move(deed.saved, **deed.send())
    except AmbiguousError as error:
        print(f"\nno answer: {error}. Looking for it", flush=True)
        look_for(deed)
    except DeskError:
        deed.drop(refused=True)
        raise
    deed.confirm()


def look_for(deed: Deed) -> None:
    """Looks a few times for what was sent without an answer.

    Raises:
        AmbiguousError: Kaggle does not show it.
    """
    for pause in LOOKS:
        deed.link.sleep(pause)
        with contextlib.suppress(*NO_ANSWER):
            if (found := deed.find()) is not None:
                deed.move(deed.saved, **found)
                print(f"found: {deed.describe()}")
                return
    deed.move("ambiguous")
    raise AmbiguousError(deed.again)


def reconcile(deed: Deed) -> None:
    """Settles a record by what Kaggle shows; one that is settled stays as it is.

    Raises:
        AmbiguousError: it was sent a moment ago and is not seen yet, or only a person can say that it did not arrive.
        UnreachableError, AccessError: Kaggle does not tell.
        DeskError: it is not what was sent.
    """
    if deed.record.state in OPEN:
        found = deed.find()
        if found is not None:
            deed.move(deed.saved, **found)
        else:
            passed = seconds_since(deed.record.at, deed.record.up)
            if passed is None:  # a clock was set back: from now on it is measured anew
                deed.move("ambiguous", at=utc_now(), up=uptime())
            if (passed or 0) < SETTLED:
                raise AmbiguousError(
                    f"{deed.name} was sent {passed or 0:.0f} s ago and Kaggle does not show it yet: its fate is "
                    "open, try again in some minutes"
                )
            if not deed.is_lost():
                raise AmbiguousError(deed.again)
            deed.drop(refused=False)
            return
    if deed.record.state == deed.saved:
        deed.confirm()
