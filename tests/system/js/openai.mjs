// The openai package, unmodified, against nef infer (BASE) and against the server over a scripted engine (FAKE: what
// stands between say[[ and ]] is the answer, a token a byte). Prints one line a check that passed.
import assert from "node:assert/strict";
import OpenAI from "openai";

const { BASE, FAKE } = process.env;
const real = new OpenAI({ baseURL: BASE + "/v1", apiKey: "none", maxRetries: 0 });
const fake = new OpenAI({ baseURL: FAKE + "/v1", apiKey: "none", maxRetries: 0 });
const passed = (what) => console.log("ok " + what);
const refused = async (promise) => {
  try { await promise; } catch (e) { return e; }
  throw new Error("should have been refused");
};
const say = (text, more = "") => [{ role: "user", content: `say[[${text}]]${more}` }];
const plain = { chat_template_kwargs: { enable_thinking: false } };

const models = await real.models.list();
const model = models.data[0].id;
assert.equal((await real.models.retrieve(model)).id, model);
passed("models");

const ask = { model, messages: [{ role: "user", content: "Hello" }], temperature: 0, max_tokens: 20, ...plain };
const whole = await real.chat.completions.create(ask);
assert.equal(whole.choices[0].message.role, "assistant");
assert(whole.usage.prompt_tokens > 5 && whole.usage.completion_tokens <= 20);
let text = "", usage;
for await (const chunk of await real.chat.completions.create({ ...ask, stream: true,
  stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
passed("chat, streamed as whole");

const helper = await real.chat.completions.stream(ask).finalChatCompletion();
assert.equal(helper.choices[0].message.content, text);
passed("the stream helper");

const several = await Promise.all(Array.from({ length: 12 }, () => real.chat.completions.create(ask)));
for (const a of several) assert.equal(a.choices[0].message.content, text);
passed("several at once");

const completion = await real.completions.create({ model, prompt: ["Hello", "a b c"], max_tokens: 8, temperature: 0 });
assert.equal(completion.choices.length, 2);
let streamed = "";
for await (const c of await real.completions.create({ model, prompt: "Hello", max_tokens: 8, temperature: 0,
  stream: true }))
  streamed += c.choices[0].text;
assert.equal(streamed, completion.choices[0].text);
passed("completions");

const bad = await refused(real.chat.completions.create({ ...ask, verbosity: "low" }));
assert(bad instanceof OpenAI.BadRequestError);
assert.deepEqual([bad.status, bad.param, bad.code, bad.type], [400, "verbosity", "unsupported_parameter",
  "invalid_request_error"]);
assert(bad.requestID.startsWith("req_"));
const unknown = await refused(real.chat.completions.create({ ...ask, model: "gpt-4o" }));
assert(unknown instanceof OpenAI.NotFoundError);
passed("errors");

// what such a client sends anyway
await real.chat.completions.create({ ...ask, max_tokens: undefined, max_completion_tokens: 4, user: "u", store: false,
  n: 1, metadata: { a: "b" }, logprobs: false, presence_penalty: 0, frequency_penalty: 0,
  response_format: { type: "text" } });
passed("fields that ask for nothing");

const euros = await fake.chat.completions.create({ model: "fake", messages: say("5 \u20ac \u{1f600}"), ...plain });
assert.equal(euros.choices[0].message.content, "5 \u20ac \u{1f600}");
let thought = "", said = "";
for await (const c of await fake.chat.completions.create({ model: "fake", stream: true,
  messages: say("<think>\nwell\n</think>\n\nyes") })) {
  thought += c.choices[0].delta.reasoning_content ?? "";
  said += c.choices[0].delta.content ?? "";
}
assert.deepEqual([thought, said], ["well", "yes"]);
passed("reasoning apart from content");

const tools = [{ type: "function", function: { name: "weather", description: "Weather of a city",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } } }];
const call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>';
const twice = { model: "fake", messages: say("Wait.\n" + call + "\n" + call.replace("Paris", "Lyon"), "slow[[1]]"),
  tools, ...plain };
const once = await fake.chat.completions.create(twice);
assert.equal(once.choices[0].finish_reason, "tool_calls");
const cities = once.choices[0].message.tool_calls.map((c) => JSON.parse(c.function.arguments).city);
assert.deepEqual(cities, ["Paris", "Lyon"]);
const final = await fake.chat.completions.stream(twice).finalChatCompletion();
assert.equal(final.choices[0].finish_reason, "tool_calls");
assert.deepEqual(final.choices[0].message.tool_calls.map((c) =>
  [c.function.name, JSON.parse(c.function.arguments).city]),
  [["weather", "Paris"], ["weather", "Lyon"]]);
assert.equal(new Set(final.choices[0].message.tool_calls.map((c) => c.id)).size, 2);
assert.equal(final.choices[0].message.content, "Wait.");
// and back again: the model's call and the tool's answer are messages of the next turn
const next = await fake.chat.completions.create({ model: "fake", tools, ...plain, messages: [...twice.messages,
  once.choices[0].message, ...once.choices[0].message.tool_calls.map((c) => ({ role: "tool", tool_call_id: c.id,
    content: "12" }))] });
assert.equal(next.choices[0].finish_reason, "tool_calls");
passed("tool calls");

const stream = await fake.chat.completions.create({ model: "fake", messages: say("x", "endless[[]] slow[[1]]"),
  stream: true, ...plain });
let seen = 0;
for await (const chunk of stream) if (++seen === 20) break; // leaves: the server cancels
assert.equal(seen, 20);
const failing = await fake.chat.completions.create({ model: "fake", messages: say("x", "fail[[]]"), stream: true,
  ...plain });
assert((await refused((async () => { for await (const chunk of failing); })())) instanceof OpenAI.APIError);
passed("a stream that is left, and one that fails");
console.log("all passed");
