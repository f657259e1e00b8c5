/* Log probabilities of tokens. PURE; scalar code in one order, so equal logits give equal bits everywhere.
 *
 *   m     the largest logit
 *   w[i]  exp(logit[i] - m) in float (weight.h; below exp(-80): 0)
 *   sum   in double: lane l of 16 adds w[i] for i = l, l + 16, ... in ascending order; then lanes are folded: l +
 *   (l+8),
 *         l + (l+4), l + (l+2), l + (l+1)
 *   logprob[i] = ((double)logit[i] - m) - ln(sum), rounded to float once */
#ifndef NEF_INFER_LOGPROB_H
#define NEF_INFER_LOGPROB_H

#include <stdint.h>
#include "base/err.h"

struct nef_logprob {
    uint32_t token;
    float logprob;
};
struct nef_logsum {
    float largest;
    double log; /* ln(sum) */
};
/* Of VOCAB logits (1 or more). Errors: NEF_E_CORRUPT (a NaN, an infinity above, or nothing above -inf). */
NEF_MUST_CHECK nef_err nef_logsum(const float *logits, uint32_t vocab, struct nef_logsum *out_sum);
float nef_logprob_of(const struct nef_logsum *sum, float logit); /* -inf of a logit of -inf */
/* The COUNT largest, descending, equals: lower id first. Those of -inf are left out. Returns how many. */
uint32_t nef_logprob_top(const struct nef_logsum *sum, const float *logits, uint32_t vocab, uint32_t count,
                         struct nef_logprob *out_top);

#endif
