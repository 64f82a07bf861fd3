"""Self-contained HTML pages: a template of this folder, data and pictures in one file that makes no request.

A page's policy (Content-Security-Policy) forbids every request, and every script but its own, named by its hash. Data
comes as JSON, tables as deflated bytes, pictures as sheets of tiles in WebP; the page's script makes text nodes of what
is text, so that no name of a run or tile can be markup.
"""

import base64
import hashlib
import html
import json
import pathlib
import re
import zlib

import cv2
import numpy as np
from tqdm import tqdm

from desk.output import printable
from desk.paths import AnyPath
from salt.files import whole_file

PAGES = pathlib.Path(__file__).resolve().parent
STYLES = ("page.css", "figures.css")
IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (\{[^}]*\});$", re.MULTILINE)
SHEET_COLUMNS = 4
SHEET_TILES = SHEET_COLUMNS**2  # few: a page that shows one tile decodes its whole sheet
LOSSLESS = 101  # OpenCV's WebP quality above 100


def write_page(path: AnyPath, name: str, texts: dict[str, str], data: dict, blobs: dict[str, bytes]) -> None:
    """Writes a page, whole or not at all.

    Args:
        path: of the HTML file.
        name: of the template, `name`.html, and of the script `name`.js, which comes with all that it imports.
        texts: what stands for {{...}} in the template besides style, script and data; escaped here.
        data: what the script finds as JSON; no NaN.
        blobs: bytes by the id under which the script finds them, in the order in which they are needed.
    """
    style = "\n".join((PAGES / sheet).read_text(encoding="utf-8") for sheet in STYLES)
    script = bundle_scripts(name)
    parts = {
        **{key: html.escape(printable(text)) for key, text in texts.items()},
        "style": style,
        "script": script,
        "policy": f"default-src 'none'; img-src data:; style-src {text_hash(style)}; script-src {text_hash(script)}",
        "data": script_json(data),
    }
    template = (PAGES / f"{name}.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)  # in one pass: data may hold braces
    head, tail = page.split("<!-- blobs -->")
    with whole_file(pathlib.Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(head)
        for key, content in blobs.items():
            text = base64.b64encode(content).decode("ascii")
            file.write(f'<script type="application/octet-stream" id="{html.escape(key)}">{text}</script>\n')
        file.write(tail)


def bundle_scripts(name: str) -> str:
    """`name`.js and all that it imports as one script, since a page of one file has nothing to import.

    Each module becomes a function that is called once and returns what the module exports.
    """
    modules: dict[str, str] = {}

    def add(module: str, importers: tuple[str, ...]) -> None:
        if module in importers:
            raise ValueError(f"{' imports '.join([*importers, module])}: scripts import each other in a circle")
        if module in modules:
            return
        source = (PAGES / f"{module}.js").read_text(encoding="utf-8")
        for found in IMPORT.finditer(source):
            add(found[2], (*importers, module))
        body = EXPORT.sub(r"return \1;", IMPORT.sub(r"const \1 = modules.\2;", source))
        modules[module] = f"modules.{module} = (() => {{\n{body}}})();\n"

    add(name, ())
    return "\n".join(['"use strict";\nconst modules = {};\n', *modules.values()])


def text_hash(text: str) -> str:
    """How a Content-Security-Policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def script_json(data: dict) -> str:
    """JSON that can stand in a script element: no text in it ends the element or begins a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # in ASCII: halves of characters too
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def pack_table(table: np.ndarray) -> bytes:
    """A table of small whole numbers that change little along a row, deflated; `unpackTable` in page.js is the inverse.

    Args:
        table: uint8 or uint16 `[N, M]`.
    """
    differences = np.diff(table, axis=1, prepend=table.dtype.type(0))  # wraps around
    return zlib.compress(differences.astype(table.dtype.newbyteorder("<")).tobytes(), 9)


def pack_sheets(name: str, tiles: np.ndarray, quality: int) -> dict[str, bytes]:
    """Tiles as WebP sheets of 4 x 4.

    Args:
        name: of the stack; sheet k is `name`-k.
        tiles: uint8 `[N, H, W]`, or `[N, H, W, 3]` of red, green and blue.
        quality: of WebP, 0 to 100; `LOSSLESS` keeps every value.

    Returns:
        bytes by id.
    """
    starts = range(0, len(tiles), SHEET_TILES)
    sheets = enumerate(tqdm(starts, desc=f"{name} to WebP", unit="sheet", mininterval=1))
    return {f"{name}-{sheet}": encode_sheet(tiles[first : first + SHEET_TILES], quality) for sheet, first in sheets}


def encode_sheet(tiles: np.ndarray, quality: int, columns: int = SHEET_COLUMNS) -> bytes:
    """A sheet of a few tiles `[n, H, W]` or `[n, H, W, 3]` as WebP, `columns` in a row."""
    height, width, *channels = tiles.shape[1:]
    rows = -(-len(tiles) // columns)
    grid = np.zeros((rows * columns, height, width, *channels), np.uint8)
    grid[: len(tiles)] = tiles
    picture = grid.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    picture = picture.reshape(rows * height, columns * width, *channels)
    picture = picture[..., ::-1] if channels else picture  # OpenCV's order is blue, green, red
    _, content = cv2.imencode(".webp", np.ascontiguousarray(picture), [cv2.IMWRITE_WEBP_QUALITY, quality])
    return content.tobytes()


def sheet_layout(height: int, width: int, tiles: int = SHEET_TILES, columns: int = SHEET_COLUMNS) -> dict:
    """What page.js must know about sheets of so many tiles of that size in pixels."""
    return {"tiles": tiles, "columns": columns, "height": height, "width": width}
