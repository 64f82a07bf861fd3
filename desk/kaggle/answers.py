"""Whether an answer of Kaggle is what its SDK says: the SDK itself takes a value of any type for any field."""

import datetime
import enum
import json
from collections.abc import Callable
from typing import Any

import requests
from kagglesdk.common.types.file_download import FileDownload
from kagglesdk.common.types.http_redirect import HttpRedirect
from kagglesdk.kaggle_object import EnumSerializer, KaggleObject, ListSerializer, MapSerializer

from salt.limits import MOST_ANSWER

KINDS: dict[type, tuple[type, ...]] = {  # what JSON has for a field of a type; any other is an enumeration's name
    int: (int,), float: (int, float), bool: (bool,), str: (str,), datetime.datetime: (str,), datetime.timedelta: (str,),
}  # fmt: skip


class UnreadableAnswer(ValueError):
    """An answer that says nothing, whatever its status is."""


def prepare_answer(prepare: Callable, kind: type | None, response: requests.Response) -> Any:
    """What the SDK makes of a response, if it is one of this kind.

    Args:
        prepare: the SDK's own function.
        kind: of the answer; None: it has none.
        response: from Kaggle.

    Raises:
        UnreadableAnswer: a field of another type, an error in the place of an answer, or more than anybody reads.
    """
    is_json = "application/json" in response.headers.get("Content-Type", "")
    if is_json and response.status_code < 400 and hasattr(kind, "_fields") and kind not in (HttpRedirect, FileDownload):
        if len(response.content) > MOST_ANSWER:
            raise UnreadableAnswer(f"{len(response.content):,} bytes, more than {MOST_ANSWER:,}")
        found = json.loads(response.content)
        if not isinstance(found, dict):
            raise UnreadableAnswer(f"{brief(found)} is no object")
        if not isinstance(found.get("code"), int):  # else it is an error in a good answer, which the SDK knows
            check_fields(found, kind)
            if (plain := without_nulls(found)) != found:
                response._content, response.encoding = json.dumps(plain).encode(), "utf-8"
    return prepare(kind, response)


def without_nulls(value: Any) -> Any:
    """An answer in which what is null is absent, which means the same; the SDK would put None in the place of 0."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value if each is not None] if isinstance(value, list) else value


def check_fields(found: Any, kind: Any) -> None:
    """Raises `UnreadableAnswer` unless each field that is there has the type that it has in the SDK."""
    if not isinstance(found, dict):
        raise UnreadableAnswer(f"{brief(found)} is no {kind.__name__}")
    fields = {field.json_name: field for field in kind._fields}
    if "error" not in fields and found.get("error"):
        raise UnreadableAnswer(f"it says error {brief(found['error'])}")
    for name, field in fields.items():
        value = found.get(name)
        if value is None:
            continue
        container = {ListSerializer: list, MapSerializer: dict}.get(type(field.serializer))
        if container and not isinstance(value, container):
            raise UnreadableAnswer(f"{name} is {brief(value)}, no {container.__name__}")
        for each in value.values() if container is dict else value if container else [value]:
            check_value(each, field.field_type, name)


def check_value(value: Any, kind: type, name: str) -> None:
    """Raises `UnreadableAnswer` unless the value of a field is of this kind."""
    if issubclass(kind, KaggleObject):
        return check_fields(value, kind)
    allowed = KINDS.get(kind, (str,))
    right = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
    if right and isinstance(value, int):
        right = abs(value) < 1 << 63
    if right and issubclass(kind, enum.Enum):  # the SDK takes what a class has besides its members for one of them
        try:
            right = isinstance(EnumSerializer().from_dict_value(kind, value), kind)
        except KeyError:
            right = False
    if not right:
        raise UnreadableAnswer(f"{name} is {brief(value)}, no {kind.__name__}")


def brief(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
