"""Fixtures: one region for a file of client tests, one in a network namespace for a file of faults. A file's tests share
it, since a region takes some seconds to start (and costs a tenth of a processor while nobody asks it anything, so no file
leaves one to the next); a fault test gets it healthy (2/2, zone a primary) or a new one."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib.net import Net  # noqa: E402
from lib.region import Region  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def pytest_configure(config):
    # A time limit ends the run by SIGTERM: regions are stopped as after any other end.
    # Only the main thread can ask for that, and xdist may run a worker's pytest in another one.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: pytest.exit("ended by SIGTERM", 124))
    config.addinivalue_line("markers", "soak: minutes to hours; runs only with NEF_SOAK=1 (make soak)")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("soak") and os.environ.get("NEF_SOAK") != "1":
            item.add_marker(pytest.mark.skip(reason="NEF_SOAK=1 runs it (make soak)"))


def tls_on_b(region):
    """Zone b's S3 listener speaks TLS, and the front speaks TLS to it. Its certificate is made here, by openssl."""
    key, cert, request = (region.path("pki", "s3-b." + e) for e in ("key", "crt", "csr"))
    ca, ca_key = region.path("pki", "ca.crt"), region.path("pki", "ca.key")
    ext = region.path("pki", "s3-b.ext")
    with open(ext, "w") as f:
        f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    for command in (
            ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
             key, "-out", request, "-subj", "/CN=s3.b.test"],
            ["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
             "-out", cert, "-days", "2", "-extfile", ext]):
        subprocess.run(command, check=True, capture_output=True)
    os.chmod(key, 0o600)
    region.configure("b", {"listeners": {"s3": {"tls": {"cert": cert, "key": key}}}})
    path = region.path("config", "haproxy.cfg")
    with open(path) as f:
        text = f.read()
    lines = [line + f" ssl verify required verifyhost 127.0.0.1 ca-file {ca}"
             if line.strip().startswith("server zone-b ") else line for line in text.splitlines()]
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")


class TlsRegion(Region):
    """nef up writes zone b's endpoint as http: it doesn't know that the listener was changed."""

    def zone(self, name):
        z = dict(super().zone(name))
        if name == "b":
            z["s3"] = z["s3"].replace("http://", "https://")
        return z


@pytest.fixture(scope="module")
def region():
    """Two zones for clients: zone a's S3 listener is plain, zone b's speaks TLS."""
    r = TlsRegion(edit=tls_on_b)
    try:
        yield r.up()
    finally:
        r.down()


@pytest.fixture(scope="module")
def bucket(region):
    region.boto().create_bucket(Bucket="shared")
    return "shared"


def small_and_quick(region):
    """Small segments, so that a short test fills several; failback only when a test asks for it; a scrub that comes
    around while a test waits. The witness speaks TLS, as on a host of its own."""
    region.configure("w", {"admin": {"tls": {"cert": region.path("pki", "witness.crt"),
                                             "key": region.path("pki", "witness.key")}}})
    for zone in ("a", "b"):
        with open(region.path("config", f"zone-{zone}.yaml")) as f:
            address = re.search(r'^witness:\n(?: *#.*\n)* *address: "?http://([^"\n]*)', f.read(), re.M).group(1)
        region.configure(zone, {"witness": {"address": "https://" + address}})
        region.configure(zone, {"segment": "8MiB", "timing": {"failback_after": "1h"},
                                "scrub": {"rate": "1GiB", "interval": "1s"}})


@pytest.fixture(scope="session")
def net():
    n = Net(f"nef{os.getpid()}")
    yield n
    n.close()


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("fault") / "fault.so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-w", "-o", path, os.path.join(HERE, "lib", "fault.c"),
                    "-ldl", "-lpthread"], check=True)
    return path


class Faulty(Region):
    """A region whose zones' disks and clocks can be made to fail (lib/fault.c)."""

    def __init__(self, net, library, **kw):
        self.faults = tempfile.mkdtemp(prefix="nef-faults-")
        super().__init__(env=dict(net.environment(), LD_PRELOAD=library, NEF_FAULTS=self.faults), **kw)
        self.net = net

    def fault(self, process, what, value):
        """fault("zone-b", "sync", "eio"), ("zone-b", "clock", 3600); None ends it."""
        path = os.path.join(self.faults, f"{process}.{what}")
        if value is None:
            if os.path.exists(path):
                os.unlink(path)
        else:
            with open(path + ".new", "w") as f:
                f.write(str(value))
            os.rename(path + ".new", path)

    def no_faults(self):
        self.net.heal()
        for name in os.listdir(self.faults):
            os.unlink(os.path.join(self.faults, name))

    def down(self, keep=False):
        super().down(keep)
        shutil.rmtree(self.faults, ignore_errors=True)


@pytest.fixture(scope="module")
def _faulty(net, fault_library):
    made = {"region": None}

    def give(new=False):
        r = made["region"]
        if r is not None and new:
            r.no_faults()
            r.down()
            r = None
        if r is not None:
            try:
                r.no_faults()
                r.up()
                r.handover("a")
            except (AssertionError, OSError, TimeoutError, subprocess.TimeoutExpired):
                keep_logs(r)
                r.down()
                r = None
        if r is None:
            r = Faulty(net, fault_library, edit=small_and_quick, port_base=18000)
            made["region"] = r
            r.up()
            r.handover("a")
        return r
    yield give
    if made["region"] is not None:
        net.enter()
        try:
            made["region"].down()
        finally:
            net.leave()


def keep_logs(region):
    """Of a region that a test broke."""
    kept = os.environ.get("NEF_KEEP_LOGS")
    if kept:
        target = os.path.join(kept, os.path.basename(region.directory))
        shutil.copytree(region.path("logs"), target, dirs_exist_ok=True)
        print("logs kept in", target)


def _lend(net, _faulty, request, new):
    net.enter()
    try:
        r = _faulty(new)
        yield r
        r.no_faults()
        if getattr(request.node, "failed", False):
            keep_logs(r)
    finally:
        net.leave()


@pytest.fixture
def faulty(net, _faulty, request):
    """The fault region: healthy, zone a primary, and this thread inside its network namespace."""
    yield from _lend(net, _faulty, request, new=False)


@pytest.fixture
def faulty_new(net, _faulty, request):
    """The same, but with nothing in it: for tests that wait until the log's beginning was dropped, which takes as long as
    there is to move."""
    yield from _lend(net, _faulty, request, new=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call" and outcome.get_result().failed:
        item.failed = True
