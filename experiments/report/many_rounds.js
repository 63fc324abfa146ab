// What a round is made of, over the rows that are shown: its parts, what of a draft stands, bytes, latencies. A bar or a
// mark is a mean over the rows of its system. Loaded before many.js, whose names it uses when it draws.

const plainMean = (values) => {
  const found = values.filter((value) => value !== null && value !== undefined);
  return found.length ? found.reduce((a, b) => a + b, 0) / found.length : null;
};
const bySystem = (mine) => shownSystems(mine).reverse().map((system) => [system, mine.filter((i) => rows.system[i] === system)]);
const rowHeight = (systems) => 110 + 27 * systems.length;
const categories = { type: "category", automargin: true };

function anatomy() {
  const mine = shownRows().filter((i) => Object.keys(rows.parts[i]).length);
  if (!mine.length) return { why: "no row that is shown has rounds" };
  const ours = bySystem(mine);
  const traces = Object.keys(page.parts).map((part) => ({
    type: "bar", orientation: "h", name: page.parts[part], y: ours.map(([system]) => system),
    x: ours.map(([, at]) => plainMean(at.map((i) => rows.parts[i][part] ?? 0))), marker: { color: `var(--part-${part})` },
    hovertemplate: `%{y} · ${page.parts[part]}: %{x:.4g} ms<extra></extra>`,
  }));
  const layout = { barmode: "stack", bargap: 0.35, showlegend: false, xaxis: titled("mean time of a round (ms)"), yaxis: categories };
  return { traces, layout, height: rowHeight(ours) };
}

function standing(key, place, xTitle, yTitle, scale) {
  const mine = shownRows().filter((i) => rows[key][i].length);
  if (!mine.length) return { why: "no row that is shown had a draft verified" };
  const traces = bySystem(mine).reverse().map(([system, at]) => {
    const points = new Map();
    for (const i of at) for (const [x, y] of rows[key][i]) points.set(x, [...(points.get(x) || []), y]);
    const xs = [...points.keys()].sort((a, b) => a - b);
    return {
      type: "scatter", mode: "lines+markers", name: system, meta: { system }, x: xs, y: xs.map((x) => scale * plainMean(points.get(x))),
      line: { color: style[system].colour, width: 1.5, dash: style[system].exact ? "solid" : "dot" }, marker: marker(system),
      hovertemplate: `${system} · ${place} %{x}: %{y:.3g}<extra></extra>`,
    };
  });
  return { traces, layout: { xaxis: titled(xTitle, { dtick: 1 }), yaxis: titled(yTitle, { rangemode: "tozero" }), legend: LEGEND }, height: 380 };
}

// Two panels side by side, a row a system, a mark a figure
function marked(panels, log, why) {
  const keys = panels.flatMap((panel) => panel.marks.map(([key]) => key));
  const mine = shownRows().filter((i) => keys.some((key) => figure(key, i)));
  if (!mine.length) return { why };
  const ours = bySystem(mine);
  const traces = panels.flatMap((panel, k) => panel.marks.map(([key, name, symbol]) => {
    const there = ours.filter(([, at]) => mean(at.map((i) => figure(key, i))));
    return {
      type: "scatter", mode: "markers", name, x: there.map(([, at]) => mean(at.map((i) => figure(key, i)))), y: there.map(([system]) => system),
      xaxis: k ? "x2" : "x", hovertemplate: `%{y} · ${name}: %{x:.4g}<extra></extra>`, showlegend: k === panels.length - 1,
      marker: { symbol, size: 9, color: there.map(([system]) => style[system].colour), line: { width: 2, color: there.map(([system]) => style[system].colour) } },
    };
  }));
  const scale = log ? { type: "log" } : { rangemode: "tozero" };
  const layout = {
    xaxis: titled(panels[0].title, { domain: [0, 0.48], ...scale }), xaxis2: titled(panels[1].title, { domain: [0.52, 1], ...scale }),
    yaxis: { ...categories, categoryorder: "array", categoryarray: ours.map(([system]) => system) },
    legend: { ...LEGEND, y: -0.35 },
  };
  return { traces, layout, height: rowHeight(ours) + 50 };
}

const COUNTED = [["ideal_bytes", "the paper's formula", "diamond-open"], ["bytes", "our frames", "circle"], ["link_bytes", "the interface", "line-ns-open"]];
const ROUND_PLOTS = {
  anatomy,
  positions: () => standing("positions", "token", "position in the draft", "kept (%)", 100),
  lengths: () => standing("lengths", "drafted", "drafted tokens", "kept tokens", 1),
  bytes: () => marked(["up", "down"].map((way) => ({
    title: `bytes ${way} per token`, marks: COUNTED.map(([key, name, symbol]) => [`${key}_${way}_per_token`, name, symbol]),
  })), true, "nothing that is shown crossed a link"),
  latency: () => marked([
    { title: "time to first token (ms)", marks: [["ttft_ms_p50", "p50", "circle"], ["ttft_ms_p90", "p90", "diamond"]] },
    { title: "between arrivals, ITL (ms)", marks: [["itl_ms_p50", "p50", "circle"], ["itl_ms_p90", "p90", "diamond"], ["itl_ms_p99", "p99", "line-ns-open"]] },
  ], false, "no request that is shown was answered"),
};
