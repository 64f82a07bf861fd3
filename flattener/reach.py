"""Which modules the entry may load, which other files they may read, and which code would notice the flat form.

Found in the source alone: nothing is run.
"""

import ast
import contextlib
import re
from pathlib import Path

from flattener.errors import BuildError
from flattener.facts import Facts
from flattener.library import Library
from flattener.source import Module, is_docstring, words

TEST_TOOLS = words("pytest unittest nose doctest hypothesis")
SEARCHERS = words("""
    pkgutil pydoc.locate lazy_loader lazy_import attach_stub runpy walk_packages iter_modules find_spec find_loader
    spec_from_file_location module_from_spec
""")
FILE_READERS = words("""
    __file__ __path__ __spec__ __loader__ importlib.resources importlib_resources pkg_resources get_data PackageLoader
    resource_filename resource_string resource_stream getfile getsourcefile co_filename find_spec attach_stub
""")
LISTERS = words("listdir scandir glob iglob rglob iterdir walk")
METADATA_READERS = words("importlib.metadata importlib_metadata pkg_resources")
PROCESS_STARTERS = words("subprocess Popen system spawnv execv")
# Code that reads these sees that the modules have become one: where a class or function comes from, its source, its
# callers. cloudpickle is not among them: it sends what the main program defines by value, so that the process that
# receives it needs no module.
OBSERVERS = frozenset(["filterwarnings of a module"]) | words("""
    __module__ __globals__ sys.modules pickle cPickle dill joblib shelve copyreg marshal
    getsource getsourcelines getsourcefile getfile getmodule getmodulename getmembers currentframe _getframe
    inspect.stack extract_stack walk_stack setprofile settrace global_enum .__repr__ allow_pickle
    read_pickle to_pickle torch.load torch.save co_filename
""")
DEPRECATIONS = words("DeprecationWarning PendingDeprecationWarning")
LOG_PLACE = re.compile(r"%\((?:module|filename|pathname|lineno)\)|\{(?:module|filename|pathname|lineno)[}:!]")


class Reach:
    """The modules that the entry may load, in load order, dependencies first.

    Every import statement counts, wherever it stands, and every string that names a module. Where a module is imported
    by a name computed at run time, it may be any, so that all modules of the package count. They all count for a suite
    of tests, too. A `tests` folder inside a package counts only if a module in it is named.

    Attributes:
        facts: module, or `__main__` -> what its source says.
        modules: name -> `Module`, without the entry.
        unreadable: files that this Python cannot read as modules; they are shipped as they are.
        suite: whether the entry is a suite of tests.
        searched: package -> the place that may import any of its modules.
        files: the packages' other files that a module may read: path in the output -> content.
        starts_processes: whether the program may start Python anew, which then has to find the modules.
        names_package: whether it then names one of the packages.
        reason: why no module can be flat; empty if some can.
    """

    def __init__(self, library: Library, form: str) -> None:
        self.library, self.form = library, form
        self.facts: dict[str, Facts] = {}
        self.modules: dict[str, Module] = {}
        self.unreadable: list[Path] = []
        self.tops = f"(?:{'|'.join(map(re.escape, library.packages)) or '!'})"  # a pattern for any package's name
        self.dotted_name = re.compile(rf"\b{self.tops}(?:\.[^\W\d]\w*)+")
        self.suite = self.is_suite(self.facts_of("__main__"))
        self.visit("__main__")
        self.searched: dict[str, str] = {}
        for top in sorted(library.packages):
            self.visit_searched(top)
        self.files = self.find_files()
        for content in list(self.files.values()):  # a configuration may name classes: {"target": "pkg.models.Unet"}
            for dotted in self.dotted_name.findall(content.decode("utf-8", "ignore")) if len(content) < 100_000 else []:
                self.visit_longest(dotted)
        all_words: set[str] = set().union(*(facts.words for facts in self.facts.values()))
        self.starts_processes = bool(PROCESS_STARTERS & all_words) and "executable" in all_words
        self.names_package = self.starts_processes and self.finds_package_for_python()
        for top in library.packages if self.names_package else []:
            self.visit_all(top)
        self.reason = self.find_reason()

    def visit_searched(self, top: str) -> None:
        """Visits all modules of a package if some code may import any of them; records that code in `searched`."""
        for name in ["__main__", *self.modules]:
            if name in ("__main__", top) or name.startswith(f"{top}."):
                line = self.searches(name)
                if line and top not in self.searched:
                    label = self.library.source(name).label
                    self.searched[top] = f"{label}:{line}: may import any module of {top}"
        if self.suite or top in self.searched:
            self.visit_all(top)

    def finds_package_for_python(self) -> bool:
        """Whether some string names a package as Python's command line or a statement does.

        In a statement, after -m, or followed by a dot or a slash: a package's name in prose starts nothing.
        """
        texts = [text for facts in self.facts.values() for text in facts.strings]
        pattern = rf"\b(?:import|from|-m)\b.*\b{self.tops}\b|\b{self.tops}[./]\w"
        if "-m" in texts:
            pattern += rf"|\A{self.tops}\Z"
        return any(re.search(pattern, text) for text in texts)

    def facts_of(self, name: str) -> Facts:
        """What the source of a module says about modules."""
        if name not in self.facts:
            self.facts[name] = Facts(self.library.source(name))
        return self.facts[name]

    def is_suite(self, facts: Facts) -> bool:
        """Whether an entry imports a tool for tests."""
        imported = [alias.name for node in facts.imports for alias in node.names if isinstance(node, ast.Import)]
        imported += [node.module or "" for node in facts.imports if isinstance(node, ast.ImportFrom)]
        return any(name.partition(".")[0] in TEST_TOOLS for name in imported)

    def searches(self, name: str) -> int:
        """The line in which a module may import modules that its source does not name; 0: nowhere."""
        facts = self.facts[name]
        found = [facts.words[word] for word in SEARCHERS & set(facts.words)]
        if name != "__main__" and "__file__" in facts.words and LISTERS & set(facts.words):
            found.append(facts.words["__file__"])
        return facts.names_modules or min(found, default=0)

    def visit(self, name: str) -> None:
        """Adds what a module imports, then the module."""
        if name in self.modules or (name != "__main__" and not self.library.find(name)):
            return
        parent = name.rpartition(".")[0]
        if parent:
            self.visit(parent)
            if name in self.modules:
                return
        try:
            module = self.library.source(name)
        except BuildError:  # a template, or a file for another Python
            path = self.library.path_of(name)
            self.unreadable += [path] if path else []
            return
        facts = self.facts_of(name)
        if name != "__main__":
            self.modules[name] = module  # before its imports, which may lead back to it; moved to its place below
        for node in facts.imports:
            for dotted in self.library.named(module, node):
                if self.library.lies_outside(dotted):
                    reason = f"{dotted} lies outside of the packages and is not shipped"
                    module.refuse(node, reason, "move it into one")
            for dotted in self.imported(module, node):
                self.visit(dotted)
        for text in facts.strings:
            for dotted in self.dotted_name.findall(text):
                self.visit_longest(dotted)
        if name != "__main__":
            self.modules[name] = self.modules.pop(name)

    def imported(self, module: Module, node: ast.Import | ast.ImportFrom) -> list[str]:
        """The modules of the packages that an import statement may load and that exist."""
        library = self.library
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            origin = library.origin(module, node)
            found = [origin]
            for alias in node.names:
                if alias.name != "*":
                    found.append(f"{origin}.{alias.name}")
                elif library.contains(origin) and library.find(origin):
                    # A star takes the sub-modules that __all__ names.
                    names = [text for text in self.facts_of(origin).strings if text.isidentifier()]
                    found += [f"{origin}.{name}" for name in names]
        return [dotted for dotted in found if library.contains(dotted) and library.find(dotted)]

    def visit_longest(self, dotted: str) -> None:
        """Visits the module that a dotted name begins with: `pkg.models` of `pkg.models.Unet`."""
        parts = dotted.split(".")
        for count in range(len(parts), 1, -1):
            if self.library.find(".".join(parts[:count])):
                self.visit(".".join(parts[:count]))
                return

    def visit_all(self, top: str) -> None:
        """Visits all modules of a package, apart from its tests."""
        base = self.library.packages[top]
        for path in sorted(base.rglob("*.py")) if base.is_dir() else []:
            parts = [top, *path.relative_to(base).with_suffix("").parts]
            if {"tests", "test"} & set(parts[1:-1]):
                continue
            if not all(part.isidentifier() for part in parts):
                self.unreadable.append(path)  # no import statement can name it
                continue
            if parts[-1] == "__init__":
                parts.pop()
            self.visit(".".join(parts))

    def find_reason(self) -> str:
        """Which code would notice that the modules have become one; empty if there is none."""
        if self.names_package:
            return "it starts Python anew and names a package there"
        if self.unreadable:
            return f"{self.unreadable[0].name} cannot be read by this Python"
        if self.suite:
            return f"{self.library.entry.label} is a suite of tests, which may look at a module from all sides"
        classes = {
            node.name for module in self.modules.values() for node in module.body if isinstance(node, ast.ClassDef)
        }
        for name in ["__main__", *self.modules]:
            facts, label = self.facts[name], self.library.source(name).label
            for word, line in facts.words.items():
                if word in OBSERVERS or (word.startswith("shown ") and word[6:] in classes):
                    return f"{label}:{line}: {word.removeprefix('shown ')} shows where a class or function comes from"
            if name != "__main__" and "warn" in facts.words and DEPRECATIONS & set(facts.words):
                return f"{label}: a DeprecationWarning is shown where the main program causes it, and only there"
            if any(LOG_PLACE.search(text) for text in facts.strings):
                return f"{label}: log messages show in which file they were made"
            if facts.shows_class:
                return f"{label}:{facts.shows_class}: a class is shown with its module's name"
            if self.form == "notebook" and {"multiprocessing", "concurrent"} & set(facts.words):
                for text in facts.strings:
                    if text in ("spawn", "forkserver"):
                        return f"{label}: {text!r} starts processes that cannot see what a notebook defines"
        return ""

    def find_files(self) -> dict[str, bytes]:
        """The packages' files that are no modules, if some code may read them."""
        found: dict[str, bytes] = {}
        modules = {self.library.path_of(name) for name in self.modules}
        reads = set(self.facts["__main__"].words)
        if ".__file__" not in reads:
            reads.discard("__file__")  # the entry's own
        reads = reads.union(*(self.facts[name].words for name in self.modules))
        texts = {text for facts in self.facts.values() for text in facts.strings}
        for top, base in sorted(self.library.packages.items()):
            mine = any(name.partition(".")[0] == top for name in self.modules)
            if mine and METADATA_READERS & reads:
                found.update(distribution_files(base))
            unreadable = [path for path in self.unreadable if path.is_relative_to(base)]
            found.update((path.relative_to(base.parent).as_posix(), path.read_bytes()) for path in unreadable)
            if not base.is_dir() or not FILE_READERS & reads or not (mine or top in texts):
                continue
            sources = any(".py" in text for text in texts)  # then files of Python code may be read as data
            for path in sorted(base.rglob("*")):
                inside = path.relative_to(base.parent)
                hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts[:-1])
                in_package = path.suffix == ".py" and (path.parent / "__init__.py").is_file()
                skipped = path.suffix in (".pyc", ".so", ".pyd") or path in modules
                skipped |= in_package and not sources and path.stem not in texts
                skipped |= path.suffix == ".pyi" and "attach_stub" not in reads
                if path.is_file() and not hidden and not skipped and path.name != "py.typed":
                    found[inside.as_posix()] = path.read_bytes()
        return found

    def closure(self, apart: set[str]) -> frozenset[str]:
        """The modules that have to be in modules style if those of `apart` are.

        A module in modules style can import only such modules, and its package is one, too. A module below such a
        package can be flat only if the package's own code is empty, and if all flat modules that import it do so by
        `from pkg.module import name`.
        """
        todo, closed = list(apart), set[str]()
        while todo:
            name = todo.pop()
            if name in self.modules and name not in closed:
                closed.add(name)
                parent = name.rpartition(".")[0]
                todo += [parent] if parent else []
                module = self.modules[name]
                for node in self.facts[name].imports:
                    todo += self.imported(module, node)
                if module.is_package and any(not is_docstring(node) for node in module.body):
                    todo += [other for other in self.modules if other.startswith(f"{name}.")]
            if not todo:
                todo += [other for other in self.imported_by_attribute(closed) if other in self.modules]
        return frozenset(closed)

    def imported_by_attribute(self, apart: set[str]) -> list[str]:
        """Flat modules below a package in modules style that some flat module imports as the package's attributes."""
        found: list[str] = []
        for name in ["__main__", *self.modules]:
            if name in apart:
                continue
            module = self.library.source(name)
            for node in self.facts[name].imports:
                wanted = self.imported(module, node)
                wanted = [dotted for dotted in wanted if dotted.rpartition(".")[0] in apart and dotted not in apart]
                if isinstance(node, ast.ImportFrom):
                    wanted = [dotted for dotted in wanted if dotted != self.library.origin(module, node)]
                found += wanted
        return found


def distribution_files(base: Path) -> dict[str, bytes]:
    """The metadata of the installed distribution that a package belongs to, if it lies beside the package."""
    for folder in sorted(base.parent.glob("*.dist-info")):
        with contextlib.suppress(OSError):
            listed = (folder / "RECORD").read_text(encoding="utf-8").splitlines()
            if any(line.startswith((f"{base.name}/", f"{base.name},")) for line in listed):
                names = ("METADATA", "entry_points.txt", "top_level.txt")
                found = {f"{folder.name}/{name}": folder / name for name in names}
                return {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    return {}
