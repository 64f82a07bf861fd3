"""Losses of a batch of logits against binary masks, one number per tile.

Two phases, as the competition's best solutions had: BCE + Dice first, then the symmetric Lovasz hinge, a surrogate of
the IoU itself. Give these functions the tile itself, never the padding.

All take `logits` `[B, H, W]` of any float dtype and `masks` `[B, H, W]` of 0 and 1 of any dtype, and return `[B]` in
float32 (float64 for float64 logits): in bfloat16 a running count stops growing at 256, and a tile has ten thousand
pixels and more.

Those of two arguments serve in `model.compile(loss=...)` as they are: Keras calls them in its own order, masks first,
and may give both as `[B, H, W, 1]`, see `TileLoss`.
"""

import contextlib
import functools
from collections.abc import Callable

import keras
from keras import ops

from salt.layers import Tensor


class LossError(ValueError):
    """Logits and masks of shapes that do not fit each other, or each in the place of the other."""


@keras.saving.register_keras_serializable(package="salt")
class TileLoss(keras.losses.Loss):
    """A function of (logits, masks) that Keras takes as a loss, too.

    Keras calls a loss with masks, model outputs and the weights of the samples, which are None if there are none; such
    a call of three gives the (weighted) mean over the batch. A call of two is one of the function. A saved model that
    is compiled with one loads where this module is imported.

    Args:
        function: of `logits` and `masks` to `[B]`.

    Example:
        >>> model.compile("adam", loss=symmetric_lovasz_loss)
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(name=function.__name__)
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Tensor, **named: Tensor) -> Tensor:
        if len(arguments) == 3:
            return super().__call__(*arguments)
        return self.function(*arguments, **named)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Takes masks and logits, `[B, H, W]` or `[B, H, W, 1]`, and gives `[B]`."""
        masks, logits = (
            maps[..., 0] if len(maps.shape) == 4 and maps.shape[-1] == 1 else maps for maps in (y_true, y_pred)
        )
        return self.function(logits, masks)

    def get_config(self) -> dict:
        """The name of the function."""
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict) -> "TileLoss":
        """The loss of this module that has the name."""
        return TILE_LOSSES[config["name"]]

    def __reduce__(self) -> tuple:
        # Without a call of the class: where a notebook's definitions are sent to a worker, it has no methods yet when
        # its first object is made.
        return object.__new__, (TileLoss,), self.__dict__


@TileLoss
def bce_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean binary cross-entropy of a tile's pixels, from logits, finite for any finite logit.

    Args:
        logits: `[B, H, W]`.
        masks: `[B, H, W]`, 0 or 1.

    Returns:
        `[B]`.

    Raises:
        LossError: the shapes differ.

    Example:
        >>> bce_loss(ops.zeros((1, 96, 96)), ops.ones((1, 96, 96)))  # log 2, for each pixel and so for their mean
        [0.6931472]
    """
    logits, masks = prepare_loss(logits, masks)
    return ops.mean(ops.binary_crossentropy(masks, logits, from_logits=True), axis=(1, 2))


@TileLoss
def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - (2 |p m| + 1) / (|p| + |m| + 1), with p = sigmoid(logits) and |.| the sum over a tile.

    The 1 is one pixel: on an empty tile the loss is s / (s + 1) for a predicted area of s pixels. So an empty
    prediction costs 0 there and a single pixel 1/2, but for a large area the slope 1 / (s + 1) ** 2 is nearly 0, and
    only the BCE reduces it.

    Args:
        logits: `[B, H, W]`.
        masks: `[B, H, W]`, 0 or 1.

    Returns:
        `[B]`, in 0 ... 1.

    Raises:
        LossError: the shapes differ.
    """
    logits, masks = prepare_loss(logits, masks)
    probabilities = ops.sigmoid(logits)
    overlap = ops.sum(probabilities * masks, axis=(1, 2))
    area = ops.sum(probabilities, axis=(1, 2)) + ops.sum(masks, axis=(1, 2))
    return 1.0 - (2.0 * overlap + 1.0) / (area + 1.0)


@TileLoss
def lovasz_hinge_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """The Lovasz hinge of Berman, Rannen Triki and Blaschko (CVPR 2018), per tile, with elu + 1 in the place of relu.

    With the hinge errors e = 1 - logit * (2 mask - 1), sorted downwards, the loss is sum_k (elu(e_k) + 1) * (J_k -
    J_(k-1)): J_k is the Jaccard loss, 1 - IoU, of the mask in which the k worst pixels are wrong and all others right.
    The paper has relu(e). Here it is elu(e) + 1, as winners of competitions had it: e + 1 above 0 and exp(e) below;
    it is never 0, so that correct pixels still get a gradient. For equal errors any order gives the same loss.

    An empty tile: the IoU of nothing with nothing is 1, and of anything with nothing it is 0, so J_k is 1 from
    the first wrong pixel on, and the loss is elu(e) + 1 of the worst pixel alone; no other pixel gets a gradient.

    Args:
        logits: `[B, H, W]`.
        masks: `[B, H, W]`, 0 or 1.

    Returns:
        `[B]`, above 0; near 0 for a confident and correct prediction.

    Raises:
        LossError: the shapes differ.
    """
    penalties, truth = sorted_penalties(*prepare_loss(logits, masks))
    return ops.sum(penalties * jaccard_steps(truth), axis=1)


@TileLoss
def symmetric_lovasz_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """The mean of the Lovasz hinges of what is marked and of the background.

    That is `(lovasz_hinge_loss(logits, masks) + lovasz_hinge_loss(-logits, 1 - masks)) / 2`. The second gives empty
    tiles a gradient in every pixel. Both have the same errors, hence one sort serves both.

    Args:
        logits: `[B, H, W]`.
        masks: `[B, H, W]`, 0 or 1.

    Returns:
        `[B]`, above 0.

    Raises:
        LossError: the shapes differ.
    """
    penalties, truth = sorted_penalties(*prepare_loss(logits, masks))
    return ops.sum(penalties * (jaccard_steps(truth) + jaccard_steps(1.0 - truth)), axis=1) / 2.0


def segmentation_loss(logits: Tensor, masks: Tensor, lovasz_weight: float | Tensor) -> Tensor:
    """The loss of training: (1 - w) * (BCE + Dice) + w * symmetric Lovasz.

    Args:
        logits: `[B, H, W]`.
        masks: `[B, H, W]`, 0 or 1.
        lovasz_weight: w; a number, or a scalar tensor, with which the phase changes without a new compilation.

    Returns:
        `[B]`.

    Raises:
        LossError: the shapes differ.
    """
    lovasz = symmetric_lovasz_loss(logits, masks)
    weight = ops.cast(lovasz_weight, lovasz.dtype)
    return (1.0 - weight) * (bce_loss(logits, masks) + dice_loss(logits, masks)) + weight * lovasz


@TileLoss
def deep_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of coarse logits against the share of marked ones among the pixels that each of them covers.

    It is taken on the whole padded square, whose padding mirrors image and mask alike.

    Args:
        logits: `[B, s, s]`.
        masks: `[B, S, S]`, 0 or 1; S divides by s.

    Returns:
        `[B]`.

    Raises:
        LossError: S is no multiple of s.
    """
    logits, masks = ops.convert_to_tensor(logits), ops.convert_to_tensor(masks)
    coarse, fine = logits.shape[1], masks.shape[1]
    if len(logits.shape) != 3 or fine % coarse:
        raise LossError(f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)}: S must be a multiple of s")
    blocks = ops.reshape(ops.cast(masks, "float32"), (-1, coarse, fine // coarse, coarse, fine // coarse))
    return bce_loss(logits, ops.mean(blocks, axis=(2, 4)))


@TileLoss
def empty_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of one logit a tile, "this tile holds something".

    Args:
        logits: `[B, 1]`.
        masks: `[B, H, W]`, 0 or 1.

    Returns:
        `[B]`.

    Raises:
        LossError: other shapes, such as a logit a pixel.
    """
    logits, masks = ops.convert_to_tensor(logits), ops.convert_to_tensor(masks)
    if len(logits.shape) > 2 or tuple(logits.shape[1:]) not in ((), (1,)) or len(masks.shape) != 3:
        raise LossError(f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)}: must be [B, 1] and [B, H, W]")
    held = ops.max(ops.cast(masks, "float32"), axis=(1, 2))
    return bce_loss(ops.reshape(logits, (-1, 1, 1)), ops.reshape(held, (-1, 1, 1)))


TILE_LOSSES: dict[str, TileLoss] = {
    loss.name: loss for loss in (bce_loss, dice_loss, lovasz_hinge_loss, symmetric_lovasz_loss, deep_loss, empty_loss)
}


def prepare_loss(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and masks in the dtype in which a loss is computed.

    Raises:
        LossError: the shapes differ. They would often broadcast, `[B, H, W, 1]` with `[B, H, W]` for one, to a wrong
            loss. Or the logits are whole numbers, or the masks lie beyond 0 ... 1, as when they change places; the
            values can be looked at outside of a compiled function only.
    """
    logits, masks = ops.convert_to_tensor(logits), ops.convert_to_tensor(masks)
    if not keras.backend.is_float_dtype(logits.dtype):
        raise LossError(f"logits of {keras.backend.standardize_dtype(logits.dtype)}: must be floats, and come first")
    with contextlib.suppress(NotImplementedError, TypeError):  # what TensorFlow and JAX say of a tensor without values
        values = ops.convert_to_numpy(masks)
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise LossError(
                f"masks of {values.min()} to {values.max()}: must lie within 0 and 1; the logits come first, then masks"
            )
    given, wanted = tuple(logits.shape), tuple(masks.shape)
    known = zip(given, wanted, strict=False)
    if not len(given) == len(wanted) == 3 or any(None not in pair and pair[0] != pair[1] for pair in known):
        raise LossError(f"logits {given} and masks {wanted}: both must be [B, H, W]; take [..., 0] of the model")
    dtype = "float64" if keras.backend.standardize_dtype(logits.dtype) == "float64" else "float32"
    return ops.cast(logits, dtype), ops.cast(masks, dtype)


def sorted_penalties(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """elu(hinge error) + 1 of each tile's pixels, the greatest first, and the masks so ordered; `[B, H * W]` both."""
    pixels = logits.shape[1] * logits.shape[2]
    errors = ops.reshape(1.0 - logits * (2.0 * masks - 1.0), (-1, pixels))
    order = ops.argsort(-errors, axis=1)
    # A flat gather that takes each pixel once, so that the gradient is the same on every run.
    order = ops.cast(order, "int32") + pixels * ops.arange(ops.shape(logits)[0], dtype="int32")[:, None]
    penalties = ops.elu(ops.take(ops.reshape(errors, (-1,)), order, axis=0)) + 1.0
    return penalties, ops.take(ops.reshape(masks, (-1,)), order, axis=0)


def jaccard_steps(truth: Tensor) -> Tensor:
    """By how much the Jaccard loss grows with each pixel that becomes wrong, one after the other in this order.

    Args:
        truth: `[B, P]`, 0 or 1.

    Returns:
        `[B, P]`, not below 0; a row sums to 1.
    """
    missed = ops.cumsum(truth, axis=1)  # wrong marked pixels so far: they are missing from the intersection
    added = ops.cumsum(1.0 - truth, axis=1)  # wrong background pixels so far: they are added to the union
    marked = missed[:, -1:]
    jaccard = 1.0 - (marked - missed) / (
        marked + added
    )  # never 0 / 0: of an empty tile the first pixel is an added one
    return ops.concatenate([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], axis=1)
