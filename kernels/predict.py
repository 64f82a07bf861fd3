# /// script
# requires-python = ">=3.11"
# dependencies = ["keras", "matplotlib", "numpy", "opencv-python", "pandas", "tensorflow", "tqdm"]
#
# [tool.kaggle]
# title = "Salt predict"
# accelerator = "NvidiaTeslaT4"
# internet = false
# private = true
# competition_sources = ["tgs-salt-identification-challenge"]
# dataset_sources = []
# kernel_sources = ["salt-train"]
# model_sources = []
# ///
"""Predict the test tiles with the models of a training run, and write the submission.

**Reads** the output of the train notebook, the competition's sample of a submission and its test images; the training
tiles too, where neighbours are shown.
**Writes** `submission.csv`, `probabilities.npz` and `manifest.json`.
"""

import os

from salt.machine import describe_machine, fast_switches, import_keras, visible_gpus

# %% [markdown]
# ### The machine
# TensorFlow reads these variables when it is imported, so they are set before anything imports it.

# %%
os.environ.update(fast_switches(os.environ))
machine = describe_machine(os.environ)  # such as "oneDNN on, AVX2, 2 threads"
import_keras()

# %%
import shutil
import subprocess
import time

import keras
import numpy as np

from salt.artifacts import find_runs, library_versions, read_probabilities, write_manifest, write_probabilities
from salt.competition import find_competition
from salt.config import config_from_dict, config_to_dict
from salt.data import read_test, read_train
from salt.figures import plot_tiles
from salt.inference import predict_run
from salt.levels import choose_level_and_area, count_oof, level_table
from salt.networks import build_fold_model
from salt.parts import read_trained_run
from salt.postprocess import postprocess
from salt.submission import check_submission, write_submission
from salt.tgs import COMPETITION
from salt.tiles import shown_images

# %% tags=["parameters"]
SET = {}  # settings that differ from the training run's: {"tta": "none"}
RUN_ID = ""  # what this run is called; empty: the time of its start
BUILD_ID = ""  # hash of the source that this notebook was built from

# %% [markdown]
# ### Preflight
# The training run must be complete: each of its files is checked against its manifest. If several kernels trained its
# folds, the outputs of all of them must be mounted.

# %%
run_id = RUN_ID or time.strftime("predict-%Y%m%d-%H%M%S", time.gmtime())
roots = ["../input", "/kaggle/input"]  # beside the working folder, as on Kaggle and in the local stand-in
files = find_competition(roots, COMPETITION)
sample, _ = files.require_test()
trained = read_trained_run(find_runs(roots, "train"), SET.get("train_folds"))
trained_by = ", ".join(trained.run_ids)
config = config_from_dict({**config_to_dict(trained.config), **SET})
COMPETITION.check_mosaics(config.split, config.padding)

print("run", run_id, "of build", BUILD_ID or "(none)", "with the models of", trained_by)
print(config)
gpus = visible_gpus()
print("backend", keras.backend.backend(), "on", f"GPUs {gpus}" if gpus else "the CPU", library_versions())
print(machine)
if shutil.which("nvidia-smi"):
    print(subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout)
if config.gpu and not gpus:
    raise RuntimeError("no GPU here: choose an accelerator, or predict on the CPU with gpu=false")

# %% [markdown]
# ### The models
# One for each trained fold. The level from which a pixel counts and the minimum area of a mask are those that score
# best for the out-of-fold predictions, unless they are given.

# %%
models = []
for fold in config.train_folds:
    model = build_fold_model(config, COMPETITION.channels, len(COMPETITION.classes))
    model.load_weights(trained.weights[fold])
    models.append(model)
table = level_table(count_oof(trained.oof), COMPETITION.metric)
level, area = choose_level_and_area(table, COMPETITION.metric, config.level, config.minimum_area)
print(f"{len(models)} models of {models[0].count_params():,} parameters")
print(f"{COMPETITION.target} from level {level} of 255 on, in tiles with at least {area} pixels of it")

# %% [markdown]
# ### Predictions

# %%
tiles, around = read_test(files), None
if config.padding == "neighbours":  # in what the training run has rebuilt
    around = COMPETITION.find_neighbours(config, read_train(files), tiles, None, trained.mosaics())
images = shown_images(tiles, slice(None), around, held_out=-1)
blank = tiles.blank()
write_probabilities("probabilities.npz", tiles.ids, predict_run(models, images, blank, config))
_, probabilities = read_probabilities("probabilities.npz")  # large ones are read one by one, when they are needed
masks = postprocess(probabilities, level, area)

# %%
shown = np.linspace(0, len(tiles.ids) - 1, min(24, len(tiles.ids))).astype(int)
figure = plot_tiles(tiles.images[shown], {"prediction": masks[shown]}, list(tiles.ids[shown]))

# %% [markdown]
# ### The submission

# %%
write_submission("submission.csv", tiles.ids, masks, COMPETITION, sample)
submission = check_submission("submission.csv", sample, COMPETITION, tiles.sides())
print(submission)
found = 1 - submission["empty_share"]
print(f"{len(tiles.ids)} tiles, {blank.sum()} of them blank; {COMPETITION.target} found in {found:.1%} of the masks")
more = {
    "competition": COMPETITION.slug,
    "build_id": BUILD_ID,
    "machine": machine,
    "trained_by": trained_by,
    "level": level,
    "minimum_area": area,
}
manifest = write_manifest(".", run_id, "predict", config, **more)
print(*(f"{name}  {entry['bytes']:,} bytes" for name, entry in manifest["files"].items()), sep="\n")
