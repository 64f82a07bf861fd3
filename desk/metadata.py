"""kernel-metadata.json as Kaggle takes it: what its client lets pass and Kaggle takes for something else fails here."""

import json
import pathlib
import re
from typing import NoReturn

from desk.errors import ConfigurationError
from desk.records import write_object
from desk.runs import METADATA
from flattener.kaggle import MAX_BYTES, NO_OWNER, SOURCES, kernel_problems, slugify

TYPES = {
    "id": str, "title": str, "code_file": str, "language": str, "kernel_type": str, "is_private": bool,
    "enable_gpu": bool, "enable_tpu": bool, "enable_internet": bool, "keywords": list, "competition_sources": list,
    "dataset_sources": list, "kernel_sources": list, "model_sources": list, "machine_shape": str,
}  # fmt: skip


def prepare_metadata(
    folder: pathlib.Path, owner: str, accelerator: str | None = None, sources: list[str] | None = None,
    fold: int | None = None,
) -> dict:  # fmt: skip
    """The metadata of a build with what a push changes in it, checked; the file in the build gets the changes.

    Args:
        folder: of the build.
        owner: whose kernel it becomes.
        accelerator: instead of the kernel's own; "none" for a CPU.
        sources: instead of its kernel_sources.
        fold: if its kernel is for one fold only.
    """
    built = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    metadata = dict(built)
    if accelerator is not None:
        shape = "" if accelerator.lower() in ("none", "cpu", "") else accelerator
        metadata.pop("machine_shape", None)
        metadata |= {"enable_gpu": shape.startswith("Nvidia"), "enable_tpu": shape.startswith("Tpu")}
        if shape:
            metadata["machine_shape"] = shape
    if sources is not None:
        metadata["kernel_sources"] = sources
    if fold is not None:
        metadata["title"] += f" fold {fold}"
        metadata["id"] = f"{owner}/{slugify(metadata['title'])}"
    check_metadata(metadata, folder)
    if metadata != built:
        write_object(folder / METADATA, metadata)
    return metadata


def check_metadata(metadata: dict, folder: pathlib.Path) -> None:
    """Raises `ConfigurationError` for all that the client lets pass and Kaggle then takes for something else."""

    def refuse(text: str) -> NoReturn:
        raise ConfigurationError(f"{METADATA}: {text}")

    for key, value in metadata.items():
        if key not in TYPES:
            refuse(f"unknown key {key!r}, which Kaggle would ignore; known are {', '.join(TYPES)}")
        if type(value) is not TYPES[key]:
            refuse(f"{key} = {value!r} is no {TYPES[key].__name__}")
        if isinstance(value, list) and not all(isinstance(part, str) for part in value):
            refuse(f"{key} = {value!r} is no list of strings")
    if absent := [key for key in TYPES if key not in metadata and key != "machine_shape"]:
        refuse(f"lacks {', '.join(absent)}")
    owner, _, slug = metadata["id"].partition("/")
    title, shape = metadata["title"], metadata.get("machine_shape", "")
    if owner == NO_OWNER or not slug or not re.fullmatch(r"[A-Za-z0-9][\w-]*", owner):
        refuse(f"id {metadata['id']!r} has no owner: give --owner")
    if slugify(title) != slug:
        refuse(f"title {title!r} becomes {slugify(title)!r} on Kaggle, not {slug!r}: the kernel would live elsewhere")
    for problem in kernel_problems(title, shape, {key: metadata[key] for key in SOURCES}):
        refuse(f"{problem.reason}; {problem.remedy}")
    if (metadata["enable_gpu"], metadata["enable_tpu"]) != (shape.startswith("Nvidia"), shape.startswith("Tpu")):
        refuse(f"enable_gpu and enable_tpu do not fit the machine {shape or 'CPU'!r}")
    if metadata["language"] != "python" or metadata["kernel_type"] != "notebook":
        refuse("language must be python, and kernel_type notebook")
    path = folder / metadata["code_file"]
    if not path.is_file():
        refuse(f"code_file {metadata['code_file']!r} is not there")
    if path.stat().st_size > MAX_BYTES:
        refuse(f"{path.name} has {path.stat().st_size:,} bytes, Kaggle takes {MAX_BYTES:,}")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if not notebook.get("metadata", {}).get("kernelspec", {}).get("name"):
        refuse(f"{path.name} has no kernelspec: its run would fail after 3 seconds")
