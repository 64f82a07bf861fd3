"""Runs the trials of a search: one after the other in this process, in several processes, or on a cluster.

A study on this machine is a file that each worker opens. On a cluster so, too, where all machines share the run's
folder. Where they do not, this machine serves the study by Optuna's gRPC proxy, and a trial's checkpoints lie on the
disk of its worker: a trial whose worker is lost begins anew on another.
"""

import contextlib
import functools
import pathlib
import shutil
import socket
import subprocess
import tempfile
import urllib.parse
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import GrpcStorageProxy, run_grpc_proxy_server
from optuna.trial import TrialState

from salt.cluster import Cluster, open_cluster
from salt.cluster_check import ClusterError, existing_paths
from salt.config import Config
from salt.parallel import WorkerError, run_workers, start_worker, stop_worker, write_job
from salt.study import (
    STUDY_FILE,
    SearchError,
    begin_study,
    begin_trial,
    open_storage,
    open_study,
    run_trial,
    study_pruner,
    trial_count,
)

PROXY_SECONDS = 60  # in which the proxy must answer; a fresh process imports Keras first


class SearchJob(NamedTuple):
    """What all trials of a search have in common.

    Attributes:
        config, objective, clock, began, weights: as for `run_search`.
        folder: of the study.
        state_folder: gets a folder for each unfinished trial.
    """

    config: Config
    objective: Callable
    folder: pathlib.Path
    state_folder: pathlib.Path
    clock: Callable[[], float]
    began: float
    weights: str | None

    def has_time(self) -> bool:
        """Whether there is time left."""
        return self.clock() < self.began + 60 * self.config.limit_minutes

    def trial_folder(self, number: int) -> pathlib.Path:
        """Where a trial keeps its state."""
        return self.state_folder / f"trial-{number:04d}"

    def remove_ended(self, left: list[int]) -> None:
        """Removes the folders of all trials but those left to run: some were killed before they could do so."""
        for path in self.state_folder.glob("trial-*"):
            if path not in map(self.trial_folder, left):
                shutil.rmtree(path)

    def run(self, study: optuna.Study, number: int) -> bool:
        """`run_trial` of this search."""
        objective = functools.partial(self.objective, began=self.began, weights=self.weights)
        return run_trial(study, number, objective, self.trial_folder(number), self.has_time)


def run_search(
    config: Config,
    objective: Callable,
    folder: str | pathlib.Path,
    state_folder: str | pathlib.Path,
    clock: Callable[[], float],
    began: float,
    gpus: Iterable[str] = (),
    weights: str | None = None,
) -> list[WorkerError]:
    """Runs trials until the study has as many as it shall have, or the time is up.

    Args:
        config: of the search: its space, how many trials, how many workers or which cluster, the limit.
        objective: function of (parameters, folder, report, began, weights), the last two by name. It trains with the
            parameters, keeps its checkpoints in the folder, calls `report` after each epoch with the held-out scores of
            all its epochs so far, and returns a dict of lists, one number a fold, with `"fold_scores"` among them; or
            None if it was out of time. `began` is what the clock of its process said when the run began, `weights`
            where its machine finds them. Several workers get it by cloudpickle.
        folder: of the run's outputs; the study is there.
        state_folder: gets a folder for each unfinished trial.
        clock: function that returns seconds and means the same in every process of a machine.
        began: what the clock said when the run began.
        gpus: the numbers of this machine's GPUs.
        weights: of a pre-trained encoder, for the objective; if it is a path, the machines of a cluster must see it.

    Returns:
        The errors of the workers that died. Their trials, like all that are not finished, wait for the next run.

    Raises:
        SearchError: the study is damaged, of other values, or in use by another run.
        ClusterError: the cluster cannot be used; nothing was begun.
    """
    job = SearchJob(config, objective, pathlib.Path(folder), pathlib.Path(state_folder), clock, began, weights)
    gpus = list(gpus)
    with lock_study(job.folder):
        trials = begin_study(job.folder, config).get_trials(deepcopy=False)
        left = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        job.remove_ended(left)
        if config.cluster:
            return search_on_cluster(left, job)
        share = functools.partial(run_share, job=job)
        count = min(config.workers or len(gpus) or 1, max(1, trial_count(config) - len(trials) + len(left)))
        if count == 1:
            share(left)
            return []
        print(f"{count} trials at once, each in a process of its own{' on a GPU of its own' if gpus else ''}")
        shares = [left[first::count] for first in range(count)]
        show = functools.partial(print, flush=True)
        return list(run_workers(share, shares, gpus, lambda index, line: show(f"[{index}] {line}")).values())


def run_share(left: list[int], job: SearchJob) -> None:
    """Runs trials in a worker: first unfinished ones of an earlier run, then new ones, as long as there is time.

    Args:
        left: the trials' numbers.
        job: the search.
    """
    study = open_study(job.folder, job.config)
    for number in next_trials(left, study, job):
        if not job.run(study, number):
            return


def next_trials(left: list[int], study: optuna.Study, job: SearchJob) -> Iterator[int]:
    """The numbers of the trials to run, each added to the study when it is asked for, as long as there is time."""
    waiting = list(left)
    while job.has_time():
        number = waiting.pop(0) if waiting else begin_trial(study, job.config, job.folder)
        if number is None:
            return
        yield number


@contextlib.contextmanager
def lock_study(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other runs from using a folder's study, until the block ends or the process dies.

    Raises:
        SearchError: another run uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / f".{STUDY_FILE}.run", blocking=False))
        except Timeout:
            raise SearchError(f"{folder / STUDY_FILE}: another search uses it; wait for it, or end it first") from None
        yield


# --- on a cluster ---


def search_on_cluster(left: list[int], job: SearchJob) -> list[WorkerError]:
    """`run_search` on a cluster: one task a trial; this process draws the settings of each when a worker is free.

    Args:
        left: the numbers of unfinished trials of an earlier run.
        job: the search.
    """
    files, config = existing_paths(job.weights), job.config
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(open_cluster(config.cluster, job.folder, files, config.gpu))
        place, states = str(job.folder.resolve()), job.state_folder.resolve()
        if cluster.unshared:
            print(f"{cluster.unshared}; the study is served by this machine, checkpoints stay with their worker")
            place = stack.enter_context(serve_study(job.folder, own_host(cluster)))
            states = pathlib.Path(job.state_folder.name)
        remote = job._replace(state_folder=states, weights=files[0] if files else job.weights)
        run = functools.partial(run_remote_trial, job=remote, place=place)
        study, numbers = open_study(job.folder, config), []

        def tasks() -> Iterator[int]:
            for number in next_trials(left, study, job):
                numbers.append(number)
                yield number

        def show(index: int, line: str) -> None:
            print(line if line.startswith("trial ") else f"trial {numbers[index]}  {line}", flush=True)

        return list(cluster.run(run, tasks(), job.clock, job.began, show).values())


def run_remote_trial(number: int, passed: float, job: SearchJob, place: str) -> None:
    """Runs a trial in a worker of a cluster.

    Args:
        number: of the trial.
        passed: seconds since the run began, by another machine's clock.
        job: the search.
        place: the study's folder, or the address of its proxy.
    """
    job = job._replace(began=job.clock() - passed)
    study = open_proxy(place, job.config) if "://" in place else open_study(place, job.config)
    if study.get_trials(deepcopy=False)[number].state.is_finished():
        return  # a task is repeated, too, when its worker is lost before it has told the scheduler that it ended
    job.run(study, number)


@contextlib.contextmanager
def serve_study(folder: pathlib.Path, host: str) -> Iterator[str]:
    """Serves a folder's study to other machines by Optuna's gRPC proxy, from a process of its own.

    Optuna warns of the proxy with a journal: a trial that is drawn by one process may be run by two. Here only this
    machine adds trials, by `begin_trial`, and each is handed to one task.

    Args:
        folder: of the study.
        host: name or address of this machine, as the others know it.

    Yields:
        The proxy's address, `grpc://HOST:PORT`.

    Raises:
        ClusterError: the proxy does not start.
    """
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as temporary:
        job = pathlib.Path(temporary) / "job.pickle"
        write_job(job, serve)
        server = start_worker(job, (folder.resolve() / STUDY_FILE, host, port), {})
        try:
            yield wait_for_proxy(server, host, port)
        finally:
            stop_worker(server)


def wait_for_proxy(server: subprocess.Popen, host: str, port: int) -> str:
    """The address of a proxy, when it answers; see `serve_study`."""
    warnings.simplefilter("ignore", ExperimentalWarning)
    try:
        GrpcStorageProxy(host=host, port=port).wait_server_ready(PROXY_SECONDS)
    except ConnectionError as error:
        server.kill()
        assert server.stdout is not None
        raise ClusterError(f"the study's proxy on {host}:{port}: {error}; {server.stdout.read()!r}") from error
    return f"grpc://{host}:{port}"


def serve(path: pathlib.Path, host: str, port: int) -> None:
    """Runs in the proxy's process, until the process ends."""
    warnings.simplefilter("ignore", ExperimentalWarning)
    run_grpc_proxy_server(open_storage(path), host=host, port=port)


def open_proxy(address: str, config: Config) -> optuna.Study:
    """The study that another machine serves, as `open_study`."""
    warnings.simplefilter("ignore", ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = urllib.parse.urlsplit(address)
    assert place.hostname is not None and place.port is not None
    storage = GrpcStorageProxy(host=place.hostname, port=place.port)
    return optuna.load_study(study_name=None, storage=storage, pruner=study_pruner(config))


def own_host(cluster: Cluster) -> str:
    """This machine's address as the cluster's machines know it: the one from which it reaches the scheduler."""
    place = urllib.parse.urlsplit(cluster.client.scheduler.address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((place.hostname, place.port))  # of a datagram socket: nothing is sent
        return probe.getsockname()[0]
