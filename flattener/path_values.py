"""The paths that a program's expressions mean, as far as its source says: `Path(__file__).parent / "conf.yaml"`."""

import ast
import copy
import glob
import os
import posixpath
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flattener.facts import called_name
from flattener.given_values import GivenValues, functions_around
from flattener.library import Library
from flattener.search_path import is_installed_folder
from flattener.source import Module, mentions, words
from flattener.trees import walk

UNKNOWN_PART = "*"  # a part of a path that only the running program knows
WRAPPERS = words(
    "Path PurePath PosixPath PurePosixPath str fspath abspath realpath normpath expanduser to_absolute_path"
)
SAME = words("resolve absolute expanduser as_posix strip")
MOST_FILES = 200  # of one folder
MAP_SUFFIX = (
    ".map.json"  # with it the name of a built file is that of its map, which leads from its lines to the source
)
MOST_STEPS = 12  # from one name to the next
MOST_PARAMETERS = 3  # of one expression whose values are looked for
MOST_VALUES = 8  # of one parameter


@dataclass(frozen=True)
class PathValue:
    """A path as a program names it.

    Attributes:
        text: with `/`, and `*` for what is not known; relative to the working folder unless it begins with `/`.
        source: the file whose `__file__` it is made from; None: it is not.
    """

    text: str
    source: Path | None = None


class PathValues:
    """Reads paths out of the expressions of a program's modules; names lead to what is assigned to them, once.

    Args:
        library: of the modules.
        modules: all of the program, in which values are given to parameters and attributes; none: only what the modules
            assign to their names is known.
    """

    def __init__(self, library: Library, modules: Sequence[Module] = ()) -> None:
        self.library = library
        self.given = GivenValues(modules)
        self.assigned: dict[str, dict[str, ast.expr | PathValue | None]] = {}
        self.imported: dict[str, dict[str, tuple[str, str]]] = {}
        self.several: dict[str, dict[str, list[ast.expr]]] = {}  # what is assigned to names in turn
        self.attributes: dict[str, PathValue] = {}  # what an attribute is taken to be

    def file_of(self, module: Module) -> Path | None:
        """The file of a module."""
        return self.library.entry_path if module.is_entry else self.library.path_of(module.name)

    def of(self, module: Module, node: ast.AST, steps: int = 0) -> PathValue | None:
        """The path that an expression means; None if nothing of it is known."""
        if steps > MOST_STEPS:
            return None
        match node:
            case ast.Constant(value=str(text)):
                return PathValue(text)
            case ast.Name(id="__file__"):
                path = self.file_of(module)
                return PathValue(path.as_posix(), path) if path else None
            case ast.Name():
                return self.of_name(module, node.id, steps)
            case ast.JoinedStr():
                parts = [self.of(module, part, steps + 1) or PathValue(UNKNOWN_PART) for part in node.values]
                return joined(parts, "")
            case ast.FormattedValue():
                return self.of(module, node.value, steps + 1)
            case ast.BinOp(op=ast.Add()):
                left, right = (self.of(module, part, steps + 1) for part in (node.left, node.right))
                return (
                    joined([left or PathValue(UNKNOWN_PART), right or PathValue(UNKNOWN_PART)], "")
                    if left or right
                    else None
                )
            case ast.BinOp(op=ast.Div()):
                left, right = (self.of(module, part, steps + 1) for part in (node.left, node.right))
                return joined([left, right or PathValue(UNKNOWN_PART)], "/") if left else None
            case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=str(text))):
                return PathValue(wildcards(text))
            case ast.Attribute():
                return self.of_attribute(module, node, steps)
            case ast.Subscript(value=ast.Attribute(attr="parents", value=inner), slice=ast.Constant(value=int(count))):
                return upwards(self.of(module, inner, steps + 1), count + 1)
            case ast.Call():
                return self.of_call(module, node, steps)
        return None

    def all_of(self, module: Module, node: ast.expr, most: int = MOST_PARAMETERS) -> list[PathValue]:
        """The paths that an expression may mean, be it by a loop's variable, or by what calls give to a function.

        Where some are known in full, those; else what is known in part, if a variable told it.

        Args:
            module: in which it stands.
            node: the expression.
            most: variables in turn whose values are looked for.
        """
        value = self.of(module, node)
        if value is not None and UNKNOWN_PART not in value.text:
            return [value]
        partly = [value] if value is not None and most < MOST_PARAMETERS else []
        for name in self.open_names(module, node) if most else []:
            found: list[PathValue] = []
            for each in self.given_to(module, node, name, most - 1)[:MOST_VALUES]:
                found += self.with_value(module, name, each).all_of(module, node, most - 1)
            found = list(dict.fromkeys(found))
            whole = [each for each in found if UNKNOWN_PART not in each.text]
            if whole:
                return whole
            partly = found or partly
        return partly

    def open_names(self, module: Module, node: ast.expr) -> list[str]:
        """The variables and attributes of an expression whose values only others tell, an attribute with a dot."""
        self.read(module)
        assigned, held = self.assigned[module.name], self.given.attributes
        found: set[str] = set()
        for part in walk(node):
            if isinstance(part, ast.Name) and part.id in assigned and assigned[part.id] is None:
                found.add(part.id)
            elif isinstance(part, ast.Attribute) and part.attr in held and part.attr not in self.attributes:
                found.add(f".{part.attr}")
        return sorted(found)

    def with_value(self, module: Module, name: str, value: PathValue) -> "PathValues":
        """The same paths, where a name of a module, or an attribute, means this one."""
        other = copy.copy(self)
        if name.startswith("."):
            other.attributes = {**self.attributes, name[1:]: value}
        else:
            other.assigned = {**self.assigned, module.name: {**self.assigned[module.name], name: value}}
        return other

    def given_to(self, module: Module, node: ast.expr, name: str, most: int) -> list[PathValue]:
        """The paths that loops, defaults, calls or assignments give to a variable or attribute of an expression."""
        pairs = [(module, part) for part in self.several[module.name].get(name, []) if not mentions(part, name)]
        if name.startswith("."):
            pairs += self.given.attributes[name[1:]]
        for loop in module.of(ast.For) if not pairs else []:
            if getattr(loop.target, "id", "") == name and isinstance(loop.iter, ast.List | ast.Tuple):
                pairs += [(module, part) for part in loop.iter.elts]
        for function in functions_around(module).get(node, []):
            pairs += self.given.to_parameter(module, function, name)
        return [value for other, part in pairs for value in self.all_of(other, part, most)]

    def is_module(self, module: Module, node: ast.expr, name: str) -> bool:
        """Whether an expression is the name by which a module imports another."""
        self.read(module)
        return isinstance(node, ast.Name) and self.imported[module.name].get(node.id) == (name, "")

    def of_attribute(self, module: Module, node: ast.Attribute, steps: int) -> PathValue | None:
        if node.attr == "parent":
            return upwards(self.of(module, node.value, steps + 1), 1)
        if isinstance(node.value, ast.Name):
            self.read(module)
            origin, name = self.imported[module.name].get(node.value.id, ("", ""))
            dotted = f"{origin}.{name}" if name else origin
            if dotted and self.library.contains(dotted) and self.library.path_of(dotted):
                return self.of_name(self.library.source(dotted), node.attr, steps)
        return self.attributes.get(node.attr)

    def of_name(self, module: Module, name: str, steps: int) -> PathValue | None:
        """The path that a name means; None also where imports lead from name to name for long, as in a circle."""
        if steps > MOST_STEPS:
            return None
        self.read(module)
        value = self.assigned[module.name].get(name)
        if isinstance(value, PathValue):
            return value
        if value is not None:
            return self.of(module, value, steps + 1)
        origin, imported = self.imported[module.name].get(name, ("", ""))
        if imported and self.library.contains(origin) and self.library.path_of(origin):
            return self.of_name(self.library.source(origin), imported, steps + 1)
        return None

    def of_call(self, module: Module, node: ast.Call, steps: int) -> PathValue | None:
        called = called_name(node)
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if called in ("getcwd", "cwd", "get_original_cwd") and not node.args:
            return PathValue(".")
        if called == "dirname" and node.args:
            return upwards(self.of(module, node.args[0], steps + 1), 1)
        if called in WRAPPERS and len(node.args) == 1:
            return self.of(module, node.args[0], steps + 1)
        if inner is not None and called in SAME and not node.args:
            return self.of(module, inner, steps + 1)
        if inner is not None and called == "format":
            return self.of_format(module, node, self.of(module, inner, steps + 1), steps)
        if (called in WRAPPERS or called == "join") and node.args:
            if called == "join" and isinstance(inner, ast.Constant):
                return None  # ", ".join(...)
            parts = [self.of(module, part, steps + 1) or PathValue(UNKNOWN_PART) for part in node.args]
            return joined(parts, "/") if parts[0].text != UNKNOWN_PART else None
        if inner is not None and called == "joinpath":
            first = self.of(module, inner, steps + 1)
            parts = [self.of(module, part, steps + 1) or PathValue(UNKNOWN_PART) for part in node.args]
            return joined([first, *parts], "/") if first else None
        return None

    def of_format(self, module: Module, node: ast.Call, template: PathValue | None, steps: int) -> PathValue | None:
        """The path that `"{}/{name}.txt".format(folder, name=x)` means."""
        if template is None:
            return None
        parts: list[PathValue] = []
        named = {each.arg: each.value for each in node.keywords}
        try:
            fields = list(string.Formatter().parse(template.text))
        except ValueError:  # a brace that is none of a field
            return None
        count = 0
        for literal, place, spec, _ in fields:
            parts.append(PathValue(literal))
            if place is None:
                continue
            index = int(place) if place.isdigit() else count if not place else None
            count += not place
            given = named.get(place) if index is None else dict(enumerate(node.args)).get(index)
            value = self.of(module, given, steps + 1) if given is not None and not spec else None
            parts.append(value or PathValue(UNKNOWN_PART))
        whole = joined(parts, "")
        return replace(whole, source=template.source or whole.source)

    def read(self, module: Module) -> None:
        """Notes what a module assigns to names, and what it imports from the packages."""
        if module.name in self.assigned:
            return
        assigned: dict[str, ast.expr | PathValue | None] = {}
        imported: dict[str, tuple[str, str]] = {}
        values: dict[str, list[ast.expr]] = {}
        for node in module.of(ast.Assign, ast.AnnAssign, ast.arg, ast.For, ast.ImportFrom, ast.Import):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                values.setdefault(name, []).append(node.value)
                assigned[name] = None if name in assigned else node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                assigned[node.target.id] = None if node.target.id in assigned else node.value
            elif isinstance(node, ast.arg):
                assigned[node.arg] = None
            elif isinstance(node, ast.For) and isinstance(node.target, ast.Name):
                assigned[node.target.id] = None
            elif isinstance(node, ast.ImportFrom) and not (module.is_entry and node.level):
                origin = self.library.origin(module, node)
                imported.update((alias.asname or alias.name, (origin, alias.name)) for alias in node.names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.asname or "." not in alias.name:
                        imported[alias.asname or alias.name] = (alias.name, "")
        self.assigned[module.name], self.imported[module.name] = assigned, imported
        self.several[module.name] = {name: each for name, each in values.items() if len(each) > 1}


def joined(parts: list[PathValue], separator: str) -> PathValue:
    """Some parts of a path put together."""
    text, source = "", None
    for part in parts:
        if separator and part.text.startswith("/"):
            text, source = part.text, part.source
        else:
            text += (separator if text and not text.endswith("/") else "") + part.text
            source = source or part.source
    return PathValue(text, source)


def upwards(value: PathValue | None, count: int) -> PathValue | None:
    """The folder `count` levels above a path."""
    text = posixpath.normpath(value.text) if value else ""
    for _ in range(count):
        text = (
            posixpath.dirname(text) if posixpath.basename(text) not in ("", ".", "..") else posixpath.join(text, "..")
        )
    return PathValue(text or ".", value.source) if value else None


def wildcards(text: str) -> str:
    """A text in which the places that `%` fills are `*`."""
    pieces, rest = [], text
    while "%" in rest:
        head, _, rest = rest.partition("%")
        rest = rest.lstrip("0123456789.-+#")[1:]
        pieces.append(head)
    return UNKNOWN_PART.join([*pieces, rest])


def matching(base: Path, pattern: str) -> list[Path]:
    """The files and folders that a path with `*` means."""
    try:
        if UNKNOWN_PART not in pattern:
            path = os.path.normpath(os.path.join(base, pattern))
            return [Path(path)] if os.path.exists(path) else []
        if not re.search(r"\w/|\.\w+$", pattern):
            return []
        literal = "".join("*" if part == UNKNOWN_PART else glob.escape(part) for part in re.split(r"(\*)", pattern))
        found = [name for name in sorted(glob.glob(str(base / literal))) if not is_map_of_build(name)]
    except (OSError, ValueError):
        return []
    return [Path(path) for path in found[: MOST_FILES + 1]]


def is_map_of_build(name: str) -> bool:
    """Whether a file is the map of a built file beside it: an earlier build has left it, and no program reads it."""
    return name.endswith(MAP_SUFFIX) and os.path.isfile(name.removesuffix(MAP_SUFFIX))


def files_below(path: Path) -> list[Path]:
    """A file, or the first files of a folder, without what is hidden or compiled."""
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        found += [
            Path(folder, name) for name in sorted(names) if not name.startswith(".") and not name.endswith(".pyc")
        ]
        if len(found) > MOST_FILES or is_installed_folder(Path(folder)):
            break
    return found[: MOST_FILES + 1]


def config_path_of(node: ast.Call) -> ast.Constant | None:
    """The text of a folder that a call gives to hydra: `main(config_path="conf")`, `hydra.initialize("conf")`."""
    called, receiver = called_name(node), getattr(node.func, "value", None)
    if called not in ("main", "hydra_main", "initialize"):
        return None
    by_name = [keyword.value for keyword in node.keywords if keyword.arg == "config_path"]
    first = node.args[:1] if isinstance(receiver, ast.Name) and receiver.id == "hydra" else []
    given = [*by_name, *first]
    text = given[0] if given else None
    return text if isinstance(text, ast.Constant) and isinstance(text.value, str) else None
