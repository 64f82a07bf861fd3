import contextlib
import dataclasses
import itertools
import json
import re
import subprocess
import sys

import pytest

from desk import paths, records
from desk.errors import BusyError
from desk.records import (
    GONE,
    NEW,
    DamagedRecord,
    IllegalStep,
    read_object,
    read_record,
    remove_record,
    seconds_since,
    write_object,
    write_record,
)
from desk.runs import Run
from desk.states import KINDS, FetchRecord, Manifest, PushRecord, QueueRecord, SubmitRecord, UploadRecord

PUSH = {"run_id": "train-1", "kernel": "train", "ref": "me/salt-train", "state": "pushed", "version": 3}
WHOLE = {
    PushRecord: PUSH, FetchRecord: {"state": "COMPLETE"}, SubmitRecord: {"state": "PENDING", "ref": 4000},
    UploadRecord: {"state": "sending", "ref": "me/weights", "files": {"a.h5": 3}},
    QueueRecord: {"run_id": "train-1", "kernel": "train", "folds": [0, 1]},
    Manifest: {"run_id": "train-1", "kernel": "train", "files": {"a": {"bytes": 1, "sha256": "0"}}},
}  # fmt: skip
STATEFUL = [kind for kind in KINDS if kind.STEPS]


def state_pairs():
    for kind in STATEFUL:
        yield from ((kind, before, after) for before, after in itertools.product(kind.STEPS, [*kind.STEPS, GONE]))


@pytest.mark.parametrize(("kind", "before", "after"), list(state_pairs()), ids=lambda part: getattr(part, "FILE", part))
def test_no_step_happens_but_those_of_the_table(tmp_path, kind, before, after):
    if after == NEW:
        return
    if before != NEW:
        write_object(tmp_path / kind.FILE, WHOLE[kind] | {"state": before})
    allowed = after in kind.STEPS[before]
    refused = pytest.raises(IllegalStep, match=re.escape(f"from {before} to {after}"))
    with contextlib.nullcontext() if allowed else refused:
        if after == GONE:
            remove_record(tmp_path, kind)
        else:
            write_record(tmp_path, kind(**WHOLE[kind] | {"state": after}))
    left = read_object(tmp_path / kind.FILE).get("state", GONE if before != NEW else NEW)
    assert left == (after if allowed else before)


@pytest.mark.parametrize("kind", STATEFUL, ids=lambda kind: kind.FILE)
def test_the_table_knows_the_states_of_a_record_and_each_can_be_reached(kind):
    states = set(records.field_types(kind)["state"].__args__)
    assert set(kind.STEPS) == states | {NEW}
    reached = {NEW}
    for _ in states:
        reached |= {after for before in reached if before != GONE for after in kind.STEPS[before]}
    assert reached - {GONE} == states | {NEW}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.FILE)
def test_a_record_of_the_first_schema_is_read_and_written_in_the_second(tmp_path, kind):
    write_object(tmp_path / kind.FILE, WHOLE[kind])
    record = read_record(tmp_path, kind)
    assert record is not None and record.schema == 2
    assert {name: getattr(record, name) for name in WHOLE[kind]} == WHOLE[kind]
    assert "schema" in dataclasses.asdict(record)


@pytest.mark.parametrize("state", ["crippled", "lacks_sources"])
def test_what_was_called_otherwise_is_known(tmp_path, state):
    write_object(tmp_path / "push.json", PUSH | {"state": state})
    assert Run(tmp_path).push.state == "differs" and Run(tmp_path).push.differences == ["WITHOUT some of its sources"]


WRONG = [
    (PushRecord, {"version": "3"}, "version is '3', and must be a whole number from 1"),
    (PushRecord, {"version": 0}, "version is 0"), (PushRecord, {"version": True}, "version is True"),
    (PushRecord, {"state": "sent"}, "state is 'sent', and must be one of queued, sending"),
    (PushRecord, {"state": ["pushed"]}, "state is ['pushed']"), (PushRecord, {"run_id": None}, "run_id is None"),
    (PushRecord, {"run_id": "a/b"}, "a name without / and"), (PushRecord, {"ref": "salt-train"}, "must be owner/slug"),
    (PushRecord, {"at": "yesterday"}, "a time such as"), (PushRecord, {"at": "2026-11-22T13:15:02"}, "a time such as"),
    (PushRecord, {"settings": []}, "settings is [], and must be an object"),
    (PushRecord, {"hours": 1e9}, "from 0 to 12"),
    (PushRecord, {"schema": 3}, "schema is 3, and this version of the desk knows up to 2"),
    (PushRecord, {"sha256": "abc"}, "64 hexadecimal digits"), (PushRecord, {"differences": [1]}, "each of it a text"),
    (PushRecord, {"url": "\ud800"}, "url is '\\ud800'"), (PushRecord, {"url": "file:///x"}, "must be an address"),
    (FetchRecord, {"seconds": float("nan")}, "seconds is nan"), (FetchRecord, {"state": "RUNNING"}, "one of COMPLETE"),
    (SubmitRecord, {"public": "0.8"}, "public is '0.8', and must be a number"), (SubmitRecord, {"ref": 0}, "ref is 0"),
    (QueueRecord, {"folds": "01"}, "folds is '01'"), (QueueRecord, {"folds": [0, -1]}, "a whole number from 0"),
    (Manifest, {"files": {"a": 3}}, "files is {'a': 3}"), (Manifest, {"finished": "no"}, "must be true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "message"), WRONG)
def test_a_damaged_record_names_file_field_value_and_remedy(tmp_path, kind, change, message):
    folder = tmp_path / "train-1"
    folder.mkdir()
    (folder / kind.FILE).write_text(json.dumps(WHOLE[kind] | change))
    with pytest.raises(DamagedRecord) as found:
        read_record(folder, kind)
    assert f"{folder / kind.FILE}: " in str(found.value) and message in str(found.value)
    assert kind.REMEDY.format(run="train-1") in str(found.value)


@pytest.mark.parametrize("name", ["run_id", "ref", "state", "kernel"])
def test_a_field_that_is_missing_is_named(tmp_path, name):
    write_object(tmp_path / "push.json", {key: value for key, value in PUSH.items() if key != name})
    with pytest.raises(DamagedRecord, match=f"{name} is missing"):
        read_record(tmp_path, PushRecord)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "Expecting value"), (b'{"state": "pus', "Unterminated"), (b"[]", "no JSON object"),
     (b"null", "no JSON object"),
     (b"[" * 100_000, "nested too deep"), (b'{"settings": ' + b"[" * 100_000, "nested too deep"),
     (b"\xff\xff\xff", "is no text"), (b'{"version": ' + b"9" * 5000 + b"}", "digits")],
)  # fmt: skip
def test_a_file_that_is_no_record_is_an_error_and_no_traceback(tmp_path, content, message):
    (tmp_path / "push.json").write_bytes(content)
    with pytest.raises(DamagedRecord, match=message):
        read_record(tmp_path, PushRecord)


def test_a_record_that_is_too_large_or_a_folder_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MOST_RECORD", 10)
    write_object(tmp_path / "push.json", PUSH)
    with pytest.raises(DamagedRecord, match="more than any record"):
        read_record(tmp_path, PushRecord)
    (tmp_path / "fetch.json").mkdir()
    monkeypatch.setattr(records, "MOST_RECORD", 1 << 20)
    with pytest.raises(DamagedRecord, match="directory"):
        read_record(tmp_path, FetchRecord)


def test_a_record_that_would_be_damaged_is_not_written(tmp_path):
    with pytest.raises(IllegalStep, match="version is 0"):
        write_record(tmp_path, PushRecord(**PUSH | {"state": "sending", "version": 0}))
    assert not list(tmp_path.iterdir())


def test_the_time_that_passed_is_that_of_the_machine_and_not_of_its_clock(monkeypatch):
    monkeypatch.setattr(records, "since_boot", lambda: ("boot", 1000.0))
    assert seconds_since("2036-01-01T00:00:00Z", "boot 400") == 600  # the clock was set back by years
    assert seconds_since("2016-01-01T00:00:00Z", "boot 999") == 1  # and forth
    assert seconds_since("2036-01-01T00:00:00Z", "other 400") is None  # after a restart nothing else is known
    assert seconds_since("2016-01-01T00:00:00Z", "") > 1e8


def test_what_a_kill_left_half_written_is_gone_once_the_folder_is_locked(tmp_path):
    (tmp_path / ".half-written-x.json").write_text("{")
    (tmp_path / ".joining").mkdir()
    (tmp_path / ".joining" / "fold0.weights.h5").write_text("w")
    with Run(tmp_path).lock():
        assert not list(tmp_path.iterdir())
        with pytest.raises(BusyError):
            Run(tmp_path).lock()


def test_a_folds_lock_is_that_of_its_run(tmp_path):
    (tmp_path / "parts" / "fold-0").mkdir(parents=True)
    with Run(tmp_path).lock(), pytest.raises(BusyError):
        Run(tmp_path / "parts" / "fold-0").owner.lock()


def test_a_lock_holds_against_other_processes_under_any_path_and_ends_with_its_own(tmp_path):
    folder, link = tmp_path / "run", tmp_path / "elsewhere" / "link"
    folder.mkdir()
    link.parent.mkdir()
    link.symlink_to(folder)
    code = (
        "import sys; from desk.runs import Run\n"
        "with Run(sys.argv[1]).lock():\n    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, cwd=paths.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        for path in (folder, link):
            with pytest.raises(BusyError):
                Run(path).lock()
        other.kill()
        other.wait()
        with Run(link).lock():
            assert not list(folder.iterdir())


def test_a_lock_that_cannot_clear_up_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "clear_up", lambda self: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            Run(tmp_path).lock()
