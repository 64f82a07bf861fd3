"""An index of the definitions, assignments and calls of a program: where a value comes from, one step back."""

import ast
import collections
import functools
from typing import Any

from flattener.facts import called_name
from flattener.library import Library, import_origin
from flattener.source import KEPT_MODULES, Module, all_arguments, words
from flattener.trees import child_nodes, walk

PLAIN_TYPES = words("int float str bool bytes complex None Path Tensor ndarray DataFrame Series datetime Namespace")
PLAIN_GENERICS = words(
    "list List dict Dict tuple Tuple set Set Optional Union Sequence Mapping np npt torch pd pathlib"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# The kinds of nodes that `ModuleFlows.add_bindings` looks at.
BINDING_NODES = frozenset((
    *(ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr, ast.For, ast.AsyncFor, ast.comprehension, ast.withitem),
    *(ast.Call, ast.Global, ast.ExceptHandler, ast.Return, ast.Yield, ast.YieldFrom, ast.Import, ast.ImportFrom),
))  # fmt: skip
Flow = tuple[Module, Any, Any]  # a module, the function around (None: the module itself), and a node or a parameter


class FlowTables:
    """Tables of definitions, assignments and calls.

    Attributes:
        around: node -> the function around it.
        bound: module, function around and name -> what the name is bound to.
        imported: module, function around and name -> the module and the name there; None: the module itself.
        fed: module and name -> the values of calls such as `name.method(value)`.
        attributes: name of an attribute -> what is assigned to it, or given to its methods.
        fed_attributes: node of an attribute, such as `a.b` -> the values of calls such as `a.b.method(value)`.
        of_self: class -> what is assigned to attributes of its objects.
        class_of: function -> the class whose method it is.
        home: function or class -> its module.
        called: last part of a name -> the calls of it.
        defined: name -> the functions of this name.
        returned: function -> what it returns.
        given: names of functions that are handed around.
        given_by_self: method that is handed around as `self.method` -> the classes.
        classes: name -> the classes of this name.
        stars: module -> the modules all of whose names it imports.
    """

    def __init__(self) -> None:
        self.around: dict[ast.AST, Function | None] = {}
        self.bound: dict[tuple[str, Any, str], list[Flow]] = collections.defaultdict(list)
        self.imported: dict[tuple[str, Any, str], tuple[str, str | None]] = {}
        self.fed: dict[tuple[str, str], list[Flow]] = collections.defaultdict(list)
        self.attributes: dict[str, list[Flow]] = collections.defaultdict(list)
        self.fed_attributes: dict[ast.Attribute, list[Flow]] = {}
        self.of_self: dict[ast.ClassDef, list[Flow]] = collections.defaultdict(list)
        self.class_of: dict[ast.AST, ast.ClassDef] = {}
        self.home: dict[ast.AST, Module] = {}
        self.called: dict[str, list[tuple[Module, ast.Call]]] = collections.defaultdict(list)
        self.defined: dict[str, list[Any]] = collections.defaultdict(list)
        self.returned: dict[Any, list[Flow]] = collections.defaultdict(list)
        self.given: set[str] = set()
        self.given_by_self: dict[str, list[ast.ClassDef]] = collections.defaultdict(list)
        self.classes: dict[str, list[ast.ClassDef]] = collections.defaultdict(list)
        self.stars: dict[str, list[str]] = collections.defaultdict(list)


TABLES = tuple(vars(FlowTables()))


class ModuleFlows(FlowTables):
    """The tables of one module, which do not change once they are filled.

    Args:
        module: to be indexed.
        entry_package: the package that the entry lies in; see `import_origin`.
    """

    def __init__(self, module: Module, entry_package: str) -> None:
        super().__init__()
        self.entry_package = entry_package
        self.reads: set[tuple[Any, str]] = set()  # function around and name, for what is read and not called
        self.declared: list[tuple[str, Any, str]] = []  # the names that a function declares as global
        self.index(module)
        for name, function, variable in self.declared:
            self.bound[name, None, variable] += self.bound.pop((name, function, variable), [])
        self.given |= {name for function, name in self.reads if self.may_mean_function(module.name, function, name)}

    def index(self, module: Module) -> None:
        """Adds all of a module to the index."""
        todo: list[tuple[ast.AST, Any, Any]] = [(node, None, None) for node in module.body]
        called = {node.func for node in module.nodes if isinstance(node, ast.Call)}
        while todo:
            node, function, owner = todo.pop()
            self.around[node] = function
            inner, class_around = function, owner
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    inner, class_around = node, None
                    self.add_function(module, function, node, owner)
                case ast.ClassDef():
                    class_around = node
                    self.home[node] = module
                    self.classes[node.name].append(node)
                    if owner is None:
                        self.bound[module.name, function, node.name].append((module, function, node))
                case ast.Call():
                    self.called[called_name(node)].append((module, node))
                case ast.Name() if isinstance(node.ctx, ast.Load) and node not in called:
                    self.reads.add((function, node.id))
                    if owner is not None:
                        self.given.add(node.id)  # in the body of a class, it may be a method
                case ast.Attribute() if isinstance(node.ctx, ast.Load) and node not in called:
                    if isinstance(node.value, ast.Name) and node.value.id == "self" and function in self.class_of:
                        self.given_by_self[node.attr].append(self.class_of[function])
                    else:
                        self.given.add(node.attr)
            if node.__class__ in BINDING_NODES:
                self.add_bindings(module, function, owner, node)
            todo += [(child, inner, class_around) for child in child_nodes(node)]

    def add_function(self, module: Module, around: Any, node: Function, owner: ast.ClassDef | None) -> None:
        self.home[node] = module
        for argument in all_arguments(node.args):
            self.bound[module.name, node, argument.arg].append((module, node, argument))
        if isinstance(node, ast.Lambda):
            self.returned[node].append((module, node, node.body))
            return
        self.defined[node.name].append(node)
        if owner is not None:
            self.class_of[node] = owner
        else:
            self.bound[module.name, around, node.name].append((module, around, node))

    def add_bindings(self, module: Module, function: Any, owner: ast.ClassDef | None, node: ast.AST) -> None:
        """Adds what a node binds or hands on."""
        pairs: list[tuple[ast.AST, ast.AST]] = []
        match node:
            case ast.Assign():
                pairs = [(target, node.value) for target in node.targets]
            case ast.AnnAssign() if node.value is not None or owner is not None:
                plain = is_plain_annotation(node.annotation)
                pairs = [(node.target, ast.Constant(None) if plain else node.value or node)]
            case ast.AugAssign() | ast.NamedExpr():
                pairs = [(node.target, node.value)]
            case ast.For() | ast.AsyncFor() | ast.comprehension():
                pairs = [(node.target, ast.Subscript(node.iter, ast.Constant(0), ast.Load()))]
            case ast.withitem() if node.optional_vars is not None:
                entered = ast.Attribute(node.context_expr, "__enter__", ast.Load())
                pairs = [(node.optional_vars, node.context_expr), (node.optional_vars, ast.Call(entered, [], []))]
            case ast.Call(func=ast.Attribute(value=receiver)):
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
                flows = [(module, function, value) for value in values]
                if isinstance(receiver, ast.Name):
                    self.fed[module.name, receiver.id] += flows
                elif isinstance(receiver, ast.Attribute):
                    self.fed_attributes[receiver] = flows
            case ast.Global():
                self.declared += [(module.name, function, name) for name in node.names]
            case ast.ExceptHandler() if node.name:
                pairs = [(ast.Name(node.name, ast.Store()), node)]
            case ast.Return() | ast.Yield() | ast.YieldFrom() if node.value is not None:
                self.returned[function].append((module, function, node.value))
            case ast.Import():
                for alias in node.names:
                    dotted = alias.name if alias.asname else alias.name.partition(".")[0]
                    self.imported[module.name, function, alias.asname or dotted] = (dotted, None)
            case ast.ImportFrom():
                origin = import_origin(module, node, self.entry_package)
                for alias in node.names:
                    if alias.name == "*":
                        self.stars[module.name].append(origin)
                    self.imported[module.name, function, alias.asname or alias.name] = (origin, alias.name)
        for target, value in pairs:
            self.bind(module, function, owner, target, (module, function, value))

    def bind(self, module: Module, function: Any, owner: ast.ClassDef | None, target: ast.AST, flow: Flow) -> None:
        """Adds the flow of a value to a target of an assignment."""
        match target:
            case ast.Name():
                if owner is not None:
                    self.attributes[target.id].append(flow)
                    return
                self.bound[module.name, function, target.id].append(flow)
            case ast.Attribute():
                self.attributes[target.attr].append(flow)
                if isinstance(target.value, ast.Name) and function in self.class_of:
                    self.of_self[self.class_of[function]].append(flow)
            case ast.Subscript() | ast.Starred():
                self.bind(module, function, owner, target.value, flow)
            case ast.Tuple() | ast.List():
                for part in target.elts:
                    self.bind(module, function, owner, part, flow)

    def may_mean_function(self, origin: str, function: Any, name: str) -> bool:
        """Whether a name that is read may be that of a function, and not of another variable of a function."""
        tables = (self.bound, self.imported)
        while function is not None and all((origin, function, name) not in table for table in tables):
            function = self.around[function]
        flows = self.bound.get((origin, function, name), [])
        return function is None or not flows or any(isinstance(each[2], Function) for each in flows)


@functools.lru_cache(KEPT_MODULES)
def module_flows(module: Module, entry_package: str) -> ModuleFlows:
    """The tables of a module, filled once for all programs that hold it."""
    return ModuleFlows(module, entry_package)


class Flows(FlowTables):
    """The tables of a whole program, to follow values backwards."""

    def __init__(self, library: Library, modules: list[Module]) -> None:
        super().__init__()
        self.library = library
        self.modules = {module.name: module for module in modules}
        for module in modules:
            self.add(module_flows(module, library.entry_package if module.is_entry else ""))
        self.feed_attributes()
        self.add_renamed_calls()

    def add(self, other: ModuleFlows) -> None:
        """Adds the tables of a module."""
        for name in TABLES:
            mine, more = getattr(self, name), getattr(other, name)
            if isinstance(more, collections.defaultdict):
                for key, values in more.items():
                    mine[key] += values
            else:
                mine.update(more)

    def feed_attributes(self) -> None:
        """Adds what calls give to the methods of attributes; `torch.utils.data.DataLoader(x)` gives `data` nothing."""
        for node, flows in self.fed_attributes.items():
            module, function, _ = flows[0] if flows else (None, None, None)
            named = self.module_named(module, function, node) if module else None
            if named is None or named[1]:
                self.attributes[node.attr] += flows
                if isinstance(node.value, ast.Name) and function in self.class_of:
                    self.of_self[self.class_of[function]] += flows

    def add_renamed_calls(self) -> None:
        """Adds the calls of what an import renames, `from pkg.a import save as keep`, to those of its first name."""
        renamed = {
            (key[2], name)
            for key, (origin, name) in self.imported.items()
            if name and key[2] != name and self.library.contains(origin)
        }
        for _ in range(len(renamed)):  # a name that is renamed again
            grown = False
            for alias, name in sorted(renamed):
                more = [each for each in self.called.get(alias, []) if each not in self.called[name]]
                self.called[name] += more
                grown = grown or bool(more)
            if not grown:
                break

    def module_named(self, module: Module, function: Any, node: ast.AST) -> tuple[str, bool] | None:
        """The dotted name that a chain of attributes of an imported module means, and whether it is the packages'."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        scope = function
        while (module.name, scope, node.id) not in self.imported:
            if (module.name, scope, node.id) in self.bound or scope is None:
                return None
            scope = self.around[scope]
        origin, name = self.imported[module.name, scope, node.id]
        dotted = ".".join([origin, *([name] if name else []), *parts])
        return dotted, self.library.contains(origin)


def is_plain_annotation(node: ast.AST | None) -> bool:
    """Whether an annotation names only types that hold nothing of the packages."""
    if node is None:
        return False
    names = {each.id for each in walk(node) if isinstance(each, ast.Name)}
    names |= {each.attr for each in walk(node) if isinstance(each, ast.Attribute)}
    texts = [each.value for each in walk(node) if isinstance(each, ast.Constant)]
    return bool(names & PLAIN_TYPES) and names <= PLAIN_TYPES | PLAIN_GENERICS and all(text is None for text in texts)
