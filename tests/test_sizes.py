"""Competitions whose images differ in size: read, dealt into folds, trained on, predicted, scored, shown, submitted."""

import dataclasses

import numpy as np
import pytest

from desk.pages import explore, report
from desk.scoring import open_run, score_runs
from salt.airbus import COMPETITION as AIRBUS
from salt.archives import DataError
from salt.artifacts import Oof, read_oof, read_probabilities, write_manifest, write_oof, write_probabilities
from salt.carvana import COMPETITION as CARVANA
from salt.competition import find_competition
from salt.config import preset
from salt.cross_validation import fit_folds
from salt.data import describe_tiles, read_test, read_test_sides, read_train
from salt.folds import stratification_classes
from salt.inference import predict_run, predict_tiles
from salt.levels import choose_level_and_area, count_oof, level_table
from salt.metrics import coverage_tenths
from salt.networks import build_model
from salt.objects import score_objects
from salt.postprocess import postprocess
from salt.scenes import synthetic_scenes, write_scenes
from salt.severstal import COMPETITION as SEVERSTAL
from salt.stacks import Stack, all_sides, differ_in_size, join_stacks, listed_stack, marked_pixels, subset
from salt.submission import SubmissionError, check_submission, split_objects, write_submission
from salt.task import TileBatches

VARIED = {
    "airbus": dataclasses.replace(AIRBUS, size=None),
    "severstal": dataclasses.replace(SEVERSTAL, size=None),
    "carvana": dataclasses.replace(CARVANA, size=None),
}
SETTINGS = dict(padded_size=96, depth=3, filter_scaling=1, batch_size=4, steps=2, folds=2, train_folds=(0,), tta="none")
COUNT = 12


def written(folder, name):
    """A competition's files, its training tiles, and its test tiles."""
    files = find_competition(write_scenes(VARIED[name], folder, COUNT, 3, progress=False), VARIED[name])
    return files, read_train(files, progress=False), read_test(files, progress=False)


@pytest.fixture(scope="module", params=VARIED)
def read(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp("varied") / "data", request.param)


def same(first, second):
    return len(first) == len(second) and all(np.array_equal(*pair) for pair in zip(first, second, strict=True))


def test_each_image_has_the_size_of_its_file_and_its_mask_has_it_too(read):
    files, tiles, test = read
    made = synthetic_scenes(files.competition, COUNT + 3, seed=0, progress=False)
    rows = [made.ids.tolist().index(tile) for tile in tiles.ids]
    assert len(set(map(tuple, all_sides(tiles.images).tolist()))) > COUNT // 2
    np.testing.assert_array_equal(all_sides(tiles.images), all_sides(made.images)[rows])
    assert same(tiles.masks, subset(made.masks, np.array(rows)))
    assert (
        test.sides() == read_test_sides(files) == dict(zip(test.ids, map(tuple, all_sides(test.images)), strict=True))
    )
    streamed = read_train(files, progress=False, most=1000)
    assert same(streamed.images, tiles.images) and same(streamed.masks, tiles.masks)
    np.testing.assert_array_equal(marked_pixels(streamed.masks), marked_pixels(tiles.masks))
    assert describe_tiles(streamed) == describe_tiles(tiles)


def test_folds_are_dealt_by_the_share_of_each_image_s_own_pixels(read):
    _, tiles, _ = read
    blank = np.zeros(COUNT, bool)
    if tiles.masks.ndim == 3:
        expected = [coverage_tenths(int(mask.sum()), mask.size) for mask in tiles.masks]
        np.testing.assert_array_equal(stratification_classes(tiles.masks, blank), expected)
    else:
        assert len(set(stratification_classes(tiles.masks, blank))) > 1


def test_a_training_step_cuts_squares_of_one_size_and_mirrors_what_is_smaller(read):
    _, tiles, _ = read
    sides = all_sides(tiles.images)
    side = int(sides.max()) - 1  # larger than most sides
    batches = TileBatches(tiles.images, tiles.masks, COUNT, window=side)
    (batch,) = batches[0]
    assert batch["image"].shape == (COUNT, side, side, 3) and batch["mask"].shape[1:3] == (side, side)
    for row, (height, width) in enumerate(sides):
        if max(height, width) <= side:  # no square is cut: all of the image lies in the middle
            top, left = (side - height) // 2, (side - width) // 2
            inside = batch["image"][row, top : top + height, left : left + width]
            np.testing.assert_array_equal(inside, tiles.images[row])
            assert left == 0 or np.array_equal(batch["image"][row, :, left - 1], batch["image"][row, :, left + 1])


@pytest.mark.parametrize(
    "name", ["severstal", *(pytest.param(x, marks=pytest.mark.slow) for x in ("airbus", "carvana"))]
)
def test_a_run_goes_from_the_files_to_a_checked_submission(name, tmp_path, monkeypatch):
    files, tiles, test = written(tmp_path / "data", name)
    competition, config = files.competition, preset("smoke", **SETTINGS)
    outcome = fit_folds(config, tiles, tmp_path / "run", tmp_path / "state")
    oof = outcome.oof
    held = np.array([tiles.ids.tolist().index(each) for each in oof.ids])
    assert same(oof.masks, subset(tiles.masks, held)) and differ_in_size(oof.probabilities) and not outcome.unfinished
    np.testing.assert_array_equal(all_sides(oof.probabilities), all_sides(tiles.images)[held])
    write_manifest(tmp_path / "run", "run", "train", config, competition=competition.slug)
    monkeypatch.setattr("desk.scoring.competition_of", lambda manifest: competition)
    run = open_run(tmp_path / "run")
    score = score_runs([run], run.oof, files.folder)
    assert score["tiles"] == len(held) and 0 <= score["nested_score"] <= 1
    page = report.write_report(tmp_path / "run", None, files.folder).read_text()
    assert page.count('id="true-images-') > 0 and '"pixels":[' in page
    explore.write_exploration(tmp_path / "explore.html", tiles, test)

    channels, classes = 3, len(competition.classes)
    model = build_model(config, None, channels, classes)
    model.load_weights(tmp_path / "run" / "fold0.weights.h5")
    write_probabilities(tmp_path / "p.npz", test.ids, predict_run([model], test.images, test.blank(), config))
    _, probabilities = read_probabilities(tmp_path / "p.npz")
    np.testing.assert_array_equal(all_sides(probabilities), all_sides(test.images))
    table = level_table(count_oof(oof), competition.metric)
    masks = postprocess(probabilities, *choose_level_and_area(table, competition.metric))
    write_submission(tmp_path / "s.csv", test.ids, masks, competition, files.sample_submission)
    facts = check_submission(tmp_path / "s.csv", files.sample_submission, competition, test.sides())
    shares = [mask.mean(axis=(0, 1)) for mask in masks]
    if not competition.train_table.objects:
        assert facts["rows"] == len(test.ids) * classes
        assert facts["mean_coverage"] == pytest.approx(np.mean(shares))
    del facts["mean_coverage"]
    assert check_submission(tmp_path / "s.csv", files.sample_submission, competition) == facts


def test_the_score_of_images_is_that_of_each_one_by_itself(read):
    _, tiles, _ = read
    metric, rng = tiles.competition.metric, np.random.default_rng(0)
    probabilities = listed_stack([rng.integers(0, 256, mask.shape, dtype=np.uint8) for mask in tiles.masks])
    oof = Oof(tiles.ids, np.arange(COUNT, dtype=np.int8) % 2, probabilities, tiles.masks)
    table = level_table(count_oof(oof), metric)
    for row, (values, mask) in enumerate(zip(probabilities, tiles.masks, strict=True)):
        found = values >= 100
        counts = [each.sum(axis=(0, 1)) for each in (found & (mask > 0), found, mask)]
        np.testing.assert_allclose(table.scores[row, ..., 99], metric.score(*counts))
    if tiles.competition.train_table.objects:
        score = score_objects(oof, count_oof(oof), metric, lambda row: split_objects(oof.masks[row]), draws=10)
        assert 0 <= score["score"] <= 1


def test_the_prediction_of_an_image_does_not_depend_on_the_others():
    test = synthetic_scenes(VARIED["severstal"], 3, seed=1, progress=False)
    config = preset("smoke", **SETTINGS)
    model = build_model(config, None, 3, len(test.competition.classes))
    together = list(predict_tiles([model], test.images, "flip", 96, progress=False))
    for image, predicted in zip(test.images, together, strict=True):
        (alone,) = predict_tiles([model], image[None], "flip", 96, progress=False)
        np.testing.assert_allclose(alone.astype(int), predicted, atol=1)


def test_runs_behind_an_image_s_own_end_are_refused(read, tmp_path):
    files, _, test = read
    competition = files.competition
    masks = [np.zeros((*sides, len(competition.classes)), np.uint8) for sides in all_sides(test.images)]
    masks = listed_stack(masks if len(competition.classes) > 1 else [mask[..., 0] for mask in masks])
    write_submission(tmp_path / "s.csv", test.ids, masks, competition, files.sample_submission)
    height, width = test.sides()[test.ids[1]]
    lines = (tmp_path / "s.csv").read_text().splitlines()
    place = next(row for row, line in enumerate(lines) if line.startswith(f"{test.ids[1]}."))
    for last, problem in ((1, None), (2, "goes past the end")):
        rows = [*lines[:place], f"{lines[place]}{height * width} {last}", *lines[place + 1 :]]
        (tmp_path / "s.csv").write_text("\n".join(rows) + "\n")
        if problem is None:
            check_submission(tmp_path / "s.csv", files.sample_submission, competition, test.sides())
            continue
        with pytest.raises(SubmissionError, match=f"{problem}: the tile has {height * width} pixels"):
            check_submission(tmp_path / "s.csv", files.sample_submission, competition, test.sides())


def test_out_of_fold_predictions_keep_the_size_of_each_tile(read, tmp_path):
    _, tiles, _ = read
    oof = Oof(tiles.ids, np.zeros(COUNT, np.int8), tiles.masks, tiles.masks)
    write_oof(tmp_path / "oof.npz", oof)
    found = read_oof(tmp_path / "oof.npz")
    assert same(found.masks, tiles.masks) and same(found.probabilities, tiles.masks)
    wrong = subset(tiles.masks, np.roll(np.arange(COUNT), 1))
    with pytest.raises(ValueError, match=f"probabilities and masks of {tiles.ids[0]} differ in size"):
        write_oof(tmp_path / "oof.npz", oof._replace(masks=wrong))


def test_a_mask_file_of_another_size_than_its_image_is_named(tmp_path):
    competition = VARIED["carvana"]
    folder = write_scenes(competition, tmp_path / "data", 4, 1, progress=False)
    import zipfile

    with zipfile.ZipFile(folder / "train_masks.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    first, second, *_ = members
    members[first] = members[second]
    with zipfile.ZipFile(folder / "train_masks.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=rf"{first}: \d+ x \d+ pixels; a tile has \d+ x \d+"):
        read_train(find_competition(folder, competition), progress=False)


def test_several_tiles_of_one_size_are_an_array_and_others_a_stack_which_is_never_read_as_a_whole():
    arrays = [np.full((height, 3), height, np.uint8) for height in (2, 4, 4, 3)]
    stack = listed_stack(arrays)
    assert stack.shape == (4, 4, 3) and len(stack) == 4
    assert isinstance(stack[1:3], np.ndarray) and stack[1:3].shape == (2, 4, 3)
    assert isinstance(stack[0:2], Stack) and same(stack[0:2], arrays[:2])
    joined = join_stacks(np.zeros((1, 5, 3), np.uint8), stack)
    assert joined.shape == (5, 5, 3) and same(joined, [np.zeros((5, 3)), *arrays])
    with pytest.raises(TypeError, match="a stack of 4 arrays is no array"):
        np.asarray(stack)
