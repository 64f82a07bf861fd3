"""Writes a first kernel, to be changed: kernels/NAME.py, which build_kernel.py, run_local.py and push.py take as it is.

    python scripts/new_kernel.py eda

A kernel is any Python file. The head tells Kaggle what it mounts and on what machine it runs; without one it is a
private notebook on a CPU, without internet, with a title that is made of the file's name.
"""

import argparse
import pathlib
import re
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.errors import ConfigurationError
from desk.output import shown
from flattener.kernel_head import title_of
from salt.files import whole_file

TEMPLATE = '''\
# /// script
# [tool.kaggle]
# title = "{title}"
# accelerator = ""
# internet = false
# competition_sources = []
# dataset_sources = []
# kernel_sources = []
# ///
"""What {name} does, in a sentence."""

import pathlib

# %% [markdown]
# ### The inputs
# What the head names is mounted here, on Kaggle as at the desk.

# %%
for path in sorted(pathlib.Path("../input").rglob("*"))[:50]:
    print(path)
'''


def main(arguments=None) -> int:
    return run_command(write_kernel, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Write a first kernel into kernels/, to be changed.", epilog="example: new_kernel.py eda"
    )
    parser.add_argument("name", metavar="NAME", help="of the file in kernels/, without .py")
    parser.add_argument("--folder", type=pathlib.Path, default=paths.ROOT / "kernels", help="instead of kernels")
    return parser.parse_args(arguments)


def write_kernel(options: argparse.Namespace) -> Outcome:
    name, path = options.name, options.folder / f"{options.name}.py"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ConfigurationError(f"NAME {name!r}: use letters, digits, - and _, and begin with a letter")
    if path.exists():
        raise ConfigurationError(f"{shown(path)}: is there already; choose another name, or change that file")
    with whole_file(path) as temporary:
        temporary.write_text(TEMPLATE.format(title=title_of(name), name=name), encoding="utf-8")
    print(f"written: {shown(path)}")
    return Outcome({"kernel": path.resolve()}, (f"python scripts/run_local.py {name}",))


if __name__ == "__main__":
    sys.exit(main())
