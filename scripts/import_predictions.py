"""Makes a run of predictions that another program made, so that every command takes them as it takes ours.

    python scripts/import_predictions.py SOURCE --data DIR [--name N] [--folds FILE_OR_RUN]

SOURCE is an `.npz` with `ids` and one array of predictions, an `.npy` (with `--ids FILE`), a folder of PNG or npy files
named by id, or a `.csv` with the columns of a submission. Predictions are `[N, H, W]`, of several classes
`[N, H, W, C]` or `[N, C, H, W]`: probabilities as float in [0, 1], uint8 or uint16, masks as bool, or logits with
`--logits`. Large ones are read tile by tile from a folder of npy files, which may differ in size where the
competition's images do. The ids say whether they are of training tiles, which makes a run for score_oof.py, compare.py,
ensemble.py and report.py, or of test tiles, which makes one for submit.py.

Each tile's prediction must come from a model that was not trained on it, else every score is too high; nobody can check
that here. `--folds` takes a table of the columns id and fold, or a run with the same folds, which `compare.py` and
`ensemble.py` need; an npz may hold an array `fold` instead.

What looks transposed, mirrored, upside down or inverted by its score is refused, and the remedy named.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.command import Outcome, VerbParser, run_command
from desk.output import shown

APPLY = ("transpose", "mirror", "flip", "turn", "invert", "crop")


def main(arguments=None) -> int:
    return run_command(import_files, parse_arguments, arguments)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Make a run of predictions that another program made.",
        epilog="example: python scripts/import_predictions.py oof.npz --data data --name pytorch --folds folds.csv",
    )
    parser.add_argument("source", metavar="SOURCE", type=pathlib.Path, help="an npz, npy, csv, or a folder of files")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, required=True, help="the competition")
    parser.add_argument("--competition", metavar="C", default="tgs", help="described in salt/, or a .py (default: tgs)")
    parser.add_argument("--name", metavar="N", help="of the run (default: imported-, and the time)")
    parser.add_argument("--folds", metavar="F", help="a CSV of id and fold, or a run with the same folds")
    parser.add_argument("--ids", metavar="FILE", type=pathlib.Path, help="the ids of an npy, one a line, in its order")
    parser.add_argument("--logits", action="store_true", help="the values are logits")
    parser.add_argument("--apply", nargs="+", choices=APPLY, default=[], help="what to do to the predictions first")
    parser.add_argument("--as-is", action="store_true", help="import what looks transposed or inverted, too")
    parser.add_argument("--trained-by", metavar="RUN", help="test tiles: the run of the model's training tiles")
    parser.add_argument("--runs", type=pathlib.Path, default=paths.RUNS, help="where runs are kept (default: runs)")
    return parser.parse_args(arguments)


def import_files(options: argparse.Namespace) -> Outcome:
    from desk.importing import ImportRequest, import_predictions

    asked = {name: value for name, value in vars(options).items() if name in ImportRequest._fields}
    folder = import_predictions(ImportRequest(**{**asked, "apply": tuple(options.apply)}))
    print(f"\nwritten to {shown(folder)}")
    has_submission = (folder / "submission.csv").is_file()
    following = f"submit.py {folder.name} --dry-run" if has_submission else f"score_oof.py {folder.name}"
    return Outcome({"run": folder.name, "folder": folder.resolve()}, (f"python scripts/{following}",))


if __name__ == "__main__":
    sys.exit(main())
