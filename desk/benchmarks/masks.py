"""Groups `scoring` and `rle`: numpy alone, beside the code of most notebooks, a grader's way, and pycocotools."""

import numpy as np

from desk.benchmarks.peers import PeerProcess
from desk.benchmarks.timing import Comparison, Contender, timed
from salt.metrics import threshold_sweep
from salt.rle import decode_rles, encode_rles
from salt.tgs import TILE_SIZE

IOU_THRESHOLDS = np.arange(0.5, 1, 0.05)
SHAPE = (TILE_SIZE, TILE_SIZE)


def scoring_group(peers: PeerProcess, quick: bool) -> list[Comparison]:
    """The leaderboard score of 4,000 tiles at 255 levels."""
    count, few = (200, 2) if quick else (4000, 20)
    masks = wavy_masks(count)
    probabilities = noisy_probabilities(masks)
    levels, some = range(16, 256, 48), slice(0, few)
    ours = threshold_sweep(probabilities[some], masks[some])
    assert np.allclose(grade_by_histograms(probabilities[some], masks[some], levels), ours[:, np.array(levels) - 1])
    assert np.allclose(sweep_level_by_level(probabilities[some], masks[some]), ours)
    return [
        Comparison(
            f"score {count:,} tiles at 255 levels",
            "tile and level",
            Contender("salt", 255 * count, timed(lambda: threshold_sweep(probabilities, masks))),
            [
                Contender(
                    "a histogram2d a tile and level, as MLE-bench grades",
                    len(levels) * few,
                    timed(lambda: grade_by_histograms(probabilities[some], masks[some], levels)),
                ),
                Contender(
                    "numpy, one level after the other",
                    255 * few,
                    timed(lambda: sweep_level_by_level(probabilities[some], masks[some])),
                ),
            ],
            [5000, None],
        )
    ]


def rle_group(peers: PeerProcess, quick: bool) -> list[Comparison]:
    """Run lengths of 18,000 masks, to text and back."""
    count = 500 if quick else 18_000
    masks = wavy_masks(count)
    rles = encode_rles(masks)
    assert [plain_encode(mask) for mask in masks[:500]] == rles[:500]
    assert np.array_equal(np.stack([plain_decode(rle) for rle in rles[:500]]), masks[:500])
    assert np.array_equal(decode_rles(rles, SHAPE), masks)
    coco_encode, _ = peers.prepare("encode_masks", **peers.share(masks=masks))
    coco_decode, _ = peers.prepare("decode_masks", **peers.share(masks=masks))
    return [
        Comparison(
            f"encode {count:,} masks",
            "mask",
            Contender("salt", count, timed(lambda: encode_rles(masks))),
            [
                Contender("the numpy code of most notebooks", count, timed(lambda: list(map(plain_encode, masks)))),
                Contender("pycocotools (C; to its own format)", count, coco_encode),
            ],
            [4, 1],
        ),
        Comparison(
            f"decode {count:,} masks",
            "mask",
            Contender("salt, every run checked", count, timed(lambda: decode_rles(rles, SHAPE))),
            [
                Contender(
                    "the numpy code of most notebooks", count, timed(lambda: np.stack(list(map(plain_decode, rles))))
                ),
                Contender("pycocotools (C; from its own format)", count, coco_decode),
            ],
            [6, 1],
        ),
    ]


def wavy_masks(count: int) -> np.ndarray:
    """Masks with about TGS's spread: 39 % empty, the others salt below a wavy horizon; uint8 `[count, 101, 101]`."""
    generator = np.random.default_rng(0)
    x, row = np.arange(101), np.arange(101)[:, None]
    masks = np.zeros((count, 101, 101), np.uint8)
    for index in np.flatnonzero(generator.random(count) > 0.39):
        top, slope, height, phase = generator.uniform([18, -5, 0, 0], [101, 5, 25, 6.3])
        masks[index] = row > top + slope * (x - 50) + height * np.sin(x / 13 + phase)
    return masks


def noisy_probabilities(masks: np.ndarray) -> np.ndarray:
    """Predictions that are mostly right, uint8 `[N, 101, 101]`."""
    return with_noise(masks, 60, 130, 40)


def with_noise(masks: np.ndarray, background: float, contrast: float, deviation: float) -> np.ndarray:
    """Grey levels that tell the masks apart, with noise; uint8 `[N, H, W]`, made one by one to save memory."""
    generator, found = np.random.default_rng(1), np.empty_like(masks)
    for index, mask in enumerate(masks):
        noise = generator.standard_normal(mask.shape, dtype=np.float32)
        found[index] = np.clip(background + deviation * noise + contrast * mask, 0, 255)
    return found


def plain_encode(mask: np.ndarray) -> str:
    """The encoder of most notebooks, one mask at a time."""
    pixels = np.concatenate([[0], mask.T.ravel(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(number) for number in runs)


def plain_decode(rle: str) -> np.ndarray:
    """The decoder of most notebooks, one mask at a time, without any check."""
    mask = np.zeros(101 * 101, np.uint8)
    numbers = np.array(rle.split(), int)
    for start, length in zip(numbers[::2] - 1, numbers[1::2], strict=True):
        mask[start : start + length] = 1
    return mask.reshape(101, 101).T


def grade_by_histograms(probabilities: np.ndarray, masks: np.ndarray, levels: range) -> np.ndarray:
    """Average precision `[N, levels]` as graders of this competition compute it, one tile and one level at a time.

    Intersection and both areas come from histograms of the labels 0 and 1, as for images of many objects.
    """
    scores = np.empty((len(masks), len(levels)))
    bins = np.array([-0.5, 0.5, 1.5])
    for index, (tile, truth) in enumerate(zip(probabilities, masks, strict=True)):
        for column, level in enumerate(levels):
            proposal = (tile >= level).astype(np.uint8)
            common = np.histogram2d(truth.ravel(), proposal.ravel(), bins=(bins, bins))[0][1, 1]
            union = np.histogram(truth, bins)[0][1] + np.histogram(proposal, bins)[0][1] - common
            # An IoU of exactly a threshold does not pass; floating point must not decide that.
            passed = common / union > IOU_THRESHOLDS + 1e-9 if union else True
            scores[index, column] = np.mean(passed)
    return scores


def sweep_level_by_level(probabilities: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Average precision `[N, 255]`, one level after the other."""
    truth = masks.sum(axis=(1, 2), dtype=np.int64)
    columns = []
    for level in range(1, 256):
        proposal = probabilities >= level
        intersection = (proposal & (masks == 1)).sum(axis=(1, 2))
        union = truth + proposal.sum(axis=(1, 2)) - intersection
        passed = sum(20 * intersection > k * union for k in range(10, 20)) / 10
        columns.append(np.where(union == 0, 1.0, passed))
    return np.stack(columns, axis=1)
