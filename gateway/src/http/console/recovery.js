// The recovery demonstration: cuts the connections, publishes while they are down, reconnects, and reports.

import { publish } from "./publisher.js";

const MESSAGES = 3;
const DOWN_MS = 2000;
const RECOVERY_TIMEOUT_MS = 15_000;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Resolves when both subscribers have recovered; the result is a sentence and whether everything was recovered. */
export async function demonstrate(channel, subscribers, report) {
  const before = subscribers.map(({ panel }) => ({ recovered: panel.recovered, gaps: panel.gaps }));
  for (const subscriber of subscribers) {
    subscriber.close();
    subscriber.panel.state("cut");
    subscriber.panel.note("connection cut by the button");
  }
  report(`Both connections are cut. Publishing ${MESSAGES} messages…`);
  try {
    const restored = sleep(DOWN_MS);
    for (let index = 1; index <= MESSAGES; index += 1) await publish(channel, `{"while_disconnected":${index}}`);
    await restored;
  } catch (error) {
    for (const subscriber of subscribers) subscriber.open();
    return { text: `Not published: ${error.message}.`, isComplete: false };
  }
  report("Reconnecting…");
  const done = subscribers.map(recovery);
  for (const subscriber of subscribers) subscriber.open();
  await Promise.race([Promise.all(done), sleep(RECOVERY_TIMEOUT_MS)]);
  return summary(subscribers, before);
}

function recovery(subscriber) {
  return new Promise((done) => {
    subscriber.onRecovery = () => {
      subscriber.onRecovery = () => {};
      done();
    };
  });
}

function summary(subscribers, before) {
  const counts = subscribers.map(({ name, panel }, index) => ({
    name,
    recovered: panel.recovered - before[index].recovered,
    gaps: panel.gaps - before[index].gaps,
  }));
  const parts = counts.map(({ name, recovered, gaps }) => {
    return `${name} recovered ${recovered}${gaps ? ` and reported ${gaps} gap${gaps > 1 ? "s" : ""}` : ""}`;
  });
  const isComplete = counts.every(({ recovered, gaps }) => recovered >= MESSAGES && gaps === 0);
  return { text: `${MESSAGES} messages published while disconnected. ${parts.join("; ")}.`, isComplete };
}
