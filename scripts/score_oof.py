"""Scores a training run, or an ensemble of several, at the desk, by out-of-fold predictions.

    python scripts/score_oof.py RUN [RUN ...] [--data DIR] [--mosaics FILE]

RUN is a folder with `manifest.json` and `oof.npz`, the name of one under runs/, or the beginning of it. Each run is
checked against its manifest first. Several runs are scored as their ensemble, the mean of their probabilities: they
must hold the same tiles in the same folds.

Prints the score at probability 0.5, at the best level, with the best minimum area, and *nested*: with level and area
chosen on other folds than those that are scored. Then the folds, the coverage classes, the confusion of empty and salt
tiles, the calibration, and what the leaderboard is expected to say. `--data`, the competition's folder, adds a table by
depth. With it, `--mosaics`, the table that scripts/mosaics.py writes, or that of the run itself, adds the leak: the
share of the tiles that have a tile of the same slice, or a neighbour, among those that were trained on, and the scores
of tiles with and without one; and what rules that look at neighbours would change.
A single run's figures are also written to `score.json` in its folder.
"""

import argparse
import pathlib
import sys

from desk.command import Outcome, VerbParser, run_command


def main(arguments=None) -> int:
    return run_command(score, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Score out-of-fold predictions of a run or of an ensemble of runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder, its name under runs/, or its beginning")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, help="the competition, for its depths.csv")
    parser.add_argument(
        "--mosaics", metavar="FILE", type=pathlib.Path, help="mosaics.csv, for the leak (default: its own)"
    )
    return parser.parse_args(arguments)


def score(options: argparse.Namespace) -> Outcome:
    from desk.scoring import show_score

    return Outcome(show_score(options.runs, options.data, options.mosaics))


if __name__ == "__main__":
    sys.exit(main())
