"""Networks that fail. A region whose links are to be cut lives in a network namespace of its own, so the packet
filter never meets the machine's; its processes are told apart by control group, since all of them are on one
loopback interface:

    packets that zone A's processes send to a port where zone B's listen, and what comes back from such a port,
    are dropped by rules on the sender's (output) or the receiver's (input) control group.

So a link can be cut in one direction only, and a zone can be taken from its peer, the witness or both while its
clients still reach it."""
import ctypes
import os
import subprocess

CGROUP_ROOTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
PLACES = {"a": 10, "b": 20, "w": 30}
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def run(*args, stdin=None):
    r = subprocess.run(args, input=stdin, capture_output=True, text=True)
    if r.returncode != 0:
        raise RuntimeError(f"{' '.join(args)}: {r.stderr}{stdin or ''}")
    return r.stdout


def setns(fd):
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns (the tests of links need root)")


class Net:
    """with net.entered(): ... runs this thread, and all that it starts, inside the namespace."""

    def __init__(self, name):
        self.name = name
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        run("ip", "netns", "add", name)
        self.fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.enter()
        try:
            run("ip", "link", "set", "lo", "up")
        finally:
            self.leave()
        root = next(r for r in CGROUP_ROOTS if os.path.exists(r + "/cgroup.procs"))
        self.groups = {p: os.path.join(root, f"{name}-{p}") for p in PLACES}
        for g in self.groups.values():
            os.makedirs(g, exist_ok=True)

    def enter(self):
        setns(self.fd)

    def leave(self):
        setns(self.home)

    def close(self):
        os.close(self.fd)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        for g in self.groups.values():
            try:
                os.rmdir(g)
            except OSError:
                pass  # a process of it is still ending

    def environment(self):
        """For lib/fault.c, which puts each process into its group when it starts. Later would be too late: a
        socket belongs to the group that its process was in when it was made."""
        return {"NEF_GROUPS": next(iter(self.groups.values()))[:-2]}

    def heal(self):
        """All links good again."""
        subprocess.run(["nft", "delete", "table", "inet", "nef"], capture_output=True)

    def rules(self, region, cuts):
        """cuts: (sender place, receiver place, verdict), such as ("a", "b", "drop")."""
        out, into = [], []

        def group(place):
            path = self.groups[place].replace("/sys/fs/cgroup/", "")
            return f'socket cgroupv2 level 1 "{path}"'

        def ports(place):
            base = region.port_base + PLACES[place]
            return "{ " + ", ".join(str(base + o) for o in (2, 3, 4, 6)) + " }"

        for source, target, verdict in cuts:
            out.append(f"{group(source)} tcp dport {ports(target)} {verdict}")
            into.append(f"{group(target)} tcp sport {ports(source)} {verdict}")
        text = ("table inet nef {\n chain out { type filter hook output priority 0;\n  " +
                "\n  ".join(out) + "\n }\n chain into { type filter hook input priority 0;\n  " +
                "\n  ".join(into) + "\n }\n}\n")
        self.heal()
        run("nft", "-f", "-", stdin=text)

    def cut(self, region, *pairs):
        """cut(region, "ab", "ba"): nothing from a to b, nothing from b to a."""
        self.rules(region, [(p[0], p[1], "drop") for p in pairs])

    def isolate(self, region, place):
        others = [p for p in PLACES if p != place]
        self.cut(region, *[place + o for o in others], *[o + place for o in others])

    def lossy(self, region, percent, *pairs):
        self.rules(region, [(p[0], p[1], f"numgen random mod 100 < {percent} drop") for p in pairs])
