/* What all S3 operations use: the life of a call, waiting for the runtime, answers, the access log.
 *
 * References: whoever may still call back holds one, so a call outlives its connection when a
 * client goes away in the middle; what it had begun ends by itself (an upload is aborted, a
 * proposal's outcome is ignored). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "server/s3_internal.h"

struct call *call_new(struct nef_s3_service *s, struct nef_http_request *http)
{
    struct call *c = malloc(sizeof(*c));
    uint64_t number;

    if (c == NULL)
        return NULL;
    /* `why`, last in the struct, is large and written before it is read. */
    memset(c, 0, offsetof(struct call, why));
    memset(&c->why, 0, offsetof(struct nef_s3_error, text));
    c->s = s;
    c->http = http;
    nef_http_ref(http);
    atomic_init(&c->refs, 1);
    c->phase = PHASE_AUTH;
    c->start_ns = nef_now_ns();
    (void)pthread_mutex_init(&c->lock, NULL); /* never fails for default attributes */
    (void)pthread_cond_init(&c->cond, NULL);
    /* An odd factor makes the sequence look unlike a counter without ever repeating. */
    number =
        s->request_base + atomic_fetch_add_explicit(&s->request_count, 1, memory_order_relaxed) *
                              0x9e3779b97f4a7c15ull;
    (void)snprintf(c->id, sizeof(c->id), "%016" PRIX64, number);
    atomic_fetch_add(&s->calls, 1);
    return c;
}

void call_ref(struct call *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void call_unref(struct call *c)
{
    struct nef_s3_service *s = c->s;

    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    get_end(c);
    stream_free(&c->stream);
    intake_free(&c->intake);
    nef_buf_free(&c->xml);
    nef_s3_request_free(&c->request);
    nef_wipe(&c->key, sizeof(c->key));
    (void)pthread_cond_destroy(&c->cond);
    (void)pthread_mutex_destroy(&c->lock);
    nef_http_unref(c->http);
    free(c);
    atomic_fetch_sub(&s->calls, 1); /* last: nef_s3_service_stop waits for it */
}

/* ---- waiting ---- */

void call_notify(struct call *c)
{
    bool blocking;

    (void)pthread_mutex_lock(&c->lock);
    c->notices++;
    blocking = c->blocking;
    if (blocking)
        (void)pthread_cond_broadcast(&c->cond);
    (void)pthread_mutex_unlock(&c->lock);
    if (!blocking)
        nef_http_wake(c->http);
}

void call_block(struct call *c, bool blocking)
{
    (void)pthread_mutex_lock(&c->lock);
    c->blocking = blocking;
    (void)pthread_mutex_unlock(&c->lock);
}

uint64_t call_notices(struct call *c)
{
    uint64_t notices;

    (void)pthread_mutex_lock(&c->lock);
    notices = c->notices;
    (void)pthread_mutex_unlock(&c->lock);
    return notices;
}

void call_wait_notice(struct call *c, uint64_t seen)
{
    (void)pthread_mutex_lock(&c->lock);
    while (c->notices == seen)
        (void)pthread_cond_wait(&c->cond, &c->lock);
    (void)pthread_mutex_unlock(&c->lock);
}

void call_woken(void *context)
{
    struct call *c = context;

    atomic_store(&c->armed, false);
    call_notify(c);
    call_unref(c);
}

bool call_arm(struct call *c)
{
    if (atomic_exchange(&c->armed, true))
        return false;
    call_ref(c);
    return true;
}

void call_disarm(struct call *c)
{
    atomic_store(&c->armed, false);
    call_unref(c);
}

void call_read_begin(struct call *c)
{
    memset(&c->read, 0, sizeof(c->read));
    c->read_ns = nef_now_ns();
}

nef_err call_gate(struct call *c, uint32_t cell, const uint8_t *tag)
{
    nef_err err;

    if (c->read_ns == 0)
        c->read_ns = c->start_ns;
    if (!call_arm(c))
        return NEF_E_AGAIN;
    err = nef_runtime_read(c->s->rt, cell, tag, c->read_ns, &c->read, call_woken, c);
    if (err != NEF_E_AGAIN)
        call_disarm(c);
    return err;
}

static void on_proposed(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct call *c = context;

    c->proposal_err = err;
    if (err == NEF_OK)
        c->outcome = *outcome;
    atomic_store_explicit(&c->proposal, PROPOSAL_DONE, memory_order_release);
    call_notify(c);
    call_unref(c);
}

nef_err call_propose(struct call *c, struct nef_run *run)
{
    nef_err err;

    NEF_ASSERT(atomic_load(&c->proposal) == PROPOSAL_NONE);
    call_ref(c);
    atomic_store_explicit(&c->proposal, PROPOSAL_SENT, memory_order_relaxed);
    err = nef_runtime_propose(c->s->rt, run, on_proposed, c);
    if (err != NEF_OK) {
        atomic_store_explicit(&c->proposal, PROPOSAL_NONE, memory_order_relaxed);
        call_unref(c);
    }
    return err;
}

nef_err call_outcome(const struct call *c)
{
    return c->proposal_err != NEF_OK ? c->proposal_err : (nef_err)c->outcome.code;
}

static void run_work(void *context)
{
    struct call *c = context;

    c->work(c);
    atomic_store_explicit(&c->worked, true, memory_order_release);
    nef_http_wake(c->http);
    call_unref(c);
}

enum nef_http_next call_submit(struct call *c, void (*work)(struct call *c))
{
    nef_err err;

    c->work = work;
    atomic_store(&c->worked, false);
    call_ref(c);
    err = nef_workers_submit(c->s->workers, run_work, c);
    if (err == NEF_OK)
        return NEF_HTTP_WAIT;
    call_unref(c);
    return call_fail(c, err);
}

/* ---- answers ---- */

static enum nef_http_next answered(struct call *c, unsigned status)
{
    c->status = status;
    call_header(c, "x-amz-request-id", c->id);
    call_header(c, "x-amz-id-2", c->s->host_id);
    return NEF_HTTP_ANSWERED;
}

void call_header(struct call *c, const char *name, const char *value)
{
    nef_http_answer_header(c->http, name, value);
}

void call_header_etag(struct call *c, const char *etag)
{
    char quoted[NEF_ETAG_MAX + 3];

    (void)snprintf(quoted, sizeof(quoted), "\"%s\"", etag);
    call_header(c, "ETag", quoted);
}

void call_header_checksum(struct call *c, const struct nef_s3_checksum_value *v)
{
    char text[NEF_S3_CHECKSUM_TEXT_MAX];

    if (v->kind == NEF_S3_CHECKSUM_NONE)
        return;
    nef_s3_checksum_text(v, text);
    call_header(c, nef_s3_checksum_header(v->kind), text);
    call_header(c, "x-amz-checksum-type", nef_s3_checksum_type_name(v->type));
}

void call_header_durability(struct call *c)
{
    uint32_t have = 0, of = 0;
    char text[32];

    nef_runtime_durability(c->s->rt, &have, &of);
    (void)snprintf(text, sizeof(text), "%u/%u", have, of);
    call_header(c, "x-nef-durability", text);
}

enum nef_http_next call_answer_bytes(struct call *c, unsigned status, void *data, size_t bytes)
{
    c->bytes_out = bytes;
    nef_http_answer(c->http, status, data, bytes);
    return answered(c, status);
}

enum nef_http_next call_answer_empty(struct call *c, unsigned status)
{
    return call_answer_bytes(c, status, NULL, 0);
}

enum nef_http_next call_answer_xml(struct call *c, unsigned status, struct nef_buf *out)
{
    nef_err err = nef_buf_end(out);

    if (err != NEF_OK) {
        nef_buf_free(out);
        return call_fail(c, err);
    }
    (void)call_answer_bytes(c, status, out->data, out->bytes);
    *out = (struct nef_buf){0};
    call_header(c, "Content-Type", "application/xml");
    return NEF_HTTP_ANSWERED;
}

enum nef_http_next call_answer_why(struct call *c)
{
    unsigned status = nef_s3_code_status(c->why.code);
    struct nef_buf out = {0};

    if (c->head || status == 304) {
        (void)call_answer_empty(c, status);
    } else {
        nef_s3_error_document(&c->why, c->request.resource, c->id, c->s->host_id, &out);
        if (nef_buf_end(&out) != NEF_OK) {
            nef_buf_free(&out);
            (void)call_answer_empty(c, 503);
        } else {
            (void)call_answer_bytes(c, status, out.data, out.bytes);
            call_header(c, "Content-Type", "application/xml");
        }
    }
    if (status == 503)
        call_header(c, "Retry-After", "1");
    return NEF_HTTP_ANSWERED;
}

enum nef_http_next call_refuse(struct call *c, enum nef_s3_code code, const char *message)
{
    if (message != NULL)
        (void)nef_s3_refuse(&c->why, code, "%s", message);
    else
        (void)nef_s3_refuse(&c->why, code, NULL);
    return call_answer_why(c);
}

enum nef_http_next call_fail(struct call *c, nef_err err)
{
    struct nef_bucket bucket;

    /* A deleted bucket's key is forgotten when its last row went here, so what began before may miss either. */
    if (err == NEF_E_KEY && c->request.bucket != NULL &&
        nef_store_bucket(c->s->store, c->request.bucket, &bucket) == NEF_E_NO_BUCKET)
        err = NEF_E_NO_BUCKET;
    nef_s3_error_of(&c->why, err);
    if (c->why.code == NEF_S3_NO_SUCH_BUCKET && c->request.bucket != NULL)
        nef_s3_error_extra(&c->why, "BucketName", c->request.bucket);
    if (c->why.code == NEF_S3_NO_SUCH_KEY && c->request.object_key != NULL)
        nef_s3_error_extra(&c->why, "Key", c->request.object_key);
    if (c->why.code == NEF_S3_NO_SUCH_UPLOAD && c->request.upload_id != NULL)
        nef_s3_error_extra(&c->why, "UploadId", c->request.upload_id);
    if (nef_s3_code_status(c->why.code) == 500)
        nef_trace(NEF_TRACE_ERROR, "request_failed", "s:id", c->id, "s:operation",
                  nef_s3_op_name(c->request.op), "e:err", (int)err, NULL);
    return call_answer_why(c);
}

enum nef_http_next call_fail_write_wait(struct call *c, nef_err err)
{
    struct nef_bucket bucket;
    struct nef_read read = {0};

    if (err != NEF_E_NO_BUCKET || c->request.bucket == NULL)
        return call_fail(c, err);
    err = nef_runtime_read_wait(c->s->rt, 0, NULL, &read);
    if (err == NEF_OK)
        err = nef_store_bucket(c->s->store, c->request.bucket, &bucket);
    if (err == NEF_OK)
        return call_refuse(c, NEF_S3_OPERATION_ABORTED, NULL);
    return call_fail(c, err);
}

static void no_bucket_work(struct call *c)
{
    (void)call_fail_write_wait(c, NEF_E_NO_BUCKET);
}

enum nef_http_next call_fail_write(struct call *c, nef_err err)
{
    return err == NEF_E_NO_BUCKET ? call_submit(c, no_bucket_work) : call_fail(c, err);
}

/* One line a request. What is stored is named by the beginning of its key tag, a keyed hash. */
void call_log(struct call *c, bool complete)
{
    uint64_t ns = nef_now_ns() - c->start_ns;
    unsigned status = complete ? c->status : 0;
    const char *operation = c->request.op_name != NULL ? c->request.op_name : "Unknown";
    char tag[17] = "";

    if (c->has_tag)
        nef_hex(c->tag, 8, tag);
    nef_trace(NEF_TRACE_INFO, "request", "s:id", c->id, "s:operation", operation, "u:status",
              (uint64_t)status, "u:in", c->intake.got, "u:out", c->bytes_out, "u:us", ns / 1000,
              "s:object", tag, NULL);
    nef_metrics_end(c->s->metrics, (uint32_t)c->request.op, status, c->intake.got, c->bytes_out,
                    ns);
}

/* ---- small things ---- */

struct nef_s3_checksum_value checksum_of_store(const struct nef_checksum *c, uint32_t parts)
{
    struct nef_s3_checksum_value v = {.kind = (enum nef_s3_checksum_kind)c->kind};

    if (c->bytes == 0) {
        v.kind = NEF_S3_CHECKSUM_NONE;
        return v;
    }
    v.type = c->scope == NEF_CHECKSUM_COMPOSITE ? NEF_S3_CHECKSUM_COMPOSITE
                                                : NEF_S3_CHECKSUM_FULL_OBJECT;
    if (v.type == NEF_S3_CHECKSUM_COMPOSITE)
        v.parts = parts;
    memcpy(v.bytes, c->value, NEF_MIN(c->bytes, sizeof(v.bytes)));
    return v;
}

struct nef_checksum checksum_to_store(const struct nef_s3_checksum_value *v)
{
    struct nef_checksum c = {.kind = (uint8_t)v->kind};

    if (v->kind == NEF_S3_CHECKSUM_NONE)
        return c;
    c.scope =
        v->type == NEF_S3_CHECKSUM_COMPOSITE ? NEF_CHECKSUM_COMPOSITE : NEF_CHECKSUM_FULL_OBJECT;
    c.bytes = (uint8_t)nef_s3_checksum_bytes(v->kind);
    memcpy(c.value, v->bytes, c.bytes);
    return c;
}

static void add_attr(struct nef_buf *out, const char *name, const char *value)
{
    if (value != NULL)
        nef_attrs_add(out, name, strlen(name), value, strlen(value));
}

void call_attrs(const struct call *c, struct nef_buf *out)
{
    const struct nef_s3_request *r = &c->request;
    char name[NEF_USER_METADATA_MAX + 16];

    nef_attrs_begin(out);
    add_attr(out, "content-type", r->content_type);
    add_attr(out, "cache-control", r->cache_control);
    add_attr(out, "content-disposition", r->content_disposition);
    add_attr(out, "content-encoding", r->content_encoding);
    add_attr(out, "content-language", r->content_language);
    add_attr(out, "expires", r->expires);
    for (size_t i = 0; i < r->meta_count; i++) {
        int bytes = snprintf(name, sizeof(name), "x-amz-meta-%s", r->meta[i].name);

        if (bytes > 0 && (size_t)bytes < sizeof(name))
            nef_attrs_add(out, name, (size_t)bytes, r->meta[i].value, strlen(r->meta[i].value));
    }
}

struct nef_condition call_condition(const struct call *c)
{
    struct nef_condition condition = {0};

    switch (c->request.write_condition) {
    case NEF_S3_WRITE_ALWAYS:
        break;
    case NEF_S3_WRITE_IF_ABSENT:
        condition.none = true;
        break;
    case NEF_S3_WRITE_IF_EXISTS:
        condition.any = true;
        break;
    case NEF_S3_WRITE_IF_ETAG:
        /* One that is longer than any ETag of ours matches nothing, cut or not. */
        (void)snprintf(condition.match, sizeof(condition.match), "%s", c->request.write_etag);
        break;
    }
    return condition;
}

nef_err call_check_durability(struct call *c)
{
    uint32_t have = 0, of = 0;

    if ((c->bucket.flags & NEF_BUCKET_REQUIRE_2_2) == 0)
        return NEF_OK;
    nef_runtime_durability(c->s->rt, &have, &of);
    return have < of ? NEF_E_DURABILITY : NEF_OK;
}

nef_err call_place(struct call *c, const char *key, size_t key_bytes)
{
    nef_err err = nef_store_tag(c->s->store, &c->bucket.id, key, key_bytes, c->tag);

    if (err != NEF_OK)
        return err;
    c->has_tag = true;
    c->cell = nef_store_cell(c->s->store, &c->bucket.id, key, key_bytes);
    return NEF_OK;
}

nef_err call_bucket_wait(struct call *c, const char *name, struct nef_bucket *out)
{
    struct nef_bucket bucket;
    struct nef_read read = {0};
    nef_err err = nef_store_bucket(c->s->store, name, &bucket);

    while (err == NEF_E_NO_BUCKET) {
        nef_err read_err = nef_runtime_read_wait(c->s->rt, 0, NULL, &read);

        if (read_err != NEF_OK)
            return read_err;
        err = nef_store_bucket(c->s->store, name, &bucket);
        if (nef_runtime_read_done(c->s->rt, &read) == NEF_OK)
            break;
        err = NEF_E_NO_BUCKET;
    }
    if (err == NEF_OK)
        *out = bucket;
    return err;
}

nef_err call_object_wait(struct call *c, const struct nef_bucket *bucket, const char *key,
                         size_t key_bytes, struct nef_object **out_object)
{
    uint32_t cell = nef_store_cell(c->s->store, &bucket->id, key, key_bytes);
    struct nef_object *object = NULL;
    uint8_t tag[16];
    nef_err err = nef_store_tag(c->s->store, &bucket->id, key, key_bytes, tag);

    if (err != NEF_OK)
        return err;
    for (;;) {
        struct nef_read read = {0};

        err = nef_runtime_read_wait(c->s->rt, cell, tag, &read);
        if (err != NEF_OK)
            return err;
        err = nef_store_object(c->s->store, bucket, key, key_bytes, &object);
        if (nef_runtime_read_done(c->s->rt, &read) == NEF_OK)
            break;
        if (err == NEF_OK)
            nef_object_free(object);
    }
    if (err == NEF_OK)
        *out_object = object;
    return err;
}
