// Clients that read nothing, fill every queue and stay connected: the memory that they take is bounded, and other clients
// are served. Memory is that of the process, from /proc.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { connect, createServer } from "node:net";

import { scenario, until } from "./harness.mjs";
import { Commands, StalledClient, Stream, ask, call, refusal } from "./raw.mjs";

const MIB = 1024 * 1024;

/** Memory of one client: its queue (4 MiB by default), 1 MiB of commands, one message; and 2 MiB of overhead. */
const PER_CLIENT = 8 * MIB;
/** Memory that a gateway takes for itself under load. */
const WARM = 8 * MIB;

const MEMORY = `
[[namespace]]
name = "plain"
channels = ["*"]
redis = "memory"
publish = "subscribers"
`;

const CONFIG = `
[[namespace]]
name = "log"
channels = ["log:*"]
source = "stream"
${MEMORY}`;

/** The resident memory of a gateway, in bytes. */
function resident(gateway) {
  return 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${gateway.process.pid}/status`, "utf8"))[1]);
}

/** Watches the memory of a gateway; `grown()` is the most by which it has grown since. */
function watch(stage, gateway) {
  const before = resident(gateway);
  let most = before;
  const look = () => {
    if (gateway.process.exitCode === null && gateway.process.signalCode === null)
      most = Math.max(most, resident(gateway));
  };
  const timer = setInterval(look, 5);
  stage.after(() => clearInterval(timer));
  return { grown: () => (look(), most - before) };
}

/** The value of a metric, without labels. */
async function metric(gateway, name) {
  const { text } = await ask(gateway.port, "/metrics");
  return Number(new RegExp(`^earshot_${name} (\\S+)$`, "m").exec(text)?.[1] ?? 0);
}

/** Waits until nothing moves any more, in ten looks: every socket is closed or can write no more, all counters stand. */
async function settled(gateway, clients) {
  let last;
  let same = 0;
  await until("the gateway takes no more", async () => {
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

/** Channels with about 1 MB of history each: what subscribes to them and recovers all of it. */
async function fill(stage, gateway, count = 1, publications = 17, bytes = 60_000) {
  const channels = Array.from({ length: count }, (_, n) => `full:${n}`);
  const subs = Object.fromEntries(channels.map((channel) => [channel, {}]));
  const { connected, socket } = await new Commands(stage, gateway).connect({ subs });
  for (const channel of channels) {
    subs[channel] = { channel, recover: true, epoch: connected.connect.subs[channel].epoch, offset: 0 };
  }
  socket.terminate();
  for (let n = 0; n < publications; n += 1)
    await call(gateway, "broadcast", { channels, data: `${n} `.padEnd(bytes, "x") });
  return subs;
}

/** Waits until a new client is accepted, which then must receive what is published. */
async function usable(stage, gateway) {
  const client = await until("a new client is accepted", async () => {
    const candidate = await new Commands(stage, gateway).connect();
    return candidate.connected.connect && candidate;
  });
  assert.equal(refusal(await client.command({ subscribe: { channel: "others" } })), 0);
  const { text } = await call(gateway, "publish", { channel: "others", data: "hi" });
  assert.equal(text, '{"result":{}}');
  await until("others receive it", () => client.publications("others").length === 1);
}

const CLIENTS = 4;
const BIG = { type: "x".repeat(60_000) };
const CONNECT = { id: 1, connect: {} };

/** Attacks over WebSockets: what a client sends that reads nothing, given how each full channel is recovered. */
const ATTACKS = {
  "1015 publications of 60 KB behind a recovery that waits": (client, subs) => {
    client.send(CONNECT, ...recoveries(subs));
    client.flood(1015, { id: 100, publish: { channel: "full:0", data: BIG } });
  },
  "200 publications of 60 KB that it may not send": (client, subs) => {
    client.send(CONNECT, ...recoveries(subs));
    client.flood(200, { id: 100, publish: { channel: "log:shut", data: BIG } });
  },
  "1000 histories of 1 MB": (client) => {
    client.send(CONNECT, { id: 2, subscribe: { channel: "full:0" } });
    client.flood(1000, { id: 3, history: { channel: "full:0", limit: -1 } });
  },
  "300 recoveries of 1 MB, one after the other": (client, subs) => {
    client.send(CONNECT);
    for (let id = 2; id < 602; id += 2) {
      client.send({ id, subscribe: subs["full:0"] }, { id: id + 1, unsubscribe: { channel: "full:0" } });
    }
  },
  "300 commands of 60 KB that are answered at once": (client) => {
    client.send(CONNECT);
    client.flood(300, { id: 2, rpc: { method: "x", data: BIG } });
  },
  "commands before connect": (client) => {
    client.flood(100, { id: 1, publish: { channel: "full:0", data: BIG } });
  },
};

function recoveries(subs) {
  return Object.values(subs).map((subscribe, index) => ({ id: index + 2, subscribe }));
}

for (const [what, attack] of Object.entries(ATTACKS)) {
  scenario(`a WebSocket that reads nothing costs a bounded amount of memory: ${what}`, async (stage) => {
    const gateway = await stage.gateway({ redis: await stage.redis(), config: CONFIG });
    const subs = await fill(stage, gateway, 12);
    const memory = watch(stage, gateway);
    const clients = [];
    for (let n = 0; n < CLIENTS; n += 1) clients.push(await new StalledClient(stage, gateway).upgrade());
    for (const client of clients) attack(client, subs);
    await settled(gateway, clients);
    await usable(stage, gateway);
    const grown = memory.grown();
    assert.ok(grown < CLIENTS * PER_CLIENT + WARM, `${CLIENTS} clients took ${Math.round(grown / MIB)} MiB`);
  });
}

scenario("a WebSocket whose subscribe waits for a hanging Redis costs a bounded amount of memory", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({
    redis,
    config: '[redis.default]\nping_interval = "1m"\nprobe_interval = "1m"\ncommand_timeout = "1m"\n',
  });
  const { pid } = await redisProcess(redis);
  process.kill(pid, "SIGSTOP");
  stage.after(() => process.kill(pid, "SIGCONT"));
  const memory = watch(stage, gateway);
  const clients = [];
  for (let n = 0; n < CLIENTS; n += 1) {
    const client = await new StalledClient(stage, gateway).upgrade();
    client.send(CONNECT, { id: 2, subscribe: { channel: `new:${n}` } });
    client.flood(1015, { id: 3, publish: { channel: `new:${n}`, data: BIG } });
    clients.push(client);
  }
  await settled(gateway, clients);
  const grown = memory.grown();
  assert.ok(grown < CLIENTS * PER_CLIENT + WARM, `${CLIENTS} clients took ${Math.round(grown / MIB)} MiB`);
});

async function redisProcess(redis) {
  return { pid: Number(/process_id:(\d+)/.exec(await redis.cli(["INFO", "server"]))[1]) };
}

scenario(
  "a connect command that recovers many full channels costs a bounded amount of memory, and is answered whole",
  async (stage) => {
    const gateway = await stage.gateway({ redis: await stage.redis(), config: CONFIG });
    const subs = await fill(stage, gateway, 30);
    const memory = watch(stage, gateway);
    const clients = [];
    for (let n = 0; n < CLIENTS; n += 1) {
      const client = await new StalledClient(stage, gateway).upgrade();
      client.send({ id: 1, connect: { subs } });
      clients.push(client);
    }
    await settled(gateway, clients);
    const grown = memory.grown();
    assert.ok(grown < CLIENTS * PER_CLIENT + WARM, `${CLIENTS} clients took ${Math.round(grown / MIB)} MiB`);
    const reader = await new Commands(stage, gateway).connect({ subs });
    const publications = () => reader.frames.join("").split('xxx"').length - 1;
    await until("a client that reads receives all", () => publications() === 30 * 17);
  },
);

scenario(
  "an SSE stream that is far behind in many channels and reads nothing costs a bounded amount of memory",
  async (stage) => {
    const gateway = await stage.gateway({ redis: await stage.redis(), config: CONFIG });
    const channels = Array.from({ length: 30 }, (_, n) => `log:${n}`);
    const path = `/sse?${channels.map((channel) => `channel=${channel}`).join("&")}`;
    await call(gateway, "broadcast", { channels, data: "first" });
    const first = await new Stream(stage, gateway, path).begun();
    const { id } = first.of("subscribed")[0];
    first.close();
    const data = "x".repeat(800);
    for (let round = 0; round < 295; round += 5) {
      await Promise.all(
        [0, 1, 2, 3, 4].map((n) => call(gateway, "broadcast", { channels, data: `${round + n} ${data}` })),
      );
    }
    const memory = watch(stage, gateway);
    const clients = Array.from({ length: 6 }, () =>
      stalledRequest(stage, gateway, `GET ${path} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: ${id}\r\n\r\n`),
    );
    await settled(gateway, clients);
    await usable(stage, gateway);
    const grown = memory.grown();
    assert.ok(grown < 6 * PER_CLIENT + WARM, `6 streams of 8 MB took ${Math.round(grown / MIB)} MiB`);
    // A client that reads receives everything, once.
    const reader = await new Stream(stage, gateway, path, { "last-event-id": id }).begun();
    const got = () => reader.text.split(data).length - 1;
    await until("all that was missed comes", () => got() >= 295 * channels.length);
    assert.equal(got(), 295 * channels.length);
    assert.doesNotMatch(reader.text, /^event: gap/m);
    // The id of an event in the middle is a place to come back to.
    const events = reader.events();
    const middle = events[Math.floor(events.length / 2)];
    const again = await new Stream(stage, gateway, path, { "last-event-id": middle.id }).begun();
    const rest = events.length - 1 - Math.floor(events.length / 2);
    await until("the rest comes", () => again.events().filter(({ name }) => name !== "subscribed").length >= rest);
    assert.deepEqual(tally(again.events()), tally(events.slice(-rest)));
  },
);

for (const source of ["log", "plain"]) {
  scenario(
    `${source}: a stream that is far behind in many channels and pauses while more is published misses nothing without a gap`,
    async (stage) => {
      const gateway = await stage.gateway({ redis: await stage.redis(), config: CONFIG });
      const channels = Array.from({ length: 20 }, (_, n) => `${source}:${n}`);
      const path = `/sse?${channels.map((channel) => `channel=${channel}`).join("&")}`;
      let published = 0;
      const publish = async (times) => {
        for (let n = 0; n < times; n += 1)
          await call(gateway, "broadcast", { channels, data: `${(published += 1)} `.padEnd(8000, "x") });
      };
      const first = await new Stream(stage, gateway, path).begun();
      let { id } = first.of("subscribed")[0];
      first.close();
      await publish(60);
      const heard = Object.fromEntries(channels.map((channel) => [channel, []]));
      const complete = () => channels.every((channel) => heard[channel].at(-1) === published);
      for (let round = 0; !complete(); round += 1) {
        assert.ok(round < 10, "it comes to an end");
        const stream = new Stream(stage, gateway, path, { "last-event-id": id });
        await until("the stream is answered", () => stream.status);
        if (round === 0) {
          stream.incoming.pause();
          await publish(20);
          stream.incoming.resume();
        }
        const last = () => channels.every((channel) => stream.text.includes(`event: ${channel}\ndata: "${published} `));
        await until("all has come, or the stream has ended", () => stream.ended || last());
        stream.close();
        for (const event of stream.events()) {
          if (event.name in heard) heard[event.name].push(Number(/^"(\d+) /.exec(event.data)[1]));
          else if (event.name === "gap") heard[JSON.parse(event.data).channel].push("gap");
          id = event.id ?? id;
        }
      }
      for (const channel of channels) {
        const numbers = heard[channel];
        assert.ok(numbers.includes("gap") || numbers.length === published, `${channel}: ${numbers}`);
        numbers.forEach((number, index) => {
          const before = index === 0 ? 0 : numbers[index - 1];
          assert.ok(number === "gap" || before === "gap" || number === before + 1, `${channel}: ${numbers}`);
        });
      }
    },
  );
}

/** How many publications of each channel are among `events`. */
function tally(events) {
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

scenario("pipelined requests whose answers are not read cost a bounded amount of memory", async (stage) => {
  const gateway = await stage.gateway({ config: MEMORY });
  await fill(stage, gateway);
  const memory = watch(stage, gateway);
  const body = '{"channel":"full:0","limit":-1}';
  const request = `POST /api/history HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const clients = Array.from({ length: CLIENTS }, () => stalledRequest(stage, gateway, request.repeat(1000)));
  await settled(gateway, clients);
  await usable(stage, gateway);
  const grown = memory.grown();
  assert.ok(grown < CLIENTS * PER_CLIENT + WARM, `${CLIENTS} clients took ${Math.round(grown / MIB)} MiB`);
});

const API_KEY = "k".repeat(32);
const API_BUFFER = 8 * MIB;

for (const [which, headers, allowed] of [
  ["without the API's key", {}, PER_CLIENT],
  // The allocator keeps the memory of rejected bodies for a while. Without a bound, the bodies take 100 MiB.
  ["with the API's key", { "x-api-key": API_KEY }, PER_CLIENT + 4 * API_BUFFER],
]) {
  scenario(`bodies of many HTTP/2 streams ${which} cost a bounded amount of memory`, async (stage) => {
    const config = `[limits]\napi_buffer_bytes = "${API_BUFFER / MIB}MiB"\n`;
    const gateway = await stage.gateway({ flags: [], config, env: { EARSHOT_API_KEY: API_KEY } });
    const memory = watch(stage, gateway);
    const session = connectHttp2(`http://127.0.0.1:${gateway.port}`);
    session.on("error", () => {});
    stage.after(() => session.destroy());
    for (let n = 0; n < 100; n += 1) {
      const request = { ":path": "/api/publish", ":method": "POST", "content-length": MIB, ...headers };
      const stream = session.request(request);
      stream.on("error", () => {});
      stream.resume();
      // All but the last byte.
      stream.write(Buffer.alloc(MIB - 1, "x"));
    }
    await settled(gateway, []);
    const grown = memory.grown();
    assert.ok(grown < allowed + WARM, `one connection took ${Math.round(grown / MIB)} MiB`);
  });
}

// A Redis that refuses everything.

for (const [what, answer] of [
  ["-ERR", "-ERR broken\r\n"],
  ["-MOVED", "-MOVED 1 10.255.255.1:6379\r\n"],
]) {
  scenario(`a Redis that answers ${what} to everything makes the gateway unready after a few pings`, async (stage) => {
    const redis = await stage.redis();
    const door = { broken: false, pings: 0 };
    const server = createServer((client) => {
      const upstream = connect(redis.port, "127.0.0.1");
      for (const socket of [client, upstream]) socket.on("error", () => {});
      client.on("data", (chunk) => {
        if (!door.broken) {
          upstream.write(chunk);
          return;
        }
        const commands = chunk.toString("latin1").match(/\*\d+\r\n\$/g) ?? [];
        door.pings += (chunk.toString("latin1").match(/\r\nPING\r\n/gi) ?? []).length;
        client.write(answer.repeat(commands.length));
      });
      upstream.on("data", (chunk) => door.broken || client.write(chunk));
      client.on("close", () => upstream.destroy());
      stage.after(() => (client.destroy(), upstream.destroy()));
    });
    await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
    stage.after(() => server.close());
    const gateway = await stage.gateway({ redis: { url: `redis://127.0.0.1:${server.address().port}` } });
    await usable(stage, gateway);
    door.broken = true;
    await until(
      "the gateway is not ready, or has tried often",
      async () => door.pings > 8 || (await ask(gateway.port, "/ready")).status === 503,
    );
    assert.ok(door.pings <= 8, "two intervals on two links, and as many again");
  });
}

// The table of channels.

const FEW_CHANNELS =
  '[limits]\nchannels = 1000\n[[namespace]]\nname = "all"\nchannels = ["*"]\nhistory = { ttl = "1h" }\n';

/** Subscribes to 128 new channels and leaves them, `times` times. */
async function wander(stage, gateway, times) {
  for (let round = 0; round < times; round += 1) {
    const query = Array.from({ length: 128 }, (_, n) => `channel=idle:${round}:${n}`).join("&");
    const stream = await new Stream(stage, gateway, `/sse?${query}`).begun();
    assert.equal(stream.status, 200);
    stream.close();
  }
}

for (const on of ["Redis", "memory"]) {
  scenario(`channels that one client left behind do not keep others from subscribing, on ${on}`, async (stage) => {
    const gateway = await stage.gateway({
      redis: on === "Redis" ? await stage.redis() : undefined,
      config: FEW_CHANNELS,
    });
    const settler = await new Commands(stage, gateway).connect();
    assert.equal(refusal(await settler.command({ subscribe: { channel: "settled" } })), 0);
    const stream = await new Stream(stage, gateway, "/sse/streamed").begun();
    await wander(stage, gateway, 16);
    const client = await new Commands(stage, gateway).connect();
    for (const channel of ["new:1", "new:2", "new:3"]) {
      const reply = await client.command({ subscribe: { channel } });
      assert.equal(refusal(reply), 0, `${channel}: ${JSON.stringify(reply)}`);
    }
    const { text } = await new Stream(stage, gateway, "/sse?channel=new:4&channel=new:5").begun();
    assert.doesNotMatch(text, /^event: error/m);
    for (const channel of ["settled", "streamed", "new:1"]) await call(gateway, "publish", { channel, data: "hi" });
    await until(
      "connected clients receive it",
      () =>
        settler.publications("settled").length === 1 &&
        client.publications("new:1").length === 1 &&
        stream.of("message").length === 1,
    );
    assert.deepEqual(stream.of("gap"), []);
    assert.ok((await metric(gateway, "channels")) <= 1000, "the limit holds");
  });
}

scenario("a client that returns to an evicted channel gets a gap", async (stage) => {
  const gateway = await stage.gateway({ config: FEW_CHANNELS });
  const first = await new Stream(stage, gateway, "/sse/early").begun();
  await call(gateway, "publish", { channel: "early", data: 1 });
  await until("it is heard", () => first.of("message").length === 1);
  first.close();
  await call(gateway, "publish", { channel: "early", data: 2 });
  await wander(stage, gateway, 16);
  const again = await new Stream(stage, gateway, "/sse/early", { "last-event-id": first.of("message")[0].id }).begun();
  await call(gateway, "publish", { channel: "early", data: 3 });
  await until("what follows is heard", () => again.of("message").some(({ data }) => data === "3"));
  assert.ok(again.of("message").some(({ data }) => data === "2") || again.of("gap").length > 0, again.text);
});

scenario("channels with subscribers fill the table, and are never evicted", async (stage) => {
  const gateway = await stage.gateway({ config: FEW_CHANNELS });
  const streams = [];
  for (let round = 0; round < 9; round += 1) {
    const query = Array.from({ length: 128 }, (_, n) => `channel=busy:${round}:${n}`).join("&");
    streams.push(await new Stream(stage, gateway, `/sse?${query}`).begun());
  }
  const refused = streams.filter(({ text }) => text.includes('"code":106'));
  assert.equal(refused.length, 2, "1152 channels are more than 1000");
  await call(gateway, "publish", { channel: "busy:0:0", data: 1 });
  await until("the first one still receives", () => streams[0].of("busy:0:0").length === 1);
});

// Connections that do nothing.

const FEW_CONNECTIONS = '[limits]\nconnections = 16\nreserved_connections = 16\n[http]\nidle_timeout = "1s"\n';

/** HTTP/2 connections that open no stream, and answer pings. */
function idle(stage, gateway, count) {
  return Array.from({ length: count }, () => {
    const session = connectHttp2(`http://127.0.0.1:${gateway.port}`);
    session.on("error", () => {});
    stage.after(() => session.destroy());
    return session;
  });
}

scenario("idle HTTP/2 connections are ended, and meanwhile /health, /ready and /metrics answer", async (stage) => {
  const gateway = await stage.gateway({ config: FEW_CONNECTIONS });
  const sessions = idle(stage, gateway, 60);
  await until("all are connected, or ended", () => sessions.every((session) => !session.connecting));
  for (const path of ["/health", "/ready", "/metrics"]) assert.equal((await ask(gateway.port, path)).status, 200, path);
  await until("all are ended", () => sessions.every((session) => session.closed || session.destroyed));
  await usable(stage, gateway);
});

scenario("an HTTP/2 connection with a live stream is not idle", async (stage) => {
  const gateway = await stage.gateway({ config: FEW_CONNECTIONS });
  const [busy, lazy] = idle(stage, gateway, 2);
  const stream = busy.request({ ":path": "/sse/demo" });
  let text = "";
  stream.setEncoding("utf8").on("data", (chunk) => (text += chunk));
  stream.on("error", () => {});
  await until("it is subscribed", () => text.includes("subscribed"));
  await until("the idle one is ended", () => lazy.closed || lazy.destroyed);
  await call(gateway, "publish", { channel: "demo", data: "still there" });
  await until("the live one receives it", () => text.includes("still there"));
});

for (const [what, bytes] of [
  ["nothing", ""],
  ["half a head", "GET /sse/demo HTTP/1.1\r\nHost:"],
  ["half an HTTP/2 preface", "PRI * HTTP/2.0\r\n"],
]) {
  scenario(`connections that sent ${what} do not keep /health from answering, and are ended`, async (stage) => {
    const config = FEW_CONNECTIONS.replace("[http]", 'request_header_timeout = "200ms"\n[http]');
    const gateway = await stage.gateway({ config });
    const clients = Array.from({ length: 60 }, () => stalledRequest(stage, gateway, bytes));
    for (const { socket } of clients) socket.resume();
    await until("all are connected, or ended", () =>
      clients.every(({ socket, closed }) => closed || !socket.connecting),
    );
    assert.equal((await ask(gateway.port, "/health")).status, 200);
    await until("all are ended", () => clients.every(({ closed }) => closed));
    await usable(stage, gateway);
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
history = { size = 100, bytes = "4MiB" }
publish = "subscribers"
`;

/** What clients do with a gateway, without ever reading the answer. */
const STALLED = {
  "a stalled HTTP/2 stream": (stage, gateway) =>
    stalled(stage, gateway, { ":path": "/api/history", ":method": "POST" }, '{"channel":"full:0","limit":-1}'),
  "a stalled HTTP/2 event stream": (stage, gateway) => stalled(stage, gateway, { ":path": "/sse/full:0" }),
  "an idle HTTP/2 connection": (stage, gateway) => idle(stage, gateway, 1),
  "an unread pipelined answer": (stage, gateway) => {
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
    client.flood(40, { id: 3, history: { channel: "full:0", limit: -1 } });
  },
  "half a request": (stage, gateway) =>
    stalledRequest(stage, gateway, "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"),
};

/** A request over HTTP/2 from a client that allows no byte of an answer's body. */
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
  scenario(`SIGTERM ends the process with exit code 0 beside ${what}`, async (stage) => {
    const gateway = await stage.gateway({ config: DRAIN });
    await fill(stage, gateway);
    await begin(stage, gateway);
    for (let n = 0; n < 8; n += 1) await call(gateway, "publish", { channel: "full:0", data: "y".repeat(500_000) });
    await settled(gateway, []);
    gateway.process.kill("SIGTERM");
    await until("the process ends", () => gateway.process.exitCode !== null || gateway.process.signalCode !== null);
    assert.equal(gateway.process.exitCode, 0);
  });
}
