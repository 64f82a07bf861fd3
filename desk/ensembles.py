"""One run of several: their predictions, averaged with the weights that score best out of fold."""

import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from desk.runs import find_run, new_run_id
from desk.score_tables import verdict
from desk.scoring import one_competition, open_run
from salt.artifacts import (
    Oof,
    read_probabilities,
    verify_run,
    write_manifest,
    write_oof,
    write_probabilities,
)
from salt.config import config_from_dict
from salt.description import Competition
from salt.ensembles import Ensemble, blend_tiles, build_ensemble
from salt.levels import OfClasses, choose_level_and_area, level_table
from salt.metrics import Metric
from salt.postprocess import postprocess
from salt.scoring import compare_oof, score_oof
from salt.submission import write_submission


def make_ensemble(runs: Sequence, predictions: Sequence, ranks: bool, out: pathlib.Path) -> pathlib.Path:
    """Builds an ensemble, tells about it, and writes it as a run.

    Args:
        runs: of training, see `find_run`.
        predictions: predict runs, one of each, or none.
        ranks: average ranks instead of probabilities.
        out: where the new run's folder is made.

    Returns:
        That folder; it is there when the run is whole.

    Raises:
        ConfigurationError, ValueError: a run that does not exist, is damaged, or does not fit the others.
    """
    opened = [open_run(run) for run in runs]
    competition = one_competition(opened)
    manifests, oofs = [run.manifest for run in opened], [run.oof for run in opened]
    names = [manifest["run_id"] for manifest in manifests]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)}: given more than once; its weight is chosen, it needs no help")
    predicted = read_predictions(predictions, manifests) if predictions else None

    def progress(steps: Sequence[int]) -> None:
        print(f"\rscoring a blend of {' : '.join(map(str, steps))} ".ljust(60), end="", file=sys.stderr, flush=True)

    ensemble = build_ensemble(oofs, competition.metric, ranks, progress=progress)
    print(file=sys.stderr)
    score = score_oof(ensemble.oof, competition.metric)
    print(ensemble_table(names, oofs, ensemble, score, competition.metric))

    out.mkdir(parents=True, exist_ok=True)
    run_id = new_run_id("ensemble")
    with tempfile.TemporaryDirectory(prefix=".ensemble-", dir=out) as temporary:
        folder = pathlib.Path(temporary) / run_id
        write_oof(folder / "oof.npz", ensemble.oof)
        more: dict[str, Any] = {"competition": competition.slug}
        more |= {"average": "ranks" if ranks else "probabilities", "score": score}
        members = [
            {"run_id": name, "weight": float(weight)} for name, weight in zip(names, ensemble.weights, strict=True)
        ]
        if predicted is not None:
            ids, arrays, predict_ids = predicted
            # Chosen on what is thresholded: all tiles with the weights of the test tiles. The score is the nested one.
            level, area = choose_level_and_area(level_table(ensemble.blended, competition.metric), competition.metric)
            more |= {"level": level, "minimum_area": area}
            write_predictions(folder, ids, arrays, ensemble, level, area, competition)
            members = [{**member, "predicted_by": name} for member, name in zip(members, predict_ids, strict=True)]
        # The settings are those of the first member: of the ensemble only folds and seed are facts, and all share them.
        config = config_from_dict(manifests[0]["config"])
        write_manifest(folder, run_id, "ensemble", config, members=members, choices=ensemble.choices, **more)
        os.rename(folder, out / run_id)
    return out / run_id


def read_predictions(runs: Sequence, manifests: list[dict]) -> tuple[np.ndarray, tuple, tuple]:
    """The probabilities of the test tiles by several runs.

    Args:
        runs: predict runs, see `find_run`.
        manifests: of the training runs. One whose folds were trained apart goes by the names of its parts there.

    Returns:
        Ids `[N]`; uint8 `[N, H, W]` for each training run, in their order; and the names of the predict runs, too.

    Raises:
        ValueError: a run that is damaged or predicted with other models, two with the same, or other tiles.
    """
    trained_by = {frozenset(manifest.get("parts", [manifest["run_id"]])): manifest["run_id"] for manifest in manifests}
    found: dict[str, tuple] = {}
    for run in runs:
        folder = find_run(run).folder
        manifest = verify_run(folder)
        trainers = manifest.get("trained_by", "")
        trained = trained_by.get(frozenset(trainers.split(", ")))
        if trained is None:
            raise ValueError(f"{folder}: predicted by {trainers}, which is none of {', '.join(trained_by.values())}")
        if trained in found:
            raise ValueError(f"{folder}: {trained} has predicted in {found[trained][0]} as well; give one of them")
        found[trained] = (manifest["run_id"], *read_probabilities(folder / "probabilities.npz"))
    if missing := [name for name in trained_by.values() if name not in found]:
        raise ValueError(f"--predictions: none by {', '.join(missing)}; run the predict kernel on it")
    names, ids, arrays = zip(*(found[name] for name in trained_by.values()), strict=True)
    for name, other, array in zip(names, ids, arrays, strict=True):
        if not np.array_equal(other, ids[0]) or array.shape != arrays[0].shape:
            raise ValueError(f"{name} has {len(other)} tiles that are not the {len(ids[0])} of {names[0]}")
    return ids[0], arrays, names


def write_predictions(
    folder: pathlib.Path,
    ids: np.ndarray,
    arrays: Sequence[np.ndarray],
    ensemble: Ensemble,
    level: OfClasses,
    area: OfClasses,
    competition: Competition,
) -> None:
    """Writes `probabilities.npz` and `submission.csv` of the test tiles, as the predict kernel does."""
    weights = np.tile(ensemble.weights, (len(ids), 1))
    probabilities = blend_tiles(list(arrays), weights, ensemble.scales)
    write_probabilities(folder / "probabilities.npz", ids, probabilities)
    write_submission(folder / "submission.csv", ids, postprocess(probabilities, level, area), competition)


def ensemble_table(names: list[str], oofs: list[Oof], ensemble: Ensemble, score: dict, metric: Metric) -> str:
    """The members and the ensemble, as text for a terminal."""
    comparisons = [compare_oof(oof, ensemble.oof, metric) for oof in oofs]
    singles = [comparison["first_score"] for comparison in comparisons]
    lines = ["  weight  by the other folds   score  run"]
    for index, name in enumerate(names):
        chosen = [choice["weights"][index] for choice in ensemble.choices]
        span = f"{min(chosen):.2f} to {max(chosen):.2f}"
        lines.append(f"  {ensemble.weights[index]:>6.2f}  {span:>18}  {singles[index]:.4f}  {name}")
    low, high = score["nested_interval"]
    best = singles.index(max(singles))
    low_change, high_change = comparisons[best]["interval"]
    return "\n".join(
        lines
        + [
            "",
            f"ensemble  {score['nested_score']:.4f}, 95 % interval {low:.4f} to {high:.4f}; all scores are nested",
            f"against {names[best]}, the best single run: {comparisons[best]['difference']:+.4f}, "
            f"95 % interval {low_change:+.4f} to {high_change:+.4f}",
            verdict(comparisons[best]).replace("B is", "The ensemble is").replace("A is", "The single run is"),
        ]
    )
