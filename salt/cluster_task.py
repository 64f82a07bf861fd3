"""A task of a Dask cluster: what all tasks of a run share, and how a worker runs one in a fresh process."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

from salt.machine import fast_switches
from salt.parallel import WorkerError, describe_exit, relay_lines, start_worker, stop_worker, write_job

WATCH_SECONDS = 0.5  # between two looks at whether a task is still wanted
JOB_FOLDER = ".cluster"  # in the run's folder: the function and the tiles, written once for all tasks


@contextlib.contextmanager
def share_job(
    client: Any, folder: pathlib.Path, shared: bool, function: Callable, clock: Callable[[], float] | None, began: float
) -> Iterator[tuple]:
    """Puts a function where all workers find it, for a block of code.

    Args:
        client: of Dask.
        folder: of the run.
        shared: whether the workers see the folder; if not, the function is sent to each once.
        function: of a task and of the seconds since the run began.
        clock, began: as for `Cluster.run`.

    Yields:
        The first arguments of `run_remote`, which are the same for all tasks.
    """
    import keras  # not at the top of this file: where workers import it, they need not load TensorFlow

    path = folder / JOB_FOLDER / "job.pickle"
    shutil.rmtree(path.parent, ignore_errors=True)  # of a run that was killed
    path.parent.mkdir()
    try:
        write_job(path, function)
        job = str(path) if shared else client.scatter(path.read_bytes(), broadcast=True, hash=False)
        # The scheduler's clock is the one that all machines can read.
        start = client.run_on_scheduler(clock) - (clock() - began) if clock is not None else 0.0
        yield job, clock, start, keras.backend.backend()
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)


def run_remote(
    job: str | bytes,
    clock: Callable[[], float] | None,
    start: float,
    backend: str,
    topic: str,
    index: int,
    task: object,
) -> str:
    """Runs on a worker: calls the job's function in a fresh process and sends what it prints to the client.

    Args:
        job: path of what `write_job` wrote, or its content.
        clock, start: the clock, and what the scheduler's said when the run began.
        backend: of Keras.
        topic: under which lines are sent, as (index, line).
        index, task: of the task.

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
