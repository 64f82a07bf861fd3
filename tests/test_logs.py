"""Logs from Kaggle: whatever a notebook writes, they are shown and kept as plain lines."""

import json
import os
import subprocess
import sys

import pytest
from kaggle_stand_in import ROOT
from test_fetch import fetch_run, run, stand_in, version  # noqa: F401 (fixtures)

from salt.artifacts import verify_run

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m 10%\r20%\r\nhalf \ud83d \x9b1A\x08 \u202etxt å █\n"
PLAIN = "red 10%\n20%\nhalf \ufffd 1A txt å █\n"


@pytest.mark.parametrize("state", ["COMPLETE", "ERROR"])
def test_a_log_is_shown_and_kept_without_what_moves_a_terminal(stand_in, run, fetch_run, state):  # noqa: F811
    version(stand_in).update(
        log=json.dumps([{"stream_name": "stdout", "time": 61.5, "data": HOSTILE}]), live=HOSTILE,
        states=["RUNNING", state], message="it \x1b[31mfailed\x1b[0m",
    )  # fmt: skip
    status, text, _ = fetch_run("--wait")
    assert status == (0 if state == "COMPLETE" else 1), text
    assert PLAIN in text and not set(text) & {*map(chr, range(9)), "\x1b", "\x9b", "\u202e", "\ud83d"}
    assert (run / "train.log").read_text(encoding="utf-8") == PLAIN


def test_a_log_that_the_console_cannot_spell_is_fetched_all_the_same(stand_in, run):  # noqa: F811
    version(stand_in).update(live="epoch å █\n", states=["RUNNING", "COMPLETE"])
    code = "import sys; from scripts import fetch; from kaggle_stand_in import make_link; "
    code += "sys.exit(fetch.main(sys.argv[1:], make_link(seconds=5)))"
    paths = {"PYTHONPATH": os.pathsep.join([str(stand_in.home / "wall"), str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", code, run.name, "--wait", "--runs", str(run.parent)], capture_output=True, timeout=600,
        env={**os.environ, **stand_in.environment(stand_in.home), **paths, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "epoch å \\u2588".encode("cp1252") in done.stdout and verify_run(run)
