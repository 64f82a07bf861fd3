"""explore.html, about a competition's data, to look at before anything is trained."""

import collections
import hashlib
import math
import pathlib

import numpy as np

from desk.pages.html import LOSSLESS, pack_sheets, sheet_layout, write_page
from desk.pages.scaled import highest_values, one_or_all, picture_size, scaled_images, some_of
from salt.metrics import coverage_tenths, tile_parts
from salt.scoring import depth_groups
from salt.stacks import all_sides, differ_in_size, listed_stack
from salt.tgs import COMPETITION as TGS
from salt.tgs import TILE_SIZE, is_vertical
from salt.tiles import Tiles

CLASS_EXAMPLES = 14  # tiles shown of each coverage class: two rows on a wide screen
FLAW_EXAMPLES = 21  # of each kind that needs a decision
BLACK_EXAMPLES = 7  # one looks like the other
TINY_AREAS = (1, 10, 20, 50, 100)  # pixels of a seismic tile, and their share of other images: masks are counted
TINY = 50  # of these: masks up to this are shown
TITLE = "The competition's data"
IMAGE_QUALITY = 80  # of WebP


def write_exploration(path: pathlib.Path, train: Tiles, test: Tiles | None = None) -> None:
    """Writes the page about a competition's training tiles, and its test tiles, if they are there.

    It does not tell where they lay: the same tiles give the same page.
    """
    assert train.masks is not None
    facts = explore(train, test or Tiles(train.ids[:0], train.images[:0], None, train.depths[:0], train.competition))
    pictured = sorted({tile for group in facts["groups"] for tile in group["tiles"]})
    place = {tile: index for index, tile in enumerate(pictured)}
    for group in facts["groups"]:
        group["tiles"] = [place[tile] for tile in group["tiles"]]
    rows = np.array(pictured, int)
    images = np.empty((len(rows), *picture_size(train.images), *train.images.shape[3:]), np.uint8)
    masks = np.empty(images.shape[:3], np.uint8)
    for part in tile_parts(images, math.prod(train.images.shape[1:])):
        images[part] = scaled_images(some_of(train.images, rows[part]))
        masks[part] = highest_values(any_class(some_of(train.masks, rows[part])))
    marked = facts.pop("marked")
    data = {
        **facts,
        "target": train.competition.target,
        "channels": train.competition.channels,
        "pixels": one_or_all(all_sides(train.masks).prod(axis=1), rows),
        "tiles": {
            "id": train.ids[rows].tolist(),
            "salt": marked[rows].tolist(),
            "depth": [known_or_none(depth) for depth in train.depths[rows]],
        },
        "sheets": sheet_layout(*images.shape[1:3]),
    }
    texts = {"title": TITLE, "summary": f"{len(train.ids):,} training tiles", "target": train.competition.target}
    if test is not None:
        texts["summary"] += f", {len(test.ids):,} test tiles"
    pictures = pack_sheets("images", images, IMAGE_QUALITY) | pack_sheets("masks", masks, LOSSLESS)
    write_page(path, "explore", texts, data, pictures)


def any_class(masks: np.ndarray) -> np.ndarray:
    """What is marked as of some class, uint8 `[n, H, W]`, of masks `[n, H, W]` or `[n, H, W, C]`."""
    if differ_in_size(masks):
        return listed_stack([any_class(mask[None])[0] for mask in masks])
    return masks.astype(np.uint8) if masks.ndim == 3 else masks.max(axis=3).astype(np.uint8)


def explore(train: Tiles, test: Tiles) -> dict:
    """What the page tells; tiles of groups are rows of `train`.

    It is ready for JSON but for `marked`, int `[N]`, the marked pixels of each training tile.
    """
    assert train.masks is not None
    competition, pixels = train.competition, all_sides(train.masks).prod(axis=1)
    marked, of_class = np.empty(len(train.ids), int), np.zeros(len(competition.classes), int)
    for part in tile_parts(train.masks):
        masks = np.asarray(train.masks[part])
        marked[part] = any_class(masks).sum(axis=(1, 2), dtype=int)
        of_class += masks.any(axis=(1, 2)).reshape(len(masks), -1).sum(axis=0)
    salt, share, classes = marked, marked / pixels, coverage_tenths(marked, pixels)
    unit = max(1, int(np.median(pixels)) // TILE_SIZE**2)
    tiny = (salt > 0) & (salt <= TINY * unit)
    copies = duplicate_groups(train, test)
    copied = [row for group in copies for row in group["train"]]
    groups = [
        {
            "kind": f"class-{number}",
            "tiles": spread(np.flatnonzero(classes == number), salt, CLASS_EXAMPLES),
            "count": int(np.sum(classes == number)),
        }
        for number in range(11)
    ]
    counts = {
        "train": len(train.ids),
        "test": len(test.ids),
        "empty": int(np.sum(salt == 0)),
        "mean_coverage": float(share.mean()),
        "mean_coverage_salt": float(share[salt > 0].mean()) if salt.any() else None,
        "duplicates": len(copies),
        "duplicates_across": sum(bool(group["train"] and group["test"]) for group in copies),
        "duplicates_disagreeing": sum(masks_disagree(train, group["train"]) for group in copies),
    }
    flaws = {"duplicate": (copied[:FLAW_EXAMPLES], len(copied))}
    if competition.blank is not None:
        black = train.blank()
        flaws["black"] = (spread(np.flatnonzero(black), salt, BLACK_EXAMPLES), int(black.sum()))
        counts["black"], counts["black_with_salt"] = int(black.sum()), int(np.sum(black & (salt > 0)))
        counts["black_test"] = int(test.blank().sum())
    if competition.slug == TGS.slug:
        vertical = is_vertical(train.masks)
        flaws["vertical"] = (spread(np.flatnonzero(vertical), salt, FLAW_EXAMPLES), int(vertical.sum()))
        counts["vertical"] = int(vertical.sum())
    flaws["tiny"] = (spread(np.flatnonzero(tiny), salt, FLAW_EXAMPLES), int(tiny.sum()))
    groups += [{"kind": kind, "tiles": tiles, "count": count} for kind, (tiles, count) in flaws.items()]
    return {
        "marked": marked,
        "counts": counts,
        "labels": [
            {"label": label, "tiles": int(count)} for label, count in zip(competition.classes, of_class, strict=True)
        ],
        "tiny": [
            {"area": area * unit, "tiles": int(np.sum((salt > 0) & (salt <= area * unit)))} for area in TINY_AREAS
        ],
        "tinyLimit": TINY * unit,
        "depths": None if competition.depths_table is None else depth_rows(train.depths, share),
        "correlation": {
            "coverage": correlation(train.depths, share),
            "empty": correlation(train.depths, salt == 0),
        },
        "scatter": {
            "depth": [known_or_none(depth) for depth in train.depths],
            "coverage": [round(value, 4) for value in share.tolist()],
        },
        "groups": groups,
    }


def spread(rows: np.ndarray, salt: np.ndarray, count: int) -> list[int]:
    """At most `count` of the rows, evenly spread from the least to the most salt."""
    ordered = sorted(rows.tolist(), key=lambda row: salt[row])
    if len(ordered) <= count:
        return ordered
    return [ordered[round(step * (len(ordered) - 1) / (count - 1))] for step in range(count)]


def duplicate_groups(train: Tiles, test: Tiles) -> list[dict[str, list[int]]]:
    """Images that occur more than once, byte by byte, black ones aside: rows of `train` and of `test`."""
    found: dict[tuple, dict[str, list[int]]] = collections.defaultdict(lambda: {"train": [], "test": []})
    for part, tiles in (("train", train), ("test", test)):
        for some in tile_parts(tiles.images):
            for row, image in enumerate(np.asarray(tiles.images[some]), some.start):
                if image.any():
                    found[image.shape, hashlib.sha256(image.tobytes()).digest()][part].append(row)
    return [group for group in found.values() if len(group["train"]) + len(group["test"]) > 1]


def masks_disagree(train: Tiles, rows: list[int]) -> bool:
    """Whether the same image has different masks."""
    masks = train.masks
    return masks is not None and any((masks[row] != masks[rows[0]]).any() for row in rows[1:])


def depth_rows(depths: np.ndarray, share: np.ndarray) -> list[dict]:
    """For each of five groups by depth: `low`, `high`, `tiles`, share of `empty` ones, mean `coverage`."""
    return [
        {
            "low": float(depths[inside].min()),
            "high": float(depths[inside].max()),
            "tiles": int(inside.sum()),
            "empty": float((share[inside] == 0).mean()),
            "coverage": float(share[inside].mean()),
        }
        for inside in depth_groups(depths)
    ]


def correlation(depths: np.ndarray, values: np.ndarray) -> float | None:
    """Pearson's correlation over the tiles of known depth; None where it is not defined."""
    known = ~np.isnan(depths)
    if known.sum() < 2 or np.ptp(depths[known]) == 0 or np.ptp(np.asarray(values, float)[known]) == 0:
        return None
    return float(np.corrcoef(depths[known], np.asarray(values, float)[known])[0, 1])


def known_or_none(depth: float) -> float | None:
    """None for NaN, which JSON has not."""
    return None if math.isnan(depth) else float(depth)
