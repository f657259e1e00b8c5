// Structured output through /v1/responses of the built-in engine, with the openai package, unmodified. The model's weights
// are noise, so what it says is nonsense; that it is valid nonsense, in events that agree with each other, is what is
// tested. A and B are the zones' AI addresses. Prints one line a check that passed.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const { A, B, KEY, MODEL } = process.env;
const client = (url) => new OpenAI({ baseURL: url + "/v1", apiKey: KEY, maxRetries: 0 });
const a = client(A), b = client(B);
const passed = (what) => console.log("ok " + what);
const refused = async (promise) => {
  try { await promise; } catch (e) { return e; }
  throw new Error("should have been refused");
};
const plain = { model: MODEL, input: "Say something.", max_output_tokens: 700, reasoning: { effort: "none" } };

// What every stream has to keep: numbers without a gap, each item opened, told and closed once, in order, its deltas its
// text; and the response at the end made of them. Returns that response.
async function followed(stream) {
  const events = [];
  for await (const e of stream) events.push(e);
  assert.deepEqual(events.map((e) => e.sequence_number), events.map((_, i) => i));
  assert.deepEqual(events.slice(0, 2).map((e) => e.type), ["response.created", "response.in_progress"]);
  const items = [];
  let open = null, text = "", part = null;
  for (const e of events.slice(2, -1)) {
    if (e.type === "response.output_item.added") {
      assert.equal(open, null);
      assert.equal(e.output_index, items.length);
      assert.equal(e.item.status, "in_progress");
      if (e.item.type === "function_call") assert.equal(e.item.arguments, "");
      else assert.deepEqual(e.item.content, []);
      [open, text, part] = [e.item, "", null];
      continue;
    }
    assert.equal(e.output_index, items.length);
    if (e.type !== "response.output_item.done") assert.equal(e.item_id, open.id);
    switch (e.type) {
      case "response.content_part.added": assert.equal(e.part.text, ""); part = e.part.type; break;
      case "response.output_text.delta": case "response.reasoning_text.delta": assert(part); text += e.delta; break;
      case "response.function_call_arguments.delta": assert.equal(open.type, "function_call"); text += e.delta; break;
      case "response.output_text.done": case "response.reasoning_text.done": assert.equal(e.text, text); break;
      case "response.content_part.done": assert.equal(e.part.text, text); assert.equal(e.part.type, part); break;
      case "response.function_call_arguments.done":
        assert.equal(e.arguments, text);
        assert.equal(e.name, open.name);
        break;
      case "response.output_item.done":
        assert.equal(e.item.id, open.id);
        assert.equal(e.item.type === "function_call" ? e.item.arguments : e.item.content[0].text, text);
        items.push(e.item);
        open = null;
        break;
      default: assert.fail("unexpected " + e.type);
    }
  }
  assert.equal(open, null);
  const end = events.at(-1);
  assert.equal(end.type, end.response.status === "completed" ? "response.completed" : "response.incomplete");
  assert.deepEqual(end.response.output, items);
  return end.response;
}
const textOf = (r) => r.output.filter((o) => o.type === "message").flatMap((o) => o.content).map((c) => c.text).join("");
const callsOf = (r) => r.output.filter((o) => o.type === "function_call");

// ---- text.format
const Step = z.object({ what: z.string().max(6), sure: z.boolean() });
const Answer = z.object({ kind: z.enum(["ship", "wave", "harbour"]), count: z.int().min(-5).max(500),
  steps: z.array(Step).min(1).max(2), note: z.nullable(z.string().max(5)) });
const format = zodTextFormat(Answer, "answer");
for (let seed = 0; seed < 6; seed++) {
  const ask = { ...plain, seed, text: { format } };
  const whole = await a.responses.parse(ask);
  assert.equal(whole.status, "completed");
  assert.deepEqual(whole.output_parsed, Answer.strict().parse(JSON.parse(whole.output_text)));
  assert.deepEqual(whole.text.format, { ...format });
  const told = await followed(await b.responses.create({ ...ask, stream: true, store: seed % 2 === 0 }));
  assert.equal(told.status, "completed");
  assert.equal(textOf(told), whole.output_text); // the same seed, in the other zone
  const helper = await b.responses.stream(ask).finalResponse();
  assert.deepEqual(helper.output_parsed, whole.output_parsed);
  const kept = await b.responses.retrieve(whole.id);
  assert.deepEqual(Answer.parse(JSON.parse(kept.output_text)), whole.output_parsed);
}
passed("json_schema: parsed by zod, whole, streamed and by the helper, in both zones");

for (const strict of [true, false, null]) {
  const r = await a.responses.create({ ...plain, seed: 3, text: { format: { ...format, strict } } });
  Answer.strict().parse(JSON.parse(r.output_text));
}
const any = await a.responses.create({ ...plain, seed: 1, max_output_tokens: 60, text: { format: { type: "json_object" } } });
assert(any.output_text.startsWith("{"));
if (any.status === "completed") JSON.parse(any.output_text);
passed("strict or not, json_object");

const bad = await refused(a.responses.create({ ...plain, text: { format: { type: "json_schema", name: "x", strict: true,
  schema: { type: "object", properties: { a: { not: {} } } } } } }));
assert(bad instanceof OpenAI.BadRequestError);
assert.equal(bad.code, "unsupported_parameter");
assert.equal(bad.param, "text.format.schema");
assert.match(bad.message, /text\.format\.schema: unsupported keyword "not" at #\/properties\/a/);
for (const wrong of [{ type: "json_schema", name: "x" }, { type: "xml" }]) {
  const e = await refused(a.responses.create({ ...plain, text: { format: wrong } }));
  assert.deepEqual([e.status, e.param], [400, "text.format"]);
}
passed("what a grammar can't say is refused by keyword and place");

// ---- tools
const Weather = z.object({ city: z.enum(["Paris", "Lyon"]), days: z.int().min(0).max(9) });
const Note = z.object({ text: z.string().max(5), tags: z.array(z.enum(["a", "b"])).max(2) });
const schemas = { weather: Weather, note: Note };
const tools = [zodResponsesFunction({ name: "weather", parameters: Weather }),
  zodResponsesFunction({ name: "note", parameters: Note })];
let several = 0;
for (let seed = 0; seed < 10; seed++) {
  const ask = { ...plain, seed, tools, tool_choice: "required" };
  const whole = await a.responses.parse({ ...ask, parallel_tool_calls: false });
  assert.equal(whole.status, "completed");
  assert.deepEqual(whole.output.map((o) => o.type), ["function_call"]);
  const [one] = whole.output;
  assert.equal(one.status, "completed");
  assert.deepEqual(one.parsed_arguments, schemas[one.name].strict().parse(JSON.parse(one.arguments)));
  const told = await followed(await b.responses.create({ ...ask, parallel_tool_calls: false, stream: true }));
  assert.deepEqual(callsOf(told).map((c) => [c.name, c.arguments]), [[one.name, one.arguments]]);
  const many = await followed(await b.responses.create({ ...ask, stream: true, store: false }));
  const calls = callsOf(many), done = calls.filter((c) => c.status === "completed");
  assert.equal(done.length, many.status === "completed" ? calls.length : calls.length - 1);
  for (const c of done) schemas[c.name].strict().parse(JSON.parse(c.arguments));
  assert.equal(new Set(calls.map((c) => c.call_id)).size, calls.length);
  several += calls.length > 1;
  const helper = await a.responses.stream({ ...ask, parallel_tool_calls: false }).finalResponse();
  assert.deepEqual(callsOf(helper).map((c) => c.parsed_arguments), [one.parsed_arguments]);
}
assert(several > 0);
passed("required tool calls: whole, streamed, several, and by the helper");

for (const name of ["weather", "note"])
  for (const tool_choice of [{ type: "function", name },
    { type: "allowed_tools", mode: "required", tools: [{ type: "function", name }] }]) {
    const r = await a.responses.create({ ...plain, seed: 3, tools, parallel_tool_calls: false, tool_choice });
    assert.deepEqual(callsOf(r).map((c) => c.name), [name]);
    schemas[name].strict().parse(JSON.parse(callsOf(r)[0].arguments));
  }
const none = await a.responses.create({ ...plain, seed: 3, tools, tool_choice: "none", max_output_tokens: 30 });
assert.equal(callsOf(none).length, 0);
passed("a named tool, allowed tools, none");

// a format beside tools: the JSON answer, or calls
for (let seed = 0; seed < 4; seed++) {
  const r = await followed(await a.responses.create({ ...plain, seed, tools, text: { format }, stream: true }));
  assert.equal(r.status, "completed");
  if (callsOf(r).length === 0) Answer.strict().parse(JSON.parse(textOf(r)));
  for (const c of callsOf(r)) schemas[c.name].strict().parse(JSON.parse(c.arguments));
}
passed("a format beside tools");

// a thought first, then the call; and what the function said goes back
const thought = await followed(await a.responses.create({ ...plain, seed: 1, reasoning: undefined, tools, tool_choice: "required",
  parallel_tool_calls: false, chat_template_kwargs: { enable_thinking: true, thinking_budget: 9 }, stream: true }));
assert.deepEqual(thought.output.map((o) => o.type), ["reasoning", "function_call"]);
const call = callsOf(thought)[0];
schemas[call.name].strict().parse(JSON.parse(call.arguments));
assert(thought.usage.output_tokens_details.reasoning_tokens > 9);
const after = await b.responses.parse({ ...plain, seed: 2, previous_response_id: thought.id, tools, tool_choice: "none",
  text: { format }, input: [{ type: "function_call_output", call_id: call.call_id, output: "12 degrees" }] });
Answer.strict().parse(after.output_parsed);
passed("a call after a thought, and a formatted answer to what the function said");

console.log("all passed");
