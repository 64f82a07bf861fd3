"""The text of each flat module: edits of the source, so that layout and comments stay."""

import ast
import bisect
import re

from flattener.library import External, Library, ModuleRef, Var
from flattener.lines import Block, Line
from flattener.named_files import NamedFiles
from flattener.names import ImportSite, Use
from flattener.naming import Naming, import_path
from flattener.program import Program
from flattener.source import (
    CODING,
    PRAGMA,
    Module,
    first_line,
    is_docstring,
    is_future_import,
    last_line,
    module_level_globals,
    python_literal,
)
from flattener.trees import walk

# A comment that heads a group of imports: it goes with them.
IMPORTS_HEAD = re.compile(
    r"(?i)#[#=*\-\s]*(?:local|own|our|project|standard|std|stdlib|third|external|internal|system|built-?in|"
    r"(?:[\w'-]+\s+){0,3}(?:imports?|librar(?:y|ies)|packages?|modules?|dependencies))\b[\w\s./:&()=*#\-]{0,40}$"
)


class Emitter:
    """The text of one module with edits in it, statement by statement.

    Attributes:
        edits: start and end as offsets into the module's text, and what stands there instead.
        skipped_lines: the lines that are not for the output: `#!`, a kernel's head, the marks of cells.
    """

    def __init__(self, module: Module, skipped: set[int]) -> None:
        self.module = module
        self.edits: list[tuple[int, int, str]] = []
        heads = module.comments_on(1, 2)
        heads = [comment for comment in heads if comment.text.startswith("#!") or CODING.match(comment.text)]
        self.skipped_lines = skipped | {comment.line for comment in heads}

    def keeps(self, index: int) -> bool:
        """Whether a statement of the module is part of the output."""
        return True

    def edited(self, first: int, last: int) -> list[Line]:
        """The lines from `first` to `last` of the source, edited."""
        module = self.module
        position, stop = module.starts[first - 1], module.starts[last] - 1
        pieces: list[tuple[str, int]] = []

        def copy(start: int, end: int) -> None:
            number = module.line_of(start)
            for part in module.text[start:end].splitlines(keepends=True) if start < end else []:
                pieces.append((part, number))
                number += part.endswith("\n")

        for start, end, text in self.edits_between(position, stop):
            if start < position:
                remedy = "report this as a bug of build_kernel.py"
                module.refuse(module.line_of(start), "two edits of one place", remedy)
            copy(position, start)
            pieces.append((text, module.line_of(start)))
            position = end
        copy(position, stop)
        return self.joined(pieces)

    def joined(self, pieces: list[tuple[str, int]]) -> list[Line]:
        """The lines of some pieces of text, of which each has the number of the source line that it comes from."""
        lines: list[Line] = []
        text, number = "", 0
        for piece, source in pieces:
            for index, part in enumerate(piece.split("\n")):
                if index:
                    lines.append(Line(text, self.module.label, number or source))
                    text, number = "", 0
                text += part
                number = number or (source if part else 0)
        if text:
            lines.append(Line(text, self.module.label, number))
        return lines

    def edits_between(self, start: int, stop: int) -> list[tuple[int, int, str]]:
        """The edits that begin between two offsets, both included; they are in order."""
        return self.edits[bisect.bisect_left(self.edits, (start,)) : bisect.bisect_left(self.edits, (stop + 1,))]

    def blocks(self, indices: list[int], first: int, last: int) -> list[Block]:
        """The blocks of some statements, which lie with their comments between two lines."""
        module = self.module
        found: list[Block] = []
        waiting: list[Line] = []
        position, gap = first, 0
        for group in self.groups(indices):
            start = min(first_line(module.body[index]) for index in group)
            end = max(last_line(module.body[index]) for index in group)
            free, attached, blank = self.comments_above(position, start)
            if free:
                waiting = free
            gap = max(gap, blank)
            lines = self.statement_lines(group, start, end)
            if self.is_import(group) and all(line.text.lstrip().startswith("#") for line in lines):
                notes = [line for line in attached if not PRAGMA.match(line.text)]
                lines = [line for line in notes if not IMPORTS_HEAD.match(line.text)] + lines
                attached = []
            if lines:
                if waiting:
                    found.append(Block(waiting, gap))
                    gap, waiting = 1, []
                found.append(Block(attached + lines, gap))
                gap = 0
            position = end + 1
        free, attached, blank = self.comments_above(position, last + 1)
        if free or attached:
            between = [Line("")] if free and attached else []
            found.append(Block(free + between + attached, max(gap, blank)))
        return found

    def groups(self, indices: list[int]) -> list[list[int]]:
        """The statements in groups, of which each shares no line with another."""
        groups: list[list[int]] = []
        for index in indices:
            node = self.module.body[index]
            if groups and last_line(self.module.body[groups[-1][-1]]) >= first_line(node):
                groups[-1].append(index)
            else:
                groups.append([index])
        return groups

    def statement_lines(self, group: list[int], start: int, end: int) -> list[Line]:
        """The edited lines of statements that share lines; none if they are left out."""
        module = self.module
        if group[0] == 0 and module.docstring and len(group) == 1:
            return self.comments_on(module.body[0])  # the docstring stands above, as text
        kept = [index for index in group if self.keeps(index)]
        if not kept:
            return []
        for index in group:
            if index not in kept:
                reason = "several statements on a line, of which some are not needed"
                module.refuse(module.body[index], reason, "use a line for each")
        return [line for line in self.edited(start, end) if line.text.strip() or not self.is_import(group)]

    def comments_on(self, node: ast.stmt) -> list[Line]:
        """The comments on a statement's lines."""
        rows = self.module.comments_on(node.lineno, last_line(node))
        return [Line(comment.text, self.module.label, comment.line) for comment in rows]

    def is_import(self, group: list[int]) -> bool:
        """Whether statements only import."""
        return all(isinstance(self.module.body[index], ast.Import | ast.ImportFrom) for index in group)

    def comments_above(self, first: int, stop: int) -> tuple[list[Line], list[Line], int]:
        """What stands between two statements.

        Returns:
            The comments that stand alone, those directly above the second statement, and the number of blank lines.
        """
        module = self.module
        rows = [
            Line("" if number in self.skipped_lines else module.lines[number - 1].rstrip(), module.label, number)
            for number in range(first, min(stop, len(module.lines) + 1))
        ]
        split = len(rows)
        while split and rows[split - 1].text.strip():
            split -= 1
        free = rows[:split]
        while free and not free[0].text.strip():
            free.pop(0)
        while free and not free[-1].text.strip():
            free.pop()
        blank = next((count for count, row in enumerate(rows) if row.text.strip()), len(rows))
        return free, rows[split:], min(2, blank)

    def drop_globals(self) -> None:
        """Replaces `global` at module level, which does nothing there, and which a longer program may not take."""
        for statement in module_level_globals(self.module):
            self.replace_statement(statement, ["pass"])

    def edit_config_paths(self, named: NamedFiles | None) -> None:
        """Writes the folder of hydra's settings in full: it is looked for beside a file that no longer is there."""
        for node, (module, target) in named.config_paths.items() if named else ():
            if module == self.module.name:
                text = python_literal(target)
                if named and node not in named.relative_paths:
                    text = f'__import__("os").path.abspath({text})'
                self.edits.append((*self.module.span(node), text))

    def replace_statement(self, node: ast.stmt, parts: list[str]) -> None:
        """Replaces a statement; without `parts` its lines are removed, apart from the comments on them."""
        module = self.module
        start, end = module.span(node)
        line_start, line_end = module.starts[node.lineno - 1], module.starts[last_line(node)] - 1
        before, after = module.text[line_start:start], module.text[end:line_end]
        on_lines = module.comments_on(node.lineno, last_line(node))
        comments = [comment.text for comment in on_lines if not PRAGMA.match(comment.text)]
        if not parts and last_line(node) > node.lineno and isinstance(node, ast.Import | ast.ImportFrom):
            comments = []  # on the names of an import that is gone
        if before.strip() or (after.strip() and not after.lstrip().startswith("#")):
            if parts:
                self.edits.append((start, end, "; ".join(parts)))
            else:  # another statement stands on the same line
                following = re.compile(r"[ \t]*;[ \t]*").match(module.text, end)
                if following:
                    end = following.end()
                elif not before.rstrip().endswith(";"):  # if x: import y
                    parts = ["pass"]
                self.edits.append((start, end, "; ".join(parts)))
            return
        if parts and comments:
            parts = [*parts[:-1], parts[-1] + "  " + "  ".join(comments)]
        lines = [before + line for line in parts or comments]
        if lines:
            self.edits.append((line_start, line_end, "\n".join(lines)))
        else:
            self.edits.append((line_start, line_end + 1, ""))


class FlatEmitter(Emitter):
    """A module in flat style: its names are those of the one namespace, its imports of flat modules are gone.

    Where the program shows classes, each class says which module it is of: `shows` tells.
    """

    def __init__(
        self,
        program: Program,
        naming: Naming,
        module: Module,
        skipped: set[int],
        shows: bool = False,
        named: NamedFiles | None = None,
    ) -> None:
        super().__init__(module, skipped)
        self.edit_config_paths(named)
        self.program, self.naming = program, naming
        for index in range(len(module.body)):
            if (module.name, index) in program.kept:
                self.edit_references(index)
                if shows and not module.is_entry:
                    self.name_module(module.body[index])
        for use in program.own_names[module.name]:
            if (module.name, use.index) in program.kept:
                self.edit_own_name(use)
        self.edit_imports()
        self.drop_globals()
        self.edits.sort()

    def keeps(self, index: int) -> bool:
        """Whether a statement is part of the output; an import is, as an edit may leave some of it."""
        node = self.module.body[index]
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        return (self.module.name, index) in self.program.kept or index in self.module.dead or is_import

    def edit_references(self, index: int) -> None:
        """Renames what a statement refers to."""
        text = self.module.text
        for reference in self.program.references.get((self.module.name, index), []):
            use, name = reference.use, self.naming.final[reference.meaning]
            is_needless = use.action == "declare" and use.scope.kind == "module"
            if reference.start == reference.end or is_needless:
                continue
            if use.action == "define":
                if self.naming.is_renamed(reference.meaning):
                    self.add_alias(use, name)
            elif text[reference.start : reference.end] != name:
                start, end = reference.start, reference.end
                echo = re.compile(r"\s*=\s*(?=[!:}])").match(text, end) if use.in_string else None
                if echo and text[start - 1] == "{":  # f"{EPS=}" has to print EPS
                    conversion = "!r" if text[echo.end()] == "}" else ""
                    name = text[start : echo.end()] + "{" + name + conversion
                    start, end = start - 1, echo.end()
                self.edits.append((start, end, name))

    def name_module(self, statement: ast.stmt) -> None:
        """Adds `__module__ = "pkg.a"` to each class of a statement, so that a message names the class as before."""
        text, starts = self.module.text, self.module.starts
        line = f'__module__ = "{self.module.name}"'
        for node in [part for part in walk(statement) if isinstance(part, ast.ClassDef)]:
            if node.decorator_list and not node.name.startswith("__"):
                # A decorator such as `dataclass` looks up the module of its class, which is the main program here.
                end = starts[last_line(node)] - 1
                self.edits.append((end, end, "\n" + " " * node.col_offset + f"{node.name}.{line}"))
                continue
            first = node.body[0]
            at = starts[first_line(first) - 1]
            indent = text[at : at + len(text[at:]) - len(text[at:].lstrip(" \t"))]
            own_line = text[at:].startswith(indent + "@") or not text[at : self.module.span(first)[0]].strip()
            if is_docstring(first):
                at, end = self.module.span(first)[1], starts[last_line(first)] - 1
                alone = own_line and not text[at:end].split("#")[0].strip()
                self.edits.append((end, end, f"\n{indent}{line}") if alone else (at, at, f"; {line}"))
            elif own_line:
                self.edits.append((at + len(indent), at + len(indent), f"{line}\n{indent}"))
            else:
                at = self.module.span(first)[0]
                self.edits.append((at, at, f"{line}; "))

    def add_alias(self, use: Use, name: str) -> None:
        """Adds a line below a renamed definition that gives it its new name."""
        node = use.node
        end = self.module.starts[last_line(node)] - 1
        lines = [f"{name} = {use.name}"]
        if use.name in self.naming.reserved:
            lines.append(f"del {use.name}  # other code means the builtin")
        self.edits.append((end, end, "".join("\n" + " " * node.col_offset + line for line in lines)))

    def edit_own_name(self, use: Use) -> None:
        """Writes the module's name in the place of `__name__`."""
        if use.action != "load" or use.in_string:
            self.module.refuse(use.node, "`__name__` in this place", "write the module's name as a string")
        self.edits.append((use.start, use.end, f'"{self.module.name}"'))

    # --- imports ---

    def edit_imports(self) -> None:
        """Removes the imports of flat modules and those that move to the top; the comments on them stay."""
        gone: set[ast.stmt] = set()
        rewritten: dict[ast.stmt, list[str]] = {}
        for site in self.program.names[self.module.name].sites:
            parts = self.import_parts(site)
            if parts is None:
                continue
            rewritten[site.node] = parts
            if not parts:
                gone.add(site.node)
        for index in self.module.dead:
            rewritten[self.module.body[index]] = []
        for node in self.module.body:
            if is_future_import(node):
                rewritten[node] = []
        for node, parts in rewritten.items():
            block = self.module.siblings[node]
            is_inner = block is not self.module.body
            if not parts and is_inner and block[0] is node and all(other in gone for other in block):
                parts = ["pass"]
            self.replace_statement(node, parts)

    def import_parts(self, site: ImportSite) -> list[str] | None:
        """The statements that an import statement becomes; None: it stays as it is."""
        library, node = self.program.library, site.node
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and not site.uses:
            return [] if library.is_flat(library.origin(self.module, node)) else None
        if site.scope.kind == "module":
            return self.import_in_module(site)
        if site.scope.kind == "class" and site.at_load:
            return self.import_in_class(site)
        outside = [use.alias for use in site.uses if isinstance(library.target(self.module, use), External)]
        if len(outside) == len(site.uses) and not is_relative(node):
            return None
        return [self.import_text(node, outside)] if outside else []

    def import_in_class(self, site: ImportSite) -> list[str] | None:
        """The statements that an import in the body of a class becomes; None: it stays as it is."""
        parts, changed = [], is_relative(site.node)
        for use in site.uses:
            if isinstance(self.program.library.target(self.module, use), External):
                parts.append(self.import_text(site.node, [use.alias]))
            else:
                changed = True
                parts.append(f"{use.name} = {self.imported_name(use)}")
        return parts if changed else None

    def import_in_module(self, site: ImportSite) -> list[str] | None:
        """The statements that an import at module level becomes; None: it stays as it is."""
        node, final = site.node, self.naming.final
        kept = (self.module.name, site.index) in self.program.kept
        parts, changed = [], is_relative(node)
        for use in site.uses:
            is_external = isinstance(self.program.library.target(self.module, use), External)
            meaning = self.program.meanings.of(self.module, use.name)
            if meaning == Var(self.module.name, use.name):
                changed |= not kept or not is_external or self.naming.is_renamed(meaning)
                if kept and is_external:
                    parts.append(self.import_text(node, [renamed_alias(self.module, node, use.alias, final[meaning])]))
                elif kept:
                    parts.append(f"{final[meaning]} = {self.imported_name(use)}")
            elif isinstance(meaning, External) and meaning in final and self.stays(meaning, site, use.alias):
                parts.append(self.import_text(node, [renamed_alias(self.module, node, use.alias, final[meaning])]))
                changed |= self.naming.is_renamed(meaning)
            else:
                changed = True
        return parts if changed else None

    def import_text(self, node: ast.Import | ast.ImportFrom, aliases: list[ast.alias]) -> str:
        """An import statement for some of the names of another."""
        return import_text(node, aliases, self.program.library.named(self.module, node)[0])

    def imported_name(self, use: Use) -> str:
        """The name in the flat program of what an import binds."""
        meaning = self.program.meanings.target(self.module, use)
        name = None if isinstance(meaning, ModuleRef) else self.naming.final.get(meaning)
        if name is None:
            reason = f"{use.name!r} is imported under two meanings"
            self.module.refuse(use.node, reason, "import it once, at the head of the module")
        return name

    def stays(self, meaning: External, site: ImportSite, alias: ast.alias) -> bool:
        """Whether a third-party import stays where it stands, since it must not be moved above what runs before it."""
        path = import_path(site.node, alias)
        sites = [
            other for _, other, each in self.naming.externals.get(meaning, []) if import_path(other.node, each) == path
        ]
        return sites[:1] == [site] and not any(other in self.program.loader.now.hoisted for other in sites)


class EntryEmitter(Emitter):
    """The entry beside modules in modules style: its text, with relative imports written in full."""

    def __init__(self, library: Library, skipped: set[int], named: NamedFiles | None = None) -> None:
        entry = library.entry
        super().__init__(entry, skipped)
        self.edit_config_paths(named)
        self.drop_globals()
        for node in entry.of(ast.ImportFrom):
            if is_future_import(node):
                self.replace_statement(node, [])
            elif node.level:
                origin = library.origin(entry, node)
                pattern = rf"from[\s\\]*\.[\s\\.]*{re.escape(node.module or '')}(?=[\s\\]|import)"
                start = entry.span(node)[0]
                dots = re.compile(pattern).match(entry.text, start)
                text = f"from {origin}" if node.module else f"from {origin} "
                self.edits.append((start, dots.end() if dots else start, text))
        self.edits.sort()


def is_relative(node: ast.Import | ast.ImportFrom) -> bool:
    """Whether an import is `from .module import ...`."""
    return isinstance(node, ast.ImportFrom) and bool(node.level)


def import_text(node: ast.Import | ast.ImportFrom, aliases: list[ast.alias], origin: str) -> str:
    """An import statement for some of the names of another; `origin` is the full name of what it imports from."""
    names = ", ".join(f"{alias.name} as {alias.asname}" if alias.asname else alias.name for alias in aliases)
    return f"from {origin} import {names}" if isinstance(node, ast.ImportFrom) else f"import {names}"


def renamed_alias(module: Module, node: ast.stmt, alias: ast.alias, name: str) -> ast.alias:
    """The part of an import statement that binds `name` to what `alias` imports."""
    if name == (alias.asname or alias.name.partition(".")[0]):
        return alias
    if "." in alias.name and not alias.asname:
        module.refuse(node, f"`import {alias.name}` collides with another {name!r}", "import it `as` something")
    return ast.alias(alias.name, name if name != alias.name else None)
