"""Settings as they stand on a command line."""

import ast
import contextlib
import json
from typing import Any

from desk.errors import ConfigurationError


def parse_settings(pairs: list[str]) -> dict:
    """{"epochs": 5, "weights": "vgg16.h5"} from ["epochs=5", "weights=vgg16.h5"].

    Raises:
        ConfigurationError: one that is no key=value.
    """
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise ConfigurationError(f"--set {pair}: must be key=value, such as epochs=5")
        settings[key] = parse_value(text)
    return settings


def parse_value(text: str) -> Any:
    """A value in JSON's spelling or Python's ("false", "False", "[0, 1]", "(0, 1)", ".5"); anything else is text."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return parse(text)
    return text
