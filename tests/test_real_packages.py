"""The own tests of real packages pass against the flattened form: `real_packages.toml` lists and pins the packages.

Each test file is an entry: file and package become one file by `build_kernel.py --entry`, and pytest imports that in an
empty folder, in an environment that has what the package needs but not the package. The same pytest first runs the same
test file, alone in another empty folder, with the original package on PYTHONPATH. A test counts if it passes there, so
that one which reads files beside it, or needs the package installed, counts in neither run.

Two edits make a test file an entry, the same for both runs: a relative import names its package (`from .utils` becomes
`from tests.utils`), and a conftest that imports the package goes into the test file. The package's own settings of
pytest are not used. Helper packages of the tests are flattened too. Both runs see the package's metadata (its
version, its entry points), as if it were installed, because no file can hold that; its modules lie nowhere.

The slow test here runs with `make test-slow`. As a script it prints the table and what fails, by cause:

    python tests/test_real_packages.py [--only NAME ...] [--jobs 2] [--python PYTHON] [--build PATH] [-v]

Downloads, environments and the results of the original packages are kept in the folder named by REAL_PACKAGES_CACHE,
otherwise in .pytest_cache/real_packages.
"""

import argparse
import ast
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import xml.etree.ElementTree
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIST = pathlib.Path(__file__).with_name("real_packages.toml")
CACHE = pathlib.Path(os.environ.get("REAL_PACKAGES_CACHE") or ROOT / ".pytest_cache" / "real_packages").resolve()
PROPERTIES = ("cycles", "star exports", "plugins by dotted name", "lazy imports", "module __getattr__", "package data")
SHARE = 0.99  # of the tests of a package that pass on the original must pass flattened
FEWEST_PACKAGES = 8
# Seconds for one subprocess on a busy machine. Tests of pygments colour their own file, which has 5 MB once flattened.
INSTALL_LIMIT, BUILD_LIMIT, RUN_LIMIT = 300, 600, 900


class Unavailable(Exception):
    """What the test needs cannot be had here: no network, no virtual environment."""


class Done(NamedTuple):
    """A finished subprocess; `status` is None when the time limit stopped it."""

    status: int | None
    output: str
    seconds: float


class FileResult(NamedTuple):
    """One test file.

    Attributes:
        file: its path inside the source distribution.
        passed: names of the tests that pass on the original.
        failed: of those, the ones that do not pass flattened, with the cause.
        seconds: how long the build took.
        original: why the original's run gave no result; else empty.
    """

    file: str
    passed: list[str]
    failed: dict[str, str]
    seconds: float
    original: str


# --------------------------------------------------------------------------------------- the list


def read_list(path: pathlib.Path = LIST) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def package_names(path: pathlib.Path = LIST) -> list[str]:
    return [package["name"] for package in read_list(path)["package"]]


def known_cause(name: str, test: str, path: pathlib.Path = LIST) -> str | None:
    """The cause listed for a test that fails, or None."""
    for known in read_list(path).get("known", []):
        if known["package"] == name and re.fullmatch(known["test"], test, re.DOTALL):
            return known["cause"]
    return None


# ------------------------------------------------------------------------- packages and environments


def execute(command, cwd, limit, **environment) -> Done:
    """Runs a command, ended with all its children at the limit, in an environment of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT") if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy") or name[:4] == "PIP_"}
    kept |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"} | environment
    start = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=kept,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
        return Done(process.returncode, output, time.monotonic() - start)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return Done(None, output, time.monotonic() - start)


def fresh(folder: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def fetch_source(sdist: dict, python: str) -> pathlib.Path:
    """The unpacked source distribution, downloaded if it is not in the cache."""
    label = f"{sdist['name']}-{sdist['version']}"
    source = CACHE / "sources" / f"{label}-{sdist['sha256'][:12]}"
    if source.is_dir():
        return source
    folder = fresh(CACHE / "downloads" / label)
    done = execute(
        [
            python,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            sdist["name"],
            "--dest",
            folder,
            f"{sdist['name']}=={sdist['version']}",
        ],
        folder,
        INSTALL_LIMIT,
    )
    archives = sorted(folder.glob("*.tar.gz"))
    if done.status != 0 or len(archives) != 1:
        raise Unavailable(f"{label} cannot be downloaded: {done.output[-500:]}")
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != sdist["sha256"]:
        raise ValueError(f"{archives[0].name} has the SHA-256 {digest}; {LIST.name} pins {sdist['sha256']}")
    unpacked = fresh(CACHE / "downloads" / f"{label}-unpacked")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(unpacked, filter="data")
    source.parent.mkdir(parents=True, exist_ok=True)
    next(path for path in unpacked.iterdir() if path.is_dir()).rename(source)
    return source


def environment_python(package: dict, python: str) -> pathlib.Path:
    """The interpreter of a virtual environment that has what the package needs, and not the package."""
    requirements = read_list()["pytest"] + package["requires"]
    version = execute([python, "-VV"], ROOT, INSTALL_LIMIT).output
    name = hashlib.sha256("\n".join([version, *sorted(requirements)]).encode()).hexdigest()[:12]
    folder = CACHE / "environments" / name
    inside = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        done = execute([python, "-m", "venv", folder], ROOT, INSTALL_LIMIT)
        if done.status == 0:
            install = [inside, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", *requirements]
            done = execute(install, ROOT, INSTALL_LIMIT)
        if done.status != 0:
            raise Unavailable(f"no virtual environment with {requirements}: {done.output[-500:]}")
        (folder / "complete").touch()
    for path in package["packages"]:
        module = pathlib.PurePosixPath(path).name
        found = execute([inside, "-c", f"import importlib.util as u; print(u.find_spec({module!r}))"], "/", RUN_LIMIT)
        if found.output.strip() != "None":
            raise ValueError(f"{module} can be imported without the flattened form: {found.output}")
    return inside


class Sources(NamedTuple):
    """Where a package lies.

    Attributes:
        roots: its unpacked source distributions.
        metadata: holds only what importlib.metadata reads; on PYTHONPATH in both runs.
        site: copies of the package's folders and nothing else; on PYTHONPATH in the original's run.
        packages: those copies.
        helpers: copies of the helper packages, in `site` too.
    """

    roots: list[pathlib.Path]
    metadata: pathlib.Path
    site: pathlib.Path
    packages: list[pathlib.Path]
    helpers: list[pathlib.Path]

    def dotted(self, file: pathlib.Path) -> str:
        """The package of a test file: `networkx.classes.tests`; empty if it lies in none."""
        parts = []
        for folder in file.parents:
            if not (folder / "__init__.py").exists():
                break
            parts.insert(0, folder.name)
        return ".".join(parts)


def prepare_sources(package: dict, python: str) -> Sources:
    roots = [fetch_source(sdist, python) for sdist in package["sdists"]]
    site = fresh(CACHE / "work" / package["name"] / "site")
    metadata = fresh(CACHE / "work" / package["name"] / "metadata")
    for root, sdist in zip(roots, package["sdists"], strict=True):
        info = fresh(metadata / f"{sdist['name'].replace('-', '_')}-{sdist['version']}.dist-info")
        shutil.copy(root / "PKG-INFO", info / "METADATA")
        for entry_points in root.glob("*.egg-info/entry_points.txt"):
            shutil.copy(entry_points, info)

    def copied(path: str) -> pathlib.Path:
        source = next(root / path for root in roots if (root / path).is_dir())
        return pathlib.Path(shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("__pycache__")))

    packages = [copied(path) for path in package["packages"]]
    return Sources(roots, metadata, site, packages, [copied(path) for path in package.get("helpers", [])])


def find_tests(package: dict, sources: Sources) -> list[tuple[str, pathlib.Path]]:
    """The test files: path inside the source distribution, and the file."""
    found = {}
    for pattern in package["tests"]:
        files = [(path.relative_to(root).as_posix(), path) for root in sources.roots for path in root.glob(pattern)]
        if not files:
            raise ValueError(f"{package['name']}: no test file is {pattern}")
        found |= dict(files)
    absent = set(package.get("excluded", {})) - set(found)
    if absent:
        raise ValueError(f"{package['name']}: excluded test files that are not there: {sorted(absent)}")
    return [(name, path) for name, path in sorted(found.items()) if name not in package.get("excluded", {})]


# ------------------------------------------------------------------------------------ a test file


def absolute_imports(text: str, dotted: str) -> str:
    """The text with each `from .x import` naming its package. Only the dots and the name change."""
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level and dotted:
            parts = dotted.split(".")[: len(dotted.split(".")) - node.level + 1]
            target = ".".join(parts + ([node.module] if node.module else []))
            line = lines[node.lineno - 1].encode()
            head, rest = line[: node.col_offset].decode(), line[node.col_offset :].decode()
            rest = re.sub(r"from\s*\.+(\s*(?!import\b)[\w.]+)?", f"from {target}", rest, count=1)
            lines[node.lineno - 1] = head + rest
    return "\n".join(lines)


def with_conftest(text: str, conftest: str) -> str:
    """The conftest's text inside the test's: after the docstring and the `__future__` imports."""
    conftest = "".join(line for line in conftest.splitlines(keepends=True) if "from __future__" not in line)
    end = 0
    for node in ast.parse(text).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        end = node.end_lineno
    lines = text.split("\n")
    return "\n".join([*lines[:end], "", conftest, *lines[end:]])


def imports_of(text: str) -> set[str]:
    """The top-level names that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def run_pytest(python: pathlib.Path, folder: pathlib.Path, file: pathlib.Path, path: list) -> tuple[dict, str]:
    """What became of each test, and the reason if there is no result at all.

    Returns:
        results: name of the test to "passed" or to what went wrong.
        reason: empty, or why there are no results.
    """
    temporary = fresh(folder.with_name(folder.name + "-tmp"))
    (folder / "pytest.ini").write_text("[pytest]\n")
    report = temporary / "report.xml"
    done = execute(
        [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--junitxml",
            report,
            "--basetemp",
            temporary / "base",
            file.name,
        ],
        folder,
        RUN_LIMIT,
        TMPDIR=str(temporary),
        CI="true",
        PYTHONPATH=os.pathsep.join(map(str, path)),
    )
    if done.status is None:
        return {}, f"no result within {RUN_LIMIT} s"
    if not report.exists():
        return {}, f"pytest ended with status {done.status}: {last_line(done.output)}"
    results, seen, reason = {}, collections.Counter(), ""
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        wrong = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        if wrong is not None and wrong.get("message") == "collection failure":
            reason = "import: " + last_line(wrong.text or "")
            continue
        seen[name] += 1
        if seen[name] > 1 and wrong is not None and wrong.tag == "error":  # teardown after the test itself
            results[name] = "teardown: " + (wrong.get("message") or "")
            continue
        name = name if seen[name] == 1 else f"{name} ({seen[name]})"
        results[name] = "passed" if wrong is None else f"{wrong.tag}: {wrong.get('message') or ''}"
    return results, reason or ("" if results else f"pytest ended with status {done.status}: {last_line(done.output)}")


def last_line(text: str) -> str:
    """The line of an output that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")] or lines
    return errors[-1][:300] if errors else "no output"


def cause(message: str) -> str:
    """A failure's first line without what differs from test to test: addresses, numbers, quoted values."""
    first = (message.splitlines() or [""])[0]
    first = re.sub(r"0x[0-9a-f]+", "0x...", first)
    return re.sub(r"\d+", "N", first)[:160]


def check_file(package, sources, python, builder, build_python, name, path) -> FileResult:
    """Runs one test file on the original and flattened."""
    label = re.sub(r"\W", "_", name.removesuffix(".py"))
    base = CACHE / "work" / package["name"] / label
    text = absolute_imports(path.read_text(encoding="utf-8"), sources.dotted(path))
    mode = package.get("conftest")
    conftest = next((f / "conftest.py" for f in path.parents if (f / "conftest.py").exists()), None) if mode else None
    if mode == "inline":
        lent = absolute_imports(conftest.read_text(encoding="utf-8"), sources.dotted(conftest))
        text = with_conftest(text, lent)

    def empty_folder(kind: str) -> pathlib.Path:
        folder = fresh(base / kind)
        if mode == "copy":
            shutil.copy(conftest, folder / "conftest.py")
        return folder

    entry = fresh(base / "entry") / path.name
    entry.write_text(text, encoding="utf-8")
    helpers = [folder for folder in sources.helpers if folder.name in imports_of(text)]
    key = [__doc__, text, mode, str(python), *map(str, sources.roots), RUN_LIMIT]
    stored = base / f"original-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}.results"
    if not stored.exists():
        folder = empty_folder("original")
        shutil.copy(entry, folder)
        stored.write_text(json.dumps(run_pytest(python, folder, entry, [sources.site, sources.metadata])))
    original, reason = json.loads(stored.read_text())
    unstable = package.get("unstable", {})
    passed = [
        test
        for test, result in original.items()
        if result == "passed" and not any(re.fullmatch(known, f"{name}::{test}") for known in unstable)
    ]
    if not passed:
        return FileResult(name, [], {}, 0.0, reason or "no test passes")

    folder = empty_folder("flat")
    command = [build_python, builder, "--entry", entry, "--out", folder / path.name]
    for part in [*sources.packages, *helpers]:
        command += ["--package", part]
    built = execute(command, base, BUILD_LIMIT)
    (base / "build.log").write_text(built.output)
    if built.status is None:
        why = f"build: not done within {BUILD_LIMIT} s"
    elif built.status != 0:
        why = "build: " + cause(last_line(built.output).replace(str(sources.site) + os.sep, "").replace(str(base), ""))
    else:
        flat, reason = run_pytest(python, folder, entry, [sources.metadata])
        why = "run: " + cause(reason.replace(str(base), "")) if reason else "run: test not collected"
        failed = {test: cause(flat[test]) if test in flat else why for test in passed if flat.get(test) != "passed"}
        return FileResult(name, passed, failed, built.seconds, "")
    return FileResult(name, passed, dict.fromkeys(passed, why), built.seconds, "")


def check_package(name, jobs=2, python=sys.executable, builder=None, report=None) -> list[FileResult]:
    """Runs all test files of a package."""
    builder = pathlib.Path(builder or ROOT / "build_kernel.py").resolve()
    package = next(package for package in read_list()["package"] if package["name"] == name)
    sources = prepare_sources(package, python)
    inside = environment_python(package, python)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [
            pool.submit(check_file, package, sources, inside, builder, python, test, path)
            for test, path in find_tests(package, sources)
        ]
        results = []
        for future in futures:
            results.append(future.result())
            if report:
                report(results[-1])
        return results


# -------------------------------------------------------------------------------------- the tables


def count(results: list[FileResult]) -> tuple[int, int]:
    """How many tests pass on the original, and how many of those flattened."""
    total = sum(len(result.passed) for result in results)
    return total, total - sum(len(result.failed) for result in results)


def failures(name: str, results: list[FileResult], path: pathlib.Path = LIST) -> list[tuple[str, list[str]]]:
    """What fails, by cause, most frequent first; a cause of the list stands before the one read from the output."""
    groups = collections.defaultdict(list)
    for result in results:
        for test, why in result.failed.items():
            full = f"{result.file}::{test}"
            groups[known_cause(name, full, path) or why].append(full)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def unlisted(name: str, results: list[FileResult], path: pathlib.Path = LIST) -> list[str]:
    """What fails without a cause in the list."""
    return [
        f"{result.file}::{test}: {why}"
        for result in results
        for test, why in result.failed.items()
        if not known_cause(name, f"{result.file}::{test}", path)
    ]


def show_results(everything: dict[str, list[FileResult]], most: int | None, path: pathlib.Path = LIST) -> None:
    """Prints the table, and what fails by cause, at most so many tests of each."""
    print(f"\n{HEAD}")
    for name, results in everything.items():
        print(row(name, results))
    print(row("together", [result for results in everything.values() for result in results]))
    for name, results in everything.items():
        for why, tests in failures(name, results, path):
            print(f"\n{name}: {len(tests)} x {why}")
            for test in tests[:most]:
                print(f"    {test}")


def row(name: str, results: list[FileResult]) -> str:
    total, passing = count(results)
    share = f"{100 * passing / total:6.2f} %" if total else "     - "
    slowest = max((result.seconds for result in results), default=0)
    return f"{name:<18}{len(results):>6}{total:>10}{passing:>11}  {share}{slowest:>12.1f}"


HEAD = f"{'package':<18}{'files':>6}{'original':>10}{'flattened':>11}  {'share':>8}{'build max s':>12}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the tests of real packages against their flattened form.")
    parser.add_argument("--only", action="append", choices=package_names(), help="a package; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="test files at a time")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that builds and tests")
    parser.add_argument("--build", default=ROOT / "build_kernel.py", help="the flattener")
    parser.add_argument("-v", "--verbose", action="store_true", help="each test file, and more of what fails")
    options = parser.parse_args()
    everything = {}
    for name in options.only or package_names():
        start = time.monotonic()

        def report(result: FileResult) -> None:
            done = f"{len(result.passed) - len(result.failed)}/{len(result.passed)}"
            print(f"    {done:>10}  build {result.seconds:5.1f} s  {result.file}  {result.original}", flush=True)

        everything[name] = check_package(
            name, options.jobs, options.python, options.build, report if options.verbose else None
        )
        print(f"{HEAD}\n{row(name, everything[name])}   ({time.monotonic() - start:.0f} s)", flush=True)
    show_results(everything, 30 if options.verbose else 3)
    together = count([result for results in everything.values() for result in results])
    return 0 if together[1] >= SHARE * together[0] else 1


# --------------------------------------------------------------------------------------- the tests


def test_the_list_is_long_enough_pinned_and_covers_every_construct():
    packages = read_list()["package"]
    assert len(packages) >= FEWEST_PACKAGES
    covered = collections.Counter(construct for package in packages for construct in package["covers"])
    assert not set(PROPERTIES) - set(covered)
    assert covered["package data"] >= 2
    for package in packages:
        assert all(re.fullmatch(r"[0-9a-f]{64}", sdist["sha256"]) for sdist in package["sdists"])
        assert all(re.fullmatch(r"[\w-]+==[\w.]+", need) for need in package["requires"] + read_list()["pytest"])


def test_a_relative_import_of_a_test_file_names_its_package():
    text = (
        "from .utils import a  # ü\ndef f(): from . import b\nfrom ..c.d import (\n    e)\n"
        "from .utils import g; x = '.'\n"
    )
    assert absolute_imports(text, "pkg.tests") == (
        "from pkg.tests.utils import a  # ü\ndef f(): from pkg.tests import b\nfrom pkg.c.d import (\n    e)\n"
        "from pkg.tests.utils import g; x = '.'\n"
    )
    assert absolute_imports(text, "") == text


def test_a_conftest_goes_behind_the_docstring_and_the_future_imports():
    test = '"""Doc."""\nfrom __future__ import annotations\nimport a\n'
    merged = with_conftest(test, "from __future__ import x\nB = 1\n")
    assert merged == '"""Doc."""\nfrom __future__ import annotations\n\nB = 1\n\nimport a\n'


@pytest.mark.slow
@pytest.mark.parametrize("name", package_names())
def test_99_percent_of_a_packages_own_tests_pass_flattened_and_the_others_are_listed_by_cause(name):
    try:
        results = check_package(name)
    except Unavailable as reason:
        pytest.skip(str(reason))
    total, passing = count(results)
    assert total, [result.original for result in results]
    surprising = unlisted(name, results)
    assert not surprising, f"{HEAD}\n{row(name, results)}\n" + "\n".join(surprising[:20])
    assert passing >= SHARE * total, f"{HEAD}\n{row(name, results)}"


if __name__ == "__main__":
    sys.exit(main())
