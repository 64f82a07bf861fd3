"""What a preset's training costs on an accelerator that is not at hand, by counting.

It builds the network, counts multiplications and bytes layer by layer, and divides them by what the device's data sheet
promises, times the share of it that networks of this kind are assumed to reach.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras

from salt.config import Config
from salt.networks import build_model
from salt.schedule import PLANNED_SHARE


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


def network_cost(config: Config) -> Cost:
    """Counts what the network of a configuration does with one tile."""
    keras.mixed_precision.set_dtype_policy("float32")  # counting needs no other
    model = build_model(config)
    layers = list(innermost_layers(model))
    return Cost(
        sum(map(layer_products, layers)),
        sum(numbers_in(output.shape) for layer in layers for output in listed(layer.output)),
        model.count_params(),
    )


def innermost_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of the models inside of it, without their inputs."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from innermost_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def layer_products(layer: keras.layers.Layer) -> int:
    """Multiplications of one tile's forward pass in a convolution or dense layer; 0 in others, which cost bytes."""
    if isinstance(layer, keras.layers.Conv2DTranspose):  # each pixel that comes in meets the whole kernel
        places = layer.input.shape[1:3]
    elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        places = layer.output.shape[1:3]
    elif isinstance(layer, keras.layers.Dense):
        places = layer.output.shape[1:-1]
    else:
        return 0
    return numbers_in((None, *layer.kernel.shape)) * numbers_in((None, *places))


def numbers_in(shape: Sequence) -> int:
    """How many numbers one tile has in a tensor of this shape, whose first axis is the batch."""
    count = 1
    for side in shape[1:]:
        count *= side
    return count


def listed(outputs: Any) -> list:
    """A layer's outputs as a list, of which it usually has one."""
    return outputs if isinstance(outputs, list) else [outputs]


def estimate_run(cost: Cost, config: Config, device: Device, gpus: int, tiles: int) -> Estimate:
    """A run's step, memory and length on a device.

    Args:
        cost: of one tile.
        config: the run's settings; float32 counts as half precision, since that is how one trains on these devices.
        device: one GPU.
        gpus: how many folds are trained at a time.
        tiles: all training tiles; a fold trains on all but its own.
    """
    batch, half = config.batch_size, 2
    activations = batch * cost.activations * half
    step = OPERATIONS_A_PRODUCT * batch * cost.products / (REACHED_OPERATIONS * device.operations)
    step += ACTIVATION_PASSES * activations / (REACHED_BANDWIDTH * device.bandwidth)
    # Twice: what is kept for the way back, and about as much for gradients and the convolutions' working memory.
    memory = 2 * activations + PARAMETER_BYTES * cost.parameters
    rounds = -(-len(config.train_folds) // gpus)
    steps = int(60 * config.minutes * PLANNED_SHARE / rounds / step)
    return Estimate(step, memory, steps, steps * batch / (tiles * (1 - 1 / config.folds)))
