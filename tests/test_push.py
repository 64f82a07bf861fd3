import hashlib
import json

import kaggle_stand_in
import pytest
from kaggle_stand_in import COMPETITION, USER, assert_no_secret, kill_when_reached, make_link, make_old, start_script

import build_kernel
from desk import paths, pushing
from desk.errors import ConfigurationError
from desk.metadata import check_metadata
from desk.records import read_object, write_object
from scripts import push

stand_in = kaggle_stand_in.stand_in
REF = f"{USER}/salt-train"
KERNEL = '''\
# /// script
# requires-python = ">=3.11"
# [tool.kaggle]
# title = "Salt train"
# accelerator = "NvidiaTeslaT4"
# internet = true
# competition_sources = ["tgs-salt-identification-challenge"]
# ///
"""Train something small."""

# %% tags=["parameters"]
RUN_ID = ""

# %%
print(RUN_ID)
'''


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one small kernel, `train`."""
    root = tmp_path / "repository"
    (root / "kernels").mkdir(parents=True)
    (root / "kernels" / "train.py").write_text(KERNEL)
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "BUILD", root / "build")
    return root


@pytest.fixture
def push_train(stand_in, repository, capsys):
    """Pushes the small kernel; gives (exit status, what was printed, the link)."""

    def run(*arguments, link=None):
        link = link or make_link(seconds=0.5)
        status = push.main(["train", "--runs", str(repository / "runs"), *arguments], link)
        captured = capsys.readouterr()
        assert_no_secret(repository, text=captured.out + captured.err)
        return status, captured.out + captured.err, link

    return run


def built(repository):
    """The folder of a build."""
    assert build_kernel.main(["train", "--owner", USER], root=repository) == 0
    return repository / "build" / "train"


def run_folders(repository):
    return sorted((repository / "runs").glob("[!.]*"))


def test_a_push_is_recorded_with_its_version(stand_in, repository, push_train):
    status, text, _ = push_train("--hours", "9")
    assert status == 0 and "pushed: version 1, https://www.kaggle.com/code/tester/salt-train" in text
    (folder,) = run_folders(repository)
    record = read_object(folder / "push.json")
    assert record["state"] == "pushed" and record["version"] == 1 and record["run_id"] == folder.name
    (body,) = stand_in.calls("SaveKernel")
    assert folder.name in body["text"] and body["sessionTimeoutSeconds"] == 32400
    assert body["machineShape"] == "NvidiaTeslaT4" and body["enableGpu"]
    notebook = folder / "pushed" / "train.ipynb"
    assert notebook.read_text() == body["text"]
    assert list((folder / "pushed").glob("*.map.json"))
    assert f"fetch.py {folder.name} --wait" in text


def test_a_dry_run_looks_at_everything_and_pushes_nothing(stand_in, repository, push_train):
    status, text, _ = push_train("--dry-run")
    assert status == 0 and "nothing was pushed (--dry-run)" in text
    assert not stand_in.calls("SaveKernel") and not run_folders(repository)
    for what in ("title and id agree", "29.0 of 30 GPU hours left", f"competition {COMPETITION}", "tester, from"):
        assert what in text


def test_a_cpu_can_be_asked_for(stand_in, push_train):
    assert push_train("--accelerator", "none")[0] == 0
    (body,) = stand_in.calls("SaveKernel")
    assert not body["enableGpu"] and "machineShape" not in body
    assert not stand_in.calls("GetAcceleratorQuotaStatistics")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--accelerator", "NvidiaTeslaP100"], "retired"), (["--accelerator", "NvidiaTeslaV100"], "not known"),
     (["--owner", "no one"], "owner"), (["--set", "epochs"], "must be key=value")],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_asked(stand_in, repository, push_train, arguments, message):
    status, text, _ = push_train(*arguments)
    assert status == 1 and message in text
    assert not stand_in.calls("SaveKernel") and not run_folders(repository)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("title", "Salt training", "becomes 'salt-training'"), ("enable_gpus", True, "unknown key"),
     ("enable_internet", "true", "is no bool"), ("competition_sources", "tgs", "is no list"),
     ("dataset_sources", ["datasets/a/b"], "no name that Kaggle takes"), ("kernel_sources", ["a/b"], "no name"),
     ("competition_sources", ["https://kaggle.com/c/tgs"], "no name"), ("machine_shape", "Gpu", "not known"),
     ("enable_gpu", False, "do not fit"), ("code_file", "other.ipynb", "is not there"), ("id", "salt-train", "owner")],
)  # fmt: skip
def test_metadata_is_checked_strictly(repository, key, value, message):
    folder = built(repository)
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    check_metadata(metadata, folder)
    with pytest.raises(ConfigurationError, match=message):
        check_metadata(metadata | {key: value}, folder)


def test_a_notebook_without_kernelspec_is_refused(repository):
    folder = built(repository)
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    (folder / "train.ipynb").write_text('{"cells": [], "metadata": {}}')
    with pytest.raises(ConfigurationError, match="no kernelspec"):
        check_metadata(metadata, folder)


def test_a_credential_in_the_source_is_not_shipped(stand_in, repository, push_train):
    path = repository / "kernels" / "train.py"
    path.write_text(KERNEL.replace("print(RUN_ID)", f'print(RUN_ID, "{kaggle_stand_in.KEY}")'))
    link = make_link()
    status = push.main(["train", "--runs", str(repository / "runs")], link)
    assert status == 1 and not stand_in.calls("SaveKernel")


# --- preflight ------------------------------------------------------------------------------------------------------


def test_an_empty_quota_stops_the_push(stand_in, push_train):
    stand_in.quota = {"timeUsed": "108000s", "totalTimeAllowed": "108000s"}
    status, text, _ = push_train()
    assert status == 75 and "30 GPU hours are used up, renewed Sat 28 Nov 00:00 UTC" in text
    assert not stand_in.calls("SaveKernel")


def test_a_quota_that_cannot_be_read_does_not_stop_it(stand_in, push_train):
    stand_in.fault("GetAcceleratorQuotaStatistics", "http", status=500, times=9)
    status, text, _ = push_train()
    assert status == 0 and "quota        UNKNOWN" in text


def test_a_kernel_that_runs_is_not_pushed_again_unless_told_so(stand_in, push_train):
    stand_in.add_version(REF, states=["RUNNING"])
    status, text, _ = push_train()
    assert status == 75 and "version 1 is RUNNING" in text and "--beside" in text
    assert not stand_in.calls("SaveKernel")
    assert push_train("--beside")[0] == 0


def test_the_same_notebook_is_not_pushed_again_while_it_runs_unless_told_so(stand_in, repository, push_train):
    push_train()
    (folder,) = run_folders(repository)
    status, text, _ = push_train()
    assert status == 0 and f"this very notebook is on Kaggle as version 1, run {folder.name}" in text
    assert push_train("--beside")[0] == 0 and len(stand_in.calls("SaveKernel")) == 2


def test_two_running_gpu_sessions_stop_the_push(stand_in, repository, push_train):
    for name in ("salt-a-fold", "salt-b-fold"):
        stand_in.add_version(f"{USER}/{name}", states=["RUNNING"])
        record = {"run_id": name, "ref": f"{USER}/{name}", "state": "pushed", "version": 1, "machine": "NvidiaTeslaT4"}
        record |= {"kernel": "train"}
        write_object(repository / "runs" / name / "push.json", record)
    status, text, _ = push_train()
    assert status == 75 and "2 GPU sessions run already (tester/salt-a-fold, tester/salt-b-fold)" in text


def test_sessions_that_were_started_elsewhere_count_too(stand_in, push_train):
    for name in ("in-the-browser", "on-the-laptop"):
        stand_in.add_version(f"{USER}/{name}", request={"enableGpu": True}, states=["RUNNING"])
    stand_in.add_version(f"{USER}/finished", request={"enableGpu": True}, states=["COMPLETE"])
    status, text, _ = push_train()
    assert status == 75 and "(tester/in-the-browser, tester/on-the-laptop)" in text
    stand_in.fault("ListKernels", "http", status=500, times=9)
    status, text, _ = push_train()  # Kaggle itself refuses what is too much
    assert status == 75 and "session count of 2 reached" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [('competition_sources = ["no-such-competition"]', "does not exist"),
     ('dataset_sources = ["tester/weights"]', "upload_weights.py"),
     ('dataset_sources = ["tester/half-done"]', "is BLOBS_RECEIVED, not READY"),
     ('kernel_sources = ["salt-other"]', "push and finish that kernel first"),
     ('kernel_sources = ["salt-failed"]', "is ERROR: only a COMPLETE run has output"),
     ('model_sources = ["keras/vgg/klingon/v/1"]', "knows no framework 'klingon'"),
     ('model_sources = ["keras/vgg/keras/v/1"]', "look at the model")],
)  # fmt: skip
def test_sources_are_looked_at_before_the_push(stand_in, repository, push_train, change, message):
    stand_in.datasets["tester/half-done"] = {"files": {}, "states": ["BLOBS_RECEIVED"]}
    stand_in.add_version(f"{USER}/salt-failed", states=["ERROR"])
    kernel = KERNEL.replace(f'competition_sources = ["{COMPETITION}"]', change)
    (repository / "kernels" / "train.py").write_text(kernel)
    status, text, _ = push_train()
    assert status == 1 and message in text
    assert not stand_in.calls("SaveKernel") and not run_folders(repository)


def test_rules_that_are_not_accepted_are_named_with_their_page(stand_in, push_train):
    stand_in.accepted_rules = False
    status, text, _ = push_train()
    assert status == 1 and f"https://www.kaggle.com/competitions/{COMPETITION}/rules" in text


def test_a_run_can_be_pinned_for_mounting(stand_in, repository, push_train):
    stand_in.add_version(f"{USER}/salt-first", states=["COMPLETE"])
    stand_in.add_version(f"{USER}/salt-first", states=["RUNNING"])
    record = {"run_id": "first", "kernel": "a", "ref": f"{USER}/salt-first", "state": "pushed", "version": 1}
    write_object(repository / "runs" / "first" / "push.json", record)
    assert push_train("--run", "first")[0] == 0
    (body,) = stand_in.calls("SaveKernel")
    assert body["kernelDataSources"] == [f"{USER}/salt-first/1"]


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [({"kind": "answer", "body": {"error": "Maximum weekly GPU quota of 30.00 hours reached."}}, 75, "quota"),
     ({"kind": "answer", "body": {"error": "Maximum batch GPU session count of 2 reached."}}, 75, "when a run"),
     ({"kind": "answer", "body": {"error": "Notebook not found"}}, 1, "Notebook not found"),
     ({"kind": "http", "status": 401, "message": "Unauthorized"}, 1, "new token"),
     ({"kind": "http", "status": 403, "message": "Permission denied"}, 1, "Permission denied"),
     ({"kind": "http", "status": 409, "message": "title already in use"}, 1, "already in use"),
     ({"kind": "http", "status": 429, "headers": {"Retry-After": "9999"}}, 75, "slow down")],
)  # fmt: skip
def test_a_refused_push_leaves_no_run(stand_in, repository, push_train, fault, status, message):
    stand_in.fault("SaveKernel", times=9, **fault)
    found, text, _ = push_train()
    assert found == status and message in text and "pushed:" not in text
    assert not run_folders(repository) and len(stand_in.calls("SaveKernel")) == 1


def test_dropped_sources_are_an_error_that_names_the_running_version(stand_in, repository, push_train):
    body = {"versionNumber": 4, "url": "https://www.kaggle.com/x", "invalidCompetitionSources": ["tgs"]}
    stand_in.fault("SaveKernel", "answer", body=body)
    status, text, _ = push_train()
    assert status == 1 and "version 4 runs WITHOUT competition tgs" in text and "stop it on" in text
    assert read_object(run_folders(repository)[0] / "push.json")["state"] == "differs"


# --- pushes without an answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut_after", "hang_after"])
def test_a_push_whose_answer_is_lost_is_found(stand_in, repository, push_train, kind):
    stand_in.add_version(REF, states=["COMPLETE"])
    stand_in.fault("SaveKernel", kind)
    status, text, link = push_train()
    assert status == 0 and "found: the push arrived, as version 2" in text
    assert read_object(run_folders(repository)[0] / "push.json")["version"] == 2
    assert len(stand_in.calls("SaveKernel")) == 1 and link.time.pauses == [5.0]


@pytest.mark.parametrize(
    "fault", [{"kind": "cut"}, {"kind": "hang"}, {"kind": "html"}, {"kind": "http", "status": 500}]
)
def test_a_push_that_is_not_found_stays_open_and_is_not_repeated(stand_in, repository, push_train, fault):
    stand_in.fault("SaveKernel", **fault)
    status, text, link = push_train()
    assert status == 3 and "Do not repeat the push" in text
    (folder,) = run_folders(repository)
    assert read_object(folder / "push.json")["state"] == "ambiguous"
    assert link.time.pauses == [5.0, 15.0, 30.0] and len(stand_in.calls("SaveKernel")) == 1

    status, text, _ = push_train()  # a moment later
    assert status == 3 and "its fate is open" in text and len(stand_in.calls("SaveKernel")) == 1

    make_old(folder / "push.json")
    status, text, _ = push_train()  # long after
    assert status == 0 and "never arrived; its record is removed" in text
    assert [path.name for path in run_folders(repository)] != [folder.name]


def test_a_push_that_arrives_late_is_not_made_twice(stand_in, repository, push_train):
    stand_in.fault("SaveKernel", "cut")
    assert push_train()[0] == 3
    (body,) = stand_in.calls("SaveKernel")
    stand_in.add_version(REF, body["text"], body, states=["RUNNING"])
    status, text, _ = push_train()
    assert status == 0 and "nothing was pushed: this very notebook is on Kaggle as version 1" in text
    assert len(stand_in.calls("SaveKernel")) == 1 and len(run_folders(repository)) == 1


def test_a_version_that_somebody_else_saved_is_not_taken_for_the_lost_push(stand_in, repository, push_train):
    stand_in.add_version(REF, "first", states=["COMPLETE"])
    stand_in.fault("SaveKernel", "cut")
    link = make_link(seconds=0.5)
    link.sleep = lambda seconds: stand_in.add_version(REF, "saved in the browser", states=["COMPLETE"])
    status, text, _ = push_train(link=link)
    assert status == 3 and "Do not repeat the push" in text
    assert read_object(run_folders(repository)[0] / "push.json")["version"] is None


def test_a_lost_push_is_found_below_a_newer_version(stand_in, repository, push_train):
    stand_in.add_version(REF, "first", states=["COMPLETE"])
    stand_in.on_push = lambda version: stand_in.add_version(REF, "saved in the browser", states=["COMPLETE"])
    stand_in.fault("SaveKernel", "cut_after")
    status, text, _ = push_train()
    assert status == 0 and "arrived, as version 2" in text
    assert read_object(run_folders(repository)[0] / "push.json")["version"] == 2


def test_another_notebook_is_no_twin_of_one_that_arrived_late(stand_in, repository, push_train):
    stand_in.fault("SaveKernel", "cut")
    push_train()
    (body,) = stand_in.calls("SaveKernel")
    stand_in.add_version(REF, body["text"], body, states=["COMPLETE"])
    (repository / "kernels" / "train.py").write_text(KERNEL + "print(2)\n")
    status, text, _ = push_train()
    assert status == 0 and "did arrive, as version 1" in text and "pushed: version 2" in text


def test_a_lost_push_is_not_forgotten_while_kaggle_cannot_be_asked(stand_in, repository, push_train):
    stand_in.fault("SaveKernel", "cut_after")
    stand_in.fault("GetKernel", "http", after=1, status=503, times=99)
    assert push_train(link=make_link(attempts=1))[0] == 3
    (folder,) = run_folders(repository)
    make_old(folder / "push.json")  # long ago
    status, text, _ = push_train(link=make_link(attempts=1))
    assert status == 75 and "look at tester/salt-train" in text and run_folders(repository) == [folder]
    stand_in.faults.clear()
    status, text, _ = push_train()
    assert status == 0 and "is on Kaggle as version 1" in text and len(stand_in.calls("SaveKernel")) == 1


def test_throttled_looks_do_not_hide_that_the_fate_of_a_push_is_open(stand_in, repository, push_train):
    stand_in.fault("SaveKernel", "cut_after")
    stand_in.fault("GetKernel", "http", after=1, status=429, times=99)
    status, text, _ = push_train()
    assert status == 3 and "Do not repeat the push" in text
    assert read_object(run_folders(repository)[0] / "push.json")["state"] == "ambiguous"


def test_sources_that_kaggle_dropped_are_noticed_though_the_answer_was_lost(stand_in, repository, push_train):
    stand_in.on_push = lambda version: version["request"].pop("competitionDataSources")
    stand_in.fault("SaveKernel", "cut_after")
    status, text, _ = push_train()
    assert status == 1 and f"version 1 runs WITHOUT competition {COMPETITION}" in text
    assert read_object(run_folders(repository)[0] / "push.json")["state"] == "differs"


def test_sources_under_the_names_that_kaggle_shows_them_by_are_not_taken_for_dropped(stand_in, repository, push_train):
    stand_in.on_push = lambda version: version["request"].update(competitionDataSources=[f"c/{COMPETITION}"])
    stand_in.fault("SaveKernel", "cut_after")
    assert push_train()[0] == 0


def test_another_owner_is_pointed_out(stand_in, push_train):
    status, text, _ = push_train("--owner", "a-team")
    assert status == 0 and "which is not a-team: Kaggle takes the push only if it may write there" in text
    assert stand_in.calls("SaveKernel")[0]["slug"] == "a-team/salt-train"


KILLS = ["ListDataFiles"]
MORE_KILLS = ["GetKernel", "GetAcceleratorQuotaStatistics", "ListKernels"]


@pytest.mark.parametrize("stage", [*KILLS, *(pytest.param(kill, marks=pytest.mark.slow) for kill in MORE_KILLS)])
def test_after_kill_9_before_the_push_there_is_no_run(stand_in, repository, push_train, stage):
    stand_in.fault(stage, "hang")
    runs = repository / "runs"
    kill_when_reached(stand_in, start_script(stand_in, "push.py", "train", "--runs", runs, root=repository))
    assert not run_folders(repository)
    assert push_train()[0] == 0 and len(stand_in.calls("SaveKernel")) == 1


@pytest.mark.parametrize("kind", ["hang", "hang_after"])
def test_after_kill_9_in_the_middle_of_a_push_nothing_is_pushed_twice(stand_in, repository, capsys, kind):
    runs = repository / "runs"
    stand_in.next_states = ["COMPLETE"]
    stand_in.fault("SaveKernel", kind)
    kill_when_reached(stand_in, start_script(stand_in, "push.py", "train", "--runs", runs, root=repository))
    (folder,) = runs.glob("[!.]*")
    assert read_object(folder / "push.json")["state"] == "sending"
    status = push.main(["train", "--runs", str(runs)], make_link())
    text = capsys.readouterr()
    if kind == "hang":
        assert status == 3 and "its fate is open" in text.err
    else:
        assert status == 0 and "is on Kaggle as version 1" in text.out
    assert len(stand_in.calls("SaveKernel")) == 1
    assert_no_secret(runs, text=text.out + text.err)


@pytest.mark.parametrize("number", ["abc", 1.5, 0, -1, True, [3], "3", None])
def test_a_version_that_is_no_number_is_not_recorded_as_one(stand_in, repository, push_train, number):
    save = stand_in.do_save_kernel
    stand_in.do_save_kernel = lambda body: save(body) | {"versionNumber": number}
    status, text, _ = push_train()
    (folder,) = run_folders(repository)
    record = read_object(folder / "push.json")
    assert (status, record["state"], record["version"]) == (0, "pushed", 1)  # it was looked up
    assert ("which is none" in text or "versionNumber is" in text) and "found: the push arrived, as version 1" in text
    assert len(stand_in.calls("SaveKernel")) == 1


def test_an_answer_nested_too_deep_is_looked_up_and_the_push_not_forgotten(stand_in, repository, push_train):
    stand_in.fault("SaveKernel", "bytes", body=b"[" * 10_000)
    status, text, _ = push_train()
    assert status == 3 and "Looking for it" in text and "Do not repeat the push" in text
    assert read_object(run_folders(repository)[0] / "push.json")["state"] == "ambiguous"
    assert len(stand_in.calls("SaveKernel")) == 1


@pytest.mark.parametrize("said", ["Invalid quotation mark in the title.", "The source is concurrently edited"])
def test_a_word_within_a_word_says_nothing(stand_in, push_train, said):
    stand_in.fault("SaveKernel", "answer", body={"error": said})
    status, text, _ = push_train()
    assert status == 1 and "hours" not in text.splitlines()[-1] and said in text


def test_a_dry_run_changes_no_record(stand_in, repository, push_train):
    stand_in.fault("SaveKernel", "cut")
    assert push_train()[0] == 3
    (folder,) = run_folders(repository)
    make_old(folder / "push.json")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status, text, _ = push_train("--dry-run")
    assert status == 0 and "its answer was lost; the push looks for it first" in text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_is_kept_is_what_was_pushed_though_another_build_came_between(
    stand_in, repository, push_train, monkeypatch
):
    ask = pushing.preflight

    def meanwhile(link, request, built, earlier):
        (built.folder / built.metadata["code_file"]).write_text("another notebook")
        return ask(link, request, built, earlier)

    monkeypatch.setattr(pushing, "preflight", meanwhile)
    assert push_train()[0] == 0
    (folder,) = run_folders(repository)
    kept = folder / "pushed" / json.loads((folder / "pushed" / "kernel-metadata.json").read_text())["code_file"]
    assert kept.read_text(encoding="utf-8") == stand_in.calls("SaveKernel")[0]["text"]
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == read_object(folder / "push.json")["sha256"]


@pytest.mark.parametrize("flags", [[], ["--owner", "someone"], ["--dry-run"]])
def test_a_secret_is_refused_whatever_the_flags(stand_in, repository, capsys, flags):
    kernel = repository / "kernels" / "train.py"
    kernel.write_text(kernel.read_text() + f"\nTOKEN = '{kaggle_stand_in.KEY}'\n")
    assert push.main(["train", "--runs", str(repository / "runs"), *flags], make_link()) == 1
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "secrets would leave this desk" in text and "the notebook, cell" in text and kaggle_stand_in.KEY not in text
    assert not stand_in.calls("SaveKernel") and not list((repository / "runs").glob("*"))
