"""The last look at an output: it compiles, has no unknown name, no import of flat packages, no secret."""

import ast
import builtins
import functools
import os
import re
import symtable
from pathlib import Path

from flattener.cells import KEPT_CELLS, Cell
from flattener.documents import Document
from flattener.entries import global_names
from flattener.errors import BuildError
from flattener.library import Library
from flattener.lines import Line
from flattener.modules_style import MODULE_PATTERN
from flattener.trees import walk

IMPLICIT_NAMES = {
    "__name__",
    "__doc__",
    "__file__",
    "__builtins__",
    "__annotations__",
    "__debug__",
    "__spec__",
    "__package__",
}
REPORT = "report this as a bug of build_kernel.py"
# What must not be published -> texts one of which it holds, which are found faster than the pattern, and its pattern.
SECRETS = {
    "a Kaggle key": (
        ('key"', "key'", "KAGGLE_KEY"),
        r"""["']key["']\s*:\s*["'][0-9a-f]{32}["']|KAGGLE_KEY["'\]\s]*=\s*["'][0-9a-f]{32}""",
    ),
    "a Kaggle token": (("KGAT_",), r"KGAT_[0-9A-Za-z]{16,}"),
    "a private key": (("PRIVATE KEY",), r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


def check_document(document: Document, cells: list[Cell]) -> None:
    """Refuses an output that cannot run; each refusal is a bug of the flattener, apart from those with a remedy."""
    library = document.library
    running = [cell for cell in cells if cell.kind == "code" and not cell.is_file]
    if document.form == "script" and library.apart:
        check_unpacked(document, "\n".join(cell.text for cell in running))
    flat = [cell for cell in running if not cell.is_module]
    if document.form == "notebook":
        check_cells([cell for cell in cells if cell.is_module])
    for cell in flat if document.program else []:
        refuse_left_imports(library, cell.text)
    unknown = unresolved_names([cell_table(cell, document.future) for cell in flat])  # parses each, too
    for module in library.sources.values() if unknown else ():
        unknown -= unresolved_names([module.table])
    if unknown:
        reason = f"names without a meaning in the output: {', '.join(sorted(unknown))}"
        raise BuildError(f"{library.entry.label}:1", reason, REPORT)


def check_cells(cells: list[Cell]) -> None:
    """Raises a `BuildError` for a cell that is not valid Python by itself."""
    for cell in cells:
        if cell.kind == "code":
            lines = cell.lines[1:] if cell.is_file else cell.lines
            try:
                compile("\n".join(line.text for line in lines), cell.id, "exec", dont_inherit=True)
            except SyntaxError as error:
                raise invalid_cell(cell, lines, error) from None


def cell_table(cell: Cell, future: list[str]) -> symtable.SymbolTable:
    """The compiler's symbol table of a cell; what the program imports from `__future__` holds for all cells."""
    head = [Line(f"from __future__ import {', '.join(future)}")] if future else []
    lines = [*head, *cell.lines]
    try:
        return text_table("\n".join(line.text for line in lines))
    except SyntaxError as error:
        raise invalid_cell(cell, lines, error) from None


@functools.lru_cache(KEPT_CELLS)
def text_table(text: str) -> symtable.SymbolTable:
    """The compiler's symbol table of a text."""
    return symtable.symtable(text, "cell", "exec")


def invalid_cell(cell: Cell, lines: list[Line], error: SyntaxError) -> BuildError:
    """The error that says which line of the source makes a cell invalid."""
    line = lines[min(error.lineno or 1, len(lines)) - 1]
    return BuildError(
        f"{line.label}:{line.number}", f"the built cell {cell.id} is not valid Python: {error.msg}", REPORT
    )


def refuse_left_imports(library: Library, text: str) -> None:
    """Raises a `BuildError` for a cell with an import of a module that is flat, which no longer is there."""
    tops = "|".join(map(re.escape, library.packages)) or "!"
    if not re.search(rf"\b(?:import|from)\b[^\n]*\b(?:{tops})\b|\bfrom\s*\.", text.replace("\\\n", " ")):
        return  # no need to parse it
    for node in walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "." * node.level]
        for name in names:
            if (library.is_flat(name) and library.find(name)) or name.startswith("."):
                raise BuildError(f"{library.entry.label}:1", f"an import of {name} is left in the output", REPORT)


def check_unpacked(document: Document, text: str) -> None:
    """Unpacks the modules as the helper of a script will do, and compares them with what they should be."""
    unindent = re.compile("^    (# (?=from __future__ ))?", re.MULTILINE)
    found = {name: unindent.sub("", lines) for name, lines in re.findall(MODULE_PATTERN, text, re.MULTILINE)}
    wanted = {name: content for name, content in document.files.items() if content}
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            remedy = "build a notebook, or change lines that begin with a form feed or look like a module's head"
            raise BuildError(f"{name}:1", "its text cannot be carried in a script", remedy)


def check_script(text: str, name: str, cells: list[Cell]) -> None:
    """Raises a `BuildError` for a script, made of some cells, that is not valid Python."""
    try:
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        check_cells(cells)
        reason = f"what was built is not valid Python: {error.msg}: {(error.text or '').strip()}"
        raise BuildError(f"{name}:{error.lineno or 1}", reason, REPORT) from None


def unresolved_names(tables: list[symtable.SymbolTable]) -> set[str]:
    """The global names that are read in some part of a program and bound in none."""
    bound, read = global_names(*tables)
    return read - bound - set(dir(builtins)) - IMPLICIT_NAMES


def private_texts(root: Path) -> dict[str, str]:
    """Paths of this machine, which must not be published."""
    found = {
        str(Path.home()): "your home folder",
        str(root): "the folder of the checkout",
        os.getcwd(): "the current folder",
    }
    return {text: about for text, about in found.items() if len(text) > 1}


def find_leaks(cells: list[Cell], root: Path) -> list[str]:
    """What must not be published: secrets, and paths of this machine; one message for each."""
    wanted = [(about, texts, re.compile(pattern)) for about, (texts, pattern) in SECRETS.items()]
    for text, about in private_texts(root).items():
        pattern = re.compile(r"(?<![\w.-])" + re.escape(text) + r"(?![\w-])")
        wanted.append((f"the path of {about}", (text,), pattern))
    found = []
    for cell in cells:
        content = cell.text
        held = [
            (about, pattern)
            for about, texts, pattern in wanted
            if any(text in content for text in texts) and pattern.search(content)
        ]
        for line in cell.lines if held else []:
            where = f"{line.label}:{line.number}" if line.label else f"cell {cell.id}"
            found += [f"{where}: holds {about}" for about, pattern in held if pattern.search(line.text)]
    return found
