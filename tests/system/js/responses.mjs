// /v1/responses with the openai package, unmodified. A and B are the zones' AI addresses, FRONT the region's; the model is the one of
// lib/script_engine.py, whose prompt says what it answers. Prints one line a check that passed.
import assert from "node:assert/strict";
import OpenAI from "openai";

const { A, B, FRONT, KEY, OTHER_KEY } = process.env;
const client = (url, apiKey = KEY) => new OpenAI({ baseURL: url + "/v1", apiKey, maxRetries: 0 });
const a = client(A), b = client(B), front = client(FRONT);
const passed = (what) => console.log("ok " + what);
const refused = async (promise) => {
  try { await promise; } catch (e) { return e; }
  throw new Error("should have been refused");
};
const model = "script";
const words = (n) => Array.from({ length: n }, (_, i) => `w${i} `).join("");
const events = async (stream) => { const all = []; for await (const e of stream) all.push(e); return all; };
const text = (all) => all.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");
const bare = ({ output_text, ...response }) => response; // some of the package's methods add it
const numbered = (all) => assert.deepEqual(all.map((e) => e.sequence_number), all.map((_, i) => i));

const one = await a.responses.create({ model, input: "hello", instructions: "Be brief.", metadata: { a: "b" } });
assert.equal(one.status, "completed");
assert.equal(one.output_text, words(5));
assert.equal(one.usage.input_tokens, 7);
assert.equal(one.usage.output_tokens, 5);
assert.deepEqual(one.metadata, { a: "b" });
assert.deepEqual(await b.responses.retrieve(one.id), one);
passed("an answer, the same in the other zone");

const all = await events(await a.responses.create({ model, input: '{"think": "let me see", "words": 9}', stream: true }));
numbered(all);
assert.equal(all[0].type, "response.created");
assert.equal(all.at(-1).type, "response.completed");
assert.equal(text(all), words(9));
const id = all[0].response.id;
assert.equal(all.at(-1).response.output[0].type, "reasoning");
assert.equal(all.at(-1).response.output[0].content[0].text, "let me see ");
for (const zone of [a, b, front]) {
  assert.deepEqual(await events(await zone.responses.retrieve(id, { stream: true })), all);
  assert.deepEqual(await events(await zone.responses.retrieve(id, { stream: true, starting_after: 6 })), all.slice(7));
}
passed("a stream, again from anywhere, in both zones");

const helper = await front.responses.stream({ model, input: '{"words": 30}' }).finalResponse();
assert.equal(helper.output_text, words(30));
passed("the stream helper");

const tools = [{ type: "function", name: "f", parameters: { type: "object", properties: {} }, strict: true }];
const call = await a.responses.create({ model, input: '{"call": {"city": "Paris", "n": 3}}', tools });
assert.equal(call.output[0].type, "function_call");
assert.deepEqual(JSON.parse(call.output[0].arguments), { city: "Paris", n: 3 });
const after = await b.responses.create({ model, previous_response_id: call.id, tools, input: [
  { type: "function_call_output", call_id: call.output[0].call_id, output: "sunny" }] });
assert.equal(after.output_text, words(5));
assert.equal(after.previous_response_id, call.id);
const items = await a.responses.inputItems.list(after.id);
assert.equal(items.data[0].type, "function_call_output");
const streamed = await events(await a.responses.create({ model, input: '{"call": {"a": 1}}', tools, stream: true }));
const done = streamed.find((e) => e.type === "response.function_call_arguments.done");
assert.equal(streamed.filter((e) => e.type === "response.function_call_arguments.delta").map((e) => e.delta).join(""), done.arguments);
assert.equal(done.name, "f");
passed("tools, and a conversation that goes on in the other zone");

const two = await front.responses.create({ model, input: [{ role: "user", content: "x" }, { role: "user", content: "y" }] });
const desc = await front.responses.inputItems.list(two.id, { limit: 1 });
assert.equal(desc.data[0].content[0].text, "y");
assert.equal(desc.has_more, true);
const asc = await front.responses.inputItems.list(two.id, { order: "asc" });
assert.deepEqual(asc.data.map((i) => i.content[0].text), ["x", "y"]);
passed("input items");

const background = await a.responses.create({ model, input: '{"words": 40, "delay": 0.01}', background: true });
assert.match(background.status, /queued|in_progress/);
let state = background;
while (state.status === "queued" || state.status === "in_progress") {
  await new Promise((r) => setTimeout(r, 50));
  state = await b.responses.retrieve(background.id);
}
assert.equal(state.status, "completed");
assert.equal(state.output_text, words(40));
const live = await a.responses.create({ model, input: '{"words": 60, "delay": 0.01}', background: true, stream: true });
const begun = [];
for await (const e of live) { begun.push(e); if (begun.length === 20) break; } // and the client leaves
const rest = await events(await b.responses.retrieve(begun[0].response.id, { stream: true,
  starting_after: begun.at(-1).sequence_number }));
numbered([...begun, ...rest]);
assert.equal(text([...begun, ...rest]), words(60));
passed("in the background, and resumed in the other zone");

for (const zone of [a, b]) {
  const long = await a.responses.create({ model, input: '{"words": 2000, "delay": 0.01}', background: true });
  await new Promise((r) => setTimeout(r, 300));
  const cancelled = await zone.responses.cancel(long.id);
  assert.equal(cancelled.status, "cancelled");
  const said = cancelled.output[0].content[0].text;
  assert(said.length > 0 && words(2000).startsWith(said));
  assert.deepEqual(await a.responses.retrieve(long.id), await b.responses.retrieve(long.id));
  for (const again of [a, b]) // twice is as good as once
    assert.deepEqual(await again.responses.cancel(long.id), cancelled);
}
const atOnce = await a.responses.create({ model, input: '{"words": 2000, "delay": 0.01}', background: true });
assert.equal((await b.responses.cancel(atOnce.id)).status, "cancelled");
assert.deepEqual(bare(await a.responses.cancel(state.id)), bare(state)); // it was complete, and stays so
const sync = await refused(a.responses.cancel(one.id));
assert.equal(sync.status, 400);
assert.equal(sync.type, "invalid_request_error");
assert.match(sync.message, /Cannot cancel a synchronous response/);
assert.equal((await refused(a.responses.cancel("resp_00"))).status, 404);
passed("cancelled from either zone, twice, too late, and what can't be");

// whoever reads it sees it end: there is no event of its own for that
for (const zone of [a, b]) {
  const long = await a.responses.create({ model, input: '{"words": 2000, "delay": 0.01}', background: true });
  const reading = [a, b].map(async (z) => events(await z.responses.retrieve(long.id, { stream: true })));
  await new Promise((r) => setTimeout(r, 500));
  const cancelled = await zone.responses.cancel(long.id);
  const [seen, too] = await Promise.all(reading);
  assert.deepEqual(seen, too);
  numbered(seen);
  assert.equal(seen.at(-1).type, "response.incomplete");
  assert.deepEqual(seen.at(-1).response, bare(cancelled));
  assert.equal(cancelled.incomplete_details, null);
  assert.equal(cancelled.error, null);
  assert.deepEqual(seen.slice(-4, -1).map((e) => e.type),
    ["response.output_text.done", "response.content_part.done", "response.output_item.done"]);
  assert.equal(seen.at(-2).item.status, "incomplete");
  assert.equal(text(seen), cancelled.output[0].content[0].text);
}
passed("the stream of one that is cancelled");

for (const zone of [a, b]) {
  const long = await a.responses.create({ model, input: '{"words": 2000, "delay": 0.01}', background: true });
  const reading = [a, b].map(async (z) => events(await z.responses.retrieve(long.id, { stream: true })));
  await new Promise((r) => setTimeout(r, 500));
  await zone.responses.delete(long.id);
  for (const z of [a, b]) {
    assert.equal((await refused(z.responses.retrieve(long.id))).status, 404);
    assert.equal((await refused(z.responses.cancel(long.id))).status, 404);
    assert.equal((await refused(z.responses.delete(long.id))).status, 404);
  }
  for (const seen of await Promise.all(reading)) { // both end long before the answer would have
    numbered(seen);
    assert.equal(seen.at(-1).response.status, "cancelled");
    assert(words(1000).startsWith(text(seen)));
  }
  assert.equal((await refused(b.responses.retrieve(long.id))).status, 404);
}
passed("deleted while it is made");

await b.responses.delete(one.id);
assert.equal((await refused(a.responses.retrieve(one.id))).status, 404);
const unstored = await a.responses.create({ model, input: "hello", store: false });
assert.equal(unstored.output_text, words(5));
assert.equal((await refused(a.responses.retrieve(unstored.id))).status, 404);
assert.equal(text(await events(await b.responses.create({ model, input: "hello", store: false, stream: true }))), words(5));
passed("deleted; not stored");

const cut = await a.responses.create({ model, input: '{"words": 9}', max_output_tokens: 4 });
assert.equal(cut.status, "incomplete");
assert.equal(cut.incomplete_details.reason, "max_output_tokens");
assert.equal((await refused(a.responses.create({ model, input: '{"status": 400}' }))).status, 400);
try { // what fails at once has a status of its own; later there is only the stream to say it in
  const failed = await events(await a.responses.create({ model, input: '{"status": 400}', stream: true }));
  assert.equal(failed.at(-1).type, "response.failed");
} catch (e) { assert.equal(e.status, 400); }
for (const [body, status, code] of [[{ model: "none", input: "x" }, 404, "model_not_found"],
  [{ model, input: "x", colour: 1 }, 400, "unknown_parameter"],
  [{ model, input: "x", previous_response_id: "resp_00" }, 400, "previous_response_not_found"]]) {
  const e = await refused(a.responses.create(body));
  assert.equal(e.status, status);
  assert.equal(e.code, code);
}
passed("what fails");

const other = client(A, OTHER_KEY);
assert.equal((await refused(other.responses.retrieve(two.id))).status, 404);
assert.equal((await refused(other.responses.cancel(two.id))).status, 404);
assert.equal((await refused(other.responses.create({ model, input: "x", previous_response_id: two.id }))).status, 400);
assert.equal((await other.responses.create({ model, input: "x" })).output_text, words(5));
passed("another user's");

console.log("all passed");
