"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const good = data.runs.filter(run => !run.error);
const told = word => (data.ways.find(way => way.word === word) || { told: word }).told.replaceAll("`", "");
const unique = list => [...new Set(list)];
const ways = data.ways.map(way => way.word).filter(word => good.some(run => run.way === word));
const color = word => `var(--c${Math.max(0, ways.indexOf(word)) % 17})`;
/* Not as qmig is meant: dashed. */
const dash = word => /-(no-|one-|cubic|plain|idle)/.test(word) ? "7 4" : "none";
/* Where a run belongs: its link, its table if there are several, its load if the link has several. */
const tables = unique(data.runs.map(run => run.table).filter(Boolean));
const where = run => [...(tables.length > 1 && run.table ? [run.table] : []), run.link_name].join(": ");
for (const run of data.runs) {
  const several = data.runs.some(other => other.load !== run.load && where(other) === where(run));
  run.place = where(run) + (several ? ` (${run.load})` : "");
}
const places = unique(good.map(run => run.place));
const sorted = list => [...list].sort((a, b) => a - b);
const median = list => {
  const s = sorted(list), h = s.length >> 1;
  return s.length === 0 ? NaN : s.length % 2 ? s[h] : (s[h - 1] + s[h]) / 2;
};
/* The links of these runs, the one with most to show first. */
const byWeight = (runs, weight) => unique(runs.map(run => run.place)).map(place =>
  [place, runs.filter(run => run.place === place).reduce((sum, run) => sum + weight(run), 0)]).sort((a, b) => b[1] - a[1]).map(pair => pair[0]);
const of = (way, place) => good.filter(run => run.way === way && run.place === place);
const named = run => `${told(run.way)} over ${run.place}, run ${run.repetition + 1}`;
const number = (x, digits = 3) => !isFinite(x) ? "–" : x === 0 ? "0" : Math.abs(x) >= 1000 ? Math.round(x).toString() : String(+x.toPrecision(digits));
const time = us => us < 0 ? "−" + time(-us) : us >= 1e6 ? number(us / 1e6) + " s" : us >= 1e3 ? number(us / 1e3) + " ms" : number(us) + " µs";
const rate = bps => bps >= 1e9 ? number(bps / 1e9) + " Gbit/s" : number(bps / 1e6) + " Mbit/s";
/* For a cell: the median, and below it the spread and how many. */
const spread = (list, show) => list.length === 0 ? "–" : list.length === 1 ? show(list[0])
  : [show(median(list)), `${show(Math.min(...list))} – ${show(Math.max(...list))}, n=${list.length}`];

function make(tag, attributes = {}, ...children) {
  const svg = "svg g path line rect circle text title".split(" ").includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  for (const child of children) node.append(child);
  return node;
}
const hover = text => make("title", {}, text);
const legend = words => make("div", { class: "legend" }, ...words.map(([name, fill]) =>
  make("span", {}, make("i", { style: `background:${fill}` }), name)));

function table(head, rows) {
  const cells = (tag, list) => list.map(text => Array.isArray(text)
    ? make(tag, {}, text[0], make("small", {}, text[1])) : make(tag, {}, String(text)));
  return make("div", { class: "wide" }, make("table", {},
    make("thead", {}, make("tr", {}, ...cells("th", head))),
    make("tbody", {}, ...rows.map(row => make("tr", {}, ...cells("td", row))))));
}

/* A figure with a heading, a picture drawn anew for each choice, and a table of its numbers below. */
function figure(title, note, choices, draw) {
  const picture = make("div"), holder = make("figure");
  let chosen = choices[0];
  const redraw = () => picture.replaceChildren(...draw(chosen));
  if (choices.length > 1) {
    const select = make("select", { "aria-label": title }, ...choices.map(name => make("option", {}, name)));
    select.onchange = () => { chosen = select.value; redraw(); };
    holder.append(select);
  }
  holder.append(picture);
  redraw();
  redraws.push(redraw);
  figures.append(make("h2", {}, title), make("p", {}, note), holder);
}
const below = node => make("details", { open: "" }, make("summary", {}, "The numbers"), node);

/* Plots are drawn as wide as there is room, so that letters keep their size on a phone. */
let W = 720;
const NARROW = 520, H = 330, L = 74, R = 26, T = 12, B = 44;
const figures = document.getElementById("figures"), redraws = [];
const fit = () => { W = Math.max(280, Math.min(940, figures.clientWidth - 30)); };
fit();
addEventListener("resize", () => { const before = W; fit(); if (W !== before) redraws.forEach(redraw => redraw()); });
const scale = (from, to, log) => {
  const f = log ? Math.log10 : x => x, [a, b] = [f(from), f(to)];
  return (x, low, high) => low + (f(x) - a) / ((b - a) || 1) * (high - low);
};
function ticks(from, to, log) {
  if (log) {
    const list = [];
    for (let e = Math.floor(Math.log10(from)); e <= Math.ceil(Math.log10(to)); e++) list.push(10 ** e);
    return list.filter(x => x >= from * .999 && x <= to * 1.001);
  }
  const step0 = (to - from) / 5, power = 10 ** Math.floor(Math.log10(step0 || 1));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= step0) || 1, list = [];
  for (let x = Math.ceil(from / step) * step; x <= to * 1.0001; x += step) list.push(x);
  return list;
}
function axes(x, y, labels) {
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": labels.join(" by ") });
  const X = v => scale(...x.range, x.log)(v, L, W - R), Y = v => scale(...y.range, y.log)(v, H - B, T);
  const across = ticks(...x.range, x.log), every = Math.ceil(across.length * 58 / (W - L - R));
  across.forEach((v, i) => svg.append(
    make("line", { class: "grid", x1: X(v), x2: X(v), y1: T, y2: H - B }),
    ...i % every ? [] : [make("text", { x: X(v), y: H - B + 16, "text-anchor": "middle" }, x.show(v))]));
  for (const v of ticks(...y.range, y.log)) svg.append(
    make("line", { class: "grid", x1: L, x2: W - R, y1: Y(v), y2: Y(v) }),
    make("text", { x: L - 6, y: Y(v) + 4, "text-anchor": "end" }, y.show(v)));
  svg.append(make("text", { x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle" }, labels[0]));
  svg.append(make("text", { x: 14, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(T + H - B) / 2})` }, labels[1]));
  return { svg, X, Y };
}

/* Horizontal bars of parts: rows of [label, [[part, value, fill]…], mark?]. */
function bars(rows, show, title) {
  const narrow = W < NARROW, step = narrow ? 42 : 26, longest = Math.max(...rows.map(row => row[0].length)), left = narrow ? 2 : Math.min(W / 2, 24 + 6.6 * longest), height = step * rows.length + 10, svg = make("svg", { viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": title });
  const sum = row => row[1].reduce((total, part) => total + part[1], 0);
  const most = Math.max(...rows.map(row => Math.max(sum(row), row[2] || 0)), 1e-9);
  const X = v => left + v / most * (W - left - 90);
  rows.forEach((row, i) => {
    const y = 8 + step * i + (narrow ? 16 : 0);
    svg.append(make("text", { x: narrow ? left : left - 8, y: narrow ? y - 4 : y + 14, "text-anchor": narrow ? "start" : "end", class: "value" }, row[0]));
    let at = 0;
    for (const [name, value, fill] of row[1]) {
      svg.append(make("rect", { x: X(at) + (at ? 1 : 0), y, width: Math.max(X(at + value) - X(at) - (at ? 1 : 0), .5), height: 18, rx: 2, fill }, hover(`${row[0]}: ${name} ${show(value)}`)));
      at += value;
    }
    if (row[2]) svg.append(make("line", { x1: X(row[2]), x2: X(row[2]), y1: y - 3, y2: y + 21, stroke: "var(--mark)", "stroke-width": 2 }, hover(`the link: ${show(row[2])}`)));
    svg.append(make("text", { x: Math.max(X(sum(row)), X(row[2] || 0)) + 6, y: y + 14 }, show(sum(row))));
  });
  return svg;
}
