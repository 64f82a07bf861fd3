"""The search notebook, built and run as on Kaggle: two workers, and a run that is killed and resumed by another."""

import functools
import os
import pathlib
import signal
import subprocess
import sys

import pandas as pd
import pytest

from desk.local.kernels import run_kernel
from salt.artifacts import verify_run
from salt.config import preset
from salt.study import open_study

ROOT = pathlib.Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow
SETTINGS = {"trials": 0, "epochs": 3, "depth": 2}


@pytest.fixture(scope="module")
def search(tmp_path_factory, synthetic_folder):
    """Runs the search notebook on the synthetic tiles; all runs lie in one folder."""
    runs = tmp_path_factory.mktemp("search") / "runs"
    search = functools.partial(run_kernel, "search", data=synthetic_folder, runs=runs, minutes=30)
    search.runs = runs
    return search


@pytest.fixture(scope="module")
def whole(search):
    """The folder of a search without a break."""
    return search(preset="smoke", settings=SETTINGS)


def told(folder):
    trials = open_study(folder, preset("smoke", **SETTINGS)).get_trials()
    return [(trial.state, trial.params, trial.value, trial.intermediate_values, trial.user_attrs) for trial in trials]


def assert_same_search(folder, whole):
    manifest = verify_run(folder)
    assert manifest["finished"] and manifest["trials"] == 6
    assert set(manifest["files"]) == {"study.journal", "trials.csv", "state/run.json"}
    assert told(folder) == told(whole)
    assert (folder / "trials.csv").read_text() == (whole / "trials.csv").read_text()


def test_a_search_tries_every_combination_and_tells_the_best(whole):
    table = pd.read_csv(whole / "trials.csv")
    assert (table["state"] == "complete").all() and (table["epochs"] == 3).all()
    best = {name: table.loc[0, name] for name in ("filter_scaling", "batch_norm_momentum")}
    assert verify_run(whole)["best"] == best
    assert "filter_scaling" in (whole / "search.html").read_text()


def test_two_workers_find_the_same(search, whole, capfd):
    folder = search(preset="smoke", settings={**SETTINGS, "workers": 2})
    assert "2 trials at once, each in a process of its own" in capfd.readouterr().out
    assert_same_search(folder, whole)


def test_a_search_that_is_killed_in_a_training_goes_on_from_its_output_to_the_same_study(search, whole, capfd):
    settings = [f"{key}={value}" for key, value in SETTINGS.items()]
    command = [
        *(sys.executable, ROOT / "scripts" / "run_local.py", "search"),
        *("--data", search.keywords["data"], "--preset", "smoke", "--set", *settings, "--runs", search.runs),
    ]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    in_third = False
    with subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            in_third = in_third or line.startswith("trial 2:")
            if in_third and line.startswith("fold 0  epoch 1"):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    (killed,) = (path for path in search.runs.glob(".search-smoke-*") if path.is_dir())
    folder = search(resume=killed.name.removeprefix("."))
    shown = capfd.readouterr().out
    assert "trial 2: " in shown and "trial 1: " not in shown and "resumes after epoch" in shown
    assert_same_search(folder, whole)
    assert verify_run(folder)["resumed_from"] == killed.name.removeprefix(".")
