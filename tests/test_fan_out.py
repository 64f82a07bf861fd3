import json

import kaggle_stand_in
import pytest
from kaggle_stand_in import (
    USER,
    is_active,
    kill_when_reached,
    make_link,
    make_old,
    parameters,
    start_script,
    train_output,
)

from desk import fan_out, joining, sending
from desk.records import read_object, write_object
from desk.runs import Run
from salt.artifacts import read_oof, verify_run
from salt.files import sha256_file
from scripts import fetch, push, runs

stand_in, repository, call = kaggle_stand_in.stand_in, kaggle_stand_in.repository, kaggle_stand_in.call
THREE = ["--set", "folds=3", "train_folds=[0,1,2]", "minutes=30"]
TWO = ["--set", "folds=3", "train_folds=[0,1]"]
REFS = [f"{USER}/salt-train-fold-{fold}" for fold in range(3)]
SPENT = {"kind": "answer", "body": {"error": "Maximum weekly GPU quota of 30.00 hours reached."}}


def only_run(repository):
    (folder,) = (repository / "runs").glob("[!.]*")
    return folder


def pushed(stand_in):
    """How many versions Kaggle has of each fold's kernel."""
    return [len(stand_in.kernels.get(ref, [])) for ref in REFS]


# --- pushing --------------------------------------------------------------------------------------------------------


def test_each_fold_is_a_kernel_of_its_own_with_its_share_of_the_minutes(stand_in, repository, call):
    status, text, _ = call(push, "train", "--fan-out", "folds", *THREE)
    assert status == 0 and "3, for folds 0, 1, 2, each with 10 of the run's minutes" in text
    folder = only_run(repository)
    for fold, body in enumerate(stand_in.calls("SaveKernel")):
        assert body["slug"] == REFS[fold] and body["newTitle"] == f"Salt train fold {fold}"
        values = parameters({"source": body["text"]})
        assert values["RUN_ID"] == f"{folder.name}-fold-{fold}"
        assert values["SET"] == {"folds": 3, "train_folds": [fold], "minutes": 10.0}
    assert f"fetch.py {folder.name} --wait" in text


def test_no_more_than_two_run_at_once(stand_in, repository, call):
    at_once = []
    count = stand_in.on_push

    def on_push(version):
        count(version)
        at_once.append(sum(is_active(found[-1]) for found in stand_in.kernels.values()))

    stand_in.on_push = on_push
    status, text, link = call(push, "train", "--fan-out", "folds", *THREE)
    assert status == 0 and max(at_once) == 2 and pushed(stand_in) == [1, 1, 1]
    assert "fold 0 RUNNING, 1 QUEUED; 2 wait for a place" in text and "fold 0 is COMPLETE" in text
    assert link.time.pauses and all(30 <= pause <= 60 for pause in link.time.pauses)
    assert len(stand_in.calls("SaveKernel")) == 3  # Kaggle had to refuse none


def test_sessions_of_other_kernels_take_places_too(stand_in, repository, call):
    for name in ("browser-1", "browser-2"):
        stand_in.add_version(f"{USER}/{name}", request={"enableGpu": True}, states=["RUNNING"] * 5 + ["COMPLETE"])
    status, text, _ = call(push, "train", "--fan-out", "folds", *TWO)
    assert status == 0 and "none runs; 0, 1 wait for a place (tester/browser-1, tester/browser-2 run)" in text
    assert pushed(stand_in) == [1, 1, 0] and len(stand_in.calls("SaveKernel")) == 2


def test_beside_one_other_session_one_fold_runs_at_a_time(stand_in, repository, call):
    stand_in.add_version(f"{USER}/browser", request={"enableGpu": True}, states=["RUNNING"])
    status, text, _ = call(push, "train", "--fan-out", "folds", *TWO)
    assert status == 0 and "fold 0 QUEUED; 1 wait for a place (tester/browser runs)" in text
    assert text.index("fold 0 is COMPLETE") < text.index("fold 1 is pushed") and pushed(stand_in) == [1, 1, 0]
    assert len(stand_in.calls("SaveKernel")) == 2


def test_ctrl_c_says_how_to_go_on(stand_in, repository, call):
    link = make_link(seconds=0.5)
    link.sleep = lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt)
    status, text, _ = call(push, "train", "--fan-out", "folds", *THREE, link=link)
    run = only_run(repository).name
    assert status == 130 and f"The others: python scripts/push.py train --continue {run}" in text
    assert pushed(stand_in) == [1, 1, 0]


def test_a_place_that_kaggle_denies_is_waited_for(stand_in, repository, call):
    full = {"error": "Maximum batch GPU session count of 2 reached."}
    stand_in.fault("SaveKernel", "answer", after=1, times=2, body=full)
    status, text, _ = call(push, "train", "--fan-out", "folds", *TWO)
    assert status == 0 and pushed(stand_in) == [1, 1, 0] and "session count of 2" in text


def test_a_network_that_is_away_for_a_while_does_not_end_the_queue(stand_in, repository, call):
    stand_in.fault("GetKernel", "http", status=503, after=2, times=12)
    assert call(push, "train", "--fan-out", "folds", *TWO)[0] == 0
    assert pushed(stand_in) == [1, 1, 0]


def test_a_spent_quota_stops_the_queue_and_it_goes_on_later(stand_in, repository, call):
    stand_in.fault("SaveKernel", after=1, **SPENT)
    status, text, _ = call(push, "train", "--fan-out", "folds", *TWO)
    run = only_run(repository).name
    assert status == 75 and "renewed on Saturday" in text and pushed(stand_in) == [1, 0, 0]
    assert f"the other folds: python scripts/push.py train --continue {run}" in text
    status, text, _ = call(push, "train", "--continue", run)
    assert status == 0 and pushed(stand_in) == [1, 1, 0]


def test_a_failed_fold_is_reported_and_the_others_go_on(stand_in, repository, call):
    complete = stand_in.on_push

    def on_push(version):
        complete(version)
        if parameters(version)["SET"]["train_folds"] == [0]:
            version.update(states=["RUNNING", "ERROR"], message="out of memory")

    stand_in.on_push = on_push
    status, text, _ = call(push, "train", "--fan-out", "folds", *THREE)
    run = only_run(repository).name
    assert status == 1 and "fold 0 is ERROR; the others go on" in text and pushed(stand_in) == [1, 1, 1]
    assert "all folds are pushed, but 0 did not end well" in text
    status, text, _ = call(fetch, run, "--wait")
    assert status == 1 and "fold 0: " in text and "out of memory" in text and "nothing was joined" in text

    stand_in.on_push = complete
    status, text, _ = call(push, "train", "--continue", run)
    assert (
        status == 0
        and "fold 0 was ERROR, and cannot be resumed: its manifest says that it is finished" in text
        and pushed(stand_in) == [2, 1, 1]
    )
    assert call(fetch, run, "--wait")[0] == 0


def stop_fold_0(stand_in, complete, files):
    """From now on fold 0 is stopped on Kaggle and leaves these files, by name, or by a function of its version."""

    def on_push(version):
        complete(version)
        if parameters(version)["SET"]["train_folds"] == [0]:
            version.update(states=["RUNNING", "CANCEL_ACKNOWLEDGED"], message="")
            version["files"].clear()
            stand_in.leave_output(version, files(version) if callable(files) else files)

    stand_in.on_push = on_push


def test_what_a_failed_fold_has_left_is_kept_when_it_is_pushed_once_more(stand_in, repository, call):
    complete = stand_in.on_push
    stop_fold_0(stand_in, complete, {"state/fold0/epoch-00003.weights.h5": b"three epochs"})
    assert call(push, "train", "--fan-out", "folds", *THREE)[0] == 1
    run = only_run(repository)
    call(fetch, run.name, "--wait")
    (partial,) = run.glob("parts/*/partial")
    stand_in.on_push = complete
    status, text, _ = call(push, "train", "--continue", run.name)
    kept = partial.with_name("partial-1")
    assert status == 0 and "pushed once more; what it left is in " in text and kept.name in text
    assert (kept / "state/fold0/epoch-00003.weights.h5").read_bytes() == b"three epochs" and not partial.exists()


def test_a_fold_that_was_stopped_and_can_be_resumed_is_resumed(stand_in, repository, call, tmp_path):
    complete = stand_in.on_push
    stop_fold_0(stand_in, complete, lambda version: train_output(tmp_path, version, finished=False))
    assert call(push, "train", "--fan-out", "folds", *THREE)[0] == 1
    run = only_run(repository)
    call(fetch, run.name, "--wait")
    stand_in.on_push = complete
    status, text, _ = call(push, "train", "--continue", run.name)
    assert status == 0 and f"fold 0 was CANCEL_ACKNOWLEDGED; {run.name}-fold-0-2 resumes it" in text
    assert "if Kaggle does not mount it, the new run stops at once" in text
    body = stand_in.calls("SaveKernel")[-1]
    assert parameters({"source": body["text"]})["RESUME"] == f"{run.name}-fold-0"
    assert (next(run.glob("parts/*/partial-1")) / "manifest.json").is_file()


def test_a_queue_without_any_place_gives_up_in_the_end(stand_in, repository, call, monkeypatch):
    monkeypatch.setattr(fan_out, "DEADLINE_HOURS", 0.1)
    monkeypatch.setattr(fan_out, "GPU_SESSIONS", 1)
    stand_in.next_states = ["RUNNING"]
    status, text, link = call(push, "train", "--fan-out", "folds", *TWO)
    assert status == 75 and "no fold could be pushed for 0.1 hours" in text and "--continue" in text
    assert 360 <= link.time.now < 360 + 60 and pushed(stand_in) == [1, 0, 0]


def test_a_dry_run_looks_at_everything_and_keeps_nothing(stand_in, repository, call):
    status, text, _ = call(push, "train", "--fan-out", "folds", "--dry-run", *THREE)
    assert status == 0 and "3, for folds 0, 1, 2" in text and "GPU hours left" in text
    assert not stand_in.kernels and not list((repository / "runs").iterdir())


@pytest.mark.parametrize(
    ("name", "title", "settings", "message"),
    [("train", "Salt train", ["train_folds=[1]"], "is one fold"),
     ("train", "Salt train", ["train_folds=[0,9]"], "train_folds"),
     ("predict", "Salt predict", ["folds=3"], "has no PRESET"),
     ("train", "A title that has just under fifty characters now", ["folds=3", "train_folds=[0,1]"], "5 to 50 char")],
)  # fmt: skip
def test_what_cannot_be_fanned_out_is_refused(stand_in, repository, call, name, title, settings, message):
    path = repository / "kernels" / f"{name}.py"
    path.write_text(path.read_text().replace(f"Salt {name}", title))
    status, text, _ = call(push, name, "--fan-out", "folds", "--set", *settings)
    assert status == 1 and message in text
    assert not stand_in.calls("SaveKernel") and not list((repository / "runs").iterdir())


def test_a_second_fan_out_does_not_begin_while_folds_of_the_first_wait(stand_in, repository, call):
    stand_in.fault("SaveKernel", **SPENT)
    call(push, "train", "--fan-out", "folds", *TWO)
    status, text, _ = call(push, "train", "--fan-out", "folds", *TWO)
    assert status == 1 and "still has 2 folds to push" in text and "--continue" in text


def test_two_processes_do_not_work_on_one_queue(stand_in, repository, call):
    stand_in.fault("SaveKernel", **SPENT)
    call(push, "train", "--fan-out", "folds", *TWO)
    folder = only_run(repository)
    with Run(folder).lock():
        status, text, _ = call(push, "train", "--continue", folder.name)
    assert status == 75 and "another process at this desk works on it" in text and pushed(stand_in) == [0, 0, 0]
    assert call(push, "train", "--continue", folder.name)[0] == 0


@pytest.mark.parametrize("more", [["--hours", "3"], ["--set", "epochs=3"], ["--preset", "unet"]])
def test_a_fan_out_goes_on_as_it_was_begun(stand_in, run, call, more):
    assert call(push, "train", "--continue", run.name, *more)[0] == 2
    assert not stand_in.requests


def test_only_a_fan_out_can_be_continued(stand_in, repository, call):
    call(push, "train")
    status, text, _ = call(push, "train", "--continue", only_run(repository).name)
    assert status == 1 and "is no run of train whose folds were fanned out" in text


# --- lost answers and kills -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut_after", "hang_after"])
def test_a_fold_whose_answer_is_lost_is_found_and_not_pushed_again(stand_in, repository, call, kind):
    stand_in.fault("SaveKernel", kind, after=1)
    status, text, _ = call(push, "train", "--fan-out", "folds", *TWO)
    assert status == 0 and "found: the push arrived" in text and pushed(stand_in) == [1, 1, 0]


def test_a_fold_that_is_not_seen_waits_until_it_surely_did_not_arrive(stand_in, repository, call, monkeypatch):
    stand_in.fault("SaveKernel", "cut", after=1)
    ages = iter([1.0] * 4)
    monkeypatch.setattr(sending, "seconds_since", lambda at, up: next(ages, 601.0))
    status, text, _ = call(push, "train", "--fan-out", "folds", *TWO)
    assert status == 0 and "fold 1 is sent, and not seen on Kaggle yet" in text and "1 NOT SEEN YET" in text
    assert pushed(stand_in) == [1, 1, 0] and len(stand_in.calls("SaveKernel")) == 3


KILLS = [("SaveKernel", "hang", 1), ("SaveKernel", "hang_after", 1)]
MORE_KILLS = [("GetKernel", "hang", 2), ("GetKernelSessionStatus", "hang", 0), ("ListKernels", "hang", 1)]


@pytest.mark.parametrize(
    ("stage", "kind", "after"), [*KILLS, *(pytest.param(*kill, marks=pytest.mark.slow) for kill in MORE_KILLS)]
)
def test_after_kill_9_the_queue_goes_on_and_no_fold_is_pushed_twice(stand_in, repository, call, stage, kind, after):
    stand_in.fault(stage, kind, after=after)
    arguments = ["train", "--fan-out", "folds", *TWO, "--runs", repository / "runs"]
    kill_when_reached(stand_in, start_script(stand_in, "push.py", *arguments, root=repository))
    stand_in.faults.clear()
    folder = only_run(repository)
    for path in folder.glob("parts/*/push.json"):
        record = read_object(path.parent / "push.json")
        if record["state"] == "sending" and kind == "hang":  # long ago, so that it surely did not arrive
            make_old(path)
    status, text, _ = call(push, "train", "--continue", folder.name)
    assert status == 0 and pushed(stand_in) == [1, 1, 0], text
    assert call(fetch, folder.name, "--wait")[0] == 0


# --- joining --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(stand_in, repository, tmp_path):
    """A run whose three folds are pushed and finished, as the stand-in and runs/ know it."""
    folder = repository / "runs" / "train-smoke-20261122-131502-ab12"
    known = {"kernel": "train", "at": "2026-11-22T13:15:02Z"}
    write_object(folder / "queue.json", {**known, "run_id": folder.name, "folds": [0, 1, 2]})
    for fold, ref in enumerate(REFS):
        record = {**known, "run_id": f"{folder.name}-fold-{fold}", "ref": ref, "state": "pushed", "version": 1}
        record |= {"url": f"https://www.kaggle.com/code/{ref}", "fold": fold}
        write_object(folder / "parts" / f"fold-{fold}" / "push.json", record | {"machine": "NvidiaTeslaT4"})
        version = stand_in.add_version(ref, notebook(record["run_id"], fold), states=["COMPLETE"])
        stand_in.leave_output(version, train_output(tmp_path, version))
    return folder


def notebook(run_id, fold, **more) -> str:
    """A notebook that has nothing but its settings cell."""
    settings = {"folds": 3, "train_folds": [fold], "minutes": 10.0, **more}
    source = f'PRESET = "smoke"\nSET = {settings}\nRUN_ID = "{run_id}"\nRESUME = ""'
    return json.dumps({"cells": [{"source": source, "metadata": {"tags": ["parameters"]}}]})


def test_the_folds_become_one_run(stand_in, run, call):
    status, text, _ = call(fetch, run.name)
    assert status == 0 and "fetched: 6 files" in text and f"score_oof.py {run.name}" in text
    manifest = verify_run(run)
    assert manifest["run_id"] == run.name and manifest["kernel"] == "train" and manifest["minutes"] == 183.0
    assert manifest["config"]["train_folds"] == [0, 1, 2] and manifest["config"]["minutes"] == 30.0
    parts = {f"{run.name}-fold-{fold}": run / "parts" / f"fold-{fold}" for fold in range(3)}
    assert manifest["parts"] == {name: sha256_file(part / "manifest.json") for name, part in parts.items()}
    assert list(read_oof(run / "oof.npz").fold) == [0, 0, 1, 1, 2, 2]
    assert (run / "history.csv").read_text().splitlines()[1:] == ["0,1,0.5", "1,1,0.5", "2,1,0.5"]
    assert json.loads((run / "courses.json").read_text()) == {str(fold): {"end": 9} for fold in range(3)}
    assert [(run / f"fold{fold}.weights.h5").read_bytes() for fold in range(3)] == [b"weights %d" % k for k in range(3)]
    for part in parts.values():
        assert verify_run(part)
    status, text, _ = call(fetch, run.name)
    assert status == 0 and "is here already, whole" in text


def test_the_joined_run_is_scored_like_any_other(stand_in, run, call, capsys):
    from scripts import score_oof

    call(fetch, run.name, "--wait")
    assert score_oof.main([str(run)]) == 0
    assert f"{run.name}: 6 tiles in 3 folds" in capsys.readouterr().out


def test_predict_mounts_the_kernels_of_all_folds(stand_in, run, call):
    status, text, _ = call(push, "predict", "--run", run.name)
    assert status == 0, text
    body = stand_in.calls("SaveKernel")[-1]
    assert body["kernelDataSources"] == [f"{ref}/1" for ref in REFS]
    assert parameters({"source": body["text"]})["SET"] == {"train_folds": [0, 1, 2]}


def test_folds_that_are_not_pushed_or_still_run_are_named(stand_in, run, call):
    waiting = run / "parts" / "fold-2"
    write_object(waiting / "push.json", read_object(waiting / "push.json") | {"state": "queued", "version": None})
    stand_in.kernels[REFS[1]][0]["states"] = ["RUNNING"]
    status, text, _ = call(fetch, run.name)
    assert status == 75 and "fold-1 is RUNNING; add --wait" in text and "fold 2 is not pushed yet" in text
    assert "1 of 3 folds are here" in text and not (run / "manifest.json").exists()
    (row,) = json.JSONDecoder().raw_decode(call(runs, "--json", "--refresh")[1])[0]["result"]["runs"]
    assert row["state"] == "1 fetched, 1 RUNNING, 1 waits"


def test_folds_with_different_settings_are_not_joined(stand_in, run, call, tmp_path):
    version = stand_in.kernels[REFS[1]][0]
    version["source"] = notebook(f"{run.name}-fold-1", 1, seed=7)
    stand_in.leave_output(version, train_output(tmp_path, version))
    status, text, _ = call(fetch, run.name, "--wait")
    assert status == 1 and "fold-1 is no part of the run of" in text and "seed=7, not 0" in text
    assert not (run / "manifest.json").exists()


@pytest.mark.parametrize("fetched", [True, False])
def test_a_fold_that_ran_out_of_time_is_resumed_before_it_is_joined(stand_in, repository, call, tmp_path, fetched):
    complete = stand_in.on_push
    stand_in.on_push = lambda version: stand_in.leave_output(version, train_output(tmp_path, version, finished=False))
    stand_in.next_states = ["COMPLETE"]
    call(push, "train", "--fan-out", "folds", "--hours", "2", *TWO)
    run, stand_in.on_push = only_run(repository), complete
    version = stand_in.kernels[REFS[0]][0]
    stand_in.leave_output(version, train_output(tmp_path, version))  # fold 0 has had enough
    if fetched:
        status, text, _ = call(fetch, run.name)
        assert status == 1 and "fold 1: " in text and "ran out of time" in text and "nothing was joined" in text
        assert not (run / "manifest.json").exists()

    status, text, _ = call(push, "train", "--continue", run.name)
    assert status == 0 and f"{run.name}-fold-1-2 resumes it" in text and pushed(stand_in) == [1, 2, 0]
    body = stand_in.calls("SaveKernel")[-1]
    values = parameters({"source": body["text"]})
    assert values["RESUME"] == f"{run.name}-fold-1" and values["SET"]["limit_minutes"] == 108.0
    assert body["kernelDataSources"] == [f"{REFS[1]}/1"] and body["sessionTimeoutSeconds"] == 7200
    assert call(fetch, run.name)[0] == 0
    assert list(verify_run(run)["parts"]) == [f"{run.name}-fold-0", f"{run.name}-fold-1-2"]


def test_a_fold_without_a_manifest_does_not_keep_the_others_from_going_on(stand_in, repository, call):
    stand_in.next_states = ["COMPLETE"]
    stand_in.fault("SaveKernel", after=1, **SPENT)
    call(push, "train", "--fan-out", "folds", *TWO)
    stand_in.kernels[REFS[0]][0]["files"].clear()
    run = only_run(repository).name
    assert call(push, "train", "--continue", run)[0] == 0 and pushed(stand_in) == [1, 1, 0]
    status, text, _ = call(fetch, run)
    assert status == 1 and "fold 0: the run has left no manifest.json" in text and "nothing was joined" in text


def test_after_an_interruption_while_joining_the_same_command_goes_on(stand_in, run, call, monkeypatch):
    monkeypatch.setattr(joining, "joined_tables", lambda paths: (_ for _ in ()).throw(KeyboardInterrupt))
    assert call(fetch, run.name, "--wait")[0] == 130
    assert not (run / "manifest.json").exists()
    monkeypatch.undo()
    asked = len(stand_in.requests)
    assert call(fetch, run.name)[0] == 0
    assert verify_run(run) and len(stand_in.requests) == asked and not (run / ".joining").exists()


@pytest.mark.parametrize("stage", ["GetKernelSessionStatus", "GET /files/1/fold1.*"])
def test_after_kill_9_of_fetch_the_same_command_joins_the_folds(stand_in, run, call, stage):
    stand_in.fault(stage, "hang")
    kill_when_reached(stand_in, start_script(stand_in, "fetch.py", run.name, "--runs", run.parent))
    assert not (run / "manifest.json").exists()
    assert call(fetch, run.name)[0] == 0
    assert verify_run(run)


def test_the_table_shows_a_fan_out_as_one_run(stand_in, run, call):
    def row():
        _, text, _ = call(runs, "--json")
        (found,) = json.JSONDecoder().raw_decode(text)[0]["result"]["runs"]
        return found["state"], found["gpu_hours"]

    assert row() == ("3 pushed", None)
    call(fetch, run.name, "--wait")
    assert row() == ("fetched", 3.06)
    _, text, _ = call(runs)
    assert "3.1 GPU hours on Kaggle" in text and text.count(run.name) == 1
