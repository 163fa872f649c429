// The WebSocket subscriber: the Centrifuge client protocol in JSON, without a library. A message contains JSON objects
// separated by line feeds; `{}` is the ping of the server and the pong of the client.

import { Backoff, gatewayUrl, milliseconds } from "./format.js";
import { GRACE_MS, Watchdog } from "./watchdog.js";

const CONNECT_TIMEOUT_MS = 15_000;
/** Codes of `unsubscribe` from here on ask the client to subscribe again. */
const RESUBSCRIBE_MIN = 2500;

export class WebSocketSubscriber {
  name = "WebSocket";
  #socket;
  #timer;
  #channel;
  /** Epoch and offset of the last message; `null` if the channel has no history. */
  #position = null;
  #backoff = new Backoff();
  watchdog = new Watchdog(() => this.#onSilence());

  constructor(panel) {
    this.panel = panel;
  }

  /** Called when the subscribe reply has arrived, with the recovered messages. */
  onRecovery = () => {};

  follow(channel) {
    this.#channel = channel;
    this.#position = null;
    this.open();
  }

  /** Connects, and subscribes after the last position. */
  open() {
    this.close();
    const url = gatewayUrl("connection/websocket");
    url.protocol = url.protocol.replace("http", "ws");
    this.panel.address = `${url}, subscribe ${this.#channel}`;
    this.panel.state("connecting");
    const socket = (this.#socket = new WebSocket(url));
    this.watchdog.limit(CONNECT_TIMEOUT_MS);
    socket.onopen = () => this.#send({ id: 1, connect: { name: "console" } }, this.#subscribeCommand());
    socket.onmessage = ({ data }) => {
      this.watchdog.feed();
      for (const line of data.split("\n")) if (line) this.#onReply(JSON.parse(line));
    };
    socket.onclose = ({ code, reason }) => this.#onClose(code, reason);
  }

  close() {
    clearTimeout(this.#timer);
    this.watchdog.stop();
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  #send(...commands) {
    this.#socket.send(commands.map((command) => JSON.stringify(command)).join("\n"));
  }

  #subscribeCommand() {
    const resume = this.#position && { recover: true, ...this.#position };
    return { id: 2, subscribe: { channel: this.#channel, ...resume } };
  }

  #onReply(reply) {
    if (reply.push) this.#onPush(reply.push);
    else if (reply.error) this.#onError(reply.error);
    else if (reply.connect) this.watchdog.limit(reply.connect.ping ? reply.connect.ping * 1000 + GRACE_MS : 0);
    else if (reply.subscribe) this.#onSubscribed(reply.subscribe);
    else if (!reply.id) this.#send({});
  }

  #onError({ code, message }) {
    this.panel.failure(`error ${code}: ${message}`);
    this.panel.state("rejected", "bad");
  }

  #onSubscribed(result) {
    this.#backoff.reset();
    this.panel.state("connected", "good");
    if (result.was_recovering && !result.recovered) this.panel.gap("missed messages could not be recovered");
    this.panel.note(result.recovered ? "subscribed, resumed" : "subscribed");
    const offset = (result.recovered ? this.#position?.offset : result.offset) ?? 0;
    this.#position = result.recoverable ? { epoch: result.epoch ?? "", offset } : null;
    for (const publication of result.publications ?? []) this.#onPublication(publication, result.recovered === true);
    this.onRecovery();
  }

  #onPush(push) {
    if (push.disconnect) this.panel.failure(`disconnect ${push.disconnect.code}: ${push.disconnect.reason}`);
    else if (push.channel !== this.#channel) return;
    else if (push.pub) this.#onPublication(push.pub, false);
    else if (push.unsubscribe) this.#onUnsubscribe(push.unsubscribe);
  }

  #onPublication({ data, offset }, recovered) {
    if (offset && this.#position) {
      if (offset > this.#position.offset + 1) this.panel.gap(`offset ${offset} after ${this.#position.offset}`);
      this.#position.offset = offset;
    }
    this.panel.message(typeof data === "string" ? data : JSON.stringify(data), { recovered });
  }

  #onUnsubscribe({ code = 0, reason = "" }) {
    this.panel.note(`unsubscribed: ${code} ${reason}`);
    if (code < RESUBSCRIBE_MIN) return this.panel.state("unsubscribed");
    this.panel.state("resubscribing");
    this.#send(this.#subscribeCommand());
  }

  #onClose(code, reason) {
    const text = `closed: ${code} ${reason}`.trim();
    this.watchdog.stop();
    if ((code >= 3500 && code < 4000) || (code >= 4500 && code < 5000)) {
      this.panel.failure(`${text}; not reconnecting`);
      return this.panel.state("closed", "bad");
    }
    const delay = this.#backoff.next();
    this.panel.failure(`${text}; next attempt in ${milliseconds(delay)}`);
    this.panel.state("reconnecting");
    this.#timer = setTimeout(() => this.open(), delay);
  }

  #onSilence() {
    this.panel.failure("no data within the ping interval; reconnecting");
    this.open();
  }
}
