"""Whose annotations third-party code may read, and so would see if they became strings or named other variables."""

import ast
import builtins
import functools
import sys
from typing import Any

from flattener.library import Library, ModuleRef, NameTables, Var
from flattener.meanings import Meanings
from flattener.names import Use
from flattener.purity import PURE_DECORATORS, Purity
from flattener.source import Module, all_arguments, words
from flattener.trees import walk

ANNOTATION_READERS = words("""
    __annotations__ get_type_hints get_annotations signature getfullargspec fields singledispatch NamedTuple TypedDict
    __dataclass_fields__ torch.jit custom_op ExtensionType register_dataclass import:pydantic import:attr import:attrs
    import:msgspec import:typeguard import:beartype import:typer import:fastapi
""")  # code that mentions one of these reads annotations, whatever else the program imports
# These packages read no annotations of what they are given, but by what `ANNOTATION_READERS` names.
INDIFFERENT = sys.stdlib_module_names | words("""
    numpy scipy pandas matplotlib seaborn PIL cv2 sklearn skimage tqdm keras tensorflow torch torchvision timm xgboost
    lightgbm catboost joblib yaml h5py requests cloudpickle IPython
""")


class Exposure:
    """Which modules define a class or function that third-party code may get, and that has annotations.

    A library that is not known may read the annotations of all that it gets: by a decorator, as a base class, as an
    argument of a call, and by whatever code of the packages passes a class or function on.
    """

    def __init__(self, library: Library, meanings: Meanings, purity: Purity) -> None:
        self.library, self.meanings, self.purity = library, meanings, purity
        self.names: NameTables = meanings.names

    def exposes(self, module: Module) -> bool:
        """Whether third-party code may read annotations of a module."""
        return bool(self.unknown) and (module.name in self.given or "" in self.given)

    @functools.cached_property
    def unknown(self) -> set[str]:
        """The third-party packages that may read annotations."""
        found = set()
        for changes in self.library.all_changes():
            for node in changes.imports:
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif not node.level:
                    found.add((node.module or "").partition(".")[0])
        return {name for name in found if name not in INDIFFERENT and not self.library.contains(name)}

    def is_unknown(self, dotted: str | None) -> bool:
        """Whether a full name means something of such a package."""
        return dotted is not None and dotted.partition(".")[0] in self.unknown

    @functools.cached_property
    def given(self) -> set[str]:
        """The modules of which third-party code may get a class or function; an empty name stands for all of them."""
        found: set[str] = set()
        objects: list[ast.expr] = []  # what third-party code gets
        for module in self.meanings.modules:
            harmless = self.harmless_places(module)
            theirs = self.names_of_results(module)
            for node in module.nodes:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    bases = getattr(node, "bases", [])
                    if not all(map(functools.partial(self.is_harmless_decorator, module), node.decorator_list)) or any(
                        self.is_unknown(self.purity.dotted(module, base)) for base in bases
                    ):
                        found.add(module.name)
                if isinstance(node, ast.Call):
                    if self.is_unknown(self.purity.dotted(module, node.func)) or root_name(node.func) in theirs:
                        objects += [*node.args, *(keyword.value for keyword in node.keywords)]
                    if getattr(node.func, "id", "") == "type" and len(node.args) == 1 and node not in harmless:
                        found.add("")
                if isinstance(node, ast.Attribute) and node.attr == "__class__" and node not in harmless:
                    found.add("")
            for use in self.names[module.name].uses:
                owner = self.definition_of(module, use)
                if owner and use.node not in harmless:
                    found.add(owner)
        attributes = {node.attr for node in objects if isinstance(node, ast.Attribute)}
        given = any(not isinstance(node, ast.Constant) for node in objects)  # an object shows its class
        for module in self.meanings.modules:
            if (given and has_annotated_class(module)) or attributes & annotated_functions(module):
                found.add(module.name)
        return found

    def is_harmless_decorator(self, module: Module, node: ast.expr) -> bool:
        """Whether a decorator is known to read no annotations."""
        called = node.func if isinstance(node, ast.Call) else node
        accessor = isinstance(called, ast.Attribute) and called.attr in ("setter", "getter", "deleter")
        dotted = self.purity.dotted(module, called)
        return accessor or dotted in PURE_DECORATORS or (dotted is not None and not self.is_unknown(dotted))

    def names_of_results(self, module: Module) -> set[str]:
        """The names of variables that hold what third-party code has made."""
        found = set()
        for node in module.of(ast.Assign):
            called = node.value.func if isinstance(node.value, ast.Call) else None
            if called is not None and self.is_unknown(self.purity.dotted(module, called)):
                found |= {part.id for part in walk(node) if isinstance(part, ast.Name) and not is_read(part)}
        return found

    def definition_of(self, module: Module, use: Use) -> str:
        """The module whose class or function a use reads; empty if it reads none."""
        if use.action != "load" or use.owner.kind != "module" or use.weak:
            return ""
        meaning = self.meanings.of(module, use.name)
        for attribute, _ in use.chain:
            if not isinstance(meaning, ModuleRef):
                break
            meaning = self.meanings.attribute(meaning.name, attribute)
        if not isinstance(meaning, Var):
            return ""
        bound = self.names[meaning.module].bindings.get(meaning.name, [])
        return meaning.module if any(each.action == "define" for each in bound) else ""

    def harmless_places(self, module: Module) -> set[ast.AST]:
        """The expressions that give no class or function away: what is called, a base class, an annotation, ..."""
        found: set[ast.AST] = set()
        for node in module.nodes:
            match node:
                case ast.Call():
                    found.add(node.func)
                    dotted = self.purity.dotted(module, node.func)
                    root = (dotted or "").partition(".")[0]
                    if dotted and (hasattr(builtins, root) or not self.is_unknown(dotted)):
                        found |= {*node.args, *(keyword.value for keyword in node.keywords)}
                case ast.ClassDef():
                    found |= {*node.bases, *node.decorator_list}
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    parts = [argument.annotation for argument in all_arguments(node.args)] + [node.returns]
                    found |= {part for each in parts if each for part in walk(each)} | {*node.decorator_list}
                case ast.AnnAssign():
                    found |= set(walk(node.annotation))
                case ast.Attribute():
                    found.add(node.value)
                case ast.Compare():
                    found |= {node.left, *node.comparators}
                case ast.Raise():
                    found |= {part for part in (node.exc, node.cause) if part}
                case ast.ExceptHandler():
                    found |= set(walk(node.type)) if node.type else set()
        return found


def is_read(node: ast.Name) -> bool:
    """Whether a name is read, not bound."""
    return isinstance(node.ctx, ast.Load)


def root_name(node: ast.AST) -> str:
    """`a` of `a.b().c`; empty for what does not begin with a name."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def has_annotated_class(module: Module) -> bool:
    """Whether a class of a module annotates its attributes."""
    return any(isinstance(part, ast.AnnAssign) for node in module.of(ast.ClassDef) for part in node.body)


def annotated_functions(module: Module) -> set[str]:
    """The names of a module's functions and methods with annotations."""
    return {node.name for node in module.of(ast.FunctionDef, ast.AsyncFunctionDef) if is_annotated(node)}


def annotatable(module: Module) -> list[Any]:
    """The nodes of a module's syntax tree that may hold an annotation."""
    return module.of(ast.FunctionDef, ast.AsyncFunctionDef, ast.AnnAssign)


def is_annotated(node: ast.AST) -> bool:
    """Whether a node of the syntax tree holds an annotation."""
    return bool(annotations_of(node))


def annotations_of(node: ast.AST) -> list[ast.expr]:
    """The annotations that a node of the syntax tree holds itself."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        parts = [argument.annotation for argument in all_arguments(node.args)] + [node.returns]
        return [part for part in parts if part is not None]
    return [node.annotation] if isinstance(node, ast.AnnAssign) else []
