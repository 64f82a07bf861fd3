// The report of one run, or of two side by side: state, live scores, charts, tables, gallery.

const LEVELS = 255;
const KINDS = {
  missed: "missed: salt, none predicted",
  off: "misplaced: salt predicted, overlap of at most half",
  border: "border: found, outline not exact",
  alarm: "false alarm: no salt, some predicted",
  right: "right: passes all ten overlaps from 0.50 to 0.95",
};
const LOST = ["missed", "off", "border", "alarm"];
// The colours of .tone0, .tone1 ... of page.css.
const TONES = ["run0", "run1", "right", "alarm", "missed", "off", "border"].map((name) => `var(--${name})`);
const RUN_LETTERS = ["A", "B"];

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
  const parts = score.folds.length > 1 ? "fold" : "part";
  const whose = report.runs.length > 1 ? ", A" : "";
  const half = (score.nested_interval[1] - score.nested_interval[0]) / 2;
  const {
    empty_as_empty: right,
    empty_as_salt: alarms,
    salt_as_empty: overlooked,
    salt_as_salt: found,
  } = score.confusion;
  find("cards").replaceChildren(
    card(
      `Score on new tiles${whose}`,
      score.nested_score.toFixed(4),
      `± ${half.toFixed(3)}`,
      `Nested: level and area are chosen without the ${parts} that is scored. ` +
        `95 % interval ${interval(score.nested_interval)}.`,
    ),
    leaderboardCard(`Leaderboard, expected${whose}`, score.leaderboard),
    card(
      `Choosing flatters by${whose}`,
      signed(score.chosen_score - score.nested_score),
      "",
      `Best level ${score.best_level} and minimum area ${score.minimum_area} px give ${digits4(score.chosen_score)} ` +
        `on the very tiles they were chosen on; probability 0.5 gives ${digits4(score.half_score)}.`,
    ),
    card(
      `Empty tiles right${whose}`,
      right + alarms ? percent(right / (right + alarms)) : "–",
      "",
      `${thousands(alarms)} false alarms on ${thousands(right + alarms)} empty tiles; ` +
        `salt overlooked in ${thousands(overlooked)} of ${thousands(overlooked + found)}.`,
    ),
  );
  const facts = [`${thousands(report.count)} tiles in ${score.folds.length} fold${score.folds.length > 1 ? "s" : ""}`];
  if (settings.model) facts.push(settings.model + (settings.model === "encoder_unet" ? ` on ${settings.encoder}` : ""));
  if (settings.tta) facts.push(`test-time augmentation ${settings.tta}`);
  if (settings.minutes) facts.push(`trained in ${settings.minutes} minutes`);
  find("summary").textContent = facts.join(" · ");
}

function leaderboardCard(title, expected) {
  if (!expected) {
    const text =
      "Scores that are known together with the leaderboard's lie between 0.708 and 0.873; this one does not.";
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

function showComparison(report) {
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
    tileLink(report, row.id),
    percent(row.coverage),
    row.first.toFixed(1),
    row.second.toFixed(1),
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
        table("Difference by coverage class", ["coverage", "tiles", "B − A", "of the whole"], rows),
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

function tileLink(report, id) {
  return element(
    "button",
    { class: "link", type: "button", onclick: () => gallery.open(report.tiles.id.indexOf(id)) },
    id,
  );
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
    const label = report.runs
      .map(
        (_, run) =>
          `${report.name(run)} score ${digits4(report.score(run))} at level ${report.level[run]}, ` +
          `highest ${digits4(Math.max(...lines[run]))}`,
      )
      .join("; ");
    const { svg, scaleX, scaleY, left, right, top, bottom } = frame(width, `Score by threshold: ${label}`, {
      height: 270,
      x: [1, LEVELS],
      y,
      xLabel: "threshold, level of 255",
      yLabel: "score",
      xTicks: [1, 64, 128, 192, 255],
    });
    const clip = shape(
      "clipPath",
      { id: "curve-clip" },
      shape("rect", { x: left, y: top, width: right - left, height: bottom - top }),
    );
    svg.append(clip);
    const plot = shape("g", { "clip-path": "url(#curve-clip)" });
    svg.append(plot);
    report.runs.forEach(({ score }, run) => {
      const [first, last] = score.flat_levels;
      plot.append(
        shape("rect", {
          class: `band tone${run}`,
          x: scaleX(first),
          width: Math.max(2, scaleX(last) - scaleX(first)),
          y: top,
          height: bottom - top,
        }),
        shape("path", {
          class: `line tone${run}`,
          d: path(
            lines[run].map((value, place) => [place + 1, value]),
            scaleX,
            scaleY,
          ),
        }),
        shape("line", {
          class: `marker tone${run}`,
          x1: scaleX(report.level[run]),
          x2: scaleX(report.level[run]),
          y1: top,
          y2: bottom,
        }),
        shape("circle", {
          class: `dot tone${run}`,
          cx: scaleX(report.level[run]),
          cy: scaleY(report.score(run)),
          r: 5,
        }),
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
  const names = [
    ["half", "probability 0.5"],
    ["best", "best level"],
    ["chosen", "best level and area"],
    ["nested", "nested"],
  ];
  legend(find("intervals-legend"), runLegend(report));
  chart(find("intervals"), "", (width) => {
    const step = report.runs.length > 1 ? 56 : 46;
    const height = names.length * step + 40;
    const left = 4;
    const right = width - 12;
    const bounds = report.runs.flatMap(({ score }) => names.flatMap(([name]) => score[`${name}_interval`]));
    const [low, high] = extent(bounds);
    const x = (value) => left + ((value - low) / (high - low)) * (right - left);
    const text = names
      .map(([name, label]) =>
        report.runs
          .map(
            ({ score }, run) =>
              `${report.name(run)} ${label} ${digits4(score[`${name}_score`])}, ${interval(score[`${name}_interval`])}`,
          )
          .join("; "),
      )
      .join("; ");
    const svg = shape("svg", {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `Scores with intervals: ${text}`,
    });
    const marks = ticks(low, high, Math.max(3, Math.floor(width / 110)));
    for (const tick of marks) {
      svg.append(
        shape("line", { class: "grid-line", x1: x(tick), x2: x(tick), y1: 4, y2: height - 30 }),
        shape("text", { x: x(tick), y: height - 12, "text-anchor": "middle" }, exactly(marks)(tick)),
      );
    }
    names.forEach(([name, label], row) => {
      const title = shape("text", { x: left, y: row * step + 16 }, label);
      if (name === "nested") title.classList.add("strong");
      svg.append(title);
      report.runs.forEach(({ score }, run) => {
        const y = row * step + 30 + 13 * run;
        const [from, to] = score[`${name}_interval`];
        svg.append(
          shape("line", {
            class: `line tone${run}${name === "nested" ? "" : " thin"}`,
            x1: x(from),
            x2: x(to),
            y1: y,
            y2: y,
          }),
          shape("circle", {
            class: `dot tone${run}`,
            cx: x(score[`${name}_score`]),
            cy: y,
            r: name === "nested" ? 6 : 4.5,
          }),
        );
        if (!run)
          svg.append(
            shape(
              "text",
              { x: right, y: row * step + 16, "text-anchor": "end" },
              report.runs.map((other) => digits4(other.score[`${name}_score`])).join("  |  "),
            ),
          );
      });
    });
    return svg;
  });
}

function showCalibration(report) {
  chart(find("calibration"), "", (width) => {
    const tenths = [0, 0.2, 0.4, 0.6, 0.8, 1];
    const text = (value) => `${Math.round(100 * value)} %`;
    const points = report.runs.map(({ score }) => score.calibration.bins.filter((bin) => bin.pixels));
    const label = report.runs
      .map(
        (_, run) =>
          `${report.name(run)} ` +
          points[run].map((bin) => `predicted ${text(bin.predicted)}, salt ${text(bin.salt)}`).join("; "),
      )
      .join(". ");
    const { svg, scaleX, scaleY } = frame(width, `Calibration: ${label}`, {
      height: 270,
      x: [0, 1],
      y: [0, 1],
      xLabel: "predicted probability",
      yLabel: "share of salt",
      xTicks: tenths,
      yTicks: tenths,
      xText: text,
      yText: text,
    });
    svg.append(
      shape("path", {
        class: "line dotted tone-quiet",
        d: path(
          [
            [0, 0],
            [1, 1],
          ],
          scaleX,
          scaleY,
        ),
      }),
    );
    points.forEach((bins, run) => {
      svg.append(
        shape("path", {
          class: `line tone${run}`,
          d: path(
            bins.map((bin) => [bin.predicted, bin.salt]),
            scaleX,
            scaleY,
          ),
        }),
      );
      for (const bin of bins) {
        svg.append(shape("circle", { class: `dot tone${run}`, cx: scaleX(bin.predicted), cy: scaleY(bin.salt), r: 4 }));
      }
    });
    return svg;
  });
  find("calibration-error").textContent =
    report.runs
      .map(({ score }, run) => `${report.name(run)} calibration error ${score.calibration.error.toFixed(4)}`.trim())
      .join(", ") + ": the mean over all pixels.";
}

function showLearning(report) {
  const hosts = [];
  report.runs.forEach(({ score, history }, run) => {
    if (!history.length) return;
    const folds = [...new Set(history.map((row) => row.fold))];
    const panels = ["loss", "score"].map((name) => {
      const host = element("div", { class: "chart" });
      const colours = element("ul", { class: "legend" });
      hosts.push([host, name, history, run, folds]);
      legend(
        colours,
        folds.map((fold, index) => [TONES[index % TONES.length], `fold ${fold}`]),
      );
      const title = report.runs.length > 1 ? `${RUN_LETTERS[run]}: ${name}` : name;
      return element("div", { class: "panel" }, element("h3", {}, title), host, colours);
    });
    find("learning-panels").append(
      element("div", { class: "columns", "aria-label": score.run_id, role: "group" }, ...panels),
    );
  });
  if (!hosts.length) find("learning").hidden = true;
  for (const [host, name, history, run, folds] of hosts) {
    chart(host, "", (width) => {
      const last = history.filter((row) => row.epoch === Math.max(...history.map((other) => other.epoch)));
      const label =
        `Learning curves, ${name} by epoch; at the end held out ` +
        last.map((row) => `fold ${row.fold} ${row[`val_${name}`]?.toFixed(3)}`).join(", ");
      const values = history.flatMap((row) => [row[name], row[`val_${name}`]]);
      const epochs = history.map((row) => row.epoch);
      const { svg, scaleX, scaleY } = frame(width, `${report.name(run)} ${label}`, {
        height: 230,
        x: [Math.min(...epochs), Math.max(...epochs, Math.min(...epochs) + 1)],
        y: extent(values),
        xLabel: "epoch",
        yLabel: name,
      });
      folds.forEach((fold, index) => {
        const rows = history.filter((row) => row.fold === fold);
        for (const [column, style] of [
          [name, "dotted"],
          [`val_${name}`, ""],
        ]) {
          const points = rows.filter((row) => row[column] != null).map((row) => [row.epoch, row[column]]);
          svg.append(
            shape("path", { class: `line ${style} tone${index % TONES.length}`, d: path(points, scaleX, scaleY) }),
          );
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
      const [name, text] = KINDS[kind].split(": ");
      const choose = element(
        "button",
        { class: "link", type: "button", onclick: () => gallery.filterBy({ kind, run }) },
        swatch(kind),
        name,
      );
      return [choose, thousands(tiles[kind]), kind === "right" ? null : signed(-lost[kind]), text];
    });
    const caption = `Lost points${report.runs.length > 1 ? ` of run ${RUN_LETTERS[run]}` : ""}`;
    const title = report.runs.length > 1 ? element("h3", {}, `${RUN_LETTERS[run]}: ${(1 - total).toFixed(4)}`) : null;
    return element("div", { class: "panel" }, title, bar, table(caption, ["kind", "tiles", "score", ""], rows, [3]));
  });
  find("losses").replaceChildren(element("div", { class: blocks.length > 1 ? "columns" : "" }, ...blocks));
}

function updateTables(report) {
  const runs = all(report.runs.length);
  const heads = runs.map((run) => `score\u00a0${report.name(run)}`.trim());
  const groups = (key) => (value) => all(report.count).filter((tile) => key[tile] === value);
  const scores = (tiles) => runs.map((run) => report.mean(run, tiles));
  const classRows = all(11).map((number) => {
    const tiles = groups(report.classes)(number);
    const own = scores(tiles);
    const choose = element(
      "button",
      { class: "link", type: "button", onclick: () => gallery.filterBy({ coverage: String(number) }) },
      className(number),
    );
    return [choose, thousands(tiles.length), percent(tiles.length / report.count), ...own.map(digits4), meter(own)];
  });
  find("classes").replaceChildren(
    table("Score by coverage class", ["coverage", "tiles", "share", ...heads, ""], classRows),
  );

  const choices = report.runs[0].score.choices;
  const folds = report.runs[0].score.folds;
  const foldRows = folds.map(({ fold }) => {
    const tiles = groups(report.tiles.fold)(fold);
    const own = scores(tiles);
    const choice = folds.length > 1 ? choices.find(({ part }) => part === fold) : null;
    const chosen = choice ? `${choice.level} · ${choice.minimum_area} px` : null;
    const choose = element(
      "button",
      { class: "link", type: "button", onclick: () => gallery.filterBy({ fold: String(fold) }) },
      `fold ${fold}`,
    );
    return [choose, thousands(tiles.length), ...own.map(digits4), chosen, meter(own)];
  });
  find("folds").replaceChildren(
    table("Score by fold", ["fold", "tiles", ...heads, report.runs.length > 1 ? "choice (A)" : "choice", ""], foldRows),
  );

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
  find("confusion").replaceChildren(
    table(
      "Empty tiles and tiles with salt, truth by prediction",
      ["", `predicted empty${runs.length > 1 ? " A | B" : ""}`, `predicted salt${runs.length > 1 ? " A | B" : ""}`],
      confusion,
    ),
  );
}

function showDepths(report) {
  const rows = report.runs[0].score.depths;
  if (!rows) {
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
