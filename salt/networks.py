"""U-Nets: an encoder's feature maps, a decoder that brings them back to full size, one logit a pixel.

A network takes images of 0 to 255, normalises inside and gives logits. `build_model` makes the one that a configuration
describes; `salt/unet.py` makes compiled models of them, for any segmentation project.
"""

import numbers

import keras
from keras import ops

from salt.config import Config
from salt.encoders import centre_grey, conv_block, conv_norm, encoder_features, plain_encoder, vgg16_encoder
from salt.layers import BatchNormalization


def unet_network(
    filter_scaling: int,
    depth: int,
    batch_norm_momentum: float,
    input_shape: tuple[int | None, ...],
    dropout: float,
    classes: int,
) -> keras.Model:
    """The network of `unet_model`, to logits and not compiled; the arguments are those."""
    check_numbers(filter_scaling=filter_scaling, depth=depth, classes=classes)
    check_shares(batch_norm_momentum=batch_norm_momentum, dropout=dropout)
    images = image_input(input_shape, stride=2 ** (depth - 1))
    features = plain_encoder(images, filter_scaling, depth, batch_norm_momentum)
    filters = [filter_scaling * 2**level for level in range(depth - 1)]
    return keras.Model(images, decoder(features, filters, batch_norm_momentum, dropout, classes), name="unet")


def transfer_unet_network(
    freeze_layer: int,
    batch_norm_momentum: float,
    input_shape: tuple[int | None, ...],
    weights: str | None,
    dropout: float,
    classes: int,
) -> keras.Model:
    """The network of `transfer_unet_model`, to logits and not compiled; the arguments are those."""
    check_shares(batch_norm_momentum=batch_norm_momentum, dropout=dropout)
    images = image_input(input_shape, stride=16, least=32, channels=(1, 3))
    # VGG-16 has no batch norm and its maps reach hundreds, beside which the decoder's own maps would be negligible.
    features = [
        BatchNormalization(momentum=batch_norm_momentum, name=f"skip{level}_norm")(feature)
        for level, feature in enumerate(vgg16_encoder(images, weights, freeze_layer))
    ]
    # A decoder as wide as the encoder (512 ... 64) would double the cost of a step; well-known U-Nets of VGG-16 have
    # half that width.
    logits = decoder(features, [32, 64, 128, 256], batch_norm_momentum, dropout, classes)
    return keras.Model(images, logits, name="transfer_unet")


def build_model(config: Config, weights: str | None = None, channels: int = 1, classes: int = 1) -> keras.Model:
    """The network that a configuration describes.

    Args:
        config: the run's settings.
        weights: what `find_weights` made of `config.weights`; None when a trained model's weights are loaded
            afterwards.
        channels: of an image, 1 or 3.
        classes: how many masks an image has; each gets logits of its own.

    Returns:
        A model to float32 logits `[B, S, S, classes]`, or to a dict of them, see `encoder_unet_model`. It is not
        compiled.
    """
    channels = 3 if config.neighbour_masks else channels  # a grey image, in which masks are a colour
    momentum, shape = config.batch_norm_momentum, (config.padded_size, config.padded_size, channels)
    if config.model == "encoder_unet":
        network = encoder_unet_network(config, weights, channels, classes)
    elif config.model == "transfer_unet":
        network = transfer_unet_network(config.freeze_layer, momentum, shape, weights, config.dropout, classes)
    else:
        network = unet_network(config.filter_scaling, config.depth, momentum, shape, config.dropout, classes)
    network.jit_compile = use_jit()  # for predictions
    return network


def build_fold_model(config: Config, channels: int = 1, classes: int = 1) -> keras.Model:
    """The model whose weights are in a fold's file: the network, or an ensemble of its snapshots."""
    if config.snapshots == 1:
        return build_model(config, None, channels, classes)
    return snapshot_ensemble([build_model(config, None, channels, classes) for _ in range(config.snapshots)])


def snapshot_ensemble(networks: list[keras.Model]) -> keras.Model:
    """Several networks of one shape as one, whose logits are those of their mean probability.

    Args:
        networks: models of `build_model`.

    Returns:
        A model from `[B, S, S, channels]` of 0 to 255 to float32 logits `[B, S, S, classes]`; it has no other heads.
    """
    tiles = keras.Input(networks[0].input_shape[1:], name="tiles")
    probabilities = []
    for index, network in enumerate(networks):
        logits = network.output["logits"] if isinstance(network.output, dict) else network.output
        logits = keras.Model(network.input, logits, name=f"snapshot{index}")(tiles)
        probabilities.append(keras.layers.Activation("sigmoid", dtype="float32", name=f"probability{index}")(logits))
    mean = ops.clip(keras.layers.Average(dtype="float32", name="mean")(probabilities), 1e-7, 1 - 1e-7)
    return keras.Model(tiles, ops.log(mean) - ops.log(1 - mean), name="snapshots")


def encoder_unet_network(config: Config, weights: str | None, channels: int, classes: int) -> keras.Model:
    """The network of `encoder_unet_model`, to logits and not compiled; the arguments are those."""
    filters, momentum = config.decoder_filters, config.batch_norm_momentum
    shape = (config.padded_size, config.padded_size, channels)
    tiles = image_input(shape, stride=2 ** len(filters), channels=(1, 3))
    features = encoder_features(tiles, config, weights)
    if config.stem_stride > 1:
        features.insert(0, detail_map(tiles, filters[0], momentum))
    maps = thin_decoder(features, filters, momentum, config.dropout, config.attention)
    finest = merge_levels(maps, momentum) if config.hypercolumn else maps[0]
    outputs = {"logits": logits_of(finest, "logits", classes)}
    if config.deep_supervision:
        outputs |= {f"deep_{level}": logits_of(maps[level], f"deep_{level}", classes) for level in range(1, len(maps))}
    if config.empty_head:
        mean = keras.layers.GlobalAveragePooling2D(dtype="float32", name="empty_mean")(features[-1])
        outputs["empty"] = keras.layers.Dense(classes, dtype="float32", name="empty")(mean)
    return keras.Model(tiles, outputs if len(outputs) > 1 else outputs["logits"], name="encoder_unet")


def encoder_layers(model: keras.Model) -> list[keras.Model]:
    """The nested models of a network: its encoder, if that may have pre-trained weights; else none.

    Pre-trained variables need a lower learning rate than the others.
    """
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


def image_input(
    input_shape: tuple[int | None, ...], stride: int, least: int = 1, channels: tuple[int, ...] = ()
) -> keras.KerasTensor:
    """The symbolic input of a network.

    Args:
        input_shape: height, width, channels.
        stride: of which height and width must be multiples.
        least: pixels that height and width must have.
        channels: how many there may be; empty: any number.

    Raises:
        ValueError: a shape that does not fit.
    """
    if not isinstance(input_shape, tuple | list) or len(input_shape) != 3 or not is_whole(input_shape[2], least=1):
        raise ValueError(
            f"input_shape={input_shape}: must be (height, width, channels), channels a whole number from 1"
        )
    if channels and input_shape[2] not in channels:
        raise ValueError(
            f"input_shape={input_shape}: has {input_shape[2]} channels; this encoder takes "
            f"{' or '.join(map(str, channels))}"
        )
    for side in input_shape[:2]:
        if side is not None and (not is_whole(side, least=max(stride, least)) or side % stride):
            raise ValueError(
                f"input_shape={input_shape}: height and width must divide by {stride}, and be at least "
                f"{max(stride, least)}, or None; pad the images"
            )
    return keras.Input(input_shape, name="tiles")


def is_whole(value: object, least: int) -> bool:
    """Whether a value is a whole number, and at least so much."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def check_numbers(**values: int) -> None:
    """Raises `ValueError` for an argument that is no whole number from 1."""
    for name, value in values.items():
        if not is_whole(value, least=1):
            raise ValueError(f"{name}={value!r}: must be a whole number from 1")


def check_shares(**values: float) -> None:
    """Raises `ValueError` for an argument that is no share: no number, below 0, or not below 1."""
    for name, value in values.items():
        if not isinstance(value, numbers.Real) or not 0 <= value < 1:
            raise ValueError(f"{name}={value!r}: must be a number from 0, and below 1")


def decoder(
    features: list[keras.KerasTensor], filters: list[int], batch_norm_momentum: float, dropout: float, classes: int = 1
) -> keras.KerasTensor:
    """Upsamples from the coarsest feature map to the finest and ends in one float32 logit a pixel and class.

    Args:
        features: maps from fine to coarse, each half the size of the one before.
        filters: the decoder's filters at each size, from fine to coarse, one fewer than there are maps.
        batch_norm_momentum: as in the builders.
        dropout: as in the builders.
        classes: how many logits a pixel.

    Returns:
        Logits `[B, H, W, classes]` at the size of the finest map.
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
    return logits_of(x, "logits", classes)


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


def logits_of(x: keras.KerasTensor, name: str, classes: int = 1) -> keras.KerasTensor:
    """One logit a pixel and class, by a 1 x 1 convolution."""
    # In float32 whatever the precision policy: the losses sort and sum logits.
    return keras.layers.Conv2D(classes, 1, dtype="float32", name=name)(x)


def use_jit() -> bool:
    """Whether `compile` should use just-in-time compilation: JAX needs it, TensorFlow is fast enough without.

    Keras's "auto" would turn XLA on where a GPU is seen, so that the desk and Kaggle would run different programs.
    """
    return keras.backend.backend() != "tensorflow"
