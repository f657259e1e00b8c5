/* Penalties for what was said before, in vLLM's order and arithmetic (float):
 *
 *   logit := logit > 0 ? logit / repetition : logit * repetition     of prompt and generated tokens
 *   logit := logit - frequency * (times it was generated)
 *   logit := logit - presence                                        if it was generated
 *
 * PURE. One thread at a time. */
#ifndef NEF_INFER_PENALTY_H
#define NEF_INFER_PENALTY_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/engine/sampler.h"

/* Which tokens a sequence has: 16 to 32 bytes for each that is different. */
struct nef_tally;
bool nef_penalties_wanted(const struct nef_sampling *s);
NEF_MUST_CHECK nef_err nef_tally_new(struct nef_tally **out_tally);
void nef_tally_free(struct nef_tally *t);
/* Errors: NEF_E_NOMEM (as before). */
NEF_MUST_CHECK nef_err nef_tally_add(struct nef_tally *t, uint32_t token, bool generated);
/* All its tokens are below the length of LOGITS. */
void nef_tally_apply(const struct nef_tally *t, const struct nef_sampling *s, float *logits);

#endif
