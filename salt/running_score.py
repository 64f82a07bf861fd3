"""A competition's metric as one of Keras's, for `fit`."""

import math

import keras
from keras import ops

from salt.layers import Tensor
from salt.metrics import Metric


class MetricScore(keras.metrics.Metric):
    """A competition's metric at probability 0.5, over tiles and classes: equal to `metric.mean` of their scores.

    Args:
        metric: of the competition.
        name: in Keras's logs.
    """

    def __init__(self, metric: Metric, name: str = "score"):
        super().__init__(name=name)
        self.metric = metric
        # In float32, as `fit` keeps it on every device; whole numbers are exact up to 2 ** 24.
        self.total = self.add_variable((), initializer="zeros", dtype="float32", name="total")
        self.masks = self.add_variable((), initializer="zeros", dtype="float32", name="masks")

    def update_state(self, masks: Tensor, logits: Tensor, sample_weight: None = None) -> None:
        """Takes masks of 0 and 1 and logits, both `[B, H, W]`; NaN among the logits make the score NaN."""
        truth = ops.cast(masks, "float32")
        proposal = ops.cast(logits >= 0.0, "float32")
        counts = [ops.sum(pixels, axis=(1, 2)) for pixels in (truth * proposal, proposal, truth)]
        values = self.metric.of_counts(*counts, ops.where)
        if self.metric.steps is not None:
            values = ops.round(self.metric.steps * values)  # whole numbers, so that their sum is exact
        values = nan_for_nan(values, logits)
        self.total.assign_add(ops.sum(values))
        self.masks.assign_add(ops.cast(ops.shape(truth)[0], "float32"))

    def result(self) -> Tensor:
        """The mean over the masks seen so far; 0 before the first."""
        return self.total / ops.maximum((self.metric.steps or 1) * self.masks, 1.0)


def nan_for_nan(values: Tensor, logits: Tensor) -> Tensor:
    """Values `[B]` of images, NaN for those among whose logits `[B, H, W]` there is a NaN."""
    return ops.where(ops.any(ops.isnan(logits), axis=(1, 2)), math.nan, values)
