// The recorded WebRTC session, replayed by redis-cli through two gateways on one Redis.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { ENCODINGS, Events, PlainWebSocket, RedisSubscriber, Sdk, rawPublications } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";

const CHANNELS = ["nest-signals", "web-signals"];
const SESSION = readFileSync(new URL("../data/signals.jsonl", import.meta.url), "utf8")
  .split("\n")
  .filter(Boolean)
  .map((line) => ({ channel: JSON.parse(line).channel, text: rawMessage(line) }));

scenario("the recorded session arrives byte-identical and in order on both transports of two gateways", async (stage) => {
  const redis = await stage.redis();
  const clients = [];
  for (const gateway of [await stage.gateway({ redis }), await stage.gateway({ redis })]) {
    for (const channel of CHANNELS) {
      const events = await new Events(stage, `${gateway.http}/sse/${channel}`).subscribed();
      const socket = await new PlainWebSocket(stage, gateway).subscribe(channel);
      clients.push({ who: "EventSource", channel, got: () => events.of("message").map(({ data }) => data) });
      clients.push({ who: "WebSocket", channel, got: () => socket.payloads(channel).map(String) });
    }
  }
  for (const { channel, text } of SESSION) await redis.publish(channel, text);
  for (const { who, channel, got } of clients) {
    const sent = SESSION.filter((message) => message.channel === channel).map(({ text }) => text);
    await until(`${who} has all of ${channel}`, () => got().length >= sent.length);
    assert.deepEqual(got(), sent, `${who} on ${channel}`);
  }
});

for (const encoding of ENCODINGS) {
  scenario(`${encoding}: what the app publishes arrives at plain Redis subscribers and at the browsers`, async (stage) => {
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
    // In JSON the SDK writes the text itself, by JSON.stringify: that is what the app has sent.
    const wrote = encoding === "json" ? sent.map((text) => JSON.stringify(JSON.parse(text))) : sent;
    assert.deepEqual(backend.payloads("web-signals").map(String), wrote);
    assert.deepEqual(browser.of("message").map(({ data }) => data), wrote);
  });
}

/** The text of `message` in a line of the recording, as it was recorded. */
function rawMessage(line) {
  const { channel } = JSON.parse(line);
  const start = line.indexOf('"message":') + '"message":'.length;
  return rawPublications([`{"push":{"channel":"${channel}","pub":{"data":${line.slice(start)}`], channel)[0];
}
