"""The command line."""

import argparse
import os
import sys
from pathlib import Path

from flattener.build import KernelRequest, Report, build_entry, build_report
from flattener.errors import BuildError
from flattener.kaggle import NO_OWNER
from flattener.settings import SettingError, parse_settings
from flattener.trace import trace_log


def parse_arguments(arguments: list[str] | None, root: Path) -> argparse.Namespace:
    """The command line; `names` are the kernels to build, `set` a dictionary."""
    parser = argparse.ArgumentParser(
        prog="build_kernel.py", description="Ships a Python package to Kaggle as one readable notebook."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernels to build; default: all of kernels/")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="change settings")
    parser.add_argument("--preset", help="the preset of the settings cell")
    parser.add_argument("--owner", help="your Kaggle name; else KAGGLE_USERNAME or kaggle.json")
    parser.add_argument("--format", choices=["notebook", "script"], default="notebook")
    parser.add_argument("--out", help="folder of the builds (default: build), or with --entry the file to write")
    parser.add_argument("--entry", type=Path, help="flatten this script instead of a kernel")
    parser.add_argument("--package", type=Path, action="append", default=[], help="with --entry: folder of a package")
    parser.add_argument(
        "--style", choices=["auto", "flat", "modules"], default="auto", help="with --entry: see docs/flattener.md"
    )
    parser.add_argument("--trace", type=Path, metavar="LOG", help="print a log with its frames led back to the source")
    parser.add_argument("--map", type=Path, help="with --trace: the build's .map.json; default: the only one there is")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what was dropped and renamed")
    options = parser.parse_args(arguments)
    if options.entry and (options.names or not options.out or options.set or options.preset):
        parser.error("--entry takes --package and --out, no NAME and no settings")
    if options.package and not options.entry:
        parser.error("--package goes with --entry")
    kernels = sorted(path.stem for path in (root / "kernels").glob("*.py"))
    options.names += [text for text in options.set if text in kernels]  # as in `--set epochs=5 train`
    try:
        options.set = parse_settings(text for text in options.set if text not in kernels)
    except SettingError as error:
        parser.error(str(error))
    if not (options.names or options.entry or options.trace):
        options.names = kernels
    return options


def print_report(report: Report, verbose: bool) -> None:
    """Prints what there is to tell about a build; with `verbose` what was left out, and what has another name."""
    names = "module" if report.modules == 1 else "modules"
    path = os.path.relpath(report.path) if report.path.resolve().is_relative_to(Path.cwd()) else report.path
    print(f"{path}  {report.size:,} bytes, {report.cells} cells, {report.modules} {names}", end="")
    print(f", build id {report.build_id}")
    for warning in report.warnings:
        print(f"  warning: {warning}")
    if report.reasons and not verbose:
        print(f"  {len(report.reasons)} of {names} in modules style; -v tells why")
    if verbose:
        for about, lines in (
            ("modules style:", report.reasons),
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
            report = build_entry(options.entry, options.package, Path(options.out), options.style)
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
                owner=options.owner,
                form=options.format,
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
