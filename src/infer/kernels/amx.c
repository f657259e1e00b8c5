/* The AMX set's table: its matmul and attend, and for the rest the AVX-512 set, which every processor with a matrix unit
 * has. */
#include "infer/kernels/amx.h"

static void prepare(const struct nef_matrix *m, struct nef_act *act, uint32_t row0, uint32_t rows)
{
    nef_kernels_avx512.prepare(m, act, row0, rows);
}

static void kv_put(enum nef_kv_type type, uint32_t head_dim, bool value, void *page, uint32_t pos, const float *x)
{
    nef_kernels_avx512.kv_put(type, head_dim, value, page, pos, x);
}

static void attend_join(uint32_t head_dim, float *M, float *L, float *O, float m, float l, const float *o)
{
    nef_kernels_avx512.attend_join(head_dim, M, L, O, m, l, o);
}

static void attend_finish(uint32_t head_dim, float L, const float *O, float *out)
{
    nef_kernels_avx512.attend_finish(head_dim, L, O, out);
}

static void rms_norm(uint32_t n, const float *x, const float *w, float eps, float *out)
{
    nef_kernels_avx512.rms_norm(n, x, w, eps, out);
}

static void silu_mul(uint32_t n, const float *gate, const float *up, float *out)
{
    nef_kernels_avx512.silu_mul(n, gate, up, out);
}

static void add(uint32_t n, const float *x, float *y)
{
    nef_kernels_avx512.add(n, x, y);
}

static void rope(uint32_t head_dim, const float *cos, const float *sin, float *x)
{
    nef_kernels_avx512.rope(head_dim, cos, sin, x);
}

const struct nef_kernels nef_kernels_amx = {
    .name = "amx",
    .prepare = prepare,
    .matmul = nef_amx_matmul,
    .kv_put = kv_put,
    .attend = nef_amx_attend,
    .attend_join = attend_join,
    .attend_finish = attend_finish,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .add = add,
    .rope = rope,
};
