"""Probabilities of an ensemble for a set of tiles: padding, test-time augmentation, averaging, and the one sigmoid."""

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
    probabilities = np.zeros(images.shape, np.uint8)
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc="predict", unit="batch", disable=not progress, mininterval=2):
        batch = images[start : start + batch_size]
        total = np.zeros(batch.shape, np.float64)
        for transform in transforms:
            turned = transform.apply(batch)
            padded = pad_images(turned, padded_size, padding)[..., None]
            for model in models:
                logits = model.predict_on_batch(padded)
                if isinstance(logits, dict):
                    logits = logits["logits"]
                logits = crop_images(np.asarray(logits, np.float32)[..., 0], turned.shape[1:3])
                if not np.isfinite(logits).all():
                    raise ValueError(f"model {model.name!r} gives logits that are not finite: its training diverged")
                total += transform.undo(sigmoid(logits))
        mean = total / (len(transforms) * len(models))
        probabilities[start : start + batch_size] = np.rint(255 * mean)
    return probabilities


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), computed by tanh, which cannot overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
