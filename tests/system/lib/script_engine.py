"""An OpenAI-compatible engine whose answers are a function of the prompt, told slowly: for tests of what stands above engines.

The last message of role user is JSON, or text (then: {}):
  words   how many words it says (5)         delay   seconds before each (0.002)
  think   a thought told before              call    arguments of a call of the function f, told in pieces, instead of words
  status  HTTP status to refuse with
It goes on after a text (continue_final_message), as vLLM does."""
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def words(script):
    return [f"w{i} " for i in range(script.get("words", 5))]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer(200, {"object": "list", "data": [{"id": "script", "object": "model"}]})

    def event(self, value):
        data = ("data: " + (value if isinstance(value, str) else json.dumps(value)) + "\n\n").encode()
        self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n")
        self.wfile.flush()

    def delta(self, delta, finish=None):
        self.event({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "script",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        try:
            script = json.loads([m for m in body["messages"] if m["role"] == "user"][-1]["content"])
            script = script if isinstance(script, dict) else {}
        except ValueError:
            script = {}
        if script.get("status"):
            self.answer(script["status"], {"error": {"message": "as scripted", "type": "invalid_request_error",
                                                     "param": None, "code": "scripted"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.tell(body, script)
            self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # whoever asked has left

    def tell(self, body, script):
        delay = script.get("delay", 0.002)
        given = body["messages"][-1]["content"] if body.get("continue_final_message") else ""
        said, tokens, finish = "", 0, "stop"
        self.delta({"role": "assistant", "content": ""})
        for thought in script.get("think", "").split():
            time.sleep(delay)
            self.delta({"reasoning_content": thought + " "})
        if "call" in script and body["messages"][-1]["role"] == "user":
            arguments = json.dumps(script["call"])
            self.delta({"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                                        "function": {"name": "f", "arguments": ""}}]})
            for at in range(0, len(arguments), 4):
                time.sleep(delay)
                self.delta({"tool_calls": [{"index": 0, "function": {"arguments": arguments[at:at + 4]}}]})
            finish = "tool_calls"
        else:
            for word in words(script):
                said += word
                if len(said) <= len(given):
                    continue
                if body.get("max_tokens") is not None and tokens >= body["max_tokens"]:
                    finish = "length"
                    break
                time.sleep(delay)
                tokens += 1
                self.delta({"content": word})
        self.delta({}, finish)
        self.event({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "script", "choices": [],
                    "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}})


class ScriptEngine(ThreadingHTTPServer):
    """with ScriptEngine() as engine: engine.url; engine.requests: bodies, as they came"""
    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def use(region, **engines):
    """For Region(edit=...): each zone has only this external backend. use(region, a=engine, b=engine)"""
    import yaml
    for zone, engine in engines.items():
        path = region.path("config", f"zone-{zone}.yaml")
        with open(path) as f:
            config = yaml.safe_load(f)
        config["ai"].pop("engine", None)
        config["ai"]["backends"] = [{"name": f"script-{zone}", "url": engine.url}]
        with open(path, "w") as f:
            yaml.safe_dump(config, f)
