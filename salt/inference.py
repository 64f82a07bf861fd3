"""Probabilities of an ensemble for a set of tiles: padding, test-time augmentation, averaging, and the one sigmoid."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from salt.tiles import crop_images, pad_images
from salt.tta import tta_transforms


def predict_probabilities(
    models: list[keras.Model],
    images: np.ndarray,
    tta: str = "flip",
    padded_size: int = 128,
    padding: str = "reflect",
    batch_size: int = 64,
    progress: bool = True,
) -> np.ndarray:
    """The mean probability of salt over models and transforms.

    Args:
        models: Keras models from `[B, S, S, 1]` grey 0 to 255 to logits `[B, S, S, 1]`, where S is `padded_size`, or to
            a dict with such `"logits"`.
        images: uint8 `[N, H, W]`.
        tta: name of the test-time augmentation, `"none"`, `"flip"` or `"d4"`.
        padded_size: pixels; the input size of the models.
        padding: `"reflect"` or `"edge"`, as in training.
        batch_size: tiles a step; limits the memory.
        progress: whether to show a bar.

    Returns:
        uint8 `[N, H, W]`: round(255 p).

    Raises:
        ValueError: no model, or a model whose logits are not finite.
    """
    if not models:
        raise ValueError("models is empty: an ensemble needs at least one model")
    transforms = tta_transforms(tta)
    networks = [network_function(model, min(batch_size, len(images))) for model in models]
    probabilities = np.zeros(images.shape, np.uint8)
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc="predict", unit="batch", disable=not progress, mininterval=2):
        batch = images[start : start + batch_size]
        total = np.zeros(batch.shape, np.float64)
        for transform in transforms:
            turned = transform.apply(batch)
            padded = pad_images(turned, padded_size, padding)[..., None]
            for model, network in zip(models, networks, strict=True):
                logits = crop_images(network(padded)[..., 0], turned.shape[1:3])
                if not np.isfinite(logits).all():
                    raise ValueError(f"model {model.name!r} gives logits that are not finite: its training diverged")
                total += transform.undo(sigmoid(logits))
        mean = total / (len(transforms) * len(models))
        probabilities[start : start + batch_size] = np.rint(255 * mean)
    return probabilities


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
    on_gpu = bool(keras.distribution.list_devices("gpu"))
    if keras.backend.backend() != "tensorflow" or on_gpu or not isinstance(model, keras.Model):
        return lambda batch: main_logits(model.predict_on_batch(batch))
    import tensorflow as tf

    trained, other = (
        [keras.ops.convert_to_numpy(variable) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )

    @tf.function
    def frozen(batch: Any) -> Any:
        constants = ([tf.constant(value) for value in values] for values in (trained, other))
        return model.stateless_call(*constants, batch, training=False)[0]

    def call(batch: np.ndarray) -> np.ndarray:
        missing = batch_size - len(batch)  # another size would have to be compiled anew
        whole = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)]) if missing > 0 else batch
        return main_logits(frozen(tf.constant(whole, model.input.dtype)))[: len(batch)]

    return call


def main_logits(outputs: Any) -> np.ndarray:
    """The logits, float32 `[B, S, S, K]`, among what a network gives."""
    return np.asarray(outputs["logits"] if isinstance(outputs, dict) else outputs, np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), computed by tanh, which cannot overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
