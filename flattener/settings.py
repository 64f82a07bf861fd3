"""Changes of settings as a command line gives them: `--set epochs=5 flip=False`."""

import ast
import contextlib
import json
from collections.abc import Iterable
from typing import Any


class SettingError(ValueError):
    """A change of a setting that is not key=value."""


def parse_settings(values: Iterable[str | list[str]]) -> dict[str, Any]:
    """{"epochs": 5, "weights": "vgg16.h5"} from ["epochs=5", "weights=vgg16.h5"]; of equal keys the last counts.

    Args:
        values: what argparse gives for `--set`: a text for each pair, or a list of texts for each `--set`.

    Raises:
        SettingError: a text that is not key=value.
    """
    settings = {}
    for value in values:
        for pair in [value] if isinstance(value, str) else value:
            key, equals, text = pair.partition("=")
            if not equals or not key.isidentifier():
                raise SettingError(f"--set {pair}: must be key=value, such as epochs=5")
            settings[key] = parse_value(text)
    return settings


def parse_value(text: str) -> Any:
    """A value in JSON's spelling or Python's ("false", "False", "[0, 1]", "(0, 1)", ".5"); anything else is text."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = parse(text)
            json.dumps(value, allow_nan=False)  # what JSON has no word for, such as a set or NaN, is text
            return value
    return text


def setting_text(key: str, value: Any) -> str:
    """The text from which `parse_settings` makes a setting again."""
    if isinstance(value, str) and parse_value(value) == value:
        return f"{key}={value}"
    return f"{key}={json.dumps(value, separators=(',', ':'), ensure_ascii=False)}"
