"""Cross-validation: trains the folds of a run, one after the other or in parallel, and predicts what each holds out.

A run that was killed, or ran out of time, is resumed by the same call: finished folds are read back, unfinished ones
resume after their last epoch.
"""

import dataclasses
import functools
import json
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from salt.artifacts import (
    ArtifactError,
    Oof,
    read_oof,
    read_probabilities,
    verify_run,
    write_oof,
    write_probabilities,
)
from salt.cluster import open_cluster
from salt.cluster_check import ClusterError, existing_paths
from salt.config import Config, config_to_dict, settle_precision
from salt.files import whole_file
from salt.folds import assign_folds, stratification_classes
from salt.inference import predict_run
from salt.machine import visible_gpus
from salt.parallel import WorkerError, run_workers
from salt.postprocess import choose_pseudo_labels
from salt.resume import differing_settings
from salt.schedule import Budget, TrainingPlan, read_plan
from salt.stacks import Stack, join_stacks, subset
from salt.tiles import Tiles, shown_images
from salt.training import FoldJob, OutOfTime, TrainingError, fit_fold

SUMMED_TILES = 32  # of a stack of images, by whose pixels a run knows its tiles again


class Outcome(NamedTuple):
    """What a run has produced.

    Attributes:
        oof: the out-of-fold predictions of the finished folds; None if there are none.
        history: one row an epoch and fold, those of unfinished folds among them.
        unfinished: the folds that ran out of time or failed.
        failure: the error of a fold that failed, to be raised when all finished work has been saved; or None.
    """

    oof: Oof | None
    history: pd.DataFrame
    unfinished: list[int]
    failure: TrainingError | None


def fit_folds(
    config: Config,
    tiles: Tiles,
    folder: str | pathlib.Path,
    state_folder: str | pathlib.Path,
    weights: str | None = None,
    pseudo: Tiles | None = None,
    clock: Callable[[], float] | None = None,
    began: float | None = None,
    watch: Callable[[], None] | None = None,
    callbacks: Callable[[int], Sequence[keras.callbacks.Callback]] | None = None,
    transform: Callable[..., dict] | None = None,
    test: Tiles | None = None,
) -> Outcome:
    """Trains the folds that the configuration names and predicts what each of them holds out.

    With several GPUs, or where `config.workers` says so, several folds are trained in parallel, each worker's in a
    process of its own; this process then leaves the GPUs alone. With `config.cluster` they are trained on other
    machines, which must see both folders. The other folds go on when one fails.

    A call that was killed, or whose folds ran out of time, is repeated with the same arguments: finished folds are read
    back, unfinished ones resume after their last epoch. Where a run has minutes, the repetition plans nothing anew: it
    keeps to the plans that it finds, and further folds take as many steps.

    Args:
        config: the run's settings.
        tiles: training tiles with masks.
        folder: gets `fold<k>.weights.h5`, `history.csv`, `courses.json` (the folds' plans) and `oof.npz`; where larger
            pictures were rebuilt, `mosaics.csv`.
        state_folder: keeps the checkpoints; of no use when all folds are finished.
        weights: of a pre-trained encoder, as for `build_model`.
        pseudo: further tiles to train on, from `read_pseudo_labels`.
        clock: function that returns seconds and means the same in every process of a machine, such as
            `time.monotonic`; needed where `config.minutes` count; None: `config.limit_minutes` does not count either.
        began: what the clock said when the run began; None: now.
        watch: as for `FoldJob`; a fold whose training it ends has failed, and what it raised is the cause.
        callbacks: as for `FoldJob`: a function of the held-out fold that gives further Keras callbacks.
        transform: as for `TileBatches`: an augmentation of albumentations' kind.
        test: test tiles: larger pictures are rebuilt from all that is there, see `Competition.find_mosaics`.

    Returns:
        The out-of-fold predictions, the history, and what is not finished.

    Raises:
        ArtifactError: `state_folder` is another run's, with other settings or tiles.
        TrainingError: minutes without a clock; or no fold came to the end of its first epoch.
        ClusterError: the cluster cannot be used; nothing was begun.
    """
    folder, state_folder = pathlib.Path(folder), pathlib.Path(state_folder)
    claim_state(state_folder, config, tiles, pseudo)
    table = state_folder / "mosaics.csv"
    fold = split_tiles(config, tiles, state_folder, test)
    find = tiles.competition.find_neighbours if config.padding == "neighbours" else None
    around = None if find is None else find(config, tiles, test, fold, table)
    files = {held_out: fold_files(folder, state_folder, held_out) for held_out in config.train_folds}
    if config.minutes and not config.steps:
        if clock is None:
            raise TrainingError(f"minutes={config.minutes}: give a clock, such as time.monotonic, to plan by")
        if plans := read_plans(files):
            config = dataclasses.replace(config, steps=list(plans.values())[-1].end)
    for held_out, each in files.items():
        if each.finished():
            print(f"fold {held_out}: finished before")
    to_do = [held_out for held_out, each in files.items() if not each.finished()]
    if clock is not None and began is None:
        began = clock()
    job = FoldJob(config, tiles, fold, weights, pseudo, clock, began, watch, callbacks, transform, around)
    failure = None
    if to_do and config.cluster:
        failure = fit_on_cluster(job, to_do, folder, state_folder)
    elif to_do:
        fit = functools.partial(fit_share, job=job, folder=folder, state_folder=state_folder)
        failure = fit_in_parallel(fit, to_do, config.workers)
    unfinished = [held_out for held_out, each in files.items() if not each.finished()]
    rows = [
        {"fold": held_out, "epoch": epoch, **logs}
        for held_out, each in files.items()
        for epoch, logs in enumerate(each.history(), start=1)
    ]
    if not rows:
        raise failure or TrainingError(f"limit_minutes={config.limit_minutes}: there is no time for an epoch")
    history = pd.DataFrame(rows)
    with whole_file(folder / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    write_plans(folder / "courses.json", files)
    if table.is_file() and folder != state_folder:
        with whole_file(folder / table.name) as temporary:
            temporary.write_bytes(table.read_bytes())
    finished = {held_out: each for held_out, each in files.items() if held_out not in unfinished}
    return Outcome(write_finished(folder, tiles, fold, finished), history, unfinished, failure)


def split_tiles(config: Config, tiles: Tiles, state_folder: pathlib.Path, test: Tiles | None = None) -> np.ndarray:
    """The fold of each training tile, as the settings say. int8 `[N]`.

    Mosaics, which the settings may need for the folds or for the padding, are kept in the state folder: a fold that is
    resumed must not be trained on what it holds out.

    Raises:
        FoldError, MosaicError: the tiles cannot be split so.
        DescriptionError: they are cut from nothing that could be rebuilt.
    """
    groups, find = tiles.groups(), tiles.competition.find_mosaics
    tiles.competition.check_mosaics(config.split, config.padding)
    if find is not None and (config.split == "mosaic" or config.padding == "neighbours"):
        mosaic = find(state_folder / "mosaics.csv", tiles, test)
        groups = mosaic if config.split == "mosaic" else groups
    classes = stratification_classes(tiles.known_masks(), tiles.blank())
    return assign_folds(classes, config.folds, config.seed, groups)


def fit_share(
    share: tuple[int, ...], job: FoldJob, folder: pathlib.Path, state_folder: pathlib.Path, rounds: int = 0
) -> None:
    """Trains some folds, one after the other, until the time is up, and predicts what each of them holds out.

    This is what a worker process runs; its results are files, see `FoldFiles`. When a fold fails, the next one follows,
    unless somebody watches (`FoldJob.watch`).

    Args:
        share: the folds.
        job: the settings, the tiles and their folds.
        folder: of the run's outputs.
        state_folder: of the checkpoints.
        rounds: how many folds one after the other the rest of the time is for; 0: those of the share.

    Raises:
        TrainingError: names the folds that failed; its cause is what went wrong in the first of them.
    """
    config = job.config
    keras.mixed_precision.set_dtype_policy(settle_precision(config).precision)
    budget = None
    if job.clock is not None:
        budget = Budget(config.minutes, rounds or len(share), job.clock, job.began, config.limit_minutes)
    errors: list[tuple[str, Exception]] = []
    for held_out in share:
        if budget is not None and not budget.has_time():
            print(f"fold {held_out}: not begun, out of time")
            continue
        try:
            fit_and_predict(job, held_out, folder, state_folder, budget)
        except OutOfTime as error:
            print(f"fold {held_out}: {error}, out of time")
            continue
        except Exception as error:
            errors.append((f"fold {held_out} failed: {error!r}", error))
            print(errors[-1][0], flush=True)
            if job.watch is not None:  # it may have ended the training of all folds
                break
            if budget is not None:
                budget.leave_fold()
            continue
        if budget is not None:
            budget.finish_fold()
    if errors:
        raise TrainingError("\n".join(text for text, _ in errors)) from errors[0][1]


def fit_and_predict(
    job: FoldJob, held_out: int, folder: pathlib.Path, state_folder: pathlib.Path, budget: Budget | None
) -> None:
    """Trains a fold, predicts what it holds out, and writes both.

    Args:
        job, folder, state_folder: as for `fit_share`.
        held_out: the fold.
        budget: the run's time; None: there is no limit.

    Raises:
        OutOfTime: the limit of the budget is near; the checkpoint is kept.
        DivergedError: the loss is not finite; the last good checkpoint is kept.
    """
    config, tiles = job.config, job.tiles
    files, held = fold_files(folder, state_folder, held_out), job.fold == held_out
    print(f"fold {held_out}: {int((~held).sum())} tiles, {int(held.sum())} held out")
    network, history = fit_fold(job, held_out, files.state, budget)
    images = shown_images(tiles, held, job.around, held_out)
    predicted = predict_run([network], images, tiles.blank()[held], config)
    with whole_file(files.weights) as temporary:
        network.save_weights(temporary)
    write_probabilities(files.probabilities, tiles.ids[held], predicted)
    with whole_file(files.log) as temporary:
        temporary.write_text(json.dumps(history), encoding="utf-8")
    for path in [*files.state.glob("epoch-*"), *files.state.glob("snapshot-*")]:
        path.unlink()  # with the optimizer's averages it is several times the size of the weights


def fit_in_parallel(fit: Callable[[tuple[int, ...]], None], folds: list[int], workers: int) -> TrainingError | None:
    """Trains folds in as many processes as there are GPUs or `workers` says, or in this one if that is one.

    Args:
        fit: `fit_share` of the folds that it is given.
        folds: to train.
        workers: `Config.workers`.

    Returns:
        None, or the error that names each fold which failed, and why.
    """
    gpus = visible_gpus() if len(folds) > 1 and workers != 1 else []
    count = min(workers or len(gpus) or 1, len(folds))
    if count == 1:
        try:
            fit(tuple(folds))
        except TrainingError as error:
            return error
        return None
    shares = [tuple(folds[first::count]) for first in range(count)]
    print(f"{count} folds at once, each in a process of its own{' on a GPU of its own' if gpus else ''}")
    lines = FoldLines(shares)
    return lines.describe(run_workers(fit, shares, gpus, lines.show))


def fit_on_cluster(
    job: FoldJob, folds: list[int], folder: pathlib.Path, state_folder: pathlib.Path
) -> TrainingError | None:
    """Trains folds on a cluster, one task a fold; they resume from their checkpoints, on whatever machine.

    Args:
        job: the settings, the tiles and their folds.
        folds: to train.
        folder, state_folder: as for `fit_share`; all machines see them.

    Returns:
        None, or the error that names each fold which failed, and why.

    Raises:
        ClusterError: the cluster cannot be used.
    """
    files = existing_paths(job.weights)
    if files:
        job = dataclasses.replace(job, weights=files[0])
    with open_cluster(job.config.cluster, folder, files, job.config.gpu) as cluster:
        if cluster.unshared:
            raise ClusterError(cluster.unshared)
        # Each fold, with the number of folds that follow one another from it on.
        tasks = [(held_out, math.ceil((len(folds) - index) / cluster.places)) for index, held_out in enumerate(folds)]
        fit = functools.partial(fit_task, job=job, folder=folder.resolve(), state_folder=state_folder.resolve())
        lines = FoldLines([(held_out,) for held_out in folds])
        return lines.describe(cluster.run(fit, tasks, job.clock, job.began or 0.0, lines.show))


def fit_task(
    task: tuple[int, int], passed: float, job: FoldJob, folder: pathlib.Path, state_folder: pathlib.Path
) -> None:
    """`fit_share` of one fold on another machine, whose clock began elsewhere.

    Args:
        task: the fold, and how many follow each other from it on.
        passed: seconds since the run began.
        job, folder, state_folder: as for `fit_share`.
    """
    held_out, rounds = task
    if fold_files(folder, state_folder, held_out).finished():
        return  # a task is repeated, too, when its worker is lost before it has told the scheduler that it ended
    if job.clock is not None:
        job = dataclasses.replace(job, began=job.clock() - passed)
    fit_share((held_out,), job, folder, state_folder, rounds)


class FoldLines:
    """Shows lines of several processes, each with the fold that it is about.

    Args:
        shares: the folds of each process.
    """

    def __init__(self, shares: Sequence[tuple[int, ...]]):
        self.current = [share[0] for share in shares]  # the fold that each process is training

    def show(self, index: int, line: str) -> None:
        """Prints a line of a process."""
        if found := re.match(r"fold (\d+)", line):
            self.current[index] = int(found[1])
        else:
            line = f"fold {self.current[index]}  {line}"
        print(line, flush=True)

    def describe(self, errors: dict[int, WorkerError]) -> TrainingError | None:
        """None, or an error that names each fold which failed, and why.

        Args:
            errors: of the processes that died, by index.
        """
        if not errors:
            return None
        failed = {index: re.search(r"TrainingError: fold (\d+) failed", str(error)) for index, error in errors.items()}
        named = {index: found[1] if found else self.current[index] for index, found in failed.items()}
        return TrainingError("\n".join(f"fold {named[index]}: {error}" for index, error in errors.items()))


# --- a fold's files ---


class FoldFiles(NamedTuple):
    """Where a fold's results and its checkpoints are.

    Attributes:
        weights: of the trained network.
        probabilities: of the held-out tiles.
        log: the history, the last of the three to be written: with it the fold is finished.
        state: folder of the checkpoint and the plan.
    """

    weights: pathlib.Path
    probabilities: pathlib.Path
    log: pathlib.Path
    state: pathlib.Path

    def finished(self) -> bool:
        """Whether the fold is trained and its held-out tiles are predicted."""
        return self.weights.is_file() and self.probabilities.is_file() and self.log.is_file()

    def history(self) -> list[dict]:
        """The logs of the epochs so far."""
        logs = [self.log, *sorted(self.state.glob("epoch-*.json"), reverse=True)]
        return next((json.loads(log.read_text(encoding="utf-8")) for log in logs if log.is_file()), [])


def fold_files(folder: str | pathlib.Path, state_folder: str | pathlib.Path, held_out: int) -> FoldFiles:
    """The files of a fold of the run in `folder`."""
    state = pathlib.Path(state_folder) / f"fold{held_out}"
    return FoldFiles(
        weights=pathlib.Path(folder) / f"fold{held_out}.weights.h5",
        probabilities=state.with_suffix(".npz"),
        log=state.with_suffix(".json"),
        state=state,
    )


def read_plans(files: dict[int, FoldFiles]) -> dict[int, TrainingPlan]:
    """The plan of each fold that has one."""
    paths = {held_out: each.state / "plan.json" for held_out, each in files.items()}
    return {held_out: read_plan(path) for held_out, path in paths.items() if path.is_file()}


def write_plans(path: pathlib.Path, files: dict[int, FoldFiles]) -> None:
    """Writes the plan of each fold that has one as JSON."""
    plans = {held_out: plan._asdict() for held_out, plan in read_plans(files).items()}
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(plans) + "\n", encoding="utf-8")


def write_finished(folder: pathlib.Path, tiles: Tiles, fold: np.ndarray, files: dict[int, FoldFiles]) -> Oof | None:
    """Writes `oof.npz` from the predictions of the finished folds, if there are any, and returns what it holds."""
    if not files:
        return None
    seen, masks = np.isin(fold, list(files)), subset(tiles.known_masks(), np.isin(fold, list(files)))
    predicted = {held_out: read_probabilities(each.probabilities)[1] for held_out, each in files.items()}
    order = np.concatenate([np.flatnonzero(fold[seen] == held_out) for held_out in files]).argsort()
    probabilities = subset(functools.reduce(join_stacks, predicted.values()), order)
    write_oof(folder / "oof.npz", Oof(tiles.ids[seen], fold[seen], probabilities, masks))
    return read_oof(folder / "oof.npz")


def read_pseudo_labels(config: Config, test: Tiles, folder: str | pathlib.Path) -> Tiles:
    """The test tiles on which an earlier run is confident, with its predictions as their masks.

    The models of the earlier run were trained on all training tiles, so that their predictions carry information about
    each fold: the out-of-fold score of a run that is trained on them is too high. Score such a run on other tiles.

    Args:
        config: the run's settings.
        test: test tiles.
        folder: output of the predict kernel on these tiles; checked against its manifest.

    Raises:
        ArtifactError: the folder does not match its manifest, or is of other tiles.
        TrainingError: the earlier run is confident on no tile.
    """
    manifest = verify_run(folder)
    ids, probabilities = read_probabilities(pathlib.Path(folder) / "probabilities.npz")
    if not np.array_equal(ids, test.ids):
        raise ArtifactError(f"{folder}: predictions of {len(ids)} tiles that are not these {len(test.ids)} test tiles")
    masks, sure = choose_pseudo_labels(
        probabilities, manifest["level"], manifest["minimum_area"], config.pseudo_confidence
    )
    sure &= ~test.blank()
    if not sure.any():
        raise TrainingError(
            f"pseudo_confidence={config.pseudo_confidence}: {manifest['run_id']} is that sure of none of the "
            f"{len(ids)} test tiles; lower it"
        )
    print(f"{sure.sum()} of {len(ids)} test tiles come with the predictions of {manifest['run_id']}")
    images, known = subset(test.images, sure), subset(masks, sure)
    return Tiles(test.ids[sure], images, known, test.depths[sure], test.competition)


def claim_state(state_folder: str | pathlib.Path, config: Config, tiles: Tiles, pseudo: Tiles | None = None) -> None:
    """Notes in a state folder which settings and tiles its checkpoints belong to.

    Raises:
        ArtifactError: the folder is that of a run with others.
    """
    arrays = [tiles.images] if pseudo is None else [tiles.images, pseudo.images, pseudo.known_masks()]
    known = [subset(array, slice(SUMMED_TILES)) if isinstance(array, Stack) else array[None] for array in arrays]
    pixels = [sum(int(each.sum(dtype=np.int64)) for each in array) for array in known]
    path, shown = pathlib.Path(state_folder) / "run.json", {"tiles": len(tiles.ids), "pixels": pixels}
    if not path.is_file():
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps({"config": config_to_dict(config), **shown}), encoding="utf-8")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    other = differing_settings(config, found["config"])
    if any(found[key] != value for key, value in shown.items()):
        other.append("the tiles")
    if other:
        raise ArtifactError(
            f"{state_folder} belongs to a run that differs in {', '.join(other)}; remove it or choose another folder"
        )
