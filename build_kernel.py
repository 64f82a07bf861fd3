#!/usr/bin/env python3
"""Ships a tested Python package to Kaggle as one readable notebook.

    python build_kernel.py train                               kernels/train.py -> build/train/train.ipynb
    python build_kernel.py --entry main.py --package path/pkg --out flat.py
    python build_kernel.py --trace kernel.log --map build/train/train.ipynb.map.json

The command of the package `flattener`. `make dist` makes both into one file, to be copied into other repositories.
"""

import gc
import sys
from pathlib import Path

from flattener.analysis import analyse
from flattener.build import KernelRequest, build_entry, build_report
from flattener.command import run_command
from flattener.errors import BuildError
from flattener.kaggle import ACCELERATORS, MAX_BYTES, NO_OWNER, RETIRED, find_owner, slugify
from flattener.library import Library
from flattener.trace import trace_log

__all__ = [  # with what others import from here
    "ACCELERATORS", "MAX_BYTES", "NO_OWNER", "RETIRED", "BuildError", "KernelRequest", "Library", "analyse",
    "build_entry", "build_kernel", "build_report", "find_owner", "main", "slugify", "trace_log",
]  # fmt: skip
ROOT = Path(__file__).resolve().parent


def build_kernel(name: str, root: Path = ROOT, out: Path | None = None, **options) -> Path:
    """Builds kernels/NAME.py of a repository into the folder OUT/NAME, and returns it; see `KernelRequest`."""
    return build_report(KernelRequest(name, Path(root), Path(out or root / "build"), **options)).path


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Runs the command line for the kernels of a repository; returns the exit status."""
    return run_command(arguments, root)


if __name__ == "__main__":
    gc.disable()  # the process ends before there is any garbage: syntax trees are many objects
    sys.exit(main())
