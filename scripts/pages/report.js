// The report of one run, or of two side by side: state, live scores, charts, tables, gallery.

const LEVELS = 255, HALF = 128, PAGE = 48;
const KINDS = {
  missed: "missed: salt, none predicted",
  off: "misplaced: salt predicted, overlap of at most half",
  border: "border: found, outline not exact",
  alarm: "false alarm: no salt, some predicted",
  right: "right at all ten thresholds",
};
const LOST = ["missed", "off", "border", "alarm"];
// [red, green, blue] over the grey tile: rightly found, missed, falsely predicted; and the truth by itself.
const OVERLAY = { both: [27, 178, 140], truth: [245, 178, 30], proposal: [225, 70, 165] };
// Of probability 0 to 1 in 256 steps: black through violet and orange to pale yellow, even in lightness.
const WARM = Array.from({ length: 256 }, (_, index) => {
  const stops = [[13, 10, 32], [84, 28, 99], [176, 53, 88], [236, 115, 54], [252, 192, 88], [252, 250, 200]];
  const place = (index / 255) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, channel) => value + (stops[low + 1][channel] - value) * (place - low));
});
const VIEWS = { error: "Errors", image: "Image", truth: "Truth", probability: "Probability", all: "All four" };
const RUN_LETTERS = ["A", "B"];

const PANELS = { image: "image", truth: "truth", probability: "probability", error: "errors" };

class Report {
  constructor(data, precision, areas) {
    Object.assign(this, data); // runs, comparison, tiles, pixels, sheets, levels
    this.count = this.tiles.id.length;
    this.precision = precision; // for each run Uint8Array [tiles x 255], tenths
    this.areas = areas; // for each run Uint16Array [tiles x 255], pixels up to 301
    this.pictures = new Sheets(this.sheets);
    this.level = this.runs.map(({ score }) => score.best_level);
    this.area = this.runs.map(({ score }) => score.minimum_area);
    this.curves = this.runs.map(() => null);
    this.classes = this.tiles.salt.map((salt) => Math.ceil((10 * salt) / this.pixels - 1e-9));
  }

  /** Predicted pixels of a tile, 0 where the minimum area empties it. */
  predicted(run, tile, level = this.level[run]) {
    const area = this.areas[run][tile * LEVELS + level - 1];
    return area < this.area[run] ? 0 : area;
  }

  /** Average precision in tenths. */
  tenths(run, tile, level = this.level[run]) {
    const place = tile * LEVELS + level - 1;
    if (this.areas[run][place] < this.area[run]) return this.tiles.salt[tile] ? 0 : 10;
    return this.precision[run][place];
  }

  score(run, level = this.level[run]) {
    let sum = 0;
    for (let tile = 0; tile < this.count; tile++) sum += this.tenths(run, tile, level);
    return sum / (10 * this.count);
  }

  /** The score at each of the 255 levels; kept until the minimum area changes. */
  curve(run) {
    if (this.curves[run]?.area !== this.area[run]) {
      const scores = Array.from({ length: LEVELS }, (_, place) => this.score(run, place + 1));
      this.curves[run] = { area: this.area[run], scores };
    }
    return this.curves[run].scores;
  }

  /** The mean over some tiles of tenths; null without tiles. */
  mean(run, tiles) {
    return tiles.length ? tiles.reduce((sum, tile) => sum + this.tenths(run, tile), 0) / (10 * tiles.length) : null;
  }

  kind(run, tile) {
    const tenths = this.tenths(run, tile);
    if (tenths === 10) return "right";
    if (!this.tiles.salt[tile]) return "alarm";
    if (!this.predicted(run, tile)) return "missed";
    return tenths ? "border" : "off";
  }

  name(run) {
    return this.runs.length > 1 ? RUN_LETTERS[run] : "";
  }
}

const digits4 = (value) => (value == null ? "–" : value.toFixed(4));
const interval = ([low, high], digits = 4) => `${low.toFixed(digits)} to ${high.toFixed(digits)}`;
const swatch = (kind) => element("span", { class: `swatch kind-${kind}`, "aria-hidden": "true" });

function legend(host, entries) {
  host.replaceChildren(
    ...entries.map(([tone, text]) => {
      const mark = element("span", { class: "swatch", "aria-hidden": "true" });
      mark.style.background = tone;
      return element("li", {}, mark, text);
    }),
  );
}

const runLegend = (report) =>
  report.runs.length > 1
    ? report.runs.map(({ score }, run) => [`var(--run${run})`, `${RUN_LETTERS[run]}: ${score.run_id}`])
    : [];

// ---------------------------------------------------------------------------------------------------------------------
// Overview and comparison
// ---------------------------------------------------------------------------------------------------------------------

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
  const parts = score.folds.length > 1 ? "fold" : "part", whose = report.runs.length > 1 ? ", A" : "";
  const half = (score.nested_interval[1] - score.nested_interval[0]) / 2;
  const cards = [
    card(`Score on new tiles${whose}`, score.nested_score.toFixed(4), `± ${half.toFixed(3)}`,
      `Nested: level and area are chosen without the ${parts} that is scored. 95 % interval ${interval(score.nested_interval)}.`),
  ];
  const expected = score.leaderboard;
  cards.push(
    expected
      ? card(`Leaderboard, expected${whose}`, expected.private.score.toFixed(3), "private",
          `${interval(expected.private.interval, 3)}; public ${expected.public.score.toFixed(3)}, ` +
          `${interval(expected.public.interval, 3)}. If these are the competition's tiles.`)
      : card(`Leaderboard, expected${whose}`, "–", "",
          "Scores that are known together with the leaderboard's lie between 0.708 and 0.873; this one does not."),
  );
  cards.push(
    card(`Choosing flatters by${whose}`, signed(score.chosen_score - score.nested_score), "",
      `Best level ${score.best_level} and minimum area ${score.minimum_area} px give ${digits4(score.chosen_score)} on the ` +
      `very tiles they were chosen on; probability 0.5 gives ${digits4(score.half_score)}.`),
    card(`Empty tiles right${whose}`, percent(score.confusion.empty_as_empty / Math.max(1, score.confusion.empty_as_empty + score.confusion.empty_as_salt)), "",
      `${thousands(score.confusion.empty_as_salt)} false alarms on ${thousands(score.confusion.empty_as_empty + score.confusion.empty_as_salt)} empty tiles; ` +
      `salt overlooked in ${thousands(score.confusion.salt_as_empty)} of ${thousands(score.confusion.salt_as_empty + score.confusion.salt_as_salt)}.`),
  );
  find("cards").replaceChildren(...cards);
  const facts = [`${thousands(report.count)} tiles in ${score.folds.length} fold${score.folds.length > 1 ? "s" : ""}`];
  if (settings.model) facts.push(settings.model + (settings.model === "encoder_unet" ? ` on ${settings.encoder}` : ""));
  if (settings.tta) facts.push(`test-time augmentation ${settings.tta}`);
  if (settings.minutes) facts.push(`trained in ${settings.minutes} minutes`);
  find("summary").textContent = facts.join(" · ");
}

function showComparison(report) {
  const result = report.comparison;
  if (!result) return;
  find("comparison").hidden = false;
  const rows = result.classes.map((row) => [
    className(row.class), thousands(row.tiles), row.difference == null ? null : signed(row.difference), signed(row.part),
  ]);
  const largest = result.largest.map((row) => [
    tileLink(report, row.id), percent(row.coverage), row.first.toFixed(1), row.second.toFixed(1),
  ]);
  find("comparison-body").replaceChildren(
    element("p", { class: "notice" }, element("strong", {}, `B − A = ${signed(result.difference)} `),
      `(A ${digits4(result.first_score)}, B ${digits4(result.second_score)}; 95 % interval ${signed(result.interval[0])} to ${signed(result.interval[1])}, paired over ${thousands(result.tiles)} tiles). ` +
      `B is better with a probability of ${percent(result.probability)}. ${result.verdict}`),
    element("p", { class: "small quiet" },
      "Both are scored nested. The interval knows of tiles, not of training: the same settings with another seed score otherwise."),
    element("div", { class: "columns" },
      element("div", {}, element("h3", {}, "Where B is better"),
        table("Difference by coverage class", ["coverage", "tiles", "B − A", "of the whole"], rows)),
      element("div", {}, element("h3", {}, "Tiles that changed most"),
        table("Tiles that changed most", ["tile", "coverage", "A", "B"], largest))),
  );
}

function tileLink(report, id) {
  return element("button", { class: "link", type: "button", onclick: () => gallery.open(report.tiles.id.indexOf(id)) }, id);
}

// ---------------------------------------------------------------------------------------------------------------------
// Threshold and minimum area
// ---------------------------------------------------------------------------------------------------------------------

function showControls(report, changed) {
  const rows = report.runs.map((_, run) => {
    const row = element("div", { class: `control-row run${run}` });
    const name = report.runs.length > 1 ? `run ${RUN_LETTERS[run]}` : "";
    const level = slider(`level-${run}`, "Threshold", `Threshold ${name}`, 1, LEVELS, (value) => {
      report.level[run] = value;
      changed();
    });
    const area = slider(`area-${run}`, "Minimum area", `Minimum area ${name}`, 0, 300, (value) => {
      report.area[run] = value;
      changed();
    });
    const { best_level: bestLevel, minimum_area: bestArea } = report.runs[run].score;
    const reset = element("button", { type: "button", title: "Back to the best level and area", "aria-label": `Best level and area ${name}`.trim(),
      onclick: () => { report.level[run] = bestLevel; report.area[run] = bestArea; changed(); } }, "Reset");
    const title = element("span", { class: "run-name" }, report.runs.length > 1 ? RUN_LETTERS[run] : "Score", " ", reset);
    const live = element("div", { class: "live", id: `live-${run}`, role: "status", "aria-live": "polite" });
    row.append(title, level, area, live);
    return row;
  });
  find("controls").replaceChildren(...rows);
}

function slider(id, label, description, low, high, moved) {
  const input = element("input", { type: "range", id, min: low, max: high, step: 1, "aria-label": description,
    oninput: (event) => moved(Number(event.target.value)) });
  return element("label", { class: "slider", for: id }, element("output", { id: `${id}-text` }, label), input);
}

const levelText = (level) => `Threshold ${level} · ${(level / 255).toFixed(2)}`;
const areaText = (area) => `Minimum area ${area} px`;

function updateControls(report) {
  report.runs.forEach((_, run) => {
    const level = report.level[run], area = report.area[run];
    find(`level-${run}`).value = level;
    find(`level-${run}`).setAttribute("aria-valuetext", `level ${level} of 255, probability ${(level / 255).toFixed(2)}`);
    find(`area-${run}`).value = area;
    find(`area-${run}`).setAttribute("aria-valuetext", `${area} pixels`);
    find(`level-${run}-text`).textContent = levelText(level);
    find(`area-${run}-text`).textContent = areaText(area);
    const score = report.score(run);
    let squares = 0;
    for (let tile = 0; tile < report.count; tile++) squares += (report.tenths(run, tile) / 10 - score) ** 2;
    const error = Math.sqrt(squares / report.count / report.count);
    find(`live-${run}`).replaceChildren(score.toFixed(4), element("small", {}, ` ± ${(1.96 * error).toFixed(3)}`));
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Charts
// ---------------------------------------------------------------------------------------------------------------------

function showCurve(report, changed) {
  const host = find("curve");
  legend(find("curve-legend"), runLegend(report));
  return chart(host, "Score by threshold", (width) => {
    const lines = report.runs.map((_, run) => report.curve(run));
    const best = Math.max(...lines.flat());
    const inner = lines.flatMap((line) => line.slice(20, 235)); // the ends fall so far that they would flatten the rest
    const low = Math.max(Math.min(...inner), best - 0.25);
    const y = extent([low, best]);
    const label = report.runs.map((_, run) =>
      `${report.name(run)} score ${digits4(report.score(run))} at level ${report.level[run]}, highest ${digits4(Math.max(...lines[run]))}`).join("; ");
    const { svg, scaleX, scaleY, left, right, top, bottom } = frame(width, `Score by threshold: ${label}`, {
      height: 270, x: [1, LEVELS], y, xLabel: "threshold, level of 255", yLabel: "score", xTicks: [1, 64, 128, 192, 255],
      yText: (value) => value.toFixed(2),
    });
    const clip = shape("clipPath", { id: "curve-clip" }, shape("rect", { x: left, y: top, width: right - left, height: bottom - top }));
    svg.append(clip);
    const plot = shape("g", { "clip-path": "url(#curve-clip)" });
    svg.append(plot);
    report.runs.forEach(({ score }, run) => {
      const [first, last] = score.flat_levels;
      plot.append(
        shape("rect", { class: `band tone${run}`, x: scaleX(first), width: Math.max(2, scaleX(last) - scaleX(first)), y: top, height: bottom - top }),
        shape("path", { class: `line tone${run}`, d: path(lines[run].map((value, place) => [place + 1, value]), scaleX, scaleY) }),
        shape("line", { class: `marker tone${run}`, x1: scaleX(report.level[run]), x2: scaleX(report.level[run]), y1: top, y2: bottom }),
        shape("circle", { class: `dot tone${run}`, cx: scaleX(report.level[run]), cy: scaleY(report.score(run)), r: 5 }),
      );
    });
    svg.classList.add("clickable");
    const choose = (event) => {
      const share = (event.clientX - svg.getBoundingClientRect().left) / svg.getBoundingClientRect().width;
      const level = Math.round(1 + ((share * width - left) / (right - left)) * (LEVELS - 1));
      report.level.fill(Math.min(LEVELS, Math.max(1, level)));
      changed();
    };
    svg.addEventListener("click", choose);
    return svg;
  });
}

function showIntervals(report) {
  const names = [["half", "probability 0.5"], ["best", "best level"], ["chosen", "best level and area"], ["nested", "nested"]];
  legend(find("intervals-legend"), runLegend(report));
  chart(find("intervals"), "", (width) => {
    const step = report.runs.length > 1 ? 56 : 46, height = names.length * step + 40, left = 4, right = width - 12;
    const bounds = report.runs.flatMap(({ score }) => names.flatMap(([name]) => score[`${name}_interval`]));
    const [low, high] = extent(bounds);
    const x = (value) => left + ((value - low) / (high - low)) * (right - left);
    const text = names.map(([name, label]) => report.runs.map(({ score }, run) =>
      `${report.name(run)} ${label} ${digits4(score[`${name}_score`])}, ${interval(score[`${name}_interval`])}`).join("; ")).join("; ");
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Scores with intervals: ${text}` });
    for (const tick of ticks(low, high, Math.max(3, Math.floor(width / 110)))) {
      svg.append(
        shape("line", { class: "grid-line", x1: x(tick), x2: x(tick), y1: 4, y2: height - 30 }),
        shape("text", { x: x(tick), y: height - 12, "text-anchor": "middle" }, tick.toFixed(2)),
      );
    }
    names.forEach(([name, label], row) => {
      const title = shape("text", { x: left, y: row * step + 16 }, label);
      if (name === "nested") title.classList.add("strong");
      svg.append(title);
      report.runs.forEach(({ score }, run) => {
        const y = row * step + 30 + 13 * run, [from, to] = score[`${name}_interval`];
        svg.append(
          shape("line", { class: `line tone${run}${name === "nested" ? "" : " thin"}`, x1: x(from), x2: x(to), y1: y, y2: y }),
          shape("circle", { class: `dot tone${run}`, cx: x(score[`${name}_score`]), cy: y, r: name === "nested" ? 6 : 4.5 }),
        );
        if (!run) svg.append(shape("text", { x: right, y: row * step + 16, "text-anchor": "end" },
          report.runs.map((other) => digits4(other.score[`${name}_score`])).join("  |  ")));
      });
    });
    return svg;
  });
}

function showCalibration(report) {
  chart(find("calibration"), "", (width) => {
    const tenths = [0, 0.2, 0.4, 0.6, 0.8, 1], text = (value) => `${Math.round(100 * value)} %`;
    const points = report.runs.map(({ score }) => score.calibration.bins.filter((bin) => bin.pixels));
    const label = report.runs.map((_, run) => `${report.name(run)} ` + points[run].map((bin) =>
      `predicted ${text(bin.predicted)}, salt ${text(bin.salt)}`).join("; ")).join(". ");
    const { svg, scaleX, scaleY } = frame(width, `Calibration: ${label}`, {
      height: 270, x: [0, 1], y: [0, 1], xLabel: "predicted probability", yLabel: "share of salt", xTicks: tenths, yTicks: tenths, xText: text, yText: text,
    });
    svg.append(shape("path", { class: "line dotted tone-quiet", d: path([[0, 0], [1, 1]], scaleX, scaleY) }));
    points.forEach((bins, run) => {
      svg.append(shape("path", { class: `line tone${run}`, d: path(bins.map((bin) => [bin.predicted, bin.salt]), scaleX, scaleY) }));
      for (const bin of bins) {
        svg.append(shape("circle", { class: `dot tone${run}`, cx: scaleX(bin.predicted), cy: scaleY(bin.salt), r: 4 }));
      }
    });
    return svg;
  });
  find("calibration-error").textContent = report.runs.map(({ score }, run) =>
    `${report.name(run)} calibration error ${score.calibration.error.toFixed(4)}`.trim()).join(", ") + ": the mean over all pixels.";
}

function showLearning(report) {
  const hosts = [];
  report.runs.forEach(({ score, history }, run) => {
    if (!history.length) return;
    const panels = ["loss", "score"].map((name) => {
      const host = element("div", { class: "chart" });
      hosts.push([host, name, history, run]);
      return element("div", { class: "panel" }, element("h3", {}, report.runs.length > 1 ? `${RUN_LETTERS[run]}: ${name}` : name), host);
    });
    find("learning-panels").append(element("div", { class: "columns", "aria-label": score.run_id, role: "group" }, ...panels));
  });
  if (!hosts.length) find("learning").hidden = true;
  for (const [host, name, history, run] of hosts) {
    const folds = [...new Set(history.map((row) => row.fold))];
    chart(host, "", (width) => {
      const last = history.filter((row) => row.epoch === Math.max(...history.map((other) => other.epoch)));
      const label = `Learning curves, ${name} by epoch; at the end held out ` +
        last.map((row) => `fold ${row.fold} ${row[`val_${name}`]?.toFixed(3)}`).join(", ");
      const values = history.flatMap((row) => [row[name], row[`val_${name}`]]);
      const epochs = history.map((row) => row.epoch);
      const { svg, scaleX, scaleY } = frame(width, `${report.name(run)} ${label}`, {
        height: 230, x: [Math.min(...epochs), Math.max(...epochs, Math.min(...epochs) + 1)], y: extent(values), xLabel: "epoch", yLabel: name,
        yText: (value) => value.toFixed(2),
      });
      folds.forEach((fold, index) => {
        const rows = history.filter((row) => row.fold === fold);
        for (const [column, style] of [[name, "dotted"], [`val_${name}`, ""]]) {
          const points = rows.filter((row) => row[column] != null).map((row) => [row.epoch, row[column]]);
          svg.append(shape("path", { class: `line ${style} tone${index % 7}`, d: path(points, scaleX, scaleY) }));
        }
      });
      return svg;
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Losses and tables
// ---------------------------------------------------------------------------------------------------------------------

function updateLosses(report) {
  const blocks = report.runs.map((_, run) => {
    const tiles = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0]));
    const lost = { ...tiles };
    for (let tile = 0; tile < report.count; tile++) {
      const kind = report.kind(run, tile);
      tiles[kind] += 1;
      lost[kind] += (10 - report.tenths(run, tile)) / (10 * report.count);
    }
    const total = LOST.reduce((sum, kind) => sum + lost[kind], 0);
    const bar = element("div", { class: "losses", "aria-hidden": "true" },
      ...LOST.map((kind) => {
        const part = element("span", { class: `kind-${kind}` });
        part.style.width = total ? `${(100 * lost[kind]) / total}%` : "0";
        return part;
      }));
    const rows = [...LOST, "right"].map((kind) => {
      const [name, ...text] = KINDS[kind].split(": ");
      const choose = element("button", { class: "link", type: "button", onclick: () => gallery.filterBy({ kind, run }) },
        swatch(kind), name);
      return [choose, text.join() || "score 1", thousands(tiles[kind]), kind === "right" ? null : (-lost[kind]).toFixed(4).replace("-", "−")];
    });
    const caption = `Lost points${report.runs.length > 1 ? ` of run ${RUN_LETTERS[run]}` : ""}`;
    const title = report.runs.length > 1 ? element("h3", {}, `${RUN_LETTERS[run]}: ${(1 - total).toFixed(4)}`) : null;
    return element("div", { class: "panel" }, title, bar, table(caption, ["kind", "", "tiles", "score"], rows, [1]));
  });
  find("losses").replaceChildren(element("div", { class: blocks.length > 1 ? "columns" : "" }, ...blocks));
}

function updateTables(report) {
  const runs = all(report.runs.length), heads = runs.map((run) => `score ${report.name(run)}`.trim());
  const groups = (key) => (value) => all(report.count).filter((tile) => key[tile] === value);
  const scores = (tiles) => runs.map((run) => report.mean(run, tiles));
  const classRows = all(11).map((number) => {
    const tiles = groups(report.classes)(number), own = scores(tiles);
    const choose = element("button", { class: "link", type: "button", onclick: () => gallery.filterBy({ coverage: String(number) }) }, className(number));
    return [choose, thousands(tiles.length), percent(tiles.length / report.count), ...own.map(digits4), meter(own)];
  });
  find("classes").replaceChildren(table("Score by coverage class", ["coverage", "tiles", "share", ...heads, ""], classRows));

  const choices = report.runs[0].score.choices, folds = report.runs[0].score.folds;
  const foldRows = folds.map(({ fold }) => {
    const tiles = groups(report.tiles.fold)(fold), own = scores(tiles);
    const choice = folds.length > 1 ? choices.find(({ part }) => part === fold) : null;
    const chosen = choice ? `${choice.level} · ${choice.minimum_area} px` : null;
    const choose = element("button", { class: "link", type: "button", onclick: () => gallery.filterBy({ fold: String(fold) }) }, `fold ${fold}`);
    return [choose, thousands(tiles.length), ...own.map(digits4), chosen, meter(own)];
  });
  find("folds").replaceChildren(table("Score by fold", ["fold", "tiles", ...heads, report.runs.length > 1 ? "choice (A)" : "choice", ""], foldRows));

  const counts = runs.map((run) => {
    const made = { emptyempty: 0, emptysalt: 0, saltempty: 0, saltsalt: 0 };
    for (let tile = 0; tile < report.count; tile++) {
      made[(report.tiles.salt[tile] ? "salt" : "empty") + (report.predicted(run, tile) ? "salt" : "empty")] += 1;
    }
    return made;
  });
  const confusion = ["empty", "salt"].map((truth) => [
    `truly ${truth}`,
    ...["empty", "salt"].map((answer) => counts.map((made) => thousands(made[truth + answer])).join("  |  ")),
  ]);
  find("confusion").replaceChildren(table("Empty tiles and tiles with salt, truth by prediction",
    ["", `predicted empty${runs.length > 1 ? " A | B" : ""}`, `predicted salt${runs.length > 1 ? " A | B" : ""}`], confusion));
}

function showDepths(report) {
  const rows = report.runs[0].score.depths;
  if (!rows) {
    find("depth-panel").hidden = true;
    return;
  }
  const runs = all(report.runs.length);
  find("depths").replaceChildren(table("Score by depth", ["depth", "tiles", "empty", ...runs.map((run) => `score ${report.name(run)}`.trim()), ""],
    rows.map((row, index) => {
      const own = runs.map((run) => report.runs[run].score.depths[index].score);
      return [`${row.low} to ${row.high}`, thousands(row.tiles), percent(row.empty, 0), ...own.map(digits4), meter(own)];
    })));
}

// ---------------------------------------------------------------------------------------------------------------------
// Gallery
// ---------------------------------------------------------------------------------------------------------------------

class Gallery {
  constructor(report) {
    this.report = report;
    this.filters = { kind: "", run: 0, coverage: "", fold: "", score: "", search: "" };
    this.sort = "worst";
    this.view = "error";
    this.page = 0;
    this.order = [];
    this.shown = null; // the tile in the dialog
    this.painted = 0; // counts updates, so that a late picture is not painted over a newer one
    this.showToolbar();
    this.addKeys();
    legend(find("tile-legend"), [
      [`rgb(${OVERLAY.both})`, "salt, found"],
      [`rgb(${OVERLAY.truth})`, "salt, missed"],
      [`rgb(${OVERLAY.proposal})`, "predicted, no salt"],
    ]);
  }

  showToolbar() {
    const { report } = this, two = report.runs.length > 1;
    const choice = (key, label, options) =>
      element("label", {}, label, element("select", { id: `filter-${key}`, onchange: (event) => this.filterBy({ [key]: event.target.value }, false) },
        ...options.map(([value, text]) => element("option", { value }, text))));
    const folds = [...new Set(report.tiles.fold)].sort((one, other) => one - other);
    const sorts = [
      ["worst", "worst score first"], ["best", "best score first"], ["coverage", "least salt first"], ["coverage-down", "most salt first"],
      ["depth", "shallowest first"], ["fold", "fold"], ["id", "name"],
    ];
    if (two) sorts.unshift(["gain", "B better first"], ["loss", "A better first"]);
    const sort = element("label", {}, "Sort", element("select", { id: "sort", onchange: (event) => { this.sort = event.target.value; this.update(true); } },
      ...sorts.map(([value, text]) => element("option", { value, selected: value === this.sort }, text))));
    const kinds = [["", "any error or none"], ...Object.entries(KINDS).map(([kind, text]) => [kind, text.split(":")[0]])];
    const views = element("fieldset", {}, element("legend", {}, "Show"), ...Object.entries(VIEWS).map(([view, text]) =>
      element("button", { type: "button", id: `view-${view}`, "aria-pressed": String(view === this.view), onclick: () => this.show(view) }, text)));
    const whose = two ? [choice("run", "Errors of", [["0", "run A"], ["1", "run B"]])] : [];
    find("toolbar").replaceChildren(
      views,
      sort,
      ...whose,
      choice("kind", "Error", kinds),
      choice("score", "Score", [["", "any"], ["zero", "0"], ["low", "0.1 to 0.5"], ["high", "0.6 to 0.9"], ["one", "1"]]),
      choice("coverage", "Coverage", [["", "any"], ...all(11).map((number) => [String(number), className(number)])]),
      choice("fold", "Fold", [["", "all"], ...folds.map((fold) => [String(fold), `fold ${fold}`])]),
      element("label", {}, "Name", element("input", { type: "search", id: "filter-search", size: 10, autocomplete: "off", spellcheck: "false",
        oninput: (event) => this.filterBy({ search: event.target.value }, false) })),
      element("button", { type: "button", id: "clear", onclick: () => this.filterBy({ kind: "", coverage: "", fold: "", score: "", search: "" }, false) }, "Clear"),
    );
  }

  show(view) {
    this.view = view;
    for (const name of Object.keys(VIEWS)) find(`view-${name}`).setAttribute("aria-pressed", String(name === view));
    this.update();
  }

  /** Sets filters; from elsewhere on the page also the others back, and goes to the tiles. */
  filterBy(filters, elsewhere = true) {
    const cleared = elsewhere ? { kind: "", coverage: "", fold: "", score: "", search: "" } : {};
    Object.assign(this.filters, cleared, filters, "run" in filters ? { run: Number(filters.run) } : {});
    for (const [key, value] of Object.entries(this.filters)) {
      const control = find(`filter-${key}`);
      if (control) control.value = value;
    }
    this.update(true);
    if (elsewhere) find("gallery").focus();
  }

  matches(tile) {
    const { kind, run, coverage, fold, score, search } = this.filters, { report } = this;
    if (coverage && report.classes[tile] !== Number(coverage)) return false;
    if (fold && report.tiles.fold[tile] !== Number(fold)) return false;
    if (search && !report.tiles.id[tile].toLowerCase().includes(search.trim().toLowerCase())) return false;
    if (kind && report.kind(run, tile) !== kind) return false;
    const tenths = report.tenths(run, tile);
    const [low, high] = { "": [0, 10], zero: [0, 0], low: [1, 5], high: [6, 9], one: [10, 10] }[score];
    return low <= tenths && tenths <= high;
  }

  sorted(tiles) {
    const { report } = this, run = this.filters.run, { tiles: facts } = report;
    const change = (tile) => report.tenths(1, tile) - report.tenths(0, tile);
    const keys = {
      worst: (tile) => report.tenths(run, tile),
      best: (tile) => -report.tenths(run, tile),
      coverage: (tile) => facts.salt[tile],
      "coverage-down": (tile) => -facts.salt[tile],
      depth: (tile) => facts.depth[tile] ?? Infinity,
      fold: (tile) => facts.fold[tile],
      gain: (tile) => -change(tile),
      loss: change,
    };
    if (this.sort === "id") return tiles.sort((one, other) => (facts.id[one] < facts.id[other] ? -1 : 1));
    const key = new Map(tiles.map((tile) => [tile, keys[this.sort](tile)]));
    return tiles.sort((one, other) => (key.get(one) === key.get(other) ? one - other : key.get(one) - key.get(other)));
  }

  /** Draws the page of tiles anew. */
  update(toFirstPage = false) {
    this.order = this.sorted(all(this.report.count).filter((tile) => this.matches(tile)));
    if (toFirstPage) this.page = 0;
    const pages = Math.max(1, Math.ceil(this.order.length / PAGE));
    this.page = Math.min(this.page, pages - 1);
    const visible = this.order.slice(this.page * PAGE, (this.page + 1) * PAGE);
    find("count").textContent = this.order.length
      ? `${thousands(this.order.length)} of ${thousands(this.report.count)} tiles; ${this.page * PAGE + 1} to ${this.page * PAGE + visible.length} below`
      : "No tile is like that. Clear the filters to see all.";
    const host = find("tiles");
    const wide = this.view === "all" || this.report.runs.length > 1;
    host.className = wide ? "tiles wide" : "tiles";
    const same = host.children.length === visible.length && visible.every((tile, index) => host.children[index].dataset.tile === String(tile));
    if (!same) host.replaceChildren(...visible.map((tile) => this.card(tile)));
    if (host.children.length && !host.querySelector("[tabindex='0']")) host.children[0].tabIndex = 0;
    this.painted += 1;
    for (const child of host.children) this.fill(child, Number(child.dataset.tile), this.painted);
    this.showPager(pages);
    if (this.shown != null) this.fillDialog();
  }

  card(tile) {
    return element("button", { type: "button", class: "tile", "data-tile": tile, tabindex: -1, onclick: () => this.open(tile) },
      element("canvas", { "aria-hidden": "true" }), element("div", { class: "caption" }, element("span", {}), element("strong", {})));
  }

  describe(tile) {
    const { report } = this, { id, salt, fold, depth } = report.tiles;
    const scores = report.runs.map((_, run) => `${report.name(run)} score ${(report.tenths(run, tile) / 10).toFixed(1)}, ${KINDS[report.kind(run, tile)].split(":")[0]}`.trim());
    const where = depth[tile] == null ? "" : `, depth ${depth[tile]}`;
    return `Tile ${id[tile]}: ${scores.join("; ")}; salt ${percent(salt[tile] / report.pixels)}, fold ${fold[tile]}${where}`;
  }

  async fill(host, tile, painted) {
    const { report } = this;
    host.setAttribute("aria-label", this.describe(tile));
    const [name, score] = host.querySelectorAll(".caption > *");
    name.textContent = report.tiles.id[tile];
    score.textContent = report.runs.map((_, run) => (report.tenths(run, tile) / 10).toFixed(1)).join(" | ");
    const wanted = this.wanted(this.view === "all" ? Object.keys(PANELS) : [this.view]);
    const pictures = await Promise.all(wanted.map(([run, view]) => this.picture(tile, run, view)));
    if (painted !== this.painted) return;
    tiled(host.querySelector("canvas"), pictures, Math.min(2, pictures.length), report.sheets.size);
  }

  /** [run, view] of the pictures of a tile; image and truth are the same for all runs. */
  wanted(views) {
    return all(this.report.runs.length).flatMap((run) =>
      views.filter((view) => !run || (view !== "image" && view !== "truth")).map((view) => [run, view]));
  }

  /** One view of a tile, for one run, as ImageData. */
  async picture(tile, run, view) {
    const { report } = this, { size } = report.sheets;
    const [image, packed] = await Promise.all([
      report.pictures.pixels("images", tile),
      report.pictures.pixels(`probabilities-${run}`, tile),
    ]);
    const steps = 256 / report.levels; // levels of 255 to one step of the picture
    const least = report.predicted(run, tile) ? Math.max(1, Math.round(report.level[run] / steps)) : Infinity;
    const made = new ImageData(size, size);
    for (let index = 0; index < packed.length; index++) {
      const truth = packed[index] >= 128, step = packed[index] & 127, grey = image[index];
      let colour = null, share = 0.6;
      if (view === "probability") [colour, share] = [WARM[Math.round((step * 255) / (report.levels - 1))], 1];
      else if (view === "truth" && truth) colour = OVERLAY.both;
      else if (view === "error" && step >= least) colour = truth ? OVERLAY.both : OVERLAY.proposal;
      else if (view === "error" && truth) colour = OVERLAY.truth;
      for (let channel = 0; channel < 3; channel++) {
        made.data[4 * index + channel] = colour ? grey + (colour[channel] - grey) * share : grey;
      }
      made.data[4 * index + 3] = 255;
    }
    return made;
  }

  showPager(pages) {
    const turn = (by) => () => this.turn(by, false);
    find("pager").replaceChildren(
      element("button", { type: "button", disabled: this.page === 0, onclick: turn(-1) }, "Previous"),
      element("span", { class: "small" }, `page ${this.page + 1} of ${pages}`),
      element("button", { type: "button", disabled: this.page >= pages - 1, onclick: turn(1) }, "Next"),
    );
  }

  turn(by, focus = true, place = 0) {
    const pages = Math.ceil(this.order.length / PAGE);
    if (this.page + by < 0 || this.page + by >= pages) return;
    this.page += by;
    this.update();
    const host = find("tiles");
    if (focus) this.focus(host.children[place < 0 ? host.children.length - 1 : Math.min(place, host.children.length - 1)]);
    else host.scrollIntoView({ block: "start" });
  }

  focus(child) {
    for (const other of find("tiles").querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    child.tabIndex = 0;
    child.focus();
  }

  addKeys() {
    find("tiles").addEventListener("keydown", (event) => {
      const cards = [...find("tiles").children], place = cards.indexOf(document.activeElement);
      if (place < 0) return;
      const across = cards.filter((child) => child.offsetTop === cards[0].offsetTop).length;
      const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -place, End: cards.length - 1 - place }[event.key];
      if (event.key === "PageDown") this.turn(1);
      else if (event.key === "PageUp") this.turn(-1);
      else if (move === undefined) return;
      else if (cards[place + move]) this.focus(cards[place + move]);
      else if (event.key === "ArrowRight") this.turn(1);
      else if (event.key === "ArrowLeft") this.turn(-1, true, -1);
      event.preventDefault();
    });
    const dialog = find("tile");
    dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input")) return; // there the arrows move the threshold
      if (event.key === "ArrowRight") this.step(1);
      else if (event.key === "ArrowLeft") this.step(-1);
    });
    dialog.addEventListener("close", () => {
      const tile = this.shown;
      this.shown = null;
      const place = this.order.indexOf(tile);
      if (place < 0) return;
      this.page = Math.floor(place / PAGE);
      this.update();
      this.focus(find("tiles").children[place % PAGE]);
    });
  }

  /** Shows a tile by itself, large. */
  open(tile) {
    const { report } = this;
    this.shown = tile;
    const sliders = report.runs.map((_, run) =>
      element("div", { class: `run${run}` }, slider(`dialog-level-${run}`, "", `Threshold ${report.name(run)}`, 1, LEVELS, (value) => {
        report.level[run] = value;
        changed();
      })));
    const button = (text, act, label, id) => element("button", { type: "button", id, onclick: act, "aria-label": label }, text);
    find("tile").replaceChildren(
      element("div", { class: "top" }, element("h2", { id: "tile-title" }), element("span", { class: "spacer" }),
        button("‹", () => this.step(-1), "Previous tile"), button("›", () => this.step(1), "Next tile", "next-tile"), button("Close", () => find("tile").close())),
      element("p", { class: "small quiet", id: "tile-facts" }),
      ...sliders,
      element("div", { class: "panels", id: "tile-panels" }),
    );
    this.fillDialog();
    if (!find("tile").open) find("tile").showModal();
    find("next-tile").focus();
  }

  step(by) {
    const next = this.order[this.order.indexOf(this.shown) + by];
    if (next === undefined) return;
    this.shown = next;
    this.fillDialog();
  }

  async fillDialog() {
    const { report, shown: tile } = this;
    find("tile-title").textContent = report.tiles.id[tile];
    find("tile-facts").textContent = this.describe(tile).split(": ").slice(1).join(": ");
    report.runs.forEach((_, run) => {
      find(`dialog-level-${run}`).value = report.level[run];
      find(`dialog-level-${run}-text`).textContent = `${report.name(run)} ${levelText(report.level[run])}`.trim();
    });
    const figures = this.wanted(Object.keys(PANELS)).map(async ([run, view]) => {
      const whose = report.runs.length > 1 && view !== "image" && view !== "truth" ? ` of ${RUN_LETTERS[run]}` : "";
      const canvas = element("canvas", { role: "img", "aria-label": `${PANELS[view]}${whose}, tile ${report.tiles.id[tile]}` });
      tiled(canvas, [await this.picture(tile, run, view)], 1, report.sheets.size);
      return element("figure", {}, canvas, element("figcaption", {}, PANELS[view] + whose));
    });
    const made = await Promise.all(figures);
    if (this.shown === tile) find("tile-panels").replaceChildren(...made);
  }
}

/** Several pictures in one canvas, `across` in a row, a little apart. */
function tiled(canvas, pictures, across, size) {
  const step = size + 2, rows = Math.ceil(pictures.length / across);
  canvas.width = across * step - 2;
  canvas.height = rows * step - 2;
  const context = canvas.getContext("2d");
  pictures.forEach((made, place) => context.putImageData(made, (place % across) * step, Math.floor(place / across) * step));
}

// ---------------------------------------------------------------------------------------------------------------------

let gallery, changed;

async function start() {
  const data = pageData();
  const runs = all(data.runs.length);
  const precision = await Promise.all(runs.map((run) => unpackTable(`precision-${run}`, LEVELS, Uint8Array)));
  const areas = await Promise.all(runs.map((run) => unpackTable(`areas-${run}`, LEVELS, Uint16Array)));
  const report = new Report(data, precision, areas);
  let drawCurve = () => {};
  let waiting = false;
  const update = () => {
    waiting = false;
    updateControls(report);
    drawCurve();
    updateLosses(report);
    updateTables(report);
    gallery.update();
  };
  // However many events the slider sends, the page is drawn once a frame.
  changed = () => {
    if (!waiting) requestAnimationFrame(update);
    waiting = true;
  };
  gallery = new Gallery(report);
  showOverview(report);
  showComparison(report);
  showControls(report, changed);
  drawCurve = showCurve(report, changed);
  showIntervals(report);
  showCalibration(report);
  showDepths(report);
  showLearning(report);
  update();
  document.documentElement.dataset.ready = "true";
}

// A frame first, so that title and summary are on the screen before the tables are unpacked.
requestAnimationFrame(() => setTimeout(start));
