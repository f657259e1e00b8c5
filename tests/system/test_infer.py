"""nef infer with a small model: what clients rely on. The words are nonsense (random weights); that they are the same
ones every time is what is tested. Faults of the engine, tool calls, slow and vanishing clients with an engine that can
be told what to say: tests/unit/infer/api/api_test.py."""
import concurrent.futures
import os
import socket
import subprocess
import time

import pytest

from lib.infer import Infer, MODELS, NEF, golden


@pytest.fixture(scope="module")
def s():
    with Infer("qwen3-nano-Q8_0") as server:
        yield server


PROMPTS = ["Hello", "The ship is tossed by the waves and never sunk.", "a", "1 2 3 4 5 6 7 8 9",
           "Fluctuat nec mergitur\n" * 12,
           "\u00e9t\u00e9 \u4f60\u597d", "x" * 200, "Once upon a time, in a harbour by the sea, " * 9]
LONG = "A prefix that many requests share. " * 14


def body(i, **more):
    """Greedy ones and seeded ones, all different."""
    b = {"prompt": PROMPTS[i % len(PROMPTS)], "max_tokens": 24 + 3 * (i % 5), "ignore_eos": True,
         "return_token_ids": True}
    b.update({"temperature": 0} if i % 2 == 0 else {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "seed": i})
    return {**b, **more}


def ids(answer):
    return answer["choices"][0]["token_ids"]


@pytest.fixture(scope="module")
def alone(s):
    """Each request's answer with nothing beside it."""
    return [s.call("/v1/completions", body(i))[2] for i in range(16)]


def test_greedy_is_the_reference():
    with Infer("qwen3-nano-f32", "--kv-type", "f32") as server:
        for case in golden("qwen3-nano-f32")["cases"]:
            a = server.complete(case["prompt"], temperature=0, max_tokens=len(case["greedy"]), ignore_eos=True,
                                return_token_ids=True)
            assert ids(a) == case["greedy"]


def test_together_as_alone(s, alone):
    def one(i):
        if i % 3 == 0:
            text, got = "", []
            for e in s.stream("/v1/completions", body(i % 16)):
                text += e["choices"][0]["text"]
                got += e["choices"][0]["token_ids"]
            return text, got
        a = s.call("/v1/completions", body(i % 16))[2]
        return a["choices"][0]["text"], ids(a)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        got = list(pool.map(one, range(48)))
    for i, (text, tokens) in enumerate(got):
        assert tokens == ids(alone[i % 16]), i
        assert text == alone[i % 16]["choices"][0]["text"], i


@pytest.mark.parametrize("kernels,threads", [("scalar", 1), ("avx2", 2), ("avx512", 3)])
def test_other_kernels_and_threads_as_well(alone, kernels, threads):
    probe = subprocess.run([NEF, "infer", "--bench", os.path.join(MODELS, "nothing.gguf")], capture_output=True,
                           text=True,
                           env={**os.environ, "NEF_KERNELS": kernels}, timeout=60)
    if probe.returncode == 2:
        assert "NEF_KERNELS" in probe.stderr, probe.stderr
        pytest.skip("this processor lacks " + kernels)
    with Infer("qwen3-nano-Q8_0", "--threads", str(threads), env={"NEF_KERNELS": kernels}) as server:
        assert server.started["kernels"] == kernels
        for i in range(16):
            assert ids(server.call("/v1/completions", body(i))[2]) == ids(alone[i])


def test_many_prompts_in_one_request(s, alone):
    greedy = [i for i in range(16) if i % 2 == 0][:4]
    a = s.complete([body(i)["prompt"] for i in greedy], temperature=0, max_tokens=24, ignore_eos=True,
                   return_token_ids=True)
    assert [c["token_ids"] for c in a["choices"]] == [ids(alone[i])[:24] for i in greedy]


def test_warm_prefix_same_answer():
    with Infer("qwen3-nano-Q8_0") as server:
        cold = server.complete(LONG + "one", temperature=0, max_tokens=20, return_token_ids=True)
        assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        server.complete(LONG + "two", temperature=0, max_tokens=20)
        warm = server.complete(LONG + "one", temperature=0, max_tokens=20, return_token_ids=True)
        assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64
        assert ids(warm) == ids(cold)


def test_a_continuation_says_the_same(s):
    """From the ids seen so far and the seed, as a gateway does it after a lost stream."""
    b = {"temperature": 1, "seed": 7, "ignore_eos": True, "return_token_ids": True}
    whole = s.complete("Once upon", max_tokens=40, **b)["choices"][0]
    seen = 17
    rest = s.complete(whole["prompt_token_ids"] + whole["token_ids"][:seen], max_tokens=40 - seen, **b)["choices"][0]
    assert whole["token_ids"] == whole["token_ids"][:seen] + rest["token_ids"]


def test_seeds(s):
    def run(**more):
        return ids(s.complete("Hello", temperature=1, max_tokens=20, ignore_eos=True, return_token_ids=True, **more))
    assert run(seed=1) == run(seed=1)
    assert run(seed=1) != run(seed=2)
    assert run() != run()


def test_stop_strings_across_tokens(s):
    b = {"prompt": "Hello", "temperature": 0, "max_tokens": 60, "ignore_eos": True}
    a = s.complete(return_token_ids=True, **b)
    text, pieces = a["choices"][0]["text"], []
    for i in ids(a):
        pieces.append(s.call("/detokenize", {"tokens": [i]})[2]["content"])
    cut = 0
    for i in range(8, 40):      # the end of one token and the beginning of the next
        stop = pieces[i][-2:] + pieces[i + 1][:2]
        if len(stop) < 3 or "\ufffd" in stop or stop not in text:
            continue
        want = text[:text.index(stop)]
        got = s.complete(stop=stop, **b)["choices"][0]
        assert (got["text"], got["finish_reason"]) == (want, "stop")
        streamed = list(s.stream("/v1/completions", dict(b, stop=["never said", stop])))
        assert "".join(e["choices"][0]["text"] for e in streamed) == want
        assert streamed[-1]["choices"][0]["finish_reason"] == "stop"
        cut += 1
    assert cut >= 5


def test_streamed_text_is_the_whole_text(s):
    """Random bytes make broken characters: none is ever split over two events (lib/infer.py decodes each by itself)."""
    for seed in range(12):
        b = {"prompt": "\u4f60\u597d", "temperature": 2, "top_k": 0, "top_p": 1, "seed": seed, "max_tokens": 50,
             "ignore_eos": True}
        got = "".join(e["choices"][0]["text"] for e in s.stream("/v1/completions", b))
        assert got == s.complete(**b)["choices"][0]["text"]


def test_token_ids_in_and_out(s):
    tokens = s.call("/tokenize", {"content": "Fluctuat nec mergitur"})[2]["tokens"]
    assert s.call("/detokenize", {"tokens": tokens})[2]["content"] == "Fluctuat nec mergitur"
    by_text = s.complete("Fluctuat nec mergitur", temperature=0, max_tokens=10, return_token_ids=True)
    by_ids = s.complete(tokens, temperature=0, max_tokens=10, return_token_ids=True)
    assert by_text["choices"][0]["prompt_token_ids"] == tokens
    assert ids(by_text) == ids(by_ids)
    pieces = s.call("/tokenize", {"content": "\u4f60", "with_pieces": True})[2]["tokens"]
    raw = (p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
    assert b"".join(raw) == "\u4f60".encode()


def test_chat(s):
    b = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
         "temperature": 0,
         "max_tokens": 30, "chat_template_kwargs": {"enable_thinking": False}}
    status, headers, a = s.call("/v1/chat/completions", dict(b, return_token_ids=True))
    assert status == 200, a
    assert headers["x-request-id"].startswith("req_")
    rendered = ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
                "<think>\n\n</think>\n\n")
    assert a["prompt_token_ids"] == s.call("/tokenize", {"content": rendered})[2]["tokens"]
    assert a["usage"]["prompt_tokens"] == len(a["prompt_token_ids"])
    events = list(s.stream("/v1/chat/completions", dict(b, stream_options={"include_usage": True})))
    assert events[-1]["usage"]["completion_tokens"] == a["usage"]["completion_tokens"]
    streamed = "".join(e["choices"][0]["delta"].get("content") or "" for e in events[:-1])
    assert streamed == a["choices"][0]["message"]["content"]


def test_refusals(s):
    status, _, a = s.call("/v1/completions", {"prompt": "x", "max_tokens": 4, "suffix": "y"})
    assert (status, a["error"]["param"], a["error"]["code"]) == (400, "suffix", "unsupported_parameter")
    status, _, a = s.call("/v1/completions", {"prompt": "word " * 2000})
    assert (status, a["error"]["code"]) == (400, "context_length_exceeded")
    assert s.call("/v1/completions", {"prompt": [4000]})[0] == 400
    # the context ends an answer that has no other end
    a = s.complete("x", ignore_eos=True)
    assert a["choices"][0]["finish_reason"] == "length"
    assert a["usage"]["total_tokens"] == s.started["context"]


def test_int8_cache(alone):
    with Infer("qwen3-nano-Q8_0", "--kv-type", "i8") as server:
        again = [ids(server.call("/v1/completions", body(i))[2]) for i in (0, 0, 2)]
        assert again[0] == again[1]
        assert len(again[2]) == len(ids(alone[2]))


def test_model_from_a_descriptor_and_a_cache_file(s, alone, tmp_path):
    fd = os.open(os.path.join(MODELS, "qwen3-nano-Q8_0.gguf"), os.O_RDONLY)
    os.set_inheritable(fd, True)
    log = open(tmp_path / "log", "w+")
    p = subprocess.Popen([NEF, "infer", "--model", f"fd:{fd}", "--listen", f"unix:{tmp_path}/s", "--alias", "mine"],
                         pass_fds=[fd], stderr=log)
    try:
        end = time.monotonic() + 60
        while not os.path.exists(tmp_path / "s") and time.monotonic() < end:
            time.sleep(0.05)
        server = object.__new__(Infer)
        server.unix = str(tmp_path / "s")
        while server.call("/health")[0] == 503 and time.monotonic() < end:  # it loads
            time.sleep(0.05)
        assert server.call("/v1/models")[2]["data"][0]["id"] == "mine"
        assert ids(server.call("/v1/completions", body(3))[2]) == ids(alone[3])
    finally:
        p.terminate()
        assert p.wait(60) == 0
        os.close(fd)
        log.close()
    cache = str(tmp_path / "packed")
    for _ in range(2):      # written, then read
        with Infer("qwen3-nano-Q8_0", "--cache-file", cache) as server:
            assert ids(server.call("/v1/completions", body(3))[2]) == ids(alone[3])
        assert os.path.getsize(cache) > 100000


def test_split_files():
    whole, split = [Infer(m) for m in ("qwen3-pico-yarn-q8_0", "qwen3-pico-yarn-q8_0-00001-of-00003")]
    with whole, split:
        b = {"temperature": 0, "max_tokens": 20, "ignore_eos": True, "return_token_ids": True}
        assert ids(whole.complete([5, 6, 7], **b)) == ids(split.complete([5, 6, 7], **b))


@pytest.mark.soak
def test_clients_that_vanish():
    with Infer("qwen3-nano-Q8_0", "--slots", "4") as server:
        server.complete("warm", max_tokens=4)
        data = b'{"prompt": "Hello", "max_tokens": 900, "ignore_eos": true, "stream": true}'
        whole = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)

        def vanish(i):
            c = socket.create_connection(("127.0.0.1", server.port))
            c.sendall(whole[:len(whole) * (i % 5 + 1) // 4])
            if i % 2:
                time.sleep(0.05)
            c.close()
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            list(pool.map(vanish, range(200)))
        end = time.monotonic() + 30
        while True:             # a full queue is an honest answer, for a while
            status, _, _ = server.call("/v1/completions", {"prompt": "Hello", "max_tokens": 4})
            if status == 200 or time.monotonic() > end:
                break
            assert status == 429
            time.sleep(0.1)
        assert status == 200
        with open(f"/proc/{server.process.pid}/status") as f:
            rss = next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))
        assert rss < 200 << 10


def test_drain_finishes_what_runs():
    with Infer("qwen3-nano-Q8_0") as server:
        stream = server.stream("/v1/completions", {"prompt": "Hello", "max_tokens": 900, "ignore_eos": True,
                                                   "temperature": 0})
        text = next(stream)["choices"][0]["text"]
        server.process.terminate()
        rest = list(stream)
        assert rest[-1]["choices"][0]["finish_reason"] == "length"
        assert len(text + "".join(e["choices"][0]["text"] for e in rest)) > 900
    assert server.events("infer_stopped")


def run(*args, env=None):
    return subprocess.run([NEF, *args], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                          env={**os.environ, **(env or {})})


def test_wrong_usage_is_said(tmp_path):
    model = os.path.join(MODELS, "qwen3-nano-Q8_0.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    for args, env, code, says in (
            (["infer"], {}, 2, "--model"),
            (["infer", "--model", model, "--listen", "nowhere"], {}, 2, "--listen"),
            (["infer", "--model", model, "--kv-type", "q4"], {}, 2, "--kv-type"),
            (["infer", "--model", model, "--ctx", "1"], {}, 2, "--ctx"),
            (["infer", "--model", model, "--pooling", "rank"], {}, 2, "--pooling"),
            (["infer", "--model", model], {"NEF_KERNELS": "mmx"}, 2, "NEF_KERNELS=mmx"),
            (["infer", "--model", str(tmp_path / "none.gguf")], {}, 1, "none.gguf"),
            (["infer", "--model", str(broken)], {}, 1, "broken.gguf"),
            (["infer", "--bench", str(broken)], {}, 1, "broken.gguf"),
            (["chat"], {}, 2, "--model"),
            (["chat", "--model", str(broken)], {}, 1, "broken.gguf")):
        r = run(*args, env=env)
        assert (r.returncode, says in r.stderr) == (code, True), (args, r)
        assert r.stderr.count("none.gguf") <= 1, r.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        r = run("infer", "--model", model, "--listen", address)
    assert r.returncode == 1 and f"can't listen on {address}" in r.stderr and "in use" in r.stderr, r


def test_bench_prints_its_figures():
    r = run("infer", "--bench", os.path.join(MODELS, "qwen3-nano-Q8_0.gguf"))
    assert r.returncode == 0, r.stderr
    for begin, rest in (("prefill 512", "tok/s"), ("prefill 2048", "tok/s"), ("decode 128", "tok/s"),
                        ("decode", "at depth 2048"),
                        ("memory limit", "GB/s"), ("arithmetic limit", "op/s")):
        assert any(t.startswith(begin) and rest in t for t in r.stdout.splitlines()), r.stdout


def test_chat_in_a_pipe():
    def talk(text, *options):
        return subprocess.run([NEF, "chat", "--model", os.path.join(MODELS, "qwen3-nano-Q8_0.gguf"), "--ctx", "400",
                               *options],
                              input=text, capture_output=True, text=True, timeout=60)
    r = talk("/think off\n/temperature 0\nHello\n/stats\n/quit\nnever read\n")
    assert r.returncode == 0, r.stderr
    assert "context 400" in r.stdout.splitlines()[-1]
    assert len(r.stdout.splitlines()) >= 2
    assert talk("Hello\n", "--seed", "5").stdout == talk("Hello\n", "--seed", "5").stdout
    r = talk("/nonsense\n" + "word " * 600 + "\n")
    assert "there is no /nonsense" in r.stderr and "context" in r.stderr
