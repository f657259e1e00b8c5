/* Growable byte buffer; see buf.h. */
#include "base/buf.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void nef_buf_free(struct nef_buf *b)
{
    if (b == NULL)
        return;
    if (b->data != NULL) {
        explicit_bzero(b->data, b->capacity); /* builders hold names and secrets */
        free(b->data);
    }
    *b = (struct nef_buf){.max = b->max};
}

void nef_buf_reset(struct nef_buf *b)
{
    b->bytes = 0;
    b->failed = false;
}

static bool reserve(struct nef_buf *b, size_t bytes)
{
    size_t max = b->max == 0 ? NEF_BUF_MAX : b->max;
    size_t capacity = b->capacity == 0 ? 256 : b->capacity;
    uint8_t *data;

    if (b->failed || bytes > max || b->bytes > max - bytes) {
        b->failed = true;
        return false;
    }
    if (b->data != NULL && b->bytes + bytes <= b->capacity)
        return true;
    while (capacity < b->bytes + bytes)
        capacity *= 2;
    /* not realloc: the old copy must be wiped */
    data = malloc(capacity);
    if (data == NULL) {
        b->failed = true;
        return false;
    }
    if (b->data != NULL) {
        memcpy(data, b->data, b->bytes);
        explicit_bzero(b->data, b->capacity);
        free(b->data);
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

uint8_t *nef_buf_grow(struct nef_buf *b, size_t bytes)
{
    uint8_t *p;

    if (!reserve(b, bytes))
        return NULL;
    p = b->data + b->bytes;
    b->bytes += bytes;
    return p;
}

void nef_buf_append(struct nef_buf *b, const void *data, size_t bytes)
{
    uint8_t *p = nef_buf_grow(b, bytes);

    if (p != NULL && bytes > 0)
        memcpy(p, data, bytes);
}

void nef_buf_text(struct nef_buf *b, const char *text)
{
    nef_buf_append(b, text, strlen(text));
}

void nef_buf_printf(struct nef_buf *b, const char *format, ...)
{
    va_list args, again;
    int n;

    va_start(args, format);
    va_copy(again, args);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !reserve(b, (size_t)n + 1)) {
        b->failed = true;
    } else {
        (void)vsnprintf((char *)b->data + b->bytes, (size_t)n + 1, format, again);
        b->bytes += (size_t)n;
    }
    va_end(again);
}

static void append_le(struct nef_buf *b, uint64_t v, size_t bytes)
{
    uint8_t p[8];

    for (size_t i = 0; i < bytes; i++, v >>= 8)
        p[i] = (uint8_t)v;
    nef_buf_append(b, p, bytes);
}

void nef_buf_u8(struct nef_buf *b, uint8_t v)
{
    append_le(b, v, 1);
}

void nef_buf_u16(struct nef_buf *b, uint16_t v)
{
    append_le(b, v, 2);
}

void nef_buf_u32(struct nef_buf *b, uint32_t v)
{
    append_le(b, v, 4);
}

void nef_buf_u64(struct nef_buf *b, uint64_t v)
{
    append_le(b, v, 8);
}

void nef_buf_block(struct nef_buf *b, const void *data, size_t bytes)
{
    if (bytes > UINT32_MAX) {
        b->failed = true;
        return;
    }
    nef_buf_u32(b, (uint32_t)bytes);
    nef_buf_append(b, data, bytes);
}

nef_err nef_buf_end(const struct nef_buf *b)
{
    return b->failed ? NEF_E_NOMEM : NEF_OK;
}

const char *nef_buf_cstr(struct nef_buf *b)
{
    if (b->failed || !reserve(b, 1))
        return "";
    b->data[b->bytes] = '\0';
    return (const char *)b->data;
}
