"""Probabilities of an ensemble for a set of tiles: padding, test-time augmentation, averaging, and the one sigmoid.

Images that are larger than what the network sees are predicted by overlapping windows, whose borders are blended.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from salt.config import Config
from salt.machine import tensorflow_on_cpu
from salt.postprocess import empty_tiles
from salt.stacks import all_sides, differ_in_size
from salt.tiles import crop_images, pad_images, tile_side, window_side
from salt.tta import tta_transforms

Network = Callable[[np.ndarray], np.ndarray]  # from a batch to its logits
WINDOW_STEP = 0.75  # of a window's side from one to the next, at most


def predict_run(
    models: list[keras.Model], images: np.ndarray, blank: np.ndarray, config: Config
) -> np.ndarray | Iterator[np.ndarray]:
    """Probabilities as the settings of a run say.

    Args:
        models, images: as for `predict_tiles`.
        blank: bool `[N]`, the tiles whose probabilities are 0, see `Tiles.blank`.
        config: the run's settings.

    Returns:
        uint8 `[N, H, W]`, or `[N, H, W, C]` of several classes; of a `Stack` an iterator over them.
    """
    options = (config.tta, config.padded_size, config.padding)
    if isinstance(images, np.ndarray):
        return empty_tiles(predict_probabilities(models, images, *options), blank)
    predicted = predict_tiles(models, images, *options)
    return (tile * np.uint8(not empty) for tile, empty in zip(predicted, blank, strict=True))


def predict_probabilities(
    models: list[keras.Model],
    images: np.ndarray,
    tta: str = "flip",
    padded_size: int = 128,
    padding: str = "reflect",
    batch_size: int = 64,
    progress: bool = True,
) -> np.ndarray:
    """The mean probability over models and transforms; see `predict_tiles`.

    Returns:
        uint8 `[N, H, W]`, or `[N, H, W, C]` of several classes: round(255 p).

    Raises:
        ValueError: no model, or a model whose logits are not finite.
    """
    tiles = predict_tiles(models, images, tta, padded_size, padding, batch_size, progress)
    probabilities = np.zeros((len(images), *tile_sides(images, padded_size, padding), *class_axis(models)), np.uint8)
    for index, tile in enumerate(tiles):
        probabilities[index] = tile
    return probabilities


def predict_tiles(
    models: list[keras.Model],
    images: np.ndarray,
    tta: str = "flip",
    padded_size: int = 128,
    padding: str = "reflect",
    batch_size: int = 64,
    progress: bool = True,
) -> Iterator[np.ndarray]:
    """Yields the mean probability over models and transforms of one tile after the other.

    Args:
        models: Keras models from `[B, S, S, channels]` of 0 to 255 to logits `[B, S, S, classes]`, where S is
            `padded_size`, or to a dict with such `"logits"`.
        images: uint8 `[N, H, W]` or `[N, H, W, 3]`, or a `Stack` of them; with `padding="neighbours"` what
            `Surroundings.surround` gives, and the results are of the tiles in the middle.
        tta: name of the test-time augmentation, `"none"`, `"flip"` or `"d4"`.
        padded_size: pixels; the input size of the models.
        padding: `"reflect"`, `"edge"` or `"neighbours"`, as in training.
        batch_size: tiles, or windows, a step; limits the memory.
        progress: whether to show a bar.

    Yields:
        uint8 `[H, W]`, or `[H, W, C]` of several classes: round(255 p).

    Raises:
        ValueError: no model, or a model whose logits are not finite.
    """
    if not models:
        raise ValueError("models is empty: an ensemble needs at least one model")
    sides = tile_sides(images, padded_size, padding)
    whole = max(sides) <= padded_size and not differ_in_size(images)
    sizes = np.unique(all_sides(images), axis=0)
    most = len(images) if whole else max(len(window_corners(each, padded_size)) for each in sizes)
    at_once = min(batch_size, most)
    networks = [network_function(model, at_once) for model in models]
    starts = range(0, len(images), batch_size if whole else 1)
    for start in tqdm(starts, desc="predict", unit="batch" if whole else "image", disable=not progress, mininterval=2):
        batch = images[start : start + batch_size] if whole else images[start][None]
        if whole or max(batch.shape[1:3]) <= padded_size:
            means = predict_padded(models, networks, batch, tta, padded_size, padding)
        else:
            means = predict_windows(models, networks, batch[0], at_once, tta, padded_size, padding)[None]
        yield from np.rint(255 * means).astype(np.uint8)


def tile_sides(images: np.ndarray, padded_size: int, padding: str) -> tuple[int, int]:
    """Height and width of the tiles in images, see `tile_side`."""
    height, width = (tile_side(side, padded_size, padding) for side in images.shape[1:3])
    return height, width


def predict_padded(
    models: list[keras.Model], networks: list[Network], batch: np.ndarray, tta: str, padded_size: int, padding: str
) -> np.ndarray:
    """The mean probability, float64 `[n, h, w]` or `[n, h, w, C]`, of images that fit into the padded square."""
    transforms, axis = tta_transforms(tta), class_axis(models)
    sides = tile_sides(batch, padded_size, padding)
    total = np.zeros((len(batch), *axis, *sides), np.float64)
    images = batch if batch.ndim == 3 else np.moveaxis(batch, 3, 1)  # transforms turn the last two axes
    for transform in transforms:
        turned = transform.apply(images)
        square = turned if batch.ndim == 3 else np.moveaxis(turned, 1, 3)
        padded = pad_images(square, padded_size, padding)
        padded = padded[..., None] if batch.ndim == 3 else padded
        for model, network in zip(models, networks, strict=True):
            logits = network(padded)
            logits = crop_images(logits if axis else logits[..., 0], tile_sides(square, padded_size, padding))
            if not np.isfinite(logits).all():
                raise ValueError(f"model {model.name!r} gives logits that are not finite: its training diverged")
            logits = np.moveaxis(logits, 3, 1) if axis else logits
            total += transform.undo(sigmoid(logits))
    mean = total / (len(transforms) * len(models))
    return np.moveaxis(mean, 1, 3) if axis else mean


def predict_windows(
    models: list[keras.Model],
    networks: list[Network],
    image: np.ndarray,
    at_once: int,
    tta: str,
    padded_size: int,
    padding: str,
) -> np.ndarray:
    """The mean probability of one image, float64 `[H, W]` or `[H, W, C]`, from overlapping windows, see `window_side`.

    Where windows overlap, each weighs the less the nearer its border is, since a network knows least there.
    """
    side = window_side((image.shape[0], image.shape[1]), padded_size)
    ramp = np.minimum(np.arange(side) + 1, side - np.arange(side)).astype(np.float64)
    axis = class_axis(models)
    weight = (ramp[:, None] * ramp).reshape(side, side, *(1 for _ in axis))
    total, weights = np.zeros((*image.shape[:2], *axis)), np.zeros((*image.shape[:2], *(1 for _ in axis)))
    corners = window_corners(image.shape[:2], padded_size)
    for first in range(0, len(corners), at_once):
        places = [np.s_[top : top + side, left : left + side] for top, left in corners[first : first + at_once]]
        means = predict_padded(
            models, networks, np.stack([image[place] for place in places]), tta, padded_size, padding
        )
        for place, mean in zip(places, means, strict=True):
            total[place] += weight * mean
            weights[place] += weight
    return total / weights


def window_starts(length: int, side: int) -> list[int]:
    """Where windows of `side` pixels begin in `length` pixels: evenly, the first at 0, the last at the end."""
    count = math.ceil((length - side) / (WINDOW_STEP * side)) + 1
    return np.rint(np.linspace(0, length - side, count)).astype(int).tolist()


def window_corners(sides: Sequence[int] | np.ndarray, padded_size: int) -> list[tuple[int, int]]:
    """Row and column of the first pixel of each window of an image of these sides."""
    height, width = sides
    side = window_side((height, width), padded_size)
    rows, columns = (window_starts(length, side) for length in (height, width))
    return [(top, left) for top in rows for left in columns]


def class_axis(models: list[keras.Model]) -> tuple[int, ...]:
    """The shape of the last axis of masks: `(C,)` of several classes, `()` of one."""
    output = models[0].output if models else None
    logits = output["logits"] if isinstance(output, dict) else output
    return () if logits is None or logits.shape[-1] == 1 else (logits.shape[-1],)


def network_function(model: keras.Model, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A network as a function of batches, as its weights are now.

    On a CPU TensorFlow gets the weights as constants, which it then folds into each other: a batch norm and the
    convolution before it become one. The logits differ from the model's own by rounding.

    Args:
        model: from `[B, S, S, C]` to logits `[B, S, S, K]`, or to a dict with such `"logits"`.
        batch_size: of all batches but the last, which may be smaller.

    Returns:
        A function from an array `[B, S, S, C]` to float32 logits `[B, S, S, K]`.
    """
    if not tensorflow_on_cpu() or not isinstance(model, keras.Model):
        return lambda batch: main_logits(model.predict_on_batch(batch))
    import tensorflow as tf

    trained, other = (
        [keras.ops.convert_to_numpy(variable) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )

    @tf.function
    def frozen(batch: Any) -> Any:
        constants = ([tf.constant(value) for value in values] for values in (trained, other))
        return model.stateless_call(*constants, tf.cast(batch, model.input.dtype), training=False)[0]

    def call(batch: np.ndarray) -> np.ndarray:
        missing = batch_size - len(batch)  # another size would have to be compiled anew
        whole = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)]) if missing > 0 else batch
        return main_logits(frozen(tf.constant(whole)))[: len(batch)]

    return call


def main_logits(outputs: Any) -> np.ndarray:
    """The logits, float32 `[B, S, S, K]`, among what a network gives."""
    return np.asarray(outputs["logits"] if isinstance(outputs, dict) else outputs, np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), computed by tanh, which cannot overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
