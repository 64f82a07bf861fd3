"""Where the user's own modules lie: in the packages that are given, and where Python would look at the desk."""

import ast
import functools
import os
import re
import sys
from pathlib import Path

from flattener.errors import BuildError
from flattener.facts import called_name
from flattener.source import Module, words
from flattener.trees import walk

PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "environment.yml")
LOADED_EARLY = words("""
    abc codecs encodings genericpath io ntpath os posixpath site stat types enum re functools collections operator
    keyword reprlib warnings contextlib importlib runpy __future__ linecache zipimport
""")
ADDERS = words("append insert extend addsitedir")
SYSTEM = ("/dev/", "/proc/", "/sys/", "/etc/", "/usr/", "/bin/", "/kaggle/")  # folders that are not the user's
MOST_FOLDERS = 2000  # of a project that are searched for a module that no import finds


class SearchPath:
    """The folders in which an import may find a module of the user's, in Python's order, and the packages given.

    Attributes:
        entry: the script.
        here: the working folder.
        arguments, data: what `--package` and `--data` name, as given.
        given: the packages named by `--package`: name -> folder or file.
        holders: folders named by `--package` that are no packages, and may hold some.
        before, after: folders that the program puts at the head and at the end of `sys.path`.
        home: the folder of the whole project.
    """

    def __init__(
        self, entry: Path, given: list[Path], data: list[Path] | None = None, here: Path | None = None
    ) -> None:
        self.entry, self.here, self.data = entry, here or Path.cwd(), data or []
        here = self.here
        self.given: dict[str, Path] = {}
        self.holders: list[Path] = []
        self.arguments = given
        self.before: list[Path] = []
        self.after: list[Path] = []
        self.runs_as_module = False  # as by `python -m pkg.train`: the entry's folder is then none of those looked in
        for path in given:
            self.give(path)
        self.home = project_folder(entry, here)
        above = [folder for folder in entry.parents if folder.is_relative_to(self.home)]
        near = here.is_relative_to(self.home) or entry.is_relative_to(here)
        around = list(dict.fromkeys([*([here] if near else []), *above]))
        self.possible = [part for folder in around for part in (folder, folder / "src")]
        self.editable, folders = editable_installs()
        self.possible += folders

    def absolute(self, path: Path) -> Path:
        """The place of an argument; a symbolic link is imported under its own name, not under its target's."""
        absolute = Path(os.path.abspath(path))
        return absolute.parent if absolute.name == "__init__.py" else absolute

    def give(self, path: Path) -> None:
        """Takes an argument of `--package`."""
        absolute = self.absolute(path)
        if not absolute.exists():
            raise BuildError(f"--package {path}", "does not exist", "give the folder of a package, or a .py file")
        if absolute.is_file() and absolute.suffix != ".py":
            raise BuildError(f"--package {path}", "is no Python file", f"ship other files by --data {path}")
        name = absolute.name.removesuffix(".py") if absolute.is_file() else absolute.name
        if absolute.is_dir() and not (absolute / "__init__.py").is_file():
            self.holders.append(absolute)
            return
        other = self.given.get(name)
        if other is not None and other.resolve() != absolute.resolve():
            reason = f"{shown(other)} has the name {name!r}, too, and Python would import only one of them"
            raise BuildError(f"--package {path}", reason, "give one, or rename a folder")
        self.given[name] = absolute

    def package_of_entry(self, relative: int) -> tuple[str, Path]:
        """Name and folder of the package of an entry with relative imports, of `relative` dots at most.

        It is the topmost one, or the one in the working folder: `python -m pkg.train` is typed where `pkg` lies.
        """
        self.runs_as_module = True
        folder = self.entry.parent
        for count in range(1, 100):
            is_package = (folder.parent / "__init__.py").is_file()
            if count >= relative and (not is_package or folder.parent == self.here):
                break
            folder = folder.parent
        if not (folder / "__init__.py").is_file() and self.here != folder and folder.is_relative_to(self.here):
            folder = self.here / folder.relative_to(self.here).parts[0]  # a folder without one is a package too
        return folder.name, folder

    # --- sys.path ---

    def folders(self) -> list[Path]:
        """The folders that Python would look in, and those that were given, in this order."""
        beside = [] if self.runs_as_module else [self.entry.parent]
        return [*self.before, *self.holders, *beside, *self.after]

    def add_edit(self, folder: Path, first: bool) -> None:
        """Takes a folder that the program adds to `sys.path`."""
        if folder not in [*self.before, *self.after] and folder.is_dir() and not is_installed_folder(folder):
            (self.before.insert(0, folder) if first else self.after.append(folder))

    # --- modules ---

    def find(self, dotted: str) -> Path | None:
        """The folder or file of the package that a module belongs to; None if it is none of the user's."""
        top = dotted.partition(".")[0]
        if top in self.given:
            return self.given[top]
        portion: Path | None = None
        is_standard = top in sys.stdlib_module_names
        if top in sys.builtin_module_names or top in LOADED_EARLY or not top.isidentifier():
            return None
        for folder in self.folders():
            found = regular(folder, top)
            if found:
                return found
            portion = portion or holding(folder / top, dotted)
        for holder in self.holders:
            portion = portion or (holding(holder, dotted) if holder.name == top else None)
        if is_standard:
            return None
        if top in self.editable:
            return self.editable[top]
        if self.installed(top):
            return None
        for folder in self.possible:
            found = regular(folder, top)
            if found:
                return found
            portion = portion or holding(folder / top, dotted)
        return portion

    def folder_of(self, top: str) -> Path | None:
        """The package of this name, or a folder that holds modules."""
        found = self.find(top)
        places = [folder / top for folder in (*self.folders(), *self.possible)]
        return found or next((place for place in places if place.is_dir() and any(place.glob("*.py"))), None)

    def lost(self, dotted: str, beside: Path) -> Path | None:
        """The package or module of the project that an import may mean, although Python would not look there.

        Args:
            dotted: the imported module.
            beside: the folder of the file that imports it, in which it is looked for first.
        """
        top, *rest = dotted.split(".")
        known = top in sys.stdlib_module_names or not top.isidentifier() or self.installed(top)
        for folder in [] if known else [beside, *self.holding_modules]:
            path = folder.joinpath(top, *rest)
            is_there = path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file()
            if is_there or (rest and (folder / top / f"{rest[0]}.py").is_file()):
                return regular(folder, top) or folder / top
        return None

    @functools.cached_property
    def holding_modules(self) -> list[Path]:
        """The folders of the project, those near its own first, but for what no import means."""
        found, todo = list[Path](), [self.home]
        for folder in todo:
            if len(todo) > MOST_FOLDERS:
                break
            found.append(folder)
            try:
                inner = sorted(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())
            except OSError:
                continue
            for each in inner:
                skipped = not re.fullmatch(r"\w[\w-]*", each.name)
                if not skipped and each.name != "node_modules" and not (each / "pyvenv.cfg").is_file():
                    todo.append(each)
        return found

    def installed(self, top: str) -> bool:
        """Whether an installed package has this name."""
        return top in self.compiled or any(
            regular(folder, top) for folder, names in self.installed_names.items() if {top, f"{top}.py"} & names
        )

    @functools.cached_property
    def installed_names(self) -> dict[Path, set[str]]:
        """What lies in each folder of installed packages."""
        return {folder: set(os.listdir(folder)) for folder in installed_folders() if folder.is_dir()}

    @functools.cached_property
    def compiled(self) -> set[str]:
        """The installed modules that are a compiled file."""
        names = [name for names in self.installed_names.values() for name in names if name.endswith(".so")]
        return {name.partition(".")[0] for name in names if name.count(".") > 1}

    def all_beside(self) -> list[str]:
        """The modules that a computed name may mean: what lies in the folders that Python would look in."""
        found = []
        for folder in self.folders():
            for path in sorted(folder.iterdir()):
                name = path.name.removesuffix(".py")
                skipped = path == self.entry or name in ("setup", "conftest", "build_kernel") or not name.isidentifier()
                if not skipped and (path.suffix == ".py" or (path / "__init__.py").is_file()):
                    found.append(name)
        return list(dict.fromkeys(found))


def regular(folder: Path, top: str) -> Path | None:
    """A package with `__init__.py`, or a module, of this name in a folder."""
    if (folder / top / "__init__.py").is_file():
        return folder / top
    path = folder / f"{top}.py"
    return path if path.is_file() else None


def holding(base: Path, dotted: str) -> Path | None:
    """A folder without `__init__.py`, if it holds the module of this dotted name."""
    _, *rest = dotted.split(".")
    path = base.joinpath(*rest)
    if rest and base.is_dir() and not is_installed_folder(base):
        if path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file():
            return base
        if path.is_dir() and any(path.glob("*.py")):
            return base
    return None


def project_folder(entry: Path, here: Path) -> Path:
    """The folder of the whole project: of its repository, or the topmost with a file that only a project has."""
    above = [folder for folder in entry.parents if folder not in (Path.home(), Path(folder.anchor))]
    for folder in above:
        if (folder / ".git").exists():
            return folder
    marked = [folder for folder in above if any((folder / name).is_file() for name in PROJECT_FILES)]
    found = marked[-1] if marked else entry.parent
    return here if here in above and found.is_relative_to(here) else found


def installed_folders() -> list[Path]:
    """The folders of installed packages of this Python."""
    return [Path(path) for path in sys.path if is_installed_folder(Path(path))]


def is_installed_folder(folder: Path) -> bool:
    """Whether a folder lies among installed packages."""
    return bool({"site-packages", "dist-packages"} & set(folder.parts))


def editable_installs() -> tuple[dict[str, Path], list[Path]]:
    """What is installed in a way that leaves it where it is edited: packages by name, and folders that hold some."""
    packages: dict[str, Path] = {}
    folders: list[Path] = []
    for site in installed_folders():
        for path in sorted(site.glob("*.pth")) + sorted(site.glob("*.egg-link")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found = [
                Path(line.strip()) for line in lines if line.strip() and not line.startswith(("import ", "#", "."))
            ]
            folders += [folder for folder in found if folder.is_dir() and not is_installed_folder(folder)]
        for path in sorted(site.glob("__editable__*finder.py")):
            mapping = re.search(r"(?m)^MAPPING[^=]*= (\{.*\})", path.read_text(encoding="utf-8", errors="replace"))
            pairs = ast.literal_eval(mapping[1]) if mapping else {}
            packages |= {
                name: regular(Path(base).parent, Path(base).name) or Path(base) for name, base in pairs.items()
            }
    return packages, folders


def shown(path: Path) -> str:
    """A path as messages show it: without what differs between machines, where it lies below the working folder."""
    absolute = Path(os.path.abspath(path))
    try:
        return os.path.relpath(absolute)
    except ValueError:  # another drive
        return absolute.name


def edits_of_sys_path(module: Module) -> list[tuple[ast.expr, bool]]:
    """What a module adds to `sys.path`: each expression, and whether it comes before all others."""
    found: list[tuple[ast.expr, bool]] = []
    for node in module.of(ast.Call, ast.AugAssign, ast.Assign):
        match node:
            case ast.Call(func=ast.Attribute(value=holder), args=[*_, last]) if called_name(node) in ADDERS and (
                is_sys_path(holder) or called_name(node) == "addsitedir"
            ):
                first = called_name(node) == "insert"
                found += [(part, first) for part in (last.elts if isinstance(last, ast.List | ast.Tuple) else [last])]
            case ast.AugAssign(target=target, value=ast.List(elts=parts)) if is_sys_path(target):
                found += [(part, False) for part in parts]
            case ast.Assign(targets=[target], value=value) if is_sys_path(target) or (
                isinstance(target, ast.Subscript) and is_sys_path(target.value)
            ):
                for part in walk(value):
                    found += [(each, True) for each in part.elts] if isinstance(part, ast.List) else []
    return found


def is_sys_path(node: ast.AST) -> bool:
    """Whether an expression is `sys.path`, or `path` as in `from sys import path`."""
    if isinstance(node, ast.Attribute):
        return node.attr == "path" and isinstance(node.value, ast.Name) and node.value.id in ("sys", "_sys")
    return isinstance(node, ast.Name) and node.id == "path"


def is_own_absolute(path: Path) -> bool:
    """Whether an absolute path leads to a file of the user's, not of the system's."""
    return not path.as_posix().startswith(SYSTEM) and path.is_file()
