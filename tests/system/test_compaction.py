"""Compaction keeps up with small objects: a record costs it a round trip to both disks, not a round of its clock."""
import random
import threading
import time

import pytest
from lib.region import Region, wait_for
from lib.s3raw import S3

SMALL, BALLAST, BALLAST_BYTES = 8000, 1150, 60000  # ballast: a cell's first checkpoint is due after 64 MiB of log


@pytest.fixture
def one_cell():
    def edit(region):
        for zone in ("a", "b"):
            region.configure(zone, {"segment": "8MiB", "scrub": {"rate": 0}})
    r = Region(edit=edit, cells=1)
    try:
        yield r.up()
    finally:
        r.down()


def in_threads(region, jobs, count=6):
    """Each job (method, path, body), by COUNT clients."""
    failed = []

    def client(mine):
        s3 = S3.of(region, "a", timeout=20)
        for method, path, body in mine:
            status, _, data = s3.request(method, path, body=body)
            if status not in (200, 204):
                failed.append((method, path, status, data[:200]))
        s3.close()
    threads = [threading.Thread(target=client, args=(jobs[n::count],)) for n in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed[:3]


@pytest.mark.soak
def test_small_objects_are_compacted_quickly(one_cell):
    """Thousands of small objects between larger ones that are deleted: the segments that only the small ones hold are
    rewritten within seconds. (By 160 records a second this took a minute.)"""
    r = one_cell
    r.handover("a")
    assert S3.of(r, "a").request("PUT", "/many")[0] == 200
    jobs = [("PUT", f"/many/small-{n}", b"%d" % n * 20) for n in range(SMALL)]
    jobs += [("PUT", f"/many/ballast-{n}", b"x" * BALLAST_BYTES) for n in range(BALLAST)]
    random.Random(1).shuffle(jobs)
    in_threads(r, jobs)
    full = r.metric("a", "nef_segments")
    assert full > 8
    in_threads(r, [("DELETE", f"/many/ballast-{n}", b"") for n in range(BALLAST)])
    begin = time.monotonic()
    wait_for(lambda: r.metric("a", "nef_segments") <= 3, 25, 0.2)
    print(f"{SMALL} small objects out of {full:.0f} segments in {time.monotonic() - begin:.1f} s")
    for zone in ("a", "b"):
        s3 = S3.of(r, zone)
        for n in random.sample(range(SMALL), 300):
            assert s3.request("GET", f"/many/small-{n}")[2] == b"%d" % n * 20
    assert r.durability() == "2/2"
