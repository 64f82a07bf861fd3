# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "cloudpickle", "keras", "matplotlib", "numpy", "opencv-python", "optuna", "pandas", "scikit-learn", "tensorflow",
#   "tqdm",
# ]
#
# [tool.kaggle]
# title = "Salt search"
# accelerator = "NvidiaTeslaT4"
# internet = true  # for ImageNet weights, unless they are mounted
# private = true
# competition_sources = ["tgs-salt-identification-challenge"]
# dataset_sources = []
# kernel_sources = []
# model_sources = []
# ///
"""Search for settings: many short trainings, scored on held-out tiles.

**Reads** the competition's table of masks and its training images.
**Writes** `study.journal`, the Optuna study, which a later run can resume (with the folder `state`, if trials are
unfinished), `trials.csv` and `manifest.json`.
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
import functools
import json
import shutil
import subprocess
import time

import keras

from salt.artifacts import library_versions, write_manifest
from salt.competition import find_competition
from salt.config import preset, settle_precision
from salt.cross_validation import claim_state
from salt.data import read_train
from salt.encoders import find_weights
from salt.figures import plot_search
from salt.resume import STATE_FOLDER
from salt.search import check_search, paired_effects, parameter_importances, train_trial, trials_table
from salt.study import SPACES, SearchError, open_study, resume_study, trial_count
from salt.tgs import COMPETITION
from salt.trial_runs import run_search

# %% tags=["parameters"]
PRESET = "search"  # one of PRESETS below: what all trials have in common
SET = {}  # settings that differ from the preset: {"space": "recipe", "trials": 100}
RUN_ID = ""  # what this run is called; empty: the time of its start
RESUME = ""  # run id of an earlier search whose output is mounted: its study is resumed
BUILD_ID = ""  # hash of the source that this notebook was built from

# %% [markdown]
# ### Preflight
# Checks first what would otherwise fail after an hour: settings, space, data, encoder weights, GPU, earlier study.

# %%
began = time.monotonic()
config = settle_precision(preset(PRESET, **SET))
check_search(config)
run_id = RUN_ID or time.strftime("search-%Y%m%d-%H%M%S", time.gmtime())
roots = ["../input", "/kaggle/input"]  # beside the working folder, as on Kaggle and in the local stand-in
files = find_competition(roots, COMPETITION)
weights = find_weights(config.weights, roots)
resumed = resume_study(roots, RESUME, config, folder=".") if RESUME else None

print("run", run_id, "of build", BUILD_ID or "(none)", f"resumes {RESUME}" if resumed is not None else "")
print(config)
print(f"{trial_count(config)} trials in all; the space {config.space!r} has {SPACES[config.space]}")
print("data:", files.folder, "| encoder weights:", weights)
gpus = visible_gpus()
print("backend", keras.backend.backend(), "on", f"GPUs {gpus}" if gpus else "the CPU", library_versions())
print(machine)
if shutil.which("nvidia-smi"):
    print(subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout)
if config.gpu and not gpus and not config.cluster:
    raise RuntimeError("no GPU here: choose an accelerator, or search on the CPU with gpu=false")

# %% [markdown]
# ### Trials
# A trial trains each fold of `train_folds`; its score is the mean over the held-out tiles. With several GPUs, or on a
# cluster, several run at once. Unless every combination is tried, trials worse than most at the same epoch are pruned.

# %%
tiles = read_train(files)
claim_state(STATE_FOLDER, config, tiles)
objective = functools.partial(train_trial, config=config, tiles=tiles, clock=time.monotonic)
errors = run_search(config, objective, ".", STATE_FOLDER, time.monotonic, began, gpus, weights)

# %% [markdown]
# ### Results
# The best trials first. The score of the best of many is too high on average: train with its settings, and compare
# that run.

# %%
study = open_study(".", config)
table = trials_table(study, config)
table.to_csv("trials.csv", index=False)
print(table.drop(columns="error").to_string(index=False, float_format="{:.4g}".format, max_rows=60))
complete = table[table["state"] == "complete"]
best = study.best_trial.params if len(complete) else None
print("the best settings:", json.dumps(best))

# %% [markdown]
# Left: the score of each trial (dots; crosses were pruned) and the best so far (line). Right: the importance of each
# setting, its share in the variance of the scores.

# %%
figure = plot_search(table, parameter_importances(study, config.seed))

# %% [markdown]
# The effect of changing one setting, all others being equal: mean difference over the folds and its 95 % interval.
# First for the final scores, then for those of the last epoch, before batch norm's statistics are re-estimated.

# %%
for scores in ("fold_scores", "last_scores"):
    effects = paired_effects(study, config, scores)
    print(scores)
    print(
        effects.to_string(index=False, float_format="{:+.4f}".format)
        if len(effects)
        else "no two trials differ in one setting alone"
    )

# %% [markdown]
# ### The manifest
# It is written last, when all other outputs are complete.

# %%
finished = len(table) >= trial_count(config) and not (table["state"] == "running").any()
minutes = round((time.monotonic() - began) / 60, 1)
more = {
    "competition": COMPETITION.slug,
    "build_id": BUILD_ID,
    "machine": machine,
    "minutes": minutes,
    "trials": len(complete),
    "best": best,
}
more |= {"finished": finished, "resumed_from": None if resumed is None else resumed["run_id"]}
manifest = write_manifest(".", run_id, "search", config, **more)
print(f"{minutes} minutes")
print(*(f"{name}  {entry['bytes']:,} bytes" for name, entry in manifest["files"].items()), sep="\n")
if not finished:
    print(f"not finished: a run with RESUME = {run_id!r} resumes it")
# A dead worker does not fail the run, since the outputs of a failed run cannot be mounted.
print(*(f"a worker died: {error}" for error in errors), sep="\n")
if len(table) and (table["error"] != "").all():
    raise SearchError(f"all {len(table)} trials failed, the last of them with {table['error'].iloc[-1]}")
