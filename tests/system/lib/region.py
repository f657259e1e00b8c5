"""A real region for tests, started by `nef up` in a directory of its own and on ports that are free.

Everything is stopped by pid (`nef down`, then what is left of the processes that region.json names)."""
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
NEF = os.environ.get("NEF", os.path.join(ROOT, "build", "nef"))
# Waits are longer by this factor: for programs that are slow because a sanitizer watches them.
PATIENCE = float(os.environ.get("NEF_PATIENCE", "1"))


def wait_for(what, seconds, interval=0.05):
    """Poll WHAT until it returns something true; its value. Raises with what was waited for."""
    deadline = time.monotonic() + seconds * PATIENCE
    last = None
    while True:
        try:
            value = what()
            if value:
                return value
        except (OSError, ValueError, KeyError, AssertionError, urllib.error.URLError) as e:
            last = e
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {seconds} s for {getattr(what, '__name__', what)}: {last}")
        time.sleep(interval)


def ports_free(base):
    for offset in (0, 1, 10, 11, 12, 13, 14, 15, 16, 20, 21, 22, 23, 24, 25, 26, 33, 34, 36):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", base + offset))
            except OSError:
                return False
    return True


held_ports = {}  # port base: the locked file that keeps other test processes away from it


def free_port_base(start=19000):
    """Below the ephemeral range, so that no outgoing connection takes one of them. Ours until this process ends or
    Region.down: a port that is free now may be taken a moment later by tests that run beside these."""
    start += 3000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for base in range(start, 32000, 100):
        if base in held_ports:
            continue
        lock = open(os.path.join(tempfile.gettempdir(), f"nef-ports-{base}.lock"), "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if ports_free(base):
                held_ports[base] = lock
                return base
        except BlockingIOError:
            pass
        lock.close()
    raise RuntimeError("no hundred ports are free")


def send_signal(pid, sig):
    """Process 0, which is said of what has no process now, would be all of the test's own group."""
    assert pid and pid > 1, pid
    os.kill(pid, sig)


class Region:
    """region = Region(...).up(); region.kill("zone-a"); region.down()

    A region whose processes must be in a network namespace is started and used by threads that are in it
    (lib/net.py): children and new threads inherit it."""

    def __init__(self, port_base=None, directory=None, edit=None, cells=4, env=None):
        """edit: called with the region when its files exist and nothing has started, to change settings."""
        self.directory = os.path.realpath(directory or tempfile.mkdtemp(prefix="nef-region-"))
        self.port_base = port_base or free_port_base()
        self.cells = cells
        self.edit = edit
        self.env = dict(os.environ, **(env or {}))
        self.json = {}

    # ---- commands ----

    def nef(self, *args, check=True, timeout=90, **kw):
        r = subprocess.run([NEF, *args], capture_output=True, text=True, timeout=timeout, env=self.env,
                           **kw)
        if check and r.returncode != 0:
            raise AssertionError(f"nef {' '.join(args)}: {r.returncode}\n{r.stdout}{r.stderr}{self.tails()}")
        return r

    def up(self):
        args = ["up", "--dir", self.directory, "--port-base", str(self.port_base), "--cells",
                str(self.cells)]
        if self.edit and not os.path.exists(self.path("region.json")):
            self.nef(*args, "--prepare-only")
            self.edit(self)
        r = self.nef(*args, "--detach", check=False)
        if os.path.exists(self.path("region.json")):
            self.load()
        if r.returncode != 0:
            raise AssertionError(f"nef up: {r.returncode}\n{r.stdout}{r.stderr}{self.tails()}")
        return self

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def configure(self, zone, changes):
        """Merge CHANGES into a zone's YAML, or the witness's ("w"); counts from its next start."""
        import yaml
        path = self.path("config", "witness.yaml" if zone == "w" else f"zone-{zone}.yaml")
        with open(path) as f:
            config = yaml.safe_load(f)

        def merge(into, what):
            for k, v in what.items():
                if isinstance(v, dict):
                    merge(into.setdefault(k, {}), v)
                else:
                    into[k] = v
        merge(config, changes)
        with open(path, "w") as f:
            yaml.safe_dump(config, f)

    def down(self, keep=False):
        try:
            self.nef("down", "--dir", self.directory, check=False)
        except subprocess.TimeoutExpired:
            pass
        for pid in self.own_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        lock = held_ports.pop(self.port_base, None)
        if lock:
            lock.close()

    def load(self):
        with open(os.path.join(self.directory, "region.json")) as f:
            self.json = json.load(f)
        return self.json

    def pids(self):
        try:
            return {p["name"]: p["pid"] for p in self.load()["processes"] if p.get("pid")}
        except (OSError, ValueError):
            return {}

    def own_pids(self):
        """Processes whose command line names our directory: what a failed test left, too."""
        pids = []
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                with open(f"/proc/{name}/cmdline", "rb") as f:
                    line = f.read().split(b"\0")
            except OSError:
                continue
            program = os.path.basename(line[0])
            if program in (b"nef", b"etcd", b"haproxy") and \
                    any(self.directory.encode() + b"/" in a + b"/" for a in line[1:]):
                pids.append(int(name))
        return pids

    def log(self, name, since=0):
        """JSON lines of a process, as dicts; lines that are not JSON are left out."""
        lines = []
        with open(self.path("logs", name + ".log"), errors="replace") as f:
            f.seek(since)
            for line in f:
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    pass
        return lines

    def log_size(self, name):
        return os.path.getsize(self.path("logs", name + ".log"))

    def tails(self):
        out = []
        for p in getattr(self, "json", {}).get("processes", []):
            try:
                with open(p["log"], errors="replace") as f:
                    lines = [line for line in f if '"event":"request"' not in line]
                    out.append(f"--- {p['name']}\n" + "".join(lines[-12:]))
            except OSError:
                pass
        return "\n".join(out)

    # ---- what it says ----

    @property
    def endpoint(self):
        return self.json["endpoint"]

    def zone(self, name):
        return next(z for z in self.json["zones"] if z["name"] == name)

    def admin(self, zone, path, method="GET", body=None, timeout=2):
        request = urllib.request.Request(
            self.zone(zone)["admin"] + path, method=method, data=body,
            headers={"Authorization": "Bearer " + self.json["admin_token"],
                     "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as r:
            return r.read()

    def status(self, zone):
        return json.loads(self.admin(zone, "/status"))

    def metric(self, zone, name):
        for line in self.admin(zone, "/metrics").decode().splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def durability(self):
        for zone in ("a", "b"):
            try:
                s = self.status(zone)
                if s["role"] == "primary":
                    return s["durability"]
            except OSError:
                pass
        return None

    def wait_durability(self, wanted="2/2", seconds=30):
        def durable():
            if wanted != "2/2":
                return self.durability() == wanted
            # each zone's word: a primary that hasn't noticed yet that the other died says 2/2, too
            said = [self.status(z) for z in ("a", "b")]
            return (sorted(s["role"] for s in said) == ["backup", "primary"] and
                    all(s["ready"] and s["durability"] == "2/2" for s in said) and
                    said[0]["epoch"] == said[1]["epoch"])
        try:
            wait_for(durable, seconds)
        except TimeoutError as e:
            said = []
            for z in ("a", "b"):
                try:
                    s = self.status(z)
                    said.append({k: s[k] for k in ("role", "ready", "durability", "epoch", "zones")})
                except OSError as error:
                    said.append(str(error))
            raise AssertionError(f"not {wanted} within {seconds} s: {said}{self.tails()}") from e

    def primary(self):
        for zone in ("a", "b"):
            try:
                if self.status(zone)["role"] == "primary":
                    return zone
            except OSError:
                pass
        return None

    def handover(self, to):
        """Make zone TO primary, if it isn't."""
        self.wait_durability()
        if self.primary() != to:
            other = "b" if to == "a" else "a"
            self.admin(other, "/handover", method="POST", timeout=10)
        self.wait_primary(to)
        self.wait_durability()

    def wait_primary(self, zone=None, seconds=20):
        def found():
            p = self.primary()
            return p if p and (zone is None or p == zone) else None
        return wait_for(found, seconds)

    # ---- faults ----

    def signal(self, name, sig):
        send_signal(self.pids()[name], sig)

    def kill(self, *names):
        for name in names:
            self.signal(name, signal.SIGKILL)

    def stop_zone(self, zone, how=None):
        args = ["zone-stop", "--dir", self.directory, zone]
        self.nef(*(args + ([how] if how else [])))

    def kill_both_zones(self):
        """Neither sees the other go first: two commands can take longer than a takeover does, so both are paused before."""
        pids = self.pids()
        for zone in ("a", "b"):
            send_signal(pids[f"zone-{zone}"], signal.SIGSTOP)
        for zone in ("a", "b"):
            self.stop_zone(zone, "--kill")

    def start_zone(self, zone):
        self.nef("zone-start", "--dir", self.directory, zone)
        self.load()

    # ---- clients ----

    def boto(self, zone=None, retries=0, timeout=10, access_key=None, secret_key=None, **config):
        import boto3
        from botocore.config import Config
        url = self.endpoint if zone is None else self.zone(zone)["s3"]
        return boto3.client(
            "s3", endpoint_url=url, verify=self.json["ca"] if url.startswith("https") else None,
            aws_access_key_id=access_key or self.json["access_key"],
            aws_secret_access_key=secret_key or self.json["secret_key"], region_name=self.json["region"],
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": retries},
                          connect_timeout=2, read_timeout=timeout, max_pool_connections=64, **config))

    def aws_env(self):
        return dict(os.environ, AWS_ACCESS_KEY_ID=self.json["access_key"],
                    AWS_SECRET_ACCESS_KEY=self.json["secret_key"],
                    AWS_DEFAULT_REGION=self.json["region"], AWS_EC2_METADATA_DISABLED="true",
                    HTTP_PROXY="", http_proxy="", AWS_CONFIG_FILE="/dev/null",
                    AWS_SHARED_CREDENTIALS_FILE="/dev/null")
