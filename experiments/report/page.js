"use strict";
// A run's page: plots that come ready made, and a timeline for requests that the reader picks.

function drawPlot(plot) {
  const traces = plot.traces.map(filtered).filter(Boolean);
  const rows = plot.row_px ? [...systemsIn(plot.traces)].filter((system) => shown.has(system)).length : 0;
  const layout = { ...plot.layout };
  for (const trace of traces.filter((one) => one.meta?.front)) {
    const front = paretoFront(traces.filter((one) => one.meta?.system).map((one) => [one.x[0], one.y[0]]));
    [trace.x, trace.y] = [front.map(([x]) => x), front.map(([, y]) => y)];
  }
  if (plot.row_px) {
    const order = plot.layout.yaxis.categoryarray.filter((system) => shown.has(system));
    layout.yaxis = { ...plot.layout.yaxis, categoryarray: order, range: [-0.6, order.length - 0.4] };
  }
  return draw(`plot-${plot.id}`, traces, layout, plot.height_px + rows * plot.row_px);
}

function drawAll() {
  const plots = page.plots.filter((plot) => plot.traces.length);
  return plots
    .reduce((before, plot) => before.then(() => drawPlot(plot)), Promise.resolve())
    .then(() => page.timelines && drawTimeline());
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

// Controls -------------------------------------------------------------------------------------------------------------

function filter() {
  for (const row of document.querySelectorAll("tr[data-system]")) row.hidden = !shown.has(row.dataset.system);
  page.plots.filter((plot) => plot.traces.length).forEach(drawPlot);
}

if (page.timelines) {
  chooseSystem.value = page.timelines.first;
  offerRequests();
  chooseSystem.addEventListener("change", () => { offerRequests(); drawTimeline(); });
  chooseRequest.addEventListener("change", drawTimeline);
}
start(drawAll, filter);
