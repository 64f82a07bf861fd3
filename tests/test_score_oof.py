import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from salt.artifacts import Oof, write_manifest, write_oof
from salt.config import Config
from salt.scoring import score_oof as score_predictions
from scripts import score_oof

SCRIPT = pathlib.Path(score_oof.__file__)


def make_run(folder, with_oof=True):
    generator = np.random.default_rng(0)
    masks = (generator.random((20, 101, 101)) < generator.random((20, 1, 1))).astype(np.uint8)
    masks[::4] = 0
    probabilities = np.clip(100 * masks + generator.integers(0, 110, masks.shape), 0, 255).astype(np.uint8)
    oof = Oof(np.array([f"t{index}" for index in range(20)]), (np.arange(20) % 2).astype(np.int8), probabilities, masks)
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text("epoch\n1\n")
    if with_oof:
        write_oof(folder / "oof.npz", oof)
    write_manifest(folder, "run-7", "train", Config())
    return oof


def test_a_run_is_scored_into_a_table_and_score_json(tmp_path, capsys):
    oof = make_run(tmp_path / "a")
    assert score_oof.main([str(tmp_path / "a")]) == 0
    expected = {"run_id": "run-7", **score_predictions(oof)}
    assert json.loads((tmp_path / "a" / "score.json").read_text()) == expected
    shown = capsys.readouterr().out
    for key in ("best", "half"):
        low, high = expected[f"{key}_interval"]
        error = expected[f"{key}_standard_error"]
        assert f"{expected[f'{key}_score']:.4f}  {error:.4f}  {low:.4f} to {high:.4f}" in shown
    assert "run-7: 20 tiles in 2 folds" in shown and "score.json" in shown
    assert all(len(line) <= 100 for line in shown.splitlines()[:-1])


def test_scoring_a_run_again_is_no_mismatch_with_its_manifest(tmp_path, capsys):
    make_run(tmp_path / "a")
    assert score_oof.main([str(tmp_path / "a")]) == 0
    assert score_oof.main([str(tmp_path / "a")]) == 0


def test_a_run_is_found_by_its_name_under_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(score_oof, "ROOT", tmp_path)
    make_run(tmp_path / "runs" / "train-1")
    assert score_oof.main(["train-1"]) == 0
    assert (tmp_path / "runs" / "train-1" / "score.json").is_file()
    assert score_oof.main(["train-2"]) == 1
    assert "'train-2' is neither a folder nor a run under runs/, which has train-1" in capsys.readouterr().err


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
