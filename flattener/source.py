"""One source file: its text, its syntax tree, its comments, and positions as offsets into the text.

Nothing here knows of other files, and nothing is changed once a `Module` is made.
"""

import ast
import bisect
import collections
import functools
import io
import json
import re
import symtable
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from flattener.errors import BuildError
from flattener.trees import child_nodes, walk


def words(text: str) -> frozenset[str]:
    """The words of a table that is written as text."""
    return frozenset(text.split())


def last_name(node: ast.AST) -> str:
    """`c` of `a.b.c`; empty for all but names and attributes."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def mentions(node: ast.AST, name: str) -> bool:
    """Whether a name or attribute stands in an expression."""
    return any(last_name(part) == name for part in walk(node))


# What is found in a module is kept from one build to the next: the kernels of a repository share most of their modules.
KEPT_MODULES = 64
PRAGMA = re.compile(r"#\s*(noqa|type:|pylint:|pragma:|isort:|fmt:|ruff:|mypy:|pyright:)")
CODING = re.compile(r"#.*?coding[:=]")


@dataclass(frozen=True)
class Comment:
    """A comment and its place: line from 1, column from 0."""

    line: int
    column: int
    text: str


class Module:
    """One source file.

    Attributes:
        name: dotted, or `__main__` for the entry.
        label: path of the file as messages and the output show it, such as `pkg/a.py`.
        text: of the file, `lines` its lines, `starts` the offset into `text` at which each begins.
        tree: the syntax tree, `body` its statements.
        future: the features that it imports from `__future__`.
        warnings: what Python says of it when it is compiled, such as an invalid escape in a string.
        dead: the indices of statements that never run, such as `if TYPE_CHECKING:`.
    """

    def __init__(self, name: str, label: str, text: str, is_package: bool = False, is_entry: bool = False) -> None:
        self.name, self.label, self.text = name, label, text
        self.is_package, self.is_entry = is_package, is_entry
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", SyntaxWarning)
                self.tree = ast.parse(text)
                compile(self.tree, label, "exec", dont_inherit=True)  # what parses does not always compile
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise BuildError(f"{label}:{line}", f"not valid Python: {error}", "correct it") from None
        except RecursionError:
            raise BuildError(f"{label}:1", "an expression is nested too deeply", "split it") from None
        found = [f"{label}:{each.lineno}: {each.message}" for each in caught if each.category is SyntaxWarning]
        self.warnings = list(dict.fromkeys(found))
        self.body = self.tree.body
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.docstring = ast.get_docstring(self.tree) or ""
        self.future = {
            alias.name
            for node in self.body
            if isinstance(node, ast.ImportFrom) and is_future_import(node)
            for alias in node.names
        }
        self.dead = {index for index, node in enumerate(self.body) if self.never_runs(node)}
        self.selections: dict[tuple[type[ast.AST], ...], list[ast.AST]] = {}  # what `of` was asked for

    @functools.cached_property
    def table(self) -> symtable.SymbolTable:
        """The compiler's symbol table."""
        try:
            return symtable.symtable(self.text, self.label, "exec")
        except SyntaxError as error:
            place = f"{self.label}:{error.lineno or 1}"
            raise BuildError(place, f"not valid Python: {error}", "correct it") from None

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree, in the order of `walk`: many phases look at all of them."""
        return walk(self.tree)

    def of(self, *kinds: type[ast.AST]) -> list[Any]:
        """The nodes of some kinds, in the order of `nodes`."""
        if len(kinds) == 1:
            return self.nodes_by_kind.get(kinds[0], [])
        if kinds not in self.selections:
            wanted = frozenset(kinds)
            some = any(kind in self.nodes_by_kind for kind in kinds)
            self.selections[kinds] = [node for node in self.nodes if node.__class__ in wanted] if some else []
        return self.selections[kinds]

    @functools.cached_property
    def nodes_by_kind(self) -> dict[type[ast.AST], list[ast.AST]]:
        """Kind of nodes -> all nodes of this kind, in the order of `nodes`."""
        found: dict[type[ast.AST], list[ast.AST]] = collections.defaultdict(list)
        for node in self.nodes:
            found[node.__class__].append(node)
        return dict(found)

    @functools.cached_property
    def strings(self) -> list[tuple[int, int]]:
        """Start and end of each string, in the order of the text; of its parts, if it is written in several."""
        inner = {part for node in self.of(ast.JoinedStr) for part in walk(node)[1:]}
        return sorted(
            self.span(node)
            for node in self.of(ast.Constant, ast.JoinedStr)
            if isinstance(getattr(node, "value", ""), str | bytes) and node not in inner
        )

    @functools.cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        """The tokens of the text."""
        try:
            return list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        except (SyntaxError, tokenize.TokenError) as error:
            line = error.lineno if isinstance(error, SyntaxError) else error.args[1][0]
            raise BuildError(f"{self.label}:{line or 1}", f"cannot be read as tokens: {error}", "correct it") from None

    @functools.cached_property
    def comments(self) -> list[Comment]:
        """The comments, in the order of the text: each `#` outside of a string begins one.

        Where the strings stand, the syntax tree tells; to read all tokens takes longer than all else that is read.
        """
        strings = self.strings if "#" in self.text else []
        found: list[Comment] = []
        at, index = self.text.find("#"), 0
        while at >= 0:
            while index < len(strings) and strings[index][1] <= at:
                index += 1
            if index < len(strings) and strings[index][0] <= at:
                found += self.comments_between(*strings[index])
                at = self.text.find("#", strings[index][1])
            else:
                line = self.line_of(at)
                column = at - self.starts[line - 1]
                text = self.lines[line - 1][column:].partition("\r")[0]
                found.append(Comment(line, column, text))
                at = self.text.find("#", at + len(text))
        return found

    def comments_on(self, first: int, last: int) -> list[Comment]:
        """The comments on some lines."""
        start = bisect.bisect_left(self.comments, first, key=lambda comment: comment.line)
        return self.comments[start : bisect.bisect_right(self.comments, last, key=lambda comment: comment.line)]

    def comments_between(self, start: int, end: int) -> Iterator[Comment]:
        """The comments between the parts of a string that is written on several lines."""
        text = self.text[start:end]
        line = self.line_of(start)
        first = start - self.starts[line - 1] - 1
        for token in tokenize.generate_tokens(io.StringIO(f"({text})").readline) if "\n" in text else ():
            if token.type == tokenize.COMMENT:
                row, column = token.start
                yield Comment(line + row - 1, column + (first if row == 1 else 0), token.string)

    @functools.cached_property
    def siblings(self) -> dict[ast.stmt, list[ast.stmt]]:
        """For each statement the list of statements that it is part of."""
        return sibling_statements(self.nodes)

    def offset(self, line: int, column: int) -> int:
        """The offset in `text` of a syntax tree's position, whose column counts UTF-8 bytes."""
        text = self.lines[line - 1]
        return self.starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: Any) -> tuple[int, int]:
        """The offsets at which a node of the syntax tree begins and ends."""
        return self.start(node), self.end(node)

    def start(self, node: Any) -> int:
        """The offset at which a node of the syntax tree begins."""
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: Any) -> int:
        """The offset at which a node of the syntax tree ends."""
        return self.offset(node.end_lineno, node.end_col_offset)

    def line_of(self, offset: int) -> int:
        """The line, counted from 1, in which an offset lies."""
        return bisect.bisect_right(self.starts, offset, 1, len(self.lines))

    def refuse(self, node: Any, reason: str, remedy: str, blame: str | None = None) -> NoReturn:
        """Raises a `BuildError` for a node of the syntax tree, or a line number; `blame` is this module by default."""
        line = node if isinstance(node, int) else node.lineno
        error = BuildError(f"{self.label}:{line}", reason, remedy)
        error.blame = blame or self.name
        raise error

    def never_runs(self, node: ast.stmt) -> bool:
        """Whether it is `if TYPE_CHECKING:`, or outside of the entry `if __name__ == "__main__":`."""
        if not isinstance(node, ast.If) or node.orelse:
            return False
        if is_type_checking(node):
            return True
        test = node.test
        return not self.is_entry and (
            isinstance(test, ast.Compare)
            and isinstance(test.left, ast.Name)
            and test.left.id == "__name__"
            and isinstance(test.ops[0], ast.Eq)
            and isinstance(test.comparators[0], ast.Constant)
            and test.comparators[0].value == "__main__"
        )


@functools.lru_cache(KEPT_MODULES)
def read_module(name: str, label: str, text: str, is_package: bool = False, is_entry: bool = False) -> Module:
    """A module of this text, as `Module` makes it."""
    return Module(name, label, text, is_package, is_entry)


def is_type_checking(node: ast.If) -> bool:
    """Whether it is `if TYPE_CHECKING:` without an `else`."""
    test = node.test
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None)) and not node.orelse


def module_level_globals(module: Module) -> Iterator[ast.Global]:
    """The `global` statements that stand outside of all functions and classes, where they do nothing."""
    todo: list[ast.AST] = list(module.body) if "global " in module.text else []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Global):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            todo += child_nodes(node)


def sibling_statements(nodes: list[ast.AST]) -> dict[ast.stmt, list[ast.stmt]]:
    """For each statement the list of statements that it is part of: the body of a function, of an `else`, ..."""
    siblings: dict[ast.stmt, list[ast.stmt]] = {}
    for node in nodes:
        for name in ("body", "orelse", "finalbody") if not isinstance(node, ast.expr) else ():
            block = getattr(node, name, None)
            if isinstance(block, list):
                siblings.update(dict.fromkeys(block, block))
    return siblings


def first_line(node: ast.stmt) -> int:
    """The first line of a statement, its decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


def last_line(node: ast.stmt) -> int:
    """The last line of a statement."""
    return node.end_lineno or node.lineno


def is_future_import(node: ast.AST) -> bool:
    """Whether it is `from __future__ import ...`."""
    return isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level


def all_arguments(arguments: ast.arguments) -> list[ast.arg]:
    """The parameters of a function, in the order in which they are written."""
    some = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [argument for argument in some if argument is not None]


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is nothing but a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def python_literal(value: Any) -> str:
    """A value of JSON as Python source, with double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python_literal(key)}: {python_literal(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(python_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
