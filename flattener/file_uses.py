"""The places of a source that name files, and what a call does with the files whose paths it gets, by its name."""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from flattener.facts import called_name
from flattener.source import words

READS = words("open load loads read parse imread loadtxt genfromtxt fromfile exec from import readlines run")
PATTERNS = words("glob rglob")  # methods of a folder
COPIES = words("copy copy2 copyfile copytree")
ASKS = words("exists isfile is_file")
STARTS = words("run call check_call check_output Popen system execv spawnv popen")  # of a program
LISTS = words("glob iglob rglob listdir scandir walk iterdir")
WRITES = words("""
    save write dump to savefig savetxt savez mkdir makedirs remove unlink rmtree touch rename replace imwrite export
    writer copyfile move handler
""")


@dataclass(frozen=True)
class NamedFile:
    """A place in the source that names files.

    Attributes:
        path: of the file or folder at the desk.
        target: where the program looks for it: relative to the working folder, or for `source` to the project.
        use: "read", "write", "ask" (whether they are there), or "" if that is not known.
        source: the file whose `__file__` leads to it; None: the working folder does.
        where: file and line.
    """

    path: Path
    target: str
    use: str
    source: Path | None
    where: str


def call_use(node: ast.Call) -> str:
    """What a call does with the files whose paths it gets: "read", "list", "write", or "" if that is not known."""
    called = called_name(node)
    if called in ("open", "File", "ZipFile"):
        position = 0 if isinstance(node.func, ast.Attribute) and called == "open" and not is_module_open(node) else 1
        modes = [keyword.value for keyword in node.keywords if keyword.arg == "mode"] or node.args[
            position : position + 1
        ]
        mode = str(modes[0].value) if modes and isinstance(modes[0], ast.Constant) else "r"
        return "write" if set(mode) & set("wax+") else "read"
    parts = {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", called)}
    if parts & WRITES:
        return "write"
    return "list" if parts & LISTS else "read" if parts & READS else ""


def is_module_open(node: ast.Call) -> bool:
    """Whether `x.open(...)` gets the path as its argument: `Image.open("a.png")`, not `Path("a").open("w")`."""
    first = node.args[0] if node.args else None
    return not isinstance(first, ast.Constant) or not re.fullmatch(r"[rwaxbt+U]{1,4}", str(first.value))


def started_words(text: str) -> list[str]:
    """The words of a command of a shell."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
