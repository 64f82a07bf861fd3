"""scripts/apply_rules.py: masks corrected by those of neighbours, where it gains out of fold."""

import json

import numpy as np
import pytest

from desk.runs import find_run
from desk.submitting import check_run
from salt.artifacts import Oof, verify_run, write_manifest, write_oof, write_probabilities
from salt.competition import find_competition
from salt.config import preset
from salt.data import read_test, read_train
from salt.submission import read_submission
from salt.tgs import COMPETITION as TGS
from scripts import apply_rules

LEVEL, AREA = 100, 20


@pytest.fixture(scope="module")
def kept(tmp_path_factory, synthetic_folder):
    """A training run, its predict run, and a table in which tiles lie below a training tile that ends in salt."""
    folder = tmp_path_factory.mktemp("rules")
    files = find_competition([synthetic_folder], TGS)
    train, test = read_train(files, progress=False), read_test(files, progress=False)
    masks = train.known_masks()
    (cap,) = np.flatnonzero(masks[:, -1].all(axis=1) & ~masks[:, 0].any(axis=1))[:1]
    (empty,) = np.flatnonzero(~masks.any(axis=(1, 2)))[:1]
    probabilities = (255 * masks).astype(np.uint8)
    probabilities[empty] = 255  # full, wrongly: the rule mends it
    fold = np.zeros(len(masks), np.int8)
    fold[cap] = 1
    write_oof(folder / "train" / "oof.npz", Oof(train.ids, fold, probabilities, masks))
    write_manifest(folder / "train", "train", "train", preset("smoke", train_folds=[0, 1]), competition=TGS.slug)
    predicted = np.zeros((len(test.ids), 101, 101), np.uint8)
    predicted[:2] = 255
    write_probabilities(folder / "predict" / "probabilities.npz", test.ids, predicted)
    more = {"trained_by": "train", "level": LEVEL, "minimum_area": AREA, "competition": TGS.slug}
    write_manifest(folder / "predict", "predict", "predict", preset("smoke"), **more)
    cells = [(train.ids[cap], 0, 0), (train.ids[empty], 1, 0)]
    lines = ["id,mosaic,row,column,confidence", *(f"{tile},0,{row},{column},1" for tile, row, column in cells)]
    other = np.flatnonzero(masks[:, -1].all(axis=1) & ~masks[:, 0].any(axis=1))[-1]
    lines += [f"{train.ids[other]},1,0,0,1", f"{test.ids[0]},1,1,0,1"]
    (folder / "mosaics.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(kept, data, out, *more, predictions=True):
    given = ["--predictions", str(kept / "predict")] if predictions else []
    table = ["--mosaics", str(kept / "mosaics.csv"), "--data", str(data), "--out", str(out)]
    return apply_rules.main([str(kept / "train"), *given, *table, *more])


def test_rules_are_measured_and_nothing_is_written_unless_one_is_named(kept, tmp_path, synthetic_folder, capsys):
    assert run(kept, synthetic_folder, tmp_path / "out", "--json") == 0
    answer = json.loads(capsys.readouterr().out)["result"]
    rules = {row["name"]: row for row in answer["rules"]}
    below = rules["below-salt"]
    assert (below["tiles"], below["better"], below["worse"], below["test_tiles"]) == (1, 1, 0, 1) and below["gain"] > 0
    assert not any(row["applied"] for row in answer["rules"]) and not (tmp_path / "out").exists()


def test_a_named_rule_that_gains_makes_a_run_that_can_be_submitted(kept, tmp_path, synthetic_folder, capsys):
    assert run(kept, synthetic_folder, tmp_path / "out", "--rules", "below-salt", "vertical") == 0
    assert "1 rule applied" in capsys.readouterr().out
    (folder,) = (tmp_path / "out").iterdir()
    manifest = verify_run(folder)
    assert [row["name"] for row in manifest["rules"] if row["applied"]] == ["below-salt"]  # vertical changes nothing
    assert (manifest["level"], manifest["minimum_area"], manifest["predicted_by"]) == (LEVEL, AREA, "predict")
    assert check_run(find_run(str(folder))) == manifest["files"]["submission.csv"]["sha256"]
    files = find_competition([synthetic_folder], TGS)
    ids = read_test(files, progress=False).ids
    found = dict(zip(*read_submission(folder / "submission.csv", TGS), strict=True))
    assert [bool(found[tile]) for tile in ids[:3]] == [False, True, False]  # the first lies below salt


def test_a_rule_without_gain_and_a_run_without_predictions_are_refused(kept, tmp_path, synthetic_folder, capsys):
    assert run(kept, synthetic_folder, tmp_path / "out", "--rules", "vertical") != 0
    assert "no gain out of fold" in capsys.readouterr().err
    assert run(kept, synthetic_folder, tmp_path / "out", predictions=False) != 0
    assert "give --predictions PREDICT_RUN" in capsys.readouterr().err and not (tmp_path / "out").exists()
