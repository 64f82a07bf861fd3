"""TensorFlow and JAX train the same network alike: logits, loss and gradients, and a small run of each."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Each of Adam's first steps moves a weight by about its rate: here the compiled ones of `fit`, on a plan that is then
# corrected.
RATES = """
import json
import sys
import keras
import numpy as np
from keras import ops
from salt import training
from salt.config import preset
from salt.schedule import plan_of_epochs

assert keras.backend.backend() == sys.argv[1]
kept = []

def network(config, weights=None, *shape):
    encoder = keras.Sequential([keras.Input((102, 102, 1)), keras.layers.Conv2D(2, 3, padding="same")])
    inputs = keras.Input((102, 102, 1))
    outputs = keras.layers.Conv2D(1, 1)(encoder(ops.cast(inputs, "float32") / 255))
    kept.append(keras.Model(inputs, outputs))
    return kept[-1]

training.build_model = network
rng = np.random.default_rng(0)
images = rng.integers(1, 256, (12, 101, 101), dtype=np.uint8)
masks, fold = (images > 128).astype(np.uint8), np.arange(12) % 3
rates = dict(warmup=0.0, weight_decay=0.0, learning_rate=0.01, encoder_rate=0.25, ema_momentum=0.0)
config = preset("smoke", depth=2, padded_size=102, batch_size=8, **rates)
training.write_plan(training.pathlib.Path(sys.argv[2]) / "plan.json", plan_of_epochs(100, 1).corrected(1, 3))
keras.utils.set_random_seed(config.seed)
before = network(config).get_weights()
from salt.tgs import COMPETITION
tiles = training.Tiles(np.arange(12).astype(str), images, masks, np.zeros(12), COMPETITION)
trained, history = training.fit_fold(training.FoldJob(config, tiles, fold, "some"), 0, sys.argv[2])
moved = [float(np.abs(new - old).max()) for new, old in zip(trained.get_weights(), before)]
assert history[-1]["step"] == 3, history
json.dump(moved, open(sys.argv[2] + "/moved.json", "w"))
"""

FIT = """
import sys
import keras
from salt.config import preset
from salt.synthetic import synthetic_tiles
from salt.cross_validation import fit_folds

assert keras.backend.backend() == sys.argv[1]
config = preset("smoke", filter_scaling=4, depth=2, epochs=3, lovasz=0.0, dropout=0.1, learning_rate=0.01)
oof, history, *_ = fit_folds(config, synthetic_tiles(32, seed=0, progress=False), sys.argv[2], sys.argv[2] + "/state")
assert len(oof.ids) == 16 and (history["loss"].iloc[-1] < history["loss"].iloc[0]), history
"""

PRESET = """
import sys
import keras
import numpy as np
from salt.config import preset
from salt.synthetic import synthetic_tiles
from salt.cross_validation import fit_folds
from salt.tgs import COMPETITION as TGS

assert keras.backend.backend() == sys.argv[1]
# All of the preset but its length, its batch and the encoder's weights, which are not here.
config = preset(sys.argv[3], gpu=False, weights=None, minutes=0.0, steps=3, batch_size=4, folds=2, train_folds=(0,))
keras.mixed_precision.set_dtype_policy(config.precision)
oof, history, *_ = fit_folds(config, synthetic_tiles(16, seed=0, progress=False), sys.argv[2], sys.argv[2] + "/state")
assert len(oof.ids) == 8 and np.isfinite(history[["loss", "val_loss"]]).all(axis=None), history
"""


def run_on(backend, script, *arguments, **variables):
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        **variables,
    }
    command = [sys.executable, "-c", script, backend, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module", params=["unet", "transfer_unet"])
def steps(tmp_path_factory, request):
    """What `backend_step.py` makes on each backend of the same network, weights and tiles."""
    folder = tmp_path_factory.mktemp("steps")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 101, 101), dtype=np.uint8)
    masks = (np.arange(101)[:, None] > rng.integers(0, 101, (2, 1, 101))).astype(np.uint8)
    masks[0] = 0
    np.savez(folder / "given.npz", images=images, masks=masks)
    script = (ROOT / "tests" / "backend_step.py").read_text(encoding="utf-8")
    made = {}
    for backend in ("tensorflow", "jax"):
        # XLA's optimisations take it most of the time, and these programs run but once.
        quick = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
        run_on(backend, script, folder / "given.npz", folder / f"{backend}.npz", request.param, XLA_FLAGS=quick)
        with np.load(folder / f"{backend}.npz") as arrays:
            made[backend] = dict(arrays)
    return made


def group(arrays, kind, epoch):
    """The arrays of one step by what they are."""
    place = f"{kind}/{epoch}/"
    return {name.removeprefix(place): array for name, array in arrays.items() if name.startswith(place)}


def sizes_of(arrays):
    """How large each array is: its largest number, and for a gradient not below a hundredth of the largest of all.

    Gradients are sums of which much cancels: a small one has terms as large as those of the others, and their errors.
    """
    largest = max(np.abs(array).max() for name, array in arrays.items() if name.startswith("gradient/"))
    least = {name: 0.01 * largest if name.startswith("gradient/") else 0.0 for name in arrays}
    return {name: max(np.abs(array).max(), least[name]) for name, array in arrays.items()}


# Each network is compiled six times for this, by XLA too: most of a minute, or two for VGG-16. Losses and augmentation
# are compared in the default run, by test_backends_ops.
@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 1])
def test_logits_loss_gradients_and_statistics_agree_in_float64_to_eight_digits(steps, epoch):
    expected, found = (group(steps[backend], "float64", epoch) for backend in ("tensorflow", "jax"))
    assert set(expected) == set(found) and {"logits", "loss"} < set(expected)
    assert steps["tensorflow"]["float64/margin"] > 1e-11  # away from ties, where Lovasz's gradient jumps
    moved = []
    for name, array in expected.items():
        assert array.dtype == found[name].dtype == np.float64
        own = np.abs(array).max()
        # A bias before a batch norm moves nothing: of such a gradient there is rounding only.
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-8 * own + 1e-14, err_msg=name)
        moved += [own > 1e-6] * name.startswith("gradient/")
    assert len(moved) > 10 and np.mean(moved) > 0.8  # else there was little to agree about


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_float32_is_off_by_no_more_than_its_rounding_explains(steps, backend, epoch):
    exact = group(steps["tensorflow"], "exact", epoch)
    rounded = group(steps["tensorflow"], "rounded", epoch)
    found = group(steps[backend], "float32", epoch)
    sizes = sizes_of(exact)
    assert set(found) == set(rounded) == set(exact)
    # What layers give is rounded once in `rounded`, but in float32 each step of each sum over a map's pixels is, too:
    # errors that add up to the root of their number where they are independent, and to more where a processor's order
    # of adding makes them alike.
    rounding = max(np.abs(rounded[name] - exact[name]).max() / sizes[name] for name in rounded)
    assert 1e-8 < rounding < 1e-5
    limit = 32 * np.sqrt(2 * 102 * 102) * rounding
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, exact[name], rtol=0, atol=limit * sizes[name], err_msg=name)


@pytest.mark.slow  # on TensorFlow faster tests of training see the same
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_compiled_step_follows_the_course_and_the_encoders_rate(backend, tmp_path):
    run_on(backend, RATES, tmp_path)
    moved = json.loads((tmp_path / "moved.json").read_text())
    # Steps at progress 0, 0.01 and then half way from there to 1, by the cosine: 1, almost 1 and a half. The encoder's
    # rate is a quarter.
    assert moved == pytest.approx([0.00625, 0.00625, 0.025, 0.025], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_small_run_learns(backend, tmp_path):
    run_on(backend, FIT, tmp_path)
    assert (tmp_path / "oof.npz").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize("name", ["t4", "h200"])
def test_a_preset_for_the_gpu_runs_end_to_end_at_reduced_size(backend, name, tmp_path):
    run_on(backend, PRESET, tmp_path, name)
    assert (tmp_path / "oof.npz").is_file() and (tmp_path / "fold0.weights.h5").is_file()
