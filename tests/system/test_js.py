"""AWS SDK for JavaScript v3, which sends checksums by default and as trailers where a body streams."""
import os
import subprocess

import pytest
from lib.chosen import chosen

JS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "js")
NODE = os.path.join(JS, "node_modules", "node", "bin", "node")


@pytest.mark.parametrize("write,read", chosen((None, None), ("a", "b"), ("b", "a")))
def test_sdk(region, write, read):
    assert os.path.exists(NODE), "run: make tests/system/js/node_modules/.package-lock.json (npm ci)"

    def url(zone):
        return region.endpoint if zone is None else region.zone(zone)["s3"]
    env = dict(os.environ, WRITE=url(write), READ=url(read), REGION=region.json["region"],
               ACCESS_KEY=region.json["access_key"], SECRET_KEY=region.json["secret_key"],
               NODE_EXTRA_CA_CERTS=region.json["ca"], NO_PROXY="127.0.0.1", NODE_NO_WARNINGS="1")
    r = subprocess.run([NODE, "client.mjs"], cwd=JS, env=env, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and r.stdout.endswith("all passed\n"), r.stdout + r.stderr
