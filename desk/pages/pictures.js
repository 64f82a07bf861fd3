// Pictures of single tiles: image, truth, probability, and what is right and wrong of it.

// [red, green, blue] over the grey tile: rightly found, missed, falsely predicted; and the truth by itself.
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

/** One view of a tile, for one run, as ImageData. */
async function picture(report, tile, run, view) {
  const { size } = report.sheets;
  const [image, packed] = await Promise.all([
    report.pictures.pixels("images", tile),
    report.pictures.pixels(`probabilities-${run}`, tile),
  ]);
  const steps = 256 / report.levels; // levels of 255 to one step of the picture
  const least = report.predicted(run, tile) ? Math.max(1, Math.round(report.level[run] / steps)) : Infinity;
  const made = new ImageData(size, size);
  for (let index = 0; index < packed.length; index++) {
    const truth = packed[index] >= 128;
    const step = packed[index] & 127;
    const grey = image[index];
    let colour = null;
    let share = 0.6;
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

/** Several pictures in one canvas, `across` in a row, a little apart. */
function tiled(canvas, pictures, across, size) {
  const step = size + 2;
  const rows = Math.ceil(pictures.length / across);
  canvas.width = across * step - 2;
  canvas.height = rows * step - 2;
  const context = canvas.getContext("2d");
  pictures.forEach((made, place) =>
    context.putImageData(made, (place % across) * step, Math.floor(place / across) * step),
  );
}

export { OVERLAY, picture, tiled };
