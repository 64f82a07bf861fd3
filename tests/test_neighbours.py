"""padding="neighbours": what a network is shown around a tile, in training and after it, and what it is never shown."""

import dataclasses

import numpy as np
import pytest
from training_tiles import TINY

from desk.local.kernels import run_kernel
from salt import training
from salt.artifacts import read_oof, read_probabilities, verify_run
from salt.borders import EMPTY, FULL, UNKNOWN, find_neighbourhood, pad_with_neighbours, paint_masks
from salt.config import ConfigError, config_from_dict, preset
from salt.cross_validation import fit_folds
from salt.description import DescriptionError
from salt.inference import predict_probabilities
from salt.layout import write_competition
from salt.metrics import AVERAGE_PRECISION
from salt.mosaics import MosaicError, Mosaics, read_mosaics, write_mosaics
from salt.networks import build_fold_model, build_model
from salt.slices import synthetic_slices
from salt.task import SegmentationTask
from salt.tgs import COMPETITION as TGS
from salt.tiles import Tiles, pad_images, shown_images
from salt.training import FoldJob, fold_batches

SETTINGS = {**TINY, "padded_size": 112, "epochs": 2, "folds": 3, "train_folds": (0,), "padding": "neighbours"}
CONFIG = preset("smoke", **SETTINGS, neighbour_masks=True)
SIDE, MARGIN = 2 * 112 - 101, 11  # of a tile with its surroundings, and of what surrounds it


@pytest.fixture(scope="module")
def slices():
    """Training tiles, test tiles, and the mosaics of both: two slices of 4 x 4, a quarter of whose tiles is tested."""
    cut = synthetic_slices(2, 4, 4, seed=3, noise=0)
    ids = np.array([f"t{number:02}" for number in range(32)])
    depths = np.full(32, np.nan)
    masks = (np.random.default_rng(0).random((32, 8, 8)) < 0.5).repeat(13, axis=1).repeat(13, axis=2)[:, :101, :101]
    train = Tiles(ids[:24], cut.images[:24], masks[:24].astype(np.uint8), depths[:24], TGS)
    test = Tiles(ids[24:], cut.images[24:], None, depths[24:], TGS)
    return train, test, Mosaics(cut.mosaic, cut.row, cut.column, np.ones(32))


@pytest.fixture
def table(tmp_path, slices):
    """The table of the mosaics where a run keeps it."""
    train, test, mosaics = slices
    path = tmp_path / "state" / "mosaics.csv"
    path.parent.mkdir()
    write_mosaics(path, np.concatenate([train.ids, test.ids]), mosaics)
    return path


FOLD = np.arange(24) % 3


def job_of(slices, table, config=CONFIG, **changes):
    train, test, _ = slices
    train = dataclasses.replace(train, **changes)
    return FoldJob(config, train, FOLD, around=find_neighbourhood(config, train, test, FOLD, table))


def beside(slices, train_only=False):
    """Pairs (tile, its right neighbour)."""
    places = {tuple(map(int, place)): tile for tile, place in enumerate(zip(*slices[2][:3], strict=True))}
    pairs = ((tile, places.get((m, r, c + 1))) for (m, r, c), tile in places.items())
    return [(tile, other) for tile, other in pairs if other is not None and (not train_only or max(tile, other) < 24)]


# --- leaks ---


def test_what_a_fold_holds_out_reaches_no_input_and_no_target_of_its_training(slices, table):
    masks = slices[0].masks
    other = np.where((FOLD == 0)[:, None, None], 1 - masks, masks)  # all that fold 0 holds out is turned round
    (trained, held), (trained_2, held_2) = (
        fold_batches(job_of(slices, table, masks=each), 0) for each in (masks, other)
    )
    np.testing.assert_array_equal(trained.images, trained_2.images)
    np.testing.assert_array_equal(trained.masks, trained_2.masks)
    np.testing.assert_array_equal(held.images, held_2.images)
    assert (held.masks != held_2.masks)[:, MARGIN:-MARGIN, MARGIN:-MARGIN].all()  # what it is scored against
    jobs = [job_of(slices, table, masks=each) for each in (masks, other)]
    predicted = [shown_images(job.tiles, FOLD == 0, job.around, 0) for job in jobs]
    np.testing.assert_array_equal(*predicted)
    np.testing.assert_array_equal(predicted[0], held.images)


def test_a_held_out_tile_is_shown_the_masks_of_its_trained_neighbours_and_of_no_others(slices, table):
    train = slices[0]
    _, held = fold_batches(job_of(slices, table), 0)
    pictures = dict(zip(train.ids[FOLD == 0], held.images.astype(int), strict=True))
    seen = set()
    for tile, other in beside(slices):
        if tile < 24 and FOLD[tile] == 0:
            picture = pictures[train.ids[tile]]
            tint = (picture[..., 0] - picture[..., 2])[MARGIN : MARGIN + 101, -MARGIN:]
            known = other < 24 and FOLD[other] != 0
            seen.add(known)
            expected = np.sign(2 * train.masks[other][:, :MARGIN].astype(int) - 1) if known else 0
            np.testing.assert_array_equal(np.sign(tint), expected * np.ones_like(tint))
    assert seen == {True, False}
    for picture in pictures.values():
        own = picture[MARGIN:-MARGIN, MARGIN:-MARGIN]
        assert (own == own[..., :1]).all()


def test_another_fold_is_shown_other_masks_and_test_tiles_all_of_the_training(slices, table):
    job, test = job_of(slices, table), slices[1]
    tested = job.around.surround(test.ids, test.images, held_out=-1)
    known = shown_images(test, slice(None), job.around, 0)
    assert (tested != known).any()
    grey = dataclasses.replace(job, around=job.around._replace(painted=False)).around.surround(
        test.ids, test.images, -1
    )
    np.testing.assert_array_equal(tested[..., 1], grey)
    coloured = (tested != tested[..., :1]).any(axis=-1)
    shown = [(tile, other) for tile, other in beside(slices) if tile >= 24]
    assert {other < 24 for _, other in shown} == {True, False}
    for tile, other in shown:
        assert coloured[tile - 24, MARGIN : MARGIN + 101, -MARGIN:].all() == (other < 24)


def test_training_shows_only_neighbours_whose_masks_it_knows_and_picture_and_truth_correspond(slices, table):
    config = dataclasses.replace(CONFIG, neighbour_masks=False)
    train, test, mosaics = slices
    trained, held = fold_batches(job_of(slices, table, config), 0)
    rows = {tile: row for row, tile in enumerate(np.flatnonzero(FOLD != 0))}
    every = np.concatenate([train.images, test.images])
    whole = pad_with_neighbours(every, mosaics, SIDE)
    border = np.s_[MARGIN : MARGIN + 101, -MARGIN:]
    kinds = set()
    for tile, other in beside(slices):
        if tile in rows:
            known = other < 24 and FOLD[other] != 0
            kinds.add(known)
            mirrored = (pad_images(each[tile : tile + 1], SIDE)[0][border] for each in (train.images, train.masks))
            picture, truth = (whole[tile][border], train.masks[other][:, :MARGIN]) if known else mirrored
            np.testing.assert_array_equal(trained.images[rows[tile]][border], picture)
            np.testing.assert_array_equal(trained.masks[rows[tile]][border], truth)
    assert kinds == {True, False}
    np.testing.assert_array_equal(held.images, whole[:24][FOLD == 0])  # there every neighbour is shown


# --- pictures ---


def test_known_masks_are_colours_and_unknown_ones_stay_grey_at_every_grey_level():
    grey = np.arange(256, dtype=np.uint8)[None]
    colour = [paint_masks(grey, np.full_like(grey, value)).astype(int) for value in (EMPTY, UNKNOWN, FULL)]
    assert (colour[0][..., 2] - colour[0][..., 0]).min() >= 64 <= (colour[2][..., 0] - colour[2][..., 2]).min()
    np.testing.assert_array_equal(colour[1], grey[..., None].repeat(3, axis=-1))


def test_the_middle_of_a_surrounded_tile_is_the_tile_and_one_without_neighbours_is_mirrored(slices, table):
    train = slices[0]
    lonely = np.random.default_rng(1).integers(0, 256, (1, 101, 101), dtype=np.uint8)
    around = job_of(slices, table, dataclasses.replace(CONFIG, neighbour_masks=False)).around
    np.testing.assert_array_equal(around.surround(np.array(["other"]), lonely, 0), pad_images(lonely, SIDE))
    surrounded = around.surround(train.ids, train.images, 0)
    assert surrounded.shape == (24, SIDE, SIDE)
    padded = pad_images(surrounded, 112, "neighbours")  # as pad_images itself would put the tile
    np.testing.assert_array_equal(padded[:, 5:106, 5:106], train.images)
    assert (padded != pad_images(train.images, 112)).any(axis=(1, 2)).all()


def test_a_network_of_painted_masks_takes_colours_and_one_of_pixels_alone_takes_grey():
    assert build_model(CONFIG).input_shape[-1] == 3
    assert build_model(dataclasses.replace(CONFIG, neighbour_masks=False)).input_shape[-1] == 1


def test_in_validation_the_network_sees_the_padded_square_and_in_training_it_is_warped_as_a_whole(slices, table):
    trained, held = fold_batches(job_of(slices, table), 0)
    seen = []
    network = build_model(CONFIG)

    class Task(SegmentationTask):
        def call(self, inputs, training=False):
            self.network = lambda images, training: seen.append(np.asarray(images)) or network(images)
            return super().call(inputs, training)

    task = Task(network, CONFIG, AVERAGE_PRECISION)
    batch = held[0][0]
    result = task(batch)
    np.testing.assert_array_equal(seen[0], pad_images(batch["image"], 112, "neighbours"))
    np.testing.assert_array_equal(result["mask"], batch["mask"][:, MARGIN:-MARGIN, MARGIN:-MARGIN])
    assert tuple(result["logits"].shape[1:]) == (101, 101)
    task(trained[0][0], training=True)
    assert seen[1].shape == (8, 112, 112, 3)
    tints = np.abs(seen[1][..., 0] - seen[1][..., 2])
    assert tints.max() > 60 and np.median(tints[:, 40:70, 40:70]) == 0


# --- runs ---


def test_a_run_keeps_its_mosaics_and_resumed_ends_with_the_same_bits(slices, table, tmp_path, monkeypatch):
    train, test, _ = slices
    run, state = tmp_path / "run", table.parent

    class Killed(training.Checkpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "Checkpoint", Killed)
        fit_folds(CONFIG, train, run, state, test=test)
    resumed = fit_folds(CONFIG, train, run, state, test=test)
    assert list(resumed.history["epoch"]) == [1, 2] and resumed.failure is None
    whole = tmp_path / "whole"
    (whole / "state").mkdir(parents=True)
    (whole / "state" / "mosaics.csv").write_bytes(table.read_bytes())
    outcome = fit_folds(CONFIG, train, whole, whole / "state", test=test)
    np.testing.assert_array_equal(resumed.oof.probabilities, outcome.oof.probabilities)
    assert resumed.oof.probabilities.shape[1:] == (101, 101)
    assert (run / "mosaics.csv").read_bytes() == table.read_bytes()


@pytest.mark.slow
def test_the_notebooks_train_and_predict_with_neighbours_and_their_masks(slices, tmp_path):
    train, test, _ = slices
    folder = write_competition(
        TGS, tmp_path / "data", train.ids, train.images, train.masks, train.depths, test.ids, test.images, test.depths
    )
    settings = {"padding": "neighbours", "neighbour_masks": True, "split": "mosaic", "padded_size": 112}
    options = {"data": folder, "runs": tmp_path / "runs", "minutes": 30}
    trained = run_kernel("train", preset="smoke", settings=settings, **options)
    assert "mosaics.csv" in verify_run(trained)["files"]
    table = read_mosaics(trained / "mosaics.csv", np.concatenate([train.ids, test.ids]))
    assert (table.mosaic >= 0).sum() > 24  # of both kinds
    fold = read_oof(trained / "oof.npz")
    inside = np.isin(train.ids, fold.ids)
    placed = table.mosaic[:24] >= 0
    assert not set(table.mosaic[:24][inside & placed]) & set(table.mosaic[:24][~inside & placed])
    predicted = run_kernel("predict", mounted_runs=[trained], **options)
    ids, probabilities = read_probabilities(predicted / "probabilities.npz")
    assert list(ids) == list(test.ids) and probabilities.shape == (8, 101, 101)
    config = config_from_dict(verify_run(trained)["config"])
    model = build_fold_model(config)
    model.load_weights(trained / "fold0.weights.h5")
    around = find_neighbourhood(config, train, test, np.zeros(24, int), trained / "mosaics.csv")
    pictures = around.surround(test.ids, test.images, held_out=-1)
    assert (pictures != pictures[..., :1]).any()
    expected = predict_probabilities([model], pictures, config.tta, 112, "neighbours", progress=False)
    np.testing.assert_allclose(probabilities, expected, atol=1)


# --- refusals ---


def test_masks_of_neighbours_that_are_not_shown_are_refused():
    with pytest.raises(ConfigError, match="neighbour_masks=True: with padding='reflect' none is shown"):
        preset("smoke", neighbour_masks=True)


def test_tiles_without_a_border_and_pictures_without_surroundings_are_refused(slices, table):
    train, test, _ = slices
    with pytest.raises(MosaicError, match="padded_size=100: tiles of 101 pixels have no border"):
        find_neighbourhood(preset("smoke", **{**SETTINGS, "padded_size": 100}), train, test, FOLD, table)
    with pytest.raises(ValueError, match="images of 101 pixels: with padding='neighbours' they are tiles with their"):
        pad_images(train.images, 112, "neighbours")
    colours = dataclasses.replace(train, images=train.images[..., None].repeat(3, axis=3))
    with pytest.raises(MosaicError, match="needs grey square tiles in memory with one mask each"):
        find_neighbourhood(CONFIG, colours, None, FOLD, table)


def test_a_competition_without_slices_is_refused(slices, tmp_path):
    none = dataclasses.replace(slices[0], competition=dataclasses.replace(TGS, find_mosaics=None))
    with pytest.raises(DescriptionError, match="padding='neighbours': TGS Salt Identification Challenge has no larger"):
        fit_folds(CONFIG, none, tmp_path, tmp_path / "state")
