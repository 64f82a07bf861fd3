"""Corrects predicted masks by the known masks of neighbours in the rebuilt slices, where that gains out of fold.

    python scripts/apply_rules.py RUN --predictions PREDICT_RUN --data DIR --mosaics FILE [--rules RULE ...]

RUN is a training run's folder, its name under runs/, or the beginning of it; or an ensemble with its own predictions,
which needs no --predictions. FILE is the table that scripts/mosaics.py writes. Each rule is measured by itself on the
out-of-fold predictions: how many tiles it changes, how many become better and worse, the gain of the score with its
paired standard error, and how many test tiles it would change. Those that --rules names are applied, if they gain, and
make a new run with a `submission.csv`, for scripts/submit.py. Without --rules nothing is written.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.output import shown

NAMES = ("vertical", "below-salt", "borders")


def main(arguments=None) -> int:
    return run_command(correct, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Measure rules that look at neighbours' masks out of fold, and apply those that gain.",
        epilog="example: python scripts/apply_rules.py train-2026 --predictions predict-2026 --data data "
        "--mosaics build/mosaics/mosaics.csv --rules below-salt",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, its name under runs/, or its beginning")
    parser.add_argument("--predictions", metavar="PREDICT_RUN", help="the predict run of it")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, required=True, help="the competition's folder")
    parser.add_argument("--mosaics", metavar="FILE", type=pathlib.Path, required=True, help="mosaics.csv")
    parser.add_argument("--rules", metavar="RULE", nargs="+", default=[], choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, default=paths.RUNS, help="where (default: runs)")
    return parser.parse_args(arguments)


def correct(options: argparse.Namespace) -> Outcome:
    from desk.neighbours import RulesRequest, apply_rules

    request = RulesRequest(
        options.run, options.predictions, options.data, options.mosaics, tuple(options.rules), options.out
    )
    effects, folder = apply_rules(request)
    if folder is None:
        return Outcome({"rules": effects})
    print(f"\nwritten to {shown(folder)}")
    return Outcome(
        {"rules": effects, "run": folder.name, "folder": folder.resolve()}, (f"python scripts/submit.py {folder.name}",)
    )


if __name__ == "__main__":
    sys.exit(main())
