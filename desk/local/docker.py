"""The same command in Kaggle's own image, where this machine has Docker: its packages, its Python, its programs.

The repository and what the command names are mounted read-only under their own paths; build/ and the runs can be
written. The container has no network, and few rights.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from desk import paths
from desk.command import Outcome
from desk.errors import LocalRunError

IMAGES = {False: "gcr.io/kaggle-images/python", True: "gcr.io/kaggle-gpu-images/python"}  # without and with a GPU
PATH_OPTIONS = ("--data", "--weights", "--package", "--runs", "--run", "--resume")


def add_docker_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--docker`."""
    parser.add_argument(
        "--docker", metavar="IMAGE", nargs="?", const="", help="run this in Kaggle's image, or in IMAGE; needs Docker"
    )


def run_in_docker(script: str, options: argparse.Namespace, runs: pathlib.Path) -> Outcome:
    """Runs a script's command in a container; what it says goes to stderr as it comes.

    Args:
        script: its name in scripts/.
        options: of its command line.
        runs: where runs are kept.

    Raises:
        LocalRunError: there is no Docker, or the command failed.
    """
    gpu = shutil.which("nvidia-smi") is not None
    asked = subprocess.run(["docker", "version"], capture_output=True, text=True) if shutil.which("docker") else None
    if asked is None or asked.returncode:
        said = "it is not installed" if asked is None else " ".join(asked.stderr.split())[-200:]
        raise LocalRunError(f"--docker: Docker does not answer ({said}); start it, or leave --docker out")
    for folder in (runs, paths.BUILD):
        folder.mkdir(parents=True, exist_ok=True)  # else Docker makes them, as root
    command = docker_command(script, options.given, runs.resolve(), options.docker or IMAGES[gpu], gpu)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        raise LocalRunError(f"--docker: the container ended with status {done.returncode} and said no more") from None
    if not document["ok"]:
        raise LocalRunError(f"in the container: {document['error']['message']}")
    return Outcome(document["result"], tuple(document["next"]))


def docker_command(script: str, words: Sequence[str], runs: pathlib.Path, image: str, gpu: bool) -> list[str]:
    """The command line that runs a script's command in a container.

    Args:
        script: its name in scripts/.
        words: its arguments; `--docker` is left out, and paths become absolute.
        runs: where runs are kept, absolute.
        image: of Kaggle, or another.
        gpu: whether the container gets the GPUs.
    """
    inner, mounts, option = [], {paths.ROOT: "ro", paths.BUILD: "rw"}, ""
    for word, before in zip(words, ["", *words], strict=False):
        if word.startswith("--"):
            option, sign, value = word.partition("=")
            found = existing(value) if option in PATH_OPTIONS and sign else None
            given = f"{option}={found}" if found else word
        else:
            found = existing(word) if option in PATH_OPTIONS or word.endswith(".py") else None
            given = str(found or word)
        is_image = before == "--docker" and not word.startswith("--")
        if option in ("--docker", "--json") and (is_image or word.startswith("--")):
            continue
        if found and not found.is_relative_to(paths.ROOT):
            mounts[found] = "ro"
        inner.append(given)
    mounts[runs] = "rw"
    if "--runs" not in [word.partition("=")[0] for word in inner]:
        inner += ["--runs", str(runs)]
    volumes = [part for path, mode in mounts.items() for part in ("--volume", f"{path}:{path}:{mode}")]
    limits = ["--network", "none", "--cap-drop", "ALL", "--user", f"{os.getuid()}:{os.getgid()}"]
    environment = ["--env", f"PYTHONPATH={paths.ROOT}", "--env", "HOME=/tmp"]
    return [
        *("docker", "run", "--rm", *limits, *(["--gpus", "all"] if gpu else []), *volumes, *environment),
        *("--workdir", str(paths.ROOT), image, "python", f"scripts/{script}.py", *inner, "--json"),
    ]


def existing(word: str) -> pathlib.Path | None:
    """The absolute path of what a word names, if it is there."""
    path = pathlib.Path(word).expanduser().resolve()
    return path if word and path.exists() else None
