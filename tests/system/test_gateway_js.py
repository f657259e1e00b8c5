"""openai, the Vercel AI SDK and LangChain.js, and curl, unmodified, through the front and with the backend that they
meet first failing in the middle of answers."""
import json
import os
import subprocess

import pytest

from lib.gateway import AiRegion
from test_js import JS, NODE


@pytest.fixture(scope="module")
def r():
    region = AiRegion(ai={"timing": {"probe_timeout": "4s"}})
    try:
        yield region.up()
    finally:
        region.down()


@pytest.mark.parametrize("failing", [False, True], ids=["well", "failing"])
def test_packages(r, failing):
    assert os.path.exists(NODE), "run: make tests/system/js/node_modules/.package-lock.json (npm ci)"
    for f in r.fakes.values():
        f.behave()
    if failing:
        r.fakes["a"].control(mode="cut", after=3, times=1000)
    base = r.json["ai_endpoint"] if not failing else r.zone("a")["ai"]
    env = dict(os.environ, BASE=base, KEY=r.json["ai_key"], MODEL="nano", FAKE="fake", NO_PROXY="127.0.0.1",
               NODE_NO_WARNINGS="1")
    got = subprocess.run([NODE, "gateway.mjs"], cwd=JS, env=env, capture_output=True, text=True, timeout=240)
    assert got.returncode == 0 and got.stdout.endswith("all passed\n"), got.stdout + got.stderr


def test_curl(r):
    for f in r.fakes.values():
        f.behave()
    got = subprocess.run(["curl", "-sS", "-N", "--max-time", "30", "-H", "Authorization: Bearer " + r.json["ai_key"],
                          "-H", "Content-Type: application/json", r.json["ai_endpoint"] + "/v1/chat/completions", "-d",
                          json.dumps({"model": "fake", "stream": True,
                                      "messages": [{"role": "user", "content": "Hello"}]})],
                         capture_output=True, text=True, check=True)
    lines = [line for line in got.stdout.split("\n") if line]
    assert lines[-1] == "data: [DONE]" and len(lines) == 23     # the role, 20 words, the end
    assert all(line.startswith("data: ") for line in lines)
