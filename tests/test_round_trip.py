"""The verbs together, with the kernels of this repository: from a push to a score on the leaderboard."""

import json
import os
import subprocess
import sys

import kaggle_stand_in
import pytest
from kaggle_stand_in import COMPETITION, KEY, USER, assert_no_secret, make_link, parameters, train_output

from build_kernel import build_kernel
from desk import paths
from desk.records import read_object
from scripts import fetch, push, runs, score_oof, submit

stand_in = kaggle_stand_in.stand_in
IDS = [f"t{index}" for index in range(8)]


@pytest.fixture
def kaggle(stand_in, tmp_path, monkeypatch):
    """A Kaggle that runs the train and the predict kernel, and a repository whose outputs are below `tmp_path`."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "desk" / "build")
    sample = "\n".join(["id,rle_mask", *(f"{name},1 1" for name in IDS), ""])
    stand_in.competitions[COMPETITION]["sample_submission.csv"] = sample.encode()
    stand_in.next_states = ["QUEUED", "RUNNING", "COMPLETE"]

    def run(version):
        make_output = train_output if "train" in version["request"]["slug"] else predict_output
        files = make_output(tmp_path, version)
        version["live"] = "epoch 1\n"
        stand_in.leave_output(version, files, "epoch 1\nthe end\n")

    stand_in.on_push = run
    return stand_in


def predict_output(folder, version) -> dict:
    """{name: bytes} of what a run of the predict notebook leaves."""
    from salt.artifacts import write_manifest
    from salt.config import preset

    values = parameters(version)
    folder = folder / values["RUN_ID"]
    folder.mkdir()
    rows = [f"{name},{'1 101' if index % 2 else ''}" for index, name in enumerate(IDS)]
    (folder / "submission.csv").write_text("\n".join(["id,rle_mask", *rows, ""]))
    write_manifest(folder, values["RUN_ID"], "predict", preset("smoke"), level=128)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def call(kaggle, tmp_path, capsys):
    """Calls a verb as a person would; gives what was printed."""

    def run(script, *arguments):
        more = [] if script is score_oof else ["--runs", str(tmp_path / "desk" / "runs")]
        status = script.main([*arguments, *more], *([] if script is score_oof else [make_link()]))
        captured = capsys.readouterr()
        assert status == 0, captured.out + captured.err
        return captured.out + captured.err

    return run


def newest(tmp_path, beginning):
    return max((tmp_path / "desk" / "runs").glob(f"{beginning}*"))


@pytest.mark.parametrize("how", [[], pytest.param(["--fan-out", "folds"], marks=pytest.mark.slow)])
def test_from_a_push_to_a_score_on_the_leaderboard(kaggle, call, tmp_path, how):
    texts = [call(push, "train", "--preset", "smoke", "--set", "train_folds=[0,1]", *how)]
    trained = newest(tmp_path, "train")
    texts += [call(fetch, trained.name, "--wait"), call(score_oof, str(trained))]
    texts += [call(push, "predict", "--run", trained.name)]
    predicted = newest(tmp_path, "predict")
    texts += [call(fetch, predicted.name, "--wait"), call(submit, predicted.name, "--message", "first"), call(runs)]

    train, predict = (
        kaggle.kernels[ref][-1]["request"] for ref in (next(iter(kaggle.kernels)), f"{USER}/salt-predict")
    )
    assert train["machineShape"] == predict["machineShape"] == "NvidiaTeslaT4"
    assert not predict["enableInternet"] and predict["isPrivate"]
    assert predict["kernelDataSources"] == [f"{ref}/1" for ref in kaggle.kernels if "train" in ref]
    (submission,) = kaggle.submissions
    assert submission["data"] == (predicted / "submission.csv").read_bytes()
    record = read_object(predicted / "submit.json")
    assert (record["state"], record["public"], record["private"]) == ("COMPLETE", 0.78543, 0.80123)
    states = {row.split()[0]: row.split()[2] for row in texts[-1].splitlines()[1:3]}
    assert states == {trained.name: "fetched", predicted.name: "scored"}
    assert "0.78543 / 0.80123" in texts[-1] and not kaggle.escapes
    for text in texts:
        assert "Traceback" not in text and "error:" not in text and max(map(len, text.splitlines())) <= 140
    assert_no_secret(tmp_path / "desk", *(tmp_path / "desk" / "runs").iterdir(), text="".join(texts))
    for body in kaggle.calls("SaveKernel"):
        assert_no_secret(text=json.dumps(body))


@pytest.mark.parametrize("name", ["train", pytest.param("predict", marks=pytest.mark.slow)])
def test_the_plain_client_pushes_what_build_kernel_writes(stand_in, tmp_path, name):
    folder = build_kernel(name, owner=USER, out=tmp_path)
    code = "import sys; sys.argv[0] = 'kaggle'; from kaggle.cli import main; main()"
    environment = {**os.environ, **stand_in.environment(stand_in.home)}
    done = subprocess.run(
        [sys.executable, "-c", code, "kernels", "push", "-p", str(folder)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "Kernel version 1 successfully pushed" in done.stdout, done.stdout + done.stderr
    for warning in ("does not resolve", "could not be added", "retired"):
        assert warning not in done.stdout + done.stderr
    (body,) = stand_in.calls("SaveKernel")
    assert body["slug"] == f"{USER}/salt-{name}" and body["machineShape"] == "NvidiaTeslaT4"
    assert json.loads(body["text"]) == json.loads((folder / f"{name}.ipynb").read_text())
    assert KEY not in done.stdout + done.stderr
