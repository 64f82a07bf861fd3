"""A training run as the predict kernel and the desk read it: in one folder, or in several that hold its folds.

Folds that were trained apart, each by a kernel of its own, are one run only if they had the same settings and each of
them is there once.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from salt.artifacts import ArtifactError, Oof, check_oof, read_oof, verify_run
from salt.config import Config, config_from_dict, config_to_dict
from salt.resume import differing_settings
from salt.stacks import join_stacks

PART_SETTINGS = ("train_folds", "minutes")  # in which the parts of a run may differ: each part has a share of them


class RunPart(NamedTuple):
    """A train kernel's output: all of a run, or some of its folds."""

    config: Config
    run_id: str
    folder: pathlib.Path


class TrainedRun(NamedTuple):
    """A training run.

    Attributes:
        config: its settings, with the folds and the minutes of all its parts.
        run_ids: what its parts are called, in the order of their folds; of a run in one folder, its own name.
        weights: {fold: the file of its weights}, in the order of the folds.
        oof: the out-of-fold predictions of all its folds.
    """

    config: Config
    run_ids: list[str]
    weights: dict[int, pathlib.Path]
    oof: Oof

    def mosaics(self) -> pathlib.Path:
        """The table of the larger pictures that the run, or its first part, has rebuilt, if it has."""
        return next(iter(self.weights.values())).with_name("mosaics.csv")


def read_trained_run(folders: Iterable[str | pathlib.Path], folds: Iterable[int] | None = None) -> TrainedRun:
    """Reads a training run, after checking every file of it against its manifest.

    Args:
        folders: outputs of the train kernel: of the run, or of its parts.
        folds: which have to be there; None: whichever are.

    Raises:
        ArtifactError: a folder that does not match its manifest or whose run has not reached its end, parts with
            different settings, a fold in two of them, or one in none.
    """
    parts: list[RunPart] = []
    for folder in map(pathlib.Path, folders):
        manifest = verify_run(folder)
        if not manifest.get("finished", True):
            raise ArtifactError(f"{folder}: run {manifest['run_id']} has not reached its end; resume it first")
        parts.append(RunPart(config_from_dict(manifest["config"]), manifest["run_id"], folder))
    parts.sort(key=lambda part: part.config.train_folds)
    check_settings_agree(parts)
    weights: dict[int, pathlib.Path] = {}
    for config, run_id, folder in parts:
        for fold in config.train_folds:
            if fold in weights:
                raise ArtifactError(f"fold {fold} is in two of the parts, the second is {run_id}; mount each fold once")
            weights[fold] = folder / f"fold{fold}.weights.h5"
    if absent := sorted(set(weights if folds is None else folds) - set(weights)):
        held = ", ".join(map(str, weights))
        raise ArtifactError(f"folds {', '.join(map(str, absent))} are in none of the parts, which have {held}")
    minutes = sum(part.config.minutes for part in parts)
    config = dataclasses.replace(parts[0].config, train_folds=tuple(weights), minutes=minutes)
    oof = join_oof([part.folder for part in parts])
    return TrainedRun(config, [part.run_id for part in parts], weights, oof)


def check_settings_agree(parts: list[RunPart]) -> None:
    """Raises `ArtifactError` if several parts differ in settings that decide about results."""
    first, run_id = parts[0].config, parts[0].run_id
    for config, other, _ in parts[1:]:
        names = [name for name in differing_settings(first, config_to_dict(config)) if name not in PART_SETTINGS]
        if names:
            different = "; ".join(f"{name}={getattr(config, name)!r}, not {getattr(first, name)!r}" for name in names)
            raise ArtifactError(f"{other} is no part of the run of {run_id}: it has {different}")


def join_oof(folders: list[pathlib.Path]) -> Oof:
    """The out-of-fold predictions in several folders as one; a tile that is in two of them is refused."""
    found = [read_oof(folder / "oof.npz") for folder in folders]
    joined = Oof(*(functools.reduce(join_stacks, arrays) for arrays in zip(*found, strict=True)))
    check_oof(joined, " and ".join(str(folder / "oof.npz") for folder in folders))
    return joined
