"""Scores a training run at the desk, by its out-of-fold predictions.

    python scripts/score_oof.py RUN

RUN is a folder with `manifest.json` and `oof.npz`, or the name of one under runs/. The run is checked against its
manifest first. Prints the score at the best level and at probability 0.5, each with its standard error and 95 %
interval, the folds, the coverage classes and the confusion of empty and salt tiles; writes all of it to `score.json` in
the run's folder.
"""
import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Score a run's out-of-fold predictions.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its name under runs/")
    arguments = parser.parse_args(argv)

    from salt.files import whole_file
    from salt.scoring import score_oof

    try:
        folder, manifest, oof = open_run(arguments.run)
        score = score_oof(oof)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with whole_file(folder / "score.json") as temporary:
        temporary.write_text(json.dumps({"run_id": manifest["run_id"], **score}, indent=1) + "\n", encoding="utf-8")
    print(score_table(manifest["run_id"], score))
    print(f"\nwritten to {folder / 'score.json'}")
    return 0


def open_run(run: str) -> tuple:
    """The folder, manifest and out-of-fold predictions of RUN, checked against its manifest."""
    from salt.artifacts import read_oof, verify_run

    folder = run_folder(run)
    manifest = verify_run(folder)
    if "oof.npz" not in manifest["files"]:
        held = ", ".join(manifest["files"]) or "nothing"
        raise ValueError(f"{folder}: no oof.npz among its files ({held}); score a run of the train kernel")
    return folder, manifest, read_oof(folder / "oof.npz")


def run_folder(run: str) -> pathlib.Path:
    """The folder that RUN means: the path itself, else the name under runs/."""
    for folder in (pathlib.Path(run), ROOT / "runs" / run):
        if folder.is_dir():
            return folder
    present = sorted(path.name for path in (ROOT / "runs").glob("*") if path.is_dir())
    raise ValueError(f"{run!r} is neither a folder nor a run under runs/, which has {', '.join(present) or 'none yet'}")


def score_table(run_id: str, score: dict) -> str:
    """The score as text for a terminal, some 25 lines."""
    folds = len(score["folds"])
    lines = [f"{run_id}: {score['tiles']:,} tiles in {folds} fold{'s' * (folds != 1)}", ""]
    lines.append("                    level   score   s.e.    95 % interval")
    for name, key, level in (("best level", "best", score["best_level"]), ("probability 0.5", "half", 128)):
        low, high = score[f"{key}_interval"]
        error = score[f"{key}_standard_error"]
        lines.append(f"  {name:<17} {level:>5}   {score[f'{key}_score']:.4f}  {error:.4f}  {low:.4f} to {high:.4f}")
    first, last = score["flat_levels"]
    lines.append(f"  within 0.002 of the best: levels {first} to {last}; the rest is at level {score['best_level']}")
    lines += ["", "  fold              tiles           score"]
    lines += [f"  {row['fold']:<15} {row['tiles']:>7,}          {row['score']:.4f}" for row in score["folds"]]
    lines += ["", "  coverage          tiles   share   score"]
    for row in score["classes"]:
        name = class_name(row["class"])
        value = "     -" if row["score"] is None else f"{row['score']:.4f}"
        lines.append(f"  {name:<15} {row['tiles']:>7,}  {row['share']:>5.1%}   {value}")
    counts = score["confusion"]
    lines += ["", "  truth             predicted empty   predicted salt"]
    for truth in ("empty", "salt"):
        lines.append(f"  {truth:<15} {counts[f'{truth}_as_empty']:>17,} {counts[f'{truth}_as_salt']:>16,}")
    return "\n".join(lines)


def class_name(number: int) -> str:
    """A coverage class as a reader wants it: "empty", "0 to 10 %" ..."""
    return "empty" if number == 0 else f"{10 * number - 10} to {10 * number} %"


if __name__ == "__main__":
    sys.exit(main())
