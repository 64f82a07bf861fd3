"""The rules of the house that no single module can keep alone."""

import ast
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Each package's modules, those that import nothing of the others first; a module imports only from those before it.
ORDER = [
    *("limits", "machine", "files", "archives", "config", "rle", "metrics", "description"),
    *("stacks", "tiles", "pictures", "tables", "submission"),
    *("competition", "layout", "data", "folds", "seams", "mosaics", "borders", "tgs", "airbus", "severstal", "carvana"),
    *("synthetic", "scenes", "slices", "artifacts"),
    *(
        "layers",
        "running_score",
        "keras_metrics",
        "augmentations",
        "losses",
        "backbones",
        "encoders",
        "networks",
        "unet",
        "tta",
    ),
    *("postprocess", "inference", "levels", "scoring", "rules", "objects", "ensembles"),
    *(
        "resume",
        "parts",
        "parallel",
        "cluster_check",
        "cluster_task",
        "cluster",
        "study",
        "schedule",
        "task",
        "training",
        "cross_validation",
        "search",
        "trial_runs",
        "figures",
    ),
]
FLATTENER_ORDER = [
    *("errors", "settings", "trees", "source", "changes", "scopes", "names", "shell", "entries", "facts"),
    *("search_path", "library", "flows", "values", "pickles", "observers", "given_values", "path_values"),
    *("file_uses", "named_files", "reach"),
    *("finding", "evaluation"),
    *("purity", "loading", "meanings", "annotations", "merging", "refusals", "program", "naming", "lines"),
    *("emission", "unused", "modules_style", "arguments", "endings", "event_loop", "cells", "manifest", "documents"),
    *(
        "checks",
        "trace",
        "kaggle",
        "descriptions",
        "kernel_head",
        "notebook_entry",
        "parameters",
        "analysis",
        "build",
        "command",
    ),
]
DESK_ORDER = [
    *(
        "paths",
        "errors",
        "output",
        "command",
        "consent",
        "machine",
        "records",
        "states",
        "runs",
        "building",
        "competitions",
    ),
    *(
        "kaggle.errors",
        "kaggle.answers",
        "kaggle.credentials",
        "kaggle.transport",
        "kaggle.files",
        "kaggle.kernels",
        "kaggle.datasets",
    ),
    *(
        "kaggle.competitions",
        "secrets",
        "sending",
        "deeds",
        "settling",
        "metadata",
        "remote_output",
        "planning",
        "preflight",
        "pushing",
        "fan_out",
    ),
    *("fetching", "joining", "competition_data", "describing", "submitting", "uploading", "run_table", "refreshing"),
    *("local.sandbox", "local.competitions", "local.mounts", "local.processes", "local.endings", "local.kernels"),
    *("local.docker", "local.chain", "score_tables", "scoring", "ensembles"),
    *("prediction_files", "probability_values", "importing"),
    *("neighbours", "estimates", "weights"),
    *("pages.html", "pages.scaled", "pages.report", "pages.explore", "pages.mosaics"),
    *("benchmarks.timing", "benchmarks.page", "benchmarks.peers", "benchmarks.peer_program", "benchmarks.masks"),
    *("benchmarks.reading", "benchmarks.networks", "benchmarks.programs", "benchmarks.groups", "benchmarks.growth"),
    "benchmarks.large",
]
DESCRIPTIONS = ("tgs", "airbus", "severstal", "carvana")
# Functions that can be called from where they once were: each only calls the one in its new place.
FORMER_PLACES = {("training", "fit_folds"), ("training", "read_pseudo_labels"), ("study", "run_search")}
FLOORS = {"salt": ORDER, "flattener": FLATTENER_ORDER, "desk": DESK_ORDER}
# Which of the other packages each may import.
BELOW = {"salt": (), "flattener": (), "desk": ("salt", "flattener"), "scripts": ("salt", "flattener", "desk")}
OURS = {*BELOW, "build_kernel"}
NUMPY_ONLY = (
    *("tiles", "rle", "metrics", "files", "config", "submission", "artifacts", "postprocess", "scoring", "ensembles"),
    "levels",
    *("resume", "parts", "limits"),
    *("description", "tables", "stacks"),
)
HEAVY = ("tensorflow", "keras", "cv2", "sklearn", "matplotlib", "pandas")
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
MOST_LINES = 500  # of a file of Python or JavaScript


def imported_names(path):
    """Every module that a file imports at any depth of its code, but for functions that have moved."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    module.body = [node for node in module.body if (path.stem, getattr(node, "name", None)) not in FORMER_PLACES]
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = ROOT / node.module.replace(".", "/")
            modules = [alias.name for alias in node.names if (folder / f"{alias.name}.py").is_file()]
            yield from (f"{node.module}.{name}" for name in modules)
            if len(modules) < len(node.names):
                yield node.module


def modules_after(code, folder=ROOT, **more):
    """What `sys.modules` holds after some code, in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        cwd=folder, capture_output=True, text=True, **more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("package", FLOORS)
def test_the_order_names_every_module(package):
    paths = [path.relative_to(ROOT / package) for path in (ROOT / package).rglob("*.py") if path.stem != "__init__"]
    assert sorted(FLOORS[package]) == sorted(".".join(path.with_suffix("").parts) for path in paths)


@pytest.mark.parametrize(
    ("package", "name"),
    [*((package, name) for package in FLOORS for name in FLOORS[package]), *(("scripts", name) for name in SCRIPTS)],
)
def test_a_module_imports_only_from_those_above_it(package, name):
    order = FLOORS.get(package, [name])  # no script imports another one
    allowed = {f"{package}.{above}" for above in order[: order.index(name)]}
    for module in imported_names(ROOT / package / f"{name.replace('.', '/')}.py"):
        top = module.split(".")[0]
        if top in OURS:
            assert module in allowed or top in BELOW[package], f"{package}/{name} imports {module}"


@pytest.mark.parametrize("package", BELOW)
def test_no_file_is_long(package):
    for path in [path for path in (ROOT / package).rglob("*.*") if path.suffix in (".py", ".js")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, f"{path.relative_to(ROOT)} is long"


@pytest.mark.parametrize("package", ["desk", "scripts"])
def test_nothing_at_the_desk_changes_where_modules_are_found(package):
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"sys\.path(\[| =|\.insert|\.append|\.extend)", text), path.relative_to(ROOT)


@pytest.mark.parametrize("name", FLATTENER_ORDER)
def test_the_flattener_needs_only_the_standard_library(name):
    imported = {module.split(".")[0] for module in imported_names(ROOT / "flattener" / f"{name}.py")}
    assert imported <= {"flattener", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", ORDER)
def test_a_module_reads_neither_environment_nor_clock_nor_working_directory(name):
    source = (ROOT / "salt" / f"{name}.py").read_text(encoding="utf-8")
    if name == "cluster_task":  # on another machine, whose environment only what runs there can read
        source = source.replace("fast_switches(os.environ)", "")
    assert not re.search(r"os\.environ|getenv|getcwd|Path\.cwd|datetime\.now|time\.time\(", source)
    assert not {"time", "datetime"} & set(imported_names(ROOT / "salt" / f"{name}.py"))


def test_a_cluster_is_imported_without_dask_and_without_keras():
    assert not modules_after("import salt.cluster") & {*HEAVY, "distributed"}


def test_only_one_module_starts_processes_that_go_on():
    found = [
        path.name
        for path in (ROOT / "salt").glob("*.py")
        if re.search(r"Popen\(|ProcessPool|multiprocessing", path.read_text())
    ]
    assert found == ["parallel.py"]


def test_importing_salt_imports_nothing_heavy():
    assert not modules_after("import salt") & {*HEAVY, "numpy"}


@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_a_numpy_only_module_stays_so(name):
    assert not modules_after(f"import salt.{name}") & set(HEAVY)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_from_any_folder_and_its_help_is_light(name, tmp_path):
    code = (
        "import runpy, sys, contextlib\n"
        f"sys.argv = ['{name}.py', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):\n"
        f"    runpy.run_path({str(ROOT / 'scripts' / f'{name}.py')!r}, run_name='__main__')\n"
    )
    # Without PYTHONPATH, in which conftest.py names this checkout: `make` has installed the packages.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    assert not modules_after(code, tmp_path, env=environment) & {"tensorflow", "keras", "cv2", "numpy", "requests"}


@pytest.mark.parametrize(
    ("name", "tensorflow"), [("environment.yml", "tensorflow"), ("environment-cuda.yml", "tensorflow[and-cuda]")]
)
def test_the_environments_hold_what_the_project_says(name, tensorflow):
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, extras = whole["project"], whole["project"]["optional-dependencies"]
    assert whole["dependency-groups"] == {"dev": ["tgs-salt[desk,test]"]}
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").endswith("\n--editable .[desk,test]\n")
    lines = [*project["dependencies"], *extras["desk"], *extras["test"]]
    text = (ROOT / name).read_text(encoding="utf-8")
    listed = re.findall(r'^    - "(.*)"$', text, flags=re.MULTILINE)
    assert listed == [line.replace("tensorflow>", f"{tensorflow}>") for line in lines]
    assert f"- python{project['requires-python']}\n" in text


def test_the_package_imports_only_what_it_requires():
    allowed = {"keras", "numpy", "pandas", "cv2", "sklearn", "matplotlib", "tqdm", "cloudpickle", "tensorflow"}
    allowed |= {"optuna", "filelock", "salt"}
    allowed |= {"keras_hub", "distributed"}  # optional: extras in pyproject.toml
    allowed |= {"threadpoolctl", "PIL"}  # scikit-learn and matplotlib require them
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
                if name in DESCRIPTIONS and defined in ("COMPETITION", "COLUMNS"):
                    continue  # a notebook holds one of them
                if defined and (name, defined) not in FORMER_PLACES:
                    assert defined not in owners, f"{defined} is in salt/{owners[defined]}.py and salt/{name}.py"
                    owners[defined] = name


@pytest.mark.parametrize(("place", "name"), sorted(FORMER_PLACES))
def test_what_has_moved_only_calls_the_function_in_its_new_place(place, name):
    module = ast.parse((ROOT / "salt" / f"{place}.py").read_text(encoding="utf-8"))
    (function,) = (node for node in module.body if getattr(node, "name", None) == name)
    _, imported, *adapted, returned = function.body
    where = imported.names[0].name
    assert re.fullmatch(
        rf"return {where}\.{name}\((config, with_more, )?\*arguments, \*\*named\)", ast.unparse(returned)
    )
    assert [node.name for node in adapted] == (["with_more"] if name == "run_search" else [])  # of fewer arguments
    assert f"\ndef {name}(" in (ROOT / "salt" / f"{where}.py").read_text(encoding="utf-8")
