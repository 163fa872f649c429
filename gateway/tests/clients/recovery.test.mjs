// Clients that lose their connection, or whose gateway loses Redis: how the official SDK and EventSource recover.

import assert from "node:assert/strict";

import { openPage } from "./browser.mjs";
import { ENCODINGS, Events, Sdk } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";
import { Proxy } from "./proxy.mjs";

/** Options of the SDK for fast reconnects. */
const FAST_RECONNECT = { minReconnectDelay: 10, maxReconnectDelay: 50 };

const namespace = (rules) => `
[sse]
retry = "100ms"

[[namespace]]
name = "all"
channels = ["*"]
subscribe = "anyone"
${rules}
`;

for (const encoding of ENCODINGS) {
  scenario(`${encoding}: the SDK recovers what it missed while disconnected`, async (stage) => {
    const { redis, proxy, sdk, channel } = await subscribe(stage, encoding);
    assert.equal(channel.contexts[0].wasRecovering, false);
    assert.deepEqual([channel.contexts[0].recoverable, channel.contexts[0].positioned], [true, true]);
    await publish(redis, channel, [1, 2]);
    for (const [first, last] of [[3, 5], [6, 6]]) {
      await whileDisconnected(proxy, sdk, () => publishAll(redis, numbers(first, last)));
      await until("the SDK has recovered", () => channel.received.length >= last);
      const { wasRecovering, recovered } = channel.contexts.at(-1);
      assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
    }
    await publish(redis, channel, [7]);
    assert.deepEqual(channel.received, numbers(1, 7), "missing, duplicate or out of order");
    assert.deepEqual(channel.offsets, numbers(1, 7));
  });

  scenario(`${encoding}: an SDK that missed nothing while disconnected has recovered`, async (stage) => {
    const { redis, proxy, sdk, channel } = await subscribe(stage, encoding);
    await publish(redis, channel, [1]);
    await whileDisconnected(proxy, sdk, () => {});
    await until("the SDK has resubscribed", () => channel.contexts.length === 2);
    const { wasRecovering, recovered } = channel.contexts[1];
    assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
    await publish(redis, channel, [2]);
    assert.deepEqual(channel.received, [1, 2]);
  });

  scenario(`${encoding}: the SDK is notified when it missed more than the history, and continues`, async (stage) => {
    const { redis, proxy, sdk, channel } = await subscribe(stage, encoding, namespace("history = { size = 2 }"));
    await publish(redis, channel, [1, 2]);
    await whileDisconnected(proxy, sdk, () => publishAll(redis, [3, 4, 5]));
    await until("the SDK has resubscribed", () => channel.contexts.length === 2);
    const { wasRecovering, recovered } = channel.contexts[1];
    assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: false });
    await publish(redis, channel, [6]);
    assert.deepEqual(channel.received, [1, 2, 6]);
    await whileDisconnected(proxy, sdk, () => publishAll(redis, [7, 8]));
    await until("the missed publications are recovered", () => channel.received.length === 5);
    assert.deepEqual(channel.received, [1, 2, 6, 7, 8]);
    assert.equal(channel.contexts[2].recovered, true);
  });

  scenario(`${encoding}: the SDK is notified of a Redis outage and stays connected`, async (stage) => {
    const { redis, gateway, sdk, channel } = await subscribe(stage, encoding);
    await publish(redis, channel, [1]);
    const [{ streamPosition }] = channel.contexts;
    for (const round of [1, 2]) {
      await outage(redis, gateway);
      await until("the SDK has resubscribed", () => channel.contexts.length === 1 + round);
      const { wasRecovering, recovered, streamPosition: now } = channel.contexts[round];
      assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: false });
      assert.notEqual(now.epoch, streamPosition.epoch, "later publications belong to another sequence");
      await publish(redis, channel, [1 + round]);
    }
    assert.deepEqual(channel.received, [1, 2, 3]);
    assert.deepEqual(sdk.errors, [], "it stayed connected");
  });

  scenario(`${encoding}: many subscriptions of one SDK recover independently`, async (stage) => {
    const redis = await stage.redis();
    const proxy = await Proxy.start(stage, await stage.gateway({ redis }));
    const sdk = new Sdk(stage, proxy, encoding, FAST_RECONNECT);
    const channels = numbers(1, 30).map((number) => record(sdk, `room:${number}`));
    await sdk.connect();
    await until("all are subscribed", () => channels.every(({ contexts }) => contexts.length === 1));
    await whileDisconnected(proxy, sdk, async () => {
      for (const [index, { name }] of channels.entries()) {
        for (const number of numbers(1, index % 4)) await redis.publish(name, `${number}`);
      }
    });
    await until("all have resubscribed", () => channels.every(({ contexts }) => contexts.length === 2));
    for (const { name } of channels) await redis.publish(name, "9");
    await until("all receive", () => channels.every(({ received }) => received.at(-1) === 9));
    channels.forEach(({ name, received, contexts }, index) => {
      assert.deepEqual(received, [...numbers(1, index % 4), 9], name);
      assert.equal(contexts[1].recovered, true, name);
    });
  });

  scenario(`${encoding}: the SDK begins with the last publication if the namespace delivers it`, async (stage) => {
    const config = namespace('replay = "last"');
    const { redis, gateway, channel } = await subscribe(stage, encoding, config);
    await publish(redis, channel, [1, 2]);
    const late = new Sdk(stage, gateway, encoding);
    const last = record(late, channel.name);
    await late.connect();
    await until("the last publication", () => last.received.length > 0);
    await publish(redis, channel, [3]);
    await until("the next publication", () => last.received.length > 1);
    assert.deepEqual(last.received, [2, 3]);
  });

  scenario(`${encoding}: the SDK reads a channel's history page by page`, async (stage) => {
    const { redis, sdk, channel } = await subscribe(stage, encoding);
    await publish(redis, channel, numbers(1, 5));
    const page = async (options) => {
      const { publications, epoch, offset } = await channel.subscription.history(options);
      assert.deepEqual([epoch, offset], [channel.contexts[0].streamPosition.epoch, 5]);
      return publications.map(({ data }) => number(data));
    };
    assert.deepEqual(await page({ limit: 0 }), []);
    assert.deepEqual(await page({ limit: 2 }), [1, 2]);
    assert.deepEqual(await page({ limit: -1 }), numbers(1, 5));
    assert.deepEqual(await page({ limit: 2, reverse: true }), [5, 4]);
    const { epoch } = channel.contexts[0].streamPosition;
    assert.deepEqual(await page({ limit: 10, since: { epoch, offset: 3 } }), [4, 5]);
    const rejected = channel.subscription.history({ limit: 1, since: { epoch: "another", offset: 3 } });
    await assert.rejects(rejected, ({ code }) => code === 112);
    await assert.rejects(sdk.client.history("elsewhere", { limit: 1 }), ({ code }) => code === 103);
  });
}

scenario("EventSource (npm): resumes automatically, and receives a gap event when it cannot", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis, config: namespace("history = { size = 3 }") });
  const proxy = await Proxy.start(stage, gateway);
  const events = await new Events(stage, `${proxy.http}/sse/news`).subscribed();
  const received = () => events.of("message").map(({ data }) => Number(data));
  for (const [first, last] of [[1, 3], [4, 6]]) {
    proxy.disconnect();
    await publishAll(redis, numbers(first, last));
    proxy.restore();
    await until("the stream has recovered", () => received().length >= last);
    assert.deepEqual(received(), numbers(1, last));
    assert.match(events.of("subscribed").at(-1).data, /"recovered":true/);
  }
  proxy.disconnect();
  await publishAll(redis, numbers(7, 10));
  proxy.restore();
  await until("the stream has reconnected", () => events.of("gap").length > 0);
  assert.deepEqual(JSON.parse(events.of("gap")[0].data), { channel: "news", reason: "unrecoverable" });
  await publishAll(redis, [11]);
  await until("the stream continues", () => received().at(-1) === 11);
  assert.deepEqual(received(), [...numbers(1, 6), 11]);
  assert.equal(events.of("gap").length, 1);
});

for (const [path, name] of [["/sse/news", "message"], ["/sse?channel=other&channel=news", "news"]]) {
  scenario(`Chromium: an EventSource on ${path} receives everything despite repeated cuts`, async (stage) => {
    const redis = await stage.redis();
    const gateway = await stage.gateway({ redis, config: namespace("history = { size = 1000 }") });
    const proxy = await Proxy.start(stage, gateway);
    const page = await openPage(stage);
    await page.goto(`${proxy.http}/health`);
    await page.evaluate(listen, { path, name });
    const seen = (what) => page.evaluate((what) => log[what], what);
    await until("the page is subscribed", async () => (await seen("subscribed")).length === 1);
    let last = 0;
    for (let round = 1; round <= 4; round += 1) {
      await publishAll(redis, numbers(last + 1, last + 10));
      await until("the page has received some", async () => (await seen("received")).length > last);
      // Odd rounds cut the connection during a burst, even ones miss all of it.
      if (round % 2) proxy.cut();
      else proxy.disconnect();
      await publishAll(redis, numbers(last + 11, last + 20));
      proxy.restore();
      last += 20;
      await until("the page has received all", async () => (await seen("received")).length >= last);
    }
    assert.deepEqual(await seen("received"), numbers(1, last).map(String));
    assert.deepEqual(await seen("gaps"), []);
    const subscribed = await seen("subscribed");
    assert.ok(subscribed.length >= 5, `it reconnected ${subscribed.length - 1} times`);
    subscribed.slice(1).forEach((data) => assert.equal(JSON.parse(data).channels.news.recovered, true));
  });
}

/** A gateway on Redis, a proxy, and an SDK that subscribes to `news` through it. */
async function subscribe(stage, encoding, config) {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis, config });
  const proxy = await Proxy.start(stage, gateway);
  const sdk = new Sdk(stage, proxy, encoding, FAST_RECONNECT);
  const channel = record(sdk, "news");
  await sdk.connect();
  await channel.subscription.ready(10_000);
  return { redis, gateway, proxy, sdk, channel };
}

/** Subscribes, and records numbers, offsets and each `subscribed` event. */
function record(sdk, name) {
  const channel = { name, received: [], offsets: [], contexts: [] };
  channel.subscription = sdk.client.newSubscription(name);
  channel.subscription.on("subscribed", (context) => channel.contexts.push(context));
  channel.subscription.on("publication", ({ data, offset }) => {
    channel.received.push(number(data));
    channel.offsets.push(offset);
  });
  channel.subscription.subscribe();
  return channel;
}

/** Disconnects the SDK, runs `meanwhile`, and restores the network. */
async function whileDisconnected(proxy, sdk, meanwhile) {
  proxy.disconnect();
  await until("the SDK is disconnected", () => sdk.client.state === "connecting");
  await meanwhile();
  proxy.restore();
}

/** Restarts Redis and waits until the gateway has noticed. */
async function outage(redis, gateway) {
  const ready = async (status) => (await fetch(`${gateway.http}/ready`)).status === status;
  await redis.kill();
  await until("the link is down", () => ready(503));
  await redis.restart();
  await until("the link is up", () => ready(200));
}

async function publishAll(redis, list, channel = "news") {
  for (const number of list) await redis.publish(channel, `${number}`);
}

/** Publishes, and waits until the application has received it. */
async function publish(redis, channel, list) {
  const before = channel.received.length;
  await publishAll(redis, list, channel.name);
  await until(`${list} is received`, () => channel.received.length >= before + list.length);
}

const number = (data) => Number(data instanceof Uint8Array ? Buffer.from(data).toString() : data);

function numbers(first, last) {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

/* Runs inside the page. */
function listen({ path, name }) {
  window.log = { received: [], gaps: [], subscribed: [] };
  const source = new EventSource(path);
  source.addEventListener(name, ({ data }) => log.received.push(data));
  source.addEventListener("gap", ({ data }) => log.gaps.push(data));
  source.addEventListener("subscribed", ({ data }) => log.subscribed.push(data));
}
