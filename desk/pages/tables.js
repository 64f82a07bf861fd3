// The tables of a report that follow its thresholds.

import { element, find, all, thousands, percent, signed, className, table, meter } from "./page.js";
import { KINDS, LOST, RUN_LETTERS, digits4, swatch } from "./run_state.js";

/** Where the points are lost; `filterBy` shows the tiles of a kind. */
function updateLosses(report, filterBy) {
  const blocks = report.runs.map((_, run) => {
    const tiles = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
    const lost = { ...tiles };
    for (let tile = 0; tile < report.count; tile++) {
      const kind = report.kind(run, tile);
      tiles[kind] += 1;
      lost[kind] += 1 - report.points(run, tile) / report.full;
    }
    for (const kind of KINDS) lost[kind] /= report.count;
    const total = LOST.reduce((sum, kind) => sum + lost[kind], 0);
    const bar = element(
      "div",
      { class: "losses", "aria-hidden": "true" },
      ...LOST.map((kind) => {
        const part = element("span", { class: `kind-${kind}` });
        part.style.width = total ? `${(100 * lost[kind]) / total}%` : "0";
        return part;
      }),
    );
    const rows = [...LOST, "right"].map((kind) => {
      const [name, text] = report.kindText(kind).split(": ");
      const choose = element(
        "button",
        { class: "link", type: "button", onclick: () => filterBy({ kind, run }) },
        swatch(kind),
        name,
      );
      return [choose, thousands(tiles[kind]), kind === "right" ? null : signed(-lost[kind]), text];
    });
    const caption = `Lost points${report.runs.length > 1 ? ` of run ${RUN_LETTERS[run]}` : ""}`;
    const title = report.runs.length > 1 ? element("h3", {}, `${RUN_LETTERS[run]}: ${(1 - total).toFixed(4)}`) : null;
    return element("div", { class: "panel" }, title, bar, table(caption, ["kind", report.unit, "score", ""], rows, [3]));
  });
  find("losses").replaceChildren(element("div", { class: blocks.length > 1 ? "columns" : "" }, ...blocks));
}

/** A level and a minimum area, or those of several classes. */
const chosenText = ({ level, minimum_area: area }) => `${[level].flat().join(" / ")} · ${[area].flat().join(" / ")} px`;

/** Scores by coverage class and by fold; `filterBy` shows the tiles of a row. */
function updateTables(report, filterBy) {
  const runs = all(report.runs.length);
  const heads = runs.map((run) => `score\u00a0${report.name(run)}`.trim());
  const groups = (key) => (value) => all(report.count).filter((tile) => key[tile] === value);
  const scores = (tiles) => runs.map((run) => report.mean(run, tiles));
  const classRows = all(11).map((number) => {
    const tiles = groups(report.classes)(number);
    const own = scores(tiles);
    const choose = element(
      "button",
      { class: "link", type: "button", onclick: () => filterBy({ coverage: String(number) }) },
      className(number),
    );
    return [choose, thousands(tiles.length), percent(tiles.length / report.count), ...own.map(digits4), meter(own)];
  });
  find("classes").replaceChildren(
    table("Score by coverage class", ["coverage", report.unit, "share", ...heads, ""], classRows),
  );

  find("label-panel").hidden = !report.labels.length;
  const labelRows = report.labels.map((label, number) => {
    const tiles = groups(report.tiles.label)(number);
    const own = scores(tiles);
    const choose = element(
      "button",
      { class: "link", type: "button", onclick: () => filterBy({ label: String(number) }) },
      label,
    );
    const there = tiles.filter((tile) => report.tiles.salt[tile]).length;
    const best = report.runs[0].score.of_class?.[number];
    return [choose, thousands(there), ...own.map(digits4), best ? chosenText(best) : null, meter(own)];
  });
  const labelHeads = ["class", `with ${report.target}`, ...heads, report.runs.length > 1 ? "best (A)" : "best", ""];
  find("labels").replaceChildren(table("Score by class", labelHeads, labelRows));

  const choices = report.runs[0].score.choices;
  const folds = report.runs[0].score.folds;
  const foldRows = folds.map(({ fold }) => {
    const tiles = groups(report.tiles.fold)(fold);
    const own = scores(tiles);
    const choice = folds.length > 1 ? choices.find(({ part }) => part === fold) : null;
    const chosen = choice ? chosenText(choice) : null;
    const choose = element(
      "button",
      { class: "link", type: "button", onclick: () => filterBy({ fold: String(fold) }) },
      `fold ${fold}`,
    );
    return [choose, thousands(tiles.length), ...own.map(digits4), chosen, meter(own)];
  });
  find("folds").replaceChildren(
    table("Score by fold", ["fold", report.unit, ...heads, report.runs.length > 1 ? "choice (A)" : "choice", ""], foldRows),
  );

  const counts = runs.map((run) => {
    const made = { emptyempty: 0, emptysalt: 0, saltempty: 0, saltsalt: 0 };
    for (let tile = 0; tile < report.count; tile++) {
      made[(report.tiles.salt[tile] ? "salt" : "empty") + (report.predicted(run, tile) ? "salt" : "empty")] += 1;
    }
    return made;
  });
  const confusion = ["empty", "salt"].map((truth) => [
    `truly ${truth === "salt" ? report.target : truth}`,
    ...["empty", "salt"].map((answer) => counts.map((made) => thousands(made[truth + answer])).join("  |  ")),
  ]);
  find("confusion").replaceChildren(
    table(
      `Empty tiles and tiles with ${report.target}, truth by prediction`,
      ["empty", report.target].reduce(
        (heads, answer) => [...heads, `predicted ${answer}${runs.length > 1 ? " A | B" : ""}`],
        [""],
      ),
      confusion,
    ),
  );
}

function showDepths(report) {
  const rows = report.runs[0].score.depths;
  if (!rows?.length) {
    find("depth-panel").hidden = true;
    return;
  }
  const runs = all(report.runs.length);
  find("depths").replaceChildren(
    table(
      "Score by depth",
      ["depth", "tiles", "empty", ...runs.map((run) => `score\u00a0${report.name(run)}`.trim()), ""],
      rows.map((row, index) => {
        const own = runs.map((run) => report.runs[run].score.depths[index].score);
        return [
          `${row.low} to ${row.high}`,
          thousands(row.tiles),
          percent(row.empty, 0),
          ...own.map(digits4),
          meter(own),
        ];
      }),
    ),
  );
}

/** What each rule that looks at neighbours would change, of each run whose slices are known. */
function showRules(report) {
  const heads = ["rule", "tiles changed", "better", "worse", "score before", "after", "gain", "95 % interval, paired"];
  const panels = [];
  for (const run of all(report.runs.length)) {
    const { leak } = report.runs[run].score;
    if (!leak) continue;
    const rows = leak.rules.map((row) => [
      row.rule,
      thousands(row.tiles),
      thousands(row.better),
      thousands(row.worse),
      digits4(row.before),
      digits4(row.after),
      signed(row.gain),
      row.interval.map((end) => signed(end)).join(" to "),
    ]);
    const whose = report.runs.length > 1 ? `Run ${RUN_LETTERS[run]}: ` : "";
    const { share, score, others } = leak.neighbours;
    const text =
      `${whose}${percent(share)} of the tiles have a neighbour among those that were trained on; they score ` +
      `${digits4(score)}, the others ${digits4(others)} (nested).`;
    panels.push(element("div", { class: "panel" }, element("p", {}, text), table("Rules", heads, rows)));
  }
  find("rules").hidden = !panels.length;
  find("rules-panels").replaceChildren(...panels);
}

export { updateLosses, updateTables, showDepths, showRules };
