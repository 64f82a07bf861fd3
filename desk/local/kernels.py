"""The local stand-in for Kaggle: builds a kernel's notebook and runs it at this desk as Kaggle would."""

import contextlib
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterable

from desk import building, paths
from desk.competitions import competition_as_before, described_competitions, load_competition
from desk.errors import ConfigurationError, LocalRunError
from desk.local.competitions import competition_folder
from desk.local.endings import (
    can_resume,
    hold,
    keep_failed,
    keep_finished,
    remove,
    unfinished_run,
    verify_outputs,
)
from desk.local.mounts import (
    OWNER,
    check_weights,
    copy,
    mount_competition,
    mount_other_competition,
    mount_runs,
    verified_runs,
)
from desk.local.processes import choose_sandbox, execute, scheduler_address
from desk.output import show, shown
from desk.paths import AnyPath
from desk.runs import METADATA, new_run_id
from flattener.kaggle import slugify
from flattener.kernel_head import title_of
from salt.config import config_from_dict
from salt.config import preset as salt_preset


def run_kernel(
    kernel: str | building.Program, *, data: AnyPath | None = None, synthetic: int | None = None,
    tiles: int | None = None, preset: str | None = None, settings: dict | None = None,
    mounted_runs: Iterable[AnyPath] = (), weights: AnyPath | None = None, minutes: float = 720.0,
    runs: AnyPath | None = None, sandbox: str = "auto", resume: str | None = None,
) -> pathlib.Path:  # fmt: skip
    """Builds and runs one kernel.

    Args:
        kernel: name of a file in `kernels/`, without `.py`, or what else the kernel is built from.
        data, synthetic, tiles: which competition to mount, see `competition_folder`; nothing is if its head names none.
        preset: replaces the kernel's own `PRESET`, if given.
        settings: replaces the kernel's own `SET`, if given.
        mounted_runs: folders of earlier runs, or their names in `runs`, or the beginnings of these.
        weights: a folder to mount as a dataset.
        minutes: time limit of the notebook.
        runs: where the run's folder is made; None: this repository's runs/.
        sandbox: "namespaces", "guard", or "auto" for the first that works here.
        resume: name of an unfinished run in `runs`, whose output is mounted and whose settings are taken over.

    Returns:
        The run's folder, verified.

    Raises:
        DeskError, ValueError: bad input, found before the notebook starts; or the notebook failed, ran too long,
            or left something else than its manifest says.
    """
    program = building.Program(kernel) if isinstance(kernel, str) else kernel
    name = program.kernel
    runs = pathlib.Path(runs or paths.RUNS).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    # Beside the finished runs, so that a rename makes a finished run of it; hidden, because it is none yet.
    root = pathlib.Path(tempfile.mkdtemp(prefix=f".{name.replace('/', '-')}-", dir=runs))
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: remove(root))
        mounted = earlier = verified_runs(mounted_runs, runs)
        resumed = None
        if resume is not None:
            begun, manifest = unfinished_run(name, resume, runs)
            resumed, settings = manifest["run_id"], {**manifest["config"], **(settings or {})}
            mounted = [*earlier, (begun, manifest)]
        for _, manifest in mounted:
            program = of_same_competition(program, manifest)
        metadata = {name: build_notebook(program, root / "built")}
        notebook = root / "built" / name / f"{name}.ipynb"
        parameters = choose_parameters(name, notebook, preset, settings, earlier, resumed)
        run_id = parameters["RUN_ID"]
        stack.enter_context(hold(runs / f".{run_id}"))
        root = root.rename(runs / f".{run_id}")  # by this name --resume finds it after a kill
        if weights is not None:
            check_weights(pathlib.Path(weights))
        scheduler = find_scheduler(parameters)
        mode, why = choose_sandbox(sandbox, root, scheduler)
        (root / "input").mkdir()
        for slug in metadata[name].get("competition_sources", []):
            if slug in described_competitions().values():
                competition = load_competition(slug)
                mount_competition(competition, competition_folder(competition, data, synthetic, tiles), root)
            else:
                mount_other_competition(slug, data, root)
        for other in {manifest["kernel"] for _, manifest in mounted} - metadata.keys():
            metadata[other] = kernel_of_run(other, root / "built", program.competition)
        mount_runs(mounted, metadata, root)
        if weights is not None:
            copy(pathlib.Path(weights), root / "input" / "datasets" / OWNER / "salt-weights")
        print(f"{run_id}: {why}; at most {minutes:g} minutes", flush=True)
        try:
            execute(name, root, parameters, mode, minutes, scheduler)
            verify_outputs(name, root / "working", run_id)
        except (LocalRunError, ValueError) as error:
            failed = keep_failed(name, root, runs / f"{run_id}.failed")
            message = str(error).replace(str(root / "working"), "the working folder")
            more = f"\nresume it by --resume {run_id}" if can_resume(failed / "working") else ""
            raise LocalRunError(f"{message}\nkept to look at: {shown(failed)}{more}") from error
        except (KeyboardInterrupt, SystemExit):
            if can_resume(root / "working"):
                failed = keep_failed(name, root, runs / f"{run_id}.failed")
                print(f"\nkept: {shown(failed)}\nresume it by --resume {run_id}", file=sys.stderr)
            raise
        return keep_finished(name, root, runs / run_id)


def of_same_competition(program: building.Program, manifest: dict) -> building.Program:
    """A kernel built for the competition of an earlier run.

    Raises:
        ConfigurationError: another one is named.
    """
    sources, run = building.kernel_competitions(program), f"run {manifest['run_id']}"
    competition = competition_as_before(program.competition, sources, manifest.get("competition"), run)
    return dataclasses.replace(program, competition=competition)


def build_notebook(program: building.Program, out: pathlib.Path) -> dict:
    """Builds `out`/NAME/NAME.ipynb and returns the content of the kernel-metadata.json beside it."""
    if not program.request().source.is_file():
        kernels = sorted(path.stem for path in (paths.ROOT / "kernels").glob("*.py"))
        raise LocalRunError(f"kernel {program.given!r} does not exist; kernels/ has {', '.join(kernels) or 'none'}")
    try:
        folder, warnings = building.build_notebook(program, OWNER, out)
    except ConfigurationError as error:
        raise LocalRunError(f"kernel {program.kernel} cannot be built: {error}") from error
    if warnings:
        show(*(("note", warning) for warning in warnings))
    return json.loads((folder / METADATA).read_text(encoding="utf-8"))


def kernel_of_run(name: str, out: pathlib.Path, competition: str | None = None) -> dict:
    """The metadata of the kernel that made a run; of one that is not in kernels/, what its name says."""
    if (paths.ROOT / "kernels" / f"{name}.py").is_file():
        return build_notebook(building.Program(name, competition=competition), out)
    return {"id": f"{OWNER}/{slugify(title_of(name))}"}


def choose_parameters(
    name: str, notebook: pathlib.Path, preset: str | None, settings: dict | None,
    earlier: list[tuple[pathlib.Path, dict]], resume: str | None = None,
) -> dict:  # fmt: skip
    """What replaces the values in the notebook's parameters cell; checked here, where it costs no run.

    Raises:
        LocalRunError: the kernel has no such parameter.
        ConfigError: an unknown setting, a wrong type, a value out of range.
    """
    default = building.read_parameters(notebook)
    given = {"PRESET": preset, "SET": settings or None, "RESUME": resume}
    parameters: dict = {key: value for key, value in given.items() if value is not None}
    for key in (*parameters, "RUN_ID"):
        if key not in default:
            present = ", ".join(default) or "none"
            raise LocalRunError(f"kernel {name} has no {key} in its parameters cell, which has {present}")
    chosen = parameters.get("PRESET", default.get("PRESET"))
    check_settings(chosen, parameters.get("SET") or default.get("SET") or {}, earlier)
    return parameters | {"RUN_ID": new_run_id(name, "resumed" if resume else chosen)}


def find_scheduler(parameters: dict) -> tuple[str, int] | None:
    """(host, port) of the cluster that a notebook uses; the path of a scheduler file becomes absolute in `parameters`.

    Raises:
        LocalRunError: see `scheduler_address`.
    """
    cluster = parameters.get("SET", {}).get("cluster", "")
    if not cluster:
        return None
    if "://" not in cluster:
        parameters["SET"] = {**parameters["SET"], "cluster": str(pathlib.Path(cluster).resolve())}
    return scheduler_address(cluster)


def check_settings(preset: str | None, settings: dict, earlier: list[tuple[pathlib.Path, dict]]) -> None:
    """Raises `ConfigError` for what the notebook would refuse: changes of a preset, or of a mounted run's settings."""
    if preset is None and earlier:
        config_from_dict({**earlier[0][1]["config"], **settings})
    else:
        salt_preset("unet" if preset is None else preset, **settings)
