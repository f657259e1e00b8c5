/* From logits to a token. PURE; scalar code in one order, so equal logits give equal tokens everywhere. Order of
 * steps as in llama.cpp and vLLM: temperature, top_k, top_p, min_p, draw. */
#ifndef NEF_INFER_SAMPLER_H
#define NEF_INFER_SAMPLER_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct nef_sampling {
    float temperature; /* 0: greedy (the lowest id among equals) */
    uint32_t top_k;    /* 0: all */
    float top_p;       /* 1: all */
    float min_p;       /* 0: all */
    uint64_t seed;
    /* As vLLM's: penalties (penalty.h) come after the bias and before the temperature. */
    float presence_penalty, frequency_penalty; /* 0: none; of tokens generated so far, not of the prompt */
    float repetition_penalty;                  /* 0 or 1: none; of prompt and generated tokens */
};
struct nef_logit_bias {
    uint32_t token;
    float bias; /* -100 .. 100, added to the logit; as OpenAI */
};
/* A number in [0, 1), a multiple of 2^-53, for a position: from the block of counter (position, 0), key seed (base/philox.h). */
double nef_sampler_random(uint64_t seed, uint64_t position);
/* Token for POSITION from VOCAB logits (kept as they are). scratch: nef_sampler_scratch(vocab) bytes, 8-byte aligned.
 * Errors: NEF_E_CORRUPT (no finite logit, or a NaN). */
size_t nef_sampler_scratch(uint32_t vocab);
NEF_MUST_CHECK nef_err nef_sample(const struct nef_sampling *s, const float *logits, uint32_t vocab, uint64_t position,
                                  void *scratch, uint32_t *out_token);

#endif
