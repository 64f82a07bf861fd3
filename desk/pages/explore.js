// The data before training: distributions, and tiles by kind.

import {
  element,
  shape,
  find,
  pageData,
  all,
  thousands,
  percent,
  signed,
  className,
  Sheets,
  chart,
  frame,
  extent,
  table,
  meter,
} from "./page.js";

const SALT = [27, 178, 140];
const FLAWS = {
  black: () => ["Black", "All pixels are 0: no seismic at all. Leave them out of training, and predict them empty."],
  duplicate: () => [
    "Duplicates",
    "The same image more than once, byte by byte, black ones aside. Keep copies in the same fold.",
  ],
  vertical: () => [
    "Vertical masks",
    "Salt, and all rows equal: an artefact of annotation below a dome, which no image shows.",
  ],
  tiny: ({ target, tinyLimit }) => [
    "Tiny masks",
    `At most ${thousands(tinyLimit)} pixels of ${target}. Each is worth as much as a large one, and easily missed.`,
  ],
};

function card(title, value, text) {
  return element(
    "div",
    { class: "panel card" },
    element("h3", {}, title),
    element("div", { class: "value" }, value),
    element("p", {}, text),
  );
}

function showCards({ counts, target }) {
  const share = (value) => percent(value / counts.train);
  find("cards").replaceChildren(
    card(
      "Empty tiles",
      share(counts.empty),
      `${thousands(counts.empty)} of ${thousands(counts.train)}: what an all-empty submission would score here.`,
    ),
    card(
      "Mean coverage",
      percent(counts.mean_coverage),
      counts.mean_coverage_salt == null
        ? `No tile has ${target}.`
        : `${percent(counts.mean_coverage_salt)} among the tiles with ${target}.`,
    ),
    ...("black" in counts
      ? [
          card(
            "Black",
            thousands(counts.black),
            `in training, ${thousands(counts.black_test)} in test` +
              (counts.black_with_salt
                ? `; ${counts.black_with_salt} of them with a mask, which cannot be right.`
                : `; all of them without ${target}.`),
          ),
        ]
      : []),
    ...("vertical" in counts
      ? [card("Vertical masks", thousands(counts.vertical), `${share(counts.vertical)} of the training tiles.`)]
      : []),
    card(
      "Duplicate images",
      thousands(counts.duplicates),
      counts.duplicates
        ? `groups, black ones aside; ${counts.duplicates_across} across training and test, ` +
            `${counts.duplicates_disagreeing} whose masks differ.`
        : "No image occurs twice, in training or test, black ones aside.",
    ),
  );
}

function showClasses({ groups, counts }) {
  const classes = groups.filter(({ kind }) => kind.startsWith("class-"));
  const label = classes.map(({ count }, number) => `${className(number)} ${count}`).join(", ");
  chart(find("classes"), "", (width) => {
    const most = Math.max(...classes.map(({ count }) => count), 1);
    const { svg, scaleX, scaleY, bottom } = frame(width, `Training tiles by coverage: ${label}`, {
      height: 270,
      x: [-0.6, 10.6],
      y: [0, most * 1.08],
      xLabel: "coverage class (0: empty)",
      yLabel: "tiles",
      xTicks: all(11),
      yText: thousands,
    });
    classes.forEach(({ count }, number) => {
      const left = scaleX(number - 0.38);
      const right = scaleX(number + 0.38);
      const top = scaleY(count);
      svg.append(
        shape("rect", {
          class: `column ${number ? "tone0" : "tone-quiet"}`,
          x: left,
          y: top,
          width: right - left,
          height: bottom - top,
          rx: 2,
        }),
        shape(
          "text",
          { x: (left + right) / 2, y: top - 5, "text-anchor": "middle" },
          width < 420 ? String(Math.round((100 * count) / counts.train)) + "%" : thousands(count),
        ),
      );
    });
    return svg;
  });
}

function showDepths({ depths, scatter, correlation }) {
  if (!depths) {
    find("depth-panel").hidden = true;
    find("scatter-panel").hidden = true;
    return;
  }
  if (!depths.length) {
    find("correlation").textContent = "There is no depths.csv with depths of these tiles.";
    find("depth-panel").hidden = true;
    return;
  }
  const text = (value) => (value == null ? "not defined" : signed(value, 2));
  find("correlation").textContent =
    `Correlation of depth with coverage ${text(correlation.coverage)}, with being empty ${text(correlation.empty)}.`;
  const points = scatter.depth
    .map((depth, index) => [depth, scatter.coverage[index]])
    .filter(([depth]) => depth != null);
  chart(find("scatter"), "", (width) => {
    const share = [0, 0.25, 0.5, 0.75, 1];
    const { svg, scaleX, scaleY } = frame(
      width,
      `Depth against coverage of ${points.length} tiles; the table by depth has the figures`,
      {
        height: 270,
        x: extent(
          points.map(([depth]) => depth),
          0.03,
        ),
        y: [0, 1],
        xLabel: "depth",
        yLabel: "coverage",
        yTicks: share,
        yText: (value) => percent(value, 0),
      },
    );
    const d = points.map(([x, y]) => `M${scaleX(x).toFixed(1)} ${scaleY(y).toFixed(1)}h0`).join("");
    svg.append(shape("path", { class: "cloud tone0", d }));
    return svg;
  });
  find("depths").replaceChildren(
    table(
      "Tiles by depth",
      ["depth", "tiles", "empty", "mean coverage", ""],
      depths.map((row) => [
        `${row.low} to ${row.high}`,
        thousands(row.tiles),
        percent(row.empty),
        percent(row.coverage),
        meter([row.coverage]),
      ]),
    ),
  );
}

/** How many tiles have each class, if there are several. */
function showLabels({ labels, counts }) {
  find("label-panel").hidden = labels.length < 2;
  const rows = labels.map(({ label, tiles }) => [
    label,
    thousands(tiles),
    percent(tiles / counts.train),
    meter([tiles / counts.train]),
  ]);
  find("labels").replaceChildren(table("Tiles by class", ["class", "tiles", "share", ""], rows));
}

function showTiny({ tiny, counts, target }) {
  find("tiny").replaceChildren(
    table(
      "Tiny masks",
      [target, "tiles", "worth"],
      tiny.map(({ area, tiles }) => [
        area === 1 ? "1 pixel" : `at most ${thousands(area)} pixels`,
        thousands(tiles),
        (tiles / counts.train).toFixed(4),
      ]),
    ),
  );
}

function showGroups(data) {
  const pictures = new Sheets(data.sheets);
  const { height, width } = data.sheets;
  const { channels } = data;
  let withSalt = true;
  const draw = async (canvas) => {
    const tile = Number(canvas.dataset.tile);
    const [image, mask] = await Promise.all([
      pictures.pixels("images", tile, channels),
      pictures.pixels("masks", tile),
    ]);
    const made = new ImageData(width, height);
    for (let index = 0; index < mask.length; index++) {
      for (let channel = 0; channel < 3; channel++) {
        const own = image[channels * index + (channels > 1 ? channel : 0)];
        made.data[4 * index + channel] = withSalt && mask[index] ? own + (SALT[channel] - own) * 0.55 : own;
      }
      made.data[4 * index + 3] = 255;
    }
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(made, 0, 0);
  };
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter(({ isIntersecting }) => isIntersecting)) {
        seen.unobserve(entry.target);
        entry.target.dataset.drawn = "true";
        draw(entry.target);
      }
    },
    { rootMargin: "400px" },
  );

  const toggle = element(
    "button",
    {
      type: "button",
      id: "salt",
      "aria-pressed": "true",
      onclick: () => {
        withSalt = !withSalt;
        toggle.setAttribute("aria-pressed", String(withSalt));
        for (const canvas of document.querySelectorAll("canvas[data-drawn]")) draw(canvas);
      },
    },
    `Show the ${data.target}`,
  );
  find("toolbar").replaceChildren(toggle);

  const sections = data.groups.map(({ kind, tiles, count }) => {
    const flaw = FLAWS[kind]?.(data);
    const number = Number(kind.split("-")[1]);
    const title = flaw ? flaw[0] : number ? `${className(number)} ${data.target}` : "Empty";
    const shown = tiles.length < count ? `${tiles.length} of ${thousands(count)}` : thousands(count);
    const figures = tiles.map((tile) => {
      const { id, salt, depth } = {
        id: data.tiles.id[tile],
        salt: data.tiles.salt[tile],
        depth: data.tiles.depth[tile],
      };
      const where = depth == null ? "" : `, depth ${depth}`;
      const canvas = element("canvas", {
        role: "img",
        "data-tile": tile,
        width,
        height,
        "aria-label": `Tile ${id}, ${salt} pixels of ${data.target}${where}`,
      });
      seen.observe(canvas);
      const amount = salt > 100 || !salt ? percent(salt / (data.pixels[tile] ?? data.pixels), 0) : `${salt} px`;
      return element(
        "figure",
        { class: "tile" },
        canvas,
        element("figcaption", { class: "caption" }, element("span", {}, id), element("strong", {}, amount)),
      );
    });
    return element(
      "section",
      { id: kind, "aria-label": title },
      element("h2", {}, title, element("span", { class: "quiet small" }, `  ${shown}`)),
      flaw ? element("p", { class: "small quiet" }, flaw[1]) : null,
      tiles.length
        ? element("div", { class: "tiles" }, ...figures)
        : element("p", { class: "small quiet" }, "None in training."),
    );
  });
  find("group-list").replaceChildren(...sections.slice(11), ...sections.slice(0, 11));
}

function start() {
  const data = pageData();
  showCards(data);
  showClasses(data);
  showDepths(data);
  showLabels(data);
  showTiny(data);
  showGroups(data);
  document.documentElement.dataset.ready = "true";
}

// A frame first, so that title and summary are on the screen before all else.
requestAnimationFrame(() => setTimeout(start));
