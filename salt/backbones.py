"""Encoders that other libraries have: keras_hub's backbones, and ConvNeXt of keras.applications.

keras_hub is optional (`pip install keras-hub`); it is imported where one of its backbones is asked for.
An architecture is written out here, so that a network is built without its preset: a trained one is loaded offline.
`pyramid_outputs` in `encoders.py` makes feature maps of them.
"""

import pathlib
from typing import Any, NamedTuple

import keras


class Backbone(NamedTuple):
    """A network of another library.

    Attributes:
        kind: its class in keras_hub.models, or the function in keras.applications that makes it.
        preset: of keras_hub, whose weights `"imagenet"` means; empty for keras.applications, which has its own.
        settings: arguments of the class, but the image's shape.
        multiple: of which height and width must be multiples, however few of its maps are used.
    """

    kind: str
    preset: str
    settings: dict[str, Any]
    multiple: int = 1

    def is_transformer(self) -> bool:
        """Whether it is a plain vision transformer, whose maps have one size."""
        return self.kind.startswith("DINO")


def residual_settings(blocks: list[int], kind: str) -> dict[str, Any]:
    """A residual network's settings (He et al. 2016), from the blocks of its four stages."""
    return dict(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=blocks, stackwise_num_strides=[1, 2, 2, 2], block_type=kind,
    )  # fmt: skip


SMALL_TRANSFORMER: dict[str, Any] = dict(num_layers=12, hidden_dim=384, num_heads=6, intermediate_dim=1536)
# As keras_hub converts them from timm and from Hugging Face; a test compares the numbers of parameters.
BACKBONES = {
    "resnet18": Backbone("ResNetBackbone", "resnet_18_imagenet", residual_settings([2, 2, 2, 2], "basic_block")),
    "resnet50": Backbone("ResNetBackbone", "resnet_50_imagenet", residual_settings([3, 4, 6, 3], "bottleneck_block")),
    "efficientnet_b0": Backbone(
        "EfficientNetBackbone",
        "efficientnet_b0_ra_imagenet",
        dict(
            stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3], stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
            stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
            stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
            stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6], stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
            stackwise_squeeze_and_excite_ratios=[0.25] * 7, stackwise_width_coefficients=[1.0] * 7,
            stackwise_depth_coefficients=[1.0] * 7, stackwise_block_types=["v1"] * 7, min_depth=None, dropout=0,
            use_depth_divisor_as_min_depth=True, cap_round_filter_decrease=True,
        ),
    ),
    # Of SegFormer, trained on ADE20K: keras_hub has no MiT of ImageNet alone.
    "mit_b0": Backbone(
        "MiTBackbone",
        "mit_b0_ade20k_512",
        dict(
            layerwise_depths=[2, 2, 2, 2], num_layers=4, layerwise_num_heads=[1, 2, 5, 8],
            layerwise_sr_ratios=[8, 4, 2, 1], max_drop_path_rate=0.1, layerwise_patch_sizes=[7, 3, 3, 3],
            layerwise_strides=[4, 2, 2, 2], hidden_dims=[32, 64, 160, 256],
        ),
        multiple=32,
    ),
    "convnext_tiny": Backbone("ConvNeXtTiny", "", dict(include_preprocessing=False)),
    "dinov2_small": Backbone("DINOV2Backbone", "dinov2_small", dict(SMALL_TRANSFORMER, patch_size=14), multiple=16),
    "dinov3_small": Backbone(
        "DINOV3Backbone",
        "dinov3_vit_small_lvd1689m",
        dict(SMALL_TRANSFORMER, patch_size=16, use_key_bias=False),
        multiple=16,
    ),
}  # fmt: skip


def build_backbone(name: str, size: tuple[int, int], weights: str | None) -> keras.Model:
    """A backbone for colour images of one size, with its weights.

    Args:
        name: one of `BACKBONES`.
        size: height and width of its images.
        weights: None for random ones; `"imagenet"` for the usual preset, which is downloaded; the name of another
            preset of the same architecture, also with `kaggle://` or `hf://` before it; the folder of a preset, such as
            a mounted Kaggle model; or the path of a file of the network's weights.

    Raises:
        ImportError: keras_hub is needed and not installed.
        FileNotFoundError: `weights` is the path of a file, and there is none.
        ValueError: the weights of another network, or a preset that does not exist.
    """
    backbone = BACKBONES[name]
    if not backbone.preset:
        make = getattr(keras.applications, backbone.kind)
        source = "imagenet" if weights == "imagenet" else None
        network = make(include_top=False, weights=source, input_shape=(*size, 3), **backbone.settings)
    else:
        kind = getattr(keras_hub_models(name), backbone.kind)
        shape = {"input_shape" if backbone.kind == "EfficientNetBackbone" else "image_shape": (*size, 3)}
        network = kind(**backbone.settings, **shape)
        if backbone.kind == "DINOV2Backbone":
            # keras_hub saves those of the size at which they were trained first, and of others not what they learn.
            network.get_layer("embeddings").interpolated_position_embeddings.trainable = False
    if weights in (None, "imagenet") and not (weights and backbone.preset):
        return network
    if weights is not None and weights.endswith(".h5"):
        load_encoder(network, weights, name)
        return network
    if not backbone.preset:
        raise ValueError(f"weights={weights!r}: {name} takes 'imagenet', the path of a file .weights.h5, or null")
    preset = backbone.preset if weights == "imagenet" else str(preset_folder(pathlib.Path(str(weights))) or weights)
    try:
        network.set_weights(kind.from_preset(preset, **shape).get_weights())
    except Exception as error:  # kagglehub, keras_hub and Keras raise many different errors
        raise ValueError(
            f"weights={weights!r}: no preset of {name} ({error}); give 'imagenet', which is {backbone.preset}, the "
            "folder of a preset, or null"
        ) from error
    return network


def keras_hub_models(name: str) -> Any:
    """The module `keras_hub.models`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(f"encoder={name!r} needs keras_hub ({error}): pip install keras-hub") from error
    return keras_hub.models


def preset_folder(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder of a preset, which holds a config.json: this one, or its newest version below, as Kaggle mounts it."""
    versions = [path for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []
    for path in [folder, *sorted(versions, key=lambda path: -int(path.name))]:
        if (path / "config.json").is_file():
            return path
    return None


def load_encoder(network: keras.Model, weights: str | None, content: str) -> None:
    """Fills a network from a file, if `weights` is a path; `content` says in errors what the file should hold."""
    if weights in (None, "imagenet"):
        return
    if not pathlib.Path(weights).is_file():
        raise FileNotFoundError(f"weights={str(weights)!r}: no such file; give its path, 'imagenet' or None")
    try:
        network.load_weights(weights)
    except Exception as error:  # h5py and Keras raise many different errors for a file of another network
        raise ValueError(f"{weights}: not the weights of {content} ({error})") from error
