#!/usr/bin/python3
"""An OpenAI-compatible engine that says what it is told to, and misbehaves in every way that engines do.

    fake_engine.py PORT [MODEL ...]        prints "port N" when it listens (PORT 0: any)

Its answer to a chat or completion is the words w0 w1 w2 ... (max_tokens of them; without that the answer ends
behind w19), one a chunk, so that a lost, doubled or reordered token shows. A chat that goes on
(continue_final_message) or a completion whose prompt ends with such words goes on behind the last one. What the
user's message says changes that: FORMAT makes it JSON where response_format asks for it; THINK puts half of the words into reasoning_content, TOOL makes them the argument
of a tool call; continued, the rest of both comes as plain text, as with vLLM's parsers.

POST /control {"mode", "after", "times", "delay", "first_delay"} sets how it fails: the next TIMES requests, each
behind AFTER words.
  ok            doesn't
  cut           closes the connection           end        ends the stream without an end
  garbage       an event that isn't JSON        nonsense   JSON that is no chunk
  html          another kind of answer, 200     huge       an event of 8 MiB
  error         an error event                  status     an HTTP status (AFTER is it)
  stall         says nothing any more           silent     takes the request and never answers
DELAY: seconds between words, FIRST_DELAY: before the first. GET /control tells what it has seen. /health answers
unless {"health": false}."""
import asyncio
import json
import re
import sys

STATE = {"mode": "ok", "after": 0, "times": 0, "delay": 0.0, "first_delay": 0.0, "health": True, "token_ids": False}
SEEN = {"requests": 0, "bodies": [], "headers": [], "open": 0, "open_max": 0}
MODELS = ["fake"]


def words_behind(text):
    """How many words TEXT (an answer so far) has; where it stops inside one, the rest of that."""
    return len(re.findall(r"w\d+ ", text))


def rest_of_tool(text, total):
    """The raw text that completes an unfinished <tool_call>."""
    done = words_behind(text)
    return "".join(f"w{i} " for i in range(done, total)) + '"}}\n</tool_call>'


def formatted(body, user, so_far, half):
    """FORMAT: an answer that is JSON only if response_format asks for it, as an engine with a grammar gives it. The grammar knows
    nothing of what the message holds already: asked for in the middle of the answer it begins anew. In the middle of a thought it
    waits for its end, or with EAGER doesn't see that there is one."""
    answer = json.dumps({"text": "".join(f"w{i} " for i in range(10))}) if "response_format" in body else "not JSON at all"
    pieces = re.findall(r".{1,4}", answer)
    if so_far and "<think>" in so_far and "</think>" not in so_far:
        thought = "".join(f"w{i} " for i in range(words_behind(so_far), half)) + "\n</think>\n\n"
        thought = [] if "EAGER" in user and "response_format" in body else re.findall(r".{1,5}", thought, re.S)
        return [("content", p) for p in thought + pieces]
    if so_far:
        given = so_far.split("</think>\n\n")[-1]
        if "response_format" not in body:
            answer = json.dumps({"text": "".join(f"w{i} " for i in range(10))})
            assert answer.startswith(given)
            answer = answer[len(given):]
        return [("content", p) for p in re.findall(r".{1,4}", answer)]
    return [("reasoning", f"w{i} ") for i in range(half)] + [("content", p) for p in pieces]


def plan(body, chat):
    """Deltas of the answer: (kind, text); kind: content, reasoning, call (id and name), arguments; or raw text."""
    asked = body.get("max_tokens") or body.get("max_completion_tokens")
    if not chat:
        start = words_behind(body["prompt"]) if isinstance(body["prompt"], str) else 0
        total = asked or 20 - start
        return [("content", f"w{i} ") for i in range(start, start + total)]
    messages = body["messages"]
    user = next(m["content"] for m in messages if m["role"] == "user")
    tool, think = "TOOL" in user, "THINK" in user
    so_far = messages[-1]["content"] if body.get("continue_final_message") else ""
    done = words_behind(so_far)
    end = done + asked if asked else 20
    if "FORMAT" in user:
        return formatted(body, user, so_far, int(re.search(r"THINK(\d+)", user).group(1)) if think else 0)
    if tool:
        n = int(re.search(r"TOOL(\d*)", user).group(1) or 10)
        if "<tool_call>" in so_far:
            text = rest_of_tool(so_far, n)
            return [("content", p) for p in re.findall(r".{1,7}", text, re.S)]
        return ([("call", "")] + [("arguments", '{"text": "')] +
                [("arguments", f"w{i} ") for i in range(n)] + [("arguments", '"}')])
    if think:
        half = int(re.search(r"THINK(\d*)", user).group(1) or 10)
        if so_far and "</think>" not in so_far:
            text = "".join(f"w{i} " for i in range(done, half)) + "\n</think>\n\n"
            return ([("content", p) for p in re.findall(r".{1,5}", text, re.S)] +
                    [("content", f"w{i} ") for i in range(half, end)])
        return [("reasoning" if i < half else "content", f"w{i} ") for i in range(done, end)]
    return [("content", f"w{i} ") for i in range(done, end)]


def chunk_of(chat, kind, text, finish=None, index=0):
    if not chat:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
    else:
        delta = {"content": {"content": text}, "reasoning": {"reasoning_content": text}, "none": {},
                 "role": {"role": "assistant", "content": ""},
                 "call": {"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                                          "function": {"name": "say", "arguments": ""}}]},
                 "arguments": {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}}[kind]
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "fake-1", "object": "chat.completion.chunk" if chat else "text_completion", "created": 1,
            "model": "fake", "choices": [choice]}


class Connection:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def run(self):
        try:
            while await self.request():
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self.writer.close()

    async def request(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:] if ":" in line)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        if path == "/health":
            if not STATE["health"]:
                await asyncio.sleep(3600)
            return self.answer(200, {"status": "ok"})
        if path == "/v1/models":
            return self.answer(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in MODELS]})
        if path == "/control":
            if method == "POST":
                STATE.update(json.loads(body))
                SEEN.update(requests=0, bodies=[], headers=[], open_max=SEEN["open"])
            return self.answer(200, {**STATE, **SEEN})
        if path == "/v1/embeddings":
            return self.answer(200, {"object": "list", "data": [{"object": "embedding", "index": 0,
                                                                 "embedding": [0.5, -1.0]}],
                                     "model": "fake", "usage": {"prompt_tokens": 3, "total_tokens": 3}})
        SEEN["requests"] += 1
        if len(SEEN["bodies"]) < 64:
            SEEN["bodies"].append(json.loads(body))
            SEEN["headers"].append(headers)
        SEEN["open"] += 1
        SEEN["open_max"] = max(SEEN["open_max"], SEEN["open"])
        try:
            return await self.generate(json.loads(body), path == "/v1/chat/completions")
        finally:
            SEEN["open"] -= 1

    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.writer.write(b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                          % (status, len(data), data))
        return True

    def piece(self, data):
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, value):
        self.piece(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")

    async def generate(self, body, chat):
        mode = "ok"
        if STATE["mode"] != "ok" and STATE["times"] > 0:
            STATE["times"] -= 1
            mode = STATE["mode"]
        after = STATE["after"]
        if mode == "status":
            return self.answer(after, {"error": {"message": "as told", "type": "t", "param": None, "code": "told"}})
        if mode == "silent":
            await asyncio.sleep(3600)
        if mode == "html":
            self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
            return True
        if STATE["first_delay"]:
            await asyncio.sleep(STATE["first_delay"])
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        deltas = plan(body, chat)
        if chat:
            self.event(chunk_of(chat, "role", ""))
        for n, (kind, text) in enumerate(deltas):
            if mode != "ok" and n == after:
                if not await self.misbehave(mode, chat):
                    return False
            self.event(chunk_of(chat, kind, text))
            if self.writer.is_closing():
                return False
            if STATE["delay"]:
                await self.writer.drain()
                await asyncio.sleep(STATE["delay"])
            elif n % 100 == 99:
                await self.writer.drain()
                await asyncio.sleep(0)
        called = bool(deltas) and deltas[0][0] == "call"
        asked = body.get("max_tokens") or body.get("max_completion_tokens")
        self.event(chunk_of(chat, "none", "", "tool_calls" if called else "length" if asked else "stop"))
        prompt = 7
        if body.get("continue_final_message"):
            prompt += words_behind(body["messages"][-1]["content"])
        elif not chat:
            prompt += words_behind(body["prompt"])
        self.event({"id": "fake-1", "object": "x", "created": 1, "model": "fake", "choices": [],
                    "usage": {"prompt_tokens": prompt, "completion_tokens": len(deltas),
                              "total_tokens": prompt + len(deltas)}})
        self.event(b"[DONE]")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True

    async def misbehave(self, mode, chat):
        await self.writer.drain()
        if mode == "cut":
            self.writer.transport.abort()
        elif mode == "end":
            self.writer.write(b"0\r\n\r\n")
        elif mode == "garbage":
            self.event(b'{"id": "x", "choices": [{"index"')
        elif mode == "nonsense":
            self.event({"choices": [{"index": 0, "delta": {"content": 7}, "text": 7}]})
        elif mode == "huge":
            self.event(b'"' + b"x" * (8 << 20) + b'"')
        elif mode == "error":
            self.event({"error": {"message": "CUDA error", "type": "InternalServerError", "code": 500}})
        elif mode == "stall":
            await asyncio.sleep(3600)
        await self.writer.drain()
        return False


async def main():
    if len(sys.argv) > 2:
        MODELS[:] = sys.argv[2:]
    server = await asyncio.start_server(lambda r, w: Connection(r, w).run(), "127.0.0.1", int(sys.argv[1]),
                                        limit=1 << 20, backlog=4096)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()

if __name__ == "__main__":
    asyncio.run(main())
