"""Every use of a name in a module, and which variable it means.

A table of one module: it depends on the module's source alone, and no later phase changes it.
"""

import ast
import collections
import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flattener.scopes import InlinedScope, Scope
from flattener.source import KEPT_MODULES, Module, all_arguments, is_future_import
from flattener.trees import child_nodes, walk

Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
ACTIONS = {ast.Load: "load", ast.Store: "store", ast.Del: "delete"}


@dataclass(eq=False)
class Use:
    """One place in the source where a name is read or bound.

    Attributes:
        action: "load", "store", "delete", "define" (def, class), "import", or "declare" (global).
        scope: where the name stands; `owner`: the scope whose variable it means.
        index: of the statement of the module's body that holds it.
        chain: the attributes that follow, `.b` and `.c` in `a.b.c`, each with its end offset; `chain_action` is what is
            done with the last of them.
        weak: in an annotation that is never evaluated.
        quoted: in a string that may mean a variable, such as an annotation or `query("x > @LIMIT")`; it has no place.
        conditional: not always run while the module is loaded: in a branch, a loop, a function or a class.
        pinned: the name has to stay as it is: in a class body that may or may not have bound it before, or in an
            f-string that prints its own source, `f"{name + 1=}"`.
        in_pattern: a value in a `match` pattern: it needs its dot, since a plain name would be bound there.
        in_string: inside of an f-string.
        imported: of an import, the statement and the part of it that binds the name.
    """

    name: str
    start: int
    end: int
    action: str
    scope: Scope
    owner: Scope
    index: int
    node: Any  # of the syntax tree
    chain: tuple[tuple[str, int], ...] = ()
    chain_action: str = "load"
    weak: bool = False
    pinned: bool = False
    in_pattern: bool = False
    conditional: bool = False
    in_string: bool = False
    quoted: bool = False
    imported: "tuple[ImportSite, ast.alias] | None" = None

    @property
    def site(self) -> "ImportSite":
        """The import statement, of a use that imports."""
        assert self.imported is not None
        return self.imported[0]

    @property
    def alias(self) -> ast.alias:
        """The part of the import statement that binds the name, of a use that imports."""
        assert self.imported is not None
        return self.imported[1]


@dataclass(eq=False)
class ImportSite:
    """An import statement anywhere in a module."""

    node: ast.Import | ast.ImportFrom
    scope: Scope
    index: int
    conditional: bool
    uses: list[Use] = field(default_factory=list)  # one for each name it binds

    @property
    def at_load(self) -> bool:
        """Whether it runs while the module is loaded, not in a function called later."""
        scope = self.scope
        while scope.kind == "class" and scope.parent:
            scope = scope.parent
        return scope.kind == "module"

    @property
    def plain(self) -> bool:
        """Whether it stands at module level and always runs."""
        return self.scope.kind == "module" and not self.conditional


@dataclass(frozen=True, eq=False)
class Names:
    """All names in one module.

    Attributes:
        uses: in the order in which the compiler's symbol table sees them.
        sites: the import statements.
        bindings: variable of the module -> the uses that bind it.
        bound_inside: statement of the module's body -> names that are bound in a scope inside of it.
        quoted: names in strings that may mean a variable of the module.
    """

    module: Module
    uses: list[Use]
    sites: list[ImportSite]
    bindings: dict[str, list[Use]]
    bound_inside: dict[int, set[str]]
    quoted: list[Use]

    @functools.cached_property
    def sites_at_load(self) -> dict[int, list[ImportSite]]:
        """Statement of the module's body -> the import statements in it that run while the module is loaded."""
        found: dict[int, list[ImportSite]] = collections.defaultdict(list)
        for site in self.sites:
            if site.at_load:
                found[site.index].append(site)
        return found

    @functools.cached_property
    def uses_in(self) -> dict[int, list[Use]]:
        """Statement of the module's body -> the uses in it."""
        found: dict[int, list[Use]] = collections.defaultdict(list)
        for use in self.uses:
            found[use.index].append(use)
        return found

    def with_star(self, site: ImportSite, imported: list[str]) -> "Names":
        """The same table with a use for each name that an import statement with a star binds."""
        module, node = self.module, site.node
        expanded = dataclasses.replace(site, uses=[])
        for name in imported:
            use = Use(name, *module.span(node), "import", site.scope, site.scope.module, site.index, node)
            use.conditional, use.imported = site.conditional, (expanded, ast.alias(name))
            expanded.uses.append(use)
        sites = [expanded if other is site else other for other in self.sites]
        return dataclasses.replace(self, uses=self.uses + expanded.uses, sites=sites).with_bindings(expanded.uses)

    def with_bindings(self, uses: list[Use], name: str | None = None) -> "Names":
        """The same table with more uses that bind variables: of the uses' own names, or the variable `name`."""
        bindings = dict(self.bindings)
        for use in uses:
            variable = name or use.name
            bindings[variable] = [*bindings.get(variable, []), use]
        return dataclasses.replace(self, bindings=bindings)


class NameAnalysis(ast.NodeVisitor):
    """Finds every use of a name in a module, in the order in which the compiler's symbol table sees them."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.scope = Scope("module", module.table, None, module.name)
        self.methods: dict[type[ast.AST], Callable[[Any], None]] = {}
        self.index = 0
        self.branches = 0  # how many if, for, try, ... of the current scope surround the current statement
        self.annotation = self.in_string = self.echoed = self.pattern = False
        self.class_names: list[str] = []
        self.uses: list[Use] = []
        self.sites: list[ImportSite] = []
        self.bound_inside: dict[int, set[str]] = collections.defaultdict(set)
        self.quoted: list[Use] = []

    def visit(self, node: ast.AST) -> None:
        """Visits a node by the method for its kind."""
        kind = node.__class__
        if kind not in self.methods:
            self.methods[kind] = getattr(self, f"visit_{kind.__name__}", self.generic_visit)
        self.methods[kind](node)

    def generic_visit(self, node: ast.AST) -> None:
        """Visits the nodes below a node."""
        for child in child_nodes(node):
            self.visit(child)

    def run(self) -> Names:
        """The table of the module's names."""
        for index, statement in enumerate(self.module.body):
            self.index = index
            if index not in self.module.dead:
                self.visit(statement)
        bindings: dict[str, list[Use]] = {}
        for use in self.uses:
            if use.owner.kind == "module" and use.action in ("store", "delete", "define", "import"):
                bindings.setdefault(use.name, []).append(use)
        return Names(self.module, self.uses, self.sites, bindings, dict(self.bound_inside), self.quoted)

    # --- recording ---

    def mangled(self, name: str) -> str:
        """`__x` inside of class C means `_C__x`."""
        if name.startswith("__") and self.class_names and not name.endswith("__"):
            return f"_{self.class_names[-1].lstrip('_')}{name}" if self.class_names[-1].strip("_") else name
        return name

    def record(self, name: str, start: int, action: str, node: Any) -> Use:
        """Adds the use of a name that begins at an offset into the text."""
        module, scope = self.module, self.scope
        if not module.text.startswith(name, start):
            module.refuse(node, f"the position of {name!r} is not known", "write this expression in a simpler way")
        known = self.mangled(name)
        owner = scope.owner(known)
        weak = owner is None or (self.annotation and "annotations" in module.future)
        owner = owner or scope.module
        pinned = False
        if owner is scope and scope.kind == "class" and action == "load" and known not in scope.bound_so_far:
            # The class binds this name later on: until then, the name means the module's variable.
            owner, pinned = scope.module, self.branches > 0
        if known != name and owner.kind == "module" and known in module.table.get_identifiers():
            module.refuse(node, f"{name!r} means the module's {known!r} here", "rename that variable")
        if owner.kind != "module" and action != "load":
            self.bound_inside[self.index].add(name)
            if scope.kind == "class":
                scope.bound_so_far.add(known)
        use = Use(
            known if owner.kind != "module" else name, start, start + len(name), action, scope, owner, self.index, node
        )
        use.weak, use.pinned = weak, pinned or self.echoed
        use.in_string, use.in_pattern = self.in_string, self.pattern
        use.conditional = self.branches > 0 or scope.kind != "module"
        self.uses.append(use)
        return use

    def record_inside(self, name: str, start: int, end: int, action: str, node: ast.AST) -> Use:
        """Adds the use of a name that has no node of its own: it is looked for between two offsets."""
        found = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", self.module.text[start:end])
        if not found:
            self.module.refuse(node, f"the position of {name!r} is not known", "write this statement in a simpler way")
        return self.record(name, start + found.start(), action, node)

    def record_quoted(self, name: str, node: ast.AST) -> None:
        scope = self.scope.module
        self.quoted.append(Use(name, 0, 0, "load", scope, scope, self.index, node, weak=True, quoted=True))

    # --- expressions ---

    def visit_Name(self, node: ast.Name) -> None:
        self.record(node.id, self.module.start(node), ACTIONS[type(node.ctx)], node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain: list[tuple[str, int]] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            if root.attr in ("__module__", "__globals__"):
                self.module.refuse(root, f"`.{root.attr}` would differ in the flat program", "do without it")
            chain.append((root.attr, self.module.end(root)))
            root = root.value
        if not isinstance(root, ast.Name):
            self.visit(root)
            return
        use = self.record(root.id, self.module.start(root), "load", node)
        use.chain, use.chain_action = tuple(reversed(chain)), ACTIONS[type(node.ctx)]

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and "@" in node.value:  # DataFrame.query("x > @LIMIT")
            for name in re.findall(r"@([^\W\d]\w*)", node.value):
                self.record_quoted(name, node)
        if self.annotation and isinstance(node.value, str):
            with contextlib.suppress(SyntaxError):
                for part in walk(ast.parse(node.value.strip(), mode="eval")):
                    if isinstance(part, ast.Name):
                        self.record_quoted(part.id, node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:
        end = self.module.end(node.value)
        echoes = re.compile(r"[ \t]*=[ \t]*[!:}]").match(self.module.text, end)
        outer, self.echoed = self.echoed, bool(echoes) and not isinstance(node.value, ast.Name)
        self.visit(node.value)
        self.echoed = outer
        if node.format_spec is not None:
            self.visit(node.format_spec)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        outer, self.in_string = self.in_string, True
        self.generic_visit(node)
        self.in_string = outer

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit_defaults(node.args)
        with self.inside("function", "lambda", node):
            self.visit_parameters(node.args)
            self.visit(node.body)

    def visit_generators(self, name: str, node: Comprehension, *elements: ast.expr) -> None:
        """Visits a comprehension: its first iterable outside of it, all else inside."""
        first, *others = node.generators
        self.visit(first.iter)
        if self.scope.children[name, node.lineno]:
            scope = self.inside("function", name, node)
        else:
            targets = [part for generator in node.generators for part in walk(generator.target)]
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

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self.visit_generators("listcomp", node, node.elt)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self.visit_generators("setcomp", node, node.elt)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.visit_generators("genexpr", node, node.elt)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self.visit_generators("dictcomp", node, node.value, node.key)

    # --- definitions ---

    @contextlib.contextmanager
    def inside(self, kind: str, name: str, node: Any) -> Iterator[None]:
        """Enters the scope that a node opens, with its own symbol table."""
        tables = self.scope.children[name, node.lineno]
        if not tables:
            self.module.refuse(node, f"no symbol table for {name!r}", "report this as a bug of build_kernel.py")
        with self.within(Scope(kind, tables.pop(0), self.scope, self.module.name)):
            yield

    @contextlib.contextmanager
    def within(self, scope: Scope) -> Iterator[None]:
        """Enters a scope."""
        outer, self.scope = self.scope, scope
        branches, self.branches = self.branches, 0
        yield
        self.scope, self.branches = outer, branches

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
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

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.refuse_type_parameters(node)
        for part in [*node.bases, *node.keywords, *node.decorator_list]:
            self.visit(part)
        self.define(node)
        with self.inside("class", node.name, node):
            self.class_names.append(node.name)
            for statement in node.body:
                self.visit(statement)
            self.class_names.pop()

    def define(self, node: Definition) -> None:
        """Records the name after `def` or `class`."""
        start = self.module.offset(node.lineno, node.col_offset)
        keyword = re.compile(r"(async\s+)?(def|class)[\s\\]+").match(self.module.text, start)
        self.record(node.name, keyword.end() if keyword else start, "define", node)

    def refuse_type_parameters(self, node: Definition) -> None:
        if getattr(node, "type_params", None):
            self.module.refuse(node, "type parameters in brackets are not supported", "use typing.TypeVar")

    def visit_TypeAlias(self, node: Any) -> None:  # ast.TypeAlias, from Python 3.12 on
        self.module.refuse(node, "the `type` statement is not supported", "use a plain assignment")

    def visit_defaults(self, arguments: ast.arguments) -> None:
        for default in [*arguments.defaults, *filter(None, arguments.kw_defaults)]:
            self.visit(default)

    def visit_parameters(self, arguments: ast.arguments) -> None:
        for argument in all_arguments(arguments):
            self.record(argument.arg, self.module.start(argument), "store", argument)

    def visit_annotation(self, annotation: ast.expr | None) -> None:
        if annotation is not None:
            self.annotation = True
            self.visit(annotation)
            self.annotation = False

    # --- statements ---

    def visit_branches(self, node: ast.stmt) -> None:
        self.branches += 1
        self.generic_visit(node)
        self.branches -= 1

    visit_If = visit_For = visit_AsyncFor = visit_While = visit_Try = visit_TryStar = visit_branches
    visit_With = visit_AsyncWith = visit_Match = visit_branches

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)  # before the targets, as it is run: it matters in a class body
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit_annotation(node.annotation)
        if node.value is not None:
            self.visit(node.value)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.visit(node.target)
        elif self.scope.kind != "class":
            self.record(node.target.id, self.module.span(node.target)[0], "declare", node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.target)
        self.visit(node.value)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name:
            start, end = self.module.span(node.type)[1], self.module.span(node.body[0])[0]
            self.record_inside(node.name, start, end, "store", node)
        for statement in node.body:
            self.visit(statement)

    def visit_Global(self, node: ast.Global) -> None:
        start, end = self.module.span(node)
        for name in node.names:
            use = self.record_inside(name, start + len("global"), end, "declare", node)
            use.owner = self.scope.module

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        pass

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        start, end = self.module.span(node)
        if node.pattern is not None:
            self.visit(node.pattern)
            start = self.module.span(node.pattern)[1]
        if node.name:
            self.record_inside(node.name, start, end, "store", node)

    def visit_MatchValue(self, node: ast.MatchValue) -> None:
        outer, self.pattern = self.pattern, True
        self.generic_visit(node)
        self.pattern = outer

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self.record_inside(node.name, *self.module.span(node), "store", node)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest:
            start, end = self.module.span(node)
            self.record_inside(node.rest, start + self.module.text[start:end].rindex("**"), end, "store", node)

    # --- imports ---

    def visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if is_future_import(node):
            return
        site = ImportSite(node, self.scope, self.index, self.branches > 0)
        self.sites.append(site)
        for alias in node.names:
            if alias.name == "*":
                continue
            start, end = self.module.span(alias)
            name = alias.asname or alias.name.partition(".")[0]
            start = end - len(name) if alias.asname else start
            use = self.record(name, start, "import", node)
            use.imported = site, alias
            site.uses.append(use)

    visit_Import = visit_ImportFrom = visit_import


@functools.lru_cache(KEPT_MODULES)
def find_names(module: Module) -> Names:
    """All names in a module.

    Raises:
        BuildError: with a construct whose names the analysis does not know.
    """
    try:
        return NameAnalysis(module).run()
    except RecursionError:
        module.refuse(1, "an expression is nested too deeply", "split it")
