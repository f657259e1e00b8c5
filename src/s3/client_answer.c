/* Answers of S3 that a client reads; see client.h. One expat handler for all: a row is an element of a given name under
 * the root, and closed elements, in a row or beside rows, are handed on with their text. What isn't known is skipped.
 *
 * The answer comes from whoever holds the listener's port, so it is read as hostile: no document types, bounded bytes,
 * depth, text and rows; numbers must be numbers. */
#include <expat.h>
#include <stdlib.h>
#include <string.h>
#include "s3/client.h"

#define ANSWER_MAX  NEF_XML_BODY_MAX
#define DEPTH_MAX   8u
#define ELEMENT_MAX 48u
#define TEXT_MAX    4096u /* a key of 1,024 bytes, escaped for URLs */
#define SEPARATOR   '|'

struct reader {
    XML_Parser parser;
    const char *root, *row; /* row NULL: none */
    unsigned depth;
    char path[DEPTH_MAX][ELEMENT_MAX];
    char text[TEXT_MAX + 1];
    size_t text_bytes;
    nef_err err;
    bool truncated;
    struct nef_s3_answer_list list;
    size_t item_bytes;
    /* IN_ROW: of the last item of the list, zeroed when its row began. False: it doesn't fit. */
    bool (*take)(struct reader *r, bool in_row, const char *name, const char *text);
    void *out;
};

static void stop(struct reader *r, nef_err err)
{
    if (r->err != NEF_OK)
        return;
    r->err = err;
    (void)XML_StopParser(r->parser, XML_FALSE);
}

static void *last_item(struct reader *r)
{
    return (uint8_t *)r->list.items + (r->list.count - 1) * r->item_bytes;
}

static void begin_row(struct reader *r)
{
    uint32_t count = r->list.count;

    if (count == NEF_LIST_MAX) { /* no page of S3 has more rows */
        stop(r, NEF_E_PROTOCOL);
        return;
    }
    if (count == 0 || (count & (count - 1)) == 0) { /* twice as large whenever it is full */
        void *items = realloc(r->list.items, (count == 0 ? 1 : (size_t)count * 2) * r->item_bytes);

        if (items == NULL) {
            stop(r, NEF_E_NOMEM);
            return;
        }
        r->list.items = items;
    }
    r->list.count++;
    memset(last_item(r), 0, r->item_bytes);
}

static void on_open(void *context, const XML_Char *full, const XML_Char **attributes)
{
    const char *bar = strrchr(full, SEPARATOR), *name = bar != NULL ? bar + 1 : full;
    struct reader *r = context;

    (void)attributes;
    if (r->err != NEF_OK)
        return;
    if (r->depth == DEPTH_MAX || strlen(name) >= ELEMENT_MAX || (r->depth == 0 && strcmp(name, r->root) != 0)) {
        stop(r, NEF_E_PROTOCOL);
        return;
    }
    (void)strcpy(r->path[r->depth++], name);
    r->text_bytes = 0;
    if (r->depth == 2 && r->row != NULL && strcmp(name, r->row) == 0)
        begin_row(r);
}

static void on_close(void *context, const XML_Char *full)
{
    struct reader *r = context;
    bool in_row;

    (void)full;
    if (r->err != NEF_OK)
        return;
    r->text[r->text_bytes] = '\0';
    r->depth--;
    in_row = r->depth == 2 && r->row != NULL && strcmp(r->path[1], r->row) == 0;
    if (r->depth == 1 && strcmp(r->path[1], "IsTruncated") == 0)
        r->truncated = strcmp(r->text, "true") == 0;
    if ((in_row || r->depth == 1) && !r->take(r, in_row, r->path[r->depth], r->text))
        stop(r, NEF_E_PROTOCOL);
    r->text_bytes = 0;
}

static void on_text(void *context, const XML_Char *text, int bytes)
{
    struct reader *r = context;

    if (r->err != NEF_OK)
        return;
    if ((size_t)bytes > TEXT_MAX - r->text_bytes) {
        stop(r, NEF_E_PROTOCOL);
        return;
    }
    memcpy(r->text + r->text_bytes, text, (size_t)bytes);
    r->text_bytes += (size_t)bytes;
}

static void on_doctype(void *context, const XML_Char *name, const XML_Char *system_id, const XML_Char *public_id,
                       int has_internal_subset)
{
    (void)name, (void)system_id, (void)public_id, (void)has_internal_subset;
    stop(context, NEF_E_PROTOCOL);
}

static nef_err run(struct reader *r, const void *body, size_t bytes)
{
    if (bytes == 0 || bytes > ANSWER_MAX)
        return NEF_E_PROTOCOL;
    r->parser = XML_ParserCreateNS(NULL, SEPARATOR);
    if (r->parser == NULL)
        return NEF_E_NOMEM;
    XML_SetUserData(r->parser, r);
    XML_SetElementHandler(r->parser, on_open, on_close);
    XML_SetCharacterDataHandler(r->parser, on_text);
    XML_SetStartDoctypeDeclHandler(r->parser, on_doctype);
    if (XML_Parse(r->parser, body, (int)bytes, XML_TRUE) != XML_STATUS_OK && r->err == NEF_OK)
        r->err = XML_GetErrorCode(r->parser) == XML_ERROR_NO_MEMORY ? NEF_E_NOMEM : NEF_E_PROTOCOL;
    XML_ParserFree(r->parser);
    if (r->err != NEF_OK) {
        free(r->list.items);
        r->list.items = NULL;
    }
    return r->err;
}

/* ---- texts ---- */

static bool put(char *out, size_t room, const char *text)
{
    size_t bytes = strlen(text);

    if (bytes >= room)
        return false;
    memcpy(out, text, bytes + 1);
    return true;
}

static bool put_etag(char *out, size_t room, const char *text)
{
    size_t bytes = strlen(text);

    if (bytes >= 2 && text[0] == '"' && text[bytes - 1] == '"') {
        text++;
        bytes -= 2;
    }
    if (bytes >= room)
        return false;
    memcpy(out, text, bytes);
    out[bytes] = '\0';
    return true;
}

static bool number(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;

    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || value > (max - (uint64_t)(*text - '0')) / 10)
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
    }
    *out = value;
    return true;
}

/* ---- the answers ---- */

static bool take_error(struct reader *r, bool in_row, const char *name, const char *text)
{
    struct nef_s3_answer_error *out = r->out;

    (void)in_row;
    if (strcmp(name, "Code") == 0)
        return put(out->code, sizeof(out->code), text);
    if (strcmp(name, "Message") == 0) {
        size_t bytes = strnlen(text, sizeof(out->message) - 1); /* only shown: cut, not refused */

        memcpy(out->message, text, bytes);
        out->message[bytes] = '\0';
    }
    return true;
}

bool nef_s3_answer_error(const void *body, size_t bytes, struct nef_s3_answer_error *out)
{
    struct nef_s3_answer_error error = {{0}};
    struct reader r = {.root = "Error", .take = take_error, .out = &error};

    if (run(&r, body, bytes) != NEF_OK || error.code[0] == '\0')
        return false;
    *out = error;
    return true;
}

static bool take_id(struct reader *r, bool in_row, const char *name, const char *text)
{
    (void)in_row;
    return strcmp(name, "UploadId") != 0 || put(r->out, NEF_S3_UPLOAD_ID_MAX + 1, text);
}

nef_err nef_s3_answer_upload_id(const void *body, size_t bytes, char out_id[NEF_S3_UPLOAD_ID_MAX + 1])
{
    char id[NEF_S3_UPLOAD_ID_MAX + 1] = "";
    struct reader r = {.root = "InitiateMultipartUploadResult", .take = take_id, .out = id};
    nef_err err = run(&r, body, bytes);

    if (err == NEF_OK && id[0] == '\0')
        err = NEF_E_PROTOCOL;
    if (err == NEF_OK)
        (void)strcpy(out_id, id);
    return err;
}

static bool take_part(struct reader *r, bool in_row, const char *name, const char *text)
{
    struct nef_s3_answer_part *part;
    uint64_t value;

    if (!in_row)
        return strcmp(name, "NextPartNumberMarker") != 0 || put(r->list.next, sizeof(r->list.next), text);
    part = last_item(r);
    if (strcmp(name, "PartNumber") == 0) {
        if (!number(text, NEF_PART_COUNT_MAX, &value) || value == 0)
            return false;
        part->number = (uint32_t)value;
    } else if (strcmp(name, "Size") == 0) {
        return number(text, NEF_PUT_BYTES_MAX, &part->bytes);
    } else if (strcmp(name, "ETag") == 0) {
        return put_etag(part->etag, sizeof(part->etag), text);
    }
    return true;
}

static bool take_object(struct reader *r, bool in_row, const char *name, const char *text)
{
    struct nef_s3_answer_object *object;

    if (!in_row)
        return strcmp(name, "NextContinuationToken") != 0 || put(r->list.next, sizeof(r->list.next), text);
    object = last_item(r);
    if (strcmp(name, "Key") == 0)
        return put(object->key, sizeof(object->key), text);
    if (strcmp(name, "Size") == 0)
        return number(text, NEF_OBJECT_BYTES_MAX, &object->bytes);
    if (strcmp(name, "ETag") == 0)
        return put_etag(object->etag, sizeof(object->etag), text);
    return strcmp(name, "LastModified") != 0 || put(object->modified, sizeof(object->modified), text);
}

static bool take_upload(struct reader *r, bool in_row, const char *name, const char *text)
{
    struct nef_s3_answer_upload *upload;

    if (!in_row)
        return strcmp(name, "NextKeyMarker") != 0 || put(r->list.next, sizeof(r->list.next), text);
    upload = last_item(r);
    if (strcmp(name, "Key") == 0)
        return put(upload->key, sizeof(upload->key), text);
    return strcmp(name, "UploadId") != 0 || put(upload->id, sizeof(upload->id), text);
}

static nef_err read_list(struct reader *r, const void *body, size_t bytes, struct nef_s3_answer_list *out)
{
    nef_err err = run(r, body, bytes);

    if (err != NEF_OK)
        return err;
    if (!r->truncated) /* markers may be there at the end, too */
        r->list.next[0] = '\0';
    *out = r->list;
    return NEF_OK;
}

nef_err nef_s3_answer_parts(const void *body, size_t bytes, struct nef_s3_answer_list *out)
{
    struct reader r = {
        .root = "ListPartsResult", .row = "Part", .take = take_part, .item_bytes = sizeof(struct nef_s3_answer_part)};

    return read_list(&r, body, bytes, out);
}

nef_err nef_s3_answer_objects(const void *body, size_t bytes, struct nef_s3_answer_list *out)
{
    struct reader r = {.root = "ListBucketResult",
                       .row = "Contents",
                       .take = take_object,
                       .item_bytes = sizeof(struct nef_s3_answer_object)};

    return read_list(&r, body, bytes, out);
}

nef_err nef_s3_answer_uploads(const void *body, size_t bytes, struct nef_s3_answer_list *out)
{
    struct reader r = {.root = "ListMultipartUploadsResult",
                       .row = "Upload",
                       .take = take_upload,
                       .item_bytes = sizeof(struct nef_s3_answer_upload)};

    return read_list(&r, body, bytes, out);
}
