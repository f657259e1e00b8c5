"""Clocks that are stepped by an hour, either way. See FAULTS.md."""
import datetime
import time

import pytest
from lib.chosen import chosen
from lib.load import Load
from lib.region import wait_for
from lib.s3raw import S3, error_code
from test_faults_zone import settle


@pytest.mark.parametrize("step", [3600, -3600])
@pytest.mark.parametrize("zone", chosen("b", "a"))
def test_clock_step(faulty, zone, step):
    """The clock of one zone jumps while it runs, and again it starts with a wrong clock: requests that clients with
    good clocks signed are taken by both zones, leases and epochs aren't touched."""
    # A zone that starts with a wrong clock hears from peer and witness before it judges a signature by it.
    starts = zone == "b" or step > 0  # one zone suffices for the start with a wrong clock
    with Load(faulty) as load:
        load.wait_successes(40)
        epoch = faulty.status("a")["epoch"]
        faulty.fault(f"zone-{zone}", "clock", step)
        time.sleep(2)
        load.wait_successes(60)
        assert faulty.status("a")["epoch"] == epoch, "a clock step cost a failover"
        assert faulty.durability() == "2/2"
        answers = [S3.of(faulty, z).request("GET", "/load/none") for z in ("a", "b")]
        assert [error_code(a[2]) for a in answers] == ["NoSuchKey"] * 2
        if starts:
            faulty.stop_zone(zone, "--kill")
            faulty.start_zone(zone)
            faulty.wait_durability("2/2", 40)

            wait_for(lambda: error_code(S3.of(faulty, zone).request("GET", "/load/none")[2]) == "NoSuchKey", 5)
            behind = faulty.metric(zone, "nef_clock_behind_seconds")
            assert abs(behind - step) < 60, behind  # it says by how much its clock is wrong
        faulty.fault(f"zone-{zone}", "clock", None)
        if starts:
            faulty.stop_zone(zone, "--kill")  # else it is an hour wrong the other way until it is outvoted again
            faulty.start_zone(zone)
        settle(faulty, load)
    skewed = S3.of(faulty, "a")
    skewed.skew = datetime.timedelta(minutes=20)
    status, _, body = skewed.request("GET", "/load/none")
    assert (status, error_code(body)) == (403, "RequestTimeTooSkewed")
