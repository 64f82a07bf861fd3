"""Layers that Keras has too, computed in another way; and how the package annotates tensors."""

from typing import Any, TypeAlias

import keras
from keras import ops

# A tensor of Keras's backend, or an array that its operations take: no type of Python's covers both.
Tensor: TypeAlias = Any


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm (Ioffe & Szegedy 2015), the last axis being the channels, in one kernel on TensorFlow.

    Keras writes it as a dozen operations, each of which reads and writes the whole map: on a CPU they took more of a
    step than the convolutions. TensorFlow has a fused kernel, for CPU and GPU, which Keras does not call. Values,
    gradients and running statistics are Keras's but for rounding, and so is what a file of weights calls the layer. In
    inference, and on other backends, whose compilers fuse such operations themselves, it is Keras's own.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """Takes maps `[B, H, W, C]` and returns such; `mask` must be None in training."""
        if not (training and self.trainable) or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        # The kernel gives the variance of a population of which these pixels are a sample; Keras keeps theirs.
        pixels = ops.cast(ops.prod(ops.shape(inputs)[:-1]), "float32")
        variance = variance * (pixels - 1.0) / pixels
        for running, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            running.assign(running * self.momentum + value * (1.0 - self.momentum))
        return outputs
