"""Pictures from the bytes of their files: PNG, JPEG and GIF, each checked for damage that decoders would pass over.

Decoders differ there, even versions of OpenCV: some fail on a truncated file, others return the pixels they have.
"""

import io
import struct
import zlib
from typing import BinaryIO

import cv2
import numpy as np

from salt.archives import DataError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
GIF_START, GIF_END = b"GIF8", b"\x3b"


def image_of(pixels: np.ndarray, channels: int) -> np.ndarray:
    """An image from the pixels of its file: uint8 `[H, W]` if grey, or `[H, W, 3]`, red, green and blue.

    Args:
        pixels: uint8 `[H, W]` or `[H, W, 3 or 4]`.
        channels: of the competition's images, 1 or 3.

    Raises:
        DataError: not 8 bits a channel, or other channels than the competition has.
    """
    if pixels.dtype != np.uint8:
        raise DataError(f"a {8 * pixels.dtype.itemsize}-bit image; images have 8 bits")
    if channels == 3:
        if pixels.ndim == 2:
            raise DataError("a grey image, where images are coloured; the description must say channels=1")
        return np.ascontiguousarray(pixels[..., :3])
    if pixels.ndim == 2:
        return pixels
    if (pixels[..., 0] != pixels[..., 1]).any() or (pixels[..., 0] != pixels[..., 2]).any():
        raise DataError(
            "its colour channels differ; images are grey, stored as one channel or as three equal ones; of coloured "
            "ones the description must say channels=3"
        )
    return pixels[..., 0]


def mask_of(pixels: np.ndarray) -> np.ndarray:
    """A mask, uint8 {0, 1} `[H, W]`, from the pixels of its file: any pixel above zero counts."""
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=2)  # a fourth channel would be opacity
    return (pixels != 0).view(np.uint8)


def decode_png(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a PNG file of that height and width, `[H, W]` or `[H, W, 3 or 4]`, uint8 or uint16.

    Raises:
        DataError: it is damaged, or of another size.
    """
    check_png(content, size)
    return decode_picture(content, cv2.IMREAD_UNCHANGED)


def decode_jpeg(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a JPEG file of that height and width, uint8 `[H, W, 3]`, or `[H, W]` if it is grey.

    Raises:
        DataError: it is damaged, or of another size.
    """
    if not content.startswith(JPEG_START):
        raise DataError(f"not a JPEG file (its {len(content)} bytes begin with {content[:8]!r})")
    if JPEG_END not in content[-64:]:  # some cameras pad the file behind its end
        raise DataError(f"truncated after {len(content)} bytes")
    pixels = decode_picture(content, cv2.IMREAD_UNCHANGED)
    check_size(pixels.shape, size)
    return pixels


def decode_gif(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """The pixels of the first picture of a GIF file of that height and width, uint8 `[H, W]`, brightness.

    Raises:
        DataError: it is damaged, or of another size.
    """
    from PIL import Image, UnidentifiedImageError  # not every OpenCV knows GIF

    if not content.startswith(GIF_START):
        raise DataError(f"not a GIF file (its {len(content)} bytes begin with {content[:8]!r})")
    if GIF_END not in content[-2:]:
        raise DataError(f"truncated after {len(content)} bytes")
    try:
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    except (OSError, ValueError, UnidentifiedImageError) as error:
        raise DataError(f"damaged: {error}") from error
    check_size(pixels.shape, size)
    return pixels


def decode_picture(content: bytes, flags: int) -> np.ndarray:
    """The pixels of a file that OpenCV knows, colours in the order red, green, blue."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise DataError("OpenCV cannot decode it")
    if pixels.ndim == 3 and pixels.shape[2] == 1:  # some versions keep the axis
        return pixels[..., 0]
    if pixels.ndim == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return pixels


def size_of_file(file: BinaryIO) -> tuple[int, int]:
    """Height and width that the head of a picture's file names; its pixels are not decoded.

    Raises:
        DataError: it is no picture.
    """
    from PIL import Image, UnidentifiedImageError  # OpenCV decodes all of a file

    try:
        with Image.open(file) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, UnidentifiedImageError) as error:
        raise DataError(f"not a picture, or damaged ({error})") from error


def check_size(found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raises a `DataError` unless the height and width that were found are these."""
    height, width = found[:2]
    if (height, width) != size:
        raise DataError(f"{width} x {height} pixels; a tile has {size[1]} x {size[0]}")


def check_png(content: bytes, size: tuple[int, int]) -> None:
    """Checks the structure of a PNG file: every chunk is there with its checksum, and the size is `size`.

    Raises:
        DataError: with what is wrong.
    """
    if not content.startswith(PNG_SIGNATURE):
        raise DataError(f"not a PNG file (its {len(content)} bytes begin with {content[:8]!r})")
    position, kind, view = len(PNG_SIGNATURE), b"", memoryview(content)
    while kind != b"IEND":
        end = position + 12
        if end <= len(content):
            (length,) = struct.unpack_from(">I", content, position)
            kind = content[position + 4 : position + 8]
            end += length
        if end > len(content):
            raise DataError(f"truncated after {len(content)} bytes")
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise DataError(f"damaged: wrong checksum in its {kind.decode('latin-1')} chunk")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", content, position + 8)
            if (height, width) != size:
                raise DataError(f"{width} x {height} pixels; a tile has {size[1]} x {size[0]}")
        position = end
