import contextlib
import io
import json

import pytest
import test_flatten_cases as bench

from scripts import compare_flatteners
from scripts.compare_flatteners import Tool

RIGHT = '''
import pathlib, sys
source, entry, out = map(pathlib.Path, sys.argv[1:])
files = {str(path.relative_to(source)): path.read_text() for path in sorted(source.rglob("*.py"))}
out.write_text(f"""import pathlib, runpy, sys, tempfile
folder = tempfile.mkdtemp()
for name, text in {files!r}.items():
    path = pathlib.Path(folder, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
sys.path.insert(0, folder)
runpy.run_path(folder + "/{entry.name}", run_name="__main__")
""")
'''
SILENT = """
import pathlib, sys
pathlib.Path(sys.argv[-1]).write_text("")
"""
CARELESS = """
import base64, os, pathlib, sys
source, entry, out = map(pathlib.Path, sys.argv[1:])
text = entry.read_text()
hidden = base64.b64encode(b"def lost():\\n    return 'a text that is long enough'").decode()
out.write_text(f"{text}\\nSEED, HIDDEN = {os.environ['PYTHONHASHSEED']}, '{hidden}'\\n")
if "print" not in text:
    sys.exit("no print")
"""
CASES = [
    bench.made("greets", "prints an argument", {"main.py": "import sys\nprint('hello', sys.argv[1])\n"}, args="you"),
    bench.made("leaves", "a status, nothing printed", {"main.py": "raise SystemExit(3)\n"}, exit="3"),
    bench.made("quiet", "nothing printed", {"main.py": "import pkg\n"}),
    bench.made("imports", "needs its package", {"main.py": "from pkg.a import x\nprint(x)\n", "pkg/a.py": "x = 1\n"}),
    bench.STATION,
]


def fake_tool(folder, name: str, text: str) -> Tool:
    (folder / f"{name}.py").write_text(text)
    return Tool(name, "", "a fake", f"{{python}} {folder}/{name}.py {{source}} {{entry}} {{out}}")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, dict]:
    """The rows of three fake tools and the control, and the table's lines under None."""
    folder, printed = tmp_path_factory.mktemp("compared"), io.StringIO()
    fakes = {"right": RIGHT, "silent": SILENT, "careless": CARELESS}
    tools = [*(fake_tool(folder, name, text) for name, text in fakes.items()), Tool("control", "", "copied", "")]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(compare_flatteners, "TOOLS", tools)
        patch.setattr(bench, "CASES", CASES)
        patch.setattr(bench, "TIMEOUT", bench.TIMEOUT)  # main changes it
        assert compare_flatteners.main(["--cache", str(folder), "--rows", str(folder / "rows.json")]) == 0
    rows = json.loads((folder / "rows.json").read_text())
    return {row["tool"]: row for row in rows} | {None: printed.getvalue().splitlines()}


def test_a_program_passes_only_with_the_same_output_and_status(rows):
    assert rows["control"]["failures"] == rows["right"]["failures"] == {}
    assert {name: text.partition(":")[0] for name, text in rows["silent"]["failures"].items()} == {
        "greets": "run", "leaves": "run", "imports": "run", "station": "run"
    }  # fmt: skip
    assert rows["silent"]["failures"]["greets"] == "run: it prints something else"
    assert rows["silent"]["failures"]["leaves"].startswith("run: status 0, not 3")
    assert rows["careless"]["failures"]["leaves"] == rows["careless"]["failures"]["quiet"] == "build: no print"
    assert "ModuleNotFoundError: No module named 'pkg'" in rows["careless"]["failures"]["imports"]
    assert {name: row["passed"] for name, row in rows.items() if name} == {
        "control": [5, 5], "right": [5, 5], "silent": [1, 5], "careless": [1, 5]
    }  # fmt: skip


def test_what_a_reader_sees_is_counted_in_the_code_alone(rows):
    assert rows["right"]["comments"] == rows["silent"]["comments"] == [0, 27]
    assert rows["right"]["definitions"] == rows["silent"]["definitions"] == [0, 30]
    assert (rows["careless"]["comments"], rows["careless"]["definitions"]) == ([7, 27], [6, 30])  # those of main.py
    assert rows["right"]["unused"] == ["yes", "yes"]
    assert rows["silent"]["unused"] == ["no", "no"]
    assert rows["careless"]["unused"] == ["no", "hidden"]
    assert [rows[name]["same"] for name in ("right", "silent", "careless")] == [True, True, False]


def test_the_table_has_a_line_for_each_tool_the_best_first(rows):
    head, rule, *lines = rows[None][:6]
    assert (head.count("|"), rule) == (9, "| --- | --- | --- | --- | --- | --- | --- | --- |")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:-1] == ["right", "a fake", "5/5", "0/27", "0/30", "yes / yes", "yes"]
    assert cells[1] == ["control", "copied", "5/5", "", "", "", "", ""]
    assert cells[2][:-1] == ["silent", "a fake", "1/5", "0/27", "0/30", "no / no", "yes"]
    assert cells[3][:-1] == ["careless", "a fake", "1/5", "7/27", "6/30", "no / hidden", "no"]
    assert all(0 < float(line[-1]) < compare_flatteners.LIMIT for line in cells if line[0] != "control")
    assert rows[None][-1].endswith(", 5 programs")


def test_a_build_that_takes_too_long_or_writes_nothing_fails(tmp_path, monkeypatch):
    def failure(name: str, text: str) -> str:
        tool = fake_tool(tmp_path, name, text)
        return compare_flatteners.flatten(tool, CASES[0], tmp_path, tmp_path / name, bench)[2]

    assert failure("lazy", "") == "build: no output"
    monkeypatch.setattr(compare_flatteners, "LIMIT", 0.3)
    assert failure("slow", "import time\ntime.sleep(9)\n") == "build: timeout"


def test_a_word_of_the_command_is_repeated_for_what_it_names(tmp_path):
    files = {"app/__main__.py": "", "util.py": ""}
    case = bench.made("two", "", files, packages="app util.py", entry="app/__main__.py")
    source = bench.write_case(case, tmp_path)
    command = "{bin}/t -m {module} --package={package} -f {files} -p {folders} {all_folders} -o {out}"
    words = compare_flatteners.build_command(Tool("tool", "1", "", command), case, source, "venv", "flat.py")
    assert " ".join(words) == "venv/t -m app --package=app --package=util.py -f util.py -p app app -o flat.py"


def test_repaired_cells_write_the_files_and_run_the_program(tmp_path):
    def cell(path: str, body: str) -> dict:
        text = f"%%writefile /kaggle/working/{path}\n{body}"
        return {"cell_type": "code", "metadata": {"repo2nb": {"path": path}}, "source": text.splitlines(keepends=True)}

    notebook = {"cells": [cell(".gitignore", "x\n"), cell("main.py", "import pkg\n"), cell("pkg/__init__.py", "")]}
    (tmp_path / "flat.ipynb").write_text(json.dumps(notebook))
    compare_flatteners.repair_cells(CASES[2], tmp_path, tmp_path / "flat.ipynb")
    folders, *files, run = (cell["source"] for cell in json.loads((tmp_path / "flat.ipynb").read_text())["cells"])
    assert "['.', 'pkg']" in folders
    assert files == ["%%writefile main.py\nimport pkg\n", "%%writefile pkg/__init__.py\n\n"]
    assert "sys.executable, *['main.py']" in run


@pytest.mark.parametrize("tool", compare_flatteners.TOOLS, ids=lambda tool: tool.name)
def test_every_tool_is_pinned(tool):
    assert bool(tool.version) == ("{bin}" in tool.command)
    assert not tool.override or "==" in tool.override
