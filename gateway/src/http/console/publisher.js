// Publishes through the HTTP API, and measures how long each message takes to come back.

import { gatewayUrl, isJson } from "./format.js";

const PENDING_MAX = 1000;

/** Send times of messages that have not arrived yet, by side and by canonical JSON text. */
const pending = { sse: new Map(), ws: new Map() };

const canonical = (text) => JSON.stringify(isJson(text) ? JSON.parse(text) : text);

function remember(key, at) {
  for (const sent of Object.values(pending)) {
    if (sent.size > PENDING_MAX) sent.clear();
    sent.set(key, [...(sent.get(key) ?? []), at]);
  }
}

/** Milliseconds since this page published `text`; `null` if it did not. */
export function latencyOf(side, text) {
  const key = canonical(text);
  const times = pending[side].get(key);
  if (!times) return null;
  const sent = times.shift();
  if (!times.length) pending[side].delete(key);
  return performance.now() - sent;
}

/** The body of a publish request. JSON goes in as it was typed: parsing it would change numbers and white space. */
export function requestBody(channel, text) {
  return `{"channel":${JSON.stringify(channel)},"data":${isJson(text) ? text : JSON.stringify(text)}}`;
}

export async function publish(channel, text) {
  remember(canonical(text), performance.now());
  const response = await fetch(gatewayUrl("api/publish"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: requestBody(channel, text),
  });
  const reply = await response.json().catch(() => ({}));
  if (reply.error) throw new Error(`${reply.error.code ?? ""} ${reply.error.message ?? "rejected"}`.trim());
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`.trim());
}
