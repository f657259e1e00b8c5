/* Listeners over libmicrohttpd; see http.h.
 *
 * What we rely on in libmicrohttpd (0.9.75, Debian 12; checked by tests/unit/server/http_test.py):
 *   - The access handler is called first when the headers are in, with no body; "100 Continue" goes
 * out only when that call returns without an answer and without suspending. A call that suspends is
 *     repeated after the resume. So requests are refused before a waiting client sends its body.
 *   - Then once for each piece of body, then once with no bytes ("final"). An answer can be queued
 * only in the first and in the final calls: one that is known earlier waits in r->response while
 * the rest of the body is thrown away. Queued in the first call, the connection is closed after it.
 *   - A suspended connection isn't watched, never times out and is never freed; its resume may be
 * called from any thread, also before the call that suspended it has returned.
 *   - The library's own log names URLs, so it stays off.
 *
 * Parking (r->park) is a token of three states, so that no wake is lost:
 *
 *      IDLE --- wake ---> NOTIFIED      nef_http_park takes the token and has the call made again at once
 *      IDLE --- park ---> PARKED        suspended
 *      PARKED - wake ---> IDLE          resumed by whoever won this transition, and nobody else
 *
 * Only the listener's thread parks. A CLOSED request is never resumed. */
#include "http/http.h"
#include <microhttpd.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"
#include "http/http_internal.h"

/* Headers of 16 KiB, the answer's, and body reads; cleared for each request. */
#define CONNECTION_MEMORY ((size_t)40 << 10)
#define STOP_POLL_US      2000

enum park { PARK_IDLE, PARK_NOTIFIED, PARK_PARKED, PARK_CLOSED };

struct nef_http {
    struct MHD_Daemon *daemon;
    struct nef_http_left *left;
    struct nef_http_handler handler;
    uint16_t port;
    char *cert, *key, *client_ca;
    char *unix_path; /* unlinked at the end */
    uint32_t connections_few; /* below it no thread of the library is at its limit */
    bool deaf;                /* the listening socket is closed */
    atomic_bool quiet, closing;
    atomic_uint parked;
};

/* ---- references and wakes ---- */

void nef_http_ref(struct nef_http_request *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
}

void nef_http_unref(struct nef_http_request *r)
{
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (r->response != NULL) /* of a worker that finished after the connection was closed */
        MHD_destroy_response(r->response);
    free(r);
}

void nef_http_wake(struct nef_http_request *r)
{
    int state = atomic_load(&r->park);

    for (;;) {
        if (state == PARK_IDLE) {
            if (atomic_compare_exchange_weak(&r->park, &state, PARK_NOTIFIED))
                return;
        } else if (state == PARK_PARKED) {
            if (atomic_compare_exchange_weak(&r->park, &state, PARK_IDLE)) {
                struct nef_http *http = r->http;

                MHD_resume_connection(r->connection);
                atomic_fetch_sub(&http->parked, 1);
                return;
            }
        } else {
            return; /* noticed already, or gone */
        }
    }
}

bool nef_http_park(struct nef_http_request *r)
{
    int state = PARK_IDLE;

    /* Count first, then look: nef_http_stop sets closing first, then waits for the count to be 0.
     */
    atomic_fetch_add(&r->http->parked, 1);
    if (atomic_load(&r->http->closing)) {
        atomic_fetch_sub(&r->http->parked, 1);
        return false;
    }
    MHD_suspend_connection(r->connection);
    if (!atomic_compare_exchange_strong(&r->park, &state, PARK_PARKED)) {
        NEF_ASSERT(state == PARK_NOTIFIED);
        atomic_store(&r->park, PARK_IDLE);
        MHD_resume_connection(r->connection);
        atomic_fetch_sub(&r->http->parked, 1);
    }
    return true;
}

nef_err nef_http_peer_zone(const struct nef_http_request *r, char out_zone[NEF_ZONE_NAME_MAX + 1])
{
    const union MHD_ConnectionInfo *info;

    if (r->http->client_ca == NULL)
        return NEF_E_DENIED;
    info = MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return info == NULL ? NEF_E_DENIED : nef_http_session_zone(info->tls_session, out_zone);
}

bool nef_http_gone(const struct nef_http_request *r)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd look = {.events = POLLRDHUP};

    if (info == NULL)
        return true;
    look.fd = info->connect_fd;
    return poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* ---- the request as it came ---- */

const char *nef_http_method(const struct nef_http_request *r)
{
    return r->method;
}

const char *nef_http_target(const struct nef_http_request *r)
{
    return r->target;
}

void nef_http_path(const struct nef_http_request *r, char *out_path, size_t size)
{
    size_t bytes = strcspn(r->target, "?"), at = 0;

    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte;

        if (at + 1 >= size) {
            at = 0;
            break;
        }
        if (r->target[i] == '%' && i + 2 < bytes &&
            nef_unhex(r->target + i + 1, 2, &byte, 1) == NEF_OK && byte != 0) {
            out_path[at++] = (char)byte;
            i += 2;
        } else {
            out_path[at++] = r->target[i];
        }
    }
    out_path[at] = '\0';
}

const struct nef_http_field *nef_http_headers(const struct nef_http_request *r, size_t *out_count)
{
    *out_count = r->header_count;
    return r->headers;
}

const char *nef_http_header(const struct nef_http_request *r, const char *name)
{
    for (size_t i = 0; i < r->header_count; i++)
        if (strcasecmp(r->headers[i].name, name) == 0)
            return r->headers[i].value;
    return NULL;
}

bool nef_http_headers_too_large(const struct nef_http_request *r)
{
    return r->too_large;
}

static enum MHD_Result on_header(void *context, enum MHD_ValueKind kind, const char *name,
                                 const char *value)
{
    struct nef_http_request *r = context;

    (void)kind;
    if (value == NULL)
        value = "";
    r->header_bytes += strlen(name) + strlen(value) + 4;
    if (r->header_count == NEF_HTTP_HEADER_COUNT_MAX || r->header_bytes > NEF_HEADERS_MAX) {
        r->too_large = true;
        return MHD_NO;
    }
    r->headers[r->header_count].name = name;
    r->headers[r->header_count].value = value;
    r->header_count++;
    return MHD_YES;
}

/* The raw target, before the library decodes it in place: signatures are over this text. */
static void *on_target(void *context, const char *uri, struct MHD_Connection *connection)
{
    struct nef_http *http = context;
    size_t bytes = strlen(uri) + 1;
    struct nef_http_request *r = malloc(sizeof(*r) + bytes);

    if (r == NULL)
        return NULL;
    r->http = http;
    r->connection = connection;
    atomic_init(&r->refs, 1);
    atomic_init(&r->park, PARK_IDLE);
    r->stage = STAGE_FRESH;
    r->call = NULL;
    r->method = "";
    r->header_count = 0;
    r->header_bytes = 0;
    r->too_large = bytes - 1 > NEF_TARGET_MAX;
    r->response = NULL;
    r->status = 0;
    r->failed = false;
    r->drained = 0;
    memcpy(r->target, uri, bytes);
    return r;
}

/* Bytes of body still to come after the headers, without framing: of a chunked body S3 clients tell
 * the decoded length. UINT64_MAX if unknown. */
static uint64_t body_announced(const struct nef_http_request *r)
{
    const char *length = nef_http_header(r, "Content-Length");

    if (nef_http_header(r, "Transfer-Encoding") != NULL) {
        length = nef_http_header(r, "x-amz-decoded-content-length");
        return length == NULL ? UINT64_MAX : strtoull(length, NULL, 10);
    }
    return length == NULL ? 0 : strtoull(length, NULL, 10);
}

/* ---- driving the handler ---- */

static enum MHD_Result queue(struct nef_http_request *r)
{
    enum MHD_Result result;

    if (r->failed || r->response == NULL)
        return MHD_NO;
    r->stage = STAGE_QUEUED;
    result = MHD_queue_response(r->connection, r->status, r->response);
    MHD_destroy_response(r->response); /* the queue has its own reference */
    r->response = NULL;
    return result;
}

static enum MHD_Result on_begin(struct nef_http_request *r)
{
    const struct nef_http_handler *handler = &r->http->handler;
    uint64_t announced;
    bool waits;

    switch (handler->begin(r->call)) {
    case NEF_HTTP_GO:
        r->stage = STAGE_BODY;
        return MHD_YES;
    case NEF_HTTP_WAIT:
        return nef_http_park(r) ? MHD_YES : MHD_NO;
    case NEF_HTTP_ANSWERED:
        /* A client that waits for "100 Continue" has sent nothing: answer now. Of one that doesn't,
         * take what it is sending, if it isn't much: many see no answer before they have written
         * all. boto3 asks for "100 Continue" and sends a chunked body without waiting for it
         * (urllib3 1.26); over TLS it would see a broken connection instead of the answer. */
        announced = body_announced(r);
        waits =
            nef_http_header(r, "Expect") != NULL && nef_http_header(r, "Transfer-Encoding") == NULL;
        if (announced == 0 || (announced <= NEF_HTTP_DRAIN_MAX && !waits)) {
            r->stage = STAGE_DRAIN;
            return MHD_YES;
        }
        return queue(r);
    case NEF_HTTP_DROP:
        break;
    }
    return MHD_NO;
}

static enum MHD_Result on_body(struct nef_http_request *r, const char *data, size_t *bytes)
{
    size_t used = 0;

    if (r->stage == STAGE_DRAIN) {
        r->drained += *bytes;
        *bytes = 0;
        return r->drained > NEF_HTTP_DRAIN_MAX ? MHD_NO : MHD_YES;
    }
    switch (r->http->handler.body(r->call, (const uint8_t *)data, *bytes, &used)) {
    case NEF_HTTP_GO:
        NEF_ASSERT(used == *bytes);
        *bytes = 0;
        return MHD_YES;
    case NEF_HTTP_WAIT:
        NEF_ASSERT(used <= *bytes);
        *bytes -= used;
        return nef_http_park(r) ? MHD_YES : MHD_NO;
    case NEF_HTTP_ANSWERED:
        r->stage = STAGE_DRAIN;
        *bytes = 0;
        return MHD_YES;
    case NEF_HTTP_DROP:
        break;
    }
    return MHD_NO;
}

static enum MHD_Result on_end(struct nef_http_request *r)
{
    if (r->stage == STAGE_DRAIN)
        return queue(r);
    switch (r->http->handler.end(r->call)) {
    case NEF_HTTP_ANSWERED:
        return queue(r);
    case NEF_HTTP_WAIT:
        return nef_http_park(r) ? MHD_YES : MHD_NO;
    case NEF_HTTP_GO:
        nef_assert_fail(__FILE__, __LINE__, "end must answer, wait or drop");
    case NEF_HTTP_DROP:
        break;
    }
    return MHD_NO;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *bytes, void **con_cls)
{
    struct nef_http_request *r = *con_cls;

    (void)context;
    (void)url;
    (void)version;
    if (r == NULL)
        return MHD_NO; /* no memory for it */
    if (r->stage == STAGE_FRESH) {
        r->method = method;
        (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, on_header, r);
        r->call = r->http->handler.open(r->http->handler.context, r);
        if (r->call == NULL)
            return MHD_NO;
        r->stage = STAGE_BEGIN;
    }
    if (r->stage == STAGE_BEGIN)
        return on_begin(r);
    return *bytes > 0 ? on_body(r, data, bytes) : on_end(r);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    struct nef_http_request *r = *con_cls;

    (void)context;
    (void)connection;
    if (r == NULL)
        return;
    *con_cls = NULL;
    atomic_store(&r->park, PARK_CLOSED);
    if (r->stage == STAGE_DRAIN && r->response != NULL) {
        MHD_destroy_response(r->response);
        r->response = NULL;
    }
    if (r->call != NULL)
        r->http->handler.closed(r->call, code == MHD_REQUEST_TERMINATED_COMPLETED_OK &&
                                             r->stage == STAGE_QUEUED);
    nef_http_unref(r);
}

/* ---- listeners ---- */

/* Query arguments are parsed from the raw target by whoever needs them. */
static size_t keep_escaped(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context;
    (void)connection;
    return strlen(text);
}

static void release(struct nef_http *http)
{
    if (http->key != NULL)
        explicit_bzero(http->key, strlen(http->key));
    free(http->key);
    free(http->cert);
    free(http->client_ca);
    free(http->unix_path);
    nef_http_left_stop(http->left);
    free(http);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct nef_http *http = context;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    (void)socket_context;
    NEF_ASSERT(info != NULL);
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        nef_http_left_watch(http->left, info->connect_fd);
    else
        nef_http_left_forget(http->left, info->connect_fd);
}

static enum MHD_Result may_connect(void *context, const struct sockaddr *address, socklen_t bytes)
{
    const struct nef_http *http = context;

    (void)address, (void)bytes;
    return atomic_load(&http->quiet) ? MHD_NO : MHD_YES;
}

nef_err nef_http_start(const struct nef_http_options *options, struct nef_http **out_http)
{
    struct nef_http *http = calloc(1, sizeof(*http));
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_TURBO;
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, NULL},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, NULL},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, "NORMAL:-VERS-ALL:+VERS-TLS1.2:+VERS-TLS1.3"},
        {MHD_OPTION_END, 0, NULL}, /* or the clients' CA */
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_OptionItem *extra = tls + NEF_COUNT(tls) - 1;
    int fd = -1;
    nef_err err;

    if (http == NULL)
        return NEF_E_NOMEM;
    NEF_ASSERT(options->threads > 0 && options->connections_max >= options->threads);
    http->handler = options->handler;
    http->connections_few = options->connections_max / options->threads / 2; /* some are just being taken */
    if (options->cert_file != NULL) {
        err = nef_http_read_pem(options->cert_file, &http->cert);
        if (err == NEF_OK)
            err = nef_http_read_pem(options->key_file, &http->key);
        if (err != NEF_OK) {
            err = nef_http_start_failed("tls", options, "certificate or key can't be read", err);
            goto out;
        }
        tls[0].ptr_value = http->cert;
        tls[1].ptr_value = http->key;
        extra = tls;
        flags |= MHD_USE_TLS;
        if (options->client_ca_file != NULL) {
            err = nef_http_read_pem(options->client_ca_file, &http->client_ca);
            if (err != NEF_OK) {
                err = nef_http_start_failed("tls", options, "the clients' CA can't be read", err);
                goto out;
            }
            tls[3] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_TRUST, 0, http->client_ca};
        }
    }
    if (options->unix_path != NULL) {
        http->unix_path = strdup(options->unix_path);
        if (http->unix_path == NULL) {
            err = NEF_E_NOMEM;
            goto out;
        }
    }
    err = nef_http_open_socket(options, &fd, &http->port);
    if (err != NEF_OK)
        goto out;
    err = nef_http_left_start(&http->left);
    if (err != NEF_OK) {
        err = nef_http_start_failed("start", options, "no thread or no descriptor left", err);
        goto out;
    }
    http->daemon =
        MHD_start_daemon(flags, 0, may_connect, http, on_request, http, /* */
                         MHD_OPTION_LISTEN_SOCKET, fd,           /* */
                         /* A pool of one is the same as none, but the library wants none then. */
                         MHD_OPTION_THREAD_POOL_SIZE, options->threads > 1 ? options->threads : 0u,
                         MHD_OPTION_CONNECTION_LIMIT, (unsigned)options->connections_max,  /* */
                         MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)options->idle_timeout_s, /* */
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY,            /* */
                         MHD_OPTION_URI_LOG_CALLBACK, on_target, http,                     /* */
                         MHD_OPTION_UNESCAPE_CALLBACK, keep_escaped, NULL,                 /* */
                         MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,                  /* */
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,                /* */
                         MHD_OPTION_STRICT_FOR_CLIENT, 1,                                  /* */
                         MHD_OPTION_ARRAY, extra,                                          /* */
                         MHD_OPTION_END);
    if (http->daemon == NULL) {
        err = nef_http_start_failed("start", options,
                                    options->cert_file != NULL
                                        ? "the library refused (certificate and key?)"
                                        : "the library refused",
                                    NEF_E_CONFIG);
        goto out;
    }
    fd = -1; /* the daemon's */
    *out_http = http;
    return NEF_OK;
out:
    if (fd >= 0) {
        if (http->unix_path != NULL)
            nef_http_remove_socket(http->unix_path, fd);
        (void)close(fd);
    }
    release(http);
    return err;
}

uint16_t nef_http_port(const struct nef_http *http)
{
    return http->port;
}

uint32_t nef_http_connections(const struct nef_http *http)
{
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);

    return info == NULL ? 0 : info->num_connections;
}

/* Not by MHD_quiesce_daemon: that and the library's threads both take the listening socket out of epoll, and whoever
 * comes second aborts the process ("Failed to remove listen FD from epoll set", 0.9.75 and later). A thread at its limit
 * of connections takes it out, too: with that many, new ones are taken and dropped, until the next call or the end. */
void nef_http_quiesce(struct nef_http *http)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_LISTEN_FD);
    const int fd = info == NULL ? -1 : info->listen_fd;

    if (http->deaf || fd < 0)
        return;
    if (!atomic_exchange(&http->quiet, true) && http->unix_path != NULL)
        nef_http_remove_socket(http->unix_path, fd); /* while it still answers: see there */
    if (nef_http_connections(http) < http->connections_few)
        http->deaf = nef_http_close_socket(fd);
}

void nef_http_stop(struct nef_http *http)
{
    if (http == NULL)
        return;
    nef_http_quiesce(http);
    atomic_store(&http->closing, true);
    /* The library must not be stopped with suspended connections; each waits for something bounded in time, and wakes. */
    while (atomic_load(&http->parked) > 0)
        (void)usleep(STOP_POLL_US);
    MHD_stop_daemon(http->daemon);
    release(http);
}
