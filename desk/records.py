"""Records: JSON files that say what was done. They are checked when they are read and when they are written.

A record is a frozen dataclass (states.py). Its file is written whole or not at all. One that is damaged is an error
that names the file, the field, what stands there, and the command that makes it whole; it is not taken for absent.
"""

import dataclasses
import datetime
import json
import math
import pathlib
import time
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, TypeVar

from desk.errors import ConfigurationError
from desk.paths import AnyPath
from salt.files import whole_file
from salt.limits import MOST_RECORD

SCHEMA = 2  # of the records that are written; those without one are of the first
NEW, GONE = "(new)", "(gone)"  # before a record is written first, and after it is removed


class DamagedRecord(ConfigurationError):
    """A file that is no record."""


class IllegalStep(AssertionError):
    """A fault of this program: a state that does not follow from the one before."""


# --- files of JSON ---------------------------------------------------------------------------------------------------


def read_text(path: AnyPath) -> str:
    """The text of a file, UTF-8 or, with the mark that Windows puts first, UTF-16; "" if there is none."""
    try:
        return decoded(pathlib.Path(path).read_bytes())
    except (OSError, ValueError):
        return ""


def decoded(content: bytes) -> str:
    """Bytes as text; raises `UnicodeDecodeError` for what is none."""
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def parse_object(text: str) -> dict:
    """The JSON object that a text is; raises `ValueError` for any other text, however deep."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def read_object(path: AnyPath) -> dict:
    """The JSON object in a file; {} if there is none."""
    try:
        return parse_object(read_text(path))
    except ValueError:
        return {}


def write_object(path: AnyPath, content: dict) -> None:
    """Writes a file of JSON, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    with whole_file(pathlib.Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


# --- records ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Must:
    """What the value of a field must be, in words, besides of its type."""

    words: str
    holds: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What was done, and how it stands.

    Attributes:
        FILE: its name.
        REMEDY: what makes it whole again; {run} is the folder's name.
        STEPS: {state: the states that may follow}, with NEW before the first and GONE after the last.
    """

    FILE: ClassVar[str]
    REMEDY: ClassVar[str]
    STEPS: ClassVar[dict[str, set[str]]] = {}
    VERSIONED: ClassVar[bool] = True  # whether the desk itself writes it, with its schema

    schema: int = SCHEMA

    def but(self, **changes: Any) -> Self:
        """This record with other values in some fields."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def of_earlier(cls, found: dict) -> dict:
        """What stands in a record of the first schema, as this one has it."""
        return found


Kind = TypeVar("Kind", bound=Record)


def read_record(folder: AnyPath, kind: type[Kind]) -> Kind | None:
    """The record in a folder, or None if there is none.

    Raises:
        DamagedRecord: a file that is no such record.
    """
    path = pathlib.Path(folder) / kind.FILE
    try:
        if path.stat().st_size > MOST_RECORD:
            raise DamagedRecord(
                f"{path}: has {path.stat().st_size:,} bytes, more than any record; {remedy(path, kind)}"
            )
        text = decoded(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise DamagedRecord(f"{path}: {reason}; {remedy(path, kind)}") from None
    try:
        return as_record(kind, parse_object(text))
    except ValueError as error:
        raise DamagedRecord(f"{path}: {error}; {remedy(path, kind)}") from None


def remedy(path: pathlib.Path, kind: type[Record]) -> str:
    """What makes a record whole again."""
    folder = path.parent
    return kind.REMEDY.format(run=folder.parents[1].name if folder.parent.name == "parts" else folder.name)


def as_record(kind: type[Kind], found: dict) -> Kind:
    """A JSON object as a record; raises `ValueError` that names the field and its value."""
    schema = found.get("schema", 1) if kind.VERSIONED else 1
    if schema not in (1, SCHEMA) or isinstance(schema, bool):
        raise ValueError(f"schema is {brief(schema)}, and this version of the desk knows up to {SCHEMA}")
    if schema == 1:
        found = kind.of_earlier(dict(found))
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in found:
            raise ValueError(f"{name} is missing")
    record = kind(**{name: value for name, value in found.items() if name in fields} | {"schema": SCHEMA})
    check_record(record)
    return record


def check_record(record: Record) -> None:
    """Raises `ValueError` for the first field whose value is none for it."""
    for name, hint in field_types(type(record)).items():
        if words := problem(getattr(record, name), hint):
            raise ValueError(f"{name} is {brief(getattr(record, name))}, and must be {words}")


TYPES: dict[type[Record], dict[str, Any]] = {}  # what `field_types` has found


def field_types(kind: type[Record]) -> dict[str, Any]:
    """{name: type} of a record's fields."""
    if kind not in TYPES:
        hints = typing.get_type_hints(kind, include_extras=True)
        TYPES[kind] = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return TYPES[kind]


def problem(value: Any, hint: Any) -> str | None:
    """What a value must be that is none of this type; None if it is one."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return None
    if origin is typing.Annotated:
        return (problem(value, parts[0]) and parts[1].words) or (None if parts[1].holds(value) else parts[1].words)
    if origin in (typing.Union, types.UnionType):
        words = [problem(value, part) for part in parts]
        return None if None in words else " or ".join(filter(None, words))
    if origin is Literal:
        return None if value in parts and isinstance(value, str) else f"one of {', '.join(parts)}"
    if origin is list:
        bad = (
            "a list" if not isinstance(value, list) else next(filter(None, (problem(e, parts[0]) for e in value)), None)
        )
        return bad and (bad if bad == "a list" else f"a list, each of it {bad}")
    if origin is dict:
        return None if isinstance(value, dict) else "an object"
    if hint is type(None):
        return None if value is None else "null"
    if hint is str:
        return None if isinstance(value, str) and is_printable(value) else "a text"
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
        return None if number and math.isfinite(value) else "a number"
    if hint is int:
        return (
            None if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e15 else "a whole number"
        )
    return None if isinstance(value, hint) else "true or false"


def is_printable(text: str) -> bool:
    """Whether a text can be written and shown."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair, which JSON can spell
        return False
    return "\0" not in text


def brief(value: Any) -> str:
    """A value as messages show it."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_record(folder: AnyPath, record: Record) -> None:
    """Writes a record into a folder.

    Raises:
        IllegalStep: its state may not follow the one that stands there.
    """
    try:
        check_record(record)
    except ValueError as error:
        raise IllegalStep(f"{record.FILE}: {error}") from None
    check_step(folder, type(record), getattr(record, "state", ""))
    write_object(pathlib.Path(folder) / record.FILE, dataclasses.asdict(record))


def remove_record(folder: AnyPath, kind: type[Record]) -> None:
    """Removes a record that is of no use any more."""
    check_step(folder, kind, GONE)
    (pathlib.Path(folder) / kind.FILE).unlink(missing_ok=True)


def check_step(folder: AnyPath, kind: type[Record], state: str) -> None:
    """Raises `IllegalStep` if the record in a folder may not go on to this state."""
    if not kind.STEPS:
        return
    try:
        before = read_record(folder, kind)
    except DamagedRecord:  # it is made anew
        before = None
    now = NEW if before is None else str(getattr(before, "state", ""))
    if state not in kind.STEPS[now]:
        raise IllegalStep(f"{pathlib.Path(folder) / kind.FILE}: from {now} to {state}")


# --- time ------------------------------------------------------------------------------------------------------------


def now() -> datetime.datetime:
    """The time by this machine's clock."""
    return datetime.datetime.now(datetime.UTC)


def utc_now() -> str:
    """The time as records spell it, such as "2026-11-22T13:15:02Z"."""
    return now().strftime("%Y-%m-%dT%H:%M:%SZ")


def is_time(text: str) -> bool:
    """Whether a text is such a time."""
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def since_boot() -> tuple[str, float]:
    """A name for the time since this machine was started, and its seconds; ("", 0) where that is not to be had."""
    try:
        name = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return name, time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError, ValueError):
        return "", 0.0


def uptime() -> str:
    """How long this machine has been up, as records spell it, such as "6b1c... 86400"; "" if nobody knows.

    Setting the clock does not change it, so that it measures the time between two moments better.
    """
    name, seconds = since_boot()
    return f"{name} {seconds:.0f}" if name else ""


def seconds_since(at: str, up: str) -> float | None:
    """Seconds since a moment, by its `utc_now()` and its `uptime()`; None if it lies in the future: a clock was set."""
    name, _, then = up.partition(" ")
    here, up_now = since_boot()
    if name and name == here and then.isdigit():
        passed = up_now - float(then)
    else:
        passed = (now() - datetime.datetime.fromisoformat(at)).total_seconds()
    return passed if passed >= 0 else None
