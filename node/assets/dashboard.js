// The node's page: polls status and checkpoints, listens to events, and draws. All text is set as text, never as markup.

const POLL_MS = 1000;
const NUDGE_MS = 250; // An event brings the next poll forward, but not closer to the last one than this.
const BOUND_EVERY_MS = 4000;
const FETCH_TIMEOUT_MS = 10_000;
const CHECKPOINTS_KEPT = 5000;
const CHECKPOINTS_LISTED = 10;
const SAMPLES_KEPT = 300;
const EVENTS_SHOWN = 50;
const BOUND_LINEAGES_MAX = 64;

const state = {
  status: null, vms: [], source: null, chosen: false, kept: [], samples: [], events: [], failures: new Map(),
  stream: "connecting", boundAt: 0, polledAt: 0, timer: 0, polling: false,
};
const shown = new Map(); // What each part shows, so that the document is touched only where something changed.
const charts = new Map();

// Numbers as text.
const english = new Intl.NumberFormat("en");
const count = (n) => (n == null ? "–" : english.format(n));
const digits = (n) => n.toFixed(n >= 100 ? 0 : n >= 10 ? 1 : 2);
function bytes(n) {
  if (n == null) return "–";
  const power = n < 1024 ? 0 : Math.min(Math.floor(Math.log2(n) / 10), 5);
  return power === 0 ? `${Math.round(n)} B` : `${digits(n / 1024 ** power)} ${"KMGTP"[power - 1]}iB`;
}
function micros(us) {
  if (us == null) return "–";
  return us < 1000 ? `${Math.round(us)} µs` : us < 1e6 ? `${digits(us / 1000)} ms` : `${digits(us / 1e6)} s`;
}
function duration(ms) {
  const s = Math.floor(ms / 1000), pair = (n) => String(n).padStart(2, "0");
  const clock = [Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60, s % 60].map(pair).join(":");
  return s < 86400 ? clock : `${Math.floor(s / 86400)} d ${clock}`;
}
const rate = (n) => (n == null ? "–" : `${bytes(n)}/s`);
const ratio = (part, all) => (all > 0 ? `${(part / all).toFixed(2)}×` : "–");
const short = (name) => (name ?? "").slice(0, 10);
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const SAY = {
  count, bytes, micros, rate, short, clock, text: String, millis: (n) => micros(n * 1000), pages: (n) => bytes(n * 4096), root: (hash) => hash.slice(0, 16),
  day: (s) => new Date(s * 1000).toISOString().slice(0, 10), duration, limit: (n) => (n == null ? "none" : bytes(n)),
  own: (own) => (own ? "this node" : "another node"), branch: (parent) => (parent ? `${short(parent.lineage)} at ${parent.index}` : "–"),
};
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor((numbers.length - 1) / 2)] ?? null;

// The document.
const $ = (id) => document.getElementById(id);
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
/** Shows `text` in the element of that field; `value` is the number behind it. */
function put(field, text, value) {
  const element = document.querySelector(`[data-field="${field}"]`);
  if (!element) return;
  if (element.textContent !== text) element.textContent = text;
  if (value == null) delete element.dataset.value; else element.dataset.value = value;
}
/** Whether `value` differs from what the part shows; notes it. */
function changed(part, value) {
  const text = JSON.stringify(value), differs = shown.get(part) !== text;
  shown.set(part, text);
  return differs;
}
/** The page itself says which number stands where, and in which unit: `data-from` is a path, `data-say` is in SAY. */
const lookUp = (whole, path) => path.split(".").reduce((value, step) => value?.[step], whole);
function fill(whole) {
  for (const { dataset } of document.querySelectorAll("[data-field][data-from]")) {
    const value = lookUp(whole, dataset.from);
    put(dataset.field, SAY[dataset.say](value), value);
  }
}
/** Fills a table, whose headings say the same of its columns. */
function table(id, rows, key) {
  $(id).hidden = rows.length === 0;
  if (!changed(id, rows)) return;
  const heads = [...$(id).tHead.rows[0].cells];
  const cell = (row) => ({ dataset: { cell, from, say }, className }, at) => {
    const value = lookUp(row, from), raw = value != null && typeof value === "object" ? JSON.stringify(value) : value;
    const title = say === "short" || say === "root" ? value : null;
    return make(at ? "td" : "th", { scope: at ? null : "row", "data-cell": cell, "data-value": raw, title, class: className || null }, SAY[say](value));
  };
  $(id).tBodies[0].replaceChildren(...rows.map((row) => make("tr", { "data-key": row[key] }, ...heads.map(cell(row)))));
}
function showTrouble() {
  const lines = [...state.failures].map(([what, why]) => `${what}: ${why}`);
  $("failures").hidden = lines.length === 0;
  if (changed("failures", lines)) $("failures").replaceChildren(...lines.map((line) => make("div", {}, line)));
  const [kind, words] = state.failures.has("status") ? ["lost", "node does not answer"]
    : !state.status ? ["connecting", "connecting"]
    : state.stream === "open" ? ["live", "live"] : ["partial", "no event stream, polling"];
  if (!changed("connection", kind)) return;
  $("connection").dataset.state = kind;
  $("connection").textContent = words;
}

// Charts. Bars are stacked by drawing the highest sum first, so their order is reversed.
const BINARY_STEPS = Array.from({ length: 51 }, (_, power) => 2 ** power);
const WHOLE_STEPS = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((n) => n * 10 ** power)).flat();
const SECONDS_STEPS = [1, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const colour = (variable) => getComputedStyle(document.documentElement).getPropertyValue(`--${variable}`).trim();

function columnsOf({ kind, parts, rows }) {
  const xs = rows.map((row) => row.at ?? row.index), floor = kind === "dots" ? 1 : 0; // A logarithmic axis has no zero.
  if (kind !== "bars") return [xs, ...parts.map(({ of }) => rows.map((row) => Math.max(row[of], floor)))];
  let sums = rows.map(() => 0);
  return [xs, ...parts.map(({ of }) => (sums = sums.map((sum, at) => sum + (rows[at][of] ?? 0)))).reverse()];
}
function seriesOf({ kind, parts }) {
  const look = {
    lines: (ink) => ({ stroke: ink, width: 1.75, points: { show: false } }),
    dots: (ink) => ({ stroke: `${ink}55`, width: 1, points: { show: true, size: 6, width: 0, fill: ink } }),
    bars: (ink) => ({ fill: ink, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.76, 26] }) }),
  }[kind];
  const all = parts.map((part) => look(colour(part.colour)));
  return [{}, ...(kind === "bars" ? all.reverse() : all)];
}
function axesOf({ kind, say, steps }) {
  const look = { stroke: colour("soft"), font: "11px system-ui, sans-serif", ticks: { show: false } };
  const time = { incrs: SECONDS_STEPS, space: 90, values: (_, marks) => marks.map((mark) => clock(mark * 1000)) };
  const decades = { filter: (_, marks) => marks.map((n) => (Number.isInteger(Math.log10(n)) ? n : null)) };
  const values = (_, marks) => marks.map((n) => (n === 0 ? "0" : n == null ? "" : say(n).replace(/\.0+(?= )/, "")));
  return [
    { ...look, ...(kind === "lines" ? time : { incrs: WHOLE_STEPS }), grid: { show: false }, size: 26 },
    { ...look, ...(kind === "dots" ? decades : { incrs: steps }), grid: { stroke: colour("grid"), width: 1 }, size: 64, space: 30, values },
  ];
}
function scalesOf({ kind }) {
  const pad = kind === "lines" ? 0 : 0.6, decade = (n, round) => 10 ** round(Math.log10(Math.max(n ?? 1, 1)));
  const y = kind !== "dots" ? { range: (_, low, high) => [0, high > 0 ? high * 1.06 : 1] }
    : { distr: 3, range: (_, low, high) => [decade(low, Math.floor), Math.max(decade(high, Math.ceil), decade(low, Math.floor) * 10)] };
  return { x: { time: false, range: (_, low, high) => [low - pad, high + pad] }, y };
}
/** The page says what a chart shows: its kind, its unit, and per part the colour and the name of the number. */
function addChart(figure) {
  const { kind, say, steps } = figure.dataset, box = figure.querySelector(".plot");
  const parts = [...figure.querySelectorAll("[data-of]")].map((item) => ({ ...item.dataset, field: item.querySelector("b").dataset.field }));
  const chart = { id: figure.id, kind, say: SAY[say], steps: steps === "binary" ? BINARY_STEPS : WHOLE_STEPS, parts, box, rows: [] };
  charts.set(figure.id, Object.assign(chart, { plot: plot(chart) }));
  new ResizeObserver(() => fit(chart)).observe(box);
}
function plot(chart) {
  const cursor = { y: false, drag: { x: false, y: false }, points: { show: false }, sync: chart.kind === "lines" ? {} : { key: "checkpoints" } };
  const hooks = { setCursor: [() => readOut(chart)], draw: [(drawn) => { chart.box.dataset.points = drawn.data[0].length; }] };
  const look = { axes: axesOf(chart), series: seriesOf(chart), scales: scalesOf(chart), padding: [8, chart.kind === "lines" ? 28 : 6, 0, 0], legend: { show: false } };
  return new uPlot({ width: 300, height: 150, cursor, hooks, ...look }, columnsOf(chart), chart.box);
}
/** A hidden chart has no size and keeps the one it had. */
function fit({ plot, box }) {
  if (box.clientWidth > 0) plot.setSize({ width: box.clientWidth, height: box.clientHeight });
}
function draw(id, rows) {
  const chart = Object.assign(charts.get(id), { rows });
  chart.plot.setData(columnsOf(chart));
  readOut(chart);
}
/** Numbers above a chart: of what is pointed at, else of the latest. */
function readOut({ id, plot, rows, parts, say }) {
  const row = rows[plot?.cursor.idx ?? rows.length - 1];
  if (!row) return;
  put(`${id}-at`, row.at ? clock(row.at * 1000) : `checkpoint ${count(row.index)}`, row.at ?? row.index);
  for (const { field, of } of parts) put(field, say(row[of]), row[of]);
}
/** New colours need new plots. */
function recolour() {
  for (const chart of charts.values()) {
    chart.plot.destroy();
    chart.plot = plot(chart);
    fit(chart);
  }
}

// Asking the node.
/** The answer, or undefined; then the page says why under the heading `what`. */
async function ask(what, path) {
  try {
    const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
    if (!response.ok) throw new Error((await response.json().catch(() => null))?.message ?? `answer ${response.status}`);
    const answer = await response.json();
    state.failures.delete(what);
    return answer;
  } catch (error) {
    state.failures.set(what, error.name === "TimeoutError" ? `no answer within ${FETCH_TIMEOUT_MS / 1000} s` : error.message);
    return undefined;
  }
}
async function poll() {
  if (state.polling) return;
  state.polling = true;
  clearTimeout(state.timer);
  try {
    await refresh();
    state.failures.delete("page");
  } catch (error) {
    state.failures.set("page", error.message);
  }
  showTrouble();
  Object.assign(state, { polling: false, polledAt: Date.now(), timer: setTimeout(poll, POLL_MS) });
}
async function refresh() {
  const status = await ask("status", "/api/v1/status");
  if (!status) return;
  takeStatus(status);
  state.vms = (await ask("virtual machines", "/api/v1/vms")) ?? state.vms;
  chooseSource();
  await pollTimeline();
  if (Date.now() - state.boundAt >= BOUND_EVERY_MS) await pollBound();
}
function nudge() {
  if (state.polling) return;
  clearTimeout(state.timer);
  state.timer = setTimeout(poll, Math.max(0, state.polledAt + NUDGE_MS - Date.now()));
}
function takeStatus(status) {
  const before = state.status;
  if (before && (status.uptime_ms < before.uptime_ms || status.node !== before.node)) {
    Object.assign(state, { samples: [], kept: [], source: null, chosen: false, boundAt: 0 }); // The node was restarted.
  } else if (before && status.uptime_ms > before.uptime_ms) {
    sample(before, status);
  }
  state.status = status;
  showStatus(status);
}
/** A rate is what was counted between two answers, by the node's own clock. */
function sample(before, after) {
  const per = (field) => ((after.transfer[field] - before.transfer[field]) * 1000) / (after.uptime_ms - before.uptime_ms);
  state.samples.push({
    at: Date.now() / 1000, writer: per("from_writer_bytes"), peers: per("from_peers_bytes"), twice: per("duplicate_bytes"), sent: per("served_bytes"),
  });
  state.samples.splice(0, state.samples.length - SAMPLES_KEPT);
  draw("rates", state.samples);
}

// Status.
function showStatus(status) {
  fill(status);
  put("peers-note", status.peers.length ? `round trip ${micros(median(status.peers.map((peer) => peer.rtt_us)))}, median` : "none connected");
  put("store-note", `${bytes(status.store.decoded_bytes)} in ${bytes(status.store.stored_bytes)}`);
  table("peers", status.peers, "node");
  table("lineages", status.lineages, "lineage");
  showSpread(status.spreads);
  $("peers-empty").hidden = status.peers.length > 0;
  $("lineages-empty").hidden = status.lineages.length > 0;
}

// Distance from the bound.
async function pollBound() {
  state.boundAt = Date.now();
  const { transfer, lineages } = state.status;
  if (lineages.length > BOUND_LINEAGES_MAX || !changed("bound", [transfer, lineages])) return;
  let lacked = 0, born = 0;
  for (const { lineage, own, births } of lineages) {
    const answer = births > 0 ? await ask("bound", `/api/v1/lineages/${lineage}/bytes`) : { born_bytes: 0, lacked_bytes: 0 };
    if (!answer) return void shown.delete("bound");
    lacked += answer.lacked_bytes;
    born += own ? answer.born_bytes : 0;
  }
  showRatio("received", transfer.from_writer_bytes + transfer.from_peers_bytes, "lacked", lacked);
  showRatio("sent", transfer.served_bytes, "born", born);
  $("bound-empty").hidden = lacked + born > 0 || state.status.spreads.length > 0;
}
/** The spread that goes on, else the first that was. */
function showSpread(spreads) {
  const spread = spreads.find((s) => s.goes_on) ?? spreads[0];
  $("bound-spread").hidden = !spread;
  if (!spread) return;
  const { binds, goes_on, over_bound_permille: over } = spread, whose = binds?.node ? ` of ${short(binds.node)}` : "";
  const link = { "writer-up": "the writer's uplink", "node-down": "the downlink", "swarm-up": "all uplinks together" }[binds?.link];
  put("spread-ratio", ratio(over ?? 0, over == null ? 0 : 1000), over == null ? null : over / 1000);
  put("spread-words", goes_on ? "of the bound of the links at best" : "of the bound of the links");
  for (const part of ["lacked", "union", "missing"]) put(`spread-${part}`, bytes(spread[`${part}_bytes`]), spread[`${part}_bytes`]);
  put("spread-busy", SAY.millis(spread.busy_ms), spread.busy_ms);
  put("spread-bound", spread.bound_ms == null ? "–" : SAY.millis(spread.bound_ms), spread.bound_ms);
  put("spread-binds", binds ? `${link}${whose} binds, ${rate(binds.bytes_per_s)} ${binds.is_configured ? "configured" : "measured"}` : "not known");
  put("spread-gain", ratio(spread.gain_permille, 1000), spread.gain_permille / 1000);
}
function showRatio(field, moved, against, least) {
  put(`${field}-ratio`, ratio(moved, least), least > 0 ? moved / least : null);
  put(`${field}-bytes`, bytes(moved), moved);
  put(`${against}-bytes`, bytes(least), least);
  $(`bound-${field}`).hidden = least === 0;
}

// The timeline: of a VM of this node, else of a lineage that it learnt.
/** The running and latest VM first, then lineages without one; those of artefacts have no RAM and no timeline. */
function sources() {
  const vms = [...state.vms].sort((a, b) => (a.ended != null) - (b.ended != null) || b.vm - a.vm);
  const written = new Set(vms.map((vm) => vm.lineage));
  const learnt = state.status.lineages.filter((l) => !written.has(l.lineage) && l.latest != null && l.pages > 0).sort((a, b) => b.latest - a.latest);
  return [
    ...vms.map((vm) => ({ id: `vm ${vm.vm}`, vm: vm.vm, lineage: vm.lineage, text: `VM ${vm.vm}, lineage ${short(vm.lineage)}, ${vm.ended ?? "running"}` })),
    ...learnt.map((l) => ({ id: l.lineage, lineage: l.lineage, text: `lineage ${short(l.lineage)} of ${l.own ? "this node" : short(l.writer)}` })),
  ];
}
function chooseSource() {
  const all = sources(), same = (source) => source.id === state.source?.id;
  const source = (state.chosen && all.find(same)) || all[0];
  if (source && !same(source)) useSource(source);
  if (!source || !changed("sources", [all, source.id])) return;
  $("source").replaceChildren(...all.map(({ id, text }) => make("option", { value: id }, text)));
  $("source").value = source.id;
}
function useSource(source) {
  Object.assign(state, { source, kept: [] });
  shown.delete("timeline");
}
async function pollTimeline() {
  const source = state.source;
  if (source) {
    const latest = state.status.lineages.find((l) => l.lineage === source.lineage)?.latest ?? 0;
    const from = state.kept.length ? state.kept.at(-1).index + 1 : Math.max(0, latest + 1 - CHECKPOINTS_KEPT);
    const path = source.vm == null ? `lineages/${source.lineage}/checkpoints` : `vms/${source.vm}`;
    const answer = await ask("checkpoints", `/api/v1/${path}?from=${from}`);
    if (!answer || state.source !== source) return;
    (answer.checkpoints ?? answer).forEach(keep);
    state.kept.splice(0, state.kept.length - CHECKPOINTS_KEPT);
  }
  showTimeline();
}
function keep(row) {
  const before = state.kept.at(-1);
  const born = row.index === 0 ? row.births : before?.index === row.index - 1 ? row.births - before.births : null;
  state.kept.push({ ...row, born, plain_bytes: row.new_bytes - row.patched_bytes, plain_pages: row.new_pages - row.patched_pages });
}
function showTimeline() {
  const { source, kept } = state, rows = kept.slice(-Number($("range").value)), ofVm = source?.vm != null;
  const latest = kept.slice(-CHECKPOINTS_LISTED).reverse();
  table("taken", ofVm ? latest : [], "index");
  table("learnt", ofVm ? [] : latest, "index");
  $("timeline-empty").hidden = rows.length > 0;
  $("taken-charts").hidden = !ofVm || rows.length === 0;
  $("learnt-charts").hidden = ofVm || rows.length === 0;
  if (!rows.length || !changed("timeline", [rows[0].index, rows.at(-1).index])) return;
  for (const figure of $(ofVm ? "taken-charts" : "learnt-charts").children) draw(figure.id, rows);
  put("latest-checkpoint", count(latest[0].index), latest[0].index);
  put("latest-note", `of lineage ${short(source.lineage)}, ${clock(latest[0].taken_unix_ms)}`);
  showTiles(rows.length > 1 ? rows.filter((row) => row.index > 0) : rows, ofVm); // Checkpoint 0 is all of RAM.
}
function showTiles(rows, ofVm) {
  const gaps = rows.slice(1).map((row, at) => (row.taken_unix_ms - rows[at].taken_unix_ms) * 1000);
  const pace = ofVm ? rows.map((row) => row.downtime_us) : gaps;
  const cost = median(rows.map((row) => row.delta_bytes + (row.new_bytes ?? 0)));
  put("pace-label", ofVm ? "Downtime, median" : "Interval, median");
  put("pace", micros(median(pace)), median(pace));
  put("pace-note", pace.length ? `at most ${micros(Math.max(...pace))} in ${count(pace.length)}` : "");
  put("cost-label", ofVm ? "Published, median" : "Delta, median");
  put("cost", bytes(cost), cost);
  put("cost-note", ofVm ? `from ${count(median(rows.map((row) => row.dirty_pages)))} dirty pages` : "a checkpoint");
}

// Events.
/** What an event may carry, in the order in which it is told. */
const ABOUT = {
  vm: (n) => `vm ${n}`, peer: short, lineage: (id) => `lineage ${short(id)}`, index: (n) => `checkpoint ${count(n)}`, birth: (n) => `birth ${count(n)}`,
  hash: short, downtime_us: (n) => `downtime ${micros(n)}`, took_ms: (n) => `in ${micros(n * 1000)}`, counter: (n) => `${count(n)} pages dirtied`,
  passes: (n) => `${count(n)} self-checks`, records_recovered: (n) => `${count(n)} records recovered`, torn_bytes: (n) => `${bytes(n)} cut off`,
  damaged_regions: (n) => `${count(n)} places damaged`, chunks_lost: (n) => `${count(n)} chunks lost`, why: String,
};
function takeEvent({ data }) {
  const event = JSON.parse(data), repeats = (e) => e.event === "vm_report" && e.vm === event.vm;
  // Guests report often: only the latest report of each is of interest.
  if (event.event === "vm_report") state.events = state.events.filter((e) => !repeats(e)); else nudge();
  state.events.unshift(event);
  state.events.splice(EVENTS_SHOWN);
  requestAnimationFrame(showEvents);
}
function showEvents() {
  if (!changed("events", state.events.map((e) => e.number))) return;
  $("events-empty").hidden = state.events.length > 0;
  $("events").replaceChildren(...state.events.map((event) => {
    const about = Object.keys(ABOUT).filter((field) => event[field] != null).map((field) => ABOUT[field](event[field])).join(", ");
    const when = make("time", { datetime: new Date(event.unix_ms).toISOString() }, clock(event.unix_ms));
    const what = make("span", { class: "what" }, event.event.replaceAll("_", " "));
    return make("li", { "data-event": event.event, "data-number": event.number }, when, what, make("span", { class: "about" }, about));
  }));
}
function listen() {
  const stream = new EventSource("/api/v1/events");
  const say = (name) => { state.stream = name; showTrouble(); };
  stream.onopen = () => { state.events = []; say("open"); }; // The node tells everyone who connects what it kept.
  stream.onmessage = takeEvent;
  stream.onerror = () => {
    say("lost");
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
}

document.querySelectorAll("figure").forEach(addChart);
$("source").addEventListener("change", (change) => {
  state.chosen = true;
  useSource(sources().find(({ id }) => id === change.target.value) ?? state.source);
  nudge();
});
$("range").addEventListener("change", showTimeline);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
listen();
poll();
