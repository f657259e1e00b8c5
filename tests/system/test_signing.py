"""Signatures, payload hashes and aws-chunked bodies made by hand (lib/s3raw.py), where SDKs only send good ones."""
import datetime
import hashlib
import subprocess
import zlib

import pytest
from lib import s3raw
from lib.region import wait_for
from lib.s3raw import S3, error_code
from test_boto3 import CHECKSUMS


def log_end(region):
    return sum(sum(c["log_end"].values()) for c in region.status("a")["cells"])


def absent(region, key):
    for zone in ("a", "b"):
        assert S3.of(region, zone).request("HEAD", key)[0] == 404


@pytest.mark.parametrize("zone", ["a", "b"])
@pytest.mark.parametrize("size", [0, 100, 200000, 2500000])
def test_signed_payload(region, bucket, zone, size):
    body = bytes(size)
    s3 = S3.of(region, zone)
    key = f"/{bucket}/signed-{size}"
    assert s3.request("PUT", key, body=body, payload="signed")[0] == 200
    assert s3.request("GET", key)[2] == body
    status, _, answer = s3.request("PUT", key + "-bad", body=body, payload=hashlib.sha256(b"else").hexdigest())
    assert (status, error_code(answer)) == (400, "XAmzContentSHA256Mismatch")
    absent(region, key + "-bad")


def test_a_mismatch_proposes_no_op(region, bucket):
    """A small body that isn't what was signed leaves nothing in the log: it was never proposed."""
    s3 = S3.of(region, "a")
    s3.request("HEAD", f"/{bucket}/x")
    for c in ("a", "b"):
        region.wait_durability()
    appended = []
    for _ in range(5):  # the log moves by itself now and then (marks); a put moves it each time
        before = log_end(region)
        status, _, answer = s3.request("PUT", f"/{bucket}/never", body=b"x" * 1000,
                                       payload=hashlib.sha256(b"else").hexdigest())
        assert (status, error_code(answer)) == (400, "XAmzContentSHA256Mismatch")
        appended.append(log_end(region) - before)
    assert 0 in appended, appended
    absent(region, f"/{bucket}/never")


@pytest.mark.parametrize("zone", ["a", "b"])
@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1500000])
def test_streaming_signed(region, bucket, zone, size):
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    key = f"/{bucket}/stream-{size}"
    s3 = S3.of(region, zone)
    status, headers, answer = s3.put_chunked(key, body, s3raw.STREAMING)
    assert status == 200, answer
    assert headers["etag"].strip('"') == hashlib.md5(body).hexdigest()
    status, headers, got = s3.request("GET", key)
    assert got == body
    assert "content-encoding" not in headers


@pytest.mark.parametrize("mode", [s3raw.STREAMING_TRAILER, s3raw.STREAMING_UNSIGNED_TRAILER])
@pytest.mark.parametrize("kind", CHECKSUMS)
def test_streaming_with_trailer(region, bucket, mode, kind):
    body = b"trailing " * 20000
    key, s3 = f"/{bucket}/trailer-{kind}", S3.of(region, "a")
    status, headers, answer = s3.put_chunked(key, body, mode, trailer=(f"x-amz-checksum-{kind}", CHECKSUMS[kind](body)))
    assert status == 200, answer
    assert headers[f"x-amz-checksum-{kind}"] == CHECKSUMS[kind](body)
    assert S3.of(region, "b").request("GET", key)[2] == body
    status, _, answer = s3.put_chunked(key + "-bad", body, mode,
                                       trailer=(f"x-amz-checksum-{kind}", CHECKSUMS[kind](b"other")))
    assert (status, error_code(answer)) == (400, "BadDigest")
    absent(region, key + "-bad")


def test_content_encoding_beside_aws_chunked_stays(region, bucket):
    body = zlib.compress(b"x" * 1000)
    key, s3 = f"/{bucket}/gzipped", S3.of(region, "a")
    assert s3.put_chunked(key, body, s3raw.STREAMING, headers={"content-encoding": "aws-chunked,gzip"})[0] == 200
    assert s3.request("GET", key)[1]["content-encoding"] == "gzip"


DAMAGES = {
    "data": (lambda e: e.replace(b"y" * 50, b"n" * 50, 1), 403, "SignatureDoesNotMatch"),
    "signature": (lambda e: e.replace(b"chunk-signature=", b"chunk-signature=00", 1)[:-2] + b"\r\n", None, None),
    "missing end": (lambda e: e[:e.rindex(b"0;chunk")], None, None),
    "size": (lambda e: b"zz" + e, None, None),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_streams_leave_nothing(region, bucket, name):
    damage, status_wanted, code_wanted = DAMAGES[name]
    key = f"/{bucket}/damaged-{name}"
    s3 = S3.of(region, "a")
    status, _, answer = s3.put_chunked(key, b"y" * 200000, s3raw.STREAMING, damage=damage)
    assert 400 <= status < 500, (status, answer)
    if code_wanted:
        assert (status, error_code(answer)) == (status_wanted, code_wanted)
    absent(region, key)


def test_wrong_trailer_signature(region, bucket):
    body = b"x" * 1000
    status, _, answer = S3.of(region, "b").put_chunked(
        f"/{bucket}/ts", body, s3raw.STREAMING_TRAILER, trailer=("x-amz-checksum-crc32", CHECKSUMS["crc32"](body)),
        damage=lambda e: e.replace(b"x-amz-trailer-signature:", b"x-amz-trailer-signature:0", 1).replace(b"\r\n\r\n", b"\r\n\r\n"))
    assert status in (400, 403), answer
    absent(region, f"/{bucket}/ts")


def test_time_that_is_off(region, bucket):
    for minutes, good in ((14, True), (-14, True), (16, False), (-16, False), (24 * 60, False)):
        s3 = S3.of(region, "a")
        s3.skew = datetime.timedelta(minutes=minutes)
        status, _, body = s3.request("GET", f"/{bucket}/none")
        assert error_code(body) == ("NoSuchKey" if good else "RequestTimeTooSkewed")


def test_presigned_by_hand_with_curl(region, bucket):
    ca = ["--cacert", region.json["ca"]]

    def curl(*args):
        return subprocess.run(["curl", "-sS", *ca, "-w", "\n%{http_code}", *args], capture_output=True,
                              text=True).stdout.rsplit("\n", 1)
    for zone in (None, "a", "b"):
        s3 = S3.of(region, zone)
        key = f"/{bucket}/curl ü+&=%/{zone}"
        assert curl("-X", "PUT", "--data-binary", "hello", s3.presign("PUT", key))[1] == "200"
        assert curl(s3.presign("GET", key)) == ["hello", "200"]
        body, status = curl(s3.presign("GET", key, expires=604801))
        assert status == "400" and "AuthorizationQueryParametersError" in body
        old = S3.of(region, zone)
        old.skew = datetime.timedelta(minutes=-10)
        body, status = curl(old.presign("GET", key, expires=60))
        assert status == "403" and "AccessDenied" in body and "expired" in body
        body, status = curl("-X", "DELETE", s3.presign("GET", key))
        assert status == "403" and "SignatureDoesNotMatch" in body


def test_request_ids(region, bucket):
    """In the header, in the error document, and in the zone's log."""
    for zone in ("a", "b"):
        s3 = S3.of(region, zone)
        status, headers, body = s3.request("GET", f"/{bucket}/not-there-{zone}")
        request_id = headers["x-amz-request-id"]
        assert f"<RequestId>{request_id}</RequestId>" in body.decode()

        def logged():
            return [e for e in region.log(f"zone-{zone}")
                    if e.get("event") == "request" and e["id"] == request_id]
        line = wait_for(logged, 5)[0]
        assert (line["operation"], line["status"]) == ("GetObject", 404)
        assert "not-there" not in str(line), "an object's name is in the log"


# ---- users ----

def test_users(region, bucket):
    import json
    dir_ = ["--dir", region.directory]

    def add(name, *args):
        out = json.loads(region.nef("user", "add", name, "--json", *args, *dir_).stdout)
        return out["access_key"], out["secret_key"]

    def codes(keys, requests):
        out = []
        for zone in ("a", "b"):
            s3 = S3.of(region, zone, access_key=keys[0], secret_key=keys[1])
            for method, path, body in requests:
                status, _, answer = s3.request(method, path, body=body)
                out.append((status, error_code(answer)))
        return out
    root = S3.of(region)
    assert root.request("PUT", "/users-one")[0] == 200
    assert root.request("PUT", "/users-one/there", body=b"x")[0] == 200
    everywhere = add("everywhere")
    bound = add("bound", "--bucket", "users-one")
    reader = add("reader", "--bucket", "users-one", "--read-only")
    assert codes(everywhere, [("PUT", f"/{bucket}/u", b"x"), ("GET", "/users-one/there", b"")]) == [(200, "")] * 4
    assert codes(bound, [("PUT", "/users-one/u", b"x"), ("GET", "/users-one/there", b"")]) == [(200, "")] * 4
    denied = (403, "AccessDenied")
    assert codes(bound, [("GET", f"/{bucket}/u", b""), ("PUT", f"/{bucket}/v", b""), ("PUT", "/users-new", b"")]) == \
        [denied] * 6
    assert codes(reader, [("GET", "/users-one/there", b""), ("GET", "/users-one", b"")]) == [(200, "")] * 4
    assert codes(reader, [("PUT", "/users-one/w", b""), ("DELETE", "/users-one/there", b""),
                          ("DELETE", "/users-one", b"")]) == [denied] * 6
    # a copy reads its source: not from a bucket that the user may not see
    s3 = S3.of(region, "a", access_key=bound[0], secret_key=bound[1])
    status, _, body = s3.request("PUT", "/users-one/copied", headers={"x-amz-copy-source": f"/{bucket}/u"})
    assert (status, error_code(body)) == denied
    # names of other buckets aren't told
    listed = S3.of(region, "a", access_key=bound[0], secret_key=bound[1]).request("GET", "/")
    assert b"<Name>users-one</Name>" in listed[2] and f"<Name>{bucket}</Name>".encode() not in listed[2]
    assert region.nef("user", "add", "bound", *dir_, check=False).returncode == 1
    users = json.loads(region.nef("user", "list", "--json", *dir_).stdout)
    users = {u["name"]: u for u in (users if isinstance(users, list) else users["users"])}
    assert users["reader"]["read_only"] is True and users["reader"]["bucket"] == "users-one"
    assert "secret_key" not in users["reader"]
    region.nef("user", "disable", "bound", *dir_)
    for answer in codes(bound, [("GET", "/users-one/there", b"")]):
        assert answer[0] == 403 and answer[1] in ("AccessDenied", "InvalidAccessKeyId")
    assert region.nef("user", "disable", "nobody", *dir_, check=False).returncode == 1
