"""boto3 1.36 and later, which sends a CRC32 with every upload: as a trailer over https. Debian 12 has an older one, so
`make test` unpacks Debian 13's (tests/system/boto3.lock, tools/boto3.sh) and the scenarios of lib/boto3_new.py run
with it in a process of its own. Zone b's listener speaks TLS, zone a's doesn't: each way of sending meets a zone
that is primary and one that isn't, and is read through the other."""
import json
import os
import subprocess
import sys

import pytest
from lib.boto3_new import SCENARIOS
from lib.region import ROOT

HERE = os.path.dirname(os.path.abspath(__file__))
NEW_BOTO3 = os.path.join(ROOT, "build-boto3", "usr", "lib", "python3", "dist-packages")


@pytest.fixture(scope="module", params=[("b", "a"), ("a", "b")], ids=["trailers", "headers"])
def results(region, tmp_path_factory, request):
    """What each scenario came to, written through one zone and read through the other: {name: None or a traceback}."""
    assert os.path.isdir(os.path.join(NEW_BOTO3, "boto3")), "run: make build-boto3/.unpacked (tools/boto3.sh)"
    assert region.zone("b")["s3"].startswith("https:") and region.zone("a")["s3"].startswith("http:")
    write, read = request.param
    scratch = tmp_path_factory.mktemp("boto3")
    env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    env.update(PYTHONPATH=NEW_BOTO3, NEW_BOTO3=os.path.realpath(NEW_BOTO3), WRITE=region.zone(write)["s3"],
               READ=region.zone(read)["s3"], REGION=region.json["region"], CA=region.json["ca"],
               ACCESS_KEY=region.json["access_key"], SECRET_KEY=region.json["secret_key"], SCRATCH=str(scratch),
               NO_PROXY="127.0.0.1", AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null")
    r = subprocess.run([sys.executable, os.path.join(HERE, "lib", "boto3_new.py")], env=env, cwd=scratch,
                       capture_output=True, text=True, timeout=180)
    assert r.returncode == 0, r.stdout + r.stderr
    return dict(json.loads(line) for line in r.stdout.splitlines())


@pytest.mark.parametrize("name", SCENARIOS)
def test_boto3(results, name):
    assert results[name] is None, results[name]
