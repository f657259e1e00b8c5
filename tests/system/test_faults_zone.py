"""A zone is lost: killed, paused, both killed, away for a while. See FAULTS.md."""
import os
import time

import pytest
from lib.load import Load
from lib.region import wait_for


def settle(region, load, seconds=40):
    """2/2 again under load, then stop it and check all that it saw."""
    region.wait_durability("2/2", seconds)
    load.wait_successes(30)
    load.stop()
    load.verify()


@pytest.mark.parametrize("zone", ["a", "b"])
def test_kill_zone(faulty, zone):
    with Load(faulty) as load:
        load.wait_successes(60)
        faulty.stop_zone(zone, "--kill")
        load.wait_successes(60)
        time.sleep(1)
        assert faulty.durability() == "1/2"
        faulty.start_zone(zone)
        settle(faulty, load)


@pytest.mark.parametrize("zone", ["a", "b"])
def test_pause_zone(faulty, zone):
    with Load(faulty) as load:
        load.wait_successes(60)
        faulty.stop_zone(zone, "--pause")
        load.wait_successes(60)
        time.sleep(2)
        faulty.start_zone(zone)
        settle(faulty, load)


@pytest.mark.parametrize("zone", ["a", "b"])
def test_pause_zone_for_a_moment(faulty, zone):
    """Shorter than a takeover, longer than a lease: what it held must not answer when it wakes."""
    with Load(faulty) as load:
        load.wait_successes(60)
        for pause in (0.3, 0.6, 1.2):
            faulty.stop_zone(zone, "--pause")
            time.sleep(pause)
            faulty.start_zone(zone)
            load.wait_successes(20)
            faulty.wait_durability("2/2", 40)
        settle(faulty, load)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_both_zones_killed(faulty, order):
    with Load(faulty) as load:
        load.wait_successes(60)
        faulty.kill_both_zones()
        time.sleep(0.5)
        faulty.start_zone(order[0])
        load.wait_successes(20, 30)  # it was in sync: it may go on alone
        faulty.start_zone(order[1])
        settle(faulty, load)


def test_both_zones_killed_one_after_the_other(faulty):
    """b dies, a goes on alone and dies: b alone must refuse rather than answer from the past."""
    with Load(faulty) as load:
        load.wait_successes(40)
        faulty.stop_zone("b", "--kill")
        load.wait_successes(60)
        wait_for(lambda: faulty.durability() == "1/2", 10)
        faulty.stop_zone("a", "--kill")
        faulty.start_zone("b")
        time.sleep(4)
        assert faulty.primary() is None, "a zone that lacks acknowledged objects serves"
        faulty.start_zone("a")
        settle(faulty, load, 60)


def test_host_lost_then_catch_up(faulty):
    with Load(faulty, clients=4) as load:
        load.wait_successes(30)
        faulty.stop_zone("b", "--kill")
        time.sleep(float(os.environ.get("NEF_LOST_S", "6")))
        load.wait_successes(30)
        faulty.start_zone("b")
        settle(faulty, load, 60)


@pytest.mark.soak
def test_catch_up_over_dropped_segments(faulty):
    """While b is away, compaction drops segments that it lacks: it skips them, and may be killed while it does."""
    before = faulty.log_size("zone-b")
    with Load(faulty, keys=4, once=False) as load:
        load.wait_successes(300)
        faulty.stop_zone("b", "--kill")
        mark = faulty.log_size("zone-a")

        def dropped():
            return sum(e.get("event") == "segment_dropped" for e in faulty.log("zone-a", mark)) >= 3
        wait_for(dropped, 40, 0.5)
        faulty.start_zone("b")
        for pause in (0.15, 0.3, 0.6):  # interrupted wherever it is
            time.sleep(pause)
            faulty.kill("zone-b")
            faulty.up()
        settle(faulty, load)
    assert any(e.get("event") == "log_skip" for e in faulty.log("zone-b", before)), "nothing was skipped"
