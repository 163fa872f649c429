// One half of the page: state, meters and log of one transport.
// Log entries are drawn in batches, so that a high message rate costs a bounded amount of work.

import { byId, duration, milliseconds, number } from "./format.js";
import { latencyOf } from "./publisher.js";

const LOG_MAX = 200;
const DRAW_INTERVAL_MS = 30;
const SPARK_SECONDS = 60;
const LATENCIES_MAX = 101;
const TEXT_MAX = 2000;

export class Panel {
  count = 0;
  gaps = 0;
  recovered = 0;
  #state = { text: "connecting", tone: "wait" };
  #warning = "";
  #thisSecond = 0;
  #perSecond = new Array(SPARK_SECONDS).fill(0);
  #latencies = [];
  #entries = [];
  #drawing = 0;

  constructor(side) {
    this.side = side;
  }

  /** The channel is subscribed, and nothing is known to be wrong. */
  get isLive() {
    return this.#state.tone === "good" && !this.#warning;
  }

  set address(text) {
    this.#part("address").textContent = text;
  }

  state(text, tone = "wait") {
    this.#state = { text, tone };
    this.#showState();
  }

  /** A reason to distrust an open connection; empty without one. */
  warn(reason) {
    this.#warning = reason;
    this.#showState();
  }

  message(text, { recovered = false } = {}) {
    const latency = recovered ? null : latencyOf(this.side, text);
    this.count += 1;
    this.#thisSecond += 1;
    if (recovered) this.recovered += 1;
    if (latency !== null) this.#latencies.push(latency);
    if (this.#latencies.length > LATENCIES_MAX) this.#latencies.shift();
    const note = recovered ? "recovered" : latency === null ? "" : milliseconds(latency);
    this.#add({ text, tone: recovered ? "recovered" : "message", note });
  }

  gap(reason) {
    this.gaps += 1;
    this.#add({ text: `gap: ${reason}`, tone: "gap" });
  }

  note(text) {
    this.#add({ text, tone: "note" });
  }

  failure(text) {
    this.#add({ text, tone: "bad" });
  }

  /** Once a second: the rate, the chart, and the age of the last data. */
  tick(ageMs) {
    this.#perSecond.push(this.#thisSecond);
    this.#perSecond.shift();
    this.#part("rate").textContent = number(this.#thisSecond);
    this.#thisSecond = 0;
    this.#part("age").textContent = ageMs === undefined ? "–" : `${duration(ageMs / 1000)} ago`;
    this.#drawChart();
  }

  #part(name) {
    return byId(`${this.side}-${name}`);
  }

  #showState() {
    const isSuspect = this.#state.tone === "good" && this.#warning;
    const text = isSuspect ? `${this.#state.text}, ${this.#warning}` : this.#state.text;
    const element = this.#part("state");
    // Screen readers announce each change.
    if (element.textContent !== text) element.textContent = text;
    element.dataset.tone = isSuspect ? "wait" : this.#state.tone;
  }

  #add({ text, tone, note = "" }) {
    const cut = text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}…` : text;
    this.#entries.push({ text: cut, tone, note, at: new Date().toTimeString().slice(0, 8) });
    if (this.#entries.length > LOG_MAX) this.#entries.shift();
    this.#drawing ||= setTimeout(() => this.#draw(), DRAW_INTERVAL_MS);
  }

  #draw() {
    this.#drawing = 0;
    const log = this.#part("log");
    log.prepend(...this.#entries.map(logLine).reverse());
    this.#entries = [];
    while (log.childElementCount > LOG_MAX) log.lastElementChild.remove();
    for (const name of ["count", "gaps", "recovered"]) this.#part(name).textContent = number(this[name]);
    const sorted = [...this.#latencies].sort((a, b) => a - b);
    if (sorted.length) this.#part("median").textContent = milliseconds(sorted[sorted.length >> 1]);
  }

  #drawChart() {
    const canvas = this.#part("spark");
    const scale = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const context = canvas.getContext("2d");
    context.fillStyle = getComputedStyle(canvas).color;
    const top = Math.max(5, ...this.#perSecond);
    const step = canvas.width / SPARK_SECONDS;
    this.#perSecond.forEach((value, second) => {
      const height = value && Math.max(2 * scale, (value / top) * canvas.height);
      context.fillRect(second * step, canvas.height - height, Math.max(1, step - scale), height);
    });
  }
}

function logLine({ text, tone, note, at }) {
  const line = document.createElement("li");
  line.dataset.tone = tone;
  for (const [name, content] of [["at", at], ["text", text], ["note", note]]) {
    const cell = document.createElement("span");
    cell.className = name;
    cell.textContent = content;
    line.append(cell);
  }
  return line;
}
