"""A person's word for what costs quota or a submission.

`--dry-run` tells what would be done, and a token that stands for exactly this; `--confirm TOKEN` does it, and nothing
else. At a terminal a person sits, whose command is the word. A script, or a program that asks for JSON, must have the
token: so what was shown is what is done, and a word counts once.
"""

import argparse
import hashlib
import json
import shlex
import sys
from dataclasses import dataclass, field

from desk.errors import DeskError, Exit
from desk.output import show

DIGITS = 12  # hexadecimal, of a token


class NoWord(DeskError):
    """A person's word is missing, or was given for something else."""

    exit_status = Exit.WORD


@dataclass
class Consent:
    """Whether a deed may be done.

    Attributes:
        dry_run: do nothing.
        token: of an earlier dry run; None: none was given.
        needed: whether there must be one.
        command: the command line without `--dry-run` and `--confirm`, such as "python scripts/push.py train".
        deed: what would be done, or was; {} until that is known.
    """

    dry_run: bool = False
    token: str | None = None
    needed: bool = False
    command: str = ""
    deed: dict = field(default_factory=dict)

    def allows(self, deed: dict) -> bool:
        """Whether to go on; after a dry run, which prints the token, not.

        Args:
            deed: all that a person would want to know of it, and all that distinguishes it from another one.

        Raises:
            NoWord: a token is needed and there is none, or it is that of something else.
        """
        self.deed = deed
        expected = token_of(deed)
        if self.dry_run:
            show(("token", expected))
            return False
        if self.token not in (None, expected):
            error = NoWord(f"--confirm {self.token}: is not for what this would do now: {in_words(deed)}")
        elif self.token is None and self.needed:
            error = NoWord(f"without a terminal, or with --json, this wants a person's word: {in_words(deed)}")
        else:
            return True
        error.next = (f"{self.command} --dry-run",)
        raise error

    @property
    def result(self) -> dict:
        """What a dry run tells programs."""
        return {"dry_run": self.dry_run, "would": self.deed, "token": token_of(self.deed)}

    @property
    def next(self) -> tuple[str, ...]:
        """What to type after a dry run."""
        return (f"{self.command} --confirm {token_of(self.deed)}",)


def token_of(deed: dict) -> str:
    """The token that stands for a deed."""
    text = json.dumps(deed, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def in_words(deed: dict) -> str:
    """A deed for people, without what nobody can read."""
    return ", ".join(f"{key} {value}" for key, value in deed.items() if key not in ("content", "sha256") and value)


def at_terminal() -> bool:
    """Whether a person types at this process."""
    return sys.stdin is not None and sys.stdin.isatty()


def add_consent_options(parser: argparse.ArgumentParser, nothing: str) -> None:
    """Adds `--dry-run`, whose help ends with `nothing`, and `--confirm`."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--dry-run", action="store_true", help=f"look at everything, {nothing}, and print a token")
    either.add_argument(
        "--confirm", metavar="TOKEN", help="do what the dry run with this token told, and nothing else; without a "
        "terminal, and with --json, there must be one"
    )  # fmt: skip


def consent_of(options: argparse.Namespace, script: str) -> Consent:
    """What the options of a script say."""
    given = options.given
    words = [word for word, before in zip(given, ["", *given], strict=False) if before != "--confirm"]
    words = [word for word in words if word not in ("--dry-run", "--confirm") and not word.startswith("--confirm=")]
    command = shlex.join(["python", f"scripts/{script}.py", *words])
    return Consent(options.dry_run, options.confirm, options.json or not at_terminal(), command)
