"""A group of processes with little memory (cgroup v1 or v2), and something in it that takes all of it."""
import contextlib
import os
import subprocess
import sys
import time

import pytest

# The kernel takes who has the most, of the group's limit, after adding oom_score_adj thousandths of it. So an engine,
# with 1000, comes first whatever its size; then this, as it has half of the limit left; then everybody else.
HOG = """
import os, sys
open(sys.argv[1], 'w').write(str(os.getpid()))
open('/proc/self/oom_score_adj', 'w').write('-500')
taken = [b'x' * (1 << 20) for _ in range(int(sys.argv[2]))]
print('ready', flush=True)
sys.stdin.read(1)
while True:
    taken.append(b'x' * (1 << 20))
"""


MEGABYTES = 1024
LEFT = 128  # when the wish for more begins: what a zone takes in a second is less


class Group:
    def __init__(self):
        v1, v2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"
        old = os.path.exists(v1 + "/memory.limit_in_bytes")
        self.parent = v1 if old else v2
        self.path = f"{self.parent}/nef-test-{os.getpid()}-{time.monotonic_ns()}"
        self.events = "memory.oom_control" if old else "memory.events"
        limit = "memory.limit_in_bytes" if old else "memory.max"
        try:
            os.mkdir(self.path)
        except OSError as e:
            pytest.skip(f"no group of processes can be made here: {e}")
        if not os.path.exists(f"{self.path}/{limit}"):
            os.rmdir(self.path)
            pytest.skip("groups of processes have no memory controller here")
        self._write(limit, MEGABYTES << 20)
        swap, most = ("memory.memsw.limit_in_bytes", MEGABYTES << 20) if old else ("memory.swap.max", 0)
        if os.path.exists(f"{self.path}/{swap}"):
            self._write(swap, most)
        self.hog = None

    def _write(self, name, value):
        with open(f"{self.path}/{name}", "w") as f:
            f.write(str(value))

    def add(self, pid):
        self._write("cgroup.procs", pid)

    def ready(self):
        """Everything that takes time before all is taken."""
        self.hog = subprocess.Popen([sys.executable, "-c", HOG, f"{self.path}/cgroup.procs", str(MEGABYTES - LEFT)],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.hog.stdout.readline() == b"ready\n"

    def take_all(self):
        self.hog.stdin.write(b"x")
        self.hog.stdin.flush()

    def killed(self):
        with open(f"{self.path}/{self.events}") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("oom_kill "))

    def close(self):
        if self.hog is not None:
            self.hog.kill()
            self.hog.wait()
            self.hog.stdin.close()
            self.hog.stdout.close()
        for _ in range(100):
            with open(f"{self.path}/cgroup.procs") as f:
                left = f.read().split()
            for pid in left:
                with contextlib.suppress(ProcessLookupError), open(f"{self.parent}/cgroup.procs", "w") as f:
                    f.write(pid)
            try:
                os.rmdir(self.path)
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{self.path} can't be removed")
