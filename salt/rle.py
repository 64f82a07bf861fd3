"""Run-length encoding of masks, as Kaggle wants it: `"start length start length ..."`.

Pixels are numbered from 1, top-down, then left-right (column-major), unless a competition does otherwise; runs are
sorted and do not overlap; an empty mask is the empty string. A transposed encoding is a common mistake in first
submissions, so both directions are here and no other module knows the format. numpy only; no files.
"""

import functools
import re
from collections.abc import Iterable, Sequence

import numpy as np

# Masks worked on at a time, and their pixels at most: they stay in the processor's cache, and memory does not grow
# with the stack.
RLE_CHUNK = 256
RLE_PIXELS = 2_700_000


class RLEError(ValueError):
    """A mask that cannot be encoded, or a text that is no run-length encoding."""


def encode_rle(mask: np.ndarray) -> str:
    """Encodes one mask.

    Args:
        mask: `[H, W]`, bool or integer, 0 and 1.

    Returns:
        The encoding; `""` for an empty mask.

    Raises:
        RLEError: not two dimensions, or values other than 0 and 1.

    Example:
        >>> encode_rle(np.array([[0, 1], [1, 1]]))
        '2 3'
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise RLEError(f"mask: must have shape [H, W], not {mask.shape}; encode_rles takes a stack")
    return encode_rles(mask[None])[0]


def encode_rles(masks: np.ndarray, by_rows: bool = False, first: int = 1) -> list[str]:
    """Encodes a stack of masks.

    Args:
        masks: `[N, H, W]`, bool or integer, 0 and 1.
        by_rows: whether pixels are numbered left-right, then top-down, instead of down the columns.
        first: the number of the first pixel, 0 or 1.

    Returns:
        N encodings, in the order of the masks.

    Raises:
        RLEError: not three dimensions, or values other than 0 and 1.
    """
    masks = require_masks(masks, "masks", RLEError)
    masks = masks.transpose(0, 2, 1) if by_rows else masks
    height, width = masks.shape[1:]
    pixels = height * width
    if not pixels:
        return [""] * len(masks)
    chunk_size = min(len(masks), masks_at_a_time(pixels))
    whole = np.int32 if chunk_size * (pixels + 1) < 2**31 else np.int64  # which divides faster where it suffices
    buffer = np.empty((chunk_size, height, width), bool)
    rles: list[str] = []
    for begin in range(0, len(masks), max(1, chunk_size)):
        chunk = masks[begin : begin + chunk_size]
        # Where a pixel differs from the one before it in the order of the encoding, without transposing the masks.
        change = buffer[: len(chunk)]
        np.not_equal(chunk[:, 1:], chunk[:, :-1], out=change[:, 1:])
        np.not_equal(chunk[:, 0, 1:], chunk[:, -1, :-1], out=change[:, 0, 1:])
        change[:, 0, 0] = chunk[:, 0, 0]
        places = np.flatnonzero(change).astype(whole)
        row = places // pixels
        position = places - row * pixels
        line = position // width
        column = position - line * width
        reaching = np.flatnonzero(chunk[:, -1, -1]).astype(whole)  # the masks whose last run ends with the tile
        edges = np.concatenate([row * (pixels + 1) + column * height + line, reaching * (pixels + 1) + pixels])
        edges.sort()
        row = edges // (pixels + 1)
        position = edges - row * (pixels + 1)
        numbers = position.copy()
        numbers[0::2] += first
        numbers[1::2] -= position[0::2]
        rles += number_lines(numbers, np.bincount(row, minlength=len(chunk)))
    return rles


def number_lines(numbers: np.ndarray, counts: np.ndarray) -> list[str]:
    """Numbers as text, those of a line separated by blanks; several times as fast as `str` of each.

    Args:
        numbers: whole numbers from 0, `[M]`, those of one line after the other.
        counts: how many of them each line has, `[N]`; 0: the line is empty.

    Returns:
        N texts.
    """
    if not len(numbers):
        return [""] * len(counts)
    groups = (len(str(numbers.max())) + 2) // 3
    words = np.empty((len(numbers), groups), "<u4")
    rest, table = numbers, three_digits()
    for group in reversed(range(groups)):
        higher = rest // 1000
        row = np.where(higher > 0, 1000, 2000 if group == groups - 1 else 0)
        words[:, group] = table[row + rest - 1000 * higher]
        rest = higher
    filled = np.flatnonzero(counts)
    text = words.view(np.uint8).reshape(len(numbers), -1)
    text[:, -1] = ord(" ")
    text[counts.cumsum()[filled] - 1, -1] = ord("\n")
    lines = [""] * len(counts)
    texts = text.tobytes().translate(None, b"\0").decode("ascii").split("\n")
    for index, line in zip(filled.tolist(), texts, strict=False):  # behind the last line break there is nothing
        lines[index] = line
    return lines


@functools.cache
def three_digits() -> np.ndarray:
    """The texts of 0 to 999 in four bytes each, the first digit lowest, what is left 0: three tables in a row.

    In the first 0 has no text, in the second all have three digits, in the third 0 is "0"; `<u4` `[3000]`.
    """
    texts = [["", *map(str, range(1, 1000))], [f"{number:03}" for number in range(1000)], map(str, range(1000))]
    return np.array([text.encode() for each in texts for text in each], "S4").view("<u4")


def masks_at_a_time(pixels: int) -> int:
    """How many masks of so many pixels are worked on at a time, at least 1."""
    return min(RLE_CHUNK, max(1, RLE_PIXELS // max(1, pixels)))


def decode_rle(rle: str | float | None, shape: tuple[int, int]) -> np.ndarray:
    """Decodes one mask; see `decode_rles`.

    Args:
        rle: the encoding; `""`, None or NaN for an empty mask.
        shape: height and width of the mask.

    Returns:
        uint8 `[H, W]` of 0 and 1.

    Raises:
        RLEError: as for `decode_rles`.

    Example:
        >>> decode_rle("2 3", shape=(2, 2)).tolist()
        [[0, 1], [1, 1]]
    """
    return decode_rles([rle], shape)[0]


def decode_rles(
    rles: Iterable[str | float | None],
    shape: tuple[int, int],
    ids: Sequence[str] | np.ndarray | None = None,
    by_rows: bool = False,
    first: int = 1,
) -> np.ndarray:
    """Decodes many masks and checks every run of each.

    Runs that touch (`"1 2 3 4"`) are legal, as on Kaggle: they are two ways to write one run.

    Args:
        rles: sequence of N encodings; `""`, None and NaN (how pandas reads an empty field) are empty masks.
        shape: height and width of the masks.
        ids: N names for the error messages; without them the row's index is named.
        by_rows, first: as for `encode_rles`.

    Returns:
        uint8 `[N, H, W]` of 0 and 1.

    Raises:
        RLEError: not text, not whole numbers, an odd count of numbers, a start or length below 1, a run past the end,
            unsorted or overlapping runs; the message names the id, the run and the limit. Or `shape` is none.
    """
    rles = list(rles)
    if ids is not None and len(ids) != len(rles):
        raise RLEError(f"ids: {len(ids)} names for {len(rles)} encodings")
    names = [f"row {row}" for row in range(len(rles))] if ids is None else [f"id {str(name)!r}" for name in ids]
    if len(shape) != 2 or not all(isinstance(side, int | np.integer) and side >= 0 for side in shape):
        raise RLEError(f"shape={shape}: must be height and width, two whole numbers")
    height, width = shape
    texts = [rle_text(rle, name) for rle, name in zip(rles, names, strict=True)]
    masks = np.zeros((len(rles), height, width), np.uint8)
    filled = [row for row, text in enumerate(texts) if text]  # the other masks stay as they are
    chunk_size = masks_at_a_time(height * width)
    for at in range(0, len(filled), chunk_size):
        part = filled[at : at + chunk_size]
        row, start, length = parse_runs(
            [texts[index] for index in part], [names[index] for index in part], height * width, first
        )
        if by_rows:  # as the pixels lie in the memory: runs of 0 and 1 in turn, one after the other
            edges = np.zeros(2 * len(start) + 2, np.int64)
            edges[1:-1:2] = row * height * width + start - 1
            edges[2:-1:2] = edges[1:-1:2] + length
            edges[-1] = len(part) * height * width
            values = (np.arange(len(edges) - 1) % 2).astype(np.uint8)
            masks[part] = np.repeat(values, np.diff(edges)).reshape(-1, height, width)
            continue
        # A 1 where the value changes in a column: where a run begins, and behind its end. Sorted, and none comes
        # twice, so each is turned over by one look-up; where two runs touch, a pixel is turned over by both.
        change = np.zeros((height, len(part), width), np.uint8)
        pixels = change.reshape(-1)
        begin, end = start - 1, start - 1 + length
        inside = end < height * width
        for position, mask in ((begin, row), (end[inside], row[inside])):
            column, line = np.divmod(position, max(1, height))
            pixels[(line * len(part) + mask) * width + column] ^= 1
        # A column begins as the one before it ended. Row by row is the fastest way through the memory.
        if change.size:
            change[0, :, 1:] ^= np.bitwise_xor.accumulate(np.bitwise_xor.reduce(change, axis=0), axis=1)[:, :-1]
        for below in range(1, height):
            change[below] ^= change[below - 1]
        for place, index in enumerate(part):
            masks[index] = change[:, place]
    return masks


def count_marked(
    rles: Sequence[str | float | None],
    pixels: int | np.ndarray,
    ids: Sequence[str] | np.ndarray,
    owners: np.ndarray,
    first: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels masks mark, and whether their encodings overlap; every run is checked, and no mask is made.

    Args:
        rles: N encodings, as for `decode_rles`.
        pixels: of a mask; or int `[N]`, of that of each encoding.
        ids: N names for the error messages.
        owners: int `[N]`, from 0: the number of the mask that an encoding is a part of.
        first: as for `encode_rles`.

    Returns:
        For each owner up to the largest, int64: the pixels that at least one of its encodings marks; and bool: whether
        two of them mark the same pixel.

    Raises:
        RLEError: see `decode_rles`.
    """
    order = np.argsort(owners, kind="stable")
    owner_of = np.asarray(owners, np.int64)[order]
    count = int(owner_of[-1]) + 1 if len(order) else 0
    marked, overlapping = np.zeros(count, np.int64), np.zeros(count, bool)
    pixels_of, at = np.broadcast_to(pixels, (len(order),)), 0
    most = int(pixels_of.max(initial=0))
    while at < len(order):
        end = int(np.searchsorted(owner_of, owner_of[min(at + RLE_CHUNK, len(order)) - 1], side="right"))  # whole masks
        names = [f"id {str(ids[index])!r}" for index in order[at:end]]
        texts = [rle_text(rles[index], name) for index, name in zip(order[at:end], names, strict=True)]
        filled = [place for place, text in enumerate(texts) if text]
        owner, of_part = owner_of[at:end][filled], order[at:end]
        at = end
        if not filled:
            continue
        row, start, length = parse_runs(
            [texts[place] for place in filled], [names[place] for place in filled], pixels_of[of_part][filled], first
        )
        owner = owner[row]
        begin = owner * most + start - 1  # one mask behind the other, so that no run reaches into the next
        by_place = np.argsort(begin, kind="stable")
        begin, owner = begin[by_place], owner[by_place]
        reached = np.maximum.accumulate(begin + length[by_place])
        before = np.append(0, reached[:-1])[: len(begin)]
        np.add.at(marked, owner, reached - np.maximum(begin, before))
        overlapping[owner[begin < before]] = True
    return marked, overlapping


def rle_text(rle: object, name: str) -> str:
    """The encoding as text: None and NaN become `""`; any other value that is not text is an error."""
    if isinstance(rle, str):
        return rle
    if rle is None or (isinstance(rle, float) and rle != rle):
        return ""
    raise RLEError(f"{name}: {rle!r} is of type {type(rle).__name__}, not text such as '1 3 10 5'")


def parse_runs(
    texts: list[str], names: list[str], pixels: int | np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads and checks the runs of a list of encodings; `pixels` are those of a mask, or of that of each encoding.

    Returns:
        row, start, length: int64 `[R]`, for the R runs of all rows in order; starts count from 1, whatever `first` is.

    Raises:
        RLEError: see `decode_rles`.
    """
    joined = "\n".join(texts)
    if joined.encode("ascii", "replace").translate(None, b"0123456789 \n") or any("\n" in text for text in texts):
        raise RLEError(describe_bad_word(texts, names))
    counts = np.array([text.count(" ") + 1 for text in texts])
    # Numbers too large for int64 are read as its largest, so past the end as well.
    numbers = np.fromstring(joined, dtype=np.int64, sep=" ")
    if counts.sum() != len(numbers):  # more blanks than one between two numbers, or none
        counts = np.array([len(text.split()) for text in texts])
        numbers = numbers[: counts.sum()]  # of blank text numpy reads one 0
    odd = np.flatnonzero(counts % 2)
    if odd.size:
        raise RLEError(f"{names[odd[0]]}: {counts[odd[0]]} numbers; an RLE is pairs of start and length, an even count")
    start, length = numbers[0::2], numbers[1::2]
    runs = counts // 2
    row = np.repeat(np.arange(len(texts)), runs)

    def refuse(bad: np.ndarray, problem: str) -> None:
        if bad.any():
            run = int(np.flatnonzero(bad)[0])
            which = run - int(runs[: row[run]].sum())
            # The words of the text, not the parsed numbers: the message shows what the file says.
            words = texts[row[run]].split()[2 * which : 2 * which + 2]
            raise RLEError(f"{names[row[run]]}: run {which + 1} (start {words[0]}, length {words[1]}) {problem}")

    refuse(start < first, f"starts below {first}: pixels are numbered from {first}")
    start = start - first + 1
    refuse(length < 1, "has a length below 1: leave the run out")
    room = np.broadcast_to(pixels, (len(texts),))[row]
    past = length > room - start + 1
    refuse(past, f"goes past the end: the tile has {room[past.argmax()] if len(row) else 0} pixels")
    same_row = row[1:] == row[:-1]
    step = np.diff(start)
    refuse(np.append(False, same_row & (step < 0)), "starts before the run in front of it: runs must be sorted")
    refuse(np.append(False, same_row & (step < length[:-1])), "overlaps the run in front of it: each pixel counts once")
    return row, start, length


def describe_bad_word(texts: list[str], names: list[str]) -> str:
    """Names the first word of a list of encodings that is not a whole number without a sign."""
    for text, name in zip(texts, names, strict=True):
        for word in text.split(" "):
            if re.fullmatch("-[0-9]+", word):
                return f"{name}: {word} is negative; starts and lengths count from 1"
            if not re.fullmatch("[0-9]*", word):
                return f"{name}: {word!r} is not a number; an RLE is whole numbers separated by spaces"
    raise AssertionError("called for encodings without a bad word")


def require_masks(masks: np.ndarray, name: str, error: type[Exception]) -> np.ndarray:
    """Returns a stack of masks as an array, or raises if it is none.

    Args:
        masks: `[N, H, W]`, bool or integer, 0 and 1.
        name: of the argument, for the message.
        error: the exception to raise.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise error(f"{name}: must have shape [N, H, W], not {masks.shape}")
    if masks.dtype.kind not in "bui":
        nan = " with NaN" if masks.dtype.kind == "f" and np.isnan(masks).any() else ""
        raise error(f"{name}: must be uint8 of 0 and 1, not {masks.dtype}{nan}; probabilities become masks by binarize")
    if masks.size and masks.dtype.kind != "b" and (masks.max() > 1 or masks.min() < 0):
        value = masks.max() if masks.max() > 1 else masks.min()
        raise error(f"{name}: holds the value {value}; a mask is 0 and 1 (a mask of 0 and 255 is mask > 0)")
    return masks
