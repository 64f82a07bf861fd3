"""What a program pickles and unpickles: whether it may name a class or function of the packages."""

import ast
import collections
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flattener.facts import Facts, called_name
from flattener.source import Module, words
from flattener.trees import child_nodes, walk
from flattener.values import PLAIN_BUILTINS, UNKNOWN, Values

# Module -> the word by which --trust names it.
PICKLERS = {
    **dict.fromkeys(("pickle", "cPickle", "_pickle", "pickle5"), "pickle"),
    **{name: name for name in ("cloudpickle", "dill", "joblib", "torch", "shelve", "pandas", "compress_pickle")},
}
SAVES = words("dump dumps save to_pickle")
LOADS = words("load loads read_pickle")
PICKLE_ONLY = words("pickle cPickle _pickle pickle5 cloudpickle dill compress_pickle shelve")
FINDS_BY_NAME = PICKLE_ONLY | words("joblib copyreg")  # a class or function must have the name that it was kept by
BY_VALUE = words("cloudpickle dill")  # what the main program defines is sent whole, so that no module is named
HARMLESS = words("""
    HIGHEST_PROTOCOL DEFAULT_PROTOCOL PickleError PicklingError UnpicklingError format_version compatible_formats
""")
STATE_TAKERS = words("""
    load_state_dict load_weights set_weights DataFrame Series array asarray from_numpy tensor as_tensor set_state len
    restore_state isinstance
""")
SHOWS = words("print format")  # the parts of a state
TENSOR_METHODS = words("numpy cpu cuda float half long detach clone shape dtype size unsqueeze squeeze permute")
# What may call a function whose name no code mentions.
COMPUTED = words("globals locals vars eval exec __import__")
COMPUTED_ATTRIBUTES = words("attrgetter import_module getmembers")
WORDS = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "torch.save", "torch.load")


def is_mentioned(facts: Facts) -> bool:
    """Whether a module mentions something that pickles or unpickles, other than what sends code by value."""
    for site in facts.imports:
        for alias in site.names:
            origin = alias.name if isinstance(site, ast.Import) else site.module or ""
            top, harmless = origin.partition(".")[0], HARMLESS
            if top not in PICKLERS or (isinstance(site, ast.ImportFrom) and site.level):
                continue
            if top in BY_VALUE:
                harmless = harmless | SAVES | {"Pickler"}
            names = {alias.name} if isinstance(site, ast.ImportFrom) else set()
            start = f"{alias.asname or top}."
            if isinstance(site, ast.Import):
                names = {word.removeprefix(start) for word in facts.words if word.startswith(start)}
            if names & (SAVES | LOADS) - harmless or (top in PICKLE_ONLY and names - harmless - {origin}):
                return True
    return False


@dataclass(frozen=True)
class Pickling:
    """A place where something is pickled or unpickled that may name what the packages define.

    Attributes:
        word: for --trust.
        loads: whether it is unpickled.
        modules: those whose classes or functions are pickled; None: it is not known which.
    """

    module: Module
    line: int
    word: str
    loads: bool
    modules: frozenset[str] | None


class Pickles:
    """Finds all of them in the modules of a program, the entry among them."""

    def __init__(self, values: Values) -> None:
        self.values, modules = values, list(values.modules.values())
        origins = values.imported.items()
        picklers = {name for (name, _, _), (origin, _) in origins if origin.partition(".")[0] in PICKLERS}
        live = live_statements(modules, self.computes_names(modules)) if picklers else set()
        self.found = [
            found
            for module in modules
            if module.name in picklers
            for index, statement in enumerate(module.body)
            if (module.name, index) in live
            for found in self.in_statement(module, statement)
        ]

    @functools.cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The node that each node of the program is a part of."""
        modules = self.values.modules.values()
        return {child: parent for module in modules for parent in module.nodes for child in child_nodes(parent)}

    def computes_names(self, modules: list[Module]) -> bool:
        """Whether some code may call a function whose name no code mentions."""
        for module in modules:
            for node in module.nodes:
                name = getattr(node, "id", "") if isinstance(node, ast.Name) else getattr(node, "attr", "")
                if name in COMPUTED_ATTRIBUTES or (isinstance(node, ast.Name) and name in COMPUTED):
                    return True
                read: ast.expr | None = node.value if isinstance(node, ast.Attribute) and name == "__dict__" else None
                if isinstance(node, ast.Call) and called_name(node) == "getattr" and len(node.args) > 1:
                    read = None if isinstance(node.args[1], ast.Constant) else node.args[0]
                named = self.values.module_named(module, self.values.around.get(node), read) if read else None
                if named and named[1]:
                    return True
        return False

    def dotted(self, module: Module, node: ast.AST) -> str:
        """`torch.save` for an expression of that meaning; empty for all else."""
        if not isinstance(node, ast.Name | ast.Attribute):
            return ""
        named = self.values.module_named(module, self.values.around.get(node), node)
        return named[0] if named and not named[1] else ""

    def in_statement(self, module: Module, statement: ast.stmt) -> Iterator[Pickling]:
        """All places in a statement of a module."""
        for node in walk(statement):
            if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
                continue
            origin, _, name = self.dotted(module, node).rpartition(".")
            top = origin.partition(".")[0]
            if top not in PICKLERS or (origin != top and origin != "joblib.numpy_pickle"):
                continue
            parent = self.parents.get(node)
            if isinstance(parent, ast.Attribute) and self.dotted(module, parent):
                continue  # only a part of the name
            call = parent if isinstance(parent, ast.Call) and parent.func is node else None
            yield from self.at(module, node, call, top, name)

    def at(self, module: Module, node: Any, call: ast.Call | None, top: str, name: str) -> Iterator[Pickling]:
        """What one mention of a pickling library means."""
        word = f"{top}.{name}" if top == "torch" else PICKLERS[top]
        if name in SAVES:
            value = None
            if call is not None:
                first = call.args[:1] or [each.value for each in call.keywords if each.arg in ("obj", "value")]
                value = first[0] if first else None
            if top in BY_VALUE:
                return
            held = self.values.held_by(module, value) if value is not None else {UNKNOWN}
            if held:
                modules = None if UNKNOWN in held else frozenset(held)
                yield Pickling(module, node.lineno, word, False, modules)
        elif name in LOADS:
            if top == "pandas" or (call is not None and self.is_plain_load(module, call, top)):
                return
            kept = self.kept_in_file(module, call)
            if kept is None or kept:
                yield Pickling(module, node.lineno, word, kept is None, kept)
        elif top in PICKLE_ONLY and name not in HARMLESS and not (top in BY_VALUE and name == "Pickler"):
            yield Pickling(module, node.lineno, word, name not in ("Pickler",), None)

    # --- what is loaded ---

    def kept_in_file(self, module: Module, call: ast.Call | None) -> frozenset[str] | None:
        """The modules of what the program itself keeps in the file that a call loads; None if it is not known."""
        key = self.file_of(module, call.args[0]) if call is not None and call.args else None
        kept = self.kept.get(key, []) if key else []
        held = set[str]().union(*(self.values.held_by(other, value) for other, value in kept))
        return frozenset(held) if kept and UNKNOWN not in held else None

    @functools.cached_property
    def kept(self) -> dict[Any, list[tuple[Module, ast.expr]]]:
        """What the program pickles into each file."""
        found: dict[Any, list[tuple[Module, ast.expr]]] = collections.defaultdict(list)
        for name in sorted(SAVES):
            for module, call in self.values.called.get(name, []):
                top, _, saves = self.dotted(module, call.func).rpartition(".")
                if top in PICKLERS and saves in ("dump", "save") and len(call.args) > 1:
                    key = self.file_of(module, call.args[1])
                    found[key] += [(module, call.args[0])] if key else []
        return found

    def file_of(self, module: Module, node: ast.expr) -> Any:
        """The path of a file that is open, or its path itself, in a form to compare; None if it cannot be told."""
        function = self.values.around.get(node)
        around: Any = node
        while isinstance(node, ast.Name) and around is not None:
            items = around.items if isinstance(around, ast.With) else []
            for item in items:
                if isinstance(item.optional_vars, ast.Name) and item.optional_vars.id == node.id:
                    around, node = None, item.context_expr
                    break
            around = self.parents.get(around) if around is not None else None
        if isinstance(node, ast.Call):
            is_open = called_name(node) == "open"
            holder = node.func.value if isinstance(node.func, ast.Attribute) else None
            node = (holder or node.args[0]) if is_open and (holder or node.args) else node
        plain = all(isinstance(part, ast.Name | ast.Attribute | ast.expr_context) for part in walk(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        return (module.name, function, ast.unparse(node)) if plain else None

    def is_plain_load(self, module: Module, call: ast.Call, top: str) -> bool:
        """Whether what a call unpickles shows by its use that it is a state, a table or an array."""
        only = next((each.value for each in call.keywords if each.arg == "weights_only"), None)
        if top == "torch" and isinstance(only, ast.Constant) and only.value is True:
            return True
        if top == "pickle" and call.args and self.is_dump(module, call.args[0]):
            return True  # what this process has pickled itself
        # PyTorch itself refuses to load other classes than its own, unless it is told otherwise.
        return self.is_state(module, call, parts_too=top == "torch" and only is None, seen=set())

    def is_dump(self, module: Module, node: ast.AST) -> bool:
        """Whether an expression is the result of `pickle.dumps`."""
        if isinstance(node, ast.Call):
            return self.dotted(module, node.func) == "pickle.dumps"
        function = self.values.around.get(node)
        flows = self.values.bound.get((module.name, function, getattr(node, "id", "")), [])
        return bool(flows) and all(isinstance(each[2], ast.Call) and self.is_dump(module, each[2]) for each in flows)

    def is_state(self, module: Module, node: ast.AST, parts_too: bool, seen: set[Any]) -> bool:
        """Whether a value is used as a state dictionary or an array only, and not for its own methods.

        Args:
            module: that it stands in.
            node: the value.
            parts_too: whether what a constant key leads to may be used in any way.
            seen: the values that are being looked at.
        """
        parent = self.parents.get(node)
        match parent:
            case ast.Call() if node in parent.args or node in [each.value for each in parent.keywords]:
                takes = called_name(parent) in STATE_TAKERS or self.dotted(module, parent.func) == "torch.save"
                return takes or (parts_too and called_name(parent) in SHOWS)
            case ast.keyword():
                return called_name(self.parents[parent]) in STATE_TAKERS | (SHOWS if parts_too else set())  # type: ignore[arg-type]
            case ast.Subscript() if parent.value is node and (parts_too or isinstance(parent.slice, ast.Constant)):
                return parts_too or self.is_state(module, parent, False, seen) or self.is_data(module, parent)
            case ast.Attribute() if parent.attr in TENSOR_METHODS:
                return True
            case ast.Attribute(attr="get" | "pop" | "keys" | "items" | "values" | "update"):
                outer = self.parents.get(parent)
                return isinstance(outer, ast.Call) and (parts_too or self.is_state(module, outer, False, seen))
            case ast.Compare() | ast.Delete() | ast.Expr():
                return True
            case ast.Subscript() if isinstance(parent.ctx, ast.Del | ast.Store):
                return True
            case ast.IfExp() | ast.BoolOp():
                return self.is_state(module, parent, parts_too, seen)
            case ast.Assign(targets=[ast.Name(id=name)]) if parent.value is node:
                return self.is_state_variable(module, parent, name, parts_too, seen)
            case ast.Assign(targets=[ast.Attribute(attr=name)]) if parent.value is node:
                return self.is_state_attribute(name, parts_too, seen)
            case ast.For(target=ast.Name() | ast.Tuple()) if parent.iter is node:
                return parts_too
            case ast.Return():
                function = self.values.around.get(parent)
                if function is None or function in seen:
                    return function is not None
                seen.add(function)
                name = getattr(function, "name", "")
                calls = self.values.called.get(name, [])
                known = bool(calls) and name not in self.values.given
                return known and all(self.is_state(other, each, parts_too, seen) for other, each in calls)
        return False

    def is_data(self, module: Module, node: ast.AST) -> bool:
        """Whether a part of a loaded dictionary is only looked up in, compared, computed with or printed."""
        parent = self.parents.get(node)
        match parent:
            case ast.Subscript():
                return parent.value is node
            case ast.Compare() | ast.FormattedValue() | ast.BinOp() | ast.UnaryOp():
                return True
            case ast.Call() if isinstance(parent.func, ast.Name):
                return parent.func.id in PLAIN_BUILTINS | {"print", "sorted"}
            case ast.Tuple():
                outer = self.parents.get(parent)
                targets = outer.targets[0] if isinstance(outer, ast.Assign) else None
                if not isinstance(targets, ast.Tuple) or len(targets.elts) != len(parent.elts):
                    return False
                target = targets.elts[parent.elts.index(node)]  # type: ignore[arg-type]
                return isinstance(target, ast.Name) and self.is_data_variable(module, target)
            case ast.Assign(targets=[ast.Name() as target]):
                return self.is_data_variable(module, target)
        return False

    def is_data_variable(self, module: Module, target: ast.Name) -> bool:
        """`is_data` for all places in which a variable is read."""
        scope = self.scope_of(module, target)
        nodes = [each for each in walk(scope or module.tree) if isinstance(each, ast.Name) and each.id == target.id]
        reads = [each for each in nodes if isinstance(each.ctx, ast.Load) and self.scope_of(module, each) is scope]
        imported = scope is None and self.is_imported(module, target.id)
        return not imported and all(self.is_data(module, each) for each in reads)

    def is_state_variable(
        self, module: Module, bound_by: ast.Assign, name: str, parts_too: bool, seen: set[Any]
    ) -> bool:
        """`is_state` for all places in which a variable is read that an assignment binds."""
        function = self.values.around.get(bound_by)
        if bound_by in seen:
            return True
        seen.add(bound_by)
        names = [node for node in walk(function or module.tree) if isinstance(node, ast.Name) and node.id == name]
        reads = [node for node in names if isinstance(node.ctx, ast.Load) and self.scope_of(module, node) is function]
        reads = [node for node in reads if not self.is_read_before(node, bound_by)]
        harmless = all(self.is_state(module, node, parts_too, seen) for node in reads)
        return harmless and not (function is None and self.is_imported(module, name))

    def is_read_before(self, node: ast.Name, statement: ast.Assign) -> bool:
        """Whether a name is read before a statement gives it another value: `state = torch.load(state)`."""
        around: ast.AST | None = statement
        while around is not None and around is not self.values.around.get(statement):
            if isinstance(around, ast.For | ast.AsyncFor | ast.While):
                return False
            around = self.parents.get(around)
        is_here = self.values.around.get(node) is self.values.around.get(statement)
        return is_here and (node.lineno, node.col_offset) < (statement.end_lineno or 0, statement.end_col_offset or 0)

    def is_state_attribute(self, name: str, parts_too: bool, seen: set[Any]) -> bool:
        """`is_state` for all places in which an attribute of some name is read."""
        if name in seen:
            return True
        seen.add(name)
        reads = [
            (module, node)
            for module in self.values.modules.values()
            for node in module.nodes
            if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
        ]
        return all(self.is_state(module, node, parts_too, seen) for module, node in reads)

    def scope_of(self, module: Module, node: ast.Name) -> Any:
        """The function whose variable a name means; None for a variable of the module."""
        scope = self.values.around.get(node)
        while scope is not None and (module.name, scope, node.id) not in self.values.bound:
            scope = self.values.around.get(scope)
        return scope

    def is_imported(self, module: Module, name: str) -> bool:
        """Whether another module may import a variable of a module."""
        return any(target == (module.name, name) for target in self.values.imported.values())


def live_statements(modules: list[Module], all_of_them: bool) -> set[tuple[str, int]]:
    """Module and index of each statement that may run: not of functions and classes that no such statement mentions.

    Args:
        modules: of the program, the entry among them.
        all_of_them: whether a function may be called whose name no code mentions.
    """
    mentioned: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    words_in: dict[tuple[str, int], set[str]] = {}
    todo: list[tuple[str, int]] = []
    for module in modules:
        for index, statement in enumerate(module.body):
            place = module.name, index
            words_in[place] = mentioned_names(statement)
            name = getattr(statement, "name", "")
            waits = name and not getattr(statement, "decorator_list", []) and not module.is_entry
            mentioned[name if waits else ""].append(place)
    todo = mentioned[""]
    if all_of_them:
        todo = list(words_in)
    live: set[tuple[str, int]] = set()
    while todo:
        place = todo.pop()
        if place not in live:
            live.add(place)
            todo += [other for word in words_in[place] for other in mentioned.get(word, [])]
    return live


def mentioned_names(statement: ast.stmt) -> set[str]:
    """The names, attributes and words of strings in a statement, apart from what it only imports."""
    found: set[str] = set()
    for node in walk(statement):
        if isinstance(node, ast.Name | ast.Attribute):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.alias) and node.asname:
            found |= {node.name, node.name.rpartition(".")[2]}  # it is mentioned by another name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            found |= set(re.findall(r"\w+", node.value))
    return found
