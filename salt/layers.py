"""Layers that Keras has too, computed in another way; and how the package annotates tensors."""

import functools
from typing import Any, TypeAlias

import keras
from keras import ops

# A tensor of Keras's backend, or an array that its operations take: no type of Python's covers both.
Tensor: TypeAlias = Any


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm (Ioffe & Szegedy 2015) in one kernel, where TensorFlow has one for it.

    Keras writes it as a dozen operations, each of which reads and writes the whole map: on a CPU they took more of a
    step than the convolutions. TensorFlow has a fused kernel, for CPU and GPU, which Keras does not call. It is for
    training, of maps `[B, H, W, C]` in float32 or in mixed precision, over the last axis. Values, gradients and running
    statistics are Keras's but for rounding, and so is what a file of weights calls the layer. Everywhere else it is
    Keras's own: in inference, with a mask or another precision, rank or axis, and on other backends, whose compilers
    fuse such operations themselves.

    A saved model calls it by the name of Keras's layer, so that it loads where this package is not imported: with
    Keras's layer there, and with this one where this module is imported.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """Takes what Keras's layer takes, of any float dtype, and returns the like of `inputs`."""
        if not (training and self.trainable) or mask is not None or not self.fits_kernel(inputs):
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

    def fits_kernel(self, inputs: Tensor) -> bool:
        """Whether the kernel computes what this layer is to compute of these inputs."""
        if keras.backend.backend() != "tensorflow" or self.gamma is None or self.beta is None:
            return False
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        known = dtype in ("float32", "bfloat16", "float16") and self.variable_dtype == "float32"
        plain = not (self.synchronized or getattr(self, "renorm", False))  # Keras 3.13 has no renorm
        return known and plain and dtype == self.compute_dtype and len(inputs.shape) == 4 and self.axis in (-1, 3)


# Module and name, by which Keras calls a layer in a file; where this module is imported, that name means this layer.
# Files with Keras's own layer call it by another one.
functools.update_wrapper(
    BatchNormalization, keras.layers.BatchNormalization, functools.WRAPPER_ASSIGNMENTS[:3], updated=()
)
keras.saving.get_custom_objects()["BatchNormalization"] = BatchNormalization
