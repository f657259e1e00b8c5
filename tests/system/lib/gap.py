"""The longest time without a successful answer that clients see: the number that a failover is judged by.

CLIENTS processes (not threads: the interpreter's lock would be part of the measurement) work through the front in
a closed loop, PUT and GET in turn; each opens a new connection after an error and doesn't back off. The gap is the
longest time between two successful answers, of all clients together, from shortly before the fault to the end."""
import array
import http.client
import os
import time

from lib.s3raw import S3

BUCKET = "gap"


def _client(region, number, until, pipe):
    times = array.array("d")
    counts = {}
    s3 = S3.of(region, timeout=10)
    n = 0
    while time.monotonic() < until:
        n += 1
        key = f"/{BUCKET}/{number}-{n // 2 % 50}"
        method = "PUT" if n % 2 else "GET"
        try:
            status, _, _ = s3.request(method, key, body=b"x" * 100 if n % 2 else b"")
        except (OSError, http.client.HTTPException):
            status = 0
        counts[status] = counts.get(status, 0) + 1
        if status in (200, 404):
            times.append(time.monotonic())
        else:
            s3.close()
    with os.fdopen(pipe, "wb") as f:
        f.write(repr(counts).encode() + b"\n")
        f.write(times.tobytes())


def measure(region, fault, before=1.5, after=5.0, clients=8):
    """Calls fault() after BEFORE seconds of load. {"gap_s", "begins_s" (after the fault), "answers", "statuses"}"""
    s3 = S3.of(region)
    status, _, body = s3.request("PUT", f"/{BUCKET}")
    assert status in (200, 409), body
    start = time.monotonic()
    until = start + before + after
    pipes = []
    for number in range(clients):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(r)
                _client(region, number, until, w)
                status = 0
            finally:
                os._exit(status)
        os.close(w)
        pipes.append((pid, r))
    time.sleep(before)
    at = time.monotonic()
    fault()
    took = time.monotonic() - at
    times, statuses = [], {}
    for pid, r in pipes:
        with os.fdopen(r, "rb") as f:
            data = f.read()
        _, code = os.waitpid(pid, 0)
        assert code == 0, f"a client ended with {code}"
        line, data = data.split(b"\n", 1)
        for status, count in eval(line).items():  # our own dict of numbers
            statuses[status] = statuses.get(status, 0) + count
        part = array.array("d")
        part.frombytes(data)
        times.extend(part)
    times = sorted(t for t in times if t >= at - 0.5)
    assert len(times) > 10, f"hardly an answer: {statuses}{region.tails()}"
    times.append(max(times[-1], until))  # no answer until the end is a gap, too
    gap, begins = max((b - a, a - at) for a, b in zip(times, times[1:]))
    return {"gap_s": gap, "begins_s": begins, "answers": len(times), "statuses": statuses,
            "fault_took_s": took}
