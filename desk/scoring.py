"""Scores of training runs at this desk, by their out-of-fold predictions."""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from desk.competitions import competition_of, leaderboard_triples
from desk.errors import ConfigurationError
from desk.paths import AnyPath
from desk.runs import find_run
from desk.score_tables import score_table
from salt.artifacts import Oof, read_oof, verify_run
from salt.description import Competition
from salt.ensembles import mean_oof
from salt.files import whole_file
from salt.levels import (
    OofCounts,
    choose_level_and_area,
    count_oof,
    level_table,
    mean_score,
    nested_choice,
    nested_parts,
)
from salt.postprocess import postprocess
from salt.rle import decode_rles
from salt.scoring import calibrate, expect_leaderboard, score_by_depth, score_oof
from salt.stacks import all_sides
from salt.submission import split_objects


class ScoredRun(NamedTuple):
    """A training run: its folder, its manifest, its out-of-fold predictions, and the competition that they are of."""

    folder: pathlib.Path
    manifest: dict
    oof: Oof
    competition: Competition


class Surroundings(NamedTuple):
    """Tiles and what lies beside them.

    Attributes:
        ids: `[N]`, sorted.
        fold: int `[N]`, in which a tile is held out; -1: a test tile.
        masks: uint8 `[N, H, W]`, 0 where none is known.
        mosaic: int `[N]`, -1 for none.
        neighbours: int `[N, 4]`, see `neighbours_of`.
    """

    ids: np.ndarray
    fold: np.ndarray
    masks: np.ndarray
    mosaic: np.ndarray
    neighbours: np.ndarray


def show_score(names: Sequence[AnyPath], data: AnyPath | None = None, mosaics: AnyPath | None = None) -> dict:
    """Scores a run, or the ensemble of several, and prints it; a single run's figures also go to its score.json.

    Args:
        names: of the runs, see `find_run`.
        data: the competition's folder, for its depths; None: no table by depth.
        mosaics: table that scripts/mosaics.py has written of that competition; None: that of the run, see
            `own_mosaics`.

    Returns:
        As `score_runs`.

    Raises:
        ConfigurationError: mosaics without the competition.
    """
    runs = [open_run(name) for name in names]
    if mosaics is None and data is not None:
        mosaics = own_mosaics(runs[0])
    score = score_runs(runs, mean_oof([run.oof for run in runs]), data, mosaics)
    lines = [score_table(score)]
    if len(runs) == 1:
        path = runs[0].folder / "score.json"
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(score, indent=1) + "\n", encoding="utf-8")
        lines.append(f"\nwritten to {path}")
    print(*lines, sep="\n")
    return score


def score_runs(
    runs: Sequence[ScoredRun],
    oof: Oof,
    data: AnyPath | None = None,
    mosaics: AnyPath | None = None,
    counts: OofCounts | None = None,
) -> dict:
    """All that is known of a run or an ensemble, see `salt.scoring.score_oof`, and what its competition has besides.

    Args:
        runs: the run, or the members of the ensemble.
        oof: its out-of-fold predictions.
        data: the competition's folder, for its depths; None: no table by depth.
        mosaics: table of the competition's slices; None: no leak is shown.
        counts: of the predictions' pixels, if they are known.

    Returns:
        The figures, and `run_id`, `competition` (slug), `metric` (label), `target`, `class_names`, `calibration`. Where
        objects have rows of their own, `objects`, see `score_objects`. Where
        the competition has depths, `depths`; where there are mosaics, or could be, `leak`; where leaderboard scores of
        earlier solutions are known, `leaderboard` and `leaderboard_range`, the scores that they had out of fold.

    Raises:
        ConfigurationError: runs of several competitions.
    """
    competition = one_competition(runs)
    counts = count_oof(oof) if counts is None else counts
    score = score_oof(counts, competition.metric)
    found = {
        "run_id": " + ".join(run.manifest["run_id"] for run in runs),
        "competition": competition.slug,
        "metric": competition.metric.label,
        "target": competition.target,
        "class_names": list(competition.classes),
        **score,
        "calibration": calibrate(counts),
    }
    if competition.train_table.objects and len(competition.classes) == 1:
        found["objects"] = object_score(data, oof, counts, competition)
    if competition.depths_table is not None:
        found["depths"] = None if data is None else depth_table(data, counts, competition)
    if competition.find_mosaics is not None:
        found["leak"] = None if mosaics is None else leak_table(data, mosaics, oof, competition)
    elif mosaics is not None:
        raise ConfigurationError(f"--mosaics: {competition.slug} has none; they are of tiles cut out of seismic slices")
    if triples := leaderboard_triples(runs[0].manifest):
        found["leaderboard"] = expect_leaderboard(score["nested_score"], score["nested_standard_error"], triples)
        found["leaderboard_range"] = [choose(triple[0] for triple in triples) for choose in (min, max)]
    return found


def own_mosaics(run: ScoredRun) -> pathlib.Path | None:
    """The table of the slices that a run has rebuilt, for its folds or for its padding; None if it has not."""
    path = run.folder / "mosaics.csv"
    return path if path.is_file() else None


def one_competition(runs: Sequence[ScoredRun]) -> Competition:
    """The competition that all runs are of.

    Raises:
        ConfigurationError: they are of several.
    """
    for run in runs[1:]:
        if run.competition.slug != runs[0].competition.slug:
            raise ConfigurationError(
                f"{run.folder.name} is of {run.competition.slug}, {runs[0].folder.name} of {runs[0].competition.slug}; "
                "take runs of one competition"
            )
    return runs[0].competition


def object_score(data: AnyPath | None, oof: Oof, counts: OofCounts, competition: Competition) -> dict:
    """The score over objects, see `score_objects`, and `touching`, whether true objects that touch count as one.

    They do without the competition's folder, whose table has a row for each object.
    """
    from salt.competition import find_competition
    from salt.data import read_train_table
    from salt.objects import score_objects

    def hanging_together(tile: int) -> np.ndarray:
        return split_objects(oof.masks[tile])

    def of_table(tile: int) -> np.ndarray:
        rles, by_rows = texts[str(oof.ids[tile])], competition.rle_by_rows
        height, width = all_sides(oof.masks)[tile].tolist()
        return decode_rles(rles, (height, width), [oof.ids[tile]] * len(rles), by_rows, competition.rle_first)

    objects_of = hanging_together
    if data is not None:
        ids, found = read_train_table(find_competition([data], competition))
        texts = {tile: each[0] for tile, each in zip(ids.tolist(), found, strict=True)}
        if missing := sorted(set(oof.ids.tolist()) - set(texts)):
            raise ConfigurationError(f"--data {data}: has no tile {missing[0]}; give what the run was trained on")
        objects_of = of_table
    return {**score_objects(oof, counts, competition.metric, objects_of), "touching": data is None}


def depth_table(data: AnyPath, oof: OofCounts, competition: Competition) -> list[dict]:
    """The score by depth, with the depths of the competition in the folder `data`; without its depths.csv, no rows."""
    from salt.competition import find_competition
    from salt.data import read_depths  # OpenCV, which scores without depths do not need

    files = find_competition([data], competition)
    if files.depths_table is None:
        return []
    return score_by_depth(oof, competition.metric, read_depths(files, oof.ids))


def leak_table(data: AnyPath | None, mosaics: AnyPath, oof: Oof, competition: Competition) -> dict:
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
    from salt.folds import find_leaks  # scikit-learn, which other scores do not need
    from salt.rules import measure_rules

    if data is None:
        raise ConfigurationError("--mosaics needs --data DIR, the competition's folder, which tells training tiles")
    metric, around = competition.metric, read_surroundings(data, mosaics, oof, competition)
    held = np.searchsorted(around.ids, oof.ids)
    leaks = find_leaks(around.fold, around.mosaic, around.neighbours)
    scores_at = level_table(oof, metric)
    nested = nested_choice(scores_at, nested_parts(oof, seed=0), metric)[0]

    def score(inside: np.ndarray) -> float | None:
        return mean_score(nested[inside], metric) if inside.any() else None

    predicted, scored = np.zeros_like(around.masks), np.isin(np.arange(len(around.ids)), held)
    predicted[held] = postprocess(oof.probabilities, *choose_level_and_area(scores_at, metric))
    return {
        "rules": measure_rules(predicted, around.masks, around.fold, around.neighbours, scored),
        "placed": float((around.mosaic[held] >= 0).mean()),
        **{
            name: {"share": float(known.mean()), "score": score(known), "others": score(~known)}
            for name, known in zip(("mates", "neighbours"), (leak[held] for leak in leaks), strict=True)
        },
    }


def read_surroundings(
    data: AnyPath, mosaics: AnyPath, oof: Oof, competition: Competition, test_ids: Sequence[str] | np.ndarray = ()
) -> Surroundings:
    """The tiles that were trained on or predicted, and those beside them.

    Args:
        data: the competition's folder, which tells the training tiles and their masks.
        mosaics: table that scripts/mosaics.py has written.
        oof: out-of-fold predictions.
        test_ids: of test tiles.
    """
    from salt.competition import find_competition
    from salt.data import decode_texts, read_train_table
    from salt.mosaics import neighbours_of, read_mosaics

    train_ids, texts = read_train_table(find_competition([data], competition))
    ids = np.array(sorted({*train_ids.tolist(), *oof.ids.tolist(), *np.asarray(test_ids, str).tolist()}))
    held, trained = np.searchsorted(ids, oof.ids), np.searchsorted(ids, train_ids)
    fold = np.full(len(ids), -1)
    # Tiles of folds that were not trained are in none here: every fold has been trained on them.
    fold[trained] = int(oof.fold.max()) + 1
    fold[held] = oof.fold
    masks = np.zeros((len(ids), *oof.masks.shape[1:]), np.uint8)
    masks[trained] = decode_texts(texts, train_ids, competition)
    masks[held] = oof.masks
    table = read_mosaics(pathlib.Path(mosaics), ids)
    return Surroundings(ids, fold, masks, table.mosaic, neighbours_of(table))


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
    trained, held = set(manifest["config"].get("train_folds", [])), set(oof.fold.tolist())
    if trained != held:
        raise ValueError(
            f"{folder / 'oof.npz'}: has tiles of the folds {sorted(held)}, but {sorted(trained)} were trained "
            "(train_folds in manifest.json); a fold without tiles has no score: train it anew, or fetch the run again"
        )
    return ScoredRun(folder, manifest, oof, competition_of(manifest))
