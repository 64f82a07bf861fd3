import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import kaggle_stand_in
import pytest
from kaggle_stand_in import KEY, USER, make_link

from desk.errors import ConfigurationError
from desk.kaggle.competitions import upload_submission
from desk.kaggle.credentials import Credentials, find_credentials
from desk.kaggle.errors import (
    AccessError,
    AmbiguousError,
    CapacityError,
    CredentialsError,
    KaggleError,
    NotFoundError,
    QuotaError,
    ThrottledError,
    UnreachableError,
)
from desk.kaggle.files import download
from desk.kaggle.kernels import (
    Status,
    list_output,
    live_log,
    log_seconds,
    log_text,
    read_status,
    recent_kernels,
    save_kernel,
)
from desk.kaggle.transport import retry_after
from desk.records import write_object
from desk.runs import Run, find_run

stand_in = kaggle_stand_in.stand_in
REF = f"{USER}/salt-train"
METADATA = {
    "id": REF, "title": "Salt train", "code_file": "train.ipynb", "language": "python", "kernel_type": "notebook",
    "is_private": True, "enable_gpu": True, "enable_tpu": False, "enable_internet": True, "keywords": [],
    "competition_sources": [kaggle_stand_in.COMPETITION], "dataset_sources": [], "kernel_sources": [],
    "model_sources": [], "machine_shape": "NvidiaTeslaT4",
}  # fmt: skip


# --- the wall -------------------------------------------------------------------------------------------------------


def test_a_request_to_the_real_kaggle_ends_at_the_stand_in(stand_in, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "PROD")
    with pytest.raises(KaggleError):
        read_status(make_link(attempts=1), REF)
    assert stand_in.escapes == ["api.kaggle.com:443"]
    assert not stand_in.requests


def test_without_proxies_the_wall_refuses_the_real_kaggle(stand_in, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "PROD")
    for name in kaggle_stand_in.PROXIES:
        monkeypatch.delenv(name)
        monkeypatch.delenv(name.upper())
    with pytest.raises(KaggleError, match="the wall: api.kaggle.com"):
        read_status(make_link(attempts=1), REF)
    with pytest.raises(OSError, match="the wall"):
        socket.create_connection(("192.0.2.1", 443), timeout=1)
    with socket.socket() as one, pytest.raises(OSError, match="the wall"):
        one.connect_ex(("192.0.2.1", 443))


def test_a_test_that_forgets_the_stand_in_does_not_reach_kaggle_either():
    code = "from kagglesdk.kaggle_env import get_endpoint, get_env; print(get_endpoint(get_env()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "http://localhost\n", done.stderr
    assert [name for name in os.environ if name.startswith("KAGGLE_")] == ["KAGGLE_API_ENVIRONMENT"]


def test_a_process_that_a_test_starts_is_behind_the_wall_too(stand_in):
    code = "import socket\ntry:\n socket.socket().connect(('192.0.2.1', 443))\nexcept OSError as e:\n print(e)"
    environment = {**os.environ, **stand_in.environment(stand_in.home)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "the wall" in done.stdout


def test_the_home_of_a_test_is_empty_of_credentials(stand_in, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    assert not (pathlib.Path.home() / ".kaggle").exists()
    with pytest.raises(CredentialsError, match="Create New Token"):
        read_status(make_link(), REF)
    assert not stand_in.requests


# --- credentials ----------------------------------------------------------------------------------------------------


def test_the_ladder_is_the_clients_own(tmp_path):
    home = tmp_path
    with pytest.raises(CredentialsError, match="kaggle.json into ~/.kaggle/"):
        find_credentials({}, home)
    rungs = [".kaggle/credentials.json", ".config/kaggle/kaggle.json", ".kaggle/kaggle.json"]
    contents = [{"refresh_token": "r", "username": "d"}, {"username": "c", "key": "k"}, {"username": "b", "key": "k"}]
    for rung, content, name in zip(rungs, contents, "dcb", strict=True):
        (home / rung).parent.mkdir(parents=True, exist_ok=True)
        (home / rung).write_text(json.dumps(content))
        assert find_credentials({}, home).username == name
    environ = {"KAGGLE_USERNAME": "a", "KAGGLE_KEY": "k"}
    assert find_credentials(environ, home).username == "a"
    (home / ".kaggle/access_token").write_text("from-file\n")
    assert find_credentials(environ, home).token == "from-file"
    assert find_credentials({**environ, "KAGGLE_API_TOKEN": "direct"}, home).token == "direct"
    path = str(home / ".kaggle/access_token")
    assert find_credentials({**environ, "KAGGLE_API_TOKEN": path}, home).token == "from-file"


def test_a_kaggle_json_without_a_key_is_named(tmp_path):
    (tmp_path / "kaggle.json").write_text('{"username": "a"}')
    with pytest.raises(CredentialsError, match="kaggle.json holds no username and key"):
        find_credentials({"KAGGLE_CONFIG_DIR": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_that_windows_has_saved_are_read(tmp_path, encoding):
    (tmp_path / "kaggle.json").write_text('{"username": " a ", "key": "k\\n"}', encoding=encoding)
    found = find_credentials({"KAGGLE_CONFIG_DIR": str(tmp_path)}, tmp_path)
    assert (found.username, found.key) == ("a", "k")
    (tmp_path / "token.txt").write_text("  KGAT_0123\r\n", encoding=encoding)
    assert find_credentials({"KAGGLE_API_TOKEN": str(tmp_path / "token.txt")}, tmp_path).token == "KGAT_0123"


def test_a_token_in_kaggle_json_is_taken_and_settings_there_do_not_hide_a_sign_in(tmp_path):
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text("KGAT_0123\n")
    assert find_credentials({}, tmp_path).token == "KGAT_0123"
    (tmp_path / ".kaggle" / "kaggle.json").write_text('{"proxy": "http://proxy"}')
    (tmp_path / ".kaggle" / "credentials.json").write_text('{"username": "d", "refresh_token": "r"}')
    assert find_credentials({}, tmp_path).username == "d"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("/no/such/file", "KAGGLE_API_TOKEN names /no/such/file, which is no file with a token in it"),
        ("~/token.txt", "names ~/token.txt, which is no file"),
        (".", "names ., which is no file"),
        ("my token: KGAT_0123", "KAGGLE_API_TOKEN: the token has blanks in it; paste it alone"),
    ],
)
def test_a_token_that_is_a_path_without_a_token_or_has_blanks_is_named(tmp_path, token, message):
    with pytest.raises(CredentialsError, match=re.escape(message)):
        find_credentials({"KAGGLE_API_TOKEN": token}, tmp_path)


def test_a_token_may_be_in_a_file_of_the_home_folder(tmp_path):
    (tmp_path / "token.txt").write_text("KGAT_0123\n")
    assert find_credentials({"KAGGLE_API_TOKEN": "~/token.txt"}, tmp_path).token == "KGAT_0123"


def test_credentials_do_not_show_their_secret():
    shown = repr(Credentials("x", username="a", key="sssecret", token="tttoken"))
    assert "sssecret" not in shown and "tttoken" not in shown


def test_a_token_tells_whose_it_is(stand_in, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "good-token")
    assert make_link().username == USER
    monkeypatch.setenv("KAGGLE_API_TOKEN", "old-token")
    with pytest.raises(CredentialsError, match="KAGGLE_API_TOKEN: make a new one"):
        make_link().username  # noqa: B018


@pytest.fixture
def signed_in(stand_in, monkeypatch):
    """A sign-in by `kaggle auth login`, of the token that the stand-in takes."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    path = pathlib.Path(stand_in.home) / ".kaggle" / "credentials.json"
    path.parent.mkdir()

    def write(**changes):
        facts = {"refresh_token": "good-refresh-token", "access_token": "good-token", "username": USER}
        path.write_text(json.dumps({**facts, "access_token_expiration": "2036-01-01T00:00:00+00:00", **changes}))
        return make_link()

    return write


def test_a_sign_in_that_ends_in_hours_of_waiting_is_renewed(stand_in, signed_in):
    stand_in.add_version(REF, states=["RUNNING"])
    link = signed_in()
    assert read_status(link, REF).state == "RUNNING" and not stand_in.calls("GenerateAccessToken")
    for count in (1, 2):
        stand_in.token = f"another-{count}"  # Kaggle has ended the one before
        assert read_status(link, REF).state == "RUNNING" and len(stand_in.calls("GenerateAccessToken")) == count
    assert stand_in.token in link.secrets and "good-token" in link.secrets
    assert make_link().username == USER  # what was renewed is kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"refresh_token": "old"}, "refresh token is not valid.*or run `kaggle auth login` again"),
     ({"refresh_token": ""}, "is damaged: run `kaggle auth login` again"),
     ({"access_token_expiration": "soon"}, "is damaged: run `kaggle auth login` again")],
)  # fmt: skip
def test_a_sign_in_that_cannot_be_renewed_says_so(stand_in, signed_in, changes, message):
    with pytest.raises(CredentialsError, match=message):
        read_status(signed_in(**{"access_token_expiration": "", **changes}), REF)


def test_one_401_in_hours_of_waiting_is_looked_at_again(stand_in):
    stand_in.add_version(REF, states=["RUNNING"])
    link = make_link()
    stand_in.fault("GetKernelSessionStatus", "http", status=401, after=1, times=2)
    for _ in range(2):
        assert read_status(link, REF).state == "RUNNING"
    assert len(stand_in.calls("GetKernelSessionStatus")) == 4 and len(link.time.pauses) == 2
    stand_in.fault("GetKernelSessionStatus", "http", status=401, times=99)
    with pytest.raises(CredentialsError, match="make a new token"):
        read_status(link, REF)


def test_a_command_that_kaggle_refuses_to_credentials_it_took_before_is_sent_once(stand_in):
    link = make_link()
    assert recent_kernels(link) == []
    stand_in.fault("SaveKernel", "http", status=401)
    with pytest.raises(CredentialsError):
        save_kernel(link, METADATA, "{}")
    assert len(stand_in.calls("SaveKernel")) == 1


def test_errors_do_not_repeat_a_secret_that_the_server_echoes(stand_in):
    stand_in.fault("GetKernelSessionStatus", "http", status=400, message=f"bad key {KEY} at http://x/y?sig=abc")
    with pytest.raises(ConfigurationError) as caught:
        read_status(make_link(), REF)
    assert KEY not in str(caught.value) and "sig=abc" not in str(caught.value)


# --- questions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ConfigurationError), (401, CredentialsError), (403, AccessError), (404, NotFoundError),
     (409, ConfigurationError)],
)  # fmt: skip
def test_a_refused_question_is_asked_once(stand_in, status, kind):
    stand_in.fault("GetKernelSessionStatus", "http", status=status, message="because", times=9)
    with pytest.raises(kind, match=rf"read the status of {REF}: because \(HTTP {status}\)"):
        read_status(make_link(), REF)
    assert len(stand_in.requests) == 1


@pytest.mark.parametrize("kind", ["cut", "cut_after", "html"])
def test_a_question_is_asked_again_after_what_may_pass(stand_in, kind):
    stand_in.add_version(REF, states=["RUNNING"])
    stand_in.fault("GetKernelSessionStatus", kind, times=2)
    stand_in.fault("GetKernelSessionStatus", "http", status=502)
    link = make_link()
    assert read_status(link, REF).state == "RUNNING"
    assert link.time.pauses == [2.0, 4.0, 8.0]
    assert len(link.said) == 3


def test_a_question_without_end_is_given_up_in_words(stand_in):
    stand_in.fault("GetKernelSessionStatus", "html", times=9, status=503)
    with pytest.raises(UnreachableError, match="503"):
        read_status(make_link(), REF)
    assert len(stand_in.requests) == 5


@pytest.mark.parametrize(("value", "pause"), [("17", 17.0), ("99999", 300.0), ("soon", 2.0)])
def test_a_request_to_slow_down_is_obeyed(stand_in, value, pause):
    stand_in.add_version(REF, states=["RUNNING"])
    stand_in.fault("GetKernelSessionStatus", "http", status=429, headers={"Retry-After": value})
    link = make_link()
    assert read_status(link, REF).state == "RUNNING"
    assert link.time.pauses == [pause]


def test_a_retry_after_may_be_a_date():
    moment = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 90 < retry_after(moment) <= 100
    assert retry_after("Mon, 05 Jan 2015 00:00:00 GMT") == 0


def test_a_hang_ends_at_the_time_limit(stand_in):
    stand_in.fault("GetKernelSessionStatus", "hang", times=9)
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="no answer within 0.1 s"):
        read_status(make_link(seconds=0.1, attempts=2), REF)
    assert time.monotonic() - began < 20  # the stand-in would have answered after 30


def test_an_unknown_status_is_unreadable_not_a_crash(stand_in):
    stand_in.add_version(REF, states=["PONDERING"])
    with pytest.raises(UnreachableError, match="cannot be read"):
        read_status(make_link(attempts=1), REF)


def test_status_is_asked_for_a_version_as_the_api_wants_it(stand_in):
    stand_in.add_version(REF, states=["ERROR"], message="no memory")
    stand_in.add_version(REF, states=["RUNNING"])
    link = make_link()
    assert read_status(link, REF, 1) == Status("ERROR", "no memory")
    assert read_status(link, REF).state == "RUNNING"
    assert [body.get("versionLabel") for body in stand_in.calls("GetKernelSessionStatus")] == ["v1", None]


def test_600_files_come_over_several_pages(stand_in):
    files = {f"f{index:03d}.bin": b"x" for index in range(600)}
    stand_in.leave_output(stand_in.add_version(REF), files, "hello\nworld\n")
    found = list_output(make_link(), REF)
    assert list(found.files) == list(files) and found.log == "hello\nworld\n" and found.seconds == 61.5
    assert len(stand_in.calls("ListKernelSessionOutput")) == 3


def test_a_file_address_gets_no_credentials(stand_in, tmp_path):
    stand_in.leave_output(stand_in.add_version(REF), {"a": b"abc"})
    link = make_link()
    download(link, list_output(link, REF).files["a"], tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"abc"
    name, headers, _ = stand_in.requests[-1]
    assert name == "GET /files/1/a" and "Authorization" not in headers


def test_an_error_page_is_never_a_file(stand_in, tmp_path):
    with pytest.raises(UnreachableError, match="HTTP 403|403") as caught:
        download(make_link(), "http://localhost/files/gone?signature=planted-signature", tmp_path / "a")
    assert not (tmp_path / "a").exists() and "planted-signature" not in str(caught.value)


def test_a_cut_download_is_an_error(stand_in, tmp_path):
    url = stand_in.url("big", b"x" * 1000)
    stand_in.fault("GET /files/big", "cut_after")
    with pytest.raises(UnreachableError):
        download(make_link(), url, tmp_path / "big")


# --- commands -------------------------------------------------------------------------------------------------------


def push(link):
    return save_kernel(link, METADATA, "{}", hours=9)


def test_a_push_sends_what_the_command_line_client_sends(stand_in, tmp_path):
    notebook = {"cells": [], "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "train.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "kernel-metadata.json").write_text(json.dumps(METADATA))
    environment = {**os.environ, **stand_in.environment(stand_in.home)}
    code = "import sys; sys.argv[0] = 'kaggle'; from kaggle.cli import main; main()"
    arguments = ["kernels", "push", "-p", str(tmp_path), "-t", "32400"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert "successfully pushed" in done.stdout, done.stdout + done.stderr
    saved = save_kernel(make_link(), METADATA, json.dumps(notebook), hours=9)
    theirs, ours = stand_in.calls("SaveKernel")
    assert ours == theirs
    assert saved.version == 2 and saved.invalid == ()


@pytest.mark.parametrize(
    ("said", "kind"),
    [("Maximum weekly GPU quota of 30.00 hours reached.", QuotaError),
     ("Maximum batch GPU session count of 2 reached.", CapacityError),
     ("Notebook not found", ConfigurationError),
     ("Too many requests, try again later", ThrottledError)],
)  # fmt: skip
def test_a_push_refused_with_status_200_is_classified(stand_in, said, kind):
    stand_in.fault("SaveKernel", "answer", body={"error": said})
    with pytest.raises(kind, match="no version was made"):
        push(make_link())
    assert not stand_in.kernels


def test_sources_that_kaggle_drops_are_told_models_too(stand_in):
    body = {"versionNumber": 3, "url": "u", "invalidDatasetSources": ["a/b"], "invalidModelSources": ["m"]}
    stand_in.fault("SaveKernel", "answer", body=body)
    assert push(make_link()).invalid == ("dataset a/b", "model m")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, CredentialsError), (403, AccessError), (409, ConfigurationError), (400, ConfigurationError)],
)  # fmt: skip
def test_a_push_refused_with_a_status_is_sent_once(stand_in, status, kind):
    stand_in.fault("SaveKernel", "http", status=status, times=9)
    with pytest.raises(kind):
        push(make_link())
    assert len(stand_in.calls("SaveKernel")) == 1


def test_a_push_that_is_told_to_slow_down_comes_again(stand_in):
    stand_in.fault("SaveKernel", "http", status=429, headers={"Retry-After": "30"})
    link = make_link()
    assert push(link).version == 1
    assert link.time.pauses == [30.0]


def test_a_push_that_is_told_to_come_back_tomorrow_does_not_wait(stand_in):
    stand_in.fault("SaveKernel", "http", status=429, headers={"Retry-After": "40000"})
    link = make_link()
    with pytest.raises(ThrottledError):
        push(link)
    assert not link.time.pauses


@pytest.mark.parametrize("fault", ["cut", "cut_after", "hang", "hang_after", "html"])
def test_a_push_without_an_answer_is_ambiguous_and_not_repeated(stand_in, fault):
    stand_in.fault("SaveKernel", fault, times=9)
    with pytest.raises(AmbiguousError, match="Kaggle may have done it all the same"):
        push(make_link(seconds=0.2))
    assert len(stand_in.calls("SaveKernel")) == 1


def test_a_push_with_status_500_is_ambiguous(stand_in):
    stand_in.fault("SaveKernel", "http", status=500, times=9)
    with pytest.raises(AmbiguousError):
        push(make_link())
    assert len(stand_in.calls("SaveKernel")) == 1


def test_a_push_that_finds_no_server_was_never_sent(stand_in, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    link = make_link(attempts=3)
    with pytest.raises(UnreachableError) as caught:
        push(link)
    assert not caught.value.sent
    assert len(link.time.pauses) == 2  # and so it may be tried again


def test_an_upload_is_repeated_since_nothing_comes_of_it_yet(stand_in, tmp_path):
    path = tmp_path / "submission.csv"
    path.write_bytes(b"id,rle_mask\n")
    stand_in.fault("PUT /upload/.*", "http", status=503)
    link = make_link()
    token = upload_submission(link, kaggle_stand_in.COMPETITION, path)
    assert stand_in.blobs[token]["data"] == path.read_bytes()
    stand_in.fault("PUT /upload/.*", "http", status=400)
    with pytest.raises(UnreachableError, match="nothing was submitted"):
        upload_submission(link, kaggle_stand_in.COMPETITION, path)


@pytest.mark.parametrize(
    ("log", "seconds"),
    [('[{"time": 2.5, "data": "a"}, {"time": 1, "data": "b"}]', 2.5), ('[{"time": Infinity, "data": "a"}]', None),
     ('[{"time": -Infinity, "data": "a"}]', None), ('[{"time": NaN, "data": "a"}]', None), ('[{"time": 1e99}]', None),
     ('[{"time": "1e999"}]', None), ("[" * 100_000, None), ("[]", None), ("no JSON", None), ("9" * 5000, None)],
    ids=range(10),
)  # fmt: skip
def test_the_time_of_a_log_is_a_number_of_seconds_or_unknown(log, seconds):
    assert log_seconds(log) == seconds and isinstance(log_text(log), str)


def test_live_log_gives_what_has_come_so_far(stand_in):
    stand_in.add_version(REF)["live"] = "epoch 1\nepoch 2\n"
    assert live_log(make_link(), REF) == "epoch 1\nepoch 2\n"
    assert live_log(make_link(attempts=1), f"{USER}/none-such") == ""


# --- records --------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_the_beginning_of_its_name(tmp_path):
    for name in ("train-1", "train-2", "predict-1"):
        (tmp_path / name).mkdir()
    assert find_run("predict", tmp_path).name == "predict-1"
    with pytest.raises(ConfigurationError, match="which of these is meant: train-1, train-2"):
        find_run("train", tmp_path)
    with pytest.raises(ConfigurationError, match="there is no such run; there are"):
        find_run("search", tmp_path)


def test_the_parts_of_a_run_are_found_in_their_order(tmp_path):
    write_object(tmp_path / "queue.json", {"run_id": "r", "kernel": "train", "folds": [3, 1]})
    assert [part.name for part in Run(tmp_path).parts] == ["fold-3", "fold-1"]
    assert Run(tmp_path / "parts").parts == []


def test_help_loads_no_heavy_package():
    code = (
        "import runpy, sys, contextlib, io\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "assert 'usage' in out.getvalue()\n"
        "heavy = {'tensorflow', 'keras', 'cv2', 'kaggle', 'kagglesdk', 'numpy', 'requests'} & set(sys.modules)\n"
        "sys.exit(f'{sys.argv[0]} loads {heavy}' if heavy else 0)"
    )
    scripts = kaggle_stand_in.ROOT / "scripts"
    for name in ("push", "fetch", "submit", "runs", "download_data", "upload_weights"):
        done = subprocess.run([sys.executable, "-c", code, str(scripts / f"{name}.py")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
