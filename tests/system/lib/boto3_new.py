"""What the boto3 of tests/system/boto3.lock does with a region: run by test_boto3_trailers.py with that boto3 on
PYTHONPATH. All defaults are boto3's own, so every upload carries a CRC32 that nobody asked for: as a trailer behind an
aws-chunked body over https, as a header over http.

    boto3_new.py    runs every scenario, with endpoints and keys from the environment. For each one prints a line of
                    JSON: [name, null], or [name, traceback] of one that failed; the others go on"""
import base64
import hashlib
import io
import json
import os
import ssl
import traceback
import urllib.request
import zlib

import boto3
import botocore
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1 << 20
SCENARIOS = {}


def scenario(f):
    SCENARIOS[f.__name__] = f
    return f


def crc32(data):
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def etag(data):
    return f'"{hashlib.md5(data).hexdigest()}"'


def refused(call, **kw):
    """(code, status) of the refusal of CALL."""
    try:
        call(**kw)
    except ClientError as e:
        return e.response["Error"]["Code"], e.response["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError(f"not refused: {kw}")


class Wire:
    """The headers of each request that CLIENT sends, as (operation, {lower-case name: text}); and a hand on the body:
    while CHANGE is set, the encoded body goes out as change(body)."""

    def __init__(self, client):
        self.sent = []
        self.change = None
        client.meta.events.register("before-send.s3", self.look)

    def look(self, request, event_name, **_):
        self.sent.append((event_name.rsplit(".", 1)[1], {
            k.lower(): v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}))
        if self.change:
            body = request.body if isinstance(request.body, (bytes, bytearray)) else request.body.read()
            changed = self.change(body)
            assert changed != body
            request.body = changed

    def of(self, operation):
        return [headers for name, headers in self.sent if name == operation]

    def last(self, operation):
        return self.of(operation)[-1]


class Both:
    """A client that writes, one that reads (of the other zone), and a bucket of the scenario's own."""

    def __init__(self, name):
        self.write_url, self.read_url = os.environ["WRITE"], os.environ["READ"]
        self.https = self.write_url.startswith("https:")
        self.write, self.read = self.client(self.write_url), self.client(self.read_url)
        self.wire = Wire(self.write)
        self.bucket = "new-" + hashlib.sha1(f"{name} {self.write_url}".encode()).hexdigest()[:20]
        self.write.create_bucket(Bucket=self.bucket)

    @staticmethod
    def client(url, kind=boto3.client, **config):
        return kind("s3", endpoint_url=url, region_name=os.environ["REGION"],
                    aws_access_key_id=os.environ["ACCESS_KEY"], aws_secret_access_key=os.environ["SECRET_KEY"],
                    verify=os.environ["CA"] if url.startswith("https:") else None,
                    config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}, connect_timeout=2,
                                  read_timeout=20, **config))

    def put(self, key, body, **kw):
        return self.write.put_object(Bucket=self.bucket, Key=key, Body=body, **kw)

    def get(self, key, **kw):
        return self.read.get_object(Bucket=self.bucket, Key=key, **kw)

    def expect_sent(self, headers, algorithm="crc32", value=None):
        """The checksum went out where boto3 puts it: in a trailer over https, in a header over http."""
        name = "x-amz-checksum-" + algorithm
        if self.https:
            assert headers["x-amz-trailer"] == name, headers
            assert headers["x-amz-content-sha256"] == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
            assert headers["content-encoding"].split(",")[-1] == "aws-chunked"
            assert headers["transfer-encoding"] == "chunked" and name not in headers
        else:
            assert "x-amz-trailer" not in headers
            assert headers[name] == value if value else name in headers


@scenario
def version(s):
    """This is the boto3 that was meant, and not Debian 12's."""
    assert tuple(map(int, boto3.__version__.split(".")[:2])) >= (1, 36), boto3.__version__
    for module in (boto3, botocore):
        assert os.path.realpath(module.__file__).startswith(os.environ["NEW_BOTO3"] + "/"), module.__file__


@scenario
def put_and_get(s):
    for size in (0, 10, 65536, 65537, MIB, 3 * MIB + 12345):
        body = os.urandom(size)
        for n, source in enumerate((body, io.BytesIO(body))):
            key = f"{size}-{n}"
            put = s.put(key, source, Metadata={"ship": "nef"})
            s.expect_sent(s.wire.last("PutObject"), value=crc32(body))
            assert (put["ETag"], put["ChecksumCRC32"]) == (etag(body), crc32(body))
            got = s.get(key)  # boto3 asks for the checksum and verifies it
            assert got["Body"].read() == body
            assert (got["ETag"], got["ChecksumCRC32"], got["Metadata"]) == (etag(body), crc32(body), {"ship": "nef"})
            assert "ContentEncoding" not in got
            head = s.read.head_object(Bucket=s.bucket, Key=key, ChecksumMode="ENABLED")
            assert (head["ContentLength"], head["ChecksumCRC32"]) == (size, crc32(body))
    part = s.get(f"{MIB}-0", Range="bytes=5-99")
    assert len(part["Body"].read()) == 95
    s.put("encoded", b"not really gzip", ContentEncoding="gzip")
    assert s.get("encoded")["ContentEncoding"] == "gzip"


@scenario
def algorithms(s):
    body = os.urandom(2 * MIB + 7)
    for algorithm in ("CRC32", "CRC32C", "SHA1", "SHA256"):
        put = s.put(algorithm, io.BytesIO(body), ChecksumAlgorithm=algorithm)
        s.expect_sent(s.wire.last("PutObject"), algorithm.lower())
        got = s.get(algorithm)
        assert got["Body"].read() == body
        name = "Checksum" + algorithm
        assert got[name] == put[name] and base64.b64decode(put[name])
    assert put["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(body).digest()).decode()


@scenario
def crc64nvme_given_by_the_caller(s):
    """Debian 12's awscrt computes no CRC64NVME; a caller that knows the value sends it as a header."""
    value = base64.b64encode(bytes.fromhex("ae8b14860a799888")).decode()  # of "123456789", the catalogue's check value
    put = s.put("sum", b"123456789", ChecksumCRC64NVME=value)
    headers = s.wire.last("PutObject")
    assert headers["x-amz-checksum-crc64nvme"] == value and "x-amz-trailer" not in headers
    assert put["ChecksumCRC64NVME"] == value
    assert s.get("sum", ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == value
    assert refused(s.put, key="wrong", body=b"123456780", ChecksumCRC64NVME=value) == ("BadDigest", 400)
    assert refused(s.read.head_object, Bucket=s.bucket, Key="wrong") == ("404", 404)


@scenario
def when_required(s):
    """The setting that turns the default off: no checksum of boto3's own on an upload."""
    quiet = s.client(s.write_url, request_checksum_calculation="when_required",
                     response_checksum_validation="when_required")
    wire = Wire(quiet)
    put = quiet.put_object(Bucket=s.bucket, Key="k", Body=b"quiet")
    headers = wire.last("PutObject")
    assert not [h for h in headers if h.startswith(("x-amz-checksum", "x-amz-trailer"))], headers
    assert put["ETag"] == etag(b"quiet") and s.get("k")["Body"].read() == b"quiet"


@scenario
def multipart(s):
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB + 333), b"the end"]
    whole = b"".join(parts)
    for kind in ("COMPOSITE", "FULL_OBJECT"):
        where = {"Bucket": s.bucket, "Key": kind}
        made = s.write.create_multipart_upload(**where, ChecksumAlgorithm="CRC32", ChecksumType=kind)
        assert (made["ChecksumAlgorithm"], made["ChecksumType"]) == ("CRC32", kind)
        where["UploadId"] = made["UploadId"]
        done = []
        for number, data in enumerate(parts, 1):
            out = s.write.upload_part(**where, PartNumber=number, Body=io.BytesIO(data))
            s.expect_sent(s.wire.last("UploadPart"), value=crc32(data))
            assert out["ChecksumCRC32"] == crc32(data)
            done.append({"PartNumber": number, "ETag": out["ETag"], "ChecksumCRC32": out["ChecksumCRC32"]})
        listed = s.read.list_parts(**where)
        assert [p["ChecksumCRC32"] for p in listed["Parts"]] == [crc32(p) for p in parts]
        want = crc32(whole)
        if kind == "COMPOSITE":
            want = crc32(b"".join(zlib.crc32(p).to_bytes(4, "big") for p in parts)) + f"-{len(parts)}"
        wrong = [dict(p, ChecksumCRC32=crc32(b"other")) if p["PartNumber"] == 2 else p for p in done]
        assert refused(s.write.complete_multipart_upload, **where, MultipartUpload={"Parts": wrong})[1] == 400
        out = s.write.complete_multipart_upload(**where, MultipartUpload={"Parts": done})
        assert out["ChecksumCRC32"] == want, out
        got = s.get(kind)
        assert got["Body"].read() == whole
        assert (got["ChecksumCRC32"], got["ChecksumType"]) == (want, kind)


@scenario
def transfer_manager(s):
    """upload_file, upload_fileobj, copy and download_file: parts by several threads, a checksum on each."""
    body = os.urandom(20 * MIB + 7)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4)
    path = os.path.join(os.environ["SCRATCH"], "source")
    with open(path, "wb") as f:
        f.write(body)
    s.write.upload_file(path, s.bucket, "file", Config=config)
    s.write.upload_fileobj(io.BytesIO(body), s.bucket, "fileobj", Config=config)
    sent = s.wire.of("UploadPart")
    assert len(sent) == 10
    for headers in sent:
        s.expect_sent(headers)
    s.write.upload_fileobj(io.BytesIO(body[:1000]), s.bucket, "small", Config=config)
    s.expect_sent(s.wire.last("PutObject"), value=crc32(body[:1000]))
    s.write.copy({"Bucket": s.bucket, "Key": "file"}, s.bucket, "copied", Config=config)
    assert len(s.wire.of("UploadPartCopy")) == 5
    for key in ("file", "fileobj", "copied"):
        back = os.path.join(os.environ["SCRATCH"], key)
        s.read.download_file(s.bucket, key, back, Config=config)
        with open(back, "rb") as f:
            assert f.read() == body, key


@scenario
def copy_and_delete(s):
    body = os.urandom(100000)
    s.put("from", body, Metadata={"x": "1"})
    source = {"Bucket": s.bucket, "Key": "from"}
    out = s.write.copy_object(Bucket=s.bucket, Key="to", CopySource=source)
    assert out["CopyObjectResult"]["ETag"] == etag(body)
    assert out["CopyObjectResult"]["ChecksumCRC32"] == crc32(body)
    got = s.get("to")
    assert (got["Body"].read(), got["Metadata"], got["ChecksumCRC32"]) == (body, {"x": "1"}, crc32(body))
    s.write.copy_object(Bucket=s.bucket, Key="sha", CopySource=source, ChecksumAlgorithm="SHA256")
    assert s.get("sha")["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(body).digest()).decode()
    left = s.write.delete_objects(Bucket=s.bucket, Delete={"Objects": [{"Key": k} for k in ("from", "to", "absent")]})
    headers = s.wire.last("DeleteObjects")
    assert "x-amz-checksum-crc32" in headers and "content-md5" not in headers
    assert sorted(d["Key"] for d in left["Deleted"]) == ["absent", "from", "to"] and "Errors" not in left
    assert [o["Key"] for o in s.read.list_objects_v2(Bucket=s.bucket)["Contents"]] == ["sha"]


@scenario
def conditions(s):
    """If-None-Match and If-Match, also those of writes, which this boto3 knows by name."""
    first = s.put("lock", b"first", IfNoneMatch="*")["ETag"]
    assert refused(s.put, key="lock", body=b"second", IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert refused(s.read.put_object, Bucket=s.bucket, Key="lock", Body=b"x", IfMatch='"0"') == \
        ("PreconditionFailed", 412)
    second = s.put("lock", b"second", IfMatch=first)["ETag"]
    assert (second, s.get("lock")["Body"].read()) == (etag(b"second"), b"second")
    for call in (s.get, lambda **kw: s.read.head_object(Bucket=s.bucket, Key="lock", ChecksumMode="ENABLED", **kw)):
        kw = {"key": "lock"} if call == s.get else {}
        assert refused(call, **kw, IfNoneMatch=second) == ("304", 304)
        assert refused(call, **kw, IfMatch=first)[1] == 412
    upload = s.write.create_multipart_upload(Bucket=s.bucket, Key="lock")["UploadId"]
    part = s.write.upload_part(Bucket=s.bucket, Key="lock", UploadId=upload, PartNumber=1, Body=b"third")
    end = {"Bucket": s.bucket, "Key": "lock", "UploadId": upload,
           "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}}
    assert refused(s.write.complete_multipart_upload, **end, IfNoneMatch="*") == ("PreconditionFailed", 412)
    s.write.complete_multipart_upload(**end, IfMatch=second)
    assert s.get("lock")["Body"].read() == b"third"


@scenario
def refusals(s):
    """Known from the headers alone, so the answer is ready before the body has come. Small bodies and whole parts."""
    upload = s.write.create_multipart_upload(Bucket=s.bucket, Key="k")["UploadId"]
    s.write.abort_multipart_upload(Bucket=s.bucket, Key="k", UploadId=upload)
    for body in [b"x"] * 20 + [bytes(8 * MIB)]:
        assert refused(s.write.upload_part, Bucket=s.bucket, Key="k", UploadId=upload, PartNumber=1,
                       Body=io.BytesIO(body)) == ("NoSuchUpload", 404)
        assert refused(s.write.put_object, Bucket=s.bucket + "-not", Key="k", Body=body) == ("NoSuchBucket", 404)


@scenario
def presigned(s):
    """A presigned URL carries no checksum and needs none."""
    def ask(operation, body=None, method="GET"):
        url = s.write.generate_presigned_url(operation, Params={"Bucket": s.bucket, "Key": "p q"}, ExpiresIn=60)
        context = None
        if s.https:
            context = ssl.create_default_context(cafile=os.environ["CA"])
        request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "a/b"})
        with urllib.request.urlopen(request, timeout=20, context=context) as r:
            return r.read()
    ask("put_object", b"by url", "PUT")
    assert ask("get_object") == b"by url"
    assert s.get("p q")["ContentType"] == "a/b"


@scenario
def resource(s):
    """The object interface, which sits on the same client."""
    bucket = s.client(s.write_url, boto3.resource).Bucket(s.bucket)
    for n in range(3):
        bucket.put_object(Key=f"r/{n}", Body=b"r" * n)
    assert [(o.key, o.size) for o in bucket.objects.filter(Prefix="r/")] == [("r/0", 0), ("r/1", 1), ("r/2", 2)]
    bucket.objects.all().delete()
    assert "Contents" not in s.read.list_objects_v2(Bucket=s.bucket)


def no_trailer(body):
    assert body.endswith(b"\r\n\r\n")
    return body[:body.rindex(b"0\r\nx-amz-checksum")] + b"0\r\n\r\n"


def byte_of_the_body(body):
    return body[:5000] + bytes([body[5000] ^ 1]) + body[5001:]


def trailer_value(text):
    return lambda body: body[:body.rindex(b":") + 1] + text.encode() + b"\r\n\r\n"


SIGNED_DAMAGE = {"a byte of the body": (byte_of_the_body, "XAmzContentSHA256Mismatch")}
TRAILER_DAMAGE = {
    "a byte of the body": (byte_of_the_body, "BadDigest"),
    "another value": (trailer_value(crc32(b"other")), "BadDigest"),
    "a value that is none": (trailer_value("!!"), "InvalidRequest"),
    "another name": (lambda b: b.replace(b"x-amz-checksum-crc32:", b"x-amz-checksum-sha1:"), "MalformedTrailerError"),
    "no trailer": (no_trailer, "MalformedTrailerError"),
}


@scenario
def damaged(s):
    """Over https boto3 doesn't sign the payload: the trailer alone tells that the body is another one. Over http the
    signature does. What was there stays, and the next request is served."""
    body = os.urandom(1500000)
    s.put("k", b"before")
    upload = s.write.create_multipart_upload(Bucket=s.bucket, Key="m", ChecksumAlgorithm="CRC32")["UploadId"]
    for what, (change, code) in (TRAILER_DAMAGE if s.https else SIGNED_DAMAGE).items():
        s.wire.change = change
        assert refused(s.put, key="k", body=io.BytesIO(body)) == (code, 400), what
        s.expect_sent(s.wire.last("PutObject"))
        assert refused(s.put, key="new", body=b"s" * 6000) == (code, 400), what
        assert refused(s.write.upload_part, Bucket=s.bucket, Key="m", UploadId=upload, PartNumber=1,
                       Body=io.BytesIO(body)) == (code, 400), what
        s.wire.change = None
        assert s.get("k")["Body"].read() == b"before", what
    assert "Parts" not in s.read.list_parts(Bucket=s.bucket, Key="m", UploadId=upload)
    assert [o["Key"] for o in s.read.list_objects_v2(Bucket=s.bucket)["Contents"]] == ["k"]
    s.put("k", io.BytesIO(body))
    assert s.get("k")["Body"].read() == body


if __name__ == "__main__":
    for name, run in SCENARIOS.items():
        failure = None
        try:
            run(Both(name))
        except Exception:  # whatever a scenario raises is its result
            failure = traceback.format_exc()
        print(json.dumps([name, failure]), flush=True)
