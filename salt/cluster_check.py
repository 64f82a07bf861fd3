"""Whether a Dask cluster can be used: its scheduler answers, and every worker has what a task needs.

Dask is an optional extra, imported only here and in `cluster_task`, and only when a cluster is asked for.
"""

import importlib.metadata
import pathlib
import platform
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from salt.machine import visible_gpus

CONNECT_SECONDS = 10  # after which a scheduler that does not answer counts as not there
SHARE_SECONDS = 30  # in which a file that one machine has written is seen by the others; NFS may take its time


class ClusterError(RuntimeError):
    """A cluster that cannot be used; the message names the scheduler or the worker."""


def connect_scheduler(address: str) -> Any:
    """Dask's client of a cluster.

    Args:
        address: of the scheduler (`tcp://HOST:8786`), or the path of its scheduler file.

    Raises:
        ClusterError: Dask is not installed, or no scheduler answers.
    """
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


def check_workers(
    client: Any, address: str, folder: pathlib.Path, files: Sequence[str], gpu: bool
) -> tuple[int, dict[str, int] | None, str]:
    """Checks that every worker that may get a task has what it needs, and prints which there are.

    Args:
        client: of Dask.
        address: of the scheduler, for messages.
        folder: of the run, absolute.
        files: absolute paths of other files and folders that each task reads.
        gpu: whether each task needs a GPU.

    Returns:
        How many tasks run at once: as many as the GPUs that the workers declare (`--resources GPU=1`), or one for each
        thread of a worker where none does; the others get no task. What a task takes, as Dask's `resources`. Why the
        folder is not shared: the worker that does not see it; empty: all read and write it.

    Raises:
        ClusterError: there is no worker, or one of them lacks a file or a GPU, or has another version of a library.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    gpus = {name: int(worker["resources"]["GPU"]) for name, worker in workers.items() if "GPU" in worker["resources"]}
    places = sum(gpus.values()) or sum(worker["nthreads"] for worker in workers.values())
    if not workers or (gpu and not gpus):
        what = "declares a GPU" if workers else "is there"
        how = "--nthreads 1 --resources GPU=1`, or set gpu=false" if gpu else "--nthreads 1`"
        raise ClusterError(f"cluster={address!r}: no worker {what}; start one by `dask worker {address} {how}")
    used = {name: worker for name, worker in workers.items() if name in (gpus or workers)}
    unshared = ask_workers(client, list(used), folder, files, gpu)
    hosts = ", ".join(sorted({worker["host"] for worker in used.values()}))
    print(f"cluster {address}: {len(used)} workers on {hosts}, {places} tasks at once", flush=True)
    return places, {"GPU": 1} if gpus else None, unshared


def ask_workers(client: Any, names: list[str], folder: pathlib.Path, files: Sequence[str], gpu: bool) -> str:
    """Asks each worker what it has, by `probe_worker`; the last part of `check_workers`."""
    find_gpus = visible_gpus.__wrapped__ if gpu else None  # Dask cannot send a function with a cache from a notebook
    token, unshared = folder / f".cluster-{uuid.uuid4().hex}", ""
    token.write_text(token.name, encoding="utf-8")
    try:
        found = client.run(probe_worker, str(token), list(files), find_gpus, workers=names, on_error="return")
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
