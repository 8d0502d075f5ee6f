// What a newcomer does with the Anthropic SDK. Fails with an exit code and says why on stderr.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import {
  API_KEY, assertTriedAgain, BASE_URL, BUSY_MODEL, busyModel, CHAT_MODEL, HELLO, LONG, noting, run, until,
} from "./support.mjs";

const client = new Anthropic({ baseURL: BASE_URL, apiKey: API_KEY, authToken: null });
const model = CHAT_MODEL;

async function message() {
  const answer = await client.messages.create({ model, max_tokens: 4, messages: HELLO });
  assert.equal(answer.type, "message");
  assert.equal(answer.model, model);
  assert.ok(answer.content[0].text);
  assert.equal(answer.stop_reason, "max_tokens");
  assert.equal(answer.usage.output_tokens, 4);
  assert.ok(answer._request_id);
}

async function bearer() {
  const other = new Anthropic({ baseURL: BASE_URL, apiKey: null, authToken: API_KEY });
  assert.ok((await other.messages.create({ model, max_tokens: 1, messages: HELLO })).content);
}

async function streamedMessage() {
  const stream = client.messages.stream({ model, max_tokens: 8, messages: HELLO });
  const events = [];
  stream.on("streamEvent", (event) => events.push(event.type));
  const answer = await stream.finalMessage();
  assert.equal(answer.model, model);
  assert.ok(answer.content[0].text);
  assert.equal(answer.stop_reason, "max_tokens");
  assert.equal(answer.usage.output_tokens, 8);
  assert.equal(events[0], "message_start");
  assert.equal(events.at(-1), "message_stop");
  assert.ok(stream.request_id);
}

async function countTokens() {
  const short = await client.messages.countTokens({ model, messages: HELLO });
  const long = await client.messages.countTokens({ model, messages: [...HELLO, ...HELLO] });
  assert.ok(short.input_tokens > 0 && long.input_tokens > short.input_tokens);
}

async function wrongModel() {
  await assert.rejects(client.messages.create({ model: "nope", max_tokens: 4, messages: HELLO }), (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError);
    assert.equal(error.error.type, "error");
    assert.equal(error.error.error.type, "not_found_error");
    assert.match(error.error.error.message, /nope/);
    assert.ok(error.requestID);
    return true;
  });
}

async function wrongKey() {
  const stranger = new Anthropic({ baseURL: BASE_URL, apiKey: "wrong", authToken: null });
  await assert.rejects(stranger.messages.create({ model, max_tokens: 4, messages: HELLO }), (error) => {
    assert.ok(error instanceof Anthropic.AuthenticationError);
    assert.equal(error.error.error.type, "authentication_error");
    return true;
  });
}

const longStream = () =>
  client.messages.create({ model: BUSY_MODEL, max_tokens: LONG, messages: HELLO, stream: true });

async function abortInMidStream() {
  const stream = await longStream();
  for await (const event of stream) {
    assert.equal(event.type, "message_start");
    stream.controller.abort();
    break;
  }
  await until(async () => (await busyModel()).busy === 0, "the slot of an aborted stream");
}

async function retryWhenTooMuchWaits() {
  const answers = [];
  const patient = new Anthropic({ baseURL: BASE_URL, apiKey: API_KEY, authToken: null, fetch: noting(answers) });
  const metadata = { user_id: "x".repeat(700_000) }; // two of them are more than api.max_buffered_mb
  const ask = (sdk) => sdk.messages.create({ model: BUSY_MODEL, max_tokens: 2, messages: HELLO, metadata });
  const busy = await longStream();
  const waiter = ask(client);
  await until(async () => (await busyModel()).queued === 1, "a waiting request");
  const asked = ask(patient);
  await until(() => answers.length > 0, "a refusal");
  busy.controller.abort();
  assert.equal((await waiter).stop_reason, "max_tokens");
  assert.equal((await asked).stop_reason, "max_tokens");
  assertTriedAgain(answers, 503);
}

await run([
  message, bearer, streamedMessage, countTokens, wrongModel, wrongKey, abortInMidStream, retryWhenTooMuchWaits,
]);
