"""The run that is to be: its name, its settings, what it mounts, and the notebook and metadata that Kaggle will get.

All that can be wrong with these shows here, before anything is sent. It writes nothing but the build, starts nothing,
and asks Kaggle only who pushes and how a run stands that is to be gone on with; whether Kaggle has what the kernel
mounts, and a place for it, is for pushing.py.
"""

import hashlib
import json
import pathlib
import re
from dataclasses import dataclass

from build_kernel import ACCELERATORS, MAX_BYTES, NO_OWNER, RETIRED, KernelRequest, build_report, slugify
from scripts.kaggle_link import (
    AccessError,
    CapacityError,
    ConfigurationError,
    NotFoundError,
    part_folders,
    read_record,
    run_folder,
    utc_now,
)
from scripts.outputs import remote_manifest
from scripts.run_local import LocalRunError, new_run_id, parse_settings, read_parameters

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
MAX_HOURS = 12.0
LIMIT = "limit_minutes"  # setting after which a run stops by itself, some time before Kaggle stops it
METADATA = {
    "id": str, "title": str, "code_file": str, "language": str, "kernel_type": str, "is_private": bool,
    "enable_gpu": bool, "enable_tpu": bool, "enable_internet": bool, "keywords": list, "competition_sources": list,
    "dataset_sources": list, "kernel_sources": list, "model_sources": list, "machine_shape": str,
}  # fmt: skip


@dataclass
class Plan:
    """A run that is to be: its name, its settings, and what it mounts beside what the kernel's head says."""

    run_id: str
    owner: str
    preset: str | None
    settings: dict
    mounted: list[str] | None = None  # kernel sources, instead of those of the head
    resumed: dict | None = None  # push record of the run from which it goes on


def plan_run(link, options) -> Plan:
    """The run that the command line asks for.

    Raises:
        ConfigurationError, BuildError: settings that do not exist, or a run that cannot be mounted or resumed.
    """
    try:
        settings = parse_settings(options.set)
    except LocalRunError as error:
        raise ConfigurationError(str(error)) from None
    plan = Plan("", options.owner or link.username(), options.preset, settings)
    if options.resume:
        resume_run(link, plan, run_folder(options.resume, options.runs), options.name)
    if options.run:
        mount_run(plan, run_folder(options.run, options.runs))
    built = build(options, plan)  # first without a run id: what a bad setting says comes at once
    plan.preset = plan.preset or read_parameters(built / f"{options.name}.ipynb").get("PRESET")
    if plan.preset:
        plan.settings = within_session(plan.settings, options.hours)
    plan.run_id = new_run_id(options.name, plan.preset)
    return plan


def within_session(settings, hours) -> dict:
    """The settings of a run in a session of so many hours; it ends by itself a tenth before, or half an hour."""
    return {LIMIT: 60 * hours - min(6 * hours, 30), **settings} if hours else settings


def mount_run(plan, folder):
    """Mounts the very version of the kernel that a run is; of a run whose folds were fanned out, one kernel a fold."""
    parts = part_folders(folder)
    records = [read_record(part, "push.json") for part in parts or [folder]]
    for record in records:
        if record.get("state") != "pushed":
            name = record.get("run_id", folder.name)
            raise ConfigurationError(f"--run {name}: was not pushed to Kaggle, so no kernel can mount it")
    plan.mounted = [f"{record['ref']}/{record['version']}" for record in records]
    if parts:
        plan.settings = {"train_folds": [record["fold"] for record in records], **plan.settings}


def resume_run(link, plan, folder, name):
    """Gives a plan the settings and the sources of an unfinished run, and its output beside them.

    Raises:
        ConfigurationError: there is nothing to go on from, or no way to mount it.
        CapacityError: the run still goes on.
    """
    from salt.config import preset
    from salt.resume import differing_settings

    record, pushed = read_record(folder, "push.json"), read_record(folder / "pushed", "kernel-metadata.json")

    def refuse(text, kind=ConfigurationError):
        raise kind(f"--resume {record.get('run_id', folder.name)}: {text}")

    if record.get("state") != "pushed":
        refuse("was not pushed to Kaggle, so no kernel can mount it")
    if record["kernel"] != name:
        refuse(f"is a run of {record['kernel']}, not of {name}")
    ref, version = record["ref"], record["version"]
    try:
        status = link.status(ref, version)
    except (NotFoundError, AccessError):
        refuse(f"{plan.owner} may not see {ref}, which belongs to {ref.partition('/')[0]}, and so cannot mount it")
    if status.active:
        refuse(f"is still {status.state}: wait until it ends", CapacityError)
    manifest = read_record(folder, "manifest.json") or remote_manifest(link, record)
    if manifest.get("finished", True):
        refuse("has reached its end; there is nothing left to train")
    had, has = manifest["config"], preset(record["preset"], **record["settings"])
    if other := differing_settings(has, had):
        changed = "; ".join(f"{name}={getattr(has, name)!r}, not {had.get(name)!r}" for name in other)
        refuse(f"salt/config.py makes other settings of it today: {changed}; a run goes on with those it had")
    others = [source for source in pushed["kernel_sources"] if re.sub(r"/\d+$", "", source) != ref]
    plan.mounted, plan.resumed = [*others, f"{ref}/{version}"], record
    if status.state != "COMPLETE":  # nobody says whether Kaggle mounts this; the notebook finds out at its start
        name = record["run_id"]
        show("note", f"{name} ended as {status.state}: if Kaggle does not mount it, the new run stops at once")
    plan.preset = record["preset"]
    plan.settings = {key: value for key, value in record["settings"].items() if key != LIMIT}  # of that session


def prepare(options, plan, fold=None) -> tuple[pathlib.Path, dict, str, dict]:
    """Builds a run's kernel, or that of one of its folds; returns (folder, metadata, notebook, push record)."""
    built = build(options, plan)
    metadata = prepare_metadata(built, options, plan, fold)
    content = (built / metadata["code_file"]).read_text(encoding="utf-8")
    if plan.run_id not in content:
        raise ConfigurationError(f'kernels/{options.name}.py has no line RUN_ID = "" in its settings cell')
    record = {
        "run_id": plan.run_id, "kernel": options.name, "ref": metadata["id"], "state": "sending", "version": None,
        "url": None, "at": utc_now(), "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "content": content_digest(content, plan.run_id, metadata), "preset": plan.preset, "settings": plan.settings,
        "machine": metadata.get("machine_shape", "CPU"), "hours": options.hours,
    }  # fmt: skip
    if plan.resumed:
        record |= {"resumed_from": plan.resumed["run_id"], "resumed_source": plan.mounted[-1]}
    return built, metadata, content, record


def build(options, plan) -> pathlib.Path:
    """Builds into BUILD/NAME/, where one can look at it, and returns that folder."""
    request = KernelRequest(
        options.name, root=ROOT, out=BUILD, settings=plan.settings, preset=plan.preset, run_id=plan.run_id,
        resume=plan.resumed["run_id"] if plan.resumed else "", owner=plan.owner,
    )  # fmt: skip
    report = build_report(request)
    for warning in report.warnings if plan.run_id else []:
        show("note", warning)
    return pathlib.Path(report.path)


def content_digest(content, run_id, metadata) -> str:
    """The same for two pushes of the same notebook to the same machine, whatever their runs are called."""
    text = content.replace(run_id, "") + json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# --- metadata -------------------------------------------------------------------------------------------------------


def prepare_metadata(folder, options, plan, fold=None) -> dict:
    """The metadata of a build with what the command line changes in it, checked."""
    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    if options.accelerator is not None:
        shape = "" if options.accelerator.lower() in ("none", "cpu", "") else options.accelerator
        metadata.pop("machine_shape", None)
        metadata |= {"enable_gpu": shape.startswith("Nvidia"), "enable_tpu": shape.startswith("Tpu")}
        if shape:
            metadata["machine_shape"] = shape
    if plan.mounted is not None:
        metadata["kernel_sources"] = plan.mounted
    if fold is not None:
        metadata["title"] += f" fold {fold}"
        metadata["id"] = f"{plan.owner}/{slugify(metadata['title'])}"
    check_metadata(metadata, folder)
    return metadata


def check_metadata(metadata, folder):
    """Raises `ConfigurationError` for all that the client lets pass and Kaggle then takes for something else."""

    def refuse(text):
        raise ConfigurationError(f"kernel-metadata.json: {text}")

    for key, value in metadata.items():
        if key not in METADATA:
            refuse(f"unknown key {key!r}, which Kaggle would ignore; known are {', '.join(METADATA)}")
        if type(value) is not METADATA[key]:
            refuse(f"{key} = {value!r} is no {METADATA[key].__name__}")
        if isinstance(value, list) and not all(isinstance(part, str) for part in value):
            refuse(f"{key} = {value!r} is no list of strings")
    if absent := [key for key in METADATA if key not in metadata and key != "machine_shape"]:
        refuse(f"lacks {', '.join(absent)}")
    owner, _, slug = metadata["id"].partition("/")
    title, shape = metadata["title"], metadata.get("machine_shape", "")
    if owner == NO_OWNER or not slug or not re.fullmatch(r"[A-Za-z0-9][\w-]*", owner):
        refuse(f"id {metadata['id']!r} has no owner: give --owner")
    if slugify(title) != slug:
        refuse(f"title {title!r} becomes {slugify(title)!r} on Kaggle, not {slug!r}: the kernel would live elsewhere")
    if not (5 <= len(slug) <= 50 and 5 <= len(title) <= 50):
        refuse(f"title {title!r}: it and its slug need 5 to 50 characters")
    if shape in RETIRED:
        refuse(f"machine {shape!r} is retired: Kaggle would run something else in silence; use NvidiaTeslaT4")
    if shape and shape not in ACCELERATORS:
        refuse(f"machine {shape!r} is not known; use {', '.join(ACCELERATORS)}, or none for a CPU")
    if (metadata["enable_gpu"], metadata["enable_tpu"]) != (shape.startswith("Nvidia"), shape.startswith("Tpu")):
        refuse(f"enable_gpu and enable_tpu do not fit the machine {shape or 'CPU'!r}")
    if metadata["language"] != "python" or metadata["kernel_type"] != "notebook":
        refuse("language must be python, and kernel_type notebook")
    shapes = {"competition_sources": r"[^/]+", "dataset_sources": r"[^/]+/[^/]+(/\d+)?"}
    shapes |= {"kernel_sources": r"[^/]+/[^/]{5,}(/\d+)?", "model_sources": r"[^/]+(/[^/]+){3}/\d+"}
    for key, pattern in shapes.items():
        for source in metadata[key]:
            if not re.fullmatch(pattern, source) or re.match(r"(c|datasets|code|models)/|https?:", source):
                refuse(f"{key}: {source!r} is no name that Kaggle takes; see the head of the kernel")
    path = folder / metadata["code_file"]
    if not path.is_file():
        refuse(f"code_file {metadata['code_file']!r} is not there")
    if path.stat().st_size > MAX_BYTES:
        refuse(f"{path.name} has {path.stat().st_size:,} bytes, Kaggle takes {MAX_BYTES:,}")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if not notebook.get("metadata", {}).get("kernelspec", {}).get("name"):
        refuse(f"{path.name} has no kernelspec: its run would fail after 3 seconds")


# --- what a person sees of it ---------------------------------------------------------------------------------------


def show(label, text):
    print(f"  {label:<12} {text}", flush=True)


def show_plan(options, plan, metadata, content):
    show("kernel", f"{metadata['id']}, built from kernels/{options.name}.py, {len(content.encode()) / 1000:,.0f} kB")
    show("run", plan.run_id)
    given = [f"preset {plan.preset}"] if plan.preset else []
    given += [f"{key}={value}" for key, value in plan.settings.items()]
    show("settings", ", ".join(given) or "the kernel's own")
    if plan.resumed:
        show("resumes", f"{plan.resumed['run_id']}, version {plan.resumed['version']} of {plan.resumed['ref']}")
    internet, limit = ("on" if metadata["enable_internet"] else "off"), options.hours or MAX_HOURS
    show("machine", f"{metadata.get('machine_shape', 'CPU')}, internet {internet}, at most {limit:g} h")
    print("before the push", flush=True)
