// Defaults: channels, the HTTP API, foreign hosts and origins, and tokens are rejected; and what the process reports
// about its environment.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { connect as connectHttp2 } from "node:http2";

import { RedisSubscriber, Sdk } from "./clients.mjs";
import { freePort, scenario, shared, until } from "./harness.mjs";
import { Commands, httpRequest, callApi, errorCode } from "./raw.mjs";

const CLOSED = [];
const KEY = "0123456789abcdef0123456789abcdef";
const SUGGESTED = ["EARSHOT_OPEN_CHANNELS", "EARSHOT_API_KEY", "EARSHOT_ALLOWED_ORIGINS"];
const METHODS = ["publish", "broadcast", "history", "history_remove", "channels", "info"];

shared(
  "REDIS_URL alone",
  async (stage) => {
    const redis = await stage.redis();
    return { redis, gateway: await stage.gateway({ redis, flags: CLOSED }) };
  },
  (given) => {
    scenario("the gateway starts and is ready", async () => {
      assert.equal((await httpRequest(given.gateway.port, "/ready")).status, 200);
      assert.equal(JSON.parse((await httpRequest(given.gateway.port, "/health")).text).cache, "redis");
    });

    scenario("every channel is rejected over WebSocket with 102", async (stage) => {
      const client = await new Commands(stage, given.gateway).connect();
      for (const channel of ["demo", "web-signals", "a", "celery.pidbox", "__keyevent@0__:expired"]) {
        const reply = await client.command({ subscribe: { channel } });
        assert.equal(errorCode(reply), 102, `${channel}: ${JSON.stringify(reply)}`);
      }
    });

    scenario("a client publication is rejected, and no Redis subscriber receives it", async (stage) => {
      const backend = await new RedisSubscriber(stage, given.redis).subscribe("demo");
      const client = await new Commands(stage, given.gateway).connect();
      assert.ok(
        [102, 103].includes(errorCode(await client.command({ publish: { channel: "demo", data: { evil: true } } }))),
      );
      await given.redis.publish("demo", "after");
      await until("the next publication is received", () => backend.payloads("demo").length > 0);
      assert.deepEqual(backend.payloads("demo").map(String), ["after"]);
    });

    scenario("channels in the connect command are rejected", async (stage) => {
      const { connected } = await new Commands(stage, given.gateway).connect({ subs: { demo: {} } });
      assert.deepEqual(connected.connect?.subs ?? {}, {});
    });

    scenario("every channel is rejected over SSE, alone and among others", async () => {
      for (const path of ["/sse/demo", "/sse?channel=demo&channel=web-signals", "/sse/celery.pidbox"]) {
        assert.equal((await httpRequest(given.gateway.port, path)).status, 404, path);
      }
    });

    scenario("the API without a key rejects each method with 403 and names the setting", async () => {
      for (const method of METHODS) {
        const { status, text } = await callApi(given.gateway, method, { channel: "demo", channels: ["demo"], data: 1 });
        assert.equal(status, 403, method);
        assert.match(text, /EARSHOT_API_KEY/, method);
      }
    });

    scenario("the API without a key is closed to requests from a plain nginx", async () => {
      // `proxy_pass http://127.0.0.1:PORT` alone: HTTP/1.0, a loopback Host, and no proxy header.
      const headers = { host: `127.0.0.1:${given.gateway.port}`, connection: "close" };
      assert.equal((await callApi(given.gateway, "publish", { channel: "demo", data: 1 }, headers)).status, 403);
    });

    scenario("the API without a key accepts no key", async () => {
      for (const headers of [
        { "x-api-key": "" },
        { "x-api-key": "x" },
        { authorization: "apikey " },
        { authorization: "apikey x" },
      ]) {
        assert.ok(
          [401, 403].includes((await callApi(given.gateway, "info", {}, headers)).status),
          JSON.stringify(headers),
        );
      }
      const { status } = await httpRequest(given.gateway.port, "/api/info?api_key=", { method: "POST", body: "{}" });
      assert.ok([401, 403].includes(status));
    });

    scenario("the page is not served", async () => {
      assert.notEqual((await httpRequest(given.gateway.port, "/")).status, 200);
    });

    scenario("the startup log shows the three missing settings", () => suggestions(given.gateway));

    scenario("the three settings, pasted into a shell, open the channels and the API", async (stage) => {
      const lines = await suggestions(given.gateway);
      const shell = spawnSync("sh", ["-ec", `set -a\n${lines.join("\n")}\nenv`], { encoding: "utf8" });
      const set = shell.stdout
        .split("\n")
        .map((line) => line.split(/=(.*)/s))
        .filter(([name]) => SUGGESTED.includes(name));
      const env = Object.fromEntries(set.map(([name, value]) => [name, value]));
      const gateway = await stage.gateway({ redis: given.redis, flags: CLOSED, env });
      const channel = env.EARSHOT_OPEN_CHANNELS.split(",")[0];
      const client = await new Commands(stage, gateway).connect();
      assert.equal(errorCode(await client.command({ subscribe: { channel } })), 0);
      const key = { "x-api-key": env.EARSHOT_API_KEY };
      assert.equal((await callApi(gateway, "publish", { channel, data: 1 }, key)).text, '{"result":{}}');
      const origin = env.EARSHOT_ALLOWED_ORIGINS.split(",")[0];
      assert.equal((await httpRequest(gateway.port, `/sse/${channel}`, { headers: { origin } })).status, 200);
    });
  },
);

for (const [what, settings] of [
  ["without Redis", {}],
  ["on every address", { address: "0.0.0.0" }],
]) {
  scenario(`${what}, everything is closed`, async (stage) => {
    const gateway = await stage.gateway({ flags: CLOSED, ...settings });
    const client = await new Commands(stage, gateway).connect();
    assert.equal(errorCode(await client.command({ subscribe: { channel: "demo" } })), 102);
    assert.equal((await httpRequest(gateway.port, "/sse/demo")).status, 404);
    assert.equal((await callApi(gateway, "publish", { channel: "demo", data: 1 })).status, 403);
    await suggestions(gateway);
  });
}

/** The lines of the startup log that set the missing settings, when all of them are logged. */
function suggestions(gateway) {
  return until("the missing settings are logged", () => {
    const lines = gateway.log().split("\n");
    const found = SUGGESTED.flatMap((name) => lines.find((line) => new RegExp(`^${name}=\\S`).test(line)) ?? []);
    return found.length === SUGGESTED.length && found;
  });
}

shared(
  "EARSHOT_OPEN_CHANNELS, on a loopback listener",
  async (stage) => {
    const env = {
      EARSHOT_OPEN_CHANNELS: "nest-signals,web-*",
      EARSHOT_API_KEY: KEY,
      EARSHOT_ALLOWED_ORIGINS: "https://app.example.com",
    };
    const redis = await stage.redis();
    return { redis, gateway: await stage.gateway({ redis, flags: CLOSED, env }) };
  },
  (given) => {
    const key = { "x-api-key": KEY };
    const local = () => `127.0.0.1:${given.gateway.port}`;

    scenario("exact names and globs are open to anonymous subscribers", async (stage) => {
      const client = await new Commands(stage, given.gateway).connect();
      for (const channel of ["nest-signals", "web-signals", "web-"]) {
        assert.equal(errorCode(await client.command({ subscribe: { channel } })), 0, channel);
        assert.equal((await httpRequest(given.gateway.port, `/sse/${channel}`)).status, 200, channel);
      }
      await given.redis.publish("web-signals", '{"type":"offer"}');
      await until("the publication is received", () => client.publications("web-signals").length === 1);
    });

    scenario("other channels stay closed", async (stage) => {
      const client = await new Commands(stage, given.gateway).connect();
      for (const channel of ["nest-signals2", "nest", "xweb-", "demo"]) {
        assert.equal(errorCode(await client.command({ subscribe: { channel } })), 102, channel);
        assert.equal((await httpRequest(given.gateway.port, `/sse/${channel}`)).status, 404, channel);
      }
    });

    scenario("publishing by clients stays closed", async (stage) => {
      const client = await new Commands(stage, given.gateway).connect();
      await client.command({ subscribe: { channel: "web-signals" } });
      assert.equal(errorCode(await client.command({ publish: { channel: "web-signals", data: 1 } })), 103);
    });

    scenario("the API accepts its key in X-API-Key, Authorization and the query", async () => {
      assert.equal((await callApi(given.gateway, "info", {}, key)).status, 200);
      assert.equal((await callApi(given.gateway, "info", {}, { authorization: `apikey ${KEY}` })).status, 200);
      assert.equal(
        (await httpRequest(given.gateway.port, `/api/info?api_key=${KEY}`, { method: "POST", body: "{}" })).status,
        200,
      );
    });

    scenario("the API rejects a missing and a wrong key", async () => {
      for (const headers of [
        {},
        { "x-api-key": `${KEY}0` },
        { "x-api-key": KEY.slice(1) },
        { authorization: `Bearer ${KEY}` },
      ]) {
        assert.equal((await callApi(given.gateway, "info", {}, headers)).status, 401, JSON.stringify(headers));
      }
      assert.equal((await httpRequest(given.gateway.port, "/api/info?api_key=x", { method: "POST", body: "{}" })).status, 401);
    });

    scenario("pages of localhost are not allowed outside of development mode", async (stage) => {
      const headers = { origin: "http://localhost:5173" };
      assert.equal((await httpRequest(given.gateway.port, "/sse/web-signals", { headers })).status, 403);
      const client = await new Commands(stage, given.gateway, { headers }).connect();
      assert.equal(errorCode(client.connected), 3507);
    });

    for (const path of ["/health", "/ready", "/metrics", "/sse/web-signals", "/sse?channel=web-signals"]) {
      scenario(`a foreign Host is rejected for ${path}`, async () => {
        for (const host of [
          "evil.example",
          `evil.example:${given.gateway.port}`,
          "localhost.evil.example",
          "127.0.0.1.nip.io",
        ]) {
          const { status, text } = await httpRequest(given.gateway.port, path, {
            headers: { host, "sec-fetch-site": "same-origin" },
          });
          assert.ok(status >= 400 && status < 500, `${host}: ${status}`);
          assert.doesNotMatch(text, /uptime|earshot_|"ready"/, host);
        }
      });

      scenario(`a local Host and the host of an allowed origin are accepted for ${path}`, async () => {
        const { port } = given.gateway;
        const hosts = [
          "localhost",
          `localhost:${port}`,
          `127.0.0.1:${port}`,
          "127.0.0.1",
          `[::1]:${port}`,
          "LOCALHOST",
          "app.example.com",
          "app.example.com:443",
        ];
        for (const host of hosts) assert.equal((await httpRequest(port, path, { headers: { host } })).status, 200, host);
      });
    }

    scenario("an IP address as Host is accepted, because DNS rebinding needs a name", async () => {
      for (const host of ["10.0.0.1", "192.168.1.2:8000", "[fd00::1]:8000"]) {
        assert.equal((await httpRequest(given.gateway.port, "/health", { headers: { host } })).status, 200, host);
      }
    });

    scenario("a foreign Host is rejected for WebSockets", async (stage) => {
      for (const headers of [{ host: "evil.example" }, { host: "evil.example", origin: "http://evil.example" }]) {
        const client = await new Commands(stage, given.gateway, { headers }).connect();
        assert.equal(client.connected.connect, undefined, JSON.stringify(headers));
      }
    });

    scenario("a foreign Host is rejected by the API, even with a key", async () => {
      const { status } = await callApi(given.gateway, "info", {}, { ...key, host: "evil.example" });
      assert.ok(status >= 400 && status < 500, String(status));
    });

    scenario("a foreign authority is rejected over HTTP/2", async (stage) => {
      const session = connectHttp2(`http://${local()}`);
      stage.after(() => session.destroy());
      session.on("error", () => {});
      for (const [authority, accepted] of [
        [local(), true],
        ["evil.example", false],
      ]) {
        const stream = session.request({ ":path": "/health", ":authority": authority });
        let status;
        stream.on("response", (headers) => (status = headers[":status"]));
        stream.on("error", () => (status ??= 421));
        stream.resume();
        await until("the response", () => status);
        assert.equal(status === 200, accepted, `${authority}: ${status}`);
      }
    });

    scenario("a stream embedded by a cross-site page is rejected", async () => {
      const headers = { host: local(), "sec-fetch-site": "cross-site" };
      assert.equal((await httpRequest(given.gateway.port, "/sse/web-signals", { headers })).status, 403);
    });

    scenario("a token in connect is rejected, and the log has the reason", async (stage) => {
      const client = await new Commands(stage, given.gateway).connect({ token: "eyJhbGciOiJIUzI1NiJ9.e30.c2VjcmV0" });
      assert.equal(client.connected.connect, undefined, JSON.stringify(client.connected));
      assert.notEqual(errorCode(client.connected), 0);
      await until("it is logged", () => /token/i.test(given.gateway.log()));
      assert.doesNotMatch(given.gateway.log(), /c2VjcmV0/);
    });

    scenario("a token in subscribe and in the subscriptions of connect is rejected", async (stage) => {
      const client = await new Commands(stage, given.gateway).connect();
      assert.notEqual(errorCode(await client.command({ subscribe: { channel: "web-signals", token: "a.b.c" } })), 0);
      const { connected } = await new Commands(stage, given.gateway).connect({
        subs: { "web-signals": { token: "a.b.c" } },
      });
      assert.deepEqual(connected.connect?.subs ?? {}, {});
    });

    for (const [where, query, headers] of [
      ["a bearer token", "", { authorization: "Bearer a.b.c" }],
      ["a token in the query", "token=a.b.c", {}],
    ]) {
      scenario(`${where} is rejected over SSE and WebSocket, and the log has the reason`, async (stage) => {
        const { status } = await httpRequest(given.gateway.port, `/sse/web-signals?${query}`, { headers });
        assert.ok(status === 401 || status === 403, String(status));
        const { connected } = await new Commands(stage, given.gateway, { path: `/ws?${query}`, headers }).connect();
        assert.equal(connected.connect, undefined);
        await until("it is logged", () => /token/i.test(given.gateway.log()));
        assert.doesNotMatch(given.gateway.log(), /a\.b\.c/);
      });
    }

    scenario("an SDK with a token stops reconnecting", async (stage) => {
      const sdk = new Sdk(stage, given.gateway, "json", { token: "a.b.c" });
      sdk.client.connect();
      await until(
        "the SDK is disconnected",
        () => sdk.client.state === "disconnected" || sdk.client.state === "connected",
      );
      assert.equal(sdk.client.state, "disconnected");
    });
  },
);

scenario("a loopback listener accepts configured hosts only", async (stage) => {
  const gateway = await stage.gateway({
    flags: CLOSED,
    config: 'allowed_hosts = ["gateway.internal"]\nallowed_origins = ["https://app.example.com"]\n',
  });
  assert.equal((await httpRequest(gateway.port, "/health", { headers: { host: "gateway.internal" } })).status, 200);
  assert.equal(
    (await httpRequest(gateway.port, "/health", { headers: { host: `gateway.internal:${gateway.port}` } })).status,
    200,
  );
  assert.notEqual((await httpRequest(gateway.port, "/health", { headers: { host: "evil.example" } })).status, 200);
});

scenario("a listener that is not on loopback accepts health checks with any Host", async (stage) => {
  const gateway = await stage.gateway({ flags: CLOSED, address: "0.0.0.0" });
  assert.equal((await httpRequest(gateway.port, "/health", { headers: { host: "10.0.0.7:8000" } })).status, 200);
});

const RESERVED = [
  "__keyspace@0__:session:1",
  "__keyevent@0__:expired",
  "__keyevent@15__:set",
  "celery.pidbox",
  "myapp.celery.pidbox",
  "reply.celery.pidbox",
  "worker.celeryev.1",
  "x.celeryev",
  "celeryev.x",
  "bull:mail:events",
  "bull:",
  "rq:pubsub:command:1",
  "__redis__:invalidate",
  "__sentinel__:hello",
  "earshot:probe:1",
  "earshot:x",
];

shared(
  "reserved channel names",
  async (stage) => {
    const redis = await stage.redis();
    const config = `[[namespace]]
name = "exact"
channels = ["bull:mail:events"]
subscribe = "anyone"
publish = "anyone"
[[namespace]]
name = "wide"
channels = ["*"]
subscribe = "anyone"
publish = "anyone"
`;
    return {
      redis,
      open: await stage.gateway({ redis, flags: CLOSED, env: { EARSHOT_OPEN_CHANNELS: "*" } }),
      dev: await stage.gateway({ redis }),
      file: await stage.gateway({ redis, flags: CLOSED, config }),
    };
  },
  (given) => {
    for (const [which, exact] of [
      ["open", []],
      ["dev", []],
      ["file", ["bull:mail:events"]],
    ]) {
      const how = { open: "EARSHOT_OPEN_CHANNELS=*", dev: "development mode", file: "a namespace for *" }[which];

      scenario(`${how} does not allow subscribing`, async (stage) => {
        const client = await new Commands(stage, given[which]).connect();
        for (const channel of RESERVED.filter((name) => !exact.includes(name))) {
          const reply = await client.command({ subscribe: { channel } });
          assert.ok([102, 103].includes(errorCode(reply)), `${channel}: ${JSON.stringify(reply)}`);
          for (const path of [
            `/sse/${encodeURIComponent(channel)}`,
            `/sse?channel=a&channel=${encodeURIComponent(channel)}`,
          ]) {
            const { status } = await httpRequest(given[which].port, path);
            assert.ok(status === 403 || status === 404, `${path}: ${status}`);
          }
        }
      });

      scenario(`${how} does not allow publishing`, async (stage) => {
        const client = await new Commands(stage, given[which]).connect();
        const backend = await new RedisSubscriber(stage, given.redis).subscribe("celery.pidbox");
        for (const channel of RESERVED.filter((name) => !exact.includes(name))) {
          const reply = await client.command({ publish: { channel, data: { method: "shutdown" } } });
          assert.ok([102, 103].includes(errorCode(reply)), `${channel}: ${JSON.stringify(reply)}`);
        }
        await given.redis.publish("celery.pidbox", "after");
        await until("the next publication is received", () => backend.payloads("celery.pidbox").length > 0);
        assert.deepEqual(backend.payloads("celery.pidbox").map(String), ["after"]);
      });
    }

    scenario("the API rejects them", async () => {
      for (const channel of RESERVED) {
        const { text } = await callApi(given.dev, "publish", { channel, data: 1 });
        assert.equal(JSON.parse(text).error?.code, 102, channel);
      }
    });

    scenario("a namespace with the exact name opens it", async (stage) => {
      const client = await new Commands(stage, given.file).connect();
      assert.equal(errorCode(await client.command({ subscribe: { channel: "bull:mail:events" } })), 0);
      assert.equal((await httpRequest(given.file.port, "/sse/bull:mail:events")).status, 200);
    });

    scenario("ordinary names are open", async (stage) => {
      for (const which of ["open", "dev", "file"]) {
        const client = await new Commands(stage, given[which]).connect();
        for (const channel of ["demo", "bulletin", "celery", "earshots"]) {
          assert.equal(errorCode(await client.command({ subscribe: { channel } })), 0, `${which} ${channel}`);
        }
      }
    });
  },
);

shared(
  "development mode",
  async (stage) => ({ gateway: await stage.gateway() }),
  (given) => {
    scenario("every channel is open for subscribing and publishing", async (stage) => {
      const client = await new Commands(stage, given.gateway).connect();
      assert.equal(errorCode(await client.command({ subscribe: { channel: "whatever" } })), 0);
      assert.equal(errorCode(await client.command({ publish: { channel: "whatever", data: 1 } })), 0);
      assert.equal((await httpRequest(given.gateway.port, "/sse/whatever")).status, 200);
    });

    scenario("the API needs no key, and the page is served", async () => {
      assert.equal((await callApi(given.gateway, "info", {})).status, 200);
      assert.equal((await httpRequest(given.gateway.port, "/")).status, 200);
    });

    scenario("pages of any local origin are accepted, others are not", async (stage) => {
      for (const origin of [
        "http://localhost:5173",
        "https://localhost",
        "http://app.localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:3000",
      ]) {
        assert.equal((await httpRequest(given.gateway.port, "/sse/demo", { headers: { origin } })).status, 200, origin);
        const client = await new Commands(stage, given.gateway, { headers: { origin } }).connect();
        assert.ok(client.connected.connect, origin);
      }
      for (const origin of ["https://evil.example", "http://localhost.evil.example", "null"]) {
        assert.equal((await httpRequest(given.gateway.port, "/sse/demo", { headers: { origin } })).status, 403, origin);
        const client = await new Commands(stage, given.gateway, { headers: { origin } }).connect();
        assert.equal(errorCode(client.connected), 3507, origin);
      }
    });

    scenario("foreign pages and hosts cannot use the API without a key", async () => {
      for (const headers of [
        { origin: "https://evil.example" },
        { host: "evil.example" },
        { host: "evil.example", origin: "http://evil.example" },
      ]) {
        const { status } = await callApi(
          given.gateway,
          "publish",
          { channel: "demo", data: 1 },
          { ...headers, "content-type": "text/plain" },
        );
        assert.ok(status >= 400 && status < 500, `${JSON.stringify(headers)}: ${status}`);
      }
    });

    scenario("the log has one warning", async () => {
      const warnings = given.gateway
        .log()
        .split(/listening/)[0]
        .split("\n")
        .filter((line) => /WARN/.test(line));
      assert.equal(warnings.length, 1, warnings.join("\n"));
      assert.match(warnings[0], /dev/i);
    });
  },
);

for (const address of ["0.0.0.0", "", "[::]"]) {
  scenario(`development mode does not start on ${address || "every address"}`, async (stage) => {
    const { code, output } = await stage.run(["serve", "--dev", "--listen", `${address}:${await freePort()}`]);
    assert.notEqual(code, 0);
    assert.match(output, /--dev|development mode/i);
  });
}

scenario("only the flag enables development mode", async (stage) => {
  const gateway = await stage.gateway({ flags: CLOSED, env: { EARSHOT_DEV: "true" } });
  assert.equal((await callApi(gateway, "info", {})).status, 403);
  const { code } = await stage.run(["config", "check"], { config: "dev = true\n" });
  assert.equal(code, 2);
});

scenario("SIGHUP is ignored and logged", async (stage) => {
  const gateway = await stage.gateway();
  const client = await new Commands(stage, gateway).connect();
  gateway.process.kill("SIGHUP");
  const ended = () => gateway.process.exitCode ?? gateway.process.signalCode;
  await until("it is logged, or the process exits", () => /SIGHUP/.test(gateway.log()) || ended());
  assert.equal(ended(), null);
  assert.deepEqual(await client.command({ ping: {} }), { id: 2, ping: {} });
});

for (const command of [["config", "check"], ["serve"]]) {
  scenario(`EARSHOT_LOG=verbose is an error of earshot ${command.join(" ")}, with a suggestion`, async (stage) => {
    const env = { EARSHOT_LOG: "verbose", EARSHOT_LISTEN: "host.invalid:1" };
    const { code, output } = await stage.run(command, { env });
    assert.equal(code, 2, output);
    assert.match(output, /EARSHOT_LOG/);
    assert.match(output, /debug/);
  });
}

scenario("an unknown level in the file's log is an error with a suggestion", async (stage) => {
  for (const log of ["verbose", "info,earshot::broker=loud"]) {
    const { code, output } = await stage.run(["config", "check"], { config: `log = "${log}"\n` });
    assert.equal(code, 2, `${log}: ${output}`);
    assert.match(output, /debug/);
  }
});

scenario("the known levels of EARSHOT_LOG are accepted", async (stage) => {
  for (const level of ["error", "warn", "info", "debug", "info,earshot::broker=debug"]) {
    const { code, output } = await stage.run(["config", "check"], { env: { EARSHOT_LOG: level } });
    assert.equal(code, 0, `${level}: ${output}`);
  }
});

scenario("an unknown EARSHOT_ variable causes a warning with a suggestion", async (stage) => {
  const gateway = await stage.gateway({
    flags: CLOSED,
    env: { EARSHOT_LISTN: "127.0.0.1:1", EARSHOT_ALLOWED_ORIGIN: "https://a.example" },
  });
  const warnings = gateway
    .log()
    .split("\n")
    .filter((line) => /WARN/.test(line))
    .join("\n");
  assert.match(warnings, /EARSHOT_LISTN\b[^]*EARSHOT_LISTEN\b/);
  assert.match(warnings, /EARSHOT_ALLOWED_ORIGIN\b[^]*EARSHOT_ALLOWED_ORIGINS\b/);
});

scenario("the variables that Kubernetes injects for a service named earshot cause no warning", async (stage) => {
  const env = {
    EARSHOT_PORT: "tcp://10.0.0.1:80",
    EARSHOT_PORT_80_TCP: "tcp://10.0.0.1:80",
    EARSHOT_PORT_80_TCP_ADDR: "10.0.0.1",
    EARSHOT_SERVICE_HOST: "10.0.0.1",
    EARSHOT_SERVICE_PORT: "80",
    EARSHOT_SERVICE_PORT_HTTP: "80",
  };
  const gateway = await stage.gateway({ flags: CLOSED, env });
  assert.doesNotMatch(gateway.log(), /EARSHOT_(PORT|SERVICE)/);
});

scenario("REDIS_SSL is read as REDIS_TLS", async (stage) => {
  const shown = async (env) => stage.run(["config", "show"], { env: { REDIS_URL: "redis://127.0.0.1:6379", ...env } });
  const [tls, ssl, none] = [await shown({ REDIS_TLS: "true" }), await shown({ REDIS_SSL: "true" }), await shown({})];
  const settings = ({ output }) =>
    output
      .split("\n")
      .filter((line) => !line.startsWith("#"))
      .join("\n");
  assert.equal(settings(ssl), settings(tls));
  assert.notEqual(settings(ssl), settings(none));
  assert.equal(
    (await stage.run(["config", "check"], { env: { REDIS_URL: "redis://h:1", REDIS_SSL: "perhaps" } })).code,
    2,
  );
});

const SECRET = "hunter2secret";
const LEAKY = `redis://:${SECRET}@host:6379`;
const PLACES = {
  url: { config: `[redis.default]\nurl = "${LEAKY}"\n[[namespace]]\nname = "a"\nchannels = ["a"]\nsubscribe = "anyone"\n` },
  "the API's key": { config: `[api]\nkey = "${SECRET}${SECRET}"\n` },
  cluster: { config: `[redis.default]\nurl = "redis://h"\ncluster = ["${LEAKY}"]\n` },
  sentinels: { config: `[redis.default]\nsentinels = ["${LEAKY}"]\nsentinel_master = "m"\n` },
  sentinel_master: { config: `[redis.default]\nurl = "redis://h"\nsentinel_master = "${LEAKY}"\n` },
  listen: { config: `listen = ["${LEAKY}"]\n` },
  log: { config: `log = "${LEAKY}"\n` },
  allowed_origins: { config: `allowed_origins = ["https://u:${SECRET}@app.example.com/x"]\n` },
  hosts: { config: `allowed_hosts = ["${LEAKY}"]\n` },
  "a namespace's redis": { config: `[[namespace]]\nname = "a"\nchannels = ["a"]\nsubscribe = "anyone"\nredis = "${LEAKY}"\n` },
  "a namespace's source": { config: `[[namespace]]\nname = "a"\nchannels = ["a"]\nsubscribe = "anyone"\nsource = "${LEAKY}"\n` },
  "a namespace's name": { config: `[[namespace]]\nname = "${LEAKY}"\nchannels = []\nsubscribe = "anyone"\n` },
  "an instance's name": { config: `[redis."${LEAKY}"]\nurl = "x"\n` },
  "a size": { config: `[limits]\nrequest_header_bytes = "${LEAKY}"\n` },
  "a duration": { config: `[sse]\nretry = "${LEAKY}"\n` },
  "an unknown key": { config: `"${LEAKY}" = 1\n` },
  "an unknown key's line": { config: `ulr = "${LEAKY}"\n` },
  "a line that is not TOML": { config: `[redis.default]\nurl = "${LEAKY}\n` },
  "a url without quotes": { config: `[redis.default]\nurl = ${LEAKY}\n` },
  "a duplicate url": { config: `[redis.default]\nurl = "${LEAKY}"\nurl = "${LEAKY}"\n` },
  "a wrong scheme": { config: `[redis.default]\nurl = "http://:${SECRET}@host"\n` },
  "a wrong port": { config: `[redis.default]\nurl = "redis://:${SECRET}@host:99999"\n` },
  "a wrong database": { config: `[redis.default]\nurl = "redis://:${SECRET}@host/x"\n` },
  password_file: { config: `[redis.default]\nurl = "redis://h"\npassword_file = "${LEAKY}"\n` },
  ca_file: { config: `[redis.default]\nurl = "rediss://h"\nca_file = "${LEAKY}"\n` },
  server_name: { config: `[redis.default]\nurl = "rediss://h"\nserver_name = "${LEAKY}"\n` },
  REDIS_URL: { env: { REDIS_URL: `rdis://:${SECRET}@host` } },
  "REDIS_URL with a space": { env: { REDIS_URL: `redis://:${SECRET}@host :6379` } },
  REDIS_HOST: { env: { REDIS_HOST: LEAKY } },
  REDIS_PORT: { env: { REDIS_HOST: "h", REDIS_PORT: LEAKY } },
  REDIS_DB: { env: { REDIS_HOST: "h", REDIS_DB: LEAKY } },
  REDIS_TLS: { env: { REDIS_HOST: "h", REDIS_TLS: LEAKY } },
  REDIS_PUBSUB_URL: { env: { REDIS_URL: "redis://h", REDIS_PUBSUB_URL: `http://:${SECRET}@host` } },
  EARSHOT_LISTEN: { env: { EARSHOT_LISTEN: LEAKY } },
  EARSHOT_LOG: { env: { EARSHOT_LOG: LEAKY } },
  EARSHOT_CONFIG: { env: { EARSHOT_CONFIG: LEAKY } },
  EARSHOT_OPEN_CHANNELS: { env: { EARSHOT_OPEN_CHANNELS: `${LEAKY},\u0001` } },
  EARSHOT_ALLOWED_ORIGINS: { env: { EARSHOT_ALLOWED_ORIGINS: LEAKY } },
};

for (const [place, settings] of Object.entries(PLACES)) {
  scenario(`no message shows the password of a URL used as: ${place}`, async (stage) => {
    for (const command of [
      ["config", "check"],
      ["config", "show"],
    ]) {
      const { code, output } = await stage.run(command, settings);
      assert.ok(!output.includes(SECRET), `${command.join(" ")} (exit code ${code}): ${output}`);
    }
  });
}

scenario(
  "logs, /health, /ready, /metrics and errors never show the Redis password, even if it is rejected",
  async (stage) => {
    const redis = await stage.redis();
    await redis.cli(["CONFIG", "SET", "requirepass", SECRET]);
    const env = {
      REDIS_URL: `redis://:${SECRET}@127.0.0.1:${redis.port}`,
      EARSHOT_OPEN_CHANNELS: "a",
      EARSHOT_API_KEY: KEY,
    };
    const gateway = await stage.gateway({ flags: CLOSED, env });
    const said = async () => {
      const responses = await Promise.all(["/health", "/ready", "/metrics"].map((path) => httpRequest(gateway.port, path)));
      const { text } = await callApi(gateway, "publish", { channel: "a", data: 1 }, { "x-api-key": KEY });
      return [gateway.log(), ...responses.map((answer) => answer.text), text].join("\n");
    };
    const ready = async (status) => (await httpRequest(gateway.port, "/ready")).status === status;
    assert.ok(!(await said()).includes(SECRET));
    await redis.cli(["-a", SECRET, "CONFIG", "SET", "requirepass", "another"]);
    await redis.cli(["-a", "another", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    await until("it is rejected", () => ready(503));
    assert.ok(!(await said()).includes(SECRET));
  },
);

scenario("no message shows the password of a URL in the arguments", async (stage) => {
  const listen = ["--listen", `127.0.0.1:${await freePort()}`];
  const commands = [
    ["serve", "--listen", LEAKY],
    ["serve", "--config", LEAKY],
    ["serve", LEAKY],
    ["serve", `--${LEAKY}`],
    [LEAKY],
    ["check", `http://:${SECRET}@127.0.0.1:1`],
    ["check", `redis://:${SECRET}@127.0.0.1:1`],
    ["check", "--path", LEAKY],
    ["check", "--path", `http://u:${SECRET}@127.0.0.1:1`],
    ["check", "--timeout", LEAKY],
    ["migrate", "--from", `http://:${SECRET}@h`, "--to", `a=http://:${SECRET}@h`, "--rest", LEAKY],
    ["drill", "--gateway", LEAKY, "--redis", LEAKY],
    ["drill", "--only", LEAKY],
  ];
  const leaks = [];
  for (const command of commands) {
    const { code, output } = await stage.run(
      command[0] === "serve" && command[1] !== "--listen" ? [...command, ...listen] : command,
    );
    assert.notEqual(code, 0, command.join(" "));
    if (output.includes(SECRET)) leaks.push(output.split("\n").find((line) => line.includes(SECRET)));
  }
  assert.deepEqual(leaks, []);
});
