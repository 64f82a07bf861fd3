"""Submits a run's submission.csv, or any such file, once, and waits for its score.

    python scripts/submit.py predict-20261122-141502-cd34 --message "five folds, flips"
    python scripts/submit.py elsewhere.csv --dry-run
    python scripts/submit.py elsewhere.csv --competition airbus

First the file is checked here: that it is what the run wrote, and, against the competition's sample, its ids and every
run-length encoding. A file of another origin is checked likewise, and kept as a run under a name that follows from its
content; what it is for follows from its columns, unless --competition says it. Then it is uploaded and submitted, and
the score is recorded in `runs/<run id>/submit.json`. A submission whose answer is lost is looked up by the run's id,
with which its description begins; it is sent again only by --again.
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.consent import add_consent_options, consent_of
from desk.runs import find_run


def main(arguments=None, link=None) -> int:
    return run_command(submit, parse_arguments, arguments, link, resumable=True)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Check a run's submission.csv, submit it, and record its score in runs/<run id>/submit.json.",
        epilog='example: python scripts/submit.py predict-20261122-141502-cd34 --message "five folds, flips"',
    )
    parser.add_argument(
        "run", metavar="RUN", help="a run of the predict kernel: its id, its beginning, or a folder; or a CSV file"
    )
    parser.add_argument(
        "--competition", metavar="C", help="of a CSV file: described in salt/, or a .py (default: by its columns)"
    )
    parser.add_argument("--message", metavar="M", default="", help="description; the run's id is put before it")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, help="folder of the competition (default: data)")
    parser.add_argument("--minutes", metavar="M", type=float, default=30, help="to wait for the score (default: 30)")
    add_consent_options(parser, "submit nothing")
    parser.add_argument(
        "--again", action="store_true",
        help="submit once more what was scored or could not be scored, or what was sent and Kaggle does not list",
    )  # fmt: skip
    parser.add_argument("--runs", type=pathlib.Path, default=paths.RUNS, help="where runs are kept (default: runs)")
    return parser.parse_args(arguments)


def submit(options: argparse.Namespace, link=None) -> Outcome:
    from desk.errors import ConfigurationError
    from desk.kaggle.transport import KaggleLink
    from desk.submitting import run_of_file, submit_run

    link, path, consent = link or KaggleLink(), pathlib.Path(options.run), consent_of(options, "submit")
    with contextlib.ExitStack() as held:
        if path.is_file():
            # A dry run changes nothing: it looks at a copy elsewhere.
            scratch = held.enter_context(tempfile.TemporaryDirectory())
            runs = pathlib.Path(scratch) if options.dry_run else options.runs
            run = run_of_file(link, path, options.data, runs, options.dry_run, options.competition)
        elif options.competition:
            raise ConfigurationError(f"--competition: {options.run} is a run, whose manifest says it; leave it out")
        else:
            run = find_run(options.run, options.runs)
        if not options.dry_run:
            held.enter_context(run.lock())
        record = submit_run(link, run, options.message, options.data, options.minutes, consent, options.again)
    if not record:
        return Outcome({"run": run.name, **consent.result}, consent.next)
    scores = {"public": record.public, "private": record.private}
    public, private = ("not shown" if score is None else f"{score:.5f}" for score in scores.values())
    print(f"\nleaderboard  public {public}, private {private}")
    return Outcome({"run": run.name, "submission": record.ref, "state": record.state, **scores})


if __name__ == "__main__":
    sys.exit(main())
