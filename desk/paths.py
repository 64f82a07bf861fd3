"""Where things lie in this repository."""

import os
import pathlib

AnyPath = str | os.PathLike[str]
ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"  # what can be made again
RUNS = ROOT / "runs"
