"""The API of nef infer over a small model whose words are nonsense: that structured output is valid, that answers go on
elsewhere with the same bits, and that hostile clients get clear errors and no memory. With OpenAI's package:
test_infer_js.py."""
import concurrent.futures
import errno
import json
import math
import socket
import subprocess
import time

import jsonschema
import pytest

from lib.chosen import chosen
from lib.infer import Infer


@pytest.fixture(scope="module")
def s():
    with Infer("qwen3-nano-Q8_0") as server:
        yield server


CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 900,
        "chat_template_kwargs": {"enable_thinking": False}}
TREE = {"type": "object", "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 99},
                                         "l": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["v", "l"], "additionalProperties": False}
SCHEMAS = {
    "object": {"type": "object", "properties": {"name": {"type": "string", "minLength": 2, "maxLength": 9},
                                                "n": {"type": "integer", "minimum": -3, "maximum": 12},
                                                "x": {"type": "number", "minimum": 0.5, "maximum": 2},
                                                "b": {"type": "boolean"}, "z": {"type": "null"}},
               "required": ["name", "n", "x", "b", "z"], "additionalProperties": False},
    "array": {"type": "array", "items": {"enum": ["a", 1, None, {"k": [True]}]}, "minItems": 2, "maxItems": 5},
    "formats": {"type": "object", "properties": {"d": {"type": "string", "format": "date"},
                                                 "t": {"type": "string", "format": "date-time"},
                                                 "u": {"type": "string", "format": "uuid"},
                                                 "c": {"const": "ship"}},
                "required": ["d", "t", "u", "c"], "additionalProperties": False},
    "pattern": {"type": "object", "properties": {"p": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}(x|yy)?$"}},
                "required": ["p"], "additionalProperties": False},
    "tree": TREE,
    "defs": {"$defs": {"p": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2,
                             "maxItems": 2}},
             "type": "object", "properties": {"from": {"$ref": "#/$defs/p"}, "to": {"$ref": "#/$defs/p"}},
             "required": ["from", "to"], "additionalProperties": False},
}


def formatted(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}}


def told(events):
    """content, reasoning, calls, finish_reason, ids of a stream's first choice"""
    content, reasoning, calls, finish, ids = "", "", [], None, []
    for e in events:
        if not e["choices"]:
            continue
        c = e["choices"][0]
        content += c["delta"].get("content") or ""
        reasoning += c["delta"].get("reasoning_content") or ""
        ids += c.get("token_ids") or []
        for t in c["delta"].get("tool_calls", []):
            if "id" in t:
                calls.append([t["function"]["name"], ""])
            calls[t["index"]][1] += t["function"]["arguments"]
        finish = c["finish_reason"] or finish
    return content, reasoning, calls, finish, ids


def test_schemas_are_kept_by_all_of_many(s):
    """48 at once with different schemas, and some without: those answer as they do alone."""
    free = dict(CHAT, seed=3, max_tokens=60, temperature=1)
    alone = s.call("/v1/chat/completions", free)[2]["choices"][0]["message"]["content"]

    def one(i):
        if i % 8 == 7:
            return s.call("/v1/chat/completions", free)[2]["choices"][0]["message"]["content"] == alone
        name = list(SCHEMAS)[i % len(SCHEMAS)]
        body = {**CHAT, **formatted(SCHEMAS[name]), "seed": i, "temperature": 1}
        if i % 2:
            text, _, _, finish, _ = told(s.stream("/v1/chat/completions", body))
        else:
            c = s.call("/v1/chat/completions", body)[2]["choices"][0]
            text, finish = c["message"]["content"], c["finish_reason"]
        if finish == "length":          # a tree need not end
            return name == "tree"
        jsonschema.validate(json.loads(text), SCHEMAS[name], format_checker=jsonschema.FormatChecker())
        return True
    with concurrent.futures.ThreadPoolExecutor(48) as pool:
        assert all(pool.map(one, range(96)))


def test_completions_take_a_schema(s):
    a = s.complete("Once", **formatted(SCHEMAS["object"]), max_tokens=300, seed=1)
    jsonschema.validate(json.loads(a["choices"][0]["text"]), SCHEMAS["object"])


TOOLS = [{"type": "function", "function": {"name": "tree", "parameters": {
    "type": "object", "properties": {"t": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3}},
    "required": ["t"], "additionalProperties": False}}},
         {"type": "function", "function": {"name": "obj", "parameters": SCHEMAS["object"], "strict": True}},
         {"type": "function", "function": {"name": "none"}}]
PARAMETERS = {t["function"]["name"]: t["function"].get("parameters", {"type": "object", "maxProperties": 0}) for t in TOOLS}


def test_arguments_are_valid(s):
    names = set()
    for seed in range(24):
        body = {**CHAT, "tools": TOOLS, "tool_choice": "required", "seed": seed, "temperature": 1.5, "max_tokens": 400}
        content, _, calls, finish, _ = told(s.stream("/v1/chat/completions", body))
        assert content == "" and calls
        for name, text in calls if finish == "tool_calls" else calls[:-1]:
            jsonschema.validate(json.loads(text), PARAMETERS[name])
            names.add(name)
    assert names == set(PARAMETERS)


@pytest.mark.parametrize("more", [
    {}, {"temperature": 0, "frequency_penalty": 1, "repetition_penalty": 1.2},
    {**formatted(SCHEMAS["object"]), "temperature": 1},
    {"tools": TOOLS, "tool_choice": "required", "temperature": 1},
    {"thinking_budget": 6, "chat_template_kwargs": {"enable_thinking": True}, "tools": TOOLS, "tool_choice": "required"},
    {"stop": "", "temperature": 1}], ids=["plain", "penalties", "schema", "tools", "thinking", "stop"])
def test_an_answer_goes_on_elsewhere(s, more):
    """After any chunk, from the ids that came: text, calls, ids, the end and the counts are those of the whole."""
    body = {**CHAT, "max_tokens": 70, "seed": 11, **more, "return_token_ids": True,
            "stream_options": {"include_usage": True}}
    if "stop" in body:
        del body["stop"]
        body["max_tokens"] = 500
        text = told(s.stream("/v1/chat/completions", body))[0]
        body["stop"] = ["never said", text[len(text) * 3 // 4:len(text) * 3 // 4 + 5]]
    events = list(s.stream("/v1/chat/completions", body))
    whole, usage = told(events), events[-1]["usage"]
    chunks = [e for e in events if e["choices"]]
    with Infer("qwen3-nano-Q8_0", "--threads", "1") as other:
        for n in {1, 2, len(chunks) // 3, len(chunks) // 2, len(chunks) - 2, len(chunks) - 1} & set(range(1, len(chunks))):
            seen = told(chunks[:n])[4]
            rest = list(other.stream("/v1/chat/completions", {**body, "nef_continue_token_ids": seen}))
            assert told(chunks[:n] + rest) == whole, (n, seen)
            assert {**rest[-1]["usage"], "prompt_tokens_details": 0} == {**usage, "prompt_tokens_details": 0}


def test_ids_that_are_no_beginning_are_refused(s):
    body = {**CHAT, **formatted(SCHEMAS["object"]), "nef_continue_token_ids": [65, 66]}
    status, _, a = s.call("/v1/chat/completions", body)
    assert (status, a["error"]["param"]) == (400, "nef_continue_token_ids")


def test_a_budget_ends_a_thought(s):
    budget = 0
    for seed in range(8):       # some end before
        body = {**CHAT, "chat_template_kwargs": {"enable_thinking": True}, "seed": seed, "max_tokens": 300}
        a = s.call("/v1/chat/completions", {**body, "thinking_token_budget": 8})[2]
        thought = a["choices"][0]["message"]["reasoning_content"]
        reasoning = a["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert reasoning <= a["usage"]["completion_tokens"]
        free = s.call("/v1/chat/completions", body)[2]["choices"][0]["message"].get("reasoning_content") or ""
        assert free[:5] == thought[:5]
        if reasoning > 8:
            assert thought.endswith("based on the thinking directly now.")
            budget += 1
    assert budget > 3


def test_probabilities_of_a_prompt(s):
    """What the prompt's tokens are worth is what they were worth when they were said."""
    a = s.complete("Hello", max_tokens=12, temperature=0, logprobs=3, return_token_ids=True)["choices"][0]
    ids = a["prompt_token_ids"] + a["token_ids"]
    b = s.complete(ids, max_tokens=0, echo=True, logprobs=3)["choices"][0]["logprobs"]
    assert b["token_logprobs"][0] is None
    for x, y in zip(b["token_logprobs"][-12:], a["logprobs"]["token_logprobs"]):
        assert math.isclose(x, y, abs_tol=1e-4)
    assert b["tokens"][-12:] == a["logprobs"]["tokens"]


def test_choices_share_their_prompt(s):
    prompt = "A prefix that all choices of a request share, and that is long enough. " * 8
    a = s.complete(prompt, n=6, max_tokens=8, temperature=1, seed=4, ignore_eos=True)
    assert len({c["text"] for c in a["choices"]}) == 6
    assert a["usage"]["completion_tokens"] == 48
    assert a["usage"]["prompt_tokens"] < 400
    one = s.complete(prompt, max_tokens=8, temperature=1, seed=4, ignore_eos=True)
    assert one["choices"][0]["text"] == a["choices"][0]["text"]
    assert one["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


def test_embeddings():
    with Infer("qwen3-nano-Q8_0", "--pooling", "mean") as mean, Infer("qwen3-nano-Q8_0", "--pooling", "last") as last:
        for server in (mean, last):
            a = server.call("/v1/embeddings", {"input": ["The ship", "The ship", "x"]})[2]
            v = [d["embedding"] for d in a["data"]]
            assert len(v[0]) == 128 and v[0] == v[1] and v[0] != v[2]
            assert all(math.isclose(sum(x * x for x in e), 1, rel_tol=1e-5) for e in v)
            many = server.call("/v1/embeddings", {"input": ["The ship"] + ["y" * (i % 40 + 1) for i in range(300)]})[2]
            assert many["data"][0]["embedding"] == v[0]     # among others as alone
        one = [server.call("/v1/embeddings", {"input": [[65]]})[2]["data"][0]["embedding"] for server in (mean, last)]
        assert one[0] == one[1]                             # of one token
        assert mean.call("/v1/embeddings", {"input": "The ship"})[2]["data"] != last.call(
            "/v1/embeddings", {"input": "The ship"})[2]["data"]


def curl(s, *args):
    return subprocess.run(["curl", "-s", "-m", "60", *args], capture_output=True, timeout=90)


def test_curl(s):
    url = s.url + "/v1/chat/completions"
    body = json.dumps({**CHAT, "max_tokens": 8, "temperature": 0})
    a = json.loads(curl(s, url, "-d", body).stdout)
    stream = curl(s, "-N", url, "-d", body[:-1] + ', "stream": true}').stdout.decode()
    assert stream.endswith("data: [DONE]\n\n")
    text = "".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in stream.splitlines()
                   if line.startswith("data: {"))
    assert text == a["choices"][0]["message"]["content"]
    refused = curl(s, "-w", "%{http_code}", url, "-d", '{"messages": [], "x": 1}').stdout.decode()
    assert refused.endswith("400") and '"error"' in refused
    assert b"# EOF" in curl(s, s.url + "/metrics").stdout
    assert curl(s, "-f", "-d", "{}", s.url + "/v1/embeddings").returncode == 22


def rss_mb(server):
    with open(f"/proc/{server.process.pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) >> 10


def raw(server, data, end=False):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as c:
        try:
            c.sendall(data)
            if end:
                time.sleep(0.2)     # an end that comes with the data is noticed only by the idle timeout
                c.shutdown(socket.SHUT_WR)
            return c.recv(65536)
        except ConnectionError:
            return b""
        except OSError as e:
            assert e.errno == errno.ENOTCONN, e
            return b""


def post(body, path="/v1/chat/completions", more=b""):
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (path.encode(), more, len(body), body)


def test_malformed_requests_are_told(s):
    deep = b"[" * 5000 + b"]" * 5000
    for body in (b"{", b"\xff\xfe", b"null", b"[]", b'{"messages": 1}', b'{"messages": [1]}', b'{"messages": [{}]}',
                 b'{"messages": [{"role": "user", "content": ' + deep + b"}]}", b'{"a": 1, "a": 2}', b'{"messages": [',
                 b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
                 json.dumps({**CHAT, "tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]}).encode(),
                 json.dumps({**CHAT, **formatted({"$ref": "#/$defs/a"})}).encode(),
                 json.dumps({**CHAT, **formatted({"type": "string", "pattern": "(a{1,4000}){1,4000}"})}).encode(),
                 json.dumps({**CHAT, **formatted({"allOf": []})}).encode(),
                 json.dumps({**CHAT, "logit_bias": {str(i): 1 for i in range(2000)}}).encode()):
        got = raw(s, post(body))
        assert got.startswith(b"HTTP/1.1 400"), (body[:80], got[:200])
        error = json.loads(got[got.index(b"{"):])["error"]
        assert error["message"] and error["type"] == "invalid_request_error"
    for garbage in (b"\0" * 1000, b"GET\r\n\r\n", b"POST /v1/completions HTTP/9.9\r\n\r\n", b"A" * 100000 + b"\r\n\r\n",
                    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n"):
        assert not raw(s, garbage, end=True).startswith(b"HTTP/1.1 200")
    assert s.complete("x", max_tokens=1)["choices"]


def test_an_endless_prompt(s):
    """Chunks without an end: told at 8 MiB, and nothing of it is kept."""
    before = rss_mb(s)
    for _ in range(6):
        with socket.create_connection(("127.0.0.1", s.port), timeout=30) as c:
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                      b"10\r\n{\"prompt\": \"aaaa\r\n")
            sent, chunk, got = 0, b"10000\r\n" + b"a" * 65536 + b"\r\n", b""
            try:
                while sent < 64 << 20:
                    c.sendall(chunk)
                    sent += 65536
            except OSError:
                pass
            try:
                got = c.recv(4096)
            except OSError:
                pass
            assert sent < 64 << 20
            assert got == b"" or got.startswith(b"HTTP/1.1 413"), got[:100]
    assert rss_mb(s) - before < 60
    status, _, a = s.call("/v1/completions", {"prompt": "a " * 500000})
    assert (status, a["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("of", chosen("whole", "parts"))
def test_a_thousand_clients_that_vanish(of):
    """Whole requests of every kind, or (they are given up after a minute) parts of them; some stay and are served."""
    with Infer("qwen3-nano-Q8_0") as server:
        kinds = [post(json.dumps(b).encode(), path) for path, b in (
            ("/v1/completions", {"prompt": "Hello", "max_tokens": 900, "ignore_eos": True, "stream": True}),
            ("/v1/completions", {"prompt": ["a", "b"], "n": 4, "max_tokens": 900, "ignore_eos": True, "logprobs": 20}),
            ("/v1/chat/completions", {**CHAT, **formatted(TREE), "stream": True}),
            ("/v1/chat/completions", {**CHAT, "tools": TOOLS, "tool_choice": "required", "n": 3}),
            ("/v1/embeddings", {"input": ["x"] * 500}))]
        for path, b in (("/v1/completions", {"prompt": "x", "max_tokens": 30}), ("/v1/chat/completions", {**CHAT, **formatted(TREE)})):
            server.call(path, b)
        before = rss_mb(server)

        def vanish(i):
            data = kinds[i % len(kinds)]
            c = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            c.sendall(data[:len(data) * (i % 7 + 1) // 5] if of == "parts" else data)
            time.sleep(0.01 * (i % 11))
            if i % 3 == 0:
                c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            c.close()
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            list(pool.map(vanish, range(1000)))
        end = time.monotonic() + 60
        while time.monotonic() < end:
            status, headers, a = server.call("/v1/completions", {"prompt": "Hello", "max_tokens": 4})
            if status == 200:
                break
            assert status == 429 and 1 <= int(headers["Retry-After"]) <= 60
            time.sleep(0.2)
        assert status == 200
        nothing = ["nef_infer_running 0\n", "nef_infer_waiting 0\n", "nef_infer_answer_bytes 0\n", "nef_infer_body_bytes 0\n",
                   "nef_infer_requests_active 1\n"]       # this one
        while True:
            metrics = curl(server, server.url + "/metrics").stdout.decode()
            left = [n for n in nothing if n not in metrics]
            if not left or time.monotonic() > end:
                break
            time.sleep(0.2)
        assert not left
        assert rss_mb(server) - before < 150, (before, rss_mb(server))


def test_tenants_share_and_are_bounded():
    """Behind a gateway: a tenant that floods the queue is told to wait, and another one is served meanwhile."""
    with Infer("qwen3-nano-Q8_0", "--trust-salt", "--slots", "2") as server:
        long = {"prompt": "Hello", "max_tokens": 900, "ignore_eos": True}
        loud, quiet = {"x-nef-cache-salt": "loud"}, {"x-nef-cache-salt": "quiet", "x-nef-weight": "100"}
        statuses = []

        def flood(_):
            status, headers, _ = server.call("/v1/completions", {**long, "n": 8}, loud)
            statuses.append(status)
            if status == 429:
                assert int(headers["Retry-After"]) >= 1
        with concurrent.futures.ThreadPoolExecutor(48) as pool:
            running = [pool.submit(flood, i) for i in range(48)]
            while not statuses:
                time.sleep(0.02)
            start = time.monotonic()
            status, _, _ = server.call("/v1/completions", {"prompt": "Hi", "max_tokens": 8}, quiet)
            took = time.monotonic() - start
            assert status == 200
            busy = sum(not r.done() for r in running)
            server.process.terminate()          # nobody waits for the flood
            time.sleep(0.5)
            server.process.terminate()
        assert 429 in statuses and busy > 10 and took < 10, (statuses[:5], busy, took)
