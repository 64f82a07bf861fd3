"""JSON files that say what was done: written whole or not at all, and damage is not taken for absence."""

import datetime
import json
import pathlib

from desk.errors import ConfigurationError
from desk.paths import AnyPath
from salt.files import whole_file


def read_text(path: AnyPath) -> str:
    """The text of a file, UTF-8 or, with the mark that Windows puts first, UTF-16; "" if there is none."""
    try:
        content = pathlib.Path(path).read_bytes()
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, ValueError):
        return ""


def read_object(path: AnyPath) -> dict:
    """The JSON object in a file; {} if there is none."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_record(folder: AnyPath, name: str) -> dict:
    """The record, or {} if there is none.

    Raises:
        ConfigurationError: a file that is no record.
    """
    path = pathlib.Path(folder) / name
    if not path.exists():
        return {}
    found = read_object(path)
    if not found:
        raise ConfigurationError(f"{path}: damaged; what it should say can be seen on kaggle.com")
    return found


def write_record(folder: AnyPath, name: str, record: dict) -> None:
    """Writes `folder`/`name`, JSON, whole or not at all."""
    with whole_file(pathlib.Path(folder) / name) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def utc_now() -> str:
    """The time as records spell it, such as "2026-11-22T13:15:02Z"."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(record: dict) -> float:
    """Seconds since the time "at" of a record."""
    moment = datetime.datetime.fromisoformat(record["at"])
    return (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
