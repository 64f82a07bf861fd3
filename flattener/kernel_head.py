"""The head of a kernel: the [tool.kaggle] table of its PEP 723 block."""

import tomllib
from typing import Any

from flattener.cells import SCRIPT_HEAD
from flattener.kaggle import SOURCES, kernel_problems
from flattener.source import Module

KEYS = {
    "title": str,
    "accelerator": str,
    "internet": bool,
    "private": bool,
    "keywords": list,
    **dict.fromkeys(SOURCES, list),
}


def read_head(module: Module) -> dict[str, Any]:
    """The [tool.kaggle] table of the kernel's PEP 723 head, checked."""
    head = SCRIPT_HEAD.search(module.text)
    if not head:
        module.refuse(1, "no head", "begin the file with `# /// script`, `# [tool.kaggle]` ... `# ///` (PEP 723)")
    try:
        table = tomllib.loads(
            "".join(line[2:] if line.startswith("# ") else line[1:] for line in head["toml"].splitlines(True))
        )
    except tomllib.TOMLDecodeError as error:
        module.refuse(1, f"the head is not valid TOML: {error}", "correct it")
    kaggle = table.get("tool", {}).get("kaggle")
    if not isinstance(kaggle, dict):
        module.refuse(1, "the head has no [tool.kaggle]", "add it, with a title")
    for key, value in kaggle.items():
        if key not in KEYS:
            module.refuse(1, f"[tool.kaggle] has an unknown key {key!r}", f"use {', '.join(KEYS)}")
        if type(value) is not KEYS[key] or (
            isinstance(value, list) and not all(isinstance(part, str) for part in value)
        ):
            kind = {str: "a string", bool: "true or false", list: "a list of strings"}[KEYS[key]]
            module.refuse(1, f"[tool.kaggle] {key} = {value!r} is not {kind}", "correct it")
    sources = {key: kaggle.get(key, []) for key in SOURCES}
    for problem in kernel_problems(kaggle.get("title", ""), kaggle.get("accelerator", ""), sources):
        module.refuse(1, f"[tool.kaggle] {problem.reason}", problem.remedy)
    return kaggle
