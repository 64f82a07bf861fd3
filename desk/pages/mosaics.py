"""mosaics.html: the rebuilt slices, to look at."""

import cv2
import numpy as np

from desk.pages.html import LOSSLESS, write_page
from desk.paths import AnyPath
from salt.mosaics import Mosaics, describe_mosaics, draw_mosaic, neighbours_of
from salt.tiles import Tiles

IMAGE_QUALITY = 85  # of WebP
TITLE = "The rebuilt slices"


def write_mosaic_page(path: AnyPath, tiles: Tiles, masks: np.ndarray, mosaics: Mosaics) -> None:
    """Writes the page.

    Args:
        path: of the HTML file.
        tiles: the training tiles first.
        masks: of the training tiles.
        mosaics: of all tiles.
    """
    height, width = tiles.images.shape[1:]
    train = len(masks)
    neighbours = neighbours_of(mosaics)
    rows, blobs = [], {}
    for number in range(mosaics.mosaic.max(initial=-1) + 1):
        inside = np.flatnonzero(mosaics.mosaic == number)
        picture = draw_mosaic(tiles.images, mosaics, number)
        salt = np.zeros_like(picture)
        for tile in inside[inside < train]:
            top, left = mosaics.row[tile] * height, mosaics.column[tile] * width
            salt[top : top + height, left : left + width] = 255 * masks[tile]
        blobs[f"slice-{number}"] = webp(picture, IMAGE_QUALITY)
        blobs[f"salt-{number}"] = webp(salt, LOSSLESS)
        columns = zip(*(values[inside].tolist() for values in (tiles.ids, *mosaics[1:])), inside.tolist(), strict=True)
        rows.append(
            {
                "size": picture.shape[::-1],
                "tiles": [
                    {
                        "id": tile_id,
                        "row": row,
                        "column": column,
                        "confidence": round(confidence, 4),
                        "test": tile >= train,
                        "right": bool(neighbours[tile, 1] >= 0),
                        "below": bool(neighbours[tile, 3] >= 0),
                    }
                    for tile_id, row, column, confidence, tile in columns
                ],
            }
        )
    facts = describe_mosaics(mosaics)
    summary = f"{facts['placed']:,} of {facts['tiles']:,} tiles lie in {facts['mosaics']:,} mosaics"
    data = {"height": height, "width": width, "mosaics": rows}
    write_page(path, "mosaics", {"title": TITLE, "summary": summary}, data, blobs)


def webp(picture: np.ndarray, quality: int) -> bytes:
    """A picture as WebP."""
    return cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
