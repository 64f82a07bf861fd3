"""Writes report.html for a training run: one page to look at, which needs no network.

    python scripts/report.py RUN [RUN_B] --data DIR [--pixels ID ...] [--mosaics FILE]

Each RUN is a folder with `manifest.json` and `oof.npz`, the name of one under runs/, or the beginning of it; DIR is the
competition that it was trained on, which has the images. The page re-scores the run at any threshold and minimum area,
shows where the points are lost and each tile with truth, probability and error; with RUN_B, the two runs side by side.
It is written into RUN's folder, as `report.html`. Where a run has rebuilt the slices that tiles were cut from, or FILE
is the table that scripts/mosaics.py writes, the page says what rules that look at neighbours would change.

Scores are exact at all 255 levels, from a table of every mask's score (of a metric without steps, to 1 / 65,535); the
pictures of the probabilities have 32 levels, or 16. Where the page would still become larger than 15 MB, only the worst
tiles have pictures. Large images are scaled; the page holds the four worst tiles, or those that `--pixels` names, with
their true pixels besides.
"""

import argparse
import pathlib
import sys

from desk.command import Outcome, VerbParser, run_command


def main(arguments=None) -> int:
    return run_command(report, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Write report.html for a training run, or for two side by side.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, its name under runs/, or its beginning")
    parser.add_argument("second", metavar="RUN_B", nargs="?", help="a run to compare it with")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, required=True, help="the competition")
    parser.add_argument("--pixels", metavar="ID", nargs="+", default=[], help="tiles to show with their true pixels")
    parser.add_argument("--mosaics", metavar="FILE", type=pathlib.Path, help="mosaics.csv (default: the run's own)")
    return parser.parse_args(arguments)


def report(options: argparse.Namespace) -> Outcome:
    from desk.pages.report import write_report

    path = write_report(options.run, options.second, options.data, options.pixels, options.mosaics)
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return Outcome({"page": path.resolve(), "bytes": path.stat().st_size})


if __name__ == "__main__":
    sys.exit(main())
