import json

import kaggle_stand_in
import pytest
from kaggle_stand_in import USER, make_link

from desk.records import write_object
from scripts import runs

stand_in = kaggle_stand_in.stand_in
MADE = {"run_id": "r", "kernel": "train", "files": {}}
REF = f"{USER}/salt-train"


@pytest.fixture
def show(tmp_path, capsys):
    def call(*arguments, link=None):
        status = runs.main(["--runs", str(tmp_path), *arguments], link)
        assert status == 0
        return capsys.readouterr().out

    return call


def pushed(folder, at="2026-11-22T13:15:02Z", state="pushed", **more):
    record = {"run_id": folder.name, "kernel": "train", "ref": REF, "state": state, "version": 3, "preset": "t4"}
    write_object(folder / "push.json", {**record, "machine": "NvidiaTeslaT4", "at": at, **more})
    return folder


def line(text, name):
    return next(row.split() for row in text.splitlines() if row.startswith(name))


def test_without_runs_it_says_how_to_make_one(show):
    assert "no runs yet" in show()


def test_a_run_of_the_desk_and_one_of_kaggle_side_by_side(show, tmp_path):
    write_object(
        tmp_path / "train-unet-20261121-101010-aaaa" / "manifest.json", MADE | {"score": {"best_score": 0.7843}}
    )
    folder = pushed(tmp_path / "train-t4-20261122-131502-bbbb")
    write_object(folder / "manifest.json", MADE | {"score": {"best_score": 0.81}, "minutes": 90})
    write_object(folder / "fetch.json", {"state": "COMPLETE", "seconds": 5400})
    write_object(folder / "score.json", {"best_score": 0.82})
    text = show()
    assert line(text, "train-unet")[1:] == ["desk", "finished", "unet", "0.7843", "-", "-"]
    assert line(text, "train-t4")[1:] == ["Kaggle", "fetched", "t4", "0.8200", "-", "1.5"]
    assert text.index("train-unet") < text.index("train-t4")
    assert "2 runs, 1.5 GPU hours on Kaggle\n" in text


def test_a_scored_submission_shows_both_scores(show, tmp_path):
    folder = tmp_path / "predict-20261122-141502-cd34"
    write_object(folder / "submit.json", {"state": "COMPLETE", "public": 0.78543, "private": 0.80123})
    assert line(show(), "predict")[2:] == ["scored", "-", "-", "0.78543", "/", "0.80123", "-"]


@pytest.mark.parametrize(
    ("record", "name", "content", "state"),
    [("sending", None, None, "push: open"), ("pushed", None, None, "pushed"),
     ("lacks_sources", None, None, "differs"), ("crippled", None, None, "differs"),
     ("pushed", "fetch.json", {"state": "ERROR"}, "failed"),
     ("pushed", "fetch.json", {"state": "CANCEL_ACKNOWLEDGED"}, "stopped"),
     ("pushed", "submit.json", {"state": "sending"}, "submit: open"),
     ("pushed", "submit.json", {"state": "PENDING"}, "submitted")],
)  # fmt: skip
def test_each_state_has_a_word(show, tmp_path, record, name, content, state):
    folder = pushed(tmp_path / "train-t4-20261122-131502-bbbb", state=record)
    if name:
        write_object(folder / name, content)
    (row,) = json.loads(show("--json"))["result"]["runs"]
    assert row["state"] == state


def test_a_local_failure_and_a_damaged_file_do_not_stop_the_table(show, tmp_path):
    (tmp_path / "train-20261122-131502-bbbb.failed").mkdir()
    (tmp_path / "train-20261122-131503-cccc").mkdir()
    (tmp_path / "train-20261122-131503-cccc" / "manifest.json").write_text("{half")
    rows = json.loads(show("--json"))["result"]["runs"]
    assert [row["state"] for row in rows] == ["failed", "damaged"]


def test_the_states_of_open_runs_come_from_kaggle_only_when_asked(stand_in, show, tmp_path):
    folder = tmp_path / "r"
    pushed(folder / "train-t4-20261122-131502-bbbb")
    for _ in range(3):
        stand_in.add_version(REF, states=["RUNNING"])
    (row,) = json.loads(show("--json", "--runs", str(folder)))["result"]["runs"]
    assert row["state"] == "pushed" and not stand_in.requests
    (row,) = json.loads(show("--json", "--refresh", "--runs", str(folder), link=make_link()))["result"]["runs"]
    assert row["state"] == "RUNNING"
    stand_in.fault("GetKernelSessionStatus", "html", times=9)
    text = show("--json", "--refresh", "--runs", str(folder), link=make_link(attempts=1))
    (row,) = json.loads(text)["result"]["runs"]
    assert row["state"] == "UNREADABLE"


def test_hours_that_nobody_knows_are_not_counted_as_none(show, tmp_path):
    pushed(tmp_path / "train-t4-20261122-131502-bbbb")
    text = show()
    assert line(text, "train-t4")[-1] == "?" and "and 1 run whose hours are not known yet" in text
