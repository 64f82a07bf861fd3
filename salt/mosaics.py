"""Rebuilds the slices that tiles were cut from: which tile lies where, from pixels alone.

Which tiles abut is found elsewhere. Here seams are put together: the surest first, each only if no two tiles would lie
at the same place and if the other seams that come with it, such as those which close a loop of 2 x 2 tiles, speak for
it, too.
"""

import csv
import pathlib
from typing import NamedTuple

import numpy as np

from salt.files import whole_file
from salt.seams import FLAT, Direction, false_shares
from salt.tiles import Tiles

FALSE_RATE = 0.01  # of the matches, which is estimated from the tiles themselves
FEWEST = 4  # tiles that are not constant
SMALLEST = 16  # pixels: a tile's least height and width
EVEN = 2.0  # grey levels of deviation along an edge; below it, there is no contrast to match
SWEEPS = 3  # through the doubtful matches, which more and more neighbours speak for or against
SIDES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # (rows, columns) to the left, the right, the upper and the lower neighbour
COLUMNS = ("id", "mosaic", "row", "column", "confidence")


class MosaicError(ValueError):
    """Tiles from which no slices can be rebuilt, or a file that is no table of mosaics."""


class Mosaics(NamedTuple):
    """Where each tile lies. A copy of a tile lies where the tile does.

    Attributes:
        mosaic: int `[N]`, numbered from 0, the largest first; -1 for a tile of which no neighbour was found.
        row, column: int `[N]`, in tiles, from 0 in each mosaic; -1 without one.
        confidence: float `[N]`, of the surest of the tile's matches: the estimated share of right ones among those that
            are at least as sure; 0 without one.
    """

    mosaic: np.ndarray
    row: np.ndarray
    column: np.ndarray
    confidence: np.ndarray


class Seam(NamedTuple):
    """A match: `after` lies `way` of `before` (0: right, 1: below), with a score above the threshold of its way."""

    excess: float
    before: int
    after: int
    way: int


def find_mosaics(images: np.ndarray, false_rate: float = FALSE_RATE) -> Mosaics:
    """Finds which tiles abut, and assembles them.

    Black, constant and nearly constant tiles are left alone.

    Args:
        images: uint8 `[N, H, W]`.
        false_rate: the share of false ones that is accepted among the matches; the threshold follows from it.

    Returns:
        `Mosaics` of N tiles.

    Raises:
        MosaicError: tiles of different sizes or too small ones, fewer than four that are not constant, or a rate that
            is no share.

    Example:
        >>> mosaics = find_mosaics(tiles.images)
        >>> np.bincount(mosaics.mosaic[mosaics.mosaic >= 0])  # tiles of each slice
    """
    images = require_tiles(images)
    if not 0 < false_rate < 1:
        raise MosaicError(f"false_rate={false_rate}: must lie between 0 and 1, such as {FALSE_RATE}")
    structured = np.flatnonzero([image.std() > FLAT for image in images])
    if len(structured) < FEWEST:
        raise MosaicError(
            f"{len(structured)} of {len(images)} tiles are neither black nor constant; at least {FEWEST} are needed"
        )
    original = first_copies(images)
    chosen = structured[original[structured] == structured]
    if len(chosen) < FEWEST:
        raise MosaicError(
            f"only {len(chosen)} of {len(images)} tiles differ from each other; at least {FEWEST} are needed"
        )
    placed = assemble(images[chosen], false_rate)
    found = no_mosaics(len(images))
    for whole, part in zip(found, placed, strict=True):
        whole[chosen] = part
    copies = np.setdiff1d(structured, chosen)
    lonely = np.unique(original[copies][found.mosaic[original[copies]] < 0])
    found.mosaic[lonely] = found.mosaic.max() + 1 + np.arange(len(lonely))  # a mosaic of one place
    found.row[lonely] = found.column[lonely] = 0
    found.confidence[lonely] = 1.0
    for whole in found:
        whole[copies] = whole[original[copies]]
    return found


def no_mosaics(count: int) -> Mosaics:
    """So many tiles, none of which lies in a mosaic."""
    mosaic, row, column = np.full((3, count), -1)
    return Mosaics(mosaic, row, column, np.zeros(count))


def require_tiles(images: np.ndarray) -> np.ndarray:
    """The tiles as one array, or a `MosaicError` that tells why they are none."""
    if not isinstance(images, np.ndarray):
        shapes = [np.shape(image) for image in images]
        for index, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise MosaicError(f"images[{index}] has shape {shape}, images[0] {shapes[0]}; tiles have one size")
        images = np.asarray(images)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise MosaicError(f"images: must be uint8 [N, H, W], not {images.dtype} {images.shape}")
    if len(images) < FEWEST:
        raise MosaicError(f"{len(images)} tiles: at least {FEWEST} are needed, to tell chance from neighbours")
    if min(images.shape[1:]) < SMALLEST:
        raise MosaicError(f"images: {images.shape[1]} x {images.shape[2]} pixels; must be at least {SMALLEST} each")
    return images


def first_copies(images: np.ndarray) -> np.ndarray:
    """For each tile the first one with the same pixels, int `[N]`."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(image.tobytes(), index) for index, image in enumerate(images)])


def assemble(images: np.ndarray, false_rate: float) -> Mosaics:
    """`find_mosaics` of tiles that differ and are not constant."""
    board = Board([Direction(images), Direction(images.swapaxes(1, 2))], false_rate)
    for seam in board.sure:
        board.join(seam)
    for _ in range(SWEEPS):
        before = board.joined
        for seam in board.doubtful:
            board.join(seam, alone=False)
        if board.joined == before:
            break
    return board.mosaics()


class Board:
    """Tiles on a plane, in groups that are joined by seams.

    Args:
        directions: the seams to the right and those downwards.
        false_rate: as for `find_mosaics`.

    Attributes:
        sure: the matches with at least the threshold, and those that close a loop, the best first.
        doubtful: all others with log odds above 0, the best first.
        joined: how many seams have joined two groups.
    """

    def __init__(self, directions: list[Direction], false_rate: float):
        self.directions = directions
        count = directions[0].count
        self.group = np.arange(count)
        self.place = np.zeros((count, 2), np.int64)  # in its group
        self.cells: list[dict[tuple[int, int], int]] = [{(0, 0): tile} for tile in range(count)]
        self.confidence = np.zeros(count)
        self.joined = 0
        self.known: dict[tuple[int, int, int], float] = {}  # (before, after, way): score
        self.shares = []  # of each way: scores of the matches, and the share of false ones from there on
        self.thresholds = []
        partners: list[dict[int, int]] = []  # of each way: the mutual matches
        sure: list[Seam] = []
        doubtful: list[Seam] = []
        for way, direction in enumerate(directions):
            mutual, matches = direction.candidates.mutual(), direction.matches
            shares = false_shares(matches.score, direction.decoys)
            accepted = int(((shares <= false_rate) & (matches.score > 0)).sum())
            # Where none is sure by itself, beyond the best decoy; loops may make some of them sure.
            threshold = float(matches.score[accepted - 1]) if accepted else float(direction.decoys.max(initial=0)) + 2
            self.shares.append((matches.score, shares))
            self.thresholds.append(threshold)
            pairs = zip(matches.before[:accepted].tolist(), matches.after[:accepted].tolist(), strict=True)
            best = set(pairs)
            partners.append(dict(zip(mutual.before.tolist(), mutual.after.tolist(), strict=True)))
            columns = (values.tolist() for values in direction.candidates)
            for before, after, score in zip(*columns, strict=True):
                self.known[before, after, way] = score
                if (before, after) in best:
                    sure.append(Seam(score - threshold, before, after, way))
                elif score > 0:
                    doubtful.append(Seam(min(score - threshold, 0.0), before, after, way))
        closed = self.closed_loops(*partners)
        sure += [Seam(0.0, *seam) for seam in closed - {seam[1:] for seam in sure}]
        doubtful = [seam for seam in doubtful if seam[1:] not in closed]
        self.sure = sorted(sure, key=lambda seam: (-seam.excess, seam))
        self.doubtful = sorted(doubtful, key=lambda seam: (-seam.excess, seam))

    def closed_loops(self, right: dict[int, int], below: dict[int, int]) -> set[tuple[int, int, int]]:
        """The seams of all loops of 2 x 2 mutual matches whose scores are half of the thresholds on average.

        Four matches close a loop by chance once in as many times as there are tiles.
        """
        closed: set[tuple[int, int, int]] = set()
        for corner, beside in right.items():
            under = below.get(corner, -1)
            last = below.get(beside, -1)
            if last >= 0 and right.get(under, -1) == last:
                loop = [(corner, beside, 0), (under, last, 0), (corner, under, 1), (beside, last, 1)]
                scores = [self.known[seam] for seam in loop]
                if min(scores) > 0 and sum(scores) >= sum(self.thresholds):
                    closed.update(loop)
        return closed

    def join(self, seam: Seam, alone: bool = True) -> None:
        """Joins the groups of two tiles, if nothing speaks against it.

        What speaks for it is the excess of the seam itself, and the log odds of each further seam that comes with it,
        of which there must be one unless the seam may stand `alone`.
        """
        fixed, moved = int(self.group[seam.before]), int(self.group[seam.after])
        if fixed == moved:
            return
        step = np.array([0, 1] if seam.way == 0 else [1, 0])
        shift = self.place[seam.before] + step - self.place[seam.after]
        if len(self.cells[fixed]) < len(self.cells[moved]):
            fixed, moved, shift = moved, fixed, -shift
        cells = {
            (row + int(shift[0]), column + int(shift[1])): tile for (row, column), tile in self.cells[moved].items()
        }
        if not self.cells[fixed].keys().isdisjoint(cells):
            return
        others = [pair for pair in self.new_seams(self.cells[fixed], cells) if pair != seam[1:]]
        evidence = seam.excess + sum(self.scores(others))
        if evidence < 0 or not (others or alone):
            return
        for place, tile in cells.items():
            self.group[tile], self.place[tile] = fixed, place
        self.cells[fixed].update(cells)
        self.cells[moved] = {}
        self.joined += 1
        scores, shares = self.shares[seam.way]
        position = np.searchsorted(-scores, -(self.thresholds[seam.way] + evidence), side="right")
        confidence = 1 - shares[max(int(position) - 1, 0)]
        for tile in {tile for pair in [*others, seam[1:]] for tile in pair[:2]}:
            self.confidence[tile] = max(self.confidence[tile], confidence)

    def new_seams(
        self, fixed: dict[tuple[int, int], int], moved: dict[tuple[int, int], int]
    ) -> list[tuple[int, int, int]]:
        """The seams between two groups of tiles on one plane: (before, after, way)."""
        found = []
        for (row, column), tile in moved.items():
            for rows, columns in SIDES:
                other = fixed.get((row + rows, column + columns))
                if other is not None:
                    pair = (other, tile) if rows + columns < 0 else (tile, other)
                    found.append((*pair, 0 if columns else 1))
        return found

    def scores(self, seams: list[tuple[int, int, int]]) -> list[float]:
        """The log odds of seams."""
        for way, direction in enumerate(self.directions):
            unknown = [seam for seam in seams if seam[2] == way and seam not in self.known]
            if unknown:
                before, after, _ = np.array(unknown).T
                self.known.update(zip(unknown, direction.scores(before, after).tolist(), strict=True))
        return [self.known[seam] for seam in seams]

    def mosaics(self) -> Mosaics:
        """The groups of two and more tiles, the largest first."""
        found = no_mosaics(len(self.group))._replace(confidence=self.confidence)
        groups = [cells for cells in self.cells if len(cells) > 1]
        groups.sort(key=lambda cells: (-len(cells), min(cells.values())))
        for number, cells in enumerate(groups):
            corner = np.min(list(cells), axis=0)
            for place, tile in cells.items():
                found.mosaic[tile] = number
                found.row[tile], found.column[tile] = np.array(place) - corner
        return found


def neighbours_of(mosaics: Mosaics) -> np.ndarray:
    """The tile to the left, to the right, above and below each tile, int `[N, 4]`; -1 where there is none."""
    places: dict[tuple[int, int, int], int] = {}
    rows = [tuple(map(int, place)) for place in zip(*mosaics[:3], strict=True)]
    for tile, (mosaic, row, column) in enumerate(rows):
        if mosaic >= 0:
            places.setdefault((mosaic, row, column), tile)
    steps = [[places.get((mosaic, row + y, column + x), -1) for y, x in SIDES] for mosaic, row, column in rows]
    return np.array(steps, int).reshape(-1, len(SIDES))


def describe_mosaics(mosaics: Mosaics) -> dict[str, int]:
    """Counts: `tiles`, `placed` (in a mosaic), `mosaics`, and `seams` between two tiles."""
    return {
        "tiles": len(mosaics.mosaic),
        "placed": int(np.sum(mosaics.mosaic >= 0)),
        "mosaics": int(mosaics.mosaic.max(initial=-1)) + 1,
        "seams": int(np.sum(neighbours_of(mosaics) >= 0)) // 2,
    }


def kept_mosaics(path: pathlib.Path, train: Tiles, test: Tiles | None) -> np.ndarray:
    """The mosaic of each training tile, int `[N]`, -1 for none, rebuilt from all tiles; a table keeps them.

    On another processor a doubtful seam may be judged otherwise, so the table is read wherever it is there.
    """
    tiles = join_tiles(train, test)
    if not path.is_file():
        write_mosaics(path, tiles.ids, find_mosaics(tiles.images))
    mosaic = read_mosaics(path, tiles.ids).mosaic
    print(f"{np.sum(mosaic >= 0)} of {len(mosaic)} tiles lie in {mosaic.max() + 1} rebuilt slices")
    return mosaic[: len(train.ids)]


def join_tiles(train: Tiles, test: Tiles | None) -> Tiles:
    """Training and then test tiles, without masks."""
    if test is None:
        return Tiles(train.ids, train.images, None, train.depths, train.competition)
    pairs = zip((train.ids, train.images, train.depths), (test.ids, test.images, test.depths), strict=True)
    ids, images, depths = (np.concatenate(pair) for pair in pairs)
    return Tiles(ids, images, None, depths, train.competition)


def write_mosaics(path: str | pathlib.Path, ids: np.ndarray, mosaics: Mosaics) -> None:
    """Writes a table with the columns id, mosaic, row, column and confidence, a line a tile; tiles without a mosaic
    have an id alone."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for tile_id, mosaic, row, column, confidence in zip(ids.tolist(), *mosaics, strict=True):
            writer.writerow([tile_id, *((mosaic, row, column, f"{confidence:.4f}") if mosaic >= 0 else [""] * 4)])


def read_mosaics(path: str | pathlib.Path, ids: np.ndarray) -> Mosaics:
    """Reads what `write_mosaics` wrote, in the order of `ids`; tiles that the table does not have are without a mosaic.

    Raises:
        MosaicError: no such file, other columns, or a field that is no number.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise MosaicError(f"{path}: no such file; scripts/mosaics.py writes it")
    with open(path, encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if tuple(lines.fieldnames or ()) != COLUMNS:
            raise MosaicError(f"{path}: columns {lines.fieldnames}; must be {', '.join(COLUMNS)}")
        table = {line["id"]: line for line in lines if line["mosaic"]}
    found = no_mosaics(len(ids))
    for index, tile_id in enumerate(ids.tolist()):
        if tile_id in table:
            for name, values in found._asdict().items():
                try:
                    values[index] = (float if name == "confidence" else int)(table[tile_id][name])
                except (TypeError, ValueError):
                    message = f"{path}: {name}={table[tile_id][name]!r} of {tile_id} is no number; write the table anew"
                    raise MosaicError(message) from None
    return found


def draw_mosaic(images: np.ndarray, mosaics: Mosaics, number: int) -> np.ndarray:
    """A rebuilt slice as one picture, in which each tile has the contrast of its neighbours.

    Args:
        images: uint8 `[N, H, W]`.
        mosaics: of these tiles.
        number: of the mosaic.

    Returns:
        uint8 `[rows * H, columns * W]`; 0 where there is no tile.
    """
    tiles = np.flatnonzero(mosaics.mosaic == number)
    height, width = images.shape[1:]
    grey = level_contrasts(images, neighbours_of(mosaics), tiles)
    canvas = np.zeros(((mosaics.row[tiles].max() + 1) * height, (mosaics.column[tiles].max() + 1) * width))
    low, high = np.percentile(list(grey.values()), [0.5, 99.5])
    for tile, pixels in grey.items():
        top, left = mosaics.row[tile] * height, mosaics.column[tile] * width
        canvas[top : top + height, left : left + width] = 1 + (pixels - low) * (254 / max(high - low, 1e-6))
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def level_contrasts(images: np.ndarray, neighbours: np.ndarray, tiles: np.ndarray) -> dict[int, np.ndarray]:
    """Grey levels of a mosaic's tiles, float `[H, W]` each, on the scale of the first; without copies of others."""
    grey = {int(tiles[0]): images[tiles[0]].astype(np.float64)}
    queue = [int(tiles[0])]
    for tile in queue:  # it grows
        for side, other in enumerate(neighbours[tile].tolist()):
            if other >= 0 and other not in grey:
                factor, shift = match_contrast(grey[tile], images[other], side)
                grey[other] = factor * images[other] + shift
                queue.append(other)
    return grey


def match_contrast(image: np.ndarray, other: np.ndarray, side: int) -> tuple[float, float]:
    """Factor and shift that give a neighbour's grey levels the mean and the deviation of the image's at their seam.

    Args:
        image, other: `[H, W]`.
        side: of the image on which the other one lies, an index of `SIDES`.
    """
    turned = [np.rot90(each, (2, 0, 3, 1)[side]).astype(np.float64) for each in (image, other)]  # the seam: last column
    edges = turned[0][:, -1], turned[1][:, 0]
    deviations = [edge.std() for edge in edges]
    factor = np.clip(deviations[0] / deviations[1], 0.2, 5) if min(deviations) > EVEN else 1.0
    return float(factor), float(edges[0].mean() - factor * edges[1].mean())
