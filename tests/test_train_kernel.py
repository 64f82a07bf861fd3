"""The train notebook, built and run as on Kaggle: folds at once, a run that stops, runs that are killed and go on."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import psutil
import pytest

from desk.errors import LocalRunError
from desk.local import kernels
from desk.local.kernels import run_kernel
from salt.artifacts import read_oof, verify_run

ROOT = pathlib.Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow
SETTINGS = {"train_folds": [0, 1], "epochs": 8, "filter_scaling": 2}


@pytest.fixture(scope="module")
def train(tmp_path_factory, synthetic_folder):
    """Runs the train notebook on the synthetic tiles; all runs lie in one folder."""
    runs = tmp_path_factory.mktemp("train") / "runs"

    def run(**options):
        return run_kernel("train", **{"data": synthetic_folder, "runs": runs, "minutes": 30, **options})

    run.runs = runs
    return run


@pytest.fixture(scope="module")
def whole(train):
    """The folder of a run of two folds, one after the other and without a break."""
    return train(preset="smoke", settings=SETTINGS)


def assert_same_run(folder, whole):
    assert verify_run(folder)["finished"] and not (folder / "state").exists()
    assert (folder / "history.csv").read_text() == (whole / "history.csv").read_text()
    for found, expected in zip(read_oof(folder / "oof.npz"), read_oof(whole / "oof.npz"), strict=True):
        np.testing.assert_array_equal(found, expected)
    for name in ("fold0.weights.h5", "fold1.weights.h5"):
        found, expected = datasets(folder / name), datasets(whole / name)
        assert found.keys() == expected.keys() and len(found) > 10
        for path in found:
            np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


def datasets(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def once(condition, act):
    """Calls `act` in a thread as soon as `condition` gives something, with that."""

    def watch():
        while not (found := condition()):
            time.sleep(0.005)
        act(found)

    threading.Thread(target=watch, daemon=True).start()


def worker_process(number, checkpoint):
    """The process that trains the fold of this number, once the fold has a checkpoint of this or a later epoch."""
    saved = checkpoint.parent.glob(checkpoint.name) if checkpoint.parent.is_dir() else []
    if not any(saved):
        return None
    workers = [each for each in psutil.Process().children(recursive=True) if is_worker(each)]
    return sorted(workers, key=psutil.Process.create_time)[number]


def is_worker(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return (process.cmdline() or [""])[-1].endswith("/job.pickle")
    return False


def test_two_folds_at_once_are_the_same_run(train, whole, capfd):
    folder = train(preset="smoke", settings={**SETTINGS, "workers": 2})
    assert "2 folds at once, each in a process of its own" in capfd.readouterr().out
    assert_same_run(folder, whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["resumed_from"] is None


def test_a_worker_that_is_killed_fails_the_run_by_name_and_another_run_goes_on(train, whole, monkeypatch, capfd):
    monkeypatch.setattr(kernels, "new_run_id", lambda *_: "train-killed-worker")
    checkpoint = train.runs / ".train-killed-worker" / "working" / "state" / "fold1" / "epoch-0000[2-7].weights.h5"
    once(lambda: worker_process(1, checkpoint), lambda worker: worker.kill())
    with pytest.raises(LocalRunError, match="resume it by --resume train-killed-worker"):
        train(preset="smoke", settings={**SETTINGS, "workers": 2})
    shown = capfd.readouterr().out
    assert "TrainingError: fold 1: its process was killed by SIGKILL, perhaps out of memory" in shown
    assert "fold 0  epoch 8" in shown and "fold 1  epoch 8" not in shown
    left = train.runs / "train-killed-worker.failed" / "working"
    manifest = verify_run(left)
    assert manifest["finished"] is False and "fold0.weights.h5" in manifest["files"]
    assert "fold1.weights.h5" not in manifest["files"] and set(read_oof(left / "oof.npz").fold) == {0}
    assert len(manifest["files"]) < 50
    monkeypatch.undo()
    folder = train(resume="train-killed-worker")
    assert_same_run(folder, whole)
    assert verify_run(folder)["resumed_from"] == "train-killed-worker"


def test_a_run_that_is_killed_in_work_goes_on_to_the_same_bits(train, whole, synthetic_folder, capfd):
    settings = [f"{key}={value}".replace(" ", "") for key, value in SETTINGS.items()]
    process = subprocess.Popen(
        [
            *(sys.executable, ROOT / "scripts" / "run_local.py", "train", "--data", synthetic_folder),
            *("--preset", "smoke", "--set", *settings, "--runs", train.runs),
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    once(lambda: any(train.runs.glob(".*/working/state/fold1/epoch-0000[2-7].weights.h5")), lambda _: process.kill())
    assert process.wait(timeout=1800) == -signal.SIGKILL
    (killed,) = (path for path in train.runs.glob(".train-smoke-*") if path.is_dir())
    folder = train(resume=killed.name.removeprefix("."))
    assert "fold 0: finished before" in capfd.readouterr().out
    assert_same_run(folder, whole)


def test_a_run_stops_before_its_limit_with_its_state_among_its_outputs(train, capfd):
    for limit in (0.75, 3.0, 12.0):  # the first may end before a slow machine has trained an epoch
        try:
            folder = train(preset="smoke", settings={**SETTINGS, "epochs": 9000, "limit_minutes": limit})
            break
        except LocalRunError:
            assert "there is no time for an epoch" in capfd.readouterr().out
    manifest = verify_run(folder)
    assert manifest["finished"] is False and manifest["minutes"] < 1.5 * limit
    assert "no fold is finished yet" in capfd.readouterr().out
    kept = [name for name in manifest["files"] if name.startswith("state/")]
    assert "state/run.json" in kept and any(name.endswith(".weights.h5") for name in kept) and len(kept) < 10
