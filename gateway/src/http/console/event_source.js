// The SSE subscriber: a plain EventSource. The browser reconnects it and sends the last event ID; the page reopens it
// when the browser gives up, when nothing arrives, and after the button has cut it.

import { Backoff, gatewayUrl, milliseconds } from "./format.js";
import { GRACE_MS, Watchdog } from "./watchdog.js";

const CONNECT_TIMEOUT_MS = 15_000;

export class EventSourceSubscriber {
  name = "SSE";
  #source;
  #timer;
  #channel;
  #lastEventId = "";
  #backoff = new Backoff();
  /** The first ping has not arrived yet: it follows the recovered messages. */
  #isBeginning = false;
  #isResumed = false;
  watchdog = new Watchdog(() => this.#onSilence());

  constructor(panel) {
    this.panel = panel;
  }

  /** Called when the stream has begun and the recovered messages have arrived. */
  onRecovery = () => {};

  follow(channel) {
    this.#channel = channel;
    this.#lastEventId = "";
    this.open();
  }

  /** Opens the stream after the last event received. */
  open() {
    this.close();
    const path = `sse/${encodeURIComponent(this.#channel)}`;
    this.panel.address = `GET /${path}`;
    this.panel.state("connecting");
    const url = gatewayUrl(path);
    // Heartbeats as events: a page cannot see comments.
    url.searchParams.set("ping", "true");
    if (this.#lastEventId) url.searchParams.set("last_event_id", this.#lastEventId);
    const source = (this.#source = new EventSource(url));
    this.watchdog.limit(CONNECT_TIMEOUT_MS);
    this.#listen("message", (event) => this.panel.message(event.data, { recovered: this.#isBeginning && this.#isResumed }));
    this.#listen("subscribed", (event) => this.#onSubscribed(JSON.parse(event.data)));
    this.#listen("gap", (event) => this.panel.gap(JSON.parse(event.data).reason));
    this.#listen("ping", (event) => this.#onPing(JSON.parse(event.data)));
    // The browser's own error event has no data; the gateway's event of that name has.
    source.addEventListener("error", (event) => {
      if (event.data === undefined) this.#onInterruption();
      else this.panel.failure(`error: ${event.data}`);
    });
  }

  close() {
    clearTimeout(this.#timer);
    this.watchdog.stop();
    this.#source?.close();
  }

  #listen(name, handle) {
    this.#source.addEventListener(name, (event) => {
      this.#lastEventId = event.lastEventId || this.#lastEventId;
      this.watchdog.feed();
      handle(event);
    });
  }

  #onSubscribed({ channels }) {
    this.#backoff.reset();
    this.#isResumed = channels[this.#channel]?.recovered === true;
    this.#isBeginning = true;
    this.panel.state("connected", "good");
    this.panel.note(this.#isResumed ? "subscribed, resumed" : "subscribed");
  }

  #onPing({ interval_ms: interval }) {
    this.watchdog.limit(interval + GRACE_MS);
    if (this.#isBeginning) this.onRecovery();
    this.#isBeginning = false;
  }

  #onInterruption() {
    if (this.#source.readyState !== EventSource.CLOSED) {
      if (this.panel.isLive) this.panel.failure("connection lost; the browser reconnects");
      return this.panel.state("reconnecting");
    }
    // The browser never reconnects after a rejection.
    const delay = this.#backoff.next();
    this.panel.failure(`rejected; next attempt in ${milliseconds(delay)}`);
    this.panel.state("rejected", "bad");
    this.watchdog.stop();
    this.#timer = setTimeout(() => this.open(), delay);
  }

  #onSilence() {
    this.panel.failure("no data within the heartbeat interval; reconnecting");
    this.open();
  }
}
