"""Runs a function in worker processes, several folds at once, one a GPU, from a notebook as well as from a package.

A notebook has no module that a fresh process could import, and a process with TensorFlow in it must not be forked: the
child would have neither its threads nor a usable hold on the GPUs. So a worker is a fresh Python, which is told its GPU
before it imports anything, and which gets its function by value: cloudpickle sends the definitions of the notebook that
the function needs, while an installed package is imported as usual.

Workers return nothing. Their results are files, so that those of a worker that dies later are kept.
"""

import collections
import contextlib
import functools
import linecache
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Mapping

import cloudpickle

# The path first: the second load may have to import the function's package. The arguments come through stdin:
# unbuffered, since it is by its end, too, that the worker learns that its parent has ended.
WORKER_PROGRAM = """
import os, pickle, sys
stderr = os.dup(2)
with open(sys.argv[1], "rb") as file, open(os.devnull, "wb") as nowhere:
    path = pickle.load(file)
    sys.path[:] = path + [folder for folder in sys.path if folder not in path]
    os.dup2(nowhere.fileno(), 2)  # TensorFlow's first lines, which no variable switches off
    try:
        call = pickle.load(file)
    finally:
        os.dup2(stderr, 2)
with open(0, "rb", buffering=0, closefd=False) as stdin:
    arguments = pickle.load(stdin)
call(*arguments)
"""
LAST_LINES = 200  # of each worker's output that are kept, to find its traceback in them


class WorkerError(RuntimeError):
    """A worker that died: of an exception, whose traceback the message holds, or by a signal."""


class JobPickler(cloudpickle.Pickler):
    """cloudpickle's pickler, with two changes.

    Code objects keep the name of their file, by which a traceback finds its lines; a function with a cache is sent like
    any other, with an empty cache.
    """

    def reducer_override(self, value: object) -> object:
        """A callable and its arguments that make the value again in the worker."""
        if isinstance(value, functools._lru_cache_wrapper):
            return functools.cache, (value.__wrapped__,)
        if not isinstance(value, types.CodeType):
            return super().reducer_override(value)
        make, parts = self.dispatch_table[types.CodeType](value)
        file = value.co_filename  # flat: ok, only tracebacks show it
        return make, tuple(file if part == "<dynamic-code>" else part for part in parts)


def run_workers(
    function: Callable, tasks: list, gpus: list[str], show: Callable[[int, str], None]
) -> dict[int, WorkerError]:
    """Calls a function for each task, each in a process of its own, all at once, and waits for all of them.

    Args:
        function: of a task; it and the tasks are sent by cloudpickle.
        tasks: one a worker.
        gpus: the GPUs' numbers, given to the workers in turn; empty: they see what this process sees.
        show: function of (index of the task, line), called with each line of a worker's output as it is completed.

    Returns:
        The errors of the workers that died, by index of the task. The others go on when one dies.
    """
    workers: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory() as folder:
        job = pathlib.Path(folder) / "job.pickle"
        write_job(job, function)
        try:
            for index, task in enumerate(tasks):
                variables = {} if not gpus else gpu_variables(gpus[index % len(gpus)], shared=len(tasks) > len(gpus))
                workers.append(start_worker(job, (task,), variables))
            last_lines = relay_lines(workers, show)
            statuses = [worker.wait() for worker in workers]
        finally:  # also after an interrupt: no worker may outlive the call
            for worker in workers:
                stop_worker(worker)
    return {
        index: WorkerError(describe_exit(status, lines))
        for index, (status, lines) in enumerate(zip(statuses, last_lines, strict=True))
        if status
    }


def write_job(path: pathlib.Path, function: Callable) -> None:
    """Writes what each worker reads: where modules are found, and the function, by value if it is a notebook's."""
    with open(path, "wb") as file:
        JobPickler(file).dump(sys.path)
        JobPickler(file).dump(functools.partial(run_task, function, cell_sources()))


def gpu_variables(gpu: str, shared: bool) -> dict[str, str]:
    """The environment of a worker that sees one GPU alone.

    Args:
        gpu: its number.
        shared: whether others use the GPU as well: TensorFlow and JAX would take all of its memory.
    """
    variables = {"CUDA_VISIBLE_DEVICES": gpu}
    if shared:
        variables |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return variables


def start_worker(
    job: pathlib.Path, arguments: tuple, variables: Mapping[str, str], folder: pathlib.Path | None = None
) -> subprocess.Popen:
    """A fresh process that calls a function, its output and its errors in one pipe.

    Args:
        job: the function, as `write_job` writes it.
        arguments: of the function.
        variables: of its environment, beside those of this process.
        folder: where it starts; None: where this process is.
    """
    worker = subprocess.Popen(
        ["env", *map("=".join, variables.items()), sys.executable, "-u", "-c", WORKER_PROGRAM, str(job)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
    )  # fmt: skip
    try:
        assert worker.stdin is not None
        JobPickler(worker.stdin).dump(arguments)
        worker.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended already; its status says why
    except BaseException:
        stop_worker(worker)
        raise
    return worker


def stop_worker(worker: subprocess.Popen) -> None:
    """Ends a worker, if it has not ended yet, and closes its pipes."""
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # of what a worker that died had not read
                pipe.close()


def run_task(function: Callable, sources: dict, *arguments: object) -> None:
    """Runs in the worker: calls the function and, if that fails, prints the traceback with the notebook's lines."""
    linecache.cache.update(sources)
    threading.Thread(target=exit_with_parent, daemon=True).start()
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def exit_with_parent() -> None:
    """Ends this process when its parent ends, even by SIGKILL: stdin is a pipe whose other end is closed then."""
    os.read(0, 1)
    os._exit(1)


def cell_sources() -> dict:
    """The lines of a notebook's cells, as `linecache` keeps them; they are in no file that a worker could read."""
    return {
        name: (len(entry[2]), None, entry[2], name)  # None for the time of change: linecache looks for no file then
        for name, entry in list(linecache.cache.items())
        if len(entry) == 4 and not os.path.exists(name)
    }


def relay_lines(workers: list[subprocess.Popen], show: Callable[[int, str], None]) -> list[collections.deque[str]]:
    """Shows each worker's lines, and how it died if it did, until all have ended; returns the last lines of each."""
    last_lines: list[collections.deque[str]] = [collections.deque(maxlen=LAST_LINES) for _ in workers]
    parts = [b""] * len(workers)

    def finish_line(index: int, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip().rpartition("\r")[2]  # the last state of a progress bar
        last_lines[index].append(text)
        show(index, text)

    with selectors.DefaultSelector() as selector:
        for index, worker in enumerate(workers):
            if worker.stdout is not None:
                selector.register(worker.stdout, selectors.EVENT_READ, index)
        while selector.get_map():
            for key, _ in selector.select():
                index, block = key.data, os.read(key.fd, 1 << 16)
                *lines, parts[index] = (parts[index] + block).split(b"\n")
                if not block:
                    selector.unregister(key.fileobj)
                    lines += [parts[index]] if parts[index] else []
                for line in lines:
                    finish_line(index, line)
                if not block and (status := workers[index].wait()):
                    show(index, describe_exit(status, ()))  # now, since the others may run for hours
    return last_lines


def describe_exit(status: int, last_lines: Iterable[str]) -> str:
    """Why a worker ended.

    Args:
        status: its exit status; -N after signal N.
        last_lines: of its output.
    """
    if status < 0:
        reason = ", perhaps out of memory" if status == -signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-status).name}{reason}"
    lines = list(last_lines)
    begins = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return "\n".join([f"its process ended with status {status}", *lines[begins[0] if begins else -10 :]])
