/*~ The S3 service: one PUT begins here. nef_s3_service_start opens the listener; on_open, on_begin,
 * on_body and on_end drive each request through its phases:
 *
 *   AUTH    parse, signature, who may do this            waits only for an unknown user (gate of
 * cell 0) BUCKET  which bucket                                  waits only for an unknown bucket
 * (gate of cell 0) START   the operation looks at its request            a part looks for its
 * upload BODY    the client sends RUN     the operation's steps, or its worker DONE    answered
 *
 * "100 Continue" goes to the client between START and BODY, so nobody who isn't allowed to, or
 * writes to a bucket that isn't there, sends a body. */
#include "server/s3_service.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "server/s3_internal.h"

#define WORKER_QUEUE_MAX 512u /* requests that wait for a worker: more is SlowDown */
#define READER_THREADS   16u  /* a disk that has as many reads under way seldom gives more for more of them */
#define READER_QUEUE_MAX 1024u /* never full: s3_get.c bounds what it gives them */
#define IDLE_TIMEOUT_S   65u  /* longer than the front keeps its idle connections */
#define STOP_POLL_US     2000

/* How an operation is served. */
struct operation {
    bool bucket; /* must exist */
    enum { BODY_NONE, BODY_XML, BODY_OBJECT } body;
    enum nef_http_next (*step)(struct call *c); /* one of the two */
    void (*work)(struct call *c);
};

static const struct operation operations[NEF_S3_OP_COUNT] = {
    [NEF_S3_OP_LIST_BUCKETS] = {false, BODY_NONE, NULL, list_buckets_work},
    [NEF_S3_OP_CREATE_BUCKET] = {false, BODY_XML, NULL, bucket_create_work},
    [NEF_S3_OP_DELETE_BUCKET] = {true, BODY_NONE, NULL, bucket_delete_work},
    [NEF_S3_OP_HEAD_BUCKET] = {true, BODY_NONE, bucket_head_step, NULL},
    [NEF_S3_OP_GET_BUCKET_LOCATION] = {true, BODY_NONE, bucket_location_step, NULL},
    [NEF_S3_OP_GET_BUCKET_VERSIONING] = {true, BODY_NONE, bucket_versioning_step, NULL},
    [NEF_S3_OP_LIST_OBJECTS] = {true, BODY_NONE, NULL, list_objects_work},
    [NEF_S3_OP_LIST_OBJECTS_V2] = {true, BODY_NONE, NULL, list_objects_work},
    [NEF_S3_OP_LIST_OBJECT_VERSIONS] = {true, BODY_NONE, NULL, list_objects_work},
    [NEF_S3_OP_LIST_MULTIPART_UPLOADS] = {true, BODY_NONE, NULL, list_uploads_work},
    [NEF_S3_OP_DELETE_OBJECTS] = {true, BODY_XML, NULL, delete_many_work},
    [NEF_S3_OP_GET_OBJECT] = {true, BODY_NONE, get_step, NULL},
    [NEF_S3_OP_HEAD_OBJECT] = {true, BODY_NONE, get_step, NULL},
    [NEF_S3_OP_PUT_OBJECT] = {true, BODY_OBJECT, put_step, NULL},
    [NEF_S3_OP_COPY_OBJECT] = {true, BODY_NONE, NULL, copy_object_work},
    [NEF_S3_OP_DELETE_OBJECT] = {true, BODY_NONE, delete_step, NULL},
    [NEF_S3_OP_CREATE_MULTIPART_UPLOAD] = {true, BODY_NONE, NULL, upload_create_work},
    [NEF_S3_OP_UPLOAD_PART] = {true, BODY_OBJECT, put_step, NULL},
    [NEF_S3_OP_UPLOAD_PART_COPY] = {true, BODY_NONE, NULL, copy_part_work},
    [NEF_S3_OP_COMPLETE_MULTIPART_UPLOAD] = {true, BODY_XML, NULL, upload_complete_work},
    [NEF_S3_OP_ABORT_MULTIPART_UPLOAD] = {true, BODY_NONE, NULL, upload_abort_work},
    [NEF_S3_OP_LIST_PARTS] = {true, BODY_NONE, NULL, list_parts_work},
    [NEF_S3_OP_GET_OBJECT_TAGGING] = {true, BODY_NONE, get_step, NULL},
};

const char *const *nef_s3_operation_names(uint32_t *out_count)
{
    static const char *const names[] = {
#define X(name, text) text,
        NEF_S3_OP_LIST(X)
#undef X
    };

    *out_count = NEF_S3_OP_COUNT;
    return names;
}

/* ---- phases ---- */

static enum nef_http_next done(struct call *c, enum nef_http_next next)
{
    if (next == NEF_HTTP_ANSWERED)
        c->phase = PHASE_DONE;
    return next;
}

/* NEF_OK: go on. NEF_E_AGAIN: wait. Others: c->why. */
static nef_err authenticate(struct call *c)
{
    nef_err err = auth_check(c);

    if (err == NEF_E_AGAIN || err != NEF_OK)
        return err;
    if (c->refused) /* what is wrong with the request is told only to who signed it */
        return NEF_E_INVALID;
    if (c->request.op == NEF_S3_OP_NOT_IMPLEMENTED)
        return nef_s3_request_not_implemented(&c->request, &c->why);
    return NEF_OK;
}

static nef_err find_bucket(struct call *c)
{
    const char *name = c->request.bucket;
    nef_err err = nef_store_bucket(c->s->store, name, &c->bucket);

    while (err == NEF_E_NO_BUCKET) { /* perhaps made through the other zone a moment ago */
        err = call_gate(c, 0, NULL);
        if (err != NEF_OK)
            return err;
        err = nef_store_bucket(c->s->store, name, &c->bucket);
        if (err == NEF_E_NO_BUCKET && nef_runtime_read_done(c->s->rt, &c->read) == NEF_OK)
            return err;
    }
    return err;
}

static enum nef_http_next run(struct call *c)
{
    const struct operation *o = &operations[c->request.op];

    if (o->step != NULL)
        return done(c, o->step(c));
    if (c->work == NULL)
        return done(c, call_submit(c, o->work));
    return atomic_load_explicit(&c->worked, memory_order_acquire) ? done(c, NEF_HTTP_ANSWERED)
                                                                  : NEF_HTTP_WAIT;
}

static enum nef_http_next start(struct call *c)
{
    const struct operation *o = &operations[c->request.op];
    enum nef_http_next next;
    nef_err err;

    switch (o->body) {
    case BODY_OBJECT:
        next = put_start(c);
        if (next == NEF_HTTP_GO)
            c->phase = PHASE_BODY;
        return done(c, next);
    case BODY_XML:
        if (c->request.op == NEF_S3_OP_CREATE_BUCKET) {
            const char *durability = nef_http_header(c->http, "x-nef-require-durability");

            if (durability != NULL && strcmp(durability, "2/2") != 0) {
                (void)nef_s3_refuse_argument(&c->why, "x-nef-require-durability", durability,
                                             "Only 2/2 can be required");
                return done(c, call_answer_why(c));
            }
            c->require_2_2 = durability != NULL;
        }
        if (c->request.content_bytes < 0 && c->request.op == NEF_S3_OP_CREATE_BUCKET)
            break; /* without a body */
        err = intake_begin(c, false, NEF_S3_CHECKSUM_NONE);
        if (err != NEF_OK)
            return done(c, call_answer_why(c));
        if (c->intake.expected > NEF_XML_BODY_MAX)
            return done(c, call_refuse(c, NEF_S3_MAX_MESSAGE_LENGTH_EXCEEDED, NULL));
        c->xml.max = NEF_XML_BODY_MAX + 1;
        c->phase = PHASE_BODY;
        return NEF_HTTP_GO;
    case BODY_NONE:
        break;
    }
    c->phase = PHASE_RUN;
    return run(c);
}

static enum nef_http_next on_begin(void *context)
{
    struct call *c = context;
    nef_err err;

    if (c->phase == PHASE_AUTH) {
        err = c->phase_err != NEF_OK ? c->phase_err : authenticate(c);
        if (err == NEF_E_AGAIN)
            return NEF_HTTP_WAIT;
        if (err != NEF_OK)
            return done(c, call_answer_why(c));
        c->phase = PHASE_BUCKET;
    }
    if (c->phase == PHASE_BUCKET) {
        if (operations[c->request.op].bucket) {
            err = find_bucket(c);
            if (err == NEF_E_AGAIN)
                return NEF_HTTP_WAIT;
            if (err != NEF_OK)
                return done(c, call_fail(c, err));
        }
        c->phase = PHASE_START;
    }
    if (c->phase == PHASE_START)
        return start(c);
    NEF_ASSERT(c->phase == PHASE_RUN);
    return run(c);
}

static enum nef_http_next on_body(void *context, const uint8_t *data, size_t bytes,
                                  size_t *out_used)
{
    struct call *c = context;
    nef_err err;

    if (operations[c->request.op].body == BODY_OBJECT)
        return done(c, put_body(c, data, bytes, out_used));
    if (c->phase != PHASE_BODY) { /* a body where none belongs: no harm, no use */
        *out_used = bytes;
        return NEF_HTTP_GO;
    }
    *out_used = 0;
    while (*out_used < bytes) {
        const uint8_t *span = NULL;
        size_t used = 0, span_bytes = 0;

        err = intake_step(c, data + *out_used, bytes - *out_used, bytes, &used, &span, &span_bytes);
        if (err != NEF_OK)
            return done(c, call_answer_why(c));
        nef_buf_append(&c->xml, span, span_bytes);
        *out_used += used;
    }
    return NEF_HTTP_GO;
}

static enum nef_http_next on_end(void *context)
{
    struct call *c = context;
    const struct operation *o = &operations[c->request.op];
    nef_err err;

    if (o->body == BODY_XML && c->phase == PHASE_BODY) {
        err = intake_end(c);
        if (err == NEF_OK && (err = nef_buf_end(&c->xml)) != NEF_OK)
            nef_s3_error_of(&c->why, err);
        if (err != NEF_OK)
            return done(c, call_answer_why(c));
    }
    c->phase = PHASE_RUN;
    return run(c);
}

static void on_closed(void *context, bool complete)
{
    struct call *c = context;

    call_log(c, complete);
    /* A client that went away in the middle: its pieces are given up. The stream of a copy is its
     * worker's, which may still be at it when the listener stops. */
    if (operations[c->request.op].body == BODY_OBJECT)
        stream_end(&c->stream);
    call_unref(c);
}

static void *on_open(void *context, struct nef_http_request *http)
{
    struct nef_s3_service *s = context;
    struct call *c = call_new(s, http);
    const char *text;
    nef_err err;

    if (c == NULL)
        return NULL;
    nef_metrics_begin(s->metrics);
    c->wire.method = nef_http_method(http);
    c->wire.target = nef_http_target(http);
    c->wire.headers = nef_http_headers(http, &c->wire.header_count);
    c->head = strcmp(c->wire.method, "HEAD") == 0;
    text = nef_http_header(http, "Host");
    if (text != NULL && strlen(text) < sizeof(c->host))
        (void)strcpy(c->host, text);
    if (nef_http_headers_too_large(http)) {
        c->phase_err = nef_s3_refuse(&c->why, NEF_S3_REQUEST_HEADER_SECTION_TOO_LARGE, NULL);
        return c;
    }
    if (atomic_load_explicit(&s->stopping, memory_order_relaxed)) {
        c->phase_err = nef_s3_refuse(&c->why, NEF_S3_SERVICE_UNAVAILABLE, NULL);
        return c;
    }
    if (!nef_runtime_clock_known(s->rt)) {
        c->phase_err = nef_s3_refuse(&c->why, NEF_S3_SERVICE_UNAVAILABLE,
                                     "The zone has just started and doesn't know the time yet. Try again.");
        return c;
    }
    err = nef_s3_request_parse(&c->wire, &c->request, &c->why);
    if (err == NEF_OK || err == NEF_E_UNSUPPORTED || err == NEF_E_INVALID || err == NEF_E_DENIED) {
        c->refused = err != NEF_OK;
        err = NEF_OK;
    }
    if (err == NEF_OK && c->refused) {
        /* A signature that is wrong in form is told first, but doesn't overwrite why this was
         * refused. */
        struct nef_s3_error why = c->why;

        err = nef_sigv4_parse(&c->wire, s->region, (int64_t)(nef_wall_ms() / 1000), &c->auth,
                              &c->why);
        if (err == NEF_OK)
            c->why = why;
    } else if (err == NEF_OK) {
        err = nef_sigv4_parse(&c->wire, s->region, (int64_t)(nef_wall_ms() / 1000), &c->auth,
                              &c->why);
    }
    c->phase_err = err;
    return c;
}

/* ---- start and stop ---- */

static void owner_of(const struct nef_id *region, char out[65])
{
    static const char label[] = "nef owner";
    uint8_t text[sizeof(label) + sizeof(region->bytes)], digest[32];

    memcpy(text, label, sizeof(label));
    memcpy(text + sizeof(label), region->bytes, sizeof(region->bytes));
    nef_hash_of(NEF_HASH_SHA256, text, sizeof(text), digest);
    nef_hex(digest, sizeof(digest), out);
}

static void free_service(struct nef_s3_service *s)
{
    nef_workers_free(s->workers);
    nef_workers_free(s->readers);
    credentials_free(s->credentials);
    (void)pthread_mutex_destroy(&s->buffers.lock);
    free(s);
}

nef_err nef_s3_service_start(const struct nef_s3_service_options *options,
                             struct nef_s3_service **out_service)
{
    const struct nef_zone_config *config = options->config;
    const struct nef_listener_config *listener = &config->listeners.s3;
    struct nef_s3_service *s = calloc(1, sizeof(*s));
    struct nef_http_options http = {.listen = listener->listen,
                                    .connections_max = config->limits.connections,
                                    .threads = config->limits.http_threads,
                                    .idle_timeout_s = IDLE_TIMEOUT_S,
                                    .handler = {on_open, on_begin, on_body, on_end, on_closed, s}};
    uint8_t host[32];
    nef_err err;

    if (s == NULL)
        return NEF_E_NOMEM;
    s->rt = options->rt;
    s->store = nef_runtime_store(options->rt);
    s->keys = options->keys;
    s->metrics = options->metrics;
    s->region = config->region;
    s->cell_count = config->cells;
    s->tls = config->listeners.s3.has_tls;
    owner_of(&config->region_id, s->owner_id);
    nef_random(host, sizeof(host));
    nef_base64(host, sizeof(host), s->host_id);
    s->request_base = nef_random_u64();
    (void)pthread_mutex_init(&s->buffers.lock, NULL);
    err = credentials_new(options->root, &s->credentials);
    if (err == NEF_OK)
        err =
            nef_workers_new("nef-s3", config->limits.worker_threads, WORKER_QUEUE_MAX, &s->workers);
    if (err == NEF_OK)
        err = nef_workers_new("nef-read", READER_THREADS, READER_QUEUE_MAX, &s->readers);
    if (err != NEF_OK)
        goto fail;
    if (http.threads == 0) {
        long processors = sysconf(_SC_NPROCESSORS_ONLN);

        http.threads = processors > 0 ? (uint32_t)processors : 1;
    }
    http.connections_max = NEF_MAX(http.connections_max, http.threads);
    if (listener->has_tls) {
        http.cert_file = listener->tls.cert;
        http.key_file = listener->tls.key;
    }
    err = nef_http_start(&http, &s->http);
    if (err != NEF_OK)
        goto fail;
    *out_service = s;
    return NEF_OK;
fail:
    free_service(s);
    return err;
}

uint16_t nef_s3_service_port(const struct nef_s3_service *service)
{
    return nef_http_port(service->http);
}

uint32_t nef_s3_service_connections(const struct nef_s3_service *service)
{
    return nef_http_connections(service->http);
}

uint32_t nef_s3_service_queue(const struct nef_s3_service *service)
{
    return nef_workers_waiting(service->workers);
}

void nef_s3_service_stop(struct nef_s3_service *s, uint32_t grace_ms)
{
    uint64_t until = nef_now_ms() + grace_ms;

    if (s == NULL)
        return;
    nef_http_quiesce(s->http);
    atomic_store(&s->stopping, true);
    while (atomic_load(&s->calls) > 0 && nef_now_ms() < until)
        (void)usleep(STOP_POLL_US);
    stream_close_buffers(s); /* who waits for memory is parked, and would hold up the listener */
    nef_http_stop(s->http);
    nef_workers_stop(s->workers);
    nef_workers_stop(s->readers);
    while (atomic_load(&s->calls) > 0) /* the runtime still owes callbacks */
        (void)usleep(STOP_POLL_US);
    free_service(s);
}
