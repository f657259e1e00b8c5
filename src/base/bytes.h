/* Bounded reader and writer over memory: the only way bytes of a format or a protocol are read or
 * written. Little-endian, fixed width. Both are sticky: after the first overrun every further call
 * does nothing (reads give zeros) and `failed` stays true, so a decoder checks once at its end.
 * Neither allocates; neither owns the memory. Any thread, one at a time. */
#ifndef NEF_BASE_BYTES_H
#define NEF_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct nef_reader {
    const uint8_t *data;
    size_t bytes;
    size_t at;
    bool failed;
};

struct nef_writer {
    uint8_t *data;
    size_t bytes; /* capacity */
    size_t at;
    bool failed;
};

static inline struct nef_reader nef_reader_of(const void *data, size_t bytes)
{
    return (struct nef_reader){(const uint8_t *)data, bytes, 0, false};
}

static inline struct nef_writer nef_writer_of(void *data, size_t bytes)
{
    return (struct nef_writer){(uint8_t *)data, bytes, 0, false};
}

uint8_t nef_read_u8(struct nef_reader *r);
uint16_t nef_read_u16(struct nef_reader *r);
uint32_t nef_read_u32(struct nef_reader *r);
uint64_t nef_read_u64(struct nef_reader *r);
/* Copies BYTES bytes to out; zeros them when too few are left. */
void nef_read_copy(struct nef_reader *r, void *out, size_t bytes);
/* Borrowed view of the next BYTES bytes, or NULL (and failed) when too few are left. */
const uint8_t *nef_read_view(struct nef_reader *r, size_t bytes);
/* u32 length, then the bytes; the view is borrowed. A length above MAX fails. */
const uint8_t *nef_read_block(struct nef_reader *r, size_t max, size_t *out_bytes);
static inline size_t nef_reader_left(const struct nef_reader *r)
{
    return r->bytes - r->at;
}
/* NEF_OK if nothing overran and nothing is left over, else NEF_E_PROTOCOL. */
NEF_MUST_CHECK nef_err nef_reader_end(const struct nef_reader *r);

void nef_write_u8(struct nef_writer *w, uint8_t v);
void nef_write_u16(struct nef_writer *w, uint16_t v);
void nef_write_u32(struct nef_writer *w, uint32_t v);
void nef_write_u64(struct nef_writer *w, uint64_t v);
void nef_write_copy(struct nef_writer *w, const void *data, size_t bytes);
void nef_write_zeros(struct nef_writer *w, size_t bytes);
void nef_write_block(struct nef_writer *w, const void *data, size_t bytes);
NEF_MUST_CHECK nef_err nef_writer_end(const struct nef_writer *w); /* NEF_E_LIMIT if it overran */

/* Big-endian, for keys of the index, whose byte order is their sort order. */
static inline void nef_put_be64(uint8_t *p, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}
static inline uint64_t nef_get_be64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}
static inline void nef_put_be32(uint8_t *p, uint32_t v)
{
    for (int i = 3; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}
static inline uint32_t nef_get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Lower-case hex. nef_hex writes 2*bytes characters and a NUL. nef_unhex accepts either case, needs
 * exactly 2*bytes characters, and returns NEF_E_INVALID otherwise. */
void nef_hex(const void *data, size_t bytes, char *out);
NEF_MUST_CHECK nef_err nef_unhex(const char *text, size_t characters, void *out, size_t bytes);

/* Base64 (RFC 4648, padded). Encode writes nef_base64_size(bytes) characters and a NUL. Decode is
 * strict and returns NEF_E_INVALID for anything else; out_bytes <= max. */
static inline size_t nef_base64_size(size_t bytes)
{
    return (bytes + 2) / 3 * 4;
}
void nef_base64(const void *data, size_t bytes, char *out);
NEF_MUST_CHECK nef_err nef_unbase64(const char *text, size_t characters, void *out, size_t max,
                                    size_t *out_bytes);

#endif
