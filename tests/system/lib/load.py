"""Concurrent clients over a region, and what must be true of their answers.

Each client is a thread with a connection of its own to the front and to each zone. It writes, reads and deletes a
few hot keys that all clients share, writes other keys once, and records each request in a History. It never
sends a request a second time: one without an answer, or refused with 5xx, is "unknown".

A body names its value and repeats it up to a random size, so a changed, mixed or cut object is seen as such.
verify() reads everything that was ever written from each zone, and then checks the history."""
import hashlib
import http.client
import random
import threading
import time

from lib.history import History
from lib.s3raw import S3, error_code

SIZES = [(0.6, 30, 300), (0.9, 4096, 60000), (1.0, 70000, 1300000)]  # inline, large inline, data records


def body_of(value, size):
    line = (value + "\n").encode()
    return (line * (size // len(line) + 1))[:max(size, len(line))]


def value_of(body):
    """The value that a body carries; what isn't whole raises."""
    value = body.split(b"\n", 1)[0].decode("ascii", "replace")
    if body != body_of(value, len(body)):
        raise AssertionError(f"a changed body: {len(body)} bytes, begins {body[:60]!r}")
    return value


class Load:
    def __init__(self, region, clients=6, keys=8, bucket="load", where=(None, "a", "b"), seed=None,
                 large=True, once=True, excused=()):
        """excused: codes of S3 that the test's fault explains; their requests count as unknown."""
        self.region, self.bucket, self.where = region, bucket, where
        self.clients, self.large, self.once, self.excused = clients, large, once, excused
        self.seed = seed if seed is not None else random.randrange(1 << 30)
        run = f"{self.seed:08x}"
        self.hot = [f"hot-{run}-{n}" for n in range(keys)]
        self.history = History()
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.written = {}  # keys written once and acknowledged: key -> (value, size)
        self.counts = {}
        self.failures = []  # what no fault excuses: changed bodies, unknown answers
        self.successes = []  # times
        self.threads = []

    # ---- one request each ----

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def ask(self, s3, method, key, body=b"", headers=None):
        """(status, headers, body), status 0: no answer."""
        try:
            status, h, data = s3.request(method, f"/{self.bucket}/{key}", body=body, headers=headers)
        except (OSError, http.client.HTTPException):
            status, h, data = 0, {}, b""
        if 200 <= status < 300 or status in (404, 412):
            self.successes.append(time.monotonic())
        self.count(f"{method} {status}")
        if status == 0 or status >= 500:
            time.sleep(0.01)
        elif status not in (200, 204, 404, 412, 409) and error_code(data) not in self.excused:
            self.failures.append(f"{method} {key}: {status} {data[:300]!r}")
        return status, h, data

    def put(self, name, s3, key, value, size, absent=False):
        body = body_of(value, size)
        begin = self.history.begin()
        status, headers, data = self.ask(s3, "PUT", key, body, {"If-None-Match": "*"} if absent else None)
        outcome = "ok" if status == 200 else "fail" if status in (412, 404) else "unknown"
        if status == 200 and headers.get("etag", "").strip('"') != hashlib.md5(body).hexdigest():
            self.failures.append(f"PUT {key}: ETag {headers.get('etag')} isn't the body's")
        self.history.add(name, key, "put", value, begin, outcome, "absent" if absent else None,
                         note=f"{s3.port} {status} {headers.get('x-amz-request-id')}")
        return outcome == "ok"

    def get(self, name, s3, key):
        begin = self.history.begin()
        status, headers, data = self.ask(s3, "GET", key)
        value = None
        if status == 200:
            try:
                value = value_of(data)
            except AssertionError as e:
                self.failures.append(f"GET {key} at {s3.port}: {e}")
        if status in (200, 404):
            self.history.add(name, key, "get", value, begin, "ok",
                             note=f"{s3.port} {headers.get('x-amz-request-id')}")
        return status, value

    def delete(self, name, s3, key):
        begin = self.history.begin()
        status, headers, _ = self.ask(s3, "DELETE", key)
        self.history.add(name, key, "delete", None, begin, "ok" if status == 204 else "unknown",
                         note=f"{s3.port} {status} {headers.get('x-amz-request-id')}")

    # ---- a client ----

    def size(self, rng):
        r = rng.random()
        for share, low, high in SIZES:
            if r < share or not self.large:
                return rng.randint(low, high)
        return SIZES[-1][2]

    def client(self, number):
        name = f"c{number}"
        rng = random.Random(self.seed * 1000 + number)
        # A zone that doesn't answer is left alone for a while, else soon all clients would wait for it.
        ends = [S3.of(self.region, zone, timeout=8 if zone is None else 2) for zone in self.where]
        avoided = {}
        n = 0
        while not self.stopping.is_set():
            now = time.monotonic()
            s3 = rng.choice([e for e in ends if avoided.get(e, 0) <= now] or ends)
            key, r = rng.choice(self.hot), rng.random()
            n += 1
            value = f"{self.seed:08x}.{number}.{n}"
            if r < 0.45:
                self.get(name, s3, key)
            elif r < 0.72:
                self.put(name, s3, key, value, self.size(rng))
            elif r < 0.80:
                self.put(name, s3, key, value, self.size(rng), absent=True)
            elif r < 0.88:
                self.delete(name, s3, key)
            elif self.once:
                key, size = f"once-{value}", self.size(rng)
                if self.put(name, s3, key, value, size):
                    with self.lock:
                        self.written[key] = value
            if s3.connection is None and len(ends) > 1 and s3.port != ends[0].port:
                avoided[s3] = time.monotonic() + 1
        for s3 in ends:
            s3.close()

    def start(self):
        s3 = S3.of(self.region)
        status, _, body = s3.request("PUT", f"/{self.bucket}")
        assert status in (200, 409), (status, body)
        s3.close()
        self.threads = [threading.Thread(target=self.client, args=(n,), daemon=True)
                        for n in range(self.clients)]
        for t in self.threads:
            t.start()
        return self

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join(timeout=30)
            assert not t.is_alive(), "a client hangs"
        return self

    __enter__ = start

    def __exit__(self, *exc):
        self.stop()

    def wait_successes(self, count=20, seconds=15):
        """COUNT more good answers from now on."""
        want = len(self.successes) + count
        deadline = time.monotonic() + seconds
        while len(self.successes) < want:
            if time.monotonic() > deadline:
                raise AssertionError(f"no {count} good answers within {seconds} s: {self.counts}"
                                     f"{self.region.tails()}")
            time.sleep(0.02)

    # ---- what must be true ----

    def verify(self, sample=300, zones=("a", "b")):
        """After stop() and with the zones back: nothing lost, changed, stale or undone."""
        written = list(self.written.items())
        if len(written) > sample:
            written = random.Random(1).sample(written, sample)
        for zone in zones:
            s3 = S3.of(self.region, zone, timeout=10)
            for key in self.hot:
                status, _ = self.get(f"end-{zone}", s3, key)
                assert status in (200, 404), f"zone {zone}, {key}: {status}"
            for key, value in written:
                status, found = self.get(f"end-{zone}", s3, key)
                assert status == 200, f"zone {zone} lost {key}: {status}{self.story(key)}"
                assert found == value, f"zone {zone} changed {key}: {found}"
            s3.close()
        assert not self.failures, self.failures[:5]
        bad = self.history.check()
        assert bad is None, f"seed {self.seed}: {bad}"
        good = sum(n for what, n in self.counts.items() if what.split()[1] in ("200", "204", "404", "412"))
        assert good > 50, self.counts
        return self

    def story(self, key):
        return "\n".join(str(e) for e in self.history.events if e["key"] == key)
