"""A place that gives models away over https, as Hugging Face does, and in every way that such places misbehave.

Two listeners with certificates of a CA made here: the hub, whose /NAME answers 302 to the store with x-linked-etag and
x-linked-size, and the store, which answers Range, If-Range and ETag. /plain/NAME of the hub is the file without a
redirect.

    hub = FakeHub(directory)            hub.files["m.gguf"] = data
    hub.url("m.gguf")                   hub.ca, hub.requests, hub.sent
"""
import hashlib
import http.server
import os
import re
import ssl
import subprocess
import threading
import time


class Log(list):
    """Requests: dictionaries with where ("hub" or "store"), path, range, if_range, authorization."""

    def to(self, where):
        return [r for r in self if r["where"] == where]


class FakeHub:
    def __init__(self, directory):
        self.directory = str(directory)
        self.files = {}
        self.linked = True      # the redirect tells digest and size, as for files in Hugging Face's large storage
        self.ranges = True
        self.etags = True
        self.etag_of = None     # function of the data; the presets are the MD5 at the store, the SHA-256 for /plain/
        self.token = None       # what must come as Bearer to the hub
        self.cut_after = []     # for each answer with a body, in turn: close the connection after so many bytes
        self.cut_always = None  # the same for all
        self.statuses = []      # for each request to the store, in turn: answer this status; 0: as usual
        self.lie = None         # see Handler.body
        self.rate = None        # bytes a second
        self.redirect = None    # where to, instead of the store
        self.linked_size = None
        self.requests = Log()
        self.sent = 0           # bytes of bodies
        self.lock = threading.Lock()
        self._certificates()
        self.store = self._listen("store")
        self.hub = self._listen("hub")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for server in (self.hub, self.store):
            server.shutdown()
            server.server_close()

    def url(self, name, plain=False):
        return f"https://localhost:{self.hub.server_port}/{'plain/' if plain else ''}{name}"

    def forget(self):
        self.requests = Log()
        self.sent = 0

    def _certificates(self):
        d = self.directory
        self.ca = os.path.join(d, "hub-ca.crt")
        self.pem = os.path.join(d, "hub.pem")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        with open(os.path.join(d, "hub.ext"), "w") as f:
            f.write("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
        for command in (["req", "-x509", *key, "-keyout", "hub-ca.key", "-out", "hub-ca.crt", "-subj", "/CN=test hub",
                         "-days", "2"],
                        ["req", *key, "-keyout", "hub.key", "-out", "hub.csr", "-subj", "/CN=localhost"],
                        ["x509", "-req", "-in", "hub.csr", "-CA", "hub-ca.crt", "-CAkey", "hub-ca.key",
                         "-CAcreateserial", "-out", "hub.crt", "-days", "2", "-extfile", "hub.ext"]):
            subprocess.run(["openssl", *command], cwd=d, check=True, capture_output=True)
        with open(self.pem, "w") as f:
            for name in ("hub.key", "hub.crt"):
                with open(os.path.join(d, name)) as part:
                    f.write(part.read())

    def _listen(self, where):
        hub = self

        class Bound(Handler):
            pass
        Bound.hub, Bound.where = hub, where
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        server.daemon_threads = True
        server.handle_error = lambda *_: None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        # Handshakes in the connection's own thread: a client that vanishes must not stop the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = where = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        hub = self.hub
        name = self.path.lstrip("/").split("?")[0]
        with hub.lock:
            hub.requests.append({"where": self.where, "path": self.path, "range": self.headers.get("Range"),
                                 "if_range": self.headers.get("If-Range"),
                                 "authorization": self.headers.get("Authorization"), "at": time.monotonic()})
            status = hub.statuses.pop(0) if self.where == "store" and hub.statuses else 0
        if status:
            return self.plain_answer(status)
        if self.where == "hub":
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.plain_answer(401)
            if not name.startswith("plain/"):
                return self.redirect(name)
            name = name[len("plain/"):]
        if name not in hub.files:
            return self.plain_answer(404)
        self.body(hub.files[name])

    def plain_answer(self, status):
        text = b"<html>no model</html>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def redirect(self, name):
        hub = self.hub
        if name not in hub.files:
            return self.plain_answer(404)
        self.send_response(302)
        self.send_header("Location", hub.redirect or f"https://localhost:{hub.store.server_port}/{name}?signed=secret")
        if hub.linked:
            self.send_header("X-Linked-ETag", '"%s"' % hashlib.sha256(hub.files[name]).hexdigest())
            self.send_header("X-Linked-Size", str(hub.linked_size or len(hub.files[name])))
        self.send_header("ETag", '"of-the-redirect"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def body(self, data):
        """lie: "start" (another range than asked for), "total" (another length from the second request on), "long"
        (more bytes than the range has), "short" (announces more than there is, always), "gzip", "endless"
        (no length)."""
        hub, lie = self.hub, self.hub.lie
        etag = (hub.etag_of(data) if hub.etag_of else
                '"%s"' % (hashlib.sha256(data) if self.path.startswith("/plain/") else hashlib.md5(data)).hexdigest())
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        condition = self.headers.get("If-Range")
        total = len(data)
        if wanted and hub.ranges and (condition is None or (hub.etags and condition == etag)):
            first = int(wanted[1])
            last = min(int(wanted[2] or total - 1), total - 1)
            if first >= total:
                return self.plain_answer(416)
            said_total = total + 1000 if lie == "total" and first > 0 else total
            if lie == "start" and first > 0:
                first -= 1
            part = data[first:last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{said_total}")
            if lie == "long":
                part += b"x" * 1000
        else:
            part = data
            self.send_response(200)
        if lie == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if lie == "endless":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(part) + (1000 if lie == "short" else 0)))
        if hub.etags:
            self.send_header("ETag", etag)
        if hub.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        with hub.lock:
            cut = hub.cut_after.pop(0) if hub.cut_after else hub.cut_always
        self.send(part if cut is None else part[:cut])
        if cut is not None and cut < len(part) or lie in ("short", "endless"):
            self.close_connection = True

    def send(self, part):
        step = 65536
        for at in range(0, len(part), step):
            chunk = part[at:at + step]
            self.wfile.write(chunk)
            with self.hub.lock:
                self.hub.sent += len(chunk)
            if self.hub.rate:
                time.sleep(len(chunk) / self.hub.rate)
