"""Each line of a built file raises in turn: `--trace` leads to the frames that the original shows for that line."""

import json
import re
import subprocess
import sys

import pytest

from flattener.build import build_entry
from flattener.trace import map_path, trace_log

# Runs a program once for each of its lines, and raises there; prints file, line, function, the line's text, traceback.
RAISE_EVERYWHERE = r'''
import json, os, re, runpy, sys, traceback

path, start = sys.argv[1], os.getcwd()
sys.argv = [path]
rows = {}  # file -> its lines

class Planted(BaseException):
    pass

def murmur2(data, seed=0xC70F6907):
    from ipykernel.compiler import murmur2_x86
    return murmur2_x86(data.decode(), seed)

def run_cells():
    space = {"__name__": "__main__"}
    for cell in json.load(open(path))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if text.startswith("%%writefile"):
            head, _, body = text.partition("\n")
            with open(head.split()[1], "w") as file:
                file.write(body)
            continue
        file = f"/tmp/ipykernel_1/{murmur2(text.encode())}.py"
        rows[file[5:]] = text.split("\n")
        exec(compile(text, file, "exec"), space)

def run(planted):
    """All lines that ran, or the traceback of the one that raised."""
    kept_path, kept_modules = list(sys.path), set(sys.modules)
    seen = {}
    def tracer(frame, event, argument):
        file = frame.f_code.co_filename
        mine = re.search(r"/(pkg/\w+\.py|main\.py|flat\.py|ipykernel_1/\d+\.py)$", file)
        if not mine or frame.f_code.co_name in ("unpack_modules", "prepare_folders"):
            return None
        if event == "line":
            place = (mine[1], frame.f_lineno, frame.f_code.co_name)
            seen.setdefault(place)
            if mine[1] not in rows:
                rows[mine[1]] = open(file, encoding="utf-8").read().split("\n")
            if place == planted:
                sys.settrace(None)
                raise Planted
        return tracer
    text = ""
    sys.settrace(tracer)
    try:
        run_cells() if path.endswith(".ipynb") else runpy.run_path(path, run_name="__main__")
    except Planted:
        text = traceback.format_exc()
    finally:
        sys.settrace(None)
        sys.path[:] = kept_path
        for name in set(sys.modules) - kept_modules:
            if name.partition(".")[0] == "pkg":
                del sys.modules[name]
    return list(seen), text

import contextlib, io
sys.path.insert(0, os.path.dirname(path))
sys.dont_write_bytecode = True
with contextlib.redirect_stdout(io.StringIO()):
    places, _ = run(None)
    found = [[*place, rows[place[0]][place[1] - 1], run(place)[1]] for place in places if place[1]]
print(json.dumps(found))
'''
PROGRAM = {
    "main.py": '''"""The entry."""
import json

from pkg.shapes import Square, area as size_of
from pkg import tools
from pkg.late import load

RATES = [
    0.1,
    tools.double(0.2),
]  # two of them


def total(values):
    result = 0
    for value in values:

        # a comment in between
        if value > 0.15:
            result += value
        else:
            result -= value
    return result


try:
    text = json.dumps({"total": total(RATES), "load": load(
        "x",
        count=2,
    )})
finally:
    done = True

with tools.opened("file") as name:
    print(f"{name=} {tools.LIMIT}", text)
print(size_of(Square(3)), Square(2).describe(),
      tools.load(1))
''',
    "pkg/__init__.py": "",
    "pkg/shapes.py": '''# A comment at the head.
import functools
import math

from .tools import double, note


@note
class Square:
    """A shape.

    With a docstring of several lines.
    """

    sides = 4

    def __init__(self, length):
        self.length = length

    @functools.lru_cache(maxsize=None)
    def describe(self):
        text = """a
        square"""
        return text + str(
            math.floor(self.length)
        )


def area(shape):
    return double(shape.length) * shape.length / 2


LARGEST = max([Square(1), Square(5)],
              key=lambda each: each.length)
''',
    "pkg/tools.py": """import contextlib
import json

LIMIT = 3
SEEN = []


def note(made):

    SEEN.append(made.__name__)
    return made


def double(x):
    return x * 2


def load(x):
    def inner(y):
        yield y
        yield from [z for z in range(LIMIT) if z]
    return json.loads("[1]") + list(inner(x))


@contextlib.contextmanager
def opened(name):
    try:
        yield name
    finally:
        SEEN.append(name)
""",
    "pkg/late.py": """import math
from pkg import tools

print(tools.SEEN)
STEP = math.pi

from pkg.after import shift


def load(name, count=1):
    while count:
        count -= 1
        name = shift(name)
    return name
""",
    "pkg/after.py": """from . import late


def shift(name):
    if late.STEP > 3: name += "."
    return name
""",
}
IMPORT = re.compile(r"\s*(import|from) ")


def raised(path, tmp_path):
    """(file, line, function) of each line that runs -> its text, and the traceback when it raises."""
    script = tmp_path / "raise_everywhere.py"
    script.write_text(RAISE_EVERYWHERE)
    folder = tmp_path / f"runs {path.name}"
    folder.mkdir()
    done = subprocess.run([sys.executable, script, path], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {(file, line, function): (row, text) for file, line, function, row, text in json.loads(done.stdout)}


def frames(text, pattern):
    """The frames of a traceback as (file, line, function), from the last one at module level on."""
    found = [(file, int(line), function) for file, line, function in re.findall(pattern, text)]
    at = max((number for number, (*_, function) in enumerate(found) if function == "<module>"), default=0)
    return found[at:]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The folder of the program, and the frames of each of its lines."""
    folder = tmp_path_factory.mktemp("program")
    for name, text in PROGRAM.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    pattern = r'File "[^"]*/(pkg/\w+\.py|main\.py)", line (\d+), in (\S+)'
    texts = raised(folder / "main.py", tmp_path_factory.mktemp("original"))
    return folder, {place: frames(text, pattern) for place, (_, text) in texts.items()}


SLOW = [pytest.param(form, "modules", marks=pytest.mark.slow) for form in ("py", "ipynb")]


@pytest.mark.parametrize(("form", "style"), [("py", "auto"), ("ipynb", "auto"), *SLOW])
def test_trace_is_right_for_every_line_that_raises(form, style, original, tmp_path):
    if form == "ipynb":
        pytest.importorskip("ipykernel")
    folder, wanted = original
    out = tmp_path / f"flat.{form}"
    report = build_entry(folder / "main.py", [folder / "pkg"], out, style)
    assert bool(report.reasons) == (style == "modules")
    texts = raised(out, tmp_path)
    log, covered = tmp_path / "log", set()
    log.write_text("".join(f"{text}\0" for _, text in texts.values()))
    traced = trace_log(log, map_path(out)).split("\0")
    known = {row.strip() for text in PROGRAM.values() for row in text.split("\n")} - {"try:"}
    for (place, (row, text)), shown in zip(texts.items(), traced, strict=False):
        found = frames(shown, r"File ((?:pkg/)?\w+\.py):(\d+), in (\S+)")
        if found and found[-1] in wanted:
            assert found == wanted[found[-1]], (place, row, text)
            covered.add(found[-1])
        else:
            assert row.strip() not in known, (place, row, text)  # the flattener has written it
    missing = {place for place in wanted if place not in covered}
    sources = {place: PROGRAM[place[0]].split("\n")[place[1] - 1] for place in missing}
    assert {place: text for place, text in sources.items() if not IMPORT.match(text) and '"""' not in text} == {}
    assert len(covered) > 60
