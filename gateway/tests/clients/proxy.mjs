// A TCP proxy between client and gateway that can cut connections. It must never change a byte.

import { connect, createServer } from "node:net";

/** A proxy for a gateway, with the same addresses except for the port. */
export class Proxy {
  #pairs = new Set();
  #disconnected = false;
  /** Number of accepted connections. */
  connections = 0;

  static async start(stage, gateway) {
    const proxy = new Proxy();
    proxy.server = createServer((client) => proxy.#forward(client, gateway.port));
    await new Promise((listening) => proxy.server.listen(0, "127.0.0.1", listening));
    proxy.port = proxy.server.address().port;
    proxy.http = `http://127.0.0.1:${proxy.port}`;
    proxy.ws = `ws://127.0.0.1:${proxy.port}/connection/websocket`;
    stage.after(() => {
      proxy.cut();
      proxy.server.close();
    });
    return proxy;
  }

  /** Resets every connection, as a network failure would: no close frame, no last chunk. */
  cut() {
    for (const socket of this.#pairs) socket.resetAndDestroy();
  }

  /** Resets every connection and rejects new ones until `restore`. */
  disconnect() {
    this.#disconnected = true;
    this.cut();
  }

  /** Keeps the present connections open, but stops forwarding on them. New connections work. */
  freeze() {
    for (const socket of this.#pairs) {
      socket.unpipe();
      // Keep reading, so that this side notices the end of the connection; the other side does not.
      socket.resume();
      socket.removeAllListeners("close");
      socket.removeAllListeners("end");
      socket.on("close", () => this.#pairs.delete(socket));
    }
  }

  restore() {
    this.#disconnected = false;
  }

  #forward(client, port) {
    this.connections += 1;
    if (this.#disconnected) {
      client.on("error", () => {});
      client.resetAndDestroy();
      return;
    }
    const gateway = connect(port, "127.0.0.1");
    for (const [from, to] of [[client, gateway], [gateway, client]]) {
      this.#pairs.add(from);
      from.setNoDelay(true);
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => {
        this.#pairs.delete(from);
        to.destroy();
      });
    }
  }
}
