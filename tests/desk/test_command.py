"""How a verb ends: its exit status, and the one document on stdout."""

import argparse
import json
import pathlib
import re
import subprocess
import sys

import pytest

from desk.command import Outcome, VerbParser, plain, run_command
from desk.consent import Consent, NoWord, consent_of, token_of
from desk.errors import ConfigurationError, Exit
from desk.kaggle.errors import QuotaError
from desk.output import printable
from scripts import compare_flatteners, runs

ROOT = pathlib.Path(__file__).resolve().parents[2]


def parse(arguments):
    parser = VerbParser()
    parser.add_argument("--count", type=int, default=1)
    return parser.parse_args(arguments)


def run(verb, *arguments):
    return run_command(verb, parse, ["--json", *arguments])


def test_stdout_holds_one_document_and_stderr_all_else(capsys):
    def verb(options):
        print("for people", options.count)
        return Outcome({"path": pathlib.Path("/a"), "score": float("nan"), "counts": (1, 2)}, ("python scripts/x.py",))

    assert run(verb, "--count", "3") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "version": 1, "verb": "test_command", "ok": True, "exit_status": 0, "error": None,
        "result": {"path": "/a", "score": None, "counts": [1, 2]}, "next": ["python scripts/x.py"],
    }  # fmt: skip
    assert captured.err == "for people 3\nnext: python scripts/x.py\n"


@pytest.mark.parametrize(
    "error, status, kind",
    [
        (ConfigurationError("no such run"), 1, "ConfigurationError"),
        (QuotaError("none left"), 75, "QuotaError"),
        (ValueError("a bad table"), 1, "ValueError"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (SystemExit(143), 143, "SystemExit"),
        (ZeroDivisionError("a bug"), 1, "ZeroDivisionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_goes_wrong_there_is_a_document(capsys, error, status, kind):
    def verb(options):
        raise error

    assert run(verb) == status
    document = json.loads(capsys.readouterr().out)
    assert (document["exit_status"], document["error"]["kind"], document["ok"]) == (status, kind, False)
    assert document["result"] is None


def test_a_wrong_command_line_is_a_document_too(capsys):
    assert run(lambda options: None, "--count", "many") == Exit.USAGE
    captured = capsys.readouterr()
    assert "invalid int value: 'many'" in json.loads(captured.out)["error"]["message"] and "usage:" in captured.err
    assert run_command(lambda options: None, parse, ["--count"]) == Exit.USAGE
    assert "error: argument --count: expected one argument" in capsys.readouterr().err


def test_what_a_child_process_prints_does_not_get_into_the_document():
    code = (
        "import os, subprocess, sys\n"
        "from desk.command import Outcome, VerbParser, run_command\n"
        "def verb(options):\n"
        "    subprocess.run([sys.executable, '-c', 'print(1)']); os.write(1, b'2'); print(3)\n"
        "    return Outcome({'done': True})\n"
        "sys.exit(run_command(verb, VerbParser().parse_args, ['--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert json.loads(done.stdout)["result"] == {"done": True}
    assert done.stderr.split() == ["1", "23"]


def test_a_console_of_another_encoding_shows_what_it_can():
    code = (
        "from desk.command import VerbParser, run_command\n"
        "run_command(lambda options: print('epoch 1 \\u2588 \\u00e5'), VerbParser().parse_args, [])\n"
    )
    for encoding, shown in (("ascii", b"\\u2588 \\xe5"), ("cp1252", b"\\u2588 \xe5"), ("utf-8", "\u2588 å".encode())):
        environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=600)
        assert done.stdout.rstrip() == b"epoch 1 " + shown, done.stderr


def test_every_verb_takes_json():
    for path in sorted((ROOT / "scripts").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert "VerbParser(" in text and "run_command(" in text and "return Outcome(" in text, path.name


def test_json_in_the_arguments_of_a_program_is_not_for_the_verb(capsys, tmp_path):
    assert runs.main(["--runs", str(tmp_path), "--js"]) == 0  # argparse takes beginnings
    assert json.loads(capsys.readouterr().out)["result"] == {"runs": []}
    from desk.command import wants_json

    assert not wants_json(["main.py", "--args", "--json"]) and wants_json(["main.py", "--args", "--json", "--json"])
    assert compare_flatteners.parse_arguments(["--rows", "x"]).rows == pathlib.Path("x")


def test_the_table_of_exit_statuses_is_that_of_the_code():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*) \| (.*) \|$", text, flags=re.MULTILINE)
    assert rows == [(str(int(status)), status.meaning, status.remedy) for status in Exit]
    for path in [*(ROOT / "desk").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        assert not re.search(r"exit_status = \d|sys\.exit\(\d+\)", path.read_text(encoding="utf-8")), path


def test_what_json_cannot_hold_becomes_what_it_can():
    class Array:
        def tolist(self):
            return [1.5, float("inf")]

    assert plain({1: Array(), "a": {"b"}, "c": None, "d": True}) == {"1": [1.5, None], "a": ["b"], "c": None, "d": True}


# --- a person's word ---

DEED = {"push": "a/b", "version": 3, "content": "0123"}


def test_a_token_is_for_one_deed():
    assert Consent(token=token_of(DEED), needed=True).allows(DEED)
    for other in ({**DEED, "version": 4}, {**DEED, "content": "0124"}, {}):
        with pytest.raises(NoWord, match="is not for what this would do now") as error:
            Consent(token=token_of(DEED), command="python scripts/push.py train").allows(other)
        assert error.value.exit_status == Exit.WORD and error.value.next == ("python scripts/push.py train --dry-run",)


def test_at_a_terminal_the_command_is_the_word_and_elsewhere_it_is_not(capsys):
    assert Consent().allows(DEED)
    with pytest.raises(NoWord, match="wants a person's word: push a/b, version 3"):
        Consent(needed=True).allows(DEED)
    consent = Consent(dry_run=True, needed=True, command="python scripts/push.py train")
    assert not consent.allows(DEED) and consent.result["token"] == token_of(DEED) in capsys.readouterr().out
    assert consent.next == (f"python scripts/push.py train --confirm {token_of(DEED)}",)


@pytest.mark.parametrize("words", [["--dry-run"], ["--confirm", "0123"], ["--confirm=0123"], []], ids=" ".join)
def test_the_next_command_is_the_same_one_without_what_was_said(words, monkeypatch):
    options = argparse.Namespace(given=["train", *words, "--set", "a=b c"], dry_run=False, confirm=None, json=False)
    assert consent_of(options, "push").command == "python scripts/push.py train --set 'a=b c'"
    monkeypatch.undo()


def test_a_process_without_a_terminal_needs_a_token():
    code = "from desk.consent import at_terminal; print(at_terminal())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.stdout == "False\n", done.stderr


# --- texts of others ---


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\x1b[31mred\x1b[0m b\r\n10%\r20%\r\n", "ared b\n10%\n20%\n"),
        ("\x1b]0;a title\x07x\x1b]52;c;Y2xpcA==\x1b\\y", "xy"),
        ("\x1b]never ended\nthe next line", "\nthe next line"),
        ("cut \x1b[3", "cut "),
        ("tab\tå \U0001f600", "tab\tå \U0001f600"),
        ("half \ud83d of one", "half \ufffd of one"),
        ("\x9b2J \x07\x08 \u202etxt", "2J  txt"),
    ],
    ids=range(7),
)
def test_a_text_of_others_is_read_and_not_obeyed(text, shown):
    assert printable(text) == shown
    assert printable(text.replace("\x1b", "\x1b", 1)).encode()
