"""The last look at an output: it compiles, has no unknown name, no import of flat packages, no secret."""

import ast
import builtins
import os
import re
import symtable
from pathlib import Path

from flattener.cells import Cell
from flattener.documents import Document
from flattener.entries import global_names
from flattener.errors import BuildError
from flattener.modules_style import MODULE_PATTERN

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
SECRETS = {
    "a Kaggle key": r"""["']key["']\s*:\s*["'][0-9a-f]{32}["']|KAGGLE_KEY["'\]\s]*=\s*["'][0-9a-f]{32}""",
    "a Kaggle token": r"KGAT_[0-9A-Za-z]{16,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}


def check_document(document: Document, cells: list[Cell]) -> None:
    """Refuses an output that cannot run; each refusal is a bug of the flattener, apart from those with a remedy."""
    library = document.library
    for cell in cells:
        if cell.kind == "code":
            lines = cell.lines[1:] if cell.is_file else cell.lines
            try:
                compile("\n".join(line.text for line in lines), cell.id, "exec", dont_inherit=True)
            except SyntaxError as error:
                line = lines[min(error.lineno or 1, len(lines)) - 1]
                reason = f"the built cell {cell.id} is not valid Python: {error.msg}"
                raise BuildError(f"{line.label}:{line.number}", reason, REPORT) from None
    running = [cell for cell in cells if cell.kind == "code" and not cell.is_file]
    compile_text("\n".join(cell.text for cell in running), "the flat program")
    if document.form == "script" and library.apart:
        check_unpacked(document, "\n".join(cell.text for cell in running))
    text = "\n".join(cell.text for cell in running if not cell.is_module)
    for node in ast.walk(ast.parse(text)) if document.program else []:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "." * node.level]
        for name in names:
            if (library.is_flat(name) and library.find(name)) or name.startswith("."):
                place = f"{document.library.entry.label}:1"
                raise BuildError(place, f"an import of {name} is left in the output", REPORT)
    known = set().union(*(unresolved_names(module.text) for module in library.sources.values()))
    unknown = unresolved_names(text) - known
    if unknown:
        reason = f"names without a meaning in the output: {', '.join(sorted(unknown))}"
        raise BuildError(f"{document.library.entry.label}:1", reason, REPORT)


def check_unpacked(document: Document, text: str) -> None:
    """Unpacks the modules as the helper of a script will do, and compares them with what they should be."""
    unindent = re.compile("^    (# (?=from __future__ ))?", re.MULTILINE)
    found = {name: unindent.sub("", lines) for name, lines in re.findall(MODULE_PATTERN, text, re.MULTILINE)}
    wanted = {name: content for name, content in document.files.items() if content}
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            remedy = "build a notebook, or change lines that begin with a form feed or look like a module's head"
            raise BuildError(f"{name}:1", "its text cannot be carried in a script", remedy)


def compile_text(text: str, name: str) -> None:
    """Raises a `BuildError` for a text that is not valid Python."""
    try:
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        reason = f"what was built is not valid Python: {error.msg}: {(error.text or '').strip()}"
        raise BuildError(f"{name}:{error.lineno or 1}", reason, REPORT) from None


def unresolved_names(text: str) -> set[str]:
    """The global names that are read somewhere and bound nowhere."""
    bound, read = global_names(symtable.symtable(text, "<flat program>", "exec"))
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
    found = []
    private = {re.compile(re.escape(text) + r"(?![\w-])"): about for text, about in private_texts(root).items()}
    for cell in cells:
        for line in cell.lines:
            where = f"{line.label}:{line.number}" if line.label else f"cell {cell.id}"
            found += [f"{where}: holds {about}" for about, pattern in SECRETS.items() if re.search(pattern, line.text)]
            for pattern, about in private.items():
                if pattern.search(line.text):
                    found.append(f"{where}: holds the path of {about}")
    return found
