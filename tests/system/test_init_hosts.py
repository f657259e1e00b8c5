"""Three hosts: docs/operations.md followed to the letter, on hosts made by lib/hosts.py."""
import json
import os
import stat
import subprocess
import time

import pytest
from lib.hosts import NAMES, Hosts
from lib.load import Load
from lib.region import NEF, wait_for
from lib.s3raw import S3

INIT = ["init", "--region", "eu-paris", "--zones", "a=zone-a.example,b=zone-b.example", "--witness", "witness.example"]


def nef(*args, **kw):
    return subprocess.run([NEF, *args], capture_output=True, text=True, timeout=60, **kw)


@pytest.fixture(scope="module")
def hosts():
    h = Hosts()
    h.enter()
    try:
        yield h.up()
    finally:
        h.leave()
        h.close()


# ---- what is written ----

@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_trees_can_be_copied_onto_a_host(tmp_path, umask):
    """rsync -a TREE/ HOST:/ sets the modes of the host's own directories to those of the tree."""
    out = tmp_path / "out"
    r = nef(*INIT, "--out", str(out), umask=umask)
    assert r.returncode == 0, r.stderr
    for place in NAMES:
        for directory in ("", "etc", "etc/default") + (("etc/haproxy",) if place != "witness" else ()):
            assert stat.S_IMODE((out / place / directory).stat().st_mode) == 0o755, (place, directory)
        for directory in ("etc/nef", "etc/nef/pki", "etc/nef/secrets", "etc/nef-etcd"):
            assert stat.S_IMODE((out / place / directory).stat().st_mode) == 0o700, (place, directory)
        assert stat.S_IMODE((out / place / "etc/default/etcd").stat().st_mode) == 0o644
        for path in (out / place).rglob("*.key"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((out / "operator").stat().st_mode) == 0o700


def test_who_gets_which_secret(tmp_path):
    out = tmp_path / "out"
    assert nef(*INIT, "--out", str(out)).returncode == 0
    files = {p: {str(f.relative_to(out / p)) for f in (out / p).rglob("*") if f.is_file()}
             for p in ("zone-a", "zone-b", "witness", "operator")}
    assert not any("customer" in f or "root.json" in f or "haproxy" in f for f in files["witness"])
    assert not any(f.endswith("ca.key") for p in NAMES for f in files[p])
    assert {"ca.key", "ca.crt", "customer.key", "root.json", "admin.token", "witness.token",
            "metrics.token"} == files["operator"]
    token = (out / "operator/admin.token").read_text()
    assert (out / "zone-a/etc/nef/secrets/admin.token").read_text() == token
    assert (out / "witness/etc/nef/secrets/admin.token").read_text() != token
    metrics = {(out / p / "etc/nef/secrets/metrics.token").read_text() for p in ("zone-a", "zone-b", "witness")}
    assert metrics == {(out / "operator/metrics.token").read_text()} and token not in metrics
    r = nef(*INIT, "--out", str(out))
    assert r.returncode == 1 and "never overwritten" in r.stderr


def test_wrong_words_of_init(tmp_path):
    for change, word in (("a=zone-a.example", "two"), ("a=x.example,a=y.example", "different"),
                         ("a=x.example,b=x.example", "different"), ("a=x y,b=z", "host")):
        args = [change if "=" in a and "zone-a" in a else a for a in INIT]
        r = nef(*args, "--out", str(tmp_path / "never"))
        assert r.returncode == 1 and word in r.stderr and not (tmp_path / "never").exists(), (change, r.stderr)


# ---- hosts ----

def test_units_are_right(hosts):
    for name in NAMES:
        unit = "nef-witness" if name == "witness" else "nef-zone"
        r = subprocess.run(hosts[name].enter("systemd-analyze", "verify", f"/etc/systemd/system/{unit}.service"),
                           capture_output=True, text=True)
        assert r.returncode == 0 and not r.stderr, r.stdout + r.stderr
        assert hosts[name].unit("etcd.service")["Restart"][-1] == "always"  # the drop-in is where systemd looks


@pytest.mark.soak
def test_a_region_on_three_hosts(hosts, tmp_path):
    """Clients through both fronts and both zones, over TLS with the region's own CA."""
    hosts.wait_durability()
    table = hosts.nef("status", *hosts.admin_options("a"))
    assert "durability 2/2" in table
    env = dict(hosts.aws_env(), AWS_CA_BUNDLE=hosts.json["ca"])
    data = os.urandom(12 << 20)  # in parts
    (tmp_path / "file").write_bytes(data)

    def aws(front, *args):
        return hosts["operator"].run("aws", "--endpoint-url", f"https://{NAMES[front]}", *args, env=env)
    aws("zone-a", "s3", "mb", "s3://hosts")
    aws("zone-a", "s3", "cp", "--no-progress", str(tmp_path / "file"), "s3://hosts/file")
    aws("zone-b", "s3", "cp", "--no-progress", "s3://hosts/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    for put, get in (("a", "b"), ("b", "a")):
        assert S3.of(hosts, put).request("PUT", f"/hosts/{put}", body=put.encode())[1]["x-nef-durability"] == "2/2"
        assert S3.of(hosts, get).request("GET", f"/hosts/{put}")[2] == put.encode()
    user = json.loads(hosts.nef("user", "add", "reader", "--read-only", "--json", *hosts.admin_options("b")))
    reader = S3.of(hosts, "a", access_key=user["access_key"], secret_key=user["secret_key"])
    assert reader.request("GET", "/hosts/a")[0] == 200 and reader.request("PUT", "/hosts/a")[0] == 403
    r = subprocess.run([NEF, "status", *hosts.admin_options("a")[:4]], capture_output=True, text=True)
    assert r.returncode == 1 and "durability" not in r.stdout  # without --ca its certificate proves nothing


@pytest.mark.soak
def test_a_host_is_lost_and_comes_back(hosts, capsys):
    """No word from it at all, as after a power cut: neither process, nor link. The other zone goes on; when the host
    comes back, its units start and it is 2/2 again."""
    hosts.json["endpoint"] = f"https://{NAMES['zone-b']}:443"  # the front of the host that stays
    hosts.wait_durability()
    with Load(hosts, clients=4) as load:
        load.wait_successes(60)
        lost = time.monotonic()
        hosts["zone-a"].lose()
        wait_for(lambda: load.successes[-1] > lost + 0.5, 10)
        load.wait_successes(60)
        later = [t for t in load.successes if t > lost]
        gap = max(b - a for a, b in zip([lost] + later, later))
        assert hosts.status("b")["durability"] == "1/2" and hosts.status("b")["role"] == "primary"
        hosts["zone-a"].back("etcd", "nef-zone", "haproxy")
        for name in ("etcd", "nef-zone", "haproxy"):
            hosts["zone-a"].wait_started(name)
        hosts.wait_durability("2/2", 60)
        load.wait_successes(60)
    load.verify()
    with capsys.disabled():
        print(f" [host lost: {gap:.2f} s]", end="")
    assert gap < 5, "the limit that FAULTS.md gives is measured by test_faults_gap.py; here a machine does much besides"


@pytest.mark.soak
def test_zone_and_witness_are_lost(hosts):
    """Both runbooks: the survivor goes on by a person's word, and the lost hosts join a new etcd cluster."""
    hosts.wait_durability()
    a = hosts["zone-a"]
    assert S3.of(hosts, "a").request("PUT", "/runbook")[0] in (200, 409)
    assert S3.of(hosts, "b").request("PUT", "/runbook/k", body=b"before")[0] == 200
    hosts["witness"].lose()
    hosts["zone-b"].lose()

    def refused():
        return S3.of(hosts, "a").request("GET", "/runbook/k")[0] == 503
    wait_for(refused, 15)
    # "One zone and the witness are lost"
    a.stop("etcd")
    a.sh("""set -a; . /etc/default/etcd; set +a
            runuser -u etcd -- nef etcd-alone --data-dir "$ETCD_DATA_DIR" --name "$ETCD_NAME" \\
                --peer-url "$ETCD_INITIAL_ADVERTISE_PEER_URLS" --aside "$ETCD_DATA_DIR.overridden-1" """)
    a.enable_now("etcd")
    out = hosts.nef("zone-recover", "--accept-loss", *hosts.admin_options("a"))
    assert "goes on" in out, out
    wait_for(lambda: S3.of(hosts, "a").request("GET", "/runbook/k")[2] == b"before", 15)
    assert S3.of(hosts, "a").request("PUT", "/runbook/alone", body=b"alone")[0] == 200
    # "An etcd member lost its data", for each of the lost
    etcdctl = ("env ETCDCTL_API=3 etcdctl --endpoints https://zone-a.example:2379 --cacert /etc/nef-etcd/ca.crt "
               "--cert /etc/nef-etcd/etcd.crt --key /etc/nef-etcd/etcd.key ")
    assert a.sh(etcdctl + "member list").count("started") == 1
    known = f"a=https://{NAMES['zone-a']}:2380"
    for name, member in (("witness", "w"), ("zone-b", "b")):
        lost = hosts[name]

        def added():  # "unhealthy cluster" as long as the member before has not been connected for 5 s
            a.sh(etcdctl + f"member add {member} --peer-urls https://{NAMES[name]}:2380")
            return True
        wait_for(added, 30, 1)
        known += f",{member}=https://{NAMES[name]}:2380"
        lost.sh("rm -rf /var/lib/etcd/nef; install -d -o etcd -m 700 /var/lib/etcd/nef")
        lost.sh("sed -i 's|^ETCD_INITIAL_CLUSTER_STATE=.*|ETCD_INITIAL_CLUSTER_STATE=\"existing\"|; "
                f"s|^ETCD_INITIAL_CLUSTER=.*|ETCD_INITIAL_CLUSTER=\"{known}\"|' /etc/default/etcd")
        lost.back("etcd")
        lost.wait_started("etcd")
        if name == "witness":
            lost.enable_now("nef-witness")
        else:
            lost.enable_now("nef-zone", "haproxy")
    hosts.wait_durability("2/2", 60)
    assert a.sh(etcdctl + "member list").count("started") == 3
    for zone in "ab":
        assert S3.of(hosts, zone).request("GET", "/runbook/alone")[2] == b"alone"


@pytest.mark.soak
def test_etcd_loses_everything(hosts):
    """No request needs etcd, so nobody notices; zones that start then do nothing, and say so; a person's word makes the
    record anew. Nothing is lost."""
    hosts.wait_durability()
    s3 = S3.of(hosts, "a")
    assert s3.request("PUT", "/runbook")[0] in (200, 409)
    assert s3.request("PUT", "/runbook/with-etcd", body=b"x")[0] == 200
    for name in NAMES:
        hosts[name].stop("etcd")
    for name in NAMES:
        hosts[name].sh("rm -rf /var/lib/etcd/nef; install -d -o etcd -m 700 /var/lib/etcd/nef")
        hosts[name].sh("sed -i 's|^ETCD_INITIAL_CLUSTER_STATE=.*|ETCD_INITIAL_CLUSTER_STATE=\"new\"|; "
                       "s|^ETCD_INITIAL_CLUSTER=.*|ETCD_INITIAL_CLUSTER=\"" + ",".join(
                           f"{m}=https://{NAMES[n]}:2380" for n, m in zip(NAMES, "abw")) + "\"|' /etc/default/etcd")
        hosts[name].start("etcd")
    for name in NAMES:
        hosts[name].wait_started("etcd")
    assert s3.request("PUT", "/runbook/without-etcd", body=b"y")[0] == 200
    hosts["zone-a"].stop("nef-zone")
    hosts["zone-b"].stop("nef-zone")
    for name in ("zone-a", "zone-b"):
        hosts[name].enable_now("nef-zone")
    wait_for(lambda: "does nothing any more" in hosts.nef("status", *hosts.admin_options("a")), 30)
    hosts.nef("zone-recover", "--accept-loss", *hosts.admin_options("a"))
    hosts.wait_durability("2/2", 60)
    for zone in "ab":
        assert S3.of(hosts, zone).request("GET", "/runbook/without-etcd")[2] == b"y"


@pytest.mark.soak
def test_a_zones_disk_is_replaced(hosts):
    hosts.wait_durability()
    b = hosts["zone-b"]
    assert S3.of(hosts, "a").request("PUT", "/replaced")[0] in (200, 409)
    assert S3.of(hosts, "a").request("PUT", "/replaced/k", body=b"before")[0] == 200
    epoch = hosts.status("a")["epoch"]
    b.stop("nef-zone")
    b.sh("rm -rf /var/lib/nef; install -d -o nef -m 700 /var/lib/nef")
    b.enable_now("nef-zone")
    wait_for(lambda: hosts.status("b")["epoch"] > epoch, 20)
    hosts.wait_durability("2/2", 60)
    assert S3.of(hosts, "b").request("GET", "/replaced/k")[2] == b"before"


@pytest.mark.soak
def test_fsck_of_one_host(hosts):
    """nef fsck --config, by the zone's user, while the zone is stopped; 2 while it runs."""
    b = hosts["zone-b"]
    fsck = b.enter("runuser", "-u", "nef", "--", "/usr/local/bin/nef", "fsck", "--config", "/etc/nef/zone.yaml")
    r = subprocess.run(fsck, capture_output=True, text=True)
    assert r.returncode == 2 and "down" in r.stderr, r.stdout + r.stderr
    b.stop("nef-zone")
    r = subprocess.run(fsck, capture_output=True, text=True)
    assert r.returncode == 0 and "clean" in r.stdout, r.stdout + r.stderr
    b.enable_now("nef-zone")
    hosts.wait_durability("2/2", 60)
