import numpy as np
import pytest

from salt.artifacts import ArtifactError, Oof, write_manifest, write_oof
from salt.config import preset
from salt.parts import read_trained_run


@pytest.fixture
def make_part(tmp_path):
    """Makes the output of a train kernel that trained some folds, of two tiles each."""

    def make(folds, tiles=None, finished=True, **changes):
        folder = tmp_path / f"part-{'-'.join(map(str, folds))}"
        folder.mkdir()
        ids = np.array(tiles or [f"{fold}{letter}" for fold in folds for letter in "ab"])
        masks = np.zeros((len(ids), 101, 101), np.uint8)
        fold = np.repeat(np.array(folds, np.int8), 2)
        write_oof(folder / "oof.npz", Oof(ids, fold, masks + fold[:, None, None].astype(np.uint8), masks))
        for held_out in folds:
            (folder / f"fold{held_out}.weights.h5").write_bytes(b"w%d" % held_out)
        config = preset("smoke", **{"folds": 4, "train_folds": folds, "minutes": 10.0, **changes})
        write_manifest(folder, f"train-{folds[0]}", "train", config, **({} if finished else {"finished": False}))
        return folder

    return make


def test_a_run_in_one_folder_is_what_its_manifest_says(make_part):
    folder = make_part([0, 1])
    run = read_trained_run([folder])
    assert run.config == preset("smoke", folds=4, train_folds=(0, 1), minutes=10.0)
    assert run.run_ids == ["train-0"] and list(run.oof.ids) == ["0a", "0b", "1a", "1b"]
    assert run.weights == {fold: folder / f"fold{fold}.weights.h5" for fold in (0, 1)}


def test_parts_become_one_run_in_the_order_of_their_folds(make_part):
    run = read_trained_run([make_part([2, 3]), make_part([0]), make_part([1])], folds=[0, 1, 2, 3])
    assert run.config == preset("smoke", folds=4, train_folds=(0, 1, 2, 3), minutes=30.0)
    assert run.run_ids == ["train-0", "train-1", "train-2"] and list(run.weights) == [0, 1, 2, 3]
    assert [path.read_bytes() for path in run.weights.values()] == [b"w0", b"w1", b"w2", b"w3"]
    assert list(run.oof.fold) == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(run.oof.probabilities[:, 0, 0], run.oof.fold)


def test_parts_with_different_settings_are_refused(make_part):
    with pytest.raises(ArtifactError, match="train-1 is no part of the run of train-0: it has epochs=3, not 2; seed=7"):
        read_trained_run([make_part([0]), make_part([1], epochs=3, seed=7)])


def test_parts_may_differ_in_what_does_not_decide_about_results(make_part):
    run = read_trained_run([make_part([0], limit_minutes=54.0, workers=1), make_part([1])])
    assert run.config.train_folds == (0, 1)


def test_a_fold_in_two_parts_is_refused(make_part):
    with pytest.raises(ArtifactError, match="fold 1 is in two of the parts, the second is train-1"):
        read_trained_run([make_part([0, 1]), make_part([1])])


def test_a_tile_in_two_parts_is_refused(make_part):
    with pytest.raises(ArtifactError, match="id '0a' is there 2 times"):
        read_trained_run([make_part([0]), make_part([1], tiles=["1a", "0a"])])


def test_a_fold_in_none_of_the_parts_is_refused(make_part):
    with pytest.raises(ArtifactError, match="folds 1, 3 are in none of the parts, which have 0, 2"):
        read_trained_run([make_part([0]), make_part([2])], folds=(0, 1, 2, 3))


def test_a_part_that_has_not_reached_its_end_is_refused(make_part):
    with pytest.raises(ArtifactError, match="train-1 has not reached its end; resume it first"):
        read_trained_run([make_part([0]), make_part([1], finished=False)])


def test_a_damaged_part_is_refused(make_part):
    folder = make_part([1])
    (folder / "fold1.weights.h5").write_bytes(b"w2")
    with pytest.raises(ArtifactError, match="fold1.weights.h5 has another SHA-256"):
        read_trained_run([make_part([0]), folder])
