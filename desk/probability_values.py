"""Values of another program's predictions become probabilities as runs hold them: turned, cropped, checked, rounded."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from tqdm import tqdm

from desk.errors import ConfigurationError
from desk.paths import AnyPath
from desk.prediction_files import Predictions
from salt.stacks import MOST_IN_MEMORY, Stack
from salt.tiles import crop_images

LOGIT_LIMIT = 80.0  # beyond it a float32 sigmoid is 0 or 1
TOP = {"uint8": 255, "uint16": 65535}  # of probabilities that are stored as whole numbers
# What may be done to predictions first: what turns a tile, [H, W] or [H, W, C], `CROP` to its size, `INVERT`.
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "transpose": lambda tile: tile.swapaxes(0, 1),
    "mirror": lambda tile: tile[:, ::-1],
    "flip": lambda tile: tile[::-1],
    "turn": lambda tile: tile[::-1, ::-1],
}
CROP = "crop"
INVERT = "invert"


def to_probabilities(
    found: Predictions,
    sides: np.ndarray,
    source: AnyPath,
    apply: Sequence[str] = (),
    logits: bool = False,
    varied: bool = False,
) -> np.ndarray:
    """Probabilities as runs store them, round(255 p), uint8 `[N, H, W]`, or `[N, H, W, C]` of several classes.

    All values are read once to be checked, and again to be converted: large ones are never in memory at once.

    Args:
        found: bool, uint8, uint16 or float.
        sides: height and width of each tile, int `[N, 2]`.
        source: for messages.
        apply: what is done to them first, in this order: names of `TURNS`, `CROP`, `INVERT`.
        logits: whether they are logits.
        varied: whether the competition's images differ in size.

    Returns:
        An array; of tiles that differ in size, or do not fit into memory, a `Stack`.

    Raises:
        ConfigurationError: another size or type, NaN, or values that no probability, or no logit, has.
    """

    def turned(row: int) -> np.ndarray:
        height, width = sides[row].tolist()
        values = found.values(row, (height, width))
        for name in apply:
            if name == CROP:
                values = crop_images(values[None], (height, width))[0]
            elif name != INVERT:
                values = TURNS[name](values)
        if values.shape[:2] != (height, width):
            raise ConfigurationError(f"{source}: {size_problem(found.ids[row], values.shape[:2], (height, width))}")
        return values

    def make(row: int) -> np.ndarray:
        made = eight_bits(turned(row), logits)
        return 255 - made if apply.count(INVERT) % 2 else made

    check_values(found.ids, turned, logits, source)
    shape = (len(found.ids), *sides[0].tolist(), *turned(0).shape[2:])
    stack = Stack(make, shape, None, sides if varied else None)
    return cast(np.ndarray, stack) if varied or math.prod(shape) > MOST_IN_MEMORY else stack[:]


def size_problem(tile: str, found: tuple[int, ...], size: tuple[int, int]) -> str:
    """What to say of a prediction that is not of its tile's size."""
    remedy = "scale it back before you save it"
    if found == size[::-1]:
        remedy = "--apply transpose exchanges its sides"
    elif found[0] >= size[0] and found[1] >= size[1]:
        remedy = "--apply crop takes its middle, if it was padded on all sides; if it was scaled, scale it back"
    return f"{tile} has {found[0]} x {found[1]} pixels, a tile has {size[0]} x {size[1]}; {remedy}"


def check_values(ids: Sequence[str], values: Callable[[int], np.ndarray], logits: bool, source: AnyPath) -> None:
    """Looks at all values, tile by tile.

    Raises:
        ConfigurationError: they are of several types, or of one that is not taken, NaN, or out of range.
    """
    types: dict[np.dtype, str] = {}
    low, high = math.inf, -math.inf
    for row, tile in enumerate(tqdm(ids, desc="predictions", unit="tile", mininterval=1)):
        each = values(row)
        types.setdefault(each.dtype, tile)
        least, most = float(each.min()), float(each.max())
        if not math.isfinite(least) or not math.isfinite(most):  # NaN is the least and the most of what holds it
            raise ConfigurationError(f"{source}: values of {tile} are NaN or infinite; predict it again")
        low, high = min(low, least), max(high, most)
    if len(types) > 1:
        shown = ", ".join(f"{tile} {dtype}" for dtype, tile in list(types.items())[:2])
        raise ConfigurationError(f"{source}: predictions of different types: {shown}; make them alike")
    (dtype,) = types
    if dtype.kind == "f":
        if not logits and (low < 0 or high > 1):
            remedy = "save those as uint8" if low >= 0 and high <= 255 else "if they are logits, give --logits"
            raise ConfigurationError(f"{source}: values from {low:.4g} to {high:.4g}, not probabilities; {remedy}")
    elif logits:
        raise ConfigurationError(f"--logits: {source} holds {dtype}; logits are floating-point numbers")
    elif dtype.kind == "b":
        return
    elif dtype.name not in TOP:
        raise ConfigurationError(f"{source}: {dtype}; must be float in [0, 1], uint8, uint16, or bool for masks")
    elif high == 1:
        raise ConfigurationError(
            f"{source}: {dtype} with 1 as its largest value looks like masks of 0 and 1; save them as bool, or "
            f"times {TOP[dtype.name]}"
        )


def eight_bits(values: np.ndarray, logits: bool) -> np.ndarray:
    """Values that `check_values` has let pass as round(255 p), uint8."""
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype.kind != "f":
        return np.rint(values / (TOP[values.dtype.name] / 255)).astype(np.uint8)
    if logits:
        values = 1 / (1 + np.exp(-np.clip(values.astype(np.float32), -LOGIT_LIMIT, LOGIT_LIMIT)))
    return np.rint(255 * values.astype(np.float64)).astype(np.uint8)
