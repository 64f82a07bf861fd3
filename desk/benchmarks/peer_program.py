"""Runs in the peers' environment: does the work of other libraries when `peers.py` asks for it.

Each function below prepares a piece of work and returns a function without arguments that does it, and what there is to
tell of it. It imports nothing of this project.
"""

import json
import sys
import time
import traceback

import numpy as np


def encode_masks(masks):
    """pycocotools: masks `[N, H, W]` to its compressed run lengths."""
    from pycocotools import mask as coco

    columns = np.asfortranarray(np.load(masks).transpose(1, 2, 0))
    return lambda: coco.encode(columns), {}


def decode_masks(masks):
    """pycocotools: its compressed run lengths to masks."""
    from pycocotools import mask as coco

    runs = coco.encode(np.asfortranarray(np.load(masks).transpose(1, 2, 0)))
    return lambda: coco.decode(runs), {}


def augment_tiles(images, masks, size):
    """albumentations in one thread, one tile after the other."""
    import cv2

    cv2.setNumThreads(1)
    images, masks = np.load(images), np.load(masks)
    transform = augmenter(size, images.shape[1])

    def work():
        for image, mask in zip(images, masks, strict=True):
            transform(image=image, mask=mask)

    return work, {}


def read_folder(folder):
    """The plain loop: `cv2.imread` of each PNG file of a folder, into one array."""
    import pathlib

    import cv2

    paths = sorted(map(str, pathlib.Path(folder).rglob("*.png")))
    return lambda: np.stack([cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in paths]), {"files": len(paths)}


def pytorch():
    """PyTorch. Its build for CPUs alone lacks what torchvision registers for GPUs, which nothing here needs."""
    import torch

    register = torch.library.register_fake

    def register_if_there(name, *more, **named):
        def decorate(function):
            try:
                return register(name, *more, **named)(function)
            except RuntimeError:
                return function

        return decorate

    torch.library.register_fake = register_if_there
    return torch


def smp_network(encoder, channels):
    """A U-Net of segmentation_models.pytorch, with its own decoder or with given widths.

    Args:
        encoder: its name there.
        channels: widths of the decoder, from the coarsest on; None: its own.
    """
    torch = pytorch()
    import segmentation_models_pytorch as smp

    widths = tuple(channels or (256, 128, 64, 32, 16))
    return torch, smp.Unet(
        encoder, encoder_weights=None, in_channels=3, decoder_channels=widths, encoder_depth=len(widths)
    )


def flops_of(torch, network, size):
    """Floating-point operations of a forward pass of one tile."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    network.eval()
    with counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    network.train()
    return counter.get_total_flops()


def train_steps(images, masks, encoder, size, steps, channels=None, frozen=0, compiled=False, bf16=False):
    """Training steps of segmentation_models.pytorch as a user would write them, fed by albumentations.

    AdamW, BCE from logits, channels_last; the transform runs in the training's own process, between the steps.
    `frozen`: layers of VGG-16 that are not trained.
    """
    torch, network = smp_network(encoder, channels)
    flops = flops_of(torch, network, size)
    for name, parameter in network.encoder.named_parameters():  # of VGG-16: features.NUMBER.weight
        if frozen and int(name.split(".")[1]) < frozen:
            parameter.requires_grad = False
    network = network.to(memory_format=torch.channels_last)
    model = torch.compile(network) if compiled else network
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    criterion = torch.nn.BCEWithLogitsLoss()
    images, masks = np.load(images), np.load(masks)
    transform = augmenter(size, images.shape[1])

    def step():
        pairs = [transform(image=image, mask=mask) for image, mask in zip(images, masks, strict=True)]
        x = np.stack([pair["image"] for pair in pairs]).astype("float32") / 255
        x = torch.from_numpy(np.repeat(x[:, None], 3, axis=1)).contiguous(memory_format=torch.channels_last)
        y = torch.from_numpy(np.stack([pair["mask"] for pair in pairs]).astype("float32"))[:, None]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = model(x)
        loss = criterion(logits.float(), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    return lambda: [step() for _ in range(steps)], {"flops": flops}


def train_steps_by_keras(images, masks, size, steps, frozen):
    """Training steps of segmentation_models, Keras's library of that name, whose last release is of 2020.

    It runs on the old Keras (tf_keras, by TF_USE_LEGACY_KERAS), with its own decoder and its loss of cross-entropy and
    Jaccard; `frozen` layers of VGG-16 are not trained. The transform runs between the steps, as in `train_steps`.
    """
    import os

    os.environ.update(SM_FRAMEWORK="tf.keras", TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3")
    import segmentation_models

    model = segmentation_models.Unet("vgg16", encoder_weights=None, input_shape=(size, size, 3))
    for layer in model.layers[:frozen]:
        layer.trainable = False
    model.compile("adam", segmentation_models.losses.bce_jaccard_loss)
    images, masks = np.load(images), np.load(masks)
    transform = augmenter(size, images.shape[1])

    def step():
        pairs = [transform(image=image, mask=mask) for image, mask in zip(images, masks, strict=True)]
        x = np.repeat(np.stack([pair["image"] for pair in pairs])[..., None].astype("float32") / 255, 3, axis=3)
        model.train_on_batch(x, np.stack([pair["mask"] for pair in pairs])[..., None].astype("float32"))

    return lambda: [step() for _ in range(steps)], {}


def augmenter(size, tile):
    """salt's augmentations as albumentations has them.

    Flip, brightness and contrast, scale, shear and rotation with reflected borders, placed at random in the square.
    """
    import albumentations
    import cv2

    room, reflect = size - tile, {"border_mode": cv2.BORDER_REFLECT_101}
    shift = (-(room // 2), room // 2)
    return albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=0.5),
            albumentations.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=1),
            albumentations.PadIfNeeded(size, size, **reflect),
            albumentations.Affine(scale=(0.9, 1.1), rotate=(-5, 5), shear=(-5, 5), translate_px=shift, p=1, **reflect),
        ],
        seed=0,
    )


def main():
    answers, works = sys.stdout, []
    sys.stdout = sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if "prepare" in message:
                work, told = globals()[message["prepare"]](**message["given"])
                works.append(work)
                answer = {"number": len(works) - 1, "told": told}
            else:
                start = time.perf_counter()
                works[message["run"]]()
                answer = {"seconds": time.perf_counter() - start}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
