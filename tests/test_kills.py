"""Each script is killed at the first, the second, the third ... file that it renames, until it gets through.

What has to be there in the end: one version of each kernel, one submission, all files, and the right verdict.
"""

import json
import signal

import kaggle_stand_in
import pytest
from kaggle_stand_in import COMPETITION, USER, start_script, train_output

from desk.records import read_object, write_object
from salt.artifacts import verify_run

pytestmark = pytest.mark.slow
stand_in, repository = kaggle_stand_in.stand_in, kaggle_stand_in.repository
DEADLY = """\
import os, signal

renamed = 0


def deadly(rename):
    def call(*arguments, **named):
        global renamed
        renamed += 1
        if renamed == NUMBER and AFTER:
            rename(*arguments, **named)
        if renamed == NUMBER:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*arguments, **named)
    return call


os.replace, os.rename = deadly(os.replace), deadly(os.rename)
from desk import sending
sending.SETTLED = 0  # the stand-in shows at once what it has got
"""


@pytest.fixture(params=["before", "after"])
def get_through(request, stand_in, repository):
    """Runs a command until it is not killed any more; gives (exit status, its last words, number of kills)."""

    def run(script, arguments):
        for number in range(1, 60):
            prelude = DEADLY.replace("NUMBER", str(number)).replace("AFTER", str(request.param == "after"))
            prelude = f"import sys; sys.path.insert(0, {str(kaggle_stand_in.ROOT)!r})\n{prelude}"
            process = start_script(
                stand_in, script, *arguments(), "--runs", repository / "runs", root=repository, prelude=prelude
            )
            text, _ = process.communicate(timeout=600)
            if process.returncode != -signal.SIGKILL:
                return process.returncode, text, number - 1
        raise AssertionError("it never gets through")

    return run


def only_run(repository):
    (folder,) = (repository / "runs").glob("[!.]*")
    return folder


def test_push_gets_through_with_one_version(stand_in, repository, get_through):
    status, text, kills = get_through("push.py", lambda: ["train"])
    assert status == 0 and kills >= 5, text
    folder = only_run(repository)
    assert read_object(folder / "push.json")["version"] == 1
    assert len(stand_in.kernels[f"{USER}/salt-train"]) == 1 and folder.name in stand_in.calls("SaveKernel")[-1]["text"]


def test_a_fan_out_gets_through_with_one_version_of_each_fold(stand_in, repository, get_through):
    def arguments():
        found = list((repository / "runs").glob("[!.]*"))
        more = ["--continue", found[0].name] if found else ["--fan-out", "folds", "--set", "train_folds=[0,1]"]
        return ["train", *more]

    status, text, kills = get_through("push.py", arguments)
    assert status == 0 and kills >= 5, text
    assert {ref: len(versions) for ref, versions in stand_in.kernels.items()} == {
        f"{USER}/salt-train-fold-0": 1, f"{USER}/salt-train-fold-1": 1
    }  # fmt: skip
    records = [read_object(path / "push.json") for path in sorted(only_run(repository).glob("parts/*"))]
    assert [(record["state"], record["version"]) for record in records] == [("pushed", 1)] * 2


def test_fetch_gets_through_with_all_files(stand_in, repository, get_through, tmp_path):
    folder = repository / "runs" / "train-smoke-20261122-131502-ab12"
    record = {"run_id": folder.name, "kernel": "train", "ref": f"{USER}/salt-train", "state": "pushed", "version": 1}
    write_object(folder / "push.json", {**record, "url": "https://k/x", "at": "2026-11-22T13:15:02Z"})
    source = f'PRESET = "smoke"\nSET = {{}}\nRUN_ID = "{folder.name}"'
    cells = {"cells": [{"source": source, "metadata": {"tags": ["parameters"]}}]}
    version = stand_in.add_version(record["ref"], json.dumps(cells), states=["COMPLETE"])
    stand_in.leave_output(version, train_output(tmp_path, version))
    status, text, kills = get_through("fetch.py", lambda: [folder.name])
    assert status == 0 and kills >= 8, text
    assert verify_run(folder)["run_id"] == folder.name and not (folder / ".fetching").exists()
    assert read_object(folder / "fetch.json")["state"] == "COMPLETE"


def test_submit_gets_through_with_one_submission(stand_in, repository, get_through):
    from salt.artifacts import write_manifest
    from salt.config import preset

    stand_in.next_scores = ["COMPLETE"]
    stand_in.competitions[COMPETITION]["sample_submission.csv"] = b"id,rle_mask\na,1 1\nb,1 1\n"
    folder = repository / "runs" / "predict-20261122-141502-cd34"
    folder.mkdir()
    (folder / "submission.csv").write_text("id,rle_mask\na,1 101\nb,\n")
    write_manifest(folder, folder.name, "predict", preset("smoke"))
    status, text, kills = get_through("submit.py", lambda: [folder.name])
    assert status == 0 and kills >= 3, text
    assert len(stand_in.submissions) == 1
    assert read_object(folder / "submit.json")["public"] == 0.78543
