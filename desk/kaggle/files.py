"""The bytes of files, from Kaggle and to Kaggle; what is no whole file with a good status is none."""

import errno
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable

import requests
from tqdm.utils import CallbackIOWrapper

from desk.errors import DeskError
from desk.kaggle.errors import OutputError, UnreachableError
from desk.kaggle.transport import KaggleLink
from desk.output import printable
from desk.paths import AnyPath
from salt.limits import MOST_NAME

CHUNK = 1 << 16  # bytes; what a cut takes away of a download is less than one
UPLOAD_SECONDS = 12 * 3600.0  # of one attempt: 20 GB, the most of a dataset's file, at 0.5 MB/s


def check_names(names: Iterable[str], kind: type[OutputError] = OutputError) -> None:
    """Raises an error of this kind for names under which files cannot lie in a folder of ours."""
    known = set(names)
    for name in known:
        parts = name.replace("\\", "/").split("/")
        parents = {"/".join(parts[:count]) for count in range(1, len(parts))}
        longest = max(len(part.encode("utf-8", "surrogatepass")) for part in parts)
        if any(part in ("", ".", "..") for part in parts) or re.match(r"[A-Za-z]:", name):
            problem = "leads out of the run's folder"
        elif printable(name) != name or "\n" in name:
            problem = "has characters that are none of a name"
        elif longest > MOST_NAME:
            problem = f"has {longest} bytes in a part, and {MOST_NAME} are taken; give it a shorter one"
        elif inside := parents & known:
            problem = f"lies in {min(inside)!r}, which is a file"
        else:
            continue
        raise kind(f"output file {name[:80]!r}: its name {problem}; nothing was taken")


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
        OSError: there is no room for it; nothing was begun.
    """
    what = f"download {pathlib.Path(path).name.removesuffix('.part')}"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(link.seconds, link.seconds)) as answer:
            answer.raise_for_status()
            grows = answer.status_code == 206 and offset
            expected = answer.headers.get("Content-Length")
            length = 0
            need_room(path, int(expected) if expected is not None and expected.isascii() and expected.isdigit() else 0)
            with open(path, "ab" if grows else "wb") as file:
                for block in answer.iter_content(CHUNK):
                    length += len(block)
                    file.write(block)
            if expected is not None and not answer.headers.get("Content-Encoding") and length != int(expected):
                raise UnreachableError(f"cannot {what}: {length:,} of {int(expected):,} bytes came")
    except requests.exceptions.RequestException as error:
        raise UnreachableError(str(link.translate(error, what))) from None


def need_room(path: AnyPath, count: int) -> None:
    """Raises `OSError` (ENOSPC) unless the disk has room for so many bytes more at a path."""
    if count > shutil.disk_usage(pathlib.Path(path).parent).free:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        error.add_note(f"{count:,} bytes are needed")
        raise error


def upload(link: KaggleLink, path: AnyPath, create_url: str, progress: Callable[[int], object] | None = None) -> None:
    """Sends a file's bytes to the address that Kaggle gave for it.

    Raises:
        UnreachableError: it did not arrive. Nothing has come of it yet, so it can be sent again.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size

    def put(_: object) -> None:
        with open(path, "rb") as file:
            body = CallbackIOWrapper(progress or (lambda count: None), file, "read") if size else b""
            answer = requests.put(create_url, data=body, timeout=(link.seconds, max(link.seconds, 1)))
        answer.raise_for_status()

    try:
        link.ask(f"upload {path.name}", put, seconds=UPLOAD_SECONDS)
    except DeskError as error:
        raise UnreachableError(f"{error}; nothing was submitted or published") from None
