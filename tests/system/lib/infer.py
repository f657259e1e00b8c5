"""nef infer with a small model, for the tests of its API."""
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
NEF = os.environ.get("NEF", os.path.join(ROOT, "build", "nef"))
FAKE = os.path.join(os.path.dirname(NEF), "tests", "unit", "infer", "api", "fake_infer")
MODELS = os.path.join(ROOT, "tests", "data", "infer")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Infer:
    """A server; `with` stops it. Its log is read until it says where it listens."""

    def __init__(self, model="qwen3-nano-Q8_0", *options, listen="127.0.0.1:0", env=None):
        self.log_file = tempfile.NamedTemporaryFile("r", prefix="nef-infer-", suffix=".log")
        self.unix = listen[5:] if listen.startswith("unix:") else None
        self.process = subprocess.Popen(
            [NEF, "infer", "--model", os.path.join(MODELS, model + ".gguf"), "--listen", listen, "--threads", "2",
             *options],
            stderr=open(self.log_file.name, "w"), env={**os.environ, **(env or {})})
        while True:
            started = self.events("infer_started")
            if started:
                break
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(self.log())
        self.started = started[0]
        self.port = None if self.unix else int(self.started["listen"].rsplit(":", 1)[1])
        self.url = None if self.unix else f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def log(self):
        with open(self.log_file.name) as f:
            return f.read()

    def events(self, name):
        return [e for e in map(json.loads, (line for line in self.log().splitlines(True) if line.endswith("\n")))
                if e["event"] == name]

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        assert code == 0, (code, self.log()[-2000:])

    def connect(self):
        return UnixConnection(self.unix) if self.unix else http.client.HTTPConnection("127.0.0.1", self.port,
                                                                                      timeout=120)

    def call(self, path, body=None, headers=None, method=None):
        """(status, headers, JSON)"""
        c = self.connect()
        c.request(method or ("GET" if body is None else "POST"), path, None if body is None else json.dumps(body),
                  {"Content-Type": "application/json", **(headers or {})})
        a = c.getresponse()
        data = a.read()
        c.close()
        return a.status, a.headers, json.loads(data)

    def complete(self, prompt, **more):
        status, _, answer = self.call("/v1/completions", {"prompt": prompt, **more})
        assert status == 200, answer
        return answer

    def stream(self, path, body):
        """Each event's JSON, as it comes; the last one must be [DONE], which isn't given."""
        c = self.connect()
        c.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
        a = c.getresponse()
        assert a.status == 200, a.read()
        data, last = b"", None
        try:
            while True:
                piece = a.read1(65536)
                if not piece:
                    break
                data += piece
                while b"\n\n" in data:
                    event, data = data.split(b"\n\n", 1)
                    assert event.startswith(b"data: "), event
                    last = event[6:].decode("utf-8")      # each event is whole UTF-8 by itself
                    if last != "[DONE]":
                        yield json.loads(last)
            assert last == "[DONE]" and data == b"", (last, data)
        finally:
            a.close()
            c.close()


def golden(model):
    with open(os.path.join(MODELS, model + ".json"), encoding="utf-8") as f:
        return json.load(f)
