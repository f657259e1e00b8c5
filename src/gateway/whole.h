/* A whole answer from the chunks of a stream, for clients that don't stream. PURE.
 *
 * The gateway always streams from its backends, since only a stream can go on elsewhere. Deltas are concatenated: text,
 * reasoning, calls by their index, log probabilities, token ids; of other members of a choice the last one counts. */
#ifndef NEF_GATEWAY_WHOLE_H
#define NEF_GATEWAY_WHOLE_H

#include <jansson.h>
#include "base/err.h"
#include "gateway/run.h"

struct nef_whole;

NEF_MUST_CHECK nef_err nef_whole_new(enum nef_ai_kind kind, struct nef_whole **out_whole);
void nef_whole_free(struct nef_whole *w);
/* Errors: NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_whole_take(struct nef_whole *w, json_t *chunk);
/* The document, new; NULL: out of memory. */
json_t *nef_whole_end(struct nef_whole *w);

#endif
