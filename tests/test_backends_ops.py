"""TensorFlow and JAX give the same warp, losses and gradients for the same inputs."""

import importlib.util
import os
import subprocess
import sys

import backend_ops
import keras
import numpy as np
import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="this process computes TensorFlow's results"),
]


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
    # On the processor, whatever the machine has: float32 there is float32, and not TF32.
    with keras.device("cpu"):
        made = {"tensorflow": backend_ops.compute(dict(np.load(folder / "given.npz")))}
    cpu = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}
    command = [sys.executable, backend_ops.__file__, folder / "given.npz", folder / "jax.npz"]
    done = subprocess.run(command, env={**os.environ, **cpu}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    made["jax"] = dict(np.load(folder / "jax.npz"))
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


def test_both_backends_predict_the_same(results):
    one, other = (results[backend]["predicted"].astype(int) for backend in ("tensorflow", "jax"))
    assert one.std() > 10
    assert np.abs(one - other).max() <= 1  # of 255: where rounding decides


def test_jax_draws_within_the_same_limits(results):
    drawn = results["jax"]
    limits = {"scale": (1 / 1.1, 1.1), "shear": (-0.07, 0.07), "rotation": (-3, 3), "contrast": (0.9, 1.1)}
    for name, (low, high) in limits.items():
        values = drawn[f"drawn_{name}"]
        assert low - 1e-6 <= values.min() < values.max() <= high + 1e-6
    assert np.unique(drawn["drawn_offset"]).tolist() == list(range(28))
    assert set(np.unique(drawn["drawn_flip"])) == {0, 1}
