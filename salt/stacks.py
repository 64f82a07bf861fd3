"""Images and masks that are made when they are asked for, so that a competition of large ones needs little memory.

A `Stack` is indexed like an array `[N, ...]`; what is taken from it is an array, and nothing makes all of it at once.
Its arrays may differ in height and width, as the images of some competitions do. numpy only.
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
    """Arrays, uint8, each of which is made when it is asked for.

    Args:
        make: function of a number from 0 to count - 1 that gives the array; it must be possible to pickle it (by
            cloudpickle), and to call it from several threads.
        shape: `(count, *shape of one array)`.
        rows: None, or which of the arrays are in this stack, int `[n]`.
        sides: None: all arrays have this shape; else height and width of each one in the stack, int `[n, 2]`. The
            stack's own shape then names the largest of them.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        make: Callable[[int], np.ndarray],
        shape: tuple[int, ...],
        rows: np.ndarray | None = None,
        sides: np.ndarray | None = None,
    ):
        self.make, self.sides = make, sides
        self.rows = np.arange(shape[0]) if rows is None else rows
        each = shape[1:] if sides is None else (*sides.max(axis=0, initial=0).tolist(), *shape[3:])
        self.shape = (len(self.rows), *each)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __array__(self, *arguments: object, **named: object) -> np.ndarray:
        raise TypeError(f"a stack of {len(self)} arrays is no array: all of them may not fit into memory; take a part")

    def __getitem__(self, rows: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """One array, or several as one array; where these differ in size, a stack of them, as `subset` gives it."""
        if isinstance(rows, int | np.integer):
            return self.make(int(self.rows[rows]))
        chosen = self.rows[rows]
        if len(chosen) == 1:  # threads would cost more than they save
            return self.make(int(chosen[0]))[None]
        sides = [self.shape[1:3]] if self.sides is None else np.unique(self.sides[rows], axis=0).tolist()
        if len(sides) > 1:
            return cast(np.ndarray, self.subset(rows))
        arrays = np.empty((len(chosen), *(sides or [self.shape[1:3]])[0], *self.shape[3:]), self.dtype)

        def fill(place: int) -> None:
            arrays[place] = self.make(int(chosen[place]))

        with ThreadPoolExecutor(STACK_THREADS) as pool:
            list(pool.map(fill, range(len(chosen))))
        return arrays

    def subset(self, rows: slice | np.ndarray | Sequence[int]) -> "Stack":
        """A stack of some of its arrays."""
        sides = None if self.sides is None else self.sides[rows]
        return Stack(self.make, (0, *self.shape[1:]), self.rows[rows], sides)

    def of_same_sides(self, make: Callable[[int], np.ndarray]) -> np.ndarray:
        """A stack of as many other arrays of the same shapes; `make` is a function of their place in this one."""
        return cast(np.ndarray, Stack(make, self.shape, None, self.sides))


def subset(arrays: np.ndarray, rows: slice | np.ndarray | Sequence[int]) -> np.ndarray:
    """Some of the arrays: of an array an array, of a stack a stack, which reads nothing yet."""
    return arrays.subset(rows) if isinstance(arrays, Stack) else arrays[rows]


def listed_stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of several sizes that are in memory, at least one, as a stack."""
    sides = np.array([array.shape[:2] for array in arrays])
    return cast(np.ndarray, Stack(list(arrays).__getitem__, (len(arrays), *arrays[0].shape), None, sides))


def all_sides(arrays: np.ndarray) -> np.ndarray:
    """Height and width of each of the arrays `[N, H, W, ...]`, or of a stack's, int `[N, 2]`."""
    if isinstance(arrays, Stack) and arrays.sides is not None:
        return arrays.sides
    return np.tile(np.array(arrays.shape[1:3]), (len(arrays), 1))


def differ_in_size(arrays: np.ndarray) -> bool:
    """Whether arrays are a stack of several sizes, which are worked on one by one."""
    return isinstance(arrays, Stack) and arrays.sides is not None


def join_stacks(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The arrays of both, one after the other: as an array, or as a stack if one of them is one."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.concatenate([first, second])
    count, sides = len(first), None
    if differ_in_size(first) or differ_in_size(second):
        sides = np.concatenate([all_sides(first), all_sides(second)])
    shape = (count + len(second), *first.shape[1:])
    joined = Stack(lambda index: first[index] if index < count else second[index - count], shape, None, sides)
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
    step = 1 if differ_in_size(masks) else masks_at_a_time(math.prod(masks.shape[1:]))
    for first in range(0, len(masks), step):
        marked[first : first + step] = masks[first : first + step].sum(axis=(1, 2), dtype=np.int64)
    return marked


class MaskTexts:
    """Makes masks of their run lengths, as a `Stack` asks for them.

    Args:
        texts: of each tile, for each class, its run-length texts, one a row of the table.
        sides: height and width of each tile, int `[N, 2]`.
        by_rows, first: as for `decode_rles`.
        ids: of the tiles, for messages.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[Sequence[str]]],
        sides: np.ndarray,
        by_rows: bool,
        first: int,
        ids: Sequence[str],
    ):
        self.texts, self.sides, self.by_rows, self.first, self.ids = texts, sides, by_rows, first, ids

    def __call__(self, index: int) -> np.ndarray:
        """The mask of a tile, uint8 {0, 1} `[H, W]`, or `[H, W, C]` of several classes.

        Raises:
            RLEError: a text is no run-length encoding.
        """
        masks, (height, width) = [], self.sides[index].tolist()
        for texts in self.texts[index]:
            names = [self.ids[index]] * len(texts)
            parts = decode_rles(texts, (height, width), names, self.by_rows, self.first)
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
        pixels = np.repeat(self.sides[rows].prod(axis=1), [sum(map(len, self.texts[index])) for index in rows])
        counts, _ = count_marked([text for texts in masks for text in texts], pixels, names, owners, self.first)
        marked = np.append(counts, np.zeros(len(masks) - len(counts), np.int64)).reshape(len(rows), -1)
        return marked[:, 0] if marked.shape[1] == 1 else marked
