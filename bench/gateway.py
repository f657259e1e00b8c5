"""What the gateway costs, and what clients see of a loss, as a block of markdown: `bench/run.sh gateway`.

A region of its own on this machine. First token and throughput: the same requests, in turns, at the zone's engine
itself (its socket) and at the zone's AI port, with a key that only this zone may compute for, so that it is the same
engine. With a model of Qwen3-0.6B's shape, and with a tiny one, whose engine hands out so many tokens that it is the
gateway that is measured. Open streams: the fake engine (tests/lib/fake_engine.py) says a word
a second to thousands of clients; the zone's memory is its process's resident set, with storage and all, and the
engine's isn't in it. Pauses: engines of both zones are killed (kill -9; every fifth is stopped) while six streams
run; the longest silence that a client saw, at each loss. Storage beside inference: PUTs of one client through the
front while four streams keep the engine of each zone at full; both zones, their engines and the clients share this
machine's cores. An engine gives way to the zone (nice 10); the same with that taken away says what it is worth."""
import asyncio
import json
import multiprocessing
import os
import random
import resource
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
sys.path[:0] = [os.path.join(ROOT, "bench"), os.path.join(ROOT, "tests", "system")]
import infer  # noqa: E402
from lib.gateway import AiRegion  # noqa: E402
from lib.infer import UnixConnection  # noqa: E402
from lib.region import send_signal, wait_for  # noqa: E402

STREAMS = 32
KILL_TOKENS = 2500  # so many that the engine still computes when the client reads the one at which it is struck


def rss_mb(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def body(tokens, seed):
    return {"model": "nano", "prompt": "Fluctuat nec mergitur, says the ship.", "max_tokens": tokens,
            "ignore_eos": True, "seed": seed, "temperature": 1, "stream": True}


def ask(connection, key, request):
    """(seconds to the first token, all seconds, events)"""
    start = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(request),
                       {"Content-Type": "application/json", "Authorization": "Bearer " + key})
    answer = connection.getresponse()
    first, events = None, 0
    for line in answer:
        if line.startswith(b"data: {"):
            events += 1
            if first is None and b'"text":""' not in line:
                first = time.perf_counter() - start
    assert answer.status == 200
    return first, time.perf_counter() - start, events


def overhead(region, what, rounds, turns, tokens):
    import http.client
    said = json.loads(region.nef("user", "add", "bench", "--ai", "--ai-zones", "a", "--json", "--dir",
                                 region.directory).stdout)
    key = said["access_key"] + ":" + said["secret_key"]
    path = region.path("zone-a", "engine-0.sock")

    def direct():
        return UnixConnection(path)

    def through():
        return http.client.HTTPConnection(region.address("a"), timeout=120)
    first = {direct: [], through: []}
    for n in range(rounds):
        for where in (direct, through):
            c = where()
            first[where].append(ask(c, key, body(4, n))[0])
            c.close()
    rate = {direct: [], through: []}
    for n in range(turns):
        for where in (direct, through):
            start = time.perf_counter()
            with ThreadPoolExecutor(STREAMS) as pool:
                list(pool.map(lambda i: ask(where(), key, body(tokens, i)), range(STREAMS)))
            rate[where].append(STREAMS * tokens / (time.perf_counter() - start))
    a, b = (statistics.median(first[w]) * 1000 for w in (direct, through))
    ra, rb = (max(rate[w]) for w in (direct, through))
    return [f"| first token, {what}, engine alone / through the gateway | {a:.2f} ms / {b:.2f} ms | "
            f"+{b - a:.2f} ms (at most 5 ms) |",
            f"| {STREAMS} streams together, {what}, engine alone / through the gateway | {ra:.0f} / {rb:.0f} tokens/s | "
            f"{100 * (ra - rb) / ra:+.1f} % (at most 3 %) |"]


def puts(s3, seconds):
    """(PUTs a second, [latencies in ms, in order])"""
    took, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        s3.put_object(Bucket="beside", Key=f"{len(took) % 500}", Body=bytes(4096))
        took.append(1000 * (time.perf_counter() - start))
    return len(took) / seconds, sorted(took)


def keep_busy(address, key, seed):
    import http.client
    while True:
        ask(http.client.HTTPConnection(address, timeout=120), key, body(400, seed))


def beside(region, what, quick):
    s3, seconds, lines = region.boto(), 1 if quick else 10, []
    s3.create_bucket(Bucket="beside")

    def row(state):
        rate, took = puts(s3, seconds)
        lines.append(f"| PUTs of 4 KB by one client, {state} | {rate:.0f}/s, median {statistics.median(took):.1f} ms, "
                     f"99 % {took[int(0.99 * (len(took) - 1))]:.1f} ms | |")
    row("engines idle")
    clients = [multiprocessing.Process(target=keep_busy, daemon=True,
                                       args=(region.address("ab"[i % 2]), region.json["ai_key"], i)) for i in range(8)]
    try:
        for c in clients:
            c.start()
        wait_for(lambda: all(region.backends(z)["engine:nano"]["in_flight"] == 4 for z in ("a", "b")), 30)
        row(f"engines at full, {what}")
        for z in ("a", "b"):
            for thread in os.listdir(f"/proc/{region.engine_pid(z)}/task"):
                os.setpriority(os.PRIO_PROCESS, int(thread), 0)
        row("the same, engines of the zone's own priority")
        return lines
    finally:
        for c in clients:
            c.kill()


def real_shape(quick):
    """The overhead over a model whose tokens cost what a real one's do; the threads are the machine's."""
    settings = infer.Settings(quick, None)
    infer.make_models(settings, ["q8_0"])
    region = AiRegion(ai={"engine": {"model": "nano", "model_file": settings.model("q8_0"), "threads": 0, "slots": 32}},
                      fakes=False)
    try:
        region.up()
        what = settings.preset + " Q8_0"
        lines = overhead(region, what, 5 if quick else 20, 1 if quick else 3, 8 if quick else 64)
        return lines + beside(region, what, quick)
    finally:
        region.down()


async def open_streams(host, port, key, count, hold):
    data = json.dumps({"model": "fake", "stream": True, "max_tokens": 1000,
                       "messages": [{"role": "user", "content": "x"}]}).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n").encode()
    limit = asyncio.Semaphore(200)
    alive, writers = [0], []

    async def one():
        async with limit:
            reader, writer = await asyncio.open_connection(host, port)
            writers.append(writer)
            writer.write(head + data)
            line = await reader.readline()
            assert b" 200 " in line, line
            while not (await reader.readline()).strip().startswith(b"data: "):
                pass
        alive[0] += 1
        while await reader.readline():
            pass
    start = time.perf_counter()
    tasks = [asyncio.create_task(one()) for _ in range(count)]
    while alive[0] < count and time.perf_counter() - start < 300:
        await asyncio.sleep(0.05)
        for t in tasks:
            if t.done():
                t.result()
    seconds = time.perf_counter() - start
    await asyncio.sleep(hold[1])
    hold[0](alive[0])
    for t in tasks:
        t.cancel()
    for w in writers:
        w.close()
    return alive[0], seconds


def many(region, count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(count, (hard - 200) // 2)
    for f in region.fakes.values():
        f.control(delay=1.0)
    pid = region.pids()["zone-a"]
    before, seen = rss_mb(pid), {}
    host, port = region.address("a").split(":")
    alive, seconds = asyncio.run(open_streams(host, int(port), region.json["ai_key"], count,
                                              (lambda n: seen.update(rss=rss_mb(pid)), 3)))
    for f in region.fakes.values():
        f.control(delay=0)
    return [f"| open streams at one zone | {alive} | {alive / seconds:.0f} a second until all are open |",
            f"| memory of the zone's process, before / with them | {before:.0f} MB / {seen['rss']:.0f} MB | "
            f"{(seen['rss'] - before) * 1024 / max(alive, 1):.1f} KB each (5,000: 400 MB in all) |"]


def pauses(region, kills):
    dice = random.Random(7)
    seen = {signal.SIGKILL: [], signal.SIGSTOP: []}
    for kill in range(kills):
        wait_for(region.ai_ready, 60)
        number = signal.SIGSTOP if kill % 5 == 4 else signal.SIGKILL
        at, done, struck = dice.randrange(1, KILL_TOKENS // 2), threading.Event(), []

        def strike(count):
            if count >= at and not done.is_set():
                done.set()
                busy = {z: region.backends(z)["engine:nano"] for z in ("a", "b")}
                zone = max(busy, key=lambda z: (busy[z].get("pid", 0) > 0, busy[z]["in_flight"]))
                struck.append((zone, busy[zone]["pid"]))
                send_signal(busy[zone]["pid"], number)
        with ThreadPoolExecutor(6) as pool:
            got = list(pool.map(lambda i: region.stream("/v1/completions", {**body(KILL_TOKENS, i), "n": 1},
                                                        on_event=strike if i == 0 else None), range(6)))
        assert all(s.error is None for s in got)
        seen[number].append(max(max(s.pauses) for s in got))
        for zone, pid in struck:  # it may look well until somebody asks it
            wait_for(lambda: region.engine_pid(zone) not in (None, 0, pid), 30)
    continued = sum(region.metric(z, "nef_ai_continuations_total") for z in ("a", "b"))
    lines = [f"| streams continued elsewhere, over {kills} losses | {continued:.0f} | |"]
    for number, limit in ((signal.SIGKILL, 1), (signal.SIGSTOP, 2)):
        s = sorted(seen[number])
        if s:
            lines.append(f"| longest pause, {number.name} of an engine, {len(s)} times | "
                         f"median {statistics.median(s):.2f} s, 95 % {s[int(0.95 * (len(s) - 1))]:.2f} s, "
                         f"max {s[-1]:.2f} s | at most {limit} s |")
    return lines


def measure(quick=False):
    lines = ["### The gateway", "", "| what | measured | |", "|---|---|---|"] + real_shape(quick)
    region = AiRegion(ai={"connections": 65536, "queue_factor": 10000}, slots=20000, engine={"context": 4096})
    try:
        region.up()
        lines += overhead(region, "a tiny model", 10 if quick else 100, 2 if quick else 5, 50 if quick else 400)
        lines += many(region, 200 if quick else 10000)
        lines += pauses(region, 5 if quick else 200)
        return lines
    finally:
        region.down()


if __name__ == "__main__":
    print("\n".join(measure("--quick" in sys.argv)))
