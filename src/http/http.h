/* HTTP listeners over libmicrohttpd; http.c is the only file that includes its header.
 *
 * A listener has a few threads, each with its own epoll loop; a connection stays with its thread. A
 * request is an object of the handler's, driven by calls that must not block:
 *
 *   open  -> begin -> body ... -> end -> closed
 *
 * begin, body and end return what comes next. NEF_HTTP_WAIT parks the connection (it costs no
 * thread); nef_http_wake, from any thread, makes the same call again. Wakes are remembered: one
 * that comes before the parking isn't lost, and one that comes without need only makes a call that
 * finds nothing to do. NEF_HTTP_ANSWERED means that one of the nef_http_answer functions was
 * called; that may be at any time. An answer before the body was read waits until the rest is in
 * (and thrown away), so that a client that writes before it reads sees it, if that rest is short;
 * else the connection is closed after the answer.
 *
 * Not here: what requests mean. Not supported: HTTP/2, upgrades, pipelining beyond what the library
 * does. */
#ifndef NEF_HTTP_HTTP_H
#define NEF_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/limits.h"
#include "http/field.h"
#include "io/config.h"

struct nef_http;         /* a listener */
struct nef_http_request; /* a request; counted references */

enum nef_http_next {
    NEF_HTTP_GO,       /* begin: read the body; body: all that was given is used */
    NEF_HTTP_WAIT,     /* call again after a wake */
    NEF_HTTP_ANSWERED, /* the answer is set */
    NEF_HTTP_DROP,     /* close the connection without an answer */
};

/* All are called in the request's listener thread, one at a time. */
struct nef_http_handler {
    /* Headers are in. Returns the handler's object, NULL to drop the connection. */
    void *(*open)(void *context, struct nef_http_request *r);
    enum nef_http_next (*begin)(void *call);
    /* out_used may be less than bytes only with NEF_HTTP_WAIT: the rest is given again. */
    enum nef_http_next (*body)(void *call, const uint8_t *data, size_t bytes, size_t *out_used);
    enum nef_http_next (*end)(void *call);
    /* The last call. complete: the whole answer was given to the network. */
    void (*closed)(void *call, bool complete);
    void *context;
};

struct nef_http_options {
    struct nef_host_port listen;      /* port 0: the system chooses */
    const char *unix_path;            /* NULL, or: listen on this Unix socket, and `listen` is not looked at */
    const char *cert_file, *key_file; /* PEM; NULL: plain HTTP */
    const char *client_ca_file;       /* NULL, or: clients are asked for a certificate of this CA; see nef_http_peer_zone */
    uint32_t connections_max;
    uint32_t threads;
    uint32_t idle_timeout_s;
    struct nef_http_handler handler;
};

/* Errors: NEF_E_CONFIG (address in use or not ours, certificate unusable), NEF_E_NOMEM,
 * NEF_E_SYSTEM. What exactly is traced. */
NEF_MUST_CHECK nef_err nef_http_start(const struct nef_http_options *options,
                                      struct nef_http **out_http);
uint16_t nef_http_port(const struct nef_http *http);
uint32_t nef_http_connections(const struct nef_http *http);
/* Takes no more connections. Requests go on. */
void nef_http_quiesce(struct nef_http *http);
/* Requests that want to wait are dropped from now on. Then blocks until nothing is parked (whoever
 * would wake them still must), closes all connections, frees. NULL is accepted. */
void nef_http_stop(struct nef_http *http);

/* ---- a request ---- */

#define NEF_HTTP_HEADER_COUNT_MAX 128u
/* Of a body nobody wants: read so that the answer is seen. */
#define NEF_HTTP_DRAIN_MAX   (16u << 20)
#define NEF_HTTP_BLOCK_BYTES (1u << 20) /* what a stream's reader is asked for at once */

/* All borrowed until `closed`, so only for the handler's calls, not for other threads. */
const char *nef_http_method(const struct nef_http_request *r);
const char *nef_http_target(const struct nef_http_request *r); /* raw, as sent */
/* The target without its query, with %XX decoded (but %00, which stays); "" when it doesn't fit. */
void nef_http_path(const struct nef_http_request *r, char *out_path, size_t size);
const struct nef_http_field *nef_http_headers(const struct nef_http_request *r, size_t *out_count);
const char *nef_http_header(const struct nef_http_request *r,
                            const char *name); /* first, or NULL */
/* Header section above NEF_HEADERS_MAX or NEF_HTTP_HEADER_COUNT_MAX: refuse it. */
bool nef_http_headers_too_large(const struct nef_http_request *r);

void nef_http_ref(struct nef_http_request *r);
void nef_http_unref(struct nef_http_request *r);
/* The zone that the client's certificate names (io/tls.h), if it is one of client_ca_file for that use. In the handler's calls.
 * NEF_E_DENIED: none, or not verified. */
NEF_MUST_CHECK nef_err nef_http_peer_zone(const struct nef_http_request *r, char out_zone[NEF_ZONE_NAME_MAX + 1]);
/* The client closed its connection, or its half of it. In the listener's thread (the handler's calls, a stream's read):
 * a parked connection isn't watched, so who wants to know is woken from time to time and asks. */
bool nef_http_gone(const struct nef_http_request *r);
/* Any thread that holds a reference. */
void nef_http_wake(struct nef_http_request *r);

/* ---- answering: once a request; by the handler's calls, or by another thread while the connection
 * is parked and before it wakes it (should the listener stop meanwhile, the answer is dropped). Out
 * of memory drops the connection. ---- */

/* Takes data (malloc'd, may be NULL) in every case. */
void nef_http_answer(struct nef_http_request *r, unsigned status, void *data, size_t bytes);
/* The same; `done` is called once, when data is no longer needed (then it has been freed). */
void nef_http_answer_tracked(struct nef_http_request *r, unsigned status, void *data, size_t bytes,
                             void (*done)(void *context), void *context);
/* HEAD: Content-Length without a body. */
void nef_http_answer_head(struct nef_http_request *r, unsigned status, uint64_t bytes);
/* BYTES bytes from `read`, which is called in the listener's thread: > 0 bytes written to out, 0:
 * wait for a wake, < 0: close the connection. done: called once, when the stream is no longer
 * needed. With NEF_HTTP_LENGTH_UNKNOWN (chunked transfer; HTTP/1.0 clients see the end of the connection) read
 * returns NEF_HTTP_STREAM_END at the end. */
#define NEF_HTTP_LENGTH_UNKNOWN UINT64_MAX
#define NEF_HTTP_STREAM_END     INT64_MIN
struct nef_http_stream {
    int64_t (*read)(void *context, uint8_t *out, size_t max);
    void (*done)(void *context);
    void *context;
};
void nef_http_answer_stream(struct nef_http_request *r, unsigned status, uint64_t bytes,
                            const struct nef_http_stream *stream);
/* After one of the above. Copied; a value with control characters is left out (header injection).
 */
void nef_http_answer_header(struct nef_http_request *r, const char *name, const char *value);
/* Close the connection after this answer. */
void nef_http_answer_close(struct nef_http_request *r);

#endif
