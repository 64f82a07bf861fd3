"""Which modules the entry may load, which other files they may read, and which code would notice the flat form.

Found in the source alone: nothing is run.
"""

import ast
import contextlib
import posixpath
import re
from pathlib import Path

from flattener.errors import BuildError
from flattener.facts import Facts, find_facts
from flattener.library import Library
from flattener.named_files import NamedFiles
from flattener.observers import Notice, find_notices, find_pools, longest_module, show_classes
from flattener.source import Module, is_docstring, words
from flattener.values import Values

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
PROCESS_STARTERS = words("""
    subprocess Popen popen system spawnv spawnl spawnlp spawnvp posix_spawn execv execl execvp execlp
    create_subprocess_exec create_subprocess_shell pexpect plumbum getoutput getstatusoutput
""")


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
        named: the files that the program's source names; None: they were not looked for.
        warnings: of what is left out.
        files: the packages' other files that a module may read: path in the output -> content.
        starts_processes: whether the program may start Python anew, which then has to find the modules.
        names_package: whether it then names one of the packages.
        notices: the code that would notice the flat form, without that which the user trusts.
        reason: why no module can be flat; empty if some can.
        reasons: module -> why this one cannot.
        shows: module a class of which may be shown with the module's name -> the place that shows it.
        pools: words of what may send functions and objects to other processes.
        opens: whether something may name what no source mentions, so that nothing may be left out.
        is_judged: whether the last six are known; `judge` finds them, which takes longer than all that is before.
    """

    def __init__(self, library: Library, form: str, facts: dict[str, Facts] | None = None) -> None:
        self.library, self.form, self.trust = library, form, library.trust
        self.facts = dict(facts or {})
        self.named: NamedFiles | None = None
        self.warnings: list[str] = []
        self.modules: dict[str, Module] = {}
        self.unreadable: list[Path] = []
        self.indexed: Values | None = None
        self.tops = f"(?:{'|'.join(map(re.escape, library.packages)) or '!'})"  # a pattern for any package's name
        self.dotted_name = re.compile(rf"\b{self.tops}(?:\.[^\W\d]\w*)+")
        self.suite = self.is_suite(self.facts_of("__main__"))
        self.visit("__main__")
        for dotted in library.wanted:
            self.visit(dotted)
        self.searched = dict(library.computed)
        for top in sorted(library.packages):
            self.visit_searched(top)
        self.files = self.find_files()
        for content in list(self.files.values()):  # a configuration may name classes: {"target": "pkg.models.Unet"}
            for dotted in self.dotted_name.findall(content.decode("utf-8", "ignore")) if len(content) < 100_000 else []:
                self.visit_longest(dotted)
        self.starts_processes = bool(PROCESS_STARTERS & self.all_words())
        self.names_package = self.starts_processes and "-m" not in self.trust and self.finds_package_for_python()
        for top in library.packages if self.names_package else []:
            self.visit_all(top)
        self.kept = self.find_kept()
        self.notices: list[Notice] = []
        self.is_judged = False

    def judge(self) -> None:
        """Finds what would notice the flat form; where that may name anything, all modules are added."""
        library = self.library
        self.is_judged = True
        self.notices = self.find_notices()
        if any(notice.opens for notice in self.notices):
            known = len(self.modules)
            for top in library.packages:
                self.visit_all(top)
            self.notices = self.find_notices() if len(self.modules) > known else self.notices
            self.files = self.find_files()
        self.opens = self.names_package or bool(self.searched) or any(notice.opens for notice in self.notices)
        self.opens = self.opens or self.hands_out_modules()
        everything = {name: self.facts[name] for name in ["__main__", *self.modules]}
        self.shows = show_classes(library, everything, self.modules, self.values) if "type" not in self.trust else {}
        self.pools = find_pools(everything)
        self.reason = self.find_reason()
        self.reasons = {name: notice.text for notice in reversed(self.notices) for name in notice.modules or ()}
        self.reasons |= dict.fromkeys(self.kept, "--keep")

    def find_notices(self) -> list[Notice]:
        """See `notices`."""
        found = find_notices(self.library, self.facts, self.modules, self.values, self.form)
        return [notice for notice in found if notice.word not in self.trust]

    def values(self) -> Values:
        """The index of the values of the program, as far as its modules are known."""
        if self.indexed is None or self.indexed.modules.keys() - {"__main__"} != self.modules.keys():
            self.indexed = Values(self.library, [self.library.entry, *self.modules.values()])
        return self.indexed

    def hands_out_modules(self) -> bool:
        """Whether a module of the packages is given to a call: others may then look up anything in it by its name."""
        for name in ["__main__", *self.modules]:
            facts, module = self.facts[name], self.library.source(name)
            bound: dict[str, str] = {}
            for site in facts.imports:
                for alias in site.names:
                    if isinstance(site, ast.ImportFrom):
                        bound[alias.asname or alias.name] = f"{self.library.origin(module, site)}.{alias.name}"
                    else:
                        dotted = alias.name if alias.asname else alias.name.partition(".")[0]
                        bound[alias.asname or dotted] = dotted
            for node in facts.handed:
                parts: list[str] = []
                root: ast.expr = node
                while isinstance(root, ast.Attribute):
                    parts.insert(0, root.attr)
                    root = root.value
                start = bound.get(getattr(root, "id", ""), "")
                if self.library.contains(start) and self.library.find(".".join([start, *parts])):
                    return True
        return False

    def find_kept(self) -> dict[str, set[str]]:
        """The modules that `--keep module:Name` names, which are added, and the names; without a name all of them."""
        found: dict[str, set[str]] = {}
        for text in self.library.keep:
            dotted, _, name = text.partition(":")
            if not self.library.path_of(dotted):
                raise BuildError(f"--keep {text}", f"there is no module {dotted}", "write pkg.module:Name")
            self.visit(dotted)
            bound = self.library.names(dotted).bindings
            if name and name.partition(".")[0] not in bound:
                raise BuildError(f"--keep {text}", f"{dotted} has no {name}", "write pkg.module:Name")
            found.setdefault(dotted, set()).update([name.partition(".")[0]] if name else bound)
        return found

    def visit_searched(self, top: str) -> None:
        """Visits all modules of a package if some code may import any of them; records that code in `searched`."""
        for name in ["__main__", *self.modules]:
            if name in ("__main__", top) or name.startswith(f"{top}."):
                line = self.searches(name, top) if "import" not in self.trust else 0
                if line and top not in self.searched:
                    label = self.library.source(name).label
                    self.searched[top] = f"{label}:{line}: may import any module of {top}"
        if self.suite or top in self.searched:
            self.visit_all(top)

    def finds_package_for_python(self) -> bool:
        """Whether some string names a package as Python's command line or a statement does.

        In a statement, after -m, or followed by a dot or a slash: a package's name in prose starts nothing.
        """
        if any(facts.runs_module for facts in self.facts.values()):
            return True
        texts = [text for facts in self.facts.values() for text in facts.strings]
        if self.form == "script":
            self.refuse_started_files()
        pattern = rf"(?:\b(?:import|from)|(?<!\S)-m)\b.*\b{self.tops}\b|\b{self.tops}(?:/\w+)+\.py\b"
        if "-m" in texts:
            pattern += rf"|\A{self.tops}\Z"
        named = [dotted for text in texts for dotted in self.dotted_name.findall(text)]
        return any(re.search(pattern, text) for text in texts) or any(
            longest_module(self.library, dotted) for dotted in named
        )

    def refuse_started_files(self) -> None:
        """Raises a `BuildError` if a new process runs a module as a file: a script's modules lie in another folder."""
        path = re.compile(
            rf"(?:\A|(?:python|torchrun|launch|deepspeed|sh)\b.*\s)((?:\./)?{self.tops}(?:/\w+)+\.py)(?:\Z|\s)"
        )
        for name, facts in self.facts.items():
            for text in facts.strings:
                found = path.search(text)
                if found:
                    module = self.library.source(name)
                    line = next((i for i, row in enumerate(module.lines, 1) if found[1] in row), 1)
                    reason = (
                        f"{found[1]} is started as a file, which a script has only while it runs, in another folder"
                    )
                    module.refuse(line, reason, "start it by `-m`, or build a .ipynb file")

    def facts_of(self, name: str) -> Facts:
        """What the source of a module says about modules."""
        if name not in self.facts:
            self.facts[name] = find_facts(self.library.source(name))
        return self.facts[name]

    def all_words(self) -> set[str]:
        """The words of the entry and of all modules."""
        return set().union(*(facts.words for facts in self.facts.values()))

    def all_strings(self) -> set[str]:
        """The strings of the entry and of all modules, but for docstrings."""
        return {text for facts in self.facts.values() for text in facts.strings}

    def is_suite(self, facts: Facts) -> bool:
        """Whether an entry imports a tool for tests."""
        imported = [alias.name for node in facts.imports for alias in node.names if isinstance(node, ast.Import)]
        imported += [node.module or "" for node in facts.imports if isinstance(node, ast.ImportFrom)]
        return any(name.partition(".")[0] in TEST_TOOLS for name in imported)

    def searches(self, name: str, top: str) -> int:
        """The line in which a module may import modules of a package that its source does not name; 0: nowhere."""
        facts = self.facts[name]
        found = [facts.words[word] for word in SEARCHERS & set(facts.words)]
        listed = LISTERS & set(facts.words) and "__all__" in facts.stored  # `__all__` is what a star imports
        if name != "__main__" and "__file__" in facts.words and listed:
            found.append(facts.words["__file__"])
        found += [line for dotted, line in facts.outside_importers.items() if not self.library.contains(dotted)]
        found += [facts.joined[text] for text in (top, f"{top}.") if text in facts.joined]
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
        if base.is_file():
            self.visit(top)
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
        return next((notice.text for notice in self.notices if notice.modules is None), "")

    def undecided(self) -> list[str]:
        """A line for each place that only the user can decide, with the word for `--trust`."""
        notes = [f"{notice.undecided}; `--trust {notice.word}` if that is harmless" for notice in self.notices
                 if notice.undecided]  # fmt: skip
        notes += [f"{reason}; `--trust import` if it does not" for reason in self.searched.values()]
        return list(dict.fromkeys(notes))

    def find_files(self) -> dict[str, bytes]:
        """The packages' files that are no modules, if some code may read them."""
        found: dict[str, bytes] = {}
        modules = {self.library.path_of(name) for name in self.modules}
        reads = set(self.facts["__main__"].words)
        if ".__file__" not in reads:
            reads.discard("__file__")  # the entry's own
        reads = reads.union(*(self.facts[name].words for name in self.modules))
        texts = self.all_strings()
        for top, base in sorted(self.library.packages.items()):
            mine = any(name.partition(".")[0] == top for name in self.modules)
            root = self.library.roots.get(top, "")
            if mine and METADATA_READERS & reads:
                found.update(
                    (posixpath.join(root, name), content) for name, content in distribution_files(base).items()
                )
            unreadable = [path for path in self.unreadable if path.is_relative_to(base)]
            inside = {path: posixpath.join(root, path.relative_to(base.parent).as_posix()) for path in unreadable}
            found.update((name, path.read_bytes()) for path, name in inside.items())
            if not base.is_dir() or not FILE_READERS & reads or not (mine or top in texts):
                continue
            sources = any(".py" in text for text in texts)  # then files of Python code may be read as data
            for path in sorted(base.rglob("*")):
                below = path.relative_to(base.parent)
                hidden = any(part.startswith(".") or part == "__pycache__" for part in below.parts[:-1])
                in_package = path.suffix == ".py" and self.is_module(below)
                skipped = path.suffix in (".pyc", ".so", ".pyd") or path in modules
                skipped |= in_package and not sources and path.stem not in texts
                skipped |= path.suffix == ".pyi" and "attach_stub" not in reads
                if path.is_file() and not hidden and not skipped and path.name != "py.typed":
                    found[posixpath.join(root, below.as_posix())] = path.read_bytes()
        return found

    def is_module(self, inside: Path) -> bool:
        """Whether a path, from the folder around a package, is that of a module: it travels as one, or not at all.

        In a folder without `__init__.py` it may be a template as well, if some code lists folders.
        """
        parts = [*inside.parent.parts, *([] if inside.stem == "__init__" else [inside.stem])]
        place = self.library.find(".".join(parts))
        in_package = (self.library.packages[parts[0]].parent / inside.parent / "__init__.py").is_file()
        lists = any(LISTERS & facts.words.keys() for facts in self.facts.values())
        return all(part.isidentifier() for part in parts) and place is not None and (in_package or not lists)

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
