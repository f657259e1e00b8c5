/* A response as it grows: from records to events. PURE.
 *
 * A record is what is kept of an answer, in order:
 *   {"c": chunk}                                      a chunk of the chat: its choices
 *   {"e": {"status", "reason"?, "error"?, "usage"?, "at"}}   the end, once and last
 * Events, their sequence numbers and the ids of items follow from head and records alone, so whoever has these, in
 * either zone, now or later, tells the same.
 *
 * A cancelled response ends with the event response.incomplete, whose response has the status "cancelled": there is no
 * event of its own for that, and clients know this one as an end. */
#ifndef NEF_GATEWAY_RESPONSES_EVENTS_H
#define NEF_GATEWAY_RESPONSES_EVENTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "gateway/run.h"

struct nef_response;

struct nef_response_head {
    const char *id;
    uint64_t created_s;
    json_t *body; /* the request, without input; a reference is kept */
};

/* EVENT is borrowed for the call. */
typedef void (*nef_response_event_fn)(void *context, uint64_t sequence, const char *type, const json_t *event);

/* NULL: out of memory. event: may be NULL (then only the object is wanted). */
struct nef_response *nef_response_new(const struct nef_response_head *head, nef_response_event_fn event, void *context);
void nef_response_free(struct nef_response *r); /* wipes; NULL is accepted */

/* The events that come before all records. Once, first. NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_response_begin(struct nef_response *r);
/* NEF_E_PROTOCOL: no record, or an answer that makes no sense (then what went before still stands); NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_response_take(struct nef_response *r, const json_t *record);
bool nef_response_ended(const struct nef_response *r);
/* The response object as of now, new. NULL: out of memory. */
json_t *nef_response_object(const struct nef_response *r);

/* Records, new; NULL: out of memory. A chunk without choices has none. */
bool nef_response_chunk_counts(const json_t *chunk);
json_t *nef_response_chunk_record(const json_t *chunk);
json_t *nef_response_end_record(const struct nef_ai_end *end, const char *finish_reason, uint64_t at_s);
json_t *nef_response_fail_record(const char *code, const char *message, uint64_t at_s);
/* The error of a chat in the words of /v1/responses: the client never said response_format. NULL: out of memory. */
json_t *nef_response_error(const json_t *chat_error);
/* The finish_reason that a chunk tells, or NULL. */
const char *nef_response_finish(const json_t *chunk);
/* The tokens of an answer that a record tells: its ids, or one for a piece of text without. */
uint64_t nef_response_tokens(const json_t *record);

#endif
