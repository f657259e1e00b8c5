/* One choice of an answer while it is made: the engine's thread puts tokens in, the listener's thread takes text out.
 *
 *   token -> bytes -> whole UTF-8 characters -> stop strings -> released text
 *
 * What is kept is text and token ids, never more than the context allows, so a client that reads slowly costs that
 * much and slows nobody. A token's id is given out when all of its text was: whoever goes on elsewhere from the ids it
 * saw, after a broken stream, repeats exactly what was held back.
 *
 * The lock guards everything; it is held for copies of a few bytes. */
#ifndef NEF_INFER_API_ANSWER_H
#define NEF_INFER_API_ANSWER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "infer/api/stop.h"
#include "infer/engine/engine.h"
#include "infer/text/tokenizer.h"

struct nef_answer_token {
    uint32_t id;
    uint32_t end; /* of its text, counted from the answer's beginning */
};

struct nef_answer {
    pthread_mutex_t lock;
    const struct nef_tokenizer *tokenizer;
    struct nef_stop *stop;
    struct nef_utf8_stream utf8;
    struct nef_buf scratch; /* the engine's thread alone */
    struct nef_buf text;    /* from text_base on */
    uint64_t text_base;     /* of the answer: what was taken already */
    uint64_t released;      /* of the answer: may be taken */
    struct nef_answer_token *tokens;
    uint32_t token_count, token_capacity, token_max, tokens_taken;
    uint64_t first_token_ns;
    bool stopped, failed; /* by a stop string; for want of memory */
    bool finished;
    enum nef_finish finish;
    nef_err err;
    uint32_t cached;
};

/* tokens_max: more are never put. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_answer_init(struct nef_answer *a, const struct nef_tokenizer *tokenizer,
                                       const struct nef_api_stop *stops, uint32_t stop_count, uint32_t tokens_max);
void nef_answer_done(struct nef_answer *a); /* zeroed ones are fine */

/* Engine's thread. False: the generation is to end (a stop string, or no memory). out_news: there is text or an id to
 * be taken. */
bool nef_answer_put(struct nef_answer *a, uint32_t token, bool *out_news);
void nef_answer_finish(struct nef_answer *a, enum nef_finish finish, nef_err err, uint32_t cached);

/* What is released and not yet taken is appended to TEXT (at most TEXT_MAX bytes, whole characters; at least one
 * character) and TOKENS (uint32_t each; may be NULL). */
struct nef_answer_state {
    bool finished; /* and everything was taken */
    enum nef_finish finish;
    nef_err err;
    uint32_t tokens, cached;
};
void nef_answer_take(struct nef_answer *a, size_t text_max, struct nef_buf *text, struct nef_buf *tokens,
                     struct nef_answer_state *out_state);

#endif
