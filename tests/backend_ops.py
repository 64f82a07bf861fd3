"""What test_backends_ops.py compares: the warp, the losses and their gradients, on Keras's backend.

Run by itself: python backend_ops.py given.npz made.npz
"""

import sys

import keras
import numpy as np
from keras import ops

from salt import losses
from salt.augmentations import augment, crop_at, draw_augmentation, warp_tiles
from salt.config import STRONG_AUGMENTATION, preset
from salt.inference import predict_probabilities

DRAWN = ("flip", "scale", "shear", "rotation", "offset", "brightness", "contrast", "hole")
JAX = keras.backend.backend() == "jax"


def compiled(function):
    if JAX:
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


def with_gradient(loss, logits):
    def total(logits):
        return ops.sum(loss(logits))

    if JAX:
        import jax

        return loss(logits), jax.grad(total)(logits)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(logits)
        summed = total(logits)
    return loss(logits), tf.convert_to_tensor(tape.gradient(summed, logits))


def rounded(values, rng):
    """Values moved by one unit of float32's last digit, up or down; whole numbers, which it knows exactly, stay."""
    moved = np.nextafter(values, np.where(rng.random(values.shape) < 0.5, -np.inf, np.inf).astype("float32"))
    return np.where(values == np.round(values), values, moved).astype("float32")


def compute(given):
    """All results as NumPy arrays, by name."""
    parameters = {name: given[name] for name in DRAWN}
    masks = ops.convert_to_tensor(given["masks"])

    def every_loss(logits, padded):
        found = {}
        for loss in (losses.bce_loss, losses.dice_loss, losses.lovasz_hinge_loss, losses.symmetric_lovasz_loss):
            found[loss.__name__] = with_gradient(lambda logits, loss=loss: loss(logits, masks), logits)
        offset = ops.convert_to_tensor(given["offset"])
        found["crop"] = with_gradient(
            lambda padded: losses.segmentation_loss(crop_at(padded, offset, 101), masks, 0.5), padded
        )
        return found

    made = {}
    for mode in ("reflect", "edge"):
        warp = compiled(lambda tiles, parameters, mode=mode: warp_tiles(tiles, parameters, 128, mode))
        both = compiled(lambda images, parameters, mode=mode: augment(images, masks, parameters, 128, mode))
        unit = given["images"].astype("float32") / 255
        made["warp_" + mode] = warp(unit, parameters)
        made["images_" + mode], made["masks_" + mode] = both(given["images"], parameters)
        for draw in range(3):
            rng = np.random.default_rng(draw)
            moved = {name: rounded(value, rng) for name, value in parameters.items()}
            made[f"warp_{mode}_rounded{draw}"] = warp(rounded(unit, rng), moved)
            made[f"images_{mode}_rounded{draw}"] = both(given["images"], moved)[0]
    square = keras.Input((128, 128, 1))
    network = keras.Model(square, keras.layers.Conv2D(1, 5, padding="same")(square))
    network.set_weights([np.linspace(-0.01, 0.01, 25, dtype="float32").reshape(5, 5, 1, 1), np.zeros(1, "float32")])
    made["predicted"] = predict_probabilities([network], given["images"], progress=False)
    drawn = draw_augmentation(preset("unet", **STRONG_AUGMENTATION), 500, keras.random.SeedGenerator(0), 101)
    made.update({"drawn_" + name: value for name, value in drawn.items()})
    for precision in ("float32", "float64"):
        if JAX:
            import jax
            from keras.src.backend.common import dtypes

            jax.config.update("jax_enable_x64", precision == "float64")
            dtypes.BIT64_TO_BIT32_DTYPE["float64"] = precision  # Keras keeps 32 bits on JAX, whatever it is told
        found = compiled(every_loss)(given["logits"].astype(precision), given["padded"].astype(precision))
        for name, (loss, gradient) in found.items():
            made[f"{name}_{precision}"], made[f"{name}_gradient_{precision}"] = loss, gradient
    return {name: ops.convert_to_numpy(value) for name, value in made.items()}


if __name__ == "__main__":
    np.savez(sys.argv[2], **compute(dict(np.load(sys.argv[1]))))
