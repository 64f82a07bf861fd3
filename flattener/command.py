"""The command line."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from flattener.build import KernelRequest, Report, build_entry, build_report
from flattener.errors import BuildError
from flattener.kaggle import NO_OWNER
from flattener.settings import SettingError, bind_text, parse_settings, split_arguments
from flattener.trace import trace_log


class ArgumentsOfEntry(argparse.Action):
    """Keeps each `--args` by the number of the `--entry` that stands before it; that of a NAME by -1."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        number = len(namespace.entry) - 1
        kept = dict(namespace.entry_arguments)
        if number in kept:
            parser.error(f"--args {values!r}: give it once for each --entry, behind it")
        try:
            kept[number] = split_arguments(values)
        except SettingError as error:
            parser.error(str(error))
        namespace.entry_arguments = kept


def parse_arguments(arguments: list[str] | None, root: Path) -> argparse.Namespace:
    """The command line; `names` are the kernels to build, `set` a dictionary."""
    parser = argparse.ArgumentParser(
        prog="build_kernel.py", description="Ships a Python package to Kaggle as one readable notebook."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="kernels to build, by name or path; default: all of kernels/"
    )
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="change settings")
    parser.add_argument("--preset", help="the preset of the settings cell")
    parser.add_argument("--competition", metavar="C", help="the module that describes another competition")
    parser.add_argument("--owner", help="your Kaggle name; else KAGGLE_USERNAME or kaggle.json")
    parser.add_argument("--format", choices=["notebook", "script"], default="notebook")
    parser.add_argument("--out", help="folder of the builds (default: build), or with --entry the file to write")
    parser.add_argument(
        "--entry", type=Path, action="append", default=[],
        help="flatten this script instead of a kernel; given again, this one behind it",
    )  # fmt: skip
    parser.add_argument(
        "--args", action=ArgumentsOfEntry, dest="entry_arguments", default={}, metavar="TEXT",
        help='the arguments of the --entry before it, or of NAME: --args "--fold 0 --lr 1e-3"',
    )  # fmt: skip
    parser.add_argument("--package", type=Path, action="append", default=[], help="a package that no import shows")
    parser.add_argument(
        "--data", type=Path, action="append", default=[], help="a file or folder that the program reads"
    )
    parser.add_argument(
        "--style", choices=["auto", "flat", "modules"], default="auto", help="with --entry: see docs/flattener.md"
    )
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="with --entry: NAME is harmless")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="MODULE:NAME", help="with --entry: found by its name at run time"
    )
    parser.add_argument("--trace", type=Path, metavar="LOG", help="print a log with its frames led back to the source")
    parser.add_argument("--map", type=Path, help="with --trace: the build's .map.json; default: the only one there is")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what was dropped and renamed")
    options = parser.parse_args(bind_text(sys.argv[1:] if arguments is None else arguments))
    if options.entry and (options.names or not options.out or options.set or options.preset):
        parser.error("--entry takes --package, --data, --args and --out, no NAME and no settings")
    if options.entry and -1 in options.entry_arguments:
        parser.error("--args stands before the first --entry: give it behind the one that it is for")
    if options.keep and options.style == "flat":
        parser.error("--keep asks for a module of its own: it does not go with --style flat")
    if (options.trust or options.keep) and not options.entry:
        parser.error("--trust and --keep go with --entry")
    kernels = sorted(path.stem for path in (root / "kernels").glob("*.py"))
    options.names += [text for text in options.set if text in kernels]  # as in `--set epochs=5 train`
    try:
        options.set = parse_settings(text for text in options.set if text not in kernels)
    except SettingError as error:
        parser.error(str(error))
    more = options.entry_arguments or options.package or options.data
    if more and not options.entry and len(options.names) != 1:
        parser.error("--args, --package and --data go with an --entry, or with one NAME")
    if not (options.names or options.entry or options.trace):
        options.names = kernels
    return options


def print_report(report: Report, verbose: bool) -> None:
    """Prints what there is to tell about a build; with `verbose` what was left out, and what has another name."""
    names = "module" if report.modules == 1 else "modules"
    path = os.path.relpath(report.path) if report.path.resolve().is_relative_to(Path.cwd()) else report.path
    print(f"{path}  {report.size:,} bytes, {report.cells} cells, {report.modules} {names}", end="")
    print(f", build id {report.build_id}")
    for taken in report.taken:
        print(f"  took {taken}")
    for warning in report.warnings:
        print(f"  warning: {warning}")
    if report.reasons and not verbose:
        print(f"  {len(report.reasons)} of {names} in modules style; -v tells why")
    if verbose:
        for about, lines in (
            ("modules style:", report.reasons),
            ("undecided:", report.undecided),
            ("dropped", report.dropped),
            ("renamed", report.renamed),
        ):
            print(*(f"  {about} {line}" for line in lines), sep="\n", end="\n" if lines else "")


def run_command(arguments: list[str] | None, root: Path) -> int:
    """Runs the command line and returns its exit status.

    Args:
        arguments: without the program's name; None: those of the process.
        root: the repository whose kernels are built.
    """
    options = parse_arguments(arguments, root)
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        print(f"error: Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    try:
        if options.entry:
            given = options.entry_arguments
            (entry, arguments), *others = [(path, given.get(index)) for index, path in enumerate(options.entry)]
            report = build_entry(
                *(entry, options.package, Path(options.out), options.style, arguments, others),
                trust=options.trust,
                keep=options.keep,
                data=options.data,
            )
            print_report(report, options.verbose)
            return 0
        if options.trace:
            print(trace_log(options.trace, options.map, root / "build"), end="")
            return 0
        owner = None
        for name in options.names:
            request = KernelRequest(
                name,
                root,
                Path(options.out or root / "build"),
                settings=options.set,
                preset=options.preset,
                competition=options.competition,
                owner=options.owner,
                form=options.format,
                packages=options.package,
                data=options.data,
                arguments=options.entry_arguments.get(-1),
            )
            report = build_report(request)
            print_report(report, options.verbose)
            owner = report.owner
        if options.names and owner is None:
            print(f"No Kaggle name known: {NO_OWNER!r} stands in for it.", end=" ")
            print("Before a push, build again with --owner NAME, or set KAGGLE_USERNAME.")
        return 0
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
