// Login by JSON Web Tokens of a real library (jose), with the flows of the official SDK.

import assert from "node:assert/strict";
import { UnauthorizedError as JsonUnauthorizedError } from "centrifuge";
import { UnauthorizedError as ProtobufUnauthorizedError } from "centrifuge/build/protobuf";
import { SignJWT, exportSPKI, generateKeyPair } from "jose";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { ENCODINGS, Sdk } from "./clients.mjs";
import { WAIT_TIMEOUT_MS, scenario, until } from "./harness.mjs";

const SECRET = "the secret of the application, 32 bytes or more";
const HMAC = { alg: "HS256", key: new TextEncoder().encode(SECRET) };

/** A configuration with the channels of users, of tokens and of all who are logged in. */
const config = (login = `hmac_secret = "${SECRET}"`) => `
[redis.default]
url = "redis://127.0.0.1:1"

[[login]]
kind = "jwt"
${login}

[[namespace]]
name = "user"
channels = ["user:{user}"]
subscribe = "owner"

[[namespace]]
name = "private"
channels = ["private:*"]
subscribe = "token"

[[namespace]]
name = "chat"
channels = ["chat:*"]
subscribe = "authenticated"
publish = "subscribers"
source = "stream"
`;

for (const encoding of ENCODINGS) {
  scenario(`jwt, ${encoding}: a token at connect decides which channels are allowed`, async (stage) => {
    const { redis, gateway } = await start(stage);
    const sdk = await client(stage, gateway, encoding, { token: await token({ sub: "42" }) }).connect();
    const { publications } = await sdk.subscribe("user:42");
    assert.equal(await refusal(sdk, "user:43"), 103);
    assert.equal(await refusal(sdk, "private:1"), 103);
    await redis.publish("user:42", '"own"');
    await until("it is received", () => publications.length > 0);
    assert.deepEqual(sdk.payloads("user:42", publications).map(String), ['"own"']);
  });

  scenario(`jwt, ${encoding}: a token with a wrong signature ends the connection with 3500`, async (stage) => {
    const { gateway } = await start(stage);
    const foreign = { alg: "HS256", key: new TextEncoder().encode("another secret, also of 32 bytes or more") };
    const sdk = client(stage, gateway, encoding, { token: await token({ sub: "42" }, foreign) });
    sdk.client.connect();
    await until("the SDK is disconnected", () => sdk.client.state === "disconnected");
    assert.match(sdk.errors[0], /^disconnected 3500 /);
  });

  scenario(`jwt, ${encoding}: UnauthorizedError of getToken ends the connection`, async (stage) => {
    const { gateway } = await start(stage);
    const UnauthorizedError = encoding === "json" ? JsonUnauthorizedError : ProtobufUnauthorizedError;
    const getToken = () => Promise.reject(new UnauthorizedError("logged out"));
    const sdk = client(stage, gateway, encoding, { getToken });
    sdk.client.connect();
    await until("the SDK is disconnected", () => sdk.client.state === "disconnected");
    assert.match(sdk.errors.at(-1), /^disconnected 1 /);
  });

  scenario(`jwt, ${encoding}: the claim \`channels\` gives server-side subscriptions`, async (stage) => {
    const { redis, gateway } = await start(stage);
    const sdk = client(stage, gateway, encoding, { token: await token({ sub: "42", channels: ["private:1"] }) });
    const received = [];
    const subscribed = [];
    sdk.client.on("publication", ({ channel }) => received.push(channel));
    sdk.client.on("subscribed", ({ channel }) => subscribed.push(channel));
    await sdk.connect();
    await until("it is subscribed", () => subscribed.length > 0);
    await redis.publish("private:2", "1");
    await redis.publish("private:1", "2");
    await until("it is received", () => received.length > 0);
    assert.deepEqual([subscribed, received], [["private:1"], ["private:1"]]);
  });

  scenario(`jwt, ${encoding}: publications have the \`info\` of the token, which a client cannot forge`, async (stage) => {
    const { gateway } = await start(stage);
    const reader = await client(stage, gateway, encoding, { token: await token({ sub: "1" }) }).connect();
    const { publications } = await reader.subscribe("chat:1");
    const claims = { sub: "42", info: { name: "Ann" } };
    const data = encoding === "json" ? { forged: true } : Buffer.from('{"forged":true}');
    const writer = await client(stage, gateway, encoding, { token: await token(claims), data, name: "43" }).connect();
    await writer.subscribe("chat:1");
    await writer.client.publish("chat:1", writer.data('{"info":{"user":"43"}}'));
    await until("it is received", () => publications.length > 0);
    const [{ info }] = publications;
    const shown = encoding === "json" ? info?.connInfo : JSON.parse(Buffer.from(info?.connInfo ?? []).toString() || "null");
    assert.equal(info?.user, "42");
    assert.deepEqual(shown, { name: "Ann" });
  });

  scenario(`jwt, ${encoding}: getToken replaces an expired token (109)`, async (stage) => {
    const { gateway } = await start(stage);
    let calls = 0;
    const getToken = () => token({ sub: "42" }).finally(() => (calls += 1));
    const expired = await token({ sub: "42", exp: now() - 60 });
    const sdk = await client(stage, gateway, encoding, { token: expired, getToken }).connect();
    assert.equal(calls, 1);
    await sdk.subscribe("user:42");
  });

  scenario(`jwt, ${encoding}: the SDK refreshes a token before it expires, and stays connected`, async (stage) => {
    const { redis, gateway } = await start(stage, config(`hmac_secret = "${SECRET}"\nleeway = "0s"`));
    let calls = 0;
    const getToken = () => token({ sub: "42", exp: now() + 2 }).finally(() => (calls += 1));
    const sdk = await client(stage, gateway, encoding, { getToken }).connect();
    const { publications } = await sdk.subscribe("user:42");
    await until("two refreshes", () => calls >= 3);
    await redis.publish("user:42", "1");
    await until("it is received", () => publications.length > 0);
    assert.deepEqual(sdk.errors, []);
  });

  scenario(`jwt, ${encoding}: a subscription token opens its channel and no other`, async (stage) => {
    const { redis, gateway } = await start(stage);
    const sdk = await client(stage, gateway, encoding, { token: await token({ sub: "42" }) }).connect();
    const asked = [];
    const tokenOf = (sub, channel) => ({ channel: wanted }) => {
      asked.push(wanted);
      return token({ sub, channel });
    };
    const publications = [];
    const subscription = sdk.client.newSubscription("private:1", { getToken: tokenOf("42", "private:1") });
    subscription.on("publication", (publication) => publications.push(publication));
    subscription.subscribe();
    await subscription.ready(10_000);
    assert.deepEqual(asked, ["private:1"]);
    await redis.publish("private:1", "1");
    await until("it is received", () => publications.length > 0);
    assert.equal(await refusal(sdk, "private:2", { getToken: tokenOf("42", "private:1") }), 103);
    assert.equal(await refusal(sdk, "private:3", { getToken: tokenOf("43", "private:3") }), 103);
  });
}

for (const encoding of ENCODINGS) {
  scenario(`jwt, ${encoding}: the SDK refreshes the token of a subscription (sub_refresh)`, async (stage) => {
    const { redis, gateway } = await start(stage, config(`hmac_secret = "${SECRET}"\nleeway = "0s"`));
    const sdk = await client(stage, gateway, encoding, { token: await token({ sub: "42" }) }).connect();
    let calls = 0;
    const getToken = ({ channel }) => token({ sub: "42", channel, exp: now() + 2 }).finally(() => (calls += 1));
    const { subscription, publications, changes } = subscribe(sdk, "private:1", getToken);
    await subscription.ready(10_000);
    await until("two refreshes", () => calls >= 3);
    await redis.publish("private:1", "1");
    await until("it is received", () => publications.length > 0);
    assert.deepEqual([changes, sdk.errors], [["subscribing 0", "subscribed"], []]);
  });

  scenario(`jwt, ${encoding}: a subscription that is not refreshed ends alone (2501) and comes back`, async (stage) => {
    const { redis, gateway } = await start(stage, config(`hmac_secret = "${SECRET}"\nleeway = "5m"`));
    const sdk = await client(stage, gateway, encoding, { token: await token({ sub: "42" }) }).connect();
    // Accepted because of the leeway; of the 25 seconds after its expiry, 5 are left. The SDK tries to refresh it.
    const first = await token({ sub: "42", channel: "private:1", exp: now() - 20 });
    let ended = false;
    const getToken = ({ channel }) => (ended ? token({ sub: "42", channel }) : Promise.reject(new Error("later")));
    const { subscription, publications, changes } = subscribe(sdk, "private:1", getToken, first);
    subscription.on("subscribing", ({ code }) => (ended ||= code === 2501));
    await subscription.ready(10_000);
    const other = await sdk.subscribe("user:42");
    await until("it is subscribed again", () => changes.at(-1) === "subscribed" && changes.length > 2, 2 * WAIT_TIMEOUT_MS);
    assert.deepEqual(changes, ["subscribing 0", "subscribed", "subscribing 2501", "subscribed"]);
    await redis.publish("private:1", "1");
    await redis.publish("user:42", "1");
    await until("both are received", () => publications.length > 0 && other.publications.length > 0);
    assert.deepEqual(sdk.errors.filter((error) => error.startsWith("connecting") || error.startsWith("disconnected")), []);
  });
}

scenario("jwt: after a revocation, the SDK comes back with a new token, and an EventSource is refused", async (stage) => {
  const key = "a-key-of-the-http-api-for-this-test";
  const { gateway } = await start(stage, `[api]\nkey = "${key}"\n${config()}`);
  const tokens = [];
  const getToken = async () => {
    tokens.push(await token({ sub: "42", iat: now() }));
    return tokens.at(-1);
  };
  const sdk = await client(stage, gateway, "json", { getToken }).connect();
  const other = await client(stage, gateway, "json", { token: await token({ sub: "43" }) }).connect();
  const body = JSON.stringify({ user: "42" });
  const response = await fetch(`${gateway.http}/api/revoke`, { method: "POST", headers: { "X-API-Key": key }, body });
  assert.deepEqual(await response.json(), { result: {} });
  await until("it was disconnected", () => sdk.errors.some((error) => error.startsWith("connecting 3005 ")));
  await until("it is connected again", () => sdk.client.state === "connected");
  assert.ok(tokens.length > 1);
  assert.equal(await status(gateway, "user:42", tokens[0]), 401);
  assert.equal(await status(gateway, "user:42", tokens.at(-1)), 200);
  assert.deepEqual([other.client.state, other.errors], ["connected", []]);
});

for (const alg of ["RS256", "ES256", "EdDSA"]) {
  scenario(`jwt: ${alg} with a public key in PEM`, async (stage) => {
    const file = join(stage.directory(), "key.pem");
    const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
    writeFileSync(file, await exportSPKI(publicKey));
    const { gateway } = await start(stage, config(`public_key_file = "${file}"`));
    const good = await token({ sub: "42" }, { alg, key: privateKey });
    const sdk = await client(stage, gateway, "json", { token: good }).connect();
    await sdk.subscribe("user:42");
    assert.equal(await status(gateway, "user:42", good), 200);
    const confused = await token({ sub: "42" }, { alg: "HS256", key: Buffer.from(await exportSPKI(publicKey)) });
    const { privateKey: foreign } = await generateKeyPair(alg);
    const [, claims] = good.split(".");
    const none = `${Buffer.from('{"alg":"none"}').toString("base64url")}.${claims}.`;
    for (const bad of [confused, none, await token({ sub: "42" }, { alg, key: foreign })]) {
      assert.equal(await status(gateway, "user:42", bad), 401, bad);
    }
  });
}

scenario("jwt: a stream and a WebSocket end with 3005 if their token is not refreshed", async (stage) => {
  const { gateway } = await start(stage, config(`hmac_secret = "${SECRET}"\nleeway = "0s"`));
  const expiring = await token({ sub: "42", exp: now() + 2 });
  const headers = { authorization: `Bearer ${expiring}` };
  const response = await fetch(`${gateway.http}/sse/user:42`, { headers });
  assert.equal(response.status, 200);
  const body = response.text();
  const tokens = [expiring];
  const getToken = () => (tokens.length > 0 ? Promise.resolve(tokens.pop()) : new Promise(() => {}));
  const sdk = await client(stage, gateway, "json", { getToken }).connect();
  await until("the SDK is disconnected", () => sdk.errors.length > 0, 3 * WAIT_TIMEOUT_MS);
  assert.match(sdk.errors[0], /^connecting 3005 /);
  assert.match(await body, /event: error\ndata: \{"code":3005,/);
  assert.equal((await fetch(`${gateway.http}/sse/user:42`, { headers })).status, 401);
});

scenario("jwt: SSE refuses expired and future tokens, and tokens without a user", async (stage) => {
  const { gateway } = await start(stage);
  assert.equal(await status(gateway, "user:42", await token({ sub: "42", exp: now() + 60 })), 200);
  assert.equal(await status(gateway, "user:43", await token({ sub: "42" })), 403);
  const bad = [{ sub: "42", exp: now() - 60 }, { sub: "42", nbf: now() + 60 }];
  for (const claims of bad) assert.equal(await status(gateway, "user:42", await token(claims)), 401, JSON.stringify(claims));
  for (const claims of [{}, { sub: "" }]) assert.notEqual(await status(gateway, "user:42", await token(claims)), 200);
});

async function start(stage, text = config()) {
  const redis = await stage.redis();
  return { redis, gateway: await stage.gateway({ redis, flags: [], config: text }) };
}

function client(stage, gateway, encoding, options) {
  return new Sdk(stage, gateway, encoding, { minReconnectDelay: 50, ...options });
}

const now = () => Math.floor(Date.now() / 1000);

/** A token with these claims, signed with `key`. */
function token(claims, { alg, key } = HMAC) {
  return new SignJWT(claims).setProtectedHeader({ alg, typ: "JWT" }).sign(key);
}

/** Subscribes with tokens; records publications and changes of the state. */
function subscribe(sdk, channel, getToken, first = "") {
  const subscription = sdk.client.newSubscription(channel, { getToken, token: first });
  const [publications, changes] = [[], []];
  subscription.on("publication", (publication) => publications.push(publication));
  subscription.on("subscribing", ({ code }) => changes.push(`subscribing ${code}`));
  subscription.on("subscribed", () => changes.push("subscribed"));
  subscription.on("unsubscribed", ({ code }) => changes.push(`unsubscribed ${code}`));
  subscription.subscribe();
  return { subscription, publications, changes };
}

/** The code with which the gateway refuses a subscription. */
function refusal(sdk, channel, options) {
  const subscription = sdk.client.newSubscription(channel, options);
  const ended = new Promise((done) => subscription.once("unsubscribed", ({ code }) => done(code)));
  subscription.subscribe();
  return ended;
}

/** The HTTP status of a stream of `channel` with this token. */
async function status(gateway, channel, bearer) {
  const abort = new AbortController();
  const headers = { authorization: `Bearer ${bearer}` };
  const response = await fetch(`${gateway.http}/sse/${channel}`, { headers, signal: abort.signal });
  abort.abort();
  return response.status;
}
