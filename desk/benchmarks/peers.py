"""The peers' environment, made once, and a process in it that does their work when it is asked to.

The peers are no dependencies of ours. Their process stays for the whole run, so that ours and theirs can run in turn
without either starting anew; arrays go to it as files.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from desk.errors import DeskError
from desk.paths import ROOT

ENVIRONMENT = ROOT / ".venv-peers"
PINNED = pathlib.Path(__file__).with_name("peers.txt")
PROGRAM = pathlib.Path(__file__).with_name("peer_program.py")


class PeerError(DeskError):
    """The peers' environment cannot be made, or their program failed."""


def peer_python() -> pathlib.Path:
    """The Python of the peers' environment, which is made, or made anew, where its list of packages is another.

    Raises:
        PeerError: pip failed.
    """
    python, done = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "peers.txt"
    if done.is_file() and done.read_bytes() == PINNED.read_bytes():
        return python
    print(f"making {ENVIRONMENT.name} of {PINNED.name}: PyTorch and others, minutes", file=sys.stderr, flush=True)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(PINNED)],
    ):
        if subprocess.run(command).returncode:
            raise PeerError(f"{' '.join(command)} failed; see above, mend it, and run the benchmark again")
    shutil.copyfile(PINNED, done)
    return python


class PeerProcess:
    """The peers' program, running; a context manager."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.folder.cleanup()

    def ask(self, **message: object) -> dict:
        """Sends a message to the program and waits for its answer.

        Raises:
            PeerError: it failed; with its traceback.
        """
        if self.process is None:
            # Threads that wait for work must sleep: ours runs next.
            quiet = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "NO_ALBUMENTATIONS_UPDATE": "1"}
            self.process = subprocess.Popen(
                [str(peer_python()), str(PROGRAM)], env={**os.environ, **quiet}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"{PROGRAM.name} ended with status {self.process.wait()} at {message}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{PROGRAM.name}: {answer['error']}")
        return answer

    def share(self, **arrays: np.ndarray) -> dict[str, str]:
        """Writes arrays where the program can read them; returns their paths by name."""
        paths = {}
        for name, array in arrays.items():
            paths[name] = str(pathlib.Path(self.folder.name) / f"{name}.npy")
            np.save(paths[name], array)
        return paths

    def prepare(self, work: str, **given: object) -> tuple[Callable[[], float], dict]:
        """Prepares a piece of work of `peer_program.py`.

        Args:
            work: the name of its function there.
            **given: the function's arguments.

        Returns:
            A call for `Contender`, and what the function tells of itself, such as its FLOPs.
        """
        told = self.ask(prepare=work, given=given)
        return lambda: self.ask(run=told["number"])["seconds"], told["told"]
