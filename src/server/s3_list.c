/* ListObjects, ListObjectsV2, ListObjectVersions (of unversioned buckets) and ListBuckets; in a
 * worker.
 *
 * A listing waits until every op that may be acknowledged is applied here, then reads the cells'
 * indexes: read-after-write for each key, not a snapshot of all. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "server/s3_internal.h"

static struct nef_text text_of(const char *s, size_t bytes)
{
    return (struct nef_text){s, (uint32_t)bytes};
}

/* Where the page begins. The token is kept by the caller: the query borrows from it. */
static nef_err set_after(struct call *c, struct nef_s3_token *token, struct nef_text *out_after)
{
    const struct nef_s3_request *r = &c->request;
    const char *after = "";
    nef_err err;

    if (r->op == NEF_S3_OP_LIST_OBJECTS) {
        after = r->marker;
    } else if (r->op == NEF_S3_OP_LIST_OBJECT_VERSIONS) {
        after = r->key_marker;
    } else if (r->continuation_token != NULL) {
        err = nef_s3_token_parse(r->continuation_token, token, &c->why);
        if (err != NEF_OK)
            return err;
        *out_after = text_of(token->last, token->last_bytes);
        return NEF_OK;
    } else {
        after = r->start_after;
    }
    *out_after = text_of(after != NULL ? after : "", after != NULL ? strlen(after) : 0);
    return NEF_OK;
}

/* The list as of a moment when this zone was allowed to answer. */
static nef_err read_list(struct call *c, const struct nef_list_query *query,
                         struct nef_list *out_list)
{
    for (;;) {
        struct nef_read read = {0};
        nef_err err = nef_runtime_read_wait(c->s->rt, UINT32_MAX, NULL, &read);

        /* Again, now behind the gate: the bucket may have been made anew under another id. */
        if (err == NEF_OK)
            err = nef_store_bucket(c->s->store, c->request.bucket, &c->bucket);
        if (err == NEF_OK)
            err = nef_store_list(c->s->store, &c->bucket, query, out_list);
        if (err != NEF_OK)
            return err;
        if (nef_runtime_read_done(c->s->rt, &read) == NEF_OK)
            return NEF_OK;
        nef_list_free(out_list);
        *out_list = (struct nef_list){0};
    }
}

static struct nef_s3_xml_object *rows_of(const struct nef_list *list)
{
    struct nef_s3_xml_object *rows = calloc(list->count + 1, sizeof(*rows));

    for (uint32_t i = 0; rows != NULL && i < list->count; i++) {
        const struct nef_list_entry *e = &list->entries[i];
        struct nef_s3_checksum_value v = checksum_of_store(&e->checksum, 0);

        rows[i] = (struct nef_s3_xml_object){.object_key = e->key,
                                             .object_key_bytes = e->key_bytes,
                                             .is_prefix = e->is_prefix,
                                             .modified_ms = (int64_t)e->modified_ms,
                                             .bytes = e->size,
                                             .etag = e->etag,
                                             .checksum_kind = v.kind,
                                             .checksum_type = v.type};
    }
    return rows;
}

void list_objects_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_s3_owner owner = {c->s->owner_id, "nef"};
    struct nef_s3_token token;
    struct nef_list_query query = {.prefix = text_of(r->prefix, strlen(r->prefix)),
                                   .delimiter = text_of(r->delimiter, strlen(r->delimiter)),
                                   .max = NEF_MIN(r->list_max, NEF_LIST_MAX)};
    struct nef_list list = {0};
    struct nef_s3_xml_object *rows = NULL;
    struct nef_s3_xml_listing l = {0};
    struct nef_buf out = {0}, next = {0};
    char last[NEF_OBJECT_KEY_MAX + 1];
    nef_err err = set_after(c, &token, &query.after);

    if (err != NEF_OK) {
        (void)call_answer_why(c);
        return;
    }
    err = read_list(c, &query, &list);
    if (err != NEF_OK) {
        (void)call_fail(c, err);
        return;
    }
    rows = rows_of(&list);
    if (rows == NULL) {
        (void)call_fail(c, NEF_E_NOMEM);
        goto out;
    }
    l = (struct nef_s3_xml_listing){.bucket = r->bucket,
                                    .prefix = r->prefix,
                                    .delimiter = r->delimiter,
                                    .encoding_url = r->encoding_url,
                                    .max = r->list_max,
                                    .truncated = list.truncated,
                                    .objects = rows,
                                    .object_count = list.count,
                                    .owner = &owner};
    last[0] = '\0';
    if (list.truncated && list.count > 0) {
        const struct nef_list_entry *e = &list.entries[list.count - 1];

        NEF_ASSERT(e->key_bytes <= NEF_OBJECT_KEY_MAX);
        memcpy(last, e->key, e->key_bytes);
        last[e->key_bytes] = '\0';
    }
    if (r->op == NEF_S3_OP_LIST_OBJECTS) {
        l.marker = r->marker;
        if (list.truncated && r->delimiter[0] != '\0')
            l.next_marker = last;
        nef_s3_xml_list_objects(&out, &l);
    } else if (r->op == NEF_S3_OP_LIST_OBJECTS_V2) {
        l.start_after = r->start_after[0] != '\0' ? r->start_after : NULL;
        l.continuation_token = r->continuation_token;
        if (list.truncated) {
            nef_s3_token_text(last, strlen(last), &next);
            l.next_continuation_token = nef_buf_cstr(&next);
        }
        if (!r->fetch_owner)
            l.owner = NULL;
        nef_s3_xml_list_objects_v2(&out, &l);
    } else {
        l.key_marker = r->key_marker;
        l.version_id_marker = r->version_id_marker;
        if (list.truncated)
            l.next_key_marker = last;
        nef_s3_xml_list_versions(&out, &l);
    }
    (void)call_answer_xml(c, 200, &out);
out:
    nef_buf_free(&next);
    free(rows);
    nef_list_free(&list);
}

/* ---- buckets ---- */

struct bucket_page {
    const struct call *c;
    const char *prefix;
    struct nef_s3_xml_bucket *rows;
    char (*names)[NEF_BUCKET_NAME_MAX + 1];
    uint32_t count, max;
    bool truncated;
};

static bool keep_bucket(void *context, const struct nef_bucket *bucket)
{
    struct bucket_page *p = context;
    const char *only = p->c->who.bucket;

    if (bucket->closed || strncmp(bucket->name, p->prefix, strlen(p->prefix)) != 0 ||
        (only[0] != '\0' && strcmp(only, bucket->name) != 0))
        return true;
    if (p->count == p->max) {
        p->truncated = true;
        return false;
    }
    (void)strcpy(p->names[p->count], bucket->name);
    p->rows[p->count].name = p->names[p->count];
    p->rows[p->count].created_ms = (int64_t)bucket->created_ms;
    p->count++;
    return true;
}

void list_buckets_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_s3_owner owner = {c->s->owner_id, "nef"};
    struct nef_s3_token token = {0};
    struct bucket_page page = {.c = c, .prefix = r->prefix};
    struct nef_buf out = {0}, next = {0};
    nef_err err = NEF_OK;

    page.max = r->list_max > 0 ? NEF_MIN(r->list_max, NEF_BUCKET_COUNT_MAX) : NEF_BUCKET_COUNT_MAX;
    page.rows = calloc(page.max, sizeof(*page.rows));
    page.names = calloc(page.max, sizeof(*page.names));
    if (page.rows == NULL || page.names == NULL) {
        (void)call_fail(c, NEF_E_NOMEM);
        goto out;
    }
    if (r->continuation_token != NULL) {
        err = nef_s3_token_parse(r->continuation_token, &token, &c->why);
        if (err != NEF_OK) {
            (void)call_answer_why(c);
            goto out;
        }
    }
    for (;;) {
        struct nef_read read = {0};

        page.count = 0;
        page.truncated = false;
        err = nef_runtime_read_wait(c->s->rt, 0, NULL, &read);
        if (err == NEF_OK)
            err = nef_store_buckets(c->s->store, token.last, keep_bucket, &page);
        if (err != NEF_OK) {
            (void)call_fail(c, err);
            goto out;
        }
        if (nef_runtime_read_done(c->s->rt, &read) == NEF_OK)
            break;
    }
    if (page.truncated)
        nef_s3_token_text(page.names[page.count - 1], strlen(page.names[page.count - 1]), &next);
    nef_s3_xml_list_buckets(&out, &owner, c->s->region, page.rows, page.count,
                            r->prefix[0] != '\0' ? r->prefix : NULL,
                            page.truncated ? nef_buf_cstr(&next) : NULL);
    (void)call_answer_xml(c, 200, &out);
out:
    nef_buf_free(&next);
    free(page.rows);
    free(page.names);
}
