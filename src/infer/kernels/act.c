/* Sizes: where the prepared forms of activation rows lie in one buffer, and what a page of the cache takes. Rows are
 * padded to a multiple of 16, so that a set may load whole tiles; every part begins on a cache line. */
#include "base/assert.h"
#include "infer/kernels/kernels.h"

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Walks the parts in order; with a buffer, also sets the pointers. */
static size_t cut(struct nef_act *act, uint8_t *buffer, uint32_t rows, uint32_t k)
{
    size_t padded = ((size_t)rows + 15) / 16 * 16, weights = padded * k, groups = ((size_t)k + 255) / 256;
    size_t sizes[] = {2 * weights, 2 * weights, weights, weights, weights / 16 * 4, padded * groups * 4};
    uint8_t *part[NEF_COUNT(sizes)];
    size_t at = 0;

    for (size_t i = 0; i < NEF_COUNT(sizes); i++) {
        part[i] = buffer == NULL ? NULL : buffer + at;
        at += aligned(sizes[i]);
    }
    if (act != NULL) {
        act->bf16 = (uint16_t *)(void *)part[0];
        act->x16 = (int16_t *)(void *)part[1];
        act->hi = (int8_t *)part[2];
        act->lo = (int8_t *)part[3];
        act->sum16 = (int32_t *)(void *)part[4];
        act->d = (float *)(void *)part[5];
    }
    return at;
}

size_t nef_act_bytes(uint32_t rows_max, uint32_t k_max)
{
    NEF_ASSERT(k_max % NEF_BLOCK_COLS == 0);
    return cut(NULL, NULL, rows_max, k_max);
}

void nef_act_place(struct nef_act *act, void *buffer, uint32_t rows, uint32_t k, const float *x)
{
    NEF_ASSERT(rows > 0 && rows <= NEF_MATMUL_ROWS_MAX);
    NEF_ASSERT(k % NEF_BLOCK_COLS == 0);
    NEF_ASSERT((uintptr_t)buffer % 64 == 0);
    act->rows = rows;
    act->k = k;
    act->x = x;
    (void)cut(act, buffer, rows, k);
}

size_t nef_kv_page_bytes(enum nef_kv_type type, uint32_t head_dim)
{
    size_t values = (size_t)NEF_KV_TILE * head_dim;

    switch (type) {
    case NEF_KV_BF16:
        return 2 * values;
    case NEF_KV_F32:
        return 4 * values;
    case NEF_KV_I8:
        return values + NEF_KV_TILE * sizeof(float);
    }
    NEF_ASSERT(type <= NEF_KV_I8);
    return 0;
}
