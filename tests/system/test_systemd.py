"""The units under a real systemd, on three hosts that it boots (lib/booted.py), by the runbook's own steps."""
import json
import os

import pytest

from lib.booted import NAMES, Machines
from lib.infer import MODELS
from lib.region import wait_for

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def m():
    machines = Machines()
    try:
        machines.install()
        yield machines
    finally:
        machines.close()


@pytest.fixture(scope="module")
def client(m):
    """aws and nef on host zone-a, with the first user's keys."""
    with open(os.path.join(m.tree, "operator", "root.json")) as f:
        root = json.load(f)
    env = {"AWS_ACCESS_KEY_ID": root["access_key"], "AWS_SECRET_ACCESS_KEY": root["secret_key"],
           "AWS_DEFAULT_REGION": "eu-paris", "AWS_CA_BUNDLE": "/etc/nef/pki/ca.crt",
           "AI_KEY": root["access_key"] + ":" + root["secret_key"]}
    return lambda script: m["zone-a"].sh(script, **env)


def test_it_serves(m, client):
    m.wait_durability()
    wait_for(lambda: "answers" in m.status("a"), 20)  # its clock, over TLS
    wait_for(lambda: m.status("b").count("\nhealthy ") == 3, 20)
    client(f"aws --endpoint-url https://{NAMES['zone-a']} s3 mb s3://photos")
    client(f"head -c 20000000 /dev/urandom > /root/big; aws --endpoint-url https://{NAMES['zone-a']} s3 cp "
           "--no-progress /root/big s3://photos/big")
    client(f"aws --endpoint-url https://{NAMES['zone-b']} s3 cp --no-progress s3://photos/big /root/copy; "
           "cmp /root/big /root/copy")


def test_it_computes(m, client):
    """A stored model, in the sandbox of the zone's unit."""
    m["zone-a"].write("/root/nano.gguf", "")
    with open(os.path.join(MODELS, "qwen3-nano-Q8_0.gguf"), "rb") as source, \
            open(m["zone-a"].path("/root/nano.gguf"), "wb") as f:
        f.write(source.read())
    client(f"nef model add nano /root/nano.gguf --endpoint https://{NAMES['zone-a']} --ca /etc/nef/pki/ca.crt")
    for zone in ("zone-a", "zone-b"):
        wait_for(lambda: "ai_backend_up\",\"backend\":\"engine:nano" in m[zone].journal("nef-zone"), 30, 0.2)
        said = client(f"curl -sS --fail-with-body --cacert /etc/nef/pki/ca.crt https://{NAMES[zone]}:8443/v1/completions "
                      "-H \"Authorization: Bearer $AI_KEY\" -H 'Content-Type: application/json' "
                      "-d '{\"model\":\"nano\",\"prompt\":\"Paris\",\"max_tokens\":20}'")
        assert json.loads(said)["usage"]["completion_tokens"] > 0
        assert m[zone].sh("ps -o user= -C nef-infer").strip() == "nef"


def test_a_host_loses_power_and_boots(m, client):
    m["zone-b"].lose()
    wait_for(lambda: "durability 1/2" in m.status("a"), 20)
    client(f"aws --endpoint-url https://{NAMES['zone-a']} s3 cp --no-progress /root/big s3://photos/alone")
    m["zone-b"].boot()
    m.wait_durability()
    client(f"aws --endpoint-url https://{NAMES['zone-b']} s3 cp --no-progress s3://photos/alone /root/copy; "
           "cmp /root/big /root/copy")


def test_an_upgrade(m, client):
    """One after the other; a client of zone a's front sees answers all the time, since that goes to the other zone."""
    for zone in ("zone-b", "zone-a"):
        m[zone].sh("systemctl restart nef-zone")
        m.wait_durability()
        client(f"aws --endpoint-url https://{NAMES['zone-a']} s3 ls s3://photos")
    m["witness"].sh("systemctl restart nef-witness")
    m.wait_durability()


def test_nothing_was_refused_to_the_units(m):
    for zone in ("zone-a", "zone-b"):
        said = m[zone].journal("nef-zone")
        for event in ("core_limit", "memory_cant_be_locked", "ai_model_unusable", "Failed with result", "\"E_SYSTEM\""):
            assert event not in said, [line for line in said.splitlines() if event in line][:3]
    assert "Failed with result" not in m["witness"].journal("nef-witness")


def test_power_off(m):
    for name in ("zone-b", "zone-a", "witness"):
        m[name].power_off()
        assert m[name].process.returncode == 0
