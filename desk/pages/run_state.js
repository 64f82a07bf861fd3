// What a report knows: the runs, their scores at any threshold and minimum area, and how all of it is written.

import { element, Sheets } from "./page.js";

const LEVELS = 255;
const KINDS = {
  missed: "missed: salt, none predicted",
  off: "misplaced: salt predicted, overlap of at most half",
  border: "border: found, outline not exact",
  alarm: "false alarm: no salt, some predicted",
  right: "right: passes all ten overlaps from 0.50 to 0.95",
};
const LOST = ["missed", "off", "border", "alarm"];
// The colours of .tone0, .tone1 ... of figures.css.
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

export { LEVELS, KINDS, LOST, TONES, RUN_LETTERS, Report, digits4, interval, swatch, legend, runLegend };
