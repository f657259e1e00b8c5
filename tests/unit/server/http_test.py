"""The HTTP side of a zone against real clients' requests: listeners, S3 service, admin listener.

    http_test.py PATH-OF-fake_zone

Each test gets a zone of its own over tests/unit/server/fake_runtime.c. Raw requests (class Raw) are signed
here, so that what boto3 never sends can be sent too.
"""
import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import zlib

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

PROGRAM = None
REGION = 'eu-paris'
EMPTY = hashlib.sha256(b'').hexdigest()


class Zone:
    def __init__(self, *options):
        self.dir = tempfile.mkdtemp(prefix='nef-http-')
        self.options = options
        self.start()

    def start(self):
        self.log = open(os.path.join(self.dir, 'log'), 'ab')
        self.process = subprocess.Popen([PROGRAM, self.dir, *self.options], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(open(os.path.join(self.dir, 'log')).read())
        self.info = json.loads(line)
        self.port = self.info['s3']

    def client(self, access=None, secret=None, **config):
        return boto3.client('s3', endpoint_url=f'http://127.0.0.1:{self.port}', region_name=REGION,
                            aws_access_key_id=access or self.info['access_key'],
                            aws_secret_access_key=secret or self.info['secret_key'],
                            config=Config(s3={'addressing_style': 'path'}, retries={'max_attempts': 0},
                                          **config))

    def tell(self, command):
        self.process.stdin.write(command + '\n')
        self.process.stdin.flush()
        time.sleep(0.1)

    def streams(self):
        self.tell('streams')
        return int(self.process.stdout.readline())

    def admin(self, method, path, body=None, token=None):
        c = http.client.HTTPConnection('127.0.0.1', self.info['admin'], timeout=10)
        headers = {}
        if token is not False:
            headers['Authorization'] = 'Bearer ' + (token or self.info['token'])
        c.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
        answer = c.getresponse()
        return answer.status, answer.read().decode()

    def stop(self):
        self.process.stdin.close()
        status = self.process.wait(20)
        self.process.stdout.close()
        self.log.close()
        return status

    def close(self):
        status = self.stop()
        with open(os.path.join(self.dir, 'log')) as f:
            text = f.read()
        shutil.rmtree(self.dir)
        if status != 0:
            raise RuntimeError(f'exit status {status}: {text[-2000:]}')


class Raw:
    """Signed requests, byte by byte."""

    def __init__(self, zone, access=None, secret=None):
        self.zone = zone
        self.access = access or zone.info['access_key']
        self.secret = secret or zone.info['secret_key']

    def key(self, date):
        k = ('AWS4' + self.secret).encode()
        for part in (date, REGION, 's3', 'aws4_request'):
            k = hmac.new(k, part.encode(), hashlib.sha256).digest()
        return k

    def sign(self, method, target, headers, payload_hash):
        now = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())
        path, _, query = target.partition('?')
        headers = dict(headers)
        headers['Host'] = f'127.0.0.1:{self.zone.port}'
        headers['x-amz-date'] = now
        headers['x-amz-content-sha256'] = payload_hash
        names = sorted(h.lower() for h in headers if h.lower() not in ('content-length', 'expect',
                                                                      'transfer-encoding'))
        values = {h.lower(): v.strip() for h, v in headers.items()}
        pairs = sorted(tuple(p.partition('=')[::2]) for p in query.split('&')) if query else []
        canonical = '\n'.join([method, path, '&'.join(f'{a}={b}' for a, b in pairs),
                               ''.join(f'{n}:{values[n]}\n' for n in names), ';'.join(names),
                               payload_hash])
        scope = f'{now[:8]}/{REGION}/s3/aws4_request'
        text = '\n'.join(['AWS4-HMAC-SHA256', now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        signature = hmac.new(self.key(now[:8]), text.encode(), hashlib.sha256).hexdigest()
        headers['Authorization'] = (f'AWS4-HMAC-SHA256 Credential={self.access}/{scope},'
                                    f'SignedHeaders={";".join(names)},Signature={signature}')
        return headers, now, scope, signature

    def head(self, method, target, headers, payload_hash='UNSIGNED-PAYLOAD'):
        headers = self.sign(method, target, headers, payload_hash)[0]
        return (f'{method} {target} HTTP/1.1\r\n' +
                ''.join(f'{n}: {v}\r\n' for n, v in headers.items()) + '\r\n').encode()

    def request(self, method, target, body=b'', headers=None, payload_hash='UNSIGNED-PAYLOAD'):
        headers = dict(headers or {})
        if body or method in ('PUT', 'POST'):
            headers.setdefault('Content-Length', str(len(body)))
        with socket.create_connection(('127.0.0.1', self.zone.port), timeout=20) as s:
            s.sendall(self.head(method, target, headers, payload_hash))
            s.sendall(body)
            answer = http.client.HTTPResponse(s, method=method)
            answer.begin()
            return answer, answer.read()

    def chunked(self, target, data, chunk=8192, trailer=None, spoil=False, signed=True, headers=None):
        """PUT with aws-chunked."""
        kind = ('STREAMING-AWS4-HMAC-SHA256-PAYLOAD' if signed else 'STREAMING-UNSIGNED-PAYLOAD')
        h = {'x-amz-decoded-content-length': str(len(data)), 'Content-Encoding': 'aws-chunked'}
        h.update(headers or {})
        if trailer:
            kind += '-TRAILER'
            h['x-amz-trailer'] = trailer[0]
        h, now, scope, previous = self.sign('PUT', target, h, kind)
        body = b''
        k = self.key(now[:8])
        for at in list(range(0, len(data), chunk)) + [len(data)]:
            piece = data[at:at + chunk]
            text = '\n'.join(['AWS4-HMAC-SHA256-PAYLOAD', now, scope, previous, EMPTY,
                              hashlib.sha256(piece).hexdigest()])
            previous = hmac.new(k, text.encode(), hashlib.sha256).hexdigest()
            if spoil and at == 0:
                piece = bytes([piece[0] ^ 1]) + piece[1:]
            line = f'{len(piece):x};chunk-signature={previous}' if signed else f'{len(piece):x}'
            body += line.encode() + b'\r\n'
            if piece:
                body += piece + b'\r\n'
        if trailer:
            line = f'{trailer[0]}:{trailer[1]}'
            body += line.encode() + b'\r\n'
            if signed:
                text = '\n'.join(['AWS4-HMAC-SHA256-TRAILER', now, scope, previous,
                                  hashlib.sha256((line + '\n').encode()).hexdigest()])
                previous = hmac.new(k, text.encode(), hashlib.sha256).hexdigest()
                body += f'x-amz-trailer-signature:{previous}\r\n'.encode()
        body += b'\r\n'
        h['Content-Length'] = str(len(body))
        with socket.create_connection(('127.0.0.1', self.zone.port), timeout=20) as s:
            s.sendall((f'PUT {target} HTTP/1.1\r\n' + ''.join(f'{n}: {v}\r\n' for n, v in h.items()) +
                       '\r\n').encode())
            s.sendall(body)
            answer = http.client.HTTPResponse(s, method='PUT')
            answer.begin()
            return answer, answer.read()


def code_of(error):
    return error.exception.response['Error']['Code']


def status_of(error):
    return error.exception.response['ResponseMetadata']['HTTPStatusCode']


def random_bytes(n):
    return os.urandom(n)


class Base(unittest.TestCase):
    options = ()

    def setUp(self):
        self.zone = Zone(*self.options)
        self.addCleanup(self.zone.close)
        self.s3 = self.zone.client()
        self.raw = Raw(self.zone)

    def bucket(self, name='first-bucket'):
        self.s3.create_bucket(Bucket=name, CreateBucketConfiguration={'LocationConstraint': REGION})
        return name

    def get(self, bucket, key, **more):
        return self.s3.get_object(Bucket=bucket, Key=key, **more)['Body'].read()


class Objects(Base):
    def test_sizes_around_every_border(self):
        b = self.bucket()
        for size in (0, 1, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20), 5000001):
            data = random_bytes(size)
            etag = self.s3.put_object(Bucket=b, Key=f'k{size}', Body=data)['ETag']
            self.assertEqual(etag, '"%s"' % hashlib.md5(data).hexdigest())
            self.assertEqual(self.get(b, f'k{size}'), data)
            head = self.s3.head_object(Bucket=b, Key=f'k{size}')
            self.assertEqual((head['ContentLength'], head['ETag']), (size, etag))

    def test_survives_a_restart(self):
        b = self.bucket()
        data = random_bytes(3 << 20)
        self.s3.put_object(Bucket=b, Key='big', Body=data)
        self.s3.put_object(Bucket=b, Key='small', Body=b'small')
        self.assertEqual(self.zone.stop(), 0)
        self.zone.start()
        self.s3 = self.zone.client()
        self.assertEqual(self.get(b, 'big'), data)
        self.assertEqual(self.get(b, 'small'), b'small')

    def test_ranges(self):
        b = self.bucket()
        data = random_bytes(3500000)
        self.s3.put_object(Bucket=b, Key='k', Body=data)
        for first, last in ((0, 0), (5, 99), (1048570, 1048590), (100, 3400000), (3499999, 3499999)):
            r = self.s3.get_object(Bucket=b, Key='k', Range=f'bytes={first}-{last}')
            self.assertEqual(r['Body'].read(), data[first:last + 1])
            self.assertEqual(r['ContentRange'], f'bytes {first}-{last}/{len(data)}')
            self.assertEqual(r['ResponseMetadata']['HTTPStatusCode'], 206)
        self.assertEqual(self.get(b, 'k', Range='bytes=-10'), data[-10:])
        self.assertEqual(self.get(b, 'k', Range='bytes=3499990-'), data[-10:])
        with self.assertRaises(ClientError) as e:
            self.get(b, 'k', Range='bytes=3500000-')
        self.assertEqual((code_of(e), status_of(e)), ('InvalidRange', 416))

    def test_metadata_and_overrides(self):
        b = self.bucket()
        self.s3.put_object(Bucket=b, Key='k', Body=b'x', ContentType='text/plain', CacheControl='no-cache',
                           ContentDisposition='attachment', ContentEncoding='gzip', ContentLanguage='fr',
                           Metadata={'Colour': 'blue', 'other': 'a b'})
        r = self.s3.get_object(Bucket=b, Key='k')
        self.assertEqual(r['Metadata'], {'colour': 'blue', 'other': 'a b'})
        self.assertEqual((r['ContentType'], r['CacheControl'], r['ContentDisposition'], r['ContentEncoding'],
                          r['ContentLanguage']), ('text/plain', 'no-cache', 'attachment', 'gzip', 'fr'))
        r = self.s3.get_object(Bucket=b, Key='k', ResponseContentType='image/png',
                               ResponseContentDisposition='inline')
        self.assertEqual((r['ContentType'], r['ContentDisposition']), ('image/png', 'inline'))

    def test_conditional_reads(self):
        b = self.bucket()
        etag = self.s3.put_object(Bucket=b, Key='k', Body=b'x')['ETag']
        self.assertEqual(self.get(b, 'k', IfMatch=etag), b'x')
        with self.assertRaises(ClientError) as e:
            self.get(b, 'k', IfNoneMatch=etag)
        self.assertEqual(status_of(e), 304)
        with self.assertRaises(ClientError) as e:
            self.get(b, 'k', IfMatch='"0"')
        self.assertEqual((code_of(e), status_of(e)), ('PreconditionFailed', 412))

    def test_conditional_writes(self):
        self.bucket('b-cond')
        a, body = self.raw.request('PUT', '/b-cond/k', b'one', {'If-None-Match': '*'})
        self.assertEqual(a.status, 200, body)
        a, body = self.raw.request('PUT', '/b-cond/k', b'two', {'If-None-Match': '*'})
        self.assertEqual(a.status, 412, body)
        self.assertIn(b'<Code>PreconditionFailed</Code>', body)
        a, body = self.raw.request('PUT', '/b-cond/k', b'two', {'If-Match': '"' + hashlib.md5(b'x').hexdigest()
                                                                + '"'})
        self.assertEqual(a.status, 412, body)
        a, body = self.raw.request('PUT', '/b-cond/k', b'two', {'If-Match': '"' + hashlib.md5(b'one').hexdigest()
                                                                + '"'})
        self.assertEqual(a.status, 200, body)
        a, body = self.raw.request('PUT', '/b-cond/none', b'two', {'If-Match': '"0"'})
        self.assertEqual(a.status, 404, body)
        self.assertEqual(self.get('b-cond', 'k'), b'two')

    def test_errors(self):
        b = self.bucket()
        with self.assertRaises(ClientError) as e:
            self.get(b, 'none')
        self.assertEqual((code_of(e), status_of(e)), ('NoSuchKey', 404))
        with self.assertRaises(ClientError) as e:
            self.get('no-bucket', 'none')
        self.assertEqual(code_of(e), 'NoSuchBucket')
        with self.assertRaises(ClientError) as e:
            self.s3.put_object(Bucket='no-bucket', Key='k', Body=b'x')
        self.assertEqual(code_of(e), 'NoSuchBucket')
        with self.assertRaises(ClientError) as e:
            self.s3.head_object(Bucket=b, Key='none')
        self.assertEqual(status_of(e), 404)
        with self.assertRaises(ClientError) as e:
            self.s3.get_bucket_acl(Bucket=b)
        self.assertEqual((code_of(e), status_of(e)), ('NotImplemented', 501))
        self.s3.put_object(Bucket=b, Key='k', Body=b'x')
        self.assertEqual(self.s3.get_object_tagging(Bucket=b, Key='k')['TagSet'], [])
        with self.assertRaises(ClientError) as e:
            self.s3.get_object_tagging(Bucket=b, Key='none')
        self.assertEqual(code_of(e), 'NoSuchKey')
        with self.assertRaises(ClientError) as e:
            self.s3.put_object(Bucket=b, Key='k' * 1025, Body=b'x')
        self.assertEqual(code_of(e), 'KeyTooLongError')
        a, body = self.raw.request('GET', f'/{b}/none')
        self.assertIn(('<RequestId>%s</RequestId>' % a.getheader('x-amz-request-id')).encode(), body)
        self.assertEqual(a.getheader('Content-Type'), 'application/xml')

    def test_copy(self):
        b = self.bucket()
        other = self.bucket('other-bucket')
        for size in (0, 10, 70000, (2 << 20) + 5):
            data = random_bytes(size)
            self.s3.put_object(Bucket=b, Key='s', Body=data, Metadata={'a': '1'}, ContentType='text/x')
            r = self.s3.copy_object(Bucket=other, Key='t', CopySource={'Bucket': b, 'Key': 's'})
            self.assertEqual(r['CopyObjectResult']['ETag'], '"%s"' % hashlib.md5(data).hexdigest())
            got = self.s3.get_object(Bucket=other, Key='t')
            self.assertEqual((got['Body'].read(), got['Metadata'], got['ContentType']),
                             (data, {'a': '1'}, 'text/x'))
        self.s3.copy_object(Bucket=b, Key='s', CopySource={'Bucket': b, 'Key': 's'},
                            MetadataDirective='REPLACE', Metadata={'b': '2'})
        got = self.s3.get_object(Bucket=b, Key='s')
        self.assertEqual((got['Body'].read(), got['Metadata']), (data, {'b': '2'}))
        with self.assertRaises(ClientError) as e:
            self.s3.copy_object(Bucket=b, Key='s', CopySource={'Bucket': b, 'Key': 's'})
        self.assertEqual(code_of(e), 'InvalidRequest')
        with self.assertRaises(ClientError) as e:
            self.s3.copy_object(Bucket=b, Key='t', CopySource={'Bucket': b, 'Key': 'none'})
        self.assertEqual(code_of(e), 'NoSuchKey')
        with self.assertRaises(ClientError) as e:
            self.s3.copy_object(Bucket=b, Key='t', CopySource={'Bucket': b, 'Key': 's'},
                                CopySourceIfMatch='"0"')
        self.assertEqual(code_of(e), 'PreconditionFailed')

    def test_deletes(self):
        b = self.bucket()
        for i in range(300):
            self.s3.put_object(Bucket=b, Key=f'k{i}', Body=b'x')
        self.s3.delete_object(Bucket=b, Key='k0')
        self.s3.delete_object(Bucket=b, Key='k0')
        with self.assertRaises(ClientError):
            self.get(b, 'k0')
        r = self.s3.delete_objects(Bucket=b, Delete={'Objects': [{'Key': f'k{i}'} for i in range(1, 299)]})
        self.assertEqual(len(r['Deleted']), 298)
        r = self.s3.delete_objects(Bucket=b, Delete={'Quiet': True, 'Objects': [{'Key': 'k299'}, {'Key': 'x'}]})
        self.assertNotIn('Deleted', r)
        self.assertEqual(self.s3.list_objects_v2(Bucket=b)['KeyCount'], 0)

    def test_odd_keys(self):
        b = self.bucket()
        keys = ['a b', 'a+b', 'é/ü', 'a//b', 'a/../b', '%41', "q'uo\"te", 'z&<>', '漢字', 'tilde~', 'a?b#c', ' lead']
        for k in keys:
            self.s3.put_object(Bucket=b, Key=k, Body=k.encode())
        for k in keys:
            self.assertEqual(self.get(b, k), k.encode())
        found = [o['Key'] for o in self.s3.list_objects_v2(Bucket=b)['Contents']]
        self.assertEqual(found, sorted(keys, key=lambda k: k.encode()))


class Bodies(Base):
    def test_digests(self):
        b = self.bucket()
        data = random_bytes(200000)
        good = base64.b64encode(hashlib.md5(data).digest()).decode()
        a, body = self.raw.request('PUT', f'/{b}/k', data, {'Content-MD5': good})
        self.assertEqual(a.status, 200, body)
        bad = base64.b64encode(hashlib.md5(b'x').digest()).decode()
        a, body = self.raw.request('PUT', f'/{b}/bad', data, {'Content-MD5': bad})
        self.assertEqual(a.status, 400)
        self.assertIn(b'BadDigest', body)
        a, body = self.raw.request('PUT', f'/{b}/bad', data, payload_hash=hashlib.sha256(b'x').hexdigest())
        self.assertEqual(a.status, 400)
        self.assertIn(b'XAmzContentSHA256Mismatch', body)
        a, body = self.raw.request('PUT', f'/{b}/k', data, payload_hash=hashlib.sha256(data).hexdigest())
        self.assertEqual(a.status, 200, body)
        crc = base64.b64encode(zlib.crc32(data).to_bytes(4, 'big')).decode()
        a, body = self.raw.request('PUT', f'/{b}/k', data, {'x-amz-checksum-crc32': crc})
        self.assertEqual((a.status, a.getheader('x-amz-checksum-crc32')), (200, crc), body)
        a, _ = self.raw.request('HEAD', f'/{b}/k', headers={'x-amz-checksum-mode': 'ENABLED'})
        self.assertEqual(a.getheader('x-amz-checksum-crc32'), crc)
        a, body = self.raw.request('PUT', f'/{b}/bad', data, {'x-amz-checksum-crc32': 'AAAAAA=='})
        self.assertEqual(a.status, 400)
        self.assertIn(b'BadDigest', body)
        with self.assertRaises(ClientError):
            self.get(b, 'bad')

    def test_aws_chunked(self):
        b = self.bucket()
        data = random_bytes(2500000)
        for size in (0, 1, 8192, 100000, 2500000):
            part = data[:size]
            a, body = self.raw.chunked(f'/{b}/s{size}', part)
            self.assertEqual(a.status, 200, body)
            self.assertEqual(self.get(b, f's{size}'), part)
            crc = base64.b64encode(zlib.crc32(part).to_bytes(4, 'big')).decode()
            for signed in (True, False):
                a, body = self.raw.chunked(f'/{b}/t{size}', part, signed=signed,
                                           trailer=('x-amz-checksum-crc32', crc))
                self.assertEqual(a.status, 200, body)
                self.assertEqual(self.get(b, f't{size}'), part)
        self.assertNotIn('ContentEncoding', self.s3.head_object(Bucket=b, Key='s1'))
        a, body = self.raw.chunked(f'/{b}/bad', data[:100000], spoil=True)
        self.assertEqual(a.status, 403, body)
        a, body = self.raw.chunked(f'/{b}/bad', data, signed=False, trailer=('x-amz-checksum-crc32', 'AAAAAA=='))
        self.assertEqual(a.status, 400, body)
        with self.assertRaises(ClientError):
            self.get(b, 'bad')

    def test_expect_continue(self):
        b = self.bucket()
        with socket.create_connection(('127.0.0.1', self.zone.port), timeout=10) as s:
            s.sendall(self.raw.head('PUT', f'/{b}/k', {'Content-Length': '5', 'Expect': '100-continue'}))
            self.assertTrue(s.recv(100).startswith(b'HTTP/1.1 100'))
            s.sendall(b'hello')
            a = http.client.HTTPResponse(s, method='PUT')
            a.begin()
            self.assertEqual(a.status, 200)
        self.assertEqual(self.get(b, 'k'), b'hello')
        with socket.create_connection(('127.0.0.1', self.zone.port), timeout=10) as s:
            s.sendall(self.raw.head('PUT', '/nobody-has-it/k', {'Content-Length': '5000000000',
                                                               'Expect': '100-continue'}))
            a = http.client.HTTPResponse(s, method='PUT')
            a.begin()  # no 100 before it
            self.assertEqual(a.status, 404)
            a.read()

    def test_refused_with_body_on_the_way(self):
        a, body = self.raw.request('PUT', '/nobody-has-it/k', random_bytes(3 << 20))
        self.assertEqual(a.status, 404, body)

    def test_refused_with_a_chunked_body_on_the_way(self):
        """boto3 over https asks for "100 Continue" and sends its chunked body without waiting for it. The connection
        must not be closed under it: it is there for the next request."""
        data = random_bytes(100000)
        with socket.create_connection(('127.0.0.1', self.zone.port), timeout=10) as s:
            for _ in range(3):
                s.sendall(self.raw.head('PUT', '/nobody-has-it/k', {
                    'Transfer-Encoding': 'chunked', 'Expect': '100-continue', 'Content-Encoding': 'aws-chunked',
                    'x-amz-trailer': 'x-amz-checksum-crc32', 'x-amz-decoded-content-length': str(len(data))},
                    'STREAMING-UNSIGNED-PAYLOAD-TRAILER'))
                time.sleep(0.1)
                crc = base64.b64encode(zlib.crc32(data).to_bytes(4, 'big'))
                for piece in (b'%x\r\n%s\r\n' % (len(data), data), b'0\r\nx-amz-checksum-crc32:%s\r\n\r\n' % crc):
                    s.sendall(b'%x\r\n%s\r\n' % (len(piece), piece))
                s.sendall(b'0\r\n\r\n')
                a = http.client.HTTPResponse(s, method='PUT')
                a.begin()
                self.assertEqual(a.status, 404)
                self.assertIn(b'NoSuchBucket', a.read())

    def test_lengths(self):
        b = self.bucket()
        with socket.create_connection(('127.0.0.1', self.zone.port), timeout=10) as s:
            s.sendall(self.raw.head('PUT', f'/{b}/k', {'Transfer-Encoding': 'chunked'}) +
                      b'5\r\nhello\r\n0\r\n\r\n')
            a = http.client.HTTPResponse(s, method='PUT')
            a.begin()
            self.assertEqual(a.status, 411)
        a, body = self.raw.request('PUT', f'/{b}/k', b'', {'Content-Length': str((5 << 30) + 1),
                                                          'Expect': '100-continue'})
        self.assertEqual(a.status, 400)
        self.assertIn(b'EntityTooLarge', body)

    def test_keep_alive(self):
        b = self.bucket()
        with socket.create_connection(('127.0.0.1', self.zone.port), timeout=10) as s:
            for i in range(5):
                for method, target, body, status in (('PUT', f'/{b}/k{i}', b'hello', 200),
                                                     ('GET', f'/{b}/k{i}', b'', 200),
                                                     ('GET', f'/{b}/none', b'', 404),
                                                     ('HEAD', f'/{b}/k{i}', b'', 200),
                                                     ('GET', '/', b'', 200),
                                                     ('PUT', '/no-such-bucket/k', b'hello', 404),
                                                     ('DELETE', f'/{b}/k{i}', b'', 204)):
                    headers = {'Content-Length': str(len(body))} if method == 'PUT' else {}
                    s.sendall(self.raw.head(method, target, headers) + body)
                    a = http.client.HTTPResponse(s, method=method)
                    a.begin()
                    self.assertEqual(a.status, status)
                    a.read()

    def test_client_that_goes_away(self):
        b = self.bucket()
        for sent in (0, 100, 1 << 20, 5 << 20):
            s = socket.create_connection(('127.0.0.1', self.zone.port), timeout=10)
            s.sendall(self.raw.head('PUT', f'/{b}/gone', {'Content-Length': str(10 << 20)}))
            s.sendall(b'x' * sent)
            s.close()
        self.s3.put_object(Bucket=b, Key='big', Body=b'y' * (20 << 20))
        for _ in range(3):
            s = socket.create_connection(('127.0.0.1', self.zone.port), timeout=10)
            s.sendall(self.raw.head('GET', f'/{b}/big', {}))
            s.recv(1000)
            s.close()
        time.sleep(0.3)
        with self.assertRaises(ClientError):
            self.get(b, 'gone')
        self.assertEqual(len(self.get(b, 'big')), 20 << 20)

    def test_long_headers(self):
        a, body = self.raw.request('GET', '/', headers={'x-long': 'x' * 17000})
        self.assertEqual(a.status, 400, body)
        a, body = self.raw.request('GET', '/', headers={'x-long': 'x' * 7000})
        self.assertEqual(a.status, 200, body)
        a, body = self.raw.request('GET', '/b/' + 'x' * 9000)
        self.assertEqual(a.status, 400, body)


class Listings(Base):
    def test_pages_and_prefixes(self):
        b = self.bucket()
        keys = [f'{d}/{i:02}' for d in ('a', 'b', 'c') for i in range(10)] + ['top1', 'top2']
        for k in keys:
            self.s3.put_object(Bucket=b, Key=k, Body=b'x')
        for version in ('list_objects', 'list_objects_v2'):
            for page in (1, 3, 1000):
                found = []
                for p in self.s3.get_paginator(version).paginate(Bucket=b, PaginationConfig={'PageSize': page}):
                    found += [o['Key'] for o in p.get('Contents', [])]
                self.assertEqual(found, sorted(keys))
                found = []
                for p in self.s3.get_paginator(version).paginate(Bucket=b, Delimiter='/',
                                                                 PaginationConfig={'PageSize': page}):
                    found += [o['Key'] for o in p.get('Contents', [])]
                    found += [o['Prefix'] for o in p.get('CommonPrefixes', [])]
                self.assertEqual(sorted(found), ['a/', 'b/', 'c/', 'top1', 'top2'])
        r = self.s3.list_objects_v2(Bucket=b, Prefix='b/', StartAfter='b/05')
        self.assertEqual([o['Key'] for o in r['Contents']], [f'b/0{i}' for i in (6, 7, 8, 9)])
        r = self.s3.list_object_versions(Bucket=b, Prefix='a/', MaxKeys=4)
        self.assertEqual(([v['VersionId'] for v in r['Versions']], r['IsTruncated']), (['null'] * 4, True))
        self.assertEqual(self.s3.list_objects_v2(Bucket=b, MaxKeys=0)['KeyCount'], 0)

    def test_buckets(self):
        for name in ('b-one', 'b-two', 'b-three'):
            self.bucket(name)
        self.assertEqual([x['Name'] for x in self.s3.list_buckets()['Buckets']], ['b-one', 'b-three', 'b-two'])
        with self.assertRaises(ClientError) as e:
            self.bucket('b-one')
        self.assertEqual((code_of(e), status_of(e)), ('BucketAlreadyOwnedByYou', 409))
        self.assertEqual(self.s3.get_bucket_location(Bucket='b-one')['LocationConstraint'], REGION)
        self.s3.head_bucket(Bucket='b-one')
        self.assertNotIn('Status', self.s3.get_bucket_versioning(Bucket='b-one'))
        self.s3.put_object(Bucket='b-one', Key='k', Body=b'x')
        with self.assertRaises(ClientError) as e:
            self.s3.delete_bucket(Bucket='b-one')
        self.assertEqual((code_of(e), status_of(e)), ('BucketNotEmpty', 409))
        self.s3.put_object(Bucket='b-one', Key='k2', Body=b'x')  # reopened
        self.s3.delete_object(Bucket='b-one', Key='k')
        self.s3.delete_object(Bucket='b-one', Key='k2')
        self.s3.delete_bucket(Bucket='b-one')
        with self.assertRaises(ClientError) as e:
            self.s3.head_bucket(Bucket='b-one')
        self.assertEqual(status_of(e), 404)
        self.bucket('b-one')
        self.s3.put_object(Bucket='b-one', Key='k', Body=b'new')
        self.assertEqual(self.get('b-one', 'k'), b'new')


class Multipart(Base):
    def parts(self, b, key, bodies, **create):
        up = self.s3.create_multipart_upload(Bucket=b, Key=key, **create)['UploadId']
        tags = [{'PartNumber': i + 1,
                 'ETag': self.s3.upload_part(Bucket=b, Key=key, UploadId=up, PartNumber=i + 1, Body=body)['ETag']}
                for i, body in enumerate(bodies)]
        return up, tags

    def test_upload(self):
        b = self.bucket()
        bodies = [random_bytes(5 << 20), random_bytes((5 << 20) + 7), random_bytes(1000)]
        up, tags = self.parts(b, 'm', bodies, Metadata={'a': 'b'}, ContentType='text/x')
        listed = self.s3.list_parts(Bucket=b, Key='m', UploadId=up, MaxParts=2)
        self.assertEqual(([p['PartNumber'] for p in listed['Parts']], listed['IsTruncated']), ([1, 2], True))
        self.assertEqual(self.s3.list_multipart_uploads(Bucket=b)['Uploads'][0]['UploadId'], up)
        with self.assertRaises(ClientError) as e:
            self.s3.delete_bucket(Bucket=b)
        done = {'Parts': tags}
        r = self.s3.complete_multipart_upload(Bucket=b, Key='m', UploadId=up, MultipartUpload=done)
        etag = hashlib.md5(b''.join(hashlib.md5(x).digest() for x in bodies)).hexdigest() + '-3'
        self.assertEqual(r['ETag'], f'"{etag}"')
        self.assertEqual(r['Location'], f'http://127.0.0.1:{self.zone.port}/{b}/m')
        again = self.s3.complete_multipart_upload(Bucket=b, Key='m', UploadId=up, MultipartUpload=done)
        self.assertEqual(again['ETag'], r['ETag'])
        got = self.s3.get_object(Bucket=b, Key='m')
        self.assertEqual((got['Body'].read(), got['Metadata'], got['ContentType']),
                         (b''.join(bodies), {'a': 'b'}, 'text/x'))
        r = self.s3.get_object(Bucket=b, Key='m', PartNumber=2)
        self.assertEqual((r['Body'].read(), r['PartsCount']), (bodies[1], 3))
        data = b''.join(bodies)
        at = (5 << 20) - 100
        self.assertEqual(self.get(b, 'm', Range=f'bytes={at}-{at + 199}'), data[at:at + 200])
        self.assertNotIn('Uploads', self.s3.list_multipart_uploads(Bucket=b))

    def test_refusals(self):
        b = self.bucket()
        up, tags = self.parts(b, 'm', [b'small', b'small2'])
        for wanted, code in (([tags[1], tags[0]], 'InvalidPartOrder'), (tags, 'EntityTooSmall'),
                             ([{'PartNumber': 9, 'ETag': '"0"'}], 'InvalidPart')):
            with self.assertRaises(ClientError) as e:
                self.s3.complete_multipart_upload(Bucket=b, Key='m', UploadId=up, MultipartUpload={'Parts': wanted})
            self.assertEqual(code_of(e), code)
        self.s3.abort_multipart_upload(Bucket=b, Key='m', UploadId=up)
        for call in (lambda: self.s3.upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'x'),
                     lambda: self.s3.list_parts(Bucket=b, Key='m', UploadId=up),
                     lambda: self.s3.abort_multipart_upload(Bucket=b, Key='m', UploadId=up)):
            with self.assertRaises(ClientError) as e:
                call()
            self.assertEqual(code_of(e), 'NoSuchUpload')
        self.s3.delete_bucket(Bucket=b)

    def test_copy_parts(self):
        b = self.bucket()
        data = random_bytes(12 << 20)
        self.s3.put_object(Bucket=b, Key='s', Body=data)
        up = self.s3.create_multipart_upload(Bucket=b, Key='t')['UploadId']
        tags = []
        for n, (first, last) in enumerate(((0, (6 << 20) - 1), (6 << 20, (12 << 20) - 1))):
            r = self.s3.upload_part_copy(Bucket=b, Key='t', UploadId=up, PartNumber=n + 1,
                                         CopySource={'Bucket': b, 'Key': 's'},
                                         CopySourceRange=f'bytes={first}-{last}')
            tags.append({'PartNumber': n + 1, 'ETag': r['CopyPartResult']['ETag']})
        self.s3.complete_multipart_upload(Bucket=b, Key='t', UploadId=up, MultipartUpload={'Parts': tags})
        self.assertEqual(self.get(b, 't'), data)

    def test_checksums(self):
        b = self.bucket()
        bodies = [random_bytes(5 << 20), random_bytes(10)]
        up, tags = self.parts(b, 'm', bodies, ChecksumAlgorithm='CRC32')
        self.s3.complete_multipart_upload(Bucket=b, Key='m', UploadId=up, MultipartUpload={'Parts': tags})
        a, _ = self.raw.request('HEAD', f'/{b}/m', headers={'x-amz-checksum-mode': 'ENABLED'})
        crcs = b''.join(zlib.crc32(x).to_bytes(4, 'big') for x in bodies)
        want = base64.b64encode(zlib.crc32(crcs).to_bytes(4, 'big')).decode() + '-2'
        self.assertEqual((a.getheader('x-amz-checksum-crc32'), a.getheader('x-amz-checksum-type')),
                         (want, 'COMPOSITE'))

    def test_list_uploads(self):
        b = self.bucket()
        ids = [(k, self.s3.create_multipart_upload(Bucket=b, Key=k)['UploadId'])
               for k in ('a/1', 'a/2', 'b/1', 'c', 'c') for _ in range(2)]
        found = []
        for p in self.s3.get_paginator('list_multipart_uploads').paginate(Bucket=b,
                                                                          PaginationConfig={'PageSize': 3}):
            found += [(u['Key'], u['UploadId']) for u in p.get('Uploads', [])]
        self.assertEqual(sorted(found), sorted(ids))
        r = self.s3.list_multipart_uploads(Bucket=b, Delimiter='/')
        self.assertEqual([x['Prefix'] for x in r['CommonPrefixes']], ['a/', 'b/'])
        self.assertEqual(len(r['Uploads']), 4)


class Users(Base):
    def test_users(self):
        b = self.bucket()
        self.bucket('other-bucket')
        self.s3.put_object(Bucket=b, Key='k', Body=b'x')
        status, text = self.zone.admin('POST', '/users', {'name': 'reader', 'bucket': b, 'read_only': True})
        self.assertEqual(status, 201, text)
        user = json.loads(text)
        for _ in range(2):
            self.assertEqual(self.zone.admin('POST', '/users', {'name': 'reader'})[0], 409)
        self.assertEqual(self.zone.admin('POST', '/users', {'name': 'x y'})[0], 400)
        self.assertEqual(self.zone.admin('POST', '/users', {'nom': 'x'})[0], 400)
        c = self.zone.client(user['access_key'], user['secret_key'])
        self.assertEqual(c.get_object(Bucket=b, Key='k')['Body'].read(), b'x')
        self.assertEqual([x['Name'] for x in c.list_buckets()['Buckets']], [b])
        for call in (lambda: c.put_object(Bucket=b, Key='k', Body=b'y'), lambda: c.delete_object(Bucket=b, Key='k'),
                     lambda: c.list_objects_v2(Bucket='other-bucket'), lambda: c.create_bucket(Bucket='third')):
            with self.assertRaises(ClientError) as e:
                call()
            self.assertEqual((code_of(e), status_of(e)), ('AccessDenied', 403))
        status, text = self.zone.admin('GET', '/users')
        self.assertEqual(json.loads(text), {'users': [{'name': 'reader', 'access_key': user['access_key'],
                                                       'bucket': b, 'read_only': True, 'disabled': False,
                                                       'ai': None}]})
        self.assertEqual(self.zone.admin('POST', '/users/nobody/disable')[0], 404)
        self.assertEqual(self.zone.admin('POST', '/users/reader/disable')[0], 200)
        with self.assertRaises(ClientError) as e:
            c.get_object(Bucket=b, Key='k')
        self.assertEqual((code_of(e), status_of(e)), ('InvalidAccessKeyId', 403))
        # a name is free again when its user is disabled: that is how somebody gets a new key
        status, text = self.zone.admin('POST', '/users', {'name': 'reader', 'bucket': b})
        self.assertEqual(status, 201, text)
        self.assertNotEqual(json.loads(text)['access_key'], user['access_key'])
        self.assertEqual(self.zone.admin('POST', '/users', {'name': 'reader'})[0], 409)
        self.assertEqual(self.zone.admin('POST', '/users/reader/disable')[0], 200)

    def test_same_name_at_once(self):
        """However many ask for a name at once, one of them gets it."""
        answers = []

        def ask():
            answers.append(self.zone.admin('POST', '/users', {'name': 'wanted'})[0])
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(sorted(answers), [201] + [409] * 7)
        users = json.loads(self.zone.admin('GET', '/users')[1])['users']
        self.assertEqual(len([u for u in users if u['name'] == 'wanted']), 1)

    def test_abort_that_was_refused(self):
        """A client goes away in the middle of a body while too much is waiting: its pieces are freed later."""
        b = self.bucket()
        self.zone.tell('busy_aborts 3')
        s = socket.create_connection(('127.0.0.1', self.zone.port), timeout=10)
        s.sendall(self.raw.head('PUT', f'/{b}/half', {'Content-Length': str(50 << 20)}))
        s.sendall(bytes(5 << 20))
        until = time.monotonic() + 10
        while self.zone.streams() == 0 and time.monotonic() < until:
            pass
        self.assertEqual(self.zone.streams(), 1)
        s.close()
        while self.zone.streams() > 0 and time.monotonic() < until:
            pass
        self.assertEqual(self.zone.streams(), 0)

    def test_clock_unknown(self):
        """A zone that doesn't know the time yet judges no signature, right or wrong."""
        self.zone.tell('clock_unknown 1')
        try:
            for secret in (None, 'wrong'):
                with self.assertRaises(ClientError) as e:
                    self.zone.client(secret=secret).list_buckets()
                self.assertEqual((code_of(e), status_of(e)), ('ServiceUnavailable', 503))
        finally:
            self.zone.tell('clock_unknown 0')
        self.s3.list_buckets()

    def test_signatures(self):
        for access, secret, code in ((None, 'wrong', 'SignatureDoesNotMatch'), ('NOBODY', 'x', 'InvalidAccessKeyId')):
            with self.assertRaises(ClientError) as e:
                self.zone.client(access, secret).list_buckets()
            self.assertEqual((code_of(e), status_of(e)), (code, 403))
        c = http.client.HTTPConnection('127.0.0.1', self.zone.port)
        c.request('GET', '/')
        a = c.getresponse()
        self.assertEqual(a.status, 403)
        self.assertIn(b'AccessDenied', a.read())

    def test_presigned(self):
        b = self.bucket()
        put = self.s3.generate_presigned_url('put_object', Params={'Bucket': b, 'Key': 'p q'})
        get = self.s3.generate_presigned_url('get_object', Params={'Bucket': b, 'Key': 'p q'})
        u = urllib.parse.urlsplit(put)
        c = http.client.HTTPConnection(u.netloc)
        c.request('PUT', f'{u.path}?{u.query}', body=b'presigned')
        self.assertEqual(c.getresponse().read(), b'')
        u = urllib.parse.urlsplit(get)
        c.request('GET', f'{u.path}?{u.query}')
        self.assertEqual(c.getresponse().read(), b'presigned')


class Admin(Base):
    def test_pages(self):
        for page in ('/health/live', '/health/ready', '/time'):
            self.assertEqual(self.zone.admin('GET', page, token=False)[0], 200)
        for page in ('/metrics', '/status', '/users', '/nothing'):
            self.assertEqual(self.zone.admin('GET', page, token=False)[0], 401)
            self.assertEqual(self.zone.admin('GET', page, token='wrong')[0], 401)
        self.assertEqual(self.zone.admin('GET', '/nothing')[0], 404)
        self.assertEqual(self.zone.admin('GET', '/recover')[0], 405)
        self.assertEqual(json.loads(self.zone.admin('GET', '/status')[1])['durability'], '2/2')
        self.assertEqual(self.zone.admin('POST', '/recover')[0], 200)
        self.assertEqual(json.loads(self.zone.admin('GET', '/status')[1])['durability'], '1/2')
        self.assertEqual(self.zone.admin('POST', '/users', {'name': 'x' * 20000})[0], 413)

    def test_metrics(self):
        b = self.bucket()
        self.s3.put_object(Bucket=b, Key='secret-name', Body=b'x' * 10)
        self.get(b, 'secret-name')
        status, text = self.zone.admin('GET', '/metrics')
        self.assertEqual(status, 200)
        self.assertIn('nef_requests_total{operation="PutObject",code="200"} 1\n', text)
        self.assertIn('nef_request_body_bytes_total 162\n', text)
        self.assertIn('nef_ready 1\n', text)
        self.assertTrue(text.endswith('# EOF\n'))
        seen = set()
        for line in text.splitlines():
            if line.startswith('# TYPE'):
                self.assertNotIn(line, seen)
                seen.add(line)
        log = open(os.path.join(self.zone.dir, 'log')).read()
        self.assertNotIn('secret-name', log)
        self.assertNotIn(b, log)
        lines = [json.loads(x) for x in log.splitlines()]
        puts = [x for x in lines if x.get('operation') == 'PutObject']
        self.assertEqual((puts[0]['status'], puts[0]['in']), (200, 10))

    def test_durability(self):
        a, body = self.raw.request('PUT', '/strict-bucket', headers={'x-nef-require-durability': '2/2'})
        self.assertEqual(a.status, 200, body)
        a, _ = self.raw.request('PUT', '/strict-bucket/k', b'x')
        self.assertEqual((a.status, a.getheader('x-nef-durability')), (200, '2/2'))
        self.zone.tell('durability 1')
        a, body = self.raw.request('PUT', '/strict-bucket/k', b'y')
        self.assertEqual(a.status, 503, body)
        self.assertEqual(self.get('strict-bucket', 'k'), b'x')
        self.bucket('lax-bucket')
        a, _ = self.raw.request('PUT', '/lax-bucket/k', b'x')
        self.assertEqual((a.status, a.getheader('x-nef-durability')), (200, '1/2'))


class Damage(Base):
    def damage(self, nth):
        """Flips a bit in the nth data record of the only object; tells the zone which file it may repair."""
        for cell in range(4):
            folder = os.path.join(self.zone.dir, f'cell-{cell}')
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                with open(path, 'r+b') as f:
                    data = f.read()
                    at, found = 4096, []
                    while data[at:at + 4] == b'NefR':
                        if int.from_bytes(data[at + 6:at + 8], 'little') == 3:
                            found.append(at)
                        at += (192 + int.from_bytes(data[at + 40:at + 44], 'little') + 63) // 64 * 64
                    if found:
                        f.seek(found[nth] + 1000)
                        f.write(bytes([data[found[nth] + 1000] ^ 0x40]))
                        return path
        raise RuntimeError('no data record')

    def test_repaired_while_reading(self):
        b = self.bucket()
        data = random_bytes(5 << 20)
        self.s3.put_object(Bucket=b, Key='k', Body=data)
        for nth, wanted in ((0, None), (3, None), (2, 'bytes=2097152-2197152')):
            path = self.damage(nth)
            self.zone.tell(f'damaged {path}')
            got = self.get(b, 'k', **({'Range': wanted} if wanted else {}))
            self.assertEqual(got, data if wanted is None else data[2097152:2197153])
        path = self.damage(1)
        self.s3.copy_object(Bucket=b, Key='copy', CopySource={'Bucket': b, 'Key': 'k'})
        self.assertEqual(self.get(b, 'copy'), data)

    def test_never_sent_when_it_cannot_be_repaired(self):
        b = self.bucket()
        data = random_bytes(5 << 20)
        self.s3.put_object(Bucket=b, Key='k', Body=data)
        self.damage(2)
        with self.assertRaises(ClientError) as e:
            self.get(b, 'k', Range='bytes=2097152-2197152')
        self.assertGreaterEqual(status_of(e), 500)
        with socket.create_connection(('127.0.0.1', self.zone.port), timeout=10) as s:
            s.sendall(self.raw.head('GET', f'/{b}/k', {}))
            a = http.client.HTTPResponse(s, method='GET')
            a.begin()
            with self.assertRaises(http.client.IncompleteRead) as e:
                a.read()
            self.assertEqual(e.exception.partial, data[:2 << 20])
            a.close()


class Tls(unittest.TestCase):
    def test_versions(self):
        with tempfile.TemporaryDirectory() as d:
            cert, key = os.path.join(d, 'cert'), os.path.join(d, 'key')
            subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert,
                            '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'],
                           check=True, capture_output=True)
            zone = Zone(f'tls={cert},{key}')
            try:
                for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                    context = ssl.create_default_context(cafile=cert)
                    context.minimum_version = context.maximum_version = version
                    c = http.client.HTTPSConnection('127.0.0.1', zone.port, context=context, timeout=10)
                    c.request('GET', '/')
                    self.assertEqual(c.getresponse().status, 403)
                context = ssl.create_default_context(cafile=cert)
                context.set_ciphers('ALL:@SECLEVEL=0')
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
                with self.assertRaises(OSError):
                    http.client.HTTPSConnection('127.0.0.1', zone.port, context=context, timeout=10).request('GET', '/')
                s3 = boto3.client('s3', endpoint_url=f'https://127.0.0.1:{zone.port}', region_name=REGION,
                                  verify=cert, aws_access_key_id=zone.info['access_key'],
                                  aws_secret_access_key=zone.info['secret_key'],
                                  config=Config(s3={'addressing_style': 'path'}))
                s3.create_bucket(Bucket='tls-bucket', CreateBucketConfiguration={'LocationConstraint': REGION})
                data = random_bytes(3 << 20)
                s3.put_object(Bucket='tls-bucket', Key='k', Body=data)
                self.assertEqual(s3.get_object(Bucket='tls-bucket', Key='k')['Body'].read(), data)
                up = s3.create_multipart_upload(Bucket='tls-bucket', Key='m')['UploadId']
                tag = s3.upload_part(Bucket='tls-bucket', Key='m', UploadId=up, PartNumber=1, Body=b'x')['ETag']
                r = s3.complete_multipart_upload(Bucket='tls-bucket', Key='m', UploadId=up,
                                                 MultipartUpload={'Parts': [{'PartNumber': 1, 'ETag': tag}]})
                self.assertEqual(r['Location'], f'https://127.0.0.1:{zone.port}/tls-bucket/m')
            finally:
                zone.close()


class Slow(Objects):
    """All of Objects again, with reads that have to wait and batches that take a while."""
    options = ('slow', 'delay=300')


class SlowBodies(Bodies):
    options = ('slow', 'delay=300')


class Load(Base):
    options = ('delay=1000',)

    def test_many_clients(self):
        b = self.bucket()
        errors = []

        def one(n):
            try:
                c = self.zone.client(max_pool_connections=1)
                for i in range(15):
                    data = random_bytes((n * 37 + i * 100003) % 400000)
                    c.put_object(Bucket=b, Key=f'{n}/{i}', Body=data)
                    if c.get_object(Bucket=b, Key=f'{n}/{i}')['Body'].read() != data:
                        errors.append('different bytes')
                c.delete_object(Bucket=b, Key=f'{n}/0')
            except Exception as e:  # pylint: disable=broad-except
                errors.append(repr(e))

        threads = [threading.Thread(target=one, args=(n,)) for n in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(errors, [])
        self.assertEqual(len(self.s3.list_objects_v2(Bucket=b)['Contents']), 24 * 14)

    def test_stop_in_the_middle(self):
        b = self.bucket()
        go = threading.Event()

        def upload():
            s = socket.create_connection(('127.0.0.1', self.zone.port), timeout=10)
            s.sendall(self.raw.head('PUT', f'/{b}/half', {'Content-Length': str(50 << 20)}))
            try:
                s.sendall(b'x' * (20 << 20))
                go.set()
                s.recv(10)
            except OSError:
                go.set()
            s.close()

        threads = [threading.Thread(target=upload) for _ in range(4)]
        for t in threads:
            t.start()
        go.wait(10)
        self.assertEqual(self.zone.stop(), 0)
        for t in threads:
            t.join()
        self.zone.start()
        with self.assertRaises(ClientError):
            self.zone.client().head_object(Bucket=b, Key='half')


class Memory(Base):
    options = ('delay=2000',)

    def test_bounded(self):
        """More uploads at once than there are buffers for, and the process stays small."""
        b = self.bucket()
        blob = b'z' * (1 << 20)

        def upload(n):
            s = socket.create_connection(('127.0.0.1', self.zone.port), timeout=60)
            s.sendall(self.raw.head('PUT', f'/{b}/{n}', {'Content-Length': str(6 << 20)}))
            for _ in range(6):
                s.sendall(blob)
            a = http.client.HTTPResponse(s, method='PUT')
            a.begin()
            done.append(a.status)
            s.close()

        done = []
        threads = [threading.Thread(target=upload, args=(n,)) for n in range(100)]
        peak = 0
        for t in threads:
            t.start()
        while any(t.is_alive() for t in threads):
            with open(f'/proc/{self.zone.process.pid}/status') as f:
                rss = [int(x.split()[1]) for x in f if x.startswith('VmRSS')][0]
            peak = max(peak, rss)
            time.sleep(0.05)
        self.assertEqual(done, [200] * 100)
        if not any(x in open(PROGRAM, 'rb').read() for x in (b'__asan_init', b'__tsan_init')):
            self.assertLess(peak, 250 << 10)


if __name__ == '__main__':
    PROGRAM = sys.argv.pop(1)
    unittest.main(verbosity=1, warnings='ignore')
