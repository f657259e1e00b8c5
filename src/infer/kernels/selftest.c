/* A set against the scalar one, on small vectors, before it is used: every weight type, a full and a ragged tile, few
 * and many rows, every cache type, and the elementwise kernels. Some milliseconds, once per process. The unit tests
 * search wider; this is for the machine that the tests did not run on. */
#include "base/assert.h"
#include "infer/gguf/gguf.h"
#include "infer/kernels/kernels_internal.h"
#include "infer/kernels/math.h"

#define K      288u /* a full group and a short one */
#define K_WIDE 512u /* of K types */
#define N      23u
#define ROWS   14u
#define DIM    64u
#define SEEN   100u /* positions: a full page and a part */

static const uint32_t types[] = {NEF_GGML_F32,  NEF_GGML_F16,  NEF_GGML_BF16, NEF_GGML_Q8_0, NEF_GGML_Q4_0,
                                 NEF_GGML_Q5_0, NEF_GGML_Q4_K, NEF_GGML_Q5_K, NEF_GGML_Q6_K};

/* Fixed, so that every machine tests the same. Source: Vigna's splitmix64. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void fill(uint64_t *state, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)((double)(next(state) >> 40) / (double)(1 << 23) - 1.0);
}

/* Random bytes whose 16-bit halves are tame as f16 or bf16, and words as f32: exponents in the middle. */
static void fill_bytes(uint64_t *state, size_t bytes, uint8_t *out)
{
    for (size_t i = 0; i < bytes; i++)
        out[i] = (uint8_t)(i % 2 == 0 ? next(state) : (next(state) & 0x87u) | 0x38u);
}

struct room { /* what one run needs */
    uint8_t payload[2 * (K_WIDE / 32) * 2048], scales[2 * (K_WIDE / 32) * 64]; /* two tiles */
    uint8_t act[64 << 10], scratch[NEF_MAX(NEF_VEC_WORK_BYTES, NEF_AMX_SCRATCH(K_WIDE))];
    float x[ROWS * K_WIDE], y[2][ROWS * N];
    uint8_t page[2][2][64 * DIM * 4]; /* k, v; page */
    float o[2][ROWS * DIM], m[2][ROWS], l[2][ROWS];
} __attribute__((aligned(64)));

static bool linear(const struct nef_kernels *set, uint32_t type, uint32_t rows, struct room *room, uint64_t *state)
{
    const struct nef_kernels *by[2] = {&nef_kernels_scalar, set};
    struct nef_matrix m;
    struct nef_act act;

    if (nef_matrix_shape(type, N, type >= NEF_GGML_Q4_K && type <= NEF_GGML_Q6_K ? K_WIDE : K, &m) != NEF_OK)
        return false;
    NEF_ASSERT(nef_matrix_payload_bytes(&m) <= sizeof room->payload &&
               nef_matrix_scale_bytes(&m) <= sizeof room->scales);
    NEF_ASSERT(nef_act_bytes(rows, m.k) <= sizeof room->act && nef_matmul_scratch(m.k) <= sizeof room->scratch);
    fill_bytes(state, sizeof room->payload, room->payload);
    fill_bytes(state, sizeof room->scales, room->scales);
    fill(state, (size_t)rows * m.k, room->x);
    m.payload = room->payload;
    m.scales = room->scales;
    for (unsigned i = 0; i < 2; i++) {
        memset(room->act, 0, sizeof room->act);
        nef_act_place(&act, room->act, rows, m.k, room->x);
        by[i]->prepare(&m, &act, 0, rows);
        by[i]->matmul(&m, &act, 0, m.tiles, room->y[i], N, room->scratch);
    }
    return memcmp(room->y[0], room->y[1], rows * N * sizeof(float)) == 0;
}

static bool attention(const struct nef_kernels *set, enum nef_kv_type type, struct room *room, uint64_t *state)
{
    const struct nef_kernels *by[2] = {&nef_kernels_scalar, set};
    float row[DIM], *o[ROWS], joined[2][DIM], max, sum;
    const float *q[ROWS];
    uint32_t limit[ROWS];
    bool same;

    for (uint32_t i = 0; i < ROWS; i++) {
        q[i] = room->x + i * DIM;
        limit[i] = i * (SEEN - 1) / (ROWS - 1);
    }
    fill(state, ROWS * DIM, room->x);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t again = *state;
        const void *k[2] = {room->page[0][0], room->page[0][1]}, *v[2] = {room->page[1][0], room->page[1][1]};
        struct nef_attend a = {.type = type, .head_dim = DIM, .rows = ROWS, .q = q, .limit = limit, .pages = 2,
                               .k_page = k, .v_page = v, .scale = 0.125f, .out_m = room->m[i],
                               .out_l = room->l[i], .out_o = o};

        memset(room->page, 0, sizeof room->page);
        for (uint32_t pos = 0; pos < SEEN; pos++)
            for (unsigned value = 0; value < 2; value++) {
                fill(&again, DIM, row);
                by[i]->kv_put(type, DIM, value == 1, room->page[value][pos / 64], pos % 64, row);
            }
        for (uint32_t r = 0; r < ROWS; r++)
            o[r] = room->o[i] + r * DIM;
        by[i]->attend(&a, room->scratch);
        memcpy(joined[i], o[0], sizeof joined[i]); /* apart, so that an error in row 0 isn't lost among the others */
        max = room->m[i][0];
        sum = room->l[i][0];
        for (uint32_t r = 1; r < ROWS; r++)
            by[i]->attend_join(DIM, &max, &sum, joined[i], room->m[i][r], room->l[i][r], o[r]);
        by[i]->attend_finish(DIM, sum, joined[i], joined[i]);
    }
    same = memcmp(room->o[0], room->o[1], sizeof room->o[0]) == 0 &&
           memcmp(room->m[0], room->m[1], sizeof room->m[0]) == 0;
    return same && memcmp(room->l[0], room->l[1], sizeof room->l[0]) == 0 &&
           memcmp(joined[0], joined[1], sizeof row) == 0;
}

static bool elementwise(const struct nef_kernels *set, struct room *room, uint64_t *state)
{
    const struct nef_kernels *by[2] = {&nef_kernels_scalar, set};

    fill(state, 4 * N + 4 * DIM, room->x);
    for (unsigned i = 0; i < 2; i++) {
        float *y = room->y[i], *x = room->x;

        by[i]->rms_norm(DIM, x, x + DIM, 1e-6f, y);
        by[i]->rope(DIM, x, x + DIM / 2, y);
        by[i]->silu_mul(N, x, x + N, y + DIM);
        by[i]->add(N, x + 2 * N, y + DIM);
    }
    return memcmp(room->y[0], room->y[1], (DIM + N) * sizeof(float)) == 0;
}

bool nef_kernels_agree(const struct nef_kernels *set)
{
    static struct room room; /* one caller: dispatch.c's once */
    uint64_t state = 1;
    bool same = true;

    for (size_t i = 0; i < NEF_COUNT(types) && same; i++)
        same = linear(set, types[i], 3, &room, &state) && linear(set, types[i], ROWS, &room, &state);
    for (int type = NEF_KV_BF16; type <= NEF_KV_I8 && same; type++)
        same = attention(set, (enum nef_kv_type)type, &room, &state);
    return same && elementwise(set, &room, &state);
}
