// Login by the sessions of real applications: NestJS, Fastify, better-auth, Django. The cookie alone decides what
// EventSource and the SDK receive, and a logout ends both.

import assert from "node:assert/strict";
import { EventSource } from "eventsource";

import { openPage } from "./browser.mjs";
import { Sdk } from "./clients.mjs";
import { APPS } from "./frameworks_apps.mjs";
import { scenario, until } from "./harness.mjs";

const config = (login) => `
[redis.default]
url = "redis://127.0.0.1:1"

${login}
[[namespace]]
name = "user"
channels = ["user:{user}"]
subscribe = "owner"
`;

for (const [name, { start, login }] of Object.entries(APPS)) {
  scenario(`${name}: the cookie alone logs in, and a logout on either node ends the streams`, async (stage) => {
    const redis = await stage.redis();
    const app = await start(stage, redis);
    const first = await stage.gateway({ redis, flags: [], config: config(login) });
    const second = await stage.gateway({ redis, flags: [], config: config(login) });
    const alice = await app.login("alice");
    const bob = await app.login("bob");
    assert.notEqual(alice.id, bob.id);
    const channel = `user:${alice.id}`;
    await until("logins are possible", () => isOpen(first, channel, alice.cookie));
    await until("logins are possible", () => isOpen(second, channel, alice.cookie));
    assert.equal(await status(first, channel, bob.cookie), 403, "the channel of another user");
    assert.equal(await status(first, channel), 401, "without a cookie");

    const stream = await new Stream(stage, first, channel, alice.cookie).opened();
    const kept = await new Stream(stage, first, `user:${bob.id}`, bob.cookie).opened();
    const sdk = await new Sdk(stage, second, "json", { headers: { cookie: alice.cookie } }).connect();
    const { publications } = await sdk.subscribe(channel);
    await redis.publish(`user:${bob.id}`, '"of bob"');
    await redis.publish(channel, '"of alice"');
    await until("both receive", () => stream.messages.length > 0 && publications.length > 0);
    assert.deepEqual(stream.messages, ['"of alice"']);
    assert.deepEqual(sdk.payloads(channel, publications).map(String), ['"of alice"']);

    await app.logout(alice.cookie);
    await until("EventSource receives the error", () => stream.ends.length > 0);
    assert.equal(JSON.parse(stream.ends[0]).code, 3005);
    await until("the SDK is disconnected", () => sdk.errors.length > 0);
    assert.match(sdk.errors[0], /^(connecting|disconnected) 3005 /);
    for (const gateway of [first, second]) assert.equal(await status(gateway, channel, alice.cookie), 401);
    await redis.publish(channel, '"after the logout"');
    await redis.publish(`user:${bob.id}`, '"after the logout"');
    await until("the other user still receives", () => kept.messages.length === 2);
    assert.deepEqual([stream.messages, kept.ends], [['"of alice"'], []]);
  });
}

for (const [name, { start, login }] of Object.entries(APPS)) {
  scenario(`${name}, Chromium: a page logs in, and a logout in another tab ends its streams`, async (stage) => {
    const redis = await stage.redis();
    const app = await start(stage, redis);
    const text = `allowed_origins = ["${app.url}"]\n${config(login)}`;
    const gateway = await stage.gateway({ redis, flags: [], config: text });
    const page = await openPage(stage);
    const id = await app.loginIn(page, "alice");
    await page.evaluate(listen, { http: gateway.http, ws: gateway.ws, channel: `user:${id}` });
    await until("both subscribed", () => page.evaluate(() => seen.subscribed.size === 2));
    await redis.publish(`user:${id}`, '"own"');
    await until("both receive", () => page.evaluate(() => seen.received.size === 2));
    await app.logoutIn(page.context());
    await until("both end", () => page.evaluate(() => seen.ended.size === 2));
    assert.deepEqual(await page.evaluate(() => [...seen.ended.values()]), [3005, 3005]);
    await until("EventSource is refused", () => page.evaluate(() => source.readyState === EventSource.CLOSED));
  });
}

/** Runs inside a page: an EventSource and a WebSocket that subscribe by the cookie alone. */
function listen({ http, ws, channel }) {
  window.seen = { subscribed: new Set(), received: new Set(), ended: new Map() };
  window.source = new EventSource(`${http}/sse/${encodeURIComponent(channel)}`, { withCredentials: true });
  source.addEventListener("subscribed", () => seen.subscribed.add("sse"));
  source.addEventListener("message", () => seen.received.add("sse"));
  source.addEventListener("error", ({ data }) => data !== undefined && seen.ended.set("sse", JSON.parse(data).code));
  const socket = new WebSocket(ws);
  const commands = [{ id: 1, connect: {} }, { id: 2, subscribe: { channel } }];
  socket.onopen = () => socket.send(commands.map((command) => JSON.stringify(command)).join("\n"));
  socket.onclose = ({ code }) => seen.ended.set("ws", code);
  socket.onmessage = ({ data }) => {
    for (const line of data.split("\n")) {
      if (line === "{}") socket.send("{}");
      else if (line.startsWith('{"id":2,"subscribe"')) seen.subscribed.add("ws");
      else if (line.includes('"pub"')) seen.received.add("ws");
    }
  };
}

/** The HTTP status of a stream of `channel`. */
async function status(gateway, channel, cookie) {
  return (await head(gateway, channel, cookie)).status;
}

/** Whether a stream of `channel` begins with `subscribed`. */
async function isOpen(gateway, channel, cookie) {
  const { status, text } = await head(gateway, channel, cookie);
  return status === 200 && text.includes("event: subscribed");
}

async function head(gateway, channel, cookie) {
  const abort = new AbortController();
  const headers = cookie ? { cookie } : {};
  const response = await fetch(`${gateway.http}/sse/${encodeURIComponent(channel)}`, { headers, signal: abort.signal });
  const { value } = await response.body.getReader().read();
  abort.abort();
  return { status: response.status, text: new TextDecoder().decode(value) };
}

/** An EventSource that sends `cookie`. */
class Stream {
  messages = [];
  /** The data of the gateway's error events. */
  ends = [];
  #open = false;

  constructor(stage, gateway, channel, cookie) {
    const withHeader = (url, init) => fetch(url, { ...init, headers: { ...init.headers, cookie } });
    this.source = new EventSource(`${gateway.http}/sse/${encodeURIComponent(channel)}`, { fetch: withHeader });
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
