"""Writes a page about a competition's data, to look at before anything is trained.

    python scripts/explore.py DATA [--competition C] [--out FILE]

DATA is the competition's folder, C the module of salt/ that describes it, or a file of yours. The page shows how much
of the training tiles is marked, examples of each coverage class, what needs a decision (duplicates, tiny masks;
of the salt tiles also black and vertical ones), and depth against coverage, if there are depths. It is one file that
needs no network: build/explore.html, unless --out says otherwise. It shows the competition's images, so mind its rules
before passing it on.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command


def main(arguments=None) -> int:
    return run_command(explore, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Write a page about a competition's data.")
    parser.add_argument("data", metavar="DATA", type=pathlib.Path, help="the competition's folder")
    parser.add_argument("--competition", metavar="C", default="tgs", help="described in salt/, or a .py (default: tgs)")
    parser.add_argument("--out", metavar="FILE", type=pathlib.Path, default=paths.BUILD / "explore.html")
    return parser.parse_args(arguments)


def explore(options: argparse.Namespace) -> Outcome:
    from desk.competitions import load_competition
    from desk.pages.explore import write_exploration
    from salt.competition import find_competition
    from salt.data import read_test, read_train

    files = find_competition([options.data], load_competition(options.competition))
    train = read_train(files)
    test = read_test(files) if files.has_test() else None
    write_exploration(options.out, train, test)
    print(f"{options.out}  {options.out.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return Outcome({"page": options.out.resolve(), "bytes": options.out.stat().st_size})


if __name__ == "__main__":
    sys.exit(main())
