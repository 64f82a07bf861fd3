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

# A step of plain SGD moves each weight by rate times gradient: the same way to see gradients on every backend. The
# rate is high, so that a small gradient is not lost in the rounding of its weight.
STEP = """
import sys
import keras
import numpy as np
from salt.config import preset
from salt.task import SegmentationTask, TileBatches, begin_epoch
from salt.unet import build_model, use_jit

assert keras.backend.backend() == sys.argv[1]
plain = dict(flip=False, jitter=False, scale=0.0, shear=0.0, rotation=0.0, brightness=0.0, contrast=0.0)
given = np.load(sys.argv[2])
made = {}
for model in ("unet", "transfer_unet"):
    # He's variance; half of it for VGG-16, in which no batch norm stops rounding errors from growing layer by layer.
    gain = 1 if model == "transfer_unet" else 2
    for epoch in (0, 1):  # the first trains with BCE + Dice, the second with Lovasz
        config = preset("smoke", model=model, padded_size=112, freeze_layer=15, **plain)
        task = SegmentationTask(build_model(config), config)
        rng = np.random.default_rng(0)
        for weight in task.network.weights:
            fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 1
            value = rng.normal(0, (gain / fan_in) ** 0.5, weight.shape) if len(weight.shape) > 1 else np.array(weight)
            weight.assign(value.astype("float32"))
        task.compile(keras.optimizers.SGD(1000.0), jit_compile=use_jit())
        inputs = {"image": given["images"], "mask": given["masks"]}
        begin_epoch(task, TileBatches(given["images"], given["masks"], 4), config, 0, epoch)
        name = f"{model}/{epoch}/"
        made[name + "logits"] = np.array(task(inputs, training=False)["logits"])
        before = [np.array(weight) for weight in task.trainable_weights]
        made[name + "loss"] = np.array(task.train_on_batch(inputs, return_dict=True)["loss"])
        for index, (old, weight) in enumerate(zip(before, task.trainable_weights)):
            made[f"{name}gradient/{index}"] = (old - np.array(weight)) / 1000
np.savez(sys.argv[3], **made)
"""

# Adam's first step moves each weight by its rate: here the compiled one of `fit`, on a course that is then corrected.
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

def network(config, weights=None):
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
moved = {}
for name, end in (("first", 1), ("corrected", 3)):
    folder = sys.argv[2] + "/" + name
    course = plan_of_epochs(1, 1) if end == 1 else plan_of_epochs(100, 1).corrected(1, end)
    training.write_plan(training.pathlib.Path(folder) / "plan.json", course)
    keras.utils.set_random_seed(config.seed)
    before = network(config).get_weights()
    tiles = training.Tiles(np.arange(12).astype(str), images, masks, np.zeros(12))
    trained, history = training.fit_fold(training.FoldJob(config, tiles, fold, "some"), 0, folder)
    moved[name] = [float(np.abs(new - old).max()) for new, old in zip(trained.get_weights(), before)]
    assert history[-1]["step"] == end, history
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

assert keras.backend.backend() == sys.argv[1]
# All of the preset but its length, its batch and the encoder's weights, which are not here.
config = preset(sys.argv[3], gpu=False, weights=None, minutes=0.0, steps=3, batch_size=4, folds=2, train_folds=(0,))
keras.mixed_precision.set_dtype_policy(config.precision)
oof, history, *_ = fit_folds(config, synthetic_tiles(16, seed=0, progress=False), sys.argv[2], sys.argv[2] + "/state")
assert len(oof.ids) == 8 and np.isfinite(history[["loss", "val_loss"]]).all(axis=None), history
"""


def run_on(backend, script, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", script, backend, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 101, 101), dtype=np.uint8)
    masks = (np.arange(101)[:, None] > rng.integers(0, 101, (4, 1, 101))).astype(np.uint8)
    masks[0] = 0
    np.savez(folder / "given.npz", images=images, masks=masks)
    made = {}
    for backend in ("tensorflow", "jax"):
        run_on(backend, STEP, folder / "given.npz", folder / f"{backend}.npz")
        with np.load(folder / f"{backend}.npz") as arrays:
            made[backend] = dict(arrays)
    return made


@pytest.mark.parametrize("model", ["unet", "transfer_unet"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_logits_loss_and_gradients_agree_within_1e_4(steps, model, epoch):
    names = [name for name in steps["tensorflow"] if name.startswith(f"{model}/{epoch}/")]
    assert len(names) > 20 and set(steps["tensorflow"]) == set(steps["jax"])
    moved = []
    for name in names:
        expected, found = steps["tensorflow"][name], steps["jax"][name]
        largest = np.abs(expected).max()
        # Lovasz's gradient jumps where two errors change places in their order, and rounding does that to some of the
        # 40,000 pixels: a thousandth of a large gradient.
        limit = max(1e-4, 1e-3 * largest) if epoch == 1 and "gradient" in name else 1e-4
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=name)
        if largest > 1e-4:  # the other gradients are within 1e-4 whatever they are
            np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * largest, err_msg=name)
        moved.append(largest > 1e-6)
    assert np.mean(moved) > 0.8  # else there was little to agree about


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_compiled_step_follows_the_course_and_the_encoders_rate(backend, tmp_path):
    run_on(backend, RATES, tmp_path)
    moved = json.loads((tmp_path / "moved.json").read_text())
    assert moved["first"] == pytest.approx([0.0025, 0.0025, 0.01, 0.01], rel=1e-2)
    # Steps at progress 0, 0.01 and then half way from there to 1, by the cosine: 1, almost 1 and a half.
    assert moved["corrected"][2:] == pytest.approx([0.025, 0.025], rel=0.1)


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
