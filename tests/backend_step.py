"""One training step on one backend, given to Python by `-c`: BACKEND GIVEN.npz MADE.npz

It is the step that `fit` compiles, with an optimizer that puts each gradient in the place of its weight: so gradients
are seen as they are, on every backend. First in float32, as everybody trains; then in float64, in which two programs of
the same arithmetic agree to many digits; on TensorFlow then also in float64 with every weight moved by the most that
rounding it to float32 may move it, up or down: what that changes is the measure of what float32 can do.

Names in MADE.npz: {precision}{draw}/{model}/{epoch}/ and `logits`, `loss`, `gradient/{path}` or `statistic/{path}`.
Draw 0 has the weights as they are. Epoch 0 has BCE and Dice, epoch 1 Lovasz. {model}/margin is how far apart the two
closest errors of Lovasz's order are in draw 0 in float64.
"""

import sys

import keras
import numpy as np

from salt.config import preset
from salt.task import SegmentationTask, TileBatches, begin_epoch
from salt.unet import build_model, use_jit

DRAWS = 2  # of roundings
MOST = 20_000  # numbers of an array that are compared: evenly chosen from a large one
PLAIN = dict(flip=False, jitter=False, scale=0.0, shear=0.0, rotation=0.0, brightness=0.0, contrast=0.0)


class Gradients(keras.optimizers.Optimizer):
    """Leaves the gradient where the weight was."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign(variable, gradient)


def in_policy(layer):
    """A layer like this one, in the precision of the rest: heads and the scale of grey are float32 by themselves."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.Layer):  # and not an operation, which takes the precision that it is given
        config["dtype"] = keras.config.dtype_policy().name
    return type(layer).from_config(config)


def drawn_weights(network, gain):
    """Numbers that float32 knows, in float64."""
    rng = np.random.default_rng(0)
    for weight in network.weights:
        if len(weight.shape) > 1:
            value = rng.normal(0, (gain / np.prod(weight.shape[:-1])) ** 0.5, weight.shape)
        elif "gamma" in weight.path or "variance" in weight.path:
            value = rng.uniform(0.5, 1.5, weight.shape)
        else:
            value = rng.normal(0, 0.1, weight.shape)
        yield value.astype("float32").astype("float64")


def steps(precision, model, images, masks, draws):
    """Arrays by name."""
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)
    config = preset("smoke", model=model, padded_size=112, freeze_layer=15, weights=None, **PLAIN)
    network = keras.models.clone_model(build_model(config), clone_function=in_policy, recursive=True)
    assert {layer.compute_dtype for layer in network._flatten_layers()} == {precision}
    task = SegmentationTask(network, config)
    task.compile(Gradients(1.0), jit_compile=use_jit())
    inputs, batches = {"image": images, "mask": masks}, TileBatches(images, masks, len(images))
    # He's variance; half of it for VGG-16, in which no batch norm stops rounding errors from growing layer by layer.
    weights = list(drawn_weights(network, 1 if model == "transfer_unet" else 2))
    for draw in range(draws + 1):
        rng = np.random.default_rng(draw)
        moved = [value * (1 + (draw > 0) * 2.0**-24 * rng.choice([-1, 1], value.shape)) for value in weights]
        for epoch in (0, 1):
            network.set_weights(moved)
            begin_epoch(task, batches, config, 0, epoch)
            name = f"{precision}{draw}/{model}/{epoch}/"
            yield name + "logits", task.predict_on_batch(inputs)["logits"]
            loss = task.train_on_batch(inputs, return_dict=True)["loss"]
            yield name + "loss", loss
            for weight in network.weights:
                if weight.trainable or "moving_" in weight.path:  # the others, of frozen layers, stay what they are
                    kind = "gradient" if weight.trainable else "statistic"
                    values = np.array(weight).ravel()
                    yield f"{name}{kind}/{weight.path}", values[:: -(-len(values) // MOST)]
        if draw == 0 < draws:
            network.set_weights(weights)
            yield f"{model}/margin", margin_of(task(inputs, training=True))


def margin_of(outputs):
    """The least difference between two hinge errors of one tile."""
    logits, signs = np.array(outputs["logits"], "float64"), 2.0 * np.array(outputs["mask"]) - 1
    return np.diff(np.sort((1 - logits * signs).reshape(len(logits), -1))).min()


def main(backend, given, made):
    """Writes the arrays of one backend."""
    assert keras.backend.backend() == backend
    with np.load(given) as arrays:
        images, masks = arrays["images"], arrays["masks"]
    found = {}
    for precision in ("float32", "float64"):
        if backend == "jax":
            import jax

            jax.config.update("jax_enable_x64", precision == "float64")
        for model in ("unet", "transfer_unet"):
            draws = DRAWS if (backend, precision) == ("tensorflow", "float64") else 0
            found.update((name, np.array(value)) for name, value in steps(precision, model, images, masks, draws))
    np.savez(made, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
