"""What TGS's tiles, folds, scores and submissions come to, bit for bit, on fixed tiles; the numbers were recorded.

Only whole numbers are drawn here, so that any machine draws the same. Trained weights are another matter: their bits
differ from machine to machine.
"""

import hashlib

import numpy as np
import pytest

from salt.artifacts import Oof
from salt.competition import find_competition
from salt.data import read_test, read_train
from salt.folds import assign_folds, stratification_classes
from salt.layout import write_competition
from salt.levels import choose_level_and_area, level_table
from salt.postprocess import empty_tiles, postprocess
from salt.scoring import score_oof
from salt.submission import check_submission, write_submission
from salt.tgs import COMPETITION

TRAIN, TEST = 60, 20


def digest(*arrays):
    """The first half of the SHA-256 of some arrays or texts."""
    content = b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


def fixed_tiles():
    """Images of noise with a rectangle of another brightness, which is the mask; a third of the tiles has none."""
    draw = np.random.default_rng(20180719)
    count = TRAIN + TEST
    images = draw.integers(0, 200, (count, 101, 101), dtype=np.uint8)
    masks = np.zeros_like(images)
    for tile in range(count):
        top, left = draw.integers(0, 70, 2)
        height, width = draw.integers(2, 101, 2)
        if tile % 3:
            masks[tile, top : top + height, left : left + width] = 1
    images += 50 * masks
    images[[7, TRAIN + 4]], masks[[7, TRAIN + 4]] = 0, 0  # black ones
    ids = np.array([f"{value:010x}" for value in draw.permutation(10**6)[:count]])
    depths = draw.integers(50, 960, count).astype(float)
    noise = draw.integers(-60, 61, masks.shape)
    shifted = np.stack([np.roll(mask, tile % 7, axis=1) for tile, mask in enumerate(masks)]).astype(int)
    probabilities = (65 + 100 * shifted + noise).astype(np.uint8)
    for tile in range(0, count, 3):  # false alarms of some pixels
        probabilities[tile, 50, : tile % 23] = 140 + tile
    return ids, images, masks, depths, probabilities


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The tiles, written in the competition's layout and read again."""
    ids, images, masks, depths, probabilities = fixed_tiles()
    train, test = slice(TRAIN), slice(TRAIN, None)
    folder = tmp_path_factory.mktemp("fixed") / "data"
    write_competition(
        COMPETITION, folder, *(each[train] for each in (ids, images, masks, depths)),
        *(each[test] for each in (ids, images, depths)),
    )  # fmt: skip
    files = find_competition(folder, COMPETITION)
    tiles, tests = read_train(files, progress=False), read_test(files, progress=False)
    order = {name: place for place, name in enumerate(ids)}
    return files, tiles, tests, probabilities[[order[name] for name in [*tiles.ids, *tests.ids]]]


def test_what_is_read_is_what_it_was(read):
    _, tiles, tests, _ = read
    assert digest(tiles.ids, tiles.images, tiles.known_masks(), tiles.depths) == "25883d1bd428cb22"
    assert digest(tests.ids, tests.images, tests.depths) == "e5fa40bb49ee6cf7"


def test_folds_are_what_they_were(read):
    _, tiles, _, _ = read
    classes = stratification_classes(tiles.known_masks(), tiles.blank())
    assert (
        "".join(map(str, assign_folds(classes, 5, seed=42)))
        == "042404322030201142223014403421304032231411131320133210344104"
    )


def test_scores_and_submissions_are_what_they_were(read, tmp_path):
    files, tiles, tests, probabilities = read
    fold = assign_folds(stratification_classes(tiles.known_masks(), tiles.blank()), 5, seed=42)
    oof = Oof(tiles.ids, fold, empty_tiles(probabilities[:TRAIN], tiles.blank()), tiles.known_masks())
    score = score_oof(oof, COMPETITION.metric, draws=200)
    found = [score[name] for name in ("best_level", "flat_levels", "minimum_area")]
    found += [score[f"{name}_score"] for name in ("half", "best", "chosen", "nested")]
    assert found == [198, [198, 255], 0, 0.3333333333333333, 0.35, 0.35, 0.43333333333333335]
    assert [(row["level"], row["minimum_area"]) for row in score["choices"]] == [
        (198, 0),
        (195, 0),
        (126, 23),
        (126, 22),
        (198, 0),
    ]
    level, area = choose_level_and_area(level_table(oof, COMPETITION.metric), COMPETITION.metric)
    assert [level, area] == [score["best_level"], score["minimum_area"]]
    masks = postprocess(empty_tiles(probabilities[TRAIN:], tests.blank()), level, area)
    write_submission(tmp_path / "submission.csv", tests.ids, masks, COMPETITION, files.sample_submission)
    assert check_submission(tmp_path / "submission.csv", files.sample_submission, COMPETITION)["rows"] == TEST
    assert digest(np.frombuffer((tmp_path / "submission.csv").read_bytes(), np.uint8)) == "f87b661388d619a9"
