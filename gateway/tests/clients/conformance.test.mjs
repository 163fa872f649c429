// Conformance of the WebSocket protocol, SSE and the HTTP API with Centrifugo's protocol and with common parsers.

import assert from "node:assert/strict";
import { connect } from "node:net";

import { ENCODINGS, RedisSubscriber, Sdk } from "./clients.mjs";
import { scenario, shared, until } from "./harness.mjs";
import { Commands, Stream, httpRequest, callApi, errorCode } from "./raw.mjs";

const ORIGIN = "https://app.example.com";

const CONFIG = `
allowed_origins = ["${ORIGIN}"]

[sse]
heartbeat = "1s"
retry = "100ms"

[[namespace]]
name = "memory"
channels = ["memory:*"]
subscribe = "anyone"
redis = "memory"
publish = "anyone"

[[namespace]]
name = "bare"
channels = ["bare:*"]
subscribe = "anyone"
redis = "memory"
history = { size = 0 }
publish = "anyone"

[[namespace]]
name = "log"
channels = ["log:*"]
subscribe = "anyone"
source = "stream"
publish = "anyone"

[[namespace]]
name = "plain"
channels = ["plain:*", "costarring", "liquid"]
subscribe = "anyone"
publish = "anyone"

[[namespace]]
name = "shut"
channels = ["shut:*"]
subscribe = "nobody"
`;

/** Names with the same 32-bit FNV-1a hash. */
const COLLIDING = ["costarring", "liquid"];

/** The text of each publication's data in an API response. */
function historyText(text) {
  return [...text.matchAll(/\{"data":(.*?),"offset":\d+/gs)].map(([, data]) => data);
}

shared(
  "one gateway on Redis",
  async (stage) => {
    const redis = await stage.redis();
    return { redis, gateway: await stage.gateway({ redis, config: CONFIG }) };
  },
  (given) => {
    let count = 0;
    /** A new channel for each test. */
    const fresh = (kind) => `${kind}:${(count += 1)}`;
    const api = async (method, body) => JSON.parse((await callApi(given.gateway, method, body)).text);
    const socket = (stage, options) => new Commands(stage, given.gateway, options).connect();
    const stream = (stage, path, headers) => new Stream(stage, given.gateway, path, headers).opened();

    // Publications by clients.

    for (const kind of ["memory", "log"]) {
      scenario(`${kind}: the publisher of a client publication is in its info, live and in history`, async (stage) => {
        const channel = fresh(kind);
        const [author, reader] = [await socket(stage), await socket(stage)];
        await reader.command({ subscribe: { channel } });
        assert.equal(errorCode(await author.command({ publish: { channel, data: { n: 1 } } })), 0);
        await until("it is received", () => reader.publications(channel).length === 1);
        const info = { user: "", client: author.connected.connect.client };
        assert.deepEqual(reader.publications(channel)[0].info, info);
        const { history } = await reader.command({ history: { channel, limit: -1 } });
        assert.deepEqual(
          history.publications.map((publication) => publication.info),
          [info],
        );
        const { result } = await api("history", { channel, limit: -1 });
        assert.deepEqual(
          result.publications.map((publication) => publication.info),
          [info],
        );
      });

      scenario(`${kind}: a recovered publication has the info of its publisher`, async (stage) => {
        const channel = fresh(kind);
        const author = await socket(stage);
        const reader = await socket(stage);
        const { subscribe } = await reader.command({ subscribe: { channel } });
        await author.command({ publish: { channel, data: 1 } });
        await until("it is received", () => reader.publications(channel).length === 1);
        const again = await (
          await socket(stage)
        ).command({ subscribe: { channel, recover: true, epoch: subscribe.epoch, offset: 0 } });
        assert.equal(again.subscribe.recovered, true);
        assert.deepEqual(again.subscribe.publications[0].info, { user: "", client: author.connected.connect.client });
      });

      scenario(`${kind}: a publication of the API has no info`, async (stage) => {
        const channel = fresh(kind);
        const reader = await socket(stage);
        await reader.command({ subscribe: { channel } });
        await api("publish", { channel, data: 1 });
        await until("it is received", () => reader.publications(channel).length === 1);
        assert.equal("info" in reader.publications(channel)[0], false);
      });
    }

    scenario("the SDK receives the info of the publisher in Protobuf", async (stage) => {
      const channel = fresh("log");
      const sdk = await new Sdk(stage, given.gateway, "protobuf").connect();
      const { publications } = await sdk.subscribe(channel);
      const author = await socket(stage);
      await author.command({ publish: { channel, data: 1 } });
      await until("it is received", () => publications.length === 1);
      assert.equal(publications[0].info?.client, author.connected.connect.client);
    });

    scenario("pubsub: a client publication is only its payload in Redis", async (stage) => {
      const channel = fresh("plain");
      const backend = await new RedisSubscriber(stage, given.redis).subscribe(channel);
      const author = await socket(stage);
      assert.equal(errorCode(await author.command({ publish: { channel, data: { type: "offer" } } })), 0);
      await until("it is received", () => backend.payloads(channel).length === 1);
      assert.equal(String(backend.payloads(channel)[0]), '{"type":"offer"}');
    });

    scenario("data: null is valid for clients and the API", async (stage) => {
      const channel = fresh("plain");
      const client = await socket(stage);
      await client.command({ subscribe: { channel } });
      assert.equal(errorCode(await client.command({ publish: { channel, data: null } })), 0);
      assert.deepEqual(await api("publish", { channel, data: null }), { result: {} });
      assert.deepEqual((await api("broadcast", { channels: [channel], data: null })).result.responses, [
        { result: {} },
      ]);
      await until("they are received", () => client.publications(channel).length === 3);
      assert.deepEqual(
        client.publications(channel).map(({ data }) => data),
        [null, null, null],
      );
    });

    scenario("a publication without data is rejected", async (stage) => {
      const channel = fresh("plain");
      assert.equal((await api("publish", { channel })).error.code, 107);
      assert.equal(errorCode(await (await socket(stage)).command({ publish: { channel } })), 107);
    });

    // Unsupported features are rejected, never ignored.

    for (const type of [1, 2, 3, 4]) {
      scenario(`a subscription of type ${type} is rejected with 103 or 108`, async (stage) => {
        const channel = fresh("plain");
        const client = await socket(stage);
        assert.ok([103, 108].includes(errorCode(await client.command({ subscribe: { channel, type } }))));
        assert.equal(errorCode(await client.command({ subscribe: { channel } })), 0, "the connection stays open");
      });
    }

    scenario("a subscription of an undefined type closes the connection with 3004", async (stage) => {
      for (const type of [5, 99]) {
        const reply = await (await socket(stage)).command({ subscribe: { channel: fresh("plain"), type } });
        assert.equal(reply.closed?.code, 3004, JSON.stringify(reply));
      }
    });

    scenario(
      "a subscription of another type in the connect command does not become an ordinary one",
      async (stage) => {
        const channel = fresh("plain");
        const { connected } = await new Commands(stage, given.gateway).connect({ subs: { [channel]: { type: 1 } } });
        assert.equal(connected.connect?.subs?.[channel], undefined);
      },
    );

    scenario("a tags filter is rejected with 107", async (stage) => {
      const reply = await (
        await socket(stage)
      ).command({ subscribe: { channel: fresh("plain"), tf: { key: "a", cmp: "eq", val: "b" } } });
      assert.equal(errorCode(reply), 107);
    });

    for (const [field, value] of [
      ["skip_history", true],
      ["version", 7],
      ["version_epoch", "x"],
      ["delta", true],
    ]) {
      for (const kind of ["plain", "log", "memory"]) {
        scenario(`${kind}: the API rejects ${field} and publishes nothing`, async (stage) => {
          const channel = fresh(kind);
          const client = await socket(stage);
          await client.command({ subscribe: { channel } });
          assert.ok((await api("publish", { channel, data: 1, [field]: value })).error, "publish");
          const broadcast = await api("broadcast", { channels: [channel], data: 1, [field]: value });
          assert.ok(broadcast.error ?? broadcast.result.responses[0].error, "broadcast");
          await api("publish", { channel, data: 2 });
          await until("the next publication is received", () => client.publications(channel).length > 0);
          assert.deepEqual(
            client.publications(channel).map(({ data }) => data),
            [2],
          );
        });
      }
    }

    // The HTTP API.

    scenario("API errors have the message of the protocol and a separate detail", async () => {
      await api("publish", { channel: "log:x", data: 1 });
      const faults = [
        ["publish", { channel: "nowhere", data: 1 }, 102, "unknown channel"],
        ["publish", { channel: "plain:x" }, 107, "bad request"],
        ["publish", { channel: "", data: 1 }, 107, "bad request"],
        ["publish", "{", 107, "bad request"],
        ["history", { channel: "bare:x" }, 108, "not available"],
        ["publish", { channel: "plain:x", data: "x".repeat(1_048_577) }, 106, "limit exceeded"],
        [
          "history",
          { channel: "log:x", since: { offset: 1, epoch: "other" }, limit: 1 },
          112,
          "unrecoverable position",
        ],
      ];
      for (const [method, body, code, message] of faults) {
        const { error } = JSON.parse((await callApi(given.gateway, method, body)).text);
        assert.deepEqual(
          [error?.code, error?.message],
          [code, message],
          `${method} ${JSON.stringify(body).slice(0, 60)}`,
        );
      }
      const { text } = await callApi(given.gateway, "nothing", {});
      assert.deepEqual([JSON.parse(text).error.code, JSON.parse(text).error.message], [104, "method not found"]);
      const { error } = await api("publish", { channel: "nowhere", data: 1 });
      assert.equal(typeof error.detail, "string");
    });

    for (const kind of ["plain", "log", "memory"]) {
      scenario(`${kind}: an idempotency_key is applied or rejected, never ignored`, async (stage) => {
        const channel = fresh(kind);
        const client = await socket(stage);
        await client.command({ subscribe: { channel } });
        const answers = [];
        for (const data of [1, 2]) answers.push(await api("publish", { channel, data, idempotency_key: "once" }));
        await api("publish", { channel, data: 3 });
        await until("the next publication is received", () => client.publications(channel).some(({ data }) => data === 3));
        const received = client.publications(channel).map(({ data }) => data);
        if (answers[0].error) assert.deepEqual([answers[0].error.code, received], [108, [3]]);
        else assert.deepEqual([answers[1], received], [answers[0], [1, 3]]);
      });

      scenario(`${kind}: tags are delivered to WebSocket clients or rejected, never ignored`, async (stage) => {
        const channel = fresh(kind);
        const client = await socket(stage);
        await client.command({ subscribe: { channel } });
        const { error } = await api("publish", { channel, data: 1, tags: { a: "b" } });
        if (error) {
          assert.equal(error.code, 108);
          return;
        }
        await until("it is received", () => client.publications(channel).length === 1);
        assert.deepEqual(client.publications(channel)[0].tags, { a: "b" });
      });

      scenario(`${kind}: an empty history has publications and offset`, async () => {
        for (const body of [{ limit: 10 }, { limit: 0 }, {}]) {
          const { result } = await api("history", { channel: fresh(kind), ...body });
          assert.deepEqual([result.publications, result.offset, typeof result.epoch], [[], 0, "string"]);
        }
      });

      scenario(`${kind}: the API returns every payload in history unchanged`, async (stage) => {
        const channel = fresh(kind);
        const client = await socket(stage);
        await client.command({ subscribe: { channel } });
        const payloads = [
          '{"z":1,"a":2}',
          '{"n":1.10}',
          '{"n":1E2}',
          "12345678901234567890123",
          '{"a":1,"a":2}',
          '{"a" : [ 1 , 2 ]}',
          '"\\u0041\\/"',
          "-0",
          "null",
          '"ü"',
        ];
        for (const payload of payloads)
          await callApi(given.gateway, "publish", `{"channel":"${channel}","data":${payload}}`);
        await until("all are received", () => client.publications(channel).length === payloads.length);
        const { text } = await callApi(given.gateway, "history", { channel, limit: -1 });
        assert.deepEqual(historyText(text), payloads);
      });
    }

    // Channels without history.

    scenario("a channel without history has no offset and no epoch, and is never recovered", async (stage) => {
      const channel = fresh("bare");
      const client = await socket(stage);
      const { subscribe } = await client.command({ subscribe: { channel } });
      for (const field of ["offset", "epoch", "recoverable", "positioned", "recovered"])
        assert.equal(field in subscribe, false, field);
      await api("publish", { channel, data: 1 });
      await until("it is received", () => client.publications(channel).length === 1);
      assert.equal("offset" in client.publications(channel)[0], false);
      for (const position of [{ epoch: "", offset: 0 }, { epoch: "x", offset: 1 }, {}]) {
        const again = await (await socket(stage)).command({ subscribe: { channel, recover: true, ...position } });
        assert.notEqual(again.subscribe?.recovered, true, JSON.stringify(position));
      }
    });

    scenario("a stream that misses messages of a channel without history receives a gap event", async (stage) => {
      const channel = fresh("bare");
      const first = await stream(stage, `/sse/${channel}`);
      await api("publish", { channel, data: 1 });
      await until("it is received", () => first.of("message").length === 1);
      first.close();
      for (const data of [2, 3]) await api("publish", { channel, data });
      const again = await stream(stage, `/sse/${channel}`, { "last-event-id": first.events().at(-1).id });
      assert.notEqual(JSON.parse(again.of("subscribed")[0].data).channels[channel].recovered, true);
      await until("the gap event", () => again.of("gap").length === 1);
    });

    // Handshake, send, encodings.

    scenario("send closes the connection with 3508", async (stage) => {
      const client = await socket(stage);
      client.socket.send('{"send":{"data":1}}');
      await until("the connection is closed", () => client.closed);
      assert.equal(client.closed.code, 3508);
      assert.notEqual(client.closed.reason, "");
    });

    scenario("a handshake without Upgrade is rejected with 426", async () => {
      for (const path of ["/connection/websocket", "/ws"]) {
        assert.equal((await httpRequest(given.gateway.port, path)).status, 426, path);
      }
    });

    for (const query of ["format=protobuf", "cf_protocol=protobuf"]) {
      scenario(`?${query} selects Protobuf`, async (stage) => {
        const client = new Commands(stage, given.gateway, { path: `/connection/websocket?${query}` });
        const received = [];
        client.socket.on("message", (data, binary) => received.push([data, binary]));
        // Id 1 and an empty connect command, with a length prefix.
        client.socket.on("open", () => client.socket.send(Buffer.from([4, 8, 1, 34, 0])));
        await until("the reply", () => received.length > 0 || client.closed);
        assert.equal(received[0]?.[1], true, JSON.stringify(client.closed));
      });
    }

    // Payloads that parsers disagree on.

    const EDGES = {
      "a lone surrogate": '{"a":"\\ud800"}',
      "30,000 nested arrays": "[".repeat(30_000) + "]".repeat(30_000),
    };
    for (const [what, payload] of Object.entries(EDGES)) {
      scenario(
        `a payload with ${what} is delivered as a JSON string, live, recovered and by the API`,
        async (stage) => {
          const channel = fresh("plain");
          const client = await socket(stage);
          const { subscribe } = await client.command({ subscribe: { channel } });
          await given.redis.publish(channel, payload);
          await until("it is received", () => client.publications(channel).length === 1);
          assert.equal(client.publications(channel)[0].data, payload);
          const again = await (
            await socket(stage)
          ).command({ subscribe: { channel, recover: true, epoch: subscribe.epoch, offset: 0 } });
          assert.deepEqual(
            again.subscribe.publications?.map(({ data }) => data),
            [payload],
          );
          const { history } = await client.command({ history: { channel, limit: -1 } });
          assert.deepEqual(
            history.publications.map(({ data }) => data),
            [payload],
          );
          assert.deepEqual(
            (await api("history", { channel, limit: -1 })).result.publications.map(({ data }) => data),
            [payload],
          );
        },
      );

      scenario(`a payload with ${what} is unchanged over SSE and in Protobuf`, async (stage) => {
        const channel = fresh("plain");
        const events = await stream(stage, `/sse/${channel}`);
        const sdk = await new Sdk(stage, given.gateway, "protobuf").connect();
        const { publications } = await sdk.subscribe(channel);
        await given.redis.publish(channel, payload);
        await until("it is received", () => events.of("message").length === 1 && publications.length === 1);
        assert.equal(events.of("message")[0].data, payload);
        assert.equal(Buffer.from(publications[0].data).toString(), payload);
      });
    }

    scenario("such a payload from a client does not break the frames of others", async (stage) => {
      for (const kind of ["plain", "log", "memory"]) {
        const channel = fresh(kind);
        const [author, reader] = [await socket(stage), await socket(stage)];
        await reader.command({ subscribe: { channel } });
        for (const payload of ['"\\ud800"', "[".repeat(3000) + "]".repeat(3000)]) {
          author.socket.send(`{"id":${payload.length},"publish":{"channel":"${channel}","data":${payload}}}`);
        }
        const { id } = await author.command({ ping: {} });
        assert.equal(id, 2, "the author is still connected");
        await api("publish", { channel, data: "after" });
        await until("the next publication is received", () => reader.publications(channel).some(({ data }) => data === "after"));
        for (const { data } of reader.publications(channel)) assert.equal(typeof data, "string");
      }
    });

    for (const encoding of ENCODINGS) {
      scenario(`${encoding}: two publications near publication_bytes at once disconnect no client`, async (stage) => {
        const channel = fresh("plain");
        const sdk = await new Sdk(stage, given.gateway, encoding).connect();
        const { publications } = await sdk.subscribe(channel);
        const events = await stream(stage, `/sse/${channel}`);
        const payload = JSON.stringify("x".repeat(1_048_000));
        const commands = ["MULTI\r\n", "EXEC\r\n"];
        const publish = `*3\r\n$7\r\nPUBLISH\r\n$${channel.length}\r\n${channel}\r\n$${payload.length}\r\n${payload}\r\n`;
        const backend = connect(given.redis.port, "127.0.0.1");
        stage.after(() => backend.destroy());
        backend.write(commands.join(publish + publish));
        await until("both clients receive both", () => publications.length === 2 && events.of("message").length === 2);
        assert.deepEqual(sdk.errors, []);
        assert.deepEqual(events.of("gap").concat(events.of("error")), []);
      });
    }

    // Subscribing writes nothing to Redis.

    scenario(
      "subscribing to a stream channel without publications writes nothing to Redis",
      async (stage) => {
        const keys = async () => (await given.redis.cli(["KEYS", "*"])).split("\n").sort();
        const before = await keys();
        const channel = fresh("log");
        const client = await socket(stage);
        assert.equal(errorCode(await client.command({ subscribe: { channel } })), 0);
        await client.command({ history: { channel, limit: -1 } });
        await client.command({ unsubscribe: { channel } });
        await client.command({ subscribe: { channel, recover: true, epoch: "", offset: 0 } });
        await stream(stage, `/sse/${channel}`);
        await api("history", { channel, limit: 1 });
        assert.deepEqual(await keys(), before);
      },
    );

    scenario(
      "later publications on such a channel begin at offset 1 and are recovered",
      async (stage) => {
        const channel = fresh("log");
        const client = await socket(stage);
        const { subscribe } = await client.command({ subscribe: { channel } });
        const events = await stream(stage, `/sse/${channel}`);
        for (const data of [1, 2]) await api("publish", { channel, data });
        await until(
          "both clients receive both",
          () => client.publications(channel).length === 2 && events.of("message").length === 2,
        );
        assert.deepEqual(
          client.publications(channel).map(({ data, offset }) => [data, offset]),
          [
            [1, 1],
            [2, 2],
          ],
        );
        const again = await stream(stage, `/sse/${channel}`, { "last-event-id": events.of("subscribed")[0].id });
        await until("it is recovered", () => again.of("message").length === 2 || again.of("gap").length > 0);
        assert.deepEqual(again.of("gap"), [], "nothing was missed from the beginning");
        const { subscribe: recovered } = await (
          await socket(stage)
        ).command({ subscribe: { channel, recover: true, epoch: subscribe.epoch ?? "", offset: 0 } });
        assert.deepEqual(
          recovered.publications?.map(({ data }) => data),
          [1, 2],
        );
      },
    );

    // The format of SSE.

    scenario("the first block has retry, the subscribed event, its data and an id", async (stage) => {
      const { text } = await stream(stage, `/sse/${fresh("plain")}`);
      const first = text.split("\n\n")[0];
      assert.match(first, /^retry: ?\d+$/m);
      assert.match(first, /^event: ?subscribed$/m);
      assert.match(first, /^data: ?\{"channels":/m);
      assert.match(first, /^id: ?[A-Za-z0-9_.~-]+$/m);
    });

    scenario(
      "a heartbeat is a comment line without an empty line after it, and every block has data",
      async (stage) => {
        const channel = fresh("plain");
        const events = await stream(stage, `/sse/${channel}`);
        const comments = () => events.text.split("\n").filter((line) => line.startsWith(":")).length;
        await until("there is a heartbeat", () => comments() > 0);
        const seen = comments();
        await api("publish", { channel, data: 1 });
        await until("the next publication is received", () => events.of("message").length > 0);
        assert.ok(seen > 0);
        assert.doesNotMatch(events.text, /^:[^\n]*\n\n/m);
        for (const { block, data } of events.blocks()) assert.notEqual(data, undefined, JSON.stringify(block));
        assert.deepEqual(
          events.of("message").map(({ data }) => data),
          ["1"],
        );
      },
    );

    // SSE preflights.

    for (const path of ["/sse/plain:x", "/sse?channel=plain:x&channel=plain:y"]) {
      scenario(`a preflight of an allowed origin for ${path} allows the headers of fetch clients`, async () => {
        const headers = {
          origin: ORIGIN,
          "access-control-request-method": "GET",
          "access-control-request-headers": "authorization,cache-control,last-event-id",
        };
        const answer = await httpRequest(given.gateway.port, path, { method: "OPTIONS", headers });
        assert.ok(answer.status === 200 || answer.status === 204, String(answer.status));
        assert.equal(answer.headers["access-control-allow-origin"], ORIGIN);
        assert.equal(answer.headers["access-control-allow-credentials"], "true");
        assert.match(answer.headers["access-control-allow-methods"] ?? "", /GET/);
        const allowed = (answer.headers["access-control-allow-headers"] ?? "").toLowerCase().split(/\s*,\s*/);
        for (const header of ["authorization", "last-event-id", "cache-control"])
          assert.ok(allowed.includes(header), header);
        assert.match(answer.headers.vary ?? "", /origin/i);
      });

      scenario(`a preflight of a foreign origin for ${path} allows nothing`, async () => {
        const headers = { origin: "https://evil.example", "access-control-request-method": "GET" };
        const answer = await httpRequest(given.gateway.port, path, { method: "OPTIONS", headers });
        assert.equal(answer.headers["access-control-allow-origin"], undefined);
        assert.equal(answer.headers["access-control-allow-headers"], undefined);
      });
    }

    scenario("the request after the preflight is accepted with those headers", async (stage) => {
      const events = await stream(stage, `/sse/${fresh("plain")}`, {
        origin: ORIGIN,
        "last-event-id": "nonsense",
        "cache-control": "no-store",
      });
      assert.equal(events.status, 200);
      assert.equal(events.headers["access-control-allow-origin"], ORIGIN);
    });

    // SSE with many channels.

    scenario("129 names of three channels are three channels", async (stage) => {
      const channels = [fresh("plain"), fresh("plain"), fresh("plain")];
      const query = Array.from({ length: 129 }, (_, index) => `channel=${channels[index % 3]}`).join("&");
      const events = await stream(stage, `/sse?${query}`);
      assert.equal(events.status, 200);
      assert.deepEqual(Object.keys(JSON.parse(events.of("subscribed")[0].data).channels).sort(), channels.sort());
      await api("publish", { channel: channels[0], data: 1 });
      await api("publish", { channel: channels[1], data: 2 });
      await until("they are received", () => events.of(channels[1]).length > 0);
      assert.equal(events.of(channels[0]).length, 1);
    });

    scenario("129 different names are rejected", async () => {
      const query = Array.from({ length: 129 }, (_, index) => `channel=plain:${index}`).join("&");
      assert.equal((await httpRequest(given.gateway.port, `/sse?${query}`)).status, 400);
    });

    for (const kind of ["plain", "log"]) {
      scenario(`${kind}: a stream of 128 names of 40 bytes resumes, by header and by query`, async (stage) => {
        const channels = Array.from(
          { length: 128 },
          (_, index) => `${kind}:${String(index).padStart(40 - kind.length - 1, "x")}`,
        );
        const path = `/sse?${channels.map((channel) => `channel=${channel}`).join("&")}`;
        const first = await stream(stage, path);
        assert.equal(first.status, 200);
        await api("broadcast", { channels, data: 1 });
        await until("all is received", () => channels.every((channel) => first.of(channel).length === 1));
        await api("broadcast", { channels, data: 2 });
        await until("all is received", () => channels.every((channel) => first.of(channel).length === 2));
        const cursor = first.events().at(-1).id;
        const middle = first.events().filter(({ name }) => name !== "subscribed")[127].id;
        for (const [id, missed] of [
          [cursor, 0],
          [middle, 128],
        ]) {
          const byHeader = await stream(stage, path, { "last-event-id": id });
          assert.equal(byHeader.status, 200, "Last-Event-ID");
          const { channels: recovered } = JSON.parse(byHeader.of("subscribed")[0].data);
          for (const channel of channels) assert.equal(recovered[channel].recovered, true, channel);
          await until(
            "missed publications are received",
            () => channels.flatMap((channel) => byHeader.of(channel)).length >= missed,
          );
          assert.equal(channels.flatMap((channel) => byHeader.of(channel)).length, missed);
        }
        assert.equal((await stream(stage, `${path}&last_event_id=${cursor}`)).status, 200, "last_event_id");
      });
    }

    scenario("every accepted stream can resume", async (stage) => {
      for (const length of [44, 52, 56, 60, 80, 100, 110, 120, 130, 140, 160]) {
        const channels = Array.from({ length: 128 }, (_, index) => `plain:${String(index).padStart(length - 6, "y")}`);
        const path = `/sse?${channels.map((channel) => `channel=${channel}`).join("&")}`;
        const first = await stream(stage, path);
        if (first.status !== 200) continue;
        const again = await stream(stage, path, { "last-event-id": first.events().at(-1).id });
        assert.equal(again.status, 200, `names of ${length} bytes`);
        first.close();
        again.close();
      }
    });

    scenario(
      "two channels with colliding names recover all missed publications, or receive a gap event",
      async (stage) => {
        const path = `/sse?${COLLIDING.map((channel) => `channel=${channel}`).join("&")}`;
        const first = await stream(stage, path);
        for (const channel of COLLIDING) await api("publish", { channel, data: 1 });
        await until("both are received", () => COLLIDING.every((channel) => first.of(channel).length === 1));
        const { id } = first.events().at(-1);
        first.close();
        for (const channel of COLLIDING) await api("publish", { channel, data: 2 });
        const again = await stream(stage, path, { "last-event-id": id });
        const hasGap = (channel) => again.of("gap").some(({ data }) => JSON.parse(data).channel === channel);
        const hasMissed = (channel) => again.of(channel).some(({ data }) => data === "2");
        for (const channel of COLLIDING) await api("publish", { channel, data: 3 });
        await until("the next publications are received", () =>
          COLLIDING.every((channel) => again.of(channel).some(({ data }) => data === "3")),
        );
        for (const channel of COLLIDING)
          assert.ok(hasMissed(channel) || hasGap(channel), `silent loss on ${channel}: ${again.text}`);
        assert.ok(COLLIDING.every(hasMissed), "64 bits of SHA-256 do not collide here");
      },
    );

    scenario("a cursor of one channel is not valid for another one with a colliding name", async (stage) => {
      const first = await stream(stage, "/sse/costarring");
      const second = await stream(stage, "/sse/liquid", { "last-event-id": first.of("subscribed")[0].id });
      assert.notEqual(JSON.parse(second.of("subscribed")[0].data).channels.liquid.recovered, true);
    });
  },
);
