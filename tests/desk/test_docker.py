"""`--docker`: the command line of the container, by a stand-in for Docker. It was not run on Kaggle's image."""

import itertools
import json
import os
import pathlib
import shlex

import pytest

from desk import paths
from desk.local.docker import docker_command
from scripts import run_local, smoke_test

DOCKER = """\
#!/bin/sh
echo "$@" >> "$0.log"
[ "$1" = version ] && exit STATUS
echo "from the container" >&2
cat "$0.json"
"""


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Puts a stand-in for Docker on the path; gives a function of its answer, and what was asked of it."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")

    def answer(text, status=0):
        program.write_text(DOCKER.replace("STATUS", str(status)))
        program.chmod(0o755)
        pathlib.Path(f"{program}.json").write_text(text)
        return lambda: pathlib.Path(f"{program}.log").read_text().splitlines()

    return answer


def test_the_container_gets_the_same_command_with_absolute_paths_and_no_network(tmp_path, monkeypatch):
    data, runs = tmp_path / "my data", tmp_path / "runs"
    data.mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["train", "--data", "my data", "--docker", "--set", "epochs=5", "--json", "--preset", "smoke"]
    command = docker_command("run_local", words, runs, "an/image", gpu=True)
    assert command[:3] == ["docker", "run", "--rm"] and command[command.index("--gpus") + 1] == "all"
    assert command[command.index("--network") + 1] == "none" and command[command.index("--cap-drop") + 1] == "ALL"
    volumes = [value for name, value in itertools.pairwise(command) if name == "--volume"]
    assert volumes == [
        f"{paths.ROOT}:{paths.ROOT}:ro", f"{paths.BUILD}:{paths.BUILD}:rw", f"{data}:{data}:ro", f"{runs}:{runs}:rw"
    ]  # fmt: skip
    assert command[command.index("an/image") + 1 :] == [
        "python", "scripts/run_local.py", "train", "--data", str(data), "--set", "epochs=5", "--preset", "smoke",
        "--runs", str(runs), "--json",
    ]  # fmt: skip


def test_an_image_of_ones_own_is_no_argument_of_the_command(tmp_path):
    words = ["--demo", "--docker", "an/image@sha256:0", f"--runs={tmp_path}"]
    command = docker_command("smoke_test", words, tmp_path, "an/image@sha256:0", gpu=False)
    assert command[command.index("an/image@sha256:0") + 1 :] == [
        "python", "scripts/smoke_test.py", "--demo", f"--runs={tmp_path}", "--json"
    ]  # fmt: skip
    assert "--gpus" not in command


@pytest.mark.parametrize("script", [run_local, smoke_test])
def test_what_the_container_says_is_what_the_command_says(script, docker, tmp_path, capsys):
    words = ["train", "--synthetic", "48"] if script is run_local else []
    words += ["--runs", str(tmp_path / "runs"), "--docker", "--json"]
    asked = docker(json.dumps({"ok": True, "result": {"run": "train-1"}, "next": []}))
    assert script.main(words) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {"run": "train-1"}
    assert asked()[0] == "version" and "kaggle" in asked()[1] and asked()[1].endswith("--json")
    assert (tmp_path / "runs").is_dir()
    docker(json.dumps({"ok": False, "error": {"message": "the notebook failed"}}))
    assert script.main(words) == 1
    assert json.loads(capsys.readouterr().out)["error"]["message"] == "in the container: the notebook failed"
    docker("no such image")
    assert script.main(words) == 1
    assert "the container ended with status 0" in capsys.readouterr().out


def test_without_docker_the_command_says_so(docker, capsys, monkeypatch, tmp_path):
    words = [*shlex.split("train --synthetic 48 --docker --runs"), str(tmp_path / "runs")]
    docker("", status=1)
    assert run_local.main(words) == 1 and "Docker does not answer" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert run_local.main(words) == 1 and "it is not installed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
