"""The OpenAI-compatible server over HTTP, with an engine that says what the prompt tells it to (fake_infer.c).
Usage: api_test.py FAKE_INFER."""
import base64
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

FAKE = os.path.abspath(sys.argv.pop(1))


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Server:
    def __init__(self, slots=4, waiting=64, *more, unix=None):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([FAKE, f"unix:{unix}" if unix else "0", str(slots), str(waiting), *more],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("port "), line
        self.port, self.unix = int(line.split()[1]), unix

    def connect(self):
        return UnixConnection(self.unix) if self.unix else http.client.HTTPConnection("127.0.0.1", self.port,
                                                                                      timeout=20)

    def call(self, method, path, body=None, headers=None, connection=None):
        """(status, headers, parsed JSON)"""
        c = connection or self.connect()
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        c.request(method, path, data, headers or {})
        a = c.getresponse()
        text = a.read()
        if connection is None:
            c.close()
        return a.status, a.headers, json.loads(text) if text else None

    def complete(self, prompt, **more):
        status, _, answer = self.call("POST", "/v1/completions", {"prompt": prompt, **more})
        assert status == 200, answer
        return answer

    def stream(self, path, body, connection=None):
        c = connection or self.connect()
        c.request("POST", path, json.dumps({**body, "stream": True}))
        a = c.getresponse()
        assert a.status == 200, a.read()
        assert a.headers["Content-Type"].startswith("text/event-stream"), a.headers
        try:
            yield from events(a)
        finally:
            a.close()
            c.close()

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) // 1024

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process.stdout.close()
        self.log.seek(0)
        text = self.log.read().decode()
        self.log.close()
        assert code == 0, (code, text[-2000:])
        return text


def events(answer):
    """Parsed data of each event, [DONE] as a string; each event whole UTF-8 by itself."""
    data = b""
    while True:
        piece = answer.read1(65536)
        if not piece:
            assert data == b"", data
            return
        data += piece
        while b"\n\n" in data:
            event, data = data.split(b"\n\n", 1)
            assert event.startswith(b"data: "), event
            text = event[6:].decode("utf-8")
            yield text if text == "[DONE]" else json.loads(text)


def say(text, more=""):
    return f"say[[{text}]]{more}"


def chat(text, **more):
    return {"messages": [{"role": "user", "content": text}], "chat_template_kwargs": {"enable_thinking": False}, **more}


class Base(unittest.TestCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.s = Server(*cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()


class Answers(Base):
    def test_health_and_models(self):
        self.assertEqual(self.s.call("GET", "/health")[::2], (200, {"status": "ok"}))
        status, headers, models = self.s.call("GET", "/v1/models")
        self.assertEqual((status, models["object"], models["data"][0]["id"]), (200, "list", "fake"))
        self.assertEqual(models["data"][0]["meta"]["n_ctx"], 65536)
        self.assertEqual(self.s.call("GET", "/v1/models/f%61ke")[2]["id"], "fake")
        self.assertEqual(self.s.call("GET", "/v1/models/other")[0], 404)
        self.assertEqual(self.s.call("GET", "/v1/nothing")[2]["error"]["code"], "unknown_url")
        status, headers, _ = self.s.call("GET", "/v1/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST"))
        c = self.s.connect()
        c.request("HEAD", "/health")
        self.assertEqual((c.getresponse().status), 200)
        c.close()

    def test_completion(self):
        a = self.s.complete(say("hello"), model="fake", return_token_ids=True)
        choice = a["choices"][0]
        self.assertEqual((choice["text"], choice["finish_reason"], choice["logprobs"]), ("hello", "stop", None))
        self.assertEqual(bytes(choice["token_ids"]), b"hello")
        self.assertEqual(bytes(choice["prompt_token_ids"]), b"say[[hello]]")
        self.assertEqual(a["usage"]["completion_tokens"], 5)
        self.assertEqual(a["usage"]["total_tokens"], 5 + len("say[[hello]]"))
        self.assertEqual(a["usage"]["prompt_tokens_details"], {"cached_tokens": 0})
        self.assertTrue(a["id"].startswith("cmpl-"))
        self.assertEqual(a["object"], "text_completion")
        self.assertEqual(self.s.complete(list(b"say[[ids]]"))["choices"][0]["text"], "ids")
        a = self.s.complete(say("hello"), max_tokens=3)
        self.assertEqual((a["choices"][0]["text"], a["choices"][0]["finish_reason"]), ("hel", "length"))

    def test_many_prompts(self):
        a = self.s.complete([say(f"answer {i}") for i in range(20)])
        self.assertEqual([c["text"] for c in a["choices"]], [f"answer {i}" for i in range(20)])
        self.assertEqual([c["index"] for c in a["choices"]], list(range(20)))
        a = self.s.complete([list(b"say[[a]]"), list(b"say[[b]]")])
        self.assertEqual([c["text"] for c in a["choices"]], ["a", "b"])
        texts = [""] * 8
        for event in self.s.stream("/v1/completions", {"prompt": [say(f"text {i}", "slow[[2]]") for i in range(8)]}):
            if event != "[DONE]":
                texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        self.assertEqual(texts, [f"text {i}" for i in range(8)])
        self.assertEqual(self.s.call("POST", "/v1/completions", {"prompt": ["x"] * 65})[0], 400)

    def test_echo(self):
        self.assertEqual(self.s.complete(say("b"), echo=True)["choices"][0]["text"], "say[[b]]b")
        self.assertEqual(self.s.complete(say("b"), echo=True, max_tokens=0)["choices"][0]["text"], "say[[b]]")
        self.assertEqual(self.s.complete(list(b"say[[b]]"), echo=True)["choices"][0]["text"], "say[[b]]b")
        got = "".join(e["choices"][0]["text"] for e in self.s.stream("/v1/completions", {"prompt": say("b"),
                                                                                         "echo": True})
                      if e != "[DONE]")
        self.assertEqual(got, "say[[b]]b")

    def test_stream(self):
        got = list(self.s.stream("/v1/completions", {"prompt": say("hello you"),
                                                     "stream_options": {"include_usage": True},
                                                     "return_token_ids": True}))
        self.assertEqual(got.pop(), "[DONE]")
        usage = got.pop()
        self.assertEqual((usage["choices"], usage["usage"]["completion_tokens"]), ([], 9))
        self.assertTrue(all(e["usage"] is None for e in got))
        self.assertEqual("".join(e["choices"][0]["text"] for e in got), "hello you")
        self.assertEqual([e["choices"][0]["finish_reason"] for e in got if e["choices"][0]["finish_reason"]], ["stop"])
        self.assertEqual(bytes(i for e in got for i in e["choices"][0]["token_ids"]), b"hello you")
        self.assertEqual(bytes(i for e in got for i in e["choices"][0].get("prompt_token_ids", [])),
                         b"say[[hello you]]")
        self.assertEqual(len({e["id"] for e in got}), 1)

    def test_first_text_comes_before_the_last(self):
        start = time.monotonic()
        at = [time.monotonic() - start for _ in self.s.stream("/v1/completions", {"prompt": say("0123456789",
                                                                                                "slow[[50]]")})]
        self.assertLess(at[0], 0.3)
        self.assertGreater(at[-1], 0.45)
        self.assertGreater(len(at), 8)

    def test_characters_are_never_split(self):
        text = "a\u20ac\U0001f600\u00e9 z" * 20
        for kind, body in (("completions", {"prompt": say(text, "slow[[1]]")}),
                           ("chat/completions", chat(say(text, "slow[[1]]")))):
            pieces = []
            for e in self.s.stream("/v1/" + kind, body):     # events() decodes each one by itself
                if e != "[DONE]":
                    c = e["choices"][0]
                    pieces.append(c["text"] if "text" in c else c["delta"].get("content") or "")
            self.assertEqual("".join(pieces), text)
            self.assertGreater(len(pieces), 20)
            self.assertNotIn("\ufffd", "".join(pieces))

    def test_stop(self):
        for stop in ("STOP", ["nothing", "STOP"]):
            for stream in (False, True):
                body = {"prompt": say("one two STOP three"), "stop": stop}
                if stream:
                    got = [e["choices"][0] for e in self.s.stream("/v1/completions", body) if e != "[DONE]"]
                    text, reason = "".join(c["text"] for c in got), got[-1]["finish_reason"]
                else:
                    choice = self.s.complete(**body)["choices"][0]
                    text, reason = choice["text"], choice["finish_reason"]
                self.assertEqual((text, reason), ("one two ", "stop"))
        self.assertEqual(self.s.complete(say("a STO"), stop="STOP")["choices"][0]["text"], "a STO")
        a = self.s.complete(say("abSTOPxyz"), stop="STOP", return_token_ids=True)
        self.assertEqual(bytes(a["choices"][0]["token_ids"]), b"abSTOP")
        self.assertEqual(a["usage"]["completion_tokens"], 6)

    def test_chat(self):
        status, _, a = self.s.call("POST", "/v1/chat/completions", chat(say("Bonjour"), return_token_ids=True))
        self.assertEqual(status, 200, a)
        message = a["choices"][0]["message"]
        self.assertEqual((message["role"], message["content"]), ("assistant", "Bonjour"))
        self.assertNotIn("reasoning_content", message)
        self.assertEqual(bytes(a["choices"][0]["token_ids"]), b"Bonjour")
        self.assertEqual(a["prompt_token_ids"][0], 256)
        self.assertTrue(a["id"].startswith("chatcmpl-"))
        got = list(self.s.stream("/v1/chat/completions", {"messages": [
            {"role": "user", "content": say("<think>\nhm\n</think>\n\nyes")}]}))
        self.assertEqual(got.pop(), "[DONE]")
        self.assertEqual(got[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        deltas = [e["choices"][0]["delta"] for e in got]
        self.assertEqual("".join(d.get("reasoning_content", "") for d in deltas), "hm")
        self.assertEqual("".join(d.get("content", "") for d in deltas), "yes")
        self.assertEqual(got[-1]["choices"][0]["finish_reason"], "stop")

    def test_chat_that_continues(self):
        body = {"messages": [{"role": "user", "content": say(" to be")}, {"role": "assistant", "content": "Not"}],
                "continue_final_message": True}
        a = self.s.call("POST", "/v1/chat/completions", body)[2]
        self.assertEqual(a["choices"][0]["message"]["content"], " to be")
        self.assertNotIn("reasoning_content", a["choices"][0]["message"])

    TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}}}}]
    CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Orl\u00e9ans"}}\n</tool_call>'

    def test_tool_calls(self):
        a = self.s.call("POST", "/v1/chat/completions", chat(say(self.CALL), tools=self.TOOLS))[2]
        choice = a["choices"][0]
        self.assertEqual((choice["finish_reason"], choice["message"]["content"]), ("tool_calls", None))
        call = choice["message"]["tool_calls"][0]
        self.assertEqual((call["type"], call["function"]["name"]), ("function", "weather"))
        self.assertEqual(json.loads(call["function"]["arguments"]), {"city": "Orl\u00e9ans"})
        pieces, ids = "", []
        for e in self.s.stream("/v1/chat/completions", chat(say(self.CALL, "slow[[1]]"), tools=self.TOOLS)):
            if e != "[DONE]":
                for c in e["choices"][0]["delta"].get("tool_calls", []):
                    pieces += c["function"]["arguments"]
                    ids += [c["id"]] if "id" in c else []
                reason = e["choices"][0]["finish_reason"]
        self.assertEqual((json.loads(pieces), len(ids), reason), ({"city": "Orl\u00e9ans"}, 1, "tool_calls"))
        # with tools, and none to be used
        a = self.s.call("POST", "/v1/chat/completions", chat(say(self.CALL), tools=self.TOOLS, tool_choice="none"))[2]
        self.assertEqual(a["choices"][0]["finish_reason"], "stop")
        self.assertIn("<tool_call>", a["choices"][0]["message"]["content"])

    def test_choices(self):
        a = self.s.complete([say("one"), say("two", "asked[[]]")], n=3, seed=5)
        self.assertEqual([c["index"] for c in a["choices"]], list(range(6)))
        self.assertEqual([c["text"] for c in a["choices"][:3]], ["one"] * 3)
        seeds = [c["text"].split()[0] for c in a["choices"][3:]]
        self.assertEqual((seeds[0], len(set(seeds))), ("seed=5", 3))
        self.assertEqual(seeds, [c["text"].split()[0] for c in self.s.complete(say("two", "asked[[]]"), n=3, seed=5)["choices"]])
        # what choices share is counted once
        self.assertEqual(a["usage"]["prompt_tokens"], len(say("one")) + len(say("two", "asked[[]]")))
        texts, reasons = [""] * 4, [None] * 4
        for e in self.s.stream("/v1/chat/completions", chat(say("abc", "slow[[1]]"), n=4, return_token_ids=True)):
            if e != "[DONE]":
                c = e["choices"][0]
                texts[c["index"]] += c["delta"].get("content") or ""
                reasons[c["index"]] = c["finish_reason"]
        self.assertEqual((texts, reasons), (["abc"] * 4, ["stop"] * 4))

    def test_what_the_engine_is_asked(self):
        a = self.s.complete("asked[[]]", seed=1, presence_penalty=0.5, frequency_penalty=-1, repetition_penalty=1.25,
                            logit_bias={"3": -100, "260": 2.5})
        self.assertEqual(a["choices"][0]["text"],
                         "seed=1 presence=0.5 frequency=-1 repetition=1.25 bias=3:-100,260:2.5, grammar=0 budget=0/0")
        for more, grammar in (({}, 0), ({"tools": self.TOOLS}, 1), ({"tools": self.TOOLS, "tool_choice": "none"}, 0),
                              ({"tools": self.TOOLS, "tool_choice": "required"}, 1),
                              ({"response_format": {"type": "json_object"}}, 1),
                              ({"response_format": {"type": "text"}}, 0)):
            a = self.s.call("POST", "/v1/chat/completions", chat("asked[[]]", **more))[2]
            self.assertIn(f"grammar={grammar}", a["choices"][0]["message"]["content"], more)

    def test_logprobs_of_completions(self):
        a = self.s.complete(say("ab\u20ac"), logprobs=2)["choices"][0]["logprobs"]
        self.assertEqual(a["tokens"], ["a", "b", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"])
        self.assertEqual(a["token_logprobs"], [-b / 64 for b in b"ab\xe2\x82\xac"])
        self.assertEqual(a["top_logprobs"][0], {"b": -98 / 64, "c": -99 / 64, "a": -97 / 64})
        self.assertEqual(a["text_offset"], [0, 1, 2, 2, 2])
        a = self.s.complete(say("ab"), logprobs=0)["choices"][0]["logprobs"]
        self.assertEqual(a["top_logprobs"], [{"a": -97 / 64}, {"b": -98 / 64}])
        # echoed: the prompt's own come first, and nothing is known of its first token
        prompt = say("x\u00e9y")
        for body in ({"echo": True}, {"echo": True, "max_tokens": 0}):
            a = self.s.complete(prompt, logprobs=1, return_token_ids=True, **body)
            said = "" if "max_tokens" in body else "x\u00e9y"
            c, data = a["choices"][0], (prompt + said).encode()
            self.assertEqual(c["text"], prompt + said)
            self.assertEqual(len(c["logprobs"]["tokens"]), len(data))
            self.assertEqual(c["logprobs"]["token_logprobs"], [None] + [-b / 64 for b in data[1:]])
            self.assertEqual(c["logprobs"]["top_logprobs"][0], None)
            self.assertEqual(bytes(c["token_ids"]).decode(), said)
            self.assertEqual(a["usage"]["completion_tokens"], len(said.encode()))
            self.assertEqual(c["logprobs"]["text_offset"][-1], len(prompt + said) - 1)
        whole = self.s.complete(prompt, logprobs=3, echo=True)["choices"][0]
        got = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        text = ""
        for e in self.s.stream("/v1/completions", {"prompt": prompt + "slow[[1]]", "logprobs": 3, "echo": True}):
            if e != "[DONE]":
                text += e["choices"][0]["text"]
                for k, v in (e["choices"][0]["logprobs"] or {}).items():
                    got[k] += v
        self.assertEqual(text, prompt + "slow[[1]]x\u00e9y")
        self.assertEqual(len(got["tokens"]), len(text.encode()))
        self.assertEqual(got["tokens"][-4:], whole["logprobs"]["tokens"][-4:])
        data = text.encode()        # whole characters before each byte
        self.assertEqual(got["text_offset"], [len(data[:i].decode(errors="ignore")) for i in range(len(data))])

    def test_logprobs_of_chats(self):
        want = [{"token": "\\xe2", "bytes": [0xe2], "logprob": -0xe2 / 64,
                 "top_logprobs": [{"token": "\\xe3", "bytes": [0xe3], "logprob": -0xe3 / 64}]},
                {"token": "\\x82", "bytes": [0x82], "logprob": -0x82 / 64,
                 "top_logprobs": [{"token": "\\x83", "bytes": [0x83], "logprob": -0x83 / 64}]}]
        a = self.s.call("POST", "/v1/chat/completions", chat(say("\u20aca"), logprobs=True, top_logprobs=1))[2]
        content = a["choices"][0]["logprobs"]["content"]
        self.assertEqual(content[:2], want)
        self.assertEqual(content[3]["token"], "a")
        self.assertIsNone(a["choices"][0]["logprobs"]["refusal"])
        streamed, text = [], ""
        for e in self.s.stream("/v1/chat/completions", chat(say("\u20aca", "slow[[1]]"), logprobs=True, top_logprobs=1)):
            if e != "[DONE]":
                c = e["choices"][0]
                text += c["delta"].get("content") or ""
                streamed += (c["logprobs"] or {}).get("content", [])
        self.assertEqual((streamed, text), (content, "\u20aca"))
        # of tokens that show no text, too
        got = [e["choices"][0] for e in self.s.stream("/v1/chat/completions", chat(say(self.CALL), tools=self.TOOLS,
                                                                                   logprobs=True)) if e != "[DONE]"]
        names = "".join(t["token"] for c in got for t in (c["logprobs"] or {}).get("content", []))
        self.assertEqual(names, self.CALL.replace("\u00e9", "\\xc3\\xa9"))

    def test_reasoning_is_counted(self):
        thought = "<think>\nhm\n</think>"
        for stream in (False, True):
            body = {"messages": [{"role": "user", "content": say(thought + "\n\nyes")}]}
            if stream:
                usage = [e for e in self.s.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
                         if e != "[DONE]"][-1]["usage"]
            else:
                usage = self.s.call("POST", "/v1/chat/completions", body)[2]["usage"]
            self.assertEqual(usage["completion_tokens_details"], {"reasoning_tokens": len(thought)})
            self.assertEqual(usage["completion_tokens"], len(thought) + 5)

    def test_a_call_that_is_cut_off(self):
        cut = self.CALL.index("Orl") + 2
        a = self.s.call("POST", "/v1/chat/completions", chat(say(self.CALL), tools=self.TOOLS, max_tokens=cut))[2]
        call = a["choices"][0]["message"]["tool_calls"][0]["function"]
        self.assertEqual((a["choices"][0]["finish_reason"], call["arguments"]), ("length", '{"city": "Or'))
        self.assertIsNone(a["choices"][0]["message"]["content"])

    def follow(self, body, seen=None):
        """(ids, what came with them) of each chunk; what was said in all"""
        chunks = []
        for e in self.s.stream("/v1/chat/completions", {**body, "return_token_ids": True,
                                                         "stream_options": {"include_usage": True},
                                                         **({} if seen is None else {"nef_continue_token_ids": seen})}):
            if e == "[DONE]":
                continue
            if not e["choices"]:
                usage = e["usage"]
                continue
            c, said = e["choices"][0], []
            d = c["delta"]
            for k in ("role", "content", "reasoning_content"):
                if d.get(k):
                    said.append((k, d[k]))
            for t in d.get("tool_calls", []):
                if "id" in t:
                    said.append(("call", t["index"], t["function"]["name"]))
                if t["function"]["arguments"]:
                    said.append(("arguments", t["index"], t["function"]["arguments"]))
            if c["finish_reason"]:
                said.append(("finish", c["finish_reason"]))
            chunks.append((c["token_ids"], said))
        return chunks, usage

    @staticmethod
    def joined(chunks):
        out = []
        for _, said in chunks:
            for s in said:
                if out and out[-1][:-1] == s[:-1] and s[0] in ("content", "reasoning_content", "arguments"):
                    out[-1] = out[-1][:-1] + (out[-1][-1] + s[-1],)
                else:
                    out.append(s)
        return out

    def test_a_stream_goes_on_elsewhere(self):
        """With the ids of the chunks that came: not a byte more or less than what was missing."""
        text = "<think>\nwhy\n\n</think>\n\nWait \u20ac <tool \n\n" + self.CALL + "\n" + self.CALL
        body = {"messages": [{"role": "user", "content": say(text, "slow[[1]]")}], "tools": self.TOOLS,
                "stop": ["never", "Wait for"]}
        whole, usage = self.follow(body)
        want = self.joined(whole)
        self.assertEqual(want[-1], ("finish", "tool_calls"))
        self.assertEqual(bytes(i for ids, _ in whole for i in ids).decode(), text)
        self.assertGreater(len(whole), 40)
        for n in range(1, len(whole), 3):
            seen = [i for ids, _ in whole[:n] for i in ids]
            rest, again = self.follow(body, seen)
            self.assertEqual(self.joined(whole[:n] + rest), want, seen)
            self.assertEqual([i for ids, _ in whole[:n] + rest for i in ids], list(text.encode()))
            self.assertEqual({**again, "prompt_tokens_details": 0}, {**usage, "prompt_tokens_details": 0})
        # a stop string that begins before the border, and the limit that counts from the beginning
        for more, reason in (({"stop": "cd"}, "stop"), ({"max_tokens": 3}, "length")):
            body = chat(say("abcde", "slow[[1]]"), **more)
            whole, _ = self.follow(body)
            for n in range(1, len(whole)):
                rest, _ = self.follow(body, [i for ids, _ in whole[:n] for i in ids])
                self.assertEqual(self.joined(whole[:n] + rest), self.joined(whole))
            self.assertEqual(self.joined(whole)[-1], ("finish", reason))
        # a whole answer has everything, since nothing of it was given
        a = self.s.call("POST", "/v1/chat/completions", chat(say("abcde"), nef_continue_token_ids=list(b"abc")))[2]
        self.assertEqual((a["choices"][0]["message"]["content"], a["usage"]["completion_tokens"]), ("abcde", 5))
        # several choices, one of which has ended
        got = {}
        for e in self.s.stream("/v1/completions", {"prompt": say("abcde"), "n": 3,
                                                   "nef_continue_token_ids": [list(b"ab"), None, []]}):
            if e != "[DONE]":
                c = e["choices"][0]
                got[c["index"]] = got.get(c["index"], "") + c["text"]
        self.assertEqual(got, {0: "cde", 2: "abcde"})

    def test_embeddings(self):
        status, _, a = self.s.call("POST", "/v1/embeddings", {"model": "fake", "input": "abc"})
        self.assertEqual(status, 200, a)
        # four tokens (three and the end), "a", the end, pooling "last" (3); of length 1
        raw = [4.0, 97.0, 258.0, 3.0]
        length = sum(x * x for x in raw) ** 0.5
        self.assertEqual((a["object"], a["data"][0]["object"], a["data"][0]["index"], a["model"]),
                         ("list", "embedding", 0, "fake"))
        for got, want in zip(a["data"][0]["embedding"], raw):
            self.assertAlmostEqual(got, want / length, 6)
        self.assertEqual(a["usage"], {"prompt_tokens": 4, "total_tokens": 4})
        b = self.s.call("POST", "/v1/embeddings", {"input": "abc", "encoding_format": "base64"})[2]
        self.assertEqual(list(struct.unpack("<4f", base64.b64decode(b["data"][0]["embedding"]))),
                         [struct.unpack("<f", struct.pack("<f", x))[0] for x in a["data"][0]["embedding"]])
        short = self.s.call("POST", "/v1/embeddings", {"input": [[97, 98, 99, 258]], "dimensions": 2})[2]
        self.assertAlmostEqual(sum(x * x for x in short["data"][0]["embedding"]), 1, 6)
        self.assertAlmostEqual(short["data"][0]["embedding"][0] / short["data"][0]["embedding"][1], 4 / 97, 6)
        # far more inputs than slots and queue hold
        many = self.s.call("POST", "/v1/embeddings", {"input": ["x" * (i % 50 + 1) for i in range(700)]})[2]
        self.assertEqual([d["index"] for d in many["data"]], list(range(700)))
        self.assertEqual(many["data"][0]["embedding"], many["data"][50]["embedding"])
        for body, param in (({"input": "x", "dimensions": 5}, "dimensions"), ({"input": ""}, None),
                            ({"input": ["x"] * 2049}, "input"), ({"input": "x" * 65536}, "input")):
            status, _, a = self.s.call("POST", "/v1/embeddings", body)
            if param is None:       # the end token alone is a prompt
                self.assertEqual(status, 200)
            else:
                self.assertEqual((status, a["error"]["param"]), (400, param))
        self.assertEqual(self.s.call("POST", "/v1/embeddings", {"input": ["x", "fail[[]]"]})[0], 500)

    def test_metrics(self):
        self.s.complete(say("x"))
        c = self.s.connect()
        c.request("GET", "/metrics")
        a = c.getresponse()
        text = a.read().decode()
        c.close()
        self.assertTrue(a.headers["Content-Type"].startswith("application/openmetrics-text"))
        self.assertTrue(text.endswith("# EOF\n"))
        declared, samples = {}, {}
        for line in text.splitlines()[:-1]:
            if line.startswith("# TYPE"):
                declared[line.split()[2]] = line.split()[3]
            elif not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
                family = name.split("{")[0]
                for end in ("_total", "_bucket", "_count", "_sum", "_info"):
                    if family not in declared and family.endswith(end):
                        family = family[:-len(end)]
                self.assertIn(family, declared, line)
        self.assertGreater(samples['nef_infer_requests_total{url="/v1/completions",code="200"}'], 0)
        self.assertGreater(samples["nef_infer_time_to_first_token_seconds_count"], 0)
        self.assertEqual(samples["nef_infer_slots"], 4)

    def test_tokenize(self):
        self.assertEqual(self.s.call("POST", "/tokenize", {"content": "h\u00e9"})[2],
                         {"tokens": list("h\u00e9".encode())})
        self.assertEqual(self.s.call("POST", "/tokenize", {"content": "<|im_end|>"})[2], {"tokens": [257]})
        self.assertEqual(len(self.s.call("POST", "/tokenize", {"content": "<|im_end|>",
                                                               "parse_special": False})[2]["tokens"]), 10)
        a = self.s.call("POST", "/tokenize", {"content": "h\u00e9", "with_pieces": True})[2]["tokens"]
        self.assertEqual(a, [{"id": 104, "piece": "h"}, {"id": 0xc3, "piece": [0xc3]}, {"id": 0xa9, "piece": [0xa9]}])
        self.assertEqual(self.s.call("POST", "/detokenize", {"tokens": list("h\u00e9".encode())})[2],
                         {"content": "h\u00e9"})
        self.assertEqual(self.s.call("POST", "/detokenize", {"tokens": [104, 0xc3]})[2], {"content": "h\ufffd"})
        self.assertEqual(self.s.call("POST", "/detokenize", {"tokens": []})[2], {"content": ""})
        self.assertEqual(self.s.call("POST", "/detokenize", {"tokens": [1 << 20]})[0], 400)

    def test_many_at_once(self):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            texts = [f"answer number {i}" for i in range(60)]
            got = list(pool.map(lambda t: self.s.complete(say(t, "slow[[1]]"))["choices"][0]["text"], texts))
        self.assertEqual(got, texts)


class Refusals(Base):
    def refused(self, path, body, status, param=None, headers=None):
        got, answer_headers, answer = self.s.call("POST", path, body, headers)
        self.assertEqual(got, status, answer)
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
        if param is not None:
            self.assertEqual(answer["error"]["param"], param)
        return answer_headers, answer["error"]

    def test_by_name(self):
        self.refused("/v1/chat/completions", chat("x", temprature=1), 400, "temprature")
        self.refused("/v1/chat/completions", chat("x", n=200), 400, "n")
        self.refused("/v1/completions", {"prompt": "x", "logprobs": 100}, 400, "logprobs")
        self.refused("/v1/chat/completions", chat("x", thinking_budget=5), 400, "thinking_budget")
        _, e = self.refused("/v1/chat/completions", chat("x", response_format={"type": "json_schema", "json_schema": {
            "name": "n", "schema": {"type": "object", "properties": {"a": {"oneOf": []}}}}}), 400, "response_format")
        self.assertEqual(e["code"], "unsupported_parameter")
        self.assertIn('unsupported keyword "oneOf" at #/properties/a', e["message"])
        _, e = self.refused("/v1/chat/completions", chat("x", tools=[
            *Answers.TOOLS, {"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}]), 400, "tools")
        self.assertIn("tools[1].function.parameters: ", e["message"])
        self.refused("/v1/completions", "{", 400)
        self.refused("/v1/completions", "", 400)
        _, e = self.refused("/v1/completions", {"prompt": "x", "model": "gpt-4"}, 404, "model")
        self.assertEqual(e["code"], "model_not_found")
        self.refused("/v1/completions", {"prompt": ""}, 400, "prompt")
        _, e = self.refused("/v1/completions", {"prompt": "x" * 65536}, 400, "prompt")
        self.assertEqual(e["code"], "context_length_exceeded")
        self.refused("/v1/chat/completions", {"messages": [{"role": "nobody", "content": "x"}]}, 400, "messages")
        self.refused("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
                     "messages")
        self.refused("/v1/completions", {"prompt": "x"}, 400, headers={"x-nef-cache-salt": "a"})

    def test_sizes(self):
        self.refused("/v1/completions", b'{"prompt": "' + b"x" * (9 << 20) + b'"}', 413)
        c = self.s.connect()
        c.request("POST", "/v1/completions", (b"x" * 65536 for _ in range(144)), {"Transfer-Encoding": "chunked"},
                  encode_chunked=True)
        self.assertEqual(c.getresponse().status, 413)
        c.close()
        c = self.s.connect()
        c.request("POST", "/v1/completions", iter([b'{"prom', b'pt": "say[[chunks]]"}']),
                  {"Transfer-Encoding": "chunked"},
                  encode_chunked=True)
        self.assertEqual(json.loads(c.getresponse().read())["choices"][0]["text"], "chunks")
        c.close()
        c = self.s.connect()
        c.request("GET", "/health", headers={f"h{i}": "x" * 200 for i in range(100)})
        self.assertEqual(c.getresponse().status, 431)
        c.close()

    def test_failing_engine(self):
        self.assertEqual(self.s.call("POST", "/v1/completions", {"prompt": say("abc", "fail[[]]")})[0], 500)
        got = list(self.s.stream("/v1/completions", {"prompt": say("abc", "fail[[]]")}))
        self.assertEqual("".join(e["choices"][0]["text"] for e in got[:-1]), "abc")
        self.assertEqual(got[-1]["error"]["type"], "server_error")

    def test_request_id(self):
        self.assertEqual(self.s.call("GET", "/v1/models", headers={"x-request-id": "my.id-1"})[1]["x-request-id"],
                         "my.id-1")
        for bad in ("a b", "x" * 65, "\u00e9"):
            got = self.s.call("GET", "/v1/models", headers={"x-request-id": bad.encode()})[1]["x-request-id"]
            self.assertRegex(got, "^req_[0-9a-f]{24}$")


class OneSlot(Base):
    options = (1, 1)

    def until_free(self):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            status, headers, a = self.s.call("POST", "/v1/completions", {"prompt": say("free")})
            if status == 200:
                return
            self.assertEqual(status, 429)
            time.sleep(0.02)
        self.fail("the slot is still taken")

    def test_full_queue(self):
        hung = []
        for _ in range(2):
            c = self.s.connect()
            c.request("POST", "/v1/completions", json.dumps({"prompt": "hang[[]]"}))
            hung.append(c)
            time.sleep(0.3)
        status, headers, a = self.s.call("POST", "/v1/completions", {"prompt": say("x")})
        self.assertEqual((status, a["error"]["type"]), (429, "rate_limit_error"))
        self.assertIn(int(headers["Retry-After"]), range(1, 61))
        for c in hung:
            c.close()
        self.until_free()

    def test_who_leaves_is_cancelled(self):
        for body, read in (({"prompt": "hang[[]]"}, 0), ({"prompt": "hang[[]]", "stream": True}, 0),
                           ({"prompt": say("x", "endless[[]] slow[[1]]"), "stream": True}, 100),
                           ({"prompt": say("x", "endless[[]] slow[[1]]")}, 0)):
            s = socket.create_connection(("127.0.0.1", self.s.port))
            data = json.dumps(body).encode()
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
            if read:
                s.recv(read)
            else:
                time.sleep(0.2)
            s.close()
            self.until_free()

    def test_half_of_many_prompts_are_refused(self):
        status, _, _ = self.s.call("POST", "/v1/completions", {"prompt": ["hang[[]]"] * 10})
        self.assertEqual(status, 429)
        self.until_free()     # those that ran were cancelled


class Crowds(Base):
    options = (4, 400)

    def test_slow_reader_slows_only_itself(self):
        before = self.s.rss()
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", self.s.port))
        data = json.dumps({"prompt": say("0123456789" * 100, "endless[[]]"), "stream": True,
                           "return_token_ids": True}).encode()
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
        time.sleep(1)         # the engine has made all of its 64,000 tokens
        for _ in range(20):
            self.assertEqual(self.s.complete(say("quick"))["choices"][0]["text"], "quick")
        self.assertLess(self.s.rss() - before, 24)
        # and it still gets everything
        answer = http.client.HTTPResponse(s)
        answer.begin()
        ids = 0
        for e in events(answer):
            last = e
            if e != "[DONE]":
                ids += len(e["choices"][0]["token_ids"])
        self.assertEqual(last, "[DONE]")
        self.assertEqual(ids, 65536 - len(json.loads(data)["prompt"]))
        s.close()

    def test_clients_that_vanish(self):
        body = json.dumps({"prompt": say("x" * 50, "slow[[5]]"), "stream": True}).encode()
        whole = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        self.s.complete(say("warm"))
        fds = len(os.listdir(f"/proc/{self.s.process.pid}/fd"))

        def vanish(i):
            s = socket.create_connection(("127.0.0.1", self.s.port))
            s.sendall(whole[:len(whole) * (i % 8) // 6])      # nothing, parts, all
            time.sleep(0.02 * (i % 5))
            if i % 3 == 0:                                    # RST instead of FIN
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.close()
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            list(pool.map(vanish, range(200)))
        end = time.monotonic() + 15
        while len(os.listdir(f"/proc/{self.s.process.pid}/fd")) > fds + 1 and time.monotonic() < end:
            time.sleep(0.05)
        self.assertLessEqual(len(os.listdir(f"/proc/{self.s.process.pid}/fd")), fds + 1)
        self.assertEqual(self.s.complete(say("still here"))["choices"][0]["text"], "still here")

    def test_an_end_that_comes_with_the_last_bytes(self):
        """The library doesn't see it (http_left.c)."""
        def open_fds():
            return len(os.listdir(f"/proc/{self.s.process.pid}/fd"))
        self.s.complete(say("warm"))
        time.sleep(0.2)
        fds = open_fds()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        get = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        clients = [socket.create_connection(("127.0.0.1", self.s.port), timeout=20) for _ in range(5)]
        time.sleep(0.2)       # each was read once, in vain
        self.assertEqual(open_fds(), fds + 5)
        self.s.process.send_signal(signal.SIGSTOP)
        for client, sent in zip(clients, (head[:9], head, head + b"{", get, get)):
            client.sendall(sent)
        clients[4].shutdown(socket.SHUT_WR)
        for client in clients[:4]:
            client.close()
        self.s.process.send_signal(signal.SIGCONT)
        end = time.monotonic() + 20
        while open_fds() > fds and time.monotonic() < end:
            time.sleep(0.05)
        self.assertLessEqual(open_fds(), fds)
        self.assertTrue(clients[4].recv(100).startswith(b"HTTP/1.1 200 OK\r\n"))     # it had closed only its own side
        clients[4].close()


class Salts(Base):
    options = (4, 64, "--trust-salt")

    def whose(self, **headers):
        """salt, tenant, weight, priority"""
        headers = {"x-nef-" + k.replace("_", "-"): v for k, v in headers.items()}
        status, _, a = self.s.call("POST", "/v1/completions", {"prompt": "whose[[]]"}, headers)
        return a["choices"][0]["text"].split() if status == 200 else a["error"]

    def test_salt(self):
        a, b, none = self.whose(cache_salt="tenant-a"), self.whose(cache_salt="tenant-b"), self.whose()
        self.assertEqual(a, self.whose(cache_salt="tenant-a"))
        self.assertNotEqual(a[:2], b[:2])
        self.assertNotEqual(none[0], self.whose()[0])             # forgotten: shares with nobody
        self.assertEqual(none[1:], ["0", "1", "0"])               # and is one tenant with all such
        self.assertEqual(self.whose(cache_salt="x", weight="1000", priority="7")[2:], ["1000", "7"])
        for wrong in ({"cache_salt": "x" * 257}, {"weight": "0"}, {"weight": "1001"}, {"weight": "x"}, {"priority": "-1"},
                      {"weight": ""}, {"priority": "99999999999"}):
            self.assertEqual(self.whose(**wrong)["code"], "invalid_value", wrong)


class Ends(unittest.TestCase):
    def test_unix_socket(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "infer.sock")
            s = Server(unix=path)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o660)
            self.assertEqual(s.complete(say("over a file"))["choices"][0]["text"], "over a file")
            self.assertEqual(list(s.stream("/v1/completions", {"prompt": say("x")}))[-1], "[DONE]")
            taken = subprocess.run([FAKE, f"unix:{path}"], capture_output=True, text=True, timeout=20)
            self.assertEqual(taken.returncode, 1)
            self.assertIn("Address already in use", taken.stderr)
            s.process.kill()
            s.process.wait()
            s.process.stdout.close()
            self.assertTrue(os.path.exists(path))     # left behind: the next one takes its place
            s = Server(unix=path)
            self.assertEqual(s.complete(say("again"))["choices"][0]["text"], "again")
            s.stop()
            self.assertFalse(os.path.exists(path))
            with open(path, "w") as f:                # a file that is no socket is left alone
                f.write("mine")
            self.assertEqual(subprocess.run([FAKE, f"unix:{path}"], capture_output=True, timeout=20).returncode, 1)
            self.assertTrue(os.path.exists(path))

    def test_drain(self):
        s = Server()
        kept = s.connect()
        s.call("GET", "/health", connection=kept)
        got, began = [], threading.Event()

        def follow():
            for e in s.stream("/v1/completions", {"prompt": say("0123456789", "slow[[100]]")}):
                got.append(e)
                began.set()
        thread = threading.Thread(target=follow)
        thread.start()
        began.wait(5)
        s.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with self.assertRaises(OSError):
            socket.create_connection(("127.0.0.1", s.port), timeout=2).close()
        status, headers, _ = s.call("POST", "/v1/completions", {"prompt": "x"}, connection=kept)
        self.assertEqual((status, headers["Connection"]), (503, "close"))
        thread.join(10)
        self.assertEqual(got[-1], "[DONE]")
        self.assertEqual("".join(e["choices"][0]["text"] for e in got[:-1]), "0123456789")
        s.stop()

    def test_without_a_model_yet_it_says_so(self):
        s = Server(4, 64, "--loading")
        for method, path in (("GET", "/health"), ("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/completions"),
                             ("POST", "/v1/chat/completions"), ("POST", "/tokenize")):
            status, headers, answer = s.call(method, path, {"prompt": "x"} if method == "POST" else None)
            self.assertEqual((status, headers["Retry-After"]), (503, "1"))
            self.assertEqual((answer["error"]["message"], answer["error"]["code"]), ("Loading model", "loading_model"))
        self.assertEqual(s.call("GET", "/nothing")[0], 404)
        s.process.send_signal(signal.SIGUSR1)
        while s.call("GET", "/health")[0] != 200:
            time.sleep(0.01)
        self.assertEqual(s.complete(say("here"))["choices"][0]["text"], "here")
        s.stop()
        Server(4, 64, "--loading").stop()

    def test_stops_while_clients_come(self):
        """The library's own way to stop listening aborts now and then (http.c, nef_http_quiesce)."""
        for _ in range(30):
            s, over = Server(), threading.Event()

            def come():
                while not over.is_set():
                    try:
                        s.call("GET", "/health")
                    except (OSError, http.client.HTTPException):
                        pass
            clients = [threading.Thread(target=come) for _ in range(3)]
            for c in clients:
                c.start()
            time.sleep(0.02)
            try:
                s.stop()
            finally:
                over.set()
                for c in clients:
                    c.join()

    def test_what_outlasts_the_drain_is_told(self):
        s = Server()
        stream = s.stream("/v1/completions", {"prompt": say("x", "endless[[]] slow[[20]]")})
        next(stream)
        s.process.send_signal(signal.SIGTERM)
        last = list(stream)[-1]
        self.assertEqual(last["error"]["type"], "server_error")
        s.stop()

    def test_the_log_has_no_word_of_it(self):
        s = Server()
        s.complete(say("SECRETANSWER", "SECRETPROMPT"))
        list(s.stream("/v1/chat/completions", chat(say("SECRETANSWER", "SECRETPROMPT"), user="SECRETUSER")))
        s.call("POST", "/v1/chat/completions", chat("SECRETPROMPT", SECRETFIELD=1))
        s.call("POST", "/v1/chat/completions", '{"SECRETPROMPT')
        s.call("POST", "/v1/SECRETPATH?SECRETQUERY", "SECRETPROMPT", {"x-request-id": "has SECRET words"})
        log = s.stop()
        self.assertIn('"completion":12', log)
        self.assertNotIn("SECRET", log)


if __name__ == "__main__":
    unittest.main(verbosity=0)
