"""Estimates what a preset's training costs on an accelerator that is not at hand. It measures nothing.

    python scripts/estimate.py t4 --device T4 --cards 2
    python scripts/estimate.py h200 --device H200 --set batch_size=64

It builds the network, counts multiplications and bytes layer by layer, and divides them by what the device's data sheet
promises, times the share of it that networks of this kind are assumed to reach. What a kernel's launch costs is not in
it, so that a fast device is estimated too fast. It tells whether a plan is out of reach, not how long it takes.
"""

import argparse
import pathlib
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Device(NamedTuple):
    """An accelerator, by its data sheet: half-precision operations a second, bytes a second, bytes of memory."""

    operations: float
    bandwidth: float
    memory: float


DEVICES = {"T4": Device(65e12, 320e9, 15 * 2**30), "H200": Device(989e12, 4.8e12, 141e9)}
REACHED_OPERATIONS = 0.3  # of the data sheet's, by convolutions of tens of channels: an assumption
REACHED_BANDWIDTH = 0.7
# Forward, the gradient of the inputs and that of the weights each take a multiplication and an addition.
OPERATIONS_A_PRODUCT = 6
# An activation is written and read, read again on the way back, and its gradient written and read.
ACTIVATION_PASSES = 5
PARAMETER_BYTES = 20  # float32: the weight, its gradient, AdamW's two moments and the running average


class Cost(NamedTuple):
    """What one tile costs a network: multiplications forward, numbers in all layers' outputs; and its parameters."""

    products: int
    activations: int
    parameters: int


class Estimate(NamedTuple):
    """Seconds a step, bytes of memory, steps a fold and passes through the training tiles in the minutes of the run."""

    step: float
    memory: float
    steps: int
    passes: float


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Estimate a preset's step, memory and passes; nothing is measured.")
    parser.add_argument("preset", metavar="PRESET", help="settings to begin with (salt/config.py lists the presets)")
    parser.add_argument("--device", choices=DEVICES, default="T4", help="default: %(default)s")
    parser.add_argument("--cards", type=int, default=1, help="each trains a fold at a time (default: %(default)s)")
    parser.add_argument("--tiles", type=int, default=4000, help="training tiles, all folds (default: %(default)s)")
    parser.add_argument("--set", metavar="key=value", action="extend", nargs="+", default=[], help="change settings")
    arguments = parser.parse_args(argv)

    from salt.config import ConfigError, preset
    from scripts.run_local import LocalRunError, parse_settings

    try:
        config = preset(arguments.preset, **parse_settings(arguments.set))
    except (ConfigError, LocalRunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    cost = network_cost(config)
    estimate = estimate_run(cost, config, DEVICES[arguments.device], arguments.cards, arguments.tiles)
    print(estimate_table(arguments, config, cost, estimate))
    return 0


def network_cost(config) -> Cost:
    """Counts what the network of a configuration does with one tile."""
    import keras

    from salt.unet import build_model

    keras.mixed_precision.set_dtype_policy("float32")  # counting needs no other
    model = build_model(config)
    layers = list(innermost_layers(model))
    return Cost(
        sum(map(layer_products, layers)),
        sum(numbers_in(output.shape) for layer in layers for output in listed(layer.output)),
        model.count_params(),
    )


def innermost_layers(model):
    """The layers of a model and of the models inside of it, without their inputs."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from innermost_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def layer_products(layer) -> int:
    """Multiplications of one tile's forward pass in a convolution or dense layer; 0 in others, which cost bytes."""
    import keras

    if isinstance(layer, keras.layers.Conv2DTranspose):  # each pixel that comes in meets the whole kernel
        places = layer.input.shape[1:3]
    elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        places = layer.output.shape[1:3]
    elif isinstance(layer, keras.layers.Dense):
        places = layer.output.shape[1:-1]
    else:
        return 0
    return numbers_in((None, *layer.kernel.shape)) * numbers_in((None, *places))


def numbers_in(shape) -> int:
    """How many numbers one tile has in a tensor of this shape, whose first axis is the batch."""
    count = 1
    for side in shape[1:]:
        count *= side
    return count


def listed(outputs) -> list:
    """A layer's outputs as a list, of which it usually has one."""
    return outputs if isinstance(outputs, list) else [outputs]


def estimate_run(cost: Cost, config, device: Device, cards: int, tiles: int) -> Estimate:
    """A run's step, memory and length on a device.

    Args:
        cost: of one tile.
        config: the run's settings; float32 counts as half precision, since that is how one trains on these devices.
        device: one card.
        cards: how many folds are trained at a time.
        tiles: all training tiles; a fold trains on all but its own.
    """
    from salt.schedule import PLANNED_SHARE

    batch, half = config.batch_size, 2
    activations = batch * cost.activations * half
    step = OPERATIONS_A_PRODUCT * batch * cost.products / (REACHED_OPERATIONS * device.operations)
    step += ACTIVATION_PASSES * activations / (REACHED_BANDWIDTH * device.bandwidth)
    # Twice: what is kept for the way back, and about as much for gradients and the convolutions' working memory.
    memory = 2 * activations + PARAMETER_BYTES * cost.parameters
    rounds = -(-len(config.train_folds) // cards)
    steps = int(60 * config.minutes * PLANNED_SHARE / rounds / step)
    return Estimate(step, memory, steps, steps * batch / (tiles * (1 - 1 / config.folds)))


def estimate_table(arguments, config, cost: Cost, estimate: Estimate) -> str:
    """The estimate as text for a terminal."""
    device, batch = DEVICES[arguments.device], config.batch_size
    lines = [
        f"{arguments.preset} on {arguments.cards} x {arguments.device}: an estimate by counting, nothing was run",
        f"  a tile forward    {2 * cost.products / 1e9:8.2f} GFLOP, {cost.activations / 1e6:.1f} million activations",
        f"  network           {cost.parameters / 1e6:8.2f} million parameters",
        f"  a training step   {1000 * estimate.step:8.1f} ms for {batch} tiles, {batch / estimate.step:,.0f} tiles/s",
        f"  memory of a card  {estimate.memory / 2**30:8.2f} GiB of {device.memory / 2**30:.0f}",
    ]
    if config.minutes:
        folds = len(config.train_folds)
        lines.append(
            f"  {config.minutes:g} minutes, {folds} fold{'s' * (folds > 1)}: {estimate.steps:,} steps a fold, "
            f"{estimate.passes:,.0f} passes of {arguments.tiles:,} tiles' training part"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
