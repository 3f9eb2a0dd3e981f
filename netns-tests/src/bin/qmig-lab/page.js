"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const good = data.runs.filter(run => !run.error);
const told = word => (data.ways.find(way => way.word === word) || { told: word }).told.replaceAll("`", "");
const unique = list => [...new Set(list)];
const ways = data.ways.map(way => way.word).filter(word => good.some(run => run.way === word));
const color = word => `var(--c${Math.max(0, ways.indexOf(word)) % 12})`;
const links = unique(good.map(run => run.link_name));
const sorted = list => [...list].sort((a, b) => a - b);
const median = list => {
  const s = sorted(list), h = s.length >> 1;
  return s.length === 0 ? NaN : s.length % 2 ? s[h] : (s[h - 1] + s[h]) / 2;
};
/* The links of these runs, the one with most to show first. */
const byWeight = (runs, weight) => unique(runs.map(run => run.link_name)).map(link =>
  [link, runs.filter(run => run.link_name === link).reduce((sum, run) => sum + weight(run), 0)]).sort((a, b) => b[1] - a[1]).map(pair => pair[0]);
const of = (way, link) => good.filter(run => run.way === way && run.link_name === link);
const number = (x, digits = 3) => !isFinite(x) ? "–" : x === 0 ? "0" : Math.abs(x) >= 1000 ? Math.round(x).toString() : String(+x.toPrecision(digits));
const time = us => us >= 1e6 ? number(us / 1e6) + " s" : us >= 1e3 ? number(us / 1e3) + " ms" : number(us) + " µs";
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

function waits() {
  const has = good.filter(run => run.waits.count > 0);
  if (has.length === 0) return;
  figure("How long the process waits for a page that is not there",
    "Share of its waits that are no longer than this, by its own clock (log scale); the rest of the memory arrives meanwhile. Medians of all runs at each percent.",
    byWeight(has, run => run.waits.count), link => {
      const here = ways.filter(way => has.some(run => run.way === way && run.link_name === link));
      const curve = way => {
        const runs = of(way, link).filter(run => run.waits.count > 0);
        return runs[0].waits.quantiles_us.map((_, percent) => Math.max(1, median(runs.map(run => run.waits.quantiles_us[percent]))));
      };
      const curves = here.map(way => [way, curve(way)]), all = curves.flatMap(c => c[1]);
      const range = [10 ** Math.floor(Math.log10(Math.min(...all))), 10 ** Math.ceil(Math.log10(Math.max(...all, 10)))];
      const { svg, X, Y } = axes({ range, log: true, show: time }, { range: [0, 100], show: v => v + " %" }, ["wait", "share of waits"]);
      for (const [way, list] of curves) svg.append(make("path", { class: "curve", stroke: color(way),
        d: list.map((us, percent) => `${percent ? "L" : "M"}${X(us).toFixed(1)} ${Y(percent).toFixed(1)}`).join("") }, hover(`${told(way)}: p50 ${time(list[50])}, p99 ${time(list[99])}`)));
      const rows = here.map(way => {
        const runs = of(way, link).filter(run => run.waits.count > 0), column = (get, show) => spread(runs.map(get), show);
        return [told(way), column(r => r.waits.count, number), column(r => r.waits.p50_us, time), column(r => r.waits.p90_us, time), column(r => r.waits.p99_us, time), column(r => r.waits.max_us, time)];
      });
      return [legend(here.map(way => [told(way), color(way)])), make("div", { class: "wide" }, svg),
        below(table(["way", "waits", "p50", "p90", "p99", "longest"], rows))];
    });
}

function standstill() {
  if (good.length === 0) return;
  const order = ["freeze", "collect", "images", "pages", "restore", "commit"];
  const names = unique([...order, ...good.flatMap(run => Object.keys(run.parts))]).filter(name => good.some(run => name in run.parts));
  const fill = name => `var(--c${names.indexOf(name) % 8})`;
  figure("How long the process stands still",
    "qmig splits its standstill, last instruction there to first one here, into parts; for its peers the longest gap between two heartbeats is shown. Medians.",
    links, link => {
      const here = ways.filter(way => of(way, link).length);
      const rows = here.map(way => {
        const runs = of(way, link), parts = names.filter(name => runs.some(run => name in run.parts))
          .map(name => [name, median(runs.map(run => run.parts[name] || 0)), fill(name)]);
        return [told(way), parts.length ? parts : [["felt", median(runs.map(run => run.felt_us)), "var(--c8)"]]];
      });
      const numbers = here.map(way => {
        const runs = of(way, link);
        return [told(way), spread(runs.map(r => r.felt_us), time), spread(runs.map(r => r.downtime_us).filter(us => us > 0), time),
          spread(runs.map(r => r.running_us), time), spread(runs.map(r => r.total_us), time)];
      });
      return [legend([...names.map(name => [name, fill(name)]), ["felt by the process", "var(--c8)"]]),
        make("div", { class: "wide" }, bars(rows, time, "standstill")),
        below(table(["way", "felt by the process", "by qmig's report", "runs there after", "complete after"], numbers))];
    });
}

function throughput() {
  const has = good.filter(run => run.fill_bps > 0);
  if (has.length === 0) return;
  figure("How fast the rest arrives while the process runs",
    "Bits per second that came over the link between the first instruction there and the last page; the mark is the rate of the link.",
    unique(has.map(run => run.link_name)), link => {
      const here = ways.filter(way => has.some(run => run.way === way && run.link_name === link));
      const runs = way => of(way, link).filter(run => run.fill_bps > 0);
      const rows = here.map(way => [told(way), [["fill", median(runs(way).map(run => run.fill_bps)), color(way)]], runs(way)[0].rate || 0]);
      const numbers = here.map(way => [told(way), spread(runs(way).map(r => r.fill_bps), rate), spread(runs(way).filter(r => r.fill_share !== null).map(r => r.fill_share * 100), v => number(v) + " %"),
        spread(runs(way).map(r => r.up.bytes / 1e6), v => number(v) + " MB"), spread(runs(way).map(r => r.source.cpu_us + r.destination.cpu_us).filter(us => us > 0), time)]);
      return [make("div", { class: "wide" }, bars(rows, rate, "throughput")),
        below(table(["way", "fill", "of the link", "bytes to the destination", "CPU of both tools"], numbers))];
    });
}

function heat() {
  const has = good.filter(run => run.rtt_ms !== undefined);
  const keys = unique(has.map(run => `${run.rate || 0}`)).filter(key => {
    const here = has.filter(run => `${run.rate || 0}` === key);
    return unique(here.map(run => run.rtt_ms)).length > 1 || unique(here.map(run => run.loss)).length > 1;
  });
  const fields = key => unique(has.filter(run => `${run.rate || 0}` === key).map(run => `${run.rtt_ms} ${run.loss}`)).length;
  keys.sort((a, b) => fields(b) - fields(a));
  if (keys.length === 0) return;
  const measures = [["until complete", run => run.total_us, time], ["wait p99", run => run.waits.count ? run.waits.p99_us : NaN, time], ["fill, of the link", run => run.fill_share === null ? NaN : run.fill_share * 100, v => number(v) + " %"]];
  const choices = [];
  for (const [name] of measures) for (const key of keys) for (const way of ways) {
    if (has.some(run => run.way === way && `${run.rate || 0}` === key)) choices.push(`${name}: ${told(way)}, ${+key ? rate(+key) : "no rate"}`);
  }
  figure("By round trip and loss", "Each field is the median of its runs; choose a measure and a way.", choices, choice => {
    const [, get, show] = measures.find(([name]) => choice.startsWith(name + ":"));
    const runs = has.filter(run => choice.endsWith(`: ${told(run.way)}, ${run.rate ? rate(run.rate) : "no rate"}`));
    const across = sorted(unique(runs.map(run => run.rtt_ms))), down = sorted(unique(runs.map(run => run.loss)));
    const value = (rtt, loss) => median(runs.filter(run => run.rtt_ms === rtt && run.loss === loss).map(get).filter(isFinite));
    const all = across.flatMap(rtt => down.map(loss => value(rtt, loss))).filter(isFinite), most = Math.max(...all), least = Math.min(...all);
    const left = W < NARROW ? 48 : 80, w = (W - left - R) / across.length, h = 46, svg = make("svg", { viewBox: `0 0 ${W} ${h * down.length + 50}`, role: "img", "aria-label": choice });
    down.forEach((loss, j) => {
      svg.append(make("text", { x: left - 8, y: 10 + h * j + h / 2 + 4, "text-anchor": "end" }, `${number(loss * 100)} %`));
      across.forEach((rtt, i) => {
        const v = value(rtt, loss), share = isFinite(v) ? (most > least ? (v - least) / (most - least) : .5) : 0;
        svg.append(make("rect", { x: left + w * i + 1, y: 10 + h * j + 1, width: w - 2, height: h - 2, rx: 3, fill: "rgb(var(--low))" }),
          make("rect", { x: left + w * i + 1, y: 10 + h * j + 1, width: w - 2, height: h - 2, rx: 3, fill: "rgb(var(--high))", "fill-opacity": isFinite(v) ? .08 + .55 * share : 0 }, hover(`RTT ${number(rtt)} ms, loss ${number(loss * 100)} %: ${show(v)}`)),
          make("text", { x: left + w * (i + .5), y: 10 + h * (j + .5) + 4, "text-anchor": "middle", class: "value", "pointer-events": "none" }, isFinite(v) ? show(v) : "–"));
      });
    });
    across.forEach((rtt, i) => svg.append(make("text", { x: left + w * (i + .5), y: h * down.length + 28, "text-anchor": "middle" }, `${number(rtt)} ms`)));
    svg.append(make("text", { x: (W + left) / 2, y: h * down.length + 45, "text-anchor": "middle" }, "round trip, by loss"));
    return [make("div", { class: "wide" }, svg), below(table(["loss", ...across.map(rtt => `RTT ${number(rtt)} ms`)], down.map(loss => [`${number(loss * 100)} %`, ...across.map(rtt => { const v = value(rtt, loss); return isFinite(v) ? show(v) : "–"; })])))];
  });
}

function timeline() {
  /* Two machines have two clocks. */
  const has = good.filter(run => !run.destination_machine && (run.waits.points.length > 1 || run.written.length > 1));
  if (has.length === 0) return;
  const name = run => `${told(run.way)} over ${run.link_name}, run ${run.repetition + 1} (${run.load})`;
  figure("What the process lives through", "From the first command on: each wait for a missing page (or, for a writer, pages written in each tenth of a second). Shaded: until it runs on the destination, and until every page is there.",
    unique([...has].sort((a, b) => ways.indexOf(a.way) - ways.indexOf(b.way) || b.waits.count - a.waits.count).map(name)), choice => {
      const run = has.find(one => name(one) === choice), writer = run.waits.points.length < 2;
      const end = Math.max(run.total_us / 1e3 * 1.05, 1), points = (writer ? run.written : run.waits.points).filter(([ms]) => ms >= -1000 && ms <= end);
      const values = points.length ? points.map(p => p[1]) : [1], low = Math.min(0, ...points.map(p => p[0]));
      const y = writer ? { range: [0, Math.max(...values)], show: number } : { range: [10 ** Math.floor(Math.log10(Math.max(1, Math.min(...values)))), 10 ** Math.ceil(Math.log10(Math.max(...values, 10)))], log: true, show: time };
      const { svg, X, Y } = axes({ range: [low, end], show: ms => time(ms * 1e3) }, y, ["since the first command", writer ? "pages a tenth of a second" : "wait"]);
      const shade = (from, to, opacity, text) => svg.insertBefore(make("rect", { x: X(from), y: T, width: Math.max(0, X(to) - X(from)), height: H - B - T, fill: color(run.way), "fill-opacity": opacity }, hover(text)), svg.firstChild);
      shade(0, run.running_us / 1e3, .22, `until it runs there: ${time(run.running_us)}`);
      shade(run.running_us / 1e3, run.total_us / 1e3, .09, `until every page is there: ${time(run.total_us)}`);
      if (writer) svg.append(make("path", { class: "curve", stroke: color(run.way), d: points.map(([ms, n], i) => `${i ? "L" : "M"}${X(ms).toFixed(1)} ${Y(n).toFixed(1)}`).join("") }));
      else for (const [ms, us] of points) svg.append(make("circle", { cx: X(ms).toFixed(1), cy: Y(Math.max(us, 1)).toFixed(1), r: 2.5, fill: color(run.way), "fill-opacity": .75 }, hover(`after ${time(ms * 1e3)}: ${time(us)}`)));
      return [make("div", { class: "wide" }, svg), below(table(["runs there after", "complete after", "felt by the process", "waits", "p50", "p99"], [[time(run.running_us), time(run.total_us), time(run.felt_us), run.waits.count, time(run.waits.p50_us), time(run.waits.p99_us)]]))];
    });
}

function rounds() {
  const has = good.filter(run => run.rounds.length > 0);
  if (has.length === 0) return;
  const name = run => `${told(run.way)} over ${run.link_name}, run ${run.repetition + 1} (${run.load})`;
  figure("Pages of each round", "What pre-copy sent again because it had been written meanwhile.", unique(has.map(name)), choice => {
    const run = has.find(one => name(one) === choice), rows = run.rounds.map((round, i) => [`round ${round.n ?? i}`, [["pages", round.pages ?? 0, color(run.way)]]]);
    return [make("div", { class: "wide" }, bars(rows, number, "rounds")), below(table(["round", "pages", "dirty pages", "predicted standstill"], run.rounds.map((round, i) => [round.n ?? i, round.pages ?? "–", round.dirty_pages ?? "–", round.predicted_downtime_us ? time(round.predicted_downtime_us) : "–"])))];
  });
}

function trials() {
  const head = ["way", "link", "load", "run", "seed", "felt", "complete", "waits", "p50", "p99", "fill", "late p99"];
  const holder = table(head, data.runs.filter(run => !run.error).map(run => [told(run.way), run.link_name, run.load, run.repetition + 1, run.seed, time(run.felt_us), time(run.total_us), run.waits.count,
    run.waits.count ? time(run.waits.p50_us) : "", run.waits.count ? time(run.waits.p99_us) : "", run.fill_bps ? rate(run.fill_bps) : "", run.link === "veth" ? "" : time(run.up.lateness_us)]));
  document.getElementById("trials").append(holder);
  const bad = data.runs.filter(run => run.error);
  if (bad.length) document.getElementById("trials").append(make("h2", {}, "Trials that failed"), table(["way", "link", "why"], bad.map(run => [told(run.way), run.link_name, run.error.split("\n")[0]])));
}

document.getElementById("name").textContent = data.name;
const machine = data.runs.length ? data.runs[data.runs.length - 1].machine : null;
const there = data.runs.length ? data.runs[data.runs.length - 1].destination_machine : null;
document.getElementById("about").textContent = machine
  ? `${good.length} good trials of ${data.runs.length}. ${machine.cpu}, Linux ${machine.kernel}; ${machine.qmig}${machine.criu ? `, CRIU ${machine.criu}` : ""}; ${machine.mtu ? `MTU ${machine.mtu}, ` : ""}TCP ${machine.tcp}, offloads: ${machine.offloads}. Last trial ${machine.date}. ${there
    ? `The destination is another machine: ${there.cpu}, Linux ${there.kernel}; ${there.qmig}.` : "Both hosts share this machine."}`
  : "No trial yet.";
for (const draw of [waits, standstill, throughput, heat, timeline, rounds, trials]) draw();
