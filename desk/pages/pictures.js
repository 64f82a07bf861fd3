// Pictures of single tiles: image, truth, probability, and what is right and wrong of it.

// [red, green, blue] over the tile: rightly found, missed, falsely predicted; and the truth by itself.
const OVERLAY = { both: [27, 178, 140], truth: [245, 178, 30], proposal: [225, 70, 165] };
// Of probability 0 to 1 in 256 steps: black through violet and orange to pale yellow, even in lightness.
const WARM = Array.from({ length: 256 }, (_, index) => {
  const stops = [
    [13, 10, 32],
    [84, 28, 99],
    [176, 53, 88],
    [236, 115, 54],
    [252, 192, 88],
    [252, 250, 200],
  ];
  const place = (index / 255) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, channel) => value + (stops[low + 1][channel] - value) * (place - low));
});

/** One view of a tile, for one run, as ImageData: scaled, or with its `true` pixels; empty if it was left out. */
async function picture(report, tile, run, view, pixels = "scaled") {
  const { channels } = report;
  const levels = pixels === "true" ? report.trueLevels : report.levels;
  const sheets = report.pictures[pixels];
  const [images, probabilities] =
    pixels === "true" ? ["true-images", `true-probabilities-${run}`] : ["images", `probabilities-${run}`];
  const made = new ImageData(sheets.width, sheets.height);
  if (!report.pictured(tile, pixels)) return made;
  const [image, packed] = await Promise.all([
    sheets.pixels(images, report.tiles.image[tile], channels),
    sheets.pixels(probabilities, tile),
  ]);
  const steps = 256 / levels; // levels of 255 to one step of the picture
  const least = report.predicted(run, tile) ? Math.max(1, Math.round(report.level[run] / steps)) : Infinity;
  for (let index = 0; index < packed.length; index++) {
    const truth = packed[index] >= 128;
    const step = packed[index] & 127;
    let colour = null;
    let share = 0.6;
    if (view === "probability") [colour, share] = [WARM[Math.round((step * 255) / (levels - 1))], 1];
    else if (view === "truth" && truth) colour = OVERLAY.both;
    else if (view === "error" && step >= least) colour = truth ? OVERLAY.both : OVERLAY.proposal;
    else if (view === "error" && truth) colour = OVERLAY.truth;
    for (let channel = 0; channel < 3; channel++) {
      const own = image[channels * index + (channels > 1 ? channel : 0)];
      made.data[4 * index + channel] = colour ? own + (colour[channel] - own) * share : own;
    }
    made.data[4 * index + 3] = 255;
  }
  return made;
}

/** Several pictures of one size in one canvas, `across` in a row, a little apart. */
function tiled(canvas, pictures, across) {
  const [{ width, height }] = pictures;
  const rows = Math.ceil(pictures.length / across);
  canvas.width = across * (width + 2) - 2;
  canvas.height = rows * (height + 2) - 2;
  const context = canvas.getContext("2d");
  pictures.forEach((made, place) =>
    context.putImageData(made, (place % across) * (width + 2), Math.floor(place / across) * (height + 2)),
  );
}

export { OVERLAY, picture, tiled };
