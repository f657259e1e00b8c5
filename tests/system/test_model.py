"""nef model: models into a region, from files, from its own objects and from afar; interrupted, lied to, and while a
zone dies. What is in the region in the end is compared byte by byte through S3."""
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from lib.infer import Infer, MODELS
from lib.region import NEF, ROOT, Region, wait_for

sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from fake_hub import FakeHub  # noqa: E402

BUCKET = "nef-models"
MIB = 1 << 20


def read(name):
    with open(os.path.join(MODELS, name), "rb") as f:
        return f.read()


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def own():
    r = Region(edit=lambda region: [region.configure(z, {"timing": {"failback_after": "1h"}}) for z in ("a", "b")])
    try:
        yield r.up()
    finally:
        r.down()


@pytest.fixture(scope="module")
def small():
    return read("qwen3-nano-Q8_0.gguf")


@pytest.fixture(scope="module")
def big(small):
    """Several parts: a model with 22 MB behind its last tensor, which no reader looks at."""
    block = hashlib.sha512(b"nef").digest()
    tail = b"".join(hashlib.sha512(block + n.to_bytes(4, "little")).digest() * 1024 for n in range(352))
    return small + tail[:22 * MIB]


@pytest.fixture
def hub(tmp_path):
    with FakeHub(tmp_path) as h:
        yield h


@pytest.fixture(autouse=True)
def leave_nothing(request):
    """Each test finds the bucket empty, and what a refused model leaves is nothing: see nothing_left."""
    yield
    if "own" in request.fixturenames:
        r = request.getfixturevalue("own")
        for m in models(r):
            model(r, "rm", m["name"])


def command(region, *args):
    return [NEF, "model", *args, "--dir", region.directory]


def model(region, *args, check=True, **kw):
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    r = subprocess.run(command(region, *args), capture_output=True, text=True, timeout=120, env=env, **kw)
    if check:
        assert r.returncode == 0, r.stdout + r.stderr
    return r


def add(region, hub, name, url, *more, **kw):
    return model(region, "add", name, url, "--source-ca", hub.ca, "--part-mib", "5", *more, **kw)


def models(region):
    return json.loads(model(region, "list", "--json").stdout)


def stored(region, name, zone=None):
    s3 = region.boto(zone) if zone else region.boto()
    answer = s3.get_object(Bucket=BUCKET, Key=name)
    return answer["Body"].read(), answer["Metadata"]


def nothing_left(region):
    s3 = region.boto()
    if BUCKET not in [b["Name"] for b in s3.list_buckets()["Buckets"]]:
        return
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def refused(region, hub, url, *words, name="refused", more=()):
    r = add(region, hub, name, url, *more, check=False)
    assert r.returncode == 1, r.stdout + r.stderr
    for word in words:
        assert word in r.stderr, r.stderr
    assert r.stderr.count("\n") == 1 and "secret" not in r.stderr
    nothing_left(region)


# ---- what is near ----

def test_a_file_is_listed_read_and_removed(own, small):
    path = os.path.join(MODELS, "qwen3-nano-Q8_0.gguf")
    assert model(own, "list").stdout.startswith("no models yet")
    r = model(own, "add", "qwen3/nano", path)
    assert sha(small) in r.stdout and r.stderr == ""
    for zone in ("a", "b"):
        data, metadata = stored(own, "qwen3/nano", zone)
        assert data == small and metadata == {"sha256": sha(small), "source": "qwen3-nano-Q8_0.gguf"}
    assert [(m["name"], m["bytes"], m["sha256"], m["state"]) for m in models(own)] == [
        ("qwen3/nano", len(small), sha(small), "ready")]
    assert "there already" in model(own, "add", "qwen3/nano", path).stdout
    r = model(own, "add", "qwen3/nano", os.path.join(MODELS, "qwen3-nano-f32.gguf"), check=False)
    assert r.returncode == 1 and "--replace" in r.stderr
    model(own, "add", "qwen3/nano", os.path.join(MODELS, "qwen3-nano-f32.gguf"), "--replace")
    assert stored(own, "qwen3/nano")[0] == read("qwen3-nano-f32.gguf")
    model(own, "add", "copy", f"s3://{BUCKET}/qwen3/nano")
    assert stored(own, "copy")[0] == read("qwen3-nano-f32.gguf")
    assert "removed" in model(own, "rm", "qwen3/nano").stdout
    assert model(own, "rm", "qwen3/nano", check=False).returncode == 1
    assert [m["name"] for m in models(own)] == ["copy"]


def test_wrong_usage_and_what_is_no_model(own, tmp_path, small):
    for args in (["add"], ["add", "x"], ["add", "../x", "f"], ["add", "-x", "f"], ["add", "a//b", "f"], ["rm"],
                 ["sail"], ["list", "x"], ["add", "a" * 121, "f"]):
        assert model(own, *args, check=False).returncode in (1, 2), args
    assert subprocess.run([NEF, "model", "list"], capture_output=True).returncode == 2
    cases = {"empty": (b"", "empty"), "text": (b"hello" * 100, "no GGUF"), "cut": (small[:100000], "beyond the end"),
             "llama": (small.replace(b"qwen3", b"llama"), "architecture"),
             "tokens": (small.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"), "tokenizer")}
    for name, (data, word) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        r = model(own, "add", name, str(path), check=False)
        assert r.returncode == 1 and word in r.stderr and r.stderr.count("\n") == 1, (name, r.stderr)
    assert "No such file" in model(own, "add", "x", str(tmp_path / "none"), check=False).stderr
    assert "no such object" in model(own, "add", "x", f"s3://{BUCKET}/none", check=False).stderr
    assert "https://" in model(own, "add", "x", "ftp://example/x", check=False).stderr
    r = model(own, "add", "x", os.path.join(MODELS, "qwen3-nano-Q8_0.gguf"), "--sha256", "0" * 64, check=False)
    assert r.returncode == 1 and sha(small) in r.stderr
    nothing_left(own)


def test_by_the_front_and_keys_of_the_environment(own, small, tmp_path):
    """As where no directory of nef up is at hand: an endpoint, keys from the environment, and state in the user's home."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and not k.lower().endswith("_proxy")}
    env["XDG_STATE_HOME"] = str(tmp_path / "state")
    path = os.path.join(MODELS, "qwen3-nano-Q8_0.gguf")

    def run(*args, **more):
        return subprocess.run([NEF, "model", *args, "--endpoint", own.endpoint + "/"], capture_output=True, text=True,
                              timeout=60, env={**env, **more})
    r = run("list")
    assert r.returncode == 2 and "AWS_ACCESS_KEY_ID" in r.stderr and "--region" in r.stderr
    keys = {"AWS_ACCESS_KEY_ID": own.json["access_key"], "AWS_SECRET_ACCESS_KEY": own.json["secret_key"],
            "AWS_DEFAULT_REGION": own.json["region"]}
    r = run("add", "m", path, **keys)
    assert r.returncode == 0 and sha(small) in r.stdout, r.stderr
    assert stored(own, "m")[0] == small
    assert os.path.isdir(tmp_path / "state" / "nef")
    r = run("list", **{**keys, "AWS_SECRET_ACCESS_KEY": "wrong" * 8})
    assert r.returncode == 1 and "SignatureDoesNotMatch" in r.stderr and "wrong" not in r.stderr
    assert run("rm", "m", **keys).returncode == 0


def test_split_files_become_one_model(own, hub, tmp_path):
    parts = [f"qwen3-pico-yarn-q8_0-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    model(own, "add", "near", os.path.join(MODELS, parts[0]))
    near, metadata = stored(own, "near")
    assert metadata["sha256"] == sha(near)
    for p in parts:
        hub.files[p] = read(p)
    add(own, hub, "far", hub.url(parts[0]))
    assert stored(own, "far")[0] == near
    r = model(own, "add", "x", os.path.join(MODELS, parts[1]), check=False)
    assert r.returncode == 1 and "first file" in r.stderr
    shutil.copy(os.path.join(MODELS, parts[0]), tmp_path / "alone.gguf")
    r = model(own, "add", "x", str(tmp_path / "alone.gguf"), check=False)
    assert r.returncode == 1 and "split" in r.stderr
    hub.files[parts[2]] = hub.files[parts[1]]
    r = add(own, hub, "x", hub.url(parts[0]), check=False)
    assert r.returncode == 1 and "3" in r.stderr
    # The engine answers with the joined file as with the one that was split.
    (tmp_path / "joined.gguf").write_bytes(near)
    request = {"prompt": "Hello", "max_tokens": 16, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    answers = []
    for path in (str(tmp_path / "joined"), os.path.join(MODELS, "qwen3-pico-yarn-q8_0")):
        with Infer(path) as server:
            answers.append(server.call("/v1/completions", request)[2]["choices"][0]["token_ids"])
    assert answers[0] == answers[1] and len(answers[0]) == 16


# ---- what is far ----

def test_redirected_with_a_digest_and_a_token(own, hub, small, tmp_path):
    hub.files["m.gguf"] = small
    hub.token = "hf_secret"
    refused(own, hub, hub.url("m.gguf"), "access", "--source-token-file")
    token = tmp_path / "token"
    token.write_text("hf_secret\n")
    assert "mode 0600" in add(own, hub, "m", hub.url("m.gguf"), "--source-token-file", str(token), check=False).stderr
    token.chmod(0o600)
    hub.forget()
    r = add(own, hub, "m", hub.url("m.gguf") + "?download=true", "--source-token-file", str(token))
    assert "as published" in r.stdout
    data, metadata = stored(own, "m")
    assert data == small and metadata["sha256"] == sha(small)
    assert metadata["source"] == hub.url("m.gguf") and "secret" not in str(metadata)
    assert hub.requests.to("store") and all(r["range"] for r in hub.requests.to("store"))
    assert all(r["authorization"] is None for r in hub.requests.to("store"))
    assert all(r["authorization"] == "Bearer hf_secret" for r in hub.requests.to("hub"))
    hub.forget()
    assert "there already" in add(own, hub, "m", hub.url("m.gguf"), "--source-token-file", str(token)).stdout
    assert hub.sent < len(small) + MIB  # only its head was looked at


def test_an_etag_that_is_a_sha256(own, hub, small):
    hub.files["m.gguf"] = small
    add(own, hub, "plain", hub.url("m.gguf", plain=True))
    assert stored(own, "plain")[1]["sha256"] == sha(small)
    model(own, "rm", "plain")
    # Behind a redirect such an ETag is of something else, and there is no digest to check.
    hub.linked, hub.etag_of = False, lambda data: '"%s"' % ("ab" * 32)
    r = add(own, hub, "m", hub.url("m.gguf"))
    assert "as published" not in r.stdout and "sha256" not in stored(own, "m")[1]
    assert "there already" in add(own, hub, "m", hub.url("m.gguf")).stdout  # same source, same ETag
    # A server whose ETag only looks like one is told from one whose file is wrong by what the person says.
    hub.etag_of = lambda data: '"%s"' % ("cd" * 32)
    r = add(own, hub, "n", hub.url("m.gguf", plain=True), check=False)
    assert r.returncode == 1 and "--sha256" in r.stderr and sha(small) in r.stderr
    add(own, hub, "n", hub.url("m.gguf", plain=True), "--sha256", sha(small))


def test_cut_again_and_again(own, hub, big):
    hub.files["m.gguf"] = big
    hub.cut_always = 3 * MIB
    hub.statuses = [0, 503, 0, 429]
    add(own, hub, "m", hub.url("m.gguf"))
    data, metadata = stored(own, "m")
    assert data == big and metadata["sha256"] == sha(big)
    assert hub.sent < len(big) + 5 * MIB  # what had come is not fetched again
    assert any(r["if_range"] for r in hub.requests.to("store"))


def test_a_server_without_ranges(own, hub, big):
    hub.files["m.gguf"] = big
    hub.ranges = False
    hub.cut_after = [None, 7 * MIB, 12 * MIB]
    add(own, hub, "m", hub.url("m.gguf"))
    assert stored(own, "m")[0] == big
    model(own, "rm", "m")
    hub.etags = hub.linked = False
    hub.cut_after = [None, 7 * MIB]
    add(own, hub, "m", hub.url("m.gguf"))
    assert stored(own, "m")[0] == big


@pytest.mark.soak
def test_lies(own, hub, small, big):
    hub.files["m.gguf"] = small
    hub.files["big.gguf"] = big
    hub.lie = "gzip"
    refused(own, hub, hub.url("m.gguf"), "compresses")
    hub.ranges = hub.linked = hub.etags = False  # then nothing contradicts it
    hub.lie = "endless"
    refused(own, hub, hub.url("m.gguf"), "how long")
    hub.lie = "short"  # it only shows at the end: what came is kept, for that server may be better tomorrow
    r = add(own, hub, "short", hub.url("big.gguf"), check=False)
    assert r.returncode == 1 and "1000 bytes remaining" in r.stderr and "goes on from here" in r.stderr
    assert [m["state"] for m in models(own)] == ["incomplete"]
    model(own, "rm", "short")
    nothing_left(own)
    hub.ranges = hub.linked = hub.etags = True
    hub.cut_always = 3 * MIB
    for lie, word in (("start", "another range"), ("total", "changed")):
        hub.lie = lie
        refused(own, hub, hub.url("big.gguf"), word)
    hub.cut_always, hub.lie, hub.linked_size = None, None, 77
    refused(own, hub, hub.url("m.gguf"), "two different lengths")
    hub.linked_size = None
    for redirect, word in (("http://localhost:1/x", "from https"), (hub.url("m.gguf"), "redirects"),
                           ("ftp://localhost/x", "from https")):
        hub.redirect = redirect
        refused(own, hub, hub.url("m.gguf"), word)
    hub.redirect = None
    refused(own, hub, hub.url("none.gguf"), "nothing at this address")
    hub.files["page.gguf"] = b"<html>" * 1000
    refused(own, hub, hub.url("page.gguf"), "no GGUF")
    r = model(own, "add", "x", hub.url("m.gguf"), check=False)  # without its CA
    assert r.returncode == 1 and "certificate" in r.stderr


def test_a_wrong_digest_leaves_nothing(own, hub, big):
    wrong = bytearray(big)
    wrong[-1] ^= 1
    hub.files["m.gguf"] = big
    hub.etag_of = lambda data: '"same"'
    url = hub.url("m.gguf")
    real = hub.files["m.gguf"]
    # The digest is published with the redirect; the store gives one other bit at the very end.

    class Changing(dict):
        calls = 0

        def __getitem__(self, key):
            import inspect
            inside = inspect.stack()[1].function
            return bytes(wrong) if inside == "do_GET" else real
    hub.files = Changing({"m.gguf": real})
    refused(own, hub, url, sha(big), sha(bytes(wrong)))


def test_changed_while_it_was_fetched(own, hub, big):
    other = bytearray(big)
    other[12 * MIB] ^= 1
    hub.files["m.gguf"] = big
    hub.linked = False
    hub.rate = 8 * MIB
    p = subprocess.Popen(command(own, "add", "m", hub.url("m.gguf"), "--source-ca", hub.ca, "--part-mib", "5"),
                         stderr=subprocess.PIPE, text=True)
    wait_for(lambda: hub.sent > 7 * MIB, 30)
    hub.files["m.gguf"] = bytes(other)
    hub.rate, hub.cut_after = None, []
    kill_connections(hub)
    _, stderr = p.communicate(timeout=60)
    # The answer that was under way may have gone on to its end with the old content: then that is what is stored.
    if p.returncode == 0:
        assert stored(own, "m")[0] == big
    else:
        assert "changed at the source" in stderr
        nothing_left(own)


def kill_connections(hub):
    """Nothing to do where answers are short; the next request sees what the hub has now."""
    hub.forget()


# ---- interrupted ----

def interrupt(own, hub, name, data, parts=2):
    """Starts adding and kills the command when PARTS parts are in the region."""
    hub.files["m.gguf"] = data
    hub.rate = 10 * MIB
    p = subprocess.Popen(command(own, "add", name, hub.url("m.gguf"), "--source-ca", hub.ca, "--part-mib", "5"))
    try:
        wait_for(lambda: any(m["state"] == "incomplete" and m["bytes"] >= parts * 5 * MIB for m in models(own)), 60)
    finally:
        p.send_signal(signal.SIGKILL)
        p.wait()
    hub.rate = None
    assert [m["state"] for m in models(own)] == ["incomplete"]
    hub.forget()


def test_killed_and_gone_on(own, hub, big):
    interrupt(own, hub, "m", big)
    r = add(own, hub, "m", hub.url("m.gguf"))
    assert "going on" in r.stdout and sha(big) in r.stdout
    data, metadata = stored(own, "m")
    assert data == big and metadata["sha256"] == sha(big)
    first = [int(re.match(r"bytes=(\d+)-", q["range"])[1]) for q in hub.requests.to("store")]
    assert first[0] == 0 and first[1] >= 10 * MIB and first[1] % (5 * MIB) == 0  # the head, then what was missing
    assert [m["state"] for m in models(own)] == ["ready"]
    assert not [n for n in os.listdir(own.path("models")) if n.endswith(".json")]


@pytest.mark.soak
def test_killed_at_many_places(own, hub, big):
    """Whatever is killed when: in the end the model is whole, and only one."""
    hub.files["m.gguf"] = big
    for delay in (0.05, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3):
        hub.rate = 20 * MIB
        p = subprocess.Popen(command(own, "add", "m", hub.url("m.gguf"), "--source-ca", hub.ca, "--part-mib", "5"),
                             stdout=subprocess.DEVNULL)
        time.sleep(delay)
        p.send_signal(signal.SIGKILL)
        p.wait()
    hub.rate = None
    r = add(own, hub, "m", hub.url("m.gguf"))
    assert stored(own, "m")[0] == big, r.stdout
    assert [m["state"] for m in models(own)] == ["ready"]


@pytest.mark.soak
def test_gone_on_with_another_file_begins_anew(own, hub, big):
    interrupt(own, hub, "m", big)
    other = big[:-1] + bytes([big[-1] ^ 1])
    hub.files["m.gguf"] = other
    r = add(own, hub, "m", hub.url("m.gguf"))
    assert "going on" not in r.stdout and stored(own, "m")[0] == other
    assert [m["state"] for m in models(own)] == ["ready"]  # what the first one left is gone, too


@pytest.mark.soak
def test_what_was_kept_is_lost_or_garbage(own, hub, big):
    for garbage in ("{", lambda text: re.sub(r'"parts": \d+', '"parts": 4', text), None):
        interrupt(own, hub, "m", big)
        kept, = [own.path("models", n) for n in os.listdir(own.path("models")) if n.endswith(".json")]
        with open(kept) as f:
            text = f.read()
        assert "localhost" not in text and "m.gguf" not in text
        if garbage is None:
            os.unlink(kept)
        else:
            with open(kept, "w") as f:
                f.write(garbage if isinstance(garbage, str) else garbage(text))
        r = add(own, hub, "m", hub.url("m.gguf"))
        assert "going on" not in r.stdout and stored(own, "m")[0] == big
        assert [m["state"] for m in models(own)] == ["ready"]
        model(own, "rm", "m")


def test_upload_gone_meanwhile(own, hub, big):
    interrupt(own, hub, "m", big)
    model(own, "rm", "m")
    assert models(own) == []
    add(own, hub, "m", hub.url("m.gguf"))
    assert stored(own, "m")[0] == big


@pytest.mark.soak
def test_two_at_a_time(own, hub, big):
    hub.files["m.gguf"] = big
    hub.rate = 10 * MIB
    p = subprocess.Popen(command(own, "add", "m", hub.url("m.gguf"), "--source-ca", hub.ca, "--part-mib", "5"))
    wait_for(lambda: models(own), 30)
    r = add(own, hub, "m", hub.url("m.gguf"), check=False)
    assert r.returncode == 1 and "another command" in r.stderr
    assert p.wait(60) == 0
    assert stored(own, "m")[0] == big


@pytest.mark.soak
def test_a_zone_dies_meanwhile(own, hub, big):
    hub.files["m.gguf"] = big
    hub.rate = 5 * MIB
    p = subprocess.Popen(command(own, "add", "m", hub.url("m.gguf"), "--source-ca", hub.ca, "--part-mib", "5"),
                         stdout=subprocess.PIPE, text=True)
    wait_for(lambda: any(m["bytes"] >= 5 * MIB for m in models(own)), 60)
    own.nef("zone-stop", "--dir", own.directory, "a", "--kill")
    try:
        out, _ = p.communicate(timeout=90)
        assert p.returncode == 0 and sha(big) in out
        assert stored(own, "m", "b")[0] == big
    finally:
        own.nef("zone-start", "--dir", own.directory, "a")
        wait_for(lambda: own.status("b")["durability"] == "2/2", 60)
    assert stored(own, "m", "a")[0] == big


def test_progress_on_a_terminal(own, hub, big):
    hub.files["m.gguf"] = big
    hub.rate = 30 * MIB
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(NEF, command(own, "add", "m", hub.url("m.gguf"), "--source-ca", hub.ca))
    shown = b""
    while select.select([fd], [], [], 60)[0]:
        try:
            got = os.read(fd, 65536)
        except OSError:
            break
        if not got:
            break
        shown += got
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    os.close(fd)
    percents = [int(n) for n in re.findall(rb"(\d+) %", shown)]
    assert len(percents) >= 3 and percents == sorted(percents) and b"#" in shown and b"/s" in shown
    assert all(len(line) <= 80 + 10 for line in re.split(rb"[\r\n]", shown) if b"#" in line)
