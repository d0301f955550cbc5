/* The script of the page of the service, and of a report.
   The rule of this file: the page has one state, and redraws each part whose state changed. A report
   carries its state in a block of JSON; the live page builds the same state from `events`, `changes`
   and `history`. Text of the exchange becomes text of the page, never markup. The chart is in
   chart.js. */
"use strict";

const WINDOWS = ["5m", "1h", "4h", "24h"];
const RANGES = { "1h": 36e5, "4h": 144e5, "1d": 864e5, "7d": 6048e5, "30d": 2592e6, all: 0 };
const FIRST_ROWS = 100; // of the table; more only on demand, because drawing them takes long
const TREND_POINTS = 60;
const RETRY = [1000, 2000, 4000, 8000, 15000]; // ms until the next connection
const CHANGES_EVERY = 60e3; // ms
const STALE_AFTER = 3; // periods without a sweep
const COLUMNS = [
  ["symbol", "Symbol"], ["size", "Open interest"], ...WINDOWS.map((name) => [name, name]),
  ["z", "z 1h"], ["age", "Age"], ["trend", "Trend"],
];

const state = {
  head: null, // {source, every, budget}
  sweep: null, // {slot, next_slot, asked, read}
  rows: new Map(), // symbol to {symbol, coins, usd, time, changes, z, trend}
  gaps: [], // {first, last, reason, detail, slots}
  series: new Map(), // symbol to {times, values, usd}
  link: { symbol: "", sort: "size", down: true, find: "", unit: "usd", range: "1d", pins: [] },
  live: "connecting", // or live, stale, gone
};
const still = document.getElementById("still"); // the state of a report, if this is one
const $ = (name) => document.getElementById(name);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
const signed = new Intl.NumberFormat("en", {
  signDisplay: "exceptZero", minimumFractionDigits: 2, maximumFractionDigits: 2,
});

/** A new element with attributes and children; a string becomes text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function clock(time) {
  return new Date(time).toISOString().slice(0, 19).replace("T", " ");
}

// -- the link: the view as a part of the page's address --------------------------------------------

function readLink() {
  const found = new URLSearchParams(location.hash.slice(1));
  const link = state.link;
  link.symbol = (found.get("s") || link.symbol).slice(0, 40);
  link.sort = COLUMNS.some(([key]) => key === found.get("sort")) ? found.get("sort") : link.sort;
  link.down = found.has("up") ? false : link.down;
  link.find = (found.get("q") || "").slice(0, 32);
  link.unit = found.get("unit") === "coins" ? "coins" : "usd";
  link.range = found.get("range") in RANGES ? found.get("range") : link.range;
  link.pins = (found.get("pin") || "").split(",").filter(Boolean).slice(0, 50);
}

function writeLink() {
  const { symbol, sort, down, find, unit, range, pins } = state.link;
  const parts = new URLSearchParams({ s: symbol, sort, unit, range });
  if (!down) parts.set("up", "");
  if (find) parts.set("q", find);
  if (pins.length) parts.set("pin", pins.join(","));
  history.replaceState(null, "", `#${parts}`);
}

// -- the market ------------------------------------------------------------------------------------

/** Use coins when no price is known; otherwise the column would be empty. */
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
  if (key === "trend") return row.trend.length > 1 ? row.trend.at(-1) / row.trend[0] : null;
  return row.changes[key] ?? null;
}

/** The rows that match the search, in order: pinned rows first, rows without a value last. */
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

let showsAll = false;
let isHovered = false; // while the pointer is over the table, its rows keep their places
let order = []; // symbols, as the table shows them
const shownRows = new Map(); // symbol to the row of the table and its texts

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
  return { age: "n wide-only", trend: "wide-only", "4h": "n wide-only" }[key] || "n";
}

function drawMarket(moves = false) {
  writeLink();
  if (isInUsd() !== shownInUsd) drawHead();
  const rows = chosenRows();
  const limit = showsAll ? Infinity : FIRST_ROWS;
  if (moves || !isHovered) order = rows.slice(0, limit).map((row) => row.symbol);
  const body = $("rows").tBodies[0];
  const wanted = order.filter((symbol) => state.rows.has(symbol)).map(drawRow);
  const kept = new Set(wanted);
  for (const [symbol, shown] of shownRows) {
    if (!kept.has(shown.element)) {
      shown.element.remove();
      shownRows.delete(symbol);
    }
  }
  wanted.forEach((element, index) => {
    if (body.children[index] !== element) body.insertBefore(element, body.children[index] || null);
  });
  $("shown").textContent = `${wanted.length} of ${rows.length} symbols`;
  $("all").hidden = rows.length <= FIRST_ROWS;
  $("all").textContent = showsAll ? `Show ${FIRST_ROWS}` : "Show all";
}

/** Update the row of a symbol; write only the cells whose text has changed. */
function drawRow(symbol) {
  const row = state.rows.get(symbol);
  let shown = shownRows.get(symbol);
  if (!shown) {
    shown = newRow(symbol);
    shownRows.set(symbol, shown);
  }
  const size = sizeOf(row, shownInUsd);
  write(shown, "size", size === null || size === undefined ? "–" : compact.format(size));
  for (const name of WINDOWS) write(shown, name, percent(row.changes[name]), toneOf(row.changes[name]));
  write(shown, "z", row.z === null || row.z === undefined ? "–" : signed.format(row.z), toneOf(row.z));
  write(shown, "age", row.time ? age(row.time) : "–");
  drawTrend(shown, row.trend);
  shown.element.classList.toggle("chosen", symbol === state.link.symbol);
  const isPinned = state.link.pins.includes(symbol);
  shown.pin.setAttribute("aria-pressed", isPinned);
  return shown.element;
}

function newRow(symbol) {
  const pin = make("button", { type: "button", class: "pin", "aria-label": `Pin ${symbol}` }, "★");
  const name = make("button", { type: "button" }, symbol);
  pin.addEventListener("click", () => {
    const pins = state.link.pins;
    state.link.pins = pins.includes(symbol) ? pins.filter((each) => each !== symbol) : [...pins, symbol];
    drawMarket(true);
  });
  name.addEventListener("click", () => choose(symbol));
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
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    shown.line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shown.line.setAttribute("class", "line");
    svg.setAttribute("viewBox", "0 0 120 22");
    svg.setAttribute("aria-hidden", "true");
    svg.append(shown.line);
    shown.cells.trend.append(svg);
  }
  shown.line.setAttribute("d", path);
}

function pathOf(values) {
  if (values.length < 2) return "";
  const low = Math.min(...values), high = Math.max(...values);
  const scale = 18 / (high - low || 1);
  const points = values.map((value, index) => {
    return `${(index * 120 / (values.length - 1)).toFixed(1)} ${(2 + (high - value) * scale).toFixed(1)}`;
  });
  return `M${points.join("L")}`;
}

function percent(value) {
  return value === null || value === undefined ? "–" : `${signed.format(value)} %`;
}

function toneOf(value) {
  return value > 0 ? "up" : value < 0 ? "down" : "";
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
  $("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    return make("div", {}, make("dt", {}, name), make("dd", {}, value));
  }));
}

function liveFacts() {
  const { sweep, head } = state;
  const usd = [...state.rows.values()].reduce((sum, row) => sum + (row.usd || 0), 0);
  const [btc, eth] = ["BTCUSDT", "ETHUSDT"].map((name) => state.rows.get(name));
  const facts = {};
  if (usd) {
    facts["Total, USD"] = compact.format(usd);
    if (btc?.usd) facts["Total, BTC"] = compact.format(usd / (btc.usd / btc.coins));
    if (eth?.usd) facts["Total, ETH"] = compact.format(usd / (eth.usd / eth.coins));
  }
  if (sweep) facts["Symbols"] = `${sweep.read} of ${sweep.asked} read`;
  if (head?.budget) {
    const { charged, others, remaining, held_until, banned_until } = head.budget;
    facts["Budget"] = `ours ${charged}, others ${others}, free ${remaining}`;
    const end = banned_until || held_until;
    if (end) facts[banned_until ? "Banned until" : "Cooldown until"] = `${String(end).slice(11, 19)} UTC`;
  }
  if (sweep?.next_slot) facts["Next slot"] = `${clock(sweep.next_slot).slice(11)} UTC`;
  if (head?.source) facts["Source"] = head.source;
  return facts;
}

function drawStatus() {
  const status = $("status");
  if (still) {
    status.textContent = `as of ${clock(state.made)} UTC`;
    return;
  }
  const since = state.sweep ? clock(state.sweep.slot) : null;
  const period = (state.head?.every || 60) * 1000;
  if (state.live === "live" && since && Date.now() - state.sweep.slot > STALE_AFTER * period) state.live = "stale";
  const text = {
    connecting: "connecting",
    live: `live, ${since} UTC`,
    stale: `stale since ${since} UTC`,
    gone: `not connected${since ? `; last values of ${since} UTC` : ""}`,
  }[state.live];
  if (status.textContent !== text) status.textContent = text;
  status.className = state.live;
}

// -- one symbol ------------------------------------------------------------------------------------

const chart = new Chart($("chart"), drawReading);

async function choose(symbol) {
  const isNew = symbol !== state.link.symbol;
  state.link.symbol = symbol;
  for (const [name, shown] of shownRows) shown.element.classList.toggle("chosen", name === symbol);
  writeLink();
  drawSymbol(isNew);
  if (!still) await readPast(symbol);
}

function drawSymbol(isNew) {
  const { symbol, range } = state.link;
  document.querySelector(".panes").classList.toggle("two", Boolean(symbol));
  $("symbol").hidden = !symbol;
  if (!symbol) return;
  $("symbol-title").textContent = symbol;
  $("chart").setAttribute("aria-label", `Open interest of ${symbol} over time`);
  const series = state.series.get(symbol) || { times: [], values: [], usd: [] };
  const lines = [{ name: "open interest", colour: "line", times: series.times, values: series.values, digits: 3 }];
  if (series.usd.some((value) => value)) {
    const price = series.values.map((value, index) => (value && series.usd[index] ? series.usd[index] / value : NaN));
    lines.push({ name: "mark price", colour: "price", times: series.times, values: price, digits: 6 });
  }
  const last = series.times.at(-1) || now();
  const span = RANGES[range] || last - (series.times[0] || last - RANGES["1d"]);
  chart.show(lines, state.gaps, [last - span, last], !isNew);
  drawRanges();
  drawValues(series);
  drawGaps();
  drawReading();
}

function drawRanges() {
  const shown = Object.keys(RANGES).map((name) => {
    const button = make("button", { type: "button", "aria-pressed": String(name === state.link.range) }, name);
    button.addEventListener("click", () => {
      state.link.range = name;
      writeLink();
      drawSymbol(true);
      if (!still) readPast(state.link.symbol);
      $("ranges").children[Object.keys(RANGES).indexOf(name)].focus();
    });
    return button;
  });
  $("ranges").replaceChildren(...shown);
}

function drawReading() {
  const reading = chart.reading;
  const row = state.rows.get(state.link.symbol);
  if (!reading) {
    const parts = row ? [`${number.format(row.coins)} coins`] : [];
    if (row?.usd) parts.push(`${compact.format(row.usd)} USD`);
    $("reading").textContent = parts.join(", ");
    return;
  }
  const parts = reading.values.map(({ name, value, digits }) => {
    const text = Number.isNaN(value) ? "no value" : value.toLocaleString("en", { maximumFractionDigits: digits });
    return `${name} ${text}`;
  });
  if (reading.gap) parts.push(`gap: ${reading.gap}`);
  $("reading").textContent = `${clock(reading.time)} UTC: ${parts.join(", ")}`;
}

function drawValues(series) {
  if (!$("values").open) return;
  const rows = series.times.map((time, index) => [clock(time), number.format(series.values[index]),
    series.usd[index] ? number.format(series.usd[index]) : "–"]).reverse().slice(0, 2000);
  fill($("values"), ["Time, UTC", "Coins", "USD"], rows, [1, 2]);
}

function drawGaps() {
  const gaps = state.gaps;
  $("gaps").querySelector("summary").textContent = `Gaps (${gaps.length})`;
  if (!$("gaps").open) return;
  const rows = gaps.map((gap) => [clock(gap.first), clock(gap.last), gap.reason, gap.detail || ""]).reverse();
  fill($("gaps"), ["From, UTC", "To, UTC", "Reason", "Detail"], rows, []);
}

function fill(details, head, rows, numbers) {
  const table = details.querySelector("table");
  const cell = (text, index) => make("td", { class: numbers.includes(index) ? "n" : null }, text);
  table.tHead.replaceChildren(make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text))));
  table.tBodies[0].replaceChildren(...rows.map((row) => make("tr", {}, ...row.map(cell))));
}

/** Read the past of a symbol, as fine as the range allows. */
async function readPast(symbol) {
  const span = RANGES[state.link.range] || RANGES["30d"];
  const period = span <= RANGES["1d"] ? "5m" : span <= RANGES["7d"] ? "30m" : "2h";
  const query = new URLSearchParams({ period, since: String(Date.now() - span), decimal: "number" });
  let answer;
  try {
    const response = await fetch(`history/${encodeURIComponent(symbol)}?${query}`);
    if (!response.ok) throw new Error(String(response.status));
    answer = await response.json();
  } catch {
    answer = { rows: [], holes: [] };
  }
  const known = state.series.get(symbol) || { times: [], values: [], usd: [] };
  const from = answer.rows.length ? answer.rows.at(-1).time : 0;
  const later = known.times.map((time, index) => index).filter((index) => known.times[index] > from);
  state.series.set(symbol, {
    times: [...answer.rows.map((row) => row.time), ...later.map((index) => known.times[index])],
    values: [...answer.rows.map((row) => Number(row.open_interest)), ...later.map((index) => known.values[index])],
    usd: [...answer.rows.map((row) => Number(row.notional ?? 0)), ...later.map((index) => known.usd[index])],
  });
  if (symbol === state.link.symbol) drawSymbol(false);
}

// -- the stream ------------------------------------------------------------------------------------

let source = null;
let attempts = 0;
let timer = null;

/** Open a stream. Our own timer opens the next one, because a 503 closes an EventSource. */
function connect() {
  clearTimeout(timer);
  disconnect();
  if (document.hidden) return; // a browser allows six connections for all tabs of a host
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
    state.gaps = event.gaps || [];
  }
  for (const symbol of event.gone || []) state.rows.delete(symbol);
  for (const value of event.values) takeValue(value);
  state.live = "live";
  if (!state.link.symbol) state.link.symbol = state.rows.has("BTCUSDT") ? "BTCUSDT" : [...state.rows.keys()][0] || "";
  drawStatus();
  drawFacts();
  drawMarket();
  if (isWhole && state.link.symbol) choose(state.link.symbol);
  else if (event.values.some((value) => value.symbol === state.link.symbol)) drawSymbol(false);
}

function takeValue(value) {
  const { symbol, time } = value;
  // A decimal that a double would round comes as text.
  const coins = Number(value.open_interest), usd = value.notional ? Number(value.notional) : null;
  const row = state.rows.get(symbol) || { symbol, changes: {}, z: null, trend: [] };
  if (row.time !== time) {
    row.trend.push(coins);
    if (row.trend.length > TREND_POINTS) row.trend.shift();
  }
  state.rows.set(symbol, Object.assign(row, { coins, usd, time }));
  const series = state.series.get(symbol);
  if (series && !(series.times.at(-1) >= time)) {
    series.times.push(time);
    series.values.push(coins);
    series.usd.push(usd ?? 0);
  }
}

function takeGap(gap) {
  state.gaps.push(gap);
  if (gap.head) state.head = gap.head;
  drawFacts();
  drawSymbol(false);
}

/** Read the changes of every symbol. If the service has none, the columns stay empty. */
async function readChanges() {
  for (const window of WINDOWS) {
    let answer;
    try {
      const response = await fetch(`changes?window=${window}&decimal=number`);
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
  }
  drawMarket();
}

// -- the start -------------------------------------------------------------------------------------

/** Decode the numbers of a report, which are differences of integers. */
function decoded(coded) {
  let sum = 0;
  return coded.steps.map((step) => (step === null ? NaN : (sum += step) / coded.scale));
}

function readStill() {
  const found = JSON.parse(still.textContent);
  Object.assign(state, { facts: found.facts, gaps: found.gaps, made: found.made, live: "still" });
  for (const row of found.rows) state.rows.set(row.symbol, row);
  for (const [symbol, series] of Object.entries(found.series)) {
    const values = decoded(series.values);
    const usd = series.prices ? decoded(series.prices).map((price, index) => price * values[index]) : [];
    state.series.set(symbol, { times: decoded(series.times), values, usd });
  }
  state.link.range = "all";
  state.link.symbol = found.symbol;
}

function start() {
  if (still) readStill();
  document.getElementById("plain")?.remove(); // the chart for readers without the script
  $("rows").tBodies[0].replaceChildren();
  readLink();
  $("find").value = state.link.find;
  $("unit").value = state.link.unit;
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
    showsAll = !showsAll;
    drawMarket(true);
  });
  const table = $("rows");
  table.addEventListener("pointerenter", () => { isHovered = true; });
  table.addEventListener("pointerleave", () => {
    isHovered = false;
    drawMarket(true);
  });
  for (const name of ["values", "gaps"]) $(name).addEventListener("toggle", () => drawSymbol(false));
  $("png").addEventListener("click", save);
  window.addEventListener("hashchange", () => {
    readLink();
    drawHead();
    drawMarket(true);
    drawSymbol(true);
  });
  drawHead();
  drawMarket(true);
  drawFacts();
  drawStatus();
  drawSymbol(true);
  if (still) return;
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("online", connect);
  setInterval(drawStatus, 1000);
  setInterval(() => { if (!document.hidden) drawMarket(); }, 5000); // ages
  setInterval(() => { if (!document.hidden) readChanges(); }, CHANGES_EVERY);
  connect();
  setTimeout(readChanges, 1000);
}

function save() {
  $("chart").toBlob((blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: `${state.link.symbol}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10e3);
  });
}

start();
