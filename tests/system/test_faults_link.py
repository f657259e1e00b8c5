"""Links that are cut, cut in one direction, lossy or slow. See FAULTS.md."""
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lib.load import Load
from lib.s3raw import S3
from lib.region import send_signal, wait_for
from test_faults_zone import settle


@pytest.mark.parametrize("cuts", [("ab", "ba"), ("ab",), ("ba",)], ids=["both-ways", "a-to-b", "b-to-a"])
def test_link_cut(faulty, cuts):
    with Load(faulty) as load:
        load.wait_successes(60)
        faulty.net.cut(faulty, *cuts)
        time.sleep(3)
        load.wait_successes(60)
        assert faulty.durability() == "1/2"
        faulty.net.heal()
        settle(faulty, load)


@pytest.mark.parametrize("zone", ["a", "b"])
def test_isolated_zone_answers_nothing(faulty, zone):
    """Cut off from peer and witness, but not from its clients: it must refuse what it can't know."""
    other = "b" if zone == "a" else "a"
    key = "/load/isolated"
    with Load(faulty) as load:
        load.wait_successes(40)
        here, there = S3.of(faulty, zone, timeout=8), S3.of(faulty, other, timeout=8)
        assert here.request("PUT", key, body=b"old")[0] == 200
        faulty.net.isolate(faulty, zone)
        wait_for(lambda: there.request("PUT", key, body=b"new")[0] == 200, 15)
        asked = [("GET", key, None, b""), ("HEAD", key, None, b""),
                 ("GET", "/load", {"list-type": 2}, b""), ("PUT", key, None, b"newer")]
        with ThreadPoolExecutor() as pool:  # each is held for 5 s, as through a failover
            answers = list(pool.map(lambda r: S3.of(faulty, zone, timeout=8).request(*r), asked))
        for request, (status, _, body) in zip(asked, answers):
            assert status == 503, f"an isolated zone answered {request}: {status} {body!r}"
        load.wait_successes(40)
        faulty.net.heal()
        settle(faulty, load)
        assert here.request("GET", key)[2] == b"new"


def test_lossy_link(faulty):
    """A link that loses packets slows the region or costs it the backup; it costs no object."""
    with Load(faulty) as load:
        load.wait_successes(40)
        faulty.net.lossy(faulty, 20, "ab", "ba")
        time.sleep(4)
        load.wait_successes(20)
        faulty.net.heal()
        settle(faulty, load, 60)


def test_flapping_link(faulty):
    with Load(faulty) as load:
        load.wait_successes(40)
        for pause in (0.2, 0.4, 0.7, 1.0, 0.3):
            faulty.net.cut(faulty, "ab", "ba")
            time.sleep(pause)
            faulty.net.heal()
            time.sleep(0.5)
        settle(faulty, load, 60)


def test_slow_peer(faulty):
    """Zone b's process runs a tenth of the time: it is slow, then out, and the region goes on."""
    done = threading.Event()

    def duty():
        pid = faulty.pids()["zone-b"]
        while not done.is_set():
            send_signal(pid, signal.SIGSTOP)
            time.sleep(0.18)
            send_signal(pid, signal.SIGCONT)
            time.sleep(0.02)
    with Load(faulty, where=(None, "a")) as load:
        load.wait_successes(40)
        slow = threading.Thread(target=duty)
        slow.start()
        try:
            time.sleep(4)
            load.wait_successes(40)
        finally:
            done.set()
            slow.join()
        settle(faulty, load, 60)


def test_slow_peer_disk(faulty):
    """Each sync of zone b takes 3 s: slow is gone (R9). The region goes on alone until the disk is good."""
    with Load(faulty, where=(None, "a")) as load:
        load.wait_successes(40)
        faulty.fault("zone-b", "sync", 3000000)
        wait_for(lambda: faulty.durability() == "1/2", 10)
        load.wait_successes(60)
        faulty.fault("zone-b", "sync", None)
        settle(faulty, load, 60)


def test_slow_own_disk(faulty):
    """The primary's own syncs stall: it hands over (R9)."""
    with Load(faulty) as load:
        load.wait_successes(40)
        faulty.fault("zone-a", "sync", 3000000)
        faulty.wait_primary("b", 15)
        load.wait_successes(40)
        faulty.fault("zone-a", "sync", None)
        settle(faulty, load, 60)
