// The official SDK in Node, in both encodings, on a gateway with a real Redis.

import assert from "node:assert/strict";

import { ENCODINGS, PlainWebSocket, RedisSubscriber, Sdk } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";

const texts = (buffers) => buffers.map((buffer) => buffer.toString());

const NAMESPACES = `
[redis.default]
url = "redis://127.0.0.1:1"

[websocket]
ping_interval = "1s"
pong_timeout = "900ms"

[[namespace]]
name = "closed"
channels = ["closed-*"]
redis = "default"
subscribe = "nobody"

[[namespace]]
name = "quiet"
channels = ["quiet-*"]
subscribe = "anyone"
redis = "default"
publish = "nobody"

[[namespace]]
name = "open"
channels = ["open-*"]
subscribe = "anyone"
redis = "default"
publish = "subscribers"
`;

for (const encoding of ENCODINGS) {
  scenario(`${encoding}: a PUBLISH reaches the SDK byte for byte and in order`, async (stage) => {
    const redis = await stage.redis();
    const sdk = await new Sdk(stage, await stage.gateway({ redis }), encoding).connect();
    const { publications } = await sdk.subscribe("web-signals");
    const sent = ['{"type":"offer"}', '{"b" : 1.0,"a":[1e3, "\\u00e9é\\/"]}', "7", "null", '"ü"', "[]"];
    for (const text of sent) await redis.publish("web-signals", text);
    await until("all publications", () => publications.length >= sent.length);
    assert.deepEqual(texts(sdk.payloads("web-signals", publications)), sent);
    if (encoding === "json") assert.deepEqual(publications.map(({ data }) => data), sent.map((text) => JSON.parse(text)));
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`${encoding}: what the SDK publishes reaches a plain Redis subscriber byte for byte`, async (stage) => {
    const redis = await stage.redis();
    const sdk = await new Sdk(stage, await stage.gateway({ redis }), encoding).connect();
    const backend = await new RedisSubscriber(stage, redis).subscribe("nest-signals");
    await sdk.subscribe("nest-signals");
    const sent = ['{"type":"answer","payload":{"sdp":"v=0\\r\\n"},"n":1}', '"text"', "12"];
    for (const text of sent) await sdk.client.publish("nest-signals", sdk.data(text));
    await until("the backend has all", () => backend.payloads("nest-signals").length >= sent.length);
    assert.deepEqual(texts(backend.payloads("nest-signals")), sent);
  });

  scenario(`${encoding}: publications stop with unsubscribe, and missed ones are recovered with subscribe`, async (stage) => {
    const redis = await stage.redis();
    const sdk = await new Sdk(stage, await stage.gateway({ redis }), encoding).connect();
    const left = await sdk.subscribe("left");
    const kept = await sdk.subscribe("kept");
    left.subscription.unsubscribe();
    await sdk.client.publish("kept", sdk.data('"the unsubscribe is processed"'));
    await redis.publish("left", "1");
    await redis.publish("kept", "2");
    await until("the other channel is received", () => kept.publications.length === 2);
    assert.equal(left.publications.length, 0);
    left.subscription.subscribe();
    await left.subscription.ready(10_000);
    await redis.publish("left", "3");
    await until("the channel is received again", () => left.publications.length === 2);
    const received = left.publications.map(({ data }) => (encoding === "json" ? `${data}` : `${Buffer.from(data)}`));
    assert.deepEqual(received, ["1", "3"]);
    assert.equal(left.subscription.state, "subscribed");
  });

  scenario(`${encoding}: many subscriptions in the SDK's first frame all succeed and receive`, async (stage) => {
    const redis = await stage.redis();
    const sdk = new Sdk(stage, await stage.gateway({ redis }), encoding);
    const channels = Array.from({ length: 40 }, (_, n) => `room:${n}`);
    const subscribed = channels.map((channel) => sdk.subscribe(channel));
    const [, ...all] = await Promise.all([sdk.connect(), ...subscribed]);
    for (const channel of channels) await redis.publish(channel, JSON.stringify(channel));
    await until("every channel is received", () => all.every(({ publications }) => publications.length === 1));
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`${encoding}: rpc is rejected with error 108, and the connection stays open`, async (stage) => {
    const sdk = await new Sdk(stage, await stage.gateway(), encoding).connect();
    await assert.rejects(sdk.client.rpc("anything", sdk.data("{}")), ({ code }) => code === 108);
    const { publications } = await sdk.subscribe("after");
    await sdk.client.publish("after", sdk.data("1"));
    await until("the connection is open", () => publications.length === 1);
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`${encoding}: a forbidden channel is rejected with its documented error`, async (stage) => {
    const redis = await stage.redis();
    const gateway = await stage.gateway({ redis, config: NAMESPACES });
    const sdk = await new Sdk(stage, gateway, encoding).connect();
    const refusals = [["control\u0007", 107], ["x".repeat(256), 107], ["elsewhere", 102], ["closed-1", 103]];
    for (const [channel, code] of refusals) assert.equal(await errorCode(sdk, channel), code, JSON.stringify(channel));
    const { publications } = await sdk.subscribe("open-1");
    await assert.rejects(sdk.client.publish("open-2", sdk.data("1")), ({ code }) => code === 103);
    await sdk.subscribe("quiet-1");
    await assert.rejects(sdk.client.publish("quiet-1", sdk.data("1")), ({ code }) => code === 103);
    await sdk.client.publish("open-1", sdk.data("2"));
    await until("the allowed channel is received", () => publications.length === 1);
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`${encoding}: the SDK responds to server pings, and the connection stays open`, async (stage) => {
    const redis = await stage.redis();
    const gateway = await stage.gateway({ redis, config: NAMESPACES });
    const sdk = await new Sdk(stage, gateway, encoding).connect();
    const { publications } = await sdk.subscribe("open-pings");
    const isPing = (frame) => (encoding === "json" ? frame.toString() === "{}" : Buffer.from(frame).equals(Buffer.of(0)));
    await until("four pings", () => sdk.received.filter(isPing).length >= 4);
    await until("as many pongs", () => sdk.sent.filter(isPing).length >= 4);
    await redis.publish("open-pings", "1");
    await until("the connection is open", () => publications.length === 1);
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`${encoding}: one client's publication reaches clients of either encoding`, async (stage) => {
    const gateway = await stage.gateway();
    const others = [];
    for (const other of ENCODINGS) others.push(await new Sdk(stage, gateway, other).connect());
    const received = await Promise.all(others.map((other) => other.subscribe("shared")));
    const publisher = await new Sdk(stage, gateway, encoding).connect();
    await publisher.subscribe("shared");
    await publisher.client.publish("shared", publisher.data('{"a":[1,2]}'));
    await until("both receive", () => received.every(({ publications }) => publications.length === 1));
    others.forEach((other, index) => {
      assert.deepEqual(texts(other.payloads("shared", received[index].publications)), ['{"a":[1,2]}']);
    });
  });
}

scenario("payloads that are not a single line of JSON arrive as documented in each encoding", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const json = await new Sdk(stage, gateway, "json").connect();
  const protobuf = await new Sdk(stage, gateway, "protobuf").connect();
  const asJson = await json.subscribe("odd");
  const asProtobuf = await protobuf.subscribe("odd");
  const plain = await new PlainWebSocket(stage, gateway).subscribe("odd");
  const pretty = '{\r\n  "a": [\n    1,\n    "x\\ny"\n  ]\n}\n';
  const sent = [pretty, "not JSON", 'say "hi"\n\\o/', "", "{broken", "1 2", Buffer.from([0, 0xff, 0xfe, 0x80, 0x0a])];
  for (const payload of sent) await redis.publish("odd", payload);
  await until("all in JSON", () => asJson.publications.length >= sent.length);
  await until("all in Protobuf", () => asProtobuf.publications.length >= sent.length);
  await until("all on the plain WebSocket", () => plain.payloads("odd").length >= sent.length);

  assert.deepEqual(protobuf.payloads("odd", asProtobuf.publications), sent.map((payload) => Buffer.from(payload)));
  assert.equal(plain.payloads("odd")[0].toString(), pretty.replace(/[\r\n]/g, ""));
  const values = [{ a: [1, "x\ny"] }, ...sent.slice(1, -1), Buffer.from(sent.at(-1)).toString("base64")];
  assert.deepEqual(asJson.publications.map(({ data }) => data), values);
  assert.deepEqual(asJson.publications.map(({ tags }) => tags?.encoding), [...Array(6), "base64"]);
  assert.deepEqual([...json.errors, ...protobuf.errors], []);
});

/** The code with which a forbidden subscription ends. */
function errorCode(sdk, channel) {
  const subscription = sdk.client.newSubscription(channel);
  const ended = new Promise((done) => subscription.once("unsubscribed", ({ code }) => done(code)));
  subscription.subscribe();
  return ended;
}
