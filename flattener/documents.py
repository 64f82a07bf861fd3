"""The cells of a program in their order: title, contents, settings, imports, modules, entry."""

import ast
import bisect
import collections
import dataclasses
import hashlib
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from flattener.arguments import reads_arguments
from flattener.cells import (
    FOLDED,
    SCRIPT_HEAD,
    Cell,
    EntryCell,
    cell_id,
    code,
    dependencies,
    entry_cells,
    install_lines,
    markdown,
)
from flattener.emission import Emitter, EntryEmitter, FlatEmitter, import_text, renamed_alias
from flattener.endings import calls_exit, exit_lines, exiting_statements, guarded
from flattener.entries import Part, argument_lines, file_line, place_in_parts
from flattener.event_loop import HELPER, starts_event_loops
from flattener.library import Library
from flattener.lines import Line, join_blocks, split_blocks
from flattener.loading import Chunk
from flattener.modules_style import (
    MODULE_PATTERN,
    PLACE_ENTRY,
    PREPARE,
    UNPACK,
    WRITE_FILES,
    ModuleText,
    file_literals,
    helper_lines,
)
from flattener.named_files import NamedFiles
from flattener.naming import Naming, import_path
from flattener.program import Program
from flattener.reach import Reach
from flattener.shell import refuse_shell_edits, shell_edits
from flattener.source import Module, first_line, last_line, python_literal
from flattener.unused import only_defines, unused_statements

BINDERS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


class Document:
    """The cells of a program, before title and build id are put in: modules in modules style, flat ones, the entry.

    Attributes:
        body: the cells of the modules and of the entry.
        sections: anchor, title and summary of each section.
        imports: the cell of the third-party imports.
        future: the features that the program imports from `__future__`.
        program, naming: of the flat modules; None if there are none.
        settings: the cell of the entry that is tagged `parameters`.
        reasons: module in modules style -> why it is not flat.
        files: path -> what a module in modules style has to be, once it is unpacked.
        opened: path -> content of the files that the program opens, and that no module's cell writes.
        unused: (module, name) of the definitions that modules in modules style leave out.
    """

    def __init__(self, library: Library, reach: Reach, form: str, reasons: dict[str, str]) -> None:
        self.library, self.reach, self.form, self.reasons = library, reach, form, reasons
        self.settings: Cell | None = None
        self.imports: Cell | None = None
        self.sections: list[tuple[str, str, str]] = []
        self.future: list[str] = []
        self.files: dict[str, str] = {}
        self.body: list[Cell] = []
        self.unused: list[tuple[str, str]] = []
        self.program: Program | None = None
        self.naming: Naming | None = None
        if form == "notebook":
            refuse_shell_edits(library.entry, reach.all_words())
        self.marks: set[int] = set()  # lines of the entry
        self.cells_of_parts = [self.cells_of_part(part) for part in library.parts]
        self.exits = exiting_statements(library.entry, reach.modules.values())
        self.opened = dict(reach.named.files) if reach.named else {}
        if library.apart:
            self.add_apart()
        if reach.named and reach.named.files and (self.opened or reach.named.entry_file):
            self.add_program_files(reach.named)
        if library.runs_as_module and library.entry_package in library.apart:
            lines = [f'__import__("{library.entry_package}")  # Python loads the package of a module before it']
            self.body.append(code("cell-package", lines))

    def cells_of_part(self, part: Part) -> list[EntryCell]:
        """The cells of a script that is part of the entry; notes their marks."""
        cells = [
            cell for cell in entry_cells(self.library.entry) if cell.first <= part.last and cell.last >= part.first
        ]
        begun = EntryCell("code", [], part.first, cells[0].last)  # what stands above the first mark
        cells = [cell if cell.first >= part.first else begun for cell in cells]
        cells[-1] = dataclasses.replace(cells[-1], last=part.last)
        if not self.library.is_kernel and any(self.code_in(cell) for cell in cells if cell.kind == "markdown"):
            return [
                EntryCell("code", [], part.first, part.last)
            ]  # `# %% [markdown]` means something else to this script
        self.marks |= {cell.first - 1 for cell in cells[1:]}
        return cells

    def hidden_lines(self) -> set[int]:
        """The lines of the entry that are not for the output: its heads, the marks of its cells, its markdown cells."""
        entry = self.library.entry
        skipped = set(self.marks)
        for head in SCRIPT_HEAD.finditer(entry.text):
            skipped |= set(range(entry.line_of(head.start()), entry.line_of(head.end() - 1) + 1))
        for cell in itertools.chain(*self.cells_of_parts):
            if cell.kind == "markdown":
                skipped |= set(range(cell.first, cell.last + 1))
                for node in self.code_in(cell):
                    entry.refuse(node, "code in a markdown cell", "begin a code cell with `# %%`")
        return skipped

    def code_in(self, cell: EntryCell) -> list[ast.stmt]:
        """The statements of the entry that lie in a cell."""
        return [node for node in self.library.entry.body if cell.first <= node.lineno <= cell.last]

    # --- modules in modules style ---

    def add_apart(self) -> None:
        """Adds the modules in modules style, each as a cell, and the helper that makes files of them."""
        modules = [module for name, module in self.reach.modules.items() if name in self.library.apart]
        modules = [module for module in modules if self.library.path_of(module.name) is not None]
        unused: set[tuple[str, int]] = set()
        if not self.reach.suite and not self.reach.opens:
            contents = [*self.reach.files.values(), *(self.reach.named.files.values() if self.reach.named else ())]
            texts = [content.decode("utf-8", "ignore") for content in contents]
            texts += [name for names in self.reach.kept.values() for name in names]
            unused = unused_statements(list(self.reach.modules.values()), self.library.entry, texts)
        self.unused = sorted(
            (name, only_defines(self.reach.modules[name].body[index], self.reach.modules[name]) or "")
            for name, index in unused
        )
        cells: list[Cell] = []
        empty: list[str] = []
        files = self.reach.files | (self.reach.named.module_files if self.reach.named else {})
        for module in modules:
            text = ModuleText(module, unused)
            source = self.opened.pop(module.label, None) if self.form == "notebook" else None
            if source:  # the program reads the file that the module's cell writes: byte for byte, then
                text.lines = [Line(line, module.label, number) for number, line in enumerate(module.lines, 1)]
                if "\n".join(text.texts).encode() != source or not source.endswith(b"\n") or shell_edits(module):
                    files[module.label] = source
                    continue
            if not text.lines:
                self.files[module.label] = ""
                empty.append(module.label)
                continue
            if shell_edits(module) if self.form == "notebook" else text.cannot_be_block(module):
                files[module.label] = ("\n".join(text.texts) + "\n").encode()  # a cell or a block would change it
                continue
            if self.form == "script":
                text.make_unambiguous()
            self.files[module.label] = "\n".join(text.texts) + "\n"
            anchor = self.add_heading(module, f"`{module.label}`", module.docstring.split("\n\n")[0], cells)
            if self.form == "notebook":
                lines = [Line(f"%%writefile {module.label}"), *text.lines]
            else:
                # A script that is imported has the name of the entry: its block must not run then.
                own = module.name == Path(self.library.entry.label).stem
                lines = text.in_script(module.label if own else module.name, module.label)
            cells.append(Cell("code", cell_id(anchor), lines))
        template = UNPACK
        values: dict[str, Any] = {"PATTERN": MODULE_PATTERN, "EMPTY": empty}
        if self.form == "notebook":
            folders = {str(Path(name).parent) for name in [*self.files, *files]}
            template, values = PREPARE, {"EMPTY": empty, "FOLDERS": sorted(folders)}
        values["ROOTS"] = sorted({"", *self.library.roots.values()}, reverse=True)
        helper = helper_lines(template, self.reach.starts_processes, bool(files), values)
        helpers = [code("cell-helper", helper, metadata=FOLDED)]
        if files:
            first, *others = file_literals(files)
            literals = ["import base64, zlib", "", f"PACKAGE_FILES = {first}", *others]
            helpers.insert(0, code("cell-files", literals, metadata=FOLDED))
        # A notebook's cells write the modules, so its folders come first; a script's helper reads what stands above.
        self.body += [*helpers, *cells] if self.form == "notebook" else [*cells, *helpers]

    def add_program_files(self, named: NamedFiles) -> None:
        """Adds the files that the program opens by their place, and the helper that writes them there."""
        first, *others = file_literals(self.opened)
        lines = [f"PROGRAM_FILES = {first}", *others]
        if any("base64" in line for line in others):
            lines = ["import base64, zlib", "", *lines]
        self.body.append(code("cell-program-files", lines, metadata=FOLDED))
        helper = WRITE_FILES.strip("\n").split("\n")
        if named.entry_file:
            copied = "shutil.copyfile(__file__, path)" if self.form == "script" else 'open(path, "x").close()'
            place = PLACE_ENTRY.replace("ENTRY", python_literal(named.entry_file)).replace("COPY", copied)
            helper += ["", "", *place.strip("\n").split("\n")]
        self.body.append(code("cell-write-files", helper, metadata=FOLDED))

    def add_heading(self, module: Module, title: str, paragraphs: str, cells: list[Cell], part: int = 0) -> str:
        """Adds the heading of a module's section; returns its anchor."""
        anchor = module.name.replace(".", "-").replace("_", "-") + (f"-part-{part + 1}" if part else "")
        self.sections.append((anchor, title, paragraphs.split("\n\n")[0].split(". ")[0].replace("\n", " ").rstrip(".")))
        cells.append(markdown(cell_id(anchor, "text"), f'<a id="{anchor}"></a>\n## {title}\n\n{paragraphs}'))
        return anchor

    # --- the entry ---

    def add_entry(self, chunks: list[Chunk], position: int, emitter: Emitter) -> None:
        """Adds the cells of a chunk of the entry."""
        chunk, module = chunks[position], self.library.entry
        before = [other for other in chunks[:position] if other.module.is_entry]
        later = [index for other in chunks[position + 1 :] if other.module.is_entry for index in other.indices]
        is_last = not later
        start = last_line(module.body[before[-1].indices[-1]]) + 1 if before else 1
        end = len(module.lines) if is_last else last_line(module.body[chunk.indices[-1]])
        for part, cells in zip(self.library.parts, self.cells_of_parts, strict=True):
            made = self.part_cells(cells, chunk.indices, start, min(end, part.last), emitter)
            if not made:
                continue
            anchor, title = ("run", "Run") if is_last else (f"run-part-{position + 1}", "Run (first part)")
            about = ""
            if len(self.library.parts) > 1:
                anchor, title = (
                    "run-" + re.sub(r"\W+", "-", f"{part.module.label}-{position + 1}"),
                    f"`{part.module.label}`",
                )
                title += " (first part)" if any(module.body[index].lineno <= part.last for index in later) else ""
                about = part.module.docstring
            self.sections.append((anchor, title, ""))
            self.body.append(markdown(cell_id(anchor, "text"), f'<a id="{anchor}"></a>\n## {title}\n\n{about}'))
            for number, each in enumerate(made, 1):
                self.body.append(dataclasses.replace(each, id=cell_id(anchor, str(number))))

    def part_cells(
        self, cells: list[EntryCell], indices: list[int], start: int, end: int, emitter: Emitter
    ) -> list[Cell]:
        """The cells of those statements of a script that stand between two lines; finds the settings cell."""
        module, made = self.library.entry, list[Cell]()
        with_code = [cell for cell in cells if self.code_in(cell)]
        for cell in cells:
            first, last = max(cell.first, start), min(cell.last, end)
            if first > last:
                continue
            if cell.kind == "markdown":
                if start <= cell.first:
                    made.append(self.entry_markdown(module, cell))
                continue
            inside = [index for index in sorted(indices) if first <= module.body[index].lineno <= last]
            if "parameters" in cell.tags:
                self.settings = Cell(
                    "code", "cell-settings", join_blocks(emitter.blocks(inside, first, last)), ["parameters"]
                )
                self.check_settings(module, inside)
                continue
            goes_on = self.form == "notebook" or self.library.goes_on or cells is not self.cells_of_parts[-1]
            ending = [index for index in inside if index in self.exits and goes_on and cell is with_code[-1]]
            if ending and last == cell.last:
                texts = self.texts_with_exit(emitter, inside, first, last, ending[0], len(cells) > 1)
            else:
                blocks = emitter.blocks(inside, first, last)
                # The author of cells decides where they end; an entry without marks is split like a module.
                texts = [join_blocks(blocks)] if len(cells) > 1 else [self.quiet(text) for text in split_blocks(blocks)]
            made += [Cell("code", "", lines, cell.tags) for lines in texts if lines]
        return made

    def texts_with_exit(
        self, emitter: Emitter, indices: list[int], first: int, last: int, ending: int, marked: bool
    ) -> list[list[Line]]:
        """The texts of the cells of which the last one may end the program, from the statement `ending` on."""
        module = self.library.entry
        start = first_line(module.body[ending])
        while start > first and module.lines[start - 2].startswith("#"):
            start -= 1
        before = emitter.blocks([index for index in indices if index < ending], first, start - 1)
        words = set().union(*(facts.words for facts in self.reach.facts.values()))
        name = next(name for name in map("ended{}".format, ["", *range(len(words) + 1)]) if name not in words)
        rest = join_blocks(emitter.blocks([index for index in indices if index >= ending], start, last))
        rest = guarded(module, rest, name, self.form)
        if marked:
            return [[*join_blocks(before), Line(""), *rest] if before else rest]
        return [*(self.quiet(text) for text in split_blocks(before)), rest]

    def quiet(self, lines: list[Line], module: Module | None = None) -> list[Line]:
        """The lines of a cell with a semicolon after a last expression, whose value a notebook would show.

        Args:
            lines: of the cell.
            module: of which they are, to save reading them once more: most cells end with a definition.
        """
        if module and ends_with_definition(module, lines):
            return lines
        body = ast.parse("\n".join(line.text for line in lines)).body if self.form == "notebook" else []
        if body and isinstance(body[-1], ast.Expr) and getattr(getattr(body[-1].value, "func", 0), "id", "") != "print":
            at = last_line(body[-1]) - 1
            row = lines[at].text.encode()
            end = body[-1].end_col_offset
            lines[at] = lines[at]._replace(text=(row[:end] + b";" + row[end:]).decode())
        return lines

    def entry_markdown(self, module: Module, cell: EntryCell) -> Cell:
        """A markdown cell of the entry, its headings below those of the document."""
        lines = []
        for number in range(cell.first, cell.last + 1):
            text = re.sub(r"^# ?", "", module.lines[number - 1].rstrip())
            lines.append(Line(re.sub(r"^(#{1,2}) ", r"### ", text), module.label, number))
        while lines and not lines[-1].text:
            lines.pop()
        while lines and not lines[0].text:
            lines.pop(0)
        return Cell("markdown", "", lines)

    def check_settings(self, module: Module, indices: list[int]) -> None:
        """Refuses a settings cell that needs what stands above it: it comes first in the notebook."""
        for node in [module.body[index] for index in indices]:
            targets = node.targets if isinstance(node, ast.Assign) else []
            simple = bool(targets) and all(isinstance(target, ast.Name) for target in targets)
            try:
                ast.literal_eval(getattr(node, "value", ""))
            except ValueError:
                simple = False
            if not simple:
                reason = "the settings cell holds something else than NAME = literal"
                module.refuse(node, reason, "move it to another cell")

    # --- all cells ---

    def head_cells(self, settings: Cell | None) -> list[Cell]:
        """What stands before all modules: the entry's docstring, if it is read, and `from __future__ import`."""
        entry, words = self.library.entry, self.reach.facts["__main__"].words
        docstring: list[str] = []
        assignments: list[str] = []
        if "__doc__" in words and entry.docstring:
            start, end = entry.span(entry.body[0])
            docstring = entry.text[start:end].split("\n")
        if self.form == "notebook":
            assignments = ["__doc__ = " + docstring[0], *docstring[1:]] if docstring else []
            docstring = []
            is_placed = self.reach.named is not None and bool(self.reach.named.entry_file)
            if "__file__" in words and not is_placed:
                label = self.library.parts[0].module.label
                assignments.append(file_line(label))
        if "__package__" in words and self.library.entry_package:
            assignments.append(f"__package__ = {python_literal(self.library.entry_package)}")
        future = [f"from __future__ import {', '.join(self.future)}"] if self.future else []
        lines = [line for part in (docstring, future, assignments) if part for line in ["", *part]][1:]
        cells = [code("cell-head", lines)] if lines else []
        return [*cells, *self.command_cells(), *filter(None, [settings, self.imports])]

    def command_cells(self) -> list[Cell]:
        """The cells that stand for what a shell does before it starts a script: its arguments, what it needs."""
        parts, facts, cells = self.library.parts, self.reach.facts.values(), list[Cell]()
        is_notebook = self.form == "notebook"
        given = len(parts) > 1 or parts[0].arguments is not None
        if given or (is_notebook and reads_arguments(facts)):
            cells.append(code("cell-arguments", argument_lines(parts[0].module.label, parts[0].arguments)))
        needed = list(dict.fromkeys(name for part in parts for name in dependencies(part.module)))
        if is_notebook and needed:
            cells.append(code("cell-install", install_lines(needed)))
        facts_apart = [self.reach.facts[name] for name in self.library.apart if name in self.reach.facts]
        if is_notebook and any(map(calls_exit, facts)):
            cells.append(code("cell-exit", exit_lines(any(map(calls_exit, facts_apart)))))
        if is_notebook and starts_event_loops(facts):
            cells.append(code("cell-event-loop", HELPER.strip("\n").split("\n"), metadata=FOLDED))
        return cells

    def cells(self, title: str, intro: str, settings: Cell | None = None) -> list[Cell]:
        """All cells; `settings` stands in for the document's own settings cell."""
        lines = [f"- [{title}](#{anchor})" + (f": {about}" if about else "") for anchor, title, about in self.sections]
        contents = markdown("cell-contents", "**Contents**\n\n" + "\n".join(lines))
        first = markdown("cell-title", f"# {title}\n\n{intro}")
        cells = [first, contents, *self.head_cells(settings or self.settings), *self.body]
        return [self.placed(cell) for cell in cells] if len(self.library.parts) > 1 else cells

    def placed(self, cell: Cell) -> Cell:
        """A cell whose lines name the script that they come from, of several that make the entry."""
        library = self.library
        lines = [
            Line(line.text, *place_in_parts(library.parts, line.number)) if line.label == library.entry.label else line
            for line in cell.lines
        ]
        return dataclasses.replace(cell, lines=lines)

    def build_id(self) -> str:
        """12 hexadecimal digits that stand for the shipped source, before any setting is written into it."""
        digest = hashlib.sha256()
        for cell in [*self.head_cells(self.settings), *self.body]:
            digest.update(f"{cell.kind}\0{cell.text}\0".encode())
        return digest.hexdigest()[:12]


def ends_with_definition(module: Module, lines: list[Line]) -> bool:
    """Whether the last statement of a module that some lines hold binds a name, so that they give no value."""
    rows = {line.number for line in lines if line.label == module.label}
    index = bisect.bisect_right(module.body, max(rows, default=0), key=lambda node: node.lineno) - 1
    while index >= 0 and module.body[index].lineno not in rows:
        index -= 1
    return index >= 0 and isinstance(module.body[index], BINDERS)


class FlatDocument(Document):
    """The program with some modules, or all, in flat style."""

    def __init__(
        self, library: Library, reach: Reach, reasons: dict[str, str], program: Program, naming: Naming
    ) -> None:
        super().__init__(library, reach, program.form, reasons)
        self.program, self.naming = program, naming
        self.future = program.future
        self.imports = self.import_cell(program, naming)
        emitters = {
            module.name: FlatEmitter(
                program,
                naming,
                module,
                self.hidden_lines() if module.is_entry else set(),
                module.name in reach.shows,
                reach.named,
            )
            for module in program.modules
        }
        self.chunks_of: dict[str, list[Chunk]] = collections.defaultdict(list)
        for chunk in program.chunks:
            self.chunks_of[chunk.module.name].append(chunk)
        for position, chunk in enumerate(program.chunks):
            if chunk.module.is_entry:
                self.add_entry(program.chunks, position, emitters["__main__"])
            else:
                self.add_module(program.chunks, position, emitters[chunk.module.name])

    # --- imports ---

    def import_cell(self, program: Program, naming: Naming) -> Cell | None:
        """All third-party imports, each once: the standard library sorted, then the others in load order."""
        groups: dict[bool, tuple[dict[str, Line], dict[str, list[Line]]]] = {True: ({}, {}), False: ({}, {})}
        for meaning, sites in naming.externals.items():
            if not any(site in program.loader.now.hoisted for _, site, _ in sites):
                continue
            name = naming.final[meaning]
            plain, members = groups[meaning.module.partition(".")[0] in sys.stdlib_module_names]
            if meaning.attribute is not None:
                text = meaning.attribute + ("" if name == meaning.attribute else f" as {name}")
                first, site, _ = sites[0]
                members.setdefault(meaning.module, []).append(Line(text, first.label, site.node.lineno))
                continue
            paths = {import_path(site.node, alias) for _, site, alias in sites if site in program.loader.now.hoisted}
            plain_sites = [each for each in sites if isinstance(each[1].node, ast.Import)]
            for module, site, alias in [each for each in plain_sites if import_path(each[1].node, each[2]) in paths]:
                text = import_text(site.node, [renamed_alias(module, site.node, alias, name)], meaning.module)
                plain.setdefault(text, Line(text, module.label, site.node.lineno))
        lines: list[Line] = []
        for is_standard in (True, False):
            plain, members = groups[is_standard]
            found = [plain[text] for text in (sorted(plain) if is_standard else plain)]
            for origin in sorted(members) if is_standard else members:
                found += from_import_lines(origin, sorted(members[origin], key=lambda line: line.text))
            lines += [Line(""), *found] if lines and found else found
        return Cell("code", "cell-imports", lines) if lines else None

    # --- modules ---

    def add_module(self, chunks: list[Chunk], position: int, emitter: Emitter) -> None:
        """Adds the heading and the cells of a chunk of a flat module."""
        chunk, module = chunks[position], chunks[position].module
        parts = self.chunks_of[module.name]
        part = next(number for number, other in enumerate(parts) if other is chunk)
        first = 1 if part == 0 else last_line(module.body[parts[part - 1].indices[-1]]) + 1
        last = len(module.lines) if part == len(parts) - 1 else last_line(module.body[chunk.indices[-1]])
        cells = [cell for cell in split_blocks(emitter.blocks(chunk.indices, first, last)) if cell]
        if not cells:
            return
        title = f"`{module.label}`" + (f" ({part + 1} of {len(parts)})" if len(parts) > 1 else "")
        anchor = self.add_heading(module, title, module.docstring if part == 0 else "", self.body, part)
        for number, lines in enumerate(cells, 1):
            self.body.append(
                Cell("code", cell_id(anchor, str(number) if number > 1 else ""), self.quiet(lines, module))
            )


class ModulesDocument(Document):
    """The program with all modules in modules style, and the entry as it is."""

    def __init__(self, library: Library, reach: Reach, form: str, reasons: dict[str, str]) -> None:
        super().__init__(library, reach, form, reasons)
        self.future = sorted(library.entry.future)
        emitter = EntryEmitter(library, self.hidden_lines(), reach.named)
        self.add_entry([Chunk(library.entry, list(range(len(library.entry.body))))], 0, emitter)


def from_import_lines(module: str, members: list[Line]) -> list[Line]:
    """A `from ... import` statement for some names, on several lines if it is long."""
    head = members[0]._replace(text=f"from {module} import {', '.join(line.text for line in members)}")
    if len(head.text) <= 100:
        return [head]
    inner = [line._replace(text=f"    {line.text},") for line in members]
    return [head._replace(text=f"from {module} import ("), *inner, Line(")")]
