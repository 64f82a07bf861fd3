"""Work in processes of their own: several folds at once, one a card, from a notebook as well as from a package.

A notebook has no module that a fresh process could import, and a process with TensorFlow in it must not be forked: of
its threads and of its hold on the GPUs the child would have halves. So a worker is a fresh Python, which is told its
card before it imports anything, and which gets its function by value: cloudpickle sends along the definitions of the
notebook that it needs, while what lies in an installed package is imported as ever.

Workers return nothing; what they have made lies in files, where a worker that dies late leaves what it made early.
"""

import collections
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

import cloudpickle

# The path first: where the function is a package's, it is read by way of it.
WORKER_PROGRAM = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    sys.path[:] = pickle.load(file)
    call = pickle.load(file)
call()
"""
LAST_LINES = 200  # of each worker's output, which are searched for its traceback


class WorkerError(RuntimeError):
    """A worker that died: of an exception, whose traceback the message holds, or by a signal."""


class JobPickler(cloudpickle.Pickler):
    """cloudpickle's own, but code keeps the name of its file, by which a traceback finds lines, and a function with a
    cache travels like any other, its cache empty."""

    def reducer_override(self, value):
        """How a value is made again at the other end."""
        if isinstance(value, functools._lru_cache_wrapper):
            return functools.cache, (value.__wrapped__,)
        if not isinstance(value, types.CodeType):
            return super().reducer_override(value)
        make, parts = self.dispatch_table[types.CodeType](value)
        file = value.co_filename  # flat: ok, only tracebacks show it
        return make, tuple(file if part == "<dynamic-code>" else part for part in parts)


def run_workers(function, tasks: list, cards: list[str], show) -> dict[int, WorkerError]:
    """Calls a function for each task, each in a process of its own, all at once, and waits for all of them.

    Args:
        function: of a task; it and the tasks are sent by cloudpickle.
        tasks: one a worker.
        cards: the GPUs' numbers, dealt to the workers in turn; empty: they see what this process sees.
        show: function of (index of the task, line) that gets each line of a worker's output when it is whole.

    Returns:
        The errors of the workers that died, by index of the task. One that dies does not disturb the others.
    """
    workers = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for index, task in enumerate(tasks):
                job = pathlib.Path(folder) / f"{index}.pickle"
                with open(job, "wb") as file:
                    JobPickler(file).dump(sys.path)
                    JobPickler(file).dump(functools.partial(work, function, task, cell_sources()))
                card = cards[index % len(cards)] if cards else None
                workers.append(start_worker(job, card, shared=len(tasks) > len(cards)))
            last_lines = relay_lines(workers, show)
            statuses = [worker.wait() for worker in workers]
        finally:  # for an interrupt too: nothing may go on training behind a notebook that has ended
            for worker in workers:
                worker.kill()
                worker.wait()
                worker.stdin.close()
                worker.stdout.close()
    return {
        index: WorkerError(describe_death(status, lines))
        for index, (status, lines) in enumerate(zip(statuses, last_lines, strict=True))
        if status
    }


def start_worker(job: pathlib.Path, card: str | None, shared: bool) -> subprocess.Popen:
    """A process that reads its job from a file, its output and its errors in one pipe.

    Args:
        job: written by `run_workers`.
        card: the one GPU that it sees; None: what this process sees.
        shared: whether others use the card as well: TensorFlow and JAX would take all of its memory.
    """
    variables = [] if card is None else [f"CUDA_VISIBLE_DEVICES={card}"]
    if variables and shared:
        variables += ["TF_FORCE_GPU_ALLOW_GROWTH=true", "XLA_PYTHON_CLIENT_PREALLOCATE=false"]
    return subprocess.Popen(
        ["env", *variables, sys.executable, "-u", "-c", WORKER_PROGRAM, str(job)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def work(function, task, sources: dict):
    """What a worker does: calls the function and, if that fails, prints the traceback with the notebook's lines."""
    linecache.cache.update(sources)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    try:
        function(task)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def leave_with_parent():
    """Ends this process when its parent is gone, however it went: the other end of stdin is closed then."""
    os.read(0, 1)
    os._exit(1)


def cell_sources() -> dict:
    """The lines of a notebook's cells, as `linecache` keeps them; no file has them, so that a worker cannot know."""
    return {
        name: (len(entry[2]), None, entry[2], name)  # None: not to be compared with a file
        for name, entry in list(linecache.cache.items())
        if len(entry) == 4 and not os.path.exists(name)
    }


def relay_lines(workers: list, show) -> list:
    """Shows each worker's lines, and its death, until all have ended; returns the last lines of each."""
    last_lines = [collections.deque(maxlen=LAST_LINES) for _ in workers]
    parts = [b""] * len(workers)

    def finish_line(index, line):
        text = line.decode(errors="replace").rstrip().rpartition("\r")[2]  # what a progress bar showed in the end
        last_lines[index].append(text)
        show(index, text)

    with selectors.DefaultSelector() as selector:
        for index, worker in enumerate(workers):
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
                    show(index, describe_death(status, ()))  # at once: the others may go on for hours
    return last_lines


def describe_death(status: int, last_lines) -> str:
    """What ended a worker.

    Args:
        status: its exit status; -N after signal N.
        last_lines: of its output.
    """
    if status < 0:
        reason = ", perhaps for want of memory" if status == -signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-status).name}{reason}"
    lines = list(last_lines)
    begins = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return "\n".join([f"its process ended with status {status}", *lines[begins[0] if begins else -10 :]])
