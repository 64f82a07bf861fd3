"""Files and folders where they lie: on disk, in a zip, or in a zip inside of one. Nothing is unpacked onto the disk.

Names are compared as people's systems leave them: without regard to case, to composed or decomposed umlauts, to blanks
at the ends and to the marks of a second download. What Finder and Explorer add is passed over.
"""

import dataclasses
import functools
import io
import itertools
import lzma
import os
import pathlib
import re
import struct
import threading
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass

from salt.limits import FREELY_PACKED, MOST_AT_ONCE, MOST_INNER_ZIP, MOST_PACKING, MOST_UNPACKED

LISTED_ENTRIES = 1000  # of one folder on disk that are looked at: a folder of 18,000 images holds no competition
AT_ONCE = 1 << 20  # bytes of a file that are read by one call
LOCAL_HEADER = 30  # bytes in front of a file in a zip, which its name follows, and what else is told of it
USUAL_EXTRA = 64  # bytes of that, which are read together with the file
ENCRYPTED = 1  # a flag
# What reading a zip raises that is cut, damaged, encrypted or packed in a way that Python does not know.
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, struct.error, ValueError)
UNREADABLE = (OSError, *DAMAGED)
COPY_MARK = re.compile(
    r"(\s*\(\d+\)|\s+\d+|[\s-]+(copy|kopie)(\s*\(?\d+\)?)?)$"
)  # "train (1)", "train 2", "train copy"


class DataError(ValueError):
    """A competition that is missing, incomplete or inconsistent, or arrays that do not make one."""


class ArchiveError(DataError):
    """A zip that is truncated, damaged or none at all."""


@dataclass(frozen=True)
class Place:
    """Where a file or a folder is: on disk, in a zip, or in a zip inside of one."""

    path: pathlib.Path  # on disk: the file or folder itself, or the zip
    zips: tuple[str, ...] = ()  # the names of the zips further in, each within the one before
    inside: str = ""  # the name in the innermost zip, that of a folder with "/" at its end; "": all of it

    @property
    def name(self) -> str:
        """The last part of the name."""
        return pathlib.PurePosixPath(self.inside or (self.zips[-1] if self.zips else self.path.name)).name

    def __str__(self) -> str:
        return "/".join([str(self.path), *self.zips, *filter(None, [self.inside])])

    def read_bytes(self) -> bytes:
        """The content of a file.

        Raises:
            DataError: it cannot be read, or its checksum in the zip is wrong.
        """
        try:
            if not self.inside and not self.zips:
                return self.path.read_bytes()
            with open_archive(self.path, self.zips) as archive:
                return read_inside(archive, self.inside)
        except ArchiveError:
            raise
        except UNREADABLE as error:
            raise DataError(f"{self}: cannot be read ({error})") from error


class Folder:
    """A folder that can be listed.

    Args:
        place: where it is.
        names: of all files in the innermost zip; None: the folder is on disk.
    """

    def __init__(self, place: Place, names: list[str] | None = None):
        self.place, self.names = place, names

    @functools.cached_property
    def entries(self) -> list[tuple[str, "Folder | Place"]]:
        """(name, folder or file) of what is in it, by name; what Finder and Explorer add is left out."""
        if self.names is None:
            found = first_entries(self.place.path)
            return [(name, self.entry(Place(self.place.path / name), is_folder)) for name, is_folder in found]
        prefix = self.place.inside
        heads = {name[len(prefix) :].partition("/")[:2] for name in self.names if name.startswith(prefix)}
        return [
            (head, self.entry(dataclasses.replace(self.place, inside=prefix + head + slash), bool(slash)))
            for head, slash in sorted(heads)
        ]

    def entry(self, place: Place, is_folder: bool) -> "Folder | Place":
        """A folder or a file in this folder."""
        return Folder(place, self.names) if is_folder else place

    def files(self, *names: str) -> list[Place]:
        """The files in it that have one of these names, see `plain_name`; without names: all."""
        found = [(name, each) for name, each in self.entries if isinstance(each, Place)]
        return [each for name, each in found if not names or plain_name(name) in names]

    def folders(self, *names: str) -> list["Folder"]:
        """The folders in it that have one of these names, see `plain_name`; without names: all."""
        found = [(name, each) for name, each in self.entries if isinstance(each, Folder)]
        return [each for name, each in found if not names or plain_name(name) in names]

    def pictures(self, suffix: str) -> dict[str, str]:
        """The files in it whose names end so, all of them: the name without it, and the name on disk or in the zip."""
        if self.names is None:
            try:
                names = os.listdir(self.place.path)
            except OSError:
                names = []
        else:
            names = [name for name in self.names if name.startswith(self.place.inside)]
        stems = ((name[len(self.place.inside) :], name) for name in names)
        found: dict[str, str] = {}
        for stem, name in stems:
            is_one = stem.lower().endswith(suffix.lower()) and "/" not in stem and not is_added(stem)
            tile = stem[: -len(suffix)]
            if is_one and found.setdefault(tile, name) != name:
                raise DataError(f"{self.place}: {found[tile]} and {name} may both be meant; keep one of them")
        return found


def first_entries(folder: pathlib.Path) -> list[tuple[str, bool]]:
    """(name, is a folder) of the first `LISTED_ENTRIES` entries of a folder, sorted; empty if it cannot be listed.

    What Finder and Explorer add is left out.
    """
    try:
        with os.scandir(folder) as entries:
            own = ((entry.name, entry.is_dir()) for entry in entries if not is_added(entry.name))
            return sorted(itertools.islice(own, LISTED_ENTRIES))
    except OSError:
        return []


def is_added(name: str) -> bool:
    """Whether a file or folder of this name is not a person's own: `__MACOSX`, `._x.png`, `.DS_Store`, `Thumbs.db`."""
    return name.startswith(".") or name.casefold() in ("__macosx", "thumbs.db", "desktop.ini")


def plain_name(name: str) -> str:
    """A name as it is compared: "Train (1).ZIP" and "train.zip" are the same."""
    stem, dot, suffix = unicodedata.normalize("NFC", name).casefold().strip().rpartition(".")
    if not dot:
        stem, suffix = suffix, ""
    return re.sub("[ _-]+", "_", COPY_MARK.sub("", stem.strip())) + dot + suffix


def plain_stem(stem: str) -> str:
    """The name of a tile as it is compared, where no file has it to the letter."""
    return unicodedata.normalize("NFC", stem).casefold().strip()


def unzipped(place: Place) -> Folder:
    """A zip as a folder.

    Raises:
        ArchiveError: it is truncated or no zip at all.
    """
    return folder_at(Place(place.path, (*place.zips, place.inside) if place.inside else place.zips))


def folder_at(place: Place) -> Folder:
    """A folder on disk or in a zip, to be listed.

    Raises:
        DataError: its zip is not whole.
    """
    if place.path.is_dir():
        return Folder(place)
    with open_archive(place.path, place.zips) as archive:
        return Folder(place, file_names(archive))


def file_names(archive: zipfile.ZipFile) -> list[str]:
    """The names of the files in a zip, without what Finder and Explorer add."""
    names = [name for name in archive.namelist() if not name.endswith("/")]
    return [name for name in names if not any(map(is_added, name.split("/")))]


def open_archive(path: pathlib.Path, zips: tuple[str, ...] = ()) -> zipfile.ZipFile:
    """Opens a zip for reading, or one inside of it, which is then held in memory.

    Raises:
        ArchiveError: it is truncated or no zip at all.
    """
    archive = open_zip(path, str(path), os.path.getsize(path))
    for depth, name in enumerate(zips, start=1):
        label = "/".join([str(path), *zips[:depth]])
        try:
            with archive:
                content = read_inside(archive, name, MOST_INNER_ZIP)
        except ArchiveError:
            raise
        except UNREADABLE as error:
            raise ArchiveError(f"{label}: cannot be read ({error}); download it again") from error
        archive = open_zip(io.BytesIO(content), label, len(content))
    return archive


def read_inside(archive: zipfile.ZipFile, name: str, most: int = MOST_AT_ONCE) -> bytes:
    """The content of a file in a zip.

    Raises:
        ArchiveError: it is larger than `most` bytes; no more is ever read of it than the zip says.
    """
    size = archive.getinfo(name).file_size
    if size > most:
        label = f"{archive.filename or 'the inner zip'}/{name}"
        raise ArchiveError(f"{label}: has {size:,} bytes, and {most:,} are read at once; unpack it, or leave it out")
    return archive.read(name)


def read_shared(archive: zipfile.ZipFile, name: str, lock: threading.Lock, most: int = MOST_AT_ONCE) -> bytes:
    """The content of a file in a zip that several threads read; they wait for each other only where they must.

    Args:
        archive: the zip.
        name: of the file.
        lock: of the zip, whose own reading is for one thread at a time.
        most: as for `read_inside`, whose errors are raised.
    """
    content = read_at_once(archive, name)
    if content is not None:
        return content
    with lock:
        return read_inside(archive, name, most)


def read_at_once(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """The content of a file in a zip on disk, from any thread; a fifth of the time of `ZipFile.read`.

    Returns:
        None wherever it is not plain that the content is right: `read_inside` then reads it, or says what is wrong.
    """
    if archive.filename is None or archive.fp is None or not hasattr(os, "pread"):
        return None
    member = archive.getinfo(name)
    known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not member.flag_bits & ENCRYPTED
    if not known or member.file_size > MOST_AT_ONCE or member.compress_size > MOST_AT_ONCE:
        return None
    file, room = archive.fp.fileno(), LOCAL_HEADER + len(name.encode()) + USUAL_EXTRA
    block = os.pread(file, room + member.compress_size, member.header_offset)
    if len(block) < LOCAL_HEADER or not block.startswith(b"PK\3\4"):
        return None
    begin = LOCAL_HEADER + sum(struct.unpack_from("<HH", block, LOCAL_HEADER - 4))  # behind the name and what follows
    packed = block[begin : begin + member.compress_size]
    if len(packed) < member.compress_size:
        packed = os.pread(file, member.compress_size, member.header_offset + begin)
    try:
        stored = member.compress_type == zipfile.ZIP_STORED
        content = packed if stored else zlib.decompressobj(-15).decompress(packed, member.file_size + 1)
    except zlib.error:
        return None
    whole = len(content) == member.file_size and zlib.crc32(content) == member.CRC
    return content if whole else None


def read_whole(path: str) -> bytes:
    """The content of a file on disk; a quarter of the time of `Path.read_bytes`, which counts for small pictures.

    Raises:
        OSError: it cannot be read.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        parts = []
        while part := os.read(file, AT_ONCE):
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(file)


def refuse_bomb(archive: zipfile.ZipFile, label: str, size: int) -> None:
    """Raises `ArchiveError` for a zip whose files take more room than any right one's; `size` are its bytes."""
    unpacked = sum(member.file_size for member in archive.infolist())
    limits = {"in all": MOST_UNPACKED, f"of a zip of {size:,}": max(FREELY_PACKED, MOST_PACKING * size)}
    for what, most in limits.items():
        if unpacked > most:
            raise ArchiveError(f"{label}: unpacks to {unpacked:,} bytes, and {most:,} {what} are taken; look at it")


def open_zip(file: pathlib.Path | io.BytesIO, label: str, size: int) -> zipfile.ZipFile:
    """Opens a zip for reading; `label` and `size`, bytes, are for the message of the `ArchiveError`."""
    try:
        archive = zipfile.ZipFile(file)
    except DAMAGED as error:
        raise ArchiveError(f"{label} ({size:,} bytes) is not a whole zip ({error}); download it again") from error
    for member in archive.infolist():  # some programs write "images\a.png", others "./images/a.png"
        plain = re.sub(r"^(\./|/)+", "", member.filename.replace("\\", "/"))
        if plain != member.filename:
            del archive.NameToInfo[member.filename]
            member.filename = plain
            archive.NameToInfo[plain] = member
    return archive
