// A real web application: express with express-session, connect-redis and passport. It must use these libraries as their
// documentation shows, and never write a session itself.

import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { Passport } from "passport";
import { Strategy } from "passport-local";
import { createClient } from "redis";

import { freePort } from "./harness.mjs";

/** An application whose sessions are in `redis`, signed with `secret`. The name of a user is also the password. */
export async function expressApp(stage, redis, secret, { port } = {}) {
  const client = createClient({ url: redis.url });
  client.on("error", () => {});
  await client.connect();
  stage.after(() => client.destroy());
  const app = express();
  const passport = new Passport();
  passport.use(new Strategy((name, password, done) => done(null, name === password && { id: name })));
  passport.serializeUser((user, done) => done(null, user.id));
  passport.deserializeUser((id, done) => done(null, { id }));
  app.use(express.urlencoded({ extended: false }));
  app.use(session({ store: new RedisStore({ client }), secret, resave: false, saveUninitialized: false }));
  app.use(passport.session());
  app.get("/", (_, response) => response.type("html").send("<!doctype html><title>app</title>"));
  app.post("/login", passport.authenticate("local"), (request, response) => response.json(request.user));
  app.post("/logout", (request, response, next) => {
    request.logout((error) => (error ? next(error) : response.json({})));
  });
  app.post("/destroy", (request, response, next) => {
    request.session.destroy((error) => (error ? next(error) : response.json({})));
  });
  const server = app.listen(port ?? (await freePort()), "127.0.0.1");
  await new Promise((listening) => server.once("listening", listening));
  stage.after(() => server.closeAllConnections());
  stage.after(() => server.close());
  return new App(server.address().port);
}

class App {
  constructor(port) {
    this.url = `http://127.0.0.1:${port}`;
  }

  /** Logs in over HTTP; returns the cookie as a client sends it. */
  async login(user) {
    const body = new URLSearchParams({ username: user, password: user });
    const response = await this.#post("/login", { body });
    return response.headers.getSetCookie()[0].split(";")[0];
  }

  /** Logs out with passport's `logout` (`/logout`) or with `session.destroy` (`/destroy`). */
  end(path, cookie) {
    return this.#post(path, { headers: { cookie } });
  }

  async #post(path, options) {
    const response = await fetch(this.url + path, { method: "POST", ...options });
    if (response.status !== 200) throw new Error(`${path}: ${response.status}`);
    return response;
  }
}
