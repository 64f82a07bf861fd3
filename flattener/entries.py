"""The scripts that become one program: one, or several that run one after the other in the same notebook.

Several are joined to one text, each behind the lines that give it its arguments, so that all phases see one entry.
"""

import ast
import itertools
import re
import symtable
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flattener.errors import BuildError
from flattener.source import Module, is_future_import, last_line, python_literal


@dataclass(frozen=True)
class Part:
    """A script in the text of the program's entry.

    Attributes:
        module: the script, as it is by itself.
        arguments: what it finds behind its name in `sys.argv`; None: nothing was given.
        first, last: its lines in the entry.
        offset: how far they lie behind those of the script.
    """

    module: Module
    arguments: list[str] | None
    first: int
    last: int
    offset: int = 0


def argument_lines(name: str, arguments: list[str] | None) -> list[str]:
    """The lines that give a script its arguments; without any, its name alone, since a notebook's are not its own."""
    why = "" if arguments else "  # no arguments"
    return ["import sys", "", f"sys.argv = {python_literal([name, *(arguments or [])])}{why}"]


def file_line(name: str) -> str:
    """The line that gives a notebook a `__file__`: absolute, as Python's is, so that its folder has a name."""
    return f'__file__ = __import__("os").path.abspath({python_literal(name)})  # a notebook has none'


def join_entries(
    scripts: Sequence[tuple[Module, list[str] | None]], packages: Collection[str], form: str
) -> tuple[Module, list[Part]]:
    """One entry of several scripts, and the parts of it.

    Raises:
        BuildError: one of them would not do in the same namespace what it does by itself.
    """
    (first, arguments), *others = scripts
    if not others:
        return first, [Part(first, arguments, 1, len(first.lines))]
    check_together([module for module, _ in scripts], packages)
    lines = first.text.rstrip("\n").split("\n")
    parts = [Part(first, arguments, 1, len(lines))]
    for module, given in others:
        begin = ["", *argument_lines(module.label, given)]
        if form == "notebook" and re.search(r"\b__file__\b", module.text):
            begin.append(file_line(module.label))
        own = [*begin, "", *text_of_part(module).rstrip("\n").split("\n")]
        parts.append(Part(module, given, len(lines) + 1, len(lines) + len(own), len(lines) + len(begin) + 1))
        lines += own
    label = " + ".join(module.label for module, _ in scripts)
    return Module("__main__", label, "\n".join([*lines, ""]), is_entry=True), parts


def text_of_part(module: Module) -> str:
    """The text of a script that does not come first: its docstring is bound by name, `from __future__` is gone."""
    text = module.text
    for node in reversed(module.body):
        start, end = module.span(node)
        is_docstring = bool(module.docstring) and node is module.body[0]
        if is_docstring and re.search(r"\b__doc__\b", text):
            text = f"{text[:start]}__doc__ = {text[start:]}"
        elif is_docstring or is_future_import(node):
            before = module.text[module.starts[node.lineno - 1] : start].strip()
            behind = module.text[end : module.starts[last_line(node)] - 1].strip()
            alone = not before and (not behind or behind.startswith("#"))
            text = text[:start] + ("" if alone else "pass") + "\n" * text[start:end].count("\n") + text[end:]
    return text


def check_together(modules: list[Module], packages: Collection[str]) -> None:
    """Raises `BuildError` for scripts of which one would find what another one leaves behind."""
    for module in modules[1:]:
        if module.future != modules[0].future:
            reason = f"imports other features from __future__ than {modules[0].label}, with which it shares a file"
            module.refuse(1, reason, "give all entries the same `from __future__ import`, or build a file of each")
    left: dict[str, str] = {}
    for module, following in itertools.pairwise(modules):
        for node in module.body:
            origin = node.module or "" if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" else None
            if origin is not None and origin.partition(".")[0] not in packages:
                reason = "a star import, whose names the next entry would find"
                module.refuse(node, reason, "import the names that are used, or build a file of each entry")
        left |= dict.fromkeys(global_names(module.table)[0], module.label)
        bound, read = global_names(following.table)
        taken = sorted(name for name in (read - bound) & set(left) if not name.startswith("__"))
        if taken:
            name = taken[0]
            rows = [at for at, line in enumerate(following.lines, 1) if re.search(rf"\b{name}\b", line)]
            reason = f"reads {name!r}, which {left[name]} binds in the namespace that both share"
            following.refuse(min(rows, default=1), reason, "rename it there, or build a file of each entry")


def global_names(*modules: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    """The global names that are bound and those that are read, somewhere in the modules of some symbol tables."""
    bound: set[str] = set()
    read: set[str] = set()
    todo = list(modules)
    for table in todo:
        top = table.get_type() == "module"
        # A function's locals are most of its names, and none of these.
        names = table.get_globals() if isinstance(table, symtable.Function) else table.get_identifiers()
        for name in names:
            if name in bound and name in read:
                continue
            symbol = table.lookup(name)
            if (top or symbol.is_declared_global()) and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(name)
            if symbol.is_referenced() and (top or symbol.is_global()):
                read.add(name)
        todo += table.get_children()
    return bound, read


def place_in_parts(parts: Sequence[Part], line: int) -> tuple[str, int]:
    """The script that a line of the entry comes from, and its line there; 0 for one that no script has."""
    part = next((part for part in parts if part.first <= line <= part.last), parts[-1])
    return part.module.label, max(line - part.offset, 0)


def relabelled(text: str, label: str, parts: Sequence[Part]) -> str:
    """A message with `train.py:3` in the place of the joint entry's label and line."""

    def place(found: re.Match[str]) -> str:
        name, number = place_in_parts(parts, int(found[1]))
        return f"{name}:{max(number, 1)}"

    return re.sub(re.escape(label) + r":(\d+)", place, text)


def relabelled_error(error: BuildError, label: str, parts: Sequence[Part]) -> BuildError:
    """An error with the script's own name and line in its message."""
    error.args = (relabelled(str(error), label, parts),)
    return error
