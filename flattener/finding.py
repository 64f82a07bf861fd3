"""From the entry to all modules and files of the program: packages are found until no import is without its module."""

import ast
import bisect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flattener.errors import BuildError
from flattener.facts import IMPORTERS, called_name
from flattener.library import NOWHERE, Library
from flattener.named_files import MOST_BYTES, NamedFiles
from flattener.path_values import PathValues
from flattener.reach import Reach
from flattener.search_path import SearchPath, edits_of_sys_path, shown
from flattener.source import Module, is_type_checking, last_line, last_name, mentions, words
from flattener.trees import walk

NAME_TAKERS = IMPORTERS | {"run_module"}
DOTTED = re.compile(r"(?<![\w./])[^\W\d]\w*(?:\.[^\W\d]\w*)+")
DASH_M = re.compile(r"(?<!\S)-m\s+([\w.]+)")
NOTHING = re.compile(r"(?!)")
MAKES_NAMES = words("globals vars exec eval setattr sys.modules __dict__ __getattr__ __path__ locals")
IMPORT_ERRORS = words("ImportError ModuleNotFoundError Exception BaseException")


@dataclass
class Found:
    """What a look at the modules found besides them.

    Attributes:
        packages: name -> folder or file.
        wanted: modules that a string names, with the place.
        computed: package -> the place that may import any of its modules.
        taken: what there is to tell about the packages.
        looked_up: dotted name -> the folder or file of its package; None: it is none of the user's.
    """

    packages: dict[str, Path] = field(default_factory=dict)
    wanted: dict[str, str] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    looked_up: dict[str, Path | None] = field(default_factory=dict)

    def look_up(self, search: SearchPath, dotted: str) -> Path | None:
        """`search.find(dotted)`, looked up once for all the places that name the module."""
        if dotted not in self.looked_up:
            self.looked_up[dotted] = search.find(dotted)
        return self.looked_up[dotted]


def find_program(library: Library, form: str) -> tuple[Library, Reach]:
    """The library with all packages that the entry reaches, and what it may load.

    Raises:
        BuildError: an import of the user's own that can only fail.
    """
    search = library.search
    if search is None:
        reach = Reach(library, form)
        reach.judge()
        return library, reach
    asked = Found()
    for text in library.keep:
        add_package(library, search, asked, text.partition(":")[0], "--keep")
    library = library.with_more(asked.packages, {}, {}, asked.taken)
    reach = Reach(library, form)
    while True:
        found = look_for_modules(library, reach, search)
        if not (found.packages or found.wanted.keys() - library.wanted.keys() or found.computed):
            if not reach.is_judged:  # only now, since what was found before is looked at anew with each package
                reach.judge()
                continue
            modules = [library.entry, *reach.modules.values()]
            reach.named = NamedFiles(library, modules, search, reach.facts)
            found = look_into_files(library, reach.named, search)
            if not (found.packages or found.wanted.keys() - library.wanted.keys()):
                if reach.named.roots == library.roots:
                    break
                library = library.with_roots(reach.named.roots)
                reach = Reach(library, form)
                continue
        library = library.with_more(found.packages, found.wanted, found.computed, found.taken)
        reach = Reach(library, form, reach.facts)
    reach.warnings = [*check_imports(library, reach), *unreached(library, reach, search), *reach.named.warnings]
    reach.warnings += [*large_files(reach), *test_settings(library, reach, search)]
    return library, reach


# --- packages ---


def look_for_modules(library: Library, reach: Reach, search: SearchPath) -> Found:
    """The packages that the modules import or name, and that the library does not have yet."""
    found = Found()
    modules = [library.entry, *reach.modules.values()]
    values = PathValues(library, modules)
    for module in modules:
        for node, first in edits_of_sys_path(module) if "path" in reach.facts[module.name].words else []:
            for value in values.all_of(module, node):
                for base in (search.here, search.entry.parent):
                    search.add_edit(Path(base, value.text).resolve(), first)
    for module in modules:
        for site in reach.facts[module.name].imports:
            for dotted in imported_names(library, module, site):
                add_package(library, search, found, dotted, f"{module.label}:{site.lineno}")
        look_at_names(library, reach, search, found, module)
    return found


def imported_names(library: Library, module: Module, node: ast.Import | ast.ImportFrom) -> list[str]:
    """All that an import statement may load, by its dotted name."""
    names = library.named(module, node)
    if isinstance(node, ast.ImportFrom):
        names = names + [f"{names[0]}.{alias.name}" for alias in node.names if alias.name != "*"]
    return names


def add_package(library: Library, search: SearchPath, found: Found, dotted: str, where: str) -> bool:
    """Adds the package of a module; returns whether it is one of the user's."""
    top = dotted.partition(".")[0]
    if top in library.packages or top in found.packages:
        return True
    path = found.look_up(search, dotted)
    if path is None:
        return False
    found.packages[top] = path
    if top not in search.given:
        found.taken[top] = f"{shown_as(path, top)} ({where})"
    return True


def shown_as(path: Path, top: str) -> str:
    """A path for a message, with the name of its package where the path does not end in that: `.. as pkg`."""
    text = shown(path)
    return text if Path(text).stem == top else f"{text} as {top}"


def look_at_names(library: Library, reach: Reach, search: SearchPath, found: Found, module: Module) -> None:
    """Looks for modules that a module names in strings, or by names that it computes."""
    facts = reach.facts[module.name]
    starts = DASH_M if reach.starts_processes else NOTHING  # else it is how to use the program
    for text in facts.strings:
        for dotted in DOTTED.findall(text) if "." in text else []:
            add_named(library, search, found, dotted, module.label)
        for dotted in starts.findall(text) if "-m " in text else []:
            add_wanted(library, search, found, dotted, module.label)
    if not ((NAME_TAKERS & set(facts.words)) or "-m" in facts.strings):
        return
    for node in module.nodes:
        if isinstance(node, ast.List | ast.Tuple):
            texts = [part.value if isinstance(part, ast.Constant) else None for part in node.elts]
            for option, dotted in itertools.pairwise(texts):
                if option == "-m" and isinstance(dotted, str):
                    add_wanted(library, search, found, dotted, f"{module.label}:{node.lineno}")
        elif isinstance(node, ast.Call) and called_name(node) in NAME_TAKERS and node.args:
            where = f"{module.label}:{node.lineno}"
            text = known_head(node.args[0])
            if isinstance(node.args[0], ast.Constant):
                add_wanted(library, search, found, text, where)
            elif "." in text.lstrip("."):
                add_computed(library, search, found, text.partition(".")[0], where)
            elif not text.startswith(".") and not is_own_name(node.args[0]) and is_beside_entry(library, module):
                for top in search.all_beside():
                    add_computed(library, search, found, top, where)


def add_named(library: Library, search: SearchPath, found: Found, dotted: str, label: str) -> None:
    """Adds the module that a dotted name in a string begins with, if it is none of the packages that are known."""
    top, *rest = dotted.split(".")
    if top in library.packages:
        return
    for count in range(len(rest), 0, -1):
        part = ".".join([top, *rest[:count]])
        path = found.look_up(search, part)
        if path is None:
            continue
        is_defined = path.is_file() and re.search(
            rf"(?m)^(class|def) {re.escape(rest[0])}\b", path.read_text(encoding="utf-8", errors="replace")
        )
        module = path.joinpath(*rest[:count])
        if is_defined or module.with_name(f"{module.name}.py").is_file() or (module / "__init__.py").is_file():
            add_wanted(library, search, found, top if is_defined else part, label)
            return


def add_wanted(library: Library, search: SearchPath, found: Found, dotted: str, where: str) -> None:
    """Adds a module that is named in full."""
    is_name = all(part.isidentifier() for part in dotted.split("."))
    if is_name and add_package(library, search, found, dotted, where):
        found.wanted[dotted] = where


def add_computed(library: Library, search: SearchPath, found: Found, top: str, where: str) -> None:
    """Adds a package of which any module may be imported."""
    if top in library.computed or not top.isidentifier():
        return
    folder = search.folder_of(top)
    if top not in library.packages and folder:
        found.packages[top] = folder
        found.taken[top] = f"{shown_as(folder, top)} ({where})"
    if top in library.packages or folder:
        found.computed[top] = f"{where}: may import any module of {top}"


def known_head(node: ast.expr) -> str:
    """What a text begins with, as far as the source says."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[first, *_]) | ast.BinOp(op=ast.Add(), left=first):
            return known_head(first)
        case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=str(text))):
            return text.partition("%")[0]
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return text.partition("{")[0]
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value="."), attr="join"), args=[ast.List(elts=[first, *_])]
        ):
            return f"{known_head(first)}."
    return ""


def is_own_name(node: ast.expr) -> bool:
    """Whether a computed name begins with the module's own: f"{__name__}.{x}"."""
    return any(isinstance(part, ast.Name) and part.id in ("__name__", "__package__") for part in walk(node))


def is_beside_entry(library: Library, module: Module) -> bool:
    """Whether a module is the entry, or lies as a single file where the entry finds it: no part of a package."""
    return module.is_entry or ("." not in module.name and not module.is_package)


def look_into_files(library: Library, named: NamedFiles, search: SearchPath) -> Found:
    """The modules that the program's files name: settings by a class's path, code by its imports."""
    found = Found()
    for target, content in sorted({**named.module_files, **named.files}.items()):
        text = content.decode("utf-8", "ignore") if len(content) <= 100_000 else ""
        if target.endswith(".py"):
            try:
                tree = ast.parse(text)
            except (SyntaxError, ValueError):
                continue
            for node in walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*")]
                for dotted in names:
                    path = found.look_up(search, dotted)
                    if dotted.partition(".")[0] in library.packages or path:
                        add_wanted(library, search, found, dotted, target)
            continue
        for dotted in DOTTED.findall(text):
            top, *rest = dotted.split(".")
            if top not in library.packages:
                add_named(library, search, found, dotted, target)
                continue
            for count in range(len(rest), 0, -1):
                part = ".".join([top, *rest[:count]])
                if library.find(part):
                    found.wanted[part] = target
                    break
    return found


# --- what is wrong ---


def unreached(library: Library, reach: Reach, search: SearchPath) -> list[str]:
    """A warning for each package that was given and that nothing reaches."""
    used = [library.packages[name.partition(".")[0]] for name in reach.modules]
    warnings = []
    for given in search.arguments:
        path = search.absolute(given)
        if not any(each == path or each.is_relative_to(path) for each in used):
            warnings.append(
                f"--package {shown(given)}: nothing that {library.entry.label} reaches imports it, so it is not "
                "shipped. Remedy: leave it out, or import it."
            )
    return warnings


def large_files(reach: Reach) -> list[str]:
    """A warning for each large file of a package, all of which travel with it since it may read them."""
    remedy = "Remedy: put it into a Kaggle dataset, and read it from /kaggle/input/NAME."
    sizes = {name: len(content) for name, content in reach.files.items() if len(content) > MOST_BYTES}
    return [
        f"{name}: {size:,} bytes travel with the package, which may read it. {remedy}" for name, size in sizes.items()
    ]


def test_settings(library: Library, reach: Reach, search: SearchPath) -> list[str]:
    """A warning for each file that pytest would read beside a suite of tests, and that is not shipped."""
    folders = [folder for folder in search.entry.parents if folder.is_relative_to(search.home)] if reach.suite else []
    paths = [folder / "conftest.py" for folder in folders if (folder / "conftest.py").is_file()]
    read = reach.named.read if reach.named else set[Path]()
    return [
        f"{library.entry.label}:1: pytest reads {shown(path)}, which is not shipped. Remedy: --data {shown(path)}."
        for path in paths
        if path not in read
    ]


def check_imports(library: Library, reach: Reach) -> list[str]:
    """Refuses imports from the packages that can only fail; returns warnings of those that may.

    What is sure to be run is what stands at the head of the entry, and of the modules that are imported there.
    """
    sure, todo = set[str](), ["__main__"]
    while todo:
        name = todo.pop()
        if name in sure or (name != "__main__" and name not in reach.modules):
            continue
        sure.add(name)
        todo += [name.rpartition(".")[0]] if "." in name else []
        module = library.source(name)
        for node, certainty in imports_of(module):
            todo += reach.imported(module, node) if certainty == "sure" else []
    warnings = []
    lost: dict[str, list[str]] = {}  # what is to be said -> the places
    for name in ["__main__", *reach.modules]:
        module = library.source(name)
        for node, certainty in imports_of(module):
            if certainty == "optional":
                continue
            where = f"{module.label}:{node.lineno}"
            for text in lost_modules(library, module, node, name in sure):
                lost.setdefault(text, []).append(where)
            warnings += [f"{where}: {text}" for text in unreadable_modules(library, reach, module, node)]
            problem = missing(library, reach, module, node)
            if not problem:
                continue
            if certainty == "sure" and name in sure and "compiled" not in problem:
                raise BuildError(where, problem, "correct the import, or catch its ImportError")
            warnings.append(f"{where}: {problem}. Remedy: correct the import, if it is ever run.")
    for text, places in lost.items():
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        warnings.append(f"{places[0]}{more}: {text}")
    return warnings


def imports_of(module: Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """The import statements of a module: "sure" to be run with it, "optional" if failure is caught, else "late"."""
    lines = sorted(node.lineno for node in module.of(ast.Import, ast.ImportFrom))
    for node in module.body:
        at = bisect.bisect_left(lines, node.lineno)
        if at < len(lines) and lines[at] <= last_line(node):
            yield from imports_by_certainty([node], "sure", module.is_entry)


def imports_by_certainty(
    body: list[ast.stmt], certainty: str, is_entry: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """The import statements of some statements, as `imports_of` tells them."""
    for node in body:
        match node:
            case ast.Import() | ast.ImportFrom():
                yield node, certainty
            case ast.Try() | ast.TryStar():
                caught = any(catches_import_errors(handler) for handler in node.handlers)
                yield from imports_by_certainty(node.body, "optional" if caught else certainty, is_entry)
                later = "optional" if certainty == "optional" else "late"
                for part in (*(handler.body for handler in node.handlers), node.orelse):
                    yield from imports_by_certainty(part, later, is_entry)
                yield from imports_by_certainty(node.finalbody, certainty, is_entry)
            case ast.With() | ast.ClassDef():
                suppressed = isinstance(node, ast.With) and mentions(node.items[0].context_expr, "suppress")
                yield from imports_by_certainty(node.body, "optional" if suppressed else certainty, is_entry)
            case ast.If() if is_type_checking(node):
                continue
            case _:
                main_guard = isinstance(node, ast.If) and is_entry and mentions(node.test, "__name__")
                inner = certainty if main_guard else "optional" if certainty == "optional" else "late"
                for name in ("body", "orelse", "cases"):
                    for part in getattr(node, name, []) if isinstance(getattr(node, name, None), list) else []:
                        statements = part.body if isinstance(part, ast.match_case) else [part]
                        yield from imports_by_certainty(statements, inner, is_entry)


def catches_import_errors(handler: ast.ExceptHandler) -> bool:
    """Whether an `except` clause catches what a failed import raises."""
    return handler.type is None or bool(IMPORT_ERRORS & set(map(last_name, walk(handler.type))))


def lost_modules(library: Library, module: Module, node: ast.Import | ast.ImportFrom, is_sure: bool) -> list[str]:
    """What is to be said of the modules that an import names, and that lie where Python would not look for them.

    A module whose import is not sure, and that finds what it imports beside itself, is a script of its own: it is run
    in its folder, or not at all.
    """
    search, found = library.search, list[str]()
    path_of = library.entry_path if module.is_entry else library.path_of(module.name)
    for dotted in library.named(module, node) if not getattr(node, "level", 0) else []:
        beside = path_of.parent if path_of else library.folder
        path = search.lost(dotted, beside) if search and not library.contains(dotted) else None
        own = (
            path is not None and path_of is not None and path_of.is_relative_to(path)
        )  # a package that shares its name
        if path and not own and (is_sure or path.parent != beside):
            remedy = f"Remedy: --package {shown(path)}, if it is this one."
            found.append(f"{dotted} is not where Python looks, and not shipped; it may be {shown(path)}. {remedy}")
    return found


def unreadable_modules(
    library: Library, reach: Reach, module: Module, node: ast.Import | ast.ImportFrom
) -> Iterator[str]:
    """What is to be said of the modules that an import names, and that this Python cannot read."""
    for dotted in library.named(module, node):
        path = library.path_of(dotted) if library.contains(dotted) and library.find(dotted) else None
        if path in reach.unreadable:
            try:
                library.source(dotted)
            except BuildError as error:
                yield f"imports {dotted}, which this Python cannot read, and which is shipped as it is: {error}"


def missing(library: Library, reach: Reach, module: Module, node: ast.Import | ast.ImportFrom) -> str:
    """What an import statement names in the packages and is not there; empty if nothing."""
    for dotted in library.named(module, node):
        if library.contains(dotted) and not library.find(dotted):
            return no_module(library, dotted)
    if isinstance(node, ast.Import):
        return ""
    origin = library.origin(module, node)
    if origin == NOWHERE:
        return "the relative import leaves the package"
    if not library.contains(origin) or origin not in reach.modules:
        return ""
    if MAKES_NAMES & set(reach.facts[origin].words) or any(
        alias.name == "*" for each in reach.facts[origin].imports for alias in each.names
    ):
        return ""
    try:
        bindings = library.names(origin).bindings
    except BuildError:
        return ""
    if "__getattr__" in bindings:
        return ""
    for alias in node.names:
        dotted = f"{origin}.{alias.name}"
        known = alias.name == "*" or alias.name.startswith("__") or alias.name in bindings or library.find(dotted)
        if not known:
            compiled = no_module(library, dotted)
            return compiled if "compiled" in compiled else f"{origin} has no {alias.name!r}"
    return ""


def no_module(library: Library, dotted: str) -> str:
    """Says that a module of the packages does not exist, or that it is compiled."""
    base = library.packages[dotted.partition(".")[0]]
    path = base.joinpath(*dotted.split(".")[1:])
    compiled = [each for ending in (".*so", ".pyd", ".pyx") for each in path.parent.glob(path.name + ending)]
    if compiled:
        return f"{dotted} is compiled ({compiled[0].name}), and is not shipped"
    return f"there is no module {dotted}"
