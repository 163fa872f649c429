// Compatibility of the official SDK with Centrifugo: publisher info, null, unsupported subscription types, and frames
// that every JSON parser accepts.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { ENCODINGS, PlainWebSocket, Sdk } from "./clients.mjs";
import { scenario, until } from "./harness.mjs";

const LOGS = `
[[namespace]]
name = "logs"
channels = ["*"]
subscribe = "anyone"
source = "stream"
publish = "subscribers"
`;

for (const encoding of ENCODINGS) {
  scenario(`${encoding}: the SDK receives the publisher info, from the memory broker and a log`, async (stage) => {
    const onLogs = await stage.gateway({ redis: await stage.redis(), config: LOGS });
    for (const gateway of [await stage.gateway(), onLogs]) {
      const alice = new Sdk(stage, gateway, encoding);
      const identity = new Promise((done) => alice.client.once("connected", ({ client }) => done(client)));
      await alice.connect();
      const bob = await new Sdk(stage, gateway, encoding).connect();
      const { publications, subscription } = await bob.subscribe("room");
      await alice.subscribe("room");
      await alice.client.publish("room", alice.data('{"n":1}'));
      await gateway.api("publish", { channel: "room", data: 2 });
      await until("both are received", () => publications.length === 2);
      const { user, client } = publications[0].info;
      assert.deepEqual({ user, client }, { user: "", client: await identity });
      assert.equal(publications[1].info ?? undefined, undefined);
      const history = await subscription.history({ limit: 10 });
      assert.equal(history.publications[0].info.client, await identity);
      assert.deepEqual([...alice.errors, ...bob.errors], []);
    }
  });

  scenario(`${encoding}: null is published and received as null`, async (stage) => {
    const gateway = await stage.gateway();
    const sdk = await new Sdk(stage, gateway, encoding).connect();
    const { publications } = await sdk.subscribe("room");
    await sdk.client.publish("room", sdk.data("null"));
    const { result, error } = await gateway.api("publish", { channel: "room", data: null });
    assert.deepEqual([result, error], [{}, undefined]);
    await until("both are received", () => publications.length === 2);
    assert.deepEqual(sdk.payloads("room", publications).map(String), ["null", "null"]);
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`${encoding}: unsupported subscription types end with an error, and the connection stays open`, async (stage) => {
    const sdk = await new Sdk(stage, await stage.gateway(), encoding).connect();
    const tagsFilter = { op: "", key: "kind", cmp: "eq", val: "offer", vals: [], nodes: [] };
    const rejected = [
      [sdk.client.newMapSubscription("map"), 103],
      [sdk.client.newSubscription("filtered", { tagsFilter }), 107],
    ];
    for (const [subscription, code] of rejected) {
      const ended = new Promise((done) => subscription.once("unsubscribed", (context) => done(context.code)));
      subscription.subscribe();
      assert.equal(await ended, code, subscription.channel);
    }
    const { publications } = await sdk.subscribe("room");
    await sdk.client.publish("room", sdk.data("1"));
    await until("the connection is open", () => publications.length === 1);
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`${encoding}: send closes the connection with 3508`, async (stage) => {
    const sdk = await new Sdk(stage, await stage.gateway(), encoding).connect();
    const ended = new Promise((done) => sdk.client.once("disconnected", ({ code }) => done(code)));
    await sdk.client.send(sdk.data('{"into":"the void"}'));
    assert.equal(await ended, 3508);
  });
}

scenario("every frame is valid JSON for JavaScript and Python", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const plain = await new PlainWebSocket(stage, gateway).subscribe("odd");
  const nested = (depth) => "[".repeat(depth) + "]".repeat(depth);
  const sent = [
    '"\\ud800"',
    '{"\\udfff":1}',
    "1e999",
    "9".repeat(5000),
    nested(30_000),
    nested(58),
    '{"a":1.10,"a":12345678901234567890}',
    '"\\ud83d\\ude00"',
  ];
  for (const payload of sent) await redis.publish("odd", payload);
  const frames = () => plain.frames.flatMap((frame) => frame.split("\n")).filter((line) => line.includes('"pub"'));
  await until("all are received", () => frames().length === sent.length);
  const received = frames().map((frame) => JSON.parse(frame).push.pub.data);
  assert.deepEqual(received.slice(0, 5), sent.slice(0, 5), "as strings");
  assert.deepEqual(received.slice(5), sent.slice(5).map((text) => JSON.parse(text)), "unchanged");

  const script = "import json, sys\nfor line in sys.stdin: json.loads(line)['push']['pub']['data']";
  const interpreter = join(dirname(fileURLToPath(import.meta.url)), ".tools/python/bin/python");
  assert.ok(existsSync(interpreter), `${interpreter} is missing: run .ci/install`);
  const python = spawnSync(interpreter, ["-c", script], { input: frames().join("\n"), encoding: "utf8" });
  assert.equal(python.status, 0, python.stderr);
});
