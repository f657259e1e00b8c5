"""A disk that reads slowly: who asks for what it has to be waited for waits, and nobody else. See FAULTS.md."""
import glob
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Faulty, small_and_quick
from lib.region import wait_for
from lib.s3raw import S3

SLOW = 1.5


@pytest.fixture
def one_thread(net, fault_library):
    """Zone b's S3 listener has one thread: what blocks it blocks all of its clients."""
    net.enter()

    def edit(region):
        small_and_quick(region)
        region.configure("b", {"limits": {"http_threads": 1}})
    r = Faulty(net, fault_library, edit=edit, port_base=18600)
    try:
        yield r.up()
    finally:
        r.no_faults()
        r.down()
        net.leave()


def test_cold_reads_hold_up_nobody_else(one_thread):
    """Objects in segments whose reads take 1.5 s: small, of one piece, of several. Meanwhile other requests through the
    same thread are answered at once."""
    r = one_thread
    r.handover("a")
    s3 = S3.of(r, "a", timeout=20)
    assert s3.request("PUT", "/slow")[0] == 200
    bodies = {f"cold-{n}": os.urandom(size) for n, size in enumerate((100, 5000, 60000, 300000, 3 << 20))}
    for key, body in bodies.items():
        assert s3.request("PUT", f"/slow/{key}", body=body)[0] == 200
    ballast = os.urandom(1 << 20)
    for n in range(60):  # until no cell's end is in its first segment
        assert s3.request("PUT", f"/slow/ballast-{n}", body=ballast)[0] == 200
    assert s3.request("PUT", "/slow/warm", body=b"warm" * 1000)[0] == 200
    wait_for(lambda: all(c["applied"] == c["commit"] and c["commit"] > 8 << 20 for c in r.status("b")["cells"]), 20)
    first = [sorted(glob.glob(r.path("zone-b", f"cell-{c}", "*.seg")))[0] for c in range(4)]
    r.fault("zone-b", "read", " ".join([str(int(SLOW * 1e6))] + [str(os.stat(f).st_ino) for f in first]))
    time.sleep(0.1)

    def cold(key):
        begin = time.monotonic()
        status, headers, body = S3.of(r, "b", timeout=40).request("GET", f"/slow/{key}")
        assert status == 200 and body == bodies[key], (key, status)
        assert headers["etag"].strip('"') == hashlib.md5(body).hexdigest()
        return time.monotonic() - begin

    longest = 0
    with ThreadPoolExecutor(len(bodies)) as pool:
        waiting = [pool.submit(cold, key) for key in bodies]
        time.sleep(0.1)
        warm = S3.of(r, "b", timeout=20)
        while not all(w.done() for w in waiting):
            for method, key, body in (("GET", "warm", b""), ("HEAD", "cold-4", b""), ("PUT", "other", b"x" * 100)):
                begin = time.monotonic()
                assert warm.request(method, f"/slow/{key}", body=body)[0] == 200
                longest = max(longest, time.monotonic() - begin)
        took = [w.result() for w in waiting]
    assert all(t >= SLOW for t in took), took
    assert longest < 1, (longest, took)
