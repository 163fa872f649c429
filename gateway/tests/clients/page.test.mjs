// The page at `/` in Chromium: what it shows, what it recovers, when it stops being green, and its accessibility.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { openPage } from "./browser.mjs";
import { scenario, until } from "./harness.mjs";
import { Proxy } from "./proxy.mjs";

const SIDES = ["sse", "ws"];
const SHORT_INTERVALS = '[sse]\nheartbeat = "1s"\n[websocket]\nping_interval = "1s"\npong_timeout = "900ms"\n';
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

scenario("the page shows a published message on both transports, and its counters change", async (stage) => {
  const page = await openConsole(stage, await stage.gateway());
  await publish(page, '{"greeting":"hello from the form"}');
  for (const side of SIDES) {
    await text(page, `#${side}-log`, /"greeting":\s*"hello from the form"/);
    await text(page, `#${side}-count`, /^1$/);
  }
  await publish(page, "plain text, <b>not</b> markup");
  for (const side of SIDES) {
    await text(page, `#${side}-log`, /plain text, <b>not<\/b> markup/);
    await text(page, `#${side}-count`, /^2$/);
    assert.equal(await page.locator(`#${side}-log b`).count(), 0, "a payload is never markup");
  }
  assert.deepEqual(page.errors, []);
});

scenario("the page shows messages of other publishers, and the code of a subscriber", async (stage) => {
  const gateway = await stage.gateway();
  const page = await openConsole(stage, gateway);
  const channel = await page.locator("#publish-channel").inputValue();
  await gateway.api("publish", { channel, data: { from: "the API" } });
  for (const side of SIDES) await text(page, `#${side}-log`, /the API/);
  for (const name of ["delivers Redis messages to browsers and apps", "EventSource", "curl"]) {
    assert.match(await page.locator("body").innerText(), new RegExp(name));
  }
});

scenario("the page shows the rate of messages", async (stage) => {
  const page = await openConsole(stage, await stage.gateway());
  await page.evaluate(recordRates, SIDES);
  await page.locator("#publish-burst").click();
  for (const side of SIDES) await text(page, `#${side}-count`, /^20$/);
  // The messages may span two seconds.
  await until("the rates add up", () => page.evaluate(() => Object.values(rates).every((rate) => rate >= 20)));
});

scenario("the cut button recovers what was published while both connections were down", async (stage) => {
  const redis = await stage.redis();
  const page = await openConsole(stage, await stage.gateway({ redis }));
  await publish(page, "before");
  for (const side of SIDES) await text(page, `#${side}-count`, /^1$/);
  await page.evaluate(recordStates, SIDES);
  await page.locator("#cut-button").click();
  await text(page, "#cut-status", /^3 messages published while disconnected\. SSE recovered 3; WebSocket recovered 3\.$/);
  for (const side of SIDES) {
    await text(page, `#${side}-state`, /^connected$/);
    await text(page, `#${side}-recovered`, /^3$/);
    await text(page, `#${side}-gaps`, /^0$/);
    const states = await page.evaluate((name) => window.states[name], side);
    // On a busy machine a state may have the warning that the gateway responds late.
    const names = new Set(states.map((state) => state.split(",")[0]));
    assert.deepEqual([...names], ["cut", "connecting", "connected"], side);
    const recovered = await page.locator(`#${side}-log [data-tone="recovered"] .text`).allInnerTexts();
    assert.deepEqual(recovered, [3, 2, 1].map((number) => `{"while_disconnected":${number}}`), "newest first");
  }
  // A live message after the recovery is not counted as recovered.
  await publish(page, "after");
  for (const side of SIDES) {
    await text(page, `#${side}-count`, /^5$/);
    await text(page, `#${side}-recovered`, /^3$/);
  }
  assert.deepEqual(page.errors, []);
});

scenario("the page counts a gap when the next gateway does not have the history", async (stage) => {
  const [first, second] = [await stage.gateway(), await stage.gateway()];
  const address = { port: first.port };
  const page = await openConsole(stage, await Proxy.start(stage, address));
  await publish(page, "1");
  for (const side of SIDES) await text(page, `#${side}-count`, /^1$/);
  address.port = second.port;
  first.process.kill("SIGKILL");
  for (const side of SIDES) {
    await text(page, `#${side}-gaps`, /^1$/);
    await text(page, `#${side}-state`, /^connected$/);
  }
});

scenario("the page reconnects when an open connection delivers nothing", async (stage) => {
  const gateway = await stage.gateway({ config: SHORT_INTERVALS });
  const proxy = await Proxy.start(stage, gateway);
  const page = await openConsole(stage, proxy);
  await publish(page, "before");
  for (const side of SIDES) await text(page, `#${side}-count`, /^1$/);
  proxy.freeze();
  await gateway.api("publish", { channel: "demo", data: "missed" });
  for (const side of SIDES) {
    await text(page, `#${side}-log`, /no data within/);
    await text(page, `#${side}-state`, /^connected$/);
    await text(page, `#${side}-recovered`, /^1$/);
    await text(page, `#${side}-gaps`, /^0$/);
  }
});

scenario("nothing on the page is green while the gateway is stopped, or its link to Redis is down", async (stage) => {
  const redis = await stage.redis();
  const gateway = await stage.gateway({ redis });
  const page = await openConsole(stage, gateway);
  await until("all is green", async () => (await greenStates(page)).length >= 3);
  gateway.process.kill("SIGSTOP");
  await until("nothing is green", async () => (await greenStates(page)).length === 0);
  gateway.process.kill("SIGCONT");
  await until("all is green again", async () => (await greenStates(page)).length >= 3);
  await redis.kill();
  await until("nothing is green", async () => (await greenStates(page)).length === 0);
  await text(page, "#ws-state", /Redis link down/);
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [320, 1280]) {
    scenario(`axe finds no violation at ${width} px in ${colorScheme} colours`, async (stage) => {
      const gateway = await stage.gateway();
      const page = await openConsole(stage, gateway, { colorScheme, viewport: { width, height: 900 } });
      assert.deepEqual(await violations(page), [], "with empty logs");
      await publish(page, `{"text":"${"long ".repeat(60)}${"x".repeat(300)}"}`);
      await page.locator("#cut-button").click();
      assert.deepEqual(await violations(page), [], "while the connections are cut");
      await text(page, "#cut-status", /recovered 3;/);
      assert.deepEqual(await violations(page), [], "with messages in the logs");
      const { content, view } = await page.evaluate(() => {
        return { content: document.documentElement.scrollWidth, view: document.documentElement.clientWidth };
      });
      assert.ok(content <= view, `${content} px of content in ${view} px: the page scrolls sideways`);
    });
  }
}

scenario("every control of the page works with the keyboard alone", async (stage) => {
  const page = await openConsole(stage, await stage.gateway());
  const controls = await page.locator("input, button, [tabindex]").count();
  const reached = [];
  for (let press = 0; press < controls; press += 1) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.id || `copy ${document.activeElement.dataset.copy}`));
  }
  assert.equal(new Set(reached).size, controls, `${reached}`);
  assert.deepEqual(reached.slice(0, 5), [
    "publish-channel",
    "publish-data",
    "publish-button",
    "publish-burst",
    "cut-button",
  ]);
  await page.locator("#publish-data").focus();
  await page.keyboard.press("Enter");
  for (const side of SIDES) await text(page, `#${side}-count`, /^1$/);
  await page.locator("#cut-button").focus();
  await page.keyboard.press("Space");
  await text(page, "#cut-status", /recovered 3;/);
  assert.equal(await page.evaluate(() => document.activeElement.id), "cut-button", "the button keeps the focus");
});

/** The page of `gateway`, with both transports connected. */
async function openConsole(stage, gateway, options) {
  const page = await openPage(stage, options);
  await page.goto(`${gateway.http}/`);
  for (const side of SIDES) await text(page, `#${side}-state`, /^connected$/);
  return page;
}

async function publish(page, data) {
  await page.locator("#publish-data").fill(data);
  await page.locator("#publish-button").click();
}

/** Waits until the text of an element matches. */
async function text(page, selector, pattern) {
  const read = async () => (await page.locator(selector).innerText()).trim();
  await until(`${selector} shows ${pattern}`, async () => {
    const shown = await read();
    return pattern.test(shown) || assert.fail(`it shows ${shown}`);
  });
}

/** The texts of the states that are shown in green. */
function greenStates(page) {
  return page.locator('.state[data-tone="good"]:visible').allInnerTexts();
}

/** What axe reports, all of its rules included. */
async function violations(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" | ")}`);
}

/* Runs inside the page: keeps each state that is shown from now on. */
function recordStates(sides) {
  window.states = Object.fromEntries(sides.map((side) => [side, []]));
  for (const side of sides) {
    const element = document.getElementById(`${side}-state`);
    new MutationObserver(() => states[side].push(element.textContent)).observe(element, { childList: true });
  }
}

/* Runs inside the page: adds up what each rate shows from now on. */
function recordRates(sides) {
  window.rates = Object.fromEntries(sides.map((side) => [side, 0]));
  for (const side of sides) {
    const element = document.getElementById(`${side}-rate`);
    new MutationObserver(() => (rates[side] += Number(element.textContent))).observe(element, { childList: true });
  }
}
