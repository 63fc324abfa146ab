// The page over many runs. `page.rows` holds columns, one entry a system of a run; every plot is drawn from the rows
// that the filters leave, so that a hidden system or condition is hidden everywhere.

const { rows, axes, metrics, style } = page;
const LINK = "link";
const allRows = rows.run.map((_, i) => i);
const hiddenValues = new Map(Object.keys(axes).map((axis) => [axis, new Set()]));

// What is shown --------------------------------------------------------------------------------------------------------

function inConditions(i) {
  for (const [axis, hidden] of hiddenValues) if (hidden.has(rows.axes[axis][i])) return false;
  return true;
}
const visible = (i) => shown.has(rows.system[i]) && inConditions(i);
const shownRows = () => allRows.filter(visible);
const shownSystems = (mine) => page.systems.filter((system) => mine.some((i) => rows.system[i] === system));

const isNumber = (axis) => axes[axis].values.every((value) => typeof value === "number" || value === null);
const valueOf = (axis, i) => {
  const at = rows.axes[axis][i];
  if (at < 0) return null;
  return isNumber(axis) ? axes[axis].values[at] : axes[axis].texts[at];
};
const where = (i) => Object.keys(axes).filter((axis) => rows.axes[axis][i] >= 0)
  .map((axis) => `${axis} ${axes[axis].texts[rows.axes[axis][i]]}`).join("<br>");
const about = (i) => `${rows.system[i]}<br>${where(i)}<br>${page.runs[rows.run[i]]}`;

function mean(values) { // geometric, as ratios want it, wherever that is possible
  const found = values.filter((value) => value !== null);
  if (!found.length) return null;
  const sum = (of) => of.reduce((a, b) => a + b, 0);
  return found.every((value) => value > 0)
    ? Math.exp(sum(found.map(Math.log)) / found.length)
    : sum(found) / found.length;
}

function grouped(mine, key) {
  const groups = new Map();
  for (const i of mine) {
    const at = key(i);
    if (at === null) continue;
    if (!groups.has(at)) groups.set(at, []);
    groups.get(at).push(i);
  }
  return groups;
}

const figure = (key, i) => rows.figures[key]?.[i] ?? null;
const marker = (system, more = {}) => ({
  color: style[system].colour, symbol: style[system].symbol, size: 9, line: { color: style[system].colour, width: 2 }, ...more,
});
const titled = (text, more = {}) => ({ title: { text }, automargin: true, ...more });
const LEGEND = { orientation: "h", yanchor: "top", y: -0.2, x: 0 };

function axisOf(axis) {
  if (isNumber(axis)) return titled(axis);
  return titled(axis, { type: "category", categoryorder: "array", categoryarray: axes[axis].texts });
}

// The selects ----------------------------------------------------------------------------------------------------------

function offer(id, options, first) {
  const select = document.getElementById(id);
  for (const [value, text] of options) {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    select.append(option);
  }
  if (options.some(([value]) => value === first)) select.value = first;
  select.addEventListener("change", drawAll);
  return () => select.value;
}

const axisNames = Object.keys(axes);
const several = axisNames.filter((axis) => axes[axis].values.length > 1);
const offered = (several.length ? several : [LINK]).map((axis) => [axis, axis]);
const numeric = several.find((axis) => axis === "link.rtt_ms") || several.find((axis) => axis !== LINK && isNumber(axis))
  || several[0] || LINK;
const heatAxis = offer("heat-axis", offered.some(([axis]) => axis === LINK) ? offered : [[LINK, LINK], ...offered], LINK);
const curveMetric = offer("curves-metric", Object.entries(metrics), "speedup_over_edge_ar");
const curveAxis = offer("curves-axis", offered, numeric);
const predictedOf = offer("predicted-of", [["ms_per_token", "ms per token"], ["round_ms", "a round"]], "ms_per_token");
const predictedAxis = offer("predicted-axis", offered, numeric);

// The plots: each gives { traces, layout, height } or { why } -----------------------------------------------------------

function heat() {
  const axis = heatAxis();
  const mine = shownRows().filter((i) => figure("speedup_over_edge_ar", i) !== null && rows.axes[axis][i] >= 0);
  if (!mine.length) return { why: "no run that is shown has edge_ar to compare with" };
  const systems = shownSystems(mine).reverse();
  const columns = [...new Set(mine.map((i) => rows.axes[axis][i]))].sort((a, b) => a - b);
  const cell = (system, column) =>
    mean(mine.filter((i) => rows.system[i] === system && rows.axes[axis][i] === column)
      .map((i) => figure("speedup_over_edge_ar", i)));
  const ratios = systems.map((system) => columns.map((column) => cell(system, column)));
  const most = Math.min(4, Math.max(1, ...ratios.flat().filter((x) => x !== null).map((x) => Math.abs(Math.log2(x)))));
  return {
    traces: [{
      type: "heatmap", x: columns.map((column) => axes[axis].texts[column]), y: systems,
      z: ratios.map((line) => line.map((x) => (x === null ? null : Math.log2(x)))),
      text: ratios.map((line) => line.map((x) => (x === null ? "" : `${x.toPrecision(3)}×`))), ...(columns.length <= 16 ? { texttemplate: "%{text}" } : {}),
      hovertemplate: "%{y} · %{x}: %{text}<extra></extra>", zmin: -most, zmax: most, xgap: 2, ygap: 2, hoverongaps: false,
      colorscale: [[0, "#d9822b"], [0.5, "#f4f1ea"], [1, "#2f7fc1"]], textfont: { size: 12 },
      colorbar: { thickness: 10, tickvals: [-2, -1, 0, 1, 2], ticktext: ["¼×", "½×", "1×", "2×", "4×"] },
    }],
    layout: { xaxis: titled(axis, { type: "category" }), yaxis: { type: "category", automargin: true }, margin: { r: 8 } },
    height: 120 + 30 * systems.length,
  };
}

function curves() {
  const metric = curveMetric(), axis = curveAxis();
  const mine = shownRows().filter((i) => figure(metric, i) !== null && valueOf(axis, i) !== null);
  if (!mine.length) return { why: `no row that is shown has ${metrics[metric]} and a place on ${axis}` };
  const traces = [];
  // over thresholds a line is a published system, whatever its entries are called
  for (const [name, ours] of grouped(mine, (i) => (axis === "threshold" ? rows.kind[i] : rows.system[i]))) {
    const system = rows.system[ours[0]];
    const places = [...grouped(ours, (i) => rows.axes[axis][i])].sort(([a], [b]) => a - b);
    const alone = places.every(([, at]) => at.length === 1);
    const ends = alone ? places.map(([, [i]]) => rows.intervals[metric]?.[i]) : [];
    const means = places.map(([, at]) => mean(at.map((i) => figure(metric, i))));
    const colour = style[system].colour;
    traces.push({
      type: "scatter", mode: "lines+markers", name, meta: { system }, x: places.map(([, [i]]) => valueOf(axis, i)),
      y: means, text: places.map(([, at]) => (at.length === 1 ? about(at[0]) : `${name}<br>mean of ${at.length} rows`)),
      hovertemplate: "%{y:.4g} · %{text}<extra></extra>", marker: marker(system),
      line: { color: colour, width: 1.8, dash: style[system].exact ? "solid" : "dot" },
      error_y: ends.some(Boolean)
        ? { type: "data", symmetric: false, color: colour, thickness: 1, width: 3,
            array: ends.map((end, k) => (end ? end[1] - means[k] : 0)),
            arrayminus: ends.map((end, k) => (end ? means[k] - end[0] : 0)) }
        : { visible: false },
    });
    if (!alone) {
      traces.push({
        type: "scatter", mode: "markers", meta: { system }, showlegend: false, x: ours.map((i) => valueOf(axis, i)),
        y: ours.map((i) => figure(metric, i)), text: ours.map(about), opacity: 0.35,
        hovertemplate: "%{y:.4g} · %{text}<extra></extra>", marker: { color: colour, size: 5 },
      });
    }
  }
  const layout = { xaxis: axisOf(axis), yaxis: titled(metrics[metric]), legend: LEGEND };
  if (metric === "speedup_over_edge_ar") {
    layout.yaxis.type = "log";
    layout.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { color: "var(--muted)", width: 1 } }];
    const longest = Math.max(...mine.map((i) => valueOf(axis, i)).filter((x) => typeof x === "number"));
    for (const system of axis === "link.rtt_ms" ? shownSystems(mine) : []) {
      const found = mine.filter((i) => rows.system[i] === system).map((i) => rows.critical[i]).filter((x) => x > 0 && x <= 2 * longest);
      if (!found.length) continue;
      traces.push({
        type: "scatter", mode: "markers", meta: { system }, showlegend: false, x: found, y: found.map(() => 1), cliponaxis: false,
        hovertemplate: `${system}: critical round trip %{x:.4g} ms, by the formula<extra></extra>`,
        marker: { color: style[system].colour, symbol: "line-ns-open", size: 14, line: { color: style[system].colour, width: 2 } },
      });
    }
  }
  return { traces, layout, height: 440 };
}

function quality([across, up]) {
  const mine = shownRows().filter((i) => figure(across, i) !== null && figure(up, i) !== null);
  const threshold = (i) => (rows.axes.threshold ? valueOf("threshold", i) : figure("threshold", i));
  const swept = mine.filter((i) => threshold(i) !== null);
  if (!swept.length) return { why: "no system that is shown was swept over a threshold, with its answers judged" };
  const traces = [];
  for (const [kind, ours] of grouped(swept, (i) => rows.kind[i])) {
    const points = [...grouped(ours, threshold)].sort(([a], [b]) => a - b)
      .map(([at, those]) => ({ at, those, x: mean(those.map((i) => figure(across, i))), y: mean(those.map((i) => figure(up, i))) }));
    const system = rows.system[ours[0]];
    traces.push({
      type: "scatter", mode: "lines+markers", name: kind, meta: { system }, x: points.map((p) => p.x), y: points.map((p) => p.y),
      text: points.map((p) => `${kind}, threshold ${p.at}<br>${p.those.length} rows`),
      hovertemplate: "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>", line: { color: style[system].colour, width: 1.8 },
      marker: marker(system),
    });
  }
  const rest = mine.filter((i) => threshold(i) === null);
  for (const system of shownSystems(rest)) {
    const ours = rest.filter((i) => rows.system[i] === system);
    traces.push({
      type: "scatter", mode: "markers", name: system, meta: { system }, text: [system], showlegend: false,
      x: [mean(ours.map((i) => figure(across, i)))], y: [mean(ours.map((i) => figure(up, i)))],
      cliponaxis: false,
      hovertemplate: "%{text}: %{x:.4g}, %{y:.4g}<extra></extra>", marker: marker(system, { symbol: "x-thin-open", size: 8 }),
    });
  }
  const zero = up === "unverified_share" ? { rangemode: "tozero" } : {};
  const layout = { xaxis: titled(metrics[across], { rangemode: "tozero" }), yaxis: titled(metrics[up], zero), legend: LEGEND };
  return { traces, layout, height: 360 };
}

function energy() {
  const mine = shownRows().filter((i) => figure("energy_j_per_token", i) !== null && figure("ms_per_token", i) !== null);
  if (!mine.length) return { why: "no row that is shown has the joules of both nodes" };
  const traces = shownSystems(mine).map((system) => {
    const ours = mine.filter((i) => rows.system[i] === system);
    return {
      type: "scatter", mode: "markers", name: system, meta: { system }, x: ours.map((i) => figure("ms_per_token", i)),
      y: ours.map((i) => figure("energy_j_per_token", i)), text: ours.map((i) => `${about(i)}<br>${rows.energy_status[i]}`),
      hovertemplate: "%{x:.4g} ms, %{y:.4g} J · %{text}<extra></extra>", marker: marker(system, { opacity: 0.85 }),
    };
  });
  const front = paretoFront(mine.map((i) => [figure("ms_per_token", i), figure("energy_j_per_token", i)]));
  traces.push({
    type: "scatter", mode: "lines+markers", name: "Pareto front", showlegend: false, hoverinfo: "skip", cliponaxis: false,
    x: front.map(([x]) => x), y: front.map(([, y]) => y), line: { color: "var(--muted)", width: 1.2, dash: "dash" },
    marker: { symbol: "circle-open", size: 17, color: "var(--muted)" },
  });
  const layout = {
    xaxis: titled("time per token (ms)", { rangemode: "tozero" }), yaxis: titled("energy per token (J)", { rangemode: "tozero" }),
    legend: LEGEND,
  };
  return { traces, layout, height: 460 };
}

function predicted() {
  const of = predictedOf(), axis = predictedAxis();
  const [formula, measured] = [`predicted_${of}`, `steady_${of}`];
  const residual = of === "round_ms" ? "round_residual_pct" : "residual_pct";
  const mine = shownRows().filter((i) => figure(formula, i) !== null && figure(measured, i) !== null && valueOf(axis, i) !== null);
  if (!mine.length) return { why: "no formula describes what is shown" };
  const traces = [];
  for (const system of shownSystems(mine)) {
    const ours = mine.filter((i) => rows.system[i] === system);
    const places = [...grouped(ours, (i) => rows.axes[axis][i])].sort(([a], [b]) => a - b);
    const line = (key) => places.map(([, at]) => mean(at.map((i) => figure(key, i))));
    const colour = style[system].colour;
    const common = { type: "scatter", meta: { system }, text: ours.map(about), hovertemplate: "%{y:.4g} · %{text}<extra></extra>" };
    traces.push(
      { ...common, mode: "lines+markers", showlegend: false, x: places.map(([, [i]]) => valueOf(axis, i)), y: line(formula),
        text: places.map(() => `${system}, formula`), line: { color: colour, width: 1.5, dash: "dash" },
        marker: { color: colour, symbol: "diamond-open", size: 8 } },
      { ...common, mode: "markers", name: system, x: ours.map((i) => valueOf(axis, i)), y: ours.map((i) => figure(measured, i)),
        marker: marker(system, { size: 8 }) },
      { ...common, mode: "markers", showlegend: false, x: ours.map((i) => valueOf(axis, i)), y: ours.map((i) => figure(residual, i)),
        yaxis: "y2", marker: marker(system, { size: 6 }) },
    );
  }
  const layout = {
    xaxis: { ...axisOf(axis), anchor: "y2" }, legend: LEGEND,
    yaxis: titled(of === "round_ms" ? "a round (ms)" : "ms per token", { domain: [0.38, 1], rangemode: "tozero" }),
    yaxis2: titled("residual (%)", { domain: [0, 0.28], zeroline: true }),
  };
  return { traces, layout, height: 560 };
}

const PLOTS = {
  heat, curves, energy, predicted, ...ROUND_PLOTS,
  ...Object.fromEntries(Object.entries(page.quality).map(([name, ends]) => [name, () => quality(ends)])),
};

function drawOne(name) {
  const { traces, layout, height, why } = PLOTS[name]();
  const place = document.getElementById(`plot-${name}`);
  const absent = document.getElementById(`absent-${name}`);
  absent.hidden = !why;
  absent.textContent = why ? `Not shown: ${why}.` : "";
  place.hidden = Boolean(why);
  if (why) {
    delete place.dataset.drawn;
    return Promise.resolve();
  }
  return draw(`plot-${name}`, traces, layout, height);
}

function drawAll() {
  return Object.keys(PLOTS).reduce((before, name) => before.then(() => drawOne(name)), Promise.resolve());
}

// Filters --------------------------------------------------------------------------------------------------------------

function filter() {
  const runs = new Set(allRows.filter(inConditions).map((i) => rows.run[i]));
  for (const row of document.querySelectorAll("[data-row]")) row.hidden = !visible(Number(row.dataset.row));
  for (const row of document.querySelectorAll("[data-runs]")) {
    row.hidden = !row.dataset.runs.split(" ").some((run) => runs.has(Number(run)));
  }
  for (const row of document.querySelectorAll("tr[data-system]")) row.hidden = !shown.has(row.dataset.system);
  count();
  return drawAll();
}

function count() {
  const mine = shownRows();
  document.getElementById("count").textContent =
    `${new Set(mine.map((i) => rows.run[i])).size} of ${page.runs.length} runs, ${mine.length} of ${allRows.length} rows`;
}

document.querySelectorAll("#axes input").forEach((box) => box.addEventListener("change", () => {
  const hidden = hiddenValues.get(box.dataset.axis);
  if (box.checked) hidden.delete(Number(box.value));
  else hidden.add(Number(box.value));
  filter();
}));
count();
start(drawAll, filter);
