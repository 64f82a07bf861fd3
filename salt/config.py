"""Every setting of a run, in one frozen dataclass, and the presets that give them their values.

A run is `preset(name, **changes)`; no other module has settings. Paths are none of them: where the data is and where
the outputs go are arguments of the functions that need them.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass

from salt.machine import multiplies_bfloat16


class ConfigError(ValueError):
    """A setting that does not exist, has the wrong type, or is out of its range."""


@dataclass(frozen=True)
class Config:
    """The settings of one run.

    Raises:
        ConfigError: a value has the wrong type or is out of range; the message names the field, the value and the
            limit.
    """

    # --- network ---
    model: str = "unet"  # "unet" (from scratch), "transfer_unet" (VGG-16) or "encoder_unet" (any encoder, thin decoder)
    filter_scaling: int = 16  # filters of the first level of "unet" or "residual"; each level below has twice as many
    depth: int = 5  # levels of "unet", the bottom among them; padded_size divides by 2 ** (depth - 1)
    batch_norm_momentum: float = 0.6  # the original search's best (.5 to .9 tried)
    dropout: float = 0.0  # spatial dropout rate after each decoder level of either network
    freeze_layer: int = 11  # layers of the encoder below this index are not trained; 11: VGG-16's blocks 1 to 3
    weights: str | None = None  # encoder: "imagenet", a path, the name of a file among the mounted inputs, or None

    # --- network, "encoder_unet" only ---
    # "residual" (from scratch), "vgg16", "efflite0", "efflite2" (CPU), "efficientnetv2s" (GPU), or one of BACKBONES
    encoder: str = "vgg16"
    stem_stride: int = 1  # of the encoder's first map; with 1 it has the full resolution
    decoder_filters: tuple[int, ...] = (32, 64, 128)  # of each decoder level, fine to coarse; as many as the halvings
    attention: bool = False  # squeeze-and-excitation over channels and pixels (scSE) after each decoder level
    hypercolumn: bool = False  # the logits are computed from all decoder levels, not from the last alone
    deep_supervision: bool = False  # each coarser decoder level gives logits of its own, "deep_1" ...
    empty_head: bool = False  # one more logit a tile, "empty": whether it holds anything

    # --- geometry and augmentation ---
    padded_size: int = 128  # pixels: smaller tiles are padded, of larger ones windows are cut; none is resized
    padding: str = "reflect"  # how the border is filled: "reflect", "edge", or "neighbours" in a larger picture
    neighbour_masks: bool = False  # with padding="neighbours", their known masks are painted into the border
    jitter: bool = False  # in training the tile lies at a random place inside the padded square, not in its middle
    flip: bool = True  # horizontal flips; for vertical ones see tta
    scale: float = 0.0  # magnification from 1 / (1 + scale) to 1 + scale
    shear: float = 0.0  # horizontal shear up to +- this slope
    rotation: float = 0.0  # degrees, up to +- this
    brightness: float = 12.0  # grey levels of 255, up to +- this
    contrast: float = 0.1  # factor up to 1 +- contrast about the tile's mean
    cutout: int = 0  # pixels; half of the tiles lose a square of up to this side to the tile's mean
    cutmix: float = 0.0  # share of the tiles that get a rectangle of another tile of their batch, image and mask

    # --- optimisation ---
    epochs: int = 50  # passes through the training tiles, unless minutes or steps are given
    minutes: float = 0.0  # of the whole run, all folds and their predictions; 0: epochs or steps count
    limit_minutes: float = 690.0  # no epoch begins that would end later; Kaggle stops a run after 720
    steps: int = 0  # of each fold; to repeat a run with minutes, the steps that it took; 0: epochs or minutes count
    batch_size: int = 32
    optimizer: str = "adamw"  # the original's search found Adam best (.770; Nadam .759, RMSprop .758, SGD .584)
    learning_rate: float = 1e-3  # at its peak
    encoder_rate: float = 1.0  # factor on the learning rate of a pre-trained encoder
    weight_decay: float = 1e-4
    clip_norm: float = 0.0  # largest norm of a step's gradients, of all weights together; 0: any
    accumulate: int = 1  # batches whose mean gradient makes one step of the optimizer, as if they were one large batch
    warmup: float = 0.05  # share of the steps in which the rate rises from 0 to its peak; cosines to 0 follow
    lovasz: float = 0.5  # share of the steps, the last ones, that train with Lovasz instead of BCE + Dice
    deep_weight: float = 0.1  # of the mean loss of the coarser levels' logits, with deep_supervision
    empty_weight: float = 0.1  # of the loss of the logit "empty", with empty_head
    pseudo: float = 0.0  # share of each batch that are test tiles with the masks of an earlier run; 0: none
    pseudo_confidence: float = 0.9  # only tiles in which that run's mean confidence is at least this are used
    snapshots: int = 1  # networks a fold: so many times the rate falls to 0 and the weights are kept (an ensemble)
    ema_momentum: float = 0.0  # of the running average of the weights, which becomes the result; 0: the last weights
    # "float32", "mixed_float16" (T4), "mixed_bfloat16" (H200), or on a CPU "auto": what is fast, see settle_precision
    precision: str = "float32"
    gpu: bool = False  # whether a machine without a GPU is an error, instead of a training of many hours on its CPU
    workers: int = 0  # processes that train folds, or trials of a search, in parallel; 0: one a GPU
    # Dask's scheduler (tcp://HOST:8786, or its scheduler file), on whose machines folds are trained; empty: on this one
    cluster: str = ""

    # --- search ---
    space: str = "original"  # which settings are searched, and among which values: a table of SPACES in study.py
    trials: int = 50  # of the whole study, over all of its runs; 0: every combination of the space's values, once

    # --- folds, inference, randomness ---
    folds: int = 5  # into how many parts the training tiles are split
    split: str = "random"  # "random": each tile by itself; "mosaic": all tiles of a larger picture in one
    train_folds: tuple[int, ...] = (0, 1, 2, 3, 4)  # which of them are held out, one model for each
    tta: str = "flip"  # test-time augmentation: "none", "flip" (left and right), or "d4" where up is not special
    level: int = 0  # a pixel counts if round(255 p) is at least this; 0: the best for the out-of-fold predictions
    minimum_area: int = -1  # pixels; a mask with less is predicted empty; -1: the best for them
    seed: int = 0  # of folds, weights, order and augmentation

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = coerce_setting(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(map(repr, allowed))}")
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must lie between {low} and {high}")
        if self.model == "encoder_unet":
            self.check_encoder()
        strides = {"unet": 2 ** (self.depth - 1), "transfer_unet": 16, "encoder_unet": 2 ** len(self.decoder_filters)}
        stride = strides[self.model]
        if self.padded_size % stride:
            raise ConfigError(f"padded_size={self.padded_size}: must divide by {stride}, the stride of {self.model!r}")
        if self.neighbour_masks and self.padding != "neighbours":
            raise ConfigError(
                f"neighbour_masks=True: with padding={self.padding!r} none is shown; set it to 'neighbours'"
            )
        first = snapshot_progress(self.snapshots, self.lovasz)[0]
        if self.warmup >= first:
            raise ConfigError(f"warmup={self.warmup}: must be below {first:.2f}, where the first of the snapshots ends")
        if self.minutes > self.limit_minutes:
            raise ConfigError(f"minutes={self.minutes}: must be at most limit_minutes={self.limit_minutes}; raise both")
        if not self.train_folds or len(set(self.train_folds)) < len(self.train_folds):
            raise ConfigError(f"train_folds={self.train_folds}: name at least one fold, and each of them once")
        if not all(0 <= fold < self.folds for fold in self.train_folds):
            raise ConfigError(f"train_folds={self.train_folds}: with folds={self.folds} they are 0 to {self.folds - 1}")

    def check_encoder(self) -> None:
        """Raises `ConfigError` if encoder and decoder do not fit each other."""
        if self.encoder == "vgg16" and self.stem_stride != 1:
            raise ConfigError(f"stem_stride={self.stem_stride}: must be 1, the stride of VGG-16's first map")
        if self.encoder in BACKBONE_NAMES and self.stem_stride != 2:
            raise ConfigError(f"stem_stride={self.stem_stride}: must be 2 with encoder={self.encoder!r}")
        fewest, most = self.stem_stride, self.stem_stride + 3  # five maps at most, and two at least
        if not fewest <= len(self.decoder_filters) <= most or min(self.decoder_filters) < 1:
            raise ConfigError(
                f"decoder_filters={self.decoder_filters}: with stem_stride={self.stem_stride} must have {fewest} to "
                f"{most} numbers, each at least 1"
            )


# Of other libraries; they all begin with a stride of 2 or 4. See salt/backbones.py.
BACKBONE_NAMES = (
    "resnet18", "resnet50", "efficientnet_b0", "mit_b0", "convnext_tiny", "dinov2_small", "dinov3_small",
)  # fmt: skip
DENSE_ENCODERS = ("residual", "vgg16")  # which have no depthwise convolutions
CHOICES = {
    "model": ("unet", "transfer_unet", "encoder_unet"),
    "encoder": ("residual", "vgg16", "efflite0", "efflite2", "efficientnetv2s", *BACKBONE_NAMES),
    "stem_stride": (1, 2),
    "padding": ("reflect", "edge", "neighbours"),
    "space": ("original", "original_transfer", "recipe", "findings"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16", "auto"),
    "optimizer": ("adamw", "nadam", "rmsprop", "sgd"),
    "split": ("random", "mosaic"),
    "tta": ("none", "flip", "d4"),
}
LIMITS: dict[str, tuple[float, float]] = {
    "filter_scaling": (1, 256),
    "depth": (2, 7),
    "batch_norm_momentum": (0.0, 0.9999),
    "dropout": (0.0, 0.9),
    "freeze_layer": (0, 600),  # with its input, VGG-16 has 19 layers, EfficientNet-Lite0 138, EfficientNetV2-S 512
    "padded_size": (16, 2048),
    "scale": (0.0, 0.5),
    "shear": (0.0, 0.5),
    "rotation": (0.0, 45.0),
    "brightness": (0.0, 127.0),
    "contrast": (0.0, 0.9),
    "cutout": (0, 2048),
    "cutmix": (0.0, 1.0),
    "epochs": (1, 10_000),
    "minutes": (0.0, 10_000.0),
    "limit_minutes": (0.01, 10_000.0),
    "steps": (0, 10_000_000),
    "batch_size": (1, 4096),
    "learning_rate": (1e-8, 10.0),
    "encoder_rate": (0.0, 1.0),
    "weight_decay": (0.0, 1.0),
    "clip_norm": (0.0, 1e6),
    "accumulate": (1, 1000),
    "warmup": (0.0, 0.9),
    "lovasz": (0.0, 1.0),
    "deep_weight": (0.0, 10.0),
    "empty_weight": (0.0, 10.0),
    "pseudo": (0.0, 0.9),
    "pseudo_confidence": (0.5, 1.0),
    "snapshots": (1, 20),
    "ema_momentum": (0.0, 0.99999),
    "workers": (0, 16),
    "trials": (0, 10_000),
    "folds": (2, 50),
    "level": (0, 255),
    "minimum_area": (-1, 10_000_000),
    "seed": (0, 2**31 - 1),
}

# Augmentation that was not shown to help (RESULTS.md), so that it is off by default. It is on in presets that were
# measured with it, and in those with hundreds of passes, which probably need more variety; that was not measured.
STRONG_AUGMENTATION: dict[str, object] = dict(jitter=True, scale=0.1, shear=0.07, rotation=3.0)
T4_SETTINGS: dict[str, object] = dict(
    **STRONG_AUGMENTATION, model="encoder_unet", encoder="efficientnetv2s", weights="imagenet", freeze_layer=0,
    decoder_filters=(32, 64, 128, 256), attention=True, hypercolumn=True, deep_supervision=True, empty_head=True,
    batch_norm_momentum=0.9, dropout=0.1, padded_size=128, cutout=30, minutes=660, learning_rate=1e-3, encoder_rate=0.2,
    lovasz=0.7, snapshots=3, ema_momentum=0.999, precision="mixed_float16", gpu=True,
)  # fmt: skip
PRESETS: dict[str, dict[str, object]] = {
    # The smallest run that executes every line: a check before each push, not a useful model.
    "smoke": dict(
        **STRONG_AUGMENTATION,
        filter_scaling=4,
        depth=3,
        padded_size=104,
        epochs=2,
        batch_size=16,
        ema_momentum=0.5,
        folds=2,
        train_folds=(0,),
        space="findings",
        trials=2,
    ),
    # The demonstration of the README: a few hundred tiles, two and a half minutes on any machine. With a fifth level
    # the network sees enough of a tile to learn in 300 steps; with four and strong augmentation it needs 700.
    "demo": dict(
        filter_scaling=8,
        depth=5,
        padded_size=112,
        minutes=2.5,
        batch_size=8,
        learning_rate=2e-3,
        lovasz=0.6,
        ema_momentum=0.97,
        folds=4,
        train_folds=(0,),
    ),
    # An hour on two cores, for two folds' models in parallel. EfficientNet-Lite2 makes three quarters of the passes of
    # Lite0: better where few fit, experiment (y), the same in a quiet hour, (z). VGG-16 makes a fifth. A decoder of
    # twice the width costs half as much again.
    "cpu": dict(
        **STRONG_AUGMENTATION,
        model="encoder_unet",
        encoder="efflite2",
        weights="efflite2.weights.h5",
        freeze_layer=0,
        stem_stride=2,
        decoder_filters=(8, 16, 32, 64),
        batch_norm_momentum=0.9,
        padded_size=112,
        padding="edge",
        cutout=30,
        minutes=60,
        batch_size=24,
        lovasz=0.75,
        train_folds=(0, 1),
        workers=2,
    ),
    # The same hour for one fold's model without any weights.
    "scratch": dict(
        **STRONG_AUGMENTATION,
        model="encoder_unet",
        encoder="residual",
        decoder_filters=(16, 32, 64, 128),
        batch_norm_momentum=0.9,
        padded_size=112,
        minutes=60,
        batch_size=16,
        learning_rate=2e-3,
        ema_momentum=0.995,
        precision="mixed_bfloat16",
        train_folds=(0,),
    ),
    # One Kaggle session: 5 folds on its two T4s, an hour below the limit of 12.
    "t4": T4_SETTINGS,
    # A second session, which also trains on the first one's predictions of the test tiles.
    "t4_second": {**T4_SETTINGS, "pseudo": 0.25},
    # 20 minutes of an H200 without internet: 5 folds.
    "h200": {
        **T4_SETTINGS,
        "encoder": "vgg16",
        "weights": "vgg16.weights.h5",
        "minutes": 20,
        "ema_momentum": 0.998,
        "precision": "mixed_bfloat16",
    },
    # The original's network, trained from scratch.
    "unet": dict(ema_momentum=0.99, gpu=True),
    # The same in short trainings, two folds a trial, to search for its settings.
    "search": dict(epochs=30, train_folds=(0, 1), precision="mixed_float16", gpu=True),
    # The original's transfer network. Its encoder is pre-trained, so that it needs a lower rate.
    "transfer_unet": dict(
        model="transfer_unet",
        weights="imagenet",
        padded_size=112,
        batch_norm_momentum=0.7,
        learning_rate=5e-4,
        ema_momentum=0.99,
        gpu=True,
    ),
}


LENGTHS = ("steps", "minutes", "epochs")  # how long to train; the first of them that is not 0 counts


def preset(name: str, **changes: object) -> Config:
    """The settings of a preset, with some of them changed.

    Args:
        name: one of `PRESETS`.
        **changes: fields of `Config` and their values. One that says how long to train (`steps`, `minutes`, `epochs`)
            counts, whichever of them the preset has.

    Returns:
        A `Config`.

    Raises:
        ConfigError: an unknown preset or field, a wrong type, or a value out of range.

    Example:
        >>> preset("unet", epochs=20).epochs
        20
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} does not exist; there are {', '.join(PRESETS)}")
    asked = [index for index, key in enumerate(LENGTHS) if key in changes]
    replaced = LENGTHS[: max(asked, default=0)]  # those that would count before the one that is asked for
    values = {key: value for key, value in PRESETS[name].items() if key not in replaced}
    return config_from_dict({**values, **changes})


def config_from_dict(values: dict) -> Config:
    """A `Config` from its fields, such as a manifest holds; the inverse of `config_to_dict`.

    Raises:
        ConfigError: an unknown field, a wrong type, or a value out of range.
    """
    known = [field.name for field in dataclasses.fields(Config)]
    for key in values:
        if key not in known:
            raise ConfigError(f"setting {key!r} does not exist; there are {', '.join(known)}")
    return Config(**values)


def settle_precision(config: Config, cpuinfo: str = "/proc/cpuinfo") -> Config:
    """The settings with a precision in the place of "auto", for this machine's processor.

    It is mixed_bfloat16 where the processor multiplies bfloat16 and the network is made of dense convolutions: VGG-16's
    step then takes a third of the time. Depthwise convolutions have no such kernel; they stay in float32, and so does
    everything on a processor without the instructions. For a GPU name one of the other precisions.

    Args:
        config: the run's settings; what is recorded of a run are those that this function returns.
        cpuinfo: the file in which Linux describes the processor.
    """
    if config.precision != "auto":
        return config
    dense = config.model != "encoder_unet" or config.encoder in DENSE_ENCODERS
    chosen = "mixed_bfloat16" if dense and multiplies_bfloat16(cpuinfo) else "float32"
    return dataclasses.replace(config, precision=chosen)


def snapshot_progress(snapshots: int, lovasz: float) -> list[float]:
    """Where each cosine of a training ends, as shares of its steps.

    The part that trains with Lovasz is divided evenly; the first cosine also has all that comes before it, since a
    network that was hardly trained with Lovasz would add nothing to an ensemble.

    Args:
        snapshots: how many cosines.
        lovasz: share of the training, its last part, that trains with Lovasz; 0: all cosines are equally long.

    Example:
        >>> snapshot_progress(3, 0.75)
        [0.5, 0.75, 1.0]
    """
    return [1.0 - left * (lovasz or 1.0) / snapshots for left in reversed(range(snapshots))]


def coerce_setting(name: str, value: object, hint: object) -> object:
    """Returns `value` in the type of a field: an int becomes a float, a list (from JSON) a tuple, where one is due.

    Raises:
        ConfigError: the value has another type.
    """
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in allowed:
        if typing.get_origin(kind) is tuple:
            if isinstance(value, list | tuple) and all(type(item) is int for item in value):
                return tuple(value)
        elif kind is float and (type(value) is int or type(value) is float):
            return float(value)
        elif type(value) is kind:  # not isinstance: True is an int
            return value
    wanted = getattr(hint, "__name__", None) or hint
    raise ConfigError(f"{name}={value!r}: must be {wanted}, not {type(value).__name__}")


def config_to_dict(config: Config) -> dict:
    """A JSON-ready dict; `config_from_dict(config_to_dict(config)) == config`."""
    values = dataclasses.asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
