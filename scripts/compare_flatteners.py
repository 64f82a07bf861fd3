"""Flattens the programs of tests/flatten_cases by `build_kernel.py` and by other tools, and prints which do it right.

    python scripts/compare_flatteners.py [--only TOOL ...] [--cache FOLDER] [--rows FILE]

Each tool gets a virtual environment in the cache folder, with the version pinned below. Each program is flattened to
one file, which runs alone in an empty folder; it passes when what it prints and its exit status are the original's. A
build that fails or writes nothing fails the program, and so does a build or a run of more than 20 seconds. Every
program that this Python can run counts for every tool, also what the tool was not made for: two packages at once, an
entry inside its package, data files, for notebooks the few programs that no notebook can hold. No tool gets options
for a single program, such as a list of its hidden imports. `control` is the program's files, copied.

What a reader sees is measured on the program `station`: how many comments and definitions of the code that it uses are
code in the output, not strings (a renamed definition counts); whether a function and a module that it never uses are
shipped ("hidden": encoded); whether another folder and hash seed give the same bytes. Seconds are the median of the
builds that worked, with the start of the tool. Some tools get help: `start_folder`, `append_entry`, `repair_cells`.

Not measured: impacker, python-flattener, kaggle-kernelifier (not on the package index), compyner (its output prints a
line of its own), flattenpy (wants a git repository), serger (wants a configuration for each package).
"""

import argparse
import base64
import functools
import importlib.util
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Callable
from typing import NamedTuple

from desk.command import Outcome, VerbParser, run_command

ROOT = pathlib.Path(__file__).resolve().parent.parent

LIMIT = 20  # seconds for a build, and for a run
UNUSED = [re.compile(text) for text in (r"UNUSED_FUNCTION_TEXT|def \w*unused_", r"UNUSED_MODULE_TEXT|def \w*lost\b")]
BASE64 = re.compile(r"""(?<=['"])(?:[\w+/]{4}){10,}(?:[\w+/]{2}==|[\w+/]{3}=)?(?=['"])""", re.ASCII)
DIST = ROOT / "dist" / "build_kernel.py"  # ours is measured as one file, as all others are
HEAD = "tool|how|programs passed|comments|definitions|unused function / module shipped|same bytes|build, s"


class Tool(NamedTuple):
    """A flattener; its command runs in the program's folder, see `build_command` for what stands in braces."""

    name: str
    version: str  # empty: nothing is to be installed
    how: str
    command: str
    override: str = ""  # installed afterwards, against what the tool itself asks for
    suffix: str = "py"
    prepare: Callable | None = None  # (case, source folder): before the build
    finish: Callable | None = None  # (case, source folder, output): after it


def start_folder(case, source: pathlib.Path):
    """tsutsumu takes folders only: main.py becomes main/__main__.py."""
    if "/" not in case.entry:
        folder = source / case.entry.removesuffix(".py")
        folder.mkdir()
        (folder / "__init__.py").touch()
        (source / case.entry).rename(folder / "__main__.py")


def append_entry(case, source: pathlib.Path, out: pathlib.Path):
    """pypkgpack packs the packages and leaves the entry to the user: it goes below them."""
    out.write_bytes(out.read_bytes() + b"\n" + (source / case.entry).read_bytes())


def repair_cells(case, source: pathlib.Path, out: pathlib.Path):
    """repo2nb's cells want /kaggle/working, make no folders, fail for an empty file; and none runs the program."""
    notebook = json.loads(out.read_text(encoding="utf-8"))
    folders = sorted({str(pathlib.PurePosixPath(path).parent) for path in case.files})
    command = case.options.get("run", case.entry).split()
    first = f"import os\nfor folder in {folders}:\n    os.makedirs(folder, exist_ok=True)"
    last = f"import subprocess, sys\nsys.exit(subprocess.run([sys.executable, *{command}, *sys.argv[1:]]).returncode)"
    cells = [cell for cell in notebook["cells"] if cell["metadata"].get("repo2nb", {}).get("path") in case.files]
    for cell in cells:
        magic, _, body = "".join(cell["source"]).replace("/kaggle/working/", "", 1).partition("\n")
        cell["source"] = f"{magic}\n{body or chr(10)}"
    first, last = ({"cell_type": "code", "metadata": {}, "source": text} for text in (first, last))
    out.write_text(json.dumps({**notebook, "cells": [first, *cells, last]}), encoding="utf-8")


OURS = "{python} {dist} --entry {entry} --package={package} --out {out}"
TOOLS = [
    Tool("control", "", "files copied beside", ""),
    Tool("build_kernel.py", "", "plain code", OURS),
    Tool("build_kernel.py-ipynb", "", "plain code in cells", OURS, suffix="ipynb"),
    Tool("stickytape", "0.2.1", "strings", "{bin}/stickytape {entry} --add-python-path {source} --output-file {out}"),
    Tool("scriptmerge", "3.1.0", "strings", "{bin}/scriptmerge compilepy {entry} -p {source} -o {out}"),
    Tool("inline-importer", "0.0.4", "strings", "{bin}/inline-python -e {entry} -o {out} -p {folders} -f {files}"),
    Tool("pybunch", "1.1.3", "strings", "{bin}/pybunch -d {source} -e {module} -o {out}"),
    Tool("tsutsumu", "0.1.0", "bytes", "{bin}/tsutsumu -m {module} -o {out} {all_folders}", prepare=start_folder),
    Tool("pypkgpack", "0.4.0", "base64", "{bin}/pypkgpack {package} --out {out}",
         override="ast-compat==0.12.0", finish=append_entry),  # 0.11 does not work with Python 3.11
    Tool("cribo", "0.9.2", "plain code", "{bin}/cribo --entry {entry} --output {out}"),
    Tool("xpline", "0.1.5", "plain code", "{bin}/xpline {entry} -o {out}"),
    Tool("repo2nb", "0.2.1", "`%%writefile` cells, repaired", "{bin}/repo2nb {source} --no-deps --output {out}",
         suffix="ipynb", finish=repair_cells),
]  # fmt: skip


def install(tool: Tool, cache: pathlib.Path) -> pathlib.Path:
    """The folder of the tool's programs, in a virtual environment that is made once."""
    home, done = cache / tool.name, cache / tool.name / "installed.txt"
    wanted = f"{tool.name}=={tool.version} {tool.override} on Python {sys.version}"
    if tool.version and not (done.exists() and done.read_text() == wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{tool.name}=={tool.version}"], check=True)
        if tool.override:
            subprocess.run([*pip, "--no-deps", tool.override], check=True, stderr=subprocess.DEVNULL)
        done.write_text(wanted)
    return home / "bin"


def build_command(tool: Tool, case, source: pathlib.Path, programs: pathlib.Path, out: pathlib.Path) -> list[str]:
    """The words of the command; a word that names several things is repeated for each."""
    single = {"python": sys.executable, "dist": DIST, "bin": programs, "source": source, "entry": source / case.entry}
    single |= {"module": re.sub(r"(/__main__)?\.py$", "", case.entry).replace("/", "."), "out": out}
    several = {"package": case.packages, "files": [package for package in case.packages if package.endswith(".py")]}
    several["folders"] = [package for package in case.packages if package not in several["files"]]
    several["all_folders"] = sorted(path.name for path in source.iterdir() if path.is_dir())
    words = []
    for word in tool.command.split():
        name = next((name for name in several if f"{{{name}}}" in word), None)
        words += [word.format(**single, **{name: item}) for item in several[name]] if name else [word.format(**single)]
    return words


def flatten(tool: Tool, case, programs: pathlib.Path, folder: pathlib.Path, bench, seed: str = "0"):
    """Builds a program in a folder of its own: the output or None, the seconds, and why it failed."""
    source = bench.write_case(case, folder / "source")
    out, home = bench.make_folder(folder, "built") / f"flat.{tool.suffix}", bench.make_folder(folder, "home")
    if tool.prepare:
        tool.prepare(case, source)
    command = build_command(tool, case, source, programs, out)
    settings = {"cwd": source, "env": {**bench.clean_environment(home), "PYTHONHASHSEED": seed}, "timeout": LIMIT}
    start = time.perf_counter()
    try:
        done = subprocess.run(command, **settings, stdin=subprocess.DEVNULL, capture_output=True)
    except subprocess.TimeoutExpired:
        return None, None, "build: timeout"
    seconds = time.perf_counter() - start
    if done.returncode or not out.is_file():
        said = bench.last_line((done.stdout + done.stderr).decode(errors="replace"))
        return None, None, f"build: {said or 'no output'}"
    if tool.finish:
        tool.finish(case, source, out)
    shutil.rmtree(source)
    return out.rename(bench.make_folder(folder, "empty") / out.name), seconds, None


def try_case(tool: Tool, case, original, programs: pathlib.Path, folder: pathlib.Path, bench, notebooks):
    """Why the tool fails the program, or None; and the seconds of the build, or None."""
    out, seconds, failure = flatten(tool, case, programs, folder, bench) if tool.command else (None, None, None)
    if failure:
        return failure, None
    if out is None:
        outcome = bench.run_original(case, folder)
    elif tool.suffix == "ipynb":
        outcome = notebooks().run(out, case.arguments, folder / "home")
    else:
        options = case.options.get("python", "").split()
        outcome = bench.run_python([*options, out.name, *case.arguments], out.parent, folder / "home")
    if outcome.status != original.status:
        return f"run: status {outcome.status}, not {original.status}: {outcome.error}", seconds
    return None if outcome.stdout == original.stdout else "run: it prints something else", seconds


def look(out: pathlib.Path, bench) -> dict:
    """What a reader sees in the flat station, and what is in it that its entry never uses."""
    sources = [data.decode() for path, data in bench.STATION.files.items() if not path.endswith("never.py")]
    notes = {note for code in sources for note in bench.comments(code) if not note.startswith("# note 9")}
    names = [name for code in sources for name in bench.definitions(code).elements() if name not in bench.UNUSED]
    code, visible = bench.visible_code(out), 0
    hidden = b"\n".join(map(base64.b64decode, BASE64.findall(code))).decode(errors="replace")
    try:
        seen, kept = bench.definitions(code), notes & bench.comments(code)
    except (SyntaxError, ValueError, tokenize.TokenError):
        seen, kept = {}, set()
    for name in set(names):
        renamed = re.compile(rf"_*(\w+_)?{name}(_\w+|\d+)?")
        visible += min(names.count(name), sum(count for other, count in seen.items() if renamed.fullmatch(other)))
    unused = ["yes" if text.search(code) else "hidden" if text.search(hidden) else "no" for text in UNUSED]
    return {"comments": [len(kept), len(notes)], "definitions": [visible, len(names)], "unused": unused}


def measure(tool: Tool, cases: list, originals: dict, programs: pathlib.Path, root: pathlib.Path, bench, notebooks):
    """The row of one tool."""
    from tqdm import tqdm

    failures, seconds = {}, []
    for case in tqdm(cases, desc=tool.name, leave=False):
        folder = root / tool.name / case.name
        failure, took = try_case(tool, case, originals[case.name], programs, folder, bench, notebooks)
        shutil.rmtree(folder)
        failures.update({case.name: failure} if failure else {})
        seconds += [took] if took else []
    row = {"tool": f"{tool.name} {tool.version}".strip(), "how": tool.how, "failures": failures}
    row["passed"] = [len(cases) - len(failures), len(cases)]
    row["seconds"] = round(statistics.median(seconds), 3) if seconds else None
    if tool.command:
        places = (("1", root / "one" / tool.name), ("77", root / "another" / "deep er" / tool.name))
        outs = [flatten(tool, bench.STATION, programs, folder, bench, seed)[0] for seed, folder in places]
        if all(outs):
            row |= {**look(outs[0], bench), "same": outs[0].read_bytes() == outs[1].read_bytes()}
    return row


def table(rows: list[dict]) -> str:
    """The rows in Markdown, the best first."""
    lines = [HEAD.split("|"), ["---"] * (HEAD.count("|") + 1)]
    for row in sorted(rows, key=lambda row: -row["passed"][0]):
        shares = ("/".join(map(str, row.get(name, []))) for name in ("passed", "comments", "definitions"))
        same = {True: "yes", False: "no"}.get(row.get("same"), "")
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        lines.append([row["tool"], row["how"], *shares, " / ".join(row.get("unused", [])), same, seconds])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def load_programs():
    """tests/test_flatten_cases.py, which has the programs and judges them."""
    name = "test_flatten_cases"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def main(arguments=None) -> int:
    return run_command(compare_flatteners, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    names = [tool.name for tool in TOOLS]
    parser = VerbParser(description="Compare build_kernel.py with other flatteners of Python packages.")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="TOOL", help="; ".join(names))
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "build" / "flatteners", help="of the environments")
    parser.add_argument("--rows", type=pathlib.Path, help="write the rows, with every failure, to this file")
    return parser.parse_args(arguments)


def compare_flatteners(options: argparse.Namespace) -> Outcome:
    bench = load_programs()
    bench.TIMEOUT = LIMIT
    if any("{dist}" in tool.command for tool in TOOLS if tool.name in options.only):
        subprocess.run(["make", "dist", f"PYTHON={sys.executable}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    cases = [case for case in bench.CASES if sys.version_info >= case.needs]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary).resolve()
        notebooks = functools.cache(lambda: bench.NotebookServer(bench.make_folder(root, "server")))
        originals = {case.name: bench.run_original(case, root / "original" / case.name) for case in cases}
        for tool in (tool for tool in TOOLS if tool.name in options.only):
            try:
                programs = install(tool, options.cache.resolve())
            except subprocess.CalledProcessError as error:
                print(f"{tool.name} cannot be installed: {error}", file=sys.stderr)
                continue
            rows.append(measure(tool, cases, originals, programs, root, bench, notebooks))
    print(f"{table(rows)}\n\nPython {sys.version.split()[0]}, {len(cases)} programs")
    if options.rows:
        options.rows.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return Outcome({"rows": rows, "programs": len(cases)})


if __name__ == "__main__":
    sys.exit(main())
