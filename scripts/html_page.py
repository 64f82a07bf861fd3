"""Self-contained HTML pages: templates of scripts/pages/, data and pictures in one file that asks nobody for anything.

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

import numpy as np

PAGES = pathlib.Path(__file__).resolve().parent / "pages"
SHEET_COLUMNS = 4
SHEET_TILES = SHEET_COLUMNS**2  # few: a page that shows one tile decodes its whole sheet
LOSSLESS = 101  # OpenCV's WebP quality above 100


def write_page(path, name: str, scripts: tuple, texts: dict, data: dict, blobs: dict):
    """Writes a page, whole or not at all.

    Args:
        path: of the HTML file.
        name: of the template, pages/`name`.html.
        scripts: names of the scripts pages/*.js that follow on page.js.
        texts: what stands for {{...}} in the template besides style, script and data; escaped here.
        data: what the script finds as JSON; no NaN.
        blobs: bytes by the id under which the script finds them, in the order in which they are needed.
    """
    from salt.files import whole_file

    style = (PAGES / "page.css").read_text(encoding="utf-8")
    script = "\n".join((PAGES / f"{part}.js").read_text(encoding="utf-8") for part in ("page", *scripts))
    parts = {
        **{key: html.escape(text) for key, text in texts.items()},
        "style": style,
        "script": script,
        "policy": f"default-src 'none'; img-src data:; style-src {text_hash(style)}; script-src {text_hash(script)}",
        "data": script_json(data),
    }
    template = (PAGES / f"{name}.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)  # in one pass: data may hold braces
    head, tail = page.split("<!-- blobs -->")
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(head)
        for key, content in blobs.items():
            text = base64.b64encode(content).decode("ascii")
            file.write(f'<script type="application/octet-stream" id="{html.escape(key)}">{text}</script>\n')
        file.write(tail)


def text_hash(text: str) -> str:
    """How a Content-Security-Policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def script_json(data) -> str:
    """JSON that can stand in a script element: no text in it ends the element or begins a comment."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def pack_table(table) -> bytes:
    """A table of small whole numbers that change little along a row, deflated; `unpackTable` in page.js undoes it.

    Args:
        table: uint8 or uint16 `[N, M]`.
    """
    differences = np.diff(table, axis=1, prepend=table.dtype.type(0))  # wraps around
    return zlib.compress(differences.astype(table.dtype.newbyteorder("<")).tobytes(), 9)


def pack_sheets(name: str, tiles, quality: int) -> dict:
    """Tiles as WebP sheets of 4 x 4.

    Args:
        name: of the stack; sheet k is `name`-k.
        tiles: uint8 `[N, H, W]`.
        quality: of WebP, 0 to 100; `LOSSLESS` keeps every value.

    Returns:
        bytes by id.
    """
    import cv2
    from tqdm import tqdm

    blobs = {}
    height, width = tiles.shape[1:]
    starts = range(0, len(tiles), SHEET_TILES)
    for sheet, first in enumerate(tqdm(starts, desc=f"{name} to WebP", unit="sheet", mininterval=1)):
        part = tiles[first : first + SHEET_TILES]
        rows = -(-len(part) // SHEET_COLUMNS)
        grid = np.zeros((rows * SHEET_COLUMNS, height, width), np.uint8)
        grid[: len(part)] = part
        picture = grid.reshape(rows, SHEET_COLUMNS, height, width).swapaxes(1, 2).reshape(rows * height, -1)
        _, content = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
        blobs[f"{name}-{sheet}"] = content.tobytes()
    return blobs


def sheet_layout(size: int) -> dict:
    """What page.js must know about the sheets of tiles of `size` pixels."""
    return {"tiles": SHEET_TILES, "columns": SHEET_COLUMNS, "size": size}
