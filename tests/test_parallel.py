"""Workers: processes of their own, from a package and from a main program that no process can import."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from salt import parallel
from salt.parallel import WorkerError, run_workers

ROOT = pathlib.Path(__file__).resolve().parents[1]


def collect(tasks, function, cards=()):
    """The errors of `run_workers`, and the lines of each worker."""
    lines = [[] for _ in tasks]
    return run_workers(function, tasks, list(cards), lambda index, line: lines[index].append(line)), lines


def tell(task):
    print("task", task, "of process", os.getpid(), "on card", os.environ.get("CUDA_VISIBLE_DEVICES"))
    print("memory", os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH"))


def test_each_task_has_a_process_of_its_own_and_its_card():
    errors, lines = collect(["a", "b"], tell, cards=["0", "1"])
    assert errors == {}
    pids = {int(first.split()[4]) for first, _ in lines}
    assert len(pids) == 2 and os.getpid() not in pids
    for index, (first, second) in enumerate(lines):
        assert first.startswith(f"task {'ab'[index]} of") and first.endswith(f"on card {index}")
        assert second == "memory None"  # a worker may have all of its card


def test_workers_that_share_a_card_do_not_take_all_of_its_memory():
    _, lines = collect(["a", "b", "c"], tell, cards=["3"])
    assert all(first.endswith("on card 3") and second == "memory true" for first, second in lines)


def print_in_pieces(task):
    for number in range(40):
        for piece in (f"{task}", " number ", f"{number}", "\n"):
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stderr.write("bar:  10%\rbar:  60%\rbar: 100%\nno end of line")


def test_lines_arrive_whole_and_in_order_and_a_progress_bar_as_it_ended():
    _, lines = collect(["left", "right"], print_in_pieces)
    for task, found in zip(("left", "right"), lines, strict=True):
        assert found == [f"{task} number {number}" for number in range(40)] + ["bar: 100%", "no end of line"]


def fail_or_write(task):
    kind, path = task
    if kind == "write":
        time.sleep(0.5)  # longer than the others live
        pathlib.Path(path).write_text("done")
    elif kind == "raise":
        raise ZeroDivisionError(f"no ratio in {path}")
    elif kind == "exit":
        print("I give up")
        os._exit(3)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def test_one_that_dies_is_named_with_its_cause_and_the_others_work_is_kept(tmp_path):
    tasks = [(kind, str(tmp_path / kind)) for kind in ("raise", "kill", "write", "exit")]
    errors, lines = collect(tasks, fail_or_write)
    assert lines[1] == ["its process was killed by SIGKILL, perhaps out of memory"] and lines[2] == []
    assert sorted(errors) == [0, 1, 3] and all(isinstance(error, WorkerError) for error in errors.values())
    assert (tmp_path / "write").read_text() == "done"
    message = str(errors[0])
    assert message.startswith("its process ended with status 1\nTraceback (most recent call last)")
    assert 'raise ZeroDivisionError(f"no ratio in {path}")' in message and f"no ratio in {tmp_path}" in message
    assert str(errors[1]) == "its process was killed by SIGKILL, perhaps out of memory"
    assert str(errors[3]) == "its process ended with status 3\nI give up"


# What a notebook is: definitions that lie in no file, in a main program that no other process can import.
NOTEBOOK = """
import linecache, pathlib, sys

def run_cell(name, source):
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), globals())

run_cell("<cell 1>", pathlib.Path("salt/parallel.py").read_text())
run_cell("<cell 2>", '''
import functools
from typing import NamedTuple
@functools.cache
def factor():
    return 3
class Base:
    def __init__(self, value):
        self.value = value
class Tripled(Base):
    def __init__(self, value):
        super().__init__(factor() * value)
class Pair(NamedTuple):
    left: int
    right: int
def describe(task):
    if task.left > 1:
        raise ValueError("too much on the left")
    print("tripled", Tripled(task.right).value, type(task).__name__, "salt.parallel" in sys.modules)
''')
run_cell("<cell 3>", '''
errors = run_workers(describe, [Pair(1, 2), Pair(2, 2)], [], lambda index, line: print(index, line))
print("errors", {index: str(error) for index, error in errors.items()})
''')
"""


def test_definitions_of_a_notebook_travel_and_its_lines_are_in_the_traceback():
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 tripled 6 Pair False\n" in done.stdout
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("errors")]
    assert 'File "<cell 2>", line 18, in describe' in told and 'raise ValueError("too much on the left")' in told


def linger(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def wait_until(condition, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def ended(path):
    pid = int(path.read_text())
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    paths = [tmp_path / "0", tmp_path / "1"]
    script = f"""
        import sys
        sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
        from test_parallel import linger, run_workers
        run_workers(linger, {[str(path) for path in paths]!r}, [], print)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    try:
        wait_until(lambda: all(path.exists() and path.read_text() for path in paths))
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: all(map(ended, paths)))


def start_and_linger(path):
    print("started", flush=True)
    linger(path)


def test_an_interrupt_ends_the_workers(tmp_path):
    def interrupt(index, line):
        wait_until(path.exists)
        raise KeyboardInterrupt

    path = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt):
        run_workers(start_and_linger, [str(path)], [], interrupt)
    assert ended(path)


def test_a_worker_that_cannot_even_start_is_an_error(tmp_path):
    errors, _ = collect([1], json.loads)  # TypeError before any line of ours
    assert "the JSON object must be str" in str(errors[0])
    assert parallel.describe_exit(-signal.SIGSEGV, []) == "its process was killed by SIGSEGV"
