"""U-Nets: an encoder's feature maps, a decoder that brings them back to full size, one logit a pixel.

Each builder returns a compiled Keras model that takes grey tiles of 0 to 255, normalises inside and gives logits, so
that it serves in any segmentation project. `build_model` is the one that this project's own training uses.
"""
import keras

from salt.config import Config
from salt.encoders import conv_block, plain_encoder, vgg16_encoder


def unet_model(
    filter_scaling: int = 16,
    depth: int = 5,
    batch_norm_momentum: float = 0.6,
    optimizer="adam",
    input_shape: tuple = (128, 128, 1),
    dropout: float = 0.0,
) -> keras.Model:
    """A U-Net from scratch.

    Args:
        filter_scaling: filters of the first level; each level below has twice as many.
        depth: levels, the bottom among them: the resolution is halved `depth - 1` times.
        batch_norm_momentum: share of the old running statistics that survives a step.
        optimizer: any Keras optimizer or its name.
        input_shape: height, width, 1; height and width divide by `2 ** (depth - 1)`, or are None.
        dropout: rate of spatial dropout after each level of the decoder.

    Returns:
        A compiled model: `[B, H, W, 1]` grey 0 to 255 to float32 logits `[B, H, W, 1]`; the loss is binary
        cross-entropy.

    Raises:
        ValueError: an input shape that does not fit the depth.

    Example:
        >>> model = unet_model(filter_scaling=8, depth=4)
        >>> model.predict(tiles[..., None]).shape
        (16, 128, 128, 1)
    """
    tiles = grey_input(input_shape, stride=2 ** (depth - 1))
    features = plain_encoder(tiles, filter_scaling, depth, batch_norm_momentum)
    filters = [filter_scaling * 2**level for level in range(depth - 1)]
    logits = decoder(features, filters, batch_norm_momentum, dropout)
    return compile_with_cross_entropy(keras.Model(tiles, logits, name="unet"), optimizer)


def transfer_unet_model(
    freeze_layer: int = 11,
    batch_norm_momentum: float = 0.7,
    optimizer="adam",
    input_shape: tuple = (128, 128, 1),
    weights: str | None = "imagenet",
    dropout: float = 0.0,
) -> keras.Model:
    """A U-Net whose encoder is a pre-trained VGG-16 and whose decoder mirrors its geometry, with He-normal weights.

    Args:
        freeze_layer: layers of VGG-16 below this index (the input is 0) are not trained; 11 freezes blocks 1 to 3.
        batch_norm_momentum: share of the old running statistics that survives a step (the decoder's; VGG-16 has none).
        optimizer: any Keras optimizer or its name.
        input_shape: height, width, 1; height and width divide by 16, or are None.
        weights: `"imagenet"` (downloaded by Keras), the path of a weights file without the top, or None for random
            ones.
        dropout: rate of spatial dropout after each level of the decoder.

    Returns:
        A compiled model: `[B, H, W, 1]` grey 0 to 255 to float32 logits `[B, H, W, 1]`; the loss is binary
        cross-entropy.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: an input shape that does not fit, or a file with other weights.
    """
    tiles = grey_input(input_shape, stride=16)
    # VGG-16 has no batch norm and its maps reach hundreds: beside them, what the decoder brings up would not count.
    features = [
        keras.layers.BatchNormalization(momentum=batch_norm_momentum, name=f"skip{level}_norm")(feature)
        for level, feature in enumerate(vgg16_encoder(tiles, weights, freeze_layer))
    ]
    # A decoder as wide as the encoder (512 ... 64) would double the cost of a step; half as wide is what the
    # well-known ports of VGG-16 U-Nets have.
    logits = decoder(features, [32, 64, 128, 256], batch_norm_momentum, dropout)
    return compile_with_cross_entropy(keras.Model(tiles, logits, name="transfer_unet"), optimizer)


def build_model(config: Config, weights: str | None = None) -> keras.Model:
    """The network that a configuration asks for.

    Args:
        config: the run's settings.
        weights: what `find_weights` made of `config.weights`; None when a trained model's weights are loaded
            afterwards.

    Returns:
        A model as `unet_model` and `transfer_unet_model` return them.
    """
    shared = dict(
        batch_norm_momentum=config.batch_norm_momentum,
        input_shape=(config.padded_size, config.padded_size, 1),
        dropout=config.dropout,
    )
    if config.model == "transfer_unet":
        return transfer_unet_model(freeze_layer=config.freeze_layer, weights=weights, **shared)
    return unet_model(filter_scaling=config.filter_scaling, depth=config.depth, **shared)


def grey_input(input_shape: tuple, stride: int):
    """The symbolic input of a network, whose size must fit its stride."""
    if len(input_shape) != 3 or input_shape[2] != 1:
        raise ValueError(f"input_shape={input_shape}: must be (height, width, 1), grey tiles with their channel")
    for side in input_shape[:2]:
        if side is not None and (side < stride or side % stride):
            raise ValueError(f"input_shape={input_shape}: height and width must divide by {stride}; pad the tiles")
    return keras.Input(input_shape, name="tiles")


def decoder(features: list, filters: list, batch_norm_momentum: float, dropout: float):
    """Climbs from the coarsest feature map to the finest and ends in one float32 logit a pixel.

    Args:
        features: maps from fine to coarse, each half the size of the one before.
        filters: the decoder's filters at each size, from fine to coarse, one fewer than there are maps.
        batch_norm_momentum: as in the builders.
        dropout: as in the builders.

    Returns:
        Logits `[B, H, W, 1]` at the size of the finest map.
    """
    x = features[-1]
    for level in reversed(range(len(filters))):
        name = f"up{level}"
        x = keras.layers.Conv2DTranspose(
            filters[level], 3, strides=2, padding="same", kernel_initializer="he_normal", name=f"{name}_grow"
        )(x)
        x = keras.layers.Concatenate(name=f"{name}_skip")([x, features[level]])
        x = conv_block(x, filters[level], batch_norm_momentum, name)
        if dropout:
            x = keras.layers.SpatialDropout2D(dropout, name=f"{name}_dropout")(x)
    # float32 whatever the precision of the rest: the losses sort and sum logits.
    return keras.layers.Conv2D(1, 1, dtype="float32", name="logits")(x)


def compile_with_cross_entropy(model: keras.Model, optimizer) -> keras.Model:
    """Compiles a model that ends in logits."""
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=use_jit())
    return model


def use_jit() -> bool:
    """Whether `compile` should ask for just-in-time compilation: JAX is too slow without, TensorFlow fast enough.

    Keras's "auto" would turn XLA on where a GPU is seen, so that a desk and Kaggle would run different programs.
    """
    return keras.backend.backend() != "tensorflow"
