"""The gateway with an external backend that misbehaves in every way that engines do, and who may do what. Losses of
the built-in engine and of a zone: test_gateway_loss.py; clients' packages: test_gateway_js.py."""
import concurrent.futures
import http.client
import json
import os
import subprocess
import threading
import time

import pytest

from lib.gateway import AiRegion
from lib.region import NEF, wait_for

WORDS = "".join(f"w{i} " for i in range(20))


@pytest.fixture(scope="module")
def r():
    # probes have time: a busy machine's fake isn't to be taken for lost
    region = AiRegion(ai={"queue_factor": 4, "timing": {"first_token": "6s", "stall": "500ms", "hold": "5s",
                                                        "probe_timeout": "4s"}})
    try:
        yield region.up()
    finally:
        region.down()


@pytest.fixture(autouse=True)
def behave(r):
    for f in r.fakes.values():
        f.behave()
    wait_for(r.ai_ready, 30)


def fail(r, mode, after=0, times=1, zones="a"):
    """A zone prefers its own backends, so what is asked of zone a meets a's first."""
    for f in r.fakes.values():
        f.control(mode="ok", times=0)
    for z in zones:
        r.fakes[z].control(mode=mode, after=after, times=times)


def tries(r):
    return sum(f.control()["requests"] for f in r.fakes.values())


def test_the_same_models_everywhere(r):
    lists = [r.call("/v1/models", zone=z)[2] for z in (None, "a", "b")]
    assert sorted(m["id"] for m in lists[0]["data"]) == ["fake", "nano"]
    for listed in lists[1:]:
        assert sorted(m["id"] for m in listed["data"]) == ["fake", "nano"]
    assert r.call("/v1/models/nano")[2]["id"] == "nano"
    assert r.call("/v1/models/none")[0] == 404


def test_plain(r):
    s = r.chat()
    assert (s.text[0], s.finish, s.usage["prompt_tokens"], s.usage["completion_tokens"]) == (WORDS, "stop", 7, 20)
    assert len({e["id"] for e in s.events}) == 1 and {e["model"] for e in s.events} == {"fake"}
    status, headers, whole = r.call("/v1/chat/completions", {"model": "fake",
                                                             "messages": [{"role": "user", "content": "Hello"}]})
    assert status == 200 and headers["x-request-id"].startswith("req_")
    assert whole["choices"][0]["message"]["content"] == WORDS and whole["usage"] == s.usage
    assert whole["object"] == "chat.completion"
    status, _, e = r.call("/v1/embeddings", {"model": "fake", "input": "x"})
    assert status == 200 and e["data"][0]["embedding"] == [0.5, -1.0]


@pytest.mark.parametrize("after", [0, 1, 7, 19])
@pytest.mark.parametrize("mode", ["cut", "end", "garbage", "nonsense", "huge", "error", "stall"])
def test_a_backend_that_fails_in_the_middle(r, mode, after):
    """Nothing is lost, doubled or reordered, and usage is counted once."""
    fail(r, mode, after, times=1)
    s = r.chat(zone="a")
    assert s.error is None, s.error
    assert s.text[0] == WORDS
    assert (s.usage["prompt_tokens"], s.usage["completion_tokens"]) == (7, 20)
    assert max(s.pauses) < 3
    again = [b for f in r.fakes.values() for b in f.control()["bodies"] if b.get("continue_final_message")]
    assert len(again) >= (1 if after > 0 else 0)
    for b in again:
        assert b["messages"][-1] == {"role": "assistant", "content": WORDS[:WORDS.index(f"w{after} ")]}
        assert b["add_generation_prompt"] is False


@pytest.mark.parametrize("mode,after", [("html", 0), ("status", 500), ("status", 429), ("status", 503), ("status", 401),
                                        ("silent", 0)])
def test_a_backend_that_does_not_begin(r, mode, after):
    fail(r, mode, after, times=1, zones="ab")
    s = r.chat()
    assert s.error is None and s.text[0] == WORDS and tries(r) == 3


def test_several_failures_in_one_answer(r):
    fail(r, "cut", 3, times=2, zones="ab")
    s = r.chat()
    assert s.text[0] == WORDS and s.usage["completion_tokens"] == 20 and tries(r) >= 4


def test_whole_answers_go_on_too(r):
    fail(r, "cut", 5, times=1)
    status, _, a = r.call("/v1/chat/completions", {"model": "fake", "messages": [{"role": "user", "content": "x"}]},
                          zone="a")
    assert status == 200 and a["choices"][0]["message"]["content"] == WORDS and a["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize("after", [1, 4, 8])
def test_completions_go_on(r, after):
    fail(r, "cut", after, times=1)
    s = r.stream("/v1/completions", {"model": "fake", "prompt": "Say: ", "max_tokens": 12}, zone="a")
    assert s.text[0] == "".join(f"w{i} " for i in range(12)) and s.usage["completion_tokens"] == 12
    again = r.fakes["b"].control()["bodies"]
    assert [b["max_tokens"] for b in again] == [12 - after]
    assert again[0]["prompt"] == "Say: " + "".join(f"w{i} " for i in range(after))


def test_several_choices_and_prompts(r):
    fail(r, "cut", 5, times=2)
    s = r.stream("/v1/completions", {"model": "fake", "prompt": ["a", "b"], "n": 2, "max_tokens": 9}, zone="a")
    assert s.text == {i: "".join(f"w{k} " for k in range(9)) for i in range(4)}
    assert s.usage["completion_tokens"] == 36 and s.usage["prompt_tokens"] == 14


@pytest.mark.parametrize("after", range(0, 13, 2))
def test_tool_arguments_stay_intact(r, after):
    fail(r, "cut", after, times=1)
    s = r.chat("TOOL10", zone="a")
    assert s.calls == ["say"] and list(s.arguments) == [0]
    assert json.loads(s.arguments[0]) == {"text": "".join(f"w{i} " for i in range(10))}
    assert s.finish == "tool_calls" and s.text[0] == ""


@pytest.mark.parametrize("after", [1, 6, 9, 11, 18])
def test_thoughts_stay_thoughts(r, after):
    fail(r, "cut", after, times=1)
    s = r.chat("THINK10", zone="a")
    assert s.reasoning[0].strip() == "".join(f"w{i} " for i in range(10)).strip()
    assert s.text[0] == "".join(f"w{i} " for i in range(10, 20))


FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.mark.parametrize("after", [0, 1, 5, 8, 10])
@pytest.mark.parametrize("prompt", ["FORMAT THINK8", "FORMAT THINK8 EAGER", "FORMAT"])
def test_a_format_at_the_seam(r, prompt, after):
    """It is asked for again until the answer has begun; behind that a grammar would begin anew, and it is left out."""
    fail(r, "cut", after, times=1)
    s = r.chat(prompt, zone="a", response_format=FORMAT)
    assert s.error is None and json.loads(s.text[0]) == {"text": "".join(f"w{i} " for i in range(10))}
    thought = "".join(f"w{i} " for i in range(after if "EAGER" in prompt and 0 < after < 8 else 8)) if "THINK" in prompt else ""
    assert s.reasoning[0].strip() == thought.strip()
    again = [b for f in r.fakes.values() for b in f.control()["bodies"] if b.get("continue_final_message")]
    for b in again:
        said = b["messages"][-1]["content"]
        thinks = "<think>" in said and "</think>" not in said
        assert b.get("response_format") == (FORMAT if thinks else None)
    assert len(again) == (after > 0)


def test_a_backend_that_takes_no_format_with_a_message_to_continue(r):
    """It is asked again, without: better an answer that nothing holds to its form than none."""
    fail(r, "cut", 5, times=1)
    r.fakes["b"].control(mode="status", after=400, times=1)
    s = r.chat("FORMAT THINK8", zone="a", response_format=FORMAT)
    assert s.error is None and s.text[0] == "not JSON at all"
    assert s.reasoning[0].strip() == "".join(f"w{i} " for i in range(8)).strip()
    again = [b for f in r.fakes.values() for b in f.control()["bodies"] if b.get("continue_final_message")]
    assert sorted("response_format" in b for b in again) == [False, True]


def test_what_the_client_did_wrong_is_told(r):
    fail(r, "status", 400, times=1)
    s = r.chat(zone="a")
    assert s.status == 400 and s.error["message"] == "as told" and s.error["code"] == "told" and tries(r) == 1
    assert r.call("/v1/chat/completions", {"model": "fake"} | {"messages": "x", "stream": 3}, key="no:body")[0] == 401
    status, _, e = r.call("/v1/chat/completions", {"messages": []})
    assert (status, e["error"]["param"]) == (400, "model")
    assert r.call("/v1/chat/completions", {"model": "gone", "messages": []})[0] == 404
    assert r.call("/v1/nothing")[0] == 404 and r.call("/v1/models", method="PUT")[0] == 405


def test_a_request_that_kills_backends_is_given_up(r):
    fail(r, "cut", 0, times=99, zones="ab")
    s = r.chat()
    assert s.error["code"] == "backend_failed" and tries(r) == 3


def test_a_lost_client_ends_its_request(r):
    for f in r.fakes.values():
        f.control(delay=0.05)
    before = sum(f.control()["open"] for f in r.fakes.values())  # those that hang for ever
    c = http.client.HTTPConnection(r.address("a"), timeout=20)
    c.request("POST", "/v1/chat/completions", json.dumps({"model": "fake", "stream": True, "max_tokens": 4000,
                                                          "messages": [{"role": "user", "content": "x"}]}),
              {"Authorization": "Bearer " + r.json["ai_key"]})
    a = c.getresponse()
    assert a.readline().startswith(b"data: ")
    assert sum(f.control()["open"] for f in r.fakes.values()) == before + 1
    a.close()
    c.close()
    wait_for(lambda: sum(f.control()["open"] for f in r.fakes.values()) == before, 10)


def test_a_slow_reader_slows_its_backend_alone(r):
    """An answer of some megabytes is not taken into memory for a client that doesn't read."""
    c = http.client.HTTPConnection(r.address("a"), timeout=60)
    c.request("POST", "/v1/chat/completions", json.dumps({"model": "fake", "stream": True, "max_tokens": 60000,
                                                          "messages": [{"role": "user", "content": "x"}]}),
              {"Authorization": "Bearer " + r.json["ai_key"]})
    a = c.getresponse()
    time.sleep(2)
    assert r.chat(zone="a").text[0] == WORDS          # others aren't slowed
    text = b"".join(line for line in a)
    assert text.endswith(b"data: [DONE]\n\n") and b"w59999 " in text and b'"error"' not in text


# ---- who may do what ----

def test_keys_and_rights(r):
    assert r.call("/v1/models", key="nobody:x")[0] == 401
    assert r.call("/v1/models", key=r.json["ai_key"] + "x")[0] == 401
    assert r.call("/v1/models", key=r.add_user("plain"))[0] == 403
    key = r.add_user("narrow", "--ai", "--ai-models", "nano")
    for zone in ("a", "b"):
        assert [m["id"] for m in r.call("/v1/models", zone=zone, key=key)[2]["data"]] == ["nano"]
        assert r.chat(zone=zone, key=key).status == 404
        assert r.chat(model="nano", zone=zone, key=key, max_tokens=3).error is None
    r.nef("user", "disable", "narrow", "--dir", r.directory)
    for zone in ("a", "b"):
        assert r.call("/v1/models", zone=zone, key=key)[0] == 401


def test_only_allowed_zones_compute(r):
    """Also when the only allowed one has nothing left: the request waits and fails, it doesn't go elsewhere."""
    key = r.add_user("onlyb", "--ai", "--ai-zones", "b")
    for f in r.fakes.values():
        f.behave()
    for zone in ("a", "b"):
        assert r.chat(zone=zone, key=key).text[0] == WORDS
    assert [r.fakes[z].control()["requests"] for z in ("a", "b")] == [0, 2]
    r.fakes["b"].control(health=False)
    wait_for(lambda: not r.backends("a")["b/fake"]["healthy"], 20)
    s = r.chat(zone="a", key=key)
    assert s.status == 503 and s.error["code"] == "no_backend"
    assert r.fakes["a"].control()["requests"] == 0
    assert r.chat(zone="a").text[0] == WORDS           # root may


def test_load_is_shed_by_priority(r):
    """8 slots, 4 requests for each: 19 of priority 0 (60 % of 32, upwards), 32 of priority 4 and more."""
    low, high = r.add_user("low", "--ai"), r.add_user("high", "--ai", "--ai-priority", "9")
    for f in r.fakes.values():
        f.control(first_delay=3)
    time.sleep(0.5)

    def ask(key):
        return r.chat(zone="a", key=key, max_tokens=2)
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        lows = [pool.submit(ask, low) for _ in range(30)]
        wait_for(lambda: sum(f.result().status == 503 for f in lows if f.done()) >= 8, 10)
        highs = [pool.submit(ask, high) for _ in range(8)]
        results = [f.result() for f in lows]
        assert all(f.result().status == 200 for f in highs)
    shed = [s for s in results if s.status == 503]
    assert 8 <= len(shed) <= 14 and all(s.error["code"] == "overloaded" for s in shed)
    assert r.metric("a", "nef_ai_shed_total") >= len(shed)


def test_nothing_of_it_is_in_logs_and_metrics(r):
    secret = "xylophonequartz"
    fail(r, "cut", 2, times=1)
    assert r.chat("THINK10 " + secret).error is None
    r.call("/v1/completions", {"model": "nano", "prompt": secret, "max_tokens": 4, secret: 1})
    r.call("/v1/chat/completions?" + secret, {"model": secret, "messages": []})
    for z in ("a", "b"):
        assert secret not in r.admin(z, "/metrics").decode() and secret not in r.admin(z, "/ai/status").decode()
    for pid in [r.pids()["zone-a"], r.engine_pid("a")]:  # no core dump, to a file or a pipe
        with open(f"/proc/{pid}/limits") as f:
            assert next(line.split()[4] for line in f if line.startswith("Max core file size")) == "1"
    key = r.json["ai_key"].split(":")[1]
    for name in os.listdir(r.path("logs")):
        with open(r.path("logs", name), errors="replace") as f:
            text = f.read()
        assert secret not in text and key not in text, name


def test_metrics(r):
    text = r.admin("a", "/metrics").decode()
    assert text.endswith("# EOF\n") and text.count("# EOF") == 1
    for name in ("gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds",
                 "gen_ai_server_request_duration_seconds", "gen_ai_client_token_usage", "nef_ai_continuations",
                 "nef_ai_backend_up"):
        assert f"# TYPE {name} " in text, name
    before = r.metric("a", 'gen_ai_client_token_usage_total{gen_ai_operation_name="chat",gen_ai_token_type="output"}')
    assert r.chat(zone="a").error is None
    wait_for(lambda: r.metric("a", 'gen_ai_client_token_usage_total{gen_ai_operation_name="chat",gen_ai_token_type='
                                   '"output"}') == before + 20, 5)


def test_chat_in_the_terminal(r):
    """Through the front, with a backend that fails in the middle of the second answer."""
    def chat(*args, entry):
        got = subprocess.run([NEF, "chat", "--dir", r.directory, *args], input=entry, capture_output=True, text=True,
                             timeout=60)
        return got.returncode, got.stdout, got.stderr
    for f in r.fakes.values():
        f.control(mode="cut", after=4, times=1)
    status, out, err = chat("--model", "fake", entry="Hello\nagain\n/stats\n")
    assert (status, err) == (0, "") and out.startswith(WORDS + "\n" + WORDS + "\nprompts 14 tokens")
    bodies = [b for f in r.fakes.values() for b in f.control()["bodies"] if not b.get("continue_final_message")]
    assert [m["role"] for m in bodies[-1]["messages"]] == ["user", "assistant", "user"] or len(bodies) > 1
    status, _, err = chat("--model", "none", entry="x\n")
    assert status == 1 and "no model none" in err
    assert chat(entry="Hello\n")[0] == 0


def test_many_at_once(r):
    for f in r.fakes.values():
        f.control(delay=0.01)
    got, lock = [], threading.Lock()

    def one(i):
        s = r.chat(zone="ab"[i % 2])
        with lock:
            got.append(s.text.get(0))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [WORDS] * 16
