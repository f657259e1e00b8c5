"""Many streams at once from `nef infer` over HTTP beside llama.cpp, as a block of markdown: `bench/run.sh serve`.

Nef is its server with its presets, clients are 32 connections of one Python process on the same machine, and tokens are
counted as they arrive. llama.cpp is a program over its library (llama/driver.c): the same prompts and answers in
batches as its server makes them (2,048 rows, 512 at a time), without HTTP and without choosing tokens. A common
beginning is computed once and copied there, which its server doesn't do by itself. All of it is in its favour.

Figures are of one run each, in turns; the models are those of infer.py."""
import contextlib
import json
import os
import random
import re
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time

import infer

VOCAB = 150000
SHARED = 1500


class Stream:
    """One streamed completion of a list of token ids, and when what came."""

    def __init__(self, path, prompt, tokens):
        body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True,
                           "return_token_ids": True}).encode()
        self.tokens, self.first, self.last, self.rest, self.whole = 0, None, None, b"", False
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.begin = time.monotonic()
        self.socket.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: nef\r\nConnection: close\r\n"
                            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def take(self):
        """False: it has ended."""
        part = self.socket.recv(1 << 16)
        if not part:
            self.socket.close()
            return False
        now = time.monotonic()
        *lines, self.rest = (self.rest + part).split(b"\n")
        for line in lines:
            ids = re.search(rb'"token_ids":\[([\d,]+)\]', line)
            if ids:
                self.tokens += ids[1].count(b",") + 1
                self.first = self.first or now
                self.last = now
            self.whole = self.whole or line.startswith(b"data: [DONE]")
        return True


def read_all(streams):
    with selectors.DefaultSelector() as s:
        for stream in streams:
            s.register(stream.socket, selectors.EVENT_READ, stream)
        left = len(streams)
        while left > 0:
            for key, _ in s.select():
                if not key.data.take():
                    s.unregister(key.fileobj)
                    left -= 1
    for stream in streams:
        if not stream.whole:
            raise SystemExit("an answer was cut off after %d tokens" % stream.tokens)


def prompts(settings, count, tokens, shared=0):
    r = random.Random(1)
    beginning = [r.randrange(VOCAB) for _ in range(settings.tokens(shared))]
    return [beginning + [r.randrange(VOCAB) for _ in range(settings.tokens(tokens))] for _ in range(count)]


class Server(infer.Server):
    def __init__(self, settings, kind, directory, extra):
        super().__init__(settings, kind, directory, extra=extra)
        self.wait_until_loaded()


class Running:
    """with Running(settings, kind, extra) as server: a server with its presets, warmed by one request."""

    def __init__(self, settings, kind, extra=()):
        self.settings, self.kind, self.extra = settings, kind, list(extra)

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp")
        infer.warm(self.settings.model(self.kind))
        self.server = Server(self.settings, self.kind, self.directory.name, self.extra)
        self.server.complete([785], 4)
        return self.server

    def __exit__(self, *failure):
        if failure[0] is None:
            self.server.stop()
        if self.server.process.poll() is None:
            self.server.process.kill()
            self.server.process.wait()
        self.directory.cleanup()


def ours(settings, kind, count, tokens, shared, extra=()):
    with Running(settings, kind, extra) as server:
        begin = time.monotonic()
        streams = [Stream(server.path, p, settings.decode) for p in prompts(settings, count, tokens, shared)]
        read_all(streams)
        waits = sorted(s.first - begin for s in streams)
        return {"total_out_per_s": sum(s.tokens for s in streams) / (max(s.last for s in streams) - begin),
                "first_p50_s": statistics.median(waits), "first_p99_s": waits[(len(waits) * 99 - 1) // 100],
                "rss_bytes": server.memory()[0]}


def theirs(settings, kind, count, tokens, shared, extra=()):
    path = settings.model(kind)
    infer.warm(path)
    return infer.objects(infer.run(
        [infer.DRIVER, "streams", path, "--streams", str(count), "--prompt", str(settings.tokens(tokens)), "--shared",
         str(settings.tokens(shared)), "--decode", str(settings.decode), "--threads", str(settings.threads), *extra]))[0]


def newcomer(settings, long_prompt, wait_for_answers):
    """Seconds to the first token of a short request among 31 long ones: while they answer, or are in their prompts."""
    with Running(settings, "q8_0") as server:
        others = [Stream(server.path, p, settings.decode * 4) for p in prompts(settings, 31, long_prompt)]
        reader = threading.Thread(target=read_all, args=(others,))
        reader.start()
        while wait_for_answers and not all(s.first for s in others):
            time.sleep(0.05)
        time.sleep(0.1 if settings.quick else 1.5)
        waits = []
        for n in range(1 if settings.quick else 3):
            short = Stream(server.path, [5000 + 31 * n + i for i in range(20)], 4)
            read_all([short])
            waits.append(short.first - short.begin)
        for s in others:                       # the rest isn't wanted
            s.whole = True
            with contextlib.suppress(OSError):  # it has ended meanwhile
                s.socket.shutdown(socket.SHUT_RDWR)
        reader.join()
        return max(waits)


def judge(settings, reached_aim, reached_least):
    return settings.judge("aim reached" if reached_aim else "yes" if reached_least else "**no**")


def rows(settings, data):
    def note(what, **figures):
        data.append({"what": what, **figures})
        infer.say("%s: %s" % (what, json.dumps(figures)))

    for what, kind, count, prompt, shared, least, aim in (
            ("32 streams (200 in, 128 out), Q8_0", "q8_0", 32, 200, 0, 4, 8),
            ("16 streams (200 in, 128 out), Q4_K_M", "q4_k_m", 16, 200, 0, 4, 8),
            ("32 streams with 1,500 tokens in common (20 of their own in, 128 out), Q8_0", "q8_0", 32, 20, SHARED, 5, 10)):
        them = theirs(settings, kind, count, prompt, shared)
        us = ours(settings, kind, count, prompt, shared)
        note(what, llama=them, nef=us)
        ratio = us["total_out_per_s"] / them["total_out_per_s"]
        yield (what + ", total out", "%.0f tok/s" % them["total_out_per_s"], "%.0f tok/s" % us["total_out_per_s"],
               "%.1fx" % ratio, "%gx / %gx" % (least, aim), judge(settings, ratio >= aim, ratio >= least))
        yield ("their first token, p50 / p99", "%.1f / %.1f s" % (them["first_p50_s"], them["first_p99_s"]),
               "%.1f / %.1f s" % (us["first_p50_s"], us["first_p99_s"]), "-", "2 / 4 s, 1 / 2 s" if not shared else "-",
               judge(settings, us["first_p50_s"] <= 1 and us["first_p99_s"] <= 2,
                     us["first_p50_s"] <= 2 and us["first_p99_s"] <= 4) if not shared else "-")
        if count == 32 and not shared:
            small = ours(settings, kind, count, prompt, shared, ("--kv-type", "i8"))
            note("int8 KV", nef=small)
            for name, got, most, best in (("16-bit KV", us, 2.2, 1.95), ("int8 KV", small, 1.4, 1.3)):
                gb = got["rss_bytes"] / 1e9
                yield ("RSS after it, " + name, "%.2f GB" % (them["rss_bytes"] / 1e9) if got is us else "-",
                       "%.2f GB" % gb, "-", "%g / %g GB" % (most, best), judge(settings, gb <= best, gb <= most))
    for what, tokens, answers in (("31 that answer", 200, True), ("31 in prompts of 1,500 tokens", 1500, False)):
        wait = newcomer(settings, tokens, answers)
        note("newcomer among " + what, seconds=wait)
        yield ("first token of a new short request among %s, worst of 3" % what, "-", "%.2f s" % wait, "-", "1 / 0.3 s",
               judge(settings, wait <= 0.3, wait <= 1))


def measure(quick, threads=None):
    """Lines of markdown, without a title; everything measured goes to build/bench/serve.json."""
    settings = infer.Settings(quick, threads or len(os.sched_getaffinity(0)))
    infer.prepare(settings)
    load, data = os.getloadavg()[0], []
    if load > 0.5 and not quick:
        infer.say("the machine isn't quiet (load average %.2f): these won't be figures to keep" % load)
    table = infer.table(("many streams at once", "llama.cpp", "nef", "ratio", "at least / aim", "reached"),
                        rows(settings, data))
    with open(os.path.join(infer.OUT, "serve.json"), "w") as f:
        json.dump(data, f, indent=1)
        f.write("\n")
    return [infer.machine(settings.threads, (load, os.getloadavg()[0])), ""] + table


if __name__ == "__main__":
    print("\n".join(measure("--quick" in sys.argv[1:])))
