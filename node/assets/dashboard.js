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
  status: null, vms: [], source: null, chosen: false, kept: [], samples: [], counted: null,
  events: [], failures: new Map(), stream: "connecting", boundAt: 0, polledAt: 0, timer: 0, polling: false,
};
const shown = new Map(); // What each part shows, to touch the document only where something changed.
const plots = new Map();

// ---- numbers as text -------------------------------------------------------------------------------------------

const plain = new Intl.NumberFormat("en");
const count = (n) => (n == null ? "–" : plain.format(n));
const digits = (n) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2));
function bytes(n) {
  if (n == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let power = 0;
  while (n >= 1024 && power < units.length - 1) { n /= 1024; power += 1; }
  return `${power === 0 ? Math.round(n) : digits(n)} ${units[power]}`;
}
function micros(us) {
  if (us == null) return "–";
  if (us < 1000) return `${Math.round(us)} µs`;
  return us < 1e6 ? `${digits(us / 1000)} ms` : `${digits(us / 1e6)} s`;
}
function duration(ms) {
  const s = Math.floor(ms / 1000), pad = (n) => String(n).padStart(2, "0");
  const days = s >= 86400 ? `${Math.floor(s / 86400)} d ` : "";
  return `${days}${pad(Math.floor(s / 3600) % 24)}:${pad(Math.floor(s / 60) % 60)}:${pad(s % 60)}`;
}
const rate = (n) => (n == null ? "–" : `${bytes(n)}/s`);
const ratio = (part, whole) => (whole > 0 ? `${(part / whole).toFixed(2)}×` : "–");
const short = (name) => (name ?? "").slice(0, 10);
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor((sorted.length - 1) / 2)] : null;
}

// ---- the document ----------------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
/** Shows `text` in every element of that field; `value` is the number behind it. */
function put(field, text, value, alarm = null) {
  for (const element of document.querySelectorAll(`[data-field="${field}"]`)) {
    if (element.textContent !== text) element.textContent = text;
    if (value != null) element.dataset.value = value; else delete element.dataset.value;
    if (alarm != null) element.dataset.alarm = alarm ? "yes" : "no";
  }
}
/** Whether `value` differs from what the part shows; notes it. */
function changed(part, value) {
  const text = JSON.stringify(value);
  if (shown.get(part) === text) return false;
  shown.set(part, text);
  return true;
}
/** Fills a table. A column is {head, field, text, value, title, name}; only numbers have a `value`. */
function table(id, columns, rows, key) {
  if (!changed(id, [columns.map((column) => column.head), rows])) return;
  const heads = columns.map((column) => make("th", { scope: "col", class: column.value && "number" }, column.head));
  $(id).tHead.replaceChildren(make("tr", {}, ...heads));
  $(id).tBodies[0].replaceChildren(...rows.map((row) => make("tr", { "data-key": key(row) },
    ...columns.map((column, at) => make(at === 0 ? "th" : "td", {
      scope: at === 0 ? "row" : null, "data-field": column.field, "data-value": column.value?.(row), title: column.title?.(row),
      class: [column.value && "number", column.name && "name"].filter(Boolean).join(" ") || null,
    }, column.text(row))))));
  $(id).hidden = rows.length === 0;
}
function showFailures() {
  const lines = [...state.failures].map(([what, why]) => `${what}: ${why}`);
  if (!changed("failures", lines)) return;
  $("failures").hidden = lines.length === 0;
  $("failures").replaceChildren(...lines.map((line) => make("div", {}, line)));
}
function showConnection() {
  const lost = state.failures.has("status");
  const [name, text] = lost ? ["lost", "node does not answer"]
    : !state.status ? ["connecting", "connecting"]
    : state.stream === "open" ? ["live", "live"] : ["partial", "no event stream, polling"];
  if (!changed("connection", name)) return;
  $("connection").dataset.state = name;
  $("connection").textContent = text;
}

// ---- charts ----------------------------------------------------------------------------------------------------

const bar = (label, colour, of, field) => ({ label, colour, of, field });
const VM_CHARTS = [
  { id: "downtime", title: "Downtime", text: micros, wide: true, bars: [bar("guest stood still", "blue", (f) => f.downtime_us, "downtime")] },
  { id: "bytes", title: "Published bytes, by cause", text: bytes, binary: true, bars: [
    bar("new, raw or zstd", "blue", (f) => f.new_bytes - f.patched_bytes, "plain"),
    bar("new, as patches", "teal", (f) => f.patched_bytes, "patched"),
    bar("delta", "amber", (f) => f.delta_bytes, "delta")] },
  { id: "pages", title: "Pages named by the tracker", text: count, bars: [
    bar("new", "blue", (f) => f.new_pages - f.patched_pages, "plain"),
    bar("patched", "teal", (f) => f.patched_pages, "patched"),
    bar("duplicate", "violet", (f) => f.duplicate_pages, "duplicate"),
    bar("zero", "grey", (f) => f.zero_pages, "zero"),
    bar("unchanged", "pale", (f) => f.unchanged_pages, "unchanged")] },
];
const LEARNT_CHARTS = [
  { id: "births", title: "Chunks born", text: count, bars: [bar("chunks", "blue", (f) => f.born, "born")] },
  { id: "deltas", title: "Delta", text: bytes, binary: true, bars: [bar("bytes", "amber", (f) => f.delta_bytes, "delta")] },
];
const RATE_CHART = { id: "rates", title: "Rate of chunks", text: rate, binary: true, time: true, bars: [
  bar("from writers", "blue", (s) => s.writer, "writer"), bar("from other nodes", "teal", (s) => s.peers, "peers"),
  bar("received twice", "red", (s) => s.twice, "twice"), bar("sent", "violet", (s) => s.sent, "sent")] };
const BINARY_STEPS = Array.from({ length: 51 }, (_, power) => 2 ** power);
const WHOLE_STEPS = [1, 2, 5].flatMap((n) => Array.from({ length: 13 }, (_, power) => n * 10 ** power)).sort((a, b) => a - b);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Columns for uPlot. Bars are stacked by drawing the highest sum first, so the order is reversed. */
function columns(chart, rows) {
  const xs = rows.map((row) => (chart.time ? row.at : row.index));
  if (chart.time) return [xs, ...chart.bars.map((series) => rows.map(series.of))];
  let sums = rows.map(() => 0);
  const stacked = chart.bars.map((series) => (sums = sums.map((sum, at) => sum + (series.of(rows[at]) ?? 0))));
  return [xs, ...stacked.reverse()];
}
function seriesOf(chart) {
  const line = (series) => ({ stroke: colour(series.colour), width: 1.75, points: { show: false } });
  const block = (series) => ({
    fill: colour(series.colour), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.76, 26] }),
  });
  return [{}, ...(chart.time ? chart.bars.map(line) : chart.bars.map(block).reverse())];
}
function axesOf(chart) {
  const look = { stroke: colour("soft"), font: "11px system-ui, sans-serif", ticks: { show: false } };
  const x = chart.time ? { values: (_, marks) => marks.map((mark) => clock(mark * 1000)), space: 90 } : { incrs: WHOLE_STEPS };
  return [
    { ...look, ...x, grid: { show: false }, size: 26 },
    { ...look, grid: { stroke: colour("grid"), width: 1 }, size: 68, space: 34,
      incrs: chart.binary ? BINARY_STEPS : WHOLE_STEPS, values: (_, marks) => marks.map((mark) => (mark === 0 ? "0" : chart.text(mark))) },
  ];
}
function plot(chart, box) {
  const pad = chart.time ? 0 : 0.6;
  const options = {
    width: Math.max(box.clientWidth, 120), height: box.clientHeight, legend: { show: false }, axes: axesOf(chart), series: seriesOf(chart),
    padding: [8, 6, 0, 0],
    scales: { x: { time: false, range: (_, low, high) => [low - pad, high + pad] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.06 : 1] } },
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false }, sync: chart.time ? undefined : { key: "checkpoints" } },
    hooks: { setCursor: [() => readOut(chart)], draw: [(drawn) => { box.dataset.points = drawn.data[0].length; }] },
  };
  return new uPlot(options, columns(chart, []), box);
}
function addChart(chart, parent) {
  const keys = chart.bars.map((series) => make("li", { class: `c-${series.colour}` }, `${series.label} `, make("b", { "data-field": `${chart.id}-${series.field}` }, "–")));
  const box = make("div", { class: "plot", id: `plot-${chart.id}`, role: "img", "aria-label": `${chart.title}; the figures are in the tables` });
  const caption = make("figcaption", {}, make("h3", {}, chart.title), make("span", { class: "at", "data-field": `${chart.id}-at` }), make("ul", { class: "key" }, ...keys));
  parent.append(make("figure", { class: chart.wide && "wide" }, caption, box));
  plots.set(chart.id, { chart, box, rows: [], plot: plot(chart, box) });
  watcher.observe(box);
}
function removeChart(id) {
  const entry = plots.get(id);
  watcher.unobserve(entry.box);
  entry.plot.destroy();
  plots.delete(id);
}
function draw(id, rows) {
  const entry = plots.get(id);
  entry.rows = rows;
  entry.plot.setData(columns(entry.chart, rows));
  readOut(entry.chart);
}
/** Numbers above a chart: of what is pointed at, else of the latest. */
function readOut(chart) {
  const entry = plots.get(chart.id);
  if (!entry) return;
  const row = entry.rows[entry.plot.cursor.idx ?? entry.rows.length - 1];
  put(`${chart.id}-at`, !row ? "" : chart.time ? clock(row.at * 1000) : `checkpoint ${count(row.index)}`, row && !chart.time ? row.index : null);
  for (const series of chart.bars) put(`${chart.id}-${series.field}`, row ? chart.text(series.of(row)) : "–", row ? series.of(row) : null);
}
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const entry = [...plots.values()].find(({ box }) => box === target);
    if (entry && target.clientWidth > 0) entry.plot.setSize({ width: target.clientWidth, height: target.clientHeight });
  }
});
/** New colours need new plots. */
function recolour() {
  for (const entry of plots.values()) {
    entry.plot.destroy();
    entry.plot = plot(entry.chart, entry.box);
    draw(entry.chart.id, entry.rows);
  }
}

// ---- asking the node -------------------------------------------------------------------------------------------

/** The answer, or undefined; then the page says why under the name `what`. */
async function ask(what, path, body) {
  try {
    const init = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(path, { ...init, cache: "no-store", signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
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
  const status = await ask("status", "/api/v1/status");
  if (status) {
    takeStatus(status);
    state.vms = (await ask("virtual machines", "/api/v1/vms")) ?? state.vms;
    chooseSource();
    await pollTimeline();
    if (Date.now() - state.boundAt >= BOUND_EVERY_MS) await pollBound();
  }
  showFailures();
  showConnection();
  state.polling = false;
  state.polledAt = Date.now();
  state.timer = setTimeout(poll, POLL_MS);
}
function nudge() {
  if (state.polling) return;
  clearTimeout(state.timer);
  state.timer = setTimeout(poll, Math.max(0, state.polledAt + NUDGE_MS - Date.now()));
}
function takeStatus(status) {
  const restarted = state.status && (status.uptime_ms < state.status.uptime_ms || status.node !== state.status.node);
  if (restarted) Object.assign(state, { samples: [], counted: null, kept: [], source: null, chosen: false, boundAt: 0 });
  state.status = status;
  sample(status);
  showStatus(status);
}
/** A rate is what was counted since the status before, by the node's own clock. */
function sample({ uptime_ms, transfer }) {
  const before = state.counted;
  state.counted = { uptime_ms, transfer };
  const seconds = before ? (uptime_ms - before.uptime_ms) / 1000 : 0;
  if (seconds <= 0) return;
  const per = (field) => (transfer[field] - before.transfer[field]) / seconds;
  state.samples.push({
    at: Date.now() / 1000, writer: per("from_writer_bytes"), peers: per("from_peers_bytes"),
    twice: per("duplicate_bytes"), sent: per("served_bytes"),
  });
  state.samples.splice(0, state.samples.length - SAMPLES_KEPT);
  draw("rates", state.samples);
}

// ---- status ----------------------------------------------------------------------------------------------------

const PEER_COLUMNS = [
  { head: "Node", field: "node", name: true, text: (p) => short(p.node), title: (p) => p.node },
  { head: "Role", field: "role", text: (p) => p.role },
  { head: "Address", field: "address", text: (p) => p.address },
  { head: "Round trip", field: "rtt", text: (p) => micros(p.rtt_us), value: (p) => p.rtt_us },
  { head: "Chunks from it", field: "chunks-down", text: (p) => bytes(p.chunks_down_bytes), value: (p) => p.chunks_down_bytes },
  { head: "Chunks to it", field: "chunks-up", text: (p) => bytes(p.chunks_up_bytes), value: (p) => p.chunks_up_bytes },
  { head: "Metadata from it", field: "objects-down", text: (p) => bytes(p.objects_down_bytes), value: (p) => p.objects_down_bytes },
  { head: "Metadata to it", field: "objects-up", text: (p) => bytes(p.objects_up_bytes), value: (p) => p.objects_up_bytes },
  { head: "Its rate, estimated", field: "rate", text: (p) => rate(p.rate_bytes_per_s), value: (p) => p.rate_bytes_per_s },
];
const LINEAGE_COLUMNS = [
  { head: "Lineage", field: "lineage", name: true, text: (l) => short(l.lineage), title: (l) => l.lineage },
  { head: "Writer", field: "writer", name: true, text: (l) => (l.own ? "this node" : short(l.writer)), title: (l) => l.writer },
  { head: "Branches from", field: "parent", name: true, text: (l) => (l.parent ? `${short(l.parent.lineage)} at ${l.parent.index}` : "–"), title: (l) => l.parent?.lineage },
  { head: "RAM", field: "ram", text: (l) => bytes(l.pages * 4096), value: (l) => l.pages * 4096 },
  { head: "Interval", field: "interval", text: (l) => `${count(l.interval_ms)} ms`, value: (l) => l.interval_ms },
  { head: "Latest", field: "latest", text: (l) => count(l.latest), value: (l) => l.latest },
  { head: "Held whole", field: "held", text: (l) => count(l.held), value: (l) => l.held },
  { head: "Chunks born", field: "births", text: (l) => count(l.births), value: (l) => l.births },
];
function showStatus(status) {
  put("version", status.version);
  put("node", short(status.node));
  put("swarm", short(status.swarm));
  put("role", status.role);
  put("data-address", status.data_address);
  put("member-until", new Date(status.member_until_unix_s * 1000).toISOString().slice(0, 10));
  put("uptime", duration(status.uptime_ms), status.uptime_ms);
  put("peers", count(status.peers.length), status.peers.length);
  const roundTrips = status.peers.map((peer) => peer.rtt_us);
  put("peers-note", roundTrips.length ? `round trip ${micros(median(roundTrips))}, median` : "none connected");
  table("peers", PEER_COLUMNS, status.peers, (peer) => peer.node);
  $("peers-empty").hidden = status.peers.length > 0;
  table("lineages", LINEAGE_COLUMNS, status.lineages, (lineage) => lineage.lineage);
  $("lineages-empty").hidden = status.lineages.length > 0;
  showStore(status.store);
  showTransfer(status.transfer);
}
function showStore(store) {
  put("store-chunks", count(store.chunks), store.chunks);
  put("store-note", `${bytes(store.decoded_bytes)} in ${bytes(store.stored_bytes)}`);
  put("store-decoded", bytes(store.decoded_bytes), store.decoded_bytes);
  put("store-stored", `${bytes(store.stored_bytes)} (${ratio(store.stored_bytes, store.decoded_bytes)})`, store.stored_bytes);
  put("store-packs", bytes(store.pack_bytes), store.pack_bytes);
  put("store-quota", store.quota_bytes == null ? "none" : bytes(store.quota_bytes), store.quota_bytes);
  put("store-duplicates", count(store.duplicates), store.duplicates);
  put("store-bad", count(store.bad_chunks), store.bad_chunks, store.bad_chunks > 0);
}
function showTransfer(transfer) {
  const sizes = ["from_writer", "from_peers", "duplicate", "served", "objects_down", "objects_up"];
  for (const name of sizes) put(name.replace("_", "-"), bytes(transfer[`${name}_bytes`]), transfer[`${name}_bytes`]);
  const counts = ["checkpoints_fetched", "deferred_chunks", "timed_out_requests"], alarms = ["corrupt_chunks", "refused_records"];
  for (const name of counts) put(name.replaceAll("_", "-"), count(transfer[name]), transfer[name]);
  for (const name of alarms) put(name.replaceAll("_", "-"), count(transfer[name]), transfer[name], transfer[name] > 0);
}

// ---- distance from the bound -----------------------------------------------------------------------------------

/** Bytes of the births of each lineage, summed, or null if the node did not answer for one. */
async function total(lineages, rangesOf) {
  let sum = 0;
  for (const lineage of lineages) {
    const ranges = await rangesOf(lineage);
    if (!ranges) return null;
    if (ranges.length === 0) continue;
    const answer = await ask("bound", `/api/v1/lineages/${lineage.lineage}/bytes`, { ranges });
    if (!answer) return null;
    sum += answer.bytes;
  }
  return sum;
}
async function pollBound() {
  state.boundAt = Date.now();
  const { transfer, lineages } = state.status;
  if (lineages.length > BOUND_LINEAGES_MAX) return; // Too many questions for a page.
  const lacked = await total(lineages, async (l) => (await ask("bound", `/api/v1/lineages/${l.lineage}/lacked`))?.ranges);
  const born = await total(lineages.filter((l) => l.own && l.births > 0), async (l) => [[0, l.births]]);
  if (lacked == null || born == null) return;
  const received = transfer.from_writer_bytes + transfer.from_peers_bytes;
  put("received-ratio", ratio(received, lacked), lacked > 0 ? received / lacked : null);
  put("received-bytes", bytes(received), received);
  put("lacked-bytes", bytes(lacked), lacked);
  put("sent-ratio", ratio(transfer.served_bytes, born), born > 0 ? transfer.served_bytes / born : null);
  put("sent-bytes", bytes(transfer.served_bytes), transfer.served_bytes);
  put("born-bytes", bytes(born), born);
  $("bound-received").hidden = lacked === 0;
  $("bound-sent").hidden = born === 0;
  $("bound-empty").hidden = lacked + born > 0;
}

// ---- the timeline ----------------------------------------------------------------------------------------------

const number = (head, field, text, value) => ({ head, field, text: (f) => text(value(f)), value });
const INDEX_COLUMN = number("Checkpoint", "index", count, (f) => f.index);
const VM_COLUMNS = [
  INDEX_COLUMN, number("Downtime", "downtime", micros, (f) => f.downtime_us), number("Interval", "interval", micros, (f) => f.interval_us),
  number("Dirty pages", "dirty", count, (f) => f.dirty_pages), number("New", "new", count, (f) => f.new_pages),
  number("Patched", "patched", count, (f) => f.patched_pages), number("Duplicate", "duplicate", count, (f) => f.duplicate_pages),
  number("Zero", "zero", count, (f) => f.zero_pages), number("Unchanged", "unchanged", count, (f) => f.unchanged_pages),
  number("Chunk bytes", "new-bytes", bytes, (f) => f.new_bytes), number("Delta", "delta", bytes, (f) => f.delta_bytes),
  number("Published in", "publish", micros, (f) => f.publish_us),
];
const LEARNT_COLUMNS = [
  INDEX_COLUMN, { head: "Taken", field: "taken", text: (c) => clock(c.taken_unix_ms) }, number("Chunks born", "born", count, (c) => c.born),
  number("Delta", "delta", bytes, (c) => c.delta_bytes), number("Keyframe", "keyframe", count, (c) => c.keyframe),
  { head: "State root", field: "state-root", name: true, text: (c) => c.state_root.slice(0, 16), title: (c) => c.state_root },
];
/** What a timeline can be of: this node's VMs, the running and latest first, then lineages of others. */
function sources() {
  const vms = [...state.vms].sort((a, b) => (a.ended != null) - (b.ended != null) || b.vm - a.vm);
  const written = new Set(vms.map((vm) => vm.lineage));
  const learnt = state.status.lineages.filter((l) => !written.has(l.lineage) && l.latest != null).sort((a, b) => b.latest - a.latest);
  return [
    ...vms.map((vm) => ({ id: `vm ${vm.vm}`, vm: vm.vm, lineage: vm.lineage, text: `VM ${vm.vm}, lineage ${short(vm.lineage)}, ${vm.ended ?? "running"}` })),
    ...learnt.map((l) => ({ id: l.lineage, lineage: l.lineage, text: `lineage ${short(l.lineage)} of ${l.own ? "this node" : short(l.writer)}` })),
  ];
}
function chooseSource() {
  const all = sources(), same = (source) => source.id === state.source?.id;
  const source = (state.chosen && all.find(same)) || all[0];
  if (source && !same(source)) useSource(source);
  if (source && changed("sources", [all, source.id])) {
    $("source").replaceChildren(...all.map((s) => make("option", { value: s.id }, s.text)));
    $("source").value = source.id;
  }
}
function useSource(source) {
  for (const { id } of [...VM_CHARTS, ...LEARNT_CHARTS]) if (plots.has(id)) removeChart(id);
  $("timeline-charts").replaceChildren();
  Object.assign(state, { source, kept: [] });
  for (const chart of source.vm == null ? LEARNT_CHARTS : VM_CHARTS) addChart(chart, $("timeline-charts"));
}
async function pollTimeline() {
  const source = state.source;
  if (source) {
    const latest = state.status.lineages.find((l) => l.lineage === source.lineage)?.latest ?? 0;
    const from = state.kept.length ? state.kept.at(-1).index + 1 : Math.max(0, latest + 1 - CHECKPOINTS_KEPT);
    const path = source.vm == null ? `/api/v1/lineages/${source.lineage}/checkpoints` : `/api/v1/vms/${source.vm}`;
    const answer = await ask("checkpoints", `${path}?from=${from}`);
    if (!answer || state.source !== source) return;
    for (const row of answer.checkpoints ?? answer) keep(row);
    state.kept.splice(0, state.kept.length - CHECKPOINTS_KEPT);
  }
  showTimeline();
}
function keep(row) {
  const before = state.kept.at(-1);
  if (row.births != null) row.born = row.index === 0 ? row.births : before?.index === row.index - 1 ? row.births - before.births : null;
  state.kept.push(row);
}
function showTimeline() {
  const { source, kept } = state, rows = kept.slice(-Number($("range").value)), ofVm = source?.vm != null;
  $("timeline-empty").hidden = rows.length > 0;
  $("timeline-charts").hidden = rows.length === 0;
  table("checkpoints", ofVm ? VM_COLUMNS : LEARNT_COLUMNS, kept.slice(-CHECKPOINTS_LISTED).reverse(), (row) => row.index);
  if (!rows.length || !changed("timeline", [source.id, rows[0].index, rows.at(-1).index])) return;
  for (const { id } of ofVm ? VM_CHARTS : LEARNT_CHARTS) draw(id, rows);
  const last = rows.at(-1);
  put("latest-checkpoint", count(last.index), last.index);
  put("latest-note", `of lineage ${short(source.lineage)}, ${clock(last.taken_unix_ms)}`);
  showTiles(rows.length > 1 ? rows.filter((row) => row.index > 0) : rows, ofVm);
}
/** The first checkpoint holds all of RAM, so it is left out of medians. */
function showTiles(rows, ofVm) {
  const pace = rows.map((row, at) => (ofVm ? row.downtime_us : at && (row.taken_unix_ms - rows[at - 1].taken_unix_ms) * 1000)).slice(ofVm ? 0 : 1);
  const cost = rows.map((row) => (ofVm ? row.new_bytes + row.delta_bytes : row.delta_bytes));
  put("pace-label", ofVm ? "Downtime, median" : "Interval, median");
  put("pace", micros(median(pace)), median(pace));
  put("pace-note", pace.length ? `at most ${micros(Math.max(...pace))} in ${count(pace.length)}` : "");
  put("cost-label", ofVm ? "Published, median" : "Delta, median");
  put("cost", bytes(median(cost)), median(cost));
  put("cost-note", ofVm ? `a checkpoint, from ${count(median(rows.map((row) => row.dirty_pages)))} dirty pages` : "a checkpoint");
}

// ---- events ----------------------------------------------------------------------------------------------------

const at = (e) => `${short(e.lineage)} at ${count(e.index)}`;
const EVENTS = {
  connected: ["connected", (e) => short(e.peer), "good"], disconnected: ["disconnected", (e) => `${short(e.peer)}: ${e.why}`],
  connection_refused: ["connection refused", (e) => e.why, "bad"], record_refused: ["record refused", (e) => e.why, "bad"],
  peer_banned: ["peer banned", (e) => `${short(e.peer)}: ${e.why}`, "bad"],
  chunk_corrupt: ["corrupt chunk", (e) => `birth ${e.birth} of ${short(e.lineage)} from ${short(e.peer)}`, "bad"],
  chunk_bad: ["bad chunk", (e) => `${short(e.hash)}: ${e.why}`, "bad"],
  checkpoint_learnt: ["checkpoint learnt", at], checkpoint_taken: ["checkpoint taken", (e) => `${at(e)}, downtime ${micros(e.downtime_us)}`],
  checkpoint_held: ["checkpoint held", (e) => `${at(e)}, in ${count(e.took_ms)} ms`, "good"],
  vm_started: ["vm started", (e) => `vm ${e.vm}, lineage ${short(e.lineage)}`, "good"],
  vm_report: ["guest reports", (e) => `vm ${e.vm}: ${count(e.counter)} pages dirtied, ${count(e.passes)} self-checks`],
  vm_ended: ["vm ended", (e) => `vm ${e.vm}: ${e.why}`], store_trouble: ["store trouble", (e) => e.why, "bad"],
};
function takeEvent(message) {
  const event = JSON.parse(message.data);
  // Guests report often: only the latest report of each is of interest.
  if (event.event === "vm_report") state.events = state.events.filter((e) => e.event !== "vm_report" || e.vm !== event.vm);
  state.events.unshift(event);
  state.events.splice(EVENTS_SHOWN);
  requestAnimationFrame(showEvents);
  if (event.event !== "vm_report") nudge();
}
function showEvents() {
  if (!changed("events", state.events.map((e) => e.number))) return;
  $("events-empty").hidden = state.events.length > 0;
  $("events").replaceChildren(...state.events.map((event) => {
    const [what, about, tone] = EVENTS[event.event] ?? [event.event, () => ""];
    return make("li", { "data-event": event.event, "data-number": event.number },
      make("time", { datetime: new Date(event.unix_ms).toISOString() }, clock(event.unix_ms)),
      make("span", { class: "what", "data-tone": tone }, what), make("span", { class: "about" }, about(event)));
  }));
}
function listen() {
  const stream = new EventSource("/api/v1/events");
  const say = (name) => { state.stream = name; showConnection(); };
  // The node tells what it kept to everyone who connects, so a new stream starts from nothing.
  stream.onopen = () => { state.events = []; say("open"); };
  stream.onmessage = takeEvent;
  stream.onerror = () => {
    say("lost");
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
}

addChart(RATE_CHART, $("rate-charts"));
$("source").addEventListener("change", (change) => {
  state.chosen = true;
  useSource(sources().find((source) => source.id === change.target.value) ?? state.source);
  nudge();
});
$("range").addEventListener("change", showTimeline);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
listen();
poll();
