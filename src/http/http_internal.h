/* What the files of this directory share; for nobody else. */
#ifndef NEF_HTTP_HTTP_INTERNAL_H
#define NEF_HTTP_HTTP_INTERNAL_H

#include <stdatomic.h>
#include "base/limits.h"
#include "http/http.h"

struct MHD_Connection;
struct MHD_Response;

enum nef_http_stage { STAGE_FRESH, STAGE_BEGIN, STAGE_BODY, STAGE_DRAIN, STAGE_QUEUED };

struct nef_http_request {
    struct nef_http *http;
    struct MHD_Connection *connection;
    atomic_uint refs;
    atomic_int park;
    enum nef_http_stage stage;
    void *call;
    const char *method;
    struct nef_http_field headers[NEF_HTTP_HEADER_COUNT_MAX];
    size_t header_count;
    size_t header_bytes;
    bool too_large;
    struct MHD_Response *response;
    unsigned status;
    bool failed; /* no memory for the answer */
    uint64_t drained;
    struct nef_http_stream stream;
    bool endless; /* the stream's length is not known */
    char target[];
};

/* Suspends, or has the call made again at once if a wake came meanwhile; only the listener's thread. False: the listener
 * is closing. */
bool nef_http_park(struct nef_http_request *r);

/* A listening socket where OPTIONS say. out_port: 0 for a Unix socket. Errors: as nef_http_start. */
NEF_MUST_CHECK nef_err nef_http_open_socket(const struct nef_http_options *options, int *out_fd, uint16_t *out_port);
/* Take a Unix socket's file away, if it is the one that FD listens on. */
void nef_http_remove_socket(const char *path, int fd);
/* Closes the socket behind FD, so that clients are refused as by a process that has ended, and leaves something in its
 * place that is never readable: FD stays the library's to watch and to close. False: nothing has changed. */
bool nef_http_close_socket(int fd);

/* Ends of clients that the library misses; see http_left.c. Watch and forget are called from any thread; a socket that
 * is watched is forgotten before it is closed. */
struct nef_http_left;
NEF_MUST_CHECK nef_err nef_http_left_start(struct nef_http_left **out_left); /* NEF_E_NOMEM, NEF_E_SYSTEM */
void nef_http_left_watch(struct nef_http_left *l, int fd);
void nef_http_left_forget(struct nef_http_left *l, int fd);
void nef_http_left_stop(struct nef_http_left *l); /* NULL is fine */

/* *out_text is malloc'd; the caller wipes it. Errors: NEF_E_CONFIG, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_http_read_pem(const char *path, char **out_text);
/* Traces what failed; returns ERR. */
NEF_MUST_CHECK nef_err nef_http_start_failed(const char *what, const struct nef_http_options *options, const char *why,
                                             nef_err err);

/* The zone that the other side of a GnuTLS session proves to be: its certificate is verified here. NEF_E_DENIED. */
NEF_MUST_CHECK nef_err nef_http_session_zone(void *session, char out_zone[NEF_ZONE_NAME_MAX + 1]);

#endif
