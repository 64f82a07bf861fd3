// The tiles of a report: sorted, filtered, turned over page by page, and one by one in a dialog.

import { element, find, all, thousands, percent } from "./page.js";
import { LEVELS, RUN_LETTERS, legend } from "./run_state.js";
import { slider, levelText } from "./controls.js";
import { OVERLAY, picture, tiled } from "./pictures.js";
import { VIEWS, showToolbar } from "./toolbar.js";

const PAGE = 48; // tiles shown at once
const PANELS = { image: "image", truth: "truth", probability: "probability", error: "errors" };

const NO_FILTER = { kind: "", label: "", coverage: "", fold: "", score: "", search: "" };

class Gallery {
  /** `changed` is called when a threshold was moved here. */
  constructor(report, changed) {
    this.report = report;
    this.changed = changed;
    this.filters = { kind: "", run: 0, label: "", coverage: "", fold: "", score: "", search: "" };
    this.sort = "worst";
    this.view = "error";
    this.page = 0;
    this.order = [];
    this.shown = null; // the tile in the dialog
    this.painted = 0; // counts updates, so that a late picture is not painted over a newer one
    showToolbar(this);
    this.addKeys();
    legend(find("tile-legend"), [
      [`rgb(${OVERLAY.both})`, `${report.target}, found`],
      [`rgb(${OVERLAY.truth})`, `${report.target}, missed`],
      [`rgb(${OVERLAY.proposal})`, `predicted, no ${report.target}`],
    ]);
  }

  show(view) {
    this.view = view;
    for (const name of Object.keys(VIEWS)) find(`view-${name}`).setAttribute("aria-pressed", String(name === view));
    this.update();
  }

  /** Sets filters; from elsewhere on the page also the others back, and goes to the tiles. */
  filterBy(filters, elsewhere = true) {
    const cleared = elsewhere ? NO_FILTER : {};
    Object.assign(this.filters, cleared, filters, "run" in filters ? { run: Number(filters.run) } : {});
    for (const [key, value] of Object.entries(this.filters)) {
      const control = find(`filter-${key}`);
      if (control) control.value = value;
    }
    this.update(true);
    if (elsewhere) find("gallery").focus();
  }

  matches(tile) {
    const { kind, run, label, coverage, fold, score, search } = this.filters;
    const { report } = this;
    if (label && report.tiles.label[tile] !== Number(label)) return false;
    if (coverage && report.classes[tile] !== Number(coverage)) return false;
    if (fold && report.tiles.fold[tile] !== Number(fold)) return false;
    if (search && !report.tiles.id[tile].toLowerCase().includes(search.trim().toLowerCase())) return false;
    if (kind && report.kind(run, tile) !== kind) return false;
    const points = report.points(run, tile);
    if (score === "zero") return points === 0;
    if (score === "one") return points === report.full;
    if (score === "low") return points > 0 && 2 * points <= report.full;
    return score !== "high" || (2 * points > report.full && points < report.full);
  }

  sorted(tiles) {
    const { report } = this;
    const run = this.filters.run;
    const { tiles: facts } = report;
    const change = (tile) => report.points(1, tile) - report.points(0, tile);
    const keys = {
      worst: (tile) => report.points(run, tile),
      best: (tile) => -report.points(run, tile),
      coverage: (tile) => facts.salt[tile],
      "coverage-down": (tile) => -facts.salt[tile],
      depth: (tile) => facts.depth?.[tile] ?? Infinity,
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
    const first = this.page * PAGE + 1;
    const last = this.page * PAGE + visible.length;
    find("count").textContent = this.order.length
      ? `${thousands(this.order.length)} of ${thousands(this.report.count)} ${this.report.unit}; ` +
        `${first} to ${last} below`
      : "No tile is like that. Clear the filters to see all.";
    const host = find("tiles");
    const wide = this.view === "all" || this.report.runs.length > 1;
    host.className = wide ? "tiles wide" : "tiles";
    const same =
      host.children.length === visible.length &&
      visible.every((tile, index) => host.children[index].dataset.tile === String(tile));
    if (!same) host.replaceChildren(...visible.map((tile) => this.card(tile)));
    if (host.children.length && !host.querySelector("[tabindex='0']")) host.children[0].tabIndex = 0;
    this.painted += 1;
    for (const child of host.children) this.fill(child, Number(child.dataset.tile), this.painted);
    this.showPager(pages);
    if (this.shown != null) this.fillDialog();
  }

  card(tile) {
    return element(
      "button",
      { type: "button", class: "tile", "data-tile": tile, tabindex: -1, onclick: () => this.open(tile) },
      element("canvas", { "aria-hidden": "true" }),
      element("div", { class: "caption" }, element("span", {}), element("strong", {})),
    );
  }

  describe(tile) {
    const { report } = this;
    const { salt, fold, depth } = report.tiles;
    const scores = report.runs.map((_, run) => {
      const kind = report.kindText(report.kind(run, tile)).split(":")[0];
      return `${report.name(run)} score ${report.scoreText(run, tile)}, ${kind}`.trim();
    });
    const share = percent(salt[tile] / report.pixelsOf(tile));
    const where = depth?.[tile] == null ? "" : `, depth ${depth[tile]}`;
    const shown = report.pictured(tile) ? "" : "; its picture was left out";
    const facts = `${report.target} ${share}, fold ${fold[tile]}${where}${shown}`;
    return `Tile ${report.title(tile)}: ${scores.join("; ")}; ${facts}`;
  }

  async fill(host, tile, painted) {
    const { report } = this;
    host.setAttribute("aria-label", this.describe(tile));
    const [name, score] = host.querySelectorAll(".caption > *");
    name.textContent = report.title(tile);
    score.textContent = report.runs.map((_, run) => report.scoreText(run, tile)).join(" | ");
    const wanted = this.wanted(this.view === "all" ? Object.keys(PANELS) : [this.view]);
    const pictures = await Promise.all(wanted.map(([run, view]) => picture(report, tile, run, view)));
    if (painted !== this.painted) return;
    tiled(host.querySelector("canvas"), pictures, Math.min(2, pictures.length));
  }

  /** [run, view] of the pictures of a tile; image and truth are the same for all runs. */
  wanted(views) {
    return all(this.report.runs.length).flatMap((run) =>
      views.filter((view) => !run || (view !== "image" && view !== "truth")).map((view) => [run, view]),
    );
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
    if (focus)
      this.focus(host.children[place < 0 ? host.children.length - 1 : Math.min(place, host.children.length - 1)]);
    else host.scrollIntoView({ block: "start" });
  }

  focus(child) {
    for (const other of find("tiles").querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    child.tabIndex = 0;
    child.focus();
  }

  addKeys() {
    find("tiles").addEventListener("keydown", (event) => {
      const cards = [...find("tiles").children];
      const place = cards.indexOf(document.activeElement);
      if (place < 0) return;
      const across = cards.filter((child) => child.offsetTop === cards[0].offsetTop).length;
      const move = {
        ArrowRight: 1,
        ArrowLeft: -1,
        ArrowDown: across,
        ArrowUp: -across,
        Home: -place,
        End: cards.length - 1 - place,
      }[event.key];
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
      element(
        "div",
        { class: `run${run}` },
        slider(`dialog-level-${run}`, "", `Threshold ${report.name(run)}`, 1, LEVELS, (value) => {
          report.level[run] = value;
          this.changed();
        }),
      ),
    );
    const button = (text, act, label, id) =>
      element("button", { type: "button", id, onclick: act, "aria-label": label }, text);
    find("tile").replaceChildren(
      element(
        "div",
        { class: "top" },
        element("h2", { id: "tile-title" }),
        element("span", { class: "spacer" }),
        button("‹", () => this.step(-1), "Previous tile"),
        button("›", () => this.step(1), "Next tile", "next-tile"),
        button("Close", () => find("tile").close()),
      ),
      element("p", { class: "small quiet", id: "tile-facts" }),
      ...sliders,
      report.scaled ? element("p", { class: "small", id: "tile-pixels" }) : null,
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
    find("tile-title").textContent = report.title(tile);
    find("tile-facts").textContent = this.describe(tile).split(": ").slice(1).join(": ");
    report.runs.forEach((_, run) => {
      find(`dialog-level-${run}`).value = report.level[run];
      find(`dialog-level-${run}-text`).textContent = `${report.name(run)} ${levelText(report.level[run])}`.trim();
    });
    if (report.scaled) this.offerPixels(tile);
    const pixels = this.truePixels && report.pictured(tile, "true") ? "true" : "scaled";
    const figures = this.wanted(Object.keys(PANELS)).map(async ([run, view]) => {
      const whose = report.runs.length > 1 && view !== "image" && view !== "truth" ? ` of ${RUN_LETTERS[run]}` : "";
      const canvas = element("canvas", {
        role: "img",
        "aria-label": `${PANELS[view]}${whose}, tile ${report.title(tile)}`,
      });
      tiled(canvas, [await picture(report, tile, run, view, pixels)], 1);
      return element("figure", {}, canvas, element("figcaption", {}, PANELS[view] + whose));
    });
    const made = await Promise.all(figures);
    if (this.shown !== tile) return;
    find("tile-panels").className = pixels === "true" ? "panels true-pixels" : "panels";
    find("tile-panels").replaceChildren(...made);
  }

  /** How to see the pixels of a tile whose picture is scaled. */
  offerPixels(tile) {
    const { report } = this;
    const scale = report.scaleOf(tile);
    const scaled = scale > 1 ? `Scaled to 1 / ${scale}; the highest of the pixels stands for them. ` : "True pixels. ";
    if (scale === 1) {
      find("tile-pixels").replaceChildren(scaled);
      return;
    }
    if (!report.pictured(tile, "true")) {
      const command = element("code", {}, `--pixels ${report.tiles.id[tile]}`);
      find("tile-pixels").replaceChildren(scaled, "For true pixels make this page with ", command);
      return;
    }
    const press = () => {
      this.truePixels = !this.truePixels;
      this.fillDialog();
    };
    const pressed = String(Boolean(this.truePixels));
    const button = element("button", { type: "button", "aria-pressed": pressed, onclick: press }, "True pixels");
    find("tile-pixels").replaceChildren(this.truePixels ? "" : scaled, button);
  }
}

export { Gallery };
