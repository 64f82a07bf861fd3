"""One training step on one backend, given to Python by `-c`: BACKEND GIVEN.npz MADE.npz MODEL

It is the step that `fit` compiles, but for augmentation, with an optimizer that puts each gradient in the place of its
weight: so gradients are seen as they are, on every backend. First in float64, in which two programs of the same
arithmetic agree to many digits. Then in float32, as everybody trains. What float32 can do is found on TensorFlow, in
float64: once as it is, and once with all that a layer gives, or gets back as a gradient, rounded to float32.

For float32 the network is a smooth one: SiLU in the place of ReLU, the mean of a window in the place of its maximum.
A gradient jumps where a ReLU changes its sign or a window its maximum, so that one rounding may change it by any
amount: in VGG-16's last maps, of 7 x 7 pixels, by 1 part in 2,000 and more.

Names in MADE.npz: {kind}/{epoch}/ and `logits` (float64 alone), `loss`, `gradient/{path}` or `statistic/{path}`; kinds
are float64, float32, and on TensorFlow exact and rounded. Epoch 0 has BCE and Dice, epoch 1 Lovasz. {kind}/margin, on
TensorFlow, is how far apart the two closest errors of Lovasz's order are.
"""

import sys

import keras
import numpy as np
from keras import ops
from keras.src.backend.common import dtypes

from salt import task as task_module
from salt.config import preset
from salt.metrics import AVERAGE_PRECISION
from salt.networks import build_model, use_jit
from salt.task import SegmentationTask, TileBatches, begin_epoch
from salt.tiles import pad_images

PLAIN = dict(flip=False, jitter=False, scale=0.0, shear=0.0, rotation=0.0, brightness=0.0, contrast=0.0)
SIZE = {"unet": 102, "transfer_unet": 112}  # pixels: the least that each network's stride divides
MOST = 20_000  # numbers of an array that are compared: evenly chosen from a large one


class Gradients(keras.optimizers.Optimizer):
    """Leaves the gradient where the weight was."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign(variable, gradient)


def compute_in(kind):
    """Sets the precision of a kind, which Keras keeps at 32 bits on JAX, whatever it is told."""
    precision = "float32" if kind == "float32" else "float64"
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", precision == "float64")
        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = precision
    return precision


def in_policy(layer):
    """A layer like this one, in the precision of the rest: heads and the scale of grey are float32 by themselves."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.Layer):  # and not an operation, which takes the precision that it is given
        config["dtype"] = keras.config.dtype_policy().name
    if isinstance(layer, keras.layers.Rescaling):  # whose constants Keras rounds to float32, on TensorFlow alone
        config.update((name, np.float32(config[name]).tolist()) for name in ("scale", "offset"))
    return type(layer).from_config(config)


def smooth(layer):
    """A layer like this one, in the precision of the rest, whose gradient does not jump."""
    name = layer.name
    if isinstance(layer, keras.layers.ReLU):
        return keras.layers.Activation("silu", name=name)
    if isinstance(layer, keras.layers.MaxPooling2D):
        return keras.layers.AveragePooling2D(layer.pool_size, layer.strides, layer.padding, name=name)
    same = in_policy(layer)
    if getattr(same, "activation", None) is keras.activations.relu:
        same.activation = keras.activations.silu
    return same


def round_layers(network):
    """Rounds what each layer gives, and the gradients that it gets back, to float32."""
    import tensorflow as tf

    @tf.custom_gradient
    def rounded(values):
        return to_float32(values), to_float32

    def to_float32(values):
        return tf.cast(tf.cast(values, "float32"), "float64")

    for layer in network._flatten_layers(include_self=False):
        if not isinstance(layer, keras.Model):
            layer.call = lambda *arguments, call=layer.call, **named: rounded(call(*arguments, **named))


def drawn_weights(network, gain):
    """Numbers that float32 knows, in float64."""
    rng = np.random.default_rng(0)
    for weight in network.weights:
        if len(weight.shape) > 1:
            value = rng.normal(0, (gain / np.prod(weight.shape[:-1])) ** 0.5, weight.shape)
        elif "gamma" in weight.path or "variance" in weight.path:
            value = rng.uniform(0.5, 1.5, weight.shape)
        elif "beta" in weight.path:
            value = rng.uniform(1.0, 2.0, weight.shape)  # no pixel has zeros alone, whose logits would all be the same
        else:
            value = rng.normal(0, 0.1, weight.shape)
        yield value.astype("float32").astype("float64")


def steps(kind, model, images, masks):
    """Arrays by name."""
    precision = compute_in(kind)
    config = preset(
        "smoke", model=model, filter_scaling=4, depth=2, padded_size=SIZE[model], freeze_layer=15, weights=None, **PLAIN
    )
    like = in_policy if kind == "float64" else smooth
    network = keras.models.clone_model(build_model(config), clone_function=like, recursive=True)
    assert {layer.compute_dtype for layer in network._flatten_layers()} == {precision}
    if kind == "rounded":
        round_layers(network)
    task = SegmentationTask(network, config, AVERAGE_PRECISION)
    task.compile(Gradients(1.0), jit_compile=use_jit())
    # In the place of augmentation, which computes in float32: what it gives where nothing is drawn.
    padded = [ops.convert_to_tensor(pad_images(given, config.padded_size), precision) for given in (images, masks)]
    task_module.augment = lambda *_: padded
    inputs, batches = {"image": images, "mask": masks}, TileBatches(images, masks, len(images))
    # He's variance; half of it for VGG-16, in which no batch norm stops rounding errors from growing layer by layer.
    weights = list(drawn_weights(network, 1 if model == "transfer_unet" else 2))
    for epoch in (0, 1):
        network.set_weights(weights)
        begin_epoch(task, batches, config, 0, epoch)
        name = f"{kind}/{epoch}/"
        if kind == "float64":
            yield name + "logits", task.predict_on_batch(inputs)["logits"]
        yield name + "loss", np.asarray(task.train_on_batch(inputs, return_dict=True)["loss"], precision)
        for weight in network.weights:
            if weight.trainable or "moving_" in weight.path:  # the others, of frozen layers, stay what they are
                what = "gradient" if weight.trainable else "statistic"
                values = np.array(weight).ravel()
                yield f"{name}{what}/{weight.path}", values[:: -(-len(values) // MOST)]
    if keras.backend.backend() == "tensorflow":
        network.set_weights(weights)
        yield f"{kind}/margin", margin_of(task(inputs, training=True))


def margin_of(outputs):
    """The least difference between two hinge errors of one tile."""
    logits, signs = np.array(outputs["logits"], "float64"), 2.0 * np.array(outputs["mask"]) - 1
    return np.diff(np.sort((1 - logits * signs).reshape(len(logits), -1))).min()


def main(backend, given, made, model):
    """Writes the arrays of one backend."""
    assert keras.backend.backend() == backend
    with np.load(given) as arrays:
        images, masks = arrays["images"], arrays["masks"]
    found = {}
    for kind in ("float64", "float32", "exact", "rounded")[: 4 if backend == "tensorflow" else 2]:
        found.update((name, np.array(value)) for name, value in steps(kind, model, images, masks))
    np.savez(made, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
