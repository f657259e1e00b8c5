/* The set for processors with AVX2, FMA and F16C: 16 lanes are two ymm registers. Everything is the common text of
 * body_*.h; integer products are int16 pairs (vpmaddwd), as vpmaddubsw would saturate. */
#include "infer/kernels/vec_avx2.h"

#include "infer/kernels/body_rows.h"
/* after body_rows.h, whose names they use */
#include "infer/kernels/body_attend.h"
#include "infer/kernels/body_linear.h"

static void matmul(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles, float *y,
                   size_t y_stride, void *scratch)
{
    _Static_assert(sizeof(struct linear_work) <= NEF_VEC_WORK_BYTES, "nef_matmul_scratch covers it");
    NEF_ASSERT(act->k == m->k && act->rows <= NEF_MATMUL_ROWS_MAX);
    NEF_ASSERT(tile0 <= m->tiles && tiles <= m->tiles - tile0);
    if (m->scales_kind == NEF_SCALES_NONE)
        matmul_float(m, act, tile0, tiles, y, y_stride, scratch);
    else
        matmul_quantized(m, act, tile0, tiles, y, y_stride, scratch);
}

const struct nef_kernels nef_kernels_avx2 = {
    .name = "avx2",
    .prepare = prepare,
    .matmul = matmul,
    .kv_put = kv_put,
    .attend = attend,
    .attend_join = attend_join,
    .attend_finish = attend_finish,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .add = add,
    .rope = rope,
};
