import numpy as np
import pytest
import scipy.stats

from desk.score_tables import verdict
from salt.artifacts import Oof, write_manifest, write_oof
from salt.config import Config
from salt.levels import ScoringError
from salt.metrics import AVERAGE_PRECISION, average_precision
from salt.postprocess import postprocess
from salt.scoring import compare_oof, score_oof
from scripts import compare


def make_oof(signal=100, seed=0, count=40, order=None):
    generator = np.random.default_rng(0)
    masks = (generator.random((count, 101, 1)) < generator.random((count, 1, 1))).astype(np.uint8)
    masks = np.repeat(masks, 101, axis=2)
    masks[::4] = 0
    noise = np.random.default_rng(seed).integers(0, 150, masks.shape)
    probabilities = np.clip(signal * masks + noise, 0, 255).astype(np.uint8)
    probabilities[::8] = 0
    order = np.arange(count) if order is None else order
    ids = np.array([f"t{index:02}" for index in range(count)])
    return Oof(ids[order], (np.arange(count) % 2).astype(np.int8)[order], probabilities[order], masks[order])


def write(folder, oof, run_id):
    folder.mkdir()
    write_oof(folder / "oof.npz", oof)
    write_manifest(folder, run_id, "train", Config(train_folds=(0, 1)))
    return str(folder)


def nested_precision(oof):
    """Per tile with the level and area that the other folds chose, by masks made anew."""
    precision = np.empty(len(oof.ids))
    for choice in score_oof(oof, AVERAGE_PRECISION, draws=2)["choices"]:
        own = oof.fold == choice["part"]
        masks = postprocess(oof.probabilities[own], choice["level"], choice["minimum_area"])
        precision[own] = average_precision(masks, oof.masks[own])
    return precision


def test_the_difference_is_that_of_the_two_nested_scores_and_its_classes_sum_to_it():
    first, second = make_oof(60), make_oof(90, seed=1)
    result = compare_oof(first, second, AVERAGE_PRECISION, draws=400)
    expected = nested_precision(second).mean() - nested_precision(first).mean()
    assert expected > 0.02  # else the sign would not be seen
    assert result["difference"] == pytest.approx(expected, abs=1e-12)
    assert result["second_score"] - result["first_score"] == pytest.approx(expected, abs=1e-12)
    shares = [row["tiles"] * row["difference"] for row in result["classes"] if row["tiles"]]
    assert sum(shares) / 40 == pytest.approx(expected, abs=1e-12)
    assert sum(row["part"] for row in result["classes"]) == pytest.approx(expected, abs=1e-12)
    assert result["interval"][0] < expected < result["interval"][1] and result["probability"] > 0.5


def test_swapping_the_runs_turns_the_sign():
    first, second = make_oof(60), make_oof(90, seed=1)
    there, back = (
        compare_oof(first, second, AVERAGE_PRECISION, draws=400),
        compare_oof(second, first, AVERAGE_PRECISION, draws=400),
    )
    assert back["difference"] == pytest.approx(-there["difference"], abs=1e-12)
    assert back["interval"] == pytest.approx([-there["interval"][1], -there["interval"][0]], abs=1e-12)
    assert back["probability"] == pytest.approx(1 - there["probability"], abs=1e-12)


def test_the_paired_standard_error_is_the_textbook_s_and_tiles_to_settle_follows_from_it():
    first, second = make_oof(60), make_oof(75, seed=1)
    result = compare_oof(first, second, AVERAGE_PRECISION, draws=4000)
    change = nested_precision(second) - nested_precision(first)
    assert result["standard_error"] == pytest.approx(change.std() / np.sqrt(40), rel=0.05)
    # With so many tiles, 80 % of the differences that would be measured lie beyond 1.96 standard errors.
    errors = abs(change.mean()) / (change.std() / np.sqrt(result["tiles_to_settle"]))
    assert scipy.stats.norm.sf(1.96 - errors) == pytest.approx(0.8, abs=0.01)


def test_a_run_is_no_better_than_itself_in_another_order():
    order = np.random.default_rng(3).permutation(40)
    result = compare_oof(make_oof(), make_oof(order=order), AVERAGE_PRECISION, draws=50)
    assert result["difference"] == 0 and result["interval"] == [0, 0] and result["probability"] == 0.5
    assert result["tiles_to_settle"] is None and "score the same" in verdict(result)


def test_runs_over_other_tiles_are_refused_and_compared_on_the_common_ones_when_asked():
    first, second = make_oof(60, order=np.arange(30)), make_oof(90, order=np.arange(10, 40))
    with pytest.raises(ScoringError, match="30 and 30 tiles, 20 of them in common"):
        compare_oof(first, second, AVERAGE_PRECISION)
    both = np.arange(10, 30)
    expected = compare_oof(make_oof(60, order=both), make_oof(90, order=both), AVERAGE_PRECISION, draws=50)
    assert compare_oof(first, second, AVERAGE_PRECISION, common=True, draws=50) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(fold=np.ones(40, np.int8)), "fold: runs 1 and 2 differ in 20 of 40 tiles, the first of them t00"),
        (dict(masks=np.ones((40, 101, 101), np.uint8)), "masks: runs 1 and 2 differ in 40 of 40 tiles"),
        (dict(ids=np.array(["t00"] * 40)), "run 2: 39 tiles are in it twice"),
        (dict(ids=np.array([f"u{index}" for index in range(40)])), "no tile in common"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(ScoringError, match=message):
        compare_oof(make_oof(), make_oof()._replace(**change), AVERAGE_PRECISION)


@pytest.mark.parametrize(
    ("interval", "needed", "says"),
    [
        ([0.001, 0.02], 500, "B is the better one."),
        ([-0.02, -0.001], 500, "A is the better one."),
        ([0.0, 0.0], None, "They score the same."),
        ([-0.001, 0.02], 900, "close call"),
        ([-0.01, 0.02], 5321, "4,321 tiles more would show a true difference of this size"),
    ],
)
def test_the_verdict_says_who_is_better_or_how_many_tiles_more_it_takes(interval, needed, says):
    assert says in verdict({"interval": interval, "tiles_to_settle": needed, "tiles": 1000})


def test_too_few_draws_are_refused():
    with pytest.raises(ScoringError, match="draws=1: must be at least 2"):
        compare_oof(make_oof(), make_oof(), AVERAGE_PRECISION, draws=1)


def test_the_command_prints_the_difference_and_names_both_runs(tmp_path, capsys):
    runs = [write(tmp_path / name, oof, f"run-{name}") for name, oof in (("a", make_oof(60)), ("b", make_oof(90)))]
    assert compare.main(runs) == 0
    shown = capsys.readouterr().out
    result = compare_oof(make_oof(60), make_oof(90), AVERAGE_PRECISION)
    assert "run-a" in shown and "run-b" in shown and f"B - A  {result['difference']:+.4f}" in shown
    assert "B is the better one." in shown and "on 40 tiles" in shown


def test_a_corrupted_run_is_named_and_nothing_is_compared(tmp_path, capsys):
    runs = [write(tmp_path / name, make_oof(), name) for name in "ab"]
    (tmp_path / "b" / "oof.npz").write_bytes(b"PK")
    assert compare.main(runs) == 1
    assert "oof.npz" in capsys.readouterr().err
