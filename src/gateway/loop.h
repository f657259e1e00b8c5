/* One thread for all backends: HTTP calls whose answers are streams, timers, and work that other threads post.
 *
 * libcurl's multi interface on epoll: thousands of calls cost descriptors and some kilobytes each, no threads.
 * Everything here but nef_loop_post is for the loop's thread, which is the one that calls back. Callbacks must not
 * block.
 *
 * A call ends by `end`, once, unless it was cancelled: then nothing is called any more. */
#ifndef NEF_GATEWAY_LOOP_H
#define NEF_GATEWAY_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

struct nef_loop;

/* tick: called every few milliseconds (NEF_LOOP_TICK_MS or a little later). What is posted waits until the loop runs: so
 * everything that its thread will look at can be there before it does. */
#define NEF_LOOP_TICK_MS 20u
NEF_MUST_CHECK nef_err nef_loop_open(void (*tick)(void *context, uint64_t now_ns), void *context,
                                     struct nef_loop **out_loop);
NEF_MUST_CHECK nef_err nef_loop_run(struct nef_loop *loop); /* starts its thread; once */
/* Calls under way are cancelled; what was posted is run. NULL and one that never ran are accepted. */
void nef_loop_stop(struct nef_loop *loop);

/* Work for the loop: embedded in what it is about, which lives until run() was called. */
struct nef_post {
    void (*run)(struct nef_post *post);
    struct nef_post *next;
    atomic_bool queued;
};
/* Any thread. False: it is queued already and will run, seeing what was written before this call. */
bool nef_loop_post(struct nef_loop *loop, struct nef_post *post);

struct nef_loop_call;

struct nef_loop_call_options {
    const char *url;
    const char *unix_socket; /* NULL: by the URL */
    const char *bearer;      /* NULL: none */
    const char *ca, *cert, *key;
    const char *const *headers; /* "name: value", NULL at the end; or NULL */
    const void *body;           /* NULL: GET; copied */
    size_t body_bytes;
    uint32_t connect_ms, total_ms; /* total 0: none */
    void (*head)(void *context, unsigned status,
                 const char *content_type); /* before the first data; content_type "" if none */
    /* False: the call is ended at once, with NEF_E_PROTOCOL. */
    bool (*data)(void *context, const void *bytes, size_t count);
    /* NEF_OK: the answer came whole. NEF_E_PEER: nobody there, so nothing was sent. NEF_E_UNAVAILABLE, NEF_E_TIMEOUT:
     * it broke off. */
    void (*end)(void *context, nef_err err);
    void *context;
};
NEF_MUST_CHECK nef_err nef_loop_call(struct nef_loop *loop, const struct nef_loop_call_options *options,
                                     struct nef_loop_call **out_call);
void nef_loop_cancel(struct nef_loop_call *call); /* also from within its callbacks; not after `end` was called */
void nef_loop_pause(struct nef_loop_call *call, bool paused);

#endif
