"""How a verb is called, and how it ends: an exit status, and with --json one document on stdout (docs/json.md)."""

import argparse
import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TextIO

from desk.errors import DeskError, Exit, UsageError
from desk.output import printable

DISK = {  # what a disk may say, and what helps
    errno.ENOSPC: ("the disk is full", "Make room there, and run the same command again"),
    errno.EDQUOT: ("your share of the disk is used up", "Make room there, and run the same command again"),
    errno.EROFS: ("the disk is read-only", "Make it writable, or choose another folder (such as by --runs or --out)"),
    errno.EACCES: ("the system does not allow it", "Make it yours (chown, chmod), or choose another folder"),
    errno.EIO: ("the disk fails", "Copy what is on it, and choose another one"),
}
JSON_VERSION = 1  # of the document; a field more is no new version, one that is gone or means something else is


@dataclass(frozen=True)
class Outcome:
    """What a verb has done: facts for programs, and the commands that come next, for people and for programs."""

    result: dict = field(default_factory=dict)
    next: tuple[str, ...] = ()


class VerbParser(argparse.ArgumentParser):
    """A verb's options, `--json` among them; what is wrong with a command line is an error like any other.

    The options hold the command line itself, too, as `given`.
    """

    def __init__(self, **more: Any):
        super().__init__(**more)
        self.add_argument("--json", action="store_true", help="one JSON document on stdout; all else goes to stderr")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """The options; `given` is the command line that they come from."""
        given = [*map(str, sys.argv[1:] if args is None else args)]
        options = super().parse_args(given, namespace)
        options.given = given
        return options

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError`, which the usage precedes on stderr."""
        self.print_usage(sys.stderr)
        raise UsageError(message)


def run_command(
    verb: Callable[..., Outcome | None], parse: Callable, arguments: Sequence[str] | None, *more: Any,
    resumable: bool = False,
) -> int:  # fmt: skip
    """Runs a verb; returns its exit status. Its errors become one message on stderr, or the document's `error`.

    Args:
        verb: is called with its options and `more`.
        parse: makes the options of `arguments`, by a `VerbParser`.
        arguments: the command line; None: this process's.
        more: what the verb is called with besides.
        resumable: whether the same command resumes what was interrupted.

    Raises:
        SystemExit: by `--help`; by a wrong command line and by SIGTERM, unless a document says so.
    """
    for stream in (sys.stdout, sys.stderr):  # a console of another encoding shows what it can
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if not wants_json(sys.argv[1:] if arguments is None else arguments):
        status, _ = call_verb(verb, parse, arguments, more, resumable)
        return status
    with kept_stdout() as document:
        try:
            status, content = call_verb(verb, parse, arguments, more, resumable)
        except SystemExit as error:  # a signal, or --help
            if not isinstance(error.code, int) or error.code == Exit.DONE:
                raise
            status, content = error.code, {"error": {"kind": "SystemExit", "message": "ended from outside"}}
        except Exception as error:
            traceback.print_exc()
            status, content = Exit.CHANGE, {"error": {"kind": type(error).__name__, "message": f"a bug: {error}"}}
        whole = {"version": JSON_VERSION, "verb": pathlib.Path(verb.__code__.co_filename).stem, "ok": status == 0}
        whole |= {"exit_status": int(status), "result": None, "error": None, "next": []}
        print(json.dumps(plain(whole | content), indent=1, allow_nan=False), file=document, flush=True)
    return status


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line has `--json`, whether or not the rest of it can be read; not as the text of --args."""
    pairs = zip(words, ["", *words], strict=False)
    return any(len(word) > 2 and "--json".startswith(word) and before != "--args" for word, before in pairs)


def call_verb(
    verb: Callable[..., Outcome | None], parse: Callable, arguments: Sequence[str] | None, more: tuple, resumable: bool
) -> tuple[int, dict]:
    """(exit status, fields of the document) of a verb; what is to be said to people is said."""
    try:
        outcome = verb(parse(arguments), *more) or Outcome()
    except KeyboardInterrupt:
        message = "interrupted" + "; run the same command again to resume" * resumable
        print(f"\n{message}", file=sys.stderr)
        return Exit.INTERRUPTED, {"error": {"kind": "Interrupted", "message": message}}
    except (DeskError, ValueError, OSError) as error:  # salt's errors are ValueErrors that say which input is bad
        message, status = printable(explain(error)), getattr(error, "exit_status", Exit.CHANGE)
        print(f"error: {message}", file=sys.stderr)
        following = list(getattr(error, "next", ()))
        show_next(following)
        kind = {"kind": type(error).__name__, "message": message}
        return status, {"error": kind, "next": following}
    show_next(outcome.next)
    return Exit.DONE, {"result": outcome.result, "next": list(outcome.next)}


def explain(error: Exception) -> str:
    """The message of an error; of a disk that takes nothing more, with the path, what is needed, and the remedy."""
    if not isinstance(error, OSError) or error.errno not in DISK:
        return str(error)
    path = pathlib.Path(os.fsdecode(error.filename or "the working folder"))
    needed = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
    what, remedy = DISK[error.errno]
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = next((folder for folder in (path, *path.parents) if folder.exists()), pathlib.Path("."))
        needed += f"; {shutil.disk_usage(there).free:,} bytes are free"
    return f"{path}: {what}{needed}. {remedy}"


def show_next(commands: Sequence[str]) -> None:
    """Prints what to type next."""
    for label, command in zip(["next:", *[" " * 5] * len(commands)], commands, strict=False):
        print(f"{label} {command}", flush=True)


@contextlib.contextmanager
def kept_stdout() -> Iterator[TextIO]:
    """Yields stdout; whatever is written to it within the block, by child processes too, goes to stderr."""
    kept, real = sys.stdout, None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if kept.fileno() == 1:
            kept.flush()
            real = os.dup(1)
            os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if real is None:
                yield kept
            else:
                with open(real, "w", encoding="utf-8", closefd=False) as document:
                    yield document
    finally:
        if real is not None:
            os.dup2(real, 1)
            os.close(real)


def plain(value: Any) -> Any:
    """A value as JSON has it: a path as text, numbers of numpy as Python's, one that is none as null."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # of numpy, which nothing here imports
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
