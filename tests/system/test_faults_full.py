"""Disks that are full to the last byte, the log's and the index's each on a file system of its own. See FAULTS.md."""
import http.client
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Faulty, small_and_quick
from lib.chosen import chosen
from lib.load import Load
from lib.region import wait_for
from lib.s3raw import S3, error_code

CELLS = 4


def mount(image, megabytes, where):
    """A file system of ext4, since it keeps blocks to itself and gives freed ones back late, as a real disk does."""
    subprocess.run(["truncate", "-s", f"{megabytes}M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    os.makedirs(where, exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)


@pytest.fixture
def two_disks(net, fault_library):
    """A region whose zones have a disk for the log (and all else) and a smaller one for the index."""
    mounts = []
    net.enter()

    def edit(region):
        small_and_quick(region)
        for zone in ("a", "b"):
            data, index = region.path(f"zone-{zone}"), region.path(f"disk-index-{zone}")
            mount(region.path(f"log-{zone}.img"), 320, data)
            mount(region.path(f"index-{zone}.img"), 48, index)
            mounts.extend((data, index))
            os.chmod(data, 0o700)
            for cell in range(CELLS):
                for path in (f"{index}/{cell}", f"{data}/index-{cell}"):
                    os.mkdir(path, 0o700)
                subprocess.run(["mount", "--bind", f"{index}/{cell}", f"{data}/index-{cell}"], check=True)
                mounts.append(f"{data}/index-{cell}")
            region.configure(zone, {"limits": {"index_write_buffer": "1MiB"}})  # small, so that it is flushed often
    r = Faulty(net, fault_library, edit=edit, port_base=18400)
    try:
        yield r.up()
    finally:
        r.down(keep=True)
        for path in reversed(mounts):
            subprocess.run(["umount", "-l", path], capture_output=True)
        shutil.rmtree(r.directory, ignore_errors=True)
        net.leave()


class Ballast:
    """Takes every byte of a file system; leave() gives all back."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "ballast")
        self.again()

    def again(self):
        """And what was freed since."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (1 << 20, 4096, 512):
                try:
                    while os.write(fd, b"\xaa" * size) > 0:
                        pass
                except OSError:
                    pass
            os.fsync(fd)
        finally:
            os.close(fd)

    def leave(self):
        os.unlink(self.path)


def put(region, zone, name, size=3000, timeout=8):
    return S3.of(region, zone, timeout=timeout).request("PUT", f"/load/{name}", body=b"x" * size)


def refused_for_space(region, zone):
    """503 that names the disk; anything else but success and a time-out is an error."""
    status, _, body = put(region, zone, "refused", 300000)
    assert status in (200, 503), (status, body)
    return status == 503 and error_code(body) in ("ServiceUnavailable", "SlowDown") and \
        (b"disk" in body or b"space" in body)


def reads_go_on(region, load, zones=("a", "b")):
    keys = list(load.written)[:20]
    for zone in zones:
        for key in keys:
            assert S3.of(region, zone).request("GET", f"/load/{key}")[0] == 200


def long_names(s3):
    """Objects of a byte with names of a kilobyte, until one is refused."""
    for _ in range(200):
        try:
            if s3.request("PUT", f"/load/{os.urandom(500).hex()}", body=b"x")[0] != 200:
                return
        except (OSError, http.client.HTTPException):
            return


@pytest.mark.parametrize("zone", chosen("a", "b"))
def test_index_disk_full(two_disks, zone):
    """The disk of a zone's index is full, the log's isn't. What can't be applied isn't acknowledged; once it is known,
    writes are refused in both zones with the reason; reads go on; and all goes on when there is room."""
    r = two_disks
    r.handover("a")
    with Load(r, large=False) as load:
        load.wait_successes(300)
    before = r.pids()[f"zone-{zone}"]
    ballast = Ballast(r.path(f"disk-index-{zone}"))
    begin = time.monotonic()
    with Load(r, large=False, excused=("ServiceUnavailable", "SlowDown")) as during:
        clients = [S3.of(r, zone, timeout=8) for _ in range(4)]
        with ThreadPoolExecutor() as pool:
            while time.monotonic() - begin < 90 and not r.metric(zone, "nef_index_full"):
                list(pool.map(long_names, clients))  # rows, above all
                ballast.again()
    print(f"index full after {time.monotonic() - begin:.1f} s")
    assert r.metric(zone, "nef_index_full") == 1
    for asked in ("a", "b"):
        wait_for(lambda: refused_for_space(r, asked), 30)
    reads_go_on(r, load)
    assert r.pids()[f"zone-{zone}"] == before, "it has ended"
    assert [e for e in r.log(f"zone-{zone}") if e["event"] == "index_no_space"]
    ballast.leave()
    begin = time.monotonic()
    wait_for(lambda: put(r, zone, "again")[0] == 200, 100)
    print(f"writes go on {time.monotonic() - begin:.1f} s after there was room")
    r.wait_durability("2/2", 60)
    during.verify()
    load.verify()


@pytest.mark.parametrize("zone", chosen("b", "a"))
def test_log_disk_full_to_the_last_byte(two_disks, zone):
    """Not a byte is left on the disk of a zone's log, the index's has room. Writes are refused, reads and deletes go
    on. Then the other zone dies, and the epoch that follows is written all the same; then this one, and it starts."""
    r = two_disks
    r.handover("a")
    other = "b" if zone == "a" else "a"
    with Load(r, large=False) as load:
        load.wait_successes(300)
    ballast = Ballast(r.path(f"zone-{zone}"))
    for asked in ("a", "b"):
        wait_for(lambda: refused_for_space(r, asked), 15)
    reads_go_on(r, load)

    def delete(asked, n):
        begin = load.history.begin()
        status = S3.of(r, asked, timeout=8).request("DELETE", f"/load/{load.hot[n]}")[0]
        load.history.add("full", load.hot[n], "delete", None, begin, "ok" if status == 204 else "unknown")
        return status == 204
    assert delete("a", 0) and delete("b", 1)
    ballast.again()
    r.stop_zone(other, "--kill")
    wait_for(lambda: r.durability() == "1/2", 15)
    assert r.primary() == zone
    reads_go_on(r, load, (zone,))
    assert refused_for_space(r, zone)
    assert delete(zone, 2)
    before = r.pids()[f"zone-{zone}"]
    r.kill(f"zone-{zone}")
    ballast.again()
    wait_for(lambda: r.pids().get(f"zone-{zone}", before) != before, 20)
    wait_for(lambda: r.status(zone)["ready"], 30)
    reads_go_on(r, load, (zone,))
    wait_for(lambda: refused_for_space(r, zone), 15)
    ballast.leave()
    wait_for(lambda: put(r, zone, "again")[0] == 200, 30)
    r.start_zone(other)
    r.wait_durability("2/2", 60)
    load.verify()
