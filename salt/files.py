"""Writes files whole or not at all: under a temporary name, then renamed."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def whole_file(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; the file written there is renamed to `path` at the end of the block.

    After an error, a full disk or a kill, `path` is what it was before: absent, or the earlier file.

    Args:
        path: of the file. Missing folders are made.

    Yields:
        A `pathlib.Path` to write to. It has the suffixes of `path`, since some writers choose their format by them.

    Example:
        >>> with whole_file("runs/a/submission.csv") as temporary:
        ...     temporary.write_text("a,b")
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".half-written-", suffix="".join(path.suffixes), dir=path.parent)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else the new name may be on disk before the content when the power fails
        os.chmod(temporary, 0o666 & ~current_umask())  # mkstemp gives 0600
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or pathlib.Path(os.fsdecode(error.filename)) == temporary:
            error.filename = str(path)  # what is written does not know its name, and nobody knows the temporary one
            with contextlib.suppress(OSError):
                error.add_note(f"more than {temporary.stat().st_size:,} bytes are needed")
        raise
    finally:
        temporary.unlink(missing_ok=True)


def current_umask() -> int:
    """The process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256_file(path: str | pathlib.Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
