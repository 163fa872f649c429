// Channels whose sequence is a log in Redis: how the official SDK and EventSource handle a crashed gateway, a move to
// another one, a cut link, and a lost log.

import assert from "node:assert/strict";

import { ENCODINGS, Events, Sdk } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";
import { Proxy } from "./proxy.mjs";

/** Options of the SDK for fast reconnects. */
const FAST_RECONNECT = { minReconnectDelay: 10, maxReconnectDelay: 50 };

const CONFIG = `
[sse]
retry = "100ms"

[[namespace]]
name = "status"
channels = ["status:*"]
subscribe = "anyone"
source = "stream"
replay = "last"

[[namespace]]
name = "jobs"
channels = ["job:*"]
subscribe = "anyone"
source = "stream"
publish = "subscribers"
`;

for (const encoding of ENCODINGS) {
  scenario(`${encoding}: the SDK continues at another gateway after a crash`, async (stage) => {
    // A client that subscribed before the first publication holds a provisional position; see docs/protocol.md.
    const { gateways, target, sdk, job } = await subscribe(stage, encoding, (gateway) => append(gateway, [0]));
    await append(gateways[1], [1, 2, 3]);
    await until("the first publications are received", () => job.received.length === 3);
    await failOver(gateways, target, sdk, () => append(gateways[1], [4, 5, 6]));
    await until("missed publications are received", () => job.received.length === 6);
    await append(gateways[1], [7]);
    await until("the next publication is received", () => job.received.length === 7);
    assert.deepEqual(job.received, numbers(1, 7), "missing, duplicate or out of order");
    assert.deepEqual(job.offsets, numbers(2, 8));
    const { wasRecovering, recovered } = job.contexts.at(-1);
    assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
    const [before, after] = [job.contexts[0], job.contexts.at(-1)].map(({ streamPosition }) => streamPosition.epoch);
    assert.equal(after, before, "the sequence differs between gateways");
  });

  scenario(`${encoding}: a cut link to Redis does not affect the SDK`, async (stage) => {
    const { redis, gateways, sdk, job } = await subscribe(stage, encoding);
    for (let round = 0; round < 5; round += 1) {
      await until("the link is cut", async () => Number(await redis.cli(["CLIENT", "KILL", "TYPE", "pubsub"])) > 0);
      await append(gateways[round % 2], numbers(10 * round + 1, 10 * round + 10));
    }
    await until("everything is received", () => job.received.length >= 50);
    assert.deepEqual(job.received, numbers(1, 50));
    assert.deepEqual(job.offsets, numbers(1, 50));
    assert.equal(job.contexts.length, 1, "it stayed subscribed");
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`${encoding}: the SDK is notified of a lost log and continues with the new one`, async (stage) => {
    const { redis, gateways, sdk, job } = await subscribe(stage, encoding);
    await append(gateways[0], [1, 2]);
    await until("the first publications are received", () => job.received.length === 2);
    const ready = async (status) => (await fetch(`${gateways[0].http}/ready`)).status === status;
    await redis.kill();
    await until("the link is down", () => ready(503));
    await redis.restart();
    await until("the SDK has resubscribed", () => job.contexts.length === 2);
    const { wasRecovering, recovered, streamPosition } = job.contexts[1];
    assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: false });
    assert.notEqual(streamPosition.epoch, job.contexts[0].streamPosition.epoch);
    await until("the link is up", () => ready(200));
    await append(gateways[0], [3]);
    await until("the next publication is received", () => job.received.length === 3);
    assert.deepEqual([job.received, job.offsets], [[1, 2, 3], [1, 2, 1]]);
    assert.deepEqual(sdk.errors, [], "it stayed connected");
  });

  scenario(`${encoding}: the SDK receives tags, and its publications are in the log`, async (stage) => {
    const { gateways, sdk, job } = await subscribe(stage, encoding);
    const { result } = await gateways[1].api("publish", { channel: "job:1", data: 1, tags: { state: "active" } });
    assert.equal(result.offset, 1);
    await job.subscription.publish(sdk.data("2"));
    await until("both are received", () => job.received.length === 2);
    assert.deepEqual([job.received, job.offsets, job.tags], [[1, 2], [1, 2], [{ state: "active" }, {}]]);
    const { publications } = await job.subscription.history({ limit: -1 });
    assert.deepEqual(publications.map(({ data }) => number(data)), [1, 2]);
    assert.deepEqual(publications[0].tags, { state: "active" });
    for (const gateway of gateways) {
      const { result } = await gateway.api("history", { channel: "job:1", limit: -1 });
      assert.deepEqual(result.publications.map(({ offset, data }) => [offset, data]), [[1, 1], [2, 2]]);
    }
  });

  scenario(`${encoding}: the SDK begins with the last value, even at a gateway that never subscribed to the channel`, async (stage) => {
    const redis = await stage.redis();
    const [first, second] = await startGateways(stage, redis);
    for (const data of ["queued", "running", "done"]) await first.api("publish", { channel: "status:7", data });
    await kill(first);
    const sdk = new Sdk(stage, second, encoding);
    const { publications } = await sdk.connect().then(() => sdk.subscribe("status:7"));
    await until("the last value", () => publications.length > 0);
    assert.deepEqual(publications.map(({ data, offset }) => [text(data), offset]), [['"done"', 3]]);
  });
}

for (const [path, name] of [["/sse/job:1", "message"], ["/sse?channel=job:2&channel=job:1", "job:1"]]) {
  scenario(`an EventSource on ${path} continues at another gateway after a crash`, async (stage) => {
    const redis = await stage.redis();
    const gateways = await startGateways(stage, redis);
    const target = { port: gateways[0].port };
    const proxy = await Proxy.start(stage, target);
    const events = await new Events(stage, `${proxy.http}${path}`, ["job:1"]).subscribed();
    const received = () => events.of(name).map(({ data }) => Number(data));
    await append(gateways[1], [1, 2, 3]);
    await until("the first publications are received", () => received().length === 3);
    await kill(gateways[0]);
    await append(gateways[1], [4, 5, 6]);
    target.port = gateways[1].port;
    await until("missed publications are received", () => received().length === 6);
    await append(gateways[1], [7]);
    await until("the next publication is received", () => received().length === 7);
    assert.deepEqual(received(), numbers(1, 7));
    assert.deepEqual(events.of("gap"), []);
    assert.equal(JSON.parse(events.of("subscribed").at(-1).data).channels["job:1"].recovered, true);
  });
}

scenario("an EventSource is notified of a lost log and continues with the new one", async (stage) => {
  const redis = await stage.redis();
  const [gateway] = await startGateways(stage, redis);
  const events = await new Events(stage, `${gateway.http}/sse/job:1`).subscribed();
  const received = () => events.of("message").map(({ data }) => Number(data));
  await append(gateway, [1, 2]);
  await until("the first publications are received", () => received().length === 2);
  await redis.kill();
  await redis.restart();
  await until("the gap event", () => events.of("gap").length > 0);
  assert.deepEqual(events.of("gap").map(({ data }) => JSON.parse(data)), [{ channel: "job:1", reason: "log-lost" }]);
  await append(gateway, [3, 4]);
  await until("the next publications are received", () => received().length === 4);
  assert.deepEqual(received(), [1, 2, 3, 4]);
  assert.equal(events.of("subscribed").length, 1, "the stream stayed open");
});

/** Two gateways on one Redis. */
function startGateways(stage, redis) {
  return Promise.all([stage.gateway({ redis, config: CONFIG }), stage.gateway({ redis, config: CONFIG })]);
}

/** An SDK that subscribes to `job:1` through a proxy to the first of two gateways, after `before` has run. */
async function subscribe(stage, encoding, before = async () => {}) {
  const redis = await stage.redis();
  const gateways = await startGateways(stage, redis);
  await before(gateways[1]);
  const target = { port: gateways[0].port };
  const sdk = new Sdk(stage, await Proxy.start(stage, target), encoding, FAST_RECONNECT);
  const job = { received: [], offsets: [], tags: [], contexts: [] };
  job.subscription = sdk.client.newSubscription("job:1");
  job.subscription.on("subscribed", (context) => job.contexts.push(context));
  job.subscription.on("publication", ({ data, offset, tags }) => {
    job.received.push(number(data));
    job.offsets.push(offset);
    job.tags.push(tags ?? {});
  });
  job.subscription.subscribe();
  await sdk.connect();
  await job.subscription.ready(10_000);
  return { redis, gateways, target, sdk, job };
}

/** Kills the first gateway, runs `meanwhile`, and redirects the proxy to the second one. */
async function failOver(gateways, target, sdk, meanwhile) {
  await kill(gateways[0]);
  await until("the SDK is disconnected", () => sdk.client.state === "connecting");
  await meanwhile();
  target.port = gateways[1].port;
}

async function kill({ process }) {
  const ended = new Promise((done) => process.once("exit", done));
  process.kill("SIGKILL");
  await ended;
}

/** Publishes each number once through the log, with retries. */
async function append(gateway, list) {
  for (const number of list) {
    const request = { channel: "job:1", data: number, idempotency_key: `number-${number}` };
    await until(`${number} is confirmed`, async () => (await gateway.api("publish", request)).result);
  }
}

const text = (data) => (data instanceof Uint8Array ? Buffer.from(data).toString() : JSON.stringify(data));

const number = (data) => Number(text(data));

function numbers(first, last) {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
