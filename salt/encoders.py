"""Backbones: networks that answer one question, which feature maps does this image have, from fine to coarse.

A decoder (`salt/unet.py`) needs nothing else of them. Each takes grey tiles of 0 to 255 and normalises them itself.
"""
import pathlib

import keras
from keras import ops

# The last convolution of each VGG-16 block: strides 1, 2, 4, 8, 16 and 64, 128, 256, 512, 512 channels.
VGG16_FEATURES = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
# What ImageNet's mean colour is to VGG-16 (blue, green, red; Simonyan & Zisserman 2015, as in keras.applications).
VGG16_MEAN = (103.939, 116.779, 123.68)


def conv_block(x, filters: int, batch_norm_momentum: float, name: str):
    """Two 3 x 3 convolutions, each with batch norm and ReLU: `[B, H, W, C]` to `[B, H, W, filters]`."""
    for index in (1, 2):
        x = keras.layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv{index}"
        )(x)
        x = keras.layers.BatchNormalization(momentum=batch_norm_momentum, name=f"{name}_norm{index}")(x)
        x = keras.layers.ReLU(name=f"{name}_relu{index}")(x)
    return x


def plain_encoder(tiles, filter_scaling: int, depth: int, batch_norm_momentum: float) -> list:
    """The way down of a U-Net (Ronneberger et al. 2015), from scratch.

    Args:
        tiles: symbolic tensor `[B, H, W, 1]`, grey 0 to 255; H and W divide by `2 ** (depth - 1)`.
        filter_scaling: filters of the first level; each level below has twice as many.
        depth: levels, the bottom among them.
        batch_norm_momentum: share of the old running statistics that survives a step.

    Returns:
        `depth` feature maps, level k of size `[B, H / 2 ** k, W / 2 ** k, filter_scaling * 2 ** k]`.
    """
    # In float32 whatever the precision of the rest: 8 bits of mantissa would blur 256 grey levels.
    x = keras.layers.Rescaling(1 / 255, dtype="float32", name="to_unit_range")(tiles)
    x = x - ops.mean(x, axis=(1, 2, 3), keepdims=True)  # a tile's brightness says nothing about salt
    features = []
    for level in range(depth):
        if level:
            x = keras.layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
        x = conv_block(x, filter_scaling * 2**level, batch_norm_momentum, f"down{level}")
        features.append(x)
    return features


def vgg16_encoder(tiles, weights: str | None, freeze_layer: int) -> list:
    """The convolutions of VGG-16 (Simonyan & Zisserman 2015) on grey tiles.

    Args:
        tiles: symbolic tensor `[B, H, W, 1]`, grey 0 to 255; H and W divide by 16.
        weights: `"imagenet"` (downloaded by Keras), the path of a weights file without the top, or None for random
            ones.
        freeze_layer: layers below this index (the input is 0) are not trained; 11 freezes blocks 1 to 3.

    Returns:
        5 feature maps of strides 1 to 16, with 64, 128, 256, 512 and 512 channels.

    Raises:
        FileNotFoundError: `weights` is a path and there is no file.
        ValueError: the file holds no VGG-16 weights.
    """
    if weights not in (None, "imagenet") and not pathlib.Path(weights).is_file():
        raise FileNotFoundError(f"weights={str(weights)!r}: no such file; give its path, 'imagenet' or None")
    vgg = keras.applications.VGG16(include_top=False, weights=None, input_shape=(*tiles.shape[1:3], 3))
    if weights == "imagenet":
        vgg = keras.applications.VGG16(include_top=False, weights=weights, input_shape=(*tiles.shape[1:3], 3))
    elif weights is not None:
        try:
            vgg.load_weights(weights)
        except Exception as error:  # h5py and Keras have many ways of saying that this is another network's file
            raise ValueError(f"{weights}: not the weights of VGG-16 without its top ({error})") from error
    for layer in vgg.layers[:freeze_layer]:
        layer.trainable = False
    colour = keras.layers.Concatenate(dtype="float32", name="grey_to_colour")([tiles] * 3)
    x = keras.layers.Rescaling(1.0, [-mean for mean in VGG16_MEAN], dtype="float32", name="imagenet_mean")(colour)
    features = keras.Model(vgg.input, [vgg.get_layer(name).output for name in VGG16_FEATURES], name="vgg16")
    return features(x)


def find_weights(weights: str | None, roots) -> str | None:
    """Where the encoder's weights are: a bare file name is looked for among the mounted inputs.

    Args:
        weights: `Config.weights`: None and `"imagenet"` are returned as they are, and so is a path with a folder in it.
        roots: folders to search, at most five levels deep, in which depth Kaggle mounts datasets and models.

    Returns:
        None, `"imagenet"` or the path of a file.

    Raises:
        FileNotFoundError: a bare name that is in none of the folders.
    """
    if weights in (None, "imagenet") or pathlib.Path(weights).name != weights:
        return weights
    for root in roots:
        for depth in range(6):
            for path in sorted(pathlib.Path(root).glob("*/" * depth + weights)):
                return str(path)
    raise FileNotFoundError(
        f"weights={weights!r}: no such file under {', '.join(map(str, roots))}; mount a dataset that holds it, "
        "or set weights to 'imagenet', to a path with a folder in it, or to null"
    )
