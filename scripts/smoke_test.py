"""Builds every kernel and runs it in the local Kaggle stand-in, each on the outputs of those that it needs.

    python scripts/smoke_test.py            the smallest size, in under 3 minutes: run it before every push
    python scripts/smoke_test.py --demo     a size worth looking at; `make demo` is this
    python scripts/smoke_test.py --competition severstal

Then scores the out-of-fold predictions, writes the report about them and checks the submission. Nothing leaves this
machine. The first step that fails ends the chain and is named.
"""

import argparse
import contextlib
import math
import pathlib
import shutil
import signal
import sys
import time

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.errors import DeskError, Exit
from desk.local.docker import add_docker_option, run_in_docker
from desk.output import shown

SIZES = {"smoke": 48, "demo": 400}  # training tiles; each size is also the name of its preset
LARGE = 1_000_000  # pixels of a tile, from which a third as many tiles do


class StepError(DeskError):
    """A step of the chain that failed."""


def main(arguments=None) -> int:
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(Exit.ENDED)
    )  # as an exception, so that what was begun is cleared away
    return run_command(smoke_test, parse_arguments, arguments)


def smoke_test(options: argparse.Namespace) -> Outcome:
    size = "demo" if options.demo else "smoke"
    runs = options.runs or (paths.RUNS if options.demo else paths.BUILD / "smoke")
    if options.docker is not None:
        return run_in_docker("smoke_test", options, runs)
    if options.runs is None and not options.demo:
        shutil.rmtree(runs, ignore_errors=True)  # nobody wants to keep what a smoke test trained
    return run_chain(size, options.data, runs, options.competition)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Run the whole chain, from the package to a checked submission.")
    parser.add_argument("--demo", action="store_true", help="at a size worth looking at, with a table at the end")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, help="on tiles of this competition")
    parser.add_argument(
        "--competition", metavar="C", help="another one than the kernels': the module of salt/ that says it"
    )
    parser.add_argument("--runs", metavar="DIR", type=pathlib.Path, help="where runs are kept (runs; else build/smoke)")
    add_docker_option(parser)
    return parser.parse_args(arguments)


def run_chain(size, data, runs, competition=None) -> Outcome:
    """Runs all steps and tells about them.

    Args:
        size: a key of `SIZES`.
        data: folder of the competition; None: synthetic tiles.
        runs: where runs are kept.
        competition: the module that describes it; None: the kernels' own.

    Raises:
        StepError: names the step that failed.
    """
    from desk.building import Program
    from desk.competitions import DEFAULT, load_competition
    from desk.local.chain import plan_kernels
    from desk.local.competitions import competition_folder
    from desk.local.kernels import run_kernel
    from desk.pages.report import write_report
    from desk.scoring import show_score
    from salt.competition import find_competition
    from salt.data import read_test_sides
    from salt.submission import check_submission

    seconds, made = {}, {}
    with step("competition", seconds):
        described = load_competition(competition or DEFAULT)
        count = SIZES[size] if math.prod(described.size or (0, 0)) < LARGE else SIZES[size] // 3
        count = {"synthetic": count} if data is None else {"data": data, "tiles": count}
        folder = competition_folder(described, **count)
    with step("build", seconds):
        kernels = plan_kernels(competition)
    for name, (sources, has_preset) in kernels.items():
        if size == "demo" and name == "search":
            continue  # many trainings of this size take hours, and lead to no submission
        with step(name, seconds):
            made[name] = run_kernel(
                Program(name, competition=competition), data=folder, preset=size if has_preset else None,
                mounted_runs=[made[source] for source in sources], runs=runs,
            )  # fmt: skip
    with step("score", seconds):
        score = show_score([made["train"]])
    with step("report", seconds):
        write_report(made["train"], None, folder)
    with step("submission", seconds):
        files = find_competition([folder], described)
        sides = read_test_sides(files) if described.size is None else None
        submission = check_submission(made["predict"] / "submission.csv", files.sample_submission, described, sides)
    print(chain_table(score, submission, seconds, made))
    return Outcome({"runs": made, "score": score["best_score"], "submission": submission, "seconds": seconds})


@contextlib.contextmanager
def step(name, seconds):
    """Names a step, notes in `seconds` how long it took, and turns its errors into a `StepError`."""
    print(f"\n=== {name}", flush=True)
    began = time.monotonic()
    try:
        yield
    except (DeskError, ValueError, OSError) as error:
        raise StepError(f"step {name!r} failed: {error}") from error
    seconds[name] = time.monotonic() - began


def chain_table(score, submission, seconds, made) -> str:
    low, high = score["best_interval"]
    lines = [
        "",
        f"out-of-fold score   {score['best_score']:.3f} at level {score['best_level']} of 255"
        f" (95 % interval {low:.3f} to {high:.3f}, {score['tiles']} tiles)",
        f"       at p = 0.5   {score['half_score']:.3f}",
        f"submission          {submission['rows']} rows, {submission['empty_share']:.0%} of them empty; checked",
        f"seconds             {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())};"
        f" {sum(seconds.values()):.0f} in all",
        "",
        "to look at:",
    ]
    files = [made["train"] / "report.html", *(made[name] / f"{name}.html" for name in made)]
    files += [made["train"] / "score.json", made["predict"] / "submission.csv"]
    return "\n".join(lines + [f"  {shown(path)}" for path in files])


if __name__ == "__main__":
    sys.exit(main())
