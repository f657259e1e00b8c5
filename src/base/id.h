/* 16-byte random identifiers: replicas, buckets, streams. All-zero means "none". */
#ifndef NEF_BASE_ID_H
#define NEF_BASE_ID_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct nef_id {
    uint8_t bytes[16];
};

static inline bool nef_id_equal(const struct nef_id *a, const struct nef_id *b)
{
    return memcmp(a->bytes, b->bytes, 16) == 0;
}
static inline bool nef_id_is_zero(const struct nef_id *a)
{
    static const struct nef_id zero;
    return nef_id_equal(a, &zero);
}

#endif
