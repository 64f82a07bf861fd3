"""What Kaggle has made of a push is read back; and what clocks, limits, scores and slow answers do to the records."""

import json

import pytest
from kaggle_stand_in import COMPETITION, USER
from round_trips import PREDICT, World

from desk import deeds
from desk.records import read_object, read_record, write_object
from desk.runs import Run
from desk.states import PushRecord, SubmitRecord
from salt.artifacts import verify_run

REF = f"{USER}/salt-train"


@pytest.fixture
def world():
    made = World()
    yield made
    made.closing.close()


def record_of(world, number=0):
    return Run(world.runs / world.names()[number]).push


def test_a_push_that_is_what_was_sent_is_pushed(world):
    assert world.run(["push", "train"]) == 0 and record_of(world).state == "pushed"


def test_sources_are_compared_by_what_they_mean(world):
    world.kaggle.shouts = True  # in upper case, without owners
    assert world.run(["push", "train"]) == 0 and record_of(world).state == "pushed"


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"isPrivate": False}, "in PUBLIC"), ({"enableGpu": False}, "without a GPU"),
     ({"enableInternet": False}, "without the internet"), ({"enableTpu": True}, "on a TPU"),
     ({"machineShape": "NvidiaTeslaP100"}, "on NvidiaTeslaP100, not on NvidiaTeslaT4"),
     ({"competitionDataSources": []}, f"WITHOUT competition {COMPETITION}")],
)  # fmt: skip
def test_a_version_that_runs_otherwise_than_asked_for_is_an_error(world, changed, words):
    world.kaggle.changed = changed
    assert world.run(["push", "train"]) == 1 and f"version 1 runs {words}: stop it on https://" in world.text
    assert record_of(world).state == "differs" and record_of(world).differences == [words]
    world.run(["runs"])
    assert "differs" in world.text


def test_another_notebook_under_this_runs_id_is_an_error(world):
    def other(version):
        notebook = json.loads(version["source"])
        notebook["cells"].append({"cell_type": "code", "source": "print()", "metadata": {}})
        version["source"] = json.dumps(notebook)

    world.kaggle.on_push = other
    assert world.run(["push", "train"]) == 1 and "ANOTHER notebook than was sent" in world.text


def test_a_notebook_whose_json_is_written_otherwise_is_the_same(world):
    world.kaggle.on_push = lambda version: version.update(source=json.dumps(json.loads(version["source"]), indent=3))
    assert world.run(["push", "train"]) == 0 and record_of(world).state == "pushed"


def test_a_slug_that_kaggle_has_changed_is_followed(world):
    world.kaggle.suffix = "-2"
    assert world.run(["push", "train"]) == 0
    record = record_of(world)
    assert (record.ref, record.asked_ref, record.state) == (f"{REF}-2", REF, "pushed")
    world.time += 100
    assert world.run(["fetch", record.run_id]) == 0 and verify_run(world.runs / record.run_id)


def test_a_changed_slug_is_found_though_the_answer_was_lost(world):
    world.kaggle.suffix = "-2"
    world.kaggle.fault("SaveKernel", "cut_after")
    assert world.run(["push", "train"]) == 0 and "found: the push arrived, as version 1" in world.text
    assert record_of(world).ref == f"{REF}-2" and record_of(world).asked_ref == REF


def test_a_version_that_is_shown_late_is_saved_and_read_back_by_the_next_command(world):
    world.kaggle.late = 300
    assert world.run(["push", "train"]) == 0 and "Kaggle does not show the version yet" in world.text
    assert (record_of(world).state, record_of(world).version) == ("saved", 1)
    world.time += 400
    assert world.run(["submit", PREDICT]) == 0  # of any kind
    assert record_of(world).state == "pushed"


def test_a_version_that_is_not_shown_yet_runs(world):
    world.kaggle.late = 400
    assert world.run(["push", "train"]) == 0
    world.time -= 50  # the run goes on
    assert world.run(["push", "train"]) == 0 and "nothing was pushed" in world.text
    assert world.run(["push", "train", "--set", "seed=2"]) == 75 and "version 1 is NOT SHOWN YET" in world.text
    assert len(world.kaggle.kernels[REF]) == 1
    world.time += 700  # shown, and ended
    assert world.run(["push", "train"]) == 0 and len(world.kaggle.kernels[REF]) == 2


def test_a_deleted_kernel_does_not_count_as_one_that_is_not_shown_yet(world):
    assert world.run(["push", "train"]) == 0
    world.kaggle.kernels.clear()
    world.time += 700
    assert world.run(["push", "train"]) == 0 and list(world.kaggle.kernels) == [REF]


def test_folds_are_not_pushed_beside_the_same_ones_that_are_not_shown_yet(world):
    world.kaggle.late, world.kaggle.sessions = 400, 99  # so that Kaggle itself refuses none
    for _ in range(2):
        assert world.run(["push", "train", "--fan-out", "folds", "--set", "folds=2", "train_folds=[0,1]"]) == 0
    assert not world.wrong and {len(versions) for versions in world.kaggle.kernels.values()} == {2}


def test_a_wrong_number_in_the_answer_is_put_right(world):
    world.kaggle.fault("SaveKernel", "answer_after", body={"versionNumber": 7, "ref": REF, "url": "https://k/x"})
    assert world.run(["push", "train"]) == 0 and (record_of(world).state, record_of(world).version) == ("pushed", 1)


def test_a_fold_is_not_taken_for_the_one_that_resumes_it():
    source = json.dumps({"cells": [{"source": 'RUN_ID = "train-1-fold-1-2"\nRESUME = "train-1-fold-1"'}]})
    assert deeds.names_run(source, "train-1-fold-1-2") and not deeds.names_run(source, "train-1-fold-1")


def test_a_push_that_waits_for_kaggle_is_not_dead(world):
    """Four times 429 for 300 s each: the record says when the request went out last, and so it is nobody else's."""
    world.kaggle.fault("SaveKernel", "http", times=4, status=429, headers={"Retry-After": "300"})
    seen = []
    link = world.link
    begun = world.time

    def slow_link():
        made = link()
        made.attempts, sleep = 5, made.sleep

        def watched(seconds):
            sleep(seconds)
            path = next(world.runs.glob("train*/push.json"), None)
            if path and seconds > 100:
                with pytest.raises(Exception, match="another process"):
                    Run(path.parent).lock()
                seen.append(read_record(path.parent, PushRecord).up)

        made.sleep = watched
        return made

    world.link = slow_link
    assert world.run(["push", "train"]) == 0
    assert len(world.kaggle.kernels[REF]) == 1 and world.time - begun >= 1200
    assert [float(up.split()[1]) - begun for up in seen] == [0, 300, 600, 900]  # before each request, not once


@pytest.mark.parametrize("error", [-86_400 * 365, 86_400 * 365])
def test_a_clock_that_is_set_does_not_make_an_open_push_lost(world, error):
    world.kaggle.late = 400
    world.kaggle.fault("SaveKernel", "cut_after")
    assert world.run(["push", "train"]) == 3
    world.clock_error = error
    world.time += 100
    assert world.run(["push", "train"]) == 3 and "its fate is open" in world.text
    world.time += 400
    assert world.run(["push", "train"]) == 0 and len(world.kaggle.kernels[REF]) == 1


def test_after_a_restart_with_a_clock_set_back_the_ten_minutes_begin_anew(world):
    world.kaggle.fault("SaveKernel", "cut")
    assert world.run(["push", "train"]) == 3
    path = world.runs / world.names()[0] / "push.json"
    write_object(path, read_object(path) | {"up": "earlier 10", "at": "2036-01-01T00:00:00Z"})
    assert world.run(["push", "train"]) == 3 and "its fate is open" in world.text
    assert read_object(path)["at"] < "2027"
    world.time += 700
    assert world.run(["push", "train"]) == 0 and "never arrived; its record is removed" in world.text


def test_a_refused_second_submission_gives_the_first_ones_score_back(world):
    assert world.run(["submit", PREDICT]) == 0
    before = read_record(world.runs / PREDICT, SubmitRecord)
    world.kaggle.fault("CreateSubmission", "http", status=400, message="no")
    assert world.run(["submit", PREDICT, "--again"]) == 1
    assert read_record(world.runs / PREDICT, SubmitRecord) == before and before.public == 0.78543


def test_what_was_submitted_from_elsewhere_is_not_submitted_again(world):
    assert world.run(["submit", PREDICT]) == 0
    (world.runs / PREDICT / "submit.json").unlink()
    assert world.run(["submit", PREDICT]) == 0 and "lists a submission" in world.text
    assert len(world.kaggle.submissions) == 1


@pytest.mark.parametrize("limits", [{"kind": "http", "status": 403}, {"kind": "answer", "body": {}}])
def test_limits_that_kaggle_does_not_tell_do_not_stop_a_submission(world, limits):
    """403, and a user without a team yet, for whom every number is 0."""
    world.kaggle.fault("GetSubmissionLimits", **limits)
    assert world.run(["submit", PREDICT]) == 0 and "left today   UNKNOWN" in world.text


@pytest.mark.parametrize("score", ["nan", "inf", "1e999", "a score", ""])
def test_a_score_that_is_no_number_is_none(world, score):
    create = world.kaggle.do_create_submission

    def scored(body):
        answer = create(body)
        world.kaggle.submissions[-1]["publicScore"] = score
        return answer

    world.kaggle.do_create_submission = scored
    assert world.run(["submit", PREDICT]) == 0 and "public not shown" in world.text
    record = read_record(world.runs / PREDICT, SubmitRecord)
    assert record.state == "COMPLETE" and record.public is None and record.private == 0.80123


def test_a_number_of_somebody_elses_submission_is_not_taken(world):
    world.kaggle.submissions.append({**dict.fromkeys(["data", "publicScore", "privateScore"], ""), "ref": 77,
                                     "description": "mine", "states": ["COMPLETE"], "shown_at": 0})  # fmt: skip
    world.kaggle.fault("CreateSubmission", "answer_after", body={"message": "Successfully submitted", "ref": 77})
    assert world.run(["submit", PREDICT]) == 0
    assert read_record(world.runs / PREDICT, SubmitRecord).ref == world.kaggle.submissions[-1]["ref"]


def test_a_new_version_of_a_dataset_keeps_what_it_had(world):
    assert world.run(["upload", str(world.root / "a.h5")]) == 0
    assert world.run(["upload", str(world.root / "b.h5")]) == 0 and "is kept" in world.text
    held = world.kaggle.datasets[f"{USER}/salt-weights"]["files"]
    assert {"a.h5", "b.h5"} < set(held) and held["a.h5"] == (world.root / "a.h5").read_bytes()
    assert world.run(["upload", str(world.root / "a.h5")]) == 0 and "already; nothing was uploaded" in world.text


@pytest.mark.parametrize("name", ["a@b.h5", "ä.h5", "a b.h5", "-a.h5", "sha256-0123456789abcdef.txt"])
def test_a_name_that_kaggle_fails_on_is_refused_before_anything_is_sent(world, name):
    (world.root / name).write_bytes(b"w")
    assert world.run(["upload", str(world.root / name)]) == 1 and "rename it" in world.text
    assert not world.kaggle.requests


@pytest.mark.parametrize("late", [100, 500])
def test_an_upload_whose_answer_and_list_are_late_is_not_published_twice(world, late):
    world.kaggle.late = late
    world.kaggle.fault("CreateDataset", "cut_after")
    assert world.run(["upload", str(world.root / "a.h5")]) == 3
    assert world.run(["upload", str(world.root / "a.h5")]) == 3 and "its fate is open" in world.text
    world.time += late
    assert world.run(["upload", str(world.root / "a.h5")]) == 0
    assert len(world.kaggle.datasets[f"{USER}/salt-weights"]["versions"]) == 1


@pytest.mark.parametrize("kind", ["cut", "html", "bytes"])
def test_the_same_files_are_not_published_again_because_their_sums_do_not_come(world, kind):
    assert world.run(["upload", str(world.root / "a.h5")]) == 0
    world.kaggle.fault("DownloadDataset", kind, times=9, body=b"{}")
    assert world.run(["upload", str(world.root / "a.h5")]) in (1, 75) and not world.wrong
    assert len(world.kaggle.datasets[f"{USER}/salt-weights"]["versions"]) == 1


def test_a_new_version_that_is_listed_late_is_not_published_twice(world):
    assert world.run(["upload", str(world.root / "a.h5")]) == 0
    world.kaggle.late = 400
    assert world.run(["upload", str(world.root / "b.h5")]) == 1 and "has not got b.h5" in world.text
    assert world.run(["upload", str(world.root / "b.h5")]) == 3 and "may still publish them" in world.text
    world.time += 400
    assert world.run(["upload", str(world.root / "b.h5")]) == 0 and "already; nothing was uploaded" in world.text
    assert len(world.kaggle.datasets[f"{USER}/salt-weights"]["versions"]) == 2 and not world.wrong


@pytest.mark.parametrize(
    "verb", [["push", "train"], ["push", "train", "--fan-out", "folds", "--set", "folds=2", "train_folds=[0,1]"],
             ["submit", PREDICT]],
    ids=lambda verb: "-".join(verb[:3]),
)  # fmt: skip
def test_a_dry_run_changes_nothing_anywhere(world, verb):
    world.kaggle.fault("SaveKernel|CreateSubmission", "cut", times=2)
    world.run(["push", "train"])
    world.run(["submit", PREDICT])
    world.time += 5000
    assert world.run([*verb, "--dry-run"]) == 0
    assert not world.wrong, world.wrong  # it compares every file below the repository


@pytest.mark.parametrize("left", [".joining", ".half-written-x.json"])
def test_what_a_killed_join_left_does_not_stop_the_next(world, left):
    world.run(["push", "train", "--fan-out", "folds", "--set", "folds=2", "train_folds=[0,1]"])
    (run,) = world.names(fanned_out=True)
    (world.runs / run / left).write_text("a file in its place")
    world.time += 100
    assert world.run(["fetch", run]) == 0 and verify_run(world.runs / run)
    assert not (world.runs / run / left).exists()
