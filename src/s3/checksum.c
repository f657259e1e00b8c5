/* Checksums by kind; checksum.h says what they are, crc.c computes the CRCs. */
#include "s3/checksum.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "crypto/crypto.h"

static const struct {
    const char *name, *header, *element;
    size_t bytes;
} table[NEF_S3_CHECKSUM_KIND_COUNT] = {
    [NEF_S3_CHECKSUM_CRC32] = {"CRC32", "x-amz-checksum-crc32", "ChecksumCRC32", 4},
    [NEF_S3_CHECKSUM_CRC32C] = {"CRC32C", "x-amz-checksum-crc32c", "ChecksumCRC32C", 4},
    [NEF_S3_CHECKSUM_CRC64NVME] = {"CRC64NVME", "x-amz-checksum-crc64nvme", "ChecksumCRC64NVME", 8},
    [NEF_S3_CHECKSUM_SHA1] = {"SHA1", "x-amz-checksum-sha1", "ChecksumSHA1", 20},
    [NEF_S3_CHECKSUM_SHA256] = {"SHA256", "x-amz-checksum-sha256", "ChecksumSHA256", 32},
};

const char *nef_s3_checksum_name(enum nef_s3_checksum_kind kind)
{
    return table[kind].name;
}

const char *nef_s3_checksum_header(enum nef_s3_checksum_kind kind)
{
    return table[kind].header;
}

const char *nef_s3_checksum_element(enum nef_s3_checksum_kind kind)
{
    return table[kind].element;
}

size_t nef_s3_checksum_bytes(enum nef_s3_checksum_kind kind)
{
    return table[kind].bytes;
}

const char *nef_s3_checksum_type_name(enum nef_s3_checksum_type type)
{
    static const char *const names[] = {NULL, "FULL_OBJECT", "COMPOSITE"};

    return names[type];
}

enum nef_s3_checksum_kind nef_s3_checksum_by_name(const char *name)
{
    for (unsigned i = 1; i < NEF_S3_CHECKSUM_KIND_COUNT; i++)
        if (strcasecmp(name, table[i].name) == 0)
            return (enum nef_s3_checksum_kind)i;
    return NEF_S3_CHECKSUM_NONE;
}

enum nef_s3_checksum_kind nef_s3_checksum_by_header(const char *header)
{
    for (unsigned i = 1; i < NEF_S3_CHECKSUM_KIND_COUNT; i++)
        if (strcasecmp(header, table[i].header) == 0)
            return (enum nef_s3_checksum_kind)i;
    return NEF_S3_CHECKSUM_NONE;
}

/* ---- incremental ---- */

nef_err nef_s3_checksum_begin(struct nef_s3_checksum *c, enum nef_s3_checksum_kind kind)
{
    struct nef_hash *hash = NULL;

    if (kind == NEF_S3_CHECKSUM_SHA1 || kind == NEF_S3_CHECKSUM_SHA256) {
        hash = nef_hash_new(kind == NEF_S3_CHECKSUM_SHA1 ? NEF_HASH_SHA1 : NEF_HASH_SHA256);
        if (hash == NULL)
            return NEF_E_NOMEM;
    }
    *c = (struct nef_s3_checksum){.kind = kind, .crc = 0, .hash = hash};
    return NEF_OK;
}

void nef_s3_checksum_update(struct nef_s3_checksum *c, const void *data, size_t bytes)
{
    switch (c->kind) {
    case NEF_S3_CHECKSUM_NONE:
        break;
    case NEF_S3_CHECKSUM_CRC32:
        c->crc = nef_crc32((uint32_t)c->crc, data, bytes);
        break;
    case NEF_S3_CHECKSUM_CRC32C:
        c->crc = nef_crc32c((uint32_t)c->crc, data, bytes);
        break;
    case NEF_S3_CHECKSUM_CRC64NVME:
        c->crc = nef_crc64nvme(c->crc, data, bytes);
        break;
    case NEF_S3_CHECKSUM_SHA1:
    case NEF_S3_CHECKSUM_SHA256:
        nef_hash_update(c->hash, data, bytes);
        break;
    }
}

static void put_crc(enum nef_s3_checksum_kind kind, uint64_t crc, uint8_t *out)
{
    if (kind == NEF_S3_CHECKSUM_CRC64NVME)
        nef_put_be64(out, crc);
    else
        nef_put_be32(out, (uint32_t)crc);
}

void nef_s3_checksum_end(struct nef_s3_checksum *c, struct nef_s3_checksum_value *out)
{
    *out = (struct nef_s3_checksum_value){.kind = c->kind};
    if (c->kind == NEF_S3_CHECKSUM_NONE)
        return;
    out->type = NEF_S3_CHECKSUM_FULL_OBJECT;
    if (c->hash != NULL)
        nef_hash_final(c->hash, out->bytes);
    else
        put_crc(c->kind, c->crc, out->bytes);
}

void nef_s3_checksum_free(struct nef_s3_checksum *c)
{
    if (c->hash != NULL)
        nef_hash_free(c->hash);
    *c = (struct nef_s3_checksum){0};
}

/* ---- text ---- */

void nef_s3_checksum_text(const struct nef_s3_checksum_value *v, char *out)
{
    size_t bytes = table[v->kind].bytes, at = nef_base64_size(bytes);

    nef_base64(v->bytes, bytes, out);
    if (v->type == NEF_S3_CHECKSUM_COMPOSITE)
        (void)snprintf(out + at, NEF_S3_CHECKSUM_TEXT_MAX - at, "-%u", (unsigned)v->parts);
}

nef_err nef_s3_checksum_parse(enum nef_s3_checksum_kind kind, const char *text,
                              bool allow_composite, struct nef_s3_checksum_value *out)
{
    struct nef_s3_checksum_value v = {.kind = kind, .type = NEF_S3_CHECKSUM_FULL_OBJECT};
    const char *dash = strchr(text, '-');
    size_t characters = dash != NULL ? (size_t)(dash - text) : strlen(text), bytes;

    if (kind == NEF_S3_CHECKSUM_NONE || (dash != NULL && !allow_composite))
        return NEF_E_INVALID;
    if (nef_unbase64(text, characters, v.bytes, sizeof(v.bytes), &bytes) != NEF_OK ||
        bytes != table[kind].bytes)
        return NEF_E_INVALID;
    if (dash != NULL) {
        const char *p = dash + 1;

        if (*p < '1' || *p > '9')
            return NEF_E_INVALID;
        while (*p >= '0' && *p <= '9' && v.parts <= NEF_PART_COUNT_MAX)
            v.parts = v.parts * 10 + (uint32_t)(*p++ - '0');
        if (*p != '\0' || v.parts > NEF_PART_COUNT_MAX)
            return NEF_E_INVALID;
        v.type = NEF_S3_CHECKSUM_COMPOSITE;
    }
    *out = v;
    return NEF_OK;
}

bool nef_s3_checksum_equal(const struct nef_s3_checksum_value *a,
                           const struct nef_s3_checksum_value *b)
{
    return a->kind == b->kind && a->type == b->type && a->parts == b->parts &&
           memcmp(a->bytes, b->bytes, table[a->kind].bytes) == 0;
}

/* ---- multipart ---- */

nef_err nef_s3_checksum_multipart_type(enum nef_s3_checksum_kind kind,
                                       enum nef_s3_checksum_type asked,
                                       enum nef_s3_checksum_type *out_type)
{
    bool sha = kind == NEF_S3_CHECKSUM_SHA1 || kind == NEF_S3_CHECKSUM_SHA256;

    if (kind == NEF_S3_CHECKSUM_NONE) {
        if (asked != NEF_S3_CHECKSUM_TYPE_NONE)
            return NEF_E_UNSUPPORTED;
        *out_type = NEF_S3_CHECKSUM_TYPE_NONE;
    } else if (asked == NEF_S3_CHECKSUM_TYPE_NONE) {
        *out_type = kind == NEF_S3_CHECKSUM_CRC64NVME ? NEF_S3_CHECKSUM_FULL_OBJECT
                                                      : NEF_S3_CHECKSUM_COMPOSITE;
    } else if ((asked == NEF_S3_CHECKSUM_COMPOSITE && kind == NEF_S3_CHECKSUM_CRC64NVME) ||
               (asked == NEF_S3_CHECKSUM_FULL_OBJECT && sha)) {
        return NEF_E_UNSUPPORTED;
    } else {
        *out_type = asked;
    }
    return NEF_OK;
}

nef_err nef_s3_checksum_combine_begin(struct nef_s3_checksum_combiner *c,
                                      enum nef_s3_checksum_kind kind,
                                      enum nef_s3_checksum_type type)
{
    struct nef_s3_checksum composite;
    nef_err err = nef_s3_checksum_begin(&composite, kind);

    if (err != NEF_OK)
        return err;
    *c = (struct nef_s3_checksum_combiner){.type = type, .composite = composite};
    return NEF_OK;
}

void nef_s3_checksum_combine_part(struct nef_s3_checksum_combiner *c,
                                  const struct nef_s3_checksum_value *part, uint64_t part_bytes)
{
    enum nef_s3_checksum_kind kind = c->composite.kind;

    NEF_ASSERT(part->kind == kind);
    c->parts++;
    if (kind == NEF_S3_CHECKSUM_NONE)
        return;
    if (c->type == NEF_S3_CHECKSUM_COMPOSITE) {
        nef_s3_checksum_update(&c->composite, part->bytes, table[kind].bytes);
        return;
    }
    c->crc = nef_crc_combine(kind, c->crc,
                             kind == NEF_S3_CHECKSUM_CRC64NVME ? nef_get_be64(part->bytes)
                                                               : nef_get_be32(part->bytes),
                             part_bytes);
}

void nef_s3_checksum_combine_end(struct nef_s3_checksum_combiner *c,
                                 struct nef_s3_checksum_value *out)
{
    nef_s3_checksum_end(&c->composite, out);
    out->type = c->type;
    if (c->type == NEF_S3_CHECKSUM_COMPOSITE)
        out->parts = c->parts;
    else if (out->kind != NEF_S3_CHECKSUM_NONE)
        put_crc(out->kind, c->crc, out->bytes);
}

void nef_s3_checksum_combine_free(struct nef_s3_checksum_combiner *c)
{
    nef_s3_checksum_free(&c->composite);
    *c = (struct nef_s3_checksum_combiner){0};
}
