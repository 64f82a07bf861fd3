"""Runs a function on a Dask cluster, each task in a fresh process on one of its machines.

What `run_workers` is on one machine, `Cluster.run` is on several. The scheduler places the tasks, moves those of a lost
machine to another, and repeats those whose process was killed. An error of the code is not repeated. What tasks read
and write lies in the run's folder, which all machines see under the same path.

Dask is an optional extra, imported only here and only when a cluster is asked for.
"""

import importlib.metadata
import itertools
import os
import pathlib
import platform
import queue
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from salt.machine import fast_switches, visible_gpus
from salt.parallel import WorkerError, describe_exit, relay_lines, start_worker, stop_worker, write_job

RETRIES = 3  # of a task whose process was killed; Dask moves that of a lost worker as often, its `allowed-failures`
CONNECT_SECONDS = 10  # after which a scheduler that does not answer counts as not there
SHARE_SECONDS = 30  # in which a file that one machine has written is seen by the others; NFS may take its time
WATCH_SECONDS = 0.5  # between two looks at whether a task is still wanted
JOB_FOLDER = ".cluster"  # in the run's folder: the function and the tiles, written once for all tasks


class ClusterError(RuntimeError):
    """A cluster that cannot be used; the message names the scheduler or the worker."""


class Cluster:
    """A connection to a Dask cluster whose workers have been checked; a context manager.

    Args:
        address: of the scheduler (`tcp://HOST:8786`), or the path of its scheduler file.
        folder: of the run.
        files: absolute paths of other files and folders that each task reads.
        gpu: whether each task needs a GPU.

    Attributes:
        count: how many tasks run at once: as many as the GPUs that the workers declare (`--resources GPU=1`), or one
            for each thread of a worker where none does.
        unshared: why the run's folder is not shared: the worker that does not see it; empty: all read and write it.

    Raises:
        ClusterError: Dask is not installed, no scheduler answers, there is no worker, or one of them lacks a file or a
            GPU, or has another version of a library.
    """

    def __init__(self, address: str, folder: pathlib.Path, files: Sequence[str] = (), gpu: bool = False):
        self.address, self.folder = address, folder.resolve()
        self.client = connect(address)
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"]
            gpus = sum(int(worker["resources"].get("GPU", 0)) for worker in workers.values())
            self.resources = {"GPU": 1} if gpus else None
            self.count = gpus or sum(worker["nthreads"] for worker in workers.values())
            if not workers or (gpu and not gpus):
                what = "declares a GPU" if workers else "is there"
                how = "--nthreads 1 --resources GPU=1`, or set gpu=false" if gpu else "--nthreads 1`"
                raise ClusterError(f"cluster={address!r}: no worker {what}; start one by `dask worker {address} {how}")
            self.unshared = check_workers(self.client, self.folder, files, gpu)
        except BaseException:
            self.client.close()
            raise
        hosts = ", ".join(sorted({worker["host"] for worker in workers.values()}))
        print(f"cluster {address}: {len(workers)} workers on {hosts}, {self.count} tasks at once", flush=True)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def run(
        self,
        function: Callable[[Any, float], object],
        tasks: Iterable,
        clock: Callable[[], float] | None,
        began: float,
        show: Callable[[int, str], None],
    ) -> dict[int, WorkerError]:
        """Calls a function for each task, each in a fresh process on the cluster, and waits for all of them.

        Args:
            function: of a task and of the seconds since the run began; a notebook's is sent by value. It returns
                nothing: its results are files in the run's folder. Where that is not shared, it starts in an empty
                folder on its worker's disk, the same one for all tasks of the worker.
            tasks: small ones; the next one is asked for when another has ended.
            clock: function that returns seconds; each machine may have another clock. None: no time counts.
            began: what this machine's clock said when the run began.
            show: function of (index of the task, line), called with each line of a task's output as it is completed.

        Returns:
            The errors of the tasks that failed, by index. The others go on when one fails. Where the scheduler is lost,
            all tasks that had not ended have failed.
        """
        import keras  # not at the top of this file: where workers import it, they need not load TensorFlow

        errors: dict[int, WorkerError] = {}
        running: dict[Any, int] = {}
        events: queue.SimpleQueue = queue.SimpleQueue()  # (index, line), and futures that have ended, in their order
        topic, waiting = f"salt-{uuid.uuid4().hex}", enumerate(tasks)
        path = self.folder / JOB_FOLDER / "job.pickle"
        shutil.rmtree(path.parent, ignore_errors=True)  # of a run that was killed
        path.parent.mkdir()
        try:
            write_job(path, function)
            job = self.client.scatter(path.read_bytes(), broadcast=True, hash=False) if self.unshared else str(path)
            self.client.subscribe_topic(topic, lambda event: events.put(event[1]))
            # The scheduler's clock is the one that all machines can read.
            start = self.client.run_on_scheduler(clock) - (clock() - began) if clock is not None else 0.0
            while True:
                for index, task in itertools.islice(waiting, self.count - len(running)):
                    future = self.client.submit(
                        run_remote, job, index, task, topic, clock, start, keras.backend.backend(),
                        key=f"{topic}-{index}", retries=RETRIES, resources=self.resources, pure=False,
                    )  # fmt: skip
                    running[future] = index
                    future.add_done_callback(events.put)
                if not running:
                    return errors
                event = events.get()
                if isinstance(event, (tuple, list)):
                    show(*event)
                    continue
                index = running.pop(event)
                if event.status == "finished" and (error := event.result()):
                    errors[index] = WorkerError(error)
                elif event.status == "error":
                    errors[index] = WorkerError(str(event.exception()))
                elif event.status != "finished":  # cancelled or lost
                    waiting = enumerate(())
                    remedy = "what was finished is kept: start the cluster again and resume the run"
                    errors[index] = WorkerError(f"the scheduler {self.address} is lost; {remedy}")
        finally:  # also after an interrupt: no task may outlive the call
            if self.client.status == "running":
                self.client.cancel(list(running), force=True)
            shutil.rmtree(path.parent, ignore_errors=True)


def connect(address: str) -> Any:
    """A client of a cluster, as `Cluster` describes its address."""
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(f'cluster={address!r}: {error}; pip install "distributed>=2026.1"') from error
    if "://" not in address and not pathlib.Path(address).is_file():
        raise ClusterError(f"cluster={address!r}: neither an address such as tcp://HOST:8786 nor a scheduler file")
    where = {"address": address} if "://" in address else {"scheduler_file": address}
    try:
        return distributed.Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        remedy = "start one with `dask scheduler`, or leave cluster empty to use this machine"
        raise ClusterError(f"cluster={address!r}: no scheduler answers ({error}); {remedy}") from error


# --- the workers ---


def check_workers(client: Any, folder: pathlib.Path, files: Sequence[str], gpu: bool) -> str:
    """Checks that every worker has what a task needs; see `Cluster`.

    Returns:
        `Cluster.unshared`.

    Raises:
        ClusterError: names the worker and what differs.
    """
    find_gpus = visible_gpus.__wrapped__ if gpu else None  # Dask cannot send a function with a cache from a notebook
    token, unshared = folder / f".cluster-{uuid.uuid4().hex}", ""
    token.write_text(token.name, encoding="utf-8")
    try:
        found = client.run(probe_worker, str(token), list(files), find_gpus, on_error="return")
        for address, told in sorted(found.items()):
            name = f"worker {address}"
            if isinstance(told, BaseException):
                raise ClusterError(f"{name}: {told!r}; start it where this package's requirements are installed")
            for library, version in versions().items():
                if told[library] != version:
                    raise ClusterError(f"{name}: {library} {told[library]}, here {version}: install the same on both")
            if told["missing"]:
                raise ClusterError(f"{name}: does not see {told['missing']}: put it where all machines see it")
            if gpu and not told["gpus"]:
                raise ClusterError(f"{name}: Keras sees no GPU there; mend that, or set gpu=false")
            if told["read"] != token.name:
                unshared = f"{name}: does not see {folder} ({told['read']})"
            elif not seen(pathlib.Path(told["written"])):
                unshared = f"{name}: what it writes into {folder} is not seen here"
    finally:
        for path in folder.glob(f"{token.name}*"):
            path.unlink()
    return unshared and f"{unshared}: start the run in a folder that all machines share"


def seen(path: pathlib.Path) -> bool:
    """Whether a file that another machine has written arrives in time."""
    for _ in range(SHARE_SECONDS):
        if path.is_file():
            return True
        threading.Event().wait(1)
    return False


def existing_paths(name: str | None) -> list[str]:
    """A path that exists, made absolute, in a list; an empty one for None and for names, such as "imagenet"."""
    return [str(pathlib.Path(name).resolve())] if name is not None and pathlib.Path(name).exists() else []


def versions() -> dict[str, str]:
    """What must be the same on all machines: the same bits and the same pickles depend on it."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("Keras", "NumPy"):
        try:
            found[name] = importlib.metadata.version(name.lower())
        except importlib.metadata.PackageNotFoundError:
            found[name] = "is not installed"
    return found


def probe_worker(token: str, files: list[str], find_gpus: Callable[[], list[str]] | None) -> dict[str, Any]:
    """Runs on a worker and tells what it has.

    Args:
        token: path of a file in the run's folder.
        files: paths.
        find_gpus: `visible_gpus`, or None to look for none.

    Returns:
        Its `versions`; `"read"`: the token's content, or why it cannot be read; `"written"`: path of a file that it has
        written beside the token; `"missing"`: the first of the files that it does not see; `"gpus"`: their numbers.
    """
    written = f"{token}-{uuid.uuid4().hex}"
    try:
        read = pathlib.Path(token).read_text(encoding="utf-8")
        pathlib.Path(written).touch()
    except OSError as error:
        read = str(error)
    missing = next((file for file in files if not pathlib.Path(file).exists()), "")
    gpus = find_gpus() if find_gpus is not None else []
    return {**versions(), "read": read, "written": written, "missing": missing, "gpus": gpus}


# --- a task ---


def run_remote(
    job: str | bytes,
    index: int,
    task: object,
    topic: str,
    clock: Callable[[], float] | None,
    start: float,
    backend: str,
) -> str:
    """Runs on a worker: calls the job's function in a fresh process and sends what it prints to the client.

    Args:
        job: path of what `write_job` wrote, or its content.
        index, task: of the task.
        topic: under which its lines are sent, as (index, line).
        clock, start: the clock, and what the scheduler's said when the run began.
        backend: of Keras.

    Returns:
        The error of the code, with its traceback; empty: it succeeded.

    Raises:
        WorkerError: the process was killed; Dask tries the task again.
    """
    import distributed

    worker = distributed.get_worker()
    key = worker.get_current_task()
    passed = distributed.get_client().run_on_scheduler(clock) - start if clock is not None else 0.0
    folder = None
    if isinstance(job, bytes):
        folder = pathlib.Path(worker.local_directory) / topic  # Dask removes it when the worker ends
        folder.mkdir(exist_ok=True)
        path = folder / f"{index}.pickle"
        path.write_bytes(job)
        job = str(path)
    variables = {**fast_switches(os.environ), "KERAS_BACKEND": backend}
    process = start_worker(pathlib.Path(job), (task, passed), variables, folder)
    threading.Thread(target=end_when_unwanted, args=(process, worker, key), daemon=True).start()
    try:
        (lines,) = relay_lines([process], lambda _, line: worker.log_event(topic, (index, line)))
        status = process.wait()
    finally:
        stop_worker(process)
        if folder is not None:
            path.unlink()
    if status < 0:
        raise WorkerError(describe_exit(status, lines))
    return describe_exit(status, lines) if status else ""


def end_when_unwanted(process: subprocess.Popen, worker: Any, key: str) -> None:
    """Kills a task's process when its client is gone or has cancelled it, or its worker ends.

    Dask itself never ends a task that runs.
    """
    while True:
        try:
            process.wait(timeout=WATCH_SECONDS)
            return
        except subprocess.TimeoutExpired:
            state = worker.state.tasks.get(key)
            if state is None or state.state == "cancelled" or worker.status.name not in ("running", "paused"):
                process.kill()
