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
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, help="default: data/, in a folder of its name")
    parser.add_argument("--competition", metavar="C", help="name in Kaggle's addresses (default: that of TGS)")
    return parser.parse_args(arguments)


def download(options: argparse.Namespace, link=None) -> Outcome:
    from desk.competition_data import download_competition
    from desk.competitions import described_competitions, load_competition, slug_of
    from desk.kaggle.transport import KaggleLink
    from salt.competition import find_competition

    slug = options.competition or slug_of({})
    out = options.out or paths.ROOT / "data" / slug
    download_competition(link or KaggleLink(), slug, out)
    if slug not in described_competitions().values():
        print(f"\n{slug} is not described yet")
        following = f"python scripts/new_competition.py {slug} --data {shown(out)}"
        return Outcome({"folder": out.resolve()}, (following,))
    found = find_competition([out], load_competition(slug))
    print(f"\nready: {shown(found.folder)}")
    following = f"python scripts/run_local.py train --data {shown(found.folder)} --preset demo"
    return Outcome({"folder": found.folder.resolve()}, (following,))


if __name__ == "__main__":
    sys.exit(main())
