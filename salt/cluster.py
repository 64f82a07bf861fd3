"""Runs a function on a Dask cluster, each task in a fresh process on one of its machines.

What `run_workers` is on one machine, `Cluster.run` is on several. The scheduler places the tasks, moves those of a lost
machine to another, and repeats those whose process was killed. An error of the code is not repeated. What tasks read
and write lies in the run's folder, which all machines see under the same path.
"""

import contextlib
import itertools
import pathlib
import queue
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from salt.cluster_check import check_workers, connect_scheduler
from salt.cluster_task import run_remote, share_job
from salt.parallel import WorkerError

RETRIES = 3  # of a task whose process was killed; Dask moves that of a lost worker as often, its `allowed-failures`
LOST = "the scheduler is lost; what was finished is kept: start the cluster again and resume the run"


class Cluster(NamedTuple):
    """A Dask cluster: the scheduler's address, Dask's client, the run's folder, and what `check_workers` returns."""

    address: str
    client: Any
    folder: pathlib.Path
    places: int
    resources: dict[str, int] | None
    unshared: str

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
            function: of a task and of the seconds since the run began; a notebook's is sent by value. Its results are
                files in the run's folder. Where that is not shared, it starts in a folder on its worker's disk.
            tasks: small ones; the next one is asked for when another has ended.
            clock: function that returns seconds; each machine may have another clock. None: no time counts.
            began: what this machine's clock said when the run began.
            show: function of (index of the task, line), called with each line of a task's output as it is completed.

        Returns:
            The errors of the tasks that failed, by index. The others go on when one fails. Where the scheduler is lost,
            all tasks that had not ended have failed.
        """
        errors: dict[int, WorkerError] = {}
        running: dict[Any, int] = {}
        events: queue.SimpleQueue = queue.SimpleQueue()  # (index, line), and futures that have ended, in their order
        topic, waiting = f"salt-{uuid.uuid4().hex}", enumerate(tasks)
        self.client.subscribe_topic(topic, lambda event: events.put(event[1]))
        with share_job(self.client, self.folder, not self.unshared, function, clock, began) as job:
            while True:
                for index, task in itertools.islice(waiting, self.places - len(running)):
                    given = {"key": f"{topic}-{index}", "retries": RETRIES, "resources": self.resources}
                    future = self.client.submit(run_remote, *job, topic, index, task, **given, pure=False)
                    running[future] = index
                    future.add_done_callback(events.put)
                if not running:
                    return errors
                event = events.get()
                if isinstance(event, (tuple, list)):
                    show(*event)
                    continue
                if event.status not in ("finished", "error"):  # cancelled, and all others with it
                    lost = WorkerError(f"cluster={self.address!r}: {LOST}")
                    return errors | dict.fromkeys(running.values(), lost)
                index = running.pop(event)
                if error := event.result() if event.status == "finished" else event.exception():
                    errors[index] = WorkerError(str(error))


@contextlib.contextmanager
def open_cluster(address: str, folder: pathlib.Path, files: Sequence[str] = (), gpu: bool = False) -> Iterator[Cluster]:
    """Connects to a Dask cluster for a block of code, after a check of its workers; tasks that still run end with it.

    Args:
        address: of the scheduler (`tcp://HOST:8786`), or the path of its scheduler file.
        folder: of the run.
        files, gpu: as for `check_workers`.

    Raises:
        ClusterError: the cluster cannot be used; names the scheduler or the worker.
    """
    with connect_scheduler(address) as client:
        yield Cluster(address, client, folder.resolve(), *check_workers(client, address, folder.resolve(), files, gpu))
