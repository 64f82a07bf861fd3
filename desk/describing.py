"""A first description of a competition, from a folder of its files: what is seen in them, what is guessed, and why."""

import collections
import csv
import functools
import io
import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from desk.errors import ConfigurationError
from salt.archives import DataError, Folder, Place, plain_name, unzipped
from salt.data import PictureReader
from salt.description import Files
from salt.pictures import decode_png
from salt.rle import RLEError, decode_rles
from salt.tables import template_pattern

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif")
DECODERS = {".jpg": "decode_jpeg", ".jpeg": "decode_jpeg", ".png": "decode_png", ".gif": "decode_gif"}
TEMPLATES = (
    "{tile}",
    *(f"{{tile}}{suffix}" for suffix in SUFFIXES),
    *(f"{{tile}}{suffix}_{{class}}" for suffix in SUFFIXES),
    "{tile}_{class}",
)
RUNS = re.compile(r"\d+ \d+( \d+ \d+)*")
LOOKED_AT = 20  # pictures, and masks
MEASURED = 1000  # pictures, spread over all of them, the heads of whose files tell their sizes
DEPTH = 3  # of folders below the one that is given


@dataclass
class Draft:
    """What becomes a description.

    Attributes:
        values: source texts of the fields of `Competition`, by name.
        remarks: what was seen or guessed, and why.
    """

    values: dict[str, str] = field(default_factory=dict)
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def put(self, name: str, value: str, why: str) -> None:
        """Notes a field and the reason for its value."""
        self.values[name] = value
        self.remarks.append((f"{name}={value}", why))


def draft_description(slug: str, data: pathlib.Path) -> Draft:
    """Looks at a folder of a competition's files.

    Raises:
        ConfigurationError: there is no table of masks, or there are no pictures that belong to it.
    """
    draft = Draft()
    words = [word for word in re.split(r"[-_ ]+", slug) if word]
    draft.put("slug", repr_of(slug), "given")
    draft.put(
        "label", repr_of(words[0].capitalize()), "the first word of the slug; it begins the titles of the kernels"
    )
    draft.put("title", repr_of(" ".join(words).capitalize()), "from the slug")
    draft.put("target", repr_of("objects"), "a guess: what a mask marks, in a word")
    pictures, tables = look_into(Folder(Place(data)) if data.is_dir() else unzipped(Place(data)))
    masks = {name: rows for name, rows in tables.items() if mask_column(rows) is not None}
    sample = next((name for name in tables if name.startswith("sample")), None)
    train = max((name for name in masks if name != sample), key=lambda name: len(masks[name]), default=None)
    if train is None:
        seen = ", ".join(tables) or "no table at all"
        raise ConfigurationError(f"{data}: none of its tables has a column of run lengths (there is {seen})")
    columns, ids, classes = table_columns(train, tables[train], pictures)
    images = next((each for each in pictures if ids <= set(each.names)), None)
    if images is None:
        images = max(pictures, key=lambda each: len(ids & set(each.names)))
    describe_pictures(draft, images, pictures, ids)
    describe_table(draft, "train_table", train, tables[train], columns)
    if sample is not None:
        describe_table(
            draft, "sample_submission", sample, tables[sample], table_columns(sample, tables[sample], pictures)[0]
        )
    else:
        draft.put("sample_submission", draft.values["train_table"].replace(train, "sample_submission.csv"), "a guess")
    texts = ", ".join(map(repr_of, classes))
    draft.put(
        "classes",
        f"({texts})" if len(classes) > 1 else f"({texts},)",
        "what stands in place of {class}" if len(classes) > 1 else "one mask a tile",
    )
    describe_order(draft, tables[train], columns, images)
    draft.put("metric", "DICE", "a guess: no file says it; salt/metrics.py has others")
    return draft


@dataclass
class Pictures:
    """A folder of pictures: where it lies, the suffix of its files, and the names without it."""

    place: Place
    folder: str
    suffix: str
    names: dict[str, str]

    def read(self, name: str) -> bytes:
        """The bytes of one of them."""
        if self.place.path.is_dir():
            return (self.place.path / self.names[name]).read_bytes()
        return Place(self.place.path, self.place.zips, self.names[name]).read_bytes()

    def size(self, name: str) -> tuple[int, int] | None:
        """Height and width of one of them, by the head of its file; None: it is no picture."""
        try:
            return self.reader.size(name)
        except DataError:
            return None

    @functools.cached_property
    def reader(self) -> PictureReader:
        """What reads the heads of their files."""
        return PictureReader(self.place, Files(self.folder, self.suffix, decode_png))


def look_into(folder: Folder, above: str = "", depth: int = DEPTH) -> tuple[list[Pictures], dict[str, list[list[str]]]]:
    """The folders of pictures in a folder or a zip, and its tables as rows of texts, by their names."""
    pictures: list[Pictures] = []
    tables: dict[str, list[list[str]]] = {}
    kinds = collections.Counter(pathlib.PurePosixPath(place.name).suffix.casefold() for place in folder.files())
    for suffix in SUFFIXES:
        if kinds[suffix]:
            pictures.append(Pictures(folder.place, above.strip("/"), suffix, folder.pictures(suffix)))
    for place in folder.files():
        if place.name.casefold().endswith(".csv"):
            text = place.read_bytes().decode("utf-8-sig", "replace")
            tables[place.name] = list(csv.reader(io.StringIO(text, newline="")))
    if depth:
        for inner, name in inner_folders(folder):
            stem = name.removesuffix(".zip").removesuffix(".csv")
            path = above if plain_name(stem) == plain_name(above.strip("/").rpartition("/")[2]) else f"{above}{stem}/"
            found, more = look_into(inner, path if "." not in stem else above, depth - 1)
            pictures, tables = pictures + found, {**more, **tables}
    return pictures, tables


def inner_folders(folder: Folder) -> Iterator[tuple[Folder, str]]:
    """The folders in a folder, zips among them, with their names."""
    yield from ((inner, inner.place.name) for inner in folder.folders())
    for place in folder.files():
        if place.name.casefold().endswith(".zip") and not place.zips:
            yield unzipped(place), place.name


def mask_column(rows: list[list[str]]) -> int | None:
    """The column that holds run lengths, if there is one."""
    for column in range(len(rows[0]) if rows else 0):
        fields = [row[column].strip() for row in rows[1:] if len(row) > column]
        filled = [text for text in fields if text not in ("", "-1")]
        if filled and all(RUNS.fullmatch(text) for text in filled[:1000]):
            return column
    return None


def table_columns(
    name: str, rows: list[list[str]], pictures: list[Pictures]
) -> tuple[dict[str, str], set[str], list[str]]:
    """The columns of a table as templates, the tiles that it names, and the classes.

    Raises:
        ConfigurationError: no column names pictures.
    """
    header, masks = rows[0], mask_column(rows)
    stems = {stem for each in pictures for stem in each.names}
    for column, title in enumerate(header):
        fields = [row[column].strip() for row in rows[1:] if len(row) > column]
        for template in TEMPLATES:
            pattern = template_pattern(template)
            found = [pattern.fullmatch(text) for text in fields[:2000]]
            if not fields or not all(found) or {match["tile"] for match in found if match}.isdisjoint(stems):
                continue
            matches = [match for match in map(pattern.fullmatch, fields) if match]
            columns = {title: template}
            classes = sorted({match["label"] for match in matches}) if "{class}" in template else []
            for other, text in enumerate(header):
                values = {row[other].strip() for row in rows[1:] if len(row) > other}
                if other == masks:
                    columns[text] = "{mask}"
                elif other != column and not classes and len(values) <= 50:
                    columns[text], classes = "{class}", sorted(values)
            if masks is None:  # a sample without any mask: the last column is theirs
                columns[header[-1]] = "{mask}"
            return columns, {match["tile"] for match in matches}, classes or ["mask"]
    raise ConfigurationError(
        f"{name}: no column names a picture; it has {', '.join(header)}, and pictures are called {sorted(stems)[:3]}"
    )


def describe_table(draft: Draft, part: str, name: str, rows: list[list[str]], columns: dict[str, str]) -> None:
    """Notes a table: its columns, whether a mask has several rows, and how an empty one is written."""
    header, order = rows[0], [title for title in rows[0] if title in columns]
    keys = collections.Counter(
        tuple(row[header.index(title)] for title in order if columns[title] != "{mask}") for row in rows[1:]
    )
    mask = header.index(next(title for title in order if columns[title] == "{mask}"))
    texts = {row[mask].strip() for row in rows[1:] if len(row) > mask}
    # A sample has one row for each tile, even where a submission may have several.
    objects = max(keys.values(), default=1) > 1 or "objects=True" in draft.values.get("train_table", "")
    empty = next((text for text in ("-1", "") if text in texts), None if part == "train_table" else "")
    more = (", objects=True" if objects else "") + ("" if empty == "" else f", empty={empty!r}".replace("'", '"'))
    listed = ", ".join(f'"{title}": "{columns[title]}"' for title in order)
    why = f"{len(rows) - 1:,} rows; " + ("several rows a mask" if objects else "one row a mask")
    why += f"; an empty mask {'has no row' if empty is None else f'is {empty!r}'}"
    draft.put(part, f'Table("{name}", {{{listed}}}{more})', why)


def describe_pictures(draft: Draft, images: Pictures, pictures: list[Pictures], ids: set[str]) -> None:
    """Notes where images and masks lie, their size and their channels."""
    looked_at = coloured = 0
    for name in sorted(images.names)[:LOOKED_AT]:
        pixels = cv2.imdecode(np.frombuffer(images.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None:
            looked_at += 1
            coloured += pixels.ndim == 3 and bool((pixels[..., :1] != pixels[..., :3]).any())
    if not looked_at:
        raise ConfigurationError(f"{images.place}: none of its first {LOOKED_AT} pictures can be decoded")
    measured = sorted(images.names)[:: -(-len(images.names) // MEASURED)]
    sizes = collections.Counter(filter(None, map(images.size, measured)))
    (height, width), count = sizes.most_common(1)[0]
    said = f"{count:,} of {len(measured):,} images that were looked at have {width} x {height} pixels"
    if len(sizes) > 1:
        said += f", and others up to {max(side[1] for side in sizes)} x {max(side[0] for side in sizes)}"
    draft.put("size", f"({height}, {width})" if len(sizes) == 1 else "None", said)
    draft.put("channels", "3" if coloured else "1", f"{coloured} of them are coloured")
    draft.put("train_images", files_of(images), f"{len(ids & set(images.names)):,} of the table's {len(ids):,} tiles")
    test = next((each for each in pictures if each is not images and "test" in each.folder.casefold()), None)
    if test is None:
        draft.put("test_images", files_of(images).replace("train", "test"), "a guess: there are none")
    else:
        draft.put("test_images", files_of(test), f"{len(test.names):,} pictures; its name says test")
    masks = next((each for each in pictures if "mask" in each.folder.casefold()), None)
    if masks is not None:
        end = re.sub(r"^.*?(_mask)?$", r"\1", next(iter(masks.names)))
        draft.put(
            "train_masks", files_of(masks, end), f"{len(masks.names):,} pictures; the name of the folder says masks"
        )


def files_of(pictures: Pictures, end: str = "") -> str:
    """The source text of a `Files`."""
    return f'Files("{pictures.folder}", "{end}{pictures.suffix}", {DECODERS[pictures.suffix]})'


def describe_order(draft: Draft, rows: list[list[str]], columns: dict[str, str], images: Pictures) -> None:
    """Notes how run lengths number the pixels: in the order in which the masks have fewer edges.

    Args:
        draft: that gets the notes.
        rows: of the table of masks.
        columns: of the table, as templates.
        images: whose sizes the masks have.
    """
    title = next(title for title, text in columns.items() if "{tile}" in text)
    column, masks, pattern = rows[0].index(title), mask_column(rows), template_pattern(columns[title])
    assert masks is not None
    filled = [row for row in rows[1:] if len(row) > max(masks, column) and row[masks].strip() not in ("", "-1")]
    texts = {}
    for row in sorted(filled, key=lambda row: len(row[masks]))[-LOOKED_AT:]:
        match = pattern.fullmatch(row[column].strip())
        if match and match["tile"] in images.names and (size := images.size(match["tile"])):
            texts[row[masks].strip()] = size
    first = 0 if any(text.split()[0] == "0" for text in texts) else 1
    edges = dict.fromkeys((False, True), 0)
    for by_rows in edges:
        for text, size in texts.items():
            try:
                mask = decode_rles([text], size, None, by_rows, first)[0].astype(np.int8)
            except RLEError as error:
                raise ConfigurationError(f"its masks are none of {size[1]} x {size[0]} pixels: {error}") from error
            edges[by_rows] += int(np.abs(np.diff(mask, axis=0)).sum() + np.abs(np.diff(mask, axis=1)).sum())
    by_rows = edges[True] < edges[False]
    why = f"so {len(texts)} masks have {edges[by_rows]:,} edges between pixels, else {edges[not by_rows]:,}"
    draft.put("rle_by_rows", str(by_rows), why)
    draft.put("rle_first", str(first), "a run begins at 0" if first == 0 else "no run that was looked at begins at 0")


def description_text(draft: Draft) -> str:
    """The source of the module."""
    values = dict(draft.values)
    for name, usual in (("rle_by_rows", "False"), ("rle_first", "1")):
        if values[name] == usual:
            del values[name]
    used = sorted({name for text in values.values() for name in re.findall(r"decode_\w+", text)})
    first = ("slug", "label", "title", "target", "size", "channels", "classes", "metric")
    lines = [f"    {name}={values.pop(name)}," for name in first] + [
        f"    {name}={text}," for name, text in values.items()
    ]
    title = draft.values["title"].strip('"')
    return "\n".join(
        [
            f'"""{title}: described from its files; see docs/your-competition.md."""',
            "",
            "from salt.description import Competition, Files, Table",
            "from salt.metrics import DICE",
            f"from salt.pictures import {', '.join(used)}",
            "",
            "COMPETITION = Competition(",
            *lines,
            ")",
            "",
        ]
    )


def repr_of(text: str) -> str:
    """A text as Python source, in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
