// Channels whose sequence is a log in Redis: what the official SDK and EventSource make of a gateway that dies, of
// another one in its place, of a link that was cut, and of a log that was lost.

import assert from "node:assert/strict";

import { ENCODINGS, Events, Sdk } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";
import { Proxy } from "./proxy.mjs";

/** The SDK comes back at once. */
const EAGER = { minReconnectDelay: 10, maxReconnectDelay: 50 };

const CONFIG = `
[sse]
retry = "100ms"

[[namespace]]
name = "status"
channels = ["status:*"]
source = "stream"
replay = "last"

[[namespace]]
name = "jobs"
channels = ["job:*"]
source = "stream"
publish = "subscribers"
`;

for (const encoding of ENCODINGS) {
  scenario(`${encoding}: the SDK goes on at another gateway when its own was killed`, async (stage) => {
    // A client that subscribed before the first publication holds a provisional position; see docs/protocol.md.
    const { gateways, door, sdk, job } = await follow(stage, encoding, (gateway) => append(gateway, [0]));
    await append(gateways[1], [1, 2, 3]);
    await until("the first ones are heard", () => job.heard.length === 3);
    await move(gateways, door, sdk, () => append(gateways[1], [4, 5, 6]));
    await until("what was missed is heard", () => job.heard.length === 6);
    await append(gateways[1], [7]);
    await until("what follows is heard", () => job.heard.length === 7);
    assert.deepEqual(job.heard, numbers(1, 7), "everything once, in order");
    assert.deepEqual(job.offsets, numbers(2, 8));
    const { wasRecovering, recovered } = job.contexts.at(-1);
    assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
    const [before, after] = [job.contexts[0], job.contexts.at(-1)].map(({ streamPosition }) => streamPosition.epoch);
    assert.equal(after, before, "it is the same sequence on every gateway");
  });

  scenario(`${encoding}: the SDK notices nothing when the link to Redis is cut`, async (stage) => {
    const { redis, gateways, sdk, job } = await follow(stage, encoding);
    for (let round = 0; round < 5; round += 1) {
      await until("the link is cut", async () => Number(await redis.cli(["CLIENT", "KILL", "TYPE", "pubsub"])) > 0);
      await append(gateways[round % 2], numbers(10 * round + 1, 10 * round + 10));
    }
    await until("everything is heard", () => job.heard.length >= 50);
    assert.deepEqual(job.heard, numbers(1, 50));
    assert.deepEqual(job.offsets, numbers(1, 50));
    assert.equal(job.contexts.length, 1, "it was subscribed once, and stayed so");
    assert.deepEqual(sdk.troubles, []);
  });

  scenario(`${encoding}: the SDK is told when Redis lost the log, and goes on with the new one`, async (stage) => {
    const { redis, gateways, sdk, job } = await follow(stage, encoding);
    await append(gateways[0], [1, 2]);
    await until("the first ones are heard", () => job.heard.length === 2);
    const ready = async (status) => (await fetch(`${gateways[0].http}/ready`)).status === status;
    await redis.kill();
    await until("the gateway is deaf", () => ready(503));
    await redis.restart();
    await until("the SDK has subscribed again", () => job.contexts.length === 2);
    const { wasRecovering, recovered, streamPosition } = job.contexts[1];
    assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: false });
    assert.notEqual(streamPosition.epoch, job.contexts[0].streamPosition.epoch);
    await until("the gateway hears again", () => ready(200));
    await append(gateways[0], [3]);
    await until("what follows is heard", () => job.heard.length === 3);
    assert.deepEqual([job.heard, job.offsets], [[1, 2, 3], [1, 2, 1]]);
    assert.deepEqual(sdk.troubles, [], "it was never disconnected");
  });

  scenario(`${encoding}: the SDK gets tags, and what it publishes is in the log`, async (stage) => {
    const { gateways, sdk, job } = await follow(stage, encoding);
    const { result } = await gateways[1].api("publish", { channel: "job:1", data: 1, tags: { state: "active" } });
    assert.equal(result.offset, 1);
    await job.subscription.publish(sdk.data("2"));
    await until("both are heard", () => job.heard.length === 2);
    assert.deepEqual([job.heard, job.offsets, job.tags], [[1, 2], [1, 2], [{ state: "active" }, {}]]);
    const { publications } = await job.subscription.history({ limit: -1 });
    assert.deepEqual(publications.map(({ data }) => number(data)), [1, 2]);
    assert.deepEqual(publications[0].tags, { state: "active" });
    for (const gateway of gateways) {
      const { result } = await gateway.api("history", { channel: "job:1", limit: -1 });
      assert.deepEqual(result.publications.map(({ offset, data }) => [offset, data]), [[1, 1], [2, 2]]);
    }
  });

  scenario(`${encoding}: the SDK begins with the newest value, also at a gateway that never heard of it`, async (stage) => {
    const redis = await stage.redis();
    const [first, second] = await both(stage, redis);
    for (const data of ["queued", "running", "done"]) await first.api("publish", { channel: "status:7", data });
    await end(first);
    const sdk = new Sdk(stage, second, encoding);
    const { publications } = await sdk.connect().then(() => sdk.subscribe("status:7"));
    await until("the newest", () => publications.length > 0);
    assert.deepEqual(publications.map(({ data, offset }) => [text(data), offset]), [['"done"', 3]]);
  });
}

for (const [path, name] of [["/sse/job:1", "message"], ["/sse?channel=job:2&channel=job:1", "job:1"]]) {
  scenario(`an EventSource on ${path} goes on at another gateway when its own was killed`, async (stage) => {
    const redis = await stage.redis();
    const gateways = await both(stage, redis);
    const door = { port: gateways[0].port };
    const proxy = await Proxy.before(stage, door);
    const events = await new Events(stage, `${proxy.http}${path}`, ["job:1"]).subscribed();
    const heard = () => events.of(name).map(({ data }) => Number(data));
    await append(gateways[1], [1, 2, 3]);
    await until("the first ones are heard", () => heard().length === 3);
    await end(gateways[0]);
    await append(gateways[1], [4, 5, 6]);
    door.port = gateways[1].port;
    await until("what was missed is heard", () => heard().length === 6);
    await append(gateways[1], [7]);
    await until("what follows is heard", () => heard().length === 7);
    assert.deepEqual(heard(), numbers(1, 7));
    assert.deepEqual(events.of("gap"), []);
    assert.equal(JSON.parse(events.of("subscribed").at(-1).data).channels["job:1"].recovered, true);
  });
}

scenario("an EventSource is told when Redis lost the log, and goes on with the new one", async (stage) => {
  const redis = await stage.redis();
  const [gateway] = await both(stage, redis);
  const events = await new Events(stage, `${gateway.http}/sse/job:1`).subscribed();
  const heard = () => events.of("message").map(({ data }) => Number(data));
  await append(gateway, [1, 2]);
  await until("the first ones are heard", () => heard().length === 2);
  await redis.kill();
  await redis.restart();
  await until("the gap is told", () => events.of("gap").length > 0);
  assert.deepEqual(events.of("gap").map(({ data }) => JSON.parse(data)), [{ channel: "job:1", reason: "log-lost" }]);
  await append(gateway, [3, 4]);
  await until("what follows is heard", () => heard().length === 4);
  assert.deepEqual(heard(), [1, 2, 3, 4]);
  assert.equal(events.of("subscribed").length, 1, "its stream stayed open");
});

/** Two gateways on one Redis. */
function both(stage, redis) {
  return Promise.all([stage.gateway({ redis, config: CONFIG }), stage.gateway({ redis, config: CONFIG })]);
}

/** An SDK that follows `job:1` through a door that leads to the first of two gateways, after `before` is over. */
async function follow(stage, encoding, before = async () => {}) {
  const redis = await stage.redis();
  const gateways = await both(stage, redis);
  await before(gateways[1]);
  const door = { port: gateways[0].port };
  const sdk = new Sdk(stage, await Proxy.before(stage, door), encoding, EAGER);
  const job = { heard: [], offsets: [], tags: [], contexts: [] };
  job.subscription = sdk.client.newSubscription("job:1");
  job.subscription.on("subscribed", (context) => job.contexts.push(context));
  job.subscription.on("publication", ({ data, offset, tags }) => {
    job.heard.push(number(data));
    job.offsets.push(offset);
    job.tags.push(tags ?? {});
  });
  job.subscription.subscribe();
  await sdk.connect();
  await job.subscription.ready(10_000);
  return { redis, gateways, door, sdk, job };
}

/** The first gateway is killed; the door leads to the second one when `meanwhile` is over. */
async function move(gateways, door, sdk, meanwhile) {
  await end(gateways[0]);
  await until("the SDK knows", () => sdk.client.state === "connecting");
  await meanwhile();
  door.port = gateways[1].port;
}

async function end({ process }) {
  const ended = new Promise((done) => process.once("exit", done));
  process.kill("SIGKILL");
  await ended;
}

/** Publishes numbers through the log, each once, whatever is away at the moment. */
async function append(gateway, list) {
  for (const number of list) {
    const request = { channel: "job:1", data: number, idempotency_key: `number-${number}` };
    await until(`${number} is taken`, async () => (await gateway.api("publish", request)).result);
  }
}

const text = (data) => (data instanceof Uint8Array ? Buffer.from(data).toString() : JSON.stringify(data));

const number = (data) => Number(text(data));

function numbers(first, last) {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
