"""The local Kaggle stand-in: builds a kernel's notebook and runs it at the desk as Kaggle would.

    python scripts/run_local.py train --data path/to/tgs --preset unet --set epochs=20
    python scripts/run_local.py predict --data path/to/tgs --run train-unet-20261122-131502-ab12
    python scripts/run_local.py train --data path/to/tgs --set pseudo=0.3 --run predict-20261122-141502-cd34
    python scripts/run_local.py train --data path/to/tgs --resume train-unet-20261122-131502-ab12
    python scripts/run_local.py path/to/main.py --package path/to/pkg --args "--epochs 1"

The notebook finds `../input` laid out like Kaggle's mounts and read-only, `salt` nowhere and no network
(desk/local/sandbox.py). What it leaves in its working folder is checked against its manifest.json and becomes
`runs/<run id>/`, together with the executed notebook, as .ipynb and .html, and its log. A run that fails leaves
`runs/<run id>.failed/` to look at instead. One that was interrupted, killed, or stopped by its time limit can be
resumed, if it had begun to train.
"""

import argparse
import dataclasses
import json
import pathlib
import signal
import sys

from desk import paths
from desk.building import add_program_options, kernel_competitions, read_program
from desk.command import Outcome, VerbParser, run_command
from desk.errors import Exit
from desk.local.docker import add_docker_option, run_in_docker
from desk.output import shown
from flattener.settings import bind_text, parse_settings


def main(arguments=None) -> int:
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(Exit.ENDED)
    )  # as an exception, so that what was begun is cleared away
    return run_command(run_local, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Build a kernel's notebook and run it at the desk as Kaggle would; outputs go to runs/<run id>/.",
        epilog="example: python scripts/run_local.py train --synthetic 400 --preset demo --set epochs=5",
    )
    parser.add_argument("name", metavar="NAME", help="the kernel: a file in kernels/, without .py, or a script's path")
    add_program_options(
        parser,
        "folder of the competition that the kernel's head names, zips or extracted; each further one, or if it names "
        "none: a file or folder that the kernel reads, to be shipped with it",
    )
    parser.add_argument("--synthetic", metavar="N", type=int, help="make up N training and N/4 test tiles")
    parser.add_argument("--tiles", metavar="N", type=int, help="mount only N training and N/4 test tiles of DIR")
    parser.add_argument("--preset", metavar="P", help="settings to begin with (salt/config.py lists the presets)")
    parser.add_argument("--set", metavar="key=value", action="extend", nargs="+", default=[], help="change settings")
    parser.add_argument(
        "--run", metavar="RUN", action="extend", nargs="+", default=[],
        help="mount the outputs of these earlier runs, folders or names of folders in RUNS: of train for predict, of "
        "predict for a train that learns from its predictions",
    )  # fmt: skip
    parser.add_argument(
        "--resume", metavar="RUN", help="resume this unfinished run, with its settings; --set may give it more time"
    )
    parser.add_argument("--weights", metavar="DIR", type=pathlib.Path, help="mount this folder as a dataset of weights")
    parser.add_argument("--minutes", metavar="LIMIT", type=float, default=720, help="time limit (default: 720)")
    parser.add_argument("--runs", type=pathlib.Path, default=paths.RUNS, help="where runs are kept (default: runs)")
    parser.add_argument(
        "--sandbox", choices=("auto", "namespaces", "guard"), default="auto",
        help="how the notebook is walled in; auto takes namespaces where the system allows them",
    )  # fmt: skip
    add_docker_option(parser)
    options = parser.parse_args(bind_text(sys.argv[1:] if arguments is None else arguments))
    options.program = read_program(parser, options)
    competitions = kernel_competitions(options.program)
    mounted, shipped = (options.data[:1], options.data[1:]) if competitions else ([], options.data)
    options.competition = mounted[0] if mounted else None
    options.program = dataclasses.replace(options.program, data=tuple(shipped))
    if competitions and not mounted and options.synthetic is None:
        parser.error(f"one of the arguments --data --synthetic is required, for {competitions[0]}")
    if options.synthetic is not None and (mounted or not competitions):
        reason = "argument --data" if mounted else "a kernel whose head names no competition"
        parser.error(f"argument --synthetic: not allowed with {reason}")
    if options.tiles is not None and not mounted:
        parser.error("--tiles N takes a part of --data DIR; with --synthetic, say --synthetic N")
    if options.resume is not None and options.preset is not None:
        parser.error("--resume RUN keeps the settings of RUN: leave out --preset")
    return options


def run_local(options: argparse.Namespace) -> Outcome:
    from desk.local.kernels import run_kernel

    if options.docker is not None:
        return run_in_docker("run_local", options, options.runs)
    folder = run_kernel(
        options.program, data=options.competition, synthetic=options.synthetic, tiles=options.tiles,
        preset=options.preset, settings=parse_settings(options.set), mounted_runs=options.run, weights=options.weights,
        minutes=options.minutes, runs=options.runs, sandbox=options.sandbox, resume=options.resume,
    )  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    finished = manifest.get("finished", True)
    print(f"\n{'finished' if finished else 'not finished'}: {shown(folder)}")
    if not finished:
        print(f"resume it by --resume {folder.name}")
    return Outcome({"run": folder.name, "folder": folder, "finished": finished, "files": list(manifest["files"])})


if __name__ == "__main__":
    sys.exit(main())
