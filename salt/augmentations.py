"""Random transforms of batches of (image, mask), on any Keras backend, inside the compiled training step.

Padding, jitter, flip, scale, shear and rotation are one warp, which computes for each pixel of the padded square where
in the tile it comes from. Image and mask are warped together, as two channels, so that they always correspond. The
random parameters are drawn first, as a dict of tensors; the same dict always gives the same result.

The warp is a gather, since `keras.ops.image.affine_transform` does not compile under XLA on TensorFlow. Everything is
float32 whatever the mixed-precision policy: in bfloat16 a coordinate inside a tile is exact to half a pixel only.
"""

import math

import keras
from keras import ops

from salt.config import Config
from salt.layers import Tensor
from salt.tiles import pad_offset, tile_side


class AugmentationError(ValueError):
    """A padded size or a padding mode that the warp cannot make."""


def draw_augmentation(
    config: Config, batch: int | Tensor, seed_generator: keras.random.SeedGenerator, tile: int
) -> dict[str, Tensor]:
    """Draws the random parameters of one batch, each within the limits of `config`.

    All random numbers come from one draw of fixed width, so that switching one augmentation off leaves the others as
    they were, and the state of `seed_generator` moves by one step per batch.

    Args:
        config: a `Config`; `padded_size` and the fields under "geometry and augmentation" are used.
        batch: number of tiles, an int or a scalar tensor (`ops.shape(images)[0]`).
        seed_generator: the source of the random numbers.
        tile: pixels of a tile's side.

    Returns:
        A dict of float32 tensors: `"flip"` (0 or 1), `"scale"` (log-uniform in 1 / (1 + s) ... 1 + s, so that tiles
        shrink as often as they grow), `"shear"`, `"rotation"`, `"brightness"`, `"contrast"` (uniform), each `[batch]`;
        `"offset"` `[batch, 2]`, whole numbers: row and column of the padded square where the tile's corner lies; and
        `"hole"` `[batch, 3]`: row, column and side of the square that `cut_out` fills, side 0 for half of the tiles.

    Example:
        >>> parameters = draw_augmentation(preset("unet"), 32, keras.random.SeedGenerator(0), tile=96)
        >>> tuple(parameters["offset"].shape)
        (32, 2)
    """
    parameters = plain_parameters(batch, config.padded_size, tile)
    uniform = keras.random.uniform((batch, 12), dtype="float32", seed=seed_generator)
    signed = 2.0 * uniform - 1.0
    if config.flip:
        parameters["flip"] = ops.cast(uniform[:, 0] < 0.5, "float32")
    if config.jitter:
        room = config.padded_size - tile
        # The minimum is for uniform numbers close to 1, whose product with room + 1 is rounded up to room + 1.
        parameters["offset"] = ops.minimum(ops.floor(uniform[:, 1:3] * (room + 1.0)), float(room))
    parameters["scale"] = ops.exp(signed[:, 3] * math.log1p(config.scale))
    parameters["shear"] = signed[:, 4] * config.shear
    parameters["rotation"] = signed[:, 5] * config.rotation
    parameters["brightness"] = signed[:, 6] * config.brightness
    parameters["contrast"] = 1.0 + signed[:, 7] * config.contrast
    if config.cutout:
        side = ops.cast(uniform[:, 8:9] < 0.5, "float32") * uniform[:, 9:10] * config.cutout
        parameters["hole"] = ops.concatenate([uniform[:, 10:12] * config.padded_size, side], axis=1)
    return parameters


def plain_parameters(batch: int | Tensor, size: int, tile: int) -> dict[str, Tensor]:
    """The parameters of no augmentation: the unchanged tile in the middle of the padded square. For validation.

    Args:
        batch: number of tiles, an int or a scalar tensor.
        size: pixels of the padded square's side.
        tile: pixels of a tile's side, at most `size`.

    Returns:
        A dict of float32 tensors as `draw_augmentation` gives; `"offset"` is where `pad_images` puts the tile.
    """
    zeros, ones = ops.zeros((batch,), dtype="float32"), ops.ones((batch,), dtype="float32")
    offset = ops.full((batch, 2), float(pad_offset(size, tile)), dtype="float32")
    return {
        "flip": zeros,
        "scale": ones,
        "shear": zeros,
        "rotation": zeros,
        "offset": offset,
        "brightness": zeros,
        "contrast": ones,
        "hole": ops.zeros((batch, 3), dtype="float32"),
    }


def augment(
    images: Tensor, masks: Tensor, parameters: dict[str, Tensor], size: int, mode: str
) -> tuple[Tensor, Tensor]:
    """Pads and transforms a batch: the network's input, and the masks for its loss.

    The loss belongs on the tile, not on the padding: take the tile's window at `"offset"` of mask and logits with
    `crop_at`. The mask comes back whole for losses at a coarser resolution.

    Args:
        images: `[B, n, n]`, or `[B, n, n, 3]` of colours, levels 0 to 255, any dtype.
        masks: `[B, n, n]`, or `[B, n, n, C]` of several classes, 0 or 1, any dtype.
        parameters: from `draw_augmentation` or `plain_parameters`.
        size: pixels of the padded square's side.
        mode: `"reflect"` or `"edge"`, what lies beyond the tile's border; `"neighbours"`: images and masks come with
            their surroundings, see `tile_side`.

    Returns:
        `(images, masks)`: float32 in 0 to 255, and float32, each 0 or 1, both of `size` pixels and with the channels
        that they had.

    Raises:
        AugmentationError: unknown `mode`, or `size` below `n`.

    Example:
        >>> parameters = plain_parameters(len(images), 128, tile=96)
        >>> padded, truth = augment(images, masks, parameters, 128, "reflect")
        >>> logits = crop_at(net(padded[..., None])[..., 0], parameters["offset"], 96)
        >>> loss = bce_loss(logits, crop_at(truth, parameters["offset"], 96))
    """
    images = adjust_brightness_contrast(images, parameters["brightness"], parameters["contrast"])
    grey, single = len(images.shape) == 3, len(masks.shape) == 3
    images, masks = with_channels(images), with_channels(ops.cast(masks, "float32"))
    warped = warp_tiles(ops.concatenate([images, masks], axis=-1), parameters, size, mode)
    channels = images.shape[3]
    pictures = warped[..., 0] if grey else warped[..., :channels]
    truth = warped[..., channels] if single else warped[..., channels:]
    # Between 0 and 1 the nearer one is taken, so that the mask stays binary.
    return cut_out(pictures, parameters["hole"]), ops.cast(truth >= 0.5, "float32")


def with_channels(images: Tensor) -> Tensor:
    """Images `[B, H, W]` as `[B, H, W, 1]`, those with channels as they are."""
    return images[..., None] if len(images.shape) == 3 else images


def beside_channels(values: Tensor, images: Tensor) -> Tensor:
    """Values `[B, H, W]`, one a pixel, in a shape that goes with images `[B, H, W]` or `[B, H, W, C]`."""
    return values if len(images.shape) == 3 else values[..., None]


def cut_out(images: Tensor, hole: Tensor) -> Tensor:
    """Fills a square of each image with the image's mean; the mask stays as it is (cutout, DeVries & Taylor 2017).

    Args:
        images: float32 `[B, S, S]`, or `[B, S, S, 3]`.
        hole: `[B, 3]`, row and column of the square's centre and its side in pixels; side 0 changes nothing.

    Returns:
        Float32, of the same shape.
    """
    row, column, side = (hole[:, index, None, None] for index in range(3))
    middle = ops.arange(images.shape[1], dtype="float32") + 0.5  # of each pixel
    hidden = ops.logical_and(ops.abs(middle[:, None] - row) < side / 2, ops.abs(middle - column) < side / 2)
    return ops.where(beside_channels(hidden, images), ops.mean(images, axis=(1, 2), keepdims=True), images)


def draw_boxes(share: float, batch: int | Tensor, size: int, seed_generator: keras.random.SeedGenerator) -> Tensor:
    """Draws the rectangles of CutMix (Yun et al. 2019): their area is uniform between nothing and the whole square.

    Args:
        share: of the tiles that get one.
        batch: number of tiles, an int or a scalar tensor.
        size: pixels of the padded square's side.
        seed_generator: the source of the random numbers, not that of `draw_augmentation`, whose draws stay as they are.

    Returns:
        Float32 `[batch, 4]`, whole numbers: top, left, bottom and right, the last two beyond the rectangle; all 0 for
        a tile that gets none.
    """
    uniform = keras.random.uniform((batch, 4), dtype="float32", seed=seed_generator)
    side = size * ops.sqrt(uniform[:, 1:2])  # around a centre anywhere, cut off at the border
    corner = uniform[:, 2:4] * size
    box = ops.clip(ops.round(ops.concatenate([corner - side / 2, corner + side / 2], axis=1)), 0.0, float(size))
    return ops.where(uniform[:, :1] < share, box, 0.0)


def mix_tiles(images: Tensor, masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Pastes into each tile a rectangle of the one before it in the batch, at the same place, image and mask alike.

    Args:
        images, masks: float32 `[B, S, S]` or with channels, as `augment` gives them: of what shows in the rectangle the
            mask is right, in the padding too.
        boxes: `[B, 4]`, from `draw_boxes`.

    Returns:
        `(images, masks)`, float32, of the same shapes.
    """
    top, left, bottom, right = (boxes[:, index, None, None] for index in range(4))
    place = ops.arange(images.shape[1], dtype="float32")
    rows, columns = place[:, None], place
    inside = ops.logical_and(
        ops.logical_and(rows >= top, rows < bottom), ops.logical_and(columns >= left, columns < right)
    )
    mixed = [ops.where(beside_channels(inside, maps), ops.roll(maps, 1, axis=0), maps) for maps in (images, masks)]
    return mixed[0], mixed[1]


def adjust_brightness_contrast(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Stretches each image about its own mean, shifts it, and clips it to 0 ... 255.

    Args:
        images: `[B, H, W]`, or `[B, H, W, 3]` of colours, which change alike; levels 0 to 255, any dtype.
        brightness: `[B]`, grey levels to add.
        contrast: `[B]`, factor on the distance from the image's mean.

    Returns:
        Float32, of the same shape. With brightness 0 and contrast 1 exactly the input.
    """
    images = ops.cast(images, "float32")
    axes = tuple(range(1, len(images.shape)))
    brightness, contrast = (
        ops.reshape(ops.cast(value, "float32"), (-1, *(1 for _ in axes))) for value in (brightness, contrast)
    )
    mean = ops.mean(images, axis=axes, keepdims=True)
    # Written so, and not as mean + contrast * (images - mean), contrast 1 leaves every bit as it is.
    return ops.clip(images * contrast + (mean * (1.0 - contrast) + brightness), 0.0, 255.0)


def warp_tiles(tiles: Tensor, parameters: dict[str, Tensor], size: int, mode: str) -> Tensor:
    """Padding, jitter, flip, scale, shear and rotation in one bilinear warp.

    A tile is flipped left to right, then sheared, rotated and magnified about its own centre, then placed with its
    corner at `"offset"` in a square of `size`; the rest of the square is filled as `np.pad` would fill it in `mode`.

    Args:
        tiles: `[B, n, n]`, or `[B, n, n, C]` to move several channels alike; any dtype.
        parameters: a dict with `"flip"` (1: left and right change places), `"scale"` (magnification), `"shear"` (a
            point one pixel further down lies this many pixels further right), `"rotation"` (degrees, counter-clockwise
            as seen), each `[B]`, and `"offset"` `[B, 2]` (row, column).
        size: pixels of the result's side, at least `n`.
        mode: `"reflect"` or `"edge"`, with `np.pad`'s meaning; `"neighbours"`: each tile lies in the middle of its
            surroundings (see `tile_side`), which fill the square, and beyond which their mirror image lies.

    Returns:
        Float32 `[B, size, size]` or `[B, size, size, C]`. With `plain_parameters`, the same numbers as
        `np.pad(tile, ..., mode)`.

    Raises:
        AugmentationError: unknown `mode`, or `size` below `n`.
    """
    if mode not in ("reflect", "edge", "neighbours"):
        raise AugmentationError(f"mode={mode!r}: must be 'reflect', 'edge' or 'neighbours'")
    tile_size, given_size = tile_side(tiles.shape[1], size, mode), tiles.shape[1]
    if size < tile_size:
        raise AugmentationError(f"size={size}: a tile of {tile_size} pixels does not fit; give at least {tile_size}")
    rows, columns = source_coordinates(parameters, size, tile_size)
    if mode == "neighbours":
        rows, columns = rows + float(given_size - size), columns + float(given_size - size)
    inside = clamp_coordinates if mode == "edge" else reflect_coordinates
    rows, columns = inside(rows, given_size)[..., None], inside(columns, given_size)[..., None]

    # The coordinates are folded into the picture before the taps are taken, so that the four are always neighbours;
    # a point on the last row or column is the far side of the last square.
    table, channels = tap_table(ops.cast(tiles, "float32"))
    cells = given_size - 1
    top = ops.minimum(ops.floor(rows), cells - 1.0)
    left = ops.minimum(ops.floor(columns), cells - 1.0)
    # A flat index over the whole batch, since a gather along the first axis is by far the fastest; an integer, since
    # float32 is exact only up to 2 ** 24 pixels, some 1,600 tiles.
    first = ops.arange(ops.shape(tiles)[0], dtype="int32")[:, None, None] * cells**2
    taps = ops.take(table, ops.cast(top * cells + left, "int32")[..., 0] + first, axis=0)

    # The weights must belong to the square that was gathered, hence its place is gathered, too. XLA may compute `top`
    # again in another kernel, with another rounding; where a row is a whole number, `rows - top` could then be 1
    # instead of 0, which put wrong pixels into sheared tiles.
    down, right = rows - taps[..., -2:-1], columns - taps[..., -1:]
    upper, lower = taps[..., : 2 * channels], taps[..., 2 * channels : 4 * channels]
    sides = upper + down * (lower - upper)
    warped = sides[..., :channels] + right * (sides[..., channels:] - sides[..., :channels])
    return warped if len(tiles.shape) == 4 else warped[..., 0]


def tap_table(tiles: Tensor) -> tuple[Tensor, int]:
    """The squares of 2 x 2 neighbours of a batch, a row each: their four values and where they are.

    Args:
        tiles: float32 `[B, n, n]` or `[B, n, n, C]`.

    Returns:
        `(table, C)`: `[B * (n - 1) ** 2, 4 * C + 2]`, the upper left, upper right, lower left and lower right pixel and
        then the row and the column of the first; and the number of channels, 1 if there was no such axis.
    """
    if len(tiles.shape) == 3:
        tiles = tiles[..., None]
    cells, channels = tiles.shape[1] - 1, tiles.shape[3]
    place = ops.zeros_like(tiles[:, 1:, 1:, :1]) + ops.arange(cells, dtype="float32")[:, None]
    neighbours = [tiles[:, :-1, :-1], tiles[:, :-1, 1:], tiles[:, 1:, :-1], tiles[:, 1:, 1:]]
    table = ops.concatenate([*neighbours, ops.swapaxes(place, 1, 2), place], axis=-1)
    return ops.reshape(table, (-1, 4 * channels + 2)), channels


def source_coordinates(parameters: dict[str, Tensor], size: int, tile_size: int) -> tuple[Tensor, Tensor]:
    """Where each pixel of the padded square comes from, in the coordinates of its tile and beyond its border.

    Returns:
        `(rows, columns)`, float32 `[B, size, size]` each; 0 ... `tile_size - 1` lie inside the tile.
    """
    names = ("flip", "scale", "shear", "rotation")
    flip, scale, shear, rotation = (ops.cast(parameters[name], "float32")[:, None] for name in names)
    offset = ops.cast(parameters["offset"], "float32")
    centre = (tile_size - 1) / 2
    grid = ops.arange(size, dtype="float32")[None]
    y, x = grid - offset[:, :1] - centre, grid - offset[:, 1:] - centre  # [B, size], from the tile's centre

    # The inverse of flip -> shear -> rotation -> scale: a whole number of pixels minus a shift. The shift is small, so
    # that float32 has it to 1e-6, where a coordinate near 100 is exact to 1e-5 only. For the same reason no coefficient
    # is computed as 1 minus a number near 1, and 1 - cos is computed from the half angle. (Minus and not plus, since
    # TensorFlow's graph optimiser reorders chains of additions, which would lose the precision again.)
    angle = rotation * (math.pi / 180)
    sine, cosine, versine = ops.sin(angle), ops.cos(angle), 2.0 * ops.square(ops.sin(angle / 2.0))
    row_by_y, row_by_x = (scale - 1.0 + versine) / scale, -sine / scale
    column_by_x, column_by_y = (scale - 1.0 + versine + shear * sine) / scale, (sine + shear * cosine) / scale
    mirror = 1.0 - 2.0 * flip
    row_shift = (row_by_y * y)[:, :, None] + (row_by_x * x)[:, None, :]
    column_shift = (mirror * column_by_x * x)[:, None, :] + (mirror * column_by_y * y)[:, :, None]
    return (y + centre)[:, :, None] - row_shift, (mirror * x + centre)[:, None, :] - column_shift


def reflect_coordinates(values: Tensor, tile_size: int) -> Tensor:
    """Folds coordinates into 0 ... `tile_size - 1` by mirrors at the first and the last pixel.

    That is the distance to the nearest image of pixel 0, of which there is one every `2 * (tile_size - 1)` pixels.
    """
    period = 2.0 * (tile_size - 1)
    return ops.abs(values - period * ops.round(values / period))


def clamp_coordinates(values: Tensor, tile_size: int) -> Tensor:
    """Sets coordinates outside 0 ... `tile_size - 1` to the nearer end."""
    return ops.clip(values, 0.0, tile_size - 1.0)


def crop_at(padded: Tensor, offset: Tensor, size: int) -> Tensor:
    """Crops a square window from each item of a batch, each at its own place; differentiable.

    Args:
        padded: `[B, S, S]` or `[B, S, S, C]`, any dtype, such as logits.
        offset: `[B, 2]`, row and column of the window's corner, whole numbers in 0 ... S - size.
        size: pixels of the window's side.

    Returns:
        `[B, size, size]` or `[B, size, size, C]` with the dtype of `padded`. The gradient is that of the window's
        pixels and 0 elsewhere; no two terms are added, so that it is the same on every run.
    """
    height, width = padded.shape[1:3]
    offset = ops.cast(offset, "int32")
    window = ops.arange(size, dtype="int32")
    rows = offset[:, :1] + window + height * ops.arange(ops.shape(padded)[0], dtype="int32")[:, None]
    columns = offset[:, 1:] + window
    flat = ops.reshape(padded, (-1, *padded.shape[3:]))
    return ops.take(flat, rows[:, :, None] * width + columns[:, None, :], axis=0)
