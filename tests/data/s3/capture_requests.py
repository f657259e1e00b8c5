#!/usr/bin/env python3
"""Prints requests as botocore signs them, caught before they are sent.

Run it with the Python whose botocore is wanted; the header in the tree holds the requests of Debian's botocore
(which sends no trailers) and of a later one:

    /usr/bin/python3 capture_requests.py old > signed_old.inc
    python3 -m pip install boto3 && python3 capture_requests.py new > signed_new.inc

Nothing is contacted. The credentials are Amazon's published examples.
"""
import io
import sys
from urllib.parse import urlsplit

import botocore
import botocore.session
from botocore.awsrequest import AWSResponse
from botocore.config import Config

ACCESS = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
REGION = "eu-paris"


class Raw(io.BytesIO):
    def stream(self, **_):
        yield b""


def c_text(data):
    if isinstance(data, str):
        data = data.encode("utf-8")
    out, after_hex = '"', False
    for byte in data:
        ch = chr(byte)
        if byte in (0x22, 0x5C):
            out += "\\" + ch
        elif 0x20 <= byte < 0x7F:
            out += ('""' if after_hex and ch in "0123456789abcdefABCDEF" else "") + ch
        else:
            out += "\\x%02x" % byte
            after_hex = True
            continue
        after_hex = False
    return out + '"'


def main():
    prefix = sys.argv[1]
    caught = []

    def catch(request, **_):
        caught.append(request)
        return AWSResponse(request.url, 200, {}, Raw(b""))

    session = botocore.session.get_session()

    def client(**config):
        c = session.create_client("s3", region_name=REGION, endpoint_url="https://127.0.0.1:9000",
                                  aws_access_key_id=ACCESS, aws_secret_access_key=SECRET,
                                  config=Config(s3={"addressing_style": "path"}, **config))
        c.meta.events.register("before-send.s3", catch)
        return c

    c = client()
    strange = "a b+c%d/é~(1)!*'&=?#;:@$,/x//y"
    calls = [
        ("list_buckets", lambda: c.list_buckets()),
        ("create_bucket", lambda: c.create_bucket(
            Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})),
        ("put_text", lambda: c.put_object(
            Bucket="bucket", Key=strange, Body=b"hello, world",
            Metadata={"Color": "light   blue", "n": "1"}, ContentType="text/plain; charset=utf-8",
            CacheControl="no-cache", IfNoneMatch="*") if "new" == prefix else c.put_object(
            Bucket="bucket", Key=strange, Body=b"hello, world",
            Metadata={"Color": "light   blue", "n": "1"}, ContentType="text/plain; charset=utf-8",
            CacheControl="no-cache")),
        ("put_stream", lambda: c.put_object(Bucket="bucket", Key="stream", Body=io.BytesIO(b"x" * 3000),
                                            ChecksumAlgorithm="CRC32")),
        ("put_stream_sha256", lambda: c.put_object(Bucket="bucket", Key="stream", Body=io.BytesIO(b"y" * 100),
                                                   ChecksumAlgorithm="SHA256")),
        ("put_empty", lambda: c.put_object(Bucket="bucket", Key="empty", Body=b"")),
        ("get_range", lambda: c.get_object(Bucket="bucket", Key=strange, Range="bytes=0-9")),
        ("head", lambda: c.head_object(Bucket="bucket", Key="k", PartNumber=1)),
        ("copy", lambda: c.copy_object(Bucket="bucket", Key="to", CopySource={"Bucket": "other", "Key": strange},
                                       MetadataDirective="REPLACE")),
        ("list_v2", lambda: c.list_objects_v2(Bucket="bucket", Prefix="a b+c/é", Delimiter="/", MaxKeys=7,
                                              StartAfter="x&y=z")),
        ("list_v1", lambda: c.list_objects(Bucket="bucket", Marker="m")),
        ("delete_objects", lambda: c.delete_objects(
            Bucket="bucket", Delete={"Objects": [{"Key": "a&b"}, {"Key": "c"}], "Quiet": True})),
        ("create_upload", lambda: c.create_multipart_upload(Bucket="bucket", Key="big", ChecksumAlgorithm="CRC32C")),
        ("upload_part", lambda: c.upload_part(Bucket="bucket", Key="big", UploadId="AAAAAAAAAAAAAAAAAAAAAQ",
                                              PartNumber=3, Body=b"p" * 10)),
        ("part_copy", lambda: c.upload_part_copy(
            Bucket="bucket", Key="big", UploadId="AAAAAAAAAAAAAAAAAAAAAQ", PartNumber=4,
            CopySource="other/key", CopySourceRange="bytes=5-9")),
        ("complete", lambda: c.complete_multipart_upload(
            Bucket="bucket", Key="big", UploadId="AAAAAAAAAAAAAAAAAAAAAQ",
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": '"d41d8cd98f00b204e9800998ecf8427e"'}]})),
        ("get_acl", lambda: c.get_bucket_acl(Bucket="bucket")),
        ("delete", lambda: c.delete_object(Bucket="bucket", Key=strange)),
    ]
    for name, call in calls:
        before = len(caught)
        try:
            call()
        except Exception as problem:  # the empty answer means nothing to some operations
            if len(caught) == before:
                print("not caught: %s: %s" % (name, problem), file=sys.stderr)
        del caught[before + 1:]
        if len(caught) > before:
            caught[before].name = name

    print("/* Made by capture_requests.py with botocore %s; don't edit. */" % botocore.__version__)
    for request in caught:
        url = urlsplit(request.url)
        target = url.path + ("?" + url.query if url.query else "")
        body = request.body or b""
        if hasattr(body, "read"):
            body = body.read()
        elif isinstance(body, str):
            body = body.encode()
        headers = [(k, v if isinstance(v, str) else v.decode("latin-1")) for k, v in request.headers.items()]
        if not any(k.lower() == "host" for k, _ in headers):
            headers.append(("Host", url.netloc))
        print("{%s, %s, %s," % (c_text(prefix + "_" + request.name), c_text(request.method), c_text(target)))
        print(" {")
        for k, v in headers:
            if k.lower() != "user-agent":
                print("     {%s, %s}," % (c_text(k), c_text(v)))
        print(" },\n %d, %s, %d}," % (sum(k.lower() != "user-agent" for k, _ in headers), c_text(body), len(body)))
    signed = session.create_client("s3", region_name=REGION, endpoint_url="http://127.0.0.1:9000",
                                   aws_access_key_id=ACCESS, aws_secret_access_key=SECRET,
                                   config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"))
    for name, method, params in [
            ("get", "get_object", {"Bucket": "bucket", "Key": strange,
                                   "ResponseContentDisposition": 'attachment; filename="a b.txt"'}),
            ("put", "put_object", {"Bucket": "bucket", "Key": "k", "ContentType": "text/plain"})]:
        url = urlsplit(signed.generate_presigned_url(method, params, ExpiresIn=3600))
        headers = [("Host", url.netloc)]
        if name == "put":
            headers += [("Content-Type", "text/plain"), ("Content-Length", "0")]
        print("{%s, %s, %s, {" % (c_text(prefix + "_presigned_" + name), c_text(name.upper()),
                                  c_text(url.path + "?" + url.query)))
        for k, v in headers:
            print("     {%s, %s}," % (c_text(k), c_text(v)))
        print(" }, %d, \"\", 0}," % len(headers))


main()
