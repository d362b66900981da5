// Wires the figures: draws each when it comes near the window or when there is time, again when width or colours change, and reads its
// points with the arrow keys into the live line below it.
{
  const figures = JSON.parse(document.getElementById("data").textContent);

  /** The points of a figure as series of sentences, in the order in which arrow keys go through them. */
  function listPoints({ chart, columns, rows }) {
    if (chart.type === "map")
      return rows.map((row) => columns.slice(1).map((column, c) => `${row[0]}, ${chart.x} ${column.name}: ${format(column, row[c + 1])}`));
    const read = (row) => `${row[0]}: ` + row.slice(1).map((cell, c) => `${columns[c + 1].name} ${format(columns[c + 1], cell)}`).join(", ");
    if (chart.type === "course") return [...d3.group(rows, (row) => row[chart.series]).values()].map((own) => own.map(read));
    return [rows.map(read)];
  }

  function show(figure, data) {
    const box = figure.querySelector(".chart");
    const readout = figure.querySelector(".readout");
    const points = listPoints(data);
    const hint = points.length > 1 ? "Arrow keys read the points." : "Left and right arrow keys read the points.";
    let drawn = null;
    let [series, index] = [0, -1];

    const draw = () => {
      drawn = DRAW[data.chart.type](data, Math.max(260, box.clientWidth));
      box.replaceChildren(...drawn.nodes);
      box.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
      box.setAttribute("role", "img");
      box.setAttribute("aria-label", data.summary);
    };
    const ring = () => {
      box.querySelectorAll(".ring").forEach((old) => old.remove());
      const place = index < 0 ? null : drawn?.locate(series, index);
      if (!place || !Number.isFinite(place.x) || !Number.isFinite(place.y)) return;
      d3.select(place.svg).append("circle").attr("class", "ring").attr("r", 9).attr("cx", place.x).attr("cy", place.y);
    };
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    figure.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (event.target !== figure || !step) return;
      if (points.length > 1) series = (series + step[0] + points.length) % points.length;
      const move = points.length > 1 ? step[1] : step[0] + step[1];
      index = index < 0 ? 0 : (index + move + points[series].length) % points[series].length;
      index = Math.min(index, points[series].length - 1);
      readout.textContent = points[series][index];
      ring();
      event.preventDefault();
    });
    figure.addEventListener("focus", () => { if (index < 0) readout.textContent = hint; });
    figure.addEventListener("blur", () => { index = -1; series = 0; readout.textContent = ""; ring(); });
    return draw;
  }

  const draws = new Map();
  const drawnFigures = new Set();
  const drawOnce = (figure) => {
    near.unobserve(figure);
    if (!drawnFigures.has(figure)) { drawnFigures.add(figure); draws.get(figure)(); }
  };
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) drawOnce(target);
  }, { rootMargin: "600px" });
  for (const [name, data] of Object.entries(figures)) {
    const figure = document.getElementById(name);
    draws.set(figure, show(figure, data));
    near.observe(figure);
  }
  // The rest one by one, while nothing else happens.
  const drawNext = () => {
    const figure = [...draws.keys()].find((other) => !drawnFigures.has(other));
    if (figure) { drawOnce(figure); setTimeout(drawNext, 30); }
  };
  setTimeout(drawNext, 300);

  const redraw = () => drawnFigures.forEach((figure) => draws.get(figure)());
  let width = document.body.clientWidth;
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (document.body.clientWidth !== width) { width = document.body.clientWidth; redraw(); } }, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => [...draws.keys()].forEach(drawOnce));
}
