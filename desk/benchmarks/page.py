"""What the benchmark prints, and what it appends to BENCHMARKS.md."""

import importlib.metadata
import pathlib
import platform
import re
from collections.abc import Iterable

import numpy as np

from desk.benchmarks.timing import Measured, timed
from salt.files import whole_file

COLUMNS = ("work", "beside", "ours", "theirs", "ratio", "lowest to highest", "goal")
LIBRARIES = ("tensorflow", "keras", "numpy", "opencv-python-headless")


def table(rows: Iterable[Measured]) -> list[str]:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        unit = "s" if row.unit == "start" else f"{row.unit}s/s"
        theirs = speed(row.theirs, unit) if row.theirs else ""
        ratio = f"**{row.ratio[0]:.2f}**" if row.ratio else ""
        spread = f"{row.ratio[1]:.2f} to {row.ratio[2]:.2f}" if row.ratio else ""
        goal = f"{row.goal:g}: {'yes' if row.reached() else 'no'}" if row.goal is not None else ""
        cells = (row.name, row.peer, speed(row.ours, unit), theirs, ratio, spread, goal)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def speed(values: tuple[float, float, float], unit: str) -> str:
    """The median of items a second; of starts, which one waits for, the seconds of one."""
    if unit == "s":
        return f"{1 / values[0]:.2f} s"
    return f"{values[0]:,.0f} {unit}" if values[0] >= 10 else f"{values[0]:.2g} {unit}"


def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The processor's name, as Linux tells it."""
    path = pathlib.Path(cpuinfo)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def measured_peak(side: int = 2048, megabytes: int = 256) -> str:
    """What this machine reaches at best: products of float32 matrices, and copies of memory larger than any cache.

    Every figure of a network can be held against it: its counted operations by the first, its bytes by the second.

    Args:
        side: of the square matrices.
        megabytes: that are copied.
    """
    left, block = np.ones((side, side), np.float32), np.ones(megabytes * 2**17)
    target = np.empty_like(block)
    product = min(timed(lambda: left @ left)() for _ in range(5))
    copy = min(timed(lambda: np.copyto(target, block))() for _ in range(5))
    return f"peak {2e-9 * side**3 / product:,.0f} GFLOP/s (float32), {2e-9 * block.nbytes / copy:.0f} GB/s"


def versions() -> str:
    """Python's version and those of the libraries that matter for speed."""
    return ", ".join([f"Python {platform.python_version()}", *map(library_version, LIBRARIES)])


def library_version(name: str) -> str:
    """A library and its version."""
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} of another name"


def append(path: pathlib.Path, title: str, lines: list[str]) -> None:
    """Puts a section in front of those that are there, behind the page's head."""
    text = path.read_text(encoding="utf-8")
    head, mark, sections = text.partition("\n## ")
    new = "\n".join([f"\n## {title}", "", *lines, ""])
    with whole_file(path) as temporary:
        temporary.write_text(head + new + mark + sections, encoding="utf-8")
