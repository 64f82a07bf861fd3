"""What Kaggle asks of a kernel: title, slug, machine, sources, owner; and kernel-metadata.json.

The one table of these rules: a build checks a kernel's head by it, and a push the metadata that it changes.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flattener.errors import BuildError

MAX_BYTES = 1_000_000  # Kaggle is said to refuse a larger source
TITLE_LENGTH = range(5, 51)  # characters, of the title and of the slug made from it
ACCELERATORS = (
    *("NvidiaTeslaT4", "NvidiaTeslaT4Highmem", "NvidiaL4", "NvidiaL4X1", "NvidiaTeslaA100", "NvidiaH100"),
    *("NvidiaRtxPro6000", "TpuV5E8", "TpuV6E8"),
)
RETIRED = ("NvidiaTeslaP100", "TpuV38", "Tpu1VmV38", "TpuV232", "TpuV2256")  # Kaggle runs something else, unasked
NO_OWNER = "INSERT-YOUR-KAGGLE-NAME"
SLUG, OWNER = r"[a-z0-9]+(?:-[a-z0-9]+)*", r"(?!(?:c|code|datasets|models)/)[A-Za-z0-9][\w-]*"
SOURCES = {  # kind of source -> (pattern, the pattern in words)
    "competition_sources": (SLUG, "slug"),
    "dataset_sources": (rf"{OWNER}/{SLUG}(/\d+)?", "owner/slug or owner/slug/version"),
    "kernel_sources": (
        rf"({OWNER}/)?{SLUG}(/\d+)?",
        "slug (of your own kernel), owner/slug or owner/slug/version",
    ),
    "model_sources": (rf"{OWNER}/{SLUG}/[\w.-]+/[\w.-]+/\d+", "owner/model/framework/variation/version"),
}


@dataclass(frozen=True)
class Problem:
    """Something that Kaggle would refuse, or would take for something else without a word."""

    reason: str
    remedy: str


def kernel_problems(title: str, machine: str, sources: Mapping[str, Sequence[str]]) -> list[Problem]:
    """What is wrong with a kernel's metadata.

    Args:
        title: of the kernel.
        machine: the accelerator, `machine_shape` in kernel-metadata.json; empty: a CPU.
        sources: for each key of `SOURCES` the names of what the kernel mounts.
    """
    problems = []
    if len(title) not in TITLE_LENGTH or len(slugify(title)) not in TITLE_LENGTH or not title.isascii():
        reason = f"title = {title!r}: it and its slug need 5 to 50 characters, all ASCII"
        problems.append(Problem(reason, "choose another"))
    if machine and machine not in ACCELERATORS:
        state = "retired by Kaggle" if machine in RETIRED else "not known"
        remedy = f'use "" for a CPU, or {", ".join(ACCELERATORS)}'
        problems.append(Problem(f"accelerator {machine!r} is {state}", remedy))
    for key, (pattern, shape) in SOURCES.items():
        for source in sources.get(key, ()):
            if not re.fullmatch(pattern, source):
                reason = f"{key}: {source!r} is no name that Kaggle takes: it is not {shape}"
                problems.append(Problem(reason, "correct it"))
            elif key == "kernel_sources" and len(re.sub(r"/\d+$", "", source).rpartition("/")[2]) < 5:
                reason = f"{key}: {source!r} is no name that Kaggle takes: its slug has fewer than 5 characters"
                problems.append(Problem(reason, "correct it"))
    return problems


def slugify(title: str) -> str:
    """The slug that Kaggle makes from a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def find_owner(flag: str | None) -> str | None:
    """The user's Kaggle name: from the flag, from KAGGLE_USERNAME, or from the first kaggle.json found."""
    owner = flag or os.environ.get("KAGGLE_USERNAME")
    if not owner:
        given = os.environ.get("KAGGLE_CONFIG_DIR")
        folders = [Path(given)] if given else []
        folders += [Path.home() / ".kaggle"]
        folders += [Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"]
        for folder in folders:
            try:
                found = json.loads((folder / "kaggle.json").read_text())
            except (OSError, ValueError):
                continue
            owner = found.get("username") if isinstance(found, dict) else None
            if owner:
                break
    if owner and not re.fullmatch(OWNER, owner):
        raise BuildError(f"--owner {owner}", "is no Kaggle name", "give it as in kaggle.com/NAME")
    return owner or None


def kernel_metadata(kaggle: dict[str, Any], name: str, form: str, owner: str | None) -> dict[str, Any]:
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
