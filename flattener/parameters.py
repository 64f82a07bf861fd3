"""The settings cell of a kernel: its values, what a build writes into it, and whether the package takes them."""

import ast
import dataclasses
import hashlib
import runpy  # flat: ok
from pathlib import Path
from typing import Any

from flattener.cells import Cell
from flattener.errors import BuildError
from flattener.library import Library
from flattener.source import Module, python_literal

HOW_TO_CHECK = "give it `PRESETS` and `preset(name, **changes)`, as salt/config.py has them"


def settings_values(cell: Cell | None) -> dict[str, Any]:
    """The values of the settings cell, each a line `NAME = literal`."""
    nodes = [node for node in ast.parse(cell.text).body if isinstance(node, ast.Assign)] if cell else []
    names = [(target, node.value) for node in nodes for target in node.targets]
    return {target.id: ast.literal_eval(value) for target, value in names if isinstance(target, ast.Name)}


def fill_settings(entry: Module, cell: Cell | None, values: dict[str, Any]) -> Cell | None:
    """The settings cell of an entry with some values written into it."""
    for name, value in values.items():
        if cell is None:
            entry.refuse(1, f"no settings cell for {name}", 'begin one with # %% tags=["parameters"]')
        cell = with_setting(entry, cell, name, value)
    return cell


def with_setting(entry: Module, cell: Cell, name: str, value: Any) -> Cell:
    """The settings cell with a value in its line `NAME = ...`; the comment behind it stays."""
    lines = list(cell.lines)
    for node in ast.parse(cell.text).body:
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == name
            and node.value.lineno == node.value.end_lineno
        ):
            line = lines[node.lineno - 1]
            row = line.text.encode()
            start, end = node.value.col_offset, node.value.end_col_offset
            text = (row[:start] + python_literal(value).encode() + row[end:]).decode()
            lines[node.lineno - 1] = line._replace(text=text)
            return dataclasses.replace(cell, lines=lines)
    entry.refuse(cell.lines[0].number if cell.lines else 1, f"the settings cell has no line {name} = ...", "write one")


def check_run_settings(library: Library, values: dict[str, Any]) -> None:
    """Has the package's own `preset` check preset and settings, so that a bad one fails here and not on Kaggle."""
    tops = sorted({name.partition(".")[0] for name in library.sources if name != "__main__"})
    paths = [library.packages[top] / "config.py" for top in tops]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        if values.get("SET"):
            raise BuildError(
                "--set", "none of the kernel's packages has a config.py, to check the settings by", HOW_TO_CHECK
            )
        return
    config = load_config(path)
    if not {"preset", "PRESETS"} <= config.keys():
        raise BuildError(f"{path.name}:1", "has no `preset` and `PRESETS`, to check the settings by", HOW_TO_CHECK)
    # A kernel without a PRESET line changes settings that it finds at its start: some preset must take the changes.
    candidates = [values["PRESET"]] if "PRESET" in values else list(config["PRESETS"])
    refused = None
    for candidate in candidates:
        try:
            config["preset"](candidate, **values.get("SET", {}))
            return
        except (ValueError, TypeError) as error:
            refused = error
    option = "--set" if values.get("SET") else "--preset"
    raise BuildError(option, str(refused).rstrip("."), f"give what {path.name} takes")


def load_config(path: Path) -> dict[str, Any]:
    """The names that a file binds when it is run, under a name by which no other code can import it."""
    name = "_build_kernel_config_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    try:
        return runpy.run_path(str(path), run_name=name)  # flat: ok, the file is the user's and imports nothing of this
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise BuildError(f"{path.name}:1", f"cannot be run to check the settings: {reason}", "correct it") from error
