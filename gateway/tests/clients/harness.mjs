// Starts the processes of the tests: real redis-servers and real gateways, each on a free port and stopped after its
// test. It must never fake a response or wait for a fixed time: it waits for conditions, with a deadline.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
/** The gateway under test. */
export const binary = resolve(process.env.EARSHOT_BIN ?? join(here, "../../../target/debug/earshot"));

/** Longest wait for a condition before a test fails. Generous, because the machine may be busy. */
export const WAIT_TIMEOUT_MS = Number(process.env.WAIT_TIMEOUT_MS ?? 20_000);

const running = new Set();
const stages = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

/** A test with its own `Stage`: what it starts is stopped, and its logs are shown if it fails. */
export function scenario(name, body) {
  test(name, { timeout: 6 * WAIT_TIMEOUT_MS }, async () => {
    const stage = new Stage();
    try {
      await body(stage);
    } catch (error) {
      for (const { showLogs } of stages) showLogs();
      throw error;
    } finally {
      await stage.stop();
    }
  });
}

/** Scenarios that share what `start` returns; it is stopped after the last of them. */
export function shared(name, start, scenarios) {
  describe(name, () => {
    const stage = new Stage();
    const things = {};
    before(async () => Object.assign(things, await start(stage)), { timeout: 6 * WAIT_TIMEOUT_MS });
    after(() => stage.stop());
    scenarios(things);
  });
}

/** Polls `probe` and resolves with its first truthy result; fails with `what` after the timeout. */
export async function until(what, probe, timeout = WAIT_TIMEOUT_MS) {
  const deadline = Date.now() + timeout;
  let last;
  for (;;) {
    try {
      const result = await probe();
      if (result) return result;
      last = undefined;
    } catch (error) {
      last = error;
    }
    const late = last ? ` (last: ${last.message})` : "";
    if (Date.now() > deadline) assert.fail(`still waiting after ${timeout} ms: ${what}${late}`);
    await sleep(10);
  }
}

/** The processes, files and clean-ups of one test. */
class Stage {
  #cleanups = [];
  #logs = [];

  constructor() {
    stages.add(this);
  }

  /** Runs `cleanup` after the test, in reverse order of registration. */
  after(cleanup) {
    this.#cleanups.push(cleanup);
  }

  /** A temporary directory of this test. */
  directory() {
    const directory = mkdtempSync(join(tmpdir(), "earshot-clients-"));
    this.after(() => rmSync(directory, { recursive: true, force: true }));
    return directory;
  }

  /** A real Redis without persistence. */
  async redis() {
    const port = await freePort();
    const args = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    const redis = new Redis(port, () => this.#spawn("redis-server", args, { cwd: this.directory() }));
    await redis.restart();
    return redis;
  }

  /**
   * A gateway on `redis` (or on the memory broker), with `config` as its earshot.toml, if given. It runs in development
   * mode unless `flags` says otherwise, and listens on `address`.
   */
  async gateway({ redis, flags = ["--dev"], address = "127.0.0.1", ...settings } = {}) {
    const port = await freePort();
    const env = { ...environment(redis), ...settings.env };
    const child = this.earshot(["serve", ...flags, "--listen", `${address}:${port}`], { ...settings, env });
    const gateway = new Gateway(port, child);
    await until("the gateway is ready", async () => {
      return child.exitCode !== null || (await fetch(`${gateway.http}/ready`)).status === 200;
    });
    assert.equal(child.exitCode, null, "the gateway exited during its start");
    return gateway;
  }

  /** Starts `earshot` with these arguments. */
  earshot(args, { config, env = {} } = {}) {
    assert.ok(existsSync(binary), `no gateway at ${binary}: build it, or set EARSHOT_BIN`);
    const cwd = this.directory();
    if (config !== undefined) {
      writeFileSync(join(cwd, "test.toml"), config);
      args = [...args, "--config", join(cwd, "test.toml")];
    }
    return this.#spawn(binary, args, { cwd, env: { ...cleanEnvironment(), ...env } });
  }

  /** Runs `earshot` until it exits; returns its exit code and output. */
  async run(args, settings) {
    const child = this.earshot(args, settings);
    await until(`earshot ${args.join(" ")} exits`, () => child.exitCode !== null || child.signalCode !== null);
    return { code: child.exitCode, output: child.output() };
  }

  /** Shows the output of the processes. */
  showLogs = () => {
    for (const { name, path } of this.#logs) {
      console.error(`--- ${name}\n${readFileSync(path, "utf8").split("\n").slice(-60).join("\n")}`);
    }
  };

  async stop() {
    stages.delete(this);
    for (const cleanup of this.#cleanups.reverse()) await cleanup();
  }

  /** Runs a program and its children until the test is over; `output` returns the text of both streams. */
  program(command, args, { env = {}, cwd = this.directory() } = {}) {
    const child = this.#spawn(command, args, { cwd, env: { ...cleanEnvironment(), ...env }, detached: true });
    return { child, output: child.output };
  }

  #spawn(command, args, options) {
    const path = join(this.directory(), "log");
    const log = openSync(path, "w");
    const child = spawn(command, args.map(String), { ...options, stdio: ["ignore", log, log] });
    closeSync(log);
    running.add(child);
    const exited = new Promise((done) => child.once("exit", done));
    child.once("error", (error) => writeFileSync(path, `${error}`));
    child.output = () => readFileSync(path, "utf8");
    this.#logs.push({ name: `${command} ${args.join(" ")}`, path });
    this.after(async () => {
      // A detached child leads a process group, whose members may outlive it.
      if (options.detached && child.pid) killGroup(child.pid);
      child.kill("SIGKILL");
      if (child.pid) await exited;
      running.delete(child);
    });
    return child;
  }
}

/** A Redis server, used through redis-cli. */
class Redis {
  #spawn;
  #process;

  constructor(port, spawn) {
    this.port = port;
    this.url = `redis://127.0.0.1:${port}`;
    this.#spawn = spawn;
  }

  /** Kills the server, as a crash would. */
  async kill() {
    const ended = new Promise((done) => this.#process.once("exit", done));
    this.#process.kill("SIGKILL");
    await ended;
  }

  /** Starts or restarts the server on the same port. */
  async restart() {
    this.#process = this.#spawn();
    await until("redis-server responds", async () => (await this.cli(["PING"])) === "PONG\n");
  }

  /** Runs redis-cli; `input`, if given, is the last argument, byte for byte (`-x`). */
  cli(args, input) {
    const flags = input === undefined ? [] : ["-x"];
    const child = spawn("redis-cli", ["-p", String(this.port), ...flags, ...args], {
      stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    });
    if (input !== undefined) child.stdin.end(input);
    return collect(child);
  }

  /** Publishes exactly these bytes. */
  publish(channel, bytes) {
    return this.cli(["PUBLISH", channel], bytes);
  }
}

/** A running gateway. */
class Gateway {
  constructor(port, process) {
    this.port = port;
    this.process = process;
    this.http = `http://127.0.0.1:${port}`;
    this.ws = `ws://127.0.0.1:${port}/connection/websocket`;
  }

  /** Its output so far, without colour codes. */
  log() {
    return this.process.output().replaceAll(/\x1b\[[0-9;]*m/g, "");
  }

  /** Calls one method of the HTTP API. */
  async api(method, body) {
    const response = await fetch(`${this.http}/api/${method}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    assert.equal(response.status, 200, `${method}: ${response.status}`);
    return response.json();
  }
}

function killGroup(pid) {
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

async function collect(child) {
  const out = [];
  const err = [];
  child.stdout.on("data", (chunk) => out.push(chunk));
  child.stderr.on("data", (chunk) => err.push(chunk));
  const code = await new Promise((done, failed) => child.once("close", done).once("error", failed));
  assert.equal(code, 0, `redis-cli: ${Buffer.concat(err)}`);
  return Buffer.concat(out).toString();
}

/** The environment without variables that configure a gateway. */
function cleanEnvironment() {
  const configuring = /^(EARSHOT_|REDIS_|QUEUE_PREFIX$)/;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !configuring.test(name)));
}

function environment(redis) {
  return redis ? { REDIS_URL: redis.url } : {};
}

let nextPort = process.pid % 8000;

/**
 * A port without a listener, below the kernel's range of ephemeral ports and above 10080, the last port that `fetch` and
 * browsers refuse to connect to (Fetch Standard, "bad port").
 */
export async function freePort() {
  for (;;) {
    nextPort = (nextPort + 1) % 8000;
    const port = 11_000 + nextPort;
    const server = createServer().listen(port, "127.0.0.1");
    const free = await new Promise((done) => server.once("listening", () => done(true)).once("error", () => done(false)));
    if (!free) continue;
    await new Promise((closed) => server.close(closed));
    return port;
  }
}
