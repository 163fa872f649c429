// Clients that read nothing, fill every queue and stay connected: the memory that they take is bounded, and other
// clients are served. The tests measure process memory in /proc.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { connect, createServer } from "node:net";

import { scenario, until } from "./harness.mjs";
import { Commands, StalledClient, Stream, httpRequest, callApi, errorCode } from "./raw.mjs";

const MIB = 1024 * 1024;

/** Memory per client: its queue (4 MiB by default), 1 MiB of commands, one message, and 2 MiB of overhead. */
const PER_CLIENT = 8 * MIB;
/** Memory that a gateway itself needs under load. */
const GATEWAY_GROWTH = 8 * MIB;

const MEMORY = `
[[namespace]]
name = "plain"
channels = ["*"]
subscribe = "anyone"
redis = "memory"
publish = "subscribers"
`;

const CONFIG = `
[[namespace]]
name = "log"
channels = ["log:*"]
subscribe = "anyone"
source = "stream"
${MEMORY}`;

/** The resident memory of a gateway, in bytes. */
function resident(gateway) {
  return 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${gateway.process.pid}/status`, "utf8"))[1]);
}

/** Samples the memory of a gateway; `grown()` returns its maximum growth since. */
function watchMemory(stage, gateway) {
  const before = resident(gateway);
  let peak = before;
  const sample = () => {
    if (gateway.process.exitCode === null && gateway.process.signalCode === null)
      peak = Math.max(peak, resident(gateway));
  };
  const timer = setInterval(sample, 5);
  stage.after(() => clearInterval(timer));
  return { grown: () => (sample(), peak - before) };
}

/** The value of a metric, without labels. */
async function metric(gateway, name) {
  const { text } = await httpRequest(gateway.port, "/metrics");
  return Number(new RegExp(`^earshot_${name} (\\S+)$`, "m").exec(text)?.[1] ?? 0);
}

/** Waits until ten samples in a row are equal: no socket can write any further, and no counter changes. */
async function waitUntilStable(gateway, clients) {
  let last;
  let same = 0;
  await until("the gateway accepts no more data", async () => {
    const now = JSON.stringify([
      clients.map(({ socket, closed }) => [closed, socket.bytesWritten - socket.writableLength]),
      await metric(gateway, "commands_total"),
      await metric(gateway, "reads_paused_total"),
      await metric(gateway, "client_queue_bytes"),
      Math.round(resident(gateway) / MIB),
    ]);
    same = now === last ? same + 1 : 0;
    last = now;
    return same >= 10;
  });
}

/** Fills channels with about 1 MB of history each; returns the subscribe requests that recover all of it. */
async function fill(stage, gateway, count = 1, publications = 17, bytes = 60_000) {
  const channels = Array.from({ length: count }, (_, n) => `full:${n}`);
  const subs = Object.fromEntries(channels.map((channel) => [channel, {}]));
  const { connected, socket } = await new Commands(stage, gateway).connect({ subs });
  for (const channel of channels) {
    subs[channel] = { channel, recover: true, epoch: connected.connect.subs[channel].epoch, offset: 0 };
  }
  socket.terminate();
  for (let n = 0; n < publications; n += 1)
    await callApi(gateway, "broadcast", { channels, data: `${n} `.padEnd(bytes, "x") });
  return subs;
}

/** Waits until a new client is accepted, and asserts that it receives a publication. */
async function assertUsable(stage, gateway) {
  const client = await until("a new client is accepted", async () => {
    const candidate = await new Commands(stage, gateway).connect();
    return candidate.connected.connect && candidate;
  });
  assert.equal(errorCode(await client.command({ subscribe: { channel: "others" } })), 0);
  const { text } = await callApi(gateway, "publish", { channel: "others", data: "hi" });
  assert.equal(text, '{"result":{}}');
  await until("others receive it", () => client.publications("others").length === 1);
}

const CLIENTS = 4;
const BIG = { type: "x".repeat(60_000) };
const CONNECT = { id: 1, connect: {} };

/** What a WebSocket client sends without reading; `subs` are the subscribe requests of the full channels. */
const ATTACKS = {
  "1015 publications of 60 KB after a pending recovery": (client, subs) => {
    client.send(CONNECT, ...recoveries(subs));
    client.sendRepeatedly(1015, { id: 100, publish: { channel: "full:0", data: BIG } });
  },
  "200 publications of 60 KB without permission": (client, subs) => {
    client.send(CONNECT, ...recoveries(subs));
    client.sendRepeatedly(200, { id: 100, publish: { channel: "log:shut", data: BIG } });
  },
  "1000 histories of 1 MB": (client) => {
    client.send(CONNECT, { id: 2, subscribe: { channel: "full:0" } });
    client.sendRepeatedly(1000, { id: 3, history: { channel: "full:0", limit: -1 } });
  },
  "300 recoveries of 1 MB in sequence": (client, subs) => {
    client.send(CONNECT);
    for (let id = 2; id < 602; id += 2) {
      client.send({ id, subscribe: subs["full:0"] }, { id: id + 1, unsubscribe: { channel: "full:0" } });
    }
  },
  "300 commands of 60 KB with immediate replies": (client) => {
    client.send(CONNECT);
    client.sendRepeatedly(300, { id: 2, rpc: { method: "x", data: BIG } });
  },
  "commands before connect": (client) => {
    client.sendRepeatedly(100, { id: 1, publish: { channel: "full:0", data: BIG } });
  },
};

function recoveries(subs) {
  return Object.values(subs).map((subscribe, index) => ({ id: index + 2, subscribe }));
}

for (const [what, attack] of Object.entries(ATTACKS)) {
  scenario(`the memory of an unread WebSocket is bounded: ${what}`, async (stage) => {
    const gateway = await stage.gateway({ redis: await stage.redis(), config: CONFIG });
    const subs = await fill(stage, gateway, 12);
    const memory = watchMemory(stage, gateway);
    const clients = [];
    for (let n = 0; n < CLIENTS; n += 1) clients.push(await new StalledClient(stage, gateway).upgrade());
    for (const client of clients) attack(client, subs);
    await waitUntilStable(gateway, clients);
    await assertUsable(stage, gateway);
    const grown = memory.grown();
    assert.ok(grown < CLIENTS * PER_CLIENT + GATEWAY_GROWTH, `${CLIENTS} clients took ${Math.round(grown / MIB)} MiB`);
  });
}

scenario("the memory of a WebSocket that waits for a hanging Redis is bounded", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({
    redis,
    config: '[redis.default]\nping_interval = "1m"\nprobe_interval = "1m"\ncommand_timeout = "1m"\n',
  });
  const { pid } = await redisProcess(redis);
  process.kill(pid, "SIGSTOP");
  stage.after(() => process.kill(pid, "SIGCONT"));
  const memory = watchMemory(stage, gateway);
  const clients = [];
  for (let n = 0; n < CLIENTS; n += 1) {
    const client = await new StalledClient(stage, gateway).upgrade();
    client.send(CONNECT, { id: 2, subscribe: { channel: `new:${n}` } });
    client.sendRepeatedly(1015, { id: 3, publish: { channel: `new:${n}`, data: BIG } });
    clients.push(client);
  }
  await waitUntilStable(gateway, clients);
  const grown = memory.grown();
  assert.ok(grown < CLIENTS * PER_CLIENT + GATEWAY_GROWTH, `${CLIENTS} clients took ${Math.round(grown / MIB)} MiB`);
});

async function redisProcess(redis) {
  return { pid: Number(/process_id:(\d+)/.exec(await redis.cli(["INFO", "server"]))[1]) };
}

scenario(
  "the memory of a connect command that recovers many full channels is bounded, and its reply is complete",
  async (stage) => {
    const gateway = await stage.gateway({ redis: await stage.redis(), config: CONFIG });
    const subs = await fill(stage, gateway, 30);
    const memory = watchMemory(stage, gateway);
    const clients = [];
    for (let n = 0; n < CLIENTS; n += 1) {
      const client = await new StalledClient(stage, gateway).upgrade();
      client.send({ id: 1, connect: { subs } });
      clients.push(client);
    }
    await waitUntilStable(gateway, clients);
    const grown = memory.grown();
    assert.ok(grown < CLIENTS * PER_CLIENT + GATEWAY_GROWTH, `${CLIENTS} clients took ${Math.round(grown / MIB)} MiB`);
    const reader = await new Commands(stage, gateway).connect({ subs });
    const publications = () => reader.frames.join("").split('xxx"').length - 1;
    await until("a client that reads receives all", () => publications() === 30 * 17);
  },
);

scenario(
  "the memory of an unread SSE stream that recovers many channels is bounded",
  async (stage) => {
    const gateway = await stage.gateway({ redis: await stage.redis(), config: CONFIG });
    const channels = Array.from({ length: 30 }, (_, n) => `log:${n}`);
    const path = `/sse?${channels.map((channel) => `channel=${channel}`).join("&")}`;
    await callApi(gateway, "broadcast", { channels, data: "first" });
    const first = await new Stream(stage, gateway, path).opened();
    const { id } = first.of("subscribed")[0];
    first.close();
    const data = "x".repeat(800);
    for (let round = 0; round < 295; round += 5) {
      await Promise.all(
        [0, 1, 2, 3, 4].map((n) => callApi(gateway, "broadcast", { channels, data: `${round + n} ${data}` })),
      );
    }
    const memory = watchMemory(stage, gateway);
    const clients = Array.from({ length: 6 }, () =>
      stalledRequest(stage, gateway, `GET ${path} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: ${id}\r\n\r\n`),
    );
    await waitUntilStable(gateway, clients);
    await assertUsable(stage, gateway);
    const grown = memory.grown();
    assert.ok(grown < 6 * PER_CLIENT + GATEWAY_GROWTH, `6 streams of 8 MB took ${Math.round(grown / MIB)} MiB`);
    // A client that reads receives everything, once.
    const reader = await new Stream(stage, gateway, path, { "last-event-id": id }).opened();
    const received = () => reader.text.split(data).length - 1;
    await until("all missed publications are received", () => received() >= 295 * channels.length);
    assert.equal(received(), 295 * channels.length);
    assert.doesNotMatch(reader.text, /^event: gap/m);
    // The id of an event in the middle can be resumed.
    const events = reader.events();
    const middle = events[Math.floor(events.length / 2)];
    const again = await new Stream(stage, gateway, path, { "last-event-id": middle.id }).opened();
    const rest = events.length - 1 - Math.floor(events.length / 2);
    await until("the remaining publications are received", () => again.events().filter(({ name }) => name !== "subscribed").length >= rest);
    assert.deepEqual(countByChannel(again.events()), countByChannel(events.slice(-rest)));
  },
);

for (const source of ["log", "plain"]) {
  scenario(
    `${source}: a stream that pauses while it recovers many channels receives everything or a gap event`,
    async (stage) => {
      const gateway = await stage.gateway({ redis: await stage.redis(), config: CONFIG });
      const channels = Array.from({ length: 20 }, (_, n) => `${source}:${n}`);
      const path = `/sse?${channels.map((channel) => `channel=${channel}`).join("&")}`;
      let published = 0;
      const publish = async (times) => {
        for (let n = 0; n < times; n += 1)
          await callApi(gateway, "broadcast", { channels, data: `${(published += 1)} `.padEnd(8000, "x") });
      };
      const first = await new Stream(stage, gateway, path).opened();
      let { id } = first.of("subscribed")[0];
      first.close();
      await publish(60);
      const received = Object.fromEntries(channels.map((channel) => [channel, []]));
      const complete = () => channels.every((channel) => received[channel].at(-1) === published);
      for (let round = 0; !complete(); round += 1) {
        assert.ok(round < 10, "the recovery does not end");
        const stream = new Stream(stage, gateway, path, { "last-event-id": id });
        await until("the response of the stream", () => stream.status);
        if (round === 0) {
          stream.incoming.pause();
          await publish(20);
          stream.incoming.resume();
        }
        const last = () => channels.every((channel) => stream.text.includes(`event: ${channel}\ndata: "${published} `));
        await until("all is received, or the stream has ended", () => stream.ended || last());
        stream.close();
        for (const event of stream.events()) {
          if (event.name in received) received[event.name].push(Number(/^"(\d+) /.exec(event.data)[1]));
          else if (event.name === "gap") received[JSON.parse(event.data).channel].push("gap");
          id = event.id ?? id;
        }
      }
      for (const channel of channels) {
        const numbers = received[channel];
        assert.ok(numbers.includes("gap") || numbers.length === published, `${channel}: ${numbers}`);
        numbers.forEach((number, index) => {
          const before = index === 0 ? 0 : numbers[index - 1];
          assert.ok(number === "gap" || before === "gap" || number === before + 1, `${channel}: ${numbers}`);
        });
      }
    },
  );
}

/** The number of publications per channel in `events`. */
function countByChannel(events) {
  const counts = {};
  for (const { name } of events) if (name.startsWith("log:")) counts[name] = (counts[name] ?? 0) + 1;
  return Object.fromEntries(Object.entries(counts).sort());
}

/** A connection that sends `text` and reads nothing. */
function stalledRequest(stage, gateway, text) {
  const socket = connect(gateway.port, "127.0.0.1");
  const client = { socket, closed: false };
  socket.pause();
  socket.on("error", () => {});
  socket.on("close", () => (client.closed = true));
  socket.write(text);
  stage.after(() => socket.destroy());
  return client;
}

scenario("the memory of pipelined requests with unread responses is bounded", async (stage) => {
  const gateway = await stage.gateway({ config: MEMORY });
  await fill(stage, gateway);
  const memory = watchMemory(stage, gateway);
  const body = '{"channel":"full:0","limit":-1}';
  const request = `POST /api/history HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const clients = Array.from({ length: CLIENTS }, () => stalledRequest(stage, gateway, request.repeat(1000)));
  await waitUntilStable(gateway, clients);
  await assertUsable(stage, gateway);
  const grown = memory.grown();
  assert.ok(grown < CLIENTS * PER_CLIENT + GATEWAY_GROWTH, `${CLIENTS} clients took ${Math.round(grown / MIB)} MiB`);
});

const API_KEY = "k".repeat(32);
const API_BUFFER = 8 * MIB;

for (const [which, headers, allowed] of [
  ["without the API's key", {}, PER_CLIENT],
  // The allocator keeps the memory of rejected bodies for a while. Without a bound, the bodies take 100 MiB.
  ["with the API's key", { "x-api-key": API_KEY }, PER_CLIENT + 4 * API_BUFFER],
]) {
  scenario(`bodies of many HTTP/2 streams ${which} use a bounded amount of memory`, async (stage) => {
    const config = `[limits]\napi_buffer_bytes = "${API_BUFFER / MIB}MiB"\n`;
    const gateway = await stage.gateway({ flags: [], config, env: { EARSHOT_API_KEY: API_KEY } });
    const memory = watchMemory(stage, gateway);
    const session = connectHttp2(`http://127.0.0.1:${gateway.port}`);
    session.on("error", () => {});
    stage.after(() => session.destroy());
    for (let n = 0; n < 100; n += 1) {
      const request = { ":path": "/api/publish", ":method": "POST", "content-length": MIB, ...headers };
      const stream = session.request(request);
      stream.on("error", () => {});
      stream.resume();
      // All bytes except the last one.
      stream.write(Buffer.alloc(MIB - 1, "x"));
    }
    await waitUntilStable(gateway, []);
    const grown = memory.grown();
    assert.ok(grown < allowed + GATEWAY_GROWTH, `one connection took ${Math.round(grown / MIB)} MiB`);
  });
}

// A Redis that rejects every command.

for (const [what, reply] of [
  ["-ERR", "-ERR broken\r\n"],
  ["-MOVED", "-MOVED 1 10.255.255.1:6379\r\n"],
]) {
  scenario(`a Redis that replies ${what} to every command makes the gateway unready after a few pings`, async (stage) => {
    const redis = await stage.redis();
    const proxy = { broken: false, pings: 0 };
    const server = createServer((client) => {
      const upstream = connect(redis.port, "127.0.0.1");
      for (const socket of [client, upstream]) socket.on("error", () => {});
      client.on("data", (chunk) => {
        if (!proxy.broken) {
          upstream.write(chunk);
          return;
        }
        const commands = chunk.toString("latin1").match(/\*\d+\r\n\$/g) ?? [];
        proxy.pings += (chunk.toString("latin1").match(/\r\nPING\r\n/gi) ?? []).length;
        client.write(reply.repeat(commands.length));
      });
      upstream.on("data", (chunk) => proxy.broken || client.write(chunk));
      client.on("close", () => upstream.destroy());
      stage.after(() => (client.destroy(), upstream.destroy()));
    });
    await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
    stage.after(() => server.close());
    const gateway = await stage.gateway({ redis: { url: `redis://127.0.0.1:${server.address().port}` } });
    await assertUsable(stage, gateway);
    proxy.broken = true;
    await until(
      "the gateway is unready, or has sent many pings",
      async () => proxy.pings > 8 || (await httpRequest(gateway.port, "/ready")).status === 503,
    );
    assert.ok(proxy.pings <= 8, "at most four pings per link");
  });
}

// The channel limit.

const FEW_CHANNELS =
  '[limits]\nchannels = 1000\n[[namespace]]\nname = "all"\nchannels = ["*"]\nsubscribe = "anyone"\nhistory = { ttl = "1h" }\n';

/** Subscribes to 128 new channels and disconnects, `times` times. */
async function churnChannels(stage, gateway, times) {
  for (let round = 0; round < times; round += 1) {
    const query = Array.from({ length: 128 }, (_, n) => `channel=idle:${round}:${n}`).join("&");
    const stream = await new Stream(stage, gateway, `/sse?${query}`).opened();
    assert.equal(stream.status, 200);
    stream.close();
  }
}

for (const on of ["Redis", "memory"]) {
  scenario(`channels without subscribers do not block new ones, on ${on}`, async (stage) => {
    const gateway = await stage.gateway({
      redis: on === "Redis" ? await stage.redis() : undefined,
      config: FEW_CHANNELS,
    });
    const subscriber = await new Commands(stage, gateway).connect();
    assert.equal(errorCode(await subscriber.command({ subscribe: { channel: "subscribed" } })), 0);
    const stream = await new Stream(stage, gateway, "/sse/streamed").opened();
    await churnChannels(stage, gateway, 16);
    const client = await new Commands(stage, gateway).connect();
    for (const channel of ["new:1", "new:2", "new:3"]) {
      const reply = await client.command({ subscribe: { channel } });
      assert.equal(errorCode(reply), 0, `${channel}: ${JSON.stringify(reply)}`);
    }
    const { text } = await new Stream(stage, gateway, "/sse?channel=new:4&channel=new:5").opened();
    assert.doesNotMatch(text, /^event: error/m);
    for (const channel of ["subscribed", "streamed", "new:1"]) await callApi(gateway, "publish", { channel, data: "hi" });
    await until(
      "connected clients receive it",
      () =>
        subscriber.publications("subscribed").length === 1 &&
        client.publications("new:1").length === 1 &&
        stream.of("message").length === 1,
    );
    assert.deepEqual(stream.of("gap"), []);
    assert.ok((await metric(gateway, "channels")) <= 1000, "the limit is exceeded");
  });
}

scenario("a client that resumes an evicted channel receives a gap event", async (stage) => {
  const gateway = await stage.gateway({ config: FEW_CHANNELS });
  const first = await new Stream(stage, gateway, "/sse/early").opened();
  await callApi(gateway, "publish", { channel: "early", data: 1 });
  await until("it is received", () => first.of("message").length === 1);
  first.close();
  await callApi(gateway, "publish", { channel: "early", data: 2 });
  await churnChannels(stage, gateway, 16);
  const again = await new Stream(stage, gateway, "/sse/early", { "last-event-id": first.of("message")[0].id }).opened();
  await callApi(gateway, "publish", { channel: "early", data: 3 });
  await until("the next publication is received", () => again.of("message").some(({ data }) => data === "3"));
  assert.ok(again.of("message").some(({ data }) => data === "2") || again.of("gap").length > 0, again.text);
});

scenario("channels with subscribers reach the limit and are never evicted", async (stage) => {
  const gateway = await stage.gateway({ config: FEW_CHANNELS });
  const streams = [];
  for (let round = 0; round < 9; round += 1) {
    const query = Array.from({ length: 128 }, (_, n) => `channel=busy:${round}:${n}`).join("&");
    streams.push(await new Stream(stage, gateway, `/sse?${query}`).opened());
  }
  const rejected = streams.filter(({ text }) => text.includes('"code":106'));
  assert.equal(rejected.length, 2, "1152 channels are more than 1000");
  await callApi(gateway, "publish", { channel: "busy:0:0", data: 1 });
  await until("the first stream still receives", () => streams[0].of("busy:0:0").length === 1);
});

// Idle connections.

const FEW_CONNECTIONS = '[limits]\nconnections = 16\nreserved_connections = 16\n[http]\nidle_timeout = "1s"\n';

/** HTTP/2 connections without streams that respond to pings. */
function idle(stage, gateway, count) {
  return Array.from({ length: count }, () => {
    const session = connectHttp2(`http://127.0.0.1:${gateway.port}`);
    session.on("error", () => {});
    stage.after(() => session.destroy());
    return session;
  });
}

scenario("idle HTTP/2 connections are closed, and do not block /health, /ready and /metrics", async (stage) => {
  const gateway = await stage.gateway({ config: FEW_CONNECTIONS });
  const sessions = idle(stage, gateway, 60);
  await until("all are connected or closed", () => sessions.every((session) => !session.connecting));
  for (const path of ["/health", "/ready", "/metrics"]) assert.equal((await httpRequest(gateway.port, path)).status, 200, path);
  await until("all are closed", () => sessions.every((session) => session.closed || session.destroyed));
  await assertUsable(stage, gateway);
});

scenario("an HTTP/2 connection with a live stream is not idle", async (stage) => {
  const gateway = await stage.gateway({ config: FEW_CONNECTIONS });
  const [busy, idleSession] = idle(stage, gateway, 2);
  const stream = busy.request({ ":path": "/sse/demo" });
  let text = "";
  stream.setEncoding("utf8").on("data", (chunk) => (text += chunk));
  stream.on("error", () => {});
  await until("the subscribed event", () => text.includes("subscribed"));
  await until("the idle connection is closed", () => idleSession.closed || idleSession.destroyed);
  await callApi(gateway, "publish", { channel: "demo", data: "still there" });
  await until("the active stream receives it", () => text.includes("still there"));
});

for (const [what, bytes] of [
  ["nothing", ""],
  ["an incomplete head", "GET /sse/demo HTTP/1.1\r\nHost:"],
  ["an incomplete HTTP/2 preface", "PRI * HTTP/2.0\r\n"],
]) {
  scenario(`connections that sent ${what} do not block /health and are closed`, async (stage) => {
    const config = FEW_CONNECTIONS.replace("[http]", 'request_header_timeout = "200ms"\n[http]');
    const gateway = await stage.gateway({ config });
    const clients = Array.from({ length: 60 }, () => stalledRequest(stage, gateway, bytes));
    for (const { socket } of clients) socket.resume();
    await until("all are connected or closed", () =>
      clients.every(({ socket, closed }) => closed || !socket.connecting),
    );
    assert.equal((await httpRequest(gateway.port, "/health")).status, 200);
    await until("all are closed", () => clients.every(({ closed }) => closed));
    await assertUsable(stage, gateway);
  });
}

// SIGTERM.

const DRAIN = `[drain]
shutdown_timeout = "15s"
disconnect_window = "0s"
[limits]
request_header_timeout = "1s"
reserved_timeout = "500ms"
[websocket]
close_timeout = "500ms"
[http]
ping_timeout = "1s"
idle_timeout = "1s"
[[namespace]]
name = "all"
channels = ["*"]
subscribe = "anyone"
history = { size = 100, bytes = "4MiB" }
publish = "subscribers"
`;

/** Requests of clients that never read the response. */
const STALLED = {
  "a stalled HTTP/2 stream": (stage, gateway) =>
    stalled(stage, gateway, { ":path": "/api/history", ":method": "POST" }, '{"channel":"full:0","limit":-1}'),
  "a stalled HTTP/2 event stream": (stage, gateway) => stalled(stage, gateway, { ":path": "/sse/full:0" }),
  "an idle HTTP/2 connection": (stage, gateway) => idle(stage, gateway, 1),
  "unread pipelined responses": (stage, gateway) => {
    const body = '{"channel":"full:0","limit":-1}';
    stalledRequest(
      stage,
      gateway,
      `POST /api/history HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`.repeat(50),
    );
  },
  "an unread event stream": (stage, gateway) =>
    stalledRequest(stage, gateway, "GET /sse/full:0 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
  "a WebSocket that reads nothing": async (stage, gateway) => {
    const client = await new StalledClient(stage, gateway).upgrade();
    client.send(CONNECT, { id: 2, subscribe: { channel: "full:0" } });
    client.sendRepeatedly(40, { id: 3, history: { channel: "full:0", limit: -1 } });
  },
  "an incomplete request": (stage, gateway) =>
    stalledRequest(stage, gateway, "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"),
};

/** An HTTP/2 request of a client with a flow-control window of zero. */
function stalled(stage, gateway, headers, body) {
  const session = connectHttp2(`http://127.0.0.1:${gateway.port}`, { settings: { initialWindowSize: 0 } });
  session.on("error", () => {});
  const stream = session.request(headers, { endStream: body === undefined });
  stream.on("error", () => {});
  if (body !== undefined) stream.end(body);
  stage.after(() => session.destroy());
  return new Promise((answered) => stream.on("response", answered));
}

for (const [what, begin] of Object.entries(STALLED)) {
  scenario(`the process exits with 0 after SIGTERM despite ${what}`, async (stage) => {
    const gateway = await stage.gateway({ config: DRAIN });
    await fill(stage, gateway);
    await begin(stage, gateway);
    for (let n = 0; n < 8; n += 1) await callApi(gateway, "publish", { channel: "full:0", data: "y".repeat(500_000) });
    await waitUntilStable(gateway, []);
    gateway.process.kill("SIGTERM");
    await until("the process exits", () => gateway.process.exitCode !== null || gateway.process.signalCode !== null);
    assert.equal(gateway.process.exitCode, 0);
  });
}
