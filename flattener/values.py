"""Which classes and functions of the packages a value may hold, as far as the source shows.

Where a value comes from is followed backwards: through variables, attributes, containers, calls and what they return.
The order of statements does not count, and attributes of one name count as one, so that rather too much is found.
"""

import ast
import builtins
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from flattener.facts import called_name
from flattener.flows import Flow, Flows, is_plain_annotation
from flattener.library import Library
from flattener.source import Module, last_name, words
from flattener.trees import child_nodes

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
ITERATORS = words("__getitem__ __iter__ __next__ __aiter__ __anext__ __await__ __missing__")
CALLERS = words("__call__ forward")
GETTERS = words("__getattr__ __getattribute__")
OPERATORS = words("__neg__ __pos__ __invert__") | {
    f"__{kind}{name}__"
    for kind in ("", "r", "i")
    for name in words("add sub mul matmul truediv floordiv mod pow lshift rshift and or xor")
}
TENSOR_OWNERS = ("torch", "torch.nn.functional", "torch.linalg", "torch.fft", "torch.special")
TORCH_WRAPPERS = words("compile vmap cond script trace load no_grad enable_grad inference_mode")
TENSOR_CLASSES = words("Tensor Parameter")  # of which a class of the packages may be one
CLASS_MAKERS = words("namedtuple NamedTuple TypedDict make_dataclass NewType new_class")


class Values(Flows):
    """Follows values backwards through the index."""

    def __init__(self, library: Library, modules: list[Module]) -> None:
        super().__init__(library, modules)
        self.implied = True  # whether special methods of the packages' classes may be called
        # What `sources` gave, with `implied` and without: the values of a program share most of their sources.
        self.known_sources: dict[bool, dict[tuple[str, Any, Any], list[Flow | str]]] = {True: {}, False: {}}

    def held_by(self, module: Module, node: ast.AST) -> set[str]:
        """The modules whose classes or functions a value may hold; `UNKNOWN` among them if it may be any.

        Operators, subscripts and loops run code of the packages only where an object of theirs is in sight.
        """
        found = self.followed(module, node, implied=False)
        return self.followed(module, node, implied=True) if found and UNKNOWN not in found else found

    def classes_of(self, module: Module, node: ast.AST) -> set[str]:
        """The modules of the classes of which a value is an object; `{UNKNOWN}` if it may be one of others."""
        found: set[str] = set()
        seen: set[Any] = set()
        todo: list[Flow | str] = [(module, self.around.get(node), node)]
        while todo:
            item = todo.pop()
            if isinstance(item, str):
                return {UNKNOWN}
            here, function, part = item
            if part in seen:
                continue
            seen.add(part)
            if isinstance(part, ast.Name):
                flows = list(self.of_name(here, function, part.id))
                todo += flows or [UNKNOWN]
                continue
            is_named = isinstance(part, ast.Call) and isinstance(part.func, ast.Name)
            made = self.definitions(here, function, part.func.id) if is_named else None
            if not made or not all(isinstance(each, ast.ClassDef) for each in made):
                return {UNKNOWN}
            found.update(name for each in made for name in own(self.home[each]))
        return found

    def followed(self, module: Module, node: ast.AST, implied: bool) -> set[str]:
        """`held_by`, with or without what special methods of the packages' classes return; `{UNKNOWN}` if any."""
        self.implied = implied
        known = self.known_sources[implied]
        found: set[str] = set()
        seen: set[tuple[str, Any, Any]] = set()
        todo: list[Flow] = [(module, self.around.get(node), node)]
        while todo:
            here, function, part = todo.pop()
            key = (here.name, function, part if not isinstance(part, ast.Name) else part.id)
            if key in seen:
                continue
            seen.add(key)
            if key not in known:
                known[key] = list(self.sources(here, function, part))
            for item in known[key]:
                if item == UNKNOWN:
                    return {UNKNOWN}
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
            case ast.ExceptHandler():
                caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                known = all(part is not None and last_name(part) in self.classes for part in caught)
                yield from ((module, function, part) for part in caught) if known else [UNKNOWN]
            case ast.Subscript() | ast.Starred() | ast.Await() | ast.NamedExpr() | ast.BinOp() | ast.UnaryOp():
                yield from ((module, function, part) for part in child_nodes(node) if isinstance(part, ast.expr))
                yield from self.of_special(OPERATORS if isinstance(node, ast.BinOp | ast.UnaryOp) else ITERATORS)
            case ast.IfExp():
                yield from ((module, function, part) for part in (node.body, node.orelse))
            case ast.DictComp():
                yield from ((module, function, part) for part in (node.key, node.value))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                yield module, function, node.elt
            case _:
                yield from ((module, function, part) for part in child_nodes(node) if isinstance(part, ast.expr))

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
            homes = self.star_homes(module, name, set())
            for other in homes:
                yield from self.of_global(other, name)
            if not homes and all(star in self.modules for star in self.stars[module.name]):
                yield UNKNOWN  # else it comes by a star from outside

    def star_homes(self, module: Module, name: str, seen: set[str]) -> list[Module]:
        """The modules of the packages that bind a name which a module gets by a star."""
        found: list[Module] = []
        for star in self.stars[module.name]:
            if star in self.modules and star not in seen:
                seen.add(star)
                key = (star, None, name)
                is_bound = key in self.imported or key in self.bound
                found += [self.modules[star]] if is_bound else self.star_homes(self.modules[star], name, seen)
        return found

    def of_import(self, origin: str, name: str | None) -> Iterator[Flow | str]:
        if not self.library.contains(origin):
            return
        if name is None or f"{origin}.{name}" in self.modules or origin not in self.modules:
            yield UNKNOWN  # a module as an object
        else:
            yield from self.of_global(self.modules[origin], name)

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
            yield from self.of_special(GETTERS)

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
                yield from self.of_special(CALLERS)
            return
        if isinstance(node.func, ast.Attribute):
            named = self.module_named(module, function, node.func)
            if named is not None and not named[1]:
                computes = named[0].partition(".")[0] in PLAIN_PACKAGES and name not in CONTAINER_MAKERS
                computes |= self.makes_tensor(named[0])
                yield from [] if computes or name in READERS else arguments
                return
            if name in PLAIN_METHODS | READERS and not self.defined.get(name):
                return
            found = [*self.defined.get(name, []), *(self.classes.get(name, []) if named else [])]
            yield from self.made_by(found, arguments)
            if not found or name in CONTAINER_METHODS:
                yield from arguments
                yield module, function, node.func.value
                yield from self.of_special(CALLERS) if name in self.attributes else []
            return
        yield from arguments
        yield module, function, node.func
        yield from self.of_special(CALLERS)

    def makes_tensor(self, dotted: str) -> bool:
        """Whether a function of PyTorch returns a tensor, or numbers, of whatever it is given: `torch.sum`.

        None does that is given a tensor of a class of the packages, which then may return one of these.
        """
        owner, _, name = dotted.rpartition(".")
        is_function = name.islower() and name not in TORCH_WRAPPERS
        overridden = bool(TENSOR_CLASSES & self.base_names) or "__torch_function__" in self.defined
        return owner in TENSOR_OWNERS and is_function and not overridden

    @functools.cached_property
    def base_names(self) -> set[str]:
        """The last parts of the names of all classes' bases."""
        return {name for nodes in self.classes.values() for node in nodes for name in base_names(node)}

    def of_special(self, names: frozenset[str]) -> Iterator[Flow]:
        """What methods of the packages' classes return that are called without a call in sight."""
        for name in sorted(names & self.defined.keys()) if self.implied else []:
            for method in self.defined[name]:
                yield from self.returned[method]

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

    @functools.cached_property
    def computes(self) -> bool:
        """Whether a method may be called by a name that is computed: of an object, not of a third-party module."""
        for name in ("getattr", "methodcaller"):
            for module, call in self.called.get(name, []):
                named = self.module_named(module, self.around[call], call.args[0]) if call.args else None
                is_constant = all(isinstance(each, ast.Constant) for each in call.args[1:2])
                if not is_constant and not (named and not named[1]):
                    return True
        return False

    def is_network(self, node: ast.ClassDef, depth: int = 0) -> bool:
        """Whether PyTorch alone calls methods of a class by itself, and of them only `forward` with values."""
        bases = [(base, self.module_named(self.home[node], self.around.get(node), base)) for base in node.bases]
        return bool(bases) and all(
            (named is not None and not named[1] and named[0].startswith("torch.nn"))
            or (
                depth < 20
                and bool(self.classes.get(last_name(base)))
                and all(self.is_network(each, depth + 1) for each in self.classes[last_name(base)])
            )
            for base, named in bases
        )

    @functools.cached_property
    def inputs(self) -> list[Flow]:
        """What networks may be called with: by variables and attributes, and by networks that hold others."""
        found = [flow for each in self.defined["forward"] for flow in self.returned[each]]
        for name, calls in self.called.items():
            known = name in self.defined or name in self.classes or hasattr(builtins, name)
            for module, call in calls if not known else []:
                is_value = not isinstance(call.func, ast.Attribute) or name in self.attributes
                if is_value and self.module_named(module, self.around[call], call.func) is None:
                    given = [*call.args, *(keyword.value for keyword in call.keywords)]
                    found += [(module, self.around[call], part) for part in given]
        return found

    def name_of_lambda(self, module: Module, function: Any) -> str:
        """The variable by which alone a lambda is called: `save = lambda epoch: ...`; empty if there is none."""
        flow = (module, self.around[function], function)
        names = [name for (_, _, name), flows in self.bound.items() if flow in flows]
        is_held = any(flow in flows for flows in self.attributes.values())
        return names[0] if len(names) == 1 and not is_held else ""

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
        name = getattr(function, "name", "") or self.name_of_lambda(module, function)
        calls = self.called.get(name, []) if name else []
        if owner is not None and name in ("__init__", "__call__", "__new__"):
            calls = [*calls, *self.called.get(owner.name, [])]
        is_network = owner is not None and not self.computes and self.is_network(owner)
        if is_network and name == "forward":
            yield from self.inputs
        elif (not calls and not is_network and owner is not None) or not name or self.is_given(name, owner):
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
