"""What Kaggle asks of a kernel: title, slug, machine, sources, owner; and kernel-metadata.json."""

import json
import os
import re
import tomllib
from pathlib import Path

from flattener.cells import SCRIPT_HEAD
from flattener.errors import BuildError
from flattener.source import Module

MAX_BYTES = 1_000_000  # Kaggle is said to refuse a larger source
ACCELERATORS = ("NvidiaTeslaT4", "NvidiaTeslaT4Highmem", "NvidiaL4", "NvidiaL4X1", "NvidiaTeslaA100", "NvidiaH100")
ACCELERATORS += ("NvidiaRtxPro6000", "TpuV5E8", "TpuV6E8")
RETIRED = (
    "NvidiaTeslaP100",
    "TpuV38",
    "Tpu1VmV38",
    "TpuV232",
    "TpuV2256",
)  # Kaggle silently runs something else instead
NO_OWNER = "INSERT-YOUR-KAGGLE-NAME"
SLUG, OWNER = r"[a-z0-9]+(?:-[a-z0-9]+)*", r"[A-Za-z0-9][\w-]*"
SOURCES = ("competition_sources", "dataset_sources", "kernel_sources", "model_sources")
KEYS = {
    "title": str,
    "accelerator": str,
    "internet": bool,
    "private": bool,
    "keywords": list,
    **dict.fromkeys(SOURCES, list),
}


def slugify(title: str) -> str:
    """The slug that Kaggle makes from a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def read_head(module: Module) -> dict:
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
    check_head(module, kaggle)
    return kaggle


def check_head(module: Module, kaggle: dict):
    title, accelerator = kaggle.get("title", ""), kaggle.get("accelerator", "")
    if not 5 <= len(title) <= 50 or not 5 <= len(slugify(title)) <= 50 or not title.isascii():
        module.refuse(
            1, f"[tool.kaggle] title = {title!r}: it and its slug need 5 to 50 characters, all ASCII", "choose another"
        )
    if accelerator in RETIRED:
        module.refuse(
            1, f"accelerator {accelerator!r} is retired by Kaggle", f'use "" for a CPU, or {", ".join(ACCELERATORS)}'
        )
    if accelerator and accelerator not in ACCELERATORS:
        module.refuse(1, f"accelerator {accelerator!r} is not known", f'use "" for a CPU, or {", ".join(ACCELERATORS)}')
    shapes = {
        "competition_sources": (r"{s}", "slug"),
        "dataset_sources": (r"{o}/{s}(/\d+)?", "owner/slug or owner/slug/version"),
        "kernel_sources": (r"({o}/)?{s}(/\d+)?", "slug (of your own kernel), owner/slug or owner/slug/version"),
        "model_sources": (r"{o}/{s}/[\w.-]+/[\w.-]+/\d+", "owner/model/framework/variation/version"),
    }
    for key, (pattern, shape) in shapes.items():
        expression = pattern.format(s=SLUG, o=OWNER)
        for source in kaggle.get(key, []):
            if not re.fullmatch(expression, source):
                module.refuse(1, f"[tool.kaggle] {key}: {source!r} is not {shape}", "correct it")
            if key == "kernel_sources" and len(re.sub(r"/\d+$", "", source).rpartition("/")[2]) < 5:
                module.refuse(
                    1, f"[tool.kaggle] {key}: the slug of {source!r} has fewer than 5 characters", "correct it"
                )


def find_owner(flag: str | None) -> str | None:
    """The user's Kaggle name: from the flag, from KAGGLE_USERNAME, or from the first kaggle.json found."""
    owner = flag or os.environ.get("KAGGLE_USERNAME")
    if not owner:
        folders = [os.environ.get("KAGGLE_CONFIG_DIR"), Path.home() / ".kaggle"]
        folders.append(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle")
        for folder in filter(None, folders):
            try:
                found = json.loads((Path(folder) / "kaggle.json").read_text())
            except (OSError, ValueError):
                continue
            owner = found.get("username") if isinstance(found, dict) else None
            if owner:
                break
    if owner and not re.fullmatch(OWNER, owner):
        raise BuildError(f"owner {owner!r} is no Kaggle name. Remedy: give it as in kaggle.com/NAME.")
    return owner or None


def kernel_metadata(kaggle: dict, name: str, form: str, owner: str | None) -> dict:
    """kernel-metadata.json, with every value written: the client's own defaults are not what its documentation says."""
    owner = owner or NO_OWNER
    accelerator = kaggle.get("accelerator", "")
    metadata = {
        "id": f"{owner}/{slugify(kaggle['title'])}",
        "title": kaggle["title"],
        "code_file": f"{name}.ipynb" if form == "notebook" else f"{name}.py",
        "language": "python",
        "kernel_type": form,
        "is_private": kaggle.get("private", True),
        "enable_gpu": accelerator.startswith("Nvidia"),
        "enable_tpu": accelerator.startswith("Tpu"),
        "enable_internet": kaggle.get("internet", False),
        "keywords": kaggle.get("keywords", []),
        **{key: list(kaggle.get(key, [])) for key in SOURCES},
    }
    sources = metadata["kernel_sources"]
    metadata["kernel_sources"] = [part if re.match(r".+/.*[^\d/]", part) else f"{owner}/{part}" for part in sources]
    if accelerator:
        metadata["machine_shape"] = accelerator
    return metadata
