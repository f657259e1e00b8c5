"""nef infer --bench: what bench/infer.py relies on. That the numbers are right no test on a busy machine can say; that
they are of what was asked, and computed as their names promise, it can."""
import json
import os
import subprocess

import pytest

from lib.infer import MODELS, NEF

MODEL = os.path.join(MODELS, "qwen3-nano-Q8_0.gguf")


def bench(*options):
    return subprocess.run([NEF, "infer", "--bench", MODEL, "--threads", "2", *options], capture_output=True, text=True,
                          timeout=120)


def test_json_is_what_was_asked():
    r = bench("--json", "--prefill", "5,600", "--depth", "0,65", "--decode", "3", "--repeat", "2")
    assert r.returncode == 0 and r.stderr == ""
    load, memory, arithmetic, *results = [json.loads(line) for line in r.stdout.splitlines()]
    assert (load["test"], load["threads"], load["kv"]) == ("load", 2, "bf16")
    assert load["file_bytes"] == os.path.getsize(MODEL)
    assert load["position_bytes"] == 2 * 2 * 2 * 32 * 2         # keys and values, layers, heads, components, bytes
    assert (memory["what"], arithmetic["what"]) == ("memory", "arithmetic")
    assert [(x["test"], x["depth"], x["tokens"], x["limit"]) for x in results] == [
        ("prefill", 0, 5, "arithmetic"), ("prefill", 0, 600, "arithmetic"),
        ("decode", 0, 3, "memory"), ("decode", 65, 3, "memory")]
    for x in results:
        assert len(x["runs"]) == 2 and x["tokens_per_s"] == max(x["runs"]) and min(x["runs"]) > 0
    # a step reads every weight, and the cache up to its position
    assert results[2]["work_per_token"] == load["weight_bytes"] + 1.5 * load["position_bytes"]
    assert results[3]["work_per_token"] == load["weight_bytes"] + 66.5 * load["position_bytes"]
    # two products a weight, a multiplication and an addition each: q, k, v, o, gate, up, down of two layers
    weights = 2 * (128 * (128 + 64 + 64) + 128 * 128 + 3 * 128 * 256)
    assert results[0]["work_per_token"] == 4 * weights


def test_only_what_is_named_is_run():
    r = bench("--depth", "64", "--decode", "2", "--repeat", "1", "--kv-type", "i8")
    assert r.returncode == 0 and "decode 2 at depth 64" in r.stdout and "KV i8" in r.stdout
    assert "prefill" not in r.stdout


@pytest.mark.parametrize("options, said", [
    (["--prefill", "5,"], "--prefill"), (["--prefill", "0"], "--prefill"), (["--depth", "x"], "--depth"),
    (["--depth", "1 2"], "--depth"), (["--prefill", ",".join(["1"] * 17)], "--prefill"),
    (["--prefill", "1048577"], "--prefill"), (["--repeat", "0"], "--repeat"), (["--decode", "0"], "--decode")])
def test_what_is_no_list_is_refused(options, said):
    r = bench(*options)
    assert r.returncode == 2 and said in r.stderr and r.stdout == ""


def test_its_options_need_it():
    r = subprocess.run([NEF, "infer", "--model", MODEL, "--json"], capture_output=True, text=True, timeout=60)
    assert r.returncode == 2 and "--bench" in r.stderr
