// What both golden paths need. The environment says whom to ask, see test_node_sdks.py.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

const DEADLINE_MS = 20_000;
const LOOK_MS = 20;

export const { BASE_URL, API_KEY, CHAT_MODEL, EMBEDDING_MODEL, BUSY_MODEL } = process.env;
export const HELLO = [{ role: "user", content: "Who are you?" }];
export const LONG = 1900; // tokens: seconds of work

/** Everything that comes, in a list. */
export async function collected(source) {
  const found = [];
  for await (const item of source) found.push(item);
  return found;
}

/** What the router says of the model that has one slot. */
export async function busyModel() {
  const response = await fetch(`${BASE_URL}/v1/models/${BUSY_MODEL}/status`, {
    headers: { authorization: `Bearer ${API_KEY}` },
  });
  assert.equal(response.status, 200);
  const { busy, queued } = await response.json();
  return { busy: busy ?? 0, queued: Object.values(queued ?? {}).reduce((sum, count) => sum + count, 0) };
}

/** Wait until `met()`; what comes from another process is announced by nobody. */
export async function until(met, what) {
  const end = Date.now() + DEADLINE_MS;
  while (!(await met())) {
    assert.ok(Date.now() < end, `in vain: ${what}`);
    await sleep(LOOK_MS);
  }
}

/** A `fetch` that notes the status of each answer. */
export function noting(statuses) {
  return async (...request) => {
    const response = await fetch(...request);
    statuses.push({ status: response.status, retryAfter: response.headers.get("retry-after"), at: Date.now() });
    return response;
  };
}

/** Assert that an SDK was refused once, waited as long as it was told, and then had its answer. */
export function assertTriedAgain(answers, status) {
  assert.deepEqual(answers.map((answer) => answer.status), [status, 200]);
  const [refused, answered] = answers;
  const seconds = Number(refused.retryAfter);
  assert.ok(Number.isInteger(seconds) && seconds >= 1 && seconds <= 59, `Retry-After: ${refused.retryAfter}`);
  assert.ok(answered.at - refused.at >= seconds * 1000, "it did not wait");
}

/** Run the steps in order, naming each that fails. */
export async function run(steps) {
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      console.error(`${step.name} failed:`);
      throw error;
    }
  }
}
