import csv
import dataclasses
import re

import kaggle_stand_in
import pytest
from kaggle_stand_in import COMPETITION, KEY, assert_no_secret, kill_when_reached, make_link, make_old, start_script

from desk import paths
from desk.records import read_object
from desk.runs import Run
from salt.airbus import COMPETITION as AIRBUS
from salt.artifacts import write_manifest
from salt.config import preset
from salt.scenes import write_scenes
from scripts import submit

stand_in = kaggle_stand_in.stand_in
RUN = "predict-20261122-141502-cd34"
IDS = [f"t{index}" for index in range(12)]


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("id", "rle_mask"), *rows])


def make_run(folder, rows=None, run_id=RUN):
    default = [(name, "1 101" if index % 2 else "") for index, name in enumerate(IDS)]
    write_csv(folder / "submission.csv", rows or default)
    write_manifest(folder, run_id, "predict", preset("smoke"))
    return folder


@pytest.fixture
def run(stand_in, tmp_path, monkeypatch):
    root = tmp_path / "repository"
    write_csv(root / "made" / "sample.csv", [(name, "1 1") for name in IDS])
    stand_in.competitions[COMPETITION]["sample_submission.csv"] = (root / "made" / "sample.csv").read_bytes()
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "BUILD", root / "build")
    return make_run(root / "runs" / RUN)


@pytest.fixture
def submit_run(run, capsys):
    def call(*arguments, link=None):
        link = link or make_link(seconds=0.5)
        status = submit.main([RUN, "--runs", str(run.parent), *arguments], link)
        captured = capsys.readouterr()
        text = captured.out + captured.err + "\n".join(link.said)
        assert_no_secret(run.parent, text=text)
        return status, text, link

    return call


def test_a_submission_is_checked_sent_scored_and_recorded(stand_in, run, submit_run):
    status, text, link = submit_run("--message", "five folds")
    assert status == 0 and "12 rows, 50% of them empty" in text and "public 0.78543, private 0.80123" in text
    (one,) = stand_in.submissions
    assert one["description"] == f"[{RUN}] five folds" and one["data"] == (run / "submission.csv").read_bytes()
    record = read_object(run / "submit.json")
    assert record["state"] == "COMPLETE" and record["public"] == 0.78543 and record["ref"] == 4000
    assert link.time.pauses == [10.0]


def test_a_run_is_submitted_once(stand_in, submit_run):
    submit_run()
    status, text, _ = submit_run()
    assert status == 0 and "is submitted already, as 4000" in text and "0.78543" in text
    assert len(stand_in.submissions) == 1


def test_a_dry_run_checks_and_submits_nothing(stand_in, run, submit_run):
    status, text, _ = submit_run("--dry-run")
    assert status == 0 and "12 rows" in text and not stand_in.submissions
    assert not (run / "submit.json").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [([(name, "") for name in IDS[1:]], "missing 1: t0"), ([(name, "") for name in [*IDS, "x"]], "extra 1: x"),
     ([(name, "10201 2") for name in IDS], "t0"), ([(name, "5 0") for name in IDS], "t0")],
)  # fmt: skip
def test_a_file_that_kaggle_would_refuse_is_refused_here(stand_in, run, submit_run, rows, message):
    make_run(run, rows)
    status, text, _ = submit_run()
    assert status == 1 and message in text
    assert not stand_in.calls("StartSubmissionUpload")


def test_a_file_that_is_not_what_the_run_wrote_is_refused(stand_in, run, submit_run):
    (run / "submission.csv").write_text("id,rle_mask\n")
    status, text, _ = submit_run()
    assert status == 1 and "does not match its manifest" in text and not stand_in.requests


def test_a_run_under_another_name_is_refused(stand_in, run, submit_run):
    make_run(run, run_id="predict-other")
    status, text, _ = submit_run()
    assert status == 1 and "is of run 'predict-other'" in text


def test_without_a_submission_left_nothing_is_sent(stand_in, submit_run):
    stand_in.submissions_left = 0
    status, text, _ = submit_run()
    assert status == 75 and "no submission is left today" in text
    assert not stand_in.calls("StartSubmissionUpload")


def test_a_limit_that_kaggle_finds_itself_is_called_so(stand_in, run, submit_run):
    message = "Submission not allowed: Your team has used its daily Submission limit (5)"
    stand_in.fault("GetSubmissionLimits", "http", status=404)
    stand_in.fault("CreateSubmission", "http", status=400, message=message)
    status, text, _ = submit_run()
    assert status == 75 and "daily Submission limit" in text and "left today   UNKNOWN" in text
    assert not (run / "submit.json").exists()


@pytest.mark.parametrize("message", ["The file has unlimited rows", "maximum of the mask is 2", "delimiter of today"])
def test_a_word_within_a_word_is_no_limit(stand_in, submit_run, message):
    stand_in.fault("CreateSubmission", "http", status=400, message=message)
    status, text, _ = submit_run()
    assert status == 1 and message in text and "the count starts anew" not in text


@pytest.mark.parametrize(
    ("fault", "message"),
    [({"kind": "http", "status": 400, "message": "Submission refused"}, "Submission refused"),
     ({"kind": "http", "status": 403, "message": "no"}, "accept the competition's rules"),
     ({"kind": "http", "status": 401, "message": "no"}, "new token"),
     ({"kind": "answer", "body": {"message": "Could not submit to competition"}}, "Could not submit")],
)  # fmt: skip
def test_a_refused_submission_is_an_error_and_may_be_sent_again(stand_in, run, submit_run, fault, message):
    stand_in.fault("CreateSubmission", **fault)
    status, text, _ = submit_run()
    assert status == 1 and message in text and "leaderboard" not in text
    assert not (run / "submit.json").exists()
    assert submit_run()[0] == 0


@pytest.mark.parametrize("code", [400, 503])
def test_a_failed_upload_submits_nothing(stand_in, run, submit_run, code):
    stand_in.fault("PUT /upload/.*", "http", status=code, times=99)
    status, text, _ = submit_run()
    assert status == 75 and "nothing was submitted" in text
    assert not stand_in.calls("CreateSubmission") and not (run / "submit.json").exists()


@pytest.mark.parametrize("kind", ["cut_after", "hang_after"])
def test_a_submission_whose_answer_is_lost_is_found(stand_in, submit_run, kind):
    stand_in.fault("CreateSubmission", kind)
    status, text, _ = submit_run()
    assert status == 0 and "found: the submission arrived, as 4000" in text and "0.78543" in text
    assert len(stand_in.submissions) == 1


@pytest.mark.parametrize(
    "fault",
    [{"kind": "cut"}, {"kind": "http", "status": 500}, {"kind": "html"},
     {"kind": "answer", "body": {"message": "Thank you"}}, {"kind": "answer", "body": {}},
     {"kind": "answer", "body": {"message": "It could not submit to scoring at once"}}],
)  # fmt: skip
def test_a_submission_that_is_not_found_is_not_sent_blindly_again(stand_in, run, submit_run, fault):
    stand_in.fault("CreateSubmission", **fault)
    status, text, _ = submit_run()
    assert status == 3 and "may still count it" in text
    status, text, _ = submit_run()
    assert status == 3 and "does not show it yet" in text and len(stand_in.calls("CreateSubmission")) == 1
    read_object(run / "submit.json")
    status, text, _ = submit_run("--again")
    assert status == 3 and "does not show it yet" in text  # it may still arrive
    make_old(run / "submit.json")
    status, text, _ = submit_run()
    assert status == 3 and "if it is not there, submit.py" in text
    assert len(stand_in.calls("CreateSubmission")) == 1
    assert submit_run("--again")[0] == 0
    assert len(stand_in.submissions) == 1


def test_a_run_that_is_scored_or_cannot_be_scored_is_submitted_again_only_on_request(stand_in, run, submit_run):
    stand_in.next_scores = ["ERROR"]
    assert submit_run()[0] == 1
    stand_in.next_scores = ["PENDING"]
    status, _, _ = submit_run("--again", "--minutes", "0")
    assert status == 75 and len(stand_in.submissions) == 2
    status, text, _ = submit_run("--again")
    assert status == 1 and "is not scored yet; wait for it" in text and len(stand_in.submissions) == 2
    stand_in.submissions[1]["states"] = ["COMPLETE"]
    assert submit_run()[0] == 0 and read_object(run / "submit.json")["ref"] == stand_in.submissions[1]["ref"]
    stand_in.next_scores = ["COMPLETE"]
    stand_in.fault("CreateSubmission", "cut_after")  # the answer is lost: the third is not taken for an earlier one
    status, text, _ = submit_run("--again")
    assert status == 0 and len(stand_in.submissions) == 3
    record = read_object(run / "submit.json")
    assert record["ref"] == stand_in.submissions[2]["ref"]
    assert record["earlier"] == [stand_in.submissions[0]["ref"], stand_in.submissions[1]["ref"]]


def test_a_submission_of_a_run_whose_name_ends_alike_is_another_one(stand_in, run, submit_run):
    stand_in.fault("CreateSubmission", "cut")
    other = {"ref": 7, "description": f"[re-{RUN}] of {RUN}", "status": "COMPLETE"}
    stand_in.do_list_submissions = lambda body: {"submissions": [other]}
    assert submit_run()[0] == 3


def test_a_description_longer_than_kaggle_takes_is_refused(stand_in, submit_run):
    status, text, _ = submit_run("--message", "x" * 480)
    assert status == 1 and "characters, and Kaggle takes 500; shorten it" in text and not stand_in.submissions


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_description_with_a_secret_is_refused(stand_in, submit_run, more):
    status, text, _ = submit_run("--message", f"with {KEY}", *more)
    assert status == 1 and "--message, line 1: the secret of" in text and not stand_in.calls("StartSubmissionUpload")


def test_a_lost_submission_is_not_sent_again_while_kaggle_cannot_be_asked(stand_in, run, submit_run):
    stand_in.fault("CreateSubmission", "cut_after")
    stand_in.fault("ListSubmissions", "http", status=503, after=1, times=99)
    assert submit_run(link=make_link(attempts=1))[0] == 3
    read_object(run / "submit.json")
    make_old(run / "submit.json")  # long ago
    status, text, _ = submit_run(link=make_link(attempts=1))
    assert status == 75 and "list the submissions" in text and len(stand_in.calls("CreateSubmission")) == 1
    stand_in.faults.clear()
    status, text, _ = submit_run()
    assert status == 0 and "did arrive, as 4000" in text and len(stand_in.submissions) == 1


def test_a_lost_submission_is_found_behind_many_others(stand_in, run, submit_run):
    stand_in.fault("CreateSubmission", "cut_after")
    submit_run_once = stand_in.do_list_submissions

    def pages(body):
        more = [{"ref": number, "description": "other", "status": "COMPLETE"} for number in range(100)]
        return submit_run_once(body) if body.get("pageToken") else {"submissions": more, "nextPageToken": "2"}

    stand_in.do_list_submissions = pages
    status, text, _ = submit_run()
    assert status == 0 and "found: the submission arrived, as 4000" in text and len(stand_in.submissions) == 1


def test_two_processes_do_not_submit_one_run(stand_in, run, submit_run):
    with Run(run).lock():
        status, text, _ = submit_run()
    assert status == 75 and "another process at this desk works on it" in text and not stand_in.requests


def test_throttling_does_not_end_the_waiting_for_a_score(stand_in, submit_run):
    stand_in.fault("GetSubmission", "http", status=429, headers={"Retry-After": "30"}, times=2)
    status, text, _ = submit_run(link=make_link(attempts=1))
    assert status == 0 and "UNREADABLE" in text and "0.78543" in text


def test_a_score_that_takes_long_is_waited_for_with_growing_pauses(stand_in, submit_run):
    stand_in.next_scores = ["PENDING"] * 6 + ["COMPLETE"]
    status, text, link = submit_run()
    assert status == 0 and link.time.pauses == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    assert len(re.findall("PENDING", text)) == 1


def test_a_score_that_does_not_come_is_waited_for_by_the_next_command(stand_in, run, submit_run):
    stand_in.next_scores = ["PENDING"]
    status, text, _ = submit_run("--minutes", "3")
    assert status == 75 and "run the same command again" in text
    stand_in.submissions[0]["states"] = ["COMPLETE"]
    status, text, _ = submit_run()
    assert status == 0 and "0.78543" in text and len(stand_in.submissions) == 1


def test_an_unreadable_answer_does_not_end_the_waiting(stand_in, submit_run):
    stand_in.fault("GetSubmission", "html", times=1)
    status, text, _ = submit_run(link=make_link(attempts=1))
    assert status == 0 and "UNREADABLE" in text


def test_a_submission_that_kaggle_cannot_score_is_an_error(stand_in, run, submit_run):
    stand_in.next_scores = ["PENDING", "ERROR"]
    status, text, _ = submit_run()
    assert status == 1 and "Evaluation metric raised" in text
    assert read_object(run / "submit.json")["state"] == "ERROR"


KILLS = [("CreateSubmission", "hang_after"), ("GetSubmission", "hang")]
MORE_KILLS = [("GetSubmissionLimits", "hang"), ("StartSubmissionUpload", "hang"), ("PUT /upload/.*", "hang"),
              ("PUT /upload/.*", "hang_after"), ("CreateSubmission", "hang")]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "kind"), [*KILLS, *(pytest.param(*kill, marks=pytest.mark.slow) for kill in MORE_KILLS)]
)
def test_after_kill_9_the_same_command_submits_once(stand_in, run, submit_run, stage, kind, tmp_path):
    stand_in.fault(stage, kind)
    data = run.parent.parent / "data"
    write_csv(data / "train.csv", [])
    (data / "sample_submission.csv").write_bytes(stand_in.competitions[COMPETITION]["sample_submission.csv"])
    for name in ("train/images", "train/masks", "test/images"):
        (data / name).mkdir(parents=True)
        (data / name / "a.png").write_bytes(b"")
    arguments = [RUN, "--runs", run.parent, "--data", data]
    kill_when_reached(stand_in, start_script(stand_in, "submit.py", *arguments))
    if (stage, kind) == ("CreateSubmission", "hang"):  # long ago, so that it surely did not arrive
        assert submit_run("--data", str(data))[0] == 3
        read_object(run / "submit.json")
        make_old(run / "submit.json")
    again = ["--again"] if (stage, kind) == ("CreateSubmission", "hang") else []
    status, text, _ = submit_run("--data", str(data), *again)
    assert status == 0 and "0.78543" in text and len(stand_in.submissions) == 1


def test_a_file_of_another_competition_goes_to_that_one(stand_in, tmp_path, capsys):
    folder, runs = tmp_path / "data", tmp_path / "runs"
    write_scenes(dataclasses.replace(AIRBUS, size=(48, 48)), folder, train=4, test=3, progress=False)
    sample = (folder / "sample_submission_v2.csv").read_text().splitlines()
    (tmp_path / "ships.csv").write_text("\n".join([sample[0], *(f"{row.partition(',')[0]},1 2" for row in sample[1:])]))
    stand_in.competitions[AIRBUS.slug] = {}
    arguments = [str(tmp_path / "ships.csv"), "--data", str(folder), "--runs", str(runs)]
    assert submit.main([*arguments, "--competition", "carvana"], make_link(seconds=0.5)) != 0
    assert not stand_in.submissions and "no folder holds the whole competition 'carvana" in capsys.readouterr().err
    assert submit.main(arguments, make_link(seconds=0.5)) == 0
    (made,) = (each.parent for each in runs.glob("*/manifest.json"))
    assert read_object(made / "manifest.json")["competition"] == AIRBUS.slug
    assert "3 rows" in capsys.readouterr().out and len(stand_in.submissions) == 1
    status = submit.main([made.name, "--runs", str(runs), "--competition", "airbus"], make_link(seconds=0.5))
    assert status != 0 and "a run, whose manifest says it; leave it out" in capsys.readouterr().err
