"""rclone: copy, sync, check, lsf, delete, of small and of large files. rclone is given the plain endpoints (zone a and
the front) and zone b's with TLS."""
import os
import random
import subprocess

import pytest
from test_aws_cli import same, tree


@pytest.fixture
def rclone(region, tmp_path):
    def run(zone, *args, check=True):
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        env.update(RCLONE_CONFIG="/dev/null", RCLONE_CONFIG_NEF_TYPE="s3",
                   RCLONE_CONFIG_NEF_PROVIDER="Other",
                   RCLONE_CONFIG_NEF_ENDPOINT=region.endpoint if zone is None else region.zone(zone)["s3"],
                   RCLONE_CONFIG_NEF_ACCESS_KEY_ID=region.json["access_key"],
                   RCLONE_CONFIG_NEF_SECRET_ACCESS_KEY=region.json["secret_key"],
                   RCLONE_CONFIG_NEF_REGION=region.json["region"], NO_PROXY="127.0.0.1")
        r = subprocess.run(["rclone", "--ca-cert", region.json["ca"], "--retries", "1", "--low-level-retries", "1",
                            *args], env=env, capture_output=True, text=True, timeout=120)
        if check:
            assert r.returncode == 0, f"{args}: {r.stdout}{r.stderr}"
        return r
    return run


def test_tree(rclone, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    tree(source)
    rclone("a", "mkdir", "nef:rclone-tree")
    rclone("a", "copy", str(source), "nef:rclone-tree/t")
    rclone("b", "check", str(source), "nef:rclone-tree/t")
    rclone(None, "check", "--download", str(source), "nef:rclone-tree/t")
    listed = rclone("b", "lsf", "-R", "--files-only", "nef:rclone-tree/t").stdout.splitlines()
    assert sorted(listed) == sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())
    rclone("b", "sync", "nef:rclone-tree/t", str(back))
    same(source, back)
    first = sorted(p for p in source.rglob("*") if p.is_file())[0]
    first.write_bytes(b"changed")
    rclone("b", "sync", str(source), "nef:rclone-tree/t")
    rclone("a", "check", str(source), "nef:rclone-tree/t")
    rclone("a", "delete", "nef:rclone-tree/t")
    assert rclone("b", "lsf", "-R", "--files-only", "nef:rclone-tree").stdout == ""
    rclone("b", "rmdir", "nef:rclone-tree")


def test_large(rclone, tmp_path):
    """Multipart, streamed from standard input as well."""
    big = tmp_path / "big"
    with open(big, "wb") as f:
        for n in range(40):
            f.write(random.Random(n).randbytes(1 << 20))
    rclone("a", "mkdir", "nef:rclone-large")
    rclone("b", "copyto", "--s3-upload-cutoff", "8M", "--s3-chunk-size", "5M", str(big), "nef:rclone-large/big")
    rclone("a", "check", "--download", str(tmp_path), "nef:rclone-large")
    rclone("a", "copyto", "nef:rclone-large/big", "nef:rclone-large/copy")  # on the server
    rclone("b", "copyto", "nef:rclone-large/copy", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    rclone("b", "purge", "nef:rclone-large")
