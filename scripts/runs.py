"""A table of all runs: where each ran, how it stands, and what it scored.

    python scripts/runs.py
    python scripts/runs.py --refresh       asks Kaggle how the open ones stand

It reads what the other verbs wrote into runs/ and talks to Kaggle only with --refresh. Out-of-fold scores are those at
the best threshold; leaderboard scores are public / private.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.run_table import read_facts, table
from desk.runs import Run


def main(arguments=None, link=None) -> int:
    return run_command(runs, parse_arguments, arguments, link, resumable=True)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="A table of all runs in runs/, the newest last.")
    parser.add_argument("--refresh", action="store_true", help="ask Kaggle how the open ones stand")
    parser.add_argument("--runs", type=pathlib.Path, default=paths.RUNS, help="where runs are kept (default: runs)")
    return parser.parse_args(arguments)


def runs(options: argparse.Namespace, link=None) -> Outcome:
    if options.refresh:
        from desk.kaggle.transport import KaggleLink
        from desk.settling import settle_open

        link = link or KaggleLink()
        settle_open(link, options.runs)
    folders = [path for path in options.runs.glob("[!.]*") if path.is_dir()]
    facts = sorted((read_facts(Run(folder)) for folder in folders), key=lambda fact: (fact["at"], fact["run"]))
    if options.refresh:
        from desk.refreshing import refresh

        for fact in facts:
            refresh(link, fact)
    print(table(facts) if facts else f"no runs yet in {options.runs}; python scripts/run_local.py or push.py makes one")
    return Outcome({"runs": facts})


if __name__ == "__main__":
    sys.exit(main())
