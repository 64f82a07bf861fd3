// What all pages share: elements without markup in strings, packed arrays, sheets of tiles, and charts.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Text only ever becomes a text node, so that no tile's name can be markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const find = (id) => document.getElementById(id);
const pageData = () => JSON.parse(find("data").textContent);
const all = (count) => Array.from({ length: count }, (_, index) => index);
const thousands = (value) => value.toLocaleString("en");
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** With its sign, unless it is 0 to that many digits. */
function signed(value, digits = 4) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? "−" : "+") + text;
}

const className = (number) => (number === 0 ? "empty" : `${10 * number - 10} to ${10 * number} %`);

// ---------------------------------------------------------------------------------------------------------------------
// Packed data
// ---------------------------------------------------------------------------------------------------------------------

function bytesOf(id) {
  const text = atob(find(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index++) bytes[index] = text.charCodeAt(index);
  return bytes;
}

/** The inverse of pack_table of html.py: rows of differences between neighbours, deflated. */
async function unpackTable(id, columns, Kind) {
  const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new Kind(await new Response(stream).arrayBuffer());
  for (let index = 0; index < values.length; index++) {
    if (index % columns) values[index] += values[index - 1]; // wraps around as it did when it was packed
  }
  return values;
}

const KEPT_VALUES = 25e6; // of decoded sheets: 150 sheets of 4 x 4 seismic tiles

/** Pixels of single tiles out of WebP sheets, decoded when first asked for; the last sheets are kept. */
class Sheets {
  constructor(layout) {
    Object.assign(this, layout); // tiles in a sheet, columns, height and width of a tile in pixels
    this.kept = Math.max(8, Math.round(KEPT_VALUES / (this.tiles * this.height * this.width)));
    this.decoded = new Map();
  }

  /** The element with the sheet of tile `index` of the stack `name`; null if its picture was left out. */
  sheet(name, index) {
    return find(`${name}-${Math.floor(index / this.tiles)}`);
  }

  /** The values of tile `index` of the stack `name`, Uint8Array [height x width x channels]: 1, grey, or 3. */
  async pixels(name, index, channels = 1) {
    const { id } = this.sheet(name, index);
    if (!this.decoded.has(id)) {
      this.decoded.set(id, this.decode(id, channels));
      if (this.decoded.size > this.kept) this.decoded.delete(this.decoded.keys().next().value);
    }
    const { values, width } = await this.decoded.get(id);
    const place = index % this.tiles;
    const top = Math.floor(place / this.columns) * this.height;
    const left = (place % this.columns) * this.width;
    const line = this.width * channels;
    const tile = new Uint8Array(this.height * line);
    for (let row = 0; row < this.height; row++) {
      const from = ((top + row) * width + left) * channels;
      tile.set(values.subarray(from, from + line), row * line);
    }
    return tile;
  }

  async decode(id, channels) {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const bitmap = await createImageBitmap(new Blob([bytesOf(id)], { type: "image/webp" }), options);
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
    const values = new Uint8Array((rgba.length / 4) * channels);
    for (let index = 0, from = 0; index < values.length; index += channels, from += 4) {
      for (let channel = 0; channel < channels; channel++) values[index + channel] = rgba[from + channel];
    }
    const width = bitmap.width;
    bitmap.close();
    return { values, width };
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Charts
// ---------------------------------------------------------------------------------------------------------------------

/** Draws at the width that the host has, and anew when it changes. Returns a function that draws anew. */
function chart(host, label, draw) {
  let width = 0;
  const again = () => {
    if (width) host.replaceChildren(draw(width, label));
  };
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now !== width) {
      width = now;
      again();
    }
  }).observe(host);
  return again;
}

/** Round numbers between two values, some `count` of them. */
function ticks(low, high, count = 5) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((value) => value >= raw * 0.999);
  const made = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) made.push(value);
  return made.map((value) => Number(value.toPrecision(12)));
}

/** Writes some numbers with as many decimals as the longest of them needs. */
function exactly(values) {
  const digits = Math.max(...values.map((value) => (String(value).split(".")[1] ?? "").length));
  return (value) => value.toFixed(digits);
}

/** A frame with axes. Returns the svg, the scales x and y, and the plot's edges. */
function frame(width, label, { height = 240, x, y, xLabel, yLabel, xTicks, yTicks = ticks(...y, 4), xText, yText }) {
  const left = 46;
  const right = width - 12;
  const top = 24;
  const bottom = height - 40;
  const scaleX = (value) => left + ((value - x[0]) / (x[1] - x[0])) * (right - left);
  const scaleY = (value) => bottom - ((value - y[0]) / (y[1] - y[0])) * (bottom - top);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const tick of yTicks) {
    svg.append(
      shape("line", { class: "grid-line", x1: left, x2: right, y1: scaleY(tick), y2: scaleY(tick) }),
      shape("text", { x: left - 8, y: scaleY(tick) + 4, "text-anchor": "end" }, (yText ?? exactly(yTicks))(tick)),
    );
  }
  svg.append(shape("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  const across = xTicks ?? ticks(...x, Math.max(3, Math.min(8, Math.floor(width / 90))));
  for (const tick of across) {
    svg.append(
      shape("text", { x: scaleX(tick), y: bottom + 17, "text-anchor": "middle" }, (xText ?? exactly(across))(tick)),
    );
  }
  svg.append(
    shape("text", { x: right, y: height - 6, "text-anchor": "end" }, xLabel),
    shape("text", { x: 0, y: 12 }, yLabel),
  );
  return { svg, scaleX, scaleY, left, right, top, bottom };
}

function path(points, scaleX, scaleY) {
  return points.map(([x, y], index) => `${index ? "L" : "M"}${scaleX(x).toFixed(1)} ${scaleY(y).toFixed(1)}`).join("");
}

/** The least and the largest of values, with some air. */
function extent(values, air = 0.06) {
  const known = values.filter((value) => value != null);
  const low = Math.min(...known);
  const high = Math.max(...known);
  const room = (high - low || 0.1) * air;
  return [low - room, high + room];
}

// ---------------------------------------------------------------------------------------------------------------------
// Tables
// ---------------------------------------------------------------------------------------------------------------------

/** A table; a cell is text, an element, or null. Columns after the first are numbers unless named in `plain`. */
function table(caption, columns, rows, plain = []) {
  const kind = (index) => (plain.includes(index) ? "plain" : index ? "number" : undefined);
  const cells = (row) =>
    row.map((cell, index) =>
      index
        ? element("td", { class: cell?.classList?.contains("meter-cell") ? "meter" : kind(index) }, cell ?? "–")
        : element("th", { scope: "row" }, cell),
    );
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element(
      "table",
      {},
      element("caption", { class: "hidden-label" }, caption),
      element(
        "thead",
        {},
        element("tr", {}, ...columns.map((name, index) => element("th", { scope: "col", class: kind(index) }, name))),
      ),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row)))),
    ),
  );
}

/** Bars for shares between 0 and 1, one for each run. */
function meter(shares) {
  const bars = shares.map((share, index) => {
    const fill = element("span", { class: "meter-fill" });
    fill.style.width = `${100 * (share ?? 0)}%`;
    return element("span", { class: `meter-track run${index}` }, fill);
  });
  return element("div", { class: "meter-cell", "aria-hidden": "true" }, ...bars);
}

export {
  element,
  shape,
  find,
  pageData,
  all,
  thousands,
  percent,
  signed,
  className,
  unpackTable,
  Sheets,
  chart,
  ticks,
  exactly,
  frame,
  path,
  extent,
  table,
  meter,
};
