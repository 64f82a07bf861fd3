"""Measures the package's code against the plain way of writing it, both in this one run.

    python scripts/benchmark.py [--masks 18000] [--tiles 4000] [--synthetic 40] [--preset cpu] [--batch 24]
                                [--repeats 5]

Prints one table: medians of several repeats, and the ratio per mask or tile. The plain versions are what one finds in
most notebooks: one mask at a time, one threshold at a time, Keras's own batch norm. They are checked to give the same
results before they are timed. Where they are slow they get fewer items; the ratio is per item. Times depend on the
machine and on what else it does.
"""

import argparse
import sys

from desk.command import Outcome, VerbParser, run_command
from desk.machine import start_keras


def main(arguments=None) -> int:
    return run_command(benchmark, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Time salt's code against the plain way.")
    parser.add_argument("--masks", type=int, default=18_000, help="masks to encode and decode (default: %(default)s)")
    parser.add_argument("--tiles", type=int, default=4_000, help="tiles of the threshold sweep (default: %(default)s)")
    parser.add_argument("--synthetic", type=int, default=40, help="synthetic tiles to draw (default: %(default)s)")
    parser.add_argument("--preset", default="cpu", help="whose network is trained (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=24, help="tiles of a training step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each; the median counts (default: %(default)s)")
    return parser.parse_args(arguments)


def benchmark(options: argparse.Namespace) -> Outcome:
    start_keras()
    from desk.benchmarks import measured_code, median_time

    about, measured = measured_code(options.masks, options.tiles, options.synthetic, options.preset, options.batch)
    rows: dict[str, dict] = {}
    print(f"{about}; medians of {options.repeats}")
    print(f"{'':<22} {'salt: items':>12} {'seconds':>9} {'ms/item':>9} {'plain: items':>13} {'seconds':>9}   ratio")
    for name, ours, plain in measured:
        items, seconds = ours[0], median_time(ours[1], options.repeats)
        line = f"{name:<22} {items:>12,} {seconds:>9.3f} {1000 * seconds / items:>9.4f}"
        rows[name] = {"items": items, "seconds": seconds, "ratio": None}
        if plain:
            plain_seconds = median_time(plain[1], options.repeats)
            ratio = plain_seconds / plain[0] / (seconds / items)
            rows[name]["ratio"] = ratio
            line += f" {plain[0]:>13,} {plain_seconds:>9.3f} {ratio:>6.1f}x"
        print(line, flush=True)
    return Outcome({"about": about, "repeats": options.repeats, "measured": rows})


if __name__ == "__main__":
    sys.exit(main())
