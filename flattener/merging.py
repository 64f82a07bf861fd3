"""Helpers and constants that several modules hold word for word, and that are therefore one in a flat program."""

import ast
import collections

from flattener.library import ModuleRef, Var
from flattener.loading import Loader
from flattener.meanings import Meanings
from flattener.names import Names
from flattener.source import Module
from flattener.trees import walk


def find_same(meanings: Meanings, loader: Loader) -> dict[Var, Var]:
    """Variable -> the one of another module that is provably the same, and is bound first.

    A function is the same if its text is, if all names in it mean the same, and if the program only calls it: nobody
    can tell two such functions from each other. A constant is the same if it is never changed and its text is the same.
    """
    groups: dict[tuple[str, str], list[tuple[Module, int, Var]]] = collections.defaultdict(list)
    for chunk in loader.now.chunks:
        for index in chunk.indices if not chunk.module.is_entry else []:
            name = bound_name(chunk.module.body[index])
            var = Var(chunk.module.name, name)
            bound = meanings.names[chunk.module.name].bindings.get(name, [])
            settled = len(bound) == 1 and not bound[0].conditional and var not in meanings.unstable
            if name and settled and loader.purity.droppable(chunk.module, chunk.module.body[index]):
                start, end = chunk.module.span(chunk.module.body[index])
                groups[name, chunk.module.text[start:end]].append((chunk.module, index, var))
    groups = {key: group for key, group in groups.items() if len(group) > 1}
    objects = names_of_objects(meanings) if groups else set()
    same: dict[Var, Var] = {}
    count = -1
    while count < len(same):  # a function may be the same once a constant is that it reads
        count = len(same)
        for (name, _), group in groups.items():
            module, index, first = group[0]
            for other, place, var in group[1:] if name not in objects else []:
                here, there = references(meanings, module, index, same), references(meanings, other, place, same)
                futures = {"annotations"} & module.future == {"annotations"} & other.future
                if var not in same and here is not None and here == there and futures:
                    same[var] = first
    return same


def bound_name(node: ast.stmt) -> str:
    """The name that a statement binds to a plain function or to a constant that cannot change; else empty."""
    match node:
        case ast.FunctionDef(decorator_list=[]):
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            return node.name if all(isinstance(part, ast.Constant) for part in defaults) else ""
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            parts = value.elts if isinstance(value, ast.Tuple) else [value]
            parts = [part.operand if isinstance(part, ast.UnaryOp) else part for part in parts]
            return name if all(isinstance(part, ast.Constant) for part in parts) and not name.startswith("__") else ""
    return ""


def names_of_objects(meanings: Meanings) -> set[str]:
    """The names of functions that some module treats as an object; those of constants are not among them."""
    found: set[str] = set()
    for module in meanings.modules:
        called = {node.func for node in module.of(ast.Call)}
        defined = {node.name for node in module.of(ast.FunctionDef)}
        for node in module.of(ast.Attribute, ast.Name):
            if node not in called:
                found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
        constants = {target for node in module.body if isinstance(node, ast.Assign) for target in [bound_name(node)]}
        found -= constants - defined
    return found


def references(meanings: Meanings, module: Module, index: int, same: dict[Var, Var]) -> list[tuple[str, object]] | None:
    """What the names in a statement mean; None if that depends on the module."""
    names: Names = meanings.names[module.name]
    node = module.body[index]
    relative = any(isinstance(part, ast.ImportFrom) and part.level for part in walk(node))
    if relative or any(use.index == index for use in names.quoted):
        return None
    found: list[tuple[str, object]] = []
    for use in names.uses_in.get(index, []):
        if use.owner.kind != "module" or use.name == bound_name(node):
            continue
        meaning = meanings.of(module, use.name)
        if use.action == "declare" or (meaning is None and use.name.startswith("__")):
            return None
        if isinstance(meaning, ModuleRef) or not isinstance(meaning, Var):
            found.append((use.name, meaning))
        else:
            found.append((use.name, same.get(meaning, meaning)))
    return found
