"""Cells: those of the entry, those of the output, and both forms of the output, notebook and percent script."""

import hashlib
import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flattener.lines import Line
from flattener.modules_style import MODULE_HEAD_LINE
from flattener.source import Module

# What is found in a cell's text is kept from one build to the next: the kernels of a repository share most cells.
KEPT_CELLS = 1024
CELL_MARK = re.compile(r"#\s*%%(?P<rest>.*)$")
SCRIPT_HEAD = re.compile(r"(?m)^# /// script\s*\n(?P<toml>(?:^#(?:| .*)\n)+?)^# ///[ \t]*$\n?")


@dataclass
class Cell:
    """A cell of the output.

    Attributes:
        kind: "markdown" or "code".
        id: unique in the document.
    """

    kind: str
    id: str
    lines: list[Line]
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether a notebook writes this cell to a file, instead of running it."""
        return self.kind == "code" and self.lines[0].text.startswith("%%writefile")

    @property
    def is_module(self) -> bool:
        """Whether it holds a module in modules style, which a script never runs where it stands."""
        return self.is_file or (self.kind == "code" and bool(MODULE_HEAD_LINE.match(self.lines[0].text)))

    @property
    def text(self) -> str:
        """The lines, joined."""
        return "\n".join(line.text for line in self.lines)


@dataclass
class EntryCell:
    """A cell of an entry in percent format, by its lines; `first` is the line below the mark."""

    kind: str
    tags: list[str]
    first: int
    last: int


FOLDED: dict[str, Any] = {"_kg_hide-input": True}  # Kaggle shows the cell's code on request only


def markdown(cell_id: str, text: str) -> Cell:
    """A cell of text."""
    return Cell("markdown", cell_id, [Line(line) for line in text.strip("\n").split("\n")])


def code(cell_id: str, lines: list[str], metadata: dict[str, Any] | None = None) -> Cell:
    """A cell of code that comes from no source file."""
    return Cell("code", cell_id, [Line(line) for line in lines], metadata=metadata or {})


def entry_cells(module: Module) -> list[EntryCell]:
    """The cells of the entry; what stands above the first mark is the first of them."""
    cells = [EntryCell("code", [], 1, len(module.lines))]
    for comment in module.comments:
        found = CELL_MARK.match(comment.text) if comment.column == 0 else None
        if not found:
            continue
        rest = found["rest"]
        written = re.search(r"tags=(\[[^\]]*\])", rest)
        try:
            tags = json.loads(written[1]) if written else []
        except ValueError:
            module.refuse(comment.line, "the cell's tags are not a list of strings", 'write tags=["parameters"]')
        cells[-1].last = comment.line - 1
        kind = "markdown" if "[markdown]" in rest else "code"
        cells.append(EntryCell(kind, tags, comment.line + 1, len(module.lines)))
    return cells


def script_head(module: Module) -> str:
    """The block `# /// script` ... `# ///` at the top of a script (PEP 723); empty if there is none."""
    found = SCRIPT_HEAD.search(module.text)
    return found[0] if found else ""


def head_table(module: Module) -> dict[str, Any]:
    """The TOML table of a script's PEP 723 head; empty if there is no head.

    Raises:
        BuildError: the head is not valid TOML.
    """
    head = SCRIPT_HEAD.search(module.text)
    lines = head["toml"].splitlines(True) if head else []
    try:
        return tomllib.loads("".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
    except tomllib.TOMLDecodeError as error:
        line = module.line_of(head.start()) if head else 1
        module.refuse(line, f"the head is not valid TOML: {error}", "correct it")


def dependencies(module: Module) -> list[str]:
    """What the head of a script asks for, such as "numpy>=2"."""
    found = head_table(module).get("dependencies", [])
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def install_lines(names: list[str]) -> list[str]:
    """The lines of a notebook that would install what a script's head asks for."""
    return [
        "# What the script's head asks for. To install it, take the # away from the next line.",
        f"# %pip install {shlex.join(names)}",
    ]


def joint_head(modules: Sequence[Module]) -> str:
    """The head of a script that is made of several, of which some have one."""
    heads = [script_head(module) for module in modules]
    found = list(dict.fromkeys(filter(None, heads)))
    if len(found) < 2:
        return "".join(found)
    python = [str(version) for version in (head_table(module).get("requires-python") for module in modules) if version]
    lines = [f"requires-python = {json.dumps(','.join(dict.fromkeys(python)))}"] if python else []
    needed = dict.fromkeys(name for module in modules for name in dependencies(module))
    lines += ["dependencies = [", *(f"    {json.dumps(name)}," for name in needed), "]"]
    return "".join(f"# {line}\n" for line in ["/// script", *lines, "///"])


def cell_id(*parts: str) -> str:
    """A cell's id, of the 64 characters that nbformat allows."""
    name = "-".join(["cell", *filter(None, parts)])
    name = re.sub(r"[^A-Za-z0-9-]+", "-", name)
    return name if len(name) <= 64 else name[:51] + "-" + hashlib.sha256(name.encode()).hexdigest()[:12]


def notebook_text(cells: list[Cell]) -> str:
    """The cells as a notebook, in nbformat 4.5."""
    rows = []
    for cell in cells:
        row: dict[str, Any] = {
            "cell_type": cell.kind,
            "id": cell.id,
            "metadata": cell.metadata | ({"tags": cell.tags} if cell.tags else {}),
            "source": cell.text,
        }
        if cell.kind == "code":
            row |= {"execution_count": None, "outputs": []}
        rows.append(row)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    book = {"cells": rows, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def script_text(cells: list[Cell], head: str = "") -> str:
    """The cells as a script in percent format."""
    parts = [head] if head else []
    for cell in cells:
        metadata = cell.metadata | ({"tags": cell.tags} if cell.tags else {})
        tags = "".join(f" {key}={json.dumps(value)}" for key, value in metadata.items())
        if cell.kind == "markdown":
            text = "\n".join(f"# {line.text}".rstrip() for line in cell.lines)
            parts.append(f"# %% [markdown]{tags}\n{text}\n")
        else:
            parts.append(f"# %%{tags}\n{cell.text}\n")
    return "\n".join(parts)
