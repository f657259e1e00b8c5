"""Random faults, one after another and several at once, over a region under load, for minutes: NEF_SOAK=1,
NEF_SOAK_SECONDS (1800). The seed is printed; NEF_SOAK_SEED repeats the order of faults (not their timing)."""
import glob
import os
import random
import shutil
import time

import pytest
from lib.load import Load


def wipe(region, zone):
    region.stop_zone(zone, "--kill")
    for path in glob.glob(region.path(f"zone-{zone}", "*")):
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


# (name, begin, end); at most one of these that takes a zone away, so that the region can go on. all_is_well: both zones
# have everything; else the disk that would be wiped may be the only one that does, and losing that is a loss
def zone_faults(rng, all_is_well=True):
    zone = rng.choice("ab")
    start = (lambda r: r.start_zone(zone))
    return rng.choice([
        (f"kill {zone}", lambda r: r.stop_zone(zone, "--kill"), start),
        (f"pause {zone}", lambda r: r.stop_zone(zone, "--pause"), start),
        (f"stop {zone}", lambda r: r.stop_zone(zone), start),
        (f"kill process {zone}", lambda r: r.kill(f"zone-{zone}"), lambda r: r.up()),
        (f"sync fails {zone}", lambda r: (r.fault(f"zone-{zone}", "sync", "eio"), time.sleep(1.5),
                                          r.fault(f"zone-{zone}", "sync", None)), lambda r: r.up()),
        (f"slow disk {zone}", lambda r: r.fault(f"zone-{zone}", "sync", 2000000),
         lambda r: r.fault(f"zone-{zone}", "sync", None)),
        ("cut", lambda r: r.net.cut(r, "ab", "ba"), lambda r: r.net.heal()),
        ("cut one way", lambda r: r.net.cut(r, "ab" if zone == "a" else "ba"), lambda r: r.net.heal()),
        ("lossy", lambda r: r.net.lossy(r, rng.choice([5, 20, 50]), "ab", "ba"), lambda r: r.net.heal()),
        (f"isolate {zone}", lambda r: r.net.isolate(r, zone), lambda r: r.net.heal()),
    ] + ([(f"wipe {zone}", lambda r: wipe(r, zone), start)] if all_is_well else []))


def other_faults(rng):
    name = rng.choice(["etcd-a", "etcd-b", "etcd-w", "front", "witness"])
    zone = rng.choice("ab")
    return rng.choice([
        None, None,
        # that a zone's member may be gone with the zone
        (f"kill {name}", lambda r: r.kill(name) if name in r.pids() else None, lambda r: None),
        (f"clock {zone}", lambda r: r.fault(f"zone-{zone}", "clock", rng.choice([3600, -3600, 30])),
         lambda r: r.fault(f"zone-{zone}", "clock", None)),
    ])


@pytest.mark.soak
def test_random_faults(faulty, capsys):
    seed = int(os.environ.get("NEF_SOAK_SEED", random.randrange(1 << 30)))
    until = time.monotonic() + float(os.environ.get("NEF_SOAK_SECONDS", "1800"))
    rng = random.Random(seed)
    count = 0
    while time.monotonic() < until:
        plan = [zone_faults(rng), other_faults(rng)]
        plan = [p for p in plan if p is not None]
        story = ", ".join(name for name, _, _ in plan)
        count += 1
        with capsys.disabled():
            print(f"\n  seed {seed}, round {count}: {story}", end="", flush=True)
        # a zone that restarts while its clock is wrong refuses signatures until it has heard from the others
        excused = ("RequestTimeTooSkewed",) if "clock" in story else ()
        begin = time.monotonic()
        with Load(faulty, excused=excused, bucket="soak", seed=rng.randrange(1 << 30)) as load:
            time.sleep(rng.uniform(0.2, 1))
            for _, start, _ in plan:
                start(faulty)
            time.sleep(rng.choice([0.1, 0.5, 1, 3, 8]))
            for _, _, end in plan:
                end(faulty)
            if rng.random() < 0.3:  # the next fault comes before all is well
                time.sleep(rng.uniform(0, 1))
                name, start, end = zone_faults(rng, all_is_well=False)
                with capsys.disabled():
                    print(f" then {name}", end="", flush=True)
                start(faulty)
                time.sleep(rng.uniform(0.1, 3))
                end(faulty)
            faulty.up()
            faulty.wait_durability("2/2", 90)
            load.wait_successes(30, 30)
        load.verify(sample=100)
        with capsys.disabled():
            print(f": {len(load.successes)} answers, {time.monotonic() - begin:.1f} s", end="")
    with capsys.disabled():
        print(f"\n  {count} rounds")
    assert count > 0
