function waits() {
  const has = good.filter(run => run.waits.count > 0);
  if (has.length === 0) return;
  figure("How long the process waits for a page that is not there",
    "Share of its waits that are no longer than this, by its own clock (log scale); the rest of the memory arrives meanwhile. Dashed: qmig not as it is meant. Medians of all runs at each percent.",
    byWeight(has, run => run.waits.count), link => {
      const here = ways.filter(way => has.some(run => run.way === way && run.place === link));
      const curve = way => {
        const runs = of(way, link).filter(run => run.waits.count > 0);
        return runs[0].waits.quantiles_us.map((_, percent) => Math.max(1, median(runs.map(run => run.waits.quantiles_us[percent]))));
      };
      const curves = here.map(way => [way, curve(way)]), all = curves.flatMap(c => c[1]);
      const range = [10 ** Math.floor(Math.log10(Math.min(...all))), 10 ** Math.ceil(Math.log10(Math.max(...all, 10)))];
      const { svg, X, Y } = axes({ range, log: true, show: time }, { range: [0, 100], show: v => v + " %" }, ["wait", "share of waits"]);
      for (const [way, list] of curves) svg.append(make("path", { class: "curve", stroke: color(way), "stroke-dasharray": dash(way),
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
  /* One that was ended when it ran can say nothing. */
  const felt = runs => runs.map(run => run.felt_us).filter(us => us > 0);
  const order = ["freeze", "collect", "images", "pages", "restore", "commit"];
  const names = unique([...order, ...good.flatMap(run => Object.keys(run.parts))]).filter(name => good.some(run => name in run.parts));
  const fill = name => `var(--c${names.indexOf(name) % 8})`;
  figure("How long the process stands still",
    "qmig splits its standstill, last instruction there to first one here, into parts; for its peers the longest gap between two heartbeats is shown. Medians.",
    places, link => {
      const here = ways.filter(way => of(way, link).length);
      const rows = here.map(way => {
        const runs = of(way, link), parts = names.filter(name => runs.some(run => name in run.parts))
          .map(name => [name, median(runs.map(run => run.parts[name] || 0)), fill(name)]);
        return [told(way), parts.length ? parts : [["felt", median(felt(runs)), "var(--c8)"]]];
      });
      const numbers = here.map(way => {
        const runs = of(way, link);
        return [told(way), spread(felt(runs), time), spread(runs.map(r => r.downtime_us).filter(us => us > 0), time),
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
    unique(has.map(run => run.place)), link => {
      const here = ways.filter(way => has.some(run => run.way === way && run.place === link));
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
  const loads = unique(has.map(run => run.load));
  const family = run => [...(tables.length > 1 ? [run.table] : []), run.rate ? rate(run.rate) : "no rate", ...(loads.length > 1 ? [run.load] : [])].join(", ");
  const field = run => `${run.rtt_ms} ${run.loss}`;
  const count = (runs, of) => unique(runs.map(of)).length;
  const runsOf = key => has.filter(run => family(run) === key);
  /* A field is one link: those that differ in something else as well are not told from each other here. */
  const keys = unique(has.map(family)).filter(key => {
    const here = runsOf(key), fields = count(here, field);
    return fields > 1 && fields === count(here, run => `${field(run)} ${run.link_name}`);
  }).sort((a, b) => count(runsOf(b), field) - count(runsOf(a), field));
  if (keys.length === 0) return;
  const measures = [["until complete", run => run.total_us, time], ["wait p99", run => run.waits.count ? run.waits.p99_us : NaN, time], ["stood still", run => run.felt_us || NaN, time], ["fill, of the link", run => run.fill_share === null ? NaN : run.fill_share * 100, v => number(v) + " %"]];
  const choices = [];
  for (const [name] of measures) for (const key of keys) for (const way of ways) {
    if (runsOf(key).some(run => run.way === way && isFinite(measures.find(one => one[0] === name)[1](run)))) choices.push(`${name}: ${told(way)}, ${key}`);
  }
  figure("By round trip and loss", "Each field is the median of its runs; choose a measure and a way.", choices, choice => {
    const [, get, show] = measures.find(([name]) => choice.startsWith(name + ":"));
    const runs = has.filter(run => choice.endsWith(`: ${told(run.way)}, ${family(run)}`));
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
  figure("What the process lives through", "From the first command on: each wait for a missing page (or, for a writer, pages written in each tenth of a second). Shaded: until it runs on the destination, and until every page is there.",
    unique([...has].sort((a, b) => ways.indexOf(a.way) - ways.indexOf(b.way) || b.waits.count - a.waits.count).map(named)), choice => {
      const run = has.find(one => named(one) === choice), writer = run.waits.points.length < 2;
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

/* What each phase is drawn in; all rounds are one. */
const PHASES = [["plan", "var(--c8)"], ["rounds", "var(--c4)"], ["freeze", "var(--c7)"], ["state and pages", "var(--c1)"], ["dump", "var(--c1)"], ["images", "var(--c3)"],
  ["hand-over", "var(--c10)"], ["restore", "var(--c10)"], ["rest of the pages", "var(--c2)"], ["farewell", "var(--c8)"]];
const phase = name => PHASES.find(([known]) => known === (name.startsWith("round ") ? "rounds" : name)) || [name, "var(--c6)"];

function clients() {
  const has = good.filter(run => run.requests && run.requests.points.length > 1);
  if (has.length === 0) return;
  figure("What clients of a server see", "Clients on a third host ask a key-value server, each by its own schedule, whether it answers or not. How long the answers take, by when they were asked (log scale): the line is the median of each bucket, the dots its longest. Shaded: what is done meanwhile.",
    unique([...has].sort((a, b) => ways.indexOf(a.way) - ways.indexOf(b.way)).map(named)), choice => {
      const run = has.find(one => named(one) === choice), { points, bucket_us } = run.requests;
      const last = points[points.length - 1][0] + bucket_us, range = [points[0][0], Math.max(last, run.total_us)];
      const low = Math.min(...points.map(p => p[2])), high = Math.max(...points.map(p => p[3]), 10);
      const { svg, X, Y } = axes({ range, show: time }, { range: [10 ** Math.floor(Math.log10(Math.max(1, low))), 10 ** Math.ceil(Math.log10(high))], log: true, show: time }, ["asked, since the first command", "answer"]);
      for (const { name, from_us, to_us } of [...run.phases].reverse()) {
        svg.insertBefore(make("rect", { x: X(from_us), y: T, width: Math.max(.5, X(to_us) - X(from_us)), height: H - B - T, fill: phase(name)[1], "fill-opacity": name.startsWith("round ") && +name.slice(6) % 2 ? .13 : .22 },
          hover(`${name}: ${time(from_us)} to ${time(to_us)}, ${time(to_us - from_us)}`)), svg.firstChild);
      }
      const at = (us, value) => `${X(us).toFixed(1)} ${Y(Math.max(value, 1)).toFixed(1)}`;
      svg.append(make("path", { class: "curve", stroke: "var(--ink)", d: points.map(([us, , middle], i) => (i && us - points[i - 1][0] <= bucket_us * 1.5 ? "L" : "M") + at(us, middle)).join("") }, hover("median")));
      for (const [us, count, middle, longest] of points) svg.append(make("circle", { cx: X(us).toFixed(1), cy: Y(Math.max(longest, 1)).toFixed(1), r: 1.8, fill: color(run.way), "fill-opacity": .8 }, hover(`${time(us)}: ${count} asked, median ${time(middle)}, longest ${time(longest)}`)));
      const seen = unique(run.phases.map(one => phase(one.name)[0])).map(name => [name, `color-mix(in srgb, ${phase(name)[1]} 35%, transparent)`]);
      const here = ways.filter(way => has.some(one => one.way === way && one.place === run.place));
      const numbers = here.map(way => {
        const runs = has.filter(one => one.way === way && one.place === run.place), column = get => spread(runs.map(one => get(one.requests)), time);
        return [told(way), spread(runs.map(one => one.requests.count), number), column(r => r.max_us), column(r => r.silence_us), column(r => r.p99_us), column(r => r.p50_us)];
      });
      return [legend([...seen, ["median", "var(--ink)"], ["longest", color(run.way)]]), make("div", { class: "wide" }, svg),
        below(make("div", {}, table(["way", "answers", "longest", "longest without any", "p99", "p50"], numbers),
          table(["phase of this run", "from", "until", "took"], run.phases.map(one => [one.name, time(one.from_us), time(one.to_us), time(one.to_us - one.from_us)]))))];
    });
}

function lanes() {
  const order = ["control", "faults", "blob", "urgent", "bulk"];
  const has = good.filter(run => Object.keys(run.lanes || {}).length > 0);
  if (has.length === 0) return;
  const bytes = n => n >= 1e6 ? number(n / 1e6) + " MB" : n >= 1e3 ? number(n / 1e3) + " kB" : number(n) + " B";
  figure("What travels in qmig's lanes", "Bytes of streams to the destination, what was sent again counted once. A packet holds what several lanes had to say, so of lanes frames are counted (messages, wishes, runs of pages, blobs), of packets the whole. Medians.",
    unique(has.map(run => run.place)), place => {
      const here = ways.filter(way => has.some(run => run.way === way && run.place === place));
      const runs = way => has.filter(run => run.way === way && run.place === place);
      const of = (way, lane, field, side) => median(runs(way).map(run => ((run[side || "lanes"] || {})[lane] || {})[field] || 0));
      const rows = here.map(way => [told(way), order.map((lane, i) => [lane, of(way, lane, "sent_bytes"), `var(--c${i})`])]);
      const both = (way, lane, side, direction) => `${bytes(of(way, lane, direction + "_bytes", side))} in ${number(of(way, lane, direction + "_frames", side))}`;
      const numbers = here.flatMap(way => order.filter(lane => of(way, lane, "sent_bytes") + of(way, lane, "received_bytes") > 0).map((lane, i) =>
        [`${told(way)}: ${lane}`, both(way, lane, "lanes", "sent"), both(way, lane, "destination_lanes", "received"), both(way, lane, "destination_lanes", "sent"), both(way, lane, "lanes", "received"),
          i ? "" : spread(runs(way).map(run => run.up.packets).filter(n => n > 0), number), i ? "" : spread(runs(way).map(run => run.down.packets).filter(n => n > 0), number)]));
      return [legend(order.map((lane, i) => [lane, `var(--c${i})`])), make("div", { class: "wide" }, bars(rows, bytes, "lanes")),
        below(table(["way: lane", "source sent, in frames", "destination received", "destination sent", "source received", "packets there", "packets back"], numbers))];
    });
}

function rounds() {
  const has = good.filter(run => run.rounds.length > 0);
  if (has.length === 0) return;
  figure("Pages of each round", "What pre-copy sent again because it had been written meanwhile.", unique(has.map(named)), choice => {
    const run = has.find(one => named(one) === choice), rows = run.rounds.map((round, i) => [`round ${round.n ?? i}`, [["pages", round.pages ?? 0, color(run.way)]]]);
    return [make("div", { class: "wide" }, bars(rows, number, "rounds")), below(table(["round", "pages", "dirty pages", "predicted standstill"], run.rounds.map((round, i) => [round.n ?? i, round.pages ?? "–", round.dirty_pages ?? "–", round.predicted_downtime_us ? time(round.predicted_downtime_us) : "–"])))];
  });
}

/* The most that each side took for itself. */
const peaks = run => [run.source, run.destination].some(tool => tool.peak_kib > 0)
  ? [run.source, run.destination].map(tool => number(tool.peak_kib / 1024)).join(", ") + " MiB" : "";
function trials() {
  const head = ["way", "link", "load", "run", "seed", "felt", "complete", "waits", "p50", "p99", "fill", "memory of both tools", "late p99"];
  const holder = table(head, data.runs.filter(run => !run.error).map(run => [told(run.way), where(run), run.load, run.repetition + 1, run.seed, run.felt_us ? time(run.felt_us) : "–", time(run.total_us), run.waits.count,
    run.waits.count ? time(run.waits.p50_us) : "", run.waits.count ? time(run.waits.p99_us) : "", run.fill_bps ? rate(run.fill_bps) : "", peaks(run), run.link === "veth" ? "" : time(run.up.lateness_us)]));
  document.getElementById("trials").append(holder);
  const bad = data.runs.filter(run => run.error);
  if (bad.length) document.getElementById("trials").append(make("h2", {}, "Trials that failed"), table(["way", "link", "why"], bad.map(run => [told(run.way), run.link_name, run.error.split("\n")[0]])));
}

document.getElementById("name").textContent = data.name;
const machine = data.runs.length ? data.runs[data.runs.length - 1].machine : null;
const there = data.runs.length ? data.runs[data.runs.length - 1].destination_machine : null;
document.getElementById("about").textContent = machine
  ? `${good.length} good trials of ${data.runs.length}. ${machine.cpu}, Linux ${machine.kernel}; ${machine.qmig}${machine.criu ? `, CRIU ${machine.criu}` : ""}; ${machine.mtu ? `MTU ${machine.mtu}, ` : ""}TCP ${machine.tcp}; offloads: ${unique(data.runs.map(run => run.machine.offloads)).filter(Boolean).join("; or ")}. Last trial ${machine.date}. ${there
    ? `The destination is another machine: ${there.cpu}, Linux ${there.kernel}; ${there.qmig}.` : "Both hosts share this machine."}`
  : "No trial yet.";
for (const draw of [waits, standstill, throughput, heat, clients, timeline, rounds, lanes, trials]) draw();
