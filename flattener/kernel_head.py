"""The head of a kernel: the [tool.kaggle] table of its PEP 723 block."""

import re
from typing import Any

from flattener.cells import head_table
from flattener.kaggle import SOURCES, TITLE_LENGTH, kernel_problems, slugify
from flattener.source import Module

KEYS = {
    "title": str,
    "accelerator": str,
    "internet": bool,
    "private": bool,
    "keywords": list,
    **dict.fromkeys(SOURCES, list),
}


def read_head(module: Module, name: str) -> dict[str, Any]:
    """The [tool.kaggle] table of the kernel's PEP 723 head, checked; where it has no title, it gets one of the name."""
    tool = head_table(module).get("tool", {})
    kaggle = tool.get("kaggle", {}) if isinstance(tool, dict) else {}
    if not isinstance(kaggle, dict):
        module.refuse(line_of_key(module, "kaggle"), f"[tool.kaggle] is {kaggle!r}", "make it a table, or leave it out")
    for other, table in tool.items() if isinstance(tool, dict) and not kaggle else ():
        if isinstance(table, dict) and {"title", "accelerator", *SOURCES} & set(table):
            reason = f"the head has no [tool.kaggle], but [tool.{other}] holds what belongs there"
            module.refuse(line_of_key(module, f"[tool.{other}"), reason, "write [tool.kaggle]")
    for key, value in kaggle.items():
        if key not in KEYS:
            reason = f"[tool.kaggle] has an unknown key {key!r}"
            module.refuse(line_of_key(module, key), reason, f"use {', '.join(KEYS)}")
        if type(value) is not KEYS[key] or (
            isinstance(value, list) and not all(isinstance(part, str) for part in value)
        ):
            kind = {str: "a string", bool: "true or false", list: "a list of strings"}[KEYS[key]]
            module.refuse(line_of_key(module, key), f"[tool.kaggle] {key} = {value!r} is not {kind}", "correct it")
    kaggle = {"title": title_of(name), **kaggle}
    sources = {key: kaggle.get(key, []) for key in SOURCES}
    for problem in kernel_problems(kaggle["title"], kaggle.get("accelerator", ""), sources):
        module.refuse(line_of_key(module, "[tool.kaggle"), f"[tool.kaggle] {problem.reason}", problem.remedy)
    return kaggle


def line_of_key(module: Module, key: str) -> int:
    """The line of the head in which a key, or a table's name, begins; the first one of the file if there is none."""
    starts = re.compile(rf"#\s*[\"']?{re.escape(key)}")
    return next((number for number, line in enumerate(module.lines, 1) if starts.match(line)), 1)


def title_of(name: str) -> str:
    """A title that Kaggle takes, of the name of a kernel's file: "eda notebook" of "eda"."""
    words = " ".join(re.findall(r"[A-Za-z0-9]+", name))[: TITLE_LENGTH[-1]].strip()
    return words if len(slugify(words)) in TITLE_LENGTH else f"{words} notebook".strip()
