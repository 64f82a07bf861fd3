"""A search for settings as an Optuna study in a file, which any later run can resume.

The file is a journal: a text file to which each worker appends a line for each change. A kill can cut the last line
short and nothing else; what that line recorded is done again. (SQLite would need a second file of its own beside the
database.) A trial is written with all its settings before it begins. One that is unfinished, because the run was out of
time or was killed, is resumed by the next run under its own number, after its last epoch. One that failed is begun anew
by the next run, and has failed for good if it does so again.

The settings of a trial follow from the seed, its number and the trials before it, never from when they were drawn: an
interrupted study ends like an uninterrupted one. With several workers that holds only where every combination is tried,
since otherwise a draw depends on which of the other trials have ended.
"""

import functools
import itertools
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import optuna
from filelock import FileLock
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from salt.config import Config
from salt.files import whole_file
from salt.resume import STATE_FOLDER, copy_outputs, find_resumable_run

STUDY_FILE = "study.journal"  # among a run's outputs: all that is known of the study
REDRAWS = 20  # attempts to draw a combination that was not tried yet, before one is tried twice
KEPT_PERCENTILE = 75  # of the trials at an epoch; only the worst quarter is pruned, since learning curves may cross
PRUNER_TRIALS, PRUNER_EPOCHS = 5, 5  # finished trials, and epochs of a trial, before any is pruned


class SearchError(ValueError):
    """A study that cannot be resumed, or a space that cannot be searched as asked."""


class Span(NamedTuple):
    """Any number between two bounds, both included; `log`: equal factors are equally likely."""

    low: float
    high: float
    log: bool = False


# Fields of `Config` and the values to try: those of a tuple, or any number of a `Span`.
SPACES: dict[str, dict[str, tuple | Span]] = {
    # The search of the original, for its network ("unet"). All optimizers get the same rate, which is low for SGD.
    # Batch norm's momentum changes the scores during training but not the final one, since the statistics are
    # re-estimated after the last step.
    "original": {
        "filter_scaling": (8, 16, 32, 48, 64),
        "depth": (3, 4, 5, 6),
        "batch_norm_momentum": (0.5, 0.6, 0.7, 0.8, 0.9),
        "optimizer": ("adamw", "nadam", "rmsprop", "sgd"),
        "batch_size": (32, 64, 128),
    },
    # The same for its network with VGG-16 ("transfer_unet").
    "original_transfer": {
        "freeze_layer": (7, 8, 9, 10, 11, 12, 13),
    },
    # How to train, for any network.
    "recipe": {
        "learning_rate": Span(2e-4, 5e-3, log=True),
        "weight_decay": Span(1e-6, 1e-2, log=True),
        "warmup": Span(0.0, 0.2),
        "lovasz": Span(0.1, 0.9),
        "ema_momentum": (0.98, 0.99, 0.995, 0.998, 0.999),
        "batch_size": (16, 32, 64),
        "dropout": (0.0, 0.1, 0.2, 0.3),
        "cutout": (0, 20, 30, 40),
    },
    # Two findings of the original, wider beats narrower and momentum .6 beats .9, at a size for two cores.
    "findings": {
        "filter_scaling": (4, 8, 16),
        "batch_norm_momentum": (0.6, 0.9),
    },
}


# --- the study and its file ---


def begin_study(folder: str | pathlib.Path, config: Config) -> optuna.Study:
    """Opens the study in a folder, or makes it there; a last line of its file that a kill has cut short is dropped.

    Raises:
        SearchError: the file is damaged, or a study of other values.
    """
    path = pathlib.Path(folder) / STUDY_FILE
    drop_cut_line(path)
    study = open_study(folder, config)
    asked: dict[str, object] = {name: list(values) for name, values in SPACES[config.space].items()}
    asked["every combination"] = not config.trials
    found = study.user_attrs.get("space")
    if found is None:
        study.set_user_attr("space", asked)
    elif found != asked:
        other = [name for name in {**found, **asked} if found.get(name) != asked.get(name)]
        was = ", ".join(f"{name}={found.get(name)}, not {asked.get(name)}" for name in other)
        raise SearchError(f"{path}: a study of another space, {was}; resume it with its own space, or begin a new one")
    return study


def open_study(folder: str | pathlib.Path, config: Config) -> optuna.Study:
    """Opens the study in a folder, in each worker; makes it if there is none.

    Raises:
        SearchError: the file is damaged.
    """
    path, pruner = pathlib.Path(folder) / STUDY_FILE, study_pruner(config)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = open_storage(path)
        if optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=None, storage=storage, pruner=pruner)
        return optuna.create_study(study_name="salt", storage=storage, direction="maximize", pruner=pruner)
    except Exception as error:  # a damaged line is a KeyError, a JSON error, a ValueError ...
        raise SearchError(f"{path}: damaged, or no study ({error!r}); take it from the run's output again") from error


def open_storage(path: pathlib.Path) -> JournalStorage:
    """Optuna's storage in a journal."""
    # Optuna's own locks remain when a process is killed, and block the others; this one ends with it.
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    # Optuna's base class of locks, which the annotation asks for, is not public.
    return JournalStorage(JournalFileBackend(str(path), lock))  # type: ignore[arg-type]


def study_pruner(config: Config) -> optuna.pruners.BasePruner:
    """What ends trials early, in every worker alike."""
    if config.trials:
        return optuna.pruners.PercentilePruner(KEPT_PERCENTILE, PRUNER_TRIALS, PRUNER_EPOCHS)
    return optuna.pruners.NopPruner()  # comparing all combinations takes whole trials


def drop_cut_line(path: pathlib.Path) -> None:
    """Removes an incomplete last line from a file, if there is a file: a kill came while the line was written.

    Optuna would append the next line to it, and could then read neither.

    Raises:
        SearchError: the incomplete line does not begin like one of a journal.
    """
    if not path.is_file():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return
    if content[end : end + 1] != b"{":
        raise SearchError(f"{path}: damaged after its byte {end}; take it from the run's output again")
    print(f"{path.name}: dropped {len(content) - end} bytes of a last line that was cut short")
    with whole_file(path) as temporary:
        temporary.write_bytes(content[:end])


def resume_study(roots: Iterable[str | pathlib.Path], run_id: str, config: Config, folder: str | pathlib.Path) -> dict:
    """Copies the study of a mounted earlier run, and the state of its unfinished trials, so that it can be resumed.

    Args:
        roots: folders to search for the run.
        run_id: of the earlier run.
        config: settings of the run that resumes it; only those of `RESUMABLE_SETTINGS` may differ.
        folder: where they are copied to: the working folder of that run.

    Returns:
        The manifest of the earlier run.

    Raises:
        ArtifactError: no such run, or one that is damaged or had other settings.
    """
    source, manifest = find_resumable_run(roots, run_id, "search", config)
    copy_outputs(source, manifest, (STUDY_FILE, f"{STATE_FOLDER}/*"), folder)
    return manifest


# --- trials ---


def every_combination(space: dict[str, tuple | Span], seed: int) -> list[dict]:
    """Every combination of a space's values, shuffled by the seed, so that the first ones are a fair sample of all.

    Raises:
        SearchError: a setting may take any number between two bounds.
    """
    if spans := [name for name, values in space.items() if isinstance(values, Span)]:
        raise SearchError(f"trials=0: {', '.join(spans)} may take any number between two bounds; say how many trials")
    combinations = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    return [combinations[index] for index in np.random.default_rng(seed).permutation(len(combinations))]


def trial_count(config: Config) -> int:
    """How many trials the study shall have."""
    return config.trials or len(every_combination(SPACES[config.space], config.seed))


def space_distributions(space: dict[str, tuple | Span]) -> dict:
    """A space as Optuna's distributions."""
    return {
        name: FloatDistribution(*values) if isinstance(values, Span) else CategoricalDistribution(values)
        for name, values in space.items()
    }


def draw_parameters(config: Config, trials: list) -> dict:
    """The settings of the next trial: by Optuna's tree-structured Parzen estimator, or the next combination of all.

    Args:
        config: names the space.
        trials: of the study so far.

    Returns:
        {field of `Config`: value}.
    """
    space, number = SPACES[config.space], len(trials)
    if not config.trials:
        return every_combination(space, config.seed)[number]
    tried = [trial.params for trial in trials]
    for attempt in range(REDRAWS):
        # A new sampler for each draw: the state of one that has drawn before would be lost in a restart.
        seed = int(np.random.SeedSequence((config.seed, number, attempt)).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed)
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        copy.add_trials(trials)
        parameters = copy.ask(space_distributions(space)).params
        if parameters not in tried:
            break
    return parameters


def begin_trial(study: optuna.Study, config: Config, folder: str | pathlib.Path) -> int | None:
    """Adds a trial to the study and returns its number, or None if the study has as many as it shall have."""
    # No other worker may draw settings until this trial is in the study.
    with FileLock(pathlib.Path(folder) / f".{STUDY_FILE}.draw"):
        trials = study.get_trials(deepcopy=False)
        if len(trials) >= trial_count(config):
            return None
        parameters, distributions = draw_parameters(config, trials), space_distributions(SPACES[config.space])
        # Added with all its settings, so that no kill leaves a trial that has only some of them.
        trial = optuna.create_trial(state=TrialState.RUNNING, params=parameters, distributions=distributions)
        study.add_trial(trial)
        return len(trials)


def run_trial(
    study: optuna.Study, number: int, objective: Callable, folder: pathlib.Path, has_time: Callable[[], bool]
) -> bool:
    """Runs a trial, from its beginning or from its last epoch, and tells the study how it ended.

    Args:
        study: holds the trial.
        number: of the trial.
        objective: as for `run_search`.
        folder: of the trial's state; removed when it ends.
        has_time: function that says whether there is time left.

    Returns:
        Whether to go on; if not, the time is up and the trial is left to a later run. A trial that failed for the
        first time is left to a later run, too, which begins it anew.
    """
    frozen = study.get_trials(deepcopy=False)[number]
    trial = optuna.trial.Trial(study, frozen._trial_id)  # Optuna has no public way to an existing trial
    known = len(frozen.intermediate_values)
    print(f"trial {number}: {parameters_text(frozen.params)}{f', resumes after {known} epochs' if known else ''}")
    try:
        if known and trial.should_prune():  # a kill may have come before this was asked after the last epoch
            raise optuna.TrialPruned
        scores = objective(frozen.params, folder, functools.partial(report_scores, study, trial))
        if scores is None:
            print(f"trial {number}: out of time, left to a later run", flush=True)
            return False
        for name, values in scores.items():
            trial.set_user_attr(name, values)
        score = float(np.mean(scores["fold_scores"]))
        if not math.isfinite(score):
            raise SearchError(f"the score is {score}")
        done = study.tell(number, score)
        print(f"trial {number}: score {done.value:.4f}", flush=True)
    except optuna.TrialPruned:
        done = study.tell(number, state=TrialState.PRUNED)
        print(f"trial {number}: pruned at {done.value:.4f} after {len(done.intermediate_values)} epochs", flush=True)
    except Exception as error:
        if not has_time():
            print(f"trial {number}: out of time after {error!r}, left to a later run", flush=True)
            return False
        if "first_error" not in frozen.user_attrs:  # it may have been an accident, such as a lack of memory
            trial.set_user_attr("first_error", repr(error))
            print(f"trial {number}: failed: {error!r}; the next run tries it once more", flush=True)
        else:
            trial.set_user_attr("error", repr(error))
            study.tell(number, state=TrialState.FAIL)
            print(f"trial {number}: failed again: {error!r}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def parameters_text(parameters: dict) -> str:
    """`"depth=4 lovasz=0.31"`."""
    texts = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in parameters.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items())


def report_scores(study: optuna.Study, trial: optuna.trial.Trial, scores: list[float]) -> None:
    """Tells the study the held-out scores of a trial's epochs, as far as it does not have them yet.

    Raises:
        TrialPruned: the trial is not worth finishing.
    """
    known = len(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    for step in range(known, len(scores)):
        trial.report(scores[step], step)
        if trial.should_prune():
            raise optuna.TrialPruned


# --- here, too, for scripts from before 28 November 2026; inside, since trial_runs.py imports this module ---


def run_search(config: Config, objective: Callable, *arguments: Any, **named: Any) -> Any:
    """See `salt.trial_runs.run_search`; the objective is a function of (parameters, folder, report) alone."""
    from salt import trial_runs

    def with_more(parameters: dict, folder: pathlib.Path, report: Callable, **_: Any) -> Any:
        return objective(parameters, folder, report)

    return trial_runs.run_search(config, with_more, *arguments, **named)
