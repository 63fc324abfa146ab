"use strict";
// Draws the plots from the page's data, in the colours of the paper; filters them by system; sorts tables.
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

function drawPlot(plot) {
  const traces = plot.traces.map(filtered).filter(Boolean);
  const rows = plot.row_px ? [...systemsIn(plot.traces)].filter((system) => shown.has(system)).length : 0;
  const layout = { ...plot.layout };
  if (plot.row_px) {
    const order = plot.layout.yaxis.categoryarray.filter((system) => shown.has(system));
    layout.yaxis = { ...plot.layout.yaxis, categoryarray: order, range: [-0.6, order.length - 0.4] };
  }
  return draw(`plot-${plot.id}`, traces, layout, plot.height_px + rows * plot.row_px);
}

function drawAll() {
  colours = new Map();
  const plots = page.plots.filter((plot) => plot.traces.length);
  return plots
    .reduce((before, plot) => before.then(() => drawPlot(plot)), Promise.resolve())
    .then(() => page.timelines && drawTimeline())
    .then(() => {
      document.body.dataset.drawn = "all";
    });
}

// Power over time ------------------------------------------------------------------------------------------------------

const chooseSystem = document.getElementById("timeline-system");
const chooseRequest = document.getElementById("timeline-request");

function offerRequests() {
  const requests = page.timelines.systems[chooseSystem.value];
  const options = requests.map((request, i) => {
    const option = document.createElement("option");
    option.value = i;
    option.textContent = `${request.request_id} · ${request.e2e_ms.toPrecision(4)} ms · ${request.rounds} rounds`;
    return option;
  });
  chooseRequest.replaceChildren(...options);
}

function drawTimeline() {
  const { systems, parts, step_ms } = page.timelines;
  const request = systems[chooseSystem.value][chooseRequest.value];
  const nodes = { device: ["y", "y3"], edge: ["y2", "y4"] };
  const traces = [];
  for (const [node, [powerAxis, phaseAxis]] of Object.entries(nodes)) {
    for (const [part, spans] of Object.entries(request.spans[node])) {
      const label = parts[part];
      traces.push({
        type: "bar", name: label, yaxis: phaseAxis, xaxis: "x",
        x: spans.map(([start, length]) => start + length / 2), width: spans.map(([, length]) => length),
        y: spans.map(() => (part === "lookahead" ? 0.3 : 1)),
        text: spans.map(([start, length, round]) => `round ${round}, ${length.toPrecision(3)} ms`), textposition: "none",
        hovertemplate: `${node}, ${label}: %{text}<extra></extra>`,
        marker: { color: `var(--part-${part})`, line: { width: 0 } }, opacity: 0.75,
      });
    }
    const [times, watts] = request.power[node] || [[], []];
    traces.push({ // a node without power keeps its axis, which says so
      type: "scatter", mode: "lines", line: { color: "var(--text)", width: 1.8, shape: "hvh" },
      x: times.length ? times : [0], y: times.length ? watts : [null],
      yaxis: powerAxis, xaxis: "x", name: `power, ${node}`, hovertemplate: `${node}: %{y:.4g} W<extra></extra>`,
    });
  }
  const phases = { range: [0, 1], visible: false, fixedrange: true };
  const watts = (node, domain) => ({
    title: { text: `${node} (${request.power[node]?.[0].length ? "W" : "no power"})` }, domain, rangemode: "tozero",
    automargin: true, showgrid: false, tickmode: "auto", nticks: 5, showticklabels: Boolean(request.power[node]?.[0].length), zeroline: false,
  });
  const layout = {
    barmode: "overlay",
    xaxis: { title: { text: "time since the request began (ms)" }, anchor: "y2", showgrid: false,
      range: [-0.03 * request.e2e_ms, 1.03 * request.e2e_ms] },
    yaxis: watts("device", [0.54, 1]), yaxis2: watts("edge", [0, 0.46]),
    yaxis3: { ...phases, domain: [0.54, 1] }, yaxis4: { ...phases, domain: [0, 0.46] },
    showlegend: false,
  };
  // the power lines go above the phases: an axis that overlays is drawn later
  layout.yaxis.overlaying = "y3";
  layout.yaxis2.overlaying = "y4";
  return draw("plot-timeline", traces, layout, narrow.matches ? 380 : 420);
}

// A click on a system in a legend is a click on its box; on a part of a round, plotly's own business
function toggleSystem({ data, curveNumber }) {
  const box = [...document.querySelectorAll("#filter input")].find((one) => one.value === data[curveNumber].meta?.system);
  if (box) box.click();
  return !box;
}

// Controls -------------------------------------------------------------------------------------------------------------

function filter() {
  shown.clear();
  for (const box of document.querySelectorAll("#filter input")) if (box.checked) shown.add(box.value);
  for (const row of document.querySelectorAll("tr[data-system]")) row.hidden = !shown.has(row.dataset.system);
  page.plots.filter((plot) => plot.traces.length).forEach(drawPlot);
}

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

document.querySelectorAll("#filter input").forEach((box) => box.addEventListener("change", filter));
document.querySelectorAll("th button").forEach((button) =>
  button.addEventListener("click", () => sort(button.closest("th"))));
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
narrow.addEventListener("change", drawAll);
if (page.timelines) {
  chooseSystem.value = page.timelines.first;
  offerRequests();
  chooseSystem.addEventListener("change", () => { offerRequests(); drawTimeline(); });
  chooseRequest.addEventListener("change", drawTimeline);
}
document.body.dataset.errors = document.body.dataset.errors || 0;
if (window.Plotly) drawAll().catch((error) => fail(String(error)));
