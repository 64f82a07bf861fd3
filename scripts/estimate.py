"""Estimates what a preset's training costs on an accelerator that is not at hand. It measures nothing.

    python scripts/estimate.py t4 --device T4 --gpus 2
    python scripts/estimate.py h200 --device H200 --set batch_size=64

It builds the network, counts multiplications and bytes layer by layer, and divides them by what the device's data sheet
promises, times the share of it that networks of this kind are assumed to reach. What a kernel's launch costs is not in
it, so that a fast device is estimated too fast. It tells whether a plan is out of reach, not how long it takes.
"""

import argparse
import sys

from desk.command import Outcome, VerbParser, run_command
from desk.machine import start_keras
from flattener.settings import parse_settings


def main(arguments=None) -> int:
    return run_command(estimate, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(description="Estimate a preset's step, memory and passes; nothing is measured.")
    parser.add_argument("preset", metavar="PRESET", help="settings to begin with (salt/config.py lists the presets)")
    parser.add_argument("--device", choices=["T4", "H200"], default="T4", help="default: %(default)s")
    parser.add_argument("--gpus", type=int, default=1, help="each trains a fold at a time (default: %(default)s)")
    parser.add_argument("--tiles", type=int, default=4000, help="training tiles, all folds (default: %(default)s)")
    parser.add_argument("--set", metavar="key=value", action="extend", nargs="+", default=[], help="change settings")
    return parser.parse_args(arguments)


def estimate(options: argparse.Namespace) -> Outcome:
    from salt.config import preset

    config = preset(options.preset, **parse_settings(options.set))

    start_keras()
    from desk.estimates import DEVICES, estimate_run, network_cost  # TensorFlow: only once the settings are right

    cost, device = network_cost(config), DEVICES[options.device]
    estimated = estimate_run(cost, config, device, options.gpus, options.tiles)
    print(estimate_table(options, config, device, cost, estimated))
    return Outcome({"measured": False, "network": cost._asdict(), "training": estimated._asdict()})


def estimate_table(options: argparse.Namespace, config, device, cost, estimate) -> str:
    """The estimate as text for a terminal."""
    batch = config.batch_size
    lines = [
        f"{options.preset} on {options.gpus} x {options.device}: an estimate by counting, nothing was run",
        f"  a tile forward    {2 * cost.products / 1e9:8.2f} GFLOP, {cost.activations / 1e6:.1f} million activations",
        f"  network           {cost.parameters / 1e6:8.2f} million parameters",
        f"  a training step   {1000 * estimate.step:8.1f} ms for {batch} tiles, {batch / estimate.step:,.0f} tiles/s",
        f"  memory of a GPU   {estimate.memory / 2**30:8.2f} GiB of {device.memory / 2**30:.0f}",
    ]
    if config.minutes:
        folds = len(config.train_folds)
        lines.append(
            f"  {config.minutes:g} minutes, {folds} fold{'s' * (folds > 1)}: {estimate.steps:,} steps a fold, "
            f"{estimate.passes:,.0f} passes of {options.tiles:,} tiles' training part"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
