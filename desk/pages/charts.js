// The charts of a report.

import { element, shape, find, chart, ticks, exactly, frame, path, extent } from "./page.js";
import { LEVELS, TONES, RUN_LETTERS, digits4, interval, legend, runLegend } from "./run_state.js";

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
          points[run].map((bin) => `predicted ${text(bin.predicted)}, ${report.target} ${text(bin.salt)}`).join("; "),
      )
      .join(". ");
    const { svg, scaleX, scaleY } = frame(width, `Calibration: ${label}`, {
      height: 270,
      x: [0, 1],
      y: [0, 1],
      xLabel: "predicted probability",
      yLabel: `share of ${report.target}`,
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

export { showCurve, showIntervals, showCalibration, showLearning };
