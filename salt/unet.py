"""U-Nets for any segmentation project: compiled Keras models, of logits or of probabilities.

The networks themselves, and the one that this project's own training uses, are in `salt/networks.py`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from salt.config import Config
from salt.keras_metrics import ImageIoU, LeaderboardScore
from salt.networks import build_fold_model as build_fold_model  # here, too, for scripts from before 1 December 2026
from salt.networks import build_model as build_model
from salt.networks import encoder_unet_network, transfer_unet_network, unet_network, use_jit


def unet_model(
    filter_scaling: int = 16,
    depth: int = 5,
    batch_norm_momentum: float = 0.6,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    input_shape: tuple[int | None, ...] = (128, 128, 1),
    dropout: float = 0.0,
    activation: str | None = None,
    metrics: Sequence | None = None,
    classes: int = 1,
) -> keras.Model:
    """A U-Net from scratch.

    Args:
        filter_scaling: filters of the first level; each level below has twice as many.
        depth: levels, the bottom among them: the resolution is halved `depth - 1` times.
        batch_norm_momentum: share of the running statistics that is kept in each step.
        optimizer: any Keras optimizer or its name.
        input_shape: height, width, channels; height and width divide by `2 ** (depth - 1)`, or are None.
        dropout: rate of spatial dropout after each level of the decoder.
        activation: None for logits; `"sigmoid"` for probabilities, or `"softmax"` where there are several classes.
        metrics: Keras metrics for `fit` and `evaluate`; None: of one class the leaderboard score (`score`) and the mean
            IoU (`iou`), both at p = 0.5, of several the mean IoU of the classes (`iou`).
        classes: 1 for masks of 0 and 1; more for masks of 0 to `classes - 1`, of which each pixel has one.

    Returns:
        A compiled model: `[B, H, W, channels]` of 0 to 255 to float32 `[B, H, W, classes]`. It is fitted to masks
        `[B, H, W, 1]`; the loss is cross-entropy.

    Raises:
        ValueError: an argument out of its range, or an input shape that does not fit the depth.

    Example:
        >>> model = unet_model(filter_scaling=8, depth=4)
        >>> model.predict(tiles[..., None]).shape
        (16, 128, 128, 1)
    """
    network = unet_network(filter_scaling, depth, batch_norm_momentum, input_shape, dropout, classes)
    return compile_with_cross_entropy(network, optimizer, activation, metrics)


def transfer_unet_model(
    freeze_layer: int = 11,
    batch_norm_momentum: float = 0.7,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    input_shape: tuple[int | None, ...] = (128, 128, 1),
    weights: str | None = "imagenet",
    dropout: float = 0.0,
    activation: str | None = None,
    metrics: Sequence | None = None,
    classes: int = 1,
) -> keras.Model:
    """A U-Net whose encoder is a pre-trained VGG-16 and whose decoder mirrors its geometry, with He-normal weights.

    Args:
        freeze_layer: layers of VGG-16 below this index (the input is 0) are not trained; 11 freezes blocks 1 to 3.
        batch_norm_momentum: share of the running statistics that is kept in each step (VGG-16 itself has none).
        optimizer: any Keras optimizer or its name.
        input_shape: height, width, and 1 for grey or 3 for red, green and blue; height and width divide by 16 and are
            at least 32, or are None.
        weights: `"imagenet"` (downloaded by Keras), the path of a weights file without the top, or None for random
            ones.
        dropout: rate of spatial dropout after each level of the decoder.
        activation: None for logits, `"sigmoid"` for probabilities.
        metrics: Keras metrics for `fit` and `evaluate`; None: the leaderboard score (`score`) and the mean IoU (`iou`),
            both at p = 0.5.
        classes: as in `unet_model`.

    Returns:
        A compiled model: `[B, H, W, channels]` of 0 to 255 to float32 `[B, H, W, classes]`; the loss is cross-entropy.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: an argument out of its range, an input shape that does not fit, or a file with other weights.
    """
    network = transfer_unet_network(freeze_layer, batch_norm_momentum, input_shape, weights, dropout, classes)
    return compile_with_cross_entropy(network, optimizer, activation, metrics)


def encoder_unet_model(
    config: Config,
    weights: str | None = None,
    activation: str | None = None,
    metrics: Sequence | None = None,
    channels: int = 1,
    classes: int = 1,
) -> keras.Model:
    """A U-Net of any encoder with a thin decoder, and with the parts that a configuration turns on.

    Args:
        config: the run's settings.
        weights: as in `build_model`.
        activation: None for logits, `"sigmoid"` for probabilities; the other heads give logits all the same.
        metrics: as in `transfer_unet_model`, of the mask alone. With more heads None means none: Keras takes metrics
            of a dict only where `fit` is given a dict of masks with all of its keys.
        channels, classes: as in `build_model`.

    Returns:
        A compiled model: `[B, S, S, channels]` of 0 to 255 to float32 logits `[B, S, S, classes]`. With
        `deep_supervision` or `empty_head` it gives a dict: `"logits"` (`"probabilities"` with an activation);
        `"deep_1"`, `"deep_2"` ... `[B, S / 2 ** k, S / 2 ** k, classes]`; `"empty"` `[B, classes]`, the logit of a
        tile that holds any. Of these the first alone has a loss and metrics.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: a size that does not fit the encoder, or weights that do not.
    """
    network = encoder_unet_network(config, weights, channels, classes)
    return compile_with_cross_entropy(network, "adam", activation, metrics)


def activate(logits: keras.KerasTensor, activation: str | None) -> keras.KerasTensor:
    """The logits as they are, or the probabilities that they stand for.

    Raises:
        ValueError: an activation that does not fit the number of classes.
    """
    fitting = "sigmoid" if logits.shape[-1] == 1 else "softmax"
    if activation not in (None, fitting):
        raise ValueError(
            f"activation={activation!r}: with classes={logits.shape[-1]} must be None (logits) or {fitting!r}"
        )
    if activation is None:
        return logits
    return keras.layers.Activation(activation, dtype="float32", name="probabilities")(logits)


def activated(network: keras.Model, activation: str | None) -> keras.Model:
    """A network whose logits become probabilities; with `activation=None` as it is."""
    if activation is None:
        return network
    outputs = network.output
    if isinstance(outputs, dict):
        heads = dict(outputs)
        outputs = {"probabilities": activate(heads.pop("logits"), activation), **heads}
    else:
        outputs = activate(outputs, activation)
    return keras.Model(network.input, outputs, name=network.name)


def compile_with_cross_entropy(
    network: keras.Model, optimizer: str | keras.optimizers.Optimizer, activation: str | None, metrics: Sequence | None
) -> keras.Model:
    """Compiles a network as a model of logits or probabilities, or of a dict in which only these get a loss and
    metrics."""
    model, name = activated(network, activation), None
    outputs = model.output
    if isinstance(outputs, dict):
        name = "logits" if activation is None else "probabilities"
        outputs, metrics = outputs[name], metrics or ()
    classes, from_logits = outputs.shape[-1], activation is None
    if classes == 1:
        threshold = 0.0 if from_logits else 0.5
        loss: keras.losses.Loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
        usual = [LeaderboardScore(threshold=threshold), ImageIoU(threshold=threshold)]
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        usual = [keras.metrics.MeanIoU(classes, sparse_y_pred=False, name="iou")]
    wanted = usual if metrics is None else list(metrics)
    if optimizer == "adam" and model.variable_dtype == "float16":
        # With the usual 1e-7, about the least number above 0 there, most weights would soon be infinite.
        optimizer = keras.optimizers.Adam(epsilon=1e-4)
    model.compile(
        optimizer,
        loss if name is None else {name: loss},
        metrics=(wanted if name is None else {name: wanted}) if wanted else None,
        jit_compile=use_jit(),
    )
    model.get_compile_config = functools.partial(portable_compile_config, model)  # type: ignore[method-assign]
    return model


def portable_compile_config(model: keras.Model) -> dict:
    """What a saved model says of its compilation, without this package's own metrics.

    Keras would refuse to load the file in a process that has not imported them.
    """
    config = type(model).get_compile_config(model)

    def keep(metrics: Any) -> Any:
        if isinstance(metrics, dict) and "class_name" not in metrics:
            return {name: keep(each) for name, each in metrics.items()}
        if isinstance(metrics, list):
            return [keep(each) for each in metrics if keep(each) is not None]
        own = isinstance(metrics, dict) and str(metrics.get("registered_name")).startswith("salt>")
        return None if own else metrics

    return {**config, "metrics": keep(config.get("metrics"))} if config else config
