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
parameters = {name: ops.convert_to_tensor(given[name]) for name in names}
images, masks, logits = (ops.convert_to_tensor(given[name]) for name in ("images", "masks", "logits"))


def compiled(function):
    if sys.argv[1] == "jax":
        import jax
        return jax.jit(function)
    import tensorflow as tf
    return tf.function(function)


def with_gradient(loss):
    def total(logits):
        return ops.sum(loss(logits))
    if sys.argv[1] == "jax":
        import jax
        return compiled(lambda logits: (loss(logits), jax.grad(total)(logits)))
    import tensorflow as tf
    def run(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            summed = total(logits)
        return loss(logits), tf.convert_to_tensor(tape.gradient(summed, logits))
    return compiled(run)


made = {}
for mode in ("reflect", "edge"):
    unit = ops.cast(images, "float32") / 255
    made["warp_" + mode] = compiled(lambda tiles, mode=mode: warp_tiles(tiles, parameters, 128, mode))(unit)
both = compiled(lambda images, masks: augment(images, masks, parameters, 128, "reflect"))
made["images"], made["masks"] = both(images, masks)
for name in ("bce_loss", "dice_loss", "lovasz_hinge_loss", "symmetric_lovasz_loss"):
    run = with_gradient(lambda logits, loss=getattr(losses, name): loss(logits, masks))
    made[name], made[name + "_gradient"] = run(logits)
made["crop"], made["crop_gradient"] = with_gradient(
    lambda padded: losses.segmentation_loss(crop_at(padded, parameters["offset"]), masks, 0.5)
)(ops.convert_to_tensor(given["padded"]))
drawn = draw_augmentation(preset("unet", **STRONG_AUGMENTATION), 500, keras.random.SeedGenerator(0))
made.update({"drawn_" + name: value for name, value in drawn.items()})
np.savez(sys.argv[3], **{name: ops.convert_to_numpy(value) for name, value in made.items()})
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each backend makes of the same inputs."""
    folder = tmp_path_factory.mktemp("backends")
    rng = np.random.default_rng(0)
    count = 8
    uniform = rng.uniform(-1, 1, (count, 5)).astype("float32")
    images = rng.integers(0, 256, (count, 101, 101), dtype=np.uint8)
    rows = np.arange(101)[:, None] + 8 * np.sin(np.arange(101) / 9)
    np.savez(
        folder / "given.npz",
        images=images,
        masks=(rows > rng.uniform(-20, 120, (count, 1, 1))).astype(np.uint8),
        logits=rng.normal(0, 2, (count, 101, 101)).astype("float32"),
        padded=rng.normal(0, 2, (count, 128, 128)).astype("float32"),
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


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_both_backends_warp_tiles_alike(results, mode):
    one, other = (results[backend][f"warp_{mode}"] for backend in ("tensorflow", "jax"))
    assert one.std() > 0.1
    np.testing.assert_allclose(one, other, atol=1e-5)  # white is 1, and noise of full contrast the hardest tile


def test_both_backends_augment_alike(results):
    one, other = results["tensorflow"], results["jax"]
    np.testing.assert_allclose(one["images"], other["images"], atol=255 * 1e-4)
    assert 0.1 < one["masks"].mean() < 0.9
    assert (one["masks"] != other["masks"]).mean() < 1e-4  # only where rounding decides


@pytest.mark.parametrize("loss", ["bce_loss", "dice_loss", "lovasz_hinge_loss", "symmetric_lovasz_loss", "crop"])
def test_both_backends_give_the_same_losses_and_gradients(results, loss):
    one, other = results["tensorflow"], results["jax"]
    np.testing.assert_allclose(one[loss], other[loss], rtol=1e-5)
    slope = one[f"{loss}_gradient"]
    assert np.abs(slope).max() > 1e-5
    np.testing.assert_allclose(slope, other[f"{loss}_gradient"], atol=1e-4 * np.abs(slope).max())


def test_jax_draws_within_the_same_limits(results):
    drawn = results["jax"]
    limits = {"scale": (1 / 1.1, 1.1), "shear": (-0.07, 0.07), "rotation": (-3, 3), "contrast": (0.9, 1.1)}
    for name, (low, high) in limits.items():
        values = drawn[f"drawn_{name}"]
        assert low - 1e-6 <= values.min() < values.max() <= high + 1e-6
    assert np.unique(drawn["drawn_offset"]).tolist() == list(range(28))
    assert set(np.unique(drawn["drawn_flip"])) == {0, 1}
