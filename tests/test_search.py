import functools
import math
import time

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from salt import study
from salt.config import ConfigError, preset
from salt.search import check_search, paired_effects, parameter_importances, train_trial, trials_table
from salt.study import SPACES, SearchError, open_study, space_distributions
from salt.synthetic import synthetic_tiles
from salt.tiles import Tiles
from salt.trial_runs import run_search


def study_of(config, trials):
    """A study that holds trials of (parameters, fold scores); without scores, one that is running."""
    study, distributions = optuna.create_study(direction="maximize"), space_distributions(SPACES[config.space])
    for parameters, scores in trials:
        facts = dict(params=parameters, distributions=distributions)
        if scores is None:
            study.add_trial(create_trial(state=TrialState.RUNNING, **facts))
        else:
            study.add_trial(create_trial(value=np.mean(scores), user_attrs={"fold_scores": scores}, **facts))
    return study


@pytest.fixture
def config():
    return preset("smoke", space="findings", trials=0, folds=4, train_folds=[0, 1, 2, 3])


def score(width, momentum, fold):
    """Adds up from the settings and the fold, but for a luck that differs between folds."""
    return 0.5 + {4: 0.0, 8: 0.1, 16: 0.15}[width] + 0.02 * fold + (0.01, -0.01, 0.03, -0.03)[fold] * (width == 16)


def test_effects_are_means_over_folds_of_pairs_that_differ_in_one_setting_with_an_interval_by_fold(config):
    trials = [
        (
            {"filter_scaling": width, "batch_norm_momentum": momentum},
            [score(width, momentum, fold) for fold in range(4)],
        )
        for width in (4, 8, 16)
        for momentum in (0.6, 0.9)
    ]
    effects = paired_effects(study_of(config, trials), config).set_index(["setting", "before", "after"])
    assert len(effects) == 4
    row = effects.loc["filter_scaling", 8, 16]
    half = 3.182 * np.std([0.01, -0.01, 0.03, -0.03], ddof=1) / 2  # Student's t with 3 degrees of freedom
    assert row["pairs"] == 2 and row["difference"] == pytest.approx(0.05)
    assert [row["low"], row["high"]] == pytest.approx([0.05 - half, 0.05 + half], abs=1e-4)
    row = effects.loc["batch_norm_momentum", 0.6, 0.9]
    assert row["pairs"] == 3 and row["difference"] == row["low"] == row["high"] == 0
    assert effects.loc["filter_scaling", 4, 8]["high"] == pytest.approx(0.1)


def test_trials_that_differ_in_more_than_one_setting_or_are_not_complete_are_no_pair(config):
    trials = [
        ({"filter_scaling": 4, "batch_norm_momentum": 0.6}, [0.5] * 4),
        ({"filter_scaling": 8, "batch_norm_momentum": 0.9}, [0.6] * 4),
        ({"filter_scaling": 4, "batch_norm_momentum": 0.9}, None),
    ]
    assert not len(paired_effects(study_of(config, trials), config))


def test_a_single_fold_gives_a_difference_without_an_interval():
    config = preset("smoke", space="findings", trials=0)
    trials = [({"filter_scaling": width, "batch_norm_momentum": 0.6}, [width / 100]) for width in (4, 8)]
    (row,) = paired_effects(study_of(config, trials), config).to_dict("records")
    assert row["difference"] == pytest.approx(0.04) and math.isnan(row["low"]) and math.isnan(row["high"])


def test_the_interval_of_an_effect_covers_the_truth_as_often_as_it_says(config):
    generator, hits = np.random.default_rng(0), 0
    for _ in range(400):
        luck = generator.normal(0.03, 0.02, 4)
        trials = [
            ({"filter_scaling": 4, "batch_norm_momentum": 0.6}, [0.5] * 4),
            ({"filter_scaling": 8, "batch_norm_momentum": 0.6}, list(0.5 + luck)),
        ]
        (row,) = paired_effects(study_of(config, trials), config).to_dict("records")
        hits += row["low"] < 0.03 < row["high"]
    assert 0.92 < hits / 400 < 0.98


def test_importance_goes_to_the_setting_that_the_scores_depend_on_and_to_none_where_it_cannot_be_said(config):
    trials = [
        ({"filter_scaling": width, "batch_norm_momentum": momentum}, [width / 100] * 4)
        for width in (4, 8, 16)
        for momentum in (0.6, 0.9)
    ]
    shares = parameter_importances(study_of(config, trials), seed=0)
    assert next(iter(shares)) == "filter_scaling" and shares["filter_scaling"] > 0.9
    assert parameter_importances(study_of(config, trials[:1]), seed=0) == {}
    same = [(parameters, [0.5] * 4) for parameters, _ in trials]
    assert parameter_importances(study_of(config, same), seed=0) == {}


def test_the_table_has_the_best_trials_first_and_those_without_a_score_last(config):
    trials = [
        ({"filter_scaling": 4, "batch_norm_momentum": 0.6}, None),
        ({"filter_scaling": 8, "batch_norm_momentum": 0.6}, [0.1, 0.2, 0.3, 0.4]),
        ({"filter_scaling": 8, "batch_norm_momentum": 0.9}, [0.5] * 4),
    ]
    table = trials_table(study_of(config, trials), config)
    assert table["trial"].tolist() == [2, 1, 0]
    assert table["state"].tolist() == ["complete", "complete", "running"]
    assert table.loc[1, ["filter_scaling", "fold0", "fold3"]].tolist() == [8, 0.1, 0.4]
    assert not len(trials_table(study_of(config, []), config))


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (dict(minutes=5), SearchError, "minutes=5.0: a trial has epochs or steps; set minutes=0 and epochs=N"),
        (dict(space="original"), ConfigError, "padded_size=104: must divide by 16"),
        (
            dict(space="original_transfer"),
            SearchError,
            "space='original_transfer': model='unet' ignores freeze_layer, .* set model to 'transfer_unet'",
        ),
        (
            dict(space="original", model="encoder_unet", encoder="residual", decoder_filters=[4, 8]),
            SearchError,
            "model='encoder_unet' ignores depth, so that trials would differ in nothing; set model to 'unet'",
        ),
        (
            dict(space="findings", model="encoder_unet", decoder_filters=[4, 8]),
            SearchError,
            "model='encoder_unet' ignores filter_scaling",
        ),
    ],
)
def test_what_would_fail_in_a_later_trial_fails_at_the_start(changes, error, message):
    with pytest.raises(error, match=message):
        check_search(preset("smoke", **changes))
    check_search(preset("smoke", minutes=5, steps=10))


def test_scripts_from_before_trial_runs_find_run_search_where_it_was_and_give_an_objective_of_three(tmp_path):
    config = preset("search", space="findings", trials=0, gpu=False, precision="float32")
    seen = []

    def objective(parameters, folder, report):
        seen.append((folder, parameters))
        return {"fold_scores": [0.5, 0.6], "last_scores": [0.5, 0.6]}

    study.run_search(config, objective, tmp_path, tmp_path / "state", time.monotonic, time.monotonic())
    trials = open_study(tmp_path, config).get_trials()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert [parameters for _, parameters in seen] == [trial.params for trial in trials]


# --- real trainings ---


@pytest.fixture(scope="module")
def tiles() -> Tiles:
    return synthetic_tiles(32, seed=0, progress=False)


def search(folder, config, tiles, clock=lambda: 0.0):
    objective = functools.partial(train_trial, config=config, tiles=tiles, clock=clock)
    run_search(config, objective, folder, folder / "state", clock, 0.0)
    return open_study(folder, config).get_trials()


@pytest.mark.slow
def test_momentum_changes_the_scores_during_training_and_not_the_final_ones(tmp_path, tiles, monkeypatch):
    monkeypatch.setitem(SPACES, "findings", {"batch_norm_momentum": (0.6, 0.9)})
    config = preset("smoke", space="findings", trials=0, filter_scaling=2, batch_size=8)
    one, other = search(tmp_path, config, tiles)
    assert one.state == other.state == TrialState.COMPLETE and one.params != other.params
    assert one.user_attrs["fold_scores"] == other.user_attrs["fold_scores"] == [one.value]
    assert len(one.intermediate_values) == config.epochs
    assert one.user_attrs["last_scores"] == [one.intermediate_values[config.epochs - 1]]


@pytest.mark.slow
def test_a_search_whose_time_runs_out_in_a_training_goes_on_to_the_same_study(tmp_path, tiles, monkeypatch):
    monkeypatch.setitem(SPACES, "findings", {"lovasz": (0.3, 0.6)})
    config = preset("smoke", space="findings", trials=0, filter_scaling=2, batch_size=8, train_folds=[0, 1])
    whole = search(tmp_path / "whole", config, tiles)
    seconds = iter(range(10**6))
    short = preset("smoke", **{**vars(config), "limit_minutes": 0.3})
    left = search(tmp_path / "parts", short, tiles, clock=lambda: float(next(seconds)))
    assert left[-1].state == TrialState.RUNNING and len(left[-1].intermediate_values) < 2 * config.epochs
    parts = search(tmp_path / "parts", config, tiles)
    told = [[(t.params, t.value, t.intermediate_values, t.user_attrs) for t in some] for some in (whole, parts)]
    assert told[0] == told[1]
