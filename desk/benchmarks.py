"""The package's code and the plain way of writing it, to be timed against each other.

The plain versions are what one finds in most notebooks: one mask at a time, one threshold at a time, Keras's own batch
norm. They are checked to give the same results before they are timed.
"""

import functools
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np

from salt.config import preset
from salt.metrics import threshold_sweep
from salt.rle import decode_rles, encode_rles
from salt.synthetic import synthetic_tile
from salt.unet import build_model, compile_with_cross_entropy

Timed = tuple[int, Callable[[], object]]  # how many items a call does


def measured_code(
    mask_count: int, tile_count: int, synthetic_count: int, name: str, batch: int
) -> tuple[str, list[tuple[str, Timed, Timed | None]]]:
    """What is timed: a line about the masks, and for each piece of code its name, salt's and the plain version.

    Args:
        mask_count: masks to encode and decode.
        tile_count: tiles of the threshold sweep.
        synthetic_count: synthetic tiles to draw.
        name: the preset whose network is trained.
        batch: tiles of a training step.
    """
    masks = wavy_masks(max(mask_count, tile_count))
    rles = encode_rles(masks)
    runs = sum(rle.count(" ") + 1 for rle in rles if rle) / 2 / len(rles)
    noise = np.random.default_rng(1).normal(60, 40, masks[:tile_count].shape)
    probabilities = np.clip(noise + 130 * masks[:tile_count], 0, 255).astype(np.uint8)
    few = max(1, tile_count // 20)  # a loop of 255 levels over all tiles takes half a minute a repeat

    some = slice(0, min(500, len(masks)))
    assert [plain_encode(mask) for mask in masks[some]] == rles[some]
    assert np.array_equal(np.stack([plain_decode(rle) for rle in rles[some]]), decode_rles(rles[some], (101, 101)))
    assert np.allclose(plain_sweep(probabilities[:few], masks[:few]), threshold_sweep(probabilities[:few], masks[:few]))

    step, plain_step = training_steps(name, batch)
    loss, plain_loss = step(), plain_step()  # compiles, too
    assert np.isclose(loss, plain_loss, rtol=1e-3), (loss, plain_loss)

    encoded, swept = masks[:mask_count], masks[:tile_count]
    decoded = rles[:mask_count]
    measured: list[tuple[str, Timed, Timed | None]] = [
        (
            "encode RLE",
            (len(encoded), lambda: encode_rles(encoded)),
            (len(encoded), lambda: [plain_encode(mask) for mask in encoded]),
        ),
        (
            "decode RLE",
            (len(decoded), lambda: decode_rles(decoded, (101, 101))),
            (len(decoded), lambda: np.stack([plain_decode(rle) for rle in decoded])),
        ),
        (
            "sweep 255 levels",
            (len(swept), lambda: threshold_sweep(probabilities, swept)),
            (few, lambda: plain_sweep(probabilities[:few], swept[:few])),
        ),
        (
            "draw synthetic tile",
            (synthetic_count, lambda: [synthetic_tile(0, index) for index in range(synthetic_count)]),
            None,
        ),
        (f"training step of {name}", (batch, step), (batch, plain_step)),
    ]
    empty = np.mean(~masks.any(axis=(1, 2)))
    return f"masks: {masks.mean():.1%} salt, {empty:.0%} empty, {runs:.0f} runs each", measured


def median_time(function: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def wavy_masks(count: int) -> np.ndarray:
    """Masks with about TGS's spread: 39 % empty, the others salt below a wavy horizon; uint8 `[count, 101, 101]`."""
    generator = np.random.default_rng(0)
    x, row = np.arange(101), np.arange(101)[:, None]
    masks = np.zeros((count, 101, 101), np.uint8)
    for index in np.flatnonzero(generator.random(count) > 0.39):
        top, slope, height, phase = generator.uniform([18, -5, 0, 0], [101, 5, 25, 6.3])
        masks[index] = row > top + slope * (x - 50) + height * np.sin(x / 13 + phase)
    return masks


def training_steps(name: str, batch: int) -> list[Callable[[], float]]:
    """Two functions that make a step of the network of a preset, with salt's batch norm and with Keras's.

    Each returns its loss. Augmentation and Lovasz are not in it.
    """

    def plain(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = keras.layers.BatchNormalization if isinstance(layer, keras.layers.BatchNormalization) else type(layer)
        return kind.from_config(layer.get_config())

    config = preset(name, weights=None)
    model = build_model(config)
    plain_model = keras.models.clone_model(model, clone_function=plain, recursive=True)
    plain_model.set_weights(model.get_weights())
    tiles = np.random.default_rng(0).uniform(0, 255, (batch, *model.input_shape[1:])).astype("float32")
    masks = (tiles > 128).astype("float32")
    models = (model, compile_with_cross_entropy(plain_model, "adam", None, ()))
    for each in models:
        each.optimizer.build(each.trainable_variables)  # in the first step it would take seconds
    return [functools.partial(train_once, model, tiles, masks) for model in models]


def train_once(model: keras.Model, tiles: np.ndarray, masks: np.ndarray) -> float:
    """One training step; returns its loss."""
    return float(model.train_on_batch(tiles, masks))


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


def plain_sweep(probabilities: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Average precision at every level, one level after the other."""
    truth = masks.sum(axis=(1, 2), dtype=np.int64)
    columns = []
    for level in range(1, 256):
        proposal = probabilities >= level
        intersection = (proposal & (masks == 1)).sum(axis=(1, 2))
        union = truth + proposal.sum(axis=(1, 2)) - intersection
        passed = sum(20 * intersection > k * union for k in range(10, 20)) / 10
        columns.append(np.where(union == 0, 1.0, passed))
    return np.stack(columns, axis=1)
