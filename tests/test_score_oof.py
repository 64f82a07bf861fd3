import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from desk import paths
from salt.artifacts import Oof, write_manifest, write_oof
from salt.competition import find_competition
from salt.config import Config
from salt.data import read_depths, read_train_table
from salt.ensembles import mean_oof
from salt.metrics import AVERAGE_PRECISION
from salt.scoring import calibrate, score_by_depth
from salt.scoring import score_oof as score_predictions
from salt.tgs import COMPETITION as TGS
from scripts import score_oof

SCRIPT = pathlib.Path(score_oof.__file__)


def make_run(folder, with_oof=True, seed=0, train_folds=(0, 1)):
    generator = np.random.default_rng(0)
    masks = (generator.random((20, 101, 101)) < generator.random((20, 1, 1))).astype(np.uint8)
    masks[::4] = 0
    noise = np.random.default_rng(seed + 1)
    probabilities = np.clip(100 * masks + noise.integers(0, 110, masks.shape), 0, 255).astype(np.uint8)
    oof = Oof(np.array([f"t{index}" for index in range(20)]), (np.arange(20) % 2).astype(np.int8), probabilities, masks)
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text("epoch\n1\n")
    if with_oof:
        write_oof(folder / "oof.npz", oof)
    write_manifest(folder, f"run-{7 + seed}", "train", Config(train_folds=train_folds))
    return oof


def test_a_run_is_scored_into_a_table_and_score_json(tmp_path, capsys):
    oof = make_run(tmp_path / "a")
    assert score_oof.main([str(tmp_path / "a")]) == 0
    expected = {
        "run_id": "run-7",
        "competition": TGS.slug,
        "metric": "average precision",
        "target": "salt",
        "class_names": ["salt"],
        **score_predictions(oof, AVERAGE_PRECISION),
        "depths": None,
        "leak": None,
        "calibration": calibrate(oof),
        "leaderboard": None,  # a score of noise
        "leaderboard_range": [0.708, 0.873],
    }
    assert json.loads((tmp_path / "a" / "score.json").read_text()) == expected
    shown = capsys.readouterr().out
    for key in ("half", "best", "chosen", "nested"):
        low, high = expected[f"{key}_interval"]
        error = expected[f"{key}_standard_error"]
        assert f"{expected[f'{key}_score']:.4f}  {error:.4f}  {low:.4f} to {high:.4f}" in shown
    assert f"flatters by {expected['chosen_score'] - expected['nested_score']:+.4f}" in shown
    assert "run-7: 20 tiles in 2 folds" in shown and "score.json" in shown and "give --data DIR" in shown
    assert "no expectation" in shown
    assert all(len(line) <= 100 for line in shown.splitlines()[:-1])


def test_the_competition_s_depths_give_a_table_and_those_of_another_are_refused(tmp_path, capsys, synthetic_folder):
    tiles = find_competition([synthetic_folder], TGS)
    oof = make_run(tmp_path / "a")
    assert score_oof.main([str(tmp_path / "a"), "--data", str(synthetic_folder)]) == 1
    assert "not one of the tiles' depths is known" in capsys.readouterr().err
    ids = read_train_table(tiles)[0][:20]
    write_oof(tmp_path / "a" / "oof.npz", oof._replace(ids=ids))
    write_manifest(tmp_path / "a", "run-7", "train", Config(train_folds=(0, 1)))
    assert score_oof.main([str(tmp_path / "a"), "--data", str(synthetic_folder)]) == 0
    rows = json.loads((tmp_path / "a" / "score.json").read_text())["depths"]
    assert rows == score_by_depth(oof._replace(ids=ids), AVERAGE_PRECISION, read_depths(tiles, ids))
    assert f"  {rows[0]['low']:.0f} to {rows[0]['high']:.0f} " in capsys.readouterr().out
    copy = shutil.copytree(synthetic_folder, tmp_path / "without")
    (copy / "depths.csv").unlink()
    assert score_oof.main([str(tmp_path / "a"), "--data", str(copy)]) == 0
    assert "there is no depths.csv" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "score.json").read_text())["depths"] == []


def test_several_runs_are_scored_as_the_mean_of_their_probabilities_and_nothing_is_written(tmp_path, capsys):
    oofs = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    assert score_oof.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    expected = score_predictions(mean_oof(oofs), AVERAGE_PRECISION)
    shown = capsys.readouterr().out
    assert "run-7 + run-8: 20 tiles" in shown and f"{expected['nested_score']:.4f}" in shown
    assert not list(tmp_path.rglob("score.json"))


def test_runs_with_other_folds_make_no_ensemble(tmp_path, capsys):
    make_run(tmp_path / "a")
    oof = make_run(tmp_path / "b", seed=1)
    write_oof(tmp_path / "b" / "oof.npz", oof._replace(fold=1 - oof.fold))
    write_manifest(tmp_path / "b", "run-8", "train", Config(train_folds=(0, 1)))
    assert score_oof.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "fold: runs 1 and 2 differ in 20 of 20 tiles" in capsys.readouterr().err


def test_a_trained_fold_without_tiles_is_an_error(tmp_path, capsys):
    make_run(tmp_path / "a", train_folds=(0, 1, 3))
    assert score_oof.main([str(tmp_path / "a")]) == 1
    assert "has tiles of the folds [0, 1], but [0, 1, 3] were trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda oof: {"probabilities": oof.probabilities / np.float32(255)}, "probabilities is float32"),
        (lambda oof: {"probabilities": oof.probabilities.astype(np.int16) - 1}, "probabilities is int16"),
        (lambda oof: {"fold": oof.fold[1:]}, "fold has shape (19,) where (20,) fits"),
        (lambda oof: {"masks": 255 * oof.masks}, "masks has the value 255"),
        (lambda oof: {"ids": np.full(20, "t0")}, "id 't0' is there 20 times"),
    ],
)
def test_predictions_that_are_none_are_an_error_though_the_manifest_agrees(tmp_path, capsys, change, message):
    oof = make_run(tmp_path / "a")
    np.savez_compressed(tmp_path / "a" / "oof.npz", **{**oof._asdict(), **change(oof)})
    write_manifest(tmp_path / "a", "run-7", "train", Config(train_folds=(0, 1)))
    assert score_oof.main([str(tmp_path / "a")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "oof.npz" in error and message in error


@pytest.mark.parametrize("part", ["compressed data", "header", "end"])
def test_damaged_predictions_are_an_error_though_the_manifest_agrees(tmp_path, capsys, part):
    make_run(tmp_path / "a")
    path = tmp_path / "a" / "oof.npz"
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("probabilities.npy")
    content = bytearray(path.read_bytes())
    lengths = content[member.header_offset + 26 : member.header_offset + 30]
    begin = member.header_offset + 30 + sum(np.frombuffer(lengths, "<u2"))
    content[{"compressed data": begin, "header": member.header_offset, "end": -20}[part]] = 255
    path.write_bytes(content)
    write_manifest(tmp_path / "a", "run-7", "train", Config(train_folds=(0, 1)))
    assert score_oof.main([str(tmp_path / "a")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "oof.npz: damaged" in error and "fetch it again" in error


def test_scoring_a_run_again_is_no_mismatch_with_its_manifest(tmp_path, capsys):
    make_run(tmp_path / "a")
    assert score_oof.main([str(tmp_path / "a")]) == 0
    assert score_oof.main([str(tmp_path / "a")]) == 0


def test_a_run_is_found_by_its_name_under_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    make_run(tmp_path / "runs" / "train-1")
    assert score_oof.main(["train-1"]) == 0
    assert (tmp_path / "runs" / "train-1" / "score.json").is_file()
    assert score_oof.main(["tra"]) == 0  # the beginning of a name is enough
    assert score_oof.main(["train-2"]) == 1
    assert "train-2: there is no such run; there are: train-1" in capsys.readouterr().err


def test_a_run_without_out_of_fold_predictions_is_an_error(tmp_path, capsys):
    make_run(tmp_path / "a", with_oof=False)
    assert score_oof.main([str(tmp_path / "a")]) == 1
    assert "no oof.npz among its files (history.csv)" in capsys.readouterr().err
    assert not (tmp_path / "a" / "score.json").exists()


@pytest.mark.parametrize("damage", ["change", "remove", "no manifest"])
def test_a_run_that_does_not_match_its_manifest_is_not_scored(tmp_path, capsys, damage):
    make_run(tmp_path / "a")
    if damage == "change":
        content = bytearray((tmp_path / "a" / "oof.npz").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "a" / "oof.npz").write_bytes(content)
    else:
        (tmp_path / "a" / ("oof.npz" if damage == "remove" else "manifest.json")).unlink()
    assert score_oof.main([str(tmp_path / "a")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and ("manifest.json" if damage == "no manifest" else "oof.npz") in error
    assert not (tmp_path / "a" / "score.json").exists()


def test_the_script_runs_from_any_folder_and_its_help_loads_no_numpy(tmp_path):
    make_run(tmp_path / "a")
    done = subprocess.run([sys.executable, SCRIPT, "a"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['score_oof.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "finally:\n"
        "    assert not {'numpy', 'keras', 'cv2'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "RUN" in done.stdout


def test_the_leak_of_the_folds_is_shown_with_the_scores_with_and_without_it(tmp_path, capsys, synthetic_folder):
    oof = make_run(tmp_path / "a")
    ids = read_train_table(find_competition([synthetic_folder], TGS))[0]
    write_oof(tmp_path / "a" / "oof.npz", oof._replace(ids=ids[:20]))
    write_manifest(tmp_path / "a", "run-7", "train", Config(train_folds=(0, 1)))
    lines = ["id,mosaic,row,column,confidence"]
    places = [(0, 0, 0), (0, 0, 1), (1, 0, 0), ("", "", ""), (1, 2, 0), (2, 0, 0), ("", "", ""), (2, 0, 1)]
    lines += [f"{tile},{mosaic},{row},{column},1" for tile, (mosaic, row, column) in zip(ids, places, strict=False)]
    lines += [f"{ids[8]},3,0,0,1", f"{ids[30]},3,1,0,1", f"{ids[9]},4,0,0,1", "other,4,1,0,1"]  # unseen, test
    (tmp_path / "mosaics.csv").write_text("\n".join(lines))
    command = [str(tmp_path / "a"), "--mosaics", str(tmp_path / "mosaics.csv")]
    assert score_oof.main(command) != 0 and "needs --data" in capsys.readouterr().err
    assert score_oof.main([*command, "--data", str(synthetic_folder)]) == 0
    leak = json.loads((tmp_path / "a" / "score.json").read_text())["leak"]
    assert leak["placed"] == 8 / 20 and leak["mates"]["share"] == 3 / 20 == leak["neighbours"]["share"]
    score = json.loads((tmp_path / "a" / "score.json").read_text())["nested_score"]
    assert (3 * leak["mates"]["score"] + 17 * leak["mates"]["others"]) / 20 == pytest.approx(score)
    assert [row["tiles"] >= row["better"] + row["worse"] for row in leak["rules"]] == [True] * 3
    shown = capsys.readouterr().out
    assert "slice-mate in training" in shown and "vertical masks repeat downwards" in shown
