"""A built notebook does in a real kernel, with its own `sys.argv` and a running event loop, what the script does."""

import os
import pathlib
import shlex
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

import build_kernel

FILES = {
    "pkg/__init__.py": "",
    "pkg/work.py": """\
import asyncio


async def work(n):
    await asyncio.sleep(0)
    return await asyncio.to_thread(lambda: n + 1)


def late(n):
    return asyncio.run(work(n))
""",
    "pkg/names.py": "import sys\n\nGIVEN = sys.argv[1:]\n",
    "train.py": '''\
"""Trains."""
import argparse
import asyncio
import sys

from pkg.work import late, work


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold", type=int, required=True)
    print(parser.description, parser.prog, parser.parse_args().fold, late(1))
    loop = asyncio.new_event_loop()
    print(loop.run_until_complete(work(2)))
    with asyncio.Runner() as runner:
        print(runner.run(work(3)))
    text = """one
  two"""
    print(text)


if __name__ == "__main__":
    print("""three
  four""")
    sys.exit(main())
''',
    "predict.py": '''\
"""Predicts."""
import click

from pkg.names import GIVEN
from pkg.work import late


@click.command()
@click.argument("name")
def main(name):
    print(__doc__, name, GIVEN, late(5))


main()
''',
    "plain.py": """\
import asyncio
import fileinput
import sys

from pkg.work import work

print(sys.argv, asyncio.run(work(7)), asyncio.get_event_loop_policy() is not None)
if len(sys.argv) < 2:
    exit()
print("never")
""",
}


def run_in_kernel(notebook: pathlib.Path) -> str:
    """What the cells of a notebook print, each of which must end well."""
    book = nbformat.read(notebook, 4)
    NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": notebook.parent}}
    ).execute()
    printed = [
        output.text for cell in book.cells for output in cell.get("outputs", []) if output.get("name") == "stdout"
    ]
    errors = [output for cell in book.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert not errors
    return "".join(printed)


@pytest.mark.parametrize(
    "entries",
    [{"train.py": "--fold 3", "predict.py": "'a b'"}, pytest.param({"plain.py": None}, id="without arguments")],
)
def test_a_notebook_runs_its_scripts_one_after_the_other_as_a_shell_would(entries, tmp_path, monkeypatch, capsys):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    expected, options = "", ["--package", str(tmp_path / "pkg")]
    for name, arguments in entries.items():
        command = [sys.executable, name, *shlex.split(arguments or "")]
        done = subprocess.run(command, cwd=tmp_path, env={"PATH": os.defpath}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        expected += done.stdout
        options += ["--entry", str(tmp_path / name), *([] if arguments is None else ["--args", arguments])]
    for form in ("py", "ipynb"):
        (tmp_path / form).mkdir()
        assert build_kernel.main([*options, "--out", str(tmp_path / form / f"flat.{form}")]) == 0
    assert "warning" not in capsys.readouterr().out
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    assert run_in_kernel(tmp_path / "ipynb" / "flat.ipynb") == expected
    if len(entries) > 1:  # a script by itself has its own name and arguments
        done = subprocess.run([sys.executable, "flat.py"], cwd=tmp_path / "py", capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


TOGETHER = {
    "max = 3\n": ("print(max(1, 2))\n", "b.py:1: reads 'max', which a.py binds"),
    "from __future__ import annotations\n": ("X = 1\n", "b.py:1: imports other features from __future__ than a.py"),
    "from os import *\n": ("X = 1\n", "a.py:1: a star import"),
    "def f(): return X\n": ("X = 2\nfrom .pkg import x\n", "b.py:2: a relative import"),
}


@pytest.mark.parametrize("first", TOGETHER)
def test_scripts_that_would_not_do_the_same_in_one_namespace_are_refused(first, tmp_path):
    second, message = TOGETHER[first]
    (tmp_path / "a.py").write_text(first)
    (tmp_path / "b.py").write_text(second)
    with pytest.raises(build_kernel.BuildError, match=message):
        build_kernel.build_entry(tmp_path / "a.py", [], tmp_path / "o.py", others=[(tmp_path / "b.py", None)])


def test_the_lines_of_each_script_lead_back_to_it(tmp_path):
    (tmp_path / "a.py").write_text('"""A."""\nX = 1\n')
    (tmp_path / "b.py").write_text('"""B."""\n\n\ndef f():\n    raise ValueError(__doc__)\n\n\nf()\n')
    out = tmp_path / "o.py"
    build_kernel.build_entry(tmp_path / "a.py", [], out, others=[(tmp_path / "b.py", ["x"])])
    done = subprocess.run([sys.executable, out], capture_output=True, text=True)
    (tmp_path / "log").write_text(done.stderr)
    text = build_kernel.trace_log(tmp_path / "log", out.with_name("o.py.map.json"))
    assert "File b.py:8" in text and "File b.py:5" in text and "ValueError: B." in text


def test_a_head_stays_in_a_script_and_becomes_a_line_to_install_in_a_notebook(tmp_path):
    head = '# /// script\n# requires-python = ">=3.11"\n# dependencies = ["numpy>=1", "pandas"]\n# ///\n'
    (tmp_path / "a.py").write_text(f'"""A."""\n{head}print("a")\n')
    build_kernel.build_entry(tmp_path / "a.py", [], tmp_path / "o.py")
    assert (tmp_path / "o.py").read_text().startswith(head)
    build_kernel.build_entry(tmp_path / "a.py", [], tmp_path / "o.ipynb")
    sources = [cell.source for cell in nbformat.read(tmp_path / "o.ipynb", 4).cells]
    assert any(source.endswith("\n# %pip install 'numpy>=1' pandas") for source in sources)
    assert not any("requires-python" in source for source in sources)
