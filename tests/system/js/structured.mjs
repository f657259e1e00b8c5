// The openai package, unmodified, against nef infer (BASE, and EMBED with --pooling): structured output, tools, several
// choices, log probabilities, embeddings. The model's weights are random, so what it says is nonsense; that it is valid
// nonsense is what is tested. Prints one line a check that passed.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const { BASE, EMBED } = process.env;
const client = new OpenAI({ baseURL: BASE + "/v1", apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const passed = (what) => console.log("ok " + what);
const refused = async (promise) => {
  try { await promise; } catch (e) { return e; }
  throw new Error("should have been refused");
};
const messages = [{ role: "user", content: "Say something." }];
const plain = { model, messages, max_tokens: 700, chat_template_kwargs: { enable_thinking: false } };

// ---- response_format
const Step = z.object({ what: z.string().max(6), sure: z.boolean() });
const Answer = z.object({ kind: z.enum(["ship", "wave", "harbour"]), count: z.int().min(-5).max(500),
  steps: z.array(Step).min(1).max(2), note: z.nullable(z.string().max(5)) });
for (let seed = 0; seed < 8; seed++) {
  const ask = { ...plain, seed, response_format: zodResponseFormat(Answer, "answer") };
  const whole = await client.chat.completions.parse(ask);
  assert.equal(whole.choices[0].finish_reason, "stop");
  assert.deepEqual(Answer.parse(JSON.parse(whole.choices[0].message.content)), whole.choices[0].message.parsed);
  const final = await client.chat.completions.stream(ask).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.parsed, whole.choices[0].message.parsed);
}
passed("json_schema, whole and streamed, parsed by zod");

// a model that doesn't know when to stop: any object is one, and ends where the tokens do
for (let seed = 0; seed < 4; seed++) {
  const a = await client.chat.completions.create({ ...plain, seed, response_format: { type: "json_object" } });
  if (a.choices[0].finish_reason === "stop") {
    const value = JSON.parse(a.choices[0].message.content);
    assert(typeof value === "object" && value !== null && !Array.isArray(value));
  } else assert(a.choices[0].message.content.startsWith("{"));
}
passed("json_object");

const bad = await refused(client.chat.completions.create({ ...plain, response_format: { type: "json_schema",
  json_schema: { name: "x", schema: { type: "object", properties: { a: { not: {} } } } } } }));
assert(bad instanceof OpenAI.BadRequestError);
assert.deepEqual([bad.param, bad.code], ["response_format", "unsupported_parameter"]);
assert.match(bad.message, /unsupported keyword "not" at #\/properties\/a/);
passed("what a grammar can't say is refused by keyword and place");

// ---- tools
const Weather = z.object({ city: z.enum(["Paris", "Lyon"]), days: z.int().min(0).max(9) });
const Note = z.object({ text: z.string().max(5), tags: z.array(z.enum(["a", "b"])).max(2) });
const schemas = { weather: Weather, note: Note };
const tools = [zodFunction({ name: "weather", parameters: Weather }), zodFunction({ name: "note", parameters: Note })];
let several = 0;
for (let seed = 0; seed < 12; seed++) {
  const ask = { ...plain, seed, tools, tool_choice: "required" };
  const whole = (await client.chat.completions.parse({ ...ask, parallel_tool_calls: false })).choices[0];
  assert.equal(whole.finish_reason, "tool_calls");
  assert.equal(whole.message.tool_calls.length, 1);
  // as they come: the id and the name once, the arguments in pieces that concatenate
  const calls = [];
  let pieces = 0, reason;
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
    const choice = chunk.choices[0];
    for (const c of choice.delta.tool_calls ?? []) {
      if (c.id !== undefined) {
        assert.equal(c.index, calls.length);
        assert.equal(c.type, "function");
        calls.push({ id: c.id, name: c.function.name, text: "" });
      } else assert.equal(c.function.name, undefined);
      calls[c.index].text += c.function.arguments;
      pieces++;
    }
    reason = choice.finish_reason ?? reason;
  }
  const done = reason === "tool_calls" ? calls : calls.slice(0, -1);
  for (const c of done) schemas[c.name].strict().parse(JSON.parse(c.text));
  assert.equal(new Set(calls.map((c) => c.id)).size, calls.length);
  assert(pieces > calls.length);
  several += calls.length > 1;
  const final = (await client.chat.completions.stream({ ...ask, parallel_tool_calls: false }).finalChatCompletion())
    .choices[0];
  assert.deepEqual(final.message.tool_calls.map((c) => c.function.parsed_arguments),
    whole.message.tool_calls.map((c) => c.function.parsed_arguments));
}
assert(several > 0);
passed("required tool calls, whole, streamed and by the helper");

for (const name of ["weather", "note"]) {
  const a = await client.chat.completions.create({ ...plain, seed: 3, tools, parallel_tool_calls: false,
    tool_choice: { type: "function", function: { name } } });
  assert.equal(a.choices[0].message.tool_calls[0].function.name, name);
  const some = await client.chat.completions.create({ ...plain, seed: 4, tools, parallel_tool_calls: false,
    tool_choice: { type: "allowed_tools", allowed_tools: { mode: "required", tools: [{ type: "function",
      function: { name } }] } } });
  assert.equal(some.choices[0].message.tool_calls[0].function.name, name);
}
passed("a named tool, allowed tools");

// runTools calls the function and tells the model what it said
for (const stream of [false, true]) {
  const asked = [];
  const runner = client.chat.completions.runTools({ ...plain, stream, seed: 5, parallel_tool_calls: false,
    tool_choice: { type: "function", function: { name: "weather" } },
    tools: [{ type: "function", function: { name: "weather", description: "Weather", parse: JSON.parse, strict: true,
      parameters: tools[0].function.parameters, function: (a) => { asked.push(Weather.parse(a)); return "12 degrees"; } } }] });
  await runner.done();
  assert.equal(asked.length, 1);
  assert.equal(runner.messages.at(-1).role, "tool");
  assert.equal(runner.messages.at(-1).content, "12 degrees");
}
passed("runTools");

const thought = await client.chat.completions.create({ model, messages, tools, tool_choice: "required", seed: 1,
  max_tokens: 700, parallel_tool_calls: false, chat_template_kwargs: { enable_thinking: true, thinking_budget: 9 } });
const said = thought.choices[0].message;
assert.match(said.reasoning_content, /Considering the limited time by the user/);
assert.equal(thought.choices[0].finish_reason, "tool_calls");
schemas[said.tool_calls[0].function.name].parse(JSON.parse(said.tool_calls[0].function.arguments));
const details = thought.usage.completion_tokens_details;
assert(details.reasoning_tokens > 9 && details.reasoning_tokens < thought.usage.completion_tokens);
const both = await client.chat.completions.create({ model, messages, seed: 2, max_tokens: 700, thinking_budget: 5,
  response_format: zodResponseFormat(Answer, "answer") });
Answer.parse(JSON.parse(both.choices[0].message.content));
passed("a call, and a schema, after a thought with a budget");

// ---- choices, probabilities
const three = { ...plain, n: 3, seed: 7, max_tokens: 12 };
const [one, two] = [await client.chat.completions.create(three), await client.chat.completions.create(three)];
const texts = one.choices.map((c) => c.message.content);
assert.equal(new Set(texts).size, 3);
assert.deepEqual(two.choices.map((c) => c.message.content), texts);
assert.equal((await client.chat.completions.create({ ...three, n: 1 })).choices[0].message.content, texts[0]);
const streamed = ["", "", ""];
for await (const c of await client.chat.completions.create({ ...three, stream: true }))
  streamed[c.choices[0].index] += c.choices[0].delta.content ?? "";
assert.deepEqual(streamed, texts);
passed("n choices, the same ones each time");

const likely = await client.chat.completions.create({ ...plain, temperature: 0, max_tokens: 10, logprobs: true,
  top_logprobs: 4 });
const content = likely.choices[0].logprobs.content;
assert.equal(content.length, likely.usage.completion_tokens);
for (const t of content) {
  assert.equal(t.top_logprobs.length, 4);
  assert.deepEqual([t.token, t.logprob, t.bytes], [t.top_logprobs[0].token, t.top_logprobs[0].logprob,
    t.top_logprobs[0].bytes]);
  const p = t.top_logprobs.map((x) => Math.exp(x.logprob));
  assert(p.every((x, i) => i === 0 || x <= p[i - 1]) && p.reduce((a, b) => a + b) <= 1);
}
const bytes = Buffer.from(content.flatMap((t) => t.bytes ?? []));
assert.equal(new TextDecoder().decode(bytes), likely.choices[0].message.content);
let chunks = [];
const helped = client.chat.completions.stream({ ...plain, temperature: 0, max_tokens: 10, logprobs: true, top_logprobs: 4 });
helped.on("logprobs.content.done", (e) => { chunks = e.content; });
assert.deepEqual((await helped.finalChatCompletion()).choices[0].logprobs.content, content);
assert.deepEqual(chunks, content);
const echoed = await client.completions.create({ model, prompt: "The ship is tossed", echo: true, max_tokens: 3,
  logprobs: 2, temperature: 0 });
const lp = echoed.choices[0].logprobs;
assert.equal(echoed.choices[0].text.slice(0, 18), "The ship is tossed");
assert.equal(lp.tokens.length, echoed.usage.total_tokens);
assert.equal(lp.token_logprobs[0], null);
assert(lp.token_logprobs.slice(1).every((x) => x <= 0));
passed("logprobs");

const biased = await client.chat.completions.create({ ...plain, temperature: 0, max_tokens: 5,
  logit_bias: Object.fromEntries(content.slice(0, 1).map((t) => [65, 100])) });
assert.equal(biased.choices[0].message.content, await detokenize([65, 65, 65, 65, 65]));
const flat = await client.chat.completions.create({ ...plain, temperature: 0, max_tokens: 40, frequency_penalty: 2,
  presence_penalty: 2, return_token_ids: true });
const ids = flat.choices[0].token_ids;
assert(new Set(ids).size > 30);
passed("logit_bias, penalties");

async function detokenize(tokens) {
  const a = await fetch(BASE + "/detokenize", { method: "POST", body: JSON.stringify({ tokens }) });
  return (await a.json()).content;
}

// ---- embeddings
const embed = new OpenAI({ baseURL: EMBED + "/v1", apiKey: "none", maxRetries: 0 });
const e = await embed.embeddings.create({ model, input: ["Hello", "Hello", "x"] });      // asks for base64 by itself
const f = await embed.embeddings.create({ model, input: "Hello", encoding_format: "float" });
assert.equal(e.data.length, 3);
assert.deepEqual(Array.from(e.data[0].embedding, Math.fround), f.data[0].embedding.map(Math.fround));
assert.deepEqual(e.data[0].embedding, e.data[1].embedding);
assert.notDeepEqual(e.data[0].embedding, e.data[2].embedding);
assert(Math.abs(f.data[0].embedding.reduce((a, x) => a + x * x, 0) - 1) < 1e-5);
const few = (await embed.embeddings.create({ model, input: "Hello", dimensions: 16, encoding_format: "float" })).data[0];
const norm = Math.hypot(...f.data[0].embedding.slice(0, 16));
few.embedding.forEach((x, i) => assert(Math.abs(x - f.data[0].embedding[i] / norm) < 1e-5));
assert.equal((await refused(client.embeddings.create({ model, input: "x" }))).code, "unsupported_model");
passed("embeddings");
console.log("all passed");
