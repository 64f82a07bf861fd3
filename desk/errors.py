"""Errors that a person at this desk can do something about, and how a verb ends with one of them."""

import sys
from collections.abc import Callable
from typing import Any


class DeskError(Exception):
    """Something that cannot be done; the message says why, and what to do next.

    Attributes:
        exit_status: of the command that ends with it. 1: something has to be changed; 75: the same may work later;
            3: nobody knows whether Kaggle did it.
    """

    exit_status = 1


class ConfigurationError(DeskError):
    """What was asked for is wrong, and will be wrong tomorrow."""


class BusyError(DeskError):
    """Another process at this desk works on the same run."""

    exit_status = 75


class LocalRunError(DeskError):
    """A run at this desk that cannot start, or did not come to a good end."""


def run_command(command: Callable[..., int | None], *arguments: Any, resumable: bool = False) -> int:
    """Runs a verb; returns its exit status. Its errors become one message on stderr.

    Args:
        command: the verb.
        arguments: what it is called with.
        resumable: whether the same command resumes what was interrupted.
    """
    try:
        return command(*arguments) or 0
    except KeyboardInterrupt:
        print("\ninterrupted" + "; run the same command again to resume" * resumable, file=sys.stderr)
        return 130
    except DeskError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except (ValueError, OSError) as error:  # salt's errors are ValueErrors that say which input is bad
        print(f"error: {error}", file=sys.stderr)
        return 1
