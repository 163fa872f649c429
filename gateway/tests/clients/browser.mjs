// Chromium, driven by playwright-core. It must never load anything except what the gateway or the test serves.

import assert from "node:assert/strict";
import { accessSync, constants } from "node:fs";
import { chromium } from "playwright-core";

const PATHS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-proxy-server",
];

/** A new page in a new Chromium; `page.errors` collects its errors. */
export async function openPage(stage, options = {}) {
  const browser = await chromium.launch({ executablePath: executable(), args: FLAGS });
  stage.after(() => browser.close());
  const page = await (await browser.newContext(options)).newPage();
  page.errors = [];
  page.on("pageerror", (error) => page.errors.push(`error: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && page.errors.push(`console: ${message.text()}`));
  return page;
}

function executable() {
  const found = [process.env.CHROMIUM, ...PATHS].find((path) => path && isExecutable(path));
  assert.ok(found, `no Chromium at ${PATHS.join(", ")}: install it, or set CHROMIUM`);
  return found;
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
