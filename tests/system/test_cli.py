"""The commands: what they print and write is what others script against."""
import glob
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest
from lib.load import Load
from lib.region import NEF, Region, free_port_base, send_signal, wait_for
from lib.s3raw import S3, error_code

NAMES = ["etcd-a", "etcd-b", "etcd-w", "front", "witness", "zone-a", "zone-b"]
COMMANDS = ["up", "down", "status", "user", "zone-stop", "zone-start", "zone-recover", "fsck", "init", "model", "zone",
            "witness", "help"]


def nef(*args, **kw):
    return subprocess.run([NEF, *args], capture_output=True, text=True, timeout=60, **kw)


@pytest.fixture(scope="module")
def own():
    """A region that this file may stop and break."""
    r = Region(edit=lambda region: [region.configure(z, {"segment": "8MiB", "timing": {"failback_after": "1h"}})
                                    for z in ("a", "b")])
    try:
        yield r.up()
    finally:
        r.down()


# ---- help ----

def test_help_and_version():
    assert re.fullmatch(r"nef \d+\.\d+\.\d+\n", nef("--version").stdout)
    overview = nef("help").stdout
    for command in COMMANDS:
        assert f"nef {command} " in overview
        r = nef("help", command)
        assert r.returncode == 0 and f"nef {command}" in r.stdout and len(r.stdout) > 20, command
    assert nef("help", "sail").returncode == 2
    r = nef("sail")
    assert r.returncode == 2 and "nef help" in r.stderr
    r = nef("up", "--sails", "3")
    assert r.returncode == 2 and "--sails" in r.stderr and "nef help up" in r.stderr


def test_wrong_options_say_what_is_wrong(tmp_path):
    for args, word in ((["up"], "--dir"), (["up", "--dir", str(tmp_path), "--cells", "0"], "--cells"),
                       (["up", "--dir", str(tmp_path), "--port-base", "x"], "--port-base"),
                       (["status"], "--dir"), (["user", "add", "--dir", str(tmp_path)], "add NAME"),
                       (["zone-stop", "--dir", str(tmp_path)], "zone-stop")):
        r = nef(*args)
        assert r.returncode == 2 and word in r.stderr, (args, r.stderr)
    r = nef("status", "--dir", str(tmp_path))
    assert r.returncode != 0 and "holds no region" in r.stderr
    r = nef("init", "--out", str(tmp_path / "i"), "--zones", "a=h1,b=h2", "--witness", "h2")
    assert r.returncode == 1 and "a host of its own" in r.stderr and not (tmp_path / "i").exists()
    (tmp_path / "aside").mkdir()  # not this command's work: there is no member
    r = nef("etcd-alone", "--data-dir", str(tmp_path / "none"), "--name", "a", "--peer-url", "https://h1:2380",
            "--aside", str(tmp_path / "aside"))
    assert r.returncode == 1 and "holds no member" in r.stderr


def test_the_wrong_port_is_told_and_no_token_repeated(own, tmp_path):
    token = own.json["admin_token"]
    env = {**own.env, "NEF_ADMIN_TOKEN": token}
    for url, word in ((own.json["endpoint"], "right port"), (own.json["witness"]["admin"], "witness")):
        r = subprocess.run([NEF, "status", "--endpoint", url], capture_output=True, text=True, env=env)
        assert r.returncode == 1 and word in r.stderr and token not in r.stderr + r.stdout, r.stderr


def test_configuration_errors_name_file_line_and_key(tmp_path):
    r = nef("up", "--dir", str(tmp_path / "r"), "--prepare-only")
    assert r.returncode == 0, r.stderr
    assert not os.path.exists(tmp_path / "r" / "region.json")
    path = tmp_path / "r" / "config" / "zone-a.yaml"
    lines = path.read_text().splitlines()
    for old, new, key in (("heartbeat:", "  heartbeat: fast", "heartbeat"), ("cells:", "cells: 4000", "cells"),
                          ("zone:", "zone: a\nsails: 3", "sails")):
        number = next(n for n, line in enumerate(lines) if line.strip().startswith(old))
        path.write_text("\n".join(lines[:number] + [new] + lines[number + 1:]) + "\n")
        r = nef("zone", "--config", str(path))
        line = number + 1 + new.count("\n")
        assert r.returncode == 2 and str(path) in r.stderr and key in r.stderr, r.stderr
        assert re.search(rf"\b{line}\b", r.stderr), (line, r.stderr)


# ---- up ----

def test_up_repeated_is_harmless(own):
    before = own.pids()
    assert sorted(before) == NAMES
    r = own.nef("up", "--dir", own.directory, "--detach")
    for text in (own.endpoint, own.json["access_key"], own.json["secret_key"], "curl", "one failure domain"):
        assert text in r.stdout
    assert own.pids() == before
    r = own.nef("up", "--dir", own.directory, "--detach", "--cells", "7", check=False)
    assert r.returncode == 1 and "can't change" in r.stderr
    assert own.pids() == before


def test_the_curl_line_works(own):
    out = own.nef("up", "--dir", own.directory, "--detach").stdout
    line = next(line for line in out.splitlines() if "curl" in line)
    r = subprocess.run(["sh", "-c", line[line.index("curl"):].replace("curl ", "curl -sS -f ", 1)],
                       capture_output=True, text=True)
    assert r.returncode == 0 and "<ListAllMyBucketsResult" in r.stdout, r.stdout + r.stderr


def test_region_json(own):
    j = own.load()
    assert set(j) >= {"region", "endpoint", "access_key", "secret_key", "admin_token", "ca", "zones", "witness",
                      "etcd", "processes"}
    assert j["region"] == "eu-paris" and j["endpoint"] == f"http://127.0.0.1:{own.port_base}"
    assert [z["name"] for z in j["zones"]] == ["a", "b"]
    for z in j["zones"]:
        assert set(z) >= {"name", "s3", "admin", "pid"}
    assert set(j["witness"]) >= {"admin", "pid"}
    assert len(j["etcd"]) == 3
    assert sorted(p["name"] for p in j["processes"]) == NAMES
    for p in j["processes"]:
        assert p["state"] == "running" and os.path.exists(p["log"])
        os.kill(p["pid"], 0)
    assert os.stat(own.path("region.json")).st_mode & 0o777 == 0o600
    assert os.stat(own.path("keys", "customer.key")).st_mode & 0o777 == 0o600
    with open(j["ca"]) as f:
        assert "BEGIN CERTIFICATE" in f.read()


def test_ports_in_use_are_refused_clearly(tmp_path):
    base = free_port_base(20500)
    with socket.socket() as s:
        s.bind(("127.0.0.1", base + 12))
        s.listen()
        r = nef("up", "--dir", str(tmp_path / "r"), "--port-base", str(base), "--detach")
        assert r.returncode == 1
        assert f"port {base + 12}" in r.stderr and "zone-a" in r.stderr and "--port-base" in r.stderr
        assert nef("down", "--dir", str(tmp_path / "r")).returncode == 0


def test_no_root_is_needed():
    """The tests run as root where they cut links: here everything belongs to nobody."""
    directory = tempfile.mkdtemp(prefix="nef-nobody-")
    user = {} if os.geteuid() != 0 else {"user": "nobody", "group": "nogroup", "extra_groups": []}
    program, region = shutil.copy(NEF, directory), os.path.join(directory, "region")
    os.chmod(directory, 0o777)
    base = str(free_port_base(20500))

    def run(command, *args):
        r = subprocess.run([program, command, "--dir", region, *args], capture_output=True, text=True, timeout=90,
                           cwd="/", **user)
        assert r.returncode == 0, r.stdout + r.stderr
        return r.stdout
    try:
        run("up", "--port-base", base, "--detach")
        assert "durability 2/2" in run("status")
        with open("/proc/%d/status" % int(open(os.path.join(region, "supervisor.pid")).read())) as f:
            assert re.search(rf"^Uid:\t{os.stat(region).st_uid}\t", f.read(), re.M)
        assert not user or os.stat(region).st_uid != 0
    finally:
        run("down")
        shutil.rmtree(directory)


# ---- what a region says ----

def test_status(own):
    own.wait_durability()
    s = json.loads(own.nef("status", "--dir", own.directory, "--json").stdout)
    assert s["durability"] == "2/2" and s["epoch"] >= 1
    assert [c["id"] for c in s["cells"]] == [0, 1, 2, 3]
    for c in s["cells"]:
        assert c["primary"] in ("a", "b") and set(c["log_end"]) == {"a", "b"} and c["lag"] >= 0
    assert {z["name"] for z in s["zones"]} == {"a", "b"}
    for z in s["zones"]:
        assert z["in_sync"] is True and z["state"] in ("primary", "backup")
        assert z["last_contact_ms"] < 1000 and z["catch_up"] is None
    table = own.nef("status", "--dir", own.directory).stdout
    assert "2/2" in table and "primary" in table and "backup" in table
    token = own.path("secrets", "admin.token")
    r = own.nef("status", "--endpoint", own.zone("b")["admin"], "--token-file", token, "--json")
    assert json.loads(r.stdout)["durability"] == "2/2"


def fetch(url, token=None, method="GET"):
    request = urllib.request.Request(url, method=method)
    if token:
        request.add_header("Authorization", "Bearer " + token)
    try:
        with urllib.request.urlopen(request, timeout=5) as r:
            return r.status, dict(r.headers), r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, dict(e.headers), e.read().decode()


def test_health_and_the_token(own):
    for z in own.json["zones"]:
        assert fetch(z["admin"] + "/health/live")[0] == 200
        assert fetch(z["admin"] + "/health/ready")[0] == 200
        for page in ("/metrics", "/status", "/users", "/anything"):
            assert fetch(z["admin"] + page)[0] == 401
            assert fetch(z["admin"] + page, "wrong")[0] == 401
        assert fetch(z["admin"] + "/anything", own.json["admin_token"])[0] == 404
        assert fetch(z["admin"] + "/metrics", own.json["admin_token"], "POST")[0] == 405
    assert fetch(own.json["witness"]["admin"] + "/health/live")[0] == 200
    with open(own.path("secrets", "metrics.token")) as f:
        token = f.read().strip()
    for admin in [z["admin"] for z in own.json["zones"]] + [own.json["witness"]["admin"]]:
        assert fetch(admin + "/metrics", token)[0] == 200
        assert fetch(admin + "/metrics", token[:-1])[0] == 401
        for page in ("/status", "/users", "/users/x/disable", "/recover"):
            assert fetch(admin + page, token)[0] in (401, 404)
    for page in ("/users", "/users/x/disable", "/recover", "/handover"):
        assert fetch(own.zone("a")["admin"] + page, token, "POST")[0] == 401


METRICS = ["nef_requests_total", "nef_request_duration_seconds_bucket", "nef_request_body_bytes_total",
           "nef_response_body_bytes_total", "nef_log_end_bytes", "nef_replication_lag_bytes",
           "nef_sync_duration_seconds_bucket", "nef_failovers_total", "nef_durability_zones", "nef_disk_free_bytes",
           "nef_disk_total_bytes", "nef_epoch", "nef_primary", "nef_ready", "nef_build_info"]
SAMPLE = re.compile(r'^([a-z][a-z0-9_]*)(\{([a-z_]+="(\\.|[^"\\])*",?)*\})? (-?[0-9.e+-]+|NaN|[+-]Inf)$')


def test_metrics(own):
    s3 = S3.of(own, "a")
    s3.request("PUT", "/metrics-bucket")
    s3.request("PUT", "/metrics-bucket/k", body=b"x" * 1000)
    s3.request("GET", "/metrics-bucket/none")
    for z in ("a", "b"):
        status, headers, text = fetch(own.zone(z)["admin"] + "/metrics", own.json["admin_token"])
        assert status == 200
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n") and text.count("# EOF") == 1
        families, seen, previous = {}, set(), None
        for line in text.splitlines()[:-1]:
            if line.startswith("# "):
                kind, name, rest = line[2:].split(" ", 2)
                assert kind in ("TYPE", "HELP", "UNIT"), line
                if kind == "TYPE":
                    assert name not in families, f"{name} comes twice"
                    families[name] = rest
                    assert rest in ("counter", "gauge", "histogram", "info")
                previous = name
                continue
            m = SAMPLE.match(line)
            assert m, line
            assert line.rsplit(" ", 1)[0] not in seen, f"twice: {line}"
            seen.add(line.rsplit(" ", 1)[0])
            family = previous
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "info": ["_info"],
                        "gauge": [""]}[families[family]]
            assert m.group(1) in [family + s for s in suffixes], line
        for name in METRICS:
            if z == "b" and name in ("nef_requests_total", "nef_request_duration_seconds_bucket"):
                continue  # nobody asked zone b yet
            if name == "nef_replication_lag_bytes" and not re.search(rf"^{name}", text, re.M):
                continue  # of peers that are connected; zone a's is checked
            assert re.search(rf"^{name}[ {{]", text, re.M), name
    text = fetch(own.zone("a")["admin"] + "/metrics", own.json["admin_token"])[2]
    for name in ("nef_peer_up", "nef_peer_in_sync", "nef_catch_up_left_bytes", "nef_catch_up_blocked",
                 "nef_replication_lag_bytes"):
        assert re.search(rf'^{name}{{peer="b"}} \d', text, re.M), name
    assert re.search(r'^nef_requests_total\{operation="PutObject",code="200"\} [1-9]', text, re.M)
    assert re.search(r'^nef_requests_total\{operation="GetObject",code="404"\} [1-9]', text, re.M)


def test_logs_are_json_lines(own):
    for name in ("zone-a", "zone-b", "witness"):
        with open(own.path("logs", name + ".log")) as f:
            for line in f:
                e = json.loads(line)
                assert {"time", "level", "who", "event"} <= set(e), line


def test_no_secret_is_in_a_log(own):
    secrets = [own.json["secret_key"], own.json["admin_token"]]
    for path in glob.glob(own.path("logs", "*.log")):
        with open(path, errors="replace") as f:
            text = f.read()
        assert not [s for s in secrets if s in text], path


def test_logs_dont_grow_without_end(own):
    """Above 64 MiB the log of a process that runs becomes NAME.log.1, and it goes on with an empty one."""
    path = own.path("logs", "zone-a.log")
    with open(path, "a") as f:
        f.write(('{"time":"","level":"info","who":"test","event":"' + "x" * 947 + '"}\n') * 70000)
    assert os.path.getsize(path) > 64 << 20
    wait_for(lambda: os.path.getsize(path) < 1 << 20, 15)
    assert os.path.getsize(path + ".1") > 64 << 20
    request_id = S3.of(own, "a").request("GET", "/")[1]["x-amz-request-id"]
    wait_for(lambda: any(e.get("id") == request_id for e in own.log("zone-a")), 5)
    os.unlink(path + ".1")


def screen(own, until):
    """What `nef up` shows in a terminal, up to UNTIL and then to its end after Ctrl-C."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(NEF, [NEF, "up", "--dir", own.directory])
    text, deadline, interrupted = b"", time.monotonic() + 60, False
    while True:
        assert time.monotonic() < deadline, text.decode()
        try:
            text += os.read(terminal, 4096)
        except OSError:  # it ended
            break
        if not interrupted and until(text.decode()):
            os.write(terminal, b"\x03")
            interrupted = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.decode()


def test_up_in_a_terminal(own):
    """One live line a zone, until Ctrl-C: which ends the view of a region that ran before, and stops one that this
    command started."""
    def both(text):
        return all(re.search(line, text) for line in (r"zone a +primary +in sync .*/s +lag",
                                                      r"zone b +backup +in sync .*/s +lag"))
    own.wait_durability()
    own.handover("a")
    before = own.pids()
    status, text = screen(own, both)
    assert status == 0 and "leaves it running" in text and own.pids() == before
    own.nef("down", "--dir", own.directory)
    status, text = screen(own, both)
    assert status == 0 and "Ctrl-C stops the region" in text and own.endpoint in text
    assert own.own_pids() == []
    own.up()
    own.wait_durability("2/2", 40)


# ---- stop, start, kill ----

def states(region):
    return {p["name"]: p["state"] for p in region.load()["processes"]}


def test_zone_stop_and_start(own):
    for zone, how, state in (("b", None, "stopped"), ("b", "--kill", "stopped"), ("b", "--pause", "paused"),
                             ("a", None, "stopped")):
        own.wait_durability()
        own.stop_zone(zone, how)
        s = states(own)
        assert s[f"zone-{zone}"] == s[f"etcd-{zone}"] == state
        wait_for(lambda: S3.of(own).request("PUT", "/stop-start")[0] in (200, 409), 15)
        time.sleep(0.3)
        if how != "--pause":
            assert states(own)[f"zone-{zone}"] == "stopped"  # the supervisor leaves it alone
        own.start_zone(zone)
        own.wait_durability("2/2", 40)
    own.stop_zone("w")
    assert "witness w is stopped; bring it back with: nef zone-start" in own.nef("up", "--dir", own.directory,
                                                                                  "--detach").stdout
    own.start_zone("w")
    wait_for(lambda: set(states(own).values()) == {"running"}, 10)
    assert own.nef("zone-stop", "--dir", own.directory, "x", check=False).returncode != 0


def test_the_front_without_zones(own):
    """It answers in the form that a port's clients parse, and nef up returns when both ports have found a zone again."""
    def asked(url):
        try:
            with urllib.request.urlopen(url, timeout=5) as a:
                return a.status, a.headers, a.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.headers, e.read().decode()
    own.wait_durability()
    for zone in ("a", "b"):
        own.stop_zone(zone, "--kill")
    wait_for(lambda: asked(own.endpoint)[0] == asked(own.json["ai_endpoint"] + "/v1/models")[0] == 503, 10)
    _, headers, text = asked(own.endpoint)
    assert headers["Retry-After"] == "1" and error_code(text.encode()) == "ServiceUnavailable"
    _, headers, text = asked(own.json["ai_endpoint"] + "/v1/models")
    assert headers["Retry-After"] == "1" and headers["Content-Type"] == "application/json"
    assert json.loads(text)["error"]["code"] == "no_zone"
    for zone in ("a", "b"):
        own.start_zone(zone)
    own.nef("up", "--dir", own.directory, "--detach")
    assert asked(own.endpoint)[0] == 403 and asked(own.json["ai_endpoint"] + "/v1/models")[0] == 401
    own.wait_durability("2/2", 40)


def test_zone_start_waits_until_the_zone_counts(own):
    """--wait returns when the other zone can be taken away; the tour in README.md does just that."""
    own.wait_durability()
    s3 = S3.of(own)
    assert s3.request("PUT", "/waits")[0] in (200, 409)
    own.stop_zone("b", "--kill")
    for n in range(20):
        wait_for(lambda: s3.request("PUT", f"/waits/{n}", body=b"x" * 1000000)[0] == 200, 15)
    r = own.nef("zone-start", "--dir", own.directory, "b", "--wait")
    assert r.stdout.endswith("b is in sync\n")
    assert own.status("b")["ready"]  # not only counted: it serves
    text = own.nef("status", "--dir", own.directory).stdout
    assert "starting" not in text and "DOESN'T SERVE" not in text
    assert own.durability() == "2/2"
    own.stop_zone("a", "--kill")
    wait_for(lambda: S3.of(own, "b").request("GET", "/waits/19")[0] == 200, 10)
    assert own.nef("zone-start", "--dir", own.directory, "a", "--wait").returncode == 0
    own.wait_durability()


def test_the_front_answers_in_s3s_form(own):
    """Also what it says itself, with no zone behind it."""
    for zone in "ab":
        own.stop_zone(zone, "--kill")

    def refused():
        status, headers, body = S3.of(own).request("GET", "/")
        return status == 503 and headers["content-type"] == "application/xml" and \
            error_code(body) == "ServiceUnavailable" and headers["retry-after"] == "1"
    wait_for(refused, 5)
    for zone in "ab":
        own.start_zone(zone)
    own.wait_durability("2/2", 40)
    wait_for(lambda: S3.of(own).request("GET", "/")[0] == 200, 5)


def test_up_after_everything_was_killed(own):
    """kill -9 of all processes, the supervisor first: nef up starts the region again, with all that it had."""
    assert S3.of(own).request("PUT", "/killed")[0] in (200, 409)
    assert S3.of(own).request("PUT", "/killed/k", body=b"still there")[0] == 200
    with open(own.path("supervisor.pid")) as f:
        send_signal(int(f.read()), signal.SIGKILL)
    for pid in own.pids().values():
        send_signal(pid, signal.SIGKILL)
    own.up()
    own.wait_durability("2/2", 40)
    for zone in ("a", "b"):
        assert S3.of(own, zone).request("GET", "/killed/k")[2] == b"still there"


# ---- fsck ----

def fsck(region, *args):
    return region.nef("fsck", "--dir", region.directory, *args, check=False, timeout=120)


def test_fsck(own):
    own.wait_durability("2/2", 40)
    r = fsck(own)
    assert r.returncode == 2 and "run" in r.stderr.lower(), "it must not look at a region that runs"
    assert "stop the zone first\n" in r.stdout + r.stderr
    with Load(own, clients=3) as load:
        load.wait_successes(150)
    own.wait_durability()
    ends = {z: {c["id"]: c["log_end"][z] for c in own.status(z)["cells"]} for z in ("a", "b")}
    own.nef("down", "--dir", own.directory)
    try:
        r = fsck(own)
        assert r.returncode == 0, r.stdout + r.stderr
        # a damaged record: zone, cell and place are named
        cell = max(ends["b"], key=lambda c: ends["b"][c])
        path = sorted(glob.glob(own.path("zone-b", f"cell-{cell}", "*.seg")))[0]
        with open(path, "r+b") as f:
            f.seek(20000)
            old = f.read(8)
            f.seek(20000)
            f.write(bytes(x ^ 0xFF for x in old))
        r = fsck(own)
        text = r.stdout + r.stderr
        assert r.returncode == 1, text
        problem = [line for line in text.splitlines() if "zone-b" in line or "zone b" in line]
        assert problem and f"cell {cell}" in " ".join(problem) or f"cell-{cell}" in " ".join(problem), text
        assert not re.search(r"zone[- ]a.*(bad|damag|corrupt)", text), text
        with open(path, "r+b") as f:
            f.seek(20000)
            f.write(old)
        assert fsck(own).returncode == 0
        # an index that isn't the log's
        for name in glob.glob(own.path("zone-a", "index-1", "*")):
            if os.path.basename(name).startswith(("MANIFEST", "CURRENT")) or name.endswith(".sst"):
                with open(name, "r+b") as f:
                    f.truncate(os.path.getsize(name) // 2)
        r = fsck(own)
        assert r.returncode == 1 and "index" in r.stdout + r.stderr, r.stdout + r.stderr
        r = fsck(own, "--rebuild-index")
        assert r.returncode in (0, 1), r.stdout + r.stderr
        r = fsck(own)
        assert r.returncode == 0, r.stdout + r.stderr
    finally:
        own.up()
    own.wait_durability("2/2", 40)
    load.verify()
    r = nef("fsck", "--dir", "/nonexistent")
    assert r.returncode == 2


def test_nothing_readable_is_on_disk(own):
    """Neither names nor contents: not in the logs, not in the index, not in etcd."""
    marker, name = b"fluctuat-nec-mergitur", b"marked-object-name"
    s3 = S3.of(own)
    s3.request("PUT", "/marked-bucket-name")
    for n in range(40):
        assert s3.request("PUT", f"/marked-bucket-name/{name.decode()}-{n}", body=marker * 10,
                          headers={"x-amz-meta-secret": "marked-metadata"})[0] == 200
    assert s3.request("PUT", "/marked-bucket-name/large", body=marker * 20000)[0] == 200
    own.nef("down", "--dir", own.directory)
    try:
        for top in ("zone-a", "zone-b", "etcd-a", "etcd-b", "etcd-w"):
            for root, _, files in os.walk(own.path(top)):
                for f in files:
                    with open(os.path.join(root, f), "rb") as data:
                        content = data.read()
                    for secret in (marker, name, b"marked-bucket-name", b"marked-metadata"):
                        assert secret not in content, (os.path.join(root, f), secret)
    finally:
        own.up()


def test_down_is_clean(own):
    own.nef("down", "--dir", own.directory)
    assert own.own_pids() == []
    assert own.nef("down", "--dir", own.directory).returncode == 0
    assert not own.pids()
    own.up()
    own.wait_durability("2/2", 40)
