/* Bounded reader and writer; see bytes.h. */
#include "base/bytes.h"
#include <string.h>

const uint8_t *nef_read_view(struct nef_reader *r, size_t bytes)
{
    const uint8_t *p;

    if (r->failed || bytes > r->bytes - r->at) {
        r->failed = true;
        return NULL;
    }
    p = r->data + r->at;
    r->at += bytes;
    return p;
}

void nef_read_copy(struct nef_reader *r, void *out, size_t bytes)
{
    const uint8_t *p = nef_read_view(r, bytes);

    if (bytes == 0)
        return;
    if (p == NULL)
        memset(out, 0, bytes);
    else
        memcpy(out, p, bytes);
}

static uint64_t read_le(struct nef_reader *r, size_t bytes)
{
    const uint8_t *p = nef_read_view(r, bytes);
    uint64_t v = 0;

    if (p == NULL)
        return 0;
    for (size_t i = bytes; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

uint8_t nef_read_u8(struct nef_reader *r)
{
    return (uint8_t)read_le(r, 1);
}

uint16_t nef_read_u16(struct nef_reader *r)
{
    return (uint16_t)read_le(r, 2);
}

uint32_t nef_read_u32(struct nef_reader *r)
{
    return (uint32_t)read_le(r, 4);
}

uint64_t nef_read_u64(struct nef_reader *r)
{
    return read_le(r, 8);
}

const uint8_t *nef_read_block(struct nef_reader *r, size_t max, size_t *out_bytes)
{
    uint32_t bytes = nef_read_u32(r);
    const uint8_t *p;

    if (bytes > max)
        r->failed = true;
    p = nef_read_view(r, bytes);
    *out_bytes = p == NULL ? 0 : bytes;
    return p;
}

nef_err nef_reader_end(const struct nef_reader *r)
{
    return r->failed || r->at != r->bytes ? NEF_E_PROTOCOL : NEF_OK;
}

void nef_write_copy(struct nef_writer *w, const void *data, size_t bytes)
{
    if (w->failed || bytes > w->bytes - w->at) {
        w->failed = true;
        return;
    }
    if (bytes > 0)
        memcpy(w->data + w->at, data, bytes);
    w->at += bytes;
}

void nef_write_zeros(struct nef_writer *w, size_t bytes)
{
    if (w->failed || bytes > w->bytes - w->at) {
        w->failed = true;
        return;
    }
    if (bytes > 0)
        memset(w->data + w->at, 0, bytes);
    w->at += bytes;
}

static void write_le(struct nef_writer *w, uint64_t v, size_t bytes)
{
    uint8_t p[8];

    for (size_t i = 0; i < bytes; i++, v >>= 8)
        p[i] = (uint8_t)v;
    nef_write_copy(w, p, bytes);
}

void nef_write_u8(struct nef_writer *w, uint8_t v)
{
    write_le(w, v, 1);
}

void nef_write_u16(struct nef_writer *w, uint16_t v)
{
    write_le(w, v, 2);
}

void nef_write_u32(struct nef_writer *w, uint32_t v)
{
    write_le(w, v, 4);
}

void nef_write_u64(struct nef_writer *w, uint64_t v)
{
    write_le(w, v, 8);
}

void nef_write_block(struct nef_writer *w, const void *data, size_t bytes)
{
    if (bytes > UINT32_MAX) {
        w->failed = true;
        return;
    }
    nef_write_u32(w, (uint32_t)bytes);
    nef_write_copy(w, data, bytes);
}

nef_err nef_writer_end(const struct nef_writer *w)
{
    return w->failed ? NEF_E_LIMIT : NEF_OK;
}

void nef_hex(const void *data, size_t bytes, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = (const uint8_t *)data;

    for (size_t i = 0; i < bytes; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * bytes] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

nef_err nef_unhex(const char *text, size_t characters, void *out, size_t bytes)
{
    uint8_t *p = (uint8_t *)out;

    if (characters != 2 * bytes)
        return NEF_E_INVALID;
    for (size_t i = 0; i < characters; i++)
        if (hex_value(text[i]) < 0)
            return NEF_E_INVALID;
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)(hex_value(text[2 * i]) << 4 | hex_value(text[2 * i + 1]));
    return NEF_OK;
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void nef_base64(const void *data, size_t bytes, char *out)
{
    const uint8_t *p = (const uint8_t *)data;

    for (size_t i = 0; i < bytes; i += 3) {
        size_t left = bytes - i;
        uint32_t v = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0u) |
                     (left > 2 ? (uint32_t)p[i + 2] : 0u);

        *out++ = base64_digits[v >> 18 & 63];
        *out++ = base64_digits[v >> 12 & 63];
        *out++ = left > 1 ? base64_digits[v >> 6 & 63] : '=';
        *out++ = left > 2 ? base64_digits[v & 63] : '=';
    }
    *out = '\0';
}

nef_err nef_unbase64(const char *text, size_t characters, void *out, size_t max, size_t *out_bytes)
{
    uint8_t *p = (uint8_t *)out;
    size_t n = 0, pad = 0;
    uint32_t v = 0;

    if (characters % 4 != 0)
        return NEF_E_INVALID;
    while (pad < 2 && pad < characters && text[characters - 1 - pad] == '=')
        pad++;
    for (size_t i = 0; i < characters - pad; i++) {
        const char *d = text[i] == '\0' ? NULL : strchr(base64_digits, text[i]);

        if (d == NULL)
            return NEF_E_INVALID;
        v = v << 6 | (uint32_t)(d - base64_digits);
        if (i % 4 != 0) {
            if (n >= max)
                return NEF_E_INVALID;
            p[n++] = (uint8_t)(v >> (6 - 2 * (i % 4)));
        }
    }
    /* the bits that padding leaves over must be zero: one text for one value */
    if ((pad == 1 && (v & 3) != 0) || (pad == 2 && (v & 15) != 0))
        return NEF_E_INVALID;
    *out_bytes = n;
    return NEF_OK;
}
