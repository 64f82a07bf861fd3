"""What a verb shows on a terminal or in a log."""

import pathlib
import re
import shutil
import sys
from typing import TextIO

from desk.paths import AnyPath

# What moves a terminal's cursor, colours it, sets its title or its clipboard (also cut short at the end), and marks
# that turn the direction of writing: a text from elsewhere is to be read, not obeyed.
CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*(?:[@-~]|$)|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*(?:[0-~]|$)"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """A text of somebody else's as lines that any terminal shows: without control sequences and half characters."""
    text = CONTROL.sub("", re.sub(r"\r+\n?", "\n", text))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def show(*rows: tuple[str, str]) -> None:
    """Prints rows of a label and a text."""
    print("\n".join(f"  {label:<12} {text}" for label, text in rows), flush=True)


def shown(path: AnyPath) -> str:
    """A path as short as it can be, seen from the working directory."""
    path, here = pathlib.Path(path).resolve(), pathlib.Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def duration(seconds: float) -> str:
    """Such as "1 h 04 min" or "35 s"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def plural(count: int, noun: str) -> str:
    """Such as "1 file" or "3 files"."""
    return f"{count} {noun}{'s' * (count != 1)}"


class ProgressLine:
    """One line that is written anew on a terminal; elsewhere each is a line of its own."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.is_terminal = self.stream.isatty()
        self.open = False

    def show(self, text: str) -> None:
        """Shows a text in place of the one before."""
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=self.stream, flush=True)
            self.open = True
        else:
            print(text, file=self.stream, flush=True)

    def end(self) -> None:
        """Clears the line, so that others can follow."""
        if self.open:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
            self.open = False
