"use strict";
// Draws one figure's table. A kind of chart returns {nodes, locate}: what to show, and where in it a point stands.
// What a client or a label is called reaches the page as text only: Plot writes text nodes, and so do we.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const shorten = (text, most = 24) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const numberOf = (cell) => (cell !== null && typeof cell === "object" ? cell.mean : cell);
const range = (count) => Array.from({ length: count }, (_, i) => i);

/** A cell as readers see it, as Column.format has it in tables.py. */
function format(column, cell, unit = true) {
  if (cell === null || cell === undefined) return "–";
  if (typeof cell === "string") return cell;
  if (typeof cell === "object") {
    const spread = cell.sd === null ? "" : ` ± ${format(column, cell.sd, false)}`;
    return format(column, cell.mean, false) + spread + (unit && column.unit ? ` ${column.unit}` : "");
  }
  if (column.general) return String(cell);
  const digits = column.digits ?? 0;
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const text = (cell * column.scale).toLocaleString("en-US", options).replace("-", "−");
  return unit && column.unit ? `${text} ${column.unit}` : text;
}

/** A column's numbers as readers see them, unformatted. */
const scaled = (column, cell) => (numberOf(cell) === null ? NaN : numberOf(cell) * column.scale);
const axisLabel = (column) => (column.unit ? `${column.name} (${column.unit})` : column.name);
const marginFor = (labels) => Math.min(170, 16 + 6.6 * Math.max(...labels.map((label) => shorten(label).length)));
const STYLE = { fontFamily: "inherit", fontSize: "12px", background: "none", color: "currentColor" };

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** A legend of [how the swatch is drawn, text] pairs. */
function legend(entries) {
  const box = element("div", "legend");
  for (const [draw, text] of entries) {
    const entry = element("span");
    const swatch = d3.create("svg").attr("width", 16).attr("height", 12).attr("aria-hidden", "true");
    draw(swatch);
    entry.append(swatch.node(), element("span", "", text));
    box.append(entry);
  }
  return box;
}
const circle = (fill, stroke) => (svg) =>
  svg.append("circle").attr("cx", 8).attr("cy", 6).attr("r", 4).attr("fill", fill).attr("stroke", stroke);
const square = (fill, opacity = 1) => (svg) =>
  svg.append("rect").attr("x", 2).attr("y", 0).attr("width", 12).attr("height", 12).attr("rx", 2).attr("fill", fill)
    .attr("fill-opacity", opacity);
const stroke = (colour, dash, width = 2) => (svg) =>
  svg.append("line").attr("x2", 16).attr("y1", 6).attr("y2", 6).attr("stroke", colour).attr("stroke-width", width)
    .attr("stroke-dasharray", dash);

/** Where row i of a horizontal chart stands: at the value `at(i)` of its label's line. */
const locateRow = (svg, labels, at) => (_, i) =>
  ({ svg, x: svg.scale("x").apply(at(i)), y: svg.scale("y").apply(labels[i]) + svg.scale("y").bandwidth / 2 });

function listByValue(labels, values) {
  return d3.sort(labels, (label) => -(Number.isFinite(values[labels.indexOf(label)]) ? values[labels.indexOf(label)] : -1e9));
}

function drawDots({ chart, columns, rows }, width) {
  const labels = rows.map((row) => row[chart.label]);
  const [column, accent] = [columns[chart.value], css("--accent")];
  const points = rows.map((row, i) => {
    const mean = scaled(column, row[chart.value]);
    const sd = (row[chart.value]?.sd ?? 0) * column.scale;
    const worst = scaled(columns[chart.worst], row[chart.worst]);
    const end = Math.max(mean + sd, ...chart.seeds[i].map((v) => (v === null ? mean : v * column.scale)));
    return { label: labels[i], mean, low: mean - sd, high: mean + sd, end, worst, text: format(column, row[chart.value], false) };
  }).filter((point) => Number.isFinite(point.mean));
  const seeds = chart.seeds.flatMap((values, i) => values.map((v) => ({ label: labels[i], x: v === null ? NaN : v * column.scale })));
  const severalSeeds = chart.seeds.some((values) => values.length > 1);
  const svg = Plot.plot({
    width, height: 56 + 30 * labels.length, marginLeft: marginFor(labels), marginRight: 76, marginTop: 8, marginBottom: 40, style: STYLE,
    x: { label: axisLabel(column), nice: true, labelAnchor: "right", ticks: width < 500 ? 4 : 8 },
    y: { domain: listByValue(labels, rows.map((row) => scaled(column, row[chart.value]))), label: null, tickFormat: (l) => shorten(l), tickSize: 0 },
    marks: [
      Plot.ruleY(labels, { stroke: css("--hairline") }),
      Plot.link(points, { x1: "low", x2: "high", y1: "label", y2: "label", stroke: accent, strokeWidth: 5, strokeOpacity: 0.25 }),
      severalSeeds ? Plot.tickX(seeds, { x: "x", y: "label", stroke: accent, strokeOpacity: 0.7, inset: 8 }) : null,
      Plot.dot(points, { x: "worst", y: "label", r: 4, fill: css("--paper"), stroke: css("--quiet"), strokeWidth: 1.5 }),
      Plot.dot(points, { x: "mean", y: "label", r: 5, fill: accent }),
      Plot.text(points, { x: "end", y: "label", text: "text", textAnchor: "start", dx: 10, fill: "currentColor", stroke: css("--paper"), strokeWidth: 4 }),
    ],
  });
  const entries = [[circle(accent, accent), "mean"], [circle("none", css("--quiet")), "worst client"]];
  if (severalSeeds) entries.splice(1, 0, [stroke(accent, null, 5), "± standard deviation"], [(s) => s.append("line").attr("x1", 8).attr("x2", 8).attr("y2", 12).attr("stroke", accent), "one seed"]);
  return { nodes: [legend(entries), svg], locate: locateRow(svg, labels, (i) => scaled(column, rows[i][chart.value])) };
}

function drawDifferences({ chart, columns, rows }, width) {
  const labels = rows.map((row) => row[chart.label]);
  const [column, accent] = [columns[chart.value], css("--accent")];
  const points = rows.map((row, i) => ({
    label: labels[i], mean: scaled(column, row[chart.value]), low: scaled(column, row[chart.low]),
    high: scaled(column, row[chart.high]), text: (numberOf(row[chart.value]) > 0 ? "+" : "") + format(column, row[chart.value], false),
  })).filter((point) => Number.isFinite(point.mean));
  const svg = Plot.plot({
    width, height: 56 + 28 * labels.length, marginLeft: marginFor(labels), marginRight: 56, marginTop: 8, marginBottom: 40, style: STYLE,
    x: { label: axisLabel(column), nice: true, labelAnchor: "right", ticks: width < 500 ? 4 : 8, tickFormat: (v) => (v > 0 ? `+${v}` : String(v).replace("-", "−")) },
    y: { domain: listByValue(labels, rows.map((row) => scaled(column, row[chart.value]))), label: null, tickFormat: (l) => shorten(l), tickSize: 0 },
    marks: [
      Plot.ruleY(labels, { stroke: css("--hairline") }),
      Plot.ruleX([0], { stroke: "currentColor" }),
      Plot.link(points, { x1: "low", x2: "high", y1: "label", y2: "label", stroke: accent, strokeWidth: 5, strokeOpacity: 0.25 }),
      Plot.dot(points, { x: "mean", y: "label", r: 5, fill: accent }),
      Plot.text(points, { x: "high", y: "label", text: "text", textAnchor: "start", dx: 10, fill: "currentColor", stroke: css("--paper"), strokeWidth: 4 }),
    ],
  });
  return { nodes: [svg], locate: locateRow(svg, labels, (i) => scaled(column, rows[i][chart.value])) };
}

/** A panel per series on common scales, with the others behind it in grey. */
function drawCourse({ chart, columns, rows }, width) {
  const column = columns[chart.y];
  const read = (row) => ({
    x: row[chart.x], y: scaled(column, row[chart.y]), low: scaled(column, row[chart.low]),
    high: scaled(column, row[chart.high]), worst: scaled(column, row[chart.worst]),
  });
  const series = [...d3.group(rows, (row) => row[chart.series])].map(([name, own]) => ({ name, points: own.map(read) }));
  const all = series.flatMap(({ points }) => points);
  const x = d3.extent(all, (p) => p.x);
  const y = d3.extent(all.flatMap((p) => [p.low, p.high, p.worst]).filter(Number.isFinite));
  const [accent, quiet, single] = [css("--accent"), css("--quiet"), series.length === 1];
  const box = element("div", single ? "panels single" : "panels");
  const panelWidth = single ? width : width < 500 ? width / 2 - 8 : 220;
  const svgs = series.map(({ name, points }) => {
    const others = series.length <= 12 ? series.filter((other) => other.name !== name) : [];
    const last = points[points.length - 1];
    const svg = Plot.plot({
      width: panelWidth, height: single ? 300 : 150, marginLeft: 34, marginRight: 34, marginTop: 10, marginBottom: 36, style: STYLE,
      x: { label: "round", labelAnchor: "center", labelOffset: 32, domain: x[0] === x[1] ? [x[0] - 1, x[1] + 1] : x, ticks: d3.ticks(x[0], x[1], single ? 10 : 4).filter(Number.isInteger), tickFormat: "d", labelArrow: "none" },
      y: { label: null, domain: y, nice: true, ticks: single ? 6 : 4, grid: true },
      marks: [
        others.map(({ points: own }) => Plot.line(own, { x: "x", y: "y", stroke: quiet, strokeOpacity: 0.28, strokeWidth: 1 })),
        Plot.areaY(points, { x: "x", y1: "low", y2: "high", fill: accent, fillOpacity: 0.18 }),
        Plot.line(points, { x: "x", y: "worst", stroke: "currentColor", strokeDasharray: "3,3", strokeWidth: 1.2 }),
        Plot.line(points, { x: "x", y: "y", stroke: accent, strokeWidth: 2 }),
        Plot.dot([last], { x: "x", y: "y", r: 3, fill: accent }),
        Plot.text([last], { x: "x", y: "y", text: (p) => (p.y).toFixed(column.digits), textAnchor: "start", dx: 6, fill: accent, fontWeight: 600 }),
        Plot.tip(points, Plot.pointerX({ x: "x", y: "y", title: (p) => `round ${p.x}: ${p.y.toFixed(column.digits)} ${column.unit}\nworst client: ${p.worst.toFixed(column.digits)} ${column.unit}` })),
      ],
    });
    const panel = element("div");
    const title = element("p", "panel-title", name);
    title.title = name;
    panel.append(...(single ? [svg] : [title, svg]));
    box.append(panel);
    return svg;
  });
  const entries = [[stroke(accent), `mean of clients (${column.unit || "score"})`], [stroke("currentColor", "3,3", 1.2), "worst client"]];
  if (all.some((p) => p.high > p.low)) entries.splice(1, 0, [square(accent, 0.2), "lowest to highest seed"]);
  const locate = (s, i) => ({ svg: svgs[s], x: svgs[s].scale("x").apply(series[s].points[i].x), y: svgs[s].scale("y").apply(series[s].points[i].y) });
  return { nodes: [legend(entries), box], locate };
}

function drawTradeoff({ chart, columns, rows }, width) {
  const [cost, score, accent] = [columns[chart.x], columns[chart.y], css("--accent")];
  const points = rows.map((row) => ({
    label: row[chart.label], x: scaled(cost, row[chart.x]), y: scaled(score, row[chart.y]), front: row[chart.front] === "yes",
    low: scaled(score, row[chart.low]), high: scaled(score, row[chart.high]),
    text: `${row[chart.label]}\n${format(score, row[chart.y])}\n${format(cost, row[chart.x])}`,
  }));
  const shown = points.filter((p) => p.x > 0 && Number.isFinite(p.y));
  if (!shown.length) return { nodes: [], locate: () => null };
  const front = d3.sort(shown.filter((p) => p.front), (p) => p.x);
  const [low, high] = d3.extent(shown, (p) => p.x);
  const svg = Plot.plot({
    width, height: Math.min(420, Math.max(280, width * 0.55)), marginLeft: 44, marginRight: 24, marginTop: 24, marginBottom: 44, style: STYLE,
    x: { type: "log", domain: low === high ? [low / 2, high * 2] : [low / 1.3, high * 1.6], label: axisLabel(cost), labelAnchor: "right", ticks: width < 500 ? 3 : 6, tickFormat: (v) => d3.format(",~g")(+v.toPrecision(2)) },
    y: { label: axisLabel(score), nice: true, grid: true, ticks: 6 },
    marks: [
      Plot.line(front, { x: "x", y: "y", curve: "step-after", stroke: accent, strokeOpacity: 0.45, strokeWidth: 1.5 }),
      Plot.ruleX(shown.filter((p) => Number.isFinite(p.low)), { x: "x", y1: "low", y2: "high", stroke: css("--quiet"), strokeWidth: 1.5 }),
      Plot.dot(shown, { x: "x", y: "y", r: 5, fill: (p) => (p.front ? accent : css("--paper")), stroke: (p) => (p.front ? accent : css("--quiet")), strokeWidth: 1.5 }),
      Plot.tip(shown, Plot.pointer({ x: "x", y: "y", title: "text" })),
    ],
  });
  placeLabels(svg, shown, width);
  const entries = [[circle(accent, accent), "on the front"], [circle("none", css("--quiet")), "another method scores at least as much for less"]];
  if (shown.some((p) => Number.isFinite(p.low))) entries.push([stroke(css("--quiet"), null, 1.5), "paired interval of 95 % beside the best"]);
  return { nodes: [legend(entries), svg], locate: (_, i) => (points[i].x > 0 ? { svg, x: svg.scale("x").apply(points[i].x), y: svg.scale("y").apply(points[i].y) } : null) };
}

/** Writes each point's label beside it, on the side where it covers least of what is there already. */
function placeLabels(svg, points, width) {
  const dots = points.map((p) => ({ ...p, px: svg.scale("x").apply(p.x), py: svg.scale("y").apply(p.y) }));
  const taken = dots.map(({ px, py }) => [px - 6, py - 6, px + 6, py + 6]);
  const overlap = ([a, b, c, d], [e, f, g, h]) => Math.max(0, Math.min(c, g) - Math.max(a, e)) * Math.max(0, Math.min(d, h) - Math.max(b, f));
  const layer = d3.select(svg).append("g").attr("fill", "currentColor").attr("text-anchor", "start")
    .attr("stroke", css("--paper")).attr("stroke-width", 4).attr("stroke-linejoin", "round").attr("paint-order", "stroke");
  for (const { label, px, py, front } of d3.sort(dots, (p) => !p.front)) {
    const text = shorten(label, 20);
    const size = 6.8 * text.length;
    const boxes = [[9, 4], [-9 - size, 4], [-size / 2, -10], [-size / 2, 19], [8, -8], [8, 16], [-8 - size, -8], [-8 - size, 16]]
      .map(([dx, dy]) => [px + dx, py + dy - 10, px + dx + size, py + dy + 3]);
    const costOf = (box) => d3.sum(taken, (other) => overlap(box, other)) + 99 * (Math.max(0, box[2] - width) + Math.max(0, 40 - box[0]) + Math.max(0, -box[1]));
    const best = d3.least(boxes, costOf);
    if (!front && costOf(best) > 60) continue; // it would be read with another: the table and the tip have it
    taken.push(best);
    layer.append("text").attr("x", best[0]).attr("y", best[3] - 3).attr("font-weight", front ? 600 : 400).text(text);
  }
}

function drawStack({ chart, columns, rows }, width) {
  const labels = rows.map((row) => row[chart.label]);
  const several = chart.values.length > 1;
  const colours = several ? range(8).map((i) => css(`--series-${i + 1}`)) : [css("--accent")];
  const first = columns[chart.values[0]];
  const names = chart.values.map((i) => columns[i].name);
  const parts = rows.flatMap((row, r) => chart.values.map((i, k) => ({ label: labels[r], part: k, value: scaled(columns[i], row[i]), text: `${labels[r]}, ${columns[i].name}: ${format(columns[i], row[i])}` })))
    .filter((p) => p.value > 0);
  const totals = rows.map((row) => d3.sum(chart.values, (i) => scaled(columns[i], row[i])));
  const thin = labels.length > 40;
  const svg = Plot.plot({
    width, height: 52 + labels.length * (thin ? 12 : 24), marginLeft: marginFor(labels), marginRight: chart.whole ? 16 : 64, marginTop: 4, marginBottom: 40, style: STYLE,
    x: { label: several ? first.unit || (chart.whole ? "" : "rows") : axisLabel(first), labelAnchor: "right", domain: chart.whole ? [0, chart.whole * first.scale] : undefined, ticks: width < 500 ? 4 : 8 },
    y: { domain: labels, label: null, tickFormat: (l) => shorten(l), tickSize: 0, padding: 0.25 },
    marks: [
      Plot.barX(parts, { x: "value", y: "label", fill: (p) => colours[p.part % colours.length], order: (p) => p.part, insetRight: several ? 1 : 0, tip: { fill: css("--paper"), stroke: css("--hairline") }, title: "text" }),
      chart.whole ? null : Plot.text(rows, { x: (_, i) => totals[i], y: (_, i) => labels[i], text: (_, i) => format(first, totals[i] / first.scale, false), textAnchor: "start", dx: 6 }),
    ],
  });
  const nodes = several ? [legend(names.map((name, k) => [square(colours[k % colours.length]), name])), svg] : [svg];
  return { nodes, locate: locateRow(svg, labels, (i) => totals[i]) };
}

function drawMap({ chart, columns, rows }, width) {
  const headings = columns.slice(1);
  const cells = rows.flatMap((row, r) => headings.map((column, c) => ({ r, c, value: numberOf(row[c + 1]) })));
  const known = cells.filter((cell) => cell.value !== null);
  const [low, high] = d3.extent(known, (cell) => cell.value);
  const colour = d3.scaleLinear([low, low === high ? low + 1 : high], [css("--map-low"), css("--map-high")]).interpolate(d3.interpolateLab);
  const left = marginFor(rows.map((row) => row[0]));
  const rowHeight = rows.length > 60 ? 9 : rows.length > 30 ? 14 : 24;
  const cellWidth = (width - left - 8) / headings.length;
  const longest = Math.max(...headings.map((column) => shorten(column.name, 20).length));
  const tilted = longest * 7 > cellWidth;
  const skipped = Math.max(1, Math.ceil((tilted ? 14 : 7 * longest + 6) / cellWidth));
  const isWide = cellWidth > 7 * d3.max(known, (cell) => format(headings[cell.c], cell.value, false).length) + 4 && rowHeight > 13;
  const dark = (value) => d3.lab(colour(value)).l < 58;
  const inner = Math.min(width, left + 8 + headings.length * 120);
  const svg = Plot.plot({
    width: inner, height: rows.length * rowHeight + (tilted ? 5.2 * longest + 46 : 56), marginLeft: left, marginRight: tilted && longest > 4 ? 40 : 8, marginTop: tilted ? 5.2 * longest + 36 : 44, marginBottom: 6, style: STYLE,
    x: { axis: "top", domain: range(headings.length), label: chart.x, labelAnchor: "left", labelArrow: "none", tickSize: 0, tickRotate: tilted && longest > 4 ? -45 : 0, tickFormat: (c) => (c % skipped ? "" : shorten(headings[c].name, 20)) },
    y: { domain: range(rows.length), label: null, tickSize: 0, tickFormat: (r) => (rowHeight < 12 && r % 2 ? "" : shorten(rows[r][0])) },
    marks: [
      Plot.cell(known, { x: "c", y: "r", fill: (cell) => colour(cell.value), inset: rowHeight > 12 && cellWidth > 12 ? 1 : 0.25, rx: rowHeight > 12 ? 2 : 0 }),
      isWide ? Plot.text(known, { x: "c", y: "r", text: (cell) => format(headings[cell.c], cell.value, false), fill: (cell) => (dark(cell.value) ? "#fff" : "#14181b") }) : null,
      Plot.tip(known, Plot.pointer({ x: "c", y: "r", title: (cell) => `${rows[cell.r][0]}, ${chart.x} ${headings[cell.c].name}: ${format(headings[cell.c], cell.value)}` })),
    ],
  });
  const scale = element("div", "legend");
  const ramp = element("div", "ramp");
  ramp.style.background = `linear-gradient(90deg, ${css("--map-low")}, ${css("--map-high")})`;
  scale.append(element("span", "", format(headings[0], low)), ramp, element("span", "", format(headings[0], high)));
  const locate = (r, c) => ({ svg, x: svg.scale("x").apply(c) + svg.scale("x").bandwidth / 2, y: svg.scale("y").apply(r) + svg.scale("y").bandwidth / 2 });
  return { nodes: known.length && low < high ? [scale, svg] : [svg], locate };
}

const DRAW = { dots: drawDots, differences: drawDifferences, course: drawCourse, tradeoff: drawTradeoff, stack: drawStack, map: drawMap };
