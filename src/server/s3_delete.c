/* DeleteObject, and DeleteObjects with up to NEF_DELETE_MAX keys.
 *
 * A delete is one op, whether or not the key is there: deciding that here would cost a read and
 * still be a guess. The keys of a multi-delete are proposed together and their outcomes waited for,
 * a window at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "server/s3_internal.h"

#define BATCH_WINDOW 128u /* proposals of one request in flight: leaves room for others */

enum delete_step { DELETE_PROPOSE, DELETE_PROPOSED, DELETE_REFUSED };

static nef_err build(struct call *c, const char *key, size_t key_bytes,
                     const struct nef_condition *condition, struct nef_run *out_run)
{
    struct nef_op op = {.type = NEF_RECORD_OBJECT_DELETE, .bucket_key = c->bucket.id};
    uint8_t dek[NEF_KEY_BYTES], tag[16];
    uint32_t cell = nef_store_cell(c->s->store, &c->bucket.id, key, key_bytes);
    nef_err err = nef_store_tag(c->s->store, &c->bucket.id, key, key_bytes, tag);

    if (err != NEF_OK)
        return err;
    nef_random(&op.stream, sizeof(op.stream));
    nef_random(dek, sizeof(dek));
    op.u.object_delete = (struct nef_op_object_delete){
        .bucket = c->bucket.id, .key = {key, (uint32_t)key_bytes}, .condition = *condition};
    err = nef_run_op(c->s->keys, &op, cell, dek, tag, NULL, 0, out_run);
    nef_wipe(dek, sizeof(dek));
    return err;
}

enum nef_http_next delete_step(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_condition condition = call_condition(c);
    struct nef_run run = {0};
    nef_err err;

    switch ((enum delete_step)c->step) {
    case DELETE_PROPOSE:
        err = call_place(c, r->object_key, r->object_key_bytes);
        if (err == NEF_OK)
            err = call_check_durability(c);
        if (err == NEF_OK)
            err = build(c, r->object_key, r->object_key_bytes, &condition, &run);
        if (err == NEF_OK)
            err = call_propose(c, &run);
        if (err != NEF_OK)
            return call_fail(c, err);
        c->step = DELETE_PROPOSED;
        return NEF_HTTP_WAIT;
    case DELETE_PROPOSED:
        if (atomic_load_explicit(&c->proposal, memory_order_acquire) != PROPOSAL_DONE)
            return NEF_HTTP_WAIT;
        err = call_outcome(c);
        if (err != NEF_OK) {
            c->step = DELETE_REFUSED;
            return call_fail_write(c, err);
        }
        (void)call_answer_empty(c, 204);
        call_header_durability(c);
        return NEF_HTTP_ANSWERED;
    case DELETE_REFUSED:
        return atomic_load_explicit(&c->worked, memory_order_acquire) ? NEF_HTTP_ANSWERED
                                                                      : NEF_HTTP_WAIT;
    }
    return NEF_HTTP_DROP;
}

/* ---- many ---- */

struct batch;

struct batch_item {
    struct batch *batch;
    bool done; /* under batch->lock */
    nef_err err;
};

struct batch {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    uint32_t in_flight; /* under lock */
    struct batch_item items[NEF_DELETE_MAX];
};

static void on_deleted(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct batch_item *item = context;
    struct batch *b = item->batch;

    (void)pthread_mutex_lock(&b->lock);
    item->err = err != NEF_OK ? err : (nef_err)outcome->code;
    item->done = true;
    b->in_flight--;
    (void)pthread_cond_signal(&b->cond);
    (void)pthread_mutex_unlock(&b->lock);
}

/* Blocks until at most MAX are in flight. */
static void batch_wait(struct batch *b, uint32_t max)
{
    (void)pthread_mutex_lock(&b->lock);
    while (b->in_flight > max)
        (void)pthread_cond_wait(&b->cond, &b->lock);
    (void)pthread_mutex_unlock(&b->lock);
}

static nef_err batch_one(struct call *c, struct batch *b, struct batch_item *item,
                         const struct nef_s3_delete_item *wanted)
{
    struct nef_condition condition = {0};
    struct nef_run run = {0};
    uint32_t left;
    nef_err err;

    if (wanted->etag != NULL && strcmp(wanted->etag, "*") == 0)
        condition.any = true;
    else if (wanted->etag != NULL)
        (void)snprintf(condition.match, sizeof(condition.match), "%s", wanted->etag);
    for (;;) {
        err = build(c, wanted->object_key, wanted->object_key_bytes, &condition, &run);
        if (err != NEF_OK)
            return err;
        (void)pthread_mutex_lock(&b->lock);
        b->in_flight++;
        (void)pthread_mutex_unlock(&b->lock);
        err = nef_runtime_propose(c->s->rt, &run, on_deleted, item);
        if (err == NEF_OK)
            return NEF_OK;
        (void)pthread_mutex_lock(&b->lock);
        left = --b->in_flight;
        (void)pthread_mutex_unlock(&b->lock);
        if (err != NEF_E_BUSY || left == 0)
            return err;
        batch_wait(b,
                   left / 2); /* others' proposals fill the runtime: go on when ours are through */
    }
}

void delete_many_work(struct call *c)
{
    struct nef_s3_delete wanted = {0};
    struct nef_s3_xml_deleted *results = NULL;
    struct batch *b = NULL;
    struct nef_buf out = {0};
    nef_err err = call_check_durability(c);

    if (err != NEF_OK) {
        (void)call_fail(c, err);
        return;
    }
    err = nef_s3_xml_parse_delete(c->xml.data, c->xml.bytes, &wanted, &c->why);
    if (err != NEF_OK) {
        (void)call_answer_why(c);
        return;
    }
    NEF_ASSERT(wanted.item_count <= NEF_DELETE_MAX);
    b = calloc(1, sizeof(*b));
    results = calloc(wanted.item_count, sizeof(*results));
    if (b == NULL || results == NULL) {
        (void)call_fail(c, NEF_E_NOMEM);
        goto out;
    }
    (void)pthread_mutex_init(&b->lock, NULL);
    (void)pthread_cond_init(&b->cond, NULL);
    for (size_t i = 0; i < wanted.item_count; i++) {
        struct batch_item *item = &b->items[i];

        item->batch = b;
        if (wanted.items[i].bad_version)
            continue;
        if (wanted.items[i].object_key_bytes > NEF_OBJECT_KEY_MAX) {
            item->err = NEF_E_LIMIT;
            continue;
        }
        batch_wait(b, BATCH_WINDOW - 1);
        err = batch_one(c, b, item, &wanted.items[i]);
        if (err != NEF_OK)
            item->err = err;
    }
    batch_wait(b, 0);
    for (size_t i = 0; i < wanted.item_count; i++) {
        results[i].object_key = wanted.items[i].object_key;
        results[i].object_key_bytes = wanted.items[i].object_key_bytes;
        if (wanted.items[i].bad_version) {
            results[i].failed = true;
            results[i].code = NEF_S3_NO_SUCH_VERSION;
        } else if (wanted.items[i].object_key_bytes > NEF_OBJECT_KEY_MAX) {
            results[i].failed = true;
            results[i].code = NEF_S3_KEY_TOO_LONG;
        } else if (b->items[i].err != NEF_OK) {
            results[i].failed = true;
            results[i].code = nef_s3_code_of(b->items[i].err);
        }
    }
    nef_s3_xml_delete_result(&out, results, wanted.item_count, wanted.quiet);
    (void)call_answer_xml(c, 200, &out);
    call_header_durability(c);
    (void)pthread_cond_destroy(&b->cond);
    (void)pthread_mutex_destroy(&b->lock);
out:
    free(results);
    free(b);
    nef_s3_delete_free(&wanted);
}
