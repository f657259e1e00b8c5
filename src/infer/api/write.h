/* Answers as OpenAI's clients read them. PURE: text and token ids in, JSON or server-sent events out.
 *
 *   streaming   each take writes what came as chunks ("data: {...}\n\n"); one chunk holds one kind of delta
 *   whole       takes are kept; the choice is written once, at the end
 *
 * In a chat the text goes through text/chat.h's parser: content, reasoning_content and tool calls come out. */
#ifndef NEF_INFER_API_WRITE_H
#define NEF_INFER_API_WRITE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "infer/api/request.h"
#include "infer/engine/engine.h"

#define NEF_API_ID_MAX 48u

/* What is the same in all of a request's chunks. Borrowed by the choices. */
struct nef_write {
    enum nef_api_kind kind; /* NEF_API_COMPLETION or NEF_API_CHAT */
    char id[NEF_API_ID_MAX]; /* "chatcmpl-..." */
    uint64_t created;       /* seconds since 1970 */
    const char *model, *fingerprint;
    bool stream, include_usage, return_token_ids;
    bool tools, thinking; /* of a chat: for the parser */
};
struct nef_usage {
    uint64_t prompt, cached, completion;
};

struct nef_choice;
/* prompt: ids to be told with return_token_ids (copied). Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_choice_open(const struct nef_write *w, uint32_t index, const uint32_t *prompt,
                                       uint32_t prompt_count, struct nef_choice **out_choice);
void nef_choice_close(struct nef_choice *c);
/* Streaming: the chunk that comes first (the role; prompt ids). Whole: nothing. */
void nef_choice_begin(struct nef_choice *c, struct nef_buf *out);
/* text: whole characters. Errors: NEF_E_NOMEM (of OUT: see its failed). */
NEF_MUST_CHECK nef_err nef_choice_take(struct nef_choice *c, const char *text, size_t bytes, const uint32_t *ids,
                                       uint32_t id_count, struct nef_buf *out);
/* finish: STOP or LENGTH. Streaming: flushes, and the chunk with the finish_reason. Whole: what nef_write_whole then
 * writes. */
NEF_MUST_CHECK nef_err nef_choice_end(struct nef_choice *c, enum nef_finish finish, struct nef_buf *out);

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
void nef_json_ids_write(struct nef_buf *out, const uint32_t *ids, uint32_t count); /* [1,2,3] */

#endif
