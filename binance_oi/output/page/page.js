/* The script of the page of the service, and of a report.
   The rule of this file: the page has one state, and redraws each part whose state changed. A report
   contains its state as a block of JSON. The live page builds the same state from the answers of the
   service's routes `events`, `changes` and `history`. format.js formats numbers and dates, and
   chart.js draws the chart. */
"use strict";

const WINDOWS = { "5m": 3e5, "1h": 36e5, "4h": 144e5, "24h": 864e5 }; // ms
const RANGES = { "1h": 36e5, "4h": 144e5, "1d": 864e5, "7d": 6048e5, "30d": 2592e6, all: 0 };
const FIRST_ROWS = 100; // the table shows more only after "Show all", because drawing many rows is slow
const TREND_SPAN = 864e5; // ms; how much time a trend covers
const TREND_POINTS = 60;
const MOST_VALUES = 20e3; // values of each symbol; the page drops older ones
const MOST_LISTED = 2000; // rows in each table below the chart
const MOST_GAPS = 500;
const DOLLARS = /(USDT|USDC|USD|FDUSD|BUSD|USD1)$/; // the quote assets that count as USD; as in movers.py
const RETRY = [1000, 2000, 4000, 8000, 15000]; // ms until the next attempt to connect
const CHANGES_EVERY = 60e3; // ms between two requests for `changes`
const FILLING = 3e3; // ms until the next request for `changes`, while the service still reads its recording
const STALE_AFTER = 3; // periods without a sweep, after which the page says "stale"
const LINK_AFTER = 300; // ms; a browser refuses to change the page's address too often
const SPOKEN_AFTER = 400; // ms after the last key, until a screen reader speaks the values
const COLUMNS = [
  ["symbol", "Symbol"], ["size", "Open interest"], ...Object.keys(WINDOWS).map((name) => [name, name]),
  ["z", "z 1h"], ["age", "Age"], ["trend", "Trend"],
];

const DETAILS = ["values", "gaps"];
const HELD = ["overrun", "late", "limited", "budget", "clock"]; // reasons that are no faults
const DEFAULTS = {
  symbol: "", sort: "size", down: true, find: "", unit: "usd", range: "1d", pins: [], all: false,
  view: null, // the chart's visible span, [first, last] in ms; null for its whole range
  open: [], // the entries of DETAILS that the user has opened
};

const state = {
  head: null, // {source, every, budget}
  sweep: null, // {slot, next_slot, asked, read}
  rows: new Map(), // from a symbol to {symbol, coins, usd, time, changes, z, trend: [[time, coins]]}
  gaps: [], // {first, last, reason}, in ms; `last` is the end of the last slot
  series: new Map(), // from a symbol to {times, values, usd, holes}
  link: { ...DEFAULTS },
  live: "connecting", // or "live", "stale", "gone"; "still" in a report
  since: null, // when the page became live, Unix ms
};
const still = document.getElementById("still"); // the element with a report's state; null on the live page
const $ = (name) => document.getElementById(name);
// -- the link: what the user has chosen, as a part of the page's address ---------------------------

let defaults = DEFAULTS; // a report replaces them

function readLink() {
  const found = new URLSearchParams(location.hash.slice(1));
  const among = (name, names, other) => (names.includes(found.get(name)) ? found.get(name) : other);
  const words = (name) => (found.get(name) || "").split(",").filter(Boolean).slice(0, 50);
  const view = (found.get("view") || "").split("-").map((seconds) => Number(seconds) * 1000);
  Object.assign(state.link, {
    symbol: (found.get("s") || state.link.symbol || defaults.symbol).slice(0, 40),
    sort: among("sort", COLUMNS.map(([key]) => key), defaults.sort),
    down: !found.has("up"),
    find: (found.get("q") || "").slice(0, 32),
    unit: among("unit", ["usd", "coins"], defaults.unit),
    range: among("range", Object.keys(RANGES), defaults.range),
    pins: words("pin"),
    all: found.has("all"),
    view: view.length === 2 && view[0] > 0 && view[0] < view[1] && view[1] < 2e14 ? view : null,
    open: words("open").filter((name) => DETAILS.includes(name)),
  });
}

let linkTimer = null;

/** Write the link after a delay, so that many changes cause one write. */
function saveLink() {
  linkTimer ??= setTimeout(writeLink, LINK_AFTER);
}

function writeLink() {
  clearTimeout(linkTimer);
  linkTimer = null;
  const { symbol, sort, down, find, unit, range, pins, all, view, open } = state.link;
  const parts = new URLSearchParams({ s: symbol, sort, unit, range });
  if (!down) parts.set("up", "");
  if (find) parts.set("q", find);
  if (pins.length) parts.set("pin", pins.join(","));
  if (all) parts.set("all", "");
  if (view) parts.set("view", view.map((time) => Math.round(time / 1000)).join("-"));
  if (open.length) parts.set("open", open.join(","));
  if (location.hash !== `#${parts}`) history.replaceState(null, "", `#${parts}`);
}

// -- the market ------------------------------------------------------------------------------------

/** Whether the table shows USD. Without any price it shows coins, or the column would be empty. */
function isInUsd() {
  return state.link.unit === "usd" && [...state.rows.values()].some((row) => row.usd);
}

function sizeOf(row, inUsd) {
  return inUsd ? row.usd ?? null : row.coins;
}

function keyOf(row, key, inUsd) {
  if (key === "symbol") return row.symbol;
  if (key === "size") return sizeOf(row, inUsd);
  if (key === "age") return -row.time;
  if (key === "z") return row.z ?? null;
  if (key === "trend") return row.trend.length > 1 ? row.trend.at(-1)[1] / row.trend[0][1] : null;
  return row.changes[key] ?? null;
}

/** The rows that match the search, sorted: pinned rows first, rows without a value last. */
function chosenRows() {
  const { sort, down, find, pins } = state.link;
  const wanted = find.trim().toUpperCase();
  const pinned = new Set(pins);
  const rows = [...state.rows.values()].filter((row) => row.symbol.toUpperCase().includes(wanted));
  const sign = down ? -1 : 1;
  const inUsd = isInUsd();
  return rows.sort((a, b) => {
    const byPin = pinned.has(b.symbol) - pinned.has(a.symbol);
    const [left, right] = [keyOf(a, sort, inUsd), keyOf(b, sort, inUsd)];
    if (byPin) return byPin;
    if (left === null || right === null) return (left === null) - (right === null);
    const order = left < right ? -1 : Number(left > right);
    return order * sign || (a.symbol < b.symbol ? -1 : 1);
  });
}

let isHovered = false; // while the pointer is over the table, its rows keep their places
let order = []; // the symbols in the order of the table
const shownRows = new Map(); // from a symbol to its row of the table and the texts of that row

let shownInUsd = false;

function drawHead() {
  shownInUsd = isInUsd();
  const { sort, down } = state.link;
  const cells = COLUMNS.map(([key, name]) => {
    const title = key === "size" ? `${name}, ${shownInUsd ? "USD" : "coins"}` : name;
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => {
      state.link.down = sort === key ? !down : key !== "symbol";
      state.link.sort = key;
      drawMarket(true);
      drawHead();
      $("rows").tHead.rows[0].cells[COLUMNS.findIndex(([each]) => each === key)].firstChild.focus();
    });
    const direction = key === sort ? (down ? "descending" : "ascending") : "none";
    return make("th", { scope: "col", "aria-sort": direction, class: classOf(key) }, button);
  });
  $("rows").tHead.replaceChildren(make("tr", {}, ...cells));
}

function classOf(key) {
  if (key === "symbol") return null;
  return key === "trend" ? key : `n ${key}`;
}

function drawMarket(moves = false) {
  saveLink();
  if (isInUsd() !== shownInUsd) drawHead();
  const rows = chosenRows();
  const body = $("rows").tBodies[0];
  const limit = state.link.all ? Infinity : FIRST_ROWS;
  const isHeld = isHovered || body.querySelector(":focus-visible"); // the pointer or the focus is on a row
  if (moves || !isHeld) order = rows.slice(0, limit).map((row) => row.symbol);
  const wanted = order.filter((symbol) => state.rows.has(symbol)).map(drawRow);
  const kept = new Set(wanted);
  for (const [symbol, shown] of shownRows) {
    if (!kept.has(shown.element)) {
      shown.element.remove();
      shownRows.delete(symbol);
    }
  }
  const focused = document.activeElement;
  wanted.forEach((element, index) => {
    if (body.children[index] !== element) body.insertBefore(element, body.children[index] || null);
  });
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
  $("shown").textContent = rows.length || !state.link.find
    ? `${wanted.length} of ${counted(rows.length, "symbol")}` : "no symbol matches";
  if (state.sweep && !rows.some((row) => Object.keys(row.changes).length)) {
    $("shown").textContent += "; changes appear after 5 minutes, and sooner from a recording";
  }
  $("all").hidden = rows.length <= FIRST_ROWS;
  $("all").textContent = state.link.all ? `Show ${FIRST_ROWS}` : "Show all";
}

/** Update the row of a symbol; write only the cells whose text has changed. */
function drawRow(symbol) {
  const row = state.rows.get(symbol);
  let shown = shownRows.get(symbol);
  if (!shown) {
    shown = newRow(symbol);
    shownRows.set(symbol, shown);
  }
  write(shown, "size", short(sizeOf(row, shownInUsd)));
  for (const name of Object.keys(WINDOWS)) write(shown, name, percent(row.changes[name]), toneOf(row.changes[name]));
  write(shown, "z", signed(row.z), toneOf(row.z));
  write(shown, "age", row.time ? age(row.time) : NONE);
  drawTrend(shown, row.trend);
  shown.element.classList.toggle("chosen", symbol === state.link.symbol);
  const isPinned = state.link.pins.includes(symbol);
  shown.pin.setAttribute("aria-pressed", isPinned);
  shown.pin.textContent = isPinned ? "★" : "☆";
  return shown.element;
}

function newRow(symbol) {
  const pin = make("button", { type: "button", class: "pin", "aria-label": `Pin ${symbol}` });
  const name = make("button", { type: "button", title: symbol }, symbol);
  pin.addEventListener("click", () => {
    const pins = state.link.pins;
    state.link.pins = pins.includes(symbol) ? pins.filter((each) => each !== symbol) : [...pins, symbol];
    drawMarket(true);
  });
  name.addEventListener("click", () => {
    choose(symbol);
    const isBelow = $("symbol").getBoundingClientRect().top > innerHeight - 200; // on a narrow page
    if (isBelow) $("symbol").scrollIntoView();
  });
  const cells = Object.fromEntries(COLUMNS.slice(1).map(([key]) => [key, make("td", { class: classOf(key) })]));
  const element = make("tr", {}, make("th", { scope: "row" }, pin, name), ...Object.values(cells));
  return { element, pin, cells, texts: {} };
}

function write(shown, key, text, tone = "") {
  if (shown.texts[key] === text + tone) return;
  shown.texts[key] = text + tone;
  shown.cells[key].textContent = text;
  shown.cells[key].className = `${classOf(key)} ${tone}`;
}

function drawTrend(shown, trend) {
  const path = pathOf(trend);
  if (shown.texts.trend === path) return;
  shown.texts.trend = path;
  if (!shown.line) {
    shown.line = draw("path", { class: "line" });
    shown.cells.trend.append(draw("svg", { viewBox: "0 0 120 22", "aria-hidden": "true" }, shown.line));
  }
  shown.line.setAttribute("d", path);
}

function pathOf(trend) {
  if (trend.length < 2) return "";
  const values = trend.map(([, value]) => value);
  const low = Math.min(...values), high = Math.max(...values), first = trend[0][0];
  const scale = 18 / (high - low || 1), wide = 120 / (trend.at(-1)[0] - first || 1);
  return `M${trend.map(([time, value]) => {
    return `${((time - first) * wide).toFixed(1)} ${(2 + (high - value) * scale).toFixed(1)}`;
  }).join("L")}`;
}

function age(time) {
  const seconds = Math.max(0, Math.round((now() - time) / 1000));
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** The present time; in a report, the time of its last sample. */
function now() {
  return state.made || Date.now();
}

// -- the head --------------------------------------------------------------------------------------

function drawFacts() {
  const facts = still ? state.facts : liveFacts();
  $("facts").replaceChildren(...facts.map(([name, value, note, picture]) => {
    const parts = [make("dt", {}, name), make("dd", {}, value)];
    if (note) parts.push(make("dd", { class: "note" }, note));
    if (picture) parts.at(-1).append(picture);
    return make("div", {}, ...parts);
  }));
}

/** The facts at the top of the page: each is a list of a name, a value, a note and a picture. */
function liveFacts() {
  const { sweep, head } = state;
  const facts = totals();
  if (sweep) facts.push(["Symbols", `${grouped.format(sweep.read)} of ${grouped.format(sweep.asked)}`, "read"]);
  if (head?.budget) facts.push(...budgetFacts(head.budget));
  if (sweep?.next_slot) facts.push(["Next slot", clock(sweep.next_slot).slice(11), `UTC; last ${clock(sweep.slot).slice(11)}`]);
  if (head?.source) facts.push(["Source", head.source, head.every ? `every ${head.every} s` : ""]);
  return facts;
}

function totals() {
  const usd = [...state.rows.values()].reduce((sum, row) => sum + (row.usd || 0), 0);
  if (!usd) return state.sweep ? [["Total, USD", NONE, "needs serve --notional"]] : [];
  const facts = [["Total, USD", short(usd)]];
  for (const name of ["BTC", "ETH"]) {
    const row = state.rows.get(`${name}USDT`);
    if (row?.usd) facts.push([`Total, ${name}`, short(usd / (row.usd / row.coins))]);
  }
  return facts;
}

function budgetFacts({ limit, charged, others, remaining, held_until, banned_until }) {
  const part = (from, size, kind) => {
    return draw("rect", { x: 100 * from / limit, width: 100 * size / limit, height: 4, class: kind });
  };
  const bar = draw("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    part(0, limit, "free"), part(0, charged, "ours"), part(charged, others, "others"));
  const [free, ours, theirs] = [remaining, charged, others].map((weight) => grouped.format(weight));
  const facts = [["Budget", `${free} free`, `ours ${ours}, others ${theirs}`, bar]];
  const end = banned_until || held_until;
  if (end) facts.push([banned_until ? "Banned until" : "Cooldown until", dayTime(end), "nothing is sent"]);
  return facts;
}

function drawStatus() {
  const status = $("status"), { sweep } = state;
  if (still) {
    return; // a report contains its status as text
  }
  const period = (state.head?.every || 60) * 1000;
  if (state.live === "live" && sweep && Date.now() - sweep.slot > STALE_AFTER * period) state.live = "stale";
  const last = sweep ? dayTimeOrDate(sweep.slot) : "";
  // A screen reader speaks each change, so we write the text only if it differs.
  const text = {
    connecting: "connecting",
    live: `live since ${dayTimeOrDate(state.since)}`,
    stale: `stale since ${last}`,
    gone: `not connected${last && `; last values of ${last}`}`,
  }[state.live];
  if (status.textContent !== text) status.textContent = text;
  if (status.className !== state.live) status.className = state.live;
}

function dayTimeOrDate(time) {
  return Date.now() - time < 72e6 ? dayTime(time) : `${clock(time)} UTC`;
}

// -- one symbol ------------------------------------------------------------------------------------

const chart = new Chart($("chart"), moved);
const NOTHING = { times: [], values: [], usd: [], holes: [] };

async function choose(symbol) {
  state.link.symbol = symbol;
  for (const [name, shown] of shownRows) shown.element.classList.toggle("chosen", name === symbol);
  saveLink();
  drawSymbol();
  if (!still) await readPast(symbol);
}

/** The values of a symbol; in a report without them, the values of its trend. */
function seriesOf(symbol) {
  const found = state.series.get(symbol), trend = state.rows.get(symbol)?.trend;
  if (found || !still || !trend) return found || NOTHING;
  return { ...NOTHING, times: trend.map(([time]) => time), values: trend.map(([, coins]) => coins) };
}

/** The longest view of the chart: the chosen range, or more if the link's view begins earlier. */
function wholeOf(series) {
  const last = series.times.at(-1) || now();
  const span = RANGES[state.link.range] || last - (series.times[0] || last - RANGES["1d"]);
  return [Math.min(last - span, state.link.view?.[0] ?? last), last];
}

/** Draw the chosen symbol, with the view of the link. If `follows` is set, keep the chart's view. */
function drawSymbol(follows = false) {
  const { symbol, view } = state.link;
  document.querySelector(".panes").classList.toggle("two", Boolean(symbol));
  $("symbol").hidden = !symbol;
  if (!symbol) return;
  $("symbol-name").textContent = symbol;
  $("chart").setAttribute("aria-label", `Open interest of ${symbol} over time`);
  const series = seriesOf(symbol);
  const lines = [{ name: "open interest", colour: "line", times: series.times, values: series.values }];
  if (series.usd.some((value) => value)) {
    const price = series.values.map((value, index) => (value && series.usd[index] ? series.usd[index] / value : NaN));
    lines.push({ name: "mark price", colour: "price", times: series.times, values: price });
  }
  chart.show(lines, gapsOf(symbol), wholeOf(series), follows);
  if (!follows && view) chart.view = [...view];
  chart.clamp();
  state.link.view = chart.zoomed ? [...chart.view] : null;
  drawRanges();
  drawDetails();
  drawReading();
}

/** The gaps of the service and the holes in the past of a symbol, sorted and without repetitions. */
function gapsOf(symbol) {
  const found = new Map();
  for (const gap of [...state.gaps, ...state.series.get(symbol)?.holes || []]) {
    const colour = HELD.includes(gap.reason) ? "held" : { stopped: "stop", storage: "store" }[gap.reason] || "gap";
    found.set(`${gap.first} ${gap.reason}`, { ...gap, colour });
  }
  return [...found.values()].sort((a, b) => a.first - b.first);
}

function drawRanges() {
  const { range, view } = state.link;
  const shown = Object.keys(RANGES).map((name) => {
    const button = make("button", { type: "button", "aria-pressed": String(name === range && !view) }, name);
    button.addEventListener("click", () => {
      Object.assign(state.link, { range: name, view: null });
      saveLink();
      drawSymbol();
      if (!still) readPast(state.link.symbol);
      $("ranges").children[Object.keys(RANGES).indexOf(name)].focus();
    });
    return button;
  });
  $("ranges").replaceChildren(...shown);
}

let spokenTimer = null;
let detailsTimer = null;

/** Update the page after a move of the chart's view or crosshair. */
function moved() {
  const view = chart.zoomed ? [...chart.view] : null;
  drawReading();
  clearTimeout(spokenTimer);
  if (chart.at !== null && !chart.pointed) {
    spokenTimer = setTimeout(() => { $("spoken").textContent = $("reading").textContent; }, SPOKEN_AFTER);
  }
  if (String(view) === String(state.link.view)) return;
  state.link.view = view;
  saveLink();
  for (const button of $("ranges").children) {
    button.setAttribute("aria-pressed", String(button.textContent === state.link.range && !view));
  }
  clearTimeout(detailsTimer);
  detailsTimer = setTimeout(drawDetails, LINK_AFTER);
}

/** Write the values at the crosshair beside the name; without a crosshair, the latest values. */
function drawReading() {
  const reading = chart.reading || latest();
  const [coins, price] = reading.values.map(({ value }) => value);
  const parts = reading.values.map(({ name, colour, value }) => {
    return make("span", {}, make("i", { class: `key ${colour}` }), `${name} `, make("b", {}, full(value)));
  });
  if (isKnown(coins * price)) parts.splice(1, 0, make("span", {}, make("b", {}, short(coins * price)), " USD"));
  if (reading.time) parts.push(make("span", { class: "quiet" }, `${clock(reading.time)} UTC`));
  if (reading.gap) parts.push(make("span", { class: "down" }, `gap: ${reading.gap}`));
  $("reading").replaceChildren(...parts.flatMap((part) => [part, " "]));
}

/** The latest values, in the form of `chart.reading`. */
function latest() {
  const row = state.rows.get(state.link.symbol);
  const values = [{ name: "open interest", colour: "line", value: row ? row.coins : NaN }];
  if (row?.usd && row.coins) values.push({ name: "mark price", colour: "price", value: row.usd / row.coins });
  return { time: row?.time, values, gap: null };
}

function drawDetails() {
  drawValues();
  drawGaps();
}

/** List the values in the view of the chart, the newest first. */
function drawValues() {
  const series = seriesOf(state.link.symbol), [first, last] = chart.view;
  const shown = series.times.map((time, index) => index)
    .filter((index) => series.times[index] >= first && series.times[index] <= last).reverse();
  const count = counted(shown.length, "value");
  $("values").firstChild.textContent = shown.length > MOST_LISTED
    ? `Values (the newest ${grouped.format(MOST_LISTED)} of ${count} in the chart)` : `${count} in the chart`;
  if (!$("values").open) return;
  const rows = shown.slice(0, MOST_LISTED).map((index) => {
    return [clock(series.times[index]), full(series.values[index]), full(series.usd[index] || null)];
  });
  fill($("values"), ["Time, UTC", "Coins", "USD"], rows, [1, 2]);
}

function drawGaps() {
  const gaps = gapsOf(state.link.symbol).reverse();
  $("gaps").firstChild.textContent = counted(gaps.length, "gap");
  if (!$("gaps").open) return;
  const rows = gaps.slice(0, MOST_LISTED).map((gap) => {
    return [clock(gap.first), clock(gap.last), gap.reason];
  });
  fill($("gaps"), ["From, UTC", "To, UTC", "Reason"], rows, []);
}

function fill(details, head, rows, numbers) {
  const table = details.querySelector("table");
  const kind = (index) => (numbers.includes(index) ? "n" : null);
  const titles = head.map((text, index) => make("th", { scope: "col", class: kind(index) }, text));
  table.tHead.replaceChildren(make("tr", {}, ...titles));
  table.tBodies[0].replaceChildren(...rows.map((row) => {
    return make("tr", {}, ...row.map((text, index) => make("td", { class: kind(index) }, text)));
  }));
}

/** Request the past of a symbol. The shorter the range, the shorter the period of the values. */
async function readPast(symbol) {
  const [first] = wholeOf(NOTHING);
  const span = Math.min(RANGES["30d"], state.link.range === "all" ? Infinity : now() - first);
  const [period, step] = span <= RANGES["1d"] ? ["5m", 3e5] : span <= RANGES["7d"] ? ["30m", 18e5] : ["2h", 72e5];
  const query = new URLSearchParams({ period, since: String(Math.round(Date.now() - span)), decimal: "number" });
  let answer;
  try {
    const response = await fetch(`history/${encodeURIComponent(symbol)}?${query}`);
    if (!response.ok) throw new Error(String(response.status));
    answer = await response.json();
  } catch {
    answer = { rows: [], holes: [] };
  }
  const known = state.series.get(symbol) || NOTHING;
  const from = answer.rows.length ? answer.rows.at(-1).time : 0;
  const later = known.times.map((time, index) => index).filter((index) => known.times[index] > from);
  state.series.set(symbol, {
    times: [...answer.rows.map((row) => row.time), ...later.map((index) => known.times[index])],
    values: [...answer.rows.map((row) => Number(row.open_interest)), ...later.map((index) => known.values[index])],
    usd: [...answer.rows.map((row) => Number(row.notional ?? 0)), ...later.map((index) => known.usd[index])],
    holes: answer.holes.map((hole) => ({ ...hole, last: hole.last + step })),
  });
  addToSeries(symbol);
  if (symbol === state.link.symbol) drawSymbol();
}

// -- the stream ------------------------------------------------------------------------------------

let source = null;
let attempts = 0;
let timer = null;

/** Open the stream. After an error, our timer reconnects: a 503 ends an EventSource for ever. */
function connect() {
  clearTimeout(timer);
  disconnect();
  if (document.hidden) return; // a browser allows all tabs of a host together six connections
  source = new EventSource("events?head=true&decimal=number");
  source.addEventListener("open", () => { attempts = 0; });
  source.addEventListener("error", () => {
    disconnect();
    state.live = "gone";
    drawStatus();
    timer = setTimeout(connect, RETRY[Math.min(attempts++, RETRY.length - 1)]);
  });
  source.addEventListener("state", (event) => take(JSON.parse(event.data), true));
  source.addEventListener("sweep", (event) => take(JSON.parse(event.data), false));
  source.addEventListener("gap", (event) => takeGap(JSON.parse(event.data)));
}

function disconnect() {
  source?.close();
  source = null;
}

function take(event, isWhole) {
  if (event.head) state.head = event.head;
  if (event.slot) state.sweep = event;
  if (isWhole) {
    const seen = new Set(event.values.map((value) => value.symbol));
    for (const symbol of state.rows.keys()) if (!seen.has(symbol)) state.rows.delete(symbol);
    state.gaps = [];
    for (const gap of event.gaps || []) addGap(gap);
  }
  for (const symbol of event.gone || []) state.rows.delete(symbol);
  for (const value of event.values) takeValue(value);
  if (state.live !== "live") state.since = Date.now();
  state.live = "live";
  if (!state.link.symbol) state.link.symbol = state.rows.has("BTCUSDT") ? "BTCUSDT" : [...state.rows.keys()][0] || "";
  drawStatus();
  drawFacts();
  drawMarket();
  if (isWhole) readChanges();
  if (isWhole && state.link.symbol) choose(state.link.symbol);
  else if (event.values.some((value) => value.symbol === state.link.symbol)) drawSymbol(true);
}

function takeValue(value) {
  const { symbol, time } = value;
  // The service sends a decimal as text if a double would round it.
  const coins = Number(value.open_interest);
  const usd = value.notional && DOLLARS.test(symbol.split("_")[0]) ? Number(value.notional) : null;
  const row = state.rows.get(symbol) || { symbol, changes: {}, z: null, trend: [] };
  const notional = value.notional ? Number(value.notional) : 0; // in the quote asset, dollar or not
  state.rows.set(symbol, Object.assign(row, { coins, usd, time, notional }));
  addToTrend(row.trend, time, coins);
  addToSeries(symbol);
}

/** Append the latest value of a symbol to its series, unless the series has that value already. */
function addToSeries(symbol) {
  const series = state.series.get(symbol), row = state.rows.get(symbol);
  if (!series || !row || series.times.at(-1) >= row.time) return;
  series.times.push(row.time);
  series.values.push(row.coins);
  series.usd.push(row.notional);
  if (series.times.length < 1.1 * MOST_VALUES) return;
  for (const part of [series.times, series.values, series.usd]) part.splice(0, part.length - MOST_VALUES);
}

/** Add a value to a trend, or replace the last value, so that a day has about TREND_POINTS values. */
function addToTrend(trend, time, coins) {
  if (trend.length > 1 && time - trend.at(-2)[0] < TREND_SPAN / TREND_POINTS) trend.pop();
  trend.push([time, coins]);
  while (trend[0][0] < time - TREND_SPAN - 6e5) trend.shift();
}

/** Add a gap. If it continues the last gap with the same reason, extend that one. */
function addGap({ first, last, reason }) {
  const period = (state.head?.every || 60) * 1000, before = state.gaps.at(-1);
  const end = last + period; // the end of the gap's last slot
  if (before && before.reason === reason && first <= before.last + period / 2) before.last = Math.max(before.last, end);
  else state.gaps.push({ first, last: end, reason });
  if (state.gaps.length > MOST_GAPS) state.gaps.shift();
}

function takeGap(gap) {
  if (gap.head) state.head = gap.head;
  addGap(gap);
  drawFacts();
  drawSymbol(true);
}

let changesTimer = null;

/** Request the changes of every symbol. If the service has none, the columns stay empty. */
async function readChanges() {
  let isWhole = true; // false while the service still reads its recording
  for (const window of Object.keys(WINDOWS)) {
    let answer;
    try {
      const response = await fetch(`changes?window=${window}&decimal=number&trend=${window === "24h"}`);
      if (!response.ok) return;
      answer = await response.json();
    } catch {
      return; // the next call tries again
    }
    for (const found of answer.changes) {
      const row = state.rows.get(found.symbol);
      if (!row) continue;
      row.changes[window] = found.percent;
      if (window === "1h") row.z = found.z_score;
    }
    if (answer.trend) takeTrends(answer.trend);
    isWhole = isWhole && !answer.filling;
  }
  drawMarket();
  clearTimeout(changesTimer);
  if (!isWhole) changesTimer = setTimeout(readChanges, FILLING);
}

/** Replace the trends by those of the service, and append our own newer values. */
function takeTrends({ first, step, values }) {
  for (const [symbol, coins] of Object.entries(values)) {
    const row = state.rows.get(symbol);
    if (!row) continue;
    const known = coins.map((value, index) => [first + index * step, value]).filter(([, value]) => value !== null);
    const last = known.at(-1)?.[0] ?? 0;
    row.trend = [...known, ...row.trend.filter(([time]) => time > last)];
  }
}

// -- the start -------------------------------------------------------------------------------------

/** Decode the numbers of a report, each stored as the difference from the number before it. */
function decoded(coded) {
  let sum = 0;
  return coded.steps.map((step) => (step === null ? NaN : (sum += step) / coded.scale));
}

function readStill() {
  const found = JSON.parse(still.textContent);
  Object.assign(state, { facts: found.facts, gaps: found.gaps, made: found.made, live: "still" });
  for (const row of found.rows) {
    const trend = row.trend.map((coins, index) => [found.trend.first + index * found.trend.step, coins]);
    state.rows.set(row.symbol, { ...row, trend: trend.filter(([, coins]) => coins !== null) });
  }
  for (const [symbol, series] of Object.entries(found.series)) {
    const values = decoded(series.values);
    const usd = series.prices ? decoded(series.prices).map((price, index) => price * values[index]) : [];
    state.series.set(symbol, { times: decoded(series.times), values, usd, holes: [] });
  }
  defaults = { ...DEFAULTS, range: "all", symbol: found.symbol };
}

/** Draw every part of the page that depends on the link. */
function drawAll() {
  const { find, unit, open } = state.link;
  $("find").value = find;
  $("unit").value = unit;
  for (const name of DETAILS) $(name).open = open.includes(name);
  drawHead();
  drawMarket(true);
  drawSymbol();
}

function start() {
  if (still) readStill();
  document.getElementById("plain")?.remove(); // the chart that a browser without scripts shows
  $("rows").tBodies[0].replaceChildren();
  readLink();
  $("choose").addEventListener("submit", (event) => event.preventDefault());
  $("find").addEventListener("input", () => {
    state.link.find = $("find").value;
    drawMarket(true);
  });
  $("unit").addEventListener("change", () => {
    state.link.unit = $("unit").value;
    drawHead();
    drawMarket(true);
  });
  $("all").addEventListener("click", () => {
    state.link.all = !state.link.all;
    drawMarket(true);
  });
  const table = $("rows");
  table.addEventListener("pointerenter", () => { isHovered = true; });
  table.addEventListener("pointerleave", () => {
    isHovered = false;
    drawMarket(true);
  });
  for (const name of DETAILS) {
    $(name).addEventListener("toggle", () => {
      state.link.open = DETAILS.filter((each) => $(each).open);
      saveLink();
      drawDetails();
    });
  }
  $("png").addEventListener("click", save);
  window.addEventListener("pagehide", writeLink);
  window.addEventListener("hashchange", () => {
    readLink();
    drawAll();
    if (!still) readPast(state.link.symbol);
  });
  drawAll();
  drawFacts();
  drawStatus();
  if (still) return;
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("online", connect);
  setInterval(drawStatus, 1000);
  setInterval(() => { if (!document.hidden) drawMarket(); }, 5000); // updates the column "Age"
  setInterval(() => { if (!document.hidden) readChanges(); }, CHANGES_EVERY);
  connect();
}

/** Save the chart as a PNG file, with the symbol and the span above it. */
function save() {
  const { symbol } = state.link, [first, last] = chart.view.map(clock);
  const ratio = window.devicePixelRatio || 1, source = $("chart"), picture = document.createElement("canvas");
  picture.width = source.width;
  picture.height = source.height + 48 * ratio;
  const pen = picture.getContext("2d"), style = getComputedStyle(source);
  pen.fillStyle = style.getPropertyValue("--raised");
  pen.fillRect(0, 0, picture.width, picture.height);
  pen.drawImage(source, 0, 48 * ratio);
  pen.scale(ratio, ratio);
  pen.fillStyle = style.getPropertyValue("--text");
  pen.font = "600 15px system-ui, sans-serif";
  pen.fillText(`${symbol}: ${chart.lines.map((line) => line.name).join(" and ")}`, 8, 20);
  pen.font = "12px system-ui, sans-serif";
  pen.fillText(`${first} to ${last} UTC`, 8, 38);
  picture.toBlob((blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: `${symbol}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10e3);
  });
}

start();
