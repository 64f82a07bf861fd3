"""Downloads the competition's files from Kaggle into the layout that everything here reads.

    python scripts/download_data.py                into data/tgs-salt-identification-challenge/
    python scripts/download_data.py --out DIR

A download that was interrupted goes on where it was; each file is checked by its size, zips by their contents, and
takes its name when it is whole. The competition's rules have to be accepted once, on its page.
"""

import argparse
import pathlib
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.kaggle_link import (
    ConfigurationError,
    KaggleLink,
    OutputError,
    UnreachableError,
    read_record,
    run_command,
    write_record,
)

COMPETITION = "tgs-salt-identification-challenge"
TRIES = 5  # of each file; what came stays


def main(arguments=None, link=None) -> int:
    return run_command(download, arguments, link)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Download the competition's files from Kaggle; an interrupted download goes on where it was.",
        epilog="example: python scripts/download_data.py --out ~/tgs",
    )
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, default=ROOT / "data" / COMPETITION)
    parser.add_argument("--competition", metavar="C", default=COMPETITION, help="name in Kaggle's addresses")
    return parser.parse_args(arguments)


def download(arguments=None, link=None) -> int:
    options = parse_arguments(arguments)
    from salt.competition import find_competition
    from scripts.run_local import shown

    link = link or KaggleLink()
    files = link.competition_files(options.competition)
    if not files:
        raise ConfigurationError(f"competition {options.competition} has no files")
    print(f"{options.competition}: {len(files)} files, {sum(files.values()) / 1e6:,.0f} MB, into {shown(options.out)}")
    for name, size in files.items():
        check_name(name)
        there = is_whole(options.out / name, size)
        if not there:
            download_file(link, options.competition, name, size, options.out)
        print(f"  {name:<28} {size:>13,} bytes   {'was there' if there else 'downloaded'}", flush=True)
    found = find_competition([options.out])
    print(f"\nready: {shown(found.folder)}")
    print(f"next: python scripts/run_local.py train --data {shown(found.folder)} --preset demo")
    return 0


def check_name(name):
    if not name or name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise OutputError(f"file {name!r}: its name leads out of the folder; nothing was taken")


def is_whole(path, size) -> bool:
    """Whether the file is there. A CSV that came packed may have another size than Kaggle lists, so its note counts."""
    return path.is_file() and path.stat().st_size in (size, read_record(path.parent, note_name(path)).get("unpacked"))


def note_name(path) -> str:
    return f".{path.name}.download.json"


def download_file(link, competition, name, size, folder):
    """Downloads one file, going on from what an earlier try left.

    Raises:
        OutputError, UnreachableError: it did not come whole; what came is kept for the next time.
    """
    path = pathlib.Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    for attempt in range(1, TRIES + 1):
        try:
            packed = bring_part(link, competition, name, part, path)
            finish(part, path, size, packed)
            return
        except (UnreachableError, OutputError) as error:
            if attempt == TRIES:
                raise type(error)(f"{error}. What came is kept; run the same command again to go on") from None
            link.pause(error, attempt)


def bring_part(link, competition, name, part, path) -> bool:
    """Makes `part` as long as Kaggle's file; returns whether it comes packed, as large CSV files do."""
    with link.competition_file(competition, name) as answer:
        headers = answer.headers
        tag = headers.get("ETag") or headers.get("Last-Modified")
        facts = {"length": int(headers.get("Content-Length") or 0), "tag": tag}
        url = answer.url
        packed = url.partition("?")[0].endswith(".zip") and not name.endswith(".zip")
        sent = {key: value for key, value in answer.request.headers.items() if key == "Authorization"}
    earlier = read_record(path.parent, note_name(path))
    offset = part.stat().st_size if part.is_file() else 0
    same = facts["tag"] and {key: earlier.get(key) for key in facts} == facts
    if not same or offset > facts["length"]:
        part.unlink(missing_ok=True)
        offset = 0
    write_record(path.parent, note_name(path), facts)
    if facts["length"] == 0 or offset < facts["length"]:
        if offset:
            sent |= {"Range": f"bytes={offset}-", "If-Range": facts["tag"]}
        link.download(url, part, sent, offset)
    if facts["length"] and part.stat().st_size != facts["length"]:
        raise UnreachableError(f"{name}: {part.stat().st_size:,} of {facts['length']:,} bytes have come")
    return packed


def finish(part, path, size, packed):
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
        write_record(path.parent, note.name, {"unpacked": unpacked})
    else:
        note.unlink(missing_ok=True)


def unpack(part, path):
    """Replaces a zip of one file by this file."""
    try:
        with zipfile.ZipFile(part) as archive:
            (member,) = archive.namelist()
            content = archive.read(member)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        part.unlink()
        raise OutputError(f"{path.name} came packed and cannot be unpacked ({error}); it is thrown away") from None
    part.write_bytes(content)


def broken_zip(path) -> str | None:
    """What is wrong with a zip, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError) as error:
        return f"is no whole zip ({error})"
    return f"its member {bad} is damaged" if bad else None


if __name__ == "__main__":
    sys.exit(main())
