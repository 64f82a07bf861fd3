"""Waits for a run on Kaggle, and brings its output home: whole, of this very run, or not at all.

    python scripts/fetch.py train-t4-20261122-131502-ab12 --wait
    python scripts/fetch.py train-t4                               the beginning of a name is enough

While the run goes on, its log is shown as it grows. When it has finished, every file of its manifest.json is
downloaded into a fresh folder and checked there by size and SHA-256; then the files move to `runs/<run id>/`, the
manifest last. What Kaggle gives of another run, an earlier version or an error page is refused. Of a run that failed
come its log, with the lines of the package's files in the traceback, and what it had written, into `partial/`.

A run whose folds were fanned out is fetched fold by fold and then joined: its folder gets the weights of all folds, one
oof.npz and one history, and a manifest.json that names the parts.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.output import plural, shown
from desk.runs import find_run


def main(arguments=None, link=None) -> int:
    return run_command(fetch, parse_arguments, arguments, link, resumable=True)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Bring a run's output from Kaggle to runs/<run id>/, checked against its manifest.",
        epilog="example: python scripts/fetch.py train-t4-20261122-131502-ab12 --wait",
    )
    parser.add_argument("run", metavar="RUN", help="a run that push.py recorded: its id, the beginning of it, a folder")
    parser.add_argument("--wait", action="store_true", help="until it has finished, and show its log")
    parser.add_argument("--hours", metavar="H", type=float, default=14.0, help="how long (default: 14)")
    parser.add_argument("--runs", type=pathlib.Path, default=paths.RUNS, help="where runs are kept (default: runs)")
    return parser.parse_args(arguments)


def fetch(options: argparse.Namespace, link=None) -> Outcome:
    from desk.fetching import Patience
    from desk.joining import fetch_run
    from desk.kaggle.transport import KaggleLink
    from desk.run_table import number_of
    from desk.states import Manifest

    run = find_run(options.run, options.runs)
    manifest = fetch_run(link or KaggleLink(), run, Patience(options.wait, options.hours))
    if manifest is None:
        print(f"{run.run_id} is here already, whole: {shown(run.folder)}")
        return outcome_of(run.folder, run.need(Manifest))
    size = sum(entry["bytes"] for entry in manifest.files.values())
    print(f"\nfetched: {plural(len(manifest.files), 'file')}, {size / 1e6:,.1f} MB, each as the manifest says")
    score = manifest.score or {}
    if (best := number_of(score.get("best_score"))) is not None:
        interval = score.get("best_interval")
        known = [number_of(end) for end in interval] if isinstance(interval, list) else []
        within = " (95 % interval {:.4f} to {:.4f})".format(*known) if len(known) == 2 and None not in known else ""
        print(f"out-of-fold score {best:.4f}{within}")
    print(f"  {shown(run.folder)}")
    if not manifest.finished:
        more = ", and can be resumed" if manifest.config else "; these are the files that it had written by then"
        print(f"the run stopped before its end{more}")
    return outcome_of(run.folder, manifest)


def outcome_of(folder: pathlib.Path, manifest) -> Outcome:
    """What there is to know of a run that is here, and what comes next."""
    name, kernel, finished = manifest.run_id, manifest.kernel, manifest.finished
    following = {"train": f"score_oof.py {name}", "predict": f"submit.py {name}"}.get(kernel)
    if not finished:
        following = f"push.py {kernel} --resume {name}"
    if not manifest.config:
        following = None
    facts = {"run": name, "folder": folder, "finished": finished, "files": list(manifest.files)}
    return Outcome({**facts, "score": manifest.score}, (f"python scripts/{following}",) if following else ())


if __name__ == "__main__":
    sys.exit(main())
