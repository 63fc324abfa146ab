"use strict";
// What both kinds of page share: colours of the paper, drawing a plot, the filter of systems, tables that sort.
// What goes wrong is shown in the page and counted in body[data-errors]; a plot that is drawn says data-drawn.

const page = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const shown = new Set(page.systems);
const narrow = matchMedia("(max-width: 760px)");
const coarse = matchMedia("(pointer: coarse)");

function fail(what) {
  const place = document.getElementById("errors");
  document.body.dataset.errors = Number(document.body.dataset.errors || 0) + 1;
  place.hidden = false;
  place.textContent += `${what}\n`;
}
addEventListener("error", (event) => fail(event.message));
addEventListener("unhandledrejection", (event) => fail(String(event.reason)));

// Colours: `var(--name)` anywhere in a plot becomes what it is on this paper ------------------------------------------

const probe = document.createElement("i");
probe.hidden = true;
document.body.append(probe);
let colours = new Map();

function colour(text) {
  if (!colours.has(text)) {
    probe.style.color = text;
    colours.set(text, getComputedStyle(probe).color);
  }
  return colours.get(text);
}

function resolved(value) {
  if (typeof value === "string") return value.startsWith("var(") ? colour(value) : value;
  if (Array.isArray(value)) return value.map(resolved);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolved(inner)]));
  }
  return value;
}

// The filter -----------------------------------------------------------------------------------------------------------

function filtered(trace) {
  const meta = trace.meta || {};
  if (meta.system) return shown.has(meta.system) ? trace : null;
  if (!meta.systems) return trace;
  const keep = meta.systems.map((system) => shown.has(system));
  const pick = (value) => {
    if (Array.isArray(value) && value.length === keep.length) return value.filter((_, i) => keep[i]);
    if (value && typeof value === "object" && !Array.isArray(value)) {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, pick(inner)]));
    }
    return value;
  };
  return { ...pick(trace), meta };
}

function paretoFront(points) { // those that no other beats on one axis without losing on the other; less is better
  const front = [];
  for (const point of [...points].sort(([x, y], [x2, y2]) => x - x2 || y - y2)) {
    if (!front.length || point[1] < front.at(-1)[1]) front.push(point);
  }
  return front;
}

function systemsIn(traces) {
  return new Set(traces.flatMap((trace) => (trace.meta?.system ? [trace.meta.system] : trace.meta?.systems || [])));
}

// Drawing --------------------------------------------------------------------------------------------------------------

const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };
const AXIS = { gridcolor: "var(--grid)", zerolinecolor: "var(--line)", linecolor: "var(--line)" };

function laidOut(layout, height) {
  const full = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, Segoe UI, Roboto, DejaVu Sans, sans-serif", size: 12, color: "var(--text)" },
    hoverlabel: { bgcolor: "var(--paper)", bordercolor: "var(--line)", font: { color: "var(--text)" } },
    height,
    dragmode: coarse.matches ? false : "zoom",
    ...layout,
    margin: { l: 8, r: 14, t: 12, b: 40, ...layout.margin },
  };
  for (const key of ["xaxis", "yaxis", "xaxis2", "yaxis2", "yaxis3", "yaxis4"]) {
    if (layout[key]) full[key] = { ...AXIS, fixedrange: coarse.matches || /^y/.test(key), ...layout[key] };
  }
  return full;
}

function draw(id, traces, layout, height) {
  const place = document.getElementById(id);
  return Plotly.react(place, resolved(traces), resolved(laidOut(layout, height)), CONFIG).then(() => {
    if (!place.dataset.drawn && place.on) place.on("plotly_legendclick", toggleSystem);
    place.dataset.drawn = traces.length;
  });
}

// A click on a system in a legend is a click on its box; on a part of a round, plotly's own business
function toggleSystem({ data, curveNumber }) {
  const box = [...document.querySelectorAll("#filter input")].find((one) => one.value === data[curveNumber].meta?.system);
  if (box) box.click();
  return !box;
}

// Tables and paper ------------------------------------------------------------------------------------------------------

function sort(header) {
  const table = header.closest("table");
  const column = [...header.parentNode.children].indexOf(header);
  const down = header.getAttribute("aria-sort") !== "descending";
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => {
    const { value } = row.children[column].dataset;
    return value === undefined ? row.children[column].textContent : value === "" ? -Infinity : Number(value);
  };
  const order = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
  const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b)));
  table.tBodies[0].append(...rows);
}

document.querySelectorAll("th button").forEach((button) =>
  button.addEventListener("click", () => sort(button.closest("th"))));

// A page says how it is drawn and what a change of the filter means.
function start(drawAll, filter) {
  document.querySelectorAll("#filter input").forEach((box) => box.addEventListener("change", () => {
    shown.clear();
    for (const one of document.querySelectorAll("#filter input")) if (one.checked) shown.add(one.value);
    filter();
  }));
  const redraw = () => {
    colours = new Map();
    return drawAll().then(() => { document.body.dataset.drawn = "all"; });
  };
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);
  document.body.dataset.errors = document.body.dataset.errors || 0;
  if (window.Plotly) redraw().catch((error) => fail(String(error)));
}
