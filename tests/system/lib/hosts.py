"""Three hosts on one machine: what `nef init` writes and `make install` installs, started by the units' own commands.

A host is a network namespace with one link to a bridge, and a mount namespace in which /etc, /var and /usr/local are
its own. systemd doesn't run there: Host.start() does what the settings of a unit and its drop-ins say (user, limits,
environment, ExecStart, Type=notify), so a unit that names a wrong path, user or limit fails. What of systemd's sandbox
needs systemd itself (ProtectSystem, SystemCallFilter) is not applied: booted.py is for that, slower and for soak.

The bridge is in the namespace of a fourth host, the operator's machine."""
import glob
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request

from lib.net import setns
from lib.region import NEF, ROOT, Region

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMES = {"zone-a": "zone-a.example", "zone-b": "zone-b.example", "witness": "witness.example"}
ADDRESSES = {"zone-a": "10.77.0.1", "zone-b": "10.77.0.2", "witness": "10.77.0.3", "operator": "10.77.0.254"}
INSIDE = """set -e
mount --bind "$1/etc" /etc
mount --bind "$1/var" /var
mount --bind "$1/usr/local" /usr/local
mount -t tmpfs tmpfs /run
ip link set lo up
echo ready
exec sleep infinity
"""


def run(*command, **kw):
    r = subprocess.run(command, capture_output=True, text=True, timeout=120, **kw)
    if r.returncode != 0:
        raise AssertionError(f"{shlex.join(command)}: {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


def install_program(root):
    """`make install` into ROOT; -o: the program that is tested, as it is."""
    run("make", "-s", "-C", ROOT, "-o", "build", "install", "BUILD=" + os.path.dirname(os.path.abspath(NEF)),
        "DESTDIR=" + root, "PACKAGES=skip")


def size(text):
    """A size of systemd's, in bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


class Host:
    def __init__(self, top, name):
        self.name, self.root = name, os.path.join(top, name)
        self.services = {}
        shutil.copytree("/etc", os.path.join(self.root, "etc"), symlinks=True)
        for directory in ("var/lib", "var/log", "var/cache", "usr/local/bin"):
            os.makedirs(os.path.join(self.root, directory))
        os.makedirs(os.path.join(self.root, "var/tmp"), mode=0o1777)
        os.symlink("/run", os.path.join(self.root, "var/run"))
        # as Debian's installer does it: a host's own name is on the loopback interface
        with open(os.path.join(self.root, "etc/hosts"), "w") as f:
            f.write("127.0.0.1 localhost\n")
            for place, full in NAMES.items():
                f.write(f"{'127.0.1.1' if place == name else ADDRESSES[place]} {full}\n")
        self.namespace = subprocess.Popen(
            ["unshare", "--net", "--mount", "--", "sh", "-c", INSIDE, "sh", self.root], stdout=subprocess.PIPE, text=True)
        if self.namespace.stdout.readline() != "ready\n":
            raise AssertionError(f"{name} has no namespaces of its own (root is needed)")
        self.pid = self.namespace.pid

    def path(self, path):
        return self.root + path

    def enter(self, *command):
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "--", *command]

    def run(self, *command, **kw):
        kw.setdefault("env", {"PATH": SEARCH, "HOME": "/root", "LANG": "C.UTF-8"})
        return run(*self.enter(*command), **kw)

    def sh(self, script):
        """As over ssh, by root."""
        return self.run("sh", "-e", "-c", script)

    def connect(self, operator):
        outer = "to-" + self.name
        operator.run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        operator.run("ip", "link", "set", outer, "master", "bridge", "up")
        self.run("ip", "address", "add", ADDRESSES[self.name] + "/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    # ---- systemd's part ----

    def unit(self, name):
        """{setting: its values}, of the unit and then its drop-ins."""
        own = [self.path("/etc/systemd/system/" + name), "/lib/systemd/system/" + name]
        files = [next(p for p in own if os.path.exists(p))]
        files += sorted(glob.glob(self.path(f"/etc/systemd/system/{name}.d/*.conf")))
        settings = {}
        for path in files:
            with open(path) as f:
                for line in f:
                    key, equals, value = line.strip().partition("=")
                    if equals and not line.startswith(("#", ";")):
                        settings.setdefault(key, []).append(value)
        return settings

    def environment(self, name, settings):
        env = {"PATH": SEARCH, "LANG": "C.UTF-8"}
        for line in settings.get("Environment", []):
            env.update(word.split("=", 1) for word in shlex.split(line))
        for path in settings.get("EnvironmentFile", []):
            path = path.replace("%p", name.split(".")[0])
            if path.startswith("-") and not os.path.exists(self.path(path[1:])):
                continue
            with open(self.path(path.lstrip("-"))) as f:
                env.update(word.split("=", 1) for word in shlex.split(f.read(), comments=True))
        for line in settings.get("UnsetEnvironment", []):
            for word in line.split():
                env.pop(word, None)
        return env

    def start(self, name):
        """systemctl start --no-block; wait_started() is the rest."""
        settings = self.unit(name + ".service")
        env = self.environment(name + ".service", settings)
        words = []
        for word in settings["ExecStart"][-1].split():
            words += env.get(word[1:], "").split() if word.startswith("$") else [word]
        command = ["prlimit"]
        for what in ("NOFILE", "MEMLOCK", "CORE"):
            for value in settings.get("Limit" + what, [])[-1:]:
                most = resource.getrlimit(getattr(resource, "RLIMIT_" + what))[1]  # nobody in a container may raise it
                value = size(value) if most == resource.RLIM_INFINITY else min(size(value), most)
                command.append(f"--{what.lower()}={value}")
        command = command + ["--"] if len(command) > 1 else []
        user = settings.get("User", ["root"])[-1]
        if user != "root":
            group = settings.get("Group", [user])[-1]
            command += ["setpriv", "--reuid=" + user, "--regid=" + group, "--init-groups"]
            if settings.get("NoNewPrivileges") == ["yes"]:
                command += ["--no-new-privs"]
            if settings.get("CapabilityBoundingSet") == [""]:
                command += ["--bounding-set=-all", "--inh-caps=-all"]
            command.append("--")
        for directory in settings.get("StateDirectory", []):
            self.sh(f"install -d -o {user} -m {settings['StateDirectoryMode'][-1]} /var/lib/{directory}")
        assert settings["Type"] == ["notify"], settings
        notify = self.path(f"/notify-{name}")
        if os.path.exists(notify):
            os.unlink(notify)
        told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        told.bind(notify)
        os.chmod(notify, 0o666)
        env["NOTIFY_SOCKET"] = notify
        with open(self.path(f"/{name}.log"), "ab") as log:
            process = subprocess.Popen(self.enter(*command, *words), env=env, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, start_new_session=True, cwd="/",
                                       umask=int(settings.get("UMask", ["0022"])[-1], 8))
        self.services[name] = (process, told)

    def log(self, name, lines=15):
        with open(self.path(f"/{name}.log"), errors="replace") as f:
            return f"--- {self.name}: {name}\n" + "".join(f.readlines()[-lines:])

    def wait_started(self, name, seconds=60):
        process, told = self.services[name]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            told.settimeout(0.2)
            try:
                if "READY=1" in told.recv(4096).decode().splitlines():
                    return
            except socket.timeout:
                pass
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}\n{self.log(name)}")
        raise AssertionError(f"{name} didn't say READY=1 within {seconds} s\n{self.log(name)}")

    def enable_now(self, *names):
        for name in names:
            self.start(name)
            self.wait_started(name)

    def stop(self, *names):
        """systemctl stop."""
        for name in names:
            process, told = self.services.pop(name)
            process.terminate()
            assert process.wait(40) in (0, -signal.SIGTERM, 143), self.log(name)
            told.close()

    def lose(self):
        """The host is gone at once, and nobody is told: first its link, then its processes."""
        self.run("ip", "link", "set", "eth0", "down")
        for process, told in self.services.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            told.close()
        self.services = {}

    def back(self, *names):
        self.run("ip", "link", "set", "eth0", "up")
        for name in names:
            self.start(name)

    def close(self):
        for process, told in self.services.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            told.close()
        self.namespace.kill()
        self.namespace.wait()


class Hosts(Region):
    """The region of docs/operations.md, "Three hosts, step by step". The helpers of Region that ask a region something
    work here, too, by threads that are in the operator's namespace."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="nef-hosts-")
        os.chmod(self.directory, 0o755)
        self.tree = os.path.join(self.directory, "eu-paris")
        self.all, self.json = {}, {}
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.resolve = socket.getaddrinfo
        try:
            self.install()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name):
        return self.all[name]

    def install(self):
        for name in ("operator", *NAMES):
            self.all[name] = Host(self.directory, name)
        operator = self["operator"]
        operator.run("ip", "link", "add", "bridge", "type", "bridge")
        operator.run("ip", "address", "add", ADDRESSES["operator"] + "/24", "dev", "bridge")
        operator.run("ip", "link", "set", "bridge", "up")
        # an operator whose files are closed to others by habit
        run(NEF, "init", "--out", self.tree, "--region", "eu-paris", "--zones",
            f"a={NAMES['zone-a']},b={NAMES['zone-b']}", "--witness", NAMES["witness"], umask=0o077)
        for name in NAMES:
            host = self[name]
            host.connect(operator)
            install_program(host.root)
            # rsync -a --chown=root:root
            run("cp", "-a", "--no-preserve=ownership", os.path.join(self.tree, name) + "/.", host.root)
            host.sh(f"systemd-sysusers {host.root}/usr/lib/sysusers.d/nef.conf; install -d -o etcd /var/lib/etcd")
            host.sh("chown -R nef: /etc/nef; chown -R etcd: /etc/nef-etcd; install -d -o etcd -m 700 /var/lib/etcd/nef")
        with open(os.path.join(self.tree, "operator", "admin.token")) as f:
            token = f.read().strip()
        with open(os.path.join(self.tree, "operator", "root.json")) as f:
            root = json.load(f)
        self.json = {"region": "eu-paris", "endpoint": f"https://{NAMES['zone-a']}:443", "admin_token": token,
                     "ca": os.path.join(self.tree, "operator", "ca.crt"), "processes": [], **root,
                     "zones": [{"name": z, "s3": f"https://{NAMES['zone-' + z]}:9010",
                                "admin": f"https://{NAMES['zone-' + z]}:9016"} for z in "ab"]}

    def up(self):
        for name in NAMES:  # a member is ready when it has a majority
            self[name].start("etcd")
        for name in NAMES:
            self[name].wait_started("etcd")
        self["witness"].enable_now("nef-witness")
        for name in ("zone-a", "zone-b"):
            self[name].enable_now("nef-zone", "haproxy")
        return self

    def nef(self, *args, **kw):
        """By the operator, who has the program at hand."""
        return self["operator"].run(NEF, *args, **kw)

    def admin_options(self, zone):
        return ["--endpoint", self.zone(zone)["admin"], "--token-file",
                os.path.join(self.tree, "operator", "admin.token"), "--ca", self.json["ca"]]

    def admin(self, zone, path, method="GET", body=None, timeout=2):
        request = urllib.request.Request(self.zone(zone)["admin"] + path, method=method, data=body, headers={
            "Authorization": "Bearer " + self.json["admin_token"]})
        context = ssl.create_default_context(cafile=self.json["ca"])
        with urllib.request.urlopen(request, timeout=timeout, context=context) as r:
            return r.read()

    def tails(self):
        return "".join(h.log(s) for h in self.all.values() for s in h.services)

    # ---- this thread as a client on the operator's machine ----

    def enter(self):
        def resolve(host, *args, **kw):
            place = next((p for p, full in NAMES.items() if full == host), None)
            return self.resolve(ADDRESSES[place] if place else host, *args, **kw)
        fd = os.open(f"/proc/{self['operator'].pid}/ns/net", os.O_RDONLY)
        setns(fd)
        os.close(fd)
        socket.getaddrinfo = resolve

    def leave(self):
        socket.getaddrinfo = self.resolve
        setns(self.home)

    def close(self):
        for host in self.all.values():
            host.close()
        os.close(self.home)
        shutil.rmtree(self.directory, ignore_errors=True)

