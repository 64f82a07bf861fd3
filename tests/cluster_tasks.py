"""What the tests of clusters run in processes of workers; it imports little, so that these start quickly."""

import json
import os
import pathlib
import signal
import time

from salt.cluster import open_cluster


def make_clock():
    """A clock that counts in each process from elsewhere, as on different machines; it is sent by value."""
    return lambda: time.monotonic() + 1e6 * os.getpid()


def collect(address, folder, function, tasks):
    """What `Cluster.run` returns, and the lines of each task."""
    lines, clock = {index: [] for index in range(len(tasks))}, make_clock()
    with open_cluster(address, folder) as found:
        errors = found.run(function, tasks, clock, clock(), lambda index, line: lines[index].append(line))
    return errors, lines


def note_and_print(task, passed):
    print(f"task {task} in time {0 <= passed < 1e5}", os.environ["KERAS_BACKEND"])
    pathlib.Path(task).write_text(str(os.getppid()))


def sleep_long(task, passed):
    pathlib.Path(task).write_text(str(os.getpid()))
    print("begun")
    time.sleep(1000)


def learn(parameters, folder, report, began, weights, flag, pid=None):
    """An objective that costs nothing; the first process that comes to the third epoch kills one, or its worker."""
    assert pathlib.Path(weights).read_text() == "weights"  # wherever this process was started
    path = folder / "scores.json"
    scores = json.loads(path.read_text()) if path.is_file() else []
    while len(scores) < 6:
        scores.append(parameters["filter_scaling"] / 100 + len(scores) / 10)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores))
        report(scores)
        if len(scores) == 3 and not flag.exists():
            flag.touch()
            os.kill(pid or os.getppid(), signal.SIGKILL)
            time.sleep(1000)  # this process ends with its worker
    return {"fold_scores": [scores[-1]], "last_scores": [scores[-1]]}


def die_as_often(task, passed):
    """Kills its process as long as there is something in a file, which gets shorter by each time."""
    path = pathlib.Path(task)
    if left := path.read_text():
        path.write_text(left[1:])
        os.kill(os.getpid(), signal.SIGKILL)


def write_or_kill(task, passed):
    """Writes a file, if the task is a path; kills the process that it names otherwise."""
    if not task.isdigit():
        pathlib.Path(task).write_text("done")
        return
    os.kill(int(task), signal.SIGKILL)
    time.sleep(1000)  # this process is ended by that of its worker


def killer(epoch, pid, flag):
    """A Keras callback that kills a process before an epoch, counted from 1, unless it did so before."""
    import keras

    def kill(number, logs):
        if number + 1 == epoch and not flag.exists():
            flag.touch()
            os.kill(pid, signal.SIGKILL)
            time.sleep(1000)  # this process is ended by that of its worker

    return keras.callbacks.LambdaCallback(on_epoch_begin=kill)


def kill_the_process_and_then_the_worker(held_out, folder):
    return [killer(2, os.getpid(), folder / "killed"), killer(3, os.getppid(), folder / "lost")]


def kill_the_scheduler(held_out, pid, folder):
    return [killer(3, pid, folder / "lost")]
