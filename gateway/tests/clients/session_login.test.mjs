// Login by the session of a real express application: its cookie alone decides what EventSource and the SDK receive.

import assert from "node:assert/strict";
import { EventSource } from "eventsource";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { openPage } from "./browser.mjs";
import { ENCODINGS, Sdk } from "./clients.mjs";
import { expressApp } from "./express_app.mjs";
import { scenario, until } from "./harness.mjs";

const SECRET = "the first secret of the application";
const NEXT_SECRET = "the second secret of the application";

/** A configuration in which the owner of `user:ID` may subscribe; `top` has top-level keys. */
const config = (login = `secret = "${SECRET}"`, top = "") => `
${top}
[redis.default]
url = "redis://127.0.0.1:1"

[[login]]
kind = "express"
${login}
key = "sess:{sid}"
user = "/passport/user"

[[namespace]]
name = "user"
channels = ["user:{user}"]
subscribe = "owner"
`;

for (const encoding of ENCODINGS) {
  scenario(`express, ${encoding}: a session receives its user's channel and no other`, async (stage) => {
    const { redis, gateway, app } = await start(stage);
    const cookie = await app.login("42");
    const events = await new Stream(stage, gateway, "user:42", cookie).opened();
    const sdk = await new Sdk(stage, gateway, encoding, { headers: { cookie } }).connect();
    const { publications } = await sdk.subscribe("user:42");
    assert.equal(await refusal(sdk, "user:43"), 103);
    assert.equal(await status(gateway, "user:43", cookie), 403);
    await redis.publish("user:43", '"of another"');
    await redis.publish("user:42", '"own"');
    await until("both receive", () => events.messages.length > 0 && publications.length > 0);
    assert.deepEqual(events.messages, ['"own"']);
    assert.deepEqual(sdk.payloads("user:42", publications).map(String), ['"own"']);
    assert.deepEqual(sdk.errors, []);
  });

  for (const path of ["/logout", "/destroy"]) {
    scenario(`express, ${encoding}: ${path} ends both streams of the session`, async (stage) => {
      const { redis, gateway, app } = await start(stage);
      const cookie = await app.login("42");
      const other = await app.login("42");
      const events = await new Stream(stage, gateway, "user:42", cookie).opened();
      const kept = await new Stream(stage, gateway, "user:42", other).opened();
      const sdk = await new Sdk(stage, gateway, encoding, { headers: { cookie } }).connect();
      const { subscription, publications } = await sdk.subscribe("user:42");
      await app.end(path, cookie);
      await until("EventSource receives the error", () => events.ends.length > 0);
      assert.equal(JSON.parse(events.ends[0]).code, 3005);
      await until("the SDK is disconnected", () => sdk.errors.length > 0);
      assert.match(sdk.errors[0], /^(connecting|disconnected) 3005 /);
      await until("the subscription is refused", () => subscription.state === "unsubscribed");
      assert.equal(await status(gateway, "user:42", cookie), 401);
      await redis.publish("user:42", '"after the logout"');
      await until("the other session receives", () => kept.messages.length > 0);
      assert.deepEqual(kept.ends, []);
      assert.deepEqual(events.messages, []);
      assert.deepEqual(publications, []);
    });
  }
}

scenario("express: a cookie that is absent, forged or of no session is not a login", async (stage) => {
  const { gateway, app } = await start(stage);
  const cookie = await app.login("42");
  assert.equal(await status(gateway, "user:42", cookie), 200);
  const [name, value] = cookie.split("=");
  const signed = decodeURIComponent(value);
  const [id] = signed.slice(2).split(".");
  const flipped = signed.slice(0, -1) + (signed.endsWith("A") ? "B" : "A");
  const forged = [id, `s:${id}`, `s:${id}.`, flipped, signed.slice(0, -4), `s:${id}x${signed.slice(2 + id.length)}`, ""];
  assert.equal(await status(gateway, "user:42"), 401);
  for (const text of forged) {
    assert.equal(await status(gateway, "user:42", `${name}=${encodeURIComponent(text)}`), 401, text);
  }
  assert.equal(await status(gateway, "user:42", `other=${value}`), 401);
  const stranger = await expressApp(stage, await stage.redis(), SECRET);
  assert.equal(await status(gateway, "user:42", await stranger.login("42")), 401);
});

scenario("express: secrets are rotated in the file without a restart", async (stage) => {
  const file = join(stage.directory(), "secrets");
  const write = (...secrets) => {
    writeFileSync(`${file}.new`, `${secrets.join("\n")}\n`);
    renameSync(`${file}.new`, file);
  };
  write(SECRET);
  const { redis, gateway, app } = await start(stage, config(`secret_file = "${file}"`));
  const next = await expressApp(stage, redis, [NEXT_SECRET, SECRET]);
  const old = await app.login("42");
  const fresh = await next.login("42");
  assert.equal(await status(gateway, "user:42", old), 200);
  assert.equal(await status(gateway, "user:42", fresh), 401);
  write(NEXT_SECRET, SECRET);
  await until("the new secret is read", async () => (await status(gateway, "user:42", fresh)) === 200);
  assert.equal(await status(gateway, "user:42", old), 200);
  write(NEXT_SECRET);
  await until("the old secret is removed", async () => (await status(gateway, "user:42", old)) === 401);
  assert.equal(await status(gateway, "user:42", fresh), 200);
});

scenario("express, Chromium: the cookie alone logs in, and a logout in another tab ends the streams", async (stage) => {
  const redis = await stage.redis();
  const app = await expressApp(stage, redis, SECRET);
  const gateway = await stage.gateway({ redis, flags: [], config: config(undefined, `allowed_origins = ["${app.url}"]`) });
  const page = await openPage(stage);
  await page.goto(app.url);
  await page.evaluate(post, { path: "/login", user: "42" });
  await page.evaluate(listen, { http: gateway.http, ws: gateway.ws });
  await until("both subscribed", () => page.evaluate(() => seen.subscribed === 2));
  await redis.publish("user:42", '"own"');
  await until("both receive", () => page.evaluate(() => seen.sse.length === 1 && seen.ws.length === 1));
  const tab = await page.context().newPage();
  await tab.goto(app.url);
  await tab.evaluate(post, { path: "/logout" });
  await until("both end", () => page.evaluate(() => seen.ends.length > 0 && seen.closed !== undefined));
  assert.equal(JSON.parse(await page.evaluate(() => seen.ends[0])).code, 3005);
  assert.equal(await page.evaluate(() => seen.closed), 3005);
  await until("EventSource is refused", () => page.evaluate(() => source.readyState === EventSource.CLOSED));
  assert.deepEqual(await page.evaluate(() => seen.sse), ['"own"']);
});

scenario('express, Chromium: the cookie is ignored for an origin that only "*" allows', async (stage) => {
  const redis = await stage.redis();
  const app = await expressApp(stage, redis, SECRET);
  const gateway = await stage.gateway({ redis, flags: [], config: config(undefined, 'allowed_origins = ["*"]') });
  const page = await openPage(stage);
  await page.goto(app.url);
  await page.evaluate(post, { path: "/login", user: "42" });
  await page.evaluate(listen, { http: gateway.http, ws: gateway.ws });
  await until("EventSource is refused", () => page.evaluate(() => source.readyState === EventSource.CLOSED));
  await until("the WebSocket is refused", () => {
    return page.evaluate(() => seen.closed !== undefined || seen.frames.some((text) => text.includes('"error"')));
  });
  assert.equal(await page.evaluate(() => seen.subscribed), 0);
});

/** A Redis, an application and a gateway that share it. */
async function start(stage, text = config()) {
  const redis = await stage.redis();
  const app = await expressApp(stage, redis, SECRET);
  return { redis, app, gateway: await stage.gateway({ redis, flags: [], config: text }) };
}

/** The code with which the gateway refuses a subscription. */
async function refusal(sdk, channel) {
  const subscription = sdk.client.newSubscription(channel);
  const ended = new Promise((done) => subscription.once("unsubscribed", ({ code }) => done(code)));
  subscription.subscribe();
  return ended;
}

/** The HTTP status of a stream of `channel`. */
async function status(gateway, channel, cookie) {
  const abort = new AbortController();
  const headers = cookie ? { cookie } : {};
  const response = await fetch(`${gateway.http}/sse/${channel}`, { headers, signal: abort.signal });
  abort.abort();
  return response.status;
}

/** An EventSource that sends `cookie`. */
class Stream {
  messages = [];
  /** The data of the gateway's error events. */
  ends = [];
  #open = false;

  constructor(stage, gateway, channel, cookie) {
    const withHeader = (url, init) => fetch(url, { ...init, headers: { ...init.headers, cookie } });
    this.source = new EventSource(`${gateway.http}/sse/${channel}`, { fetch: withHeader });
    this.source.addEventListener("message", ({ data }) => this.messages.push(data));
    this.source.addEventListener("subscribed", () => (this.#open = true));
    this.source.addEventListener("error", ({ data }) => data !== undefined && this.ends.push(data));
    stage.after(() => this.source.close());
  }

  async opened() {
    await until("the subscribed event", () => this.#open);
    return this;
  }
}

/* The functions below run inside the page. */

function post({ path, user }) {
  const body = new URLSearchParams(user ? { username: user, password: user } : {});
  return fetch(path, { method: "POST", body }).then(({ status }) => status);
}

function listen({ http, ws }) {
  window.seen = { subscribed: 0, sse: [], ws: [], frames: [], ends: [], closed: undefined };
  window.source = new EventSource(`${http}/sse/user:42`, { withCredentials: true });
  source.addEventListener("subscribed", () => (seen.subscribed += 1));
  source.addEventListener("message", ({ data }) => seen.sse.push(data));
  source.addEventListener("error", ({ data }) => data !== undefined && seen.ends.push(data));
  const socket = new WebSocket(ws);
  socket.onopen = () => socket.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"user:42"}}');
  socket.onclose = ({ code }) => (seen.closed ??= code);
  socket.onmessage = ({ data }) => {
    for (const line of data.split("\n")) {
      seen.frames.push(line);
      if (line === "{}") socket.send("{}");
      else if (line.startsWith('{"id":2,"subscribe"')) seen.subscribed += 1;
      else if (line.includes('"pub"')) seen.ws.push(line);
    }
  };
}
