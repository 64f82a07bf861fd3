"""Images and masks that are made when they are asked for, so that a competition of large ones needs little memory.

A `Stack` is indexed like an array `[N, ...]`; what is taken from it is an array. numpy only.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np

from salt.rle import count_marked, decode_rles, masks_at_a_time

MOST_IN_MEMORY = 512 << 20  # bytes of an array of images or of masks; what is larger stays a stack
STACK_THREADS = 8  # reading and decoding release the interpreter lock


class Stack:
    """Arrays of one shape, uint8, each of which is made when it is asked for.

    Args:
        make: function of a number from 0 to count - 1 that gives the array; it must be possible to pickle it (by
            cloudpickle), and to call it from several threads.
        shape: `(count, *shape of one array)`.
        rows: None, or which of the arrays are in this stack, int `[n]`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, make: Callable[[int], np.ndarray], shape: tuple[int, ...], rows: np.ndarray | None = None):
        self.make = make
        self.rows = np.arange(shape[0]) if rows is None else rows
        self.shape = (len(self.rows), *shape[1:])

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """One array, or several as one array; see `subset` for a stack of them."""
        if isinstance(rows, int | np.integer):
            return self.make(int(self.rows[rows]))
        chosen = self.rows[rows]
        if len(chosen) == 1:  # threads would cost more than they save
            return self.make(int(chosen[0]))[None]
        arrays = np.empty((len(chosen), *self.shape[1:]), self.dtype)

        def fill(place: int) -> None:
            arrays[place] = self.make(int(chosen[place]))

        with ThreadPoolExecutor(STACK_THREADS) as pool:
            list(pool.map(fill, range(len(chosen))))
        return arrays

    def subset(self, rows: slice | np.ndarray | Sequence[int]) -> "Stack":
        """A stack of some of its arrays."""
        stack = Stack(self.make, (0, *self.shape[1:]), self.rows[rows])
        return stack


def subset(arrays: np.ndarray, rows: slice | np.ndarray | Sequence[int]) -> np.ndarray:
    """Some of the arrays: of an array an array, of a stack a stack, which reads nothing yet."""
    return arrays.subset(rows) if isinstance(arrays, Stack) else arrays[rows]


def join_stacks(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The arrays of both, one after the other: as an array, or as a stack if one of them is one."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.concatenate([first, second])
    count = len(first)
    joined = Stack(
        lambda index: first[index] if index < count else second[index - count], (count + len(second), *first.shape[1:])
    )
    return cast(np.ndarray, joined)


def marked_pixels(masks: np.ndarray) -> np.ndarray:
    """How many pixels each mask marks, int64 `[N]`, or `[N, C]` of several classes.

    Of masks that are made of run lengths no pixel is made. Of others a few are in memory at a time.

    Args:
        masks: `[N, H, W]` or `[N, H, W, C]`, 0 and 1, or a `Stack` of them.

    Raises:
        RLEError: a text is no run-length encoding.
    """
    if isinstance(masks, Stack) and isinstance(masks.make, MaskTexts):
        return masks.make.marked(masks.rows)
    marked = np.empty((len(masks), *masks.shape[3:]), np.int64)
    step = masks_at_a_time(math.prod(masks.shape[1:]))
    for first in range(0, len(masks), step):
        marked[first : first + step] = masks[first : first + step].sum(axis=(1, 2), dtype=np.int64)
    return marked


class MaskTexts:
    """Makes masks of their run lengths, as a `Stack` asks for them.

    Args:
        texts: of each tile, for each class, its run-length texts, one a row of the table.
        size: height and width.
        by_rows, first: as for `decode_rles`.
        ids: of the tiles, for messages.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[Sequence[str]]],
        size: tuple[int, int],
        by_rows: bool,
        first: int,
        ids: Sequence[str],
    ):
        self.texts, self.size, self.by_rows, self.first, self.ids = texts, size, by_rows, first, ids

    def __call__(self, index: int) -> np.ndarray:
        """The mask of a tile, uint8 {0, 1} `[H, W]`, or `[H, W, C]` of several classes.

        Raises:
            RLEError: a text is no run-length encoding.
        """
        masks = []
        for texts in self.texts[index]:
            names = [self.ids[index]] * len(texts)
            parts = decode_rles(texts, self.size, names, self.by_rows, self.first)
            masks.append(parts.max(axis=0, initial=0) if len(texts) != 1 else parts[0])
        return masks[0] if len(masks) == 1 else np.stack(masks, axis=-1)

    def marked(self, rows: np.ndarray) -> np.ndarray:
        """How many pixels the masks of some tiles mark, see `marked_pixels`.

        Args:
            rows: int `[n]`, the tiles.
        """
        masks = [texts for index in rows for texts in self.texts[index]]
        names = [self.ids[index] for index in rows for texts in self.texts[index] for _ in texts]
        owners = np.repeat(np.arange(len(masks)), [len(texts) for texts in masks])
        counts, _ = count_marked(
            [text for texts in masks for text in texts], math.prod(self.size), names, owners, self.first
        )
        marked = np.append(counts, np.zeros(len(masks) - len(counts), np.int64)).reshape(len(rows), -1)
        return marked[:, 0] if marked.shape[1] == 1 else marked
