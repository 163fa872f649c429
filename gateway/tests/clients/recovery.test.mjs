// Clients that lose their connection, or whose gateway lost Redis: what the official SDK and EventSource make of it.

import assert from "node:assert/strict";

import { openPage } from "./browser.mjs";
import { ENCODINGS, Events, Sdk } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";
import { Proxy } from "./proxy.mjs";

/** The SDK comes back at once. */
const EAGER = { minReconnectDelay: 10, maxReconnectDelay: 50 };

const namespace = (rules) => `
[sse]
retry = "100ms"

[[namespace]]
name = "all"
channels = ["*"]
${rules}
`;

for (const encoding of ENCODINGS) {
  scenario(`${encoding}: the SDK recovers what it missed while its network was away`, async (stage) => {
    const { redis, proxy, sdk, channel } = await follow(stage, encoding);
    assert.equal(channel.contexts[0].wasRecovering, false);
    assert.deepEqual([channel.contexts[0].recoverable, channel.contexts[0].positioned], [true, true]);
    await publish(redis, channel, [1, 2]);
    for (const [first, last] of [[3, 5], [6, 6]]) {
      await away(proxy, sdk, () => say(redis, numbers(first, last)));
      await until("the SDK is back", () => channel.heard.length >= last);
      const { wasRecovering, recovered } = channel.contexts.at(-1);
      assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
    }
    await publish(redis, channel, [7]);
    assert.deepEqual(channel.heard, numbers(1, 7), "everything once, in order");
    assert.deepEqual(channel.offsets, numbers(1, 7));
  });

  scenario(`${encoding}: an SDK that missed nothing while it was away has recovered`, async (stage) => {
    const { redis, proxy, sdk, channel } = await follow(stage, encoding);
    await publish(redis, channel, [1]);
    await away(proxy, sdk, () => {});
    await until("the SDK is back", () => channel.contexts.length === 2);
    const { wasRecovering, recovered } = channel.contexts[1];
    assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
    await publish(redis, channel, [2]);
    assert.deepEqual(channel.heard, [1, 2]);
  });

  scenario(`${encoding}: the SDK is told when more was missed than is kept, and goes on`, async (stage) => {
    const { redis, proxy, sdk, channel } = await follow(stage, encoding, namespace("history = { size = 2 }"));
    await publish(redis, channel, [1, 2]);
    await away(proxy, sdk, () => say(redis, [3, 4, 5]));
    await until("the SDK is back", () => channel.contexts.length === 2);
    const { wasRecovering, recovered } = channel.contexts[1];
    assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: false });
    await publish(redis, channel, [6]);
    assert.deepEqual(channel.heard, [1, 2, 6]);
    await away(proxy, sdk, () => say(redis, [7, 8]));
    await until("what fits is recovered", () => channel.heard.length === 5);
    assert.deepEqual(channel.heard, [1, 2, 6, 7, 8]);
    assert.equal(channel.contexts[2].recovered, true);
  });

  scenario(`${encoding}: the SDK is told that Redis was away, without losing its connection`, async (stage) => {
    const { redis, gateway, sdk, channel } = await follow(stage, encoding);
    await publish(redis, channel, [1]);
    const [{ streamPosition }] = channel.contexts;
    for (const round of [1, 2]) {
      await outage(redis, gateway);
      await until("the SDK has subscribed again", () => channel.contexts.length === 1 + round);
      const { wasRecovering, recovered, streamPosition: now } = channel.contexts[round];
      assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: false });
      assert.notEqual(now.epoch, streamPosition.epoch, "what comes now belongs to another sequence");
      await publish(redis, channel, [1 + round]);
    }
    assert.deepEqual(channel.heard, [1, 2, 3]);
    assert.deepEqual(sdk.troubles, [], "it was never disconnected");
  });

  scenario(`${encoding}: many subscriptions of one SDK recover, each its own`, async (stage) => {
    const redis = await stage.redis();
    const proxy = await Proxy.before(stage, await stage.gateway({ redis }));
    const sdk = new Sdk(stage, proxy, encoding, EAGER);
    const channels = numbers(1, 30).map((number) => watch(sdk, `room:${number}`));
    await sdk.connect();
    await until("all are subscribed", () => channels.every(({ contexts }) => contexts.length === 1));
    await away(proxy, sdk, async () => {
      for (const [index, { name }] of channels.entries()) {
        for (const number of numbers(1, index % 4)) await redis.publish(name, `${number}`);
      }
    });
    await until("all are back", () => channels.every(({ contexts }) => contexts.length === 2));
    for (const { name } of channels) await redis.publish(name, "9");
    await until("all hear on", () => channels.every(({ heard }) => heard.at(-1) === 9));
    channels.forEach(({ name, heard, contexts }, index) => {
      assert.deepEqual(heard, [...numbers(1, index % 4), 9], name);
      assert.equal(contexts[1].recovered, true, name);
    });
  });

  scenario(`${encoding}: the SDK begins with the newest publication where the namespace delivers it`, async (stage) => {
    const config = namespace('replay = "last"');
    const { redis, gateway, channel } = await follow(stage, encoding, config);
    await publish(redis, channel, [1, 2]);
    const late = new Sdk(stage, gateway, encoding);
    const newest = watch(late, channel.name);
    await late.connect();
    await until("the newest", () => newest.heard.length > 0);
    await publish(redis, channel, [3]);
    await until("what follows", () => newest.heard.length > 1);
    assert.deepEqual(newest.heard, [2, 3]);
  });

  scenario(`${encoding}: the SDK reads a channel's history page by page`, async (stage) => {
    const { redis, sdk, channel } = await follow(stage, encoding);
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
    const refused = channel.subscription.history({ limit: 1, since: { epoch: "another", offset: 3 } });
    await assert.rejects(refused, ({ code }) => code === 112);
    await assert.rejects(sdk.client.history("elsewhere", { limit: 1 }), ({ code }) => code === 103);
  });
}

scenario("EventSource (npm): resumes by itself, and is told when it cannot", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis, config: namespace("history = { size = 3 }") });
  const proxy = await Proxy.before(stage, gateway);
  const events = await new Events(stage, `${proxy.http}/sse/news`).subscribed();
  const heard = () => events.of("message").map(({ data }) => Number(data));
  for (const [first, last] of [[1, 3], [4, 6]]) {
    proxy.part();
    await say(redis, numbers(first, last));
    proxy.heal();
    await until("the stream is back", () => heard().length >= last);
    assert.deepEqual(heard(), numbers(1, last));
    assert.match(events.of("subscribed").at(-1).data, /"recovered":true/);
  }
  proxy.part();
  await say(redis, numbers(7, 10));
  proxy.heal();
  await until("the stream is back", () => events.of("gap").length > 0);
  assert.deepEqual(JSON.parse(events.of("gap")[0].data), { channel: "news", reason: "unrecoverable" });
  await say(redis, [11]);
  await until("the stream goes on", () => heard().at(-1) === 11);
  assert.deepEqual(heard(), [...numbers(1, 6), 11]);
  assert.equal(events.of("gap").length, 1);
});

for (const [path, name] of [["/sse/news", "message"], ["/sse?channel=aside&channel=news", "news"]]) {
  scenario(`Chromium: an EventSource on ${path} that is cut again and again has the published log`, async (stage) => {
    const redis = await stage.redis();
    const gateway = await stage.gateway({ redis, config: namespace("history = { size = 1000 }") });
    const proxy = await Proxy.before(stage, gateway);
    const page = await openPage(stage);
    await page.goto(`${proxy.http}/health`);
    await page.evaluate(listen, { path, name });
    const seen = (what) => page.evaluate((what) => log[what], what);
    await until("the page is subscribed", async () => (await seen("subscribed")).length === 1);
    let last = 0;
    for (let round = 1; round <= 4; round += 1) {
      await say(redis, numbers(last + 1, last + 10));
      await until("some are on the page", async () => (await seen("heard")).length > last);
      // One is cut in the middle of a burst, the next one misses all of it.
      if (round % 2) proxy.cut();
      else proxy.part();
      await say(redis, numbers(last + 11, last + 20));
      proxy.heal();
      last += 20;
      await until("all are on the page", async () => (await seen("heard")).length >= last);
    }
    assert.deepEqual(await seen("heard"), numbers(1, last).map(String));
    assert.deepEqual(await seen("gaps"), []);
    const subscribed = await seen("subscribed");
    assert.ok(subscribed.length >= 5, `it came back ${subscribed.length - 1} times`);
    subscribed.slice(1).forEach((data) => assert.equal(JSON.parse(data).channels.news.recovered, true));
  });
}

/** A gateway on Redis, a network that can be cut, and an SDK that follows `news` through it. */
async function follow(stage, encoding, config) {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis, config });
  const proxy = await Proxy.before(stage, gateway);
  const sdk = new Sdk(stage, proxy, encoding, EAGER);
  const channel = watch(sdk, "news");
  await sdk.connect();
  await channel.subscription.ready(10_000);
  return { redis, gateway, proxy, sdk, channel };
}

/** Subscribes, and notes what the application is told: numbers, their offsets, and each `subscribed` event. */
function watch(sdk, name) {
  const channel = { name, heard: [], offsets: [], contexts: [] };
  channel.subscription = sdk.client.newSubscription(name);
  channel.subscription.on("subscribed", (context) => channel.contexts.push(context));
  channel.subscription.on("publication", ({ data, offset }) => {
    channel.heard.push(number(data));
    channel.offsets.push(offset);
  });
  channel.subscription.subscribe();
  return channel;
}

/** The network is away while `meanwhile` happens. */
async function away(proxy, sdk, meanwhile) {
  proxy.part();
  await until("the SDK knows", () => sdk.client.state === "connecting");
  await meanwhile();
  proxy.heal();
}

/** Redis dies and comes back, and the gateway knows of both. */
async function outage(redis, gateway) {
  const ready = async (status) => (await fetch(`${gateway.http}/ready`)).status === status;
  await redis.kill();
  await until("the gateway is deaf", () => ready(503));
  await redis.restart();
  await until("the gateway hears again", () => ready(200));
}

async function say(redis, list, channel = "news") {
  for (const number of list) await redis.publish(channel, `${number}`);
}

/** Publishes, and waits until the SDK has given it to the application. */
async function publish(redis, channel, list) {
  const before = channel.heard.length;
  await say(redis, list, channel.name);
  await until(`${list} is heard`, () => channel.heard.length >= before + list.length);
}

const number = (data) => Number(data instanceof Uint8Array ? Buffer.from(data).toString() : data);

function numbers(first, last) {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

/* Runs inside the page. */
function listen({ path, name }) {
  window.log = { heard: [], gaps: [], subscribed: [] };
  const source = new EventSource(path);
  source.addEventListener(name, ({ data }) => log.heard.push(data));
  source.addEventListener("gap", ({ data }) => log.gaps.push(data));
  source.addEventListener("subscribed", ({ data }) => log.subscribed.push(data));
}
