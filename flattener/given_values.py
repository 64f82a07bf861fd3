"""Where a program gives values to its parameters and attributes: its calls, defaults, assignments and options."""

import ast
import functools
from collections.abc import Sequence

from flattener.facts import called_name
from flattener.source import KEPT_MODULES, Module, mentions
from flattener.trees import walk

Given = tuple[Module, ast.expr]  # a module, and an expression that stands there


class GivenValues:
    """What calls and assignments give, looked up by name in all modules of a program.

    Args:
        modules: of the program.
    """

    def __init__(self, modules: Sequence[Module]) -> None:
        self.modules = modules

    @functools.cached_property
    def calls(self) -> dict[str, list[tuple[Module, ast.Call]]]:
        """All calls, by the last part of the name that is called."""
        found: dict[str, list[tuple[Module, ast.Call]]] = {}
        for module in self.modules:
            for call in module.of(ast.Call):
                found.setdefault(called_name(call), []).append((module, call))
        return found

    @functools.cached_property
    def attributes(self) -> dict[str, list[Given]]:
        """What the attributes of objects may hold: what is assigned to them, fields of classes, options of scripts."""
        found: dict[str, list[Given]] = {}
        for name, module, value in [*self.assigned_attributes(), *self.options()]:
            is_text = not isinstance(value, ast.Constant) or isinstance(value.value, str)
            known = found.setdefault(name, [])
            known += [(module, value)] if value is not None and is_text and not mentions(value, name) else []
        return found

    def assigned_attributes(self) -> list[tuple[str, Module, ast.expr | None]]:
        """Names of attributes and of fields of classes, each with its module and what it is set to."""
        found: list[tuple[str, Module, ast.expr | None]] = []
        for module in self.modules:
            for node in module.of(ast.Assign, ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found += [(each.attr, module, node.value) for each in targets if isinstance(each, ast.Attribute)]
            for node in module.of(ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.Assign | ast.AnnAssign):
                        target = each.targets[0] if isinstance(each, ast.Assign) else each.target
                        found.append((getattr(target, "id", ""), module, each.value))
        return found

    def options(self) -> list[tuple[str, Module, ast.expr | None]]:
        """The options that argparse or absl's flags read, each with its module and its default."""
        found: list[tuple[str, Module, ast.expr | None]] = []
        for module, call in self.calls.get("add_argument", []):
            options = [str(each.value) for each in call.args if isinstance(each, ast.Constant)]
            given = {each.arg: each.value for each in call.keywords}
            name = next((each for each in options if each.startswith("--")), "").lstrip("-").replace("-", "_")
            dest = given.get("dest")
            found.append((str(dest.value) if isinstance(dest, ast.Constant) else name, module, given.get("default")))
        for module, call in self.calls.get("DEFINE_string", []):
            match call.args:
                case [ast.Constant(value=str(flag)), default, *_]:
                    found.append((flag, module, default))
        return found

    def to_parameter(self, module: Module, function: ast.FunctionDef, name: str) -> list[Given]:
        """What calls give to a parameter of a function of a module, and its default; nothing if it has none such."""
        names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        by_name = [each.arg for each in function.args.kwonlyargs]
        if name not in names and name not in by_name:
            return []
        defaults: dict[str, ast.expr | None] = dict(zip(by_name, function.args.kw_defaults, strict=True))
        defaults |= zip(reversed(names), reversed(function.args.defaults), strict=False)
        default = defaults.get(name)
        found: list[Given] = [(module, default)] if default is not None else []
        called = function.name
        if names[:1] == ["self"]:  # which a call does not give
            del names[0]
            classes = [each.name for each in module.of(ast.ClassDef) if function in each.body]
            called = classes[0] if called == "__init__" and classes else called
        place = names.index(name) if name in names else len(names)
        for other, call in self.calls.get(called, []):
            found += [(other, part) for part in call.args[place : place + 1]]
            found += [(other, each.value) for each in call.keywords if each.arg == name]
        return found


@functools.lru_cache(KEPT_MODULES)
def functions_around(module: Module) -> dict[ast.AST, list[ast.FunctionDef]]:
    """The functions that a node of a module stands in; made once for all programs that hold the module."""
    found: dict[ast.AST, list[ast.FunctionDef]] = {}
    for function in module.of(ast.FunctionDef):
        for node in walk(function):
            found.setdefault(node, []).append(function)
    return found
