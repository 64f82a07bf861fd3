// The report of one run, or of two side by side.

import { pageData, all, unpackTable } from "./page.js";
import { LEVELS, Report } from "./run_state.js";
import { showOverview, showComparison } from "./overview.js";
import { showControls, updateControls } from "./controls.js";
import { showCurve, showIntervals, showCalibration, showLearning } from "./charts.js";
import { updateLosses, updateTables, showDepths, showRules } from "./tables.js";
import { Gallery } from "./gallery.js";

async function start() {
  const data = pageData();
  const runs = all(data.runs.length);
  const Kind = data.full < 256 ? Uint8Array : Uint16Array;
  const scores = await Promise.all(runs.map((run) => unpackTable(`scores-${run}`, LEVELS, Kind)));
  const areas = await Promise.all(runs.map((run) => unpackTable(`areas-${run}`, LEVELS, Uint16Array)));
  const report = new Report(data, scores, areas);
  let drawCurve = () => {};
  let waiting = false;
  const update = () => {
    waiting = false;
    updateControls(report);
    drawCurve();
    updateLosses(report, filterBy);
    updateTables(report, filterBy);
    gallery.update();
  };
  // However many events the slider sends, the page is drawn once a frame.
  const changed = () => {
    if (!waiting) requestAnimationFrame(update);
    waiting = true;
  };
  const gallery = new Gallery(report, changed);
  const filterBy = (filters) => gallery.filterBy(filters);
  showOverview(report);
  showComparison(report, (tile) => gallery.open(tile));
  showControls(report, changed);
  drawCurve = showCurve(report, changed);
  showIntervals(report);
  showCalibration(report);
  showDepths(report);
  showRules(report);
  showLearning(report);
  update();
  document.documentElement.dataset.ready = "true";
}

// A frame first, so that title and summary are on the screen before the tables are unpacked.
requestAnimationFrame(() => setTimeout(start));
