"""A desk and a Kaggle in one process, with a clock of their own, for the state machine of test_round_trips.py.

A verb costs some milliseconds, since nothing is built and no network is between. What must hold is in `check`.
"""

import base64
import collections
import contextlib
import datetime
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import tempfile
import types
import zlib

import numpy as np
from kaggle_stand_in import COMPETITION, KEY, USER, FaultyKaggle, answered_by, parameters
from kaggle_stand_in.kills import Killed, Trap

from desk import paths, planning, records
from desk.kaggle import transport
from desk.kaggle.credentials import Credentials
from desk.kaggle.transport import KaggleLink
from desk.records import read_record
from desk.runs import Run
from desk.states import OPEN, PushRecord, SubmitRecord
from salt.artifacts import Oof, verify_run, write_manifest, write_oof
from salt.config import config_to_dict, preset
from scripts import fetch, push, runs, submit, upload_weights

PLAYED = collections.Counter()  # verbs, kills, full disks, and secrets that were refused
MEMORY = "/dev/shm"
SECONDS = 60.0  # of a run on Kaggle
PREDICT = "predict-20261122-141502-cd34"
PACKED = base64.b85encode(zlib.compress(KEY.encode())).decode()
SPELT = [KEY, base64.b64encode(f"..{KEY}.".encode()).decode(), f"b85decode('{PACKED}')"]  # a secret, in a program
START = datetime.datetime(2026, 11, 29, 12, tzinfo=datetime.UTC)
CREDENTIALS = Credentials("here", username=USER, key=KEY)
METADATA = {
    "title": "Salt train", "code_file": "train.ipynb", "language": "python", "kernel_type": "notebook", "keywords": [],
    "is_private": True, "enable_gpu": True, "enable_tpu": False, "enable_internet": True, "dataset_sources": [],
    "competition_sources": [COMPETITION], "kernel_sources": [], "model_sources": [], "machine_shape": "NvidiaTeslaT4",
}  # fmt: skip


class Call:
    """A thread that is none: `start` does it."""

    def __init__(self, target, args, daemon):
        self.start = lambda: target(*args)


class Link(KaggleLink):
    """A link whose every question is a point at which the process may die."""

    trap = Trap()

    def ask(self, *words, **named):
        self.trap.reach(lambda: None)
        answer = super().ask(*words, **named)
        self.trap.reach(lambda: None)
        return answer


class World:
    """Everything that a sequence of verbs changes."""

    def __init__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="world-", dir=MEMORY if os.path.isdir(MEMORY) else None))
        self.runs = self.root / "runs"
        self.time, self.clock_error, self.numbers = 1000.0, 0.0, itertools.count(1)
        self.wrong, self.verb = [], ""
        self.known, self.whole, self.uploaded, self.scored = {}, set(), {}, {}
        self.closing = contextlib.ExitStack()
        self.closing.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.kaggle = kaggle = FaultyKaggle()
        kaggle.clock, kaggle.seconds, kaggle.on_push = lambda: self.time, SECONDS, self.on_push
        kaggle.competitions[COMPETITION]["sample_submission.csv"] = b"id,rle_mask\na,1 1\nb,1 1\n"
        self.outcome, self.altered = "COMPLETE", set()
        self.leak, self.looked_at = "", 0
        for name in ("do_create_submission", "save_dataset"):
            setattr(kaggle, name, getattr(self, f"watch_{name}")(getattr(kaggle, name)))
        for module, name, value in [
            (records, "now", lambda: START + datetime.timedelta(seconds=self.time + self.clock_error)),
            (records, "since_boot", lambda: ("boot", self.time)), (planning, "build_notebook", self.build),
            (planning, "kernel_preset", lambda program: "smoke"), (planning, "new_run_id", self.new_run_id),
            (transport, "threading", types.SimpleNamespace(Thread=Call)), (paths, "ROOT", self.root),
            (paths, "BUILD", self.root / "build"),
        ]:  # fmt: skip
            self.closing.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        self.closing.enter_context(answered_by(kaggle))
        self.make_files()

    def make_files(self):
        (self.root / "kernels").mkdir()
        (self.root / "kernels" / "train.py").write_text("")
        for name in ("a.h5", "b.h5"):
            (self.root / name).write_bytes(name.encode() * 9)
        (self.root / "secret.h5").write_bytes(b"\0\xff" + KEY.encode())
        folder = self.runs / PREDICT
        folder.mkdir(parents=True)
        (folder / "submission.csv").write_text("id,rle_mask\na,1 101\nb,\n")
        write_manifest(folder, PREDICT, "predict", preset("smoke"))
        (folder / "notes.txt").write_text("of a person")

    def new_run_id(self, kernel, preset=None):
        return f"{kernel}-smoke-20261129-120000-{next(self.numbers):04x}"

    def build(self, program, owner, out, *, preset=None, settings=None, run_id="", resume=""):
        """In the place of the flattener."""
        folder = pathlib.Path(out) / "train"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"PRESET = {json.dumps(preset)}",
            f"SET = {settings!r}",
            f'RUN_ID = "{run_id}"',
            f'RESUME = "{resume}"',
            f"# {self.leak}",
        ]
        cell = {"cell_type": "code", "source": "\n".join(lines), "metadata": {"tags": ["parameters"]}}
        notebook = {"cells": [cell], "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4}
        (folder / "train.ipynb").write_text(json.dumps(notebook))
        (folder / "kernel-metadata.json").write_text(json.dumps(METADATA | {"id": f"{owner}/salt-train"}))
        return folder, []

    # what happens on Kaggle

    def on_push(self, version):
        values = parameters(version)
        failed = self.outcome != "COMPLETE"
        version.update(states=["QUEUED", "RUNNING", self.outcome], altered=bool(self.altered), content=plain(version))
        version["files"] = {} if failed else output(values)
        version["log"] = json.dumps([{"time": 60.0, "data": "done\n"}])
        for versions in self.kaggle.kernels.values():
            for other in versions:
                if other is not version and parameters(other)["RUN_ID"] == values["RUN_ID"]:
                    ended_badly = not self.kaggle.is_active(other) and (other["states"][-1] != "COMPLETE")
                    if not (ended_badly or other["altered"]):
                        self.wrong.append(f"{values['RUN_ID']} was pushed twice")
                elif "--beside" in self.verb or other is version:
                    continue
                elif other["content"] == version["content"] and self.kaggle.is_active(other):
                    self.wrong.append(f"{values['RUN_ID']} is {parameters(other)['RUN_ID']}, which still ran")

    def watch_do_create_submission(self, create):
        def watched(body):
            label = body.get("submissionDescription", "").split(" ")[0]
            before = [one for one in self.kaggle.submissions if one["description"].startswith(label)]
            if before and "--again" not in self.verb:
                self.wrong.append(f"{label} was submitted twice by {self.verb}")
            return create(body)

        return watched

    def watch_save_dataset(self, save):
        def watched(ref, files):
            answer = save(ref, files)
            versions = self.kaggle.datasets[ref]["versions"]
            if len(versions) > 1 and versions[-1]["files"] == versions[-2]["files"]:
                self.wrong.append(f"{ref} was published twice")
            return answer

        return watched

    # what a person types

    def link(self):
        def sleep(seconds):
            self.time += seconds

        return Link(
            CREDENTIALS,
            seconds=2.0,
            attempts=2,
            clock=lambda: self.time,
            sleep=sleep,
            jitter=lambda: 0.5,
            say=lambda line: None,
        )

    def run(self, verb, trap=None):
        """Runs a verb; returns its exit status, or None if it was killed. The trap tells what it reached."""
        self.verb = " ".join(verb)
        script = {"push": push, "fetch": fetch, "submit": submit, "runs": runs, "upload": upload_weights}[verb[0]]
        trap, text, before = trap or Trap(), io.StringIO(), None
        if "--dry-run" in verb:
            before = tree(self.root)
        Link.trap = trap
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), trap.set():
                status = script.main([*verb[1:], "--runs", str(self.runs)], self.link())
        except Killed:
            status = None
        finally:
            Link.trap = Trap()
        self.text = text.getvalue()
        PLAYED.update(["verb", *([trap.kind.removesuffix("_after")] if trap.sprung else [])])
        if before is not None and tree(self.root) != before:
            self.wrong.append(f"{self.verb} changed files")
        self.look_for_secrets()
        self.look(verb, status)
        return status

    def look_for_secrets(self):
        """What Kaggle got by the last verb, but for the signing in, and what was printed."""
        kaggle = self.kaggle
        sent = [json.dumps(body, ensure_ascii=False) for _, _, body in kaggle.requests[self.looked_at :]]
        sent += [str(blob["data"]) for blob in kaggle.blobs.values()]
        self.looked_at = len(kaggle.requests)
        for text in (self.text, *sent):
            if any(spelt in text for spelt in SPELT):
                self.wrong.append(f"{self.verb} let the key out")
        if kaggle.escapes:
            self.wrong.append(f"{self.verb} went elsewhere: {kaggle.escapes}")
        PLAYED["secret"] += "secrets would leave" in self.text or "holds the secret of" in self.text

    def look(self, verb, status):
        """Remembers what must not be lost."""
        for path in self.runs.glob("[!.]*/push.json"):
            record = read_record(path.parent, PushRecord)
            if record.version:
                self.known[record.run_id] = (record.ref, record.version)
        if verb[0] == "fetch" and status == 0:
            self.whole.add(verb[1])
        if verb[0] == "upload" and status == 0:
            self.uploaded |= {verb[1]: pathlib.Path(verb[1]).read_bytes()}
        record = read_record(self.runs / PREDICT, SubmitRecord)
        if record and record.state == "COMPLETE":
            self.scored[record.ref] = record.public

    def names(self, fanned_out=False):
        """The runs from here."""
        return sorted(path.parent.name for path in self.runs.glob(f"train*/{'queue' if fanned_out else 'push'}.json"))

    # what must hold

    def check(self):
        """The three invariants, once all is well again and everything was settled."""
        kaggle = self.kaggle
        kaggle.faults.clear()
        kaggle.late, kaggle.suffix, kaggle.sessions = 0.0, "", 99
        kaggle.dropped, kaggle.changed, self.altered, self.outcome = set(), {}, set(), "COMPLETE"
        self.time += 2000
        for verb in [["runs", "--refresh"], ["submit", PREDICT], *(["push", "train", "--continue", name] for name in
                     self.names(fanned_out=True)), ["upload", str(self.root / "a.h5")]]:  # fmt: skip
            if verb[0] != "submit" or (self.runs / PREDICT / "submit.json").exists():
                self.run(verb)
            self.time += 2000
        assert not self.wrong, self.wrong
        self.check_pushes()
        self.check_submissions()
        held = kaggle.datasets[f"{USER}/salt-weights"]["files"]
        assert all(held[pathlib.Path(name).name] == content for name, content in self.uploaded.items())
        assert not list(self.runs.glob(".uploads/*/upload.json"))
        for name in self.whole:
            assert verify_run(self.runs / name)["run_id"] == name
        assert (self.runs / PREDICT / "notes.txt").read_text() == "of a person"

    def check_pushes(self):
        truth = {}
        for ref, versions in self.kaggle.kernels.items():
            for version in versions:
                truth[parameters(version)["RUN_ID"]] = (ref, version["number"], version["altered"])
        folders = [path.parent for path in self.runs.glob("train*/**/push.json")]
        found = {}
        for folder in folders:
            record = Run(folder).push
            assert record.state not in (*OPEN, "saved"), record
            if record.version:
                found[record.run_id] = (record.ref, record.version, record.state == "differs")
                for earlier in re.findall(r".*-fold-\d+", record.resumed_from or ""):
                    truth.pop(earlier, None)
        assert found == truth, (found, truth)
        for run_id, (ref, version) in self.known.items():
            assert found[run_id][:2] == (ref, version), (run_id, "is lost")

    def check_submissions(self):
        record = read_record(self.runs / PREDICT, SubmitRecord)
        truth = {one["ref"] for one in self.kaggle.submissions}
        if record is None:
            assert not truth
            return
        assert record.state in ("COMPLETE", "ERROR", *OPEN)  # an open one waits for a person's word
        mine, before = set(record.earlier) | ({record.ref} if record.ref else set()), record.before
        assert mine <= truth and set(self.scored) <= mine
        while before:
            mine |= set(before["earlier"]) | {before["ref"]}
            before = before["before"]
        assert mine == truth or "--again" in self.history, (mine, truth)

    history = ""


def plain(version):
    """A notebook without its run's id."""
    return version["source"].replace(parameters(version)["RUN_ID"], "")


def tree(root):
    """Every file below a folder, with its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def made_oof(folds):
    """The bytes of an oof.npz with a tile for each fold."""
    masks = np.zeros((len(folds), 101, 101), np.uint8)
    masks[:, :50] = 1
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "oof.npz"
        write_oof(path, Oof(np.array([f"t{fold}" for fold in folds]), np.array(folds, np.int8), 200 * masks, masks))
        return path.read_bytes()


OOFS = {folds: made_oof(folds) for folds in ((0,), (1,))}


def output(values):
    """{name: bytes} of what a run leaves: as train_output, but made once for each fold."""
    config = preset(values["PRESET"], **values["SET"])
    files = {f"fold{fold}.weights.h5": b"weights %d" % fold for fold in config.train_folds}
    files |= {"oof.npz": OOFS[config.train_folds], "history.csv": b"fold,epoch\n0,1\n", "courses.json": b"{}"}
    entries = {n: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in files.items()}
    manifest = {"run_id": values["RUN_ID"], "kernel": "train", "finished": True, "minutes": 1.0, "files": entries}
    manifest |= {"config": config_to_dict(config), "score": {"best_score": 0.8}}
    return files | {"manifest.json": json.dumps(manifest).encode()}
