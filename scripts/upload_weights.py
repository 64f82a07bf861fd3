"""Makes a private Kaggle dataset of weight files, for kernels that run without internet.

    python scripts/upload_weights.py weights/vgg16.weights.h5
    python scripts/upload_weights.py weights/*.h5 --dataset me/salt-weights

Kaggle makes a dataset, or a version of one, without the files whose upload failed. Here nothing is published until all
are uploaded, and afterwards Kaggle's own list of files is compared, name by name and size by size. A file with the
SHA-256 of the others, which stand in its name too, comes with them: weights of one network are all of one size. A
dataset that holds these very files already stays as it is; what else it holds, a new version holds too.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command


def main(arguments=None, link=None) -> int:
    return run_command(upload, parse_arguments, arguments, link, resumable=True)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Make a private Kaggle dataset of weight files, or a new version of it.",
        epilog="example: python scripts/upload_weights.py weights/vgg16.weights.h5",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=pathlib.Path)
    parser.add_argument("--dataset", metavar="O/D", help="owner and slug (default: your account's salt-weights)")
    parser.add_argument("--runs", type=pathlib.Path, default=paths.RUNS, help="where runs are kept (default: runs)")
    return parser.parse_args(arguments)


def upload(options: argparse.Namespace, link=None) -> Outcome:
    from desk.kaggle.transport import KaggleLink
    from desk.uploading import upload_weights

    ref = upload_weights(link or KaggleLink(), options.files, options.dataset, options.runs)
    print(f'put dataset_sources = ["{ref}"] into the head of the kernel')
    following = f"python scripts/push.py train --set weights={options.files[0].name}"
    return Outcome({"dataset": ref, "files": [path.name for path in options.files]}, (following,))


if __name__ == "__main__":
    sys.exit(main())
