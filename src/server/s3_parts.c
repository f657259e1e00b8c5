/* ListParts and ListMultipartUploads; in a worker. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "server/s3_internal.h"

/* ---- parts of an upload ---- */

struct part_page {
    struct nef_s3_xml_part *rows;
    char (*etags)[NEF_S3_ETAG_BYTES];
    uint32_t count, max;
    bool truncated;
};

static bool keep_part(void *context, const struct nef_part *part)
{
    struct part_page *p = context;

    if (p->count == p->max) {
        p->truncated = true;
        return false;
    }
    nef_s3_etag_md5(part->md5, p->etags[p->count]);
    p->rows[p->count] = (struct nef_s3_xml_part){.number = part->part,
                                                 .modified_ms = (int64_t)part->modified_ms,
                                                 .bytes = part->size,
                                                 .etag = p->etags[p->count],
                                                 .checksum = checksum_of_store(&part->checksum, 0)};
    p->count++;
    return true;
}

void list_parts_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_s3_owner owner = {c->s->owner_id, "nef"};
    struct part_page page = {.max = NEF_MIN(r->list_max, NEF_LIST_MAX)};
    struct nef_upload *upload = NULL;
    struct nef_read read = {0};
    struct nef_s3_xml_parts l;
    struct nef_buf out = {0};
    struct nef_id id;
    nef_err err = nef_s3_upload_id_parse(r->upload_id, &id, &c->why);

    if (err != NEF_OK) {
        (void)call_answer_why(c);
        return;
    }
    page.rows = calloc(page.max + 1, sizeof(*page.rows));
    page.etags = calloc(page.max + 1, sizeof(*page.etags));
    err = page.rows == NULL || page.etags == NULL ? NEF_E_NOMEM : NEF_OK;
    if (err == NEF_OK)
        err = call_place(c, r->object_key, r->object_key_bytes);
    if (err == NEF_OK)
        err = nef_runtime_read_wait(c->s->rt, c->cell, c->tag, &read);
    if (err == NEF_OK)
        err = nef_store_upload(c->s->store, &c->bucket, r->object_key, r->object_key_bytes, &id,
                               &upload);
    if (err == NEF_OK)
        err = nef_store_parts(c->s->store, upload, r->part_number_marker, keep_part, &page);
    if (err == NEF_OK)
        err = nef_runtime_read_done(c->s->rt, &read);
    if (err != NEF_OK) {
        (void)call_fail(c, err);
        goto out;
    }
    l = (struct nef_s3_xml_parts){.bucket = r->bucket,
                                  .object_key = r->object_key,
                                  .object_key_bytes = r->object_key_bytes,
                                  .upload_id = r->upload_id,
                                  .encoding_url = r->encoding_url,
                                  .marker = r->part_number_marker,
                                  .next_marker = page.count > 0 ? page.rows[page.count - 1].number
                                                                : r->part_number_marker,
                                  .max = r->list_max,
                                  .truncated = page.truncated,
                                  .owner = &owner,
                                  .checksum_kind = (enum nef_s3_checksum_kind)upload->checksum.kind,
                                  .parts = page.rows,
                                  .part_count = page.count};
    if (upload->checksum.kind != NEF_CHECKSUM_NONE)
        l.checksum_type = upload->checksum.scope == NEF_CHECKSUM_COMPOSITE
                              ? NEF_S3_CHECKSUM_COMPOSITE
                              : NEF_S3_CHECKSUM_FULL_OBJECT;
    nef_s3_xml_list_parts(&out, &l);
    (void)call_answer_xml(c, 200, &out);
out:
    nef_upload_free(upload);
    free(page.rows);
    free(page.etags);
}

/* ---- uploads of a bucket ---- */

struct upload_page {
    const struct nef_s3_request *r;
    struct nef_s3_xml_upload *rows;
    char (*ids)[NEF_S3_UPLOAD_ID_BYTES];
    char *keys; /* (NEF_OBJECT_KEY_MAX + 1) a row */
    uint32_t count, max;
    bool truncated;
};

/* Bytes of the common prefix KEY belongs to; 0: none. */
static uint32_t common_prefix(const struct nef_s3_request *r, const char *key, uint32_t key_bytes)
{
    size_t prefix_bytes = strlen(r->prefix), delimiter_bytes = strlen(r->delimiter);
    const char *at;

    if (delimiter_bytes == 0 || key_bytes <= prefix_bytes)
        return 0;
    at = memmem(key + prefix_bytes, key_bytes - prefix_bytes, r->delimiter, delimiter_bytes);
    return at == NULL ? 0 : (uint32_t)(at - key + (ptrdiff_t)delimiter_bytes);
}

static int compare(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    int order = memcmp(a, b, NEF_MIN(a_bytes, b_bytes));

    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static bool keep_upload(void *context, const struct nef_upload *upload)
{
    struct upload_page *p = context;
    uint32_t bytes = common_prefix(p->r, upload->key, upload->key_bytes);
    struct nef_s3_xml_upload *row;
    char *key;

    if (bytes > 0) {
        const struct nef_s3_xml_upload *before = p->count > 0 ? &p->rows[p->count - 1] : NULL;

        /* Given on an earlier page, or by the row before. */
        if (compare(upload->key, bytes, p->r->key_marker, strlen(p->r->key_marker)) <= 0)
            return true;
        if (before != NULL && before->is_prefix && before->object_key_bytes == bytes &&
            memcmp(before->object_key, upload->key, bytes) == 0)
            return true;
    }
    if (p->count == p->max) {
        p->truncated = true;
        return false;
    }
    NEF_ASSERT(upload->key_bytes <= NEF_OBJECT_KEY_MAX);
    row = &p->rows[p->count];
    key = p->keys + (size_t)p->count * (NEF_OBJECT_KEY_MAX + 1);
    row->is_prefix = bytes > 0;
    row->object_key_bytes = bytes > 0 ? bytes : upload->key_bytes;
    memcpy(key, upload->key, row->object_key_bytes);
    key[row->object_key_bytes] = '\0';
    row->object_key = key;
    nef_s3_upload_id_text(&upload->id, p->ids[p->count]);
    row->upload_id = p->ids[p->count];
    row->initiated_ms = (int64_t)upload->created_ms;
    row->checksum_kind = (enum nef_s3_checksum_kind)upload->checksum.kind;
    if (row->checksum_kind != NEF_S3_CHECKSUM_NONE)
        row->checksum_type = upload->checksum.scope == NEF_CHECKSUM_COMPOSITE
                                 ? NEF_S3_CHECKSUM_COMPOSITE
                                 : NEF_S3_CHECKSUM_FULL_OBJECT;
    p->count++;
    return true;
}

/* Uploads after the markers; without an upload id marker, all of the key marker's own uploads are
 * skipped. */
static nef_err read_uploads(struct call *c, struct upload_page *page, const struct nef_id *after_id)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_text prefix = {r->prefix, (uint32_t)strlen(r->prefix)};
    struct nef_text after = {r->key_marker, (uint32_t)strlen(r->key_marker)};

    for (;;) {
        struct nef_read read = {0};
        nef_err err = nef_runtime_read_wait(c->s->rt, UINT32_MAX, NULL, &read);

        page->count = 0;
        page->truncated = false;
        if (err == NEF_OK)
            err = nef_store_bucket(c->s->store, r->bucket, &c->bucket);
        if (err == NEF_OK)
            err = nef_store_uploads(c->s->store, &c->bucket, prefix, after, after_id, keep_upload,
                                    page);
        if (err != NEF_OK)
            return err;
        if (nef_runtime_read_done(c->s->rt, &read) == NEF_OK)
            return NEF_OK;
    }
}

void list_uploads_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_s3_owner owner = {c->s->owner_id, "nef"};
    struct upload_page page = {.r = r, .max = NEF_MIN(r->list_max, NEF_LIST_MAX)};
    struct nef_s3_xml_uploads l;
    struct nef_buf out = {0};
    struct nef_id after_id = {{0}};
    nef_err err;

    if (r->key_marker[0] != '\0')
        memset(&after_id, 0xff, sizeof(after_id));
    if (r->key_marker[0] != '\0' && r->upload_id_marker != NULL && r->upload_id_marker[0] != '\0') {
        err = nef_s3_upload_id_parse(r->upload_id_marker, &after_id, &c->why);
        if (err != NEF_OK) {
            (void)nef_s3_refuse_argument(&c->why, "upload-id-marker", r->upload_id_marker,
                                         "Invalid uploadId marker");
            (void)call_answer_why(c);
            return;
        }
    }
    page.rows = calloc(page.max + 1, sizeof(*page.rows));
    page.ids = calloc(page.max + 1, sizeof(*page.ids));
    page.keys = malloc((size_t)(page.max + 1) * (NEF_OBJECT_KEY_MAX + 1));
    err = page.rows == NULL || page.ids == NULL || page.keys == NULL ? NEF_E_NOMEM : NEF_OK;
    if (err == NEF_OK)
        err = read_uploads(c, &page, &after_id);
    if (err != NEF_OK) {
        (void)call_fail(c, err);
        goto out;
    }
    l = (struct nef_s3_xml_uploads){.bucket = r->bucket,
                                    .prefix = r->prefix,
                                    .delimiter = r->delimiter,
                                    .key_marker = r->key_marker,
                                    .upload_id_marker = r->upload_id_marker,
                                    .encoding_url = r->encoding_url,
                                    .max = r->list_max,
                                    .truncated = page.truncated,
                                    .owner = &owner,
                                    .uploads = page.rows,
                                    .upload_count = page.count};
    if (page.truncated && page.count > 0) {
        const struct nef_s3_xml_upload *last = &page.rows[page.count - 1];

        l.next_key_marker = last->object_key;
        l.next_upload_id_marker = last->is_prefix ? "" : last->upload_id;
    }
    nef_s3_xml_list_uploads(&out, &l);
    (void)call_answer_xml(c, 200, &out);
out:
    free(page.rows);
    free(page.ids);
    free(page.keys);
}
