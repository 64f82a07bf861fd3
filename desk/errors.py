"""Errors that a person at this desk can do something about, and what the exit status of a command means."""

import enum


class Exit(enum.IntEnum):
    """The exit statuses of all commands; docs/faults.md has the table for people, which a test keeps equal."""

    DONE = 0, "done", "nothing"
    CHANGE = 1, "something has to be changed first", "read the message; it names the remedy"
    USAGE = 2, "the command line is wrong", "read the message, or `--help`"
    UNKNOWN = 3, "nobody knows yet whether Kaggle did it", "run the same command again: it finds out"
    WORD = 4, "it wants a person's word", "the same command with `--dry-run`, then with the token that it prints"
    LATER = 75, "not now", "the same command may work later"
    INTERRUPTED = 130, "interrupted (Ctrl-C)", "the message says how it is resumed"
    ENDED = 143, "ended by SIGTERM", "the message says how it is resumed"

    meaning: str
    remedy: str

    def __new__(cls, value: int, meaning: str, remedy: str) -> "Exit":
        """A member with its two texts."""
        member = int.__new__(cls, value)
        member._value_, member.meaning, member.remedy = value, meaning, remedy
        return member


class DeskError(Exception):
    """Something that cannot be done; the message says why, and what to do next.

    Attributes:
        exit_status: of the command that ends with it, one of `Exit`.
        next: commands that help.
    """

    exit_status: int = Exit.CHANGE
    next: tuple[str, ...] = ()


class ConfigurationError(DeskError):
    """What was asked for is wrong, and will be wrong tomorrow."""


class UsageError(DeskError):
    """A command line that the command does not take."""

    exit_status = Exit.USAGE


class BusyError(DeskError):
    """Another process at this desk works on the same run."""

    exit_status = Exit.LATER


class LocalRunError(DeskError):
    """A run at this desk that cannot start, or did not come to a good end."""
