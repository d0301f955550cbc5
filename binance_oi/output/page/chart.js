/* A chart of one symbol on a canvas: two lines over time, with gaps behind them.
   The rule of this file: it knows nothing of the page. It draws the lines that `show` received. The
   pointer, fingers, keys and Ctrl+wheel move the view and the crosshair, and the chart then calls
   `changed`. A line breaks where values are missing: at a NaN or a pause. Colours come from the style
   sheet. */
"use strict";

const EDGE = { left: 8, right: 64, top: 8, bottom: 22 }; // CSS pixels around the plot
const BREAK = 3; // times the median distance; the line breaks between values further apart
const LEAST_SPAN = 60e3; // ms; the deepest zoom
const STEPS = [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800]
  .map((seconds) => seconds * 1000);

class Chart {
  /** @param {HTMLCanvasElement} canvas  @param {(chart: Chart) => void} changed  */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.lines = []; // {name, colour, times, values, digits}
    this.gaps = []; // {first, last, reason}
    this.whole = [0, 1]; // ms
    this.view = [0, 1]; // ms
    this.at = null; // ms under the crosshair
    this.dragged = null; // [from, to] in CSS pixels
    this.fingers = new Map();
    this.asked = false; // whether a frame is requested and not yet drawn
    this.listen();
  }

  /** Show other lines. The view stays if `keep` is set and the view overlaps the new lines. */
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

  // -- where things are ---------------------------------------------------------------------------

  get plot() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return {
      x: EDGE.left, y: EDGE.top,
      width: Math.max(1, width - EDGE.left - EDGE.right),
      height: Math.max(1, height - EDGE.top - EDGE.bottom),
    };
  }

  x(time) {
    const { x, width } = this.plot;
    return x + (time - this.view[0]) / (this.view[1] - this.view[0]) * width;
  }

  time(x) {
    const plot = this.plot;
    const share = Math.min(1, Math.max(0, (x - plot.x) / plot.width));
    return this.view[0] + share * (this.view[1] - this.view[0]);
  }

  /** The values at the crosshair: the last ones at or before it. */
  get reading() {
    if (this.at === null) return null;
    const found = this.lines.map((line) => {
      const index = after(line.times, this.at) - 1;
      const isNear = index >= 0 && this.at - line.times[index] <= line.breakAfter;
      return { name: line.name, value: isNear ? line.values[index] : NaN, digits: line.digits };
    });
    const gap = this.gaps.find((each) => each.first <= this.at && this.at <= each.last);
    return { time: this.at, values: found, gap: gap ? gap.reason : null };
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
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== pixels[0] || this.canvas.height !== pixels[1]) {
      [this.canvas.width, this.canvas.height] = pixels;
    }
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    this.colour = (name) => style.getPropertyValue(`--${name}`).trim() || "#888";
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = this.colour("raised");
    pen.fillRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    const plot = this.plot;
    pen.save();
    pen.beginPath();
    pen.rect(plot.x, plot.y, plot.width, plot.height);
    pen.clip();
    this.paintGaps(pen, plot);
    pen.restore();
    this.paintTimes(pen, plot);
    this.lines.forEach((line, number) => this.paintLine(pen, plot, line, number));
    this.paintCrosshair(pen, plot);
  }

  paintGaps(pen, plot) {
    pen.globalAlpha = 0.25;
    for (const gap of this.gaps) {
      if (gap.last < this.view[0] || gap.first > this.view[1]) continue;
      const left = this.x(gap.first);
      pen.fillStyle = this.colour(colourOf(gap.reason));
      pen.fillRect(left, plot.y, Math.max(1, this.x(gap.last) - left), plot.height);
    }
    pen.globalAlpha = 1;
  }

  paintTimes(pen, plot) {
    const [first, last] = this.view;
    const least = (last - first) / Math.max(2, plot.width / 90);
    const step = STEPS.find((each) => each >= least) || Math.ceil(least / 864e5) * 864e5;
    pen.strokeStyle = this.colour("rule");
    pen.fillStyle = this.colour("quiet");
    pen.textAlign = "center";
    pen.lineWidth = 1;
    for (let time = Math.ceil(first / step) * step; time <= last; time += step) {
      const x = Math.round(this.x(time)) + 0.5;
      pen.beginPath();
      pen.moveTo(x, plot.y);
      pen.lineTo(x, plot.y + plot.height);
      pen.stroke();
      if (x > 20 && x < plot.x + plot.width - 20) pen.fillText(label(time, step), x, plot.y + plot.height + 16);
    }
  }

  paintLine(pen, plot, line, number) {
    const from = Math.max(0, after(line.times, this.view[0]) - 1);
    const to = Math.min(line.times.length, after(line.times, this.view[1]) + 1);
    let low = Infinity, high = -Infinity;
    for (let i = from; i < to; i++) {
      if (line.values[i] < low) low = line.values[i];
      if (line.values[i] > high) high = line.values[i];
    }
    if (low > high) return;
    if (low === high) [low, high] = [low - Math.abs(low) * 1e-3 - 1e-9, high + Math.abs(high) * 1e-3 + 1e-9];
    const scale = plot.height / (high - low);
    const y = (value) => plot.y + (high - value) * scale;
    pen.save();
    pen.beginPath();
    pen.rect(plot.x, plot.y, plot.width, plot.height);
    pen.clip();
    pen.strokeStyle = this.colour(line.colour);
    pen.lineWidth = number ? 1 : 1.6;
    pen.beginPath();
    const columns = thin(line, from, to, Math.ceil(plot.width));
    let before = null;
    for (const i of columns) {
      const isBroken = before === null || Number.isNaN(line.values[i])
        || line.times[i] - line.times[before] > line.breakAfter && i === before + 1;
      if (Number.isNaN(line.values[i])) before = null;
      else {
        if (isBroken) pen.moveTo(this.x(line.times[i]), y(line.values[i]));
        pen.lineTo(this.x(line.times[i]) + (isBroken ? 0.5 : 0), y(line.values[i]));
        before = i;
      }
    }
    pen.stroke();
    pen.restore();
    if (!number) this.paintValues(pen, plot, low, high, y);
  }

  paintValues(pen, plot, low, high, y) {
    const step = round((high - low) / Math.max(2, plot.height / 50));
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 3 });
    pen.fillStyle = this.colour("quiet");
    pen.textAlign = "left";
    for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
      const text = Math.abs(tick) >= 1e5 ? short.format(tick) : tick.toFixed(Math.min(8, digits));
      pen.fillText(text, plot.x + plot.width + 6, y(tick) + 4);
    }
  }

  paintCrosshair(pen, plot) {
    if (this.dragged) {
      const [left, right] = [Math.min(...this.dragged), Math.max(...this.dragged)];
      pen.globalAlpha = 0.2;
      pen.fillStyle = this.colour("line");
      pen.fillRect(left, plot.y, right - left, plot.height);
      pen.globalAlpha = 1;
    } else if (this.at !== null) {
      const x = Math.round(this.x(this.at)) + 0.5;
      pen.strokeStyle = this.colour("text");
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(x, plot.y);
      pen.lineTo(x, plot.y + plot.height);
      pen.stroke();
    }
  }

  // -- moving -------------------------------------------------------------------------------------

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
      if (this.pointed && !this.dragged) this.point(null); // a crosshair set by keys stays
    });
    canvas.addEventListener("dblclick", () => this.zoom(...this.whole));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return; // the plain wheel scrolls the page
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
      const ends = [...this.fingers.values()];
      this.pinched = { ends: ends.map((x) => this.time(x)).sort((a, b) => a - b) };
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

  /** Zoom so that the same two instants stay under the two fingers. */
  pinch() {
    const [left, right] = [...this.fingers.values()].sort((a, b) => a - b);
    const [first, last] = this.pinched.ends;
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
      const ends = dragged.map((x) => this.time(x)).sort((a, b) => a - b);
      this.zoom(...ends);
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

  /** Move the crosshair. If it would leave the view, the view moves as well. */
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

/** The longest distance of two values that the line joins. */
function longest(times) {
  const steps = [];
  for (let i = 1; i < times.length; i++) steps.push(times[i] - times[i - 1]);
  steps.sort((a, b) => a - b);
  return steps.length ? BREAK * steps[steps.length >> 1] : Infinity;
}

/** The indices to draw: the lowest and highest value of each pixel column, both ends of each pause. */
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

/** The smallest of 1, 2 and 5 times a power of ten that is not below `number`. */
function round(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= number * (1 - 1e-9));
}

function label(time, step) {
  const text = new Date(time).toISOString();
  if (step >= 864e5 || time % 864e5 === 0) return text.slice(5, 10);
  return step < 6e4 ? text.slice(11, 19) : text.slice(11, 16);
}

function colourOf(reason) {
  if (["overrun", "late", "limited", "budget", "clock"].includes(reason)) return "held";
  return { stopped: "stop", storage: "store" }[reason] || "gap";
}
