"""The statements of all flat modules in the order in which Python would run them."""

import ast
import builtins
import copy
import sys
from dataclasses import dataclass, field

from flattener.errors import BuildError
from flattener.library import NOWHERE, External, Library, NameTables
from flattener.names import ImportSite
from flattener.purity import Purity
from flattener.source import Module, last_line, words

NOT_EVERYWHERE = words("""
    msvcrt winreg winsound _winapi nt fcntl grp pwd resource termios tty pty posix syslog crypt spwd ossaudiodev curses
    readline tkinter sqlite3 lzma bz2 dbm
""")


# Builtins that no package gives away by a star, but for those that are made to replace builtins.
NEVER_EXPORTED = words("""
    len isinstance issubclass getattr setattr hasattr super property staticmethod classmethod enumerate repr id list
    dict tuple set frozenset str int float bool range zip print callable iter next object True False None __name__
""")
EXPORTS_BUILTINS = words("six future past builtins rich")


@dataclass
class Chunk:
    """Statements of one module that stand together in the flat program."""

    module: Module
    indices: list[int]


@dataclass
class Progress:
    """How far the loading is. An attempt that fails is undone by what was copied before it.

    Attributes:
        names: the names in each module, with those that `from x import *` binds.
        chunks: the statements of the flat program, in their order.
        loading: the modules that are being loaded, each imported by the one before it.
        loaded: module -> when its loading ended, counted in statements and modules.
        bound_at: (module, statement) -> when it ran.
        events: how many statements and modules there were.
        disturbed: a statement has run above which no third-party import may be moved.
        outside: third-party modules imported at module level so far.
        hoisted: the import statements whose third-party imports move to the top of the program.
        unfinished: import statement -> the modules that were still being loaded when it ran.
        early: third-party modules that the module loaded last would import early.
        late: (module, what it imports in functions), not loaded yet.
    """

    names: NameTables
    chunks: list[Chunk] = field(default_factory=list)
    loading: list[str] = field(default_factory=list)
    loaded: dict[str, int] = field(default_factory=dict)
    bound_at: dict[tuple[str, int], int] = field(default_factory=dict)
    events: int = 0
    disturbed: bool = False
    outside: set[str] = field(default_factory=set)
    hoisted: set[ImportSite] = field(default_factory=set)
    unfinished: dict[ImportSite, frozenset[str]] = field(default_factory=dict)
    early: list[str] = field(default_factory=list)
    late: list[tuple[Module, str]] = field(default_factory=list)

    def copy(self) -> "Progress":
        """The same, which goes on by itself."""
        return Progress(**{name: copy.copy(value) for name, value in vars(self).items()})


class Loader:
    """Follows the imports from the entry, as Python would, and records what runs when.

    A module that is imported at the head of another comes before it. Only where statements with effects stand before
    the import, or in a cycle of imports, does a module come in two chunks, with the imported one between them.

    Attributes:
        now: what is loaded, in what order; at last the whole program.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        self.now = Progress(NameTables(library))
        self.purity = Purity(library, self.now.names)
        if library.runs_as_module and library.is_flat(library.entry_package):
            self.load(library.entry_package)
        self.load("__main__")

    def load(self, name: str) -> None:
        """Loads a module, and what it imports."""
        if name in self.now.loaded or name in self.now.loading:
            return
        parent = name.rpartition(".")[0]
        if parent and self.library.is_flat(parent):
            self.load(parent)
            if name in self.now.loaded or name in self.now.loading:
                return
        module = self.now.names[name].module
        self.now.loading.append(name)
        waiting: dict[str, BuildError] = {}  # what is imported late, and would import something third-party early
        for dotted in self.wanted(module, at_load=False):
            if not self.reaches(dotted, set(self.now.loading)):
                self.try_silent(module, dotted, waiting)
        pending: list[int] = []
        for index, statement in enumerate(module.body):
            if index in module.dead:
                pending.append(index)
                continue
            for site in self.now.names[name].sites_at_load.get(index, []):
                pending = self.load_imports(module, site, pending)
                self.expand_star(module, site)
            for site in self.now.names[name].sites_at_load.get(index, []):
                self.now.unfinished[site] = frozenset(self.now.loading)
                if not self.is_standard(site):
                    targets = [self.library.target(module, use) for use in site.uses]
                    self.now.outside |= {
                        target.module.partition(".")[0] for target in targets if isinstance(target, External)
                    }
                apart = any(dotted in self.library.apart for dotted in self.library.named(module, site.node))
                modules_only = isinstance(site.node, ast.Import) and self.is_standard(site)
                if site.plain and not apart and (not self.now.disturbed or modules_only):
                    self.now.hoisted.add(site)
                self.now.disturbed |= apart  # a module in modules style may do anything when it is loaded
            if isinstance(statement, ast.Import | ast.ImportFrom):
                for dotted in list(waiting):
                    self.try_silent(module, dotted, waiting)
            if not self.purity.before_imports(module, statement):
                self.now.disturbed = True
            self.now.events += 1
            self.now.bound_at[name, index] = self.now.events
            pending.append(index)
        for error in waiting.values():
            raise error
        self.flush(module, pending)
        self.now.loading.remove(name)
        self.now.events += 1
        self.now.loaded[name] = self.now.events
        self.now.late += [(module, dotted) for dotted in self.wanted(module, at_load=False)]
        self.now.late = [(importer, dotted) for importer, dotted in self.now.late if dotted not in self.now.loaded]
        for importer, dotted in list(self.now.late):
            if not self.reaches(dotted, set(self.now.loading)):
                self.load_silent(importer, dotted)

    def load_imports(self, module: Module, site: ImportSite, pending: list[int]) -> list[int]:
        """Loads what an import statement needs.

        Args:
            module: in which the statement stands.
            site: the statement.
            pending: the statements of the module that have run and are in no chunk yet.

        Returns:
            Those of `pending` that are still in no chunk.
        """
        for dotted in self.modules_of(module, site):
            if dotted in self.now.loaded or dotted in self.now.loading:
                continue
            if site.conditional:
                self.load_silent(module, dotted, site)
                continue
            effects = not all(
                self.purity.movable(module, module.body[index]) for index in pending if index not in module.dead
            )
            if effects or self.reaches(dotted, set(self.now.loading)):
                if pending and last_line(module.body[pending[-1]]) >= module.body[site.index].lineno:
                    module.refuse(site.node, "an import in the middle of a line", "use a line for each statement")
                self.flush(module, pending)
                pending = []
            self.load(dotted)
        return pending

    def try_silent(self, module: Module, dotted: str, waiting: dict[str, BuildError]) -> None:
        """Loads a module before Python would; it waits if only what it imports would come early."""
        before = self.now.copy()
        try:
            self.load_silent(module, dotted)
            waiting.pop(dotted, None)
        except BuildError as error:
            if not self.now.early:
                raise
            waiting[dotted] = error
            self.now = before
            self.purity.names = before.names

    def load_silent(self, module: Module, dotted: str, site: ImportSite | None = None) -> None:
        """Loads a module before Python would, which may never load it: it must do nothing but define."""
        if dotted in self.now.loaded or dotted in self.now.loading:
            return
        before, known, self.now.early = len(self.now.chunks), set(self.now.outside), list[str]()
        self.load(dotted)
        loaded = {chunk.module.name: chunk.module for chunk in self.now.chunks[before:]}
        some = {
            name
            for each in loaded.values()
            for node in self.sites(each)
            for name in self.library.named(each, node.node)
        }
        self.now.early = sorted(self.now.outside - known | some & NOT_EVERYWHERE)
        if self.now.early:
            reason = f"{dotted} is imported late, and it imports {self.now.early[0]}, which would come early"
            module.refuse(self.import_of(module, dotted, site), reason, "import it at the head of the module", dotted)
        for chunk in self.now.chunks[before:]:
            for index in chunk.indices:
                statement = chunk.module.body[index]
                if index not in chunk.module.dead and not self.purity.movable(chunk.module, statement):
                    where = f"{chunk.module.label}:{statement.lineno}"
                    reason = f"{dotted} is imported late, and loading it has effects ({where}), which would come early"
                    remedy = "import it at the head of the module"
                    module.refuse(self.import_of(module, dotted, site), reason, remedy, blame=dotted)

    def import_of(self, module: Module, dotted: str, site: ImportSite | None) -> ast.stmt:
        """The statement by which a module imports another: that of `site`, or the first that there is."""
        sites = [site] if site else [s for s in self.sites(module) if dotted in self.modules_of(module, s)]
        return sites[0].node

    def flush(self, module: Module, indices: list[int]) -> None:
        """Makes a chunk of some statements, if there are any."""
        if indices:
            self.now.chunks.append(Chunk(module, indices))

    def sites(self, module: Module) -> list[ImportSite]:
        """The import statements of a module."""
        return self.now.names[module.name].sites

    def is_standard(self, site: ImportSite) -> bool:
        """Whether a statement imports from the standard library only."""
        node = site.node
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        return all(name.partition(".")[0] in sys.stdlib_module_names for name in names)

    def wanted(self, module: Module, at_load: bool) -> list[str]:
        """What a module imports while it is loaded, or in functions, and is not loaded yet."""
        found = [
            dotted for site in self.sites(module) if site.at_load == at_load for dotted in self.modules_of(module, site)
        ]
        return [
            dotted
            for dotted in dict.fromkeys(found)
            if dotted not in self.now.loaded and dotted not in self.now.loading
        ]

    def modules_of(self, module: Module, site: ImportSite) -> list[str]:
        """The modules of the packages that an import statement loads, in order."""
        node, found = site.node, []
        if isinstance(node, ast.Import):
            for alias in node.names:
                if self.library.is_flat(alias.name):
                    self.require(module, node, alias.name)
                    found.append(alias.name)
            return found
        origin = self.library.origin(module, node)
        if origin == NOWHERE:
            module.refuse(
                node, "the relative import leaves the package", "write fewer dots, or import by the full name"
            )
        if not self.library.is_flat(origin):
            return []
        self.require(module, node, origin)
        found.append(origin)
        source = self.now.names[origin]
        for alias in node.names:
            dotted = f"{origin}.{alias.name}"
            if alias.name == "*" or not source.module.is_package or not self.library.find(dotted):
                continue
            if alias.name not in source.bindings or self.is_own_submodule(module, origin, alias.name):
                found.append(dotted)
        return found

    def is_own_submodule(self, module: Module, origin: str, name: str) -> bool:
        """Whether `from . import name` in a package's `__init__` can only be its sub-module: nothing else binds it."""
        if origin != module.name or not self.library.find(f"{origin}.{name}"):
            return False
        bound = self.now.names[module.name].bindings[name]
        return all(
            use.action == "import"
            and isinstance(use.node, ast.ImportFrom)
            and use.alias.name == name
            and self.library.origin(module, use.node) == origin
            for use in bound
        )

    def require(self, module: Module, node: ast.Import | ast.ImportFrom, dotted: str) -> None:
        """Raises a `BuildError` if a module of the packages does not exist."""
        if not self.library.find(dotted):
            module.refuse(
                node, f"there is no module {dotted}", "correct the import; optional modules are not supported"
            )

    def reaches(self, dotted: str, goals: set[str]) -> bool:
        """Whether loading a module leads, by imports at module level, to one of `goals`."""
        seen, todo = set(), [dotted]
        while todo:
            name = todo.pop()
            if name in seen or name in self.now.loaded:
                continue
            seen.add(name)
            module = self.now.names[name].module
            for site in self.sites(module):
                if site.at_load:
                    found = self.modules_of(module, site)
                    if isinstance(site.node, ast.ImportFrom) and len(found) > len(site.node.names):
                        found = found[1:]  # from . import b: the package itself is not used, only its sub-module
                    if goals & set(found):
                        return True
                    todo += found
        return False

    def expand_star(self, module: Module, site: ImportSite) -> None:
        """Puts the names that `from x import *` binds into the table of the module's names."""
        node = site.node
        if not isinstance(node, ast.ImportFrom) or node.names[0].name != "*":
            return
        origin = self.library.origin(module, node)
        if self.library.contains(origin) and not self.library.is_flat(origin):
            module.refuse(node, f"it is not known which names `from {origin} import *` binds", "name them")
        if not self.library.contains(origin):
            self.now.names[module.name] = self.now.names[module.name].with_star(
                site, self.names_from_outside(module, site)
            )
            return
        if origin in self.now.loading:
            module.refuse(node, f"{origin} is still loading when all its names are imported", "name them")
        for inner in self.sites(self.now.names[origin].module):
            if inner.node.names[0].name == "*" and not self.library.is_flat(
                self.library.named(self.now.names[origin].module, inner.node)[0]
            ):
                self.now.names[origin].module.refuse(
                    inner.node, "the names of a star are imported by another", "name them"
                )
        imported = self.public_names(self.now.names[origin].module)
        self.now.names[module.name] = self.now.names[module.name].with_star(site, imported)

    def names_from_outside(self, module: Module, site: ImportSite) -> list[str]:
        """The names that a module can only have from `from x import *`, where x is not flat: it reads them.

        Raises:
            BuildError: if it is open which names those are, since others may be meant as well.
        """
        names = self.now.names[module.name]
        origin = self.library.origin(module, site.node) if isinstance(site.node, ast.ImportFrom) else ""
        unknown = f"it is not known which names `from {origin} import *` binds"
        starred = [other for other in names.sites if any(alias.name == "*" for alias in other.node.names)]
        read = {use.name for use in names.uses if use.owner.kind == "module" and use.action == "load"}
        early = {name for name, bound in names.bindings.items() if any(use.index < site.index for use in bound)}
        known = {name for name in read if hasattr(builtins, name) and not is_own_of_python(name, origin)}
        open_names = sorted(read & early | known - names.bindings.keys())
        if len(starred) > 1 or not site.plain:
            module.refuse(site.node, unknown, "name them")
        if open_names:
            module.refuse(site.node, f"{unknown}, and {open_names[0]!r} may be one of them", "name them")
        found = sorted(
            name for name in read - names.bindings.keys() if not hasattr(builtins, name) and name[:2] != "__"
        )
        if not found:
            module.refuse(site.node, f"{unknown}: this module reads none", "name them")
        return found

    def public_names(self, module: Module) -> list[str]:
        """The names that `from module import *` binds."""
        bindings = self.now.names[module.name].bindings
        exported = bindings.get("__all__")
        if not exported:
            submodules = {name.rpartition(".")[2] for name in self.now.loaded if name.rpartition(".")[0] == module.name}
            return sorted(
                name for name in {*self.now.names[module.name].bindings, *submodules} if not name.startswith("_")
            )
        statement = module.body[exported[0].index]
        value = getattr(statement, "value", None)
        if len(exported) > 1 or not isinstance(value, ast.List | ast.Tuple):
            module.refuse(statement, "`__all__` is not a plain list of strings", "write one list")
        try:
            return list(ast.literal_eval(value))
        except ValueError:
            module.refuse(statement, "`__all__` is not a plain list of strings", "write one list")


def is_own_of_python(name: str, origin: str) -> bool:
    """Whether a builtin's name that a module reads means the builtin, although it imports a star from `origin`."""
    is_error = isinstance(getattr(builtins, name), type) and issubclass(getattr(builtins, name), BaseException)
    return (is_error or name in NEVER_EXPORTED) and origin.partition(".")[0] not in EXPORTS_BUILTINS
