// EventSource on /sse, in Node, on a gateway with a real Redis.

import assert from "node:assert/strict";
import { get } from "node:http";

import { Events } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";

scenario("EventSource: onmessage receives each payload of one channel unchanged", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const events = await new Events(stage, `${gateway.http}/sse/web-signals`).subscribed();
  const [{ data, id }] = events.of("subscribed");
  assert.deepEqual(Object.keys(JSON.parse(data).channels), ["web-signals"]);
  assert.match(id, /^[\w.~-]{1,400}$/, "the cursor is URL-safe");
  const sent = ['{"type":"offer"}', "plain text", '{ "b":1.0 }', "ü 🎉", " leading blank"];
  for (const text of sent) await redis.publish("web-signals", text);
  await until("all messages", () => events.of("message").length >= sent.length);
  assert.deepEqual(events.of("message").map((event) => event.data), sent);
  const cursors = new Set(events.events.map((event) => event.id));
  assert.equal(cursors.size, sent.length + 1, "each event has its own cursor");
  assert.equal(events.errors, 0);
});

scenario("EventSource: channels of one stream are received as events with their names", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const names = ["web-signals", "job:1/progress"];
  const query = names.map((name) => `channel=${encodeURIComponent(name)}`).join("&");
  const events = await new Events(stage, `${gateway.http}/sse?${query}`, names).subscribed();
  assert.deepEqual(Object.keys(JSON.parse(events.of("subscribed")[0].data).channels).sort(), [...names].sort());
  await redis.publish("web-signals", "1");
  await redis.publish("job:1/progress", "2");
  await redis.publish("elsewhere", "3");
  await redis.publish("web-signals", "4");
  await until("all events", () => events.of("web-signals").length + events.of("job:1/progress").length === 3);
  assert.deepEqual(events.of("web-signals").map(({ data }) => data), ["1", "4"]);
  assert.deepEqual(events.of("job:1/progress").map(({ data }) => data), ["2"]);
  assert.deepEqual(events.of("message"), []);
});

scenario("EventSource: every line break of a payload is preserved", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const events = await new Events(stage, `${gateway.http}/sse/lines`).subscribed();
  const sent = ["a\nb", "a\r\nb\rc", "\n", "end\n", "\n\nstart", 'event: fake\ndata: no\n\nid: 1', '{\n  "a": 1\n}'];
  for (const text of sent) await redis.publish("lines", text);
  await until("all messages", () => events.of("message").length >= sent.length);
  const expected = sent.map((text) => text.replace(/\r\n?/g, "\n"));
  assert.deepEqual(events.of("message").map((event) => event.data), expected);
});

scenario("EventSource: binary payloads are received as base64, and an empty payload is not dropped", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const events = await new Events(stage, `${gateway.http}/sse/bytes`).subscribed();
  const bytes = Buffer.from([0, 0xff, 0xfe, 0x0a, 0x80]);
  await redis.publish("bytes", bytes);
  await redis.publish("bytes", "");
  await redis.publish("bytes", "last");
  await until("the last message", () => events.of("message").at(-1)?.data === "last");
  assert.deepEqual(events.of("message").map((event) => event.data), [bytes.toString("base64"), '""', "last"]);
});

scenario("SSE: the response has the headers that browsers and proxies need", async (stage) => {
  const gateway = await stage.gateway();
  const response = await headers(stage, `${gateway.http}/sse/demo`);
  assert.equal(response.statusCode, 200);
  assert.match(response.headers["content-type"], /^text\/event-stream(;\s*charset=utf-8)?$/i);
  assert.equal(response.headers["cache-control"], "no-cache, no-store, no-transform");
  assert.equal(response.headers["x-accel-buffering"], "no");
  const text = await until("retry and subscribed", () => response.text.includes("\n\n", 20) && response.text);
  assert.match(text, /^retry: ?\d{3,5}\n/, "retry comes first");
  assert.match(text, /\nevent: ?subscribed\n/);
});

function headers(stage, url) {
  return new Promise((answered, failed) => {
    const request = get(url, (response) => {
      response.text = "";
      response.setEncoding("utf8").on("data", (chunk) => (response.text += chunk));
      answered(response);
    });
    request.on("error", failed);
    stage.after(() => request.destroy());
  });
}
