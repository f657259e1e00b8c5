"""A region that serves models, for the tests of its gateway: the small Qwen3 as "nano" in both zones' own engines, and
"fake" (tests/lib/fake_engine.py), one process a zone, as an external backend."""
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.request

from lib.infer import MODELS
from lib.region import ROOT, Region, wait_for

FAKE = os.path.join(ROOT, "tests", "lib", "fake_engine.py")


class Fake:
    def __init__(self, *models):
        self.process = subprocess.Popen([sys.executable, FAKE, "0", *models], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split()[1])

    def control(self, **state):
        """Sets how it behaves, and forgets what it has seen; without anything: what it has seen."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control",
                                         json.dumps(state).encode() if state else None)
        with urllib.request.urlopen(request, timeout=10) as r:
            return json.load(r)

    def behave(self):
        self.control(mode="ok", after=0, times=0, delay=0, first_delay=0, health=True)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Stream:
    """What a client of a stream saw."""

    def __init__(self, events, pauses, status=200):
        self.events, self.pauses, self.status = events, pauses, status
        self.error = next((e["error"] for e in events if "error" in e), None)
        self.usage = next((e["usage"] for e in events if e.get("usage")), None)
        self.finish = None
        self.text, self.reasoning, self.arguments, self.calls = {}, {}, {}, []
        for e in events:
            for c in e.get("choices", []):
                i, delta = c["index"], c.get("delta", {})
                self.finish = c["finish_reason"] or self.finish
                self.text[i] = self.text.get(i, "") + (c.get("text") or delta.get("content") or "")
                self.reasoning[i] = self.reasoning.get(i, "") + (delta.get("reasoning_content") or "")
                for call in delta.get("tool_calls", []):
                    self.arguments[call["index"]] = (self.arguments.get(call["index"], "") +
                                                     (call["function"].get("arguments") or ""))
                    if call["function"].get("name"):
                        self.calls.append(call["function"]["name"])

    def all(self):
        u = self.usage or {}
        return (self.text, self.reasoning, self.arguments, self.calls, self.finish, u.get("prompt_tokens"),
                u.get("completion_tokens"))


class AiRegion(Region):
    def __init__(self, ai=None, fakes=True, slots=4, engine=None, **kw):
        self.slots = slots
        self.fakes = {z: Fake("fake") for z in ("a", "b")} if fakes else {}
        self.ai_changes = ai or {}
        self.engine_changes = engine or {}
        super().__init__(edit=self.change, **kw)

    def change(self, _):
        for z in ("a", "b"):
            ai = {"engine": {"model": "nano", "model_file": os.path.join(MODELS, "qwen3-nano-Q8_0.gguf"), "threads": 1,
                             **self.engine_changes},
                  **self.ai_changes}
            if self.fakes:
                ai["backends"] = [{"name": "fake", "url": f"http://127.0.0.1:{self.fakes[z].port}",
                                   "slots": self.slots}]
            self.configure(z, {"ai": ai})

    def up(self):
        super().up()
        wait_for(self.ai_ready, 60)
        return self

    def down(self, keep=False):
        try:
            super().down(keep)
        finally:
            for f in self.fakes.values():
                f.stop()

    def backends(self, zone):
        return {b["name"]: b for b in json.loads(self.admin(zone, "/ai/status"))["backends"]}

    def ai_ready(self):
        wanted = 4 if self.fakes else 2
        return all(sum(b["healthy"] for b in self.backends(z).values()) == wanted for z in ("a", "b"))

    def engine_pid(self, zone):
        return self.backends(zone)["engine:nano"].get("pid")

    def address(self, zone=None):
        return (self.json["ai_endpoint"] if zone is None else self.zone(zone)["ai"]).split("://")[1]

    def call(self, path, body=None, zone=None, key=None, method=None, headers=None):
        """(status, headers, JSON)"""
        c = http.client.HTTPConnection(self.address(zone), timeout=60)
        c.request(method or ("GET" if body is None else "POST"), path, None if body is None else json.dumps(body),
                  {"Content-Type": "application/json", "Authorization": "Bearer " + (key or self.json["ai_key"]),
                   **(headers or {})})
        a = c.getresponse()
        data = a.read()
        c.close()
        return a.status, a.headers, json.loads(data) if data else None

    def stream(self, path, body, zone=None, key=None, on_event=None):
        c = http.client.HTTPConnection(self.address(zone), timeout=60)
        c.request("POST", path, json.dumps({"stream": True, "stream_options": {"include_usage": True}, **body}),
                  {"Content-Type": "application/json", "Authorization": "Bearer " + (key or self.json["ai_key"])})
        a = c.getresponse()
        if a.status != 200:
            return Stream([json.loads(a.read())], [], a.status)
        events, pauses, last, ended = [], [], time.monotonic(), False
        for line in a:
            if not line.startswith(b"data: "):
                assert line == b"\n", line
                continue
            now = time.monotonic()
            pauses.append(now - last)
            last = now
            if line == b"data: [DONE]\n":
                ended = True
                continue
            assert not ended, line
            events.append(json.loads(line[6:]))
            if on_event:
                on_event(len(events))
        c.close()
        s = Stream(events, pauses)
        assert ended != (s.error is not None), "a stream ends with [DONE] or an error"
        return s

    def chat(self, content="Hello", model="fake", zone=None, key=None, on_event=None, **more):
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        return self.stream("/v1/chat/completions", body, zone, key, on_event)

    def add_user(self, name, *options):
        out = json.loads(self.nef("user", "add", name, *options, "--json", "--dir", self.directory).stdout)
        return f"{out['access_key']}:{out['secret_key']}"
