// Runs each fenced block of the README and the recipes as printed, against a real gateway and a real Redis.
// A block that is neither run here nor listed below with a reason fails the last test.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Events, PlainWebSocket } from "./clients.mjs";
import { freePort, scenario, until } from "./harness.mjs";
import { browser, clientsOf, finished, messages, node, pythonProgram, typescript } from "./snippets.mjs";
import { foregroundEnvironment, shell, stopForeground, warned } from "./snippets.mjs";
import { checkConfiguration, readSnippets, received, relocate, serves, streamStatus, subscriber } from "./snippets.mjs";

/** Blocks that no test runs, each with the reason. */
const NOT_RUN = {};

const snippets = new Map(["README.md", "docs/recipes.md"].flatMap((document) => [...readSnippets(document)]));
const used = new Set();

/** The text of a block; names it as run. */
function block(name) {
  used.add(name);
  return snippets.get(name) ?? `missing block: ${name}`;
}

const readme = (name) => block(`README.md, ${name}`);
const recipe = (name) => block(`docs/recipes.md, ${name}`);
const API_KEY = { EARSHOT_API_KEY: "0123456789abcdef0123456789abcdef" };
const OFFER = { type: "offer", room: 7 };

/* README */

const start = readme("Quick start, sh 1");
scenario("quick start: make run starts a gateway, and make test is a target", async (stage) => {
  const port = await freePort();
  const run = shell(stage, start, { port });
  await serves(port);
  await stopForeground(run);
  assert.match(await finished(run), /cargo test --workspace/);
});

const [follow, post] = [readme("Quick start, sh 2"), readme("Quick start, sh 3")];
scenario("quick start: curl subscribes, and another publishes", async (stage) => {
  const gateway = await stage.gateway();
  const subscriber = shell(stage, follow, gateway);
  await clientsOf(gateway, "demo");
  await finished(shell(stage, post, gateway));
  await until("curl prints the message", () => /^data: ?\{"type":"hello"\}$/m.test(subscriber.output()));
});

const [startWithRedis, publishOnRedis] = [readme("Quick start, sh 4"), readme("Quick start, sh 5")];
scenario("quick start: with REDIS_URL, a redis-cli PUBLISH arrives", async (stage) => {
  const redis = await stage.redis();
  const port = await freePort();
  shell(stage, startWithRedis, { port, redis });
  await serves(port);
  const events = await new Events(stage, `http://127.0.0.1:${port}/sse/demo`).subscribed();
  await finished(shell(stage, publishOnRedis, { redis }));
  await received(events, [{ type: "hello" }]);
});

const environment = readme("Closed by default, sh 1");
scenario("closed by default: the three variables open what they name, for the origin that they name", async (stage) => {
  const redis = await stage.redis();
  const port = await freePort();
  const run = shell(stage, environment, { port, redis });
  await serves(port);
  const http = `http://127.0.0.1:${port}`;
  const events = await new Events(stage, `${http}/sse/jobs:7`).subscribed();
  const headers = { "X-API-Key": (await foregroundEnvironment(run)).EARSHOT_API_KEY };
  const publish = { method: "POST", body: JSON.stringify({ channel: "jobs:7", data: OFFER }) };
  assert.equal((await fetch(`${http}/api/publish`, publish)).status, 401);
  assert.deepEqual(Object.keys(await (await fetch(`${http}/api/publish`, { ...publish, headers })).json()), ["result"]);
  await received(events, [OFFER]);
  assert.equal(await streamStatus(`${http}/sse/news`, "https://app.example.com"), 200);
  assert.equal(await streamStatus(`${http}/sse/news`, "https://other.example.com"), 403);
  assert.equal(await streamStatus(`${http}/sse/demo`, "https://app.example.com"), 404);
});

const chat = readme("Closed by default, toml 1");
scenario("closed by default: with the configuration of the chat, subscribers may publish", async (stage) => {
  checkConfiguration(stage, chat);
  const redis = await stage.redis();
  const gateway = await stage.gateway({ config: relocate(chat, { redis }) });
  const socket = await new PlainWebSocket(stage, gateway).subscribe("chat:1");
  socket.socket.send(`{"id":9,"publish":{"channel":"chat:1","data":${JSON.stringify(OFFER)}}}`);
  await until("the publication", () => socket.payloads("chat:1").length > 0);
  assert.deepEqual(socket.payloads("chat:1").map(String), [JSON.stringify(OFFER)]);
});

const sdk = readme("Client snippets, js 2");
for (const [name, snippet, warning] of [
  ["EventSource logs publications and gaps", readme("Client snippets, js 1"), "messages were missed:"],
  ["the SDK logs publications, and what was missed", sdk, "messages were missed"],
]) {
  scenario(`Chromium, another origin: ${name}`, async (stage) => {
    const redis = await stage.redis();
    const gateway = await stage.gateway({ redis });
    const page = await browser(stage, snippet, gateway);
    await clientsOf(gateway, "demo");
    await redis.publish("demo", JSON.stringify(OFFER));
    await until("the publication", () => page.logged.length > 0);
    assert.deepEqual(page.logged, [["log", OFFER]]);
    await redis.kill();
    await redis.restart();
    await until("the notice of the gap", () => warned(page, warning));
  });
}

scenario("Node: the SDK with the ws package as its second argument, as the README says", async (stage) => {
  const gateway = await stage.gateway();
  const adapted = sdk.replace('websocket");', 'websocket", { websocket: WebSocket });');
  assert.notEqual(adapted, sdk);
  const program = node(stage, { "client.mjs": `import WebSocket from "ws";\n${adapted}` }, gateway);
  await clientsOf(gateway, "demo");
  await gateway.api("publish", { channel: "demo", data: OFFER });
  await until("the publication", () => program.output().includes("{ type: 'offer', room: 7 }"));
});

const publishWithFetch = readme("Client snippets, js 3");
scenario("Node: fetch publishes, in development mode and with a key", async (stage) => {
  for (const env of [{}, API_KEY]) {
    const gateway = await stage.gateway({ env });
    const events = await new Events(stage, `${gateway.http}/sse/demo`).subscribed();
    assert.match(await finished(node(stage, { "publish.mjs": publishWithFetch }, { ...gateway, env })), /result:/);
    await received(events, [{ type: "hello" }]);
  }
});

/* Recipes: publishing */

const redisCli = recipe("redis-cli, sh 1");
scenario("redis-cli publishes an argument and a file", async (stage) => {
  const { redis, events } = await subscriber(stage, "web-signals");
  const file = '{ "type" : "offer",\n  "n": 1.0 }\n';
  await finished(shell(stage, redisCli, { redis, files: { "offer.json": file } }));
  await until("both messages", () => events.of("message").length === 2);
  const [first, second] = events.of("message").map(({ data }) => data);
  assert.equal(first, '{"type":"offer"}');
  assert.equal(second, file);
});

const nest = recipe("NestJS, ts 1");
scenario("NestJS: the service of the module publishes", async (stage) => {
  const { redis, events } = await subscriber(stage, "web-signals");
  const main = `
    import "reflect-metadata";
    import { NestFactory } from "@nestjs/core";
    import { Signals, SignalsModule } from "./signals.js";
    const app = await NestFactory.createApplicationContext(SignalsModule, { logger: ["error"], abortOnError: false });
    await app.get(Signals).send("offer", { room: 7 });
    await app.close();`;
  await finished(await typescript(stage, { "signals.ts": nest, "main.ts": main }, { redis }));
  const [{ timestamp, ...rest }] = await messages(events, 1);
  assert.equal(typeof timestamp, "number");
  assert.deepEqual(rest, { type: "offer", payload: { room: 7 } });
});

scenario("NestJS: an event of the Redis transport arrives as the recipe says", async (stage) => {
  const sentence = /`(client\.emit\(.*\))` arrives on the\s+channel `(.*)` as `(.*)`\./;
  const recipes = readFileSync(new URL("../../../docs/recipes.md", import.meta.url), "utf8");
  const [, call, channel, payload] = recipes.match(sentence);
  const { redis, events } = await subscriber(stage, channel);
  const main = `
    import "reflect-metadata";
    import { ClientProxyFactory, Transport } from "@nestjs/microservices";
    import { lastValueFrom } from "rxjs";
    const options = { host: "127.0.0.1", port: ${redis.port} };
    const client = ClientProxyFactory.create({ transport: Transport.REDIS, options });
    await lastValueFrom(${call}, { defaultValue: undefined });
    await client.close();`;
  await finished(node(stage, { "main.mjs": main }, { redis }));
  await received(events, [JSON.parse(payload)]);
});

const express = recipe("Express, js 1");
scenario("Express: a POST publishes", async (stage) => {
  const { redis, events } = await subscriber(stage, "web-signals");
  const server = await freePort();
  node(stage, { "server.mjs": express }, { redis, server });
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: '{"sdp":"v=0"}' };
  const response = await until("Express answers", () => fetch(`http://localhost:${server}/rooms/7/offer`, post));
  assert.equal(response.status, 202);
  await received(events, [{ type: "offer", room: "7", payload: { sdp: "v=0" } }]);
});

const django = recipe("Django, python 1");
scenario("Django: publishes after the commit, and not after a rollback", async (stage) => {
  const { redis, events } = await subscriber(stage, "video:17");
  const main = `
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()
from django.db import transaction
from status import status_changed
try:
    with transaction.atomic():
        status_changed(17, "rolled back")
        raise LookupError
except LookupError:
    pass
with transaction.atomic():
    status_changed(17, "done")
`;
  await finished(pythonProgram(stage, { "status.py": django, "main.py": main }, { redis }));
  await received(events, [{ requestId: 17, status: "done" }]);
});

const bullmq = recipe("BullMQ worker, js 1");
scenario("BullMQ: the worker publishes each state of a job", async (stage) => {
  const { redis, events } = await subscriber(stage, "jobs:1");
  node(stage, { "worker.mjs": bullmq }, { redis });
  const add = `
    import { Queue } from "bullmq";
    import { Redis } from "ioredis";
    const queue = new Queue("screening", { connection: new Redis(process.env.REDIS_URL) });
    console.log((await queue.add("job", {})).id);
    process.exit();`;
  assert.equal(await finished(node(stage, { "add.mjs": add }, { redis })), "1\n");
  const progress = [1, 2, 3].map((done) => ({ state: "active", progress: { done, of: 3 } }));
  await received(events, [{ state: "active" }, ...progress, { state: "completed", result: { included: 2 } }]);
});

const [celery, celeryWorker] = [recipe("Celery, python 1"), recipe("Celery, sh 1")];
scenario("Celery: the task publishes each step", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  shell(stage, celeryWorker, { files: { "jobs.py": celery }, env: { REDIS_URL: redis.url, C_FORCE_ROOT: "1" } });
  const call = 'from jobs import extract\nextract.apply_async((2,), task_id="t1")\n';
  const events = await new Events(stage, `${gateway.http}/sse/jobs:t1`).subscribed();
  await finished(pythonProgram(stage, { "jobs.py": celery, "call.py": call }, { redis }));
  const steps = [1, 2].map((current) => ({ state: "PROGRESS", current, total: 2 }));
  await received(events, [...steps, { state: "SUCCESS" }]);
});

const celeryChannels = recipe("Celery, toml 1");
scenario("Celery: the configuration closes the channels of results", async (stage) => {
  checkConfiguration(stage, celeryChannels);
  const all = '[[namespace]]\nname = "all"\nchannels = ["*"]\nsubscribe = "anyone"\n';
  const gateway = await stage.gateway({ config: celeryChannels + all });
  assert.equal((await fetch(`${gateway.http}/sse/celery-task-meta-1`)).status, 403);
});

const http = recipe("HTTP, sh 1");
scenario("HTTP: curl publishes in development mode, and with a key", async (stage) => {
  const open = await stage.gateway();
  const closed = await stage.gateway({ env: API_KEY });
  const signals = await new Events(stage, `${open.http}/sse/web-signals`).subscribed();
  const [a, b] = [new Events(stage, `${closed.http}/sse/a`), new Events(stage, `${closed.http}/sse/b`)];
  await Promise.all([a.subscribed(), b.subscribed()]);
  await finished(shell(stage, http, { ...open, api: closed.port, env: API_KEY }));
  await received(signals, [{ type: "offer" }]);
  await received(a, ["hi"]);
  await received(b, ["hi"]);
});

/* Recipes: subscribing */

/** The functions that a page supplies, each of which logs its name and argument. */
const SUPPLIED = `
  for (const name of ["show", "reload", "progress", "clear"]) window[name] = (data) => console.log(name, data);`;

const oneChannel = recipe("Browser: EventSource, js 1");
scenario("Chromium, another origin: EventSource shows, reloads after a gap, logs that it is live", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const page = await browser(stage, oneChannel, { ...gateway, before: SUPPLIED });
  await until("it is live", () => page.logged.length > 0);
  await redis.publish("web-signals", JSON.stringify(OFFER));
  await until("the publication", () => page.logged.length > 1);
  assert.deepEqual(page.logged, [["log", "live"], ["log", "show", OFFER]]);
  await redis.kill();
  await redis.restart();
  await until("it reloads", () => page.logged.some(([, name]) => name === "reload"));
});

const severalChannels = recipe("Browser: EventSource, js 2");
scenario("Chromium, another origin: EventSource gets each channel as a named event", async (stage) => {
  const gateway = await stage.gateway();
  const page = await browser(stage, severalChannels, { ...gateway, before: SUPPLIED });
  await clientsOf(gateway, "jobs:7");
  await gateway.api("publish", { channel: "web-signals", data: OFFER });
  await gateway.api("publish", { channel: "jobs:7", data: 40 });
  await until("both publications", () => page.logged.length === 2);
  assert.deepEqual(page.logged, [["log", "show", OFFER], ["log", "progress", 40]]);
});

const reactNative = recipe("React Native, tsx 1");
// In Chromium with react-native-web: React Native itself needs a device or an emulator.
scenario("React Native: two components share a channel, and the app recovers after the background", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const after = `
    import { createRoot } from "react-dom/client";
    const root = createRoot(document.getElementById("root"));
    window.render = (...keys) => root.render(keys.map((key) => <div className="app" key={key}><Signals /></div>));
    window.visibility = (state) => {
      Object.defineProperty(document, "visibilityState", { configurable: true, value: state });
      document.dispatchEvent(new Event("visibilitychange"));
    };
    window.render("first", "second");`;
  const page = await browser(stage, reactNative, { ...gateway, after });
  const shown = async (...texts) => {
    await until(`the page shows ${texts}`, async () => {
      assert.deepEqual(await page.locator(".app").allInnerTexts(), texts);
      return true;
    });
  };
  await clientsOf(gateway, "web-signals");
  await redis.publish("web-signals", "1");
  await shown("1", "1");
  await page.evaluate(() => visibility("hidden"));
  await clientsOf(gateway, "web-signals", 0);
  await redis.publish("web-signals", "2");
  await page.evaluate(() => visibility("visible"));
  await shown("2", "2");
  await page.evaluate(() => render("second"));
  await shown("2");
  await redis.publish("web-signals", "3");
  await shown("3");
  await redis.kill();
  await redis.restart();
  await shown("messages were missed");
  await page.evaluate(() => render());
  await clientsOf(gateway, "web-signals", 0);
  assert.deepEqual(page.errors, []);
});

const curl = recipe("curl, sh 1");
scenario("curl follows one channel, and several", async (stage) => {
  const gateway = await stage.gateway();
  const run = shell(stage, curl, gateway);
  await clientsOf(gateway, "web-signals");
  await gateway.api("publish", { channel: "web-signals", data: "first" });
  await until("the first curl prints it", () => /^data: ?"first"$/m.test(run.output()));
  await stopForeground(run);
  await clientsOf(gateway, "jobs:7");
  await gateway.api("publish", { channel: "jobs:7", data: "second" });
  await until("the second curl prints it", () => /^data: ?"second"$/m.test(run.output()));
  assert.match(run.output(), /^event: ?jobs:7$/m);
});

/* Recipes: complete examples */

const status = recipe("A status page instead of polling, toml 1");
const [statusService, statusPage] = [1, 2].map((n) => recipe(`A status page instead of polling, js ${n}`));
scenario("status page: shows the last status at once, then each change, and closes", async (stage) => {
  checkConfiguration(stage, status);
  const redis = await stage.redis();
  const gateway = await stage.gateway({ config: relocate(status, { redis }) });
  await gateway.api("publish", { channel: "video:17", data: { state: "queued" } });
  const page = await browser(stage, statusPage, { ...gateway, before: SUPPLIED });
  await until("the last status", () => page.logged.length > 0);
  await finished(node(stage, { "service.mjs": statusService }, { ...gateway }));
  await until("all changes", () => page.logged.length === 3);
  const changes = [{ state: "queued" }, { state: "rendering", percent: 40 }, { state: "done", url: "/videos/17.mp4" }];
  assert.deepEqual(page.logged, changes.map((change) => ["log", "show", change]));
  await clientsOf(gateway, "video:17", 0);
});

const languages = ["toml", "python", "text", "js"];
const [jobs, jobPython, jobOutput, jobPage] = languages.map((name) => recipe(`The log of a job, ${name} 1`));
scenario("log of a job: retries publish once, and a late page reads the history", async (stage) => {
  checkConfiguration(stage, jobs);
  const redis = await stage.redis();
  const gateway = await stage.gateway({ config: relocate(jobs, { redis }), env: API_KEY });
  const env = { ...API_KEY, EARSHOT_URL: gateway.http };
  const output = await finished(pythonProgram(stage, { "tell.py": jobPython }, { env }));
  const withoutEpoch = (text) => text.replaceAll(/'epoch': '\w+'/g, "'epoch': …");
  assert.equal(withoutEpoch(output), withoutEpoch(jobOutput));
  assert.equal(new Set(output.match(/'epoch': '\w+'/g)).size, 1);
  const connect = `
    import { Centrifuge } from "centrifuge";
    window.centrifuge = new Centrifuge("ws://localhost:8000/connection/websocket");
    centrifuge.connect();`;
  const page = await browser(stage, jobPage, { ...gateway, before: connect + SUPPLIED });
  await until("the history", () => page.logged.length === 3);
  const shown = () => page.logged.slice(1).map(([, name, { data, offset }]) => [name, offset, data]);
  assert.equal(page.logged[0][1], "clear");
  const history = [["show", 1, { state: "active" }], ["show", 2, { state: "active", page: 1, of: 3 }]];
  assert.deepEqual(shown(), history);
  const headers = { "X-API-Key": API_KEY.EARSHOT_API_KEY };
  await fetch(`${gateway.http}/api/publish`, { method: "POST", headers, body: '{"channel":"job:7","data":"live"}' });
  await until("the live publication", () => page.logged.length === 4);
  assert.deepEqual(shown(), [...history, ["show", 3, "live"]]);
});

test("each block is run, or listed with a reason", () => {
  assert.deepEqual([...used, ...Object.keys(NOT_RUN)].sort(), [...snippets.keys()].sort());
});
