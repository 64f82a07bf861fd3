"""Notebooks out of kernels/, by the flattener; what their settings cells hold; and traces of their logs."""

import argparse
import ast
import json
import pathlib
import re
from dataclasses import dataclass
from typing import Any

from desk import paths
from desk.errors import ConfigurationError
from desk.paths import AnyPath
from flattener.build import KernelRequest, build_report, kernel_text
from flattener.errors import BuildError
from flattener.kernel_head import read_head
from flattener.settings import SettingError, split_arguments
from flattener.source import Module
from flattener.trace import trace_log

DATA_HELP = "file or folder that the kernel reads, to be shipped with it"


@dataclass(frozen=True)
class Program:
    """What a kernel is built from.

    Attributes:
        given: the name of a file in kernels/, without .py, or the path of a script.
        packages: the folders of packages that it needs besides those that are found.
        data: the files and folders that it reads, shipped with it.
        arguments: of its command line; None: nothing is said of them.
        competition: the module of salt/ that describes another competition than its own; None: its own.
    """

    given: str
    packages: tuple[pathlib.Path, ...] = ()
    data: tuple[pathlib.Path, ...] = ()
    arguments: list[str] | None = None
    competition: str | None = None

    def request(self, out: pathlib.Path = paths.BUILD, **more: Any) -> KernelRequest:
        """What the flattener is asked for."""
        return KernelRequest(
            self.given, root=paths.ROOT, out=out, packages=self.packages, data=self.data, arguments=self.arguments,
            competition=self.competition, **more,
        )  # fmt: skip

    @property
    def kernel(self) -> str:
        """The kernel's name: that of its file."""
        return self.request().kernel

    @property
    def label(self) -> str:
        """How messages name its file."""
        request = self.request()
        return f"kernels/{request.source.name}" if request.in_kernels else self.given


def add_program_options(parser: argparse.ArgumentParser, data_help: str = DATA_HELP) -> None:
    """The options that say what a kernel is built from, besides its name."""
    parser.add_argument(
        "--package", metavar="DIR", type=pathlib.Path, action="append", default=[],
        help="folder of a package that the kernel needs",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="PATH", type=pathlib.Path, action="append", default=[],
        help=data_help,
    )  # fmt: skip
    parser.add_argument("--competition", metavar="C", help="for another competition: the module of salt/ that says it")
    parser.add_argument("--args", metavar="TEXT", help='its command line, such as --args "--fold 0 --lr 1e-3"')


def read_program(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Program:
    """What the options of `add_program_options` and NAME say."""
    try:
        arguments = None if options.args is None else split_arguments(options.args)
    except SettingError as error:
        parser.error(str(error))
    return Program(options.name, tuple(options.package), tuple(options.data), arguments, options.competition)


def build_notebook(
    program: Program, owner: str, out: pathlib.Path, *, preset: str | None = None, settings: dict | None = None,
    run_id: str = "", resume: str = "",
) -> tuple[pathlib.Path, list[str]]:  # fmt: skip
    """Builds the folder of a kernel in `out`; returns it and what there is to warn of.

    Args:
        program: what it is built from.
        owner: whose kernel it becomes on Kaggle.
        out: where its folder is made.
        preset, settings, run_id, resume: what replaces PRESET, SET, RUN_ID and RESUME in its settings cell.

    Raises:
        ConfigurationError: it cannot be built.
    """
    try:
        request = program.request(
            out, settings=settings or {}, run_id=run_id, preset=preset, owner=owner, resume=resume
        )
        report = build_report(request)
    except BuildError as error:
        raise ConfigurationError(str(error)) from error
    return pathlib.Path(report.path), report.warnings


def kernel_competitions(program: Program) -> list[str]:
    """The competitions that the head of a kernel names, as far as it can be read; a build tells what is wrong."""
    request = program.request()
    try:
        module = Module("__main__", request.source.name, kernel_text(request), is_entry=True)
        return list(read_head(module, program.kernel).get("competition_sources", []))
    except (BuildError, OSError, UnicodeDecodeError):
        return []


def kernel_preset(program: Program) -> str | None:
    """The PRESET in the settings cell of a kernel; None if there is none."""
    path = program.request().source
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    cells = [cell for cell in re.split(r"^# %%", source, flags=re.MULTILINE)[1:] if "parameters" in cell.split("\n")[0]]
    try:
        return constants("".join(f"#{cell}" for cell in cells)).get("PRESET")
    except SyntaxError:  # which the build tells better
        return None


def read_parameters(notebook: AnyPath) -> dict:
    """The constants in the cell tagged "parameters" of a built notebook, by name."""
    cells = json.loads(pathlib.Path(notebook).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    return constants("\n".join(sources))


def constants(source: str) -> dict:
    """The values that a program gives to names at its top; None for a computed one, which cannot be read from here."""
    values = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                values[statement.targets[0].id] = None
    return values


def trace(log: pathlib.Path, built: pathlib.Path) -> str:
    """A log's text, with the lines of the package's files instead of those of cells, if `built` has the map for it."""
    for map_file in sorted(built.glob("*.map.json"))[:1]:
        try:
            return trace_log(log, map_file)
        except BuildError:
            break
    return log.read_text(encoding="utf-8")
