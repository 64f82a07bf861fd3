"""What can go wrong between this desk and Kaggle."""

from desk.errors import DeskError, Exit


class KaggleError(DeskError):
    """Something that Kaggle, or the way to it, refused.

    Attributes:
        sent: whether Kaggle may have got the request.
        retry_after: the seconds that Kaggle asked to wait, or None.
    """

    sent = True
    retry_after: float | None = None


class CredentialsError(KaggleError):
    """No credentials, or such that Kaggle does not take."""


class AccessError(KaggleError):
    """Kaggle knows who asks, and says no."""


class NotFoundError(KaggleError):
    """There is no such thing, or none that this account may see."""


class QuotaError(KaggleError):
    """The week's accelerator hours, or the day's submissions, are used up."""

    exit_status = Exit.LATER


class CapacityError(KaggleError):
    """As many sessions run as the account may have at once."""

    exit_status = Exit.LATER


class UnreachableError(KaggleError):
    """No answer, or none that can be read."""

    exit_status = Exit.LATER


class ThrottledError(UnreachableError):
    """Too many requests: no answer for now."""


class AmbiguousError(KaggleError):
    """A command was sent, and whether Kaggle obeyed could not be found out."""

    exit_status = Exit.UNKNOWN


class OutputError(KaggleError):
    """Files that are not what the run wrote: stale, foreign, cut short, or with a name that leads elsewhere."""
