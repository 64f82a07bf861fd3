"""A whole build: a kernel of this repository, or a script of another, from its source to the files on disk."""

import contextlib
import gc
import json
import os
import re
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flattener.analysis import analyse
from flattener.arguments import reads_arguments, required_arguments
from flattener.cells import Cell, joint_head, notebook_text, script_head, script_text
from flattener.checks import check_document, check_script, find_leaks
from flattener.descriptions import with_competition
from flattener.documents import Document
from flattener.entries import join_entries, relabelled, relabelled_error
from flattener.errors import BuildError
from flattener.kaggle import MAX_BYTES, SOURCES, find_owner, kernel_metadata
from flattener.kernel_head import read_head
from flattener.library import Library, Var
from flattener.manifest import manifest_cells, with_run_line, writes_manifest
from flattener.notebook_entry import magics_of, notebook_source, with_magics
from flattener.observers import TRUSTED
from flattener.parameters import check_run_settings, fill_settings, settings_values
from flattener.search_path import SearchPath
from flattener.settings import setting_text
from flattener.source import Module
from flattener.trace import map_path, map_text

WARN_BYTES = 800_000
BUILT_BY = "Built by"  # in the first cell of each build


@dataclass
class Report:
    """What there is to tell about a build.

    Attributes:
        path: the folder of a kernel, or the file.
        size: bytes of the notebook or script.
        cells: their number.
        modules: how many modules of the packages it holds.
        build_id: see `Document.build_id`.
        owner: the Kaggle name that was found; None: none.
        dropped: the definitions that are left out, as module.name.
        renamed: "module.name -> name" for each variable that has another name in the flat program.
        reasons: "pkg/a.py: why" for each module in modules style.
        warnings: what may be wrong with it.
        undecided: what keeps modules from being flat and may be harmless: a line and the word for --trust.
        taken: the packages and files that nobody asked for, each with the place that needs it.
    """

    path: Path
    size: int
    cells: int
    modules: int
    build_id: str
    owner: str | None
    dropped: list[str]
    renamed: list[str]
    reasons: list[str]
    warnings: list[str]
    undecided: list[str]
    taken: list[str]


@dataclass(frozen=True)
class KernelRequest:
    """A build of a kernel: of kernels/NAME.py, or of any other script.

    Attributes:
        name: of a file in kernels/, without .py; or the path of a script.
        root: the repository whose kernels/ and packages are meant.
        out: the folder in which the folder NAME is made, or replaced.
        settings: changes of the preset, written into the line `SET = {}`.
        preset: written into the line `PRESET = ...`; None: what the kernel says.
        run_id: written into the line `RUN_ID = ""`; empty: the kernel makes one at its start.
        resume: written into the line `RESUME = ""`; empty: nothing is resumed.
        owner: Kaggle name; None: from KAGGLE_USERNAME or kaggle.json, or none.
        form: "notebook" or "script".
        packages: folders of packages that the kernel needs besides those of the repository, or of a script elsewhere.
        arguments: what the kernel finds behind its name in `sys.argv`; None: nothing is said of it.
        data: files and folders to ship besides those that the source names.
        competition: the module that describes another one than the kernel imports; None: that of the kernel.
    """

    name: str
    root: Path
    out: Path
    settings: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    run_id: str = ""
    resume: str = ""
    owner: str | None = None
    form: str = "notebook"
    packages: Sequence[Path] = ()
    arguments: list[str] | None = None
    data: Sequence[Path] = ()
    competition: str | None = None

    @property
    def in_kernels(self) -> bool:
        """Whether it is a file of the repository's kernels/, by its name or its path."""
        return self.source.parent == self.root.resolve() / "kernels"

    @property
    def source(self) -> Path:
        """The file of the kernel."""
        path = Path(self.name).resolve()
        is_path = path.suffix in (".py", ".ipynb") or len(Path(self.name).parts) > 1
        return path if is_path else self.root.resolve() / "kernels" / f"{self.name}.py"

    @property
    def kernel(self) -> str:
        """The kernel's name: that of its file, without .py."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.source.stem).strip("-_") or "kernel"

    @property
    def command(self) -> str:
        """The command that makes the same kernel again, but for its owner and its run."""
        parts = ["python build_kernel.py", self.kernel if self.in_kernels else self.source.name]
        parts += [f"--package {path.resolve().name}" for path in self.packages]
        parts += [f"--data {path.resolve().name}" for path in self.data]
        parts += [f"--args {shlex.quote(shlex.join(self.arguments))}"] if self.arguments is not None else []
        parts += [f"--competition {self.competition}"] if self.competition else []
        parts += [f"--preset {self.preset}"] if self.preset else []
        parts += [f"--set {shlex.quote(setting_text(key, value))}" for key, value in self.settings.items()]
        parts += ["--format script"] if self.form == "script" else []
        return " ".join(parts)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within it, Python warns of no source: that was noted when each was read (`Module.warnings`).

    Nor does it look for garbage: syntax trees are many objects, none of which is any until the build ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            yield
    finally:
        if enabled:
            gc.enable()


@undisturbed()
def build_report(request: KernelRequest) -> Report:
    """Builds a kernel into a folder that `kaggle kernels push -p FOLDER` takes.

    Raises:
        BuildError: the kernel, its settings, or something that it imports cannot be built.
    """
    name, form, root = request.kernel, request.form, request.root.resolve()
    library = kernel_library(request)
    add_entries(library, request.arguments, [], form)
    library.goes_on = True  # to the manifest
    kaggle = read_head(library.entry, name)
    document = analyse(library, form)
    library = document.library
    build_id = document.build_id()
    values = settings_values(document.settings)
    words = set().union(*(facts.words for facts in document.reach.facts.values()))
    has_manifest = writes_manifest(document.reach.facts["__main__"].words, values)
    for module, facts in document.reach.facts.items() if "RUN_ID" not in values else ():
        if "RUN_ID" in facts.words:
            reason = "the name RUN_ID is used, by which a notebook is told the name of its run"
            remedy = 'use another one, or write RUN_ID = "" in a cell `# %% tags=["parameters"]`'
            library.source(module).refuse(facts.words["RUN_ID"], reason, remedy)
    settings = document.settings if "RUN_ID" in values else with_run_line(document.settings)
    changes = {
        "PRESET": request.preset,
        "SET": request.settings,
        "RUN_ID": request.run_id,
        "RESUME": request.resume,
        "BUILD_ID": build_id if "BUILD_ID" in values else None,
    }
    changes = {key: value for key, value in changes.items() if value}
    settings = fill_settings(library.entry, settings, changes)
    if {"PRESET", "SET"} & values.keys():
        check_run_settings(library, values | changes)
    cells = document.cells(
        kaggle["title"], introduction(library.entry, kaggle, request.command, build_id), settings=settings
    )
    if not has_manifest:
        first, last = manifest_cells(name, words, form)
        at = next(at for at, cell in enumerate(cells) if cell.id == "cell-settings") + 1
        cells = [*cells[:at], first, *cells[at:], last]
    check_document(document, cells)
    leaks = find_leaks(cells, root if request.in_kernels else request.source.parent)
    if leaks:
        where, _, reason = leaks[0].partition(": ")
        more = "".join(f"; {leak}" for leak in leaks[1:])
        raise BuildError(where, f"{reason}, which must not be published{more}", "take it out of the source")
    warnings = magics_of(cells) if form == "script" else []
    cells = with_magics(cells) if form == "notebook" else cells
    owner = find_owner(request.owner)
    metadata = kernel_metadata(kaggle, name, form, owner)
    code_file, head = metadata["code_file"], script_head(library.entry)
    text = notebook_text(cells) if form == "notebook" else script_text(cells, head)
    if form == "script":
        check_script(text, code_file, cells)
    size = len(text.encode())
    if size > MAX_BYTES:
        reason = f"has {size:,} bytes, and Kaggle takes {MAX_BYTES:,}"
        raise BuildError(code_file, reason, "ship data as a Kaggle dataset")
    files = {
        code_file: text,
        "kernel-metadata.json": json.dumps(metadata, indent=2, ensure_ascii=False) + "\n",
        map_path(Path(code_file)).name: map_text(cells, form, code_file, head),
    }
    folder = write_folder(request.out / name, files)
    warnings += size_warnings(code_file, size) + argument_warnings(document)
    return make_report(document, folder, size, cells, owner, warnings)


def kernel_library(request: KernelRequest) -> Library:
    """A kernel of a repository, with all packages at its top level; or a script elsewhere, with the packages given."""
    root, source = request.root.resolve(), request.source
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in (root / "kernels").glob("*.py"))) or "none"
        reason = f"there is no kernel of this name in kernels/; there are: {known}"
        raise BuildError(f"kernel {request.name!r}", reason, "name one of these, or give the path of a Python file")
    if not request.in_kernels:
        search = SearchPath(source, list(request.packages), list(request.data))
        text = kernel_text(request) if request.competition else entry_text(source)
        return Library(source, search.given, source.name, search=search, entry_text=text)
    search = SearchPath(source, list(request.packages), list(request.data), here=root)
    packages = {path.parent.name: path.parent for path in sorted(root.glob("*/__init__.py"))} | search.given
    text = kernel_text(request) if request.competition else None
    return Library(source, packages, f"kernels/{source.name}", is_kernel=True, search=search, entry_text=text)


def kernel_text(request: KernelRequest) -> str:
    """The source of a kernel, for the competition that is asked for."""
    text = request.source.read_text(encoding="utf-8")
    if request.competition is None:
        return text
    return with_competition(text, request.source.name, request.root.resolve(), request.competition)


def size_warnings(name: str, size: int) -> list[str]:
    """A warning if a file comes near to the size that Kaggle takes."""
    return [f"{name} has {size:,} bytes; Kaggle is said to take {MAX_BYTES:,}"] if size > WARN_BYTES else []


def introduction(module: Module, kaggle: dict, command: str, build_id: str) -> str:
    """The text of the title cell: what the kernel does, its inputs, how it was built."""
    sources = [f"{key.partition('_')[0]} `{source}`" for key in SOURCES for source in kaggle.get(key, [])]
    return "\n".join(
        [
            module.docstring,
            "",
            f"- Inputs: {', '.join(sources) or 'none'}",
            f"- {BUILT_BY} `{command}` from `{module.label}`; build id `{build_id}`",
            "- This notebook is generated: edit the package instead, and build it again.",
        ]
    )


def write_folder(folder: Path, files: dict[str, str]) -> Path:
    """Writes a folder under a temporary name and renames it, so that it is never there in part."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        if folder.exists():
            if not (folder / "kernel-metadata.json").is_file() and any(folder.iterdir()):
                raise BuildError(f"--out {folder.name}", "this folder is no earlier build", "choose another one")
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            os.replace(folder, old / folder.name)
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
    return folder


def dropped(document: Document) -> list[str]:
    """The definitions that are left out, as module.name."""
    found = [f"{module}.{name}" for module, name in document.unused]
    program = document.program
    if program is None:
        return sorted(found)
    for module in program.modules:
        for name, uses in program.names[module.name].bindings.items():
            mine = [use for use in uses if use.action != "import" and not use.chain]
            if mine and not any((module.name, use.index) in program.kept for use in mine):
                one = program.meanings.same.get(Var(module.name, name))
                twin = f", which is {one.module}.{one.name} word for word" if one else ""
                found.append(f"{module.name}.{name}{twin}")
    return sorted(found)


@undisturbed()
def build_entry(
    entry: Path,
    packages: list[Path],
    out: Path,
    style: str = "auto",
    arguments: list[str] | None = None,
    others: Sequence[tuple[Path, list[str] | None]] = (),
    trust: Collection[str] = (),
    keep: Collection[str] = (),
    data: Sequence[Path] = (),
) -> Report:
    """Flattens a script with its packages into one file, .py or .ipynb.

    Args:
        entry: the script, or a notebook.
        packages: folders of packages, folders that hold some, or modules that are a single file; what the entry imports
            besides is found.
        out: the file to write, and beside it `NAME.py.map.json`, which leads from its lines back to the source.
        style: "auto", "flat" or "modules"; see `analyse`.
        arguments: what the script finds behind its name in `sys.argv`; None: nothing is said of it.
        others: further scripts, which run behind it in the same file, each with its arguments.
        trust: what counts as harmless, such as "torch.save".
        keep: what must be found by its name, as "pkg.module:Name".
        data: files and folders to ship besides those that the source names.

    Raises:
        BuildError: the program cannot be flattened; the message says why, where, and what to do.
    """
    form = {".py": "script", ".ipynb": "notebook"}.get(out.suffix)
    if form is None:
        raise BuildError(f"--out {out.name}", "the name tells no form", "give one that ends in .py or .ipynb")
    for path in [entry, *(other for other, _ in others)]:
        if not path.is_file():
            raise BuildError(f"--entry {path}", "there is no such file", "give a Python file, or a notebook")
    unknown = sorted(set(trust) - set(TRUSTED))
    if unknown:
        raise BuildError(f"--trust {unknown[0]}", "not known", f"give one of {', '.join(TRUSTED)}")
    path = Path(os.path.abspath(entry))
    search = SearchPath(path, packages, list(data))
    library = Library(path, search.given, entry.name, search=search, entry_text=entry_text(path))
    library.trust, library.keep = tuple(trust), tuple(keep)
    add_entries(library, arguments, others, form)
    with relabelling(library):
        return build_library(library, entry, out, style, form)


def entry_text(path: Path) -> str | None:
    """The code of a notebook that is an entry; None of a script, which is read as any module."""
    return notebook_source(path) if path.suffix == ".ipynb" else None


def add_entries(
    library: Library, arguments: list[str] | None, others: Sequence[tuple[Path, list[str] | None]], form: str
) -> None:
    """Gives the entry of a library its arguments, and makes one entry of it and of further scripts."""
    scripts = [(library.entry, arguments)]
    for path, given in others:
        absolute = Path(os.path.abspath(path))
        if library.package_of(absolute) != library.entry_package:
            reason = f"lies in another package than {library.entry.label}"
            raise BuildError(f"--entry {path.name}", reason, "build a file of each")
        scripts.append((library.read_entry(absolute, path.name, entry_text(absolute)), given))
    library.entry, library.parts = join_entries(scripts, library.packages, form)
    library.sources["__main__"] = library.entry


@contextlib.contextmanager
def relabelling(library: Library) -> Iterator[None]:
    """Within it, an error names the script and its line, where several are one entry."""
    try:
        yield
    except BuildError as error:
        raise relabelled_error(error, library.entry.label, library.parts) from None


def build_library(library: Library, entry: Path, out: Path, style: str, form: str) -> Report:
    """Builds what `build_entry` has read."""
    document = analyse(library, form, style)
    library = document.library
    if document.settings:
        library.entry.refuse(1, "a cell tagged `parameters`", "use it in kernels/ only")
    check_out(out, document)
    title, _, rest = library.entry.docstring.partition("\n")
    if len(library.parts) > 1:  # each has its docstring under its own heading
        title, rest = ", ".join(f"`{part.module.label}`" for part in library.parts), ""
    intro = f"{rest.strip()}\n\n" if rest.strip() else ""
    intro += f"- {BUILT_BY} `{entry_command(library, out, style)}`; "
    intro += f"build id `{document.build_id()}`\n- This file is generated: edit the package instead."
    cells = document.cells(title or entry.stem, intro)
    check_document(document, cells)
    warnings = magics_of(cells) if form == "script" else []
    cells = with_magics(cells) if form == "notebook" else cells
    head = joint_head([part.module for part in library.parts]) if form == "script" else ""
    text = notebook_text(cells) if form == "notebook" else script_text(cells, head)
    if form == "script":
        check_script(text, out.name, cells)
    size = len(text.encode())
    home = library.packages[min(library.packages)].parent if library.packages else library.entry_path.parent
    out.parent.mkdir(parents=True, exist_ok=True)
    for target, content in ((out, text), (map_path(out), map_text(cells, form, out.name, head))):
        temporary = target.with_name(f".{target.name}.part")
        temporary.write_text(content, encoding="utf-8", newline="\n")
        os.replace(temporary, target)
    warnings += find_leaks(cells, home) + size_warnings(out.name, size) + argument_warnings(document)
    return make_report(document, out, size, cells, None, warnings)


def check_out(out: Path, document: Document) -> None:
    """Refuses to write over a file that the build has read, or over any that is no earlier build."""
    library, named = document.library, document.reach.named
    paths = [library.entry_path, *filter(None, map(library.path_of, document.reach.modules))]
    paths += [*document.reach.unreadable, *(named.read if named else ())]
    for target in (out, map_path(out)):
        if target.exists() and any(os.path.samefile(target, path) for path in paths):
            raise BuildError(f"--out {out}", f"{target.name} is a source of this build", "give another name")
    if out.is_dir() or (out.exists() and BUILT_BY not in out.read_text(encoding="utf-8", errors="replace")[:20_000]):
        raise BuildError(f"--out {out}", "is there and is no earlier build", "remove it, or give another name")


def argument_warnings(document: Document) -> list[str]:
    """A warning if a notebook's program asks for arguments and none are given."""
    library, reach = document.library, document.reach
    if document.form != "notebook" or any(part.arguments for part in library.parts):
        return []
    if not reads_arguments(reach.facts.values()):
        return []
    required = required_arguments([library.entry, *reach.modules.values()])
    return [f'{place} is required on the command line: give it by --args "..."' for place in required[:3]]


def entry_command(library: Library, out: Path, style: str) -> str:
    """The command that makes the same file again, typed in the entry's folder."""
    parts = ["python build_kernel.py"]
    for part in library.parts:
        parts += [f"--entry {part.module.label}"]
        parts += [f"--args {shlex.quote(shlex.join(part.arguments))}"] if part.arguments is not None else []
    if library.search:
        parts += [f"--package {path_to_type(library.search, path)}" for path in library.search.arguments]
        parts += [f"--data {path_to_type(library.search, path)}" for path in library.search.data]
    parts += [f"--out {out.name}", *([f"--style {style}"] if style != "auto" else [])]
    parts += [f"--trust {word}" for word in library.trust] + [f"--keep {shlex.quote(name)}" for name in library.keep]
    return " ".join(parts)


def path_to_type(search: SearchPath, path: Path) -> str:
    """An argument's path from the entry's folder; its name alone where machines differ: outside of the project."""
    absolute, folder = search.absolute(path), search.entry.parent
    is_own = absolute.is_relative_to(search.home) or absolute.is_relative_to(folder)
    return shlex.quote(Path(os.path.relpath(absolute, folder)).as_posix() if is_own else absolute.name)


def make_report(
    document: Document, path: Path, size: int, cells: list[Cell], owner: str | None, warnings: list[str]
) -> Report:
    """The report of a build."""
    library = document.library
    found = [f"{library.source(name).label}: {reason}" for name, reason in document.reasons.items()]
    reasons = [relabelled(text, library.entry.label, library.parts) for text in found]
    warnings = document.reach.warnings + warnings
    taken = [*library.taken.values(), *(document.reach.named.taken if document.reach.named else ())]
    modules = len({module.name for module in document.program.modules} if document.program else ()) or 1
    return Report(
        path,
        size=size,
        cells=len(cells),
        modules=modules - 1 + len(document.reasons),
        build_id=document.build_id(),
        owner=owner,
        dropped=dropped(document),
        renamed=document.naming.renamed() if document.naming else [],
        reasons=reasons,
        warnings=[relabelled(text, library.entry.label, library.parts) for text in warnings]
        + [text for module in library.sources.values() for text in module.warnings],
        undecided=document.reach.undecided() if document.reasons else [],
        taken=[relabelled(text, library.entry.label, library.parts) for text in taken],
    )
