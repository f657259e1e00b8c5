/* Growable byte buffer. Zeroed is empty and valid; nef_buf_free accepts that. Appending past `max`
 * (0: NEF_BUF_MAX) or out of memory sets `failed`, sticky, so that a builder checks once at its end.
 * The data pointer is valid until the next append. */
#ifndef NEF_BASE_BUF_H
#define NEF_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

#define NEF_BUF_MAX ((size_t)64 << 20)

struct nef_buf {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
    size_t max;
    bool failed;
};

void nef_buf_free(struct nef_buf *b);  /* also wipes what it held */
void nef_buf_reset(struct nef_buf *b); /* keeps the memory */
/* Room for BYTES more at the end, counted as appended; NULL when it failed. */
uint8_t *nef_buf_grow(struct nef_buf *b, size_t bytes);
void nef_buf_append(struct nef_buf *b, const void *data, size_t bytes);
void nef_buf_text(struct nef_buf *b, const char *text);
void nef_buf_printf(struct nef_buf *b, const char *format, ...) NEF_PRINTF(2, 3);
void nef_buf_u8(struct nef_buf *b, uint8_t v);
void nef_buf_u16(struct nef_buf *b, uint16_t v); /* little-endian, as nef_reader reads */
void nef_buf_u32(struct nef_buf *b, uint32_t v);
void nef_buf_u64(struct nef_buf *b, uint64_t v);
void nef_buf_block(struct nef_buf *b, const void *data, size_t bytes); /* u32 length, bytes */
NEF_MUST_CHECK nef_err nef_buf_end(const struct nef_buf *b);           /* NEF_E_NOMEM if failed */
/* A NUL after the data (not counted) and the data as text; "" when failed or empty. */
const char *nef_buf_cstr(struct nef_buf *b);

#endif
