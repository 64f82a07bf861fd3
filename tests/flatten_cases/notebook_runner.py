"""Runs notebooks for `test_flatten_cases.py` as a kernel would, each in a fork of one IPython that is already warm.

Standard input holds one JSON object a line: notebook, folder, arguments, environment, stdout, stderr (files), timeout.
The code cells run in order in one shell; the first that fails ends the run. One exit status a line is the answer.
"""

import json
import os
import signal
import sys
import time
import traceback


def warm_shell():
    import IPython.core.interactiveshell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    IPython.core.interactiveshell.warn = lambda *_, **__: None  # its advice on how to leave, at every SystemExit
    shell = IPython.core.interactiveshell.InteractiveShell.instance(config=config)
    shell.showtraceback = shell.showsyntaxerror = lambda *_, **__: None  # printed below, as Python prints it
    return shell


def run_cells(shell, path: str) -> int:
    with open(path, encoding="utf-8") as file:
        cells = json.load(file)["cells"]
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        result = shell.run_cell("".join(cell["source"]), store_history=True)
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, SystemExit):
            raise error
        if error is not None:
            traceback.print_exception(error)
            return 1
    return 0


def become(job: dict):
    """Makes this process look like a kernel that was started in the job's folder."""
    os.setsid()
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, job["stdout"], 0o101), (2, job["stderr"], 0o101)):
        opened = os.open(path, mode, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = [job["notebook"], *job["arguments"]]


def wait_for(child: int, timeout: float) -> int:
    limit = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > limit:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 124
        time.sleep(0.003)


def main() -> int:
    jobs, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    sys.path[0] = ""  # a kernel finds what lies in its working directory
    shell = warm_shell()
    for line in iter(jobs.readline, ""):
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            become(job)
            return run_cells(shell, job["notebook"])
        print(wait_for(child, job["timeout"]), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
