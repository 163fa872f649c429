// Extracts the fenced code blocks of the documents and runs them as printed.
// `relocate` makes the only changes to a block: addresses.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

import { openPage } from "./browser.mjs";
import { Events } from "./clients.mjs";
import { binary, until } from "./harness.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../../..");
const python = join(here, ".tools/python/bin");

/** The fenced blocks of a document by name: "README.md, Quick start, sh 2" is the second sh block of that section. */
export function readSnippets(document) {
  const snippets = new Map();
  const seen = new Map();
  let heading = "";
  let open;
  for (const line of readFileSync(join(root, document), "utf8").split("\n")) {
    const fence = line.match(/^```(\S*)$/);
    if (open && fence) {
      snippets.set(open.name, open.lines.map((each) => `${each}\n`).join(""));
      open = undefined;
    } else if (open) {
      open.lines.push(line);
    } else if (fence) {
      const kind = `${document}, ${heading}, ${fence[1]}`;
      seen.set(kind, (seen.get(kind) ?? 0) + 1);
      open = { name: `${kind} ${seen.get(kind)}`, lines: [] };
    } else {
      heading = line.match(/^#+ (.*)$/)?.[1] ?? heading;
    }
  }
  assert.equal(open, undefined, `${document}: the last block has no end`);
  return snippets;
}

/** The same text with the addresses of this test: the gateway's port, Redis, and the port of a server in the text. */
export function relocate(text, { port, redis, api, server }) {
  const moves = [
    ["http://gateway.internal:8000", api && `http://127.0.0.1:${api}`],
    [/:8000\b/g, port && `:${port}`],
    ["redis://127.0.0.1:6379", redis?.url],
    [/^redis-cli\b/gm, redis && `redis-cli -p ${redis.port}`],
    ["app.listen(3000)", server && `app.listen(${server})`],
  ];
  return moves.reduce((moved, [printed, used]) => (used ? moved.replaceAll(printed, used) : moved), text);
}

/** Runs a shell block in bash; `files` are in its working directory, `earshot` and `make` on its PATH. */
export function shell(stage, text, { env = {}, files = {}, ...addresses } = {}) {
  const cwd = stage.directory();
  for (const [name, content] of Object.entries(files)) writeFileSync(join(cwd, name), content);
  const bin = join(cwd, ".bin");
  mkdirSync(bin);
  symlinkSync(binary, join(bin, "earshot"));
  writeFileSync(join(bin, "make"), makeWithoutCompiling(addresses.port));
  chmodSync(join(bin, "make"), 0o755);
  const PATH = `${bin}:${process.env.PATH}:${python}`;
  return stage.program("bash", ["-c", relocate(text, addresses)], { cwd, env: { PATH, ...env } });
}

/** `make run` starts the built binary, with the arguments that the Makefile has; other targets are only resolved. */
function makeWithoutCompiling(port) {
  return `#!/bin/bash
set -eo pipefail
real() { PATH=\${PATH#*:} command make -C '${root}' -n "$@"; }
[ "$1" = run ] || { real "$@"; exit; }
arguments=$(real run | sed -n 's/^cargo run .* -- //p')
exec earshot \${arguments:?} --listen localhost:${port}
`;
}

/** Sends `signal` to the program that a shell block waits for, and waits until the shell has noticed. */
export async function stopForeground({ child }) {
  const read = () => readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim();
  const pid = await until("the shell runs a program", read);
  process.kill(Number(pid), "SIGTERM");
  await until("the program has ended", () => child.exitCode !== null || read() !== pid);
}

/** The environment variables of the program that a shell block waits for. */
export async function foregroundEnvironment({ child }) {
  const pid = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim();
  const entries = readFileSync(`/proc/${pid || child.pid}/environ`, "utf8").split("\0");
  return Object.fromEntries(entries.filter(Boolean).map((entry) => entry.split(/=(.*)/s, 2)));
}

/** Waits until a program has ended without an error; returns its output. */
export async function finished(program) {
  const { child } = program;
  await until("the program ends", () => child.exitCode !== null || child.signalCode !== null);
  assert.equal(child.exitCode, 0, program.output());
  return program.output();
}

/** Runs ES modules with Node; `files` are beside each other, the last one is started. */
export function node(stage, files, { env = {}, ...addresses } = {}) {
  const cwd = moduleDirectory(stage, files, addresses);
  return stage.program(process.execPath, [Object.keys(files).at(-1)], { cwd, env: { ...redisUrl(addresses), ...env } });
}

/** Checks and compiles TypeScript modules in strict mode, then runs the last one with Node. */
export async function typescript(stage, files, { env = {}, ...addresses } = {}) {
  const cwd = moduleDirectory(stage, files, addresses);
  const names = Object.keys(files);
  const flags = "--strict --experimentalDecorators --module nodenext --target es2022 --types node".split(" ");
  await finished(stage.program(join(here, "node_modules/.bin/tsc"), [...flags, ...names], { cwd }));
  const main = names.at(-1).replace(/ts$/, "js");
  return stage.program(process.execPath, [main], { cwd, env: { ...redisUrl(addresses), ...env } });
}

function moduleDirectory(stage, files, addresses) {
  const cwd = stage.directory();
  symlinkSync(join(here, "node_modules"), join(cwd, "node_modules"));
  writeFileSync(join(cwd, "package.json"), '{"type":"module"}');
  for (const [name, text] of Object.entries(files)) writeFileSync(join(cwd, name), relocate(text, addresses));
  return cwd;
}

/** Runs Python modules; `files` are beside each other, the last one is started. */
export function pythonProgram(stage, files, { env = {}, ...addresses } = {}) {
  const cwd = stage.directory();
  for (const [name, text] of Object.entries(files)) writeFileSync(join(cwd, name), relocate(text, addresses));
  const all = { PYTHONUNBUFFERED: "1", ...redisUrl(addresses), ...env };
  return stage.program(join(python, "python"), [Object.keys(files).at(-1)], { cwd, env: all });
}

function redisUrl({ redis }) {
  return redis ? { REDIS_URL: redis.url } : {};
}

/** Asserts that `earshot config check` accepts a configuration. */
export function checkConfiguration(stage, text) {
  const path = join(stage.directory(), "earshot.toml");
  writeFileSync(path, text);
  const { status, stdout, stderr } = spawnSync(binary, ["config", "check", "--config", path], { encoding: "utf8" });
  assert.equal(status, 0, stdout + stderr);
}

/**
 * Runs JavaScript or TSX, with its packages, as a module of a page in Chromium whose origin is not the gateway's.
 * `before` defines what the block leaves to its reader, `after` uses what it exports. `page.logged` is what it logged.
 */
export async function browser(stage, text, { before = "", after = "", ...addresses }) {
  const scripts = '<script src="/before.js"></script><script type="module" src="/block.js"></script>';
  const html = `<!doctype html><div id="root"></div>${scripts}`;
  const origin = await serve(stage, {
    "/": ["text/html", html],
    "/before.js": ["text/javascript", await bundle(relocate(before, addresses), "iife")],
    "/block.js": ["text/javascript", await bundle(relocate(text, addresses) + after, "esm")],
  });
  const page = await openPage(stage);
  page.logged = [];
  let last = Promise.resolve();
  page.on("console", (message) => {
    const values = Promise.all(message.args().map((value) => value.jsonValue()));
    last = last.then(async () => page.logged.push([message.type(), ...(await values)]));
  });
  await page.goto(origin);
  return page;
}

/** Whether the page has logged a warning whose first value is `text`. */
export function warned(page, text) {
  return page.logged.some(([type, first]) => type === "warning" && first === text);
}

async function bundle(contents, format) {
  const { outputFiles } = await build({
    stdin: { contents, loader: "tsx", resolveDir: here },
    bundle: true,
    write: false,
    format,
    jsx: "automatic",
    alias: { "react-native": "react-native-web" },
    define: { "process.env.NODE_ENV": '"production"' },
  });
  return outputFiles[0].text;
}

async function serve(stage, files) {
  const server = createServer((request, response) => {
    const [type, text] = files[request.url] ?? ["text/plain", ""];
    response.setHeader("content-type", `${type}; charset=utf-8`).end(text);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  stage.after(() => server.closeAllConnections() ?? server.close());
  return `http://localhost:${server.address().port}`;
}

/** Waits until a channel has `count` clients on the gateway. */
export async function clientsOf(gateway, channel, count = 1) {
  await until(`${channel} has ${count} clients`, async () => {
    const { result } = await gateway.api("channels", {});
    return (result.channels[channel]?.num_clients ?? 0) === count;
  });
}

/** Waits until a gateway on `port` is ready. */
export async function serves(port) {
  await until(`port ${port} is ready`, async () => (await fetch(`http://127.0.0.1:${port}/ready`)).status === 200);
}

/** A Redis, a gateway on it, and an EventSource that is subscribed to `channel`. */
export async function subscriber(stage, channel) {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  return { redis, events: await new Events(stage, `${gateway.http}/sse/${channel}`).subscribed() };
}

/** The first `count` messages, decoded; fails if there are more. */
export async function messages(events, count) {
  await until(`${count} messages`, () => events.of("message").length >= count);
  assert.equal(events.of("message").length, count);
  return events.of("message").map(({ data }) => JSON.parse(data));
}

/** Asserts that exactly these messages arrive. */
export async function received(events, expected) {
  assert.deepEqual(await messages(events, expected.length), expected);
}

/** The status of the response to a page of `Origin` that opens an event stream. */
export async function streamStatus(url, Origin) {
  const abort = new AbortController();
  const { status } = await fetch(url, { headers: { Origin }, signal: abort.signal });
  abort.abort();
  return status;
}
