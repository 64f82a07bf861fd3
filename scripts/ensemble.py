"""Makes one run of several: their predictions, averaged with the weights that score best out of fold.

    python scripts/ensemble.py RUN RUN ... [--predictions PREDICT_RUN PREDICT_RUN ...] [--ranks]

RUN is a training run's folder, with `manifest.json` and `oof.npz`, its name under runs/, or the beginning of it. All
must hold the same tiles in the same folds. `--predictions` names the predict run of each, in any order; then the new
run has a `submission.csv` as well, for scripts/submit.py. Every file is checked against its manifest first.

Weights are chosen on other folds than they are scored on: the `oof.npz` of the new run holds each fold's tiles as
blended with the weights that the other folds chose, so that score_oof.py and compare.py take it for a run like any
other, and tell what it is worth. Prints its score, and the difference to the best single run with its 95 % interval.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.output import shown


def main(arguments=None) -> int:
    return run_command(ensemble, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Average the predictions of several runs, with weights that score best out of fold.",
        epilog="example: python scripts/ensemble.py first second --predictions first-predict second-predict",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="a training run's folder, its name under runs/, or its beginning"
    )
    parser.add_argument(
        "--predictions", metavar="PREDICT_RUN", nargs="+", default=[], help="the predict run of each, in any order"
    )
    parser.add_argument("--ranks", action="store_true", help="average ranks instead of probabilities")
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, default=paths.RUNS, help="where (default: runs)")
    return parser.parse_args(arguments)


def ensemble(options: argparse.Namespace) -> Outcome:
    from desk.ensembles import make_ensemble

    folder = make_ensemble(options.runs, options.predictions, options.ranks, options.out)
    print(f"\nwritten to {shown(folder)}")
    following = "submit" if (folder / "submission.csv").is_file() else "score_oof"
    return Outcome(
        {"run": folder.name, "folder": folder.resolve()}, (f"python scripts/{following}.py {shown(folder)}",)
    )


if __name__ == "__main__":
    sys.exit(main())
