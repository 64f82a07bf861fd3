"""The rules of the house that no single module can keep alone."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ORDER = [
    *("machine", "tiles", "rle", "metrics", "files", "config"),
    *("competition", "data", "layout", "folds", "synthetic", "submission", "artifacts"),
    *("layers", "keras_metrics", "augmentations", "losses", "encoders", "unet", "tta"),
    *("inference", "postprocess", "scoring", "ensembles"),
    *("resume", "parts", "parallel", "study", "schedule", "task", "training", "cross_validation", "search", "figures"),
]
NUMPY_ONLY = (
    *("tiles", "rle", "metrics", "files", "config", "submission", "artifacts", "postprocess", "scoring", "ensembles"),
    *("resume", "parts"),
)
HEAVY = ("tensorflow", "keras", "cv2", "sklearn", "matplotlib", "pandas")
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if "argparse" in path.read_text())


def imported_names(path):
    """Every module that a file imports at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def modules_after(code):
    """What `sys.modules` holds after some code, in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_order_names_every_module():
    assert sorted(ORDER) == sorted(path.stem for path in (ROOT / "salt").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_those_above_it(name):
    for module in imported_names(ROOT / "salt" / f"{name}.py"):
        if module.split(".")[0] == "salt":
            assert module.removeprefix("salt.") in ORDER[: ORDER.index(name)], f"salt/{name}.py imports {module}"


@pytest.mark.parametrize("name", ORDER)
def test_a_module_reads_neither_environment_nor_clock_nor_working_directory(name):
    source = (ROOT / "salt" / f"{name}.py").read_text(encoding="utf-8")
    assert not re.search(r"os\.environ|getenv|getcwd|Path\.cwd|datetime\.now|time\.time\(", source)
    assert not {"time", "datetime"} & set(imported_names(ROOT / "salt" / f"{name}.py"))


def test_importing_salt_imports_nothing_heavy():
    assert not modules_after("import salt") & {*HEAVY, "numpy"}


@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_a_numpy_only_module_stays_so(name):
    assert not modules_after(f"import salt.{name}") & set(HEAVY)


def test_no_scripts_import_each_other_in_a_circle():
    paths = (ROOT / "scripts").glob("*.py")
    graphlib.TopologicalSorter({f"scripts.{path.stem}": set(imported_names(path)) for path in paths}).prepare()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_scripts_help_is_light(name):
    code = (
        "import runpy, sys, contextlib\n"
        f"sys.argv = ['{name}.py', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):\n"
        f"    runpy.run_path('scripts/{name}.py', run_name='__main__')\n"
    )
    assert not modules_after(code) & {"tensorflow", "keras", "cv2"}


def test_the_package_requires_what_the_requirements_say():
    requirements = [
        line.split("#")[0].strip()
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        if not line.startswith("#")
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == requirements


def test_the_package_imports_only_what_it_requires():
    allowed = {"keras", "numpy", "pandas", "cv2", "sklearn", "matplotlib", "tqdm", "cloudpickle", "tensorflow"}
    allowed |= {"optuna", "salt"}
    for path in (ROOT / "salt").glob("*.py"):
        third_party = {name.split(".")[0] for name in imported_names(path)} - sys.stdlib_module_names
        assert third_party <= allowed, f"{path.name} imports {third_party - allowed}"


def test_no_two_modules_share_a_top_level_name():
    owners = {}
    for name in ORDER:
        for node in ast.parse((ROOT / "salt" / f"{name}.py").read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            for target in targets:
                defined = getattr(target, "name", None) or getattr(target, "id", None)
                if defined:
                    assert defined not in owners, f"{defined} is in salt/{owners[defined]}.py and salt/{name}.py"
                    owners[defined] = name
