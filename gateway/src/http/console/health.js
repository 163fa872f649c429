// Polls `/health`, shows it, and reports what makes an open connection untrustworthy.

import { byId, duration, gatewayUrl, number } from "./format.js";

const POLL_INTERVAL_MS = 2000;
const TIMEOUT_MS = 3000;
const BROKERS = { memory: "in memory", redis: "Redis" };

/** Polls for as long as the page is open; calls `onWarning` with a reason, or with an empty text. */
export async function pollHealth(onWarning) {
  try {
    const response = await fetch(gatewayUrl("health"), { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    // A gateway with `internal_listen` serves health on another listener.
    if (response.status === 404) {
      showState("health is on another listener", "wait");
      onWarning("");
    } else {
      const health = await response.json();
      show(health);
      onWarning(health.status === "ok" ? "" : "Redis link down");
    }
  } catch {
    showState("not responding", "bad");
    showLinks([]);
    onWarning("gateway not responding");
  }
  setTimeout(pollHealth, POLL_INTERVAL_MS, onWarning);
}

function showState(text, tone) {
  const element = byId("gateway-state");
  if (element.textContent !== text) element.textContent = text;
  element.dataset.tone = tone;
}

function show(health) {
  const status = health.draining ? "shutting down" : health.status;
  showState(status, status === "ok" ? "good" : "wait");
  byId("version").textContent = health.version;
  byId("node-broker").textContent = BROKERS[health.cache] ?? health.cache;
  byId("node-websocket").textContent = number(health.connections.websocket);
  byId("node-sse").textContent = number(health.connections.sse);
  byId("node-channels").textContent = number(health.channels);
  byId("node-uptime").textContent = duration(health.uptime_seconds);
  const isLocal = health.cache === "memory" && !health.links.length;
  byId("code-redis-title").textContent = isLocal
    ? "Publish from any backend: start the gateway with REDIS_URL, then"
    : "Publish from any backend, through Redis";
  showLinks(health.links);
}

function showLinks(links) {
  byId("links").hidden = !links.length;
  byId("links").replaceChildren(...links.map(linkLine));
}

function linkLine({ redis, link, up, cause }) {
  const line = document.createElement("li");
  line.className = "state";
  line.dataset.tone = up ? "good" : "bad";
  line.textContent = `${redis} ${link}: ${up ? "up" : `down${cause ? `, ${cause}` : ""}`}`;
  return line;
}
