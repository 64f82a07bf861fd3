"""Measures this package's code beside what a user would pick instead, in turn, in one run.

    python scripts/benchmark.py [GROUP ...] [--repeats 5] [--images 10000] [--write]

Groups: scoring, rle, reading, augmentation, step, inference, start, flattening, growth; without any, all of them. One
more, large, has to be named: the memory of 10,000 images of 1918 x 1280, or of as many as --images says. Ours and the
others run in turn (A B A B), so that what the machine does otherwise meets them alike. The others (PyTorch,
albumentations, pycocotools, cribo, stickytape) go into an environment of their own, .venv-peers, which the first run
makes of desk/benchmarks/peers.txt. Where they give the same results as ours, that is checked before they are timed.

`--write` appends what was measured to BENCHMARKS.md, with the machine, the versions and the date. `--quick` takes a few
items of each, to see that it runs; its figures mean nothing.
"""

import argparse
import datetime
import os
import sys
import textwrap

from desk.command import Outcome, VerbParser, run_command
from desk.machine import start_keras
from desk.paths import ROOT

GROUPS = ("scoring", "rle", "reading", "augmentation", "step", "inference", "start", "flattening", "growth")
GROWN = ("growth", "large")


def main(arguments=None) -> int:
    return run_command(benchmark, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Time salt's code beside what a user would pick instead.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; none: all of them; or large")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the median counts (default: %(default)s)")
    parser.add_argument("--images", type=int, default=10_000, help="of the group large (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few items of each, to see that it runs")
    parser.add_argument("--write", action="store_true", help="append what was measured to BENCHMARKS.md")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - {*GROUPS, *GROWN}:
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: must be at least 1")
    if options.images < 64:
        parser.error(f"--images {options.images}: must be at least 64, so many are predicted")
    return options


def benchmark(options: argparse.Namespace) -> Outcome:
    start_keras()
    from desk.benchmarks import growth, large, page
    from desk.benchmarks.groups import measured_groups
    from salt.machine import describe_machine

    machine = f"{page.processor()}, {describe_machine(os.environ)}; {page.versions()}; {page.measured_peak()}"
    print(machine, "", *page.table([]), sep="\n", flush=True)
    groups = options.groups or GROUPS
    rows = []
    timed = [name for name in groups if name not in GROWN]
    for measured in measured_groups(timed, options.repeats, options.quick):
        rows += measured
        print(*page.table(measured)[2:], sep="\n", flush=True)
    grown = growth.measure_growth(options.quick) if "growth" in groups else []
    grown += large.measure_large(options.quick, options.images) if "large" in groups else []
    if grown:
        print("", *growth.table(grown), sep="\n", flush=True)
    if options.write:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        command = " ".join(["python scripts/benchmark.py", *groups, f"--repeats {options.repeats}"])
        command += f" --images {options.images}" if "large" in groups else ""
        lines = [*textwrap.wrap(f"{machine}. Command: `{command}`.", 126), "", *(page.table(rows) if rows else [])]
        page.append(ROOT / "BENCHMARKS.md", now, [*lines, *(["", *growth.table(grown)] if grown else [])])
    return Outcome({"machine": machine, "rows": [row._asdict() for row in rows], "growth": grown})


if __name__ == "__main__":
    sys.exit(main())
