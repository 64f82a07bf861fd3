"""Downloads the competition's files from Kaggle into the layout that everything here reads.

    python scripts/download_data.py                into data/tgs-salt-identification-challenge/
    python scripts/download_data.py --out DIR

A download that was interrupted is resumed; each file is checked by its size, zips by their contents, and takes its name
when it is whole. The competition's rules have to be accepted once, on its page.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.output import shown


def main(arguments=None, link=None) -> int:
    return run_command(download, parse_arguments, arguments, link, resumable=True)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Download the competition's files from Kaggle; an interrupted download is resumed.",
        epilog="example: python scripts/download_data.py --out ~/tgs",
    )
    out = paths.ROOT / "data" / paths.COMPETITION
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, default=out)
    parser.add_argument("--competition", metavar="C", default=paths.COMPETITION, help="name in Kaggle's addresses")
    return parser.parse_args(arguments)


def download(options: argparse.Namespace, link=None) -> Outcome:
    from desk.competition_data import download_competition
    from desk.competitions import load_competition
    from desk.kaggle.transport import KaggleLink
    from salt.competition import find_competition

    download_competition(link or KaggleLink(), options.competition, options.out)
    found = find_competition([options.out], load_competition())
    print(f"\nready: {shown(found.folder)}")
    following = f"python scripts/run_local.py train --data {shown(found.folder)} --preset demo"
    return Outcome({"folder": found.folder.resolve()}, (following,))


if __name__ == "__main__":
    sys.exit(main())
