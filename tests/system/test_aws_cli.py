"""aws cli: cp, sync, mb and rb, a large file in parts, presign. Writes through one zone, reads through the other."""
import filecmp
import os
import random
import subprocess

import pytest


@pytest.fixture
def aws(region):
    program = "/usr/bin/aws" if os.path.exists("/usr/bin/aws") else "aws"

    def run(zone, *args, check=True):
        url = region.endpoint if zone is None else region.zone(zone)["s3"]
        r = subprocess.run([program, "--endpoint-url", url, "--ca-bundle", region.json["ca"], *args],
                           env=region.aws_env(), capture_output=True, text=True, timeout=120)
        if check:
            assert r.returncode == 0, f"{args}: {r.stdout}{r.stderr}"
        return r
    return run


def tree(root):
    rng = random.Random(4)
    for n, size in enumerate([0, 1, 1000, 65536, 200000, 1 << 20, 9 << 20] * 3):
        path = root / ("sub %d" % (n % 4)) / ("deep" if n % 2 else ".") / f"file-{n} é+.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))


def same(one, two):
    c = filecmp.dircmp(one, two)
    assert not c.left_only and not c.right_only and not c.funny_files, (c.left_only, c.right_only)
    assert filecmp.cmpfiles(one, two, c.common_files, shallow=False)[1:] == ([], [])
    for sub in c.common_dirs:
        same(os.path.join(one, sub), os.path.join(two, sub))


def test_buckets_and_files(aws, tmp_path):
    aws("a", "s3", "mb", "s3://aws-cli")
    one = tmp_path / "one"
    one.write_bytes(b"hello")
    aws("b", "s3", "cp", str(one), "s3://aws-cli/one", "--metadata", "k=v", "--content-type", "a/b")
    aws("a", "s3", "cp", "s3://aws-cli/one", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"hello"
    assert aws(None, "s3", "rb", "s3://aws-cli", check=False).returncode != 0
    aws("b", "s3", "mv", "s3://aws-cli/one", "s3://aws-cli/two")
    head = aws("a", "s3api", "head-object", "--bucket", "aws-cli", "--key", "two").stdout
    assert '"a/b"' in head and '"k": "v"' in head
    aws("b", "s3", "rb", "s3://aws-cli", "--force")
    assert "aws-cli" not in aws("a", "s3", "ls").stdout


def test_sync_of_a_tree(aws, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    tree(source)
    aws("a", "s3", "mb", "s3://aws-sync")
    aws("a", "s3", "sync", str(source), "s3://aws-sync/t")
    aws("b", "s3", "sync", "s3://aws-sync/t", str(back))
    same(source, back)
    victim = next(p for p in sorted(source.rglob("*")) if p.is_file())
    victim.unlink()
    aws("b", "s3", "sync", "--delete", str(source), "s3://aws-sync/t")
    aws("a", "s3", "sync", "--delete", "s3://aws-sync/t", str(back))
    assert not (back / victim.relative_to(source)).exists()
    aws("b", "s3", "rb", "s3://aws-sync", "--force")


def test_large_file_in_parts(aws, tmp_path):
    big, back = tmp_path / "big", tmp_path / "back"
    with open(big, "wb") as f:
        for n in range(64):
            f.write(random.Random(n).randbytes(1 << 20))
    aws("a", "s3", "mb", "s3://aws-large")
    aws("a", "s3", "cp", str(big), "s3://aws-large/big")
    etag = aws("b", "s3api", "head-object", "--bucket", "aws-large", "--key", "big", "--query", "ETag").stdout
    assert "-8" in etag
    aws("b", "s3", "cp", "s3://aws-large/big", str(back))
    assert filecmp.cmp(big, back, shallow=False)


def test_presign(aws, region):
    aws("a", "s3", "mb", "s3://aws-presign")
    aws("a", "s3api", "put-object", "--bucket", "aws-presign", "--key", "k", "--body", "/etc/hostname")
    for zone in (None, "b"):
        url = aws(zone, "s3", "presign", "s3://aws-presign/k").stdout.strip()
        out = subprocess.run(["curl", "-sS", "-f", "--cacert", region.json["ca"], url], capture_output=True)
        assert out.returncode == 0 and out.stdout == open("/etc/hostname", "rb").read()
