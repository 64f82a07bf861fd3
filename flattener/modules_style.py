"""The modules style, in which a module keeps a namespace, a name and a file of its own.

In a script a module is a block that never runs, in a notebook a `%%writefile` cell; a helper lets Python find them.
"""

import base64
import re
import zlib
from typing import Any

from flattener.lines import Line
from flattener.source import (
    CODING,
    Module,
    first_line,
    is_future_import,
    last_line,
    module_level_globals,
    python_literal,
)

INDENT = "    "
FUTURE = "from __future__ "
MODULE_HEAD = 'if __name__ == "{name}":  # {label}'
MODULE_HEAD_LINE = re.compile(r'if __name__ == ".+":  # \S+\.py$')
MODULE_PATTERN = r'^if __name__ == ".+":  # (\S+\.py)\n((?:(?:    .*)?\n)*    .*\n)'
UNPACK = '''
def unpack_modules():
    """Writes each module below, `if __name__ == ...`, as a file of its own, and lets Python find them."""
    import atexit, os, pathlib, re, shutil, sys, tempfile

    folder = pathlib.Path(tempfile.mkdtemp(prefix="flat-"))
    owner = os.getpid()  # a forked child that ends must not take its parent's folder away
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    blocks = re.findall(PATTERN, pathlib.Path(__file__).read_text(encoding="utf-8"), re.MULTILINE)
    unindent = re.compile("^    (# (?=from __future__ ))?", re.MULTILINE)
    files = {name: unindent.sub("", lines).encode() for name, lines in blocks}
    files |= dict.fromkeys(EMPTY, b"")
    files |= PACKAGE_FILES
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    roots = [str(folder / name) for name in ROOTS]
    sys.path[:0] = roots
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*roots, os.environ.get("PYTHONPATH")]))


if __name__ != "__mp_main__":  # a process that this one starts finds the modules where they are
    unpack_modules()
del unpack_modules
'''
PREPARE = '''
def prepare_folders():
    """Makes the folders for the modules that the next cells write, and lets Python find them."""
    import os, pathlib, sys

    files = {}
    files |= dict.fromkeys(EMPTY, b"")
    files |= PACKAGE_FILES
    for name in FOLDERS:
        pathlib.Path(name).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        pathlib.Path(name).write_bytes(content)
    roots = [str(pathlib.Path.cwd() / name) for name in ROOTS]
    sys.path[:0] = roots
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*roots, os.environ.get("PYTHONPATH")]))


prepare_folders()
del prepare_folders
'''

WRITE_FILES = '''
def write_files():
    """Writes the files that the program reads to where it looks for them; a file that is there already stays."""
    import pathlib, sys

    for name, content in PROGRAM_FILES.items():
        path = pathlib.Path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        elif path.read_bytes() != content:
            print(f"{name}: another file than the one that was shipped lies here, and is used", file=sys.stderr)


write_files()
del write_files, PROGRAM_FILES
'''

PLACE_ENTRY = '''
def place_entry():
    """Where the entry would lie: beside the files that it reads."""
    import os, shutil

    path = os.path.abspath(ENTRY)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        COPY
    return path


__file__ = place_entry()
del place_entry
'''


def helper_lines(template: str, processes: bool, has_files: bool, values: dict[str, Any]) -> list[str]:
    """A helper's lines, without those that this program does not need.

    Args:
        template: `UNPACK` or `PREPARE`.
        processes: whether the program starts Python anew.
        has_files: whether it has a variable `PACKAGE_FILES`.
        values: for the names in capitals of the template.
    """
    lines = template.strip("\n").split("\n")
    needless = [] if values["EMPTY"] else ["EMPTY"]
    needless += [] if has_files else ["PACKAGE_FILES"]
    needless += [] if processes else ["PYTHONPATH"]
    lines = [line for line in lines if not any(word in line for word in needless)]
    if not values["EMPTY"] and not has_files and template is PREPARE:
        lines = [line for line in lines if "files" not in line and "content" not in line]
    for name, value in values.items():
        literal = python_literal(value).replace("\\", r"\\")
        lines = [re.sub(rf"\b{name}\b", literal, line) for line in lines]
    return [line + ", PACKAGE_FILES" if has_files and line.startswith("del ") else line for line in lines]


class ModuleText:
    """One module's lines in modules style: its source, without the definitions that nothing mentions.

    Attributes:
        lines: the text.
        future: the lines of the source that import from `__future__`.
    """

    def __init__(self, module: Module, unused: set[tuple[str, int]]) -> None:
        gone: set[int] = set()
        for index, node in enumerate(module.body):
            if (module.name, index) in unused and self.stands_alone(module, index):
                first = first_line(node)
                while first > 1 and module.lines[first - 2].startswith("#"):
                    first -= 1  # its comments go with it
                last = last_line(node)
                while last < len(module.lines) and not module.lines[last].strip():
                    last += 1
                gone |= set(range(first, last + 1))
        future = {
            number
            for node in module.body
            if is_future_import(node)
            for number in range(node.lineno, last_line(node) + 1)
        }
        self.future = sorted(future)
        self.lines = []
        for number, text in enumerate(module.lines, 1):
            if number <= 2 and CODING.match(text):
                text = ""  # it is written as UTF-8
            if number not in gone:
                self.lines.append(Line(text.rstrip("\r"), module.label, number))
        while self.lines and not self.lines[-1].text.strip():
            self.lines.pop()
        if len(future) > 1 or any(not module.lines[number - 1].startswith(FUTURE) for number in future):
            self.join_future(module)

    def stands_alone(self, module: Module, index: int) -> bool:
        """Whether a statement shares no line with another."""
        node = module.body[index]
        others = module.body[max(0, index - 1) : index] + module.body[index + 1 : index + 2]
        return all(last_line(other) < first_line(node) or first_line(other) > last_line(node) for other in others)

    def join_future(self, module: Module) -> None:
        """Makes one line of all `from __future__ import`, which is one comment in a script."""
        first = self.future[0]
        text = f"{FUTURE}import {', '.join(sorted(module.future))}"
        self.lines = [
            line._replace(text=text if line.number == first else "") if line.number in self.future else line
            for line in self.lines
        ]

    def in_script(self, name: str, label: str) -> list[Line]:
        """The lines as a block that never runs in a script; `from __future__` is a comment there."""
        lines = [Line(MODULE_HEAD.format(name=name, label=label), label, 1)]
        for line in self.lines:
            text = f"# {line.text}" if line.text.startswith(FUTURE) else line.text
            lines.append(line._replace(text=INDENT + text if text else ""))
        return lines

    def cannot_be_block(self, module: Module) -> bool:
        """Whether a block of a script would change it.

        So it is if a string has a line that looks like a commented `from __future__ import`, and if it has `global` at
        module level, which would concern the script's own variables.
        """
        if any(True for _ in module_level_globals(module)):
            return True
        rows = {number for number, line in enumerate(module.lines, 1) if line.startswith(f"# {FUTURE}")}
        return bool(rows and rows - {comment.line for comment in module.comments})

    def make_unambiguous(self) -> None:
        """Changes what a block of a script cannot hold: comments that look like its own, or no statement at all."""
        for at, line in enumerate(self.lines):
            if line.text.startswith(f"# {FUTURE}"):
                self.lines[at] = line._replace(text=f"#  {line.text[2:]}")
        if all(not text.strip() or text.startswith((FUTURE, "#")) for text in self.texts):
            self.lines.append(Line("pass"))

    @property
    def texts(self) -> list[str]:
        """The lines without their places."""
        return [line.text for line in self.lines]


def file_literals(files: dict[str, bytes]) -> list[str]:
    """A dictionary's lines: path -> content, as text line by line, or as compressed bytes."""
    lines = ["{"]
    for name, content in sorted(files.items()):
        try:
            text = content.decode("utf-8")
            is_text = len(content) <= 20_000 and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
        except UnicodeError:
            is_text = False
        if not is_text:
            packed = base64.b85encode(zlib.compress(content, 9)).decode()
            lines.append(f"    {python_literal(name)}: zlib.decompress(base64.b85decode(")
            lines += [f"        {python_literal(packed[at : at + 100])}" for at in range(0, len(packed), 100)]
            lines.append("    )),")
            continue
        lines.append(f"    {python_literal(name)}: (")
        lines += [f"        {python_literal(line)}" for line in re.findall(r"[^\n]*\n|[^\n]+", text) or [""]]
        lines.append("    ).encode(),")
    return [*lines, "}"]
