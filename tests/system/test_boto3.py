"""The S3 of both zones through Debian's boto3: what is written through one zone is read through the other, at once."""
import base64
import binascii
import datetime
import hashlib
import io
import os
import random
import threading

import botocore.exceptions
import pytest

MIB = 1 << 20
ODD_KEYS = ["plain", "with space", "plus+plus", "percent%41%zz", "a//b", "/leading", "trailing/", "ünïcödé/日本語/🚢",
            "quote'\"&<>", "tilde~-_.!*()", "?query=1&x", "#fragment", "semi;colon:comma,eq=", "back\\slash",
            ".", "..", "a/../b", "a/./b", "x" * 1024, "tab\there", "new\nline", "\x01control", "a\u00a0b",
            "[bracket]{brace}|^`", "@at$"]


@pytest.fixture(scope="module")
def a(region):
    return region.boto("a")


@pytest.fixture(scope="module")
def b(region):
    return region.boto("b")


@pytest.fixture
def fresh(a, request):
    """A bucket of the test's own, emptied afterwards."""
    name = "t-" + hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:20]
    a.create_bucket(Bucket=name)
    yield name
    for u in a.list_multipart_uploads(Bucket=name).get("Uploads", []):
        a.abort_multipart_upload(Bucket=name, Key=u["Key"], UploadId=u["UploadId"])
    while True:
        keys = [{"Key": o["Key"]} for o in a.list_objects_v2(Bucket=name).get("Contents", [])]
        if not keys:
            break
        for k in keys:
            a.delete_object(Bucket=name, Key=k["Key"])
    a.delete_bucket(Bucket=name)


def code(error):
    return error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]


def refused(call, **kw):
    """(code, status) of the refusal of CALL."""
    with pytest.raises(botocore.exceptions.ClientError) as e:
        call(**kw)
    return code(e)


# ---- buckets ----

def test_buckets(a, b, region):
    assert a.create_bucket(Bucket="bucket-one")["Location"] == "/bucket-one"
    assert b.head_bucket(Bucket="bucket-one")["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert "bucket-one" in [x["Name"] for x in b.list_buckets()["Buckets"]]
    assert b.get_bucket_location(Bucket="bucket-one")["LocationConstraint"] == region.json["region"]
    assert refused(b.create_bucket, Bucket="bucket-one") == ("BucketAlreadyOwnedByYou", 409)
    a.put_object(Bucket="bucket-one", Key="k", Body=b"x")
    assert refused(b.delete_bucket, Bucket="bucket-one") == ("BucketNotEmpty", 409)
    b.delete_object(Bucket="bucket-one", Key="k")
    a.delete_bucket(Bucket="bucket-one")
    assert refused(b.head_bucket, Bucket="bucket-one") == ("404", 404)
    assert refused(b.list_objects_v2, Bucket="bucket-one") == ("NoSuchBucket", 404)
    assert refused(a.delete_bucket, Bucket="bucket-one") == ("NoSuchBucket", 404)
    b.create_bucket(Bucket="bucket-one", CreateBucketConfiguration={"LocationConstraint": "eu-paris"})
    assert "Contents" not in a.list_objects_v2(Bucket="bucket-one")
    a.delete_bucket(Bucket="bucket-one")


@pytest.mark.parametrize("name", ["UPPER", "ab", "a..b", "192.168.1.1", "-dash", "under_score", "x" * 64])
def test_bucket_names_that_are_refused(region, name):
    from lib.s3raw import S3, error_code
    status, _, body = S3.of(region, "a").request("PUT", "/" + name)
    assert (status, error_code(body)) == (400, "InvalidBucketName")


# ---- objects ----

@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 3 * MIB + 12345])
def test_round_trip(a, b, bucket, size):
    body = random.Random(size).randbytes(size)
    for write, read in ((a, b), (b, a)):
        key = f"round/{size}"
        put = write.put_object(Bucket=bucket, Key=key, Body=body)
        assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
        assert put["ResponseMetadata"]["HTTPHeaders"]["x-nef-durability"] == "2/2"
        got = read.get_object(Bucket=bucket, Key=key)
        assert got["Body"].read() == body
        assert got["ETag"] == put["ETag"]
        assert got["ContentLength"] == size
        head = read.head_object(Bucket=bucket, Key=key)
        assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"])
        age = datetime.datetime.now(datetime.timezone.utc) - head["LastModified"]
        assert abs(age.total_seconds()) < 60
        read.delete_object(Bucket=bucket, Key=key)
        assert refused(write.get_object, Bucket=bucket, Key=key) == ("NoSuchKey", 404)
        assert refused(write.head_object, Bucket=bucket, Key=key) == ("404", 404)
        write.delete_object(Bucket=bucket, Key=key)  # deleting nothing succeeds


def test_odd_keys(a, b, fresh):
    for n, key in enumerate(ODD_KEYS):
        writer = (a, b)[n % 2]
        writer.put_object(Bucket=fresh, Key=key, Body=key.encode())
    for key in ODD_KEYS:
        for reader in (a, b):
            assert reader.get_object(Bucket=fresh, Key=key)["Body"].read() == key.encode()
    for reader in (a, b):
        listed = [o["Key"] for o in reader.list_objects_v2(Bucket=fresh)["Contents"]]
        assert listed == sorted(ODD_KEYS, key=lambda k: k.encode())
        page = reader.list_objects(Bucket=fresh, MaxKeys=7)
        assert page["IsTruncated"] and len(page["Contents"]) == 7
    assert refused(a.put_object, Bucket=fresh, Key="y" * 1025, Body=b"") == ("KeyTooLongError", 400)
    left = b.delete_objects(Bucket=fresh, Delete={"Objects": [
        {"Key": k} for k in ODD_KEYS if not any(ord(c) < 32 for c in k)]})
    assert "Errors" not in left
    for key in ODD_KEYS:
        b.delete_object(Bucket=fresh, Key=key)


def test_metadata(a, b, bucket):
    expires = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    a.put_object(Bucket=bucket, Key="meta", Body=b"x", ContentType="text/x-ship; charset=utf-8",
                 CacheControl="max-age=3", ContentDisposition='attachment; filename="a b"',
                 ContentEncoding="gzip", ContentLanguage="fr", Expires=expires,
                 Metadata={"one": "1", "two-words": "zwei Worte"})
    for reader in (a, b):
        for got in (reader.get_object(Bucket=bucket, Key="meta"), reader.head_object(Bucket=bucket, Key="meta")):
            assert got["ContentType"] == "text/x-ship; charset=utf-8"
            assert got["CacheControl"] == "max-age=3"
            assert got["ContentDisposition"] == 'attachment; filename="a b"'
            assert got["ContentEncoding"] == "gzip"
            assert got["ContentLanguage"] == "fr"
            assert got["Expires"] == expires
            assert got["Metadata"] == {"one": "1", "two-words": "zwei Worte"}
    assert refused(a.put_object, Bucket=bucket, Key="meta2", Body=b"", Metadata={"big": "x" * 2100}) == \
        ("MetadataTooLarge", 400)
    got = b.get_object(Bucket=bucket, Key="meta", ResponseContentType="text/plain",
                       ResponseContentDisposition="inline")
    assert (got["ContentType"], got["ContentDisposition"]) == ("text/plain", "inline")


def test_ranges(a, b, bucket):
    body = random.Random(7).randbytes(3 * MIB + 77)
    a.put_object(Bucket=bucket, Key="ranged", Body=body)
    size = len(body)
    for text, first, last in (("0-0", 0, 0), ("0-99", 0, 99), ("5-", 5, size - 1), ("-7", size - 7, size - 1),
                              (f"{MIB - 3}-{MIB + 3}", MIB - 3, MIB + 3), (f"{MIB}-{2 * MIB - 1}", MIB, 2 * MIB - 1),
                              (f"{size - 1}-{size + 500}", size - 1, size - 1), (f"-{size * 2}", 0, size - 1)):
        for reader in (a, b):
            got = reader.get_object(Bucket=bucket, Key="ranged", Range=f"bytes={text}")
            assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
            assert got["ContentRange"] == f"bytes {first}-{last}/{size}"
            assert got["Body"].read() == body[first:last + 1]
    assert refused(b.get_object, Bucket=bucket, Key="ranged", Range=f"bytes={size}-") == ("InvalidRange", 416)
    whole = b.get_object(Bucket=bucket, Key="ranged", Range="lines=1-2")  # a unit that isn't known is ignored
    assert whole["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_conditional_reads(a, b, bucket):
    etag = a.put_object(Bucket=bucket, Key="cond", Body=b"one")["ETag"]
    when = b.head_object(Bucket=bucket, Key="cond")["LastModified"]
    hour = datetime.timedelta(hours=1)
    good = [{"IfMatch": etag}, {"IfMatch": "*"}, {"IfNoneMatch": '"0"'}, {"IfModifiedSince": when - hour},
            {"IfUnmodifiedSince": when + hour}, {"IfMatch": etag, "IfUnmodifiedSince": when - hour}]
    for reader in (a, b):
        for condition in good:
            assert reader.get_object(Bucket=bucket, Key="cond", **condition)["Body"].read() == b"one"
        for condition in ({"IfNoneMatch": etag}, {"IfModifiedSince": when},
                          {"IfNoneMatch": etag, "IfModifiedSince": when - hour}):
            assert refused(reader.get_object, Bucket=bucket, Key="cond", **condition) == ("304", 304)
        for condition in ({"IfMatch": '"0"'}, {"IfUnmodifiedSince": when - hour}):
            assert refused(reader.get_object, Bucket=bucket, Key="cond", **condition) == \
                ("PreconditionFailed", 412)
            assert refused(reader.head_object, Bucket=bucket, Key="cond", **condition) == ("412", 412)


def with_header(client, operation, **headers):
    """A client method that sends headers which Debian's boto3 doesn't know (If-None-Match on PUT)."""
    def call(**kw):
        def add(request, **_):
            for k, v in headers.items():
                request.headers[k.replace("_", "-")] = v
        client.meta.events.register_first(f"before-sign.s3.{operation}", add)
        try:
            names = {"PutObject": "put_object", "CompleteMultipartUpload": "complete_multipart_upload"}
            return getattr(client, names[operation])(**kw)
        finally:
            client.meta.events.unregister(f"before-sign.s3.{operation}", add)
    return call


def test_conditional_writes(region, bucket):
    a, b = region.boto("a"), region.boto("b")
    absent_a = with_header(a, "PutObject", If_None_Match="*")
    absent_b = with_header(b, "PutObject", If_None_Match="*")
    a.delete_object(Bucket=bucket, Key="lock")
    etag = absent_a(Bucket=bucket, Key="lock", Body=b"first")["ETag"]
    assert refused(absent_b, Bucket=bucket, Key="lock", Body=b"second") == ("PreconditionFailed", 412)
    match = with_header(b, "PutObject", If_Match=etag)
    assert match(Bucket=bucket, Key="lock", Body=b"third")
    assert refused(match, Bucket=bucket, Key="lock", Body=b"fourth") == ("PreconditionFailed", 412)
    assert a.get_object(Bucket=bucket, Key="lock")["Body"].read() == b"third"
    nothing = with_header(a, "PutObject", If_Match='"00000000000000000000000000000000"')
    assert refused(nothing, Bucket=bucket, Key="not-there", Body=b"") == ("NoSuchKey", 404)


@pytest.mark.parametrize("size", [10, 200000], ids=["inline", "data-records"])
def test_conditional_writes_race(region, bucket, size):
    """Of all that race through both zones exactly one wins."""
    from lib.s3raw import S3
    for n in range(8):
        key, statuses = f"/{bucket}/race-{size}-{n}", []
        start = threading.Barrier(6)

        def put(i):
            s3 = S3.of(region, "ab"[i % 2])
            start.wait()
            status, _, _ = s3.request("PUT", key, body=bytes([i]) * size, headers={"If-None-Match": "*"})
            statuses.append((status, i))
        threads = [threading.Thread(target=put, args=(i,)) for i in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        winners = [i for status, i in statuses if status == 200]
        assert len(winners) == 1, statuses
        assert {status for status, _ in statuses} <= {200, 412, 409}, statuses
        for zone in "ab":
            assert S3.of(region, zone).request("GET", key)[2] == bytes(winners) * size


# ---- checksums ----

def crc(polynomial, bits, data):
    table = []
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ (polynomial if c & 1 else 0)
        table.append(c)
    c = mask = (1 << bits) - 1
    for x in data:
        c = table[(c ^ x) & 255] ^ (c >> 8)
    return base64.b64encode((c ^ mask).to_bytes(bits // 8, "big")).decode()


CHECKSUMS = {
    "crc32": lambda d: base64.b64encode(binascii.crc32(d).to_bytes(4, "big")).decode(),
    "crc32c": lambda d: crc(0x82F63B78, 32, d),
    "crc64nvme": lambda d: crc(0x9A6C9329AC4BC9B5, 64, d),
    "sha1": lambda d: base64.b64encode(hashlib.sha1(d).digest()).decode(),
    "sha256": lambda d: base64.b64encode(hashlib.sha256(d).digest()).decode(),
}


def test_checksum_algorithms_known():
    """Check values of the catalogue of CRCs, for our own implementation above."""
    assert base64.b64decode(CHECKSUMS["crc32c"](b"123456789")).hex() == "e3069283"
    assert base64.b64decode(CHECKSUMS["crc64nvme"](b"123456789")).hex() == "ae8b14860a799888"


@pytest.mark.parametrize("kind", CHECKSUMS)
@pytest.mark.parametrize("size", [11, 150000])
def test_checksums(region, bucket, kind, size):
    from lib.s3raw import S3, error_code
    body = random.Random(size).randbytes(size)
    header, value = f"x-amz-checksum-{kind}", CHECKSUMS[kind](body)
    key = f"/{bucket}/sum-{kind}-{size}"
    a, b = S3.of(region, "a"), S3.of(region, "b")
    status, h, answer = a.request("PUT", key, body=body, headers={header: value})
    assert status == 200, answer
    assert h[header] == value
    status, h, got = b.request("GET", key, headers={"x-amz-checksum-mode": "ENABLED"})
    assert (status, got, h.get(header)) == (200, body, value)
    wrong = CHECKSUMS[kind](body + b"!")
    status, _, answer = b.request("PUT", key + "-wrong", body=body, headers={header: wrong})
    assert (status, error_code(answer)) == (400, "BadDigest")
    assert a.request("HEAD", key + "-wrong")[0] == 404
    status, _, answer = a.request("PUT", key + "-wrong", body=body, headers={header: "!!!"})
    assert (status, error_code(answer)) == (400, "InvalidRequest")


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_boto3_sends_checksums_as_trailers_over_https(b, a, bucket, algorithm):
    """Over https boto3 streams with STREAMING-UNSIGNED-PAYLOAD-TRAILER; zone b's listener has TLS."""
    body = os.urandom(300000)
    sent = {}

    def look(request, **_):
        sent.update({k.lower(): v for k, v in request.headers.items()})
    b.meta.events.register("before-send.s3.PutObject", look)
    try:
        put = b.put_object(Bucket=bucket, Key="trailer", Body=io.BytesIO(body), ChecksumAlgorithm=algorithm)
    finally:
        b.meta.events.unregister("before-send.s3.PutObject", look)
    trailer = sent["x-amz-trailer"]
    assert (trailer if isinstance(trailer, str) else trailer.decode()) == f"x-amz-checksum-{algorithm.lower()}"
    want = CHECKSUMS[algorithm.lower()](body)
    assert put[f"Checksum{algorithm}"] == want
    got = a.get_object(Bucket=bucket, Key="trailer", ChecksumMode="ENABLED")
    assert got["Body"].read() == body
    assert got[f"Checksum{algorithm}"] == want
    assert "aws-chunked" not in got.get("ContentEncoding", "")


def test_content_md5(region, bucket):
    from lib.s3raw import S3, error_code
    s3 = S3.of(region, "a")
    good = base64.b64encode(hashlib.md5(b"body").digest()).decode()
    assert s3.request("PUT", f"/{bucket}/md5", body=b"body", headers={"content-md5": good})[0] == 200
    status, _, body = s3.request("PUT", f"/{bucket}/md5x", body=b"other", headers={"content-md5": good})
    assert (status, error_code(body)) == (400, "BadDigest")
    status, _, body = s3.request("PUT", f"/{bucket}/md5x", body=b"other", headers={"content-md5": "bad"})
    assert (status, error_code(body)) == (400, "InvalidDigest")
    assert s3.request("HEAD", f"/{bucket}/md5x")[0] == 404


# ---- multipart ----

def written(region):
    """Bytes that zone a's logs have taken since it was started."""
    return region.metric("a", "nef_log_appended_bytes_total")


def test_multipart(region, a, b, fresh):
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB + 333), b"the end"]
    upload = a.create_multipart_upload(Bucket=fresh, Key="multi", ContentType="x/y", Metadata={"m": "1"})["UploadId"]
    assert [u["UploadId"] for u in b.list_multipart_uploads(Bucket=fresh)["Uploads"]] == [upload]
    assert refused(b.get_object, Bucket=fresh, Key="multi") == ("NoSuchKey", 404)
    etags = {}
    for n, (client, number) in enumerate(((b, 3), (a, 1), (b, 2))):
        etags[number] = client.upload_part(Bucket=fresh, Key="multi", UploadId=upload, PartNumber=number,
                                           Body=parts[number - 1])["ETag"]
    listed = a.list_parts(Bucket=fresh, Key="multi", UploadId=upload)["Parts"]
    assert [(p["PartNumber"], p["Size"], p["ETag"]) for p in listed] == \
        [(n, len(parts[n - 1]), etags[n]) for n in (1, 2, 3)]
    page = b.list_parts(Bucket=fresh, Key="multi", UploadId=upload, MaxParts=1, PartNumberMarker=1)
    assert page["IsTruncated"] and [p["PartNumber"] for p in page["Parts"]] == [2]
    before = written(region)
    done = b.complete_multipart_upload(Bucket=fresh, Key="multi", UploadId=upload, MultipartUpload={
        "Parts": [{"PartNumber": n, "ETag": etags[n]} for n in (1, 2, 3)]})
    digest = hashlib.md5(b"".join(hashlib.md5(p).digest() for p in parts)).hexdigest()
    assert done["ETag"] == f'"{digest}-3"'
    assert 0 < written(region) - before < MIB  # of 10 MiB in parts: complete copies nothing
    whole = b"".join(parts)
    for reader in (a, b):
        got = reader.get_object(Bucket=fresh, Key="multi")
        assert got["Body"].read() == whole
        assert (got["ContentType"], got["Metadata"], got["ETag"]) == ("x/y", {"m": "1"}, done["ETag"])
        edge = 5 * MIB
        part = reader.get_object(Bucket=fresh, Key="multi", Range=f"bytes={edge - 5}-{edge + 5}")
        assert part["Body"].read() == whole[edge - 5:edge + 6]
        second = reader.get_object(Bucket=fresh, Key="multi", PartNumber=2)
        assert second["Body"].read() == parts[1]
        assert second["PartsCount"] == 3
    assert "Uploads" not in a.list_multipart_uploads(Bucket=fresh)
    assert refused(a.list_parts, Bucket=fresh, Key="multi", UploadId=upload) == ("NoSuchUpload", 404)


def test_multipart_refusals(a, b, fresh):
    upload = a.create_multipart_upload(Bucket=fresh, Key="k")["UploadId"]
    one = a.upload_part(Bucket=fresh, Key="k", UploadId=upload, PartNumber=1, Body=b"small")["ETag"]
    two = b.upload_part(Bucket=fresh, Key="k", UploadId=upload, PartNumber=2, Body=b"last")["ETag"]

    def complete(*parts, client=b):
        return refused(client.complete_multipart_upload, Bucket=fresh, Key="k", UploadId=upload,
                       MultipartUpload={"Parts": [{"PartNumber": n, "ETag": e} for n, e in parts]})
    assert complete((1, one), (2, two)) == ("EntityTooSmall", 400)
    assert complete((2, two), (1, one)) == ("InvalidPartOrder", 400)
    assert complete((1, two)) == ("InvalidPart", 400)
    assert complete((7, one)) == ("InvalidPart", 400)
    assert refused(a.upload_part, Bucket=fresh, Key="k", UploadId=upload, PartNumber=10001, Body=b"") == \
        ("InvalidArgument", 400)
    assert refused(a.upload_part, Bucket=fresh, Key="k", UploadId="no-such-upload", PartNumber=1, Body=b"")[1] == 404
    replaced = a.upload_part(Bucket=fresh, Key="k", UploadId=upload, PartNumber=1, Body=b"again")["ETag"]
    assert complete((1, one)) == ("InvalidPart", 400)
    assert replaced != one
    b.abort_multipart_upload(Bucket=fresh, Key="k", UploadId=upload)
    assert refused(a.abort_multipart_upload, Bucket=fresh, Key="k", UploadId=upload) == ("NoSuchUpload", 404)
    assert refused(b.upload_part, Bucket=fresh, Key="k", UploadId=upload, PartNumber=1, Body=b"x") == \
        ("NoSuchUpload", 404)


def test_copy_part_and_list_uploads(a, b, fresh):
    source = os.urandom(6 * MIB)
    a.put_object(Bucket=fresh, Key="source", Body=source)
    ids = {}
    for n in range(3):
        ids[f"up/{n}"] = b.create_multipart_upload(Bucket=fresh, Key=f"up/{n}")["UploadId"]
    ids["other"] = b.create_multipart_upload(Bucket=fresh, Key="other")["UploadId"]
    listed = a.list_multipart_uploads(Bucket=fresh, Delimiter="/")
    assert [u["Key"] for u in listed["Uploads"]] == ["other"]
    assert [p["Prefix"] for p in listed["CommonPrefixes"]] == ["up/"]
    page = a.list_multipart_uploads(Bucket=fresh, Prefix="up/", MaxUploads=2)
    assert page["IsTruncated"] and [u["Key"] for u in page["Uploads"]] == ["up/0", "up/1"]
    rest = a.list_multipart_uploads(Bucket=fresh, Prefix="up/", KeyMarker=page["NextKeyMarker"],
                                    UploadIdMarker=page["NextUploadIdMarker"])
    assert [u["Key"] for u in rest["Uploads"]] == ["up/2"]
    first = a.upload_part_copy(Bucket=fresh, Key="other", UploadId=ids["other"], PartNumber=1,
                               CopySource={"Bucket": fresh, "Key": "source"})["CopyPartResult"]["ETag"]
    second = b.upload_part_copy(Bucket=fresh, Key="other", UploadId=ids["other"], PartNumber=2,
                                CopySource={"Bucket": fresh, "Key": "source"},
                                CopySourceRange="bytes=100-299999")["CopyPartResult"]["ETag"]
    assert first == f'"{hashlib.md5(source).hexdigest()}"'
    a.complete_multipart_upload(Bucket=fresh, Key="other", UploadId=ids["other"], MultipartUpload={
        "Parts": [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]})
    assert b.get_object(Bucket=fresh, Key="other")["Body"].read() == source + source[100:300000]


def test_upload_file_of_boto3(a, b, fresh, tmp_path):
    """The transfer manager, with threads and parts."""
    path, back = tmp_path / "big", tmp_path / "back"
    path.write_bytes(os.urandom(20 * MIB + 7))
    a.upload_file(str(path), fresh, "big")
    b.download_file(fresh, "big", str(back))
    assert back.read_bytes() == path.read_bytes()


# ---- copy ----

def test_copy(a, b, fresh):
    for size in (10, 100000, 2 * MIB + 5):
        body = os.urandom(size)
        a.put_object(Bucket=fresh, Key="from it", Body=body, Metadata={"x": "1"}, ContentType="a/b")
        for n in range(6):  # into several cells
            out = b.copy_object(Bucket=fresh, Key=f"to/{n}", CopySource={"Bucket": fresh, "Key": "from it"})
            assert out["CopyObjectResult"]["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
            got = a.get_object(Bucket=fresh, Key=f"to/{n}")
            assert got["Body"].read() == body
            assert (got["Metadata"], got["ContentType"]) == ({"x": "1"}, "a/b")
    b.copy_object(Bucket=fresh, Key="from it", CopySource={"Bucket": fresh, "Key": "from it"},
                  MetadataDirective="REPLACE", Metadata={"y": "2"}, ContentType="c/d")
    got = a.get_object(Bucket=fresh, Key="from it")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (body, {"y": "2"}, "c/d")
    assert refused(a.copy_object, Bucket=fresh, Key="from it", CopySource={"Bucket": fresh, "Key": "from it"}) == \
        ("InvalidRequest", 400)
    assert refused(a.copy_object, Bucket=fresh, Key="x", CopySource={"Bucket": fresh, "Key": "nothing"}) == \
        ("NoSuchKey", 404)
    assert refused(a.copy_object, Bucket=fresh, Key="x", CopySource={"Bucket": "no-such-bucket", "Key": "k"}) == \
        ("NoSuchBucket", 404)
    assert refused(a.copy_object, Bucket=fresh, Key="x", CopySource={"Bucket": fresh, "Key": "from it"},
                   CopySourceIfNoneMatch=got["ETag"]) == ("PreconditionFailed", 412)
    a.copy_object(Bucket=fresh, Key="x", CopySource={"Bucket": fresh, "Key": "from it"},
                  CopySourceIfMatch=got["ETag"])


# ---- lists ----

def test_lists(a, b, fresh):
    keys = [f"d{i}/e{j}/f{k}" for i in range(3) for j in range(3) for k in range(4)] + ["top1", "top2"]
    for n, key in enumerate(keys):
        (a, b)[n % 2].put_object(Bucket=fresh, Key=key, Body=key.encode())
    for client in (a, b):
        assert [o["Key"] for o in client.list_objects_v2(Bucket=fresh)["Contents"]] == sorted(keys)
        got = client.list_objects_v2(Bucket=fresh, Delimiter="/")
        assert [p["Prefix"] for p in got["CommonPrefixes"]] == ["d0/", "d1/", "d2/"]
        assert [o["Key"] for o in got["Contents"]] == ["top1", "top2"]
        got = client.list_objects_v2(Bucket=fresh, Prefix="d1/", Delimiter="/")
        assert [p["Prefix"] for p in got["CommonPrefixes"]] == ["d1/e0/", "d1/e1/", "d1/e2/"]
        assert "Contents" not in got
        got = client.list_objects_v2(Bucket=fresh, StartAfter="d2/e2/f1")
        assert [o["Key"] for o in got["Contents"]] == ["d2/e2/f2", "d2/e2/f3", "top1", "top2"]
        for size in (1, 2, 5, 1000):
            for delimiter in ("", "/"):
                seen, token, other = [], {}, (a, b)
                turn = 0
                while True:  # pages by turns from both zones
                    page = other[turn % 2].list_objects_v2(Bucket=fresh, MaxKeys=size, Delimiter=delimiter, **token)
                    turn += 1
                    assert page["KeyCount"] <= size
                    seen += [o["Key"] for o in page.get("Contents", [])]
                    seen += [p["Prefix"] for p in page.get("CommonPrefixes", [])]
                    if not page["IsTruncated"]:
                        break
                    token = {"ContinuationToken": page["NextContinuationToken"]}
                want = sorted(keys) if not delimiter else ["d0/", "d1/", "d2/", "top1", "top2"]
                assert sorted(seen) == want and len(seen) == len(want)
        marker, seen = "", []
        while True:
            page = client.list_objects(Bucket=fresh, MaxKeys=7, Marker=marker)
            seen += [o["Key"] for o in page["Contents"]]
            if not page["IsTruncated"]:
                break
            marker = page["Contents"][-1]["Key"]
        assert seen == sorted(keys)
        versions = client.list_object_versions(Bucket=fresh, Prefix="top")["Versions"]
        assert [(v["Key"], v["VersionId"], v["IsLatest"]) for v in versions] == \
            [("top1", "null", True), ("top2", "null", True)]
        assert "Contents" not in client.list_objects_v2(Bucket=fresh, MaxKeys=0)
        one = client.list_objects_v2(Bucket=fresh, Prefix="top1", FetchOwner=True)["Contents"][0]
        assert (one["Size"], one["ETag"]) == (4, f'"{hashlib.md5(b"top1").hexdigest()}"')
    assert refused(a.list_objects_v2, Bucket=fresh, ContinuationToken="made up")[1] == 400


def test_multi_delete(a, b, fresh):
    for n in range(30):
        a.put_object(Bucket=fresh, Key=f"k{n:02}", Body=b"x")
    out = b.delete_objects(Bucket=fresh, Delete={"Objects": [{"Key": f"k{n:02}"} for n in range(0, 40, 2)]})
    assert sorted(d["Key"] for d in out["Deleted"]) == [f"k{n:02}" for n in range(0, 40, 2)]
    assert [o["Key"] for o in a.list_objects_v2(Bucket=fresh)["Contents"]] == [f"k{n:02}" for n in range(1, 30, 2)]
    out = a.delete_objects(Bucket=fresh, Delete={"Quiet": True, "Objects": [{"Key": "k01"}]})
    assert "Deleted" not in out and "Errors" not in out
    assert refused(a.delete_objects, Bucket=fresh, Delete={"Objects": []}) == ("MalformedXML", 400)


# ---- refusals ----

def test_wrong_credentials(region):
    s3 = region.boto("a", access_key="NOSUCHKEY", secret_key="x")
    assert refused(s3.list_buckets) == ("InvalidAccessKeyId", 403)
    s3 = region.boto("b", secret_key="wrong")
    assert refused(s3.list_buckets) == ("SignatureDoesNotMatch", 403)
    from botocore import UNSIGNED
    s3 = region.boto("a", signature_version=UNSIGNED)
    assert refused(s3.list_buckets) == ("AccessDenied", 403)
    from lib.s3raw import S3, error_code
    other = S3.of(region, "a")
    other.region = "us-east-7"
    status, _, body = other.request("GET", "/")
    assert (status, error_code(body)) == (400, "AuthorizationHeaderMalformed")
    assert f"<Region>{region.json['region']}</Region>" in body.decode()  # SDKs follow that


def test_what_is_not_built_says_so(a, b, bucket):
    for call, kw in ((a.get_bucket_acl, {}), (b.get_bucket_policy, {}), (a.get_bucket_lifecycle_configuration, {}),
                     (a.get_bucket_cors, {}), (b.get_object_retention, {"Key": "k"}),
                     (a.put_bucket_versioning, {"VersioningConfiguration": {"Status": "Enabled"}}),
                     (a.get_object_acl, {"Key": "k"}), (b.get_object_attributes, {"Key": "k",
                                                                                  "ObjectAttributes": ["ETag"]})):
        assert refused(call, Bucket=bucket, **kw) == ("NotImplemented", 501)
    assert refused(a.put_object, Bucket=bucket, Key="sse", Body=b"", ServerSideEncryption="aws:kms",
                   SSEKMSKeyId="k")[1] in (400, 501)
    assert "Status" not in a.get_bucket_versioning(Bucket=bucket)


def test_keys_and_requests_of_no_bucket(a, bucket):
    assert refused(a.get_object, Bucket="not-a-bucket", Key="k") == ("NoSuchBucket", 404)
    assert refused(a.put_object, Bucket="not-a-bucket", Key="k", Body=b"x") == ("NoSuchBucket", 404)
    with pytest.raises(botocore.exceptions.ClientError) as e:
        a.get_object(Bucket=bucket, Key="no such key")
    assert e.value.response["Error"]["Key"] == "no such key"
    assert len(e.value.response["ResponseMetadata"]["RequestId"]) == 16


# ---- through the front ----

def test_through_the_front(region, bucket):
    s3 = region.boto()
    for n in range(20):
        s3.put_object(Bucket=bucket, Key="front", Body=b"%d" % n)
        for client in (s3, region.boto("a"), region.boto("b")):
            assert client.get_object(Bucket=bucket, Key="front")["Body"].read() == b"%d" % n


def test_presigned_urls_of_boto3(region, bucket):
    import subprocess
    for zone in (None, "a", "b"):
        s3 = region.boto(zone, signature_version="s3v4")
        url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "pre signed+"})
        ca = ["--cacert", region.json["ca"]]
        out = subprocess.run(["curl", "-sS", "-f", *ca, "-X", "PUT", "--data-binary", "by curl", url],
                             capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "pre signed+"})
        assert subprocess.run(["curl", "-sS", "-f", *ca, url], capture_output=True, text=True).stdout == "by curl"
        tampered = url.replace("pre%20signed", "pre%20sighed")
        assert tampered != url
        out = subprocess.run(["curl", "-sS", *ca, "-w", "%{http_code}", tampered], capture_output=True, text=True)
        assert out.stdout.endswith("403") and "SignatureDoesNotMatch" in out.stdout
