"""Runs of the other described competitions, from their predictions to scores and pages, at their true sizes."""

import json

import numpy as np
import pytest

from desk.competitions import load_competition
from salt.artifacts import Oof, write_manifest, write_oof
from salt.competition import find_competition
from salt.config import Config
from salt.data import read_train
from salt.scenes import write_scenes
from salt.scoring import score_oof
from scripts import compare, ensemble, explore, report
from scripts import score_oof as score_script

COUNT = 4


@pytest.fixture(scope="module", params=["airbus", "severstal", "carvana"])
def made(request, tmp_path_factory):
    """A competition, its folder, and two runs on it."""
    competition = load_competition(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    write_scenes(competition, folder / "data", train=COUNT, test=1, progress=False)
    train = read_train(find_competition(folder / "data", competition), progress=False)
    assert train.masks is not None
    oofs = []
    for name, shift in (("a", 3), ("b", 8)):
        predicted = 60 + 130 * np.roll(train.masks, shift, axis=2)
        fold = (np.arange(COUNT) % 2).astype(np.int8)
        oofs.append(Oof(train.ids, fold, predicted.astype(np.uint8), train.masks))
        write_oof(folder / name / "oof.npz", oofs[-1])
        write_manifest(folder / name, name, "train", Config(train_folds=(0, 1)), competition=competition.slug)
    return competition, folder, oofs


@pytest.mark.slow
def test_scores_comparisons_ensembles_and_pages_follow_the_competition(made, capsys):
    competition, folder, oofs = made
    data = ["--data", str(folder / "data")]
    assert score_script.main([str(folder / "a"), *data]) == 0
    shown = capsys.readouterr().out
    found = json.loads((folder / "a" / "score.json").read_text())
    expected = score_oof(oofs[0], competition.metric)
    assert {key: found[key] for key in expected} == json.loads(json.dumps(expected))
    assert competition.metric.label in shown and f"predicted {competition.target}" in shown
    assert not {"leaderboard", "depths", "leak"} & set(found) and "depth" not in shown and "leaderboard" not in shown
    assert ("objects" in found) == competition.train_table.objects == ("F2 over objects" in shown)
    assert ("of_class" in found) == (len(competition.classes) > 1)
    assert compare.main([str(folder / "a"), str(folder / "b")]) == 0
    assert ensemble.main([str(folder / "a"), str(folder / "b"), "--out", str(folder / "runs")]) == 0
    (blend,) = (folder / "runs").iterdir()
    assert json.loads((blend / "manifest.json").read_text())["competition"] == competition.slug
    assert report.main([str(folder / "a"), str(folder / "b"), *data]) == 0
    assert (folder / "a" / "report.html").stat().st_size < 15_000_000
    out = folder / "explore.html"
    assert explore.main([str(folder / "data"), "--competition", competition.slug, "--out", str(out)]) == 0
    page = out.read_text()
    assert f"How much of a tile is {competition.target}" in page and '"kind":"vertical"' not in page
