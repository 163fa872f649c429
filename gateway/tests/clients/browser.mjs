// Chromium, driven by playwright-core. It must never load anything but what the gateway or the test gives it.

import assert from "node:assert/strict";
import { accessSync, constants } from "node:fs";
import { chromium } from "playwright-core";

const USUAL = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
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

/** A fresh page of a fresh Chromium; what the page complains of is collected in `page.complaints`. */
export async function openPage(stage, options = {}) {
  const browser = await chromium.launch({ executablePath: executable(), args: FLAGS });
  stage.after(() => browser.close());
  const page = await (await browser.newContext(options)).newPage();
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(`error: ${error.message}`));
  page.on("console", (said) => said.type() === "error" && page.complaints.push(`console: ${said.text()}`));
  return page;
}

function executable() {
  const found = [process.env.CHROMIUM, ...USUAL].find((path) => path && isExecutable(path));
  assert.ok(found, `no Chromium at ${USUAL.join(", ")}: install it, or set CHROMIUM`);
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
