import json

import kaggle_stand_in
import pytest
from kaggle_stand_in import USER, make_link, parameters, train_output

from desk.records import read_object, write_object
from scripts import fetch, push, runs

stand_in, repository, call = kaggle_stand_in.stand_in, kaggle_stand_in.repository, kaggle_stand_in.call
REF = f"{USER}/salt-train"


@pytest.fixture
def begun(stand_in, repository, call, tmp_path):
    """A run that stopped before its end, on Kaggle."""
    stand_in.next_states = ["COMPLETE"]
    stand_in.on_push = lambda version: stand_in.leave_output(version, train_output(tmp_path, version, finished=False))
    assert call(push, "train", "--set", "epochs=9", "--hours", "3")[0] == 0
    (folder,) = (repository / "runs").glob("[!.]*")
    stand_in.on_push = lambda version: stand_in.leave_output(version, train_output(tmp_path, version))
    return folder


def test_a_run_knows_how_long_its_session_is(stand_in, begun, call):
    (body,) = stand_in.calls("SaveKernel")
    assert body["sessionTimeoutSeconds"] == 3 * 3600
    assert parameters({"source": body["text"]})["SET"] == {"limit_minutes": 162.0, "epochs": 9}
    status, text, _ = call(push, "train", "--hours", "3", "--set", "minutes=170", "--dry-run")
    assert status == 1 and "minutes=170.0: must be at most limit_minutes=162.0" in text
    call(push, "train", "--resume", begun.name, "--hours", "1")
    values = parameters({"source": stand_in.calls("SaveKernel")[-1]["text"]})
    assert values["SET"] == {"limit_minutes": 54.0, "epochs": 9}


def only_other(begun):
    (folder,) = [path for path in begun.parent.glob("[!.]*") if path != begun]
    return folder


def test_a_resumed_run_has_its_settings_and_its_output_mounted(stand_in, begun, call):
    status, text, _ = call(push, "train", "--resume", begun.name)
    assert status == 0 and f"resumes      {begun.name}, version 1 of {REF}" in text
    body = stand_in.calls("SaveKernel")[-1]
    values = parameters({"source": body["text"]})
    assert values["RESUME"] == begun.name and values["RUN_ID"] == only_other(begun).name != begun.name
    assert (values["PRESET"], values["SET"]) == ("smoke", {"epochs": 9})
    assert body["kernelDataSources"] == [f"{REF}/1"]
    assert read_object(only_other(begun) / "push.json")["resumed_from"] == begun.name
    assert call(fetch, only_other(begun).name)[0] == 0


def test_a_fetched_unfinished_run_says_how_to_go_on(stand_in, begun, call):
    status, text, _ = call(fetch, begun.name)
    assert status == 0 and "stopped before its end" in text and f"push.py train --resume {begun.name}" in text
    (row,) = json.JSONDecoder().raw_decode(call(runs, "--json")[1])[0]["result"]["runs"]
    assert row["state"] == "unfinished"
    asked = len(stand_in.calls("ListKernelSessionOutput"))
    assert call(push, "train", "--resume", begun.name)[0] == 0
    assert len(stand_in.calls("ListKernelSessionOutput")) == asked  # its manifest is here


def test_a_resumed_run_can_be_resumed_itself(stand_in, begun, call, tmp_path):
    stand_in.on_push = lambda version: stand_in.leave_output(version, train_output(tmp_path, version, finished=False))
    call(push, "train", "--resume", begun.name)
    second = only_other(begun).name
    status, text, _ = call(push, "train", "--resume", second)
    assert status == 0, text
    body = stand_in.calls("SaveKernel")[-1]
    assert body["kernelDataSources"] == [f"{REF}/2"] and parameters({"source": body["text"]})["RESUME"] == second


def test_what_else_the_run_had_mounted_is_mounted_again(stand_in, begun, call):
    stand_in.add_version(f"{USER}/salt-predict", states=["COMPLETE"])
    metadata = read_object(begun / "pushed" / "kernel-metadata.json")
    sources = [f"{USER}/salt-predict/1", f"{REF}/7"]
    write_object(begun / "pushed" / "kernel-metadata.json", metadata | {"kernel_sources": sources})
    status, text, _ = call(push, "train", "--resume", begun.name)
    assert status == 0, text
    assert stand_in.calls("SaveKernel")[-1]["kernelDataSources"] == [f"{USER}/salt-predict/1", f"{REF}/1"]


def refused(stand_in, call, begun, *arguments, link=None):
    """(exit status, what was printed) of a --resume that pushes nothing."""
    before = len(stand_in.calls("SaveKernel"))
    status, text, _ = call(push, "train", "--resume", begun.name, *arguments, link=link)
    assert status != 0 and len(stand_in.calls("SaveKernel")) == before
    return status, text


def test_a_finished_run_is_not_resumed(stand_in, begun, call, tmp_path):
    version = stand_in.kernels[REF][0]
    stand_in.leave_output(version, train_output(tmp_path, version))
    status, text = refused(stand_in, call, begun)
    assert status == 1 and "has reached its end; there is nothing left to train" in text


def test_a_run_from_before_runs_could_be_resumed_counts_as_finished(stand_in, begun, call):
    manifest = json.loads(stand_in.kernels[REF][0]["files"]["manifest.json"])
    del manifest["finished"]
    stand_in.kernels[REF][0]["files"]["manifest.json"] = json.dumps(manifest).encode()
    assert "has reached its end" in refused(stand_in, call, begun)[1]


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING"])
def test_a_run_that_goes_on_is_not_resumed(stand_in, begun, call, state):
    stand_in.kernels[REF][0]["states"] = [state]
    status, text = refused(stand_in, call, begun)
    assert status == 75 and f"is still {state}: wait until it ends" in text


@pytest.mark.parametrize("state", ["ERROR", "CANCEL_ACKNOWLEDGED"])
def test_a_run_that_failed_but_left_its_state_may_be_resumed(stand_in, begun, call, state):
    stand_in.kernels[REF][0]["states"] = [state]
    status, text, _ = call(fetch, begun.name)
    assert status == 1 and f"it can be resumed: python scripts/push.py train --resume {begun.name}" in text
    status, text, _ = call(push, "train", "--resume", begun.name)
    assert status == 0 and f"ended as {state}: if Kaggle does not mount it, the new run stops at once" in text
    assert stand_in.calls("SaveKernel")[-1]["kernelDataSources"] == [f"{REF}/1"]


def test_a_run_without_manifest_is_not_resumed(stand_in, begun, call):
    stand_in.kernels[REF][0]["files"].clear()
    assert "has left no manifest.json" in refused(stand_in, call, begun)[1]


def test_a_run_that_another_account_keeps_to_itself_is_not_resumed(stand_in, begun, call):
    record = read_object(begun / "push.json")
    write_object(begun / "push.json", record | {"ref": "somebody/salt-train"})
    status, text = refused(stand_in, call, begun)
    assert status == 1 and "tester may not see somebody/salt-train, which belongs to somebody" in text


def test_a_run_whose_settings_would_differ_today_is_not_resumed(stand_in, begun, call):
    manifest = json.loads(stand_in.kernels[REF][0]["files"]["manifest.json"])
    manifest["config"]["learning_rate"] = 0.5
    stand_in.kernels[REF][0]["files"]["manifest.json"] = json.dumps(manifest).encode()
    assert "learning_rate=0.001, not 0.5; a resumed run keeps those it had" in refused(stand_in, call, begun)[1]


@pytest.mark.parametrize("changes", [["--set", "epochs=10"], ["--preset", "unet"], ["--run", "other"]])
def test_changes_of_the_settings_are_refused(stand_in, begun, call, changes):
    status, text, _ = call(push, "train", "--resume", begun.name, *changes)
    assert status == 2 and "keep the settings of their run" in text


def test_a_run_of_the_desk_or_of_another_kernel_is_not_resumed(stand_in, begun, call):
    (begun.parent / "train-here").mkdir()
    status, text, _ = call(push, "train", "--resume", "train-here")
    assert status == 1 and "train-here: was not pushed to Kaggle" in text
    status, text, _ = call(push, "predict", "--resume", begun.name)
    assert status == 1 and "is a run of train, not of predict" in text


def test_a_kernel_without_a_resume_line_says_so(stand_in, begun, repository, call):
    path = repository / "kernels" / "train.py"
    path.write_text(path.read_text().replace('RESUME = ""\n', "").replace("RESUME, ", ""))
    assert "the settings cell has no line RESUME" in refused(stand_in, call, begun)[1]


def test_a_status_that_cannot_be_read_resumes_nothing(stand_in, begun, call):
    stand_in.fault("GetKernelSessionStatus", "html", times=9)
    assert refused(stand_in, call, begun, link=make_link(attempts=1))[0] == 75
