"""kill -9 of `nef etcd-alone`, which makes a cluster of etcd's survivor when a loss is accepted: at each of its steps,
by hand and under the supervisor, and of the supervisor with it. See FAULTS.md."""
import glob
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from lib.chosen import chosen
from lib.region import NEF, Region, send_signal, wait_for
from lib.s3raw import S3
from test_faults_quorum import etcd_says, overrides, wait_etcd_agrees


def etcd_log(work):
    try:
        with open(os.path.join(work, "etcd.log"), errors="replace") as f:
            return f.read()
    except OSError:
        return ""


# What can be seen from outside of each step, in their order: (name, work directory, data, aside) -> it has begun.
STEPS = {
    "begun": lambda work, data, aside: os.path.isdir(work),
    "copied": lambda work, data, aside: os.path.exists(f"{work}/copy/member/snap/db"),
    "copy serves": lambda work, data, aside: "serving client traffic" in etcd_log(work),
    "snapshot": lambda work, data, aside: os.path.exists(f"{work}/snapshot.db"),
    "restored": lambda work, data, aside: os.path.exists(f"{work}/new/member/snap/db"),
    "rewriting": lambda work, data, aside: etcd_log(work).count("serving client traffic") > 1,
    "put aside": lambda work, data, aside: os.path.isdir(aside),
    "replaced": lambda work, data, aside: os.path.isdir(aside) and os.path.isdir(f"{data}/member"),
}


def digest(directory):
    """Names and bytes of all files."""
    h = hashlib.sha256()
    for path, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted(files):
            with open(os.path.join(path, name), "rb") as f:
                h.update(os.path.join(path, name).encode() + f.read())
    return h.hexdigest()


def processes_in(directory):
    """Who works there: their directory, or an argument, is below it."""
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                line = f.read()
            if os.readlink(f"/proc/{pid}/cwd").startswith(directory) or directory.encode() in line:
                found.append(line)
        except OSError:
            pass
    return found


def held_by(data, name, peer):
    """What an etcd that is started on DATA holds: {key: (value, revision)}."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with open(os.devnull, "w") as null:
        etcd = subprocess.Popen(
            ["etcd", "--name", name, "--data-dir", data, "--listen-client-urls", url, "--advertise-client-urls", url,
             "--listen-peer-urls", f"unix://localhost:{port}", "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"{name}={peer}"], stdout=null, stderr=null, cwd=os.path.dirname(data))
    try:
        def ask():
            request = urllib.request.Request(url + "/v3/kv/range", data=b'{"key":"AA==","range_end":"AA=="}')
            with urllib.request.urlopen(request, timeout=2) as r:
                return json.load(r)
        kvs = wait_for(ask, 30, 0.1)["kvs"]
    finally:
        etcd.terminate()
        etcd.wait(20)
    return {kv["key"]: (kv["value"], int(kv["mod_revision"])) for kv in kvs}


@pytest.fixture(scope="module")
def stopped_member(tmp_path_factory):
    """(directory of etcd-a of a region that is down, what it holds, its name, its peer URL)."""
    r = Region()
    try:
        r.up()
        _, _, kvs = etcd_says(next(m for m in r.json["etcd"] if m["name"] == "etcd-a"), r.json["ca"])
        said = {kv["key"]: (kv["value"], int(kv["mod_revision"])) for kv in kvs}
        with open(f"/proc/{r.pids()['etcd-a']}/cmdline") as f:
            options = dict(a[2:].split("=", 1) for a in f.read().split("\0") if a.startswith("--") and "=" in a)
        r.nef("down", "--dir", r.directory)
        kept = str(tmp_path_factory.mktemp("member") / "etcd-a")
        shutil.copytree(r.path("etcd-a"), kept)
    finally:
        r.down()
    return kept, said, options["name"], options["initial-advertise-peer-urls"]


@pytest.mark.parametrize("when", chosen("each step", "at random"))
def test_etcd_alone_killed_and_given_again(stopped_member, tmp_path, when):
    """Given again after each kill, it ends as if it had run once; until the member's data were replaced they weren't
    touched, and no etcd that it had started outlives it."""
    kept, said, name, peer = stopped_member
    data, aside, work = (str(tmp_path / n) for n in ("etcd-a", "etcd-a.overridden-1", "etcd-a.alone"))
    shutil.copytree(kept, data)
    untouched = digest(data)
    command = [NEF, "etcd-alone", "--data-dir", data, "--name", name, "--peer-url", peer, "--aside", aside]

    def run_until(ready):
        """Whether it was killed."""
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            while p.poll() is None and not ready():
                time.sleep(0.0005)
        finally:
            killed = p.poll() is None
            p.kill()
            out = p.communicate()[0]
        assert killed or p.returncode == 0, out
        wait_for(lambda: not processes_in(str(tmp_path)), 5, 0.02)
        if not os.path.exists(aside):
            assert digest(data) == untouched
        return killed

    reached = []
    if when == "each step":
        for step, begun in STEPS.items():
            if run_until(lambda: begun(work, data, aside)):
                reached.append(step)
        assert {"begun", "copied", "copy serves", "snapshot", "restored", "rewriting"} <= set(reached), reached
    else:
        for n in range(40 if os.environ.get("NEF_SOAK") == "1" else 4):
            until = time.monotonic() + random.uniform(0, 2.5)
            run_until(lambda: time.monotonic() > until)
    for n in range(2):  # the second finds that it was done
        r = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert r.returncode == 0, r.stdout + r.stderr
    assert not os.path.exists(work)
    assert os.path.isdir(os.path.join(aside, "member"))
    now = held_by(data, name, peer)
    assert {k: v for k, (v, _) in now.items()} == {k: v for k, (v, _) in said.items()}
    assert all(now[k][1] >= said[k][1] + 100 for k in said), (said, now)


@pytest.mark.soak
def test_etcd_alone_killed_under_the_supervisor(faulty):
    """A loss is accepted; the helper dies at several of its steps, the supervisor with it once, and the member right
    after. The command that waits for it succeeds, and the region is whole again when the lost ones are back."""
    assert S3.of(faulty).request("PUT", "/alone")[0] in (200, 409)
    for n in range(20):
        assert S3.of(faulty).request("PUT", f"/alone/{n}", body=b"%d" % n)[0] == 200
    faulty.stop_zone("w", "--kill")
    faulty.stop_zone("b", "--kill")
    before = faulty.status("a")["epoch"]
    data, work = faulty.path("etcd-a"), faulty.path("etcd-a.alone")
    killed = []

    def helper():
        for pid in faulty.own_pids():
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if b"\0etcd-alone\0" in f.read():
                    return pid
        return None

    def kill_at(step):
        def due():
            aside = (glob.glob(data + ".overridden-*") or ["/nowhere"])[-1]
            return helper() and STEPS[step](work, data, aside)
        wait_for(due, 60, 0.001)
        pid = helper()
        if pid:
            send_signal(pid, signal.SIGKILL)
            killed.append(step)

    for old in glob.glob(data + ".overridden-*"):  # of other tests
        shutil.rmtree(old)
    with ThreadPoolExecutor() as pool:
        command = pool.submit(faulty.nef, "zone-recover", "--accept-loss", "--dir", faulty.directory, "a", timeout=200)
        kill_at("copy serves")
        kill_at("rewriting")
        with open(faulty.path("supervisor.pid")) as f:
            supervisor = int(f.read())
        wait_for(helper, 30, 0.01)  # again, after the back-off
        send_signal(supervisor, signal.SIGKILL)
        kill_at("begun")
        up = pool.submit(faulty.nef, "up", "--dir", faulty.directory, "--detach", check=False, timeout=200)
        wait_for(lambda: faulty.load() and "etcd-a" in faulty.pids() and not helper() and not os.path.exists(work), 60)
        faulty.kill("etcd-a")  # the member, the moment that it is a cluster of its own
        assert "goes on alone" in command.result().stdout
        up.result()
    assert killed == ["copy serves", "rewriting", "begun"]
    wait_for(lambda: faulty.status("a")["epoch"] > before, 30)
    accepted = faulty.status("a")["epoch"]
    wait_for(lambda: S3.of(faulty, "a").request("PUT", "/alone/after", body=b"x")[0] == 200, 30)
    faulty.start_zone("w")
    faulty.start_zone("b")
    faulty.wait_durability("2/2", 90)
    wait_etcd_agrees(faulty)
    faulty.handover("b")
    for n in range(20):
        assert S3.of(faulty, "b").request("GET", f"/alone/{n}")[2] == b"%d" % n
    faulty.handover("a")
    overrides(faulty, accepted)
    assert not os.path.exists(work)
