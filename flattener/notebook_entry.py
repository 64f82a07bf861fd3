"""A notebook as the entry: its cells as Python in percent format, with the magics in comments until the end."""

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from flattener.cells import Cell
from flattener.errors import BuildError
from flattener.lines import Line
from flattener.source import words

MARK = "# magic: "
CODE_MAGICS = words("time timeit capture prun memit mprun lprun")  # what is below them is Python
CELL_MAGIC = re.compile(r"\s*%%(\w+)")
MAGIC_LINE = re.compile(r"(?P<indent>\s*)(?:(?P<target>[\w, ]+?)\s*=\s*)?(?P<magic>[%!?].*|[\w.]+\?{1,2}\s*)")
KEPT_LINE = re.compile(rf"(?P<indent>\s*)(?:(?:pass|[\w, ]+ = None)  )?{MARK}(?P<text>.*)")


def notebook_source(path: Path) -> str:
    """The code and the texts of a notebook as a script in percent format.

    Raises:
        BuildError: it is no notebook of Python.
    """
    try:
        book = json.loads(path.read_text(encoding="utf-8"))
        language = book.get("metadata", {}).get("kernelspec", {}).get("language", "python")
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in book["cells"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path.name}:1", f"cannot be read as a notebook: {error}", "save it anew") from None
    if language != "python":
        raise BuildError(f"{path.name}:1", f"a notebook in {language}", "give one in Python")
    lines: list[str] = []
    for number, (kind, source) in enumerate(cells, 1):
        if kind == "markdown":
            lines += ["# %% [markdown]", *(f"# {line}".rstrip() for line in source.split("\n"))]
        elif kind == "code" and source.strip():
            code = without_magics(source.rstrip().split("\n"))
            check_cell(path.name, number, len(lines) + 2, code)
            lines += ["# %%", *code]
    return "\n".join(lines[1:] if lines[:1] == ["# %%"] else lines) + "\n"


def check_cell(name: str, number: int, start: int, lines: list[str]) -> None:
    """Raises a `BuildError` for a cell that is not valid Python; `start` is where it begins in the script."""
    try:
        ast.parse("\n".join(lines))
    except SyntaxError as error:
        line = min(error.lineno or 1, len(lines))
        reason = f"line {line} of cell {number} is not valid Python: {error.msg}: {lines[line - 1].strip()}"
        raise BuildError(f"{name}:{start + line - 1}", reason, "correct it, or make it a cell of text") from None


def without_magics(lines: list[str]) -> list[str]:
    """The lines of a code cell, with what only IPython understands in comments."""
    first = next(index for index, line in enumerate(lines) if line.strip())
    found = CELL_MAGIC.match(lines[first])
    if found and found[1] not in CODE_MAGICS:
        return [MARK + line for line in lines[first:]]
    if found:
        return [MARK + lines[first], *without_line_magics(lines[first + 1 :])]
    return without_line_magics(lines)


def without_line_magics(lines: list[str]) -> list[str]:
    """The lines of a cell; those that begin with `%` or `!`, or end with `?`, are comments behind a statement."""
    try:
        ast.parse("\n".join(lines))
        return lines
    except (SyntaxError, ValueError):
        pass
    made: list[str] = []
    goes_on = False
    for line in lines:
        found = MAGIC_LINE.fullmatch(line)
        if goes_on:
            made.append(MARK + line)
        elif found:
            statement = f"{found['target']} = None" if found["target"] else "pass"
            made.append(f"{found['indent']}{statement}  {MARK}{line.lstrip()}")
        else:
            made.append(line)
        goes_on = line.endswith("\\") and (goes_on or bool(found))
    return made


def kept_magic(text: str) -> re.Match[str] | None:
    """A line in which a magic stands in a comment."""
    return KEPT_LINE.fullmatch(text) if MARK in text else None


def with_magics(cells: list[Cell]) -> list[Cell]:
    """The cells of a notebook with the magics as they were."""
    made = []
    for cell in cells:
        lines: list[Line] = []
        for line in cell.lines if cell.kind == "code" else []:
            found = kept_magic(line.text)
            if found and not (lines and found["text"].startswith("%%")):
                text = found["text"] if found["text"][:1].isspace() else found["indent"] + found["text"]
                line = line._replace(text=text)
            lines.append(line)
        made.append(dataclasses.replace(cell, lines=lines) if lines else cell)
    return made


def magics_of(cells: list[Cell]) -> list[str]:
    """A warning for each magic, which a script does not run."""
    found: list[Any] = []
    for cell in cells:
        for line in cell.lines if cell.kind == "code" else []:
            magic = kept_magic(line.text)
            if magic and re.match(r"\s*(!|%%|%(pip|conda|run|env|cd|writefile)\b)", magic["text"]):
                place = f"{line.label}:{line.number}"
                found.append(f"{place}: a script does not run `{magic['text'].strip()}`. Remedy: build a notebook.")
    return found
