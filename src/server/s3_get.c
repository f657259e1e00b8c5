/* GetObject, HeadObject and GetObjectTagging: a state machine that never waits in a thread.
 *
 *   gate (R4, R5) -> look-up -> lease still good? -> conditions -> range -> answer
 *
 * A range of at most NEF_HTTP_BLOCK_BYTES is read whole before the answer begins: one buffer, and
 * damage is repaired from the peer before the client sees anything. A larger one is streamed from
 * the log in blocks; damage met on the way is repaired while the connection waits, and if that
 * fails the connection is closed: bytes that don't verify are never sent.
 *
 * What is in the page cache is read by the listener's thread. What isn't is loaded by a reader thread
 * while the connection waits, so that a slow disk holds up nobody else's request. More than LOADS_MAX
 * at a time are read by the listeners' threads after all: their memory is bounded, and clients that ask
 * more of the disk than it gives have to feel it.
 *
 * A key that isn't there is looked for twice: the bucket may have been deleted and made anew
 * through the other zone, so that what was looked up belonged to the old one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/trace.h"
#include "server/s3_internal.h"

#define STREAMS_MAX 128u /* large answers at once, read or streamed: each holds up to 2 MiB */
#define REPAIRS_MAX 8u   /* of one answer: more means a disk that is dying */
#define LOADS_MAX   256u /* small answers that wait for the disk: each holds up to 128 KiB */

enum get_step {
    GET_FIND,
    GET_RECHECK, /* not found: is it the right bucket? */
    GET_READ,    /* small body: read it */
    GET_LOAD,    /* a reader thread loads what GET_READ needs next */
    GET_REPAIR,  /* a worker repairs what GET_READ met */
};

void get_end(struct call *c)
{
    nef_body_close(c->body);
    nef_object_free(c->object);
    free(c->small);
    c->body = NULL;
    c->object = NULL;
    c->small = NULL;
    if (c->counted_stream)
        atomic_fetch_sub(&c->s->streams, 1);
    c->counted_stream = false;
}

/* Large answers are counted from here to get_end: clients that read slowly hold their memory. */
static bool count_stream(struct call *c)
{
    if (c->counted_stream)
        return true;
    if (atomic_fetch_add(&c->s->streams, 1) >= STREAMS_MAX) {
        atomic_fetch_sub(&c->s->streams, 1);
        return false;
    }
    c->counted_stream = true;
    return true;
}

/* ---- headers ---- */

static const char *override_of(const struct nef_s3_request *r, const struct nef_attr *attr)
{
    static const struct {
        const char *name;
        size_t offset;
    } overrides[] = {
        {"content-type", offsetof(struct nef_s3_request, response_content_type)},
        {"content-language", offsetof(struct nef_s3_request, response_content_language)},
        {"expires", offsetof(struct nef_s3_request, response_expires)},
        {"cache-control", offsetof(struct nef_s3_request, response_cache_control)},
        {"content-disposition", offsetof(struct nef_s3_request, response_content_disposition)},
        {"content-encoding", offsetof(struct nef_s3_request, response_content_encoding)},
    };

    for (size_t i = 0; i < NEF_COUNT(overrides); i++)
        if (strlen(overrides[i].name) == attr->name_bytes &&
            memcmp(overrides[i].name, attr->name, attr->name_bytes) == 0)
            return *(const char *const *)((const char *)r + overrides[i].offset);
    return NULL;
}

/* Attributes that are stored, and response-* for those that aren't. Every request is signed, so
 * every one may override. */
static void attr_headers(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    bool type = false, language = false, expires = false, cache = false, disposition = false,
         encoding = false;
    char name[NEF_USER_METADATA_MAX + 16], value[NEF_HEADERS_MAX + 1];
    struct nef_attr attr;

    for (uint32_t i = 0; nef_attrs_at(&c->object->attrs, i, &attr); i++) {
        const char *text = override_of(r, &attr);

        if (attr.name_bytes >= sizeof(name) || attr.value_bytes >= sizeof(value))
            continue;
        memcpy(name, attr.name, attr.name_bytes);
        name[attr.name_bytes] = '\0';
        if (text == NULL) {
            memcpy(value, attr.value, attr.value_bytes);
            value[attr.value_bytes] = '\0';
            text = value;
        }
        call_header(c, name, text);
        type |= strcmp(name, "content-type") == 0;
        language |= strcmp(name, "content-language") == 0;
        expires |= strcmp(name, "expires") == 0;
        cache |= strcmp(name, "cache-control") == 0;
        disposition |= strcmp(name, "content-disposition") == 0;
        encoding |= strcmp(name, "content-encoding") == 0;
    }
    if (!type)
        call_header(c, "Content-Type",
                    r->response_content_type != NULL ? r->response_content_type
                                                     : "binary/octet-stream");
    if (!language && r->response_content_language != NULL)
        call_header(c, "Content-Language", r->response_content_language);
    if (!expires && r->response_expires != NULL)
        call_header(c, "Expires", r->response_expires);
    if (!cache && r->response_cache_control != NULL)
        call_header(c, "Cache-Control", r->response_cache_control);
    if (!disposition && r->response_content_disposition != NULL)
        call_header(c, "Content-Disposition", r->response_content_disposition);
    if (!encoding && r->response_content_encoding != NULL)
        call_header(c, "Content-Encoding", r->response_content_encoding);
}

static const struct nef_object_part *part_of(const struct call *c)
{
    const struct nef_object *o = c->object;

    if (!o->multipart || c->request.part_number == 0 || c->request.part_number > o->part_count)
        return NULL;
    return &o->parts[c->request.part_number - 1];
}

static void object_headers(struct call *c)
{
    const struct nef_object *o = c->object;
    const struct nef_object_part *part = o == NULL ? NULL : part_of(c);
    char text[96];

    if (o == NULL)
        return; /* no memory for the answer: it was given up already, the connection is dropped */
    call_header_etag(c, o->etag);
    nef_s3_date_http((int64_t)(o->modified_ms / 1000), text);
    call_header(c, "Last-Modified", text);
    call_header(c, "Accept-Ranges", "bytes");
    if (c->range.partial) {
        (void)snprintf(
            text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)c->range.first,
            (unsigned long long)(c->range.first + c->range.bytes - 1), (unsigned long long)o->size);
        call_header(c, "Content-Range", text);
    }
    if (c->request.part_number != 0 && o->multipart) {
        (void)snprintf(text, sizeof(text), "%u", o->part_count);
        call_header(c, "x-amz-mp-parts-count", text);
    }
    /* A checksum is of the whole object or of a whole part: with another range it would mislead. */
    if (c->request.checksum_mode && (part != NULL || !c->range.partial)) {
        struct nef_s3_checksum_value v = part != NULL
                                             ? checksum_of_store(&part->checksum, 0)
                                             : checksum_of_store(&o->checksum, o->part_count);

        call_header_checksum(c, &v);
    }
    attr_headers(c);
}

/* ---- bodies ---- */

static void repair_work(struct call *c)
{
    c->repair_err = nef_runtime_repair(c->s->rt, c->bad_cell, c->bad_offset);
    nef_trace(c->repair_err == NEF_OK ? NEF_TRACE_WARN : NEF_TRACE_ERROR, "read_met_damage", "s:id",
              c->id, "u:cell", (uint64_t)c->bad_cell, "u:offset", c->bad_offset, "e:repair",
              (int)c->repair_err, NULL);
}

/* Have the damage repaired that a read has just met. False: it can't be. */
static bool begin_repair(struct call *c)
{
    if (c->repairs++ == REPAIRS_MAX)
        return false;
    c->work = repair_work;
    return true;
}

static void run_repair(void *context)
{
    struct call *c = context;

    repair_work(c);
    atomic_store_explicit(&c->worked, true, memory_order_release);
    nef_http_wake(c->http);
    call_unref(c);
}

static void run_load(void *context)
{
    struct call *c = context;

    c->load_err = nef_body_load(c->body, &c->bad_cell, &c->bad_offset);
    atomic_store(&c->loading, false);
    (void)atomic_fetch_sub(&c->s->loads, 1);
    atomic_store_explicit(&c->worked, true, memory_order_release);
    nef_http_wake(c->http);
    call_unref(c);
}

/* Have a reader thread load what the next read needs. False: not now; read it here. */
static bool begin_load(struct call *c)
{
    bool begun = atomic_fetch_add(&c->s->loads, 1) < LOADS_MAX;

    if (begun) {
        atomic_store(&c->worked, false);
        atomic_store(&c->loading, true);
        call_ref(c);
        begun = nef_workers_submit(c->s->readers, run_load, c) == NEF_OK;
        if (!begun) {
            atomic_store(&c->loading, false);
            call_unref(c);
        }
    }
    if (!begun)
        (void)atomic_fetch_sub(&c->s->loads, 1);
    return begun;
}

/* The next bytes of c->body. NEF_E_AGAIN: being loaded; c->worked and c->load_err say when and how. */
static nef_err read_body(struct call *c, uint8_t *out, size_t max, size_t *out_bytes)
{
    nef_err err;

    nef_body_now(c->body, true);
    err = nef_body_read(c->body, out, max, out_bytes, &c->bad_cell, &c->bad_offset);
    if (err != NEF_E_AGAIN || begin_load(c))
        return err;
    nef_body_now(c->body, false);
    return nef_body_read(c->body, out, max, out_bytes, &c->bad_cell, &c->bad_offset);
}

static int64_t stream_read(void *context, uint8_t *out, size_t max)
{
    struct call *c = context;
    size_t bytes = 0;
    nef_err err = NEF_OK;

    if (c->step == GET_REPAIR || c->step == GET_LOAD) {
        if (!atomic_load_explicit(&c->worked, memory_order_acquire))
            return 0;
        if (c->step == GET_REPAIR && c->repair_err != NEF_OK)
            return -1;
        if (c->step == GET_LOAD)
            err = c->load_err;
        c->step = GET_READ;
    }
    if (err == NEF_OK)
        err = read_body(c, out, max, &bytes);
    if (err == NEF_E_AGAIN) {
        c->step = GET_LOAD;
        return 0;
    }
    if (err == NEF_E_CORRUPT && begin_repair(c)) {
        atomic_store(&c->worked, false);
        c->step = GET_REPAIR;
        call_ref(c);
        if (nef_workers_submit(c->s->workers, run_repair, c) == NEF_OK)
            return 0;
        call_unref(c);
        return -1;
    }
    if (err != NEF_OK || bytes == 0) {
        nef_trace(NEF_TRACE_ERROR, "read_failed", "s:id", c->id, "e:err", (int)err, NULL);
        return -1;
    }
    c->bytes_out += bytes;
    return (int64_t)bytes;
}

/* A large answer left memory. */
static void large_done(void *context)
{
    struct call *c = context;

    if (!atomic_load(&c->loading)) /* else with the last reference, which the reader thread may have */
        get_end(c);
    call_unref(c);
}

static enum nef_http_next answer_stream(struct call *c)
{
    struct nef_http_stream stream = {.read = stream_read, .done = large_done, .context = c};
    nef_err err;

    if (!count_stream(c))
        return call_refuse(c, NEF_S3_SLOW_DOWN, NULL);
    err = nef_body_open(c->s->store, c->object, c->range.first, c->range.bytes, &c->body);
    if (err != NEF_OK)
        return call_fail(c, err);
    call_ref(c); /* the stream's, until large_done */
    c->status = c->range.partial ? 206 : 200;
    nef_http_answer_stream(c->http, c->status, c->range.bytes, &stream);
    call_header(c, "x-amz-request-id", c->id);
    call_header(c, "x-amz-id-2", c->s->host_id);
    object_headers(c);
    return NEF_HTTP_ANSWERED;
}

/* All of it into c->small. NEF_E_AGAIN: some of it is being loaded, then go on. NEF_E_CORRUPT: c->bad_* says where. */
static nef_err read_small(struct call *c)
{
    size_t bytes = (size_t)c->range.bytes;
    nef_err err = NEF_OK;

    if (c->body == NULL) {
        c->small = malloc(bytes);
        c->small_bytes = 0;
        if (c->small == NULL)
            return NEF_E_NOMEM;
        err = nef_body_open(c->s->store, c->object, c->range.first, bytes, &c->body);
    }
    while (err == NEF_OK && c->small_bytes < bytes) {
        size_t n = 0;

        err = read_body(c, c->small + c->small_bytes, bytes - c->small_bytes, &n);
        if (err == NEF_OK && n == 0)
            err = NEF_E_NOT_FOUND; /* shorter than its row says: dropped meanwhile */
        c->small_bytes += n;
    }
    return err;
}

static enum nef_http_next find(struct call *c);

/* err: of what was loaded since the last try. */
static enum nef_http_next read_and_answer(struct call *c, nef_err err)
{
    bool large = c->range.bytes > NEF_INLINE_BYTES_MAX;
    uint8_t *data;

    if (large && !count_stream(c))
        return call_refuse(c, NEF_S3_SLOW_DOWN, NULL);
    if (err == NEF_OK)
        err = read_small(c);
    if (err == NEF_E_AGAIN) {
        c->step = GET_LOAD;
        return NEF_HTTP_WAIT;
    }
    nef_body_close(c->body);
    c->body = NULL;
    data = c->small;
    c->small = NULL;
    if (err != NEF_OK) {
        free(data);
        data = NULL;
    }
    if (err == NEF_E_CORRUPT && begin_repair(c)) {
        c->step = GET_REPAIR;
        return call_submit(c, repair_work);
    }
    if (err == NEF_E_NOT_FOUND && c->repairs++ < REPAIRS_MAX) {
        /* Overwritten and its segment dropped between look-up and read: look again. */
        nef_object_free(c->object);
        c->object = NULL;
        c->step = GET_FIND;
        return find(c);
    }
    if (err != NEF_OK)
        return call_fail(c, err == NEF_E_CORRUPT ? NEF_E_DAMAGED : err);
    c->status = c->range.partial ? 206 : 200;
    c->bytes_out = c->range.bytes;
    if (large) {
        call_ref(c);
        nef_http_answer_tracked(c->http, c->status, data, (size_t)c->range.bytes, large_done, c);
    } else {
        nef_http_answer(c->http, c->status, data, (size_t)c->range.bytes);
    }
    call_header(c, "x-amz-request-id", c->id);
    call_header(c, "x-amz-id-2", c->s->host_id);
    object_headers(c);
    return NEF_HTTP_ANSWERED;
}

/* ---- what is asked for ---- */

/* partNumber=N of a multipart object is that part's bytes; of a simple one part 1 is the whole. */
static nef_err choose_part(struct call *c)
{
    const struct nef_object *o = c->object;
    uint32_t number = c->request.part_number;
    uint64_t first = 0;

    if (c->request.range != NULL)
        return nef_s3_refuse(&c->why, NEF_S3_INVALID_REQUEST,
                             "Cannot specify both Range header and partNumber query parameter");
    if (number > (o->multipart ? o->part_count : 1))
        return nef_s3_refuse(&c->why, NEF_S3_INVALID_PART_NUMBER, NULL);
    if (!o->multipart || o->size == 0) {
        c->range = (struct nef_s3_range){.bytes = o->size};
        return NEF_OK;
    }
    for (uint32_t i = 0; i + 1 < number; i++)
        first += o->parts[i].size;
    c->range =
        (struct nef_s3_range){.partial = true, .first = first, .bytes = o->parts[number - 1].size};
    if (c->range.bytes == 0)
        c->range.partial = false;
    return NEF_OK;
}

/* Objects have no tags; tools that copy between buckets ask all the same. */
static enum nef_http_next answer_tags(struct call *c)
{
    struct nef_buf out = {0};

    nef_s3_xml_begin(&out);
    nef_buf_text(&out, "<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
                       "<TagSet></TagSet></Tagging>");
    return call_answer_xml(c, 200, &out);
}

static enum nef_http_next answer_object(struct call *c)
{
    const struct nef_object *o = c->object;
    const char *condition = NULL;
    nef_err err;

    if (c->request.op == NEF_S3_OP_GET_OBJECT_TAGGING)
        return answer_tags(c);
    switch (nef_s3_condition_read(&c->request.conditions, o->etag, (int64_t)(o->modified_ms / 1000),
                                  (int64_t)(nef_wall_ms() / 1000), &condition)) {
    case NEF_S3_VERDICT_GO:
        break;
    case NEF_S3_VERDICT_NOT_MODIFIED:
        c->request.checksum_mode = false; /* no body to verify; boto3 1.36 fails where a 304 has a checksum */
        (void)call_answer_empty(c, 304);
        object_headers(c);
        return NEF_HTTP_ANSWERED;
    case NEF_S3_VERDICT_FAILED:
        (void)nef_s3_condition_refuse(condition, &c->why);
        return call_answer_why(c);
    }
    if (c->request.part_number != 0)
        err = choose_part(c);
    else
        err = nef_s3_range_resolve(c->request.range, o->size, &c->range, &c->why);
    if (err != NEF_OK)
        return call_answer_why(c);
    if (c->head) {
        unsigned status = c->range.partial ? 206 : 200;

        nef_http_answer_head(c->http, status, c->range.bytes);
        c->status = status;
        call_header(c, "x-amz-request-id", c->id);
        call_header(c, "x-amz-id-2", c->s->host_id);
        object_headers(c);
        return NEF_HTTP_ANSWERED;
    }
    if (c->range.bytes == 0) {
        (void)call_answer_empty(c, 200);
        object_headers(c);
        return NEF_HTTP_ANSWERED;
    }
    if (c->range.bytes > NEF_HTTP_BLOCK_BYTES)
        return answer_stream(c);
    c->step = GET_READ;
    return read_and_answer(c, NEF_OK);
}

/* The bucket as of now, gated. NEF_E_AGAIN: wait. */
static nef_err recheck(struct call *c, bool *out_same)
{
    struct nef_bucket bucket;
    nef_err err = call_gate(c, 0, NULL);

    if (err != NEF_OK)
        return err;
    err = nef_store_bucket(c->s->store, c->request.bucket, &bucket);
    if (nef_runtime_read_done(c->s->rt, &c->read) != NEF_OK)
        return NEF_E_UNAVAILABLE;
    if (err != NEF_OK)
        return err;
    *out_same = nef_id_equal(&bucket.id, &c->bucket.id);
    c->bucket = bucket;
    return NEF_OK;
}

static enum nef_http_next find(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    bool same = false;
    nef_err err;

    for (;;) {
        if (c->step == GET_RECHECK) {
            err = recheck(c, &same);
            if (err == NEF_E_AGAIN)
                return NEF_HTTP_WAIT;
            if (err == NEF_OK && same)
                err = NEF_E_NOT_FOUND;
            if (err != NEF_OK)
                return call_fail(c, err);
            c->step = GET_FIND;
            c->has_tag = false;
        }
        if (!c->has_tag) {
            err = call_place(c, r->object_key, r->object_key_bytes);
            if (err != NEF_OK)
                return call_fail(c, err);
        }
        err = call_gate(c, c->cell, c->tag);
        if (err == NEF_E_AGAIN)
            return NEF_HTTP_WAIT;
        if (err != NEF_OK)
            return call_fail(c, err);
        err = nef_store_object(c->s->store, &c->bucket, r->object_key, r->object_key_bytes,
                               &c->object);
        if (nef_runtime_read_done(c->s->rt, &c->read) != NEF_OK) {
            nef_object_free(c->object);
            c->object = NULL;
            continue; /* the lease went: the gate waits for another */
        }
        if (err == NEF_OK)
            return answer_object(c);
        if (err != NEF_E_NOT_FOUND)
            return call_fail(c, err);
        if (c->rechecked)
            return call_fail(c, err);
        c->rechecked = true;
        c->step = GET_RECHECK;
    }
}

enum nef_http_next get_step(struct call *c)
{
    switch ((enum get_step)c->step) {
    case GET_FIND:
    case GET_RECHECK:
        return find(c);
    case GET_READ:
        return read_and_answer(c, NEF_OK);
    case GET_LOAD:
        if (!atomic_load_explicit(&c->worked, memory_order_acquire))
            return NEF_HTTP_WAIT;
        c->step = GET_READ;
        return read_and_answer(c, c->load_err);
    case GET_REPAIR:
        if (!atomic_load_explicit(&c->worked, memory_order_acquire))
            return NEF_HTTP_WAIT;
        if (c->repair_err != NEF_OK)
            return call_fail(c, NEF_E_DAMAGED);
        c->step = GET_READ;
        return read_and_answer(c, NEF_OK);
    }
    return NEF_HTTP_DROP;
}
