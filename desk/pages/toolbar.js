// The toolbar above the tiles of a report.

import { element, find, all, className } from "./page.js";
import { KINDS } from "./run_state.js";

const VIEWS = { error: "Errors", image: "Image", truth: "Truth", probability: "Probability", all: "All four" };

/** Shows the toolbar of a `Gallery`, by which it is sorted, filtered and looked at. */
function showToolbar(gallery) {
  const { report } = gallery;
  const two = report.runs.length > 1;
  const choice = (key, label, options) =>
    element(
      "label",
      {},
      label,
      element(
        "select",
        { id: `filter-${key}`, onchange: (event) => gallery.filterBy({ [key]: event.target.value }, false) },
        ...options.map(([value, text]) => element("option", { value }, text)),
      ),
    );
  const folds = [...new Set(report.tiles.fold)].sort((one, other) => one - other);
  const sorts = [
    ["worst", "worst score first"],
    ["best", "best score first"],
    ["coverage", `least ${report.target} first`],
    ["coverage-down", `most ${report.target} first`],
    ...(report.tiles.depth ? [["depth", "shallowest first"]] : []),
    ["fold", "fold"],
    ["id", "name"],
  ];
  if (two) sorts.unshift(["gain", "B better first"], ["loss", "A better first"]);
  const sort = element(
    "label",
    {},
    "Sort",
    element(
      "select",
      {
        id: "sort",
        onchange: (event) => {
          gallery.sort = event.target.value;
          gallery.update(true);
        },
      },
      ...sorts.map(([value, text]) => element("option", { value, selected: value === gallery.sort }, text)),
    ),
  );
  const kinds = [
    ["", "any error or none"],
    ...KINDS.map((kind) => [kind, report.kindText(kind).split(":")[0]]),
  ];
  const views = element(
    "fieldset",
    {},
    element("legend", {}, "Show"),
    ...Object.entries(VIEWS).map(([view, text]) =>
      element(
        "button",
        {
          type: "button",
          id: `view-${view}`,
          "aria-pressed": String(view === gallery.view),
          onclick: () => gallery.show(view),
        },
        text,
      ),
    ),
  );
  const whose = two
    ? [
        choice("run", "Errors of", [
          ["0", "run A"],
          ["1", "run B"],
        ]),
      ]
    : [];
  find("toolbar").replaceChildren(
    views,
    sort,
    ...whose,
    choice("kind", "Error", kinds),
    choice("score", "Score", [
      ["", "any"],
      ["zero", "0"],
      ["low", "up to 0.5"],
      ["high", "above 0.5"],
      ["one", "1"],
    ]),
    ...(report.labels.length
      ? [choice("label", "Class", [["", "all"], ...report.labels.map((label, number) => [String(number), label])])]
      : []),
    choice("coverage", "Coverage", [["", "any"], ...all(11).map((number) => [String(number), className(number)])]),
    choice("fold", "Fold", [["", "all"], ...folds.map((fold) => [String(fold), `fold ${fold}`])]),
    element(
      "label",
      {},
      "Name",
      element("input", {
        type: "search",
        id: "filter-search",
        size: 10,
        autocomplete: "off",
        spellcheck: "false",
        oninput: (event) => gallery.filterBy({ search: event.target.value }, false),
      }),
    ),
    element(
      "button",
      {
        type: "button",
        id: "clear",
        onclick: () => gallery.filterBy({ kind: "", label: "", coverage: "", fold: "", score: "", search: "" }, false),
      },
      "Clear",
    ),
  );
}

export { VIEWS, showToolbar };
