"""The openai package for JavaScript, unmodified, against nef infer and the same server over a scripted engine."""
import os
import subprocess

from lib.infer import FAKE, Infer
from test_js import JS, NODE


def node(script, **env):
    assert os.path.exists(NODE), "run: make tests/system/js/node_modules/.package-lock.json (npm ci)"
    env = dict(os.environ, NO_PROXY="127.0.0.1", NODE_NO_WARNINGS="1", **env)
    r = subprocess.run([NODE, script], cwd=JS, env=env, capture_output=True, text=True, timeout=240)
    assert r.returncode == 0 and r.stdout.endswith("all passed\n"), r.stdout + r.stderr


def test_openai_package():
    assert os.path.exists(FAKE), "build it: ninja -C build tests/unit/infer/api/fake_infer"
    fake = subprocess.Popen([FAKE, "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = fake.stdout.readline().split()[1]
        with Infer("qwen3-nano-Q8_0") as server:
            node("openai.mjs", BASE=server.url, FAKE="http://127.0.0.1:" + port)
    finally:
        fake.terminate()
        assert fake.wait(30) == 0
        fake.stdout.close()


def test_structured_output_and_embeddings():
    with Infer("qwen3-nano-Q8_0") as server, Infer("qwen3-nano-Q8_0", "--pooling", "last") as embed:
        node("structured.mjs", BASE=server.url, EMBED=embed.url)
