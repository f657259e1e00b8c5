"""GGUF files, read and written. src/infer/gguf/parse.c describes the format; this reader trusts its file."""
import struct

import numpy as np

import gguf_quants as quants

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALAR = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
ALIGNMENT = 32


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, v, element=None):
    """The bytes of a value without its type."""
    if kind == STRING:
        return string(v)
    if kind == ARRAY:
        head = struct.pack("<IQ", element, len(v))
        if element == STRING:
            return head + b"".join(string(s) for s in v)
        return head + struct.pack("<%d%s" % (len(v), SCALAR[element]), *v)
    return struct.pack("<" + SCALAR[kind], v)


def padded(count, alignment=ALIGNMENT):
    return (count + alignment - 1) // alignment * alignment


class Tensor:
    """shape in numpy's order (rows, columns). fill() yields the data as pieces of bytes."""

    def __init__(self, name, shape, kind, fill):
        self.name, self.shape, self.kind, self.fill = name, tuple(shape), kind, fill
        self.count = int(np.prod(self.shape))
        self.bytes = quants.size(kind, self.count)


def write(path, keys, tensors, version=3):
    """keys: list of (key, type, value[, element type])."""
    with open(path, "wb") as f:
        f.write(struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys)))
        for key, kind, *v in keys:
            f.write(string(key) + struct.pack("<I", kind) + value(kind, *v))
        offset = 0
        for t in tensors:
            dims = t.shape[::-1]
            f.write(string(t.name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, t.kind, offset))
            offset += padded(t.bytes)
        f.write(bytes(padded(f.tell()) - f.tell()))
        for t in tensors:
            start = f.tell()
            for piece in t.fill():
                f.write(piece)
            assert f.tell() - start == t.bytes, (t.name, f.tell() - start, t.bytes)
            f.write(bytes(padded(t.bytes) - t.bytes))


class File:
    """keys: a dict. tensors: name to (shape, type, data), data a view of the mapped file."""

    def __init__(self, path):
        self._data = np.memmap(path, np.uint8, "r")
        self._at = 4
        assert bytes(self._data[:4]) == b"GGUF", path
        self.version, tensor_count, key_count = self._take("I"), self._take("Q"), self._take("Q")
        self.keys = {}
        for _ in range(key_count):
            key = self._string().decode()
            self.keys[key] = self._value(self._take("I"))
        infos = []
        for _ in range(tensor_count):
            name = self._string().decode()
            dims = [self._take("Q") for _ in range(self._take("I"))]
            infos.append((name, dims[::-1], self._take("I"), self._take("Q")))
        base = padded(self._at, self.keys.get("general.alignment", ALIGNMENT))
        self.tensors = {}
        for name, shape, kind, offset in infos:
            count = int(np.prod(shape))
            self.tensors[name] = (shape, kind, self._data[base + offset:base + offset + quants.size(kind, count)])

    def weights(self, name):
        """A tensor as float64."""
        shape, kind, data = self.tensors[name]
        return quants.dequantize(data, kind, int(np.prod(shape))).reshape(shape)

    def _take(self, code):
        size = struct.calcsize("<" + code)
        out, = struct.unpack("<" + code, self._data[self._at:self._at + size].tobytes())
        self._at += size
        return out

    def _string(self):
        count = self._take("Q")
        self._at += count
        return self._data[self._at - count:self._at].tobytes()

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            element, count = self._take("I"), self._take("Q")
            return [self._value(element) for _ in range(count)]
        return self._take(SCALAR[kind])
