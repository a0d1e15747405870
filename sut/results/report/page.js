"use strict";
const root = document.documentElement, button = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
button.addEventListener("click", () => {
  const next = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
  root.dataset.theme = next;
  button.textContent = "Theme: " + next;
});

// Values under the pointer: the nearest point of the chart's series.
const charts = JSON.parse(document.getElementById("charts").textContent);
const round = (value) => value === null ? "\u2013" : value.toLocaleString("en-US", {maximumSignificantDigits: 5});
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const chart = charts[figure.dataset.chart];
  if (!chart) continue;
  const [left, right, top, bottom] = chart.area, [low, high] = chart.range;
  const cursor = figure.appendChild(document.createElement("div"));
  const readout = figure.appendChild(document.createElement("div"));
  const scale = chart.log ? Math.log : (value) => value;
  const places = chart.xs.map((x) => (scale(x) - scale(low)) / (scale(high) - scale(low)));
  const hide = () => { cursor.className = readout.className = ""; readout.textContent = ""; };
  figure.addEventListener("pointerleave", hide);
  figure.addEventListener("pointermove", (event) => {
    const box = figure.querySelector("svg").getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width - left) / (right - left);
    if (place < 0 || place > 1) return hide();
    let nearest = 0;
    places.forEach((one, index) => {
      if (Math.abs(one - place) < Math.abs(places[nearest] - place)) nearest = index;
    });
    const x = (left + places[nearest] * (right - left)) * box.width;
    cursor.className = "cursor";
    Object.assign(cursor.style, {left: x + "px", top: top * box.height + "px", height: (bottom - top) * box.height + "px"});
    readout.className = "readout";
    readout.textContent = round(chart.xs[nearest]) + " " + chart.unit;
    for (const one of chart.series) {
      const line = readout.appendChild(document.createElement("div"));
      line.textContent = one.label + ": " + round(one.values[nearest]) + " " + one.unit;
    }
    const far = x > box.width / 2;
    Object.assign(readout.style, {top: top * box.height + "px", left: far ? "auto" : x + 8 + "px", right: far ? box.width - x + 8 + "px" : "auto"});
  });
}

// Tables that a click on a heading sorts: numbers by value, texts by text.
const key = (row, column) => {
  const cell = row.cells[column], number = cell.querySelector("[data-value]");
  return number ? Number(number.dataset.value) : cell.textContent;
};
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    let sign = -1;
    heading.addEventListener("click", () => {
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      });
      sign = -sign;
      table.tBodies[0].append(...rows);
    });
  });
}
