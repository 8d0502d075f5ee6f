// What a newcomer does with openai-node. Fails with an exit code and says why on stderr.

import assert from "node:assert/strict";
import OpenAI from "openai";
import {
  API_KEY, assertTriedAgain, BASE_URL, BUSY_MODEL, busyModel, CHAT_MODEL, collected, EMBEDDING_MODEL, HELLO, LONG, noting, run,
  until,
} from "./support.mjs";

const baseURL = `${BASE_URL}/v1`;
const client = new OpenAI({ baseURL, apiKey: API_KEY });
const model = CHAT_MODEL;

async function chat() {
  const answer = await client.chat.completions.create({ model, max_tokens: 4, messages: HELLO });
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.model, model);
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 4);
  assert.ok(answer._request_id);
}

async function streamedChat() {
  const stream = await client.chat.completions.create({
    model, max_tokens: 8, messages: HELLO, stream: true, stream_options: { include_usage: true },
  });
  const chunks = await collected(stream);
  const choices = chunks.flatMap((chunk) => chunk.choices);
  assert.ok(chunks.every((chunk) => chunk.model === model));
  assert.ok(choices.map((choice) => choice.delta.content ?? "").join(""));
  assert.equal(choices.at(-1).finish_reason, "length");
  assert.equal(chunks.at(-1).usage.completion_tokens, 8);
}

async function toolDeltas() {
  const parameters = { type: "object", properties: { city: { enum: ["Paris"] } }, required: ["city"] };
  const stream = await client.chat.completions.create({
    model, max_tokens: 300, messages: HELLO, stream: true, temperature: 0,
    tools: [{ type: "function", function: { name: "weather", parameters } }],
    tool_choice: "required",
    logit_bias: { "{": 100 }, // so that a model of random letters begins the call
  });
  const choices = (await collected(stream)).flatMap((chunk) => chunk.choices);
  const deltas = choices.flatMap((choice) => choice.delta.tool_calls ?? []);
  assert.ok(deltas.length > 1, "one delta is none");
  assert.equal(deltas[0].function.name, "weather");
  assert.ok(deltas[0].id);
  assert.deepEqual(JSON.parse(deltas.map((delta) => delta.function.arguments ?? "").join("")), { city: "Paris" });
  assert.equal(choices.at(-1).finish_reason, "tool_calls");
}

async function responses() {
  const stream = await client.responses.create({ model, max_output_tokens: 4, input: "Hi", stream: true });
  const events = await collected(stream);
  assert.equal(events[0].type, "response.created");
  assert.equal(events.at(-1).type, "response.completed");
  assert.equal(events.at(-1).response.usage.output_tokens, 4);
}

async function embeddings() {
  // By default the SDK asks for base64, and decodes it.
  const input = ["one", "two"];
  const packed = await client.embeddings.create({ model: EMBEDDING_MODEL, input });
  const plain = await client.embeddings.create({ model: EMBEDDING_MODEL, input, encoding_format: "float" });
  assert.equal(packed.model, EMBEDDING_MODEL);
  assert.deepEqual(packed.data.map((entry) => entry.index), [0, 1]);
  for (const [number, { embedding }] of packed.data.entries()) {
    const other = plain.data[number].embedding;
    assert.ok(embedding.length === other.length && embedding.length > 1);
    assert.ok(embedding.every((value, place) => Math.abs(value - other[place]) < 1e-5));
  }
}

async function models() {
  const listed = await collected(client.models.list());
  assert.ok(listed.some((entry) => entry.id === model));
  assert.equal((await client.models.retrieve(model)).id, model);
  await assert.rejects(client.models.retrieve("nope"), OpenAI.NotFoundError);
}

async function wrongModel() {
  await assert.rejects(client.chat.completions.create({ model: "nope", messages: HELLO }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.equal(error.param, "model");
    assert.match(error.message, /nope/);
    assert.ok(error.requestID);
    return true;
  });
}

async function wrongKey() {
  const stranger = new OpenAI({ baseURL, apiKey: "wrong" });
  await assert.rejects(stranger.chat.completions.create({ model, messages: HELLO }), (error) => {
    assert.ok(error instanceof OpenAI.AuthenticationError);
    assert.equal(error.code, "invalid_api_key");
    return true;
  });
}

const longStream = () =>
  client.chat.completions.create({ model: BUSY_MODEL, max_tokens: LONG, messages: HELLO, stream: true });

async function abortInMidStream() {
  for await (const chunk of await longStream()) {
    assert.ok(chunk.choices);
    break; // ends the stream, as its controller would
  }
  await until(async () => (await busyModel()).busy === 0, "the slot of an aborted stream");
}

async function retryWhenTheQueueIsFull() {
  const answers = [];
  const patient = new OpenAI({ baseURL, apiKey: API_KEY, fetch: noting(answers) });
  const ask = (sdk) => sdk.chat.completions.create({ model: BUSY_MODEL, max_tokens: 2, messages: HELLO });
  const busy = await longStream();
  const waiter = ask(client);
  await until(async () => (await busyModel()).queued === 1, "the only place in the queue");
  const asked = ask(patient);
  await until(() => answers.length > 0, "a refusal");
  busy.controller.abort();
  assert.equal((await waiter).choices[0].finish_reason, "length");
  assert.equal((await asked).choices[0].finish_reason, "length");
  assertTriedAgain(answers, 429);
}

await run([
  chat, streamedChat, toolDeltas, responses, embeddings, models, wrongModel, wrongKey, abortInMidStream,
  retryWhenTheQueueIsFull,
]);
