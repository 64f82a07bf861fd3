import argparse
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import nbformat
import numpy as np
import psutil
import pytest

from desk import paths
from desk.errors import ConfigurationError, LocalRunError
from desk.local import competitions, kernels, processes, sandbox
from desk.local.mounts import mount_competition
from desk.runs import LOCKS
from flattener.settings import SettingError, parse_settings
from salt.artifacts import ArtifactError
from salt.competition import DataError, find_competition
from salt.config import ConfigError, config_to_dict, preset
from salt.data import read_test, read_train
from salt.metrics import coverage_class
from salt.synthetic import write_synthetic
from salt.tgs import COMPETITION as TGS
from scripts import run_local

ROOT = pathlib.Path(__file__).resolve().parent.parent
MOUNT = "../input/competitions/tgs-salt-identification-challenge"
SETTINGS_CELL = 'PRESET = "smoke"\nSET = {}\nRUN_ID = ""'
FINISH = """
    import hashlib, json, pathlib
    def entry(path):
        content = path.read_bytes()
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files = {path.name: entry(path) for path in pathlib.Path(".").iterdir()}
    manifest = {"run_id": RUN_ID, "kernel": "tiny", "config": {}, "files": files}
    pathlib.Path("manifest.json").write_text(json.dumps(manifest))
"""


def left_in(runs):
    """What stands in a folder of runs, hidden or not, but for the files of locks."""
    return [path for path in runs.iterdir() if path.name != LOCKS]


@pytest.fixture(scope="session")
def competition(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data") / "tgs", train=40, test=10, progress=False)


@pytest.fixture(scope="session")
def namespaces(tmp_path_factory):
    reason = processes.namespaces_refused(tmp_path_factory.mktemp("probe"))
    if re.search("not permitted|denied|not implemented|No space left|namespaces are Linux's", reason):
        pytest.skip(f"this machine gives no namespaces: {reason}")
    assert reason == ""  # anything else is a promise that they do not keep


@pytest.fixture(params=["namespaces", "guard"])
def mode(request):
    if request.param == "namespaces":
        request.getfixturevalue("namespaces")
    return request.param


@pytest.fixture
def run_cells(monkeypatch, tmp_path, competition):
    """Runs a notebook of the given cells as the kernel "tiny"; a str that begins with "#" is a heading."""

    def run(*cells, settings_cell=SETTINGS_CELL, **options):
        def build(program, out):
            return write_notebook(program, out, settings_cell, cells)

        monkeypatch.setattr(kernels, "build_notebook", build)
        return kernels.run_kernel("tiny", **{"data": competition, "runs": tmp_path / "runs", "minutes": 10, **options})

    return run


def write_notebook(program, out, settings_cell, cells):
    name = program.kernel
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernelspec})
    notebook.cells = [nbformat.v4.new_code_cell(settings_cell, metadata={"tags": ["parameters"]})]
    for cell in cells:
        make = nbformat.v4.new_markdown_cell if cell.startswith("#") else nbformat.v4.new_code_cell
        notebook.cells.append(make(textwrap.dedent(cell)))
    (out / name).mkdir(parents=True)
    nbformat.write(notebook, out / name / f"{name}.ipynb")
    return {"id": f"local/salt-{name}", "competition_sources": [TGS.slug]}


def write_run(folder, run_id="train-smoke-1", kernel="train"):
    folder.mkdir(parents=True)
    (folder / "oof.npz").write_bytes(b"predictions")
    (folder / "score.json").write_text("{}")  # made afterwards, not by the kernel
    digest = processes.fingerprints(folder)["oof.npz"]
    manifest = {"run_id": run_id, "kernel": kernel, "config": {}, "files": {"oof.npz": {"bytes": 11, "sha256": digest}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


# --- what the notebook finds ----------------------------------------------------------------------------------------


def test_the_packages_are_installed_so_that_it_means_something_that_a_notebook_finds_none():
    done = subprocess.run([sys.executable, "-I", "-c", "import salt, desk"], capture_output=True, text=True)
    assert done.returncode == 0, f"run `make test`, which installs them: {done.stderr}"


def test_a_notebook_finds_what_it_would_find_on_kaggle_and_nothing_of_this_machine(
    run_cells, mode, tmp_path, competition, monkeypatch, capfd
):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "HF_TOKEN", "http_proxy", "MPLBACKEND"):
        monkeypatch.setenv(name, "of-this-machine")
    home, elsewhere = tmp_path / "my-home", tmp_path / "configured"
    for folder in (home / ".kaggle", elsewhere):
        folder.mkdir(parents=True)
        (folder / "kaggle.json").write_text('{"username": "me", "key": "a-key"}')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(elsewhere))
    marker, python = f"{tmp_path} outlives", os.path.join(os.path.realpath(sys.prefix), "bin", "python")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    write_run(tmp_path / "runs" / "first")
    write_run(tmp_path / "elsewhere", "train-smoke-2")
    weights = tmp_path / "my-weights"
    weights.mkdir()
    (weights / "vgg16.h5").write_bytes(b"weights")
    folder = run_cells(
        "# A heading",
        "print('one epoch', 'å', flush=True)",
        f"PYTHON, REPOSITORY, HOME, CONFIGURED = {[python, str(ROOT), str(home), str(elsewhere)]!r}",
        f"""
        import os, subprocess, sys
        for _ in range(2):  # one that hides from whoever looks for children, or for the run's HOME
            code = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(1000)"
            subprocess.run([sys.executable, "-S", "-c", code, {marker!r}], env={{}})
        """,
        """
        import errno, importlib, json, os, pathlib, socket, subprocess, sys
        def attempt(function, *arguments):
            try:
                return f"returned {function(*arguments)!r}"
            except Exception as error:
                return [type(error).__name__, getattr(error, "errno", None), str(error)]
        def attempt_bytes(path):
            try:
                return path.read_bytes()
            except OSError:
                return b""
        def child(*options, python=sys.executable, **more):
            done = subprocess.run([python, *options], capture_output=True, text=True, **more)
            return done.stdout + (done.stderr.splitlines() or [""])[-1]
        look = "import importlib.util as u; print([n for n in ('salt', 'desk', 'flattener') if u.find_spec(n)])"
        facts = {
            "settings": [PRESET, SET, RUN_ID],
            "inputs": sorted(str(path) for path in pathlib.Path("../input").rglob("*") if path.is_file()),
            "working": [os.path.basename(os.getcwd()), os.listdir(".")],
            "home": os.listdir(os.environ["HOME"]),
            "environment": dict(os.environ),
            "import": attempt(importlib.import_module, "salt"),
            "import of a part": attempt(importlib.import_module, "salt.rle"),
            "import of the desk": attempt(importlib.import_module, "desk"),
            "import of the flattener": attempt(importlib.import_module, "flattener"),
            "import of its command": attempt(importlib.import_module, "build_kernel"),
            "import in a child": child("-c", "import salt"),
            "found in a child that ignores the environment": child("-I", "-c", look),
            "found in a child without an environment": child("-c", look, env={}),
            "found in a fresh interpreter": [fresh(look) for fresh in (
                lambda code: child("-I", "-c", code, python=PYTHON),
                lambda code: child("-c", code, python=PYTHON, env={"PYTHONPATH": REPOSITORY}),
            )],
            "the repository": attempt(os.listdir, REPOSITORY),
            "my home": attempt(os.listdir, HOME),
            "configured": attempt((pathlib.Path(CONFIGURED) / "kaggle.json").read_text),
            "secrets in environments": [path.parent.name for path in pathlib.Path("/proc").glob("[0-9]*/environ")
                                        if b"of-this-machine" in (attempt_bytes(path))],
            "processes": len(list(pathlib.Path("/proc").glob("[0-9]*"))),
            "connect": attempt(socket.create_connection, ("192.0.2.1", 80), 5),
            "send": attempt(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, b"x", ("192.0.2.1", 53)),
            "resolve": attempt(socket.getaddrinfo, "kaggle.com", 443),
            "interfaces": [name for _, name in socket.if_nameindex()],
        }
        with socket.create_server(("127.0.0.1", 0)) as server:
            facts["loopback"] = attempt(lambda: socket.create_connection(server.getsockname(), 5).close())
        """,
        f"sys.path.insert(0, {str(ROOT)!r})",
        "facts['import by path'] = attempt(importlib.import_module, 'salt')",
        "pathlib.Path('facts.json').write_text(json.dumps(facts))",
        FINISH,
        sandbox=mode,
        preset="demo",
        settings={"epochs": 3, "train_folds": (0,), "weights": None},
        mounted_runs=["first", tmp_path / "elsewhere"],
        weights=weights,
    )
    facts = json.loads((folder / "facts.json").read_text())
    run_id = folder.name
    assert re.fullmatch(r"tiny-demo-\d{8}-\d{6}-[0-9a-f]{4}", run_id)
    assert facts["settings"] == ["demo", {"epochs": 3, "train_folds": [0], "weights": None}, run_id]
    names = ("train.zip", "test.zip", "train.csv", "depths.csv", "sample_submission.csv")
    expected = [f"{MOUNT}/{name}" for name in names] + ["../input/datasets/local/salt-weights/vgg16.h5"]
    for slug in ("salt-train", "salt-train-2"):
        expected += [f"../input/notebooks/local/{slug}/{name}" for name in ("manifest.json", "oof.npz")]
    assert facts["inputs"] == sorted(expected)
    assert facts["working"] == ["working", []]
    assert not {".kaggle", ".keras", ".config", ".netrc"} & set(facts["home"])
    assert [process.pid for process in psutil.process_iter() if marker in " ".join(words_of(process))] == []
    if mode == "namespaces":
        assert all("[]" in found or "Error" in found or not found for found in facts["found in a fresh interpreter"])
        assert facts["the repository"][1] == errno.ENOENT or "'salt'" not in facts["the repository"]
        assert facts["my home"] == "returned []" and facts["configured"] == "returned ''"
        assert facts["secrets in environments"] == [] and facts["processes"] < 12
    environment = facts["environment"]
    assert "of-this-machine" not in environment.values()
    assert environment["KAGGLE_KERNEL_RUN_TYPE"] == "Batch" and environment["KERAS_BACKEND"] == "jax"
    assert [name for name in environment if name.startswith("KAGGLE")] == ["KAGGLE_KERNEL_RUN_TYPE"]
    for how in ("import", "import of a part", "import by path", "import of the desk", "import of the flattener"):
        assert facts[how][0] == "ModuleNotFoundError" and "carries its own copy" in facts[how][2]
    assert "carries its own copy" in facts["import in a child"]
    assert facts["import of its command"][0] == "ModuleNotFoundError"
    assert facts["found in a child that ignores the environment"] == "[]\n"
    assert facts["found in a child without an environment"] == "[]\n"
    assert facts["connect"][1] == errno.ENETUNREACH and facts["send"][1] == errno.ENETUNREACH
    assert facts["resolve"][0] == "gaierror"
    assert facts["loopback"] == "returned None"
    said = capfd.readouterr().out
    if mode == "namespaces":
        assert facts["interfaces"] == ["lo"] and "read-only inputs, nothing of this desk in sight" in said
    else:
        assert "run at the desk" in facts["connect"][2] and "run at the desk" in facts["send"][2]
        assert "other programs than Python reach the network" in said and "docs/differences.md" in said

    assert sorted(path.name for path in folder.iterdir()) == [
        "facts.json", "manifest.json", "tiny.html", "tiny.ipynb", "tiny.log",
    ]  # fmt: skip
    assert re.search(r"--- \[\d+/\d+\] A heading\none epoch å\n", said)
    assert "WARNING" not in said
    assert "one epoch å" in (folder / "tiny.log").read_text(encoding="utf-8")
    executed = (folder / "tiny.ipynb").read_text(encoding="utf-8")
    assert "one epoch å" in executed and "one epoch å" in (folder / "tiny.html").read_text(encoding="utf-8")
    assert str(tmp_path / "runs") not in executed
    assert sorted(path.name for path in left_in(tmp_path / "runs")) == ["first", run_id]


def words_of(process):
    try:
        return process.cmdline() if alive(process.pid) else []
    except psutil.Error:
        return []


INTRUDE = f"""
    import ctypes, errno, os, pathlib
    table = pathlib.Path("{MOUNT}/train.csv")
    def attempt(function, *arguments):
        try:
            function(*arguments)
        except OSError as error:
            return error.errno
    found = [
        attempt(os.chmod, table.parent, 0o777),
        attempt(os.chmod, table, 0o666),
        attempt(table.write_text, "id,rle_mask"),
        attempt((table.parent / "new.csv").write_text, "new"),
        attempt(os.unlink, table.parent / "depths.csv"),
    ]
    libc = ctypes.CDLL(None, use_errno=True)
"""


def test_in_namespaces_nobody_can_write_to_the_inputs_not_even_root(run_cells, namespaces):
    folder = run_cells(
        INTRUDE,
        """
        folder = os.fsencode(os.path.abspath("../input"))
        remounted = libc.mount(None, folder, None, ctypes.c_ulong(0x20 | 0x1000), None)
        found.append(ctypes.get_errno() if remounted else None)
        found.append(attempt(table.write_text, "id,rle_mask"))
        pathlib.Path("found.txt").write_text(repr(found))
        through = [path / f"root{table.resolve()}" for path in pathlib.Path("/proc").glob("[0-9]*")]
        written = [str(path) for path in through if attempt(path.write_text, "id,rle_mask") is None]
        pathlib.Path("through.txt").write_text(repr(written))
        """,
        FINISH,
        sandbox="namespaces",
    )
    assert (folder / "found.txt").read_text() == repr([errno.EROFS] * 5 + [errno.EPERM, errno.EROFS])
    assert (folder / "through.txt").read_text() == "[]"  # nor through another process, as it sees the files


def test_in_guard_mode_a_notebook_that_changes_its_inputs_fails_and_the_originals_are_safe(
    run_cells, competition, tmp_path
):
    before = processes.fingerprints(competition)
    with pytest.raises(LocalRunError, match=r"(?s)changed its inputs.*depths.csv.*new.csv.*train.csv.*kept"):
        run_cells(INTRUDE, FINISH, sandbox="guard")
    assert processes.fingerprints(competition) == before
    assert [path.suffix for path in left_in(tmp_path / "runs")] == [".failed"]


def test_namespaces_serve_a_user_who_is_not_root(namespaces, tmp_path):
    script = """
        import ctypes, encodings.idna, fcntl, os, sys
        from desk.local import sandbox
        os.chmod(".", 0o777)
        if os.geteuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again, as it would be after an exec
        assert sandbox.probe(os.getcwd(), sandbox.View([], [], [])) == 0
        print("uid", os.getuid())
    """
    open_to_all = pathlib.Path(tmp_path.anchor) / "tmp" / f"salt-probe-{os.getpid()}"  # pytest's folders are not
    open_to_all.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=open_to_all,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        open_to_all.rmdir()
    if "Operation not permitted" in done.stderr:
        pytest.skip("user namespaces are off here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != "uid 0"


def test_auto_falls_back_to_the_guard_and_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "namespaces_refused", lambda folder: "unshare: Operation not permitted")
    mode, why = processes.choose_sandbox("auto", tmp_path)
    assert mode == "guard" and "Operation not permitted" in why
    with pytest.raises(LocalRunError, match="use --sandbox guard"):
        processes.choose_sandbox("namespaces", tmp_path)


def test_a_notebook_that_uses_a_cluster_reaches_its_scheduler_and_nothing_else(monkeypatch, tmp_path):
    (tmp_path / "scheduler.json").write_text('{"address": "tcp://192.0.2.7:8786"}')
    parameters = {"SET": {"cluster": os.path.relpath(tmp_path / "scheduler.json")}}
    assert kernels.find_scheduler(parameters) == ("192.0.2.7", 8786)
    assert parameters == {"SET": {"cluster": str(tmp_path / "scheduler.json")}}  # the notebook runs elsewhere
    assert kernels.find_scheduler({}) is None
    mode, why = processes.choose_sandbox("auto", tmp_path, ("192.0.2.7", 8786))
    assert mode == "guard" and "for the cluster's scheduler, 192.0.2.7:8786: other programs than Python" in why
    with pytest.raises(
        LocalRunError, match="192.0.2.7:8786 cannot be reached from them; use --sandbox guard, or leave"
    ):
        processes.choose_sandbox("namespaces", tmp_path, ("192.0.2.7", 8786))
    hooks = []
    monkeypatch.setattr(sandbox.sys, "addaudithook", hooks.append)
    monkeypatch.setattr(sandbox.sys, "meta_path", [])
    monkeypatch.setattr(sandbox.socket, "getaddrinfo", lambda host, port: [(2, 1, 6, "", ("192.0.2.7", port))])
    sandbox.guard(True, ("head", 8786))
    (hook,) = hooks
    hook("socket.connect", (None, ("192.0.2.7", 8786)))
    hook("socket.getaddrinfo", ("head", 8786))
    for event, arguments in (
        ("socket.connect", (None, ("192.0.2.7", 8787))),
        ("socket.connect", (None, ("192.0.2.8", 8786))),
        ("socket.getaddrinfo", ("kaggle.com", 8786)),
    ):
        with pytest.raises(OSError, match="Network is unreachable|Temporary failure in name resolution"):
            hook(event, arguments)


@pytest.mark.parametrize(
    "cluster, message",
    [
        ("head:8786", "No such file"),
        ("tcp://head", "names no host and port"),
        ("tcp://head.invalid:8786", "ame or service not known|resolution"),
        ("tcp://h:99999", "out of range"),
    ],
)
def test_a_cluster_without_an_address_is_refused_before_the_notebook_starts(cluster, message):
    with pytest.raises(
        LocalRunError, match=rf"cluster='{cluster}': .*({message}).*; give tcp://HOST:8786, or the path"
    ):
        processes.scheduler_address(cluster)


@pytest.mark.parametrize("host", ["localhost", "", None, b"127.0.0.1", "127.0.0.53", "::1", "0.0.0.0", 7])
def test_this_machine_is_local(host):
    assert sandbox.is_local(host)


@pytest.mark.parametrize("host", ["kaggle.com", "8.8.8.8", "10.0.0.1", "128.0.0.1", "2001:db8::1", "localhost.org"])
def test_any_other_machine_is_not_local(host):
    assert not sandbox.is_local(host)


# --- runs that do not end well --------------------------------------------------------------------------------------


def test_a_failing_cell_shows_its_traceback_under_its_heading_and_is_kept(run_cells, tmp_path, capfd):
    with pytest.raises(LocalRunError, match=r"(?s)the notebook failed.*kept to look at: .*\.failed"):
        run_cells("# Read the tiles", "ratio = 1 / 0", "# Later", "print('not reached')")
    shown = capfd.readouterr().out
    assert re.search(r"(?s)--- \[3/4\] Read the tiles: failed\n.*ratio = 1 / 0.*ZeroDivisionError: division", shown)
    assert "\x1b" not in shown and "not reached" not in shown
    (kept,) = left_in(tmp_path / "runs")
    assert sorted(path.name for path in kept.iterdir()) == ["tiny.ipynb", "tiny.log", "working"]
    for name in ("tiny.log", "tiny.ipynb"):
        assert "ZeroDivisionError" in (kept / name).read_text()


def test_a_notebook_that_exits_with_an_error_or_dies_fails(run_cells, capfd):
    with pytest.raises(LocalRunError, match="the notebook failed"):
        run_cells("import sys; sys.exit('no tiles found')")
    assert "no tiles found" in capfd.readouterr().out
    with pytest.raises(LocalRunError, match="the notebook failed"):
        run_cells("# Train", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert re.search(r"\] Train: the notebook's process died", capfd.readouterr().out)


LINGER = """
    import os, pathlib, subprocess, sys, time
    command = [sys.executable, "-c", "import time; time.sleep(1000)", "lingers in", os.getcwd()]
    child = subprocess.Popen(command, start_new_session=True)
    print("lingering", flush=True)
    time.sleep(1000)
"""


def test_a_time_limit_ends_the_notebook_and_all_that_it_started(run_cells, capfd, tmp_path):
    for minutes in (0.07, 0.28, 1.12, 4.48):  # a busy machine has not even begun when the first is over
        began = time.monotonic()
        with pytest.raises(LocalRunError, match=rf"(?s)limit of {minutes} minutes.*kept to look at"):
            run_cells(LINGER, minutes=minutes)
        assert time.monotonic() - began < 60 * minutes + 300  # the cell itself would take 1,000 s
        if begun := "lingering\n" in capfd.readouterr().out:
            break
    assert begun and lingering(tmp_path) == []
    assert processes_in(tmp_path) == []


@pytest.mark.parametrize(
    "sent, status",
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_leaves_no_process_and_no_run(sent, status, competition, tmp_path):
    namespaces_work = processes.namespaces_refused(tmp_path) == ""
    process = start_command(tmp_path, [LINGER], ["tiny", "--data", str(competition), "--runs", str(tmp_path / "runs")])
    try:
        wait_for_line(process, r"(lingering)")
        (child,) = lingering(tmp_path)
        os.kill(process.pid, sent)
        process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status
    deadline = time.monotonic() + 120  # after SIGKILL it is the orphans that have to notice
    while processes_in(tmp_path, "ipykernel") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_in(tmp_path, "ipykernel") == []
    if sent is signal.SIGKILL and namespaces_work:
        while lingering(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
    visible = [path.name for path in (tmp_path / "runs").glob("[!.]*")]
    assert visible == []
    if sent is signal.SIGKILL and not namespaces_work:
        os.kill(child, signal.SIGKILL)  # nobody was left to end this one
    assert lingering(tmp_path) == []
    assert sent is signal.SIGKILL or left_in(tmp_path / "runs") == []


def start_command(folder, cells, arguments):
    """Starts run_local.py's main in a process of its own, with the given cells in place of a built kernel."""
    script = f"""
        import pathlib, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in all that a shell starts behind an "&"
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from desk.local import kernels
        from scripts import run_local
        from test_run_local import SETTINGS_CELL, write_notebook
        kernels.build_notebook = lambda program, out: write_notebook(program, out, SETTINGS_CELL, {cells!r})
        run_local.kernel_competitions = lambda program: ["some-competition"]
        sys.exit(run_local.main({arguments!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_line(process, pattern):
    seen = ""
    for line in process.stdout:
        seen += line
        if found := re.search(pattern, line):
            return found.group(1)
    raise AssertionError(f"{pattern} not in {seen}")


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def lingering(folder):
    """The children that LINGER started in a folder."""
    lines = {process.pid: words_of(process) for process in psutil.process_iter()}
    return [pid for pid, words in lines.items() if "lingers in" in words and words[-1].startswith(str(folder))]


def processes_in(folder, word=""):
    """Command lines of the processes whose HOME lies in a folder."""
    found = [process for process in psutil.process_iter() if (processes.home_of(process) or "").startswith(str(folder))]
    lines = [" ".join(process.cmdline()) for process in found if alive(process.pid)]
    return [line for line in lines if word in line]


def test_a_notebook_without_manifest_is_no_run(run_cells, tmp_path):
    with pytest.raises(LocalRunError, match=r"(?s)the working folder: no manifest.json.*kept"):
        run_cells("print('done')")
    assert [path.suffix for path in left_in(tmp_path / "runs")] == [".failed"]


def test_a_manifest_of_another_run_is_refused(run_cells):
    with pytest.raises(LocalRunError, match="is of run 'another', not 'tiny-smoke-"):
        run_cells("RUN_ID = 'another'", FINISH)


def test_outputs_that_do_not_match_their_manifest_are_refused(run_cells):
    with pytest.raises(LocalRunError, match=r"oof.npz has 7 bytes, not 5"):
        write = "import pathlib; pathlib.Path('oof.npz').write_text('{}')"
        run_cells(write.format("whole"), FINISH, write.format("changed"))


# --- runs that are resumed ------------------------------------------------------------------------------------------

BEGIN = f"""
    import json, pathlib
    pathlib.Path("state").mkdir()
    pathlib.Path("state/run.json").write_text(json.dumps({{"config": {config_to_dict(preset("smoke", seed=7))!r}}}))
    pathlib.Path("state/epoch-00002.weights.h5").write_text("two epochs")
"""
RESUME = """
    import json, pathlib
    mount = pathlib.Path("../input/notebooks/local/salt-tiny")
    found = {path.relative_to(mount).as_posix(): path.read_text() for path in sorted(mount.rglob("*.*"))}
    manifest = json.loads(found.pop("manifest.json"))
    facts = [RESUME, SET["seed"], SET["limit_minutes"], manifest["run_id"], manifest["finished"], found]
    pathlib.Path("facts.json").write_text(json.dumps(facts))
"""
SETTINGS_WITH_RESUME = 'PRESET = "unet"\nSET = {}\nRUN_ID = ""\nRESUME = ""'


def resume_run(run_id, run_cells):
    """What a notebook that resumes a run finds: see RESUME."""
    folder = run_cells(
        RESUME, FINISH, settings_cell=SETTINGS_WITH_RESUME, resume=run_id, settings={"limit_minutes": 5.0}
    )
    assert re.fullmatch(r"tiny-resumed-\d{8}-\d{6}-[0-9a-f]{4}", folder.name)
    resumed, seed, limit, mounted, finished, files = json.loads((folder / "facts.json").read_text())
    assert (resumed, seed, limit, mounted, finished) == (run_id, 7, 5.0, run_id, False)
    return files


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_in_training_can_be_resumed(sent, competition, tmp_path, run_cells):
    arguments = ["tiny", "--data", str(competition), "--runs", str(tmp_path / "runs")]
    process = start_command(tmp_path, [BEGIN, LINGER], arguments)
    try:
        run_id = wait_for_line(process, r"(tiny-smoke-\S+): ")
        wait_for_line(process, r"(lingering)")
        with pytest.raises(LocalRunError, match=f"{run_id} still runs"):
            run_cells(RESUME, settings_cell=SETTINGS_WITH_RESUME, resume=run_id)
        os.kill(process.pid, sent)
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (f"resume it by --resume {run_id}" in said) == (sent is signal.SIGTERM)
    files = resume_run(run_id, run_cells)
    assert lingering(tmp_path) == []
    assert files.keys() == {"state/run.json", "state/epoch-00002.weights.h5"}
    assert files["state/epoch-00002.weights.h5"] == "two epochs"
    assert not [path for path in left_in(tmp_path / "runs") if path.name.startswith(".")]
    assert (tmp_path / "runs" / f"{run_id}.failed" / "working" / "manifest.json").is_file()


def test_a_run_that_failed_or_ran_too_long_after_it_began_to_train_can_be_resumed(run_cells, tmp_path):
    with pytest.raises(LocalRunError, match=r"(?s)the notebook failed.*resume it by --resume tiny-smoke-\S+$"):
        run_cells(BEGIN, "1 / 0")
    (failed,) = left_in(tmp_path / "runs")
    assert resume_run(failed.stem, run_cells).keys() == {"state/run.json", "state/epoch-00002.weights.h5"}


@pytest.mark.slow  # two notebooks
def test_the_beginning_of_a_name_is_enough_to_resume_a_run(run_cells, tmp_path):
    with pytest.raises(LocalRunError, match="the notebook failed"):
        run_cells(BEGIN, "1 / 0")
    (failed,) = left_in(tmp_path / "runs")
    settings = {"limit_minutes": 5.0}
    options = {"settings_cell": SETTINGS_WITH_RESUME, "resume": "tiny-smoke", "settings": settings}
    folder = run_cells(RESUME, FINISH, **options)
    assert json.loads((folder / "facts.json").read_text())[0] == failed.stem
    shutil.copytree(failed, failed.with_name("tiny-smoke-20261122-131502-ab12.failed"))
    with pytest.raises(LocalRunError, match=f"which of these is meant: tiny-smoke-20261122-131502-ab12, {failed.stem}"):
        run_cells(RESUME, FINISH, **options)


def test_a_run_that_says_that_it_is_not_finished_is_kept_as_a_run(competition, tmp_path, run_cells):
    files = FINISH.replace("path.name:", "str(path):").replace('Path(".").iterdir()', 'Path("state").iterdir()')
    cells = [BEGIN, files.replace('"config": {}', '"config": {}, "finished": False')]
    process = start_command(tmp_path, cells, ["tiny", "--data", str(competition), "--runs", str(tmp_path / "runs")])
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert re.search(r"not finished: runs/(tiny-\S+)\nresume it by --resume \1\n$", said)


def test_what_cannot_be_resumed_is_refused(run_cells, tmp_path):
    with pytest.raises(LocalRunError, match="--resume nothing: no such run in "):
        run_cells(settings_cell=SETTINGS_WITH_RESUME, resume="nothing")
    write_run(tmp_path / "runs" / "train-smoke-1")
    with pytest.raises(LocalRunError, match="has no state: it is finished, or had not begun to train"):
        run_cells(settings_cell=SETTINGS_WITH_RESUME, resume="train-smoke-1")


# --- bad input: found before anything runs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"settings": {"epoch": 3}}, "setting 'epoch' does not exist"),
        ({"settings": {"epochs": "many"}}, "epochs='many': must be int"),
        ({"settings": {"epochs": 0}}, "epochs=0: must lie between"),
        ({"preset": "tiny"}, "preset 'tiny' does not exist"),
    ],
)
def test_a_bad_setting_is_refused_at_once(run_cells, monkeypatch, changes, message):
    monkeypatch.setattr(kernels, "execute", lambda *_: pytest.fail("the notebook was started"))
    with pytest.raises(ConfigError, match=message):
        run_cells(**changes)


def test_settings_of_a_kernel_without_preset_are_checked_against_the_run_that_it_mounts(run_cells, tmp_path):
    earlier = write_run(tmp_path / "earlier")
    manifest = json.loads((earlier / "manifest.json").read_text())
    (earlier / "manifest.json").write_text(json.dumps({**manifest, "config": {"folds": 7, "train_folds": [6]}}))
    with pytest.raises(ConfigError, match=r"train_folds=\(6,\): with folds=5"):
        run_cells(settings_cell="SET = {}\nRUN_ID = ''", mounted_runs=[earlier], settings={"folds": 5})


def test_a_second_round_finds_the_predictions_that_it_learns_from_and_keeps_its_own_preset(run_cells, tmp_path):
    earlier = write_run(tmp_path / "earlier", "predict-1", kernel="predict")
    mounted = "json.loads(pathlib.Path('../input/notebooks/local/salt-predict/manifest.json').read_text())['run_id']"
    folder = run_cells(
        f"import json, pathlib\npathlib.Path('found.json').write_text(json.dumps([PRESET, SET, {mounted}]))",
        FINISH, mounted_runs=[earlier], settings={"pseudo": 0.25},
    )  # fmt: skip
    assert json.loads((folder / "found.json").read_text()) == ["smoke", {"pseudo": 0.25}, "predict-1"]


def test_a_parameter_that_the_kernel_does_not_have_is_refused(run_cells):
    with pytest.raises(LocalRunError, match="no PRESET in its parameters cell, which has SET, RUN_ID"):
        run_cells(settings_cell="SET = {}\nRUN_ID = ''", preset="smoke")


def test_settings_are_literals_of_json_or_python_or_else_text():
    pairs = ["epochs=5", "weights=a=b.h5", "train_folds=(0, 1)", "flip=False", "gpu=false", "dropout=.1", "tta=none"]
    assert parse_settings(pairs) == {
        "epochs": 5, "weights": "a=b.h5", "train_folds": (0, 1), "flip": False, "gpu": False, "dropout": 0.1,
        "tta": "none",
    }  # fmt: skip
    with pytest.raises(SettingError, match="--set epochs: must be key=value"):
        parse_settings(["epochs"])


def test_an_unknown_kernel_is_refused(tmp_path, competition, capsys):
    assert run_local.main(["trian", "--data", str(competition), "--runs", str(tmp_path)]) == 1
    assert "kernel 'trian' does not exist; kernels/ has" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--data", "x", "--synthetic", "8"], "not allowed with argument"),
        (["train"], "one of the arguments --data --synthetic is required"),
        (["train", "--synthetic", "8", "--tiles", "8"], "--tiles N takes a part of --data DIR"),
        (["train", "--synthetic", "8", "--resume", "x", "--preset", "smoke"], "leave out --preset"),
    ],
)
def test_contradictory_options_are_refused(arguments, message, capsys):
    assert run_local.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_missing_or_holds_no_competition_is_refused(run_cells, tmp_path):
    with pytest.raises(LocalRunError, match="nowhere: does not exist"):
        run_cells(data=tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="photos"):
        run_cells(data=tmp_path / "photos")
    with pytest.raises(LocalRunError, match="either --data DIR or --synthetic N"):
        run_cells(data=tmp_path, synthetic=8)


def test_an_earlier_run_that_is_missing_or_damaged_is_refused(run_cells, tmp_path):
    with pytest.raises(ConfigurationError, match="nothing: there is no such run; there are: none"):
        run_cells(mounted_runs=["nothing"])
    folder = write_run(tmp_path / "runs" / "earlier")
    (folder / "oof.npz").write_bytes(b"predictionz")
    with pytest.raises(ArtifactError, match="oof.npz has another SHA-256"):
        run_cells(mounted_runs=["earlier"])
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="no manifest.json"):
        run_cells(mounted_runs=["earlier"])


def test_weights_that_are_not_there_are_refused(run_cells, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(LocalRunError, match=f"{folder}: must be a folder that holds files"):
            run_cells(weights=tmp_path / folder)


def test_what_was_begun_is_cleared_away_when_the_input_is_bad(run_cells, tmp_path):
    with pytest.raises(DataError):
        run_cells(data=tmp_path)
    assert left_in(tmp_path / "runs") == []


# --- competitions ---------------------------------------------------------------------------------------------------


def test_an_extracted_competition_is_mounted_as_it_is_without_what_lies_beside_it(competition, tmp_path):
    source = tmp_path / "extracted"
    shutil.copytree(competition, source, ignore=shutil.ignore_patterns("*.zip"))
    for split in ("train", "test"):
        with zipfile.ZipFile(competition / f"{split}.zip") as archive:
            archive.extractall(source / split)
    (source / "my notes.txt").write_text("not the competition's")
    mount_competition(TGS, source, tmp_path / "root")
    (mount,) = (tmp_path / "root" / "input" / "competitions").iterdir()
    assert sorted(path.name for path in mount.iterdir()) == [
        "depths.csv", "sample_submission.csv", "test", "train", "train.csv",
    ]  # fmt: skip
    assert len(read_train(find_competition([mount], TGS), progress=False).ids) == 40


def test_a_part_of_a_competition_holds_each_coverage_class_at_its_share(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    part = find_competition([competitions.part_of_competition(TGS, competition, 20)], TGS)
    all_tiles, tiles = (
        read_train(find_competition([competition], TGS), progress=False),
        read_train(part, progress=False),
    )
    assert len(tiles.ids) == 20 and len(read_test(part, progress=False).ids) == 5
    found = [list(all_tiles.ids).index(tile_id) for tile_id in tiles.ids]
    np.testing.assert_array_equal(tiles.masks, all_tiles.masks[found])
    np.testing.assert_array_equal(tiles.images, all_tiles.images[found])
    np.testing.assert_array_equal(tiles.depths, all_tiles.depths[found])
    wanted = np.bincount(coverage_class(all_tiles.masks), minlength=11) / 2
    assert np.abs(np.bincount(coverage_class(tiles.masks), minlength=11) - wanted).max() < 1


def test_a_part_is_made_once_until_the_source_changes(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    source = shutil.copytree(competition, tmp_path / "source")
    first = competitions.part_of_competition(TGS, source, 8)
    before = processes.fingerprints(first)
    write_part = competitions.write_part
    monkeypatch.setattr(competitions, "write_part", lambda *_: pytest.fail("made again"))
    assert competitions.part_of_competition(TGS, source, 8) == first
    monkeypatch.setattr(competitions, "write_part", write_part)
    os.utime(source / "train.csv", (0, 0))
    second = competitions.part_of_competition(TGS, source, 8)
    assert second != first and processes.fingerprints(second) == before  # the same tiles every time


def test_more_tiles_than_there_are_is_refused(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    with pytest.raises(LocalRunError, match="--tiles 41: .* has 40 training tiles"):
        competitions.part_of_competition(TGS, competition, 41)
    with pytest.raises(LocalRunError, match="--synthetic 7: at least 8"):
        competitions.competition_folder(TGS, synthetic=7)


def fill_the_disk(*_):
    raise OSError(errno.ENOSPC, "disk full")


def test_a_synthetic_competition_is_made_once_and_never_half(tmp_path, monkeypatch):
    import salt.layout

    monkeypatch.setattr(paths, "BUILD", tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(salt.layout, "write_text_table", fill_the_disk)
        with pytest.raises(OSError, match="disk full"):
            competitions.synthetic_competition(TGS, 8)
    folder = competitions.synthetic_competition(TGS, 8)
    assert len(read_train(find_competition([folder], TGS), progress=False).ids) == 8
    assert len(read_test(find_competition([folder], TGS), progress=False).ids) == 2
    monkeypatch.setattr(competitions, "write_synthetic", lambda *_, **__: pytest.fail("made again"))
    assert competitions.synthetic_competition(TGS, 8) == folder


# --- the command ----------------------------------------------------------------------------------------------------


def test_help_imports_neither_tensorflow_nor_opencv_nor_papermill():
    script = f"""
        import runpy, sys
        sys.argv = ["run_local.py", "--help"]
        try:
            runpy.run_path({str(ROOT / "scripts" / "run_local.py")!r}, run_name="__main__")
        except SystemExit as stopped:
            assert stopped.code == 0
        print({{"tensorflow", "keras", "cv2", "numpy", "papermill", "nbconvert"}} & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "--synthetic N" in done.stdout and done.stdout.endswith("set()\n")


def test_the_defaults_of_the_command_are_kaggles_limit_and_the_repositorys_runs():
    options = run_local.parse_arguments(["train", "--synthetic", "48"])
    assert isinstance(options, argparse.Namespace)
    assert (options.minutes, options.runs, options.sandbox) == (720, ROOT / "runs", "auto")
