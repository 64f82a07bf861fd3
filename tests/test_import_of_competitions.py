"""Predictions of another program for competitions with classes, objects, rows of pixels, or images of several sizes."""

import dataclasses
import json

import numpy as np
import pytest

from desk import paths
from salt.airbus import COMPETITION as AIRBUS
from salt.artifacts import read_oof, read_probabilities, verify_run
from salt.carvana import COMPETITION as CARVANA
from salt.competition import find_competition
from salt.data import read_test, read_train
from salt.scenes import write_scenes
from salt.severstal import COMPETITION as SEVERSTAL
from salt.stacks import all_sides
from salt.submission import check_submission, write_submission
from scripts import ensemble, import_predictions

SMALL = {
    "airbus": dataclasses.replace(AIRBUS, size=(48, 48)),
    "severstal": dataclasses.replace(SEVERSTAL, size=(32, 80)),
    "carvana": dataclasses.replace(CARVANA, size=(40, 60)),
}
VARIED = {f"varied {name}": dataclasses.replace(each, size=None) for name, each in SMALL.items()}
ALL = {**SMALL, **VARIED}
TRAIN, TEST = 12, 3


class Desk:
    """A synthetic competition, and predictions of its tiles as a fair model would give them."""

    def __init__(self, competition, folder):
        self.competition, self.folder = competition, folder
        self.files = find_competition(
            write_scenes(competition, folder / "data", TRAIN, TEST, progress=False), competition
        )
        self.train, self.test = read_train(self.files, progress=False), read_test(self.files, progress=False)
        rng = np.random.default_rng(0)
        classes = self.train.masks.shape[3:]
        self.predicted = [(0.75 * mask + 0.25 * rng.random(mask.shape)).astype(np.float32) for mask in self.train.masks]
        self.of_test = [rng.random((*sides, *classes)).astype(np.float32) for sides in all_sides(self.test.images)]

    def call(self, source, *options):
        name = f"made-{len(list((self.folder / 'runs').glob('made-*')))}"
        arguments = ["--data", str(self.folder / "data"), "--name", name, "--runs", str(self.folder / "runs")]
        return import_predictions.main([str(source), *arguments, *options]), self.folder / "runs" / name

    def imported(self, source, *options):
        status, made = self.call(source, *options)
        assert status == 0 and verify_run(made)["competition"] == self.competition.slug
        return made


@pytest.fixture
def desk(request, tmp_path, monkeypatch):
    competition = ALL[request.param]
    monkeypatch.setattr("desk.importing.load_competition", lambda name: competition)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return Desk(competition, tmp_path)


def eight_bits(values):
    return np.rint(255 * values.astype(np.float64)).astype(np.uint8)


def save_each(folder, ids, arrays):
    folder.mkdir()
    for tile, array in zip(ids, arrays, strict=True):
        np.save(folder / f"{tile}.npy", array)
    return folder


def check_oof(oof, ids, expected, masks, atol=0):
    rows = [oof.ids.tolist().index(tile) for tile in ids]
    for row, values, mask in zip(rows, expected, masks, strict=True):
        np.testing.assert_allclose(oof.probabilities[row].astype(int), values, rtol=0, atol=atol)
        np.testing.assert_array_equal(oof.masks[row], mask)


@pytest.mark.parametrize("desk", ALL, indirect=True)
def test_probabilities_and_run_lengths_of_training_tiles_become_a_run(desk):
    ids, masks = desk.train.ids, desk.train.masks
    made = desk.imported(save_each(desk.folder / "arrays", ids, desk.predicted))
    check_oof(read_oof(made / "oof.npz"), ids, map(eight_bits, desk.predicted), masks)
    first = [np.moveaxis(each, -1, 0) if each.ndim == 3 else each[None] for each in desk.predicted]
    made = desk.imported(save_each(desk.folder / "classes first", ids, first))
    check_oof(read_oof(made / "oof.npz"), ids, map(eight_bits, desk.predicted), masks)

    found = [(each >= 0.5).astype(np.uint8) for each in desk.predicted]
    assert sum(each.sum() for each in found) > 0
    write_submission(desk.folder / "masks.csv", ids, iter(found), desk.competition, desk.files.sample_submission)
    made = desk.imported(desk.folder / "masks.csv")
    check_oof(read_oof(made / "oof.npz"), ids, [255 * each for each in found], masks)


@pytest.mark.parametrize("desk", ALL, indirect=True)
def test_predictions_of_test_tiles_become_a_submission_that_its_rules_take(desk):
    ids = desk.test.ids
    made = desk.imported(save_each(desk.folder / "arrays", ids[::-1], desk.of_test[::-1]))
    known, probabilities = read_probabilities(made / "probabilities.npz")
    assert known.tolist() == ids.tolist()
    for found, values in zip(probabilities, desk.of_test, strict=True):
        np.testing.assert_array_equal(found, eight_bits(values))
    sides = desk.test.sides()
    check_submission(made / "submission.csv", desk.files.sample_submission, desk.competition, sides)


@pytest.mark.parametrize("desk", SMALL, indirect=True)
@pytest.mark.parametrize("classes_first", [False, True])
def test_one_array_of_all_tiles_is_taken_with_its_classes_on_either_side(desk, classes_first):
    whole = np.stack(desk.predicted)
    array = np.moveaxis(whole, -1, 1) if classes_first and whole.ndim == 4 else whole
    np.savez(desk.folder / "all.npz", ids=desk.train.ids, probabilities=array)
    oof = read_oof(desk.imported(desk.folder / "all.npz") / "oof.npz")
    check_oof(oof, desk.train.ids, eight_bits(whole), desk.train.masks)


@pytest.mark.parametrize("desk", SMALL, indirect=True)
def test_what_does_not_fit_into_memory_becomes_the_same_run_tile_by_tile(desk, monkeypatch):
    source = save_each(desk.folder / "arrays", desk.train.ids, desk.predicted)
    small = read_oof(desk.imported(source) / "oof.npz")
    monkeypatch.setattr("desk.probability_values.MOST_IN_MEMORY", 1000)
    made = desk.imported(source)
    check_oof(read_oof(made / "oof.npz"), small.ids, small.probabilities, small.masks)
    with np.load(made / "oof.npz") as arrays:
        assert "probabilities/000000" in arrays.files  # an entry for each tile: it was never an array of all


@pytest.mark.parametrize("desk", ALL, indirect=True)
@pytest.mark.parametrize("remedy", ["mirror", "flip", "turn", "invert"])
def test_what_looks_turned_is_refused_of_any_competition(desk, capsys, remedy):
    turn = {
        "mirror": lambda each: each[:, ::-1],
        "flip": lambda each: each[::-1],
        "turn": lambda each: each[::-1, ::-1],
        "invert": lambda each: 1 - each,
    }[remedy]
    source = save_each(desk.folder / "arrays", desk.train.ids, [turn(each) for each in desk.predicted])
    status, made = desk.call(source)
    assert status == 1 and f"--apply {remedy}" in capsys.readouterr().err and not made.exists()
    oof = read_oof(desk.imported(source, "--apply", remedy) / "oof.npz")
    check_oof(oof, desk.train.ids, map(eight_bits, desk.predicted), desk.train.masks, atol=1)


@pytest.mark.parametrize("desk", ["carvana"], indirect=True)
def test_sides_that_are_exchanged_are_named(desk, capsys):
    source = save_each(desk.folder / "arrays", desk.train.ids, [each.T for each in desk.predicted])
    assert desk.call(source)[0] == 1
    error = capsys.readouterr().err
    assert "has 60 x 40 pixels, a tile has 40 x 60; --apply transpose" in error
    made = desk.imported(source, "--apply", "transpose")
    check_oof(read_oof(made / "oof.npz"), desk.train.ids, map(eight_bits, desk.predicted), desk.train.masks)


@pytest.mark.parametrize("desk", ["severstal"], indirect=True)
def test_predictions_without_all_classes_are_refused(desk, capsys):
    whole = np.stack(desk.predicted)
    for wrong in (whole[..., :3], whole[..., 0]):
        np.savez(desk.folder / "all.npz", ids=desk.train.ids, probabilities=wrong)
        assert desk.call(desk.folder / "all.npz")[0] == 1
        assert "must be [H, W, 4] or [4, H, W]" in capsys.readouterr().err
    (desk.folder / "pictures").mkdir()
    (desk.folder / "pictures" / "a.png").write_bytes(b"")
    assert desk.call(desk.folder / "pictures")[0] == 1
    assert "a PNG holds one class of 4; save an npy of [H, W, 4] each" in capsys.readouterr().err
    lines = ["ImageId_ClassId,EncodedPixels", f"{desk.train.ids[0]}.jpg_1,1 1"]
    (desk.folder / "one.csv").write_text("\n".join(lines) + "\n")
    assert desk.call(desk.folder / "one.csv")[0] == 1
    assert "has no row, nor 2 others" in capsys.readouterr().err


@pytest.mark.parametrize("desk", ["severstal"], indirect=True)
def test_types_that_differ_from_file_to_file_are_refused(desk, capsys):
    arrays = [each if row else eight_bits(each) for row, each in enumerate(desk.predicted)]
    assert desk.call(save_each(desk.folder / "arrays", desk.train.ids, arrays))[0] == 1
    error = capsys.readouterr().err
    assert "predictions of different types" in error and "uint8" in error and "float32" in error


@pytest.mark.parametrize("desk", ["severstal"], indirect=True)
def test_the_folds_of_a_table_of_run_lengths_are_those_of_its_column(desk):
    found = [(each >= 0.5).astype(np.uint8) for each in desk.predicted]
    path = desk.folder / "masks.csv"
    write_submission(path, desk.train.ids, iter(found), desk.competition, desk.files.sample_submission)
    header, *rows = path.read_text().splitlines()
    fold = {tile: number % 3 for number, tile in enumerate(desk.train.ids.tolist())}
    rows = [f"{row},{fold[row.split(',')[0].rpartition('.')[0]]}" for row in rows]
    path.write_text("\n".join([f"{header},fold", *rows]) + "\n")
    made = desk.imported(path)
    oof = read_oof(made / "oof.npz")
    assert oof.fold.tolist() == [fold[tile] for tile in oof.ids.tolist()]
    assert json.loads((made / "manifest.json").read_text())["config"]["folds"] == 3


@pytest.mark.parametrize("desk", ["severstal", "varied carvana"], indirect=True)
def test_an_ensemble_of_large_predictions_is_that_of_small_ones(desk, monkeypatch):
    monkeypatch.setattr("desk.scoring.competition_of", lambda manifest: desk.competition)
    sources = []
    for number, share in enumerate((1.0, 0.8)):
        trained, tested = ([share * each for each in values] for values in (desk.predicted, desk.of_test))
        source = save_each(desk.folder / f"train {number}", desk.train.ids, trained)
        sources.append((source, save_each(desk.folder / f"test {number}", desk.test.ids, tested)))
    found = []
    for most in (1 << 30, 1000):
        monkeypatch.setattr("desk.probability_values.MOST_IN_MEMORY", most)
        runs = [desk.imported(source) for source, _ in sources]
        tests = [source for _, source in sources]
        predictions = [desk.imported(each, "--trained-by", run.name) for each, run in zip(tests, runs, strict=True)]
        out = desk.folder / f"out {most}"
        assert ensemble.main([*map(str, runs), "--predictions", *map(str, predictions), "--out", str(out)]) == 0
        (made,) = out.iterdir()
        found.append((made / "submission.csv").read_text())
        check_submission(made / "submission.csv", desk.files.sample_submission, desk.competition, desk.test.sides())
    assert found[0] == found[1]
