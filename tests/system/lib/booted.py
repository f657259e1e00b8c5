"""Three hosts that systemd boots, each a container (systemd-nspawn) over this machine's own files, set up by the steps of
docs/operations.md. What hosts.py leaves out is applied here: the units' sandbox, their order, their restarts, the journal.

A container's host has what systemd-nspawn gives it and CAP_IPC_LOCK (keys lie in locked memory) and CAP_SYS_RESOURCE (units
raise limits). Its network is a namespace with one link to a bridge of this machine's."""
import os
import shutil
import subprocess
import tempfile

from lib.hosts import NAMES, SEARCH, install_program, run
from lib.region import NEF, wait_for

ADDRESSES = {"zone-a": "10.78.0.1", "zone-b": "10.78.0.2", "witness": "10.78.0.3"}
ENV = {"PATH": SEARCH, "HOME": "/root", "LANG": "C.UTF-8"}


class Machine:
    def __init__(self, top, name):
        self.name, self.space, self.process = name, f"nef{os.getpid()}-{name}", None
        self.root, self.log = os.path.join(top, name, "root"), os.path.join(top, name, "console")
        parts = {p: os.path.join(top, name, p) for p in ("root", "upper", "work")}
        for p in parts.values():
            os.makedirs(p)
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir=/,upperdir={parts['upper']},workdir={parts['work']}", self.root)
        run("ip", "netns", "add", self.space)
        self.write("/etc/machine-id", "uninitialized\n")
        self.write("/etc/hostname", name + "\n")
        self.write("/etc/hosts", "127.0.0.1 localhost\n" + "".join(
            f"{'127.0.1.1' if n == name else ADDRESSES[n]} {full}\n" for n, full in NAMES.items()))
        shutil.rmtree(self.path("/etc/systemd/system/multi-user.target.wants"), ignore_errors=True)

    def path(self, path):
        return self.root + path

    def write(self, path, text):
        with open(self.path(path), "w") as f:
            f.write(text)

    def connect(self, bridge):
        link = f"n{os.getpid()}{self.name[-1]}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        run("ip", "link", "set", link, "master", bridge, "up")
        for command in (["address", "add", ADDRESSES[self.name] + "/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                        ["link", "set", "lo", "up"]):
            run("ip", "-n", self.space, *command)

    def boot(self):
        hybrid = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0"} if os.path.isdir("/sys/fs/cgroup/systemd") else {}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["systemd-nspawn", "-D", self.root, "--boot", "--register=no", "--keep-unit", "--machine=" + self.space,
                 "--capability=CAP_IPC_LOCK,CAP_SYS_RESOURCE", "--network-namespace-path=/run/netns/" + self.space,
                 "systemd.unit=multi-user.target"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **hybrid}, start_new_session=True)
        wait_for(lambda: self.sh("systemctl is-system-running || true").strip() in ("running", "degraded"), 60, 0.2)

    def pid(self):
        """systemd's, as this machine counts; while it runs."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
            return int(f.read().split()[0])

    def sh(self, script, **env):
        """As over ssh, by root."""
        try:
            pid = self.pid()
        except IndexError:
            raise AssertionError(f"{self.name} isn't up") from None
        return run("nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "--", "sh", "-e", "-c", script,
                   env={**ENV, **env})

    def journal(self, unit):
        return self.sh(f"journalctl -u {unit} -o cat --no-pager")

    def lose(self):
        """The power is cut."""
        os.kill(self.pid(), 9)
        self.process.wait(30)

    def power_off(self):
        self.sh("systemctl poweroff")
        self.process.wait(90)

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.lose()
        subprocess.run(["umount", "-l", self.root])
        subprocess.run(["ip", "netns", "del", self.space])


class Machines:
    def __init__(self):
        self.top, self.bridge, self.all = tempfile.mkdtemp(prefix="nef-booted-"), f"n{os.getpid()}br", {}
        self.tree = os.path.join(self.top, "eu-paris")
        try:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "link", "set", self.bridge, "up")
            run(NEF, "init", "--out", self.tree, "--region", "eu-paris", "--zones",
                f"a={NAMES['zone-a']},b={NAMES['zone-b']}", "--witness", NAMES["witness"])
            for name in NAMES:
                self.all[name] = Machine(self.top, name)
                self.all[name].connect(self.bridge)
                self.all[name].boot()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name):
        return self.all[name]

    def install(self):
        """docs/operations.md, "Three hosts, step by step"."""
        for name, m in self.all.items():
            m.sh("systemctl disable --now etcd")
            install_program(m.root)
            m.sh("systemd-sysusers")
            run("cp", "-a", "--no-preserve=ownership", os.path.join(self.tree, name) + "/.", m.root)
            m.sh("chown -R nef: /etc/nef; chown -R etcd: /etc/nef-etcd")
            m.sh("install -d -o etcd -m 700 /var/lib/etcd/nef; systemctl daemon-reload")
            m.sh("systemctl enable etcd; systemctl --no-block start etcd")
        for m in self.all.values():
            wait_for(lambda: m.sh("systemctl is-active etcd || true").strip() == "active", 60, 0.2)
        self["witness"].sh("systemctl enable --now nef-witness")
        for name in ("zone-a", "zone-b"):
            self[name].sh("systemctl enable --now nef-zone; systemctl enable haproxy; systemctl restart haproxy")

    def status(self, zone):
        return self["zone-" + zone].sh(
            f"nef status --endpoint https://{NAMES['zone-' + zone]}:9016 --token-file /etc/nef/secrets/admin.token "
            "--ca /etc/nef/pki/ca.crt")

    def wait_durability(self):
        wait_for(lambda: "durability 2/2" in self.status("a") and "DOESN'T" not in self.status("b"), 60, 0.2)

    def close(self):
        for m in self.all.values():
            m.close()
        subprocess.run(["ip", "link", "del", self.bridge])
        shutil.rmtree(self.top, ignore_errors=True)
