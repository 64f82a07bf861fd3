"""Rebuilds the slices that a competition's tiles were cut from, from the pixels alone.

    python scripts/mosaics.py DATA [--competition C] [--out DIR] [--false-rate RATE]

DATA is the competition's folder, C the module of salt/ that describes it, or a file of yours; its training and test
tiles, which must be grey, are matched together. Writes `mosaics.csv` (id, mosaic, row, column, confidence; tiles
without a neighbour have an id alone) and `mosaics.html`, which shows the rebuilt slices with the salt of training
tiles, test tiles framed, and the seams on demand, into build/mosaics, unless --out says otherwise. The share of false
matches, 0.01 unless --false-rate says otherwise, is estimated from the tiles themselves: see docs/mosaics.md. The page
shows the competition's images, so mind its rules before passing it on.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command


def main(arguments=None) -> int:
    return run_command(rebuild, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Rebuild the slices that a competition's tiles were cut from.")
    parser.add_argument("data", metavar="DATA", type=pathlib.Path, help="the competition's folder")
    parser.add_argument("--competition", metavar="C", default="tgs", help="described in salt/, or a .py (default: tgs)")
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, default=paths.BUILD / "mosaics")
    parser.add_argument("--false-rate", metavar="RATE", type=float, default=0.01, help="share of false matches")
    return parser.parse_args(arguments)


def rebuild(options: argparse.Namespace) -> Outcome:
    from desk.competitions import load_competition
    from desk.errors import ConfigurationError
    from desk.pages.mosaics import write_mosaic_page
    from salt.competition import find_competition
    from salt.data import read_test, read_train
    from salt.mosaics import describe_mosaics, find_mosaics, join_tiles, write_mosaics

    competition = load_competition(options.competition)
    if competition.channels != 1 or competition.size is None or len(competition.classes) > 1:
        raise ConfigurationError(
            f"--competition {options.competition}: channels={competition.channels}, size={competition.size}, "
            f"{len(competition.classes)} classes; slices are rebuilt from grey tiles of one size, with one mask each"
        )
    files = find_competition([options.data], competition)
    train = read_train(files)
    tiles = join_tiles(train, read_test(files) if files.has_test() else None)
    mosaics = find_mosaics(tiles.images, options.false_rate)
    table, page = options.out / "mosaics.csv", options.out / "mosaics.html"
    write_mosaics(table, tiles.ids, mosaics)
    write_mosaic_page(page, tiles, train.known_masks(), mosaics)
    facts = describe_mosaics(mosaics)
    print(f"{facts['placed']} of {facts['tiles']} tiles lie in {facts['mosaics']} mosaics, {facts['seams']} seams")
    print(f"{table}\n{page}  {page.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return Outcome({**facts, "table": table.resolve(), "page": page.resolve()})


if __name__ == "__main__":
    sys.exit(main())
