/* Parsers of request bodies. One expat handler serves all three documents: it follows the path of
 * open elements, collects the text of the innermost one, and hands closed elements to the
 * document's function.
 *
 * Hostile input: a document type declaration is refused as soon as it begins (so there are no
 * entities but XML's five, and no expansion), the body is bounded by NEF_XML_BODY_MAX, depth by
 * DEPTH_MAX, the text of an element by TEXT_MAX, items by S3's own limits. Namespaces are split off
 * and not compared: S3 accepts bodies with and without its namespace, and old clients use others.
 */
#include "s3/xml.h"
#include <expat.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "s3/request_internal.h"

#define DEPTH_MAX   8u
#define ELEMENT_MAX 40u   /* no element of S3's bodies has a longer name */
#define TEXT_MAX    4096u /* a key has 1,024 bytes */
#define SEPARATOR   '|'

struct parse {
    XML_Parser parser;
    const char *root; /* name of the root element that is wanted */
    unsigned depth;
    char path[DEPTH_MAX][ELEMENT_MAX];
    char text[TEXT_MAX + 1];
    size_t text_bytes;
    nef_err err; /* first error; parsing stops */
    struct nef_s3_error *why;
    void (*open)(struct parse *p, const char *name); /* may be NULL */
    void (*close)(struct parse *p, const char *name, const char *text);
    void *document;
};

/* ---- expat ---- */

static void fail(struct parse *p, nef_err err)
{
    if (p->err != NEF_OK)
        return;
    p->err = err;
    (void)XML_StopParser(p->parser, XML_FALSE);
}

static void malformed(struct parse *p)
{
    fail(p, nef_s3_refuse(p->why, NEF_S3_MALFORMED_XML, NULL));
}

static void on_open(void *context, const XML_Char *full, const XML_Char **attributes)
{
    struct parse *p = (struct parse *)context;
    const char *bar = strrchr(full, SEPARATOR), *name = bar != NULL ? bar + 1 : full;
    size_t bytes = strlen(name);

    (void)attributes;
    if (p->err != NEF_OK)
        return;
    if (p->depth == DEPTH_MAX || bytes >= ELEMENT_MAX ||
        (p->depth == 0 && strcmp(name, p->root) != 0)) {
        malformed(p);
        return;
    }
    memcpy(p->path[p->depth++], name, bytes + 1);
    p->text_bytes = 0;
    if (p->open != NULL)
        p->open(p, name);
}

static void on_close(void *context, const XML_Char *full)
{
    struct parse *p = (struct parse *)context;

    (void)full;
    if (p->err != NEF_OK)
        return;
    p->text[p->text_bytes] = '\0';
    p->depth--;
    p->close(p, p->path[p->depth], p->text);
    p->text_bytes = 0;
}

static void on_text(void *context, const XML_Char *text, int bytes)
{
    struct parse *p = (struct parse *)context;

    if (p->err != NEF_OK)
        return;
    if ((size_t)bytes > TEXT_MAX - p->text_bytes) {
        malformed(p);
        return;
    }
    memcpy(p->text + p->text_bytes, text, (size_t)bytes);
    p->text_bytes += (size_t)bytes;
}

static void on_doctype(void *context, const XML_Char *name, const XML_Char *system_id,
                       const XML_Char *public_id, int has_internal_subset)
{
    (void)name, (void)system_id, (void)public_id, (void)has_internal_subset;
    malformed((struct parse *)context);
}

/* Is the element that is closing at DEPTH inside PARENT? */
static bool inside(const struct parse *p, unsigned depth, const char *parent)
{
    return p->depth == depth && strcmp(p->path[depth - 1], parent) == 0;
}

static nef_err run(struct parse *p, const void *body, size_t bytes)
{
    enum XML_Status status;

    if (bytes > NEF_XML_BODY_MAX) {
        nef_err err = nef_s3_refuse(p->why, NEF_S3_MAX_MESSAGE_LENGTH_EXCEEDED, NULL);

        nef_s3_error_extra_number(p->why, "MaxMessageLengthBytes", NEF_XML_BODY_MAX);
        return err;
    }
    p->parser = XML_ParserCreateNS(NULL, SEPARATOR);
    if (p->parser == NULL) {
        nef_s3_error_of(p->why, NEF_E_NOMEM);
        return NEF_E_NOMEM;
    }
    XML_SetUserData(p->parser, p);
    XML_SetElementHandler(p->parser, on_open, on_close);
    XML_SetCharacterDataHandler(p->parser, on_text);
    XML_SetStartDoctypeDeclHandler(p->parser, on_doctype);
    status = XML_Parse(p->parser, (const char *)body, (int)bytes, XML_TRUE);
    if (p->err == NEF_OK && status != XML_STATUS_OK) {
        if (XML_GetErrorCode(p->parser) == XML_ERROR_NO_MEMORY) {
            nef_s3_error_of(p->why, NEF_E_NOMEM);
            p->err = NEF_E_NOMEM;
        } else {
            p->err = nef_s3_refuse(p->why, NEF_S3_MALFORMED_XML, NULL);
        }
    }
    XML_ParserFree(p->parser);
    return p->err;
}

static void no_memory(struct parse *p)
{
    nef_s3_error_of(p->why, NEF_E_NOMEM);
    fail(p, NEF_E_NOMEM);
}

/* An array of COUNT items with room for one more, twice as large each time it is full. NULL: no
 * memory. */
static void *grown(void *items, size_t count, size_t item_bytes)
{
    if (count != 0 && (count & (count - 1)) != 0)
        return items; /* room until the next power of two */
    return realloc(items, (count == 0 ? 1 : count * 2) * item_bytes);
}

static const char *unquoted(const char *text, size_t *out_bytes)
{
    size_t bytes = strlen(text);

    if (bytes >= 2 && text[0] == '"' && text[bytes - 1] == '"') {
        text++;
        bytes -= 2;
    }
    *out_bytes = bytes;
    return text;
}

/* ---- CompleteMultipartUpload ---- */

struct complete {
    struct nef_s3_complete result;
    struct nef_s3_part_named part;
    bool has_etag;
};

static void complete_open(struct parse *p, const char *name)
{
    struct complete *c = (struct complete *)p->document;

    if (p->depth == 2 && strcmp(name, "Part") == 0) {
        c->part = (struct nef_s3_part_named){0};
        c->has_etag = false;
    }
}

static void complete_part(struct parse *p, struct complete *c)
{
    struct nef_s3_part_named *parts;

    if (c->part.number == 0 || !c->has_etag || c->result.part_count == NEF_PART_COUNT_MAX) {
        malformed(p);
        return;
    }
    parts =
        (struct nef_s3_part_named *)grown(c->result.parts, c->result.part_count, sizeof(c->part));
    if (parts == NULL) {
        no_memory(p);
        return;
    }
    c->result.parts = parts;
    parts[c->result.part_count++] = c->part;
}

static void complete_close(struct parse *p, const char *name, const char *text)
{
    struct complete *c = (struct complete *)p->document;
    int64_t number;
    size_t bytes;

    if (p->depth == 1 && strcmp(name, "Part") == 0) {
        complete_part(p, c);
        return;
    }
    if (!inside(p, 2, "Part"))
        return;
    if (strcmp(name, "PartNumber") == 0) {
        if (nef_s3_parse_number(text, &number) != NEF_OK || number < 1 ||
            number > NEF_PART_COUNT_MAX) {
            fail(p, nef_s3_refuse_argument(
                        p->why, "PartNumber", text,
                        "PartNumber must be an integer between 1 and 10000, inclusive"));
            return;
        }
        c->part.number = (unsigned)number;
    } else if (strcmp(name, "ETag") == 0) {
        text = unquoted(text, &bytes);
        if (bytes < sizeof(c->part.etag)) { /* a longer one is nobody's: "" matches no part */
            memcpy(c->part.etag, text, bytes);
            c->part.etag[bytes] = '\0';
        }
        c->has_etag = true;
    } else {
        for (unsigned kind = 1; kind < NEF_S3_CHECKSUM_KIND_COUNT; kind++)
            if (strcmp(name, nef_s3_checksum_element((enum nef_s3_checksum_kind)kind)) == 0 &&
                nef_s3_checksum_parse((enum nef_s3_checksum_kind)kind, text, false,
                                      &c->part.checksum) != NEF_OK)
                malformed(p);
    }
}

nef_err nef_s3_xml_parse_complete(const void *body, size_t bytes, struct nef_s3_complete *out,
                                  struct nef_s3_error *why)
{
    struct complete c = {0};
    struct parse p = {.root = "CompleteMultipartUpload",
                      .why = why,
                      .open = complete_open,
                      .close = complete_close,
                      .document = &c};
    nef_err err;

    if (bytes == 0)
        return nef_s3_refuse(why, NEF_S3_INVALID_REQUEST, "You must specify at least one part");
    err = run(&p, body, bytes);
    if (err == NEF_OK && c.result.part_count == 0)
        err = nef_s3_refuse(why, NEF_S3_MALFORMED_XML, NULL);
    if (err != NEF_OK) {
        nef_s3_complete_free(&c.result);
        return err;
    }
    *out = c.result;
    return NEF_OK;
}

void nef_s3_complete_free(struct nef_s3_complete *c)
{
    free(c->parts);
    *c = (struct nef_s3_complete){0};
}

/* ---- Delete ---- */

/* Texts go into one growing buffer, so items hold offsets until it no longer moves. */
struct delete_item {
    size_t key_at, key_bytes, etag_at;
    bool has_key, has_etag, bad_version;
};

struct delete_document {
    bool quiet;
    struct delete_item *items;
    size_t item_count;
    struct delete_item item;
    struct nef_buf memory;
};

static size_t keep(struct delete_document *d, const char *text, size_t bytes)
{
    size_t at = d->memory.bytes;

    if (bytes > 0)
        nef_buf_append(&d->memory, text, bytes);
    nef_buf_u8(&d->memory, 0);
    return at;
}

static void delete_open(struct parse *p, const char *name)
{
    struct delete_document *d = (struct delete_document *)p->document;

    if (p->depth == 2 && strcmp(name, "Object") == 0)
        d->item = (struct delete_item){0};
}

static void delete_object(struct parse *p, struct delete_document *d)
{
    struct delete_item *items;

    if (!d->item.has_key || d->item_count == NEF_DELETE_MAX) {
        malformed(p);
        return;
    }
    items = (struct delete_item *)grown(d->items, d->item_count, sizeof(d->item));
    if (items == NULL || d->memory.failed) {
        if (items != NULL)
            d->items = items;
        no_memory(p);
        return;
    }
    d->items = items;
    items[d->item_count++] = d->item;
}

static void delete_close(struct parse *p, const char *name, const char *text)
{
    struct delete_document *d = (struct delete_document *)p->document;
    size_t bytes;

    if (p->depth == 1 && strcmp(name, "Quiet") == 0) {
        d->quiet = strcmp(text, "true") == 0;
    } else if (p->depth == 1 && strcmp(name, "Object") == 0) {
        delete_object(p, d);
    } else if (inside(p, 2, "Object") && strcmp(name, "Key") == 0) {
        bytes = p->text_bytes;
        if (bytes == 0) {
            malformed(p);
            return;
        }
        if (bytes > NEF_OBJECT_KEY_MAX) {
            fail(p, nef_s3_refuse(p->why, NEF_S3_KEY_TOO_LONG, NULL));
            return;
        }
        d->item.key_at = keep(d, text, bytes);
        d->item.key_bytes = bytes;
        d->item.has_key = true;
    } else if (inside(p, 2, "Object") && strcmp(name, "VersionId") == 0) {
        d->item.bad_version = *text != '\0' && strcmp(text, "null") != 0;
    } else if (inside(p, 2, "Object") && strcmp(name, "ETag") == 0) {
        text = unquoted(text, &bytes);
        d->item.etag_at = keep(d, text, NEF_MIN(bytes, NEF_S3_ETAG_BYTES - 1));
        d->item.has_etag = true;
    } else if (inside(p, 2, "Object") &&
               (strcmp(name, "LastModifiedTime") == 0 || strcmp(name, "Size") == 0)) {
        /* conditions of directory buckets; ignoring them would delete what the client meant to keep
         */
        fail(p, nef_s3_refuse(p->why, NEF_S3_NOT_IMPLEMENTED,
                              "The conditions LastModifiedTime and Size are not implemented"));
    }
}

nef_err nef_s3_xml_parse_delete(const void *body, size_t bytes, struct nef_s3_delete *out,
                                struct nef_s3_error *why)
{
    struct delete_document d = {0};
    struct nef_s3_delete_item *items = NULL;
    struct parse p = {
        .root = "Delete", .why = why, .open = delete_open, .close = delete_close, .document = &d};
    nef_err err;

    if (bytes == 0)
        return nef_s3_refuse(why, NEF_S3_MISSING_REQUEST_BODY, NULL);
    err = run(&p, body, bytes);
    if (err == NEF_OK && d.item_count == 0)
        err = nef_s3_refuse(why, NEF_S3_MALFORMED_XML, NULL);
    if (err != NEF_OK)
        goto out;
    items = (struct nef_s3_delete_item *)calloc(d.item_count, sizeof(*items));
    if (items == NULL || d.memory.failed) {
        nef_s3_error_of(why, NEF_E_NOMEM);
        err = NEF_E_NOMEM;
        goto out;
    }
    for (size_t i = 0; i < d.item_count; i++) {
        const char *memory = (const char *)d.memory.data;

        items[i].object_key = memory + d.items[i].key_at;
        items[i].object_key_bytes = d.items[i].key_bytes;
        items[i].etag = d.items[i].has_etag ? memory + d.items[i].etag_at : NULL;
        items[i].bad_version = d.items[i].bad_version;
    }
    *out = (struct nef_s3_delete){
        .quiet = d.quiet, .items = items, .item_count = d.item_count, .memory = d.memory};
    items = NULL;
    d.memory = (struct nef_buf){0};
out:
    free(items);
    free(d.items);
    nef_buf_free(&d.memory);
    return err;
}

void nef_s3_delete_free(struct nef_s3_delete *d)
{
    free(d->items);
    nef_buf_free(&d->memory);
    *d = (struct nef_s3_delete){0};
}

/* ---- CreateBucketConfiguration ---- */

static void create_close(struct parse *p, const char *name, const char *text)
{
    const char *region = (const char *)p->document;

    if (p->depth == 1 && strcmp(name, "LocationConstraint") == 0) {
        if (*text == '\0' || strcmp(text, "us-east-1") == 0 || strcmp(text, region) == 0)
            return;
        fail(p,
             nef_s3_refuse(p->why, NEF_S3_ILLEGAL_LOCATION_CONSTRAINT,
                           "The %.64s location constraint is incompatible for the region specific "
                           "endpoint this request was sent to.",
                           text));
    } else if (p->depth == 1 && (strcmp(name, "Location") == 0 || strcmp(name, "Bucket") == 0)) {
        fail(p, nef_s3_refuse(p->why, NEF_S3_NOT_IMPLEMENTED,
                              "Directory buckets are not implemented"));
    } else if (inside(p, 2, "Tags")) {
        fail(p, nef_s3_refuse(p->why, NEF_S3_NOT_IMPLEMENTED, "Bucket tags are not implemented"));
    }
}

nef_err nef_s3_xml_parse_create_bucket(const void *body, size_t bytes, const char *region,
                                       struct nef_s3_error *why)
{
    struct parse p = {.root = "CreateBucketConfiguration",
                      .why = why,
                      .close = create_close,
                      .document = (void *)(uintptr_t)region};

    if (bytes == 0)
        return NEF_OK;
    return run(&p, body, bytes);
}
