"""Where the modules of the packages lie, which of them are flat, and what an import statement names."""

import ast
import copy
import posixpath
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flattener.changes import Changes, find_changes
from flattener.entries import Part
from flattener.errors import BuildError
from flattener.names import Names, Use, find_names
from flattener.search_path import SearchPath, shown
from flattener.source import Module, read_module

NOWHERE = "."  # where a relative import looks that leaves its package


@dataclass(frozen=True)
class Place:
    """Where a module lies; a package that is a folder without `__init__.py` has no file."""

    path: Path | None
    is_package: bool


@dataclass(frozen=True)
class External:
    """Something imported from outside of the packages: `import numpy as np`, `from pathlib import Path`.

    `import keras.backend as K` and `from keras import backend as K` are equal.
    """

    module: str = field(compare=False)
    attribute: str | None = field(compare=False)  # None: the module itself
    bound: str  # the name by which the source calls it
    home: str = ""  # the importing module, if the value may change: a variable of a module in modules style
    dotted: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        whole = f"{self.module}.{self.attribute}" if self.module and self.attribute else self.module or self.attribute
        object.__setattr__(self, "dotted", whole or "")


class Var(NamedTuple):
    """A variable of one module."""

    module: str
    name: str


@dataclass(frozen=True)
class ModuleRef:
    """A module of the packages."""

    name: str


Meaning = External | Var | ModuleRef


class Library:
    """The packages that are to be flattened, and the entry; their modules are read and analysed when asked for.

    Attributes:
        packages: name -> folder, or file of a package that is a single module.
        search: where further packages are looked for; None: nowhere.
        wanted: the modules that a string or a file names -> where.
        computed: package -> the place that may import any of its modules.
        roots: package -> the folder that it lies in once it is written, seen from that of all modules.
        taken: package that was found -> what there is to tell of it.
        is_kernel: whether the entry is written in cells, for a notebook.
        apart: the modules in modules style: to the flat modules they are external.
        sources: the modules read so far.
        folder: in which the entry lies.
        trust: the words of `TRUSTED` whose code counts as harmless.
        keep: "pkg.module:Name" for what must be found by its name.
        parts: the scripts that the entry is made of.
        goes_on: whether something stands behind the entry in a script, too.
    """

    def __init__(
        self,
        entry: Path,
        packages: dict[str, Path],
        entry_label: str,
        is_kernel: bool = False,
        search: SearchPath | None = None,
        entry_text: str | None = None,
    ) -> None:
        self.packages = packages
        self.entry_path, self.search, self.is_kernel = entry, search, is_kernel
        self.wanted: dict[str, str] = {}
        self.computed: dict[str, str] = {}
        self.taken: dict[str, str] = {}
        self.roots: dict[str, str] = {}
        self.apart: frozenset[str] = frozenset()
        self.trust: tuple[str, ...] = ()
        self.keep: tuple[str, ...] = ()
        self.places: dict[str, Place | None] = {}
        self.folder = entry.parent
        self.entry = self.read_entry(entry, entry_label, entry_text)
        self.entry_package = self.package_of(entry)
        dots = [node.level for node in self.entry.nodes if isinstance(node, ast.ImportFrom) and node.level]
        if dots and search and len(self.entry_package.split(".")) - (not self.entry_package) < max(dots):
            name, folder = search.package_of_entry(max(dots))
            self.packages = {**packages, name: folder}
            self.taken[name] = f"{shown(folder)} ({self.entry.label} imports from it)"
            self.entry_package = self.package_of(entry)
        self.sources = {"__main__": self.entry}
        self.goes_on = False
        self.parts = [Part(self.entry, None, 1, len(self.entry.lines))]
        self.analysed: dict[str, Names] = {}
        self.changed: dict[str, Changes] = {}

    @property
    def runs_as_module(self) -> bool:
        """Whether the entry is started as a module of its package, as by `python -m pkg.train`."""
        return self.search is not None and self.search.runs_as_module

    def read_entry(self, path: Path, label: str, text: str | None) -> Module:
        """Reads a script; `text` is its code, if its file is a notebook."""
        if text is None:
            return self.read("__main__", label, path, is_entry=True)
        return Module("__main__", label, text, is_entry=True)

    def read(self, name: str, label: str, path: Path | None, **kind: bool) -> Module:
        """Reads a module; one without a file is empty."""
        text = ""
        if path is not None:
            try:
                with tokenize.open(path) as file:
                    text = file.read()
            except (OSError, SyntaxError, UnicodeDecodeError) as error:
                raise BuildError(f"{label}:1", f"cannot be read: {error}", "save it as UTF-8") from None
        return read_module(name, label, text.removeprefix("\ufeff"), **kind)

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

    def with_more(
        self, packages: dict[str, Path], wanted: dict[str, str], computed: dict[str, str], taken: dict[str, str]
    ) -> "Library":
        """The same library with more packages, more modules that are named, and all that was read so far."""
        other = copy.copy(self)
        other.packages = {**self.packages, **packages}
        other.wanted = {**wanted, **self.wanted}
        other.computed = {**computed, **self.computed}
        other.taken = {**self.taken, **taken}
        other.places = {}
        other.entry_package = other.package_of(self.entry_path)
        return other

    def with_roots(self, roots: dict[str, str]) -> "Library":
        """The same library, some packages of which lie deeper than others once they are written."""
        other = copy.copy(self)
        other.roots = roots
        other.sources, other.analysed = {"__main__": self.entry}, {}
        return other

    def contains(self, dotted: str) -> bool:
        """Whether a module belongs to the packages, in whatever style."""
        return dotted.partition(".")[0] in self.packages

    def is_flat(self, dotted: str) -> bool:
        """Whether a module belongs to the packages and is flat."""
        return self.contains(dotted) and dotted not in self.apart

    def find(self, dotted: str) -> Place | None:
        """Where a module of the packages lies; None if there is no such module."""
        if dotted not in self.places:
            top, *rest = dotted.split(".")
            place: Place | None = None
            base = self.packages.get(top)
            if base is not None:
                path = base.joinpath(*rest)
                if base.is_file():
                    place = None if rest else Place(base, False)  # a package that is a single file
                elif (path / "__init__.py").is_file():
                    place = Place(path / "__init__.py", True)
                elif path.with_suffix(".py").is_file():
                    place = Place(path.with_suffix(".py"), False)
                elif path.is_dir() and any(path.rglob("*.py")):
                    place = Place(None, True)  # a folder without __init__.py is a package too
            self.places[dotted] = place
        return self.places[dotted]

    def path_of(self, dotted: str) -> Path | None:
        """The file of a module; None if it has none, or if there is no such module."""
        place = self.find(dotted)
        return place.path if place else None

    def source(self, dotted: str) -> Module:
        """A module of the packages that exists, as it is read."""
        if dotted not in self.sources:
            place = self.find(dotted)
            is_package = place is not None and place.is_package
            root = self.roots.get(dotted.partition(".")[0], "")
            label = posixpath.join(root, dotted.replace(".", "/") + ("/__init__.py" if is_package else ".py"))
            self.sources[dotted] = self.read(dotted, label, self.path_of(dotted), is_package=is_package)
        return self.sources[dotted]

    def names(self, dotted: str) -> Names:
        """The names in a module."""
        if dotted not in self.analysed:
            self.analysed[dotted] = find_names(self.source(dotted))
        return self.analysed[dotted]

    def all_changes(self) -> list[Changes]:
        """What the code of each module that was read so far may change."""
        for name, module in self.sources.items():
            if name not in self.changed:
                self.changed[name] = find_changes(module)
        return list(self.changed.values())

    def origin(self, module: Module, node: ast.ImportFrom) -> str:
        """The absolute name of the module from which a `from ... import` takes its names, or `NOWHERE`."""
        return import_origin(module, node, self.entry_package)

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
            home = module.name if self.contains(origin) else ""
            return (origin, alias.name) if self.is_flat(origin) else External(origin, alias.name, use.name, home)
        dotted = alias.name if alias.asname else alias.name.partition(".")[0]
        return (dotted, None) if self.is_flat(dotted) else External(dotted, None, use.name)


def import_origin(module: Module, node: ast.ImportFrom, entry_package: str) -> str:
    """The absolute name of the module from which a `from ... import` takes its names, or `NOWHERE`.

    Args:
        module: that holds the import.
        node: the import.
        entry_package: the package that the entry lies in; empty if in none. Only imports of the entry need it.

    Raises:
        BuildError: a relative import of the entry that leads out of its package.
    """
    if not node.level:
        return node.module or ""
    if module.is_entry and not entry_package:
        module.refuse(node, "a relative import in the entry", "write the package's name, or give --package for it")
    parts = [*entry_package.split("."), ""] if module.is_entry else module.name.split(".")
    count = len(parts) - node.level + module.is_package
    if count < 1 and module.is_entry:
        module.refuse(node, "the relative import leaves the package", "write fewer dots")
    if count < 1:
        return NOWHERE  # Python finds no package there, and some code catches that
    parts = parts[:count]
    return ".".join([*parts, node.module] if node.module else parts)


class NameTables(dict[str, Names]):
    """The names in each module of a library, found when asked for.

    A phase that knows more of some modules' names than their source says makes a table of its own.
    """

    def __init__(self, library: Library, known: dict[str, Names] | None = None) -> None:
        super().__init__(known or {})
        self.library = library

    def __missing__(self, dotted: str) -> Names:
        self[dotted] = self.library.names(dotted)
        return self[dotted]
