/* A chart of one symbol on a canvas: lines over time, with gaps behind them.
   The rule of this file: it does not depend on the page. It draws each line that `show` received in a
   pane of its own. The user moves the view and the crosshair by pointer, fingers, keys or Ctrl+wheel;
   the chart then calls `changed`. A line breaks at a NaN, and at a pause longer than `BREAK` allows.
   The style sheet gives the colours. */
"use strict";

const EDGE = { left: 8, right: 70, top: 8, bottom: 24 }; // CSS pixels around the plot
const SPACE = 14; // CSS pixels between the panes of two lines
const FONT = "11px system-ui, sans-serif";
const BREAK = 3; // a line breaks between values further apart than 3 times the median distance
const LEAST_SPAN = 60e3; // ms; the shortest view that a zoom can reach
const STEPS = [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800]
  .map((seconds) => seconds * 1000);

class Chart {
  /** @param {HTMLCanvasElement} canvas  @param {(chart: Chart) => void} changed  */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.lines = []; // {name, colour, times, values}
    this.gaps = []; // {first, last, reason, colour}
    this.whole = [0, 1]; // the longest view, [first, last] in ms
    this.view = [0, 1]; // the visible span, [first, last] in ms
    this.at = null; // the time under the crosshair, ms; null if it is hidden
    this.dragged = null; // the span that the pointer selects, [from, to] in CSS pixels
    this.fingers = new Map(); // from pointer ids to x positions in CSS pixels
    this.pinched = null; // the times under two fingers when they touched the chart, ms
    this.asked = false; // whether we requested a frame that the browser has not drawn yet
    this.listen();
  }

  /** Show other lines. If `keep` is set, a zoomed view stays, or follows the newest values. */
  show(lines, gaps, whole, keep = false) {
    const followed = this.view[1] >= this.whole[1];
    const width = this.view[1] - this.view[0];
    const zoomed = keep && (this.view[0] > this.whole[0] || !followed);
    this.lines = lines.map((line) => ({ ...line, breakAfter: longest(line.times) }));
    this.gaps = gaps;
    this.whole = whole[1] > whole[0] ? whole : [whole[0] - LEAST_SPAN, whole[0] + LEAST_SPAN];
    if (!zoomed) this.view = [...this.whole];
    else if (followed) this.view = [this.whole[1] - width, this.whole[1]];
    this.clamp();
    this.draw();
  }

  zoom(first, last) {
    this.view = [first, last];
    this.clamp();
    this.draw();
    this.changed(this);
  }

  get zoomed() {
    return this.view[0] > this.whole[0] || this.view[1] < this.whole[1];
  }

  clamp() {
    const [first, last] = this.whole;
    const width = Math.min(Math.max(this.view[1] - this.view[0], LEAST_SPAN), last - first);
    const from = Math.min(Math.max(this.view[0], first), last - width);
    this.view = [from, from + width];
  }

  // -- positions ----------------------------------------------------------------------------------

  get plot() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return {
      x: EDGE.left, y: EDGE.top,
      width: Math.max(1, width - EDGE.left - EDGE.right),
      height: Math.max(1, height - EDGE.top - EDGE.bottom),
    };
  }

  /** The pane of a line. Of two lines, the first gets two thirds of the plot's height. */
  pane(number) {
    const plot = this.plot;
    if (this.lines.length < 2) return plot;
    const first = Math.round(plot.height * 0.66);
    return number ? { ...plot, y: plot.y + first + SPACE, height: plot.height - first - SPACE }
      : { ...plot, height: first };
  }

  x(time) {
    return EDGE.left + (time - this.view[0]) / (this.view[1] - this.view[0]) * this.plot.width;
  }

  time(x) {
    const plot = this.plot;
    return this.view[0] + Math.min(1, Math.max(0, (x - plot.x) / plot.width)) * (this.view[1] - this.view[0]);
  }

  /** For each line, the last value at or before the crosshair. */
  get reading() {
    if (this.at === null) return null;
    const found = this.lines.map((line) => {
      const index = after(line.times, this.at) - 1;
      const isNear = index >= 0 && this.at - line.times[index] <= line.breakAfter;
      return { name: line.name, colour: line.colour, time: isNear ? line.times[index] : this.at,
        value: isNear ? line.values[index] : NaN };
    });
    const gap = this.gaps.find((each) => each.first <= this.at && this.at <= each.last);
    return { time: found.length ? found[0].time : this.at, values: found, gap: gap ? gap.reason : null };
  }

  // -- drawing ------------------------------------------------------------------------------------

  draw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.paint();
    });
  }

  paint() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    this.colour = (name) => style.getPropertyValue(`--${name}`).trim() || "#888";
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = this.colour("raised");
    pen.fillRect(0, 0, width, height);
    pen.font = FONT;
    const plot = this.plot;
    this.paintGaps(pen, plot);
    this.paintTimes(pen, plot);
    const isDrawn = this.lines.map((line, number) => this.paintLine(pen, this.pane(number), line, number));
    if (!isDrawn.includes(true)) pen.fillText("no values", plot.x + plot.width / 2, plot.y + plot.height / 2);
    this.paintCrosshair(pen, plot);
  }

  paintGaps(pen, plot) {
    pen.textAlign = "left";
    for (const gap of this.gaps) {
      if (gap.last < this.view[0] || gap.first > this.view[1]) continue;
      const left = Math.max(plot.x, this.x(gap.first));
      const width = Math.max(1, Math.min(plot.x + plot.width, this.x(gap.last)) - left);
      pen.globalAlpha = 0.22;
      pen.fillStyle = this.colour(gap.colour);
      pen.fillRect(left, plot.y, width, plot.height);
      pen.globalAlpha = 1;
      pen.fillStyle = this.colour("text");
      if (pen.measureText(gap.reason).width < width - 8) pen.fillText(gap.reason, left + 4, plot.y + 13);
    }
  }

  paintTimes(pen, plot) {
    const [first, last] = this.view;
    const least = (last - first) / Math.max(2, plot.width / 80);
    const step = STEPS.find((each) => each >= least) || Math.ceil(least / 864e5) * 864e5;
    pen.textAlign = "center";
    for (let time = Math.ceil(first / step) * step; time <= last; time += step) {
      const x = Math.round(this.x(time));
      pen.fillStyle = this.colour("rule");
      pen.fillRect(x, plot.y, 1, plot.height);
      pen.fillStyle = this.colour("quiet");
      if (x > 20 && x < plot.x + plot.width) pen.fillText(label(time, step), x, plot.y + plot.height + 16);
    }
  }

  /** Draw a line in its pane; return whether the line has a value in the view. */
  paintLine(pen, pane, line, number) {
    const from = Math.max(0, after(line.times, this.view[0]) - 1);
    const to = Math.min(line.times.length, after(line.times, this.view[1]) + 1);
    const range = rangeOf(line.values, from, to);
    line.y = null;
    if (!range) return false;
    const [low, high] = range;
    line.y = (value) => pane.y + (high - value) / (high - low) * pane.height;
    const last = line.times[to - 1] >= this.view[0] ? line.values[to - 1] : NaN;
    const text = this.paintValues(pen, pane, line, low, high, last);
    pen.save();
    pen.beginPath();
    pen.rect(pane.x, pane.y, pane.width, pane.height);
    pen.clip();
    pen.beginPath();
    let before = null; // the index of the previous point; null after a NaN
    for (const i of thin(line, from, to, Math.ceil(pane.width))) {
      const value = line.values[i], x = this.x(line.times[i]);
      const isBroken = before === null || line.times[i] - line.times[before] > line.breakAfter && i === before + 1;
      before = Number.isNaN(value) ? null : i;
      if (before === null) continue;
      if (isBroken) pen.moveTo(x, line.y(value));
      pen.lineTo(x + (isBroken ? 0.5 : 0), line.y(value));
    }
    pen.strokeStyle = this.colour(line.colour);
    pen.lineWidth = number ? 1.2 : 1.6;
    pen.stroke();
    pen.restore();
    if (isKnown(last)) this.paintLast(pen, pane, line, last, text);
    return true;
  }

  /** Draw the labels of the value axis; return the function that formats a value. */
  paintValues(pen, pane, line, low, high, last) {
    const { step, text } = axis(low, high, pane.height / 32);
    pen.textAlign = "left";
    for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
      const y = Math.round(line.y(tick));
      pen.fillStyle = this.colour("rule");
      pen.fillRect(pane.x, y, pane.width, 1);
      pen.fillStyle = this.colour("quiet");
      if (!(Math.abs(line.y(last) - y) < 15)) pen.fillText(text(tick), pane.x + pane.width + 6, y + 4);
    }
    return text;
  }

  paintLast(pen, pane, line, value, text) {
    const x = pane.x + pane.width + 2, y = Math.min(Math.max(line.y(value), pane.y + 8), pane.y + pane.height - 8);
    pen.fillStyle = this.colour(line.colour);
    pen.fillRect(x, y - 9, EDGE.right - 4, 18);
    pen.fillStyle = this.colour("raised");
    pen.textAlign = "left";
    pen.fillText(text(value, 1), x + 4, y + 4, EDGE.right - 10);
  }

  paintCrosshair(pen, plot) {
    if (this.dragged) {
      const [left, right] = [Math.min(...this.dragged), Math.max(...this.dragged)];
      pen.globalAlpha = 0.2;
      pen.fillStyle = this.colour("line");
      pen.fillRect(left, plot.y, right - left, plot.height);
      pen.globalAlpha = 1;
    } else if (this.at !== null) {
      pen.fillStyle = this.colour("text");
      pen.fillRect(Math.round(this.x(this.at)), plot.y, 1, plot.height);
      this.reading.values.forEach(({ time, value }, number) => {
        const line = this.lines[number];
        if (!line.y || Number.isNaN(value)) return;
        pen.fillStyle = this.colour(line.colour);
        pen.beginPath();
        pen.arc(Math.max(plot.x, this.x(time)), line.y(value), 4, 0, 7);
        pen.fill();
      });
    }
  }

  // -- input --------------------------------------------------------------------------------------

  listen() {
    const canvas = this.canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => this.release(event));
    }
    canvas.addEventListener("pointerleave", () => {
      if (this.pointed && !this.dragged) this.point(null); // a crosshair that the keys set stays
    });
    canvas.addEventListener("dblclick", () => this.zoom(...this.whole));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return; // without Ctrl, the wheel scrolls the page
      event.preventDefault();
      this.scale(Math.exp(event.deltaY / 300), this.time(event.offsetX));
    }, { passive: false });
  }

  press(event) {
    this.fingers.set(event.pointerId, event.offsetX);
    if (this.fingers.size === 1 && event.pointerType !== "touch") {
      this.dragged = [event.offsetX, event.offsetX];
      this.canvas.setPointerCapture(event.pointerId);
    }
    if (this.fingers.size === 2) {
      this.pinched = [...this.fingers.values()].map((x) => this.time(x)).sort((a, b) => a - b);
    }
    this.point(this.time(event.offsetX), true);
  }

  move(event) {
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, event.offsetX);
    if (this.fingers.size === 2 && this.pinched) this.pinch();
    else if (this.dragged) {
      this.dragged[1] = event.offsetX;
      this.draw();
    } else this.point(this.time(event.offsetX), true);
  }

  /** Zoom so that the same two times stay under the two fingers. */
  pinch() {
    const [left, right] = [...this.fingers.values()].sort((a, b) => a - b);
    const [first, last] = this.pinched;
    if (right - left < 8) return;
    const perPixel = (last - first) / (right - left);
    const from = first - (left - this.plot.x) * perPixel;
    this.zoom(from, from + this.plot.width * perPixel);
  }

  release(event) {
    this.fingers.delete(event.pointerId);
    if (this.fingers.size < 2) this.pinched = null;
    const dragged = this.dragged;
    this.dragged = null;
    if (dragged && event.type === "pointerup" && Math.abs(dragged[1] - dragged[0]) > 5) {
      this.zoom(...dragged.map((x) => this.time(x)).sort((a, b) => a - b));
    } else this.draw();
  }

  point(time, byPointer = false) {
    this.at = time;
    this.pointed = byPointer;
    this.draw();
    this.changed(this);
  }

  scale(factor, around) {
    const [first, last] = this.view;
    this.zoom(around - (around - first) * factor, around + (last - around) * factor);
  }

  key(event) {
    const width = this.view[1] - this.view[0];
    const middle = this.at ?? (this.view[0] + this.view[1]) / 2;
    const step = width / (event.shiftKey ? 10 : 100);
    const moves = {
      ArrowLeft: () => this.follow(middle - step),
      ArrowRight: () => this.follow(middle + step),
      Home: () => this.follow(this.whole[0]),
      End: () => this.follow(this.whole[1]),
      "+": () => this.scale(0.5, middle),
      "=": () => this.scale(0.5, middle),
      "-": () => this.scale(2, middle),
      Escape: () => this.zoom(...this.whole),
    };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move();
  }

  /** Move the crosshair to a time. If that time is outside the view, move the view too. */
  follow(time) {
    const at = Math.min(Math.max(time, this.whole[0]), this.whole[1]);
    const width = this.view[1] - this.view[0];
    if (at < this.view[0]) this.view = [at, at + width];
    if (at > this.view[1]) this.view = [at - width, at];
    this.clamp();
    this.point(at);
  }
}

/** The index of the first time that is later than `time`. */
function after(times, time) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] > time) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The longest time between two values that the line still joins, ms. */
function longest(times) {
  const steps = [];
  for (let i = 1; i < times.length; i++) steps.push(times[i] - times[i - 1]);
  steps.sort((a, b) => a - b);
  return steps.length ? BREAK * steps[steps.length >> 1] : Infinity;
}

/** The indices to draw: the lowest and highest value of each pixel column, and all ends of pauses. */
function thin(line, from, to, columns) {
  if (to - from <= 4 * columns) return Array.from({ length: to - from }, (_, i) => from + i);
  const kept = [];
  const size = Math.ceil((to - from) / columns);
  for (let begin = from; begin < to; begin += size) {
    const end = Math.min(begin + size, to);
    const found = new Set([begin, end - 1]);
    let low = begin, high = begin;
    for (let i = begin; i < end; i++) {
      if (line.values[i] < line.values[low] || Number.isNaN(line.values[low])) low = i;
      if (line.values[i] > line.values[high] || Number.isNaN(line.values[high])) high = i;
      if (Number.isNaN(line.values[i])) found.add(i);
      if (i > from && line.times[i] - line.times[i - 1] > line.breakAfter) found.add(i - 1).add(i);
    }
    kept.push(...[...found.add(low).add(high)].sort((a, b) => a - b));
  }
  return kept;
}

/** The lowest and highest value, with a margin of 6 % of their difference; null without a value. */
function rangeOf(values, from, to) {
  let low = Infinity, high = -Infinity;
  for (let i = from; i < to; i++) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  if (low > high) return null;
  const room = (high - low) * 0.06 || Math.abs(low) * 1e-3 || 1e-9;
  return [low - room, high + room];
}
