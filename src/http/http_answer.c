/* Answers: what the library is given to send. One that is known before the request's body is in waits in r->response; see
 * http.c. */
#include <microhttpd.h>
#include <stdlib.h>
#include <sys/socket.h>
#include "base/assert.h"
#include "http/http_internal.h"

#define CHUNK_BLOCK_BYTES ((size_t)16 << 10) /* of a stream of unknown length */

static void set_response(struct nef_http_request *r, unsigned status, struct MHD_Response *response)
{
    NEF_ASSERT(r->response == NULL);
    r->status = status;
    r->response = response;
    r->failed = response == NULL;
}

void nef_http_answer(struct nef_http_request *r, unsigned status, void *data, size_t bytes)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        bytes, data, data == NULL ? MHD_RESPMEM_PERSISTENT : MHD_RESPMEM_MUST_FREE);

    if (response == NULL)
        free(data);
    set_response(r, status, response);
}

struct tracked {
    void *data;
    void (*done)(void *context);
    void *context;
};

static void free_tracked(void *context)
{
    struct tracked *t = context;

    free(t->data);
    t->done(t->context);
    free(t);
}

void nef_http_answer_tracked(struct nef_http_request *r, unsigned status, void *data, size_t bytes,
                             void (*done)(void *context), void *context)
{
    struct tracked *t = malloc(sizeof(*t));
    struct MHD_Response *response = NULL;

    if (t == NULL) {
        free(data);
        done(context);
    } else {
        *t = (struct tracked){data, done, context};
        response =
            MHD_create_response_from_buffer_with_free_callback_cls(bytes, data, free_tracked, t);
        if (response == NULL)
            free_tracked(t);
    }
    set_response(r, status, response);
}

static ssize_t never_read(void *context, uint64_t at, char *out, size_t max)
{
    (void)context;
    (void)at;
    (void)out;
    (void)max;
    return MHD_CONTENT_READER_END_WITH_ERROR;
}

void nef_http_answer_head(struct nef_http_request *r, unsigned status, uint64_t bytes)
{
    set_response(r, status, MHD_create_response_from_callback(bytes, 64, never_read, NULL, NULL));
}

static ssize_t on_read(void *context, uint64_t at, char *out, size_t max)
{
    struct nef_http_request *r = context;
    int64_t bytes = r->stream.read(r->stream.context, (uint8_t *)out, max);
    const union MHD_ConnectionInfo *info;

    (void)at;
    if (bytes > 0)
        return (ssize_t)bytes;
    if (bytes == NEF_HTTP_STREAM_END && r->endless)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (bytes == 0 && nef_http_park(r))
        return 0;
    /* The library marks the connection closed but, with epoll, looks at it again only when
     * something happens on its socket. */
    info = MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info != NULL)
        (void)shutdown(info->connect_fd, SHUT_RDWR);
    /* A socket that had been reset while it was parked shows nothing more: told of an error, the
     * library would leave the connection until it times out. Told of an end, it tries to write that
     * and finds the socket closed; so does the client, who never sees an end. */
    return r->endless ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void on_read_done(void *context)
{
    struct nef_http_request *r = context;

    r->stream.done(r->stream.context);
    nef_http_unref(r);
}

void nef_http_answer_stream(struct nef_http_request *r, unsigned status, uint64_t bytes,
                            const struct nef_http_stream *stream)
{
    struct MHD_Response *response;
    size_t block = bytes < NEF_HTTP_BLOCK_BYTES ? (size_t)bytes : NEF_HTTP_BLOCK_BYTES;

    _Static_assert(NEF_HTTP_LENGTH_UNKNOWN == MHD_SIZE_UNKNOWN, "handed through");
    NEF_ASSERT(bytes > 0);
    r->endless = bytes == NEF_HTTP_LENGTH_UNKNOWN;
    if (r->endless)
        block = CHUNK_BLOCK_BYTES;
    r->stream = *stream;
    nef_http_ref(r);
    response = MHD_create_response_from_callback(bytes, block, on_read, r, on_read_done);
    if (response == NULL)
        on_read_done(r);
    set_response(r, status, response);
}

void nef_http_answer_header(struct nef_http_request *r, const char *name, const char *value)
{
    if (r->response == NULL)
        return; /* failed: the connection will be dropped */
    for (const char *c = value; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return;
    if (value[0] == '\0')
        return; /* the library refuses empty values */
    if (MHD_add_response_header(r->response, name, value) != MHD_YES)
        r->failed = true;
}

void nef_http_answer_close(struct nef_http_request *r)
{
    nef_http_answer_header(r, "Connection", "close");
}
