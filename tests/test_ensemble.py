import json
import shutil

import numpy as np
import pytest

from desk.runs import find_run
from desk.submitting import check_run
from salt.artifacts import Oof, read_oof, read_probabilities, verify_run, write_manifest, write_oof, write_probabilities
from salt.config import preset
from salt.ensembles import blend_probabilities, probability_scales
from salt.metrics import AVERAGE_PRECISION
from salt.postprocess import postprocess
from salt.scoring import score_oof
from salt.submission import check_submission, read_submission, write_submission
from salt.tgs import COMPETITION as TGS
from scripts import compare, ensemble
from scripts import score_oof as score_script

TILES, TEST_TILES = 24, 6


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Three training runs of equal tiles, and the predict run of each. Not to be changed: copy it.

    The folds of the second were trained apart, so that it was predicted by its parts.
    """
    folder, generator = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    masks = np.zeros((TILES + TEST_TILES, 101, 101), np.uint8)
    for index in range(len(masks)):
        masks[index, : 15 * (index % 5)] = 1
    ids = np.array([f"t{index:02d}" for index in range(len(masks))])
    fold = (np.arange(TILES) % 2).astype(np.int8)
    for number, noise in enumerate((60, 80, 400)):
        grain = np.kron(generator.standard_normal((len(masks), 21, 21)), np.ones((5, 5)))[:, :101, :101]
        probabilities = np.clip(64 + 128 * masks + noise * grain, 0, 255).astype(np.uint8)
        train, predict = folder / f"train-{number}", folder / f"predict-{number}"
        write_oof(train / "oof.npz", Oof(ids[:TILES], fold, probabilities[:TILES], masks[:TILES]))
        parts = {"parts": {"second-0": "", "second-1": ""}} if number == 1 else {}
        write_manifest(train, train.name, "train", preset("smoke", train_folds=[0, 1], depth=2 + number), **parts)
        write_probabilities(predict / "probabilities.npz", ids[TILES:], probabilities[TILES:])
        trained_by = ", ".join(parts.get("parts", [train.name]))
        write_manifest(predict, predict.name, "predict", preset("smoke"), trained_by=trained_by)
    return folder


def run(folder, *arguments):
    runs = [str(folder / name) if name.startswith(("train", "predict")) else name for name in arguments]
    return ensemble.main([*runs, "--out", str(folder / "out")])


def made(folder):
    (found,) = (folder / "out").iterdir()
    return found, verify_run(found)


@pytest.fixture(scope="module")
def built(kept, tmp_path_factory):
    """The ensemble of the three, with predictions given in another order."""
    folder = tmp_path_factory.mktemp("built")
    predictions = [str(kept / f"predict-{number}") for number in (2, 0, 1)]
    runs = [str(kept / f"train-{number}") for number in range(3)]
    assert ensemble.main([*runs, "--predictions", *predictions, "--out", str(folder)]) == 0
    (found,) = folder.iterdir()
    return found


def test_an_ensemble_is_a_run_with_its_members_and_their_weights(built):
    manifest = verify_run(built)
    assert manifest["run_id"] == built.name and manifest["kernel"] == "ensemble"
    assert [member["run_id"] for member in manifest["members"]] == ["train-0", "train-1", "train-2"]
    assert [member["predicted_by"] for member in manifest["members"]] == ["predict-0", "predict-1", "predict-2"]
    weights = [member["weight"] for member in manifest["members"]]
    assert sum(weights) == pytest.approx(1) and weights[0] > weights[2] and manifest["average"] == "probabilities"
    assert set(manifest["files"]) == {"oof.npz", "probabilities.npz", "submission.csv"}


def test_its_submission_has_the_level_and_area_that_are_best_for_its_own_weighted_predictions(kept, built):
    manifest = verify_run(built)
    weights = [member["weight"] for member in manifest["members"]]
    arrays = [read_probabilities(kept / f"predict-{number}" / "probabilities.npz")[1] for number in range(3)]
    expected = blend_probabilities(arrays, weights, probability_scales(3))
    ids, probabilities = read_probabilities(built / "probabilities.npz")
    assert np.array_equal(probabilities, expected)
    oofs = [read_oof(kept / f"train-{number}" / "oof.npz") for number in range(3)]
    whole = blend_probabilities([oof.probabilities for oof in oofs], weights, probability_scales(3))
    score = score_oof(oofs[0]._replace(probabilities=whole), AVERAGE_PRECISION)
    assert (manifest["level"], manifest["minimum_area"]) == (score["best_level"], score["minimum_area"])
    path = kept / "expected.csv"
    write_submission(path, ids, postprocess(expected, score["best_level"], score["minimum_area"]), TGS)
    assert read_submission(built / "submission.csv", TGS) == read_submission(path, TGS)


def test_it_is_scored_compared_and_submitted_like_any_other_run(kept, built, capsys):
    assert score_script.main([str(built)]) == 0
    assert json.loads((built / "score.json").read_text())["nested_score"] == verify_run(built)["score"]["nested_score"]
    assert compare.main([str(kept / "train-0"), str(built)]) == 0
    assert check_run(find_run(built)) == verify_run(built)["files"]["submission.csv"]["sha256"]
    assert check_submission(built / "submission.csv", built / "submission.csv", TGS)["rows"] == TEST_TILES


def test_the_table_has_each_run_and_the_difference_to_the_best_one(kept, tmp_path, capsys):
    folder = shutil.copytree(kept, tmp_path / "runs")
    assert run(folder, "train-0", "train-1", "--ranks") == 0
    shown = capsys.readouterr().out
    found, manifest = made(folder)
    singles = [
        score_oof(read_oof(folder / name / "oof.npz"), AVERAGE_PRECISION)["nested_score"]
        for name in ("train-0", "train-1")
    ]
    for name, single in zip(("train-0", "train-1"), singles, strict=True):
        assert any(line.endswith(f"{single:.4f}  {name}") for line in shown.splitlines())
    score = manifest["score"]["nested_score"]
    assert f"ensemble  {score:.4f}, 95 % interval" in shown and str(found.name) in shown
    assert f"against train-{np.argmax(singles)}, the best single run: {score - max(singles):+.4f}" in shown
    assert manifest["average"] == "ranks" and set(manifest["files"]) == {"oof.npz"}


def change_oof(folder, name, **changes):
    manifest = verify_run(folder / name)
    oof = read_oof(folder / name / "oof.npz")
    changed = {key: change(getattr(oof, key)) for key, change in changes.items()}
    write_oof(folder / name / "oof.npz", oof._replace(**changed))
    write_manifest(folder / name, manifest["run_id"], "train", preset("smoke", train_folds=[0, 1]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train-0"], "an ensemble takes at least 2 runs, not 1"),
        (["train-0", "train-0"], "train-0: given more than once"),
        (["train-0", "nothing"], "nothing: there is no such run; there are: "),
        (["train-0", "predict-1"], "no oof.npz among its files"),
        (["train-0", "other-tiles"], "the runs have 24 and 24 tiles, 23 of them in common"),
        (["train-0", "other-folds"], "fold: runs 1 and 2 differ in 24 of 24 tiles"),
        (["train-0", "damaged"], "does not match its manifest: oof.npz has"),
        (["train-0", "train-1", "--predictions", "predict-0"], "none by train-1; run the predict kernel on it"),
        (["train-0", "train-1", "--predictions", "predict-0", "predict-2"], "predicted by train-2, which is none of"),
        (["train-0", "train-1", "--predictions", "predict-0", "again"], "train-0 has predicted in predict-0 as well"),
        (["train-0", "train-1", "--predictions", "predict-0", "fewer"], "has 5 tiles that are not the 6 of predict-0"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_written(kept, tmp_path, capsys, arguments, message):
    folder = shutil.copytree(kept, tmp_path / "runs")
    shutil.copytree(kept / "train-1", folder / "other-tiles")
    change_oof(folder, "other-tiles", ids=lambda ids: np.array(["x", *ids[1:]]))
    shutil.copytree(kept / "train-1", folder / "other-folds")
    change_oof(folder, "other-folds", fold=lambda fold: 1 - fold)
    shutil.copytree(kept / "train-1", folder / "damaged")
    with open(folder / "damaged" / "oof.npz", "ab") as file:
        file.write(b"?")
    shutil.copytree(kept / "predict-0", folder / "again")
    shutil.copytree(kept / "predict-1", folder / "fewer")
    ids, probabilities = read_probabilities(folder / "fewer" / "probabilities.npz")
    write_probabilities(folder / "fewer" / "probabilities.npz", ids[1:], probabilities[1:])
    write_manifest(folder / "fewer", "predict-9", "predict", preset("smoke"), trained_by="second-0, second-1")
    paths = [str(folder / name) if (folder / name).is_dir() else name for name in arguments]
    assert ensemble.main([*paths, "--out", str(folder / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not list(folder.glob("out/*"))
