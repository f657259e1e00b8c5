/* One choice of a client, made of one or more backends' streams: what was given so far, how another backend is asked to
 * go on, what is dropped at the seam. PURE: JSON in, JSON out.
 *
 * A lost stream goes on in one of three ways:
 *   fresh   nothing was given yet: the request again
 *   ids     the built-in engine: it gets the token ids of what was given (nef_continue_token_ids), computes from there
 *           with the same seed, and gives exactly the bytes that it would have given
 *   text    others: a chat gets the answer so far as its last message (continue_final_message), a completion as the end
 *           of its prompt. No text is lost, doubled or reordered; but the tokens at the seam may be others than without
 *           the loss, because text is cut into tokens anew. What holds an engine to a grammar (response_format and the
 *           like, a forced tool_choice) is asked for again while the model thinks, and not behind the beginning of the
 *           answer, where a grammar would begin anew (docs/gateway.md)
 *
 * The text of an answer is kept in Qwen's own form (Hermes): <think>, <tool_call>. In the text way a backend that goes
 * on in the middle of such a block gives the rest of it as plain content; it is put where it belongs here.
 *
 * Usage is counted once: of the prompt as the client sent it, of the answer all that was given. */
#ifndef NEF_GATEWAY_SPLICE_H
#define NEF_GATEWAY_SPLICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "gateway/run.h"

struct nef_splice;

/* What a backend understands. */
struct nef_splice_backend {
    bool built_in;  /* nef infer: nef_continue_token_ids */
    bool token_ids; /* return_token_ids */
};

/* body: the request for this one choice (no `n`, one prompt); a reference is taken, it isn't changed. seed: of
 * this choice, for the built-in engine, whatever body says. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_splice_new(enum nef_ai_kind kind, json_t *body, uint64_t seed,
                                      struct nef_splice **out_splice);
void nef_splice_free(struct nef_splice *s); /* wipes; NULL is accepted */

/* The body for the next backend; begins a try. Errors: NEF_E_RANGE: nothing is left to compute (the answer has its
 * max_tokens); NEF_E_UNSUPPORTED: it can't go on there; NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_splice_request(struct nef_splice *s, const struct nef_splice_backend *backend,
                                          json_t **out_body);

/* The backend refused that body as wrong. Some don't take a grammar with a message to continue: the next is without. */
void nef_splice_refused(struct nef_splice *s);

/* An event of the stream, parsed. *out_chunk: the chunk for the client, new, or NULL: nothing to give. Its choice has
 * index 0. Errors: NEF_E_PROTOCOL: no backend that works says such a thing; NEF_E_UNAVAILABLE: it is an error object;
 * NEF_E_LIMIT: the answer is longer than what is kept; NEF_E_NOMEM. After an error the try is over, and what was given
 * before stays given. */
NEF_MUST_CHECK nef_err nef_splice_take(struct nef_splice *s, const json_t *event, json_t **out_chunk);
/* A chunk that was given by an earlier run: counts as given. Errors: as take. */
NEF_MUST_CHECK nef_err nef_splice_given(struct nef_splice *s, const json_t *chunk);

bool nef_splice_finished(const struct nef_splice *s); /* a finish_reason was given */
bool nef_splice_begun(const struct nef_splice *s);    /* anything of the answer was given */
uint64_t nef_splice_tokens(const struct nef_splice *s); /* given; a guess where a backend doesn't tell ids */
bool nef_splice_has_usage(const struct nef_splice *s);
struct nef_ai_usage nef_splice_usage(const struct nef_splice *s);

#endif
