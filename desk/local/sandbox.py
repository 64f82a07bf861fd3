"""The wall around a notebook that runs at the desk: what it cannot do on Kaggle, it cannot do here.

It sees its inputs read-only, reaches no network, and cannot import this repository's packages. processes.py starts a
copy of this file as a program in a process of its own; the notebook's process and those that it starts load `guard`
through a `sitecustomize.py`. Two modes:

- `namespaces` (Linux): network, mounts and processes of its own, by the kernel. Holds for root and for compiled code
  too: no process outside can be seen, home folders, credentials and this repository are not there, and all that the
  notebook starts ends with it.
- `guard`: an audit hook inside Python that refuses connections. Compiled code can get past it; it is meant for machines
  without namespaces, and for a notebook that uses a cluster, whose scheduler alone it may reach. processes.py then
  compares the inputs before and after.

This is no prison for hostile code: it catches the notebook that would fail on Kaggle, and keeps secrets of this desk
out of its reach. At its head this file imports only the standard library, and nothing of this repository anywhere.
"""

import contextlib
import ctypes
import errno
import ipaddress
import json
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Callable, Container
from typing import Any, NamedTuple

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 1 << 28, 1 << 29, 1 << 30
OWN = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 0x1, 0x20, 0x1000, 0x4000, 0x40000, 0x200000
ST_INHERITED, ST_RELATIME = 0x2 | 0x4 | 0x8 | 0x400 | 0x800, 0x1000  # nosuid, nodev, noexec, noatime, nodiratime
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 1, 24, 36
# What root may do on Kaggle, by Docker: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
# net_bind_service, net_raw, sys_chroot, audit_write, setfcap. Not: mount, ptrace, and mknod, which would open the disk.
CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 29, 31)
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
PACKAGES = ("salt", "desk", "flattener", "build_kernel")  # of this repository
RESOLVING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


# --- what the notebook's process loads at its start -----------------------------------------------------------------


def guard(network: bool, allowed: tuple[str, int] | None = None) -> None:
    """Refuses this repository's packages in this process and, with `network`, every address but this machine's own.

    Args:
        network: whether to refuse addresses.
        allowed: (host, port) of another machine that may be reached.
    """
    sys.meta_path.insert(0, RefuseRepository)
    if network:
        addresses = {found[4][:2] for found in socket.getaddrinfo(*allowed)} if allowed is not None else set()
        sys.addaudithook(lambda event, arguments: refuse_network(event, arguments, allowed and allowed[0], addresses))


class RefuseRepository:
    """An import finder that finds nothing and lets no other find `PACKAGES`, wherever they may be installed."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> None:
        package = fullname.partition(".")[0]
        if package in PACKAGES:
            message = f"No module named {fullname!r}: a notebook carries its own copy of {package}"
            raise ModuleNotFoundError(message, name=fullname)
        return None


def refuse_network(event: str, arguments: tuple, allowed: str | None = None, addresses: Container[tuple] = ()) -> None:
    """An audit hook; its errors are those of a machine that has no network.

    Args:
        event, arguments: of the hook.
        allowed: a host whose name may be resolved.
        addresses: (IP address, port) of those that may be reached.
    """
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and not is_local(address[0]) and address[:2] not in addresses:
            message = f"Network is unreachable ({address[0]}): a notebook run at the desk has none"
            raise OSError(errno.ENETUNREACH, message)
    # A number resolves without a network, as it does in namespaces: whoever connects to it is refused above.
    elif event in RESOLVING and not is_local(arguments[0]) and not ip_address(arguments[0]) and arguments[0] != allowed:
        raise socket.gaierror(socket.EAI_AGAIN, f"Temporary failure in name resolution ({arguments[0]})")


def is_local(host: Any) -> bool:
    """Whether a host is this machine. What is neither a name nor an IP address (a netlink number, None) counts so."""
    name = host.decode(errors="replace") if isinstance(host, (bytes, bytearray)) else host
    if not isinstance(name, str) or name in ("", "localhost", os.uname().nodename):
        return True
    address = ip_address(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


def ip_address(host: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text spells, or None."""
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, (bytes, bytearray)) else host)
    except ValueError:
        return None


# --- namespaces -----------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What of this machine's files is not to be seen; all are absolute paths without links.

    Attributes:
        hidden: folders.
        kept: folders inside of these that stay, such as the installed packages in a home folder.
        masked: files, wherever they are.
    """

    hidden: list[str]
    kept: list[str]
    masked: list[str]


def run_walled(folder: str, view: View, act: Callable[[], Any]) -> int:
    """Runs something in namespaces of its own; returns its exit status.

    There it has no network but loopback, `folder` is read-only, and no process outside can be seen. What it leaves
    running ends with it.

    Raises:
        OSError: the system does not allow it.
    """
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, "namespaces are Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    working = os.getcwd()
    leave_shared_namespaces(libc)
    raise_loopback()
    # What is mounted from here on stays here: without this the bind mount would appear on the whole machine.
    call(libc.mount, None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    mount_read_only(libc, folder)
    limit_view(libc, view)
    os.chdir(working)  # as it is seen now
    sys.stdout.flush()
    first = os.fork()
    if first == 0:
        end_by(lambda: be_first(libc, act))
    return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])


def be_first(libc: ctypes.CDLL, act: Callable[[], Any]) -> int:
    """What the first process of a PID namespace does: it shows /proc as it is there, and waits for what `act` does.

    When it ends, the system ends all others. A process that lost its parent becomes its child.
    """
    die_with_parent()
    call(libc.mount, b"proc", b"/proc", b"proc", ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC), None)
    # They go when the notebook's process is started (exec): with others root could, say, mount the inputs for writing.
    for capability in range(64):
        if capability not in CAPABILITIES and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # there are no more
    acting = os.fork()
    if acting == 0:
        die_with_parent()
        end_by(act)
    while True:
        ended, status = os.wait()
        if ended == acting:
            return os.waitstatus_to_exitcode(status) & 0xFF


def end_by(act: Callable[[], Any]) -> None:
    """Ends this process with the status that something returns; an error is printed."""
    status = 1
    try:
        status = act() or 0
    except OSError as error:
        print(error)
    finally:
        sys.stdout.flush()
        os._exit(status)


def limit_view(libc: ctypes.CDLL, view: View) -> None:
    """Lays empty folders over what is not to be seen, and what stays of it into them."""
    handles = {path: os.open(path, os.O_PATH) for path in view.kept if os.path.exists(path)}
    covers: list[str] = []
    nearest: dict[str, bool] = {}  # {path: whether it can be seen}
    for path in sorted({*view.hidden, *handles}, key=lambda path: path.count(os.sep)):
        above = [other for other in nearest if path.startswith(other.rstrip(os.sep) + os.sep)]
        covered = bool(above) and not nearest[max(above, key=len)]
        if path in handles:
            if covered:
                make_place(path, os.path.isdir(f"/proc/self/fd/{handles[path]}"))
                bind(libc, f"/proc/self/fd/{handles[path]}", path)
        elif os.path.isdir(path) and not covered:
            call(libc.mount, b"tmpfs", os.fsencode(path), b"tmpfs", ctypes.c_ulong(MS_NOSUID | MS_NODEV), b"mode=755")
            covers.append(path)
            name = os.path.basename(path)
            if name in PACKAGES:  # a folder without this could be imported
                with open(os.path.join(path, "__init__.py"), "w") as file:
                    file.write(
                        f"raise ModuleNotFoundError('No module named {name}: a notebook carries its own copy')\n"
                    )
        nearest[path] = path in handles
    for path in covers:
        flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
        call(libc.mount, None, os.fsencode(path), None, ctypes.c_ulong(flags), None)
    for path in view.masked:
        if os.path.exists(path) and not os.path.isdir(path):
            bind(libc, os.devnull, path)
    for handle in handles.values():
        os.close(handle)


def make_place(path: str, is_folder: bool) -> None:
    """Makes an empty folder or file, for something to be bound to."""
    os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
    if not is_folder:
        open(path, "w").close()


def bind(libc: ctypes.CDLL, source: str, target: str) -> None:
    """Shows a file or a folder in another place, too."""
    call(libc.mount, os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(MS_BIND | MS_REC), None)


def leave_shared_namespaces(libc: ctypes.CDLL) -> None:
    """Root may have namespaces of its own just so; anybody else needs a user namespace around them.

    The process itself stays among the others; the next one that it starts is the first of the new PID namespace.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        call(libc.unshare, OWN)
    except PermissionError:
        call(libc.unshare, CLONE_NEWUSER | OWN)
        # The user keeps the own number: files belong to whom they did. gid_map may be written only after setgroups.
        for name, text in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def raise_loopback() -> None:
    """Brings up `lo`, which a new network namespace has but leaves down; Jupyter talks to its kernel over it."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        fcntl.ioctl(connection, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def mount_read_only(libc: ctypes.CDLL, folder: str) -> None:
    """Binds a folder onto itself and makes that mount read-only; a bind mount can be made so only in a second step."""
    path = os.fsencode(folder)
    bind(libc, folder, folder)
    inherited = os.statvfs(folder).f_flag  # a user namespace may not take these off
    flags = (inherited & ST_INHERITED) | (MS_RELATIME if inherited & ST_RELATIME else 0)
    call(libc.mount, None, path, None, ctypes.c_ulong(MS_REMOUNT | MS_BIND | MS_RDONLY | flags), None)


def call(function: Any, *arguments: Any) -> None:
    """Calls a C function that returns 0 or sets errno."""
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}: {os.strerror(number)}")


def probe(folder: str, view: View) -> int:
    """Enters namespaces and looks whether they keep what they promise; returns 0 if they do.

    Raises:
        OSError: the system does not allow namespaces.
    """
    return run_walled(folder, view, lambda: check_wall(folder, view))


def check_wall(folder: str, view: View) -> None:
    """Tries to write into `folder`, which is to be read-only, to connect to itself, and to see what is not to be seen.

    Raises:
        OSError: a promise is not kept.
    """
    try:
        open(os.path.join(folder, "file"), "w").close()
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    else:
        raise OSError(errno.EPERM, "a read-only mount can be written to")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass
    if seen := [name for name in os.listdir("/proc") if name.isdigit() and int(name) > os.getpid()]:
        raise OSError(errno.EPERM, f"the processes {', '.join(seen)} of this machine can be seen")
    if seen := [path for path in view.masked if os.path.isfile(path) and os.path.getsize(path)]:
        raise OSError(errno.EPERM, f"{', '.join(seen)} can be read")


# --- running the notebook -------------------------------------------------------------------------------------------


def execute(notebook: str, executed: str, parameters: dict) -> int:
    """Runs a notebook with papermill, its output on stdout as it comes, and returns an exit status.

    Args:
        notebook: path of the notebook to run.
        executed: where the notebook with its outputs goes; it is written after every cell.
        parameters: values that replace those of the cell tagged "parameters".
    """
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from papermill.engines import NBClientEngine, papermill_engines

    now = {"cell": "", "heading": None}

    class ShowingEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            titles, cell_start = cell_titles(nb_man.nb.cells), nb_man.cell_start

            def show_and_start(cell: Any, cell_index: Any = None, **more: Any) -> Any:
                count, heading = titles[cell_index]
                if cell.cell_type == "code":
                    now["cell"] = f"{count} {heading}".rstrip()
                    if heading != now["heading"]:  # one line for the cells of a section
                        print(f"--- {now['cell']}", flush=True)
                    now["heading"] = heading
                return cell_start(cell, cell_index, **more)

            nb_man.cell_start = show_and_start
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    papermill_engines.register("showing", ShowingEngine)
    try:
        execute_notebook(
            notebook, executed, parameters=parameters, engine_name="showing", kernel_name="python3", progress_bar=False,
            stdout_file=sys.stdout, stderr_file=sys.stdout, start_timeout=300, iopub_timeout=300,
        )  # fmt: skip
    except PapermillExecutionError as error:
        text = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
        print(f"\n--- {now['cell']}: failed\n{without_colours(text)}", flush=True)
        return 1
    except DeadKernelError as error:
        print(f"\n--- {now['cell']}: the notebook's process died, perhaps out of memory ({error})", flush=True)
        return 1
    return 0


def cell_titles(cells: list) -> list[tuple[str, str]]:
    """For each cell "[so many code cells/of all]" and the last heading so far."""
    total, number, heading, titles = sum(cell.cell_type == "code" for cell in cells), 0, "", []
    for cell in cells:
        if cell.cell_type == "code":
            number += 1
        elif found := re.findall(r"^#+\s+(.+?)\s*$", cell.source, flags=re.MULTILINE):
            heading = found[-1]
        titles.append((f"[{number}/{total}]", heading))
    return titles


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def die_with_parent() -> None:
    """A killed run_local.py must not leave a training behind. (The notebook's process watches this one by itself.)"""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_children() -> None:
    """Ends all processes that came of this one, whatever they have made of themselves (Linux)."""
    import psutil

    while left := psutil.Process().children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left)


def main(arguments: list[str]) -> int:
    mode, view = arguments[0], View(*json.loads(arguments[1]))
    if mode == "probe":
        try:
            return probe(arguments[2], view)
        except OSError as error:
            print(error)  # run_local.py says why it takes the other mode
            return 1
    name, parameters = arguments[2:]  # the working directory is the notebook's own: .../working
    die_with_parent()
    if mode == "namespaces":
        again = [sys.executable, "-P", __file__, "walled", arguments[1], name, parameters]
        return run_walled(os.path.abspath("../input"), view, lambda: os.execv(sys.executable, again))
    if mode == "guard" and sys.platform.startswith("linux"):  # orphans become children of this process
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        # Relative paths, because papermill writes them into the notebook.
        return execute(f"../built/{name}/{name}.ipynb", f"../{name}.ipynb", json.loads(parameters))
    finally:
        if mode == "guard":
            end_children()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
