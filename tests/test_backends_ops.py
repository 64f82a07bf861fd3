"""TensorFlow and JAX give the same warp, losses and gradients for the same inputs, each in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")

ROOT = pathlib.Path(__file__).resolve().parent.parent

SCRIPT = """
import sys
import keras
import numpy as np
from keras import ops
from salt import losses
from salt.augmentations import augment, crop_at, draw_augmentation, warp_tiles
from salt.config import STRONG_AUGMENTATION, preset

assert keras.backend.backend() == sys.argv[1], keras.backend.backend()
given = dict(np.load(sys.argv[2]))
names = ("flip", "scale", "shear", "rotation", "offset", "brightness", "contrast", "hole")
parameters = {name: given[name] for name in names}
masks = ops.convert_to_tensor(given["masks"])


def compiled(function):
    if sys.argv[1] == "jax":
        import jax
        return jax.jit(function)
    import tensorflow as tf
    return tf.function(function)


def with_gradient(loss, logits):
    def total(logits):
        return ops.sum(loss(logits))
    if sys.argv[1] == "jax":
        import jax
        return loss(logits), jax.grad(total)(logits)
    import tensorflow as tf
    with tf.GradientTape() as tape:
        tape.watch(logits)
        summed = total(logits)
    return loss(logits), tf.convert_to_tensor(tape.gradient(summed, logits))


def every_loss(logits, padded):
    found = {}
    for name in ("bce_loss", "dice_loss", "lovasz_hinge_loss", "symmetric_lovasz_loss"):
        found[name] = with_gradient(lambda logits, loss=getattr(losses, name): loss(logits, masks), logits)
    offset = ops.convert_to_tensor(given["offset"])
    found["crop"] = with_gradient(
        lambda padded: losses.segmentation_loss(crop_at(padded, offset), masks, 0.5), padded
    )
    return found


def rounded(values, rng):
    # By one unit of float32's last digit, up or down; whole numbers, which it knows exactly, stay what they are.
    moved = np.nextafter(values, np.where(rng.random(values.shape) < 0.5, -np.inf, np.inf).astype("float32"))
    return np.where(values == np.round(values), values, moved).astype("float32")


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
drawn = draw_augmentation(preset("unet", **STRONG_AUGMENTATION), 500, keras.random.SeedGenerator(0))
made.update({"drawn_" + name: value for name, value in drawn.items()})
for precision in ("float32", "float64"):
    if sys.argv[1] == "jax":
        import jax
        from keras.src.backend.common import dtypes
        jax.config.update("jax_enable_x64", precision == "float64")
        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = precision  # Keras keeps 32 bits on JAX, whatever it is told
    found = compiled(every_loss)(given["logits"].astype(precision), given["padded"].astype(precision))
    for name, (loss, gradient) in found.items():
        made[f"{name}_{precision}"], made[f"{name}_gradient_{precision}"] = loss, gradient
np.savez(sys.argv[3], **{name: ops.convert_to_numpy(value) for name, value in made.items()})
"""


def apart(rng, shape):
    """Random logits in -4 ... 4, neither two of a tile nor one and the negative of another of which are close: so no
    two hinge errors of Lovasz change places by rounding."""
    pixels = shape[1] * shape[2]
    ranks = rng.permuted(np.broadcast_to(np.arange(pixels), (shape[0], pixels)), axis=1)
    return ((ranks - (pixels // 2 + 0.25)) * 8 / pixels).reshape(shape).astype("float32")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each backend makes of the same inputs."""
    folder = tmp_path_factory.mktemp("backends")
    rng = np.random.default_rng(0)
    count = 4
    uniform = rng.uniform(-1, 1, (count, 5)).astype("float32")
    images = rng.integers(0, 256, (count, 101, 101), dtype=np.uint8)
    rows = np.arange(101)[:, None] + 8 * np.sin(np.arange(101) / 9)
    np.savez(
        folder / "given.npz",
        images=images,
        masks=(rows > rng.uniform(-20, 120, (count, 1, 1))).astype(np.uint8),
        logits=apart(rng, (count, 101, 101)),
        padded=apart(rng, (count, 128, 128)),
        flip=(np.arange(count) % 2).astype("float32"),
        scale=1 + 0.1 * uniform[:, 0],
        shear=0.07 * uniform[:, 1],
        rotation=3 * uniform[:, 2],
        brightness=12 * uniform[:, 3],
        contrast=1 + 0.1 * uniform[:, 4],
        offset=rng.integers(0, 28, (count, 2)).astype("float32"),
        hole=rng.uniform(0, [128, 128, 30], (count, 3)).astype("float32"),
    )
    (folder / "script.py").write_text(SCRIPT)
    made = {}
    for backend in ("tensorflow", "jax"):
        # On the processor, whatever the machine has: float32 there is float32, and not TF32.
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        cpu = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, folder / "script.py", backend, folder / "given.npz", folder / f"{backend}.npz"]
        environment = {**os.environ, **cpu, "KERAS_BACKEND": backend, "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        made[backend] = dict(np.load(folder / f"{backend}.npz"))
    return made


def rounding(arrays, name):
    """The most that a unit of the inputs' last digit changes of an output."""
    return max(np.abs(arrays[f"{name}_rounded{draw}"] - arrays[name]).max() for draw in range(3))


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_both_backends_warp_and_augment_alike_but_for_a_few_roundings(results, mode):
    one, other = results["tensorflow"], results["jax"]
    for name in (f"warp_{mode}", f"images_{mode}"):
        assert one[name].std() > 0.1  # noise of full contrast, the hardest tile
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=8 * rounding(one, name))
    assert 0.1 < one[f"masks_{mode}"].mean() < 0.9
    assert (one[f"masks_{mode}"] != other[f"masks_{mode}"]).mean() < 1e-4  # only where rounding decides


@pytest.mark.parametrize("loss", ["bce_loss", "dice_loss", "lovasz_hinge_loss", "symmetric_lovasz_loss", "crop"])
def test_both_backends_give_the_same_losses_and_gradients(results, loss):
    one, other = results["tensorflow"], results["jax"]
    exact, slope = one[f"{loss}_float64"], one[f"{loss}_gradient_float64"]
    assert exact.dtype == slope.dtype == np.float64 and np.abs(slope).max() > 1e-5
    np.testing.assert_allclose(other[f"{loss}_float64"], exact, rtol=1e-8)
    np.testing.assert_allclose(other[f"{loss}_gradient_float64"], slope, rtol=0, atol=1e-8 * np.abs(slope).max())
    # Each is made of sums over a tile, in which float32 errs by about a rounding times the root of their length.
    digits = 8 * 101 * np.finfo("float32").eps
    for found in (one, other):
        np.testing.assert_allclose(found[f"{loss}_float32"], exact, rtol=digits)
        slopes = found[f"{loss}_gradient_float32"]
        np.testing.assert_allclose(slopes, slope, rtol=0, atol=digits * np.abs(slope).max())


def test_jax_draws_within_the_same_limits(results):
    drawn = results["jax"]
    limits = {"scale": (1 / 1.1, 1.1), "shear": (-0.07, 0.07), "rotation": (-3, 3), "contrast": (0.9, 1.1)}
    for name, (low, high) in limits.items():
        values = drawn[f"drawn_{name}"]
        assert low - 1e-6 <= values.min() < values.max() <= high + 1e-6
    assert np.unique(drawn["drawn_offset"]).tolist() == list(range(28))
    assert set(np.unique(drawn["drawn_flip"])) == {0, 1}
