"""Notebooks out of kernels/, by the flattener; what their settings cells hold; and traces of their logs."""

import ast
import json
import pathlib
import re

from desk import paths
from desk.errors import ConfigurationError
from desk.paths import AnyPath
from flattener.build import KernelRequest, build_report
from flattener.errors import BuildError
from flattener.trace import trace_log


def build_notebook(
    kernel: str, owner: str, out: pathlib.Path, *, preset: str | None = None, settings: dict | None = None,
    run_id: str = "", resume: str = "",
) -> tuple[pathlib.Path, list[str]]:  # fmt: skip
    """Builds `out`/KERNEL/; returns that folder and what there is to warn of.

    Args:
        kernel: name of a file in kernels/, without .py.
        owner: whose kernel it becomes on Kaggle.
        out: where its folder is made.
        preset, settings, run_id, resume: what replaces PRESET, SET, RUN_ID and RESUME in its settings cell.

    Raises:
        ConfigurationError: it cannot be built.
    """
    try:
        request = KernelRequest(
            kernel, root=paths.ROOT, out=out, settings=settings or {}, run_id=run_id, preset=preset, owner=owner,
            resume=resume,
        )  # fmt: skip
        report = build_report(request)
    except BuildError as error:
        raise ConfigurationError(str(error)) from error
    return pathlib.Path(report.path), report.warnings


def kernel_preset(kernel: str) -> str | None:
    """The PRESET in the settings cell of kernels/KERNEL.py; None if there is none."""
    path = paths.ROOT / "kernels" / f"{kernel}.py"
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
