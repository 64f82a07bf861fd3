"""What a competition is: one frozen value. All sizes, names, columns, encodings and the metric are taken from it.

One module holds one such value. Where the files lie on a disk is the matter of
`salt/competition.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from salt.metrics import Metric


class DescriptionError(ValueError):
    """A description that cannot be right: two of its fields contradict each other."""


@dataclass(frozen=True)
class Table:
    """A CSV file, and what its columns hold.

    Attributes:
        name: of the file.
        columns: name of each column, in their order, and its text, in which `{tile}` is the name of an image's file
            without its suffix, `{class}` the name of a class, `{mask}` run lengths, and `{number}` a number.
        objects: whether a mask may have several rows, one for each object in it.
        empty: the text of a mask without a pixel; None: such a mask has no row.
        others: further forms in which the file was published; the one whose columns a file has is taken.
    """

    name: str
    columns: Mapping[str, str] = field(default_factory=lambda: {"id": "{tile}", "mask": "{mask}"})
    objects: bool = False
    empty: str | None = ""
    others: tuple["Table", ...] = ()

    def in_order(self, names: Sequence[str]) -> "Table":
        """The same table with its columns in another order."""
        return dataclasses.replace(self, columns={name: self.columns[name] for name in names}, others=())

    def column(self, what: str) -> str:
        """The column that holds the tile, the class, the mask or the number.

        Raises:
            DescriptionError: none does.
        """
        for name, text in self.columns.items():
            if f"{{{what}}}" in text:
                return name
        raise DescriptionError(f"{self.name}: no column holds {{{what}}}; the columns are {dict(self.columns)}")


@dataclass(frozen=True)
class Files:
    """The pictures of a competition's images or masks.

    Attributes:
        folder: where they lie below the competition's folder, such as "train/images"; its first part may be a zip.
        suffix: what follows a tile's name in the name of its file, such as ".png" or "_mask.png".
        decode: function of a file's bytes and of the height and width of a tile that gives pixels, see `pictures.py`.
    """

    folder: str
    suffix: str
    decode: Callable[[bytes, tuple[int, int]], np.ndarray]

    @property
    def outer(self) -> str:
        """The first part of the folder, which may be a zip."""
        return self.folder.partition("/")[0]

    @property
    def inner(self) -> str:
        """What follows it; "" for nothing."""
        return self.folder.partition("/")[2]


@dataclass(frozen=True)
class Competition:
    """A competition in which masks of images are to be found.

    Attributes:
        slug: its name in Kaggle's addresses.
        label: its name in a word, with which the titles of its kernels begin, such as "Clouds train".
        title: its name for people.
        target: what a mask marks, in a word, such as "clouds".
        size: height and width of every image in pixels; None: they vary, and each image's are read from its file.
        channels: of an image: 1 (grey) or 3 (red, green, blue).
        metric: the score of a tile, whose mean over tiles (and classes) is the competition's.
        train_table: the masks of the training tiles.
        sample_submission: the rows that a submission must have.
        train_images, test_images: their files.
        train_masks: files of masks; None: masks are known from the table alone.
        rle_by_rows: whether run lengths number the pixels along the rows, not down the columns.
        rle_first: the number of the first pixel, 0 or 1.
        classes: names of the masks of one image, in the order of the last axis of `masks`; with one class there is no
            such axis.
        depths_table: a table of one number a tile, such as its depth; None: there is none.
        group: None, or a function of a tile's name that gives what it shows, such as a patient: all tiles of one are
            held out together.
        find_mosaics: None, or a function of a table's path, the training tiles and the test tiles, or None, that gives
            the larger picture out of which each training tile was cut, int `[N]`, -1 for none; the table keeps it.
        find_neighbours: None, or a function of the settings, the training tiles, the test tiles, or None, the fold of
            each training tile and that table's path that gives the `Surroundings` of all tiles.
        blank: None, or a function of images `[N, H, W]` that tells which of them never hold anything, bool `[N]`: they
            are not trained on, and predicted empty.
        remarks: None, or a function of images and masks that gives a line about them for the log.

    Raises:
        DescriptionError: fields that contradict each other.
    """

    slug: str
    label: str
    title: str
    target: str
    size: tuple[int, int] | None
    channels: int
    metric: Metric
    train_table: Table
    sample_submission: Table
    train_images: Files
    test_images: Files
    train_masks: Files | None = None
    rle_by_rows: bool = False
    rle_first: int = 1
    classes: tuple[str, ...] = ("mask",)
    depths_table: Table | None = None
    group: Callable[[str], str] | None = None
    find_mosaics: Callable[..., np.ndarray] | None = None
    find_neighbours: Callable[..., Any] | None = None
    blank: Callable[[np.ndarray], np.ndarray] | None = None
    remarks: Callable[[np.ndarray, np.ndarray], str] | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise DescriptionError(f"channels={self.channels}: must be 1, grey, or 3, red, green and blue")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise DescriptionError(f"classes={self.classes}: name at least one class, and each of them once")
        for table in (self.train_table, self.sample_submission):
            for form in (table, *table.others):
                form.column("tile"), form.column("mask")
                if len(self.classes) > 1:
                    form.column("class")

    def one_size(self) -> tuple[int, int]:
        """Height and width of every image, for what cannot do without.

        Raises:
            DescriptionError: they vary.
        """
        if self.size is None:
            raise DescriptionError(
                f"{self.slug}: size=None, images of several sizes; this takes one size alone, size=(height, width)"
            )
        return self.size

    def check_mosaics(self, split: str, padding: str) -> None:
        """Raises a `DescriptionError` if settings ask for larger pictures, and the tiles are cut from none."""
        missing = self.find_mosaics is None
        if split == "mosaic" and missing:
            raise DescriptionError(f"split='mosaic': {self.title} has no larger pictures; set it to 'random'")
        if padding == "neighbours" and (missing or self.find_neighbours is None):
            raise DescriptionError(f"padding='neighbours': {self.title} has no larger pictures; set it to 'reflect'")

    def blank_images(self, images: np.ndarray) -> np.ndarray:
        """Which images never hold anything, bool `[N]`; see `blank`."""
        return np.zeros(len(images), bool) if self.blank is None else self.blank(images)
