"""The trials of a search and their tables: a trial trains some folds, its score is that of the held-out tiles.

Each trial has its own settings and as many epochs as the others. It is scored like a run, nested (see
`salt/scoring.py`). Two settings are compared fold by fold: the differences vary from fold to fold with the tiles and
with the random numbers of the trainings, so that their interval covers both.
"""

import itertools
import math
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState

from salt.config import Config, config_from_dict, config_to_dict
from salt.cross_validation import fit_folds, fold_files
from salt.levels import count_oof, level_table, mean_score, nested_choice, nested_parts
from salt.scoring import student_975
from salt.study import SPACES, SearchError, Span
from salt.tiles import Tiles

OF_ENCODER_UNET = frozenset(
    ("encoder", "stem_stride", "decoder_filters", "attention", "hypercolumn", "deep_supervision", "empty_head")
) | {"deep_weight", "empty_weight"}
# What each network does not look at, whatever else is set.
OF_OTHER_MODELS: dict[str, frozenset[str]] = {
    "unet": OF_ENCODER_UNET | {"freeze_layer", "weights"},
    "transfer_unet": OF_ENCODER_UNET | {"filter_scaling", "depth"},
    "encoder_unet": frozenset({"depth"}),
}


def check_search(config: Config) -> None:
    """Checks what would otherwise fail only after some trials.

    Raises:
        SearchError: the length of a trial is given in minutes, so that it would depend on the machine's load; or the
            space has a setting that the model ignores, so that trials would differ in nothing.
        ConfigError: a value of the space that the other settings do not allow.
    """
    if config.minutes and not config.steps:
        raise SearchError(f"minutes={config.minutes}: a trial has epochs or steps; set minutes=0 and epochs=N")
    if ignored := sorted(ignored_settings(config) & set(SPACES[config.space])):
        using = [model for model, others in OF_OTHER_MODELS.items() if not others & set(SPACES[config.space])]
        raise SearchError(
            f"space={config.space!r}: model={config.model!r} ignores {', '.join(ignored)}, so that trials would differ "
            f"in nothing; set model to {' or '.join(map(repr, using))}, or choose another space"
        )
    for name, values in SPACES[config.space].items():
        for value in values[:2] if isinstance(values, Span) else values:
            config_from_dict({**config_to_dict(config), name: value})


def ignored_settings(config: Config) -> set[str]:
    """The fields of a configuration that have no effect on its network."""
    ignored = set(OF_OTHER_MODELS[config.model])
    if config.model == "encoder_unet":
        ignored |= {"freeze_layer", "weights"} if config.encoder == "residual" else {"filter_scaling"}
        ignored |= set() if config.deep_supervision else {"deep_weight"}
        ignored |= set() if config.empty_head else {"empty_weight"}
    if config.model == "unet" or config.weights is None:
        ignored.add("encoder_rate")
    return ignored


def train_trial(
    parameters: dict,
    folder: pathlib.Path,
    report: Callable[[list[float]], None],
    config: Config,
    tiles: Tiles,
    weights: str | None,
    clock: Callable[[], float],
    began: float,
) -> dict[str, list[float]] | None:
    """The objective of a search: trains the folds of a trial, or resumes it.

    Args:
        parameters: {field of `Config`: value}.
        folder: of the trial's state.
        report: function of the held-out scores of all epochs so far; an exception that it raises ends the trial.
        config: the other settings.
        tiles, weights, clock, began: as for `fit_folds`.

    Returns:
        `"fold_scores"`, nested scores of the held-out tiles, with averaged weights, batch norm's statistics estimated
        anew and test-time augmentation; and `"last_scores"`, those of the last epoch's validation, which has neither of
        the last two. One number a fold. None: the time was up.
    """
    keras.utils.clear_session()  # frees the memory of the trial before
    config = config_from_dict({**config_to_dict(config), "workers": 1, "cluster": "", **parameters})
    files = [fold_files(folder, folder, held_out) for held_out in config.train_folds]

    def watch() -> None:
        report([row["val_score"] for each in files for row in each.history()])

    outcome = fit_folds(config, tiles, folder, folder, weights, clock=clock, began=began, watch=watch)
    if outcome.failure is not None:
        raise outcome.failure.__cause__ or outcome.failure
    oof = outcome.oof
    if outcome.unfinished or oof is None:
        return None
    watch()  # once more: a kill may have come between the last epoch's checkpoint and its report
    counts, metric = count_oof(oof), tiles.competition.metric
    scores = nested_choice(level_table(counts, metric), nested_parts(counts, seed=0), metric)[0]
    return {
        "fold_scores": [mean_score(scores[oof.fold == held_out], metric) for held_out in config.train_folds],
        "last_scores": [each.history()[-1]["val_score"] for each in files],
    }


def trials_table(study: optuna.Study, config: Config) -> pd.DataFrame:
    """The trials, one a row, the best ones first.

    Returns:
        Columns `trial` (its number), `state` ("complete", "pruned", "fail" or "running"), `score` (of a pruned trial
        that of its last epoch), the settings, `epochs` (over all folds), a column `fold<k>` for each fold, and `error`.
    """
    rows = []
    for trial in study.get_trials():
        scores = dict(zip(config.train_folds, trial.user_attrs.get("fold_scores", []), strict=False))
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "score": math.nan if trial.value is None else trial.value,
                **trial.params,
                "epochs": len(trial.intermediate_values),
                **{f"fold{held_out}": scores.get(held_out, math.nan) for held_out in config.train_folds},
                "error": error_of(trial),
            }
        )
    folds = [f"fold{held_out}" for held_out in config.train_folds]
    table = pd.DataFrame(rows, columns=["trial", "state", "score", *SPACES[config.space], "epochs", *folds, "error"])
    table["rank"] = table["state"].map({"complete": 0, "pruned": 1, "running": 2, "fail": 3})
    table = table.sort_values(["rank", "score", "trial"], ascending=[True, False, True], ignore_index=True)
    return table.drop(columns="rank")


def error_of(trial: optuna.trial.FrozenTrial) -> str:
    """Why a trial failed, for the second time or for the first; empty if it did not, or if it succeeded since."""
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return ""
    return trial.user_attrs.get("error", trial.user_attrs.get("first_error", ""))


def parameter_importances(study: optuna.Study, seed: int) -> dict[str, float]:
    """The share of each setting in the variance of the complete trials' scores, by fANOVA (Hutter et al. 2014).

    Returns:
        {setting: share}, the largest first; empty where it cannot be computed: for one trial, or equal scores.
    """
    if len({trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}) < 2:
        return {}  # Optuna 4 raises an error here, Optuna 5 gives all settings equal shares
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    try:
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # the trials have no setting in common
        return {}


def paired_effects(study: optuna.Study, config: Config, scores: str = "fold_scores") -> pd.DataFrame:
    """The effect of changing one setting from a value to another, all others being equal.

    Within a fold, the differences of all pairs of complete trials that differ in this setting alone are averaged; over
    the folds their mean is taken, with a 95 % interval by Student's t. Folds are the unit of the interval: they have
    tiles and trainings of their own, while pairs within a fold share its tiles.

    Args:
        study: most telling where every combination was tried.
        config: of the search.
        scores: `"fold_scores"` or `"last_scores"`, see `train_trial`.

    Returns:
        Columns `setting`, `before`, `after`, `pairs`, `difference` (after minus before), `low`, `high` (NaN for a
        single fold). Pairs of values without a pair of trials are left out.
    """
    done = study.get_trials(states=(TrialState.COMPLETE,))
    found = {tuple(trial.params.items()): np.array(trial.user_attrs[scores]) for trial in done}
    rows: list[tuple] = []
    for name, values in SPACES[config.space].items():
        for before, after in itertools.combinations(() if isinstance(values, Span) else values, 2):
            changes = [
                found[changed] - found[key]
                for key in found
                if dict(key)[name] == before and (changed := tuple({**dict(key), name: after}.items())) in found
            ]
            if changes:
                by_fold = np.mean(changes, axis=0)
                half = math.nan
                if len(by_fold) > 1:
                    half = student_975(len(by_fold) - 1) * by_fold.std(ddof=1) / math.sqrt(len(by_fold))
                middle = by_fold.mean()
                rows.append((name, before, after, len(changes), middle, middle - half, middle + half))
    return pd.DataFrame(rows, columns=["setting", "before", "after", "pairs", "difference", "low", "high"])
