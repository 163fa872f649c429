// Event streams read by parsers of several languages and from another origin: each receives every publication exactly
// once over a connection that is cut, and no event that the gateway did not send.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createServer, get } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { EventSource as EventSource4 } from "eventsource";
import { EventSource as EventSource3 } from "eventsource3";
import { EventSource as EventSource5 } from "eventsource5";

import { openPage } from "./browser.mjs";
import { scenario, until } from "./harness.mjs";
import { Proxy } from "./proxy.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const tools = join(here, ".tools");

const config = (origin) => `
allowed_origins = ["${origin}"]

[sse]
retry = "100ms"
heartbeat = "1s"
`;

const CHANNELS = ["a", "b"];
const NAMES = ["subscribed", "gap", "error", "message", ...CHANNELS];

scenario("every parser receives each publication exactly once, and no empty event", async (stage) => {
  const redis = await stage.redis();
  const page = await crossOriginPage(stage);
  const gateway = await stage.gateway({ redis, config: config(page.origin) });
  const proxy = await Proxy.start(stage, gateway);
  const url = `${proxy.http}/sse?channel=a&channel=b`;
  const parsers = {
    "eventsource 3": nodeEvents(stage, EventSource3, url),
    "eventsource 4": nodeEvents(stage, EventSource4, url),
    "eventsource 5": nodeEvents(stage, EventSource5, url),
    "httpx-sse": program(stage, join(tools, "python/bin/python"), [join(here, "python/events.py"), url]),
    "r3labs/sse": program(stage, join(tools, "go-events"), [url]),
  };
  const inPage = await page.evaluate(followInPage, { url, names: NAMES });
  for (const name of inPage) parsers[name] = () => page.evaluate((name) => seen[name], name);
  const all = (what, condition) => each(parsers, what, condition);

  await all("subscribed", (events) => of(events, "subscribed").length > 0);
  const published = [];
  const publish = async (count) => {
    for (let number = 0; number < count; number += 1) {
      const channel = CHANNELS[published.length % 2];
      published.push({ channel, data: `{"number":${published.length + 1}}` });
      await redis.publish(channel, published.at(-1).data);
    }
  };
  await publish(6);
  await all("the first publications", (events) => publications(events).length >= 6);
  await heartbeats(stage, gateway, 2);
  proxy.disconnect();
  await publish(6);
  proxy.restore();
  await all("the missed publications", (events) => publications(events).length >= 12);
  await publish(2);
  await all("the last publications", (events) => publications(events).length >= 14);

  for (const [name, read] of Object.entries(parsers)) {
    const events = await read();
    for (const channel of CHANNELS) {
      const expected = published.filter((publication) => publication.channel === channel).map(({ data }) => data);
      assert.deepEqual(of(events, channel).map(({ data }) => data), expected, `${name}: missing, duplicate or out of order`);
    }
    const subscribed = of(events, "subscribed").map(({ data }) => JSON.parse(data).channels);
    assert.deepEqual(subscribed.at(-1), { a: { recovered: true }, b: { recovered: true } }, `${name}: resumed`);
    const others = events.filter(({ name, data, id }) => ![...CHANNELS, "subscribed"].includes(name) || !data || !id);
    // This parser emits the begun block as an event when the connection is lost: here a heartbeat.
    if (name === "r3labs/sse" && others.length === 1) assert.equal(others.pop().data, "");
    assert.deepEqual(others, [], `${name}: unexpected events`);
  }
  assert.deepEqual(page.rejected, [], "a preflight was rejected");
});

scenario("a page of an allowed origin can read why its stream is rejected, a page of another origin cannot", async (stage) => {
  const page = await crossOriginPage(stage);
  const limits = "[limits]\nchannels_per_connection = 1\n";
  const gateway = await stage.gateway({ config: `${config(page.origin)}${limits}` });
  const text = await page.evaluate(readError, `${gateway.http}/sse?channel=a&channel=b`);
  assert.match(text, /^400: .*channels_per_connection/);
  const foreign = await openPage(stage);
  await foreign.route("https://foreign.example/", (route) => route.fulfill({ contentType: "text/html", body: "" }));
  await foreign.goto("https://foreign.example/");
  assert.match(await foreign.evaluate(readError, `${gateway.http}/sse/a`), /^TypeError/);
});

/** An EventSource in Node. */
function nodeEvents(stage, EventSource, url) {
  const events = [];
  let closed = false;
  // After a close during a reconnect, this client may retry forever.
  const open = (...request) => (closed ? new Promise(() => {}) : fetch(...request));
  const source = new EventSource(url, { fetch: open });
  for (const name of NAMES.filter((name) => name !== "error")) {
    source.addEventListener(name, ({ data, lastEventId }) => events.push({ name, data, id: lastEventId }));
  }
  source.addEventListener("error", ({ data, lastEventId }) => {
    // Without data, the error event is the client's own for a lost connection.
    if (data !== undefined) events.push({ name: "error", data, id: lastEventId });
  });
  stage.after(() => {
    closed = true;
    source.close();
  });
  return () => events;
}

/** A program of another language that prints one event per line. */
function program(stage, command, args) {
  assert.ok(existsSync(command), `no ${command}: run .ci/install`);
  const events = [];
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((done) => child.once("exit", done));
  createInterface({ input: child.stdout }).on("line", (line) => {
    const { event, data, id } = JSON.parse(line);
    events.push({ name: event, data, id });
  });
  stage.after(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  return () => {
    assert.equal(child.exitCode, null, `${command} exited`);
    return events;
  };
}

/** A page of another origin, with the modules of the clients. */
async function crossOriginPage(stage) {
  const require = createRequire(import.meta.url);
  const fetchEventSource = join(dirname(require.resolve("@microsoft/fetch-event-source")), "../esm");
  const eventsource5 = dirname(fileURLToPath(import.meta.resolve("eventsource5")));
  const parser = createRequire(join(eventsource5, "index.js"));
  const folders = {
    "fetch-event-source": fetchEventSource,
    eventsource5,
    "eventsource-parser": dirname(parser.resolve("eventsource-parser")),
  };
  const imports = {
    "fetch-event-source": "/fetch-event-source/index.js",
    eventsource5: "/eventsource5/index.js",
    "eventsource-parser": "/eventsource-parser/index.js",
  };
  const html = `<script type="importmap">${JSON.stringify({ imports })}</script>`;
  const server = createServer((request, response) => {
    const [, folder, ...rest] = request.url.split("/");
    const path = rest.join("/");
    if (!folders[folder]) return response.setHeader("content-type", "text/html").end(html);
    // One of the packages imports its own files without their extension.
    const file = join(folders[folder], path.endsWith(".js") ? path : `${path}.js`);
    return response.setHeader("content-type", "text/javascript").end(readFileSync(file));
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  stage.after(() => server.close());
  const page = await openPage(stage);
  page.origin = `http://localhost:${server.address().port}`;
  page.rejected = [];
  page.on("console", (message) => /CORS/.test(message.text()) && page.rejected.push(message.text()));
  await page.goto(`${page.origin}/`);
  return page;
}

/** Waits until the events of each parser satisfy a condition. */
async function each(parsers, what, condition) {
  for (const [name, read] of Object.entries(parsers)) {
    let events = [];
    await until(`${name}: ${what}`, async () => condition((events = await read()))).catch((error) => {
      error.message += `; it has: ${JSON.stringify(events)}`;
      throw error;
    });
  }
}

function of(events, name) {
  return events.filter((event) => event.name === name);
}

function publications(events) {
  return events.filter(({ name }) => CHANNELS.includes(name));
}

/** Waits for this many heartbeats of a new stream; after the second one, every other stream has had one. */
async function heartbeats(stage, gateway, count) {
  let text = "";
  const request = get(`${gateway.http}/sse/heartbeats`, (response) => {
    response.setEncoding("utf8").on("data", (chunk) => (text += chunk));
  });
  request.on("error", () => {});
  stage.after(() => request.destroy());
  await until("heartbeats", () => text.split("\n").filter((line) => line === ":").length >= count);
}

/* The functions below run inside the page. */

async function followInPage({ url, names }) {
  const { fetchEventSource } = await import("fetch-event-source");
  const { EventSource: EventSource5 } = await import("eventsource5");
  window.seen = { "Chromium EventSource": [], "eventsource 5 in Chromium": [], "fetch-event-source": [] };
  for (const [key, Source] of [["Chromium EventSource", EventSource], ["eventsource 5 in Chromium", EventSource5]]) {
    const source = new Source(url);
    for (const name of names) {
      source.addEventListener(name, ({ data, lastEventId }) => {
        if (name !== "error" || data !== undefined) seen[key].push({ name, data, id: lastEventId });
      });
    }
  }
  fetchEventSource(url, {
    openWhenHidden: true,
    onmessage: ({ event, data, id }) => seen["fetch-event-source"].push({ name: event, data, id }),
    onerror: () => {},
  });
  return Object.keys(seen);
}

async function readError(url) {
  try {
    // A header that requires a preflight.
    const response = await fetch(url, { headers: { "Last-Event-ID": "x" } });
    return `${response.status}: ${await response.text()}`;
  } catch (error) {
    return `${error}`;
  }
}
