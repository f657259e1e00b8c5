"""Damage in the only copy there is: nothing can repair it, and the region must live with it. See FAULTS.md."""
import glob
import os
import random
import shutil
import time

import pytest
from lib.chosen import chosen
from lib.load import Load
from lib.region import wait_for
from lib.s3raw import S3
from test_faults_disk import SEGMENT, fill, log_ends, segments

HEADER = 192


def some_record(path, part):
    """(place in the file, bytes) of what is to be damaged: a record's header, or the middle of its body."""
    with open(path, "rb") as f:
        data = f.read()
    places = [at for at in range(4096, len(data), 64) if data[at:at + 4] == b"NefR"]
    large = [(a, b) for a, b in zip(places, places[1:]) if b - a > 2048]
    at, after = large[len(large) // 2]
    return (at + 8, 16) if part == "header" else ((at + HEADER + after) // 2, 64)


@pytest.mark.parametrize("part", chosen("body", "header"))
def test_damage_in_the_only_copy(faulty, part):
    """Zone b's disk is wiped and a record of zone a, which b needs, is damaged: the link stays up, the region goes on
    at 1/2, b waits where an operator sees it, and joins when the record is there again."""
    load = fill(faulty, 3)
    faulty.stop_zone("b", "--kill")
    path = segments(faulty, "a", 0)[0]
    at, length = some_record(path, part)
    with open(path, "r+b") as f:
        f.seek(at)
        good = f.read(length)
        f.seek(at)
        f.write(bytes(x ^ 0x5a for x in good))
    for name in glob.glob(faulty.path("zone-b", "*")):
        shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
    mark = faulty.log_size("zone-a")
    faulty.start_zone("b")

    def blocked():
        a = {z["name"]: z for z in faulty.status("a")["zones"]}
        b = {z["name"]: z for z in faulty.status("b")["zones"]}
        assert a["b"]["state"] == "blocked" and a["b"]["blocked"]["cell"] == 0, a
        assert b["b"]["state"] == "blocked" and b["b"]["blocked"]["cell"] == 0, b
        return faulty.metric("a", "nef_catch_up_blocked") == 1
    wait_for(blocked, 40)
    time.sleep(12)
    blocked()
    told = faulty.log("zone-a", mark)
    closed = [e for e in told if e["event"] == "link_closed"]
    # damage that took the link down would do so with every try; a machine that stands still for a second does it once
    assert len(closed) <= 1, closed
    lost = [e for e in told if e["event"] == "record_unreadable"]
    assert lost and lost[0]["file"] == path and at - HEADER - 2000000 < lost[0]["file_offset"] <= at, lost
    assert len([e for e in told if e["event"] in ("log_damaged", "record_unreadable")]) < 30
    assert "can't be read in any zone" in faulty.nef("status", "--dir", faulty.directory).stdout
    s3 = S3.of(faulty)
    for n in range(40):  # not a write waits for the zone that can't catch up
        begun = time.monotonic()
        assert s3.request("PUT", f"/load/meanwhile-{part}-{n}", body=b"x" * 3000)[0] == 200
        assert time.monotonic() - begun < 1
    assert faulty.durability() == "1/2"
    with open(path, "r+b") as f:  # as if restored from a copy of the disk
        f.seek(at)
        f.write(good)
    faulty.wait_durability("2/2", 90)
    assert faulty.metric("a", "nef_catch_up_blocked") == 0
    load.verify()


def test_the_only_whole_disk_is_lost(faulty_new):
    """Zone b goes on alone, dies, and comes back with an empty disk: what it had acknowledged alone is gone. Neither zone
    serves, and an operator sees why. Once a person has accepted the loss, what zone a has is served, and b joins."""
    faulty = faulty_new
    with Load(faulty) as load:
        load.wait_successes(60)
    faulty.wait_durability("2/2", 30)
    s3 = S3.of(faulty)
    assert s3.request("PUT", "/load/both", body=b"both")[0] == 200
    faulty.stop_zone("a")
    wait_for(lambda: s3.request("PUT", "/load/only-b", body=b"only b")[0] == 200, 20)
    faulty.stop_zone("b", "--kill")
    for name in glob.glob(faulty.path("zone-b", "*")):
        shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
    faulty.start_zone("a")
    faulty.start_zone("b")
    place = ("--endpoint", faulty.zone("b")["admin"], "--token-file", faulty.path("secrets", "admin.token"))
    wait_for(lambda: "ZONE b DOESN'T SERVE: it isn't in sync, and neither is another zone" in
             faulty.nef("status", *place, check=False).stdout, 20)
    time.sleep(2)
    for name in ("both", "only-b"):
        assert s3.request("GET", "/load/" + name)[0] == 503
    faulty.nef("zone-recover", "--accept-loss", "--dir", faulty.directory, "a")
    faulty.wait_durability("2/2", 60)
    for primary in "ab":
        assert wait_for(lambda: s3.request("GET", "/load/both")[2] == b"both", 20)
        assert s3.request("GET", "/load/only-b")[0] == 404
        faulty.handover("b" if primary == "a" else "a")
    with Load(faulty) as after:
        after.wait_successes(60)
    after.verify()


@pytest.mark.soak
def test_accepted_loss_and_the_other_dropped_its_beginning(faulty_new):
    """Zone a goes on alone, drops its first segments and dies; what zone b has is accepted as all there is. Zone a's
    log begins above its end: it is kept aside, and a joins as an empty zone."""
    faulty = faulty_new
    fill(faulty)
    ends = log_ends(faulty, "b")
    faulty.stop_zone("b", "--kill")

    def dropped():
        return any(int(os.path.basename(segments(faulty, "a", c)[0])[:16], 16) * SEGMENT > ends[c] for c in ends)
    with Load(faulty, where=(None, "a"), once=False):  # overwrites: what they replace is compacted away
        wait_for(dropped, 120, 0.5)
    faulty.stop_zone("a", "--kill")
    faulty.start_zone("b")
    wait_for(lambda: faulty.status("b"), 20)
    mark = faulty.log_size("zone-a")
    faulty.nef("zone-recover", "--accept-loss", "--dir", faulty.directory)
    faulty.wait_primary("b", 30)
    wait_for(lambda: S3.of(faulty).request("PUT", "/load/after-the-loss", body=b"y")[0] == 200, 20)
    faulty.start_zone("a")
    faulty.wait_durability("2/2", 90)
    cut = [e for e in faulty.log("zone-a", mark) if e["event"] == "log_cut"]
    assert any(e["to"] == 4096 for e in cut), cut
    assert not [e for e in faulty.log("zone-a", mark) if e["event"] == "log_cut_not_kept"]
    assert glob.glob(faulty.path("zone-a", "lost", "cell-*"))
    assert wait_for(lambda: faulty.metric("a", "nef_lost_bytes"), 15) > 4096  # kind="accepted" is the first
    assert faulty.status("a")["lost"]["accepted_bytes"] > 4096
    faulty.handover("a")
    assert S3.of(faulty).request("GET", "/load/after-the-loss")[2] == b"y"
    with Load(faulty) as after:
        after.wait_successes(60)
    after.verify()


def test_what_failovers_leave_is_bounded(faulty_new):
    """What failovers made void is kept up to a bound, the oldest goes first; what an accepted loss gave up stays,
    whatever its size, and is told of."""
    faulty = faulty_new
    tails = glob.glob(faulty.path("zone-*", "lost", "tail-cell-*"))
    with Load(faulty) as load:
        for n in range(6):
            load.wait_successes(40)
            lost = faulty.primary()
            faulty.net.cut(faulty, "ab", "ba")  # what it writes from now on is its alone
            time.sleep(0.1)
            faulty.stop_zone(lost, "--kill")
            faulty.net.heal()
            load.wait_successes(20)
            faulty.start_zone(lost)
            faulty.wait_durability("2/2", 60)
            tails = glob.glob(faulty.path("zone-*", "lost", "tail-cell-*"))
            if tails:
                break
    load.verify()
    assert tails, "no failover made anything void"
    assert not glob.glob(faulty.path("zone-*", "lost", "cell-*"))  # nothing was given up
    faulty.stop_zone("b")
    os.makedirs(faulty.path("zone-b", "lost"), exist_ok=True)
    for name in glob.glob(faulty.path("zone-b", "lost", "*")):
        os.unlink(name)
    made = [f"tail-cell-0-{4096 * n:016x}-{0x19000000000 + n:016x}.records" for n in range(6)]
    made.append(f"cell-1-{4096:016x}-{0x18000000000:016x}.records")
    for name in random.sample(made, len(made)):
        with open(faulty.path("zone-b", "lost", name), "wb") as f:
            f.write(b"x" * (1 << 20))
    faulty.configure("b", {"lost": {"tails": "3MiB"}})
    mark = faulty.log_size("zone-b")
    faulty.start_zone("b")
    wait_for(lambda: sorted(os.listdir(faulty.path("zone-b", "lost"))) == sorted(made[3:]), 20)
    told = [e for e in faulty.log("zone-b", mark) if e["event"] in ("lost_tail_removed", "lost_kept")]
    assert [e.get("file") for e in told] == made[:3] + [None], told
    assert wait_for(lambda: faulty.status("b"), 20)["lost"] == {"accepted_bytes": 1 << 20, "tail_bytes": 3 << 20}
    faulty.wait_durability("2/2", 60)
    faulty.configure("b", {"lost": {"tails": "1GiB"}})
