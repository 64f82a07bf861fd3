"""Scores a training run, or an ensemble of several, at the desk, by out-of-fold predictions.

    python scripts/score_oof.py RUN [RUN ...] [--data DIR]

RUN is a folder with `manifest.json` and `oof.npz`, or the name of one under runs/. Each run is checked against its
manifest first. Several runs are scored as their ensemble, the mean of their probabilities: they must hold the same
tiles in the same folds.

Prints the score at probability 0.5, at the best level, with the best minimum area, and *nested*: with level and area
chosen on other folds than those that are scored. Then the folds, the coverage classes, the confusion of empty and salt
tiles, the calibration, and what the leaderboard is expected to say. `--data`, the competition's folder, adds a table by
depth. A single run's figures are also written to `score.json` in its folder.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Score out-of-fold predictions of a run or of an ensemble of runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder, or its name under runs/")
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, help="the competition, for its depths.csv")
    arguments = parser.parse_args(argv)

    from salt.files import whole_file

    try:
        folders, manifests, oofs = zip(*(open_run(run) for run in arguments.runs), strict=True)
        score = score_runs(manifests, oofs, arguments.data)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lines = [score_table(score)]
    if len(folders) == 1:
        path = folders[0] / "score.json"
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(score, indent=1) + "\n", encoding="utf-8")
        lines.append(f"\nwritten to {path}")
    print(*lines, sep="\n")
    return 0


def score_runs(manifests, oofs, data=None) -> dict:
    """All that is known of a run or an ensemble: see `salt.scoring.score_oof`; and `run_id` and the further tables.

    Args:
        manifests: of the runs.
        oofs: their out-of-fold predictions, in the same order.
        data: the competition's folder, for its depths; None: no table by depth.
    """
    from salt.ensembles import mean_oof
    from salt.scoring import calibrate, expect_leaderboard, score_by_depth, score_oof

    oof = mean_oof(list(oofs))
    score = score_oof(oof)
    return {
        "run_id": " + ".join(manifest["run_id"] for manifest in manifests),
        **score,
        "depths": None if data is None else score_by_depth(oof, competition_depths(data, oof.ids)),
        "calibration": calibrate(oof),
        "leaderboard": expect_leaderboard(score["nested_score"], score["nested_standard_error"]),
    }


def competition_depths(data, ids):
    """The depths of tiles, float `[N]`, from the competition in the folder `data`."""
    from salt.competition import find_competition
    from salt.data import read_depths

    competition = find_competition([data])
    if competition.depths_table is None:
        raise ValueError(f"--data {data}: {competition.folder} has no depths.csv; get it, or score without --data")
    return read_depths(competition, ids)


def open_run(run: str) -> tuple:
    """The folder, manifest and out-of-fold predictions of RUN, checked against its manifest."""
    from salt.artifacts import read_oof, verify_run

    folder = run_folder(run)
    manifest = verify_run(folder)
    if "oof.npz" not in manifest["files"]:
        held = ", ".join(manifest["files"]) or "nothing"
        raise ValueError(f"{folder}: no oof.npz among its files ({held}); score a run of the train kernel")
    oof = read_oof(folder / "oof.npz")
    trained, held = set(manifest["config"]["train_folds"]), set(oof.fold.tolist())
    if trained != held:
        raise ValueError(
            f"{folder / 'oof.npz'}: has tiles of the folds {sorted(held)}, but {sorted(trained)} were trained "
            "(train_folds in manifest.json); a fold without tiles has no score: train it anew, or fetch the run again"
        )
    return folder, manifest, oof


def run_folder(run: str) -> pathlib.Path:
    """The folder that RUN means: the path itself, else the name under runs/."""
    for folder in (pathlib.Path(run), ROOT / "runs" / run):
        if folder.is_dir():
            return folder
    present = sorted(path.name for path in (ROOT / "runs").glob("*") if path.is_dir())
    raise ValueError(f"{run!r} is neither a folder nor a run under runs/, which has {', '.join(present) or 'none yet'}")


def score_table(score: dict) -> str:
    """The score as text for a terminal, some 60 lines."""
    folds = len(score["folds"])
    blocks = [
        [f"{score['run_id']}: {score['tiles']:,} tiles in {folds} fold{'s' * (folds != 1)}"],
        headline_lines(score),
        leaderboard_lines(score),
        ["  fold              tiles           score"]
        + [f"  {row['fold']:<15} {row['tiles']:>7,}          {row['score']:.4f}" for row in score["folds"]],
        ["  coverage          tiles   share   score"]
        + [
            f"  {class_name(row['class']):<15} {row['tiles']:>7,}  {row['share']:>5.1%}   {score_text(row['score'])}"
            for row in score["classes"]
        ],
        depth_lines(score["depths"]),
        confusion_lines(score["confusion"]),
        calibration_lines(score["calibration"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks)


def headline_lines(score) -> list[str]:
    """The four scores, and what to make of them."""
    choices = score["choices"]
    levels, areas = (span([choice[name] for choice in choices]) for name in ("level", "minimum_area"))
    level, area = str(score["best_level"]), str(score["minimum_area"])
    rows = [
        ("probability 0.5", "half", "128", "0"),
        ("best level", "best", level, "0"),
        ("best level, area", "chosen", level, area),
        ("nested", "nested", levels, areas),
    ]
    lines = ["                      level      area   score   s.e.    95 % interval"]
    for name, key, level, area in rows:
        low, high = score[f"{key}_interval"]
        error = score[f"{key}_standard_error"]
        lines.append(
            f"  {name:<16} {level:>8}  {area:>8}   {score[f'{key}_score']:.4f}  {error:.4f}  {low:.4f} to {high:.4f}"
        )
    first, last = score["flat_levels"]
    flattery = score["chosen_score"] - score["nested_score"]
    where = "folds" if len(score["folds"]) > 1 else f"{len(choices) - 1} of {len(choices)} parts of the fold"
    return lines + [
        f"  levels {first} to {last} score within 0.002 of the best",
        f"  nested: level and area chosen on the other {where}; choosing them on the tiles",
        f"  themselves flatters by {flattery:+.4f}. All tables below are nested.",
    ]


def leaderboard_lines(score) -> list[str]:
    """What the leaderboard is expected to say, or why nothing is."""
    expected = score["leaderboard"]
    if expected is None:
        return ["  leaderboard: no expectation; scores that are known with theirs lie between 0.708 and 0.873"]
    lines = ["  leaderboard      expected    95 % interval"]
    for name in ("public", "private"):
        low, high = expected[name]["interval"]
        lines.append(f"  {name:<15}   {expected[name]['score']:.4f}    {low:.4f} to {high:.4f}")
    return lines + ["  (if these are the competition's own tiles, in random folds)"]


def depth_lines(rows) -> list[str]:
    """The score by depth, or how to get it."""
    if rows is None:
        return ["  by depth: give --data DIR, the competition's folder, whose depths.csv has the depths"]
    lines = ["  depth             tiles   empty   score"]
    for row in rows:
        depths = f"{row['low']:.0f} to {row['high']:.0f}"
        lines.append(f"  {depths:<15} {row['tiles']:>7,}  {row['empty']:>5.1%}   {row['score']:.4f}")
    return lines


def confusion_lines(counts) -> list[str]:
    lines = ["  truth             predicted empty   predicted salt"]
    for truth in ("empty", "salt"):
        lines.append(f"  {truth:<15} {counts[f'{truth}_as_empty']:>17,} {counts[f'{truth}_as_salt']:>16,}")
    return lines


def calibration_lines(calibration) -> list[str]:
    lines = ["  probability          pixels   predicted    salt"]
    for row in calibration["bins"]:
        predicted, salt = ("     -" if row[name] is None else f"{row[name]:>6.1%}" for name in ("predicted", "salt"))
        lines.append(f"  {row['low']:.1f} to {row['high']:.1f}  {row['pixels']:>16,}      {predicted}  {salt}")
    return lines + [f"  calibration error {calibration['error']:.4f}: predicted less salt, mean over all pixels"]


def span(values) -> str:
    """Such as "120-131", or "128" where all are equal."""
    return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"


def score_text(score) -> str:
    return "     -" if score is None else f"{score:.4f}"


def class_name(number: int) -> str:
    """A coverage class as a reader wants it: "empty", "0 to 10 %" ..."""
    return "empty" if number == 0 else f"{10 * number - 10} to {10 * number} %"


if __name__ == "__main__":
    sys.exit(main())
