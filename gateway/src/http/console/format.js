// Text and small helpers that the other modules share.

export const byId = (id) => document.getElementById(id);

/** An absolute URL of the gateway, also if a proxy serves it below a path. */
export const gatewayUrl = (path) => new URL(path, new URL(".", location.href));

export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

export function number(value) {
  return Number.isFinite(value) ? value.toLocaleString("en") : "–";
}

export function milliseconds(value) {
  if (value < 9.95) return `${value.toFixed(1)} ms`;
  return value < 9950 ? `${Math.round(value)} ms` : `${Math.round(value / 1000)} s`;
}

export function duration(seconds) {
  if (seconds < 1) return "0 s";
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  return units
    .slice(first, first + 2)
    .map(([unit, size], index) => `${Math.floor((index ? seconds % units[first][1] : seconds) / size)} ${unit}`)
    .join(" ");
}

/** Reconnect delays with full jitter, so that many pages do not reconnect at the same time. */
export class Backoff {
  #attempts = 0;
  reset() {
    this.#attempts = 0;
  }
  next() {
    return 200 + Math.random() * Math.min(20_000, 500 * 2 ** this.#attempts++);
  }
}
