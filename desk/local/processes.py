"""The process of a notebook: its Python, its environment, the sandbox around it, its output and its end."""

import codecs
import contextlib
import json
import os
import pathlib
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import venv
from collections.abc import Iterable

import psutil

from desk import paths
from desk.errors import LocalRunError
from desk.kaggle.credentials import credential_files
from desk.local import sandbox
from desk.paths import AnyPath
from salt.files import sha256_file

# What no guard inside Python can hold; docs/differences.md has the list.
GUARD_LACKS = (
    "other programs than Python reach the network, home folders and other processes can be read, and changed inputs "
    "show only afterwards (docs/differences.md)"
)
SOCKETS = ("docker.sock", "containerd/containerd.sock", "podman/podman.sock")  # in /run: who reaches one is root here
LOOK = "import importlib.util as u, sys; print(*[s.origin for n in sys.argv[1:] if (s := u.find_spec(n))], sep='\\n')"
GRACE = 2.0  # seconds that a failed notebook's last words may take to arrive
NAMED_FILE = re.compile(r"TOKEN|SECRET|CREDENTIAL|KEY|NETRC", re.IGNORECASE)  # variables that may name a secret file
# What the notebook's process gets of this one's environment; a trailing "*" stands for any ending. Nothing else passes:
# no credentials, no proxies, no matplotlib backend (the kernel sets its own), no Python or Jupyter paths.
ENVIRONMENT = (
    "PATH", "LANG", "LC_*", "TERM", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "KERAS_BACKEND", "TF_*", "JAX_*", "XLA_*",
    "CUDA_*", "NVIDIA_*", "OMP_*", "OPENBLAS_*", "MKL_*",
)  # fmt: skip


def choose_sandbox(wanted: str, root: pathlib.Path, scheduler: tuple[str, int] | None = None) -> tuple[str, str]:
    """The mode to run in, and a few words on why.

    Args:
        wanted: "namespaces", "guard" or "auto".
        root: of the run.
        scheduler: (host, port) of a cluster that the notebook uses, which no namespace would reach.
    """
    if scheduler is not None:
        address = ":".join(map(str, scheduler))
        if wanted == "namespaces":
            remedy = "use --sandbox guard, or leave the setting cluster empty"
            raise LocalRunError(f"--sandbox namespaces: the cluster {address} cannot be reached from them; {remedy}")
        return "guard", f"a guard inside Python, for the cluster's scheduler, {address}: {GUARD_LACKS}"
    if wanted == "guard":
        return "guard", f"a guard inside Python: {GUARD_LACKS}"
    reason = namespaces_refused(root)
    if not reason:
        return "namespaces", "no network, read-only inputs, nothing of this desk in sight, by Linux namespaces"
    if wanted == "namespaces":
        raise LocalRunError(f"--sandbox namespaces: not possible here ({reason}); use --sandbox guard")
    return "guard", f"a guard inside Python, since there are no namespaces ({reason}): {GUARD_LACKS}"


def scheduler_address(cluster: str) -> tuple[str, int]:
    """(host, port) of a Dask scheduler.

    Args:
        cluster: as the setting: `tcp://HOST:PORT`, or the path of a scheduler file.

    Raises:
        LocalRunError: it is neither, or its host has no address.
    """
    address = cluster
    try:
        if "://" not in cluster:
            address = json.loads(pathlib.Path(cluster).read_text(encoding="utf-8"))["address"]
        place = urllib.parse.urlsplit(address)
        host, port = place.hostname, place.port
        if host is None or port is None:
            raise ValueError(f"{address!r} names no host and port")
        socket.getaddrinfo(host, port)
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "give tcp://HOST:8786, or the path of a scheduler file"
        raise LocalRunError(f"cluster={cluster!r}: {error}; {remedy}") from error
    return host, port


def namespaces_refused(folder: pathlib.Path) -> str:
    """Why the sandbox cannot use namespaces on this machine; "" if it can."""
    with tempfile.TemporaryDirectory(dir=folder) as probed:
        command = [sys.executable, sandbox.__file__, "probe", json.dumps(view_of(folder)), probed]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    return (done.stdout or done.stderr).strip().rpartition("\n")[2] or f"exit status {done.returncode}"


def view_of(root: pathlib.Path) -> sandbox.View:
    """What of this machine's files a notebook is not to see: homes, credentials, this repository, ways to be root.

    Args:
        root: the run's folder, which stays.
    """
    home = pathlib.Path.home()
    look = [sys.executable, "-I", "-c", LOOK, *sandbox.PACKAGES]  # where a fresh interpreter would find them
    found = [pathlib.Path(line) for line in subprocess.run(look, capture_output=True, text=True).stdout.split("\n")]
    packages = [path.parent for path in found if path.name == "__init__.py"]
    ours = [path if is_installed(path.parent) else path.parent for path in packages]
    hidden: list[AnyPath] = [home, "/home", "/root", "/run/user", paths.ROOT, *ours]
    kept: list[AnyPath] = [root, tempfile.gettempdir(), sys.prefix, sys.base_prefix, sys.exec_prefix]
    kept += [os.path.dirname(os.__file__), *filter(is_installed, map(pathlib.Path, sys.path))]
    kept += os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    masked: list[AnyPath] = [*credential_files(os.environ, home), home / ".netrc"]
    masked += [path for name, path in os.environ.items() if NAMED_FILE.search(name)]
    masked += [f"/run/{name}" for name in SOCKETS]

    def real(given: Iterable[AnyPath]) -> list[str]:
        return sorted({os.path.realpath(path) for path in given if os.path.isabs(path)} - {os.sep})

    return sandbox.View(real(hidden), real(kept), real(masked))


def is_installed(folder: pathlib.Path) -> bool:
    """Whether a folder is one of installed packages."""
    return folder.name in ("site-packages", "dist-packages")


def execute(
    name: str,
    root: pathlib.Path,
    parameters: dict,
    mode: str,
    minutes: float,
    scheduler: tuple[str, int] | None = None,
) -> None:
    """Runs the notebook of `root` in a process of its own.

    Args:
        name: of the kernel.
        root: the run's folder.
        parameters: of the notebook.
        mode, scheduler: as for `choose_sandbox`.
        minutes: its time limit.

    Raises:
        LocalRunError: it failed, ran too long, or changed its inputs.
    """
    (root / "working").mkdir()
    write_home(root / "home")
    python = write_python(root / "python")
    wall = write_guard(root / "guard", mode == "guard", scheduler)
    make_read_only(root / "input")
    before = fingerprints(root / "input") if mode == "guard" else None
    process = subprocess.Popen(
        [str(python), "-P", str(wall), mode, json.dumps(view_of(root)), name, json.dumps(parameters)],
        cwd=root / "working", env=notebook_environment(root), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        in_time = relay_output(process, root / f"{name}.log", time.monotonic() + 60 * minutes)
    finally:
        kill_notebook(process, root / "home")
    if not in_time:
        limit = f"its limit of {minutes:g} minutes"
        raise LocalRunError(f"{name}: stopped after {limit}; raise --minutes or make the run smaller")
    if process.returncode:
        raise LocalRunError(f"{name}: the notebook failed (exit status {process.returncode}); its last words are above")
    if before is not None:
        refuse_changes(name, before, fingerprints(root / "input"))


def notebook_environment(root: pathlib.Path) -> dict[str, str]:
    """Little of this process's environment, and what marks a batch run on Kaggle."""
    prefixes = tuple(entry[:-1] for entry in ENVIRONMENT if entry.endswith("*"))
    kept = {key: value for key, value in os.environ.items() if key in ENVIRONMENT or key.startswith(prefixes)}
    return {
        **kept,
        "HOME": str(root / "home"),  # empty: no token of Kaggle's, no cache of weights
        "PYTHONPATH": str(root / "guard"),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
    }


def write_home(folder: pathlib.Path) -> None:
    """Makes a home that is empty but for one line: a Jupyter without encryption on loopback is nothing to warn of."""
    profile = folder / ".ipython" / "profile_default"
    profile.mkdir(parents=True)
    # What a cell does wrong comes with its output; the interrupt by which Jupyter ends a kernel is no error.
    (profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 50\n", encoding="utf-8")


def write_python(folder: pathlib.Path) -> pathlib.Path:
    """Makes a Python for the notebook that finds the installed packages, but not those of this repository.

    They are installed so that they are imported from where they lie, by a .pth file among the installed packages. In
    this virtual environment no process reads that file, not even one without the environment's variables: the folders
    of installed packages stand on its path as they are, and .pth files count only in its own.

    Returns:
        The path of its interpreter.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    installed = [os.path.realpath(entry) for entry in sys.path if is_installed(pathlib.Path(entry))]
    (packages / "installed.pth").write_text("\n".join([*installed, ""]), encoding="utf-8")
    return folder / "bin" / "python"


def write_guard(folder: pathlib.Path, network: bool, allowed: tuple[str, int] | None) -> pathlib.Path:
    """Writes a sitecustomize.py, which Python imports at its start, in every process that the notebook starts too.

    Args:
        folder: to be made.
        network, allowed: as for the sandbox's `guard`.

    Returns:
        A copy of the sandbox beside it: this repository is not to be seen.
    """
    folder.mkdir()
    wall = folder / "sandbox.py"
    shutil.copyfile(sandbox.__file__, wall)
    call = f"runpy.run_path({str(wall)!r}, run_name='guard')['guard'](network={network}, allowed={allowed!r})"
    (folder / "sitecustomize.py").write_text(f"import runpy\n{call}\n", encoding="utf-8")
    return wall


def relay_output(process: subprocess.Popen, log: pathlib.Path, deadline: float) -> bool:
    """Shows and logs a process's output as it comes; returns whether the process ended before the deadline."""
    assert process.stdout is not None
    descriptor, ended = process.stdout.fileno(), None
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a block may end in the middle of a character
    with open(log, "wb") as file, selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(timeout=min(0.2, max(deadline - time.monotonic(), 0))):
                block = os.read(descriptor, 1 << 16)
                if not block:
                    process.wait()
                    return True
                file.write(block)
                print(decoder.decode(block), end="", flush=True)
            # A process that the notebook left behind may hold the pipe open for ever.
            elif process.poll() is not None:
                ended = ended or time.monotonic()
                if time.monotonic() - ended > GRACE:
                    return True
    return False


def kill_notebook(process: subprocess.Popen, home: pathlib.Path) -> None:
    """Kills the process and all that came of it."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)  # orphans too, where Linux gives them to it
    except psutil.Error:
        children = []
    process.kill()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
    end_processes(home)


def end_processes(home: pathlib.Path) -> None:
    """Kills the processes of a run: they are those whose HOME is the run's.

    Jupyter starts the notebook's process in a session of its own, so that no process group holds them all.
    """
    for _ in range(10):  # one that is killed while it starts another needs a second look
        children = [other for other in psutil.process_iter() if home_of(other) == str(home)]
        if not children:
            return
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, timeout=1)


def home_of(process: psutil.Process) -> str | None:
    """The HOME of a process; None if it is another user's, or just gone."""
    try:
        return process.environ().get("HOME")
    except (psutil.Error, OSError):
        return None


def fingerprints(folder: pathlib.Path) -> dict[str, str]:
    """{path: SHA-256} of every file in a folder."""
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def refuse_changes(name: str, before: dict[str, str], after: dict[str, str]) -> None:
    """Raises `LocalRunError` if a notebook changed its inputs, by their fingerprints before and after."""
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        raise LocalRunError(f"{name}: changed its inputs, which are read-only on Kaggle: {', '.join(changed[:5])}")


def make_read_only(folder: pathlib.Path) -> None:
    """Takes the write permission off; a help for guard mode only, and root does not feel it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
