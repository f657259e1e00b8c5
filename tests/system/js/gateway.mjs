// Three clients' packages, unmodified, against a region's AI address (BASE, KEY): openai, the Vercel AI SDK and LangChain. MODEL is a
// small model with random weights, FAKE one that says w0 w1 w2 ... Prints one line a check that passed.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, streamText } from "ai";
import OpenAI from "openai";

const { BASE, KEY, MODEL, FAKE } = process.env;
const WORDS = Array.from({ length: 20 }, (_, i) => `w${i} `).join("");
const passed = (what) => console.log("ok " + what);
const refused = async (promise) => {
  try { await promise; } catch (e) { return e; }
  throw new Error("should have been refused");
};
const user = (content) => [{ role: "user", content }];

const client = new OpenAI({ baseURL: BASE + "/v1", apiKey: KEY, maxRetries: 0 });
const models = (await client.models.list()).data.map((m) => m.id).sort();
assert.deepEqual(models, [FAKE, MODEL].sort());
assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
passed("openai: models");

const ask = { model: MODEL, messages: user("Hello"), seed: 5, max_tokens: 40 };
const whole = await client.chat.completions.create(ask);
let text = "", usage;
for await (const c of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
  text += c.choices[0]?.delta?.content ?? "";
  text += c.choices[0]?.delta?.reasoning_content ?? "";
  usage = c.usage ?? usage;
}
assert.equal(text, (whole.choices[0].message.reasoning_content ?? "") + whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
passed("openai: chat, streamed as whole");

const final = await client.chat.completions.stream({ model: FAKE, messages: user("Hello") }).finalChatCompletion();
assert.equal(final.choices[0].message.content, WORDS);
const tool = await client.chat.completions.create({ model: FAKE, messages: user("TOOL5") });
assert.equal(tool.choices[0].finish_reason, "tool_calls");
assert.deepEqual(JSON.parse(tool.choices[0].message.tool_calls[0].function.arguments), { text: "w0 w1 w2 w3 w4 " });
const completion = await client.completions.create({ model: MODEL, prompt: ["a", "b"], max_tokens: 5, n: 2 });
assert.equal(completion.choices.length, 4);
const embedding = await client.embeddings.create({ model: FAKE, input: "x", encoding_format: "float" });
assert.deepEqual(embedding.data[0].embedding, [0.5, -1]);
passed("openai: helpers, tools, completions, embeddings");

const wrong = new OpenAI({ baseURL: BASE + "/v1", apiKey: KEY + "x", maxRetries: 0 });
assert((await refused(wrong.models.list())) instanceof OpenAI.AuthenticationError);
const gone = await refused(client.chat.completions.create({ ...ask, model: "gone" }));
assert(gone instanceof OpenAI.NotFoundError);
assert.equal(gone.code, "model_not_found");
assert((await refused(client.chat.completions.create({ model: MODEL, messages: "x" }))) instanceof OpenAI.BadRequestError);
passed("openai: errors");

const many = await Promise.all(Array.from({ length: 8 }, () => client.chat.completions.create(ask)));
for (const a of many) assert.equal(a.choices[0].message.content, whole.choices[0].message.content);
passed("openai: several at once");

const provider = createOpenAICompatible({ name: "nef", baseURL: BASE + "/v1", apiKey: KEY, includeUsage: true });
const generated = await generateText({ model: provider(FAKE), prompt: "Hello", maxRetries: 0 });
assert.equal(generated.text, WORDS);
assert.equal(generated.usage.outputTokens, 20);
const streaming = streamText({ model: provider(FAKE), prompt: "THINK10", maxRetries: 0 });
let parts = "";
for await (const part of streaming.textStream) parts += part;
assert.equal(parts, Array.from({ length: 10 }, (_, i) => `w${i + 10} `).join(""));
assert.equal((await streaming.reasoningText).trim(), WORDS.split("w10")[0].trim());
assert.equal((await streaming.usage).outputTokens, 20);
passed("Vercel AI SDK: whole, streamed, reasoning");

const chain = new ChatOpenAI({ model: FAKE, apiKey: KEY, maxRetries: 0, configuration: { baseURL: BASE + "/v1" } });
assert.equal((await chain.invoke("Hello")).content, WORDS);
let streamed = "";
for await (const piece of await chain.stream("Hello")) streamed += piece.content;
assert.equal(streamed, WORDS);
const called = await chain.invoke("TOOL5");
assert.deepEqual(called.tool_calls[0].args, { text: "w0 w1 w2 w3 w4 " });
passed("LangChain: whole, streamed, tools");
console.log("all passed");
