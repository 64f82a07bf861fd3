"""The run that is to be: its name, its settings, what it mounts, and the notebook and metadata that Kaggle will get.

All that can be wrong with these shows here, before anything is sent. It writes nothing but the build, starts nothing,
and asks Kaggle only who pushes and how a run stands that is to be resumed; whether Kaggle has what the kernel mounts,
and a place for it, is for preflight.py.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import shlex
from dataclasses import dataclass, field
from typing import NoReturn

from desk import paths
from desk.building import Program, build_notebook, kernel_competitions, kernel_preset
from desk.competitions import competition_as_before
from desk.consent import Consent
from desk.errors import ConfigurationError, DeskError
from desk.kaggle.errors import AccessError, CapacityError, NotFoundError
from desk.kaggle.kernels import read_status
from desk.kaggle.transport import KaggleLink
from desk.metadata import prepare_metadata
from desk.output import show
from desk.remote_output import remote_manifest
from desk.runs import Run, new_run_id
from desk.states import PushRecord
from salt.config import preset as salt_preset
from salt.resume import differing_settings

MAX_HOURS = 12.0
LIMIT = "limit_minutes"  # setting after which a run stops by itself, some time before Kaggle stops it


@dataclass(frozen=True)
class PushRequest:
    """What a person asks `push.py` for.

    Attributes:
        program: what the kernel is built from.
        runs: where runs are kept.
        preset, settings: instead of the kernel's own.
        owner: the account to push as; None: that of the credentials.
        accelerator: instead of the kernel's own; "none" for a CPU.
        hours: after which Kaggle stops the run.
        mounted: the run whose output to mount, for predict.
        resumed: the unfinished run to resume.
        fan_out: whether each fold becomes a kernel.
        beside: push although a version of this kernel still runs.
        dry_run: push nothing.
        consent: whether a person has said that it may be pushed.
    """

    program: Program
    runs: pathlib.Path
    preset: str | None = None
    settings: dict = field(default_factory=dict)
    owner: str | None = None
    accelerator: str | None = None
    hours: float | None = None
    mounted: Run | None = None
    resumed: Run | None = None
    fan_out: bool = False
    beside: bool = False
    dry_run: bool = False
    consent: Consent = field(default_factory=Consent)

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self.program.kernel


@dataclass(frozen=True)
class Plan:
    """A run that is to be, in one kernel: what is asked for, and what follows from it.

    Attributes:
        program, owner, preset, settings, accelerator, hours: as in `PushRequest`, none left open that is known.
        run_id: its name.
        sources: the kernels that it mounts, as owner/slug/version, instead of those of the kernel's head.
        resumed: the run that it resumes, whose output is the last of `sources`.
        fold: the one that it trains, of a run whose folds were fanned out.
    """

    program: Program
    run_id: str
    owner: str
    preset: str | None
    settings: dict
    accelerator: str | None
    hours: float | None
    sources: list[str] | None = None
    resumed: Run | None = None
    fold: int | None = None

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self.program.kernel


@dataclass(frozen=True)
class BuiltKernel:
    """What Kaggle will get: the folder of the build, its checked metadata, its notebook.

    And `record`, the run's push.json but for the time at which it is sent.
    """

    folder: pathlib.Path
    metadata: dict
    content: str
    record: PushRecord


def plan_run(link: KaggleLink, request: PushRequest) -> Plan:
    """The run that a request asks for.

    Raises:
        ConfigurationError: a run that cannot be mounted or resumed.
    """
    owner = request.owner or link.username
    request = dataclasses.replace(request, program=of_same_competition(request))
    preset, settings, sources = request.preset, request.settings, None
    if request.resumed:
        preset, settings, sources = resume_run(link, request.resumed, request.kernel, owner)
    elif request.mounted:
        settings, sources = mount_run(request.mounted, settings)
    preset = preset or kernel_preset(request.program)
    if preset:
        settings = within_session(settings, request.hours)
    return Plan(
        request.program, new_run_id(request.kernel, preset), owner, preset, settings, request.accelerator,
        request.hours, sources, request.resumed,
    )  # fmt: skip


def of_same_competition(request: PushRequest) -> Program:
    """The kernel, built for the competition of the run that it resumes or mounts.

    Raises:
        ConfigurationError: another one is named.
    """
    run, program = request.resumed or request.mounted, request.program
    if run is None:
        return program
    slugs = (run.parts[0] if run.parts else run).metadata.get("competition_sources", [])
    before = next(iter(slugs), None)
    competition = competition_as_before(program.competition, kernel_competitions(program), before, f"run {run.name}")
    return dataclasses.replace(program, competition=competition)


def within_session(settings: dict, hours: float | None) -> dict:
    """The settings of a run in a session of so many hours; it ends by itself a tenth before, or half an hour."""
    return {LIMIT: 60 * hours - min(6 * hours, 30), **settings} if hours else settings


def mount_run(run: Run, settings: dict) -> tuple[dict, list[str]]:
    """What it takes to mount the very version of the kernel that a run is: (settings, sources).

    Of a run whose folds were fanned out, it is one kernel a fold.
    """
    mounted = run.parts or [run]
    for part in mounted:
        if not (part.was_sent and part.push.on_kaggle):
            name = part.push.run_id if part.was_sent else run.name
            raise ConfigurationError(f"--run {name}: was not pushed to Kaggle, so no kernel can mount it")
    if run.parts:
        settings = {"train_folds": [part.push.fold for part in run.parts], **settings}
    return settings, [f"{part.push.ref}/{part.push.version}" for part in mounted]


def resume_run(link: KaggleLink, run: Run, kernel: str, owner: str) -> tuple[str | None, dict, list[str]]:
    """The preset and the settings of an unfinished run, and what it mounts with its own output beside it.

    Raises:
        ConfigurationError: there is nothing to resume, or no way to mount it.
        CapacityError: the run is still active.
    """

    def refuse(text: str, kind: type[DeskError] = ConfigurationError) -> NoReturn:
        raise kind(f"--resume {run.run_id if run.was_sent else run.name}: {text}")

    if not (run.was_sent and run.push.on_kaggle):
        refuse("was not pushed to Kaggle, so no kernel can mount it")
    record = run.push
    if record.kernel != kernel:
        refuse(f"is a run of {record.kernel}, not of {kernel}")
    ref, version = record.ref, record.version
    try:
        status = read_status(link, ref, version)
    except (NotFoundError, AccessError):
        refuse(f"{owner} may not see {ref}, which belongs to {ref.partition('/')[0]}, and so cannot mount it")
    if status.active:
        refuse(f"is still {status.state}: wait until it ends", CapacityError)
    manifest = run.manifest or remote_manifest(link, run)
    if manifest.finished:
        refuse("has reached its end; there is nothing left to train")
    if not manifest.config or record.preset is None:
        refuse("has left no state of a training; push it anew")
    had, has = manifest.config, salt_preset(record.preset, **record.settings)
    if other := differing_settings(has, had):
        changed = "; ".join(f"{name}={getattr(has, name)!r}, not {had.get(name)!r}" for name in other)
        refuse(f"salt/config.py makes other settings of it today: {changed}; a resumed run keeps those it had")
    others = [source for source in run.metadata.get("kernel_sources", []) if re.sub(r"/\d+$", "", source) != ref]
    if status.state != "COMPLETE":  # nobody says whether Kaggle mounts this; the notebook finds out at its start
        show(
            ("note", f"{record.run_id} ended as {status.state}: if Kaggle does not mount it, the new run stops at once")
        )
    settings = {key: value for key, value in record.settings.items() if key != LIMIT}  # of that session
    return record.preset, settings, [*others, f"{ref}/{version}"]


def build_run(plan: Plan, folder: pathlib.Path | None = None) -> BuiltKernel:
    """Builds the kernel of a run into NAME/ in a folder; without one in paths.BUILD, where one can look at it.

    Raises:
        ConfigurationError: settings that do not exist, or a kernel or metadata that Kaggle would not take.
    """
    resumed = plan.resumed.push.run_id if plan.resumed else ""
    folder, warnings = build_notebook(
        plan.program, plan.owner, folder or paths.BUILD, preset=plan.preset, settings=plan.settings, run_id=plan.run_id,
        resume=resumed,
    )  # fmt: skip
    if warnings:
        show(*(("note", warning) for warning in warnings))
    metadata = prepare_metadata(folder, plan.owner, plan.accelerator, plan.sources, plan.fold)
    content = (folder / metadata["code_file"]).read_text(encoding="utf-8")
    # The same for two pushes of the same notebook to the same machine, whatever their runs are called.
    same = content.replace(plan.run_id, "") + json.dumps(metadata, sort_keys=True)
    record = PushRecord(
        run_id=plan.run_id, kernel=plan.kernel, ref=metadata["id"], state="sending",
        sha256=hashlib.sha256(content.encode()).hexdigest(), content=hashlib.sha256(same.encode()).hexdigest(),
        preset=plan.preset, settings=plan.settings, machine=metadata.get("machine_shape", "CPU"), hours=plan.hours,
        resumed_from=resumed or None, resumed_source=plan.sources[-1] if plan.resumed and plan.sources else None,
    )  # fmt: skip
    return BuiltKernel(folder, metadata, content, record)


def push_deed(built: list[BuiltKernel], plan: Plan, previous: int) -> dict:
    """What a push would do, for a person to agree to: the same for the same notebooks, whatever their runs are called.

    Args:
        built: the kernels, several if the folds are fanned out.
        plan: of the run.
        previous: number of the newest version of the first, so that a word serves for one push.
    """
    first = built[0].metadata
    return {
        "push": [kernel.metadata["id"] for kernel in built], "version": previous + 1,
        "machine": first.get("machine_shape", "CPU"), "hours": plan.hours or MAX_HOURS,
        "internet": first["enable_internet"], "public": not first["is_private"], "preset": plan.preset,
        "settings": plan.settings, "resumes": built[0].record.resumed_from,
        "content": [kernel.record.content for kernel in built],
    }  # fmt: skip


def show_plan(plan: Plan, built: BuiltKernel) -> None:
    """Prints what is about to be pushed."""
    metadata = built.metadata
    given = [f"preset {plan.preset}"] if plan.preset else []
    given += [f"{key}={value}" for key, value in plan.settings.items()]
    given += [f"arguments {shlex.join(plan.program.arguments)}"] if plan.program.arguments else []
    internet = "on" if metadata["enable_internet"] else "off"
    size = len(built.content.encode()) / 1000
    rows = [
        ("kernel", f"{metadata['id']}, built from {plan.program.label}, {size:,.0f} kB"),
        ("run", plan.run_id),
        ("settings", ", ".join(given) or "the kernel's own"),
    ]
    if plan.resumed:
        resumed = plan.resumed.push
        rows.append(("resumes", f"{resumed.run_id}, version {resumed.version} of {resumed.ref}"))
    machine = metadata.get("machine_shape", "CPU")
    rows.append(("machine", f"{machine}, internet {internet}, at most {plan.hours or MAX_HOURS:g} h"))
    show(*rows)
    print("before the push", flush=True)
