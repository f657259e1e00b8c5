/* aws-chunked bodies; chunked.h has the grammar.
 *
 * States, in order of the wire; DATA gives spans, all others collect a line or skip fixed bytes:
 *
 *   SIZE --size > 0--> DATA --all--> DATA_CR --> DATA_LF --> SIZE
 *   SIZE --size 0, trailers--> TRAILER (a line each) --empty line--> DONE
 *   SIZE --size 0, none--> LAST (an empty line) --> DONE
 *
 * Each signature covers the one before, so a chunk can't be dropped, repeated or moved. The
 * signature of a chunk comes before its data and is kept until the data was hashed. Input after
 * DONE is refused. */
#include "s3/chunked.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "s3/sigv4_internal.h"

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define LINE_MAX     NEF_CHUNK_LINE_MAX

enum state { SIZE, DATA, DATA_CR, DATA_LF, LAST, TRAILER, DONE, FAILED };

struct nef_chunked {
    enum state state;
    bool is_signed;
    bool has_trailers;
    enum nef_s3_checksum_kind trailer;
    uint64_t decoded_bytes; /* promised */
    uint64_t given_bytes;
    uint64_t chunk_left;

    struct nef_sigv4_key key;
    char timestamp[17];
    char scope[128];
    char previous[65];     /* hex of the signature before */
    uint8_t expected[32];  /* signature the chunk's line carries */
    struct nef_hash *hash; /* of the chunk's data */

    char line[LINE_MAX];
    size_t line_bytes;
    size_t trailer_bytes; /* all lines so far */
    struct nef_s3_checksum_value checksum;
    char canonical[LINE_MAX * 2]; /* signed trailers: "name:value\n" of each */
    size_t canonical_bytes;
    bool trailer_verified;
};

nef_err nef_chunked_new(const struct nef_sigv4 *auth, const struct nef_sigv4_key *key,
                        uint64_t decoded_bytes, enum nef_s3_checksum_kind trailer,
                        struct nef_chunked **out_chunked)
{
    struct nef_chunked *c = (struct nef_chunked *)calloc(1, sizeof(*c));

    if (c == NULL)
        return NEF_E_NOMEM;
    c->is_signed = auth->payload == NEF_S3_PAYLOAD_STREAMING_SIGNED ||
                   auth->payload == NEF_S3_PAYLOAD_STREAMING_SIGNED_TRAILER;
    c->has_trailers = auth->payload != NEF_S3_PAYLOAD_STREAMING_SIGNED;
    NEF_ASSERT(c->is_signed || auth->payload == NEF_S3_PAYLOAD_STREAMING_UNSIGNED_TRAILER);
    c->trailer = c->has_trailers ? trailer : NEF_S3_CHECKSUM_NONE;
    c->decoded_bytes = decoded_bytes;
    if (c->is_signed) {
        c->hash = nef_hash_new(NEF_HASH_SHA256);
        if (c->hash == NULL) {
            free(c);
            return NEF_E_NOMEM;
        }
        c->key = *key;
        memcpy(c->timestamp, auth->timestamp, sizeof(c->timestamp));
        (void)snprintf(c->scope, sizeof(c->scope), "%s/%s/s3/aws4_request", auth->date,
                       auth->region);
        nef_hex(auth->signature, sizeof(auth->signature), c->previous);
    }
    *out_chunked = c;
    return NEF_OK;
}

void nef_chunked_free(struct nef_chunked *c)
{
    if (c == NULL)
        return;
    if (c->hash != NULL)
        nef_hash_free(c->hash);
    nef_wipe(c, sizeof(*c));
    free(c);
}

/* ---- refusals ---- */

static nef_err malformed_chunk(struct nef_s3_error *why)
{
    return nef_s3_refuse(why, NEF_S3_INVALID_REQUEST,
                         "The request body is not well-formed aws-chunked data.");
}

static nef_err malformed_trailer(struct nef_s3_error *why)
{
    return nef_s3_refuse(why, NEF_S3_MALFORMED_TRAILER, NULL);
}

static nef_err incomplete(const struct nef_chunked *c, struct nef_s3_error *why)
{
    nef_err err = nef_s3_refuse(why, NEF_S3_INCOMPLETE_BODY,
                                "You did not provide the number of bytes specified by the "
                                "x-amz-decoded-content-length HTTP header");

    nef_s3_error_extra_number(why, "NumberBytesExpected", c->decoded_bytes);
    nef_s3_error_extra_number(why, "NumberBytesProvided", c->given_bytes);
    return err;
}

/* ---- signatures ---- */

/* Does EXPECTED sign DIGEST_HEX as what follows the previous signature? middle: the line of the
 * empty hash, for chunks; "" for trailers. */
static nef_err verify(struct nef_chunked *c, const char *algorithm, const char *middle,
                      const uint8_t digest[32], struct nef_s3_error *why)
{
    char digest_hex[65], text[512];
    uint8_t computed[32];
    int n;

    nef_hex(digest, 32, digest_hex);
    n = snprintf(text, sizeof(text), "%s\n%s\n%s\n%s\n%s%s", algorithm, c->timestamp, c->scope,
                 c->previous, middle, digest_hex);
    NEF_ASSERT(n > 0 && (size_t)n < sizeof(text));
    nef_hmac_sha256(c->key.bytes, sizeof(c->key.bytes), text, (size_t)n, computed);
    if (!nef_equal_ct(computed, c->expected, sizeof(computed)))
        return nef_s3_refuse(why, NEF_S3_SIGNATURE_DOES_NOT_MATCH, NULL);
    nef_hex(computed, sizeof(computed), c->previous);
    return NEF_OK;
}

static nef_err verify_chunk(struct nef_chunked *c, struct nef_s3_error *why)
{
    uint8_t digest[32];

    if (!c->is_signed)
        return NEF_OK;
    nef_hash_final(c->hash, digest);
    nef_hash_reset(c->hash);
    return verify(c, "AWS4-HMAC-SHA256-PAYLOAD", EMPTY_SHA256 "\n", digest, why);
}

/* ---- lines ---- */

/* "10000;chunk-signature=<64 hex>" */
static nef_err size_line(struct nef_chunked *c, struct nef_s3_error *why)
{
    static const char extension[] = ";chunk-signature=";
    uint64_t size = 0;
    const char *p = c->line;

    while (*p == '0') /* any number of leading zeros */
        p++;
    for (unsigned digits = 0;; p++, digits++) {
        unsigned v;

        if (*p >= '0' && *p <= '9')
            v = (unsigned)(*p - '0');
        else if (*p >= 'a' && *p <= 'f')
            v = (unsigned)(*p - 'a') + 10;
        else if (*p >= 'A' && *p <= 'F')
            v = (unsigned)(*p - 'A') + 10;
        else
            break;
        if (digits == 15)
            return malformed_chunk(why);
        size = size << 4 | v;
    }
    if (p == c->line)
        return malformed_chunk(why);
    if (c->is_signed) {
        if (strncmp(p, extension, sizeof(extension) - 1) != 0 ||
            strlen(p) != sizeof(extension) - 1 + 64 ||
            nef_unhex(p + sizeof(extension) - 1, 64, c->expected, 32) != NEF_OK)
            return malformed_chunk(why);
    } else if (*p != '\0' && *p != ';' && *p != ' ' && *p != '\t') {
        return malformed_chunk(why); /* other extensions are allowed and mean nothing */
    }
    if (size > c->decoded_bytes - c->given_bytes)
        return incomplete(c, why);
    c->chunk_left = size;
    if (size > 0) {
        c->state = DATA;
        return NEF_OK;
    }
    c->state = c->has_trailers ? TRAILER : LAST;
    return verify_chunk(c, why);
}

static nef_err signature_trailer(struct nef_chunked *c, const char *value, struct nef_s3_error *why)
{
    uint8_t digest[32];
    nef_err err;

    if (!c->is_signed || c->trailer_verified || strlen(value) != 64 ||
        nef_unhex(value, 64, c->expected, 32) != NEF_OK)
        return malformed_trailer(why);
    nef_hash_of(NEF_HASH_SHA256, c->canonical, c->canonical_bytes, digest);
    err = verify(c, "AWS4-HMAC-SHA256-TRAILER", "", digest, why);
    if (err == NEF_OK)
        c->trailer_verified = true;
    return err;
}

static nef_err trailer_line(struct nef_chunked *c, struct nef_s3_error *why)
{
    char *colon = strchr(c->line, ':'), *value, *end;
    enum nef_s3_checksum_kind kind;
    int n;

    if (c->line[0] == '\0') {
        c->state = DONE;
        return NEF_OK;
    }
    c->trailer_bytes += c->line_bytes;
    if (colon == NULL || colon == c->line || c->trailer_bytes > NEF_TRAILERS_MAX)
        return malformed_trailer(why);
    *colon = '\0';
    value = colon + 1 + strspn(colon + 1, " \t");
    end = value + strlen(value);
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = '\0';
    if (strcasecmp(c->line, "x-amz-trailer-signature") == 0)
        return signature_trailer(c, value, why);
    kind = nef_s3_checksum_by_header(c->line);
    /* only what x-amz-trailer announced, once, and before the signature over it */
    if (kind == NEF_S3_CHECKSUM_NONE || kind != c->trailer || c->trailer_verified ||
        c->checksum.kind != NEF_S3_CHECKSUM_NONE)
        return malformed_trailer(why);
    if (nef_s3_checksum_parse(kind, value, false, &c->checksum) != NEF_OK)
        return nef_s3_refuse(why, NEF_S3_INVALID_REQUEST,
                             "Value for %s trailing header is invalid.",
                             nef_s3_checksum_header(kind));
    n = snprintf(c->canonical + c->canonical_bytes, sizeof(c->canonical) - c->canonical_bytes,
                 "%s:%s\n", nef_s3_checksum_header(kind), value);
    NEF_ASSERT(n > 0 && (size_t)n < sizeof(c->canonical) - c->canonical_bytes);
    c->canonical_bytes += (size_t)n;
    return NEF_OK;
}

static nef_err whole_line(struct nef_chunked *c, struct nef_s3_error *why)
{
    nef_err err;

    if (c->line_bytes > 0 && c->line[c->line_bytes - 1] == '\r')
        c->line_bytes--; /* a bare LF ends a line too: documented examples of trailers have it */
    if (memchr(c->line, '\0', c->line_bytes) != NULL)
        return c->state == TRAILER ? malformed_trailer(why) : malformed_chunk(why);
    c->line[c->line_bytes] = '\0';
    if (c->state == SIZE) {
        err = size_line(c, why);
    } else if (c->state == TRAILER) {
        err = trailer_line(c, why);
    } else {
        NEF_ASSERT(c->state == LAST);
        err = c->line_bytes == 0 ? NEF_OK : malformed_chunk(why);
        c->state = DONE;
    }
    c->line_bytes = 0;
    return err;
}

/* Takes input up to the end of the line. */
static nef_err collect_line(struct nef_chunked *c, const uint8_t *input, size_t bytes,
                            size_t *out_used, struct nef_s3_error *why)
{
    const uint8_t *newline = memchr(input, '\n', bytes);
    size_t n = newline != NULL ? (size_t)(newline - input) : bytes;

    if (n > sizeof(c->line) - 1 - c->line_bytes)
        return c->state == TRAILER ? malformed_trailer(why) : malformed_chunk(why);
    memcpy(c->line + c->line_bytes, input, n);
    c->line_bytes += n;
    *out_used = n + (newline != NULL ? 1 : 0);
    return newline != NULL ? whole_line(c, why) : NEF_OK;
}

/* ---- the machine ---- */

static nef_err step(struct nef_chunked *c, const uint8_t *input, size_t bytes, size_t *used,
                    const uint8_t **data, size_t *data_bytes, struct nef_s3_error *why)
{
    switch (c->state) {
    case SIZE:
    case LAST:
    case TRAILER:
        return collect_line(c, input, bytes, used, why);
    case DATA:
        *used = bytes < c->chunk_left ? bytes : (size_t)c->chunk_left;
        *data = input;
        *data_bytes = *used;
        if (c->is_signed)
            nef_hash_update(c->hash, input, *used);
        c->chunk_left -= *used;
        c->given_bytes += *used;
        if (c->chunk_left > 0)
            return NEF_OK;
        c->state = DATA_CR;
        return verify_chunk(c, why);
    case DATA_CR:
    case DATA_LF:
        if (*input != (c->state == DATA_CR ? '\r' : '\n'))
            return malformed_chunk(why);
        c->state = c->state == DATA_CR ? DATA_LF : SIZE;
        *used = 1;
        return NEF_OK;
    case DONE: /* more than was promised */
        return c->has_trailers ? malformed_trailer(why) : malformed_chunk(why);
    case FAILED:
        break;
    }
    nef_assert_fail(__FILE__, __LINE__, "no step after an error");
}

nef_err nef_chunked_step(struct nef_chunked *c, const uint8_t *input, size_t bytes,
                         size_t *out_used, const uint8_t **out_data, size_t *out_data_bytes,
                         struct nef_s3_error *why)
{
    const uint8_t *data = NULL;
    size_t used = 0, data_bytes = 0;
    nef_err err;

    if (bytes == 0) {
        *out_used = 0;
        *out_data = NULL;
        *out_data_bytes = 0;
        return NEF_OK;
    }
    err = step(c, input, bytes, &used, &data, &data_bytes, why);
    if (err != NEF_OK) {
        c->state = FAILED;
        return err;
    }
    *out_used = used;
    *out_data = data;
    *out_data_bytes = data_bytes;
    return NEF_OK;
}

nef_err nef_chunked_end(struct nef_chunked *c, struct nef_s3_checksum_value *out_checksum,
                        struct nef_s3_error *why)
{
    if (c->given_bytes != c->decoded_bytes)
        return incomplete(c, why);
    if (c->state != DONE)
        return nef_s3_refuse(why, NEF_S3_INCOMPLETE_BODY,
                             "The request body ended before its last chunk.");
    if (c->trailer != NEF_S3_CHECKSUM_NONE && c->checksum.kind == NEF_S3_CHECKSUM_NONE)
        return malformed_trailer(why); /* announced and not sent */
    if (c->is_signed && c->has_trailers && !c->trailer_verified)
        return malformed_trailer(why);
    *out_checksum = c->checksum;
    return NEF_OK;
}
