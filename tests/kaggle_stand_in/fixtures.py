"""What tests take: a stand-in, links to it, a repository whose kernels it runs, and scripts that can be killed."""

import ast
import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from kaggle_stand_in.kaggle import COMPETITION, KEY, USER
from kaggle_stand_in.server import PROXIES, ROOT, WALL, StandIn, put_up_wall


class FakeTime:
    """A clock that only sleeping moves; it remembers each pause."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A `StandIn` that everything in this test talks to, whatever it does."""
    home = tmp_path / "home"
    (home / "wall").mkdir(parents=True)
    lines = "\nsocket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo\n"
    (home / "wall" / "sitecustomize.py").write_text(WALL + lines)
    for name in list(os.environ):
        if name.upper().startswith("KAGGLE_") or name.lower() in (*PROXIES, "no_proxy"):
            monkeypatch.delenv(name)
    served = StandIn()
    for name, value in served.environment(home).items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)
    put_up_wall(monkeypatch)
    served.home = home
    yield served
    served.close()


def make_link(seconds=2.0, **options):
    """A `KaggleLink` that never sleeps, and its `FakeTime`."""
    from desk.kaggle.transport import KaggleLink

    fake = FakeTime()
    said = []
    link = KaggleLink(
        seconds=seconds, clock=fake.clock, sleep=fake.sleep, jitter=lambda: 0.5, say=said.append, **options
    )
    link.said, link.time = said, fake
    return link


KERNEL = f'''\
# /// script
# [tool.kaggle]
# title = "Salt NAME"
# accelerator = "NvidiaTeslaT4"
# competition_sources = ["{COMPETITION}"]
# ///
"""Do something small."""
from salt.config import preset

# %% tags=["parameters"]
'''
TRAIN = 'PRESET = "smoke"\nSET = {}\nRUN_ID = ""\nRESUME = ""\n\n# %%\nprint(RUN_ID, RESUME, preset(PRESET, **SET))\n'
PREDICT = 'SET = {}\nRUN_ID = ""\n\n# %%\nprint(RUN_ID, preset("smoke", **SET))\n'


@pytest.fixture
def repository(stand_in, tmp_path, monkeypatch):
    """A repository with two small kernels, and a Kaggle that runs what is pushed."""
    root = tmp_path / "repository"
    for folder in ("kernels", "salt", "runs"):
        (root / folder).mkdir(parents=True)
    for name in ("__init__.py", "config.py", "machine.py"):
        shutil.copyfile(ROOT / "salt" / name, root / "salt" / name)
    for name, body in (("train", TRAIN), ("predict", PREDICT)):
        (root / "kernels" / f"{name}.py").write_text(KERNEL.replace("NAME", name) + body)
    from desk import paths

    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "BUILD", root / "build")
    stand_in.next_states = ["QUEUED", "RUNNING", "RUNNING", "COMPLETE"]
    stand_in.on_push = lambda version: stand_in.leave_output(version, train_output(tmp_path, version))
    return root


@pytest.fixture
def call(repository, capsys):
    """Calls a script; gives (exit status, what was printed, the link)."""

    def run(script, *arguments, link=None):
        link = link or make_link(seconds=0.5)
        status = script.main([*arguments, "--runs", str(repository / "runs")], link)
        captured = capsys.readouterr()
        text = captured.out + captured.err + "\n".join(link.said)
        assert_no_secret(repository, text=text)
        return status, text, link

    return run


def parameters(version) -> dict:
    """What stands in the settings cell of a pushed notebook."""
    cells = json.loads(version["source"])["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    statements = ast.parse(source).body
    return {statement.targets[0].id: ast.literal_eval(statement.value) for statement in statements}


def train_output(folder, version, **more) -> dict:
    """{name: bytes} of what a run of a pushed train notebook leaves: two tiles for each of its folds."""
    import numpy as np

    from salt.artifacts import Oof, write_manifest, write_oof
    from salt.config import preset
    from salt.metrics import AVERAGE_PRECISION
    from salt.scoring import score_oof

    values = parameters(version)
    config = preset(values["PRESET"], **values["SET"])
    folder = pathlib.Path(tempfile.mkdtemp(prefix=values["RUN_ID"], dir=folder))
    fold = np.repeat(np.array(config.train_folds, np.int8), 2)
    masks = np.zeros((len(fold), 101, 101), np.uint8)
    masks[::2, :50] = 1
    ids = np.array([f"{held_out}{letter}" for held_out in config.train_folds for letter in "ab"])
    oof = Oof(ids, fold, 200 * masks, masks)
    write_oof(folder / "oof.npz", oof)
    for held_out in config.train_folds:
        (folder / f"fold{held_out}.weights.h5").write_bytes(b"weights %d" % held_out)
    rows = [f"{held_out},1,0.5" for held_out in config.train_folds]
    (folder / "history.csv").write_text("\n".join(["fold,epoch,loss", *rows, ""]))
    (folder / "courses.json").write_text(json.dumps({held_out: {"end": 9} for held_out in config.train_folds}))
    more = {"minutes": 61.0, "score": score_oof(oof, AVERAGE_PRECISION), "finished": True, **more}
    write_manifest(folder, values["RUN_ID"], "train", config, **more)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start_script(stand_in, script, *arguments, root=None, prelude="") -> subprocess.Popen:
    """A script in a process of its own, behind the wall.

    Args:
        root: what it takes for the repository; None: this one.
        prelude: code that runs before.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
    name = script.removesuffix(".py")
    code = f"import pathlib, sys; sys.path.insert(0, {str(ROOT)!r}); "
    code += f"from desk import consent, paths; from scripts import {name} as script; "
    code += "consent.at_terminal = lambda: True; "
    code += f"paths.ROOT = pathlib.Path({str(root or ROOT)!r}); paths.BUILD = paths.ROOT / 'build'; "
    command = ["-c", prelude + code + "sys.exit(script.main(sys.argv[1:]))"]
    return subprocess.Popen(
        [sys.executable, *command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environment, **stand_in.environment(stand_in.home)},
    )  # fmt: skip


def make_old(path):
    """Makes a record say that it was sent long ago."""
    record = json.loads(pathlib.Path(path).read_text())
    pathlib.Path(path).write_text(json.dumps(record | {"at": "2026-01-01T00:00:00Z", "up": ""}))


def kill_when_reached(stand_in, process, seconds=300):
    """kill -9, as soon as the process waits for an answer that hangs."""
    deadline = time.monotonic() + seconds
    while not stand_in.reached.wait(0.02):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"it ended before it was reached: {process.communicate()[0]}")
    process.kill()
    process.communicate()
    stand_in.released.set()


def assert_no_secret(*folders, text=""):
    """Fails if a planted secret stands in the text or in any file of the folders."""
    secrets = [KEY, base64.b64encode(f"{USER}:{KEY}".encode()).decode(), "planted-signature"]
    for secret in secrets:
        assert secret not in text
        for folder in folders:
            for path in pathlib.Path(folder).rglob("*"):
                if path.is_file():
                    assert secret.encode() not in path.read_bytes(), f"{path} holds a secret"
