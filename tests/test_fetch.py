import hashlib
import json
import re

import kaggle_stand_in
import pytest
from kaggle_stand_in import USER, assert_no_secret, kill_when_reached, make_link, make_old, start_script

from desk import fetching, remote_output
from desk.output import ProgressLine
from desk.records import read_object, utc_now, write_object
from desk.runs import Run
from salt.artifacts import verify_run, write_manifest
from salt.config import preset
from scripts import fetch

stand_in = kaggle_stand_in.stand_in
REF = f"{USER}/salt-train"
RUN = "train-t4-20261122-131502-ab12"
FILES = {"history.csv": b"fold,epoch\n0,1\n", "fold0.weights.h5": b"weights" * 999, "deep/er/oof.npz": b"\0" * 300}


def output(tmp_path, run_id=RUN, files=None, **more) -> dict:
    """{name: bytes} of a run's output with its manifest."""
    folder = tmp_path / f"made-{run_id}"
    for name, content in (FILES if files is None else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    folder.mkdir(exist_ok=True)
    write_manifest(folder, run_id, "train", preset("smoke"), **{"minutes": 61.0, **more})
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(stand_in, tmp_path):
    """A pushed run, version 1, as the stand-in and runs/ know it."""
    folder = tmp_path / "runs" / RUN
    record = {"run_id": RUN, "kernel": "train", "ref": REF, "state": "pushed", "version": 1, "url": "https://k/x"}
    write_object(folder / "push.json", {**record, "at": "2026-11-22T13:15:02Z"})
    stand_in.leave_output(stand_in.add_version(REF, f'RUN_ID = "{RUN}"', states=["COMPLETE"]), output(tmp_path))
    return folder


@pytest.fixture
def fetch_run(stand_in, tmp_path, capsys):
    """Fetches the run; gives (exit status, what was printed, the link)."""

    def call(*arguments, run=RUN, link=None):
        link = link or make_link(seconds=0.5)
        status = fetch.main([run, "--runs", str(tmp_path / "runs"), *arguments], link)
        captured = capsys.readouterr()
        text = captured.out + captured.err + "\n".join(link.said)
        assert_no_secret(tmp_path / "runs", text=text)
        return status, text, link

    return call


def version(stand_in, number=1):
    return stand_in.kernels[REF][number - 1]


def assert_nothing_was_taken(folder):
    names = {path.name for path in folder.rglob("*") if path.is_file() and ".fetching" not in path.parts}
    assert names == {"push.json"}


def test_a_finished_run_comes_home_whole(stand_in, run, fetch_run):
    status, text, _ = fetch_run()
    assert status == 0 and "fetched: 3 files" in text and "score_oof.py" in text
    assert verify_run(run)["run_id"] == RUN
    assert (run / "deep/er/oof.npz").read_bytes() == FILES["deep/er/oof.npz"]
    assert (run / "train.log").read_text() == "done\n" and not (run / ".fetching").exists()
    facts = read_object(run / "fetch.json")
    assert facts["state"] == "COMPLETE" and facts["seconds"] == 3660


def test_a_run_that_is_here_is_not_fetched_again(stand_in, run, fetch_run):
    fetch_run()
    asked = len(stand_in.requests)
    status, text, _ = fetch_run()
    assert status == 0 and "here already" in text and len(stand_in.requests) == asked


def test_waiting_shows_the_log_as_it_grows_and_every_state(stand_in, run, fetch_run):
    version(stand_in)["states"] = ["QUEUED", "QUEUED", "RUNNING", "RUNNING", "COMPLETE"]
    version(stand_in)["live"] = "epoch 1 loss 0.5\n"
    stand_in.leave_output(version(stand_in), version(stand_in)["files"], "epoch 1 loss 0.5\nthe end\n")
    status, text, link = fetch_run("--wait")
    assert status == 0 and text.count("QUEUED") == 1 and text.count("RUNNING") == 1
    assert text.count("epoch 1 loss 0.5") == text.count("the end") == 1
    assert text.index("QUEUED") < text.index("RUNNING") < text.index("epoch 1") < text.index("fetched")
    assert len(link.time.pauses) == 4 and all(30 <= pause <= 60 for pause in link.time.pauses)


def test_pauses_vary(stand_in, run, fetch_run):
    version(stand_in)["states"] = ["RUNNING"] * 9 + ["COMPLETE"]
    link = make_link()
    numbers = iter([0.0, 0.5, 0.999] * 9)
    link.jitter = lambda: next(numbers)
    fetch_run("--wait", link=link)
    assert min(link.time.pauses) == 30 and 59 < max(link.time.pauses) < 60


def test_without_wait_a_running_run_is_only_told(stand_in, run, fetch_run):
    version(stand_in)["states"] = ["RUNNING"]
    status, text, _ = fetch_run()
    assert status == 75 and "is RUNNING; add --wait" in text
    assert_nothing_was_taken(run)


def test_a_run_that_never_leaves_the_queue_ends_at_the_deadline(stand_in, run, fetch_run):
    version(stand_in)["states"] = ["QUEUED"]
    status, text, link = fetch_run("--wait", "--hours", "0.3")
    assert status == 75 and "is QUEUED after 18 min of waiting" in text and "it never left the queue" in text
    assert 1080 <= link.time.now < 1140


def test_an_unreadable_status_is_not_taken_for_running(stand_in, run, fetch_run):
    version(stand_in)["states"] = ["RUNNING", "COMPLETE"]
    link = make_link(attempts=1)
    stand_in.fault("GetKernelSessionStatus", "http", status=500, times=3)
    status, text, _ = fetch_run("--wait", link=link)
    assert status == 0 and "UNREADABLE" in text and text.index("UNREADABLE") < text.index("RUNNING")


def test_a_status_that_stays_unreadable_is_given_up_in_the_end(stand_in, run, fetch_run):
    stand_in.fault("GetKernelSessionStatus", "html", times=999)
    status, text, _ = fetch_run("--wait", link=make_link(attempts=1))
    assert status == 75 and "UNREADABLE, 20 looks in a row; the run itself may be well" in text
    assert_nothing_was_taken(run)


def test_where_kaggle_knows_no_versions_the_run_id_decides(stand_in, run, fetch_run, tmp_path):
    stand_in.fault("GetKernelSessionStatus", "http", status=404)
    stand_in.fault("ListKernelSessionOutput", "http", status=404)
    assert fetch_run()[0] == 0
    assert verify_run(run)["run_id"] == RUN


def test_the_run_before_is_not_taken_for_one_that_kaggle_does_not_show_yet(stand_in, run, fetch_run, tmp_path):
    write_object(run / "push.json", read_object(run / "push.json") | {"version": 2})
    files = version(stand_in)["files"]
    stand_in.leave_output(version(stand_in), output(tmp_path, "train-older"))  # COMPLETE, as version 1
    link = make_link()

    def sleep(seconds, pause=link.sleep):
        pause(seconds)
        if len(link.time.pauses) == 2:
            stand_in.leave_output(stand_in.add_version(REF, states=["RUNNING", "COMPLETE"]), files)

    link.sleep = sleep
    status, text, _ = fetch_run("--wait", link=link)
    assert status == 0 and text.count("UNREADABLE") == 2 and "stale" not in text
    assert verify_run(run)["run_id"] == RUN


@pytest.mark.slow
def test_600_files_come_home(stand_in, run, fetch_run, tmp_path):
    files = {f"part{index:03d}": b"%d" % index for index in range(600)}
    stand_in.leave_output(version(stand_in), output(tmp_path / "many", files=files))
    status, text, _ = fetch_run()
    assert status == 0 and "600 files" in text
    assert len(verify_run(run)["files"]) == 600


# --- what is not right ----------------------------------------------------------------------------------------------


def test_the_output_of_the_previous_version_is_refused(stand_in, run, fetch_run, tmp_path):
    stand_in.leave_output(version(stand_in), output(tmp_path, "train-t4-20261121-000000-0000"))
    status, text, _ = fetch_run()
    assert status == 1 and "not of 'train-t4-20261122-131502-ab12': stale" in text
    assert_nothing_was_taken(run)


def test_stale_output_that_becomes_right_is_taken(stand_in, run, fetch_run, tmp_path):
    right = version(stand_in)["files"]
    stale = output(tmp_path, "train-older")
    name = "1/manifest.json"
    stand_in.leave_output(version(stand_in), right)
    original = stand_in.url
    stand_in.url = lambda key, body: original(key, stand_in.files.get(key) if key == name else body)
    stand_in.files[name] = [stale["manifest.json"], right["manifest.json"]]
    status, text, link = fetch_run()
    assert status == 0 and "stale; listing the output again (2 of 4)" in text
    assert link.time.pauses == [remote_output.RELIST]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a\\..\\..\\evil", "C:evil", "a//b"])
def test_a_name_that_leads_elsewhere_is_refused(stand_in, run, fetch_run, name, tmp_path):
    version(stand_in)["files"][name] = b"x"
    status, text, _ = fetch_run()
    assert status == 1 and "leads out of the run's folder; nothing was taken" in text
    assert_nothing_was_taken(run)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("name", ["../evil", "push.json", "pushed/train.ipynb"])
def test_a_manifest_that_names_what_is_not_the_runs_is_refused(stand_in, run, fetch_run, name, tmp_path):
    manifest = json.loads(version(stand_in)["files"]["manifest.json"])
    manifest["files"][name] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    version(stand_in)["files"]["manifest.json"] = json.dumps(manifest).encode()
    status, text, _ = fetch_run()
    assert status == 1 and ("leads out" in text or "not a run's to write" in text)
    assert_nothing_was_taken(run)


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"weights" * 998, "6,986 bytes, not 6,993"), (b"weighty" * 999, "another SHA-256"),
     (b"<html>Sign in</html>", "20 bytes, not 6,993")],
)  # fmt: skip
def test_a_wrong_file_is_fetched_again_and_then_refused(stand_in, run, fetch_run, body, message):
    version(stand_in)["files"]["fold0.weights.h5"] = body
    status, text, _ = fetch_run()
    assert status == 1 and message in text and len(stand_in.calls("ListKernelSessionOutput")) == remote_output.LISTINGS
    assert_nothing_was_taken(run)


@pytest.mark.parametrize(
    "fault", [{"kind": "http", "status": 403}, {"kind": "http", "status": 503}, {"kind": "cut"}, {"kind": "cut_after"},
              {"kind": "html"}, {"kind": "hang"}],
)  # fmt: skip
def test_a_transfer_that_fails_is_repeated_with_a_new_listing(stand_in, run, fetch_run, fault):
    stand_in.fault("GET /files/1/fold0.*", **fault)
    status, text, _ = fetch_run()
    assert status == 0 and "1 of 3 files are not right" in text
    assert len(stand_in.calls("ListKernelSessionOutput")) == 2
    fetched = [name for name, _, _ in stand_in.requests]
    assert fetched.count("GET /files/1/history.csv") == 1  # what was right is not fetched again
    assert verify_run(run)


def test_a_manifest_that_is_an_error_page_is_none(stand_in, run, fetch_run):
    stand_in.fault("GET /files/1/manifest.json", "html", times=9)
    status, text, _ = fetch_run()
    assert status == 1 and "what Kaggle gives as manifest.json is none" in text
    assert_nothing_was_taken(run)


def test_a_complete_run_without_manifest_did_not_reach_its_end(stand_in, run, fetch_run):
    del version(stand_in)["files"]["manifest.json"]
    status, text, _ = fetch_run()
    assert status == 1 and "left no manifest.json (it has 3 files)" in text


# --- failed runs ----------------------------------------------------------------------------------------------------


def test_a_failed_run_shows_its_traceback_with_the_packages_files(stand_in, run, fetch_run):
    (run / "pushed").mkdir()
    known = {"hashes": {}, "texts": {"3": [[1, 20, "salt/losses.py", 31]]}}
    (run / "pushed" / "train.map.json").write_text(json.dumps(known))
    log = "epoch 1\nTraceback (most recent call last):\nCell In[3], line 5\nValueError: a nan\n"
    stand_in.leave_output(version(stand_in), {"history.csv": b"1"}, log)
    version(stand_in).update(states=["RUNNING", "ERROR"], message="Exit code 1")
    status, text, _ = fetch_run("--wait")
    assert status == 1 and "File salt/losses.py:35" in text and "ValueError: a nan" in text
    assert "failed on Kaggle (ERROR). Kaggle says: Exit code 1" in text
    assert (run / "train.log").read_text() == log
    assert (run / "partial" / "history.csv").read_bytes() == b"1"
    assert not (run / "manifest.json").exists()
    assert read_object(run / "fetch.json")["state"] == "ERROR"


def test_a_run_stopped_after_12_hours_keeps_what_it_had_written(stand_in, run, fetch_run):
    message = "Your notebook was stopped because it exceeded the max allowed execution duration."
    version(stand_in).update(states=["CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"], message=message)
    status, text, _ = fetch_run("--wait")
    assert status == 1 and "was stopped on Kaggle (CANCEL_ACKNOWLEDGED)" in text and message in text
    assert (run / "partial" / "fold0.weights.h5").read_bytes() == FILES["fold0.weights.h5"]
    assert "4 unchecked files" in text


def test_a_failed_run_without_output_or_log_still_says_so(stand_in, run, fetch_run):
    version(stand_in).update(states=["ERROR"], files={}, log="")
    status, text, _ = fetch_run()
    assert status == 1 and "there is no log" in text


# --- lost and interrupted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["sending", "ambiguous"])
def test_a_push_whose_answer_was_lost_is_found_by_fetch(stand_in, run, fetch_run, state):
    record = read_object(run / "push.json")
    write_object(run / "push.json", record | {"state": state, "version": None, "previous": 0})
    status, text, _ = fetch_run()
    assert status == 0 and "did arrive, as version 1" in text
    write_object(run / "push.json", record | {"state": state, "version": None, "previous": 1})
    (run / "manifest.json").unlink()
    status, text, _ = fetch_run()
    assert status == 3 and "shows no such version yet" in text and (run / "history.csv").exists()


def test_a_push_that_never_arrived_leaves_no_run_when_it_is_fetched_long_after(stand_in, run, fetch_run):
    record = read_object(run / "push.json") | {"state": "sending", "version": None, "previous": 1}
    write_object(run / "push.json", record | {"at": utc_now()})
    status, text, _ = fetch_run()
    assert status == 3 and "its fate is open" in text
    make_old(run / "push.json")
    status, text, _ = fetch_run()
    assert status == 1 and "never arrived on Kaggle; push it again" in text and not run.exists()


KILLS = ["GET /files/1/fold0.*"]
MORE_KILLS = ["GetKernelSessionStatus", "ListKernelSessionOutput", "GET /files/1/manifest.json", "GET /files/1/deep.*"]


@pytest.mark.parametrize("stage", [*KILLS, *(pytest.param(kill, marks=pytest.mark.slow) for kill in MORE_KILLS)])
def test_after_kill_9_the_same_command_goes_on(stand_in, run, fetch_run, stage, tmp_path):
    stand_in.fault(stage, "hang")
    kill_when_reached(stand_in, start_script(stand_in, "fetch.py", RUN, "--runs", tmp_path / "runs"))
    assert not (run / "manifest.json").exists()
    assert fetch_run()[0] == 0
    assert verify_run(run)["run_id"] == RUN and not (run / ".fetching").exists()


def test_a_run_cut_off_while_its_files_moved_is_not_whole(stand_in, run, fetch_run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "write_log", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert fetch_run()[0] == 130
    assert (run / "history.csv").exists() and not (run / "manifest.json").exists()
    assert fetch_run()[0] == 0
    assert verify_run(run)["run_id"] == RUN


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["GetKernelSessionStatus", "ListKernelSessionOutput", "GET /files/1/history.csv"])
def test_after_kill_9_a_failed_run_shows_why_all_the_same(stand_in, run, fetch_run, stage, tmp_path):
    stand_in.leave_output(version(stand_in), {"history.csv": b"1"}, "ValueError: a nan\n")
    version(stand_in).update(states=["ERROR"], message="Exit code 1")
    stand_in.fault(stage, "hang")
    kill_when_reached(stand_in, start_script(stand_in, "fetch.py", RUN, "--runs", tmp_path / "runs"))
    status, text, _ = fetch_run()
    assert status == 1 and "ValueError: a nan" in text
    assert (run / "partial" / "history.csv").read_bytes() == b"1"


def test_two_processes_do_not_fetch_one_run(stand_in, run, fetch_run):
    with Run(run).lock():
        status, text, _ = fetch_run()
    assert status == 75 and "another process at this desk works on it" in text and not stand_in.requests


def test_throttling_does_not_end_the_waiting(stand_in, run, fetch_run):
    stand_in.fault("GetKernelSessionStatus", "http", status=429, headers={"Retry-After": "30"}, times=3)
    status, text, _ = fetch_run("--wait", link=make_link(attempts=1))
    assert status == 0 and "UNREADABLE" in text and "fetched" in text


def test_an_expired_address_is_replaced_by_a_new_listing(stand_in, run, fetch_run):
    url, listed = stand_in.url, []

    def expiring(name, body):
        listed.append(name)
        address = url(name, body)
        if name == "1/history.csv" and listed.count(name) == 1:
            stand_in.files[name] = None  # what is there now is Kaggle's <Error><Code>ExpiredToken
        return address

    stand_in.url = expiring
    status, text, _ = fetch_run()
    assert status == 0 and "history.csv: " in text and "listing the output again (2 of 4)" in text
    assert (run / "history.csv").read_bytes() == FILES["history.csv"]


def test_the_hours_of_a_failed_run_are_those_of_its_log(stand_in, run, fetch_run):
    stand_in.leave_output(version(stand_in), {}, "half way\n")
    version(stand_in).update(states=["ERROR"])
    fetch_run()
    assert read_object(run / "fetch.json")["seconds"] == 62


def test_a_file_of_the_run_that_was_changed_here_is_fetched_again(stand_in, run, fetch_run):
    fetch_run()
    (run / "history.csv").write_text("touched")
    assert fetch_run()[0] == 0
    assert (run / "history.csv").read_bytes() == FILES["history.csv"]


def test_a_local_run_cannot_be_fetched(stand_in, tmp_path, fetch_run):
    (tmp_path / "runs" / "train-here").mkdir(parents=True)
    status, text, _ = fetch_run(run="train-here")
    assert status == 1 and "has no push.json" in text


def test_the_progress_line_is_one_line_on_a_terminal():
    class Terminal:
        text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal = Terminal()
    line = ProgressLine(terminal)
    line.show("RUNNING")
    line.show("RUNNING still")
    line.end()
    assert "\n" not in terminal.text and len(re.findall(r"\r", terminal.text)) == 3
