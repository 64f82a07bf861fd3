"""Lines of the output, each with the source line that it comes from, and how they are put together to cells."""

from dataclasses import dataclass
from typing import NamedTuple

CELL_LINES = 80  # a code cell longer than this is split between two definitions


class Line(NamedTuple):
    """A line of the output, and the file and the line that it comes from; without a label it comes from none."""

    text: str
    label: str = ""
    number: int = 0


@dataclass
class Block:
    """A statement with its comments, or comments that stand alone; `gap`: the blank lines above it."""

    lines: list[Line]
    gap: int


def join_blocks(blocks: list[Block]) -> list[Line]:
    """The lines of some blocks, with the blank lines between them."""
    lines: list[Line] = []
    for block in blocks:
        if lines:
            lines += [Line("")] * block.gap
        lines += block.lines
    return lines


def split_blocks(blocks: list[Block]) -> list[list[Line]]:
    """Code cells of at most `CELL_LINES` lines, as long as no single block is longer."""
    cells: list[list[Block]] = []
    size = 0
    for block in blocks:
        if cells and size + block.gap + len(block.lines) <= CELL_LINES:
            cells[-1].append(block)
            size += block.gap + len(block.lines)
        else:
            # A comment that heads what follows goes with it.
            moved = [cells[-1].pop()] if cells and len(cells[-1]) > 1 and is_comment(cells[-1][-1]) else []
            cells.append([*moved, block])
            size = sum(len(each.lines) for each in cells[-1])
    return [join_blocks(cell) for cell in cells]


def is_comment(block: Block) -> bool:
    """Whether a block holds comments only."""
    return all(not line.text.strip() or line.text.lstrip().startswith("#") for line in block.lines)
