"""U-Nets: an encoder's feature maps, a decoder that brings them back to full size, one logit a pixel.

Each builder returns a compiled Keras model that takes grey tiles of 0 to 255, normalises inside and gives logits, so
that it serves in any segmentation project. `build_model` is the one that this project's own training uses.
"""

import keras
from keras import ops

from salt.config import Config
from salt.encoders import centre_grey, conv_block, conv_norm, encoder_features, plain_encoder, vgg16_encoder
from salt.layers import BatchNormalization


def unet_model(
    filter_scaling: int = 16,
    depth: int = 5,
    batch_norm_momentum: float = 0.6,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    input_shape: tuple[int | None, ...] = (128, 128, 1),
    dropout: float = 0.0,
) -> keras.Model:
    """A U-Net from scratch.

    Args:
        filter_scaling: filters of the first level; each level below has twice as many.
        depth: levels, the bottom among them: the resolution is halved `depth - 1` times.
        batch_norm_momentum: share of the running statistics that is kept in each step.
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
    optimizer: str | keras.optimizers.Optimizer = "adam",
    input_shape: tuple[int | None, ...] = (128, 128, 1),
    weights: str | None = "imagenet",
    dropout: float = 0.0,
) -> keras.Model:
    """A U-Net whose encoder is a pre-trained VGG-16 and whose decoder mirrors its geometry, with He-normal weights.

    Args:
        freeze_layer: layers of VGG-16 below this index (the input is 0) are not trained; 11 freezes blocks 1 to 3.
        batch_norm_momentum: share of the running statistics that is kept in each step (VGG-16 itself has none).
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
    # VGG-16 has no batch norm and its maps reach hundreds, beside which the decoder's own maps would be negligible.
    features = [
        BatchNormalization(momentum=batch_norm_momentum, name=f"skip{level}_norm")(feature)
        for level, feature in enumerate(vgg16_encoder(tiles, weights, freeze_layer))
    ]
    # A decoder as wide as the encoder (512 ... 64) would double the cost of a step; well-known U-Nets of VGG-16 have
    # half that width.
    logits = decoder(features, [32, 64, 128, 256], batch_norm_momentum, dropout)
    return compile_with_cross_entropy(keras.Model(tiles, logits, name="transfer_unet"), optimizer)


def build_model(config: Config, weights: str | None = None) -> keras.Model:
    """The network that a configuration describes.

    Args:
        config: the run's settings.
        weights: what `find_weights` made of `config.weights`; None when a trained model's weights are loaded
            afterwards.

    Returns:
        A compiled model to float32 logits `[B, S, S, 1]`, or to a dict of them, see `encoder_unet_model`.
    """
    if config.model == "encoder_unet":
        return encoder_unet_model(config, weights)
    momentum, shape = config.batch_norm_momentum, (config.padded_size, config.padded_size, 1)
    if config.model == "transfer_unet":
        return transfer_unet_model(
            config.freeze_layer, momentum, input_shape=shape, weights=weights, dropout=config.dropout
        )
    return unet_model(config.filter_scaling, config.depth, momentum, input_shape=shape, dropout=config.dropout)


def build_fold_model(config: Config) -> keras.Model:
    """The model whose weights are in a fold's file: the network, or an ensemble of its snapshots."""
    if config.snapshots == 1:
        return build_model(config)
    return snapshot_ensemble([build_model(config) for _ in range(config.snapshots)])


def snapshot_ensemble(networks: list[keras.Model]) -> keras.Model:
    """Several networks of one shape as one, whose logits are those of their mean probability.

    Args:
        networks: models of `build_model`.

    Returns:
        A model from `[B, S, S, 1]` grey 0 to 255 to float32 logits `[B, S, S, 1]`; it has no other heads.
    """
    tiles = keras.Input(networks[0].input_shape[1:], name="tiles")
    probabilities = []
    for index, network in enumerate(networks):
        logits = network.output["logits"] if isinstance(network.output, dict) else network.output
        logits = keras.Model(network.input, logits, name=f"snapshot{index}")(tiles)
        probabilities.append(keras.layers.Activation("sigmoid", dtype="float32", name=f"probability{index}")(logits))
    mean = ops.clip(keras.layers.Average(dtype="float32", name="mean")(probabilities), 1e-7, 1 - 1e-7)
    return keras.Model(tiles, ops.log(mean) - ops.log(1 - mean), name="snapshots")


def encoder_unet_model(config: Config, weights: str | None = None) -> keras.Model:
    """A U-Net of any encoder with a thin decoder, and with the parts that a configuration turns on.

    Args:
        config: the run's settings.
        weights: as in `build_model`.

    Returns:
        A compiled model: `[B, S, S, 1]` grey 0 to 255 to float32 logits `[B, S, S, 1]`. With `deep_supervision` or
        `empty_head` it gives a dict: `"logits"`; `"deep_1"`, `"deep_2"` ... `[B, S / 2 ** k, S / 2 ** k, 1]`; `"empty"`
        `[B, 1]`, the logit of a tile that holds salt.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: a size that does not fit the encoder, or weights that do not.
    """
    filters, momentum = config.decoder_filters, config.batch_norm_momentum
    tiles = grey_input((config.padded_size, config.padded_size, 1), stride=2 ** len(filters))
    features = encoder_features(tiles, config, weights)
    if config.stem_stride > 1:
        features.insert(0, detail_map(tiles, filters[0], momentum))
    maps = thin_decoder(features, filters, momentum, config.dropout, config.attention)
    finest = merge_levels(maps, momentum) if config.hypercolumn else maps[0]
    outputs = {"logits": logits_of(finest, "logits")}
    if config.deep_supervision:
        outputs |= {f"deep_{level}": logits_of(maps[level], f"deep_{level}") for level in range(1, len(maps))}
    if config.empty_head:
        mean = keras.layers.GlobalAveragePooling2D(dtype="float32", name="empty_mean")(features[-1])
        outputs["empty"] = keras.layers.Dense(1, dtype="float32", name="empty")(mean)
    model = keras.Model(tiles, outputs if len(outputs) > 1 else outputs["logits"], name="encoder_unet")
    return compile_with_cross_entropy(model, "adam")


def encoder_layers(model: keras.Model) -> list[keras.Model]:
    """The nested models of a network: its encoder, if that may have pre-trained weights; else none.

    Pre-trained variables need a lower learning rate than the others.
    """
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


def grey_input(input_shape: tuple[int | None, ...], stride: int) -> keras.KerasTensor:
    """The symbolic input of a network, whose size must fit its stride."""
    if len(input_shape) != 3 or input_shape[2] != 1:
        raise ValueError(f"input_shape={input_shape}: must be (height, width, 1), grey tiles with their channel")
    for side in input_shape[:2]:
        if side is not None and (side < stride or side % stride):
            raise ValueError(f"input_shape={input_shape}: height and width must divide by {stride}; pad the tiles")
    return keras.Input(input_shape, name="tiles")


def decoder(
    features: list[keras.KerasTensor], filters: list[int], batch_norm_momentum: float, dropout: float
) -> keras.KerasTensor:
    """Upsamples from the coarsest feature map to the finest and ends in one float32 logit a pixel.

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
    return logits_of(x, "logits")


def thin_decoder(
    features: list[keras.KerasTensor],
    filters: tuple[int, ...],
    batch_norm_momentum: float,
    dropout: float,
    attention: bool,
) -> list[keras.KerasTensor]:
    """Upsamples from the coarsest feature map to full size with few filters, however many the encoder has.

    Skips are reduced by a 1 x 1 convolution and added: concatenation would double the cost of the next convolution.
    Both summands are normalised first, since an encoder without batch norm gives maps that reach hundreds.

    Args:
        features: maps from fine to coarse, each half the size of the one before.
        filters: the decoder's filters at each size, from fine to coarse, one fewer than there are maps.
        batch_norm_momentum: as in the builders.
        dropout: rate of spatial dropout after each level.
        attention: whether each level ends in `squeeze_and_excite`.

    Returns:
        The decoder's maps, from fine to coarse, as many as there are filters.
    """
    x = features[-1]
    maps: list[keras.KerasTensor] = []
    for level in reversed(range(len(filters))):
        name = f"up{level}"
        x = keras.layers.Conv2DTranspose(
            filters[level], 2, strides=2, use_bias=False, kernel_initializer="he_normal", name=f"{name}_grow"
        )(x)
        x = BatchNormalization(momentum=batch_norm_momentum, name=f"{name}_grow_norm")(x)
        skip = conv_norm(features[level], filters[level], 1, 1, batch_norm_momentum, f"{name}_narrow")
        x = keras.layers.Add(name=f"{name}_skip")([x, skip])
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
        x = conv_block(x, filters[level], batch_norm_momentum, name)
        if attention:
            x = squeeze_and_excite(x, name)
        if dropout:
            x = keras.layers.SpatialDropout2D(dropout, name=f"{name}_dropout")(x)
        maps.insert(0, x)
    return maps


def detail_map(tiles: keras.KerasTensor, filters: int, batch_norm_momentum: float) -> keras.KerasTensor:
    """A feature map of the grey tile at full size, which a stem of stride 2 does not have, for the decoder's last skip.

    Full resolution counts: masks that are wrong by one pixel along their whole edge score .94, by two .89.
    """
    x = conv_norm(centre_grey(tiles, "detail_grey"), filters, 3, 1, batch_norm_momentum, "detail")
    return keras.layers.ReLU(name="detail_relu")(x)


def squeeze_and_excite(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Weights channels by the mean of the whole map, and pixels by their channels (scSE, Roy et al. 2018)."""
    filters = x.shape[-1]
    channels = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    channels = keras.layers.Dense(max(filters // 8, 4), activation="relu", name=f"{name}_reduce")(channels)
    channels = keras.layers.Dense(filters, activation="sigmoid", name=f"{name}_channels")(channels)
    pixels = keras.layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_pixels")(x)
    # x * channels + x * pixels, with one large product instead of two.
    return keras.layers.Multiply(name=f"{name}_excite")([x, keras.layers.Add(name=f"{name}_gate")([channels, pixels])])


def merge_levels(maps: list[keras.KerasTensor], batch_norm_momentum: float) -> keras.KerasTensor:
    """A hypercolumn (Hariharan et al. 2015): the finest map, with the coarser ones added to each pixel.

    A 1 x 1 convolution of all maps, upsampled and concatenated, is the sum of 1 x 1 convolutions of each; summed from
    coarse to fine, only one thin map is ever upsampled.
    """
    filters = maps[0].shape[-1]
    x: keras.KerasTensor | None = None
    for level in reversed(range(len(maps))):
        narrow = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"merge{level}_narrow")(maps[level])
        x = narrow if x is None else keras.layers.Add(name=f"merge{level}_add")([x, narrow])
        if level:
            x = keras.layers.UpSampling2D(2, interpolation="bilinear", name=f"merge{level}_grow")(x)
    x = BatchNormalization(momentum=batch_norm_momentum, name="merge_norm")(x)
    x = conv_norm(keras.layers.ReLU(name="merge_relu")(x), filters, 3, 1, batch_norm_momentum, "merge_last")
    return keras.layers.ReLU(name="merge_out")(x)


def logits_of(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """One logit a pixel, by a 1 x 1 convolution."""
    # In float32 whatever the precision policy: the losses sort and sum logits.
    return keras.layers.Conv2D(1, 1, dtype="float32", name=name)(x)


def compile_with_cross_entropy(model: keras.Model, optimizer: str | keras.optimizers.Optimizer) -> keras.Model:
    """Compiles a model of logits, or of a dict with them, in which only `"logits"` gets a loss."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer, {"logits": loss} if isinstance(model.output, dict) else loss, jit_compile=use_jit())
    return model


def use_jit() -> bool:
    """Whether `compile` should use just-in-time compilation: JAX needs it, TensorFlow is fast enough without.

    Keras's "auto" would turn XLA on where a GPU is seen, so that the desk and Kaggle would run different programs.
    """
    return keras.backend.backend() != "tensorflow"
