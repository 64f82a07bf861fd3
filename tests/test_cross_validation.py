"""What surrounds the training of a run's folds: whose state it is, on which GPUs, with which pseudo-labels.

Whole runs are in test_training.py.
"""

import dataclasses
import json

import numpy as np
import pytest
from training_tiles import TINY, tiles_with_two_black_ones, write_predict_run

from salt import cross_validation, mosaics
from salt.artifacts import ArtifactError, read_probabilities, write_manifest, write_probabilities
from salt.config import Config, config_from_dict, preset
from salt.cross_validation import read_pseudo_labels
from salt.folds import assign_folds, stratification_classes
from salt.slices import synthetic_slices
from salt.stacks import Stack
from salt.tgs import COMPETITION as TGS
from salt.tiles import Tiles
from salt.training import FoldJob, TrainingError, fold_batches


@pytest.fixture
def tiles():
    return tiles_with_two_black_ones()


def test_the_state_of_another_run_is_refused(tmp_path, tiles):
    config = preset("smoke", **TINY, epochs=1, folds=2)
    cross_validation.claim_state(tmp_path, config, tiles)
    cross_validation.claim_state(tmp_path, config, tiles)
    with pytest.raises(ArtifactError, match="belongs to a run that differs in epochs"):
        cross_validation.claim_state(tmp_path, preset("smoke", **TINY, epochs=3, folds=2), tiles)
    tiles.images[0, 0, 0] += 1
    with pytest.raises(ArtifactError, match="differs in the tiles"):
        cross_validation.claim_state(tmp_path, config, tiles)


@pytest.mark.parametrize(
    "workers, visible, shares, gpus",
    [
        (0, ["0", "1"], [(0, 2, 4), (1, 3)], ["0", "1"]),
        (2, [], [(0, 2, 4), (1, 3)], []),
        (9, ["0"], [(0,), (1,), (2,), (3,), (4,)], ["0"]),
        (1, ["0", "1"], None, None),
        (0, [], None, None),
    ],
)
def test_folds_are_dealt_to_as_many_processes_as_there_are_gpus_unless_told(
    monkeypatch, workers, visible, shares, gpus
):
    asked, here = [], []
    monkeypatch.setattr(cross_validation, "visible_gpus", lambda: visible)
    monkeypatch.setattr(
        cross_validation, "run_workers", lambda fit, tasks, gpus, show: asked.append((tasks, gpus)) or {}
    )
    assert cross_validation.fit_in_parallel(here.append, [0, 1, 2, 3, 4], workers) is None
    assert (asked, here) == (([(shares, gpus)], []) if shares else ([], [(0, 1, 2, 3, 4)]))


@pytest.fixture
def predicted(tmp_path, tiles):
    return write_predict_run(tmp_path / "predict", tiles)


def test_pseudo_labels_are_the_sure_predictions_of_a_verified_run(tiles, predicted):
    config = preset("smoke", pseudo=0.5, pseudo_confidence=0.9)
    pseudo = read_pseudo_labels(config, tiles, predicted)
    sure = [index for index in range(0, 40, 3) if tiles.images[index].any()]
    assert list(pseudo.ids) == list(tiles.ids[sure]) and len(sure) == 13
    np.testing.assert_array_equal(pseudo.images, tiles.images[sure])
    assert pseudo.masks[:, :50].all() and not pseudo.masks[:, 50:].any()
    with pytest.raises(TrainingError, match="predict-1 is that sure of none of the 40 test tiles"):
        read_pseudo_labels(preset("smoke", pseudo_confidence=0.999), tiles, predicted)


def test_pseudo_labels_of_tiles_that_stay_on_the_disk_are_the_same(tiles, predicted):
    config = preset("smoke", pseudo=0.5, pseudo_confidence=0.9)
    whole = read_pseudo_labels(config, tiles, predicted)
    ids, probabilities = read_probabilities(predicted / "probabilities.npz")
    write_probabilities(predicted / "probabilities.npz", ids, iter(probabilities))
    settings = config_from_dict(json.loads((predicted / "manifest.json").read_text())["config"])
    write_manifest(predicted, "predict-1", "predict", settings, level=130, minimum_area=0)
    streamed = dataclasses.replace(tiles, images=Stack(lambda row: tiles.images[row], tiles.images.shape))
    streamed = dataclasses.replace(streamed, competition=dataclasses.replace(TGS, blank=lambda images: tiles.blank()))
    pseudo = read_pseudo_labels(config, streamed, predicted)
    assert isinstance(pseudo.images, Stack) and isinstance(pseudo.masks, Stack)
    np.testing.assert_array_equal(pseudo.ids, whole.ids)
    np.testing.assert_array_equal(pseudo.images[:], whole.images)
    np.testing.assert_array_equal(pseudo.masks[:], whole.masks)
    # Squares are cut out of them in training, as out of the others.
    job = FoldJob(config, streamed, np.arange(40, dtype=np.int8) % 2, pseudo=pseudo)
    job = dataclasses.replace(job, config=dataclasses.replace(config, padded_size=64, batch_size=8))
    batch = fold_batches(job, 0)[0][0][0]
    assert batch["image"].shape == batch["mask"].shape == (8, 64, 64)


def test_pseudo_labels_of_other_tiles_or_a_damaged_run_are_refused(tiles, predicted):
    others = Tiles(tiles.ids[::-1], tiles.images, tiles.masks, tiles.depths, TGS)
    with pytest.raises(ArtifactError, match="predictions of 40 tiles that are not these 40"):
        read_pseudo_labels(preset("smoke"), others, predicted)
    (predicted / "probabilities.npz").write_bytes(b"something else")
    with pytest.raises(ArtifactError, match="does not match its manifest"):
        read_pseudo_labels(preset("smoke"), tiles, predicted)


def test_with_split_mosaic_a_slice_is_held_out_as_a_whole_and_a_resumed_run_has_the_same_folds(tmp_path, monkeypatch):
    cut = synthetic_slices(3, 4, 4, seed=5)
    tiles = Tiles(np.array([f"t{number}" for number in range(48)]), cut.images, cut.masks, np.full(48, np.nan), TGS)
    config = Config(split="mosaic", folds=3, train_folds=(0,))
    fold = cross_validation.split_tiles(config, tiles, tmp_path)
    assert all(len(set(fold[cut.mosaic == number])) == 1 for number in range(3)) and len(set(fold)) == 3
    monkeypatch.setattr(mosaics, "find_mosaics", None)  # as another processor might find others
    np.testing.assert_array_equal(cross_validation.split_tiles(config, tiles, tmp_path), fold)
    random = cross_validation.split_tiles(Config(folds=3, train_folds=(0,)), tiles, tmp_path)
    np.testing.assert_array_equal(random, assign_folds(stratification_classes(cut.masks, tiles.blank()), 3, seed=0))
