"""Pictures of large images, scaled down so that a page can hold many of them. Small ones stay as they are."""

import math

import cv2
import numpy as np

PICTURE_PIXELS = 2**16  # of a scaled picture, about: four times what it has in a gallery


def picture_scale(height: int, width: int) -> int:
    """By how much sides are divided; 1 for images of 256 x 256 and smaller."""
    return max(1, math.ceil(math.sqrt(height * width / PICTURE_PIXELS)))


def scaled_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a scaled picture."""
    scale = picture_scale(height, width)
    return -(-height // scale), -(-width // scale)


def scaled_images(images: np.ndarray) -> np.ndarray:
    """Images uint8 `[N, H, W]` or `[N, H, W, 3]` in the size of pictures: the mean of what a pixel stands for."""
    height, width = scaled_size(*images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return images
    return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images])


def highest_values(maps: np.ndarray) -> np.ndarray:
    """Masks or probabilities uint8 `[N, H, W]` in the size of pictures: the highest of the pixels that one stands for,
    so that nothing small is hidden."""
    scale = picture_scale(*maps.shape[1:3])
    if scale == 1:
        return maps
    for axis in (1, 2):  # whole rows or columns at a time: a tenth of the time of `reduceat`, whose pieces are short
        lines = np.moveaxis(maps, axis, 0)
        highest = lines[::scale].copy()
        for offset in range(1, scale):
            part = lines[offset::scale]
            np.maximum(highest[: len(part)], part, out=highest[: len(part)])
        maps = np.moveaxis(highest, 0, axis)
    return maps
