// The code for an application, with the address of this gateway and the channel of the form.

import { byId, gatewayUrl } from "./format.js";
import { requestBody } from "./publisher.js";

const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const shellWord = (text) => (/^[\w:./-]+$/.test(text) ? text : shellQuote(text));

export function showSnippets(channel, data) {
  const websocket = gatewayUrl("connection/websocket").href.replace(/^http/, "ws");
  const code = {
    "code-sse": [
      `const events = new EventSource("${gatewayUrl(`sse/${encodeURIComponent(channel)}`)}");`,
      `events.onmessage = e => console.log(e.data);`,
    ],
    "code-ws": [
      `import { Centrifuge } from "centrifuge";`,
      `const client = new Centrifuge("${websocket}");`,
      `const sub = client.newSubscription(${JSON.stringify(channel)});`,
      `sub.on("publication", p => console.log(p.data));`,
      `sub.subscribe(); client.connect();`,
    ],
    "code-curl": [
      `curl ${gatewayUrl("api/publish")} \\`,
      `  -H 'Content-Type: application/json' \\`,
      `  -d ${shellQuote(requestBody(channel, data))}`,
    ],
    "code-redis": [`redis-cli PUBLISH ${shellWord(channel)} ${shellQuote(data)}`],
  };
  for (const [id, lines] of Object.entries(code)) byId(id).textContent = lines.join("\n");
}

/** Copies the code beside a button; selects it where the clipboard is not available. */
export async function copy(button) {
  const code = byId(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
