"""A model from `nef model add` to answers in both zones: the same list in both, nothing of it readable on any disk,
gone when it is removed, new when it is replaced, there again after a zone's return."""
import json
import os
import subprocess
import urllib.error
import urllib.request

import pytest

from lib.infer import Infer, MODELS
from lib.region import NEF, ROOT, Region, wait_for

REQUEST = {"prompt": "Hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True, "return_token_ids": True}


@pytest.fixture(scope="module")
def own():
    r = Region(edit=lambda region: [region.configure(z, {"timing": {"failback_after": "1h"}}) for z in ("a", "b")])
    try:
        yield r.up()
    finally:
        r.down()


def model(region, *args):
    r = subprocess.run([NEF, "model", *args, "--dir", region.directory], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr
    return r.stdout


def call(region, zone, path, body=None):
    base = region.json["ai_endpoint"] if zone is None else region.zone(zone)["ai"]
    request = urllib.request.Request(base + path, data=None if body is None else json.dumps(body).encode(),
                                     headers={"Authorization": "Bearer " + region.json["ai_key"],
                                              "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def listed(region, zone):
    return call(region, zone, "/v1/models")["data"]


def ids(region, zone, name):
    return call(region, zone, "/v1/completions", {**REQUEST, "model": name})["choices"][0]["token_ids"]


def engines(region, zone):
    """Processes of engines that this zone's process started."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                parent = int(f.read().rsplit(")", 1)[1].split()[1])
            with open(f"/proc/{pid}/cmdline") as f:
                command = f.read().split("\0")
        except (OSError, ValueError):
            continue
        if parent == region.zone(zone)["pid"] and "infer" in command:
            found.append((int(pid), command))
    return found


def test_served_alike_in_both_zones_and_never_on_a_disk(own):
    assert listed(own, "a") == listed(own, "b") == []
    model(own, "add", "nano", os.path.join(MODELS, "qwen3-nano-Q8_0.gguf"))
    # a zone may know the other's engine before it has seen the object itself: the name comes first, then all of it
    wait_for(lambda: [m["id"] for m in listed(own, "a")] == ["nano"] and
             listed(own, "a") == listed(own, "b") == listed(own, None), 10)
    entry, = listed(own, "a")
    assert entry["object"] == "model" and entry["meta"]["size"] == os.path.getsize(
        os.path.join(MODELS, "qwen3-nano-Q8_0.gguf")) and len(entry["meta"]["sha256"]) == 64
    assert call(own, "b", "/v1/models/nano") == entry
    with pytest.raises(urllib.error.HTTPError) as e:
        call(own, "a", "/v1/models/none")
    assert e.value.code == 404
    with Infer("qwen3-nano-Q8_0") as server:
        expected = server.call("/v1/completions", REQUEST)[2]["choices"][0]["token_ids"]
    for zone in ("a", "b", None):
        assert wait_for(lambda: ids(own, zone, "nano"), 30) == expected
    # The engines have it from a descriptor of sealed memory, and no file of the region shows what is in the model.
    for zone in "ab":
        (pid, command), = engines(own, zone)
        assert any(a.startswith("fd:") for a in command)
        assert any("memfd:nef-model" in os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd"))
    own.nef("zone-stop", "--dir", own.directory, "b")  # what it had in buffers is written
    own.nef("zone-start", "--dir", own.directory, "b")
    for root, _, names in os.walk(own.directory):
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    assert b"tokenizer.ggml" not in f.read(), path


def test_there_again_replaced_and_removed(own):
    wait_for(lambda: ids(own, "b", "nano"), 60)  # after its zone's return
    before = ids(own, "b", "nano")
    model(own, "add", "nano", os.path.join(MODELS, "qwen2-nano-Q8_0.gguf"), "--replace")
    for zone in "ab":
        wait_for(lambda: ids(own, zone, "nano") != before, 60)
    assert ids(own, "a", "nano") == ids(own, "b", "nano")
    # An object that is no model is listed by nobody's mistake but its owner's, and harms nothing else.
    own.boto().put_object(Bucket="nef-models", Key="broken", Body=b"GGUF no")
    wait_for(lambda: len(listed(own, "b")) == 2, 10)
    assert ids(own, "a", "nano") == ids(own, "b", "nano")
    model(own, "rm", "broken")
    model(own, "rm", "nano")
    wait_for(lambda: listed(own, "a") == listed(own, "b") == [], 10)
    for zone in "ab":
        with pytest.raises(urllib.error.HTTPError) as e:
            ids(own, zone, "nano")
        assert e.value.code == 404
        wait_for(lambda: engines(own, zone) == [], 20)


@pytest.mark.soak
def test_the_line_that_make_run_ends_with(own, tmp_path):
    """tools/demo.sh with a region: it adds, waits and prints a line that answers; again it changes nothing."""
    built = os.path.join(ROOT, "build-infer", "synthetic.gguf")
    if not os.path.exists(built):
        subprocess.run([os.path.join(ROOT, "tools", "demo.sh"), "prepare"], check=True, timeout=300)
    assert os.path.exists(built)
    for _ in range(2):
        r = subprocess.run([os.path.join(ROOT, "tools", "demo.sh"), NEF, own.directory], capture_output=True, text=True,
                           timeout=90)
        assert r.returncode == 0 and r.stderr == "", r.stderr
        assert "nonsense" in r.stdout and "nef model add" in r.stdout.replace(NEF, "nef")
        line = r.stdout[r.stdout.index("curl -s"):].split(f"\n            {NEF} chat")[0]
        answer = json.loads(subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60).stdout)
        assert answer["usage"]["completion_tokens"] > 0 and answer["choices"][0]["message"]["content"]
    assert [m["id"] for m in listed(own, "a")] == ["synthetic"]
