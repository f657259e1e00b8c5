"""s3cmd and restic, as people use them for backups."""
import os
import random
import subprocess

from test_aws_cli import same, tree


def run(args, env=None, **kw):
    r = subprocess.run(args, env=env, capture_output=True, text=True, timeout=120, **kw)
    assert r.returncode == 0, f"{args}: {r.stdout}{r.stderr}"
    return r.stdout


def test_s3cmd(region, tmp_path):
    def s3cmd(zone, *args):
        where = (region.endpoint if zone is None else region.zone(zone)["s3"]).split("//")[1]
        return run(["s3cmd", "--config=/dev/null", "--no-ssl", f"--host={where}", f"--host-bucket={where}",
                    f"--access_key={region.json['access_key']}", f"--secret_key={region.json['secret_key']}",
                    f"--region={region.json['region']}", *args])
    big = tmp_path / "big"
    big.write_bytes(random.Random(1).randbytes(20 << 20))
    small = tmp_path / "small ü"
    small.write_bytes(b"small")
    s3cmd("a", "mb", "s3://s3cmd")
    s3cmd("a", "put", "--multipart-chunk-size-mb=5", str(big), "s3://s3cmd/big")
    s3cmd(None, "put", str(small), "s3://s3cmd/dir/")
    listed = s3cmd("a", "ls", "-r", "s3://s3cmd")
    assert "s3://s3cmd/big" in listed and "s3://s3cmd/dir/small ü" in listed
    s3cmd(None, "get", "s3://s3cmd/big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    assert "MD5" in s3cmd("a", "info", "s3://s3cmd/dir/small ü")
    s3cmd("a", "del", "s3://s3cmd/big")
    s3cmd("a", "del", "--recursive", "--force", "s3://s3cmd")
    s3cmd(None, "rb", "s3://s3cmd")


def test_restic(region, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    tree(source)

    def restic(zone, *args):
        where = region.endpoint if zone is None else region.zone(zone)["s3"]
        env = dict(os.environ, AWS_ACCESS_KEY_ID=region.json["access_key"], NO_PROXY="127.0.0.1",
                   AWS_SECRET_ACCESS_KEY=region.json["secret_key"], RESTIC_PASSWORD="ship",
                   AWS_DEFAULT_REGION=region.json["region"], RESTIC_CACHE_DIR=str(tmp_path / "cache"))
        return run(["restic", "--cacert", region.json["ca"], "-r", f"s3:{where}/restic/repo", *args], env)
    restic("a", "init")
    restic("a", "backup", str(source))
    (source / "new").write_bytes(b"one more")
    restic("b", "backup", str(source))
    assert "no errors were found" in restic("b", "check", "--read-data")
    restic(None, "restore", "latest", "--target", str(back))
    same(source, str(back) + str(source))
    assert restic("a", "snapshots", "--json").count('"short_id"') == 2
    restic("b", "forget", "--keep-last", "1", "--prune")
    assert "no errors were found" in restic("a", "check", "--read-data")
