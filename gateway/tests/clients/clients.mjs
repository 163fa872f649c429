// The clients under test in Node: the official SDK, EventSource, a plain WebSocket, a plain Redis subscriber. They must
// never repair what a client receives: every byte is passed on unchanged.

import { Centrifuge as JsonCentrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
import { connect } from "node:net";
import WebSocket from "ws";

import { until } from "./harness.mjs";

export const ENCODINGS = ["json", "protobuf"];

/** The official SDK, with the raw frames of both directions. */
export class Sdk {
  #ended = false;
  received = [];
  sent = [];
  /** Errors and disconnects; most tests expect none. */
  errors = [];

  /** `headers` are sent in the handshake; the other options are the SDK's own. */
  constructor(stage, gateway, encoding, { headers = {}, ...options } = {}) {
    this.encoding = encoding;
    const Client = encoding === "json" ? JsonCentrifuge : ProtobufCentrifuge;
    this.client = new Client(gateway.ws, { websocket: recording(this, headers), ...options });
    this.client.on("connecting", ({ code, reason }) => code !== 0 && this.errors.push(`connecting ${code} ${reason}`));
    this.client.on("disconnected", ({ code, reason }) => {
      if (!this.#ended) this.errors.push(`disconnected ${code} ${reason}`);
    });
    this.client.on("error", ({ error }) => this.errors.push(`error ${error.code} ${error.message}`));
    stage.after(() => {
      this.#ended = true;
      this.client.disconnect();
    });
  }

  async connect() {
    this.client.connect();
    await this.client.ready(10_000);
    return this;
  }

  /** Subscribes, and collects the publications of `channel`. */
  async subscribe(channel) {
    const subscription = this.client.newSubscription(channel);
    const publications = [];
    subscription.on("publication", (publication) => publications.push(publication));
    subscription.subscribe();
    await subscription.ready(10_000);
    return { subscription, publications };
  }

  /** The `data` that the SDK expects: bytes in Protobuf, a value in JSON. */
  data(text) {
    return this.encoding === "json" ? JSON.parse(text) : Buffer.from(text);
  }

  /** The bytes of each publication's `data` on `channel`, unchanged from the wire. */
  payloads(channel, publications) {
    if (this.encoding === "protobuf") return publications.map(({ data }) => Buffer.from(data));
    return rawPublications(this.received, channel).map((raw) => Buffer.from(raw));
  }
}

/** A hand-written client of the JSON protocol that keeps the text of every frame. */
export class PlainWebSocket {
  frames = [];
  closed;

  constructor(stage, gateway, path = "/ws") {
    this.socket = new WebSocket(`ws://127.0.0.1:${gateway.port}${path}`);
    this.socket.on("message", (data) => {
      this.frames.push(data.toString());
      if (data.toString() === "{}") this.socket.send("{}");
    });
    this.socket.on("close", (code, reason) => (this.closed = { code, reason: reason.toString() }));
    this.socket.on("error", (error) => (this.closed ??= { code: 0, reason: error.message }));
    stage.after(() => this.socket.terminate());
  }

  async subscribe(...channels) {
    await until("the WebSocket is open", () => this.socket.readyState === WebSocket.OPEN);
    const commands = [{ id: 1, connect: {} }];
    channels.forEach((channel, index) => commands.push({ id: index + 2, subscribe: { channel } }));
    this.socket.send(commands.map((command) => JSON.stringify(command)).join("\n"));
    const last = `{"id":${commands.length},`;
    await until("the subscribe reply", () => lines(this.frames).some((line) => line.startsWith(last)));
    return this;
  }

  payloads(channel) {
    return rawPublications(this.frames, channel).map((raw) => Buffer.from(raw));
  }
}

/** An EventSource that keeps every event of these names, and of `message`, `subscribed` and `gap`. */
export class Events {
  events = [];
  errors = 0;

  constructor(stage, url, names = []) {
    this.source = new EventSource(url);
    for (const name of ["message", "subscribed", "gap", ...names]) {
      this.source.addEventListener(name, ({ data, lastEventId }) => this.events.push({ name, data, id: lastEventId }));
    }
    this.source.addEventListener("error", () => (this.errors += 1));
    stage.after(() => this.source.close());
  }

  async subscribed() {
    await until("the subscribed event", () => this.of("subscribed").length > 0);
    return this;
  }

  of(name) {
    return this.events.filter((event) => event.name === name);
  }
}

/** A plain Redis subscriber: the bytes that a backend receives after `SUBSCRIBE`. */
export class RedisSubscriber {
  #buffer = Buffer.alloc(0);
  /** Each reply of the server, as a list of byte strings and numbers. */
  #replies = [];

  constructor(stage, redis) {
    this.socket = connect(redis.port, "127.0.0.1");
    this.socket.on("data", (chunk) => this.#take(chunk));
    stage.after(() => this.socket.destroy());
  }

  async subscribe(channel) {
    this.socket.write(`*2\r\n$9\r\nSUBSCRIBE\r\n$${Buffer.byteLength(channel)}\r\n${channel}\r\n`);
    await until("Redis confirms the subscription", () => this.#of("subscribe", channel).length > 0);
    return this;
  }

  payloads(channel) {
    return this.#of("message", channel).map((reply) => reply[2]);
  }

  #of(kind, channel) {
    return this.#replies.filter(([first, second]) => String(first) === kind && String(second) === channel);
  }

  #take(chunk) {
    this.#buffer = Buffer.concat([this.#buffer, chunk]);
    for (let parsed = array(this.#buffer); parsed; parsed = array(this.#buffer)) {
      this.#replies.push(parsed.items);
      this.#buffer = this.#buffer.subarray(parsed.end);
    }
  }
}

/** The raw JSON text of each publication's `data` on `channel`, taken from the frames without re-encoding. */
export function rawPublications(frames, channel) {
  const head = `{"push":{"channel":${JSON.stringify(channel)},"pub":{"data":`;
  return lines(frames).filter((line) => line.startsWith(head)).map((line) => firstValue(line.slice(head.length)));
}

function lines(frames) {
  return frames.flatMap((frame) => frame.toString().split("\n"));
}

/** The text of the first JSON value in `text`. */
function firstValue(text) {
  let depth = 0;
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at];
    if (char === '"') at = endOfString(text, at);
    else if (char === "{" || char === "[") depth += 1;
    else if (depth > 0 && (char === "}" || char === "]")) depth -= 1;
    else if (depth === 0 && (char === "," || char === "}")) return text.slice(0, at);
  }
  throw new Error(`no end of the value in ${text}`);
}

function endOfString(text, start) {
  let at = start + 1;
  while (text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return at;
}

/** The array of bulk strings and integers at the start of `buffer`, if it is complete. */
function array(buffer) {
  if (buffer.length === 0) return undefined;
  const head = line(buffer, 0);
  if (!head) return undefined;
  const items = [];
  let { end } = head;
  for (let left = Number(head.text.slice(1)); left > 0; left -= 1) {
    const item = line(buffer, end);
    if (!item) return undefined;
    end = item.end;
    if (item.text[0] === ":") {
      items.push(Number(item.text.slice(1)));
      continue;
    }
    const length = Number(item.text.slice(1));
    if (buffer.length < end + length + 2) return undefined;
    items.push(buffer.subarray(end, end + length));
    end += length + 2;
  }
  return { items, end };
}

function line(buffer, start) {
  const end = buffer.indexOf("\r\n", start);
  return end < 0 ? undefined : { text: buffer.toString("latin1", start, end), end: end + 2 };
}

/** The `ws` class; sends `headers` in the handshake, and records every frame of both directions in `tap`. */
function recording(tap, headers) {
  return class extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { headers });
      this.on("message", (data) => tap.received.push(data));
    }

    send(data, ...rest) {
      tap.sent.push(Buffer.from(data));
      super.send(data, ...rest);
    }
  };
}
