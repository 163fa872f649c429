// Real applications of several frameworks, each with the session store that its documentation recommends for Redis. They
// must use these libraries as documented, and never write a session themselves.
//
// Each has `POST /login` (form field `username`), which answers with `{"id": …}`, and `POST /logout`.

import fastifyCookie from "@fastify/cookie";
import fastifySession from "@fastify/session";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import Fastify from "fastify";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import passport from "passport";
import { createClient } from "redis";
import "reflect-metadata";
import { Controller, Module, Post, Req, Res } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";

import { freePort, until } from "./harness.mjs";

const FORM = "application/x-www-form-urlencoded";
const JSON_TYPE = "application/json";
const here = dirname(fileURLToPath(import.meta.url));

/** The secret of the applications that sign their cookies. */
export const SECRET = "a secret of at least thirty-two characters";

/** The applications, by name: `start` begins one, and `login` is its `[[login]]` in docs/security.md. */
export const APPS = {
  nestjs: { start: nest, login: documented("nestjs") },
  fastify: { start: fastify, login: documented("fastify") },
  "better-auth": { start: betterAuthApp, login: documented("better-auth") },
  "django, pickle": { start: (stage, redis) => django(stage, redis, "pickle"), login: documented("django") },
  "django, JSON": { start: (stage, redis) => django(stage, redis, "json"), login: documented("django") },
};

/** The login of a framework as the document shows it, with the secret of the applications. */
function documented(name) {
  const text = readFileSync(join(here, "../../../docs/security.md"), "utf8");
  const found = text.match(new RegExp(`<!-- login: ${name} -->\n\`\`\`toml\n([^]*?)\`\`\``));
  return found[1].replace(/secret_file = .*/, `secret = "${SECRET}"`);
}

async function connected(stage, redis) {
  const client = createClient({ url: redis.url });
  client.on("error", () => {});
  await client.connect();
  stage.after(() => client.destroy());
  return client;
}

/** NestJS on express, with express-session and passport. */
async function nest(stage, redis) {
  const client = await connected(stage, redis);
  class Sessions {
    login(request, response) {
      const user = { id: request.body.username };
      request.logIn(user, (error) => (error ? response.status(500).end() : response.json(user)));
    }
    logout(request, response) {
      request.logout((error) => (error ? response.status(500).end() : response.json({})));
    }
  }
  const method = (name) => Object.getOwnPropertyDescriptor(Sessions.prototype, name);
  for (const name of ["login", "logout"]) {
    Req()(Sessions.prototype, name, 0);
    Res()(Sessions.prototype, name, 1);
    Post(name)(Sessions.prototype, name, method(name));
  }
  Controller()(Sessions);
  class App {}
  Module({ controllers: [Sessions] })(App);
  passport.serializeUser((user, done) => done(null, user.id));
  passport.deserializeUser((id, done) => done(null, { id }));
  const app = await NestFactory.create(App, { logger: false });
  app.use(session({ store: new RedisStore({ client }), secret: SECRET, resave: false, saveUninitialized: false }));
  app.use(passport.session());
  const port = await freePort();
  await app.listen(port, "127.0.0.1");
  stage.after(() => app.close());
  return new Client(`http://127.0.0.1:${port}`);
}

async function fastify(stage, redis) {
  const client = await connected(stage, redis);
  const app = Fastify();
  app.addContentTypeParser("application/x-www-form-urlencoded", { parseAs: "string" }, (_, body, done) => {
    done(null, Object.fromEntries(new URLSearchParams(body)));
  });
  app.register(fastifyCookie);
  app.register(fastifySession, {
    secret: SECRET,
    store: new RedisStore({ client }),
    saveUninitialized: false,
    cookie: { secure: false },
  });
  app.get("/", (_, reply) => reply.type("text/html").send("<!doctype html><title>app</title>"));
  app.post("/login", async (request) => {
    request.session.user = { id: request.body.username };
    return request.session.user;
  });
  app.post("/logout", async (request) => {
    await request.session.destroy();
    return {};
  });
  const url = await app.listen({ host: "127.0.0.1", port: await freePort() });
  stage.after(() => app.close());
  return new Client(url);
}

/** better-auth whose sessions are in Redis, as its secondary storage. */
async function betterAuthApp(stage, redis) {
  const client = await connected(stage, redis);
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const key = (name) => `better-auth:${name}`;
  const auth = betterAuth({
    baseURL: url,
    secret: SECRET,
    database: memoryAdapter({ user: [], session: [], account: [], verification: [] }),
    emailAndPassword: { enabled: true },
    rateLimit: { enabled: false },
    telemetry: { enabled: false },
    secondaryStorage: {
      get: (name) => client.get(key(name)),
      set: (name, value, ttl) => client.set(key(name), value, ttl ? { expiration: { type: "EX", value: ttl } } : {}),
      delete: async (name) => void (await client.del(key(name))),
    },
  });
  const app = express();
  app.all("/api/auth/*path", toNodeHandler(auth));
  app.get("/", (_, response) => response.type("html").send("<!doctype html><title>app</title>"));
  const server = app.listen(port, "127.0.0.1");
  await new Promise((listening) => server.once("listening", listening));
  stage.after(() => server.closeAllConnections());
  stage.after(() => server.close());
  return new BetterAuthClient(url);
}

/** A Django project whose sessions are in its cache, which Redis stores with this serializer. */
async function django(stage, redis, serializer) {
  const port = await freePort();
  const python = join(here, ".tools/python/bin/python");
  const child = spawn(python, [join(here, "python/django_app.py"), String(port), redis.url, serializer], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  stage.after(() => child.kill("SIGKILL"));
  const url = `http://127.0.0.1:${port}`;
  await until("Django answers", async () => (await fetch(url)).status < 500);
  return new Client(url);
}

/** A client of an application. */
class Client {
  constructor(url) {
    this.url = url;
  }

  /** The requests of a page that logs in and out: path, body, content type. */
  loginRequest(username) {
    return { path: "/login", body: new URLSearchParams({ username }).toString(), type: FORM };
  }

  logoutRequest() {
    return { path: "/logout", body: "", type: FORM };
  }

  /** The id of a user in the response to a login. */
  idOf(json) {
    return String(json.id);
  }

  /** Logs in; returns the cookie as a client sends it, and the id of the user. */
  async login(username) {
    const response = await this.#send(this.loginRequest(username));
    return { cookie: cookieOf(response), id: this.idOf(await response.json()) };
  }

  logout(cookie) {
    return this.#send(this.logoutRequest(), { cookie });
  }

  /** Logs in in a page of the application; returns the id of the user. */
  async loginIn(page, username) {
    await page.goto(this.url);
    return this.idOf(await page.evaluate(send, this.loginRequest(username)));
  }

  /** Logs out in another tab of the same browser. */
  async logoutIn(context) {
    const tab = await context.newPage();
    await tab.goto(this.url);
    await tab.evaluate(send, this.logoutRequest());
  }

  async #send({ path, body, type }, more = {}) {
    const headers = { "content-type": type, origin: this.url, ...more };
    const response = await fetch(this.url + path, { method: "POST", headers, body });
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response;
  }
}

class BetterAuthClient extends Client {
  loginRequest(username) {
    const user = { email: `${username}@app.example`, password: "correct horse", name: username };
    return { path: "/api/auth/sign-up/email", body: JSON.stringify(user), type: JSON_TYPE };
  }

  logoutRequest() {
    return { path: "/api/auth/sign-out", body: "{}", type: JSON_TYPE };
  }

  idOf(json) {
    return json.user.id;
  }
}

/** Runs inside a page. */
async function send({ path, body, type }) {
  const response = await fetch(path, { method: "POST", headers: { "content-type": type }, body });
  return response.json();
}

/** The cookies that a response sets, as a client sends them. */
function cookieOf(response) {
  return response.headers
    .getSetCookie()
    .map((line) => line.split(";")[0])
    .join("; ");
}
