"""A whole build: a kernel of this repository, or a script of another, from its source to the files on disk."""

import json
import os
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flattener.analysis import analyse
from flattener.cells import Cell, notebook_text, script_head, script_text
from flattener.checks import check_document, compile_text, find_leaks
from flattener.documents import Document
from flattener.errors import BuildError
from flattener.kaggle import MAX_BYTES, SOURCES, find_owner, kernel_metadata
from flattener.kernel_head import read_head
from flattener.library import Library
from flattener.parameters import check_run_settings, fill_settings, settings_values
from flattener.settings import setting_text
from flattener.source import Module
from flattener.trace import map_path, map_text

WARN_BYTES = 800_000


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


@dataclass(frozen=True)
class KernelRequest:
    """A build of kernels/NAME.py.

    Attributes:
        name: of the kernel.
        root: the repository.
        out: the folder in which the folder NAME is made, or replaced.
        settings: changes of the preset, written into the line `SET = {}`.
        preset: written into the line `PRESET = ...`; None: what the kernel says.
        run_id: written into the line `RUN_ID = ""`; empty: the kernel makes one at its start.
        resume: written into the line `RESUME = ""`; empty: nothing is resumed.
        owner: Kaggle name; None: from KAGGLE_USERNAME or kaggle.json, or none.
        form: "notebook" or "script".
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

    @property
    def command(self) -> str:
        """The command that makes the same kernel again, but for its owner and its run."""
        parts = ["python build_kernel.py", self.name]
        parts += [f"--preset {self.preset}"] if self.preset else []
        parts += [f"--set {shlex.quote(setting_text(key, value))}" for key, value in self.settings.items()]
        parts += ["--format script"] if self.form == "script" else []
        return " ".join(parts)


def build_report(request: KernelRequest) -> Report:
    """Builds a kernel into a folder that `kaggle kernels push -p FOLDER` takes.

    Raises:
        BuildError: the kernel, its settings, or something that it imports cannot be built.
    """
    name, form, root = request.name, request.form, request.root.resolve()
    library = kernel_library(name, root)
    kaggle = read_head(library.entry)
    document = analyse(library, form)
    build_id = document.build_id()
    values = settings_values(document.settings)
    changes = {
        "PRESET": request.preset,
        "SET": request.settings,
        "RUN_ID": request.run_id,
        "RESUME": request.resume,
        "BUILD_ID": build_id if "BUILD_ID" in values else None,
    }
    changes = {key: value for key, value in changes.items() if value}
    settings = fill_settings(library.entry, document.settings, changes)
    check_run_settings(library, values | changes)
    cells = document.cells(
        kaggle["title"], introduction(library.entry, kaggle, request.command, build_id), settings=settings
    )
    check_document(document, cells)
    leaks = find_leaks(cells, root)
    if leaks:
        raise BuildError("not for publication: " + "; ".join(leaks))
    owner = find_owner(request.owner)
    metadata = kernel_metadata(kaggle, name, form, owner)
    code_file, head = metadata["code_file"], script_head(library.entry)
    text = notebook_text(cells) if form == "notebook" else script_text(cells, head)
    if form == "script":
        compile_text(text, code_file)
    size = len(text.encode())
    if size > MAX_BYTES:
        raise BuildError(f"{code_file} has {size:,} bytes; Kaggle takes {MAX_BYTES:,}. Remedy: ship data as a dataset.")
    files = {
        code_file: text,
        "kernel-metadata.json": json.dumps(metadata, indent=2, ensure_ascii=False) + "\n",
        map_path(Path(code_file)).name: map_text(cells, form, code_file, head),
    }
    folder = write_folder(request.out / name, files)
    return make_report(document, folder, size, cells, owner, size_warnings(code_file, size))


def kernel_library(name: str, root: Path) -> Library:
    """A kernel of a repository, with all packages at its top level."""
    source = root / "kernels" / f"{name}.py"
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or not source.is_file():
        known = ", ".join(sorted(path.stem for path in (root / "kernels").glob("*.py"))) or "none"
        raise BuildError(f"there is no kernel {name!r} in kernels/; there are: {known}")
    packages = {path.parent.name: path.parent for path in sorted(root.glob("*/__init__.py"))}
    return Library(source, packages, f"kernels/{name}.py", beside=root)


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
            f"- Built by `{command}` from `{module.label}`; build id `{build_id}`",
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
                raise BuildError(f"{folder.name}: this folder is no earlier build. Remedy: choose another --out.")
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
                found.append(f"{module.name}.{name}")
    return sorted(found)


def build_entry(entry: Path, packages: list[Path], out: Path, style: str = "auto") -> Report:
    """Flattens a script with its packages into one file, .py or .ipynb.

    Args:
        entry: the script.
        packages: folders of packages, or modules that are a single file.
        out: the file to write, and beside it `NAME.py.map.json`, which leads from its lines back to the source.
        style: "auto", "flat" or "modules"; see `analyse`.

    Raises:
        BuildError: the program cannot be flattened; the message says why, where, and what to do.
    """
    form = {".py": "script", ".ipynb": "notebook"}.get(out.suffix)
    if form is None:
        raise BuildError(f"--out {out.name}: give a name that ends in .py or .ipynb")
    for path in [entry, *packages]:
        if not path.exists():
            raise BuildError(f"{path}: does not exist")
    named = {path.resolve().with_suffix("").name if path.is_file() else path.resolve().name: path for path in packages}
    library = Library(entry.resolve(), {name: path.resolve() for name, path in named.items()}, entry.name)
    document = analyse(library, form, style)
    if document.settings:
        library.entry.refuse(1, "a cell tagged `parameters`", "use it in kernels/ only")
    title, _, rest = library.entry.docstring.partition("\n")
    intro = f"{rest.strip()}\n\n" if rest.strip() else ""
    intro += f"- Built by `{entry_command(entry, library, out, style)}`; "
    intro += f"build id `{document.build_id()}`\n- This file is generated: edit the package instead."
    cells = document.cells(title or entry.stem, intro)
    check_document(document, cells)
    text = notebook_text(cells) if form == "notebook" else script_text(cells)
    if form == "script":
        compile_text(text, out.name)
    size = len(text.encode())
    home = library.packages[min(library.packages)].parent if library.packages else entry.resolve().parent
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((out, text), (map_path(out), map_text(cells, form, out.name))):
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(content, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    return make_report(document, out, size, cells, None, find_leaks(cells, home) + size_warnings(out.name, size))


def entry_command(entry: Path, library: Library, out: Path, style: str) -> str:
    """The command that makes the same file again, with names instead of paths, which differ between machines."""
    parts = [f"python build_kernel.py --entry {entry.name}"]
    parts += [f"--package {path.name}" for path in library.packages.values()]
    parts += [f"--out {out.name}", *([f"--style {style}"] if style != "auto" else [])]
    return " ".join(parts)


def make_report(
    document: Document, path: Path, size: int, cells: list[Cell], owner: str | None, warnings: list[str]
) -> Report:
    """The report of a build."""
    reasons = [f"{document.library.source(name).label}: {reason}" for name, reason in document.reasons.items()]
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
        warnings=warnings,
    )
