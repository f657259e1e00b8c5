"""AI rights and budgets of users: said with nef user, enforced over both zones."""
import http.client
import json
import threading
import time

import pytest

from lib.region import Region, wait_for
from lib.script_engine import ScriptEngine, use
from test_responses import ai, call, user, wait_models

ASK = {"model": "script", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def region():
    with ScriptEngine() as engine:
        r = Region(edit=lambda r: use(r, a=engine, b=engine))
        try:
            r.up()
            wait_models(r)
            yield r
        finally:
            r.down()


def chat(region, zone, key, body=None):
    return call(region, zone, "POST", "/v1/chat/completions", body or ASK, key)


def test_rights(region):
    none, model, zone = user(region, "none"), user(region, "model", "--ai", "--ai-models", "another"), \
        user(region, "zone", "--ai-models", "*")
    assert chat(region, "a", none)[0] == 403
    assert chat(region, "a", model)[0] == 404
    assert call(region, "a", "GET", "/v1/models", None, model)[1]["data"] == []
    assert chat(region, "a", zone)[0] == 403  # no zone may compute for it: nothing is widened by itself
    region.nef("user", "change", "zone", "--ai-zones", "a,b", "--dir", region.directory)
    assert chat(region, "b", zone)[0] == 200
    region.nef("user", "change", "model", "--ai-models", "script", "--ai-rpm", "7", "--dir", region.directory)
    assert chat(region, "b", model)[0] == 200
    listed = {u["name"]: u for u in json.loads(
        region.nef("user", "list", "--json", "--dir", region.directory).stdout)["users"]}
    assert listed["none"]["ai"] is None
    assert listed["model"]["ai"] == {"models": ["script"], "zones": "*", "requests_min": 7, "tokens_min": 0,
                                     "concurrency": 0, "weight": 1, "priority": 0}
    region.nef("user", "change", "model", "--no-ai", "--dir", region.directory)
    assert chat(region, "a", model)[0] == 403
    for wrong in (("--ai-weight", "0"), ("--ai-priority", "10"), ("--ai-zones", "a b")):
        assert region.nef("user", "change", "zone", *wrong, "--dir", region.directory, check=False).returncode != 0


def test_requests_a_minute_over_both_zones(region):
    key = user(region, "twenty", "--ai", "--ai-rpm", "20")
    got, first = [], chat(region, "a", key)
    assert first[0] == 200
    assert first[2]["x-ratelimit-limit-requests"] == "20"
    assert first[2]["x-ratelimit-remaining-requests"] == "19"

    def ask(zone):
        for _ in range(16):
            got.append(chat(region, zone, key))
    threads = [threading.Thread(target=ask, args=(z,)) for z in "abab"]
    begun = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.monotonic() - begun
    taken = [g for g in got if g[0] == 200]
    refused = [g for g in got if g[0] == 429]
    assert len(taken) + len(refused) == 64
    if took < 55:  # in any minute no more than 20, and no less if they are asked for
        assert len(taken) == 19
    assert refused[0][1]["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused[0][2]["Retry-After"]) <= 61
    assert refused[-1][2]["x-ratelimit-remaining-requests"] == "0"


def test_answers_at_once_over_both_zones(region):
    key = user(region, "three", "--ai", "--ai-concurrency", "3")
    long = dict(ASK, max_tokens=400, messages=[{"role": "user", "content": json.dumps({"words": 400, "delay": 0.02})}])
    running, most = [0], [0]
    lock = threading.Lock()
    statuses = []

    def ask(zone):
        c = http.client.HTTPConnection(ai(region, zone).split("//")[1], timeout=60)
        c.request("POST", "/v1/chat/completions", json.dumps(dict(long, stream=True)), {"Authorization": "Bearer " + key})
        a = c.getresponse()
        with lock:
            statuses.append(a.status)
            running[0] += a.status == 200
            most[0] = max(most[0], running[0])
        a.read()
        with lock:
            running[0] -= a.status == 200
        c.close()
    threads = [threading.Thread(target=ask, args=(z,)) for z in "abababab"]
    for t in threads:
        t.start()
        time.sleep(0.05)
    for t in threads:
        t.join()
    assert most[0] <= 3
    assert statuses.count(200) >= 3 and statuses.count(429) >= 1, statuses
    assert chat(region, "b", key)[0] == 200


def test_tokens_a_minute_and_responses(region):
    key = user(region, "tokens", "--ai", "--ai-tpm", "200")
    ask = {"model": "script", "input": "hello", "max_output_tokens": 100}
    statuses = [call(region, z, "POST", "/v1/responses", ask, key)[0] for z in "abababababababababab"]
    # each costs 12 tokens in the end; while it runs, what it may cost is held
    assert 1 <= statuses.count(200) <= 17, statuses
    assert 429 in statuses
    status, error, headers = call(region, "a", "POST", "/v1/responses", ask, key)
    assert status == 429 and error["error"]["code"] == "rate_limit_exceeded"
    assert headers["x-ratelimit-limit-tokens"] == "200" and int(headers["Retry-After"]) >= 1


def test_a_lost_zone_takes_little_with_it(region):
    """Zone a is killed while it serves a user: what is left of the budget is zone b's at once, but for what zone a held for the next
    two seconds, by what it had been asked lately."""
    key = user(region, "survivor", "--ai", "--ai-rpm", "60")
    assert all(chat(region, "a", key)[0] == 200 for _ in range(10))
    region.stop_zone("a", "--kill")
    got = 0
    deadline = time.monotonic() + 30
    while got < 35 and time.monotonic() < deadline:
        try:
            got += chat(region, "b", key)[0] == 200
        except OSError:
            pass
    assert got >= 35
    region.start_zone("a")
    region.wait_durability()


def test_an_answer_that_another_zone_goes_on_with_counts_there(region):
    """Zone a is killed in the middle of an answer in the background: in zone b it takes the user's only place until it ends, and
    what zone b computes of it is taken from the user's tokens."""
    key = user(region, "owner", "--ai", "--ai-concurrency", "1", "--ai-tpm", "20000")
    words = 1500
    status, made, _ = call(region, "a", "POST", "/v1/responses", {"model": "script", "background": True, "max_output_tokens": 1600,
                                                                 "input": json.dumps({"words": words, "delay": 0.01})}, key)
    assert status == 200
    path = "/v1/responses/" + made["id"]
    wait_for(lambda: call(region, "b", "GET", path, None, key)[1]["output"], 10)
    region.stop_zone("a", "--kill")
    lost = time.monotonic()

    def state():
        return call(region, "b", "GET", path, None, key)[1]
    refused = 0
    while state()["status"] == "in_progress" and time.monotonic() < lost + 60:
        if time.monotonic() > lost + 8:  # what zone a held is over by now
            status, _, headers = chat(region, "b", key)
            assert status == 429 or state()["status"] == "completed"
            refused += status == 429
            left = int(headers["x-ratelimit-remaining-tokens"])
        time.sleep(0.2)
    done = state()
    assert done["status"] == "completed" and done["usage"]["output_tokens"] == words
    assert refused > 3, "it was over too soon to see anything"
    status, _, headers = wait_for(lambda: (lambda a: a if a[0] == 200 else None)(chat(region, "b", key)), 10)
    # while it ran its remaining tokens were held; at its end what was computed here counts, and no less
    assert left <= int(headers["x-ratelimit-remaining-tokens"]) <= 20000 - words
    region.start_zone("a")
    region.wait_durability()
