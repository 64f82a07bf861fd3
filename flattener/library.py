"""Where the modules of the packages lie, which of them are flat, and what an import statement names."""

import ast
import copy
import tokenize
from dataclasses import dataclass
from pathlib import Path

from flattener.errors import BuildError
from flattener.names import Names, Use, find_names
from flattener.source import Module


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
        self.analysed: dict[str, Names] = {}

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

    def with_apart(self, apart: frozenset[str]) -> "Library":
        """The same packages, and all that was read of them, with other modules in modules style."""
        other = copy.copy(self)
        other.apart = apart
        return other

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

    def names(self, dotted: str) -> Names:
        """The names in a module."""
        if dotted not in self.analysed:
            self.analysed[dotted] = find_names(self.source(dotted))
        return self.analysed[dotted]

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


class NameTables(dict[str, Names]):
    """The names in each module of a library, found when asked for.

    A phase that knows more of some modules' names than their source says makes a table of its own.
    """

    def __init__(self, library: Library, known: dict[str, Names] | None = None):
        super().__init__(known or {})
        self.library = library

    def __missing__(self, dotted: str) -> Names:
        self[dotted] = self.library.names(dotted)
        return self[dotted]
