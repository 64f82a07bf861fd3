"""The flattener as one file: `make dist` flattens it by itself, and the file does what the package does."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = sorted(path.stem for path in (ROOT / "kernels").glob("*.py"))
FLATTENED = ("--entry", "build_kernel.py", "--package", "flattener")
PLAIN = ("-S", "-s", "-E")  # of Python: no third-party package is found, whatever is installed


def run(command: list, folder: Path = ROOT) -> str:
    """Runs a command that must succeed; returns what it printed."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The one file."""
    folder = tmp_path_factory.mktemp("dist")
    run(["make", "dist", f"PYTHON={sys.executable}", f"DIST={folder}"])
    return folder / "build_kernel.py"


@pytest.fixture(scope="module")
def repository(dist, tmp_path_factory) -> Path:
    """This repository with the one file instead of the package."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("kernels", "salt", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (dist, ROOT / "pyproject.toml"):
        shutil.copy(path, folder)
    return folder


def test_the_one_file_is_a_fixed_point(dist, tmp_path):
    run([sys.executable, *PLAIN, dist, *FLATTENED, "--out", tmp_path / "build_kernel.py"])
    assert (tmp_path / "build_kernel.py").read_bytes() == dist.read_bytes()


def test_what_an_earlier_build_has_left_is_no_part_of_the_next_one(dist, tmp_path):
    shutil.copytree(ROOT / "flattener", tmp_path / "flattener", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("build_kernel.py", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    for _ in range(2):
        run(["make", "dist", f"PYTHON={sys.executable}"], folder=tmp_path)
        assert (tmp_path / "dist" / "build_kernel.py").read_bytes() == dist.read_bytes()


def test_the_one_file_builds_the_kernels_to_the_same_bytes(repository, tmp_path):
    run([sys.executable, *PLAIN, ROOT / "build_kernel.py", "--owner", "me", "--out", tmp_path / "package"])
    run([sys.executable, *PLAIN, "build_kernel.py", "--owner", "me", "--out", tmp_path / "file"], repository)
    built = sorted(path.relative_to(tmp_path / "package") for path in (tmp_path / "package").rglob("*.*"))
    assert len(built) == 3 * len(KERNELS)
    for path in built:
        assert (tmp_path / "file" / path).read_bytes() == (tmp_path / "package" / path).read_bytes(), path


def test_the_one_file_is_plain_code_without_the_package(dist):
    text = dist.read_text()
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= sys.stdlib_module_names
    assert 'if __name__ == "flattener' not in text and str(ROOT) not in text
    assert len(text) < sum(path.stat().st_size for path in (ROOT / "flattener").glob("*.py"))  # nothing is there twice
    defined = re.findall(r"(?m)^(?:def|class) (\w+)", text)
    assert len(defined) == len(set(defined)) > 100


def test_no_name_of_the_flattener_collides_with_another(tmp_path):
    printed = run([sys.executable, "build_kernel.py", *FLATTENED, "--out", tmp_path / "build_kernel.py", "-v"])
    assert "renamed" not in printed and "dropped" not in printed, printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_build_kernel", "test_flatten_cases"])
def test_the_tests_of_the_flattener_pass_on_the_one_file(name, repository):
    printed = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{name}.py"], repository)
    assert re.search(r"\b[1-9]\d+ passed", printed)
