// Clients without a library, which choose each header and byte that they send, and may read nothing. They must never
// repair a response: it is passed on unchanged.

import { request } from "node:http";
import { connect } from "node:net";
import WebSocket from "ws";

import { until } from "./harness.mjs";

/** Sends one HTTP request; returns status, headers and text of the response, and only the head of an event stream. */
export function httpRequest(port, path, { method = "GET", headers = {}, body } = {}) {
  return new Promise((done, failed) => {
    const named = Object.keys(headers).some((name) => name.toLowerCase() === "host");
    const outgoing = request(
      { host: "127.0.0.1", port, path, method, headers, agent: false, setHost: !named },
      (incoming) => {
        const response = { status: incoming.statusCode, headers: incoming.headers, text: "" };
        if (/event-stream/.test(incoming.headers["content-type"])) {
          incoming.on("error", () => {});
          outgoing.destroy();
          done(response);
          return;
        }
        incoming.setEncoding("utf8");
        incoming.on("data", (chunk) => (response.text += chunk));
        incoming.on("end", () => done(response));
        incoming.on("error", failed);
      },
    );
    outgoing.on("error", failed);
    outgoing.end(body);
  });
}

/** Calls the HTTP API; returns the response with its text. */
export function callApi(gateway, method, body, headers = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return httpRequest(gateway.port, `/api/${method}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: text,
  });
}

/** An event stream, unchanged from the wire. */
export class Stream {
  text = "";
  status;
  ended = false;

  constructor(stage, gateway, path, headers = {}) {
    this.request = request({ host: "127.0.0.1", port: gateway.port, path, headers, agent: false }, (incoming) => {
      this.status = incoming.statusCode;
      this.headers = incoming.headers;
      this.incoming = incoming;
      incoming.setEncoding("utf8");
      incoming.on("data", (chunk) => (this.text += chunk));
      incoming.on("close", () => (this.ended = true));
      incoming.on("error", () => {});
    });
    this.request.on("error", (error) => (this.error = error));
    this.request.end();
    stage.after(() => this.request.destroy());
  }

  /** Waits for the response, and for the subscribed event if the status is 200. */
  async opened() {
    await until("the response of the stream", () => this.status ?? this.error);
    if (this.status === 200)
      await until("the subscribed event", () => this.of("subscribed").length > 0 || this.ended);
    return this;
  }

  /** The complete blocks. */
  blocks() {
    return this.text.split("\n\n").slice(0, -1).map(event);
  }

  /** The events that an EventSource dispatches: the blocks with data. */
  events() {
    return this.blocks().filter(({ data }) => data !== undefined);
  }

  of(name) {
    return this.events().filter((event) => event.name === name);
  }

  close() {
    this.request.destroy();
  }
}

function event(block) {
  const result = { name: "message", block };
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") result.name = value;
    else if (field === "data") result.data = result.data === undefined ? value : `${result.data}\n${value}`;
    else if (field !== "") result[field] = value;
  }
  return result;
}

/** A WebSocket client in JSON that sends one command at a time. */
export class Commands {
  frames = [];
  closed;
  #id = 0;

  constructor(stage, gateway, { path = "/ws", headers, protocols = [] } = {}) {
    this.socket = new WebSocket(`ws://127.0.0.1:${gateway.port}${path}`, protocols, { headers });
    this.socket.on("message", (data) => {
      this.frames.push(data.toString());
      if (data.toString() === "{}") this.socket.send("{}");
    });
    this.socket.on("close", (code, reason) => (this.closed ??= { code, reason: reason.toString() }));
    this.socket.on("unexpected-response", (_, { statusCode }) => (this.closed ??= { code: -statusCode, reason: "" }));
    this.socket.on("error", (error) => (this.closed ??= { code: 0, reason: error.message }));
    stage.after(() => this.socket.terminate());
  }

  /** Sends `command` with an id; returns its reply, or the close code if the connection is closed. */
  async command(command) {
    await until("the WebSocket is open", () => this.closed ?? this.socket.readyState === WebSocket.OPEN);
    const id = (this.#id += 1);
    if (!this.closed) this.socket.send(JSON.stringify({ id, ...command }));
    const reply = () => this.lines().find((line) => line.startsWith(`{"id":${id},`) || line.startsWith(`{"id":${id}}`));
    await until(`${JSON.stringify(command).slice(0, 80)}: reply`, () => reply() ?? this.closed);
    return reply() ? JSON.parse(reply()) : { closed: this.closed };
  }

  async connect(fields = {}) {
    this.connected = await this.command({ connect: fields });
    return this;
  }

  /** The lines of all frames as text, each a reply or a push. */
  lines() {
    return this.frames.flatMap((frame) => frame.split("\n"));
  }

  /** The publications pushed on `channel`. */
  publications(channel) {
    return this.lines()
      .filter((line) => line.startsWith('{"push"'))
      .map((line) => JSON.parse(line).push)
      .filter((push) => push.channel === channel && push.pub)
      .map(({ pub }) => pub);
  }
}

/** The code of the error or of the close in `reply`; 0 if it succeeded. */
export function errorCode(reply) {
  return reply.error?.code ?? reply.closed?.code ?? 0;
}

/** A connection that sends commands, and reads nothing after its first response. */
export class StalledClient {
  closed = false;

  constructor(stage, gateway) {
    this.socket = connect(gateway.port, "127.0.0.1");
    this.socket.on("error", () => {});
    this.socket.on("close", () => (this.closed = true));
    stage.after(() => this.socket.destroy());
  }

  /** Upgrades the connection to a WebSocket. */
  async upgrade() {
    let head = "";
    this.socket.on("data", (chunk) => (head += chunk));
    const key = Buffer.alloc(16).toString("base64");
    const lines = ["GET /ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"];
    this.socket.write([...lines, "Sec-WebSocket-Version: 13", `Sec-WebSocket-Key: ${key}`, "", ""].join("\r\n"));
    await until("the handshake response", () => head.includes("\r\n\r\n") || this.closed);
    this.socket.removeAllListeners("data");
    this.socket.pause();
    return this;
  }

  /** Writes `commands` as one text message; returns `false` if they are buffered in this process. */
  send(...commands) {
    return this.socket.write(textFrame(commands.map((command) => JSON.stringify(command)).join("\n")));
  }

  /** Sends the same command `count` times, each in its own message. */
  sendRepeatedly(count, command) {
    const frame = textFrame(JSON.stringify(command));
    for (let n = 0; n < count; n += 1) this.socket.write(frame);
  }
}

/** `text` as one client frame, with a mask of zeros. */
function textFrame(text) {
  const payload = Buffer.from(text);
  const head = Buffer.alloc(payload.length < 126 ? 6 : payload.length < 65536 ? 8 : 14);
  head[0] = 0x81;
  if (payload.length < 126) head[1] = 0x80 | payload.length;
  else if (payload.length < 65536) {
    head[1] = 0x80 | 126;
    head.writeUInt16BE(payload.length, 2);
  } else {
    head[1] = 0x80 | 127;
    head.writeBigUInt64BE(BigInt(payload.length), 2);
  }
  return Buffer.concat([head, payload]);
}
