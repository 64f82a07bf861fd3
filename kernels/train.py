# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "cloudpickle", "keras", "matplotlib", "numpy", "opencv-python", "pandas", "scikit-learn", "tensorflow", "tqdm",
# ]
#
# [tool.kaggle]
# title = "Salt train"
# accelerator = "NvidiaTeslaT4"
# internet = true  # for ImageNet weights, unless they are mounted
# private = true
# competition_sources = ["tgs-salt-identification-challenge"]
# dataset_sources = []
# kernel_sources = []  # "salt-predict" for a second round, with pseudo-labels
# model_sources = []
# ///
"""Train a U-Net that finds what the competition's masks mark, and predict each training tile by a model that was not
trained on it.

**Reads** the competition's table of masks and its training images.
**Writes** the folds' weights, `oof.npz` (out-of-fold probabilities, for the score before any submission),
`history.csv` and `manifest.json`, where it rebuilds larger pictures also `mosaics.csv`; if time runs out, or a fold
fails, also the folder `state`, from which a later run resumes.
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

from salt.artifacts import find_run, library_versions, write_manifest
from salt.competition import find_competition
from salt.config import preset, settle_precision
from salt.cross_validation import fit_folds, read_pseudo_labels
from salt.data import describe_tiles, read_test, read_train
from salt.encoders import find_weights
from salt.figures import plot_history, plot_tiles
from salt.levels import (
    choose_level_and_area,
    count_oof,
    level_table,
    mean_score,
    scores_with_area,
    tile_scores,
)
from salt.postprocess import postprocess
from salt.resume import STATE_FOLDER, resume_run
from salt.scoring import score_oof
from salt.tgs import COMPETITION

# %% tags=["parameters"]
PRESET = "t4"  # one of PRESETS below
SET = {}  # settings that differ from the preset: {"epochs": 20}
RUN_ID = ""  # what this run is called; empty: the time of its start
RESUME = ""  # run id of an unfinished run whose output is mounted: training resumes from its checkpoints
BUILD_ID = ""  # hash of the source that this notebook was built from

# %% [markdown]
# ### Preflight
# Checks first what would otherwise fail after an hour: settings, data, encoder weights, GPU.

# %%
began = time.monotonic()
config = settle_precision(preset(PRESET, **SET))
run_id = RUN_ID or time.strftime("train-%Y%m%d-%H%M%S", time.gmtime())
roots = ["../input", "/kaggle/input"]  # beside the working folder, as on Kaggle and in the local stand-in
files = find_competition(roots, COMPETITION)
weights = find_weights(config.weights, roots)
earlier = find_run(roots, "predict") if config.pseudo else None
resumed = resume_run(roots, RESUME, config, folder=".") if RESUME else None

print("run", run_id, "of build", BUILD_ID or "(none)", f"resumes {RESUME}" if resumed is not None else "")
print(config)
print("data:", files.folder, "| encoder weights:", weights)
gpus = visible_gpus()
print("backend", keras.backend.backend(), "on", f"GPUs {gpus}" if gpus else "the CPU", library_versions())
print(machine)
if shutil.which("nvidia-smi"):
    print(subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout)
if config.gpu and not gpus and not config.cluster:
    raise RuntimeError("no GPU here: choose an accelerator, or train on the CPU with gpu=false")

# %% [markdown]
# ### The tiles

# %%
tiles = read_train(files)
print(describe_tiles(tiles))

pseudo, test = None, None
if earlier is not None:
    pseudo = read_pseudo_labels(config, read_test(files), earlier)
if files.has_test() and (config.split == "mosaic" or config.padding == "neighbours"):
    test = read_test(files)  # larger pictures are rebuilt from all tiles

# %% [markdown]
# ### Training
# One model for each fold of `train_folds`. A tile's out-of-fold prediction comes from the model that was not trained
# on it. With `minutes`, the number of steps follows from the time that a step takes on this machine. With several GPUs,
# or on a cluster, several folds are trained at once.

# %%
outcome = fit_folds(
    config,
    tiles,
    folder=".",
    state_folder=STATE_FOLDER,
    weights=weights,
    pseudo=pseudo,
    clock=time.monotonic,
    began=began,
    test=test,
)
figure = plot_history(outcome.history)

# %% [markdown]
# ### Results
# The score of the out-of-fold predictions estimates that of the public leaderboard, within its interval.

# %%
oof, score, area = outcome.oof, None, config.minimum_area
if oof is None:
    print("no fold is finished yet")
else:
    counts = count_oof(oof)
    score, table = score_oof(counts, COMPETITION.metric), level_table(counts, COMPETITION.metric)
    level, area = choose_level_and_area(table, COMPETITION.metric, config.level, config.minimum_area)
    print(f"{len(oof.ids)} tiles: score {score['best_score']:.4f} at level {score['best_level']} of 255, the best one,")
    print(f"95 % interval {np.round(score['best_interval'], 4)}; at level 128, p = 0.5: {score['half_score']:.4f}")
    scores = scores_with_area(table, level, area)
    mean = mean_score(scores, COMPETITION.metric)
    print(f"{mean:.4f} at level {level} if masks with less than {area} pixels are predicted empty")

# %% [markdown]
# Held-out tiles that hold anything, from the worst to the best: image, truth, prediction; above each its score.

# %%
if oof is not None:
    held = np.flatnonzero(table.truth.reshape(len(oof.ids), -1).any(axis=1))
    by_score = held[np.argsort(tile_scores(scores)[held], kind="stable")]
    shown = by_score[np.linspace(0, len(held) - 1, min(24, len(held))).astype(int)]
    images = tiles.images[[np.flatnonzero(tiles.ids == oof.ids[index])[0] for index in shown]]
    overlays = {"truth": oof.masks[shown], "prediction": postprocess(oof.probabilities[shown], level, area)}
    figure = plot_tiles(images, overlays, [f"{tile_scores(scores)[index]:.2f}" for index in shown])

# %% [markdown]
# ### The manifest
# It is written last, when all other outputs are complete.

# %%
finished = not outcome.unfinished
if finished:
    shutil.rmtree(STATE_FOLDER)  # an unfinished run keeps it, to be resumed
minutes = round((time.monotonic() - began) / 60, 1)
more = {
    "competition": COMPETITION.slug,
    "build_id": BUILD_ID,
    "machine": machine,
    "minutes": minutes,
    "score": score,
    "minimum_area": area,
}
more |= {"finished": finished, "resumed_from": None if resumed is None else resumed["run_id"]}
manifest = write_manifest(".", run_id, "train", config, **more)
print(f"{minutes} minutes")
print(*(f"{name}  {entry['bytes']:,} bytes" for name, entry in manifest["files"].items()), sep="\n")
if not finished:
    print("not finished: folds", *outcome.unfinished, f"- a run with RESUME = {run_id!r} resumes them")
if outcome.failure is not None:
    raise outcome.failure
