"""The local Kaggle stand-in: builds a kernel's notebook and runs it at the desk as Kaggle would.

    python scripts/run_local.py train --data path/to/tgs --preset unet --set epochs=20
    python scripts/run_local.py predict --data path/to/tgs --run train-unet-20261122-131502-ab12
    python scripts/run_local.py train --data path/to/tgs --set pseudo=0.3 --run predict-20261122-141502-cd34
    python scripts/run_local.py train --data path/to/tgs --resume train-unet-20261122-131502-ab12

The notebook finds `../input` laid out like Kaggle's mounts and read-only, `salt` nowhere and no network (sandbox.py).
What it leaves in its working folder is checked against its manifest.json and becomes `runs/<run id>/`, together with
the executed notebook, as .ipynb and .html, and its log. A run that fails leaves `runs/<run id>.failed/` to look at
instead. One that was interrupted, killed, or stopped by its time limit can be gone on with, if it had begun to train.
"""

import argparse
import ast
import codecs
import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BUILD = ROOT / "build"  # of what can be made again
SANDBOX = ROOT / "scripts" / "sandbox.py"
COMPETITION = "tgs-salt-identification-challenge"
OWNER = "local"  # of every kernel and dataset, as far as the stand-in is concerned
TEST_SHARE = 4  # one test tile for so many training tiles
GRACE = 2.0  # seconds that a failed notebook's last words may take to arrive

# What the notebook's process gets of this one's environment; a trailing "*" stands for any ending. Nothing else passes:
# no credentials, no proxies, no matplotlib backend (the kernel sets its own), no Python or Jupyter paths.
ENVIRONMENT = (
    "PATH", "LANG", "LC_*", "TERM", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "KERAS_BACKEND", "TF_*", "JAX_*", "XLA_*",
    "CUDA_*", "NVIDIA_*", "OMP_*", "OPENBLAS_*", "MKL_*",
)  # fmt: skip


class LocalRunError(Exception):
    """A local run that cannot start, or did not come to a good end. The message says what to do."""


# --- the command ----------------------------------------------------------------------------------------------------


def main(arguments=None) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that what was begun is cleared away
    try:
        folder = run_kernel(
            options.name, data=options.data, synthetic=options.synthetic, tiles=options.tiles, preset=options.preset,
            settings=parse_settings(options.set), mounted_runs=options.run, weights=options.weights,
            minutes=options.minutes, runs=options.runs, sandbox=options.sandbox, resume=options.resume,
        )  # fmt: skip
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (LocalRunError, ValueError, OSError) as error:  # salt's errors are ValueErrors that say which input is bad
        print(f"error: {error}", file=sys.stderr)
        return 1
    finished = json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("finished", True)
    print(f"\n{'finished' if finished else 'not finished'}: {shown(folder)}")
    if not finished:
        print(f"go on with --resume {folder.name}")
    return 0


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build a kernel's notebook and run it at the desk as Kaggle would; outputs go to runs/<run id>/.",
        epilog="example: python scripts/run_local.py train --synthetic 400 --preset demo --set epochs=5",
    )
    parser.add_argument("name", metavar="NAME", help="the kernel: the name of a file in kernels/, without .py")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="DIR", type=pathlib.Path, help="folder of the competition, zips or extracted")
    source.add_argument("--synthetic", metavar="N", type=int, help="make up N training and N/4 test tiles")
    parser.add_argument("--tiles", metavar="N", type=int, help="mount only N training and N/4 test tiles of DIR")
    parser.add_argument("--preset", metavar="P", help="settings to begin with (salt/config.py lists the presets)")
    parser.add_argument("--set", metavar="key=value", action="extend", nargs="+", default=[], help="change settings")
    parser.add_argument(
        "--run", metavar="RUN", action="extend", nargs="+", default=[],
        help="mount the outputs of these earlier runs, folders or names of folders in RUNS: of train for predict, of "
        "predict for a train that learns from its predictions",
    )  # fmt: skip
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with this unfinished run, with its settings; --set may give it more time"
    )
    parser.add_argument("--weights", metavar="DIR", type=pathlib.Path, help="mount this folder as a dataset of weights")
    parser.add_argument("--minutes", metavar="LIMIT", type=float, default=720, help="time limit (default: 720)")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where runs are kept (default: runs)")
    parser.add_argument(
        "--sandbox", choices=("auto", "namespaces", "guard"), default="auto",
        help="how the notebook is walled in; auto takes namespaces where the system allows them",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.tiles is not None and options.data is None:
        parser.error("--tiles N takes a part of --data DIR; with --synthetic, say --synthetic N")
    if options.resume is not None and options.preset is not None:
        parser.error("--resume RUN goes on with the settings of RUN: leave out --preset")
    return options


def parse_settings(pairs) -> dict:
    """{"epochs": 5, "weights": "vgg16.h5"} from ["epochs=5", "weights=vgg16.h5"]."""
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise LocalRunError(f"--set {pair}: must be key=value, such as epochs=5")
        settings[key] = parse_value(text)
    return settings


def parse_value(text):
    """A value in JSON's spelling or Python's ("false", "False", "[0, 1]", "(0, 1)", ".5"); anything else is text."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return parse(text)
    return text


def shown(path) -> str:
    """A path as short as it can be, seen from the working directory."""
    path = pathlib.Path(path).resolve()
    return str(path.relative_to(pathlib.Path.cwd())) if path.is_relative_to(pathlib.Path.cwd()) else str(path)


# --- a run ----------------------------------------------------------------------------------------------------------


def run_kernel(
    name, *, data=None, synthetic=None, tiles=None, preset=None, settings=None, mounted_runs=(), weights=None,
    minutes=720.0, runs=ROOT / "runs", sandbox="auto", resume=None,
) -> pathlib.Path:  # fmt: skip
    """Builds and runs one kernel.

    Args:
        name: of a file in `kernels/`, without `.py`.
        data, synthetic, tiles: which competition to mount, see `competition_folder`.
        preset: replaces the kernel's own `PRESET`, if given.
        settings: replaces the kernel's own `SET`, if given.
        mounted_runs: folders of earlier runs, or their names in `runs`.
        weights: a folder to mount as a dataset.
        minutes: time limit of the notebook.
        runs: where the run's folder is made.
        sandbox: "namespaces", "guard", or "auto" for the first that works here.
        resume: name of an unfinished run in `runs`, whose output is mounted and whose settings are taken over.

    Returns:
        The run's folder, verified.

    Raises:
        LocalRunError, ValueError: bad input, found before the notebook starts; or the notebook failed, ran too long,
            or left something else than its manifest says.
    """
    runs = pathlib.Path(runs).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    # Beside the finished runs, so that a rename makes a finished run of it; hidden, because it is none yet.
    root = pathlib.Path(tempfile.mkdtemp(prefix=f".{name.replace('/', '-')}-", dir=runs))
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: remove(root))
        stack.enter_context(hold(root))
        metadata = build_notebook(name, root / "built")
        earlier = verified_runs(mounted_runs, runs)
        begun = None if resume is None else unfinished_run(name, resume, runs)
        if begun is not None:
            settings = {**begun[1]["config"], **(settings or {})}
        notebook = root / "built" / name / f"{name}.ipynb"
        parameters = choose_parameters(name, notebook, preset, settings, earlier, begun and begun[1]["run_id"])
        run_id = parameters["RUN_ID"]
        root = root.rename(runs / f".{run_id}")  # by this name --resume finds it after a kill
        check_weights(weights)
        mode, why = choose_sandbox(sandbox, root)
        mount_competition(competition_folder(data, synthetic, tiles), root)
        mount_runs([*earlier, begun] if begun else earlier, {name: metadata}, root)
        if weights is not None:
            copy(pathlib.Path(weights), root / "input" / "datasets" / OWNER / "salt-weights")
        print(f"{run_id}: {why}; at most {minutes:g} minutes", flush=True)
        try:
            execute(name, root, parameters, mode, minutes)
            verify_outputs(name, root / "working", run_id)
        except (LocalRunError, ValueError) as error:
            failed = keep_failed(name, root, runs / f"{run_id}.failed")
            message = str(error).replace(str(root / "working"), "the working folder")
            more = f"\ngo on with --resume {run_id}" if can_resume(failed / "working") else ""
            raise LocalRunError(f"{message}\nkept to look at: {shown(failed)}{more}") from error
        except (KeyboardInterrupt, SystemExit):
            if can_resume(root / "working"):
                failed = keep_failed(name, root, runs / f"{run_id}.failed")
                print(f"\nkept: {shown(failed)}\ngo on with --resume {run_id}", file=sys.stderr)
            raise
        return keep_finished(name, root, runs / run_id)


def build_notebook(name, out) -> dict:
    """Builds `out`/NAME/NAME.ipynb and returns the content of the kernel-metadata.json beside it."""
    kernels = sorted(path.stem for path in (ROOT / "kernels").glob("*.py"))
    if name not in kernels:
        raise LocalRunError(f"kernel {name!r} does not exist; kernels/ has {', '.join(kernels) or 'none'}")
    from build_kernel import BuildError, build_kernel

    try:
        folder = pathlib.Path(build_kernel(name, owner=OWNER, out=out))
    except BuildError as error:
        raise LocalRunError(f"kernel {name} cannot be built: {error}") from error
    return json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))


def choose_parameters(name, notebook, preset, settings, earlier, resume=None) -> dict:
    """What replaces the values in the notebook's parameters cell; checked here, where it costs no run.

    Raises:
        LocalRunError: the kernel has no such parameter.
        ConfigError: an unknown setting, a wrong type, a value out of range.
    """
    default = read_parameters(notebook)
    given = {"PRESET": preset, "SET": settings or None, "RESUME": resume}
    parameters = {key: value for key, value in given.items() if value is not None}
    for key in (*parameters, "RUN_ID"):
        if key not in default:
            present = ", ".join(default) or "none"
            raise LocalRunError(f"kernel {name} has no {key} in its parameters cell, which has {present}")
    chosen = parameters.get("PRESET", default.get("PRESET"))
    check_settings(chosen, parameters.get("SET") or default.get("SET") or {}, earlier)
    return parameters | {"RUN_ID": new_run_id(name, "resumed" if resume else chosen)}


def check_settings(preset, settings, earlier):
    """Raises `ConfigError` for what the notebook would refuse: changes of a preset, or of the run it goes on from."""
    from salt.config import config_from_dict
    from salt.config import preset as salt_preset

    if preset is None and earlier:
        config_from_dict({**earlier[0][1]["config"], **settings})
    else:
        salt_preset("unet" if preset is None else preset, **settings)


def read_parameters(notebook) -> dict:
    """The constants in the cell tagged "parameters" of a notebook, by name."""
    cells = json.loads(pathlib.Path(notebook).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    values = {}
    for statement in ast.parse("\n".join(sources)).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                values[statement.targets[0].id] = None  # computed: it can be replaced, but not read from here
    return values


def new_run_id(name, preset=None) -> str:
    """Such as "train-unet-20261122-131502-ab12": sorts by time, and two runs in one second still differ."""
    now = datetime.datetime.now(datetime.UTC)
    return "-".join(filter(None, (name, preset, f"{now:%Y%m%d-%H%M%S}", secrets.token_hex(2))))


# --- inputs ---------------------------------------------------------------------------------------------------------


def competition_folder(data=None, synthetic=None, tiles=None) -> pathlib.Path:
    """The folder whose competition is to be mounted.

    Args:
        data: a folder that holds a competition.
        synthetic: instead, how many synthetic training tiles to make; a quarter as many test tiles come with them.
        tiles: of `data`, take only so many training tiles and a quarter as many test tiles.
    """
    if (data is None) == (synthetic is None):
        raise LocalRunError("give either --data DIR or --synthetic N, and not both")
    if synthetic is not None:
        return synthetic_competition(synthetic)
    data = pathlib.Path(data)
    if not data.is_dir():
        raise LocalRunError(f"--data {data}: {'is not a folder' if data.exists() else 'does not exist'}")
    return data if tiles is None else part_of_competition(data, tiles)


def synthetic_competition(count) -> pathlib.Path:
    """A synthetic competition, made once and kept in build/synthetic/ until the code that makes it changes."""
    check_count("--synthetic", count)
    folder = BUILD / "synthetic" / f"{count}-{code_digest('synthetic', 'data', 'rle')}"
    if not folder.exists():  # it gets this name when it is whole
        from salt.synthetic import write_synthetic

        print(f"making a synthetic competition of {count} training tiles", flush=True)
        write_synthetic(folder, train=count, test=count // TEST_SHARE, seed=0, progress=True)
    return folder


def part_of_competition(data, count) -> pathlib.Path:
    """Some tiles of a competition as a competition, kept in build/tiles/ until the files that it is made of change."""
    check_count("--tiles", count)
    from salt.competition import find_competition

    competition = find_competition([data])
    facts = [(str(path), entry.st_size, entry.st_mtime_ns) for path, entry in competition_files(competition)]
    source = hashlib.sha256(json.dumps([str(competition.folder.resolve()), facts]).encode()).hexdigest()[:12]
    folder = BUILD / "tiles" / f"{count}-{source}-{code_digest('data', 'metrics', 'rle')}"
    if not folder.exists():
        print(f"taking {count} training tiles of {data}", flush=True)
        write_part(competition, count, folder)
    return folder


def write_part(competition, count, folder):
    """Writes `count` training tiles, with every coverage class at its share, and a quarter as many test tiles."""
    import numpy as np

    from salt.data import read_test, read_train
    from salt.layout import write_competition
    from salt.metrics import coverage_class

    train, test = read_train(competition), read_test(competition)
    if count > len(train.ids):
        raise LocalRunError(f"--tiles {count}: {competition.folder} has {len(train.ids)} training tiles; ask for fewer")
    taken = stratified_choice(coverage_class(train.masks), count)
    taken_test = stratified_choice(np.zeros(len(test.ids), int), min(count // TEST_SHARE, len(test.ids)))
    write_competition(
        folder, train.ids[taken], train.images[taken], train.masks[taken], train.depths[taken],
        test.ids[taken_test], test.images[taken_test], test.depths[taken_test],
    )  # fmt: skip


def stratified_choice(classes, count):
    """Indices of `count` items, ascending, of each class its share to within one; the same ones every time."""
    import numpy as np

    shuffled = np.random.default_rng(0).permutation(len(classes))
    by_class = shuffled[np.argsort(np.asarray(classes)[shuffled], kind="stable")]
    # Equal steps through the items in order of class meet each class in proportion to its size.
    return np.sort(by_class[np.arange(count) * len(classes) // max(count, 1)])


def check_count(option, count):
    if count < 2 * TEST_SHARE:
        raise LocalRunError(f"{option} {count}: at least {2 * TEST_SHARE} training tiles are needed")


def code_digest(*modules) -> str:
    """Changes when one of these modules of salt does."""
    digest = hashlib.sha256()
    for name in modules:
        digest.update((ROOT / "salt" / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]


def competition_files(competition):
    """(path within the competition, os.stat_result) of every file of a competition, sorted."""
    for entry in competition_entries(competition):
        for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
            if path.is_file():
                yield path.relative_to(competition.folder), path.stat()


def competition_entries(competition) -> list[pathlib.Path]:
    """The files and folders at the top of a competition's folder that belong to it; other things may lie there too."""
    parts = [competition.train_table, competition.sample_submission, competition.depths_table]
    images = (competition.train_images, competition.train_masks, competition.test_images)
    parts += [part.path for part in images if part is not None]
    tops = {part.relative_to(competition.folder).parts[0] for part in parts if part is not None}
    return [competition.folder / top for top in sorted(tops)]


def mount_competition(data, root):
    from salt.competition import find_competition

    for entry in competition_entries(find_competition([data])):
        copy(entry, root / "input" / "competitions" / COMPETITION / entry.name)


def verified_runs(names, runs) -> list[tuple[pathlib.Path, dict]]:
    """(folder, manifest) of earlier runs, every file of theirs checked.

    Raises:
        LocalRunError: no such folder.
        ArtifactError: a folder that is no run, or whose files do not match its manifest.
    """
    if not names:
        return []
    from salt.artifacts import verify_run

    folders = []
    for name in names:
        candidates = [runs / name, pathlib.Path(name)]
        folder = next((folder for folder in candidates if folder.is_dir()), None)
        if folder is None:
            raise LocalRunError(f"--run {name}: no such folder, neither in {shown(runs)} nor from here")
        folders.append((folder, verify_run(folder)))
    return folders


def unfinished_run(kernel, name, runs) -> tuple[pathlib.Path, dict]:
    """(folder, manifest) of a run that can be gone on with; one that was killed is cleared up first.

    Raises:
        LocalRunError: no such run, one that still runs, or one that had not begun to train.
        ArtifactError: its files do not match its manifest.
    """
    from salt.artifacts import verify_run

    killed, failed = runs / f".{name}", runs / f"{name}.failed"
    if killed.is_dir():
        with hold(killed):
            end_processes(killed / "home")
            keep_failed(kernel, killed, failed)
            remove(killed)
    folder = next((folder for folder in (runs / name, failed / "working") if folder.is_dir()), None)
    if folder is None:
        raise LocalRunError(f"--resume {name}: no such run in {shown(runs)}")
    if not can_resume(folder):
        raise LocalRunError(f"--resume {name}: {shown(folder)} has no state: it is finished, or had not begun to train")
    return folder, verify_run(folder)


def can_resume(working) -> bool:
    """Whether a run's working folder holds what training needs to go on."""
    from salt.resume import STATE_FOLDER

    return (working / STATE_FOLDER / "run.json").is_file()


@contextlib.contextmanager
def hold(root):
    """Locks a run's folder for this process, until the block ends or the process dies.

    Raises:
        LocalRunError: another process is at it.
    """
    with open(root / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalRunError(f"{root.name.lstrip('.')} still runs; wait for it, or end it first") from None
        yield


def mount_runs(earlier, metadata, root):
    """Mounts what Kaggle would: the files of each run's manifest, under the slug of the kernel that made them."""
    for folder, manifest in earlier:
        kernel = manifest["kernel"]
        if kernel not in metadata:
            metadata[kernel] = build_notebook(kernel, root / "built")
        slug = metadata[kernel]["id"].rpartition("/")[2]
        mount = free_name(root / "input" / "notebooks" / OWNER / slug)
        for name in (*manifest["files"], "manifest.json"):
            copy(folder / name, mount / name)


def free_name(path) -> pathlib.Path:
    """The path, or with -2, -3 ... behind it: several runs of one kernel are several kernels on Kaggle."""
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def check_weights(folder):
    if folder is not None and not (pathlib.Path(folder).is_dir() and any(pathlib.Path(folder).iterdir())):
        raise LocalRunError(f"--weights {folder}: must be a folder that holds files of weights")


def copy(source, target):
    """Copies a file or a folder. A copy, not a link: whatever the notebook does, the originals are out of its reach."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)


# --- the notebook's process -----------------------------------------------------------------------------------------


def choose_sandbox(sandbox, root) -> tuple[str, str]:
    """The mode to run in, and a few words on why."""
    if sandbox == "guard":
        return "guard", "no network by an import-time guard"
    reason = namespaces_refused(root)
    if not reason:
        return "namespaces", "no network and read-only inputs by Linux namespaces"
    if sandbox == "namespaces":
        raise LocalRunError(f"--sandbox namespaces: not possible here ({reason}); use --sandbox guard")
    return "guard", f"no network by an import-time guard, since there are no namespaces ({reason})"


def namespaces_refused(folder) -> str:
    """Why the sandbox cannot use namespaces on this machine; "" if it can."""
    with tempfile.TemporaryDirectory(dir=folder) as probed:
        done = subprocess.run([sys.executable, SANDBOX, "probe", probed], capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    return (done.stdout or done.stderr).strip().rpartition("\n")[2] or f"exit status {done.returncode}"


def execute(name, root, parameters, mode, minutes):
    """Runs the notebook of `root` in a process of its own.

    Raises:
        LocalRunError: it failed, ran too long, or changed its inputs.
    """
    (root / "working").mkdir()
    write_home(root / "home")
    write_guard(root / "guard", network=mode == "guard")
    make_read_only(root / "input")
    before = fingerprints(root / "input") if mode == "guard" else None
    process = subprocess.Popen(
        [sys.executable, SANDBOX, mode, name, json.dumps(parameters)],
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


def notebook_environment(root) -> dict:
    """Little of this process's environment, and what marks a batch run on Kaggle."""
    prefixes = tuple(entry[:-1] for entry in ENVIRONMENT if entry.endswith("*"))
    kept = {key: value for key, value in os.environ.items() if key in ENVIRONMENT or key.startswith(prefixes)}
    return {
        **kept,
        "HOME": str(root / "home"),  # empty: no token of Kaggle's, no cache of weights
        "PYTHONPATH": str(root / "guard"),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
    }


def write_home(folder):
    """Makes a home that is empty but for one line: a Jupyter without encryption on loopback is nothing to warn of."""
    profile = folder / ".ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 40\n", encoding="utf-8")


def write_guard(folder, network):
    """Writes a sitecustomize.py, which Python imports at its start, in every process that the notebook starts too."""
    folder.mkdir()
    lines = ["import runpy", f"runpy.run_path({str(SANDBOX)!r}, run_name='guard')['guard'](network={network})", ""]
    (folder / "sitecustomize.py").write_text("\n".join(lines), encoding="utf-8")


def relay_output(process, log, deadline) -> bool:
    """Shows and logs a process's output as it comes; returns whether the process ended before the deadline."""
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


def kill_notebook(process, home):
    """Kills the process and all that came of it."""
    process.kill()
    process.wait()
    process.stdout.close()
    end_processes(home)


def end_processes(home):
    """Kills the processes of a run: they are those whose HOME is the run's.

    Jupyter starts the notebook's process in a session of its own, so that no process group holds them all.
    """
    import psutil

    for _ in range(10):  # one that is killed while it starts another needs a second look
        children = [other for other in psutil.process_iter() if home_of(other) == str(home)]
        if not children:
            return
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, timeout=1)


def home_of(process):
    import psutil

    try:
        return process.environ().get("HOME")
    except (psutil.Error, OSError):
        return None  # another user's, or just gone


def fingerprints(folder) -> dict:
    """{path: SHA-256} of every file in a folder."""
    from salt.files import sha256_file

    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def refuse_changes(name, before, after):
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        raise LocalRunError(f"{name}: changed its inputs, which are read-only on Kaggle: {', '.join(changed[:5])}")


def make_read_only(folder):
    """Takes the write permission off; a help for guard mode only, and root does not feel it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


# --- outputs --------------------------------------------------------------------------------------------------------


def verify_outputs(name, folder, run_id):
    """Raises unless the outputs are those of this very run, whole."""
    from salt.artifacts import verify_run

    found = verify_run(folder)["run_id"]
    if found != run_id:
        remedy = "the kernel must write its RUN_ID there"
        raise LocalRunError(f"{name}: manifest.json is of run {found!r}, not {run_id!r}; {remedy}")


def keep_finished(name, root, folder) -> pathlib.Path:
    """Makes the working folder the run's folder, in one step."""
    working = root / "working"
    os.replace(root / f"{name}.ipynb", working / f"{name}.ipynb")
    os.replace(root / f"{name}.log", working / f"{name}.log")
    try:
        write_html(working / f"{name}.ipynb", working / f"{name}.html")
    except Exception as error:  # whatever nbconvert makes of it: a picture of the run is not worth the run
        print(f"warning: no {name}.html, since nbconvert failed: {error!r}", file=sys.stderr)
    os.rename(working, folder)
    return folder


def keep_failed(name, root, folder) -> pathlib.Path:
    """Keeps what a failed run left: notebook, log and working folder. Its name says that it is no run."""
    if can_resume(root / "working") and not (root / "working" / "manifest.json").is_file():
        seal(name, root / "working", folder.name.removesuffix(".failed"))
    kept = root / "failed"
    kept.mkdir()
    for part in (f"{name}.ipynb", f"{name}.log", "working"):
        if (root / part).exists():
            os.replace(root / part, kept / part)
    os.rename(kept, folder)
    return folder


def seal(name, working, run_id):
    """Writes the manifest of a run that ended before it could: what is there now is what can be gone on with."""
    from salt.artifacts import write_manifest
    from salt.config import config_from_dict
    from salt.resume import STATE_FOLDER

    begun = json.loads((working / STATE_FOLDER / "run.json").read_text(encoding="utf-8"))
    write_manifest(working, run_id, name, config_from_dict(begun["config"]), finished=False)


def write_html(notebook, html):
    from nbconvert import HTMLExporter

    html.write_text(HTMLExporter().from_filename(str(notebook))[0], encoding="utf-8")


def remove(folder):
    """Removes a folder of ours, its read-only inputs too."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
