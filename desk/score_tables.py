"""Scores and comparisons as text for a terminal."""


def score_table(score: dict) -> str:
    """The score as text for a terminal, some 60 lines."""
    folds = len(score["folds"])
    blocks = [
        [f"{score['run_id']}: {score['tiles']:,} tiles in {folds} fold{'s' * (folds != 1)}, {score['metric']}"],
        headline_lines(score),
        leaderboard_lines(score) if "leaderboard" in score else [],
        ["  fold              tiles           score"]
        + [f"  {row['fold']:<15} {row['tiles']:>7,}          {row['score']:.4f}" for row in score["folds"]],
        object_lines(score["objects"]) if "objects" in score else [],
        class_lines(score) if "of_class" in score else [],
        [f"  coverage          {'masks' if 'of_class' in score else 'tiles'}   share   score"]
        + [
            f"  {class_name(row['class']):<15} {row['tiles']:>7,}  {row['share']:>5.1%}   {score_text(row['score'])}"
            for row in score["classes"]
        ],
        depth_lines(score["depths"]) if "depths" in score else [],
        leak_lines(score["leak"]) if "leak" in score else [],
        confusion_lines(score["confusion"], score["target"]),
        calibration_lines(score["calibration"], score["target"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def headline_lines(score: dict) -> list[str]:
    """The four scores, and what to make of them."""
    choices = score["choices"]
    classes = score.get("of_class", [{"level": score["best_level"], "minimum_area": score["minimum_area"]}])
    best, nested = (
        [span([number for row in rows for number in numbers(row[name])]) for name in ("level", "minimum_area")]
        for rows in (classes, choices)
    )
    rows = [
        ("probability 0.5", "half", "128", "0"),
        ("best level", "best", str(score["best_level"]), "0"),
        ("best level, area" if len(classes) == 1 else "best of classes", "chosen", *best),
        ("nested", "nested", *nested),
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
    of_classes = ["  best of classes: each class has a level and an area of its own"] if len(classes) > 1 else []
    return lines + [
        f"  levels {first} to {last} score within 0.002 of the best",
        f"  nested: level and area chosen on the other {where}; choosing them on the tiles",
        f"  themselves flatters by {flattery:+.4f}. All tables below are nested.",
        *of_classes,
    ]


def numbers(value: int | list[int]) -> list[int]:
    """The level or area of the only class, or those of several."""
    return value if isinstance(value, list) else [value]


def leaderboard_lines(score: dict) -> list[str]:
    """What the leaderboard is expected to say, or why nothing is."""
    expected = score["leaderboard"]
    if expected is None:
        low, high = score["leaderboard_range"]
        return [f"  leaderboard: no expectation; scores that are known with theirs lie between {low} and {high}"]
    lines = ["  leaderboard      expected    95 % interval"]
    for name in ("public", "private"):
        low, high = expected[name]["interval"]
        lines.append(f"  {name:<15}   {expected[name]['score']:.4f}    {low:.4f} to {high:.4f}")
    return lines + ["  (if these are the competition's own tiles, in random folds)"]


def object_lines(found: dict) -> list[str]:
    """The score over objects, at the nested levels and areas."""
    low, high = found["interval"]
    lines = [f"  F2 over objects, nested  {found['score']:.4f}  {found['standard_error']:.4f}  {low:.4f} to {high:.4f}"]
    if found["touching"]:
        lines.append("  (objects that touch count as one; --data DIR, the competition's folder, tells them apart)")
    return lines


def class_lines(score: dict) -> list[str]:
    """The score of each class, and how often it is there and found."""
    lines = ["  class              there   found   false    score   level      area"]
    for name, row in zip(score["class_names"], score["of_class"], strict=True):
        found, false = row["marked_as_marked"], row["empty_as_marked"]
        lines.append(
            f"  {name:<15} {found + row['marked_as_empty']:>8,}  {found:>6,}  {false:>6,}   {row['score']:.4f}"
            f"  {row['level']:>6}  {row['minimum_area']:>8}"
        )
    return lines


def depth_lines(rows: list[dict] | None) -> list[str]:
    """The score by depth, or how to get it."""
    if rows is None:
        return ["  by depth: give --data DIR, the competition's folder, whose depths.csv has the depths"]
    if not rows:
        return ["  by depth: none, since there is no depths.csv"]
    lines = ["  depth             tiles   empty   score"]
    for row in rows:
        depths = f"{row['low']:.0f} to {row['high']:.0f}"
        lines.append(f"  {depths:<15} {row['tiles']:>7,}  {row['empty']:>5.1%}   {row['score']:.4f}")
    return lines


def leak_lines(leak: dict | None) -> list[str]:
    """How much the networks have seen of what they are scored on, or how to get to know it."""
    if leak is None:
        return ["  leak: give --mosaics FILE, which scripts/mosaics.py writes, and --data DIR"]
    lines = ["  leak                        share   score   others"]
    for name, text in (("mates", "slice-mate in training"), ("neighbours", "neighbour in training")):
        row = leak[name]
        lines.append(f"  {text:<25} {row['share']:>6.1%}  {score_text(row['score'])}  {score_text(row['others'])}")
    lines.append("  (others: as of a survey from which nothing is trained on; the headline: as on the leaderboard)")
    lines += ["", "  rule, none of which is applied       tiles  better  worse     gain    s.e."]
    for row in leak["rules"]:
        counts = f"{row['tiles']:>6,}  {row['better']:>6,} {row['worse']:>6,}"
        lines.append(f"  {row['rule']:<35} {counts}  {row['gain']:+.4f}  {row['standard_error']:.4f}")
    return lines


def confusion_lines(counts: dict, target: str) -> list[str]:
    """Tiles with and without the target, and what they were taken for."""
    lines = [f"  truth             predicted empty   predicted {target}"]
    for truth, name in (("empty", "empty"), ("marked", target)):
        lines.append(f"  {name:<15} {counts[f'{truth}_as_empty']:>17,} {counts[f'{truth}_as_marked']:>16,}")
    return lines


def calibration_lines(calibration: dict, target: str) -> list[str]:
    """How often pixels of each probability are of the target."""
    lines = [f"  probability          pixels   predicted  {target:>6}"]
    for row in calibration["bins"]:
        predicted, salt = ("     -" if row[name] is None else f"{row[name]:>6.1%}" for name in ("predicted", "salt"))
        lines.append(f"  {row['low']:.1f} to {row['high']:.1f}  {row['pixels']:>16,}      {predicted}  {salt}")
    return lines + [f"  calibration error {calibration['error']:.4f}: predicted less {target}, mean over all pixels"]


def span(values: list[int]) -> str:
    """Such as "120-131", or "128" where all are equal."""
    return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"


def score_text(score: float | None) -> str:
    """A score, or a dash where there is none."""
    return "     -" if score is None else f"{score:.4f}"


def class_name(number: int) -> str:
    """A coverage class as a reader wants it: "empty", "0 to 10 %" ..."""
    return "empty" if number == 0 else f"{10 * number - 10} to {10 * number} %"


def comparison_table(first: str, second: str, result: dict) -> str:
    """The comparison as text for a terminal, some 30 lines."""
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
