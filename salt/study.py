"""A search for settings as an Optuna study in a file, which outlives the run that began it.

The study is a journal: a text file to which each worker appends a line for what it does. A kill can cut its last line
short and nothing else, and what that line would have said is done again. (A SQLite file would need the journal beside
it to travel along.) Each trial is in it from its first moment, with all its settings. One that a run leaves unfinished,
for want of time or because it was killed, is taken up by the next run under its own number, and goes on from its last
epoch.

What a trial tries follows from the seed, its number and the trials before it, never from when it was drawn: a study
that was interrupted ends like one that was not. Several workers draw while others are still at their trials, so that
there this holds only where nothing depends on earlier trials: where every combination is tried.
"""

import contextlib
import fcntl
import functools
import itertools
import pathlib
import shutil
from typing import NamedTuple

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from salt.config import Config
from salt.files import whole_file
from salt.parallel import run_workers
from salt.resume import STATE, copy_outputs, find_earlier

STUDY = "study.journal"  # among a run's outputs: all that is known of the study
REDRAWS = 20  # before a combination that was tried already is tried again: trained anew it says little
KEPT_PERCENTILE = 75  # at an epoch, the worst quarter is given up; curves that take Lovasz at other times cross
PRUNER_TRIALS, PRUNER_EPOCHS = 5, 5  # finished trials, and epochs of a trial, before any is given up


class SearchError(ValueError):
    """A study that cannot be gone on with, or a space that cannot be searched as asked."""


class Span(NamedTuple):
    """Any number between two bounds, both included; `log`: equal factors are equally likely."""

    low: float
    high: float
    log: bool = False


# Fields of `Config` and the values to try. A tuple names them all.
SPACES = {
    # The search of the original, for its network ("unet"). All optimizers get the same rate, which SGD finds low. Batch
    # norm's momentum changes the scores during training and not the final one, since the statistics are estimated anew
    # at the end.
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


@contextlib.contextmanager
def locked(path: pathlib.Path, wait: bool = True):
    """Holds a lock until the block ends or the process dies.

    Raises:
        BlockingIOError: another process holds it, and this one shall not wait.
    """
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


class JournalLock:
    """`locked` in Optuna's words; its own locks outlive a process that is killed, and block the others.

    Args:
        path: of the lock.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path

    def acquire(self) -> bool:
        """Waits for the lock."""
        self.held = contextlib.ExitStack()
        self.held.enter_context(locked(self.path))
        return True

    def release(self):
        """Gives the lock free."""
        self.held.close()


def begin_study(folder, config: Config) -> optuna.Study:
    """Opens the study in a folder, or makes it there; the last line of its file is mended if a kill has cut it short.

    Raises:
        SearchError: the file is damaged, or a study of other values.
    """
    path = pathlib.Path(folder) / STUDY
    drop_cut_line(path)
    study = open_study(folder, config)
    asked = {name: list(values) for name, values in SPACES[config.space].items()}
    asked["every combination"] = not config.trials
    found = study.user_attrs.get("space")
    if found is None:
        study.set_user_attr("space", asked)
    elif found != asked:
        other = [name for name in {**found, **asked} if found.get(name) != asked.get(name)]
        was = ", ".join(f"{name}={found.get(name)}, not {asked.get(name)}" for name in other)
        raise SearchError(f"{path}: a study of another space, {was}; go on with the space that it has, or begin anew")
    return study


def open_study(folder, config: Config) -> optuna.Study:
    """The study in a folder, as each worker opens it.

    Raises:
        SearchError: the file is damaged.
    """
    path = pathlib.Path(folder) / STUDY
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.NopPruner()  # where every combination is tried, comparisons want whole trials
    if config.trials:
        pruner = optuna.pruners.PercentilePruner(KEPT_PERCENTILE, PRUNER_TRIALS, PRUNER_EPOCHS)
    try:
        storage = JournalStorage(JournalFileBackend(str(path), JournalLock(path.with_name(f".{STUDY}.lock"))))
        if optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=None, storage=storage, pruner=pruner)
        return optuna.create_study(study_name="salt", storage=storage, direction="maximize", pruner=pruner)
    except Exception as error:  # a damaged line is a KeyError, a JSON error, a ValueError ...
        raise SearchError(f"{path}: damaged, or no study ({error!r}); take it from the run's output again") from error


def drop_cut_line(path: pathlib.Path):
    """Takes off what stands behind the last whole line of a file, if there is a file: a kill came while it was written.

    Optuna would append the next line to it, and then read neither.

    Raises:
        SearchError: it is no beginning of a line of a journal.
    """
    if not path.is_file():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return
    if content[end : end + 1] != b"{":
        raise SearchError(f"{path}: damaged behind its byte {end}; take it from the run's output again")
    print(f"{path.name}: {len(content) - end} bytes of a line that was cut short are dropped")
    with whole_file(path) as temporary:
        temporary.write_bytes(content[:end])


def take_over_study(roots, run_id: str, config: Config, folder) -> dict:
    """Copies the study of a mounted earlier run, and the state of the trials that it left, to go on from there.

    Args:
        roots: folders to search for the run.
        run_id: of the earlier run.
        config: settings of the run that goes on; only how many trials there are may differ.
        folder: of the run that goes on.

    Returns:
        The manifest of the earlier run.

    Raises:
        ArtifactError: no such run, or one that is damaged or had other settings.
    """
    source, manifest = find_earlier(roots, run_id, "search", config)
    copy_outputs(source, manifest, (STUDY, f"{STATE}/*"), folder)
    return manifest


# --- trials ---


def every_combination(space: dict, seed: int) -> list[dict]:
    """Every combination of a space's values, in an order that the seed decides, so that a part of them is no corner.

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


def space_distributions(space: dict) -> dict:
    """A space in Optuna's words."""
    return {
        name: FloatDistribution(*values) if isinstance(values, Span) else CategoricalDistribution(values)
        for name, values in space.items()
    }


def draw_parameters(config: Config, trials: list) -> dict:
    """What the next trial tries: by Optuna's tree-structured Parzen estimator, or the next of every combination.

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
        # A sampler of its own: one that had drawn for the trials before would have another state after a restart.
        seed = int(np.random.SeedSequence((config.seed, number, attempt)).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed)
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        copy.add_trials(trials)
        parameters = copy.ask(space_distributions(space)).params
        if parameters not in tried:
            break
    return parameters


def begin_trial(study: optuna.Study, config: Config, folder) -> int | None:
    """Adds a trial to the study and returns its number; None: there are enough."""
    with locked(pathlib.Path(folder) / f".{STUDY}.draw"):  # nobody else may draw before the new trial is there
        trials = study.get_trials(deepcopy=False)
        if len(trials) >= trial_count(config):
            return None
        parameters, distributions = draw_parameters(config, trials), space_distributions(SPACES[config.space])
        # At once and whole, so that no kill leaves a trial of which only half of the settings are drawn.
        trial = optuna.create_trial(state=TrialState.RUNNING, params=parameters, distributions=distributions)
        study.add_trial(trial)
        return len(trials)


def run_trial(study: optuna.Study, number: int, objective, folder: pathlib.Path, has_time) -> bool:
    """Runs a trial, from its beginning or from where it was left, and tells the study what came of it.

    Args:
        study: holds the trial.
        number: of the trial.
        objective: as for `run_search`.
        folder: of the trial's state; removed with its end.
        has_time: function that says whether there is time left.

    Returns:
        Whether the trial has ended; if not, it is left to a later run, for want of time.
    """
    frozen = study.get_trials(deepcopy=False)[number]
    trial = optuna.trial.Trial(study, frozen._trial_id)  # Optuna has no other way to a trial that is there already
    known = len(frozen.intermediate_values)
    print(f"trial {number}: {parameters_text(frozen.params)}{f', goes on after {known} epochs' if known else ''}")
    try:
        if known and trial.should_prune():  # a kill may have come just before this was decided
            raise optuna.TrialPruned
        scores = objective(frozen.params, folder, functools.partial(report_scores, study, trial))
        if scores is None:
            print(f"trial {number}: left to a later run, for want of time", flush=True)
            return False
        for name, values in scores.items():
            trial.set_user_attr(name, values)
        done = study.tell(number, float(np.mean(scores["fold_scores"])))
        print(f"trial {number}: score {done.value:.4f}", flush=True)
    except optuna.TrialPruned:
        done = study.tell(number, state=TrialState.PRUNED)
        print(f"trial {number}: given up at {done.value:.4f} after {len(done.intermediate_values)} epochs", flush=True)
    except Exception as error:
        if not has_time():
            print(f"trial {number}: left to a later run after {error!r}, for want of time", flush=True)
            return False
        trial.set_user_attr("error", repr(error))
        study.tell(number, state=TrialState.FAIL)
        print(f"trial {number}: failed: {error!r}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def parameters_text(parameters: dict) -> str:
    """`"depth=4 lovasz=0.31"`."""
    texts = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in parameters.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items())


def report_scores(study: optuna.Study, trial: optuna.trial.Trial, scores: list[float]):
    """Tells the study the held-out scores of a trial's epochs so far; those that it knows are passed over.

    Raises:
        TrialPruned: the trial is given up.
    """
    known = len(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    for step in range(known, len(scores)):
        trial.report(scores[step], step)
        if trial.should_prune():
            raise optuna.TrialPruned


# --- a run ---


def run_search(config: Config, objective, folder, state_folder, clock, began: float, cards=()) -> list:
    """Runs trials until the study has as many as it shall have, or the time is up.

    Args:
        config: of the search: its space, how many trials, how many workers, the limit.
        objective: function of (parameters, folder, report). It trains with the parameters, keeps in the folder what it
            needs to go on after a kill, calls `report` after each epoch with the held-out scores of all its epochs so
            far, and returns a dict of lists, one number a fold, with `"fold_scores"` among them; or None if its time
            was up. Several workers get it by cloudpickle.
        folder: of the run's outputs; the study is there.
        state_folder: gets a folder for each trial in work.
        clock: function that returns seconds and means the same in every process.
        began: what the clock said when the run began.
        cards: the numbers of the GPUs.

    Returns:
        The errors of the workers that died. Their trials, like all that are not finished, wait for the next run.

    Raises:
        SearchError: the study is damaged, of other values, or in the hands of another run.
    """
    folder, state_folder = pathlib.Path(folder), pathlib.Path(state_folder)
    with hold_study(folder):
        trials = begin_study(folder, config).get_trials(deepcopy=False)
        left = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        for path in state_folder.glob("trial-*"):
            if path not in [trial_folder(state_folder, number) for number in left]:
                shutil.rmtree(path)  # of a trial whose end a kill left untidied
        share = functools.partial(
            run_share, config=config, objective=objective, folder=folder, state_folder=state_folder, clock=clock,
            began=began,
        )  # fmt: skip
        count = min(config.workers or len(cards) or 1, max(1, trial_count(config) - len(trials) + len(left)))
        if count == 1:
            share(left)
            return []
        print(f"{count} trials at once, each in a process of its own{' on a card of its own' if cards else ''}")
        shares = [left[first::count] for first in range(count)]
        show = functools.partial(print, flush=True)
        return list(run_workers(share, shares, list(cards), lambda index, line: show(f"[{index}] {line}")).values())


def run_share(left: list[int], config: Config, objective, folder, state_folder, clock, began):
    """What a worker does: first the trials that an earlier run left to it, then new ones, as long as there is time.

    Args:
        left: the trials' numbers.
        config, objective, folder, state_folder, clock, began: as for `run_search`.
    """
    study = open_study(folder, config)

    def has_time():
        return clock() < began + 60 * config.limit_minutes

    waiting = list(left)
    while has_time():
        number = waiting.pop(0) if waiting else begin_trial(study, config, folder)
        if number is None or not run_trial(study, number, objective, trial_folder(state_folder, number), has_time):
            return


def trial_folder(state_folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where a trial keeps its state."""
    return state_folder / f"trial-{number:04d}"


@contextlib.contextmanager
def hold_study(folder: pathlib.Path):
    """Keeps other runs away from a folder's study, until the block ends or the process dies.

    Raises:
        SearchError: another run is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / f".{STUDY}.run", wait=False))
        except BlockingIOError:
            raise SearchError(f"{folder / STUDY}: another search is at it; wait for it, or end it first") from None
        yield
