"""Builds every kernel and runs it in the local Kaggle stand-in, each on the outputs of those that it needs.

    python scripts/smoke_test.py            the smallest size, in under 3 minutes: run it before every push
    python scripts/smoke_test.py --demo     a size worth looking at; `make demo` is this

Then scores the out-of-fold predictions, writes the report about them and checks the submission. Nothing leaves this
machine. The first step that fails ends the chain and is named.
"""

import argparse
import contextlib
import graphlib
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import run_local

SIZES = {"smoke": 48, "demo": 400}  # training tiles; each size is also the name of its preset


class StepError(Exception):
    """A step of the chain that failed."""


def main(arguments=None) -> int:
    options = parse_arguments(arguments)
    size = "demo" if options.demo else "smoke"
    runs = options.runs or (ROOT / "runs" if options.demo else run_local.BUILD / "smoke")
    if options.runs is None and not options.demo:
        shutil.rmtree(runs, ignore_errors=True)  # nobody wants to keep what a smoke test trained
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that what was begun is cleared away
    try:
        report = run_chain(size, options.data, runs)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except StepError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(report)
    return 0


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the whole chain, from the package to a checked submission.")
    parser.add_argument("--demo", action="store_true", help="at a size worth looking at, with a table at the end")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, help="on tiles of this competition")
    parser.add_argument("--runs", metavar="DIR", type=pathlib.Path, help="where runs are kept (runs; else build/smoke)")
    return parser.parse_args(arguments)


def run_chain(size, data, runs) -> str:
    """Runs all steps and returns the table that tells about them.

    Raises:
        StepError: names the step that failed.
    """
    seconds, made = {}, {}
    with step("competition", seconds):
        if data is None:
            competition = run_local.competition_folder(synthetic=SIZES[size])
        else:
            competition = run_local.competition_folder(data=data, tiles=SIZES[size])
    with step("build", seconds):
        kernels = plan_kernels()
    for name, (sources, has_preset) in kernels.items():
        if size == "demo" and name == "search":
            continue  # many trainings of this size take hours, and lead to no submission
        with step(name, seconds):
            made[name] = run_local.run_kernel(
                name, data=competition, preset=size if has_preset else None,
                mounted_runs=[made[source] for source in sources], runs=runs,
            )  # fmt: skip
    with step("score", seconds):
        score = score_run(made["train"])
    with step("report", seconds):
        report_run(made["train"], competition)
    with step("submission", seconds):
        submission = check_run(made["predict"], competition)
    return chain_table(score, submission, seconds, made)


@contextlib.contextmanager
def step(name, seconds):
    """Names a step, notes in `seconds` how long it took, and turns its errors into a `StepError`."""
    print(f"\n=== {name}", flush=True)
    began = time.monotonic()
    try:
        yield
    except (run_local.LocalRunError, StepError, ValueError, OSError) as error:
        raise StepError(f"step {name!r} failed: {error}") from error
    seconds[name] = time.monotonic() - began


def plan_kernels() -> dict[str, tuple[list[str], bool]]:
    """Builds every kernel; in running order, the kernels whose outputs each needs, and whether it has a preset."""
    names = sorted(path.stem for path in (ROOT / "kernels").glob("*.py"))
    with tempfile.TemporaryDirectory() as out:
        out = pathlib.Path(out)
        metadata = {name: run_local.build_notebook(name, out) for name in names}
        parameters = {name: run_local.read_parameters(out / name / f"{name}.ipynb") for name in names}
    return order_kernels(metadata, parameters)


def order_kernels(metadata, parameters) -> dict[str, tuple[list[str], bool]]:
    """See `plan_kernels`; `metadata` and `parameters` are the kernels' own, by name."""
    slugs = {entry["id"].rpartition("/")[2]: name for name, entry in metadata.items()}
    needed = {}
    for name, entry in metadata.items():
        wanted = [source.split("/")[1] for source in entry["kernel_sources"]]  # owner/slug or owner/slug/version
        if unknown := [slug for slug in wanted if slug not in slugs]:
            present = ", ".join(slugs)
            raise StepError(f"kernel {name} needs the output of {', '.join(unknown)}; kernels/ makes {present}")
        needed[name] = [slugs[slug] for slug in wanted]
    try:
        order = list(graphlib.TopologicalSorter(needed).static_order())
    except graphlib.CycleError as error:
        raise StepError(f"kernels need each other's outputs in a circle: {' <- '.join(error.args[1])}") from error
    return {name: (needed[name], "PRESET" in parameters[name]) for name in order}


def score_run(folder) -> dict:
    """Scores a training run as `score_oof.py` does and returns what it wrote."""
    import score_oof

    if score_oof.main([str(folder)]) != 0:
        raise StepError(f"{folder} cannot be scored; the reason is above")
    return json.loads((folder / "score.json").read_text(encoding="utf-8"))


def report_run(folder, competition):
    """Writes the page about a training run as `report.py` does."""
    import report

    report.write_report(str(folder), None, competition)


def check_run(folder, competition) -> dict:
    """Checks a run's submission against the sample of the competition that it was made for."""
    from salt.competition import find_competition
    from salt.submission import check_submission

    return check_submission(folder / "submission.csv", find_competition([competition]).sample_submission)


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
    return "\n".join(lines + [f"  {run_local.shown(path)}" for path in files])


if __name__ == "__main__":
    sys.exit(main())
