"""CPython's own tests of its pure-Python packages pass against the flattened form: `cpython_packages.toml` lists them.

Each package is copied under another name (`json` becomes `own_json`), and so are its tests, so that the originals of
the interpreter play no part. Each test file is an entry, built with the copy and the tests' helpers into one file, and
run by `unittest` in an empty folder. The same file first runs with the copy on PYTHONPATH; a test counts if it passes
there. The tests come with a Python 3.12 of pyenv; without one they are skipped.

The slow test here runs with `make test-slow`. As a script it prints the table and what fails, by cause:

    python tests/test_cpython_packages.py [--only NAME ...] [--jobs 2] [-v]
"""

import argparse
import concurrent.futures
import io
import json
import os
import pathlib
import re
import shutil
import sys
import tokenize

import pytest
import test_real_packages as real

LIST = pathlib.Path(__file__).with_name("cpython_packages.toml")
WORK = real.CACHE / "cpython"
TESTS_NAME = "own_tests"
RUN_LIMIT = 300  # seconds for one test file; a busy machine needs them, and what hangs ends
RUNNER = r"""
import importlib, json, sys, unittest, warnings
name, own, report = sys.argv[1:]
sys.argv[1:] = []
results = {}

class Result(unittest.TestResult):
    def addSuccess(self, test):
        results.setdefault(test.id(), "passed")
    def addFailure(self, test, error):
        results[test.id()] = f"{error[0].__name__}: {error[1]}"
    addError = addFailure
    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addFailure(test, error)
    def addSkip(self, test, reason):
        results[test.id()] = f"skipped: {reason}"
    def addExpectedFailure(self, test, error):
        pass

if own == "own_asyncio":
    sys.modules["_asyncio"] = None  # it knows the exceptions of the interpreter's own asyncio alone
module = importlib.import_module(name)
found = getattr(module, own, None) if own == "own_unittest" else None
found = found or (sys.modules.get(own) if own == "own_unittest" else None) or unittest
cases = sys.modules.get("unittest.async_case")
if cases and own in sys.modules and own == "own_asyncio":
    cases.asyncio = sys.modules[own]  # the copy's loop runs its tests, as asyncio's own does
if hasattr(module, "load_tests"):
    del module.load_tests
found.defaultTestLoader.loadTestsFromModule(module).run(Result())
json.dump(results, open(report, "w"))
"""


def find_python() -> pathlib.Path | None:
    """A Python 3.12 of pyenv with the tests of its library."""
    versions = pathlib.Path(os.environ.get("PYENV_ROOT") or pathlib.Path.home() / ".pyenv") / "versions"
    found = sorted(path for path in versions.glob("3.12.*") if (path / "lib/python3.12/test/test_json").is_dir())
    return found[-1] / "bin/python" if found else None


def renamed(text: str, name: str) -> str:
    """The text of a module with a package's name changed: as a name, and in strings that hold it or begin with it."""
    own = f"own_{name}"
    in_string = re.compile(
        rf"(?<![\w.])test\.test_{name}\b|(?<![\w./<?-]){name}(?=\.[A-Za-z_])|(?<=^['\"]){name}(?=['\"]$)"
    )
    lines = text.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    for at in range(len(tokens) - 1, -1, -1):
        token, before, after = tokens[at], tokens[at - 1], tokens[min(at + 1, len(tokens) - 1)]
        if token.type == tokenize.NAME and token.string == name and before.string != ".":
            changed = name if after.string == "=" and before.string in ("(", ",") else own
        elif token.type == tokenize.STRING:
            changed = in_string.sub(lambda found: found[0].replace(f"test.test_{name}", TESTS_NAME).replace(name, own)
                                    if "test." not in found[0] else TESTS_NAME, token.string)  # fmt: skip
        else:
            continue
        if changed != token.string:
            first, last = token.start[0] - 1, token.end[0] - 1
            head, tail = lines[first][: token.start[1]], lines[last][token.end[1] :]
            lines[first : last + 1] = (head + changed + tail).splitlines(keepends=True)
    text = "".join(lines)
    return re.sub(rf"(?m)^(\s*(?:from|import) )test\.test_{name}\b", rf"\1{TESTS_NAME}", text)


def copied(source: pathlib.Path, target: pathlib.Path, name: str) -> pathlib.Path:
    """A copy of a package, or of a module, with its name changed throughout."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [target] if target.is_file() else target.rglob("*.py"):
        try:
            path.write_text(renamed(path.read_text(encoding="utf-8"), name), encoding="utf-8")
        except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
            continue  # a file that is there to be broken
    return target


def run_tests(python, folder, file, own, path) -> tuple[dict, str]:
    """What became of each test, and the reason if there is no result at all."""
    (folder.parent / "runner.py").write_text(RUNNER)
    report = folder.parent / f"{folder.name}.json"
    report.unlink(missing_ok=True)
    search = os.pathsep.join(map(str, [folder, *path]))
    command = [python, folder.parent / "runner.py", file.stem, own, report]
    done = real.execute(command, folder, RUN_LIMIT, PYTHONPATH=search, TMPDIR=str(folder.parent))
    if done.status is None:
        return {}, f"no result within {RUN_LIMIT} s"
    if not report.exists():
        return {}, f"ended with status {done.status}: {real.last_line(done.output)}"
    return json.loads(report.read_text()), ""


def check_file(package, python, site, parts, path) -> real.FileResult:
    """Runs one test file on the original and flattened."""
    name = package["name"]
    test_root = python.parents[1] / "lib/python3.12/test"
    inside = path.relative_to(test_root)
    base = real.fresh(WORK / name / re.sub(r"\W", "_", str(inside.with_suffix(""))))
    dotted = ".".join([TESTS_NAME, *inside.parts[1:-1]]) if len(inside.parts) > 1 else "test"
    text = real.absolute_imports(renamed(path.read_text(encoding="utf-8"), name), dotted)
    stem = path.stem if path.stem != "__init__" else path.parent.name
    entry = real.fresh(base / "entry") / f"{stem}.py"
    entry.write_text(text, encoding="utf-8")
    original, folder = real.fresh(base / "original"), real.fresh(base / "flat")
    shutil.copy(entry, original)
    for data in package.get("data", []):
        for target in (original, folder):
            shutil.copytree(path.parent / data, target / data)
    results, reason = run_tests(python, original, entry, f"own_{name}", [site])
    unstable = package.get("unstable", {})
    passed = [
        test
        for test, result in results.items()
        if result == "passed" and not any(re.fullmatch(each, f"{inside}::{test}") for each in unstable)
    ]
    if not passed:
        return real.FileResult(str(inside), [], {}, 0.0, reason or "no test passes")
    command = [python, real.ROOT / "build_kernel.py", "--entry", entry, "--out", folder / entry.name]
    for part in parts:
        command += ["--package", part]
    built = real.execute(command, base, real.BUILD_LIMIT)
    (base / "build.log").write_text(built.output)
    if built.status != 0:
        why = "build: " + real.cause(real.last_line(built.output))
        return real.FileResult(str(inside), passed, dict.fromkeys(passed, why), built.seconds, "")
    flat, reason = run_tests(python, folder, entry, f"own_{name}", [])
    why = "run: " + real.cause(reason or "test not found")
    failed = {test: real.cause(flat.get(test, why)) for test in passed if flat.get(test) != "passed"}
    return real.FileResult(str(inside), passed, failed, built.seconds, "")


def check_package(name, jobs=2, report=None) -> list[real.FileResult]:
    """Runs all test files of a package."""
    python = find_python()
    if python is None:
        raise real.Unavailable("no Python 3.12 of pyenv with the tests of its library")
    package = next(package for package in real.read_list(LIST)["package"] if package["name"] == name)
    library = python.parents[1] / "lib/python3.12"
    site = real.fresh(WORK / name / "site")
    source = library / name if (library / name).is_dir() else library / f"{name}.py"
    parts = [copied(source, site / f"own_{source.name}", name)]
    if "helpers" in package:
        parts.append(copied(library / "test" / package["helpers"], site / TESTS_NAME, name))
        needed = (parts[-1] / "__init__.py").read_text(encoding="utf-8")
        for path in parts[-1].rglob("test_*.py"):
            if path.stem not in needed:
                path.unlink()  # each is an entry of its own
    files = sorted({path for pattern in package["tests"] for path in (library / "test").glob(pattern)})
    files = [path for path in files if path.name not in package.get("excluded", {})]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(check_file, package, python, site, parts, path) for path in files]
        results = []
        for future in futures:
            results.append(future.result())
            if report:
                report(results[-1])
        return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs CPython's tests of its packages against their flattened form.")
    parser.add_argument("--only", action="append", choices=real.package_names(LIST), help="a package; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="test files at a time")
    parser.add_argument("-v", "--verbose", action="store_true", help="each test file, and all that fails")
    options = parser.parse_args()

    def report(result: real.FileResult) -> None:
        done = f"{len(result.passed) - len(result.failed)}/{len(result.passed)}"
        print(f"    {done:>10}  {result.file}  {result.original}", flush=True)

    everything = {}
    for name in options.only or real.package_names(LIST):
        everything[name] = check_package(name, options.jobs, report if options.verbose else None)
        print(real.row(name, everything[name]), flush=True)
    real.show_results(everything, None if options.verbose else 3, LIST)
    return 0


def test_a_package_gets_another_name_in_code_and_in_strings_that_mean_it():
    text = (
        "import json\nfrom json.decoder import x\nf('json', \"json.tool\", json=json.loads, a='a json b', b=x.json)\n"
    )
    assert renamed(text, "json") == (
        "import own_json\nfrom own_json.decoder import x\n"
        "f('own_json', \"own_json.tool\", json=own_json.loads, a='a json b', b=x.json)\n"
    )
    assert renamed("from test.test_json import CTest\n", "json") == "from own_tests import CTest\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", real.package_names(LIST))
def test_what_fails_of_a_packages_own_tests_is_listed_by_cause(name):
    try:
        results = check_package(name)
    except real.Unavailable as reason:
        pytest.skip(str(reason))
    assert real.count(results)[0], [result.original for result in results]
    surprising = real.unlisted(name, results, LIST)
    assert not surprising, f"{real.HEAD}\n{real.row(name, results)}\n" + "\n".join(surprising[:20])


if __name__ == "__main__":
    sys.exit(main())
