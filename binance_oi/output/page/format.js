/* Numbers and times as text, and elements of the page, for the other two scripts.
   The rule of this file: it knows nothing of the page's state. Text becomes text of the page, never
   markup. */
"use strict";

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 12 });
const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
const NONE = "–";

/** Whether there is a number to show. */
function isKnown(value) {
  return value !== null && value !== undefined && !Number.isNaN(value);
}

/** All digits that matter: at least two decimals, and at least seven digits of a small number. */
function full(value) {
  if (!isKnown(value)) return NONE;
  const whole = value ? Math.floor(Math.log10(Math.abs(value))) + 1 : 1;
  return grouped.format(Number(value.toFixed(Math.min(12, Math.max(2, 7 - whole)))));
}

/** Three or more digits, such as 6.07 B. */
function short(value) {
  if (!isKnown(value)) return NONE;
  const size = Math.abs(value);
  // 999,999 is 1.00 M: the text of a smaller unit would be 1000.00.
  const found = UNITS.find(([unit]) => size >= unit * 0.999995);
  if (found) return `${(value / found[0]).toFixed(2)} ${found[1]}`;
  return size && size < 1 ? grouped.format(Number(value.toPrecision(3))) : value.toFixed(2);
}

/** A change with its sign; a change that rounds to zero has no sign. */
function signed(value) {
  if (!isKnown(value)) return NONE;
  const text = Math.abs(value).toFixed(2);
  return Number(text) ? `${value < 0 ? "−" : "+"}${text}` : text;
}

function percent(value) {
  return isKnown(value) ? `${signed(value)} %` : NONE;
}

/** The class of a change, by its text: a change of 0.00 is neither up nor down. */
function toneOf(value) {
  return { "+": "up", "−": "down" }[signed(value)[0]] || "";
}

/** A number of things: 1 gap, 2 gaps. */
function counted(number, thing) {
  return `${grouped.format(number)} ${thing}${number === 1 ? "" : "s"}`;
}

/** A time as the page shows it: UTC, to the second. */
function clock(time) {
  return new Date(time).toISOString().slice(0, 19).replace("T", " ");
}

/** The time of day alone. */
function dayTime(time) {
  return `${clock(time).slice(11)} UTC`;
}

/** A new element with attributes and children; a string becomes text. */
function make(name, attributes = {}, ...children) {
  return build(document.createElement(name), attributes, children);
}

/** A new element of a drawing. */
function draw(name, attributes = {}, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function build(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// -- the labels of a chart ----------------------------------------------------------------------

/** The distance of the labels of an axis, and the text of a value with as many digits as they need. */
function axis(low, high, labels) {
  const least = (high - low) / Math.max(2, labels);
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= least * (1 - 1e-9));
  const largest = Math.max(Math.abs(low), Math.abs(high));
  const [unit, name] = UNITS.find(([each]) => each > 1e3 && largest >= each) || [1, ""];
  const digits = Math.max(0, -Math.floor(Math.log10(step / unit) + 1e-9));
  const text = (value, more = 0) => {
    const [whole, rest] = (value / unit).toFixed(Math.min(12, digits + more)).split(".");
    return `${grouped.format(whole)}${rest ? `.${rest}` : ""}${name && ` ${name}`}`;
  };
  return { step, text };
}

/** The text of a time on an axis with labels `step` ms apart. */
function label(time, step) {
  const text = new Date(time).toISOString();
  if (step >= 864e5 || time % 864e5 === 0) return text.slice(5, 10);
  return step < 6e4 ? text.slice(11, 19) : text.slice(11, 16);
}
