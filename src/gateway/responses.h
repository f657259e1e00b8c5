/* /v1/responses: OpenAI's Responses API, a translation above chats, and the only one whose answers are kept.
 *
 *   responses_request.c  PURE  what a request may say; responses_chat.c: its items and tools as a chat
 *   responses_events.c   PURE  chunks of the chat -> events with sequence numbers, and the response object
 *   responses_keep.c           what is stored, as objects of the bucket NEF_RESPONSES_BUCKET
 *   responses_live.c           an answer while it is being made: table, run, putting away
 *   responses_pieces.c         its pieces in the log: owning, following, taking over
 *   responses_http.c           endpoints; responses_work.c: what they do in workers
 *   responses_sweep.c          what is unfinished, what is too old
 *   responses.c                start, stop, the thread
 *
 * A stored response (`store`, which is the preset) is a head (request and owner), then a log of its own of numbered
 * pieces, each an object that must not exist before: so of two zones that append, one loses, and who owns a response
 * is decided in the region's log. A piece holds chunks of the chat; events are a pure function of the chunks, so every
 * zone, and every reader at any time, sees the same events with the same sequence numbers. Nothing is given to a
 * client before its piece is committed. When the zone that makes an answer is lost, another appends a claim and goes
 * on from the chunks that are in the log; it holds the owner's budget for what is left, and each zone pays for what it
 * added.
 *
 * With `store: false` nothing is written and nothing can be resumed.
 *
 * Threads: the functions of a call are for the listener's handler, in its thread; the rest any. */
#ifndef NEF_GATEWAY_RESPONSES_H
#define NEF_GATEWAY_RESPONSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "gateway/limits.h"
#include "gateway/run.h"
#include "http/http.h"
#include "keys/keys.h"
#include "server/runtime.h"

/* Made when first needed. Through S3 only the root user may touch it. */
#define NEF_RESPONSES_BUCKET "nef-responses"

struct nef_responses;
struct nef_responses_call;

struct nef_responses_options {
    struct nef_gateway *gateway; /* for nef_ai_run_start; all borrowed until stop */
    struct nef_runtime *rt;
    struct nef_keys *keys;
    struct nef_limits *limits;
    const char *zone;
    uint32_t cells;
    uint64_t kept_s; /* a response is deleted when it is so old */
    /* Rights and run options of a stored response's owner, for an answer that is taken over. NEF_E_NOT_FOUND,
     * NEF_E_DENIED: disabled, or without rights by now: the response fails. Blocking. */
    nef_err (*user)(void *context, const char *access_key, struct nef_ai_user *out_user);
    /* How runs are made for USER: salt, weight, priority, zones. Must not block. */
    void (*caller)(void *context, const struct nef_ai_user *user, struct nef_ai_caller *out_caller);
    void *context;
};

NEF_MUST_CHECK nef_err nef_responses_start(const struct nef_responses_options *options,
                                           struct nef_responses **out_responses);
/* New calls are refused, streams end; answers under way are left to the other zone. Before the runs are cut. */
void nef_responses_quiesce(struct nef_responses *responses);
/* After all calls were closed and all runs have ended; before nef_limits_stop. NULL is accepted. */
void nef_responses_stop(struct nef_responses *responses);

/* Does TARGET (raw, with its query) belong here: "/v1/responses" and what is below it. */
bool nef_responses_target(const char *target);

/* One HTTP request, once its body is in. BODY is taken. Then `next` from the handler's end(), again after each wake of
 * HTTP; `closed` from the handler's closed(). NEF_E_NOMEM, NEF_E_CLOSED. request_id: for traces and x-request-id. */
NEF_MUST_CHECK nef_err nef_responses_open(struct nef_responses *responses, struct nef_http_request *http,
                                          const struct nef_ai_user *user, const char *request_id, struct nef_buf *body,
                                          struct nef_responses_call **out_call);
enum nef_http_next nef_responses_next(struct nef_responses_call *call);
void nef_responses_closed(struct nef_responses_call *call);

#endif
