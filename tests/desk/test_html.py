import base64
import json
import re
import zlib

import cv2
import numpy as np
import pytest

from desk.pages import html as html_page
from desk.pages.html import LOSSLESS, SHEET_TILES, pack_sheets, pack_table, script_json, text_hash, write_page

HOSTILE = '</script><script>alert(1)</script><!-- & "quoted" {{data}} \u2028'

TEXTS = {"summary": "", "target": "salt", "exactness": "exact"}


def write(tmp_path, blobs=None):
    texts = {**TEXTS, "title": HOSTILE, "summary": "a < b & c"}
    write_page(tmp_path / "page.html", "report", texts, {"name": HOSTILE}, blobs or {"one": b"\x00<\xff"})
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_no_text_of_the_data_can_end_its_element_and_it_comes_back_as_it_was(tmp_path):
    page = write(tmp_path)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data) == {"name": HOSTILE}
    assert "alert(1)</script>" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1 and "a &lt; b &amp; c" in page
    assert script_json({"a": "<!-- <script>"}) == '{"a":"\\u003c!-- \\u003cscript\\u003e"}'


def test_what_moves_a_terminal_or_is_half_a_character_is_escaped(tmp_path):
    texts = {**TEXTS, "title": "a\x1b[31mb \ud83d", "summary": ""}
    write_page(tmp_path / "page.html", "report", texts, {"log": "\x1b[31m \ud83d \u202e"}, {})
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "ab \ufffd" in page and "\\u001b[31m \\ud83d \\u202e" in page and not set(page) & {"\x1b", "\u202e"}


def test_what_json_cannot_say_is_refused_and_the_earlier_page_stays(tmp_path):
    before = write(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        texts = {**TEXTS, "title": ""}
        write_page(tmp_path / "page.html", "report", texts, {"score": float("nan")}, {})
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == before


def test_blobs_stand_before_the_script_under_their_ids(tmp_path):
    page = write(tmp_path, {"first": b"\x00\xff", "second": b"x" * 100})
    found = dict(re.findall(r'<script type="application/octet-stream" id="(\w+)">(.*?)</script>', page))
    assert {key: base64.b64decode(text) for key, text in found.items()} == {"first": b"\x00\xff", "second": b"x" * 100}
    assert page.index('id="second"') < page.index("<script>")


def test_the_policy_allows_nothing_but_the_page_s_own_style_and_script(tmp_path):
    page = write(tmp_path)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    (style,), (script,) = (re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL) for name in ("style", "script"))
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert f"style-src {text_hash(style)}" in policy and f"script-src {text_hash(script)}" in policy


def test_templates_name_no_address_and_make_no_markup_of_strings():
    for path in [path for path in html_page.PAGES.iterdir() if path.suffix in (".html", ".css", ".js")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", text), path.name


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_packed_table_is_smaller_and_sums_give_it_back(kind):
    table = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (40, 5)).astype(kind).repeat(51, axis=1)
    packed = pack_table(table)
    differences = np.frombuffer(zlib.decompress(packed), np.dtype(kind).newbyteorder("<")).reshape(table.shape)
    assert np.array_equal(np.cumsum(differences, axis=1, dtype=kind), table) and len(packed) < table.nbytes / 10


def test_sheets_hold_the_tiles_row_by_row_and_lossless_ones_every_value():
    tiles = np.random.default_rng(0).integers(0, 256, (SHEET_TILES + 5, 101, 101)).astype(np.uint8)
    sheets = pack_sheets("x", tiles, LOSSLESS)
    assert list(sheets) == ["x-0", "x-1"]
    grids = [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) for content in sheets.values()]
    assert grids[0].shape == (404, 404) and grids[1].shape == (202, 404)  # the last sheet ends with its last row
    for index, tile in enumerate(tiles):
        top, left = (101 * place for place in divmod(index % SHEET_TILES, 4))
        assert np.array_equal(grids[index // SHEET_TILES][top : top + 101, left : left + 101], tile)
    assert sum(map(len, pack_sheets("x", tiles, 30).values())) < sum(map(len, sheets.values())) / 2
