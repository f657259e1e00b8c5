/* Rotary embedding: the angles of a position (Su et al. 2021, "RoFormer"), with linear scaling or YaRN (Peng et al.
 * 2023, arXiv:2309.00071) as llama.cpp computes them (ggml's rope_yarn). PURE; double precision without libm, rounded
 * once, so the tables are the same on every machine. */
#ifndef NEF_INFER_ROPE_H
#define NEF_INFER_ROPE_H

#include <stdint.h>
#include "infer/model/model.h"

struct nef_rope {
    uint32_t half;                          /* head_dim / 2: pairs (i, i + half) */
    double scale;                           /* of cos and sin (YaRN's attention factor) */
    double frequency[NEF_HEAD_DIM_MAX / 2]; /* radians a position */
};
void nef_rope_init(const struct nef_model_config *config, struct nef_rope *out_rope);
/* cos and sin of POSITION: half floats each. */
void nef_rope_fill(const struct nef_rope *rope, uint32_t position, float *out_cos, float *out_sin);

#endif
