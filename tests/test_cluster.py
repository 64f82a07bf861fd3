"""Folds and trials on a Dask cluster: a scheduler and workers of 127.0.0.1."""

import dataclasses
import functools
import json
import linecache
import os
import pathlib
import re
import subprocess
import sys
import time

import h5py
import keras
import numpy as np
import psutil
import pytest
from cluster_tasks import (
    collect,
    die_as_often,
    kill_the_process_and_then_the_worker,
    kill_the_scheduler,
    learn,
    note_and_print,
    sleep_long,
    write_or_kill,
)
from training_tiles import PLAIN, TINY, tiles_with_two_black_ones

pytest.importorskip("distributed", reason='needs the extra "cluster"')

from salt import cluster_check
from salt.cluster import open_cluster
from salt.cluster_check import ClusterError
from salt.cluster_task import JOB_FOLDER
from salt.config import preset
from salt.cross_validation import fit_folds
from salt.study import open_study
from salt.trial_runs import run_search

# A worker that has just started has not told its versions yet.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatched versions")
PATIENCE = 120  # seconds in which a busy machine, too, starts or ends a process
CONFIG = preset("smoke", **TINY, **PLAIN, epochs=3, folds=3, train_folds=[0], dropout=0.2, ema_momentum=0.9)


def wait_for(what, condition, patience=PATIENCE):
    for _ in range(10 * patience):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError(what)


def open_and_close(*given, **named):
    with open_cluster(*given, **named):
        pass


class Machines:
    """A scheduler and its workers.

    Args:
        folder: of their files.
    """

    def __init__(self, folder):
        self.folder, self.file, self.processes = folder, folder / "scheduler.json", []
        where = ("--port", "0", "--scheduler-file", str(self.file))
        self.scheduler = self.start("dask_scheduler", *where, "--no-dashboard")
        wait_for("scheduler", self.file.is_file)
        self.address = json.loads(self.file.read_text())["address"]

    def start(self, program, *arguments, path=()):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), os.environ["PYTHONPATH"]])}
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--host", "127.0.0.1", *arguments]
        with open(self.folder / f"{len(self.processes)}.log", "w") as log:
            process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def start_workers(self, count=1, *arguments, path=()):
        given = ("--nthreads", "1", "--no-nanny", "--no-dashboard", *arguments)
        started = [self.start("dask_worker", self.address, *given, path=path) for _ in range(count)]
        self.settle()
        return started

    def settle(self):
        """Waits until the scheduler knows the workers that live, and no other."""
        living = [process for process in self.processes[1:] if process.poll() is None]
        wait_for("workers", lambda: len(self.names()) == len(living))

    def names(self):
        client = cluster_check.connect_scheduler(self.address)
        try:
            return list(client.scheduler_info(n_workers=-1)["workers"])
        finally:
            client.close()

    def stop(self, *processes):
        for process in processes:  # what they have started ends with them
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A scheduler and two workers; a test that loses one of them starts another."""
    found = Machines(tmp_path_factory.mktemp("machines"))
    found.start_workers(2)
    yield found
    found.stop(*found.processes)


# --- tasks ---


def test_each_task_has_a_process_of_its_own_on_a_worker_and_its_lines_arrive(machines, tmp_path, capsys):
    tasks = [str(tmp_path / name) for name in "abc"]
    errors, lines = collect(str(machines.file), tmp_path, note_and_print, tasks)
    assert errors == {}
    backend = keras.backend.backend()
    assert lines == {index: [f"task {task} in time True {backend}"] for index, task in enumerate(tasks)}
    workers = {process.pid for process in machines.processes[1:]}
    assert {int(pathlib.Path(task).read_text()) for task in tasks} <= workers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]  # the job is gone
    assert "2 workers on 127.0.0.1, 2 tasks at once" in capsys.readouterr().out


CELL = """
def divide(task, passed):
    with open(task, "a") as file:
        file.write("x")
    return 1 / 0  # the cell's line
"""


def test_a_bug_is_not_tried_again_and_its_traceback_shows_the_line_of_the_cell(machines, tmp_path):
    name, cell = "/tmp/ipykernel_1/cell.py", {"__name__": "__main__"}
    linecache.cache[name] = (len(CELL), None, CELL.splitlines(keepends=True), name)
    exec(compile(CELL, name, "exec"), cell)
    errors, _ = collect(machines.address, tmp_path, cell["divide"], [str(tmp_path / "tries")])
    assert "return 1 / 0  # the cell's line" in str(errors[0]) and "ZeroDivisionError" in str(errors[0])
    assert (tmp_path / "tries").read_text() == "x"


def test_a_killed_process_is_tried_again_three_times(machines, tmp_path):
    for kills, failed in ((1, []), (9, [0])):
        counter = tmp_path / str(kills)
        counter.write_text("x" * kills)
        errors, lines = collect(machines.address, tmp_path, die_as_often, [str(counter)])
        assert list(errors) == failed
        assert lines[0].count("its process was killed by SIGKILL, perhaps out of memory") == min(kills, 4)
    assert str(errors[0]) == "its process was killed by SIGKILL, perhaps out of memory"


# TensorFlow takes seconds to import, and of Keras only the backend's name is asked.
CLIENT = """
import pathlib, sys, time, types
sys.modules["keras"] = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "tensorflow"))
import cluster_tasks
cluster_tasks.collect(sys.argv[1], pathlib.Path(sys.argv[2]), cluster_tasks.sleep_long, sys.argv[3:])
"""


def test_when_the_client_is_killed_no_task_is_left(machines, tmp_path):
    tasks = [tmp_path / "one", tmp_path / "two"]
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-c", CLIENT, machines.address, str(tmp_path), *map(str, tasks)]
    client = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    wait_for("tasks", lambda: all(task.is_file() and task.read_text() for task in tasks))
    pids = [int(task.read_text()) for task in tasks]
    assert all(psutil.pid_exists(pid) for pid in pids)
    client.kill()
    client.wait()
    wait_for("the tasks' end", lambda: not any(psutil.pid_exists(pid) for pid in pids), patience=5)


def test_an_interrupt_ends_the_tasks(machines, tmp_path):
    tasks = [tmp_path / "one", tmp_path / "two"]

    def interrupt(index, line):
        wait_for("tasks", lambda: all(task.is_file() and task.read_text() for task in tasks))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_cluster(machines.address, tmp_path) as found:
        found.run(sleep_long, map(str, tasks), None, 0.0, interrupt)
    pids = [int(task.read_text()) for task in tasks]
    wait_for("the tasks' end", lambda: not any(psutil.pid_exists(pid) for pid in pids), patience=5)


def test_when_the_scheduler_is_lost_each_task_that_had_not_ended_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_check, "CONNECT_SECONDS", 3)  # so long the client looks for it
    machines = Machines(tmp_path)
    try:
        machines.start_workers()
        killer = str(machines.scheduler.pid)
        errors, lines = collect(machines.address, tmp_path, write_or_kill, [str(tmp_path / "done"), killer, "never"])
    finally:
        machines.stop(*machines.processes)
    assert (tmp_path / "done").read_text() == "done" and list(errors) == [1] and lines[2] == []
    assert re.search("cluster='tcp.*': the scheduler is lost; what was finished is kept", str(errors[1]))
    assert not (tmp_path / JOB_FOLDER).exists()


def test_a_scheduler_that_is_not_there_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster_check, "CONNECT_SECONDS", 1)
    with pytest.raises(ClusterError, match=r"no scheduler answers .*start one with `dask scheduler`"):
        open_and_close("tcp://127.0.0.1:1", tmp_path)
    with pytest.raises(ClusterError, match="neither an address such as tcp://HOST:8786 nor a scheduler file"):
        open_and_close("nowhere.json", tmp_path)


def test_without_dask_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match='pip install "distributed>=2026.1"'):
        open_and_close("tcp://127.0.0.1:1", tmp_path)


# --- the workers' check ---


def test_a_worker_that_lacks_a_gpu_or_a_file_is_named_before_anything_is_begun(machines, tmp_path):
    with pytest.raises(ClusterError, match="no worker declares a GPU; .*--resources GPU=1`, or set gpu=false"):
        open_and_close(machines.address, tmp_path, gpu=True)
    absent = str(tmp_path / "weights.h5")
    with pytest.raises(ClusterError, match=r"worker tcp://127.0.0.1:\d+: does not see .*weights.h5: put it where all"):
        open_and_close(machines.address, tmp_path, [absent])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def odd_worker(machines, tmp_path):
    """Function that adds a worker for a test, which imports the text at its start and finds modules in a folder."""
    started = []

    def start(preload="", *arguments, folder=tmp_path / "odd"):
        folder.mkdir(exist_ok=True)
        (folder / "odd.py").write_text(preload)
        started.extend(machines.start_workers(1, "--preload", str(folder / "odd.py"), *arguments, path=[folder]))

    yield start
    machines.stop(*started)
    machines.settle()


def test_a_worker_with_another_keras_is_named_before_anything_trains(machines, tmp_path, odd_worker):
    (tmp_path / "odd" / "keras-9.9.dist-info").mkdir(parents=True)
    facts = "Metadata-Version: 2.1\nName: keras\nVersion: 9.9\n"
    (tmp_path / "odd" / "keras-9.9.dist-info" / "METADATA").write_text(facts)
    odd_worker()
    config, tiles = preset("smoke", **TINY, cluster=machines.address), tiles_with_two_black_ones()
    with pytest.raises(ClusterError, match=r"worker tcp://127.0.0.1:\d+: Keras 9.9, here .*: install the same on both"):
        fit_folds(config, tiles, tmp_path / "run", tmp_path / "run" / "state")
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["state", "run.json"]


# As on a machine that does not have the run's folder: what the check looks for is not there.
WITHOUT_FOLDER = """
import functools, pathlib
def read_text(read, path, *arguments, **named):
    if path.name.startswith(".cluster-"):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return read(path, *arguments, **named)
pathlib.Path.read_text = functools.partialmethod(functools.partial(read_text, pathlib.Path.read_text))
"""


def test_tasks_go_only_to_workers_that_declare_a_gpu_and_these_must_have_one(machines, tmp_path, odd_worker):
    odd_worker("import shutil\nshutil.which = lambda name: None  # there is no driver\n", "--resources", "GPU=1")
    with pytest.raises(ClusterError, match=r"worker tcp://127.0.0.1:\d+: Keras sees no GPU there; .*or set gpu=false"):
        open_and_close(machines.address, tmp_path, gpu=True)
    tasks = [str(tmp_path / name) for name in "abc"]
    errors, _ = collect(machines.address, tmp_path, note_and_print, tasks)
    assert errors == {}
    assert {int(pathlib.Path(task).read_text()) for task in tasks} == {machines.processes[-1].pid}


def test_a_worker_whose_files_do_not_arrive_does_not_share_the_folder(machines, tmp_path, odd_worker, monkeypatch):
    odd_worker("import pathlib\npathlib.Path.touch = lambda path: None\n")
    monkeypatch.setattr(cluster_check, "SHARE_SECONDS", 1)
    with open_cluster(machines.address, tmp_path) as found:
        assert re.match(r"worker tcp.*: what it writes into .* is not seen here: start the run in a", found.unshared)


def search(machines, folder, flag, pid=None, cluster=None):
    config = preset("smoke", space="findings", trials=0, cluster=machines.address if cluster is None else cluster)
    objective = functools.partial(learn, flag=flag, pid=pid)
    weights = flag.with_name("weights.h5")
    weights.write_text("weights")
    given = os.path.relpath(weights)  # as a notebook finds them among what is mounted beside it
    errors = run_search(config, objective, folder, folder / "state", time.monotonic, time.monotonic(), [], given)
    assert bool(errors) == (pid is not None), errors
    return open_study(folder, config).get_trials()


def test_a_search_loses_no_trial_when_a_worker_is_killed(machines, tmp_path, capsys):
    machines.start_workers()  # for the one that is lost
    trials = search(machines, tmp_path, tmp_path / "flag")
    assert (tmp_path / "flag").exists() and len(trials) == 6
    assert all(trial.state.name == "COMPLETE" and len(trial.intermediate_values) == 6 for trial in trials)
    assert {trial.value for trial in trials} == {0.54, 0.58, 0.66}
    out = capsys.readouterr().out
    assert re.search(r"trial \d: .*, resumes after 3 epochs", out), out
    assert not list((tmp_path / "state").glob("*"))


def test_without_a_shared_folder_folds_are_refused_and_the_study_is_served(machines, tmp_path, odd_worker, capsys):
    machines.start_workers()  # for the one that is lost
    odd_worker(WITHOUT_FOLDER)
    config, tiles = preset("smoke", **TINY, cluster=machines.address), tiles_with_two_black_ones()
    with pytest.raises(ClusterError, match=r"worker tcp.*: does not see .*: start the run in a folder"):
        fit_folds(config, tiles, tmp_path / "run", tmp_path / "run" / "state")
    trials = search(machines, tmp_path / "search", tmp_path / "flag")
    assert (tmp_path / "flag").exists() and len(trials) == 6
    assert all(trial.state.name == "COMPLETE" and len(trial.intermediate_values) == 6 for trial in trials)
    assert "the study is served by this machine" in capsys.readouterr().out
    assert not (tmp_path / "search" / "state").exists()  # the checkpoints were on the workers' disks


def test_a_search_whose_scheduler_is_lost_goes_on_from_the_same_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster_check, "CONNECT_SECONDS", 3)  # so long the client looks for it
    machines = Machines(tmp_path)
    try:
        machines.start_workers()
        trials = search(machines, tmp_path, tmp_path / "flag", pid=machines.scheduler.pid)
    finally:
        machines.stop(*machines.processes)
    assert [trial.state.name for trial in trials] == ["RUNNING"] and len(trials[0].intermediate_values) == 3
    trials = search(machines, tmp_path, tmp_path / "flag", cluster="")
    assert len(trials) == 6 and all(trial.state.name == "COMPLETE" for trial in trials)
    assert re.search(r"trial 0: .*, resumes after 3 epochs", capsys.readouterr().out)


# --- folds ---


def bits(folder):
    """All arrays of a run's predictions and weights."""
    with np.load(folder / "oof.npz") as oof:
        found = {name: oof[name] for name in oof.files}
    with h5py.File(folder / "fold0.weights.h5") as file:
        names = []
        file.visit(names.append)
        return found | {name: file[name][()] for name in names if isinstance(file[name], h5py.Dataset)}


def assert_same_bits(one, other):
    one, other = bits(one), bits(other)
    assert one.keys() == other.keys() and len(one) > 20
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run that was trained in this process."""
    folder = tmp_path_factory.mktemp("alone")
    assert fit_folds(CONFIG, tiles_with_two_black_ones(), folder, folder / "state").failure is None
    return folder


def test_a_lost_worker_and_a_killed_process_cost_no_epoch_and_no_bit(machines, tmp_path, capsys, alone):
    machines.start_workers()  # for the one that is lost
    callbacks = functools.partial(kill_the_process_and_then_the_worker, folder=tmp_path)
    config = dataclasses.replace(CONFIG, cluster=machines.address)
    run, clock = tmp_path / "run", time.monotonic
    outcome = fit_folds(config, tiles_with_two_black_ones(), run, run / "state", clock=clock, callbacks=callbacks)
    assert outcome.failure is None and not outcome.unfinished
    assert (tmp_path / "killed").exists() and (tmp_path / "lost").exists()
    assert_same_bits(alone, run)
    out = capsys.readouterr().out
    # Of a worker that is lost, the last line may be lost, too.
    assert [out.count(f"fold 0  epoch {epoch} ") for epoch in (1, 2, 3)] in ([1, 1, 1], [1, 0, 1])
    assert list(outcome.history["epoch"]) == [1, 2, 3]
    assert "fold 0  its process was killed by SIGKILL" in out
    assert "resumes after epoch 1" in out and "resumes after epoch 2" in out


@pytest.mark.slow
def test_when_the_scheduler_is_lost_the_run_is_whole_and_can_be_resumed(tmp_path, monkeypatch, alone):
    monkeypatch.setattr(cluster_check, "CONNECT_SECONDS", 3)  # so long the client looks for it
    tiles, folder = tiles_with_two_black_ones(), tmp_path / "run"
    machines = Machines(tmp_path)
    try:
        machines.start_workers()
        callbacks = functools.partial(kill_the_scheduler, pid=machines.scheduler.pid, folder=tmp_path)
        config = dataclasses.replace(CONFIG, cluster=machines.address)
        outcome = fit_folds(config, tiles, folder, folder / "state", callbacks=callbacks)
    finally:
        machines.stop(*machines.processes)
    assert re.search("fold 0: cluster='tcp.*': the scheduler is lost; what was finished is kept", str(outcome.failure))
    assert outcome.unfinished == [0] and len(outcome.history) == 2
    assert fit_folds(CONFIG, tiles, folder, folder / "state").failure is None
    assert_same_bits(alone, folder)
