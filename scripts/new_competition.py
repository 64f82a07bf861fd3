"""Writes a first description of a competition from a folder of its files: salt/MODULE.py, to be read and corrected.

    python scripts/new_competition.py snails-of-the-world --data path/to/its/files

It looks at tables, at pictures and at some masks, and says what it saw or guessed and why. docs/your-competition.md
goes on from there.
"""

import argparse
import pathlib
import re
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.errors import ConfigurationError
from desk.output import shown
from salt.files import whole_file


def main(arguments=None) -> int:
    return run_command(write_description, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Write a first description of a competition from its files.",
        epilog="example: new_competition.py snails-of-the-world --data ~/snails",
    )
    parser.add_argument("slug", metavar="SLUG", help="the competition's name in Kaggle's addresses")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, required=True, help="its files: a folder, or a zip")
    parser.add_argument("--name", metavar="MODULE", help="of the description (default: the first word of SLUG)")
    parser.add_argument("--folder", type=pathlib.Path, default=paths.ROOT / "salt", help="instead of salt")
    return parser.parse_args(arguments)


def write_description(options: argparse.Namespace) -> Outcome:
    from desk.describing import description_text, draft_description

    name = options.name or re.split(r"[-_ ]+", options.slug)[0].casefold()
    path = options.folder / f"{name}.py"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigurationError(f"MODULE {name!r}: use small letters, digits and _, and begin with a letter")
    if path.exists():
        raise ConfigurationError(f"{shown(path)}: is there already; give another --name, or change that file")
    if not options.data.exists():
        raise ConfigurationError(f"--data {options.data}: does not exist; give the folder of the competition's files")
    draft = draft_description(options.slug, options.data)
    width = max(len(field.partition("=")[0]) for field, _ in draft.remarks)
    for field, why in draft.remarks:
        key, _, value = field.partition("=")
        print(f"{key:<{width}}  {value}\n{'':<{width}}    {why}")
    with whole_file(path) as temporary:
        temporary.write_text(description_text(draft), encoding="utf-8")
    print(f"\nwritten: {shown(path)}; read it, and correct what is wrong")
    following = f"python scripts/smoke_test.py --competition {name} --data {shown(options.data)}"
    return Outcome({"description": path.resolve(), "guessed": dict(draft.remarks)}, (following,))


if __name__ == "__main__":
    sys.exit(main())
