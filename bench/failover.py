"""Longest gap that clients see, for each way to lose a zone: rows for bench/RESULTS.md, with the exact limits. Exit
status 1 if one is missed. Cut links need root; without it those rows say so."""
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "system"))
from lib import gap  # noqa: E402
from lib.net import Net  # noqa: E402
from lib.region import Region  # noqa: E402

FAULTS = [
    ("kill -9 of zone a, the primary", 1.0, lambda r, net: r.stop_zone("a", "--kill"), "a"),
    ("kill -9 of zone b, the backup", 1.0, lambda r, net: r.stop_zone("b", "--kill"), "b"),
    ("SIGSTOP of zone a, the primary", 2.0, lambda r, net: r.stop_zone("a", "--pause"), "a"),
    ("SIGSTOP of zone b, the backup", 2.0, lambda r, net: r.stop_zone("b", "--pause"), "b"),
    ("link between the zones cut", 2.0, lambda r, net: net.cut(r, "ab", "ba"), None),
    ("zone a cut off from peer and witness", 2.0, lambda r, net: net.isolate(r, "a"), None),
]
missed = []


def rows(rounds):
    """(what, result, limit, beside) for each fault."""
    net = library = None
    env = {}
    if os.geteuid() == 0:
        net = Net(f"nefbench{os.getpid()}")
        library = tempfile.mkdtemp(prefix="nef-fault-") + "/fault.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-w", "-o", library,
                        os.path.join(ROOT, "tests", "system", "lib", "fault.c"), "-ldl", "-lpthread"], check=True)
        env = dict(net.environment(), LD_PRELOAD=library)
        net.enter()
    region = Region(env=env, edit=lambda r: [r.configure(z, {"timing": {"failback_after": "1h"}}) for z in "ab"])
    try:
        region.up()
        for what, limit, fault, stopped in FAULTS:
            if stopped is None and net is None:
                yield what, "not measured: needs root", f"{limit:.0f} s", ""
                continue
            gaps = []
            for _ in range(rounds):
                region.handover("a")
                gaps.append(gap.measure(region, lambda: fault(region, net), before=2, after=6)["gap_s"])
                if stopped is not None:
                    region.start_zone(stopped)
                if net is not None:
                    net.heal()
                region.wait_durability("2/2", 60)
            if max(gaps) >= limit:
                missed.append(what)
            yield (what, f"{max(gaps):.2f} s at most" + (" (missed)" if max(gaps) >= limit else ""),
                   f"{limit:.0f} s", f"longest gap over 8 clients; median of {rounds}: {statistics.median(gaps):.2f} s")
    finally:
        region.down()
        if net is not None:
            net.leave()
            net.close()
            shutil.rmtree(os.path.dirname(library), ignore_errors=True)


if __name__ == "__main__":
    print("| what | result | limit | beside |\n|---|---|---|---|")
    for row in rows(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        print("| " + " | ".join(row) + " |", flush=True)
    sys.exit(1 if missed else 0)
