"""Disks that are full, fail, forget or lie. See FAULTS.md."""
import glob
import os
import shutil
import subprocess
import time

import pytest
from conftest import Faulty, small_and_quick
from lib.chosen import chosen
from lib.load import Load
from lib.region import wait_for
from lib.s3raw import S3, error_code
from test_faults_zone import settle

CELLS = 4
SEGMENT = 8 << 20


def fill(region, seconds=1.5):
    """Some data in every cell, acknowledged 2/2, so that there is something to damage."""
    with Load(region) as load:
        time.sleep(seconds)
        load.wait_successes(40)
    return load


# ---- full ----

@pytest.fixture
def small_disks(net, fault_library):
    """A region whose zones have small file systems of their own."""
    net.enter()

    def edit(region):
        small_and_quick(region)
        for zone in ("a", "b"):
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m,mode=700", "nef-test",
                            region.path(f"zone-{zone}")], check=True)
    r = Faulty(net, fault_library, edit=edit, port_base=18200)
    try:
        yield r.up()
    finally:
        r.down(keep=True)
        for zone in ("a", "b"):
            subprocess.run(["umount", "-l", r.path(f"zone-{zone}")], capture_output=True)
        shutil.rmtree(r.directory, ignore_errors=True)
        net.leave()


@pytest.mark.parametrize("first", ["b"])
def test_disk_full(small_disks, first):
    """The peer's disk is full, then the primary's own: writes are refused with S3's code, reads and deletes go on,
    nothing is lost, and writes go on when there is space."""
    r = small_disks
    r.handover("a")
    s3 = S3.of(r, "a")
    with Load(r) as load:
        load.wait_successes(60)
    for zone in (first, "a"):
        ballast = r.path(f"zone-{zone}", "ballast")
        with open(ballast, "wb") as f:
            left = os.statvfs(r.path(f"zone-{zone}"))
            os.posix_fallocate(f.fileno(), 0, left.f_bavail * left.f_frsize - (8 << 20))
        for method, zone_asked in (("PUT", "a"), ("PUT", "b")):
            def refused():
                status, _, body = S3.of(r, zone_asked).request("PUT", "/load/full", body=b"x" * 300000)
                return status == 503 and error_code(body) in ("ServiceUnavailable", "SlowDown") and body
            body = wait_for(refused, 10)
            assert b"disk" in body or b"space" in body, body
        assert r.durability() == "2/2"
        key = next(iter(load.written))
        for asked in ("a", "b"):
            assert S3.of(r, asked).request("GET", f"/load/{key}")[0] == 200
        begin = load.history.begin()
        assert s3.request("DELETE", f"/load/{load.hot[0]}")[0] == 204
        load.history.add("full", load.hot[0], "delete", None, begin, "ok")
        os.unlink(ballast)
        wait_for(lambda: s3.request("PUT", "/load/again", body=b"x" * 300000)[0] == 200, 20)
    load.verify()


# ---- a failed sync ----

@pytest.mark.parametrize("zone", ["a", "b"])
def test_failed_sync(faulty, zone):
    """fdatasync fails once: the zone stops rather than believe the page cache, and recovers from its peer (R7)."""
    with Load(faulty) as load:
        load.wait_successes(60)
        before = faulty.pids()[f"zone-{zone}"]
        faulty.fault(f"zone-{zone}", "sync", "eio")
        wait_for(lambda: faulty.pids().get(f"zone-{zone}") != before, 10)  # it ended
        faulty.fault(f"zone-{zone}", "sync", None)
        load.wait_successes(60)
        settle(faulty, load, 60)


# ---- torn and corrupted bytes ----

def segments(region, zone, cell):
    return sorted(glob.glob(region.path(f"zone-{zone}", f"cell-{cell}", "*.seg")))


def last_segment(region, zone, cell, end):
    """(path, offset at which it begins) of the segment that the log ends in; one may be made ahead of it."""
    number = end // SEGMENT
    path = region.path(f"zone-{zone}", f"cell-{cell}", f"{number:016x}.seg")
    assert os.path.exists(path), (path, segments(region, zone, cell))
    return path, number * SEGMENT


def log_ends(region, zone):
    return {c["id"]: c["log_end"][zone] for c in region.status(zone)["cells"]}


def test_torn_log_tail(faulty):
    """kill -9, then the bytes above the last sync are torn: rubbish where the next record would be, and half of a
    record's bytes."""
    load = fill(faulty)
    ends = log_ends(faulty, "b")
    faulty.stop_zone("b", "--kill")
    for cell in range(CELLS):
        path, start = last_segment(faulty, "b", cell, ends[cell])
        with open(path, "r+b") as f:
            f.seek(ends[cell] - start)
            f.write(os.urandom(5000))
    faulty.start_zone("b")
    faulty.wait_durability("2/2", 40)
    load.verify()
    faulty.handover("b")
    load.verify()


@pytest.mark.parametrize("where", chosen("middle", "first-segment"))
def test_corrupt_log(faulty, where):
    """Bytes of acknowledged records change while the zone is away: it must not serve them, nor vote with them; it
    is repaired from its peer."""
    load = fill(faulty, 2)
    ends = log_ends(faulty, "b")
    faulty.stop_zone("b", "--kill")
    damaged = 0
    for cell in range(CELLS):
        path, start = last_segment(faulty, "b", cell, ends[cell])
        length = ends[cell] - start
        if where == "first-segment":
            path, length = segments(faulty, "b", cell)[0], SEGMENT
        with open(path, "r+b") as f:
            for part in (3, 2):
                f.seek(4096 + max(length - 4096, 0) // part)
                f.write(b"\xa5" * 64)
                damaged += 1
    assert damaged
    mark = faulty.log_size("zone-b")
    faulty.start_zone("b")
    faulty.wait_durability("2/2", 60)
    load.verify()
    faulty.handover("b")
    load.verify()
    fill(faulty, 2)  # what is still written to isn't scrubbed yet
    seen = []

    def whole():
        """Found at the start and cut, or found by the scrub and repaired; and no more is found."""
        seen.append(tuple(faulty.metric("b", f"nef_scrub_{w}_records_total") for w in ("bad", "repaired")))
        bad, repaired = seen[-1]
        cut = any(e.get("event") == "log_damaged" for e in faulty.log("zone-b", mark))
        return (cut or repaired > 0) and repaired >= bad and len(seen) > 20 and len(set(seen[-20:])) == 1
    try:
        wait_for(whole, 60, 0.5)
    except TimeoutError as e:
        raise AssertionError(f"bad and repaired records: {seen[-1]}{faulty.tails()}") from e
    faulty.nef("down", "--dir", faulty.directory)
    try:
        r = faulty.nef("fsck", "--dir", faulty.directory, check=False, timeout=120)
        assert r.returncode == 0, r.stdout + r.stderr
    finally:
        faulty.up()


def test_corrupt_index(faulty):
    """Files of the index are cut, changed, lost: the index is built anew from the log."""
    load = fill(faulty)
    faulty.stop_zone("b", "--kill")
    for cell in range(CELLS):
        files = sorted(glob.glob(faulty.path("zone-b", f"index-{cell}", "*")))
        assert files
        for n, path in enumerate(files):
            name = os.path.basename(path)
            if name == "CURRENT" and cell == 0:
                os.unlink(path)
            elif name.startswith("MANIFEST") and cell == 1:
                os.truncate(path, os.path.getsize(path) // 2)
            elif cell >= 2 and os.path.getsize(path) > 0:
                with open(path, "r+b") as f:
                    f.seek(os.path.getsize(path) // 2)
                    f.write(b"\x5a" * 32)
    faulty.start_zone("b")
    faulty.wait_durability("2/2", 60)

    def all_read():
        """A changed block may be met only when a client asks for what is in it: then the zone begins anew, with that
        index built from the log, and for a moment answers nobody (through the front the other zone would)."""
        return all(S3.of(faulty, "b").request("GET", "/load/" + key)[0] in (200, 404)
                   for key in [*load.hot, *list(load.written)[:300]])
    wait_for(all_read, 90)
    faulty.wait_durability("2/2", 60)
    load.verify()


# ---- a disk that forgot ----

@pytest.mark.parametrize("zone", chosen("b", "a"))
def test_wiped_directory(faulty, zone):
    """A new disk: an unknown replica joins by catch-up (R10)."""
    with Load(faulty) as load:
        load.wait_successes(60)
        faulty.stop_zone(zone, "--kill")
        load.wait_successes(30)
        for path in glob.glob(faulty.path(f"zone-{zone}", "*")):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        faulty.start_zone(zone)
        settle(faulty, load, 60)


def test_rolled_back_directory(faulty):
    """A zone comes back with a copy of its directory from before: it must not be believed, whatever etcd says."""
    load = fill(faulty)
    faulty.stop_zone("b")
    copy = faulty.path("copy-of-zone-b")
    shutil.copytree(faulty.path("zone-b"), copy)
    faulty.start_zone("b")
    faulty.wait_durability("2/2", 40)
    with Load(faulty) as later:
        later.wait_successes(80)
        faulty.stop_zone("b", "--kill")
        shutil.rmtree(faulty.path("zone-b"))
        shutil.move(copy, faulty.path("zone-b"))
        later.wait_successes(20)
        faulty.start_zone("b")
        settle(faulty, later, 60)
    load.verify()


@pytest.mark.soak
def test_rolled_back_directory_alone(faulty):
    """Both zones in sync die; only the rolled-back one comes again: it refuses to serve (R10)."""
    load = fill(faulty)
    faulty.stop_zone("b")
    copy = faulty.path("copy-of-zone-b")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(faulty.path("zone-b"), copy)
    # What is written before it is in sync again, in every cell, is what it can be caught at: the record holds
    # where each cell's log was when it joined. A copy of the same epoch looks like the log after a crash.
    for n in range(64):
        assert S3.of(faulty).request("PUT", f"/load/between-{n}", body=b"x")[0] == 200
    faulty.start_zone("b")
    faulty.wait_durability("2/2", 40)
    later = fill(faulty)
    faulty.kill_both_zones()
    shutil.rmtree(faulty.path("zone-b"))
    shutil.move(copy, faulty.path("zone-b"))
    faulty.start_zone("b")
    time.sleep(4)
    assert faulty.primary() is None, "a zone that forgot what it acknowledged serves"
    faulty.start_zone("a")
    faulty.wait_durability("2/2", 60)
    load.verify()
    later.verify()
