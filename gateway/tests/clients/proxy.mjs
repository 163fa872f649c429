// A network between client and gateway that can be cut: a TCP proxy. It must never touch a byte.

import { connect, createServer } from "node:net";

/** Stands in front of a gateway; has the same addresses as the gateway, but for its port. */
export class Proxy {
  #pairs = new Set();
  #away = false;
  /** How often somebody came. */
  arrivals = 0;

  static async before(stage, gateway) {
    const proxy = new Proxy();
    proxy.server = createServer((client) => proxy.#join(client, gateway.port));
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

  /** Kills every connection, as a lost network would: no close frame, no last chunk. */
  cut() {
    for (const socket of this.#pairs) socket.resetAndDestroy();
  }

  /** Cuts, and lets nobody through until `heal`. */
  part() {
    this.#away = true;
    this.cut();
  }

  /** Keeps the present connections open, but forwards nothing on them any more. New connections work. */
  freeze() {
    for (const socket of this.#pairs) {
      socket.unpipe();
      // Reads on, so that it notices the end of the connection; the other side does not.
      socket.resume();
      socket.removeAllListeners("close");
      socket.removeAllListeners("end");
      socket.on("close", () => this.#pairs.delete(socket));
    }
  }

  heal() {
    this.#away = false;
  }

  #join(client, port) {
    this.arrivals += 1;
    if (this.#away) {
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
