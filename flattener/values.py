"""Which classes and functions of the packages a value may hold, as far as the source shows.

Where a value comes from is followed backwards: through variables, attributes, containers, calls and what they return.
The order of statements does not count, and attributes of one name count as one, so that rather too much is found.
"""

import ast
import builtins
import collections
from collections.abc import Iterable, Iterator
from typing import Any

from flattener.facts import called_name
from flattener.library import Library
from flattener.source import Module, all_arguments, words

UNKNOWN = "?"
PLAIN_METHODS = words("""
    state_dict named_parameters parameters numpy tolist item mean sum std min max argmax argmin cpu detach format join
    to_dict get_weights get_config strip split lower upper replace isoformat strftime as_posix count index shape size
    astype reshape keys hexdigest encode decode to_numpy time now read_text read_bytes read nunique unique
""")
CONTAINER_METHODS = words("get pop popitem copy values items setdefault result")
PLAIN_PACKAGES = words("numpy math cv2 json os time random datetime scipy")
READERS = words("load loads open imread read_csv read_parquet read_json parse_args from_pretrained")
CONTAINER_MAKERS = words("array asarray concatenate stack append choice sample shuffle")
PLAIN_BUILTINS = words(
    "len int float str bool bytes repr round abs sum range ord chr hash id isinstance format any all"
)
CLASS_MAKERS = words("namedtuple NamedTuple TypedDict make_dataclass NewType new_class")
PLAIN_TYPES = words("int float str bool bytes complex None Path Tensor ndarray DataFrame Series datetime Namespace")
PLAIN_GENERICS = words(
    "list List dict Dict tuple Tuple set Set Optional Union Sequence Mapping np npt torch pd pathlib"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Flow = tuple[Module, Any, Any]  # a module, the function around (None: the module itself), and a node or a parameter


class Values:
    """An index of all definitions, assignments and calls of a program, to follow values backwards."""

    def __init__(self, library: Library, modules: list[Module]) -> None:
        self.library = library
        self.modules = {module.name: module for module in modules}
        self.around: dict[ast.AST, Function | None] = {}  # node -> the function around it
        self.bound: dict[tuple[str, Any, str], list[Flow]] = collections.defaultdict(list)
        self.imported: dict[tuple[str, Any, str], tuple[str, str | None]] = {}
        self.fed: dict[tuple[str, str], list[Flow]] = collections.defaultdict(list)  # `name.method(value)`
        self.attributes: dict[str, list[Flow]] = collections.defaultdict(list)
        self.of_self: dict[ast.ClassDef, list[Flow]] = collections.defaultdict(list)
        self.class_of: dict[ast.AST, ast.ClassDef] = {}  # function -> the class whose method it is
        self.home: dict[ast.AST, Module] = {}  # function or class -> its module
        self.called: dict[str, list[tuple[Module, ast.Call]]] = collections.defaultdict(list)
        self.defined: dict[str, list[Any]] = collections.defaultdict(list)
        self.returned: dict[Any, list[Flow]] = collections.defaultdict(list)
        self.reads: set[tuple[str, Any, str]] = set()  # module, function around, name that is read and not called
        self.given: set[str] = set()  # names of functions that are handed around
        self.given_by_self: dict[str, list[ast.ClassDef]] = collections.defaultdict(list)  # `self.method`, by its class
        self.classes: dict[str, list[ast.ClassDef]] = collections.defaultdict(list)
        self.stars: dict[str, list[str]] = collections.defaultdict(list)
        self.declared: list[tuple[str, Any, str]] = []  # the names that a function declares as global
        for module in modules:
            self.index(module)
        for name, function, variable in self.declared:
            self.bound[name, None, variable] += self.bound.pop((name, function, variable), [])
        self.given |= {name for origin, function, name in self.reads if self.may_mean_function(origin, function, name)}

    # --- the index ---

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
                    self.reads.add((module.name, function, node.id))
                    if owner is not None:
                        self.given.add(node.id)  # in the body of a class, it may be a method
                case ast.Attribute() if isinstance(node.ctx, ast.Load) and node not in called:
                    if isinstance(node.value, ast.Name) and node.value.id == "self" and function in self.class_of:
                        self.given_by_self[node.attr].append(self.class_of[function])
                    else:
                        self.given.add(node.attr)
            self.add_bindings(module, function, owner, node)
            todo += [(child, inner, class_around) for child in ast.iter_child_nodes(node)]

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
                pairs = [(node.target, node.iter)]
            case ast.withitem() if node.optional_vars is not None:
                pairs = [(node.optional_vars, node.context_expr)]
            case ast.Call(func=ast.Attribute(value=receiver)):
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
                pairs = [(receiver, value) for value in values if isinstance(receiver, ast.Attribute)]
                if isinstance(receiver, ast.Name):
                    self.fed[module.name, receiver.id] += [(module, function, value) for value in values]
            case ast.Global():
                self.declared += [(module.name, function, name) for name in node.names]
            case ast.ExceptHandler() if node.name:
                pairs = [(ast.Name(node.name, ast.Store()), ast.Constant(None))]
            case ast.Return() | ast.Yield() | ast.YieldFrom() if node.value is not None:
                self.returned[function].append((module, function, node.value))
            case ast.Import():
                for alias in node.names:
                    dotted = alias.name if alias.asname else alias.name.partition(".")[0]
                    self.imported[module.name, function, alias.asname or dotted] = (dotted, None)
            case ast.ImportFrom():
                origin = self.library.origin(module, node)
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

    # --- following ---

    def may_mean_function(self, origin: str, function: Any, name: str) -> bool:
        """Whether a name that is read may be that of a function, and not of another variable of a function."""
        while function is not None and not {(origin, function, name)} & (self.bound.keys() | self.imported.keys()):
            function = self.around[function]
        flows = self.bound.get((origin, function, name), [])
        return function is None or not flows or any(isinstance(each[2], Function) for each in flows)

    def held_by(self, module: Module, node: ast.AST) -> set[str]:
        """The modules whose classes or functions a value may hold; `UNKNOWN` among them if it may be any."""
        found: set[str] = set()
        seen: set[tuple[str, Any, Any]] = set()
        todo: list[Flow] = [(module, self.around.get(node), node)]
        while todo:
            here, function, part = todo.pop()
            key = (here.name, function, part if not isinstance(part, ast.Name) else part.id)
            if key not in seen:
                seen.add(key)
                for item in self.sources(here, function, part):
                    if isinstance(item, str):
                        found.add(item)
                    else:
                        todo.append(item)
        return found

    def sources(self, module: Module, function: Any, node: ast.AST) -> Iterator[Flow | str]:
        """What the value of a node may come from: other flows, or the module whose class or function it is."""
        match node:
            case ast.Constant() | ast.JoinedStr() | ast.Compare():
                return
            case ast.Name():
                yield from self.of_name(module, function, node.id)
            case ast.arg():
                yield from self.of_parameter(module, function, node)
            case ast.Attribute():
                yield from self.of_attribute(module, function, node)
            case ast.Call():
                yield from self.of_call(module, function, node)
            case ast.ClassDef():
                yield from self.of_class(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from own(module)
            case ast.AnnAssign():
                yield UNKNOWN
            case ast.Subscript() | ast.Starred() | ast.Await() | ast.NamedExpr():
                yield module, function, node.value
            case ast.IfExp():
                yield from ((module, function, part) for part in (node.body, node.orelse))
            case ast.DictComp():
                yield from ((module, function, part) for part in (node.key, node.value))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                yield module, function, node.elt
            case _:
                yield from (
                    (module, function, part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)
                )

    def of_name(self, module: Module, function: Any, name: str) -> Iterator[Flow | str]:
        scope = function
        while True:
            key = (module.name, scope, name)
            if key in self.imported:
                yield from self.of_import(*self.imported[key])
                return
            if key in self.bound:
                yield from self.bound[key]
                yield from self.fed[module.name, name]
                return
            if scope is None:
                break
            scope = self.around[scope]
        if hasattr(builtins, name) or name.startswith("__"):
            return
        yield from self.of_global(module, name)

    def of_global(self, module: Module, name: str) -> Iterator[Flow | str]:
        """What a variable of a module may hold, and of those that it imports with a star."""
        key = (module.name, None, name)
        if key in self.imported:
            yield from self.of_import(*self.imported[key])
        elif key in self.bound:
            yield from self.bound[key]
        else:
            ours = [self.modules[star] for star in self.stars[module.name] if star in self.modules]
            for other in ours:
                yield from self.of_global(other, name) if other is not module else [UNKNOWN]
            if not self.stars[module.name]:
                yield UNKNOWN

    def of_import(self, origin: str, name: str | None) -> Iterator[Flow | str]:
        if not self.library.contains(origin):
            return
        if name is None or f"{origin}.{name}" in self.modules or origin not in self.modules:
            yield UNKNOWN  # a module as an object
        else:
            yield from self.of_global(self.modules[origin], name)

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

    def of_attribute(self, module: Module, function: Any, node: ast.Attribute) -> Iterator[Flow | str]:
        named = self.module_named(module, function, node)
        if named is not None:
            dotted, ours = named
            owner, _, name = dotted.rpartition(".")
            if not ours:
                return
            if owner in self.modules:
                yield from self.of_global(self.modules[owner], name)
                return
        flows = self.attributes.get(node.attr, [])
        methods = [each for each in self.defined.get(node.attr, []) if each in self.class_of]
        yield from flows
        for method in methods:
            yield from self.returned[method] if method.decorator_list else own(self.home[method])
        if not flows and not methods and node.attr not in PLAIN_METHODS:
            yield module, function, node.value

    def of_call(self, module: Module, function: Any, node: ast.Call) -> Iterator[Flow | str]:
        arguments: list[Flow] = [(module, function, part) for part in node.args]
        arguments += [(module, function, keyword.value) for keyword in node.keywords]
        name = called_name(node)
        if makes_class(node):
            yield from own(module)
        if isinstance(node.func, ast.Name):
            if name in PLAIN_BUILTINS and not self.is_bound(module, function, name):
                return
            definitions = self.definitions(module, function, name)
            if definitions is None:  # from outside, or a builtin: it may hold what it is given
                yield from arguments
                return
            yield from self.made_by(definitions, arguments)
            if not definitions:
                yield from arguments
                yield module, function, node.func
            return
        if isinstance(node.func, ast.Attribute):
            named = self.module_named(module, function, node.func)
            if named is not None and not named[1]:
                computes = named[0].partition(".")[0] in PLAIN_PACKAGES and name not in CONTAINER_MAKERS
                yield from [] if computes or name in READERS else arguments
                return
            if name in PLAIN_METHODS | READERS and not self.defined.get(name):
                return
            found = [*self.defined.get(name, []), *(self.classes.get(name, []) if named else [])]
            yield from self.made_by(found, arguments)
            if not found or name in CONTAINER_METHODS:
                yield from arguments
                yield module, function, node.func.value
            return
        yield from arguments
        yield module, function, node.func

    def made_by(self, definitions: Iterable[Any], arguments: list[Flow]) -> Iterator[Flow | str]:
        """What a call of one of some functions or classes of the packages may return."""
        for each in definitions:
            if isinstance(each, ast.ClassDef):
                yield from self.of_class(each)
                yield from arguments
            else:
                yield from self.returned[each]

    def is_bound(self, module: Module, function: Any, name: str) -> bool:
        scope = function
        while True:
            if (module.name, scope, name) in self.bound or (module.name, scope, name) in self.imported:
                return True
            if scope is None:
                return False
            scope = self.around[scope]

    def definitions(self, module: Module, function: Any, name: str) -> list[Any] | None:
        """The functions and classes that a name may mean; None: it comes from outside of the packages."""
        found: list[Any] = []
        seen: set[Any] = set()
        todo: list[Flow | str] = list(self.of_name(module, function, name))
        if not todo:
            return None
        while todo:
            item = todo.pop()
            if isinstance(item, str):
                continue
            if item[2] in seen:
                continue
            seen.add(item[2])
            if isinstance(item[2], ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                found.append(item[2])
            elif isinstance(item[2], ast.Name):
                todo += self.of_name(item[0], item[1], item[2].id)
        return found

    def of_class(self, node: ast.ClassDef) -> Iterator[Flow | str]:
        """A class, those that inherit from it, and what their methods put into the attributes of an object."""
        todo, seen = [node], set[ast.ClassDef]()
        while todo:
            each = todo.pop()
            if each in seen:
                continue
            seen.add(each)
            yield from own(self.home[each])
            yield from self.of_self[each]
            for base in sorted(base_names(each)):
                todo += self.classes.get(base, [])

    def is_given(self, name: str, owner: ast.ClassDef | None) -> bool:
        """Whether a function, or a method of a class, is handed around, so that others may call it."""
        heirs = self.given_by_self.get(name, []) if owner is not None else []
        return name in self.given or any(heir is owner or owner.name in base_names(heir) for heir in heirs if owner)

    def of_parameter(self, module: Module, function: Any, parameter: ast.arg) -> Iterator[Flow | str]:
        """What the calls of a function give to one of its parameters."""
        if is_plain_annotation(parameter.annotation):
            return
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args]
        owner = self.class_of.get(function)
        bound_first = owner is not None and not any(
            getattr(each, "id", "") == "staticmethod" for each in function.decorator_list
        )
        if owner is not None and bound_first and named and parameter is named[0]:
            yield from self.of_class(owner)
            for heir in [each for group in self.classes.values() for each in group]:
                if owner.name in base_names(heir):
                    yield from self.of_class(heir)
            return
        defaults = dict(zip(reversed(named), reversed(arguments.defaults), strict=False))
        defaults |= {
            key: value for key, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value
        }
        if parameter in defaults:
            yield module, self.around[function], defaults[parameter]
        name = getattr(function, "name", "")
        calls = self.called.get(name, []) if name else []
        if owner is not None and name in ("__init__", "__call__", "__new__"):
            calls = [*calls, *self.called.get(owner.name, [])]
        if (not calls and owner is not None) or not name or self.is_given(name, owner):
            yield UNKNOWN  # others call it; what a decorator gives to a function comes from outside
        position = named.index(parameter) - bound_first if parameter in named else None
        for other, call in calls:
            yield from given_to(call, parameter.arg, position, (other, self.around[call]), arguments)


def makes_class(node: ast.Call) -> bool:
    """Whether a call makes a class, which then says that it is of the module that it is made in."""
    return called_name(node) in CLASS_MAKERS or (called_name(node) in ("type", "Enum") and len(node.args) > 1)


def base_names(node: ast.ClassDef) -> set[str]:
    """The last parts of the names of a class's bases."""
    return {last_name(base) for base in node.bases}


def last_name(node: ast.AST) -> str:
    """`c` of `a.b.c`; empty for all but names and attributes."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def own(module: Module) -> list[str]:
    """What a class or function of a module holds: the module, unless it is the entry, which stays the main program."""
    return [] if module.is_entry else [module.name]


def given_to(
    call: ast.Call, name: str, position: int | None, place: tuple[Module, Any], arguments: ast.arguments
) -> Iterator[Flow]:
    """What a call gives to the parameter of a name, or at a position."""
    spread = [part.value for part in call.args if isinstance(part, ast.Starred)]
    spread += [keyword.value for keyword in call.keywords if keyword.arg is None]
    for part in spread:
        yield *place, part
    for keyword in call.keywords:
        if keyword.arg == name or (arguments.kwarg is not None and arguments.kwarg.arg == name):
            yield *place, keyword.value
    if arguments.vararg is not None and arguments.vararg.arg == name:
        for part in call.args:
            yield *place, part
    elif position is not None and position < len(call.args):
        yield *place, call.args[position]


def is_plain_annotation(node: ast.AST | None) -> bool:
    """Whether an annotation names only types that hold nothing of the packages."""
    if node is None:
        return False
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    names |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return bool(names & PLAIN_TYPES) and names <= PLAIN_TYPES | PLAIN_GENERICS and all(text is None for text in texts)
