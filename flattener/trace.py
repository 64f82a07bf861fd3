"""From the lines of a build, or of its log, back to the source."""

import contextlib
import functools
import json
import re
import struct
from pathlib import Path
from typing import Any

from flattener.cells import KEPT_CELLS, Cell
from flattener.errors import BuildError
from flattener.lines import Line
from flattener.modules_style import MODULE_HEAD_LINE
from flattener.path_values import MAP_SUFFIX

FRAMES = (  # what a frame of a traceback looks like: by Python, and by IPython
    re.compile(r'File "(?P<path>[^"\n]+)", line (?P<line>\d+)'),
    re.compile(r"File (?P<path>[^\s:,]+\.py):(?P<line>\d+)"),
    re.compile(r"(?:Cell )?In(?:put)? ?\[(?P<cell>\d+)\], (?:line|in <cell line:) (?P<line>\d+)>?"),
)
CELL_FILE = re.compile(r"<ipython-input-(?P<cell>\d+)-\w+>|.*ipykernel_\d+[/\\](?P<hash>\d+)\.py")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def map_path(out: Path) -> Path:
    """Where the map of a build lies: beside the file that it is for."""
    return out.with_name(f"{out.name}{MAP_SUFFIX}")


def map_text(cells: list[Cell], form: str, name: str, head: str = "") -> str:
    """The map of a build as JSON: for each text of it, runs of lines as [line, count, source file, source line].

    A text is the script, a cell by its execution count, or a file that the program writes. `hashes` leads from the
    number in the file name that ipykernel gives a cell to its execution count.
    """
    texts: dict[str, list[list[Any]]] = {}
    hashes: dict[str, int] = {}
    count = 0
    row = 1 + (len(head.splitlines()) + 1 if head else 0)
    for cell in cells:
        lines, at = cell.lines, row + 1  # below the mark `# %%`
        row = at + len(lines) + 1
        if cell.kind != "code":
            continue
        count += 1
        if cell.is_file:
            texts[lines[0].text.split()[1]] = runs(lines[1:])
            continue
        if form == "script":
            texts.setdefault(name, []).extend(runs(lines, at))
            if MODULE_HEAD_LINE.match(lines[0].text):
                texts[lines[0].label] = runs(lines[1:])
        else:
            texts[str(count)] = runs(lines)
            hashes[str(murmur2(cell.text.encode(), 0xC70F6907))] = count
    rows = [f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(value)}" for key, value in texts.items()]
    return '{"hashes": ' + json.dumps(hashes) + ',\n "texts": {\n' + ",\n".join(rows) + "\n}}\n"


def runs(lines: list[Line], first: int = 1) -> list[list[Any]]:
    """The lines that come from a source file, as [line, count, source file, source line]; they count from `first`."""
    found: list[list[Any]] = []
    for row, line in enumerate(lines, first):
        if not line.label or not line.number:
            continue
        if found and found[-1][0] + found[-1][1] == row and found[-1][2:] == [line.label, line.number - found[-1][1]]:
            found[-1][1] += 1
        else:
            found.append([row, 1, line.label, line.number])
    return found


@functools.lru_cache(KEPT_CELLS)
def murmur2(data: bytes, seed: int) -> int:
    """MurmurHash2 of 32 bits (Austin Appleby), by which ipykernel names the file of a cell."""
    mixer, mask = 0x5BD1E995, 0xFFFFFFFF
    value = (seed ^ len(data)) & mask
    for word in struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4]):
        part = word * mixer & mask
        value = value * mixer & mask ^ (part ^ part >> 24) * mixer & mask
    rest = data[len(data) // 4 * 4 :]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * mixer & mask
    value = (value ^ value >> 13) * mixer & mask
    return value ^ value >> 15


def trace_log(log: Path, map_file: Path | None, builds: Path | None = None) -> str:
    """A log's text, in which each frame that the map knows shows `package/module.py:line`.

    Args:
        log: Kaggle's JSON array of {stream_name, time, data}, or plain text.
        map_file: written beside the build; None: the only one beside the log or below `builds`.
        builds: the folder in which the builds lie.

    Raises:
        BuildError: no log, no map, or more than one that could be meant.
    """
    if map_file is None:
        found = sorted(log.parent.glob("*.map.json"))
        if not found and builds is not None:
            found = sorted(builds.glob("*/*.map.json"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise BuildError(f"--trace {log.name}", f"which map? There are: {names}", "give one by --map")
        map_file = found[0]
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
        known = json.loads(map_file.read_text(encoding="utf-8"))
        texts, hashes = known["texts"], known["hashes"]
    except (OSError, ValueError, KeyError) as error:
        option = f"--trace {log.name}" if getattr(error, "filename", "") == str(log) else f"--map {map_file.name}"
        raise BuildError(
            option, f"cannot be read: {error}", "give the log of a run, and the .map.json of its build"
        ) from None
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        text = "".join(part.get("data", "") for part in json.loads(text))

    def source(found: re.Match[str]) -> str:
        names = found.groupdict()
        key, path = names.get("cell"), names.get("path", "")
        cell = CELL_FILE.fullmatch(path)
        if cell:
            key = cell["cell"] or str(hashes.get(cell["hash"], ""))
        elif path:
            parts = path.replace("\\", "/").split("/")
            tails = ["/".join(parts[at:]) for at in range(len(parts))]
            key = next((tail for tail in tails if tail in texts), None)
        for row, count, label, number in texts.get(key, []):
            if row <= int(found["line"]) < row + count:
                return f"File {label}:{int(found['line']) - row + number}"
        return found[0]

    text = COLOURS.sub("", text)
    for pattern in FRAMES:
        text = pattern.sub(source, text)
    return text
