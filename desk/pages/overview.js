// The head of a report: what the run is worth, and by how much another one is better.

import { element, find, thousands, percent, signed, className, table } from "./page.js";
import { digits4, interval } from "./run_state.js";

function card(title, value, detail, text) {
  return element(
    "div",
    { class: "panel card" },
    element("h3", {}, title),
    element("div", { class: "value" }, value, detail ? element("small", {}, ` ${detail}`) : null),
    element("p", {}, text),
  );
}

function showOverview(report) {
  const { score, settings } = report.runs[0];
  const parts = score.folds.length > 1 ? "fold" : "part";
  const whose = report.runs.length > 1 ? ", A" : "";
  const half = (score.nested_interval[1] - score.nested_interval[0]) / 2;
  const {
    empty_as_empty: right,
    empty_as_marked: alarms,
    marked_as_empty: overlooked,
    marked_as_marked: found,
  } = score.confusion;
  find("cards").replaceChildren(
    card(
      `Score on new tiles${whose}`,
      score.nested_score.toFixed(4),
      `± ${half.toFixed(3)}`,
      `Nested: level and area are chosen without the ${parts} that is scored. ` +
        `95 % interval ${interval(score.nested_interval)}.`,
    ),
    "leaderboard" in score
      ? leaderboardCard(`Leaderboard, expected${whose}`, score.leaderboard, score.leaderboard_range)
      : card(`Metric${whose}`, score.metric, "", "The mean over all tiles, and over classes, if there are several."),
    ...("objects" in score
      ? [
          card(
            `F2 over objects${whose}`,
            score.objects.score.toFixed(4),
            "",
            `Nested, 95 % interval ${interval(score.objects.interval)}.` +
              (score.objects.touching ? " Objects that touch count as one." : ""),
          ),
        ]
      : []),
    card(
      `Choosing flatters by${whose}`,
      signed(score.chosen_score - score.nested_score),
      "",
      (score.of_class
        ? `The best level and minimum area of each class give ${digits4(score.chosen_score)} `
        : `Best level ${score.best_level} and minimum area ${score.minimum_area} px give ${digits4(score.chosen_score)} `) +
        `on the very tiles they were chosen on; probability 0.5 gives ${digits4(score.half_score)}.`,
    ),
    card(
      `Empty ${report.unit} right${whose}`,
      right + alarms ? percent(right / (right + alarms)) : "–",
      "",
      `${thousands(alarms)} false alarms on ${thousands(right + alarms)} empty ${report.unit}; ` +
        `${report.target} overlooked in ${thousands(overlooked)} of ${thousands(overlooked + found)}.`,
    ),
  );
  const facts = [`${thousands(score.tiles)} tiles in ${score.folds.length} fold${score.folds.length > 1 ? "s" : ""}`];
  if (settings.model) facts.push(settings.model + (settings.model === "encoder_unet" ? ` on ${settings.encoder}` : ""));
  if (settings.tta) facts.push(`test-time augmentation ${settings.tta}`);
  if (settings.minutes) facts.push(`trained in ${settings.minutes} minutes`);
  find("summary").textContent = facts.join(" · ");
}

function leaderboardCard(title, expected, [low, high]) {
  if (!expected) {
    const text =
      `Scores that are known together with the leaderboard's lie between ${low} and ${high}; this one does not.`;
    return card(title, "–", "", text);
  }
  return card(
    title,
    expected.private.score.toFixed(3),
    "private",
    `${interval(expected.private.interval, 3)}; public ${expected.public.score.toFixed(3)}, ` +
      `${interval(expected.public.interval, 3)}. If these are the competition's tiles.`,
  );
}

/** The comparison of two runs; `openTile` shows a tile by its place among all. */
function showComparison(report, openTile) {
  const result = report.comparison;
  if (!result) return;
  find("comparison").hidden = false;
  const rows = result.classes.map((row) => [
    className(row.class),
    thousands(row.tiles),
    row.difference == null ? null : signed(row.difference),
    signed(row.part),
  ]);
  const largest = result.largest.map((row) => [
    tileLink(report, row.id, openTile),
    percent(row.coverage),
    row.first.toFixed(report.full === 10 ? 1 : 3),
    row.second.toFixed(report.full === 10 ? 1 : 3),
  ]);
  find("comparison-body").replaceChildren(
    element(
      "p",
      { class: "notice" },
      element("strong", {}, `B − A = ${signed(result.difference)} `),
      `(A ${digits4(result.first_score)}, B ${digits4(result.second_score)}; 95 % interval ` +
        `${signed(result.interval[0])} to ${signed(result.interval[1])}, paired over ` +
        `${thousands(result.tiles)} tiles). ` +
        `B is better with a probability of ${percent(result.probability)}. ${result.verdict}`,
    ),
    element(
      "p",
      { class: "small quiet" },
      "Both are scored nested. The interval knows of tiles, not of training: " +
        "the same settings with another seed score otherwise.",
    ),
    element(
      "div",
      { class: "columns" },
      element(
        "div",
        {},
        element("h3", {}, "Where B is better"),
        table("Difference by coverage class", ["coverage", report.unit, "B − A", "of the whole"], rows),
        ...labelChanges(report, result),
      ),
      element(
        "div",
        {},
        element("h3", {}, "Tiles that changed most"),
        table("Tiles that changed most", ["tile", "coverage", "A", "B"], largest),
      ),
    ),
  );
}

/** The difference of each class, if there are several. */
function labelChanges(report, { of_class: rows }) {
  if (!rows) return [];
  const cells = rows.map(({ first, second, difference }, number) => [
    report.labels[number],
    digits4(first),
    digits4(second),
    signed(difference),
  ]);
  return [table("Difference by class", ["class", "A", "B", "B − A"], cells)];
}

function tileLink(report, id, openTile) {
  return element(
    "button",
    { class: "link", type: "button", onclick: () => openTile(report.tiles.id.indexOf(id)) },
    id,
  );
}

export { showOverview, showComparison };
