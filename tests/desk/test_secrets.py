"""No secret leaves the desk: those that are its own, in any spelling, and what looks like a token of a service."""

import base64
import gzip
import json
import urllib.parse
import zlib

import pytest

from desk.errors import ConfigurationError
from desk.secrets import find_secrets, own_secrets, refuse_secret_files, refuse_secrets

KEY = 'pa55/wörd+with"quotes\\and=more'
HEX = "0123456789abcdef" * 2


def places(text, secrets=None):
    return [line for line, _ in find_secrets(text, {KEY: "here"} if secrets is None else secrets)]


PACKED = base64.b85encode(zlib.compress(KEY.encode() * 9)).decode()


@pytest.mark.parametrize(
    "spelt",
    [
        KEY,
        json.dumps(KEY),
        json.dumps(json.dumps(KEY)),
        urllib.parse.quote(KEY, safe=""),
        *(base64.b64encode(before + KEY.encode() + b"after").decode() for before in (b"", b"u", b"us", b"user:")),
        base64.urlsafe_b64encode(b"user:" + KEY.encode()).decode(),
f"FILES = {{'a': zlib.decompress(base64.b85decode({PACKED!r}))}}",
        f'x = "{base64.b64encode(gzip.compress(b"zeros" * 9 + KEY.encode(), mtime=0)).decode()}"',
    ],
)  # fmt: skip
def test_a_secret_is_found_however_it_is_spelt_with_its_line(spelt):
    assert places(f"import os\n{spelt}\nprint(1)") == [2]
    assert places("import os\nprint(1)") == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("login('hf_" + "aB3" * 12 + "')", "a Hugging Face token"),
        ("key = 'sk-proj-" + "aB3_" * 12 + "'", "an OpenAI key"),
        ("ghp_" + "aB3" * 12, "a GitHub token"),
        ("github_pat_" + "aB3_" * 20, "a GitHub token"),
        ("'AKIAIOSFODNN7EXAMPLE'", "an AWS access key"),
        (f"WANDB_API_KEY = '{HEX}01234567'", "a Weights & Biases key"),
        (f'{{"username": "someone", "key": "{HEX}"}}', "a Kaggle key"),
        (f"os.environ['KAGGLE_KEY'] = '{HEX}'", "a Kaggle key"),
    ],
)
def test_what_looks_like_a_token_of_a_service_is_named(text, what):
    assert list(find_secrets(f"a\n{text}", {})) == [(2, what)]


@pytest.mark.parametrize(
    "text",
    [
        f"sha256 = '{HEX}{HEX}'",
        f"BUILD_ID = '{HEX}'",
        "class='sk-text-repr-fallback-sk-estimator-doc-link fitted'",
        f"wandb.init(project='{HEX}')",
        "hf_hub_download(repo_id='someone/with-a-long-name-of-a-repository')",
    ],
)
def test_what_is_no_token_is_left_alone(text):
    assert places(text, {}) == []


def test_the_secrets_of_a_desk_are_those_of_every_place_that_the_client_reads(tmp_path):
    home, configured = tmp_path / "home", tmp_path / "configured"
    (home / ".kaggle").mkdir(parents=True)
    (home / ".config" / "kaggle").mkdir(parents=True)
    configured.mkdir()
    (home / ".kaggle" / "kaggle.json").write_bytes('{"username": "a", "key": "first-secret-key"}'.encode("utf-16"))
    (home / ".kaggle" / "access_token").write_text("\ufeff  second-secret-token \n", encoding="utf-8")
    (home / ".kaggle" / "credentials.json").write_text('{"refresh_token": "third-secret-token", "access_token": 1}')
    (home / ".config" / "kaggle" / "kaggle.json").write_text('{"key": "fourth-secret-key"}')
    (configured / "kaggle.json").write_text('{"key": "fifth-secret-key"}')
    (tmp_path / "token").write_text("sixth-secret-token")
    environ = {
        "KAGGLE_CONFIG_DIR": str(configured), "KAGGLE_API_TOKEN": str(tmp_path / "token"),
        "KAGGLE_KEY": "seventh-secret-key", "HF_TOKEN": "eighth-secret-token", "PATH": "/not/a/secret/at/all",
        "SHORT_TOKEN": "abc",
    }  # fmt: skip
    (home / "token").write_text("ninth-secret-token")
    assert "ninth-secret-token" in own_secrets([], {"KAGGLE_API_TOKEN": "~/token"}, home)
    found = own_secrets([], environ, home)
    assert sorted(found) == sorted(
        f"{number}-secret-{kind}"
        for number, kind in [
            ("first", "key"), ("second", "token"), ("third", "token"), ("fourth", "key"), ("fifth", "key"),
            ("sixth", "token"), ("seventh", "key"), ("eighth", "token"),
        ]
    )  # fmt: skip
    assert (
        found["first-secret-key"] == "~/.kaggle/kaggle.json" and found["eighth-secret-token"] == "the variable HF_TOKEN"
    )
    assert own_secrets(["of-this-process"], {}, tmp_path / "nowhere") == {"of-this-process": "the credentials in use"}


def test_the_cell_and_the_line_are_named_with_the_remedy_and_the_secret_is_not_repeated():
    notebook = json.dumps({"cells": [{"source": ["import os\n"]}, {"source": ["a = 1\n", f"key = {KEY!r}\n"]}]})
    with pytest.raises(ConfigurationError) as caught:
        refuse_secrets({"the notebook": notebook, "its metadata": "{}"}, {KEY: "~/.kaggle/kaggle.json"})
    message = str(caught.value)
    assert "the notebook, cell 2, line 2: the secret of ~/.kaggle/kaggle.json" in message
    assert "UserSecretsClient().get_secret" in message and KEY not in message


def test_a_secret_in_a_large_file_is_found_where_two_blocks_meet(tmp_path, monkeypatch):
    monkeypatch.setattr("desk.secrets.BLOCK", 64)
    path = tmp_path / "weights.h5"
    for before in (40, 50, 63, 64, 100):
        path.write_bytes(b"\xff" * before + KEY.encode() + b"\xff" * 100)
        with pytest.raises(ConfigurationError, match=r"weights.h5: holds the secret of here; nothing was sent"):
            refuse_secret_files([path], {KEY: "here"})
    path.write_bytes(b"\xff" * 300)
    refuse_secret_files([path], {KEY: "here"})
