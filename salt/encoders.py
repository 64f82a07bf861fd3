"""Encoders (backbones): networks from grey tiles to feature maps, from fine to coarse, which decoders take up.

Each takes grey tiles of 0 to 255 and normalises them itself; each map is half the size of the one before.
`encoder_features` chooses the encoder that a configuration names.
"""

import pathlib
from collections.abc import Iterable

import keras
from keras import ops

from salt.backbones import BACKBONES, Backbone, build_backbone, load_encoder
from salt.config import Config
from salt.layers import BatchNormalization

# The last convolution of each VGG-16 block: strides 1, 2, 4, 8, 16 and 64, 128, 256, 512, 512 channels.
VGG16_FEATURES = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
# ImageNet's mean colour, which VGG-16 subtracts (blue, green, red; Simonyan & Zisserman 2015, as in
# keras.applications).
VGG16_MEAN = (103.939, 116.779, 123.68)

# EfficientNet-Lite's seven stages: blocks, kernel, stride, expansion, channels. Lite2 is deeper and a little wider.
EFFLITE_STAGES = {
    "efflite0": (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ),
    "efflite2": (
        (1, 3, 1, 1, 16),
        (3, 3, 2, 6, 24),
        (3, 5, 2, 6, 48),
        (4, 3, 2, 6, 88),
        (4, 5, 1, 6, 120),
        (5, 5, 2, 6, 208),
        (1, 3, 1, 6, 352),
    ),
}
# The last map at each of its five sizes: of Lite0 16, 24, 40, 112 and 320 channels, of Lite2 16, 24, 48, 120 and 352.
EFFLITE_FEATURES = {
    "efflite0": ("block0_project_bn", "block2_add", "block4_add", "block10_add", "block15_project_bn"),
    "efflite2": ("block0_project_bn", "block3_add", "block6_add", "block14_add", "block20_project_bn"),
}

# ImageNet's mean colour and standard deviation, red, green and blue, as shares of 255; for `pyramid_outputs`.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

# The last map at each of EfficientNetV2-S's five sizes: 24, 48, 64, 160 and 256 channels.
EFFICIENTNETV2S_FEATURES = ("block1b_add", "block2d_add", "block3d_add", "block5i_add", "block6o_add")


def encoder_features(tiles: keras.KerasTensor, config: Config, weights: str | None = None) -> list[keras.KerasTensor]:
    """The feature maps of the encoder that a configuration names.

    Args:
        tiles: symbolic tensor `[B, H, W, 1]`, grey 0 to 255.
        config: of its fields, `encoder`, `stem_stride`, `freeze_layer`, `decoder_filters` (how far down the encoder is
            used) and, for the residual one, `filter_scaling` and `batch_norm_momentum`.
        weights: `"imagenet"`, the path of a file, or None for random ones.

    Returns:
        Maps from fine to coarse, of strides `stem_stride`, twice that ... `2 ** len(decoder_filters)`.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: weights that this encoder does not have.
    """
    levels = len(config.decoder_filters) + 2 - config.stem_stride  # a stem of stride 2 leaves out the finest
    if config.encoder == "vgg16":
        return vgg16_encoder(tiles, weights, config.freeze_layer, levels)
    if config.encoder in EFFLITE_STAGES:
        return efflite_encoder(tiles, config.encoder, weights, config.freeze_layer, levels, config.stem_stride)
    if config.encoder == "efficientnetv2s":
        return efficientnetv2s_encoder(tiles, weights, config.freeze_layer, levels, config.stem_stride)
    if config.encoder in BACKBONES:
        return pyramid_outputs(tiles, config.encoder, weights, config.freeze_layer, levels)
    if weights is not None:
        raise ValueError(f"weights={weights!r}: the residual encoder is trained from nothing; set weights to null")
    return residual_encoder(tiles, config.filter_scaling, levels, config.stem_stride, config.batch_norm_momentum)


def conv_block(x: keras.KerasTensor, filters: int, batch_norm_momentum: float, name: str) -> keras.KerasTensor:
    """Two 3 x 3 convolutions, each with batch norm and ReLU: `[B, H, W, C]` to `[B, H, W, filters]`."""
    for index in (1, 2):
        x = keras.layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv{index}"
        )(x)
        x = BatchNormalization(momentum=batch_norm_momentum, name=f"{name}_norm{index}")(x)
        x = keras.layers.ReLU(name=f"{name}_relu{index}")(x)
    return x


def plain_encoder(
    tiles: keras.KerasTensor, filter_scaling: int, depth: int, batch_norm_momentum: float
) -> list[keras.KerasTensor]:
    """The contracting path of a U-Net (Ronneberger et al. 2015), from scratch.

    Args:
        tiles: symbolic tensor `[B, H, W, C]` of 0 to 255; H and W divide by `2 ** (depth - 1)`.
        filter_scaling: filters of the first level; each level below has twice as many.
        depth: levels, the bottom among them.
        batch_norm_momentum: share of the running statistics that is kept in each step.

    Returns:
        `depth` feature maps, level k of size `[B, H / 2 ** k, W / 2 ** k, filter_scaling * 2 ** k]`.
    """
    x = centre_grey(tiles)
    features = []
    for level in range(depth):
        if level:
            x = keras.layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
        x = conv_block(x, filter_scaling * 2**level, batch_norm_momentum, f"down{level}")
        features.append(x)
    return features


def centre_grey(tiles: keras.KerasTensor, name: str = "to_unit_range") -> keras.KerasTensor:
    """Images of 0 to 255 to a unit range about each one's mean, for the encoders from scratch."""
    # In float32 whatever the precision policy: bfloat16's 8 bits of mantissa cannot represent all 256 grey levels.
    x = keras.layers.Rescaling(1 / 255, dtype="float32", name=name)(tiles)
    return x - ops.mean(x, axis=(1, 2, 3), keepdims=True)  # a tile's brightness says nothing


def residual_encoder(
    tiles: keras.KerasTensor, filter_scaling: int, levels: int, stem_stride: int, batch_norm_momentum: float
) -> list[keras.KerasTensor]:
    """A residual network (He et al. 2016) from scratch, of dense 3 x 3 convolutions, which are fast on every device.

    The finest level has one convolution, each other one two blocks: on a CPU layers at full resolution cost most.

    Args:
        tiles: symbolic tensor `[B, H, W, 1]`, grey 0 to 255.
        filter_scaling: filters of the first level; each level below has twice as many.
        levels: how many feature maps.
        stem_stride: stride of the first map, 1 or 2.
        batch_norm_momentum: share of the running statistics that is kept in each step.

    Returns:
        `levels` feature maps of strides `stem_stride`, twice that and so on.
    """
    x = conv_norm(centre_grey(tiles), filter_scaling, 3, stem_stride, batch_norm_momentum, "stem")
    x = keras.layers.ReLU(name="stem_relu")(x)
    features = [x]
    for level in range(1, levels):
        x = residual_block(x, filter_scaling * 2**level, 2, batch_norm_momentum, f"down{level}a")
        x = residual_block(x, filter_scaling * 2**level, 1, batch_norm_momentum, f"down{level}b")
        features.append(x)
    return features


def residual_block(
    x: keras.KerasTensor, filters: int, stride: int, batch_norm_momentum: float, name: str
) -> keras.KerasTensor:
    """Two 3 x 3 convolutions beside a shortcut: `[B, H, W, C]` to `[B, H / stride, W / stride, filters]`."""
    shortcut = x
    if stride > 1:
        # Averaged before the 1 x 1 convolution, whose stride would discard three of four pixels (He et al. 2019).
        shortcut = keras.layers.AveragePooling2D(stride, name=f"{name}_pool")(x)
        shortcut = conv_norm(shortcut, filters, 1, 1, batch_norm_momentum, f"{name}_short")
    x = conv_norm(x, filters, 3, stride, batch_norm_momentum, f"{name}_first")
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = conv_norm(x, filters, 3, 1, batch_norm_momentum, f"{name}_second")
    return keras.layers.ReLU(name=f"{name}_out")(keras.layers.Add(name=f"{name}_add")([shortcut, x]))


def conv_norm(
    x: keras.KerasTensor, filters: int, kernel: int, stride: int, batch_norm_momentum: float, name: str
) -> keras.KerasTensor:
    """A convolution and its batch norm."""
    x = keras.layers.Conv2D(
        filters, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return BatchNormalization(momentum=batch_norm_momentum, name=f"{name}_norm")(x)


def vgg16_encoder(
    tiles: keras.KerasTensor, weights: str | None, freeze_layer: int, levels: int = 5
) -> list[keras.KerasTensor]:
    """The convolutions of VGG-16 (Simonyan & Zisserman 2015) on grey or colour images.

    Args:
        tiles: symbolic tensor of 0 to 255, `[B, H, W, 1]` grey or `[B, H, W, 3]` red, green, blue; H and W divide by
            16.
        weights: `"imagenet"` (downloaded by Keras), the path of a weights file without the top, or None for random
            ones.
        freeze_layer: layers below this index (the input is 0) are not trained; 11 freezes blocks 1 to 3.
        levels: how many feature maps; with 4 the fifth block is left out.

    Returns:
        `levels` feature maps of strides 1 to 16, with 64, 128, 256, 512 and 512 channels.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: the file holds no VGG-16 weights.
    """
    shape = (*tiles.shape[1:3], 3)
    vgg = keras.applications.VGG16(
        include_top=False, weights="imagenet" if weights == "imagenet" else None, input_shape=shape
    )
    load_encoder(vgg, weights, "VGG-16 without its top")
    if tiles.shape[-1] == 3:
        tiles = ops.flip(tiles, axis=-1)  # VGG-16 was trained on blue, green, red
    maps = outputs_of(vgg, VGG16_FEATURES[:levels])
    return features_of_grey(tiles, vgg, maps, freeze_layer, 1.0, [-mean for mean in VGG16_MEAN])


def efflite_encoder(
    tiles: keras.KerasTensor, name: str, weights: str | None, freeze_layer: int, levels: int, stem_stride: int
) -> list[keras.KerasTensor]:
    """EfficientNet-Lite0 or Lite2 (Tan & Le 2019; the Lite form by Google 2020) on grey tiles: small, for a CPU.

    Args:
        tiles: symbolic tensor `[B, H, W, 1]`, grey 0 to 255.
        name: `"efflite0"` or `"efflite2"`.
        weights: the path of a file of `efficientnet_lite`'s weights, with or without its head, or None.
        freeze_layer: layers below this index (the input is 0) are not trained.
        levels: how many feature maps, at most 5.
        stem_stride: stride of the first map: 2 as it was trained, or 1 for maps of twice the size.

    Returns:
        `levels` feature maps of strides `stem_stride`, twice that and so on; of 16 to 320 channels, or to 352.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: the file holds other weights, or `weights` is `"imagenet"`, which Keras does not have for it.
    """
    if weights == "imagenet":
        raise ValueError(f"weights='imagenet': Keras has none for {name}; give the path of a file, or null")
    lite = efficientnet_lite(name, (*tiles.shape[1:3], 3), stem_stride)
    load_encoder(lite, weights, f"EfficientNet-Lite{name[-1]}")
    maps = outputs_of(lite, EFFLITE_FEATURES[name][:levels])
    return features_of_grey(tiles, lite, maps, freeze_layer, 1 / 128, -127 / 128)


def efficientnet_lite(name: str, input_shape: tuple[int | None, ...], stem_stride: int = 2) -> keras.Model:
    """EfficientNet-B0 or B2 without squeeze-and-excitation, with ReLU6 for swish, without its head.

    A file of weights identifies layers by their class and order: do not change the order in which they are made here.

    Args:
        name: `"efflite0"` or `"efflite2"`.
        input_shape: height, width, 3.
        stem_stride: as in `efflite_encoder`.
    """

    def norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn")(x)

    def relu6(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return keras.layers.ReLU(6.0, name=f"{name}_relu6")(x)

    def conv(x: keras.KerasTensor, filters: int, name: str, kernel: int = 1, stride: int = 1) -> keras.KerasTensor:
        return keras.layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=f"{name}_conv")(x)

    colour = keras.Input(input_shape)
    x = relu6(norm(conv(colour, 32, "stem", 3, stem_stride), "stem"), "stem")
    block = 0
    for blocks, kernel, stage_stride, expansion, filters in EFFLITE_STAGES[name]:
        for index in range(blocks):
            place, stride, before = f"block{block}", stage_stride if index == 0 else 1, x
            if expansion > 1:
                x = conv(x, x.shape[-1] * expansion, f"{place}_expand")
                x = relu6(norm(x, f"{place}_expand"), f"{place}_expand")
            x = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{place}_dw_conv")(x)
            x = relu6(norm(x, f"{place}_dw"), f"{place}_dw")
            x = norm(conv(x, filters, f"{place}_project"), f"{place}_project")
            if stride == 1 and before.shape[-1] == filters:
                x = keras.layers.Add(name=f"{place}_add")([before, x])
            block += 1
    return keras.Model(colour, x, name=name)


def efficientnetv2s_encoder(
    tiles: keras.KerasTensor, weights: str | None, freeze_layer: int, levels: int, stem_stride: int
) -> list[keras.KerasTensor]:
    """EfficientNetV2-S (Tan & Le 2021) on grey tiles: 20 million parameters, for a GPU.

    Of keras.applications' networks of 20 to 30 million it knows ImageNet best (83.9 % top-1; ConvNeXt-T 81.3 %,
    ResNet50 74.9 %), and where its maps are large, which a stem of stride 1 makes larger still, its convolutions are
    dense 3 x 3 ones. ConvNeXt's stem cuts the image into 4 x 4 patches, so that no stride of 1 fits its weights.

    Args:
        tiles: symbolic tensor `[B, H, W, 1]`, grey 0 to 255.
        weights: `"imagenet"` (downloaded by Keras), the path of a weights file without the top, or None.
        freeze_layer: layers below this index (the input is 0) are not trained.
        levels: how many feature maps, at most 5.
        stem_stride: stride of the first map: 2 as it was trained, or 1 for maps of twice the size.

    Returns:
        `levels` feature maps of strides `stem_stride`, twice that and so on; 24, 48, 64, 160 and 256 channels.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: the file holds other weights.
    """
    network = keras.applications.EfficientNetV2S(
        include_top=False,
        weights="imagenet" if weights == "imagenet" else None,
        input_shape=(*tiles.shape[1:3], 3),
        include_preprocessing=False,
    )
    load_encoder(network, weights, "EfficientNetV2-S without its top")
    network = adapt_network(network, "stem_conv", stem_stride)
    maps = outputs_of(network, EFFICIENTNETV2S_FEATURES[:levels])
    return features_of_grey(tiles, network, maps, freeze_layer, 1 / 128, -1.0)


def pyramid_outputs(
    tiles: keras.KerasTensor, name: str, weights: str | None = None, freeze_layer: int = 0, levels: int = 5
) -> list[keras.KerasTensor]:
    """The feature maps of a backbone of keras_hub or keras.applications, on grey or colour images.

    A backbone that begins with a stride of 4 gets a convolution of its own for the map of stride 2. A plain vision
    transformer has maps of one size: those of several depths are grown or shrunk to one size each (Ranftl et al. 2021).

    Args:
        tiles: symbolic tensor of 0 to 255, `[B, H, W, 1]` grey or `[B, H, W, 3]` red, green, blue; H and W divide by
            `2 ** levels`, and by 16 for DINO, 32 for MiT.
        name: one of `BACKBONES`, see `backbones.py`.
        weights: as for `build_backbone`.
        freeze_layer: layers of the backbone below this index are not trained.
        levels: how many feature maps, 2 to 5.

    Returns:
        `levels` feature maps of strides 2, 4 and so on.

    Raises:
        ImportError: keras_hub is needed and not installed.
        FileNotFoundError, ValueError: weights that are not there, or are another network's; a size that does not fit.
    """
    if levels not in (2, 3, 4, 5):
        raise ValueError(f"levels={levels!r}: must be 2 to 5")
    height, width = tiles.shape[1:3]
    backbone, shrink, images = BACKBONES[name], 1.0, tiles
    least = max(2**levels, backbone.multiple)
    if not height or not width or height % least or width % least:
        raise ValueError(f"images of {height} x {width}: with {name} height and width must divide by {least}")
    if backbone.is_transformer():
        shrink = backbone.settings["patch_size"] / 16  # so that a patch covers 16 pixels of the image
    size = round(height * shrink), round(width * shrink)
    network = build_backbone(name, size, weights)
    if shrink != 1:
        images = keras.layers.Resizing(*size, dtype="float32", name="fit_patches")(tiles)
    scale = [1 / (255 * deviation) for deviation in IMAGENET_DEVIATION]
    offset = [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)]
    maps = features_of_grey(images, network, inner_maps(network, backbone, levels), freeze_layer, scale, offset)
    if backbone.is_transformer():
        maps = [reassemble(tokens, (height // 16, width // 16), index) for index, tokens in enumerate(maps)]
    if len(maps) < levels:
        finest = conv_norm(centre_grey(tiles, "half_grey"), 16, 3, 2, 0.9, "half")
        maps.insert(0, keras.layers.ReLU(name="half_relu")(finest))
    return maps


def inner_maps(network: keras.Model, backbone: Backbone, levels: int) -> list[keras.KerasTensor]:
    """The last map of each size in a backbone, from a stride of 2 or 4 on; of a transformer, tokens of several depths.

    The last layer of a transformer is always among them.
    """
    if backbone.is_transformer():
        depths = [round(backbone.settings["num_layers"] * part / (levels - 1)) for part in range(1, levels)]
        return [network.pyramid_outputs[f"stage{depth}"] for depth in depths]
    if backbone.preset:
        maps = [network.pyramid_outputs[key] for key in sorted(network.pyramid_outputs)]
    else:
        downsampling = [network.get_layer(f"{network.name}_downsampling_block_{stage}") for stage in range(3)]
        maps = [layer.input for layer in downsampling] + network.outputs
    return maps[: levels if len(maps) == 5 else levels - 1]


def reassemble(tokens: keras.KerasTensor, grid: tuple[int, int], level: int) -> keras.KerasTensor:
    """A transformer's tokens as a map: `[B, n, C]`, patches last, to stride 4, 8, 16 or 32 for level 0, 1, 2 or 3."""
    filters = tokens.shape[-1]
    x = tokens[:, -grid[0] * grid[1] :]  # before the patches stand the class and the registers
    x = keras.layers.Reshape((*grid, filters), name=f"patches{level}")(x)
    if level < 2:
        grow = 4 // 2**level
        x = keras.layers.Conv2DTranspose(filters // grow, grow, strides=grow, name=f"patches{level}_grow")(x)
    elif level == 3:
        x = keras.layers.Conv2D(filters, 3, 2, "same", name=f"patches{level}_shrink")(x)
    return x


def adapt_network(network: keras.Model, stem: str, stride: int) -> keras.Model:
    """A copy of a network, weights and all, with this stride in the layer `stem` and with this package's batch norm."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        settings = layer.get_config()
        if layer.name == stem:
            settings["strides"] = (stride, stride)
        if isinstance(layer, keras.layers.BatchNormalization):
            return BatchNormalization.from_config(settings)
        return type(layer).from_config(settings)

    adapted = keras.models.clone_model(network, clone_function=copy)
    adapted.set_weights(network.get_weights())
    return adapted


def outputs_of(network: keras.Model, names: tuple[str, ...]) -> list[keras.KerasTensor]:
    """The outputs of a network's layers of these names."""
    return [network.get_layer(name).output for name in names]


def features_of_grey(
    tiles: keras.KerasTensor,
    network: keras.Model,
    outputs: list[keras.KerasTensor],
    freeze_layer: int,
    scale: float | list[float],
    offset: float | list[float],
) -> list[keras.KerasTensor]:
    """Some tensors within a colour network, on grey or colour images times `scale` plus `offset`.

    The network stays a nested model under its own name, so that `encoder_layers` finds what was trained before.

    Raises:
        ValueError: the network has no layer of the index `freeze_layer`.
    """
    whole = isinstance(freeze_layer, int) and not isinstance(freeze_layer, bool)
    if not whole or not 0 <= freeze_layer <= len(network.layers):
        raise ValueError(
            f"freeze_layer={freeze_layer!r}: must be a whole number from 0 (all are trained) to {len(network.layers)} "
            f"(none is), the layers of {network.name}"
        )
    for layer in network.layers[:freeze_layer]:
        layer.trainable = False
    # In float32 whatever the precision policy: bfloat16's 8 bits of mantissa cannot represent all 256 grey levels.
    colour = tiles
    if tiles.shape[-1] == 1:
        colour = keras.layers.Concatenate(dtype="float32", name="grey_to_colour")([tiles] * 3)
    x = keras.layers.Rescaling(scale, offset, dtype="float32", name="imagenet_scale")(colour)
    return keras.Model(network.inputs[0], outputs, name=network.name)(x)


def find_weights(weights: str | None, roots: Iterable[str | pathlib.Path]) -> str | None:
    """Where the encoder's weights are: a bare file name is looked for among the mounted inputs.

    Args:
        weights: `Config.weights`: None and `"imagenet"` are returned as they are, and so is a path with a folder in it.
            A name without a suffix is that of a preset: of its folder, as Kaggle mounts a model, or, if there is none,
            of one to be downloaded.
        roots: folders to search, at most five levels deep: Kaggle mounts datasets and models within them.

    Returns:
        None, `"imagenet"`, the path of a file or of a preset's folder, or the name of a preset.

    Raises:
        FileNotFoundError: a bare name that is in none of the folders.
    """
    if weights in (None, "imagenet") or pathlib.Path(weights).name != weights:
        return weights
    for root in roots:
        for depth in range(6):
            for path in sorted(pathlib.Path(root).glob("*/" * depth + weights)):
                return str(path)
    if "." not in weights:
        return weights
    raise FileNotFoundError(
        f"weights={weights!r}: no such file under {', '.join(map(str, roots))}; mount a dataset that holds it, "
        "or set weights to 'imagenet', to a path with a folder in it, or to null"
    )
