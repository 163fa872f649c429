// Connects the form, the two subscribers and the health of the node.

import { EventSourceSubscriber } from "./event_source.js";
import { byId, milliseconds } from "./format.js";
import { pollHealth } from "./health.js";
import { Panel } from "./panel.js";
import { publish } from "./publisher.js";
import { demonstrate } from "./recovery.js";
import { copy, showSnippets } from "./snippets.js";
import { WebSocketSubscriber } from "./websocket.js";

const DEFAULT_CHANNEL = "demo";
const SUBSCRIBE_TIMEOUT_MS = 1500;

const channelField = byId("publish-channel");
const dataField = byId("publish-data");
const panels = [new Panel("sse"), new Panel("ws")];
const subscribers = [new EventSourceSubscriber(panels[0]), new WebSocketSubscriber(panels[1])];
let channel = "";

function follow(next) {
  if (!next || next === channel) return;
  channel = next;
  history.replaceState(null, "", next === DEFAULT_CHANNEL ? location.pathname : `#${encodeURIComponent(next)}`);
  for (const subscriber of subscribers) subscriber.follow(next);
  showSnippets(channel, dataField.value);
}

/** Waits until both panels are subscribed, so that they receive the first message to a new channel. */
async function bothLive() {
  const deadline = performance.now() + SUBSCRIBE_TIMEOUT_MS;
  while (performance.now() < deadline && !panels.every((panel) => panel.isLive)) {
    await new Promise((done) => setTimeout(done, 20));
  }
}

function report(id, text, tone = "note") {
  byId(id).textContent = text;
  byId(id).dataset.tone = tone;
}

async function publishTimes(times) {
  follow(channelField.value.trim());
  await bothLive();
  const start = performance.now();
  try {
    for (let turn = 0; turn < times; turn += 1) await publish(channel, dataField.value);
    const count = times === 1 ? "1 message" : `${times} messages`;
    report("publish-status", `Published ${count} to ${channel} in ${milliseconds(performance.now() - start)}.`);
  } catch (error) {
    report("publish-status", `Not published: ${error.message}`, "bad");
  }
}

async function cut(button) {
  // Not `disabled`: the button keeps the keyboard focus.
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  const result = await demonstrate(channel, subscribers, (text) => report("cut-status", text));
  report("cut-status", result.text, result.isComplete ? "good" : "bad");
  button.removeAttribute("aria-disabled");
}

byId("publish-form").addEventListener("submit", (event) => {
  event.preventDefault();
  publishTimes(1);
});
byId("publish-burst").addEventListener("click", () => publishTimes(20));
byId("cut-button").addEventListener("click", ({ currentTarget }) => cut(currentTarget));
channelField.addEventListener("change", () => follow(channelField.value.trim()));
dataField.addEventListener("input", () => showSnippets(channel, dataField.value));
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
setInterval(() => {
  for (const { panel, watchdog } of subscribers) panel.tick(watchdog.age);
}, 1000);

try {
  channelField.value = decodeURIComponent(location.hash.slice(1)) || channelField.value;
} catch {
  // The fragment is not a channel name.
}
follow(channelField.value);
pollHealth((reason) => {
  for (const panel of panels) panel.warn(reason);
});
