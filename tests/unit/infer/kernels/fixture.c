/* See fixture.h. */
#include "fixture.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/gguf/gguf.h"

uint64_t random_next(struct random *r) /* splitmix64 */
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15ull);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

uint32_t random_below(struct random *r, uint32_t limit)
{
    return (uint32_t)(random_next(r) % limit);
}

float random_unit(struct random *r)
{
    return (float)((double)(random_next(r) >> 40) / (double)(1 << 23) - 1.0);
}

static float wild(struct random *r)
{
    static const float special[] = {0.0f,  -0.0f,  0x1p-149f, -0x1.fffffcp-127f, 0x1p-126f, -0x1p-120f, 1e-37f,
                                    1e30f, -1e15f, 1e8f};

    switch (random_below(r, 8)) {
    case 0:
        return special[random_below(r, NEF_COUNT(special))];
    case 1:
        return ldexpf(random_unit(r), (int)random_below(r, 40) - 20);
    default:
        return random_unit(r);
    }
}

void random_floats(struct random *r, enum values kind, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = kind == PLAIN ? random_unit(r) : wild(r);
    if (kind == PLAIN)
        return;
    for (size_t i = 0; i + 256 <= count; i += 256) { /* groups of one kind */
        uint32_t group = random_below(r, 8);

        for (size_t j = i; group < 2 && j < i + 256; j++)
            out[j] = group == 0 ? 0.0f : out[j] * 1e-33f;
    }
    if (kind == BROKEN)
        for (size_t i = random_below(r, 100); i < count; i += 200 + random_below(r, 2000))
            out[i] = random_below(r, 2) == 0 ? NAN : -INFINITY;
}

size_t rows_bytes(uint32_t type, uint64_t n, uint64_t k)
{
    uint32_t weights, bytes;

    NEF_ASSERT(nef_ggml_block(type, &weights, &bytes) && k % weights == 0);
    return (size_t)(n * (k / weights) * bytes);
}

/* f16 in the middle of its range, or with WILD now and then anything finite. */
static void put_scale(struct random *r, enum values kind, uint8_t *p)
{
    static const uint16_t special[] = {0, 0x8000, 1, 0x03ff, 0x8200, 0x7bff, 0xfbff};
    uint16_t half = (uint16_t)((random_next(r) & 0x83ff) | (0x1c00 + random_below(r, 4) * 0x400));

    if (kind != PLAIN && random_below(r, 4) == 0)
        half = special[random_below(r, NEF_COUNT(special))];
    memcpy(p, &half, 2);
}

void random_rows(struct random *r, enum values kind, uint32_t type, uint64_t n, uint64_t k, uint8_t *out)
{
    size_t bytes = rows_bytes(type, n, k);
    uint32_t weights, block;

    NEF_ASSERT(nef_ggml_block(type, &weights, &block));
    for (size_t i = 0; i < bytes; i++)
        out[i] = (uint8_t)random_next(r);
    for (size_t i = 0; i < bytes; i += block) {
        float f = kind == PLAIN ? random_unit(r) : wild(r);
        uint32_t bits;

        memcpy(&bits, &f, 4);
        switch ((enum nef_ggml_type)type) {
        case NEF_GGML_F32:
            memcpy(out + i, &f, 4);
            break;
        case NEF_GGML_BF16:
            memcpy(out + i, (const uint8_t *)&bits + 2, 2);
            break;
        case NEF_GGML_Q4_K:
        case NEF_GGML_Q5_K:
            put_scale(r, kind, out + i + 2);
            put_scale(r, kind, out + i);
            break;
        case NEF_GGML_Q6_K:
            put_scale(r, kind, out + i + 208);
            break;
        case NEF_GGML_F16:
        case NEF_GGML_Q8_0:
        case NEF_GGML_Q4_0:
        case NEF_GGML_Q5_0:
            put_scale(r, kind, out + i);
            break;
        }
    }
}

bool same_floats(const char *what, const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&a[i], &b[i], sizeof a[i]) == 0 || (isnan(a[i]) && isnan(b[i])))
            continue;
        (void)fprintf(stderr, "%s: at %zu: %a, should be %a\n", what, i, (double)b[i], (double)a[i]);
        return false;
    }
    return true;
}

void *room(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 64) / 64 * 64);

    NEF_ASSERT(p != NULL);
    memset(p, 0, bytes);
    return p;
}

const struct nef_kernels *scalar_set(void)
{
    return nef_kernels_get("scalar");
}

const struct nef_kernels *const *fast_sets(void)
{
    static const char *const names[] = {"avx2", "avx512", "amx"};
    static const struct nef_kernels *sets[NEF_COUNT(names) + 1];
    size_t count = 0;

    for (size_t i = 0; i < NEF_COUNT(names); i++) {
        const struct nef_kernels *set = nef_kernels_get(names[i]);

        if (set == NULL)
            continue;
        NEF_ASSERT(nef_kernels_thread_enter(set) == NEF_OK);
        sets[count++] = set;
    }
    NEF_ASSERT(nef_kernels_thread_enter(scalar_set()) == NEF_OK);
    sets[count] = NULL;
    return sets;
}
