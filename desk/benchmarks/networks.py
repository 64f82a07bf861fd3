"""Groups `augmentation`, `step` and `inference`: what runs in the compiled step, beside albumentations and PyTorch.

A step of ours is what `fit` runs: padding, augmentation, network, crop, the presets' losses (Lovasz among them), the
leaderboard metric and AdamW. A step of the peer is albumentations, binary cross-entropy and AdamW. Weights are random;
they cost the same.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from desk.benchmarks.masks import wavy_masks, with_noise
from desk.benchmarks.peers import PeerProcess
from desk.benchmarks.timing import Comparison, Contender, timed
from desk.competitions import load_competition
from desk.estimates import network_cost
from salt.augmentations import draw_augmentation
from salt.config import Config, preset, settle_precision
from salt.inference import predict_probabilities
from salt.machine import multiplies_bfloat16
from salt.networks import build_model, use_jit
from salt.schedule import training_optimizer
from salt.task import SegmentationTask, fused_augment
from salt.tgs import TILE_SIZE
from salt.tiles import crop_images, pad_images

STEPS = 2  # a call
WHOLE = 128  # pixels to which a user of the peer pads the tiles: its encoders halve the size five times
# Preset, its changes; the peer's encoder, and widths of its decoder as ours has them.
NETWORKS: tuple[tuple[str, dict, str, tuple[int, ...]], ...] = (
    ("cpu", {}, "tu-tf_efficientnet_lite2", (64, 32, 16, 8)),
    ("transfer_unet", {"padded_size": 112, "gpu": False}, "vgg16", (256, 128, 64, 32)),
    ("transfer_unet", {"padded_size": 128, "gpu": False}, "vgg16", (256, 128, 64, 32)),
)


def augmentation_group(peers: PeerProcess, quick: bool) -> list[Comparison]:
    """Image and mask through the augmentations of the `cpu` preset, without a network."""
    count = 48 if quick else 480
    config, (images, masks) = preset("cpu"), made_tiles(count)
    generator = keras.random.SeedGenerator(0)

    def transform(image: np.ndarray, mask: np.ndarray) -> tuple:
        warp = fused_augment(config.padded_size, config.padding)
        return warp(image, mask, draw_augmentation(config, 24, generator, TILE_SIZE))

    compiled = compiled_function(transform)
    batches = [(images[first : first + 24], masks[first : first + 24]) for first in range(0, count, 24)]
    peer, _ = peers.prepare("augment_tiles", **peers.share(images=images, masks=masks), size=config.padded_size)
    return [
        Comparison(
            f"augment {count} tiles with their masks",
            "tile",
            Contender("salt, compiled", count, timed(lambda: [compiled(*batch) for batch in batches])),
            [Contender("albumentations, the same set, one thread", count, peer)],
            [1],
        )
    ]


def step_group(peers: PeerProcess, quick: bool) -> list[Comparison]:
    """Training steps of three networks: as one would type them, and with the peer's network made like ours.

    As typed, ours has `precision=auto`; the peer has its own decoder. Then both have the same widths and sizes and the
    same precision. In bfloat16 they are compared where the processor multiplies it: elsewhere a batch takes minutes.
    """
    found = []
    for name, changes, encoder, widths in NETWORKS[:1] if quick else NETWORKS:
        config = preset(name, **changes, weights=None)
        batch = 4 if quick else config.batch_size
        images, masks = made_tiles(batch)
        shared = peers.share(images=images, masks=masks)
        settings = dict(shared, encoder=encoder, steps=STEPS)
        settings["frozen"] = 17 if config.model == "transfer_unet" else 0  # layers of VGG-16: its first three blocks
        same: dict[str, Any] = {"channels": list(widths), "size": config.padded_size}
        own = network_cost(config).products / 1e9
        theirs = functools.partial(pytorch_steps, peers, settings, STEPS * batch)
        typed = [theirs("its own decoder", size=WHOLE)]
        if not quick:
            typed.append(theirs("its own decoder, torch.compile", size=WHOLE, compiled=True))
        if not quick and multiplies_bfloat16():
            typed.append(theirs("its own decoder, bfloat16", size=WHOLE, bf16=True))
        if config.model == "transfer_unet":
            # Its layers begin with the input, as ours do.
            call, _ = peers.prepare("train_steps_by_keras", **shared, size=WHOLE, steps=STEPS, frozen=11)
            typed.append(Contender("segmentation_models (Keras), its own decoder", STEPS * batch, call))
        groups: list[tuple[str, list[Contender], list[float | None]]] = [("auto", typed, [2, *[None] * 3])]
        if not quick:
            groups.append(("float32", [theirs("our widths and size, float32", **same)], [1.5]))
        if not quick and multiplies_bfloat16():
            groups.append(("mixed_bfloat16", [theirs("our widths and size, bfloat16", **same, bf16=True)], [1.5]))
        for precision, contenders, goals in groups:
            settled = settle_precision(dataclasses.replace(config, precision=precision))
            label = f"training step of {name} at {config.padded_size}, precision {precision}"
            label += f" ({settled.precision})" if precision == "auto" else ""
            call = training_steps(settled, images, masks)
            found.append(
                Comparison(
                    f"{label} ({own:.2f} G products a tile forward)",
                    "tile",
                    Contender("salt", STEPS * batch, call),
                    contenders,
                    goals[: len(contenders)],
                )
            )
    return found


def pytorch_steps(peers: PeerProcess, settings: dict, count: int, way: str, **more: Any) -> Contender:
    """Training steps of segmentation_models.pytorch, `count` tiles a call; `way` is what the page calls its network."""
    call, told = peers.prepare("train_steps", **settings, **more)
    return Contender(f"segmentation_models.pytorch, {way} ({told['flops'] / 2e9:.2f} G products)", count, call)


def inference_group(peers: PeerProcess, quick: bool) -> list[Comparison]:
    """Five networks of the `cpu` preset over test tiles, with the flip, as the predict notebook does it."""
    count, models = (24, 1) if quick else (512, 5)
    config = preset("cpu", weights=None)
    keras.mixed_precision.set_dtype_policy(settle_precision(config).precision)
    networks = [build_model(config) for _ in range(models)]
    images, _ = made_tiles(count)
    ours = functools.partial(predict_probabilities, networks, images, "flip", config.padded_size, config.padding)
    plain = functools.partial(predict_one_by_one, networks, images, config)
    difference = np.abs(ours(progress=False).astype(int) - plain()).max()
    assert difference <= 2, difference  # of 255: the two round at other places
    return [
        Comparison(
            f"predict {count} tiles, flipped too, by {models} models",
            "tile",
            Contender("salt", count, timed(functools.partial(ours, progress=False))),
            [Contender("model.predict in a loop, twice a model", count, timed(plain))],
            [1.5],
        )
    ]


def made_tiles(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with noise and their masks, uint8 `[count, 101, 101]`; what they show does not matter for the time."""
    masks = wavy_masks(count)
    return with_noise(masks, 110, 60, 30), masks


def compiled_function(function: Callable) -> Callable:
    """A function of arrays, compiled as the backend compiles a training step."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=use_jit())
    return function


def training_steps(config: Config, images: np.ndarray, masks: np.ndarray) -> Callable[[], float]:
    """A call of `Contender` that makes `STEPS` training steps with one batch."""
    task, batch = segmentation_task(config), {"image": images, "mask": masks}
    return timed(lambda: [task.train_on_batch(batch) for _ in range(STEPS)])


def segmentation_task(config: Config) -> SegmentationTask:
    """The compiled step of a configuration, with its variables."""
    keras.mixed_precision.set_dtype_policy(settle_precision(config).precision)
    task = SegmentationTask(build_model(config), config, load_competition().metric)
    task.compile(training_optimizer(config), jit_compile=use_jit())
    task(
        {"image": np.zeros((2, TILE_SIZE, TILE_SIZE), np.uint8), "mask": np.zeros((2, TILE_SIZE, TILE_SIZE), np.uint8)}
    )
    task.optimizer.build(task.trainable_variables)
    return task


def predict_one_by_one(networks: list[keras.Model], images: np.ndarray, config: Config) -> np.ndarray:
    """The original's way: `model.predict` of the padded tiles and of their mirror images, then the mean."""
    total = np.zeros(images.shape, np.float32)
    for network in networks:
        for step in (1, -1):
            padded = pad_images(images[:, :, ::step], config.padded_size, config.padding)[..., None]
            logits = network.predict(padded, batch_size=64, verbose=0)
            logits = logits["logits"] if isinstance(logits, dict) else logits
            probabilities = 1 / (1 + np.exp(-crop_images(logits[..., 0], TILE_SIZE)))
            total += probabilities[:, :, ::step]
    return np.rint(255 * total / (2 * len(networks))).astype(np.uint8)
