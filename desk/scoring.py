"""Scores of training runs at this desk, by their out-of-fold predictions."""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from desk.competitions import load_competition
from desk.errors import ConfigurationError
from desk.paths import AnyPath
from desk.runs import find_run
from desk.score_tables import score_table
from salt.artifacts import Oof, read_oof, verify_run
from salt.ensembles import mean_oof
from salt.files import whole_file
from salt.postprocess import postprocess
from salt.rle import decode_rles
from salt.scoring import (
    calibrate,
    choose_level_and_area,
    expect_leaderboard,
    level_table,
    mean_precision,
    nested_choice,
    nested_parts,
    score_by_depth,
    score_oof,
)


class ScoredRun(NamedTuple):
    """A training run: its folder, its manifest and its out-of-fold predictions."""

    folder: pathlib.Path
    manifest: dict
    oof: Oof


def show_score(names: Sequence[AnyPath], data: AnyPath | None = None, mosaics: AnyPath | None = None) -> dict:
    """Scores a run, or the ensemble of several, and prints it; a single run's figures also go to its score.json.

    Args:
        names: of the runs, see `find_run`.
        data: the competition's folder, for its depths; None: no table by depth.
        mosaics: table that scripts/mosaics.py has written of that competition; None: no leak is shown.

    Returns:
        As `score_runs`.

    Raises:
        ConfigurationError: mosaics without the competition.
    """
    runs = [open_run(name) for name in names]
    score = score_runs([run.manifest for run in runs], [run.oof for run in runs], data, mosaics)
    lines = [score_table(score)]
    if len(runs) == 1:
        path = runs[0].folder / "score.json"
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(score, indent=1) + "\n", encoding="utf-8")
        lines.append(f"\nwritten to {path}")
    print(*lines, sep="\n")
    return score


def score_runs(
    manifests: Sequence[dict], oofs: Sequence[Oof], data: AnyPath | None = None, mosaics: AnyPath | None = None
) -> dict:
    """All that is known of a run or an ensemble: see `salt.scoring.score_oof`; and `run_id` and the further tables.

    Args:
        manifests: of the runs.
        oofs: their out-of-fold predictions, in the same order.
        data: the competition's folder, for its depths; None: no table by depth.
        mosaics: as for `show_score`.
    """
    oof = mean_oof(list(oofs))
    score = score_oof(oof)
    return {
        "run_id": " + ".join(manifest["run_id"] for manifest in manifests),
        **score,
        "depths": None if data is None else depth_table(data, oof),
        "leak": None if mosaics is None else leak_table(data, mosaics, oof),
        "calibration": calibrate(oof),
        "leaderboard": expect_leaderboard(score["nested_score"], score["nested_standard_error"]),
    }


def depth_table(data: AnyPath, oof: Oof) -> list[dict]:
    """The score by depth, with the depths of the competition in the folder `data`; without its depths.csv, no rows."""
    from salt.competition import find_competition
    from salt.data import read_depths  # OpenCV, which scores without depths do not need

    files = find_competition([data], load_competition())
    return [] if files.depths_table is None else score_by_depth(oof, read_depths(files, oof.ids))


def leak_table(data: AnyPath | None, mosaics: AnyPath, oof: Oof) -> dict:
    """What the networks have seen of the tiles that they are scored on, and the score of those of which they have not.

    Args:
        data: the competition's folder: only its training tiles are trained on.
        mosaics: table that scripts/mosaics.py has written.
        oof: out-of-fold predictions.

    Returns:
        `placed`: share of the tiles that lie in a mosaic; and for `mates` (a tile of the mosaic is trained on) and
        `neighbours` (one of the four neighbours is) a dict of `share`, and the nested `score` of such tiles (None
        without any) and of all `others`; and `rules`, see `measure_rules`.

    Raises:
        ConfigurationError: no competition is given.
    """
    if data is None:
        raise ConfigurationError("--mosaics needs --data DIR, the competition's folder, which tells training tiles")
    from salt.competition import find_competition
    from salt.data import read_id_table
    from salt.folds import find_leaks  # scikit-learn, which other scores do not need
    from salt.mosaics import neighbours_of, read_mosaics
    from salt.rules import measure_rules

    competition = load_competition()
    files = find_competition([data], competition)
    train_ids, rles = read_id_table(files.train_table, competition.train_table)
    ids = np.array(sorted({*train_ids.tolist(), *oof.ids.tolist()}))
    held = np.searchsorted(ids, oof.ids)
    # Tiles of folds that were not trained are in none here: every fold has been trained on them.
    fold = np.full(len(ids), int(oof.fold.max()) + 1)
    fold[held] = oof.fold
    table = read_mosaics(pathlib.Path(mosaics), ids)
    neighbours = neighbours_of(table)
    leaks = find_leaks(fold, table.mosaic, neighbours)
    precision = nested_choice(level_table(oof), nested_parts(oof, seed=0))[0]

    def score(inside: np.ndarray) -> float | None:
        return mean_precision(precision[inside]) if inside.any() else None

    masks = np.zeros((len(ids), *oof.masks.shape[1:]), np.uint8)
    masks[np.searchsorted(ids, train_ids)] = decode_rles(rles, shape=masks.shape[1:], ids=train_ids)
    masks[held] = oof.masks
    predicted, scored = np.zeros_like(masks), np.isin(np.arange(len(ids)), held)
    predicted[held] = postprocess(oof.probabilities, *choose_level_and_area(level_table(oof)))
    return {
        "rules": measure_rules(predicted, masks, fold, neighbours, scored),
        "placed": float((table.mosaic[held] >= 0).mean()),
        **{
            name: {"share": float(known.mean()), "score": score(known), "others": score(~known)}
            for name, known in zip(("mates", "neighbours"), (leak[held] for leak in leaks), strict=True)
        },
    }


def open_run(name: AnyPath) -> ScoredRun:
    """The training run that a person means (see `find_run`), checked against its manifest.

    Raises:
        ConfigurationError: there is no such run.
        ValueError: it is damaged, or has no out-of-fold predictions.
    """
    folder = find_run(name).folder
    manifest = verify_run(folder)
    if "oof.npz" not in manifest["files"]:
        present = ", ".join(manifest["files"]) or "nothing"
        raise ValueError(f"{folder}: no oof.npz among its files ({present}); score a run of the train kernel")
    oof = read_oof(folder / "oof.npz")
    trained, held = set(manifest["config"]["train_folds"]), set(oof.fold.tolist())
    if trained != held:
        raise ValueError(
            f"{folder / 'oof.npz'}: has tiles of the folds {sorted(held)}, but {sorted(trained)} were trained "
            "(train_folds in manifest.json); a fold without tiles has no score: train it anew, or fetch the run again"
        )
    return ScoredRun(folder, manifest, oof)
