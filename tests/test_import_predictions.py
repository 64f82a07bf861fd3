"""Predictions of another program, in all forms, become runs that every command takes."""

import csv
import json
import types

import cv2
import numpy as np
import pytest

from desk import paths
from desk.prediction_files import read_predictions
from desk.probability_values import to_probabilities
from desk.submitting import run_of_file
from salt.artifacts import Oof, read_oof, verify_run, write_manifest, write_oof
from salt.config import Config
from salt.rle import encode_rles
from salt.submission import read_submission, write_submission
from salt.tgs import COMPETITION as TGS
from scripts import compare, ensemble, import_predictions, report, score_oof, submit

OFFLINE = types.SimpleNamespace(used_secrets=[])  # a link for dry runs, which ask Kaggle nothing


@pytest.fixture
def predicted(synthetic_train):
    """Probabilities float32 [N, 101, 101] as a fair model would give them."""
    return fair(synthetic_train.masks)


def fair(masks, seed=0):
    noise = np.random.default_rng(seed).random(masks.shape, np.float32)
    return (0.75 * masks + 0.25 * noise).astype(np.float32)


@pytest.fixture
def run(tmp_path, synthetic_folder, monkeypatch, capsys):
    """Imports a source as a person would; returns exit status, what was printed, and the run's folder."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")

    def call(source, *options):
        name = f"made-{len(list(tmp_path.glob('runs/*')))}"
        arguments = [str(source), "--data", str(synthetic_folder), "--name", name, "--runs", str(tmp_path / "runs")]
        status = import_predictions.main([*arguments, *map(str, options)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err, tmp_path / "runs" / name

    return call


def eight_bits(probabilities):
    return np.rint(255 * probabilities.astype(np.float64)).astype(np.uint8)


def write_folder(folder, ids, arrays, suffix=".png"):
    folder.mkdir()
    for tile_id, array in zip(ids, arrays, strict=True):
        if suffix == ".npy":
            np.save(folder / f"{tile_id}.npy", array)
        else:
            (folder / f"{tile_id}{suffix}").write_bytes(cv2.imencode(".png", array)[1].tobytes())
    (folder / ".DS_Store").write_bytes(b"")
    return folder


def make_forms(folder, ids, predicted):
    """Each form of source, and the probabilities that it should become."""
    whole = eight_bits(predicted)
    masks = predicted >= 0.5
    logits = np.log(predicted.clip(1e-6, 1 - 1e-6) / (1 - predicted.clip(1e-6, 1 - 1e-6)))
    forms = {}

    def form(name, expected, *options):
        forms[name] = (folder / name, expected, options)
        return folder / name

    np.savez_compressed(form("float.npz", whole), ids=ids, probabilities=predicted)
    np.savez(form("other names.npz", whole), id=ids, my_model=predicted.astype(np.float64)[..., None])
    np.savez(form("channels first.npz", whole), ids=np.char.encode(ids), p=whole[:, None])
    np.savez(form("logits.npz", whole, "--logits"), ids=ids, probabilities=logits)
    np.save(form("array.npy", whole, "--ids", folder / "ids.txt"), predicted)
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    rows = np.zeros(len(ids), [("id", ids.dtype), ("probability", np.float32, (101, 101))])
    rows["id"], rows["probability"] = ids, predicted
    np.save(form("rows.npy", whole), rows)
    write_folder(form("pictures", whole), ids, whole, ".PNG")
    write_folder(form("deep pictures", whole), ids, whole.astype(np.uint16) * 257)
    write_folder(form("arrays", whole), ids, predicted, ".npy")
    write_submission(form("masks.csv", 255 * masks.astype(np.uint8)), ids, masks.astype(np.uint8), TGS)
    return forms


def test_every_form_becomes_the_same_predictions(tmp_path, synthetic_train, predicted):
    order = np.random.default_rng(1).permutation(len(predicted))  # no form need keep the order of train.csv
    for source, expected, options in make_forms(tmp_path, synthetic_train.ids[order], predicted[order]).values():
        ids = options[1] if "--ids" in options else None
        found = read_predictions(source, TGS, ids)
        sides = np.tile(TGS.size, (len(found.ids), 1))
        values = to_probabilities(found, sides, source, logits="--logits" in options)
        place = {tile_id: row for row, tile_id in enumerate(found.ids)}
        values = values[[place[each] for each in synthetic_train.ids[order]]]
        np.testing.assert_allclose(values, expected, atol=1 if "--logits" in options else 0, err_msg=source.name)


def test_the_predictions_of_a_numpy_program_go_all_the_way(
    tmp_path, run, synthetic_train, synthetic_test, synthetic_folder, predicted, capsys
):
    """Import, score, comparison with a run of ours, ensemble, report, submission."""
    fold = (np.arange(len(predicted)) % 4).astype(np.int8)
    ours = tmp_path / "runs" / "ours"
    other = np.rint(255 * fair(synthetic_train.masks, seed=1)).astype(np.uint8)
    write_oof(ours / "oof.npz", Oof(synthetic_train.ids, fold, other, synthetic_train.masks))
    write_manifest(ours, "ours", "train", Config(folds=4, train_folds=(0, 1, 2, 3)))
    predict = tmp_path / "runs" / "ours-predict"
    np.savez(tmp_path / "oof.npz", ids=synthetic_train.ids, probabilities=predicted)
    np.savez(tmp_path / "test.npz", ids=synthetic_test.ids[::-1], probabilities=fair(synthetic_test.masks)[::-1])

    status, text, made = run(tmp_path / "oof.npz", "--folds", ours)
    assert status == 0 and "score_oof.py" in text and "4 folds of 40 of the 40 training tiles" in text
    manifest = verify_run(made)
    assert manifest["kernel"] == "imported" and len(manifest["imported"]["files"]["oof.npz"]) == 64
    np.testing.assert_array_equal(read_oof(made / "oof.npz").fold, fold)
    assert score_oof.main([str(made), "--data", str(synthetic_folder)]) == 0
    assert json.loads((made / "score.json").read_text())["nested_score"] > 0.9
    assert compare.main([str(ours), str(made)]) == 0
    assert report.main([str(made), str(ours), "--data", str(synthetic_folder)]) == 0
    assert "imported from oof.npz" in (made / "report.html").read_text()

    status, text, tested = run(tmp_path / "test.npz", "--trained-by", made)
    assert status == 0 and "submit.py" in text
    assert verify_run(tested)["trained_by"] == made.name
    assert read_submission(tested / "submission.csv", TGS)[0] == synthetic_test.ids.tolist()
    tested.rename(predict)
    tested = predict.rename(tested)
    runs = ["--runs", str(tmp_path / "runs")]
    capsys.readouterr()
    assert (
        submit.main(
            [tested.name, "--data", str(synthetic_folder), "--dry-run", *runs],
            link=OFFLINE,
        )
        == 0
    )
    assert "10 rows" in capsys.readouterr().out

    _, _, second = run(tmp_path / "test.npz", "--trained-by", ours)
    predictions = ["--predictions", str(tested), str(second)]
    assert ensemble.main([str(made), str(ours), *predictions, "--out", str(tmp_path / "out")]) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert set(verify_run(folder)["files"]) == {"oof.npz", "probabilities.npz", "submission.csv"}


def test_folds_come_from_a_table_from_the_file_or_are_not_known(tmp_path, run, synthetic_train, predicted):
    ids, fold = synthetic_train.ids, np.arange(40) % 3
    np.savez(tmp_path / "a.npz", ids=ids, probabilities=predicted)
    np.savez(tmp_path / "b.npz", ids=ids, probabilities=predicted, fold=fold)
    (tmp_path / "folds.csv").write_text("fold,id\n" + "".join(f"{f},{i}\n" for i, f in zip(ids, fold, strict=True)))
    _, text, none = run(tmp_path / "a.npz")
    assert "no folds are known" in text and not read_oof(none / "oof.npz").fold.any()
    for source, options in (("a.npz", ("--folds", tmp_path / "folds.csv")), ("b.npz", ())):
        np.testing.assert_array_equal(read_oof(run(tmp_path / source, *options)[2] / "oof.npz").fold, fold)
    (tmp_path / "folds.csv").write_text(f"id,fold\n{ids[0]},0\n")
    status, text, _ = run(tmp_path / "a.npz", "--folds", tmp_path / "folds.csv")
    assert status == 1 and "39 of the tiles have no fold" in text
    np.savez(tmp_path / "b.npz", ids=ids, probabilities=predicted, fold=fold + 0.5)
    assert "whole numbers" in run(tmp_path / "b.npz")[1]


def test_the_order_of_the_tiles_is_free(tmp_path, run, synthetic_train, predicted):
    order = np.random.default_rng(1).permutation(len(predicted))
    np.savez(tmp_path / "p.npz", ids=synthetic_train.ids[order], probabilities=predicted[order])
    oof = read_oof(run(tmp_path / "p.npz")[2] / "oof.npz")
    assert oof.ids.tolist() == synthetic_train.ids[order].tolist()
    np.testing.assert_array_equal(oof.masks, synthetic_train.masks[order])


def test_run_lengths_are_scored_without_a_threshold_to_choose(tmp_path, run, synthetic_train):
    write_submission(tmp_path / "m.csv", synthetic_train.ids, synthetic_train.masks, TGS)
    status, _, made = run(tmp_path / "m.csv")
    assert status == 0 and score_oof.main([str(made)]) == 0
    score = json.loads((made / "score.json").read_text())
    assert score["half_score"] == score["best_score"] == 1.0 and score["flat_levels"] == [1, 255]


@pytest.mark.parametrize("turn", ["transpose", "mirror", "flip", "turn", "invert"])
def test_what_looks_turned_is_refused_and_the_remedy_puts_it_right(tmp_path, run, synthetic_train, predicted, turn):
    turned = {
        "transpose": predicted.transpose(0, 2, 1),
        "mirror": predicted[:, :, ::-1],
        "flip": predicted[:, ::-1],
        "turn": predicted[:, ::-1, ::-1],
        "invert": 1 - predicted,
    }[turn]
    np.savez(tmp_path / "p.npz", ids=synthetic_train.ids, probabilities=turned)
    status, text, made = run(tmp_path / "p.npz")
    assert status == 1 and f"--apply {turn}" in text and not made.exists()
    status, _, made = run(tmp_path / "p.npz", "--apply", turn)
    assert status == 0 and verify_run(made)["imported"]["applied"] == [turn]
    np.testing.assert_allclose(read_oof(made / "oof.npz").probabilities, eight_bits(predicted), atol=1)
    status, _, made = run(tmp_path / "p.npz", "--as-is")
    assert status == 0
    np.testing.assert_array_equal(read_oof(made / "oof.npz").probabilities, eight_bits(turned))


def test_a_model_that_is_never_sure_does_not_look_inverted(tmp_path, run, synthetic_train, predicted):
    np.savez(tmp_path / "p.npz", ids=synthetic_train.ids, probabilities=0.4 * predicted)
    status, text, _ = run(tmp_path / "p.npz")
    assert status == 0, text


def test_padded_predictions_are_named_and_cropped_on_request(tmp_path, run, synthetic_train, predicted):
    padded = np.pad(predicted, ((0, 0), (13, 14), (13, 14)))
    np.savez(tmp_path / "p.npz", ids=synthetic_train.ids, probabilities=padded)
    status, text, _ = run(tmp_path / "p.npz")
    assert status == 1 and "128 x 128 pixels, a tile has 101 x 101" in text and "--apply crop" in text
    status, _, made = run(tmp_path / "p.npz", "--apply", "crop")
    np.testing.assert_array_equal(read_oof(made / "oof.npz").probabilities, eight_bits(predicted))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: 8 * p - 4, "give --logits"),
        (lambda p: 255 * p, "save those as uint8"),
        (lambda p: np.where(np.arange(len(p))[:, None, None] == 3, np.nan, p), "NaN or infinite"),
        (lambda p: (p > 0.5).astype(np.uint8), "looks like masks of 0 and 1"),
        (lambda p: (255 * p).astype(np.int32), "int32; must be float"),
        (lambda p: p[:, :50, :50], "50 x 50 pixels"),
        (lambda p: p[:30], "0 arrays may be predictions of the 40 ids"),
    ],
)
def test_values_that_are_no_probabilities_are_refused_with_a_remedy(
    tmp_path, run, synthetic_train, predicted, change, message
):
    np.savez(tmp_path / "p.npz", ids=synthetic_train.ids, probabilities=change(predicted))
    status, text, made = run(tmp_path / "p.npz")
    assert status == 1 and message in text and not made.exists()


def test_missing_unknown_and_repeated_ids_are_named(tmp_path, run, synthetic_train, synthetic_test, predicted):
    ids = synthetic_train.ids
    np.savez(tmp_path / "p.npz", ids=ids[:30], probabilities=predicted[:30])
    status, text, made = run(tmp_path / "p.npz")
    assert status == 0 and "10 of the 40 training tiles are not predicted" in text
    assert len(read_oof(made / "oof.npz").ids) == 30
    for changed, message in (
        ([*ids[:39], "stranger"], "1 of its 40 ids are none of the 40 training tiles: stranger"),
        ([*ids[:39], synthetic_test.ids[0]], f"training tiles: {synthetic_test.ids[0]}"),
        ([*ids[:39], ids[0]], f"{ids[0]}: predicted more than once"),
    ):
        np.savez(tmp_path / "p.npz", ids=changed, probabilities=predicted)
        status, text, _ = run(tmp_path / "p.npz")
        assert status == 1 and message in text
    np.savez(tmp_path / "p.npz", ids=synthetic_test.ids[:9], probabilities=predicted[:9])
    status, text, _ = run(tmp_path / "p.npz")
    assert status == 1 and "1 of the 10 test tiles are not predicted" in text
    np.save(tmp_path / "p.npy", predicted)
    assert "give --ids FILE" in run(tmp_path / "p.npy")[1]
    assert "no such file" in run(tmp_path / "nothing.npz")[1]


def test_a_submission_file_of_any_origin_is_checked_and_known_again(tmp_path, synthetic_folder, synthetic_test, capsys):
    rows = zip(synthetic_test.ids[::-1], encode_rles(synthetic_test.masks[::-1]), strict=True)
    with open(tmp_path / "mine.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "rle_mask"), *rows])
    arguments = ["--data", str(synthetic_folder), "--runs", str(tmp_path / "runs"), "--dry-run"]
    assert submit.main([str(tmp_path / "mine.csv"), *arguments], link=OFFLINE) == 0
    assert "10 rows" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    one, other = (
        run_of_file(
            OFFLINE,
            tmp_path / "mine.csv",
            synthetic_folder,
            tmp_path / "runs",
            dry_run=False,
        )
        for _ in range(2)
    )
    (made,) = (tmp_path / "runs").iterdir()
    assert verify_run(made)["kernel"] == "imported" and made.name.startswith("submission-")
    assert one.folder == other.folder == made
    assert (made / "submission.csv").read_bytes() == (tmp_path / "mine.csv").read_bytes()
    (tmp_path / "short.csv").write_text("id,rle_mask\nx,1 1\n")
    assert submit.main([str(tmp_path / "short.csv"), *arguments], link=OFFLINE) == 1
    assert "missing 10" in capsys.readouterr().err and list((tmp_path / "runs").iterdir()) == [made]
