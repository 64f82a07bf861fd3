"""What the rows of a competition's tables say, by its description: tiles, classes and run lengths. No pixels.

A tile's mask of one class is a list of run-length texts, one for each of its rows; without a pixel it is an empty list.
"""

import csv
import io
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from salt.archives import DataError, Place
from salt.description import Competition, Table
from salt.limits import MOST_ROWS


class Row(NamedTuple):
    """A row of a table: the number of its line, its tile, the number of its class, and the text of its mask."""

    line: int
    tile: str
    label: int
    mask: str


def read_rows(path: str | pathlib.Path | Place, table: Table, competition: Competition) -> tuple[Table, list[Row]]:
    """The rows of a table of masks, in whichever of its forms the file has, and that form.

    All fields are text: no id becomes a number, no "NA" a missing value. The order of the columns is free, and others
    may stand beside them.

    Raises:
        DataError: no readable CSV file, no such columns, no rows, or a row whose fields are not as the description
            says; the message names the line and what would fit.
    """
    header, lines = read_fields(path)
    form = fitting_form(path, table, header)
    patterns = [(header.index(name), template_pattern(text), text) for name, text in form.columns.items()]
    classes = {name: number for number, name in enumerate(competition.classes)}
    single = len(competition.classes) == 1
    rows: list[Row] = []
    for number, fields in enumerate(lines, start=2):
        if len(fields) != len(header):
            raise DataError(f"{path}: line {number} has {len(fields)} fields, the first line {len(header)}")
        found: dict[str, str] = {}
        for column, pattern, text in patterns:
            match = pattern.fullmatch(fields[column])
            if not fields[column] and text != "{mask}":
                raise DataError(f"{path}: line {number} has no {header[column]}")
            if match is None:
                raise DataError(
                    f"{path}: line {number} has {fields[column]!r} as {header[column]}, which is not of the form "
                    f"{text!r}; correct the description, or the file"
                )
            found.update(match.groupdict())
        label = 0 if single else classes.get(found["label"], -1)
        if label < 0:
            raise DataError(
                f"{path}: line {number} is of class {found['label']!r}; the description has {', '.join(classes)}"
            )
        rows.append(Row(number, found["tile"], label, found.get("mask", "")))
    if not rows:
        raise DataError(f"{path}: holds no rows; expected at least one")
    return form, rows


def read_fields(path: str | pathlib.Path | Place) -> tuple[list[str], list[list[str]]]:
    """The first line of a CSV file, and the others, as lists of texts; blanks around a field are cut off.

    Raises:
        DataError: it is no readable CSV file, or has no line.
    """
    try:
        content = path.read_bytes() if isinstance(path, Place) else pathlib.Path(path).read_bytes()
        if content.count(b"\n") > MOST_ROWS:
            raise DataError(f"{path}: has more than {MOST_ROWS:,} lines; this is no table of masks")
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no readable CSV file ({error}); download it again") from error
    lines = [[field.strip() for field in fields] for fields in lines if fields]
    if not lines:
        raise DataError(f"{path}: is no readable CSV file (it is empty); the first line must name the columns")
    return lines[0], lines[1:]


def fitting_form(path: object, table: Table, header: Sequence[str]) -> Table:
    """The form of a table whose columns a file has.

    Raises:
        DataError: it has those of none.
    """
    forms = [table, *table.others]
    for form in forms:
        if set(form.columns) <= set(header):
            return form
    missing = [name for name in table.columns if name not in header]
    raise DataError(
        f"{path}: columns {list(header)} lack {missing}; the first line must name them, or the description the file's"
    )


def template_pattern(text: str) -> re.Pattern:
    """What matches the text of a column, see `Table`, as groups `tile`, `label`, `mask` and `number`."""
    names = {
        "{tile}": "(?P<tile>.+)",
        "{class}": "(?P<label>.+)",
        "{mask}": "(?P<mask>.*)",
        "{number}": "(?P<number>.*)",
    }
    pattern = re.escape(text)
    for name, group in names.items():
        pattern = pattern.replace(re.escape(name), group)
    return re.compile(pattern)


def fill_row(form: Table, tile: str, label: str, mask: str) -> list[str]:
    """The fields of a row, in the order of the columns."""
    values = {"{tile}": tile, "{class}": label, "{mask}": mask}
    fields = []
    for text in form.columns.values():
        for name, value in values.items():
            text = text.replace(name, value)
        fields.append(text)
    return fields


def masks_of_rows(
    path: object, form: Table, rows: Iterable[Row], competition: Competition
) -> dict[str, list[list[str]]]:
    """The run-length texts of each tile in a table, a list for each class, in the order in which tiles first occur.

    Raises:
        DataError: a mask has several rows although it has one for all of its objects, or, where each has a row, none.
    """
    count = len(competition.classes)
    masks: dict[str, list[list[str]]] = {}
    seen: dict[tuple[str, int], int] = {}
    for row in rows:
        texts = masks.setdefault(row.tile, [[] for _ in range(count)])
        key = (row.tile, row.label)
        if key in seen and (not form.objects or row.mask == form.empty):
            name = row_name(row.tile, row.label, competition)
            raise DataError(f"{path}: {name} has two rows, lines {seen[key]} and {row.line}; keep one of them")
        seen.setdefault(key, row.line)
        if row.mask != form.empty:
            texts[row.label].append(row.mask)
    if form.empty is not None and len(seen) < len(masks) * count:
        lacking = [(tile, label) for tile in masks for label in range(count) if (tile, label) not in seen]
        raise DataError(f"{path}: {row_name(*lacking[0], competition)} has no row, nor {len(lacking) - 1} others")
    return masks


def row_name(tile: str, label: int, competition: Competition) -> str:
    """How messages name a mask."""
    return repr(tile) if len(competition.classes) == 1 else f"{tile!r}, class {competition.classes[label]}"
