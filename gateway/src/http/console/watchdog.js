// Detects a connection that is open but delivers nothing.

/** Added to the interval that the gateway states, for delays on the network. */
export const GRACE_MS = 5000;

/** Calls `onSilence` when `feed` has not been called for the time set by `limit`. */
export class Watchdog {
  #onSilence;
  #timer;
  #limitMs = 0;
  #fedAt;

  constructor(onSilence) {
    this.#onSilence = onSilence;
  }

  /** Milliseconds since the last data; `undefined` before the first. */
  get age() {
    return this.#fedAt === undefined ? undefined : performance.now() - this.#fedAt;
  }

  /** Starts again with this limit; 0 stops. */
  limit(ms) {
    this.#limitMs = ms;
    this.#restart();
  }

  /** Data has arrived. */
  feed() {
    this.#fedAt = performance.now();
    this.#restart();
  }

  stop() {
    this.limit(0);
  }

  #restart() {
    clearTimeout(this.#timer);
    if (this.#limitMs > 0) this.#timer = setTimeout(this.#onSilence, this.#limitMs);
  }
}
