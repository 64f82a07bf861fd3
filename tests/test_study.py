import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
from optuna.trial import TrialState

from salt import study
from salt.artifacts import ArtifactError, write_manifest
from salt.config import preset
from salt.study import (
    SPACES,
    STUDY_FILE,
    SearchError,
    Span,
    begin_study,
    every_combination,
    open_study,
    resume_study,
    trial_count,
)
from salt.trial_runs import SearchJob, lock_study, run_remote_trial, run_search

EPOCHS = 8


def quality(parameters):
    """A score that each setting of any space has a part in, between 0 and 1."""
    values = [float(value) for _, value in sorted(parameters.items())]
    return 0.5 + 0.5 * float(np.mean(np.sin(np.arange(1, len(values) + 1) * np.array(values))))


def learn(parameters, folder, report, tick=lambda: None, began=0.0, weights=None):
    """An objective that costs nothing and keeps its state as training does: first the checkpoint, then the report."""
    path = folder / "scores.json"
    scores = json.loads(path.read_text()) if path.is_file() else []
    while len(scores) < EPOCHS:
        tick()
        scores.append(quality(parameters) * (1 - 0.7 ** (len(scores) + 1)))
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores))
        tick()
        report(scores)
        tick()
    report(scores)
    return {"fold_scores": [scores[-1] - 0.01, scores[-1] + 0.01], "last_scores": scores[-2:]}


def run(folder, config, objective=learn, clock=lambda: 0.0):
    return run_search(config, objective, folder, folder / "state", clock, 0.0)


def told(folder, config):
    """All that a study says, but for the times."""
    trials = open_study(folder, config).get_trials()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    return [(trial.state, trial.params, trial.value, trial.intermediate_values, trial.user_attrs) for trial in trials]


@pytest.fixture(scope="module")
def config():
    return preset("smoke", space="recipe", trials=16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config):
    """The folder of a search that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, config) == []
    return folder


def test_a_search_has_its_trials_some_given_up_and_leaves_no_state(whole, config):
    states = [state for state, *_ in told(whole, config)]
    assert len(states) == 16 and set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert not list((whole / "state").glob("*"))
    for state, parameters, value, scores, attributes in told(whole, config):
        assert set(parameters) == set(SPACES["recipe"])
        if state == TrialState.COMPLETE:
            assert value == pytest.approx(quality(parameters) * (1 - 0.7**EPOCHS))
            assert len(scores) == EPOCHS and len(attributes["fold_scores"]) == 2
        else:
            assert study.PRUNER_EPOCHS <= len(scores) < EPOCHS


def test_what_is_given_up_was_among_the_worst_at_its_epoch(whole, config):
    trials = told(whole, config)
    pruned = [index for index, trial in enumerate(trials) if trial[0] == TrialState.PRUNED]
    assert pruned
    for index in pruned:
        epoch = len(trials[index][3]) - 1
        before = [trial[3][epoch] for trial in trials[:index] if trial[0] == TrialState.COMPLETE]
        assert len(before) >= study.PRUNER_TRIALS and trials[index][3][epoch] < np.percentile(before, 25)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("every", [13, 97])
def test_a_search_that_is_killed_again_and_again_and_goes_on_from_its_output_ends_with_the_same_study(
    tmp_path, config, whole, every
):
    folder, kills = tmp_path / "0", 0
    while True:
        ticks = iter(range(every))

        def tick(ticks=ticks):
            if next(ticks, None) is None:
                raise Killed

        try:
            run(folder, config, functools.partial(learn, tick=tick))
        except Killed:
            kills += 1
            output, folder = folder, tmp_path / str(kills)
            write_manifest(output, f"search-{kills}", "search", config, finished=False)
            resume_study([output], f"search-{kills}", config, folder)
            continue
        break
    assert kills >= 3
    assert told(folder, config) == told(whole, config)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.77, 0.999])
def test_a_file_cut_short_anywhere_is_mended_and_ends_with_the_same_study(tmp_path, config, whole, share, capsys):
    content = (whole / STUDY_FILE).read_bytes()
    (tmp_path / STUDY_FILE).write_bytes(content[: int(share * len(content))])
    run(tmp_path, config)
    assert told(tmp_path, config) == told(whole, config)
    assert "bytes of a last line that was cut short" in capsys.readouterr().out


def test_a_damaged_file_is_an_error_and_left_as_it_is(tmp_path, config, whole):
    content = (whole / STUDY_FILE).read_bytes()
    middle = content.index(b"\n", len(content) // 2)
    for damaged in (content[:middle] + b"?" + content[middle:], content + b"\0\0\0", b"SQLite format 3\0"):
        (tmp_path / STUDY_FILE).write_bytes(damaged)
        with pytest.raises(SearchError, match="study.journal: damaged.* take it from the run's output again"):
            run(tmp_path, config)
        assert (tmp_path / STUDY_FILE).read_bytes() == damaged


def test_a_finished_search_goes_on_if_more_trials_are_wanted(tmp_path, config, whole):
    shutil.copytree(whole, tmp_path / "more")
    more = preset("smoke", space="recipe", trials=18)
    run(tmp_path / "more", more)
    assert told(tmp_path / "more", more)[:16] == told(whole, config)
    assert len(told(tmp_path / "more", more)) == 18


def test_a_study_of_another_space_is_refused_with_what_differs(tmp_path):
    every = preset("smoke", space="findings", trials=0)
    run(tmp_path, every)
    before = (tmp_path / STUDY_FILE).read_bytes()
    with pytest.raises(SearchError, match=r"another space, filter_scaling=\[4, 8, 16\], not \[8, 16, 32, 48, 64\]"):
        run(tmp_path, preset("smoke", space="original"))
    with pytest.raises(SearchError, match="every combination=True, not False"):
        run(tmp_path, preset("smoke", space="findings", trials=4))
    assert (tmp_path / STUDY_FILE).read_bytes() == before


def test_another_run_at_the_same_study_is_refused(tmp_path, config):
    with lock_study(tmp_path), pytest.raises(SearchError, match="another search uses it; wait for it, or end it"):
        run(tmp_path, config)
    assert not (tmp_path / STUDY_FILE).exists()


def test_only_a_search_with_the_same_settings_is_taken_over_though_it_may_want_more_trials(tmp_path, config, whole):
    shutil.copytree(whole, tmp_path / "mounted")
    (tmp_path / "mounted" / "trials.csv").write_text("trial\n")
    write_manifest(tmp_path / "mounted", "search-1", "search", config)
    with pytest.raises(ArtifactError, match="search-1 was begun with epochs=2: resume it with the same settings"):
        resume_study([tmp_path], "search-1", preset("smoke", space="recipe", trials=16, epochs=3), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    resume_study([tmp_path], "search-1", preset("smoke", space="recipe", trials=99), tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [STUDY_FILE]


# --- several workers ---


def die_in_the_second_trial(parameters, folder, report, began=0.0, weights=None):
    marker = folder.parent.parent / "died"
    if folder.name == "trial-0001" and not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(parameters, folder, report)


def test_two_workers_lose_no_trial_even_if_one_is_killed(tmp_path):
    config = preset("smoke", space="findings", trials=0, workers=2)
    (error,) = run(tmp_path / "two", config, die_in_the_second_trial)
    assert "killed by SIGKILL" in str(error)
    states = [state for state, *_ in told(tmp_path / "two", config)]
    assert len(states) == 6 and states.count(TrialState.COMPLETE) == 5 and states[1] == TrialState.RUNNING
    one = preset("smoke", space="findings", trials=0)
    assert run(tmp_path / "two", one, die_in_the_second_trial) == []
    run(tmp_path / "one", one)
    assert told(tmp_path / "two", one) == told(tmp_path / "one", one)


# --- trials ---


def test_every_combination_comes_once_in_an_order_of_the_seed():
    space = SPACES["original"]
    some, others = every_combination(space, seed=1), every_combination(space, seed=2)
    assert len(some) == 5 * 4 * 5 * 4 * 3 and len({tuple(one.items()) for one in some}) == len(some)
    assert some != others and sorted(map(str, some)) == sorted(map(str, others))
    with pytest.raises(SearchError, match="trials=0: learning_rate, weight_decay, warmup, lovasz may take any number"):
        trial_count(preset("smoke", space="recipe", trials=0))


def test_no_combination_is_tried_twice_while_others_are_left(tmp_path, monkeypatch):
    monkeypatch.setitem(SPACES, "findings", {"dropout": (0.0, 0.1, 0.2, 0.3), "cutout": (0, 30)})
    config = preset("smoke", space="findings", trials=8)
    run(tmp_path, config)
    assert len({tuple(parameters.items()) for _, parameters, *_ in told(tmp_path, config)}) == 8


def test_the_estimator_learns_where_scores_are_high(tmp_path, monkeypatch):
    monkeypatch.setitem(SPACES, "findings", {"lovasz": Span(0.0, 1.0)})

    def peak(parameters, folder, report, began=0.0, weights=None):
        return {"fold_scores": [-((parameters["lovasz"] - 0.3) ** 2)]}

    config = preset("smoke", space="findings", trials=40)
    run(tmp_path, config, peak)
    distances = [abs(parameters["lovasz"] - 0.3) for _, parameters, *_ in told(tmp_path, config)]
    assert np.median(distances[10:]) < 0.15  # of draws at random it would be .25


def test_a_trial_that_fails_twice_is_recorded_with_its_error_and_the_others_go_on(tmp_path):
    def fail(parameters, folder, report, began=0.0, weights=None):
        if parameters["filter_scaling"] == 16:
            raise MemoryError("16 is too wide")
        return learn(parameters, folder, report)

    config = preset("smoke", space="findings", trials=0)
    assert run(tmp_path, config, fail) == run(tmp_path, config, fail) == []
    for state, parameters, _, _, attributes in told(tmp_path, config):
        failed = parameters["filter_scaling"] == 16
        assert state == (TrialState.FAIL if failed else TrialState.COMPLETE)
        assert attributes.get("error") == ("MemoryError('16 is too wide')" if failed else None)


def test_a_trial_that_failed_by_accident_is_tried_once_more_by_the_next_run(tmp_path):
    calls = []

    def sometimes(parameters, folder, report, began=0.0, weights=None):
        calls.append(parameters)
        if len(calls) in (2, 3):
            raise MemoryError("another process had the card")
        return learn(parameters, folder, report)

    config = preset("smoke", space="findings", trials=0)
    run(tmp_path / "some", config, sometimes)
    states = [state for state, *_ in told(tmp_path / "some", config)]
    assert states.count(TrialState.COMPLETE) == 4 and states[1] == states[2] == TrialState.RUNNING
    run(tmp_path / "some", config, sometimes)
    run(tmp_path / "whole", config)
    assert len(calls) == 8 and calls[6:] == calls[1:3]
    assert [trial[:4] for trial in told(tmp_path / "some", config)] == [
        trial[:4] for trial in told(tmp_path / "whole", config)
    ]


def test_a_score_of_nan_ends_no_worker_and_is_no_score(tmp_path, capsys):
    def diverge(parameters, folder, report, began=0.0, weights=None):
        scores = learn(parameters, folder, report)
        return scores if parameters["filter_scaling"] == 4 else {"fold_scores": [float("nan"), 0.5]}

    config = preset("smoke", space="findings", trials=0)
    assert run(tmp_path, config, diverge) == run(tmp_path, config, diverge) == []
    states = {parameters["filter_scaling"]: state for state, parameters, *_ in told(tmp_path, config)}
    assert states == {4: TrialState.COMPLETE, 8: TrialState.FAIL, 16: TrialState.FAIL}
    assert "failed again: SearchError('the score is nan')" in capsys.readouterr().out


@pytest.mark.parametrize("late", [lambda: None, lambda: 1 / 0])
def test_a_trial_whose_time_is_up_waits_for_the_next_run_and_none_is_begun_after_it(tmp_path, late):
    config = preset("smoke", space="findings", trials=0, limit_minutes=1.0)
    seconds = iter([0.0, 20.0, 40.0, 61.0, 61.0])

    def run_out(parameters, folder, report, began=0.0, weights=None):
        return late() if "2" in folder.name else learn(parameters, folder, report)

    run(tmp_path, config, run_out, clock=functools.partial(next, seconds))
    assert [state for state, *_ in told(tmp_path, config)] == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING]
    run(tmp_path, config)
    assert [state for state, *_ in told(tmp_path, config)] == [TrialState.COMPLETE] * 6


def test_the_settings_of_each_space_exist_and_its_name_is_known_to_the_configuration():
    for name, space in SPACES.items():
        known = preset("unet", space=name)
        assert all(hasattr(known, setting) for setting in space)


def test_a_study_opens_again_and_again_without_growing(tmp_path, config):
    begin_study(tmp_path, config)
    size = (tmp_path / STUDY_FILE).stat().st_size
    begin_study(tmp_path, config)
    assert (tmp_path / STUDY_FILE).stat().st_size == size and pathlib.Path(tmp_path / STUDY_FILE).read_text().count(
        "\n"
    ) == 2


def test_a_trial_that_a_lost_worker_had_ended_is_not_begun_again(tmp_path, config):
    def refuse(*arguments, **named):
        raise AssertionError("begun")

    begun = run_search(dataclasses.replace(config, trials=1), learn, tmp_path, tmp_path / "state", lambda: 0.0, 0.0)
    before = told(tmp_path, config)
    run_remote_trial(
        0, 0.0, SearchJob(config, refuse, tmp_path, tmp_path / "state", lambda: 0.0, 0.0, None), str(tmp_path)
    )
    assert begun == [] and told(tmp_path, config) == before
