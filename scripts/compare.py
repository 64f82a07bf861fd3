"""Compares two training runs at the desk, tile by tile, by their out-of-fold predictions.

    python scripts/compare.py RUN_A RUN_B [--common]

Each RUN is a folder with `manifest.json` and `oof.npz`, the name of one under runs/, or the beginning of it, and is
checked against its manifest first. Prints by how much B is better than A, with the 95 % interval of a paired bootstrap
over tiles, where it is better, and how many tiles more it would take to be sure. Both are scored nested (see
score_oof.py). `--common`: on the tiles that both runs held out.

The interval knows of tiles only. That the same settings, trained with another seed, score otherwise, it cannot know.
"""

import argparse
import sys

from desk.command import Outcome, VerbParser, run_command


def main(arguments=None) -> int:
    return run_command(compare, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Compare two runs' out-of-fold predictions, tile by tile.")
    parser.add_argument("first", metavar="RUN_A", help="a run's folder, its name under runs/, or its beginning")
    parser.add_argument("second", metavar="RUN_B", help="the run that may be better")
    parser.add_argument("--common", action="store_true", help="compare on the tiles that both runs held out")
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> Outcome:
    from desk.score_tables import comparison_table
    from desk.scoring import one_competition, open_run
    from salt.scoring import compare_oof

    first, second = open_run(options.first), open_run(options.second)
    metric = one_competition([first, second]).metric
    result = compare_oof(first.oof, second.oof, metric, common=options.common)
    names = [run.manifest["run_id"] for run in (first, second)]
    print(comparison_table(*names, result))
    return Outcome({"runs": names, **result})


if __name__ == "__main__":
    sys.exit(main())
