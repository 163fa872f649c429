// A recorded WebRTC session, replayed by redis-cli through two gateways on one Redis.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { ENCODINGS, Events, PlainWebSocket, RedisSubscriber, Sdk, rawPublications } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";

const CHANNELS = ["nest-signals", "web-signals"];
const SESSION = readFileSync(new URL("../data/signals.jsonl", import.meta.url), "utf8")
  .split("\n")
  .filter(Boolean)
  .map((line) => ({ channel: JSON.parse(line).channel, text: rawMessage(line) }));

scenario("both transports of two gateways deliver the recorded session byte for byte and in order", async (stage) => {
  const redis = await stage.redis();
  const clients = [];
  for (const gateway of [await stage.gateway({ redis }), await stage.gateway({ redis })]) {
    for (const channel of CHANNELS) {
      const events = await new Events(stage, `${gateway.http}/sse/${channel}`).subscribed();
      const socket = await new PlainWebSocket(stage, gateway).subscribe(channel);
      clients.push({ client: "EventSource", channel, received: () => events.of("message").map(({ data }) => data) });
      clients.push({ client: "WebSocket", channel, received: () => socket.payloads(channel).map(String) });
    }
  }
  for (const { channel, text } of SESSION) await redis.publish(channel, text);
  for (const { client, channel, received } of clients) {
    const sent = SESSION.filter((message) => message.channel === channel).map(({ text }) => text);
    await until(`${client} has all of ${channel}`, () => received().length >= sent.length);
    assert.deepEqual(received(), sent, `${client} on ${channel}`);
  }
});

for (const encoding of ENCODINGS) {
  scenario(`${encoding}: publications of the app reach plain Redis subscribers and browsers`, async (stage) => {
    const redis = await stage.redis();
    const [near, far] = [await stage.gateway({ redis }), await stage.gateway({ redis })];
    const backend = await new RedisSubscriber(stage, redis).subscribe("web-signals");
    const browser = await new Events(stage, `${far.http}/sse/web-signals`).subscribed();
    const app = await new Sdk(stage, near, encoding).connect();
    await app.subscribe("web-signals");
    const sent = SESSION.filter(({ channel }) => channel === "web-signals").map(({ text }) => text);
    for (const text of sent) await app.client.publish("web-signals", app.data(text));
    await until("the backend has all", () => backend.payloads("web-signals").length >= sent.length);
    await until("the browser has all", () => browser.of("message").length >= sent.length);
    // In JSON the SDK encodes the text with JSON.stringify.
    const expected = encoding === "json" ? sent.map((text) => JSON.stringify(JSON.parse(text))) : sent;
    assert.deepEqual(backend.payloads("web-signals").map(String), expected);
    assert.deepEqual(browser.of("message").map(({ data }) => data), expected);
  });
}

/** The text of `message` in a line of the recording, unchanged. */
function rawMessage(line) {
  const { channel } = JSON.parse(line);
  const start = line.indexOf('"message":') + '"message":'.length;
  return rawPublications([`{"push":{"channel":"${channel}","pub":{"data":${line.slice(start)}`], channel)[0];
}
