"""In which order the kernels run, since some need the outputs of others."""

import graphlib
import pathlib
import tempfile

from desk import paths
from desk.building import Program, read_parameters
from desk.errors import LocalRunError
from desk.local.kernels import build_notebook


def plan_kernels(competition: str | None = None) -> dict[str, tuple[list[str], bool]]:
    """Builds every kernel, for the competition of that name; in running order, the kernels whose outputs each needs,
    and whether it has a preset."""
    names = sorted(path.stem for path in (paths.ROOT / "kernels").glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        metadata = {name: build_notebook(Program(name, competition=competition), out) for name in names}
        parameters = {name: read_parameters(out / name / f"{name}.ipynb") for name in names}
    return order_kernels(metadata, parameters)


def order_kernels(metadata: dict[str, dict], parameters: dict[str, dict]) -> dict[str, tuple[list[str], bool]]:
    """See `plan_kernels`; `metadata` and `parameters` are the kernels' own, by name."""
    slugs = {entry["id"].rpartition("/")[2]: name for name, entry in metadata.items()}
    needed = {}
    for name, entry in metadata.items():
        wanted = [source.split("/")[1] for source in entry["kernel_sources"]]  # owner/slug or owner/slug/version
        if unknown := [slug for slug in wanted if slug not in slugs]:
            present = ", ".join(slugs)
            raise LocalRunError(f"kernel {name} needs the output of {', '.join(unknown)}; kernels/ makes {present}")
        needed[name] = [slugs[slug] for slug in wanted]
    try:
        order = list(graphlib.TopologicalSorter(needed).static_order())
    except graphlib.CycleError as error:
        raise LocalRunError(f"kernels need each other's outputs in a circle: {' <- '.join(error.args[1])}") from error
    return {name: (needed[name], "PRESET" in parameters[name]) for name in order}
