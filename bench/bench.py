"""The measurements of `make bench`. See run.sh; the limits are those of the project's first speed and recovery."""
import argparse
import datetime
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "system"))
sys.path.insert(0, os.path.join(ROOT, "bench"))
from lib.region import Region, wait_for  # noqa: E402
from lib.s3raw import S3  # noqa: E402
import failover  # noqa: E402
import gateway  # noqa: E402
import infer  # noqa: E402
import serve  # noqa: E402

MIB = 1 << 20
OUT = os.path.join(ROOT, "build", "bench")


def bare_sync(directory, seconds):
    out = subprocess.run([os.path.join(OUT, "sync_loop"), os.path.join(directory, "sync_loop.tmp"), str(seconds)],
                         capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def urls(s3, method, keys, path):
    begin = len(f"{s3.scheme}://{s3.host}:{s3.port}")
    with open(path, "w") as f:
        for key in keys:
            f.write(s3.presign(method, key, expires=86400)[begin:] + "\n")


def wrk_command(s3, method, path, connections, seconds, body_bytes=0):
    return ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s",
            os.path.join(ROOT, "bench", "wrk.lua"), f"http://{s3.host}:{s3.port}", "--", path, method,
            str(body_bytes)]


def wrk_result(out):
    line = next(line for line in out.splitlines() if line.startswith("JSON "))
    r = json.loads(line[5:])
    if r["status_errors"] or r["socket_errors"]:
        print(f"  errors: {r}", file=sys.stderr)
    return r


def wrk(*args, **kw):
    return wrk_result(subprocess.run(wrk_command(*args, **kw), capture_output=True, text=True, check=True).stdout)


class Bench:
    def __init__(self, quick):
        self.quick = quick
        self.rows = []
        self.directory = tempfile.mkdtemp(prefix="region-", dir=OUT)
        self.region = Region(directory=os.path.join(self.directory, "r"))

    def row(self, what, result, limit, beside=""):
        self.rows.append((what, result, limit, beside))
        print(f"  {what}: {result} (limit {limit}) {beside}", file=sys.stderr, flush=True)

    def start(self):
        self.region.up()
        self.region.wait_durability()
        self.s3 = S3.of(self.region, "a", timeout=60)
        status, _, body = self.s3.request("PUT", "/bench")
        assert status == 200, body

    def close(self):
        self.region.down()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- speed ----

    def speed(self):
        seconds = 2 if self.quick else 30
        small = [f"/bench/s/{n}" for n in range(2000 if self.quick else 50000)]
        large = [f"/bench/l/{n}" for n in range(16 if self.quick else 256)]
        path = os.path.join(self.directory, "urls")

        def beside(before, after):
            return (f"bare 4 KiB write and fdatasync: {before['syncs_per_s']:.0f}/s p50 {before['p50_us']:.0f} us "
                    f"before, {after['syncs_per_s']:.0f}/s p50 {after['p50_us']:.0f} us after")

        def measure(method, keys, connections, body_bytes, what, limit, describe):
            urls(self.s3, method, keys, path)
            before = bare_sync(self.directory, 1)
            r = wrk(self.s3, method, path, connections, seconds, body_bytes)
            after = bare_sync(self.directory, 1)
            durability = self.region.durability()
            self.row(what, describe(r) + f", p50 {r['p50_ms']:.2f} ms, p99 {r['p99_ms']:.2f} ms", limit,
                     f"durability {durability}; " + beside(before, after))

        def rate(r):
            return f"{(r['requests'] - r['status_errors']) / r['seconds']:,.0f}/s"
        measure("PUT", small, 64, 4096, "PUT 4 KiB, 64 connections", "4,000/s", rate)
        self.fill(small, 4096)  # what wrk didn't reach
        measure("GET", small, 64, 0, "GET 4 KiB, 64 connections", "20,000/s", rate)
        self.fill(large, MIB)
        measure("GET", large, 16, 0, "GET 1 MiB, 16 connections", "0.8 GB/s",
                lambda r: f"{r['bytes'] / r['seconds'] / 1e9:.2f} GB/s")

    def fill(self, keys, size):
        """Put what isn't there."""
        jobs = 8
        with multiprocessing.Pool(jobs) as pool:
            pool.starmap(fill_some, [(self.region.json, keys[i::jobs], size) for i in range(jobs)])

    # ---- memory ----

    def memory(self):
        total = 256 * MIB if self.quick else 5 << 30
        size, jobs = 64 * MIB, 8
        pids = {z: self.region.pids()[f"zone-{z}"] for z in ("a", "b")}
        for pid in pids.values():
            with open(f"/proc/{pid}/clear_refs", "w") as f:
                f.write("5")  # the high-water mark begins anew
        begin = time.monotonic()
        with multiprocessing.Pool(jobs) as pool:
            pool.starmap(upload_some, [(self.region.json, n, size) for n in range(total // size)], chunksize=1)
        took = time.monotonic() - begin
        for zone, pid in pids.items():
            with open(f"/proc/{pid}/status") as f:
                status = dict(line.split(":", 1) for line in f)
            hwm = int(status["VmHWM"].split()[0]) * 1024
            anon = int(status["RssAnon"].split()[0]) * 1024
            self.row(f"RSS of zone {zone} while {total / (1 << 30):.2g} GiB are uploaded through zone a",
                     f"{hwm / 1e6:.0f} MB at most", "250 MB",
                     f"anonymous at the end {anon / 1e6:.0f} MB; {total / took / 1e6:.0f} MB/s")

    # ---- catch-up ----

    def catchup(self):
        for loaded in (False, True):
            total = 200 * MIB if self.quick else 6 << 30
            self.region.wait_durability("2/2", 120)
            self.region.stop_zone("b")
            wait_for(lambda: self.region.durability() == "1/2", 20)
            size = 16 * MIB
            with multiprocessing.Pool(4) as pool:
                pool.starmap(upload_some, [(self.region.json, 1000 + n, size) for n in range(total // size)],
                             chunksize=1)
            load = None
            if loaded:
                path = os.path.join(self.directory, "urls")
                urls(self.s3, "PUT", [f"/bench/c/{n}" for n in range(20000)], path)
                load = subprocess.Popen(wrk_command(self.s3, "PUT", path, 64, 5 if self.quick else 60, 4096),
                                        stdout=subprocess.PIPE, text=True)
                time.sleep(1)
            self.region.start_zone("b")
            first = last = None
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline:
                now = time.monotonic()
                try:
                    status = self.region.status("a")
                except OSError:
                    continue
                b = next(z for z in status["zones"] if z["name"] == "b")
                if b["catch_up"] and b["catch_up"]["bytes_left"] > 0:
                    first = first or (now, b["catch_up"]["bytes_left"])
                    last = now
                if b["in_sync"] and status["durability"] == "2/2":
                    last = last or now
                    break
                time.sleep(0.02)
            in_sync = time.monotonic()
            name = "catch-up under the PUT load" if loaded else "catch-up, idle region"
            limit = "100 MB/s" if loaded else "250 MB/s"
            if first is None:
                self.row(name, f"{total / MIB:.0f} MiB, too quick to be seen", limit)
            else:
                self.row(name, f"{first[1] / max(in_sync - first[0], 1e-3) / 1e6:.0f} MB/s", limit,
                         f"{first[1] / 1e6:.0f} MB in {in_sync - first[0]:.1f} s, then 2/2")
            if load is not None:
                r = wrk_result(load.communicate()[0])
                self.row("PUT 4 KiB meanwhile", f"{r['requests'] / r['seconds']:,.0f}/s, p99 {r['p99_ms']:.1f} ms",
                         "-", f"{r['status_errors'] + r['socket_errors']} errors")

    def failover(self):
        for row in failover.rows(rounds=1 if self.quick else 5):
            self.row(*row)


def client(j):
    return S3(next(z["s3"] for z in j["zones"] if z["name"] == "a"), j["access_key"], j["secret_key"], j["region"],
              timeout=120)


def fill_some(j, keys, size):
    s3, body = client(j), b"n" * size
    for key in keys:
        if s3.request("HEAD", key)[0] != 200:
            status, _, text = s3.request("PUT", key, body=body)
            assert status == 200, text


def upload_some(j, n, size):
    status, _, text = client(j).request("PUT", f"/bench/u/{n}", body=memoryview(bytes(size)))
    assert status == 200, text


def machine():
    def output(*args):
        r = subprocess.run(args, capture_output=True, text=True)
        return r.stdout.strip()
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "?")
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) / 1e6
    disk = output("df", "--output=source,fstype", OUT).splitlines()[-1]
    commit = output("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD")
    dirty = "" if not output("git", "-C", ROOT, "status", "--porcelain", "-uno") else " with changes"
    return (f"{model}, {os.cpu_count()} processors, {memory:.0f} GB memory, disk {' '.join(disk.split())}, "
            f"Linux {os.uname().release}; commit {commit}{dirty}")


def measure_region(parts, quick):
    """Lines of markdown."""
    bench = Bench(quick)
    try:
        if set(parts) - {"failover"}:
            bench.start()
        for part in parts:
            if part == "failover":
                bench.region.down()  # one region at a time
            getattr(bench, part)()
    finally:
        bench.close()
    lines = [machine() + ".", "",
             "A region of `nef up` with its presets, TLS between zones, both zones syncing; "
             "wrk with presigned URLs straight at zone a, on the same machine.", "",
             "| what | result | limit | beside |", "|---|---|---|---|"]
    return lines + ["| " + " | ".join(row) + " |" for row in bench.rows]


def main():
    regional = ["speed", "memory", "catchup", "failover"]
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("parts", nargs="*", choices=[[], "infer", "serve", "gateway"] + regional)
    args = parser.parse_args()
    parts = args.parts or ["infer", "serve", "gateway"] + regional
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"### {now}" + (" (quick: a smoke test, not a measurement)" if args.quick else ""), "",
             f"Command: `{' '.join(['bench/run.sh'] + sys.argv[1:])}`."]
    if "infer" in parts:
        lines += [""] + infer.measure(args.quick)
    if "serve" in parts:
        lines += [""] + serve.measure(args.quick)
    if "gateway" in parts:
        lines += [""] + gateway.measure(args.quick)
    if set(parts) & set(regional):
        lines += [""] + measure_region([part for part in parts if part in regional], args.quick)
    text = "\n".join(lines) + "\n"
    path = os.path.join(OUT, "results.md")
    with open(path, "w") as f:
        f.write(text)
    print(text)
    print(f"(in {path}; bench/RESULTS.md keeps those that count)", file=sys.stderr)


if __name__ == "__main__":
    main()
