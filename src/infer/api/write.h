/* Answers as OpenAI's clients read them. PURE: text and token ids in, JSON or server-sent events out.
 *
 *   streaming   each take writes what came as one chunk ("data: {...}\n\n"), with its ids and logprobs
 *   whole       takes are kept; the choice is written once, at the end
 *
 * In a chat the text goes through text/chat.h's parser: content, reasoning_content and tool calls come out.
 *
 *   write.c           a choice and its chunks; the whole answer
 *   write_json.c      texts, ids, errors, embeddings
 *   write_logprobs.c  OpenAI's two forms of logprobs */
#ifndef NEF_INFER_API_WRITE_H
#define NEF_INFER_API_WRITE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "infer/api/piece.h"
#include "infer/api/request.h"
#include "infer/engine/engine.h"
#include "infer/text/tokenizer.h"

#define NEF_API_ID_MAX 48u

/* What is the same in all of a request's chunks. Borrowed by the choices. */
struct nef_write {
    enum nef_api_kind kind;  /* NEF_API_COMPLETION or NEF_API_CHAT */
    char id[NEF_API_ID_MAX]; /* "chatcmpl-..." */
    uint64_t created;        /* seconds since 1970 */
    const char *model, *fingerprint;
    bool stream, include_usage, return_token_ids;
    bool tools, thinking; /* of a chat: for the parser */
    bool logprobs;
    const struct nef_tokenizer *tokenizer; /* with logprobs */
};
struct nef_usage {
    uint64_t prompt, cached, completion, reasoning;
};

struct nef_choice;
/* prompt: ids to be told with return_token_ids (copied). Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_choice_open(const struct nef_write *w, uint32_t index, const uint32_t *prompt,
                                       uint32_t prompt_count, struct nef_choice **out_choice);
void nef_choice_close(struct nef_choice *c);
/* Streaming: the chunk that comes first (the role; prompt ids). Whole: nothing. */
void nef_choice_begin(struct nef_choice *c, struct nef_buf *out);
/* The prompt itself, before all pieces. Errors: as nef_choice_take. */
NEF_MUST_CHECK nef_err nef_choice_echo(struct nef_choice *c, const char *text, size_t bytes, struct nef_buf *out);
/* last: nef_choice_end follows at once, and writes one chunk for both. Errors: NEF_E_NOMEM (of OUT: see its failed). */
NEF_MUST_CHECK nef_err nef_choice_take(struct nef_choice *c, const struct nef_piece *piece, bool last,
                                       struct nef_buf *out);
/* finish: STOP or LENGTH. Streaming: flushes, and the chunk with the finish_reason. Whole: what nef_write_whole then
 * writes. */
NEF_MUST_CHECK nef_err nef_choice_end(struct nef_choice *c, enum nef_finish finish, struct nef_buf *out);
/* Generated tokens so far that belong to the reasoning, </think> included. */
uint32_t nef_choice_reasoning(const struct nef_choice *c);

/* Streaming: the chunk with the usage, and "data: [DONE]". */
void nef_write_usage_chunk(const struct nef_write *w, const struct nef_usage *usage, struct nef_buf *out);
void nef_write_done(struct nef_buf *out);
/* The whole answer. */
void nef_write_whole(const struct nef_write *w, struct nef_choice *const *choices, uint32_t count,
                     const struct nef_usage *usage, struct nef_buf *out);
/* {"error": {...}}, and the same as an event. */
void nef_write_error(const struct nef_api_error *e, struct nef_buf *out);
void nef_write_error_chunk(const struct nef_api_error *e, struct nef_buf *out);

/* "text" with quotes and escapes. text: UTF-8. */
void nef_json_text_write(struct nef_buf *out, const char *text, size_t bytes);
void nef_json_cstr_write(struct nef_buf *out, const char *text);
void nef_json_ids_write(struct nef_buf *out, const uint32_t *ids, uint32_t count); /* [1,2,3] */
/* [0.5,...], each number exactly; or base64 of the same as little-endian float32. */
void nef_json_floats_write(struct nef_buf *out, const float *values, uint32_t count);
void nef_json_base64_write(struct nef_buf *out, const float *values, uint32_t count);

/* ---- logprobs ---- */

struct nef_logprobs { /* zeroed is empty */
    struct nef_buf tokens, tops; /* of struct nef_logprobs_token, struct nef_logprob */
    uint32_t characters;         /* of the text so far */
};
/* Notes PIECE's tokens. chat: echoed ones too. */
void nef_logprobs_add(struct nef_logprobs *l, const struct nef_piece *piece);
bool nef_logprobs_any(const struct nef_logprobs *l);
/* "logprobs": value, in the form of KIND; all that was noted. */
void nef_logprobs_write(const struct nef_logprobs *l, enum nef_api_kind kind, const struct nef_tokenizer *t,
                        struct nef_buf *out);
void nef_logprobs_reset(struct nef_logprobs *l); /* keeps the number of characters */
void nef_logprobs_done(struct nef_logprobs *l);

#endif
