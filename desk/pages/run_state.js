// What a report knows: the runs, their scores at any threshold and minimum area, and how all of it is written.

import { element, Sheets } from "./page.js";

const LEVELS = 255;
const KINDS = ["missed", "off", "border", "alarm", "right"];
const LOST = ["missed", "off", "border", "alarm"];
// The colours of .tone0, .tone1 ... of figures.css.
const TONES = ["run0", "run1", "right", "alarm", "missed", "off", "border"].map((name) => `var(--${name})`);
const RUN_LETTERS = ["A", "B"];

class Report {
  constructor(data, scores, areas) {
    // runs, comparison, metric, full, largestArea, target, labels, channels, tiles, pixels, scale, sheets, levels,
    // trueSize, trueLevels
    Object.assign(this, data);
    this.count = this.tiles.id.length; // of several classes each of a tile's masks is one of them
    this.scores = scores; // for each run Uint8Array or Uint16Array [tiles x 255], whole numbers of 1 / full
    this.areas = areas; // for each run Uint16Array [tiles x 255], pixels up to the largest minimum area and 1 more
    this.pictures = { scaled: new Sheets(this.sheets), true: new Sheets({ ...this.trueSize, tiles: 1, columns: 1 }) };
    this.unit = this.labels.length ? "masks" : "tiles";
    this.level = this.runs.map(({ score }) => score.best_level);
    this.area = this.runs.map(({ score }) => score.minimum_area);
    this.curves = this.runs.map(() => null);
    this.scaled = [].concat(this.scale).some((scale) => scale > 1);
    this.classes = this.tiles.salt.map((salt, tile) => Math.ceil((10 * salt) / this.pixelsOf(tile) - 1e-9));
  }

  /** All pixels of a tile: one number, where the images have one size. */
  pixelsOf(tile) {
    return this.pixels[tile] ?? this.pixels;
  }

  /** By how much the sides of a tile's picture are divided. */
  scaleOf(tile) {
    return this.scale[tile] ?? this.scale;
  }

  /** Predicted pixels of a tile, 0 where the minimum area empties it. */
  predicted(run, tile, level = this.level[run]) {
    const area = this.areas[run][tile * LEVELS + level - 1];
    return area < this.area[run] ? 0 : area;
  }

  /** The score in whole numbers of 1 / full: tenths of average precision, for one. */
  points(run, tile, level = this.level[run]) {
    const place = tile * LEVELS + level - 1;
    if (this.areas[run][place] < this.area[run]) return this.tiles.salt[tile] ? 0 : this.full;
    return this.scores[run][place];
  }

  score(run, level = this.level[run]) {
    let sum = 0;
    for (let tile = 0; tile < this.count; tile++) sum += this.points(run, tile, level);
    return sum / (this.full * this.count);
  }

  /** The score at each of the 255 levels; kept until the minimum area changes. */
  curve(run) {
    if (this.curves[run]?.area !== this.area[run]) {
      const scores = Array.from({ length: LEVELS }, (_, place) => this.score(run, place + 1));
      this.curves[run] = { area: this.area[run], scores };
    }
    return this.curves[run].scores;
  }

  /** The mean over some tiles of their scores; null without tiles. */
  mean(run, tiles) {
    if (!tiles.length) return null;
    return tiles.reduce((sum, tile) => sum + this.points(run, tile), 0) / (this.full * tiles.length);
  }

  /** The standard error of the score: the masks of one image are one draw. */
  error(run) {
    const images = new Map();
    for (let tile = 0; tile < this.count; tile++) {
      const image = this.tiles.image[tile];
      images.set(image, (images.get(image) ?? 0) + this.points(run, tile) / this.full);
    }
    const masks = this.count / images.size;
    const score = this.score(run);
    let squares = 0;
    for (const sum of images.values()) squares += (sum / masks - score) ** 2;
    return Math.sqrt(squares) / images.size;
  }

  kind(run, tile) {
    const points = this.points(run, tile);
    if (points === this.full) return "right";
    if (!this.tiles.salt[tile]) return "alarm";
    if (!this.predicted(run, tile)) return "missed";
    const half = this.metric.name === "precision" ? points > 0 : 2 * points >= this.full;
    return half ? "border" : "off";
  }

  /** What a kind of error is called, and what it is. */
  kindText(kind) {
    const precision = this.metric.name === "precision";
    return {
      missed: `missed: ${this.target}, none predicted`,
      off: `misplaced: ${this.target} predicted, ${precision ? "overlap of at most half" : "score below one half"}`,
      border: "border: found, outline not exact",
      alarm: `false alarm: no ${this.target}, some predicted`,
      right: precision ? "right: passes all ten overlaps from 0.50 to 0.95" : "right: scores 1",
    }[kind];
  }

  /** A tile's score as text: one digit of tenths, else three. */
  scoreText(run, tile) {
    return (this.points(run, tile) / this.full).toFixed(this.full === 10 ? 1 : 3);
  }

  title(tile) {
    const label = this.labels.length ? ` · ${this.labels[this.tiles.label[tile]]}` : "";
    return this.tiles.id[tile] + label;
  }

  /** Whether the page holds a tile's pictures: scaled, or with their `true` pixels. */
  pictured(tile, pixels = "scaled") {
    const name = pixels === "true" ? "true-" : "";
    const sheets = this.pictures[pixels];
    return (
      sheets.sheet(`${name}images`, this.tiles.image[tile]) != null &&
      sheets.sheet(`${name}probabilities-0`, tile) != null
    );
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
