"use strict";
// Reading values off charts and heat maps, by pointer and by arrow keys; one sound at a time.

const SVG = "http://www.w3.org/2000/svg";

function setUpChart(chart) {
  const numbers = (name) => chart.dataset[name].split(" ").map(Number);
  const [left, top, width, height] = numbers("box");
  const log = chart.dataset.log ? Math.log : (v) => v;
  const [firstX, lastX] = numbers("x").map(log);
  const [lowY, highY] = numbers("y");
  const cursor = chart.querySelector(".cursor");
  const reading = chart.parentElement.querySelector(".reading");
  const lines = [...chart.querySelectorAll("[data-points]")].map((g) => ({
    name: g.dataset.name,
    points: new Map(JSON.parse(g.dataset.points)),
  }));
  const xs = [...new Set(lines.flatMap((l) => [...l.points.keys()]))].sort((a, b) => a - b);
  const across = (x) => left + ((log(x) - firstX) / (lastX - firstX)) * width;
  const down = (y) => top + height - ((y - lowY) / (highY - lowY)) * height;
  let at = xs.length - 1;

  const draw = (name, attributes) => {
    const element = cursor.appendChild(document.createElementNS(SVG, name));
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  };
  const clear = () => { cursor.replaceChildren(); reading.textContent = ""; };
  const show = (i) => {
    at = Math.max(0, Math.min(xs.length - 1, i));
    const x = xs[at];
    clear();
    draw("line", { x1: across(x), x2: across(x), y1: top, y2: top + height });
    const said = [];
    for (const line of lines) {
      if (!line.points.has(x)) continue;
      draw("circle", { cx: across(x), cy: down(line.points.get(x)), r: 4 });
      said.push(`${line.name} ${line.points.get(x)}`);
    }
    const where = chart.dataset.percent ? `${+(100 * x).toPrecision(3)} %` : x.toLocaleString("en");
    reading.textContent = `${chart.dataset.percent ? "" : chart.dataset.name + " "}${where}: ${said.join(", ")}`;
  };
  const point = (event) => {
    const box = chart.getBoundingClientRect();
    const view = chart.viewBox.baseVal;
    const place = view.x + ((event.clientX - box.left) / box.width) * view.width;
    let best = 0;
    xs.forEach((x, i) => {
      if (Math.abs(across(x) - place) < Math.abs(across(xs[best]) - place)) best = i;
    });
    show(best);
  };
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("pointerleave", clear);
  chart.addEventListener("blur", clear);
  chart.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: xs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(reading.textContent ? to : at);
  });
}

function setUpHeatMap(heat) {
  const { names, cells } = JSON.parse(heat.querySelector("script").textContent);
  const pointer = heat.querySelector(".pointer");
  const reading = heat.parentElement.querySelector(".reading");
  const counts = new Map(cells.map(([row, column, n]) => [row * names.length + column, n]));
  const total = new Map();
  for (const [row, , n] of cells) total.set(row, (total.get(row) || 0) + n);
  let at = -1;

  const show = (row, column) => {
    const size = 100 / names.length;
    pointer.style.cssText = `display:block;left:${column * size}%;top:${row * size}%;width:${size}%;height:${size}%`;
    const n = counts.get(row * names.length + column) || 0;
    const taken = row === column ? "right" : `taken for ${names[column]}`;
    reading.textContent = `${names[row]}, ${taken}: ${n} of ${total.get(row) || 0}`;
  };
  const point = (event) => {
    const box = heat.querySelector("img").getBoundingClientRect();
    const place = (from, size) => Math.max(0, Math.min(names.length - 1, Math.floor((from / size) * names.length)));
    show(place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width));
  };
  heat.addEventListener("pointermove", point);
  heat.addEventListener("pointerdown", point);
  heat.addEventListener("keydown", (event) => {
    const here = at < 0 ? -1 : cells[at][0];
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: cells.findIndex(([row]) => row > here),
      ArrowUp: cells.findLastIndex(([row]) => row < here),
      Home: 0,
      End: cells.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to < 0 || to >= cells.length) return;
    at = to;
    show(cells[at][0], cells[at][1]);
  });
}

// A table that is not too wide is no stop for the Tab key. Opening its details resizes it.
const scrollers = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".scrolling").forEach((box) => scrollers.observe(box));

document.querySelectorAll(".chart").forEach(setUpChart);
document.querySelectorAll(".heat").forEach(setUpHeatMap);
document.addEventListener("play", (event) => {
  for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
}, true);
