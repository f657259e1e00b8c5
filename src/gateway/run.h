/* One request to a model, carried to its end over the loss of engines and zones.
 *
 * A run is a chat, a completion or an embedding, as OpenAI's body says it. The gateway chooses a backend (route.h),
 * streams from it, and when it is lost goes on with another one (splice.h); whoever started the run sees one stream of
 * chunks. Used by the listener (call.c) and by whatever translates another API into chats (responses.h).
 *
 *   start -> chunk ... chunk -> end
 *
 * Threads: start, cancel, pause and resume from any; the callbacks are called in the gateway's loop thread, one at a
 * time, and must neither block nor call start. A run that was started ends: `end` is called exactly once. */
#ifndef NEF_GATEWAY_RUN_H
#define NEF_GATEWAY_RUN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/limits.h"

struct nef_gateway;
struct nef_ai_run; /* counted references */

enum nef_ai_kind { NEF_AI_CHAT, NEF_AI_COMPLETION, NEF_AI_EMBEDDING };

/* For whom, and where it may be computed. Default deny: no zone listed, none computes. */
struct nef_ai_caller {
    char salt[65];     /* of the prefix cache: who has another one shares nothing; hex, NUL */
    uint32_t weight;   /* 1 .. 1000: share of the machine among those that want it */
    uint32_t priority; /* 0 .. NEF_AI_PRIORITY_MAX; when capacity is short lower ones are refused first */
    char zones[NEF_REPLICA_MAX][NEF_ZONE_NAME_MAX + 1];
    uint32_t zone_count;
};

struct nef_ai_usage {
    uint64_t prompt, completion, cached; /* tokens; each counted once, whatever was computed again */
    uint64_t reasoning;                  /* of completion */
};

struct nef_ai_end {
    unsigned status;      /* 200; else what HTTP would say of the error */
    const json_t *error;  /* status != 200: {"message", "type", "param", "code"}; borrowed for the call */
    uint32_t retry_after; /* seconds; 0: none */
    struct nef_ai_usage usage;
    uint32_t continuations; /* how often it went on elsewhere after a first token */
    uint64_t first_token_ns; /* nef_now_ns of the first chunk with content; 0: none */
    bool cancelled;
};

struct nef_ai_run_options {
    enum nef_ai_kind kind;
    json_t *body; /* the request, an object; a reference is taken; not changed. "stream" in it doesn't matter */
    /* NULL, or: the run goes on after these chunks (an array of them, in order; a reference is taken), which an earlier
     * run of the same body gave, as it would after a loss: none of them is given again. For a seed to count the body
     * must have one. */
    json_t *given;
    struct nef_ai_caller caller;
    char request_id[72]; /* for traces and backends */
    /* Chat and completion: a chunk as OpenAI streams it ("chat.completion.chunk", "text_completion"), `id`, `created`
     * and `model` equal in all of them; choices of one chunk: one. Borrowed; take a reference to keep it, nobody else
     * changes it. The last one before the end has no choices and `usage`. Embedding: the whole answer, once. */
    void (*chunk)(void *context, json_t *chunk);
    void (*end)(void *context, const struct nef_ai_end *end);
    void *context;
};

/* Errors: NEF_E_NOMEM; NEF_E_CLOSED: the gateway stops; NEF_E_BUSY: more runs than it takes. Then no callback is
 * called. What is wrong with the body, or that nobody can serve it, is told by `end`. */
NEF_MUST_CHECK nef_err nef_ai_run_start(struct nef_gateway *gateway, const struct nef_ai_run_options *options,
                                        struct nef_ai_run **out_run);
void nef_ai_run_cancel(struct nef_ai_run *run); /* `end` follows soon, if it wasn't called yet */
/* Back-pressure: a paused run reads no more from its backend than is on the way. */
void nef_ai_run_pause(struct nef_ai_run *run, bool paused);
void nef_ai_run_unref(struct nef_ai_run *run);

/* OpenAI's object of an error, new; NULL: out of memory. param, code: "" for null. */
json_t *nef_ai_error(unsigned status, const char *code, const char *param, const char *format, ...) NEF_PRINTF(4, 5);

#endif
