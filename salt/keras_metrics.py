"""Metrics for Keras's `fit` in anybody's project: the leaderboard score and the mean IoU, each a mean over images.

Each equals what `metrics.py` computes of the masks at p = 0.5. An image whose logits are NaN has no mask: the mean over
images is NaN then, never a number that looks like a score.
"""

import keras
from keras import ops

from salt.layers import Tensor
from salt.metrics import THRESHOLDS_20
from salt.running_score import nan_for_nan


class MeanOverImages(keras.metrics.Metric):
    """The mean of a number that follows from each image's intersection and union.

    Args:
        name: name in Keras's logs.
        threshold: a pixel counts if the model gives at least this: 0 for logits, 0.5 for probabilities.
    """

    def __init__(self, name: str, threshold: float = 0.0, **kwargs: object):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        # In float32, as `fit` keeps it on every device; whole numbers are exact up to 2 ** 24.
        self.total = self.add_variable((), initializer="zeros", dtype="float32", name="total")
        self.tiles = self.add_variable((), initializer="zeros", dtype="float32", name="tiles")

    def of_image(self, intersection: Tensor, union: Tensor) -> Tensor:
        """The number of each image, float32 `[B]`, from its pixels in both masks and in either, int32 `[B]`."""
        raise NotImplementedError(f"{type(self).__name__} must say what it is of an image")

    def update_state(self, masks: Tensor, logits: Tensor, sample_weight: None = None) -> None:
        """Takes masks of 0 and 1 and what the model gives, both `[B, H, W]` or `[B, H, W, 1]`; images weigh the same.

        Raises:
            ValueError: other shapes.
        """
        masks, logits = single_channel(masks, "masks"), single_channel(logits, "the model's output")
        truth = ops.cast(masks, "int32")
        proposal = ops.cast(logits >= self.threshold, "int32")  # one half itself is level 128 of 255: it counts
        intersection = ops.sum(truth * proposal, axis=(1, 2))
        union = ops.sum(ops.maximum(truth, proposal), axis=(1, 2))
        values = self.of_image(intersection, union)
        values = nan_for_nan(values, logits)
        self.total.assign_add(ops.sum(values))
        self.tiles.assign_add(ops.cast(ops.shape(truth)[0], "float32"))

    def result(self) -> Tensor:
        """The mean over the images seen so far; 0 before the first."""
        return self.total / ops.maximum(self.tiles, 1.0)

    def get_config(self) -> dict:
        """The arguments, for a saved model."""
        return {**super().get_config(), "threshold": self.threshold}


@keras.saving.register_keras_serializable(package="salt")
class LeaderboardScore(MeanOverImages):
    """The leaderboard metric at probability 0.5; equal to `metrics.leaderboard_score`.

    Args:
        name: name in Keras's logs.
        threshold: 0 for logits, 0.5 for probabilities.
    """

    def __init__(self, name: str = "score", threshold: float = 0.0, **kwargs: object):
        super().__init__(name, threshold, **kwargs)

    def of_image(self, intersection: Tensor, union: Tensor) -> Tensor:
        """How many of the ten thresholds the IoU passes; whole numbers, so that their sum is exact."""
        passed = [ops.logical_or(20 * intersection > twentieths * union, union == 0) for twentieths in THRESHOLDS_20]
        return ops.sum(ops.cast(ops.stack(passed), "float32"), axis=0)

    def result(self) -> Tensor:
        """The mean over the tiles seen so far; 0 before the first."""
        return self.total / ops.maximum(len(THRESHOLDS_20) * self.tiles, 1.0)


@keras.saving.register_keras_serializable(package="salt")
class ImageIoU(MeanOverImages):
    """The mean IoU of the images at probability 0.5; equal to the mean of `metrics.iou`: empty against empty is 1.

    Args:
        name: name in Keras's logs.
        threshold: 0 for logits, 0.5 for probabilities.
    """

    def __init__(self, name: str = "iou", threshold: float = 0.0, **kwargs: object):
        super().__init__(name, threshold, **kwargs)

    def of_image(self, intersection: Tensor, union: Tensor) -> Tensor:
        """The IoU of each image."""
        ratio = ops.cast(intersection, "float32") / ops.cast(ops.maximum(union, 1), "float32")
        return ops.where(union == 0, 1.0, ratio)


def single_channel(maps: Tensor, name: str) -> Tensor:
    """Maps `[B, H, W]` as they are, and `[B, H, W, 1]` without their last axis."""
    if len(maps.shape) == 4 and maps.shape[-1] == 1:
        return maps[..., 0]
    if len(maps.shape) != 3:
        raise ValueError(f"{name}: shape {tuple(maps.shape)}; must be [B, H, W] or [B, H, W, 1], one class")
    return maps
