"""The files that a program opens, as far as its source names them: which are shipped, and which are warned of."""

import ast
import os
import posixpath
import re
from pathlib import Path

from flattener.entries import place_in_parts
from flattener.errors import BuildError
from flattener.facts import CONFIG_FOLDERS, Facts, called_name
from flattener.file_uses import ASKS, COPIES, PATTERNS, STARTS, NamedFile, call_use, started_words
from flattener.library import Library
from flattener.path_values import (
    MOST_FILES,
    UNKNOWN_PART,
    PathValue,
    PathValues,
    config_path_of,
    files_below,
    joined,
    matching,
)
from flattener.search_path import PROJECT_FILES, SYSTEM, SearchPath, is_own_absolute, shown
from flattener.source import Module, mentions, words
from flattener.trees import child_nodes

MOST_BYTES = 200_000  # of one file
MOST_LINES = 4  # of what is told of one place
SETTINGS = words(".yaml .yml .toml .ini .cfg")  # what is named so is read, wherever its name stands
JOINS = words("join joinpath Path PurePath")
NO_PATHS = words("prog usage help description epilog metavar")  # texts for whoever runs the program
# The kinds of nodes that `NamedFiles.visit` looks at.
PATH_NODES = frozenset((
    *(ast.Call, ast.Constant, ast.JoinedStr, ast.BinOp, ast.Name, ast.Attribute, ast.Subscript, ast.Assign),
    *(ast.AnnAssign, ast.arguments, ast.List, ast.Tuple, ast.Dict, ast.IfExp, ast.BoolOp, ast.Starred),
))  # fmt: skip
ABOUT_SETTINGS = re.compile(r"conf(ig|_|s|$)|cfg|yaml", re.IGNORECASE)
PATH_TEXT = re.compile(r"(?!https?:)[^\n\t:<>|\"'{}]{1,200}")
FILE_NAME = re.compile(r"\w\.\w{1,5}$")
SECRET_NAMES = re.compile(
    r"kaggle\.json|\.git.*|\.env.*|\.netrc|.*(credential|secret|token).*|id_\w+|.*\.(pem|key|p12)", re.I
)


class NamedFiles:
    """What a program reads besides its modules.

    Attributes:
        files: path from the working folder -> content.
        module_files: path from the folder in which the packages lie -> content.
        roots: package -> where it has to lie below the modules' folder, so that it finds files above its own folder.
        entry_file: where the entry would lie, seen from the working folder, for files that it finds by its `__file__`.
        config_paths: `config_path` of hydra -> its module, and the folder as seen from the working folder.
        relative_paths: those of them that hydra takes only as relative ones, seen from the file that calls it.
        took: place in the source -> the files that are shipped for it without being asked for.
        warnings: of those that are named and not shipped.
        read: the files at the desk that the build has read.
        bases: the folders in which the program may be started at the desk.
    """

    def __init__(
        self, library: Library, modules: list[Module], search: SearchPath, facts: dict[str, Facts] | None = None
    ) -> None:
        self.library, self.search = library, search
        self.values = PathValues(library, modules)
        self.found: list[NamedFile] = []
        self.folders: list[NamedFile] = []  # that are named, for whatever use
        self.filled: list[NamedFile] = []  # folders into which new files are written
        self.large: list[NamedFile] = []  # folders that are too large, each with what there is to say in its `target`
        self.files: dict[str, bytes] = {}
        self.module_files: dict[str, bytes] = {}
        self.entry_file = ""
        self.roots: dict[str, str] = {}
        self.config_folders: list[tuple[ast.expr, str, Path]] = []
        self.config_paths: dict[ast.expr, tuple[str, str]] = {}
        self.relative_paths: set[ast.expr] = set()
        self.took: dict[str, list[Path]] = {}
        self.warnings: list[str] = []
        self.read: set[Path] = set()
        self.left_out: dict[tuple[str, Path, str, str, str], list[tuple[Path, NamedFile]]] = {}
        near = search.entry.is_relative_to(search.here)
        self.bases = list(dict.fromkeys([*([search.here] if near else []), search.entry.parent]))
        self.asks_place = (
            facts is not None and "__file__" in facts["__main__"].words
        )  # as to make it the working folder
        self.makes_folders = any({"makedirs", "mkdir"} & each.words.keys() for each in (facts or {}).values())
        some = facts is None or any(self.may_name_files(facts[module.name]) for module in modules)
        for module in modules if some else []:
            self.module = module
            self.own_words = facts[module.name].words if facts else {"__file__": 1}
            self.docstrings = {id(node.value) for node in module.nodes if isinstance(node, ast.Expr)}
            for node in module.body:
                if not module.is_entry or place_in_parts(library.parts, node.lineno)[1]:  # no line that a build adds
                    self.visit(node, "")
        for part in library.parts:
            for word in part.arguments or []:
                self.note_argument(word.partition("=")[2] if word.startswith("-") else word)
        self.choose(search.data)

    # --- what the source names ---

    def may_name_files(self, facts: Facts) -> bool:
        """Whether a module has `__file__`, or a string that is at the desk a file or a folder, or part of its path."""
        if "__file__" in facts.words or "hydra" in facts.words:  # hydra looks beside the file that calls it
            return True
        joins = bool(JOINS & set(facts.words)) and any(FILE_NAME.search(text) for text in facts.strings)
        for text in {word for line in facts.strings if len(line) < 300 for word in line.split()}:
            if text in SETTINGS or text == ".json":
                return True  # the end of a name that is put together
            is_package = text in self.library.packages and not joins
            start = re.split("[{%*]", text)[0]
            place = start.rpartition("/")[0] or text  # its folder, if it may be part of a name
            place = place if place.strip("./*") else start
            if place == text and "*" in text and "." in text:
                return True  # a pattern for the working folder
            looks_so = place.strip("./*") and not place.startswith(SYSTEM) and PATH_TEXT.fullmatch(place)
            if looks_so and not is_package and any(os.path.exists(f"{base}/{place}") for base in self.bases):
                return True
        return False

    def visit(self, node: ast.AST, use: str) -> None:
        """Notes the paths in a part of the syntax tree; `use` is what is done with its value."""
        if isinstance(node, ast.Name) and not use and "__file__" not in self.own_words:
            return
        match node:
            case _ if node.__class__ not in PATH_NODES:
                pass
            case ast.Call():
                self.visit_call(node, use)
                return
            case ast.Constant(value=str(text)):
                if id(node) not in self.docstrings:
                    self.note(node, PathValue(text), use)
                return
            case ast.JoinedStr() | ast.BinOp():
                if self.note_values(node, use):
                    return
            case ast.Name() | ast.Attribute() | ast.Subscript():
                asked = use or ("__file__" in self.own_words and mentions(node, "__file__"))
                if asked and self.note_values(node, use):
                    return
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                named = "".join(getattr(target, "id", getattr(target, "attr", "")) for target in targets)
                if node.value is not None:
                    self.visit(node.value, "read" if ABOUT_SETTINGS.search(named) else "")
                return
            case ast.arguments():
                plain, defaults = [*node.posonlyargs, *node.args], [*node.defaults, *node.kw_defaults]
                parameters = plain[len(plain) - len(node.defaults) :] + node.kwonlyargs
                for argument, default in zip(parameters, defaults, strict=True):
                    if default is not None:
                        self.visit(default, "read" if ABOUT_SETTINGS.search(argument.arg) else "")
                return
            case ast.List() | ast.Tuple() | ast.Dict() | ast.IfExp() | ast.BoolOp() | ast.Starred():
                for part in child_nodes(node):
                    self.visit(part, use)
                return
        for part in child_nodes(node):
            self.visit(part, "")

    def note_values(self, node: ast.expr, use: str) -> bool:
        """Notes the files that an expression means, and whether it is a path; if it is used, also by its parameters."""
        value = self.values.of(self.module, node)
        if use in ("read", "write", "list", "ask") and (value is None or UNKNOWN_PART in value.text):
            for each in self.values.all_of(self.module, node):
                self.note(node, each, use, is_data=UNKNOWN_PART in each.text)
        if value:
            self.note(node, value, use)
        return value is not None

    def visit_call(self, node: ast.Call, use: str) -> None:
        called = called_name(node)
        if self.note_values(node, use):  # Path("a", "b"), os.path.join("a", "b")
            return
        kind = "" if called in STARTS else call_use(node)
        if isinstance(node.func, ast.Attribute):
            is_pattern = called in PATTERNS and not self.values.is_module(self.module, node.func.value, "glob")
            is_known = is_pattern and self.note_pattern(node, node.func.value)
            self.visit(node.func.value, "" if is_known else kind)
            if is_pattern:
                return
        is_option = called == "add_argument" and ABOUT_SETTINGS.search(ast.dump(node.args[0]) if node.args else "")
        hydra_path = config_path_of(node)
        if hydra_path is not None:
            self.note_config_path(hydra_path, str(hydra_path.value), called == "initialize")
        if called in ASKS:
            self.note_values(node.args[0] if node.args else getattr(node.func, "value", node), "ask")
        copies = called in COPIES and len(node.args) > 1  # other methods of these names take less
        for position, part in enumerate(node.args):
            if part is hydra_path:
                continue
            if copies:
                self.visit(part, ("copy", "write", "")[min(position, 2)])
            elif called in STARTS and (command := self.values.of(self.module, part)) and not command.source:
                for word in started_words(command.text):
                    self.note(part, PathValue(word), "read" if word.endswith(".py") else "")
            elif called in STARTS and isinstance(part, ast.List):
                for each in part.elts:
                    text = each.value if isinstance(each, ast.Constant) else ""
                    self.visit(each, "read" if str(text).endswith(".py") else "")
            else:
                self.visit(part, kind)
        for keyword in node.keywords:
            if keyword.value is hydra_path:
                continue
            if keyword.arg in NO_PATHS:
                continue
            is_marker = keyword.arg == "indicator"  # of rootutils: the file that marks the project's folder
            about = is_marker or ABOUT_SETTINGS.search(keyword.arg or "") or (is_option and keyword.arg == "default")
            self.visit(keyword.value, kind or ("read" if about else ""))

    def note_pattern(self, node: ast.Call, folder: ast.expr) -> bool:
        """Notes the files that `folder.glob("*.json")` means, if the folder is known; returns if the pattern is."""
        pattern = self.values.of(self.module, node.args[0]) if node.args else None
        if pattern is None:
            return False
        for each in self.values.all_of(self.module, folder):
            self.note(node, joined([each, pattern], "/"), "list")
        return True

    def note_config_path(self, node: ast.Constant, text: str, stays_relative: bool) -> None:
        """Notes the folder of hydra's settings, beside the file that names it; or, as of hydra 0.11, a file of it."""
        path = self.values.file_of(self.module)
        if path is not None and not os.path.isabs(text) and "://" not in text:
            named = Path(os.path.normpath(path.parent / text))
            self.config_folders.append((node, self.module.name, named))
            self.relative_paths |= {node} if stays_relative else set()
            where = f"{self.module.label}:{node.lineno}"
            for each in [named.parent, named] if named.is_file() else [named] if named.is_dir() else []:
                self.note_files([each], None, "read", path, where)
                if each.is_relative_to(self.search.entry.parent) and not self.module.is_entry:
                    self.note_files([each], self.search.entry.parent, "read", None, where)

    def note_argument(self, text: str) -> None:
        """Notes a file or folder that `--args` names, or the files of a folder whose names begin so."""
        for base in self.bases if text.strip("./") else []:
            found = matching(base, text) or (matching(base, f"{text}*") if re.match(r"(\./)?\w.*/", text) else [])
            if found:
                self.note_files(found, base, "read", None, "--args")
                return

    def note(self, node: ast.expr, value: PathValue, use: str, is_data: bool = False) -> None:
        """Notes the files at the desk that a path means, without code if it `is_data`."""
        text = value.text
        if not text.strip("*./ ") or not PATH_TEXT.fullmatch(text.replace(UNKNOWN_PART, "x")):
            return
        is_plain = value.source is None
        suffix = posixpath.splitext(text)[1]
        name = posixpath.basename(text)
        bare = "/" not in text and not re.fullmatch(r"\.\w{1,10}", suffix)
        if (
            is_plain
            and not use
            and (UNKNOWN_PART in text or name in PROJECT_FILES or (bare and text not in CONFIG_FOLDERS))
        ):
            return
        where = f"{self.module.label}:{node.lineno}"
        is_settings = suffix in SETTINGS or text in CONFIG_FOLDERS
        use = use or ("read" if is_settings or (suffix == ".json" and ABOUT_SETTINGS.search(name)) else "")
        bases = self.bases
        if os.path.isabs(text):
            if is_plain and not (use in ("read", "ask") and UNKNOWN_PART not in text and is_own_absolute(Path(text))):
                return
            bases = [value.source.parent if value.source else Path("/")]
            text = os.path.relpath(text, bases[0]) if value.source else text
        for base in bases:
            found = [path for path in matching(base, posixpath.normpath(text)) if not is_data or path.suffix != ".py"]
            if found:
                self.note_files(found, base if is_plain and not os.path.isabs(text) else None, use, value.source, where)
                return
            folder = Path(base, posixpath.dirname(text))
            if use == "write" and is_plain and UNKNOWN_PART not in str(folder) and folder != base and folder.is_dir():
                self.filled.append(NamedFile(folder, posixpath.dirname(text), use, None, where))
                return

    def note_files(self, found: list[Path], base: Path | None, use: str, source: Path | None, where: str) -> None:
        """Notes the files that one place of the source names; of folders only if it is known what is done with them."""
        found = [path for path in found if path.is_file() or not self.search.entry.is_relative_to(path)]
        if not use:
            target = Path(os.path.relpath(found[0], base)).as_posix() if found and base else ""
            if base or source == self.search.entry:
                self.folders += [NamedFile(path, target, use, source, where) for path in found if path.is_dir()]
            found = [path for path in found if path.is_file() and path != source]
        files = [
            each
            for path in found
            for each in files_below(path)
            if each == path or each.suffix != ".py" or use == "copy"
        ]
        use = "read" if use == "copy" else use
        if use == "list":  # the names of modules are asked for, not their text
            files, use = [path for path in files if path.suffix != ".py"], "read"
        several = len(found) > 1 or found[:1] != files[:1]
        size = sum(path.stat().st_size for path in files) if several else 0
        if use != "write" and several and (len(files) > MOST_FILES or size > MOST_BYTES):
            if use == "ask":
                return
            folder = found[0] if len(found) == 1 else found[0].parent
            reason = f"reads {shown(folder)}/, of which nothing is shipped: it holds more than {MOST_BYTES:,} bytes"
            self.large.append(NamedFile(folder, reason, use, source, where))
            return
        for path in files if use != "write" else [*found, *files]:
            target = Path(os.path.relpath(path, base)).as_posix() if base else "" if source else path.as_posix()
            self.found.append(NamedFile(path, target, use, source, where))

    # --- what of it is shipped ---

    def choose(self, data: list[Path]) -> None:
        """Chooses the files that are shipped, and warns of the others."""
        written = {each.path for each in self.found if each.use == "write"}
        looked_for = {each.path for each in self.found if each.use == "ask"}
        asked = self.asked_for(data)
        namings: dict[Path, list[NamedFile]] = {}
        for each in self.found:
            is_used = each.use not in ("write", "ask") and each.path.is_file()
            if is_used and (each.path not in written or each.path in asked):
                namings.setdefault(each.path, []).append(each)
        for each in self.large:
            if not asked and not self.is_shipped_with_package(each) and not self.is_mount(each.path):
                some = any(path.is_relative_to(each.path) for path in namings)
                reason = each.target.replace("nothing is", "not all is") if some else each.target
                self.warn(each, reason, "make a Kaggle dataset of it, and read it from /kaggle/input/NAME")
        for each in {each.path: each for each in reversed(self.found) if each.use == "read"}.values():
            if each.path in written & looked_for - asked.keys() and each.path.is_file():
                name = shown(each.path)
                reason = f"reads {name} if it is there, and it is not shipped, since the program writes it, too"
                self.warn(each, reason, f"--data {name}, if the program is to begin with it")
        for each in self.filled if not self.makes_folders else []:
            if not any(path.is_relative_to(each.path) for path in [*namings, *asked]):
                reason = f"writes into {each.target}/, which is there at the desk and will not be there"
                self.warn(each, reason, f"os.makedirs({each.target!r}, exist_ok=True)")
        self.warn_of_folders({*written, *asked, *namings, *(each.path for each in self.large)})
        shipped: dict[Path, list[NamedFile]] = {}
        for path, all_namings in namings.items():
            wanted = [each for each in all_namings if not self.is_shipped_with_package(each)]
            if wanted and self.is_shipped(path, wanted, path in asked):
                shipped[path] = wanted
        self.warn_of_left_out()
        by_file = [path for path, wanted in shipped.items() if self.by_entry(wanted)]
        self.place_entry(by_file or ([*shipped, *asked] if self.asks_place else []))
        for path, wanted in shipped.items():
            self.ship(path, wanted, path in asked)
        for path, target in asked.items():
            if path not in shipped:
                self.put(self.files, target, path)
        for node, module, folder in self.config_folders:
            if folder.is_relative_to(self.entry_folder()):
                self.config_paths[node] = (module, folder.relative_to(self.entry_folder()).as_posix())

    def warn_of_folders(self, known: set[Path]) -> None:
        """Warns of the folders that are named and hold files, unless something is known of them or of a file there."""
        for each in self.folders:
            folder, name = each.path, shown(each.path)
            holds = any(path.suffix != ".py" for path in files_below(folder))
            if not holds or self.is_mount(folder) or any(path.is_relative_to(folder) for path in known):
                continue
            if each.target.startswith(".."):
                remedy = "put it into a Kaggle dataset, or beside the entry"
            else:
                remedy = f"--data {name}, if files are read there"
            self.warn(each, f"names the folder {name}, of which nothing is shipped", remedy)

    def is_shipped(self, path: Path, namings: list[NamedFile], asked: bool) -> bool:
        """Whether a file that the program names is shipped; warns if not."""
        first = next((each for each in namings if each.use == "read"), namings[0])
        size = path.stat().st_size
        if asked or self.is_mount(path):
            return asked
        if os.path.isabs(first.target) or not path.is_relative_to(self.search.home) or first.target.startswith(".."):
            outside = ": outside of the program's folder"
            self.leave_out(path, first, outside, "put it into a Kaggle dataset, or beside the entry")
        elif size > MOST_BYTES:
            reason = f": {size:,} bytes are more than {MOST_BYTES:,}"
            self.leave_out(path, first, reason, "put it into a Kaggle dataset, and read it from /kaggle/input/NAME")
        elif first.use != "read" or SECRET_NAMES.fullmatch(path.name):
            self.leave_out(path, first, "", "")
        else:
            return True
        return False

    def leave_out(self, path: Path, naming: NamedFile, why: str, remedy: str) -> None:
        """Notes a file that is named and not shipped; without a remedy it is `--data`."""
        verb = "reads" if naming.use == "read" else "names"
        self.left_out.setdefault((naming.where, path.parent, verb, why, remedy), []).append((path, naming))

    def warn_of_left_out(self) -> None:
        """Warns of the files that are named and not shipped; of many that a place names in one folder, by one line."""
        for (_, folder, verb, why, remedy), pairs in self.left_out.items():
            if len(pairs) > MOST_LINES:
                reason = f"{verb} {len(pairs)} files of {shown(folder)}/, which are not shipped"
                self.warn(pairs[0][1], reason + why, remedy or f"--data {shown(folder)}")
                continue
            for path, naming in pairs:
                reason = f"{verb} {shown(path)}, which is not shipped{why}"
                self.warn(naming, reason, remedy or f"--data {shown(path)}")

    def asked_for(self, data: list[Path]) -> dict[Path, str]:
        """The files that `--data` names, and where each goes: as it lies to the entry, or to the working folder."""
        found: dict[Path, str] = {}
        for given in data:
            top = Path(os.path.abspath(given))
            if not top.exists():
                raise BuildError(f"--data {given}", "does not exist", "give a file or a folder")
            for path in files_below(top):
                size = path.stat().st_size
                if size > MOST_BYTES:
                    reason = f"{shown(path)} has {size:,} bytes, and a file may have {MOST_BYTES:,}"
                    remedy = "put it into a Kaggle dataset, and read it from /kaggle/input/NAME"
                    raise BuildError(f"--data {given}", reason, remedy)
                bases = [base for base in (self.search.entry.parent, self.search.here) if path.is_relative_to(base)]
                if not bases and not path.is_relative_to(self.search.home):
                    reason = "lies neither below the entry's folder nor below the working folder"
                    raise BuildError(f"--data {given}", reason, "move it there")
                base = bases[0] if bases else self.search.home
                found[path] = path.relative_to(base).as_posix()
        return found

    def is_shipped_with_package(self, naming: NamedFile) -> bool:
        """Whether a module finds a file of its own package, all of which then travel with it."""
        if naming.source is None or naming.source == self.search.entry:
            return False
        bases = [
            base for base in self.library.packages.values() if base.is_dir() and naming.source.is_relative_to(base)
        ]
        return any(naming.path.is_relative_to(base) for base in bases) or naming.path == naming.source

    def is_mount(self, path: Path) -> bool:
        """Whether a path lies where Kaggle mounts datasets, seen from the working folder: in `../input`."""
        return any(path.is_relative_to(base.parent / "input") for base in (self.search.here, self.search.entry.parent))

    def by_entry(self, namings: list[NamedFile]) -> bool:
        """Whether the entry finds a file by its own `__file__`."""
        return any(each.source == self.search.entry for each in namings)

    def place_entry(self, paths: list[Path]) -> None:
        """Decides where the entry would lie, seen from the working folder, so that it finds the files of `paths`."""
        if paths:
            folder = self.search.entry.parent
            while not all(path.is_relative_to(folder) for path in paths):
                folder = folder.parent
            self.entry_file = self.search.entry.relative_to(folder).as_posix()

    def entry_folder(self) -> Path:
        """The folder at the desk that the working folder stands for."""
        entry = self.search.entry
        return entry.parents[self.entry_file.count("/")] if self.entry_file else entry.parent

    def ship(self, path: Path, namings: list[NamedFile], asked: bool) -> None:
        """Adds a file to wherever the program looks for it."""
        for each in namings:
            if each.source is None:
                self.put(self.files, each.target, path)
            elif each.source == self.search.entry:
                self.put(self.files, path.relative_to(self.entry_folder()).as_posix(), path)
            else:
                self.ship_for_module(path, each)
        if not asked:
            self.took.setdefault(namings[0].where, []).append(path)

    def ship_for_module(self, path: Path, naming: NamedFile) -> None:
        """Adds a file that a module finds by its `__file__`, outside of its package."""
        assert naming.source is not None
        packages = self.library.packages.items()
        top, base = next((top, base.parent) for top, base in packages if naming.source.is_relative_to(base))
        folder = base
        while not path.is_relative_to(folder):
            folder = folder.parent
        root = base.relative_to(folder).as_posix()
        known = self.roots.get(top, "")
        if root.count("/") >= known.count("/") and root != ".":
            self.roots[top] = root
        depth = self.library.roots.get(top, "")
        above = base.parents[depth.count("/")] if depth else base
        if path.is_relative_to(above):
            self.put(self.module_files, path.relative_to(above).as_posix(), path)

    def put(self, files: dict[str, bytes], target: str, path: Path) -> None:
        files[target] = path.read_bytes()
        self.read.add(path)

    @property
    def taken(self) -> list[str]:
        """What there is to tell of the files that are shipped without being asked for."""
        lines = []
        for where, paths in self.took.items():
            folder = os.path.commonpath([path.parent for path in paths])
            is_long = len(paths) > MOST_LINES
            names = [f"{len(paths)} files of {shown(Path(folder))}/"] if is_long else [shown(path) for path in paths]
            lines += [f"{name} ({where})" for name in names]
        return lines

    def warn(
        self, naming: NamedFile, reason: str, remedy: str = "give it by --data, or make a Kaggle dataset of it"
    ) -> None:
        warning = f"{naming.where}: {reason}. Remedy: {remedy}."
        if warning not in self.warnings:
            self.warnings.append(warning)
