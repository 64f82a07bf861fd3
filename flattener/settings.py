"""What a command line gives to a kernel: changes of settings, `--set epochs=5`, and arguments, `--args "--fold 0"`."""

import ast
import contextlib
import json
import shlex
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


def bind_text(arguments: Iterable[str], option: str = "--args") -> list[str]:
    """A command line in which the text behind an option belongs to it, even if it begins with a dash.

    Example:
        >>> bind_text(["train", "--args", "--help"])
        ['train', '--args=--help']
    """
    bound: list[str] = []
    for argument in arguments:
        if bound and bound[-1] == option:
            bound[-1] = f"{option}={argument}"
        else:
            bound.append(argument)
    return bound


def split_arguments(text: str) -> list[str]:
    """The arguments in a text, as a shell would split it.

    Raises:
        SettingError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingError(f"--args {text!r}: {error}; quote it as a shell would take it") from None
