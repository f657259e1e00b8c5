"""A small S3 client for tests: SigV4 by hand over http.client, one connection an object of it, no retries of
any kind. Answers are (status, headers, body); what breaks raises OSError or http.client.HTTPException, and
the connection is opened anew by the next call.

It also builds what the SDKs hide: aws-chunked bodies (signed, unsigned, with trailers), wrong hashes, presigned
URLs. Nothing here comes from an SDK, so the two check each other."""
import datetime
import hashlib
import hmac
import http.client
import ssl
import urllib.parse

UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def quote(text, safe="-_.~"):
    return urllib.parse.quote(text, safe=safe)


class S3:
    def __init__(self, endpoint, access_key, secret_key, region, timeout=10, ca=None):
        u = urllib.parse.urlparse(endpoint)
        self.scheme, self.host, self.port = u.scheme, u.hostname, u.port
        self.authority = u.netloc.removesuffix(":443" if u.scheme == "https" else ":80")  # as http.client sends it
        self.access_key, self.secret_key, self.region = access_key, secret_key, region
        self.timeout, self.ca = timeout, ca
        self.connection = None
        self.day = None
        self.skew = datetime.timedelta(0)  # added to the time that is signed

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # ---- signing ----

    def _key(self, day):
        if self.day != day:
            k = _hmac(("AWS4" + self.secret_key).encode(), day)
            for part in (self.region, "s3", "aws4_request"):
                k = _hmac(k, part)
            self.day, self.signing_key = day, k
        return self.signing_key

    def _now(self):
        now = datetime.datetime.utcnow() + self.skew
        return now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")

    def _signature(self, day, text):
        return hmac.new(self._key(day), text.encode(), hashlib.sha256).hexdigest()

    def sign(self, method, path, query, headers, payload):
        """Headers to send, and what chunk signatures go on from: (headers, stamp, scope, signature).
        path and query as they go on the wire."""
        stamp, day = self._now()
        signed = {k.lower(): str(v) for k, v in headers.items()}
        signed["host"] = self.authority
        signed["x-amz-date"] = stamp
        signed["x-amz-content-sha256"] = payload
        names = ";".join(sorted(signed))
        canonical = "\n".join([method, path, query,
                               "".join(f"{k}:{signed[k].strip()}\n" for k in sorted(signed)), names,
                               payload])
        scope = f"{day}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope,
                          hashlib.sha256(canonical.encode()).hexdigest()])
        signature = self._signature(day, text)
        signed["Authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
                                   f"SignedHeaders={names}, Signature={signature}")
        return signed, stamp, scope, signature

    def presign(self, method, path, expires=900, query=None):
        stamp, day = self._now()
        path = quote(path, "/-_.~")
        scope = f"{day}/{self.region}/s3/aws4_request"
        q = {"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{self.access_key}/{scope}",
             "X-Amz-Date": stamp, "X-Amz-Expires": str(expires), "X-Amz-SignedHeaders": "host"}
        q.update(query or {})
        text = "&".join(f"{quote(k)}={quote(v)}" for k, v in sorted(q.items()))
        canonical = "\n".join([method, path, text, f"host:{self.authority}\n", "host", UNSIGNED])
        signature = self._signature(day, "\n".join(
            ["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()]))
        return f"{self.scheme}://{self.authority}{path}?{text}&X-Amz-Signature={signature}"

    # ---- requests ----

    def request(self, method, path, query=None, body=b"", headers=None, payload=UNSIGNED):
        """payload: a value of x-amz-content-sha256, or "signed" for the body's own hash."""
        if payload == "signed":
            payload = hashlib.sha256(body).hexdigest()
        path = quote(path, "/-_.~")
        query = "&".join(f"{quote(k)}={quote(str(v))}" for k, v in sorted((query or {}).items()))
        signed, _, _, _ = self.sign(method, path, query, headers or {}, payload)
        del signed["host"]
        return self.send(method, path + ("?" + query if query else ""), body, signed)

    def send(self, method, target, body, headers):
        try:
            if self.connection is None:
                if self.scheme == "https":
                    context = ssl.create_default_context(cafile=self.ca)
                    self.connection = http.client.HTTPSConnection(self.host, self.port,
                                                                  timeout=self.timeout, context=context)
                else:
                    self.connection = http.client.HTTPConnection(self.host, self.port,
                                                                 timeout=self.timeout)
            self.connection.request(method, target, body=body, headers=headers)
            r = self.connection.getresponse()
            data = r.read()
            if r.will_close:
                self.close()
            return r.status, {k.lower(): v for k, v in r.getheaders()}, data
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    # ---- aws-chunked ----

    def put_chunked(self, path, body, mode, chunk=65536, trailer=None, headers=None, damage=None):
        """PUT as SDKs stream it. trailer: (header name, value). damage: called with the encoded body, to
        change it after it was signed."""
        h = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(body))}
        h.update(headers or {})
        if trailer:
            h["x-amz-trailer"] = trailer[0]
        path = quote(path, "/-_.~")
        signed, stamp, scope, previous = self.sign("PUT", path, "", h, mode)
        del signed["host"]
        day = scope.split("/")[0]
        pieces = [body[i:i + chunk] for i in range(0, len(body), chunk)] + [b""]
        out = []
        for piece in pieces:
            if mode == STREAMING_UNSIGNED_TRAILER:
                out.append(b"%x\r\n" % len(piece))
            else:
                previous = self._signature(day, "\n".join(
                    ["AWS4-HMAC-SHA256-PAYLOAD", stamp, scope, previous, EMPTY_SHA256,
                     hashlib.sha256(piece).hexdigest()]))
                out.append(b"%x;chunk-signature=%s\r\n" % (len(piece), previous.encode()))
            if piece:
                out.append(piece + b"\r\n")
        if trailer:
            line = f"{trailer[0]}:{trailer[1]}"
            out.append(line.encode() + b"\r\n")
            if mode == STREAMING_TRAILER:
                previous = self._signature(day, "\n".join(
                    ["AWS4-HMAC-SHA256-TRAILER", stamp, scope, previous,
                     hashlib.sha256(line.encode() + b"\n").hexdigest()]))
                out.append(f"x-amz-trailer-signature:{previous}\r\n".encode())
        out.append(b"\r\n")
        encoded = b"".join(out)
        if damage:
            encoded = damage(encoded)
        return self.send("PUT", path, encoded, signed)

    @classmethod
    def of(cls, region, zone=None, timeout=10, access_key=None, secret_key=None):
        j = region.json
        return cls(j["endpoint"] if zone is None else region.zone(zone)["s3"],
                   access_key or j["access_key"], secret_key or j["secret_key"], j["region"], timeout,
                   ca=j["ca"])


def error_code(body):
    """<Code> of an Error document; "" if there is none."""
    text = body.decode("utf-8", "replace")
    return text.split("<Code>", 1)[1].split("</Code>", 1)[0] if "<Code>" in text else ""
