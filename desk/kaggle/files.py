"""The bytes of files, from Kaggle and to Kaggle; what is no whole file with a good status is none."""

import os
import pathlib
from collections.abc import Callable
from typing import BinaryIO

import requests

from desk.kaggle.errors import UnreachableError
from desk.kaggle.transport import KaggleLink
from desk.paths import AnyPath

CHUNK = 1 << 16  # bytes; what a cut takes away of a download is less than one


def download(link: KaggleLink, url: str, path: AnyPath, headers: dict | None = None, offset: int = 0) -> None:
    """Writes what is at an address into a file; nothing but a whole body with a good status is taken.

    Args:
        link: for its time limit.
        url: signed by Kaggle; no credentials are sent.
        path: where to; written in place, so give a temporary name.
        headers: more of the request.
        offset: bytes that are there already; the download resumes behind them.

    Raises:
        UnreachableError: an error page, a cut, or no byte for the link's `seconds`.
    """
    what = f"download {pathlib.Path(path).name.removesuffix('.part')}"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(link.seconds, link.seconds)) as answer:
            answer.raise_for_status()
            grows = answer.status_code == 206 and offset
            expected = answer.headers.get("Content-Length")
            length = 0
            with open(path, "ab" if grows else "wb") as file:
                for block in answer.iter_content(CHUNK):
                    length += len(block)
                    file.write(block)
            if expected is not None and not answer.headers.get("Content-Encoding") and length != int(expected):
                raise UnreachableError(f"cannot {what}: {length:,} of {int(expected):,} bytes came")
    except requests.exceptions.RequestException as error:
        raise UnreachableError(str(link.translate(error, what))) from None


def upload(link: KaggleLink, path: AnyPath, create_url: str, progress: Callable[[int], object] | None = None) -> None:
    """Sends a file's bytes to the address that Kaggle gave for it.

    Raises:
        UnreachableError: it did not arrive. Nothing has come of it yet, so it can be sent again.
    """
    path = pathlib.Path(path)
    for attempt in range(1, link.attempts + 1):
        try:
            with open(path, "rb") as file:
                body = CountedFile(file, progress) if path.stat().st_size else b""
                answer = requests.put(create_url, data=body, timeout=(link.seconds, max(link.seconds, 1)))
            answer.raise_for_status()
            return
        except requests.exceptions.RequestException as error:
            failure = link.translate(error, f"upload {path.name}")
            if attempt == link.attempts or not isinstance(failure, UnreachableError):
                raise UnreachableError(f"{failure}; nothing was submitted or published") from None
            link.pause(failure, attempt)


class CountedFile:
    """A file that tells how many bytes were read of it; a request takes its length from `__len__`."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], object] | None = None):
        self.file, self.progress = file, progress
        self.size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self.size

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        if self.progress:
            self.progress(len(block))
        return block
