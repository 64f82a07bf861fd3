// The page of the rebuilt slices: each is drawn when it comes into view, and again when a switch is set.

import { all, element, find, pageData } from "./page.js";

const COLOURS = { salt: [0, 200, 120], test: "#ffb000", seam: "#4aa3ff" };
const SWITCHES = { salt: ["Salt of training tiles", true], test: ["Frames of test tiles", true], seams: ["Seams", false] };
const data = pageData();
const shown = Object.fromEntries(Object.entries(SWITCHES).map(([name, [, on]]) => [name, on]));
const drawn = new Map();

async function load(id) {
  const image = new Image();
  image.src = `data:image/webp;base64,${find(id).textContent}`;
  await image.decode();
  return image;
}

/** The salt's pixels in one colour, half transparent, all else clear. */
function tint(image) {
  const canvas = element("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height);
  for (let index = 0; index < pixels.data.length; index += 4) {
    const salt = pixels.data[index] > 127;
    pixels.data.set([...COLOURS.salt, salt ? 90 : 0], index);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function draw({ canvas, slice, salt, mosaic }) {
  const context = canvas.getContext("2d");
  const { width, height } = data;
  context.drawImage(slice, 0, 0);
  if (shown.salt) context.drawImage(salt, 0, 0);
  context.lineWidth = 2;
  for (const tile of mosaic.tiles) {
    const [left, top] = [tile.column * width, tile.row * height];
    if (shown.seams) {
      context.strokeStyle = COLOURS.seam;
      context.beginPath();
      if (tile.right) { context.moveTo(left + width, top); context.lineTo(left + width, top + height); }
      if (tile.below) { context.moveTo(left, top + height); context.lineTo(left + width, top + height); }
      context.stroke();
    }
    if (shown.test && tile.test) {
      context.strokeStyle = COLOURS.test;
      context.strokeRect(left + 2, top + 2, width - 4, height - 4);
    }
  }
}

async function open(canvas, number) {
  const [slice, salt] = await Promise.all([load(`slice-${number}`), load(`salt-${number}`)]);
  const one = { canvas, slice, salt: tint(salt), mosaic: data.mosaics[number] };
  drawn.set(number, one);
  draw(one);
  canvas.dataset.drawn = "true";
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    open(target, Number(target.dataset.number));
  }
}, { rootMargin: "400px" });

for (const [name, [label, on]] of Object.entries(SWITCHES)) {
  const change = (event) => { shown[name] = event.target.checked; drawn.forEach(draw); };
  find("toolbar").append(element("label", {}, element("input", { type: "checkbox", id: name, checked: on, onchange: change }), ` ${label}`));
}
for (const number of all(data.mosaics.length)) {
  const { size, tiles } = data.mosaics[number];
  const test = tiles.filter((tile) => tile.test).length;
  const text = `Mosaic ${number}: ${tiles.length} tiles, ${test} of them test tiles`;
  const canvas = element("canvas", { width: size[0], height: size[1], "data-number": number, role: "img", "aria-label": text });
  const ids = tiles.map((tile) => `${tile.id} (row ${tile.row}, column ${tile.column}, ${tile.confidence})`).join(", ");
  find("list").append(element("figure", {}, element("figcaption", { class: "small quiet" }, text), canvas,
    element("details", { class: "small" }, element("summary", {}, "Tiles"), ids)));
  seen.observe(canvas);
}
