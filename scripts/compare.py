"""Compares two training runs at the desk, tile by tile, by their out-of-fold predictions.

    python scripts/compare.py RUN_A RUN_B [--common]

Each RUN is a folder with `manifest.json` and `oof.npz`, or the name of one under runs/, and is checked against its
manifest first. Prints by how much B is better than A, with the 95 % interval of a paired bootstrap over tiles, where it
is better, and how many tiles more it would take to be sure. Both are scored nested (see score_oof.py). `--common`: on
the tiles that both runs held out.

The interval knows of tiles only. That the same settings, trained with another seed, score otherwise, it cannot know.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Compare two runs' out-of-fold predictions, tile by tile.")
    parser.add_argument("first", metavar="RUN_A", help="a run's folder, or its name under runs/")
    parser.add_argument("second", metavar="RUN_B", help="the run that may be better")
    parser.add_argument("--common", action="store_true", help="compare on the tiles that both runs held out")
    arguments = parser.parse_args(argv)

    from salt.scoring import compare_oof
    from scripts.score_oof import open_run

    try:
        _, first_manifest, first = open_run(arguments.first)
        _, second_manifest, second = open_run(arguments.second)
        result = compare_oof(first, second, common=arguments.common)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(comparison_table(first_manifest["run_id"], second_manifest["run_id"], result))
    return 0


def comparison_table(first: str, second: str, result: dict) -> str:
    """The comparison as text for a terminal, some 30 lines."""
    from scripts.score_oof import class_name

    low, high = result["interval"]
    lines = [
        f"A  {result['first_score']:.4f}  {first}",
        f"B  {result['second_score']:.4f}  {second}",
        "",
        f"B - A  {result['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, on {result['tiles']:,} tiles",
        f"B is better with probability {result['probability']:.1%}. {verdict(result)}",
        "",
        "  coverage          tiles    B - A    of the whole",
    ]
    for row in result["classes"]:
        value = "      -" if row["difference"] is None else f"{row['difference']:+.4f}"
        lines.append(f"  {class_name(row['class']):<15} {row['tiles']:>7,}  {value}         {row['part']:+.4f}")
    lines += ["", "  changed most      coverage      A      B"]
    lines += [
        f"  {row['id']:<15} {row['coverage']:>10.1%}   {row['first']:.2f}   {row['second']:.2f}"
        for row in result["largest"]
    ]
    return "\n".join(lines)


def verdict(result: dict) -> str:
    """What to make of the difference, in one sentence."""
    low, high = result["interval"]
    if low > 0:
        return "B is the better one."
    if high < 0:
        return "A is the better one."
    needed = result["tiles_to_settle"]
    if needed is None:
        return "They score the same."
    more = needed - result["tiles"]
    if more <= 0:
        return "It is a close call: with so many tiles, a true difference of this size would mostly have shown."
    return f"Not settled: {more:,} tiles more would show a true difference of this size, four times in five."


if __name__ == "__main__":
    sys.exit(main())
