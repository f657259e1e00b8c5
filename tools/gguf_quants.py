"""Block formats of ggml in numpy: float32 to bytes, and bytes to float64.

Layouts are those of ggml-common.h; src/infer/gguf/row.c describes them. The quantizers are our own: the 32-weight types
round to nearest, the K types try a few scales and keep the one of least squared error. dequantize() is exact: every
product and sum of the formats is representable in float64.
"""
import numpy as np

F32, F16, Q4_0, Q5_0, Q8_0, Q4_K, Q5_K, Q6_K, BF16 = 0, 1, 2, 6, 8, 12, 13, 14, 30
NAMES = {F32: "F32", F16: "F16", Q4_0: "Q4_0", Q5_0: "Q5_0", Q8_0: "Q8_0", Q4_K: "Q4_K", Q5_K: "Q5_K", Q6_K: "Q6_K",
         BF16: "BF16"}
# type: (weights of a block, its bytes)
BLOCK = {F32: (1, 4), F16: (1, 2), BF16: (1, 2), Q4_0: (32, 18), Q5_0: (32, 22), Q8_0: (32, 34), Q4_K: (256, 144),
         Q5_K: (256, 176), Q6_K: (256, 210)}


def size(kind, count):
    weights, block = BLOCK[kind]
    assert count % weights == 0, (NAMES[kind], count)
    return count // weights * block


# --- float32 to bytes ----------------------------------------------------------------------------------------------

def _half(x):
    """float16 as two bytes a row, and the value that was stored."""
    h = x.astype("<f2")
    return h.view(np.uint8).reshape(-1, 2), h.astype(np.float32)


def _inverse(x):
    """1/x, and 0 where x is 0."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=x != 0)


def _bf16(x):
    u = x.view("<u4")
    return ((u + np.uint32(0x7fff) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def _q8_0(x):
    x = x.reshape(-1, 32)
    d, stored = _half(np.abs(x).max(1) / np.float32(127))
    q = np.clip(np.rint(x * _inverse(stored)[:, None]), -127, 127).astype(np.int8)
    return np.concatenate([d, q.view(np.uint8)], 1)


def _signed_extreme(x):
    """The value of largest magnitude of each row, with its sign."""
    low, high = x.min(1), x.max(1)
    return np.where(-low > high, low, high)


def _q45_0(x, bits):
    """The extreme value gets the integer that has no positive counterpart, so all 2^bits integers are used."""
    x = x.reshape(-1, 32)
    zero = 1 << (bits - 1)
    d, stored = _half(_signed_extreme(x) / np.float32(-zero))
    q = np.clip(np.rint(x * _inverse(stored)[:, None]) + zero, 0, 2 * zero - 1).astype(np.uint8)
    low = (q[:, :16] & 15) | ((q[:, 16:] & 15) << 4)
    if bits == 4:
        return np.concatenate([d, low], 1)
    return np.concatenate([d, np.packbits(q >> 4, axis=1, bitorder="little"), low], 1)


def _scale_and_offset(x, top):
    """x (n, 32) as scale*q - offset with 0 <= q <= top, scale and offset >= 0: the best of a few least-squares fits."""
    low = np.minimum(x.min(1), 0)
    span = x.max(1) - low
    shifted = x - low[:, None]
    sx = x.sum(1)
    best = scale = offset = None
    for stretch in (-0.9, -0.5, -0.1, 0.3):
        inverse = np.float32(top + stretch) * _inverse(span)
        q = shifted * inverse[:, None]
        np.minimum(np.rint(q, out=q), top, out=q)
        sq, sqq, sxq = q.sum(1), np.einsum("ij,ij->i", q, q), np.einsum("ij,ij->i", x, q)
        det = 32 * sqq - sq * sq
        flat = det <= 0                                # all q are equal: x is constant
        s = np.divide(32 * sxq - sq * sx, det, out=np.zeros_like(det), where=~flat)
        m = np.divide(sq * sxq - sqq * sx, det, out=-low, where=~flat)
        alone = (flat | (m < 0)) & (sqq > 0)           # offsets can't be negative
        s = np.where(alone, np.divide(sxq, sqq, out=np.zeros_like(sqq), where=sqq > 0), s)
        m = np.where(alone, np.float32(0), m)
        s = np.maximum(s, 0)
        error = s * s * sqq - 2 * s * m * sq + 32 * m * m - 2 * s * sxq + 2 * m * sx
        if best is None:
            best, scale, offset = error, s, m
        else:
            better = error < best
            best, scale, offset = np.where(better, error, best), np.where(better, s, scale), np.where(better, m, offset)
    return scale, offset


def _q45_k(x, bits):
    x = x.reshape(-1, 32)
    top = (1 << bits) - 1
    scale, offset = (t.reshape(-1, 8) for t in _scale_and_offset(x, top))
    d, d_stored = _half(scale.max(1) / np.float32(63))
    dmin, dmin_stored = _half(offset.max(1) / np.float32(63))
    sc = np.clip(np.rint(scale * _inverse(d_stored)[:, None]), 0, 63)
    m = np.clip(np.rint(offset * _inverse(dmin_stored)[:, None]), 0, 63)
    step = (d_stored[:, None] * sc).reshape(-1, 1)
    q = (x + (dmin_stored[:, None] * m).reshape(-1, 1)) * _inverse(step)
    q = np.clip(np.rint(q, out=q), 0, top).astype(np.uint8).reshape(-1, 8, 32)
    sc, m = sc.astype(np.uint8), m.astype(np.uint8)
    packed = np.concatenate([sc[:, :4] | (sc[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6,
                             (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4], 1)
    pairs = (q & 15).reshape(-1, 4, 2, 32)
    low = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    if bits == 4:
        return np.concatenate([d, dmin, packed, low], 1)
    high = np.packbits(q >> 4, axis=1, bitorder="little").reshape(-1, 32)
    return np.concatenate([d, dmin, packed, high, low], 1)


def _q6_k(x):
    x = x.reshape(-1, 16)
    inverse = _inverse(_signed_extreme(x))
    best = scale = None
    for reach in (-32.5, -32.0, -31.0, -30.0):
        q = x * (np.float32(reach) * inverse)[:, None]
        np.clip(np.rint(q, out=q), -32, 31, out=q)
        sqq, sxq = np.einsum("ij,ij->i", q, q), np.einsum("ij,ij->i", x, q)
        s = np.divide(sxq, sqq, out=np.zeros_like(sqq), where=sqq > 0)
        gain = s * sxq                                 # squared error = sum of x*x - gain
        if best is None:
            best, scale = gain, s
        else:
            better = gain > best
            best, scale = np.where(better, gain, best), np.where(better, s, scale)
    scale = scale.reshape(-1, 16)
    d, stored = _half(_signed_extreme(scale) / np.float32(-128))
    sc = np.clip(np.rint(scale * _inverse(stored)[:, None]), -128, 127)
    step = (stored[:, None] * sc).reshape(-1, 1)
    q = x * _inverse(step)
    q = (np.clip(np.rint(q, out=q), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = (q[:, :, :2] & 15) | (q[:, :, 2:] & 15) << 4
    high = q >> 4
    high = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64), sc.astype(np.int8).view(np.uint8), d], 1)


def quantize(x, kind):
    """The bytes of a float32 array whose last axis is a row."""
    x = np.ascontiguousarray(x, np.float32)
    make = {F32: lambda a: a.astype("<f4"), F16: lambda a: a.astype("<f2"), BF16: _bf16, Q8_0: _q8_0,
            Q4_0: lambda a: _q45_0(a, 4), Q5_0: lambda a: _q45_0(a, 5), Q4_K: lambda a: _q45_k(a, 4),
            Q5_K: lambda a: _q45_k(a, 5), Q6_K: _q6_k}[kind]
    data = np.ascontiguousarray(make(x)).tobytes()
    assert len(data) == size(kind, x.size)
    return data


# --- bytes to float64 ----------------------------------------------------------------------------------------------

def _d(b):
    """float16 columns of a byte matrix as float64, one a row."""
    return np.ascontiguousarray(b).view("<f2").astype(np.float64)


def _nibbles(b):
    return np.concatenate([b & 15, b >> 4], 1).astype(np.int16)


def _deq45_k(b, bits):
    p = b[:, 4:16]
    sc = np.concatenate([p[:, :4] & 63, (p[:, 8:] & 15) | (p[:, :4] >> 6) << 4], 1).astype(np.float64)
    m = np.concatenate([p[:, 4:8] & 63, (p[:, 8:] >> 4) | (p[:, 4:8] >> 6) << 4], 1).astype(np.float64)
    low = b[:, -128:].reshape(-1, 4, 32)
    q = np.stack([low & 15, low >> 4], 2).reshape(-1, 8, 32)
    if bits == 5:
        q = q | (b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4
    return (_d(b[:, :2]) * sc)[:, :, None] * q - (_d(b[:, 2:4]) * m)[:, :, None]


def _deq6_k(b):
    low = b[:, :128].reshape(-1, 2, 2, 32)
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    q = (np.concatenate([low & 15, low >> 4], 2) | high << 4).astype(np.int16) - 32
    sc = np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.float64)
    return (_d(b[:, 208:]) * sc)[:, :, None] * q.reshape(-1, 16, 16)


def dequantize(data, kind, count):
    """COUNT weights as float64."""
    weights, block = BLOCK[kind]
    b = np.frombuffer(data, np.uint8, size(kind, count))
    if kind == F32:
        return b.view("<f4").astype(np.float64)
    if kind == F16:
        return b.view("<f2").astype(np.float64)
    if kind == BF16:
        return (b.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    b = b.reshape(-1, block)
    if kind == Q8_0:
        out = _d(b[:, :2]) * np.ascontiguousarray(b[:, 2:]).view(np.int8)
    elif kind == Q4_0:
        out = _d(b[:, :2]) * (_nibbles(b[:, 2:]) - 8)
    elif kind == Q5_0:
        high = np.unpackbits(b[:, 2:6], axis=1, bitorder="little").astype(np.int16)
        out = _d(b[:, :2]) * ((_nibbles(b[:, 6:]) | high << 4) - 16)
    elif kind in (Q4_K, Q5_K):
        out = _deq45_k(b, 4 if kind == Q4_K else 5)
    else:
        out = _deq6_k(b)
    return out.reshape(-1)
