"""Predicted masks are corrected by the masks of neighbours in rebuilt slices, where that gains out of fold."""

import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from desk.ensembles import read_predictions
from desk.errors import ConfigurationError
from desk.output import plural
from desk.runs import find_run, new_run_id
from desk.scoring import ScoredRun, Surroundings, open_run, read_surroundings
from salt.artifacts import read_probabilities, verify_run, write_manifest
from salt.config import config_from_dict
from salt.levels import choose_level_and_area, count_oof, level_table
from salt.postprocess import postprocess
from salt.rules import RULES, known_neighbours, measure_rules
from salt.submission import write_submission


class RulesRequest(NamedTuple):
    """What is to be corrected.

    Attributes:
        run: of training, or an ensemble, see `find_run`.
        predictions: the predict run of it; None: the run has its own, as an ensemble may.
        data: the competition's folder.
        mosaics: table that scripts/mosaics.py has written of it.
        rules: names of `RULES`; none: they are only measured.
        out: where runs are kept.
    """

    run: str
    predictions: str | None
    data: pathlib.Path
    mosaics: pathlib.Path
    rules: tuple[str, ...]
    out: pathlib.Path


class Predicted(NamedTuple):
    """Masks of the test tiles as they were predicted: ids, uint8 `[N, H, W]`, and what a manifest says of them."""

    ids: np.ndarray
    masks: np.ndarray
    origin: dict


def apply_rules(request: RulesRequest) -> tuple[list[dict], pathlib.Path | None]:
    """Measures each rule on out-of-fold predictions, tells about it, and applies those that are asked for and gain.

    Returns:
        As `measure_rules`, each with `test_tiles` whose masks it changes and whether it is `applied`; and the folder of
        the new run, None if nothing was asked for.

    Raises:
        ConfigurationError, ValueError: runs that do not fit, a competition without slices, or no rule that gains.
    """
    run = open_run(request.run)
    if run.competition.find_mosaics is None:
        raise ConfigurationError(f"{run.competition.slug} has no slices, and so no rules that look at neighbours")
    predicted = read_predicted(run, request.predictions)
    around = read_surroundings(request.data, request.mosaics, run.oof, run.competition, predicted.ids)
    effects, test = measure_effects(run, around), np.searchsorted(around.ids, predicted.ids)
    before = np.zeros_like(around.masks)
    before[test] = predicted.masks
    after, known = before, known_neighbours(around.fold, around.neighbours)
    for effect in effects:
        correct = RULES[effect["name"]].correct
        changed = (correct(before, around.masks, known) != before)[test].any(axis=(1, 2))
        effect["test_tiles"] = int(changed.sum())
        effect["applied"] = effect["name"] in request.rules and effect["gain"] > 0
        if effect["applied"]:
            after = correct(after, around.masks, known)
    print(rules_table(effects))
    if not request.rules:
        return effects, None
    if not any(effect["applied"] for effect in effects):
        raise ConfigurationError(f"--rules {' '.join(request.rules)}: no gain out of fold; submit the run as it is")
    return effects, write_corrected(run, predicted, after[test], effects, request.out)


def read_predicted(run: ScoredRun, predictions: str | None) -> Predicted:
    """The masks that a predict run, or an ensemble itself, has submitted or would submit."""
    if predictions is None:
        folder, manifest = run.folder, run.manifest
        if "probabilities.npz" not in manifest["files"]:
            raise ConfigurationError(f"{folder}: has no predictions of test tiles; give --predictions PREDICT_RUN")
        ids, probabilities = read_probabilities(folder / "probabilities.npz")
    else:
        ids, (probabilities,), _ = read_predictions([predictions], [run.manifest])
        manifest = verify_run(find_run(predictions).folder)
    chosen = {name: manifest[name] for name in ("level", "minimum_area")}
    return Predicted(ids, postprocess(probabilities, *chosen.values()), {**chosen, "predicted_by": manifest["run_id"]})


def measure_effects(run: ScoredRun, around: Surroundings) -> list[dict]:
    """What each rule changes of the out-of-fold predictions, at their best level and area."""
    metric = run.competition.metric
    level, area = choose_level_and_area(level_table(count_oof(run.oof), metric), metric)
    held = np.searchsorted(around.ids, run.oof.ids)
    masks = np.zeros_like(around.masks)
    masks[held] = postprocess(run.oof.probabilities, level, area)
    scored = np.isin(np.arange(len(around.ids)), held)
    return measure_rules(masks, around.masks, around.fold, around.neighbours, scored)


def write_corrected(
    run: ScoredRun, predicted: Predicted, masks: np.ndarray, effects: list[dict], out: pathlib.Path
) -> pathlib.Path:
    """Writes corrected masks as a run with a `submission.csv`; returns its folder."""
    run_id, competition = new_run_id("rules"), run.competition
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rules-", dir=out) as temporary:
        folder = pathlib.Path(temporary) / run_id
        folder.mkdir()
        write_submission(folder / "submission.csv", predicted.ids, masks, competition)
        more = {"competition": competition.slug, "trained_by": run.manifest["run_id"], **predicted.origin}
        config = config_from_dict(run.manifest["config"])
        write_manifest(folder, run_id, "rules", config, rules=effects, **more)
        os.rename(folder, out / run_id)
    return out / run_id


def rules_table(effects: Sequence[dict]) -> str:
    """What each rule changes, as text for a terminal."""
    lines = ["  rule                                         tiles  better  worse     gain    s.e.  test tiles"]
    for row in effects:
        counts = f"{row['tiles']:>6,}  {row['better']:>6,} {row['worse']:>6,}"
        gain = f"{row['gain']:+.4f}  {row['standard_error']:.4f}"
        state = "  applied" if row["applied"] else ""
        lines.append(f"  {row['name']:<11} {row['rule']:<32} {counts}  {gain}  {row['test_tiles']:>10,}{state}")
    applied = sum(row["applied"] for row in effects)
    return "\n".join([*lines, "", f"  {plural(applied, 'rule')} applied; only such are that gain out of fold"])
