/* SipHash-2-4, incremental over two pieces so that a slot needs no copy of bucket id and key. */
#include "base/siphash.h"
#include <string.h>

#define ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define ROUND(v)                                                                                   \
    do {                                                                                           \
        v[0] += v[1];                                                                              \
        v[1] = ROTL(v[1], 13) ^ v[0];                                                              \
        v[0] = ROTL(v[0], 32);                                                                     \
        v[2] += v[3];                                                                              \
        v[3] = ROTL(v[3], 16) ^ v[2];                                                              \
        v[0] += v[3];                                                                              \
        v[3] = ROTL(v[3], 21) ^ v[0];                                                              \
        v[2] += v[1];                                                                              \
        v[1] = ROTL(v[1], 17) ^ v[2];                                                              \
        v[2] = ROTL(v[2], 32);                                                                     \
    } while (0)

static uint64_t load64(const uint8_t *p)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

struct state {
    uint64_t v[4];
};

static void start(struct state *s, const uint8_t key[16])
{
    uint64_t k0 = load64(key), k1 = load64(key + 8);

    s->v[0] = k0 ^ 0x736f6d6570736575u;
    s->v[1] = k1 ^ 0x646f72616e646f6du;
    s->v[2] = k0 ^ 0x6c7967656e657261u;
    s->v[3] = k1 ^ 0x7465646279746573u;
}

static void block(struct state *s, uint64_t m)
{
    s->v[3] ^= m;
    ROUND(s->v);
    ROUND(s->v);
    s->v[0] ^= m;
}

/* DATA's whole blocks, then its rest with the TOTAL length in the top byte. */
static uint64_t finish(struct state *s, const uint8_t *data, size_t bytes, size_t total)
{
    uint64_t last = (uint64_t)(total & 255) << 56;

    for (; bytes >= 8; bytes -= 8, data += 8)
        block(s, load64(data));
    for (size_t i = 0; i < bytes; i++)
        last |= (uint64_t)data[i] << (8 * i);
    block(s, last);
    s->v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        ROUND(s->v);
    return s->v[0] ^ s->v[1] ^ s->v[2] ^ s->v[3];
}

uint64_t nef_siphash(const uint8_t key[16], const void *data, size_t bytes)
{
    struct state s;

    start(&s, key);
    return finish(&s, (const uint8_t *)data, bytes, bytes);
}

uint32_t nef_slot(const uint8_t bucket_id[16], const void *object_key, size_t object_key_bytes)
{
    static const uint8_t zero[16];
    struct state s;

    start(&s, zero);
    block(&s, load64(bucket_id));
    block(&s, load64(bucket_id + 8));
    return (uint32_t)(finish(&s, (const uint8_t *)object_key, object_key_bytes,
                             16 + object_key_bytes) %
                      NEF_SLOT_COUNT);
}
