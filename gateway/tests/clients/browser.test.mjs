// EventSource and WebSocket of Chromium, and the SDK in Chromium.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { openPage } from "./browser.mjs";
import { scenario, until } from "./harness.mjs";

const require = createRequire(import.meta.url);
const dist = join(dirname(require.resolve("centrifuge")), "../dist");
const BUNDLES = { json: "centrifuge.js", protobuf: "centrifuge.protobuf.js" };

scenario("Chromium: EventSource and WebSocket receive a PUBLISH byte for byte", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const page = await openPage(stage);
  await page.goto(`${gateway.http}/health`);
  await page.evaluate(listen, { ws: gateway.ws, channel: "web-signals" });
  await until("both subscribed", () => page.evaluate(() => seen.subscribed === 2));
  const sent = ['{"type":"offer","sdp":"v=0\\r\\n"}', '{ "b" : 1.0 }', '"ü 🎉"'];
  for (const payload of sent) await redis.publish("web-signals", payload);
  await until("all on both", () => page.evaluate((n) => seen.sse.length >= n && seen.ws.length >= n, sent.length));
  const { sse, ws } = await page.evaluate(() => seen);
  assert.deepEqual(sse, sent);
  const heads = ws.map((line) => line.startsWith('{"push":{"channel":"web-signals","pub":{"data":'));
  assert.deepEqual(heads, sent.map(() => true));
  sent.forEach((payload, index) => assert.ok(ws[index].includes(`"data":${payload}`), ws[index]));
});

scenario("Chromium: EventSource receives named events of several channels", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const page = await openPage(stage);
  await page.goto(`${gateway.http}/health`);
  await page.evaluate(() => {
    window.seen = [];
    const source = new EventSource("/sse?channel=a&channel=b");
    for (const name of ["subscribed", "a", "b", "message"]) {
      source.addEventListener(name, ({ data }) => seen.push(name === "subscribed" ? name : `${name}=${data}`));
    }
  });
  await until("subscribed", () => page.evaluate(() => seen.includes("subscribed")));
  await redis.publish("a", "line 1\nline 2");
  await redis.publish("b", "2");
  await until("both events", () => page.evaluate(() => seen.length === 3));
  assert.deepEqual(await page.evaluate(() => seen), ["subscribed", "a=line 1\nline 2", "b=2"]);
});

for (const [encoding, bundle] of Object.entries(BUNDLES)) {
  scenario(`Chromium: the SDK in ${encoding} subscribes, receives, publishes and receives replies`, async (stage) => {
    const redis = await stage.redis();
    const gateway = await stage.gateway({ redis });
    const page = await openPage(stage, { bypassCSP: true });
    await page.goto(`${gateway.http}/health`);
    await page.addScriptTag({ path: join(dist, bundle) });
    const subscribed = await page.evaluate(subscribeWithSdk, { ws: gateway.ws, encoding });
    assert.equal(subscribed, "subscribed");
    await redis.publish("web-signals", '{"type":"offer"}');
    await page.evaluate(() => sdk.publish("web-signals", encode('{"type":"answer"}')));
    await until("both publications", () => page.evaluate(() => seen.length === 2));
    assert.deepEqual(await page.evaluate(() => seen), ['{"type":"offer"}', '{"type":"answer"}']);
    assert.equal(await page.evaluate(() => sdk.rpc("x", encode("1")).catch(({ code }) => code)), 108);
    assert.deepEqual(await page.evaluate(() => errors), []);
  });
}

/* The functions below run inside the page. */

function listen({ ws, channel }) {
  window.seen = { subscribed: 0, sse: [], ws: [] };
  const source = new EventSource(`/sse/${channel}`);
  source.onmessage = ({ data }) => seen.sse.push(data);
  source.addEventListener("subscribed", () => (seen.subscribed += 1));
  const socket = new WebSocket(ws);
  socket.onopen = () => socket.send(`{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"${channel}"}}`);
  socket.onmessage = ({ data }) => {
    for (const line of data.split("\n")) {
      if (line === "{}") socket.send("{}");
      else if (line.startsWith('{"id":2,"subscribe"')) seen.subscribed += 1;
      else if (line.startsWith('{"push"')) seen.ws.push(line);
    }
  };
}

async function subscribeWithSdk({ ws, encoding }) {
  const decode = (data) => (encoding === "json" ? JSON.stringify(data) : new TextDecoder().decode(data));
  window.encode = (json) => (encoding === "json" ? JSON.parse(json) : new TextEncoder().encode(json));
  window.seen = [];
  window.errors = [];
  window.sdk = new Centrifuge(ws);
  sdk.on("error", ({ error }) => errors.push(error));
  sdk.on("disconnected", (context) => errors.push(context));
  const subscription = sdk.newSubscription("web-signals");
  subscription.on("publication", ({ data }) => seen.push(decode(data)));
  subscription.subscribe();
  sdk.connect();
  await subscription.ready(10000);
  return subscription.state;
}
