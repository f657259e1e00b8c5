"""Requests that run while something ends: an upload through a failover, a bucket that goes away. See FAULTS.md."""
import hashlib
import json
import os
import random
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import pytest
from lib.load import Load, body_of
from lib.region import wait_for
from lib.s3raw import S3, error_code
from test_faults_zone import settle

PART = 5 << 20


class Slow:
    """A body that is sent in pieces, with a pause at the middle in which the fault happens."""

    def __init__(self, data, fault):
        self.data, self.fault, self.at = data, fault, 0

    def __iter__(self):
        step = 1 << 18
        middle = len(self.data) // 2 // step * step
        for at in range(0, len(self.data), step):
            if at == middle:
                self.fault()
            yield self.data[at:at + step]


@pytest.mark.parametrize("how", ["--kill", "--pause"])
def test_upload_through_a_failover(faulty, how):
    """A PUT and a part that are half sent when the primary is lost end well, through the other zone."""
    data = os.urandom(6 << 20)
    with Load(faulty, clients=3, large=False) as load:
        load.wait_successes(20)
        s3 = S3.of(faulty, "b", timeout=20)
        boto = faulty.boto("b", timeout=20)
        upload = boto.create_multipart_upload(Bucket="load", Key="multi")["UploadId"]
        boto.upload_part(Bucket="load", Key="multi", UploadId=upload, PartNumber=1, Body=data[:PART])

        def lose():
            faulty.stop_zone("a", how)
        length = {"Content-Length": str(len(data))}
        status, headers, body = s3.request("PUT", "/load/failover", body=iter(Slow(data, lose)),
                                           headers=length)
        assert status == 200, body
        assert headers["etag"].strip('"') == hashlib.md5(data).hexdigest()
        etags = [boto.list_parts(Bucket="load", Key="multi", UploadId=upload)["Parts"][0]["ETag"]]
        faulty.start_zone("a")
        faulty.wait_durability("2/2", 40)
        faulty.handover("a")
        status, headers, body = s3.request(
            "PUT", "/load/multi", {"partNumber": 2, "uploadId": upload}, iter(Slow(data, lose)), length)
        assert status == 200, body
        etags.append(headers["etag"])
        boto.complete_multipart_upload(
            Bucket="load", Key="multi", UploadId=upload, MultipartUpload={
                "Parts": [{"PartNumber": n + 1, "ETag": e} for n, e in enumerate(etags)]})
        faulty.start_zone("a")
        settle(faulty, load)
    for zone in ("a", "b"):
        assert S3.of(faulty, zone).request("GET", "/load/failover")[2] == data
        assert S3.of(faulty, zone).request("GET", "/load/multi")[2] == data[:PART] + data


def test_bucket_deleted_while_a_put_runs(faulty):
    """Either the put is answered and the bucket stays, or the bucket goes and the put is refused: never a 200 for an
    object in a bucket that was deleted, nor a bucket that comes back."""
    seen = set()
    for round_ in range(24):
        bucket = f"going-{os.getpid()}-{round_}"
        assert S3.of(faulty, "a").request("PUT", f"/{bucket}")[0] == 200
        body = body_of(f"value-{round_}", 100 if round_ % 2 else 300000)
        answers = {}

        rng = random.Random(round_)

        def put(zone, delay):
            time.sleep(delay)
            answers[zone] = S3.of(faulty, zone).request("PUT", f"/{bucket}/key", body=body)

        def delete():
            time.sleep(0.003)
            answers["delete"] = S3.of(faulty, "b").request("DELETE", f"/{bucket}")
        threads = [threading.Thread(target=put, args=(z, rng.uniform(0, 0.009)))
                   for z in ("a", "b")]
        threads.append(threading.Thread(target=delete))
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        deleted = answers["delete"][0]
        puts = [answers[z][0] for z in ("a", "b")]
        seen.add((deleted, tuple(sorted(puts))))
        assert deleted in (204, 409), answers["delete"]
        codes = [error_code(answers[z][2]) for z in ("a", "b") if answers[z][0] != 200]
        assert set(codes) <= {"NoSuchBucket", "OperationAborted"}, answers
        for zone in ("a", "b"):
            s3 = S3.of(faulty, zone)
            if deleted == 204:
                assert 200 not in puts, answers
                assert error_code(s3.request("GET", f"/{bucket}/key")[2]) == "NoSuchBucket"
            else:
                assert s3.request("HEAD", f"/{bucket}")[0] == 200
                if 200 in puts:
                    assert s3.request("GET", f"/{bucket}/key")[2] == body
        if deleted == 409 and 200 not in puts:  # refused by one that then failed: it can be deleted now
            assert S3.of(faulty, "a").request("DELETE", f"/{bucket}")[0] == 204
    assert len(seen) > 1, f"only one outcome: {seen}"


def test_bucket_deleted_while_an_upload_runs_through_a_failover(faulty):
    """The delete is half done in some cells when the primary dies: the bucket is whole, or it is gone."""
    for round_ in range(3):
        bucket = f"half-{os.getpid()}-{round_}"
        assert S3.of(faulty, "b").request("PUT", f"/{bucket}")[0] == 200
        answers = {}

        def delete():
            answers["delete"] = S3.of(faulty, "b", timeout=15).request("DELETE", f"/{bucket}")[0]
        t = threading.Thread(target=delete)
        t.start()
        time.sleep(0.002 * round_)
        faulty.kill("zone-a")
        t.join()
        faulty.up()
        faulty.wait_durability("2/2", 40)
        assert answers["delete"] in (204, 409, 503), answers
        states = [S3.of(faulty, z).request("HEAD", f"/{bucket}")[0] for z in ("a", "b")]
        assert states[0] == states[1]
        if answers["delete"] == 204:
            assert states[0] == 404
        if states[0] == 200:  # all cells must take a put again, or the bucket can be deleted now
            def usable():
                return all(S3.of(faulty, "a").request("PUT", f"/{bucket}/k{n}", body=b"x")[0] == 200
                           for n in range(16))
            wait_for(usable, 20)
        faulty.handover("a")


def test_bucket_that_requires_both_zones(faulty):
    """x-nef-require-durability: such a bucket refuses writes while a zone is away, and says durability in answers."""
    s3 = S3.of(faulty, "a")
    assert s3.request("PUT", "/both", headers={"x-nef-require-durability": "2/2"})[0] == 200
    assert s3.request("PUT", "/one")[0] == 200
    assert s3.request("PUT", "/both/k", body=b"x")[1]["x-nef-durability"] == "2/2"
    faulty.stop_zone("b", "--kill")
    wait_for(lambda: faulty.durability() == "1/2", 10)
    status, _, body = s3.request("PUT", "/both/k", body=b"y")
    assert (status, error_code(body)) == (503, "ServiceUnavailable")
    assert b"2/2" in body or b"zone" in body
    assert s3.request("PUT", "/one/k", body=b"x")[1]["x-nef-durability"] == "1/2"
    assert s3.request("GET", "/both/k")[2] == b"x"
    faulty.start_zone("b")
    faulty.wait_durability("2/2", 40)
    assert s3.request("PUT", "/both/k", body=b"z")[0] == 200
    assert S3.of(faulty, "b").request("GET", "/both/k")[2] == b"z"


def test_one_user_is_made_in_both_zones_at_once(faulty):
    """The same name is asked for in both zones at the same moment, by the admin API and by the command, also while the
    primary moves: one gets it, all others are told 409; the one secret that was given works in both zones."""
    assert S3.of(faulty).request("PUT", "/users-bucket")[0] in (200, 409)

    def by_api(zone, name, barrier):
        barrier.wait()
        try:
            return 201, json.loads(faulty.admin(zone, "/users", "POST", json.dumps({"name": name}).encode(), 15))
        except urllib.error.HTTPError as e:
            return e.code, e.read()

    def by_command(zone, name, barrier):
        token = faulty.path("secrets", "admin.token")
        barrier.wait()
        r = faulty.nef("user", "add", name, "--endpoint", faulty.zone(zone)["admin"], "--token-file", token,
                       check=False)
        assert r.returncode == 0 or "exists" in r.stderr, (r.stdout, r.stderr)
        return (201, None) if r.returncode == 0 else (409, None)

    for n in range(6):
        name = f"twice-{os.urandom(4).hex()}"
        asked = [(by_command if n == 5 else by_api, zone) for zone in ("a", "b") for _ in range(3)]
        barrier = threading.Barrier(len(asked))
        with ThreadPoolExecutor(len(asked) + 1) as pool:
            answers = [pool.submit(how, zone, name, barrier) for how, zone in asked]
            if n == 4:
                pool.submit(faulty.handover, "b" if faulty.primary() == "a" else "a").result()
            answers = [a.result() for a in answers]
        codes = sorted(code for code, _ in answers)
        assert codes == [201] + [409] * (len(asked) - 1), answers
        lists = [json.loads(faulty.admin(z, "/users"))["users"] for z in ("a", "b")]
        keys = [[u["access_key"] for u in users if u["name"] == name] for users in lists]
        assert keys[0] == keys[1] and len(keys[0]) == 1, keys
        made = next((user for code, user in answers if code == 201), None)
        for zone in ("a", "b") if made else ():
            assert made["access_key"] == keys[0][0]
            client = faulty.boto(zone, access_key=made["access_key"], secret_key=made["secret_key"])
            client.put_object(Bucket="users-bucket", Key=name, Body=b"x")
