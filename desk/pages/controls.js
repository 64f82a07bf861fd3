// Threshold and minimum area of each run; `changed` is called when one was moved.

import { element, find } from "./page.js";
import { LEVELS, RUN_LETTERS } from "./run_state.js";

function showControls(report, changed) {
  const rows = report.runs.map((_, run) => {
    const row = element("div", { class: `control-row run${run}` });
    const name = report.runs.length > 1 ? `run ${RUN_LETTERS[run]}` : "";
    const level = slider(`level-${run}`, "Threshold", `Threshold ${name}`, 1, LEVELS, (value) => {
      report.level[run] = value;
      changed();
    });
    const area = slider(`area-${run}`, "Minimum area", `Minimum area ${name}`, 0, report.largestArea, (value) => {
      report.area[run] = value;
      changed();
    });
    const { best_level: bestLevel, minimum_area: bestArea } = report.runs[run].score;
    const reset = element(
      "button",
      {
        type: "button",
        title: "Back to the best level and area",
        "aria-label": `Best level and area ${name}`.trim(),
        onclick: () => {
          report.level[run] = bestLevel;
          report.area[run] = bestArea;
          changed();
        },
      },
      "Reset",
    );
    const title = element(
      "span",
      { class: "run-name" },
      report.runs.length > 1 ? RUN_LETTERS[run] : "Score",
      " ",
      reset,
    );
    const live = element("div", { class: "live", id: `live-${run}`, role: "status", "aria-live": "polite" });
    row.append(title, level, area, live);
    return row;
  });
  find("controls").replaceChildren(...rows);
}

function slider(id, label, description, low, high, moved) {
  const input = element("input", {
    type: "range",
    id,
    min: low,
    max: high,
    step: 1,
    "aria-label": description,
    oninput: (event) => moved(Number(event.target.value)),
  });
  return element("label", { class: "slider", for: id }, element("output", { id: `${id}-text` }, label), input);
}

const levelText = (level) => `Threshold ${level} · ${(level / 255).toFixed(2)}`;
const areaText = (area) => `Minimum area ${area} px`;

function updateControls(report) {
  report.runs.forEach((_, run) => {
    const level = report.level[run];
    const area = report.area[run];
    find(`level-${run}`).value = level;
    find(`level-${run}`).setAttribute(
      "aria-valuetext",
      `level ${level} of 255, probability ${(level / 255).toFixed(2)}`,
    );
    find(`area-${run}`).value = area;
    find(`area-${run}`).setAttribute("aria-valuetext", `${area} pixels`);
    find(`level-${run}-text`).textContent = levelText(level);
    find(`area-${run}-text`).textContent = areaText(area);
    const spread = element("small", {}, ` ± ${(1.96 * report.error(run)).toFixed(3)}`);
    find(`live-${run}`).replaceChildren(report.score(run).toFixed(4), spread);
  });
}

export { showControls, updateControls, slider, levelText };
