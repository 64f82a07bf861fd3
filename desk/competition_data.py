"""The competition's files come from Kaggle into a folder; a download that was interrupted is resumed.

Each file is checked by its size, zips by their contents, and takes its name when it is whole.
"""

import pathlib
import shutil
import zipfile

from desk.errors import ConfigurationError
from desk.kaggle.competitions import competition_files, open_competition_file
from desk.kaggle.errors import OutputError, UnreachableError
from desk.kaggle.files import check_names, download
from desk.kaggle.transport import KaggleLink
from desk.output import shown
from desk.records import read_object, write_object
from salt.archives import DAMAGED, refuse_bomb
from salt.files import whole_file

TRIES = 5  # of each file; what came stays


def download_competition(link: KaggleLink, competition: str, folder: pathlib.Path) -> None:
    """Downloads all files of a competition that are not in the folder yet, and tells about each."""
    files = competition_files(link, competition)
    if not files:
        raise ConfigurationError(f"competition {competition} has no files")
    print(f"{competition}: {len(files)} files, {sum(files.values()) / 1e6:,.0f} MB, into {shown(folder)}")
    check_names(files)
    for name, size in files.items():
        there = is_whole(folder / name, size)
        if not there:
            download_file(link, competition, name, size, folder)
        print(f"  {name:<28} {size:>13,} bytes   {'was there' if there else 'downloaded'}", flush=True)


def is_whole(path: pathlib.Path, size: int) -> bool:
    """Whether the file is there. A CSV that came packed may have another size than Kaggle lists, so its note counts."""
    return path.is_file() and path.stat().st_size in (
        size,
        read_object(path.with_name(note_name(path))).get("unpacked"),
    )


def note_name(path: pathlib.Path) -> str:
    """The file beside a download that says what of it has come."""
    return f".{path.name}.download.json"


def download_file(link: KaggleLink, competition: str, name: str, size: int, folder: pathlib.Path) -> None:
    """Downloads one file, resuming from what an earlier try left.

    Raises:
        OutputError, UnreachableError: it did not come whole; what came is kept for the next time.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    for attempt in range(1, TRIES + 1):
        try:
            packed = bring_part(link, competition, name, part, path)
            finish(part, path, size, packed)
            return
        except (UnreachableError, OutputError) as error:
            if attempt == TRIES:
                raise type(error)(f"{error}. What came is kept; run the same command again to resume") from None
            link.pause(error, attempt)


def bring_part(link: KaggleLink, competition: str, name: str, part: pathlib.Path, path: pathlib.Path) -> bool:
    """Makes `part` as long as Kaggle's file; returns whether it comes packed, as large CSV files do."""
    with open_competition_file(link, competition, name) as answer:
        headers = answer.headers
        tag = headers.get("ETag") or headers.get("Last-Modified")
        length = int(headers.get("Content-Length") or 0)
        url = answer.url
        packed = url.partition("?")[0].endswith(".zip") and not name.endswith(".zip")
        sent = {key: value for key, value in answer.request.headers.items() if key == "Authorization"}
    earlier, facts = read_object(path.with_name(note_name(path))), {"length": length, "tag": tag}
    offset = part.stat().st_size if part.is_file() else 0
    same = tag is not None and {key: earlier.get(key) for key in facts} == facts
    if not same or offset > length:
        part.unlink(missing_ok=True)
        offset = 0
    write_object(path.with_name(note_name(path)), facts)
    if length == 0 or offset < length:
        if offset and tag is not None:
            sent |= {"Range": f"bytes={offset}-", "If-Range": tag}
        download(link, url, part, sent, offset)
    if length and part.stat().st_size != length:
        raise UnreachableError(f"{name}: {part.stat().st_size:,} of {length:,} bytes have come")
    return packed


def finish(part: pathlib.Path, path: pathlib.Path, size: int, packed: bool) -> None:
    """Gives a whole file its name."""
    if packed:
        unpack(part, path)
    if part.stat().st_size != size and not packed:
        found = part.stat().st_size
        part.unlink()
        raise OutputError(f"{path.name} has {found:,} bytes, Kaggle lists {size:,}; it is thrown away")
    if path.suffix == ".zip" and (broken := broken_zip(part)):
        part.unlink()
        raise OutputError(f"{path.name}: {broken}; it is thrown away")
    unpacked = part.stat().st_size
    part.replace(path)
    note = path.with_name(note_name(path))
    if packed:
        write_object(note, {"unpacked": unpacked})
    else:
        note.unlink(missing_ok=True)


def unpack(part: pathlib.Path, path: pathlib.Path) -> None:
    """Replaces a zip of one file by this file."""
    try:
        with whole_file(part) as temporary, zipfile.ZipFile(part) as archive:
            (member,) = archive.infolist()
            refuse_bomb(archive, path.name, part.stat().st_size)
            with archive.open(member) as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    except DAMAGED as error:
        part.unlink()
        raise OutputError(f"{path.name} came packed and cannot be unpacked ({error}); it is thrown away") from None


def broken_zip(path: pathlib.Path) -> str | None:
    """What is wrong with a zip, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(archive, path.name, path.stat().st_size)
            bad = archive.testzip()
    except DAMAGED as error:
        return f"is no zip that can be read ({error})"
    return f"its member {bad} is damaged" if bad else None
