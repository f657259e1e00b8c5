// A stream whose zone is killed, and the client with its connection: it comes back through the front and misses nothing.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import OpenAI from "openai";

const { ZONE, VICTIM, FRONT, KEY, NEF, DIR, MODEL, INPUT, AFTER, WANT, EXTRA, PID } = process.env;
const client = (url, maxRetries) => new OpenAI({ baseURL: url + "/v1", apiKey: KEY, maxRetries });
const request = { model: MODEL, input: INPUT, ...JSON.parse(EXTRA ?? "{}") };
const begun = [];
let killed;
try {
  for await (const e of await client(ZONE, 0).responses.create({ ...request, stream: true })) {
    begun.push(e);
    if (begun.length === Number(AFTER)) {
      killed = performance.now();
      if (PID) process.kill(Number(PID), "SIGKILL"); // at once; then it is kept away
      execFileSync(NEF, ["zone-stop", "--dir", DIR, VICTIM, "--kill"], { stdio: "ignore" });
    }
  }
} catch (e) {
  assert(killed, e); // what a killed process does to a connection
}
assert(killed, "the answer was over before the zone was killed");
const ends = ["response.completed", "response.incomplete"]; // incomplete: it had as many tokens as it may
if (ends.includes(begun.at(-1).type)) {
  console.log("too late"); // it had been made, and was on its way
  process.exit(3);
}
const id = begun[0].response.id, rest = [];
let pause;
const again = await client(FRONT, 5).responses.retrieve(id, { stream: true, starting_after: begun.at(-1).sequence_number });
for await (const e of again) {
  pause ??= performance.now() - killed;
  rest.push(e);
}
const all = [...begun, ...rest];
assert.deepEqual(all.map((e) => e.sequence_number), all.map((_, i) => i));
assert(ends.includes(all.at(-1).type) && all.at(-1).response.status !== "cancelled");
const text = all.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");
if (WANT !== undefined)
  assert.equal(text, WANT);
assert.equal(all.at(-1).response.output_text ?? text, text);
const replay = [];
for await (const e of await client(FRONT, 5).responses.retrieve(id, { stream: true })) replay.push(e);
assert.deepEqual(replay, all);
console.log(JSON.stringify({ pause_ms: Math.round(pause), events: all.length, before: begun.length, text,
  usage: all.at(-1).response.usage }));
console.log("all passed");
