#!/usr/bin/env python3
"""Ships a tested Python package to Kaggle as one readable notebook.

    python build_kernel.py train                               kernels/train.py -> build/train/train.ipynb
    python build_kernel.py --entry main.py --package path/pkg --out flat.py
    python build_kernel.py --trace kernel.log --map build/train/train.ipynb.map.json

An entry (a kernel, or any script) and what it reaches of its packages become one file: plain code, with the comments
and the layout of the source. It is made by text edits on that source; no syntax tree is ever printed. A module comes in
one of two styles:

    flat       its code stands in the one namespace of the program, without the imports of the packages and without what
               nothing needs; only names that collide are changed
    modules    it keeps a namespace, a name and a file of its own: in a script as a block `if __name__ == "pkg.module":`
               that a helper writes to a folder, in a notebook as a `%%writefile` cell

Flat is what a reader wants; it is chosen for every module for which it can be shown that nobody will notice. The other
style is what Python itself does, so that it is right for all that is left: modules passed around as objects, pickles,
`globals()`, patched names, package data. What neither can do is a `BuildError` that names file, line and remedy.

How it works, in the order of the sections below:

    Source     text and syntax tree of one file; positions as offsets into the text
    Names      which variable each name means, by the compiler's own `symtable`
    Library    where the packages' modules lie
    Reach      which modules the entry may load, what they read besides, and who looks closely
    Purity     which statements can be moved or left out without anybody noticing
    Loading    the statements of all flat modules in the order in which Python would run them
    Meaning    what an imported name stands for, through re-exports, aliases and module attributes
    Shaking    which statements the entry reaches
    Naming     one name for each variable of the one namespace
    Emission   the edited text of each flat module, with the source line of every line
    Modules    the text of each module in modules style, and the helper that it needs
    Documents  cells; notebook and percent script
    Checks     the output compiles, has no unknown name, no import of flat packages, no secret
    Trace      from the lines of a log back to the source
    Kaggle     the kernel's head, its settings cell, kernel-metadata.json
    Commands

Standard library only; Python 3.11 to 3.13; same source, same bytes.
"""

import argparse
import ast
import base64
import builtins
import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import symtable
import sys
import tempfile
import tokenize
import tomllib
import zlib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CELL_LINES = 80  # a code cell longer than this is split between two definitions
WARN_BYTES, MAX_BYTES = 800_000, 1_000_000  # Kaggle is said to refuse a source of more than 1 MB


class BuildError(Exception):
    """The build cannot go on; the message names the file, the line, the reason and the remedy.

    Attributes:
        blame: the module that cannot be flat, if the modules style can do what the flat style cannot; else None.
    """

    blame: str | None = None


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ----------------------------------------------------------------------------------------------------------------------
# Source: text and syntax tree of one file
# ----------------------------------------------------------------------------------------------------------------------

PRAGMA = re.compile(r"#\s*(noqa|type:|pylint:|pragma:|isort:|fmt:|ruff:|mypy:|pyright:)")
CODING = re.compile(r"#.*?coding[:=]")


@dataclass(frozen=True)
class Comment:
    line: int
    column: int
    text: str


class Module:
    """One source file: its text, its syntax tree, and what the analysis below finds in it."""

    def __init__(self, name: str, label: str, text: str, is_package: bool = False, is_entry: bool = False):
        self.name, self.label, self.text = name, label, text
        self.is_package, self.is_entry = is_package, is_entry
        try:
            self.tree = ast.parse(text)
            compile(self.tree, label, "exec", dont_inherit=True)  # what parses does not always compile
        except (SyntaxError, ValueError) as error:
            raise BuildError(f"{label}:{getattr(error, 'lineno', None) or 1}: not valid Python: {error}") from None
        except RecursionError:
            raise BuildError(f"{label}: an expression is nested too deeply. Remedy: split it.") from None
        self.body = self.tree.body
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.docstring = ast.get_docstring(self.tree) or ""
        self.future = {
            alias.name
            for node in self.body
            if isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level
            for alias in node.names
        }
        self.dead = {index for index, node in enumerate(self.body) if self.never_runs(node)}
        self.forget()

    def forget(self):
        """Takes back what the analysis of names found."""
        self.uses: list[Use] = []
        self.sites: list[ImportSite] = []
        self.bindings: dict[str, list[Use]] = collections.defaultdict(list)
        self.bound_inside: dict[int, set[str]] = collections.defaultdict(set)
        self.quoted: list[tuple[int, str]] = []

    @functools.cached_property
    def table(self):
        """The compiler's symbol table."""
        try:
            return symtable.symtable(self.text, self.label, "exec")
        except SyntaxError as error:
            raise BuildError(f"{self.label}:{error.lineno or 1}: not valid Python: {error}") from None

    @functools.cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        try:
            return list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        except (SyntaxError, tokenize.TokenError) as error:
            raise BuildError(f"{self.label}: cannot be read as tokens: {error}") from None

    @functools.cached_property
    def comments(self) -> list[Comment]:
        return [Comment(*token.start, token.string) for token in self.tokens if token.type == tokenize.COMMENT]

    @functools.cached_property
    def siblings(self) -> dict[ast.stmt, list[ast.stmt]]:
        return sibling_statements(self.tree)

    def offset(self, line: int, column: int) -> int:
        """The offset in `text` of a syntax tree's position, whose column counts UTF-8 bytes."""
        text = self.lines[line - 1]
        return self.starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node) -> tuple[int, int]:
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def line_of(self, offset: int) -> int:
        """The line, counted from 1, in which an offset lies."""
        low, high = 0, len(self.lines)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.starts[middle] <= offset else (low, middle)
        return low + 1

    def refuse(self, node, reason: str, remedy: str, blame: str | None = None):
        """Raises a `BuildError` for a node of the syntax tree, or a line number; `blame` is this module by default."""
        line = node if isinstance(node, int) else node.lineno
        error = BuildError(f"{self.label}:{line}: {reason}. Remedy: {remedy}.")
        error.blame = blame or self.name
        raise error

    def never_runs(self, node) -> bool:
        """`if TYPE_CHECKING:`, and outside of the entry `if __name__ == "__main__":`."""
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


def is_type_checking(node: ast.If) -> bool:
    test = node.test
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None)) and not node.orelse


def sibling_statements(tree) -> dict[ast.stmt, list[ast.stmt]]:
    """For each statement the list of statements that it is part of: the body of a function, of an `else`, ..."""
    siblings = {}
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                siblings.update((statement, block) for statement in block)
    return siblings


def first_line(node) -> int:
    """The first line of a statement, its decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


# ----------------------------------------------------------------------------------------------------------------------
# Names: which variable each name means
# ----------------------------------------------------------------------------------------------------------------------


class Scope:
    """A scope of the compiler's symbol table, with the way to its parent and the names bound so far in a class body."""

    def __init__(self, kind: str, table, parent: "Scope | None", module_name: str):
        self.kind, self.table, self.parent, self.module_name = kind, table, parent, module_name
        self.bound_so_far: set[str] = set()
        self.children = collections.defaultdict(list)
        for child in table.get_children():
            self.children[child.get_name(), child.get_lineno()].append(child)

    @property
    def module(self) -> "Scope":
        return self if self.parent is None else self.parent.module

    def owner(self, name: str) -> "Scope | None":
        """The scope whose variable `name` means here; None for a name that the symbol table does not know here.

        It knows no annotations under `from __future__ import annotations`: these are never evaluated.
        """
        try:
            symbol = self.table.lookup(name)
        except KeyError:
            return None
        if self.parent is None or symbol.is_global():
            return self.module
        if not symbol.is_free():
            return self
        scope = self.parent
        while scope.parent is not None:
            if scope.kind != "class" and scope.binds(name):
                return scope
            scope = scope.parent
        return scope

    def binds(self, name: str) -> bool:
        try:
            return self.table.lookup(name).is_local()
        except KeyError:
            return False


class InlinedScope(Scope):
    """A comprehension that the compiler (from 3.12 on) runs inside of the surrounding function, without a table."""

    def __init__(self, parent: Scope, names: set[str]):
        self.kind, self.table, self.parent, self.module_name = "function", parent.table, parent, parent.module_name
        self.children = parent.children
        self.names = names

    def owner(self, name: str) -> Scope | None:
        if name in self.names:
            return self
        outer = self.parent
        while outer.kind == "class":  # inlined or not, a comprehension does not see the names of its class
            outer = outer.parent
        return outer.owner(name) or outer.module  # what no function around it binds is a global

    def binds(self, name: str) -> bool:
        return name in self.names


@dataclass
class Use:
    """One place in the source where a name is read or bound.

    Attributes:
        action: "load", "store", "delete", "define" (def, class), "import", or "declare" (global).
        scope: where the name stands; `owner`: the scope whose variable it means.
        index: of the statement of the module's body that holds it.
        chain: the attributes that follow, `.b` and `.c` in `a.b.c`, each with its end offset; `chain_action` is what is
            done with the last of them.
        weak: in an annotation that is never evaluated.
        pinned: the name has to stay as it is: in a class body that may or may not have bound it before, or in an
            f-string that prints its own source, `f"{name + 1=}"`.
        in_pattern: a value in a `match` pattern: it needs its dot, a plain name would capture.
    """

    name: str
    start: int
    end: int
    action: str
    scope: Scope
    owner: Scope
    index: int
    node: ast.AST
    chain: tuple[tuple[str, int], ...] = ()
    chain_action: str = "load"
    weak: bool = False
    pinned: bool = False
    in_pattern: bool = False
    conditional: bool = False
    in_string: bool = False
    site: "ImportSite | None" = None
    alias: ast.alias | None = None


@dataclass
class ImportSite:
    """An import statement anywhere in a module."""

    node: ast.Import | ast.ImportFrom
    scope: Scope
    index: int
    conditional: bool
    uses: list[Use] = field(default_factory=list)  # one for each name it binds
    hoisted: bool = False  # its third-party imports move to the top of the program
    unfinished: frozenset[str] = frozenset()  # modules that were still loading when it ran

    @property
    def at_load(self) -> bool:
        """Whether it runs while the module is loaded, not in a function called later."""
        scope = self.scope
        while scope.kind == "class":
            scope = scope.parent
        return scope.kind == "module"

    @property
    def plain(self) -> bool:
        """At module level, and always run."""
        return self.scope.kind == "module" and not self.conditional


class NameAnalysis(ast.NodeVisitor):
    """Finds every use of a name in a module, in the order in which the compiler's symbol table sees them."""

    def __init__(self, module: Module):
        self.module = module
        self.scope = Scope("module", module.table, None, module.name)
        self.index = 0
        self.branches = 0  # how many if, for, try, ... of the current scope surround the current statement
        self.annotation = self.in_string = self.echoed = self.pattern = False
        self.class_names: list[str] = []

    def run(self):
        for index, statement in enumerate(self.module.body):
            self.index = index
            if index not in self.module.dead:
                self.visit(statement)
        for use in self.module.uses:
            if use.owner.kind == "module" and use.action in ("store", "delete", "define", "import"):
                self.module.bindings[use.name].append(use)

    # --- recording ---

    def mangled(self, name: str) -> str:
        """`__x` inside of class C means `_C__x`."""
        if self.class_names and name.startswith("__") and not name.endswith("__"):
            return f"_{self.class_names[-1].lstrip('_')}{name}" if self.class_names[-1].strip("_") else name
        return name

    def record(self, name: str, start: int, action: str, node, **more) -> Use:
        module, scope = self.module, self.scope
        if module.text[start : start + len(name)] != name:
            module.refuse(node, f"the position of {name!r} is not known", "write this expression in a simpler way")
        known = self.mangled(name)
        owner = scope.owner(known)
        weak = owner is None or (self.annotation and "annotations" in module.future)
        owner = owner or scope.module
        pinned = False
        if owner is scope and scope.kind == "class" and action == "load" and known not in scope.bound_so_far:
            # The class binds this name later on: until then, the name means the module's variable.
            owner, pinned = scope.module, self.branches > 0
        if owner.kind == "module" and known != name and known in module.table.get_identifiers():
            module.refuse(node, f"{name!r} means the module's {known!r} here", "rename that variable")
        if owner.kind != "module" and action != "load":
            module.bound_inside[self.index].add(name)
            if scope.kind == "class":
                scope.bound_so_far.add(known)
        use = Use(
            known if owner.kind != "module" else name, start, start + len(name), action, scope, owner, self.index, node
        )
        use.weak, use.pinned = weak, pinned or self.echoed
        use.in_string, use.in_pattern = self.in_string, self.pattern
        use.conditional = self.branches > 0 or scope.kind != "module"
        for key, value in more.items():
            setattr(use, key, value)
        module.uses.append(use)
        return use

    def record_inside(self, name: str, start: int, end: int, action: str, node):
        """Records a name that has no node of its own: it is looked for between two offsets."""
        found = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", self.module.text[start:end])
        if not found:
            self.module.refuse(node, f"the position of {name!r} is not known", "write this statement in a simpler way")
        return self.record(name, start + found.start(), action, node)

    # --- expressions ---

    def visit_Name(self, node):
        action = {ast.Load: "load", ast.Store: "store", ast.Del: "delete"}[type(node.ctx)]
        self.record(node.id, self.module.span(node)[0], action, node)

    def visit_Attribute(self, node):
        chain, root = [], node
        while isinstance(root, ast.Attribute):
            if root.attr in ("__module__", "__globals__"):
                self.module.refuse(root, f"`.{root.attr}` would differ in the flat program", "do without it")
            chain.append((root.attr, self.module.span(root)[1]))
            root = root.value
        if not isinstance(root, ast.Name):
            return self.visit(root)
        action = {ast.Load: "load", ast.Store: "store", ast.Del: "delete"}[type(node.ctx)]
        start = self.module.span(root)[0]
        self.record(root.id, start, "load", node, chain=tuple(reversed(chain)), chain_action=action)

    def visit_Constant(self, node):
        if isinstance(node.value, str) and "@" in node.value:  # DataFrame.query("x > @LIMIT")
            self.module.quoted += [(self.index, name) for name in re.findall(r"@([^\W\d]\w*)", node.value)]
        if self.annotation and isinstance(node.value, str):
            with contextlib.suppress(SyntaxError):
                for part in ast.walk(ast.parse(node.value.strip(), mode="eval")):
                    if isinstance(part, ast.Name):
                        self.module.quoted.append((self.index, part.id))

    def visit_FormattedValue(self, node):
        end = self.module.span(node.value)[1]
        echoes = re.compile(r"[ \t]*=[ \t]*[!:}]").match(self.module.text, end)
        outer, self.echoed = self.echoed, bool(echoes) and not isinstance(node.value, ast.Name)
        self.visit(node.value)
        self.echoed = outer
        if node.format_spec is not None:
            self.visit(node.format_spec)

    def visit_JoinedStr(self, node):
        outer, self.in_string = self.in_string, True
        self.generic_visit(node)
        self.in_string = outer

    def visit_Lambda(self, node):
        self.visit_defaults(node.args)
        with self.inside("function", "lambda", node):
            self.visit_parameters(node.args)
            self.visit(node.body)

    def visit_comprehension_of(self, name: str, node, *elements):
        first, *others = node.generators
        self.visit(first.iter)
        if self.scope.children[name, node.lineno]:
            scope = self.inside("function", name, node)
        else:
            targets = [part for generator in node.generators for part in ast.walk(generator.target)]
            names = {part.id for part in targets if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
            scope = self.within(InlinedScope(self.scope, names))
        with scope:
            for part in (first.target, *first.ifs):
                self.visit(part)
            for generator in others:
                for part in (generator.target, generator.iter, *generator.ifs):
                    self.visit(part)
            for element in elements:
                self.visit(element)

    def visit_ListComp(self, node):
        self.visit_comprehension_of("listcomp", node, node.elt)

    def visit_SetComp(self, node):
        self.visit_comprehension_of("setcomp", node, node.elt)

    def visit_GeneratorExp(self, node):
        self.visit_comprehension_of("genexpr", node, node.elt)

    def visit_DictComp(self, node):
        self.visit_comprehension_of("dictcomp", node, node.value, node.key)

    # --- definitions ---

    @contextlib.contextmanager
    def inside(self, kind: str, name: str, node):
        """Enters the scope that a node opens."""
        tables = self.scope.children[name, node.lineno]
        if not tables:
            self.module.refuse(node, f"no symbol table for {name!r}", "report this as a bug of build_kernel.py")
        with self.within(Scope(kind, tables.pop(0), self.scope, self.module.name)):
            yield

    @contextlib.contextmanager
    def within(self, scope: Scope):
        outer, self.scope = self.scope, scope
        branches, self.branches = self.branches, 0
        yield
        self.scope, self.branches = outer, branches

    def visit_FunctionDef(self, node):
        self.refuse_type_parameters(node)
        self.visit_defaults(node.args)
        for decorator in node.decorator_list:
            self.visit(decorator)
        for annotation in [*(argument.annotation for argument in all_arguments(node.args)), node.returns]:
            self.visit_annotation(annotation)
        self.define(node)
        with self.inside("function", node.name, node):
            class_names = self.class_names
            self.visit_parameters(node.args)
            for statement in node.body:
                self.visit(statement)
            self.class_names = class_names

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node):
        self.refuse_type_parameters(node)
        for part in [*node.bases, *node.keywords, *node.decorator_list]:
            self.visit(part)
        self.define(node)
        with self.inside("class", node.name, node):
            self.class_names.append(node.name)
            for statement in node.body:
                self.visit(statement)
            self.class_names.pop()

    def define(self, node):
        """Records the name after `def` or `class`."""
        start = self.module.offset(node.lineno, node.col_offset)
        keyword = re.compile(r"(async\s+)?(def|class)[\s\\]+").match(self.module.text, start)
        self.record(node.name, keyword.end(), "define", node)

    def refuse_type_parameters(self, node):
        if getattr(node, "type_params", None):
            self.module.refuse(node, "type parameters in brackets are not supported", "use typing.TypeVar")

    def visit_TypeAlias(self, node):
        self.module.refuse(node, "the `type` statement is not supported", "use a plain assignment")

    def visit_defaults(self, arguments):
        for default in [*arguments.defaults, *filter(None, arguments.kw_defaults)]:
            self.visit(default)

    def visit_parameters(self, arguments):
        for argument in all_arguments(arguments):
            self.record(argument.arg, self.module.span(argument)[0], "store", argument)

    def visit_annotation(self, annotation):
        if annotation is not None:
            self.annotation = True
            self.visit(annotation)
            self.annotation = False

    # --- statements ---

    def visit_branches(self, node):
        self.branches += 1
        self.generic_visit(node)
        self.branches -= 1

    visit_If = visit_For = visit_AsyncFor = visit_While = visit_Try = visit_TryStar = visit_branches
    visit_With = visit_AsyncWith = visit_Match = visit_branches

    def visit_Assign(self, node):
        self.visit(node.value)  # before the targets, as it is run: it matters in a class body
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node):
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node):
        self.visit_annotation(node.annotation)
        if node.value is not None:
            self.visit(node.value)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.visit(node.target)
        elif self.scope.kind != "class":
            self.record(node.target.id, self.module.span(node.target)[0], "declare", node.target)

    def visit_NamedExpr(self, node):
        self.visit(node.target)
        self.visit(node.value)

    def visit_ExceptHandler(self, node):
        if node.type is not None:
            self.visit(node.type)
        if node.name:
            start, end = self.module.span(node.type)[1], self.module.span(node.body[0])[0]
            self.record_inside(node.name, start, end, "store", node)
        for statement in node.body:
            self.visit(statement)

    def visit_Global(self, node):
        start, end = self.module.span(node)
        for name in node.names:
            use = self.record_inside(name, start + len("global"), end, "declare", node)
            use.owner = self.scope.module

    def visit_Nonlocal(self, node):
        pass

    def visit_MatchAs(self, node):
        start, end = self.module.span(node)
        if node.pattern is not None:
            self.visit(node.pattern)
            start = self.module.span(node.pattern)[1]
        if node.name:
            self.record_inside(node.name, start, end, "store", node)

    def visit_MatchValue(self, node):
        outer, self.pattern = self.pattern, True
        self.generic_visit(node)
        self.pattern = outer

    def visit_MatchStar(self, node):
        if node.name:
            self.record_inside(node.name, *self.module.span(node), "store", node)

    def visit_MatchMapping(self, node):
        self.generic_visit(node)
        if node.rest:
            start, end = self.module.span(node)
            self.record_inside(node.rest, start + self.module.text[start:end].rindex("**"), end, "store", node)

    # --- imports ---

    def visit_import(self, node):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level:
            return
        site = ImportSite(node, self.scope, self.index, self.branches > 0)
        self.module.sites.append(site)
        for alias in node.names:
            if alias.name == "*":
                continue
            start, end = self.module.span(alias)
            name = alias.asname or alias.name.partition(".")[0]
            start = end - len(name) if alias.asname else start
            site.uses.append(self.record(name, start, "import", node, site=site, alias=alias))

    visit_Import = visit_ImportFrom = visit_import


def all_arguments(arguments) -> list[ast.arg]:
    """The parameters of a function, in the order in which they are written."""
    some = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [argument for argument in some if argument is not None]


# ----------------------------------------------------------------------------------------------------------------------
# Library: where the packages' modules lie
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class External:
    """Something imported from outside of the packages: `import numpy as np`, `from pathlib import Path`."""

    module: str
    attribute: str | None  # None: the module itself
    bound: str  # the name by which the source calls it
    home: str = ""  # the importing module, where another may find another value: variables of modules kept apart


@dataclass(frozen=True)
class Var:
    """A variable of one module."""

    module: str
    name: str


@dataclass(frozen=True)
class ModuleRef:
    """A module of the packages."""

    name: str


Meaning = External | Var | ModuleRef


class Library:
    """The packages that are to be flattened, and the entry; it reads and analyses their modules when asked."""

    def __init__(self, entry: Path, packages: dict[str, Path], entry_label: str, beside: Path | None = None):
        self.packages = packages
        self.beside = beside  # a folder whose other Python files do not travel
        self.is_kernel = beside is not None  # the entry is written in cells, for a notebook
        self.apart: frozenset[str] = frozenset()  # the modules in modules style: to the flat style they are external
        self.places: dict[str, tuple[Path, bool] | None] = {}
        self.entry = self.read("__main__", entry_label, entry, is_entry=True)
        self.entry_package = self.package_of(entry)
        self.sources = {"__main__": self.entry}  # as they are read
        self.modules: dict[str, Module] = {}  # with their names analysed

    def read(self, name: str, label: str, path: Path | None, **kind) -> Module:
        text = ""
        if path is not None:
            try:
                with tokenize.open(path) as file:
                    text = file.read()
            except (OSError, SyntaxError, UnicodeDecodeError) as error:
                raise BuildError(f"{label}: cannot be read: {error}") from None
        return Module(name, label, text.removeprefix("\ufeff"), **kind)

    def package_of(self, entry: Path) -> str:
        """The dotted name of the package that the entry lies in; empty if in none of `packages`."""
        for top, base in self.packages.items():
            if base.is_dir() and entry.is_relative_to(base):
                return ".".join([top, *entry.parent.relative_to(base).parts])
        return ""

    def start_over(self, apart: frozenset[str]):
        """Forgets all analysis of names, and says which modules are in modules style from now on."""
        self.apart, self.modules = apart, {}
        for module in self.sources.values():
            module.forget()

    def holds(self, dotted: str) -> bool:
        """Whether a module belongs to the packages, in whatever style."""
        return dotted.partition(".")[0] in self.packages

    def owns(self, dotted: str) -> bool:
        """Whether a module belongs to the packages and is flat."""
        return self.holds(dotted) and dotted not in self.apart

    def stays_behind(self, dotted: str) -> bool:
        """Whether a module lies beside the packages, outside of them: an import of it would fail elsewhere."""
        if self.beside is None or self.holds(dotted):
            return False
        path = self.beside / dotted.partition(".")[0]
        return path.with_suffix(".py").is_file() or (path.is_dir() and any(path.glob("*.py")))

    def find(self, dotted: str) -> tuple[Path | None, bool] | None:
        """The file of a module and whether it is a package; None if there is no such module."""
        if dotted not in self.places:
            top, *rest = dotted.split(".")
            place, base = None, self.packages.get(top)
            if base is not None:
                path = base.joinpath(*rest)
                if base.is_file():
                    place = None if rest else (base, False)  # a package that is a single file
                elif (path / "__init__.py").is_file():
                    place = path / "__init__.py", True
                elif path.with_suffix(".py").is_file():
                    place = path.with_suffix(".py"), False
                elif path.is_dir() and any(path.rglob("*.py")):
                    place = None, True  # a folder without __init__.py is a package too
            self.places[dotted] = place
        return self.places[dotted]

    def source(self, dotted: str) -> Module:
        """A module as it is read."""
        if dotted not in self.sources:
            path, is_package = self.find(dotted)
            label = dotted.replace(".", "/") + ("/__init__.py" if is_package else ".py")
            self.sources[dotted] = self.read(dotted, label, path, is_package=is_package)
        return self.sources[dotted]

    def module(self, dotted: str) -> Module:
        """A module with its names analysed."""
        if dotted not in self.modules:
            module = self.source(dotted)
            try:
                NameAnalysis(module).run()
            except RecursionError:
                module.refuse(1, "an expression is nested too deeply", "split it")
            self.modules[dotted] = module
        return self.modules[dotted]

    def lists_subclasses(self) -> bool:
        """Whether some code looks for the subclasses of a class: then no class is unused."""
        return any("__subclasses__" in module.text for module in self.modules.values())

    def origin(self, module: Module, node: ast.ImportFrom) -> str:
        """The absolute name of the module from which a `from ... import` takes its names."""
        if not node.level:
            return node.module
        if module.is_entry and not self.entry_package:
            module.refuse(node, "a relative import in the entry", "write the package's name, or give --package for it")
        parts = [*self.entry_package.split("."), ""] if module.is_entry else module.name.split(".")
        count = len(parts) - node.level + module.is_package
        if count < 1:
            module.refuse(node, "the relative import leaves the package", "write fewer dots")
        parts = parts[:count]
        return ".".join([*parts, node.module] if node.module else parts)

    def named(self, module: Module, node: ast.Import | ast.ImportFrom) -> list[str]:
        """The modules that an import statement names, without those that it may name as `from a import b`."""
        if isinstance(node, ast.ImportFrom):
            return [self.origin(module, node)]
        return [alias.name for alias in node.names]

    def target(self, module: Module, use: Use) -> tuple[str, str | None] | External:
        """What an import binds: (module, None), (module, attribute), or something external."""
        node, alias = use.site.node, use.alias
        if isinstance(node, ast.ImportFrom):
            origin = self.origin(module, node)
            home = module.name if self.holds(origin) else ""
            return (origin, alias.name) if self.owns(origin) else External(origin, alias.name, use.name, home)
        dotted = alias.name if alias.asname else alias.name.partition(".")[0]
        return (dotted, None) if self.owns(dotted) else External(dotted, None, use.name)


# ----------------------------------------------------------------------------------------------------------------------
# Reach: which modules the entry may load, what they read besides, and who looks closely
# ----------------------------------------------------------------------------------------------------------------------

TEST_TOOLS = words("pytest unittest nose doctest hypothesis")
IMPORTERS = words("import_module __import__")  # with a constant name, they are import statements
SEARCHERS = words("""
    pkgutil pydoc.locate lazy_loader lazy_import attach_stub runpy walk_packages iter_modules find_spec find_loader
    spec_from_file_location module_from_spec
""")
FILE_READERS = words("""
    __file__ __path__ __spec__ __loader__ importlib.resources importlib_resources pkg_resources get_data PackageLoader
    resource_filename resource_string resource_stream getfile getsourcefile co_filename find_spec attach_stub
""")
LISTERS = words("listdir scandir glob iglob rglob iterdir walk")
METADATA_READERS = words("importlib.metadata importlib_metadata pkg_resources")
PROCESS_STARTERS = words("subprocess Popen system spawnv execv")
# Who reads these sees that the modules have become one: where a class or function comes from, its source, its callers.
# Not cloudpickle, which sends what the main program defines by value, and so needs no module at the other end.
OBSERVERS = frozenset(["filterwarnings of a module"]) | words("""
    __module__ __globals__ sys.modules pickle cPickle dill joblib shelve copyreg marshal
    getsource getsourcelines getsourcefile getfile getmodule getmodulename getmembers currentframe _getframe
    inspect.stack extract_stack walk_stack setprofile settrace global_enum .__repr__ allow_pickle
    read_pickle to_pickle torch.load torch.save co_filename
""")
DEPRECATIONS = words("DeprecationWarning PendingDeprecationWarning")
LOG_PLACE = re.compile(r"%\((?:module|filename|pathname|lineno)\)|\{(?:module|filename|pathname|lineno)[}:!]")
TAKE_CLASSES = words("""
    isinstance issubclass get_type_hints fields getattr hasattr setattr super signature register __new__
""")
SHOWN = re.compile(r"repr|str|print|format|ascii|pprint|pformat")


class Facts:
    """What one module's source says about modules: the imports in it, the words and the strings."""

    def __init__(self, module: Module):
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.words: dict[str, int] = {}  # identifier, or dotted name of an import -> first line
        self.strings: list[str] = []
        self.names_modules = 0  # the line in which a module is imported by a computed name
        self.shows_class = 0  # the line in which a class itself is printed
        docstrings, harmless = set(), set()
        stored = set()
        importers = 0  # how often an importer is mentioned, other than to be called
        todo: list[ast.AST] = [module.tree]
        while todo:
            node = todo.pop()
            if isinstance(node, ast.If) and is_type_checking(node):
                continue
            todo.extend(ast.iter_child_nodes(node))
            if isinstance(node, ast.Name):
                self.words.setdefault(node.id, node.lineno)
                importers += node.id in IMPORTERS
                if isinstance(node.ctx, ast.Store):
                    stored.add(node.id)
            elif isinstance(node, ast.Attribute):
                harmless.add(node.value)
                importers += node.attr in IMPORTERS
                self.words.setdefault(node.attr, node.lineno)
                self.words.setdefault(f".{node.attr}", node.lineno)
                if isinstance(node.value, ast.Name):
                    self.words.setdefault(f"{node.value.id}.{node.attr}", node.lineno)
            elif isinstance(node, ast.Compare):
                harmless |= {node.left, *node.comparators}
            elif isinstance(node, ast.Constant):
                if isinstance(node.value, str) and node not in docstrings:
                    self.strings.append(node.value)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self.imports.append(node)
                base = getattr(node, "module", None) or ""
                importers += any(alias.name in IMPORTERS and alias.asname for alias in node.names)
                for dotted in [base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)]:
                    for word in (dotted, *dotted.split(".")):
                        self.words.setdefault(word, node.lineno)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                docstrings.add(node.value)
            elif isinstance(node, ast.Call):
                importers -= getattr(node.func, "attr", getattr(node.func, "id", "")) in IMPORTERS
                self.look_at_call(node, harmless)
            elif isinstance(node, ast.FormattedValue):
                self.look_at_shown(node.value)
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
                self.look_at_shown(node.right)
        lazy = [node for node in module.body if getattr(node, "name", "") == "__getattr__"]
        if importers or lazy or "__getattr__" in stored:  # a module's own __getattr__ is there to import others late
            self.names_modules = self.names_modules or 1
        if {"exec", "eval", "compile"} & set(self.words) and any("import " in text for text in self.strings):
            self.names_modules = self.names_modules or 1
        self.imports.sort(key=lambda node: (node.lineno, node.col_offset))

    def look_at_call(self, node: ast.Call, harmless: set):
        """Notes what a call says of modules and classes; `harmless` are expressions that show nobody what they are."""
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        harmless.add(node.func)
        if called in TAKE_CLASSES:
            harmless |= set(node.args)
        if called == "type" and len(node.args) == 1 and node not in harmless:
            self.shows_class = node.lineno  # unless only its name is asked for, or it is compared or called
        if called == "filterwarnings" and any(keyword.arg == "module" for keyword in node.keywords):
            self.words.setdefault("filterwarnings of a module", node.lineno)
        if any(keyword.arg == "allow_pickle" and getattr(keyword.value, "value", 1) for keyword in node.keywords):
            self.words.setdefault("allow_pickle", node.lineno)
        first = node.args[0] if node.args else None
        if called in IMPORTERS:
            text = first.value if isinstance(first, ast.Constant) else None
            if not isinstance(text, str) or text.startswith("."):
                self.names_modules = node.lineno
        if SHOWN.fullmatch(called):
            for argument in node.args:
                self.look_at_shown(argument)

    def look_at_shown(self, node):
        """`print(type(x))` shows the module's name; so does the name of a class, which looks like this: `Unet`."""
        if isinstance(node, ast.Attribute):
            if node.attr == "__class__":
                self.shows_class = node.lineno
        elif isinstance(node, ast.Name):
            self.words.setdefault(f"shown {node.id}", node.lineno)
        elif not isinstance(node, ast.Call):
            for part in ast.iter_child_nodes(node):
                self.look_at_shown(part)


class Reach:
    """The modules that the entry may load, in load order, dependencies first; found without running anything.

    Every import statement counts, wherever it stands, and every string that names a module. A module that is imported
    by a name computed at run time may be any: then all of the package's modules count. So they do for a suite of tests,
    which may look at anything. A `tests` folder inside a package counts only where it is named.

    Attributes:
        modules: name -> `Module`, without the entry.
        files: the packages' other files that a module may read: path in the output -> content.
        reason: why no module can be flat; empty if some can.
        starts_processes: whether Python may be started anew, which then needs to find the modules.
    """

    def __init__(self, library: Library, form: str):
        self.library, self.form = library, form
        self.facts: dict[str, Facts] = {}
        self.modules: dict[str, Module] = {}
        self.unreadable: list[Path] = []
        self.starts_processes = False
        self.dotted_name = re.compile(rf"\b(?:{'|'.join(map(re.escape, library.packages)) or '!'})(?:\.[^\W\d]\w*)+")
        self.suite = self.is_suite(self.facts_of("__main__"))
        self.visit("__main__")
        self.searched: dict[str, str] = {}  # top-level package -> who imports its modules by computed names
        for top in sorted(library.packages):
            for name in ["__main__", *self.modules]:
                if name in ("__main__", top) or name.startswith(f"{top}."):
                    line = self.searches(name)
                    if line and top not in self.searched:
                        self.searched[top] = f"{library.source(name).label}:{line}: may import any module of {top}"
            if self.suite or top in self.searched:
                self.visit_all(top)
        self.files = self.find_files()
        for content in list(self.files.values()):  # a configuration may name classes: {"target": "pkg.models.Unet"}
            for dotted in self.dotted_name.findall(content.decode("utf-8", "ignore")) if len(content) < 100_000 else []:
                self.visit_longest(dotted)
        all_words = set().union(*(facts.words for facts in self.facts.values()))
        texts = [text for facts in self.facts.values() for text in facts.strings]
        self.starts_processes = bool(PROCESS_STARTERS & all_words) and "executable" in all_words
        tops = f"(?:{'|'.join(map(re.escape, library.packages)) or '!'})"
        # In a statement, behind -m, or with something behind a dot or a slash; as a word of prose it starts nothing.
        for_python = rf"\b(?:import|from|-m)\b.*\b{tops}\b|\b{tops}[./]\w" + rf"|\A{tops}\Z" * ("-m" in texts)
        self.named = self.starts_processes and any(re.search(for_python, text) for text in texts)
        for top in library.packages if self.named else []:
            self.visit_all(top)
        self.reason = self.find_reason()

    def facts_of(self, name: str) -> Facts:
        if name not in self.facts:
            self.facts[name] = Facts(self.library.source(name))
        return self.facts[name]

    def is_suite(self, facts: Facts) -> bool:
        imported = [alias.name for node in facts.imports for alias in node.names if isinstance(node, ast.Import)]
        imported += [node.module or "" for node in facts.imports if isinstance(node, ast.ImportFrom)]
        return any(name.partition(".")[0] in TEST_TOOLS for name in imported)

    def searches(self, name: str) -> int:
        """The line in which a module may import others under names that its source does not hold; 0: nowhere."""
        facts = self.facts[name]
        found = [facts.words[word] for word in SEARCHERS & set(facts.words)]
        if name != "__main__" and "__file__" in facts.words and LISTERS & set(facts.words):
            found.append(facts.words["__file__"])
        return facts.names_modules or min(found, default=0)

    def visit(self, name: str):
        """Adds what a module imports, then the module."""
        if name in self.modules or (name != "__main__" and not self.library.find(name)):
            return
        parent = name.rpartition(".")[0]
        if parent:
            self.visit(parent)
            if name in self.modules:
                return
        try:
            module = self.library.source(name)
        except BuildError:  # a template, a file for another Python: it is carried as it is
            self.unreadable.append(self.library.find(name)[0])
            return
        facts = self.facts_of(name)
        if name != "__main__":
            self.modules[name] = module  # now, since imports may go in circles; moved to its place below
        for node in facts.imports:
            for dotted in self.library.named(module, node):
                if self.library.stays_behind(dotted):
                    reason = f"{dotted} lies outside of the packages and is not shipped"
                    module.refuse(node, reason, "move it into one")
            for dotted in self.imported(module, node):
                self.visit(dotted)
        for text in facts.strings:
            for dotted in self.dotted_name.findall(text):
                self.visit_longest(dotted)
        if name != "__main__":
            self.modules[name] = self.modules.pop(name)

    def imported(self, module: Module, node) -> list[str]:
        """The modules of the packages that an import statement may load, those that do not exist left out."""
        library = self.library
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            origin = library.origin(module, node)
            found = [origin]
            for alias in node.names:
                if alias.name != "*":
                    found.append(f"{origin}.{alias.name}")
                elif library.holds(origin) and library.find(origin):  # a star takes the sub-modules that __all__ names
                    names = [text for text in self.facts_of(origin).strings if text.isidentifier()]
                    found += [f"{origin}.{name}" for name in names]
        return [dotted for dotted in found if library.holds(dotted) and library.find(dotted)]

    def visit_longest(self, dotted: str):
        parts = dotted.split(".")
        for count in range(len(parts), 1, -1):
            if self.library.find(".".join(parts[:count])):
                self.visit(".".join(parts[:count]))
                return

    def visit_all(self, top: str):
        base = self.library.packages[top]
        for path in sorted(base.rglob("*.py")) if base.is_dir() else []:
            parts = [top, *path.relative_to(base).with_suffix("").parts]
            if {"tests", "test"} & set(parts[1:-1]):
                continue
            if not all(part.isidentifier() for part in parts):
                self.unreadable.append(path)  # a module for those who import it by name, a file for us
                continue
            if parts[-1] == "__init__":
                parts.pop()
            self.visit(".".join(parts))

    def find_reason(self) -> str:
        """Why somebody would notice that the modules have become one; empty if nobody would."""
        if self.named:
            return "it starts Python anew and names a package there"
        if self.unreadable:
            return f"{self.unreadable[0].name} cannot be read by this Python"
        if self.suite:
            return f"{self.library.entry.label} is a suite of tests, which may look at a module from all sides"
        classes = {
            node.name for module in self.modules.values() for node in module.body if isinstance(node, ast.ClassDef)
        }
        for name in ["__main__", *self.modules]:
            facts, label = self.facts[name], self.library.source(name).label
            for word, line in facts.words.items():
                if word in OBSERVERS or (word.startswith("shown ") and word[6:] in classes):
                    return f"{label}:{line}: {word.removeprefix('shown ')} shows where a class or function comes from"
            if name != "__main__" and "warn" in facts.words and DEPRECATIONS & set(facts.words):
                return f"{label}: a DeprecationWarning is shown where the main program causes it, and only there"
            if any(LOG_PLACE.search(text) for text in facts.strings):
                return f"{label}: log messages show in which file they were made"
            if facts.shows_class:
                return f"{label}:{facts.shows_class}: a class is shown with its module's name"
            if self.form == "notebook" and {"multiprocessing", "concurrent"} & set(facts.words):
                for text in facts.strings:
                    if text in ("spawn", "forkserver"):
                        return f"{label}: {text!r} starts processes that cannot see what a notebook defines"
        return ""

    def find_files(self) -> dict[str, bytes]:
        """The packages' files that are no modules, if some code may read them."""
        found = {}
        modules = {self.library.find(name)[0] for name in self.modules}
        reads = set(self.facts["__main__"].words)
        if ".__file__" not in reads:
            reads.discard("__file__")  # the entry's own
        reads = reads.union(*(self.facts[name].words for name in self.modules))
        texts = {text for facts in self.facts.values() for text in facts.strings}
        for top, base in sorted(self.library.packages.items()):
            mine = any(name.partition(".")[0] == top for name in self.modules)
            if mine and METADATA_READERS & reads:
                found.update(distribution_files(base))
            found.update((path.relative_to(base.parent).as_posix(), path.read_bytes()) for path in self.unreadable)
            if not base.is_dir() or not FILE_READERS & reads or not (mine or top in texts):
                continue
            sources = any(".py" in text for text in texts)  # then files of Python code may be read as data
            for path in sorted(base.rglob("*")):
                inside = path.relative_to(base.parent)
                hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts[:-1])
                in_package = path.suffix == ".py" and (path.parent / "__init__.py").is_file()
                skipped = path.suffix in (".pyc", ".so", ".pyd") or path in modules
                skipped |= in_package and not sources and path.stem not in texts
                skipped |= path.suffix == ".pyi" and "attach_stub" not in reads
                if path.is_file() and not hidden and not skipped and path.name != "py.typed":
                    found[inside.as_posix()] = path.read_bytes()
        return found

    def closure(self, apart: set[str]) -> frozenset[str]:
        """The modules that have to be in modules style if those of `apart` are.

        A real module can import real modules only; and its package is one, too. What stays flat below such a package
        must be imported by `from pkg.module import name`, and the package's own code may do nothing.
        """
        todo, closed = list(apart), set()
        while todo:
            name = todo.pop()
            if name in self.modules and name not in closed:
                closed.add(name)
                parent = name.rpartition(".")[0]
                todo += [parent] if parent else []
                module = self.modules[name]
                for node in self.facts[name].imports:
                    todo += self.imported(module, node)
                if module.is_package and any(not is_docstring(node) for node in module.body):
                    todo += [other for other in self.modules if other.startswith(f"{name}.")]
            if not todo:
                todo += [other for other in self.imported_by_attribute(closed) if other in self.modules]
        return frozenset(closed)

    def imported_by_attribute(self, apart: set[str]) -> list[str]:
        """Flat modules below packages in modules style that some flat module wants as the package's attributes."""
        found = []
        for name in ["__main__", *self.modules]:
            if name in apart:
                continue
            module = self.library.source(name)
            for node in self.facts[name].imports:
                wanted = self.imported(module, node)
                wanted = [dotted for dotted in wanted if dotted.rpartition(".")[0] in apart and dotted not in apart]
                if isinstance(node, ast.ImportFrom):
                    wanted = [dotted for dotted in wanted if dotted != self.library.origin(module, node)]
                found += wanted
        return found


def is_docstring(node) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def distribution_files(base: Path) -> dict[str, bytes]:
    """The metadata of the installed distribution that a package belongs to, if it lies beside the package."""
    for folder in sorted(base.parent.glob("*.dist-info")):
        with contextlib.suppress(OSError):
            listed = (folder / "RECORD").read_text(encoding="utf-8").splitlines()
            if any(line.startswith((f"{base.name}/", f"{base.name},")) for line in listed):
                names = ("METADATA", "entry_points.txt", "top_level.txt")
                found = {f"{folder.name}/{name}": folder / name for name in names}
                return {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    return {}


# ----------------------------------------------------------------------------------------------------------------------
# Purity: which statements can be moved or left out without anybody noticing
# ----------------------------------------------------------------------------------------------------------------------


PURE_CALLS = words("""
    bool bytes dict enumerate float frozenset int len list max min object range reversed round set slice sorted str sum
    tuple zip collections.namedtuple collections.defaultdict collections.OrderedDict collections.Counter re.compile
    typing.TypeVar typing.NewType typing.ParamSpec dataclasses.field pathlib.Path pathlib.PurePosixPath
    fractions.Fraction decimal.Decimal datetime.timedelta operator.itemgetter operator.attrgetter
    numpy.array numpy.arange numpy.linspace numpy.zeros numpy.ones numpy.full numpy.eye numpy.dtype numpy.float32
    numpy.float64 numpy.uint8 numpy.int8 numpy.int16 numpy.int32 numpy.int64 numpy.sqrt numpy.log numpy.exp
""")
PURE_DECORATORS = words("""
    property staticmethod classmethod dataclasses.dataclass contextlib.contextmanager functools.cache
    functools.lru_cache functools.wraps functools.cached_property functools.total_ordering abc.abstractmethod
    enum.unique typing.overload typing.final typing.runtime_checkable
""")
PURE_BASES = words("""
    abc.ABC enum.Enum enum.IntEnum enum.Flag enum.IntFlag enum.StrEnum typing.NamedTuple typing.TypedDict
    typing.Protocol typing.Generic collections.UserDict collections.OrderedDict
""")
PURE_ROOTS = ("numpy.", "math.", "re.", "logging.getLogger", "functools.partial", "typing.", "collections.")
PURE_BASE_PACKAGES = ("keras.", "torch.nn.")  # their classes do nothing when they are subclassed


class Purity:
    """Judges statements; when in doubt, they have effects."""

    def __init__(self, library: Library):
        self.library = library
        self.plain: dict[tuple[str, str], bool] = {}

    def dotted(self, module: Module, node) -> str | None:
        """`contextlib.contextmanager` for a decorator of that meaning, the bare name for a builtin, else None."""
        attributes = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        bound = module.bindings.get(node.id)
        if not bound:
            return ".".join([node.id, *reversed(attributes)]) if hasattr(builtins, node.id) else None
        if len(bound) > 1 or bound[0].action != "import":
            return None
        target = self.library.target(module, bound[0])
        if not isinstance(target, External):
            return None
        return ".".join([target.module, *filter(None, [target.attribute]), *reversed(attributes)])

    def expression(self, module: Module, node) -> bool:
        """Whether evaluating an expression changes nothing elsewhere.

        It does not, if it calls nothing but what is known to be harmless, and if no object of unknown make takes part
        in it: `a + b`, `a.b` and `for x in a` may run any code, if `a` is an instance of some class.
        """
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and self.dotted(module, part.func) not in PURE_CALLS:
                return False
            if isinstance(part, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
                return False
            if isinstance(part, ast.Name) and not self.is_plain(module, part.id):
                return False
        return True

    def is_plain(self, module: Module, name: str) -> bool:
        """Whether a name of a module stands for a function, a plain class or constant, or something third-party."""
        key = module.name, name
        if key not in self.plain:
            self.plain[key] = True  # for names that are defined by each other
            self.plain[key] = all(self.binds_plainly(module, use) for use in module.bindings.get(name, []))
        return self.plain[key]

    def binds_plainly(self, module: Module, use: Use) -> bool:
        if use.action == "import":
            target = self.library.target(module, use)
            if isinstance(target, External):
                return True
            origin, attribute = target
            if attribute is None or not self.library.find(origin):
                return False
            source = self.library.module(origin)
            return attribute in source.bindings and self.is_plain(source, attribute)
        if use.action == "define" and isinstance(use.node, ast.ClassDef):
            return self.definition(module, use.node)
        if use.action == "define":
            return all(self.decorator(module, part) for part in use.node.decorator_list)
        return use.scope.kind == "module" and self.droppable(module, module.body[use.index])

    def decorator(self, module: Module, node) -> bool:
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            return self.decorator(module, node.func) and all(self.expression(module, part) for part in arguments)
        if isinstance(node, ast.Attribute) and node.attr in ("setter", "getter", "deleter"):
            return isinstance(node.value, ast.Name) and node.value.id not in module.bindings  # of the class around it
        return self.dotted(module, node) in PURE_DECORATORS

    def function(self, module: Module, node) -> bool:
        defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        annotations = [argument.annotation for argument in all_arguments(node.args)] + [node.returns]
        calls = [part for each in annotations if each for part in ast.walk(each) if isinstance(part, ast.Call)]
        return (
            all(self.decorator(module, part) for part in node.decorator_list)
            and all(self.expression(module, part) for part in defaults)
            and not calls
        )

    def definition(self, module: Module, node) -> bool:
        """Whether a class statement does no more than make the class: no metaclass, no registration of subclasses."""
        if (
            self.library.lists_subclasses()
            or node.keywords
            or not all(self.decorator(module, part) for part in node.decorator_list)
        ):
            return False
        names = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        if "__init_subclass__" in names:
            return False  # its subclasses are looked at by way of this class
        return all(self.base(module, part) for part in node.bases) and all(
            self.droppable(module, part) for part in node.body
        )

    def base(self, module: Module, node, depth: int = 0) -> bool:
        if isinstance(node, ast.Subscript):
            node = node.value
        dotted = self.dotted(module, node)
        if dotted is not None:
            return (
                dotted in PURE_BASES
                or dotted.startswith(PURE_BASE_PACKAGES)
                or isinstance(getattr(builtins, dotted, None), type)
            )
        if not isinstance(node, ast.Name) or depth > 50:
            return False
        bound = module.bindings.get(node.id, [])
        if len(bound) != 1:
            return False
        if bound[0].action == "import":
            target = self.library.target(module, bound[0])
            if isinstance(target, External) or target[1] is None or not self.library.find(target[0]):
                return False
            return self.base(self.library.module(target[0]), ast.Name(target[1], ast.Load()), depth + 1)
        node = bound[0].node
        return isinstance(node, ast.ClassDef) and self.definition(module, node)

    def droppable(self, module: Module, node) -> bool:
        """Whether a statement only binds names: nobody misses it who does not use them."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return self.function(module, node)
            case ast.ClassDef():
                return self.definition(module, node)
            case ast.Assign():
                names = [name for target in node.targets for name in getattr(target, "elts", [target])]
                return all(isinstance(name, ast.Name) for name in names) and self.expression(module, node.value)
            case ast.AnnAssign():  # but not x += y: it may change a list that another name means too
                return isinstance(node.target, ast.Name) and (node.value is None or self.expression(module, node.value))
            case ast.Expr():
                return isinstance(node.value, ast.Constant)
            case ast.Pass() | ast.Import() | ast.ImportFrom():
                return True
        return False

    def movable(self, module: Module, node) -> bool:
        """Whether a statement that only binds names may run earlier: it reads nothing that could change until then."""
        if not self.droppable(module, node):
            return False
        match node:
            case ast.Import():
                return True
            case ast.ImportFrom():
                origin = self.library.origin(module, node)
                if not self.library.holds(origin):
                    return not self.patches_others()
                return all(self.is_settled(origin, alias.name) for alias in node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                parts = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
                return all(self.reads_nothing(module, part) for part in parts)
            case ast.ClassDef():
                return all(self.movable(module, part) for part in node.body)
            case ast.Assign() | ast.AnnAssign():
                return node.value is None or self.reads_nothing(module, node.value)
        return True

    def patches_others(self) -> bool:
        """Whether some code sets an attribute of a module from outside, such as `time.time = ...`."""
        for module in self.library.modules.values():
            for use in module.uses:
                if use.chain and use.chain_action == "store" and use.owner.kind == "module":
                    bound = module.bindings.get(use.name, [])
                    if any(
                        each.action == "import" and isinstance(self.library.target(module, each), External)
                        for each in bound
                    ):
                        return True
        return False

    def is_settled(self, origin: str, name: str) -> bool:
        """Whether what is imported from a module of the packages is bound once and for all; others do not matter."""
        if not self.library.owns(origin) or not self.library.find(origin) or self.library.find(f"{origin}.{name}"):
            return True
        bound = self.library.module(origin).bindings.get(name, [])
        return len(bound) == 1 and bound[0].scope.kind == "module" and not bound[0].conditional

    def reads_nothing(self, module: Module, node) -> bool:
        """Whether an expression reads only what never changes: functions, classes, and calls known to be harmless."""
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Store):
                bound = module.bindings.get(part.id, [])
                called = self.dotted(module, part) in PURE_CALLS or (not bound and hasattr(builtins, part.id))
                if not called and not self.is_definition(module, part.id):
                    return False
            if isinstance(part, ast.Attribute) and self.dotted(module, part) not in PURE_CALLS:
                return False
        return True

    def is_definition(self, module: Module, name: str, depth: int = 0) -> bool:
        """Whether a name always means one function or class, or something imported from outside."""
        bound = module.bindings.get(name, [])
        if len(bound) != 1 or bound[0].conditional or depth > 50:
            return False
        if bound[0].action != "import":
            return bound[0].action == "define"
        target = self.library.target(module, bound[0])
        if isinstance(target, External):
            return not self.library.holds(target.module)
        origin, attribute = target
        known = attribute is not None and self.library.find(origin)
        return bool(known) and self.is_definition(self.library.module(origin), attribute, depth + 1)

    def makes_value(self, module: Module, node) -> bool:
        """Whether what a call calls only makes a value: a known function, or a named tuple of the module's own."""
        dotted = self.dotted(module, node)
        if dotted is not None:
            return dotted in PURE_CALLS or dotted.startswith(PURE_ROOTS)
        bound = module.bindings.get(getattr(node, "id", ""), [])
        made = bound[0].node if len(bound) == 1 and bound[0].action == "define" else None
        return isinstance(made, ast.ClassDef) and (
            [self.dotted(module, base) for base in made.bases] == ["typing.NamedTuple"]
            and self.definition(module, made)
            and not any(getattr(part, "name", "") in ("__new__", "__init__") for part in made.body)
        )

    def before_imports(self, module: Module, node) -> bool:
        """Whether a third-party import may be moved from below a statement to above it.

        Not above `os.environ["KERAS_BACKEND"] = "jax"`, nor above anything that is run for its effect.
        """
        if isinstance(node, ast.If | ast.Try):
            blocks = [*node.body, *node.orelse, *getattr(node, "finalbody", [])]
            blocks += [part for handler in getattr(node, "handlers", []) for part in handler.body]
            return all(self.before_imports(module, part) for part in blocks)
        if isinstance(node, ast.Assign | ast.AnnAssign) and not self.droppable(module, node):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if not all(isinstance(target, ast.Name) for target in targets) or node.value is None:
                return False
            roots = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
            calls = [part.func for part in ast.walk(node.value) if isinstance(part, ast.Call)]
            return all(self.makes_value(module, call) for call in calls) and not roots & {"os", "sys", "environ"}
        return self.droppable(module, node) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


# ----------------------------------------------------------------------------------------------------------------------
# Loading: all statements in the order in which Python would run them
# ----------------------------------------------------------------------------------------------------------------------


NOT_EVERYWHERE = words("""
    msvcrt winreg winsound _winapi nt fcntl grp pwd resource termios tty pty posix syslog crypt spwd ossaudiodev curses
    readline tkinter sqlite3 lzma bz2 dbm
""")


@dataclass
class Chunk:
    """Statements of one module that stand together in the flat program."""

    module: Module
    indices: list[int]


class Loader:
    """Follows the imports from the entry, as Python would, and writes down what runs when.

    A module that is imported at the head of another comes before it. Only where statements with effects stand before
    the import, or in a cycle of imports, does a module come in two chunks, with the imported one between them.
    """

    def __init__(self, library: Library):
        self.library = library
        self.purity = Purity(library)
        self.chunks: list[Chunk] = []
        self.loading: list[str] = []
        self.loaded: dict[str, int] = {}  # module -> position of its end among all events
        self.bound_at: dict[tuple[str, int], int] = {}  # (module, statement) -> position of its run
        self.events = 0
        self.disturbed = False  # a statement has run above which no third-party import may be moved
        self.outside: set[str] = set()  # third-party modules imported at module level so far
        self.late: list[tuple[Module, str]] = []  # who imports what in functions, not loaded yet

    def run(self) -> list[Chunk]:
        self.load("__main__")
        return self.chunks

    def load(self, name: str):
        if name in self.loaded or name in self.loading:
            return
        parent = name.rpartition(".")[0]
        if parent and self.library.owns(parent):
            self.load(parent)
            if name in self.loaded or name in self.loading:
                return
        module = self.library.module(name)
        self.loading.append(name)
        for dotted in self.wanted(module, lambda site: not site.at_load):
            if not self.reaches(dotted, set(self.loading)):
                self.load_silent(module, dotted)
        pending: list[int] = []
        for index, statement in enumerate(module.body):
            if index in module.dead:
                pending.append(index)
                continue
            sites = [site for site in module.sites if site.index == index and site.at_load]
            for site in sites:
                pending = self.load_imports(module, site, pending)
                site.unfinished = frozenset(self.loading)
            self.expand_stars(module, sites)
            for site in sites:
                if not self.is_standard(module, site):
                    targets = [self.library.target(module, use) for use in site.uses]
                    self.outside |= {
                        target.module.partition(".")[0] for target in targets if isinstance(target, External)
                    }
                apart = any(dotted in self.library.apart for dotted in self.library.named(module, site.node))
                if site.plain:
                    modules_only = isinstance(site.node, ast.Import) and self.is_standard(module, site)
                    site.hoisted = not apart and (not self.disturbed or modules_only)
                self.disturbed |= apart  # what the modules kept apart do when they are loaded is not looked at
            if not self.purity.before_imports(module, statement):
                self.disturbed = True
            self.events += 1
            self.bound_at[name, index] = self.events
            pending.append(index)
        self.flush(module, pending)
        self.loading.remove(name)
        self.events += 1
        self.loaded[name] = self.events
        self.late += [(module, dotted) for dotted in self.wanted(module, lambda site: not site.at_load)]
        for importer, dotted in list(self.late):
            if not self.reaches(dotted, set(self.loading)):
                self.load_silent(importer, dotted)

    def load_imports(self, module: Module, site: ImportSite, pending: list[int]) -> list[int]:
        """Loads what an import statement needs; returns the statements of `module` that still wait for their place."""
        for dotted in self.modules_of(module, site):
            if dotted in self.loaded or dotted in self.loading:
                continue
            if site.conditional:
                self.load_silent(module, dotted, site)
                continue
            effects = not all(
                self.purity.movable(module, module.body[index]) for index in pending if index not in module.dead
            )
            if effects or self.reaches(dotted, set(self.loading)):
                if pending and module.body[pending[-1]].end_lineno >= module.body[site.index].lineno:
                    module.refuse(site.node, "an import in the middle of a line", "use a line for each statement")
                self.flush(module, pending)
                pending = []
            self.load(dotted)
        return pending

    def load_silent(self, module: Module, dotted: str, site: ImportSite | None = None):
        """Loads a module early that Python would load later, perhaps never: it must do nothing but define."""
        if dotted in self.loaded or dotted in self.loading:
            return
        before, known = len(self.chunks), set(self.outside)
        self.load(dotted)
        loaded = {chunk.module.name: chunk.module for chunk in self.chunks[before:]}
        some = {name for each in loaded.values() for node in each.sites for name in self.library.named(each, node.node)}
        new = sorted(self.outside - known | some & NOT_EVERYWHERE)
        if new:
            line = site.node if site else next(s.node for s in module.sites if dotted in self.modules_of(module, s))
            module.refuse(
                line,
                f"{dotted} is imported late, and it imports {new[0]}, which would come early",
                "import it at the head of the module",
            )
        for chunk in self.chunks[before:]:
            for index in chunk.indices:
                statement = chunk.module.body[index]
                if index not in chunk.module.dead and not self.purity.movable(chunk.module, statement):
                    line = (
                        site.node
                        if site
                        else next(s.node for s in module.sites if dotted in self.modules_of(module, s))
                    )
                    where = f"{chunk.module.label}:{statement.lineno}"
                    module.refuse(
                        line,
                        f"{dotted} is imported late, and loading it has effects ({where}), which would come early",
                        "import it at the head of the module",
                    )

    def flush(self, module: Module, indices: list[int]):
        if indices:
            self.chunks.append(Chunk(module, indices))

    def is_standard(self, module: Module, site: ImportSite) -> bool:
        node = site.node
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        return all(name.partition(".")[0] in sys.stdlib_module_names for name in names)

    def wanted(self, module: Module, condition) -> list[str]:
        found = [dotted for site in module.sites if condition(site) for dotted in self.modules_of(module, site)]
        return [dotted for dotted in dict.fromkeys(found) if dotted not in self.loaded and dotted not in self.loading]

    def modules_of(self, module: Module, site: ImportSite) -> list[str]:
        """The modules of the packages that an import statement loads, in order."""
        node, found = site.node, []
        if isinstance(node, ast.Import):
            for alias in node.names:
                if self.library.owns(alias.name):
                    self.require(module, node, alias.name)
                    found.append(alias.name)
            return found
        origin = self.library.origin(module, node)
        if not self.library.owns(origin):
            return []
        self.require(module, node, origin)
        found.append(origin)
        source = self.library.module(origin)
        for alias in node.names:
            dotted = f"{origin}.{alias.name}"
            if alias.name == "*" or not source.is_package or not self.library.find(dotted):
                continue
            if alias.name not in source.bindings or self.is_own_submodule(module, origin, alias.name):
                found.append(dotted)
        return found

    def is_own_submodule(self, module: Module, origin: str, name: str) -> bool:
        """Whether `from . import name` in a package's `__init__` can only be its sub-module: nothing else binds it."""
        if origin != module.name or not self.library.find(f"{origin}.{name}"):
            return False
        bound = [
            use for use in module.bindings[name] if use.action == "import" and isinstance(use.node, ast.ImportFrom)
        ]
        own = [use for use in bound if use.alias.name == name and self.library.origin(module, use.node) == origin]
        return len(own) == len(module.bindings[name])

    def require(self, module: Module, node, dotted: str):
        if not self.library.find(dotted):
            module.refuse(
                node, f"there is no module {dotted}", "correct the import; optional modules are not supported"
            )

    def reaches(self, dotted: str, goals: set[str]) -> bool:
        """Whether loading a module leads, by imports at module level, to one of `goals`."""
        seen, todo = set(), [dotted]
        while todo:
            name = todo.pop()
            if name in seen or name in self.loaded:
                continue
            seen.add(name)
            module = self.library.module(name)
            for site in module.sites:
                if site.at_load:
                    found = self.modules_of(module, site)
                    if isinstance(site.node, ast.ImportFrom) and len(found) > len(site.node.names):
                        found = found[1:]  # from . import b: the package itself is not used, only its sub-module
                    if goals & set(found):
                        return True
                    todo += found
        return False

    def expand_stars(self, module: Module, sites: list[ImportSite]):
        """Gives `from x import *` a use for each name that it binds."""
        for site in sites:
            node = site.node
            if not isinstance(node, ast.ImportFrom) or node.names[0].name != "*":
                continue
            origin = self.library.origin(module, node)
            if not self.library.owns(origin):
                module.refuse(node, f"it is not known which names `from {origin} import *` binds", "name them")
            if origin in self.loading:
                module.refuse(node, f"{origin} is still loading when all its names are imported", "name them")
            for name in self.public_names(self.library.module(origin)):
                use = Use(name, *module.span(node), "import", site.scope, site.scope.module, site.index, node)
                use.conditional, use.site, use.alias = site.conditional, site, ast.alias(name)
                site.uses.append(use)
                module.uses.append(use)
                module.bindings[name].append(use)

    def public_names(self, module: Module) -> list[str]:
        exported = module.bindings.get("__all__")
        if not exported:
            submodules = {name.rpartition(".")[2] for name in self.loaded if name.rpartition(".")[0] == module.name}
            return sorted(name for name in {*module.bindings, *submodules} if not name.startswith("_"))
        statement = module.body[exported[0].index]
        value = getattr(statement, "value", None)
        if len(exported) > 1 or not isinstance(value, ast.List | ast.Tuple):
            module.refuse(statement, "`__all__` is not a plain list of strings", "write one list")
        try:
            return list(ast.literal_eval(value))
        except ValueError:
            return module.refuse(statement, "`__all__` is not a plain list of strings", "write one list")


# ----------------------------------------------------------------------------------------------------------------------
# Meaning: what a name stands for
# ----------------------------------------------------------------------------------------------------------------------


class Meanings:
    """What the names of the loaded modules stand for: through imports, re-exports and attributes of modules."""

    def __init__(self, library: Library, loader: Loader):
        self.library, self.loader = library, loader
        self.modules = [library.modules[name] for name in loader.loaded]
        self.cache: dict[tuple[str, str], Meaning | None] = {}
        self.unstable = {  # variables that get another value after their module is loaded
            Var(module.name, name)
            for module in self.modules
            for name, bound in module.bindings.items()
            for use in bound
            if (use.scope.kind != "module" and use.action != "import") or use.action == "delete"
        }
        self.add_outside_stores()
        self.cache.clear()

    def add_outside_stores(self):
        """`config.LR = 0.5`, outside of `config`, binds a variable of `config`."""
        for module in self.modules:
            for use in list(module.uses):
                if use.chain and use.chain_action != "load" and use.owner.kind == "module":
                    place = self.of(module, use.name)
                    for attribute, _ in use.chain[:-1]:
                        place = self.attribute(place.name, attribute) if isinstance(place, ModuleRef) else None
                    if isinstance(place, ModuleRef):
                        name = use.chain[-1][0]
                        self.library.modules[place.name].bindings[name].append(use)
                        self.unstable.add(Var(place.name, name))

    def of(self, module: Module, name: str) -> Meaning | None:
        """What a name of a module's namespace means; None: nothing that the module binds."""
        key = module.name, name
        if key not in self.cache:
            self.cache[key] = None  # for imports in a circle
            self.cache[key] = self.find(module, name)
        return self.cache[key]

    def find(self, module: Module, name: str) -> Meaning | None:
        bound = module.bindings.get(name)
        if not bound:
            return None
        here = Var(module.name, name)
        if all(use.action == "import" and use.site.plain for use in bound):
            targets = {self.target(module, use) for use in bound}
            if len(targets) == 1:
                target = targets.pop()
                if not isinstance(target, Var) or self.is_settled(target, bound[0].site):
                    return target
        for use in bound:
            if use.action == "import" and isinstance(self.target(module, use), ModuleRef):
                module.refuse(use.node, f"{name!r} is a module here and something else elsewhere", "use two names")
        return here

    def is_settled(self, var: Var, site: ImportSite) -> bool:
        """Whether a variable has, when it is imported, the value that it keeps."""
        if var in self.unstable:
            return False
        return var.module not in site.unfinished or len(self.library.modules[var.module].bindings[var.name]) == 1

    def target(self, module: Module, use: Use) -> Meaning:
        """What an import binds."""
        target = self.library.target(module, use)
        if isinstance(target, External):
            return target
        origin, attribute = target
        if attribute is None:
            return ModuleRef(origin)
        if self.loader.is_own_submodule(module, origin, attribute):
            return ModuleRef(f"{origin}.{attribute}")
        meaning = self.attribute(origin, attribute)
        if meaning is None:
            module.refuse(use.node, f"{origin} has no {attribute!r}", "correct the import")
        return meaning

    def attribute(self, origin: str, name: str) -> Meaning | None:
        """What `name` means as an attribute of a module: one of its variables, or a sub-module."""
        module = self.library.module(origin)
        dotted = f"{origin}.{name}"
        is_loaded = dotted in self.loader.loaded
        if name not in module.bindings:
            return ModuleRef(dotted) if is_loaded else None
        if is_loaded:
            last = max(self.loader.bound_at.get((origin, use.index), 0) for use in module.bindings[name])
            meaning = self.of(module, name)
            if meaning != ModuleRef(dotted) and self.loader.loaded[dotted] > last:
                line = module.bindings[name][0].node
                module.refuse(
                    line, f"{name!r} is overwritten by the sub-module {dotted}, loaded later", "rename one of them"
                )
            return meaning
        return self.of(module, name)


# ----------------------------------------------------------------------------------------------------------------------
# Shaking: what each use refers to, and which statements the entry reaches
# ----------------------------------------------------------------------------------------------------------------------

ANNOTATION_READERS = words("""
    __annotations__ get_type_hints get_annotations signature getfullargspec fields pydantic attr attrs msgspec typeguard
    beartype typer fastapi singledispatch NamedTuple TypedDict __dataclass_fields__
""")
REFUSED_NAMES = {
    "__file__": "pass paths as arguments",
    "__spec__": "do without it",
    "__package__": "do without it",
    "__path__": "do without it",
    "__loader__": "do without it",
    "__builtins__": "import builtins",
    "__doc__": "write the text as a constant",
    "__annotations__": "do without it",
    "globals": "use a dictionary of your own",
    "__import__": "use an import statement",
    "eval": "write the code itself",
    "exec": "write the code itself",
}
REFUSED_MODULES = {
    "importlib.resources": "pass paths as arguments",
    "importlib_resources": "pass paths as arguments",
    "pkgutil": "name the modules in import statements",
    "pkg_resources": "pass paths as arguments",
}


SHELL_NAMES = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_[dio]h|In|Out")  # IPython binds them before each cell


def shell_edits(module: Module) -> int:
    """The first line of a module, inside of a string, that IPython 9 would edit in a cell before it runs it; 0: none.

    It empties lines of blanks, and it takes `>>> ` away where it believes that the line is no docstring's.
    """
    blank, prompts = set(), set()
    delimiters = 0
    for token in module.tokens:
        if re.match(r"(?i)[rbfut]*(\"\"\"|''')", token.string):
            delimiters += 1 + (token.type == tokenize.STRING)
        if token.start[0] < token.end[0] and token.type not in (tokenize.NEWLINE, tokenize.NL):
            inside = range(token.start[0], token.end[0] + 1)
            blank |= {row for row in inside if module.lines[row - 1] and module.lines[row - 1].isspace()}
            if module.lines[token.start[0] - 1][: token.start[1]].strip():  # no docstring
                prompts |= {row for row in inside if module.lines[row - 1].lstrip().startswith((">>>", "...:"))}
    if delimiters != len(re.findall(r"(?<!\\)(\"\"\"|''')", module.text)):  # it takes others for quotes, too
        prompts |= {row for row, line in enumerate(module.lines, 1) if line.lstrip().startswith((">>>", "...:"))}
    return min(blank | prompts, default=0)


def refuse_shell_edits(module: Module):
    line = shell_edits(module)
    if line:
        remedy = "write the blanks as \\x20 and `>>>` as \\x3e>>, or build a .py file"
        module.refuse(line, "IPython would change this line of a string before it runs it", remedy)


@dataclass
class Reference:
    """A use that means a variable of the flat program: the text from `start` to `end` becomes that variable's name."""

    use: Use
    start: int
    end: int
    meaning: Var | External


class Program:
    """The whole analysis of one build: what is kept and what it refers to."""

    def __init__(self, library: Library, form: str, words: set[str]):
        self.library, self.form, self.words = library, form, words
        self.loader = Loader(library)
        self.chunks = self.loader.run()
        self.meanings = Meanings(library, self.loader)
        self.purity = self.loader.purity
        self.all_text = "\n".join(module.text for module in self.meanings.modules)
        self.modules = self.meanings.modules
        self.references: dict[tuple[str, int], list[Reference]] = collections.defaultdict(list)
        self.builtins: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
        self.own_names: list[tuple[Module, Use]] = []  # uses of __name__ in package modules
        self.local_bindings: dict[tuple[Scope, str], list[Use]] = collections.defaultdict(list)
        for module in self.modules:
            for use in module.uses:
                if use.owner.kind != "module" and use.action != "load":
                    self.local_bindings[use.owner, use.name].append(use)
        self.check_future()
        for module in self.modules:
            self.refer(module)
        self.meant = {reference.meaning for references in self.references.values() for reference in references}
        self.order = {}  # (module, statement) -> position in the flat program
        for chunk in self.chunks:
            for index in chunk.indices:
                self.order[chunk.module.name, index] = len(self.order)
        self.kept = self.shake()

    def check_future(self):
        """`from __future__ import annotations` holds for a whole program: all modules with annotations must agree."""
        annotated = [module for module in self.modules if any(map(is_annotated, ast.walk(module.tree)))]
        self.future = sorted({name for module in self.modules for name in module.future})
        with_it = [module for module in annotated if "annotations" in module.future]
        without = [module for module in annotated if "annotations" not in module.future]
        if with_it and without:
            line = next(
                node for node in with_it[0].body if isinstance(node, ast.ImportFrom) and node.module == "__future__"
            )
            if not ANNOTATION_READERS & self.words:
                return  # nobody can tell that all annotations have become strings
            with_it[0].refuse(
                line,
                f"it has `from __future__ import annotations`, {without[0].label} has annotations without it",
                "write it in all modules, or in none",
            )

    # --- references ---

    def refer(self, module: Module):
        for use in module.uses:
            if use.action == "import":
                self.refer_import(module, use)
            elif use.owner.kind == "module":
                self.refer_name(module, use, self.meanings.of(module, use.name))
            else:
                imported = self.local_import(module, use)
                if imported is not None:
                    self.refer_name(module, use, imported)
        known = set(module.bindings)
        for index, name in module.quoted:
            meaning = self.meanings.of(module, name) if name in known else None
            if isinstance(meaning, Var):
                use = Use(name, 0, 0, "load", None, None, index, module.body[index], weak=True)
                self.references[module.name, index].append(Reference(use, 0, 0, meaning))
        self.refuse_constructs(module)

    def refer_import(self, module: Module, use: Use):
        """An import that stays an assignment refers to the variable that it makes, and to the one that it copies."""
        if use.site.scope.kind == "module":
            meaning = self.meanings.of(module, use.name)
            target = self.meanings.target(module, use)
            if isinstance(meaning, Var) and meaning == Var(module.name, use.name):
                self.references[module.name, use.index].append(Reference(use, 0, 0, meaning))
                if isinstance(target, Var):
                    self.references[module.name, use.index].append(Reference(use, 0, 0, target))
        elif use.site.scope.kind == "class" and not isinstance(self.library.target(module, use), External):
            target = self.meanings.target(module, use)
            if isinstance(target, ModuleRef):
                module.refuse(use.node, "a module as an attribute of a class", "import it at the head of the module")
            self.references[module.name, use.index].append(Reference(use, 0, 0, target))

    def local_import(self, module: Module, use: Use) -> Meaning | None:
        """The meaning of a function's local variable that is bound by importing from the packages, else None."""
        bound = self.local_bindings.get((use.owner, use.name), [])
        ours = [
            each
            for each in bound
            if each.action == "import" and not isinstance(self.library.target(module, each), External)
        ]
        if not ours or use.owner.kind == "class":
            return None
        targets = {self.meanings.target(module, each) for each in ours}
        if len(ours) < len(bound) or len(targets) > 1:
            module.refuse(
                ours[0].node, f"{use.name!r} is imported here and bound elsewhere in the function", "use two names"
            )
        target = targets.pop()
        if target in self.meanings.unstable:
            module.refuse(
                ours[0].node, f"{use.name!r} changes after its module is loaded", "import it at the head of the module"
            )
        return target

    def refer_name(self, module: Module, use: Use, meaning: Meaning | None):
        place, end, chain = meaning, use.end, list(use.chain)
        while isinstance(place, ModuleRef):
            if not chain:
                module.refuse(
                    use.node,
                    f"the module {place.name} is used as an object",
                    f"import the names that are needed: from {place.name} import ...",
                    blame=place.name,
                )
            attribute, end = chain.pop(0)
            found = self.meanings.attribute(place.name, attribute)
            if found is None:
                module.refuse(
                    use.node,
                    f"{place.name} has no {attribute!r} that is known before it runs",
                    "import it by name",
                    blame=place.name,
                )
            place = found
        if place is None:
            if use.name == "__name__" and not module.is_entry:
                self.own_names.append((module, use))
            elif not use.weak:
                self.builtins[module.name, use.index].add(use.name)
            return
        sets_attribute = isinstance(meaning, ModuleRef) and not chain and use.chain_action != "load"
        if sets_attribute and (use.chain_action == "delete" or use.scope.kind != "module"):
            module.refuse(
                use.node,
                f"a function sets {use.chain[-1][0]!r} of another module",
                "write a function for it in that module",
            )
        self.references[module.name, use.index].append(Reference(use, use.start, end, place))

    def refuse_constructs(self, module: Module):
        """What the flat form would do wrongly, as far as it can be seen in the source."""
        if self.form == "notebook" and not module.is_entry:
            for name in sorted(filter(SHELL_NAMES.fullmatch, module.bindings)):
                use = module.bindings[name][0]
                module.refuse(use.node, f"{name!r} means something else to IPython", "use another name")
            refuse_shell_edits(module)
        for use in module.uses:
            is_builtin = use.owner.kind == "module" and use.action == "load" and not module.bindings.get(use.name)
            given = module.is_entry and use.name in ("__doc__", "__file__", "__package__")
            if is_builtin and use.name in REFUSED_NAMES and not given:
                reason = f"`{use.name}` is not what it was in a flat program"
                module.refuse(use.node, reason, REFUSED_NAMES[use.name])
            if use.action == "import":
                target = self.library.target(module, use)
                if isinstance(target, External):
                    for name in (target.module, f"{target.module}.{target.attribute}", use.alias.name):
                        if name in REFUSED_MODULES:
                            module.refuse(use.node, f"{name} needs the package's files", REFUSED_MODULES[name])
        for site in module.sites:
            for name in self.library.named(module, site.node):
                if name.partition(".")[0] in FRAME_READERS:
                    module.refuse(site.node, f"{name} reads the names of its caller", "do without it")
        for name in ("__getattr__", "__dir__"):
            for use in module.bindings.get(name, []):
                module.refuse(use.node, f"a module's own `{name}`", "define the names themselves")
        at_module_level = {use.node for use in module.uses if use.scope.kind == "module"}
        own_local = any(
            not site.at_load and any(map(self.library.owns, self.library.named(module, site.node)))
            for site in module.sites
        )
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                self.refuse_call(module, node)
                lists_names = self.purity.dotted(module, node.func) in ("vars", "dir", "locals") and not node.args
                if lists_names and (own_local or node.func in at_module_level):
                    module.refuse(node, "this call at module level sees the whole program", "do without it")
            elif self.names_sys_modules(module, node):
                module.refuse(node, "`sys.modules` does not hold the packages of a flat program", "do without it")

    def names_sys_modules(self, module: Module, node) -> bool:
        if isinstance(node, ast.ImportFrom):
            return node.module == "sys" and any(alias.name == "modules" for alias in node.names)
        return isinstance(node, ast.Attribute) and self.purity.dotted(module, node) == "sys.modules"

    def refuse_call(self, module: Module, node: ast.Call):
        called = self.purity.dotted(module, node.func) or ""
        last = called.rpartition(".")[2] or getattr(node.func, "attr", getattr(node.func, "id", ""))
        texts = [part.value for part in node.args[:1] if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if last == "import_module" and not (texts and not texts[0].startswith(".") and not self.library.owns(texts[0])):
            module.refuse(node, "a module imported by name while the program runs", "use an import statement")
        if self.form == "notebook" and called.startswith("inspect.getso"):
            module.refuse(
                node, f"`{called}` does not find all sources in a notebook", "do without it, or build a .py file"
            )
        if last in ("patch", "get_data", "run_module") and texts and self.library.owns(texts[0]):
            module.refuse(node, f"the module of {texts[0]!r} does not exist in a flat program", "do without it")
        if self.form == "notebook" and last in ("get_context", "set_start_method") and texts and texts[0] != "fork":
            module.refuse(node, f"{texts[0]!r} cannot start processes from a notebook", "use threads, or subprocess")

    def modules_in_order(self) -> list[Module]:
        """The modules in the order in which their code stands in the flat program."""
        return list({chunk.module.name: chunk.module for chunk in self.chunks}.values())

    def is_reexport(self, module: Module, use: Use) -> bool:
        """Whether another module may take this third-party name from here: then it is not imported for its effect."""
        return self.meanings.of(module, use.name) in self.meant

    # --- reachability ---

    def shake(self) -> set[tuple[str, int]]:
        """The statements that run for their effects, those of the entry, and all that they refer to."""
        bound: dict[Var, list[tuple[str, int]]] = collections.defaultdict(list)
        for module in self.modules:
            for name, uses in module.bindings.items():
                home = Var(module.name, name)
                for use in uses:
                    bound[home].append((use.scope.module_name if use.chain else module.name, use.index))
        kept: set[tuple[str, int]] = set()
        todo = []
        for module in self.modules:
            for index, statement in enumerate(module.body):
                if index not in module.dead and (module.is_entry or not self.purity.droppable(module, statement)):
                    todo.append((module.name, index))
        while todo:
            place = todo.pop()
            if place in kept:
                continue
            kept.add(place)
            for reference in self.references.get(place, []):
                if isinstance(reference.meaning, Var):
                    todo += bound[reference.meaning]
        return kept


def is_annotated(node) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.returns is not None or any(argument.annotation for argument in all_arguments(node.args))
    return isinstance(node, ast.AnnAssign)


# ----------------------------------------------------------------------------------------------------------------------
# Naming: one name for each variable of the one namespace
# ----------------------------------------------------------------------------------------------------------------------


PICKLERS = {"pickle", "multiprocessing", "concurrent", "joblib", "dill", "cloudpickle", "shelve", "copyreg"}


class Naming:
    """Gives every kept variable its name in the flat program: its own, unless another one has it already.

    Of several that want a name, the one that is bound last keeps it; the others get their module's name in front.
    A function or class that loses its name is still defined under it, so that `__name__`, `__qualname__` and `self.__x`
    are what they were; the next line gives it the new name, under which all code finds it.
    """

    def __init__(self, program: Program):
        self.program = program
        self.final: dict[Var | External, str] = {}
        self.taken = {use.name for module in program.modules for use in module.uses}
        self.reserved = {name for place in program.kept for name in program.builtins.get(place, ())}
        self.externals = self.find_externals()
        self.binding_order = self.find_binding_order()
        self.name_all()
        self.avoid_capture()
        self.check()

    def kept_references(self):
        for place in sorted(self.program.kept):
            yield from self.program.references.get(place, [])

    def find_externals(self) -> dict[External, list[tuple[Module, ImportSite, ast.alias]]]:
        """The third-party imports that the flat program needs, in load order, with the statements that make them."""
        program = self.program
        used = {(place, reference.meaning) for place in program.kept for reference in program.references.get(place, [])}
        needed = {meaning for _, meaning in used if isinstance(meaning, External)}
        in_module = {(place[0], meaning) for place, meaning in used}
        found = collections.defaultdict(list)
        for module in program.modules_in_order():
            mentioned = {use.name for use in module.uses if use.action != "import"}
            for site in module.sites:
                for use in site.uses if site.plain else []:
                    meaning = program.meanings.of(module, use.name)
                    if not isinstance(meaning, External) or program.library.target(module, use) != meaning:
                        continue
                    for_effect = module.is_entry or (use.name not in mentioned and not program.is_reexport(module, use))
                    if for_effect or (
                        meaning in needed and ((module.name, meaning) in in_module or not found[meaning])
                    ):
                        found[meaning].append((module, site, use.alias))
        return {meaning: sites for meaning, sites in found.items() if sites}

    def find_binding_order(self) -> dict[Var | External, tuple[int, int, bool]]:
        """For each variable where it is bound first and last, and whether by `def` or `class`."""
        order: dict[Var | External, tuple[int, int, bool]] = {}
        for place in sorted(self.program.kept):
            for reference in self.program.references.get(place, []):
                use, var = reference.use, reference.meaning
                if (use.action == "load" and use.chain_action == "load") or (
                    use.action == "import" and var != home(use)
                ):
                    continue
                position = self.program.order[place]
                first, last, defines = order.get(var, (position, position, False))
                order[var] = min(first, position), max(last, position), defines or use.action == "define"
        return order

    def name_all(self):
        groups = collections.defaultdict(set)
        for entity in [*(reference.meaning for reference in self.kept_references()), *self.externals]:
            groups[entity.name if isinstance(entity, Var) else entity.bound].add(entity)
        for name in sorted(groups):
            group = sorted(groups[name], key=self.claim, reverse=True)
            if name not in self.reserved:
                self.final[group.pop(0)] = name
            for entity in group:
                self.final[entity] = self.fresh(entity)

    def claim(self, entity: Var | External) -> tuple:
        """How strong an entity's claim to its plain name is."""
        _, last, defines = self.binding_order.get(entity, (-1, -1, False))
        is_entry = isinstance(entity, Var) and entity.module == "__main__"
        return is_entry, defines, isinstance(entity, External), last, str(entity)

    def fresh(self, entity: Var | External) -> str:
        """A readable name that no module uses for anything."""
        name = entity.name if isinstance(entity, Var) else entity.bound
        parts = [part for part in entity.module.strip("_").split(".") if part.isidentifier()]
        for count in range(1, len(parts) + 1):
            wanted = "_".join([*parts[-count:], name.strip("_") or "name"])
            if wanted not in self.taken:
                self.taken.add(wanted)
                return wanted
        number = 2
        while f"{wanted}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{wanted}_{number}")
        return f"{wanted}_{number}"

    def avoid_capture(self):
        """An imported `f as g` is called `f` again: not where a parameter is called `f`."""
        for place in sorted(self.program.kept):
            module = self.program.library.modules[place[0]]
            for reference in self.program.references.get(place, []):
                name = self.final[reference.meaning]
                written = module.text[reference.start : reference.end]
                if written and written != name and name in module.bound_inside[place[1]]:
                    self.final[reference.meaning] = self.fresh(reference.meaning)

    def plain_name(self, entity: Var | External) -> str:
        return entity.name if isinstance(entity, Var) else entity.bound

    def is_renamed(self, entity: Var | External) -> bool:
        return self.final[entity] != self.plain_name(entity)

    def check(self):
        """Refuses the renames that would change what the program does, and what would be read before it is bound."""
        for place in sorted(self.program.kept):
            for reference in self.program.references.get(place, []):
                use, var = reference.use, reference.meaning
                at_load = use.scope is not None and use.scope.kind == "module" and not use.conditional
                bound = self.binding_order.get(var, (0,))[0]
                if (
                    isinstance(var, Var)
                    and at_load
                    and bound > self.program.order[place]
                    and use.action == "load"
                    and (not hasattr(builtins, use.name))
                ):
                    module = self.program.library.modules[place[0]]
                    module.refuse(use.node, f"{var.module}.{var.name} is read before it is bound", "import it earlier")
        owners = {name: entity for entity, name in self.final.items()}
        for place in sorted(self.program.kept):
            module = self.program.library.modules[place[0]]
            for reference in self.program.references.get(place, []):
                use, entity = reference.use, reference.meaning
                written = module.text[reference.start : reference.end]
                if use.in_pattern and use.chain and "." not in self.flat_text(module, reference):
                    module.refuse(
                        use.node, f"`{written}` in a pattern would become a capture", "use `case x if x == ...`"
                    )
                if use.pinned and written != self.final[entity]:
                    module.refuse(
                        use.node, f"{use.name!r} cannot be renamed here to {self.final[entity]!r}", "use another name"
                    )
                if use.action == "define" and self.is_renamed(entity):
                    self.check_definition(module, use, entity, owners.get(use.name))
                if use.scope is None and use.name != self.final[entity] and "get_type_hints" in self.program.all_text:
                    module.refuse(
                        use.node,
                        f"{use.name!r} in quotes is called {self.final[entity]!r}",
                        "write the annotation without quotes",
                    )
                if use.scope is None:
                    continue
                if hasattr(builtins, use.name) and self.is_renamed(entity) and isinstance(entity, Var):
                    bound = module.bindings.get(use.name, [])
                    early = bound and use.start < bound[0].start and use.scope.kind == "module"
                    if bound and (bound[0].conditional or early or any(each.action == "delete" for each in bound)):
                        module.refuse(
                            use.node, f"{use.name!r} is a builtin, and not always this module's own", "use another name"
                        )

    def flat_text(self, module: Module, reference: Reference) -> str:
        """What a use with its attributes becomes."""
        return (
            self.final[reference.meaning]
            + module.text[reference.end : max([reference.end, *(end for _, end in reference.use.chain)])]
        )

    def check_definition(self, module: Module, use: Use, entity: Var, owner: Var | External | None):
        """The plain name of a definition is bound for a moment: nobody else's may be overwritten by that."""
        if use.scope.kind != "module":
            module.refuse(
                use.node, f"a global {use.name!r} defined in a function collides with another", "use another name"
            )
        for other in self.program.modules:
            for site in other.sites:
                for each in site.uses:
                    target = self.program.library.target(other, each)
                    if isinstance(target, External) and target.module.partition(".")[0] in PICKLERS:
                        reason = (
                            f"{use.name!r} collides with another, and {target.module}, which {other.label} imports, "
                        )
                        module.refuse(
                            use.node, reason + "finds classes and functions by their names", "use another name"
                        )
        if owner is None:
            return
        first = self.binding_order[owner][0] if isinstance(owner, Var) else -1
        if first < self.program.order[module.name, use.index]:
            module.refuse(
                use.node, f"{use.name!r} collides with an earlier {owner.module}.{use.name}", "use another name"
            )

    def renamed(self) -> list[str]:
        """One line for each rename, for the user."""
        return sorted(
            f"{entity.module}.{self.plain_name(entity)} -> {name}"
            for entity, name in self.final.items()
            if self.is_renamed(entity)
        )


def home(use: Use) -> Var:
    """The variable of its own module that an import binds."""
    return Var(use.scope.module_name, use.name)


# ----------------------------------------------------------------------------------------------------------------------
# Emission: the edited text of each module, with the source line of every line
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of the output, and where it comes from."""

    text: str
    label: str = ""
    number: int = 0


@dataclass
class Block:
    """A statement with its comments, or comments that stand alone; `gap`: the blank lines above it."""

    lines: list[Line]
    gap: int


class Emitter:
    """Edits the text of one module."""

    def __init__(self, program: Program, naming: Naming, module: Module):
        self.program, self.naming, self.module = program, naming, module
        self.edits: list[tuple[int, int, str]] = []
        self.skipped_lines: set[int] = set()  # not for the output: coding lines, the kernel's head, cell marks
        for comment in module.comments:
            if comment.line <= 2 and (comment.text.startswith("#!") or CODING.match(comment.text)):
                self.skipped_lines.add(comment.line)
        for index in range(len(module.body)):
            if (module.name, index) in program.kept:
                self.edit_references(index)
        for use_module, use in program.own_names:
            if use_module is module and (module.name, use.index) in program.kept:
                self.edit_own_name(use)
        self.edit_imports()
        self.edits.sort()

    def edit_references(self, index: int):
        text = self.module.text
        for reference in self.program.references.get((self.module.name, index), []):
            use, name = reference.use, self.naming.final[reference.meaning]
            if reference.start == reference.end:
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

    def add_alias(self, use: Use, name: str):
        """After a definition that lost its name, a line that gives it the new one."""
        node = use.node
        end = self.module.starts[node.end_lineno] - 1
        lines = [f"{name} = {use.name}"]
        if use.name in self.naming.reserved:
            lines.append(f"del {use.name}  # other code means the builtin")
        self.edits.append((end, end, "".join("\n" + " " * node.col_offset + line for line in lines)))

    def edit_own_name(self, use: Use):
        if use.action != "load" or use.in_string:
            self.module.refuse(use.node, "`__name__` in this place", "write the module's name as a string")
        self.edits.append((use.start, use.end, f'"{self.module.name}"'))

    # --- imports ---

    def edit_imports(self):
        """Takes the imports of the packages away, and those that moved to the top; the comments on them stay."""
        gone = set()
        rewritten = {}
        for site in self.module.sites:
            parts = self.import_parts(site)
            if parts is None:
                continue
            rewritten[site.node] = parts
            if not parts:
                gone.add(site.node)
        for index in self.module.dead:
            rewritten[self.module.body[index]] = []
        for node in self.module.body:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level:
                rewritten[node] = []
        for node, parts in rewritten.items():
            block = self.module.siblings[node]
            if (
                block is not self.module.body
                and not parts
                and all(other in gone for other in block)
                and block[0] is node
            ):
                parts = ["pass"]
            self.replace_statement(node, parts)

    def import_parts(self, site: ImportSite) -> list[str] | None:
        """The statements that an import statement becomes; None: it stays as it is."""
        node, module, final = site.node, self.module, self.naming.final
        origin = self.program.library.named(module, node)[0]
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and not site.uses:
            return [] if self.program.library.owns(self.program.library.origin(module, node)) else None
        if site.scope.kind not in ("module", "class") or (not site.at_load and site.scope.kind == "class"):
            ours = [isinstance(self.program.library.target(module, use), tuple) for use in site.uses]
            outside = [use.alias for use, our in zip(site.uses, ours, strict=True) if not our]
            changed = any(ours) or getattr(node, "level", 0)
            return [import_text(node, outside, origin)] * bool(outside) if changed else None
        kept = (module.name, site.index) in self.program.kept
        parts, changed = [], bool(getattr(node, "level", 0))
        for use in site.uses:
            target = self.program.library.target(module, use)
            if site.scope.kind == "class":
                if isinstance(target, External):
                    parts.append(import_text(node, [use.alias], origin))
                else:
                    changed = True
                    parts.append(f"{use.name} = {final[self.program.meanings.target(module, use)]}")
                continue
            meaning = self.program.meanings.of(module, use.name)
            if meaning == Var(module.name, use.name):
                changed |= not kept or not isinstance(target, External) or self.naming.is_renamed(meaning)
                if not kept:
                    continue
                if isinstance(target, External):
                    parts.append(import_text(node, [renamed_alias(module, node, use.alias, final[meaning])], origin))
                else:
                    parts.append(f"{final[meaning]} = {self.final_of(module, use)}")
            elif isinstance(meaning, External) and meaning in final and self.stays(meaning, site):
                parts.append(import_text(node, [renamed_alias(module, node, use.alias, final[meaning])], origin))
                changed |= self.naming.is_renamed(meaning)
            else:
                changed = True
        return parts if changed else None

    def final_of(self, module: Module, use: Use) -> str:
        target = self.program.meanings.target(module, use)
        name = self.naming.final.get(target)
        if name is None:
            module.refuse(
                use.node, f"{use.name!r} is imported under two meanings", "import it once, at the head of the module"
            )
        return name

    def stays(self, meaning: External, site: ImportSite) -> bool:
        """Whether a third-party import stays where it stands, since it must not be moved above what runs before it."""
        sites = self.naming.externals.get(meaning, [])
        return not any(other.hoisted for _, other, _ in sites) and bool(sites) and sites[0][1] is site

    def replace_statement(self, node, parts: list[str]):
        """Puts `parts` in the place of a statement; with none left, its lines go, except for the comments on them."""
        module = self.module
        start, end = module.span(node)
        line_start, line_end = module.starts[node.lineno - 1], module.starts[node.end_lineno] - 1
        before, after = module.text[line_start:start], module.text[end:line_end]
        comments = [
            comment.text
            for comment in module.comments
            if node.lineno <= comment.line <= node.end_lineno and not PRAGMA.match(comment.text)
        ]
        if before.strip() or (after.strip() and not after.lstrip().startswith("#")):
            if parts:
                self.edits.append((start, end, "; ".join(parts)))
            else:  # another statement stands on the same line: the semicolon behind this one goes too
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

    # --- lines and blocks ---

    def edited(self, first: int, last: int) -> list[Line]:
        """The lines from `first` to `last` of the source, edited."""
        module = self.module
        position, stop = module.starts[first - 1], module.starts[last] - 1
        pieces: list[tuple[str, int]] = []

        def copy(start: int, end: int):
            number = module.line_of(start)
            for part in module.text[start:end].splitlines(keepends=True) if start < end else []:
                pieces.append((part, number))
                number += part.endswith("\n")

        for start, end, text in self.edits_between(position, stop):
            if start < position:
                module.refuse(
                    module.line_of(start), "two edits of one place", "report this as a bug of build_kernel.py"
                )
            copy(position, start)
            pieces.append((text, module.line_of(start)))
            position = end
        copy(position, stop)
        lines, text, number = [], "", 0
        for piece, source in pieces:
            for index, part in enumerate(piece.split("\n")):
                if index:
                    lines.append(Line(text, module.label, number or source))
                    text, number = "", 0
                text += part
                number = number or (source if part else 0)
        if text:
            lines.append(Line(text, module.label, number))
        return lines

    def edits_between(self, start: int, stop: int):
        return [edit for edit in self.edits if start <= edit[0] <= stop]

    def blocks(self, indices: list[int], first: int, last: int) -> list[Block]:
        """The blocks of some statements, which lie with their comments between two lines."""
        module, found = self.module, []
        position, waiting, gap = first, [], 0
        for group in self.groups(indices):
            start = min(first_line(module.body[index]) for index in group)
            end = max(module.body[index].end_lineno for index in group)
            free, attached, blank = self.comments_above(position, start)
            if free:
                waiting = free
            gap = max(gap, blank)
            lines = self.statement_lines(group, start, end)
            if not lines and self.is_import(group):
                lines = [line for line in attached if not PRAGMA.match(line.text)]
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
            found.append(Block(free + [Line("")] * bool(free and attached) + attached, max(gap, blank)))
        return found

    def groups(self, indices: list[int]) -> list[list[int]]:
        """Statements that share a line belong together."""
        groups: list[list[int]] = []
        for index in indices:
            node = self.module.body[index]
            if groups and self.module.body[groups[-1][-1]].end_lineno >= first_line(node):
                groups[-1].append(index)
            else:
                groups.append([index])
        return groups

    def statement_lines(self, group: list[int], start: int, end: int) -> list[Line]:
        module = self.module
        if group[0] == 0 and module.docstring and len(group) == 1:
            return self.comments_on(module.body[0])  # the docstring stands above, as text
        wanted = [
            index
            for index in group
            if (module.name, index) in self.program.kept
            or index in module.dead
            or isinstance(module.body[index], ast.Import | ast.ImportFrom)
        ]
        if not wanted:
            return []
        for index in group:
            if index not in wanted:  # it shares a line with a statement that is kept
                wanted.append(index)
                module.refuse(
                    module.body[index],
                    "several statements on a line, of which some are not needed",
                    "use a line for each",
                )
        return [line for line in self.edited(start, end) if line.text.strip() or not self.is_import(group)]

    def comments_on(self, node) -> list[Line]:
        """The comments on a statement's lines."""
        rows = [comment for comment in self.module.comments if node.lineno <= comment.line <= node.end_lineno]
        return [Line(comment.text, self.module.label, comment.line) for comment in rows]

    def is_import(self, group: list[int]) -> bool:
        return all(isinstance(self.module.body[index], ast.Import | ast.ImportFrom) for index in group)

    def comments_above(self, first: int, stop: int) -> tuple[list[Line], list[Line], int]:
        """The comments between two statements (standing alone; directly above the second), and the blank lines."""
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


class EntryEmitter(Emitter):
    """The entry beside modules in modules style: its text, with relative imports written in full."""

    def __init__(self, library: Library):
        entry = self.module = library.entry
        self.edits, self.skipped_lines = [], set()
        for comment in entry.comments:
            if comment.line <= 2 and (comment.text.startswith("#!") or CODING.match(comment.text)):
                self.skipped_lines.add(comment.line)
        for node in ast.walk(entry.tree):
            if isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level:
                self.replace_statement(node, [])
            elif isinstance(node, ast.ImportFrom) and node.level:
                origin = library.origin(entry, node)
                pattern = rf"from[\s\\]*\.[\s\\.]*{re.escape(node.module or '')}(?=[\s\\]|import)"
                dots = re.compile(pattern).match(entry.text, entry.span(node)[0])
                text = f"from {origin}" if node.module else f"from {origin} "
                self.edits.append((dots.start(), dots.end(), text))
        self.edits.sort()

    def statement_lines(self, group: list[int], start: int, end: int) -> list[Line]:
        if group[0] == 0 and self.module.docstring and len(group) == 1:
            return self.comments_on(self.module.body[0])
        return [line for line in self.edited(start, end) if line.text.strip() or not self.is_import(group)]


def import_text(node, aliases: list[ast.alias], origin: str) -> str:
    """An import statement for some of the names of another; `origin` is the full name of what it imports from."""
    names = ", ".join(f"{alias.name} as {alias.asname}" if alias.asname else alias.name for alias in aliases)
    return f"from {origin} import {names}" if isinstance(node, ast.ImportFrom) else f"import {names}"


def renamed_alias(module: Module, node, alias: ast.alias, name: str) -> ast.alias:
    """The alias that binds `name`."""
    if name == (alias.asname or alias.name.partition(".")[0]):
        return alias
    if "." in alias.name and not alias.asname:
        module.refuse(node, f"`import {alias.name}` collides with another {name!r}", "import it `as` something")
    return ast.alias(alias.name, name if name != alias.name else None)


def join_blocks(blocks: list[Block]) -> list[Line]:
    lines: list[Line] = []
    for block in blocks:
        if lines:
            lines += [Line("")] * block.gap
        lines += block.lines
    return lines


def split_blocks(blocks: list[Block]) -> list[list[Line]]:
    """Code cells of at most `CELL_LINES` lines, as long as no single block is longer."""
    cells: list[list[Block]] = []
    size = 0
    for block in blocks:
        if cells and size + block.gap + len(block.lines) <= CELL_LINES:
            cells[-1].append(block)
            size += block.gap + len(block.lines)
        else:
            # A comment that heads what follows goes with it.
            moved = [cells[-1].pop()] if cells and len(cells[-1]) > 1 and is_comment(cells[-1][-1]) else []
            cells.append([*moved, block])
            size = sum(len(each.lines) for each in cells[-1])
    return [join_blocks(cell) for cell in cells]


def is_comment(block: Block) -> bool:
    return all(not line.text.strip() or line.text.lstrip().startswith("#") for line in block.lines)


# ----------------------------------------------------------------------------------------------------------------------
# Modules: the modules style, in which a module keeps a namespace, a name and a file of its own
# ----------------------------------------------------------------------------------------------------------------------

FRAME_READERS = words("ply fire numexpr patsy formulaic statsmodels")
DYNAMIC_NAMES = words("""
    vars dir globals locals eval exec compile attrgetter methodcaller getmembers modules __dict__ __getattr__
    import_module __import__ patch
""")
NAME_CALLS = words("getattr setattr hasattr delattr")
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
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


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
    sys.path.insert(0, os.getcwd())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))


prepare_folders()
del prepare_folders
'''


def helper_lines(template: str, processes: bool, has_files: bool, **values) -> list[str]:
    """A helper's lines, without those that this program does not need."""
    lines = template.strip("\n").split("\n")
    needless = [] if values["EMPTY"] else ["EMPTY"]
    needless += [] if has_files else ["PACKAGE_FILES"]
    needless += [] if processes else ["PYTHONPATH"]
    lines = [line for line in lines if not any(word in line for word in needless)]
    if not values["EMPTY"] and not has_files and template is PREPARE:
        lines = [line for line in lines if "files" not in line and "content" not in line]
    for name, value in values.items():
        lines = [re.sub(rf"\b{name}\b", lambda _, value=value: python_literal(value), line) for line in lines]
    return [line + ", PACKAGE_FILES" if has_files and line.startswith("del ") else line for line in lines]


class Vocabulary:
    """Which words the code of a program holds, statement by statement: as names, attributes, and inside of strings."""

    def __init__(self, modules: list[Module]):
        self.places: dict[str, set[tuple[str, int]]] = collections.defaultdict(set)
        self.computed = False  # a name is put together while the program runs: anything may be meant
        for module in modules:
            for index, statement in enumerate(module.body):
                if not is_docstring(statement):
                    for word in self.words_of(statement):
                        self.places[word].add((module.name, index))

    def words_of(self, statement):
        todo = [statement]
        while todo:
            node = todo.pop()
            todo.extend(ast.iter_child_nodes(node))
            for name in ("id", "attr", "name", "module", "arg", "asname", "rest"):
                word = getattr(node, name, None)
                if isinstance(word, str):
                    yield from word.split(".")
            for name in ("names", "kwd_attrs"):  # of global, nonlocal and class patterns
                yield from (word for word in getattr(node, name, []) if isinstance(word, str))
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from re.findall(r"\w+", node.value)
            if isinstance(node, ast.BinOp):
                text = joined_text(node)
                if text is not None:
                    yield from re.findall(r"\w+", text)
            called = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if called in NAME_CALLS and len(node.args) > 1 and joined_text(node.args[1]) is None:
                self.computed = True
            if getattr(node, "id", getattr(node, "attr", None)) in DYNAMIC_NAMES:
                self.computed = True
            if isinstance(node, ast.Import) and any(alias.name.split(".")[0] in FRAME_READERS for alias in node.names):
                self.computed = True
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FRAME_READERS:
                self.computed = True


def joined_text(node) -> str | None:
    """The text of a string constant, or of a sum of them; None for anything else."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = joined_text(node.left), joined_text(node.right)
        return None if left is None or right is None else left + right
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def only_defines(node) -> str | None:
    """The name that a statement binds, if it does nothing else and can be left out; None if it does more."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            annotations = [node.returns, *(argument.annotation for argument in all_arguments(node.args))]
            harmless = all(isinstance(part, ast.Constant) for part in defaults) and not any(
                isinstance(part, ast.Call) for each in annotations if each for part in ast.walk(each)
            )
            return node.name if harmless and not node.decorator_list else None
        case ast.ClassDef(bases=[], keywords=[], decorator_list=[]):
            harmless = all(is_docstring(part) or only_defines(part) is not None for part in node.body)
            return node.name if harmless else None
        case ast.Assign(targets=[ast.Name(id=name)]):
            try:
                ast.literal_eval(node.value)
            except (ValueError, TypeError):
                return None
            return None if "__" in name else name
    return None


def unused_statements(modules: list[Module], entry: Module, texts: list[str]) -> set[tuple[str, int]]:
    """The definitions whose name no other code of the program mentions, not even in a string, nor one of the texts.

    Nothing is unused where names are computed: `getattr(module, name)`, `vars(module)` and the like.
    """
    vocabulary = Vocabulary([entry, *modules])
    if vocabulary.computed:
        return set()
    for text in texts:
        for word in set(re.findall(r"\w+", text)):
            vocabulary.places[word].add(("", 0))
    candidates = {}
    for module in modules:
        for index, statement in enumerate(module.body):
            name = only_defines(statement)
            if name is not None and index not in module.dead:
                candidates[module.name, index] = name
    unused: set[tuple[str, int]] = set()
    found = True
    while found:
        found = {
            place
            for place, name in candidates.items()
            if place not in unused and not vocabulary.places[name] - unused - {place}
        }
        unused |= found
    return unused


class ModuleText:
    """One module's lines in modules style: its source, without the definitions that nothing needs."""

    def __init__(self, module: Module, unused: set[tuple[str, int]]):
        gone: set[int] = set()
        for index, node in enumerate(module.body):
            if (module.name, index) in unused and self.stands_alone(module, index):
                first = first_line(node)
                while first > 1 and module.lines[first - 2].startswith("#"):
                    first -= 1  # its comments go with it
                last = node.end_lineno
                while last < len(module.lines) and not module.lines[last].strip():
                    last += 1
                gone |= set(range(first, last + 1))
        future = {
            number
            for node in module.body
            if isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level
            for number in range(node.lineno, node.end_lineno + 1)
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
        return all(other.end_lineno < first_line(node) or first_line(other) > node.end_lineno for other in others)

    def join_future(self, module: Module):
        """Several lines of `from __future__ import` become one, since each is a comment in a script."""
        first = self.future[0]
        text = f"{FUTURE}import {', '.join(sorted(module.future))}"
        self.lines = [
            dataclasses.replace(line, text=text if line.number == first else "") if line.number in self.future else line
            for line in self.lines
        ]

    def in_script(self, name: str, label: str) -> list[Line]:
        """As a block of a script, which the script itself never runs; `from __future__` cannot stand there."""
        lines = [Line(MODULE_HEAD.format(name=name, label=label), label, 1)]
        for line in self.lines:
            text = f"# {line.text}" if line.text.startswith(FUTURE) else line.text
            lines.append(dataclasses.replace(line, text=INDENT + text if text else ""))
        return lines

    def has_future_in_string(self, module: Module) -> bool:
        """Whether a string has a line that looks like a commented `from __future__ import`."""
        rows = {number for number, line in enumerate(module.lines, 1) if line.startswith(f"# {FUTURE}")}
        return bool(rows and rows - {comment.line for comment in module.comments})

    def make_unambiguous(self):
        """What a block of a script cannot hold as it is: comments like its own for `from __future__`; no statement."""
        for at, line in enumerate(self.lines):
            if line.text.startswith(f"# {FUTURE}"):
                self.lines[at] = dataclasses.replace(line, text=f"#  {line.text[2:]}")
        if all(not text.strip() or text.startswith((FUTURE, "#")) for text in self.texts):
            self.lines.append(Line("pass"))

    @property
    def texts(self) -> list[str]:
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


# ----------------------------------------------------------------------------------------------------------------------
# Documents: cells; notebook and percent script
# ----------------------------------------------------------------------------------------------------------------------

CELL_MARK = re.compile(r"#\s*%%(?P<rest>.*)$")
SCRIPT_HEAD = re.compile(r"(?m)^# /// script\s*\n(?P<toml>(?:^#(?:| .*)\n)+?)^# ///[ \t]*$\n?")


@dataclass
class Cell:
    kind: str  # "markdown" or "code"
    id: str
    lines: list[Line]
    tags: list[str] = field(default_factory=list)
    metadata: dict = field(default_factory=dict)

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
        return "\n".join(line.text for line in self.lines)


@dataclass
class EntryCell:
    """A cell of an entry in percent format, by its lines; `first` is the line below the mark."""

    kind: str
    tags: list[str]
    first: int
    last: int


FOLDED = {"_kg_hide-input": True}  # Kaggle shows the cell's code on request only


def markdown(cell_id: str, text: str) -> Cell:
    return Cell("markdown", cell_id, [Line(line) for line in text.strip("\n").split("\n")])


def code(cell_id: str, lines: list[str], **more) -> Cell:
    return Cell("code", cell_id, [Line(line) for line in lines], **more)


def entry_cells(module: Module) -> list[EntryCell]:
    """The cells of the entry; what stands above the first mark is the first of them."""
    cells = [EntryCell("code", [], 1, len(module.lines))]
    for comment in module.comments:
        found = CELL_MARK.match(comment.text) if comment.column == 0 else None
        if not found:
            continue
        rest = found["rest"]
        tags = re.search(r"tags=(\[[^\]]*\])", rest)
        try:
            tags = json.loads(tags[1]) if tags else []
        except ValueError:
            module.refuse(comment.line, "the cell's tags are not a list of strings", 'write tags=["parameters"]')
        cells[-1].last = comment.line - 1
        kind = "markdown" if "[markdown]" in rest else "code"
        cells.append(EntryCell(kind, tags, comment.line + 1, len(module.lines)))
    return cells


class Document:
    """The cells of a program, before title and build id are put in: modules in modules style, flat ones, the entry."""

    def __init__(self, library: Library, reach: Reach, form: str):
        self.library, self.reach, self.form = library, reach, form
        self.settings: Cell | None = None
        self.imports: Cell | None = None
        self.sections: list[tuple[str, str, str]] = []  # anchor, title, summary
        self.future: list[str] = []
        self.files: dict[str, str] = {}  # what the modules in modules style have to be, once they are unpacked
        self.body: list[Cell] = []
        self.unused: list[tuple[str, str]] = []  # (module, name) of what modules in modules style leave out
        self.reasons: dict[str, str] = {}  # module in modules style -> why it is not flat
        self.program: Program | None = None
        self.naming: Naming | None = None
        if form == "notebook":
            refuse_shell_edits(library.entry)
        self.cells_of_entry = entry_cells(library.entry)
        if not library.is_kernel and any(self.code_in(cell) for cell in self.cells_of_entry if cell.kind == "markdown"):
            self.cells_of_entry = self.cells_of_entry[:1]  # the marks mean something else to this script
            self.cells_of_entry[0].last = len(library.entry.lines)
        if library.apart:
            self.add_apart()

    def hide_entry_marks(self, skipped: set[int]):
        """Adds the lines of the entry that are not for the output to `skipped`."""
        entry = self.library.entry
        skipped |= {cell.first - 1 for cell in self.cells_of_entry[1:]}
        head = SCRIPT_HEAD.search(entry.text)
        if head:
            skipped |= set(range(entry.line_of(head.start()), entry.line_of(head.end() - 1) + 1))
        for cell in self.cells_of_entry:
            if cell.kind == "markdown":
                skipped |= set(range(cell.first, cell.last + 1))
                for node in self.code_in(cell):
                    entry.refuse(node, "code in a markdown cell", "begin a code cell with `# %%`")

    def code_in(self, cell: "EntryCell") -> list[ast.stmt]:
        """The statements of the entry that lie in a cell."""
        return [node for node in self.library.entry.body if cell.first <= node.lineno <= cell.last]

    # --- modules in modules style ---

    def add_apart(self):
        modules = [module for name, module in self.reach.modules.items() if name in self.library.apart]
        modules = [module for module in modules if self.library.find(module.name)[0] is not None]
        unused = set()
        if not self.reach.suite:
            texts = [content.decode("utf-8", "ignore") for content in self.reach.files.values()]
            unused = unused_statements(list(self.reach.modules.values()), self.library.entry, texts)
        self.unused = sorted((name, only_defines(self.reach.modules[name].body[index])) for name, index in unused)
        cells, empty, files = [], [], dict(self.reach.files)
        for module in modules:
            text = ModuleText(module, unused)
            if not text.lines:
                self.files[module.label] = ""
                empty.append(module.label)
                continue
            if shell_edits(module) if self.form == "notebook" else text.has_future_in_string(module):
                files[module.label] = ("\n".join(text.texts) + "\n").encode()  # the usual form would change it
                continue
            if self.form == "script":
                text.make_unambiguous()
            self.files[module.label] = "\n".join(text.texts) + "\n"
            anchor = self.add_heading(module, f"`{module.label}`", module.docstring.split("\n\n")[0], cells)
            if self.form == "notebook":
                lines = [Line(f"%%writefile {module.label}"), *text.lines]
            else:
                lines = text.in_script(module.name, module.label)
            cells.append(Cell("code", cell_id(anchor), lines))
        template, values = UNPACK, {"PATTERN": MODULE_PATTERN, "EMPTY": empty}
        if self.form == "notebook":
            folders = {str(Path(name).parent) for name in [*self.files, *files]}
            template, values = PREPARE, {"EMPTY": empty, "FOLDERS": sorted(folders)}
        helper = helper_lines(template, self.reach.starts_processes, bool(files), **values)
        helpers = [code("cell-helper", helper, metadata=FOLDED)]
        if files:
            lines = file_literals(files)
            lines[0] = f"PACKAGE_FILES = {lines[0]}"
            helpers.insert(0, code("cell-files", ["import base64, zlib", "", *lines], metadata=FOLDED))
        # A notebook's cells write the modules, so its folders come first; a script's helper reads what stands above.
        self.body += [*helpers, *cells] if self.form == "notebook" else [*cells, *helpers]

    def add_heading(self, module: Module, title: str, paragraphs: str, cells: list[Cell], part: int = 0) -> str:
        """Adds the heading of a module's section; returns its anchor."""
        anchor = module.name.replace(".", "-").replace("_", "-") + (f"-part-{part + 1}" if part else "")
        self.sections.append((anchor, title, paragraphs.split("\n\n")[0].split(". ")[0].replace("\n", " ").rstrip(".")))
        cells.append(markdown(cell_id(anchor, "text"), f'<a id="{anchor}"></a>\n## {title}\n\n{paragraphs}'))
        return anchor

    # --- the entry ---

    def add_entry(self, chunks: list[Chunk], position: int, emitter: "Emitter | EntryEmitter"):
        chunk, module = chunks[position], self.library.entry
        is_last = not any(other.module.is_entry for other in chunks[position + 1 :])
        indices = set(chunk.indices)
        end = len(module.lines) if is_last else module.body[chunk.indices[-1]].end_lineno
        start = min((first_line(module.body[index]) for index in chunk.indices), default=1)
        is_first = not any(other.module.is_entry for other in chunks[:position])
        start = 1 if is_first else start
        made: list[Cell] = []
        for cell in self.cells_of_entry:
            if (cell.last < start and not is_first) or cell.first > end:
                continue
            if cell.kind == "markdown":
                if start <= cell.first:
                    made.append(self.entry_markdown(module, cell))
                continue
            first, last = max(cell.first, start), min(cell.last, end)
            inside = [index for index in sorted(indices) if first <= module.body[index].lineno <= last]
            blocks = emitter.blocks(inside, first, last)
            if "parameters" in cell.tags:
                self.settings = Cell("code", "cell-settings", join_blocks(blocks), ["parameters"])
                self.check_settings(module, inside)
                continue
            # The author of cells decides where they end; an entry without marks is split like a module.
            texts = [join_blocks(blocks)] if len(self.cells_of_entry) > 1 else split_blocks(blocks)
            if len(self.cells_of_entry) == 1:
                texts = [self.quiet(lines) for lines in texts]
            made += [Cell("code", "", lines, cell.tags) for lines in texts if lines]
        if not made:
            return
        anchor = "run" if is_last else f"run-part-{position + 1}"
        title = "Run" if is_last else "Run (first part)"
        self.sections.append((anchor, title, ""))
        self.body.append(markdown(cell_id(anchor, "text"), f'<a id="{anchor}"></a>\n## {title}'))
        for number, cell in enumerate(made, 1):
            cell.id = cell_id(anchor, str(number))
            self.body.append(cell)

    def quiet(self, lines: list[Line]) -> list[Line]:
        """Puts a semicolon behind an expression at the end of a cell, whose value a notebook would show."""
        body = ast.parse("\n".join(line.text for line in lines)).body if self.form == "notebook" else []
        if body and isinstance(body[-1], ast.Expr) and getattr(getattr(body[-1].value, "func", 0), "id", "") != "print":
            at = body[-1].end_lineno - 1
            row = lines[at].text.encode()
            end = body[-1].end_col_offset
            lines[at] = dataclasses.replace(lines[at], text=(row[:end] + b";" + row[end:]).decode())
        return lines

    def entry_markdown(self, module: Module, cell: EntryCell) -> Cell:
        lines = []
        for number in range(cell.first, cell.last + 1):
            text = re.sub(r"^# ?", "", module.lines[number - 1].rstrip())
            lines.append(Line(re.sub(r"^(#{1,2}) ", r"### ", text), module.label, number))
        while lines and not lines[-1].text:
            lines.pop()
        while lines and not lines[0].text:
            lines.pop(0)
        return Cell("markdown", "", lines)

    def check_settings(self, module: Module, indices: list[int]):
        """The settings cell comes first in the notebook: it may hold nothing that needs what stands above it."""
        for index in indices:
            node = module.body[index]
            try:
                ast.literal_eval(node.value)
                simple = isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets)
            except (AttributeError, ValueError):
                simple = False
            if not simple:
                module.refuse(
                    node, "the settings cell holds something else than NAME = literal", "move it to another cell"
                )

    # --- all cells ---

    def head_cells(self) -> list[Cell]:
        """What stands before all modules: the entry's docstring, if it is read, and `from __future__ import`."""
        entry, words = self.library.entry, self.reach.facts["__main__"].words
        docstring, assignments = [], []
        if "__doc__" in words and entry.docstring:
            start, end = entry.span(entry.body[0].value)
            docstring = entry.text[start:end].split("\n")
        if self.form == "notebook":
            assignments = ["__doc__ = " + docstring[0], *docstring[1:]] if docstring else []
            docstring = []
            if "__file__" in words:
                assignments.append(f"__file__ = {python_literal(entry.label)}  # a notebook has none")
        if "__package__" in words and self.library.entry_package:
            assignments.append(f"__package__ = {python_literal(self.library.entry_package)}")
        future = [f"from __future__ import {', '.join(self.future)}"] if self.future else []
        lines = [line for part in (docstring, future, assignments) if part for line in ["", *part]][1:]
        return [*([code("cell-head", lines)] if lines else []), *filter(None, [self.settings, self.imports])]

    def cells(self, title: str, intro: str) -> list[Cell]:
        lines = [f"- [{title}](#{anchor})" + (f": {about}" if about else "") for anchor, title, about in self.sections]
        contents = markdown("cell-contents", "**Contents**\n\n" + "\n".join(lines))
        first = markdown("cell-title", f"# {title}\n\n{intro}")
        return [first, contents, *self.head_cells(), *self.body]

    def build_id(self) -> str:
        """12 hexadecimal digits that stand for the shipped source, before any setting is written into it."""
        digest = hashlib.sha256()
        for cell in [*self.head_cells(), *self.body]:
            digest.update(f"{cell.kind}\0{cell.text}\0".encode())
        return digest.hexdigest()[:12]


class FlatDocument(Document):
    """The program with some modules, or all, in flat style."""

    def __init__(self, library: Library, reach: Reach, program: Program, naming: Naming):
        super().__init__(library, reach, program.form)
        self.program, self.naming = program, naming
        self.future = program.future
        self.imports = self.import_cell()
        emitters = {module.name: Emitter(program, naming, module) for module in program.modules}
        self.hide_entry_marks(emitters["__main__"].skipped_lines)
        for position, chunk in enumerate(program.chunks):
            if chunk.module.is_entry:
                self.add_entry(program.chunks, position, emitters["__main__"])
            else:
                self.add_module(position, chunk, emitters[chunk.module.name])

    # --- imports ---

    def import_cell(self) -> Cell | None:
        """All third-party imports, each once: the standard library sorted, then the others in load order."""
        groups: dict[bool, tuple[list[str], dict[str, list[str]]]] = {True: ([], {}), False: ([], {})}
        for meaning, sites in self.naming.externals.items():
            if not any(site.hoisted for _, site, _ in sites):
                continue
            name = self.naming.final[meaning]
            plain, members = groups[meaning.module.partition(".")[0] in sys.stdlib_module_names]
            if meaning.attribute is not None:
                alias = "" if name == meaning.attribute else f" as {name}"
                members.setdefault(meaning.module, []).append(meaning.attribute + alias)
                continue
            for module, site, alias in sites:
                line = import_text(site.node, [renamed_alias(module, site.node, alias, name)], meaning.module)
                if line not in plain:
                    plain.append(line)
        lines: list[str] = []
        for is_standard in (True, False):
            plain, members = groups[is_standard]
            found = sorted(plain) if is_standard else plain
            for module in sorted(members) if is_standard else members:
                found += from_import_lines(module, sorted(members[module]))
            lines += [""] * bool(lines and found) + found
        return code("cell-imports", lines) if lines else None

    # --- modules ---

    def add_module(self, position: int, chunk: Chunk, emitter: Emitter):
        module = chunk.module
        parts = [other for other in self.program.chunks if other.module is module]
        part = next(number for number, other in enumerate(parts) if other is chunk)
        first = 1 if part == 0 else module.body[parts[part - 1].indices[-1]].end_lineno + 1
        last = len(module.lines) if part == len(parts) - 1 else module.body[chunk.indices[-1]].end_lineno
        cells = [cell for cell in split_blocks(emitter.blocks(chunk.indices, first, last)) if cell]
        if not cells:
            return
        title = f"`{module.label}`" + (f" ({part + 1} of {len(parts)})" if len(parts) > 1 else "")
        anchor = self.add_heading(module, title, module.docstring if part == 0 else "", self.body, part)
        for number, lines in enumerate(cells, 1):
            self.body.append(Cell("code", cell_id(anchor, str(number) if number > 1 else ""), self.quiet(lines)))


class ModulesDocument(Document):
    """The program with all modules in modules style, and the entry as it is."""

    def __init__(self, library: Library, reach: Reach, form: str):
        super().__init__(library, reach, form)
        self.future = sorted(library.entry.future)
        emitter = EntryEmitter(library)
        self.hide_entry_marks(emitter.skipped_lines)
        self.add_entry([Chunk(library.entry, list(range(len(library.entry.body))))], 0, emitter)


def from_import_lines(module: str, members: list[str]) -> list[str]:
    line = f"from {module} import {', '.join(members)}"
    return [line] if len(line) <= 100 else [f"from {module} import (", *(f"    {member}," for member in members), ")"]


def cell_id(*parts: str) -> str:
    """A cell's id, of the 64 characters that nbformat allows."""
    name = "-".join(["cell", *filter(None, parts)])
    name = re.sub(r"[^A-Za-z0-9-]+", "-", name)
    return name if len(name) <= 64 else name[:51] + "-" + hashlib.sha256(name.encode()).hexdigest()[:12]


def notebook_text(cells: list[Cell]) -> str:
    """The cells as a notebook, in nbformat 4.5."""
    rows = []
    for cell in cells:
        row = {
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


# ----------------------------------------------------------------------------------------------------------------------
# Checks: the output compiles, has no unknown name, no import of the packages, no secret
# ----------------------------------------------------------------------------------------------------------------------

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
SECRETS = {
    "a Kaggle key": r"""["']key["']\s*:\s*["'][0-9a-f]{32}["']|KAGGLE_KEY["'\]\s]*=\s*["'][0-9a-f]{32}""",
    "a Kaggle token": r"KGAT_[0-9A-Za-z]{16,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}


def check_document(document: Document, cells: list[Cell]):
    """Refuses an output that cannot run; each of these would be a bug of this file."""
    library = document.library
    for cell in cells:
        if cell.kind == "code":
            lines = cell.lines[1:] if cell.is_file else cell.lines
            try:
                compile("\n".join(line.text for line in lines), cell.id, "exec", dont_inherit=True)
            except SyntaxError as error:
                line = lines[min(error.lineno or 1, len(lines)) - 1]
                raise BuildError(
                    f"{line.label}:{line.number}: the built cell {cell.id} is not valid Python: {error.msg}"
                ) from None
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
            if (library.owns(name) and library.find(name)) or name.startswith("."):
                raise BuildError(f"an import of {name} is left in the output; report this as a bug of build_kernel.py")
    known = set().union(*(unresolved_names(module.text) for module in library.sources.values()))
    unknown = unresolved_names(text) - known
    if unknown:
        raise BuildError(f"names without a meaning in the output: {', '.join(sorted(unknown))}")


def check_unpacked(document: Document, text: str):
    """Does what the helper of a script will do, and compares the modules with what they should be."""
    unindent = re.compile("^    (# (?=from __future__ ))?", re.MULTILINE)
    found = {name: unindent.sub("", lines) for name, lines in re.findall(MODULE_PATTERN, text, re.MULTILINE)}
    wanted = {name: content for name, content in document.files.items() if content}
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            raise BuildError(
                f"{name}: its text cannot be carried in a script. Remedy: build a notebook, or look there for lines "
                "that begin with a form feed or look like a module's head."
            )


def compile_text(text: str, name: str):
    try:
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise BuildError(f"{name} is not valid Python: {error.msg}: {(error.text or '').strip()}") from None


def unresolved_names(text: str) -> set[str]:
    """The global names that are read somewhere and bound nowhere."""
    bound, read = set(), set()

    def walk(table, top: bool):
        for symbol in table.get_symbols():
            if (top or symbol.is_declared_global()) and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
            if symbol.is_referenced() and (top or symbol.is_global()):
                read.add(symbol.get_name())
        for child in table.get_children():
            walk(child, False)

    walk(symtable.symtable(text, "<flat program>", "exec"), True)
    return read - bound - set(dir(builtins)) - IMPLICIT_NAMES


def private_texts(root: Path) -> dict[str, str]:
    """Paths of this machine, which nobody wants to publish."""
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


# ----------------------------------------------------------------------------------------------------------------------
# Trace: from the lines of a build back to the source
# ----------------------------------------------------------------------------------------------------------------------

FRAMES = (  # what a frame of a traceback looks like: by Python, and by IPython
    re.compile(r'File "(?P<path>[^"\n]+)", line (?P<line>\d+)'),
    re.compile(r"File (?P<path>[^\s:,]+\.py):(?P<line>\d+)"),
    re.compile(r"(?:Cell )?In(?:put)? ?\[(?P<cell>\d+)\], (?:line|in <cell line:) (?P<line>\d+)>?"),
)
CELL_FILE = re.compile(r"<ipython-input-(?P<cell>\d+)-\w+>|.*ipykernel_\d+[/\\](?P<hash>\d+)\.py")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def map_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.map.json")


def map_text(cells: list[Cell], form: str, name: str, head: str = "") -> str:
    """The map of a build as JSON: for each text of it, runs of lines as [line, count, source file, source line].

    A text is the script, a cell by its execution count, or a file that the program writes; `hashes` leads from the
    names that ipykernel gives to cells to their count.
    """
    texts: dict[str, list[list]] = {}
    hashes = {}
    count = 0
    row = 1 + len(head.splitlines()) + bool(head)
    for cell in cells:
        lines, at = cell.lines, row + 1  # below the mark `# %%`
        row = at + len(lines) + 1
        if cell.kind != "code":
            continue
        count += 1
        if cell.is_file:
            texts[lines[0].text.split()[1]] = runs(lines[1:])
            continue
        if form == "script":
            texts.setdefault(name, []).extend(runs(lines, at))
            if MODULE_HEAD_LINE.match(lines[0].text):
                texts[lines[0].label] = runs(lines[1:])
        else:
            texts[str(count)] = runs(lines)
            hashes[str(murmur2(cell.text.encode(), 0xC70F6907))] = count
    rows = [f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(value)}" for key, value in texts.items()]
    return '{"hashes": ' + json.dumps(hashes) + ',\n "texts": {\n' + ",\n".join(rows) + "\n}}\n"


def runs(lines: list[Line], first: int = 1) -> list[list]:
    found: list[list] = []
    for row, line in enumerate(lines, first):
        if not line.label or not line.number:
            continue
        if found and found[-1][0] + found[-1][1] == row and found[-1][2:] == [line.label, line.number - found[-1][1]]:
            found[-1][1] += 1
        else:
            found.append([row, 1, line.label, line.number])
    return found


def murmur2(data: bytes, seed: int) -> int:
    """MurmurHash2 of 32 bits (Austin Appleby), by which ipykernel names the file of a cell."""
    mixer, mask = 0x5BD1E995, 0xFFFFFFFF
    value = (seed ^ len(data)) & mask
    for at in range(0, len(data) // 4 * 4, 4):
        part = int.from_bytes(data[at : at + 4], "little") * mixer & mask
        value = value * mixer & mask ^ (part ^ part >> 24) * mixer & mask
    rest = data[len(data) // 4 * 4 :]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * mixer & mask
    value = (value ^ value >> 13) * mixer & mask
    return value ^ value >> 15


def trace_log(log: Path, map_file: Path | None) -> str:
    """A log's text, in which each frame that the map knows shows `package/module.py:line`.

    Args:
        log: Kaggle's JSON array of {stream_name, time, data}, or plain text.
        map_file: written beside the build; None: the only one beside the log or in build/.

    Raises:
        BuildError: no log, no map, or more than one that could be meant.
    """
    if map_file is None:
        found = sorted(log.parent.glob("*.map.json")) or sorted((ROOT / "build").glob("*/*.map.json"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise BuildError(f"--trace {log.name}: which map? There are: {names}. Remedy: give one by --map.")
        map_file = found[0]
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
        known = json.loads(map_file.read_text(encoding="utf-8"))
        texts, hashes = known["texts"], known["hashes"]
    except (OSError, ValueError, KeyError) as error:
        raise BuildError(f"--trace: {getattr(error, 'filename', None) or map_file.name}: {error}") from None
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        text = "".join(part.get("data", "") for part in json.loads(text))

    def source(found: re.Match) -> str:
        names = found.groupdict()
        key, path = names.get("cell"), names.get("path", "")
        cell = CELL_FILE.fullmatch(path)
        if cell:
            key = cell["cell"] or str(hashes.get(cell["hash"], ""))
        elif path:
            parts = path.replace("\\", "/").split("/")
            tails = ["/".join(parts[at:]) for at in range(len(parts))]
            key = next((tail for tail in tails if tail in texts), None)
        for row, count, label, number in texts.get(key, []):
            if row <= int(found["line"]) < row + count:
                return f"File {label}:{int(found['line']) - row + number}"
        return found[0]

    text = COLOURS.sub("", text)
    for pattern in FRAMES:
        text = pattern.sub(source, text)
    return text


# ----------------------------------------------------------------------------------------------------------------------
# Kaggle: the kernel's head, its settings cell, kernel-metadata.json
# ----------------------------------------------------------------------------------------------------------------------

ACCELERATORS = ("NvidiaTeslaT4", "NvidiaTeslaT4Highmem", "NvidiaL4", "NvidiaL4X1", "NvidiaTeslaA100", "NvidiaH100")
ACCELERATORS += ("NvidiaRtxPro6000", "TpuV5E8", "TpuV6E8")
RETIRED = (
    "NvidiaTeslaP100",
    "TpuV38",
    "Tpu1VmV38",
    "TpuV232",
    "TpuV2256",
)  # Kaggle silently runs something else instead
NO_OWNER = "INSERT-YOUR-KAGGLE-NAME"
SLUG, OWNER = r"[a-z0-9]+(?:-[a-z0-9]+)*", r"[A-Za-z0-9][\w-]*"
SOURCES = ("competition_sources", "dataset_sources", "kernel_sources", "model_sources")
KEYS = {
    "title": str,
    "accelerator": str,
    "internet": bool,
    "private": bool,
    "keywords": list,
    **dict.fromkeys(SOURCES, list),
}


def slugify(title: str) -> str:
    """The slug that Kaggle makes from a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def read_head(module: Module) -> dict:
    """The [tool.kaggle] table of the kernel's PEP 723 head, checked."""
    head = SCRIPT_HEAD.search(module.text)
    if not head:
        module.refuse(1, "no head", "begin the file with `# /// script`, `# [tool.kaggle]` ... `# ///` (PEP 723)")
    try:
        table = tomllib.loads(
            "".join(line[2:] if line.startswith("# ") else line[1:] for line in head["toml"].splitlines(True))
        )
    except tomllib.TOMLDecodeError as error:
        module.refuse(1, f"the head is not valid TOML: {error}", "correct it")
    kaggle = table.get("tool", {}).get("kaggle")
    if not isinstance(kaggle, dict):
        module.refuse(1, "the head has no [tool.kaggle]", "add it, with a title")
    for key, value in kaggle.items():
        if key not in KEYS:
            module.refuse(1, f"[tool.kaggle] has an unknown key {key!r}", f"use {', '.join(KEYS)}")
        if type(value) is not KEYS[key] or (
            isinstance(value, list) and not all(isinstance(part, str) for part in value)
        ):
            kind = {str: "a string", bool: "true or false", list: "a list of strings"}[KEYS[key]]
            module.refuse(1, f"[tool.kaggle] {key} = {value!r} is not {kind}", "correct it")
    check_head(module, kaggle)
    return kaggle


def check_head(module: Module, kaggle: dict):
    title, accelerator = kaggle.get("title", ""), kaggle.get("accelerator", "")
    if not 5 <= len(title) <= 50 or not 5 <= len(slugify(title)) <= 50 or not title.isascii():
        module.refuse(
            1, f"[tool.kaggle] title = {title!r}: it and its slug need 5 to 50 characters, all ASCII", "choose another"
        )
    if accelerator in RETIRED:
        module.refuse(
            1, f"accelerator {accelerator!r} is retired by Kaggle", f'use "" for a CPU, or {", ".join(ACCELERATORS)}'
        )
    if accelerator and accelerator not in ACCELERATORS:
        module.refuse(1, f"accelerator {accelerator!r} is not known", f'use "" for a CPU, or {", ".join(ACCELERATORS)}')
    shapes = {
        "competition_sources": (r"{s}", "slug"),
        "dataset_sources": (r"{o}/{s}(/\d+)?", "owner/slug or owner/slug/version"),
        "kernel_sources": (r"({o}/)?{s}(/\d+)?", "slug (of your own kernel), owner/slug or owner/slug/version"),
        "model_sources": (r"{o}/{s}/[\w.-]+/[\w.-]+/\d+", "owner/model/framework/variation/version"),
    }
    for key, (pattern, shape) in shapes.items():
        expression = pattern.format(s=SLUG, o=OWNER)
        for source in kaggle.get(key, []):
            if not re.fullmatch(expression, source):
                module.refuse(1, f"[tool.kaggle] {key}: {source!r} is not {shape}", "correct it")
            if key == "kernel_sources" and len(re.sub(r"/\d+$", "", source).rpartition("/")[2]) < 5:
                module.refuse(
                    1, f"[tool.kaggle] {key}: the slug of {source!r} has fewer than 5 characters", "correct it"
                )


def find_owner(flag: str | None) -> str | None:
    """The user's Kaggle name: from the flag, from KAGGLE_USERNAME, or from the first kaggle.json found."""
    owner = flag or os.environ.get("KAGGLE_USERNAME")
    if not owner:
        folders = [os.environ.get("KAGGLE_CONFIG_DIR"), Path.home() / ".kaggle"]
        folders.append(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle")
        for folder in filter(None, folders):
            try:
                found = json.loads((Path(folder) / "kaggle.json").read_text())
            except (OSError, ValueError):
                continue
            owner = found.get("username") if isinstance(found, dict) else None
            if owner:
                break
    if owner and not re.fullmatch(OWNER, owner):
        raise BuildError(f"owner {owner!r} is no Kaggle name. Remedy: give it as in kaggle.com/NAME.")
    return owner or None


def kernel_metadata(kaggle: dict, name: str, form: str, owner: str | None) -> dict:
    """kernel-metadata.json, with every value written: the client's own defaults are not what its documentation says."""
    owner = owner or NO_OWNER
    accelerator = kaggle.get("accelerator", "")
    metadata = {
        "id": f"{owner}/{slugify(kaggle['title'])}",
        "title": kaggle["title"],
        "code_file": f"{name}.ipynb" if form == "notebook" else f"{name}.py",
        "language": "python",
        "kernel_type": form,
        "is_private": kaggle.get("private", True),
        "enable_gpu": accelerator.startswith("Nvidia"),
        "enable_tpu": accelerator.startswith("Tpu"),
        "enable_internet": kaggle.get("internet", False),
        "keywords": kaggle.get("keywords", []),
        **{key: list(kaggle.get(key, [])) for key in SOURCES},
    }
    sources = metadata["kernel_sources"]
    metadata["kernel_sources"] = [part if re.match(r".+/.*[^\d/]", part) else f"{owner}/{part}" for part in sources]
    if accelerator:
        metadata["machine_shape"] = accelerator
    return metadata


# --- settings ---


def python_literal(value) -> str:
    """A value of JSON as Python source, with double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python_literal(key)}: {python_literal(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(python_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def settings_values(module: Module, cell: Cell | None) -> dict:
    """The values of the settings cell."""
    values = {}
    for node in ast.parse(cell.text).body if cell else []:
        values.update((target.id, ast.literal_eval(node.value)) for target in node.targets)
    return values


def write_setting(cell: Cell, name: str, value):
    """Writes a value into a line `NAME = ...` of the settings cell; the comment behind it stays."""
    lines = cell.text.split("\n")
    for node in ast.parse(cell.text).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name and node.value.lineno == node.value.end_lineno:
            row = lines[node.lineno - 1].encode()
            start, end = node.value.col_offset, node.value.end_col_offset
            text = (row[:start] + python_literal(value).encode() + row[end:]).decode()
            cell.lines[node.lineno - 1] = dataclasses.replace(cell.lines[node.lineno - 1], text=text)
            return
    raise BuildError(f"the settings cell has no line {name} = ...: write one, on one line, in the kernel")


def check_run_settings(root: Path, library: Library, values: dict):
    """Lets the package's own `preset` judge preset and settings, so that a bad one fails here and not on Kaggle."""
    tops = sorted({name.partition(".")[0] for name in library.sources if name != "__main__"})
    paths = [library.packages[top] / "config.py" for top in tops]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        if values.get("SET"):
            raise BuildError(
                "--set: none of the kernel's packages has a config.py with `preset`, to check the settings by"
            )
        return
    config = import_file(path)
    if not hasattr(config, "preset") or not hasattr(config, "PRESETS"):
        raise BuildError(f"{path.name}: has no `preset` and `PRESETS`, to check the settings by")
    # A kernel without a PRESET line changes settings that it finds at its start: some preset must take the changes.
    candidates = [values["PRESET"]] if "PRESET" in values else list(config.PRESETS)
    refused = None
    for candidate in candidates:
        try:
            config.preset(candidate, **values.get("SET", {}))
            return
        except (ValueError, TypeError) as error:
            refused = error
    raise BuildError(f"settings: {refused}")


def import_file(path: Path):
    """Imports a module from a file, under a name of its own, and without writing bytecode beside it."""
    name = "_build_kernel_config_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        reason = f"{type(error).__name__}: {error}"
        raise BuildError(f"{path.name}: cannot be imported to check the settings: {reason}") from error
    finally:
        sys.dont_write_bytecode = writes
    return module


# ----------------------------------------------------------------------------------------------------------------------
# Commands
# ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What a build has to say to its user."""

    path: Path
    size: int = 0
    cells: int = 0
    modules: int = 0
    build_id: str = ""
    owner: str | None = None
    dropped: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # "pkg/a.py: why" for each module in modules style
    warnings: list[str] = field(default_factory=list)


MANY_TRIES, FEW_TRIES, LARGE = 12, 1, 10_000  # flat programs tried; fewer where the packages have many lines


def analyse(library: Library, form: str, style: str = "auto") -> Document:
    """The program's document: as flat as it can be without anybody noticing, or as `style` says.

    A flat program is tried first. What one module prevents puts this module, and what it imports, in modules style; an
    entry that itself prevents it puts all modules there. `style` "flat" and "modules" allow one of the two only.
    """
    reach = Reach(library, form)
    reasons: dict[str, str] = {}  # module -> why it is not flat
    as_it_is = bool(reach.reason) and style == "auto"  # nothing is flat, not even the entry's part of it
    if style == "modules":
        reasons = dict.fromkeys(reach.modules, "--style modules")
    elif style == "auto" and reach.reason:
        reasons = dict.fromkeys(reach.modules, reach.reason)
    if style == "auto":
        tops = {name: reach.searched.get(name.partition(".")[0]) for name in reach.modules}
        reasons |= {name: reason for name, reason in tops.items() if reason and name not in reasons}
    tries = MANY_TRIES if sum(len(module.lines) for module in reach.modules.values()) < LARGE else FEW_TRIES
    while True:
        apart = reach.closure(set(reasons))
        library.start_over(apart)
        if as_it_is or (reach.modules and len(apart) == len(reach.modules)):
            document = ModulesDocument(library, reach, form)
            break
        try:
            program = Program(library, form, set().union(*(facts.words for facts in reach.facts.values())))
            document = FlatDocument(library, reach, program, Naming(program))
            break
        except BuildError as error:
            if style == "flat" or error.blame is None:
                raise
            known = set(reasons) | apart
            tries -= 1
            as_it_is = error.blame not in reach.modules or error.blame in known or not tries
            blamed = set(reach.modules) if as_it_is else {error.blame}
            reasons |= {name: str(error) for name in sorted(blamed - known)}
    document.reasons = {name: reasons.get(name, "imported by a module in modules style") for name in sorted(apart)}
    return document


def build_kernel(
    name: str,
    *,
    settings: dict | None = None,
    run_id: str = "",
    preset: str | None = None,
    owner: str | None = None,
    form: str = "notebook",
    out=ROOT / "build",
    root=ROOT,
) -> Path:
    """Builds kernels/NAME.py into a folder that `kaggle kernels push -p FOLDER` takes.

    Args:
        name: of the kernel.
        settings: changes of the preset, written into the line `SET = {}`.
        run_id: written into the line `RUN_ID = ""`; empty: the kernel makes one at its start.
        preset: written into the line `PRESET = ...`; None: what the kernel says.
        owner: Kaggle name; None: from KAGGLE_USERNAME or kaggle.json, or none.
        form: "notebook" or "script".
        out: the folder in which the folder NAME is made, or replaced.
        root: the repository.

    Returns:
        The path of the folder.

    Raises:
        BuildError: the kernel, its settings, or something that it imports cannot be built.
    """
    return build_report(name, settings, run_id, preset, owner, form, Path(out), Path(root)).path


def build_report(name, settings, run_id, preset, owner, form, out: Path, root: Path, resume: str = "") -> Report:
    """`build_kernel`, with all that can be told about the build; `resume` is written into the line `RESUME = ""`."""
    root = root.resolve()
    source = root / "kernels" / f"{name}.py"
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or not source.is_file():
        known = ", ".join(sorted(path.stem for path in (root / "kernels").glob("*.py"))) or "none"
        raise BuildError(f"there is no kernel {name!r} in kernels/; there are: {known}")
    packages = {path.parent.name: path.parent for path in sorted(root.glob("*/__init__.py"))}
    library = Library(source, packages, f"kernels/{name}.py", beside=root)
    kaggle = read_head(library.entry)
    document = analyse(library, form)
    build_id = document.build_id()
    values = settings_values(library.entry, document.settings)
    changes = {"PRESET": preset, "SET": settings or None, "RUN_ID": run_id or None, "RESUME": resume or None}
    changes["BUILD_ID"] = build_id if "BUILD_ID" in values else None
    for key, value in changes.items():
        if value is not None:
            if document.settings is None:
                library.entry.refuse(1, f"no settings cell for {key}", 'begin one with # %% tags=["parameters"]')
            write_setting(document.settings, key, value)
            values[key] = value
    check_run_settings(root, library, values)
    title = kaggle["title"]
    cells = document.cells(
        title, introduction(library.entry, kaggle, build_command(name, preset, settings, form), build_id)
    )
    check_document(document, cells)
    leaks = find_leaks(cells, root)
    if leaks:
        raise BuildError("not for publication: " + "; ".join(leaks))
    owner = find_owner(owner)
    metadata = kernel_metadata(kaggle, name, form, owner)
    head = SCRIPT_HEAD.search(library.entry.text)[0]
    if form == "notebook":
        text = notebook_text(cells)
    else:
        text = script_text(cells, head)
        compile_text(text, f"{name}.py")
    size = len(text.encode())
    if size > MAX_BYTES:
        raise BuildError(
            f"{metadata['code_file']} has {size:,} bytes; Kaggle takes {MAX_BYTES:,}. Remedy: ship data as a dataset."
        )
    folder = write_folder(
        out / name,
        {
            metadata["code_file"]: text,
            "kernel-metadata.json": json.dumps(metadata, indent=2, ensure_ascii=False) + "\n",
            map_path(Path(metadata["code_file"])).name: map_text(cells, form, metadata["code_file"], head),
        },
    )
    warnings = []
    if size > WARN_BYTES:
        warnings.append(f"{metadata['code_file']} has {size:,} bytes; Kaggle is said to take {MAX_BYTES:,}")
    return make_report(document, folder, size, cells, build_id, owner, warnings)


def build_command(name: str, preset: str | None, settings: dict | None, form: str) -> str:
    parts = ["python build_kernel.py", name]
    parts += [f"--preset {preset}"] if preset else []
    for key, value in (settings or {}).items():
        value = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        parts.append(f"--set {key}={value}")
    parts += ["--format script"] if form == "script" else []
    return " ".join(parts)


def introduction(module: Module, kaggle: dict, command: str, build_id: str) -> str:
    """The text of the title cell: what it does, inputs, outputs, how it was built."""
    sources = [f"{key.partition('_')[0]} `{source}`" for key in SOURCES for source in kaggle.get(key, [])]
    return "\n".join(
        [
            module.docstring,
            "",
            f"- Inputs: {', '.join(sources) or 'none'}",
            f"- Built by `{command}` from `{module.label}`; build id `{build_id}`",
            "- This notebook is generated: edit the package instead, and build it again.",
        ]
    )


def write_folder(folder: Path, files: dict[str, str]) -> Path:
    """Writes a folder that is whole or not there: under a temporary name first, then renamed."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        if folder.exists():
            if not (folder / "kernel-metadata.json").is_file() and any(folder.iterdir()):
                raise BuildError(f"{folder.name}: this folder is no earlier build. Remedy: choose another --out.")
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            os.replace(folder, old / folder.name)
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
    return folder


def dropped(document: Document) -> list[str]:
    """The definitions that no kept code names, as module.name."""
    found = [f"{module}.{name}" for module, name in document.unused]
    program = document.program
    for module in program.modules if program else []:
        for name, uses in module.bindings.items():
            mine = [use for use in uses if use.action != "import" and not use.chain]
            if mine and not any((module.name, use.index) in program.kept for use in mine):
                found.append(f"{module.name}.{name}")
    return sorted(found)


def build_entry(entry: Path, packages: list[Path], out: Path, style: str = "auto") -> Report:
    """Flattens anybody's script with its packages into one file, .py or .ipynb.

    Args:
        entry: the script.
        packages: folders of packages, or modules that are a single file.
        out: the file to write, and beside it `NAME.py.map.json`, which leads from its lines back to the source.
        style: "auto", "flat" or "modules"; see `analyse`.

    Raises:
        BuildError: the program cannot be flattened; the message says why, where, and what to do.
    """
    form = {".py": "script", ".ipynb": "notebook"}.get(out.suffix)
    if form is None:
        raise BuildError(f"--out {out.name}: give a name that ends in .py or .ipynb")
    for path in [entry, *packages]:
        if not path.exists():
            raise BuildError(f"{path}: does not exist")
    named = {path.resolve().with_suffix("").name if path.is_file() else path.resolve().name: path for path in packages}
    library = Library(entry.resolve(), {name: path.resolve() for name, path in named.items()}, entry.name)
    document = analyse(library, form, style)
    if document.settings:
        library.entry.refuse(1, "a cell tagged `parameters`", "use it in kernels/ only")
    build_id = document.build_id()
    title, _, rest = library.entry.docstring.partition("\n")
    command = (
        f"python build_kernel.py --entry {entry.name} --package {' --package '.join(library.packages)} --out {out.name}"
    )
    intro = f"{rest.strip()}\n\n" if rest.strip() else ""
    intro += f"- Built by `{command}`; build id `{build_id}`\n- This file is generated: edit the package instead."
    cells = document.cells(title or entry.stem, intro)
    check_document(document, cells)
    text = notebook_text(cells) if form == "notebook" else script_text(cells)
    if form == "script":
        compile_text(text, out.name)
    size = len(text.encode())
    home = library.packages[min(library.packages)].parent if library.packages else entry.resolve().parent
    warnings = find_leaks(cells, home)
    if size > WARN_BYTES:
        warnings.append(f"{out.name} has {size:,} bytes; Kaggle is said to take {MAX_BYTES:,}")
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((out, text), (map_path(out), map_text(cells, form, out.name))):
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(content, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    return make_report(document, out, size, cells, build_id, None, warnings)


def make_report(document: Document, path: Path, size: int, cells, build_id, owner, warnings=()) -> Report:
    """What `print_report` tells about a build."""
    renamed = document.naming.renamed() if document.naming else []
    reasons = [f"{document.library.source(name).label}: {reason}" for name, reason in document.reasons.items()]
    modules = len({module.name for module in document.program.modules} if document.program else ()) or 1
    return Report(
        path,
        size,
        len(cells),
        modules - 1 + len(document.reasons),
        build_id,
        owner,
        dropped(document),
        renamed,
        reasons,
        list(warnings),
    )


def parse_setting(text: str) -> tuple[str, object]:
    key, sign, value = text.partition("=")
    if not sign or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="build_kernel.py", description="Ships a Python package to Kaggle as one readable notebook."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernels to build; default: all of kernels/")
    parser.add_argument(
        "--set", action="append", type=parse_setting, default=[], metavar="KEY=VALUE", help="change a setting"
    )
    parser.add_argument("--preset", help="the preset of the settings cell")
    parser.add_argument("--owner", help="your Kaggle name; else KAGGLE_USERNAME or kaggle.json")
    parser.add_argument("--format", choices=["notebook", "script"], default="notebook")
    parser.add_argument("--out", help="folder of the builds (default: build), or with --entry the file to write")
    parser.add_argument("--entry", type=Path, help="flatten this script instead of a kernel")
    parser.add_argument("--package", type=Path, action="append", default=[], help="with --entry: folder of a package")
    parser.add_argument("--style", choices=["auto", "flat", "modules"], default="auto", help="with --entry: see README")
    parser.add_argument("--trace", type=Path, metavar="LOG", help="print a log with its frames led back to the source")
    parser.add_argument("--map", type=Path, help="with --trace: the build's .map.json; default: the only one there is")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what was dropped and renamed")
    options = parser.parse_args(arguments)
    if options.entry and (options.names or not options.out or options.set or options.preset):
        parser.error("--entry takes --package and --out, no NAME and no settings")
    if options.package and not options.entry:
        parser.error("--package goes with --entry")
    return options


def print_report(report: Report, verbose: bool):
    names = "module" if report.modules == 1 else "modules"
    path = os.path.relpath(report.path) if report.path.resolve().is_relative_to(Path.cwd()) else report.path
    print(f"{path}  {report.size:,} bytes, {report.cells} cells, {report.modules} {names}", end="")
    print(f", build id {report.build_id}")
    for warning in report.warnings:
        print(f"  warning: {warning}")
    if report.reasons and not verbose:
        print(f"  {len(report.reasons)} of {names} in modules style; -v tells why")
    if verbose:
        for about, lines in (
            ("modules style:", report.reasons),
            ("dropped", report.dropped),
            ("renamed", report.renamed),
        ):
            print(*(f"  {about} {line}" for line in lines), sep="\n", end="\n" if lines else "")


def main(arguments=None) -> int:
    options = parse_arguments(arguments)
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        print(f"error: Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    try:
        if options.entry:
            report = build_entry(options.entry, options.package, Path(options.out), options.style)
            print_report(report, options.verbose)
            return 0
        if options.trace:
            print(trace_log(options.trace, options.map), end="")
            return 0
        names = options.names or sorted(path.stem for path in (ROOT / "kernels").glob("*.py"))
        out, settings = Path(options.out or ROOT / "build"), dict(options.set)
        owner = None
        for name in names:
            report = build_report(name, settings, "", options.preset, options.owner, options.format, out, ROOT)
            print_report(report, options.verbose)
            owner = report.owner
        if names and owner is None:
            print(f"No Kaggle name known: {NO_OWNER!r} stands in for it.", end=" ")
            print("Before a push, build again with --owner NAME, or set KAGGLE_USERNAME.")
        return 0
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
