"""The third place is lost, etcd members die, and too much is lost at once (R8). See FAULTS.md."""
import json
import random
import re
import shutil
import signal
import ssl
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from lib.chosen import chosen
from lib.load import Load
from lib.region import send_signal, wait_for
from lib.s3raw import S3
from test_faults_zone import settle


def members(region):
    """Which of etcd's three are well, as zone a sees them."""
    return sorted(e["healthy"] for e in region.status("a")["etcd"])


@pytest.mark.parametrize("member", ["etcd-a", "etcd-b", "etcd-w"])
def test_dead_etcd_member(faulty, member):
    """No request needs etcd: nothing is seen by clients, the epoch stays."""
    with Load(faulty) as load:
        load.wait_successes(40)
        epoch = faulty.status("a")["epoch"]
        before = len(load.successes)
        faulty.kill(member)
        time.sleep(2)
        assert faulty.status("a")["epoch"] == epoch
        assert faulty.durability() == "2/2"
        times = load.successes[before:]
        gap = max(b - a for a, b in zip(times, times[1:]))
        assert gap < 1, f"{gap} s without an answer"
        wait_for(lambda: members(faulty) == [False, True, True], 20)
        faulty.up()  # starts at once what waits for its back-off
        settle(faulty, load)
        wait_for(lambda: members(faulty) == [True, True, True], 20)
        assert not [w for w in load.counts if w.split()[1] in ("0", "503")], load.counts


def test_dead_witness(faulty):
    """With the whole third place gone the region serves 2/2 and loses nothing but its vote."""
    with Load(faulty) as load:
        load.wait_successes(40)
        epoch = faulty.status("a")["epoch"]
        wait_for(lambda: faulty.status("a")["witness"]["answers"] is True, 20)  # over TLS
        faulty.stop_zone("w", "--kill")
        time.sleep(2)
        load.wait_successes(60)
        assert faulty.status("a")["epoch"] == epoch
        assert faulty.durability() == "2/2"
        wait_for(lambda: faulty.status("a")["witness"]["answers"] is False, 20)
        wait_for(lambda: members(faulty) == [False, True, True], 20)
        table = faulty.nef("status", "--dir", faulty.directory).stdout
        assert "UNREACHABLE" in table and table.count("UNHEALTHY") == 1 and table.count("healthy") == 2, table
        faulty.start_zone("w")
        settle(faulty, load)


def refused(region, zone):
    """Reads and writes of ZONE are refused, all of them."""
    asked = [("PUT", "/load/refused", None, b"x"), ("GET", "/load/refused", None, b""),
             ("GET", "/load", {"list-type": 2}, b"")]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda r: S3.of(region, zone, timeout=8).request(*r), asked))
    assert [a[0] for a in answers] == [503, 503, 503], answers


def overrides(region, epoch):
    """Every cell's log of both zones holds one record of the loss accepted in EPOCH, at the same place."""
    region.nef("down", "--dir", region.directory)
    try:
        r = region.nef("fsck", "--dir", region.directory, check=False, timeout=120)
    finally:
        region.up()
    assert r.returncode == 0, r.stdout + r.stderr
    found = re.findall(r"zone (\w), cell (\d), offset (\d+): an operator accepted a loss in epoch (\d+)", r.stdout)
    found = [f for f in found if int(f[3]) == epoch]
    places = {(zone, cell): offset for zone, cell, offset, _ in found}
    assert len(found) == len(places) == 8, r.stdout
    assert all(places["a", cell] == places["b", cell] for cell in "0123"), r.stdout


def test_witness_lost_then_zone(faulty):
    """The witness, then a zone: the other can't know whether it was cut off, and refuses rather than lies. A person's
    word brings it back; then the lost ones return and it is 2/2 again. What was accepted is a record in every cell."""
    with Load(faulty) as load:
        load.wait_successes(60)
        faulty.stop_zone("w", "--kill")
        faulty.stop_zone("b", "--kill")
        time.sleep(1.5)
        refused(faulty, "a")
        # the record says 2/2 and nobody can change it: the table says what that is worth
        wait_for(lambda: "ZONE a DOESN'T SERVE: b is in sync, too, and can't be reached" in
                 faulty.nef("status", "--dir", faulty.directory).stdout, 10)
        r = faulty.nef("zone-recover", "--dir", faulty.directory, "a", check=False)
        assert r.returncode == 2 and "accept-loss" in r.stderr  # not without the word
        refused(faulty, "a")
        faulty.nef("zone-recover", "--accept-loss", "--dir", faulty.directory, "a")
        load.wait_successes(40)
        assert faulty.durability() == "1/2"
        accepted = faulty.status("a")["epoch"]
        faulty.start_zone("w")
        faulty.start_zone("b")
        settle(faulty, load, 60)
    overrides(faulty, accepted)


def test_all_etcd_members_lost_their_data(faulty):
    """Clients notice nothing; etcd begins anew and the zone that an operator names writes the record into it."""
    with Load(faulty) as load:
        load.wait_successes(40)
        before = faulty.status("a")["epoch"]
        for member in ("etcd-a", "etcd-b", "etcd-w"):
            faulty.kill(member)
            shutil.rmtree(faulty.path(member, "member"))
        load.wait_successes(40)
        r = faulty.nef("zone-recover", "--accept-loss", "--dir", faulty.directory, "b", check=False)
        # a first zone with an empty disk would begin a new region
        assert r.returncode == 1 and "stop the first zone" in r.stderr, r.stderr
        faulty.nef("zone-recover", "--accept-loss", "--dir", faulty.directory, "a")
        assert faulty.status("a")["epoch"] > before
        settle(faulty, load, 60)


def test_accepted_loss_is_recorded_once(faulty):
    """The zone that accepted a loss dies at once, before it could write the record or just after, and again later. Each
    cell gets its record all the same, and only once."""
    assert S3.of(faulty).request("PUT", "/accepted")[0] == 200
    for n in range(20):
        assert S3.of(faulty).request("PUT", f"/accepted/before-{n}", body=b"x")[0] == 200
    faulty.stop_zone("w", "--kill")
    faulty.stop_zone("b", "--kill")
    before = faulty.status("a")["epoch"]

    def won():
        return [e["epoch"] for e in faulty.log("zone-a") if e.get("event") == "epoch_swap" and
                e["outcome"] == "won" and e["epoch"] > before + 1]
    with ThreadPoolExecutor() as pool:  # the command waits for the new epoch: the zone dies while it does
        command = pool.submit(faulty.nef, "zone-recover", "--accept-loss", "--dir", faulty.directory, "a", timeout=150)
        accepted = wait_for(won, 60, 0.005)[-1]
        faulty.kill("zone-a")
        faulty.start_zone("w")
        faulty.up()
        assert "goes on alone" in command.result().stdout
    for n in range(2):
        wait_for(lambda: S3.of(faulty, "a").request("PUT", f"/accepted/after-{n}", body=b"x")[0] == 200, 60)
        faulty.kill("zone-a")
        faulty.up()
    faulty.start_zone("b")
    faulty.wait_durability("2/2", 60)
    overrides(faulty, accepted)


def etcd_says(member, ca):
    """What this very member holds, not what the cluster agrees on: a serializable read of everything."""
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(member["cert"], member["key"])
    request = urllib.request.Request(
        member["endpoint"] + "/v3/kv/range", data=json.dumps(
            {"key": "AA==", "range_end": "AA==", "serializable": True}).encode())
    with urllib.request.urlopen(request, timeout=2, context=context) as r:
        answer = json.load(r)
    return answer["header"]["cluster_id"], answer["header"]["revision"], answer["kvs"]


def wait_etcd_agrees(region, seconds=60):
    """All three members hold the same record at the same revision."""
    def said():
        return [etcd_says(m, region.json["ca"]) for m in region.load()["etcd"]]

    def agree():
        first, *others = said()
        return all(o == first for o in others)
    try:
        wait_for(agree, seconds, 0.2)
    except TimeoutError as e:
        raise AssertionError(f"etcd's members hold different data: {said()}") from e


@pytest.mark.soak
@pytest.mark.parametrize("survivor", chosen("b", "a"))
def test_etcd_agrees_after_an_accepted_loss(faulty, survivor):
    """A loss is accepted straight after the kills, when etcd's survivor has applied more than its log says is decided.
    When the lost ones are back, all members hold the same, and the region is handed over either way."""
    lost = "b" if survivor == "a" else "a"
    assert S3.of(faulty).request("PUT", "/agrees")[0] in (200, 409)
    written = []

    def put(zone, name):
        def done():
            return S3.of(faulty, zone, timeout=8).request("PUT", f"/agrees/{name}", body=name.encode())[0] == 200
        wait_for(done, 30)
        written.append(name)

    for n in range(2):
        put("a", f"{survivor}-{n}-before")
        for to in ("b", "a") * random.randrange(2):  # records that were made just now
            faulty.handover(to)
        time.sleep(random.uniform(0, 0.5))
        faulty.stop_zone("w", "--kill")
        faulty.stop_zone(lost, "--kill")
        epoch = faulty.status(survivor)["epoch"]
        time.sleep(random.choice([0, 0, random.uniform(0, 1)]))
        faulty.nef("zone-recover", "--accept-loss", "--dir", faulty.directory, survivor, timeout=150)
        put(survivor, f"{survivor}-{n}-alone")
        assert faulty.status(survivor)["epoch"] > epoch
        faulty.start_zone("w")
        faulty.start_zone(lost)
        faulty.wait_durability("2/2", 60)
        wait_etcd_agrees(faulty)
        for to in (lost, survivor):
            faulty.handover(to)
        wait_etcd_agrees(faulty)
    for zone in ("a", "b"):
        for name in written:
            status, _, body = S3.of(faulty, zone, timeout=8).request("GET", f"/agrees/{name}")
            assert (status, body) == (200, name.encode()), (zone, name, status)


def test_zone_lost_then_witness(faulty):
    """The other order: the survivor was alone in sync already, so it goes on without the witness."""
    with Load(faulty) as load:
        load.wait_successes(40)
        faulty.stop_zone("a", "--kill")
        load.wait_successes(20)
        wait_for(lambda: faulty.durability() == "1/2", 10)
        faulty.stop_zone("w", "--kill")
        time.sleep(2)
        load.wait_successes(60)
        faulty.start_zone("w")
        faulty.start_zone("a")
        settle(faulty, load, 60)


def test_zone_paused_while_the_witness_is_away(faulty):
    """Too much is gone for a moment only: what was refused goes on by itself, and nothing was lost."""
    with Load(faulty) as load:
        load.wait_successes(40)
        faulty.stop_zone("w", "--kill")
        faulty.stop_zone("b", "--pause")
        time.sleep(3)
        faulty.start_zone("b")
        faulty.start_zone("w")
        settle(faulty, load, 60)


# ---- single processes ----

def test_kill_each_process(faulty):
    """kill -9 of each process by itself, the supervisor included; `nef up` brings back what is missing."""
    with Load(faulty) as load:
        for name in ("front", "witness", "etcd-w", "etcd-a", "etcd-b", "zone-b", "zone-a"):
            load.wait_successes(20, 20)
            before = faulty.pids()[name]
            faulty.kill(name)
            time.sleep(0.7)
            faulty.up()
            assert faulty.pids()[name] != before
            faulty.wait_durability("2/2", 40)
        with open(faulty.path("supervisor.pid")) as f:
            supervisor = int(f.read())
        pids = faulty.pids()
        send_signal(supervisor, signal.SIGKILL)
        faulty.kill("zone-a")  # nobody restarts it now
        load.wait_successes(40)
        faulty.up()
        after = faulty.pids()
        assert after.pop("zone-a") != pids.pop("zone-a")
        assert after == pids, "what ran was not left alone"
        settle(faulty, load)


def test_supervisor_restarts_what_crashed(faulty):
    with Load(faulty) as load:
        load.wait_successes(20)
        before = faulty.pids()["zone-b"]
        faulty.kill("zone-b")
        begin = time.monotonic()
        wait_for(lambda: faulty.pids().get("zone-b", before) != before, 20)
        assert time.monotonic() - begin > 4, "the back-off is 5 s"
        settle(faulty, load)
