/* What is taken out of an answer at once: some tokens and exactly their text. */
#ifndef NEF_INFER_API_PIECE_H
#define NEF_INFER_API_PIECE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "infer/engine/engine.h"

struct nef_piece_token {
    uint32_t id;
    uint32_t end;       /* of its text within the piece's */
    float logprob;      /* NAN: not known */
    uint32_t top_count; /* of its alternatives */
    bool prompt;        /* echoed, not generated */
};
struct nef_piece {
    struct nef_buf text;   /* whole characters */
    struct nef_buf tokens; /* struct nef_piece_token each */
    struct nef_buf tops;   /* struct nef_logprob each: top_count of each token, one after the other */
};

static inline const struct nef_piece_token *nef_piece_tokens(const struct nef_piece *p, uint32_t *out_count)
{
    *out_count = (uint32_t)(p->tokens.bytes / sizeof(struct nef_piece_token));
    return (const struct nef_piece_token *)(const void *)p->tokens.data;
}

static inline void nef_piece_free(struct nef_piece *p)
{
    nef_buf_free(&p->text);
    nef_buf_free(&p->tokens);
    nef_buf_free(&p->tops);
}

#endif
